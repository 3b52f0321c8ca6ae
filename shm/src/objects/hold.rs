//! A hold: every object stays as it was at one position, while writers go on.
//!
//! Whoever holds a position *p* finds each object that was there then in one of two places: in the index, under a version of *p* or
//! less, or, once it was replaced or deleted, in the list of kept blocks. Blocks of later versions come and go as ever. Writers pay
//! one comparison with a word of a line that they have.
//!
//! ```text
//! header words   held position + 1, 0 = no hold │ kept blocks: first, last, totals │ count of holds
//! ```
//!
//! Invariants:
//! 1. There is one hold at a time; it is begun, ended and looked at under the lock. A block whose version it wants enters the kept
//!    list in the transaction that takes it out of the index (`retire`), and all kept blocks go to the retired ones in the
//!    transaction that ends the hold: a death leaks nothing, and the next server ends what the last one held.
//! 2. A hold makes no operation of a process fail: who finds no room ends it first. So its owner looks whether it *lasts* after
//!    each read and before it believes what was read: while it lasts, no block that it wants was freed.
//! 3. A version is given once (`write`, invariant 3): two blocks of one version are a stub and its object.

use super::error::StateError;
use super::layout::header::{HELD, HOLDS, KEPT_HEAD, KEPT_TAIL, POSITION};
use super::lock::Locked;
use super::retire::{List, Retired, append_chain};
use super::transaction::Transaction;
use super::words::Space;
use crate::sync::{Ordering, fence, full_fence};

#[cfg(not(loom))]
use super::limits::{RECLAIM_BATCH_WHEN_FULL, RECLAIM_BATCHES_MAX};
#[cfg(not(loom))]
use super::retire;

/// What somebody holds, or has held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hold {
    /// Objects up to this version are held.
    pub(crate) position: u64,
    /// Which of all holds it is.
    turn: u64,
}

/// Holds everything as it is now, in the place of whoever has held something before.
pub(crate) fn begin(locked: &Locked<'_>) -> Result<Hold, StateError> {
    end(locked)?;
    let words = locked.space().words;
    let hold = Hold { position: words.load(POSITION), turn: words.load(HOLDS).wrapping_add(1) };
    words.store(HOLDS, hold.turn);
    words.store(HELD, hold.position.wrapping_add(1));
    Ok(hold)
}

/// Ends the hold, whosever it is. False if there was none.
pub(crate) fn end(locked: &Locked<'_>) -> Result<bool, StateError> {
    let space = locked.space();
    if space.words.load(HELD) == 0 {
        return Ok(false);
    }
    let mut transaction = Transaction::begin(locked)?;
    let (first, last) = (transaction.load(KEPT_HEAD), transaction.load(KEPT_TAIL));
    if first != 0 {
        let totals = Retired::load(space).and(Retired::of_list(space, List::KEPT));
        append_chain(&mut transaction, List::RETIRED, first, last)?;
        transaction.store(List::RETIRED.totals, totals.word(List::RETIRED.totals)?)?;
        for word in [KEPT_HEAD, KEPT_TAIL, List::KEPT.totals] {
            transaction.store(word, 0)?;
        }
    }
    transaction.store(HELD, 0)?;
    transaction.commit();
    // Nothing is freed and filled anew before whoever reads can see that the hold is over (`Hold::lasts`).
    full_fence();
    Ok(true)
}

/// Somebody finds no room: ends the hold, if there is one, and frees what it has kept, as far as a bounded look goes. False if that
/// has freed nothing.
#[cfg(not(loom))]
#[cold]
pub(crate) fn give_up(locked: &Locked<'_>) -> Result<bool, StateError> {
    if !end(locked)? {
        return Ok(false);
    }
    let mut pinned = Vec::new();
    let mut freed = 0;
    for _ in 0..RECLAIM_BATCHES_MAX {
        freed += retire::reclaim(locked, RECLAIM_BATCH_WHEN_FULL, &mut pinned)?;
    }
    Ok(freed > 0)
}

impl Hold {
    /// Whether it is not over: what was read before this is of the position that it holds.
    #[inline]
    pub(crate) fn lasts(self, space: Space<'_>) -> bool {
        // Pairs with the fence in `end`.
        fence(Ordering::Acquire);
        space.words.load(HELD) == self.position.wrapping_add(1) && space.words.load(HOLDS) == self.turn
    }

    /// Ends it, unless it is over.
    pub(crate) fn let_go(self, locked: &Locked<'_>) -> Result<(), StateError> {
        if self.lasts(locked.space()) {
            end(locked)?;
        }
        Ok(())
    }
}
