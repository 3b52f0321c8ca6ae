//! One connection of the io_uring driver: at most one receive and one send with the kernel.
//!
//! A receive is either a *stream* receive, whose buffer the kernel picks, or fills the caller's buffer. When the caller
//! wants its buffer filled while a stream receive is with the kernel, that one is cancelled; bytes that it brings
//! nevertheless are copied to where they belong, so that the order of the stream is kept.

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;

use ::io_uring::{opcode, squeue, types};
use praas_shm::io_buffer::IoBuffer;
use rustix::io::Errno;

use super::buffer_ring::BUFFER_GROUP;
use super::ring::{Finished, Operation};
use crate::driver::limits::SEND_PARTS_MAX;
use crate::driver::outgoing::Sending;
use crate::driver::transfer::{Ending, Filling};
use crate::driver::{Completion, End, ReceivedBytes};

/// The kernel's `IORING_RECVSEND_POLL_FIRST`: waits for bytes before it tries.
const POLL_FIRST: u16 = 1;

/// What the kernel reads when it starts a gathered send: on the heap, and a raw pointer, so that it may move meanwhile.
pub(super) struct MessageHead(NonNull<HeadParts>);

struct HeadParts {
    header: libc::msghdr,
    vectors: [libc::iovec; SEND_PARTS_MAX],
}

/// The receive that is with the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Receiving {
    Nothing,
    Stream,
    Fill,
}

/// What became of a send when the kernel has finished with it.
pub(super) enum SendState {
    /// It is over; the head is free.
    Ended(Option<MessageHead>),
    /// There is more to send.
    Continues,
}

pub(super) struct Connection<B: IoBuffer> {
    socket: OwnedFd,
    pub(super) token: u64,
    /// Whether the caller wants whatever comes.
    pub(super) streaming: bool,
    receiving: Receiving,
    receive_cancelled: bool,
    /// Whether the last receive left bytes behind.
    more_bytes: bool,
    pub(super) filling: Option<Filling<B>>,
    /// Bytes beyond a filled buffer, to be handed over first.
    left_over: Option<ReceivedBytes>,
    pub(super) sending: Option<Sending<B>>,
    send_in_flight: bool,
    send_cancelled: bool,
    head: Option<MessageHead>,
    pub(super) ending: Option<Ending>,
}

impl<B: IoBuffer> Connection<B> {
    pub(super) fn new(socket: OwnedFd, token: u64) -> Self {
        Self {
            socket,
            token,
            streaming: false,
            receiving: Receiving::Nothing,
            receive_cancelled: false,
            more_bytes: true,
            filling: None,
            left_over: None,
            sending: None,
            send_in_flight: false,
            send_cancelled: false,
            head: None,
            ending: None,
        }
    }

    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    pub(super) fn into_socket(self) -> OwnedFd {
        self.socket
    }

    /// Whether nothing of it is with the kernel.
    pub(super) fn is_quiet(&self) -> bool {
        self.receiving == Receiving::Nothing && !self.send_in_flight
    }

    /// Whether an operation is with the kernel that should not be.
    pub(super) fn is_being_cancelled(&self, operation: Operation) -> bool {
        match operation {
            Operation::Receive => self.receiving != Receiving::Nothing && self.receive_cancelled,
            Operation::Send => self.send_in_flight && self.send_cancelled,
            Operation::Listen | Operation::Watch | Operation::Waker => false,
        }
    }

    /// Wants no more; true if a receive has to be cancelled.
    pub(super) fn pause(&mut self) -> bool {
        self.streaming = false;
        self.receiving == Receiving::Stream && !std::mem::replace(&mut self.receive_cancelled, true)
    }

    /// Wants a buffer filled; true if a receive has to be cancelled first.
    pub(super) fn fill(&mut self, filling: Filling<B>) -> bool {
        self.filling = Some(filling);
        self.receiving == Receiving::Stream && !std::mem::replace(&mut self.receive_cancelled, true)
    }

    /// Wants no buffer filled; true if a receive has to be cancelled.
    pub(super) fn cancel_filling(&mut self, done: &mut VecDeque<Completion<B>>) -> bool {
        let Some(mut filling) = self.filling.take() else { return false };
        if self.receiving == Receiving::Fill {
            filling.cancelled = true;
            self.filling = Some(filling);
            return !std::mem::replace(&mut self.receive_cancelled, true);
        }
        // Not with the kernel: the buffer is free at once.
        done.push_back(filling.complete(self.token, End::Cancelled));
        false
    }

