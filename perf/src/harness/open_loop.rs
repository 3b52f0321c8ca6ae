//! A load at a fixed rate, which does not wait for the system that it loads.
//!
//! Every operation has an instant at which it is due, fixed before the run. Its latency counts from that instant, not from
//! when it was begun: what had to wait because the operation before it took long is charged with the wait, as a user would
//! be. A load that begins its next operation when the last one has ended leaves exactly these waits out, and so reports a
//! stall of a second as one slow operation among thousands that were fast.
//!
//! Senders each take every n-th operation and run in a thread of their own. One that waits for its next operation sleeps
//! until shortly before and spins the rest; by how much it was late nonetheless is reported beside the latencies, which
//! include it.
//!
//! A system that cannot keep up falls behind for ever. So a run ends some time after its last operation was due, and what
//! has not begun by then counts with the time that it has waited: at least so long would it have taken.

use std::thread;
use std::time::Duration;

use praas_benches::floors::{Clock, Samples};

/// Shorter waits are spun: the kernel wakes a sleeper about 60 µs late, and later where the core slept deeply.
const SPIN_BELOW_NS: u64 = 300_000;

/// When operations are due.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    /// Operations a second, of all senders together.
    pub per_second: f64,
    /// For how long operations come due that are not recorded.
    pub warm_up: Duration,
    /// For how long operations come due that are.
    pub span: Duration,
    /// How long after that a run goes on for those that are late.
    pub overrun: Duration,
}

impl Schedule {
    /// Operations that come due, warm-up included.
    fn operations(&self) -> u64 {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rate times a time, both positive"
        )]
        let operations = ((self.warm_up + self.span).as_secs_f64() * self.per_second) as u64;
        operations
    }

    /// When an operation is due, in nanoseconds since the beginning.
    fn due_ns(&self, number: u64) -> u64 {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "below 2^53 ns, never negative")]
        let due_ns = (number as f64 * 1e9 / self.per_second) as u64;
        due_ns
    }

    fn end_ns(&self) -> u64 {
        nanoseconds(self.warm_up + self.span + self.overrun)
    }
}

