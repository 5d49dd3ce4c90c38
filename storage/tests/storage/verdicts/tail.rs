//! The end of the log: interrupted writes, and what passes for one.

use super::*;

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
