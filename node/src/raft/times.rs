//! The times that a leader writes into its proposals: `recorded_at`, and how long the regime has been degraded.
//!
//! Invariants: a wall clock that a majority of the voters contradicts is not recorded as it is, but as far as the bound lets it
//! ([`Clocks`]); the time of a regime is counted with the monotone clock and never with a wall clock ([`RegimeClock`]).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use super::gate::Gate;
use crate::ledger::{Command, PreparedCommand};
use crate::placement::RegimeClock;

/// The times of one group on one node.
pub struct Times {
    gate: Arc<Gate>,
    origin: Instant,
    regime: Mutex<RegimeClock>,
    /// Whether the regime's clock runs; read without the lock.
    is_degraded: AtomicBool,
}

impl Times {
    /// Times by this node's wall clock and what the gate knows of the others'.
    #[must_use]
    pub fn new(gate: Arc<Gate>) -> Self {
        Self { gate, origin: Instant::now(), regime: Mutex::default(), is_degraded: AtomicBool::new(false) }
    }

    fn regime(&self) -> MutexGuard<'_, RegimeClock> {
        self.regime.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a proposal is to record as the time, microseconds since 1970.
    #[must_use]
    pub fn recorded_at_us(&self) -> i64 {
        self.gate.clocks().recorded_at_us()
    }

    /// What the applied log says: the regime record in force and what was told of its time, milliseconds.
    pub fn follow_regime(&self, degraded: Option<(u64, u64)>) {
        if degraded.is_none() && !self.is_degraded.load(Ordering::Acquire) {
            return;
        }
        self.regime().follow(self.origin.elapsed(), degraded);
        self.is_degraded.store(degraded.is_some(), Ordering::Release);
    }

    /// What goes before the commands of a proposal: how long the regime has been degraded, if it is.
    #[must_use]
    pub fn of_regime(&self) -> Option<PreparedCommand> {
        if !self.is_degraded.load(Ordering::Acquire) {
            return None;
        }
        let (since_index, elapsed_ms) = self.regime().elapsed_ms(self.origin.elapsed())?;
        // It has nothing that could be refused.
        PreparedCommand::new(&Command::DegradedFor { since_index, elapsed_ms }).ok()
    }
}
