//! Rot: bits of a simulated disk that flip after they had been durable.
//!
//! Invariants: one bit of a batch at a time, so that identity and payload are never both lost by one fault; header and table of
//! the last batches are left alone as far as no later one confirms them (several may be written at the same time): damage to them
//! cannot be told from an interrupted write (the stated residue of G8). Which bit it is, the seed says.

use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use tercet_storage::disk::{Disk as _, SimDisk};
use tercet_storage::format::{BLOCK_BYTES, BatchHeader, HEADER_BYTES};

/// Of 100 flips, how many hit one of the last batches.
const NEAR_THE_END: u32 = 40;
/// What counts as the last batches.
const LAST: usize = 4;

/// Where a batch lies.
struct Placed {
    segment: u32,
    offset: usize,
    header: BatchHeader,
}

/// Which part of the log may be hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// All of it.
    Everything,
    /// What the scrubber reads: segments that are written to no more.
    Sealed,
}

/// Flips one bit; says where. None: there is nothing that may be hit.
pub fn flip(disk: &SimDisk, rng: &mut SmallRng, reach: Reach) -> Option<String> {
    let mut batches = batches(disk);
    let newest = batches.iter().max_by_key(|placed| placed.header.number)?;
    let (confirmed, present) = (newest.header.durable_mark, newest.segment);
    if reach == Reach::Sealed {
        batches.retain(|placed| placed.segment < present);
    }
    let tail = batches.len().saturating_sub(LAST);
    let from = if reach == Reach::Everything && rng.random_range(0..100) < NEAR_THE_END { tail } else { 0 };
    let chosen = batches[from..].choose(rng)?;
    let table = HEADER_BYTES + chosen.header.table_bytes() as usize;
    let content = usize::try_from(chosen.header.content_bytes()).ok()?;
    let (part, range) = match rng.random_range(0..10_u32) {
        0..2 => ("header", 0..HEADER_BYTES),
        2..5 => ("table", HEADER_BYTES..table),
        _ => ("payload", table..content),
    };
    if range.is_empty() || (chosen.header.number > confirmed && part != "payload") {
        return None;
    }
    let (at, bit) = (rng.random_range(range), rng.random_range(0..8_u32));
    disk.damage(chosen.segment, |bytes| {
        if let Some(byte) = bytes.get_mut(chosen.offset + at) {
            *byte ^= 1 << bit;
        }
    });
    let (segment, number) = (chosen.segment, chosen.header.number);
    Some(format!("bit {bit} of byte {at} of batch {number} in segment {segment} ({part})"))
}

/// All batches of which the header can be read.
fn batches(disk: &SimDisk) -> Vec<Placed> {
    let mut found = Vec::new();
    for file in disk.segments().unwrap_or_default() {
        let image = disk.image(file.number).unwrap_or_default();
        let mut offset = 0;
        while let Some(block) = image.get(offset..offset + BLOCK_BYTES) {
            let header = BatchHeader::decode(block).ok();
            let header = header.filter(|header| {
                header.segment == file.number && header.block as usize * BLOCK_BYTES == offset
            });
            let blocks = header.as_ref().map_or(1, |header| header.blocks.max(1));
            if let Some(header) = header {
                found.push(Placed { segment: file.number, offset, header });
            }
            offset += blocks as usize * BLOCK_BYTES;
        }
    }
    found
}
