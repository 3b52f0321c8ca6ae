//! Processes that sleep in a directory of this host.
//!
//! ```text
//! DIR/.lock                                         held by every server that uses it
//! DIR/.new/…                                        what is being written; nothing else is ever half there
//! DIR/notes/alice/00000000000000ab/manifest.…07     the manifest, seventh of its kind
//! DIR/notes/alice/00000000000000ab/0000…01f3        blob 0x1f3
//! ```
//!
//! A blob is written and synced under a name in `.new`, then renamed: it is there whole or not at all. That rename lasts with
//! the next [`Backend::flush`], which syncs the directory. A manifest is renamed to the number after the one that it replaces,
//! if nothing has that name, and counts when the directory was synced; the newest is the one of the highest number, and older
//! ones are removed behind it.
//!
//! Invariants:
//! 1. No file outside of `.new` changes after it got its name, and none gets its name before its bytes were synced.
//! 2. A manifest is removed only when one of a higher number lasts, or, with its folder, before any blob of it.
//! 3. Of two who publish the same number one is refused: whoever publishes has a lock on the folder, and were there none, the
//!    rename would refuse, or, the name having become free again, the look at what is newest that follows it.
//!
//! | room | what |
//! |---|---|
//! | `layer` | what is asked of a file system |
//! | `host` | the host's own |
//! | `model` | one in memory that loses power and fails, for tests |
//! | `paths` | which file is what |
//! | `lasting` | of which folders it is known that they are where they are after a loss of power |
//! | `locks` | who uses the directory, and waits for locks that end |
//! | `manifests` | publishing and finding the newest |

mod host;
mod lasting;
mod layer;
mod locks;
mod manifests;
#[cfg(any(test, feature = "faults"))]
pub mod model;
mod paths;
#[cfg(test)]
mod power_cuts;

use std::collections::BTreeSet;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use praas_protocol::{Name, ProcessId};
use praas_sys::Errno;
use praas_sys::private_directory::create_private_directory;
use rustix::fd::OwnedFd;
use rustix::fs::FlockOperation;

pub use self::host::HostFiles;
use self::lasting::Lasting;
pub use self::layer::{Access, FileLayer, FolderLock, StoredFile};
use self::locks::{LOCK_LIMIT_MS, lock_use, lock_within_limit};
use self::paths::Paths;
use crate::backend::{BLOB_BYTES_MAX, Backend, BlobEntry, LISTED_MAX, Published, Revision, check_bytes};
use crate::error::StorageError;
use crate::name::{BlobName, Folder};

/// Times that a file is given its name anew after its directory, which was empty for a moment, was removed by another.
const ENTER_ATTEMPTS_MAX: usize = 8;

/// What to do about a directory that cannot be used.
const ADVICE: &str = "check the directory and who owns it, or name another one";

/// A directory in which processes sleep.
#[derive(Debug)]
pub struct DiskBackend {
    files: Arc<dyn FileLayer>,
    paths: Paths,
    /// Begins the names in `.new`, so that no other user of the directory makes the same.
    instance: u64,
    made: AtomicU64,
    lasting: Lasting,
    /// Says that the directory is in use.
    lock: Option<OwnedFd>,
}

impl DiskBackend {
    /// Uses a directory, which is made if it is not there. What was being written when a server died is removed, unless
    /// another server uses the same directory.
    ///
    /// # Errors
    /// [`StorageError::Unusable`] and what else the file system says.
    pub fn open(directory: &Path) -> Result<Self, StorageError> {
        let place = directory.display().to_string();
        let unusable = |reason: String| StorageError::Unusable { place: place.clone(), reason, advice: ADVICE };
        create_private_directory(directory).map_err(|error| unusable(error.to_string()))?;
        let (lock, is_alone) = lock_use(&directory.join(paths::LOCK)).map_err(|errno| unusable(errno.to_string()))?;
        Self::begin(Arc::new(HostFiles::new()), directory, is_alone, Some(lock))
    }

    /// The same over another file system, in a directory that is there and that nobody else uses.
    ///
    /// # Errors
    /// What the file system says.
    pub fn over(files: Arc<dyn FileLayer>, directory: &Path) -> Result<Self, StorageError> {
        Self::begin(files, directory, true, None)
    }

