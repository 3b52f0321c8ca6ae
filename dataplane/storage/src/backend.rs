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

use praas_protocol::ProcessId;

use crate::error::StorageError;
use crate::name::{BlobName, Folder};

/// Longest manifest, in bytes: it is kept and read whole.
pub const MANIFEST_BYTES_MAX: usize = 16 << 20;

/// Longest blob, in bytes: a few chunks of a snapshot.
pub const BLOB_BYTES_MAX: usize = 64 << 20;

/// Blobs or folders named by one answer.
pub const LISTED_MAX: usize = 1000;

/// Pages of blobs that a folder has at most. A manifest names half a million blobs; so many more are what thousands of
/// transfers left that were cut off, and a list that goes on behind them is none.
const FOLDER_PAGES_MAX: usize = 10_000;

/// Times that the blobs of a folder are removed: the second finds none, unless somebody was still writing.
const REMOVAL_PASSES_MAX: usize = 4;

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

/// Blobs on their way at once where nothing else is known: they keep a disk busy, some put while others read.
pub const TRANSFERS_AT_ONCE_DEFAULT: usize = 4;

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

/// So many random bytes, for what must never come again.
///
/// # Errors
/// [`StorageError::Unusable`] when the system has none.
#[cfg(any(feature = "redis", feature = "s3"))]
pub(crate) fn random_bytes<const COUNT: usize>(place: &str) -> Result<[u8; COUNT], StorageError> {
    let mut bytes = [0; COUNT];
    getrandom::fill(&mut bytes).map_err(|error| StorageError::Unusable {
        place: place.to_owned(),
        reason: format!("the system gives no random bytes: {error}"),
        advice: "see why getrandom fails on this host",
    })?;
    Ok(bytes)
}

/// Shows all blobs of a folder, page by page, in the order of their names. What is put or removed meanwhile is shown or not.
///
/// # Errors
/// What `each` or the backend says; [`StorageError::Failed`] when the backend's list goes back or never ends.
pub fn each_blob_page(
    backend: &dyn Backend,
    folder: &Folder,
    each: &mut dyn FnMut(&[BlobEntry]) -> Result<(), StorageError>,
) -> Result<(), StorageError> {
    let mut after: Option<BlobName> = None;
    for _ in 0..FOLDER_PAGES_MAX {
        let page = backend.blobs(folder, after.as_ref())?;
        let is_last = page.len() < LISTED_MAX;
        if page.first().is_some_and(|first| after.is_some_and(|after| first.blob <= after)) {
            break;
        }
        after = page.last().map(|last| last.blob);
        each(&page)?;
        if is_last {
            return Ok(());
        }
    }
    let reason = format!("the list of {folder} goes back, or has more than {FOLDER_PAGES_MAX} pages of {LISTED_MAX}");
    Err(StorageError::Failed { place: backend.place(), what: "listing blobs", reason })
}

/// Removes all blobs of a folder that nobody goes on writing to.
///
/// # Errors
/// What the backend says; [`StorageError::Failed`] when some are there again each time.
pub fn remove_all_blobs(backend: &dyn Backend, folder: &Folder) -> Result<(), StorageError> {
    for _ in 0..REMOVAL_PASSES_MAX {
        let mut left = 0;
        each_blob_page(backend, folder, &mut |page| {
            left += page.len();
            backend.remove(&page.iter().map(|entry| entry.blob).collect::<Vec<_>>())
        })?;
        if left == 0 {
            return Ok(());
        }
    }
    let reason = format!("{folder} has blobs again after each of {REMOVAL_PASSES_MAX} removals: somebody writes to it");
    Err(StorageError::Failed { place: backend.place(), what: "removing a folder", reason })
}

/// A place in which processes sleep.
pub trait Backend: fmt::Debug + Send + Sync {
    /// What to call it in errors and lists, without secrets: a path, a bucket's address.
    fn place(&self) -> String;

    /// How many blobs are best on their way at once when one process is moved: as many as keep the place busy.
    fn transfers_at_once(&self) -> usize {
        TRANSFERS_AT_ONCE_DEFAULT
    }

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

    /// Up to [`LISTED_MAX`] lives of one process with anything in them, in their order: as [`Backend::folders`] lists them.
    ///
    /// # Errors
    /// [`StorageError`].
    fn lives(&self, process: &ProcessId) -> Result<Vec<Folder>, StorageError> {
        // No life has the number 0: they begin with a time.
        let mut folders = self.folders(Some(&Folder { process: *process, incarnation: 0 }))?;
        folders.retain(|folder| folder.process == *process);
        Ok(folders)
    }

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
