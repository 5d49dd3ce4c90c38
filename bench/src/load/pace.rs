//! When the requests of an open loop are due.
//!
//! Invariant: the n-th request is due at begin + n / rate, whatever happened to the ones before. A thread of its own sleeps, for
//! the runtime's timers have a millisecond's grain.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use tokio::sync::mpsc;

/// Requests that are due closer together than this are handed over together.
const GRAIN: Duration = Duration::from_micros(200);

/// The moments at which requests are due, each handed over when it has come; ends at `to`.
pub(super) fn pace(begin: Instant, to: Instant, per_second: f64) -> Result<mpsc::UnboundedReceiver<Instant>> {
    if !(per_second > 0.0 && per_second <= 10_000_000.0) {
        bail!("a rate of {per_second} requests a second: above 0, at most ten million");
    }
    let (sender, receiver) = mpsc::unbounded_channel();
    std::thread::Builder::new().name("pace".to_owned()).spawn(move || {
        let mut number = 0_u32;
        loop {
            let at = begin + Duration::from_secs_f64(f64::from(number) / per_second);
            if at >= to {
                return;
            }
            let now = Instant::now();
            if at > now {
                std::thread::sleep((at - now).max(GRAIN));
            }
            if sender.send(at).is_err() {
                return;
            }
            number = number.saturating_add(1);
        }
    })?;
    Ok(receiver)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn requests_are_due_evenly_and_never_early() {
        let begin = Instant::now();
        let mut due = pace(begin, begin + Duration::from_millis(50), 1_000.0).unwrap();
        let mut number = 0_u32;
        while let Some(at) = due.recv().await {
            let told = Instant::now();
            let offset = (at - begin).as_secs_f64();
            assert!((offset - f64::from(number) / 1_000.0).abs() < 1e-6);
            assert!(told >= at);
            number += 1;
        }
        assert_eq!(number, 50);
    }

    #[test]
    fn a_rate_must_be_a_rate() {
        let now = Instant::now();
        for rate in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(pace(now, now, rate).is_err());
        }
    }
}
