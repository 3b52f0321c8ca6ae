//! Blocks that left the index and may still be pinned: a list in the segment, first in, first out.
//!
//! Invariants:
//! 1. A block enters the list in the transaction that takes it out of the index, and leaves it in the one that frees it: a
//!    dead writer leaks nothing.
//! 2. A block is freed only if no pin names it, as read after the fence of `pin::all_pinned`, which comes after the block
//!    left the index. Readers that pin it later see that.
//! 3. The list is as long as its totals say; whoever walks it stops there.

use super::block::{Block, KIND_AND_LINK, Kind, kind_and_link, link_of};
use super::error::StateError;
use super::granule::Granule;
use super::heap;
use super::layout::header::{RETIRED_HEAD, RETIRED_TAIL, RETIRED_TOTALS};
use super::limits::{RETIRED_BLOCKS_KEPT, RETIRED_SHARE_OF_HEAP};
use super::lock::Locked;
use super::pin;
use super::transaction::Transaction;
use super::words::Space;

/// How much is retired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Retired {
    pub(crate) blocks: u64,
    pub(crate) granules: u64,
}

impl Retired {
    pub(crate) fn load(space: Space<'_>) -> Self {
        let word = space.words.load_acquire(RETIRED_TOTALS);
        Self { blocks: word & 0xffff_ffff, granules: word >> 32 }
    }

    fn word(self, at: usize) -> Result<u64, StateError> {
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

/// Puts an object's block at the end of the list. The entry that names it goes in the same transaction.
pub(crate) fn retire(transaction: &mut Transaction<'_>, block: Block) -> Result<(), StateError> {
    let totals = Retired::load(transaction.space());
    append(transaction, block)?;
    transaction.store(RETIRED_TOTALS, totals.with(block).word(RETIRED_TOTALS)?)
}

fn append(transaction: &mut Transaction<'_>, block: Block) -> Result<(), StateError> {
    let number = block.place.number();
    transaction.store(block.place.at() + KIND_AND_LINK, kind_and_link(Kind::Retired, 0))?;
    let tail = transaction.load(RETIRED_TAIL);
    if tail == 0 {
        transaction.store(RETIRED_HEAD, number)?;
    } else {
        let tail = Granule::checked(tail, transaction.space().layout, "last retired block", RETIRED_TAIL)?;
        transaction.store(tail.at() + KIND_AND_LINK, kind_and_link(Kind::Retired, number))?;
    }
    transaction.store(RETIRED_TAIL, number)
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
            append(&mut transaction, block)?;
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
