//! One run: a seeded workload whose disk loses its power after each event, in a copy.

use std::collections::BTreeMap;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tercet_storage::disk::{Disk, PowerLoss, SegmentFile, SimDisk};
use tercet_storage::format::BLOCK_BYTES;
use tercet_storage::inspect::inspect_disk;
use tercet_storage::{GroupId, LogError, LogOptions, LogPoint, LogRecord, LostRecord, StoreId};

use super::model::{Held, Model, Op};
use crate::harness::{Stepped, all, ignore, point};
use crate::oracle;

/// The groups that the workload uses.
const GROUPS: std::ops::Range<GroupId> = 1..4;
/// So many calls append entries of the same term.
const CALLS_OF_A_TERM: u64 = 3;

/// What a run has done.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tally {
    /// Crash points: places between two events of the workload, each with one outcome of what was not durable.
    pub(super) points: u64,
    /// Crashes while recovery was putting things in order, and right after it.
    pub(super) again: u64,
    /// Recovered logs that went on working.
    pub(super) went_on: u64,
    /// Recovered logs of which one block was damaged, to see that every vote stands twice.
    pub(super) probed: u64,
    /// Segments that the workload went through.
    pub(super) segments: u64,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Tally) {
        self.points += other.points;
        self.again += other.again;
        self.went_on += other.went_on;
        self.probed += other.probed;
        self.segments += other.segments;
    }
}

pub(super) struct Run {
    rng: StdRng,
    disk: SimDisk,
    stepped: Stepped,
    model: Model,
    /// What each group holds in memory.
    live: BTreeMap<GroupId, Held>,
    /// The highest index that each group has reported as committed.
    committed: BTreeMap<GroupId, u64>,
    next_call: u64,
    tally: Tally,
    seed: u64,
    /// The workload itself goes on from a crash at this crash point.
    adopt_at: u64,
    /// Steps for which the disk still has no room for another segment.
    full_for: u32,
}

/// Settings that may differ from one opening to the next.
fn options(rng: &mut StdRng) -> LogOptions {
    LogOptions {
        segment_bytes: [64 << 10, 64 << 10, 80 << 10][rng.random_range(0..3)],
        batch_limit_bytes: [4 << 10, 8 << 10, 16 << 10][rng.random_range(0..3)],
        in_flight_batches: rng.random_range(1..6),
        cache_bytes: 4 << 10,
        idle_confirm_us: 100,
        keep_free_bytes: 0,
        store: Some(StoreId([3; 16])),
    }
}

fn held(stepped: &Stepped, group: GroupId, context: &str) -> Held {
    let entries = all(&stepped.log, group).unwrap_or_else(|error| panic!("{context}: {error}"));
    Held { entries, purged: stepped.log.state(group).purged }
}

fn open(disk: &SimDisk, options: LogOptions, context: &str) -> Stepped {
    Stepped::open(disk, options).unwrap_or_else(|error| panic!("{context}: {error}"))
}

/// Everything that recovery gave, to be compared with what a second recovery gives.
fn everything(stepped: &Stepped, context: &str) -> Vec<(Option<Bytes>, Option<LogPoint>, Held)> {
    let one = |group| {
        let state = stepped.log.state(group);
        (state.vote, state.committed, held(stepped, group, context))
    };
    GROUPS.map(one).collect()
}

/// A disk after a crash: the power lost in one of its ways, or only the process killed.
fn crashed(disk: &SimDisk, rng: &mut StdRng) -> (SimDisk, &'static str) {
    let seed = rng.random();
    let (found, how) = match rng.random_range(0..10) {
        0 => (disk.power_loss(seed, PowerLoss::LosesAll), "all lost"),
        1 => (disk.power_loss(seed, PowerLoss::KeepsAll), "all kept"),
        2 => (disk.killed(seed), "killed"),
        _ => (disk.power_loss(seed, PowerLoss::Tears), "torn"),
    };
    found.set_capacity_bytes(None);
    (found, how)
}

impl Run {
    pub(super) fn new(seed: u64) -> Run {
        let disk = SimDisk::new(seed);
        let mut rng = StdRng::seed_from_u64(seed);
        let stepped = open(&disk, options(&mut rng), "a new store");
        Run {
            adopt_at: rng.random_range(50..400),
            rng,
            disk,
            stepped,
            model: Model::default(),
            live: BTreeMap::new(),
            committed: BTreeMap::new(),
            next_call: 0,
            tally: Tally::default(),
            seed,
            full_for: 0,
        }
    }

    /// So many calls, with the power failing after each event that they cause.
    pub(super) fn explore(mut self, calls: u64) -> Tally {
        for _ in 0..calls {
            self.call();
            for _ in 0..self.rng.random_range(0..8) {
                self.step();
            }
        }
        for _ in 0..60 {
            self.step();
        }
        self.tally.segments += self.stepped.log.stats().segments_made;
        self.tally
    }

