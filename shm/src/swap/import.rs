//! A process into a new segment, before anybody else has it: whole, or without its objects.
//!
//! Invariants:
//! 1. The import owns the segment: its descriptor is not to be had before [`Import::finish`]. So room for a value may be lent
//!    as plain memory, to as many threads as there are rooms.
//! 2. The writers' lock is held by a thread while it puts something, and by nobody when the import is finished.
//! 3. A segment whose import failed or was not finished is dropped: nobody sees it.

use std::io;
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use praas_protocol::Address;

use crate::log_ring::{Contents, KeptObject};
use crate::mailbox;
use crate::objects::call_record;
use crate::objects::layout::header::{HASH_SEED, POSITION, RESTORING};
use crate::objects::lock::{self, Locked};
use crate::objects::object::ObjectHeader;
use crate::objects::write::Hashed;
use crate::objects::{
    Key, LockOwner, Namespace, Objects, ObjectsLayout, StateError, hash, incoming, keyed_calls, restoring,
};

use super::Remainder;
use super::returning_lane::{ReturnedLane, ReturningLane};

/// What a segment is made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImportFacts {
    /// The seed of the hash of its keys, where it had one; a new one otherwise.
    pub hash_seed: Option<u64>,
    /// The position of its last mutation.
    pub position: u64,
}

/// An object that comes back.
#[derive(Debug, Clone, Copy)]
pub struct ImportedObject<'k> {
    /// Its key.
    pub key: Key<'k>,
    /// What is known of it without its value, as it was.
    pub header: ObjectHeader,
}

/// Why something does not go back into memory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// The segment cannot take it.
    #[error("object {key:?} cannot come back: {error}")]
    Object {
        /// Its key.
        key: String,
        /// Why.
        error: StateError,
    },
    /// What was kept contradicts itself.
    #[error("{what} of what was kept cannot be: {actual} with {limit} to go by")]
    Contradiction {
        /// What.
        what: &'static str,
        /// What it says.
        actual: u64,
        /// What it is measured by.
        limit: u64,
    },
    /// A page cannot be said to be in.
    #[error("page {page} cannot come back: {error}")]
    Page {
        /// Its number.
        page: u32,
        /// Why.
        error: StateError,
    },
    /// A message lane cannot be made anew with what lay in it.
    #[error("message lane {slot} of {sender} cannot come back: {reason}")]
    Lane {
        /// Its place.
        slot: u16,
        /// Who has sent.
        sender: Address,
        /// Why.
        reason: String,
    },
    /// The mailbox cannot take what was in it.
    #[error("a mailbox of {messages} messages cannot come back: {error}")]
    Mailbox {
        /// How many messages were kept.
        messages: usize,
        /// Why.
        error: StateError,
    },
}

/// A segment that is being filled; see the module's text.
#[derive(Debug)]
pub struct Import {
    objects: Objects,
    seed: u64,
    position: u64,
    /// Records of calls among its objects.
    records: AtomicU64,
}

/// Room for the value of an object that is in the segment already. It is to be filled before the import is finished.
#[derive(Debug)]
pub struct ValueRoom<'i> {
    place: NonNull<u8>,
    bytes: usize,
    /// Of the import, which owns the memory.
    import: PhantomData<&'i Import>,
}

// SAFETY: the room is plain memory that nobody else reads or writes while it lives: `ValueRoom` is made once for each block,
// and its import, which it borrows, has the segment for itself.
unsafe impl Send for ValueRoom<'_> {}
// SAFETY: as above; shared, it gives nothing but its length.
unsafe impl Sync for ValueRoom<'_> {}

impl Import {
    /// An empty segment with this seed and position.
    ///
    /// # Errors
    /// The system's, for want of descriptors or memory.
    pub fn create(layout: ObjectsLayout, facts: &ImportFacts) -> io::Result<Self> {
        let objects = Objects::create(layout)?;
        let words = objects.space().words;
        if let Some(seed) = facts.hash_seed {
            words.store(HASH_SEED, seed);
        }
        words.store(POSITION, facts.position);
        let seed = words.load(HASH_SEED);
        Ok(Self { objects, seed, position: facts.position, records: AtomicU64::new(0) })
    }

