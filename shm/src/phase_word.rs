//! The phase word of a process and its two handshakes: client against server, and worker against server.
//!
//! The word is (counter, phase), written by the server alone, in the control page; see
//! [`praas_protocol::Phase`]. A drain is correct by two arguments:
//!
//! 1. *Client and server* (Dekker's): the client publishes, fences, then reads the word. The server writes `draining`,
//!    fences, then sweeps the rings. One of them sees the other: either the sweep refuses the request, or the client sees
//!    that the process is not active and rings the server, which sweeps again.
//! 2. *Worker and server*: a worker copies the word whole into its own page before each attempt to claim, and claims
//!    nothing once it has copied `closed`. When the server sees each worker's copy equal the very word it wrote, no claim
//!    can follow; it then sweeps again and waits for the claim records that a worker made before its copy.

use praas_protocol::Phase;

use crate::sync::{AtomicU64, Ordering, full_fence};

/// Server: shows `phase` with the next counter; returns the new word. Fences before it returns, so that a sweep of the
/// rings may follow.
pub(crate) fn publish(word: &AtomicU64, phase: Phase) -> u64 {
    let counter = (word.load(Ordering::Relaxed) >> 8).wrapping_add(1);
    let new = phase.word(counter);
    word.store(new, Ordering::Release);
    full_fence();
    new
}

/// Client: the word after a publish and its fence (see [`crate::attendance::Attendance::after_publish`]).
#[inline]
pub(crate) fn after_fence(word: &AtomicU64) -> u64 {
    word.load(Ordering::Relaxed)
}

/// Worker: loads the word, copies it into `copy` if it changed, and says whether claiming is allowed.
#[inline]
pub(crate) fn before_claim(word: &AtomicU64, copy: &AtomicU64, last: &mut u64) -> bool {
    let now = word.load(Ordering::Acquire);
    if now != *last {
        // Release: claim records of earlier calls are visible to a server that sees this copy.
        copy.store(now, Ordering::Release);
        *last = now;
    }
    // Anything that is not a phase counts as closed.
    matches!(Phase::from_word(now), Some(Phase::Active | Phase::Draining))
}

/// Server: what a worker copied last. Acquire pairs with the Release in [`before_claim`].
pub(crate) fn copied(copy: &AtomicU64) -> u64 {
    copy.load(Ordering::Acquire)
}
