//! State objects: the named, immutable, versioned values of one process, in one segment of shared memory.
//!
//! ```text
//! header │ rows: pins and loans │ undo log │ heads of free lists │ index buckets │ heap
//! ```
//!
//! Server and workers map the segment; workers of a process are one trust domain, the server trusts none of it. Writers
//! exclude each other by one lock and change everything through transactions that a death at any instruction leaves either
//! undone or done. Readers take no lock: they pin an object, see that the index still names it, and use it in place.
//!
//! | room | what |
//! |---|---|
//! | `layout`, `words`, `granule` | where everything lies, and the only access to it |
//! | `lock`, `transaction`, `recovery` | who writes; undo and commit; what the server does for the dead |
//! | `block`, `size_class`, `heap` | the heap |
//! | `entry`, `bucket`, `index`, `hash`, `key` | the index: linear hashing, a cache line a bucket |
//! | `object`, `write`, `retire` | objects; the writers' operations; what waits for readers |
//! | `pin`, `reader`, `recall` | lookup without the lock |
//! | `memory`, `store`, `guard`, `loan`, `list`, `usage`, `validated`, `trim` | what server and workers use |
//! | `archived` | objects read as archives, in place |
//! | `hold` | objects as they were at one position, kept while writers go on |
//! | `restoring`, `stub` | a segment whose objects come back while it is used; objects without their values |
//! | `incoming` | objects that come back from elsewhere; see `crate::swap` |
//! | `keyed_calls`, `call_record`, `row_owner` | which of several equal calls runs, and what the others are told |
//! | `logging` | what the log ring is told |
//! | `check`, `everything` | whether everything adds up; a walk over all objects |
//! | `steps` | the instants at which tests let a worker die |
//!
//! What every file relies on: a word read from the segment is a claim. It is range-checked and becomes a new type before it
//! leads anywhere, every walk has an end, and what cannot be is [`StateError::Corrupt`], never a panic.
//!
//! ```
//! use std::sync::Arc;
//! use praas_shm::WorkerTag;
//! use praas_shm::objects::{Condition, Key, Meta, Namespace, Objects, ObjectsLayout};
//!
//! let objects = Arc::new(Objects::create(ObjectsLayout::for_limit(1 << 20)?)?);
//! let store = objects.worker_store(WorkerTag::new(0, 1))?;
//! let key = Key::new(Namespace::USER, "greeting")?;
//! let version = store.put(&key, b"hello", Meta::RAW, Condition::Absent)?;
//! let guard = store.get(&key)?.expect("it was just put");
//! assert_eq!((guard.version(), guard.in_place()), (version, Some(&b"hello"[..])));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#[cfg(not(loom))]
mod archived;
pub(crate) mod block;
pub(crate) mod bucket;
#[cfg(not(loom))]
pub(crate) mod call_record;
#[cfg(not(loom))]
pub(crate) mod check;
pub(crate) mod entry;
pub(crate) mod error;
#[cfg(not(loom))]
pub(crate) mod everything;
pub(crate) mod granule;
#[cfg(not(loom))]
mod guard;
pub(crate) mod hash;
pub(crate) mod heap;
pub(crate) mod hold;
#[cfg(not(loom))]
pub(crate) mod incoming;
pub(crate) mod index;
pub(crate) mod key;
#[cfg(not(loom))]
pub(crate) mod keyed_calls;
pub(crate) mod layout;
pub(crate) mod limits;
#[cfg(not(loom))]
mod list;
#[cfg(not(loom))]
mod loan;
pub(crate) mod lock;
#[cfg(not(loom))]
pub(crate) mod logging;
#[cfg(not(loom))]
pub(crate) mod memory;
pub(crate) mod object;
pub(crate) mod pin;
mod reader;
#[cfg(not(loom))]
mod recall;
mod recovery;
pub(crate) mod restoring;
pub(crate) mod retire;
#[cfg(not(loom))]
pub(crate) mod row_owner;
mod size_class;
#[cfg(feature = "fault-points")]
pub mod steps;
#[cfg(not(feature = "fault-points"))]
pub(crate) mod steps;
#[cfg(not(loom))]
mod store;
#[cfg(not(loom))]
pub(crate) mod stub;
pub(crate) mod transaction;
#[cfg(not(loom))]
mod trim;
#[cfg(not(loom))]
mod usage;
#[cfg(not(loom))]
mod validated;
pub(crate) mod words;
pub(crate) mod write;

pub use error::{LimitError, RecoverError, StateError};
pub use key::{Key, Namespace};
pub use layout::ObjectsLayout;
pub use limits::{
    LIST_ENTRIES_MAX, LOANS_PER_WORKER, PINS_PER_WORKER, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, VALUE_BYTES_MAX,
};
pub use lock::LockOwner;
pub use object::{Encoding, Meta, ObjectHeader};
pub use praas_protocol::KeyError;
pub use praas_protocol::state::Condition;
pub use recovery::Recovered;
pub use transaction::Settled;

#[cfg(not(loom))]
pub use {
    archived::{ArchivedGuard, ArchivedObject, NotAnArchive, StateValidator},
    call_record::{CallClock, CallName},
    check::Checked,
    error::RowTaken,
    guard::Guard,
    keyed_calls::{Begun, CallClaim, CallEnd, CallUsage, FinishedCall},
    list::{Listed, Page},
    loan::{Loan, Unpublished},
    memory::Objects,
    store::Store,
    usage::Usage,
};

/// What the models use.
#[cfg(all(test, loom))]
pub(crate) mod model {
    pub(crate) use super::granule::Granule;
    pub(crate) use super::hash::of as hash_of;
    pub(crate) use super::heap::format;
    pub(crate) use super::index::split;
    pub(crate) use super::layout::header;
    pub(crate) use super::lock::{Locked, acquire};
    pub(crate) use super::pin::Row;
    pub(crate) use super::reader::find;
    pub(crate) use super::recovery::recover_row as recover;
    pub(crate) use super::retire::reclaim;
    pub(crate) use super::words::{Space, Words};
    pub(crate) use super::write::{Hashed, Publication};
    pub(crate) use super::write::{delete, put};
    pub(crate) use super::{Condition, Key, LockOwner, Meta, Namespace, ObjectsLayout, Settled};
}
