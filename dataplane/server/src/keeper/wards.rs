//! Workers that the keeper watches: each holds the write end of a pipe for as long as it, or a child of it, lives.
//!
//! The keeper never reads these pipes: a worker may write what it likes, the end of the last writer shows as a hang-up all
//! the same, and an unread pipe wakes nobody once it is full.

use std::os::fd::OwnedFd;
use std::time::Duration;

use praas_sys::Cgroup;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::Signal;

/// One watched worker.
#[derive(Debug)]
pub(super) struct Ward {
    pub(super) pipe: OwnedFd,
    pidfd: OwnedFd,
    cgroup: Option<Cgroup>,
    /// Connection of the server that it belongs to.
    pub(super) connection: usize,
}

impl Ward {
    pub(super) fn new(pipe: OwnedFd, pidfd: OwnedFd, cgroup: Option<Cgroup>, connection: usize) -> Self {
        Self { pipe, pidfd, cgroup, connection }
    }

    /// Whether the worker and everything that inherited its pipe have ended.
    pub(super) fn has_ended(&self) -> bool {
        let mut fds = [PollFd::new(&self.pipe, PollFlags::empty())];
        match rustix::event::poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
            Ok(_) => fds[0].revents().contains(PollFlags::HUP),
            Err(_) => false,
        }
    }

    /// Kills the worker, and its children where it has a cgroup.
    pub(super) fn kill(&self) {
        // An error means that it ended by itself.
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
        if let Some(cgroup) = &self.cgroup {
            // Whoever is left is killed at the next look.
            let _ = cgroup.kill_all(Duration::ZERO);
        }
    }
}
