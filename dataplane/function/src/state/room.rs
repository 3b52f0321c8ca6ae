//! The state of a process as one of its workers holds it: the end of the store, the migrations, the memory for archives.
//!
//! Owned by the worker for its whole life; calls borrow it through their [`Context`](crate::Context). A worker has one thread,
//! so nothing here is locked.

use std::any::type_name;
use std::cell::RefCell;
use std::fmt;

use praas_protocol::state::{Attributes, Condition, ListPage, ListQuestion, ListedObject, Written};
use praas_protocol::{Key, StateType, limits};
use praas_shm::objects::{self, Encoding, Guard, Meta, Namespace, ObjectHeader, Page, Store};
use rkyv::Serialize;
use rkyv::api::serialize_using;
use rkyv::rancor::{Error, Strategy};
use rkyv::ser::Serializer;
use rkyv::ser::allocator::{Arena, ArenaHandle};
use rkyv::ser::sharing::Share;
use rkyv::util::AlignedVec;

use super::error::StateError;
use super::migration::Migration;
use super::view::{State, StateBytes, StateLoan};
use super::{StateObject, StateValue};
use crate::limits::{MIGRATIONS_IN_A_ROW_MAX, STATE_SCRATCH_BYTES, UPDATE_TRIES_MAX};
use crate::typed::OutputWriter;

/// What serialises objects.
pub type StateSerializer<'room> = Strategy<Serializer<OutputWriter<'room>, ArenaHandle<'room>, Share>, Error>;

/// One worker's end of the state.
pub(crate) struct StateRoom {
    store: Store,
    migrations: Vec<Migration>,
    archiving: RefCell<Archiving>,
}

/// What serialisation uses anew at every put.
struct Archiving {
    arena: Arena,
    scratch: AlignedVec,
}

impl fmt::Debug for StateRoom {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("StateRoom").field("store", &self.store).finish_non_exhaustive()
    }
}

impl StateRoom {
    pub(crate) fn new(store: Store, migrations: Vec<Migration>) -> Self {
        let mut scratch = AlignedVec::new();
        scratch.resize(STATE_SCRATCH_BYTES, 0);
        Self { store, migrations, archiving: RefCell::new(Archiving { arena: Arena::new(), scratch }) }
    }

