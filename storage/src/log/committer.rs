//! The committer: the state machine that turns what is queued into batches and durable batches into callbacks.
//!
//! It is driven by calls of [`Committer::advance`] (make and submit batches) and [`Committer::complete`] (take what the
//! disk has finished), by a thread in production and step by step in tests. Times come in as microseconds.
//!
//! Invariants:
//! - Batches are numbered without a gap; batch n is answered only when all up to n are durable.
//! - Batches and blocks in flight never exceed what the newest durable batch states as its window. So whoever reads the
//!   log after a crash knows how much can be missing. A larger batch is announced first.
//! - A new segment begins only when everything before it is durable. So nothing in an older segment is ever in flight.
//! - The first batch of a segment repeats the state of each group as of that place in the log and the cuts, and the batch
//!   after it votes and cuts once more: a segment by itself holds each of them twice.
//! - A segment is removed only after a durable batch has stated that it is not needed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::draft::Draft;
use super::group::Released;
use super::pool::BufferPool;
use super::shared::{Closing, Repaired, Shared, State, VoteWork};
use super::window::Window;
use crate::disk::{Completion, DiskError, SegmentWrite, Wait};
use crate::error::LogError;
use crate::format::{
    BLOCK_BYTES, BatchHeader, CheckpointState, CutRecord, encode_batch, flags, payload_start,
};
use crate::mutants;
use crate::types::{Done, GroupId};

pub(crate) struct Committer {
    pub(super) shared: Arc<Shared>,
    pub(super) head: Head,
    pub(super) in_flight: VecDeque<InFlight>,
    /// What may be in flight: as the newest durable batch states it.
    pub(super) allowed: Window,
    /// Number of the newest durable batch.
    durable: u64,
    /// Vote copies that the next batch takes.
    pub(super) second_copies: Vec<VoteWork>,
    /// State of each group as of the last batch made.
    pub(super) written: BTreeMap<GroupId, CheckpointState>,
    /// Cuts in segments that still exist.
    pub(super) cuts: Vec<CutRecord>,
    /// Batches lost of which no group is known, as the last batch made has it.
    pub(super) doubt: u64,
    /// The oldest segment needed, as stated by the newest batch made and by the newest durable one.
    pub(super) stated_oldest: u32,
    durable_oldest: u32,
    /// The durable mark that the newest batch made states, and the newest batch that deserves one.
    stated_mark: u64,
    last_real: u64,
    /// The batch that completes the second copies of all votes and cuts of the present segment; `None` = not made yet.
    pub(super) repeated_in: Option<u64>,
    /// Whether the cuts stand twice in the present segment.
    pub(super) cuts_repeated: bool,
    last_activity_us: u64,
    /// The additions that the last look at the queue has seen.
    seen_pushes: u64,
    pool: BufferPool,
    completions: Vec<Completion>,
    stopped: bool,
}

/// Where the next batch goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) segment: u32,
    pub(crate) block: u32,
    pub(crate) segment_blocks: u32,
    /// Number of the last batch; 0 = none yet.
    pub(crate) last_number: u64,
    pub(crate) last_crc: u32,
}

/// What comes of an attempt to put a batch together.
pub(super) enum Next {
    Batch(BatchHeader),
    /// The log has gone on to the next segment: try again there.
    Again,
    Nothing,
    TooLarge,
}

/// What recovery hands to the committer.
pub(crate) struct Start {
    pub(crate) head: Head,
    pub(crate) allowed: Window,
    pub(crate) written: BTreeMap<GroupId, CheckpointState>,
    pub(crate) cuts: Vec<CutRecord>,
    pub(crate) oldest: u32,
    pub(crate) doubt: u64,
    /// The durable mark that the last batch found states.
    pub(crate) stated_mark: u64,
    /// Whether that batch was only an idle one.
    pub(crate) last_is_idle: bool,
    /// Newest votes that stand once in the present segment.
    pub(crate) votes_to_repeat: Vec<VoteWork>,
    /// Whether the cuts stand twice in the present segment, and whether the votes do too.
    pub(crate) cuts_repeated: bool,
    pub(crate) is_repeated: bool,
}

pub(super) struct InFlight {
    number: u64,
    pub(super) blocks: u32,
    pub(super) window: Window,
    oldest: u32,
    dones: Vec<Done>,
    released: Vec<Released>,
    groups: Vec<GroupId>,
    repairs: Vec<Repaired>,
    records: u64,
    payload_bytes: u64,
    is_idle: bool,
    is_first: bool,
    submitted_us: u64,
    is_complete: bool,
}

