//! Wall clocks: how far the voters' are from one another, and what follows for a leader whose own is off.
//!
//! A wall clock decides nothing about safety, but `recorded_at` never goes back: a leader whose clock is hours ahead once would give every
//! later entry that time. So a leader measures the others' clocks with the answers that it gets anyway (as NTP does: half of the round
//! trip bounds the error), and believes a majority that agrees more than itself.
//!
//! Invariants: a clock is called wrong only against a majority of the voters whose clocks agree within [`CLOCK_OFF`]: where no majority
//! agrees nobody knows the time, and every clock is as good as another; nothing is ever refused for a clock; what is measured is never more
//! exact than it says. Time comes in as an argument.

use core::time::Duration;
use std::collections::BTreeMap;

/// A leader's clock that is further from the majority's is not recorded as it is, and leadership goes to a sound one.
pub const CLOCK_OFF: Duration = Duration::from_secs(60);
/// A clock that is further from the majority's is warned of.
pub const CLOCK_WARN: Duration = Duration::from_secs(5);
/// Two clocks may drift apart by so much while a measurement is kept: microseconds a second.
const DRIFT_PPM: u64 = 500;

/// What another node's clock shows, and by how much that may be wrong, microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// Since 1970, UTC.
    pub clock_us: i64,
    /// Give or take.
    pub error_us: u64,
}

impl Reading {
    /// From an answer that has come `round_trip` after its question; the clock showed this in between.
    #[must_use]
    pub fn taken(clock_us: i64, round_trip: Duration) -> Self {
        let half_us = u64::try_from(round_trip.as_micros() / 2).unwrap_or(u64::MAX);
        Self { clock_us: clock_us.saturating_add_unsigned(half_us), error_us: half_us }
    }

    /// What it shows after so long, as far as can be known.
    fn after(self, age: Duration) -> Self {
        let age_us = u64::try_from(age.as_micros()).unwrap_or(u64::MAX);
        let drift_us = age_us / 1_000_000 * DRIFT_PPM;
        Self {
            clock_us: self.clock_us.saturating_add_unsigned(age_us),
            error_us: self.error_us.saturating_add(drift_us),
        }
    }

    fn contradicts(&self, other: &Self) -> bool {
        self.clock_us.abs_diff(other.clock_us) > self.error_us.saturating_add(other.error_us)
    }
}

/// How far another node's clock is ahead of this one's (behind: negative), and by how much that may be wrong, microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offset {
    /// Ahead by so much.
    pub ahead_us: i64,
    /// Give or take.
    pub error_us: u64,
}

/// The best reading of each node's clock, by this node's monotone one: so it is known at once when this node's own clock is set.
#[derive(Debug, Clone, Default)]
pub struct Readings {
    by_node: BTreeMap<u64, (Reading, Duration)>,
}

impl Readings {
    /// A reading. One that is less exact is taken only when it contradicts what is known: then that clock was set.
    pub fn add(&mut self, now: Duration, node: u64, new: Reading) {
        let known = self.at(now, node);
        if known.is_none_or(|known| new.error_us <= known.error_us || new.contradicts(&known)) {
            self.by_node.insert(node, (new, now));
        }
    }

    fn at(&self, now: Duration, node: u64) -> Option<Reading> {
        self.by_node.get(&node).map(|(reading, at)| reading.after(now.saturating_sub(*at)))
    }

    /// How far a node's clock is ahead of this one's, which shows `own_us`.
    #[must_use]
    pub fn offset(&self, now: Duration, own_us: i64, node: u64) -> Option<Offset> {
        let Reading { clock_us, error_us } = self.at(now, node)?;
        Some(Offset { ahead_us: clock_us.saturating_sub(own_us), error_us })
    }

