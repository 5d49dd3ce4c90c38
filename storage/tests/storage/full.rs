//! A full disk: appends are refused before anything is queued, everything small goes on, and with room so do appends.

use bytes::Bytes;
use tercet_storage::disk::{Disk, DiskError, PowerLoss, SimDisk};
use tercet_storage::{LogError, LogOptions, SegmentLog};

use crate::harness::{
    Stepped, all, done, durably, ignore, payload, point, record, records, small, until, wait,
};

const SEGMENT: u64 = 1 << 20;

/// Segments that are large enough for a reserve to speak of.
fn options() -> LogOptions {
    LogOptions { segment_bytes: SEGMENT, batch_limit_bytes: 64 << 10, ..small() }
}

/// A disk with room for so many segments, filled until an append is refused. Gives the index that comes next.
fn filled(segments: u64, bytes: usize, settle: bool) -> (SimDisk, Stepped, u64) {
    let disk = SimDisk::new(5);
    disk.set_capacity_bytes(Some(segments * SEGMENT));
    let mut stepped = Stepped::open(&disk, options()).unwrap();
    let mut next = 0;
    loop {
        match stepped.log.append(1, records(next..next + 1, 1, bytes), stepped.note(next)) {
            Ok(()) => next += 1,
            Err(LogError::DiskFull) => break,
            Err(other) => panic!("{other}"),
        }
        if settle {
            stepped.settle();
        }
        assert!(next < 100_000, "the disk never fills up");
    }
    (disk, stepped, next)
}

fn outcomes(stepped: &Stepped) -> Vec<(u64, bool)> {
    std::mem::take(&mut *stepped.outcomes.lock().unwrap())
}

#[test]
fn whatever_is_taken_is_written_and_nothing_else_is_taken() {
    for segments in 1..4 {
        for bytes in [10, 3_000, 20_000, 300_000] {
            for settle in [true, false] {
                let what = format!("{segments} segments, {bytes} bytes, settling {settle}");
                let (disk, mut stepped, next) = filled(segments, bytes, settle);
                assert!(next > 0, "{what}");
                assert_eq!(stepped.log.state(1).last, Some(point(next - 1, 1)), "a refusal changes nothing");
                for _ in 0..20_000 {
                    stepped.step();
                    if stepped.driver.is_settled() {
                        break;
                    }
                }
                assert!(stepped.driver.is_settled(), "{what}: appends that were taken wait for room");
                let found = outcomes(&stepped);
                assert_eq!(found.len() as u64, next, "{what}");
                assert!(found.iter().all(|(_, ok)| *ok), "{what}");
                let stats = stepped.log.stats();
                // What waited counted for more than it took in the end, so that there may be room again.
                assert!(stats.last_segment_room_bytes.is_some() || !settle, "{what}: {stats:?}");
                assert!(stats.disk_full || !settle || bytes > 4_000, "{what}: {stats:?}");
                assert_eq!(stepped.log.failure(), None);
                drop(stepped);
                let again = Stepped::open(&disk.power_loss(1, PowerLoss::LosesAll), options()).unwrap();
                assert_eq!(all(&again.log, 1).unwrap(), records(0..next, 1, bytes), "{what}");
            }
        }
    }
}

#[test]
fn everything_small_goes_on() {
    for segments in 1..5 {
        let (disk, mut stepped, next) = filled(segments, 3_000, true);
        outcomes(&stepped);
        let log = stepped.log.clone();
        for round in 0..3 {
            log.save_vote(2, Bytes::from(vec![round; 40]), stepped.note(1)).unwrap();
            stepped.settle();
        }
        log.truncate_after(1, Some(point(next - 2, 1)), stepped.note(2)).unwrap();
        stepped.settle();
        log.save_committed(1, point(next - 2, 1)).unwrap();
        stepped.confirm();
        log.purge(1, point(2, 1), stepped.note(3)).unwrap();
        stepped.settle();
        log.tail_settled(1, stepped.note(4)).unwrap();
        stepped.settle();
        assert_eq!(outcomes(&stepped), [1, 1, 1, 2, 3, 4].map(|call| (call, true)).to_vec());
        assert_eq!(all(&log, 1).unwrap(), records(3..next - 1, 1, 3_000), "reads go on");
        drop((log, stepped));
        let again = Stepped::open(&disk, options()).unwrap();
        assert_eq!(again.log.state(2).vote, Some(Bytes::from(vec![2; 40])));
        let state = again.log.state(1);
        assert_eq!((state.last, state.committed), (Some(point(next - 2, 1)), Some(point(next - 2, 1))));
        assert_eq!(all(&again.log, 1).unwrap(), records(3..next - 1, 1, 3_000));
    }
}

