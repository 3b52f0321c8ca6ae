//! The server's end of a ring: copies committed records out, and says what it no longer needs.
//!
//! Whatever stands in the ring was written by a tenant's workers: positions are compared with what this end knows by itself,
//! and bytes are decoded in the private copy.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use crate::segment::AttachError;
use crate::spin::SpinHistory;
use crate::sync::{Ordering, full_fence, wake_low_half};

use super::memory::Ring;
use super::record::{BadRecord, Records};
use super::streams::Streams;

/// What is wrong with a ring: its process cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RingError {
    /// It is no ring.
    #[error("its log ring cannot be used: {reason}")]
    Attach {
        /// Why not.
        reason: String,
    },
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
    /// Up to where it has read.
    read: u64,
    /// Up to where writers may overwrite.
    released: u64,
    position: u64,
    streams: Streams,
    history: SpinHistory,
}

impl LogReader {
    /// The reader of a new ring, whose first record has the position after `position`.
    ///
    /// # Errors
    /// [`AttachError`] when it is not a ring of this size and version.
    pub fn attach(fd: OwnedFd, bytes: u64, position: u64) -> Result<Self, AttachError> {
        let ring = Ring::attach(fd, bytes)?;
        Ok(Self { ring, read: 0, released: 0, position, streams: Streams::default(), history: SpinHistory::default() })
    }

    /// The reader of a ring whose last reader has died, as whose writers all have. `durable` is how far the log goes that it was
    /// read into, and has to be known unless nothing was ever released; `position` is that of the process. It goes on with
    /// the first record that the log does not have.
    ///
    /// # Errors
    /// [`RingError`] when the two do not join: the ring has something else than what the log lacks.
    pub fn resume(fd: OwnedFd, bytes: u64, durable: Option<u64>, position: u64) -> Result<Self, RingError> {
        let ring = Ring::attach(fd, bytes).map_err(|error| RingError::Attach { reason: error.to_string() })?;
        let words = ring.words();
        let (released, committed) = (words.consumed.load(Ordering::Acquire), words.committed.load(Ordering::Acquire));
        let left = committed.wrapping_sub(released);
        if left > bytes || !left.is_multiple_of(8) || !released.is_multiple_of(8) || durable.is_none() && released != 0
        {
            return Err(RingError::Positions { committed, consumed: released, bytes });
        }
        let mut copy = vec![0; usize::try_from(left).unwrap_or_default()];
        ring.read(released, &mut copy);
        let mut records = Records::new(&copy);
        let (mut known, mut read, mut last) = (durable, 0, None);
        while let Some(record) =
            records.next_record().map_err(|error| RingError::Record { after: last.unwrap_or_default(), error })?
        {
            let Some(actual) = record.position() else { continue };
            if let Some(after) = last.filter(|last| actual != last.wrapping_add(1)) {
                return Err(RingError::Gap { after, actual });
            }
            // Of a ring of which nothing was released, the first record says where the log is to begin.
            let durable = *known.get_or_insert_with(|| actual.saturating_sub(1));
            if last.is_none() && actual > durable.saturating_add(1) {
                return Err(RingError::Gap { after: durable, actual });
            }
            last = Some(actual);
            if actual <= durable {
                read = records.read_bytes();
            }
        }
        let durable = known.unwrap_or(position);
        let after = last.unwrap_or(durable).max(durable);
        if after != position {
            return Err(RingError::Gap { after, actual: position });
        }
        let read = released.wrapping_add(read as u64);
        let (streams, history) = (Streams::until(position), SpinHistory::default());
        let mut reader = Self { ring, read, released, position: durable, streams, history };
        reader.release();
        Ok(reader)
    }

    /// The last position that was read.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Copies whole records into `into`, which is emptied first: about as many bytes as `most`, which must not be less than a
    /// record may have. Returns the last position among them; the next call goes on behind them, and they stay in the ring until
    /// [`LogReader::release`].
    ///
    /// # Errors
    /// [`RingError`]: the process has failed.
    pub fn read(&mut self, into: &mut Vec<u8>, most: usize) -> Result<u64, RingError> {
        into.clear();
        let committed = self.ring.words().committed.load(Ordering::Acquire);
        let (read, bytes) = (self.read, self.ring.bytes());
        let ready = committed.wrapping_sub(read);
        if committed.wrapping_sub(self.released) > bytes || ready > bytes || !ready.is_multiple_of(8) {
            return Err(RingError::Positions { committed, consumed: read, bytes });
        }
        let ready = usize::try_from(ready).unwrap_or(usize::MAX);
        into.resize(ready.min(most & !7), 0);
        self.ring.read(read, into);
        let is_all = into.len() == ready;
        let mut records = Records::new(into);
        let mut position = self.position;
        loop {
            match records.next_record() {
                Ok(None) => break,
                Ok(Some(record)) => {
                    match record.position() {
                        None => {}
                        Some(next) if next == position.wrapping_add(1) => position = next,
                        Some(actual) => return Err(RingError::Gap { after: position, actual }),
                    }
                    self.streams.note(&record, position);
                }
                Err(BadRecord::Cut { .. }) if !is_all && records.read_bytes() > 0 => break,
                Err(error) => return Err(RingError::Record { after: position, error }),
            }
        }
        let whole = records.read_bytes();
        into.truncate(whole);
        self.read = read.wrapping_add(whole as u64);
        self.position = position;
        Ok(position)
    }

    /// Looks for further records, giving the core to whoever else wants it between two looks: at most for `budget`, and less
    /// and less often where nothing comes. Whether there are any.
    #[must_use]
    pub fn poll(&self, budget: Duration) -> bool {
        if !self.history.should_spin() {
            return self.has_more();
        }
        let until = Instant::now() + budget;
        while !self.has_more() {
            if Instant::now() >= until {
                self.history.miss();
                return false;
            }
            std::thread::yield_now();
        }
        self.history.hit();
        true
    }

    /// Whether records lie behind those that were read.
    #[must_use]
    pub fn has_more(&self) -> bool {
        self.ring.words().committed.load(Ordering::Relaxed) != self.read
    }

    /// What was read so far is no longer needed: writers may go on.
    pub fn release(&mut self) {
        if self.released == self.read {
            return;
        }
        self.released = self.read;
        let words = self.ring.words();
        words.consumed.store(self.released, Ordering::Release);
        // Pairs with the fence of a writer between saying that it waits and looking once more.
        full_fence();
        if words.waits_for_room.load(Ordering::Relaxed) != 0 {
            words.waits_for_room.store(0, Ordering::Relaxed);
            wake_low_half(&words.consumed);
        }
    }

    /// Up to which position a log needs nothing any more once everything up to `position` is kept elsewhere: parts of values
    /// whose records come later lie before it. `None` for nothing.
    #[must_use]
    pub fn not_needed(&mut self, position: u64) -> Option<u64> {
        self.streams.not_needed(position)
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
