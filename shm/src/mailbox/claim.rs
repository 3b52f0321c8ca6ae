//! A claim: a message that a call holds while it still lies in its lane.
//!
//! Most messages come by the only lane of a process, are received while nothing else is there, and are accepted at once. To
//! such a message nothing happens but that its lane moves on. So its receiver copies it into the first spare block, which
//! stays among the spares, and writes the word of the claim; accepting it is one store, that of the lane's position.
//!
//! ```text
//! row + 1 : 8 │ slot of the lane : 16 │ position of the message : 40
//! ```
//!
//! Invariants:
//! 1. There is one claim at most. It is made and accepted under the lock, by the worker of its row.
//! 2. A claim whose position its lane has passed is void: its message was accepted, by the very store that moved the lane.
//! 3. Whoever else does anything with the mailbox *settles* the claim first: then its message has left its lane and is in the
//!    list of what the row's call holds, in the block that was filled for it. So the lists of spares and queues that are without
//!    messages do not change while there is a claim, and its queue, which nobody holds, is not removed.
//! 4. The words of the lane's slot are those of the lane that the message lies in: it was taken from before.

use crate::objects::error::StateError;
use crate::objects::layout::header::{MAIL_CLAIM, POSITION};
use crate::objects::lock::Locked;
use crate::objects::transaction::Transaction;
use crate::objects::words::Space;

use super::held;
use super::message::{Spares, Stored};
use super::table::{LaneWords, Table};

const SLOT_AT: u32 = 8;
const POSITION_AT: u32 = 24;
/// Bits of a position that a claim tells.
const POSITION_BITS: u32 = 64 - POSITION_AT;

/// A claim that a word stands for.
#[derive(Debug, Clone, Copy)]
struct Claim {
    row: usize,
    slot: u16,
    position: u64,
}

#[inline]
fn word_of(row: usize, slot: u16, position: u64) -> u64 {
    (row as u64 + 1) | u64::from(slot) << SLOT_AT | position << POSITION_AT
}

impl Claim {
    #[allow(clippy::cast_possible_truncation, reason = "fields of the word")]
    fn of_word(space: Space<'_>, word: u64) -> Result<Self, StateError> {
        let row = (word as u8 as usize).checked_sub(1).filter(|&row| row < space.layout.row_count);
        let row = row.ok_or_else(|| StateError::corrupt("claim of a message", MAIL_CLAIM))?;
        Ok(Self { row, slot: (word >> SLOT_AT) as u16, position: word >> POSITION_AT })
    }

    /// The words of its lane, unless the claim is void.
    fn lane(self, space: Space<'_>, table: Table) -> Option<LaneWords> {
        let lane = table.lane(self.slot);
        (lane.position_now(space) & ((1 << POSITION_BITS) - 1) == self.position).then_some(lane)
    }
}

/// Whether there is a claim; void ones count. Without the lock a hint.
#[inline]
pub(crate) fn is_there(space: Space<'_>) -> bool {
    space.words.load(MAIL_CLAIM) != 0
}

/// The row's call holds the message of this position, which was copied into the first small spare block.
#[inline(always)]
pub(crate) fn make(locked: &Locked<'_>, row: usize, slot: u16, position: u64) {
    locked.space().words.store(MAIL_CLAIM, word_of(row, slot, position));
}

/// The position that a lane is at while the row's call holds its message; `None` if that claim is no more, or another's.
#[inline(always)]
pub(crate) fn position(space: Space<'_>, row: usize, slot: u16, lane: LaneWords) -> Option<u64> {
    let position = lane.position_now(space);
    (space.words.load(MAIL_CLAIM) == word_of(row, slot, position)).then_some(position)
}

/// The message that is claimed at this position of its lane is accepted.
#[inline(always)]
pub(crate) fn accept(locked: &Locked<'_>, lane: LaneWords, position: u64) -> Result<(), StateError> {
    let space = locked.space();
    // Its arrival and its removal.
    let removed_at = space.words.load(POSITION).checked_add(2);
    let removed_at = removed_at.ok_or_else(|| StateError::corrupt("position", POSITION))?;
    space.words.store(POSITION, removed_at);
    lane.advance(space, position.wrapping_add(1));
    space.words.store(MAIL_CLAIM, 0);
    Ok(())
}

/// Makes of a claim a message that is held as any other (invariant 3). Returns the slot of the lane that has moved on by it, and
/// is to be told.
pub(crate) fn settle(locked: &Locked<'_>) -> Result<Option<u16>, StateError> {
    let space = locked.space();
    let word = space.words.load(MAIL_CLAIM);
    if word == 0 {
        return Ok(None);
    }
    let claim = Claim::of_word(space, word)?;
    let Some(table) = Table::find(space)? else { return Err(StateError::corrupt("claim of a message", MAIL_CLAIM)) };
    let Some(lane) = claim.lane(space, table) else {
        space.words.store(MAIL_CLAIM, 0);
        return Ok(Some(claim.slot));
    };
    let mut transaction = Transaction::begin(locked)?;
    let message = Spares::SMALL.pop(&mut transaction)?;
    let message = message.ok_or_else(|| StateError::corrupt("claim of a message", MAIL_CLAIM))?;
    let queue = message.queue(space)?;
    if !queue.hold(space).admits(claim.row) {
        return Err(StateError::corrupt("holder of a queue", queue.place.at()));
    }
    message.arrives(&mut transaction)?;
    message.enter_row(&mut transaction, held::held_at(space, claim.row))?;
    queue.hold_one(&mut transaction, claim.row)?;
    lane.move_to(&mut transaction, lane.serial(space), lane.position_now(space).wrapping_add(1))?;
    transaction.store(MAIL_CLAIM, 0)?;
    transaction.commit();
    Ok(Some(claim.slot))
}

/// Messages that are claimed, and whether that can be.
pub(crate) fn check(space: Space<'_>) -> Result<u64, StateError> {
    let word = space.words.load(MAIL_CLAIM);
    if word == 0 {
        return Ok(0);
    }
    let (claim, table) = (Claim::of_word(space, word)?, Table::find(space)?);
    if table.and_then(|table| claim.lane(space, table)).is_none() {
        return Ok(0);
    }
    let message = Stored::checked(space, Spares::SMALL.first(space), MAIL_CLAIM)?;
    message.payload(space)?;
    let is_held_elsewhere = !message.queue(space)?.hold(space).admits(claim.row);
    if is_held_elsewhere { Err(StateError::corrupt("claim of a message", MAIL_CLAIM)) } else { Ok(1) }
}
