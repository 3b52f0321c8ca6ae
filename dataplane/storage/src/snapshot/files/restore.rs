//! A table of files as a directory.
//!
//! The directory is new: whoever else has it gets it only when it is whole. Directories and links come first, by one thread; then files,
//! by several, pieces that lie beside each other in storage with one read; rights and times last, for what is in a directory
//! changes its time.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid, chownat, fchmod, fstat, ftruncate,
    futimens, mkdirat, openat, symlinkat,
};
use rustix::io::{Errno, pwrite};

use super::table::{Chunk, Entry, EntryKind, FileTable, chunk_bytes};
use super::tree::{Stamp, open_beneath, split, stamp_of, words};
use crate::buffer::AlignedBuffer;
use crate::snapshot::error::{Part, SnapshotError};
use crate::snapshot::limits::{BLOB_ALIGN, PIECE_BYTES, READ_BYTES_MAX};
use crate::snapshot::location::Location;
use crate::snapshot::restore::{Apart, Lying, neighbours};
use crate::snapshot::share::share;
use crate::snapshot::stored::Snapshot;

/// Nanoseconds before the last look in which a file may have been written to again without another time of change: kernels count
/// time in ticks of at most 10 ms.
const TICK_NS: i64 = 20_000_000;

/// Files as they were restored: what has the same stamp later is what was restored.
#[derive(Debug)]
pub struct Known {
    /// The checksum of the table.
    table: u64,
    /// Of each of its entries; `None` where a stamp would say nothing.
    stamps: Vec<Option<Stamp>>,
}

impl Known {
    /// Whether it is about this table.
    pub(crate) fn is_of(&self, table: &FileTable) -> bool {
        self.table == table.checksum()
    }

    /// Whether an entry of the table is what has this stamp.
    pub(crate) fn has(&self, entry: usize, stamp: &Stamp) -> bool {
        self.stamps.get(entry).is_some_and(|known| known.as_ref() == Some(stamp))
    }
}

/// A piece that is to be read.
struct Missing<'t> {
    entry: &'t Entry,
    number: usize,
    bytes: u32,
    location: Location,
}

impl Lying for Missing<'_> {
    fn lies(&self) -> (u128, std::ops::Range<u64>) {
        let start = u64::from(self.location.offset);
        (self.location.blob, start..start + u64::from(self.location.stored_bytes))
    }
}

impl Apart for Missing<'_> {
    fn apart(&self) -> bool {
        false
    }
}

/// What a thread reads into.
struct Buffers {
    stored: AlignedBuffer,
    piece: Vec<u8>,
}

struct Placing<'r> {
    snapshot: &'r Snapshot,
    root: OwnedFd,
    owner: Option<u32>,
}

impl Snapshot {
    /// Makes a directory of mode 0700, which must not exist, and restores these files into it. All of it belongs to `owner`, if one is
    /// given.
    ///
    /// # Errors
    /// [`SnapshotError`] names the file. What was made so far is left then.
    pub fn restore_files(
        &self,
        table: &FileTable,
        into: &Path,
        owner: Option<u32>,
        threads: usize,
    ) -> Result<Known, SnapshotError> {
        let made = mkdirat(CWD, into, Mode::RWXU).and_then(|()| {
            openat(CWD, into, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
        });
        let root = made.map_err(|errno| self.not_placed(b".", errno))?;
        let placing = Placing { snapshot: self, root, owner };
        placing.place(table, threads)
    }

    fn not_placed(&self, path: &[u8], errno: Errno) -> SnapshotError {
        SnapshotError::NotPlaced { folder: Box::new(*self.folder()), path: words(path), reason: errno.to_string() }
    }
}

impl Placing<'_> {
    fn place(&self, table: &FileTable, threads: usize) -> Result<Known, SnapshotError> {
        let mut missing = Vec::new();
        for entry in table.entries() {
            self.make(entry).map_err(|errno| self.snapshot.not_placed(&entry.path, errno))?;
            if let EntryKind::File { bytes, chunks } = &entry.kind {
                let pieces = chunks.iter().enumerate().filter(|(_, chunk)| **chunk != Chunk::ZEROS);
                missing.extend(pieces.map(|(number, chunk)| Missing {
                    entry,
                    number,
                    bytes: chunk_bytes(*bytes, number),
                    location: chunk.location,
                }));
            }
        }
        let begin = || Buffers { stored: AlignedBuffer::new(READ_BYTES_MAX + 2 * BLOB_ALIGN), piece: Vec::new() };
        let each = |buffers: &mut Buffers, group: Vec<Missing<'_>>| self.fill(buffers, &group);
        share(threads, neighbours(missing), begin, each, drop)?;
        let mut stamps = vec![None; table.len()];
        // What is in a directory comes behind it.
        for (at, entry) in table.entries().iter().enumerate().rev() {
            stamps[at] = self.finish(entry).map_err(|errno| self.snapshot.not_placed(&entry.path, errno))?;
        }
        self.give_away()?;
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        let fresh = now.tv_sec.saturating_mul(1_000_000_000).saturating_add(now.tv_nsec) - TICK_NS;
        for stamp in &mut stamps {
            *stamp = stamp.filter(|stamp: &Stamp| stamp.changed_ns < fresh);
        }
        Ok(Known { table: table.checksum(), stamps })
    }