    /// What follows for the node `own` among `voters`, while its clock shows `own_us`.
    #[must_use]
    pub fn clocks(&self, now: Duration, own: (u64, i64), voters: impl Iterator<Item = u64>) -> Clocks {
        let (own, own_us) = own;
        let mut count = 0_usize;
        let mut known: Vec<(u64, i64)> = Vec::new();
        for voter in voters {
            count += 1;
            let offset =
                if voter == own { Some(0) } else { self.offset(now, own_us, voter).map(|o| o.ahead_us) };
            known.extend(offset.map(|ahead_us| (voter, ahead_us)));
        }
        let mut sorted: Vec<i64> = known.iter().map(|(_, ahead)| *ahead).collect();
        sorted.sort_unstable();
        let median_us = sorted.get(sorted.len().saturating_sub(1) / 2).copied();
        let agree =
            |median: &i64| sorted.iter().filter(|ahead| is_within(**ahead, *median, CLOCK_OFF)).count();
        Clocks { own_us, median_us: median_us.filter(|median| agree(median) > count / 2), known }
    }
}

fn is_within(one_us: i64, other_us: i64, bound: Duration) -> bool {
    u128::from(one_us.abs_diff(other_us)) <= bound.as_micros()
}

/// What one node knows of the voters' clocks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Clocks {
    /// What this node's shows.
    own_us: i64,
    /// How far the clocks of a majority that agrees are ahead of this node's. None: no majority is known to agree.
    median_us: Option<i64>,
    /// The voters whose clocks are known, and how far they are ahead of this node's.
    known: Vec<(u64, i64)>,
}

impl Clocks {
    /// What a node that knows nothing of the others' clocks makes of its own.
    #[must_use]
    pub fn alone(own_us: i64) -> Self {
        Self { own_us, ..Self::default() }
    }

    /// What a leader records: what its clock shows, but no more than [`CLOCK_OFF`] ahead of the majority.
    #[must_use]
    pub fn recorded_at_us(&self) -> i64 {
        let bound_us = i64::try_from(CLOCK_OFF.as_micros()).unwrap_or(i64::MAX);
        let most = self.median_us.map(|median| self.own_us.saturating_add(median).saturating_add(bound_us));
        most.map_or(self.own_us, |most| self.own_us.min(most))
    }

    /// How far a voter's clock is ahead of the majority's, if that is known.
    #[must_use]
    pub fn ahead_of_majority_us(&self, node: u64) -> Option<i64> {
        let (_, ahead) = self.known.iter().find(|(known, _)| *known == node)?;
        Some(ahead.saturating_sub(self.median_us?))
    }

    /// Whether a voter's clock is too far from the majority's to record times.
    #[must_use]
    pub fn is_off(&self, node: u64) -> bool {
        self.ahead_of_majority_us(node).is_some_and(|ahead| !is_within(ahead, 0, CLOCK_OFF))
    }

    /// The voters whose clocks are to be warned of, and how far they are ahead of the majority's, microseconds.
    pub fn wrong(&self) -> impl Iterator<Item = (u64, i64)> + '_ {
        let ahead =
            self.known.iter().filter_map(|(node, _)| Some((*node, self.ahead_of_majority_us(*node)?)));
        ahead.filter(|(_, ahead)| !is_within(*ahead, 0, CLOCK_WARN))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;
    const HOUR: i64 = 3_600 * SECOND;
    const NOW: Duration = Duration::from_secs(1_000);

    /// What node 1 of five, whose clock shows `own_us`, makes of the others' clocks.
    fn clocks(own_us: i64, shown: &[(u64, i64)]) -> Clocks {
        let mut readings = Readings::default();
        for (node, clock_us) in shown {
            readings.add(NOW, *node, Reading { clock_us: *clock_us, error_us: 500 });
        }
        readings.clocks(NOW, (1, own_us), 1..=5)
    }

