//! What tells the objects of a page from any others, whatever order they come in.
//!
//! No two values of a process have the same version, and versions only rise. So a page whose objects give the same sum as those that
//! are stored is the stored page, and one whose keys alone do has the same keys. Sums of 64 bits find accidents, as checksums do.

use super::page::PageObject;

/// Odd numbers whose bits are spread evenly: the golden ratio's, and one of splitmix64's.
const KEY_STEP: u64 = 0x9e37_79b9_7f4a_7c15;
const VERSION_STEP: u64 = 0xbf58_476d_1ce4_e5b9;

/// The sum over some objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PageSum {
    /// How many there are.
    pub objects: u32,
    /// Over their keys and versions.
    pub versions: u64,
    /// Over their keys.
    pub keys: u64,
    /// Bytes of their values.
    pub value_bytes: u64,
}

/// What a sum is told of one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Glimpse {
    /// The hash of namespace and key.
    pub hash: u64,
    /// Which kind of key it is.
    pub namespace: u8,
    /// Its version.
    pub version: u64,
    /// Bytes of its value.
    pub value_bytes: u32,
}

impl PageSum {
    /// One more object.
    #[inline]
    pub(crate) fn add(&mut self, object: &Glimpse) {
        let key = mix(object.hash ^ (u64::from(object.namespace) + 1).wrapping_mul(KEY_STEP));
        self.objects += 1;
        self.keys = self.keys.wrapping_add(key);
        self.versions = self.versions.wrapping_add(mix(key ^ object.version.wrapping_mul(VERSION_STEP)));
        self.value_bytes += u64::from(object.value_bytes);
    }

    /// Those of which another is the sum come to it.
    pub(crate) fn join(&mut self, other: &Self) {
        self.objects += other.objects;
        self.keys = self.keys.wrapping_add(other.keys);
        self.versions = self.versions.wrapping_add(other.versions);
        self.value_bytes += other.value_bytes;
    }

    /// Of these objects.
    pub(crate) fn of(objects: impl Iterator<Item = Glimpse>) -> Self {
        let mut sum = Self::default();
        objects.for_each(|object| sum.add(&object));
        sum
    }

    /// Whether the same keys have objects.
    pub(crate) fn has_keys_of(&self, other: &Self) -> bool {
        (self.objects, self.keys) == (other.objects, other.keys)
    }
}

impl From<&PageObject> for Glimpse {
    fn from(object: &PageObject) -> Self {
        let &PageObject { hash, namespace, version, value_bytes, .. } = object;
        Self { hash, namespace, version, value_bytes }
    }
}

/// The finalizer of splitmix64: every bit of what it gives depends on every bit of what it was given.
#[inline]
fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_knows_its_objects_in_any_order_and_no_others() {
        let glimpse = |hash, namespace, version| Glimpse { hash, namespace, version, value_bytes: 5 };
        let objects = [glimpse(1, 0, 7), glimpse(2, 0, 8), glimpse(2, 1, 9)];
        let sum = PageSum::of(objects.into_iter());
        assert_eq!(sum, PageSum::of(objects.into_iter().rev()));
        let mut joined = PageSum::of(objects[..1].iter().copied());
        joined.join(&PageSum::of(objects[1..].iter().copied()));
        assert_eq!(joined, sum);
        // Versions of two keys that are exchanged, another version, another kind of key, one object less.
        let exchanged = [glimpse(1, 0, 8), glimpse(2, 0, 7), glimpse(2, 1, 9)];
        for other in [exchanged, [glimpse(1, 0, 10), glimpse(2, 0, 8), glimpse(2, 1, 9)]] {
            let other = PageSum::of(other.into_iter());
            assert!(other != sum && other.has_keys_of(&sum));
        }
        let other = PageSum::of([glimpse(1, 1, 7), glimpse(2, 0, 8), glimpse(2, 1, 9)].into_iter());
        assert!(!other.has_keys_of(&sum));
        assert!(!PageSum::of(objects[1..].iter().copied()).has_keys_of(&sum));
        // What the format has: it never changes.
        assert_eq!((sum.keys, sum.versions, sum.value_bytes), (SUM_KEYS, SUM_VERSIONS, 15));
    }

    const SUM_KEYS: u64 = 0x3688_3bee_4dd9_7cd7;
    const SUM_VERSIONS: u64 = 0x3cc0_9d5a_f7a2_20d5;
}
