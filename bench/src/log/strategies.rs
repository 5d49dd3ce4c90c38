//! How one block becomes durable: the ways that the system offers, taking turns, one block at a time.
//!
//! Files that the disk does not make are filled with zeros and fsynced first, like segments.

use std::fs::{File, OpenOptions};
use std::io::{IoSlice, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use rustix::fs::OFlags;
use rustix::io::ReadWriteFlags;
use tercet_storage::disk::{AlignedBuffer, BLOCK_BYTES, DiskChoice};

use super::bare::{Bare, Shape};
use super::figures::{Strategy, Tally};
use super::{Turn, quiet};

const FILE_BYTES: u64 = 16 << 20;
const ROUNDS: u32 = 10;
const TURN: Turn =
    Turn { warm_up: std::time::Duration::from_millis(5), counted: std::time::Duration::from_millis(50) };

/// Measures all of them, in files below `dir` that are gone afterwards.
pub(super) fn compare(dir: &Path, choice: DiskChoice) -> Result<Vec<Strategy>> {
    let dir = tempfile::Builder::new().prefix("strategies-").tempdir_in(dir)?;
    let mut bare = Bare::open(&dir.path().join("bare"), choice)?;
    let path = dir.path().join("file");
    fill(&path)?;
    let buffered = OpenOptions::new().write(true).open(&path)?;
    let direct = OpenOptions::new().write(true).custom_flags(OFlags::DIRECT.bits().cast_signed()).open(&path);
    let mut block = AlignedBuffer::with_capacity(BLOCK_BYTES);
    block.set_len(BLOCK_BYTES);
    block.as_mut_slice().fill(0x5a);
    let (mut linked, mut here, mut dsync, mut cached) =
        (Tally::new()?, Tally::new()?, Tally::new()?, Tally::new()?);
    for _ in 0..ROUNDS {
        quiet()?;
        bare.turn(Shape::Linked, BLOCK_BYTES, 1, TURN, &mut linked)?;
        if let Ok(direct) = &direct {
            turn(&mut here, |offset| {
                direct.write_all_at(block.as_slice(), offset)?;
                Ok(direct.sync_data()?)
            })
            .context("a write, then an fdatasync")?;
            turn(&mut dsync, |offset| {
                let slices = [IoSlice::new(block.as_slice())];
                let written = rustix::io::pwritev2(direct, &slices, offset, ReadWriteFlags::DSYNC)?;
                anyhow::ensure!(written == BLOCK_BYTES, "a short write");
                Ok(())
            })
            .context("a write with RWF_DSYNC")?;
        }
        turn(&mut cached, |offset| {
            buffered.write_all_at(block.as_slice(), offset)?;
            Ok(buffered.sync_data()?)
        })
        .context("a buffered write")?;
    }
    Ok(vec![
        Strategy::new("write linked to fdatasync", &linked),
        Strategy::new("write, then fdatasync", &here),
        Strategy::new("write with RWF_DSYNC", &dsync),
        Strategy::new("buffered write, then fdatasync", &cached),
    ])
}

fn fill(path: &Path) -> Result<()> {
    let mut file = File::create(path)?;
    let zeros = vec![0; 1 << 20];
    for _ in 0..FILE_BYTES / (1 << 20) {
        file.write_all(&zeros)?;
    }
    Ok(file.sync_all()?)
}

fn turn(tally: &mut Tally, mut write: impl FnMut(u64) -> Result<()>) -> Result<()> {
    let clock = TURN.start();
    let mut offset = 0;
    while !clock.is_over() {
        let begin = Instant::now();
        write(offset)?;
        if let Some(took) = clock.counts(begin, Instant::now()) {
            tally.add(took, 1);
        }
        offset = (offset + BLOCK_BYTES as u64) % FILE_BYTES;
    }
    tally.add_turn(TURN.counted, BLOCK_BYTES);
    Ok(())
}
