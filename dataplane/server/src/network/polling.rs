//! Whether to poll for answers before sleeping, in adaptive mode; and the history by which such attempts are made less often.
//!
//! An answer that comes while the shard polls spares a worker the wake-up and the shard a sleep. Polls that find nothing
//! cost the core that somebody else may need, so they are tried less and less often while they do, and not at all where that
//! somebody is the worker.

use std::time::Instant;

use super::lanes::LaneState;
use super::shard::NetworkShard;
use crate::limits::{POLL_BUDGET, POLL_SKIPS_MAX};

/// Learns from earlier attempts, polls or others, whether the next pays.
#[derive(Debug, Default)]
pub(super) struct PollHistory {
    misses: u32,
    skips_left: u32,
}

impl PollHistory {
    pub(super) fn should_poll(&mut self) -> bool {
        let polls = self.skips_left == 0;
        self.skips_left = self.skips_left.saturating_sub(1);
        polls
    }

    pub(super) fn hit(&mut self) {
        self.misses = 0;
    }

    /// Each miss in a row doubles the number of sleeps without a poll.
    pub(super) fn miss(&mut self) {
        self.misses = self.misses.saturating_add(1);
        self.skips_left = 1_u32.checked_shl(self.misses).unwrap_or(POLL_SKIPS_MAX).min(POLL_SKIPS_MAX);
    }
}

impl NetworkShard {
    /// Whether every worker that an answer is expected of was last seen on this core, which it waits for.
    fn workers_share_core(&self) -> bool {
        self.busy_lanes.iter().all(|key| match self.lanes.get(*key).map(|room| &room.state) {
            Some(LaneState::Open(open)) => open.lane.shares_core(),
            _ => true,
        })
    }

    /// Polls the bells for a bounded time, if that seems to pay; true if there is an answer.
    pub(super) fn poll_for_a_while(&mut self) -> bool {
        if self.workers_share_core() || !self.history.should_poll() {
            return false;
        }
        let end = Instant::now() + POLL_BUDGET;
        loop {
            if self.has_answers() || self.have_gateways_work() {
                self.history.hit();
                return true;
            }
            if Instant::now() >= end {
                self.history.miss();
                return false;
            }
            std::hint::spin_loop();
        }
    }
}
