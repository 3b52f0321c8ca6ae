//! Bytes that must leave before any other: the rest of a frame whose sender could not wait, and small frames that nobody
//! waits for (CANCEL, CLOSE).
//!
//! Bounded: at most the rest of one REQUEST, and after it one CANCEL a slot and one CLOSE a handle.

use praas_protocol::wire::{Cancel, Close};

/// Memory that is kept between two uses.
const KEPT_BYTES: usize = 4096;

/// The bytes.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    bytes: Vec<u8>,
    sent: usize,
    /// A REQUEST whose last byte lies at this end, and its id.
    request: Option<(usize, u64)>,
}

impl Outbox {
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// What is to be sent next.
    pub(super) fn rest(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    /// `count` bytes were sent; the id of the request whose last byte was among them.
    pub(super) fn advance(&mut self, count: usize) -> Option<u64> {
        self.sent += count;
        let done = self.request.filter(|&(end, _)| self.sent >= end).map(|(_, id)| id);
        if done.is_some() {
            self.request = None;
        }
        if self.sent >= self.bytes.len() {
            self.sent = 0;
            self.bytes.clear();
            self.bytes.shrink_to(KEPT_BYTES);
        }
        done
    }

    /// Keeps the rest of a REQUEST. Only when nothing else is kept: frames do not overtake each other.
    pub(super) fn keep_request(&mut self, id: u64, rest: &[&[u8]]) {
        debug_assert!(self.request.is_none(), "one request at a time");
        for part in rest {
            self.bytes.extend_from_slice(part);
        }
        self.request = Some((self.bytes.len(), id));
    }

    pub(super) fn cancel(&mut self, id: u64) {
        Cancel { request_id: id }.encode(&mut self.bytes);
    }

    pub(super) fn close(&mut self, handle: u32) {
        Close { handle }.encode(&mut self.bytes);
    }

    /// Nothing of it will be sent.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_sent_when_its_last_byte_is() {
        let mut outbox = Outbox::default();
        outbox.keep_request(7, &[b"ab", b"cde"]);
        outbox.cancel(7);
        assert_eq!(outbox.rest().len(), 5 + 16);
        assert_eq!(outbox.advance(4), None);
        assert_eq!(outbox.advance(3), Some(7));
        assert_eq!(outbox.advance(14), None);
        assert!(outbox.is_empty() && outbox.rest().is_empty());
    }
}
