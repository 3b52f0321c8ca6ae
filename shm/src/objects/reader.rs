//! Lookup without the lock: find the entry, pin its block, see that the entry still names it, compare the key.
//!
//! Invariants:
//! 1. Nothing of an object is read before its pin has been seen to hold (`pin`, invariant 2).
//! 2. A miss counts only if the key's bucket is the same after the look as before it (`index`, invariant 3).
//! 3. No store but to the own pin; no lock, no clock, no system call, no allocation; a bounded number of looks.

use std::time::Duration;

use super::bucket::Bucket;
use super::entry::{Buckets, block_of, fingerprint, may_be};
use super::error::StateError;
use super::granule::Granule;
use super::key::Key;
use super::limits::READ_TRIES_MAX;
use super::lock;
use super::object::{self, Placed};
use super::pin::PinSlot;
use super::restoring::Restoring;
use super::words::Space;

/// An object that was found, pinned, and the entry that names it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found {
    pub(crate) object: Placed,
    pub(crate) entry_at: usize,
    pub(crate) entry: u64,
}

/// What one look at a chain found.
enum Look {
    /// The object, pinned.
    Found(Found),
    /// The object without its value, pinned.
    Stub(Found),
    /// No entry of the key.
    Missed,
    /// An entry changed in the look.
    Changed,
}

/// The object of a key, pinned by `slot`; without one the slot is clear. A stub is one only where `STUBS` are looked for.
#[inline]
pub(crate) fn find<const STUBS: bool>(
    space: Space<'_>,
    slot: PinSlot,
    key: &Key<'_>,
    hash: u64,
) -> Result<Option<Found>, StateError> {
    let found = find_pinned::<STUBS>(space, slot, key, hash);
    if !matches!(found, Ok(Some(_))) {
        slot.clear(space);
    }
    found
}

#[inline]
fn find_pinned<const STUBS: bool>(
    space: Space<'_>,
    slot: PinSlot,
    key: &Key<'_>,
    hash: u64,
) -> Result<Option<Found>, StateError> {
    for _ in 0..READ_TRIES_MAX {
        let number = Buckets::load(space)?.bucket_of(hash);
        match look(space, slot, key, hash, Bucket::new(space, number))? {
            Look::Found(found) => return Ok(Some(found)),
            Look::Stub(found) => return away(space, &found, hash, STUBS),
            Look::Missed if Buckets::load(space)?.bucket_of(hash) == number => return Ok(None),
            Look::Missed | Look::Changed => {}
        }
    }
    Err(StateError::Busy { owner: lock::owner(space), waited: Duration::ZERO })
}

/// What is pinned is no object: the stub of this key, `None` for that of another, or what is wrong with it.
#[cold]
fn stub_of(space: Space<'_>, place: Granule, key: &Key<'_>, error: StateError) -> Result<Option<Placed>, StateError> {
    let stub = Placed::read_stub(space, place).ok_or(error)?;
    Ok(stub.has_key(space, key).then_some(stub))
}

/// The stub itself, if it is looked for.
#[cold]
fn away(space: Space<'_>, found: &Found, hash: u64, is_wanted: bool) -> Result<Option<Found>, StateError> {
    if is_wanted {
        return Ok(Some(*found));
    }
    let page = Restoring::load(space)?.map_or(0, |restoring| restoring.page_of(hash));
    Err(StateError::Away { page, version: Some(found.object.version) })
}

#[inline]
fn look(space: Space<'_>, slot: PinSlot, key: &Key<'_>, hash: u64, first: Bucket) -> Result<Look, StateError> {
    let print = fingerprint(hash, space.layout);
    let mut bucket = first;
    loop {
        for at in bucket.entries() {
            let entry = space.words.load_acquire(at);
            if !may_be(entry, print) {
                continue;
            }
            let place = Granule::checked(block_of(entry), space.layout, "entry of the index", at)?;
            // Nothing behind the pin's fence is loaded before it is over; asked for here, header and key come meanwhile.
            object::prefetch(space, place);
            if !slot.pin(space, place, at, entry) {
                return Ok(Look::Changed);
            }
            let object = match Placed::read(space, place) {
                Ok(object) => object,
                Err(error) => match stub_of(space, place, key, error)? {
                    Some(object) => return Ok(Look::Stub(Found { object, entry_at: at, entry })),
                    None => continue,
                },
            };
            if object.has_key(space, key) {
                return Ok(Look::Found(Found { object, entry_at: at, entry }));
            }
        }
        match bucket.next(space)? {
            Some(next) => bucket = next,
            None => return Ok(Look::Missed),
        }
    }
}

/// The object or stub that the entry at `at` names now, pinned; `None` for an empty entry.
pub(crate) fn pin_entry(space: Space<'_>, slot: PinSlot, at: usize) -> Result<Option<(u64, Placed)>, StateError> {
    for _ in 0..READ_TRIES_MAX {
        let entry = space.words.load_acquire(at);
        if entry == 0 {
            return Ok(None);
        }
        let place = Granule::checked(block_of(entry), space.layout, "entry of the index", at)?;
        if slot.pin(space, place, at, entry) {
            return Placed::read_any(space, place).map(|object| Some((entry, object)));
        }
    }
    Err(StateError::Busy { owner: lock::owner(space), waited: Duration::ZERO })
}
