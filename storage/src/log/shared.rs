//! What the callers' threads, the committer and the housekeeper share.
//!
//! Invariants: a record is in a group's memory and in the queue from the same moment on, under one lock; nothing is
//! written to a disk under that lock; whoever adds something calls [`State::pushed`] under it and [`Shared::wake`] after
//! it, or [`Shared::kick`] after it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::group::{Evicted, GroupLog, Released, Restored};
use super::options::LogOptions;
use super::stats::Counters;
use crate::disk::Disk;
use crate::error::LogError;
use crate::format::BLOCK_BYTES;
use crate::types::{Done, GroupId, LogPoint, LogRecord, StoreId};

/// Told of the first failure.
pub(crate) type FailureHook = Box<dyn Fn(&LogError) + Send + Sync>;

/// Told of a group in which rot has been found.
pub(crate) type RotHook = Arc<dyn Fn(GroupId) + Send + Sync>;

pub(crate) struct Shared {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) options: LogOptions,
    pub(crate) store: StoreId,
    pub(crate) state: Mutex<State>,
    pub(crate) jobs: Mutex<Jobs>,
    pub(crate) jobs_changed: Condvar,
    pub(crate) hooks: Mutex<Vec<FailureHook>>,
    pub(crate) rot_hooks: Mutex<Vec<RotHook>>,
    /// What the state says of itself, to be read without its lock ([`Shared::tell`]).
    pub(crate) told: Told,
}

/// See [`Shared::tell`].
#[derive(Default)]
pub(crate) struct Told {
    unfinished_bytes: AtomicU64,
    /// `u64::MAX` = there is no bound.
    last_room_bytes: AtomicU64,
}

pub(crate) struct State {
    pub(crate) groups: BTreeMap<GroupId, GroupLog>,
    pub(crate) queue: VecDeque<Work>,
    pub(crate) queued_bytes: usize,
    pub(crate) queued_records: usize,
    /// Batches that are made and not durable, and the payload bytes in them.
    pub(crate) in_flight_batches: usize,
    pub(crate) in_flight_bytes: u64,
    pub(crate) votes: VecDeque<VoteWork>,
    pub(crate) committed: BTreeMap<GroupId, LogPoint>,
    /// Counts additions, so that the committer does not go to sleep over one.
    pub(crate) pushes: u64,
    /// The committer sleeps, or is about to, and has seen every addition so far: the next one must wake it.
    pub(crate) is_asleep: bool,
    /// The committer waits with nothing in flight and nothing to confirm: only a kick ends that.
    pub(crate) is_resting: bool,
    pub(crate) segments: Segments,
    /// Batches lost with their tables since every group was last named.
    pub(crate) doubt: u64,
    /// Number of the newest durable batch.
    pub(crate) durable_batch: u64,
    pub(crate) failure: Option<LogError>,
    pub(crate) closing: Closing,
    pub(crate) counters: Counters,
    /// The order in which entries came into the cache.
    cached: VecDeque<(GroupId, u64)>,
    cached_bytes: usize,
}

/// The segment files that the log uses.
pub(crate) struct Segments {
    /// Live entries in each segment that exists, the present one included.
    pub(crate) live: BTreeMap<u32, u64>,
    /// From which block on a segment is void, where one has been cut.
    pub(crate) void: BTreeMap<u32, u32>,
    /// The next segment, made ahead of need.
    pub(crate) spare: Option<u32>,
    /// The last attempt to make the next segment found no room.
    pub(crate) full: bool,
    /// Blocks left in the present segment.
    pub(crate) room_blocks: u32,
}

/// How the log is ending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Closing {
    /// It is not.
    No,
    /// Write out everything, confirm it, stop.
    Confirm,
    /// Finish what is in flight, stop.
    Abandon,
}

/// Something that waits for a batch.
pub(crate) enum Work {
    Entries {
        group: GroupId,
        entries: VecDeque<QueuedEntry>,
        done: Option<Done>,
    },
    /// `dones`: of the appends whose entries it took out of the queue, then its own.
    Truncate {
        group: GroupId,
        kept: Option<LogPoint>,
        released: Released,
        dones: Vec<Done>,
    },
    Purge {
        group: GroupId,
        upto: LogPoint,
        released: Released,
        done: Done,
    },
    /// An entry's bytes, restored.
    Repair {
        group: GroupId,
        entry: QueuedEntry,
        done: Option<Done>,
    },
    /// States of a group whether its end is known. `suspects_vote`: a vote may have been lost, unless one is known.
    State {
        group: GroupId,
        tail_unknown: bool,
        suspects_vote: bool,
        done: Option<Done>,
    },
    /// States how many batches have been lost of which no group is known.
    Doubt {
        batches: u64,
        done: Option<Done>,
    },
}

impl Work {
    /// The group whose order it has to keep to.
    pub(crate) fn group(&self) -> Option<GroupId> {
        match self {
            Work::Entries { group, .. }
            | Work::Truncate { group, .. }
            | Work::Purge { group, .. }
            | Work::Repair { group, .. }
            | Work::State { group, .. } => Some(*group),
            Work::Doubt { .. } => None,
        }
    }
}