    /// The end of the store itself, for what is no object of users.
    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// What this worker has found often before, with neither index nor errors; `None` says nothing.
    #[inline]
    pub(crate) fn recall(&self, key: &str) -> Option<Guard<'_>> {
        self.store.recall(Namespace::USER, key)
    }

    #[inline]
    pub(crate) fn get<T: StateObject>(&self, key: &str) -> Result<Option<State<'_, T>>, StateError> {
        match self.look(key)? {
            Some(guard) => self.as_object(key, guard),
            None => Ok(None),
        }
    }

    /// A guard as an object of this type.
    #[inline]
    pub(crate) fn as_object<'room, T: StateObject>(
        &'room self,
        key: &str,
        guard: Guard<'room>,
    ) -> Result<Option<State<'room, T>>, StateError> {
        if is_of::<T>(&guard.header()) {
            return opened(key, guard).map(Some);
        }
        self.get_migrated(Key::new(key)?, guard)
    }

    /// The object of a key in view. A text by which this worker has found objects before is a key.
    #[inline]
    fn look(&self, key: &str) -> Result<Option<Guard<'_>>, StateError> {
        match self.store.recall(Namespace::USER, key) {
            Some(guard) => Ok(Some(guard)),
            None => Ok(self.store.find(&memory_key(Key::new(key)?))?),
        }
    }

    #[cold]
    fn get_migrated<'room, T: StateObject>(
        &'room self,
        key: Key<'_>,
        guard: Guard<'room>,
    ) -> Result<Option<State<'room, T>>, StateError> {
        let mut found = guard;
        for _ in 0..MIGRATIONS_IN_A_ROW_MAX {
            if is_of::<T>(&found.header()) {
                return opened(key.as_str(), found).map(Some);
            }
            let migration = self.migrations.iter().find(|one| one.takes(&found.header()));
            let Some(migration) = migration else { return Err(mismatch::<T>(key, &found.header())) };
            match migration.run(self, key, found) {
                // Another worker was first, or changed it: what there is now decides.
                Err(error) if error.as_conflict().is_some() => {}
                Err(error) => return Err(error),
                Ok(_) => {}
            }
            match self.store.get(&memory_key(key))? {
                Some(guard) => found = guard,
                None => return Ok(None),
            }
        }
        Err(StateError::Contended { key: key.to_string() })
    }

    #[inline]
    pub(crate) fn get_bytes(&self, key: &str) -> Result<Option<StateBytes<'_>>, StateError> {
        Ok(self.look(key)?.map(StateBytes::new))
    }

    pub(crate) fn put<T: StateValue>(&self, key: Key<'_>, value: &T, condition: Condition) -> Result<u64, StateError> {
        let meta = Meta { type_id: T::TYPE_ID, schema_version: T::SCHEMA_VERSION, encoding: Encoding::Archived };
        let memory_key = memory_key(key);
        let Archiving { arena, scratch } = &mut *self.archiving.borrow_mut();
        let bytes = archive_into(key, value, arena, scratch)?;
        if let Some(archive) = scratch.get(..bytes) {
            return Ok(self.store.put(&memory_key, archive, meta, condition)?);
        }
        // Large ones are serialised where they will lie; the first pass said how much room they take.
        let value_bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let mut loan = self.store.loan(&memory_key, value_bytes)?;
        let again_bytes = archive_into(key, value, arena, loan.in_place().unwrap_or_default())?;
        if again_bytes != bytes {
            let reason = "it has another length when it is serialised again".to_owned();
            return Err(StateError::Unencodable { key: key.to_string(), reason });
        }
        self.store.publish(loan, meta, condition).map_err(|unpublished| unpublished.error.into())
    }

    pub(crate) fn put_bytes(&self, key: Key<'_>, bytes: &[u8], condition: Condition) -> Result<u64, StateError> {
        Ok(self.store.put(&memory_key(key), bytes, Meta::RAW, condition)?)
    }

    pub(crate) fn loan<'room, 'key>(
        &'room self,
        key: Key<'key>,
        bytes: usize,
    ) -> Result<StateLoan<'room, 'key>, StateError> {
        let value_bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        Ok(StateLoan::new(self.store.loan(&memory_key(key), value_bytes)?))
    }

    /// Reads, changes and puts until nobody came between.
    pub(crate) fn update<T: StateObject + StateValue>(
        &self,
        key: Key<'_>,
        mut change: impl FnMut(Option<T>) -> T,
    ) -> Result<u64, StateError> {
        for _ in 0..UPDATE_TRIES_MAX {
            let (now, condition) = match self.get::<T>(key.as_str())? {
                Some(state) => {
                    (Some(native::<T>(&state).map_err(undecodable(key.as_str()))?), Condition::Version(state.version()))
                }
                None => (None, Condition::Absent),
            };
            match self.put(key, &change(now), condition) {
                Err(error) if error.as_conflict().is_some() => {}
                ended => return ended,
            }
        }
        Err(StateError::Contended { key: key.to_string() })
    }

    pub(crate) fn delete(&self, key: Key<'_>, condition: Condition) -> Result<Option<u64>, StateError> {
        Ok(self.store.delete(&memory_key(key), condition)?)
    }

    pub(crate) fn list(&self, question: &ListQuestion<'_>) -> Result<ListPage, StateError> {
        let page = Page {
            namespace: Namespace::USER,
            prefix: question.prefix,
            after: question.after.map_or("", Key::as_str),
            limit: limits::STATE_LIST_PAGE_KEYS,
        };
        let listed = self.store.list(&page)?;
        let more = listed.len() == limits::STATE_LIST_PAGE_KEYS;
        let object = |one: objects::Listed| ListedObject { key: one.key, attributes: attributes(&one.header) };
        Ok(ListPage { objects: listed.into_iter().map(object).collect(), more })
    }

    /// A put from outside, of whatever type.
    pub(crate) fn put_as(
        &self,
        key: Key<'_>,
        value: &[u8],
        (type_id, schema_version): (u64, u32),
        condition: Condition,
    ) -> Result<Written, StateError> {
        let encoding = if type_id == 0 { Encoding::Raw } else { Encoding::Archived };
        let meta = Meta { type_id, schema_version, encoding };
        let written = self.store.put(&memory_key(key), value, meta, condition);
        settled(written.map_err(StateError::from).map(Some))
    }
}

