//! Repair of entries: what peers are told of them, what is taken for a lost one, dropping them, and what becomes of a repair.

use super::*;

#[test]
fn what_peers_are_told() {
    let disk = ten();
    flip(&disk, 3);
    let mut stepped = Stepped::open(&disk, small()).unwrap();
    let log = stepped.log.clone();
    let held = |index, term| log.held(1, index, term).unwrap();
    assert_eq!(held(2, Some(1)), Held::Intact(record(2, 1, payload(2, 1, 1_000))));
    assert_eq!(held(2, None), Held::Intact(record(2, 1, payload(2, 1, 1_000))));
    assert_eq!(held(2, Some(2)), Held::Absent, "another term is there");
    assert_eq!(held(3, Some(1)), Held::Faulty);
    assert_eq!(held(3, None), Held::Faulty);
    assert_eq!(held(3, Some(2)), Held::Absent, "the table says that it was of term 1");
    assert_eq!(held(10, Some(1)), Held::Absent, "the log is known to end before");
    assert_eq!(log.held(9, 0, None).unwrap(), Held::Absent);
    log.purge(1, point(1, 1), ignore()).unwrap();
    stepped.settle();
    assert_eq!(held(1, Some(1)), Held::Purged);
    assert_eq!(log.damaged_groups(), vec![1]);
    drop(stepped);

    // The end is lost: nothing can be said of what may have been there.
    let disk = ten();
    let last = batches(&disk)[5].clone();
    disk.damage(1, |bytes| bytes[last.block as usize * BLOCK_BYTES..].fill(0x55));
    let stepped = Stepped::open(&disk, small()).unwrap();
    assert_eq!(stepped.log.held(1, 7, Some(1)).unwrap(), Held::Intact(record(7, 1, payload(7, 1, 1_000))));
    assert_eq!(stepped.log.held(1, 8, Some(1)).unwrap(), Held::Faulty);
    assert_eq!(stepped.log.held(1, 100, None).unwrap(), Held::Faulty);
    assert_eq!(stepped.log.held(9, 0, None).unwrap(), Held::Faulty, "another group may have been there");
}

#[test]
fn only_the_lost_entry_is_taken_for_it() {
    let disk = ten();
    flip(&disk, 3);
    let mut stepped = Stepped::open(&disk, small()).unwrap();
    let log = stepped.log.clone();
    let other = |field| Err(LogError::NotTheLostEntry { group: 1, index: 3, field });
    let right = record(3, 1, payload(3, 1, 1_000));
    assert_eq!(log.restore(1, record(3, 2, payload(3, 2, 1_000)), ignore()), other("term"));
    assert_eq!(log.restore(1, record(3, 1, "something else"), ignore()), other("payload"));
    let intact = record(4, 1, payload(4, 1, 1_000));
    assert_eq!(log.restore(1, intact, ignore()), Err(LogError::NotLost { group: 1, index: 4 }));
    assert_eq!(log.restore(2, right.clone(), ignore()), Err(LogError::NoSuchGroup { group: 2 }));
    log.restore(1, right.clone(), stepped.note(1)).unwrap();
    assert!(log.is_damaged(1), "not before it is durable");
    assert_eq!(log.read(1, 3..4, 9_999), Err(LogError::Rot { group: 1, index: 3 }));
    stepped.settle();
    assert_eq!(*stepped.outcomes.lock().unwrap(), vec![(1, true)]);
    assert_eq!(log.lost(1), vec![]);
    assert_eq!(log.read(1, 3..4, 9_999).unwrap(), vec![right.clone()]);
    assert_eq!(log.restore(1, right, ignore()), Err(LogError::NotLost { group: 1, index: 3 }));
    drop((stepped, log));
    let again = Stepped::open(&disk, small()).unwrap();
    assert_eq!(all(&again.log, 1).unwrap(), records(0..10, 1, 1_000));
    assert!(again.report.findings.iter().any(|finding| finding.verdict.is_rot()), "the rot is still there");
    assert!(again.report.quarantined.is_empty(), "and does no more harm");
}

#[test]
fn a_restored_entry_that_rots_is_lost_again() {
    let disk = ten();
    flip(&disk, 3);
    let mut stepped = Stepped::open(&disk, small()).unwrap();
    stepped.log.restore(1, record(3, 1, payload(3, 1, 1_000)), ignore()).unwrap();
    stepped.confirm();
    drop(stepped);
    flip(&disk, 3);
    let stepped = Stepped::open(&disk, small()).unwrap();
    let crc = crc32fast::hash(&payload(3, 1, 1_000));
    let lost = LostRecord::Entry { index: 3, term: Some(1), payload_crc: Some(crc) };
    assert_eq!(stepped.log.lost(1), vec![lost]);
}

