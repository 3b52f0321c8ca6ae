//! The header of a heap block: two words before whatever it holds.
//!
//! ```text
//! word 0   granules of this block (32) │ granules of the block before it, 0 for the first (32)
//! word 1   kind (8) │ link (40): the next block of the free or retired list, 0 for none
//! word 2   of a free block: the block before it in its list, 0 for the first
//! ```
//!
//! A block's own size does not change while it is anything but free, so a reader that has it pinned may read word 0
//! without the lock.

use super::error::StateError;
use super::granule::{GRANULE_BYTES, Granule};
use super::layout::ObjectsLayout;
use super::words::Space;

/// Granules of the smallest block: its header and the links of a free one.
pub(crate) const BLOCK_GRANULES_MIN: u32 = 2;
/// Words before the content.
pub(crate) const BLOCK_HEADER_WORDS: usize = 2;

pub(crate) const SIZES: usize = 0;
pub(crate) const KIND_AND_LINK: usize = 1;
pub(crate) const FREE_BEFORE: usize = 2;

const KIND_BITS: u32 = 8;

/// What a block is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Free,
    /// Holds the object that an index entry names.
    Object,
    /// Is being filled; a loan slot of a row names it.
    Loan,
    /// Holds an overflow bucket, for good.
    Overflow,
    /// Held an object that may still be pinned.
    Retired,
    /// Not a block: the marker behind the last one.
    End,
    /// Holds a message, or is spare for one; see `crate::mailbox`.
    Message,
    /// Holds a queue of messages, or the record of a key.
    MailQueue,
    /// Holds what is known of a source that may repeat.
    MailSource,
    /// Holds the table that leads to queues and sources.
    MailTable,
}

impl Kind {
    const fn code(self) -> u64 {
        match self {
            Self::Free => 1,
            Self::Object => 2,
            Self::Loan => 3,
            Self::Overflow => 4,
            Self::Retired => 5,
            Self::End => 6,
            Self::Message => 7,
            Self::MailQueue => 8,
            Self::MailSource => 9,
            Self::MailTable => 10,
        }
    }

    const fn from_code(code: u64) -> Option<Self> {
        Some(match code {
            1 => Self::Free,
            2 => Self::Object,
            3 => Self::Loan,
            4 => Self::Overflow,
            5 => Self::Retired,
            6 => Self::End,
            7 => Self::Message,
            8 => Self::MailQueue,
            9 => Self::MailSource,
            10 => Self::MailTable,
            _ => return None,
        })
    }
}

/// Word 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sizes {
    pub(crate) granules: u32,
    /// Of the block before, 0 for the first.
    pub(crate) before: u32,
}

impl Sizes {
    #[inline]
    pub(crate) fn word(self) -> u64 {
        u64::from(self.granules) | u64::from(self.before) << 32
    }

    #[inline]
    #[allow(clippy::cast_possible_truncation, reason = "halves of the word")]
    pub(crate) fn of_word(word: u64) -> Self {
        Self { granules: word as u32, before: (word >> 32) as u32 }
    }
}

/// Word 1.
#[inline]
pub(crate) fn kind_and_link(kind: Kind, link: u64) -> u64 {
    kind.code() | link << KIND_BITS
}

/// The kind in word 1 of a block.
#[inline]
pub(crate) fn kind_of(word: u64) -> Option<Kind> {
    Kind::from_code(word & 0xff)
}

/// The link in word 1, unchecked.
#[inline]
pub(crate) fn link_of(word: u64) -> u64 {
    word >> KIND_BITS
}

/// A block whose size was checked: it ends inside the heap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) place: Granule,
    pub(crate) granules: u32,
    pub(crate) before: u32,
}

impl Block {
    /// The block at `place`, of any kind.
    #[inline]
    pub(crate) fn at(space: Space<'_>, place: Granule) -> Result<Self, StateError> {
        let sizes = Sizes::of_word(space.words.load(place.at() + SIZES));
        let room = space.layout.heap_end - place.number();
        if sizes.granules < BLOCK_GRANULES_MIN || u64::from(sizes.granules) > room {
            return Err(StateError::corrupt("size of a block", place.at()));
        }
        Ok(Self { place, granules: sizes.granules, before: sizes.before })
    }

    /// The block at `place`, which must be of `kind`.
    #[inline]
    pub(crate) fn of_kind(space: Space<'_>, place: Granule, kind: Kind) -> Result<Self, StateError> {
        if kind_of(space.words.load(place.at() + KIND_AND_LINK)) != Some(kind) {
            return Err(StateError::corrupt("kind of a block", place.at()));
        }
        Self::at(space, place)
    }

    /// Bytes in all.
    #[inline]
    pub(crate) fn bytes(self) -> u64 {
        u64::from(self.granules) * GRANULE_BYTES
    }

    /// The number of the granule behind it: another block, or the end marker.
    #[inline]
    pub(crate) fn end(self) -> u64 {
        self.place.number() + u64::from(self.granules)
    }

    /// The block behind it; `None` at the heap's end.
    #[inline]
    pub(crate) fn next(self, layout: &ObjectsLayout) -> Result<Option<Granule>, StateError> {
        if self.end() == layout.heap_end {
            return Ok(None);
        }
        Granule::checked(self.end(), layout, "block behind a block", self.place.at()).map(Some)
    }

    /// The block before it; `None` for the first.
    #[inline]
    pub(crate) fn previous(self, layout: &ObjectsLayout) -> Result<Option<Granule>, StateError> {
        if self.before == 0 {
            return Ok(None);
        }
        let number = self.place.number().wrapping_sub(u64::from(self.before));
        Granule::checked(number, layout, "block before a block", self.place.at()).map(Some)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn words_of_a_header_come_back() {
        let sizes = Sizes { granules: 7, before: u32::MAX };
        assert_eq!(Sizes::of_word(sizes.word()), sizes);
        for kind in (1..=10).map(|code| Kind::from_code(code).unwrap()) {
            let word = kind_and_link(kind, (1 << 40) - 1);
            assert_eq!((kind_of(word), link_of(word)), (Some(kind), (1 << 40) - 1));
        }
        assert_eq!((kind_of(0), kind_of(11)), (None, None));
    }
}
