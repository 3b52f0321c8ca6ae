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
}

impl Deadline {
    /// A limit that counts from the first look at the clock.
    #[inline]
    pub(crate) fn unread(limit: Duration) -> Self {
        Self { limit, end: None }
    }

    /// A limit that counts from now.
    pub(crate) fn from_now(limit: Duration) -> Self {
        Self { limit, end: Some(far_end(Instant::now(), limit)) }
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
        u64::try_from(self.remaining_or_limit().as_nanos()).unwrap_or(u64::MAX).max(1)
    }

    /// Whether nothing is left.
    pub(crate) fn has_passed(&mut self) -> bool {
        self.remaining().is_zero()
    }

    /// The error of a call whose wait ended.
    pub(crate) fn exceeded(&self) -> CallError {
        CallError::DeadlineExceeded { deadline_ns: self.limit_ns() }
    }
}

/// `from + limit`; a limit beyond the clock's range becomes a century.
fn far_end(from: Instant, limit: Duration) -> Instant {
    const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
    from.checked_add(limit).unwrap_or(from + CENTURY)
}

#[cfg(test)]
mod tests {
    use super::*;

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
