//! What the log does, on every disk alike.

use bytes::Bytes;
use tercet_storage::disk::{PowerLoss, SimDisk};
use tercet_storage::{LogError, LogOptions, SegmentLog};

use crate::harness::{
    Stepped, all, done, durably, ignore, on_every_disk, payload, point, record, records, small, until, wait,
};

fn open(disk: &crate::harness::OpenDisk) -> SegmentLog {
    let (log, report) = SegmentLog::open(disk(), small()).unwrap();
    assert!(report.quarantined.is_empty(), "{report:?}");
    log
}

#[test]
fn entries_are_readable_at_once_and_after_reopening() {
    on_every_disk(|name, disk| {
        let log = open(&disk);
        let (callback, receiver) = done();
        log.append(1, records(1..4, 1, 100), callback).unwrap();
        assert_eq!(all(&log, 1).unwrap(), records(1..4, 1, 100), "{name}: before they are durable");
        wait(&receiver).unwrap();
        assert_eq!(log.state(1).durable_last, Some(point(3, 1)));
        durably(|done| log.append(1, records(4..6, 2, 5_000), done)).unwrap();
        durably(|done| log.append(8, vec![record(0, 0, "zero")], done)).unwrap();
        log.save_committed(1, point(4, 2)).unwrap();
        log.close();
        assert_eq!(log.append(1, records(6..7, 2, 1), ignore()), Err(LogError::Closed));
        drop(log);

        let log = open(&disk);
        assert_eq!(log.groups(), vec![1, 8], "{name}");
        let mut expected = records(1..4, 1, 100);
        expected.extend(records(4..6, 2, 5_000));
        assert_eq!(all(&log, 1).unwrap(), expected, "{name}");
        let state = log.state(1);
        assert_eq!((state.last, state.durable_last), (Some(point(5, 2)), Some(point(5, 2))));
        assert_eq!(state.committed, Some(point(4, 2)), "{name}: close has written it");
        assert_eq!(log.state(8).last, Some(point(0, 0)));
        assert_eq!(log.point(1, 4), Some(point(4, 2)));
        assert_eq!(log.point(1, 6), None);
        assert_eq!(log.state(77), Default::default());
        log.close();
    });
}

#[test]
fn indexes_must_follow_and_reads_keep_to_their_bounds() {
    on_every_disk(|name, disk| {
        let log = open(&disk);
        log.append(1, records(10..20, 1, 1_000), ignore()).unwrap();
        let refused = log.append(1, records(21..22, 1, 1), ignore());
        assert_eq!(refused, Err(LogError::NotConsecutive { group: 1, expected: 20, got: 21 }), "{name}");
        let refused = log.append(1, vec![record(20, 1, "a"), record(20, 1, "b")], ignore());
        assert_eq!(refused, Err(LogError::NotConsecutive { group: 1, expected: 21, got: 20 }));
        assert_eq!(log.state(1).last, Some(point(19, 1)), "a refused append changes nothing");
        let read = |range, bytes| -> Vec<u64> {
            log.read(1, range, bytes).unwrap().iter().map(|record| record.index).collect()
        };
        assert_eq!(read(0..12, usize::MAX), vec![10, 11]);
        assert_eq!(read(12..100, 2_500), vec![12, 13]);
        assert_eq!(read(12..100, 0), vec![12], "at least one");
        assert_eq!(read(20..100, 100), Vec::<u64>::new());
        assert_eq!(log.read(2, 0..10, 100).unwrap(), vec![]);
        let bytes = |range| log.payload_bytes(1, range);
        assert_eq!((bytes(0..12), bytes(12..15), bytes(15..100)), (2_000, 3_000, 5_000), "{name}");
        assert_eq!((bytes(0..10), bytes(20..30), bytes(0..u64::MAX)), (0, 0, 10_000));
        assert_eq!(log.payload_bytes(2, 0..10), 0);
        log.close();
    });
}

