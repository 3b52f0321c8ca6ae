//! The sender's blocks: which are free, which are being filled, which lie with the receiver. Private memory of the sender.
//!
//! A descriptor stands for a block from when it is lent until the receiver has stored the stamp of its message in the
//! descriptor's `released` word, or until the loan is given back unsent. The oldest of those words are read before each
//! loan, though it costs the transfer of a line: a block used again is warm. All of them are read when room is short.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::arena::Block;
use crate::client_lane::request_arena::RequestArena;

/// Blocks that are taken back before a loan, so that a long pause of the sender does not make one send slow.
const OLDEST_LOOKED_AT: usize = 4;

/// Allocator and descriptors of one lane's arena.
#[derive(Debug)]
pub(super) struct Blocks {
    arena: RequestArena,
    /// By descriptor: the block that it stands for.
    blocks: Box<[Option<Block>]>,
    /// Descriptors that stand for none.
    free: Vec<u16>,
    /// Published, oldest first: descriptor and stamp.
    sent: VecDeque<(u16, u64)>,
}

impl Blocks {
    /// All free.
    pub(super) fn new(arena_bytes: usize, blocks: u32) -> Self {
        let descriptors = u16::try_from(blocks).expect("the layout limits the number of blocks");
        Self {
            arena: RequestArena::new(arena_bytes),
            blocks: vec![None; usize::from(descriptors)].into_boxed_slice(),
            // Taken from the end: the first ones first.
            free: (0..descriptors).rev().collect(),
            sent: VecDeque::with_capacity(usize::from(descriptors)),
        }
    }

    /// A block of at least `bytes`, and the descriptor that stands for it.
    pub(super) fn lend(&mut self, bytes: usize, released: &[AtomicU64]) -> Option<(u16, Block)> {
        self.reclaim_oldest(released);
        self.try_lend(bytes).or_else(|| {
            self.reclaim(released);
            self.try_lend(bytes)
        })
    }

    fn try_lend(&mut self, bytes: usize) -> Option<(u16, Block)> {
        let descriptor = *self.free.last()?;
        let block = self.arena.allocate(bytes)?;
        self.free.pop();
        self.blocks[usize::from(descriptor)] = Some(block);
        Some((descriptor, block))
    }

    /// The descriptor's block is published under this stamp.
    pub(super) fn sent(&mut self, descriptor: u16, stamp: u64) {
        self.sent.push_back((descriptor, stamp));
    }

    /// The descriptor's block is nobody's any more.
    pub(super) fn give_back(&mut self, descriptor: u16) {
        if let Some(block) = self.blocks[usize::from(descriptor)].take() {
            self.arena.free(block);
            self.free.push(descriptor);
        }
    }

    /// Whether a block of so many bytes could be lent.
    pub(super) fn has_room(&mut self, bytes: usize, released: &[AtomicU64]) -> bool {
        self.reclaim(released);
        !self.free.is_empty() && self.arena.largest_free_bytes() >= bytes
    }

    /// Takes back from the front what the receiver has released.
    fn reclaim_oldest(&mut self, released: &[AtomicU64]) {
        for _ in 0..OLDEST_LOOKED_AT {
            match self.sent.front() {
                Some(&(descriptor, stamp)) if is_released(released, descriptor, stamp) => {
                    self.sent.pop_front();
                    self.give_back(descriptor);
                }
                _ => return,
            }
        }
    }

    /// Takes back whatever the receiver has released.
    fn reclaim(&mut self, released: &[AtomicU64]) {
        for _ in 0..self.sent.len() {
            let Some((descriptor, stamp)) = self.sent.pop_front() else { break };
            if is_released(released, descriptor, stamp) {
                self.give_back(descriptor);
            } else {
                self.sent.push_back((descriptor, stamp));
            }
        }
    }

    /// Bytes of the largest block that could be had.
    pub(super) fn largest_free_bytes(&mut self) -> usize {
        if self.free.is_empty() { 0 } else { self.arena.largest_free_bytes() }
    }

    /// Descriptors that stand for a block.
    pub(super) fn in_use(&self) -> usize {
        self.blocks.len() - self.free.len()
    }
}

#[inline]
fn is_released(released: &[AtomicU64], descriptor: u16, stamp: u64) -> bool {
    // Acquire pairs with the Release in `Inbound::release`: the receiver has finished reading the block.
    released[usize::from(descriptor)].load(Ordering::Acquire) == stamp
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARENA_BYTES: usize = 64 << 10;

    fn released(blocks: u32) -> Vec<AtomicU64> {
        (0..blocks).map(|_| AtomicU64::new(0)).collect()
    }

    #[test]
    fn a_block_comes_back_by_its_own_stamp_alone() {
        let released = released(2);
        let mut blocks = Blocks::new(ARENA_BYTES, 2);
        let (descriptor, block) = blocks.lend(ARENA_BYTES, &released).unwrap();
        blocks.sent(descriptor, 7);
        for stamp in [0, 6, 8, u64::MAX] {
            released[usize::from(descriptor)].store(stamp, Ordering::Relaxed);
            assert_eq!(blocks.lend(1, &released), None);
        }
        released[usize::from(descriptor)].store(7, Ordering::Relaxed);
        assert_eq!(blocks.lend(ARENA_BYTES, &released), Some((descriptor, block)));
    }

    #[test]
    fn descriptors_run_out_before_the_arena_does_and_come_back_in_any_order() {
        let released = released(4);
        let mut blocks = Blocks::new(ARENA_BYTES, 4);
        let lent: Vec<_> = (0..4).map(|_| blocks.lend(1000, &released).unwrap()).collect();
        assert_eq!((blocks.lend(1, &released), blocks.largest_free_bytes(), blocks.in_use()), (None, 0, 4));
        let stamp_of = |descriptor: u16| u64::from(descriptor) + 100;
        lent.iter().for_each(|(descriptor, _)| blocks.sent(*descriptor, stamp_of(*descriptor)));
        for (descriptor, block) in lent.iter().rev() {
            released[usize::from(*descriptor)].store(stamp_of(*descriptor), Ordering::Relaxed);
            assert!(blocks.has_room(1000, &released));
            assert_eq!(blocks.lend(1000, &released), Some((*descriptor, *block)));
        }
        lent.iter().for_each(|(descriptor, _)| blocks.give_back(*descriptor));
        assert_eq!((blocks.largest_free_bytes(), blocks.in_use()), (ARENA_BYTES, 0));
    }
}