    /// One random call on the log.
    fn call(&mut self) {
        let group = self.rng.random_range(GROUPS);
        self.next_call += 1;
        let number = self.next_call;
        match self.rng.random_range(0..22) {
            0..=10 => self.append(number, group),
            11..=13 => {
                let vote = Bytes::from(format!("vote {number}"));
                let answer = self.stepped.log.save_vote(group, vote.clone(), self.stepped.note(number));
                if self.is_taken(answer) {
                    self.model.asked_vote(number, group, vote);
                }
            }
            14 | 15 => {
                // What is committed is never truncated again, and so it must be durable to begin with.
                if let Some(last) = self.stepped.log.state(group).durable_last {
                    self.stepped.log.save_committed(group, last).unwrap();
                    self.model.asked_committed(group, last);
                    self.committed.insert(group, last.index);
                }
            }
            16 | 17 => self.truncate(number, group),
            18 => self.fill_up(),
            _ => self.purge(number),
        }
    }

    fn append(&mut self, number: u64, group: GroupId) {
        let live = self.live.entry(group).or_default();
        let records = new_records(&mut self.rng, live.last(), number);
        let answer = self.stepped.log.append(group, records.clone(), self.stepped.note(number));
        self.asked(number, group, Op::Append(records), answer);
    }

    /// Whether a call has been taken; only a full disk refuses one.
    fn is_taken(&self, answer: Result<(), LogError>) -> bool {
        match answer {
            Ok(()) => true,
            Err(LogError::DiskFull) => {
                assert!(self.full_for > 0, "seed {}: the disk is not full", self.seed);
                false
            }
            Err(error) => panic!("seed {}: {error}", self.seed),
        }
    }

    /// Notes a call with its answer: what has been refused must leave no trace.
    fn asked(&mut self, number: u64, group: GroupId, op: Op, answer: Result<(), LogError>) {
        if self.is_taken(answer) {
            self.live.entry(group).or_default().apply(&op);
            self.model.asked(number, group, op);
        }
    }

    fn truncate(&mut self, number: u64, group: GroupId) {
        let live = self.live.entry(group).or_default();
        let committed = self.committed.get(&group).copied();
        let fixed = live.entries.iter().filter(|entry| committed.is_some_and(|at| entry.index <= at)).count();
        let at = self.rng.random_range(fixed..=live.entries.len());
        let kept = if at == 0 { live.purged } else { Some(live.entries[at - 1].point()) };
        let answer = self.stepped.log.truncate_after(group, kept, self.stepped.note(number));
        self.asked(number, group, Op::Truncate(kept), answer);
        self.begin_term();
    }

    /// What is appended from here on is of a later term: no two entries have the same index and term, as in Raft.
    fn begin_term(&mut self) {
        self.next_call += CALLS_OF_A_TERM;
    }

    /// Purges the group that holds most, so that segments become free.
    fn purge(&mut self, number: u64) {
        let longest = self.live.iter().max_by_key(|(_, held)| held.entries.len()).map(|(group, _)| *group);
        let group = longest.unwrap_or(1);
        let live = self.live.entry(group).or_default();
        let upto = match live.entries.len() {
            0 => point(live.last().map_or(0, |last| last.index) + 5, 1 + number / CALLS_OF_A_TERM),
            count => live.entries[self.rng.random_range(count / 2..count)].point(),
        };
        let answer = self.stepped.log.purge(group, upto, self.stepped.note(number));
        self.asked(number, group, Op::Purge(upto), answer);
    }

    /// Leaves the disk no room for another segment for a while, so that the next one is late.
    fn fill_up(&mut self) {
        self.full_for = self.rng.random_range(10..60);
        self.disk.set_capacity_bytes(Some(0));
    }

    /// One step of the log, and the power failing after it on a copy.
    fn step(&mut self) {
        if self.full_for > 0 || self.stepped.log.stats().last_segment_room_bytes.is_some() {
            self.model.stalled();
        }
        if self.full_for > 0 {
            self.full_for -= 1;
            if self.full_for == 0 {
                self.disk.set_capacity_bytes(None);
            }
        }
        if self.rng.random_bool(0.02) {
            self.stepped.now_us += 200;
        }
        let before = self.disk.events();
        self.stepped.step();
        for (number, ok) in self.stepped.outcomes.lock().unwrap().drain(..) {
            assert!(ok, "seed {}: call {number} failed: {:?}", self.seed, self.stepped.log.failure());
            self.model.acknowledged(number);
        }
        if self.disk.events() > before {
            self.crash();
        }
    }

