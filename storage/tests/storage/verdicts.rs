//! Each row of the recovery table, reached: the finding, its verdict, and what becomes of the log.

use bytes::Bytes;
use tercet_storage::disk::{PowerLoss, SimDisk};
use tercet_storage::format::{BLOCK_BYTES, BatchHeader};
use tercet_storage::inspect::inspect_disk;
use tercet_storage::{Finding, LogError, LogOptions, LostRecord, RotReason, StoreId, Verdict};

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
fn misdirected() {
    // A later batch of our own store where an earlier one should be.
    let disk = written(&[100, 100, 100]);
    let found = batches(&disk);
    disk.damage(1, |bytes| bytes.copy_within(at(&found[3])..at(&found[3]) + BLOCK_BYTES, at(&found[1])));
    let (stepped, found) = finding(&disk);
    let found = found.unwrap();
    assert_eq!((found.verdict, found.lost_batches), (Verdict::Misdirected, 1));
    let (group, lost) = &stepped.report.quarantined[0];
    assert_eq!(*group, 1);
    assert_eq!(lost, &vec![LostRecord::Entries { first: 0, last: 1 }], "what came before entry 2 is missing");
    // A whole older segment in the place of a newer one.
    let disk = several_segments();
    let old = disk.image(1).unwrap();
    disk.damage(3, |bytes| bytes.copy_from_slice(&old));
    let stepped = Stepped::open(&disk, small()).unwrap();
    assert!(stepped.report.findings.iter().any(|finding| finding.verdict == Verdict::Misdirected));
    assert!(!stepped.report.quarantined.is_empty());
}

#[test]
fn not_ours() {
    let other = SimDisk::new(1);
    let options = LogOptions { store: Some(StoreId([9; 16])), ..small() };
    let mut stepped = Stepped::open(&other, options.clone()).unwrap();
    stepped.log.append(1, records(1..2, 1, 100), ignore()).unwrap();
    stepped.settle();
    let foreign = other.image(1).unwrap();

    let disk = written(&[100, 100]);
    let end =
        batches(&disk).iter().map(|header| at(header) + header.blocks as usize * BLOCK_BYTES).max().unwrap();
    disk.damage(1, |bytes| bytes[end..end + BLOCK_BYTES].copy_from_slice(&foreign[..BLOCK_BYTES]));
    let (stepped, found) = verdict(&disk);
    assert_eq!(found, Verdict::NotOurs);
    assert!(stepped.report.quarantined.is_empty() && stepped.report.cut.is_some());
    goes_on(stepped, &disk, 2);

    // A directory that holds only another store's segments is refused, not overwritten.
    let disk = SimDisk::new(1);
    disk.damage(1, |bytes| bytes.extend_from_slice(&foreign));
    disk.damage_note("STORE", Some(format!("{}\n", StoreId([7; 16])).into_bytes()));
    let refused = Stepped::open(&disk, small()).map(|_| ()).unwrap_err();
    assert_eq!(refused, LogError::ForeignStore { expected: StoreId([7; 16]), found: StoreId([9; 16]) });
    // Without the STORE file, the segments say whose they are.
    disk.damage_note("STORE", None);
    let stepped = Stepped::open(&disk, small()).unwrap();
    assert_eq!(stepped.report.store, StoreId([9; 16]));
    assert_eq!(all(&stepped.log, 1).unwrap().len(), 1);
}

