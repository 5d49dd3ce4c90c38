//! What openraft counts its batches and stages with, kept over hdrhistogram.
//!
//! It takes the place of the crate of the same name (`[patch]` in the workspace's manifest), which makes the tables of all its
//! sixteen resolutions when the first histogram is made: 27 MB a process, of which openraft uses 2 KB. Only what openraft calls is
//! here; why this and not a copy of that crate is said in `node/decisions/0028`.
//!
//! Invariant: nothing that is recorded can fail or panic; values beyond [`HIGHEST`] count as that.

use std::fmt;
use std::marker::PhantomData;

/// The largest value that is told apart: twelve days in microseconds.
pub const HIGHEST: u64 = 1 << 40;

/// Counts of values, each told apart to 1 %. Takes 2 KB at first and grows with the largest value, to some 40 KB. The other crate
/// lets slots of it be marked with a `T`; there are no slots here.
#[derive(Debug, Clone, PartialEq)]
pub struct Histogram<T = ()> {
    counts: hdrhistogram::Histogram<u64>,
    marks: PhantomData<fn() -> T>,
}

impl<T: PartialEq> Eq for Histogram<T> {}

impl<T> Histogram<T> {
    /// Without any values.
    #[expect(clippy::missing_panics_doc, clippy::expect_used, reason = "two digits are always taken")]
    pub fn new() -> Histogram<T> {
        // Grows by itself.
        let counts = hdrhistogram::Histogram::new(2).expect("a histogram may have from none to five digits");
        Histogram { counts, marks: PhantomData }
    }

    /// Counts one value.
    pub fn record(&mut self, value: u64) {
        self.record_n(value, 1);
    }

    /// Counts a value so many times.
    pub fn record_n(&mut self, value: u64, count: u64) {
        // Refused only if it could not grow so far, and then a figure for people is missing one value.
        let _ = self.counts.record_n(value.min(HIGHEST), count);
    }

    /// How the values are spread.
    pub fn percentile_stats(&self) -> PercentileStats {
        let at = |quantile| self.counts.value_at_quantile(quantile);
        PercentileStats {
            samples: self.counts.len(),
            p0_1: at(0.001),
            p1: at(0.01),
            p5: at(0.05),
            p10: at(0.1),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p99_9: at(0.999),
        }
    }
}

impl<T> Default for Histogram<T> {
    fn default() -> Histogram<T> {
        Histogram::new()
    }
}

/// How values are spread: how many there are, and the values that so many of a hundred do not exceed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is what its name says")]
pub struct PercentileStats {
    pub samples: u64,
    pub p0_1: u64,
    pub p1: u64,
    pub p5: u64,
    pub p10: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p99_9: u64,
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PercentileStats { samples, p0_1, p1, p5, p10, p50, p90, p99, p99_9 } = self;
        write!(
            out,
            "[{samples} samples, 0.1 %: {p0_1}, 1 %: {p1}, 5 %: {p5}, 10 %: {p10}, 50 %: {p50}, 90 %: {p90}, 99 %: {p99}, 99.9 %: {p99_9}]"
        )
    }
}

/// Several histograms one under the other, a line each.
#[derive(Debug, Clone)]
pub struct AsciiChart<T = ()>(Vec<(String, Histogram<T>)>);

impl<T> AsciiChart<T> {
    /// Without any.
    pub fn new() -> AsciiChart<T> {
        AsciiChart(Vec::new())
    }

    /// With another one at its end.
    #[must_use]
    pub fn add(mut self, name: &str, histogram: Histogram<T>) -> AsciiChart<T> {
        self.0.push((name.to_owned(), histogram));
        self
    }
}

impl<T> Default for AsciiChart<T> {
    fn default() -> AsciiChart<T> {
        AsciiChart::new()
    }
}

impl<T> fmt::Display for AsciiChart<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|(name, histogram)| writeln!(out, "{name}: {}", histogram.percentile_stats()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_what_was_recorded() {
        let mut histogram = Histogram::<()>::new();
        assert_eq!(histogram.percentile_stats(), PercentileStats::default());
        (1..=100).for_each(|value| histogram.record(value));
        histogram.record_n(50, 900);
        let stats = histogram.percentile_stats();
        assert_eq!((stats.samples, stats.p1, stats.p50, stats.p99_9), (1_000, 10, 50, 99));
        let shown = AsciiChart::new().add("stage", histogram).to_string();
        assert!(shown.starts_with("stage: [1000 samples") && shown.contains("50 %: 50,"), "{shown}");
    }

    #[test]
    fn every_value_is_taken_in_little_memory() {
        let mut histogram = Histogram::<()>::new();
        for value in [0, 1, HIGHEST, u64::MAX] {
            histogram.record(value);
        }
        histogram.record_n(7, 1 << 40);
        assert_eq!(histogram.percentile_stats().samples, (1 << 40) + 4);
        assert!(histogram.counts.distinct_values() < 5_000);
    }
}