    fn crash(&mut self) {
        self.tally.points += 1;
        let point = self.tally.points;
        let mut rng = StdRng::seed_from_u64(self.seed.wrapping_mul(1_000_003).wrapping_add(point));
        let (mut disk, how) = crashed(&self.disk, &mut rng);
        let context = format!("seed {}, crash point {point}, {how}", self.seed);
        while rng.random_bool(0.2) {
            // It fails again while recovery puts things in order.
            self.tally.again += 1;
            disk.stop_at(rng.random_range(0..12));
            drop(Stepped::open(&disk, options(&mut rng)));
            disk = crashed(&disk, &mut rng).0;
        }
        let options = options(&mut rng);
        let recovered = self.verify(&disk, options.clone(), &context);
        if point == self.adopt_at {
            return self.adopt(disk, recovered, &mut rng);
        }
        match rng.random_range(0..20) {
            0..=3 => self.crash_again(&disk, recovered, &mut rng, &context),
            4..=6 => self.go_on(&disk, recovered, &mut rng, &context),
            7 | 8 => self.probe_votes(&disk, recovered, &mut rng, &context),
            9..=11 => self.probe_rot(&disk, recovered, &mut rng, &context),
            _ => {}
        }
    }

    /// Opens a disk after a crash: nothing is taken for rot, and every group fits the model.
    fn verify(&self, disk: &SimDisk, options: LogOptions, context: &str) -> Stepped {
        let recovered = open(disk, options, context);
        let report = &recovered.report;
        assert!(report.quarantined.is_empty() && report.lost_batches == 0, "{context}: {report:?}");
        assert!(!report.findings.iter().any(|finding| finding.verdict.is_rot()), "{context}: {report:?}");
        for group in GROUPS {
            let state = recovered.log.state(group);
            let held = held(&recovered, group, context);
            assert_eq!(state.durable_last, held.last(), "{context}");
            if let Err(error) = self.model.check(group, &state, &held) {
                panic!("{context}: {error}\n{report:?}");
            }
        }
        recovered
    }

    /// What recovery has once given is durable: another crash right behind it finds the same.
    fn crash_again(&mut self, disk: &SimDisk, mut recovered: Stepped, rng: &mut StdRng, context: &str) {
        self.tally.again += 1;
        let expected = everything(&recovered, context);
        for _ in 0..rng.random_range(0..6) {
            recovered.now_us += 50;
            recovered.step();
        }
        let (disk, how) = crashed(disk, rng);
        let context = format!("{context}, and {how} right after recovery");
        let again = self.verify(&disk, options(rng), &context);
        assert_eq!(everything(&again, &context), expected, "{context}: {:?}", again.report);
    }

    /// Each vote that recovery gives stands in two batches: damage to any one block of a batch takes none.
    fn probe_votes(&mut self, disk: &SimDisk, recovered: Stepped, rng: &mut StdRng, context: &str) {
        self.tally.probed += 1;
        let voteless: Vec<GroupId> =
            GROUPS.filter(|group| recovered.log.state(*group).vote.is_none()).collect();
        drop(recovered);
        let disk = disk.power_loss(1, PowerLoss::LosesAll);
        let batches = inspect_disk(&disk).unwrap().batches;
        let batch = &batches[rng.random_range(0..batches.len())].header;
        let at = (batch.block + rng.random_range(0..batch.blocks)) as usize * BLOCK_BYTES;
        let fill = if rng.random_bool(0.5) { 0 } else { 0x5a };
        disk.damage(batch.segment, |bytes| bytes[at..at + BLOCK_BYTES].fill(fill));
        let context = format!("{context}, then {fill:#x} over byte {at} of segment {}", batch.segment);
        let damaged = open(&disk, options(rng), &context);
        let report = &damaged.report;
        for (group, lost) in &report.quarantined {
            // Where the first batch of all that is kept is lost, nothing says that a group had never voted.
            let is_lost = lost.contains(&LostRecord::Vote);
            assert!(!is_lost || voteless.contains(group), "{context}: {report:?}");
        }
        for group in GROUPS {
            let vote = damaged.log.state(group).vote;
            if let Err(error) = self.model.vote_fits(group, vote.as_ref()) {
                panic!("{context}: {error}\n{report:?}");
            }
        }
    }

    /// Rot after a crash, in a log that has been confirmed since: any one place of any segment, those that a cut has made
    /// void included. Everything is served as it was, or reported as lost.
    fn probe_rot(&mut self, disk: &SimDisk, mut recovered: Stepped, rng: &mut StdRng, context: &str) {
        self.tally.probed += 1;
        recovered.confirm();
        let before = oracle::expected(&recovered);
        drop(recovered);
        let disk = disk.power_loss(1, PowerLoss::LosesAll);
        let segments = disk.segments().unwrap();
        let segment = &segments[rng.random_range(0..segments.len())];
        let what = rot(&disk, segment, rng);
        let context = format!("{context}, confirmed, then {what} of segment {}", segment.number);
        let damaged = open(&disk, options(rng), &context);
        if let Err(error) = oracle::check(&damaged, &before) {
            panic!("{context}: {error}\n{:?}", damaged.report);
        }
    }

