//! What an entry says of its message beside id and text: one word.
//!
//! ```text
//! payload bytes : 32 │ key bytes : 8 │ kind : 8 │ descriptor : 16
//! ```
//!
//! | kind | text |
//! |---|---|
//! | inline | the key, zeros up to a word, the payload |
//! | block | the block's offset in the arena, then the key; what of the key does not fit lies in the descriptor's key end |
//!
//! Whoever reads a shape has it from a peer: [`Shape::checked`] makes of it a type whose sizes fit their places.

use praas_protocol::limits::KEY_BYTES_MAX;

use super::entry::TEXT_WORDS;
use super::layout::MessageLaneLayout;
use crate::arena::BLOCK_BYTES_MIN;

/// Bytes of key and payload that travel in the entry; the key is rounded up to eight bytes.
pub const INLINE_BYTES: usize = TEXT_WORDS * 8;
/// Bytes of a key that lie in the entry of a message with a block.
pub(super) const KEY_BYTES_BESIDE_BLOCK: usize = INLINE_BYTES - 8;
/// Words for the rest of such a key.
pub(super) const KEY_END_WORDS: usize = (KEY_BYTES_MAX - KEY_BYTES_BESIDE_BLOCK).div_ceil(8);

const INLINE: u8 = 1;
const BLOCK: u8 = 2;

/// Whether a message travels in its entry alone.
#[inline]
pub(super) const fn is_inline(key_bytes: usize, payload_bytes: usize) -> bool {
    // The first comparison keeps the sum from overflowing.
    payload_bytes <= INLINE_BYTES && key_bytes.next_multiple_of(8) + payload_bytes <= INLINE_BYTES
}

/// Where the payload of a message lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Behind the key.
    Inline,
    /// In the block that this descriptor stands for.
    Block { descriptor: u16 },
}

/// Sizes of a message and where its payload lies. As read from an entry, they fit the lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) payload_bytes: u32,
    pub(super) key_bytes: u8,
    pub(super) kind: Kind,
}

impl Shape {
    #[inline]
    pub(super) fn word(self) -> u64 {
        let (kind, descriptor) = match self.kind {
            Kind::Inline => (INLINE, 0),
            Kind::Block { descriptor } => (BLOCK, descriptor),
        };
        u64::from(self.payload_bytes)
            | u64::from(self.key_bytes) << 32
            | u64::from(kind) << 40
            | u64::from(descriptor) << 48
    }

    /// Bytes of the payload, if the word says that it travels in its entry, behind a key of `key_bytes`.
    #[inline(always)]
    #[allow(clippy::cast_possible_truncation, reason = "a field of the word")]
    pub(super) fn inline_payload(word: u64, key_bytes: u8) -> Option<u32> {
        let expected = u64::from(key_bytes) | u64::from(INLINE) << 8;
        let payload_bytes = word as u32;
        (word >> 32 == expected && is_inline(usize::from(key_bytes), payload_bytes as usize)).then_some(payload_bytes)
    }

    /// The shape that a word says, if such a message can lie in this lane.
    #[inline(always)]
    #[allow(clippy::cast_possible_truncation, reason = "fields of the word")]
    pub(super) fn checked(word: u64, layout: &MessageLaneLayout) -> Option<Self> {
        let (payload_bytes, key_bytes) = (word as u32, (word >> 32) as u8);
        let (kind, descriptor) = ((word >> 40) as u8, (word >> 48) as u16);
        let kind = match kind {
            INLINE if descriptor == 0 && is_inline(usize::from(key_bytes), payload_bytes as usize) => Kind::Inline,
            BLOCK if u32::from(descriptor) < layout.geometry.blocks && payload_bytes <= layout.geometry.arena_bytes => {
                Kind::Block { descriptor }
            }
            _ => return None,
        };
        (key_bytes > 0).then_some(Self { payload_bytes, key_bytes, kind })
    }
}

/// The offset of a block of this many bytes, if it can be one.
#[inline]
pub(super) fn checked_offset(word: u64, bytes: u32, layout: &MessageLaneLayout) -> Option<u32> {
    let offset = u32::try_from(word).ok()?;
    let fits = offset.checked_add(bytes).is_some_and(|end| end <= layout.geometry.arena_bytes);
    (fits && (offset as usize).is_multiple_of(BLOCK_BYTES_MIN)).then_some(offset)
}

const _: () = {
    assert!(KEY_BYTES_MAX <= u8::MAX as usize);
    assert!(KEY_END_WORDS == 5, "the layout's table of key ends");
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message_lane::geometry_for;

    #[test]
    fn shapes_read_back_as_written() {
        let layout = MessageLaneLayout::new(&geometry_for(1 << 20)).unwrap();
        for (payload_bytes, key_bytes, kind) in [
            (0, 1, Kind::Inline),
            (216, 8, Kind::Inline),
            (0, 224, Kind::Inline),
            (0, 255, Kind::Block { descriptor: 0 }),
            (layout.geometry.arena_bytes, 1, Kind::Block { descriptor: 255 }),
        ] {
            let shape = Shape { payload_bytes, key_bytes, kind };
            assert_eq!(Shape::checked(shape.word(), &layout), Some(shape));
        }
    }

    #[test]
    fn shapes_that_fit_no_lane_are_refused() {
        let layout = MessageLaneLayout::new(&geometry_for(1 << 20)).unwrap();
        for (payload_bytes, key_bytes, kind) in [
            (0, 0, Kind::Inline),
            (0, 0, Kind::Block { descriptor: 0 }),
            (217, 8, Kind::Inline),
            (216, 9, Kind::Inline),
            (u32::MAX, 1, Kind::Inline),
            (0, 1, Kind::Block { descriptor: 256 }),
            (layout.geometry.arena_bytes + 1, 1, Kind::Block { descriptor: 0 }),
        ] {
            let shape = Shape { payload_bytes, key_bytes, kind };
            assert_eq!(Shape::checked(shape.word(), &layout), None, "{shape:?}");
        }
        for word in [0, u64::MAX, 3 << 40 | 1 << 32, 1 << 48 | 1 << 40 | 1 << 32] {
            assert_eq!(Shape::checked(word, &layout), None, "{word:#x}");
        }
    }

    #[test]
    fn blocks_lie_inside_the_arena() {
        let layout = MessageLaneLayout::new(&geometry_for(1 << 20)).unwrap();
        let arena = layout.geometry.arena_bytes;
        let place = |offset, bytes| checked_offset(offset, bytes, &layout);
        assert_eq!(place(0, arena), Some(0));
        assert_eq!(place(u64::from(arena) - 1024, 1024), Some(arena - 1024));
        for (offset, bytes) in
            [(1024, arena), (512, 1), (u64::from(arena), 1), (1 << 32, 1), (u64::from(u32::MAX) - 1023, u32::MAX)]
        {
            assert_eq!(place(offset, bytes), None, "{offset} {bytes}");
        }
    }
}
