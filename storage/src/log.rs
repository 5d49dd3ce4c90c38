//! The segment log: what one node keeps of all its groups, written once and found by position.
//!
//! ```text
//! callers --append, save_vote...--> memory + queue --committer--> batches --disk--> done callbacks
//!                                                       housekeeper: makes and removes segments
//! ```
//!
//! [`SegmentLog::open`] recovers ([`recover`]), starts the committer and the housekeeper on threads of their own;
//! [`SegmentLog::open_stepped`] leaves the driving to the caller ([`LogDriver`]), for simulations.
//!
//! Invariants: what has been handed in can be read at once; its callback runs when it is durable, in order; the first
//! failed write or fsync is the end (G9); damaged bytes are never handed out (G8).

mod committer;
mod draft;
mod drafting;
mod group;
mod housekeeper;
mod options;
mod pool;
mod reading;
pub mod recover;
mod repair;
mod room;
mod scrub;
mod shared;
mod stats;
mod window;

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, ThreadId};
use std::time::Instant;

use bytes::Bytes;

pub use options::LogOptions;
pub use repair::Held;
pub use scrub::{ScrubFinding, ScrubProgress, Scrubber};
pub use stats::LogStats;

use crate::disk::{Disk, DiskError, Wait};
use crate::error::LogError;
use crate::format::{NO_TERM, NUMBER_LIMIT};
use crate::mutants;
use crate::types::{Done, GroupId, GroupState, LogPoint, LogRecord, StoreId};
use committer::Committer;
use recover::{RecoveryReport, Vet};
use shared::{Closing, QueuedEntry, Shared, State, VoteWork, Work};

/// The largest vote.
const VOTE_LIMIT_BYTES: usize = 2048;
/// After so long a full disk is asked again for another segment.
const FULL_RETRY_US: u64 = 500_000;
/// Entries whose bytes are counted without a pause for others.
const COUNTED_AT_ONCE: u64 = 1 << 16;
/// How far the numbers of a group's votes jump when some have been lost.
const VOTE_STEP_AFTER_LOSS: u64 = 1 << 32;

/// What becomes of entries that a full disk has no room for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum WhenFull {
    Refuse,
    Wait,
}

/// The segment log. Clones are handles to the same log; when the last is gone the threads stop, without confirming.
#[derive(Clone)]
pub struct SegmentLog(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    threads: Mutex<Threads>,
}

#[derive(Default)]
struct Threads {
    committer: Option<(ThreadId, JoinHandle<()>)>,
    housekeeper: Option<JoinHandle<()>>,
}

impl SegmentLog {
    /// Recovers, then starts the committer thread.
    pub fn open(disk: Box<dyn Disk>, options: LogOptions) -> Result<(SegmentLog, RecoveryReport), LogError> {
        SegmentLog::open_vetted(disk, options, &mut |_| Ok(()))
    }

    /// As [`SegmentLog::open`], but goes on only with what `vet` lets pass.
    pub fn open_vetted(
        disk: Box<dyn Disk>,
        options: LogOptions,
        vet: Vet<'_>,
    ) -> Result<(SegmentLog, RecoveryReport), LogError> {
        let (shared, committer, report) = recover::open(disk, options, vet)?;
        let cannot =
            |error: std::io::Error| LogError::Disk(DiskError::io("start a thread of", "the log", &error));
        let theirs = Arc::clone(&shared);
        let housekeeper = std::thread::Builder::new()
            .name("log-segments".to_owned())
            .spawn(move || housekeeper::run(&theirs))
            .map_err(cannot)?;
        let committing =
            std::thread::Builder::new().name("log-committer".to_owned()).spawn(move || drive(committer));
        let threads = match committing {
            Ok(thread) => {
                Threads { committer: Some((thread.thread().id(), thread)), housekeeper: Some(housekeeper) }
            }
            Err(error) => {
                let log =
                    SegmentLog::over(shared, Threads { committer: None, housekeeper: Some(housekeeper) });
                drop(log);
                return Err(cannot(error));
            }
        };
        Ok((SegmentLog::over(shared, threads), report))
    }

