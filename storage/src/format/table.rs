//! The record table: one row for each record, so that a record's identity survives its payload.
//!
//! ```text
//!  0  4  group
//!  4  1  kind
//!  5  1  tag: entry and repair: the caller's; vote: which copy (1, 2); truncation: 1 keeps up to the point, 0 keeps nothing
//!  6  2  zero
//!  8  8  index      entry, repair, truncation, purge, committed: the index; vote: its sequence number in the group;
//!                   cut: the number of the last batch before it; doubt: how many batches
//! 16  8  term       of that index, 2^64-1 = not known (truncation only); zero for vote, checkpoint, cut and doubt
//! 24  8  leader     entry and repair: who led the term, 0 = not known
//! 32  8  previous term  entry: the term of the entry (or purge point) right before it in the log; 2^64-1 = there is none
//! 40  4  offset of the payload, from the batch's first byte
//! 44  4  length of the payload
//! 48  4  CRC-32 of the payload
//! 52  4  how many of the 512-byte sectors that the payload touches hold only zeros of it
//! 56
//! ```
//!
//! Why the previous term: when a batch is lost with its table, the next entry still tells whether the one before it was
//! replaced in there. Why the zero sectors: a sector that is zero although it should not be was never written (a torn
//! tail); payloads with zeros of their own must not look like that.

use super::le::{put, u16_at, u32_at, u64_at};
use super::{HEADER_BYTES, NUMBER_LIMIT, ROW_BYTES};
use crate::types::{GroupId, LogPoint};

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    /// One entry of the group's log.
    Entry = 1,
    /// The group's vote; written twice, in two consecutive batches.
    Vote = 2,
    /// Everything after a point has been dropped from the group's log.
    Truncate = 3,
    /// Everything up to a point has been dropped from the group's log.
    Purge = 4,
    /// The committed point that the group has reported.
    Committed = 5,
    /// The state of one group at the start of a segment.
    Checkpoint = 6,
    /// Names the place where an earlier segment was cut: what follows there is void.
    Cut = 7,
    /// An entry's bytes, restored: takes the place of what the log had at that index.
    Repair = 8,
    /// How many batches have been lost with their tables since every group was last named; 0 = that has been settled.
    Doubt = 9,
}

impl Kind {
    /// The kind of a number in a table.
    pub fn from_byte(byte: u8) -> Option<Kind> {
        Some(match byte {
            1 => Kind::Entry,
            2 => Kind::Vote,
            3 => Kind::Truncate,
            4 => Kind::Purge,
            5 => Kind::Committed,
            6 => Kind::Checkpoint,
            7 => Kind::Cut,
            8 => Kind::Repair,
            9 => Kind::Doubt,
            _ => return None,
        })
    }

    /// The word used in listings.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Entry => "entry",
            Kind::Vote => "vote",
            Kind::Truncate => "truncate",
            Kind::Purge => "purge",
            Kind::Committed => "committed",
            Kind::Checkpoint => "checkpoint",
            Kind::Cut => "cut",
            Kind::Repair => "repair",
            Kind::Doubt => "doubt",
        }
    }
}

/// Values of a row's tag that the log itself gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tag;

impl Tag {
    /// Truncation: nothing is kept.
    pub const KEEPS_NOTHING: u8 = 0;
    /// Truncation: everything up to the row's point is kept.
    pub const KEEPS_POINT: u8 = 1;
    /// The first copy of a vote.
    pub const FIRST_COPY: u8 = 1;
    /// The second copy of a vote.
    pub const SECOND_COPY: u8 = 2;
}

/// One row of the record table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// The group.
    pub group: GroupId,
    /// What the record is.
    pub kind: Kind,
    /// See the diagram.
    pub tag: u8,
    /// See the diagram.
    pub index: u64,
    /// See the diagram.
    pub term: u64,
    /// See the diagram.
    pub leader: u64,
    /// See the diagram.
    pub previous_term: u64,
    /// Where the payload begins, from the batch's first byte.
    pub offset: u32,
    /// Length of the payload.
    pub length: u32,
    /// CRC of the payload.
    pub crc: u32,
    /// Sectors that hold only zeros of the payload.
    pub zero_sectors: u32,
}

