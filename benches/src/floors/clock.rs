//! The one clock of all measurements: the time-stamp counter where the kernel calls it constant and non-stop, else
//! CLOCK_MONOTONIC. Calibrated once a process against CLOCK_MONOTONIC.
//!
//! Readings are ticks; only differences between readings of one process mean anything.

use std::fs;
use std::hint;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// How long the counter runs beside CLOCK_MONOTONIC: two clock reads of 50 ns each are 5 millionths of it.
const CALIBRATION: Duration = Duration::from_millis(20);
/// Attempts at reading both clocks at once: a time slice fits hundreds.
#[cfg(target_arch = "x86_64")]
const PAIRED_ATTEMPTS: u32 = 32;
/// Consecutive readings whose median difference is the cost of one.
const COST_READINGS: usize = 4096;

/// A source of ticks.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    source: Source,
    ns_per_tick: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    #[cfg(target_arch = "x86_64")]
    TimeStampCounter,
    Monotonic,
}

impl Clock {
    /// The process's clock; the first caller waits 20 ms for the calibration.
    #[must_use]
    pub fn calibrated() -> Self {
        static CLOCK: OnceLock<Clock> = OnceLock::new();
        *CLOCK.get_or_init(Self::calibrate)
    }

    fn calibrate() -> Self {
        #[cfg(target_arch = "x86_64")]
        if counter_is_invariant() {
            let first = PairedReading::take();
            while first.at.elapsed() < CALIBRATION {
                hint::spin_loop();
            }
            let last = PairedReading::take();
            let elapsed = last.at.duration_since(first.at);
            return Self {
                source: Source::TimeStampCounter,
                ns_per_tick: elapsed.as_secs_f64() * 1e9 / as_float(last.ticks - first.ticks),
            };
        }
        Self { source: Source::Monotonic, ns_per_tick: 1.0 }
    }

    /// The present tick. Loads before it have been performed.
    #[inline(always)]
    #[must_use]
    pub fn ticks(self) -> u64 {
        match self.source {
            #[cfg(target_arch = "x86_64")]
            Source::TimeStampCounter => read_counter(),
            Source::Monotonic => monotonic_ns(),
        }
    }

    /// Nanoseconds between two readings; zero if the later one came from a core that lags behind.
    #[must_use]
    pub fn ns_between(self, earlier: u64, later: u64) -> u64 {
        self.ns(later.saturating_sub(earlier))
    }

    /// A span of ticks in nanoseconds.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // below 2^53 ns, never negative
    #[must_use]
    pub fn ns(self, ticks: u64) -> u64 {
        (as_float(ticks) * self.ns_per_tick).round() as u64
    }

    /// What one reading adds to a measured span, in nanoseconds. It is reported, not subtracted.
    #[must_use]
    pub fn reading_cost_ns(self) -> f64 {
        let mut spans: Vec<u64> = Vec::with_capacity(COST_READINGS);
        let mut earlier = self.ticks();
        for _ in 0..COST_READINGS {
            let later = self.ticks();
            spans.push(later.saturating_sub(earlier));
            earlier = later;
        }
        spans.sort_unstable();
        as_float(spans[COST_READINGS / 2]) * self.ns_per_tick
    }

    /// The source's name, for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self.source {
            #[cfg(target_arch = "x86_64")]
            Source::TimeStampCounter => "time-stamp counter",
            Source::Monotonic => "CLOCK_MONOTONIC",
        }
    }
}

/// The counter and CLOCK_MONOTONIC at the same instant, as nearly as this thread can tell.
#[cfg(target_arch = "x86_64")]
struct PairedReading {
    ticks: u64,
    at: Instant,
}

#[cfg(target_arch = "x86_64")]
impl PairedReading {
    /// The tightest of several attempts: a thread that loses its core between the two readings would spoil one.
    fn take() -> Self {
        let mut tightest: Option<(u64, Self)> = None;
        for _ in 0..PAIRED_ATTEMPTS {
            let before = read_counter();
            let at = Instant::now();
            let after = read_counter();
            let width = after.saturating_sub(before);
            if tightest.as_ref().is_none_or(|(narrowest, _)| width < *narrowest) {
                tightest = Some((width, Self { ticks: before + width / 2, at }));
            }
        }
        tightest.expect("there is at least one attempt").1
    }
}

/// A tick count as a float; counts of one measurement stay far below 2^53.
fn as_float(ticks: u64) -> f64 {
    ticks as f64
}

#[cfg(target_arch = "x86_64")]
fn counter_is_invariant() -> bool {
    let Ok(text) = fs::read_to_string("/proc/cpuinfo") else {
        return false;
    };
    let Some(flags) = text.lines().find(|line| line.starts_with("flags")) else {
        return false;
    };
    ["constant_tsc", "nonstop_tsc"].iter().all(|wanted| flags.split_ascii_whitespace().any(|flag| flag == *wanted))
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn read_counter() -> u64 {
    use std::arch::x86_64::{_mm_lfence, _rdtsc};
    // SAFETY: every x86-64 processor has both instructions. The fence keeps the counter from being read before the
    // load that ended the measured operation.
    unsafe {
        _mm_lfence();
        _rdtsc()
    }
}

fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_agrees_with_the_monotonic_clock() {
        let clock = Clock::calibrated();
        let outer = Instant::now();
        let first = clock.ticks();
        let inner = Instant::now();
        while inner.elapsed() < Duration::from_millis(50) {
            hint::spin_loop();
        }
        let shortest = inner.elapsed().as_secs_f64() * 1e9;
        let last = clock.ticks();
        let longest = outer.elapsed().as_secs_f64() * 1e9;
        let span = as_float(clock.ns_between(first, last));
        // One part in a hundred is generous for the calibration's error.
        assert!((shortest * 0.99..=longest * 1.01).contains(&span), "{span} ns, not {shortest} to {longest}");
    }

    #[test]
    fn a_clock_that_went_backwards_reads_zero() {
        assert_eq!(Clock::calibrated().ns_between(10, 5), 0);
    }
}
