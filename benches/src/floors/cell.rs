//! One hand-over of 64 bytes through shared memory: a cell of 128 bytes whose first word says what it holds. Ring
//! entries, reply cells and ping-pong sides all are this cell, the size of a lane's.
//!
//! Invariants:
//! 1. A cell has one writer. It stores the payload, then the sequence with Release; the reader loads the sequence with
//!    Acquire before it reads the payload.
//! 2. Sequences are odd and advance by two, so they wrap without meeting `UNWRITTEN` or `POISON`.
//! 3. `POISON` is written only after the writer is dead: it ends the reader's wait, and nothing overwrites it.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use rustix::thread::futex;

use super::mapping::Shareable;

/// Bytes that a cell carries.
pub(super) const PAYLOAD_BYTES: usize = 64;
/// The payload as words.
pub(super) type Payload = [u64; PAYLOAD_BYTES / 8];

/// Fresh memory.
const UNWRITTEN: u32 = 0;
/// The writer is dead.
const POISON: u32 = 2;
/// The sequence of the first hand-over.
pub(super) const FIRST_SEQUENCE: u32 = 1;

/// The sequence after `sequence`.
#[inline(always)]
pub(super) fn successor(sequence: u32) -> u32 {
    sequence.wrapping_add(2)
}

/// The writer died while its reader waited.
#[derive(Debug)]
pub(super) struct Poisoned;

/// What a reader sees.
enum Look {
    /// The hand-over it waits for.
    Arrived,
    /// An earlier word.
    NotYet(u32),
}

/// A hand-over's place.
#[derive(Debug)]
#[repr(C, align(128))]
pub(super) struct Cell {
    sequence: AtomicU32,
    /// In a ring entry, the reply cell that the caller named.
    target: AtomicU32,
    payload: [AtomicU64; PAYLOAD_BYTES / 8],
}

const _: () = assert!(size_of::<Cell>() == 128 && UNWRITTEN.is_multiple_of(2) && POISON.is_multiple_of(2));

// SAFETY: atomics and padding only.
unsafe impl Shareable for Cell {}

impl Cell {
    /// Hands a payload over.
    #[inline(always)]
    pub(super) fn publish(&self, sequence: u32, target: u32, payload: &Payload) {
        self.target.store(target, Ordering::Relaxed);
        for (word, value) in self.payload.iter().zip(payload) {
            word.store(*value, Ordering::Relaxed);
        }
        // Release: pairs with the Acquire in `look`.
        self.sequence.store(sequence, Ordering::Release);
    }

    /// The payload of a hand-over that has arrived.
    #[inline(always)]
    pub(super) fn payload(&self) -> Payload {
        std::array::from_fn(|index| self.payload[index].load(Ordering::Relaxed))
    }

    /// The reply cell named by a hand-over that has arrived.
    #[inline(always)]
    pub(super) fn target(&self) -> u32 {
        self.target.load(Ordering::Relaxed)
    }

    #[inline(always)]
    fn look(&self, sequence: u32) -> Result<Look, Poisoned> {
        // Acquire: pairs with the Release in `publish`.
        match self.sequence.load(Ordering::Acquire) {
            found if found == sequence => Ok(Look::Arrived),
            POISON => Err(Poisoned),
            found => Ok(Look::NotYet(found)),
        }
    }

    /// Waits for a hand-over without giving up the core.
    #[inline(always)]
    pub(super) fn wait_spinning(&self, sequence: u32) -> Result<(), Poisoned> {
        // No pause instruction: the barest wait, and 5 % faster here than with it.
        while let Look::NotYet(_) = self.look(sequence)? {}
        Ok(())
    }

    /// Waits for a hand-over asleep; its writer calls `wake`.
    #[inline(always)]
    pub(super) fn wait_parked(&self, sequence: u32) -> Result<(), Poisoned> {
        while let Look::NotYet(found) = self.look(sequence)? {
            // No timeout: the floor is bare. A dead writer is answered by `poison`, which changes the word and wakes.
            // Every outcome, an interruption included, leads to another look at the word.
            let _ = futex::wait(&self.sequence, futex::Flags::empty(), found, None);
        }
        Ok(())
    }

    /// Wakes the reader.
    #[inline(always)]
    pub(super) fn wake(&self) {
        // The only possible failures are a bad address or operation, which the type rules out.
        let _ = futex::wake(&self.sequence, futex::Flags::empty(), 1);
    }

    /// Ends the reader's wait; the writer must be dead.
    pub(super) fn poison(&self) {
        self.sequence.store(POISON, Ordering::Release);
        self.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    fn empty_cell() -> Cell {
        Cell { sequence: AtomicU32::new(UNWRITTEN), target: AtomicU32::new(0), payload: Default::default() }
    }

    #[test]
    fn a_hand_over_carries_payload_and_target() {
        let cell = empty_cell();
        let payload: Payload = std::array::from_fn(|index| index as u64 + 7);
        cell.publish(FIRST_SEQUENCE, 5, &payload);
        cell.wait_spinning(FIRST_SEQUENCE).expect("published");
        assert_eq!(cell.payload(), payload);
        assert_eq!(cell.target(), 5);
    }

    #[test]
    fn poison_ends_both_kinds_of_wait() {
        let cell = empty_cell();
        thread::scope(|scope| {
            let spinning = scope.spawn(|| cell.wait_spinning(FIRST_SEQUENCE));
            let parked = scope.spawn(|| cell.wait_parked(FIRST_SEQUENCE));
            cell.poison();
            assert!(spinning.join().expect("no panic").is_err());
            assert!(parked.join().expect("no panic").is_err());
        });
    }

    #[test]
    fn sequences_wrap_past_the_reserved_words() {
        let mut sequence = u32::MAX - 4;
        for _ in 0..8 {
            sequence = successor(sequence);
            assert!(sequence != UNWRITTEN && sequence != POISON);
        }
    }
}
