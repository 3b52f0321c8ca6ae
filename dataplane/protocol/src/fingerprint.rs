//! What stands for something long in tables that only have to know it again: 128 bits of a hash whose keys nobody knows.
//!
//! Of so many bits no two of a table's entries are the same by chance, not with as many entries as a host has room for, and who does
//! not know the keys cannot choose two that are. Fingerprints of one [`Fingerprints`] mean nothing to another.

use std::hash::{BuildHasher, Hash, RandomState};

/// Stands for what it was made of.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Fingerprint(u64, u64);

/// Makes fingerprints, by keys of its own.
#[derive(Debug, Default)]
pub struct Fingerprints {
    keys: (RandomState, RandomState),
}

impl Fingerprints {
    /// That of something.
    #[must_use]
    pub fn of(&self, whole: &impl Hash) -> Fingerprint {
        Fingerprint(self.keys.0.hash_one(whole), self.keys.1.hash_one(whole))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_has_the_same_and_the_halves_are_independent() {
        let fingerprints = Fingerprints::default();
        assert_eq!(fingerprints.of(&"alice"), fingerprints.of(&"alice"));
        assert_ne!(fingerprints.of(&"alice"), fingerprints.of(&"bob"));
        let Fingerprint(one, other) = fingerprints.of(&"alice");
        assert_ne!(one, other);
        assert_ne!(fingerprints.of(&"alice"), Fingerprints::default().of(&"alice"));
    }
}
