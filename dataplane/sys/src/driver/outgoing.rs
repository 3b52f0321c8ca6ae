//! A message to be sent: short pieces copied in, and ranges of buffers sent from where they lie.
//!
//! While it is in flight the driver has it whole, so that neither the copied bytes nor the buffers can change.

use std::fmt;
use std::ops::Range;

use praas_shm::io_buffer::IoBuffer;

use super::limits::CALL_BYTES_MAX;
use super::{Refusal, Refused};

/// A message to be sent.
pub struct Outgoing<B: IoBuffer> {
    inline: Vec<u8>,
    parts: Vec<Part<B>>,
    bytes: usize,
}

enum Part<B> {
    Inline(Range<usize>),
    Buffer { buffer: B, range: Range<usize> },
}

impl<B> Part<B> {
    fn bytes(&self) -> usize {
        match self {
            Self::Inline(range) | Self::Buffer { range, .. } => range.len(),
        }
    }
}

impl<B: IoBuffer> Outgoing<B> {
    /// An empty message.
    #[must_use]
    pub const fn new() -> Self {
        Self { inline: Vec::new(), parts: Vec::new(), bytes: 0 }
    }

    /// Appends a copy of `bytes`: heads, and payloads so short that copying is cheaper than one more part.
    #[inline]
    pub fn push_bytes(&mut self, bytes: &[u8]) {
        self.push_pieces([bytes]);
    }

    /// The same for several pieces that follow each other.
    #[inline]
    pub fn push_pieces<const N: usize>(&mut self, pieces: [&[u8]; N]) {
        let start = self.inline.len();
        let bytes = pieces.iter().map(|piece| piece.len()).sum();
        self.inline.reserve(bytes);
        for piece in pieces {
            self.inline.extend_from_slice(piece);
        }
        self.bytes += bytes;
        let end = self.inline.len();
        match self.parts.last_mut() {
            Some(Part::Inline(last)) => last.end = end,
            _ => self.parts.push(Part::Inline(start..end)),
        }
    }

    /// Appends `range` of `buffer`, which is sent from where it lies.
    ///
    /// # Errors
    /// The buffer, if the range is not inside it.
    pub fn push_buffer(&mut self, buffer: B, range: Range<usize>) -> Result<(), Refused<B>> {
        if !buffer.contains(&range) {
            let refusal = Refusal::OutOfRange { start: range.start, end: range.end, bytes: buffer.bytes() };
            return Err(Refused::new(refusal, buffer));
        }
        self.bytes += range.len();
        self.parts.push(Part::Buffer { buffer, range });
        Ok(())
    }

    /// Bytes of the message.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether there is nothing to send.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Parts that are sent separately: adjoining copied bytes are one.
    #[must_use]
    pub fn parts(&self) -> usize {
        self.parts.len()
    }

    /// Drops the buffers and starts over with the same memory.
    pub fn clear(&mut self) {
        self.inline.clear();
        self.parts.clear();
        self.bytes = 0;
    }

    /// Takes the buffers out, in the order in which they were appended; the message is empty afterwards.
    pub fn take_buffers(&mut self) -> impl Iterator<Item = B> {
        self.inline.clear();
        self.bytes = 0;
        self.parts.drain(..).filter_map(|part| match part {
            Part::Inline(_) => None,
            Part::Buffer { buffer, .. } => Some(buffer),
        })
    }

    fn place(&self, part: &Part<B>) -> (*const u8, usize) {
        match part {
            Part::Inline(range) => (self.inline[range.clone()].as_ptr(), range.len()),
            // The range was checked when the part was appended, and the buffer cannot have changed since.
            Part::Buffer { buffer, range } => (buffer.start().as_ptr().wrapping_add(range.start), range.len()),
        }
    }
}

impl<B: IoBuffer> Default for Outgoing<B> {
    fn default() -> Self {
        Self::new()
    }
}