/// A write that was refused by its condition is an answer, not an error.
pub(crate) fn settled(written: Result<Option<u64>, StateError>) -> Result<Written, StateError> {
    match written {
        Ok(version) => Ok(Written::Done { version: version.unwrap_or(0) }),
        Err(error) => match error.as_conflict() {
            Some(current) => Ok(Written::Refused { current: current.unwrap_or(0) }),
            None => Err(error),
        },
    }
}

/// What callers from outside are told of an object.
pub(crate) fn attributes(header: &ObjectHeader) -> Attributes {
    Attributes {
        version: header.version,
        modified_unix_ms: header.modified_unix_ms,
        type_id: header.meta.type_id,
        schema_version: header.meta.schema_version,
        value_bytes: header.value_bytes,
    }
}

#[inline]
pub(super) fn is_of<T: StateType>(header: &ObjectHeader) -> bool {
    let meta = &header.meta;
    meta.type_id == T::TYPE_ID && meta.schema_version == T::SCHEMA_VERSION && meta.encoding == Encoding::Archived
}

#[inline]
fn opened<'room, T: StateObject>(key: &str, guard: Guard<'room>) -> Result<State<'room, T>, StateError> {
    match guard.archived::<T::Archived>() {
        Ok(object) => Ok(State::new(object)),
        Err(error) => Err(undecodable(key)(error.to_string())),
    }
}

/// The value itself, made of its archive.
pub(super) fn native<T: StateObject>(archived: &T::Archived) -> Result<T, String> {
    rkyv::deserialize::<T, Error>(archived).map_err(|error| error.to_string())
}

pub(super) fn undecodable(key: &str) -> impl FnOnce(String) -> StateError {
    move |reason| StateError::Undecodable { object: key.to_owned(), reason }
}

/// Serialises into `room` as much as it holds; the bytes that the value has.
fn archive_into<T: for<'room> Serialize<StateSerializer<'room>>>(
    key: Key<'_>,
    value: &T,
    arena: &mut Arena,
    room: &mut [u8],
) -> Result<usize, StateError> {
    let mut serializer = Serializer::new(OutputWriter::new(room), arena.acquire(), Share::new());
    match serialize_using::<_, Error>(value, &mut serializer) {
        Ok(_) => Ok(serializer.into_writer().written_bytes()),
        Err(error) => {
            let reason = format!("a {} cannot be serialised: {error}", type_name::<T>());
            Err(StateError::Unencodable { key: key.to_string(), reason })
        }
    }
}

fn mismatch<T: StateType>(key: Key<'_>, header: &ObjectHeader) -> StateError {
    let (key, meta) = (key.to_string(), header.meta);
    if meta.type_id == T::TYPE_ID && meta.encoding == Encoding::Archived {
        let (expected, found) = (T::SCHEMA_VERSION, meta.schema_version);
        return StateError::WrongSchema { key, type_name: T::NAME, expected, found };
    }
    StateError::WrongType { key, expected: T::NAME, found_id: meta.type_id, found_version: meta.schema_version }
}

/// The same key among those of users.
#[inline]
fn memory_key(key: Key<'_>) -> objects::Key<'_> {
    objects::Key::of(Namespace::USER, key)
}
