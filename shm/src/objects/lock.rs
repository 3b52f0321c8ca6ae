//! The writers' lock: one word that names who is inside.
//!
//! Invariants:
//! 1. Words of the undo log, the heap, the index and the counters are stored by the lock's owner alone.
//! 2. The word is taken by a CAS from 0 to the owner's tag and freed by an exchange, so a dead owner is known by name. Only
//!    the server frees it in the name of a dead worker, after that worker's end and after it has settled the undo log.
//!    Whoever gives the lock back publishes what is committed in the log ring, if there is one.
//! 3. Every wait ends: polls, then sleeps in slices until the caller's patience is over. A waiter marks the word before it
//!    sleeps and the owner wakes all who sleep; a wake that died with its owner costs the rest of a slice.

use std::fmt;
use std::time::Duration;
#[cfg(not(loom))]
use std::time::Instant;

use super::error::StateError;
use super::layout::header::LOCK;
use super::steps::step;
use super::words::Space;
use crate::sync::{Ordering, pause, sleep_low_half, wake_low_half};
use crate::tag::WorkerTag;

/// Set by whoever is about to sleep. Neither a worker's word nor the server's has this bit.
const SOMEBODY_SLEEPS: u64 = 1 << 30;
/// The server's word; a worker's has bit 31.
const SERVER: u64 = 1;
/// Polls before the first sleep: a critical section takes less than these pauses.
#[cfg(not(loom))]
const POLLS: u32 = 100;
/// A model's polls yield, and would let every owner finish before the waiter sleeps.
#[cfg(loom)]
const POLLS: u32 = 0;
/// Longest sleep between two looks, for a waker that was killed.
const SLICE: Duration = Duration::from_millis(20);

/// Who holds the writers' lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum LockOwner {
    /// Nobody: it was a reader that waited, or the lock was freed in this moment.
    Nobody,
    /// The server.
    Server,
    /// A worker.
    Worker(WorkerTag),
    /// A word that nobody writes: the segment is corrupt.
    Unknown(u64),
}

impl fmt::Display for LockOwner {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nobody => formatter.write_str("nobody"),
            Self::Server => formatter.write_str("the server"),
            Self::Worker(tag) => write!(formatter, "worker {} (life {})", tag.index(), tag.generation()),
            Self::Unknown(word) => write!(formatter, "an unknown owner ({word:#x})"),
        }
    }
}

impl LockOwner {
    pub(crate) fn of_word(word: u64) -> Self {
        match word & !SOMEBODY_SLEEPS {
            0 => Self::Nobody,
            SERVER => Self::Server,
            tag => {
                let worker = u32::try_from(tag).ok().and_then(WorkerTag::from_word);
                worker.map_or(Self::Unknown(word), Self::Worker)
            }
        }
    }

    /// The word of an owner that is somebody.
    fn word(self) -> u64 {
        match self {
            Self::Server => SERVER,
            Self::Worker(tag) => u64::from(tag.word()),
            Self::Nobody | Self::Unknown(_) => unreachable!("only workers and the server lock"),
        }
    }
}

/// The right to write; gives the lock back when dropped.
#[derive(Debug)]
pub(crate) struct Locked<'a> {
    space: Space<'a>,
}

/// Waits for the lock as `owner`, for `patience` at most.
#[inline]
pub(crate) fn acquire(space: Space<'_>, owner: LockOwner, patience: Duration) -> Result<Locked<'_>, StateError> {
    // Acquire pairs with the Release in `Locked::drop`.
    let free = space.words.at(LOCK).compare_exchange(0, owner.word(), Ordering::Acquire, Ordering::Relaxed).is_ok();
    if free {
        step();
    } else {
        wait(space, owner, patience)?;
    }
    Ok(Locked { space })
}

#[cold]
fn wait(space: Space<'_>, owner: LockOwner, patience: Duration) -> Result<(), StateError> {
    let word = space.words.at(LOCK);
    let try_from_free =
        |mine: u64| word.compare_exchange(0, mine, Ordering::Acquire, Ordering::Relaxed).inspect(|_| step()).is_ok();
    for _ in 0..POLLS {
        if word.load(Ordering::Relaxed) == 0 && try_from_free(owner.word()) {
            return Ok(());
        }
        pause();
    }
    let deadline = Deadline::after(patience);
    loop {
        let seen = word.load(Ordering::Relaxed);
        if seen == 0 {
            // Others may sleep still: whoever slept takes the lock with the mark, and wakes them in turn.
            if try_from_free(owner.word() | SOMEBODY_SLEEPS) {
                return Ok(());
            }
            continue;
        }
        let Some(slice) = deadline.slice() else {
            return Err(StateError::Busy { owner: LockOwner::of_word(seen), waited: patience });
        };
        let marked = seen | SOMEBODY_SLEEPS;
        let is_marked = seen == marked
            || word.compare_exchange(seen, marked, Ordering::Relaxed, Ordering::Relaxed).inspect(|_| step()).is_ok();
        if is_marked {
            sleep_low_half(word, marked, slice);
        }
    }
}

/// Whoever holds the lock now.
pub(crate) fn owner(space: Space<'_>) -> LockOwner {
    LockOwner::of_word(space.words.load_acquire(LOCK))
}

impl<'a> Locked<'a> {
    /// The lock of an owner that is dead, in whose name the server goes on. It must be known to be dead.
    pub(crate) fn inherit(space: Space<'a>) -> Self {
        Self { space }
    }

    #[inline]
    pub(crate) fn space(&self) -> Space<'a> {
        self.space
    }

    /// Gives up the right without giving the lock back: over a corrupt segment nobody else goes in.
    pub(crate) fn keep_for_good(self) {
        std::mem::forget(self);
    }
}

impl Drop for Locked<'_> {
    #[inline]
    fn drop(&mut self) {
        #[cfg(not(loom))]
        let rings = self.space.log.filter(|log| log.publish(self.space.words.load(super::layout::header::LOG_TAIL)));
        let word = self.space.words.at(LOCK);
        // Release pairs with the Acquire of whoever takes it next.
        let before = word.swap(0, Ordering::Release);
        step();
        if before & SOMEBODY_SLEEPS != 0 {
            wake_low_half(word);
        }
        #[cfg(not(loom))]
        if let Some(log) = rings {
            log.wake_reader();
        }
    }
}

/// Wakes all who sleep for the lock, in the place of an owner who may have died on its way to.
pub(crate) fn wake_all(space: Space<'_>) {
    wake_low_half(space.words.at(LOCK));
}

/// The end of a wait. In a model it never comes: a lost wake-up must show as a deadlock.
struct Deadline {
    #[cfg(not(loom))]
    at: Instant,
}

#[cfg(not(loom))]
impl Deadline {
    fn after(patience: Duration) -> Self {
        Self { at: Instant::now() + patience }
    }

    /// How long to sleep next; `None` when the wait is over.
    fn slice(&self) -> Option<Duration> {
        let left = self.at.saturating_duration_since(Instant::now());
        (!left.is_zero()).then(|| left.min(SLICE))
    }
}

#[cfg(loom)]
impl Deadline {
    fn after(_patience: Duration) -> Self {
        Self {}
    }

    fn slice(&self) -> Option<Duration> {
        Some(SLICE)
    }
}
