//! The heap: two-level segregated fit over granules, with boundary tags and immediate coalescing.
//!
//! Invariants, between transactions:
//! 1. Blocks cover the heap from its start to the end marker without gaps; each knows its own size and that of the block
//!    before it.
//! 2. No two neighbours are free.
//! 3. Exactly the free blocks are in lists, each in the list of its size's class; the bitmaps name the lists that are not
//!    empty.
//! 4. `USED_GRANULES` counts the granules of all blocks that are not free.
//!
//! All words are stored through the transaction, so a death takes an allocation back whole. Word 2 of a block is logged
//! when it leaves its list: what the new owner writes over it without the log can then be taken back too.
//! Nothing read here is trusted: links and sizes are checked, and every search has an end.

use super::block::{
    BLOCK_GRANULES_MIN, Block, FREE_BEFORE, KIND_AND_LINK, Kind, SIZES, Sizes, kind_and_link, kind_of, link_of,
};
use super::error::StateError;
use super::granule::{GRANULE_BYTES, Granule};
use super::layout::header;
use super::limits::OWN_CLASS_LOOKS_MAX;
use super::size_class::{POWER_MAP, POWERS, STEP_MAPS, STEPS, SizeClass};
use super::transaction::Transaction;
use super::words::Space;

/// Creator: one free block over the whole of a zeroed heap.
pub(crate) fn format(space: Space<'_>) {
    let (words, layout) = (space.words, space.layout);
    let granules = u32::try_from(layout.heap_granules()).expect("the largest segment has fewer than 2^32 granules");
    let first = Granule::first(layout);
    words.store(first.at() + SIZES, Sizes { granules, before: 0 }.word());
    words.store(first.at() + KIND_AND_LINK, kind_and_link(Kind::Free, 0));
    let end = first.at() + granules as usize * super::granule::WORDS_PER_GRANULE;
    words.store(end + SIZES, Sizes { granules: 0, before: granules }.word());
    words.store(end + KIND_AND_LINK, kind_and_link(Kind::End, 0));
    let class = SizeClass::of(granules);
    words.store(layout.heads + class.head(), first.number());
    words.store(layout.heads + STEP_MAPS + class.power, 1 << class.step);
    words.store(layout.heads + POWER_MAP, 1 << class.power);
}

/// A block of `granules` or one more, of `kind`.
pub(crate) fn allocate(transaction: &mut Transaction<'_>, granules: u32, kind: Kind) -> Result<Granule, StateError> {
    debug_assert!(granules >= BLOCK_GRANULES_MIN);
    let Some(block) = find(transaction.space(), granules)? else { return Err(full(transaction.space(), granules)) };
    unlink(transaction, block)?;
    let rest = block.granules - granules;
    let taken = if rest >= BLOCK_GRANULES_MIN { granules } else { block.granules };
    if rest >= BLOCK_GRANULES_MIN {
        cut(transaction, block, granules)?;
    }
    // Kept whatever it is: the new owner's first word lies here.
    transaction.keep(block.place.at() + FREE_BEFORE)?;
    transaction.store(block.place.at() + KIND_AND_LINK, kind_and_link(kind, 0))?;
    count_used(transaction, i64::from(taken))?;
    Ok(block.place)
}

/// Gives a block back, joined with free neighbours.
pub(crate) fn release(transaction: &mut Transaction<'_>, block: Block) -> Result<(), StateError> {
    let space = transaction.space();
    count_used(transaction, -i64::from(block.granules))?;
    let mut whole = block;
    if let Some(next) = block.next(space.layout)?
        && kind_of(space.words.load(next.at() + KIND_AND_LINK)) == Some(Kind::Free)
    {
        let next = Block::at(space, next)?;
        unlink(transaction, next)?;
        whole.granules = joined(whole, next)?;
    }
    if let Some(previous) = block.previous(space.layout)?
        && kind_of(space.words.load(previous.at() + KIND_AND_LINK)) == Some(Kind::Free)
    {
        let previous = Block::at(space, previous)?;
        if previous.granules != block.before {
            return Err(StateError::corrupt("size of the block before", block.place.at()));
        }
        unlink(transaction, previous)?;
        whole = Block { granules: joined(previous, whole)?, ..previous };
    }
    write_sizes(transaction, whole)?;
    link(transaction, whole)
}