/// Why a record table makes no sense although its CRC matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// Not a whole number of rows.
    #[error("not a whole number of rows")]
    Length,
    /// A kind that this program does not know.
    #[error("row {row}: unknown kind {kind}")]
    Kind {
        /// The row's number, from 0.
        row: usize,
        /// The kind found.
        kind: u8,
    },
    /// Bytes that mean nothing are not zero.
    #[error("row {row}: bytes that should be zero are not")]
    Reserved {
        /// The row's number, from 0.
        row: usize,
    },
    /// A number that nothing can have.
    #[error("row {row}: the number {number} is out of range")]
    Number {
        /// The row's number, from 0.
        row: usize,
        /// The index, sequence or batch number found.
        number: u64,
    },
    /// Payloads do not follow each other.
    #[error("row {row}: the payload is not where it should be")]
    Offset {
        /// The row's number, from 0.
        row: usize,
    },
}

impl Row {
    /// The point that the row names.
    pub fn point(&self) -> LogPoint {
        LogPoint { term: self.term, index: self.index }
    }

    /// Writes the row into its 56 bytes.
    pub fn encode(&self, bytes: &mut [u8]) {
        put(bytes, 0, &self.group.to_le_bytes());
        bytes[4] = self.kind as u8;
        bytes[5] = self.tag;
        put(bytes, 6, &[0, 0]);
        put(bytes, 8, &self.index.to_le_bytes());
        put(bytes, 16, &self.term.to_le_bytes());
        put(bytes, 24, &self.leader.to_le_bytes());
        put(bytes, 32, &self.previous_term.to_le_bytes());
        put(bytes, 40, &self.offset.to_le_bytes());
        put(bytes, 44, &self.length.to_le_bytes());
        put(bytes, 48, &self.crc.to_le_bytes());
        put(bytes, 52, &self.zero_sectors.to_le_bytes());
    }

    fn decode(row: usize, bytes: &[u8]) -> Result<Row, TableError> {
        let kind = Kind::from_byte(bytes[4]).ok_or(TableError::Kind { row, kind: bytes[4] })?;
        if u16_at(bytes, 6) != 0 {
            return Err(TableError::Reserved { row });
        }
        let number = u64_at(bytes, 8);
        if number >= NUMBER_LIMIT {
            return Err(TableError::Number { row, number });
        }
        Ok(Row {
            group: u32_at(bytes, 0),
            kind,
            tag: bytes[5],
            index: u64_at(bytes, 8),
            term: u64_at(bytes, 16),
            leader: u64_at(bytes, 24),
            previous_term: u64_at(bytes, 32),
            offset: u32_at(bytes, 40),
            length: u32_at(bytes, 44),
            crc: u32_at(bytes, 48),
            zero_sectors: u32_at(bytes, 52),
        })
    }
}

/// Reads a table whose CRC has been checked. The payloads must follow the table and each other without a gap.
pub fn decode_table(bytes: &[u8], payload_bytes: u32) -> Result<Vec<Row>, TableError> {
    if !bytes.len().is_multiple_of(ROW_BYTES) {
        return Err(TableError::Length);
    }
    let mut rows = Vec::with_capacity(bytes.len() / ROW_BYTES);
    let mut next = (HEADER_BYTES + bytes.len()) as u64;
    let end = next + u64::from(payload_bytes);
    for (number, bytes) in bytes.chunks_exact(ROW_BYTES).enumerate() {
        let row = Row::decode(number, bytes)?;
        if u64::from(row.offset) != next {
            return Err(TableError::Offset { row: number });
        }
        next += u64::from(row.length);
        rows.push(row);
    }
    if next != end {
        return Err(TableError::Offset { row: rows.len() });
    }
    Ok(rows)
}