#[test]
fn confirmed_rot_below_the_durable_mark() {
    // Batches 2, 3, 4 hold entries 1, 2, 3; batch 4 states that 3 is durable.
    let disk = written(&[2_000, 2_000, 2_000]);
    let found = batches(&disk);
    disk.damage(1, |bytes| bytes[at(&found[1]) + 1_000] ^= 4);
    let (stepped, found) = finding(&disk);
    let found = found.unwrap();
    assert_eq!(found.verdict, Verdict::ConfirmedRot(RotReason::DurableMark));
    assert_eq!(found.records.len(), 1);
    assert_eq!((found.records[0].group, found.records[0].index, found.lost_batches), (1, 1, 0));
    let (_, lost) = &stepped.report.quarantined[0];
    assert!(
        matches!(lost[..], [LostRecord::Entry { index: 1, term: Some(1), payload_crc: Some(_) }]),
        "{lost:?}"
    );
    assert_eq!(stepped.log.read(1, 1..2, 10), Err(LogError::Rot { group: 1, index: 1 }), "never served");
    assert_eq!(stepped.log.read(1, 2..9, 9_999).unwrap(), records(2..4, 1, 2_000), "the rest is");
    assert_eq!(stepped.log.state(1).last, Some(point(3, 1)));
}

#[test]
fn confirmed_rot_of_a_whole_batch_leaves_no_name() {
    let disk = written(&[100, 100, 100, 100]);
    let found = batches(&disk);
    disk.damage(1, |bytes| bytes[at(&found[2])..at(&found[2]) + BLOCK_BYTES].fill(0));
    let (stepped, found) = finding(&disk);
    let found = found.unwrap();
    assert_eq!((found.verdict, found.lost_batches), (Verdict::ConfirmedRot(RotReason::DurableMark), 1));
    // Entry 3 names the term of its predecessor; entry 1, not known to be committed, may have been replaced as well.
    let (_, lost) = &stepped.report.quarantined[0];
    assert!(lost.contains(&LostRecord::Entry { index: 2, term: Some(1), payload_crc: None }), "{lost:?}");
    assert!(!lost.iter().any(|lost| matches!(lost, LostRecord::Tail { .. } | LostRecord::Vote)), "{lost:?}");
    assert_eq!(stepped.log.read(1, 3..5, 9_999).unwrap(), records(3..5, 1, 100));
}

/// Several segments with a purge point in none; confirmed.
fn several_segments() -> SimDisk {
    let disk = SimDisk::new(12);
    let mut stepped = Stepped::open(&disk, small()).unwrap();
    stepped.log.save_vote(1, Bytes::from_static(b"vote"), ignore()).unwrap();
    for index in 1..80 {
        stepped.log.append(1, records(index..index + 1, 1, 3_000), ignore()).unwrap();
        stepped.settle();
    }
    stepped.confirm();
    assert!(stepped.log.stats().segments >= 3);
    disk.power_loss(1, PowerLoss::LosesAll)
}

#[test]
fn confirmed_rot_in_a_sealed_segment() {
    // The last batch of a segment: no later batch needs to state it durable, the next segment's existence does. Made by
    // damaging a segment's unused end.
    let disk = several_segments();
    let length = disk.image(1).unwrap().len();
    disk.damage(1, |bytes| bytes[length - 100] = 1);
    let (stepped, found) = finding(&disk);
    let found = found.unwrap();
    assert!(matches!(found.verdict, Verdict::ConfirmedRot(_)), "{found:?}");
    assert_eq!((found.lost_batches, found.records.len()), (0, 0));
    assert!(stepped.report.quarantined.is_empty(), "nothing was there");
    assert_eq!(all(&stepped.log, 1).unwrap().len(), 79);
}

#[test]
fn sealed_by_the_next_segment_alone() {
    // The log ends with the first batch of a segment; that batch states an older durable mark, but it exists.
    let disk = SimDisk::new(12);
    let mut stepped = Stepped::open(&disk, small()).unwrap();
    let mut index = 1;
    while stepped.log.stats().segments < 2 {
        stepped.log.append(1, records(index..index + 1, 1, 3_000), ignore()).unwrap();
        stepped.settle();
        index += 1;
    }
    let disk = disk.power_loss(1, PowerLoss::LosesAll);
    let found = batches(&disk);
    let last = found.iter().rfind(|header| header.segment == 1).unwrap();
    disk.damage(1, |bytes| bytes[at(last) + 2_000] ^= 1);
    let (stepped, found) = finding(&disk);
    assert!(matches!(found.unwrap().verdict, Verdict::ConfirmedRot(_)));
    assert_eq!(stepped.report.quarantined.len(), 1);
}