#[test]
fn truncation_and_purge_survive() {
    on_every_disk(|name, disk| {
        let log = open(&disk);
        log.append(1, records(1..10, 1, 50), ignore()).unwrap();
        let wrong = log.truncate_after(1, Some(point(5, 2)), ignore());
        assert_eq!(wrong, Err(LogError::NoSuchPoint { group: 1, point: point(5, 2) }));
        // Before the entries are durable, perhaps before they are written.
        log.truncate_after(1, Some(point(5, 1)), ignore()).unwrap();
        assert_eq!(log.state(1).last, Some(point(5, 1)));
        durably(|done| log.append(1, records(6..8, 2, 60), done)).unwrap();
        durably(|done| log.purge(1, point(2, 1), done)).unwrap();
        let mut expected = records(3..6, 1, 50);
        expected.extend(records(6..8, 2, 60));
        assert_eq!(all(&log, 1).unwrap(), expected, "{name}");
        // A snapshot beyond the end, then the log goes on behind it.
        log.append(2, records(1..3, 1, 9), ignore()).unwrap();
        durably(|done| log.purge(2, point(100, 4), done)).unwrap();
        assert_eq!(log.state(2).last, Some(point(100, 4)));
        durably(|done| log.append(2, records(101..103, 4, 9), done)).unwrap();
        // Everything gone.
        log.append(3, records(1..3, 1, 9), ignore()).unwrap();
        durably(|done| log.truncate_after(3, None, done)).unwrap();
        drop(log);

        let log = open(&disk);
        assert_eq!(all(&log, 1).unwrap(), expected, "{name}");
        let state = log.state(1);
        assert_eq!((state.purged, state.last), (Some(point(2, 1)), Some(point(7, 2))), "{name}");
        assert_eq!(all(&log, 2).unwrap(), records(101..103, 4, 9), "{name}");
        assert_eq!(log.point(2, 100), Some(point(100, 4)));
        assert_eq!(log.state(3).last, None, "{name}");
        log.append(3, records(5..6, 2, 9), ignore()).unwrap();
        log.close();
        drop(log);
        let log = open(&disk);
        assert_eq!(all(&log, 3).unwrap(), records(5..6, 2, 9), "{name}");
        log.close();
    });
}

#[test]
fn the_newest_vote_survives() {
    on_every_disk(|name, disk| {
        let log = open(&disk);
        for term in 0..5_u8 {
            durably(|done| log.save_vote(1, Bytes::from(vec![term; 20]), done)).unwrap();
        }
        assert_eq!(log.state(1).vote, Some(Bytes::from(vec![4; 20])));
        let too_large = log.save_vote(1, Bytes::from(vec![0; 3_000]), ignore());
        assert!(matches!(too_large, Err(LogError::RecordTooLarge { .. })));
        drop(log);
        let log = open(&disk);
        assert_eq!(log.state(1).vote, Some(Bytes::from(vec![4; 20])), "{name}");
        log.close();
    });
}

#[test]
fn many_segments_are_rolled_through_and_old_ones_go() {
    on_every_disk(|name, disk| {
        let log = open(&disk);
        durably(|done| log.save_vote(1, Bytes::from_static(b"vote"), done)).unwrap();
        let mut next = 1;
        for round in 0..60_u64 {
            let size = usize::try_from(round % 7 * 900 + 10).unwrap();
            durably(|done| log.append(1, records(next..next + 10, 1 + round / 20, size), done)).unwrap();
            next += 10;
        }
        let before = log.stats();
        assert!(before.segments > 5, "{name}: {before:?}");
        let kept = next - 20;
        let upto = log.point(1, kept - 1).unwrap();
        durably(|done| log.purge(1, upto, done)).unwrap();
        // The removal waits until a batch has stated that the segments are not needed; an idle one will do.
        until("old segments are removed", || log.stats().segments <= 3);
        let found = all(&log, 1).unwrap();
        assert_eq!(found.first().map(|record| record.index), Some(kept));
        assert_eq!(found.len(), 20);
        durably(|done| log.append(1, records(next..next + 1, 9, 30_000), done)).unwrap();
        drop(log);
        let log = open(&disk);
        assert_eq!(log.state(1).vote, Some(Bytes::from_static(b"vote")), "{name}");
        assert_eq!(all(&log, 1).unwrap().len(), 21, "{name}");
        assert!(log.stats().segments <= 4, "{name}: {:?}", log.stats());
        log.close();
    });
}

