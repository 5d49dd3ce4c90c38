//! A simulated disk that takes its time, and a witness of what is durable on it.
//!
//! Invariants: time passes on the runtime's clock and is drawn from the seed; a write becomes durable with its fdatasync and not
//! before; the witness reads the bytes that were submitted and believes nothing that the log says of itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tercet_node::raft::codec::decode_vote;
use tercet_storage::disk::{
    Completion, Disk, DiskError, PowerLoss, SegmentFile, SegmentWrite, SimDisk, Wait,
};
use tercet_storage::format::{BatchHeader, HEADER_BYTES, Kind, Row, Tag, decode_table};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::trace::Trace;

/// What is durable of the group on one disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Durable {
    /// Terms of the entries by index.
    pub terms: BTreeMap<u64, u64>,
    /// (term, index) of entries that were durable and have been truncated since.
    pub truncated: BTreeSet<(u64, u64)>,
    /// The highest index of an entry that was ever truncated, in this life of the node or a former one.
    pub dropped_up_to: u64,
    /// Terms of the entries by index that were durable and that rot has taken since; until they are restored or truncated.
    pub rotten: BTreeMap<u64, u64>,
    /// The newest vote: its number in the group, its term, for whom.
    pub vote: Option<(u64, u64, u64)>,
}

impl Durable {
    /// Whether the entry at `index` is durable with this term.
    pub fn holds(&self, term: u64, index: u64) -> bool {
        self.terms.get(&index) == Some(&term)
    }

    /// Whether it is, or was until it was truncated.
    pub fn held(&self, term: u64, index: u64) -> bool {
        self.holds(term, index) || self.truncated.contains(&(term, index))
    }

    /// Whether the entry is durable, or was until rot took it.
    pub fn once_held(&self, term: u64, index: u64) -> bool {
        self.holds(term, index) || self.rotten.get(&index) == Some(&term)
    }

    /// Whether there is an entry at `index`, or was until rot took it.
    pub fn knows_of(&self, index: u64) -> bool {
        self.terms.contains_key(&index) || self.rotten.contains_key(&index)
    }

    /// What a restart has found instead of this: notes which entries are missing.
    pub fn followed_by(&self, mut found: Self) -> Self {
        let all = self.terms.iter().chain(&self.rotten);
        found.rotten =
            all.filter(|(index, term)| !found.holds(**term, **index)).map(|(i, t)| (*i, *t)).collect();
        found.dropped_up_to = self.dropped_up_to;
        found
    }

    fn drop_entries(&mut self, dropped: BTreeMap<u64, u64>) {
        let last = dropped.last_key_value().map_or(0, |(index, _)| *index);
        self.dropped_up_to = last.max(self.dropped_up_to);
        self.truncated.extend(dropped.into_iter().map(|(index, term)| (term, index)));
    }

