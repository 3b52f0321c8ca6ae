//! A backend that stands before another one and passes on what it does not want to see or change.
//!
//! Whoever implements [`Layer`] is a [`Backend`]: each operation goes through [`Layer::pass`], unless the layer has one of its own.
//! It owns nothing but what it stands before.

use std::fmt;

use praas_protocol::ProcessId;

use crate::backend::{Backend, BlobEntry, Published, Revision};
use crate::error::StorageError;
use crate::name::{BlobName, Folder};

/// Stands before a backend; see the module's text.
pub trait Layer: fmt::Debug + Send + Sync {
    /// What it stands before.
    fn inner(&self) -> &dyn Backend;

    /// Carries out an operation on what it stands before.
    ///
    /// # Errors
    /// What the operation says, or the layer instead of it.
    fn pass<T>(&self, operation: impl FnOnce(&dyn Backend) -> Result<T, StorageError>) -> Result<T, StorageError> {
        operation(self.inner())
    }

    /// As [`Backend::read`].
    ///
    /// # Errors
    /// As there.
    fn pass_read(&self, blob: &BlobName, offset: u64, into: &mut [u8]) -> Result<(), StorageError> {
        self.pass(|inner| inner.read(blob, offset, into))
    }

    /// As [`Backend::publish`].
    ///
    /// # Errors
    /// As there.
    fn pass_publish(
        &self,
        folder: &Folder,
        replaces: Option<&Revision>,
        bytes: &[u8],
    ) -> Result<Revision, StorageError> {
        self.pass(|inner| inner.publish(folder, replaces, bytes))
    }

    /// As [`Backend::remove_folder`].
    ///
    /// # Errors
    /// As there.
    fn pass_remove_folder(&self, folder: &Folder) -> Result<(), StorageError> {
        self.pass(|inner| inner.remove_folder(folder))
    }
}

impl<L: Layer> Backend for L {
    fn place(&self) -> String {
        self.inner().place()
    }

    fn transfers_at_once(&self) -> usize {
        self.inner().transfers_at_once()
    }

    fn put(&self, blob: &BlobName, bytes: &[u8]) -> Result<(), StorageError> {
        self.pass(|inner| inner.put(blob, bytes))
    }

    fn read(&self, blob: &BlobName, offset: u64, into: &mut [u8]) -> Result<(), StorageError> {
        self.pass_read(blob, offset, into)
    }

    fn flush(&self, folder: &Folder) -> Result<(), StorageError> {
        self.pass(|inner| inner.flush(folder))
    }

    fn manifest(&self, folder: &Folder) -> Result<Option<Published>, StorageError> {
        self.pass(|inner| inner.manifest(folder))
    }

    fn publish(&self, folder: &Folder, replaces: Option<&Revision>, bytes: &[u8]) -> Result<Revision, StorageError> {
        self.pass_publish(folder, replaces, bytes)
    }

    fn blobs(&self, folder: &Folder, after: Option<&BlobName>) -> Result<Vec<BlobEntry>, StorageError> {
        self.pass(|inner| inner.blobs(folder, after))
    }

    fn folders(&self, after: Option<&Folder>) -> Result<Vec<Folder>, StorageError> {
        self.pass(|inner| inner.folders(after))
    }

    fn lives(&self, process: &ProcessId) -> Result<Vec<Folder>, StorageError> {
        self.pass(|inner| inner.lives(process))
    }

    fn remove(&self, blobs: &[BlobName]) -> Result<(), StorageError> {
        self.pass(|inner| inner.remove(blobs))
    }

    fn remove_folder(&self, folder: &Folder) -> Result<(), StorageError> {
        self.pass_remove_folder(folder)
    }
}
