//! Segments: memfds of fixed size, sealed so that no holder can shrink or grow them, mapped for as long as they are used.
//!
//! Ownership: a [`Segment`] owns its descriptor and its mapping; both go when it is dropped. The memory itself lives until
//! the last process that holds a descriptor or a mapping is gone; there is no name that could be left behind.
//!
//! Invariants:
//! 1. Size and seals are checked before mapping, so no access within `bytes` can raise SIGBUS for want of backing (except
//!    for a memory limit of the control group, which kills the process that touches the page).
//! 2. Mappings are MADV_DONTFORK and descriptors close on exec: a child of a worker or client inherits neither.
//! 3. No reference to the mapped bytes is formed but to atomics; see [`crate::copy`].

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{Advice, MapFlags, ProtFlags};

use crate::copy;

/// The seals without which a segment is not attached: nobody can change its size under a mapping.
const FIXED_SIZE: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

/// Why a descriptor was not attached as a segment.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// Its size is not what the server's message said.
    #[error("the segment has {actual_bytes} bytes, {expected_bytes} were announced")]
    Size {
        /// Bytes of the file.
        actual_bytes: u64,
        /// Bytes announced.
        expected_bytes: u64,
    },
    /// It could be resized under the mapping.
    #[error("the segment is not sealed against resizing")]
    NotSealed,
    /// It does not start with the magic number of its kind.
    #[error("the segment does not start as a {kind} does (magic {actual:#018x})")]
    Magic {
        /// What was expected.
        kind: &'static str,
        /// What stands there.
        actual: u64,
    },
    /// It was laid out by another version.
    #[error(
        "the {kind} has layout version {actual}, this program understands {expected}: use the same release everywhere"
    )]
    Version {
        /// What was expected.
        kind: &'static str,
        /// What stands there.
        actual: u32,
        /// What this program writes and reads.
        expected: u32,
    },
    /// Its announced sizes are outside the limits.
    #[error(transparent)]
    Geometry(#[from] crate::layout::GeometryError),
    /// The system refused to inspect or map it.
    #[error("cannot map the segment: {0}")]
    System(#[from] io::Error),
}

impl From<rustix::io::Errno> for AttachError {
    fn from(error: rustix::io::Errno) -> Self {
        Self::System(error.into())
    }
}

/// A mapped shared-memory segment.
#[derive(Debug)]
pub struct Segment {
    fd: OwnedFd,
    map: Mapping,
}

impl Segment {
    /// A fresh, zeroed segment of `bytes`, mapped read-write and sealed against resizing and further seals.
    /// `name` appears in `/proc/PID/maps` only.
    ///
    /// # Errors
    /// The system's, for want of descriptors or memory.
    pub fn create(name: &str, bytes: usize) -> io::Result<Self> {
        Self::create_with_seals(name, bytes, SealFlags::empty())
    }

    /// Like [`Segment::create`], but once this mapping exists nobody can make another writable one.
    pub(crate) fn create_sole_writer(name: &str, bytes: usize) -> io::Result<Self> {
        Self::create_with_seals(name, bytes, SealFlags::FUTURE_WRITE)
    }

    fn create_with_seals(name: &str, bytes: usize, extra: SealFlags) -> io::Result<Self> {
        let name = CString::new(name)?;
        let fd = rustix::fs::memfd_create(&name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&fd, bytes as u64)?;
        let map = Mapping::new(fd.as_fd(), bytes, ProtFlags::READ | ProtFlags::WRITE)?;
        rustix::fs::fcntl_add_seals(&fd, FIXED_SIZE | extra)?;
        Ok(Self { fd, map })
    }

    /// The segment behind a descriptor that came from another process.
    ///
    /// # Errors
    /// [`AttachError`] when its size is not `expected_bytes` or it is not sealed.
    pub fn attach(fd: OwnedFd, expected_bytes: usize) -> Result<Self, AttachError> {
        Self::attach_with(fd, expected_bytes, ProtFlags::READ | ProtFlags::WRITE)
    }

    /// Like [`Segment::attach`], for a segment that this process only reads.
    pub(crate) fn attach_read_only(fd: OwnedFd, expected_bytes: usize) -> Result<Self, AttachError> {
        Self::attach_with(fd, expected_bytes, ProtFlags::READ)
    }

    fn attach_with(fd: OwnedFd, expected_bytes: usize, protection: ProtFlags) -> Result<Self, AttachError> {
        if !rustix::fs::fcntl_get_seals(&fd)?.contains(FIXED_SIZE) {
            return Err(AttachError::NotSealed);
        }
        let actual_bytes = rustix::fs::fstat(&fd)?.st_size.unsigned_abs();
        if actual_bytes != expected_bytes as u64 {
            return Err(AttachError::Size { actual_bytes, expected_bytes: expected_bytes as u64 });
        }
        let map = Mapping::new(fd.as_fd(), expected_bytes, protection)?;
        Ok(Self { fd, map })
    }

    /// The descriptor, for handing out.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The size in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.map.bytes
    }

    /// Bytes that are backed by memory now; the rest is sparse.
    ///
    /// # Errors
    /// The system's.
    pub fn allocated_bytes(&self) -> io::Result<u64> {
        // st_blocks counts units of 512 bytes whatever the file system, see stat(2).
        Ok(rustix::fs::fstat(&self.fd)?.st_blocks.unsigned_abs() * 512)
    }

    /// The address of byte `offset`.
    ///
    /// # Panics
    /// If `offset..offset + bytes` is not inside the segment.
    #[inline]
    pub(crate) fn at(&self, offset: usize, bytes: usize) -> NonNull<u8> {
        assert!(offset.checked_add(bytes).is_some_and(|end| end <= self.map.bytes), "outside the segment");
        // SAFETY: the offset is within the mapping, checked above.
        unsafe { self.map.start.add(offset) }
    }

    /// Copies private bytes to `offset`, by a call of the kernel: for memory that is probably fresh. There it costs half of what storing
    /// does, which has each page cleared first and takes a fault for it.
    ///
    /// # Panics
    /// As for [`Segment::at`].
    pub(crate) fn write(&self, offset: usize, bytes: &[u8]) {
        let place = self.at(offset, bytes.len());
        let mut done = 0;
        while done < bytes.len() {
            match rustix::io::pwrite(&self.fd, &bytes[done..], (offset + done) as u64) {
                Ok(0) | Err(_) => break,
                Ok(written) => done += written,
            }
        }
        // What a seal or a lack of memory kept the kernel from.
        // SAFETY: the range is within the mapping, which is writable for whoever has a segment to write into.
        unsafe { copy::to_shared(&bytes[done..], place.add(done)) };
    }

    /// A table of `count` structures of atomics at `offset`.
    ///
    /// # Panics
    /// If it is not inside the segment or not aligned; offsets come from [`crate::layout`].
    ///
    /// # Safety
    /// `T` must consist of atomics only, for which every bit pattern is valid, and no other type may overlap it.
    #[inline]
    pub(crate) unsafe fn table<T>(&self, offset: usize, count: usize) -> &[T] {
        let bytes = count.checked_mul(size_of::<T>()).expect("a table fits the address space");
        let start = self.at(offset, bytes).cast::<T>();
        assert!(start.is_aligned(), "tables are aligned by their layout");
        // SAFETY: inside the mapping and aligned, checked above; the mapping lives as long as `self`; `T` is atomics only
        // (the caller's promise), so writes by other processes are not data races.
        unsafe { std::slice::from_raw_parts(start.as_ptr(), count) }
    }

    /// One structure of atomics at `offset`.
    ///
    /// # Safety
    /// As for [`Segment::table`].
    #[inline]
    pub(crate) unsafe fn place<T>(&self, offset: usize) -> &T {
        // SAFETY: the caller's promise is the same.
        unsafe { &self.table::<T>(offset, 1)[0] }
    }
}

