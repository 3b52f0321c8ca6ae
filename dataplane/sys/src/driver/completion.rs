//! What a driver reports.

use std::os::fd::OwnedFd;

use praas_shm::io_buffer::IoBuffer;
use rustix::io::Errno;

use super::{Outgoing, ReceivedBytes};

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// All of it was done.
    Done,
    /// The peer has finished sending. A reset that cuts a [`receive_into`](super::Driver::receive_into) short after some
    /// of its bytes may also look like this.
    EndOfStream,
    /// The caller cancelled it, or closed its source.
    Cancelled,
    /// The connection is broken: the kernel's error.
    Failed(Errno),
}

/// Something that came about. `token` is the one with which the source was added.
#[derive(Debug)]
pub enum Completion<B: IoBuffer> {
    /// A peer has connected. The socket is close-on-exec.
    Accepted {
        /// The listener's token.
        token: u64,
        /// The connection.
        socket: OwnedFd,
    },
    /// A peer may have connected, but the kernel will not have it; at the limit of open files, for instance, with
    /// [`Errno::MFILE`]. The listener is paused: the peer waits in the backlog until accepting resumes.
    AcceptFailed {
        /// The listener's token.
        token: u64,
        /// The kernel's error.
        errno: Errno,
    },
    /// Bytes came. The buffer goes back to the driver when `bytes` is dropped.
    Received {
        /// The connection's token.
        token: u64,
        /// The bytes.
        bytes: ReceivedBytes,
    },
    /// No more bytes will come: [`End::EndOfStream`] or [`End::Failed`].
    ReceiveEnded {
        /// The connection's token.
        token: u64,
        /// Why.
        end: End,
    },
    /// A [`receive_into`](super::Driver::receive_into) ended. After [`End::EndOfStream`] and [`End::Failed`], receiving is
    /// paused.
    Filled {
        /// The connection's token.
        token: u64,
        /// The buffer.
        buffer: B,
        /// Bytes received into it, from the start of the range.
        bytes: usize,
        /// [`End::Done`] when the range is full.
        end: End,
    },
    /// A [`send`](super::Driver::send) ended.
    Sent {
        /// The connection's token.
        token: u64,
        /// The message, with its buffers.
        message: Outgoing<B>,
        /// Bytes of it that the kernel has taken.
        bytes: usize,
        /// [`End::Done`] when these are all.
        end: End,
    },
    /// Something was written to a watched pipe.
    Rang {
        /// The watch's token.
        token: u64,
    },
    /// Nothing will be written to a watched pipe any more: its last writer is gone, or it cannot be read.
    WatchEnded {
        /// The watch's token.
        token: u64,
        /// [`End::EndOfStream`] or [`End::Failed`].
        end: End,
    },
    /// A source is closed and forgotten.
    Closed {
        /// Its token.
        token: u64,
    },
    /// A source is forgotten, its descriptor given away.
    Detached {
        /// Its token.
        token: u64,
        /// The descriptor, as it was given to the driver.
        socket: OwnedFd,
    },
}

/// What a turn of a driver was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turn {
    /// Whether a [`Waker`](super::Waker) was used since the last turn.
    pub woken: bool,
    /// Whether completions were left for the next turn, which therefore will not sleep.
    pub more: bool,
}