#[test]
fn a_gap_in_numbers() {
    let disk = several_segments();
    disk.lose_segment(2);
    let (stepped, found) = finding(&disk);
    let found = found.unwrap();
    assert!(matches!(found.verdict, Verdict::ConfirmedRot(_)), "{found:?}");
    assert!(found.lost_batches > 5);
    let (_, lost) = &stepped.report.quarantined[0];
    let missing = lost.iter().filter(|lost| matches!(lost, LostRecord::Entry { .. })).count();
    assert!(missing > 5, "{lost:?}");
    assert_eq!(stepped.log.state(1).vote, Some(Bytes::from_static(b"vote")), "the next checkpoint has it");
    assert!(!lost.contains(&LostRecord::Vote));

    // The numbers jump from one batch to the next with no place between.
    let disk = written(&[100, 100, 100, 100]);
    let found = batches(&disk);
    let (from, to) = (at(&found[3]), at(&found[2]));
    let moved = BatchHeader { block: found[2].block, ..found[3].clone() }.encode();
    disk.damage(1, |bytes| {
        bytes.copy_within(from..from + BLOCK_BYTES, to);
        bytes[to..to + moved.len()].copy_from_slice(&moved);
    });
    let stepped = Stepped::open(&disk, small()).unwrap();
    let verdicts: Vec<Verdict> = stepped.report.findings.iter().map(|finding| finding.verdict).collect();
    assert!(verdicts.contains(&Verdict::ConfirmedRot(RotReason::NumberGap)), "{verdicts:?}");
    assert!(!stepped.report.quarantined.is_empty());
}

#[test]
fn a_missing_newest_segment_is_not_the_end_of_the_log() {
    let disk = several_segments();
    let newest = batches(&disk).last().unwrap().segment;
    assert!(disk.image(newest + 1).is_some(), "the next one has been made");
    disk.lose_segment(newest);
    let stepped = Stepped::open(&disk, small()).unwrap();
    let (_, lost) = &stepped.report.quarantined[0];
    assert!(lost.iter().any(|lost| matches!(lost, LostRecord::Tail { .. })), "{:?}", stepped.report);
}

#[test]
fn unreadable() {
    let disk = written(&[100, 6_000, 100]);
    let found = batches(&disk);
    disk.make_unreadable(1, found[2].block + 1);
    let (stepped, found) = finding(&disk);
    let found = found.unwrap();
    assert!(
        matches!(found.verdict, Verdict::ConfirmedRot(_)),
        "below the mark, that row comes first: {found:?}"
    );
    assert_eq!(found.records.len(), 1);
    drop(stepped);

    let disk = written(&[100, 6_000]);
    let last = batches(&disk)[2].clone();
    disk.make_unreadable(1, last.block + 1);
    let (stepped, found) = finding(&disk);
    let found = found.unwrap();
    assert_eq!(found.verdict, Verdict::Unreadable, "{found:?}");
    assert_eq!(found.records.len(), 1, "its identity is kept");
    assert!(matches!(stepped.report.quarantined[0].1[..], [LostRecord::Entry { index: 2, .. }]));
    drop(stepped);

    let disk = written(&[100, 6_000]);
    disk.make_unreadable(1, last.block);
    let (stepped, found) = verdict(&disk);
    assert_eq!(found, Verdict::Unreadable);
    let (_, lost) = &stepped.report.quarantined[0];
    assert_eq!(lost, &vec![LostRecord::Tail { after: Some(point(1, 1)) }, LostRecord::Vote]);
}

