//! Room in the heap that is not needed: what somebody holds of the past, idle queues and spare blocks.

use crate::objects::error::StateError;
use crate::objects::hold;
use crate::objects::layout::header::{MAIL_REPAIRS, MAIL_TABLE};
use crate::objects::lock::Locked;

use super::claim;
use super::message::Spares;
use super::queue;

/// Gives back what a hold has kept, and what is kept for later messages. False if there was nothing. No queue may be in use that was looked up before
/// and has no messages.
#[cold]
pub(crate) fn make(locked: &Locked<'_>) -> Result<bool, StateError> {
    let words = locked.space().words;
    let had_kept = hold::give_up(locked)?;
    if words.load(MAIL_TABLE) == 0 {
        return Ok(had_kept);
    }
    if claim::settle(locked)?.is_some() {
        // Whoever has its lane tells it.
        words.store(MAIL_REPAIRS, words.load(MAIL_REPAIRS).wrapping_add(1));
    }
    let spares = Spares::SMALL.give_back(locked)? + Spares::LARGE.give_back(locked)?;
    let queues = queue::sweep_all(locked)?;
    Ok(had_kept || spares + queues > 0)
}