    fn begin(
        files: Arc<dyn FileLayer>,
        directory: &Path,
        is_alone: bool,
        lock: Option<OwnedFd>,
    ) -> Result<Self, StorageError> {
        let backend = Self {
            files,
            paths: Paths::new(directory),
            instance: RandomState::new().build_hasher().finish(),
            made: AtomicU64::new(0),
            lasting: Lasting::default(),
            lock,
        };
        let new = backend.paths.new_files();
        backend.make_directory(&new).map_err(|errno| backend.failure("making its directories", errno))?;
        if is_alone {
            backend.clear(&new).map_err(|errno| backend.failure("removing what was left half written", errno))?;
        }
        if let Some(lock) = &backend.lock {
            // From now on others may begin, and find that they are not alone.
            lock_within_limit(lock, FlockOperation::NonBlockingLockShared)
                .map_err(|errno| backend.failure("sharing its lock", errno))?;
        }
        Ok(backend)
    }

    /// What the file system said, as an error of this place.
    fn failure(&self, what: &'static str, errno: Errno) -> StorageError {
        let (place, reason) = (self.place(), io::Error::from(errno).to_string());
        match errno {
            Errno::NOSPC | Errno::DQUOT => StorageError::Full { place, what, reason },
            Errno::ACCESS | Errno::PERM | Errno::ROFS => StorageError::Denied { place, what, reason },
            Errno::WOULDBLOCK => {
                let reason =
                    format!("another server has had its lock for more than {LOCK_LIMIT_MS} ms: see whether it hangs");
                StorageError::Failed { place, what, reason }
            }
            Errno::NOENT | Errno::NOTDIR | Errno::NODEV | Errno::STALE => {
                StorageError::Unusable { place, reason: format!("{what}: {reason}"), advice: ADVICE }
            }
            _ => StorageError::Failed { place, what, reason },
        }
    }

    fn make_directory(&self, path: &Path) -> Result<(), Errno> {
        match self.files.make_directory(path) {
            Err(Errno::EXIST) => Ok(()),
            made => made,
        }
    }

    fn clear(&self, directory: &Path) -> Result<(), Errno> {
        for name in self.names(directory)? {
            missing_is_fine(self.files.remove(&directory.join(name)))?;
        }
        Ok(())
    }

    /// The names in a directory.
    fn names(&self, directory: &Path) -> Result<Vec<String>, Errno> {
        let mut names = Vec::new();
        self.files.list(directory, &mut |name| names.push(name.to_owned()))?;
        Ok(names)
    }

    /// Writes and syncs a file, then gives it its name: nothing of it can be seen before. [`Errno::EXIST`] when the name is
    /// taken.
    fn write_whole(&self, folder: &Folder, path: &Path, bytes: &[u8]) -> Result<(), Errno> {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let new = self.paths.new_file(self.instance, number);
        let written = self.write_new(&new, bytes).and_then(|()| self.enter(folder, &new, path));
        if written.is_err() {
            // If it stays, the next server removes it.
            let _ = self.files.remove(&new);
        }
        written
    }

    fn write_new(&self, new: &Path, bytes: &[u8]) -> Result<(), Errno> {
        let file = self.files.create(new)?;
        file.write(0, bytes)?;
        file.sync()
    }

    /// Gives a file its name, with directories made where they are missing.
    fn enter(&self, folder: &Folder, new: &Path, path: &Path) -> Result<(), Errno> {
        let mut result = self.files.rename_new(new, path);
        for _ in 0..ENTER_ATTEMPTS_MAX {
            if result != Err(Errno::NOENT) {
                break;
            }
            self.make_directories(folder)?;
            result = self.files.rename_new(new, path);
        }
        result
    }

    /// Makes the directories of a folder, as far as they are missing and nobody removes them again.
    fn make_directories(&self, folder: &Folder) -> Result<(), Errno> {
        self.lasting.forget(folder);
        for directory in self.paths.directories(folder) {
            match self.make_directory(&directory) {
                // Removed by another as empty, just now.
                Err(Errno::NOENT) => break,
                made => made?,
            }
        }
        Ok(())
    }

