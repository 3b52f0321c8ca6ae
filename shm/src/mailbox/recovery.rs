//! Server: what is done for the messages of dead workers, under the lock, after the undo log was settled.
//!
//! Nothing here touches a lane: blocks of removed messages go to the returns, and what a lane is to be told is told by the
//! next worker that looks into it. Each step is idempotent or a transaction, and all of it is bounded.

use crate::objects::error::StateError;
use crate::objects::layout::header::{MAIL_REPAIRS, MAIL_STALLED, MAIL_TABLE};
use crate::objects::lock::Locked;

use super::claim;
use super::held;
use super::limits::MESSAGES_BOUND;
use super::put;

/// Finishes what a row has accepted, gives back what it holds, frees what it was filling. Returns how many messages were
/// given back.
pub(crate) fn settle_row(locked: &Locked<'_>, row: usize) -> Result<usize, StateError> {
    let space = locked.space();
    if space.words.load(MAIL_TABLE) == 0 {
        return Ok(0);
    }
    claim::settle(locked)?;
    put::give_up(locked, held::filling_at(space, row))?;
    held::finish_ending(locked, row)?;
    let mut returned = 0;
    while held::give_back_last(locked, row)? {
        returned += 1;
        if returned as u64 > MESSAGES_BOUND {
            return Err(StateError::corrupt("list of held messages", held::held_at(space, row)));
        }
    }
    // There may be room now, and the dead may not have said so.
    space.words.store(MAIL_STALLED, 0);
    space.words.store(MAIL_REPAIRS, space.words.load(MAIL_REPAIRS).wrapping_add(1));
    Ok(returned)
}
