//! Claim records: what a worker is working on, in its own page that only it and the server map.
//!
//! A record is made after the worker's CAS on the ring entry and before that entry is freed, and released after the
//! answer is published. So at every instant a taken request is visible to the server: by the worker's tag in the entry,
//! by the record, or by both; and an unanswered one whose worker died is answered `WorkerLost`.
//!
//! ```text
//! FREE ─worker: fields, then Release─► CLAIMED(sequence) ─worker: CAS─► FREE
//!                                              └─server: CAS─► CONDEMNED ─ the worker's CAS fails: it exits
//! ```
//!
//! Invariants:
//! 1. Only the worker makes and releases records; only the server condemns, by CAS, so a call that ends and a kill that
//!    starts settle which came first.
//! 2. `sequence` never repeats within a page, so the server knows whether it still sees the same call.
//! 3. A root id is stored before any request that carries it is published: during a drain the server then keeps its
//!    descendants.

use crate::sync::{AtomicU64, Ordering};

/// Which record of a worker's page names the running call; the others are for replies that are held.
pub(crate) const RUNNING_RECORD: usize = 0;

const FREE: u64 = 0;
const CLAIMED: u64 = 1;
const CONDEMNED: u64 = 2;
const STATE_BITS: u32 = 2;
const STATE_MASK: u64 = (1 << STATE_BITS) - 1;

/// One record.
#[repr(C, align(64))]
#[derive(Debug)]
pub(crate) struct Record {
    /// (sequence, state).
    word: AtomicU64,
    /// Lane of the call.
    lane: AtomicU64,
    /// Reply cell (low half) and its generation (high half).
    target: AtomicU64,
    root: [AtomicU64; 2],
    reserved: [AtomicU64; 3],
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Record>() == 64);

/// What the server reads in a record: a claim of the worker's, to be checked against the lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClaimSeen {
    /// Which record of the page.
    pub record: usize,
    /// Distinguishes this call from others that used the record.
    pub sequence: u64,
    /// Number of the lane.
    pub lane: u32,
    /// Reply cell.
    pub cell: u32,
    /// Its generation.
    pub generation: u32,
    /// Root id, zero as long as the call has made no nested call and is a root call itself.
    pub root: u128,
    /// Whether the server has condemned it already.
    pub condemned: bool,
}

impl ClaimSeen {
    /// Whether the call has ended, and its answer waits until what it saw is durable; see `held_replies`.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.record != RUNNING_RECORD
    }
}

/// The server has condemned this call: the worker must exit at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the call ran longer than call_ms_max and its worker was condemned")]
pub struct Condemned;

/// Two halves of a 128-bit id as they stand in shared words.
#[allow(clippy::cast_possible_truncation, reason = "the two halves")]
pub(crate) fn store_root(words: &[AtomicU64; 2], root: u128) {
    words[0].store(root as u64, Ordering::Relaxed);
    words[1].store((root >> 64) as u64, Ordering::Relaxed);
}

pub(crate) fn load_root(words: &[AtomicU64; 2]) -> u128 {
    u128::from(words[1].load(Ordering::Relaxed)) << 64 | u128::from(words[0].load(Ordering::Relaxed))
}

impl Record {
    /// Worker: this call is mine now.
    #[inline]
    pub(crate) fn claim(&self, sequence: u64, lane: u32, target: u64, root: u128) {
        self.lane.store(u64::from(lane), Ordering::Relaxed);
        self.target.store(target, Ordering::Relaxed);
        store_root(&self.root, root);
        // Release pairs with the Acquire in `seen`.
        self.word.store(sequence << STATE_BITS | CLAIMED, Ordering::Release);
    }

    /// Worker: the running call has this root from now on (invariant 3).
    #[inline]
    pub(crate) fn set_root(&self, root: u128) {
        store_root(&self.root, root);
    }

    /// Worker: the call is answered.
    #[inline]
    pub(crate) fn release(&self, sequence: u64) -> Result<(), Condemned> {
        let (from, to) = (sequence << STATE_BITS | CLAIMED, sequence << STATE_BITS | FREE);
        self.word.compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed).map(drop).map_err(|_| Condemned)
    }

    /// Server: what the record says now, if it holds a call.
    #[allow(clippy::cast_possible_truncation, reason = "halves of words")]
    pub(crate) fn seen(&self, record: usize) -> Option<ClaimSeen> {
        let word = self.word.load(Ordering::Acquire);
        let state = word & STATE_MASK;
        let target = self.target.load(Ordering::Relaxed);
        (state != FREE).then(|| ClaimSeen {
            record,
            sequence: word >> STATE_BITS,
            lane: self.lane.load(Ordering::Relaxed) as u32,
            cell: target as u32,
            generation: (target >> 32) as u32,
            root: load_root(&self.root),
            condemned: state == CONDEMNED,
        })
    }

    /// Server: kills are announced here first. False when the call ended meanwhile.
    pub(crate) fn condemn(&self, sequence: u64) -> bool {
        let (from, to) = (sequence << STATE_BITS | CLAIMED, sequence << STATE_BITS | CONDEMNED);
        self.word.compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }
}

#[cfg(any(test, loom))]
impl Record {
    pub(crate) fn new() -> Self {
        Self {
            word: AtomicU64::new(0),
            lane: AtomicU64::new(0),
            target: AtomicU64::new(0),
            root: [AtomicU64::new(0), AtomicU64::new(0)],
            reserved: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_condemned_call_cannot_be_released_and_a_released_one_not_condemned() {
        let record = Record::new();
        assert_eq!(record.seen(0), None);
        record.claim(5, 2, 7 << 32 | 3, 11 << 64 | 13);
        let seen = record.seen(0).unwrap();
        assert_eq!((seen.lane, seen.cell, seen.generation, seen.root), (2, 3, 7, 11 << 64 | 13));
        assert!(!record.condemn(4));
        assert!(record.condemn(5));
        assert_eq!(record.release(5), Err(Condemned));
        let record = Record::new();
        record.claim(6, 1, 0, 0);
        record.release(6).unwrap();
        assert!(!record.condemn(6));
        assert_eq!(record.seen(0), None);
    }
}
