//! The log under a closed loop of another thread's: so many appends of one record each are under way, all from that one.
//!
//! Invariant: nothing is purged during a turn, as `serve` purges nothing: segments are made, not recycled.

use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use tercet_storage::disk::{DiskChoice, open_directory};
use tercet_storage::{LogError, LogOptions, LogRecord, SegmentLog};

use super::Turn;
use super::figures::Tally;

pub(super) const GROUP: u32 = 1;
pub(super) const TERM: u64 = 1;
/// Longest that one append may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// When an append began, and how it ended.
type Answer = (Instant, Result<(), LogError>);

/// A log and its appender.
pub(super) struct Appends {
    log: SegmentLog,
    /// Index of the next record.
    pub(super) next: u64,
    answers: Sender<Answer>,
    answered: Receiver<Answer>,
}

impl Appends {
    /// In a new directory.
    pub(super) fn open(dir: &Path, choice: DiskChoice) -> Result<Appends> {
        let (log, _) = SegmentLog::open(open_directory(dir, choice)?, LogOptions::default())?;
        let (answers, answered) = channel();
        Ok(Appends { log, next: 1, answers, answered })
    }

    /// The log.
    pub(super) fn log(&self) -> &SegmentLog {
        &self.log
    }

    /// Purges everything, so that the segments of the turn before go. To be called between turns.
    pub(super) fn tidy(&mut self) -> Result<()> {
        let Some(last) = self.log.state(GROUP).durable_last else { return Ok(()) };
        let (answers, begin) = (self.answers.clone(), Instant::now());
        self.log.purge(GROUP, last, Box::new(move |result| drop(answers.send((begin, result)))))?;
        self.take()?;
        Ok(())
    }

    /// One turn of appends of one record each; waits for the rest at its end.
    pub(super) fn turn(&mut self, size: usize, depth: usize, turn: Turn, tally: &mut Tally) -> Result<()> {
        let payload = Bytes::from(vec![0x5a; size]);
        let clock = turn.start();
        let mut under_way = 0;
        loop {
            while under_way < depth && !clock.is_over() {
                self.append(&payload, 1)?;
                under_way += 1;
            }
            if under_way == 0 {
                break;
            }
            let begin = self.take()?;
            under_way -= 1;
            if let Some(took) = clock.counts(begin, Instant::now()) {
                tally.add(took, 1);
            }
        }
        tally.add_turn(turn.counted, size);
        Ok(())
    }

    /// Hands in one append of so many records.
    pub(super) fn append(&mut self, payload: &Bytes, records: u64) -> Result<()> {
        let first = self.next;
        self.next += records;
        let record = |index| LogRecord { index, term: TERM, leader: 1, tag: 1, payload: payload.clone() };
        let answers = self.answers.clone();
        let begin = Instant::now();
        let batch = (first..self.next).map(record).collect();
        // Nobody listens any more only when the bench has failed.
        self.log.append(GROUP, batch, Box::new(move |result| drop(answers.send((begin, result)))))?;
        Ok(())
    }

    /// Waits for the next answer; says when its append began.
    pub(super) fn take(&mut self) -> Result<Instant> {
        let (begin, result) = self.answered.recv_timeout(PATIENCE).context("an append to the log")?;
        result?;
        Ok(begin)
    }

    /// Ends the log.
    pub(super) fn close(self) {
        self.log.close();
    }
}