impl Committer {
    pub(crate) fn new(shared: Arc<Shared>, start: Start) -> Committer {
        let last = start.head.last_number;
        let pool = BufferPool::new(shared.options.batch_limit_bytes * 2);
        Committer {
            shared,
            head: start.head,
            in_flight: VecDeque::new(),
            allowed: start.allowed,
            durable: last,
            second_copies: start.votes_to_repeat,
            written: start.written,
            cuts: start.cuts,
            doubt: start.doubt,
            stated_oldest: start.oldest,
            durable_oldest: start.oldest,
            stated_mark: start.stated_mark,
            last_real: if start.last_is_idle { last.saturating_sub(1) } else { last },
            repeated_in: start.is_repeated.then_some(last),
            cuts_repeated: start.cuts_repeated,
            last_activity_us: 0,
            seen_pushes: 0,
            pool,
            completions: Vec::new(),
            stopped: false,
        }
    }

    /// Makes and submits every batch that may be made now.
    pub(crate) fn advance(&mut self, now_us: u64) {
        while !self.stopped {
            let mut draft = Draft::default();
            let shared = Arc::clone(&self.shared);
            let mut state = shared.lock();
            state.is_asleep = false;
            self.seen_pushes = state.pushes;
            if state.failure.is_some() || state.closing == Closing::Abandon {
                break;
            }
            let next = self.draft(&mut state, &mut draft, now_us);
            drop(state);
            match next {
                Next::Batch(header) => {
                    if let Err(error) = self.submit(header, draft, now_us) {
                        self.fail(error);
                    }
                }
                Next::Again => self.answer_later(draft.dones),
                Next::Nothing => {
                    self.answer_later(draft.dones);
                    break;
                }
                Next::TooLarge => self.fail(DiskError::Io {
                    operation: "begin",
                    subject: format!("segment {}", self.head.segment),
                    errno: None,
                    message: "the checkpoint of all groups is larger than a segment".to_owned(),
                }),
            }
        }
    }

    /// Goes to the next segment if it is there and nothing is in flight; otherwise the queue waits.
    pub(super) fn roll(&mut self, state: &mut State) -> bool {
        if !self.in_flight.is_empty() || self.head.block == 0 {
            return false;
        }
        let Some(next) = state.segments.spare.take() else { return false };
        self.head.segment = next;
        self.head.block = 0;
        self.head.segment_blocks = self.shared.options.segment_blocks();
        state.segments.live.insert(next, 0);
        state.segments.room_blocks = self.head.segment_blocks;
        true
    }

    /// Asks the housekeeper for the segment after the present one. Only once the present one has begun, durably: two
    /// empty segments in a row are a sign that one has lost its content.
    pub(crate) fn request_spare(&self) {
        if let Some(next) = self.head.segment.checked_add(1) {
            self.shared.lock_jobs().prepare = Some(next);
            self.shared.jobs_changed.notify_all();
        }
    }

    /// The oldest segment that is needed; older ones may go once the votes stand twice in the present one.
    pub(super) fn oldest(&self, state: &State) -> u32 {
        let safe = self.repeated_in.is_some_and(|batch| batch <= self.durable);
        if safe { state.oldest_needed(self.head.segment).max(self.stated_oldest) } else { self.stated_oldest }
    }

    fn needs_confirming(&self, state: &State, oldest: u32) -> bool {
        self.stated_mark < self.last_real
            || oldest > self.stated_oldest
            || (!state.committed.is_empty() && !state.segments.is_scarce(&self.shared.options))
    }

    pub(super) fn idle_is_due(&self, state: &State, oldest: u32, now_us: u64) -> bool {
        self.in_flight.is_empty()
            && self.head.last_number > 0
            && self.needs_confirming(state, oldest)
            && (state.closing == Closing::Confirm || now_us >= self.idle_deadline_us())
    }

    fn idle_deadline_us(&self) -> u64 {
        self.last_activity_us.saturating_add(self.shared.options.idle_confirm_us)
    }

