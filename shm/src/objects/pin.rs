//! Pins: how a reader keeps a block from being freed, and how a reclaimer learns what is pinned.
//!
//! Invariants:
//! 1. A row's pins are stored by its own worker alone; the server clears them after that worker's end.
//! 2. Reader: pin, fence, look again at the entry that named the block. Reclaimer: blocks left the index, fence, look at all
//!    pins. One of the two fences is first: either the reader sees that the entry has changed, or the reclaimer sees the
//!    pin. So a block that a reader has pinned and seen named again stays until the pin is gone.
//! 3. `PINS_USED` is raised before the first pin beyond it, and never lowered but by the server.
//! 4. A pin is cleared with Release, which the reclaimer's Acquire pairs with: reads through it are over.

use super::granule::Granule;
use super::layout::row;
use super::limits::PINS_PER_WORKER;
use super::words::Space;
use crate::sync::full_fence;

/// The row of one worker or of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Row {
    at: usize,
}

/// One pin of the own row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PinSlot {
    at: usize,
}

impl Row {
    /// Row `index`, which must be below the layout's count.
    pub(crate) fn new(space: Space<'_>, index: usize) -> Self {
        assert!(index < space.layout.row_count, "rows are counted by the layout");
        Self { at: space.layout.row_at(index) }
    }

    /// Pin `slot` of the own row, ready to be stored.
    #[inline]
    pub(crate) fn pin_slot(self, space: Space<'_>, slot: usize) -> PinSlot {
        debug_assert!(slot < PINS_PER_WORKER);
        let used = self.at + row::PINS_USED;
        if space.words.load(used) <= slot as u64 {
            space.words.store(used, slot as u64 + 1);
        }
        PinSlot { at: self.at + row::PINS + slot }
    }

    /// The word of loan `slot`.
    #[inline]
    pub(crate) fn loan_at(self, slot: usize) -> usize {
        self.at + row::LOANS + slot
    }

    /// Server: clears the pins of a dead worker.
    pub(crate) fn clear_pins(self, space: Space<'_>) {
        for slot in 0..PINS_PER_WORKER {
            let at = self.at + row::PINS + slot;
            if space.words.load(at) != 0 {
                space.words.store(at, 0);
            }
        }
        space.words.store(self.at + row::PINS_USED, 0);
    }
}

impl PinSlot {
    /// Pins the block that `entry_at` names in `entry`; false if it does not name it any more.
    #[inline]
    pub(crate) fn pin(self, space: Space<'_>, place: Granule, entry_at: usize, entry: u64) -> bool {
        space.words.store(self.at, place.number());
        full_fence();
        space.words.load_acquire(entry_at) == entry
    }

    #[inline]
    pub(crate) fn clear(self, space: Space<'_>) {
        space.words.store(self.at, 0);
    }
}

/// Reclaimer: what is pinned now, sorted. Everything that is reclaimed by it has left the index before.
pub(crate) fn all_pinned(space: Space<'_>, into: &mut Vec<u64>) {
    into.clear();
    full_fence();
    for index in 0..space.layout.row_count {
        let at = space.layout.row_at(index);
        let used = space.words.load_acquire(at + row::PINS_USED).min(PINS_PER_WORKER as u64);
        let pins = (0..PINS_PER_WORKER).zip(0..used).map(|(slot, _)| space.words.load_acquire(at + row::PINS + slot));
        into.extend(pins.filter(|&pin| pin != 0));
    }
    into.sort_unstable();
}
