//! Blocks that left the index and may still be pinned: a list in the segment, first in, first out.
//!
//! Invariants:
//! 1. A block enters the list in the transaction that takes it out of the index, and leaves it in the one that frees it: a
//!    dead writer leaks nothing.
//! 2. A block is freed only if no pin names it, as read after the fence of `pin::all_pinned`, which comes after the block
//!    left the index. Readers that pin it later see that.
//! 3. The list is as long as its totals say; whoever walks it stops there.
//! 4. A block that a hold wants ([`hold`](super::hold)) enters the list of kept blocks instead, and this one when the hold is over.

use super::block::{Block, KIND_AND_LINK, Kind, kind_and_link, link_of};
use super::error::StateError;
use super::granule::Granule;
use super::heap;
use super::layout::header::{HELD, KEPT_HEAD, KEPT_TAIL, KEPT_TOTALS, RETIRED_HEAD, RETIRED_TAIL, RETIRED_TOTALS};
use super::limits::{RETIRED_BLOCKS_KEPT, RETIRED_SHARE_OF_HEAP};
use super::lock::Locked;
use super::pin;
use super::transaction::Transaction;
use super::words::Space;

/// Where a list of blocks that left the index has its ends and its totals.
#[derive(Debug, Clone, Copy)]
pub(crate) struct List {
    pub(crate) head: usize,
    pub(crate) tail: usize,
    pub(crate) totals: usize,
}

impl List {
    /// Blocks that may be pinned.
    pub(crate) const RETIRED: Self = Self { head: RETIRED_HEAD, tail: RETIRED_TAIL, totals: RETIRED_TOTALS };
    /// Blocks that a hold wants.
    pub(crate) const KEPT: Self = Self { head: KEPT_HEAD, tail: KEPT_TAIL, totals: KEPT_TOTALS };
}

/// How much is retired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Retired {
    pub(crate) blocks: u64,
    pub(crate) granules: u64,
}

impl Retired {
    pub(crate) fn load(space: Space<'_>) -> Self {
        Self::of_list(space, List::RETIRED)
    }

    /// The same of either list.
    #[inline]
    pub(crate) fn of_list(space: Space<'_>, list: List) -> Self {
        let word = space.words.load_acquire(list.totals);
        Self { blocks: word & 0xffff_ffff, granules: word >> 32 }
    }

    /// The totals of both.
    pub(crate) fn and(self, other: Self) -> Self {
        Self { blocks: self.blocks + other.blocks, granules: self.granules + other.granules }
    }

    pub(crate) fn word(self, at: usize) -> Result<u64, StateError> {
        if self.blocks >> 32 != 0 || self.granules >> 32 != 0 {
            return Err(StateError::corrupt("totals of retired blocks", at));
        }
        Ok(self.blocks | self.granules << 32)
    }

    fn with(self, block: Block) -> Self {
        Self { blocks: self.blocks + 1, granules: self.granules + u64::from(block.granules) }
    }

    fn without(self, block: Block) -> Result<Self, StateError> {
        let blocks = self.blocks.checked_sub(1);
        let granules = self.granules.checked_sub(u64::from(block.granules));
        let left = blocks.zip(granules).map(|(blocks, granules)| Self { blocks, granules });
        left.ok_or_else(|| StateError::corrupt("totals of retired blocks", RETIRED_TOTALS))
    }

    /// Whether it is time to reclaim.
    pub(crate) fn is_much(self, space: Space<'_>) -> bool {
        self.blocks >= RETIRED_BLOCKS_KEPT || self.granules > space.layout.heap_granules() / RETIRED_SHARE_OF_HEAP
    }
}

/// Puts the block of an object of this version at the end of the list. The entry that names it goes in the same transaction.
pub(crate) fn retire(transaction: &mut Transaction<'_>, block: Block, version: u64) -> Result<(), StateError> {
    if version < transaction.load(HELD) {
        return keep(transaction, block);
    }
    append_counted(transaction, block, List::RETIRED)
}

/// Somebody holds what it was.
#[cold]
fn keep(transaction: &mut Transaction<'_>, block: Block) -> Result<(), StateError> {
    append_counted(transaction, block, List::KEPT)
}

#[inline]
fn append_counted(transaction: &mut Transaction<'_>, block: Block, list: List) -> Result<(), StateError> {
    let totals = Retired::of_list(transaction.space(), list);
    append(transaction, block, list)?;
    transaction.store(list.totals, totals.with(block).word(list.totals)?)
}

#[inline]
fn append(transaction: &mut Transaction<'_>, block: Block, list: List) -> Result<(), StateError> {
    let number = block.place.number();
    transaction.store(block.place.at() + KIND_AND_LINK, kind_and_link(Kind::Retired, 0))?;
    append_chain(transaction, list, number, number)
}

/// Puts blocks that are linked from `first` to `last` at the end of a list.
#[inline]
pub(crate) fn append_chain(
    transaction: &mut Transaction<'_>,
    list: List,
    first: u64,
    last: u64,
) -> Result<(), StateError> {
    let tail = transaction.load(list.tail);
    if tail == 0 {
        transaction.store(list.head, first)?;
    } else {
        let tail = Granule::checked(tail, transaction.space().layout, "last retired block", list.tail)?;
        transaction.store(tail.at() + KIND_AND_LINK, kind_and_link(Kind::Retired, first))?;
    }
    transaction.store(list.tail, last)
}

/// Takes the first block off the list.
fn take_first(transaction: &mut Transaction<'_>) -> Result<Block, StateError> {
    let space = transaction.space();
    let first = Granule::checked(transaction.load(RETIRED_HEAD), space.layout, "first retired block", RETIRED_HEAD)?;
    let block = Block::of_kind(space, first, Kind::Retired)?;
    let next = link_of(transaction.load(first.at() + KIND_AND_LINK));
    transaction.store(RETIRED_HEAD, next)?;
    if next == 0 {
        transaction.store(RETIRED_TAIL, 0)?;
    }
    Ok(block)
}

/// Looks at the first `batch` retired blocks and frees those that nobody has pinned; the others go to the end. Returns how
/// many were freed. Each block is a transaction of its own.
pub(crate) fn reclaim(locked: &Locked<'_>, batch: usize, pinned: &mut Vec<u64>) -> Result<usize, StateError> {
    let space = locked.space();
    let retired = Retired::load(space).blocks;
    let looks = usize::try_from(retired).unwrap_or(usize::MAX).min(batch);
    if looks == 0 {
        return Ok(0);
    }
    pin::all_pinned(space, pinned);
    let mut freed = 0;
    for _ in 0..looks {
        let mut transaction = Transaction::begin(locked)?;
        let block = take_first(&mut transaction)?;
        if pinned.binary_search(&block.place.number()).is_ok() {
            append(&mut transaction, block, List::RETIRED)?;
        } else {
            let left = Retired::load(space).without(block)?;
            transaction.store(RETIRED_TOTALS, left.word(RETIRED_TOTALS)?)?;
            heap::release(&mut transaction, block)?;
            freed += 1;
        }
        transaction.commit();
    }
    Ok(freed)
}
