//! A walk over all objects, under the lock.
//!
//! Objects lie all over the segment, so each costs a cache miss or two: some buckets are read ahead of their objects, whose lines are
//! asked for meanwhile.

use super::bucket::{Bucket, chain};
use super::entry::{Buckets, block_of};
use super::error::StateError;
use super::granule::Granule;
use super::limits::ENTRIES_PER_BUCKET;
use super::object::{self, Placed};
use super::words::Space;

/// Buckets whose objects are asked for before the first of them is looked at: as many lines as a core has under way, a few times.
const BUCKETS_AHEAD: usize = 16;

/// Shows each object of one of `parts` parts of the index once, stubs too. Bounded: chains are, and buckets are counted.
pub(crate) fn objects(
    space: Space<'_>,
    (part, parts): (u32, u32),
    mut each: impl FnMut(&Placed) -> Result<(), StateError>,
) -> Result<(), StateError> {
    let buckets = Buckets::load(space)?.count();
    let share = buckets.div_ceil(parts.max(1) as usize);
    let begin = share.saturating_mul(part as usize).min(buckets);
    let end = begin.saturating_add(share).min(buckets);
    let mut places = Vec::with_capacity(BUCKETS_AHEAD * ENTRIES_PER_BUCKET);
    for first in (begin..end).step_by(BUCKETS_AHEAD) {
        for number in first..end.min(first + BUCKETS_AHEAD) {
            for bucket in chain(space, Bucket::new(space, number)) {
                for at in bucket?.entries() {
                    let entry = space.words.load(at);
                    if entry != 0 {
                        let place = Granule::checked(block_of(entry), space.layout, "entry of the index", at)?;
                        object::prefetch(space, place);
                        places.push(place);
                    }
                }
            }
        }
        for place in places.drain(..) {
            each(&Placed::read_any(space, place)?)?;
        }
    }
    Ok(())
}
