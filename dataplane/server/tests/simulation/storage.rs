//! The storage of a run: memory that outlives servers, notes what was published, and fails as planned.

use std::sync::{Arc, Mutex, PoisonError};

use praas_storage::faulty::{Fault, Faulty, Operation, Refusal, When};
use praas_storage::snapshot::Manifest;
use praas_storage::{Backend, Folder, Layer, MemoryBackend, Revision, StorageError};

/// What happened to a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Noted {
    Published(Folder),
    Removed(Folder),
}

/// Memory that notes.
#[derive(Debug, Clone, Default)]
struct Noting {
    memory: MemoryBackend,
    noted: Arc<Mutex<Vec<Noted>>>,
}

impl Noting {
    fn note(&self, noted: Noted) {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner).push(noted);
    }
}

impl Layer for Noting {
    fn inner(&self) -> &dyn Backend {
        &self.memory
    }

    fn pass_publish(
        &self,
        folder: &Folder,
        replaces: Option<&Revision>,
        bytes: &[u8],
    ) -> Result<Revision, StorageError> {
        let revision = self.memory.publish(folder, replaces, bytes)?;
        // The end of a process is published before anything of it is removed: from then on nothing comes of it.
        let is_end = Manifest::parse(bytes).is_ok_and(|manifest| manifest.is_ended());
        self.note(if is_end { Noted::Removed(*folder) } else { Noted::Published(*folder) });
        Ok(revision)
    }

    fn pass_remove_folder(&self, folder: &Folder) -> Result<(), StorageError> {
        self.memory.remove_folder(folder)?;
        self.note(Noted::Removed(*folder));
        Ok(())
    }
}

/// Storage with its faults; see the module's text.
#[derive(Debug)]
pub(crate) struct Storage {
    faulty: Faulty,
    noting: Noting,
}

/// What may go wrong with one transfer. Every call of an operation has it: how many threads share a transfer changes nothing.
const FAULTS: [(Operation, Fault); 11] = [
    (Operation::Put, Fault::Refuse(Refusal::Full)),
    (Operation::Put, Fault::LoseAcknowledgement),
    (Operation::Flush, Fault::Refuse(Refusal::Failed)),
    (Operation::Publish, Fault::Refuse(Refusal::Denied)),
    (Operation::Publish, Fault::LoseAcknowledgement),
    (Operation::Manifest, Fault::Refuse(Refusal::Failed)),
    (Operation::Manifest, Fault::Old),
    (Operation::Read, Fault::Damage),
    (Operation::Read, Fault::Truncate),
    (Operation::RemoveFolder, Fault::Refuse(Refusal::Failed)),
    (Operation::RemoveFolder, Fault::LoseAcknowledgement),
];

impl Storage {
    pub(crate) fn new() -> Self {
        let noting = Noting::default();
        Self { faulty: Faulty::new(Arc::new(noting.clone())), noting }
    }

    pub(crate) fn backend(&self) -> Arc<dyn Backend> {
        Arc::new(self.faulty.clone())
    }

    /// Plans one of the faults, by any number; its name.
    pub(crate) fn plan(&self, number: u64) -> String {
        let (operation, fault) = FAULTS[usize::try_from(number).expect("small") % FAULTS.len()];
        self.faulty.plan(When::Every(operation), fault);
        format!("{operation:?} {fault:?}")
    }

    pub(crate) fn heal(&self) {
        self.faulty.heal();
    }

    /// What happened to manifests since the last look.
    pub(crate) fn noted(&self) -> Vec<Noted> {
        std::mem::take(&mut *self.noting.noted.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