    /// The same, whose objects come back when it is in use, by a [`Restorer`](super::Restorer): by the highest `page_bits` bits of
    /// their hashes they are divided into pages, all of which are absent.
    ///
    /// # Errors
    /// As for [`Import::create`]; `InvalidInput` for more than [`ObjectsLayout::page_bits_max`].
    pub fn create_restoring(layout: ObjectsLayout, facts: &ImportFacts, page_bits: u32) -> io::Result<Self> {
        let limit = layout.page_bits_max();
        if page_bits > limit {
            let reason = format!("a segment of this size has at most 2^{limit} pages, 2^{page_bits} were asked for");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
        }
        let import = Self::create(layout, facts)?;
        restoring::begin(import.objects.space(), page_bits);
        Ok(import)
    }

    /// Nobody else has the segment, but a store of this very import may be on another thread.
    fn lock(&self) -> Result<Locked<'_>, StateError> {
        /// Others of this import hold it for microseconds.
        const PATIENCE: Duration = Duration::from_secs(5);
        lock::acquire(self.objects.space(), LockOwner::Server, PATIENCE)
    }

    /// An object with its value.
    ///
    /// # Errors
    /// [`ImportError`]: the import is of no use any more.
    pub fn put(&self, object: &ImportedObject<'_>, value: &[u8]) -> Result<(), ImportError> {
        if value.len() != object.header.value_bytes as usize {
            let (actual, limit) = (value.len() as u64, u64::from(object.header.value_bytes));
            return Err(ImportError::Contradiction { what: "length of a value", actual, limit });
        }
        self.room(object)?.bytes_mut().copy_from_slice(value);
        Ok(())
    }

    /// An object, and room for its value.
    ///
    /// # Errors
    /// [`ImportError`]: the import is of no use any more.
    pub fn room(&self, object: &ImportedObject<'_>) -> Result<ValueRoom<'_>, ImportError> {
        let ImportedObject { key, header } = object;
        if header.version == 0 || header.version > self.position {
            let (actual, limit) = (header.version, self.position);
            return Err(ImportError::Contradiction { what: "version of an object", actual, limit });
        }
        let hashed = Hashed { key: *key, hash: hash::of(self.seed, key) };
        let place = self.lock().and_then(|locked| incoming::insert(&locked, &hashed, header));
        let place = place.map_err(|error| ImportError::Object { key: key.text().to_owned(), error })?;
        if key.namespace() == Namespace::CALLS {
            self.records.fetch_add(1, Ordering::Relaxed);
        }
        let start = self.objects.bytes(place.offset, place.bytes);
        Ok(ValueRoom { place: start, bytes: place.bytes, import: PhantomData })
    }

    /// What the process had beside its objects. Those of calls that it names are in already, or come. The lanes that something lies
    /// in get numbers from `first_serial` on, which no lane of the process has had: the server hands them to whoever receives.
    ///
    /// # Errors
    /// [`ImportError`]: the import is of no use any more.
    pub fn remainder(&self, remainder: &Remainder, first_serial: u64) -> Result<Vec<ReturnedLane>, ImportError> {
        let Remainder { last_sequence, mail, sources, calls, lanes } = remainder;
        if let Some(last) = mail.last().filter(|last| last.arrival > self.position) {
            let (actual, limit) = (last.arrival, self.position);
            return Err(ImportError::Contradiction { what: "arrival of a message", actual, limit });
        }
        let returning = lanes.iter().zip(first_serial..).map(|(kept, serial)| ReturningLane::begin(kept, serial));
        let mut returning = returning.collect::<Result<Vec<_>, _>>()?;
        let mut places = Vec::with_capacity(mail.len());
        for kept in mail {
            let place = kept.lane.map(|slot| {
                let lane = returning.iter_mut().find(|lane| lane.slot() == slot);
                let (actual, limit) = (u64::from(slot), lanes.len() as u64);
                let missing = ImportError::Contradiction { what: "lane of a message", actual, limit };
                lane.ok_or(missing)?.taken(&kept.message)
            });
            places.push(place.transpose()?);
        }
        let come_back = || -> Result<Result<Vec<ReturnedLane>, ImportError>, StateError> {
            let locked = self.lock()?;
            mailbox::incoming::sequence(&locked, *last_sequence);
            for (kept, place) in mail.iter().zip(places) {
                mailbox::incoming::message(&locked, &kept.message, kept.arrival, kept.is_redelivered, place)?;
            }
            for (address, source) in sources {
                mailbox::incoming::source(&locked, address, source)?;
            }
            keyed_calls::restore_order(&locked, calls)?;
            returning.into_iter().map(|lane| lane.finish(&locked)).collect()
        };
        come_back().unwrap_or_else(|error| Err(ImportError::Mailbox { messages: mail.len(), error }))
    }

    /// All of what records of a log have made, at its position, which was given at the beginning.
    ///
    /// A log does not tell the numbers of messages that were sent, nor the order in which calls began: the former go on behind
    /// `last_sequence`; the latter are as old as their last change.
    ///
    /// # Errors
    /// [`ImportError`]: the import is of no use any more.
    pub fn contents(&self, contents: &Contents, last_sequence: u64) -> Result<(), ImportError> {
        if contents.position != self.position {
            let (actual, limit) = (contents.position, self.position);
            return Err(ImportError::Contradiction { what: "position", actual, limit });
        }
        let mut calls = Vec::new();
        for ((namespace, text), kept) in &contents.objects {
            let wrong = || ImportError::Contradiction { what: "key of an object", actual: kept.version, limit: 0 };
            let key = Key::new(Namespace(*namespace), text).map_err(|_| wrong())?;
            let KeptObject { version, meta, modified_unix_ms, value } = kept;
            let value_bytes = u32::try_from(value.len()).unwrap_or(u32::MAX);
            let (version, meta, modified_unix_ms) = (*version, *meta, *modified_unix_ms);
            let header = ObjectHeader { version, meta, value_bytes, modified_unix_ms };
            if key.namespace() == Namespace::CALLS {
                // Who ran it has died, and others may come by its tag.
                self.put(&ImportedObject { key, header }, &call_record::without_owner(value))?;
            } else {
                self.put(&ImportedObject { key, header }, value)?;
            }
            if key.namespace() == Namespace::CALLS {
                calls.push((version, hash::of(self.seed, &key)));
            }
        }
        calls.sort_unstable();
        let mut sources: Vec<_> = contents.sources.iter().map(|(name, kept)| (*name, kept.clone())).collect();
        sources.sort_by_key(|(_, kept)| kept.used_s);
        let mail = contents.messages.iter().map(|(&arrival, message)| super::KeptMail {
            arrival,
            is_redelivered: true,
            lane: None,
            message: message.clone(),
        });
        let remainder = Remainder {
            last_sequence,
            mail: mail.collect(),
            sources,
            calls: calls.into_iter().map(|(_, hash)| hash).collect(),
            lanes: Vec::new(),
        };
        self.remainder(&remainder, 0).map(drop)
    }

    /// The segment, for all to use. Everything is in it.
    ///
    /// # Errors
    /// [`ImportError::Contradiction`] when the records of calls are not those that the remainder names.
    pub fn finish(self) -> Result<Objects, ImportError> {
        if self.objects.space().words.load(RESTORING) != 0 {
            // Records come back later.
            return Ok(self.objects);
        }
        let known = self.lock().and_then(|locked| keyed_calls::known(locked.space()));
        let (known, named) = known.map_err(|error| ImportError::Mailbox { messages: 0, error })?;
        let records = self.records.into_inner();
        if known != records || named != records {
            return Err(ImportError::Contradiction {
                what: "number of remembered calls",
                actual: known,
                limit: records,
            });
        }
        Ok(self.objects)
    }
}

impl ValueRoom<'_> {
    /// Bytes of the value.
    #[must_use]
    pub fn value_bytes(&self) -> usize {
        self.bytes
    }

    /// The value's place, to be filled; zero or of unspecified content before.
    #[must_use]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the place lies inside the block that was made for it, in memory that the import has for itself (invariant 1),
        // and the room is borrowed exclusively. Any bytes are valid.
        unsafe { std::slice::from_raw_parts_mut(self.place.as_ptr(), self.bytes) }
    }
}
