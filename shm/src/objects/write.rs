//! The writers' operations, each under the lock: put, loan, publish, give back, delete.
//!
//! Invariants:
//! 1. Each is one transaction; what readers see of it is the entry word stored last. Reclaiming and splitting are
//!    transactions of their own before and after it.
//! 2. A block's content is written before the block is published and never after.
//! 3. A version is taken inside the transaction that publishes it: it is the mutation's position, and never repeats. The
//!    record of the mutation is written there too, if there is a log.
//! 4. Nothing is put or deleted under a hash whose page is absent (`restoring`). A stub is replaced and deleted as any object.

use praas_protocol::state::Condition;

use super::block::{Block, KIND_AND_LINK, Kind, kind_and_link};
use super::entry::{self, Buckets};
use super::error::StateError;
use super::granule::Granule;
use super::heap;
use super::index::{self, Spot};
use super::key::Key;
use super::layout::header::{KEYS, POSITION};
use super::limits::{
    KEYS_PER_BUCKET, RECLAIM_BATCH, RECLAIM_BATCH_WHEN_FULL, RECLAIM_BATCHES_MAX, RETIRED_LARGE_GRANULES,
};
use super::lock::Locked;
#[cfg(not(loom))]
use super::logging;
use super::object::{self, Meta, ValuePlace};
use super::pin::Row;
use super::restoring;
use super::retire::{self, Retired};
use super::transaction::Transaction;

/// Whether a key's object, of version `current` if there is one, is as a mutation wants it.
fn check(condition: Condition, current: Option<u64>) -> Result<(), StateError> {
    let holds = match condition {
        Condition::Any => true,
        Condition::Version(version) => current == Some(version),
        Condition::Absent => current.is_none(),
    };
    if holds { Ok(()) } else { Err(StateError::Conflict { current }) }
}

/// A key with its hash in this segment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hashed<'k> {
    pub(crate) key: Key<'k>,
    pub(crate) hash: u64,
}

/// A block on loan: prepared for its key, named by a slot of the writer's row.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lent {
    pub(crate) place: Granule,
    pub(crate) value: ValuePlace,
    pub(crate) slot_at: usize,
}

/// What is known of a publication beside its key.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Publication {
    pub(crate) meta: Meta,
    pub(crate) value_bytes: u32,
    pub(crate) modified_unix_ms: u64,
    pub(crate) condition: Condition,
}

/// The writer's private list of pins, kept so that reclaiming allocates nothing.
pub(crate) type PinnedScratch = Vec<u64>;

/// Publishes a new object whose value `fill` writes.
pub(crate) fn put(
    locked: &Locked<'_>,
    pinned: &mut PinnedScratch,
    key: &Hashed<'_>,
    publication: &Publication,
    fill: impl FnMut(Granule, ValuePlace),
) -> Result<u64, StateError> {
    put_with(locked, pinned, key, publication, fill, |_, _, _| Ok(()))
}

