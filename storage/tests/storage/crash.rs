//! Crash exploration: seeded workloads on the simulated disk, the power failing between any two events.
//!
//! After each event of a run (a write, an fdatasync, a segment made or removed) a copy of the disk loses its power: what no
//! fdatasync has covered is lost, kept or torn as the seed picks; or only the process is killed. The copy is opened, often
//! after more crashes in the middle of recovery, and must hold what had been acknowledged, and beyond it only a prefix of
//! what was in flight; nothing may be taken for rot. Then it crashes again and must show the same, or goes on working, or
//! loses a block of a batch and must still know every vote. Now and then the workload itself goes on from a crash.
//! `TERCET_CRASH_SEEDS` sets how many runs there are, `TERCET_CRASH_FIRST` the first seed.

mod model;
mod run;

use std::sync::atomic::{AtomicU64, Ordering};

use run::{Run, Tally};

/// Runs in the ordinary tests; as many crash points as there must be.
const RUNS: u64 = 150;
const POINTS: u64 = 100_000;
/// Calls of one run.
const CALLS: u64 = 400;

#[test]
fn what_was_acknowledged_survives_a_crash_at_any_event() {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let asked = number("TERCET_CRASH_SEEDS");
    let runs = asked.unwrap_or(RUNS);
    let first = number("TERCET_CRASH_FIRST").unwrap_or(0);
    let next = AtomicU64::new(first);
    let explore = || {
        let mut tally = Tally::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + runs {
                return tally;
            }
            tally += Run::new(seed).explore(CALLS);
        }
    };
    let mut tally = Tally::default();
    std::thread::scope(|scope| {
        let threads = [scope.spawn(explore), scope.spawn(explore)];
        for thread in threads {
            match thread.join() {
                Ok(part) => tally += part,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    });
    println!("{tally:?} in {runs} runs");
    assert!(asked.is_some() || first > 0 || tally.points >= POINTS, "{tally:?}");
}
