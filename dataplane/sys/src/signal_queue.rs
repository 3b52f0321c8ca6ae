//! Signals as readable events: they are blocked everywhere and read from a descriptor by the event loop.
//!
//! Make the queue on the first thread before any other starts: later threads inherit the blocked mask, and a signal is
//! delivered the old way to any thread that does not block it. Spawned children get an empty mask from the spawner.

use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::{Errno, read, retry_on_intr};
use rustix::process::Signal;

use crate::process_self::{last_errno, zeroed};

/// A descriptor from which blocked signals are read.
#[derive(Debug)]
pub struct SignalQueue {
    descriptor: OwnedFd,
    signals: Vec<Signal>,
}

impl SignalQueue {
    /// Blocks and queues SIGTERM, SIGINT and SIGHUP.
    pub fn termination() -> Result<Self, Errno> {
        Self::block(&[Signal::TERM, Signal::INT, Signal::HUP])
    }

    /// Blocks these signals for the calling thread (and those it starts later) and queues them.
    pub fn block(signals: &[Signal]) -> Result<Self, Errno> {
        // SAFETY: a signal set is a plain array of integers; `sigemptyset` sets it properly before it is used.
        let mut set: libc::sigset_t = unsafe { zeroed() };
        // SAFETY: `set` is a live signal set of this thread's own.
        unsafe { libc::sigemptyset(&raw mut set) };
        for signal in signals {
            // SAFETY: `set` was initialised by `sigemptyset`; an invalid number would be refused with EINVAL.
            unsafe { libc::sigaddset(&raw mut set, signal.as_raw()) };
        }
        // SAFETY: `set` is initialised; no old mask is asked for.
        let refused = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
        if refused != 0 {
            return Err(Errno::from_raw_os_error(refused));
        }
        // SAFETY: `set` is initialised; -1 asks for a new descriptor.
        let descriptor = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if descriptor < 0 {
            return Err(last_errno());
        }
        // SAFETY: signalfd just returned this descriptor; nobody else owns it.
        let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
        Ok(Self { descriptor, signals: signals.to_vec() })
    }

    /// The next signal that came, if any.
    pub fn next(&self) -> Result<Option<Signal>, Errno> {
        let mut record = [0_u8; size_of::<libc::signalfd_siginfo>()];
        match retry_on_intr(|| read(&self.descriptor, &mut record)) {
            Ok(bytes) if bytes == record.len() => {}
            Ok(_) => return Err(Errno::IO),
            Err(Errno::AGAIN) => return Ok(None),
            Err(errno) => return Err(errno),
        }
        // The number is the record's first field.
        let number = u32::from_ne_bytes([record[0], record[1], record[2], record[3]]);
        Ok(self.signals.iter().copied().find(|signal| u32::try_from(signal.as_raw()) == Ok(number)))
    }
}

impl AsFd for SignalQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}