    /// Recovers and hands the driving to the caller: nothing happens but in [`LogDriver::step`].
    pub fn open_stepped(
        disk: Box<dyn Disk>,
        options: LogOptions,
    ) -> Result<(SegmentLog, LogDriver, RecoveryReport), LogError> {
        let (shared, committer, report) = recover::open(disk, options, &mut |_| Ok(()))?;
        let driver = LogDriver { shared: Arc::clone(&shared), committer };
        Ok((SegmentLog::over(shared, Threads::default()), driver, report))
    }

    fn over(shared: Arc<Shared>, threads: Threads) -> SegmentLog {
        SegmentLog(Arc::new(Inner { shared, threads: Mutex::new(threads) }))
    }

    /// The groups of which the log holds something.
    pub fn groups(&self) -> Vec<GroupId> {
        self.0.shared.lock().groups.keys().copied().collect()
    }

    /// The state of a group: of what has been handed in and can be read; `durable_last` of what is durable.
    pub fn state(&self, group: GroupId) -> GroupState {
        self.0.shared.lock().groups.get(&group).map(group::GroupLog::state).unwrap_or_default()
    }

    /// Appends entries. Their indexes must follow the group's last one (or begin anywhere in an empty group). They can be
    /// read when this returns; `done` is called when they are durable. A full disk refuses them: [`LogError::DiskFull`].
    pub fn append(&self, group: GroupId, records: Vec<LogRecord>, done: Done) -> Result<(), LogError> {
        self.take_entries(group, records, WhenFull::Refuse, done)
    }

    /// As [`SegmentLog::append`], but what a full disk has no room for is taken all the same and waits in memory until there
    /// is. For a caller that cannot be refused; whoever uses it bounds what it hands in. What waits holds up neither votes
    /// nor truncations, and other groups no more than a refusal would.
    pub fn append_or_wait(
        &self,
        group: GroupId,
        records: Vec<LogRecord>,
        done: Done,
    ) -> Result<(), LogError> {
        self.take_entries(group, records, WhenFull::Wait, done)
    }

    fn take_entries(
        &self,
        group: GroupId,
        records: Vec<LogRecord>,
        when_full: WhenFull,
        done: Done,
    ) -> Result<(), LogError> {
        let shared = &self.0.shared;
        let limit = shared.options.record_limit_bytes();
        let mut bytes = 0;
        let mut entries = VecDeque::with_capacity(records.len());
        for record in records {
            if record.payload.len() > limit {
                let bytes = record.payload.len();
                return Err(LogError::RecordTooLarge { group, bytes, limit_bytes: limit });
            }
            in_range(group, record.index)?;
            bytes += record.payload.len();
            // Outside the lock: this is where the bytes are gone through.
            let crc = crc32fast::hash(&record.payload);
            entries.push_back(QueuedEntry { record, crc, previous_term: NO_TERM });
        }
        let asleep = {
            let mut state = shared.lock();
            state.accepts()?;
            let log = state.groups.get(&group);
            let last = log.and_then(group::GroupLog::last);
            if let Some(last) = last
                && log.is_some_and(|log| !log.can_be_followed())
            {
                return Err(LogError::TermLost { group, index: last.index });
            }
            let mut next = last.map(|last| last.index + 1);
            let mut term = last.map_or(NO_TERM, |last| last.term);
            for entry in &mut entries {
                if let Some(expected) = next.filter(|expected| *expected != entry.record.index) {
                    return Err(LogError::NotConsecutive { group, expected, got: entry.record.index });
                }
                next = Some(entry.record.index + 1);
                entry.previous_term = std::mem::replace(&mut term, entry.record.term);
            }
            if when_full == WhenFull::Refuse {
                shared.admits(&state, entries.len(), bytes)?;
            }
            state.queued_bytes += bytes;
            state.queued_records += entries.len();
            for entry in &entries {
                state.push_entry(group, entry.record.clone(), entry.crc);
            }
            state.queue.push_back(Work::Entries { group, entries, done: Some(done) });
            shared.tell(&state);
            state.pushed()
        };
        shared.wake(asleep);
        Ok(())
    }

