//! The segment as words: the only way in which the store's own code touches shared memory, bulk bytes aside.
//!
//! Invariants:
//! 1. Every index is inside the segment: it comes from the layout, from a checked [`Granule`](super::granule::Granule), or
//!    from a comparison with [`Words::count`]. An index outside is an error of this program and panics.
//! 2. Every store is Release and passes a step. Releases keep the order of a thread's stores, which is what a killed
//!    worker leaves behind.

use std::marker::PhantomData;
use std::ptr::NonNull;

use super::layout::ObjectsLayout;
use super::steps::step;
use crate::sync::{AtomicU64, Ordering, prefetch_for_read};

/// A view of the segment's words.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Words<'a> {
    first: NonNull<AtomicU64>,
    count: usize,
    life: PhantomData<&'a AtomicU64>,
}

impl<'a> Words<'a> {
    /// # Safety
    /// `first` must point to `count` atomics that live for `'a`.
    pub(crate) unsafe fn new(first: NonNull<AtomicU64>, count: usize) -> Self {
        Self { first, count, life: PhantomData }
    }

    #[inline]
    pub(crate) fn count(self) -> usize {
        self.count
    }

    /// The word itself. Whoever stores to it by himself passes a step.
    #[inline]
    pub(crate) fn at(self, index: usize) -> &'a AtomicU64 {
        assert!(index < self.count, "outside the segment");
        // SAFETY: inside the `count` atomics that `new` was promised, for as long as promised.
        unsafe { self.first.add(index).as_ref() }
    }

    /// Asks for the cache line of a word, which may lie outside.
    #[inline]
    pub(crate) fn prefetch(self, index: usize) {
        if index < self.count {
            prefetch_for_read(self.at(index));
        }
    }

    /// For words that only the lock's owner writes, read by the owner; and for what a word read by
    /// [`Words::load_acquire`] has published.
    #[inline]
    pub(crate) fn load(self, index: usize) -> u64 {
        self.at(index).load(Ordering::Relaxed)
    }

    /// For words that are read without the lock: pairs with [`Words::store`].
    #[inline]
    pub(crate) fn load_acquire(self, index: usize) -> u64 {
        self.at(index).load(Ordering::Acquire)
    }

    #[inline]
    pub(crate) fn store(self, index: usize, value: u64) {
        store_word(self.at(index), value);
    }

    /// A region that the layout places inside the segment: checked once for all of it.
    #[inline]
    pub(crate) fn region<const WORDS: usize>(self, index: usize) -> &'a [AtomicU64; WORDS] {
        assert!(index.checked_add(WORDS).is_some_and(|end| end <= self.count), "outside the segment");
        // SAFETY: all of them are inside the `count` atomics that `new` was promised, which lie one after the other.
        unsafe { self.first.add(index).cast().as_ref() }
    }

    /// The address of bytes of the segment, to be copied from or to.
    #[cfg(not(loom))]
    pub(crate) fn bytes(self, offset: usize, bytes: usize) -> NonNull<u8> {
        let all = self.count * size_of::<u64>();
        assert!(offset.checked_add(bytes).is_some_and(|end| end <= all), "outside the segment");
        // SAFETY: inside the atomics that `new` was promised, which lie one after the other.
        unsafe { self.first.cast::<u8>().add(offset) }
    }

    /// Words that lie one after the other: checked once for all of them.
    #[cfg(not(loom))]
    #[inline]
    pub(crate) fn range(self, index: usize, words: usize) -> &'a [AtomicU64] {
        assert!(index.checked_add(words).is_some_and(|end| end <= self.count), "outside the segment");
        // SAFETY: all of them are inside the `count` atomics that `new` was promised, which lie one after the other.
        unsafe { std::slice::from_raw_parts(self.first.add(index).as_ptr(), words) }
    }

    /// Into a block that nobody else sees yet: ordered by the store that publishes it.
    #[inline]
    pub(crate) fn store_private(self, index: usize, value: u64) {
        self.at(index).store(value, Ordering::Relaxed);
    }
}

/// The one way to store a word that is not private (invariant 2).
#[inline]
pub(crate) fn store_word(word: &AtomicU64, value: u64) {
    word.store(value, Ordering::Release);
    step();
}

/// Words with the layout that gives them meaning.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Space<'a> {
    pub(crate) words: Words<'a>,
    pub(crate) layout: &'a ObjectsLayout,
    /// Where changes are recorded, if they are.
    #[cfg(not(loom))]
    pub(crate) log: Option<&'a crate::log_ring::LogWriter>,
}
