//! What the log holds in memory of one group: where each entry lies, and the group's small state.
//!
//! ```text
//!  purged    base | first ................ last      indexes
//!  (gone)         | slots: 20 bytes an entry
//!                 | runs: (first index, term, leader), one for each change of term
//!                           | recent: the newest entries themselves, a suffix of the slots
//! ```
//!
//! Invariants: `slots` and `runs` describe the same range; `recent` is a suffix of it and holds every entry that has no
//! place on disk yet; `base` is the point right before `first` (the purge point, or nothing in a log that starts freely);
//! an index is in `faulty` if and only if its slot is not to be trusted. What rot does to it: [`damage`].

mod damage;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;

use bytes::Bytes;

use crate::format::{CheckpointState, NO_TERM};
use crate::types::{GroupState, LogPoint, LogRecord};

/// Where one entry lies. 20 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) segment: u32,
    pub(crate) offset: u32,
    pub(crate) length: u32,
    pub(crate) crc: u32,
    pub(crate) tag: u8,
    pub(crate) place: Place,
}

/// Whether the entry's bytes are on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Not written yet; the bytes are in `recent`.
    Memory,
    /// Written, durable or about to be.
    Disk,
    /// Damaged on disk, or missing: the term is certain (or not known at all), the bytes are not to be trusted.
    Faulty,
    /// Perhaps replaced in a batch that is lost: neither term nor bytes are to be trusted.
    Doubtful,
}

impl Place {
    fn is_lost(self) -> bool {
        matches!(self, Place::Faulty | Place::Doubtful)
    }
}

impl Slot {
    /// An entry of which nothing is known but that it must have been there.
    pub(crate) const MISSING: Slot =
        Slot { segment: u32::MAX, offset: 0, length: 0, crc: 0, tag: 0, place: Place::Faulty };

    pub(crate) fn is_on_disk(&self) -> bool {
        self.place == Place::Disk
    }
}

#[derive(Debug, Clone, Copy)]
struct Run {
    first: u64,
    term: u64,
    leader: u64,
}

/// The newest vote of a group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Vote {
    /// 1, 2, 3 ... in the group; 0 = none yet.
    pub(crate) sequence: u64,
    pub(crate) bytes: Option<Bytes>,
}

/// How much a truncation or a purge has taken out of each segment.
pub(crate) type Released = Vec<(u32, u64)>;

#[derive(Debug, Default)]
pub(crate) struct GroupLog {
    first: u64,
    slots: VecDeque<Slot>,
    runs: VecDeque<Run>,
    base: Option<LogPoint>,
    pub(crate) purged: Option<LogPoint>,
    pub(crate) committed: Option<LogPoint>,
    pub(crate) vote: Vote,
    /// The highest sequence number of a vote that was ever seen, lost ones included: it is not given again.
    pub(crate) newest_vote_named: u64,
    pub(crate) truncation: Option<Option<LogPoint>>,
    pub(crate) tail_unknown: bool,
    pub(crate) vote_lost: bool,
    pub(crate) durable_last: Option<LogPoint>,
    /// What `durable_last` becomes when a batch is durable; in batch order.
    marks: VecDeque<(u64, Option<LogPoint>)>,
    /// Truncations that have changed the memory and are not in a batch yet.
    pub(crate) queued_truncations: VecDeque<Option<LogPoint>>,
    recent: VecDeque<LogRecord>,
    recent_bytes: usize,
    /// Indexes of the slots whose entries are lost.
    faulty: BTreeSet<u64>,
    /// Entries restored below the first slot, that do not reach up to it yet.
    restored: BTreeMap<u64, Restored>,
    /// Some entries lie in repair records, behind what followed them.
    has_repairs: bool,
}

/// An entry that a repair record holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Restored {
    pub(crate) term: u64,
    pub(crate) leader: u64,
    pub(crate) slot: Slot,
}

/// What became of an entry in the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Evicted {
    /// It is not held any more.
    Gone,
    /// It must stay: it is not durable yet.
    Pinned,
}

