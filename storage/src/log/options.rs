//! Settings of the log.

use super::pool::POOLED_BUFFERS;
use crate::error::LogError;
use crate::format::{BLOCK_BYTES, batch_bytes};
use crate::types::StoreId;

/// Settings of the segment log. All of them may differ from one opening to the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogOptions {
    /// Length of a segment: a multiple of 4 KiB, at least 64 KiB, below 4 GiB.
    pub segment_bytes: u64,
    /// Records are merged into one batch up to this size. One larger record makes a batch of its own.
    pub batch_limit_bytes: usize,
    /// How many batches may be written but not yet durable. A vote needs two to be quick.
    pub in_flight_batches: u32,
    /// Payload bytes of recent entries kept in memory, beyond those that are not durable yet.
    pub cache_bytes: usize,
    /// After so much idling one idle batch confirms the last real one, in microseconds.
    pub idle_confirm_us: u64,
    /// No segment is made ahead of need that leaves fewer bytes of the disk free: as much as others on it need to go on.
    pub keep_free_bytes: u64,
    /// The id given to a new store; `None` = a random one.
    pub store: Option<StoreId>,
}

impl Default for LogOptions {
    fn default() -> LogOptions {
        LogOptions {
            segment_bytes: 64 << 20,
            batch_limit_bytes: 1 << 20,
            in_flight_batches: 4,
            cache_bytes: 12 << 20,
            idle_confirm_us: 10_000,
            keep_free_bytes: 0,
            store: None,
        }
    }
}

impl LogOptions {
    /// Refuses what cannot work, naming the field.
    pub(crate) fn validate(&self) -> Result<(), LogError> {
        let invalid =
            |field, message: &str| Err(LogError::InvalidOption { field, message: message.to_owned() });
        if !self.segment_bytes.is_multiple_of(BLOCK_BYTES as u64) {
            return invalid("segment_bytes", "must be a multiple of 4096");
        }
        if !LogOptions::is_segment_length(self.segment_bytes) {
            return invalid("segment_bytes", "must be at least 64 KiB and below 4 GiB");
        }
        if self.batch_limit_bytes < BLOCK_BYTES || self.batch_limit_bytes as u64 > self.segment_bytes {
            return invalid("batch_limit_bytes", "must be at least 4096 and at most segment_bytes");
        }
        if !(1..=64).contains(&self.in_flight_batches) {
            return invalid("in_flight_batches", "must be from 1 to 64");
        }
        Ok(())
    }

    /// Whether a segment may be so long.
    pub(crate) fn is_segment_length(bytes: u64) -> bool {
        bytes.is_multiple_of(BLOCK_BYTES as u64) && (16 * BLOCK_BYTES as u64..1 << 32).contains(&bytes)
    }

    /// The most memory that the log takes for payloads and buffers, beyond what has been handed in and is not durable yet and
    /// 20 bytes for each entry that is not purged: the cache, and the write buffers in flight and kept for reuse. A record
    /// larger than the usual batch takes a buffer of its own size while it is being written.
    pub fn memory_bound_bytes(&self) -> usize {
        let buffers = self.in_flight_batches as usize + POOLED_BUFFERS;
        self.cache_bytes + buffers * 2 * self.batch_limit_bytes
    }

    pub(crate) fn segment_blocks(&self) -> u32 {
        u32::try_from(self.segment_bytes / BLOCK_BYTES as u64).unwrap_or(u32::MAX)
    }

    /// The usual size of a batch, in blocks.
    pub(crate) fn batch_limit_blocks(&self) -> u32 {
        u32::try_from(self.batch_limit_bytes / BLOCK_BYTES).unwrap_or(u32::MAX)
    }

    /// The in-flight window that batches state: every batch at its limit.
    pub(crate) fn window_blocks(&self) -> u32 {
        self.batch_limit_blocks().saturating_mul(self.in_flight_batches).min(self.segment_blocks())
    }

    /// Blocks at the end of a segment that are left to votes and truncations when the next segment is late.
    pub(crate) fn reserve_blocks(&self) -> u32 {
        (self.segment_blocks() / 8).min(16)
    }

    /// With no room for another segment, appends are refused below this many blocks.
    pub(crate) fn low_water_blocks(&self) -> u32 {
        self.segment_blocks() / 8 + self.reserve_blocks()
    }

    /// The largest payload that one record may have: half a segment, so that it always finds a place.
    pub(crate) fn record_limit_bytes(&self) -> usize {
        usize::try_from(self.segment_bytes / 2).unwrap_or(usize::MAX)
    }
}

/// Blocks of a batch with so many records and payload bytes.
pub(crate) fn blocks_of(records: usize, payload_bytes: usize) -> u32 {
    u32::try_from(batch_bytes(records, payload_bytes) / BLOCK_BYTES).unwrap_or(u32::MAX)
}
