//! A guard: an object in view, kept as it is while newer versions appear.
//!
//! Invariants:
//! 1. The guard's pin was seen to hold, so the block is not freed before the guard is dropped.
//! 2. The value's place was checked to lie inside the block, and nobody of the process writes a published object. A worker
//!    that does spoils the state of its own trust domain; the server never uses a value in place.

use super::object::{ObjectHeader, Placed};
use super::pin::PinSlot;
use super::store::Store;
use crate::copy;
use crate::scratch::Scratch;

/// An object in view. Not `Send`: it ends with the call on whose thread it was made.
///
/// ```compile_fail
/// fn sent<T: Send>() {}
/// sent::<praas_shm::objects::Guard<'static>>();
/// ```
#[derive(Debug)]
pub struct Guard<'s> {
    store: &'s Store,
    slot: usize,
    pin: PinSlot,
    object: Placed,
}

impl<'s> Guard<'s> {
    #[inline]
    pub(crate) fn new(store: &'s Store, slot: usize, pin: PinSlot, object: Placed) -> Self {
        Self { store, slot, pin, object }
    }

    #[inline]
    pub(crate) fn store(&self) -> &'s Store {
        self.store
    }

    /// What is known of the object without its value.
    #[inline]
    #[must_use]
    pub fn header(&self) -> ObjectHeader {
        self.object.header(self.store.space())
    }

    /// Its version.
    #[inline]
    #[must_use]
    pub fn version(&self) -> u64 {
        self.object.version
    }

    /// Bytes of its value.
    #[inline]
    #[must_use]
    pub fn value_bytes(&self) -> usize {
        self.object.value().bytes
    }

    /// Where the value lies: aligned to 16, from 1 KiB on to 64.
    #[inline]
    #[must_use]
    pub fn value_ptr(&self) -> *const u8 {
        let value = self.object.value();
        self.store.objects().bytes(value.offset, value.bytes).as_ptr()
    }

    /// The value where it lies, for workers; `None` for the server, which must copy it.
    #[inline]
    #[must_use]
    pub fn in_place(&self) -> Option<&[u8]> {
        if !self.store.is_trusting() {
            return None;
        }
        // SAFETY: the place lies inside the block (invariant 2), which stays while this guard does (invariant 1); published
        // objects are not written in this trust domain (invariant 2).
        Some(unsafe { std::slice::from_raw_parts(self.value_ptr(), self.object.value().bytes) })
    }

    /// The value: where it lies for workers, a copy in `scratch` for the server.
    pub fn value<'v>(&'v self, scratch: &'v mut Scratch) -> &'v [u8] {
        if let Some(value) = self.in_place() {
            return value;
        }
        let buffer = scratch.prepare(self.object.value().bytes);
        self.copy_from(0, buffer);
        buffer
    }

    /// Copies bytes of the value, from `offset` on.
    ///
    /// # Panics
    /// If the value does not have so many.
    pub fn copy_from(&self, offset: usize, destination: &mut [u8]) {
        let end = offset.checked_add(destination.len());
        assert!(end.is_some_and(|end| end <= self.object.value().bytes), "outside the value");
        let source = self.store.objects().bytes(self.object.value().offset + offset, destination.len());
        // SAFETY: the range lies inside the value (checked above), the value inside the segment (invariant 2).
        unsafe { copy::from_shared(source, destination) };
    }
}

impl Drop for Guard<'_> {
    #[inline]
    fn drop(&mut self) {
        self.pin.clear(self.store.space());
        self.store.give_pin_back(self.slot);
    }
}
