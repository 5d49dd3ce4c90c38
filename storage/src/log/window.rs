//! How much may be in flight, and how large the next batch may be.
//!
//! Invariant: whatever batch a crash makes the last one found, what may have been written behind it fits the window that it
//! states.

use super::committer::Committer;
use super::options::blocks_of;
use super::shared::{State, Work};

/// How much may be in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) batches: u32,
    pub(crate) blocks: u32,
}

impl Committer {
    /// The most blocks that the next batch may have, leaving `reserve` blocks of the segment.
    pub(super) fn limit_blocks(&self, reserve: u32) -> u32 {
        let room = (self.head.segment_blocks - self.head.block).saturating_sub(reserve);
        room.min(self.window_left().blocks)
    }

    /// What may still go into flight. A crash may make any batch in flight the last one found, so what follows it must fit
    /// its window too.
    pub(super) fn window_left(&self) -> Window {
        let (mut batches, mut blocks) = (0_u32, 0_u32);
        let mut left = Window { batches: u32::MAX, blocks: u32::MAX };
        let windows = self.in_flight.iter().rev().map(|batch| (batch.window, batch.blocks));
        for (window, own_blocks) in windows.chain([(self.allowed, 0)]) {
            left.batches = left.batches.min(window.batches.saturating_sub(batches));
            left.blocks = left.blocks.min(window.blocks.saturating_sub(blocks));
            batches += 1;
            blocks = blocks.saturating_add(own_blocks);
        }
        left
    }

    /// Blocks that the first thing in the queue needs as a batch of its own.
    pub(super) fn first_queued_blocks(&self, state: &State) -> u32 {
        let vote =
            self.second_copies.first().or(state.votes.front()).map(|vote| blocks_of(1, vote.bytes.len()));
        let queued = state.queue.front().map(|work| match work {
            Work::Entries { entries, .. } => {
                entries.front().map_or(0, |entry| blocks_of(1, entry.record.payload.len()))
            }
            Work::Repair { entry, .. } => blocks_of(1, entry.record.payload.len()),
            Work::Truncate { .. } | Work::Purge { .. } | Work::State { .. } | Work::Doubt { .. } => 1,
        });
        vote.unwrap_or(0).max(queued.unwrap_or(0))
    }

    /// Whether the segment has room for what waits, so that only the window is in the way.
    pub(super) fn fits_after_announcing(&self, state: &State) -> bool {
        let needs_reserve = self.second_copies.is_empty() && state.votes.is_empty();
        let reserve = if needs_reserve { self.shared.options.reserve_blocks() } else { 0 };
        let room = (self.head.segment_blocks - self.head.block).saturating_sub(reserve);
        let needed = self.first_queued_blocks(state);
        needed <= room && needed > self.allowed.blocks
    }

    /// The window that the next batch states: the usual one, or what the next record needs.
    pub(super) fn announced_window(&self, state: &State) -> Window {
        let options = &self.shared.options;
        let needed = self.first_queued_blocks(state);
        let blocks = options.window_blocks().max(needed).min(options.segment_blocks());
        Window { batches: options.in_flight_batches, blocks }
    }
}
