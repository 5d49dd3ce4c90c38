//! Repair: a damaged log is made whole with what a peer has, whatever was damaged and whenever the power fails meanwhile.

use bytes::Bytes;
use tercet_storage::disk::{PowerLoss, SimDisk};
use tercet_storage::format::{BLOCK_BYTES, BatchHeader, Kind};
use tercet_storage::inspect::inspect_disk;
use tercet_storage::{GroupId, Held, LogError, LogPoint, LogRecord, LostRecord, SegmentLog};

use crate::harness::{Stepped, all, ignore, payload, point, record, records, small};

/// What a leader's log holds of group 1, and the vote that the node has in the end.
#[derive(Clone)]
pub(crate) struct Truth {
    pub(crate) entries: Vec<LogRecord>,
    pub(crate) purged: Option<LogPoint>,
}

/// A log of several segments with votes, a truncation, a purge and committed points; confirmed.
pub(crate) fn sample() -> (SimDisk, Truth) {
    let disk = SimDisk::new(31);
    let mut stepped = Stepped::open(&disk, small()).unwrap();
    let log = stepped.log.clone();
    log.save_vote(1, Bytes::from_static(b"old vote"), ignore()).unwrap();
    log.append(1, records(0..6, 1, 900), ignore()).unwrap();
    stepped.settle();
    log.truncate_after(1, Some(point(4, 1)), ignore()).unwrap();
    stepped.settle();
    for round in 0..50_u64 {
        let index = 5 + round * 2;
        log.append(1, records(index..index + 2, 2 + round / 20, 2_000), ignore()).unwrap();
        if round % 5 == 4 {
            log.save_committed(1, point(index, 2 + round / 20)).unwrap();
        }
        if round == 30 {
            log.purge(1, point(2, 1), ignore()).unwrap();
        }
        stepped.settle();
    }
    log.save_vote(1, Bytes::from_static(b"vote"), ignore()).unwrap();
    stepped.confirm();
    assert!(log.stats().segments >= 2, "{:?}", log.stats());
    let truth = Truth { entries: all(&log, 1).unwrap(), purged: Some(point(2, 1)) };
    (disk.power_loss(1, PowerLoss::LosesAll), truth)
}

pub(crate) fn batches(disk: &SimDisk) -> Vec<BatchHeader> {
    inspect_disk(disk).unwrap().batches.into_iter().map(|batch| batch.header).collect()
}

fn content_bytes(header: &BatchHeader) -> usize {
    usize::try_from(header.content_bytes()).unwrap()
}

pub(crate) fn fill(disk: &SimDisk, header: &BatchHeader, blocks: std::ops::Range<u32>, byte: u8) {
    let at = |block: u32| (header.block + block) as usize * BLOCK_BYTES;
    disk.damage(header.segment, |bytes| bytes[at(blocks.start)..at(blocks.end)].fill(byte));
}

/// The batch that holds an entry, and where its payload begins in the segment.
pub(crate) fn place_of(disk: &SimDisk, group: GroupId, index: u64) -> (BatchHeader, usize) {
    let report = inspect_disk(disk).unwrap();
    let mut found = None;
    for batch in report.batches {
        for record in batch.records.iter().flatten() {
            let is_it = matches!(record.row.kind, Kind::Entry | Kind::Repair)
                && (record.row.group, record.row.index) == (group, index);
            if is_it {
                let at = batch.header.block as usize * BLOCK_BYTES + record.row.offset as usize;
                found = Some((batch.header.clone(), at));
            }
        }
    }
    found.expect("the entry is in the log")
}

/// One step of what a node does about a damaged group, with the truth from its peers. Says whether it is whole. With an unknown
/// end, what differs from the leader's log goes before anything is restored: it may have been replaced.
pub(crate) fn repair_one(log: &SegmentLog, truth: &Truth) -> bool {
    let all_lost = log.lost(1);
    let Some(lost) = all_lost.first().copied() else { return true };
    if all_lost.iter().any(|lost| matches!(lost, LostRecord::Tail { .. })) && cut_back(log, truth) {
        return false;
    }
    let of = |index: u64| truth.entries.iter().find(|entry| entry.index == index).cloned();
    let last = truth.entries.last().map(LogRecord::point).or(truth.purged);
    match lost {
        LostRecord::Entry { index, term, payload_crc } => match of(index) {
            Some(entry) => {
                assert!(term.is_none_or(|term| term == entry.term), "{lost:?}");
                assert!(payload_crc.is_none_or(|crc| crc == crc32fast::hash(&entry.payload)), "{lost:?}");
                log.restore(1, entry, ignore()).unwrap();
            }
            // It had been dropped, in a batch that is lost.
            None if last.is_none_or(|last| last.index < index) => {
                log.truncate_after(1, last, ignore()).unwrap();
            }
            None => log.purge(1, truth.purged.unwrap(), ignore()).unwrap(),
        },
        LostRecord::Entries { last, .. } => match (of(last), truth.purged) {
            (Some(entry), _) => log.restore(1, entry, ignore()).unwrap(),
            (None, Some(purged)) => log.purge(1, purged, ignore()).unwrap(),
            (None, None) => log.truncate_after(1, None, ignore()).unwrap(),
        },
        LostRecord::Tail { after } => settle_tail(log, truth, after),
        LostRecord::Vote => log.save_vote(1, Bytes::from_static(b"vote"), ignore()).unwrap(),
    }
    false
}

