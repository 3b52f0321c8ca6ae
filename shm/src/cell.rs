//! Reply cells: where the answer of one call appears, named by the caller in its request.
//!
//! A cell is two cache lines: a word, the answer's header, and up to 96 bytes of payload. The word is
//! (generation, state). The generation counts the calls that used the cell; the state says how the caller waits, so the
//! one CAS that publishes an answer also tells the worker whether anyone must be woken: no flag beside it, no fence.
//!
//! ```text
//!            ┌──────────── client waits differently ────────────┐
//!  IDLE ─► PENDING ─► PARKED (futex on this word) / BELL (async) / ABANDONED (nobody waits any more)
//!                └────────────── worker or server: CAS ──────────────► DONE ─client─► IDLE, next generation
//! ```
//!
//! Memory: cells lie in the lane segment. The client arms and releases a cell; the worker that took the request (or the
//! server, once that worker is dead, or when it refuses the request) answers it.
//!
//! Invariants, for peers that keep the protocol:
//! 1. A generation of a cell is answered once: by one successful CAS to DONE.
//! 2. Only the holder of the request writes the header and payload, and only before its CAS; the client reads them only
//!    after it has seen DONE. The CAS releases, the client's load acquires.
//! 3. The client arms the next generation only after DONE: an abandoned cell stays in quarantine, so a late answer never
//!    lands in another call's cell.
//! 4. A client that sleeps has first moved the word to PARKED by CAS; the answer's CAS therefore sees PARKED and wakes, or
//!    happened before and made the client's CAS fail.
//! 5. For BELL, the worker counts up the lane's bell after its CAS; see [`crate::bell`]. A reactor's lane arms its cells as
//!    BELL at once: its word changes to DONE or ABANDONED alone.
//!
//! A worker that breaks the protocol spoils answers of its own process; a client that does, its own answers.

use std::time::Duration;

use crate::fault::{self, Step};
use crate::sync::{AtomicU32, AtomicU64, Ordering, prefetch_for_write, sleep_low_half, wake_low_half};

/// Words of inline payload in a cell.
#[cfg(not(loom))]
pub(crate) const INLINE_WORDS: usize = praas_protocol::limits::REPLY_INLINE_BYTES / 8;
#[cfg(loom)]
pub(crate) const INLINE_WORDS: usize = 1;

const IDLE: u32 = 0;
const PENDING: u32 = 1;
const PARKED: u32 = 2;
const BELL: u32 = 3;
const ABANDONED: u32 = 4;
const DONE: u32 = 5;

/// Changes of the caller's mind that an answer's CAS tolerates before the client counts as hostile: each honest call
/// changes how it waits at most three times.
const ANSWER_ATTEMPTS_MAX: usize = 8;

/// The answer to one call. All fields but the word are claims of the worker until checked.
#[repr(C, align(128))]
#[derive(Debug)]
pub(crate) struct Cell {
    /// (generation, state).
    word: AtomicU64,
    /// [`praas_protocol::Outcome`] as a number.
    pub(crate) outcome: AtomicU32,
    /// The CPU that the worker ran on.
    pub(crate) cpu: AtomicU32,
    /// Payload bytes (low half) and block offset (high half, `u32::MAX` for inline).
    pub(crate) payload: AtomicU64,
    /// Two words of detail, as the outcome defines them.
    pub(crate) detail: AtomicU64,
    /// Payload of up to 96 bytes.
    pub(crate) inline: [AtomicU64; INLINE_WORDS],
}

#[cfg(not(loom))]
const _: () = {
    use std::mem::{offset_of, size_of};
    assert!(size_of::<Cell>() == 128);
    assert!(offset_of!(Cell, word) == 0, "futexes address the state by the cell's own address");
    assert!(offset_of!(Cell, outcome) == 8);
    assert!(offset_of!(Cell, cpu) == 12);
    assert!(offset_of!(Cell, payload) == 16);
    assert!(offset_of!(Cell, detail) == 24);
    assert!(offset_of!(Cell, inline) == 32);
};

/// How the client of a lane begins to wait for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum FirstWait {
    /// It polls the cell.
    Polls = PENDING,
    /// It is a reactor: it hears the bell, and never sleeps on a cell.
    Bell = BELL,
}

