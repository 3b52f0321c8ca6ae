//! The checker: a walk over heap, index, lists and rows that sees whether all of it adds up.
//!
//! It runs under the lock, so what it sees stands still but for pins. Bounded: each block is visited a constant number of
//! times, and every list ends where it must. Its private memory is 24 bytes a block.

use super::block::{Block, KIND_AND_LINK, Kind, SIZES, Sizes, kind_of, link_of};
use super::bucket::{Bucket, chain};
use super::entry::{Buckets, block_of, fingerprint, may_be};
use super::error::StateError;
use super::granule::{Granule, WORDS_PER_GRANULE};
use super::hash;
use super::key::Namespace;
use super::keyed_calls;
use super::layout::{header, log};
use super::limits::LOANS_PER_WORKER;
use super::lock::Locked;
use super::object::Placed;
use super::pin::Row;
use super::retire::{List, Retired};
use super::size_class::{POWER_MAP, POWERS, STEP_MAPS, STEPS, SizeClass};
use super::words::Space;

/// What a segment in order holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Checked {
    /// Objects in the index.
    pub keys: u64,
    /// Those of them whose values are not in the segment.
    pub stubs: u64,
    /// Bytes of their blocks.
    pub object_bytes: u64,
    /// Blocks on loan.
    pub loans: u64,
    /// Blocks that wait for readers.
    pub retired: u64,
    /// Blocks that are kept for whoever holds what they were.
    pub kept: u64,
    /// Overflow buckets.
    pub overflow_buckets: u64,
    /// Free blocks.
    pub free_blocks: u64,
    /// Their bytes.
    pub free_bytes: u64,
    /// Bytes of the largest.
    pub largest_free_bytes: u64,
    /// Buckets in use.
    pub buckets: u64,
    /// Messages.
    pub mail: crate::mailbox::CheckedMail,
}

/// A block that the walk over the heap has met.
#[derive(Debug)]
struct Met {
    block: Block,
    kind: Kind,
    /// Named by what a block of its kind must be named by, exactly once.
    named: bool,
}

/// All blocks, in order of their places.
#[derive(Debug)]
pub(crate) struct Blocks<'a> {
    space: Space<'a>,
    met: Vec<Met>,
}

/// Checks everything.
pub(crate) fn check(locked: &Locked<'_>) -> Result<Checked, StateError> {
    let space = locked.space();
    check_log(space)?;
    let mut blocks = Blocks::walk(space)?;
    let mut found = Checked::default();
    check_free_lists(&mut blocks, &mut found)?;
    check_index(&mut blocks, &mut found)?;
    found.retired = check_retired(&mut blocks, List::RETIRED)?;
    found.kept = check_retired(&mut blocks, List::KEPT)?;
    if found.kept != 0 && space.words.load(header::HELD) == 0 {
        return Err(StateError::corrupt("blocks kept for nobody", header::KEPT_TOTALS));
    }
    check_loans(&mut blocks, &mut found)?;
    found.mail = crate::mailbox::check::check(&mut blocks)?;
    blocks.all_named()?;
    Ok(found)
}

fn check_log(space: Space<'_>) -> Result<(), StateError> {
    let at = space.layout.log;
    let open = [log::COUNT, log::COMMIT_AT, log::FOLLOW_UP].map(|word| space.words.load(at + word));
    if open == [0; 3] { Ok(()) } else { Err(StateError::corrupt("undo log between transactions", at)) }
}

