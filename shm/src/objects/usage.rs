//! Figures of a state: what its limit is and what is left of it.

use super::entry::Buckets;
use super::granule::GRANULE_BYTES;
use super::heap;
use super::layout::header;
use super::retire::Retired;
use super::words::Space;

/// What is used and free.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of the segment.
    pub limit_bytes: u64,
    /// Bytes of blocks that are not free: objects with keys and headers, loans, what waits for readers.
    pub used_bytes: u64,
    /// Bytes of free blocks.
    pub free_bytes: u64,
    /// Bytes of the largest free block, as far as a short look tells.
    pub largest_free_bytes: u64,
    /// Objects.
    pub keys: u64,
    /// Blocks of replaced and deleted objects that are not free yet.
    pub retired_blocks: u64,
    /// Their bytes; they are part of the used ones.
    pub retired_bytes: u64,
    /// Buckets of the index in use.
    pub buckets: u64,
    /// The position of the last mutation.
    pub position: u64,
}

impl Usage {
    pub(crate) fn read(space: Space<'_>) -> Self {
        let used = heap::used_granules(space);
        let retired = Retired::load(space);
        Self {
            limit_bytes: space.layout.segment_bytes() as u64,
            used_bytes: used * GRANULE_BYTES,
            free_bytes: (space.layout.heap_granules() - used) * GRANULE_BYTES,
            largest_free_bytes: heap::largest_free_granules(space) * GRANULE_BYTES,
            keys: space.words.load_acquire(header::KEYS),
            retired_blocks: retired.blocks,
            retired_bytes: retired.granules * GRANULE_BYTES,
            buckets: Buckets::load(space).map_or(0, |buckets| buckets.count() as u64),
            position: space.words.load_acquire(header::POSITION),
        }
    }
}
