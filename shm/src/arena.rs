//! A buddy allocator over one half of a lane's arena.
//!
//! The map has one byte a node of a binary tree whose leaves are blocks of 1 KiB. A node of order o (2^o leaves) holds
//! o minus the order of the largest free block below it, or o + 1 when nothing below it is free. Zero therefore means
//! "all free", a fresh zeroed map is an empty arena, and pages of the map are touched only where blocks are used.
//! Allocation goes to the lowest address that fits, so pages stay warm.
//!
//! Memory: the map of the request half is private to the client; that of the reply half lies in the reply ledger, which
//! workers and server map. Whoever uses a map excludes others (the client by its lane's mutex, workers by the ledger's
//! lock). The map says where blocks *may* be, and is never trusted for memory safety: every offset is checked against the
//! arena's size by its user, and junk in a map yields a wrong offset inside the arena, or none.

use std::sync::atomic::{AtomicU8, Ordering};

/// Bytes of the smallest block: payloads up to 64 or 96 bytes travel inline and need none.
pub(crate) const BLOCK_BYTES_MIN: usize = 1024;

/// Bytes of the map of an arena of `arena_bytes`: two nodes a leaf.
pub(crate) const fn map_bytes(arena_bytes: usize) -> usize {
    arena_bytes / BLOCK_BYTES_MIN * 2
}

/// A block of an arena half, by offset from the half's start. Its owner returns it to the map it came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Block {
    /// Bytes from the start of the half.
    pub(crate) offset: u32,
    /// log2 of its size in smallest blocks.
    pub(crate) order: u8,
}

impl Block {
    /// Bytes that fit the block.
    pub(crate) const fn bytes(self) -> usize {
        BLOCK_BYTES_MIN << self.order
    }
}

/// Order of the blocks that [`Buddy::allocate`] gives for `bytes`.
#[inline]
pub(crate) fn order_for(bytes: usize) -> Option<u8> {
    let blocks = bytes.div_ceil(BLOCK_BYTES_MIN).max(1).next_power_of_two();
    u8::try_from(blocks.ilog2()).ok()
}

/// A view of a map.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Buddy<'a> {
    map: &'a [AtomicU8],
}

impl<'a> Buddy<'a> {
    /// The allocator whose map is `map`, of a length that [`map_bytes`] gave.
    pub(crate) fn new(map: &'a [AtomicU8]) -> Self {
        debug_assert!(map.len().is_power_of_two() && map.len() >= 2);
        Self { map }
    }

    fn order_max(self) -> u8 {
        u8::try_from(self.map.len().ilog2() - 1).expect("an order is below 32")
    }

    /// Order of the largest free block below a node of order `order`; `None` when there is none.
    fn largest(self, node: usize, order: u8) -> Option<u8> {
        order.checked_sub(self.map[node].load(Ordering::Relaxed))
    }

    fn set_largest(self, node: usize, order: u8, largest: Option<u8>) {
        let value = largest.map_or(order + 1, |largest| order - largest);
        self.map[node].store(value, Ordering::Relaxed);
    }

    /// A block of at least `bytes`, at the lowest address where one is free.
    pub(crate) fn allocate(self, bytes: usize) -> Option<Block> {
        let order = order_for(bytes)?;
        let order_max = self.order_max();
        if self.largest(1, order_max)? < order {
            return None;
        }
        let (mut node, mut at) = (1, order_max);
        while at > order {
            at -= 1;
            node *= 2;
            if self.largest(node, at).is_none_or(|largest| largest < order) {
                node += 1;
                // Junk in the map may promise what is not there.
                if self.largest(node, at).is_none_or(|largest| largest < order) {
                    return None;
                }
            }
        }
        if self.largest(node, order) != Some(order) {
            return None;
        }
        let offset = (node - (1 << (order_max - order))) << order;
        self.set_largest(node, order, None);
        self.propagate(node, order);
        Some(Block { offset: u32::try_from(offset * BLOCK_BYTES_MIN).ok()?, order })
    }

    /// Gives a block back. False when the map does not say that just this block is allocated.
    pub(crate) fn free(self, block: Block) -> bool {
        let Some(node) = self.node_of(block) else { return false };
        if self.largest(node, block.order).is_some() {
            return false;
        }
        self.set_largest(node, block.order, Some(block.order));
        self.propagate(node, block.order);
        true
    }

    /// Marks a block as allocated in a map that is being rebuilt. False when it overlaps another or lies outside.
    pub(crate) fn reserve(self, block: Block) -> bool {
        let Some(node) = self.node_of(block) else { return false };
        // All ancestors must still have this block free below them, which holds if none of them is itself allocated.
        let mut path = node;
        let mut order = block.order;
        while path > 1 {
            path /= 2;
            order += 1;
            if self.largest(path, order).is_none() {
                return false;
            }
            if self.map[path].load(Ordering::Relaxed) == 0 {
                break;
            }
        }
        if self.map[node].load(Ordering::Relaxed) != 0 {
            return false;
        }
        self.set_largest(node, block.order, None);
        self.propagate(node, block.order);
        true
    }

    /// Forgets every block.
    pub(crate) fn clear(self) {
        for node in self.map {
            node.store(0, Ordering::Relaxed);
        }
    }

