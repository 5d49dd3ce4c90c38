//! Payloads of the log's own records: a group's checkpoint and a cut.
//!
//! ```text
//! checkpoint
//!   0  4  flags: 1 vote, 2 purged, 4 committed, 8 last, 16 truncation, 32 the truncation kept a point,
//!                64 the end of the log is not known (rot), 128 both copies of the vote are lost
//!   4  4  length of the vote
//!   8  8  sequence number of the vote
//!  16  8  purged: index       24  8  purged: term
//!  32  8  committed: index    40  8  committed: term
//!  48  8  last: index         56  8  last: term
//!  64  8  last truncation kept: index    72  8  ... term
//!  80  -  the vote
//! ```
//!
//! Fields whose flag is missing are zero.
//!
//! ```text
//! cut
//!   0  4  segment that was cut
//!   4  4  the first block that is void
//!   8  8  number of the last batch before the cut
//!  16  4  CRC of that batch's header
//!  20  4  zero
//! ```

use bytes::Bytes;

use super::NUMBER_LIMIT;
use super::le::{put, u32_at, u64_at};
use crate::types::LogPoint;

const VOTE: u32 = 1;
const PURGED: u32 = 2;
const COMMITTED: u32 = 4;
const LAST: u32 = 8;
const TRUNCATION: u32 = 16;
const TRUNCATION_KEPT: u32 = 32;
const TAIL_UNKNOWN: u32 = 64;
const VOTE_LOST: u32 = 128;
const FIXED_BYTES: usize = 80;

/// The state of one group as the first batch of each segment repeats it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckpointState {
    /// Sequence number of the newest vote; 0 = there has been none.
    pub vote_sequence: u64,
    /// The newest vote.
    pub vote: Option<Bytes>,
    /// The purge point.
    pub purged: Option<LogPoint>,
    /// The committed point that was last reported.
    pub committed: Option<LogPoint>,
    /// The last entry.
    pub last: Option<LogPoint>,
    /// What the last truncation kept; the outer `None` = there has been none.
    pub truncation: Option<Option<LogPoint>>,
    /// Rot has taken what may have been the end of the log.
    pub tail_unknown: bool,
    /// Rot has taken both copies of the newest vote.
    pub vote_lost: bool,
}

impl CheckpointState {
    /// Bytes of the payload without the vote.
    pub(crate) const FIXED_BYTES: usize = FIXED_BYTES;

    /// The payload's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let vote = self.vote.as_deref().unwrap_or_default();
        let mut bytes = vec![0; FIXED_BYTES];
        let mut flags = 0;
        let mut point = |at: usize, flag: u32, point: Option<LogPoint>| {
            if let Some(point) = point {
                flags |= flag;
                put(&mut bytes, at, &point.index.to_le_bytes());
                put(&mut bytes, at + 8, &point.term.to_le_bytes());
            }
        };
        point(16, PURGED, self.purged);
        point(32, COMMITTED, self.committed);
        point(48, LAST, self.last);
        point(64, TRUNCATION_KEPT, self.truncation.flatten());
        for (set, flag) in [
            (self.vote.is_some(), VOTE),
            (self.truncation.is_some(), TRUNCATION),
            (self.tail_unknown, TAIL_UNKNOWN),
            (self.vote_lost, VOTE_LOST),
        ] {
            if set {
                flags |= flag;
            }
        }
        put(&mut bytes, 0, &flags.to_le_bytes());
        // A vote is a few dozen bytes; the log refuses larger records long before 4 GiB.
        put(&mut bytes, 4, &u32::try_from(vote.len()).unwrap_or(u32::MAX).to_le_bytes());
        put(&mut bytes, 8, &self.vote_sequence.to_le_bytes());
        bytes.extend_from_slice(vote);
        bytes
    }

    /// Reads a payload; `None` when it makes no sense.
    pub fn decode(bytes: &[u8]) -> Option<CheckpointState> {
        if bytes.len() < FIXED_BYTES {
            return None;
        }
        let flags = u32_at(bytes, 0);
        let vote = &bytes[FIXED_BYTES..];
        if usize::try_from(u32_at(bytes, 4)) != Ok(vote.len()) {
            return None;
        }
        let point = |at: usize, flag: u32| {
            (flags & flag != 0).then(|| LogPoint { index: u64_at(bytes, at), term: u64_at(bytes, at + 8) })
        };
        let state = CheckpointState {
            vote_sequence: u64_at(bytes, 8),
            vote: (flags & VOTE != 0).then(|| Bytes::copy_from_slice(vote)),
            purged: point(16, PURGED),
            committed: point(32, COMMITTED),
            last: point(48, LAST),
            truncation: (flags & TRUNCATION != 0).then(|| point(64, TRUNCATION_KEPT)),
            tail_unknown: flags & TAIL_UNKNOWN != 0,
            vote_lost: flags & VOTE_LOST != 0,
        };
        let points = [state.purged, state.committed, state.last, state.truncation.flatten()];
        let numbers = points.iter().flatten().map(|point| point.index).chain([state.vote_sequence]);
        if numbers.into_iter().any(|number| number >= NUMBER_LIMIT) {
            return None;
        }
        // Whatever decodes must encode to the same bytes: this refuses unknown flags and fields without their flag.
        (state.encode() == bytes).then_some(state)
    }
}

/// Where an earlier segment ends: from that block on it is void.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CutRecord {
    /// The segment that was cut.
    pub segment: u32,
    /// The first block that is void.
    pub block: u32,
    /// Number of the last batch before the cut; 0 = there was none.
    pub last_batch: u64,
    /// CRC of that batch's header.
    pub last_crc: u32,
}

impl CutRecord {
    /// Length of the payload.
    pub const BYTES: usize = 24;

    /// The payload's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; Self::BYTES];
        put(&mut bytes, 0, &self.segment.to_le_bytes());
        put(&mut bytes, 4, &self.block.to_le_bytes());
        put(&mut bytes, 8, &self.last_batch.to_le_bytes());
        put(&mut bytes, 16, &self.last_crc.to_le_bytes());
        bytes
    }

    /// Reads a payload; `None` when it makes no sense.
    pub fn decode(bytes: &[u8]) -> Option<CutRecord> {
        if bytes.len() != Self::BYTES || u32_at(bytes, 20) != 0 || u64_at(bytes, 8) >= NUMBER_LIMIT {
            return None;
        }
        Some(CutRecord {
            segment: u32_at(bytes, 0),
            block: u32_at(bytes, 4),
            last_batch: u64_at(bytes, 8),
            last_crc: u32_at(bytes, 16),
        })
    }
}
