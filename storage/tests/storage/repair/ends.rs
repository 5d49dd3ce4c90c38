//! Repair of what is not known any more: the end of a log, votes, groups.

use super::*;

#[test]
fn an_unknown_end_stays_unknown_until_it_is_settled() {
    let disk = ten();
    let last = batches(&disk)[5].clone();
    disk.damage(1, |bytes| bytes[last.block as usize * BLOCK_BYTES..].fill(0x55));
    let mut stepped = Stepped::open(&disk, small()).unwrap();
    assert!(stepped.log.lost(1).contains(&LostRecord::Tail { after: Some(point(7, 1)) }));
    // Entries that a repairer appends prove nothing before it says that they are all.
    stepped.log.append(1, records(8..9, 1, 1_000), ignore()).unwrap();
    stepped.log.save_vote(1, Bytes::from_static(b"new"), ignore()).unwrap();
    stepped.confirm();
    drop(stepped);
    let mut stepped = Stepped::open(&disk, small()).unwrap();
    assert_eq!(stepped.log.lost(1), vec![LostRecord::Tail { after: Some(point(8, 1)) }], "the vote is there");
    stepped.log.append(1, records(9..10, 1, 1_000), ignore()).unwrap();
    stepped.log.tail_settled(1, stepped.note(1)).unwrap();
    assert_eq!(stepped.log.tail_settled(2, ignore()), Err(LogError::NoSuchGroup { group: 2 }));
    stepped.settle();
    assert_eq!(*stepped.outcomes.lock().unwrap(), vec![(1, true)]);
    assert_eq!(stepped.log.lost(1), vec![]);
    drop(stepped);
    let again = Stepped::open(&disk, small()).unwrap();
    assert!(again.report.quarantined.is_empty(), "{:?}", again.report);
    assert_eq!(all(&again.log, 1).unwrap(), records(0..10, 1, 1_000));
    assert_eq!(again.log.state(1).vote, Some(Bytes::from_static(b"new")));
}

#[test]
fn an_unknown_end_amid_the_log_is_stated_before_anything_else_is_written() {
    // Only idle batches follow the lost one, so that nothing vouches for the end and the log goes on in place.
    let disk = SimDisk::new(5);
    let mut stepped = Stepped::open(&disk, small()).unwrap();
    stepped.log.append(1, records(0..3, 1, 100), ignore()).unwrap();
    stepped.settle();
    stepped.log.append(1, records(3..5, 1, 100), ignore()).unwrap();
    stepped.confirm();
    drop(stepped);
    let disk = disk.power_loss(1, PowerLoss::LosesAll);
    let lost = batches(&disk)[2].clone();
    fill(&disk, &lost, 0..1, 0xff);
    let mut stepped = Stepped::open(&disk, small()).unwrap();
    assert_eq!(stepped.report.cut, None);
    assert_eq!(stepped.log.lost(1), vec![LostRecord::Tail { after: Some(point(2, 1)) }]);
    stepped.log.append(1, records(3..4, 1, 100), ignore()).unwrap();
    stepped.confirm();
    drop(stepped);
    let mut stepped = Stepped::open(&disk, small()).unwrap();
    assert_eq!(stepped.log.lost(1), vec![LostRecord::Tail { after: Some(point(3, 1)) }]);
    let before = stepped.report.last_batch;
    drop(stepped);
    stepped = Stepped::open(&disk, small()).unwrap();
    assert_eq!(stepped.report.last_batch, before, "it is stated once");
    stepped.log.append(1, records(4..5, 1, 100), ignore()).unwrap();
    stepped.log.tail_settled(1, ignore()).unwrap();
    assert_eq!(stepped.log.unsettled_batches(), 1);
    stepped.log.settle_groups(&[1], ignore()).unwrap();
    stepped.confirm();
    drop(stepped);
    let again = Stepped::open(&disk, small()).unwrap();
    assert!(again.report.quarantined.is_empty() && again.report.unsettled_batches == 0, "{:?}", again.report);
    assert_eq!(all(&again.log, 1).unwrap(), records(0..5, 1, 100));
}

