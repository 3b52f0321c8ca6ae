//! A walk over all objects, under the lock.

use super::bucket::{Bucket, chain};
use super::entry::{Buckets, block_of};
use super::error::StateError;
use super::granule::Granule;
use super::object::Placed;
use super::words::Space;

/// Shows each object once, stubs too. Bounded: chains are, and buckets are counted.
pub(crate) fn objects(
    space: Space<'_>,
    mut each: impl FnMut(&Placed) -> Result<(), StateError>,
) -> Result<(), StateError> {
    for number in 0..Buckets::load(space)?.count() {
        for bucket in chain(space, Bucket::new(space, number)) {
            for at in bucket?.entries() {
                let entry = space.words.load(at);
                if entry != 0 {
                    let place = Granule::checked(block_of(entry), space.layout, "entry of the index", at)?;
                    each(&Placed::read_any(space, place)?)?;
                }
            }
        }
    }
    Ok(())
}
