//! Granules: 16 bytes, the unit of the heap. A [`Granule`] is the place of a block that was checked against the heap's range.

use super::error::StateError;
use super::layout::ObjectsLayout;

/// Bytes of a granule.
pub(crate) const GRANULE_BYTES: u64 = 16;
/// Words of a granule.
pub(crate) const WORDS_PER_GRANULE: usize = 2;
/// Bits of a granule's number in an entry word.
pub(crate) const GRANULE_BITS: u32 = 40;

/// A place inside the heap: the words of a block's header lie inside the segment, whatever they say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Granule(u64);

impl Granule {
    /// The granule that a word from the segment names; `at` says where the word stood.
    #[inline]
    pub(crate) fn checked(
        number: u64,
        layout: &ObjectsLayout,
        what: &'static str,
        at: usize,
    ) -> Result<Self, StateError> {
        if number >= layout.heap_start && number < layout.heap_end {
            Ok(Self(number))
        } else {
            Err(StateError::corrupt(what, at))
        }
    }

    /// The heap's first block.
    pub(crate) fn first(layout: &ObjectsLayout) -> Self {
        Self(layout.heap_start)
    }

    #[inline]
    pub(crate) fn number(self) -> u64 {
        self.0
    }

    /// Its first word.
    #[inline]
    #[allow(clippy::cast_possible_truncation, reason = "inside the segment, whose words an address counts")]
    pub(crate) fn at(self) -> usize {
        self.0 as usize * WORDS_PER_GRANULE
    }

    /// Its first byte.
    #[inline]
    #[allow(clippy::cast_possible_truncation, reason = "inside the segment, whose bytes an address counts")]
    pub(crate) fn offset(self) -> usize {
        (self.0 * GRANULE_BYTES) as usize
    }
}