/// Drops what the leader's log does not have; says whether there was anything.
fn cut_back(log: &SegmentLog, truth: &Truth) -> bool {
    let state = log.state(1);
    let last = truth.entries.last().map(LogRecord::point).or(truth.purged);
    if let Some(upto) =
        truth.purged.filter(|upto| state.purged.is_none_or(|purged| purged.index < upto.index))
    {
        log.purge(1, upto, ignore()).unwrap();
        return true;
    }
    let differs = |entry: &&LogRecord| log.point(1, entry.index).is_some_and(|held| held != entry.point());
    let kept = match truth.entries.iter().position(|entry| differs(&entry)) {
        Some(0) => truth.purged,
        Some(at) => Some(truth.entries[at - 1].point()),
        None if state.last.is_some_and(|held| last.is_none_or(|last| last.index < held.index)) => last,
        None => return false,
    };
    log.truncate_after(1, kept, ignore()).unwrap();
    true
}

/// What a leader's log does to the end of another that agrees with it: what lacks comes, then it is settled.
fn settle_tail(log: &SegmentLog, truth: &Truth, after: Option<LogPoint>) {
    let next = after.map_or(0, |after| after.index + 1);
    let rest: Vec<_> = truth.entries.iter().filter(|entry| entry.index >= next).cloned().collect();
    if rest.is_empty() {
        log.tail_settled(1, ignore()).unwrap();
    } else {
        log.append(1, rest, ignore()).unwrap();
    }
}

pub(crate) fn is_whole(log: &SegmentLog, truth: &Truth) -> Result<(), String> {
    let mut found = all(log, 1).map_err(|error| error.to_string())?;
    let state = log.state(1);
    // A purge may have been forgotten with its batch: then more is held, and the group purges it again.
    found.retain(|entry| truth.purged.is_none_or(|purged| entry.index > purged.index));
    if found != truth.entries {
        let ends = |entries: &[LogRecord]| {
            format!(
                "{:?} to {:?}",
                entries.first().map(LogRecord::point),
                entries.last().map(LogRecord::point)
            )
        };
        let pairs = found.iter().zip(&truth.entries);
        let differs = pairs.clone().find(|(one, other)| one != other).map(|(one, _)| one.point());
        return Err(format!("holds {}, not {}: {differs:?}", ends(&found), ends(&truth.entries)));
    }
    if state.vote != Some(Bytes::from_static(b"vote")) {
        return Err(format!("vote {:?}", state.vote));
    }
    let upto = |purged: Option<LogPoint>| purged.map(|purged| purged.index);
    if upto(state.purged) > upto(truth.purged) {
        return Err(format!("purged {:?}", state.purged));
    }
    Ok(())
}

/// Repairs to the end, with no crash, and looks at it again after another opening.
pub(crate) fn repair_whole(disk: &SimDisk, truth: &Truth, what: &str) {
    let mut stepped = Stepped::open(disk, small()).unwrap_or_else(|error| panic!("{what}: {error}"));
    settle_groups(&mut stepped);
    for round in 0..2_000 {
        if repair_one(&stepped.log, truth) {
            break;
        }
        assert!(round < 1_999, "{what}: no end of {:?}", stepped.log.lost(1));
        stepped.settle();
    }
    is_whole(&stepped.log, truth).unwrap_or_else(|error| panic!("{what}: {error}: {:?}", stepped.report));
    drop(stepped);
    for again in ["again", "and again"] {
        let loss = if again == "again" { PowerLoss::LosesAll } else { PowerLoss::Tears };
        let copy = disk.power_loss(3, loss);
        let again_opened = Stepped::open(&copy, small()).unwrap();
        let report = &again_opened.report;
        assert!(!report.quarantined.iter().any(|(group, _)| *group == 1), "{what}, {again}: {report:?}");
        assert_eq!(again_opened.log.unsettled_batches(), 0, "{what}, {again}");
        is_whole(&again_opened.log, truth).unwrap_or_else(|error| panic!("{what}, {again}: {error}"));
    }
}

fn settle_groups(stepped: &mut Stepped) {
    if stepped.log.unsettled_batches() > 0 {
        stepped.log.settle_groups(&[1], ignore()).unwrap();
        stepped.settle();
    }
}