#[test]
fn a_damaged_entry_is_restored_on_a_full_disk() {
    let (disk, stepped, _) = filled(3, 3_000, true);
    drop(stepped);
    let disk = disk.power_loss(1, PowerLoss::LosesAll);
    let (header, at) = crate::repair::place_of(&disk, 1, 4);
    disk.damage(header.segment, |bytes| bytes[at] ^= 1);
    let mut stepped = Stepped::open(&disk, options()).unwrap();
    assert!(stepped.log.is_damaged(1));
    stepped.log.restore(1, record(4, 1, payload(4, 1, 3_000)), stepped.note(1)).unwrap();
    stepped.settle();
    assert_eq!(outcomes(&stepped), vec![(1, true)]);
    assert!(!stepped.log.is_damaged(1));
}

/// Rot has taken header and table of a batch and of all that follow: recovery cuts there and must say so in a segment for
/// which the disk has no room.
#[test]
fn a_cut_by_rot_on_a_full_disk_goes_on_in_the_reserve() {
    for segments in 1..4 {
        let (disk, stepped, next) = filled(segments, 3_000, true);
        drop(stepped);
        let disk = disk.power_loss(1, PowerLoss::LosesAll);
        let ends = crate::repair::batches(&disk);
        let first = &ends[ends.len() - 100];
        disk.damage(first.segment, |bytes| bytes[first.block as usize * 4_096..].fill(0xa5));
        let mut stepped = Stepped::open(&disk, options()).unwrap();
        let held = stepped.log.state(1).last.unwrap();
        assert!(held.index < next - 1 && stepped.log.is_damaged(1), "{:?}", stepped.report);
        let mut entries =
            (0..100).map(|index| stepped.log.append(2, records(index..index + 1, 1, 3_000), ignore()));
        assert_eq!(
            entries.find(Result::is_err),
            Some(Err(LogError::DiskFull)),
            "a small segment is soon full"
        );
        stepped.log.save_vote(2, Bytes::from_static(b"vote"), stepped.note(1)).unwrap();
        stepped.settle();
        assert_eq!(outcomes(&stepped), [(1, true)], "a vote goes on");
        drop(stepped);
        // What is lost stays known, and there is no need of another reserve.
        for round in 0..3 {
            let mut again = Stepped::open(&disk, options()).unwrap();
            assert!(again.log.is_damaged(1), "{round}: {:?}", again.report);
            assert_eq!(again.log.state(2).vote, Some(Bytes::from_static(b"vote")));
            assert_eq!(all(&again.log, 1).unwrap(), records(0..held.index + 1, 1, 3_000));
            if round == 1 {
                again.log.tail_settled(1, ignore()).unwrap();
                again.log.save_vote(1, Bytes::from_static(b"vote"), ignore()).unwrap();
                disk.set_capacity_bytes(None);
                let more = records(held.index + 1..held.index + 60, 2, 3_000);
                for _ in 0..5 {
                    again.step();
                }
                assert!(!again.log.stats().disk_full, "there is room again");
                again.log.append(1, more, again.note(2)).unwrap();
                again.settle();
                assert_eq!(outcomes(&again), [(2, true)]);
                break;
            }
        }
        let again = Stepped::open(&disk, options()).unwrap();
        assert!(!again.log.is_damaged(1) && again.report.quarantined.is_empty(), "{:?}", again.report);
        assert_eq!(again.log.state(1).last, Some(point(held.index + 59, 2)));
    }
}

