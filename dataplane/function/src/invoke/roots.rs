//! Root ids: what all calls made on behalf of one client's call have in common.
//!
//! A client that knew the root of somebody's running call could have its own calls admitted by a draining process, so nobody
//! can guess one: they are what a keyed hash, seeded by the system, makes of a counter.

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};

/// Makes the root ids of one worker.
#[derive(Debug)]
pub(super) struct Roots {
    halves: [RandomState; 2],
    made: Cell<u64>,
}

impl Roots {
    pub(super) fn new() -> Self {
        Self { halves: [RandomState::new(), RandomState::new()], made: Cell::new(0) }
    }

    /// A root id that nobody had before; not 0.
    pub(super) fn mint(&self) -> u128 {
        let number = self.made.get() + 1;
        self.made.set(number);
        let [high, low] = self.halves.each_ref().map(|half| u128::from(half.hash_one(number)));
        (high << 64 | low).max(1)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_root_is_made_twice_by_one_worker_or_by_two() {
        let (one, other) = (Roots::new(), Roots::new());
        let made: HashSet<u128> = (0..1000).flat_map(|_| [one.mint(), other.mint()]).collect();
        assert_eq!(made.len(), 2000);
    }
}