impl GroupLog {
    /// The state that a checkpoint describes; the entries themselves lie before it.
    pub(crate) fn from_checkpoint(state: &CheckpointState) -> GroupLog {
        GroupLog {
            first: state.last.map_or(0, |last| last.index.saturating_add(1)),
            base: state.last,
            purged: state.purged,
            committed: state.committed,
            vote: Vote { sequence: state.vote_sequence, bytes: state.vote.clone() },
            truncation: state.truncation,
            tail_unknown: state.tail_unknown,
            vote_lost: state.vote_lost,
            ..GroupLog::default()
        }
    }

    /// The checkpoint record of the group as it is now.
    pub(crate) fn checkpoint(&self) -> CheckpointState {
        CheckpointState {
            vote_sequence: self.vote.sequence,
            vote: self.vote.bytes.clone(),
            purged: self.purged,
            committed: self.committed,
            last: self.last(),
            truncation: self.truncation,
            tail_unknown: self.tail_unknown,
            vote_lost: self.vote_lost,
        }
    }

    pub(crate) fn state(&self) -> GroupState {
        GroupState {
            vote: self.vote.bytes.clone(),
            purged: self.purged,
            last: self.last(),
            committed: self.committed,
            durable_last: self.durable_last,
        }
    }

    /// The index of the first entry and the one after the last.
    pub(crate) fn range(&self) -> (u64, u64) {
        (self.first, self.first + self.slots.len() as u64)
    }

    /// The last entry or, in an empty log, what came before it.
    pub(crate) fn last(&self) -> Option<LogPoint> {
        match (self.slots.len() as u64, self.runs.back()) {
            (0, _) | (_, None) => self.base,
            (count, Some(run)) => Some(LogPoint { term: run.term, index: self.first + count - 1 }),
        }
    }

    fn run_of(&self, index: u64) -> Option<&Run> {
        let after = self.runs.partition_point(|run| run.first <= index);
        self.runs.get(after.checked_sub(1)?)
    }

    fn position(&self, index: u64) -> Option<usize> {
        let position = usize::try_from(index.checked_sub(self.first)?).ok()?;
        (position < self.slots.len()).then_some(position)
    }

    pub(crate) fn slot(&self, index: u64) -> Option<Slot> {
        match self.position(index) {
            Some(position) => self.slots.get(position).copied(),
            None => self.restored.get(&index).map(|restored| restored.slot),
        }
    }

    /// Payload bytes of the entries of a range, those that rot has taken included.
    pub(crate) fn payload_bytes(&self, range: Range<u64>) -> u64 {
        let position = |index: u64| {
            let position = usize::try_from(index.saturating_sub(self.first)).unwrap_or(usize::MAX);
            position.min(self.slots.len())
        };
        let (from, end) = (position(range.start), position(range.end));
        self.slots.range(from..end.max(from)).map(|slot| u64::from(slot.length)).sum()
    }

    /// Term and leader of an entry.
    pub(crate) fn term_and_leader(&self, index: u64) -> Option<(u64, u64)> {
        match self.position(index) {
            Some(_) => self.run_of(index).map(|run| (run.term, run.leader)),
            None => self.restored.get(&index).map(|restored| (restored.term, restored.leader)),
        }
    }

    /// The point at an index: an entry's, or the one right before the first entry; `None` also where its term is not
    /// certain.
    pub(crate) fn point(&self, index: u64) -> Option<LogPoint> {
        let term = match self.base {
            Some(base) if base.index == index => base.term,
            _ => self.term_and_leader(index)?.0,
        };
        (term != NO_TERM && !self.is_doubtful(index)).then_some(LogPoint { term, index })
    }

    /// Adds an entry at the end. The caller has checked that it follows.
    pub(crate) fn push(&mut self, index: u64, term: u64, leader: u64, slot: Slot) {
        if self.slots.is_empty() {
            self.first = index;
            self.runs.clear();
        }
        if self.runs.back().is_none_or(|run| run.term != term || run.leader != leader) {
            self.runs.push_back(Run { first: index, term, leader });
        }
        if slot.place.is_lost() {
            self.faulty.insert(index);
        }
        self.slots.push_back(slot);
    }

