//! A writer's end: a record as a part of a transaction, and what happens around it.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::time::{Duration, Instant};

use crate::objects::StateError;
use crate::objects::layout::header::LOG_TAIL;
use crate::objects::steps::step;
use crate::objects::transaction::Transaction;
use crate::objects::words::Space;
use crate::segment::AttachError;
use crate::sync::{Ordering, full_fence, sleep_low_half};

use super::limits::RECORD_BYTES_MAX;
use super::memory::Ring;

/// Longest sleep between two looks for room, for a server that died on its way to wake.
const SLICE: Duration = Duration::from_millis(20);

/// The ring as workers and the server's recovery write to it.
#[derive(Debug)]
pub struct LogWriter {
    ring: Ring,
    /// Write end of the pipe on which the server's thread sleeps.
    doorbell: OwnedFd,
}

/// A record that is being written.
#[derive(Debug)]
pub(crate) struct Appending<'l> {
    ring: &'l Ring,
    at: u64,
    end: u64,
}

impl LogWriter {
    /// Server: the ring of a process, of `bytes`. `doorbell` is the write end of a pipe that does not block.
    ///
    /// # Errors
    /// The system's, for want of descriptors or memory.
    ///
    /// # Panics
    /// If `bytes` is no power of two from [`LOG_BYTES_MIN`](super::LOG_BYTES_MIN) to [`LOG_BYTES_MAX`](super::LOG_BYTES_MAX).
    pub fn create(bytes: u64, doorbell: OwnedFd) -> io::Result<Self> {
        Ok(Self { ring: Ring::create(bytes)?, doorbell })
    }

    /// Worker: the ring behind a descriptor.
    ///
    /// # Errors
    /// [`AttachError`] when it is not a ring of this size and version.
    pub fn attach(fd: OwnedFd, bytes: u64, doorbell: OwnedFd) -> Result<Self, AttachError> {
        Ok(Self { ring: Ring::attach(fd, bytes)?, doorbell })
    }

    /// The descriptor, for handing out.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.ring.fd()
    }

    /// The doorbell, for handing out.
    #[must_use]
    pub fn doorbell(&self) -> BorrowedFd<'_> {
        use std::os::fd::AsFd;
        self.doorbell.as_fd()
    }

    /// Bytes of the ring.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.ring.bytes()
    }

    /// How many bytes all who write to it say they have committed, without end: it goes round at 2^64. The word of workers.
    #[must_use]
    pub fn written_bytes(&self) -> u64 {
        self.ring.words().committed.load(Ordering::Relaxed)
    }

    /// Room for a record of `bytes` behind the tail, which moves with the transaction.
    pub(crate) fn append<'l>(
        &'l self,
        transaction: &mut Transaction<'_>,
        bytes: usize,
    ) -> Result<Appending<'l>, StateError> {
        if bytes > RECORD_BYTES_MAX || !bytes.is_multiple_of(8) {
            return Err(StateError::corrupt("size of a record", LOG_TAIL));
        }
        let (tail, needed) = (transaction.load(LOG_TAIL), bytes as u64);
        let free_bytes = self.free_bytes(tail);
        if free_bytes < needed {
            return Err(self.full(needed, free_bytes));
        }
        transaction.store(LOG_TAIL, tail.wrapping_add(needed))?;
        Ok(Appending { ring: &self.ring, at: tail, end: tail.wrapping_add(needed) })
    }

    #[cold]
    fn full(&self, needed_bytes: u64, free_bytes: u64) -> StateError {
        let (capacity_bytes, waited) = (self.ring.bytes(), Duration::ZERO);
        StateError::LogFull { needed_bytes, free_bytes, capacity_bytes, waited }
    }

    /// Bytes behind `tail` that nobody needs. Junk in the server's word is no room at all.
    fn free_bytes(&self, tail: u64) -> u64 {
        let used = tail.wrapping_sub(self.ring.words().consumed.load(Ordering::Acquire));
        self.ring.bytes().saturating_sub(used)
    }

    /// Under the lock, between transactions: all up to the tail is committed. True if the server's thread sleeps, and is to be
    /// woken once the lock is given back.
    #[must_use = "nobody else wakes the server"]
    #[inline]
    pub(crate) fn publish(&self, tail: u64) -> bool {
        let committed = &self.ring.words().committed;
        if committed.load(Ordering::Relaxed) == tail {
            return false;
        }
        // Release pairs with the Acquire of the reader, who then reads the records.
        committed.store(tail, Ordering::Release);
        step();
        self.ring.bell().ring()
    }

    /// Wakes the server's thread. Without room in the pipe it is awake; without a reader nobody sleeps.
    #[cold]
    pub(crate) fn wake_reader(&self) {
        let _ = rustix::io::write(&self.doorbell, &[1]);
    }

    /// Sleeps, without the lock, until there may be room for `needed_bytes`, or `until`; false if it is over.
    pub(crate) fn wait_for_room(&self, space: Space<'_>, needed_bytes: u64, until: Instant) -> bool {
        let words = self.ring.words();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let seen = words.consumed.load(Ordering::Acquire);
            words.waits_for_room.store(1, Ordering::Relaxed);
            // Pairs with the fence of the reader between its store to `consumed` and its look at who waits.
            full_fence();
            if self.free_bytes(space.words.load_acquire(LOG_TAIL)) >= needed_bytes {
                return true;
            }
            sleep_low_half(&words.consumed, seen, left.min(SLICE));
            if words.consumed.load(Ordering::Acquire) != seen {
                return true;
            }
        }
    }
}

impl Appending<'_> {
    /// One word.
    #[inline]
    pub(crate) fn word(&mut self, word: u64) {
        self.ring.word(self.at).store(word, Ordering::Relaxed);
        self.advance(8);
    }

    /// Bytes, and zeroes to the end of their last word.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.end_with_zeroes(bytes.len());
        self.ring.write(self.at, bytes);
        self.advance(bytes.len().next_multiple_of(8));
    }

    /// The same of shared memory.
    ///
    /// # Safety
    /// `source` must be mapped and readable for `bytes`, and not lie in a ring.
    pub(crate) unsafe fn shared(&mut self, source: NonNull<u8>, bytes: usize) {
        self.end_with_zeroes(bytes);
        // SAFETY: the caller's promise.
        unsafe { self.ring.write_shared(self.at, source, bytes) };
        self.advance(bytes.next_multiple_of(8));
    }

    fn end_with_zeroes(&self, bytes: usize) {
        if !bytes.is_multiple_of(8) {
            self.ring.word(self.at.wrapping_add(bytes as u64 & !7)).store(0, Ordering::Relaxed);
        }
    }

    #[inline]
    fn advance(&mut self, bytes: usize) {
        self.at = self.at.wrapping_add(bytes as u64);
    }

    /// All of it was written: by the size that was asked for.
    pub(crate) fn finish(self) {
        debug_assert_eq!(self.at, self.end, "a record is as long as it was announced");
    }
}
