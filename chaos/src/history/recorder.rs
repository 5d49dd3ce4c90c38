//! Writes a history while it happens.
//!
//! Invariants: the time of an invocation is taken before the request leaves, that of a return after the answer arrived,
//! so an operation's interval is never drawn too narrow; lines reach the file in the order in which they were recorded,
//! and all of them are there when [`Recorder::finish`] returns.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::{Call, Header, HistoryError, Line, Observation, Outcome, StoredVote};

/// A history that is being written; clones write to the same one.
#[derive(Debug, Clone)]
pub struct Recorder {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    start: Instant,
    next_op: AtomicU64,
    lines: Mutex<Sink>,
    writer: Mutex<Option<JoinHandle<std::io::Result<()>>>>,
    acknowledged: Notify,
}

/// Where lines go.
#[derive(Debug)]
enum Sink {
    /// To the thread that writes the file.
    Writer(mpsc::Sender<Line>),
    /// Kept, for a simulation, with the time of the last one: its clock stands still while it works, so it needs no thread,
    /// and what happens at one instant still has its order.
    Memory(Vec<Line>, u64),
    /// Nowhere any more.
    Finished,
}

impl Recorder {
    /// Keeps the lines in memory. Time zero is now, on tokio's clock.
    #[must_use]
    pub fn in_memory(header: Header) -> Self {
        let lines = Mutex::new(Sink::Memory(Vec::new(), 0));
        let recorder = Self::over(PathBuf::new(), lines, None);
        recorder.record(|_| Line::Header(header));
        recorder
    }

    /// The lines that were kept in memory; later ones are dropped.
    #[must_use]
    pub fn take(&self) -> Vec<Line> {
        match std::mem::replace(&mut *self.lines(), Sink::Finished) {
            Sink::Memory(lines, _) => lines,
            Sink::Writer(_) | Sink::Finished => Vec::new(),
        }
    }

    fn over(path: PathBuf, lines: Mutex<Sink>, writer: Option<JoinHandle<std::io::Result<()>>>) -> Self {
        let (start, next_op) = (Instant::now(), AtomicU64::new(1));
        let shared =
            Shared { path, start, next_op, lines, writer: Mutex::new(writer), acknowledged: Notify::new() };
        Self { shared: Arc::new(shared) }
    }

    fn lines(&self) -> std::sync::MutexGuard<'_, Sink> {
        self.shared.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the file and writes the header. Time zero is now.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn create(path: &Path, header: Header) -> Result<Self, HistoryError> {
        let io = |error| HistoryError::io(path, error);
        let mut file = BufWriter::new(std::fs::File::create(path).map_err(io)?);
        let (lines, arriving) = mpsc::channel::<Line>();
        let writer = std::thread::Builder::new()
            .name("history".into())
            .spawn(move || {
                for line in arriving {
                    serde_json::to_writer(&mut file, &line)?;
                    file.write_all(b"\n")?;
                }
                file.flush()
            })
            .map_err(io)?;
        let recorder = Self::over(path.to_owned(), Mutex::new(Sink::Writer(lines)), Some(writer));
        recorder.record(|_| Line::Header(header));
        Ok(recorder)
    }

    /// Nanoseconds since the run began.
    pub fn now(&self) -> u64 {
        u64::try_from(self.shared.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Records an invocation, right before the request is sent; returns the operation's number.
    pub fn invoke(&self, client: u32, via: &str, call: Call) -> u64 {
        let op = self.shared.next_op.fetch_add(1, Ordering::Relaxed);
        self.record(|t| Line::Invoke { t, client, op, via: via.to_owned(), call });
        op
    }

    /// Records a return, right after the answer arrived.
    pub fn returned(&self, op: u64, outcome: Outcome) {
        let acknowledged = matches!(outcome, Outcome::Appended { .. });
        self.record(|t| Line::Return { t, op, outcome });
        if acknowledged {
            self.shared.acknowledged.notify_waiters();
        }
    }

    /// Waits until a client is told that its append is acknowledged.
    pub async fn next_acknowledgement(&self) {
        self.shared.acknowledged.notified().await;
    }

    /// Records that a fault is about to begin.
    pub fn fault_begins(&self, fault: u64, what: &str) {
        self.record(|t| Line::FaultBegin { t, fault, what: what.to_owned() });
    }

    /// Records that a fault has been undone.
    pub fn fault_ended(&self, fault: u64) {
        self.record(|t| Line::FaultEnd { t, fault });
    }

    /// Records what a node said of itself; the time is set here.
    pub fn observe(&self, observation: Observation) {
        self.record(|t| Line::Observe(Observation { t, ..observation }));
    }

    /// Records a vote that a node has stored.
    pub fn vote(&self, vote: StoredVote) {
        self.record(|_| Line::Vote(vote));
    }

    /// Writes out what is recorded; later records are dropped.
    ///
    /// # Errors
    /// A line could not be written, now or earlier.
    pub fn finish(&self) -> Result<(), HistoryError> {
        *self.lines() = Sink::Finished;
        let writer = self.shared.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        let written = writer.map_or(Ok(()), |writer| {
            writer.join().unwrap_or_else(|_| Err(std::io::Error::other("the history's writer panicked")))
        });
        written.map_err(|error| HistoryError::io(&self.shared.path, error))
    }

    fn record(&self, line: impl FnOnce(u64) -> Line) {
        // The time is taken before the lock: an invocation's may only be too early, and a return waits for nobody who
        // could have been told of it.
        let now = self.now();
        match &mut *self.lines() {
            Sink::Writer(lines) => {
                // The writer has failed then; `finish` says so.
                let _ = lines.send(line(now));
            }
            Sink::Memory(lines, last) => {
                *last = now.max(last.saturating_add(1));
                lines.push(line(*last));
            }
            Sink::Finished => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{FORMAT, History};
    use super::*;

    #[test]
    fn what_is_recorded_can_be_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("history.jsonl");
        let header = Header {
            format: FORMAT,
            journal: "j".into(),
            scenario: "s".into(),
            seed: 7,
            ..Header::default()
        };
        let recorder = Recorder::create(&path, header.clone()).unwrap();
        let threads: Vec<_> = (0..4)
            .map(|client| {
                let recorder = recorder.clone();
                std::thread::spawn(move || {
                    for _ in 0..50 {
                        let op = recorder.invoke(client, "a1", Call::ReadHead);
                        recorder.returned(op, Outcome::Unknown { message: String::new() });
                    }
                })
            })
            .collect();
        recorder.fault_begins(1, "blackhole zone a");
        for thread in threads {
            thread.join().unwrap();
        }
        recorder.fault_ended(1);
        recorder.finish().unwrap();
        recorder.fault_begins(2, "too late");
        let history = History::load(&path).unwrap();
        assert_eq!(history.header, header);
        assert_eq!(history.operations.len(), 200);
        assert!(
            history.operations.iter().all(|op| op.returned.as_ref().is_some_and(|(t, _)| *t >= op.invoked))
        );
        assert_eq!(history.faults.len(), 1);
    }

    #[test]
    fn a_place_that_cannot_be_written_is_named() {
        let header = Header { format: FORMAT, journal: "j".into(), ..Header::default() };
        let error = Recorder::create(Path::new("/nonexistent/history.jsonl"), header).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/history.jsonl"), "{error}");
    }
}