    /// Saves the group's vote, durably in two batches in different blocks before `done`. At most 2 KiB.
    pub fn save_vote(&self, group: GroupId, vote: Bytes, done: Done) -> Result<(), LogError> {
        if vote.len() > VOTE_LIMIT_BYTES {
            return Err(LogError::RecordTooLarge { group, bytes: vote.len(), limit_bytes: VOTE_LIMIT_BYTES });
        }
        {
            let mut state = self.0.shared.lock();
            state.accepts()?;
            state.admits_vote()?;
            let log = state.groups.entry(group).or_default();
            // Lost votes may have had the numbers right after the newest that is known.
            let step = if log.vote_lost { VOTE_STEP_AFTER_LOSS } else { 1 };
            let sequence = log.vote.sequence.max(log.newest_vote_named).saturating_add(step);
            in_range(group, sequence)?;
            log.vote.sequence = sequence;
            log.vote.bytes = Some(vote.clone());
            log.vote_lost = false;
            if mutants::is("vote-not-persisted") {
                drop(state);
                done(Ok(()));
                return Ok(());
            }
            state.votes.push_back(VoteWork { group, sequence, bytes: vote, done: Some(done) });
        }
        self.0.shared.kick();
        Ok(())
    }

    /// Notes how far the group has committed. Rides with the next batch, or the next idle one; nobody waits. What has been
    /// committed must never be truncated or replaced: where a batch is lost, recovery believes the older entries up to here.
    pub fn save_committed(&self, group: GroupId, committed: LogPoint) -> Result<(), LogError> {
        in_range(group, committed.index)?;
        let first = {
            let mut state = self.0.shared.lock();
            state.accepts()?;
            state.groups.entry(group).or_default().committed = Some(committed);
            let first = state.committed.insert(group, committed).is_none() && state.committed.len() == 1;
            // Otherwise the next batch or the idle deadline is coming anyway: waking the committer would cost a busy node
            // a thread switch a commit.
            first && state.is_resting
        };
        if first {
            self.0.shared.kick();
        }
        Ok(())
    }

    /// Drops everything after a point that the log holds, or everything. The point may be an entry that is lost: with its
    /// term, for which the caller vouches where rot has taken it, or with `u64::MAX` where nobody knows it.
    pub fn truncate_after(
        &self,
        group: GroupId,
        last_kept: Option<LogPoint>,
        done: Done,
    ) -> Result<(), LogError> {
        {
            let mut state = self.0.shared.lock();
            state.accepts()?;
            if let Some(point) = last_kept
                && !state.groups.get(&group).is_some_and(|log| log.may_end_at(point))
            {
                return Err(LogError::NoSuchPoint { group, point });
            }
            state.admits_truncation()?;
            let mut dones = state.drop_queued(group, last_kept);
            dones.push(done);
            let released = state.change(group, |log| {
                log.queued_truncations.push_back(last_kept);
                log.truncate(last_kept)
            });
            state.queue.push_back(Work::Truncate { group, kept: last_kept, released, dones });
            self.0.shared.tell(&state);
        }
        self.0.shared.kick();
        Ok(())
    }

    /// Drops everything up to a point, which may lie beyond the end (a snapshot has taken its place).
    pub fn purge(&self, group: GroupId, upto: LogPoint, done: Done) -> Result<(), LogError> {
        in_range(group, upto.index)?;
        {
            let mut state = self.0.shared.lock();
            state.accepts()?;
            state.admits_purge()?;
            let purged = state.groups.get(&group).and_then(|log| log.purged);
            let upto = purged.filter(|purged| purged.index >= upto.index).unwrap_or(upto);
            let released = state.change(group, |log| log.purge(upto));
            state.queue.push_back(Work::Purge { group, upto, released, done });
        }
        self.0.shared.kick();
        Ok(())
    }

