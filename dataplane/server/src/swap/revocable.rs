//! Storage that can be taken away from the threads that use it: a server that ends while storage stalls does not wait for them, and
//! what they have in hand must not be published later, when the memory that they read belongs to the next server.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use praas_storage::{Backend, Layer, StorageError};

/// A backend until it is taken away.
pub(super) struct Revocable {
    inner: Arc<dyn Backend>,
    is_revoked: AtomicBool,
}

impl Revocable {
    pub(super) fn new(inner: Arc<dyn Backend>) -> Self {
        Self { inner, is_revoked: AtomicBool::new(false) }
    }

    /// Everything asked of it from now on is refused. An operation under way goes on.
    pub(super) fn revoke(&self) {
        self.is_revoked.store(true, Ordering::SeqCst);
    }
}

impl fmt::Debug for Revocable {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Revocable").field(&self.inner).finish()
    }
}

impl Layer for Revocable {
    fn inner(&self) -> &dyn Backend {
        &*self.inner
    }

    fn pass<T>(&self, operation: impl FnOnce(&dyn Backend) -> Result<T, StorageError>) -> Result<T, StorageError> {
        if self.is_revoked.load(Ordering::SeqCst) {
            return Err(StorageError::Unusable {
                place: self.inner.place(),
                reason: "the time that the server had to end is over".into(),
                advice: "start it again",
            });
        }
        operation(&*self.inner)
    }
}

#[cfg(test)]
mod tests {
    use praas_storage::{BlobName, Folder, MemoryBackend};

    use super::*;

    #[test]
    fn what_was_taken_away_refuses_everything_and_is_as_it_was() {
        let memory = Arc::new(MemoryBackend::new());
        let revocable = Revocable::new(Arc::clone(&memory) as _);
        let folder = Folder { process: "notes/alice".parse().unwrap(), incarnation: 1 };
        let blob = BlobName { folder, number: 1 };
        revocable.put(&blob, b"first").unwrap();
        revocable.revoke();
        assert!(revocable.put(&blob, b"later").is_err());
        assert!(revocable.publish(&folder, None, b"manifest").is_err());
        assert!(revocable.remove_folder(&folder).is_err() && revocable.folders(None).is_err());
        let mut kept = [0; 5];
        memory.read(&blob, 0, &mut kept).unwrap();
        assert_eq!((&kept, memory.manifest(&folder).unwrap().is_none()), (b"first", true));
    }
}
