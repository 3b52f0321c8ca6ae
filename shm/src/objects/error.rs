//! What can go wrong with an operation on state. Each variant carries the figures that its reader needs.

use std::time::Duration;

use super::lock::LockOwner;

/// Why an operation on state was not done. Nothing of it happened; over a corrupt segment nothing is known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// Another writer held the lock for the whole wait, or a reader's object changed at every look.
    #[error("state is busy: waited {waited:?} for {owner}; try again")]
    Busy {
        /// Who held the lock when the wait ended.
        owner: LockOwner,
        /// How long it was waited for.
        waited: Duration,
    },
    /// No free block is large enough.
    #[error(
        "state is full: {needed_bytes} bytes are needed, {free_bytes} of {limit_bytes} are free, {largest_free_bytes} in \
         one piece; delete objects or raise state_bytes_max"
    )]
    Full {
        /// Bytes of the block that was needed, header and key included.
        needed_bytes: u64,
        /// Free bytes in all.
        free_bytes: u64,
        /// Bytes of the largest free block, as far as a short look tells.
        largest_free_bytes: u64,
        /// Bytes of the segment.
        limit_bytes: u64,
    },
    /// The log of the process has not taken what was changed before.
    #[error(
        "the log ring is full: {needed_bytes} bytes are needed, {free_bytes} of {capacity_bytes} are free after waiting for \
         {waited:?}; the log is slower than the process changes its state: change less, or look at its disk"
    )]
    LogFull {
        /// Bytes of the record.
        needed_bytes: u64,
        /// Bytes that were free.
        free_bytes: u64,
        /// Bytes of the ring.
        capacity_bytes: u64,
        /// How long it was waited for.
        waited: Duration,
    },
    /// All places for a key of this hash are taken.
    #[error("the index of state is full at {keys} keys; delete objects or raise state_bytes_max")]
    IndexFull {
        /// Keys in the index.
        keys: u64,
    },
    /// The object is not as the condition wants it.
    #[error(
        "the object has version {current:?} (None: no object), which is not what the condition names; read it again"
    )]
    Conflict {
        /// The object's version, or `None` without an object.
        current: Option<u64>,
    },
    /// What is asked for did not come back yet since the process has slept: whoever restores it is to be asked for it.
    #[error(
        "{} is still in storage: it has to be fetched before this can be done",
        version.map_or_else(|| format!("page {page} of the state"), |version| format!("the value of version {version}"))
    )]
    Away {
        /// The page that is missing, if it is.
        page: u32,
        /// Its version, if it is known and its value alone is missing.
        version: Option<u64>,
    },
    /// The value is longer than any object may be.
    #[error("a value of {value_bytes} bytes is longer than the {limit_bytes} that an object may have")]
    TooLarge {
        /// Bytes of the value.
        value_bytes: u64,
        /// Bytes that an object may have.
        limit_bytes: u64,
    },
    /// As many guards are held as one worker may hold.
    #[error("{limit} objects are held in view, the most that one worker may hold; drop a guard first")]
    TooManyGuards {
        /// The limit.
        limit: usize,
    },
    /// As many loans are held as one worker may hold.
    #[error("{limit} blocks are on loan, the most that one worker may hold; publish or drop one first")]
    TooManyLoans {
        /// The limit.
        limit: usize,
    },
    /// Something in the segment cannot be what this program wrote there.
    #[error("state is corrupt: {what} at byte {offset}; the process cannot go on with it")]
    Corrupt {
        /// What was looked at.
        what: &'static str,
        /// Where, in bytes from the segment's start.
        offset: u64,
    },
}

impl StateError {
    /// Corrupt at word `at`.
    #[cold]
    pub(crate) fn corrupt(what: &'static str, at: usize) -> Self {
        Self::Corrupt { what, offset: at as u64 * 8 }
    }
}

/// Why a recovery or a check has not been done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecoverError {
    /// A live worker is inside a critical section. It is there for microseconds: come back by a timer, and treat an owner
    /// that stays for ever as [`RecoverError::Corrupt`].
    #[error("state is being written by {owner}; try again in a moment")]
    Busy {
        /// Who holds the lock.
        owner: LockOwner,
    },
    /// The segment is not what this program wrote: the process has failed.
    #[error("state is corrupt: {what} at byte {offset}; the process cannot go on with it")]
    Corrupt {
        /// What was looked at.
        what: &'static str,
        /// Where, in bytes from the segment's start.
        offset: u64,
    },
}

impl From<StateError> for RecoverError {
    fn from(error: StateError) -> Self {
        match error {
            StateError::Busy { owner, .. } => Self::Busy { owner },
            StateError::Corrupt { what, offset } => Self::Corrupt { what, offset },
            // Recovery and checks neither allocate nor publish.
            _ => Self::Corrupt { what: "an operation that recovery does not use", offset: 0 },
        }
    }
}

/// A limit that no objects segment can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("state cannot have a limit of {actual_bytes} bytes; allowed are {minimum_bytes} to {maximum_bytes}")]
pub struct LimitError {
    /// What was asked for.
    pub actual_bytes: u64,
    /// The least.
    pub minimum_bytes: u64,
    /// The most.
    pub maximum_bytes: u64,
}

/// A second end for a row that this process already uses.
#[cfg(not(loom))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this process already has an end of state for row {row}; one row serves one end at a time")]
pub struct RowTaken {
    /// The row: the worker's index, or the number of workers for the server's.
    pub row: usize,
}
