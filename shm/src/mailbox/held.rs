//! What the call of a row holds: received, removed, given back. Each is one transaction under the lock.
//!
//! A row has three words: the last message that its call holds, the last of those that it has accepted all together and
//! that are still to be removed, and the message that it is filling. The first two are lists, in order of receipt.
//!
//! Invariants:
//! 1. Messages become "to be removed" all by one transaction, which is the instant and the position of their removal: whoever
//!    finds some there goes on tidying them away, which is no change of the mailbox any more, and never gives them back.
//! 2. Held messages are given back the last first, each to the head of its queue, so that they stand in their order again.

use crate::objects::error::StateError;
use crate::objects::layout::row;
use crate::objects::lock::Locked;
use crate::objects::transaction::Transaction;
use crate::objects::words::Space;

use super::limits::MESSAGES_BOUND;
use super::logging;
use super::message::{self, Stored};
use super::queue::Queue;
use super::seek::Seek;

/// The word for the last message that a row's call holds.
#[inline]
pub(crate) fn held_at(space: Space<'_>, row: usize) -> usize {
    space.layout.row_at(row) + row::MAIL_HELD
}

#[inline]
fn ending_at(space: Space<'_>, row: usize) -> usize {
    space.layout.row_at(row) + row::MAIL_ENDING
}

/// The word for a message that a row is filling.
#[inline]
pub(crate) fn filling_at(space: Space<'_>, row: usize) -> usize {
    space.layout.row_at(row) + row::MAIL_FILLING
}

/// The three words of a row.
pub(crate) fn row_words(space: Space<'_>, row: usize) -> [u64; 3] {
    [held_at(space, row), ending_at(space, row), filling_at(space, row)].map(|at| space.words.load(at))
}

/// The two lists of a row: where they begin, and whether their messages are held.
pub(crate) fn lists(space: Space<'_>, row: usize) -> [usize; 2] {
    [held_at(space, row), ending_at(space, row)]
}

fn at_word(space: Space<'_>, at: usize) -> Result<Option<Stored>, StateError> {
    let number = space.words.load(at);
    if number == 0 { Ok(None) } else { Stored::checked(space, number, at).map(Some) }
}

/// The last message that the row's call holds.
pub(crate) fn last(space: Space<'_>, row: usize) -> Result<Option<Stored>, StateError> {
    at_word(space, held_at(space, row))
}

/// The seeker's call receives the first message of a queue that admits it.
#[inline]
pub(crate) fn take_first(locked: &Locked<'_>, queue: Queue, first: Stored, seek: &Seek<'_>) -> Result<(), StateError> {
    let mut transaction = Transaction::begin(locked)?;
    queue.take_first(&mut transaction, first)?;
    first.enter_row(&mut transaction, seek.held_at)?;
    queue.hold_one(&mut transaction, seek.row)?;
    transaction.commit();
    Ok(())
}

/// The first message of a queue is removed unread: its payload is lost.
#[cold]
pub(crate) fn lose_first(locked: &Locked<'_>, queue: Queue, first: Stored) -> Result<(), StateError> {
    let mut transaction = Transaction::begin(locked)?;
    // Its end writes over its link, which means something while it is queued.
    transaction.keep(first.link_at())?;
    queue.take_first(&mut transaction, first)?;
    first.ends(&mut transaction)?;
    transaction.commit();
    Ok(())
}

/// Removes a message that the row's call holds. True if it was the last that it held of its queue.
#[inline(always)]
pub(crate) fn remove(locked: &Locked<'_>, row: usize, queue: Queue, message: Stored) -> Result<bool, StateError> {
    let mut transaction = Transaction::begin(locked)?;
    message.leave_row(&mut transaction, held_at(locked.space(), row))?;
    let is_last = queue.unhold_one(&mut transaction, row)?;
    message.ends(&mut transaction)?;
    transaction.commit();
    Ok(is_last)
}

/// All that the row's call holds is to be removed; there is nothing else to be removed in this row.
pub(crate) fn begin_ending(locked: &Locked<'_>, row: usize) -> Result<(), StateError> {
    let space = locked.space();
    let (held, ending) = (held_at(space, row), ending_at(space, row));
    let last = last(space, row)?;
    let mut transaction = Transaction::begin(locked)?;
    let position = message::next_position(&mut transaction)?;
    logging::removed_all(&mut transaction, last, position)?;
    transaction.store(ending, transaction.load(held))?;
    transaction.store(held, 0)?;
    transaction.commit();
    Ok(())
}

/// Whether some of those are left. Only its own worker may ask without the lock.
#[inline]
pub(crate) fn is_ending(space: Space<'_>, row: usize) -> bool {
    space.words.load(ending_at(space, row)) != 0
}

/// Removes the last one of those. False if there is none.
pub(crate) fn end_one(locked: &Locked<'_>, row: usize) -> Result<bool, StateError> {
    let space = locked.space();
    let Some(message) = at_word(space, ending_at(space, row))? else { return Ok(false) };
    let mut transaction = Transaction::begin(locked)?;
    transaction.store(ending_at(space, row), message.before(space))?;
    message.queue(space)?.unhold_one(&mut transaction, row)?;
    message.is_tidied_away(&mut transaction)?;
    transaction.commit();
    Ok(true)
}

/// Removes all of those.
pub(crate) fn finish_ending(locked: &Locked<'_>, row: usize) -> Result<(), StateError> {
    for _ in 0..=MESSAGES_BOUND {
        if !end_one(locked, row)? {
            return Ok(());
        }
    }
    Err(StateError::corrupt("list of removed messages", ending_at(locked.space(), row)))
}

/// Gives the last message back that the row's call holds. False if there is none.
pub(crate) fn give_back_last(locked: &Locked<'_>, row: usize) -> Result<bool, StateError> {
    let Some(message) = last(locked.space(), row)? else { return Ok(false) };
    give_back(locked, row, message)?;
    Ok(true)
}

/// Gives a message back that the row's call holds. Of those of one queue, the last goes first.
pub(crate) fn give_back(locked: &Locked<'_>, row: usize, message: Stored) -> Result<(), StateError> {
    let space = locked.space();
    let queue = message.queue(space)?;
    let mut transaction = Transaction::begin(locked)?;
    message.leave_row(&mut transaction, held_at(space, row))?;
    queue.unhold_one(&mut transaction, row)?;
    message.mark_redelivered(space);
    queue.put_back(&mut transaction, message)?;
    transaction.commit();
    Ok(())
}