#[test]
fn lost_votes_end_with_a_new_one_for_good() {
    let (disk, truth) = sample();
    let found = batches(&disk);
    let votes: Vec<_> = found[found.len() - 3..found.len() - 1].to_vec();
    for header in &votes {
        fill(&disk, header, 0..header.blocks, 1);
    }
    let kept = disk.power_loss(1, PowerLoss::LosesAll);
    let mut stepped = Stepped::open(&disk, small()).unwrap();
    assert!(stepped.log.lost(1).contains(&LostRecord::Vote));
    stepped.log.save_vote(1, Bytes::from_static(b"vote"), ignore()).unwrap();
    stepped.confirm();
    assert!(!stepped.log.lost(1).contains(&LostRecord::Vote));
    drop(stepped);
    let image = kept.power_loss(1, PowerLoss::LosesAll);
    drop(image);
    let again = Stepped::open(&disk, small()).unwrap();
    assert!(!again.log.lost(1).contains(&LostRecord::Vote), "{:?}", again.report);
    assert_eq!(again.log.state(1).vote, Some(Bytes::from_static(b"vote")));
    drop(again);
    // One copy of the new vote may go.
    let all_batches = inspect_disk(&disk).unwrap().batches;
    let newest: Vec<_> = all_batches
        .iter()
        .filter(|batch| {
            batch
                .records
                .iter()
                .flatten()
                .any(|record| record.row.kind == Kind::Vote && record.row.index > 1 << 32)
        })
        .collect();
    assert!(newest.len() >= 2, "both copies");
    fill(&disk, &newest[0].header, 0..1, 9);
    repair_whole(&disk, &truth, "one copy of the new vote");
}

#[test]
fn groups_of_which_nothing_is_left_are_named_and_settled() {
    // The only batch of group 2 is lost, and so is the first one of group 1.
    let disk = SimDisk::new(6);
    let mut stepped = Stepped::open(&disk, small()).unwrap();
    stepped.log.append(2, records(0..3, 1, 100), ignore()).unwrap();
    stepped.settle();
    stepped.log.append(1, records(0..3, 1, 100), ignore()).unwrap();
    stepped.confirm();
    drop(stepped);
    let disk = disk.power_loss(1, PowerLoss::LosesAll);
    let lost = batches(&disk)[1].clone();
    fill(&disk, &lost, 0..1, 0xff);
    for _ in 0..2 {
        let mut stepped = Stepped::open(&disk, small()).unwrap();
        assert_eq!(stepped.log.groups(), vec![1]);
        assert_eq!((stepped.report.unsettled_batches, stepped.log.unsettled_batches()), (1, 1));
        assert_eq!(stepped.log.held(2, 0, Some(1)).unwrap(), Held::Faulty);
        // The doubt outlives the segment that it is about.
        let next = stepped.log.state(1).last.unwrap().index + 1;
        stepped.log.append(1, records(next..next + 50, 1, 4_000), ignore()).unwrap();
        stepped.settle();
        stepped.log.purge(1, stepped.log.state(1).last.unwrap(), ignore()).unwrap();
        stepped.confirm();
    }
    assert!(disk.image(1).is_none(), "the damaged segment has gone");
    let mut stepped = Stepped::open(&disk, small()).unwrap();
    assert_eq!(stepped.log.unsettled_batches(), 1);
    stepped.log.settle_groups(&[1, 2, 3], stepped.note(1)).unwrap();
    stepped.settle();
    assert_eq!(*stepped.outcomes.lock().unwrap(), vec![(1, true)]);
    assert_eq!(stepped.log.damaged_groups(), vec![2, 3]);
    drop(stepped);
    let mut stepped = Stepped::open(&disk, small()).unwrap();
    assert_eq!(stepped.log.unsettled_batches(), 0);
    for group in [2, 3] {
        assert_eq!(stepped.log.lost(group), vec![LostRecord::Tail { after: None }, LostRecord::Vote]);
        stepped.log.save_vote(group, Bytes::from_static(b"v"), ignore()).unwrap();
    }
    stepped.log.append(2, records(0..3, 1, 100), ignore()).unwrap();
    stepped.log.tail_settled(2, ignore()).unwrap();
    stepped.log.tail_settled(3, ignore()).unwrap();
    stepped.confirm();
    drop(stepped);
    let again = Stepped::open(&disk, small()).unwrap();
    assert!(again.report.quarantined.is_empty(), "{:?}", again.report);
    assert_eq!(all(&again.log, 2).unwrap(), records(0..3, 1, 100));
}
