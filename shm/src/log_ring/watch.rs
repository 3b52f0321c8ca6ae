//! Waiting until what a process has changed is durable.
//!
//! A disk takes some hundred microseconds, long enough for a core to halt, and to be woken takes it a fifth of that again. So
//! a wait that is likely to be short sleeps for half of the time that the last ones took, and then polls, giving the core to
//! whoever else wants it between two looks. It does so only in a worker that may poll, and less and less often where it finds
//! nothing in time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::control_page::ControlView;
use crate::log_ring::limits::POLLED_WAIT_MAX;
use crate::objects::Objects;
use crate::spin::SpinHistory;

/// Longest sleep between two looks, for a server that died on its way to wake.
const SLICE: Duration = Duration::from_millis(50);

/// Both counters of a logged process: how far it has come, and how far that is durable.
#[derive(Debug, Clone)]
pub struct DurableWatch {
    objects: Arc<Objects>,
    control: Arc<ControlView>,
    pace: Option<Arc<Pace>>,
}

/// How long waits take, as those of one worker learn it.
#[derive(Debug, Default)]
struct Pace {
    /// A mean that forgets; 0 before the first wait.
    span_ns: AtomicU64,
    history: SpinHistory,
}

impl Pace {
    /// How long the next wait is likely to take, if it is to poll.
    fn expected(&self) -> Option<Duration> {
        let span = Duration::from_nanos(self.span_ns.load(Ordering::Relaxed));
        (!span.is_zero() && span <= POLLED_WAIT_MAX && self.history.should_spin()).then_some(span)
    }

    fn learn(&self, waited: Duration) {
        let (waited_ns, span_ns) =
            (u64::try_from(waited.as_nanos()).unwrap_or(u64::MAX), self.span_ns.load(Ordering::Relaxed));
        let mean_ns = if span_ns == 0 { waited_ns } else { span_ns - span_ns / 8 + waited_ns / 8 };
        self.span_ns.store(mean_ns, Ordering::Relaxed);
    }
}

impl DurableWatch {
    /// Of the process of this state and this control page.
    #[must_use]
    pub fn new(objects: Arc<Objects>, control: Arc<ControlView>) -> Self {
        Self { objects, control, pace: None }
    }

    /// The same where waits may poll.
    #[must_use]
    pub fn polling(self) -> Self {
        Self { pace: Some(Arc::default()), ..self }
    }

    /// The position that must be durable before anybody hears of anything that can be seen now.
    #[must_use]
    #[inline]
    pub fn position(&self) -> u64 {
        self.objects.position()
    }

    /// Up to where all is durable.
    #[must_use]
    #[inline]
    pub fn durable(&self) -> u64 {
        self.control.durable()
    }

    /// Whether all is durable that could be seen when `position` was read. A position that was read in the middle of a
    /// change that was taken back never comes; then all there is now counts.
    #[must_use]
    #[inline]
    pub fn is_durable(&self, position: u64) -> bool {
        let durable = self.durable();
        durable >= position || durable >= self.position()
    }

    /// Waits for that, at most until `until`; false if it did not come.
    #[must_use]
    pub fn wait(&self, position: u64, until: Instant) -> bool {
        if self.is_durable(position) {
            return true;
        }
        let began = Instant::now();
        let expected = self.pace.as_ref().and_then(|pace| pace.expected());
        let polled_until = expected.map_or(Duration::ZERO, |expected| expected * 3 / 2);
        loop {
            let (seen, waited) = (self.durable(), began.elapsed());
            if self.is_durable(position) {
                self.note(waited, expected.map(|_| waited < polled_until));
                return true;
            }
            let left = until.saturating_duration_since(began + waited);
            if left.is_zero() {
                return false;
            }
            match expected {
                Some(expected) if waited < expected / 2 => {
                    self.control.wait_for_durable(seen, left.min(expected / 2 - waited));
                }
                Some(_) if waited < polled_until => std::thread::yield_now(),
                _ => self.control.wait_for_durable(seen, left.min(SLICE)),
            }
        }
    }

    /// A wait is over; `in_time`: whether it was while it polled, if it did.
    fn note(&self, waited: Duration, in_time: Option<bool>) {
        let Some(pace) = &self.pace else { return };
        pace.learn(waited);
        match in_time {
            Some(true) => pace.history.hit(),
            Some(false) => pace.history.miss(),
            None => {}
        }
    }

    /// One bounded wait for `durable` to change from what was `seen`.
    pub(crate) fn wait_once(&self, seen: u64) {
        self.control.wait_for_durable(seen, SLICE);
    }
}
