//! Crash exploration: seeded workloads on the simulated disk, the power failing between any two events.
//!
//! After each event of a run (a write, an fdatasync, a segment made or removed) a copy of the disk loses its power: what no
//! fdatasync has covered is lost, kept or torn as the seed picks; or only the process is killed. The copy is opened, often
//! after more crashes in the middle of recovery, and must hold what had been acknowledged, and beyond it only a prefix of
//! what was in flight; nothing may be taken for rot. Then it crashes again and must show the same, or goes on working, or
//! loses a block of a batch and must still know every vote. Now and then the workload itself goes on from a crash.
//! `TERCET_CRASH_SEEDS` sets how many runs there are, `TERCET_CRASH_FIRST` the first seed.
//!
//! Bugs planted by hand that the ordinary run must find, and found: answering before the fdatasync; answering a vote after
//! its first copy; no barrier when a segment begins; more in flight than stated; a truncation that is not written; a purge
//! that takes a needed segment; a segment removed before a durable batch says that it is not needed; a durable mark that is
//! too high; batches answered out of order; votes not repeated in a new segment; checkpoints without the vote; cuts named
//! once; the next segment made before the present one has begun durably; recovery that makes nothing durable, goes on in
//! the tail that it cuts, forgets votes behind a cut, or leaves the cut segment in the cache. Two more are found by tests of
//! their own: a truncation that names what was never written (`behaviour`), and believing a committed point that was
//! learnt after a loss (`verdicts`).

mod model;
mod run;

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tercet_storage::disk::{PowerLoss, SimDisk};

use crate::harness::{Stepped, ignore, records, small};
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

/// Killed at any step, the power lost at any moment of the recovery that follows: among them the first two batches of a
/// segment in flight, of which the second is in the cache only.
#[test]
fn power_lost_while_recovering_from_a_kill() {
    let disk = SimDisk::new(31);
    let mut stepped = Stepped::open(&disk, small()).unwrap();
    stepped.log.save_vote(1, Bytes::from_static(b"vote"), ignore()).unwrap();
    let mut next = 1;
    while stepped.log.stats().segments_made < 4 {
        stepped.log.append(1, records(next..next + 1, 1, 7_000), ignore()).unwrap();
        next += 1;
        for _ in 0..3 {
            stepped.step();
            for seed in 0..4 {
                for stop in 0..7 {
                    let killed = disk.killed(seed);
                    killed.stop_at(stop);
                    drop(Stepped::open(&killed, small()));
                    let found = killed.power_loss(seed, PowerLoss::LosesAll);
                    let again = Stepped::open(&found, small()).unwrap();
                    let report = &again.report;
                    let context = format!("entry {next}, kill {seed}, stopped at {stop}: {report:?}");
                    assert!(report.quarantined.is_empty() && report.lost_batches == 0, "{context}");
                    let durable = stepped.log.state(1).durable_last;
                    assert!(again.log.state(1).last >= durable, "{context}");
                }
            }
        }
    }
}
