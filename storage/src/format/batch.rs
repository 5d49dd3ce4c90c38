//! A whole batch: putting one together in a buffer, and taking one apart with an account of what is damaged.
//!
//! Invariants: encoding copies each payload once and leaves no byte of an earlier use in the buffer; reading reports
//! every row on its own, so that one damaged payload costs one record.

use bytes::Bytes;

use super::le::put;
use super::{BLOCK_BYTES, BatchHeader, HEADER_BYTES, ROW_BYTES, Row, SECTOR_BYTES, decode_table, is_zero};

/// Bytes of a batch with so many records and payload bytes, padding included.
pub fn batch_bytes(records: usize, payload_bytes: usize) -> usize {
    (HEADER_BYTES + records * ROW_BYTES + payload_bytes).next_multiple_of(BLOCK_BYTES)
}

/// Where the payloads of a batch with so many records begin.
pub fn payload_start(records: usize) -> usize {
    HEADER_BYTES + records * ROW_BYTES
}

/// Writes a batch into `target`, which must be exactly [`batch_bytes`] long; `fill` copies a payload to its place. The rows'
/// offsets, lengths and CRCs have been set by the caller; their zero sectors and the header's table CRC are set here. Gives the
/// header's CRC.
pub fn encode_batch(
    header: &mut BatchHeader,
    rows: &mut [Row],
    payloads: &[Bytes],
    target: &mut [u8],
    fill: impl Fn(&mut [u8], &[u8]),
) -> u32 {
    let start = payload_start(rows.len());
    let mut at = start;
    for (row, payload) in rows.iter_mut().zip(payloads) {
        fill(&mut target[at..at + payload.len()], payload);
        row.zero_sectors = zero_sectors(payload, at);
        at += payload.len();
    }
    target[at..].fill(0);
    for (row, bytes) in rows.iter().zip(target[HEADER_BYTES..start].chunks_exact_mut(ROW_BYTES)) {
        row.encode(bytes);
    }
    header.table_crc = crc32fast::hash(&target[HEADER_BYTES..start]);
    put(target, 0, &header.encode());
    header.crc()
}

/// In how many sectors of the batch a payload that begins at `offset` has bytes and all of them are zero.
fn zero_sectors(payload: &[u8], offset: usize) -> u32 {
    let mut count = 0;
    let mut rest = payload;
    let mut at = offset;
    while !rest.is_empty() {
        let piece = (SECTOR_BYTES - at % SECTOR_BYTES).min(rest.len());
        let (sector, after) = rest.split_at(piece);
        if sector.first() == Some(&0) && is_zero(sector) {
            count += 1;
        }
        rest = after;
        at += piece;
    }
    count
}

/// How one record of a batch has come through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowState {
    /// The payload's CRC matches.
    Intact,
    /// It does not, and sectors are zero that had been something else: they were never written.
    NeverWritten,
    /// It does not, and every sector has been written: the bytes have changed since.
    Damaged,
}

/// What lies behind a valid header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchBody {
    /// The record table with the state of each record; `None` when the table itself is damaged.
    pub rows: Option<Vec<(Row, RowState)>>,
    /// Whether the padding is zero.
    pub padding_is_zero: bool,
    /// Whether a sector is zero in which the table or a payload should have left something.
    pub has_unwritten_sectors: bool,
}

impl BatchBody {
    /// Whether every byte is as it was written.
    pub fn is_intact(&self) -> bool {
        self.padding_is_zero
            && self.rows.as_ref().is_some_and(|rows| rows.iter().all(|(_, state)| *state == RowState::Intact))
    }
}

/// Takes the bytes of a batch apart. `bytes` begins with the header and is `blocks` long, as the header says.
pub fn read_batch(header: &BatchHeader, bytes: &[u8]) -> BatchBody {
    let start = HEADER_BYTES + header.table_bytes() as usize;
    let content = usize::try_from(header.content_bytes()).unwrap_or(usize::MAX);
    let (Some(table), Some(padding)) = (bytes.get(HEADER_BYTES..start), bytes.get(content..)) else {
        return BatchBody { rows: None, padding_is_zero: false, has_unwritten_sectors: false };
    };
    let padding_is_zero = is_zero(padding);
    let table_is_good = crc32fast::hash(table) == header.table_crc;
    let rows = table_is_good.then(|| decode_table(table, header.payload_bytes).ok()).flatten();
    let Some(rows) = rows else {
        let has_unwritten_sectors = table_has_unwritten_sectors(bytes, start);
        return BatchBody { rows: None, padding_is_zero, has_unwritten_sectors };
    };
    let mut states = Vec::with_capacity(rows.len());
    let mut has_unwritten_sectors = false;
    for row in rows {
        let from = row.offset as usize;
        let payload = &bytes[from..from + row.length as usize];
        let state = if crc32fast::hash(payload) == row.crc {
            RowState::Intact
        } else if zero_sectors(payload, from) > row.zero_sectors {
            has_unwritten_sectors = true;
            RowState::NeverWritten
        } else {
            RowState::Damaged
        };
        states.push((row, state));
    }
    BatchBody { rows: Some(states), padding_is_zero, has_unwritten_sectors }
}

/// No sector of a table is ever wholly zero: rows are shorter than a sector and their kind is never 0.
fn table_has_unwritten_sectors(bytes: &[u8], end: usize) -> bool {
    let sectors = end.div_ceil(SECTOR_BYTES);
    bytes.chunks(SECTOR_BYTES).take(sectors).any(is_zero)
}