#[test]
fn a_record_larger_than_a_batch_goes_alone_and_one_larger_than_that_is_refused() {
    on_every_disk(|name, disk| {
        let log = open(&disk);
        for round in 0..6_u64 {
            let index = round * 3 + 1;
            log.append(1, records(index..index + 1, 1, 100), ignore()).unwrap();
            log.append(1, records(index + 1..index + 2, 1, 60_000), ignore()).unwrap();
            durably(|done| log.append(1, records(index + 2..index + 3, 1, 100), done)).unwrap();
        }
        let refused = log.append(1, records(19..20, 1, 70_000), ignore());
        assert!(
            matches!(refused, Err(LogError::RecordTooLarge { bytes: 70_000, .. })),
            "{name}: {refused:?}"
        );
        drop(log);
        let log = open(&disk);
        let found = all(&log, 1).unwrap();
        assert_eq!(found.len(), 18, "{name}");
        assert_eq!(found[1].payload, payload(2, 1, 60_000));
        log.close();
    });
}

#[test]
fn an_empty_append_is_answered_in_its_turn() {
    on_every_disk(|_, disk| {
        let log = open(&disk);
        durably(|done| log.append(1, vec![], done)).unwrap();
        let (first, first_done) = done();
        let (second, second_done) = done();
        log.append(1, records(1..2, 1, 10), first).unwrap();
        log.append(1, vec![], second).unwrap();
        wait(&second_done).unwrap();
        assert!(first_done.try_recv().is_ok(), "the one before it was answered before");
        log.close();
    });
}

#[test]
fn concurrent_appends_to_many_groups_merge_and_stay_in_order() {
    on_every_disk(|name, disk| {
        let log = open(&disk);
        std::thread::scope(|scope| {
            for group in 0..8 {
                let log = log.clone();
                scope.spawn(move || {
                    let (sender, order) = std::sync::mpsc::channel();
                    for index in 1..=100 {
                        let sender = sender.clone();
                        let done = Box::new(move |result: Result<(), LogError>| {
                            result.unwrap();
                            sender.send(index).unwrap();
                        });
                        log.append(group, records(index..index + 1, 1, 200), done).unwrap();
                    }
                    let seen: Vec<u64> = order.iter().take(100).collect();
                    assert_eq!(seen, (1..=100).collect::<Vec<_>>());
                });
            }
        });
        let stats = log.stats();
        assert!(stats.batches < 700, "{name}: appends are merged: {stats:?}");
        log.close();
        drop(log);
        let log = open(&disk);
        for group in 0..8 {
            assert_eq!(all(&log, group).unwrap(), records(1..101, 1, 200), "{name}");
        }
        log.close();
    });
}

#[test]
fn an_idle_batch_confirms_the_last_one() {
    on_every_disk(|name, disk| {
        let log = open(&disk);
        durably(|done| log.append(1, records(1..2, 1, 10), done)).unwrap();
        until("the idle batch", || log.stats().idle_batches > 0);
        log.close();
        drop(log);
        let (log, report) = SegmentLog::open(disk(), small()).unwrap();
        assert!(report.durable_mark + 1 >= report.last_batch, "{name}: {report:?}");
        log.close();
        assert_eq!(log.stats().batches, 0, "{name}: nothing needs to be confirmed twice");
    });
}

#[test]
fn old_entries_are_read_from_the_file_and_memory_stays_bounded() {
    on_every_disk(|name, disk| {
        let log = open(&disk);
        for index in 1..200 {
            log.append(1, records(index..index + 1, 1, 1_000), ignore()).unwrap();
        }
        durably(|done| log.append(1, vec![], done)).unwrap();
        assert!(log.stats().cached_bytes <= 17 << 10, "{name}: {:?}", log.stats());
        assert_eq!(all(&log, 1).unwrap(), records(1..200, 1, 1_000), "{name}");
        log.close();
        assert_eq!(all(&log, 1).unwrap().len(), 199, "{name}: reads go on after closing");
    });
}