    #[test]
    fn a_leader_hours_ahead_records_a_minute_ahead_of_the_majority_at_most() {
        let off = clocks(9 * HOUR, &[(2, HOUR), (3, HOUR), (4, HOUR + 3_000), (5, HOUR - 9)]);
        assert_eq!(off.recorded_at_us(), HOUR + 60 * SECOND);
        assert!(off.is_off(1) && !off.is_off(2));
        assert_eq!(off.wrong().collect::<Vec<_>>(), [(1, 8 * HOUR)]);
        // Two answers: two of five agree, which is no majority. Three do.
        assert_eq!(clocks(9 * HOUR, &[(2, HOUR), (3, HOUR)]).recorded_at_us(), 9 * HOUR);
        assert_eq!(clocks(9 * HOUR, &[(2, HOUR), (3, HOUR), (5, HOUR)]).recorded_at_us(), HOUR + 60 * SECOND);
    }

    #[test]
    fn a_leader_behind_records_what_it_has_and_is_off_all_the_same() {
        let behind = clocks(7, &[(2, HOUR), (3, HOUR), (4, HOUR), (5, HOUR)]);
        assert_eq!(behind.recorded_at_us(), 7);
        assert!(behind.is_off(1) && !behind.is_off(5));
    }

    #[test]
    fn where_no_majority_agrees_no_clock_is_wrong() {
        let apart = clocks(30 * HOUR, &[(2, 29 * HOUR), (3, 5 * HOUR), (4, 28 * HOUR), (5, 27 * HOUR)]);
        assert_eq!(apart.recorded_at_us(), 30 * HOUR);
        assert!((1..=5).all(|node| !apart.is_off(node)) && apart.wrong().next().is_none());
    }

    #[test]
    fn a_few_seconds_are_warned_of_and_harm_nothing() {
        let late = clocks(HOUR, &[(2, HOUR), (3, HOUR + 10), (4, HOUR - 9 * SECOND), (5, HOUR + 4 * SECOND)]);
        assert_eq!(late.wrong().collect::<Vec<_>>(), [(4, -9 * SECOND)]);
        assert!(!late.is_off(4));
    }

    #[test]
    fn an_own_clock_that_is_set_is_off_at_once() {
        let mut readings = Readings::default();
        (2..=5).for_each(|node| readings.add(NOW, node, Reading { clock_us: HOUR, error_us: 500 }));
        let soon = NOW + Duration::from_millis(20);
        let set = readings.clocks(soon, (1, 9 * HOUR), 1..=5);
        assert_eq!(set.recorded_at_us(), HOUR + 20_000 + 60 * SECOND);
    }

    #[test]
    fn an_answer_reads_a_clock_within_half_of_its_round_trip() {
        let reading = Reading::taken(12 * SECOND, Duration::from_millis(30));
        assert_eq!(reading, Reading { clock_us: 12 * SECOND + 15_000, error_us: 15_000 });
        let mut readings = Readings::default();
        readings.add(NOW, 2, reading);
        let offset = readings.offset(NOW, 10 * SECOND, 2);
        assert_eq!(offset, Some(Offset { ahead_us: 2 * SECOND + 15_000, error_us: 15_000 }));
    }

    #[test]
    fn the_most_exact_reading_is_kept_until_it_wears_or_a_clock_was_set() {
        let soon = NOW + Duration::from_secs(1);
        let mut readings = Readings::default();
        let ahead = |readings: &Readings, now: Duration| {
            let own_us = i64::try_from(now.as_micros()).expect("small");
            readings.offset(now, own_us, 2).map(|offset| (offset.ahead_us, offset.error_us))
        };
        let base = |now: Duration| i64::try_from(now.as_micros()).expect("small");
        readings.add(NOW, 2, Reading { clock_us: base(NOW) + 100, error_us: 50 });
        readings.add(soon, 2, Reading { clock_us: base(soon) + 900, error_us: 20_000 });
        assert_eq!(ahead(&readings, soon), Some((100, 550)));
        readings.add(soon, 2, Reading { clock_us: base(soon) + 90_000, error_us: 20_000 });
        assert_eq!(ahead(&readings, soon), Some((90_000, 20_000)), "it was set");
        let later = soon + Duration::from_secs(60);
        readings.add(later, 2, Reading { clock_us: base(later) + 80_000, error_us: 40_000 });
        assert_eq!(ahead(&readings, later), Some((80_000, 40_000)), "worn by 30 ms");
    }
}
