//! What a connection is still to be sent.
//!
//! Answers are gathered and leave with one call; a large one is sent from where the function wrote it. What the socket does not
//! take is kept, and nothing more is read from that client until it is gone: so a client that never reads costs the memory of
//! one turn's answers, for a bounded time, and never makes the worker wait. Of an answer that lies in the memory of its own
//! call's payload nothing is copied: that memory is kept until the rest has left.
//!
//! Invariant: bytes leave in the order in which they were given: what is gathered, then the tail, then what came behind it.

use std::io::IoSlice;
use std::ops::Range;
use std::os::fd::AsFd;
use std::time::Instant;

use rkyv::util::AlignedVec;
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};

use crate::limits::{CONNECTION_STALL_MAX, REPLIES_BYTES_GATHERED, REPLIES_BYTES_KEPT, REPLY_BYTES_COPIED};

const FLAGS: SendFlags = SendFlags::DONTWAIT.union(SendFlags::NOSIGNAL);

/// The other side is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gone;

/// Bytes on their way to a client.
#[derive(Debug, Default)]
pub(crate) struct Output {
    bytes: Vec<u8>,
    sent: usize,
    tail: Tail,
    /// Frames behind the tail.
    behind_tail: Vec<u8>,
    /// Memory of a tail that was sent.
    spent: AlignedVec,
    /// Since when the socket takes nothing.
    blocked_since: Option<Instant>,
}

/// The rest of an answer in memory that is not copied.
#[derive(Debug, Default)]
enum Tail {
    #[default]
    None,
    /// Its owner is about to hand the memory over.
    Owed(Range<usize>),
    Kept {
        memory: AlignedVec,
        unsent: Range<usize>,
    },
}

impl Tail {
    fn unsent(&self) -> &[u8] {
        match self {
            Self::Kept { memory, unsent } => &memory[unsent.clone()],
            Self::None | Self::Owed(_) => &[],
        }
    }

    fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }
}

impl Output {
    /// Whether the socket is full: nothing is to be read or run until it is not.
    pub(crate) fn is_blocked(&self) -> bool {
        self.blocked_since.is_some()
    }

    /// When the client must have taken something.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.blocked_since.map(|since| since + CONNECTION_STALL_MAX)
    }

    /// Uses the memory of `buffer` while there is nothing to send.
    pub(crate) fn borrow(&mut self, buffer: &mut Vec<u8>) {
        if self.bytes.is_empty() {
            std::mem::swap(&mut self.bytes, buffer);
        }
    }

    /// Gives that memory back once all was sent.
    pub(crate) fn give_back(&mut self, buffer: &mut Vec<u8>) {
        if self.bytes.is_empty() {
            std::mem::swap(&mut self.bytes, buffer);
            self.bytes = Vec::new();
            if buffer.capacity() > REPLIES_BYTES_KEPT {
                *buffer = Vec::new();
            }
        }
    }

    /// A frame to be sent with the next flush.
    pub(crate) fn frame(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        write(if self.tail.is_none() { &mut self.bytes } else { &mut self.behind_tail });
    }

    /// A frame of a head and a payload: with the next flush, or at once if it is large.
    ///
    /// `lasting`: where the payload begins in memory that its owner hands over by [`Output::keep`] if [`Output::take_owed`] says so.
    #[inline]
    pub(crate) fn answer(
        &mut self,
        socket: impl AsFd,
        head: &[u8],
        payload: &[u8],
        lasting: Option<usize>,
    ) -> Result<(), Gone> {
        let is_large = payload.len() > REPLY_BYTES_COPIED || self.bytes.len() >= REPLIES_BYTES_GATHERED;
        if !is_large || self.is_blocked() {
            self.frame(|bytes| {
                bytes.extend_from_slice(head);
                bytes.extend_from_slice(payload);
            });
            return Ok(());
        }
        let gathered = &self.bytes[self.sent..];
        let parts = [IoSlice::new(gathered), IoSlice::new(head), IoSlice::new(payload)];
        let mut left = taken(sendmsg(socket, &parts, &mut SendAncillaryBuffer::default(), FLAGS))?;
        let earlier = left.min(gathered.len());
        self.count_sent(earlier);
        left -= earlier;
        let of_head = left.min(head.len());
        let of_payload = left - of_head;
        self.bytes.extend_from_slice(&head[of_head..]);
        match lasting {
            Some(start) if of_payload < payload.len() => {
                self.tail = Tail::Owed(start + of_payload..start + payload.len());
            }
            _ => self.bytes.extend_from_slice(&payload[of_payload..]),
        }
        self.note_progress();
        Ok(())
    }

    /// Which part of the memory that the last answer lay in is still to be sent: [`Output::keep`] has to follow.
    pub(crate) fn owed(&self) -> Option<Range<usize>> {
        match &self.tail {
            Tail::Owed(unsent) => Some(unsent.clone()),
            Tail::None | Tail::Kept { .. } => None,
        }
    }

    /// Takes over the memory of an answer of which `unsent` is owed.
    pub(crate) fn keep(&mut self, memory: AlignedVec, unsent: Range<usize>) {
        self.tail = Tail::Kept { memory, unsent };
    }

    /// Memory that was kept and is sent; empty if there is none.
    pub(crate) fn take_spent(&mut self) -> AlignedVec {
        std::mem::take(&mut self.spent)
    }

    /// Sends what there is, as far as the socket takes it.
    #[inline]
    pub(crate) fn flush(&mut self, socket: impl AsFd) -> Result<(), Gone> {
        if !self.tail.is_none() {
            return self.flush_with_tail(socket);
        }
        if !self.bytes.is_empty() {
            let sent = taken(rustix::net::send(socket, &self.bytes[self.sent..], FLAGS))?;
            if sent > 0 {
                // Whoever takes a part has time for the next.
                self.blocked_since = None;
            }
            self.count_sent(sent);
            self.note_progress();
        }
        Ok(())
    }

    #[cold]
    fn flush_with_tail(&mut self, socket: impl AsFd) -> Result<(), Gone> {
        let gathered = &self.bytes[self.sent..];
        let parts = [IoSlice::new(gathered), IoSlice::new(self.tail.unsent())];
        let sent = taken(sendmsg(socket, &parts, &mut SendAncillaryBuffer::default(), FLAGS))?;
        if sent > 0 {
            self.blocked_since = None;
        }
        let earlier = sent.min(gathered.len());
        self.count_sent(earlier);
        if let Tail::Kept { memory, unsent } = &mut self.tail {
            unsent.start += sent - earlier;
            if unsent.start == unsent.end {
                self.spent = std::mem::take(memory);
                self.tail = Tail::None;
                self.bytes.append(&mut self.behind_tail);
            }
        }
        self.note_progress();
        Ok(())
    }

    #[inline]
    fn count_sent(&mut self, count: usize) {
        self.sent += count;
        if self.sent == self.bytes.len() {
            self.bytes.clear();
            self.sent = 0;
        }
    }

    fn note_progress(&mut self) {
        if self.bytes.is_empty() && self.tail.is_none() {
            self.blocked_since = None;
        } else {
            self.blocked_since.get_or_insert_with(Instant::now);
        }
    }
}