#[test]
fn a_failed_write_or_fsync_is_the_end() {
    for fail_write in [true, false] {
        let disk = SimDisk::new(3);
        let mut stepped = Stepped::open(&disk, small()).unwrap();
        stepped.log.append(1, records(1..2, 1, 10), stepped.note(1)).unwrap();
        stepped.settle();
        let seen = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let hook = std::sync::Arc::clone(&seen);
        stepped.log.on_failure(Box::new(move |error| hook.lock().unwrap().push(error.clone())));
        if fail_write {
            disk.fail_next_write()
        } else {
            disk.fail_next_sync()
        };
        stepped.log.append(1, records(2..3, 1, 10), stepped.note(2)).unwrap();
        stepped.log.save_vote(1, Bytes::from_static(b"v"), stepped.note(3)).unwrap();
        for _ in 0..20 {
            stepped.step();
        }
        let failure = stepped.log.failure().unwrap();
        assert!(matches!(failure, LogError::Failed(_)));
        assert_eq!(*seen.lock().unwrap(), vec![failure.clone()], "the hook is called once");
        let outcomes = stepped.outcomes.lock().unwrap().clone();
        assert!(
            outcomes.contains(&(1, true)) && outcomes.contains(&(2, false)) && outcomes.contains(&(3, false))
        );
        assert_eq!(stepped.log.append(1, records(3..4, 1, 10), ignore()), Err(failure.clone()));
        assert_eq!(stepped.log.save_vote(1, Bytes::new(), ignore()), Err(failure));
        assert_eq!(all(&stepped.log, 1).unwrap().len(), 2, "reads go on");
        assert!(!stepped.step(), "nothing is tried again");
        stepped.log.close();
    }
}

#[test]
fn a_full_disk_refuses_appends_takes_votes_and_recovers() {
    let disk = SimDisk::new(5);
    disk.set_capacity_bytes(Some(3 * (128 << 10)));
    let mut stepped = Stepped::open(&disk, small()).unwrap();
    let mut next = 1;
    let refused = loop {
        match stepped.log.append(1, records(next..next + 1, 1, 3_000), stepped.note(next)) {
            Ok(()) => next += 1,
            Err(error) => break error,
        }
        stepped.settle();
        assert!(next < 1_000, "the disk never fills up");
    };
    assert_eq!(refused, LogError::DiskFull);
    assert!(stepped.log.failure().is_none(), "a full disk is not a failure");
    assert!(stepped.log.stats().disk_full);
    stepped.log.save_vote(1, Bytes::from_static(b"vote"), stepped.note(10_000)).unwrap();
    stepped.settle();
    assert!(stepped.outcomes.lock().unwrap().contains(&(10_000, true)), "votes still fit");
    assert_eq!(all(&stepped.log, 1).unwrap().len() as u64, next - 1, "reads go on");
    disk.set_capacity_bytes(None);
    stepped.step();
    stepped.log.append(1, records(next..next + 20, 1, 3_000), stepped.note(20_000)).unwrap();
    stepped.settle();
    let outcomes = stepped.outcomes.lock().unwrap().clone();
    assert!(outcomes.contains(&(20_000, true)), "with space, writing goes on");
    assert!(outcomes.iter().all(|(_, ok)| *ok));
    let purge = stepped.log.point(1, next).unwrap();
    stepped.log.purge(1, purge, stepped.note(20_001)).unwrap();
    stepped.confirm();
    drop(stepped);
    let again = Stepped::open(&disk, small()).unwrap();
    assert_eq!(again.log.state(1).vote, Some(Bytes::from_static(b"vote")));
    assert_eq!(all(&again.log, 1).unwrap().len(), 19);
}

