//! Objects that come back while their process runs: pages as stubs, then values.
//!
//! The server has one for a process that woke, for as long as something of it is in storage. Its threads share it: they copy values
//! into blocks on loan to the server, outside of the lock, and publish them under it. Invariants:
//! 1. A page is in after all of its objects are; installing it again, or after a server has died half-way, changes nothing. As long
//!    as it is not in, nobody puts or deletes what belongs into it; once it is, nothing more of it is installed. Whether it is, is
//!    asked under the lock, as several threads may install the same page.
//! 2. A value is published only in the place of the stub of its version: what was put or deleted meanwhile stays as it is.
//! 3. None of it is a mutation: versions, position and log are as if the objects had been there all the time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::copy;
use crate::objects::block::{Block, KIND_AND_LINK, Kind, kind_and_link};
use crate::objects::granule::Granule;
use crate::objects::index::{self, Spot};
use crate::objects::layout::header::HASH_SEED;
use crate::objects::limits::{LOANS_PER_WORKER, PUT_WITHIN_LOCK_BYTES_MAX};
use crate::objects::lock::Locked;
use crate::objects::object::{self, ObjectHeader, ValuePlace};
use crate::objects::restoring::{self, Restoring};
use crate::objects::transaction::Transaction;
use crate::objects::write::{self, Hashed, Lent, PinnedScratch};
use crate::objects::{Key, Objects, RowTaken, StateError, Store, heap, stub};

use super::{ImportError, StoredAt};

/// How long a thread waits for the writers' lock: a dead owner is settled by the server's loop within milliseconds.
const PATIENCE: Duration = Duration::from_secs(5);
/// Stubs that are put in one turn under the lock: about ten microseconds.
const STUBS_PER_TURN: usize = 32;

/// An object of a page.
#[derive(Debug, Clone, Copy)]
pub struct StoredObject<'k> {
    /// Its key.
    pub key: Key<'k>,
    /// What is known of it without its value.
    pub header: ObjectHeader,
    /// Where its value is.
    pub stored: StoredAt,
}

/// What has to come back before an operation on a key can be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// Nothing: it is here, or there is no such object.
    Nothing,
    /// The page of this number.
    Page(u32),
    /// Its value.
    Value {
        /// What is known of it.
        header: ObjectHeader,
        /// Where it is.
        stored: StoredAt,
    },
}

/// What lets objects come back; see the module's text.
#[derive(Debug)]
pub struct Restorer {
    objects: Arc<Objects>,
    /// The server's own end.
    store: Mutex<Store>,
}

impl Restorer {
    /// Server: of a segment that was made by [`Import::create_restoring`](super::Import::create_restoring).
    ///
    /// # Errors
    /// [`RowTaken`] if this server has an end of the state already.
    pub fn new(objects: Arc<Objects>) -> Result<Self, RowTaken> {
        let store = objects.server_store()?;
        store.set_patience(PATIENCE);
        Ok(Self { objects, store: Mutex::new(store) })
    }

    /// Pages that did not come back yet.
    #[must_use]
    pub fn absent_pages(&self) -> u64 {
        self.restoring().map_or(0, |restoring| restoring.absent_pages)
    }

    /// Whether a page did not come back yet.
    #[must_use]
    pub fn is_absent(&self, page: u32) -> bool {
        self.restoring().is_some_and(|restoring| !restoring.is_in(self.objects.space(), page))
    }

    /// Bits of hashes that name a page, while some page is absent.
    #[must_use]
    pub fn page_bits(&self) -> Option<u32> {
        self.restoring().map(|restoring| restoring.page_bits)
    }

    /// The seed of the hash of its keys.
    #[must_use]
    pub fn hash_seed(&self) -> u64 {
        self.objects.space().words.load(HASH_SEED)
    }

    fn restoring(&self) -> Option<Restoring> {
        Restoring::load(self.objects.space()).ok().flatten()
    }

    /// What has to come back for an operation on this key.
    ///
    /// # Errors
    /// [`ImportError::Object`].
    pub fn missing(&self, key: &Key<'_>) -> Result<Missing, ImportError> {
        let store = self.store();
        let hashed = store.hashed(key);
        let looked = store.with_lock(|locked, _| {
            let space = locked.space();
            if let Err(StateError::Away { page, .. }) = restoring::ensure_in(space, hashed.hash) {
                return Ok(Missing::Page(page));
            }
            Ok(match index::find(space, key, hashed.hash)? {
                Spot::Held { object, .. } if object.is_stub() => {
                    Missing::Value { header: object.header(space), stored: stub::stored_at(space, &object) }
                }
                _ => Missing::Nothing,
            })
        });
        looked.map_err(|error| of_object(key, error))
    }

