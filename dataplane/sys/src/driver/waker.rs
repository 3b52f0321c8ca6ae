//! Ends a driver's sleep from another thread.
//!
//! The word is AWAKE, ASLEEP or CALLED. A waker swaps CALLED in, and writes the event descriptor only if the driver was
//! asleep; a driver exchanges AWAKE for ASLEEP before it sleeps, and does not sleep if it finds CALLED. Each change sees the
//! one before it, so one of the two always sees the other's; and what a waker wrote before is visible to the driver that
//! sees its call (each is Release and Acquire).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{Errno, read, write};

const AWAKE: u32 = 0;
const ASLEEP: u32 = 1;
const CALLED: u32 = 2;

#[derive(Debug)]
struct Shared {
    word: AtomicU32,
    event: OwnedFd,
}

/// Ends a driver's sleep from another thread. Costs a system call only if the driver sleeps.
#[derive(Clone, Debug)]
pub struct Waker(Arc<Shared>);

impl Waker {
    /// The driver's present or next [`wait`](super::Driver::wait) returns soon, and says that it was woken. Calls before
    /// that are one.
    pub fn wake(&self) {
        if self.0.word.swap(CALLED, Ordering::AcqRel) == ASLEEP {
            // The counter cannot be full: each write follows a sleep that read it, or at worst a few that did not.
            let _ = write(&self.0.event, &1_u64.to_ne_bytes());
        }
    }

    pub(super) fn new() -> Result<Self, Errno> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self(Arc::new(Shared { word: AtomicU32::new(AWAKE), event })))
    }

    /// The driver is about to sleep; false if it was called and must not.
    pub(super) fn fall_asleep(&self) -> bool {
        self.0.word.compare_exchange(AWAKE, ASLEEP, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// The driver is awake again; true if it was called.
    pub(super) fn rise(&self) -> bool {
        // A driver that polls without end comes here each time: it only looks while nothing has changed.
        self.0.word.load(Ordering::Relaxed) != AWAKE && self.0.word.swap(AWAKE, Ordering::AcqRel) == CALLED
    }

    pub(super) fn event(&self) -> BorrowedFd<'_> {
        self.0.event.as_fd()
    }

    pub(super) fn silence(&self) {
        let _ = read(&self.0.event, &mut [0; 8]);
    }
}
