//! A doorbell: a pipe whose write end rings and whose read end is watched.
//!
//! Both ends are non-blocking. A listener that watches for edges hears every ring that finds room in the pipe, drained or
//! not (Linux 5.14 and later), and none into a full one: who rings without effect has to tell the server instead. A peer
//! that holds one end can make the bell ring too often or swallow rings, which costs its own calls; it cannot make anybody
//! wait, because no call here blocks and draining is bounded.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, read, retry_on_intr, write};
use rustix::pipe::{PipeFlags, pipe_with};

/// Reads in one drain, of 512 bytes each: a pipe that a peer filled to its default 64 KiB is empty after these; one
/// that is refilled meanwhile simply rings again.
const DRAIN_READS_MAX: usize = 128;

/// Both ends of a doorbell.
#[derive(Debug)]
pub struct Doorbell {
    /// The write end: give it to whoever rings.
    pub ring: OwnedFd,
    /// The read end: watch it for readability.
    pub listen: OwnedFd,
}

impl Doorbell {
    /// A new doorbell that does not ring.
    pub fn new() -> Result<Self, Errno> {
        let (listen, ring) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        Ok(Self { ring, listen })
    }

    /// Another write end, with an open file description of its own. Whether a write waits for room is a property of the
    /// description: a peer that shares one could make the other's rings wait for ever.
    pub fn another_ring(&self) -> Result<OwnedFd, Errno> {
        let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        rustix::fs::open(format!("/proc/self/fd/{}", self.ring.as_raw_fd()), flags, Mode::empty())
    }

    /// Rings.
    pub fn ring(&self) {
        let _ = ring(self.ring.as_fd());
    }

    /// Silences the bell; true if it rang.
    pub fn drain(&self) -> bool {
        drain(self.listen.as_fd())
    }
}

/// Rings the doorbell whose write end this is; false if nobody listens any more. The process must ignore SIGPIPE, as
/// Rust programs do.
pub fn ring(write_end: BorrowedFd<'_>) -> bool {
    !matches!(retry_on_intr(|| write(write_end, &[1])), Err(Errno::PIPE | Errno::BADF))
}

/// Silences the doorbell whose read end this is; true if it rang. Bounded, whatever a peer writes meanwhile.
pub fn drain(read_end: BorrowedFd<'_>) -> bool {
    let mut rang = false;
    let mut buffer = [0_u8; 512];
    for _ in 0..DRAIN_READS_MAX {
        match retry_on_intr(|| read(read_end, &mut buffer)) {
            // A short read has emptied the pipe: whatever comes later is a new edge for whoever watches it.
            Ok(bytes) if bytes < buffer.len() => return rang || bytes > 0,
            Ok(_) => rang = true,
            Err(_) => break,
        }
    }
    rang
}
