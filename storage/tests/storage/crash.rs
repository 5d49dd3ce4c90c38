//! Crash exploration: a seeded workload on the simulated disk, the power failing between any two events.
//!
//! After each event of a run (a write, an fdatasync, a segment made or removed) a copy of the disk loses its power: what no
//! fdatasync has covered is lost, kept or torn as the seed picks. The copy is opened and must hold what had been
//! acknowledged, and beyond it only a prefix of what was in flight. Some copies lose their power again during recovery,
//! and all go on working. `TERCET_CRASH_SEEDS` sets how many runs there are.

use std::collections::BTreeMap;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tercet_storage::disk::{PowerLoss, SimDisk};
use tercet_storage::{GroupId, GroupState, LogOptions, LogPoint, LogRecord, StoreId};

use crate::harness::{Stepped, all, ignore, point};

fn options() -> LogOptions {
    LogOptions {
        segment_bytes: 64 << 10,
        batch_limit_bytes: 8 << 10,
        in_flight_batches: 3,
        cache_bytes: 4 << 10,
        idle_confirm_us: 100,
        store: Some(StoreId([3; 16])),
    }
}

#[derive(Debug, Clone)]
enum Op {
    Append(Vec<LogRecord>),
    Truncate(Option<LogPoint>),
    Purge(LogPoint),
}

/// What was asked of one group.
#[derive(Debug, Clone, Default)]
struct Asked {
    /// Number of the call, and what it was.
    ops: Vec<(u64, Op)>,
    votes: Vec<(u64, Bytes)>,
    committed: Vec<LogPoint>,
}

/// What a group's log holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Held {
    entries: Vec<LogRecord>,
    purged: Option<LogPoint>,
}

impl Held {
    fn last(&self) -> Option<LogPoint> {
        self.entries.last().map(LogRecord::point).or(self.purged)
    }

    fn apply(&mut self, op: &Op) {
        match op {
            Op::Append(records) => self.entries.extend(records.iter().cloned()),
            Op::Truncate(kept) => {
                self.entries.retain(|entry| kept.is_some_and(|kept| entry.index <= kept.index));
            }
            Op::Purge(upto) => {
                self.entries.retain(|entry| entry.index > upto.index);
                self.purged = Some(*upto);
            }
        }
    }
}

struct Model {
    groups: BTreeMap<GroupId, Asked>,
    acked: std::collections::BTreeSet<u64>,
}

impl Model {
    /// Whether a recovered group is what the acknowledged calls made of it, or what some of those in flight did.
    fn check(&self, group: GroupId, state: &GroupState, held: &Held) -> Result<(), String> {
        let asked = self.groups.get(&group).cloned().unwrap_or_default();
        let needed =
            asked.ops.iter().rposition(|(number, _)| self.acked.contains(number)).map_or(0, |at| at + 1);
        let mut candidate = Held::default();
        let mut matched = needed == 0 && candidate == *held;
        for (at, (_, op)) in asked.ops.iter().enumerate() {
            if let (Op::Append(records), true) = (op, at >= needed) {
                let mut partial = candidate.clone();
                for record in records {
                    partial.entries.push(record.clone());
                    matched |= partial == *held;
                }
            }
            candidate.apply(op);
            matched |= at + 1 >= needed && candidate == *held;
        }
        if !matched {
            let found: Vec<_> = held.entries.iter().map(LogRecord::point).collect();
            let full: Vec<_> = candidate.entries.iter().map(LogRecord::point).collect();
            let history: Vec<String> =
                asked.ops.iter().map(|(number, op)| self.describe(*number, op)).collect();
            return Err(format!(
                "group {group}: holds {found:?} purged {:?}; asked in all {full:?}:\n{}",
                held.purged,
                history.join("\n")
            ));
        }
        let needed = asked.votes.iter().rposition(|(number, _)| self.acked.contains(number));
        let fits = match (&state.vote, needed) {
            (None, needed) => needed.is_none(),
            (Some(vote), needed) => asked.votes[needed.unwrap_or(0)..].iter().any(|(_, bytes)| bytes == vote),
        };
        if !fits {
            return Err(format!(
                "group {group}: vote {:?}, acknowledged {needed:?} of {:?}",
                state.vote, asked.votes
            ));
        }
        if state.committed.is_some_and(|committed| !asked.committed.contains(&committed)) {
            return Err(format!("group {group}: committed {:?} was never reported", state.committed));
        }
        Ok(())
    }
}