/// Whom the answer's publisher must wake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wake {
    /// Nobody: the caller polls, or has gone.
    Nobody,
    /// The caller sleeps on the cell: already woken by [`Cell::answer`].
    Woken,
    /// A task waits: ring the client's bell.
    Bell,
}

/// The cell is not waiting for this generation: answered already, or spoiled by its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stale;

const fn word(generation: u32, state: u32) -> u64 {
    (generation as u64) << 32 | state as u64
}

#[allow(clippy::cast_possible_truncation, reason = "the two halves of a word")]
const fn parts(word: u64) -> (u32, u32) {
    ((word >> 32) as u32, word as u32)
}

impl Cell {
    /// Client: expects an answer of this generation, and says how it begins to wait. Published by the request's own Release.
    #[inline]
    pub(crate) fn arm_as(&self, generation: u32, first: FirstWait) {
        self.word.store(word(generation, first as u32), Ordering::Relaxed);
    }

    /// Worker: asks for both lines of the cell, to be written soon.
    #[inline]
    pub(crate) fn prefetch(&self) {
        prefetch_for_write(&self.word);
        prefetch_for_write(&self.inline[INLINE_WORDS / 2]);
    }

    /// Client: asks for the line of the word alone, which arming writes; the other line is the worker's to write.
    #[inline]
    pub(crate) fn prefetch_word(&self) {
        prefetch_for_write(&self.word);
    }

    /// Client: whether the answer is there. Acquire pairs with the CAS in [`Cell::answer`].
    #[inline]
    pub(crate) fn is_done(&self, generation: u32) -> bool {
        self.word.load(Ordering::Acquire) == word(generation, DONE)
    }

    /// Client: has read the answer and wants nothing more of it; its block, if any, is the workers' again.
    #[inline]
    pub(crate) fn release(&self, generation: u32) {
        self.word.store(word(generation, IDLE), Ordering::Release);
    }

    /// Client: sleeps until answered or woken otherwise, at most for `timeout`.
    pub(crate) fn park(&self, generation: u32, timeout: Duration) {
        if self.wait_differently(generation, PARKED) {
            fault::point(Step::ClientParked);
            sleep_low_half(&self.word, PARKED.into(), timeout);
        }
    }

    /// Client: asks for the bell instead. False when the answer is there already.
    pub(crate) fn ask_for_bell(&self, generation: u32) -> bool {
        self.wait_differently(generation, BELL)
    }

    /// Client: nobody waits any more. False when the answer is there already.
    pub(crate) fn abandon(&self, generation: u32) -> bool {
        self.wait_differently(generation, ABANDONED)
    }

    /// Client: wakes its own threads that sleep on this cell, answered or not.
    pub(crate) fn wake_waiters(&self) {
        wake_low_half(&self.word);
    }

    /// Moves an unanswered word to `state`; false when it is answered (or spoiled, which looks the same to the client:
    /// it looks again, and its deadline ends the wait).
    fn wait_differently(&self, generation: u32, state: u32) -> bool {
        let mut seen = self.word.load(Ordering::Acquire);
        for _ in 0..ANSWER_ATTEMPTS_MAX {
            let (current, old) = parts(seen);
            if current != generation || !matches!(old, PENDING..=ABANDONED) {
                return false;
            }
            if old == state {
                return true;
            }
            let new = word(generation, state);
            match self.word.compare_exchange(seen, new, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return true,
                Err(now) => seen = now,
            }
        }
        false
    }

    /// Server: answers instead of a worker. One that is dead may have died between its answer and the end of its
    /// claim: then that answer, which the client may be reading, stays as it is.
    pub(crate) fn answer_instead(&self, generation: u32, fill: impl FnOnce(&Self)) -> Result<Wake, Stale> {
        let (current, state) = parts(self.word.load(Ordering::Acquire));
        if current != generation || !matches!(state, PENDING..=ABANDONED) {
            return Err(Stale);
        }
        self.answer(generation, fill)
    }

    /// Worker: whether the caller has given up on this generation.
    #[inline]
    pub(crate) fn is_abandoned(&self, generation: u32) -> bool {
        self.word.load(Ordering::Acquire) == word(generation, ABANDONED)
    }

