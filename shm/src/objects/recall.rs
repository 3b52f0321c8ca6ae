//! Where a worker has found keys before: private memory, by which it finds them again without hash and index.
//!
//! A small direct-mapped table. A key is remembered when it was found twice with no other of its slot in between, so that
//! lookups spread over many keys leave the table alone. Only keys are remembered, so a text that is found here is one.
//!
//! Invariants:
//! 1. What is remembered is a hint: it counts only if the entry, whose word stays part of the index for good, names the block
//!    *after* the block was pinned (`pin`, invariant 2).
//! 2. Versions never repeat: a pinned block with the remembered version holds the remembered object, which was checked and
//!    whose key was compared. Any other object is read and compared as if it had been found in the index.

use std::cell::Cell;

use super::entry::block_of;
use super::granule::{GRANULE_BITS, Granule};
use super::key::{Key, Namespace};
use super::limits::{RECALLED_KEY_BYTES_MAX, RECALLED_SLOTS};
use super::object::{self, Placed};
use super::pin::PinSlot;
use super::reader::Found;
use super::words::Space;

/// Words of the longest key that is remembered.
const KEY_WORDS: usize = RECALLED_KEY_BYTES_MAX / 8;

/// The table.
#[derive(Debug, Default)]
pub(crate) struct Recall {
    slots: [Slot; RECALLED_SLOTS],
}

#[derive(Debug, Default)]
struct Slot {
    /// Hash of the key that was found last.
    hash: Cell<u64>,
    /// The key that is remembered: namespace and length, both 0 for none, and the text.
    namespace: Cell<u8>,
    key_bytes: Cell<usize>,
    key: [Cell<u64>; KEY_WORDS],
    found: Cell<Option<Found>>,
}

impl Recall {
    /// Numbered keys differ in their last byte.
    #[inline]
    fn slot(&self, text: &str) -> &Slot {
        let last = text.as_bytes().last().copied().unwrap_or(0);
        &self.slots[usize::from(last) % RECALLED_SLOTS]
    }

    /// What is remembered of a text, if it is a key that is remembered.
    #[inline]
    pub(crate) fn hint(&self, namespace: Namespace, text: &str) -> Option<Hint<'_>> {
        let slot = self.slot(text);
        let found = if slot.is_of(namespace, text) { slot.found.get() } else { None };
        found.map(|found| Hint { slot, found })
    }

    /// A key was found by the index.
    #[inline]
    pub(crate) fn see(&self, key: &Key<'_>, hash: u64, found: &Found) {
        let slot = self.slot(key.text());
        if slot.hash.replace(hash) == hash {
            slot.remember(key, found);
        }
    }
}

/// A key that was found before.
#[derive(Debug)]
pub(crate) struct Hint<'r> {
    slot: &'r Slot,
    found: Found,
}

impl Hint<'_> {
    /// The key's object, pinned, if there is one where it was. Otherwise the pin may be left behind.
    #[inline]
    pub(crate) fn find(&self, space: Space<'_>, pin: PinSlot) -> Option<Placed> {
        let Found { object, entry_at, entry } = self.found;
        let now = space.words.load_acquire(entry_at);
        if now != entry {
            return self.find_newer(space, pin, now);
        }
        let is_same = pin.pin(space, object.place, entry_at, entry) && object.is_there(space);
        is_same.then_some(object)
    }

    /// The object that came after the one that is remembered.
    #[inline]
    fn find_newer(&self, space: Space<'_>, pin: PinSlot, entry: u64) -> Option<Placed> {
        let Found { object: older, entry_at, entry: before } = self.found;
        if entry >> GRANULE_BITS != before >> GRANULE_BITS {
            return None;
        }
        // What is wrong with the segment is told by the way through the index.
        let place = Granule::checked(block_of(entry), space.layout, "entry of the index", entry_at).ok()?;
        object::prefetch(space, place);
        if !pin.pin(space, place, entry_at, entry) {
            return None;
        }
        let object = Placed::read(space, place).ok()?;
        let known = self.slot.key.iter().map(Cell::get);
        if !object.has_shape_of_key(&older) || !known.zip(object.key_words(space)).all(|(known, word)| known == word) {
            return None;
        }
        self.slot.found.set(Some(Found { object, entry_at, entry }));
        Some(object)
    }
}

impl Slot {
    #[inline]
    fn is_of(&self, namespace: Namespace, text: &str) -> bool {
        self.key_bytes.get() == text.len()
            && self.namespace.get() == namespace.0
            && Key::words_of(text).zip(&self.key).all(|(word, known)| word == known.get())
    }

    #[cold]
    fn remember(&self, key: &Key<'_>, found: &Found) {
        if key.bytes() > RECALLED_KEY_BYTES_MAX {
            return;
        }
        for (known, word) in self.key.iter().zip(key.words()) {
            known.set(word);
        }
        self.key_bytes.set(key.bytes());
        self.namespace.set(key.namespace().0);
        self.found.set(Some(*found));
    }
}
