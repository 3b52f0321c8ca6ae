//! What a life of a process has given out, in all its stays in memory.

use std::collections::{BTreeMap, BTreeSet};

use super::Operation;

/// What one life has given out.
#[derive(Debug, Default)]
pub(super) struct Given {
    /// Of its workers: index and generation.
    tags: BTreeSet<(u8, u16)>,
    /// Of its objects, and by which operation each was put.
    versions: BTreeMap<u64, Operation>,
}

impl Given {
    /// Gives a tag out; false if it was before.
    pub(super) fn tag(&mut self, tag: (u8, u16)) -> bool {
        self.tags.insert(tag)
    }

    /// Gives a version out; the error is the operation that has it.
    pub(super) fn version(&mut self, version: u64, operation: Operation) -> Result<(), Operation> {
        self.versions.insert(version, operation).map_or(Ok(()), Err)
    }
}