/// Repairs with the power failing at every event; each time what is found is either whole or knows that it is not, and can
/// be repaired from there.
pub(crate) fn repair_with_crashes(disk: &SimDisk, truth: &Truth, what: &str) {
    let working = disk.power_loss(1, PowerLoss::LosesAll);
    let mut stepped = Stepped::open(&working, small()).unwrap_or_else(|error| panic!("{what}: {error}"));
    settle_groups(&mut stepped);
    let needs_repair = stepped.log.is_damaged(1);
    let mut crashes = 0_u64;
    let mut events = working.events();
    let mut is_done = false;
    while !is_done {
        is_done = repair_one(&stepped.log, truth);
        for _ in 0..10_000 {
            stepped.step();
            if working.events() > events {
                events = working.events();
                crashes += 1;
                let loss = match crashes % 3 {
                    0 => PowerLoss::LosesAll,
                    1 => PowerLoss::KeepsAll,
                    _ => PowerLoss::Tears,
                };
                let context = format!("{what}, crash {crashes}, {loss:?}");
                let copy = working.power_loss(crashes, loss);
                let found =
                    Stepped::open(&copy, small()).unwrap_or_else(|error| panic!("{context}: {error}"));
                if !found.log.is_damaged(1) && found.log.unsettled_batches() == 0 {
                    is_whole(&found.log, truth)
                        .unwrap_or_else(|error| panic!("{context}: silently {error}: {:?}", found.report));
                } else if crashes.is_multiple_of(13) {
                    drop(found);
                    repair_whole(&copy, truth, &context);
                }
            }
            if stepped.driver.is_settled() {
                break;
            }
        }
    }
    assert!(crashes > 1 || !needs_repair, "{what}: nothing was written");
    drop(stepped);
    repair_whole(&working, truth, what);
}

/// Every kind of damage that takes something; one batch of so many.
fn damages(disk: &SimDisk, every: usize) -> Vec<(String, SimDisk)> {
    let found = batches(disk);
    let copy = || disk.power_loss(1, PowerLoss::LosesAll);
    let mut all = Vec::new();
    for (number, header) in found.iter().enumerate().filter(|(number, _)| number % every == 1) {
        let damaged = copy();
        fill(&damaged, header, 0..header.blocks, 0xff);
        all.push((format!("batch {number} of {}", found.len()), damaged));
        let damaged = copy();
        let at = header.block as usize * BLOCK_BYTES + content_bytes(header) - 1;
        damaged.damage(header.segment, |bytes| bytes[at] ^= 1);
        all.push((format!("last payload of batch {number}"), damaged));
    }
    let damaged = copy();
    for header in &found[20..25] {
        fill(&damaged, header, 0..header.blocks, 0);
    }
    all.push(("five batches".to_owned(), damaged));
    for segment in 1..=found.last().unwrap().segment {
        let damaged = copy();
        damaged.lose_segment(segment);
        all.push((format!("segment {segment}"), damaged));
    }
    // The end of the log: more than can have been in flight, else it would pass for an interrupted write.
    let last = found.last().unwrap();
    let damaged = copy();
    damaged.damage(last.segment, |bytes| {
        let from = bytes.len() - 20 * BLOCK_BYTES;
        bytes[from.min((last.block - 3) as usize * BLOCK_BYTES)..].fill(0x55);
    });
    all.push(("the end".to_owned(), damaged));
    let damaged = copy();
    for segment in 1..=last.segment {
        damaged.damage(segment, |bytes| bytes.fill(0x55));
    }
    all.push(("everything".to_owned(), damaged));
    all
}

#[test]
fn every_damage_is_repaired_and_stays_repaired() {
    let (disk, truth) = sample();
    for (what, damaged) in damages(&disk, 6) {
        repair_whole(&damaged, &truth, &what);
    }
}

#[test]
fn a_crash_at_any_event_of_a_repair_loses_nothing_silently() {
    let (disk, truth) = sample();
    for (what, damaged) in damages(&disk, 24) {
        repair_with_crashes(&damaged, &truth, &what);
    }
}

/// A small log of group 1: entries 0 to 9 of term 1 in batches of two, confirmed.
fn ten() -> SimDisk {
    let disk = SimDisk::new(32);
    let mut stepped = Stepped::open(&disk, small()).unwrap();
    for index in (0..10).step_by(2) {
        stepped.log.append(1, records(index..index + 2, 1, 1_000), ignore()).unwrap();
        stepped.log.save_committed(1, point(index, 1)).unwrap();
        stepped.settle();
    }
    stepped.log.save_vote(1, Bytes::from_static(b"vote"), ignore()).unwrap();
    stepped.confirm();
    disk.power_loss(1, PowerLoss::LosesAll)
}

/// Flips a bit in the payload of an entry.
fn flip(disk: &SimDisk, index: u64) {
    let (header, at) = place_of(disk, 1, index);
    disk.damage(header.segment, |bytes| bytes[at + 10] ^= 1);
}

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
