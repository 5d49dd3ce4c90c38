//! The bytes of a segment, version 1. `storage/FORMAT.md` says the same for people with a hex editor.
//!
//! Everything is little-endian. A segment is a file of 4 KiB blocks, zero-filled before use. A batch takes whole blocks
//! and is never rewritten:
//!
//! ```text
//! +--------------------+ 0
//! | header   128 bytes |  own CRC; who, where, how much, how far durable
//! +--------------------+ 128
//! | record table       |  56 bytes a record; CRC in the header
//! +--------------------+ 128 + 56 x records
//! | payloads           |  one after the other, in the table's order; a CRC each in the table
//! +--------------------+
//! | zeros              |  up to the end of the last block
//! +--------------------+ 4096 x blocks
//! ```
//!
//! Why identity (table) lies apart from payload: rot in a payload still tells *which* record is lost.
//!
//! Invariants: decoding never panics and never trusts a length before the CRC over it; what decodes encodes to the same
//! bytes; bytes that mean nothing are zero and are checked to be.

mod batch;
mod header;
mod state;
mod table;

pub use batch::{BatchBody, RowState, batch_bytes, encode_batch, payload_start, read_batch};
pub use header::{BatchHeader, HeaderError, flags};
pub use state::{CheckpointState, CutRecord};
pub use table::{Kind, Row, TableError, Tag, decode_table};

/// Bytes of a block: what batches are aligned to and made of.
pub const BLOCK_BYTES: usize = crate::disk::BLOCK_BYTES;
/// What a disk writes at once, at the least.
pub const SECTOR_BYTES: usize = 512;
/// The first bytes of every batch.
pub const MAGIC: [u8; 8] = *b"TERCETLG";
/// The version written.
pub const VERSION: u16 = 1;
/// Length of a batch header.
pub const HEADER_BYTES: usize = 128;
/// Length of one row of the record table.
pub const ROW_BYTES: usize = 56;
/// In a row's previous-term field: the log had no entry and no purge point before this one. As a term: not known.
pub const NO_TERM: u64 = u64::MAX;

/// Indexes, votes and batches are numbered below this: so one can always be added.
pub const NUMBER_LIMIT: u64 = 1 << 63;

/// Whether bytes are all zero; compares whole blocks at once.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    static ZEROS: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];
    bytes.chunks(BLOCK_BYTES).all(|piece| *piece == ZEROS[..piece.len()])
}

/// Reads fixed-width little-endian fields. Every range is a constant that lies inside the array it is used on.
pub(crate) mod le {
    pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
        let mut field = [0; 2];
        field.copy_from_slice(&bytes[at..at + 2]);
        u16::from_le_bytes(field)
    }

    pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
        let mut field = [0; 4];
        field.copy_from_slice(&bytes[at..at + 4]);
        u32::from_le_bytes(field)
    }

    pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
        let mut field = [0; 8];
        field.copy_from_slice(&bytes[at..at + 8]);
        u64::from_le_bytes(field)
    }

    pub(crate) fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
        bytes[at..at + field.len()].copy_from_slice(field);
    }
}
