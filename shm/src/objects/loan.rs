//! A loan: a block that a value is built in, in place, before it is published.
//!
//! Invariants:
//! 1. The block is named by a slot of the row from its allocation to its publication or release: a dead worker's loan is
//!    freed by the server.
//! 2. Nobody else uses the block until it is published, and a published loan can no longer be written: publishing takes it.

use praas_protocol::state::Condition;

use super::error::StateError;
use super::granule::Granule;
use super::index::Spot;
use super::object::Meta;
use super::store::Store;
use super::transaction::Transaction;
use super::write::{self, Hashed, Lent, Publication};
use crate::copy;

/// A block on loan; dropped, it is freed.
#[derive(Debug)]
pub struct Loan<'s, 'k> {
    store: &'s Store,
    key: Hashed<'k>,
    lent: Lent,
    slot: usize,
    value_bytes: u32,
}

/// A loan that was not published, and why.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct Unpublished<'s, 'k> {
    /// The loan as it was.
    pub loan: Loan<'s, 'k>,
    /// The reason.
    pub error: StateError,
}

impl<'s, 'k> Loan<'s, 'k> {
    pub(crate) fn new(store: &'s Store, key: Hashed<'k>, lent: Lent, slot: usize) -> Self {
        let value_bytes = u32::try_from(lent.value.bytes).expect("a value's length was checked");
        Self { store, key, lent, slot, value_bytes }
    }

    /// Bytes of the value.
    #[must_use]
    pub fn value_bytes(&self) -> usize {
        self.value_bytes as usize
    }

    /// The value's place, for workers; of unspecified content until it is written. `None` for the server, which writes by
    /// [`Loan::write`].
    #[must_use]
    pub fn in_place(&mut self) -> Option<&mut [u8]> {
        if !self.store.is_trusting() {
            return None;
        }
        let place = self.store.objects().bytes(self.lent.value.offset, self.value_bytes());
        // SAFETY: the place lies inside the block, which nobody else uses while the loan lasts (invariant 2), and the loan
        // is borrowed exclusively. Any bytes are valid.
        Some(unsafe { std::slice::from_raw_parts_mut(place.as_ptr(), self.value_bytes()) })
    }

    /// What was written so far, for workers; empty for the server.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        if !self.store.is_trusting() {
            return &[];
        }
        let place = self.store.objects().bytes(self.lent.value.offset, self.value_bytes());
        // SAFETY: as for `in_place`; the loan is borrowed, so nobody writes the block meanwhile.
        unsafe { std::slice::from_raw_parts(place.as_ptr(), self.value_bytes()) }
    }

    /// Writes bytes of the value, from `offset` on.
    ///
    /// # Panics
    /// If the value does not have so many.
    pub fn write(&mut self, offset: usize, bytes: &[u8]) {
        assert!(offset.checked_add(bytes.len()).is_some_and(|end| end <= self.value_bytes()), "outside the value");
        let place = self.store.objects().bytes(self.lent.value.offset + offset, bytes.len());
        // SAFETY: the range lies inside the value (checked above), which nobody else uses (invariant 2).
        unsafe { copy::to_shared(bytes, place) };
    }

    /// Makes the value shorter; what is left over is given back when it is published.
    ///
    /// # Panics
    /// If it is not that long.
    pub fn truncate(&mut self, value_bytes: usize) {
        let shorter = u32::try_from(value_bytes).ok().filter(|&bytes| bytes <= self.value_bytes);
        self.value_bytes = shorter.expect("a loan is only made shorter");
    }

    /// [`Store::publish`] of this loan.
    ///
    /// # Errors
    /// As there.
    pub fn publish(self, meta: Meta, condition: Condition) -> Result<u64, Unpublished<'s, 'k>> {
        self.store.publish(self, meta, condition)
    }

    pub(crate) fn publish_as(
        self,
        meta: Meta,
        condition: Condition,
        modified_unix_ms: u64,
    ) -> Result<u64, Unpublished<'s, 'k>> {
        self.publish_with(meta, condition, modified_unix_ms, |_, _, _| Ok(()))
    }

    /// The same, and `also` in the transaction that publishes it.
    pub(crate) fn publish_with(
        self,
        meta: Meta,
        condition: Condition,
        modified_unix_ms: u64,
        mut also: impl FnMut(&mut Transaction<'_>, &Spot, Granule) -> Result<(), StateError>,
    ) -> Result<u64, Unpublished<'s, 'k>> {
        let publication = Publication { meta, value_bytes: self.value_bytes, modified_unix_ms, condition };
        let (key, lent) = (self.key, self.lent);
        let place = self.store.objects().bytes(lent.value.offset, self.value_bytes());
        // SAFETY: the place lies inside the block, which nobody else uses while the loan lasts (invariant 2), in the
        // objects segment, which is no ring.
        let logged = unsafe { self.store.log_pieces(place, self.value_bytes()) };
        let published = logged.and_then(|()| {
            self.store.with_lock(|locked, pinned| write::publish(locked, pinned, &lent, &key, &publication, &mut also))
        });
        match published {
            Ok(version) => {
                self.store.loan_is_over(self.slot);
                std::mem::forget(self);
                Ok(version)
            }
            Err(error) => Err(Unpublished { loan: self, error }),
        }
    }
}

impl Drop for Loan<'_, '_> {
    fn drop(&mut self) {
        self.store.give_loan_back(self.slot);
    }
}
