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
//! the tail that it cuts, or forgets votes behind a cut. Three more are rare, and found by tests of their own: a cut segment
//! left in the cache (below), a truncation that names what was never written (`behaviour`), and believing a committed point
//! that was learnt after a loss (`verdicts`).

mod model;
mod run;

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tercet_storage::LogOptions;
use tercet_storage::disk::{PowerLoss, SimDisk};
use tercet_storage::inspect::inspect_disk;

use crate::harness::{Stepped, ignore, point, records, small};
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

/// Killed at any step while a segment begins behind one that is full to its last block, the power lost at any moment of the
/// recovery that follows. Among the kills: the second batch of the new segment in the cache, the first nowhere.
#[test]
fn power_lost_while_recovering_from_a_kill() {
    (0..12).for_each(kill_everywhere);
}

fn kill_everywhere(seed: u64) {
    let options = || LogOptions { segment_bytes: 64 << 10, ..small() };
    let disk = SimDisk::new(seed);
    let mut stepped = Stepped::open(&disk, options()).unwrap();
    stepped.log.save_vote(1, Bytes::from_static(b"vote"), ignore()).unwrap();
    stepped.log.append(1, records(1..2, 1, 100), ignore()).unwrap();
    stepped.confirm();
    // Idle batches use the last blocks, too.
    while inspect_disk(&disk).unwrap().segments[0].used_bytes < 64 << 10 {
        stepped.log.save_committed(1, point(1, 1)).unwrap();
        stepped.confirm();
    }
    for next in 2..5 {
        stepped.log.append(1, records(next..next + 1, 1, 7_000), ignore()).unwrap();
        for _ in 0..4 {
            stepped.step();
            let durable = stepped.log.state(1).durable_last;
            for (kill, stop) in (0..4).flat_map(|kill| (1..6).map(move |stop| (kill, stop))) {
                let killed = disk.killed(kill);
                killed.stop_at(stop);
                drop(Stepped::open(&killed, options()));
                let again = Stepped::open(&killed.power_loss(kill, PowerLoss::LosesAll), options()).unwrap();
                let report = &again.report;
                let context =
                    format!("seed {seed}, entry {next}, kill {kill}, stopped at {stop}: {report:?}");
                assert!(report.quarantined.is_empty() && report.lost_batches == 0, "{context}");
                assert!(again.log.state(1).last >= durable, "{context}");
            }
        }
    }
}