/// An address range of this process that shows a file.
#[derive(Debug)]
struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the mapping is plain memory that stays where it is until drop; all access goes through atomics and `copy`.
unsafe impl Send for Mapping {}
// SAFETY: as above; shared access is what the segment is for.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(fd: BorrowedFd<'_>, bytes: usize, protection: ProtFlags) -> io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice disturbs nothing.
        let start = unsafe { rustix::mm::mmap(std::ptr::null_mut(), bytes, protection, MapFlags::SHARED, fd, 0) }?;
        let start = NonNull::new(start.cast::<u8>()).ok_or(io::ErrorKind::InvalidData)?;
        let map = Self { start, bytes };
        // SAFETY: the range was mapped above and DontFork changes nothing in this process.
        unsafe { rustix::mm::madvise(map.start.as_ptr().cast(), bytes, Advice::LinuxDontFork) }?;
        Ok(map)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is ours, and every reference into it borrows the segment that owns this mapping.
        // An error would mean that the range is not a mapping, which the type excludes.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_is_zeroed_and_shared_with_whoever_attaches_it() {
        let segment = Segment::create("test", 8192).unwrap();
        let other = Segment::attach(segment.fd().try_clone_to_owned().unwrap(), 8192).unwrap();
        // SAFETY: atomics only, and nothing else uses this segment.
        let (here, there) = unsafe {
            (segment.place::<std::sync::atomic::AtomicU64>(64), other.place::<std::sync::atomic::AtomicU64>(64))
        };
        assert_eq!(there.load(std::sync::atomic::Ordering::Relaxed), 0);
        here.store(7, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(there.load(std::sync::atomic::Ordering::Relaxed), 7);
    }

    #[test]
    fn what_is_written_is_seen_where_the_mapping_has_it_whether_or_not_the_kernel_takes_it() {
        let bytes: Vec<u8> = (0..9000_u32).map(|at| (at % 251) as u8).collect();
        let sealed = Segment::create_sole_writer("test", 16384).unwrap();
        for segment in [Segment::create("test", 16384).unwrap(), sealed] {
            segment.write(100, &bytes);
            let mut seen = vec![0; 9002];
            // SAFETY: within the segment, which nobody else uses.
            unsafe { copy::from_shared(segment.at(99, 9002), &mut seen) };
            assert_eq!((seen[0], seen[9001]), (0, 0));
            assert_eq!(seen[1..9001], bytes);
        }
    }

    #[test]
    fn wrong_sizes_and_unsealed_files_are_refused() {
        let segment = Segment::create("test", 8192).unwrap();
        for bytes in [0, 1, 4096, 8191, 8193, 1 << 40] {
            let fd = segment.fd().try_clone_to_owned().unwrap();
            assert!(matches!(Segment::attach(fd, bytes), Err(AttachError::Size { actual_bytes: 8192, .. })));
        }
        let unsealed = rustix::fs::memfd_create(c"unsealed", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::fs::ftruncate(&unsealed, 8192).unwrap();
        assert!(matches!(Segment::attach(unsealed, 8192), Err(AttachError::NotSealed)));
        let (pipe, _write) = rustix::pipe::pipe().unwrap();
        assert!(Segment::attach(pipe, 8192).is_err());
    }

    #[test]
    fn nobody_can_resize_a_segment() {
        let segment = Segment::create("test", 8192).unwrap();
        assert!(rustix::fs::ftruncate(segment.fd(), 4096).is_err());
        assert!(rustix::fs::ftruncate(segment.fd(), 16384).is_err());
    }

    #[test]
    fn a_sole_writer_stays_the_only_one() {
        let segment = Segment::create_sole_writer("test", 4096).unwrap();
        let fd = || segment.fd().try_clone_to_owned().unwrap();
        assert!(Segment::attach(fd(), 4096).is_err(), "a second writable mapping was made");
        let reader = Segment::attach_read_only(fd(), 4096).unwrap();
        // SAFETY: atomics only, and nothing else uses this segment.
        let (writes, reads) = unsafe {
            (segment.place::<std::sync::atomic::AtomicU64>(0), reader.place::<std::sync::atomic::AtomicU64>(0))
        };
        writes.store(3, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(reads.load(std::sync::atomic::Ordering::Relaxed), 3);
    }
}