    /// Makes lasting what a folder has and that it is there; nothing to do for one that is not.
    fn sync_folder(&self, folder: &Folder) -> Result<(), Errno> {
        let [application, process, incarnation] = self.paths.directories(folder);
        let (known, changes) = self.lasting.knows(folder);
        let above = [&process, &application, self.paths.root()];
        let mut is_there = true;
        // Each sync waits for the disk. Where a folder is changes far less often than what it has.
        for directory in std::iter::once(&incarnation).chain(above.into_iter().filter(|_| !known)) {
            let synced = self.files.sync_directory(directory);
            is_there &= synced != Err(Errno::NOENT);
            missing_is_fine(synced)?;
        }
        if is_there {
            self.lasting.learn(folder, changes);
        }
        Ok(())
    }

    /// Whether a directory has anything that counts.
    fn has_anything(&self, folder: &Folder) -> Result<bool, Errno> {
        let mut has = false;
        let [.., incarnation] = self.paths.directories(folder);
        missing_is_fine(self.files.list(&incarnation, &mut |name| has |= paths::counts(name)))?;
        Ok(has)
    }

    /// The folders that come next, up to the most that are told at once.
    fn folders_after(&self, after: Option<&Folder>) -> Result<Vec<Folder>, Errno> {
        let after_process = after.map(|after| after.process);
        let mut first = BTreeSet::new();
        // A name that is none of an application is none of ours.
        let applications = self.names(self.paths.root())?.into_iter().filter_map(|name| name.parse::<Name>().ok());
        for application in applications.filter(|name| after_process.is_none_or(|after| *name >= after.application)) {
            let directory = self.paths.root().join(application.as_str());
            for process in self.names_if_there(&directory)?.into_iter().filter_map(|name| name.parse::<Name>().ok()) {
                let process = ProcessId { application, process };
                if after_process.is_some_and(|after| process < after) {
                    continue;
                }
                for name in self.names_if_there(&directory.join(process.process.as_str()))? {
                    let Some(folder) = Folder::parse(&format!("{process}/{name}")) else { continue };
                    let is_early = after.is_some_and(|after| folder <= *after);
                    let is_late = first.len() >= LISTED_MAX && first.last().is_some_and(|last| folder > *last);
                    if is_early || is_late || !self.has_anything(&folder)? {
                        continue;
                    }
                    first.insert(folder);
                    if first.len() > LISTED_MAX {
                        first.pop_last();
                    }
                }
            }
        }
        Ok(first.into_iter().collect())
    }

    /// All lives of a process, without a look at any other one.
    fn lives_of(&self, process: &ProcessId) -> Result<Vec<Folder>, Errno> {
        let [_, directory, _] = self.paths.directories(&Folder { process: *process, incarnation: 0 });
        let mut lives = Vec::new();
        for name in self.names_if_there(&directory)? {
            let Some(folder) = Folder::parse(&format!("{process}/{name}")) else { continue };
            if self.has_anything(&folder)? {
                lives.push(folder);
            }
        }
        lives.sort_unstable();
        lives.truncate(LISTED_MAX);
        Ok(lives)
    }

    /// The names in a directory that others may remove, or that is none.
    fn names_if_there(&self, directory: &Path) -> Result<Vec<String>, Errno> {
        match self.names(directory) {
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(Vec::new()),
            names => names,
        }
    }

    fn remove_all(&self, folder: &Folder) -> Result<(), Errno> {
        self.lasting.forget(folder);
        let [application, process, incarnation] = self.paths.directories(folder);
        let names = self.names_if_there(&incarnation)?;
        let mut manifests: Vec<u64> = names.iter().filter_map(|name| paths::manifest_number(name)).collect();
        manifests.sort_unstable();
        let newest = manifests.pop();
        for number in manifests {
            missing_is_fine(self.files.remove(&self.paths.manifest(folder, number)))?;
        }
        if let Some(newest) = newest {
            // The newest goes only when all removals of older ones last, those of long ago as well: none of them must become
            // the newest when power is lost.
            missing_is_fine(self.files.sync_directory(&incarnation))?;
            missing_is_fine(self.files.remove(&self.paths.manifest(folder, newest)))?;
            missing_is_fine(self.files.sync_directory(&incarnation))?;
        }
        for name in names.iter().filter(|name| paths::blob_number(name).is_some()) {
            missing_is_fine(self.files.remove(&incarnation.join(name)))?;
        }
        missing_is_fine(self.files.remove_directory(&incarnation))?;
        let mut parent = &process;
        for directory in [&process, &application] {
            match self.files.remove_directory(directory) {
                // Another life of it, or another process.
                Err(Errno::NOTEMPTY | Errno::EXIST) => break,
                removed => missing_is_fine(removed)?,
            }
            parent = if directory == &process { &application } else { self.paths.root() };
        }
        missing_is_fine(self.files.sync_directory(parent))
    }

