//! What may still be written when the disk fills up.
//!
//! ```text
//!  present segment  |######## written ########|   entries   | low water: votes, truncations, repairs | purges |
//! ```
//!
//! The next segment is made while the present one is nearly empty, so that a full disk is known long before it hurts. From
//! then on the present segment is all there is: entries are refused below the low-water mark, and what needs no more than a
//! block goes on in the rest; the very last blocks are for purges, which make room.
//!
//! Invariants: a refusal comes before anything is queued; what has been taken is never refused later, it waits at worst
//! (there is a way to hand entries in that waits from the start), and what waits holds up neither votes nor truncations, and
//! nothing of other groups ([`Committer::draft_past_stalled`]); as soon as the next segment has
//! been made everything goes on.

use std::collections::{BTreeMap, VecDeque};

use super::committer::Committer;
use super::draft::Draft;
use super::options::{LogOptions, blocks_of};
use super::shared::{Segments, Shared, State, Work};
use crate::error::LogError;
use crate::format::{BLOCK_BYTES, ROW_BYTES};
use crate::types::{Done, GroupId};

/// Blocks that are left to purges and to the idle batches which say that segments may go.
const PURGE_BLOCKS: u32 = 3;

impl Segments {
    /// Whether the present segment is all there is.
    pub(super) fn is_last(&self) -> bool {
        self.full && self.spare.is_none()
    }

    /// Whether so little of it is left that committed points do not get batches of their own.
    pub(super) fn is_scarce(&self, options: &LogOptions) -> bool {
        self.is_last() && self.room_blocks <= options.reserve_blocks()
    }
}

impl Shared {
    /// Whether entries of so many more bytes will find room. Only a full disk refuses.
    pub(super) fn admits(&self, state: &State, records: usize, bytes: usize) -> Result<(), LogError> {
        let rows = (state.queued_records + records) * ROW_BYTES;
        // Each piece of the queue may end in a batch of its own.
        let wanted = (state.queued_bytes + bytes + rows).div_ceil(BLOCK_BYTES) + state.queue.len() + 1;
        // What does not fit at the end of a segment leaves a gap there.
        let gap = self
            .options
            .batch_limit_blocks()
            .max(blocks_of(records, bytes))
            .min(self.options.segment_blocks() / 2);
        let room = state.entry_room_blocks(&self.options, gap) as usize;
        if wanted <= room {
            return Ok(());
        }
        if state.segments.is_last() {
            return Err(LogError::DiskFull);
        }
        let Some(segments) = self.segments_to_come() else { return Ok(()) };
        let each = self.options.segment_blocks().saturating_sub(self.options.low_water_blocks() + gap);
        if (wanted - room) as u64 <= segments.saturating_mul(u64::from(each)) {
            Ok(())
        } else {
            Err(LogError::DiskFull)
        }
    }

    /// How many segments more will find room; `None` = nobody knows.
    fn segments_to_come(&self) -> Option<u64> {
        let free = self.disk.free_bytes()?.saturating_sub(self.options.keep_free_bytes);
        let free = free / self.options.segment_bytes;
        let jobs = self.lock_jobs();
        // One that is being made takes its room already, and old ones that are about to go make some.
        Some(free + u64::from(jobs.is_busy) + jobs.remove.len() as u64)
    }
}

impl State {
    /// How many blocks of entries there is room for in the segments that exist, with a gap at the end of one.
    pub(super) fn entry_room_blocks(&self, options: &LogOptions, gap: u32) -> u32 {
        let here = self.segments.room_blocks.saturating_sub(options.low_water_blocks());
        if self.segments.spare.is_none() {
            return here;
        }
        here.saturating_sub(gap) + options.segment_blocks().saturating_sub(options.low_water_blocks())
    }

    /// Whether a repair of so many bytes finds room: it may use what is left to votes, but for the last of it.
    pub(super) fn admits_repair(&self, bytes: usize, options: &LogOptions) -> Result<(), LogError> {
        let blocks = blocks_of(1, bytes);
        self.admits_small(blocks, options.reserve_blocks() / 2)
    }

    /// Whether a vote finds room, twice.
    pub(super) fn admits_vote(&self) -> Result<(), LogError> {
        self.admits_small(2, PURGE_BLOCKS)
    }

