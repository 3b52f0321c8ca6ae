//! The host's own file system.
//!
//! Files are read and written directly where the file system does that: a snapshot is read once and would only push what is
//! needed out of the page cache. Elsewhere (a memory file system, say) they go through the page cache; nobody else sees the
//! difference. Memory and lengths that direct operations cannot take are copied through a buffer here.

use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use praas_sys::{DiskRing, Errno};
use rustix::fs::{
    AtFlags, CWD, Dir, FallocateFlags, FlockOperation, Mode, OFlags, RenameFlags, StatxFlags, fallocate, fdatasync,
    fstat, fsync, ftruncate, linkat, mkdirat, openat, renameat_with, statat, statx, unlinkat,
};
use rustix::io::retry_on_intr;

use super::layer::{Access, FileLayer, FolderLock, StoredFile};
use super::locks::lock_within_limit;
use crate::buffer::{AlignedBuffer, BLOCK_BYTES};

/// Bytes of a buffer through which memory goes that a disk cannot take: several operations' worth.
const BOUNCE_BYTES: usize = 4 << 20;

/// Rings and buffers that are kept for the next call: as many threads as move chunks at once.
const IDLE_MAX: usize = 8;

/// What is kept from call to call.
#[derive(Default)]
struct Idle {
    rings: Vec<DiskRing>,
    buffers: Vec<AlignedBuffer>,
}

/// The host's file system; clones are the same.
#[derive(Clone, Default)]
pub struct HostFiles {
    idle: Arc<Mutex<Idle>>,
}

/// An open file of it.
struct HostFile {
    file: OwnedFd,
    /// What memory of direct operations must begin on; `None` where all goes through the page cache.
    memory_align: Option<usize>,
    files: HostFiles,
}

impl fmt::Debug for HostFiles {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("HostFiles")
    }
}

impl fmt::Debug for HostFile {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("HostFile").field("file", &self.file).field("memory_align", &self.memory_align).finish()
    }
}

impl HostFiles {
    /// The host's file system.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn with_idle<T>(&self, work: impl FnOnce(&mut Idle) -> T) -> T {
        // Every statement leaves it whole.
        work(&mut self.idle.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn with_ring<T>(&self, work: impl FnOnce(&mut DiskRing) -> T) -> T {
        let mut ring = self.with_idle(|idle| idle.rings.pop()).unwrap_or_else(DiskRing::open);
        let result = work(&mut ring);
        self.with_idle(|idle| {
            if idle.rings.len() < IDLE_MAX {
                idle.rings.push(ring);
            }
        });
        result
    }

    fn with_buffer<T>(&self, work: impl FnOnce(&mut AlignedBuffer) -> T) -> T {
        let mut buffer = self.with_idle(|idle| idle.buffers.pop()).unwrap_or_else(|| AlignedBuffer::new(BOUNCE_BYTES));
        let result = work(&mut buffer);
        self.with_idle(|idle| {
            if idle.buffers.len() < IDLE_MAX {
                idle.buffers.push(buffer);
            }
        });
        result
    }

    fn open_file(&self, path: &Path, flags: OFlags) -> Result<Box<dyn StoredFile>, Errno> {
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let open = |flags| retry_on_intr(|| openat(CWD, path, flags, Mode::RUSR | Mode::WUSR));
        let (file, is_direct) = match open(flags | OFlags::DIRECT) {
            Ok(file) => (file, true),
            // Whoever refuses direct operations may have made the file all the same.
            Err(Errno::INVAL) => (open(flags - OFlags::EXCL)?, false),
            Err(errno) => return Err(errno),
        };
        let memory_align = if is_direct { memory_align_of(&file) } else { None };
        if is_direct && memory_align.is_none() {
            rustix::fs::fcntl_setfl(&file, OFlags::empty())?;
        }
        Ok(Box::new(HostFile { file, memory_align, files: self.clone() }))
    }
}

/// What memory has to begin on for direct operations in blocks; `None` if this file cannot have them.
fn memory_align_of(file: &OwnedFd) -> Option<usize> {
    let Ok(told) = statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN) else { return Some(BLOCK_BYTES) };
    if told.stx_mask & StatxFlags::DIOALIGN.bits() == 0 {
        // A kernel before 6.1 does not tell. Blocks suit every disk that such kernels drive.
        return Some(BLOCK_BYTES);
    }
    let (memory, offset) = (told.stx_dio_mem_align as usize, told.stx_dio_offset_align as usize);
    let suits = memory.is_power_of_two() && memory <= BLOCK_BYTES && offset.is_power_of_two() && offset <= BLOCK_BYTES;
    suits.then_some(memory)
}

impl FileLayer for HostFiles {
    fn make_directory(&self, path: &Path) -> Result<(), Errno> {
        mkdirat(CWD, path, Mode::RWXU)
    }

    fn remove_directory(&self, path: &Path) -> Result<(), Errno> {
        unlinkat(CWD, path, AtFlags::REMOVEDIR)
    }

