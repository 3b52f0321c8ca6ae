//! What both drivers keep of a connection's operations: a range that fills, and how a source ends.

use std::ops::Range;
use std::ptr::NonNull;

use praas_shm::io_buffer::IoBuffer;

use super::limits::CALL_BYTES_MAX;
use super::{Completion, End, Refusal, Refused};

/// A range of a buffer that is being received into.
pub(super) struct Filling<B: IoBuffer> {
    buffer: B,
    /// Where the buffer starts: asked for once, when it was given.
    base: NonNull<u8>,
    start: usize,
    next: usize,
    end: usize,
    /// The caller wants it to end.
    pub(super) cancelled: bool,
}

impl<B: IoBuffer> Filling<B> {
    pub(super) fn new(mut buffer: B, range: Range<usize>) -> Result<Self, Refused<B>> {
        if !buffer.contains(&range) {
            let refusal = Refusal::OutOfRange { start: range.start, end: range.end, bytes: buffer.bytes() };
            return Err(Refused::new(refusal, buffer));
        }
        match buffer.start_mut() {
            Some(base) => {
                Ok(Self { buffer, base, start: range.start, next: range.start, end: range.end, cancelled: false })
            }
            None => Err(Refused::new(Refusal::ReadOnly, buffer)),
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.next == self.end
    }

    /// Where the next bytes go, and how many at once. The address holds as long as `self` lives; it may move.
    pub(super) fn place(&self) -> (*mut u8, usize) {
        (self.base.as_ptr().wrapping_add(self.next), (self.end - self.next).min(CALL_BYTES_MAX))
    }

    pub(super) fn advance(&mut self, bytes: usize) {
        assert!(bytes <= self.end - self.next, "the kernel receives no more than it is asked for");
        self.next += bytes;
    }

    /// Copies in what was received elsewhere; how much of it there was room for.
    pub(super) fn store(&mut self, source: &[u8]) -> usize {
        let bytes = source.len().min(self.end - self.next);
        if self.buffer.store(self.next, &source[..bytes]) {
            self.next += bytes;
            bytes
        } else {
            0
        }
    }

    pub(super) fn complete(self, token: u64, end: End) -> Completion<B> {
        Completion::Filled { token, buffer: self.buffer, bytes: self.next - self.start, end }
    }
}

/// What becomes of a source's descriptor once nothing uses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    Close,
    Detach,
}

impl Ending {
    pub(super) fn complete<B: IoBuffer>(self, token: u64, socket: std::os::fd::OwnedFd) -> Completion<B> {
        match self {
            Self::Close => {
                drop(socket);
                Completion::Closed { token }
            }
            Self::Detach => Completion::Detached { token, socket },
        }
    }
}