#[test]
fn even_the_reserve_ends_with_a_refusal_and_a_purge_makes_room() {
    let (_disk, mut stepped, next) = filled(3, 3_000, true);
    let log = stepped.log.clone();
    let mut votes = 0;
    let refused = loop {
        match log.save_vote(1, Bytes::from(vec![7; 2_000]), stepped.note(10)) {
            Ok(()) => votes += 1,
            Err(error) => break error,
        }
        stepped.settle();
        assert!(votes < 1_000);
    };
    assert_eq!(refused, LogError::DiskFull);
    assert!(votes >= 15, "{votes}");
    assert_eq!(log.truncate_after(1, Some(point(next - 2, 1)), ignore()), Err(LogError::DiskFull));
    outcomes(&stepped);
    log.purge(1, point(next - 2, 1), stepped.note(1)).unwrap();
    stepped.confirm();
    assert_eq!(outcomes(&stepped), vec![(1, true)], "purges come last");
    stepped.confirm();
    for _ in 0..5 {
        stepped.step();
    }
    assert!(!log.stats().disk_full, "{:?}", log.stats());
    log.append(1, records(next..next + 3, 1, 3_000), stepped.note(2)).unwrap();
    log.save_vote(1, Bytes::from_static(b"vote"), stepped.note(3)).unwrap();
    stepped.settle();
    assert_eq!(outcomes(&stepped).len(), 2);
}

#[test]
fn what_waits_for_room_holds_up_no_other_group() {
    // Nobody knows how much room there is, and then there is none: entries have been taken that find no place.
    let disk = SimDisk::new(5);
    disk.set_capacity_bytes(Some(2 * SEGMENT));
    let mut stepped = Stepped::open(&disk, options()).unwrap();
    let log = stepped.log.clone();
    log.append(2, records(0..4, 1, 100), ignore()).unwrap();
    log.append(3, records(0..4, 1, 100), ignore()).unwrap();
    stepped.settle();
    let mut next = 0;
    while stepped.log.stats().segments < 2 {
        log.append(1, records(next..next + 1, 1, 3_000), ignore()).unwrap();
        next += 1;
        stepped.settle();
    }
    disk.set_capacity_bytes(None);
    let kept = next + 450;
    for _ in 0..500 {
        log.append(1, records(next..next + 1, 1, 3_000), stepped.note(100 + next)).unwrap();
        next += 1;
    }
    disk.set_capacity_bytes(Some(2 * SEGMENT));
    log.truncate_after(2, Some(point(1, 1)), stepped.note(1)).unwrap();
    log.purge(3, point(1, 1), stepped.note(2)).unwrap();
    log.purge(1, point(2, 1), stepped.note(3)).unwrap();
    log.save_vote(1, Bytes::from_static(b"vote"), stepped.note(4)).unwrap();
    for _ in 0..2_000 {
        stepped.step();
    }
    let waiting = outcomes(&stepped);
    for call in 1..5 {
        assert!(waiting.contains(&(call, true)), "call {call} waits for the entries of group 1");
    }
    assert!(waiting.len() < 504, "entries wait");
    assert_eq!(log.append(1, records(next..next + 1, 1, 10), ignore()), Err(LogError::DiskFull));
    // A truncation takes what waits out of the queue. What it keeps of it goes on waiting, with the calls that brought it.
    log.truncate_after(1, Some(point(kept, 1)), stepped.note(5)).unwrap();
    for _ in 0..2_000 {
        stepped.step();
    }
    assert_eq!(outcomes(&stepped), [(5, true)], "what was cut short is answered with what is left");
    assert!(!log.is_durable(1, point(kept, 1)) && log.is_durable(1, point(3, 1)));
    let written = Stepped::open(&disk.power_loss(1, PowerLoss::KeepsAll), options()).unwrap();
    assert!(
        written.log.state(1).last.unwrap().index < kept,
        "nothing behind the truncation was ever written"
    );
    disk.set_capacity_bytes(None);
    stepped.settle();
    assert!(stepped.driver.is_settled() && log.is_durable(1, point(kept, 1)));
    let found = outcomes(&stepped);
    assert!(found.is_sorted() && found.last() == Some(&(99 + next, true)), "{found:?}");
    drop((log, stepped));
    let again = Stepped::open(&disk, options()).unwrap();
    assert_eq!(all(&again.log, 1).unwrap(), records(3..kept + 1, 1, 3_000));
    assert_eq!(all(&again.log, 2).unwrap(), records(0..2, 1, 100));
    assert_eq!(all(&again.log, 3).unwrap(), records(2..4, 1, 100));
}

