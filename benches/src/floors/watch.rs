//! Bounds a round without touching its hot path: a thread sleeps until the round is over, the peer has ended or the
//! deadline has passed. In the latter cases it kills the peer, sees it dead, and only then ends the caller's wait, so
//! that nothing the peer still wrote can hide that.
//!
//! So the floors themselves read no clock, set no timeout and check no flag beside the word they wait for.

use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::FloorError;
use super::peer::{Peer, kill};

/// How long a killed process may take to end: it may sit in a page fault of a busy machine.
const DEATH_PATIENCE: Duration = Duration::from_secs(10);

const RUNNING: u8 = 0;
const PEER_GONE: u8 = 1;
const OVERDUE: u8 = 2;

/// Runs `body`, which waits for `peer` without a limit of its own; `unblock` ends that wait once the peer is dead.
pub(super) fn bounded<T>(
    floor: &'static str,
    peer: &Peer,
    deadline: Duration,
    unblock: &(dyn Fn() + Sync),
    body: impl FnOnce() -> Result<T, FloorError>,
) -> Result<T, FloorError> {
    let over = eventfd(0, EventfdFlags::CLOEXEC).map_err(FloorError::system("make an eventfd"))?;
    let fate = AtomicU8::new(RUNNING);
    let outcome = thread::scope(|scope| {
        scope.spawn({
            let (over, fate, pidfd) = (over.as_fd(), &fate, peer.pidfd());
            move || watch(over, pidfd, deadline, fate, unblock)
        });
        // Dropped even if `body` panics: the scope joins the watching thread.
        let _over = SignalOnDrop(&over);
        body()
    });
    match fate.into_inner() {
        OVERDUE => Err(FloorError::DeadlineExceeded { floor, deadline }),
        PEER_GONE => Err(FloorError::PeerGone { floor }),
        _ => outcome,
    }
}

fn watch(over: BorrowedFd<'_>, pidfd: BorrowedFd<'_>, deadline: Duration, fate: &AtomicU8, unblock: &dyn Fn()) {
    let until = Instant::now() + deadline;
    let found = wait_readable(&[over, pidfd], until);
    match found {
        Some(0) => return,
        Some(_) => fate.store(PEER_GONE, Ordering::Relaxed),
        None => fate.store(OVERDUE, Ordering::Relaxed),
    }
    kill(pidfd);
    let _ = wait_readable(&[pidfd], Instant::now() + DEATH_PATIENCE);
    unblock();
}

/// The first of `fds` that is readable, or `None` at `until`.
pub(super) fn wait_readable(fds: &[BorrowedFd<'_>], until: Instant) -> Option<usize> {
    let mut polled: Vec<PollFd<'_>> = fds.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
    loop {
        let remaining = until.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(remaining).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
        // An interruption, the one failure possible here, leads to another turn.
        if poll(&mut polled, Some(&timeout)).is_ok()
            && let Some(index) = polled.iter().position(|fd| !fd.revents().is_empty())
        {
            return Some(index);
        }
        if remaining.is_zero() {
            return None;
        }
    }
}

struct SignalOnDrop<'a>(&'a OwnedFd);

impl Drop for SignalOnDrop<'_> {
    fn drop(&mut self) {
        // An eventfd that is written once cannot be full.
        let _ = rustix::io::write(self.0, &1_u64.to_ne_bytes());
    }
}
