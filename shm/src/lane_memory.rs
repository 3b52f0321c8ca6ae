//! A lane segment as its three kinds of users see it: header, ring, cells, and the two halves of the arena.
//!
//! The header holds magic, version and geometry for people who debug; the version is stored last with Release, and
//! attaching checks it. Sizes and offsets come from the server's message alone.

use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::{io, slice};

use crate::attendance::Attendance;
use crate::bell::Bell;
use crate::cell::Cell;
use crate::layout::{ATTENDANCE_OFFSET, LaneLayout};
use crate::ring::Entry;
use crate::segment::{AttachError, Segment};
use crate::sync::{AtomicU32, AtomicU64, Ordering};

const MAGIC: u64 = u64::from_le_bytes(*b"praaslan");
const VERSION: u32 = 2;
const KIND: &str = "lane";

#[repr(C)]
#[derive(Debug)]
struct Header {
    magic: AtomicU64,
    ring_entries: AtomicU32,
    cells: AtomicU32,
    request_arena_bytes: AtomicU32,
    reply_arena_bytes: AtomicU32,
    version: AtomicU32,
    reserved: AtomicU32,
}

/// A mapped lane.
#[derive(Debug)]
pub(crate) struct LaneMemory {
    segment: Segment,
    layout: LaneLayout,
    entries: NonNull<Entry>,
    cells: NonNull<Cell>,
}

// SAFETY: the pointers lie in the segment that the value owns, which may be shared and sent; they point to atomics.
unsafe impl Send for LaneMemory {}
// SAFETY: as above.
unsafe impl Sync for LaneMemory {}

impl LaneMemory {
    /// Server: a fresh lane.
    pub(crate) fn create(layout: LaneLayout) -> io::Result<Self> {
        let memory = Self::over(Segment::create("praas-lane", layout.segment_bytes())?, layout);
        let (header, geometry) = (memory.header(), &layout.geometry);
        header.ring_entries.store(geometry.ring_entries, Ordering::Relaxed);
        header.cells.store(geometry.cells, Ordering::Relaxed);
        header.request_arena_bytes.store(geometry.request_arena_bytes, Ordering::Relaxed);
        header.reply_arena_bytes.store(geometry.reply_arena_bytes, Ordering::Relaxed);
        header.magic.store(MAGIC, Ordering::Relaxed);
        // Release pairs with the Acquire in `attach`.
        header.version.store(VERSION, Ordering::Release);
        Ok(memory)
    }

    /// Client or worker: the lane behind a descriptor from the server.
    pub(crate) fn attach(fd: OwnedFd, layout: LaneLayout) -> Result<Self, AttachError> {
        let memory = Self::over(Segment::attach(fd, layout.segment_bytes())?, layout);
        let version = memory.header().version.load(Ordering::Acquire);
        let magic = memory.header().magic.load(Ordering::Relaxed);
        if magic != MAGIC {
            return Err(AttachError::Magic { kind: KIND, actual: magic });
        }
        if version != VERSION {
            return Err(AttachError::Version { kind: KIND, actual: version, expected: VERSION });
        }
        Ok(memory)
    }

    fn over(segment: Segment, layout: LaneLayout) -> Self {
        assert_eq!(segment.bytes(), layout.segment_bytes(), "the segment was made or attached with the layout's size");
        let entries = segment.at(layout.ring, layout.geometry.ring_entries as usize * size_of::<Entry>()).cast();
        let cells = segment.at(layout.cells, layout.geometry.cells as usize * size_of::<Cell>()).cast();
        assert!(entries.is_aligned() && cells.is_aligned(), "the layout aligns its tables");
        Self { segment, layout, entries, cells }
    }

    fn header(&self) -> &Header {
        // SAFETY: `Header` is atomics only and the only type at the start of a lane.
        unsafe { self.segment.place(0) }
    }

    pub(crate) fn segment(&self) -> &Segment {
        &self.segment
    }

    pub(crate) fn layout(&self) -> &LaneLayout {
        &self.layout
    }

    #[inline]
    pub(crate) fn entries(&self) -> &[Entry] {
        // SAFETY: inside the mapping and aligned (checked in `over`), atomics only, and lives as long as `self`.
        unsafe { slice::from_raw_parts(self.entries.as_ptr(), self.layout.geometry.ring_entries as usize) }
    }

    #[inline]
    pub(crate) fn cells(&self) -> &[Cell] {
        // SAFETY: inside the mapping and aligned (checked in `over`), atomics only, and lives as long as `self`.
        unsafe { slice::from_raw_parts(self.cells.as_ptr(), self.layout.geometry.cells as usize) }
    }

    #[inline]
    pub(crate) fn attendance(&self) -> &Attendance {
        // SAFETY: `Attendance` is atomics only and the only type at its offset.
        unsafe { self.segment.place(ATTENDANCE_OFFSET) }
    }

    #[inline]
    pub(crate) fn client_bell(&self) -> Bell<'_> {
        Bell(&self.attendance().client_bell)
    }

    /// Address of `bytes` bytes at `offset` of the client's half; panics outside it.
    pub(crate) fn request_bytes(&self, offset: usize, bytes: usize) -> NonNull<u8> {
        assert!(offset + bytes <= self.layout.geometry.request_arena_bytes as usize, "outside the request half");
        self.segment.at(self.layout.request_arena + offset, bytes)
    }

    /// Address of `bytes` bytes at `offset` of the workers' half; panics outside it.
    pub(crate) fn reply_bytes(&self, offset: usize, bytes: usize) -> NonNull<u8> {
        assert!(offset + bytes <= self.layout.geometry.reply_arena_bytes as usize, "outside the reply half");
        self.segment.at(self.layout.reply_arena + offset, bytes)
    }
}
