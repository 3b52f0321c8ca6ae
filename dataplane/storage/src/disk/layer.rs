//! What is asked of a file system, and nothing else is: so that a layer that loses power or fails can take its place.
//!
//! What may be relied upon, and what may not:
//! 1. Bytes of a file last once [`StoredFile::sync`] has returned after they were written, or the [`StoredFile::write_through`] that
//!    wrote them; before, any part of them may.
//! 2. Entries of a directory last once [`FileLayer::sync_directory`] has returned; before, any of them may, in any order.
//! 3. A rename happens or does not; it is not seen half done by who lists.
//! 4. After a failure of a sync nothing is known of what it was for.

use std::fmt;
use std::path::Path;

use praas_sys::Errno;

/// What a file is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reading alone.
    Read,
    /// Reading and writing.
    Write,
}

/// A directory that nobody else can lock until this is dropped, or its holder has died.
pub type FolderLock = Box<dyn Send>;

/// A file system, as far as it is used.
pub trait FileLayer: fmt::Debug + Send + Sync {
    /// Makes a directory that only this user can enter.
    ///
    /// # Errors
    /// What the system says; `EXIST` when there is something of that name.
    fn make_directory(&self, path: &Path) -> Result<(), Errno>;

    /// Removes an empty directory.
    ///
    /// # Errors
    /// What the system says.
    fn remove_directory(&self, path: &Path) -> Result<(), Errno>;

    /// Makes the entries of a directory lasting.
    ///
    /// # Errors
    /// What the system says: then any of them may be lost.
    fn sync_directory(&self, path: &Path) -> Result<(), Errno>;

    /// Waits until nobody else has locked a directory, and locks it. Whoever has it gives it back after a few calls; the wait
    /// has a limit all the same.
    ///
    /// # Errors
    /// What the system says; `WOULDBLOCK` when the limit has passed.
    fn lock_directory(&self, path: &Path) -> Result<FolderLock, Errno>;

    /// Tells the names in a directory, in no order. What is entered or removed meanwhile may be told or not.
    ///
    /// # Errors
    /// What the system says.
    fn list(&self, path: &Path, each: &mut dyn FnMut(&str)) -> Result<(), Errno>;

    /// Makes a file that is not there yet, to write to.
    ///
    /// # Errors
    /// What the system says.
    fn create(&self, path: &Path) -> Result<Box<dyn StoredFile>, Errno>;

    /// Opens a file that is there.
    ///
    /// # Errors
    /// What the system says.
    fn open(&self, path: &Path, access: Access) -> Result<Box<dyn StoredFile>, Errno>;

    /// Gives a file another name, which nothing has yet.
    ///
    /// # Errors
    /// What the system says; `EXIST` when the name is taken, whoever else tries at the same moment.
    fn rename_new(&self, from: &Path, to: &Path) -> Result<(), Errno>;

    /// Removes a file.
    ///
    /// # Errors
    /// What the system says.
    fn remove(&self, path: &Path) -> Result<(), Errno>;

    /// How long a file is.
    ///
    /// # Errors
    /// What the system says.
    fn bytes(&self, path: &Path) -> Result<u64, Errno>;
}

/// An open file.
pub trait StoredFile: fmt::Debug + Send + Sync {
    /// Writes at a multiple of [`BLOCK_BYTES`](crate::buffer::BLOCK_BYTES). Bytes that are no whole blocks are the end of the
    /// file.
    ///
    /// # Errors
    /// What the system says; any part may have been written.
    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), Errno>;

    /// [`StoredFile::write`] of whole blocks that last once this has returned, with what of the file's length they need. Whatever
    /// else was written lasts no better than before.
    ///
    /// # Errors
    /// What the system says; any part may have been written, and lasts as if it had been written alone.
    fn write_through(&self, offset: u64, bytes: &[u8]) -> Result<(), Errno>;

    /// Reads from any place on until `into` is full or the file ends. The bytes read.
    ///
    /// # Errors
    /// What the system says.
    fn read(&self, offset: u64, into: &mut [u8]) -> Result<usize, Errno>;

    /// How long it is.
    ///
    /// # Errors
    /// What the system says.
    fn bytes(&self) -> Result<u64, Errno>;

    /// Makes it so long, of zeroes where nothing was written, with room on the disk for all of it.
    ///
    /// # Errors
    /// What the system says; `NOSPC` when there is not that much room.
    fn reserve(&self, bytes: u64) -> Result<(), Errno>;

    /// Makes what was written lasting, and the file's length.
    ///
    /// # Errors
    /// What the system says: then any part of what was written since the last sync may be lost.
    fn sync(&self) -> Result<(), Errno>;
}
