//! The write-ahead log of one process: what it changed, in the order in which it did, kept before anybody is told.
//!
//! ```text
//! DIR/0000000000000003.log     header │ batch │ batch │ zeroes…            filled, ends where the next one begins
//! DIR/0000000000000004.log     header │ batch │ zeroes written ahead │ reserved
//! ```
//!
//! Records are opaque here. Whatever was appended since the last sync becomes one *batch*: a header with the positions before
//! and at its end, its length and its checksum, the records, zeroes up to a whole block. It is written by one call
//! that returns when it lasts, so that a group of records costs what one does. No block is written twice but after a failure, and then by
//! the same records with or without further ones.
//!
//! A block that was never written costs a change of the file system's own records at its sync, many times a write. So
//! a small batch that comes to such blocks takes zeroes behind it along; the next ones overwrite those.
//!
//! Invariants:
//! 1. A position counts as durable only when the call that wrote its batch through has returned without an error.
//! 2. Batches follow each other by position without gap, over segments too. A segment begins at the position up to which
//!    everything was durable, so what an earlier one has beyond was never acknowledged and is left out.
//! 3. After a failure the batch is written anew before it is synced: a sync that succeeds after one that failed says nothing
//!    of what was written before.
//!
//! A batch may have no position of its own: parts of a record that comes later. Such a batch may be told twice, the second time
//! at the beginning of the next segment.
//!
//! Segments are removed from the oldest on, without a sync: a loss of power brings back any of them. Whoever reads says what it has
//! elsewhere, and what lies before a segment that is missing is left out where it is a part of that.
//!
//! Reading ends before the first batch of the last segment that is not whole. When anything whole follows, or when an earlier
//! segment ends too early, it is not a torn end but damage, and told. What cannot be told from a torn end is damage to the very
//! last batch.
//!
//! | room | what |
//! |---|---|
//! | `format` | the bytes of headers |
//! | `writer` | appending, syncing, dropping what a snapshot has |
//! | `reader` | what is there after a crash |
//! | `life` | whose log it is, and whether it is over |

mod format;
mod life;
#[cfg(test)]
mod power_cuts;
mod reader;
mod writer;

use std::path::PathBuf;

use praas_sys::Errno;

pub use self::life::{LIFE_BYTES_MAX, LogLife, count_recovery, mark_ended, read_life, write_life};
pub use self::reader::{Batch, Found, read_log, remove_log};
pub use self::writer::{LogPlan, LogWriter};

/// Bytes of a segment: recovery holds one in memory, and a snapshot gives room back in such pieces.
pub const SEGMENT_BYTES: usize = 16 << 20;

/// Bytes of the longest segment: one that was made longer for a batch that it alone does not suffice for.
pub const SEGMENT_BYTES_MAX: usize = 2 * SEGMENT_BYTES;

/// Bytes of records that are taken at once: the longest record of all, many times.
pub const APPEND_BYTES_MAX: usize = 8 << 20;

/// Bytes that are written ahead at once, as long as batches are small against it.
pub const AHEAD_BYTES: usize = 1 << 20;

/// Bytes of records that wait for a sync at most; more are refused until it succeeds.
pub const PENDING_BYTES_MAX: usize = 4 << 20;

const _: () = assert!(PENDING_BYTES_MAX <= APPEND_BYTES_MAX && 2 * APPEND_BYTES_MAX < SEGMENT_BYTES_MAX);

/// Why a log does not go on, or cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The file system refuses.
    #[error("{what} {path:?} failed: {}", std::io::Error::from(*errno))]
    Files {
        /// What was being done.
        what: &'static str,
        /// To what.
        path: PathBuf,
        /// What it said.
        errno: Errno,
    },
    /// So much waits for a sync that nothing more is taken.
    #[error("{bytes} bytes of records wait to be written, {limit} at most; they are taken when a sync succeeds")]
    Pending {
        /// How many.
        bytes: usize,
        /// The most.
        limit: usize,
    },
    /// More at once than a segment may have.
    #[error("{bytes} bytes of records are more than the {limit} that are taken at once")]
    TooLong {
        /// How many.
        bytes: usize,
        /// The most.
        limit: usize,
    },
    /// What was durable is no longer there.
    #[error("{path:?} is damaged at byte {at}: {reason}; records up to position {position} are whole")]
    Damaged {
        /// The segment.
        path: PathBuf,
        /// Where in it.
        at: u64,
        /// What is wrong there.
        reason: String,
        /// The last position before it.
        position: u64,
    },
    /// A later release wrote it.
    #[error("{path:?} has format version {actual}, {known} is the newest known; use the release that wrote it")]
    Version {
        /// The segment.
        path: PathBuf,
        /// What stands there.
        actual: u32,
        /// The newest that is understood.
        known: u32,
    },
}

impl From<LogError> for std::io::Error {
    fn from(error: LogError) -> Self {
        let kind = match &error {
            LogError::Files { errno, .. } => Self::from(*errno).kind(),
            LogError::Pending { .. } => std::io::ErrorKind::WouldBlock,
            LogError::TooLong { .. } => std::io::ErrorKind::InvalidInput,
            LogError::Damaged { .. } | LogError::Version { .. } => std::io::ErrorKind::InvalidData,
        };
        Self::new(kind, error)
    }
}
