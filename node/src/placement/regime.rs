//! The regime of the remote site: whether acknowledgements of class `geo` wait for it.
//!
//! `required`: always; while the class cannot be reached, it is refused. `adaptive`: when the oldest waiting `geo` entry is
//! older than `degrade_after`, the leader proposes a regime record, and from its commit on `geo` is acknowledged as `city`,
//! marked degraded, within a budget; when the remote has caught up it proposes the record back.
//!
//! Invariants:
//! - what was spent of a budget is a function of the log alone (the ledger counts it, so that a new leader knows it, too);
//! - the regime goes back to normal only when every site is in contact and the watermark of `geo` has kept up with `city`
//!   for as long as it takes to degrade: no flapping between the two;
//! - times come in as arguments.

use core::time::Duration;
use std::collections::BTreeMap;

use super::{Lag, Watermarks};

/// Entries and what they move, in minor units per currency.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cost {
    /// How many.
    pub entries: u64,
    /// The sum of their debits.
    pub amounts: BTreeMap<[u8; 3], u128>,
}

impl Cost {
    /// Adds another's.
    pub fn add(&mut self, other: &Self) {
        self.entries = self.entries.saturating_add(other.entries);
        for (currency, amount) in &other.amounts {
            let sum = self.amounts.entry(*currency).or_default();
            *sum = sum.saturating_add(*amount);
        }
    }
}

/// How much may be acknowledged without the remote site.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Budget {
    /// Entries.
    pub entries: u64,
    /// Seconds since the regime record, as leaders count them ([`RegimeClock`]).
    pub seconds: u64,
    /// Minor units per currency; a currency that is not here has no bound of its own.
    pub amounts: BTreeMap<[u8; 3], u128>,
}

impl Budget {
    /// What `spent` exceeds, in words; none if it is within the budget.
    #[must_use]
    pub fn exceeded_by(&self, spent: &Cost, elapsed_seconds: u64) -> Option<String> {
        if spent.entries > self.entries {
            return Some(format!("{} entries of {}", spent.entries, self.entries));
        }
        if elapsed_seconds >= self.seconds {
            return Some(format!("{elapsed_seconds} seconds of {}", self.seconds));
        }
        self.amounts.iter().find_map(|(currency, most)| {
            let sum = spent.amounts.get(currency).copied().unwrap_or(0);
            let code = String::from_utf8_lossy(currency).into_owned();
            (sum > *most).then(|| format!("{sum} minor units of {most} {code}"))
        })
    }
}

/// What the topology says of the remote site.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policy {
    /// Whether `geo` may be acknowledged as `city`; else it is required.
    pub adaptive: bool,
    /// For how long an entry waits before that.
    pub degrade_after_ms: u64,
    /// How much may be acknowledged like that.
    pub budget: Budget,
}

impl Policy {
    /// The word for it.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        if self.adaptive { "adaptive" } else { "required" }
    }
}

/// What a leader sees.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Seen {
    /// Its monotone clock, milliseconds.
    pub now_ms: u64,
    /// For how long the oldest reply of class `geo` has waited.
    pub oldest_geo_ms: Option<u64>,
    /// How far the classes are placed.
    pub placed: Watermarks,
    /// What stands in the way of `geo`, in words; none if every site is in contact.
    pub missing: Option<String>,
    /// Whether the regime is degraded, as far as this node has applied.
    pub degraded: bool,
}

/// A regime record that should be proposed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Acknowledge `geo` as `city` from now on.
    Degrade {
        /// Why.
        reason: String,
    },
    /// Wait for every site again.
    Restore {
        /// Why.
        reason: String,
    },
}

/// For how long a regime record has been in force, as one node counts it.
///
/// Every node counts from the moment that it has applied the record, by its own monotone clock, and takes what a leader has told when
/// that is more. So whoever leads next goes on where it stands itself, and no wall clock has a part in it. What is missing is what no
/// node has counted: a delay of replication, and the time that all were down; the count is never ahead of the time.
#[derive(Debug, Clone, Default)]
pub struct RegimeClock {
    counted: Option<Counted>,
}

#[derive(Debug, Clone, Copy)]
struct Counted {
    since_index: u64,
    elapsed: Duration,
    /// When it was so much.
    at: Duration,
}

impl Counted {
    fn elapsed(&self, now: Duration) -> Duration {
        self.elapsed.saturating_add(now.saturating_sub(self.at))
    }
}

impl RegimeClock {
    /// What the log says now: the record in force, and for how long it has been by what leaders told, milliseconds.
    pub fn follow(&mut self, now: Duration, degraded: Option<(u64, u64)>) {
        let Some((since_index, told_ms)) = degraded else {
            self.counted = None;
            return;
        };
        let told = Duration::from_millis(told_ms);
        let knows = |counted: &Counted| counted.since_index == since_index && counted.elapsed(now) >= told;
        if !self.counted.as_ref().is_some_and(knows) {
            self.counted = Some(Counted { since_index, elapsed: told, at: now });
        }
    }

    /// The record in force and for how long it has been, milliseconds.
    #[must_use]
    pub fn elapsed_ms(&self, now: Duration) -> Option<(u64, u64)> {
        let counted = self.counted.as_ref()?;
        Some((counted.since_index, u64::try_from(counted.elapsed(now).as_millis()).unwrap_or(u64::MAX)))
    }
}

/// Decides when the regime has to change; made anew for every term that this node leads.
#[derive(Debug, Clone)]
pub struct RegimeWatch {
    policy: Policy,
    lag: Lag,
    /// Since when everything of class `city` has soon been `geo` as well.
    keeping_up_since: Option<u64>,
}

impl RegimeWatch {
    /// Nothing seen yet.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        Self { policy, lag: Lag::default(), keeping_up_since: None }
    }

    /// For how long something has been placed as `city` and not as `geo`, milliseconds.
    #[must_use]
    pub fn geo_behind_ms(&self, seen: &Seen) -> u64 {
        self.lag.age_ms(seen.now_ms, seen.placed.geo)
    }

    /// Looks once; call it a few times in `degrade_after_ms`.
    pub fn look(&mut self, seen: &Seen) -> Option<Change> {
        self.lag.reached(seen.now_ms, seen.placed.city);
        self.lag.forget_below(seen.placed.geo);
        let keeps_up = seen.missing.is_none() && self.geo_behind_ms(seen) <= self.policy.degrade_after_ms / 2;
        if keeps_up {
            self.keeping_up_since.get_or_insert(seen.now_ms);
        } else {
            self.keeping_up_since = None;
        }
        if seen.degraded { self.restore(seen) } else { self.degrade(seen) }
    }

    fn degrade(&self, seen: &Seen) -> Option<Change> {
        let waited_ms = seen.oldest_geo_ms.filter(|ms| *ms >= self.policy.degrade_after_ms)?;
        if !self.policy.adaptive {
            return None;
        }
        let why = seen.missing.clone().unwrap_or_else(|| "the remote site is in contact but lags".to_owned());
        Some(Change::Degrade {
            reason: format!("an entry of class geo has waited for {waited_ms} ms: {why}"),
        })
    }

    fn restore(&self, seen: &Seen) -> Option<Change> {
        if !self.policy.adaptive {
            return Some(Change::Restore { reason: "the topology requires the remote site".to_owned() });
        }
        let kept_up_ms = seen.now_ms.saturating_sub(self.keeping_up_since?);
        (kept_up_ms >= self.policy.degrade_after_ms).then(|| Change::Restore {
            reason: format!("the remote site has caught up, and kept up for {kept_up_ms} ms"),
        })
    }
}
