//! Waiting for one descriptor with a limit. The only place that calls `poll(2)` in a loop: interruptions by
//! signals shorten the remaining time instead of restarting it.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// Waits until `fd` reports one of `events` (or an error or hang-up, which poll always reports); the flags are empty
/// when `wait` passed first.
pub(crate) fn wait_for(fd: BorrowedFd<'_>, events: PollFlags, wait: Duration) -> Result<PollFlags, Errno> {
    // A wait too long for the clock's arithmetic is a wait for ever.
    let end = Instant::now().checked_add(wait);
    loop {
        let remaining = end.map(|end| end.saturating_duration_since(Instant::now()));
        let timeout = remaining.and_then(|remaining| Timespec::try_from(remaining).ok());
        let mut entries = [PollFd::from_borrowed_fd(fd, events)];
        match poll(&mut entries, timeout.as_ref()) {
            Ok(_) => return Ok(entries[0].revents()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// What `fd` reports at this instant.
pub(crate) fn events_now(fd: BorrowedFd<'_>, events: PollFlags) -> Result<PollFlags, Errno> {
    wait_for(fd, events, Duration::ZERO)
}
