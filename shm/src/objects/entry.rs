//! Entry words of the index, and linear hashing.
//!
//! ```text
//! entry   fingerprint (24) │ granule of the object's block (40);  0 = empty
//! ```
//!
//! With n buckets in use, of which 2^p is the largest power not above n, a key lies in bucket `hash mod 2^(p+1)` if there
//! is such a bucket, else in `hash mod 2^p`. The next bucket, number n, takes half of what bucket n − 2^p has. Buckets are
//! never joined, so their count alone says whether a key's bucket has changed.
//!
//! The fingerprint is the hash's bits from the first power on. So it contains the next bit by which a bucket is split: a
//! split reads two buckets and no object.

use super::error::StateError;
use super::granule::{GRANULE_BITS, Granule};
use super::layout::{ObjectsLayout, header};
use super::words::Space;

const FINGERPRINT_MASK: u64 = (1 << (64 - GRANULE_BITS)) - 1;

/// The fingerprint of a hash.
#[inline]
pub(crate) fn fingerprint(hash: u64, layout: &ObjectsLayout) -> u64 {
    hash >> layout.first_power & FINGERPRINT_MASK
}

/// The entry of an object with this hash in this block.
#[inline]
pub(crate) fn entry(hash: u64, block: Granule, layout: &ObjectsLayout) -> u64 {
    fingerprint(hash, layout) << GRANULE_BITS | block.number()
}

/// Whether an entry may be of this hash.
#[inline]
pub(crate) fn may_be(entry: u64, fingerprint: u64) -> bool {
    entry >> GRANULE_BITS == fingerprint && entry != 0
}

/// The block that an entry names, unchecked.
#[inline]
pub(crate) fn block_of(entry: u64) -> u64 {
    entry & ((1 << GRANULE_BITS) - 1)
}

/// A number of buckets in use that was checked against the layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Buckets(usize);

impl Buckets {
    /// The count in use; Acquire, for readers.
    #[inline]
    pub(crate) fn load(space: Space<'_>) -> Result<Self, StateError> {
        Self::checked(space.words.load_acquire(header::BUCKETS), space.layout)
    }

    #[inline]
    pub(crate) fn checked(count: u64, layout: &ObjectsLayout) -> Result<Self, StateError> {
        let first = 1 << layout.first_power;
        match usize::try_from(count) {
            Ok(count) if count >= first && count <= layout.bucket_count_max => Ok(Self(count)),
            _ => Err(StateError::corrupt("number of buckets", header::BUCKETS)),
        }
    }

    #[inline]
    pub(crate) fn count(self) -> usize {
        self.0
    }

    /// The bucket of a hash.
    #[inline]
    #[allow(clippy::cast_possible_truncation, reason = "masked to a bucket's number")]
    pub(crate) fn bucket_of(self, hash: u64) -> usize {
        let power = self.0.ilog2();
        let wide = hash as usize & ((2 << power) - 1);
        if wide < self.0 { wide } else { wide & ((1 << power) - 1) }
    }

    /// The bucket that the next split halves.
    pub(crate) fn next_to_split(self) -> usize {
        self.0 - (1 << self.0.ilog2())
    }

    /// Whether an entry of that bucket moves to the new one.
    pub(crate) fn moves(self, entry: u64, layout: &ObjectsLayout) -> bool {
        let bit = self.0.ilog2() - layout.first_power;
        entry >> (GRANULE_BITS + bit) & 1 == 1
    }

    /// Whether an entry that stands in `bucket` belongs there by as much of its hash as it has: bits from the first power
    /// on. Lower bits no split changes.
    #[allow(clippy::cast_possible_truncation, reason = "a fingerprint has 24 bits")]
    pub(crate) fn belongs(self, entry: u64, bucket: usize, layout: &ObjectsLayout) -> bool {
        let low = bucket & ((1 << layout.first_power) - 1);
        let hash = (entry >> GRANULE_BITS) << layout.first_power | low as u64;
        self.bucket_of(hash) == bucket
    }
}

const _: () = {
    // The largest segment has 2^27 buckets: the bit that splits them is inside the fingerprint.
    assert!(super::limits::SEGMENT_BYTES_MAX / 8 / 64 <= 1 << (8 + 24 - 1));
    assert!(super::limits::SEGMENT_BYTES_MAX / 16 <= 1 << GRANULE_BITS);
};

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_split_moves_exactly_the_entries_that_the_new_count_places_in_the_new_bucket() {
        let layout = ObjectsLayout::for_limit(64 << 20).unwrap();
        let block = Granule::first(&layout);
        let mut hash = 1_u64;
        for count in (256..1200).chain([65_535, 65_536, 65_537]) {
            let (before, after) = (Buckets(count), Buckets(count + 1));
            for _ in 0..50 {
                hash = hash.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let mixed = hash ^ hash >> 29;
                let word = entry(mixed, block, &layout);
                assert!(before.belongs(word, before.bucket_of(mixed), &layout));
                assert!(after.belongs(word, after.bucket_of(mixed), &layout));
                if before.bucket_of(mixed) == before.next_to_split() {
                    assert_eq!(before.moves(word, &layout), after.bucket_of(mixed) == count);
                } else {
                    assert_eq!(before.bucket_of(mixed), after.bucket_of(mixed));
                }
            }
        }
    }
}