#[test]
fn torn_tail() {
    // The header has arrived, a sector of the payload has not.
    let disk = written(&[100, 6_000]);
    let last = batches(&disk)[2].clone();
    disk.damage(1, |bytes| bytes[at(&last) + 4096..at(&last) + 4608].fill(0));
    let (stepped, found) = finding(&disk);
    let found = found.unwrap();
    assert_eq!(found.verdict, Verdict::TornTail);
    let cut = stepped.report.cut.unwrap();
    assert_eq!((cut.segment, cut.block, cut.last_batch), (1, last.block, last.number - 1));
    assert!(stepped.report.quarantined.is_empty());
    goes_on(stepped, &disk, 1);

    // The header has not arrived, the rest has.
    let disk = written(&[100, 6_000]);
    disk.damage(1, |bytes| bytes[at(&last)..at(&last) + 512].fill(0));
    let (stepped, found) = verdict(&disk);
    assert_eq!(found, Verdict::TornTail);
    goes_on(stepped, &disk, 1);
}

#[test]
fn rot_in_the_window() {
    let disk = written(&[100, 6_000]);
    let last = batches(&disk)[2].clone();
    disk.damage(1, |bytes| bytes[at(&last) + 5_000] ^= 1);
    let (stepped, found) = finding(&disk);
    let found = found.unwrap();
    assert_eq!(found.verdict, Verdict::RotInWindow);
    assert_eq!((found.records[0].index, found.records[0].term), (2, 1));
    assert!(matches!(
        stepped.report.quarantined[0].1[..],
        [LostRecord::Entry { index: 2, term: Some(1), .. }]
    ));
    assert_eq!(stepped.report.cut, None, "the record keeps its place");
}

#[test]
fn rot_beyond_the_window() {
    let disk = written(&[100]);
    disk.damage(1, |bytes| {
        let length = bytes.len();
        bytes[length - 1] = 1;
    });
    let (stepped, found) = verdict(&disk);
    assert_eq!(found, Verdict::RotBeyondWindow);
    assert!(stepped.report.quarantined[0].1.contains(&LostRecord::Tail { after: Some(point(1, 1)) }));
    drop(stepped);
    // It stays quarantined at the next opening: nothing has been repaired.
    let stepped = Stepped::open(&disk, small()).unwrap();
    assert!(stepped.report.quarantined[0].1.contains(&LostRecord::Tail { after: Some(point(1, 1)) }));

    let disk = written(&[100]);
    disk.damage(1, |bytes| bytes.truncate(20 * BLOCK_BYTES));
    assert_eq!(verdict(&disk).1, Verdict::RotBeyondWindow, "a file that is too short");
}

#[test]
fn unconfirmed_tail() {
    // Header and table of the last batch are both gone, and nothing says whether it was ever whole: G8's residue.
    let disk = written(&[100, 100]);
    let last = batches(&disk)[2].clone();
    disk.damage(1, |bytes| bytes[at(&last) + 20] ^= 1);
    let (stepped, found) = verdict(&disk);
    assert_eq!(found, Verdict::UnconfirmedTail);
    assert!(stepped.report.quarantined.is_empty());
    goes_on(stepped, &disk, 1);

    let disk = written(&[100, 100]);
    disk.damage(1, |bytes| bytes[at(&last) + 130] ^= 1);
    let (stepped, found) = verdict(&disk);
    assert_eq!(found, Verdict::UnconfirmedTail);
    goes_on(stepped, &disk, 1);
}

#[test]
fn an_idle_batch_leaves_no_residue() {
    let disk = SimDisk::new(11);
    let mut stepped = Stepped::open(&disk, small()).unwrap();
    stepped.log.append(1, records(1..2, 1, 100), ignore()).unwrap();
    stepped.confirm();
    let disk = disk.power_loss(1, PowerLoss::LosesAll);
    let entry = batches(&disk)[1].clone();
    disk.damage(1, |bytes| bytes[at(&entry)..at(&entry) + BLOCK_BYTES].fill(0xff));
    let (stepped, found) = verdict(&disk);
    assert_eq!(found, Verdict::ConfirmedRot(RotReason::DurableMark));
    assert!(stepped.report.lost_batches == 1);
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
