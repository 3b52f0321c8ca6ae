//! Where everything lies in a message lane: one table of regions, chained.
//!
//! ```text
//! header 4 KiB │ ring of entries │ released: a word a descriptor │ lent: the same │ ends of keys: 40 B each │ arena
//! ```
//!
//! `released` is written by receivers, `lent` and the ends of keys by the sender: each table begins on a line of its own.

use praas_protocol::control::MessageLaneGeometry;
use praas_protocol::limits;

use super::entry::Entry;
use super::shape::KEY_END_WORDS;
use crate::arena::BLOCK_BYTES_MIN;
use crate::layout::{ARENA_BYTES_MAX, GeometryError};

/// Bytes before the ring: magic, version, room; one page.
const HEADER_BYTES: usize = 4096;
/// Where the words of `room.rs` lie in the header.
pub(super) const ROOM_OFFSET: usize = 256;
const PAGE_BYTES: usize = 4096;
const LINE_BYTES: usize = 128;
/// Smallest arena: half a dozen large messages or 64 small ones.
const ARENA_BYTES_MIN: u32 = 64 << 10;
/// Payload for which the smallest lane is made: below it arenas would differ only in what is never touched.
const PAYLOAD_BYTES_MIN: u32 = 64 << 10;
/// Payloads of the largest size that an arena takes: one that is built, one that is read, and what waits between.
const PAYLOADS_PER_ARENA: u32 = 4;
/// Descriptors that a lane can have at most: 11 bits name one, see [`super::arrived::BlockPlace`].
const BLOCKS_MAX: u32 = 1 << DESCRIPTOR_BITS;
/// Bits of a descriptor's number.
pub(super) const DESCRIPTOR_BITS: u32 = 11;
/// Bits of a block's offset in smallest blocks.
pub(super) const OFFSET_BITS: u32 = 21;

/// The geometry of a message lane for payloads up to `payload_bytes_max`.
#[must_use]
pub fn geometry_for(payload_bytes_max: u32) -> MessageLaneGeometry {
    let payload = payload_bytes_max.clamp(PAYLOAD_BYTES_MIN, ARENA_BYTES_MAX).next_power_of_two();
    MessageLaneGeometry {
        entries: limits::MESSAGE_LANE_ENTRIES,
        blocks: limits::MESSAGE_LANE_BLOCKS,
        arena_bytes: payload.saturating_mul(PAYLOADS_PER_ARENA).min(ARENA_BYTES_MAX),
    }
}

/// Bytes of the segment of a lane with this geometry, all of which may be used in time.
///
/// # Errors
/// [`GeometryError`] names the size that is not a power of two or outside its limits.
pub fn segment_bytes(geometry: &MessageLaneGeometry) -> Result<usize, GeometryError> {
    MessageLaneLayout::new(geometry).map(|layout| layout.segment_bytes)
}

/// Offsets of a message lane's regions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MessageLaneLayout {
    pub(super) geometry: MessageLaneGeometry,
    pub(super) ring: usize,
    pub(super) released: usize,
    pub(super) lent: usize,
    pub(super) key_ends: usize,
    pub(super) arena: usize,
    pub(super) segment_bytes: usize,
}

impl MessageLaneLayout {
    pub(super) fn new(geometry: &MessageLaneGeometry) -> Result<Self, GeometryError> {
        let check = |what, actual: u32, minimum, maximum| {
            if actual.is_power_of_two() && (minimum..=maximum).contains(&actual) {
                Ok(actual as usize)
            } else {
                Err(GeometryError { what, actual, minimum, maximum })
            }
        };
        let entries = check("entries", geometry.entries, limits::RING_ENTRIES_MIN, limits::RING_ENTRIES_MAX)?;
        let blocks = check("blocks", geometry.blocks, 1, BLOCKS_MAX)?;
        let arena_bytes = check("arena_bytes", geometry.arena_bytes, ARENA_BYTES_MIN, ARENA_BYTES_MAX)?;

        let ring = HEADER_BYTES;
        let released = ring + entries * size_of::<Entry>();
        let lent = (released + blocks * size_of::<u64>()).next_multiple_of(LINE_BYTES);
        let key_ends = (lent + blocks * size_of::<u64>()).next_multiple_of(LINE_BYTES);
        let arena = (key_ends + blocks * KEY_END_WORDS * size_of::<u64>()).next_multiple_of(PAGE_BYTES);
        let segment_bytes = arena + arena_bytes;
        Ok(Self { geometry: *geometry, ring, released, lent, key_ends, arena, segment_bytes })
    }
}

const _: () = {
    assert!(ROOM_OFFSET + 128 <= HEADER_BYTES);
    assert!(ARENA_BYTES_MIN as usize >= BLOCK_BYTES_MIN);
    assert!(ARENA_BYTES_MAX as usize / BLOCK_BYTES_MIN <= 1 << OFFSET_BITS && DESCRIPTOR_BITS + OFFSET_BITS == 32);
    assert!(limits::MESSAGE_LANE_BLOCKS <= BLOCKS_MAX && limits::MESSAGE_LANE_ENTRIES <= limits::RING_ENTRIES_MAX);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_limit_of_payloads_gives_a_lane() {
        for payload in [0, 1, 64 << 10, (64 << 10) + 1, 1 << 20, limits::PAYLOAD_BYTES_MAX] {
            let geometry = geometry_for(payload);
            let layout = MessageLaneLayout::new(&geometry).unwrap();
            assert!(geometry.arena_bytes >= payload);
            assert!(layout.ring < layout.released && layout.released < layout.lent && layout.lent < layout.key_ends);
            assert_eq!(segment_bytes(&geometry).unwrap(), layout.arena + geometry.arena_bytes as usize);
        }
    }

    #[test]
    fn sizes_outside_the_limits_are_named() {
        let good = geometry_for(1 << 20);
        for bad in [
            MessageLaneGeometry { entries: 63, ..good },
            MessageLaneGeometry { entries: 2, ..good },
            MessageLaneGeometry { entries: 8192, ..good },
            MessageLaneGeometry { blocks: 0, ..good },
            MessageLaneGeometry { blocks: 1 << 16, ..good },
            MessageLaneGeometry { arena_bytes: 4096, ..good },
            MessageLaneGeometry { arena_bytes: u32::MAX, ..good },
        ] {
            let error = MessageLaneLayout::new(&bad).unwrap_err();
            assert!(error.to_string().contains(error.what));
        }
    }
}
