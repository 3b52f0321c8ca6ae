//! A backend in this program's memory: for tests, and for whatever need not outlive the server.
//!
//! It keeps the contract of [`crate::backend`] to the letter, but that nothing of it survives the program: "lasting" means as
//! long as this lives. Several handles may share one store ([`Clone`]), as several servers share a bucket.
//!
//! 1. One lock orders everything, so a publish is a comparison and a store under it. Bytes are copied outside of it.
//! 2. Revisions come from one counter that never goes back, so a manifest that was removed and published anew is never
//!    taken for the old one.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::backend::{
    BLOB_BYTES_MAX, Backend, BlobEntry, LISTED_MAX, MANIFEST_BYTES_MAX, Published, Revision, check_bytes,
};
use crate::error::StorageError;
use crate::name::{BlobName, Folder};

/// How it names itself.
const PLACE: &str = "memory";

/// Blobs and manifests in memory.
#[derive(Clone)]
pub struct MemoryBackend {
    store: Arc<Mutex<Store>>,
    /// Bytes of blobs and manifests that it takes.
    room_bytes: u64,
}

/// What all handles share.
#[derive(Default)]
struct Store {
    folders: BTreeMap<Folder, Contents>,
    used_bytes: u64,
    last_revision: u64,
}

/// What one folder holds.
#[derive(Default)]
struct Contents {
    manifest: Option<Published>,
    blobs: BTreeMap<u128, Arc<[u8]>>,
}

impl fmt::Debug for MemoryBackend {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without what is kept: that is long, and nobody's business.
        let used_bytes = self.used_bytes();
        formatter.debug_struct("MemoryBackend").field("used_bytes", &used_bytes).finish_non_exhaustive()
    }
}

impl Default for MemoryBackend {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryBackend {
    /// An empty one, without a limit.
    #[must_use]
    pub fn new() -> Self {
        Self::with_room(u64::MAX)
    }

    /// An empty one that says [`StorageError::Full`] when it would hold more than that.
    #[must_use]
    pub fn with_room(bytes: u64) -> Self {
        Self { store: Arc::default(), room_bytes: bytes }
    }

    /// Bytes of all blobs and manifests.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.store().used_bytes
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        // Nothing panics between the first and the last change of what the lock guards.
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether `bytes` more fit when `freed` go.
    fn check_room(&self, store: &Store, what: &'static str, freed: usize, bytes: usize) -> Result<u64, StorageError> {
        let used = store.used_bytes - freed as u64 + bytes as u64;
        if used > self.room_bytes {
            let reason = format!("{bytes} bytes beside {} of {}", store.used_bytes, self.room_bytes);
            return Err(StorageError::Full { place: self.place(), what, reason });
        }
        Ok(used)
    }

    fn missing(&self, blob: &BlobName) -> StorageError {
        StorageError::missing(blob, self.place())
    }
}

impl Store {
    /// Forgets a folder with nothing in it: it is not listed.
    fn drop_if_empty(&mut self, folder: &Folder) {
        if self.folders.get(folder).is_some_and(|it| it.manifest.is_none() && it.blobs.is_empty()) {
            self.folders.remove(folder);
        }
    }
}

impl Backend for MemoryBackend {
    fn place(&self) -> String {
        PLACE.to_owned()
    }

    fn put(&self, blob: &BlobName, bytes: &[u8]) -> Result<(), StorageError> {
        const WHAT: &str = "writing a blob";
        check_bytes(PLACE, WHAT, bytes, BLOB_BYTES_MAX)?;
        let copy: Arc<[u8]> = bytes.into();
        let mut store = self.store();
        let old = store.folders.get(&blob.folder).and_then(|it| it.blobs.get(&blob.number));
        let freed = old.map_or(0, |old| old.len());
        store.used_bytes = self.check_room(&store, WHAT, freed, bytes.len())?;
        store.folders.entry(blob.folder).or_default().blobs.insert(blob.number, copy);
        Ok(())
    }

