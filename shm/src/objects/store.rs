//! A store: one worker's end of the state, or the server's.
//!
//! Ownership: a store has its row for itself, and keeps privately which of the row's pins and loans are in use. It is not
//! `Sync`, and its guards and loans borrow it, so they stay on its thread and end before it does.
//!
//! Invariants:
//! 1. A pin or loan slot whose private bit is clear is 0 in the segment, but for loans that could not be given back because
//!    the lock was busy: those keep their bit and are given back by the next operation that has the lock.
//! 2. Workers use values in place, being one trust domain; the server copies them.

use std::any::TypeId;
use std::cell::{Cell, RefCell};
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use praas_protocol::state::Condition;

use super::error::StateError;
use super::guard::Guard;
use super::hash;
use super::key::{Key, Namespace};
use super::layout::header::{HASH_SEED, RESTORING};
use super::limits::{LOANS_PER_WORKER, PINS_PER_WORKER, PUT_WITHIN_LOCK_BYTES_MAX, VALUE_BYTES_MAX};
use super::loan::{Loan, Unpublished};
use super::lock::{self, LockOwner, Locked};
use super::logging;
use super::memory::Objects;
use super::object::{Meta, ObjectHeader, Placed};
use super::pin::{PinSlot, Row};
use super::reader;
use super::recall::Recall;
use super::restoring::{self, Restoring};
use super::row_owner;
use super::usage::Usage;
use super::validated::Validated;
use super::words::Space;
use super::write::{self, Hashed, PinnedScratch, Publication};
use crate::copy;

/// How long a worker waits for the lock. Its owner works for microseconds; when it was killed, the server takes
/// milliseconds to notice and recover; past this something is wrong with the host.
const WORKER_PATIENCE: Duration = Duration::from_secs(5);
/// The server waits for nobody.
const SERVER_PATIENCE: Duration = Duration::ZERO;

/// One end of the state; see the module's text.
#[derive(Debug)]
pub struct Store {
    objects: Arc<Objects>,
    row: Row,
    row_index: usize,
    owner: LockOwner,
    seed: u64,
    patience: Cell<Duration>,
    pins_free: Cell<u64>,
    loans_free: Cell<u32>,
    /// Loans that could not be given back.
    loans_left: Cell<u32>,
    pinned: RefCell<PinnedScratch>,
    validated: Validated,
    recall: Recall,
    /// Whether objects were coming back when this end looked last. Never again once they were not.
    was_restoring: Cell<bool>,
}

impl Store {
    pub(crate) fn new(objects: Arc<Objects>, row_index: usize, owner: LockOwner) -> Self {
        let space = objects.space();
        let (row, seed) = (Row::new(space, row_index), space.words.load(HASH_SEED));
        // Loans that an earlier end of this row has left behind without its death.
        let is_left = |slot: &usize| space.words.load(row.loan_at(*slot)) != 0;
        let loans_left = (0..LOANS_PER_WORKER).filter(is_left).fold(0, |bits, slot| bits | 1 << slot);
        let was_restoring = space.words.load_acquire(RESTORING) != 0;
        let patience = if owner == LockOwner::Server { SERVER_PATIENCE } else { WORKER_PATIENCE };
        Self {
            objects,
            row,
            row_index,
            owner,
            seed,
            patience: Cell::new(patience),
            pins_free: Cell::new(u64::MAX >> (64 - PINS_PER_WORKER)),
            loans_free: Cell::new(u32::MAX >> (32 - LOANS_PER_WORKER) & !loans_left),
            loans_left: Cell::new(loans_left),
            pinned: RefCell::default(),
            validated: Validated::new(),
            recall: Recall::default(),
            was_restoring: Cell::new(was_restoring),
        }
    }

    /// The segment.
    #[must_use]
    pub fn objects(&self) -> &Arc<Objects> {
        &self.objects
    }

    /// How long operations wait for the lock before they are refused as busy.
    pub fn set_patience(&self, patience: Duration) {
        self.patience.set(patience);
    }

