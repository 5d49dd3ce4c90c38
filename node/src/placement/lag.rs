//! How old, in time, what a watermark has not reached yet is.
//!
//! Invariants: times come in as arguments; an age is never less than the truth (between two looks nothing is known); memory is
//! bounded, whatever the rate.

use std::collections::VecDeque;

/// A history of this length is thinned out.
const SAMPLES_MAX: usize = 256;

/// When which index was first there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lag {
    /// (milliseconds, index), both ascending.
    samples: VecDeque<(u64, u64)>,
}

impl Lag {
    /// The log, or a class, has reached `index` by now.
    pub fn reached(&mut self, now_ms: u64, index: u64) {
        if self.samples.back().is_some_and(|(_, last)| *last >= index) {
            return;
        }
        if self.samples.len() >= SAMPLES_MAX {
            self.thin_out();
        }
        self.samples.push_back((now_ms, index));
    }

    /// Each two become one with the earlier time and the greater index: ages come out greater, never smaller.
    fn thin_out(&mut self) {
        let all: Vec<(u64, u64)> = self.samples.drain(..).collect();
        let merged = all.chunks(2).filter_map(|pair| Some((pair.first()?.0, pair.last()?.1)));
        self.samples.extend(merged);
    }

    /// For how long, in milliseconds, something above `index` has been there; 0 if nothing is.
    #[must_use]
    pub fn age_ms(&self, now_ms: u64, index: u64) -> u64 {
        let above = self.samples.partition_point(|(_, reached)| *reached <= index);
        self.samples.get(above).map_or(0, |(since, _)| now_ms.saturating_sub(*since))
    }

    /// Nobody will ask for an index below `watermark` any more.
    pub fn forget_below(&mut self, watermark: u64) {
        while self.samples.front().is_some_and(|(_, index)| *index <= watermark) {
            self.samples.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_age_is_that_of_the_first_index_above_the_watermark() {
        let mut lag = Lag::default();
        for (now, index) in [(10, 3), (20, 3), (30, 7)] {
            lag.reached(now, index);
        }
        assert_eq!([2, 3, 6, 7, 9].map(|watermark| lag.age_ms(50, watermark)), [40, 20, 20, 0, 0]);
        lag.forget_below(3);
        assert_eq!(lag.age_ms(50, 3), 20);
    }

    proptest! {
        #[test]
        fn a_thinned_history_never_makes_younger(steps in prop::collection::vec((0_u64..4, 0_u64..4), 1..2_000), asked in 0_u64..4_000) {
            let (mut lag, mut exact) = (Lag::default(), Vec::new());
            let (mut now, mut index) = (0, 0);
            for (ms, entries) in steps {
                (now, index) = (now + ms, index + entries);
                lag.reached(now, index);
                exact.push((now, index));
            }
            let first = exact.iter().find(|(_, reached)| *reached > asked);
            prop_assert!(lag.age_ms(now, asked) >= first.map_or(0, |(since, _)| now - since));
            prop_assert!(first.is_some() || lag.age_ms(now, asked) == 0);
            prop_assert!(lag.samples.len() <= SAMPLES_MAX);
        }
    }
}
