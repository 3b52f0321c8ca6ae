//! The client's bell: one word of a lane on which the client's reactor sleeps for all its asynchronous calls.
//!
//! Bit 0 says that the reactor sleeps or is about to; the rest counts answers. Both live in one word, so its
//! modification order settles every race and no fence is needed:
//! 1. A worker counts up *after* its answer is DONE (Release). The reactor reads the word *before* it looks at its cells.
//! 2. The reactor sets bit 0 by a CAS from the value it read. If an answer came in between, the CAS fails and it looks
//!    again; if one comes later, its count-up returns bit 0 and wakes.
//!
//! A worker that rings without reason costs the client a look at its own cells.

use std::time::Duration;

use crate::sync::{AtomicU32, Ordering, sleep_word, wake_word};

const SLEEPS: u32 = 1;
const ONE_ANSWER: u32 = 2;

/// A view of the bell's word.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bell<'a>(pub(crate) &'a AtomicU32);

impl Bell<'_> {
    /// Worker: an answer was published for a task.
    pub(crate) fn ring(self) {
        // Acquire and Release: pairs with the CAS in `sleep`. The bit is left set: the reactor clears it when it looks.
        if self.0.fetch_add(ONE_ANSWER, Ordering::AcqRel) & SLEEPS != 0 {
            wake_word(self.0);
        }
    }

    /// Reactor: what to hand to [`Bell::sleep`], read before looking at the cells.
    pub(crate) fn begin_look(self) -> u32 {
        self.0.fetch_and(!SLEEPS, Ordering::AcqRel) & !SLEEPS
    }

    /// Reactor: sleeps unless an answer came since `begin_look` returned `seen`.
    pub(crate) fn sleep(self, seen: u32, timeout: Duration) {
        if self.0.compare_exchange(seen, seen | SLEEPS, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            sleep_word(self.0, seen | SLEEPS, timeout);
        }
    }
}
