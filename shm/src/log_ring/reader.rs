//! The server's end of a ring: copies committed records out, and says what it no longer needs.
//!
//! Whatever stands in the ring was written by a tenant's workers: positions are compared with what this end knows by itself,
//! and bytes are decoded in the private copy.

use std::os::fd::OwnedFd;

use crate::segment::AttachError;
use crate::sync::{Ordering, full_fence, wake_low_half};

use super::memory::Ring;
use super::record::{BadRecord, Records};

/// What is wrong with a ring: its process cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RingError {
    /// It says that more is committed than fits, or less than before.
    #[error(
        "its log ring says that {committed} bytes are committed, of which {consumed} were copied; it has {bytes} bytes"
    )]
    Positions {
        /// What stands there.
        committed: u64,
        /// What this end has copied.
        consumed: u64,
        /// Bytes of the ring.
        bytes: u64,
    },
    /// Something in it is no record.
    #[error("its log ring has something else than records after position {after}: {error}")]
    Record {
        /// The last position that was read.
        after: u64,
        /// What is wrong.
        error: BadRecord,
    },
    /// A position is missing or came twice.
    #[error("its log ring goes on with position {actual} after {after}")]
    Gap {
        /// The last position that was read.
        after: u64,
        /// The next one that stands there.
        actual: u64,
    },
}

/// The one reader of a ring.
#[derive(Debug)]
pub struct LogReader {
    ring: Ring,
    consumed: u64,
    position: u64,
}

impl LogReader {
    /// The reader of a new ring, whose first record has the position after `position`.
    ///
    /// # Errors
    /// [`AttachError`] when it is not a ring of this size and version.
    pub fn attach(fd: OwnedFd, bytes: u64, position: u64) -> Result<Self, AttachError> {
        Ok(Self { ring: Ring::attach(fd, bytes)?, consumed: 0, position })
    }

    /// The last position that was read.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Copies whole records into `into`, which is emptied first: about as many bytes as `most`, which must not be less than a
    /// record may have. Returns the last position among them, and moves on; the bytes stay in the ring until
    /// [`LogReader::consume`].
    ///
    /// # Errors
    /// [`RingError`]: the process has failed.
    pub fn read(&mut self, into: &mut Vec<u8>, most: usize) -> Result<u64, RingError> {
        into.clear();
        let committed = self.ring.words().committed.load(Ordering::Acquire);
        let (consumed, bytes) = (self.consumed, self.ring.bytes());
        let ready = committed.wrapping_sub(consumed);
        if ready > bytes || !ready.is_multiple_of(8) {
            return Err(RingError::Positions { committed, consumed, bytes });
        }
        let ready = usize::try_from(ready).unwrap_or(usize::MAX);
        into.resize(ready.min(most & !7), 0);
        self.ring.read(consumed, into);
        let is_all = into.len() == ready;
        let mut records = Records::new(into);
        let mut position = self.position;
        loop {
            match records.next_record() {
                Ok(None) => break,
                Ok(Some(record)) => match record.position() {
                    None => {}
                    Some(next) if next == position.wrapping_add(1) => position = next,
                    Some(actual) => return Err(RingError::Gap { after: position, actual }),
                },
                Err(BadRecord::Cut { .. }) if !is_all && records.read_bytes() > 0 => break,
                Err(error) => return Err(RingError::Record { after: position, error }),
            }
        }
        let whole = records.read_bytes();
        into.truncate(whole);
        self.position = position;
        Ok(position)
    }

    /// The first `bytes` behind what was consumed before are no longer needed: writers may go on.
    pub fn consume(&mut self, bytes: usize) {
        self.consumed = self.consumed.wrapping_add(bytes as u64);
        let words = self.ring.words();
        words.consumed.store(self.consumed, Ordering::Release);
        // Pairs with the fence of a writer between saying that it waits and looking once more.
        full_fence();
        if words.waits_for_room.load(Ordering::Relaxed) != 0 {
            words.waits_for_room.store(0, Ordering::Relaxed);
            wake_low_half(&words.consumed);
        }
    }

    /// What to hand to [`LogReader::arm`], read before looking.
    #[must_use]
    pub fn begin_look(&self) -> u32 {
        self.ring.bell().begin_look()
    }

    /// Whether the thread may sleep until the doorbell is readable: nothing came since `begin_look` returned `seen`.
    #[must_use]
    pub fn arm(&self, seen: u32) -> bool {
        self.ring.bell().arm(seen)
    }
}
