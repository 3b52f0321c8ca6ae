//! The index from a writer's side: where a key is or goes, and the split of a bucket.
//!
//! Invariants:
//! 1. Each key has at most one entry, in the chain of its bucket. While a split is being finished the entries that move
//!    stand in both chains, with the same object.
//! 2. Buckets from the count on are zero.
//! 3. Entries move only to the new bucket of a split, whose number is higher than that of any other. Readers see the new
//!    count before any entry leaves the old bucket, so a miss under an unchanged count is a miss.

use super::block::Kind;
use super::bucket::{Bucket, OVERFLOW_GRANULES, chain};
use super::entry::{Buckets, block_of, fingerprint, may_be};
use super::error::StateError;
use super::granule::Granule;
use super::heap;
use super::key::Key;
#[cfg(not(loom))]
use super::key::Namespace;
use super::layout::{BUCKET_WORDS, header};
use super::limits::{CHAIN_ENTRIES_MAX, CHAIN_MAX, ENTRIES_PER_BUCKET};
use super::lock::Locked;
use super::object::Placed;
use super::transaction::Transaction;
use super::words::Space;

/// Where a key is, or where a new one goes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Spot {
    /// Its entry stands here and names this object.
    Held { at: usize, object: Placed },
    /// It has none; this word is empty.
    Vacant { at: usize },
    /// It has none, and its chain is full; another bucket may be linked here.
    Behind { bucket: Bucket },
}

/// Looks for a key under the lock.
pub(crate) fn find(space: Space<'_>, key: &Key<'_>, hash: u64) -> Result<Spot, StateError> {
    let buckets = Buckets::load(space)?;
    let print = fingerprint(hash, space.layout);
    let mut vacant = None;
    let mut last = Bucket::new(space, buckets.bucket_of(hash));
    for bucket in chain(space, last) {
        last = bucket?;
        for at in last.entries() {
            let entry = space.words.load(at);
            if entry == 0 {
                vacant = vacant.or(Some(at));
            } else if may_be(entry, print) {
                let place = Granule::checked(block_of(entry), space.layout, "entry of the index", at)?;
                let object = Placed::read_any(space, place)?;
                if object.has_key(space, key) {
                    return Ok(Spot::Held { at, object });
                }
            }
        }
    }
    Ok(vacant.map_or(Spot::Behind { bucket: last }, |at| Spot::Vacant { at }))
}

/// Looks for an object of this namespace by its hash alone, under the lock. Of several with one hash it is any.
#[cfg(not(loom))]
pub(crate) fn find_hashed(
    space: Space<'_>,
    hash: u64,
    namespace: Namespace,
) -> Result<Option<(usize, Placed)>, StateError> {
    let print = fingerprint(hash, space.layout);
    for bucket in chain(space, Bucket::new(space, Buckets::load(space)?.bucket_of(hash))) {
        for at in bucket?.entries() {
            let entry = space.words.load(at);
            if may_be(entry, print) {
                let place = Granule::checked(block_of(entry), space.layout, "entry of the index", at)?;
                let object = Placed::read_any(space, place)?;
                if object.namespace() == namespace && object.hash(space) == hash {
                    return Ok(Some((at, object)));
                }
            }
        }
    }
    Ok(None)
}

/// Makes `entry` the commit word of the transaction, at a new key's spot.
pub(crate) fn publish_at(mut transaction: Transaction<'_>, spot: Spot, entry: u64) -> Result<(), StateError> {
    match spot {
        Spot::Held { at, .. } | Spot::Vacant { at } => transaction.publish(at, entry),
        Spot::Behind { bucket } => {
            let added = add_overflow(&mut transaction, bucket, &[entry])?;
            transaction.publish(bucket.link_at(), added.number())
        }
    }
}

/// A block with an overflow bucket of these entries, to be linked behind `bucket`.
fn add_overflow(transaction: &mut Transaction<'_>, bucket: Bucket, entries: &[u64]) -> Result<Granule, StateError> {
    let space = transaction.space();
    if bucket.depth == CHAIN_MAX {
        return Err(StateError::IndexFull { keys: space.words.load(header::KEYS) });
    }
    let place = heap::allocate(transaction, OVERFLOW_GRANULES, Kind::Overflow)?;
    let added = Bucket::in_block(place, bucket.depth + 1);
    for (index, at) in (added.at..added.at + BUCKET_WORDS).enumerate() {
        space.words.store_private(at, entries.get(index).copied().unwrap_or(0));
    }
    Ok(place)
}

/// Splits the next bucket; false if all buckets of the segment are in use, or the heap has no room for one that overflows.
pub(crate) fn split(locked: &Locked<'_>) -> Result<bool, StateError> {
    let space = locked.space();
    let buckets = Buckets::load(space)?;
    let new = buckets.count();
    if new == space.layout.bucket_count_max {
        return Ok(false);
    }
    let mut moved = [0; CHAIN_ENTRIES_MAX];
    let mut count = 0;
    for bucket in chain(space, Bucket::new(space, buckets.next_to_split())) {
        for entry in bucket?.entries().map(|at| space.words.load(at)) {
            if entry != 0 && buckets.moves(entry, space.layout) {
                moved[count] = entry;
                count += 1;
            }
        }
    }
    let mut transaction = Transaction::begin(locked)?;
    match fill_new_bucket(&mut transaction, new, &moved[..count]) {
        Ok(()) => {}
        Err(StateError::Full { .. } | StateError::IndexFull { .. }) => return Ok(false),
        Err(error) => return Err(error),
    }
    transaction.publish_split(header::BUCKETS, new as u64 + 1, new)?;
    Ok(true)
}

/// Stores the entries of a bucket that no reader sees yet.
fn fill_new_bucket(transaction: &mut Transaction<'_>, new: usize, entries: &[u64]) -> Result<(), StateError> {
    let mut bucket = Bucket::new(transaction.space(), new);
    let (first, rest) = entries.split_at(entries.len().min(ENTRIES_PER_BUCKET));
    for (at, &entry) in bucket.entries().zip(first) {
        transaction.store(at, entry)?;
    }
    for entries in rest.chunks(ENTRIES_PER_BUCKET) {
        let place = add_overflow(transaction, bucket, entries)?;
        transaction.store(bucket.link_at(), place.number())?;
        bucket = Bucket::in_block(place, bucket.depth + 1);
    }
    Ok(())
}

/// Clears the moved entries from the old bucket of the split that made bucket `new`. Idempotent.
pub(crate) fn finish_split(space: Space<'_>, new: usize) -> Result<(), StateError> {
    let before = Buckets::checked(new as u64, space.layout)?;
    for bucket in chain(space, Bucket::new(space, before.next_to_split())) {
        for at in bucket?.entries() {
            let entry = space.words.load(at);
            if entry != 0 && before.moves(entry, space.layout) {
                space.words.store(at, 0);
            }
        }
    }
    Ok(())
}
