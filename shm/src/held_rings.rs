//! When a worker holds back the ring for a client that sleeps, because it is about to answer that client again.
//!
//! A client that is an event loop sleeps until somebody rings. Rung at the first of many answers, it takes that one, sends
//! it on and sleeps again: two changes of context and a send for each call, and where both share a core it takes the core
//! from the very worker that is about to publish the next answer. So while another request lies ready in the lane, the ring
//! waits for its answer too.
//!
//! Invariants:
//! 1. Only rings for a client that sleeps until its reply doorbell is readable are held: such a client also looks by itself
//!    at lanes with calls in flight now and then, which bounds what a call that takes unexpectedly long can hold back.
//! 2. A ring is held only while the next request is for a function whose last call was quick, and no longer than
//!    [`HOLD_NS_MAX`] from the first that was held. It is made up for before the worker polls, sleeps, reads its mail, turns
//!    to another source of calls, or waits for anything.
//! 3. A worker that dies meanwhile is made up for by the server, which rings every lane of a dead worker.

use std::cell::Cell;

use praas_protocol::FunctionId;

use crate::ticks;

/// Longest time from the first answer that is held to the ring: some hundred quick calls, a few changes of context.
const HOLD_NS_MAX: u64 = 50_000;

/// A call that takes longer is none to hold others' answers for.
const QUICK_NS_MAX: u64 = 10_000;

/// Functions known to be quick, each at a place that its id gives; two at the same place only hold less.
const QUICK_FUNCTIONS: usize = 8;

/// What one worker remembers for the decision.
#[derive(Debug)]
pub(crate) struct HeldRings {
    quick: [Cell<FunctionId>; QUICK_FUNCTIONS],
    /// Since when some lane is owed a ring, in ticks.
    since_ticks: Cell<Option<u64>>,
}

impl HeldRings {
    pub(crate) fn new() -> Self {
        Self { quick: [const { Cell::new(FunctionId(0)) }; QUICK_FUNCTIONS], since_ticks: Cell::new(None) }
    }

    /// After an answer of `function`, claimed at `claimed_at_ticks`: whether its ring may wait for that of the request for
    /// `next`, which lies ready. If so, some lane is owed a ring from now on.
    pub(crate) fn may_hold(&self, function: FunctionId, claimed_at_ticks: u64, next: FunctionId) -> bool {
        let now_ticks = ticks::now();
        let was_quick = ticks::between_ns(claimed_at_ticks, now_ticks) < QUICK_NS_MAX;
        self.place_of(function).set(if was_quick { function } else { FunctionId(0) });
        if !was_quick || self.place_of(next).get() != next {
            return false;
        }
        let since_ticks = self.since_ticks.get().unwrap_or(now_ticks);
        self.since_ticks.set(Some(since_ticks));
        ticks::between_ns(since_ticks, now_ticks) < HOLD_NS_MAX
    }

    /// Whether some lane is owed a ring; from now on none is.
    #[inline]
    pub(crate) fn take(&self) -> bool {
        self.since_ticks.get().is_some() && self.since_ticks.take().is_some()
    }

    #[allow(clippy::cast_possible_truncation, reason = "ids are hashes: any bits will do")]
    fn place_of(&self, function: FunctionId) -> &Cell<FunctionId> {
        &self.quick[function.0 as usize % QUICK_FUNCTIONS]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_are_held_only_after_and_before_quick_calls() {
        ticks::anchor();
        let held = HeldRings::new();
        let [quick, slow] = [FunctionId(1), FunctionId(2)];
        assert!(!held.may_hold(quick, ticks::now(), slow), "nothing is known of it");
        assert!(!held.take());
        let claimed = ticks::now();
        while ticks::elapsed_ns(claimed) < QUICK_NS_MAX {}
        assert!(!held.may_hold(slow, claimed, quick));
        // A preempted call is a slow one: some attempt is not.
        assert!((0..1000).any(|_| held.may_hold(quick, ticks::now(), quick)));
        assert!(!held.may_hold(quick, ticks::now(), slow));
        assert!(held.take() && !held.take());
    }

    #[test]
    fn no_ring_is_held_for_ever() {
        ticks::anchor();
        let held = HeldRings::new();
        let id = FunctionId(1);
        let start = ticks::now();
        while ticks::elapsed_ns(start) < 2 * HOLD_NS_MAX {
            let _ = held.may_hold(id, ticks::now(), id);
        }
        assert!(!held.may_hold(id, ticks::now(), id));
        assert!(held.take());
    }
}