    /// The recovered log takes more, and keeps it through another crash.
    fn go_on(&mut self, disk: &SimDisk, mut recovered: Stepped, rng: &mut StdRng, context: &str) {
        self.tally.went_on += 1;
        for group in GROUPS {
            let last = recovered.log.state(group).last;
            let records = new_records(rng, last, 1_000_000);
            recovered.log.append(group, records, recovered.note(u64::from(group))).unwrap();
        }
        recovered.log.save_vote(2, Bytes::from_static(b"afterwards"), ignore()).unwrap();
        recovered.settle();
        assert_eq!(recovered.outcomes.lock().unwrap().len(), GROUPS.len(), "{context}");
        let expected = everything(&recovered, context);
        let again = open(&disk.power_loss(7, PowerLoss::LosesAll), options(rng), context);
        assert!(again.report.quarantined.is_empty(), "{context}, again: {:?}", again.report);
        assert_eq!(everything(&again, context), expected, "{context}, again: {:?}", again.report);
        assert_eq!(again.log.state(2).vote, Some(Bytes::from_static(b"afterwards")), "{context}, again");
    }

    /// The workload goes on from here, with what the crash has left.
    fn adopt(&mut self, disk: SimDisk, recovered: Stepped, rng: &mut StdRng) {
        for group in GROUPS {
            let held = held(&recovered, group, "adopted");
            self.model.settle(group, &recovered.log.state(group), held.clone());
            self.live.insert(group, held);
        }
        self.tally.segments += self.stepped.log.stats().segments_made;
        self.stepped = recovered;
        self.disk = disk;
        self.full_for = 0;
        self.begin_term();
        self.adopt_at = self.tally.points + rng.random_range(20..300);
    }
}

/// Damages one place of a segment: a bit, a block, two blocks swapped. Says what it has done.
fn rot(disk: &SimDisk, segment: &SegmentFile, rng: &mut StdRng) -> String {
    let length = usize::try_from(segment.bytes).unwrap();
    // Near the front: that is where the batches are.
    let reach = if rng.random_bool(0.5) { length } else { length / 4 };
    let at = rng.random_range(0..reach);
    let block = at / BLOCK_BYTES * BLOCK_BYTES;
    let kind = rng.random_range(0..5);
    if kind == 0 {
        disk.make_unreadable(segment.number, u32::try_from(block / BLOCK_BYTES).unwrap());
        return format!("byte {block} unreadable");
    }
    let other = rng.random_range(0..reach / BLOCK_BYTES) * BLOCK_BYTES;
    let bit = 1 << rng.random_range(0..8);
    disk.damage(segment.number, |bytes| match kind {
        1 => bytes[block..block + BLOCK_BYTES].fill(0),
        2 => bytes[block..block + BLOCK_BYTES].fill(0x5a),
        3 => {
            let one = bytes[block..block + BLOCK_BYTES].to_vec();
            bytes.copy_within(other..other + BLOCK_BYTES, block);
            bytes[other..other + BLOCK_BYTES].copy_from_slice(&one);
        }
        _ => bytes[at] ^= bit,
    });
    match kind {
        1 | 2 => format!("block at {block} filled"),
        3 => format!("blocks at {block} and {other} swapped"),
        _ => format!("bit {bit:#x} of byte {at} flipped"),
    }
}

/// Entries that follow, of a term that grows with the call's number; sometimes none, sometimes large, sometimes full of
/// zeros.
fn new_records(rng: &mut StdRng, last: Option<LogPoint>, number: u64) -> Vec<LogRecord> {
    let first = last.map_or_else(|| rng.random_range(0..3), |last| last.index + 1);
    let count = rng.random_range(0..5);
    let huge = rng.random_bool(0.03);
    let mut record = |index| {
        let bytes = if huge { rng.random_range(8_000..20_000) } else { rng.random_range(0..1_500) };
        let fill = if rng.random_bool(0.2) { 0 } else { 1 + u8::try_from(number % 251).unwrap_or(1) };
        let mut payload = format!("{number}/{index} ").into_bytes();
        payload.resize(payload.len() + bytes, fill);
        LogRecord {
            index,
            term: 1 + number / CALLS_OF_A_TERM,
            leader: number % 3,
            tag: 1,
            payload: Bytes::from(payload),
        }
    };
    (first..first + count).map(&mut record).collect()
}
