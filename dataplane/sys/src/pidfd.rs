//! Handles to processes. A handle names one process for ever: unlike a number it never comes to mean another.
//! It is readable when the process has exited, so event loops and keepers watch it without reaping.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::PollFlags;
use rustix::io::{Errno, retry_on_intr};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitIdStatus, pidfd_open, pidfd_send_signal, waitid,
};

use crate::wait::{events_now, wait_for};

/// A handle to a process.
#[derive(Debug)]
pub struct Pidfd {
    handle: OwnedFd,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It returned this code.
    Code(i32),
    /// A signal ended it.
    Signal {
        /// The signal's number.
        number: i32,
        /// Whether a core file was written.
        core_dumped: bool,
    },
}

impl Exit {
    /// Whether it returned 0.
    #[must_use]
    pub fn is_success(self) -> bool {
        self == Self::Code(0)
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(formatter, "exit code {code}"),
            Self::Signal { number, core_dumped: false } => write!(formatter, "signal {number}"),
            Self::Signal { number, core_dumped: true } => write!(formatter, "signal {number}, core dumped"),
        }
    }
}

/// Why an operation on a process failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PidfdError {
    /// The process is gone, or never was.
    #[error("no such process")]
    NoSuchProcess,
    /// Only a parent learns how a child ended, and only once.
    #[error("this process is not a child of ours that is still to be waited for")]
    NotAChild,
    /// A system call failed.
    #[error("{call} failed: {errno}")]
    Call {
        /// The call.
        call: &'static str,
        /// What the kernel answered.
        errno: Errno,
    },
}

fn failed(call: &'static str) -> impl Fn(Errno) -> PidfdError {
    move |errno| match errno {
        Errno::SRCH => PidfdError::NoSuchProcess,
        Errno::CHILD => PidfdError::NotAChild,
        errno => PidfdError::Call { call, errno },
    }
}

impl Pidfd {
    /// A handle to the process that has this number now. The caller knows by other means that it is the right one:
    /// a child not yet waited for, or a peer whose socket is still open.
    pub fn open(pid: u32) -> Result<Self, PidfdError> {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(PidfdError::NoSuchProcess)?;
        let handle = pidfd_open(pid, PidfdFlags::empty()).map_err(failed("pidfd_open"))?;
        Ok(Self { handle })
    }

    /// A handle to this process, to give to those who want to notice its end.
    pub fn this_process() -> Result<Self, PidfdError> {
        Self::open(std::process::id())
    }

    /// Sends a signal.
    pub fn send_signal(&self, signal: Signal) -> Result<(), PidfdError> {
        pidfd_send_signal(&self.handle, signal).map_err(failed("pidfd_send_signal"))
    }

    /// Kills the process; one that is gone already is as good.
    pub fn kill(&self) -> Result<(), PidfdError> {
        match self.send_signal(Signal::KILL) {
            Err(PidfdError::NoSuchProcess) => Ok(()),
            other => other,
        }
    }

    /// Whether the process still runs. A zombie does not.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        events_now(self.as_fd(), PollFlags::IN).is_ok_and(|events| events.is_empty())
    }

    /// Waits at most `wait` until the process is gone; true if it is. Works for processes that are not our children.
    pub fn wait_gone(&self, wait: Duration) -> Result<bool, PidfdError> {
        wait_for(self.as_fd(), PollFlags::IN, wait).map(|events| !events.is_empty()).map_err(failed("poll"))
    }

    /// How our child ended, if it has. The first answer reaps it; later ones are [`PidfdError::NotAChild`].
    pub fn try_wait(&self) -> Result<Option<Exit>, PidfdError> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        let status = retry_on_intr(|| waitid(WaitId::PidFd(self.as_fd()), options)).map_err(failed("waitid"))?;
        Ok(status.and_then(|status| exit_of(&status)))
    }

    /// Waits at most `wait` for our child to end and reaps it; `None` when the time is up.
    pub fn wait_deadline(&self, wait: Duration) -> Result<Option<Exit>, PidfdError> {
        self.wait_gone(wait)?;
        self.try_wait()
    }

    /// A second descriptor for the same process.
    pub fn try_clone(&self) -> Result<Self, PidfdError> {
        let handle = rustix::io::fcntl_dupfd_cloexec(&self.handle, 0).map_err(failed("fcntl F_DUPFD_CLOEXEC"))?;
        Ok(Self { handle })
    }
}

fn exit_of(status: &WaitIdStatus) -> Option<Exit> {
    if let Some(code) = status.exit_status() {
        return Some(Exit::Code(code));
    }
    let number = status.terminating_signal()?;
    Some(Exit::Signal { number, core_dumped: status.dumped() })
}

impl AsFd for Pidfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }
}

impl From<OwnedFd> for Pidfd {
    /// Takes a descriptor that the caller knows to be a pidfd; on anything else every operation fails.
    fn from(handle: OwnedFd) -> Self {
        Self { handle }
    }
}

impl From<Pidfd> for OwnedFd {
    fn from(pidfd: Pidfd) -> Self {
        pidfd.handle
    }
}