pub(crate) struct QueuedEntry {
    pub(crate) record: LogRecord,
    pub(crate) crc: u32,
    pub(crate) previous_term: u64,
}

/// Where a restored entry lies once its batch is durable.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Repaired {
    pub(crate) group: GroupId,
    pub(crate) index: u64,
    pub(crate) entry: Restored,
}

/// A vote on its way; `done` is missing where the log itself wants another copy.
pub(crate) struct VoteWork {
    pub(crate) group: GroupId,
    pub(crate) sequence: u64,
    pub(crate) bytes: Bytes,
    pub(crate) done: Option<Done>,
}

/// What the housekeeper has to do.
#[derive(Default)]
pub(crate) struct Jobs {
    /// Make this segment.
    pub(crate) prepare: Option<u32>,
    /// Remove these, oldest first.
    pub(crate) remove: VecDeque<u32>,
    /// One of them is being done.
    pub(crate) is_busy: bool,
    pub(crate) stop: bool,
}

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn lock_jobs(&self) -> MutexGuard<'_, Jobs> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the committer that there is something new.
    pub(crate) fn kick(&self) {
        let asleep = self.lock().pushed();
        self.wake(asleep);
    }

    /// Wakes the committer if [`State::pushed`] said so; without the lock, which it wants first.
    pub(crate) fn wake(&self, asleep: bool) {
        if asleep {
            self.disk.wake();
        }
    }

    /// Keeps what hot paths ask for. Called under the lock by whoever has changed what waits, what is in flight, or the room.
    pub(crate) fn tell(&self, state: &State) {
        self.told.unfinished_bytes.store(state.unfinished_bytes(), Ordering::Release);
        let room = state.last_room_bytes(&self.options).unwrap_or(u64::MAX);
        self.told.last_room_bytes.store(room, Ordering::Release);
    }

    /// Payload bytes that have been handed in and are not durable.
    pub(crate) fn unfinished_bytes(&self) -> u64 {
        self.told.unfinished_bytes.load(Ordering::Acquire)
    }

    /// Room for entries where the present segment is the last, without what waits for it already.
    pub(crate) fn last_room_bytes(&self) -> Option<u64> {
        Some(self.told.last_room_bytes.load(Ordering::Acquire)).filter(|bytes| *bytes != u64::MAX)
    }

    /// Tells that rot has been found in these groups. Called without any lock.
    pub(crate) fn tell_rot(&self, groups: impl IntoIterator<Item = GroupId>) {
        let hooks = self.rot_hooks.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for group in groups {
            tracing::error!(group, "durable bytes of the group are damaged");
            for hook in &hooks {
                hook(group);
            }
        }
    }

    /// Ends the log with its first failure; the callbacks are the caller's to run. Tells the hooks.
    pub(crate) fn fail(&self, error: &LogError) -> Vec<Done> {
        let orphans = {
            let mut state = self.lock();
            if state.failure.is_none() {
                state.failure = Some(error.clone());
            }
            state.take_waiting()
        };
        tracing::error!(%error, "the log has stopped for good");
        for hook in self.hooks.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            hook(error);
        }
        orphans
    }
}

impl State {
    pub(crate) fn new(groups: BTreeMap<GroupId, GroupLog>, segments: Segments) -> State {
        State {
            groups,
            queue: VecDeque::new(),
            queued_bytes: 0,
            queued_records: 0,
            in_flight_batches: 0,
            in_flight_bytes: 0,
            votes: VecDeque::new(),
            committed: BTreeMap::new(),
            pushes: 0,
            is_asleep: false,
            is_resting: false,
            segments,
            doubt: 0,
            durable_batch: 0,
            failure: None,
            closing: Closing::No,
            counters: Counters::new(),
            cached: VecDeque::new(),
            cached_bytes: 0,
        }
    }

    /// Counts an addition under the lock that made it; says whether the committer must be woken for it. A committer that is
    /// awake is not: it may have taken the addition long before the wake, which would then look like another one.
    pub(crate) fn pushed(&mut self) -> bool {
        self.pushes += 1;
        std::mem::take(&mut self.is_asleep)
    }

    /// Whether the log still takes anything.
    pub(crate) fn accepts(&self) -> Result<(), LogError> {
        match (&self.failure, self.closing) {
            (Some(failure), _) => Err(failure.clone()),
            (None, Closing::No) => Ok(()),
            (None, _) => Err(LogError::Closed),
        }
    }

    pub(crate) fn unfinished_bytes(&self) -> u64 {
        self.in_flight_bytes + self.queued_bytes as u64
    }

    /// Whether something that has been handed in can only become durable by the disk's work. What waits for room does not.
    pub(crate) fn waits_for_disk(&self) -> bool {
        let queues = !self.queue.is_empty() || !self.votes.is_empty();
        self.in_flight_batches > 0 || queues && !self.segments.is_last()
    }

