//! What goes into the next batch: the committer's choices, made under the lock.
//!
//! Invariants: votes go before everything else; a group's records go in the order in which they were handed in; nothing is
//! taken out of the queue before it is known to fit; a checkpoint describes the groups as of its own place in the log, not
//! as of the memory, which is ahead.

use std::collections::VecDeque;

use bytes::Bytes;

use super::VOTE_LIMIT_BYTES;
use super::committer::{Committer, Next};
use super::draft::Draft;
use super::group::{Place, Restored, Slot};
use super::shared::{QueuedEntry, Repaired, State, VoteWork, Work};
use crate::format::{BLOCK_BYTES, CheckpointState, CutRecord, Kind, Row, Tag};
use crate::types::{GroupId, LogPoint};

impl Committer {
    /// Decides on the next batch and takes its records out of the queue.
    pub(super) fn draft(&mut self, state: &mut State, draft: &mut Draft, now_us: u64) -> Next {
        let is_first = self.head.block == 0;
        if self.window_left().batches == 0 || (is_first && !self.in_flight.is_empty()) {
            return Next::Nothing;
        }
        if is_first {
            self.draft_checkpoint(draft);
            if draft.blocks_with(0, 0) > self.head.segment_blocks {
                return Next::TooLarge;
            }
        }
        self.draft_second_cuts(draft);
        self.draft_votes(state, draft);
        let oldest = self.oldest(state);
        let idle = self.idle_is_due(state, oldest, now_us);
        if !state.queue.is_empty() || !draft.is_empty() || idle {
            self.draft_committed(state, draft);
        }
        if self.draft_queue(state, draft) {
            return Next::Again;
        }
        let announce = self.in_flight.is_empty() && self.first_queued_blocks(state) > self.allowed.blocks;
        if draft.is_empty() && !idle && !announce && !is_first {
            return Next::Nothing;
        }
        let room = self.head.segment_blocks - self.head.block;
        if room == 0 {
            // An idle batch; everything else was measured before it was taken.
            return if self.roll(state) { Next::Again } else { Next::Nothing };
        }
        draft.close();
        self.place_entries(state, draft);
        self.remember(state, draft);
        state.segments.room_blocks = room - draft.blocks_with(0, 0);
        state.in_flight_batches += 1;
        state.in_flight_bytes += draft.payload_bytes as u64;
        self.shared.tell(state);
        let announced = self.announced_window(state);
        Next::Batch(self.header(draft, announced, oldest))
    }

    /// The start of a segment: cuts, then each group's state as of here; cuts and votes again in the next batch.
    fn draft_checkpoint(&mut self, draft: &mut Draft) {
        let oldest = self.stated_oldest;
        self.cuts.retain(|cut| cut.segment >= oldest);
        for cut in &self.cuts {
            draft.push_cut(cut);
        }
        if self.doubt > 0 {
            draft.push_doubt(self.doubt);
        }
        for (group, checkpoint) in &self.written {
            draft.push_checkpoint(*group, checkpoint.encode());
            if let Some(bytes) = checkpoint.vote.clone().filter(|_| !checkpoint.vote_lost) {
                let sequence = checkpoint.vote_sequence;
                draft.second_copies.push(VoteWork { group: *group, sequence, bytes, done: None });
            }
        }
        draft.is_real = true;
        self.repeated_in = None;
        self.cuts_repeated = self.cuts.is_empty();
    }

    /// The cuts once more, in the batch after the first one of a segment: without them, what was cut off would come back.
    fn draft_second_cuts(&mut self, draft: &mut Draft) {
        let bytes = self.cuts.len() * CutRecord::BYTES;
        if self.cuts_repeated
            || self.head.block == 0
            || draft.blocks_with(self.cuts.len(), bytes) > self.limit_blocks(0)
        {
            return;
        }
        for cut in &self.cuts {
            draft.push_cut(cut);
        }
        self.cuts_repeated = true;
    }

    /// Second copies of the last batch's votes, then first copies of new ones. They may use the segment's reserve.
    fn draft_votes(&mut self, state: &mut State, draft: &mut Draft) {
        let limit = self.limit_blocks(0);
        let mut waiting = std::mem::take(&mut self.second_copies).into_iter();
        for mut vote in waiting.by_ref() {
            if draft.blocks_with(1, vote.bytes.len()) > limit {
                self.second_copies.push(vote);
                break;
            }
            draft.push_vote(&vote, Tag::SECOND_COPY);
            draft.dones.extend(vote.done.take());
        }
        self.second_copies.extend(waiting);
        while let Some(vote) = state.votes.front() {
            if draft.blocks_with(1, vote.bytes.len()) > limit {
                break;
            }
            let Some(vote) = state.votes.pop_front() else { break };
            draft.push_vote(&vote, Tag::FIRST_COPY);
            draft.second_copies.push(vote);
        }
    }

