//! Lists of keys: a walk over all buckets, in pages.
//!
//! A walk costs time in proportion to all keys of the state, whatever the prefix, and once more for each page. Keys that
//! exist throughout the walk are never missed: splits move entries only to buckets that come later. A key that is put or
//! deleted meanwhile may be in it or not.
//!
//! Invariants:
//! 1. An entry is reported from the bucket that it belongs to under the count of that moment; while a split is finished an
//!    entry stands in two buckets, and sorting by key leaves one of them.
//! 2. What a page allocates is bounded by its limit.

use std::collections::BTreeMap;

use super::bucket::{Bucket, chain};
use super::entry::Buckets;
use super::error::StateError;
use super::key::Namespace;
use super::limits::LIST_ENTRIES_MAX;
use super::object::{ObjectHeader, Placed};
use super::reader;
use super::restoring::Restoring;
use super::store::Store;
use super::words::Space;

/// One object of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its key.
    pub key: String,
    /// What is known of it without its value.
    pub header: ObjectHeader,
}

/// Which objects a page has.
#[derive(Debug, Clone, Copy)]
pub struct Page<'q> {
    /// Of which namespace.
    pub namespace: Namespace,
    /// Keys that start so; all keys if empty.
    pub prefix: &'q str,
    /// Keys behind this one, in the order of their bytes; from the first on if empty.
    pub after: &'q str,
    /// The first so many of them, at most [`LIST_ENTRIES_MAX`].
    pub limit: usize,
}

impl Store {
    /// One page of the objects, sorted by key. A page that is shorter than its limit is the last.
    ///
    /// # Errors
    /// As for [`Store::get`]; [`StateError::Away`] while any page is absent.
    pub fn list(&self, page: &Page<'_>) -> Result<Vec<Listed>, StateError> {
        let mut found = Smallest { limit: page.limit.min(LIST_ENTRIES_MAX), keys: BTreeMap::new() };
        let space = self.space();
        if let Some(restoring) = Restoring::load(space)? {
            return Err(StateError::Away { page: restoring.first_absent(space), version: None });
        }
        let mut number = 0;
        while number < Buckets::load(space)?.count() {
            for bucket in chain(space, Bucket::new(space, number)) {
                for at in bucket?.entries() {
                    self.look_at_entry(at, number, page, &mut found)?;
                }
            }
            number += 1;
        }
        Ok(found.keys.into_iter().map(|(key, header)| Listed { key, header }).collect())
    }

    fn look_at_entry(&self, at: usize, number: usize, page: &Page<'_>, found: &mut Smallest) -> Result<(), StateError> {
        let space = self.space();
        if space.words.load_acquire(at) == 0 {
            return Ok(());
        }
        let pin = self.row().pin_slot(space, self.free_pin()?);
        let looked = reader::pin_entry(space, pin, at);
        let kept = match &looked {
            Ok(Some((entry, object))) if Buckets::load(space)?.belongs(*entry, number, space.layout) => {
                found.offer(space, object, page)
            }
            _ => Ok(()),
        };
        pin.clear(space);
        looked.and(kept)
    }
}

/// The smallest keys of all that were offered.
struct Smallest {
    limit: usize,
    keys: BTreeMap<String, ObjectHeader>,
}

impl Smallest {
    fn offer(&mut self, space: Space<'_>, object: &Placed, page: &Page<'_>) -> Result<(), StateError> {
        if object.namespace() != page.namespace || self.limit == 0 {
            return Ok(());
        }
        let key = object.key_text(space).ok_or_else(|| StateError::corrupt("key of an object", object.place.at()))?;
        if !key.starts_with(page.prefix) || key.as_str() <= page.after {
            return Ok(());
        }
        let is_full = self.keys.len() == self.limit;
        if is_full && self.keys.last_key_value().is_some_and(|(last, _)| *last < key) {
            return Ok(());
        }
        self.keys.insert(key, object.header(space));
        if self.keys.len() > self.limit {
            self.keys.pop_last();
        }
        Ok(())
    }
}
