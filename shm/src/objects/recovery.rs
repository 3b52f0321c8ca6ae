//! Server: what is done for dead workers.
//!
//! Invariants:
//! 1. A lock is broken, and a log settled, only in the name of an owner that is known to be dead.
//! 2. Each step is idempotent, and the lock is given back last: a recovery that dies, or is refused, is repeated whole.
//! 3. The work is bounded by the log, the rows and the segment's number of buckets in one chain, whatever stands in memory.

use super::error::{RecoverError, StateError};
use super::hold;
use super::limits::LOANS_PER_WORKER;
use super::lock::{self, LockOwner, Locked};
use super::pin::Row;
#[cfg(not(loom))]
use super::row_owner;
use super::transaction::{self, Settled};
use super::words::Space;
use super::write;
use crate::tag::WorkerTag;

use std::time::Duration;

/// What a recovery has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recovered {
    /// What became of the transaction that the dead worker was in.
    pub settled: Settled,
    /// Loans of the dead that were freed.
    pub loans_freed: usize,
    /// Messages that the dead held, and that others can receive now: whoever waits for messages is to be woken.
    pub messages_returned: usize,
}

/// After the end of one worker. Others live and may be writing.
pub(crate) fn recover(space: Space<'_>, dead: WorkerTag) -> Result<Recovered, RecoverError> {
    recover_row(space, dead, usize::from(dead.index()))
}

/// The same with a row that need not be that of its index.
pub(crate) fn recover_row(space: Space<'_>, dead: WorkerTag, row: usize) -> Result<Recovered, RecoverError> {
    let (locked, inherited) = match lock::owner(space) {
        LockOwner::Worker(tag) if tag.is_life_up_to(dead) => (Locked::inherit(space), true),
        LockOwner::Unknown(_) => return Err(unknown_owner()),
        _ => (lock::acquire(space, LockOwner::Server, Duration::ZERO)?, false),
    };
    finish(locked, inherited, row..row + 1)
}

/// After the end of all workers and of the server before this one: nobody else has the segment.
pub(crate) fn recover_all(space: Space<'_>) -> Result<Recovered, RecoverError> {
    let held = lock::owner(space) != LockOwner::Nobody;
    let locked = if held { Locked::inherit(space) } else { lock::acquire(space, LockOwner::Server, Duration::ZERO)? };
    let ended = transaction::settle(&locked).and_then(|settled| hold::end(&locked).map(|_| settled));
    match ended {
        Ok(settled) => {
            finish(locked, held, 0..space.layout.row_count).map(|recovered| Recovered { settled, ..recovered })
        }
        Err(error) => {
            locked.keep_for_good();
            Err(error.into())
        }
    }
}

fn finish(locked: Locked<'_>, inherited: bool, rows: std::ops::Range<usize>) -> Result<Recovered, RecoverError> {
    let space = locked.space();
    match settle_and_free(&locked, rows) {
        Ok(recovered) => {
            drop(locked);
            if inherited {
                lock::wake_all(space);
            }
            Ok(recovered)
        }
        Err(error) => {
            // Nobody goes into a corrupt segment again.
            locked.keep_for_good();
            Err(error.into())
        }
    }
}

fn settle_and_free(locked: &Locked<'_>, rows: std::ops::Range<usize>) -> Result<Recovered, StateError> {
    let space = locked.space();
    let settled = transaction::settle(locked)?;
    let (mut loans_freed, mut messages_returned) = (0, 0);
    for (index, row) in rows.map(|index| (index, Row::new(space, index))) {
        messages_returned += return_messages(locked, index)?;
        row.clear_pins(space);
        for slot in 0..LOANS_PER_WORKER {
            loans_freed += usize::from(write::give_back(locked, row.loan_at(slot))?);
        }
        // Last: who sees it finds all settled.
        #[cfg(not(loom))]
        row_owner::clear(space, index);
    }
    Ok(Recovered { settled, loans_freed, messages_returned })
}

#[cfg(not(loom))]
fn return_messages(locked: &Locked<'_>, row: usize) -> Result<usize, StateError> {
    crate::mailbox::recovery::settle_row(locked, row)
}

/// The models have no messages.
#[cfg(loom)]
fn return_messages(_locked: &Locked<'_>, _row: usize) -> Result<usize, StateError> {
    Ok(0)
}

#[cold]
fn unknown_owner() -> RecoverError {
    RecoverError::Corrupt { what: "owner of the lock", offset: super::layout::header::LOCK as u64 * 8 }
}