impl<B: IoBuffer> fmt::Debug for Outgoing<B> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { parts, bytes, .. } = self;
        formatter.debug_struct("Outgoing").field("parts", &parts.len()).field("bytes", bytes).finish()
    }
}

/// A message on its way.
pub(super) struct Sending<B: IoBuffer> {
    pub(super) message: Outgoing<B>,
    /// Bytes that the kernel has taken.
    pub(super) sent: usize,
    /// The part that goes next, and how much of it has gone.
    part: usize,
    part_sent: usize,
}

impl<B: IoBuffer> Sending<B> {
    pub(super) fn new(message: Outgoing<B>) -> Self {
        Self { message, sent: 0, part: 0, part_sent: 0 }
    }

    pub(super) fn is_done(&self) -> bool {
        self.sent == self.message.bytes
    }

    /// Describes the bytes that go next; how many of `vectors` that took. The addresses hold as long as `self` is neither
    /// dropped nor changed; it may move.
    pub(super) fn describe(&self, vectors: &mut [libc::iovec]) -> usize {
        let mut skip = self.part_sent;
        let mut room = CALL_BYTES_MAX;
        let mut count = 0;
        for part in &self.message.parts[self.part..] {
            let (start, bytes) = self.message.place(part);
            let length = (bytes - skip).min(room);
            if length > 0 {
                let Some(vector) = vectors.get_mut(count) else { break };
                *vector = libc::iovec { iov_base: start.wrapping_add(skip).cast_mut().cast(), iov_len: length };
                count += 1;
                room -= length;
            }
            if room == 0 {
                break;
            }
            skip = 0;
        }
        count
    }

    /// The kernel has taken `bytes` more.
    pub(super) fn advance(&mut self, bytes: usize) {
        self.sent += bytes;
        self.part_sent += bytes;
        while let Some(part) = self.message.parts.get(self.part)
            && self.part_sent >= part.bytes()
        {
            self.part_sent -= part.bytes();
            self.part += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_of(sending: &Sending<Vec<u8>>, vectors_max: usize) -> Vec<u8> {
        let mut vectors = vec![libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; vectors_max];
        let count = sending.describe(&mut vectors);
        let mut bytes = Vec::new();
        for vector in &vectors[..count] {
            // SAFETY: `describe` names bytes of the message, which is borrowed.
            bytes.extend_from_slice(unsafe { std::slice::from_raw_parts(vector.iov_base.cast(), vector.iov_len) });
        }
        bytes
    }

    #[test]
    fn a_message_is_described_from_any_byte_on_whatever_its_parts() {
        let mut message = Outgoing::new();
        message.push_bytes(b"ab");
        message.push_bytes(b"cd");
        message.push_buffer(b"-efgh-".to_vec(), 1..5).expect("inside");
        message.push_buffer(Vec::new(), 0..0).expect("inside");
        message.push_bytes(b"");
        message.push_buffer(b"ijk".to_vec(), 0..3).expect("inside");
        message.push_bytes(b"l");
        let whole = b"abcdefghijkl";
        assert_eq!(message.len(), whole.len());
        for step in 1..=whole.len() {
            let mut sending = Sending::new(std::mem::take(&mut message));
            while !sending.is_done() {
                assert_eq!(bytes_of(&sending, 8), whole[sending.sent..]);
                assert!(whole[sending.sent..].starts_with(&bytes_of(&sending, 1)));
                sending.advance(step.min(whole.len() - sending.sent));
            }
            assert!(bytes_of(&sending, 8).is_empty());
            message = sending.message;
        }
        assert_eq!(message.take_buffers().count(), 3);
        assert!(message.is_empty());
    }

    #[test]
    fn a_range_outside_its_buffer_is_refused_with_the_buffer() {
        let mut message = Outgoing::new();
        let refused = message.push_buffer(vec![1, 2, 3], 1..4).expect_err("outside");
        assert_eq!(refused.refusal, Refusal::OutOfRange { start: 1, end: 4, bytes: 3 });
        assert_eq!(refused.given, [1, 2, 3]);
        assert!(message.is_empty());
    }
}
