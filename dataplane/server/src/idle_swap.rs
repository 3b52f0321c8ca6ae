//! Processes that nobody has called for long enough are swapped out.
//!
//! The look at activity ([`crate::directory`]) knows when a process was found doing something last. One whose time without a
//! call is over, of its application's `idle_swap_ms` or the one that it was created with, is swapped out as if somebody had
//! asked for it. A call that comes in this very moment wakes it again: nothing is lost by a look that was too early.
//!
//! What calls do is what counts. Messages that nobody receives do not keep a process awake: they are stored with it, and
//! they are there when it is called. A process whose swap fails goes on, and is tried again after twice the time, so that a
//! place without room is not asked for it all the time.

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use crate::application::{IDLE_SWAP_MS_MAX, IDLE_SWAP_MS_MIN};
use crate::clock;
use crate::limits::IDLE_SWAP_RETRY_MAX;
use crate::processes::{Process, ProcessKey, Stage};
use crate::shard::Shard;
use crate::stats::queued;
use crate::swap::SwapReason;

/// Milliseconds without a call after which a process may be swapped out; 0 beside them is for never.
const POSSIBLE_MS: RangeInclusive<u64> = IDLE_SWAP_MS_MIN..=IDLE_SWAP_MS_MAX;

/// Whether a process can be given such an idle time; the error says what can.
pub(crate) fn check_idle_swap_ms(idle_swap_ms: Option<u64>) -> Result<(), String> {
    match idle_swap_ms {
        Some(idle_swap_ms) if idle_swap_ms != 0 && !POSSIBLE_MS.contains(&idle_swap_ms) => Err(format!(
            "an idle time of {idle_swap_ms} ms is not possible: choose {IDLE_SWAP_MS_MIN} to {IDLE_SWAP_MS_MAX} ms, or 0 for never"
        )),
        _ => Ok(()),
    }
}

/// How often a process has been sent to sleep in vain since it was active.
#[derive(Debug, Default)]
pub(crate) struct IdleSwap {
    attempts: u32,
    /// When it was sent last.
    tried: Option<Instant>,
}

impl IdleSwap {
    /// Whether a process that has done nothing since `active_at` is to be sent to sleep now.
    fn is_due(&self, limit: Duration, active_at: Instant, now: Instant) -> bool {
        let tried = self.tried.filter(|tried| *tried > active_at);
        let wait = match tried {
            None => limit,
            Some(_) => limit.saturating_mul(1 << self.attempts.min(16)).min(limit.max(IDLE_SWAP_RETRY_MAX)),
        };
        now.saturating_duration_since(tried.unwrap_or(active_at)) >= wait
    }

    /// It is sent to sleep now.
    fn note(&mut self, active_at: Instant, now: Instant) {
        let again = self.tried.is_some_and(|tried| tried > active_at);
        self.attempts = if again { self.attempts.saturating_add(1) } else { 1 };
        self.tried = Some(now);
    }
}

impl Process {
    /// How long it may go without a call before it is swapped out; `None` for ever.
    pub(crate) fn idle_swap_after(&self) -> Option<Duration> {
        let chosen = self.idle_swap_ms.or(self.application.idle_swap_ms);
        chosen.filter(|idle_swap_ms| *idle_swap_ms != 0).map(Duration::from_millis)
    }
}

impl Shard {
    /// Swaps a process out that has been idle for long enough.
    pub(crate) fn swap_if_idle(&mut self, key: ProcessKey) {
        if self.shutting_down || self.swaps.backend().is_none() {
            return;
        }
        let Some(process) = self.processes.get_mut(key) else { return };
        let is_quiet = matches!(&process.stage, Stage::Active(waiting) if waiting.is_empty());
        let Some(limit) =
            process.idle_swap_after().filter(|_| is_quiet && !process.has_failed() && process.files.excess().is_none())
        else {
            return;
        };
        // From now on looks come often enough for this one.
        self.directories.note_idle_time(limit);
        let (now, active_at) = (clock::now(), process.activity.active_at());
        if !process.idle_swap.is_due(limit, active_at, now) || queued(process) > 0 {
            return;
        }
        process.idle_swap.note(active_at, now);
        let id = process.id;
        if let Err(error) = self.begin_swap(key, SwapReason::Idle, None) {
            self.log.info(format_args!("{id} is idle and stays awake: {error}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_sleeps_after_its_time_and_is_tried_less_and_less_often() {
        let second = Duration::from_secs(1);
        let start = Instant::now();
        let mut idle = IdleSwap::default();
        assert!(!idle.is_due(second, start, start + second / 2));
        let mut now = start + second;
        for wait in [2, 4, 8] {
            assert!(idle.is_due(second, start, now), "after {wait}");
            idle.note(start, now);
            assert!(!idle.is_due(second, start, now + second * wait - Duration::from_millis(1)));
            now += second * wait;
        }
        idle.note(start, now);
        let active_at = now + second;
        assert!(!idle.is_due(second, active_at, active_at + second / 2));
        assert!(idle.is_due(second, active_at, active_at + second), "it was active meanwhile: it begins anew");
        idle.note(active_at, active_at + second);
        assert_eq!(idle.attempts, 1);
    }

    #[test]
    fn only_times_that_praas_toml_can_set_are_taken_from_elsewhere() {
        for possible in [None, Some(0), Some(IDLE_SWAP_MS_MIN), Some(IDLE_SWAP_MS_MAX)] {
            check_idle_swap_ms(possible).unwrap();
        }
        for impossible in [1, IDLE_SWAP_MS_MIN - 1, IDLE_SWAP_MS_MAX + 1, u64::MAX] {
            let error = check_idle_swap_ms(Some(impossible)).unwrap_err();
            assert!(error.contains(&impossible.to_string()), "{error}");
        }
    }

    #[test]
    fn a_long_time_is_not_shortened_by_the_longest_pause() {
        let (limit, start) = (IDLE_SWAP_RETRY_MAX * 2, Instant::now());
        let mut idle = IdleSwap::default();
        idle.note(start, start + limit);
        assert!(!idle.is_due(limit, start, start + limit + IDLE_SWAP_RETRY_MAX));
        assert!(idle.is_due(limit, start, start + limit * 2));
    }
}