    /// Adds an entry that is not written yet.
    pub(crate) fn push_recent(&mut self, record: LogRecord, crc: u32) {
        #[expect(clippy::cast_possible_truncation, reason = "append refuses payloads of 4 GiB")]
        let length = record.payload.len() as u32;
        let slot = Slot { segment: 0, offset: 0, length, crc, tag: record.tag, place: Place::Memory };
        self.push(record.index, record.term, record.leader, slot);
        self.recent_bytes += held_bytes(&record);
        self.recent.push_back(record);
    }

    /// Replaces a slot; used when an entry has got its place, and when it is found damaged or has been restored.
    pub(crate) fn place(&mut self, index: u64, slot: Slot) -> Option<Slot> {
        let position = self.position(index)?;
        let old = self.slots.get_mut(position).map(|old| std::mem::replace(old, slot));
        if slot.place.is_lost() {
            self.faulty.insert(index);
        } else {
            self.faulty.remove(&index);
        }
        old
    }

    /// Drops everything after a point that the log holds (or everything). Gives what that frees in each segment.
    pub(crate) fn truncate(&mut self, kept: Option<LogPoint>) -> Released {
        let keep = kept.map_or(0, |point| (point.index.saturating_add(1)).saturating_sub(self.first));
        let keep = usize::try_from(keep).unwrap_or(usize::MAX).min(self.slots.len());
        let mut released = release(self.slots.drain(keep..));
        let end = self.first + keep as u64;
        self.faulty.split_off(&end);
        let from = kept.map_or(0, |kept| kept.index.saturating_add(1));
        released.extend(release(self.restored.split_off(&from).into_values().map(|entry| entry.slot)));
        while self.runs.back().is_some_and(|run| run.first >= end) {
            self.runs.pop_back();
        }
        while self.recent.back().is_some_and(|record| record.index >= end)
            && let Some(record) = self.recent.pop_back()
        {
            self.recent_bytes -= held_bytes(&record);
        }
        if self.slots.is_empty()
            && self.base.is_some_and(|base| kept.is_none_or(|kept| kept.index < base.index))
        {
            self.base = kept.max_by_index(self.purged);
            self.first = self.base.map_or(0, |base| base.index.saturating_add(1));
            self.absorb_restored();
        }
        if let Some(kept) = kept {
            released.extend(self.vouch(kept));
        }
        self.truncation = Some(kept);
        for (_, mark) in &mut self.marks {
            clamp(mark, kept, self.base);
        }
        clamp(&mut self.durable_last, kept, self.base);
        released
    }

    /// Drops everything up to a point, which may lie beyond the end. Gives what that frees in each segment.
    pub(crate) fn purge(&mut self, upto: LogPoint) -> Released {
        let gone =
            usize::try_from((upto.index.saturating_add(1)).saturating_sub(self.first)).unwrap_or(usize::MAX);
        let gone = gone.min(self.slots.len());
        let mut released = release(self.slots.drain(..gone));
        let left = self.restored.split_off(&upto.index.saturating_add(1));
        let dropped = std::mem::replace(&mut self.restored, left);
        released.extend(release(dropped.into_values().map(|entry| entry.slot)));
        self.faulty = self.faulty.split_off(&upto.index.saturating_add(1));
        let (old_first, count) = (self.first, self.slots.len() as u64);
        if self.base.is_none_or(|base| base.index <= upto.index) {
            self.base = Some(upto);
            self.first = upto.index.saturating_add(1);
        } else {
            self.first = old_first + gone as u64;
        }
        if count == 0 {
            self.runs.clear();
        }
        while self.runs.get(1).is_some_and(|run| run.first <= self.first) {
            self.runs.pop_front();
        }
        while self.recent.front().is_some_and(|record| record.index <= upto.index) {
            self.pop_recent_front();
        }
        self.purged = self.purged.max_by_index(Some(upto));
        released
    }

