//! Objects that come back from elsewhere, with the versions that they had.
//!
//! Nothing of it is a mutation: no position is taken and nothing is logged. Each object is one transaction.

use super::block::Kind;
use super::entry::{self, Buckets};
use super::error::StateError;
use super::heap;
use super::index::{self, Spot};
use super::key::Namespace;
use super::keyed_calls;
use super::layout::header::{KEYS, POSITION};
use super::limits::{KEYS_PER_BUCKET, VALUE_BYTES_MAX};
use super::lock::Locked;
use super::object::{self, ObjectHeader, ValuePlace};
use super::transaction::Transaction;
use super::write::{self, Hashed};

/// Puts the object of a key that has none, and says where its value goes: nobody may read it before that is filled.
pub(crate) fn insert(locked: &Locked<'_>, key: &Hashed<'_>, header: &ObjectHeader) -> Result<ValuePlace, StateError> {
    let (space, value_bytes) = (locked.space(), header.value_bytes);
    if value_bytes > VALUE_BYTES_MAX {
        let (value_bytes, limit_bytes) = (u64::from(value_bytes), u64::from(VALUE_BYTES_MAX));
        return Err(StateError::TooLarge { value_bytes, limit_bytes });
    }
    if header.version == 0 || header.version > space.words.load(POSITION) {
        return Err(StateError::corrupt("version of an object that comes back", POSITION));
    }
    let mut transaction = Transaction::begin(locked)?;
    let spot = index::find(space, &key.key, key.hash)?;
    if let Spot::Held { object, .. } = spot {
        return Err(StateError::Conflict { current: Some(object.version) });
    }
    let granules = object::granules_for(&key.key, value_bytes);
    let place = heap::allocate(&mut transaction, granules, Kind::Object)?;
    let value = object::prepare(space, place, &key.key, key.hash, header.meta, value_bytes);
    object::stamp(space, place, header.version, header.modified_unix_ms);
    write::count_key(&mut transaction)?;
    if key.key.namespace() == Namespace::CALLS {
        keyed_calls::count_incoming(&mut transaction, place)?;
    }
    index::publish_at(transaction, spot, entry::entry(key.hash, place, space.layout))?;
    if space.words.load(KEYS) > (Buckets::load(space)?.count() * KEYS_PER_BUCKET) as u64 {
        index::split(locked)?;
    }
    Ok(value)
}
