//! What is misplaced, not ours, or known to have been durable: misdirected blocks, confirmed rot, unreadable blocks.

use super::*;

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
pub(super) fn several_segments() -> SimDisk {
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
