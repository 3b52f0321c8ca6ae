//! Calls that reach a worker beside its lanes, over connections that it owns.
//!
//! To the server they look like any other: while one runs, a claim record of the worker names it, so that `call_ms_max` and
//! drains see it. The record names no lane ([`NO_LANE`]), so there is nothing to answer when the worker dies; its caller sees
//! the connection end.
//!
//! Invariants: the phase word is loaded and copied before each claim, as for lanes ([`crate::phase_word`]), and only
//! `active` allows one: who sends calls over a connection is told when the process drains, and sends them elsewhere.

use std::time::Duration;

use praas_protocol::{FunctionId, Phase};

use super::*;
use crate::claim::Condemned;
use crate::function_stats::{self, CountedCall, Slot};

/// The lane that claim records of such calls name: no lane has this number.
pub const NO_LANE: LaneId = LaneId(u32::MAX);

/// A claimed call that came beside the lanes. [`AsideCall::release`] ends it.
#[derive(Debug)]
pub struct AsideCall<'w> {
    pub(super) end: &'w WorkerEnd,
    pub(super) root: Cell<u128>,
    page: &'w Words,
    functions: &'w [Slot],
    sequence: u64,
    claimed_at_ticks: u64,
    deadline_ns: u64,
    needs_help: bool,
}

/// When a call was claimed, to be compared with other calls of this worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClaimedAt(u64);

impl ClaimedAt {
    /// Nanoseconds from an earlier claim to this one.
    #[must_use]
    pub fn ns_since(self, earlier: Self) -> u64 {
        ticks::between_ns(earlier.0, self.0)
    }
}

impl WorkerEnd {
    /// Claims a call that came beside the lanes, from a caller that was last seen on this CPU (`u32::MAX` if unknown), with so
    /// much time remaining (0: no deadline). `None` while the process takes none.
    #[inline]
    pub fn claim_aside(&mut self, caller_cpu: u32, deadline_ns: u64, root: u128) -> Option<AsideCall<'_>> {
        self.ring_held();
        if !self.may_claim() || Phase::from_word(self.phase_seen) != Some(Phase::Active) {
            return None;
        }
        if self.sequence.is_multiple_of(u64::from(spin::REQUESTS_PER_CPU_LOOK)) {
            self.own_cpu = spin::current_cpu();
        }
        self.caller_cpu = caller_cpu;
        self.sequence += 1;
        self.words().claims[RUNNING_RECORD].claim(self.sequence, NO_LANE.0, 0, root);
        if self.workers_max > 1 {
            self.pass_on_the_rest();
        }
        Some(AsideCall {
            end: self,
            root: Cell::new(root),
            page: self.words(),
            functions: worker_page::slots(&self.page),
            sequence: self.sequence,
            claimed_at_ticks: ticks::now(),
            deadline_ns,
            needs_help: self.needs_help,
        })
    }

    /// Whether the process takes calls that come beside the lanes. Unlike a claim, this copies nothing for the server.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.control.phase() == Phase::Active
    }
}

impl<'w> AsideCall<'w> {
    /// Begins to count this call, of the function with this index in the worker's table.
    #[inline]
    pub fn count(&self, index: usize, function: FunctionId) -> CountedCall<'w> {
        function_stats::begin(self.functions, index, function)
    }

    /// As [`RunningCall::needs_help`].
    #[must_use]
    #[inline]
    pub fn needs_help(&self) -> bool {
        self.needs_help
    }

    /// As [`RunningCall::time_remaining`].
    #[must_use]
    pub fn time_remaining(&self) -> Option<Duration> {
        let left = || self.deadline_ns.saturating_sub(ticks::elapsed_ns(self.claimed_at_ticks));
        (self.deadline_ns != 0).then(|| Duration::from_nanos(left()))
    }

    /// When it was claimed.
    #[must_use]
    pub fn claimed_at(&self) -> ClaimedAt {
        ClaimedAt(self.claimed_at_ticks)
    }

    /// The call has ended, and its answer is on its way or about to be.
    ///
    /// # Errors
    /// [`Condemned`]: the server is killing this worker; it must exit at once, and not answer.
    #[inline]
    pub fn release(self) -> Result<(), Condemned> {
        self.page.calls.store(self.sequence, Ordering::Relaxed);
        self.page.claims[RUNNING_RECORD].release(self.sequence)
    }
}