    /// Whether a truncation, or what else fits in one block, finds room.
    pub(super) fn admits_truncation(&self) -> Result<(), LogError> {
        self.admits_small(1, PURGE_BLOCKS)
    }

    /// Whether a purge finds room.
    pub(super) fn admits_purge(&self) -> Result<(), LogError> {
        self.admits_small(1, 0)
    }

    /// Whether so many blocks find room in the last segment and leave some.
    fn admits_small(&self, blocks: u32, left: u32) -> Result<(), LogError> {
        if !self.segments.is_last() {
            return Ok(());
        }
        let waiting: u32 = self.queue.iter().map(Work::small_blocks).sum();
        let votes = u32::try_from(self.votes.len() * 2).unwrap_or(u32::MAX);
        let wanted = waiting.saturating_add(votes).saturating_add(blocks).saturating_add(left);
        if wanted > self.segments.room_blocks { Err(LogError::DiskFull) } else { Ok(()) }
    }
}

impl Work {
    /// Blocks that it takes below the low-water mark.
    fn small_blocks(&self) -> u32 {
        match self {
            Work::Entries { .. } => 0,
            Work::Repair { entry, .. } => blocks_of(1, entry.record.payload.len()),
            Work::Truncate { .. } | Work::Purge { .. } | Work::State { .. } | Work::Doubt { .. } => 1,
        }
    }
}

impl Committer {
    /// With entries at the head of the queue that no segment has room for, takes what behind them needs only the reserve
    /// and need not keep to their order.
    pub(super) fn draft_past_stalled(&mut self, state: &mut State, draft: &mut Draft) {
        if !state.segments.is_last() || state.queue.is_empty() {
            return;
        }
        let limit = self.limit_blocks(0);
        // Groups with something that waits, and the first entry of it.
        let mut blocked: BTreeMap<GroupId, u64> = BTreeMap::new();
        let mut waiting: VecDeque<Work> = VecDeque::new();
        for work in std::mem::take(&mut state.queue) {
            let first_waiting = work.group().and_then(|group| blocked.get(&group).copied());
            let Some(work) = settle_truncation(state, draft, work, &mut waiting) else { continue };
            let may_pass = match (&work, first_waiting) {
                (Work::Entries { entries, .. }, None) => entries.is_empty(),
                (Work::Entries { .. }, Some(_)) => false,
                (Work::Purge { upto, .. }, Some(first)) => upto.index < first,
                (Work::Doubt { .. }, _) => !waiting.iter().any(|work| matches!(work, Work::State { .. })),
                (_, first) => first.is_none(),
            };
            let rest = if may_pass { self.draft_small(draft, work, limit) } else { Some(work) };
            let Some(rest) = rest else { continue };
            if let Some(group) = rest.group() {
                let first = match &rest {
                    Work::Entries { entries, .. } => entries.front().map_or(0, |entry| entry.record.index),
                    _ => 0,
                };
                blocked.entry(group).or_insert(first);
            }
            waiting.push_back(rest);
        }
        state.queue = waiting;
    }
}

/// A truncation that keeps some of the entries that wait needs no record: nothing behind them has ever been written, so that
/// nothing can come back. It is answered now; the appends that it has cut short are with the last of what they have left.
fn settle_truncation(
    state: &mut State,
    draft: &mut Draft,
    work: Work,
    waiting: &mut VecDeque<Work>,
) -> Option<Work> {
    let Work::Truncate { group: of, .. } = &work else { return Some(work) };
    let of = *of;
    // Whatever else of the group waits, the truncation must not overtake.
    if waiting.iter().any(|work| work.group() == Some(of) && !matches!(work, Work::Entries { .. })) {
        return Some(work);
    }
    let last = waiting.iter_mut().rev().find_map(|work| match work {
        Work::Entries { group, done, .. } if *group == of => Some(done),
        _ => None,
    });
    let Some(last) = last else { return Some(work) };
    let Work::Truncate { released, mut dones, .. } = work else { return Some(work) };
    draft.released.push(released);
    draft.dones.extend(dones.pop());
    let dones: Vec<Done> = last.take().into_iter().chain(dones).collect();
    *last = Some(Box::new(move |result| dones.into_iter().for_each(|done| done(result.clone()))));
    if let Some(log) = state.groups.get_mut(&of) {
        log.queued_truncations.pop_front();
    }
    None
}
