//! What a load has been answered: latencies of the whole window, and second by second.
//!
//! Invariant: only what was due within the window is counted.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::Result;
use hdrhistogram::Histogram;
use serde::Serialize;
use tercet_proto::client::ClientError;

use super::{Window, new_histogram};
use crate::floor::nanos;

/// One second of the window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(crate) struct Second {
    /// Requests answered in it.
    pub(crate) answered: u64,
    /// Entries that they appended.
    pub(crate) entries: u64,
    /// 99 of 100 of them took less.
    pub(crate) p99_us: f64,
    /// The slowest of them.
    pub(crate) max_us: f64,
}

/// What a case came to.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Of appends, nanoseconds.
    pub(crate) appends: Histogram<u64>,
    /// Of reads, nanoseconds.
    pub(crate) reads: Histogram<u64>,
    /// Appends, and their entries, that were answered within the window.
    pub(crate) in_time: (u64, u64),
    /// Entries appended, warm-up included.
    pub(crate) entries: u64,
    /// Requests that ended without an answer, warm-up included.
    pub(crate) failed: u64,
    /// The first of their errors.
    pub(crate) first_error: Option<String>,
    /// Second by second.
    pub(crate) series: Vec<Second>,
}

struct Inner {
    window: Option<Window>,
    appends: Histogram<u64>,
    reads: Histogram<u64>,
    in_time: (u64, u64),
    failed: u64,
    first_error: Option<String>,
    /// The second under way (a late answer of an earlier one counts in it), and those before.
    second: (u64, Histogram<u64>, u64),
    series: Vec<Second>,
    answered: u64,
    entries: u64,
    highest_seq: BTreeMap<String, u64>,
}

/// Shared by the clients of one case.
pub(crate) struct Recorder(Mutex<Inner>);

impl Recorder {
    pub(super) fn new() -> Result<Self> {
        Ok(Self(Mutex::new(Inner {
            window: None,
            appends: new_histogram()?,
            reads: new_histogram()?,
            in_time: (0, 0),
            failed: 0,
            first_error: None,
            second: (0, new_histogram()?, 0),
            series: Vec::new(),
            answered: 0,
            entries: 0,
            highest_seq: BTreeMap::new(),
        })))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn start(&self, window: Window) {
        self.inner().window = Some(window);
    }

    /// A request that was due at `begin` has its answer.
    pub(super) fn answered(&self, is_read: bool, entries: u64, begin: Instant, end: Instant) {
        let mut inner = self.inner();
        inner.answered += 1;
        inner.entries += entries;
        let Some(window) = inner.window.filter(|window| begin >= window.from) else { return };
        let took = nanos(end - begin);
        if is_read {
            inner.reads.saturating_record(took)
        } else {
            inner.appends.saturating_record(took)
        }
        if end <= window.to {
            if !is_read {
                inner.in_time = (inner.in_time.0 + 1, inner.in_time.1 + entries);
            }
            inner.add_to_series((end - window.from).as_secs(), took, entries);
        }
    }

    pub(super) fn fail(&self, error: &ClientError) {
        let mut inner = self.inner();
        inner.failed += 1;
        inner.first_error.get_or_insert_with(|| error.to_string());
    }

    /// So many requests are given up unanswered.
    pub(super) fn abandon(&self, requests: u64) {
        let mut inner = self.inner();
        inner.failed += requests;
        inner.first_error.get_or_insert_with(|| format!("{requests} requests were not answered in time"));
    }

    pub(super) fn learn_seq(&self, journal: &str, seq: u64) {
        let mut inner = self.inner();
        match inner.highest_seq.get_mut(journal) {
            Some(highest) => *highest = seq.max(*highest),
            None => drop(inner.highest_seq.insert(journal.to_owned(), seq)),
        }
    }

    pub(super) fn highest_seq(&self, journal: &str) -> u64 {
        self.inner().highest_seq.get(journal).copied().unwrap_or(0)
    }

    /// Requests answered so far, warm-up included.
    pub(crate) fn answered_so_far(&self) -> u64 {
        self.inner().answered
    }

    /// Their entries.
    pub(crate) fn entries_so_far(&self) -> u64 {
        self.inner().entries
    }

    /// What has come of it.
    pub(crate) fn outcome(&self) -> Outcome {
        let mut inner = self.inner();
        inner.end_second();
        Outcome {
            appends: inner.appends.clone(),
            reads: inner.reads.clone(),
            in_time: inner.in_time,
            entries: inner.entries,
            failed: inner.failed,
            first_error: inner.first_error.clone(),
            series: inner.series.clone(),
        }
    }
}

impl Inner {
    fn add_to_series(&mut self, second: u64, took: u64, entries: u64) {
        while self.second.0 < second {
            self.end_second();
        }
        self.second.1.saturating_record(took);
        self.second.2 += entries;
    }

    #[expect(clippy::cast_precision_loss, reason = "latencies are far below 2^52 ns")]
    fn end_second(&mut self) {
        let (number, latencies, entries) = &mut self.second;
        self.series.push(Second {
            answered: latencies.len(),
            entries: *entries,
            p99_us: latencies.value_at_quantile(0.99) as f64 / 1e3,
            max_us: latencies.max() as f64 / 1e3,
        });
        latencies.reset();
        (*number, *entries) = (*number + 1, 0);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn only_the_window_counts_and_seconds_add_up() {
        let recorder = Recorder::new().unwrap();
        let begin = Instant::now();
        let at = |ms: u64| begin + Duration::from_millis(ms);
        recorder.start(Window { from: at(1_000), to: at(4_000) });
        recorder.answered(false, 10, at(900), at(1_100));
        recorder.answered(false, 10, at(1_000), at(1_500));
        recorder.answered(true, 0, at(1_900), at(3_100));
        // Due in time, answered late: its latency counts, the answer does not.
        recorder.answered(false, 10, at(3_900), at(5_000));
        let outcome = recorder.outcome();
        assert_eq!((outcome.appends.len(), outcome.reads.len(), outcome.in_time), (2, 1, (1, 10)));
        let answered: Vec<_> =
            outcome.series.iter().map(|second| (second.answered, second.entries)).collect();
        assert_eq!(answered, [(1, 10), (0, 0), (1, 0)]);
        assert!((outcome.series[0].p99_us / 500_000.0 - 1.0).abs() < 0.02);
        assert_eq!(recorder.answered_so_far(), 4);
    }
}