impl<'a> Blocks<'a> {
    fn walk(space: Space<'a>) -> Result<Self, StateError> {
        let (words, layout) = (space.words, space.layout);
        let (mut met, mut used, mut before) = (Vec::<Met>::new(), 0, 0);
        let mut next = Some(Granule::first(layout));
        while let Some(place) = next {
            let kind = kind_of(words.load(place.at() + KIND_AND_LINK));
            let kind = kind.filter(|&kind| kind != Kind::End);
            let kind = kind.ok_or_else(|| StateError::corrupt("kind of a block", place.at()))?;
            let block = Block::at(space, place)?;
            let after_free = met.last().is_some_and(|last| last.kind == Kind::Free);
            if block.before != before || kind == Kind::Free && after_free {
                return Err(StateError::corrupt("block before a block", place.at()));
            }
            before = block.granules;
            used += if kind == Kind::Free { 0 } else { u64::from(block.granules) };
            met.push(Met { block, kind, named: false });
            next = block.next(layout)?;
        }
        #[allow(clippy::cast_possible_truncation, reason = "inside the segment, whose words an address counts")]
        let end = layout.heap_end as usize * WORDS_PER_GRANULE;
        let marked = kind_of(words.load(end + KIND_AND_LINK)) == Some(Kind::End);
        if !marked || Sizes::of_word(words.load(end + SIZES)) != (Sizes { granules: 0, before }) {
            return Err(StateError::corrupt("end of the heap", end));
        }
        if used != words.load(header::USED_GRANULES) {
            return Err(StateError::corrupt("count of used granules", header::USED_GRANULES));
        }
        Ok(Self { space, met })
    }

    pub(crate) fn space(&self) -> Space<'a> {
        self.space
    }

    /// Marks the block of this kind at `number` as named; it must not have been.
    pub(crate) fn name(&mut self, number: u64, kind: Kind, at: usize) -> Result<Block, StateError> {
        let index = self.met.binary_search_by_key(&number, |met| met.block.place.number());
        let met = index.ok().map(|index| &mut self.met[index]).filter(|met| met.kind == kind && !met.named);
        let met = met.ok_or_else(|| StateError::corrupt("name of a block", at))?;
        met.named = true;
        Ok(met.block)
    }

    fn all_named(&self) -> Result<(), StateError> {
        match self.met.iter().find(|met| !met.named) {
            None => Ok(()),
            Some(lost) => Err(StateError::corrupt("block that nothing names", lost.block.place.at())),
        }
    }
}

fn check_free_lists(blocks: &mut Blocks<'_>, found: &mut Checked) -> Result<(), StateError> {
    let (words, heads) = (blocks.space.words, blocks.space.layout.heads);
    let mut powers = 0;
    for power in 0..POWERS {
        let mut steps = 0;
        for step in 0..STEPS {
            let class = SizeClass { power, step };
            if words.load(heads + class.head()) != 0 {
                steps |= 1 << step;
                check_free_list(blocks, class, found)?;
            }
        }
        powers |= u64::from(steps != 0) << power;
        if words.load(heads + STEP_MAPS + power) != steps {
            return Err(StateError::corrupt("bitmap of the heap", heads + STEP_MAPS + power));
        }
    }
    if words.load(heads + POWER_MAP) == powers {
        Ok(())
    } else {
        Err(StateError::corrupt("bitmap of the heap", heads + POWER_MAP))
    }
}

fn check_free_list(blocks: &mut Blocks<'_>, class: SizeClass, found: &mut Checked) -> Result<(), StateError> {
    let (space, head) = (blocks.space, blocks.space.layout.heads + class.head());
    let (mut number, mut before) = (space.words.load(head), 0);
    while number != 0 {
        // Ends: no block is named twice.
        let block = blocks.name(number, Kind::Free, head)?;
        let at = block.place.at();
        if SizeClass::of(block.granules) != class || space.words.load(at + super::block::FREE_BEFORE) != before {
            return Err(StateError::corrupt("free block in its list", at));
        }
        found.free_blocks += 1;
        found.free_bytes += block.bytes();
        found.largest_free_bytes = found.largest_free_bytes.max(block.bytes());
        before = number;
        number = link_of(space.words.load(at + KIND_AND_LINK));
    }
    Ok(())
}

