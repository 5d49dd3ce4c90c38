//! Each row of the recovery table, reached: the finding, its verdict, and what becomes of the log.
//! Damage below the durable mark or elsewhere is in `rot`, the end of the log in `tail`.

mod rot;
mod tail;

use bytes::Bytes;
use tercet_storage::disk::{PowerLoss, SimDisk};
use tercet_storage::format::{BLOCK_BYTES, BatchHeader};
use tercet_storage::inspect::inspect_disk;
use tercet_storage::{Finding, LogError, LogOptions, LostRecord, RotReason, StoreId, Verdict};

use rot::several_segments;

use crate::harness::{Stepped, all, ignore, point, records, small};

/// A log of one segment: one batch for each of the given appends of group 1 (one entry each, of so many bytes), not
/// confirmed by an idle batch. Gives the disk after the power has failed, all that was durable still there.
fn written(sizes: &[usize]) -> SimDisk {
    let disk = SimDisk::new(11);
    let mut stepped = Stepped::open(&disk, small()).unwrap();
    for (index, size) in (1..).zip(sizes) {
        stepped.log.append(1, records(index..index + 1, 1, *size), stepped.note(index)).unwrap();
        stepped.settle();
    }
    disk.power_loss(1, PowerLoss::LosesAll)
}

/// The batches of a disk: header of each.
fn batches(disk: &SimDisk) -> Vec<BatchHeader> {
    let report = inspect_disk(disk).unwrap();
    report.batches.into_iter().map(|batch| batch.header).collect()
}

/// Opens and gives the one finding that is not the end of the log.
fn finding(disk: &SimDisk) -> (Stepped, Option<Finding>) {
    let stepped = Stepped::open(disk, small()).unwrap();
    let mut findings = stepped.report.findings.clone();
    findings.retain(|finding| finding.verdict != Verdict::EndOfLog);
    assert!(findings.len() <= 1, "{findings:?}");
    (stepped, findings.pop())
}

fn verdict(disk: &SimDisk) -> (Stepped, Verdict) {
    let (stepped, finding) = finding(disk);
    (stepped, finding.expect("a finding").verdict)
}

fn at(header: &BatchHeader) -> usize {
    header.block as usize * BLOCK_BYTES
}

/// What must hold after any cut: the log goes on and a further opening finds nothing wrong.
fn goes_on(mut stepped: Stepped, disk: &SimDisk, entries: u64) {
    assert_eq!(all(&stepped.log, 1).unwrap().len() as u64, entries);
    stepped.log.append(1, records(entries + 1..entries + 3, 2, 40), ignore()).unwrap();
    stepped.confirm();
    assert_eq!(stepped.log.failure(), None);
    drop(stepped);
    let again = Stepped::open(disk, small()).unwrap();
    assert!(
        again.report.findings.iter().all(|finding| finding.verdict == Verdict::EndOfLog),
        "{:?}",
        again.report
    );
    assert_eq!(all(&again.log, 1).unwrap().len() as u64, entries + 2);
    assert_eq!(again.report.cut, None);
}

#[test]
fn accepted_and_end_of_log() {
    let disk = written(&[100, 100]);
    let report = inspect_disk(&disk).unwrap();
    assert!(report.batches.iter().all(|batch| batch.verdict == Verdict::Accepted));
    let stepped = Stepped::open(&disk, small()).unwrap();
    let verdicts: Vec<Verdict> = stepped.report.findings.iter().map(|finding| finding.verdict).collect();
    assert_eq!(verdicts, vec![Verdict::EndOfLog]);
    assert!(stepped.report.quarantined.is_empty() && stepped.report.cut.is_none());
    goes_on(stepped, &disk, 2);
}

