//! Why a driver does not open, does not wait, or does not start an operation.

use std::fmt;

use rustix::io::Errno;
use thiserror::Error;

/// Why this host gives no io_uring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum IoUringRefusal {
    /// The administrator has turned it off.
    #[error("kernel.io_uring_disabled is {setting}; allow it with `sysctl kernel.io_uring_disabled=0`")]
    Disabled {
        /// The setting: 1 for all but a privileged group, 2 for all.
        setting: u8,
    },
    /// A filter of system calls refuses it.
    #[error(
        "a seccomp filter refuses io_uring, as container engines do by default; allow it in the container's profile"
    )]
    Filtered,
    /// The kernel was built without it.
    #[error("this kernel has no io_uring; it needs CONFIG_IO_URING")]
    Unsupported,
    /// The kernel is too old.
    #[error("this kernel's io_uring lacks {lacking}, which came with Linux {since}")]
    TooOld {
        /// What it lacks.
        lacking: &'static str,
        /// The version that has it.
        since: &'static str,
    },
    /// A call failed in another way.
    #[error("{call} failed: {errno}; memory or the limits on locked memory and open files may be exhausted")]
    Call {
        /// The call.
        call: &'static str,
        /// Its error.
        errno: Errno,
    },
}

/// Why a driver does not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum OpenError {
    /// io_uring was demanded.
    #[error("io_uring was demanded but is not granted: {0}; choose epoll, or let the server choose")]
    IoUring(IoUringRefusal),
    /// A limit is out of bounds.
    #[error("the driver's limit {limit} is {actual}; it must be {wanted}")]
    Limit {
        /// Its name.
        limit: &'static str,
        /// Its value.
        actual: u64,
        /// What it may be.
        wanted: &'static str,
    },
    /// A call failed.
    #[error("{call} failed: {errno}; the limit on open files may be reached")]
    Call {
        /// The call.
        call: &'static str,
        /// Its error.
        errno: Errno,
    },
}

/// Why a driver cannot wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{call} failed while waiting for the network: {errno}; open a new driver")]
pub struct WaitError {
    /// The call.
    pub call: &'static str,
    /// Its error.
    pub errno: Errno,
}

/// Why an operation was not started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// There are as many sources as there may be.
    #[error("all {sources_max} places for connections are taken; close some, or raise the limit")]
    Full {
        /// The limit.
        sources_max: u32,
    },
    /// The identifier names nothing that could do this, or something that is being closed.
    #[error("there is no such open connection")]
    NotOpen,
    /// An operation of this kind is in flight.
    #[error("an operation of this kind is in flight on the connection; wait for its completion")]
    Busy,
    /// The range does not lie in the buffer.
    #[error("bytes {start} to {end} do not lie in a buffer of {bytes} bytes")]
    OutOfRange {
        /// First byte.
        start: usize,
        /// One past the last.
        end: usize,
        /// Bytes of the buffer.
        bytes: usize,
    },
    /// The buffer may only be sent.
    #[error("the buffer may only be sent, not received into")]
    ReadOnly,
    /// The kernel does not take the descriptor.
    #[error("{call} failed: {errno}")]
    Call {
        /// The call.
        call: &'static str,
        /// Its error.
        errno: Errno,
    },
}

/// An operation that was not started, with what was given for it.
pub struct Refused<T> {
    /// Why.
    pub refusal: Refusal,
    /// What was given.
    pub given: T,
}

impl<T> Refused<T> {
    pub(super) fn new(refusal: Refusal, given: T) -> Self {
        Self { refusal, given }
    }
}

impl<T> fmt::Debug for Refused<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Refused").field("refusal", &self.refusal).finish_non_exhaustive()
    }
}

impl<T> fmt::Display for Refused<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.refusal.fmt(formatter)
    }
}

impl<T> std::error::Error for Refused<T> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.refusal)
    }
}
