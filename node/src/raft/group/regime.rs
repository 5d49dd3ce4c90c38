//! Drives the regime of the remote site while this node leads: looks, and proposes the record that has to be proposed.
//!
//! Invariants: what decides is `placement::RegimeWatch`, and time comes from the runtime (a simulation pauses it); the regime
//! itself changes only when the record is applied; a new term begins with a new watch.

use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::Group;
use crate::ledger::{Command, Ledger, PreparedCommand};
use crate::placement::{Budget, Change, Class, Lag, RegimeWatch, Seen};
use crate::raft::proposer::Proposed;
use crate::raft::runtime::{self, watch};

/// Looks in `degrade_after`.
const LOOKS: u32 = 10;
/// Longest and shortest pause between two looks.
const PAUSE_MAX: Duration = Duration::from_millis(100);
const PAUSE_MIN: Duration = Duration::from_millis(10);
/// A record that has not been placed after this is looked at anew: it may have been applied all the same.
const PROPOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The regime as this node has applied it, for events and status.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RegimeNote {
    /// While `geo` is acknowledged as `city`: the log index of the record that says so.
    pub degraded_since: Option<u64>,
    /// Why the last record was proposed; empty: there has been none.
    pub reason: String,
    /// What ended the budget; empty while it lasts.
    pub exhausted: String,
}

impl RegimeNote {
    /// Takes what the ledger says now. True if that is news.
    pub(super) fn follow(&mut self, ledger: &Ledger) -> bool {
        let regime = ledger.regime();
        let degraded_since = regime.degraded().map(|degraded| degraded.since_index);
        let exhausted =
            regime.degraded().and_then(|degraded| degraded.exhausted.as_deref()).unwrap_or_default();
        let (reason, known) = (regime.reason(), &*self);
        if known.degraded_since == degraded_since && known.reason == reason && known.exhausted == exhausted {
            return false;
        }
        *self = Self { degraded_since, reason: reason.to_owned(), exhausted: exhausted.to_owned() };
        true
    }
}

impl Group {
    /// The regime as this node has applied it, followed.
    pub fn regime(&self) -> watch::Receiver<RegimeNote> {
        self.regime.subscribe()
    }

    pub(super) fn lag(&self) -> MutexGuard<'_, Lag> {
        self.lag.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Milliseconds since this group was started here.
    pub(super) fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub(super) fn follow_regime(self: Arc<Self>) {
        runtime::spawn(async move {
            let mut stopped = self.stopped.subscribe();
            let mut leadership = self.leadership.subscribe();
            loop {
                let leads = tokio::select! {
                    biased;
                    _ = stopped.wait_for(Option::is_some) => return,
                    leads = leadership.wait_for(|now| now.leads) => leads.map(|now| now.term),
                };
                let Ok(term) = leads else { return };
                tokio::select! {
                    biased;
                    _ = stopped.wait_for(Option::is_some) => return,
                    _ = leadership.wait_for(|now| !(now.leads && now.term == term)) => {}
                    () = self.drive_regime() => {}
                }
            }
        });
    }

    /// Looks for as long as it is polled.
    async fn drive_regime(&self) {
        let policy = self.gate.policy().clone();
        let pause = (Duration::from_millis(policy.degrade_after_ms) / LOOKS).clamp(PAUSE_MIN, PAUSE_MAX);
        let budget = policy.budget.clone();
        let mut watch = RegimeWatch::new(policy);
        *self.lag() = Lag::default();
        loop {
            let seen = self.look();
            if let Some(command) = watch.look(&seen).and_then(|change| self.command_for(change, &budget)) {
                self.propose_regime(command).await;
            }
            tokio::time::sleep_until(Instant::now() + pause).await;
        }
    }

    /// The record for a change. None if applying it would refuse it: what waits exceeds the budget already.
    fn command_for(&self, change: Change, budget: &Budget) -> Option<Command> {
        match change {
            Change::Restore { reason } => Some(Command::SetRegime { reason, degraded: None }),
            Change::Degrade { reason } => {
                let waiting = self.state.ledger().regime().waiting();
                let fits = budget.exceeded_by(&waiting, 0).is_none();
                fits.then(|| Command::SetRegime { reason, degraded: Some(budget.clone()) })
            }
        }
    }

    fn look(&self) -> Seen {
        let now_ms = self.now_ms();
        {
            let mut lag = self.lag();
            lag.reached(now_ms, self.params.log.state(self.params.group).last.map_or(0, |point| point.index));
            let everywhere = self.gate.replicas().into_iter().map(|(_, matched, _)| matched).min();
            lag.forget_below(everywhere.unwrap_or(0));
        }
        let waits = self.gate.oldest_geo_wait();
        Seen {
            now_ms,
            oldest_geo_ms: waits.map(|wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)),
            placed: self.gate.placed().known,
            missing: self.gate.reachable(Class::Geo).err(),
            degraded: self.regime.borrow().degraded_since.is_some(),
        }
    }

    async fn propose_regime(&self, command: Command) {
        let prepared = match PreparedCommand::new(&command) {
            Ok(prepared) => Arc::new(prepared),
            Err(refusal) => return tracing::error!(%refusal, "a regime record is malformed"),
        };
        let group = self.params.group;
        match tokio::time::timeout(PROPOSE_TIMEOUT, self.propose(prepared)).await {
            Ok(Proposed::Done { outcome, .. }) => tracing::debug!(group, ?outcome, "regime record applied"),
            Ok(other) => tracing::debug!(group, ?other, "regime record not applied here; looked at again"),
            Err(_) => tracing::debug!(group, "regime record not placed in time; looked at again"),
        }
    }
}
