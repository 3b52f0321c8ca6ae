//! The client's side of the demo: from a path to batches of text.
//!
//! Two steps, so that progress can be shown: [`Listing::walk`] finds the files, [`Listing::batches`] reads them one
//! batch at a time. Nothing is skipped silently: every entry left out is counted under its reason.
//!
//! 1. Entries are taken in the order of their names, so the same directory gives the same batches.
//! 2. No symbolic link below the root is followed and no other file system is entered: the walk ends, and stays below
//!    its root.
//! 3. No batch is larger in its archived form than [`CorpusLimits::batch_bytes`].

mod batches;
mod listing;
mod skipped;

use std::path::PathBuf;

pub use batches::{Batches, document_bytes};
pub use listing::{ListedFile, Listing};
pub use skipped::{SkipFigure, SkipReason, Skipped};

use super::limits;

/// Bounds of one walk; the defaults are those of [`limits`], and an index takes whatever stays within them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CorpusLimits {
    /// Files listed.
    pub files: usize,
    /// Directory entries looked at.
    pub entries: usize,
    /// Directories below each other.
    pub depth: usize,
    /// Bytes of one file.
    pub file_bytes: usize,
    /// Archived size of one batch.
    pub batch_bytes: usize,
    /// Text in all batches.
    pub text_bytes: u64,
}

impl Default for CorpusLimits {
    fn default() -> Self {
        Self {
            files: limits::DOCUMENTS_MAX,
            entries: limits::WALK_ENTRIES_MAX,
            depth: limits::WALK_DEPTH_MAX,
            file_bytes: limits::FILE_BYTES_MAX,
            batch_bytes: limits::BATCH_BYTES_MAX,
            text_bytes: limits::INDEX_TEXT_BYTES_MAX,
        }
    }
}

/// Why a path cannot be walked at all.
#[derive(Debug, thiserror::Error)]
pub enum CorpusError {
    /// The root does not exist or cannot be looked at.
    #[error("cannot look at {}: {source}; give a path that exists and that you may read", path.display())]
    Root {
        /// The path asked for.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The root is neither a directory nor a file.
    #[error("{} is neither a directory nor a regular file; give one of these", path.display())]
    NotWalkable {
        /// The path asked for.
        path: PathBuf,
    },
}

#[cfg(test)]
mod tests;
