//! The client's bell: one word of a lane on which the client's reactor sleeps for all its asynchronous calls.
//!
//! Bit 0 says that the reactor sleeps or is about to; the rest counts answers. Both live in one word, so its
//! modification order settles every race and no fence is needed:
//! 1. A worker counts up *after* its answer is DONE (Release). The reactor reads the word *before* it looks at its cells.
//! 2. The reactor sets bit 0 by a CAS from the value it read. If an answer came in between, the CAS fails and it looks
//!    again; if one comes later, its count-up returns bit 0 and wakes.
//!    A worker may count up once for several answers, after the last of them ([`crate::held_rings`]).
//! 3. Of several who ring a sleeping reactor, the one that clears bit 0 wakes it: one system call a sleep, not one an
//!    answer. If that one dies before it has, the server wakes in its place ([`crate::server_lane`]).
//!
//! How the reactor sleeps is the lane's matter: on this very word ([`Bell::sleep`]), or among other things until its *reply
//! doorbell* is readable, a pipe whose read end it holds and whose write ends the workers and the server hold
//! ([`Bell::arm`]). A byte left over in that pipe is a wake-up without reason; a full pipe is readable, so a ring that finds
//! no room is not lost.
//!
//! A worker that rings without reason costs the client a look at its own cells.

#[cfg(not(loom))]
use std::os::fd::OwnedFd;
use std::time::Duration;

use crate::sync::{AtomicU32, Ordering, sleep_word, wake_word};

const SLEEPS: u32 = 1;
const ONE_ANSWER: u32 = 2;

/// A view of the bell's word.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bell<'a>(pub(crate) &'a AtomicU32);

impl Bell<'_> {
    /// Worker: an answer was published for a task. True: the reactor sleeps, and whoever is told so must wake it.
    #[must_use = "nobody else wakes the reactor"]
    #[inline]
    pub(crate) fn ring(self) -> bool {
        // Acquire and Release: pairs with the CAS in `arm`.
        self.0.fetch_add(ONE_ANSWER, Ordering::AcqRel) & SLEEPS != 0
            && self.0.fetch_and(!SLEEPS, Ordering::AcqRel) & SLEEPS != 0
    }

    /// Worker: whether the reactor sleeps, or is about to. A hint: only [`Bell::ring`] knows.
    #[inline]
    pub(crate) fn is_asleep(self) -> bool {
        self.0.load(Ordering::Relaxed) & SLEEPS != 0
    }

    /// Wakes a reactor that sleeps on the word.
    pub(crate) fn wake(self) {
        wake_word(self.0);
    }

    /// Reactor: what to hand to [`Bell::arm`] or [`Bell::sleep`], read before looking at the cells.
    #[inline]
    pub(crate) fn begin_look(self) -> u32 {
        // Acquire pairs with the count-up in `ring`: an answer counted here is seen in its cell.
        let seen = self.0.load(Ordering::Acquire);
        if seen & SLEEPS == 0 { seen } else { self.0.fetch_and(!SLEEPS, Ordering::AcqRel) & !SLEEPS }
    }

    /// Reactor: marks itself asleep unless an answer came since `begin_look` returned `seen`; true if it may sleep.
    #[inline]
    pub(crate) fn arm(self, seen: u32) -> bool {
        self.0.compare_exchange(seen, seen | SLEEPS, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Reactor: sleeps on the word unless an answer came since `begin_look` returned `seen`.
    pub(crate) fn sleep(self, seen: u32, timeout: Duration) {
        if self.arm(seen) {
            sleep_word(self.0, seen | SLEEPS, timeout);
        }
    }
}

/// How the reactor of a lane is woken, once [`Bell::ring`] said that it sleeps.
#[cfg(not(loom))]
#[derive(Debug)]
pub(crate) enum Wakening {
    /// It sleeps on the bell's word.
    Word,
    /// It sleeps until this pipe, of which this is the write end, is readable.
    Doorbell(OwnedFd),
}

#[cfg(not(loom))]
impl Wakening {
    pub(crate) fn new(reply_doorbell: Option<OwnedFd>) -> Self {
        reply_doorbell.map_or(Self::Word, Self::Doorbell)
    }

    /// Rings the bell, and wakes who sleeps.
    pub(crate) fn ring(&self, bell: Bell<'_>) {
        if bell.ring() {
            self.wake(bell);
        }
    }

    /// Wakes whether or not the bell says that somebody sleeps: in the place of one who may have died on its way to.
    #[cold]
    pub(crate) fn ring_again(&self, bell: Bell<'_>) {
        let _ = bell.ring();
        self.wake(bell);
    }

    fn wake(&self, bell: Bell<'_>) {
        match self {
            Self::Word => bell.wake(),
            // Without room it is readable already; without a reader, nobody sleeps.
            Self::Doorbell(pipe) => drop(rustix::io::write(pipe, &[1])),
        }
    }
}
