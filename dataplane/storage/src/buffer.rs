//! Memory that a disk can fill and empty by itself.
//!
//! Direct reads and writes want their memory to begin where a block could. Memory that does not is copied on its way, which
//! costs a quarter of a fast disk's rate: whoever makes large blobs makes them in one of these.

use std::fmt;
use std::ops::{Deref, DerefMut};

/// What files are read and written in, in bytes: the largest block of any disk that direct reads and writes are done on.
pub const BLOCK_BYTES: usize = 4096;

/// A fixed number of bytes that begin on a multiple of [`BLOCK_BYTES`]; zeroes at first.
pub struct AlignedBuffer {
    /// A block longer than needed, never changed in length: so it stays where it is.
    memory: Vec<u8>,
    start: usize,
    bytes: usize,
}

impl AlignedBuffer {
    /// A buffer of so many bytes.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        let memory = vec![0; bytes + BLOCK_BYTES];
        let start = memory.as_ptr().addr().next_multiple_of(BLOCK_BYTES) - memory.as_ptr().addr();
        Self { memory, start, bytes }
    }
}

impl Deref for AlignedBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.bytes]
    }
}

impl DerefMut for AlignedBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.bytes]
    }
}

impl fmt::Debug for AlignedBuffer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("AlignedBuffer").field("bytes", &self.bytes).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_begins_on_a_block_and_stays_there() {
        for bytes in [0, 1, 4095, 4096, 1 << 20] {
            let mut buffer = AlignedBuffer::new(bytes);
            let address = buffer.as_ptr().addr();
            assert_eq!((buffer.len(), address % BLOCK_BYTES), (bytes, 0));
            buffer.fill(7);
            let moved = buffer;
            assert_eq!(moved.as_ptr().addr(), address);
            assert!(moved.iter().all(|byte| *byte == 7));
        }
    }
}