    /// The bytes of an entry, if they are in memory.
    pub(crate) fn recent(&self, index: u64) -> Option<&LogRecord> {
        let front = self.recent.front()?.index;
        self.recent.get(usize::try_from(index.checked_sub(front)?).ok()?)
    }

    /// Forgets the bytes of this entry if they are the oldest held and durable.
    pub(crate) fn evict(&mut self, index: u64) -> Evicted {
        match self.recent.front() {
            Some(front) if front.index == index => {
                if self.durable_last.is_none_or(|last| last.index < index) {
                    return Evicted::Pinned;
                }
                self.pop_recent_front();
                Evicted::Gone
            }
            _ => Evicted::Gone,
        }
    }

    /// Whether this is the oldest entry whose bytes are held.
    pub(crate) fn is_oldest_recent(&self, index: u64) -> bool {
        self.recent.front().is_some_and(|front| front.index == index)
    }

    /// Bytes that the recent entries take.
    pub(crate) fn recent_bytes(&self) -> usize {
        self.recent_bytes
    }

    fn pop_recent_front(&mut self) {
        if let Some(record) = self.recent.pop_front() {
            self.recent_bytes -= held_bytes(&record);
        }
    }

    /// Remembers what is durable once the batch is: the given point as far as the log still holds it.
    pub(crate) fn mark(&mut self, batch: u64, last: Option<LogPoint>) {
        let mut last = last;
        for kept in &self.queued_truncations {
            clamp(&mut last, *kept, self.base);
        }
        match self.marks.back_mut() {
            Some((number, mark)) if *number == batch => *mark = last,
            _ => self.marks.push_back((batch, last)),
        }
    }

    /// Everything up to this batch is durable.
    pub(crate) fn durable(&mut self, batch: u64) {
        while let Some((number, mark)) = self.marks.front().copied() {
            if number > batch {
                break;
            }
            self.durable_last = mark;
            self.marks.pop_front();
        }
    }

    /// Whether the log holds this entry and it is durable, or has purged it.
    pub(crate) fn is_durable(&self, point: LogPoint) -> bool {
        self.purged.is_some_and(|purged| purged.index >= point.index)
            || (self.durable_last.is_some_and(|last| last.index >= point.index)
                && self.point(point.index) == Some(point))
    }

    /// Called at the end of recovery: everything found is durable.
    pub(crate) fn all_is_durable(&mut self) {
        self.durable_last = self.last();
    }

    /// How many entries lie in each segment.
    pub(crate) fn used(&self) -> Released {
        release(self.slots.iter().copied().chain(self.restored.values().map(|entry| entry.slot)))
    }
}

/// What an entry costs in memory: its payload and about this much around it.
fn held_bytes(record: &LogRecord) -> usize {
    record.payload.len() + 96
}

fn release(slots: impl Iterator<Item = Slot>) -> Released {
    let mut released: Released = Vec::new();
    for slot in slots {
        if slot.place == Place::Memory || slot.segment == u32::MAX {
            continue;
        }
        match released.last_mut() {
            Some((segment, count)) if *segment == slot.segment => *count += 1,
            _ => released.push((slot.segment, 1)),
        }
    }
    released
}

/// Takes a point back to what a truncation keeps.
fn clamp(point: &mut Option<LogPoint>, kept: Option<LogPoint>, base: Option<LogPoint>) {
    if let Some(present) = *point {
        match kept {
            Some(kept) if present.index > kept.index => *point = Some(kept),
            Some(_) => {}
            None => *point = base,
        }
    }
}

/// The later of two optional points by index.
trait MaxByIndex {
    fn max_by_index(self, other: Self) -> Self;
}

impl MaxByIndex for Option<LogPoint> {
    fn max_by_index(self, other: Self) -> Self {
        match (self, other) {
            (Some(one), Some(two)) => Some(if one.index >= two.index { one } else { two }),
            (one, two) => one.or(two),
        }
    }
}