    fn read(&self, blob: &BlobName, offset: u64, into: &mut [u8]) -> Result<(), StorageError> {
        let found = {
            let store = self.store();
            store.folders.get(&blob.folder).and_then(|it| it.blobs.get(&blob.number)).cloned()
        };
        let bytes = found.ok_or_else(|| self.missing(blob))?;
        let from = usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..));
        let Some(range) = from.and_then(|rest| rest.get(..into.len())) else {
            return Err(StorageError::truncated(blob, self.place(), offset, into.len(), bytes.len() as u64));
        };
        into.copy_from_slice(range);
        Ok(())
    }

    fn flush(&self, _folder: &Folder) -> Result<(), StorageError> {
        Ok(())
    }

    fn manifest(&self, folder: &Folder) -> Result<Option<Published>, StorageError> {
        Ok(self.store().folders.get(folder).and_then(|it| it.manifest.clone()))
    }

    fn publish(&self, folder: &Folder, replaces: Option<&Revision>, bytes: &[u8]) -> Result<Revision, StorageError> {
        const WHAT: &str = "publishing a manifest";
        check_bytes(PLACE, WHAT, bytes, MANIFEST_BYTES_MAX)?;
        let mut store = self.store();
        let present = store.folders.get(folder).and_then(|it| it.manifest.as_ref());
        if present.map(|it| &it.revision) != replaces {
            return Err(StorageError::conflict(folder, self.place()));
        }
        let freed = present.map_or(0, |it| it.bytes.len());
        store.used_bytes = self.check_room(&store, WHAT, freed, bytes.len())?;
        store.last_revision += 1;
        let revision = Revision(store.last_revision.to_string());
        let published = Published { revision: revision.clone(), bytes: bytes.to_vec() };
        store.folders.entry(*folder).or_default().manifest = Some(published);
        Ok(revision)
    }

    fn blobs(&self, folder: &Folder, after: Option<&BlobName>) -> Result<Vec<BlobEntry>, StorageError> {
        let store = self.store();
        let Some(contents) = store.folders.get(folder) else { return Ok(Vec::new()) };
        let from = after.map_or(Bound::Unbounded, |after| Bound::Excluded(after.number));
        let entry = |(&number, bytes): (&u128, &Arc<[u8]>)| BlobEntry {
            blob: BlobName { folder: *folder, number },
            bytes: bytes.len() as u64,
        };
        Ok(contents.blobs.range((from, Bound::Unbounded)).take(LISTED_MAX).map(entry).collect())
    }

    fn folders(&self, after: Option<&Folder>) -> Result<Vec<Folder>, StorageError> {
        let from = after.map_or(Bound::Unbounded, |after| Bound::Excluded(*after));
        let store = self.store();
        Ok(store.folders.range((from, Bound::Unbounded)).take(LISTED_MAX).map(|(folder, _)| *folder).collect())
    }

    fn remove(&self, blobs: &[BlobName]) -> Result<(), StorageError> {
        let mut store = self.store();
        for blob in blobs {
            if let Some(gone) = store.folders.get_mut(&blob.folder).and_then(|it| it.blobs.remove(&blob.number)) {
                store.used_bytes -= gone.len() as u64;
                store.drop_if_empty(&blob.folder);
            }
        }
        Ok(())
    }

    fn remove_folder(&self, folder: &Folder) -> Result<(), StorageError> {
        let mut store = self.store();
        if let Some(gone) = store.folders.remove(folder) {
            let blobs: usize = gone.blobs.values().map(|bytes| bytes.len()).sum();
            store.used_bytes -= (blobs + gone.manifest.map_or(0, |it| it.bytes.len())) as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(number: u128) -> BlobName {
        BlobName { folder: Folder { process: "notes/alice".parse().unwrap(), incarnation: 1 }, number }
    }

    #[test]
    fn room_that_is_taken_is_counted_and_given_back() {
        let backend = MemoryBackend::with_room(10);
        backend.put(&blob(1), &[0; 6]).unwrap();
        let full = backend.put(&blob(2), &[0; 5]).unwrap_err();
        assert!(matches!(full, StorageError::Full { .. }), "{full}");
        assert!(full.to_string().contains("5 bytes beside 6 of 10"), "{full}");
        let first = backend.publish(&blob(1).folder, None, &[0; 4]).unwrap();
        assert_eq!(backend.used_bytes(), 10);
        assert!(backend.publish(&blob(1).folder, Some(&first), &[0; 5]).is_err());
        backend.publish(&blob(1).folder, Some(&first), &[0; 2]).unwrap();
        backend.remove(&[blob(1), blob(9)]).unwrap();
        assert_eq!(backend.used_bytes(), 2);
        backend.remove_folder(&blob(1).folder).unwrap();
        assert_eq!((backend.used_bytes(), backend.folders(None).unwrap()), (0, Vec::new()));
    }

    #[test]
    fn handles_share_one_store() {
        let backend = MemoryBackend::new();
        backend.clone().put(&blob(1), b"shared").unwrap();
        assert_eq!(format!("{backend:?}"), "MemoryBackend { used_bytes: 6, .. }");
        let mut read = [0; 6];
        backend.read(&blob(1), 0, &mut read).unwrap();
        assert_eq!(&read, b"shared");
    }
}