    /// The entries of a range that the log has, in order: at least one if there is one, ending after `max_bytes` of
    /// payload. From memory or from the file, CRC checked; a damaged entry is [`LogError::Rot`].
    pub fn read(
        &self,
        group: GroupId,
        range: Range<u64>,
        max_bytes: usize,
    ) -> Result<Vec<LogRecord>, LogError> {
        reading::read(&self.0.shared, group, range, max_bytes)
    }

    /// The point at an index: of an entry, or of the purge point. `None` also where rot has taken the term.
    pub fn point(&self, group: GroupId, index: u64) -> Option<LogPoint> {
        self.0.shared.lock().groups.get(&group).and_then(|log| log.point(index))
    }

    /// How many bytes of payload the entries of a range have, as far as the log holds them.
    pub fn payload_bytes(&self, group: GroupId, range: Range<u64>) -> u64 {
        let end = self.state(group).last.map_or(0, |last| last.index.saturating_add(1)).min(range.end);
        let (mut bytes, mut from) = (0, range.start);
        while from < end {
            // Not all in one go: appends wait meanwhile.
            let upto = end.min(from.saturating_add(COUNTED_AT_ONCE));
            bytes += self.0.shared.lock().groups.get(&group).map_or(0, |log| log.payload_bytes(from..upto));
            from = upto;
        }
        bytes
    }

    /// Whether the log holds this entry and it is durable, or is behind the purge point.
    pub fn is_durable(&self, group: GroupId, point: LogPoint) -> bool {
        self.0.shared.lock().groups.get(&group).is_some_and(|log| log.is_durable(point))
    }

    /// Counters.
    pub fn stats(&self) -> LogStats {
        let state = self.0.shared.lock();
        LogStats {
            segments: state.segments.live.len() as u64,
            cached_bytes: state.cached_bytes() as u64,
            queued_bytes: state.queued_bytes as u64,
            unfinished_bytes: state.unfinished_bytes(),
            waits_for_disk: state.waits_for_disk(),
            disk_full: self.0.shared.admits(&state, 1, 0).is_err(),
            last_segment_room_bytes: state.last_room_bytes(&self.0.shared.options),
            ..state.counters.stats()
        }
    }

    /// The number of the newest batch that is durable. It never goes back while the log is open.
    pub fn durable_batch(&self) -> u64 {
        self.0.shared.lock().durable_batch
    }

    /// The random number that tells this log from all others.
    pub fn store(&self) -> StoreId {
        self.0.shared.store
    }

    /// Payload bytes that have been handed in and are not durable. Takes no lock.
    pub fn unfinished_bytes(&self) -> u64 {
        self.0.shared.unfinished_bytes()
    }

    /// Room for entries beyond those that wait, where the present segment is the last; `None` = there is no such bound. Takes no
    /// lock.
    pub fn last_room_bytes(&self) -> Option<u64> {
        self.0.shared.last_room_bytes()
    }

    /// Whether an append of so many entries would be taken now, and not refused with [`LogError::DiskFull`].
    pub fn admits(&self, records: usize, bytes: usize) -> bool {
        let shared = &self.0.shared;
        shared.admits(&shared.lock(), records, bytes).is_ok()
    }

    /// What the disk is, for a human.
    pub fn disk_description(&self) -> String {
        self.0.shared.disk.description()
    }

    /// The first failed write or fsync; from then on everything is refused.
    pub fn failure(&self) -> Option<LogError> {
        self.0.shared.lock().failure.clone()
    }

    /// Calls `hook` once when the log fails; at once if it has. It must not call the log.
    pub fn on_failure(&self, hook: Box<dyn Fn(&LogError) + Send + Sync>) {
        let shared = &self.0.shared;
        shared.hooks.lock().unwrap_or_else(PoisonError::into_inner).push(hook);
        let Some(failure) = self.failure() else { return };
        for hook in shared.hooks.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            hook(&failure);
        }
    }

    /// Writes what waits, confirms the last batch, stops the threads. Everything is refused afterwards, but reads go on.
    /// With a [`LogDriver`], only asks for it: the driver finishes.
    pub fn close(&self) {
        self.0.end(Closing::Confirm);
    }
}