    /// The object of a key, kept as it is until the guard is dropped. Makes no system call, reads no clock, takes no lock
    /// and allocates nothing.
    ///
    /// # Errors
    /// [`StateError::TooManyGuards`], or [`StateError::Corrupt`].
    #[inline]
    pub fn get(&self, key: &Key<'_>) -> Result<Option<Guard<'_>>, StateError> {
        match self.recall(key.namespace(), key.text()) {
            Some(guard) => Ok(Some(guard)),
            None => self.find(key),
        }
    }

    /// What [`Store::get`] gives for a text that is a key which this worker has found often before; `None` says nothing.
    #[inline]
    #[must_use]
    pub fn recall(&self, namespace: Namespace, text: &str) -> Option<Guard<'_>> {
        let hint = self.recall.hint(namespace, text)?;
        let slot = self.free_pin().ok()?;
        let pin = self.row.pin_slot(self.space(), slot);
        let Some(object) = hint.find(self.space(), pin) else {
            pin.clear(self.space());
            return None;
        };
        Some(self.guard(slot, pin, object))
    }

    /// [`Store::get`] by the index alone, for what [`Store::recall`] did not give.
    ///
    /// # Errors
    /// As for [`Store::get`].
    #[inline]
    pub fn find(&self, key: &Key<'_>) -> Result<Option<Guard<'_>>, StateError> {
        let slot = self.free_pin()?;
        let pin = self.row.pin_slot(self.space(), slot);
        let hash = hash::of(self.seed, key);
        match reader::find::<false>(self.space(), pin, key, hash)? {
            Some(found) => {
                self.recall.see(key, hash, &found);
                Ok(Some(self.guard(slot, pin, found.object)))
            }
            None if self.was_restoring.get() => self.find_restoring(slot, pin, key, hash),
            None => Ok(None),
        }
    }

    /// The same after a miss, in a process whose objects were coming back when it was looked at last.
    #[cold]
    fn find_restoring(
        &self,
        slot: usize,
        pin: PinSlot,
        key: &Key<'_>,
        hash: u64,
    ) -> Result<Option<Guard<'_>>, StateError> {
        match Restoring::load(self.space())? {
            None => self.was_restoring.set(false),
            Some(restoring) => {
                let page = restoring.page_of(hash);
                if !restoring.is_in(self.space(), page) {
                    return Err(StateError::Away { page, version: None });
                }
            }
        }
        // It may have come in between the look and the question.
        let found = reader::find::<false>(self.space(), pin, key, hash)?;
        Ok(found.map(|found| self.guard(slot, pin, found.object)))
    }