    /// Wants the message dropped; true if a send has to be cancelled.
    pub(super) fn cancel_send(&mut self) -> bool {
        self.send_in_flight && !std::mem::replace(&mut self.send_cancelled, true)
    }

    /// Wants nothing any more; the operations that have to be cancelled.
    pub(super) fn cancel_all(&mut self, done: &mut VecDeque<Completion<B>>) -> [Option<Operation>; 2] {
        self.left_over = None;
        let receive = self.pause() | self.cancel_filling(done);
        [receive.then_some(Operation::Receive), self.cancel_send().then_some(Operation::Send)]
    }

    /// The receive that is due, if one is.
    pub(super) fn next_receive(&mut self) -> Option<squeue::Entry> {
        if self.receiving != Receiving::Nothing {
            return None;
        }
        let socket = types::Fd(self.socket.as_raw_fd());
        if let Some(filling) = &self.filling {
            let (place, bytes) = filling.place();
            self.receiving = Receiving::Fill;
            let length = u32::try_from(bytes).unwrap_or(u32::MAX);
            // The kernel goes on until all is there, and says how far it came if it does not get to the end.
            return Some(opcode::Recv::new(socket, place, length).flags(libc::MSG_WAITALL).build());
        }
        if !self.streaming {
            return None;
        }
        self.receiving = Receiving::Stream;
        let first = if self.more_bytes { 0 } else { POLL_FIRST };
        let entry = opcode::Recv::new(socket, std::ptr::null_mut(), 0).buf_group(BUFFER_GROUP).ioprio(first).build();
        Some(entry.flags(squeue::Flags::BUFFER_SELECT))
    }

    /// The kernel has finished a receive. True if there was no buffer for it.
    pub(super) fn finish_receive(
        &mut self,
        finished: Finished,
        lent: Option<ReceivedBytes>,
        done: &mut VecDeque<Completion<B>>,
    ) -> bool {
        self.receive_cancelled = false;
        self.more_bytes = finished.more_bytes;
        match std::mem::replace(&mut self.receiving, Receiving::Nothing) {
            Receiving::Stream => self.finish_stream(finished.result, lent, done),
            Receiving::Fill => {
                self.finish_fill(finished.result, done);
                false
            }
            Receiving::Nothing => false,
        }
    }

    fn finish_stream(
        &mut self,
        result: Result<usize, Errno>,
        lent: Option<ReceivedBytes>,
        done: &mut VecDeque<Completion<B>>,
    ) -> bool {
        match (result, lent) {
            (Ok(1..), Some(bytes)) => self.hand_over(bytes, done),
            (Ok(_), _) => self.end_receiving(End::EndOfStream, done),
            (Err(Errno::NOBUFS), _) => return self.ending.is_none(),
            (Err(Errno::CANCELED | Errno::INTR | Errno::AGAIN), _) => {}
            (Err(errno), _) => self.end_receiving(End::Failed(errno), done),
        }
        false
    }

    fn hand_over(&mut self, mut bytes: ReceivedBytes, done: &mut VecDeque<Completion<B>>) {
        let token = self.token;
        if let Some(mut filling) = self.filling.take() {
            let stored = filling.store(&bytes);
            bytes.skip(stored);
            if filling.is_full() {
                done.push_back(filling.complete(token, End::Done));
            } else {
                self.filling = Some(filling);
            }
            if !bytes.is_empty() {
                self.left_over = Some(bytes);
            }
            return;
        }
        // A connection that is closing has no use for them.
        if self.ending.is_none() {
            done.push_back(Completion::Received { token, bytes });
        }
    }

    /// Hands over what was beyond a filled buffer, a turn after that; true if there was something.
    pub(super) fn hand_over_left(&mut self, done: &mut VecDeque<Completion<B>>) -> bool {
        let Some(bytes) = self.left_over.take() else { return false };
        self.hand_over(bytes, done);
        true
    }

    fn end_receiving(&mut self, end: End, done: &mut VecDeque<Completion<B>>) {
        let (token, streaming) = (self.token, std::mem::replace(&mut self.streaming, false));
        if let Some(filling) = self.filling.take() {
            done.push_back(filling.complete(token, end));
        } else if streaming && self.ending.is_none() {
            done.push_back(Completion::ReceiveEnded { token, end });
        }
    }