/// Entries of a caller that cannot be refused, cut short and replaced while they wait, several times over.
#[test]
fn what_may_not_be_refused_waits_and_can_be_cut_short() {
    let (disk, mut stepped, next) = filled(2, 3_000, true);
    let log = stepped.log.clone();
    outcomes(&stepped);
    let mut end = next;
    for (term, cut) in [(2, 125), (3, 110), (4, 112), (5, 140)] {
        let more = records(end..end + 130, term, 3_000);
        log.append_or_wait(1, more, stepped.note(u64::from(term == 5))).unwrap();
        let kept = log.point(1, next + cut).unwrap();
        log.truncate_after(1, Some(kept), stepped.note(10 + term)).unwrap();
        end = kept.index + 1;
        log.save_vote(1, Bytes::from(format!("term {term}")), stepped.note(20 + term)).unwrap();
        for _ in 0..200 {
            stepped.step();
        }
    }
    let answered: Vec<u64> = outcomes(&stepped).into_iter().map(|(call, _)| call).collect();
    assert_eq!(answered, [12, 22, 13, 23, 14, 24, 15, 25], "votes and truncations go on");
    assert_eq!(log.append(1, records(end..end + 1, 5, 10), ignore()), Err(LogError::DiskFull));
    let held = all(&log, 1).unwrap();
    assert_eq!(held.last().unwrap().point(), point(next + 140, 5));
    // A crash before there is room takes them, and nothing else.
    let crashed = Stepped::open(&disk.power_loss(1, PowerLoss::LosesAll), options()).unwrap();
    let left = all(&crashed.log, 1).unwrap();
    assert!(left.len() as u64 >= next && held.starts_with(&left), "{} of {}", left.len(), held.len());
    assert_eq!(crashed.log.state(1).vote, Some(Bytes::from_static(b"term 5")));
    disk.set_capacity_bytes(None);
    stepped.settle();
    assert_eq!(outcomes(&stepped), [0, 0, 0, 1].map(|call| (call, true)).to_vec());
    drop((log, stepped));
    let again = Stepped::open(&disk.power_loss(1, PowerLoss::LosesAll), options()).unwrap();
    assert_eq!(all(&again.log, 1).unwrap(), held);
}

#[test]
fn what_waits_is_written_when_room_returns() {
    let disk = SimDisk::new(5);
    let mut stepped = Stepped::open(&disk, options()).unwrap();
    let log = stepped.log.clone();
    for index in 0..900 {
        log.append(1, records(index..index + 1, 1, 3_000), stepped.note(index)).unwrap();
    }
    disk.set_capacity_bytes(Some(2 * SEGMENT));
    for _ in 0..2_000 {
        stepped.step();
    }
    assert!(stepped.outcomes.lock().unwrap().len() < 900);
    assert!(log.stats().disk_full && log.stats().last_segment_room_bytes.is_some(), "{:?}", log.stats());
    disk.set_capacity_bytes(None);
    stepped.settle();
    assert_eq!(outcomes(&stepped), (0..900).map(|index| (index, true)).collect::<Vec<_>>());
    assert!(!log.stats().disk_full && log.stats().last_segment_room_bytes.is_none());
}

#[test]
fn a_power_failure_on_a_full_disk_is_recovered_from() {
    for segments in 1..3 {
        let (disk, mut stepped, next) = filled(segments, 3_000, true);
        stepped.log.save_vote(1, Bytes::from_static(b"vote"), stepped.note(1)).unwrap();
        stepped.log.truncate_after(1, Some(point(next - 2, 1)), ignore()).unwrap();
        outcomes(&stepped);
        for step in 0..8 {
            for loss in [PowerLoss::LosesAll, PowerLoss::KeepsAll] {
                let copy = disk.power_loss(step, loss);
                let again = Stepped::open(&copy, options()).unwrap();
                assert!(again.report.quarantined.is_empty(), "{:?}", again.report);
                let last = again.log.state(1).last;
                assert!(last == Some(point(next - 1, 1)) || last == Some(point(next - 2, 1)), "{last:?}");
                drop(again);
                // And again while the interrupted write is being wiped.
                for events in 0..3 {
                    let copy = disk.power_loss(step, loss);
                    copy.stop_at(copy.events() + events);
                    drop(Stepped::open(&copy, options()));
                    let copy = copy.power_loss(events, PowerLoss::Tears);
                    let again = Stepped::open(&copy, options()).unwrap();
                    assert!(again.report.quarantined.is_empty(), "{:?}", again.report);
                }
                let again = Stepped::open(&copy, options()).unwrap();
                if stepped.outcomes.lock().unwrap().contains(&(1, true)) {
                    assert_eq!(again.log.state(1).vote, Some(Bytes::from_static(b"vote")));
                }
            }
            stepped.step();
        }
    }
}