fn nanoseconds(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

/// What a load found.
#[derive(Clone, Debug)]
pub struct Found {
    /// From due to done.
    pub latencies: Samples,
    /// From due to begun, of operations before which their sender had nothing else to do: the generator's own lateness.
    pub lateness: Samples,
    /// Operations that had not begun when the run ended; they are among the latencies, with the time that they had waited.
    pub unfinished: u64,
    /// Operations a second that were done.
    pub achieved_per_second: f64,
}

impl Found {
    fn new() -> Self {
        Self { latencies: Samples::empty(1), lateness: Samples::empty(1), unfinished: 0, achieved_per_second: 0.0 }
    }

    fn merge(&mut self, other: &Self) {
        self.latencies.merge(&other.latencies);
        self.lateness.merge(&other.lateness);
        self.unfinished += other.unfinished;
        self.achieved_per_second += other.achieved_per_second;
    }
}

/// Performs the schedule's operations through these senders, each in a thread of its own. A sender is given the number of
/// its operation and returns when that is done.
///
/// # Errors
/// The first error of a sender; the others end at the run's end at the latest.
///
/// # Panics
/// Without senders, at a rate that is not positive, or if a sender panics.
pub fn run<S, E>(schedule: &Schedule, senders: Vec<S>) -> Result<Found, E>
where
    S: FnMut(u64) -> Result<(), E> + Send,
    E: Send,
{
    assert!(!senders.is_empty() && schedule.per_second > 0.0, "a load has senders and a rate");
    let count = senders.len() as u64;
    let timeline = RealTime::starting_now();
    thread::scope(|scope| {
        let threads: Vec<_> = (0..)
            .zip(senders)
            .map(|(first, sender)| scope.spawn(move || drive(&timeline, schedule, Share { first, count }, sender)))
            .collect();
        let mut all = Found::new();
        for thread in threads {
            all.merge(&thread.join().expect("a sender panicked")?);
        }
        Ok(all)
    })
}

/// Where time comes from: the clock, or a test.
trait Timeline {
    fn now_ns(&self) -> u64;
    fn wait_until_ns(&self, due_ns: u64);
}

/// The one clock, from an instant on.
#[derive(Clone, Copy)]
struct RealTime {
    clock: Clock,
    start_ticks: u64,
}

impl RealTime {
    fn starting_now() -> Self {
        let clock = Clock::calibrated();
        Self { clock, start_ticks: clock.ticks() }
    }
}

impl Timeline for RealTime {
    fn now_ns(&self) -> u64 {
        self.clock.ns_between(self.start_ticks, self.clock.ticks())
    }

    fn wait_until_ns(&self, due_ns: u64) {
        loop {
            let left_ns = due_ns.saturating_sub(self.now_ns());
            match left_ns {
                0 => return,
                SPIN_BELOW_NS.. => thread::sleep(Duration::from_nanos(left_ns - SPIN_BELOW_NS / 2)),
                _ => std::hint::spin_loop(),
            }
        }
    }
}

/// A sender's part of the operations: every `count`-th, from `first` on.
#[derive(Clone, Copy)]
struct Share {
    first: u64,
    count: u64,
}

fn drive<E>(
    timeline: &impl Timeline,
    schedule: &Schedule,
    share: Share,
    mut operation: impl FnMut(u64) -> Result<(), E>,
) -> Result<Found, E> {
    let step = usize::try_from(share.count).unwrap_or(usize::MAX);
    let (recorded_from_ns, end_ns) = (nanoseconds(schedule.warm_up), schedule.end_ns());
    let (mut found, mut done) = (Found::new(), 0_u64);
    let mut now_ns = timeline.now_ns();
    for number in (share.first..schedule.operations()).step_by(step) {
        let due_ns = schedule.due_ns(number);
        let is_recorded = due_ns >= recorded_from_ns;
        if now_ns >= end_ns {
            if is_recorded {
                found.unfinished += 1;
                found.latencies.record(now_ns.saturating_sub(due_ns));
            }
            continue;
        }
        if now_ns < due_ns {
            timeline.wait_until_ns(due_ns);
            if is_recorded {
                found.lateness.record(timeline.now_ns().saturating_sub(due_ns));
            }
        }
        operation(number)?;
        now_ns = timeline.now_ns();
        if is_recorded {
            done += 1;
            found.latencies.record(now_ns.saturating_sub(due_ns));
        }
    }
    let measured_ns = now_ns.saturating_sub(recorded_from_ns).max(nanoseconds(schedule.span));
    found.achieved_per_second = done as f64 * 1e9 / measured_ns as f64;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::convert::Infallible;

    use super::*;

    const MS: u64 = 1_000_000;
    const ALL: Share = Share { first: 0, count: 1 };
    /// 1,000 operations, one every millisecond.
    const SECOND: Schedule = Schedule {
        per_second: 1_000.0,
        warm_up: Duration::ZERO,
        span: Duration::from_secs(1),
        overrun: Duration::from_secs(1),
    };

    /// Time that passes only when something says so.
    #[derive(Default)]
    struct Told(Cell<u64>);

    impl Told {
        fn pass(&self, span_ns: u64) {
            self.0.set(self.0.get() + span_ns);
        }
    }

    impl Timeline for Told {
        fn now_ns(&self) -> u64 {
            self.0.get()
        }

        fn wait_until_ns(&self, due_ns: u64) {
            self.0.set(due_ns.max(self.0.get()));
        }
    }

    /// Drives operations that take so long each.
    fn drive_told(schedule: &Schedule, share: Share, takes_ns: impl Fn(u64) -> u64) -> Found {
        let time = Told::default();
        let operation = |number| {
            time.pass(takes_ns(number));
            Ok::<(), Infallible>(())
        };
        drive(&time, schedule, share, operation).expect("nothing fails")
    }

    fn near(actual_ns: f64, expected_ns: u64) -> bool {
        let expected_ns = expected_ns as f64;
        (actual_ns - expected_ns).abs() <= expected_ns * 0.01
    }

    #[test]
    fn a_stall_is_charged_to_all_that_came_due_meanwhile() {
        // One operation of 1,000 takes 200 ms, the others 0.1 ms. A load that waits for its answers would see one slow one,
        // and 0.1 ms at the 99th percentile.
        let found = drive_told(&SECOND, ALL, |number| if number == 500 { 200 * MS } else { MS / 10 });
        assert_eq!((found.latencies.count(), found.unfinished), (1_000, 0));
        assert!(near(found.latencies.quantile_ns(1.0), 200 * MS), "{found:?}");
        // While it stalls 200 come due; what waits is worked off in 222 steps of 0.1 ms against one due each ms. The 100
        // slowest of 1,000 are those of the first half of the stall.
        let p90_ns = found.latencies.quantile_ns(0.9);
        assert!((100e6..125e6).contains(&p90_ns), "{p90_ns}");
        assert!(near(found.latencies.p50_ns(), MS / 10), "{found:?}");
    }

    #[test]
    fn a_system_that_keeps_up_is_charged_with_its_own_time() {
        let found = drive_told(&SECOND, ALL, |_| MS / 2);
        assert!(near(found.latencies.quantile_ns(0.0), MS / 2) && near(found.latencies.quantile_ns(1.0), MS / 2));
        assert!((found.achieved_per_second - 1_000.0).abs() < 1.0, "{found:?}");
        // A told time is never late, and the least span is 1 ns.
        assert!(found.lateness.quantile_ns(1.0) <= 1.0, "{found:?}");
    }

    #[test]
    fn a_system_that_cannot_keep_up_ends_with_what_it_did_not_begin() {
        // It does 250 a second of 1,000, and has two seconds.
        let found = drive_told(&SECOND, ALL, |_| 4 * MS);
        assert_eq!((found.latencies.count(), found.unfinished), (1_000, 500));
        // The last one done was due after half a second, and the first one not done waited for a second and a half.
        assert!(near(found.latencies.quantile_ns(1.0), 1_500 * MS), "{found:?}");
        assert!((found.achieved_per_second - 250.0).abs() < 1.0, "{found:?}");
    }

    #[test]
    fn warm_up_is_performed_and_not_recorded() {
        let schedule = Schedule { warm_up: Duration::from_millis(100), ..SECOND };
        let performed = Cell::new(0);
        let found = drive_told(&schedule, ALL, |number| {
            performed.set(performed.get() + 1);
            if number < 20 { 2 * MS } else { MS / 10 }
        });
        assert_eq!((performed.get(), found.latencies.count()), (1_100, 1_000));
        assert!(near(found.latencies.quantile_ns(1.0), MS / 10), "{found:?}");
    }

    #[test]
    fn senders_share_the_operations() {
        let taken: Vec<u64> = (0..3)
            .flat_map(|first| {
                let numbers = Cell::new(Vec::new());
                drive_told(&SECOND, Share { first, count: 3 }, |number| {
                    let mut all = numbers.take();
                    all.push(number);
                    numbers.set(all);
                    0
                });
                numbers.take()
            })
            .collect();
        let mut sorted = taken.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..1_000).collect::<Vec<_>>());
        assert_eq!(&taken[..3], [0, 3, 6]);
    }

    #[test]
    fn by_the_real_clock_nothing_is_begun_before_it_is_due() {
        let schedule = Schedule { per_second: 4_000.0, span: Duration::from_millis(200), ..SECOND };
        let time = RealTime::starting_now();
        let sender = || {
            move |number| {
                // This timeline began earlier than the run's.
                assert!(time.now_ns() >= schedule.due_ns(number));
                thread::sleep(Duration::from_micros(100));
                Ok::<(), Infallible>(())
            }
        };
        let found = run(&schedule, vec![sender(), sender()]).expect("nothing fails");
        assert_eq!(found.latencies.count(), 800);
        assert!(found.latencies.quantile_ns(0.0) >= 100_000.0, "{found:?}");
    }

    #[test]
    fn an_error_ends_the_run() {
        let sender = |number| if number == 5 { Err("five") } else { Ok(()) };
        assert_eq!(run(&SECOND, vec![sender]).expect_err("the sixth fails"), "five");
    }
}
