//! Parking: a word that says who sleeps, and the word on which they do.
//!
//! The two-sided argument (Dekker's): whoever changes something publishes it, fences, then reads `parked`. Whoever wants to
//! sleep sets its bit in `parked`, fences, then looks at everything once more. Both fences are SeqCst, so at least one of
//! them sees the other: the sleeper finds the change, or the changer finds the bit and rings.
//!
//! Of several who find bits, the one that takes them out by its swap rings for all: one system call a sleep, not one a
//! change. Invariants:
//! 1. A sleeper reads `rings` *before* it sets its bit. Whoever takes the bit counts `rings` up *after* that. So a sleeper
//!    whose bit was taken never sleeps on the count that follows: it is woken, or its sleep does not begin.
//! 2. Who sleeps in vain because the one that took its bit died before it rang wakes by its timeout: no sleep is without.
//!
//! The words lie where peers can write. Junk in them costs wake-ups, which the timeouts bound, and nothing else.

use std::time::Duration;

use crate::sync::{AtomicU32, AtomicU64, Ordering, full_fence, full_fence_after_exchange, sleep_word, wake_word};

/// Who sleeps, and on what. Alone in its cache line.
#[repr(C, align(64))]
#[derive(Debug)]
pub(crate) struct Parking {
    /// A bit for each that sleeps or is about to.
    parked: AtomicU64,
    /// Counts rings; slept on.
    rings: AtomicU32,
    reserved: [AtomicU32; 13],
}

#[cfg(not(loom))]
const _: () = {
    use std::mem::{offset_of, size_of};
    assert!(size_of::<Parking>() == 64);
    assert!(offset_of!(Parking, rings) == 8);
};

impl Parking {
    /// The count of rings; read before looking at what they announce.
    #[inline]
    pub(crate) fn rings(&self) -> u32 {
        // Acquire pairs with the count-up of whoever rang: what it announces is seen by a look that follows.
        self.rings.load(Ordering::Acquire)
    }

    /// Sleeper: is about to sleep. Returns what to hand to [`Parking::sleep`]; look at everything once more before.
    #[inline]
    pub(crate) fn prepare(&self, bit: u64) -> u32 {
        // Kept before the bit by the bit's Release (invariant 1). What a ring announced that is counted here is seen after
        // the fences.
        let seen = self.rings.load(Ordering::Relaxed);
        // Release pairs with the swap in `take_parked`.
        self.parked.fetch_or(bit, Ordering::AcqRel);
        // Pairs with the fence in `is_parked`.
        full_fence_after_exchange();
        seen
    }

    /// Sleeper: sleeps unless somebody rang since `prepare` returned `seen`. May return early at will.
    pub(crate) fn sleep(&self, seen: u32, timeout: Duration) {
        sleep_word(&self.rings, seen, timeout);
    }

    /// Sleeper: is awake again.
    #[inline]
    pub(crate) fn finish(&self, bit: u64) {
        // Nobody else sets the bit, so it can only have been taken out meanwhile.
        if self.parked.load(Ordering::Relaxed) & bit != 0 {
            self.parked.fetch_and(!bit, Ordering::Relaxed);
        }
    }

    /// Changer: whether anybody sleeps. To be asked after the change was published.
    #[inline]
    pub(crate) fn is_parked(&self) -> bool {
        // Pairs with the fence in `prepare`.
        full_fence();
        // Acquire pairs with the bit set in `prepare`: what a sleeper wrote before it is seen.
        self.parked.load(Ordering::Acquire) != 0
    }

    /// The same by a changer that has exchanged a word between the publication and this question.
    #[inline]
    pub(crate) fn is_parked_after_exchange(&self) -> bool {
        full_fence_after_exchange();
        self.parked.load(Ordering::Acquire) != 0
    }

    /// Changer: wakes all who sleep, if [`Parking::is_parked`] said so.
    #[cold]
    pub(crate) fn wake_parked(&self) {
        if self.take_parked() {
            self.count_and_wake();
        }
    }

    /// Changer: tells those who sleep, and those who poll [`Parking::rings`].
    pub(crate) fn ring(&self) {
        if self.is_parked() && self.take_parked() {
            self.count_and_wake();
        } else {
            // Release pairs with the Acquire in `rings`.
            self.rings.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Takes all bits; true for the one that must ring for their owners.
    fn take_parked(&self) -> bool {
        // Acquire keeps the count-up behind it (invariant 1).
        self.parked.swap(0, Ordering::AcqRel) != 0
    }

    fn count_and_wake(&self) {
        // Release pairs with the Acquire in `prepare` and `rings`.
        self.rings.fetch_add(1, Ordering::AcqRel);
        wake_word(&self.rings);
    }

    #[cfg(any(test, loom))]
    #[allow(dead_code, reason = "used by the models")]
    pub(crate) fn new() -> Self {
        Self {
            parked: AtomicU64::new(0),
            rings: AtomicU32::new(0),
            reserved: std::array::from_fn(|_| AtomicU32::new(0)),
        }
    }
}