#[test]
fn room_that_a_purge_makes_ends_a_full_disk() {
    let disk = SimDisk::new(5);
    disk.set_capacity_bytes(Some(4 * (128 << 10)));
    let mut stepped = Stepped::open(&disk, small()).unwrap();
    let mut next = 1;
    while stepped.log.append(1, records(next..next + 1, 1, 3_000), ignore()).is_ok() {
        next += 1;
        stepped.settle();
        assert!(next < 1_000);
    }
    stepped.log.purge(1, point(next - 5, 1), stepped.note(1)).unwrap();
    stepped.confirm();
    for _ in 0..5 {
        stepped.step();
    }
    assert!(!stepped.log.stats().disk_full);
    for _ in 0..200 {
        stepped.log.append(1, records(next..next + 1, 1, 3_000), stepped.note(next + 10)).unwrap();
        next += 1;
        stepped.settle();
        let upto = point(next - 5, 1);
        stepped.log.purge(1, upto, ignore()).unwrap();
        stepped.confirm();
    }
    assert!(stepped.outcomes.lock().unwrap().iter().all(|(_, ok)| *ok));
    assert!(stepped.log.stats().segments_removed > 3, "{:?}", stepped.log.stats());
}

#[test]
fn bad_options_are_refused_by_name() {
    let refused = |options: LogOptions| match SegmentLog::open(Box::new(SimDisk::new(1)), options) {
        Err(LogError::InvalidOption { field, .. }) => field,
        other => panic!("{:?}", other.map(|(_, report)| report)),
    };
    assert_eq!(refused(LogOptions { segment_bytes: 100_000, ..small() }), "segment_bytes");
    assert_eq!(refused(LogOptions { segment_bytes: 4096, ..small() }), "segment_bytes");
    assert_eq!(refused(LogOptions { batch_limit_bytes: 0, ..small() }), "batch_limit_bytes");
    assert_eq!(refused(LogOptions { in_flight_batches: 0, ..small() }), "in_flight_batches");
}

#[test]
fn other_segment_sizes_and_windows_at_the_next_opening() {
    let disk = SimDisk::new(9);
    let mut next = 1;
    for (segment_bytes, in_flight_batches) in [(128 << 10, 4), (256 << 10, 1), (64 << 10, 8), (128 << 10, 2)]
    {
        let options = LogOptions { segment_bytes, in_flight_batches, batch_limit_bytes: 8 << 10, ..small() };
        let mut stepped = Stepped::open(&disk, options).unwrap();
        assert!(stepped.report.quarantined.is_empty());
        for _ in 0..30 {
            stepped.log.append(1, records(next..next + 3, 1, 3_000), stepped.note(next)).unwrap();
            next += 3;
        }
        stepped.log.save_vote(1, Bytes::from(next.to_string()), stepped.note(0)).unwrap();
        stepped.settle();
        assert_eq!(stepped.outcomes.lock().unwrap().len(), 31);
    }
    let stepped = Stepped::open(&disk, small()).unwrap();
    assert_eq!(all(&stepped.log, 1).unwrap(), records(1..next, 1, 3_000));
    assert_eq!(stepped.log.state(1).vote, Some(Bytes::from(next.to_string())));
}

#[test]
fn a_truncation_does_not_name_what_a_later_one_kept_from_being_written() {
    let disk = SimDisk::new(5);
    let mut stepped = Stepped::open(&disk, small()).unwrap();
    let log = stepped.log.clone();
    log.append(1, records(1..3, 1, 50), ignore()).unwrap();
    stepped.settle();
    // Entries 3 to 5 wait; the first truncation keeps two of them, the second, made before anything is written, none.
    log.append(1, records(3..6, 1, 50), ignore()).unwrap();
    log.truncate_after(1, Some(point(4, 1)), ignore()).unwrap();
    log.truncate_after(1, Some(point(2, 1)), ignore()).unwrap();
    stepped.settle();
    let again = Stepped::open(&disk.power_loss(1, PowerLoss::LosesAll), small()).unwrap();
    assert!(again.report.quarantined.is_empty(), "{:?}", again.report);
    assert_eq!(all(&again.log, 1).unwrap(), records(1..3, 1, 50));
}