    pub(super) fn header(&mut self, draft: &Draft, window: Window, oldest: u32) -> BatchHeader {
        let first = if self.head.block == 0 { flags::FIRST } else { 0 };
        let idle = if draft.is_real { 0 } else { flags::IDLE };
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a batch fits in a segment, which is below 4 GiB"
        )]
        let (records, payload_bytes) = (draft.rows.len() as u32, draft.payload_bytes as u32);
        BatchHeader {
            flags: first | idle,
            store: self.shared.store,
            number: self.head.last_number + 1,
            durable_mark: self.durable,
            segment: self.head.segment,
            block: self.head.block,
            blocks: draft.blocks_with(0, 0),
            records,
            table_crc: 0,
            payload_bytes,
            previous_crc: self.head.last_crc,
            window_batches: window.batches,
            window_blocks: window.blocks,
            oldest_segment: oldest,
            segment_blocks: self.head.segment_blocks,
        }
    }

    /// Writes the batch into a buffer and hands it to the disk. Called without the lock.
    fn submit(&mut self, mut header: BatchHeader, mut draft: Draft, now_us: u64) -> Result<(), DiskError> {
        let bytes = header.blocks as usize * BLOCK_BYTES;
        let mut buffer = self.pool.take(bytes);
        debug_assert!(payload_start(draft.rows.len()) + draft.payload_bytes <= bytes);
        let fill = |target: &mut [u8], bytes: &[u8]| self.shared.disk.fill(target, bytes);
        let crc = encode_batch(&mut header, &mut draft.rows, &draft.payloads, buffer.as_mut_slice(), fill);
        if self.repeated_in.is_none()
            && header.block > 0
            && self.second_copies.is_empty()
            && draft.second_copies.is_empty()
            && self.cuts_repeated
        {
            self.repeated_in = Some(header.number);
        }
        self.in_flight.push_back(InFlight {
            number: header.number,
            blocks: header.blocks,
            window: Window { batches: header.window_batches, blocks: header.window_blocks },
            oldest: header.oldest_segment,
            dones: draft.dones,
            released: draft.released,
            groups: draft.groups.into_iter().collect(),
            repairs: draft.repairs,
            records: u64::from(header.records),
            payload_bytes: u64::from(header.payload_bytes),
            is_idle: !draft.is_real,
            is_first: header.block == 0,
            submitted_us: now_us,
            is_complete: false,
        });
        self.second_copies.append(&mut draft.second_copies);
        self.stated_mark = header.durable_mark;
        self.stated_oldest = header.oldest_segment;
        if draft.is_real {
            self.last_real = header.number;
        }
        self.last_activity_us = now_us;
        self.head.block += header.blocks;
        self.head.last_number = header.number;
        self.head.last_crc = crc;
        if mutants::is("ack-before-fsync") {
            let dones = self.in_flight.back_mut().map(|batch| std::mem::take(&mut batch.dones));
            dones.unwrap_or_default().into_iter().for_each(|done| done(Ok(())));
        }
        let offset = u64::from(header.block) * BLOCK_BYTES as u64;
        self.shared.disk.submit(SegmentWrite {
            token: header.number,
            segment: header.segment,
            offset,
            buffer,
        })
    }

    /// Takes what the disk has finished, waiting as told, and answers what has become durable.
    pub(crate) fn complete(&mut self, wait: Wait, now_us: impl FnOnce() -> u64) {
        let mut completions = std::mem::take(&mut self.completions);
        let result = self.shared.disk.completions(wait, &mut completions);
        let now_us = now_us();
        let mut failure = result.err();
        for completion in completions.drain(..) {
            self.pool.give_back(completion.buffer);
            match completion.result {
                Ok(()) => {
                    if let Some(batch) =
                        self.in_flight.iter_mut().find(|batch| batch.number == completion.token)
                    {
                        batch.is_complete = true;
                    }
                }
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        self.completions = completions;
        // A failure ends everything, but what was durable before it may still be said to be.
        self.retire(now_us);
        if let Some(error) = failure {
            self.fail(error);
        }
    }

    /// Answers every batch that is durable with all before it.
    fn retire(&mut self, now_us: u64) {
        let mut dones = Vec::new();
        {
            let shared = Arc::clone(&self.shared);
            let mut state = shared.lock();
            // Whatever the callbacks hand in is seen without a wake.
            state.is_asleep = false;
            let mut any = false;
            while self.in_flight.front().is_some_and(|batch| batch.is_complete)
                && let Some(batch) = self.in_flight.pop_front()
            {
                any = true;
                state.in_flight_batches = state.in_flight_batches.saturating_sub(1);
                state.in_flight_bytes = state.in_flight_bytes.saturating_sub(batch.payload_bytes);
                self.durable = batch.number;
                state.durable_batch = batch.number;
                self.allowed = batch.window;
                self.durable_oldest = batch.oldest;
                for group in &batch.groups {
                    if let Some(log) = state.groups.get_mut(group) {
                        log.durable(batch.number);
                    }
                }
                for released in &batch.released {
                    state.release(released);
                }
                for repair in &batch.repairs {
                    state.apply_repair(repair);
                }
                if batch.is_first {
                    self.request_spare();
                }
                count(&mut state, &batch, now_us);
                dones.extend(batch.dones);
            }
            if !any {
                return;
            }
            state.shrink_cache(shared.options.cache_bytes);
            self.drop_old_segments(&mut state);
            shared.tell(&state);
        }
        self.last_activity_us = now_us;
        for done in dones {
            done(Ok(()));
        }
    }

    /// Hands segments to the housekeeper that a durable batch has stated not to be needed.
    fn drop_old_segments(&self, state: &mut State) {
        let keep = state.segments.live.split_off(&self.durable_oldest);
        let old = std::mem::replace(&mut state.segments.live, keep);
        if !old.is_empty() {
            let mut jobs = self.shared.lock_jobs();
            jobs.remove.extend(old.into_keys());
            self.shared.jobs_changed.notify_all();
        }
    }

    /// Callbacks that need no batch of their own: answered with the last batch in flight, or at once.
    fn answer_later(&mut self, dones: Vec<Done>) {
        match self.in_flight.back_mut() {
            Some(batch) => batch.dones.extend(dones),
            None => {
                for done in dones {
                    done(Ok(()));
                }
            }
        }
    }

    fn fail(&mut self, error: DiskError) {
        let error = LogError::Failed(error);
        self.stopped = true;
        let mut orphans: Vec<Done> = self.in_flight.drain(..).flat_map(|batch| batch.dones).collect();
        orphans.extend(self.second_copies.drain(..).filter_map(|vote| vote.done));
        orphans.extend(self.shared.fail(&error));
        for done in orphans {
            done(Err(error.clone()));
        }
    }

    /// Whether the disk has something of ours.
    pub(crate) fn has_in_flight(&self) -> bool {
        !self.in_flight.is_empty()
    }

    /// Whether nothing is in flight and nothing waits but an idle confirmation.
    pub(crate) fn is_settled(&self) -> bool {
        let state = self.shared.lock();
        self.stopped
            || (self.in_flight.is_empty()
                && self.second_copies.is_empty()
                && self.cuts_repeated
                && self.head.block > 0
                && state.queue.is_empty()
                && state.votes.is_empty())
    }

    /// Whether the log has been told to end and has.
    pub(crate) fn is_finished(&mut self) -> bool {
        if self.stopped {
            return true;
        }
        let shared = Arc::clone(&self.shared);
        let mut state = shared.lock();
        if !self.in_flight.is_empty() {
            return false;
        }
        let answer = match (state.failure.clone(), state.closing) {
            (Some(failure), _) => failure,
            (None, Closing::No) => return false,
            (None, Closing::Abandon) => LogError::Closed,
            (None, Closing::Confirm) => {
                let waiting =
                    !state.queue.is_empty() || !state.votes.is_empty() || !self.second_copies.is_empty();
                let oldest = self.oldest(&state);
                let stuck = state.segments.full && state.segments.spare.is_none();
                if (waiting || self.needs_confirming(&state, oldest)) && !stuck {
                    return false;
                }
                LogError::DiskFull
            }
        };
        let mut orphans = state.take_waiting();
        drop(state);
        orphans.extend(self.second_copies.drain(..).filter_map(|vote| vote.done));
        for done in orphans {
            done(Err(answer.clone()));
        }
        self.stopped = true;
        true
    }

    /// How long to wait for the disk or for something new, given that nothing more can be submitted now.
    pub(crate) fn wait(&self, now_us: u64) -> Wait {
        if self.window_left().batches == 0 {
            // Whatever comes can only wait for a completion: nobody needs to wake us.
            return Wait::Forever;
        }
        let mut state = self.shared.lock();
        if state.pushes != self.seen_pushes {
            return Wait::No;
        }
        state.is_asleep = true;
        state.is_resting = self.in_flight.is_empty() && !self.needs_confirming(&state, self.oldest(&state));
        if state.is_resting || !self.in_flight.is_empty() {
            return Wait::Forever;
        }
        Wait::AtMostUs(self.idle_deadline_us().saturating_sub(now_us).max(1))
    }

    /// When an idle batch will be due, if one will.
    pub(crate) fn next_deadline_us(&self) -> Option<u64> {
        let state = self.shared.lock();
        let idle = self.in_flight.is_empty() && self.needs_confirming(&state, self.oldest(&state));
        (idle && !self.stopped).then(|| self.idle_deadline_us())
    }
}

fn count(state: &mut State, batch: &InFlight, now_us: u64) {
    let counters = &mut state.counters;
    counters.batches += 1;
    counters.idle_batches += u64::from(batch.is_idle);
    counters.records += batch.records;
    counters.payload_bytes += batch.payload_bytes;
    counters.written_bytes += u64::from(batch.blocks) * BLOCK_BYTES as u64;
    counters.wrote(now_us.saturating_sub(batch.submitted_us));
}