    #[inline]
    fn guard(&self, slot: usize, pin: PinSlot, object: Placed) -> Guard<'_> {
        self.pins_free.set(self.pins_free.get() & !(1 << slot));
        Guard::new(self, slot, pin, object)
    }

    /// Publishes a value as a key's object. Returns its version.
    ///
    /// # Errors
    /// Any [`StateError`]; the object is then as it was.
    pub fn put(&self, key: &Key<'_>, value: &[u8], meta: Meta, condition: Condition) -> Result<u64, StateError> {
        let value_bytes = checked_value_bytes(value.len())?;
        if value.len() > PUT_WITHIN_LOCK_BYTES_MAX {
            let mut loan = self.loan(key, value_bytes)?;
            loan.write(0, value);
            return self.publish(loan, meta, condition).map_err(|unpublished| unpublished.error);
        }
        let publication = Publication { meta, value_bytes, modified_unix_ms: unix_ms(), condition };
        let hashed = self.hashed(key);
        let fill = |_, place: super::object::ValuePlace| {
            // SAFETY: the place lies inside the block that was just allocated; nobody sees it yet.
            unsafe { copy::to_shared(value, self.objects.bytes(place.offset, place.bytes)) };
        };
        self.with_lock(|locked, pinned| write::put(locked, pinned, &hashed, &publication, fill))
    }

    /// A block for a value of `value_bytes`, to be filled in place and published as the object of `key`.
    ///
    /// # Errors
    /// [`StateError::TooLarge`], [`StateError::TooManyLoans`], [`StateError::Full`], [`StateError::Busy`].
    pub fn loan<'s, 'k>(&'s self, key: &Key<'k>, value_bytes: u32) -> Result<Loan<'s, 'k>, StateError> {
        checked_value_bytes(value_bytes as usize)?;
        let hashed = self.hashed(key);
        self.with_lock(|locked, pinned| {
            let slot = self.free_loan().ok_or(StateError::TooManyLoans { limit: LOANS_PER_WORKER })?;
            let lent = write::lend(locked, pinned, self.row, slot, &hashed, value_bytes)?;
            self.loan_begins(slot);
            Ok(Loan::new(self, hashed, lent, slot))
        })
    }

    /// Publishes a loan as the object of its key. Returns its version.
    ///
    /// # Errors
    /// [`Unpublished`] has the reason and gives the loan back.
    pub fn publish<'s, 'k>(
        &'s self,
        loan: Loan<'s, 'k>,
        meta: Meta,
        condition: Condition,
    ) -> Result<u64, Unpublished<'s, 'k>> {
        loan.publish_as(meta, condition, unix_ms())
    }

    /// Ends a key's object. Returns the position of that, or `None` if there was no object.
    ///
    /// # Errors
    /// [`StateError::Conflict`], [`StateError::Busy`].
    pub fn delete(&self, key: &Key<'_>, condition: Condition) -> Result<Option<u64>, StateError> {
        let hashed = self.hashed(key);
        self.with_lock(|locked, pinned| write::delete(locked, pinned, &hashed, condition))
    }

    /// Whether it is known what the key has, so that its object can be put or deleted: it is, but in a process that has slept and
    /// part of whose objects did not come back yet. Costs a look at private memory otherwise.
    ///
    /// # Errors
    /// [`StateError::Away`] names the page that is to come back.
    #[inline]
    pub fn ensure_known(&self, key: &Key<'_>) -> Result<(), StateError> {
        if self.was_restoring.get() { self.ensure_page_in(key) } else { Ok(()) }
    }

    #[cold]
    fn ensure_page_in(&self, key: &Key<'_>) -> Result<(), StateError> {
        let restoring = Restoring::load(self.space())?;
        self.was_restoring.set(restoring.is_some());
        restoring::ensure_in(self.space(), hash::of(self.seed, key))
    }

    /// What is known of a key's object without its value.
    ///
    /// # Errors
    /// As for [`Store::get`].
    pub fn header(&self, key: &Key<'_>) -> Result<Option<ObjectHeader>, StateError> {
        match self.get(key) {
            Err(StateError::Away { version: Some(_), .. }) => {}
            found => return Ok(found?.map(|guard| guard.header())),
        }
        let pin = self.row.pin_slot(self.space(), self.free_pin()?);
        let found = reader::find::<true>(self.space(), pin, key, hash::of(self.seed, key))?;
        let header = found.map(|found| found.object.header(self.space()));
        pin.clear(self.space());
        Ok(header)
    }

    /// Figures of what is used and free.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.objects.usage()
    }

    /// Whether this worker has found this version valid as this type.
    #[inline]
    pub(crate) fn has_validated(&self, version: u64, type_id: TypeId) -> bool {
        self.validated.has(version, type_id)
    }

    /// Remembers that it has.
    #[inline]
    pub(crate) fn set_validated(&self, version: u64, type_id: TypeId) {
        self.validated.set(version, type_id);
    }

    /// A mark by which others know whether the worker whose end it is lives; see [`Store::lives`]. 0 for the server's.
    #[must_use]
    pub fn mark(&self) -> u32 {
        self.owner_word()
    }

    /// Whether the worker of a [mark](Store::mark) still has its end, or was not settled yet. No mark comes twice in the life of
    /// a process.
    #[must_use]
    pub fn lives(&self, mark: u32) -> bool {
        row_owner::lives(self.space(), mark)
    }

    /// The hash of a key in this segment, for tests that choose keys of one bucket.
    #[cfg(feature = "fault-points")]
    #[must_use]
    pub fn hash_of(&self, key: &Key<'_>) -> u64 {
        hash::of(self.seed, key)
    }

    /// The word of the worker whose end it is, as it stands in its row; 0 for the server's.
    pub(crate) fn owner_word(&self) -> u32 {
        match self.owner {
            LockOwner::Worker(tag) => tag.word(),
            _ => 0,
        }
    }

    /// Whether values may be used in place: by workers, which are one trust domain.
    #[inline]
    pub(crate) fn is_trusting(&self) -> bool {
        self.owner != LockOwner::Server
    }

    #[inline]
    pub(crate) fn space(&self) -> Space<'_> {
        self.objects.space()
    }

    pub(crate) fn row(&self) -> Row {
        self.row
    }

    /// A pin slot that is free, not yet marked as used.
    #[inline]
    pub(crate) fn free_pin(&self) -> Result<usize, StateError> {
        let slot = self.pins_free.get().trailing_zeros() as usize;
        if slot < PINS_PER_WORKER { Ok(slot) } else { Err(StateError::TooManyGuards { limit: PINS_PER_WORKER }) }
    }

    #[inline]
    pub(crate) fn give_pin_back(&self, slot: usize) {
        self.pins_free.set(self.pins_free.get() | 1 << slot);
    }

    /// A loan slot that is free, not yet marked as used.
    pub(crate) fn free_loan(&self) -> Option<usize> {
        let slot = self.loans_free.get().trailing_zeros() as usize;
        (slot < LOANS_PER_WORKER).then_some(slot)
    }

    /// The slot names a block.
    pub(crate) fn loan_begins(&self, slot: usize) {
        self.loans_free.set(self.loans_free.get() & !(1 << slot));
    }

    /// The loan's block was published.
    pub(crate) fn loan_is_over(&self, slot: usize) {
        self.loans_free.set(self.loans_free.get() | 1 << slot);
    }

    /// The loan's block is to be freed, now or with the next use of the lock.
    pub(crate) fn give_loan_back(&self, slot: usize) {
        self.loans_left.set(self.loans_left.get() | 1 << slot);
        // What cannot be done now is done by a later operation, or by the server after this worker's end.
        let _ = self.with_lock(|_, _| Ok(()));
    }

    /// Logs a long value ahead of its publication.
    ///
    /// # Safety
    /// As for [`logging::pieces`].
    pub(crate) unsafe fn log_pieces(&self, place: NonNull<u8>, bytes: usize) -> Result<(), StateError> {
        // SAFETY: the caller's promise.
        unsafe { logging::pieces(self.space(), self.owner, self.patience.get(), place, bytes) }
    }

    /// Does something under the lock, after giving back what is left over; again where the log ring had no room for it.
    #[inline]
    pub(crate) fn with_lock<T>(
        &self,
        mut work: impl FnMut(&Locked<'_>, &mut PinnedScratch) -> Result<T, StateError>,
    ) -> Result<T, StateError> {
        logging::with_room(self.space(), self.patience.get(), || self.with_lock_once(&mut work))
    }

    #[inline]
    fn with_lock_once<T>(
        &self,
        work: &mut impl FnMut(&Locked<'_>, &mut PinnedScratch) -> Result<T, StateError>,
    ) -> Result<T, StateError> {
        let locked = lock::acquire(self.space(), self.owner, self.patience.get())?;
        if self.loans_left.get() != 0 {
            self.give_back_what_is_left(&locked)?;
        }
        work(&locked, &mut self.pinned.borrow_mut())
    }

    #[cold]
    fn give_back_what_is_left(&self, locked: &Locked<'_>) -> Result<(), StateError> {
        for slot in (0..LOANS_PER_WORKER).filter(|slot| self.loans_left.get() >> slot & 1 == 1) {
            write::give_back(locked, self.row.loan_at(slot))?;
            self.loans_left.set(self.loans_left.get() & !(1 << slot));
            self.loan_is_over(slot);
        }
        Ok(())
    }

    #[inline]
    pub(crate) fn hashed<'k>(&self, key: &Key<'k>) -> Hashed<'k> {
        Hashed { key: *key, hash: hash::of(self.seed, key) }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if self.owner != LockOwner::Server {
            row_owner::clear(self.space(), self.row_index);
        }
        self.objects.give_row_back(self.row_index);
    }
}

pub(crate) fn checked_value_bytes(bytes: usize) -> Result<u32, StateError> {
    let checked = u32::try_from(bytes).ok().filter(|&bytes| bytes <= VALUE_BYTES_MAX);
    let limit_bytes = u64::from(VALUE_BYTES_MAX);
    checked.ok_or(StateError::TooLarge { value_bytes: bytes as u64, limit_bytes })
}

/// Milliseconds since 1970; 0 under a clock that is set before.
pub(crate) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