fn check_index(blocks: &mut Blocks<'_>, found: &mut Checked) -> Result<(), StateError> {
    let space = blocks.space;
    let buckets = Buckets::load(space)?;
    let seed = space.words.load(header::HASH_SEED);
    let (mut calls, mut call_granules) = (0, 0);
    for number in 0..buckets.count() {
        let mut seen: Vec<(u64, Placed)> = Vec::new();
        for bucket in chain(space, Bucket::new(space, number)) {
            let bucket = bucket?;
            let link = space.words.load(bucket.link_at());
            if link != 0 {
                blocks.name(link, Kind::Overflow, bucket.link_at())?;
                found.overflow_buckets += 1;
            }
            for at in bucket.entries() {
                let entry = space.words.load(at);
                if entry == 0 {
                    continue;
                }
                let block = blocks.name(block_of(entry), Kind::Object, at)?;
                let object = Placed::read_any(space, block.place)?;
                check_entry(space, buckets, number, entry, &object, seed)?;
                let same =
                    |(other, placed): &(u64, Placed)| *other == entry >> 40 && is_same_key(space, placed, &object);
                if seen.iter().any(same) {
                    return Err(StateError::corrupt("second entry of a key", at));
                }
                seen.push((entry >> 40, object));
                if object.namespace() == Namespace::CALLS {
                    calls += 1;
                    call_granules += u64::from(block.granules);
                }
                found.keys += 1;
                found.stubs += u64::from(object.is_stub());
                found.object_bytes += block.bytes();
            }
        }
    }
    keyed_calls::check(space, calls, call_granules)?;
    found.buckets = buckets.count() as u64;
    if buckets.count() < space.layout.bucket_count_max {
        let next = Bucket::new(space, buckets.count());
        if (next.at..=next.link_at()).any(|at| space.words.load(at) != 0) {
            return Err(StateError::corrupt("bucket that is not in use", next.at));
        }
    }
    if found.keys == space.words.load(header::KEYS) {
        Ok(())
    } else {
        Err(StateError::corrupt("count of keys", header::KEYS))
    }
}

fn check_entry(
    space: Space<'_>,
    buckets: Buckets,
    number: usize,
    entry: u64,
    object: &Placed,
    seed: u64,
) -> Result<(), StateError> {
    let hash = hash::of_words(seed, object.namespace().0, object.key_bytes(), object.key_words(space));
    let at = object.place.at();
    let right = object.hash(space) == hash
        && buckets.bucket_of(hash) == number
        && may_be(entry, fingerprint(hash, space.layout))
        && object.version <= space.words.load(header::POSITION)
        && object.version != 0
        && object.key_text(space).is_some();
    if right { Ok(()) } else { Err(StateError::corrupt("object of an entry", at)) }
}

fn is_same_key(space: Space<'_>, one: &Placed, other: &Placed) -> bool {
    one.namespace() == other.namespace()
        && one.key_bytes() == other.key_bytes()
        && one.key_words(space).eq(other.key_words(space))
}

/// How many blocks a list has.
fn check_retired(blocks: &mut Blocks<'_>, list: List) -> Result<u64, StateError> {
    let space = blocks.space;
    let (mut number, mut last) = (space.words.load(list.head), 0);
    let mut totals = Retired { blocks: 0, granules: 0 };
    while number != 0 {
        // Ends: no block is named twice.
        let block = blocks.name(number, Kind::Retired, list.head)?;
        totals = totals.and(Retired { blocks: 1, granules: u64::from(block.granules) });
        last = number;
        number = link_of(space.words.load(block.place.at() + KIND_AND_LINK));
    }
    if Retired::of_list(space, list) == totals && space.words.load(list.tail) == last {
        Ok(totals.blocks)
    } else {
        Err(StateError::corrupt("list of retired blocks", list.totals))
    }
}

fn check_loans(blocks: &mut Blocks<'_>, found: &mut Checked) -> Result<(), StateError> {
    let space = blocks.space;
    for row in (0..space.layout.row_count).map(|index| Row::new(space, index)) {
        for at in (0..LOANS_PER_WORKER).map(|slot| row.loan_at(slot)) {
            let number = space.words.load(at);
            if number != 0 {
                blocks.name(number, Kind::Loan, at)?;
                found.loans += 1;
            }
        }
    }
    Ok(())
}