/// Rot takes the batch of entries 4 and 5; then everything from a point on is dropped.
fn discard(kept: Option<LogPoint>, expected: &[LogRecord]) {
    let disk = ten();
    let lost = batches(&disk)[3].clone();
    fill(&disk, &lost, 0..lost.blocks, 0xff);
    let mut stepped = Stepped::open(&disk, small()).unwrap();
    assert!(stepped.log.is_damaged(1));
    stepped.log.truncate_after(1, kept, stepped.note(1)).unwrap();
    stepped.settle();
    assert_eq!(*stepped.outcomes.lock().unwrap(), vec![(1, true)]);
    for _ in 0..2 {
        for entry in stepped.log.lost(1) {
            // What is kept and may have been replaced in the lost batch.
            let LostRecord::Entry { index, .. } = entry else { panic!("{entry:?}") };
            assert!(kept.is_some_and(|kept| index <= kept.index), "{entry:?} is dropped");
        }
        drop(stepped);
        stepped = Stepped::open(&disk, small()).unwrap();
    }
    for entry in stepped.log.lost(1) {
        let LostRecord::Entry { index, .. } = entry else { panic!("{entry:?}") };
        stepped.log.restore(1, record(index, 1, payload(index, 1, 1_000)), ignore()).unwrap();
        stepped.settle();
    }
    assert_eq!(all(&stepped.log, 1).unwrap(), expected);
    let next = kept.map_or(0, |kept| kept.index + 1);
    stepped.log.append(1, records(next..next + 2, 5, 10), ignore()).unwrap();
    stepped.confirm();
    drop(stepped);
    let again = Stepped::open(&disk, small()).unwrap();
    assert!(again.report.quarantined.is_empty(), "{kept:?}: {:?}", again.report);
    assert_eq!(all(&again.log, 1).unwrap().len(), expected.len() + 2);
}

#[test]
fn lost_entries_are_dropped_for_good() {
    let whole = |count: u64| records(0..count, 1, 1_000);
    discard(Some(point(3, 1)), &whole(4));
    discard(Some(point(2, 1)), &whole(3));
    discard(None, &[]);
    // The last one kept is itself lost, with a term that nobody knew, or that the caller knows.
    discard(Some(point(4, u64::MAX)), &whole(5));
    discard(Some(point(4, 1)), &whole(5));
    let disk = ten();
    let stepped = Stepped::open(&disk, small()).unwrap();
    let refused = stepped.log.truncate_after(1, Some(point(4, u64::MAX)), ignore());
    assert_eq!(refused, Err(LogError::NoSuchPoint { group: 1, point: point(4, u64::MAX) }), "it is known");
}

#[test]
fn nothing_follows_an_entry_whose_term_is_lost() {
    let disk = ten();
    let lost = batches(&disk)[3].clone();
    fill(&disk, &lost, 0..lost.blocks, 0xff);
    let mut stepped = Stepped::open(&disk, small()).unwrap();
    stepped.log.truncate_after(1, Some(point(4, u64::MAX)), ignore()).unwrap();
    let refused = stepped.log.append(1, records(5..6, 1, 10), ignore());
    assert_eq!(refused, Err(LogError::TermLost { group: 1, index: 4 }));
    stepped.settle();
    drop(stepped);
    let mut stepped = Stepped::open(&disk, small()).unwrap();
    let lost = LostRecord::Entry { index: 4, term: None, payload_crc: None };
    assert!(stepped.log.lost(1).contains(&lost), "{:?}", stepped.log.lost(1));
    stepped.log.restore(1, record(4, 1, payload(4, 1, 1_000)), ignore()).unwrap();
    stepped.settle();
    stepped.log.append(1, records(5..6, 1, 10), ignore()).unwrap();
    stepped.settle();
    assert_eq!(stepped.log.state(1).last, Some(point(5, 1)));
}

#[test]
fn repairs_outlive_the_segment_that_rotted() {
    for (first, purged) in [(0, None), (1, None), (1, Some(point(2, 1)))] {
        let disk = SimDisk::new(8);
        let mut stepped = Stepped::open(&disk, small()).unwrap();
        stepped.log.append(1, records(first..20, 1, 4_000), ignore()).unwrap();
        stepped.settle();
        let mut next = 20;
        while stepped.log.stats().segments < 3 {
            stepped.log.append(1, records(next..next + 1, 2, 4_000), ignore()).unwrap();
            stepped.settle();
            next += 1;
        }
        if let Some(purged) = purged {
            stepped.log.purge(1, purged, ignore()).unwrap();
        }
        stepped.confirm();
        let expected = all(&stepped.log, 1).unwrap();
        drop(stepped);
        let disk = disk.power_loss(1, PowerLoss::LosesAll);
        // Every payload of the first segment.
        for batch in batches(&disk).iter().filter(|header| header.segment == 1 && header.records > 0) {
            let (start, end) = (batch.block as usize * BLOCK_BYTES, content_bytes(batch));
            let payloads = start + end - batch.payload_bytes as usize..start + end;
            disk.damage(1, |bytes| bytes[payloads].iter_mut().for_each(|byte| *byte ^= 0x21));
        }
        let mut stepped = Stepped::open(&disk, small()).unwrap();
        let lost = stepped.log.lost(1);
        assert!(lost.len() > 15, "{lost:?}");
        for lost in lost.into_iter().rev() {
            let LostRecord::Entry { index, .. } = lost else { panic!("{lost:?}") };
            let entry = expected.iter().find(|entry| entry.index == index).unwrap().clone();
            stepped.log.restore(1, entry, ignore()).unwrap();
        }
        stepped.confirm();
        for _ in 0..4 {
            stepped.log.append(1, vec![], ignore()).unwrap();
            stepped.log.save_vote(1, Bytes::from_static(b"x"), ignore()).unwrap();
            stepped.confirm();
        }
        let may_go = first == 0 || purged.is_some();
        assert_eq!(disk.image(1).is_none(), may_go, "first {first}, purged {purged:?}");
        assert_eq!(all(&stepped.log, 1).unwrap(), expected);
        drop(stepped);
        let mut stepped = Stepped::open(&disk, small()).unwrap();
        assert!(stepped.report.quarantined.is_empty(), "first {first}, {purged:?}: {:?}", stepped.report);
        assert_eq!(all(&stepped.log, 1).unwrap(), expected);
        // And when they are purged, their segment can go.
        let last = stepped.log.state(1).last.unwrap();
        stepped.log.purge(1, last, ignore()).unwrap();
        stepped.confirm();
        stepped.confirm();
        assert!(stepped.log.stats().segments <= 2, "{:?}", stepped.log.stats());
    }
}