impl Model {
    fn describe(&self, number: u64, op: &Op) -> String {
        let acked = if self.acked.contains(&number) { "acknowledged" } else { "in flight" };
        match op {
            Op::Append(records) => {
                let points: Vec<String> = records.iter().map(|record| record.point().to_string()).collect();
                format!("{number} {acked}: append {}", points.join(" "))
            }
            Op::Truncate(kept) => format!("{number} {acked}: truncate after {kept:?}"),
            Op::Purge(upto) => format!("{number} {acked}: purge up to {upto}"),
        }
    }
}

fn held(stepped: &Stepped, group: GroupId) -> Held {
    Held { entries: all(&stepped.log, group).unwrap(), purged: stepped.log.state(group).purged }
}

struct Run {
    rng: StdRng,
    disk: SimDisk,
    stepped: Stepped,
    model: Model,
    /// What each group holds in memory.
    live: BTreeMap<GroupId, Held>,
    next_call: u64,
    points: u64,
    seed: u64,
}

impl Run {
    fn new(seed: u64) -> Run {
        let disk = SimDisk::new(seed);
        let stepped = Stepped::open(&disk, options()).unwrap();
        let model = Model { groups: BTreeMap::new(), acked: Default::default() };
        Run {
            rng: StdRng::seed_from_u64(seed),
            disk,
            stepped,
            model,
            live: BTreeMap::new(),
            next_call: 0,
            points: 0,
            seed,
        }
    }

    /// One random call on the log.
    fn call(&mut self) {
        let group = self.rng.random_range(1..4);
        self.next_call += 1;
        let number = self.next_call;
        let done = self.stepped.note(number);
        let log = self.stepped.log.clone();
        let live = self.live.entry(group).or_default();
        let asked = self.model.groups.entry(group).or_default();
        match self.rng.random_range(0..20) {
            0..=11 => {
                let records = new_records(&mut self.rng, live.last(), number);
                asked.ops.push((number, Op::Append(records.clone())));
                log.append(group, records, done).unwrap();
            }
            12..=14 => {
                let vote = Bytes::from(format!("vote {number}"));
                asked.votes.push((number, vote.clone()));
                log.save_vote(group, vote, done).unwrap();
            }
            15 => {
                if let Some(last) = live.last() {
                    asked.committed.push(last);
                    log.save_committed(group, last).unwrap();
                }
            }
            16 | 17 => {
                let at = self.rng.random_range(0..=live.entries.len());
                let kept = if at == 0 { live.purged } else { Some(live.entries[at - 1].point()) };
                asked.ops.push((number, Op::Truncate(kept)));
                log.truncate_after(group, kept, done).unwrap();
            }
            _ => {
                let upto = match live.entries.len() {
                    0 => point(live.last().map_or(0, |last| last.index) + 5, number),
                    count => live.entries[self.rng.random_range(0..count)].point(),
                };
                asked.ops.push((number, Op::Purge(upto)));
                log.purge(group, upto, done).unwrap();
            }
        }
        if let Some((asked, op)) = asked.ops.last().filter(|(asked, _)| *asked == number) {
            assert_eq!(*asked, number);
            live.apply(&op.clone());
        }
    }

    /// One step of the log, and the power failing after it on a copy.
    fn step(&mut self) {
        if self.rng.random_bool(0.02) {
            self.stepped.now_us += 200;
        }
        let before = self.disk.events();
        self.stepped.step();
        for (number, ok) in self.stepped.outcomes.lock().unwrap().drain(..) {
            assert!(ok, "seed {}: call {number} failed", self.seed);
            self.model.acked.insert(number);
        }
        if self.disk.events() > before {
            self.crash();
        }
    }

