//! The time-stamp counter as a cheap clock: one read costs a quarter of a clock read, and converts to time on demand.
//!
//! The rate is measured against the monotonic clock over the time since [`anchor`] was called, so converting waits only
//! when less than a millisecond has passed since then. Relies on an invariant counter, which every x86-64 and aarch64
//! server of the last decade has; `praas doctor` reports its absence.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Shortest time over which the rate is measured; below it the clock's own 42 ns would show.
const CALIBRATION: Duration = Duration::from_millis(1);

/// The counter now.
#[inline]
pub(crate) fn now() -> u64 {
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: reads the time-stamp counter into registers.
        unsafe { std::arch::x86_64::_rdtsc() }
    }
    #[cfg(target_arch = "aarch64")]
    {
        let count: u64;
        // SAFETY: reads the virtual counter, which Linux lets user space read.
        unsafe { std::arch::asm!("mrs {}, cntvct_el0", out(reg) count, options(nomem, nostack)) };
        count
    }
}

static ANCHOR: OnceLock<(Instant, u64)> = OnceLock::new();
static NS_PER_TICK: OnceLock<f64> = OnceLock::new();

/// Begins the measurement of the rate; called where a worker or client starts, far from any call.
pub(crate) fn anchor() {
    ANCHOR.get_or_init(|| (Instant::now(), now()));
}

/// Nanoseconds from `since` to now.
pub(crate) fn elapsed_ns(since: u64) -> u64 {
    between_ns(since, now())
}

/// Nanoseconds from `since` to `until`.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a duration to within the precision of a double"
)]
pub(crate) fn between_ns(since: u64, until: u64) -> u64 {
    let ns_per_tick = *NS_PER_TICK.get_or_init(|| {
        let (instant, ticks) = *ANCHOR.get_or_init(|| (Instant::now(), now()));
        let mut elapsed = instant.elapsed();
        while elapsed < CALIBRATION {
            std::hint::spin_loop();
            elapsed = instant.elapsed();
        }
        elapsed.as_nanos() as f64 / now().wrapping_sub(ticks) as f64
    });
    (until.wrapping_sub(since) as f64 * ns_per_tick) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_agrees_with_the_clock() {
        anchor();
        let (instant, ticks) = (Instant::now(), now());
        while instant.elapsed() < Duration::from_millis(20) {
            std::hint::spin_loop();
        }
        let (by_clock, by_counter) = (instant.elapsed().as_nanos(), u128::from(elapsed_ns(ticks)));
        // Half and double: a preempted thread may sit between the two reads.
        assert!(by_counter > by_clock / 2 && by_counter < by_clock * 2, "{by_counter} against {by_clock}");
    }
}