#[test]
fn with_threads_writing_resumes_by_itself() {
    let disk = SimDisk::new(5);
    disk.set_capacity_bytes(Some(3 * SEGMENT));
    let options = LogOptions { idle_confirm_us: 1_000, ..options() };
    let (log, _) = SegmentLog::open(Box::new(disk.clone()), options).unwrap();
    let mut next = 0;
    while durably(|done| log.append(1, records(next..next + 1, 1, 3_000), done)).is_ok() {
        next += 1;
        assert!(next < 1_000);
    }
    assert!(log.stats().disk_full);
    durably(|done| log.save_vote(1, Bytes::from_static(b"vote"), done)).unwrap();
    disk.set_capacity_bytes(None);
    until("the next segment is made", || !log.stats().disk_full);
    durably(|done| log.append(1, records(next..next + 40, 1, 3_000), done)).unwrap();
    log.close();
    assert_eq!(log.failure(), None);
}

#[test]
fn closing_a_full_log_answers_everybody() {
    let disk = SimDisk::new(5);
    let (log, _) = SegmentLog::open(Box::new(disk.clone()), options()).unwrap();
    disk.set_capacity_bytes(Some(2 * SEGMENT));
    let mut waiting = Vec::new();
    for index in 0..2_000 {
        let (callback, receiver) = done();
        match log.append(1, records(index..index + 1, 1, 3_000), callback) {
            Ok(()) => waiting.push(receiver),
            Err(error) => {
                assert_eq!(error, LogError::DiskFull);
                break;
            }
        }
    }
    log.close();
    for receiver in waiting {
        let answer = wait(&receiver);
        assert!(answer.is_ok() || answer == Err(LogError::DiskFull), "{answer:?}");
    }
    assert!(!matches!(log.failure(), Some(LogError::Failed(DiskError::Full { .. }))));
}

/// A node tells a disk that stands still from one that is full by what the log waits for, and bounds what is in memory by it.
#[test]
fn what_waits_for_room_does_not_wait_for_the_disk() {
    let seen = |stepped: &Stepped| {
        let stats = stepped.log.stats();
        assert_eq!(stats.unfinished_bytes, stepped.log.unfinished_bytes());
        (stats.unfinished_bytes, stats.waits_for_disk)
    };
    let mut stepped = Stepped::open(&SimDisk::new(5), options()).unwrap();
    stepped.settle();
    assert_eq!(seen(&stepped), (0, false));
    stepped.log.append(1, records(0..3, 1, 3_000), ignore()).unwrap();
    assert_eq!(seen(&stepped), (9_000, true), "nobody has driven the disk");
    stepped.settle();
    assert_eq!(seen(&stepped), (0, false));

    let (_disk, mut stepped, next) = filled(2, 3_000, true);
    stepped.log.append_or_wait(1, records(next..next + 300, 1, 3_000), ignore()).unwrap();
    for _ in 0..2_000 {
        stepped.step();
    }
    let (bytes, waits) = seen(&stepped);
    assert!(bytes > 0 && !waits, "{bytes} bytes wait for room");
    assert_eq!(stepped.log.stats().last_segment_room_bytes, Some(0), "what waits has it already");
    stepped.log.truncate_after(1, Some(point(next - 1, 1)), ignore()).unwrap();
    stepped.settle();
    assert_eq!(seen(&stepped), (0, false));
}

/// Others on the disk need room, too: the log makes no segment of the last that is free, and goes on when there is more.
#[test]
fn no_segment_is_made_of_what_is_to_stay_free() {
    let disk = SimDisk::new(5);
    disk.set_capacity_bytes(Some(5 * SEGMENT));
    let keeps = LogOptions { keep_free_bytes: 2 * SEGMENT, ..options() };
    let mut stepped = Stepped::open(&disk, keeps).unwrap();
    let mut next = 0;
    while stepped.log.append(1, records(next..next + 1, 1, 3_000), ignore()).is_ok() {
        stepped.settle();
        next += 1;
        assert!(next < 10_000, "the disk never fills up");
    }
    assert!(disk.free_bytes().unwrap() >= 2 * SEGMENT, "{:?}", disk.free_bytes());
    assert!(stepped.log.stats().disk_full);
    disk.set_capacity_bytes(None);
    for _ in 0..100 {
        stepped.step();
    }
    stepped.log.append(1, records(next..next + 1, 1, 3_000), ignore()).unwrap();
    stepped.settle();
    assert_eq!(stepped.log.state(1).durable_last, Some(point(next, 1)));
}