    fn draft_committed(&self, state: &mut State, draft: &mut Draft) {
        let limit = self.limit_blocks(0);
        while draft.blocks_with(1, 0) <= limit
            && let Some((group, committed)) = state.committed.pop_first()
        {
            draft.push_point(group, Kind::Committed, committed);
        }
    }

    /// Records from the queue, in order, as many as fit. Says whether it has gone on to the next segment instead, because
    /// not even the first fits.
    fn draft_queue(&mut self, state: &mut State, draft: &mut Draft) -> bool {
        let options = &self.shared.options;
        // What a full disk was not to refuse must leave votes as much as what it refuses.
        let reserve =
            if state.segments.is_last() { options.low_water_blocks() } else { options.reserve_blocks() };
        let full = self.limit_blocks(0);
        let usual = self.limit_blocks(reserve);
        while let Some(work) = state.queue.pop_front() {
            let rest = match work {
                Work::Entries { group, mut entries, done } => {
                    if self.draft_entries(state, draft, group, &mut entries, usual) {
                        draft.dones.extend(done);
                        continue;
                    }
                    Some(Work::Entries { group, entries, done })
                }
                small => self.draft_small(draft, small, full),
            };
            if let Some(rest) = rest {
                state.queue.push_front(rest);
                break;
            }
        }
        self.draft_past_stalled(state, draft);
        let stuck = !state.queue.is_empty() || !self.second_copies.is_empty() || !state.votes.is_empty();
        draft.is_empty() && stuck && !self.fits_after_announcing(state) && self.roll(state)
    }

    /// Takes what may use the segment's reserve; gives it back if it does not fit. Of entries only the answer is left.
    pub(super) fn draft_small(&mut self, draft: &mut Draft, work: Work, limit: u32) -> Option<Work> {
        let fits = match &work {
            Work::Entries { .. } => true,
            Work::Repair { entry, .. } => {
                let blocks = draft.blocks_with(1, entry.record.payload.len());
                blocks <= limit && (draft.is_empty() || blocks <= self.shared.options.batch_limit_blocks())
            }
            // A vote of this batch may be longer than the last one.
            Work::State { .. } => {
                draft.blocks_with(1, CheckpointState::FIXED_BYTES + VOTE_LIMIT_BYTES) <= limit
            }
            Work::Truncate { .. } | Work::Purge { .. } | Work::Doubt { .. } => {
                draft.blocks_with(1, 0) <= limit
            }
        };
        if !fits {
            return Some(work);
        }
        match work {
            Work::Entries { done, .. } => draft.dones.extend(done),
            Work::Truncate { group, kept, released, dones } => {
                draft.push_truncation(group, self.kept_here(draft, group, kept));
                draft.released.push(released);
                draft.dones.extend(dones);
            }
            Work::Purge { group, upto, released, done } => {
                draft.push_point(group, Kind::Purge, upto);
                draft.released.push(released);
                draft.dones.push(done);
            }
            Work::Repair { group, entry, done } => {
                draft.push_entry(group, Kind::Repair, entry);
                draft.dones.extend(done);
            }
            Work::State { group, tail_unknown, suspects_vote, done } => {
                self.draft_state(draft, group, tail_unknown, suspects_vote);
                draft.dones.extend(done);
            }
            Work::Doubt { batches, done } => {
                draft.push_doubt(batches);
                draft.dones.extend(done);
            }
        }
        None
    }

    /// What a truncation keeps at this place of the log: a later one may have taken entries out of the queue that this one
    /// was to keep, and a record must not name what was never written.
    fn kept_here(&self, draft: &Draft, group: GroupId, kept: Option<LogPoint>) -> Option<LogPoint> {
        let mut here = self.written.get(&group).cloned().unwrap_or_default();
        for (row, payload) in draft.rows.iter().zip(&draft.payloads).filter(|(row, _)| row.group == group) {
            note(&mut here, row, payload);
        }
        match (kept, here.last) {
            (Some(kept), Some(last)) if kept.index > last.index => Some(last),
            (Some(_), None) => None,
            _ => kept,
        }
    }

