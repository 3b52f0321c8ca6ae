//! A bucket: seven entries and a link, in one cache line; overflow buckets behind it lie in blocks of the heap.
//!
//! Invariants:
//! 1. An overflow bucket stays in its chain for good: a reader that walks a chain is never led away.
//! 2. A chain has at most `CHAIN_MAX` overflow buckets; whoever walks further has met a corrupt link.

use super::block::{BLOCK_HEADER_WORDS, KIND_AND_LINK, Kind, kind_of};
use super::error::StateError;
use super::granule::Granule;
use super::layout::BUCKET_WORDS;
use super::limits::{CHAIN_MAX, ENTRIES_PER_BUCKET};
use super::words::Space;

/// Granules of an overflow bucket's block.
pub(crate) const OVERFLOW_GRANULES: u32 = 5;
const LINK: usize = ENTRIES_PER_BUCKET;

const _: () = assert!(LINK + 1 == BUCKET_WORDS && OVERFLOW_GRANULES as usize * 2 >= BLOCK_HEADER_WORDS + BUCKET_WORDS);

/// One bucket of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bucket {
    /// Its first word.
    pub(crate) at: usize,
    /// How many are before it in its chain.
    pub(crate) depth: usize,
}

impl Bucket {
    /// Bucket `number` of the index, which must be below the layout's maximum.
    #[inline]
    pub(crate) fn new(space: Space<'_>, number: usize) -> Self {
        Self { at: space.layout.bucket_at(number), depth: 0 }
    }

    /// The overflow bucket in a block.
    pub(crate) fn in_block(place: Granule, depth: usize) -> Self {
        Self { at: place.at() + BLOCK_HEADER_WORDS, depth }
    }

    #[inline]
    pub(crate) fn link_at(self) -> usize {
        self.at + LINK
    }

    /// The places of its entries.
    #[inline]
    pub(crate) fn entries(self) -> std::ops::Range<usize> {
        self.at..self.at + ENTRIES_PER_BUCKET
    }

    /// The next bucket of the chain.
    #[inline]
    pub(crate) fn next(self, space: Space<'_>) -> Result<Option<Self>, StateError> {
        let link = space.words.load_acquire(self.link_at());
        if link == 0 { Ok(None) } else { self.follow(space, link).map(Some) }
    }

    #[cold]
    fn follow(self, space: Space<'_>, link: u64) -> Result<Self, StateError> {
        let place = Granule::checked(link, space.layout, "link of a bucket", self.link_at())?;
        let is_bucket = kind_of(space.words.load(place.at() + KIND_AND_LINK)) == Some(Kind::Overflow);
        if !is_bucket || self.depth == CHAIN_MAX {
            return Err(StateError::corrupt("chain of a bucket", self.link_at()));
        }
        Ok(Self::in_block(place, self.depth + 1))
    }
}

/// A chain from its first bucket on; a wrong link is its last item.
pub(crate) fn chain(space: Space<'_>, first: Bucket) -> impl Iterator<Item = Result<Bucket, StateError>> {
    let next = move |bucket: &Result<Bucket, StateError>| bucket.as_ref().ok()?.next(space).transpose();
    std::iter::successors(Some(Ok(first)), next)
}
