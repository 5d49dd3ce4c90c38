//! The scrubber: finds what has rotted in sealed segments, mends what it can, says the rest once.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tercet_storage::disk::{PowerLoss, SimDisk};
use tercet_storage::format::{BLOCK_BYTES, Kind};
use tercet_storage::inspect::inspect_disk;
use tercet_storage::{LogOptions, LostRecord, RotReason, ScrubFinding, Scrubber, SegmentLog, Verdict};

use crate::harness::{Stepped, all, ignore, point, records, small};
use crate::repair::{batches, is_whole, place_of, repair_one, repair_whole, sample};

/// Goes through all sealed segments once.
fn round(scrubber: &mut Scrubber, budget: u64) -> Vec<ScrubFinding> {
    let mut found = Vec::new();
    for _ in 0..100_000 {
        let progress = scrubber.step(budget).unwrap();
        found.extend(progress.findings);
        if progress.is_round_over {
            assert_eq!(progress.next, None);
            return found;
        }
    }
    panic!("the round has no end");
}

fn told(log: &SegmentLog) -> Arc<Mutex<Vec<u32>>> {
    let told = Arc::new(Mutex::new(Vec::new()));
    let hook = Arc::clone(&told);
    log.on_rot(Box::new(move |group| hook.lock().unwrap().push(group)));
    told
}

fn flip(disk: &SimDisk, index: u64) {
    let (header, at) = place_of(disk, 1, index);
    disk.damage(header.segment, |bytes| bytes[at + 10] ^= 1);
}

#[test]
fn a_healthy_log_is_gone_through_within_its_budget() {
    let (disk, _) = sample();
    let stepped = Stepped::open(&disk, small()).unwrap();
    let mut scrubber = stepped.log.scrubber();
    let sealed = stepped.log.stats().segments - 1;
    for _ in 0..2 {
        let (mut bytes, mut steps) = (0, 0);
        loop {
            let progress = scrubber.step(20_000).unwrap();
            assert_eq!(progress.findings, vec![]);
            assert!(progress.bytes <= 20_000 + (64 << 12), "{progress:?}");
            bytes += progress.bytes;
            steps += 1;
            if progress.is_round_over {
                break;
            }
        }
        assert!(steps > 5);
        // Each block once; where a segment's unused end begins is looked at twice.
        assert!(
            (sealed * (128 << 10)..=sealed * (132 << 10)).contains(&bytes),
            "{bytes} of {sealed} segments"
        );
    }
    assert_eq!(scrubber.rounds(), 2);
    let empty = SimDisk::new(1);
    let stepped = Stepped::open(&empty, small()).unwrap();
    assert!(stepped.log.scrubber().step(1 << 20).unwrap().is_round_over, "nothing is sealed");
    stepped.log.close();
    assert!(stepped.log.scrubber().step(1).is_err());
}

#[test]
fn a_damaged_entry_is_lost_told_repaired_and_not_reported_again() {
    let (disk, truth) = sample();
    let mut stepped = Stepped::open(&disk, small()).unwrap();
    let told = told(&stepped.log);
    let mut scrubber = stepped.log.scrubber();
    flip(&disk, 10);
    let found = round(&mut scrubber, 1 << 20);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].finding.verdict, Verdict::ConfirmedRot(RotReason::SealedSegment));
    assert_eq!((found[0].finding.records.len(), found[0].finding.records[0].index), (1, 10));
    assert_eq!((&found[0].lost, &found[0].rewritten), (&vec![(1, 10)], &vec![]));
    assert_eq!(*told.lock().unwrap(), vec![1]);
    assert!(matches!(stepped.log.lost(1)[..], [LostRecord::Entry { index: 10, term: Some(2), .. }]));
    assert_eq!(round(&mut scrubber, 1 << 20), vec![], "it is known");
    while !repair_one(&stepped.log, &truth) {
        stepped.settle();
    }
    assert_eq!(round(&mut scrubber, 1 << 20), vec![]);
    assert_eq!(scrubber.known().count(), 1, "the bytes are still damaged");
    assert_eq!(*told.lock().unwrap(), vec![1]);
    is_whole(&stepped.log, &truth).unwrap();
    // Once the segment has gone, so has the finding.
    stepped.log.purge(1, point(60, 3), ignore()).unwrap();
    stepped.confirm();
    stepped.confirm();
    assert!(disk.image(1).is_none());
    round(&mut scrubber, 1 << 20);
    assert_eq!(scrubber.known().count(), 0);
}

#[test]
fn an_entry_that_is_still_in_memory_is_written_anew() {
    let disk = SimDisk::new(3);
    let mut stepped = Stepped::open(&disk, LogOptions { cache_bytes: 1 << 20, ..small() }).unwrap();
    stepped.log.append(1, records(0..60, 1, 3_000), ignore()).unwrap();
    stepped.confirm();
    let told = told(&stepped.log);
    flip(&disk, 10);
    let mut scrubber = stepped.log.scrubber();
    let found = round(&mut scrubber, 1 << 20);
    assert_eq!((&found[0].lost, &found[0].rewritten), (&vec![], &vec![(1, 10)]));
    assert!(!stepped.log.is_damaged(1) && told.lock().unwrap().is_empty());
    stepped.confirm();
    assert_eq!(round(&mut scrubber, 1 << 20), vec![]);
    drop(stepped);
    let again = Stepped::open(&disk, small()).unwrap();
    assert!(again.report.quarantined.is_empty(), "{:?}", again.report);
    assert_eq!(all(&again.log, 1).unwrap(), records(0..60, 1, 3_000));
}