    /// Takes entries as long as they fit; says whether all of them did.
    pub(super) fn draft_entries(
        &self,
        state: &mut State,
        draft: &mut Draft,
        group: GroupId,
        entries: &mut VecDeque<QueuedEntry>,
        limit: u32,
    ) -> bool {
        let usual_batch = self.shared.options.batch_limit_blocks();
        while let Some(entry) = entries.front() {
            let bytes = entry.record.payload.len();
            let blocks = draft.blocks_with(1, bytes);
            // A record larger than the usual batch goes alone, so that the batch is no larger than announced.
            if blocks > limit || (!draft.is_empty() && blocks > usual_batch) {
                return false;
            }
            let Some(entry) = entries.pop_front() else { break };
            state.queued_bytes -= bytes;
            state.queued_records -= 1;
            draft.push_entry(group, Kind::Entry, entry);
        }
        true
    }

    /// A checkpoint of one group amid a segment: its state as of this place, with another say on what is lost.
    fn draft_state(&mut self, draft: &mut Draft, group: GroupId, tail_unknown: bool, suspects_vote: bool) {
        let written = self.written.entry(group).or_default();
        written.tail_unknown = tail_unknown;
        let mut state = written.clone();
        for (row, payload) in draft.rows.iter().zip(&draft.payloads).filter(|(row, _)| row.group == group) {
            note(&mut state, row, payload);
        }
        if suspects_vote && state.vote.is_none() {
            state.vote_lost = true;
            written.vote_lost = true;
        }
        draft.push_checkpoint(group, state.encode());
    }

    /// Tells the groups' memory where the entries of the batch lie; where the restored ones will, once it is durable.
    fn place_entries(&self, state: &mut State, draft: &mut Draft) {
        let start = u64::from(self.head.block) * BLOCK_BYTES as u64;
        let segment = self.head.segment;
        let mut placed = 0;
        for row in draft.rows.iter().filter(|row| matches!(row.kind, Kind::Entry | Kind::Repair)) {
            let Ok(offset) = u32::try_from(start + u64::from(row.offset)) else { continue };
            let slot =
                Slot { segment, offset, length: row.length, crc: row.crc, tag: row.tag, place: Place::Disk };
            if row.kind == Kind::Repair {
                let entry = Restored { term: row.term, leader: row.leader, slot };
                draft.repairs.push(Repaired { group: row.group, index: row.index, entry });
                continue;
            }
            // Purged or truncated since it was queued: then it has no slot, and needs none.
            if state.groups.get_mut(&row.group).and_then(|log| log.place(row.index, slot)).is_some() {
                placed += 1;
            }
        }
        *state.segments.live.entry(segment).or_default() += placed;
    }

    /// Brings the state as of the last batch up to this one and notes what its durability will mean.
    fn remember(&mut self, state: &mut State, draft: &Draft) {
        for (row, payload) in draft.rows.iter().zip(&draft.payloads) {
            match row.kind {
                Kind::Cut | Kind::Checkpoint => continue,
                Kind::Doubt => {
                    self.doubt = row.index;
                    continue;
                }
                Kind::Truncate => {
                    if let Some(log) = state.groups.get_mut(&row.group) {
                        log.queued_truncations.pop_front();
                    }
                }
                _ => {}
            }
            note(self.written.entry(row.group).or_default(), row, payload);
        }
        let number = self.head.last_number + 1;
        for group in &draft.groups {
            let last: Option<LogPoint> = self.written.get(group).and_then(|written| written.last);
            if let Some(log) = state.groups.get_mut(group) {
                log.mark(number, last);
            }
        }
    }
}

/// Brings the state of a group up to a record of its own.
fn note(written: &mut CheckpointState, row: &Row, payload: &Bytes) {
    match row.kind {
        Kind::Entry => written.last = Some(row.point()),
        Kind::Truncate => {
            let kept = (row.tag == Tag::KEEPS_POINT).then(|| row.point());
            written.last = kept.or(written.purged);
            written.truncation = Some(kept);
        }
        Kind::Purge => {
            written.purged = Some(row.point());
            if written.last.is_none_or(|last| last.index < row.index) {
                written.last = Some(row.point());
            }
        }
        Kind::Committed => written.committed = Some(row.point()),
        Kind::Vote if row.index > written.vote_sequence => {
            written.vote_sequence = row.index;
            written.vote = Some(payload.clone());
            written.vote_lost = false;
        }
        // Its term may not have been known before.
        Kind::Repair if written.last.is_some_and(|last| last.index == row.index) => {
            written.last = Some(row.point());
        }
        Kind::Vote | Kind::Repair | Kind::Checkpoint | Kind::Cut | Kind::Doubt => {}
    }
}
