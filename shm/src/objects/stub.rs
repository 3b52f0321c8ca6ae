//! A stub: an object whose value is not in the segment, with the place where it is.
//!
//! It is an object like any other, found by its key, listed, replaced and deleted. Its header says what the object's says, but that
//! the length of its key bears a mark, and that what follows the key is the place of the value:
//!
//! ```text
//! word 7   key bytes (15) │ mark (1) │ offset of the place (16) │ namespace (8) │ encoding (8)
//! ```
//!
//! By the mark a stub fails the check that whoever reads an object makes of it anyway: so readers of objects pay nothing for
//! stubs, and those who know of them look again.
//!
//! Invariants:
//! 1. A stub is replaced by the object of the same version, and that is no mutation: no position is taken, nothing is logged.
//! 2. [`Placed::read_stub`] believes nothing that leads outside the block.

use super::block::{Block, Kind};
use super::entry;
use super::error::StateError;
use super::granule::{GRANULE_BYTES, Granule};
use super::heap;
use super::index::{self, Spot};
use super::key::{Key, Namespace};
use super::keyed_calls;
use super::layout::header::POSITION;
use super::lock::Locked;
use super::object::{self, ObjectHeader, Placed, ValuePlace};
use super::retire;
use super::transaction::Transaction;
use super::words::Space;
use super::write::{self, Hashed, PinnedScratch};
use crate::swap::{STORED_AT_BYTES, StoredAt};

const STORED_WORDS: usize = STORED_AT_BYTES / 8;

/// Granules of a stub's block.
#[allow(clippy::cast_possible_truncation, reason = "a few hundred bytes")]
fn granules_for(key: &Key<'_>) -> u32 {
    (object::place_offset(key) + STORED_AT_BYTES as u64).div_ceil(GRANULE_BYTES) as u32
}

/// The stub of a key that has no object, as one transaction. False if it has one of this version already.
pub(crate) fn insert(
    locked: &Locked<'_>,
    pinned: &mut PinnedScratch,
    key: &Hashed<'_>,
    header: &ObjectHeader,
    stored: &StoredAt,
) -> Result<bool, StateError> {
    let space = locked.space();
    if header.version == 0 || header.version > space.words.load(POSITION) {
        return Err(StateError::corrupt("version of an object that comes back", POSITION));
    }
    let inserted = write::with_room(locked, pinned, || {
        let mut transaction = Transaction::begin(locked)?;
        let spot = index::find(space, &key.key, key.hash)?;
        if let Spot::Held { object, .. } = spot {
            let is_same = object.version == header.version;
            return if is_same { Ok(false) } else { Err(StateError::Conflict { current: Some(object.version) }) };
        }
        let place = heap::allocate(&mut transaction, granules_for(&key.key), Kind::Object)?;
        let at = object::prepare_stub(space, place, &key.key, key.hash, header);
        for (index, word) in stored.0.as_chunks::<8>().0.iter().enumerate() {
            space.words.store_private(at + index, u64::from_le_bytes(*word));
        }
        object::stamp(space, place, header.version, header.modified_unix_ms);
        write::count_key(&mut transaction)?;
        if key.key.namespace() == Namespace::CALLS {
            keyed_calls::count_incoming(&mut transaction, place)?;
        }
        index::publish_at(transaction, spot, entry::entry(key.hash, place, space.layout))?;
        Ok(true)
    })?;
    write::tidy(locked, pinned, write::Change { is_new: inserted, retired_granules: 0 })?;
    Ok(inserted)
}

/// Where the value of a stub is.
pub(crate) fn stored_at(space: Space<'_>, stub: &Placed) -> StoredAt {
    let at = stub.value().offset / 8;
    let mut stored = [0; STORED_AT_BYTES];
    for (index, bytes) in stored.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        *bytes = space.words.load(at + index).to_le_bytes();
    }
    StoredAt(stored)
}

/// The stub of a key, if it is one of this version; under the lock.
pub(crate) fn find(space: Space<'_>, key: &Hashed<'_>, version: u64) -> Result<Option<(usize, Placed)>, StateError> {
    match index::find(space, &key.key, key.hash)? {
        Spot::Held { at, object } if object.version == version && object.is_stub() => Ok(Some((at, object))),
        _ => Ok(None),
    }
}

/// Puts the object of the same version in the place of a stub, as one transaction. `take_block` makes its
/// block, or takes one that has the value already; `fill` writes it into one that was made.
pub(crate) fn replace(
    locked: &Locked<'_>,
    key: &Hashed<'_>,
    (at, stub): (usize, Placed),
    take_block: impl FnOnce(&mut Transaction<'_>) -> Result<(Granule, Option<ValuePlace>), StateError>,
    fill: impl FnOnce(ValuePlace),
) -> Result<(), StateError> {
    let space = locked.space();
    let header = stub.header(space);
    let mut transaction = Transaction::begin(locked)?;
    let (place, filled) = take_block(&mut transaction)?;
    let value = object::prepare(space, place, &key.key, key.hash, header.meta, header.value_bytes);
    if filled.is_some_and(|filled| filled != value) {
        return Err(StateError::corrupt("place of a value that comes back", place.at()));
    }
    object::stamp(space, place, header.version, header.modified_unix_ms);
    if filled.is_none() {
        fill(value);
    }
    if key.key.namespace() == Namespace::CALLS {
        keyed_calls::count_replaced(&mut transaction, place, &stub)?;
    }
    let block = Block::of_kind(space, stub.place, Kind::Object)?;
    retire::retire(&mut transaction, block, stub.version)?;
    transaction.publish(at, entry::entry(key.hash, place, space.layout))
}

const _: () = assert!(STORED_AT_BYTES == STORED_WORDS * 8);