    fn apply(&mut self, change: &Change) {
        match *change {
            Change::Entry { term, index } => {
                self.terms.insert(index, term);
                self.rotten.remove(&index);
            }
            Change::Truncate { kept } => {
                self.rotten.split_off(&(kept + 1));
                let dropped = self.terms.split_off(&(kept + 1));
                self.drop_entries(dropped);
            }
            Change::Vote { number, term, voted_for } => {
                if self.vote.is_none_or(|(known, ..)| known <= number) {
                    self.vote = Some((number, term, voted_for));
                }
            }
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Change {
    Entry { term: u64, index: u64 },
    Truncate { kept: u64 },
    Vote { number: u64, term: u64, voted_for: u64 },
}

struct Pace {
    rng: SmallRng,
    /// When the disk does its next thing, if it has something to do.
    next: Option<Instant>,
    pending: usize,
    slow: Duration,
    /// What each submitted batch will change, by its number; none: its end is known, what came before is not.
    batches: BTreeMap<u64, (bool, Vec<Change>)>,
    durable: Durable,
}

/// A disk of one simulated node. Clones are handles to the same disk.
#[derive(Clone)]
pub struct PacedDisk {
    name: String,
    disk: SimDisk,
    pace: Arc<Mutex<Pace>>,
    wake: Arc<Notify>,
    trace: Arc<Trace>,
}

impl PacedDisk {
    /// A disk over `disk`, on which `durable` is known to be durable.
    pub fn new(name: &str, disk: SimDisk, durable: Durable, seed: u64, trace: Arc<Trace>) -> Self {
        let pace = Pace {
            rng: SmallRng::seed_from_u64(seed),
            next: None,
            pending: 0,
            slow: Duration::ZERO,
            batches: BTreeMap::new(),
            durable,
        };
        Self {
            name: name.to_owned(),
            disk,
            pace: Arc::new(Mutex::new(pace)),
            wake: Arc::new(Notify::new()),
            trace,
        }
    }

    fn pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What recovery has found counts as durable.
    pub fn recovered(&self, durable: Durable) {
        self.pace().durable = durable;
    }

    /// The log is whole again: what was lost at its end and has not come back was dropped.
    pub fn repaired(&self) {
        let durable = &mut self.pace().durable;
        let dropped = std::mem::take(&mut durable.rotten);
        durable.drop_entries(dropped);
    }

    /// What was durable for certain: what an interrupted truncation may have dropped is not.
    pub fn at_the_end(&self) -> Durable {
        let pace = self.pace();
        let mut durable = pace.durable.clone();
        for change in pace.batches.values().flat_map(|(_, changes)| changes) {
            if matches!(change, Change::Truncate { .. }) {
                durable.apply(change);
            }
        }
        durable
    }

    /// Does something to the disk itself.
    pub fn with_disk<T>(&self, what: impl FnOnce(&SimDisk) -> T) -> T {
        what(&self.disk)
    }

    /// When the disk will have something to say.
    pub fn next(&self) -> Option<Instant> {
        self.pace().next
    }

    /// Completes when the log has been handed something.
    pub async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Makes everything take up to so much longer.
    pub fn slow_down(&self, by: Duration) {
        self.pace().slow = by;
    }

    /// Limits the room for segments.
    pub fn set_capacity_bytes(&self, capacity: Option<u64>) {
        self.disk.set_capacity_bytes(capacity);
    }

    /// Bytes that the segments take.
    pub fn used_bytes(&self) -> u64 {
        let segments = self.disk.segments().unwrap_or_default();
        segments.iter().map(|segment| segment.bytes).sum()
    }

    /// Looks at what is durable.
    pub fn durable<T>(&self, look: impl FnOnce(&Durable) -> T) -> T {
        look(&self.pace().durable)
    }

    /// The disk as it is found when the power comes back, or when the process was killed.
    pub fn after(&self, seed: u64, loss: PowerLoss) -> SimDisk {
        self.disk.power_loss(seed, loss)
    }
}

impl Pace {
    /// How long the next write or fdatasync takes: mostly nothing that a millisecond shows, now and then long.
    fn draw(&mut self) -> Duration {
        let usual = match self.rng.random_range(0..100_u32) {
            0..60 => 0,
            60..90 => 1,
            90..99 => self.rng.random_range(2..6),
            _ => self.rng.random_range(6..40),
        };
        let slow_ms = u64::try_from(self.slow.as_millis()).unwrap_or(u64::MAX);
        let slow = if slow_ms == 0 { 0 } else { self.rng.random_range(0..=slow_ms) };
        Duration::from_millis(usual + slow)
    }

    fn completed(&mut self, number: u64) {
        if let Some((is_complete, _)) = self.batches.get_mut(&number) {
            *is_complete = true;
        }
        // A batch counts only with all before it.
        while let Some(first) = self.batches.first_entry().filter(|first| first.get().0) {
            for change in first.remove().1 {
                self.durable.apply(&change);
            }
        }
    }
}

/// What a batch will change once it is durable.
fn changes(bytes: &[u8]) -> Vec<Change> {
    let Ok(header) = BatchHeader::decode(bytes) else { return Vec::new() };
    let table = HEADER_BYTES..HEADER_BYTES + header.table_bytes() as usize;
    let rows = bytes.get(table).and_then(|table| decode_table(table, header.payload_bytes).ok());
    rows.unwrap_or_default().iter().filter_map(|row| change(row, bytes)).collect()
}

fn change(row: &Row, bytes: &[u8]) -> Option<Change> {
    match row.kind {
        Kind::Entry | Kind::Repair => Some(Change::Entry { term: row.term, index: row.index }),
        Kind::Truncate if row.tag == Tag::KEEPS_NOTHING => Some(Change::Truncate { kept: 0 }),
        Kind::Truncate => Some(Change::Truncate { kept: row.index }),
        Kind::Vote => {
            let from = row.offset as usize;
            let payload = bytes.get(from..from + row.length as usize)?;
            let vote = decode_vote(payload).ok()?;
            let (term, voted_for) = (vote.leader_id.term, vote.leader_id.voted_for);
            Some(Change::Vote { number: row.index, term, voted_for })
        }
        _ => None,
    }
}

impl Disk for PacedDisk {
    fn description(&self) -> String {
        self.disk.description()
    }

    fn segments(&self) -> Result<Vec<SegmentFile>, DiskError> {
        self.disk.segments()
    }

    fn create(&self, segment: u32, bytes: u64) -> Result<(), DiskError> {
        self.trace.event(format_args!("{} makes segment {segment}", self.name));
        self.disk.create(segment, bytes)
    }

    fn recycle(&self, old: u32, new: u32, bytes: u64) -> Result<(), DiskError> {
        self.disk.recycle(old, new, bytes)
    }

    fn remove(&self, segment: u32) -> Result<(), DiskError> {
        self.disk.remove(segment)
    }

    fn sync(&self, segment: u32) -> Result<(), DiskError> {
        self.disk.sync(segment)
    }

    fn free_bytes(&self) -> Option<u64> {
        self.disk.free_bytes()
    }

    fn read_at(&self, segment: u32, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
        self.disk.read_at(segment, offset, into)
    }

    fn read_note(&self, name: &str) -> Result<Option<Vec<u8>>, DiskError> {
        self.disk.read_note(name)
    }

    fn write_note(&self, name: &str, content: &[u8]) -> Result<(), DiskError> {
        self.disk.write_note(name, content)
    }

    fn submit(&self, write: SegmentWrite) -> Result<(), DiskError> {
        {
            let mut pace = self.pace();
            pace.batches.insert(write.token, (false, changes(write.buffer.as_slice())));
            pace.pending += 1;
            if pace.next.is_none() {
                let takes = pace.draw();
                pace.next = Some(Instant::now() + takes);
            }
        }
        self.disk.submit(write)
    }

    fn completions(&self, wait: Wait, into: &mut Vec<Completion>) -> Result<(), DiskError> {
        let mut pace = self.pace();
        // Only recovery waits on its thread: for it the time stands still.
        if wait == Wait::No && pace.next.is_none_or(|next| next > Instant::now()) {
            return Ok(());
        }
        let before = into.len();
        // One write or one fdatasync happens.
        self.disk.completions(Wait::No, into)?;
        for done in &into[before..] {
            pace.pending = pace.pending.saturating_sub(1);
            self.trace.event(format_args!("{} batch {} {}", self.name, done.token, done.result.is_ok()));
            if done.result.is_ok() {
                pace.completed(done.token);
            }
        }
        pace.next = (pace.pending > 0).then(|| Instant::now() + pace.draw());
        Ok(())
    }

    fn wake(&self) {
        self.wake.notify_one();
    }
}