    /// All objects of a page come back, without their values. False if they had before.
    ///
    /// # Errors
    /// [`ImportError::Contradiction`] for an object of another page, [`ImportError::Object`]: the page stays absent, and may be
    /// installed again.
    pub fn page(&self, page: u32, objects: &[StoredObject<'_>]) -> Result<bool, ImportError> {
        let Some(restoring) = self.restoring().filter(|_| self.is_absent(page)) else { return Ok(false) };
        for batch in objects.chunks(STUBS_PER_TURN) {
            let store = self.store();
            for object in batch {
                let actual = restoring.page_of(store.hashed(&object.key).hash);
                if actual != page {
                    let (actual, limit) = (u64::from(actual), u64::from(page));
                    return Err(ImportError::Contradiction { what: "page of an object", actual, limit });
                }
            }
            let mut done = 0;
            let put = store.with_lock(|locked, pinned| {
                // Another thread may have installed all of it by now, and workers have put and deleted some since.
                if !is_page_absent(locked, page)? {
                    return Ok(false);
                }
                while let Some(StoredObject { key, header, stored }) = batch.get(done) {
                    stub::insert(locked, pinned, &store.hashed(key), header, stored)?;
                    done += 1;
                }
                Ok(true)
            });
            if !put.map_err(|error| of_object(&batch[done.min(batch.len() - 1)].key, error))? {
                return Ok(false);
            }
        }
        let store = self.store();
        let is_in = store.with_lock(|locked, _| restoring::page_is_in(locked, page));
        is_in.map_err(|error| ImportError::Page { page, error })
    }

    /// The value of an object comes back. False if it is not wanted any more: it had before, or the object was replaced or deleted.
    ///
    /// # Errors
    /// [`ImportError::Contradiction`] for a value of another length, [`ImportError::Object`]: the stub stays.
    pub fn value(&self, key: &Key<'_>, version: u64, value: &[u8]) -> Result<bool, ImportError> {
        self.install(key, version, value).map_err(|error| of_object(key, error))?.map_err(|value_bytes| {
            let (actual, limit) = (value.len() as u64, u64::from(value_bytes));
            ImportError::Contradiction { what: "length of a value", actual, limit }
        })
    }

    /// The inner error has the length that the value should have.
    fn install(&self, key: &Key<'_>, version: u64, value: &[u8]) -> Result<Result<bool, u32>, StateError> {
        let store = self.store();
        let hashed = store.hashed(key);
        let is_small = value.len() <= PUT_WITHIN_LOCK_BYTES_MAX;
        let mut wrong = None;
        let lent = store.with_lock(|locked, pinned| {
            let Some((_, found)) = stub::find(locked.space(), &hashed, version)? else { return Ok(None) };
            let value_bytes = found.header(locked.space()).value_bytes;
            if value.len() != value_bytes as usize {
                wrong = Some(value_bytes);
                return Ok(None);
            }
            let Some(slot) = store.free_loan().filter(|_| !is_small) else {
                return self.install_now(locked, pinned, &hashed, version, value).map(|_| Some(None));
            };
            let lent = write::lend(locked, pinned, store.row(), slot, &hashed, value_bytes)?;
            store.loan_begins(slot);
            Ok(Some(Some((slot, lent))))
        })?;
        drop(store);
        match lent {
            _ if wrong.is_some() => Ok(wrong.map_or(Ok(false), Err)),
            None => Ok(Ok(false)),
            Some(None) => Ok(Ok(true)),
            Some(Some((slot, lent))) => self.install_lent(&hashed, version, value, slot, &lent).map(Ok),
        }
    }

    /// Copies a short value under the lock.
    fn install_now(
        &self,
        locked: &Locked<'_>,
        pinned: &mut PinnedScratch,
        key: &Hashed<'_>,
        version: u64,
        value: &[u8],
    ) -> Result<bool, StateError> {
        let value_bytes = u32::try_from(value.len()).unwrap_or(u32::MAX);
        let granules = object::granules_for(&key.key, value_bytes);
        let fill = |place: ValuePlace| {
            // SAFETY: the place lies inside the block that was just allocated; nobody sees it yet.
            unsafe { copy::to_shared(value, self.objects.bytes(place.offset, place.bytes)) };
        };
        let is_in = write::with_room(locked, pinned, || {
            let Some(found) = stub::find(locked.space(), key, version)? else { return Ok(false) };
            let allocate = |transaction: &mut Transaction<'_>| {
                heap::allocate(transaction, granules, Kind::Object).map(|place| (place, None))
            };
            stub::replace(locked, key, found, allocate, fill).map(|()| true)
        })?;
        write::tidy(locked, pinned, write::Change { is_new: false, retired_granules: 0 })?;
        Ok(is_in)
    }

    /// Copies a long value into its block, and publishes that.
    fn install_lent(
        &self,
        key: &Hashed<'_>,
        version: u64,
        value: &[u8],
        slot: usize,
        lent: &Lent,
    ) -> Result<bool, StateError> {
        // Nobody else uses the block while it is on loan.
        self.objects.fill(lent.value, value);
        let store = self.store();
        let published = store.with_lock(|locked, pinned| {
            let Some(found) = stub::find(locked.space(), key, version)? else { return Ok(false) };
            let take = |transaction: &mut Transaction<'_>| take_lent(transaction, lent);
            stub::replace(locked, key, found, take, |_| ())?;
            write::tidy(locked, pinned, write::Change { is_new: false, retired_granules: 0 })?;
            Ok(true)
        });
        match published {
            Ok(true) => store.loan_is_over(slot),
            _ => store.give_loan_back(slot),
        }
        published
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        // Whoever panicked has given the lock back, and its transaction was rolled back.
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Under the lock, by which a page comes in.
fn is_page_absent(locked: &Locked<'_>, page: u32) -> Result<bool, StateError> {
    let restoring = Restoring::load(locked.space())?;
    Ok(restoring.is_some_and(|restoring| !restoring.is_in(locked.space(), page)))
}

/// The block on loan becomes an object's.
fn take_lent(transaction: &mut Transaction<'_>, lent: &Lent) -> Result<(Granule, Option<ValuePlace>), StateError> {
    let space = transaction.space();
    if space.words.load(lent.slot_at) != lent.place.number() {
        return Err(StateError::corrupt("loan", lent.slot_at));
    }
    Block::of_kind(space, lent.place, Kind::Loan)?;
    transaction.store(lent.slot_at, 0)?;
    transaction.store(lent.place.at() + KIND_AND_LINK, kind_and_link(Kind::Object, 0))?;
    Ok((lent.place, Some(lent.value)))
}

fn of_object(key: &Key<'_>, error: StateError) -> ImportError {
    ImportError::Object { key: key.text().to_owned(), error }
}

const _: () = assert!(LOANS_PER_WORKER >= 2, "one thread copies while another one does");
