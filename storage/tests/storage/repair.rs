//! Repair: a damaged log is made whole with what a peer has, whatever was damaged and whenever the power fails meanwhile. Entries
//! are in `entries`; ends, votes and groups that are not known any more in `ends`.

mod ends;
mod entries;

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
