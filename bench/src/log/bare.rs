//! The floor: records written through the disk under the log, with no log around them.
//!
//! Invariants: the floor's writes go through the ring and are linked to an fdatasync each, also where the log makes synchronous ones: the
//! marks are set against those; synchronous ones have a column of their own; what is written goes to segments that another thread makes
//! ahead of need, zeroed and durable, as in the log.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

use anyhow::{Context, Result};
use tercet_storage::disk::{
    AlignedBuffer, BLOCK_BYTES, Disk, DiskChoice, DiskError, SegmentWrite, Wait, open_directory,
    uring_available,
};

use super::figures::Tally;
use super::{Clock, Turn};

const SEGMENT_BYTES: u64 = 64 << 20;
/// A limit keeps the disk from doing a lone write on the waiting thread: it goes through the ring, linked.
const LINKED: Wait = Wait::AtMostUs(60_000_000);

/// How records are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// Each as a write of its own, linked to an fdatasync of its own, so many at once as the depth says.
    Linked,
    /// So many as the depth says as one write, linked to one fdatasync.
    Merged,
    /// The same as one synchronous write on the thread that waits for it, as the log does with a lone batch.
    Synchronous,
}

/// The disk and where the next write goes.
pub(super) struct Bare {
    disk: Arc<dyn Disk>,
    segment: u32,
    offset: u64,
    /// The oldest segment that is there.
    oldest: u32,
    /// Segments to be made.
    wanted: Sender<u32>,
    made: Receiver<Result<(), DiskError>>,
    buffers: Vec<AlignedBuffer>,
    token: u64,
}

impl Bare {
    /// In a new directory.
    pub(super) fn open(dir: &Path, choice: DiskChoice) -> Result<Bare> {
        let choice = match choice {
            DiskChoice::UringOrPortable if uring_available().is_err() => DiskChoice::Portable,
            DiskChoice::Uring | DiskChoice::UringOrPortable => DiskChoice::UringLinked,
            other => other,
        };
        let disk: Arc<dyn Disk> = Arc::from(open_directory(dir, choice)?);
        disk.create(1, SEGMENT_BYTES)?;
        let (wanted, wishes) = channel::<u32>();
        let (finished, made) = channel();
        let theirs = Arc::clone(&disk);
        // Ends when `wanted` is dropped.
        std::thread::Builder::new().name("floor-segments".to_owned()).spawn(move || {
            for new in wishes {
                let result = theirs.create(new, SEGMENT_BYTES);
                if finished.send(result).is_err() {
                    return;
                }
            }
        })?;
        wanted.send(2).context("the thread that makes segments has ended")?;
        Ok(Bare { disk, segment: 1, offset: 0, oldest: 1, wanted, made, buffers: Vec::new(), token: 0 })
    }

    /// Removes full segments. To be called between turns.
    pub(super) fn tidy(&mut self) -> Result<()> {
        for full in self.oldest..self.segment {
            self.disk.remove(full)?;
        }
        self.oldest = self.segment;
        Ok(())
    }

    /// One turn: keeps writing until it is over, then waits for the rest.
    pub(super) fn turn(
        &mut self,
        shape: Shape,
        size: usize,
        depth: usize,
        turn: Turn,
        tally: &mut Tally,
    ) -> Result<()> {
        let (bytes, at_once, each, wait) = match shape {
            Shape::Linked => (size, depth, 1, LINKED),
            Shape::Merged => (size * depth, 1, depth as u64, LINKED),
            Shape::Synchronous => (size * depth, 1, depth as u64, Wait::Forever),
        };
        let bytes = bytes.next_multiple_of(BLOCK_BYTES);
        let clock = turn.start();
        let mut begun: Vec<(u64, Instant)> = Vec::new();
        let mut done = Vec::new();
        loop {
            while begun.len() < at_once && !clock.is_over() {
                begun.push((self.token, Instant::now()));
                self.submit(bytes)?;
            }
            if begun.is_empty() {
                break;
            }
            self.disk.completions(wait, &mut done)?;
            for completion in done.drain(..) {
                completion.result?;
                self.buffers.push(completion.buffer);
                count(&clock, &mut begun, completion.token, each, tally);
            }
        }
        tally.add_turn(turn.counted, size);
        Ok(())
    }

    fn submit(&mut self, bytes: usize) -> Result<()> {
        if self.offset + bytes as u64 > SEGMENT_BYTES {
            self.made.recv().context("the thread that makes segments has ended")??;
            self.segment += 1;
            self.offset = 0;
            let after = self.segment + 1;
            self.wanted.send(after).context("the thread that makes segments has ended")?;
        }
        let fitting = self.buffers.iter().position(|buffer| buffer.capacity() >= bytes);
        let mut buffer = fitting.map(|at| self.buffers.swap_remove(at)).unwrap_or_else(|| {
            let mut buffer = AlignedBuffer::with_capacity(bytes);
            buffer.set_len(bytes);
            buffer.as_mut_slice().fill(0x5a);
            buffer
        });
        buffer.set_len(bytes);
        let write = SegmentWrite { token: self.token, segment: self.segment, offset: self.offset, buffer };
        self.disk.submit(write)?;
        self.token += 1;
        self.offset += bytes as u64;
        Ok(())
    }
}

fn count(clock: &Clock, begun: &mut Vec<(u64, Instant)>, token: u64, each: u64, tally: &mut Tally) {
    let end = Instant::now();
    if let Some(at) = begun.iter().position(|(begun, _)| *begun == token) {
        let (_, begin) = begun.swap_remove(at);
        if let Some(took) = clock.counts(begin, end) {
            tally.add(took, each);
        }
    }
}
