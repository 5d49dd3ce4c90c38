//! A buffer that begins at a block boundary in memory, as direct I/O demands.
//!
//! Invariant: the storage is allocated once, to its full capacity, and never moves afterwards.

use std::fmt;

use super::BLOCK_BYTES;

/// Bytes that begin at a multiple of [`BLOCK_BYTES`] in memory. Growing its length never reallocates.
pub struct AlignedBuffer {
    storage: Vec<u8>,
    start: usize,
    len: usize,
}

impl AlignedBuffer {
    /// A buffer with room for `capacity` bytes, and length 0. All zero.
    pub fn with_capacity(capacity: usize) -> AlignedBuffer {
        let storage = vec![0_u8; capacity + BLOCK_BYTES];
        // The padding in front makes up for an allocation that is not aligned; align_offset may give up only in const evaluation.
        let start = storage.as_ptr().align_offset(BLOCK_BYTES).min(BLOCK_BYTES);
        AlignedBuffer { storage, start, len: 0 }
    }

    /// How long the buffer can become.
    pub fn capacity(&self) -> usize {
        self.storage.len() - BLOCK_BYTES
    }

    /// Sets the length; what comes in view is whatever an earlier use left. The length is cut to the capacity.
    pub fn set_len(&mut self, len: usize) {
        self.len = len.min(self.capacity());
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
        &mut self.storage[self.start..self.start + self.len]
    }
}

impl fmt::Debug for AlignedBuffer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "AlignedBuffer({} of {} bytes)", self.len, self.capacity())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn begins_at_a_block_boundary_and_keeps_its_bytes() {
        for capacity in [0, 1, 4096, 12_288, 1 << 20] {
            let mut buffer = AlignedBuffer::with_capacity(capacity);
            assert!(buffer.is_empty());
            buffer.set_len(capacity + 1);
            assert_eq!(buffer.len(), capacity);
            assert_eq!(buffer.as_slice().as_ptr() as usize % BLOCK_BYTES, 0);
            buffer.as_mut_slice().fill(7);
            assert!(buffer.as_slice().iter().all(|byte| *byte == 7));
        }
    }
}