/// Gives back what a block has beyond `granules`, if that makes a block.
pub(crate) fn shrink(transaction: &mut Transaction<'_>, block: Block, granules: u32) -> Result<(), StateError> {
    let granules = granules.max(BLOCK_GRANULES_MIN);
    if block.granules < granules.saturating_add(BLOCK_GRANULES_MIN) {
        return Ok(());
    }
    let kept = Block { granules, ..block };
    transaction.store(kept.place.at() + SIZES, Sizes { granules, before: block.before }.word())?;
    let tail = Granule::checked(kept.end(), transaction.space().layout, "end of a shrunk block", block.place.at())?;
    let tail = Block { place: tail, granules: block.granules - granules, before: granules };
    transaction.store(tail.place.at() + SIZES, Sizes { granules: tail.granules, before: granules }.word())?;
    release(transaction, tail)
}

/// Granules that are not free.
pub(crate) fn used_granules(space: Space<'_>) -> u64 {
    space.words.load_acquire(header::USED_GRANULES).min(space.layout.heap_granules())
}

/// Granules of the largest free block, as far as a bounded look into the highest class tells.
pub(crate) fn largest_free_granules(space: Space<'_>) -> u64 {
    let heads = space.layout.heads;
    let Some(power) = highest_bit(space.words.load_acquire(heads + POWER_MAP), POWERS) else { return 0 };
    let Some(step) = highest_bit(space.words.load_acquire(heads + STEP_MAPS + power), STEPS) else { return 0 };
    blocks_of_class(space, SizeClass { power, step }).map(|block| u64::from(block.granules)).max().unwrap_or(0)
}

#[cold]
pub(crate) fn full(space: Space<'_>, granules: u32) -> StateError {
    StateError::Full {
        needed_bytes: u64::from(granules) * GRANULE_BYTES,
        free_bytes: (space.layout.heap_granules() - used_granules(space)) * GRANULE_BYTES,
        largest_free_bytes: largest_free_granules(space) * GRANULE_BYTES,
        limit_bytes: space.layout.segment_bytes() as u64,
    }
}

/// A free block of at least `granules`.
fn find(space: Space<'_>, granules: u32) -> Result<Option<Block>, StateError> {
    if let Some(class) = SizeClass::that_fits(granules)
        && let Some(class) = class_at_least(space, class)?
    {
        let head = space.layout.heads + class.head();
        let place = Granule::checked(space.words.load(head), space.layout, "head of a free list", head)?;
        let block = Block::of_kind(space, place, Kind::Free)?;
        if block.granules < granules {
            return Err(StateError::corrupt("size of a free block", place.at()));
        }
        return Ok(Some(block));
    }
    // The last resort: the class of the size itself may have a block that is large enough.
    let mut own = blocks_of_class(space, SizeClass::of(granules));
    Ok(own.find(|block| block.granules >= granules))
}

/// The lowest class from `class` on whose list is not empty.
fn class_at_least(space: Space<'_>, class: SizeClass) -> Result<Option<SizeClass>, StateError> {
    let heads = space.layout.heads;
    let steps = space.words.load(heads + STEP_MAPS + class.power) & (u64::MAX << class.step);
    if let Some(step) = lowest_bit(steps, STEPS) {
        return Ok(Some(SizeClass { power: class.power, step }));
    }
    let powers = space.words.load(heads + POWER_MAP) & (u64::MAX << (class.power + 1));
    let Some(power) = lowest_bit(powers, POWERS) else { return Ok(None) };
    let steps = space.words.load(heads + STEP_MAPS + power);
    let step = lowest_bit(steps, STEPS).ok_or_else(|| StateError::corrupt("bitmaps of the heap", heads))?;
    Ok(Some(SizeClass { power, step }))
}

/// Free blocks of one class, up to a bound; ends early where a link is wrong.
fn blocks_of_class(space: Space<'_>, class: SizeClass) -> impl Iterator<Item = Block> {
    let head = space.layout.heads + class.head();
    let block = move |number: u64| {
        let place = Granule::checked(number, space.layout, "free list", head).ok()?;
        Block::of_kind(space, place, Kind::Free).ok()
    };
    let first = block(space.words.load(head));
    let next = move |before: &Block| block(link_of(space.words.load(before.place.at() + KIND_AND_LINK)));
    std::iter::successors(first, next).take(OWN_CLASS_LOOKS_MAX)
}

fn lowest_bit(bits: u64, limit: usize) -> Option<usize> {
    let bit = bits.trailing_zeros() as usize;
    (bit < limit).then_some(bit)
}