    fn sync_directory(&self, path: &Path) -> Result<(), Errno> {
        let directory = openat(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        retry_on_intr(|| fsync(&directory))
    }

    fn lock_directory(&self, path: &Path) -> Result<FolderLock, Errno> {
        let directory = openat(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        lock_within_limit(&directory, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Box::new(directory))
    }

    fn list(&self, path: &Path, each: &mut dyn FnMut(&str)) -> Result<(), Errno> {
        let directory = openat(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        for entry in Dir::read_from(&directory)? {
            match entry?.file_name().to_str() {
                // A name that is no text is none of ours.
                Ok("." | "..") | Err(_) => {}
                Ok(name) => each(name),
            }
        }
        Ok(())
    }

    fn create(&self, path: &Path) -> Result<Box<dyn StoredFile>, Errno> {
        self.open_file(path, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL)
    }

    fn open(&self, path: &Path, access: Access) -> Result<Box<dyn StoredFile>, Errno> {
        self.open_file(path, if access == Access::Read { OFlags::RDONLY } else { OFlags::RDWR })
    }

    fn rename_new(&self, from: &Path, to: &Path) -> Result<(), Errno> {
        match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            // A file system that does not know the flag: a second name excludes others just as well.
            Err(Errno::INVAL | Errno::NOSYS) => {
                linkat(CWD, from, CWD, to, AtFlags::empty())?;
                unlinkat(CWD, from, AtFlags::empty())
            }
            renamed => renamed,
        }
    }

    fn remove(&self, path: &Path) -> Result<(), Errno> {
        unlinkat(CWD, path, AtFlags::empty())
    }

    fn bytes(&self, path: &Path) -> Result<u64, Errno> {
        let stat = statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW)?;
        u64::try_from(stat.st_size).map_err(|_| Errno::OVERFLOW)
    }
}

/// Whether memory begins where a direct operation may.
fn begins_on(memory: &[u8], align: usize) -> bool {
    memory.as_ptr().addr().is_multiple_of(align)
}

impl HostFile {
    /// Writes whole blocks out of memory that suits, then the rest through a buffer.
    fn write_directly(&self, offset: u64, bytes: &[u8], align: usize) -> Result<(), Errno> {
        let whole = if begins_on(bytes, align) { bytes.len() - bytes.len() % BLOCK_BYTES } else { 0 };
        self.files.with_ring(|ring| ring.write(self.file.as_fd(), offset, &bytes[..whole]))?;
        self.files.with_buffer(|buffer| {
            for (index, piece) in bytes[whole..].chunks(BOUNCE_BYTES).enumerate() {
                let padded = piece.len().next_multiple_of(BLOCK_BYTES);
                buffer[..piece.len()].copy_from_slice(piece);
                buffer[piece.len()..padded].fill(0);
                let offset = offset + (whole + index * BOUNCE_BYTES) as u64;
                self.files.with_ring(|ring| ring.write(self.file.as_fd(), offset, &buffer[..padded]))?;
            }
            Ok(())
        })?;
        if bytes.len().is_multiple_of(BLOCK_BYTES) {
            return Ok(());
        }
        retry_on_intr(|| ftruncate(&self.file, offset + bytes.len() as u64))
    }

    /// Reads whole blocks into memory that suits, everything else through a buffer.
    fn read_directly(&self, offset: u64, into: &mut [u8], align: usize) -> Result<usize, Errno> {
        let ahead = usize::try_from(offset % BLOCK_BYTES as u64).unwrap_or_default();
        let suits = ahead == 0 && begins_on(into, align);
        let whole = if suits { into.len() - into.len() % BLOCK_BYTES } else { 0 };
        let mut filled = self.files.with_ring(|ring| ring.read(self.file.as_fd(), offset, &mut into[..whole]))?;
        if filled < whole {
            return Ok(filled);
        }
        self.files.with_buffer(|buffer| {
            while filled < into.len() {
                let at = offset + filled as u64;
                let ahead = usize::try_from(at % BLOCK_BYTES as u64).unwrap_or_default();
                let wanted = (ahead + into.len() - filled).next_multiple_of(BLOCK_BYTES).min(BOUNCE_BYTES);
                let piece = &mut buffer[..wanted];
                let read = self.files.with_ring(|ring| ring.read(self.file.as_fd(), at - ahead as u64, piece))?;
                let useful = read.saturating_sub(ahead).min(into.len() - filled);
                into[filled..filled + useful].copy_from_slice(&buffer[ahead..ahead + useful]);
                filled += useful;
                if read < wanted {
                    break;
                }
            }
            Ok(filled)
        })
    }
}

impl StoredFile for HostFile {
    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), Errno> {
        match self.memory_align {
            _ if !offset.is_multiple_of(BLOCK_BYTES as u64) => Err(Errno::INVAL),
            Some(align) => self.write_directly(offset, bytes, align),
            None => self.files.with_ring(|ring| ring.write(self.file.as_fd(), offset, bytes)),
        }
    }

    fn write_through(&self, offset: u64, bytes: &[u8]) -> Result<(), Errno> {
        let suits = bytes.len().is_multiple_of(BLOCK_BYTES)
            && bytes.len() <= praas_sys::disk_ring::PIECE_BYTES
            && self.memory_align.is_none_or(|align| begins_on(bytes, align));
        if !suits {
            self.write(offset, bytes)?;
            return self.sync();
        }
        praas_sys::disk_ring::write_through(self.file.as_fd(), offset, bytes)
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> Result<usize, Errno> {
        match self.memory_align {
            Some(align) => self.read_directly(offset, into, align),
            None => self.files.with_ring(|ring| ring.read(self.file.as_fd(), offset, into)),
        }
    }

    fn bytes(&self) -> Result<u64, Errno> {
        u64::try_from(fstat(&self.file)?.st_size).map_err(|_| Errno::OVERFLOW)
    }

    fn reserve(&self, bytes: u64) -> Result<(), Errno> {
        retry_on_intr(|| fallocate(&self.file, FallocateFlags::empty(), 0, bytes))
    }

    fn sync(&self) -> Result<(), Errno> {
        // The length is among what this makes lasting; times are not.
        retry_on_intr(|| fdatasync(&self.file))
    }
}
