//! A message as its receiver reads it: copied out of its entry once, checked, and made into types.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use praas_protocol::{Key, MessageId};

use super::layout::{DESCRIPTOR_BITS, MessageLaneLayout, OFFSET_BITS};
use super::memory::MessageLaneMemory;
use super::shape::{INLINE_BYTES, KEY_BYTES_BESIDE_BLOCK, KEY_END_WORDS, checked_offset};
use crate::arena::BLOCK_BYTES_MIN;

/// Bytes of the longest text: a key beside a block with its end, or key and payload of an entry.
const ROOM_BYTES: usize = KEY_BYTES_BESIDE_BLOCK + KEY_END_WORDS * 8;

/// Private memory into which a receiver copies what stands in an entry. Used again and again.
#[repr(C, align(64))]
pub struct ArrivedRoom(pub(super) [u8; ROOM_BYTES]);

const _: () = assert!(ROOM_BYTES >= INLINE_BYTES);

impl ArrivedRoom {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self([0; ROOM_BYTES])
    }
}

impl Default for ArrivedRoom {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for ArrivedRoom {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("ArrivedRoom")
    }
}

/// A message that lies in a lane, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrived<'room> {
    /// Its id, as its sender says.
    pub id: MessageId,
    /// Its key.
    pub key: Key<'room>,
    /// Its bytes, or where they are.
    pub contents: Contents<'room>,
}

impl Arrived<'_> {
    /// Bytes of its payload.
    #[must_use]
    pub fn payload_bytes(&self) -> usize {
        match &self.contents {
            Contents::Inline(bytes) => bytes.len(),
            Contents::Block(place) => place.bytes(),
        }
    }
}

/// The payload of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contents<'room> {
    /// A private copy, aligned to 8 bytes.
    Inline(&'room [u8]),
    /// In the lane's arena until it is released there.
    Block(BlockPlace),
}

/// Words of a [`BlockPlace`] where it is kept.
pub const PLACE_WORDS: usize = 2;

/// Where a payload lies in the arena of its lane, and what gives the place back. Inside the arena, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockPlace {
    pub(super) stamp: u64,
    pub(super) offset: u32,
    pub(super) bytes: u32,
    pub(super) descriptor: u16,
}

impl BlockPlace {
    /// The descriptor that stands for the block.
    #[must_use]
    #[inline]
    pub fn descriptor(&self) -> u16 {
        self.descriptor
    }

    /// Which message the descriptor stands for the block of. Never the same for two messages of a lane.
    #[must_use]
    #[inline]
    pub fn stamp(&self) -> u64 {
        self.stamp
    }

    /// Bytes of the payload.
    #[must_use]
    #[inline]
    pub fn bytes(&self) -> usize {
        self.bytes as usize
    }

    /// The form in which it is kept: [`Inbound::place_of`](super::Inbound::place_of) reads it back.
    ///
    /// ```text
    /// stamp : 64    payload bytes : 32 │ offset in smallest blocks : 21 │ descriptor : 11
    /// ```
    #[must_use]
    #[inline]
    pub fn words(&self) -> [u64; PLACE_WORDS] {
        let blocks = u64::from(self.offset) / BLOCK_BYTES_MIN as u64;
        let descriptor = u64::from(self.descriptor) << (64 - DESCRIPTOR_BITS);
        [self.stamp, u64::from(self.bytes) | blocks << 32 | descriptor]
    }

    #[inline]
    #[allow(clippy::cast_possible_truncation, reason = "fields of the word")]
    pub(super) fn checked(words: [u64; PLACE_WORDS], layout: &MessageLaneLayout) -> Option<Self> {
        let [stamp, place] = words;
        let bytes = place as u32;
        let descriptor = (place >> (64 - DESCRIPTOR_BITS)) as u16;
        let blocks = place >> 32 & ((1 << OFFSET_BITS) - 1);
        let offset = checked_offset(blocks * BLOCK_BYTES_MIN as u64, bytes, layout)?;
        (u32::from(descriptor) < layout.geometry.blocks).then_some(Self { stamp, offset, bytes, descriptor })
    }
}

/// The bytes of a payload where they lie, keeping the lane mapped. They are the message's until its block is released.
#[derive(Clone)]
pub struct InPlace {
    pub(super) memory: Arc<MessageLaneMemory>,
    pub(super) place: BlockPlace,
}

impl Deref for InPlace {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        block_bytes(&self.memory, &self.place)
    }
}

impl fmt::Debug for InPlace {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("InPlace").field(&self.place).finish()
    }
}

/// The bytes of a block.
#[inline]
pub(super) fn block_bytes<'m>(memory: &'m MessageLaneMemory, place: &BlockPlace) -> &'m [u8] {
    let start = memory.arena_bytes(place.offset, place.bytes);
    // SAFETY: inside the arena (`arena_bytes` checks), initialised (a memfd is zeroed), and lives as long as `memory`. The
    // sender leaves a published block alone until it is released; it and the receiver are of one trust domain.
    unsafe { std::slice::from_raw_parts(start.as_ptr(), place.bytes as usize) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message_lane::geometry_for;
    use praas_protocol::limits::PAYLOAD_BYTES_MAX;

    #[test]
    fn places_read_back_as_written_and_others_are_refused() {
        for payload_bytes in [1 << 20, PAYLOAD_BYTES_MAX] {
            let layout = MessageLaneLayout::new(&geometry_for(payload_bytes)).unwrap();
            let arena = layout.geometry.arena_bytes;
            for (offset, bytes, descriptor) in [(0, arena, 0), (arena - 1024, 1024, 255), (1024, 0, 7)] {
                let place = BlockPlace { stamp: u64::MAX - 3, offset, bytes, descriptor };
                assert_eq!(BlockPlace::checked(place.words(), &layout), Some(place));
            }
            for (offset, bytes, descriptor) in [(1024, arena, 0), (0, 1, 256), (arena - 1024, 1025, 0)] {
                let place = BlockPlace { stamp: 1, offset, bytes, descriptor };
                assert_eq!(BlockPlace::checked(place.words(), &layout), None);
            }
        }
    }
}