impl Inner {
    fn end(&self, how: Closing) {
        {
            let mut state = self.shared.lock();
            if state.closing == Closing::No {
                state.closing = how;
            }
        }
        self.shared.kick();
        let mut threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        if let Some((id, committer)) = threads.committer.take()
            && id != std::thread::current().id()
        {
            // A panic of the thread has been reported by the panic hook.
            let _ = committer.join();
        }
        // Only now: the committer may have needed one more segment to finish.
        self.shared.lock_jobs().stop = true;
        self.shared.jobs_changed.notify_all();
        if let Some(housekeeper) = threads.housekeeper.take() {
            let _ = housekeeper.join();
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.end(Closing::Abandon);
    }
}

/// Indexes and the numbers of votes have a limit, so that one can always be added.
fn in_range(group: GroupId, index: u64) -> Result<(), LogError> {
    if index < NUMBER_LIMIT { Ok(()) } else { Err(LogError::IndexOutOfRange { group, index }) }
}

/// The committer's thread.
fn drive(mut committer: Committer) {
    let start = Instant::now();
    let now_us = || u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
    loop {
        committer.advance(now_us());
        if committer.is_finished() {
            return;
        }
        let wait = committer.wait(now_us());
        committer.complete(wait, now_us);
    }
}

/// Drives a log step by step, instead of its threads.
pub struct LogDriver {
    shared: Arc<Shared>,
    committer: Committer,
}

impl LogDriver {
    /// Submits what may be submitted, does one job on the segments, takes what the disk has finished. Never waits. Says
    /// whether the log goes on: `false` once it has failed or, after [`SegmentLog::close`], has ended.
    pub fn step(&mut self, now_us: u64) -> bool {
        // Awake: what is added from here on is seen without a wake.
        self.shared.lock().is_asleep = false;
        housekeeper::run_one(&self.shared);
        self.committer.advance(now_us);
        if self.committer.is_finished() {
            return false;
        }
        self.committer.complete(Wait::No, || now_us);
        true
    }

    /// Submits what the last completions have made room for, and says how long the next [`LogDriver::step`] may be put off
    /// when the disk finishes nothing. From now on whatever is handed in calls [`Disk::wake`], once; so a driver may sleep
    /// until then.
    pub fn rest(&mut self, now_us: u64) -> Wait {
        self.committer.advance(now_us);
        let is_full = self.shared.lock().segments.full;
        let has_jobs = {
            let jobs = self.shared.lock_jobs();
            jobs.prepare.is_some() || !jobs.remove.is_empty()
        };
        let wait = self.committer.wait(now_us);
        match (has_jobs, is_full, wait) {
            (false, ..) => wait,
            (true, false, _) => Wait::No,
            // A full disk is asked again, as the housekeeper's thread does.
            (true, true, Wait::AtMostUs(us)) => Wait::AtMostUs(us.min(FULL_RETRY_US)),
            (true, true, Wait::No) => Wait::No,
            (true, true, Wait::Forever) => Wait::AtMostUs(FULL_RETRY_US),
        }
    }

    /// Whether nothing is in flight and nothing waits, but for an idle batch.
    pub fn is_settled(&self) -> bool {
        self.committer.is_settled()
    }

    /// When an idle batch will be due, in the time that [`LogDriver::step`] is given.
    pub fn next_deadline_us(&self) -> Option<u64> {
        self.committer.next_deadline_us()
    }
}

impl Drop for LogDriver {
    fn drop(&mut self) {
        let orphans = {
            let mut state: std::sync::MutexGuard<'_, State> = self.shared.lock();
            if state.closing == Closing::No {
                state.closing = Closing::Abandon;
            }
            // Callbacks that hold the log would keep it, and themselves, for ever.
            state.take_waiting()
        };
        drop(orphans);
    }
}
