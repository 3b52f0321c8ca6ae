//! What can go wrong with a snapshot, and of which part of it.

use std::fmt;

use super::cut::{CutError, SectionKind};
use super::files::words;
use crate::error::StorageError;
use crate::name::Folder;

/// A part of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// What says where everything else is. Without it nothing can be restored.
    Manifest,
    /// The objects whose hashes begin with its number.
    Page {
        /// Its number.
        number: u32,
    },
    /// The value of one object.
    Object {
        /// Which kind of key it has.
        namespace: u8,
        /// Its key.
        key: Box<[u8]>,
        /// Its version.
        version: u64,
    },
    /// What is kept beside objects.
    Section(SectionKind),
    /// What one file of the process holds.
    File {
        /// Its path within the directory.
        path: Box<[u8]>,
    },
}

/// Why a snapshot could not be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A part could not be read now. It may be whole: another try may succeed.
    #[error("{part} of {folder} cannot be read: {source}")]
    Unreached {
        /// Whose.
        folder: Box<Folder>,
        /// Which part.
        part: Box<Part>,
        /// What the storage said.
        source: StorageError,
    },
    /// A part is gone or not what was written. Trying again does not help; all other parts can still be read.
    #[error("{part} of {folder} is damaged: {reason} ({wherein})")]
    Damaged {
        /// Whose.
        folder: Box<Folder>,
        /// Which part.
        part: Box<Part>,
        /// Where it was read: the storage, the blob and the bytes.
        wherein: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A part was written by another release.
    #[error("{part} of {folder} has format version {actual}, this release reads {known}: use the one that wrote it")]
    Version {
        /// Whose.
        folder: Box<Folder>,
        /// Which part.
        part: Box<Part>,
        /// What stands there.
        actual: u32,
        /// The one that is understood.
        known: u32,
    },
    /// The process's state could not be read, or is not what it says.
    #[error("the state of {folder} cannot be cut: {source}")]
    Cut {
        /// Whose.
        folder: Box<Folder>,
        /// What is wrong with it.
        source: CutError,
    },
    /// What is given does not go with the snapshot that it follows.
    #[error("a snapshot of {folder} cannot follow the stored one: {reason}")]
    Unfit {
        /// Whose.
        folder: Box<Folder>,
        /// What does not agree.
        reason: String,
    },
    /// A file could not be written where it is to be restored.
    #[error("the file `{path}` of {folder} cannot be restored: {reason}")]
    NotPlaced {
        /// Whose.
        folder: Box<Folder>,
        /// Its path within the directory.
        path: String,
        /// What the system said.
        reason: String,
    },
    /// It is more than one snapshot can hold.
    #[error("a snapshot of {folder} cannot hold {what}: {actual}, the limit is {limit}")]
    TooLarge {
        /// Whose.
        folder: Box<Folder>,
        /// What there is too much of.
        what: &'static str,
        /// How much.
        actual: u64,
        /// How much is allowed.
        limit: u64,
    },
    /// The system gave no random bytes to name blobs by.
    #[error("blobs of {folder} cannot be named: the system gives no random bytes: {reason}")]
    NoRandomness {
        /// Whose.
        folder: Box<Folder>,
        /// What it said.
        reason: String,
    },
}

impl SnapshotError {
    /// Whether trying again is of no use.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Damaged { .. } | Self::Version { .. })
    }

    /// Whether somebody else owns the process now.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        matches!(
            self,
            Self::Storage(StorageError::Conflict { .. })
                | Self::Unreached { source: StorageError::Conflict { .. }, .. }
        )
    }

    /// That the storage did not give a part, which should lie there.
    pub(crate) fn reading(folder: &Folder, part: &Part, wherein: String, source: StorageError) -> Self {
        match source {
            gone @ (StorageError::Missing { .. } | StorageError::Truncated { .. }) => Self::Damaged {
                folder: Box::new(*folder),
                part: Box::new(part.clone()),
                wherein,
                reason: gone.to_string(),
            },
            source => Self::Unreached { folder: Box::new(*folder), part: Box::new(part.clone()), source },
        }
    }

    pub(crate) fn cut(folder: &Folder, source: CutError) -> Self {
        Self::Cut { folder: Box::new(*folder), source }
    }

    pub(crate) fn unfit(folder: &Folder, reason: String) -> Self {
        Self::Unfit { folder: Box::new(*folder), reason }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Manifest => formatter.write_str("the manifest"),
            Self::Page { number } => write!(formatter, "page {number} of the index"),
            Self::Object { namespace, key, version } => {
                write!(formatter, "the object `{}`", key.escape_ascii())?;
                if *namespace != 0 {
                    write!(formatter, " of namespace {namespace}")?;
                }
                write!(formatter, " (version {version})")
            }
            Self::Section(kind) => write!(formatter, "the {kind}"),
            Self::File { path } => write!(formatter, "the file `{}`", words(path)),
        }
    }
}