    fn finish_fill(&mut self, result: Result<usize, Errno>, done: &mut VecDeque<Completion<B>>) {
        let Some(mut filling) = self.filling.take() else { return };
        filling.advance(result.unwrap_or(0));
        let end = match result {
            Ok(0) => End::EndOfStream,
            Ok(_) if filling.is_full() => End::Done,
            _ if filling.cancelled => End::Cancelled,
            // Less than was asked for, or interrupted: the next one says why, if it is for good.
            Ok(_) | Err(Errno::CANCELED | Errno::INTR | Errno::AGAIN) => return self.filling = Some(filling),
            Err(errno) => End::Failed(errno),
        };
        if matches!(end, End::EndOfStream | End::Failed(_)) {
            self.streaming = false;
        }
        done.push_back(filling.complete(self.token, end));
    }

    /// The send that is due, if one is.
    pub(super) fn next_send(&mut self, spare_heads: &mut Vec<MessageHead>) -> Option<squeue::Entry> {
        let sending = self.sending.as_ref()?;
        let socket = types::Fd(self.socket.as_raw_fd());
        // The kernel goes on until all has gone, and says how far it came if it does not get to the end.
        let flags = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
        self.send_in_flight = true;
        let mut one = [NOTHING; 2];
        if sending.describe(&mut one) == 1 {
            let length = u32::try_from(one[0].iov_len).unwrap_or(u32::MAX);
            return Some(opcode::Send::new(socket, one[0].iov_base.cast(), length).flags(flags).build());
        }
        let head = self.head.get_or_insert_with(|| spare_heads.pop().unwrap_or_else(MessageHead::new));
        Some(opcode::SendMsg::new(socket, head.describe(sending)).flags(flags.cast_unsigned()).build())
    }

    /// The kernel has finished a send.
    pub(super) fn finish_send(
        &mut self,
        result: Result<usize, Errno>,
        done: &mut VecDeque<Completion<B>>,
    ) -> SendState {
        self.send_in_flight = false;
        let Some(mut sending) = self.sending.take() else { return SendState::Ended(None) };
        sending.advance(result.unwrap_or(0));
        let cancelled = std::mem::replace(&mut self.send_cancelled, false);
        let end = if sending.is_done() {
            End::Done
        } else if cancelled {
            End::Cancelled
        } else {
            match result {
                Ok(_) | Err(Errno::INTR | Errno::AGAIN | Errno::CANCELED) => {
                    self.sending = Some(sending);
                    return SendState::Continues;
                }
                Err(errno) => End::Failed(errno),
            }
        };
        let (token, bytes) = (self.token, sending.sent);
        done.push_back(Completion::Sent { token, message: sending.message, bytes, end });
        SendState::Ended(self.head.take())
    }
}

const NOTHING: libc::iovec = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };

impl MessageHead {
    fn new() -> Self {
        // SAFETY: all zeroes is a valid `msghdr`, of no name, no parts and no control data.
        let header = unsafe { std::mem::zeroed() };
        Self(NonNull::from(Box::leak(Box::new(HeadParts { header, vectors: [NOTHING; SEND_PARTS_MAX] }))))
    }

    /// Describes what is to be sent next.
    fn describe<B: IoBuffer>(&mut self, sending: &Sending<B>) -> *const libc::msghdr {
        // SAFETY: leaked in `new` and this value's alone; the kernel has no send of this connection now, as the caller has
        // exclusive access and starts the next one only when the last has completed (`next_send`).
        let parts = unsafe { self.0.as_mut() };
        parts.header.msg_iovlen = sending.describe(&mut parts.vectors);
        let place = self.0.as_ptr();
        // SAFETY: as above. The address of the vectors is written and that of the header handed out without a reference
        // between, so that both stay good until the next exclusive access, which is after the completion of the send.
        unsafe {
            (*place).header.msg_iov = (&raw mut (*place).vectors).cast();
            &raw const (*place).header
        }
    }
}

impl Drop for MessageHead {
    fn drop(&mut self) {
        // SAFETY: leaked in `new` and this value's alone. A connection keeps it until the completion of its send, and the
        // driver keeps the connection until then; where it cannot, it leaks its table.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}
