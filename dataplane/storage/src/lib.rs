//! Where processes sleep: snapshots of what they know, and the backends that keep them.
//!
//! | room | what |
//! |---|---|
//! | [`backend`] | what every backend does: blobs, and one manifest a process that is replaced only by who knows it |
//! | [`disk`] | a backend in a directory of this host, safe from crashes and losses of power |
//! | [`buffer`] | memory that a disk fills and empties by itself |
//! | [`layer`] | a backend that stands before another one |
//! | [`log`] | the write-ahead log of a process, in a directory of this host |
//! | [`memory`] | a backend in this program's memory |
//! | `faulty` | a backend that fails, stalls, lies and forgets as planned, for tests (feature `faults`) |
//! | [`snapshot`] | what a process knows, as it is stored: written incrementally, read lazily |
//! | `s3` | a backend in a bucket of S3 (feature `s3`) |
//! | `redis` | a backend in a Redis server (feature `redis`) |
//! | [`name`] | names of blobs and of the folders of processes |
//! | [`error`] | what can go wrong, for all backends alike |
//!
//! Nothing of this crate knows shared memory or workers: it is given bytes and gives back the same bytes, or says that it
//! cannot.
#![forbid(unsafe_code)]

pub mod backend;
pub mod buffer;
pub mod disk;
pub mod error;
#[cfg(feature = "faults")]
pub mod faulty;
pub mod layer;
pub mod log;
pub mod memory;
pub mod name;
#[cfg(feature = "redis")]
pub mod redis;
#[cfg(feature = "s3")]
pub mod s3;
pub mod snapshot;

pub use backend::{Backend, BlobEntry, Published, Revision};
pub use disk::DiskBackend;
pub use error::StorageError;
pub use layer::Layer;
pub use memory::MemoryBackend;
pub use name::{BlobName, Folder, Owner};