#[test]
fn entries_whose_table_is_lost_are_written_anew_by_place() {
    let (disk, truth) = sample();
    let mut stepped = Stepped::open(&disk, small()).unwrap();
    let told = told(&stepped.log);
    let (header, _) = place_of(&disk, 1, 10);
    // The table, then the header of another one.
    disk.damage(header.segment, |bytes| bytes[header.block as usize * BLOCK_BYTES + 130] ^= 1);
    let (other, _) = place_of(&disk, 1, 20);
    disk.damage(other.segment, |bytes| bytes[other.block as usize * BLOCK_BYTES + 20] ^= 1);
    let mut scrubber = stepped.log.scrubber();
    let found = round(&mut scrubber, 4_096);
    assert_eq!(found.len(), 2, "{found:?}");
    // Without the table nobody could say whether what was not known to be committed was replaced in there.
    assert_eq!(found[0].rewritten, (3..=10).map(|index| (1, index)).collect::<Vec<_>>());
    assert_eq!(found[1].rewritten, (14..=20).map(|index| (1, index)).collect::<Vec<_>>());
    assert!(found.iter().all(|found| found.finding.lost_batches == 1 && found.lost.is_empty()));
    stepped.confirm();
    assert_eq!(round(&mut scrubber, 1 << 20), vec![]);
    assert!(told.lock().unwrap().is_empty() && !stepped.log.is_damaged(1));
    is_whole(&stepped.log, &truth).unwrap();
    drop(stepped);
    let again = Stepped::open(&disk, small()).unwrap();
    assert!(again.report.quarantined.is_empty(), "nothing is doubted: {:?}", again.report);
    drop(again);
    repair_whole(&disk, &truth, "two tables");
}

#[test]
fn the_newest_vote_is_written_anew_and_older_ones_are_not_missed() {
    let disk = SimDisk::new(3);
    let mut stepped = Stepped::open(&disk, small()).unwrap();
    stepped.log.save_vote(1, Bytes::from_static(b"first"), ignore()).unwrap();
    stepped.settle();
    stepped.log.save_vote(1, Bytes::from_static(b"second"), ignore()).unwrap();
    stepped.settle();
    stepped.log.append(1, records(0..60, 1, 3_000), ignore()).unwrap();
    stepped.confirm();
    let copies: Vec<_> = inspect_disk(&disk)
        .unwrap()
        .batches
        .into_iter()
        .filter(|batch| {
            batch.header.segment == 1
                && batch.records.iter().flatten().any(|record| record.row.kind == Kind::Vote)
        })
        .map(|batch| batch.header)
        .collect();
    assert_eq!(copies.len(), 4);
    let damage = |which: usize| {
        let at = copies[which].block as usize * BLOCK_BYTES
            + usize::try_from(copies[which].content_bytes()).unwrap()
            - 1;
        disk.damage(1, |bytes| bytes[at] ^= 1);
    };
    let mut scrubber = stepped.log.scrubber();
    damage(0);
    let found = round(&mut scrubber, 1 << 20);
    assert_eq!((found.len(), &found[0].votes), (1, &vec![]), "it has been replaced");
    damage(2);
    damage(3);
    let found = round(&mut scrubber, 1 << 20);
    assert_eq!(found.iter().flat_map(|found| &found.votes).count(), 2, "{found:?}");
    assert!(!stepped.log.is_damaged(1));
    assert_eq!(round(&mut scrubber, 1 << 20), vec![], "and not in every round");
    stepped.confirm();
    drop(stepped);
    let again = Stepped::open(&disk, small()).unwrap();
    assert!(again.report.quarantined.is_empty(), "{:?}", again.report);
    assert_eq!(again.log.state(1).vote, Some(Bytes::from_static(b"second")));
}

#[test]
fn what_nobody_needs_is_reported_and_harms_nobody() {
    let (disk, truth) = sample();
    let stepped = Stepped::open(&disk, small()).unwrap();
    let found = batches(&disk);
    let report = inspect_disk(&disk).unwrap();
    let first = report.batches.iter().find(|batch| batch.header.segment == 2).unwrap();
    let row = first.records.as_ref().unwrap()[0].row;
    assert_eq!(row.kind, Kind::Checkpoint);
    // The checkpoint of a later segment, a purged entry, padding, the unused end of a segment.
    disk.damage(2, |bytes| bytes[row.offset as usize] ^= 1);
    let padding = usize::try_from(first.header.content_bytes()).unwrap() + 5;
    disk.damage(2, |bytes| bytes[padding] ^= 1);
    flip(&disk, 1);
    let last = found.iter().rfind(|header| header.segment == 1).unwrap();
    assert!(last.block + last.blocks < 32, "the segment has an unused end");
    disk.damage(1, |bytes| *bytes.last_mut().unwrap() = 7);
    let mut scrubber = stepped.log.scrubber();
    let reported = round(&mut scrubber, 1 << 20);
    assert_eq!(reported.len(), 3, "{reported:?}");
    assert!(reported.iter().all(|found| found.lost.is_empty() && found.rewritten.is_empty()));
    assert!(!stepped.log.is_damaged(1));
    is_whole(&stepped.log, &truth).unwrap();
    drop(stepped);
    let again = Stepped::open(&disk, small()).unwrap();
    assert!(again.report.quarantined.is_empty(), "{:?}", again.report);
}

