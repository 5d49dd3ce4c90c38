//! Pauses between attempts: doubling, bounded, with jitter so that many clients do not come back together.

use std::time::Duration;

use rand::Rng;

#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
    first: Duration,
    max: Duration,
}

impl Backoff {
    pub(super) fn new(first: Duration, max: Duration) -> Self {
        let first = first.max(Duration::from_millis(1));
        Self { next: first, first, max: max.max(first) }
    }

    /// Between half and all of the present step; the step then doubles.
    pub(super) fn pause(&mut self, rng: &mut impl Rng) -> Duration {
        let step = self.next;
        self.next = step.saturating_mul(2).min(self.max);
        step.mul_f64(rng.random_range(0.5..=1.0))
    }

    /// Something went well: begin with short pauses again.
    pub(super) fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn doubles_up_to_the_bound() {
        let mut rng = rand::rngs::StdRng::seed_from_u64(1);
        let mut backoff = Backoff::new(Duration::from_millis(5), Duration::from_millis(40));
        for step_ms in [5, 10, 20, 40, 40, 40] {
            let pause = backoff.pause(&mut rng);
            let step = Duration::from_millis(step_ms);
            assert!(pause >= step / 2 && pause <= step, "{pause:?} for {step:?}");
        }
        backoff.reset();
        assert!(backoff.pause(&mut rng) <= Duration::from_millis(5));
    }

    #[test]
    fn never_busy() {
        let mut rng = rand::rngs::StdRng::seed_from_u64(1);
        let mut backoff = Backoff::new(Duration::ZERO, Duration::ZERO);
        for _ in 0..100 {
            assert!(backoff.pause(&mut rng) >= Duration::from_micros(500));
        }
    }
}