/// Bytes that the socket took.
fn taken(sent: Result<usize, Errno>) -> Result<usize, Gone> {
    match sent {
        Ok(bytes) => Ok(bytes),
        // Nothing that interrupts it is handled here: room to write brings us back.
        Err(Errno::AGAIN | Errno::INTR) => Ok(0),
        Err(_) => Err(Gone),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn every_byte_leaves_once_and_in_order_however_little_the_socket_takes() {
        for large in [100, REPLY_BYTES_COPIED + 1, 3 << 20] {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            let mut output = Output::default();
            let mut expected = Vec::new();
            for number in 0..40_u8 {
                let payload = vec![number; if number % 7 == 3 { large } else { 100 }];
                output.answer(&ours, &[255, number], &payload, None).unwrap();
                expected.extend([255, number]);
                expected.extend(payload);
            }
            theirs.set_nonblocking(true).unwrap();
            let mut got = Vec::new();
            let end = Instant::now() + CONNECTION_STALL_MAX;
            while got.len() < expected.len() {
                assert!(Instant::now() < end, "{} of {} bytes came", got.len(), expected.len());
                output.flush(&ours).unwrap();
                let mut piece = vec![0; 50_000];
                if let Ok(bytes) = theirs.read(&mut piece) {
                    got.extend_from_slice(&piece[..bytes]);
                }
            }
            assert!(got == expected, "the bytes differ, {large}");
            output.flush(&ours).unwrap();
            assert!(!output.is_blocked());
            let mut shared = Vec::new();
            output.give_back(&mut shared);
            assert_eq!(output.bytes.capacity(), 0);
        }
    }

    #[test]
    fn an_answer_in_memory_that_lasts_is_sent_from_there_and_what_comes_behind_it_leaves_behind_it() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut memory = AlignedVec::new();
        memory.extend_from_slice(&(0..5_000_000_u32).map(|at| u8::try_from(at % 251).unwrap()).collect::<Vec<_>>());
        let place = memory.as_ptr();
        let (start, end) = (17, 4_999_000);
        let expected = [&[9; 28][..], &memory[start..end], &[7; 5]].concat();
        let mut output = Output::default();
        output.answer(&ours, &[9; 28], &memory[start..end], Some(start)).unwrap();
        let unsent = output.owed().expect("no socket takes so much at once");
        assert!(unsent.start > start && unsent.end == end);
        output.frame(|bytes| bytes.extend([7; 5]));
        output.keep(memory, unsent);
        assert!(output.is_blocked() && output.owed().is_none());
        theirs.set_nonblocking(true).unwrap();
        let mut got = Vec::new();
        let patience_end = Instant::now() + CONNECTION_STALL_MAX;
        while got.len() < expected.len() {
            assert!(Instant::now() < patience_end, "{} of {} bytes came", got.len(), expected.len());
            output.flush(&ours).unwrap();
            let mut piece = vec![0; 50_000];
            if let Ok(bytes) = theirs.read(&mut piece) {
                got.extend_from_slice(&piece[..bytes]);
            }
        }
        assert!(got == expected, "the bytes differ");
        assert_eq!(output.take_spent().as_ptr(), place, "it is the memory itself that comes back");
        output.flush(&ours).unwrap();
        assert!(!output.is_blocked() && output.take_spent().is_empty());
    }

    #[test]
    fn a_reader_that_has_gone_is_noticed_without_a_signal() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        let mut output = Output::default();
        assert_eq!(output.answer(&ours, &[1; 28], &vec![0; REPLY_BYTES_COPIED + 1], None), Err(Gone));
        output.frame(|bytes| bytes.push(1));
        assert_eq!(output.flush(&ours), Err(Gone));
    }
}