fn highest_bit(bits: u64, limit: usize) -> Option<usize> {
    let bits = bits & ((1 << limit) - 1);
    (bits != 0).then(|| bits.ilog2() as usize)
}

/// Makes what `block` has beyond `granules` a free block.
fn cut(transaction: &mut Transaction<'_>, block: Block, granules: u32) -> Result<(), StateError> {
    let layout = transaction.space().layout;
    transaction.store(block.place.at() + SIZES, Sizes { granules, before: block.before }.word())?;
    let end = block.place.number() + u64::from(granules);
    let rest = Granule::checked(end, layout, "end of a cut block", block.place.at())?;
    let rest = Block { place: rest, granules: block.granules - granules, before: granules };
    write_sizes(transaction, rest)?;
    link(transaction, rest)
}

fn joined(first: Block, second: Block) -> Result<u32, StateError> {
    let sum = first.granules.checked_add(second.granules);
    sum.ok_or_else(|| StateError::corrupt("sizes of neighbours", first.place.at()))
}

/// Stores a block's sizes, and its size behind it.
fn write_sizes(transaction: &mut Transaction<'_>, block: Block) -> Result<(), StateError> {
    let layout = transaction.space().layout;
    let sizes = Sizes { granules: block.granules, before: block.before };
    transaction.store(block.place.at() + SIZES, sizes.word())?;
    if block.end() > layout.heap_end {
        return Err(StateError::corrupt("end of a block", block.place.at()));
    }
    // Behind the last block lies the end marker, whose words are inside the segment too.
    let behind = block.place.at() + block.granules as usize * super::granule::WORDS_PER_GRANULE + SIZES;
    let theirs = Sizes::of_word(transaction.load(behind));
    transaction.store(behind, Sizes { before: block.granules, ..theirs }.word())
}

/// Puts a block at the head of its class's list.
fn link(transaction: &mut Transaction<'_>, block: Block) -> Result<(), StateError> {
    let layout = transaction.space().layout;
    let class = SizeClass::of(block.granules);
    let head = layout.heads + class.head();
    let next = transaction.load(head);
    transaction.store(block.place.at() + KIND_AND_LINK, kind_and_link(Kind::Free, next))?;
    transaction.store(block.place.at() + FREE_BEFORE, 0)?;
    if next == 0 {
        let steps = layout.heads + STEP_MAPS + class.power;
        transaction.store(steps, transaction.load(steps) | 1 << class.step)?;
        let powers = layout.heads + POWER_MAP;
        transaction.store(powers, transaction.load(powers) | 1 << class.power)?;
    } else {
        let next = Granule::checked(next, layout, "head of a free list", head)?;
        transaction.store(next.at() + FREE_BEFORE, block.place.number())?;
    }
    transaction.store(head, block.place.number())
}

/// Takes a free block out of its class's list.
fn unlink(transaction: &mut Transaction<'_>, block: Block) -> Result<(), StateError> {
    let space = transaction.space();
    let (words, layout) = (space.words, space.layout);
    let class = SizeClass::of(block.granules);
    let head = layout.heads + class.head();
    let next = link_of(words.load(block.place.at() + KIND_AND_LINK));
    let before = words.load(block.place.at() + FREE_BEFORE);
    if next != 0 {
        let next = Granule::checked(next, layout, "next of a free block", block.place.at())?;
        transaction.store(next.at() + FREE_BEFORE, before)?;
    }
    if before != 0 {
        let before = Granule::checked(before, layout, "free block before a free block", block.place.at())?;
        return transaction.store(before.at() + KIND_AND_LINK, kind_and_link(Kind::Free, next));
    }
    if words.load(head) != block.place.number() {
        return Err(StateError::corrupt("first block of a free list", head));
    }
    transaction.store(head, next)?;
    if next == 0 {
        let steps = layout.heads + STEP_MAPS + class.power;
        let left = words.load(steps) & !(1 << class.step);
        transaction.store(steps, left)?;
        if left == 0 {
            let powers = layout.heads + POWER_MAP;
            transaction.store(powers, words.load(powers) & !(1 << class.power))?;
        }
    }
    Ok(())
}

fn count_used(transaction: &mut Transaction<'_>, change: i64) -> Result<(), StateError> {
    let used = transaction.load(header::USED_GRANULES).checked_add_signed(change);
    let used = used.filter(|&used| used <= transaction.space().layout.heap_granules());
    let used = used.ok_or_else(|| StateError::corrupt("count of used granules", header::USED_GRANULES))?;
    transaction.store(header::USED_GRANULES, used)
}
