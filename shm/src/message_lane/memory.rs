//! A message lane as its three kinds of users see it: header, room, ring, tables of descriptors, arena.
//!
//! The header holds magic, version and geometry for people who debug; the version is stored last with Release, and
//! attaching checks it. Sizes and offsets come from the server's message alone.

use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::{io, slice};

use praas_protocol::control::MessageLaneGeometry;

use super::entry::Entry;
use super::layout::{MessageLaneLayout, ROOM_OFFSET};
use super::room::RoomWords;
use super::shape::KEY_END_WORDS;
use crate::segment::{AttachError, Segment};
use crate::sync::{AtomicU32, AtomicU64, Ordering};

const MAGIC: u64 = u64::from_le_bytes(*b"praasmsg");
const VERSION: u32 = 1;
const KIND: &str = "message lane";

#[repr(C)]
#[derive(Debug)]
struct Header {
    magic: AtomicU64,
    entries: AtomicU32,
    blocks: AtomicU32,
    arena_bytes: AtomicU32,
    version: AtomicU32,
}

/// What of a descriptor's key does not fit its entry.
#[repr(C)]
#[derive(Debug)]
pub(super) struct KeyEnd(pub(super) [AtomicU64; KEY_END_WORDS]);

/// A mapped message lane.
#[derive(Debug)]
pub(super) struct MessageLaneMemory {
    segment: Segment,
    layout: MessageLaneLayout,
    entries: NonNull<Entry>,
    room: NonNull<RoomWords>,
}

// SAFETY: the pointers lie in the segment that the value owns, which may be shared and sent; they point to atomics.
unsafe impl Send for MessageLaneMemory {}
// SAFETY: as above.
unsafe impl Sync for MessageLaneMemory {}

/// Why a geometry made no lane.
fn refused(error: crate::layout::GeometryError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, error)
}

impl MessageLaneMemory {
    /// Server: a fresh lane.
    pub(super) fn create(geometry: &MessageLaneGeometry) -> io::Result<Self> {
        let layout = MessageLaneLayout::new(geometry).map_err(refused)?;
        let memory = Self::over(Segment::create("praas-messages", layout.segment_bytes)?, layout);
        let header = memory.header();
        header.entries.store(geometry.entries, Ordering::Relaxed);
        header.blocks.store(geometry.blocks, Ordering::Relaxed);
        header.arena_bytes.store(geometry.arena_bytes, Ordering::Relaxed);
        header.magic.store(MAGIC, Ordering::Relaxed);
        // Release pairs with the Acquire in `attach`.
        header.version.store(VERSION, Ordering::Release);
        Ok(memory)
    }

    /// The lane behind a descriptor.
    pub(super) fn attach(fd: OwnedFd, geometry: &MessageLaneGeometry) -> Result<Self, AttachError> {
        let layout = MessageLaneLayout::new(geometry)?;
        let memory = Self::over(Segment::attach(fd, layout.segment_bytes)?, layout);
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

    fn over(segment: Segment, layout: MessageLaneLayout) -> Self {
        assert_eq!(segment.bytes(), layout.segment_bytes, "the segment was made or attached with the layout's size");
        let entries = segment.at(layout.ring, layout.geometry.entries as usize * size_of::<Entry>()).cast();
        let room = segment.at(ROOM_OFFSET, size_of::<RoomWords>()).cast::<RoomWords>();
        assert!(entries.is_aligned() && room.is_aligned(), "the layout aligns its tables");
        Self { segment, layout, entries, room }
    }

    fn header(&self) -> &Header {
        // SAFETY: `Header` is atomics only and the only type at the start of a message lane.
        unsafe { self.segment.place(0) }
    }

    pub(super) fn segment(&self) -> &Segment {
        &self.segment
    }

    #[inline]
    pub(super) fn layout(&self) -> &MessageLaneLayout {
        &self.layout
    }

    pub(super) fn geometry(&self) -> MessageLaneGeometry {
        self.layout.geometry
    }

    #[inline]
    pub(super) fn entries(&self) -> &[Entry] {
        // SAFETY: inside the mapping and aligned (checked in `over`), atomics only, and lives as long as `self`.
        unsafe { slice::from_raw_parts(self.entries.as_ptr(), self.layout.geometry.entries as usize) }
    }

    #[inline]
    pub(super) fn room(&self) -> &RoomWords {
        // SAFETY: inside the mapping and aligned (checked in `over`), atomics only, and lives as long as `self`.
        unsafe { self.room.as_ref() }
    }

    /// By descriptor: the stamp of the last message whose block the receiver gave back.
    #[inline]
    pub(super) fn released(&self) -> &[AtomicU64] {
        // SAFETY: atomics, and the only type in this region.
        unsafe { self.segment.table(self.layout.released, self.layout.geometry.blocks as usize) }
    }

    /// By descriptor: the stamp of the last message that used it.
    #[inline]
    pub(super) fn lent(&self) -> &[AtomicU64] {
        // SAFETY: atomics, and the only type in this region.
        unsafe { self.segment.table(self.layout.lent, self.layout.geometry.blocks as usize) }
    }

    /// By descriptor: the end of a long key.
    pub(super) fn key_ends(&self) -> &[KeyEnd] {
        // SAFETY: atomics, and the only type in this region.
        unsafe { self.segment.table(self.layout.key_ends, self.layout.geometry.blocks as usize) }
    }

    /// Address of `bytes` bytes at `offset` of the arena; panics outside it.
    #[inline]
    pub(super) fn arena_bytes(&self, offset: u32, bytes: u32) -> NonNull<u8> {
        let (offset, bytes) = (offset as usize, bytes as usize);
        assert!(offset + bytes <= self.layout.geometry.arena_bytes as usize, "outside the arena");
        self.segment.at(self.layout.arena + offset, bytes)
    }
}
