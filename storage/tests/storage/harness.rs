//! What the tests share: disks to run on, a stepped log, records, and callbacks that can be waited for.

use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tercet_storage::disk::{Disk, DiskChoice, SimDisk, open_directory, uring_available};
use tercet_storage::{
    Done, GroupId, LogDriver, LogError, LogOptions, LogPoint, LogRecord, RecoveryReport, SegmentLog, StoreId,
};

/// Longer than anything here takes, shorter than anybody waits.
const DEADLINE: Duration = Duration::from_secs(60);

/// Small segments, so that tests roll often.
pub(crate) fn small() -> LogOptions {
    LogOptions {
        segment_bytes: 128 << 10,
        batch_limit_bytes: 16 << 10,
        cache_bytes: 16 << 10,
        store: Some(StoreId([7; 16])),
        ..LogOptions::default()
    }
}

/// Opens the same disk again and again.
pub(crate) type OpenDisk = Box<dyn Fn() -> Box<dyn Disk>>;

/// Runs a check on each kind of disk that this system has.
pub(crate) fn on_every_disk(check: impl Fn(&str, OpenDisk)) {
    let sim = SimDisk::new(1);
    check("sim", Box::new(move || Box::new(sim.clone())));
    let mut choices = vec![("portable", DiskChoice::Portable)];
    match uring_available() {
        Ok(()) => choices.push(("io_uring", DiskChoice::Uring)),
        Err(reason) => eprintln!("io_uring is skipped: {reason}"),
    }
    for (name, choice) in choices {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        check(name, Box::new(move || open_directory(&path, choice).unwrap()));
    }
}

pub(crate) fn record(index: u64, term: u64, payload: impl Into<Bytes>) -> LogRecord {
    LogRecord { index, term, leader: term % 5, tag: 1, payload: payload.into() }
}

/// Entries of one term with payloads that tell them apart.
pub(crate) fn records(range: std::ops::Range<u64>, term: u64, bytes: usize) -> Vec<LogRecord> {
    range.map(|index| record(index, term, payload(index, term, bytes))).collect()
}

/// A payload with no zero byte in it that names index and term.
pub(crate) fn payload(index: u64, term: u64, bytes: usize) -> Vec<u8> {
    let text = format!("entry {index} of term {term}; ").into_bytes();
    text.iter().copied().cycle().take(bytes).collect()
}

pub(crate) fn point(index: u64, term: u64) -> LogPoint {
    LogPoint { index, term }
}

pub(crate) fn ignore() -> Done {
    Box::new(|_| {})
}

/// A callback and the place where its outcome arrives.
pub(crate) fn done() -> (Done, mpsc::Receiver<Result<(), LogError>>) {
    let (sender, receiver) = mpsc::channel();
    (Box::new(move |result| sender.send(result).unwrap_or(())), receiver)
}

pub(crate) fn wait(receiver: &mpsc::Receiver<Result<(), LogError>>) -> Result<(), LogError> {
    receiver.recv_timeout(DEADLINE).expect("the callback is called in time")
}

/// Calls something with a callback and waits for it.
pub(crate) fn durably(call: impl FnOnce(Done) -> Result<(), LogError>) -> Result<(), LogError> {
    let (done, receiver) = done();
    call(done)?;
    wait(&receiver)
}

/// Waits for a condition.
pub(crate) fn until(what: &str, condition: impl Fn() -> bool) {
    let start = std::time::Instant::now();
    while !condition() {
        assert!(start.elapsed() < DEADLINE, "not in time: {what}");
        std::thread::yield_now();
    }
}

/// All entries that a group holds.
pub(crate) fn all(log: &SegmentLog, group: GroupId) -> Result<Vec<LogRecord>, LogError> {
    let mut found: Vec<LogRecord> = Vec::new();
    let mut next = log.state(group).purged.map_or(0, |purged| purged.index + 1);
    loop {
        let more = log.read(group, next..u64::MAX, 1 << 20)?;
        let Some(last) = more.last() else { return Ok(found) };
        next = last.index + 1;
        found.extend(more);
    }
}

/// A log over a simulated disk that is driven by hand.
pub(crate) struct Stepped {
    pub(crate) log: SegmentLog,
    pub(crate) driver: LogDriver,
    pub(crate) report: RecoveryReport,
    pub(crate) now_us: u64,
    pub(crate) outcomes: Arc<Mutex<Vec<(u64, bool)>>>,
}

impl Stepped {
    pub(crate) fn open(disk: &SimDisk, options: LogOptions) -> Result<Stepped, LogError> {
        let (log, driver, report) = SegmentLog::open_stepped(Box::new(disk.clone()), options)?;
        Ok(Stepped { log, driver, report, now_us: 0, outcomes: Arc::default() })
    }

    /// A callback that notes its outcome under a number.
    pub(crate) fn note(&self, number: u64) -> Done {
        let outcomes = Arc::clone(&self.outcomes);
        Box::new(move |result| outcomes.lock().unwrap().push((number, result.is_ok())))
    }

    pub(crate) fn step(&mut self) -> bool {
        self.now_us += 10;
        self.driver.step(self.now_us)
    }

    /// Steps until nothing is left to do but an idle batch.
    pub(crate) fn settle(&mut self) {
        for _ in 0..100_000 {
            if !self.step() || self.driver.is_settled() {
                return;
            }
        }
        panic!("the log does not settle");
    }

    /// Steps until the idle batch has confirmed the last one.
    pub(crate) fn confirm(&mut self) {
        self.settle();
        while let Some(deadline) = self.driver.next_deadline_us() {
            self.now_us = self.now_us.max(deadline);
            self.step();
            self.settle();
        }
    }
}
