//! When polling pays: the policy behind the `adaptive` wait mode, and the clock of the polling loops.
//!
//! A poll costs nothing while both sides own a core and everything when they do not (a round trip of 0.35 µs becomes 44 µs
//! when the poller holds the core that its peer needs). So a waiter polls only
//! - while its peer was last seen on another CPU,
//! - for a bounded budget,
//! - and not after polls that found nothing: each miss in a row doubles the number of waits that skip polling.
//!
//! CPU numbers are published by each side in its requests and replies, in lines that travel anyway. A wrong number costs
//! the reader its budget, nothing else.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use praas_protocol::control::WaitMode;

/// Longest poll of `adaptive` before it sleeps. Four times the round trip of two sleeping parties on this kind of
/// machine (10 µs), so that a peer that was asleep is still met awake.
pub(crate) const SPIN_BUDGET: Duration = Duration::from_micros(40);
/// Polls before the processor is told that this is a polling loop: its pause takes 50 ns or more on current server
/// processors, a sixth of a round trip. This many polls take about a microsecond.
pub(crate) const POLLS_WITHOUT_PAUSE: u32 = 1024;
/// Polls between two looks at the clock (a look costs as much as one poll with its pause).
const POLLS_PER_LOOK: u32 = 32;
/// Requests, or calls, between two looks at the own CPU's number.
pub(crate) const REQUESTS_PER_CPU_LOOK: u32 = 16;
/// Misses in a row after which waits begin to skip polling.
const MISSES_FREE: u32 = 2;
/// Doublings of the number of skipped waits: at most 2^10 between two tries, so that a try costs under 1 %.
const SKIP_DOUBLINGS_MAX: u32 = 10;

/// The CPU that the calling thread runs on, or `u32::MAX` when unknown. A hint: it may change at once.
#[inline]
pub(crate) fn current_cpu() -> u32 {
    #[cfg(target_arch = "x86_64")]
    {
        let mut auxiliary = 0;
        // SAFETY: `rdtscp` exists on every x86-64 processor of the last fifteen years and reads registers only. Linux
        // keeps the CPU number in the low 12 bits of TSC_AUX, for the vDSO's getcpu.
        let _ = unsafe { std::arch::x86_64::__rdtscp(&raw mut auxiliary) };
        auxiliary & 0xfff
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        u32::try_from(rustix::thread::sched_getcpu()).unwrap_or(u32::MAX)
    }
}

/// Learns from earlier waits whether polling pays. Shared by the threads of a client; its races cost a poll at most.
#[derive(Debug, Default)]
pub(crate) struct SpinHistory {
    misses: AtomicU32,
    skips_left: AtomicU32,
}

impl SpinHistory {
    /// Whether the next wait should poll.
    #[inline]
    pub(crate) fn should_spin(&self) -> bool {
        let skips = self.skips_left.load(Ordering::Relaxed);
        if skips > 0 {
            self.skips_left.store(skips - 1, Ordering::Relaxed);
        }
        skips == 0
    }

    /// The poll found what it waited for.
    #[inline]
    pub(crate) fn hit(&self) {
        if self.misses.load(Ordering::Relaxed) != 0 {
            self.misses.store(0, Ordering::Relaxed);
        }
    }

    /// The poll used up its budget in vain.
    pub(crate) fn miss(&self) {
        let misses = self.misses.load(Ordering::Relaxed).saturating_add(1);
        self.misses.store(misses, Ordering::Relaxed);
        if misses > MISSES_FREE {
            self.skips_left.store(1 << (misses - MISSES_FREE).min(SKIP_DOUBLINGS_MAX), Ordering::Relaxed);
        }
    }
}

/// A bounded polling loop: says when to stop.
#[derive(Debug)]
pub(crate) struct SpinLoop {
    polls: u32,
    until: Option<Instant>,
    budget: Option<Duration>,
}

impl SpinLoop {
    /// A loop for `budget`; `None` polls for ever.
    pub(crate) fn new(budget: Option<Duration>) -> Self {
        Self { polls: 0, until: None, budget }
    }

    /// One pause between two polls. False when the budget is used up. Reads no clock in its first polls.
    #[inline]
    pub(crate) fn pause(&mut self) -> bool {
        self.polls = self.polls.wrapping_add(1);
        if self.polls < POLLS_WITHOUT_PAUSE {
            return true;
        }
        crate::sync::pause();
        self.is_within_budget()
    }

    /// The same after a poll that was a system call: it takes as long as [`POLLS_PER_LOOK`] others, and is pause enough.
    #[inline]
    pub(crate) fn pause_after_call(&mut self) -> bool {
        self.polls = (self.polls | (POLLS_PER_LOOK - 1)).wrapping_add(1);
        self.polls < POLLS_WITHOUT_PAUSE || self.is_within_budget()
    }

    #[inline]
    fn is_within_budget(&mut self) -> bool {
        if !self.polls.is_multiple_of(POLLS_PER_LOOK) {
            return true;
        }
        let Some(budget) = self.budget else { return true };
        let now = Instant::now();
        match self.until {
            None => {
                self.until = Some(now + budget);
                true
            }
            Some(until) => now < until,
        }
    }
}

/// When a call that waits inside its worker polls, and for how long; it learns from each wait.
#[derive(Debug)]
pub struct CallPolling {
    mode: WaitMode,
    history: SpinHistory,
}

impl CallPolling {
    /// For an application that waits in this mode.
    #[must_use]
    pub fn new(mode: WaitMode) -> Self {
        Self { mode, history: SpinHistory::default() }
    }

    /// Polls while it may pay; whether `look` found what it looks for. In the mode `spin` it goes on until then: `look` must end by
    /// itself.
    pub fn poll(&self, mut look: impl FnMut() -> bool) -> bool {
        let budget = match self.mode {
            WaitMode::Spin => None,
            WaitMode::Adaptive if self.history.should_spin() => Some(SPIN_BUDGET),
            WaitMode::Adaptive | WaitMode::Park => return false,
        };
        let mut turn = SpinLoop::new(budget);
        loop {
            if look() {
                self.history.hit();
                return true;
            }
            if !turn.pause() {
                self.history.miss();
                return false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misses_make_polls_rare_and_a_hit_makes_them_common_again() {
        let history = SpinHistory::default();
        let mut polls = 0;
        for _ in 0..4096 {
            if history.should_spin() {
                polls += 1;
                history.miss();
            }
        }
        assert!((5..=16).contains(&polls), "{polls} polls in 4096 waits that found nothing");
        while !history.should_spin() {}
        history.hit();
        assert!(history.should_spin() && history.should_spin());
    }

    #[test]
    fn a_spin_loop_ends_by_its_budget() {
        let mut turn = SpinLoop::new(Some(Duration::from_micros(10)));
        let start = Instant::now();
        while turn.pause() {
            assert!(start.elapsed() < Duration::from_secs(10), "the loop did not end");
        }
        assert!(start.elapsed() >= Duration::from_micros(10));
    }
}