    fn crash(&mut self) {
        self.points += 1;
        let seed = self.seed.wrapping_mul(1_000_003).wrapping_add(self.points);
        let mut rng = StdRng::seed_from_u64(seed);
        let loss = match rng.random_range(0..8) {
            0 => PowerLoss::LosesAll,
            1 => PowerLoss::KeepsAll,
            _ => PowerLoss::Tears,
        };
        let mut disk = self.disk.power_loss(seed, loss);
        if rng.random_bool(0.2) {
            // The power fails again while recovery puts things in order.
            disk.stop_at(rng.random_range(0..8));
            drop(Stepped::open(&disk, options()));
            disk = disk.power_loss(seed ^ 1, PowerLoss::Tears);
        }
        let context = format!("seed {}, crash point {}, {loss:?}", self.seed, self.points);
        let recovered = self.verify(&disk, &context);
        if rng.random_bool(0.25) {
            self.go_on(&disk, recovered, &context);
        }
    }

    fn verify(&self, disk: &SimDisk, context: &str) -> Stepped {
        let recovered = Stepped::open(disk, options()).unwrap_or_else(|error| panic!("{context}: {error}"));
        let report = &recovered.report;
        assert!(report.quarantined.is_empty(), "{context}: {report:?}");
        assert!(!report.findings.iter().any(|finding| finding.verdict.is_rot()), "{context}: {report:?}");
        for group in 1..4 {
            let state = recovered.log.state(group);
            let held = held(&recovered, group);
            if let Err(error) = self.model.check(group, &state, &held) {
                panic!("{context}: {error}\n{report:?}");
            }
        }
        recovered
    }

    /// The recovered log takes more, and keeps it through another loss of power.
    fn go_on(&self, disk: &SimDisk, mut recovered: Stepped, context: &str) {
        let mut expected = BTreeMap::new();
        for group in 1..4 {
            let last = recovered.log.state(group).last;
            let mut rng = StdRng::seed_from_u64(self.points);
            let records = new_records(&mut rng, last, 1_000_000);
            recovered.log.append(group, records, recovered.note(u64::from(group))).unwrap();
            expected.insert(group, held(&recovered, group));
        }
        recovered.log.save_vote(2, Bytes::from_static(b"afterwards"), ignore()).unwrap();
        recovered.settle();
        assert_eq!(recovered.outcomes.lock().unwrap().len(), 3, "{context}");
        let again = disk.power_loss(7, PowerLoss::LosesAll);
        let again =
            Stepped::open(&again, options()).unwrap_or_else(|error| panic!("{context}, again: {error}"));
        assert!(again.report.quarantined.is_empty(), "{context}, again: {:?}", again.report);
        for (group, expected) in expected {
            assert_eq!(held(&again, group), expected, "{context}, again, group {group}: {:?}", again.report);
        }
        assert_eq!(again.log.state(2).vote, Some(Bytes::from_static(b"afterwards")), "{context}, again");
    }
}

/// Entries that follow, of a term that grows with the call's number; sometimes large, sometimes full of zeros.
fn new_records(rng: &mut StdRng, last: Option<LogPoint>, number: u64) -> Vec<LogRecord> {
    let first = last.map_or_else(|| rng.random_range(0..3), |last| last.index + 1);
    let count = rng.random_range(1..5);
    let huge = rng.random_bool(0.03);
    let mut record = |index| {
        let bytes = if huge { rng.random_range(8_000..20_000) } else { rng.random_range(0..1_500) };
        let fill = if rng.random_bool(0.2) { 0 } else { 1 + u8::try_from(number % 251).unwrap_or(1) };
        let mut payload = format!("{number}/{index} ").into_bytes();
        payload.resize(payload.len() + bytes, fill);
        LogRecord { index, term: 1 + number / 3, leader: number % 3, tag: 1, payload: Bytes::from(payload) }
    };
    (first..first + count).map(&mut record).collect()
}

fn explore(seed: u64) -> u64 {
    let mut run = Run::new(seed);
    for _ in 0..60 {
        run.call();
        for _ in 0..run.rng.random_range(0..8) {
            run.step();
        }
    }
    for _ in 0..60 {
        run.step();
    }
    run.points
}

#[test]
fn what_was_acknowledged_survives_a_crash_at_any_event() {
    let seeds = std::env::var("TERCET_CRASH_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(20);
    let points: u64 = (0..seeds).map(explore).sum();
    println!("{points} crash points in {seeds} runs");
    assert!(points > seeds * 100);
}
