//! Memory that both sides of a floor map: an unnamed memfd, mapped whole and present before the first round.
//!
//! Both sides are this program, so nothing in here distrusts the other; the sizes are checked all the same.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};

use rustix::fs::{MemfdFlags, fstat, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::FloorError;

/// A type that may be viewed in shared memory.
///
/// # Safety
/// The type consists of atomics and padding only, is valid for every bit pattern and has no drop glue.
pub(super) unsafe trait Shareable: Sync {}

/// A mapped memfd; unmapped when dropped. The memory lives as long as either side maps it.
#[derive(Debug)]
pub(super) struct Mapping {
    base: NonNull<u8>,
    length_bytes: usize,
    memfd: OwnedFd,
}

// SAFETY: the mapping is plain memory that belongs to no thread; it is reached through atomics (`view`) or through raw
// pointers whose users order their accesses themselves.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Makes zeroed memory of `length_bytes`.
    pub(super) fn create(length_bytes: usize) -> Result<Self, FloorError> {
        let memfd = memfd_create("praas-floor", MemfdFlags::CLOEXEC).map_err(FloorError::system("create a memfd"))?;
        ftruncate(&memfd, length_bytes as u64).map_err(FloorError::system("size a memfd"))?;
        Self::map(memfd, length_bytes)
    }

    /// Maps the memory that the other side made.
    pub(super) fn attach(memfd: OwnedFd) -> Result<Self, FloorError> {
        let status = fstat(&memfd).map_err(FloorError::system("read a memfd's size"))?;
        let length_bytes = usize::try_from(status.st_size).unwrap_or(0);
        Self::map(memfd, length_bytes)
    }

    fn map(memfd: OwnedFd, length_bytes: usize) -> Result<Self, FloorError> {
        // SAFETY: a fresh mapping at an address of the kernel's choice touches no existing memory.
        let address = unsafe {
            mmap(
                ptr::null_mut(),
                length_bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::POPULATE,
                &memfd,
                0,
            )
        }
        .map_err(FloorError::system("map a memfd"))?;
        Ok(Self {
            base: NonNull::new(address.cast()).expect("the kernel maps nothing at address zero"),
            length_bytes,
            memfd,
        })
    }

    /// The memory, for the other side.
    pub(super) fn memfd(&self) -> BorrowedFd<'_> {
        self.memfd.as_fd()
    }

    /// The value at the start of the memory.
    pub(super) fn view<T: Shareable>(&self) -> &T {
        assert!(size_of::<T>() <= self.length_bytes, "the mapping holds the value");
        // SAFETY: the base is page-aligned, the size was checked above, the memory is mapped as long as `self` lives,
        // and `Shareable` promises atomics that are valid for any bytes.
        unsafe { self.base.cast::<T>().as_ref() }
    }

    /// The address of the bytes from `offset` on, of which there are `length_bytes`.
    pub(super) fn bytes(&self, offset: usize, length_bytes: usize) -> NonNull<u8> {
        let end = offset.checked_add(length_bytes).expect("an offset within memory");
        assert!(end <= self.length_bytes, "the mapping holds the bytes");
        // SAFETY: the offset lies inside the mapping, as checked above.
        unsafe { self.base.add(offset) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this very range was mapped by `map`; every view borrows `self` and has ended. Unmapping one's own
        // range does not fail.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.length_bytes) };
    }
}
