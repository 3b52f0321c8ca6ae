//! What can go wrong with storage, for all backends alike.

use std::time::Duration;

use crate::name::{BlobName, Folder};

/// Why storage did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// There is no such blob.
    #[error("{blob} is missing from {place}")]
    Missing {
        /// What was looked for.
        blob: Box<BlobName>,
        /// The backend, as it names itself.
        place: String,
    },
    /// There is less of it than there was.
    #[error("{blob} in {place} ends at {actual} bytes, {expected} were written: it was cut short")]
    Truncated {
        /// What was read.
        blob: Box<BlobName>,
        /// The backend.
        place: String,
        /// Up to which byte something was asked for.
        expected: u64,
        /// How many bytes it has.
        actual: u64,
    },
    /// Somebody else has published a manifest since.
    #[error("the manifest of {folder} in {place} was replaced by somebody else: another server owns that process")]
    Conflict {
        /// Whose manifest.
        folder: Box<Folder>,
        /// The backend.
        place: String,
    },
    /// No room is left.
    #[error("no room is left in {place} while {what}: {reason}; make room or swap elsewhere")]
    Full {
        /// The backend.
        place: String,
        /// What was being done.
        what: &'static str,
        /// What it said.
        reason: String,
    },
    /// It is longer than a blob or manifest may be; nothing was written.
    #[error("{what} of {bytes} bytes in {place} is refused: at most {limit} bytes are kept at once")]
    TooLarge {
        /// The backend.
        place: String,
        /// What was being done.
        what: &'static str,
        /// How long it is.
        bytes: u64,
        /// How long it may be.
        limit: u64,
    },
    /// The place itself is not there: a bucket, a directory, a server.
    #[error("{place} cannot be used: {reason}; {advice}")]
    Unusable {
        /// The backend.
        place: String,
        /// What it said.
        reason: String,
        /// What to do.
        advice: &'static str,
    },
    /// The credentials are wrong, expired, or do not allow it.
    #[error("{place} refuses {what}: {reason}; check the credentials and what they allow")]
    Denied {
        /// The backend.
        place: String,
        /// What was being done.
        what: &'static str,
        /// What it said.
        reason: String,
    },
    /// It took too long. Whether it happened is not known.
    #[error("{what} in {place} took more than {limit_ms} ms; whether it happened is not known")]
    Late {
        /// The backend.
        place: String,
        /// What was being done.
        what: &'static str,
        /// The deadline that passed.
        limit_ms: u64,
    },
    /// Anything else that the place said.
    #[error("{what} in {place} failed: {reason}")]
    Failed {
        /// The backend.
        place: String,
        /// What was being done.
        what: &'static str,
        /// What it said.
        reason: String,
    },
}

impl StorageError {
    /// [`StorageError::Missing`] of this blob.
    #[must_use]
    pub fn missing(blob: &BlobName, place: String) -> Self {
        Self::Missing { blob: Box::new(*blob), place }
    }

    /// [`StorageError::Truncated`] of a blob of `actual` bytes that was asked for `wanted` from `offset` on.
    #[must_use]
    pub fn truncated(blob: &BlobName, place: String, offset: u64, wanted: usize, actual: u64) -> Self {
        Self::Truncated { blob: Box::new(*blob), place, expected: offset.saturating_add(wanted as u64), actual }
    }

    /// [`StorageError::Late`] after this time.
    #[must_use]
    pub fn late(place: String, what: &'static str, limit: Duration) -> Self {
        Self::Late { place, what, limit_ms: u64::try_from(limit.as_millis()).unwrap_or(u64::MAX) }
    }

    /// [`StorageError::Conflict`] about the manifest of this folder.
    #[must_use]
    pub fn conflict(folder: &Folder, place: String) -> Self {
        Self::Conflict { folder: Box::new(*folder), place }
    }
}