/// Takes something from a disk.
type Lose<'a> = &'a dyn Fn(&SimDisk);

#[test]
fn blocks_and_files_that_are_gone() {
    let (disk, truth) = sample();
    let sealed = batches(&disk).last().unwrap().segment - 1;
    let lose: [(&str, Lose<'_>); 4] = [
        ("unreadable", &|disk| disk.make_unreadable(1, 9)),
        ("a segment", &|disk| disk.lose_segment(2)),
        ("a short file", &|disk| disk.damage(1, |bytes| bytes.truncate(20 * BLOCK_BYTES))),
        ("an older segment in its place", &|disk| {
            let old = disk.image(1).unwrap();
            disk.damage(sealed, |bytes| bytes.copy_from_slice(&old));
        }),
    ];
    for (what, lose) in lose {
        let disk = disk.power_loss(1, PowerLoss::LosesAll);
        let mut stepped = Stepped::open(&disk, small()).unwrap();
        lose(&disk);
        let mut scrubber = stepped.log.scrubber();
        let found = round(&mut scrubber, 1 << 20);
        assert!(!found.is_empty(), "{what}");
        let lost: usize = found.iter().map(|found| found.lost.len()).sum();
        assert_eq!(lost, stepped.log.lost(1).len(), "{what}: {found:?}");
        assert!(lost > 0, "{what}: {found:?}");
        assert_eq!(round(&mut scrubber, 1 << 20), vec![], "{what}");
        while !repair_one(&stepped.log, &truth) {
            stepped.settle();
        }
        stepped.confirm();
        is_whole(&stepped.log, &truth).unwrap_or_else(|error| panic!("{what}: {error}"));
        drop(stepped);
        repair_whole(&disk, &truth, what);
    }
}

#[test]
fn every_damaged_place_of_a_sealed_segment_is_found() {
    let (disk, truth) = sample();
    let present = batches(&disk).last().unwrap().segment;
    let mut checked = 0;
    for segment in 1..present {
        for block in 0..32_usize {
            for (how, at) in [("header", 16), ("table", 200), ("payload", 1_500), ("end", 4_090)] {
                let damaged = disk.power_loss(1, PowerLoss::LosesAll);
                let mut stepped = Stepped::open(&damaged, small()).unwrap();
                damaged.damage(segment, |bytes| bytes[block * BLOCK_BYTES + at] ^= 0x40);
                let what = format!("segment {segment}, block {block}, {how}");
                let mut scrubber = stepped.log.scrubber();
                let found = round(&mut scrubber, 1 << 20);
                assert!(!found.is_empty(), "{what} is not seen");
                assert!(found.iter().all(|found| found.finding.segment == segment), "{what}: {found:?}");
                let lost: usize = found.iter().map(|found| found.lost.len()).sum();
                assert_eq!(lost, stepped.log.lost(1).len(), "{what}");
                while !repair_one(&stepped.log, &truth) {
                    stepped.settle();
                }
                stepped.settle();
                assert_eq!(round(&mut scrubber, 1 << 20), vec![], "{what} is reported again");
                is_whole(&stepped.log, &truth).unwrap_or_else(|error| panic!("{what}: {error}"));
                drop(stepped);
                checked += 1;
                if checked % 5 == 0 {
                    let again = Stepped::open(&damaged, small()).unwrap();
                    assert!(again.report.quarantined.is_empty(), "{what}: {:?}", again.report);
                    is_whole(&again.log, &truth).unwrap_or_else(|error| panic!("{what}, again: {error}"));
                }
            }
        }
    }
    assert!(checked > 200);
}

#[test]
fn it_keeps_out_of_the_way_of_segments_that_go() {
    let disk = SimDisk::new(3);
    let mut stepped = Stepped::open(&disk, small()).unwrap();
    let mut scrubber = stepped.log.scrubber();
    let mut next = 0;
    for _ in 0..200 {
        stepped.log.append(1, records(next..next + 3, 1, 4_000), ignore()).unwrap();
        next += 3;
        stepped.confirm();
        let progress = scrubber.step(30_000).unwrap();
        assert_eq!(progress.findings, vec![]);
        if next % 60 == 0 {
            stepped.log.purge(1, point(next - 20, 1), ignore()).unwrap();
            stepped.confirm();
        }
    }
    assert!(scrubber.rounds() > 3 && stepped.log.stats().segments_removed > 10);
}