    fn parent_of(&self, entry: &Entry) -> Result<OwnedFd, Errno> {
        open_beneath(self.root.as_fd(), split(&entry.path).0, OFlags::PATH | OFlags::DIRECTORY)
    }

    fn make(&self, entry: &Entry) -> Result<(), Errno> {
        let (parent, name) = (self.parent_of(entry)?, OsStr::from_bytes(split(&entry.path).1));
        match &entry.kind {
            EntryKind::Directory => mkdirat(&parent, name, Mode::RWXU),
            EntryKind::Link { target } => symlinkat(OsStr::from_bytes(target), &parent, name),
            EntryKind::File { bytes, .. } => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                ftruncate(openat(&parent, name, flags, Mode::RUSR | Mode::WUSR)?, *bytes)
            }
        }
    }

    /// Reads pieces that lie beside each other, and writes each to its place.
    fn fill(&self, buffers: &mut Buffers, group: &[Missing<'_>]) -> Result<(), SnapshotError> {
        let part = |piece: &Missing<'_>| Part::File { path: piece.entry.path.clone() };
        let read = match group {
            [] | [_] => None,
            // Where that fails, each is tried alone, so that the one that is damaged is named.
            [first, ..] => self.snapshot.read_together(&part(first), group, &mut buffers.stored).ok().flatten(),
        };
        for piece in group {
            buffers.piece.resize(piece.bytes as usize, 0);
            match &read {
                Some(read) => {
                    let stored = &buffers.stored[read.of(piece)];
                    self.snapshot.source().unpack(&part(piece), &piece.location, stored, &mut buffers.piece)?;
                }
                None => self.snapshot.value_at(&piece.location, &part(piece), &mut buffers.piece)?,
            }
            self.write(piece, &buffers.piece).map_err(|errno| self.snapshot.not_placed(&piece.entry.path, errno))?;
        }
        Ok(())
    }

    fn write(&self, piece: &Missing<'_>, bytes: &[u8]) -> Result<(), Errno> {
        let file = open_beneath(self.root.as_fd(), &piece.entry.path, OFlags::WRONLY)?;
        let start = piece.number as u64 * PIECE_BYTES as u64;
        let mut written = 0;
        while written < bytes.len() {
            match pwrite(&file, &bytes[written..], start + written as u64) {
                Ok(0) => return Err(Errno::IO),
                Ok(more) => written += more,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    /// Gives an entry its owner, its rights and its time.
    fn finish(&self, entry: &Entry) -> Result<Option<Stamp>, Errno> {
        let is_link = matches!(entry.kind, EntryKind::Link { .. });
        if let Some(owner) = self.owner {
            let (parent, name) = (self.parent_of(entry)?, OsStr::from_bytes(split(&entry.path).1));
            let (user, group) = (Some(Uid::from_raw(owner)), Some(Gid::from_raw(owner)));
            chownat(parent, name, user, group, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        if is_link {
            return Ok(None);
        }
        let flags = if entry.kind == EntryKind::Directory { OFlags::DIRECTORY } else { OFlags::empty() };
        let file = open_beneath(self.root.as_fd(), &entry.path, OFlags::RDONLY | flags)?;
        let modified = Timespec {
            tv_sec: entry.modified_ns.div_euclid(1_000_000_000),
            tv_nsec: entry.modified_ns.rem_euclid(1_000_000_000),
        };
        let unchanged = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
        futimens(&file, &Timestamps { last_access: unchanged, last_modification: modified })?;
        fchmod(&file, Mode::from_raw_mode(entry.mode.into()))?;
        Ok(Some(stamp_of(&fstat(&file)?)))
    }

    fn give_away(&self) -> Result<(), SnapshotError> {
        let Some(owner) = self.owner else { return Ok(()) };
        let (user, group) = (Some(Uid::from_raw(owner)), Some(Gid::from_raw(owner)));
        rustix::fs::fchown(&self.root, user, group).map_err(|errno| self.snapshot.not_placed(b".", errno))
    }
}