    /// See [`Shared::last_room_bytes`].
    pub(crate) fn last_room_bytes(&self, options: &LogOptions) -> Option<u64> {
        let bytes = || u64::from(self.entry_room_blocks(options, 0)) * BLOCK_BYTES as u64;
        self.segments.is_last().then(|| bytes().saturating_sub(self.queued_bytes as u64))
    }

    /// Everything that waits and will never be written.
    pub(crate) fn take_waiting(&mut self) -> Vec<Done> {
        let mut orphans = Vec::new();
        for work in self.queue.drain(..) {
            match work {
                Work::Entries { done, .. } => orphans.extend(done),
                Work::Truncate { dones, .. } => orphans.extend(dones),
                Work::Purge { done, .. } => orphans.push(done),
                Work::Repair { done, .. } | Work::State { done, .. } | Work::Doubt { done, .. } => {
                    orphans.extend(done);
                }
            }
        }
        orphans.extend(self.votes.drain(..).filter_map(|vote| vote.done));
        (self.queued_bytes, self.queued_records) = (0, 0);
        orphans
    }

    /// Changes a group and keeps the account of the cache.
    pub(crate) fn change<T>(&mut self, group: GroupId, change: impl FnOnce(&mut GroupLog) -> T) -> T {
        let log = self.groups.entry(group).or_default();
        let before = log.recent_bytes();
        let result = change(log);
        self.cached_bytes = self.cached_bytes + log.recent_bytes() - before;
        result
    }

    /// Puts an entry at the end of a group's log, in memory.
    pub(crate) fn push_entry(&mut self, group: GroupId, record: LogRecord, crc: u32) {
        self.cached.push_back((group, record.index));
        self.change(group, |log| log.push_recent(record, crc));
    }

    /// Forgets the oldest cached entries beyond the limit, but none that is not durable.
    pub(crate) fn shrink_cache(&mut self, limit_bytes: usize) {
        while let Some((group, index)) = self.cached.front().copied() {
            // Truncated, purged or appended anew since: a later item of this list stands for it.
            let stale = self.groups.get(&group).is_none_or(|log| !log.is_oldest_recent(index));
            if !stale {
                let over = self.cached_bytes > limit_bytes;
                if !over || self.change(group, |log| log.evict(index)) == Evicted::Pinned {
                    return;
                }
            }
            self.cached.pop_front();
        }
    }

    pub(crate) fn cached_bytes(&self) -> usize {
        self.cached_bytes
    }

    /// Takes queued entries after a point out of the queue: they have been truncated before they were written. Gives the
    /// callbacks of their appends, which are answered with the truncation: before it is durable, a crash could bring back
    /// neither those entries nor their end.
    pub(crate) fn drop_queued(&mut self, of: GroupId, kept: Option<LogPoint>) -> Vec<Done> {
        let mut dones = Vec::new();
        let mut any = false;
        let is_dropped = |index: u64| kept.is_none_or(|kept| index > kept.index);
        self.queue.retain_mut(|work| match work {
            Work::Repair { group, entry, done } if *group == of && is_dropped(entry.record.index) => {
                dones.extend(done.take());
                false
            }
            _ => true,
        });
        for work in &mut self.queue {
            let Work::Entries { group, entries, done } = work else { continue };
            if *group != of {
                continue;
            }
            while entries.back().is_some_and(|entry| is_dropped(entry.record.index))
                && let Some(entry) = entries.pop_back()
            {
                any = true;
                self.queued_bytes -= entry.record.payload.len();
                self.queued_records -= 1;
            }
            if any {
                dones.extend(done.take());
            }
        }
        dones
    }

    /// The oldest segment that holds a live entry, or the present one.
    pub(crate) fn oldest_needed(&self, present: u32) -> u32 {
        if self.groups.values().any(GroupLog::needs_its_beginning) {
            return self.segments.live.first_key_value().map_or(present, |(oldest, _)| *oldest);
        }
        self.segments
            .live
            .iter()
            .find(|(segment, live)| **live > 0 || **segment >= present)
            .map_or(present, |(segment, _)| *segment)
    }

    /// A repair is durable: the entry can be read from there. What held it before is free.
    pub(crate) fn apply_repair(&mut self, repair: &Repaired) {
        let Repaired { group, index, entry } = *repair;
        let Some(log) = self.groups.get_mut(&group) else { return };
        // Truncated since, and another entry appended: then the repair has become void.
        if log.point(index).is_some_and(|held| held.term != entry.term) {
            return;
        }
        if let Some(released) = log.put_restored(index, entry) {
            *self.segments.live.entry(entry.slot.segment).or_default() += 1;
            self.release(&released);
        }
    }

    /// Subtracts what a truncation or a purge has freed.
    pub(crate) fn release(&mut self, released: &Released) {
        for (segment, count) in released {
            if let Some(live) = self.segments.live.get_mut(segment) {
                *live = live.saturating_sub(*count);
            }
        }
    }
}
