//! The time that the loop goes by: one place that asks the host for it, so that a test may give it instead.
//!
//! 1. What the loop decides by time, it decides by [`now`] and [`unix_time`]; it reads no clock by itself. Threads
//!    beside it that sleep by the host's clock measure by that.
//! 2. Waits are measured by [`now`], which never goes back. [`unix_time`] is the host's wall clock: it may jump in both
//!    directions, and what is decided by it (tokens that expire, what is due at a date) has to be right all the same.
//! 3. With the feature `simulation` a thread may be given a [`TestClock`]; the loop has the one of the thread that started its
//!    server. Without the feature these are the host's clocks and nothing else.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

#[cfg(any(test, feature = "simulation"))]
pub use given::TestClock;
#[cfg(any(test, feature = "simulation"))]
pub(crate) use given::{adopt, current};

/// Now, by the clock that never goes back.
#[inline]
pub(crate) fn now() -> Instant {
    #[cfg(any(test, feature = "simulation"))]
    if let Some(now) = given::now() {
        return now;
    }
    Instant::now()
}

/// How long ago `start` was, by the same clock; nothing, if it is still to come.
#[inline]
pub(crate) fn since(start: Instant) -> Duration {
    now().saturating_duration_since(start)
}

/// Time since 1970 by the wall clock; nothing, if that stands before.
#[inline]
pub(crate) fn unix_time() -> Duration {
    #[cfg(any(test, feature = "simulation"))]
    if let Some(time) = given::unix_time() {
        return time;
    }
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Milliseconds since 1970 by the wall clock.
#[inline]
pub(crate) fn unix_time_ms() -> u64 {
    u64::try_from(unix_time().as_millis()).unwrap_or(u64::MAX)
}

/// Nanoseconds since 1970 by the wall clock.
#[inline]
pub(crate) fn unix_time_ns() -> u64 {
    u64::try_from(unix_time().as_nanos()).unwrap_or(u64::MAX)
}

/// Clocks that a test gives.
#[cfg(any(test, feature = "simulation"))]
mod given {
    use std::cell::RefCell;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
    use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

    thread_local! {
        static CLOCK: RefCell<Option<TestClock>> = const { RefCell::new(None) };
    }

    /// A clock of a test. Copies are the same clock.
    #[derive(Clone, Debug)]
    pub struct TestClock(Arc<Hands>);

    #[derive(Debug)]
    struct Hands {
        start: Instant,
        /// Nanoseconds since `start`, where the test moves them; else the host does.
        elapsed_ns: Option<AtomicU64>,
        unix_start: Duration,
        /// By how many nanoseconds the wall clock has jumped since.
        jumped_ns: AtomicI64,
    }

    impl TestClock {
        /// A clock that stands until it is moved; its wall clock begins at `unix_time` since 1970.
        pub fn standing(unix_time: Duration) -> Self {
            Self::new(Some(AtomicU64::new(0)), unix_time)
        }

        /// The host's clocks, but that the wall clock can be made to jump.
        pub fn of_host() -> Self {
            Self::new(None, SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
        }

        fn new(elapsed_ns: Option<AtomicU64>, unix_start: Duration) -> Self {
            Self(Arc::new(Hands { start: Instant::now(), elapsed_ns, unix_start, jumped_ns: AtomicI64::new(0) }))
        }

        /// Gives the clock to this thread, and to the loop of any server that this thread starts.
        pub fn give(&self) {
            adopt(Some(self.clone()));
        }

        /// Time since the clock was made.
        pub fn elapsed(&self) -> Duration {
            match &self.0.elapsed_ns {
                Some(elapsed_ns) => Duration::from_nanos(elapsed_ns.load(Ordering::Relaxed)),
                None => self.0.start.elapsed(),
            }
        }

        /// Lets time pass, by both clocks.
        ///
        /// # Panics
        /// If the host moves this clock.
        pub fn advance(&self, by: Duration) {
            let elapsed_ns = self.0.elapsed_ns.as_ref().expect("the host moves this clock");
            let by_ns = u64::try_from(by.as_nanos()).expect("less than 500 years");
            elapsed_ns.fetch_add(by_ns, Ordering::Relaxed);
        }

        /// Has the wall clock, and it alone, jump by milliseconds, forward or back.
        pub fn jump_ms(&self, by_ms: i64) {
            self.0.jumped_ns.fetch_add(by_ms * 1_000_000, Ordering::Relaxed);
        }

        /// What its wall clock shows, since 1970.
        pub fn unix_time(&self) -> Duration {
            let (time, jumped_ns) = (self.0.unix_start + self.elapsed(), self.0.jumped_ns.load(Ordering::Relaxed));
            let jumped = Duration::from_nanos(jumped_ns.unsigned_abs());
            if jumped_ns < 0 { time.saturating_sub(jumped) } else { time.saturating_add(jumped) }
        }
    }

    /// The clock that this thread was given.
    pub(crate) fn current() -> Option<TestClock> {
        CLOCK.with_borrow(Clone::clone)
    }

    /// Gives this thread a clock, or the host's again.
    pub(crate) fn adopt(clock: Option<TestClock>) {
        CLOCK.set(clock);
    }

    pub(super) fn now() -> Option<Instant> {
        CLOCK.with_borrow(|clock| clock.as_ref().map(|clock| clock.0.start + clock.elapsed()))
    }

    pub(super) fn unix_time() -> Option<Duration> {
        CLOCK.with_borrow(|clock| clock.as_ref().map(TestClock::unix_time))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_given_is_the_only_one() {
        let clock = TestClock::standing(Duration::from_secs(1_700_000_000));
        clock.give();
        let start = now();
        assert_eq!((now(), unix_time_ms()), (start, 1_700_000_000_000), "time passes by itself");
        clock.advance(Duration::from_millis(1500));
        assert_eq!((since(start), unix_time_ms()), (Duration::from_millis(1500), 1_700_000_001_500));
        clock.jump_ms(-2_000);
        assert_eq!((since(start), unix_time_ms()), (Duration::from_millis(1500), 1_699_999_999_500));
        clock.jump_ms(3_000);
        assert_eq!((since(start + Duration::from_secs(9)), unix_time_ms()), (Duration::ZERO, 1_700_000_002_500));
        clock.jump_ms(-i64::from(u32::MAX) * 1000);
        assert_eq!(unix_time(), Duration::ZERO, "before 1970");
        let inherited = std::thread::spawn(|| current().is_some()).join().unwrap();
        assert!(!inherited, "another thread has the host's clocks until it adopts one");
        adopt(None);
        assert!(unix_time_ms() > 1_700_000_000_000);
    }

    #[test]
    fn the_host_s_clock_passes_and_its_wall_clock_jumps() {
        let clock = TestClock::of_host();
        clock.give();
        let (start, before) = (now(), unix_time());
        clock.jump_ms(3_600_000);
        assert!(unix_time() >= before + Duration::from_secs(3600));
        while now() == start {}
        adopt(None);
    }
}
