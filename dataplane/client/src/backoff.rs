//! Pauses between attempts: doubling, bounded, and jittered so that many clients of one server do not return in step.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use crate::limits::BACKOFF_FIRST;

/// The pauses of one series of attempts.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
    longest: Duration,
    random: u64,
}

impl Backoff {
    /// A series whose pauses never exceed `longest`.
    pub(crate) fn new(longest: Duration) -> Self {
        // The standard library seeds its hash states from the kernel: no generator of our own is needed.
        let random = RandomState::new().hash_one(0_u8) | 1;
        Self { next: BACKOFF_FIRST, longest, random }
    }

    /// The next pause: between half of the current step and the whole of it.
    pub(crate) fn pause(&mut self) -> Duration {
        let step = self.next;
        self.next = (step * 2).min(self.longest);
        // xorshift64 by Marsaglia, "Xorshift RNGs" (2003); quality is irrelevant here.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let half = step / 2;
        half + half * u32::try_from(self.random % 1024).unwrap_or(0) / 1024
    }

    /// Starts the series anew, after a success.
    pub(crate) fn restart(&mut self) {
        self.next = BACKOFF_FIRST;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_limit_and_never_past_it() {
        let longest = Duration::from_millis(20);
        let mut backoff = Backoff::new(longest);
        assert!(backoff.pause() <= BACKOFF_FIRST);
        let pauses: Vec<_> = (0..50).map(|_| backoff.pause()).collect();
        assert!(pauses.iter().all(|&pause| pause <= longest), "{pauses:?}");
        assert!(pauses[49] >= longest / 2);
        backoff.restart();
        assert!(backoff.pause() <= BACKOFF_FIRST);
    }
}
