//! The end of a call's wait, kept so that a call which is answered at once never reads the clock.
//!
//! A limit that the caller named counts from the start of the call. The default limit counts from the first look at the
//! clock: a look costs 42 ns, a tenth of a call. So a call under the default limit that is refused in the end may take
//! the time of its first attempt longer, once.

use std::time::{Duration, Instant};

use praas_protocol::CallError;

/// A limit, and its end once the clock was read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline {
    limit: Duration,
    end: Option<Instant>,
    /// How much longer the caller waits than the call may take.
    grace: Duration,
}

impl Deadline {
    /// A limit that counts from the first look at the clock.
    #[inline]
    pub(crate) fn unread(limit: Duration) -> Self {
        Self { limit, end: None, grace: Duration::ZERO }
    }

    /// A limit that counts from now.
    pub(crate) fn from_now(limit: Duration) -> Self {
        Self { limit, end: Some(far_end(Instant::now(), limit)), grace: Duration::ZERO }
    }

    /// A limit that counts from now, whose caller waits `grace` longer for the answer that comes when it passes. Not for the
    /// direct path of a call.
    pub(crate) fn outlasting(limit: Duration, grace: Duration) -> Self {
        Self { grace, ..Self::from_now(limit.saturating_add(grace)) }
    }

    /// The limit in nanoseconds, as it travels with the request: time remaining, never 0, which would mean none.
    #[inline]
    pub(crate) fn limit_ns(&self) -> u64 {
        u64::try_from(self.limit.as_nanos()).unwrap_or(u64::MAX).max(1)
    }

    /// When the wait ends.
    pub(crate) fn end(&mut self) -> Instant {
        match self.end {
            Some(end) => end,
            None => {
                let end = far_end(Instant::now(), self.limit);
                self.end = Some(end);
                end
            }
        }
    }

    /// What is left of it.
    pub(crate) fn remaining(&mut self) -> Duration {
        self.end().saturating_duration_since(Instant::now())
    }

    /// What is left of it; the whole limit while the clock was not read, and then it stays unread.
    #[inline]
    pub(crate) fn remaining_or_limit(&mut self) -> Duration {
        if self.end.is_none() { self.limit } else { self.remaining() }
    }

    /// Nanoseconds left, for a request that is sent again: never 0.
    #[inline]
    pub(crate) fn remaining_ns(&mut self) -> u64 {
        let left = self.remaining_or_limit().saturating_sub(self.grace);
        u64::try_from(left.as_nanos()).unwrap_or(u64::MAX).max(1)
    }

    /// Whether nothing is left.
    pub(crate) fn has_passed(&mut self) -> bool {
        self.remaining().is_zero()
    }

    /// The error of a call whose wait ended.
    pub(crate) fn exceeded(&self) -> CallError {
        let told = self.limit.saturating_sub(self.grace);
        CallError::DeadlineExceeded { deadline_ns: u64::try_from(told.as_nanos()).unwrap_or(u64::MAX).max(1) }
    }
}

/// `from + limit`; a limit beyond the clock's range becomes a century.
pub(crate) fn far_end(from: Instant, limit: Duration) -> Instant {
    const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
    from.checked_add(limit).unwrap_or(from + CENTURY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_that_outlasts_its_call_gives_it_less_time() {
        let mut deadline = Deadline::outlasting(Duration::from_secs(3), Duration::from_secs(5));
        assert!(deadline.remaining() > Duration::from_secs(4));
        assert!((1..=3_000_000_000).contains(&deadline.remaining_ns()));
        assert_eq!(deadline.exceeded(), CallError::DeadlineExceeded { deadline_ns: 3_000_000_000 });
        assert_eq!(Deadline::outlasting(Duration::ZERO, Duration::from_secs(5)).remaining_ns(), 1);
    }

    #[test]
    fn a_limit_of_any_size_has_an_end_and_never_travels_as_none() {
        assert_eq!(Deadline::unread(Duration::ZERO).limit_ns(), 1);
        assert_eq!(Deadline::unread(Duration::MAX).limit_ns(), u64::MAX);
        let mut endless = Deadline::from_now(Duration::MAX);
        assert!(!endless.has_passed());
        assert!(Deadline::from_now(Duration::ZERO).has_passed());
        assert_eq!(Deadline::from_now(Duration::ZERO).remaining_ns(), 1);
        assert_eq!(
            Deadline::unread(Duration::from_secs(1)).exceeded(),
            CallError::DeadlineExceeded { deadline_ns: 1_000_000_000 }
        );
    }
}