    fn blobs_after(&self, folder: &Folder, after: Option<&BlobName>) -> Result<Vec<BlobEntry>, Errno> {
        let [.., incarnation] = self.paths.directories(folder);
        let names = self.names_if_there(&incarnation)?;
        let mut numbers: Vec<u128> = names.iter().filter_map(|name| paths::blob_number(name)).collect();
        numbers.retain(|number| after.is_none_or(|after| *number > after.number));
        numbers.sort_unstable();
        let mut entries = Vec::new();
        for number in numbers.into_iter().take(LISTED_MAX) {
            let blob = BlobName { folder: *folder, number };
            match self.files.bytes(&self.paths.blob(&blob)) {
                Ok(bytes) => entries.push(BlobEntry { blob, bytes }),
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(entries)
    }
}

impl Backend for DiskBackend {
    fn place(&self) -> String {
        self.paths.root().display().to_string()
    }

    fn put(&self, blob: &BlobName, bytes: &[u8]) -> Result<(), StorageError> {
        const WHAT: &str = "writing a blob";
        check_bytes(&self.place(), WHAT, bytes, BLOB_BYTES_MAX)?;
        self.write_whole(&blob.folder, &self.paths.blob(blob), bytes).map_err(|errno| self.failure(WHAT, errno))
    }

    fn read(&self, blob: &BlobName, offset: u64, into: &mut [u8]) -> Result<(), StorageError> {
        let failed = |errno| match errno {
            Errno::NOENT => StorageError::missing(blob, self.place()),
            errno => self.failure("reading a blob", errno),
        };
        let file = self.files.open(&self.paths.blob(blob), Access::Read).map_err(failed)?;
        let expected = offset.saturating_add(into.len() as u64);
        // No file is that long, and no system call takes such a place.
        let is_beyond = i64::try_from(expected).is_err();
        let is_whole = !is_beyond && file.read(offset, into).map_err(failed)? == into.len();
        // Who asks for nothing is told all the same when there is nothing to ask for.
        if !is_whole || into.is_empty() {
            let actual = file.bytes().map_err(failed)?;
            if is_whole && actual >= offset {
                return Ok(());
            }
            return Err(StorageError::truncated(blob, self.place(), offset, into.len(), actual));
        }
        Ok(())
    }

    fn flush(&self, folder: &Folder) -> Result<(), StorageError> {
        self.sync_folder(folder).map_err(|errno| self.failure("making blobs lasting", errno))
    }

    fn manifest(&self, folder: &Folder) -> Result<Option<Published>, StorageError> {
        self.newest_manifest(folder)
    }

    fn publish(&self, folder: &Folder, replaces: Option<&Revision>, bytes: &[u8]) -> Result<Revision, StorageError> {
        self.publish_manifest(folder, replaces, bytes)
    }

    fn blobs(&self, folder: &Folder, after: Option<&BlobName>) -> Result<Vec<BlobEntry>, StorageError> {
        self.blobs_after(folder, after).map_err(|errno| self.failure("listing blobs", errno))
    }

    fn folders(&self, after: Option<&Folder>) -> Result<Vec<Folder>, StorageError> {
        self.folders_after(after).map_err(|errno| self.failure("listing folders", errno))
    }

    fn lives(&self, process: &ProcessId) -> Result<Vec<Folder>, StorageError> {
        self.lives_of(process).map_err(|errno| self.failure("listing folders", errno))
    }

    fn remove(&self, blobs: &[BlobName]) -> Result<(), StorageError> {
        let mut result = Ok(());
        for blob in blobs {
            let removed = missing_is_fine(self.files.remove(&self.paths.blob(blob)));
            result = result.and(removed);
        }
        result.map_err(|errno| self.failure("removing blobs", errno))
    }

    fn remove_folder(&self, folder: &Folder) -> Result<(), StorageError> {
        self.remove_all(folder).map_err(|errno| self.failure("removing a folder", errno))
    }
}

fn missing_is_fine(result: Result<(), Errno>) -> Result<(), Errno> {
    if result == Err(Errno::NOENT) { Ok(()) } else { result }
}