#[test]
fn votes_survive_one_lost_copy_and_report_two() {
    let disk = SimDisk::new(11);
    let mut stepped = Stepped::open(&disk, small()).unwrap();
    stepped.log.save_vote(1, Bytes::from_static(b"first"), ignore()).unwrap();
    stepped.settle();
    stepped.log.save_vote(1, Bytes::from_static(b"second"), ignore()).unwrap();
    stepped.confirm();
    let disk = disk.power_loss(1, PowerLoss::LosesAll);
    let found = batches(&disk);
    // Batches: checkpoint, first, first again, second, second again, idle.
    assert_eq!(found.len(), 6);
    let damage = |disk: &SimDisk, which: usize| {
        disk.damage(1, |bytes| bytes[at(&found[which])..at(&found[which]) + BLOCK_BYTES].fill(1));
    };
    for which in [3, 4] {
        let one = disk.power_loss(1, PowerLoss::LosesAll);
        damage(&one, which);
        let stepped = Stepped::open(&one, small()).unwrap();
        assert_eq!(stepped.log.state(1).vote, Some(Bytes::from_static(b"second")));
        assert!(!stepped.report.quarantined.iter().any(|(_, lost)| lost.contains(&LostRecord::Vote)));
        drop(stepped);
        // Opening has written it again: now the other old copy may go as well.
        damage(&one, 7 - which);
        let stepped = Stepped::open(&one, small()).unwrap();
        assert_eq!(
            stepped.log.state(1).vote,
            Some(Bytes::from_static(b"second")),
            "copy {which} was repeated"
        );
    }
    damage(&disk, 3);
    damage(&disk, 4);
    let stepped = Stepped::open(&disk, small()).unwrap();
    assert!(stepped.report.quarantined[0].1.contains(&LostRecord::Vote), "{:?}", stepped.report);
    drop(stepped);
    let stepped = Stepped::open(&disk, small()).unwrap();
    assert!(stepped.report.quarantined[0].1.contains(&LostRecord::Vote), "and again at the next opening");
}

#[test]
fn an_entry_replaced_in_a_lost_batch_is_not_served_in_its_old_form() {
    let disk = SimDisk::new(11);
    let mut stepped = Stepped::open(&disk, small()).unwrap();
    stepped.log.append(1, records(1..4, 1, 50), ignore()).unwrap();
    stepped.settle();
    stepped.log.save_committed(1, point(1, 1)).unwrap();
    stepped.log.truncate_after(1, Some(point(2, 1)), ignore()).unwrap();
    stepped.log.append(1, records(3..4, 2, 50), ignore()).unwrap();
    stepped.settle();
    stepped.log.append(1, records(4..5, 2, 50), ignore()).unwrap();
    stepped.confirm();
    let disk = disk.power_loss(1, PowerLoss::LosesAll);
    let replacing = batches(&disk)[2].clone();
    disk.damage(1, |bytes| bytes[at(&replacing)..at(&replacing) + BLOCK_BYTES].fill(0xff));
    let stepped = Stepped::open(&disk, small()).unwrap();
    assert_eq!(stepped.log.read(1, 3..4, 1_000), Err(LogError::Rot { group: 1, index: 3 }));
    assert_eq!(stepped.log.point(1, 3), Some(point(3, 2)), "its identity is known from entry 4");
    assert_eq!(stepped.log.read(1, 4..5, 1_000).unwrap(), records(4..5, 2, 50));
}

#[test]
fn what_is_committed_after_a_loss_vouches_for_nothing_before_it() {
    let disk = SimDisk::new(11);
    let mut stepped = Stepped::open(&disk, small()).unwrap();
    stepped.log.append(1, records(1..4, 1, 50), ignore()).unwrap();
    stepped.settle();
    // One batch replaces entries 2 and 3; it will be lost. Then 3 is committed, and entry 4 names its predecessor's term.
    stepped.log.truncate_after(1, Some(point(1, 1)), ignore()).unwrap();
    stepped.log.append(1, records(2..4, 2, 50), ignore()).unwrap();
    stepped.settle();
    stepped.log.save_committed(1, point(3, 2)).unwrap();
    stepped.log.append(1, records(4..5, 2, 50), ignore()).unwrap();
    stepped.confirm();
    let disk = disk.power_loss(1, PowerLoss::LosesAll);
    let replacing = batches(&disk)[2].clone();
    disk.damage(1, |bytes| bytes[at(&replacing)..at(&replacing) + BLOCK_BYTES].fill(0xff));
    let stepped = Stepped::open(&disk, small()).unwrap();
    for index in 2..4 {
        let read = stepped.log.read(1, index..index + 1, 1_000);
        assert_eq!(
            read,
            Err(LogError::Rot { group: 1, index }),
            "entry {index} is not served in its old form"
        );
    }
    assert_eq!(stepped.log.read(1, 4..5, 1_000).unwrap(), records(4..5, 2, 50));
}