    /// Bytes of the largest block that [`Buddy::allocate`] would give.
    pub(crate) fn largest_free_bytes(self) -> usize {
        self.largest(1, self.order_max()).map_or(0, |order| BLOCK_BYTES_MIN << order)
    }

    /// The node of a block, if the block lies inside the arena and is aligned to its size.
    fn node_of(self, block: Block) -> Option<usize> {
        let order_max = self.order_max();
        if block.order > order_max || !(block.offset as usize).is_multiple_of(block.bytes()) {
            return None;
        }
        let leaf = block.offset as usize / BLOCK_BYTES_MIN;
        (leaf >> order_max == 0).then(|| (1 << (order_max - block.order)) + (leaf >> block.order))
    }

    /// Recomputes the ancestors of a node that changed. A node whose halves are all free becomes zero again, and nothing
    /// below a zero node is ever other than zero, so neither splitting nor merging writes more than one path.
    fn propagate(self, mut node: usize, mut order: u8) {
        while node > 1 {
            node /= 2;
            let (left, right) = (self.largest(2 * node, order), self.largest(2 * node + 1, order));
            order += 1;
            let both_free = left == Some(order - 1) && right == Some(order - 1);
            self.set_largest(node, order, if both_free { Some(order) } else { left.max(right) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ARENA_BYTES: usize = 64 << 10;

    fn map() -> Vec<AtomicU8> {
        (0..map_bytes(ARENA_BYTES)).map(|_| AtomicU8::new(0)).collect()
    }

    #[test]
    fn the_whole_arena_is_one_block_and_comes_back_whole() {
        let map = map();
        let buddy = Buddy::new(&map);
        for _ in 0..3 {
            let all = buddy.allocate(ARENA_BYTES).unwrap();
            assert_eq!((all.offset, all.bytes()), (0, ARENA_BYTES));
            assert_eq!(buddy.allocate(1), None);
            assert_eq!(buddy.largest_free_bytes(), 0);
            assert!(buddy.free(all));
            assert_eq!(buddy.largest_free_bytes(), ARENA_BYTES);
        }
        assert_eq!(buddy.allocate(ARENA_BYTES + 1), None);
        assert!(map.iter().all(|node| node.load(Ordering::Relaxed) == 0));
    }

    #[test]
    fn blocks_are_freed_once_and_only_as_they_were_allocated() {
        let map = map();
        let buddy = Buddy::new(&map);
        let block = buddy.allocate(2048).unwrap();
        for wrong in [
            Block { offset: block.offset + 1, ..block },
            Block { offset: u32::MAX, ..block },
            Block { order: 40, ..block },
            Block { offset: 32 << 10, order: 0 },
        ] {
            assert!(!buddy.free(wrong), "{wrong:?}");
        }
        assert!(buddy.free(block));
        assert!(!buddy.free(block));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Live blocks never overlap, a rebuilt map equals the one it replaces, and freeing all leaves nothing behind.
        #[test]
        fn blocks_never_overlap(steps in prop::collection::vec((any::<bool>(), 1_usize..20_000, any::<u16>()), 1..200)) {
            let map = map();
            let buddy = Buddy::new(&map);
            let mut live: Vec<Block> = Vec::new();
            for (give_back, bytes, pick) in steps {
                if give_back && !live.is_empty() {
                    let block = live.swap_remove(usize::from(pick) % live.len());
                    prop_assert!(buddy.free(block));
                } else if let Some(block) = buddy.allocate(bytes) {
                    prop_assert!(block.bytes() >= bytes && block.offset as usize + block.bytes() <= ARENA_BYTES);
                    for other in &live {
                        let apart = block.offset as usize + block.bytes() <= other.offset as usize
                            || other.offset as usize + other.bytes() <= block.offset as usize;
                        prop_assert!(apart, "{:?} overlaps {:?}", block, other);
                    }
                    live.push(block);
                }
                let rebuilt_map = self::map();
                let rebuilt = Buddy::new(&rebuilt_map);
                for block in &live {
                    prop_assert!(rebuilt.reserve(*block));
                    prop_assert!(!rebuilt.reserve(*block));
                }
                let bytes = |map: &[AtomicU8]| map.iter().map(|node| node.load(Ordering::Relaxed)).collect::<Vec<_>>();
                prop_assert_eq!(bytes(&map), bytes(&rebuilt_map));
            }
            for block in live {
                prop_assert!(buddy.free(block));
            }
            prop_assert_eq!(buddy.largest_free_bytes(), ARENA_BYTES);
        }

        /// Whatever stands in a map, allocating and freeing end, and give offsets inside the arena.
        #[test]
        fn junk_in_the_map_is_bounded(junk in prop::collection::vec(any::<u8>(), 128), bytes in 1_usize..70_000) {
            let map: Vec<AtomicU8> = junk.into_iter().map(AtomicU8::new).collect();
            let buddy = Buddy::new(&map);
            if let Some(block) = buddy.allocate(bytes) {
                prop_assert!(block.offset as usize + block.bytes() <= ARENA_BYTES);
                buddy.free(block);
            }
            buddy.reserve(Block { offset: 4096, order: 2 });
        }
    }
}