#[test]
fn a_repair_gives_way_to_what_comes_after_it() {
    let disk = ten();
    flip(&disk, 5);
    let mut stepped = Stepped::open(&disk, small()).unwrap();
    let log = stepped.log.clone();
    // All in one batch, then once more with the repair in flight.
    log.restore(1, record(5, 1, payload(5, 1, 1_000)), stepped.note(1)).unwrap();
    log.truncate_after(1, Some(point(4, 1)), stepped.note(2)).unwrap();
    log.append(1, records(5..8, 3, 700), stepped.note(3)).unwrap();
    stepped.settle();
    assert_eq!(*stepped.outcomes.lock().unwrap(), vec![(1, true), (2, true), (3, true)]);
    let mut expected = records(0..5, 1, 1_000);
    expected.extend(records(5..8, 3, 700));
    assert_eq!(all(&log, 1).unwrap(), expected);
    assert!(!log.is_damaged(1));
    drop((log, stepped));
    flip(&disk, 6);
    let mut stepped = Stepped::open(&disk, small()).unwrap();
    let log = stepped.log.clone();
    log.restore(1, record(6, 3, payload(6, 3, 700)), stepped.note(1)).unwrap();
    stepped.step();
    log.truncate_after(1, Some(point(5, 3)), stepped.note(2)).unwrap();
    log.append(1, records(6..9, 4, 500), stepped.note(3)).unwrap();
    stepped.settle();
    expected.truncate(6);
    expected.extend(records(6..9, 4, 500));
    assert_eq!(all(&log, 1).unwrap(), expected);
    stepped.confirm();
    drop((log, stepped));
    let again = Stepped::open(&disk, small()).unwrap();
    assert!(again.report.quarantined.is_empty(), "{:?}", again.report);
    assert_eq!(all(&again.log, 1).unwrap(), expected);
}

#[test]
fn rot_that_a_read_finds_is_told_once_and_repaired_while_running() {
    let disk = ten();
    let mut stepped = Stepped::open(&disk, small()).unwrap();
    let told = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let hook = std::sync::Arc::clone(&told);
    let log = stepped.log.clone();
    stepped.log.on_rot(Box::new(move |group| {
        assert!(log.is_damaged(group), "it can be asked");
        hook.lock().unwrap().push(group);
    }));
    flip(&disk, 4);
    disk.make_unreadable(1, place_of(&disk, 1, 8).0.block);
    for _ in 0..2 {
        assert_eq!(stepped.log.read(1, 4..5, 9_999), Err(LogError::Rot { group: 1, index: 4 }));
        assert_eq!(stepped.log.read(1, 2..6, 99_999).unwrap(), records(2..4, 1, 1_000), "what comes before");
    }
    assert_eq!(*told.lock().unwrap(), vec![1]);
    assert!(stepped.log.is_damaged(1));
    assert_eq!(stepped.log.held(1, 8, Some(1)).unwrap(), Held::Faulty);
    assert_eq!(*told.lock().unwrap(), vec![1, 1], "unreadable is rot as well");
    let lost: Vec<u64> = stepped
        .log
        .lost(1)
        .iter()
        .map(|lost| match lost {
            LostRecord::Entry { index, term: Some(1), payload_crc: Some(_) } => *index,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(lost, vec![4, 8]);
    for index in lost {
        stepped.log.restore(1, record(index, 1, payload(index, 1, 1_000)), ignore()).unwrap();
    }
    stepped.settle();
    assert!(!stepped.log.is_damaged(1));
    assert_eq!(stepped.log.read(1, 4..5, 9_999).unwrap(), records(4..5, 1, 1_000));
}