#[test]
fn a_newer_format_is_refused_and_left_alone() {
    let disk = written(&[100]);
    let before = disk.image(1).unwrap();
    let second = batches(&disk)[1].clone();
    disk.damage(1, |bytes| {
        let block = at(&second);
        bytes[block + 12] = 2;
        let crc = crc32fast::hash(&bytes[block + 12..block + 128]);
        bytes[block + 8..block + 12].copy_from_slice(&crc.to_le_bytes());
    });
    let refused = Stepped::open(&disk, small()).map(|_| ()).unwrap_err();
    assert_eq!(refused, LogError::NewerFormat { segment: 1, version: 2 });
    assert_eq!(disk.image(1).unwrap()[at(&second) + 128..], before[at(&second) + 128..]);
}

/// Every row of the table and every reason for rot, each with a log in which it is found. The match makes a new variant
/// fail to compile here, and the test makes it fail to pass without a case.
#[test]
fn every_row_of_the_table_is_reached() {
    let mut reached = Vec::new();
    for (verdict, found) in rows() {
        match verdict {
            Verdict::Accepted
            | Verdict::Misdirected
            | Verdict::NotOurs
            | Verdict::ConfirmedRot(
                RotReason::DurableMark | RotReason::SealedSegment | RotReason::NumberGap,
            )
            | Verdict::Unreadable
            | Verdict::EndOfLog
            | Verdict::TornTail
            | Verdict::RotInWindow
            | Verdict::RotBeyondWindow
            | Verdict::UnconfirmedTail => reached.push(verdict),
        }
        assert!(found.contains(&verdict), "{verdict:?} is not among {found:?}");
    }
    reached.sort();
    reached.dedup();
    assert_eq!(reached.len(), 12, "ten rows, one of them with three reasons: {reached:?}");
}

/// A verdict, and what is found in a log that is damaged so that it should be found.
fn rows() -> Vec<(Verdict, Vec<Verdict>)> {
    let plain = || written(&[100, 100, 6_000]);
    let found = batches(&plain());
    let (first, second, last) = (at(&found[1]), at(&found[2]), at(&found[3]));
    let case = |verdict, disk: SimDisk, damage: &dyn Fn(&SimDisk)| {
        damage(&disk);
        let report = inspect_disk(&disk).unwrap();
        let batches = report.batches.iter().map(|batch| batch.verdict);
        (verdict, batches.chain(report.findings.iter().map(|finding| finding.verdict)).collect())
    };
    let flip = |byte: usize| move |disk: &SimDisk| disk.damage(1, |bytes| bytes[byte] ^= 1);
    let foreign = |disk: &SimDisk| {
        let block = found[3].block + found[3].blocks;
        let other = BatchHeader { store: StoreId([9; 16]), number: 99, block, ..found[3].clone() }.encode();
        let end = block as usize * BLOCK_BYTES;
        disk.damage(1, |bytes| bytes[end..end + other.len()].copy_from_slice(&other));
    };
    let jump = |disk: &SimDisk| {
        let moved = BatchHeader { block: found[2].block, ..found[3].clone() }.encode();
        disk.damage(1, |bytes| {
            bytes.copy_within(last..last + BLOCK_BYTES, second);
            bytes[second..second + moved.len()].copy_from_slice(&moved);
        });
    };
    let newest = |disk: &SimDisk| disk.lose_segment(batches(disk).last().unwrap().segment);
    let sealed = Verdict::ConfirmedRot(RotReason::SealedSegment);
    vec![
        case(Verdict::Accepted, plain(), &|_| {}),
        case(Verdict::EndOfLog, plain(), &|_| {}),
        case(Verdict::Misdirected, plain(), &|disk| {
            disk.damage(1, |bytes| bytes.copy_within(last..last + BLOCK_BYTES, first));
        }),
        case(Verdict::NotOurs, plain(), &foreign),
        case(Verdict::ConfirmedRot(RotReason::DurableMark), plain(), &flip(first + 200)),
        case(sealed, several_segments(), &newest),
        case(Verdict::ConfirmedRot(RotReason::NumberGap), plain(), &jump),
        case(Verdict::Unreadable, plain(), &|disk| disk.make_unreadable(1, found[3].block)),
        case(Verdict::TornTail, plain(), &|disk| disk.damage(1, |bytes| bytes[last..last + 512].fill(0))),
        case(Verdict::RotInWindow, plain(), &flip(last + 200)),
        case(Verdict::RotBeyondWindow, plain(), &|disk| {
            disk.damage(1, |bytes| *bytes.last_mut().unwrap() = 1);
        }),
        case(Verdict::UnconfirmedTail, plain(), &flip(last + 20)),
    ]
}
