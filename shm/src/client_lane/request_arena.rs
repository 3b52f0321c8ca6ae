//! The client's allocator of the request half: its map, and one spare block.
//!
//! A client that lends and gets back blocks of one size in turn finds the last one here and leaves the map alone. Whatever
//! the spare block keeps others from having is given back before anybody is refused.

use std::sync::atomic::AtomicU8;

use crate::arena::{Block, Buddy, map_bytes, order_for};

/// Which blocks of the request half are free. Private memory of the client.
#[derive(Debug)]
pub(crate) struct RequestArena {
    map: Box<[AtomicU8]>,
    /// Allocated in the map, and nobody's.
    spare: Option<Block>,
}

impl RequestArena {
    /// The allocator of a half of `half_bytes`, all free.
    pub(crate) fn new(half_bytes: usize) -> Self {
        let zeroed = Box::<[AtomicU8]>::new_zeroed_slice(map_bytes(half_bytes));
        // SAFETY: an `AtomicU8` has the layout of a `u8`, so zero, as just allocated, is a valid one.
        Self { map: unsafe { zeroed.assume_init() }, spare: None }
    }

    fn buddy(&self) -> Buddy<'_> {
        Buddy::new(&self.map)
    }

    /// A block of at least `bytes`.
    #[inline]
    pub(crate) fn allocate(&mut self, bytes: usize) -> Option<Block> {
        match self.spare.take_if(|spare| order_for(bytes) == Some(spare.order)) {
            None => self.allocate_otherwise(bytes),
            spare => spare,
        }
    }

    fn allocate_otherwise(&mut self, bytes: usize) -> Option<Block> {
        self.buddy().allocate(bytes).or_else(|| {
            self.free_spare();
            self.buddy().allocate(bytes)
        })
    }

    /// Takes a block back.
    #[inline]
    pub(crate) fn free(&mut self, block: Block) {
        if let Some(replaced) = self.spare.replace(block) {
            self.buddy().free(replaced);
        }
    }

    fn free_spare(&mut self) {
        if let Some(spare) = self.spare.take() {
            self.buddy().free(spare);
        }
    }

    /// Bytes of the largest block that could be had.
    pub(crate) fn largest_free_bytes(&mut self) -> usize {
        self.free_spare();
        self.buddy().largest_free_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HALF_BYTES: usize = 64 << 10;

    #[test]
    fn the_last_block_is_lent_again_and_refuses_nobody() {
        let mut arena = RequestArena::new(HALF_BYTES);
        let half = arena.allocate(HALF_BYTES / 2).unwrap();
        let other = arena.allocate(HALF_BYTES / 2).unwrap();
        arena.free(half);
        assert_eq!(arena.allocate(HALF_BYTES / 2), Some(half));
        assert_eq!(arena.allocate(1), None);
        arena.free(half);
        // Of another size: the spare block is split.
        let small = arena.allocate(1).unwrap();
        assert_eq!((small.offset, small.bytes()), (half.offset, 1024));
        arena.free(small);
        arena.free(other);
        assert_eq!(arena.largest_free_bytes(), HALF_BYTES);
        assert_eq!(arena.allocate(HALF_BYTES).unwrap().bytes(), HALF_BYTES);
        assert_eq!(arena.largest_free_bytes(), 0);
    }
}