    /// Worker: whether a block that was made for this generation is still in use by it.
    pub(crate) fn uses_block(&self, generation: u32) -> bool {
        let (current, state) = parts(self.word.load(Ordering::Acquire));
        current == generation && matches!(state, PENDING..=DONE)
    }

    /// Worker or server: publishes the answer whose header and payload `fill` writes, and wakes a caller that sleeps.
    #[inline]
    pub(crate) fn answer(&self, generation: u32, fill: impl FnOnce(&Self)) -> Result<Wake, Stale> {
        fill(self);
        // The word is not read first: its line is with the client, and each access is a transfer. The first attempt
        // supposes that the client polls; a failed one brings the truth.
        let mut seen = word(generation, PENDING);
        for _ in 0..ANSWER_ATTEMPTS_MAX {
            let (current, state) = parts(seen);
            if current != generation || !matches!(state, PENDING..=ABANDONED) {
                return Err(Stale);
            }
            // Release pairs with the Acquire in `is_done`.
            match self.word.compare_exchange(seen, word(generation, DONE), Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => {
                    fault::point(Step::WorkerAnswered);
                    return Ok(match state {
                        PARKED => {
                            wake_low_half(&self.word);
                            Wake::Woken
                        }
                        BELL => Wake::Bell,
                        _ => Wake::Nobody,
                    });
                }
                Err(now) => seen = now,
            }
        }
        Err(Stale)
    }
}

#[cfg(any(test, loom))]
impl Cell {
    /// Armed by a client that polls.
    pub(crate) fn arm(&self, generation: u32) {
        self.arm_as(generation, FirstWait::Polls);
    }

    /// A cell outside shared memory, for tests and models.
    pub(crate) fn new() -> Self {
        Self {
            word: AtomicU64::new(0),
            outcome: AtomicU32::new(0),
            cpu: AtomicU32::new(0),
            payload: AtomicU64::new(0),
            detail: AtomicU64::new(0),
            inline: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn no_fill(_: &Cell) {}

    #[test]
    fn a_generation_is_answered_once() {
        let cell = Cell::new();
        assert_eq!(cell.answer(1, no_fill), Err(Stale));
        cell.arm(1);
        assert!(!cell.is_done(1));
        assert_eq!(cell.answer(2, no_fill), Err(Stale));
        assert_eq!(cell.answer(1, no_fill), Ok(Wake::Nobody));
        assert!(cell.is_done(1));
        assert_eq!(cell.answer(1, no_fill), Err(Stale));
    }

    #[test]
    fn the_answer_tells_whom_to_wake() {
        let cell = Cell::new();
        cell.arm(1);
        cell.park(1, Duration::ZERO);
        assert_eq!(cell.answer(1, no_fill), Ok(Wake::Woken));
        cell.arm(2);
        assert!(cell.ask_for_bell(2));
        assert_eq!(cell.answer(2, no_fill), Ok(Wake::Bell));
        assert!(!cell.ask_for_bell(2));
        cell.arm(3);
        assert!(cell.abandon(3) && cell.is_abandoned(3));
        assert_eq!(cell.answer(3, no_fill), Ok(Wake::Nobody));
    }

    #[test]
    fn a_block_is_in_use_until_the_client_releases_the_cell() {
        let cell = Cell::new();
        cell.arm(7);
        assert!(cell.uses_block(7));
        cell.answer(7, no_fill).unwrap();
        assert!(cell.uses_block(7) && !cell.uses_block(6));
        cell.release(7);
        assert!(!cell.uses_block(7));
    }

    #[test]
    fn any_word_that_a_hostile_peer_writes_ends_every_operation() {
        for generation in [0, 1, u32::MAX] {
            for state in [0, 1, 2, 3, 4, 5, 6, u32::MAX] {
                let cell = Cell::new();
                cell.word.store(word(generation, state), Ordering::Relaxed);
                let _ = cell.answer(1, no_fill);
                cell.word.store(word(generation, state), Ordering::Relaxed);
                cell.park(1, Duration::ZERO);
                let _ = (cell.ask_for_bell(1), cell.abandon(1), cell.is_done(1), cell.uses_block(1));
            }
        }
    }
}
