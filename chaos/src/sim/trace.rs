//! What happened in a simulation, in order, as one hash.
//!
//! Invariants: everything that decides how a run goes on is an event: deliveries, disk completions, faults, answers; an event
//! is hashed with the simulated time at which it happened; so two runs with the same hash went the same way.

use std::fmt;
use std::io::{LineWriter, Write};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::time::Instant;

/// The events so far.
pub struct Trace {
    start: Instant,
    inner: Mutex<Inner>,
}

struct Inner {
    hasher: Sha256,
    events: u64,
    line: String,
    file: Option<LineWriter<std::fs::File>>,
}

impl Trace {
    /// A trace that begins now; its events are also written to `file`, one a line.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn new(file: Option<&Path>) -> std::io::Result<Self> {
        let file = file.map(std::fs::File::create).transpose()?.map(LineWriter::new);
        let inner = Inner { hasher: Sha256::new(), events: 0, line: String::new(), file };
        Ok(Self { start: Instant::now(), inner: Mutex::new(inner) })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Simulated time since the beginning.
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Adds an event.
    pub fn event(&self, what: fmt::Arguments<'_>) {
        use fmt::Write as _;
        let at_us = self.elapsed().as_micros();
        let mut inner = self.lock();
        let Inner { hasher, events, line, file } = &mut *inner;
        line.clear();
        // Writing into a string does not fail.
        let _ = writeln!(line, "{at_us} {what}");
        hasher.update(line.as_bytes());
        *events += 1;
        if let Some(file) = file {
            // The hash does not need the file; a full disk shows in its length.
            let _ = file.write_all(line.as_bytes());
        }
    }

    /// How many events there were.
    pub fn events(&self) -> u64 {
        self.lock().events
    }

    /// The hash of all events so far, in hex.
    pub fn hash(&self) -> String {
        self.lock().hasher.clone().finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
