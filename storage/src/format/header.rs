//! The header of a batch.
//!
//! ```text
//!   0  8  magic "TERCETLG"
//!   8  4  CRC-32 of bytes 12 to 127
//!  12  2  version (1)
//!  14  2  flags: 1 = first batch of its segment, 2 = written only to confirm or to announce
//!  16 16  store id
//!  32  8  batch number: 1, 2, 3 ... through all segments
//!  40  8  durable mark: the newest batch that was known to be durable when this one was made
//!  48  4  segment number
//!  52  4  block number in the segment
//!  56  4  blocks of this batch
//!  60  4  records
//!  64  4  bytes of the record table (56 x records)
//!  68  4  CRC-32 of the record table
//!  72  4  bytes of all payloads
//!  76  4  previous batch header's CRC (0 in batch 1)
//!  80  4  in-flight window: how many batches may be written but not durable after this one is durable
//!  84  4  the same in blocks
//!  88  4  oldest segment that the log still needs
//!  92  4  blocks of the whole segment
//!  96 32  zero
//! 128
//! ```

use super::le::{put, u16_at, u32_at, u64_at};
use super::{BLOCK_BYTES, HEADER_BYTES, MAGIC, NUMBER_LIMIT, ROW_BYTES, VERSION, is_zero};
use crate::types::StoreId;

/// Bits of [`BatchHeader::flags`].
pub mod flags {
    /// The first batch of its segment: it carries the checkpoint.
    pub const FIRST: u16 = 1;
    /// Made only to state the durable mark, a wider window or the oldest segment.
    pub const IDLE: u16 = 2;
    /// Every bit that has a meaning.
    pub const ALL: u16 = FIRST | IDLE;
}

/// A batch header. Field by field as in the diagram above.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchHeader {
    /// Bits of [`flags`].
    pub flags: u16,
    /// The store that wrote it.
    pub store: StoreId,
    /// Batch number.
    pub number: u64,
    /// The newest batch known to be durable when this one was made.
    pub durable_mark: u64,
    /// Segment number.
    pub segment: u32,
    /// First block, counted from the segment's start.
    pub block: u32,
    /// Length in blocks.
    pub blocks: u32,
    /// Rows of the record table.
    pub records: u32,
    /// CRC of the record table.
    pub table_crc: u32,
    /// Bytes of all payloads.
    pub payload_bytes: u32,
    /// CRC of the previous batch's header.
    pub previous_crc: u32,
    /// In-flight window in batches.
    pub window_batches: u32,
    /// In-flight window in blocks.
    pub window_blocks: u32,
    /// The oldest segment that the log still needs.
    pub oldest_segment: u32,
    /// Length of the segment in blocks.
    pub segment_blocks: u32,
}

/// Why bytes are not a batch header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Fewer than 128 bytes.
    #[error("too short")]
    Short,
    /// It does not begin with the magic.
    #[error("no magic")]
    Magic,
    /// The CRC does not match.
    #[error("wrong CRC")]
    Crc,
    /// The CRC matches, the version is not known.
    #[error("unknown version {0}")]
    Version(u16),
    /// The CRC matches and the fields contradict each other.
    #[error("inconsistent fields")]
    Inconsistent,
}

impl BatchHeader {
    /// The header's bytes; their CRC is at 8.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        put(&mut bytes, 0, &MAGIC);
        put(&mut bytes, 12, &VERSION.to_le_bytes());
        put(&mut bytes, 14, &self.flags.to_le_bytes());
        put(&mut bytes, 16, &self.store.0);
        put(&mut bytes, 32, &self.number.to_le_bytes());
        put(&mut bytes, 40, &self.durable_mark.to_le_bytes());
        put(&mut bytes, 48, &self.segment.to_le_bytes());
        put(&mut bytes, 52, &self.block.to_le_bytes());
        put(&mut bytes, 56, &self.blocks.to_le_bytes());
        put(&mut bytes, 60, &self.records.to_le_bytes());
        put(&mut bytes, 64, &self.table_bytes().to_le_bytes());
        put(&mut bytes, 68, &self.table_crc.to_le_bytes());
        put(&mut bytes, 72, &self.payload_bytes.to_le_bytes());
        put(&mut bytes, 76, &self.previous_crc.to_le_bytes());
        put(&mut bytes, 80, &self.window_batches.to_le_bytes());
        put(&mut bytes, 84, &self.window_blocks.to_le_bytes());
        put(&mut bytes, 88, &self.oldest_segment.to_le_bytes());
        put(&mut bytes, 92, &self.segment_blocks.to_le_bytes());
        let crc = crc32fast::hash(&bytes[12..]);
        put(&mut bytes, 8, &crc.to_le_bytes());
        bytes
    }

    /// Reads a header and checks everything that can be checked without knowing where it was found.
    pub fn decode(bytes: &[u8]) -> Result<BatchHeader, HeaderError> {
        let bytes = bytes.get(..HEADER_BYTES).ok_or(HeaderError::Short)?;
        if bytes[..8] != MAGIC {
            return Err(HeaderError::Magic);
        }
        if u32_at(bytes, 8) != crc32fast::hash(&bytes[12..]) {
            return Err(HeaderError::Crc);
        }
        let version = u16_at(bytes, 12);
        if version != VERSION {
            return Err(HeaderError::Version(version));
        }
        let mut store = [0; 16];
        store.copy_from_slice(&bytes[16..32]);
        let header = BatchHeader {
            flags: u16_at(bytes, 14),
            store: StoreId(store),
            number: u64_at(bytes, 32),
            durable_mark: u64_at(bytes, 40),
            segment: u32_at(bytes, 48),
            block: u32_at(bytes, 52),
            blocks: u32_at(bytes, 56),
            records: u32_at(bytes, 60),
            table_crc: u32_at(bytes, 68),
            payload_bytes: u32_at(bytes, 72),
            previous_crc: u32_at(bytes, 76),
            window_batches: u32_at(bytes, 80),
            window_blocks: u32_at(bytes, 84),
            oldest_segment: u32_at(bytes, 88),
            segment_blocks: u32_at(bytes, 92),
        };
        if u64::from(u32_at(bytes, 64)) != u64::from(header.records) * ROW_BYTES as u64
            || !is_zero(&bytes[96..])
            || !header.is_consistent()
        {
            return Err(HeaderError::Inconsistent);
        }
        Ok(header)
    }

    fn is_consistent(&self) -> bool {
        let end = u64::from(self.block) + u64::from(self.blocks);
        self.flags & !flags::ALL == 0
            && (1..NUMBER_LIMIT).contains(&self.number)
            && self.durable_mark < self.number
            && (self.block == 0) == (self.flags & flags::FIRST != 0)
            && u64::from(self.blocks) == self.content_bytes().div_ceil(BLOCK_BYTES as u64)
            && end <= u64::from(self.segment_blocks)
            && self.window_batches > 0
            && self.oldest_segment <= self.segment
    }

    /// The header's own CRC, as the next batch repeats it.
    pub fn crc(&self) -> u32 {
        u32_at(&self.encode(), 8)
    }

    /// Bytes of the record table. A table is far smaller than 4 GiB, because a batch is.
    pub fn table_bytes(&self) -> u32 {
        #[expect(clippy::cast_possible_truncation, reason = "56")]
        let row = ROW_BYTES as u32;
        self.records.saturating_mul(row)
    }

    /// Bytes of header, table and payloads: the batch without its padding.
    pub fn content_bytes(&self) -> u64 {
        HEADER_BYTES as u64 + u64::from(self.records) * ROW_BYTES as u64 + u64::from(self.payload_bytes)
    }
}