/// The same, and `also` in the same transaction, which is told what there was and where the new object lies.
#[inline]
pub(crate) fn put_with(
    locked: &Locked<'_>,
    pinned: &mut PinnedScratch,
    key: &Hashed<'_>,
    publication: &Publication,
    mut fill: impl FnMut(Granule, ValuePlace),
    mut also: impl FnMut(&mut Transaction<'_>, &Spot, Granule) -> Result<(), StateError>,
) -> Result<u64, StateError> {
    let granules = object::granules_for(&key.key, publication.value_bytes);
    restoring::ensure_in(locked.space(), key.hash)?;
    let (version, change) = with_room(locked, pinned, || {
        let mut transaction = Transaction::begin(locked)?;
        let spot = index::find(locked.space(), &key.key, key.hash)?;
        check(publication.condition, version_of(&spot))?;
        let place = heap::allocate(&mut transaction, granules, Kind::Object)?;
        let (space, meta) = (locked.space(), publication.meta);
        let value = object::prepare(space, place, &key.key, key.hash, meta, publication.value_bytes);
        fill(place, value);
        also(&mut transaction, &spot, place)?;
        replace(transaction, key, spot, place, publication.modified_unix_ms)
    })?;
    tidy(locked, pinned, change)?;
    Ok(version)
}

/// Reserves a block for an object, named by the row's `slot`.
pub(crate) fn lend(
    locked: &Locked<'_>,
    pinned: &mut PinnedScratch,
    row: Row,
    slot: usize,
    key: &Hashed<'_>,
    value_bytes: u32,
) -> Result<Lent, StateError> {
    let granules = object::granules_for(&key.key, value_bytes);
    with_room(locked, pinned, || {
        let place = lend_free(locked, row, slot, granules)?;
        let slot_at = row.loan_at(slot);
        let value = object::prepare(locked.space(), place, &key.key, key.hash, Meta::RAW, value_bytes);
        Ok(Lent { place, value, slot_at })
    })
}

/// Reserves a free block as it is, without reclaiming for it.
pub(crate) fn lend_free(locked: &Locked<'_>, row: Row, slot: usize, granules: u32) -> Result<Granule, StateError> {
    let mut transaction = Transaction::begin(locked)?;
    let place = heap::allocate(&mut transaction, granules, Kind::Loan)?;
    transaction.store(row.loan_at(slot), place.number())?;
    transaction.commit();
    Ok(place)
}

/// Publishes a block on loan as the object of its key, and does `also` as in [`put_with`].
pub(crate) fn publish(
    locked: &Locked<'_>,
    pinned: &mut PinnedScratch,
    lent: &Lent,
    key: &Hashed<'_>,
    publication: &Publication,
    mut also: impl FnMut(&mut Transaction<'_>, &Spot, Granule) -> Result<(), StateError>,
) -> Result<u64, StateError> {
    restoring::ensure_in(locked.space(), key.hash)?;
    let (version, change) = with_room(locked, pinned, || {
        let space = locked.space();
        let mut transaction = Transaction::begin(locked)?;
        let spot = index::find(space, &key.key, key.hash)?;
        check(publication.condition, version_of(&spot))?;
        if space.words.load(lent.slot_at) != lent.place.number() {
            return Err(StateError::corrupt("loan", lent.slot_at));
        }
        let block = Block::of_kind(space, lent.place, Kind::Loan)?;
        object::describe(space, lent.place, publication.meta, publication.value_bytes);
        let used = object::granules_used(lent.place, lent.value, publication.value_bytes);
        // What alignment did not need stays with the block, so that it can be reused for a value of the same length.
        let granules = used.max(object::granules_for(&key.key, publication.value_bytes));
        heap::shrink(&mut transaction, block, granules)?;
        transaction.store(lent.slot_at, 0)?;
        transaction.store(lent.place.at() + KIND_AND_LINK, kind_and_link(Kind::Object, 0))?;
        also(&mut transaction, &spot, lent.place)?;
        replace(transaction, key, spot, lent.place, publication.modified_unix_ms)
    })?;
    tidy(locked, pinned, change)?;
    Ok(version)
}

/// Frees the block that a loan slot names, if it names one.
pub(crate) fn give_back(locked: &Locked<'_>, slot_at: usize) -> Result<bool, StateError> {
    let space = locked.space();
    let number = space.words.load(slot_at);
    if number == 0 {
        return Ok(false);
    }
    let place = Granule::checked(number, space.layout, "loan", slot_at)?;
    let block = Block::of_kind(space, place, Kind::Loan)?;
    let mut transaction = Transaction::begin(locked)?;
    transaction.store(slot_at, 0)?;
    heap::release(&mut transaction, block)?;
    transaction.commit();
    Ok(true)
}

/// Takes a key's object out of the index. Returns the mutation's position, or `None` if there was no object.
pub(crate) fn delete(
    locked: &Locked<'_>,
    pinned: &mut PinnedScratch,
    key: &Hashed<'_>,
    condition: Condition,
) -> Result<Option<u64>, StateError> {
    let space = locked.space();
    restoring::ensure_in(space, key.hash)?;
    let spot = index::find(space, &key.key, key.hash)?;
    check(condition, version_of(&spot))?;
    let Spot::Held { at, object } = spot else { return Ok(None) };
    delete_with(locked, pinned, at, &object, |_| Ok(())).map(Some)
}

/// Takes the object that the entry at `at` names out of the index, and does `also` in the same transaction.
pub(crate) fn delete_with(
    locked: &Locked<'_>,
    pinned: &mut PinnedScratch,
    at: usize,
    object: &object::Placed,
    also: impl FnOnce(&mut Transaction<'_>) -> Result<(), StateError>,
) -> Result<u64, StateError> {
    let mut transaction = Transaction::begin(locked)?;
    let position = next_position(&mut transaction)?;
    logging::deleted(&mut transaction, object, position)?;
    let keys = transaction.load(KEYS).checked_sub(1).ok_or_else(|| StateError::corrupt("count of keys", KEYS))?;
    transaction.store(KEYS, keys)?;
    also(&mut transaction)?;
    let retired_granules = retire_object(&mut transaction, object)?;
    transaction.publish(at, 0)?;
    tidy(locked, pinned, Change { is_new: false, retired_granules })?;
    Ok(position)
}

fn version_of(spot: &Spot) -> Option<u64> {
    match spot {
        Spot::Held { object, .. } => Some(object.version),
        Spot::Vacant { .. } | Spot::Behind { .. } => None,
    }
}

/// What a mutation leaves to be tidied up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Change {
    /// Whether a key came.
    pub(crate) is_new: bool,
    /// Granules of the block that it retired; 0 for none.
    pub(crate) retired_granules: u32,
}

/// The last part of each publication: the version, the end of the old object, the entry.
fn replace(
    mut transaction: Transaction<'_>,
    key: &Hashed<'_>,
    spot: Spot,
    place: Granule,
    modified_unix_ms: u64,
) -> Result<(u64, Change), StateError> {
    let space = transaction.space();
    let version = next_position(&mut transaction)?;
    object::stamp(space, place, version, modified_unix_ms);
    logging::put(&mut transaction, place)?;
    let change = if let Spot::Held { object, .. } = &spot {
        Change { is_new: false, retired_granules: retire_object(&mut transaction, object)? }
    } else {
        count_key(&mut transaction)?;
        Change { is_new: true, retired_granules: 0 }
    };
    index::publish_at(transaction, spot, entry::entry(key.hash, place, space.layout))?;
    Ok((version, change))
}

/// One more key has an object.
pub(crate) fn count_key(transaction: &mut Transaction<'_>) -> Result<(), StateError> {
    let keys = transaction.load(KEYS).saturating_add(1);
    transaction.store(KEYS, keys)
}

/// Retires an object's block; how many granules it has.
fn retire_object(transaction: &mut Transaction<'_>, object: &object::Placed) -> Result<u32, StateError> {
    let block = Block::of_kind(transaction.space(), object.place, Kind::Object)?;
    retire::retire(transaction, block, object.version)?;
    Ok(block.granules)
}

fn next_position(transaction: &mut Transaction<'_>) -> Result<u64, StateError> {
    let next = transaction.load(POSITION).checked_add(1);
    let next = next.ok_or_else(|| StateError::corrupt("position", POSITION))?;
    transaction.store(POSITION, next)?;
    Ok(next)
}

/// Does `attempt`, again after each time that reclaiming made room.
pub(crate) fn with_room<T>(
    locked: &Locked<'_>,
    pinned: &mut PinnedScratch,
    mut attempt: impl FnMut() -> Result<T, StateError>,
) -> Result<T, StateError> {
    // Ends: each time round, blocks have left the list of the retired.
    loop {
        match attempt() {
            Err(StateError::Full { .. }) if has_reclaimed(locked, pinned)? => {}
            done => return done,
        }
    }
}

/// Reclaims batch after batch until one has freed something, or all that there may be pinned was looked at.
#[cold]
fn has_reclaimed(locked: &Locked<'_>, pinned: &mut PinnedScratch) -> Result<bool, StateError> {
    for _ in 0..RECLAIM_BATCHES_MAX {
        if retire::reclaim(locked, RECLAIM_BATCH_WHEN_FULL, pinned)? > 0 {
            return Ok(true);
        }
    }
    give_up_spare_room(locked)
}

/// The models have no log.
#[cfg(loom)]
mod logging {
    use super::{Granule, StateError, Transaction, object};

    pub(super) fn put(_: &mut Transaction<'_>, _: Granule) -> Result<(), StateError> {
        Ok(())
    }

    pub(super) fn deleted(_: &mut Transaction<'_>, _: &object::Placed, _: u64) -> Result<(), StateError> {
        Ok(())
    }
}

/// What the mailbox keeps without need.
#[cfg(not(loom))]
fn give_up_spare_room(locked: &Locked<'_>) -> Result<bool, StateError> {
    crate::mailbox::room::make(locked)
}

/// The models have no messages.
#[cfg(loom)]
fn give_up_spare_room(_locked: &Locked<'_>) -> Result<bool, StateError> {
    Ok(false)
}

/// After a mutation: a split if a key came, a batch of what is retired if that is much, or if what came to it is large.
pub(crate) fn tidy(locked: &Locked<'_>, pinned: &mut PinnedScratch, change: Change) -> Result<(), StateError> {
    let space = locked.space();
    if change.is_new && space.words.load(KEYS) > (Buckets::load(space)?.count() * KEYS_PER_BUCKET) as u64 {
        index::split(locked)?;
    }
    if change.retired_granules >= RETIRED_LARGE_GRANULES || Retired::load(space).is_much(space) {
        retire::reclaim(locked, RECLAIM_BATCH, pinned)?;
    }
    Ok(())
}
