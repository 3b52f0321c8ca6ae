//! Giving the pages of large free blocks back to the system.
//!
//! Freed blocks keep their pages, since touching a fresh page costs microseconds; a process that has shrunk gives them back
//! in the server's idle time. A block to be trimmed is taken on loan, so that the lock is not held over the system call and
//! a death in between leaves a loan like any other.

use super::error::StateError;
use super::granule::GRANULE_BYTES;
use super::heap;
use super::limits::LOANS_PER_WORKER;
use super::store::Store;
use super::write;

/// Smallest block that is worth a system call.
const BLOCK_BYTES_MIN: u64 = 64 << 10;
const PAGE_BYTES: u64 = 4096;
/// Bytes of a free block that stay: its header and links.
const KEPT_BYTES: u64 = 2 * GRANULE_BYTES;

impl Store {
    /// Gives the whole pages of the largest free blocks back, of at most [`LOANS_PER_WORKER`] blocks a call. Returns the
    /// bytes that the segment takes less than before. Meanwhile, for as long as the system needs, those blocks are not
    /// free, and a put may find the state full.
    ///
    /// # Errors
    /// [`StateError::Busy`], [`StateError::Corrupt`].
    pub fn trim(&self) -> Result<u64, StateError> {
        let before = self.objects().allocated_bytes().unwrap_or(0);
        let mut taken = Vec::with_capacity(LOANS_PER_WORKER);
        let mut result = Ok(());
        while taken.len() < LOANS_PER_WORKER {
            match self.take_largest() {
                Ok(Some((slot, offset, bytes))) => {
                    taken.push(slot);
                    self.punch(offset, bytes);
                }
                Ok(None) => break,
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        taken.into_iter().for_each(|slot| self.give_loan_back(slot));
        result?;
        Ok(before.saturating_sub(self.objects().allocated_bytes().unwrap_or(before)))
    }

    /// The largest free block on loan: its slot, and where it lies.
    fn take_largest(&self) -> Result<Option<(usize, u64, u64)>, StateError> {
        self.with_lock(|locked, _| {
            let granules = heap::largest_free_granules(locked.space());
            let Some(slot) = self.free_loan().filter(|_| granules * GRANULE_BYTES >= BLOCK_BYTES_MIN) else {
                return Ok(None);
            };
            let Ok(granules) = u32::try_from(granules) else { return Ok(None) };
            let place = match write::lend_free(locked, self.row(), slot, granules) {
                Ok(place) => place,
                Err(StateError::Full { .. }) => return Ok(None),
                Err(error) => return Err(error),
            };
            self.loan_begins(slot);
            Ok(Some((slot, place.offset() as u64, u64::from(granules) * GRANULE_BYTES)))
        })
    }

    /// Gives the whole pages inside a block back. A refusal by the system costs the memory only.
    fn punch(&self, offset: u64, bytes: u64) {
        let first = (offset + KEPT_BYTES).next_multiple_of(PAGE_BYTES);
        let end = (offset + bytes) / PAGE_BYTES * PAGE_BYTES;
        if first < end {
            let flags = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
            let _ = rustix::fs::fallocate(self.objects().fd(), flags, first, end - first);
        }
    }
}
