//! What every backend does.
//!
//! A folder holds blobs and one manifest. Blobs are written once under names that never come again. The manifest is a
//! register: it is replaced as a whole, and only by who names the revision that it replaces. That is what fences: of two
//! servers that believe to own a process one publishes, the other is told so ([`StorageError::Conflict`]).
//!
//! Operations block, have a deadline of the backend's, and may be called from many threads at once.
//!
//! Invariants, which the conformance suite checks of each backend:
//! 1. A blob is there whole or not at all, whatever dies meanwhile; a put that failed or was late may have left the blob, never
//!    a part of it that [`Backend::read`] takes for the whole.
//! 2. What [`Backend::flush`] returned for survives a loss of power, and so does a manifest whose [`Backend::publish`] returned.
//! 3. Of publishes that name the same revision at most one succeeds.
//! 4. Bytes come back as they were written or not at all.

use std::fmt;

use crate::error::StorageError;
use crate::name::{BlobName, Folder};

/// Longest manifest, in bytes: it is kept and read whole.
pub const MANIFEST_BYTES_MAX: usize = 16 << 20;

/// Longest blob, in bytes: a few chunks of a snapshot.
pub const BLOB_BYTES_MAX: usize = 64 << 20;

/// Blobs or folders named by one answer.
pub const LISTED_MAX: usize = 1000;

/// Which manifest of a folder it is; only compared.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Revision(pub String);

/// A manifest as it was published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// What a successor names.
    pub revision: Revision,
    /// What it says.
    pub bytes: Vec<u8>,
}

/// One blob of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlobEntry {
    /// Its name.
    pub blob: BlobName,
    /// How long it is.
    pub bytes: u64,
}

/// Refuses what is longer than `limit_bytes`, before anything of it is written.
///
/// # Errors
/// [`StorageError::TooLarge`].
pub fn check_bytes(place: &str, what: &'static str, bytes: &[u8], limit_bytes: usize) -> Result<(), StorageError> {
    if bytes.len() <= limit_bytes {
        return Ok(());
    }
    Err(StorageError::TooLarge { place: place.to_owned(), what, bytes: bytes.len() as u64, limit: limit_bytes as u64 })
}

/// A place in which processes sleep.
pub trait Backend: fmt::Debug + Send + Sync {
    /// What to call it in errors and lists, without secrets: a path, a bucket's address.
    fn place(&self) -> String;

    /// Writes a blob of up to [`BLOB_BYTES_MAX`]. It may be lost with the host's power until [`Backend::flush`].
    ///
    /// # Errors
    /// [`StorageError`]; then the blob's name is not to be used again.
    fn put(&self, blob: &BlobName, bytes: &[u8]) -> Result<(), StorageError>;

    /// Fills `into` with the blob's bytes from `offset` on.
    ///
    /// # Errors
    /// [`StorageError::Missing`], [`StorageError::Truncated`] when it has fewer, or any other.
    fn read(&self, blob: &BlobName, offset: u64, into: &mut [u8]) -> Result<(), StorageError>;

    /// Makes every blob of the folder that was put before lasting.
    ///
    /// # Errors
    /// [`StorageError`]: then any of them may be lost.
    fn flush(&self, folder: &Folder) -> Result<(), StorageError>;

    /// The newest manifest, if there is one.
    ///
    /// # Errors
    /// [`StorageError`].
    fn manifest(&self, folder: &Folder) -> Result<Option<Published>, StorageError>;

    /// Replaces the manifest of that revision, or publishes the first one; it lasts once this returns.
    ///
    /// # Errors
    /// [`StorageError::Conflict`] when it is no longer the newest; after [`StorageError::Late`] it may have happened.
    fn publish(&self, folder: &Folder, replaces: Option<&Revision>, bytes: &[u8]) -> Result<Revision, StorageError>;

    /// Up to [`LISTED_MAX`] blobs of a folder in the order of their names, those after one if that is given.
    ///
    /// # Errors
    /// [`StorageError`].
    fn blobs(&self, folder: &Folder, after: Option<&BlobName>) -> Result<Vec<BlobEntry>, StorageError>;

    /// Up to [`LISTED_MAX`] folders with anything in them in the order of their names, those after one if that is given. One
    /// whose blobs were removed one by one may be among them until [`Backend::remove_folder`].
    ///
    /// # Errors
    /// [`StorageError`].
    fn folders(&self, after: Option<&Folder>) -> Result<Vec<Folder>, StorageError>;

    /// Removes blobs; those that are not there are no error.
    ///
    /// # Errors
    /// [`StorageError`]: any of them may be left.
    fn remove(&self, blobs: &[BlobName]) -> Result<(), StorageError>;

    /// Removes the manifest, then all blobs, then whatever made the folder.
    ///
    /// # Errors
    /// [`StorageError`]: any of it may be left, but no manifest whose blobs are gone.
    fn remove_folder(&self, folder: &Folder) -> Result<(), StorageError>;
}
