//! Write buffers that are used again.
//!
//! A new buffer of a megabyte costs more than filling it: the kernel clears each of its pages when it is first touched (0.35 ms of
//! an append of 1 MiB, whose bytes are copied in 0.03).
//!
//! Invariant: no more than [`POOLED_BUFFERS`] are kept, none of them larger than the limit; where one has to go it is the smallest.

use crate::disk::AlignedBuffer;
use crate::format::BLOCK_BYTES;

/// Write buffers kept for reuse: no more than this many, and none larger than twice the usual batch.
pub(crate) const POOLED_BUFFERS: usize = 4;
/// No buffer is smaller.
const LEAST_BYTES: usize = 16 * BLOCK_BYTES;

pub(crate) struct BufferPool {
    /// By capacity, the smallest first.
    buffers: Vec<AlignedBuffer>,
    limit_bytes: usize,
}

impl BufferPool {
    /// Keeps no buffer that is larger than this.
    pub(crate) fn new(limit_bytes: usize) -> BufferPool {
        BufferPool { buffers: Vec::with_capacity(POOLED_BUFFERS + 1), limit_bytes }
    }

    /// A buffer of this length, with whatever an earlier use has left in it.
    pub(crate) fn take(&mut self, bytes: usize) -> AlignedBuffer {
        let mut buffer = match self.buffers.iter().position(|buffer| buffer.capacity() >= bytes) {
            Some(smallest) => self.buffers.remove(smallest),
            None => AlignedBuffer::with_capacity(bytes.next_power_of_two().max(LEAST_BYTES)),
        };
        buffer.set_len(bytes);
        buffer
    }

    /// Keeps it, if it is worth more than the smallest that is there.
    pub(crate) fn give_back(&mut self, buffer: AlignedBuffer) {
        if buffer.capacity() > self.limit_bytes {
            return;
        }
        let place = self.buffers.partition_point(|kept| kept.capacity() < buffer.capacity());
        self.buffers.insert(place, buffer);
        if self.buffers.len() > POOLED_BUFFERS {
            self.buffers.remove(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capacities(pool: &BufferPool) -> Vec<usize> {
        pool.buffers.iter().map(AlignedBuffer::capacity).collect()
    }

    #[test]
    fn small_buffers_do_not_keep_large_ones_out() {
        let mut pool = BufferPool::new(1 << 20);
        let small: Vec<AlignedBuffer> = (0..6).map(|_| pool.take(BLOCK_BYTES)).collect();
        small.into_iter().for_each(|buffer| pool.give_back(buffer));
        assert_eq!(capacities(&pool), [LEAST_BYTES; POOLED_BUFFERS]);
        let large = pool.take(200_000);
        assert_eq!((large.len(), large.capacity()), (200_000, 1 << 18));
        let place = large.as_slice().as_ptr();
        pool.give_back(large);
        assert_eq!(capacities(&pool), [LEAST_BYTES, LEAST_BYTES, LEAST_BYTES, 1 << 18]);
        assert_eq!(pool.take(150_000).as_slice().as_ptr(), place, "it is used again");
    }

    #[test]
    fn the_smallest_that_fits_is_taken_and_what_is_too_large_is_not_kept() {
        let mut pool = BufferPool::new(1 << 20);
        let taken = [1 << 20, 1 << 17, 2 << 20].map(|bytes| pool.take(bytes));
        taken.into_iter().for_each(|buffer| pool.give_back(buffer));
        assert_eq!(capacities(&pool), [1 << 17, 1 << 20]);
        assert_eq!(pool.take(BLOCK_BYTES).capacity(), 1 << 17);
        assert_eq!(pool.take(BLOCK_BYTES).capacity(), 1 << 20);
        assert_eq!(pool.take(BLOCK_BYTES).capacity(), LEAST_BYTES);
    }
}
