//! A private buffer, aligned for any archive, into which payloads are copied across a trust boundary.

/// Bytes above which a buffer is given back after its call, so that one large payload does not stay for ever.
const KEPT_BYTES_MAX: usize = 4 << 20;

/// Archived types need at most this alignment: rkyv's largest primitive is `u128`.
#[repr(C, align(16))]
#[derive(Debug, Clone, Copy)]
struct Chunk([u8; 16]);

/// A reusable, 16-aligned private buffer.
#[derive(Debug, Default)]
pub struct Scratch {
    chunks: Vec<Chunk>,
}

impl Scratch {
    /// An empty buffer; it grows with the first payload.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// `bytes` bytes of unspecified content. Memory is kept for the next call, up to 4 MiB.
    pub fn prepare(&mut self, bytes: usize) -> &mut [u8] {
        let chunks = bytes.div_ceil(size_of::<Chunk>());
        if self.chunks.len() < chunks {
            self.chunks.resize(chunks, Chunk([0; 16]));
        }
        &mut self.chunks.as_flattened_bytes_mut()[..bytes]
    }

    /// Gives memory above the kept size back.
    pub fn trim(&mut self) {
        if self.chunks.len() * size_of::<Chunk>() > KEPT_BYTES_MAX {
            self.chunks = Vec::new();
        }
    }
}

trait AsFlattenedBytes {
    fn as_flattened_bytes_mut(&mut self) -> &mut [u8];
}

impl AsFlattenedBytes for [Chunk] {
    fn as_flattened_bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: `Chunk` is 16 bytes without padding, for which every bit pattern is valid; the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.as_mut_ptr().cast(), size_of_val(self)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_as_long_as_asked() {
        let mut scratch = Scratch::new();
        for bytes in [0, 1, 15, 16, 17, 4096, 5 << 20] {
            let buffer = scratch.prepare(bytes);
            assert_eq!(buffer.len(), bytes);
            assert!(buffer.as_ptr().addr().is_multiple_of(16));
        }
        scratch.trim();
        assert_eq!(scratch.chunks.capacity(), 0);
    }
}
