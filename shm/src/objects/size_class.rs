//! Size classes of the heap: two levels, the power of two and its sixteenths (TLSF, "two-level segregated fit").
//!
//! The lists' heads and two levels of bitmaps say where free blocks are, so that finding one takes two bit scans. Sizes
//! below sixteen granules have a class each.

/// Sixteenths of a power of two.
const STEP_POWER: u32 = 4;
pub(crate) const STEPS: usize = 1 << STEP_POWER;
/// Powers of two: sizes are below 2^32 granules; all below 2^4 are in the first.
#[cfg(not(loom))]
pub(crate) const POWERS: usize = 29;
/// A model's executions are fast only with few words.
#[cfg(loom)]
pub(crate) const POWERS: usize = 6;
/// Words of bitmaps and heads, from the region's start: the map of powers, a map of steps for each, the heads.
pub(crate) const POWER_MAP: usize = 0;
pub(crate) const STEP_MAPS: usize = 1;
pub(crate) const HEADS: usize = 32;
pub(crate) const HEAD_WORDS: usize = HEADS + POWERS * STEPS;

const _: () = assert!(STEP_MAPS + POWERS <= HEADS);

/// The class of a size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SizeClass {
    pub(crate) power: usize,
    pub(crate) step: usize,
}

impl SizeClass {
    /// The class in whose list a free block of `granules` lies.
    #[inline]
    pub(crate) fn of(granules: u32) -> Self {
        if (granules as usize) < STEPS {
            return Self { power: 0, step: granules as usize };
        }
        let top = granules.ilog2();
        let step = (granules >> (top - STEP_POWER)) as usize & (STEPS - 1);
        Self { power: (top - STEP_POWER + 1) as usize, step }
    }

    /// The lowest class all of whose blocks have at least `granules`; `None` above the largest.
    #[inline]
    pub(crate) fn that_fits(granules: u32) -> Option<Self> {
        if (granules as usize) < STEPS {
            return Some(Self::of(granules));
        }
        let step = 1_u32 << (granules.ilog2() - STEP_POWER);
        granules.checked_add(step - 1).map(Self::of)
    }

    /// The word of its list's head, from the region's start.
    #[inline]
    pub(crate) fn head(self) -> usize {
        HEADS + self.power * STEPS + self.step
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn classes_are_in_order_and_every_block_of_a_class_that_fits_fits() {
        let mut before = 0;
        let mut least_of_class = std::collections::BTreeMap::new();
        for granules in (1..10_000).chain([1 << 20, (1 << 31) - 1, 1 << 31, u32::MAX]) {
            let class = SizeClass::of(granules);
            assert!(class.head() >= before && class.power < POWERS && class.step < STEPS, "{granules}");
            before = class.head();
            least_of_class.entry(class.head()).or_insert(granules);
        }
        for granules in 1..5000 {
            let fits = SizeClass::that_fits(granules).unwrap().head();
            assert!(fits >= SizeClass::of(granules).head() && least_of_class[&fits] >= granules, "{granules}");
        }
        assert_eq!(SizeClass::that_fits(u32::MAX), None);
    }
}
