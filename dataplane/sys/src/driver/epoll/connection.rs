//! One connection of the epoll driver.
//!
//! `readable` and `writable` say whether a call may find something since the last edge: they fall when a call finds
//! nothing, or takes less than it was ready to take, and rise with the next edge. A receive that came back short has
//! emptied the socket, so the call that would only learn that is spared; unless the peer has said its last, for which there
//! is no further edge.

use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;

use mio::event::Event;
use praas_shm::io_buffer::IoBuffer;
use rustix::io::Errno;

use crate::driver::limits::{BYTES_PER_TURN, SEND_PARTS_MAX};
use crate::driver::outgoing::Sending;
use crate::driver::pool::ReceivePool;
use crate::driver::transfer::Filling;
use crate::driver::{Completion, End, Outgoing};

/// Parts of a send for which describing them is done on the stack without clearing a page of it.
const FEW_PARTS: usize = 2;

/// What a piece of work has led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Nothing more to do until the next edge or operation.
    Rests,
    /// More can be done at once: it is the others' turn.
    HasMore,
    /// All receive buffers are lent out.
    Starved,
}

pub(super) struct Connection<B: IoBuffer> {
    pub(super) socket: OwnedFd,
    /// Whether the caller wants whatever comes.
    pub(super) streaming: bool,
    readable: bool,
    writable: bool,
    /// Whether the peer has said its last, or the connection is broken: a receive will say so.
    finished: bool,
    pub(super) filling: Option<Filling<B>>,
    pub(super) sending: Option<Sending<B>>,
}

impl<B: IoBuffer> Connection<B> {
    pub(super) fn new(socket: OwnedFd) -> Self {
        // Bytes that are there already are reported as the first edge; there is room for sending, until it is found that
        // there is not.
        let (readable, writable) = (false, true);
        Self { socket, streaming: false, readable, writable, finished: false, filling: None, sending: None }
    }

    fn wants_receive(&self) -> bool {
        self.streaming || self.filling.is_some()
    }

    /// Takes note of an edge; true if there is work to do.
    pub(super) fn note(&mut self, event: &Event) -> bool {
        if event.is_read_closed() || event.is_error() {
            self.finished = true;
            self.readable = true;
        }
        self.readable |= event.is_readable();
        self.writable |= event.is_writable() || event.is_error();
        self.readable && self.wants_receive() || self.writable && self.sending.is_some()
    }

    /// Wants whatever comes; true if there is something at once.
    pub(super) fn start_streaming(&mut self) -> bool {
        self.streaming = true;
        self.readable
    }

    /// Wants a buffer filled; true if there is something at once.
    pub(super) fn fill(&mut self, filling: Filling<B>) -> bool {
        self.filling = Some(filling);
        self.readable
    }

    /// Ends all operations.
    pub(super) fn give_up(&mut self, token: u64, done: &mut Vec<Completion<B>>) {
        if let Some(filling) = self.filling.take() {
            done.push(filling.complete(token, End::Cancelled));
        }
        self.cancel_send(token, done);
    }

    pub(super) fn cancel_send(&mut self, token: u64, done: &mut Vec<Completion<B>>) {
        if let Some(sending) = self.sending.take() {
            let bytes = sending.sent;
            done.push(Completion::Sent { token, message: sending.message, bytes, end: End::Cancelled });
        }
    }

    /// Starts to send a message; sends all of it if there is room.
    pub(super) fn start_sending(
        &mut self,
        token: u64,
        message: Outgoing<B>,
        done: &mut Vec<Completion<B>>,
    ) -> Progress {
        self.sending = Some(Sending::new(message));
        self.send(token, done)
    }

    /// One piece of work in each direction.
    pub(super) fn progress(&mut self, token: u64, pool: &Rc<ReceivePool>, done: &mut Vec<Completion<B>>) -> Progress {
        let sent = self.send(token, done);
        let received =
            if self.filling.is_some() { self.receive_fill(token, done) } else { self.receive(token, pool, done) };
        if received == Progress::Rests { sent } else { received }
    }

    fn receive(&mut self, token: u64, pool: &Rc<ReceivePool>, done: &mut Vec<Completion<B>>) -> Progress {
        if !self.readable || !self.streaming {
            return Progress::Rests;
        }
        let Some(index) = pool.take() else { return Progress::Starved };
        let received = self.call_receive(pool.buffer(index).as_ptr(), pool.buffer_bytes());
        let bytes = *received.as_ref().unwrap_or(&0);
        // SAFETY: taken above, and the call that wrote it has returned.
        let lent = unsafe { pool.lend(index, bytes) };
        match received {
            Ok(0) => self.end_receiving(token, End::EndOfStream, done),
            Ok(_) => {
                done.push(Completion::Received { token, bytes: lent });
                if self.readable {
                    return Progress::HasMore;
                }
            }
            Err(Errno::AGAIN) => {}
            Err(Errno::INTR) => return Progress::HasMore,
            Err(errno) => self.end_receiving(token, End::Failed(errno), done),
        }
        Progress::Rests
    }

    fn receive_fill(&mut self, token: u64, done: &mut Vec<Completion<B>>) -> Progress {
        let mut received_bytes = 0;
        while self.readable && received_bytes < BYTES_PER_TURN {
            let Some(filling) = &self.filling else { return Progress::Rests };
            let (place, bytes) = filling.place();
            match self.call_receive(place, bytes) {
                Ok(0) => self.end_receiving(token, End::EndOfStream, done),
                Ok(bytes) => {
                    received_bytes += bytes;
                    self.advance_fill(bytes, token, done);
                }
                Err(Errno::AGAIN) => return Progress::Rests,
                Err(Errno::INTR) => return Progress::HasMore,
                Err(errno) => self.end_receiving(token, End::Failed(errno), done),
            }
            if self.filling.is_none() {
                // What follows is for the caller to decide, and then for the next turn.
                return if self.readable && self.streaming { Progress::HasMore } else { Progress::Rests };
            }
        }
        if self.readable { Progress::HasMore } else { Progress::Rests }
    }

    fn advance_fill(&mut self, bytes: usize, token: u64, done: &mut Vec<Completion<B>>) {
        let Some(filling) = &mut self.filling else { return };
        filling.advance(bytes);
        if filling.is_full()
            && let Some(filling) = self.filling.take()
        {
            done.push(filling.complete(token, End::Done));
        }
    }

    /// Receives once. Zero bytes and errors leave `readable` standing, but for the error that says there is nothing.
    fn call_receive(&mut self, place: *mut u8, bytes: usize) -> Result<usize, Errno> {
        // SAFETY: the place is a receive buffer in the driver's hands, or in a buffer that its operation owns, and has that
        // many writable bytes.
        let received = unsafe { libc::recv(self.socket.as_raw_fd(), place.cast(), bytes, libc::MSG_DONTWAIT) };
        match usize::try_from(received) {
            Ok(received) => {
                self.readable = received == bytes || self.finished;
                Ok(received)
            }
            Err(_) => {
                let errno = last_errno();
                self.readable = errno != Errno::AGAIN;
                Err(errno)
            }
        }
    }

    fn end_receiving(&mut self, token: u64, end: End, done: &mut Vec<Completion<B>>) {
        // If the caller tries again, it is told again.
        self.readable = true;
        self.streaming = false;
        done.push(match self.filling.take() {
            Some(filling) => filling.complete(token, end),
            None => Completion::ReceiveEnded { token, end },
        });
    }

    fn send(&mut self, token: u64, done: &mut Vec<Completion<B>>) -> Progress {
        let mut sent_bytes = 0;
        while let Some(sending) = &mut self.sending {
            let end = if sending.is_done() {
                End::Done
            } else if !self.writable {
                return Progress::Rests;
            } else if sent_bytes >= BYTES_PER_TURN {
                return Progress::HasMore;
            } else {
                match call_send(&self.socket, sending) {
                    Ok(bytes) => {
                        sending.advance(bytes);
                        sent_bytes += bytes;
                        continue;
                    }
                    Err(Errno::INTR) => continue,
                    Err(Errno::AGAIN) => {
                        self.writable = false;
                        continue;
                    }
                    Err(errno) => End::Failed(errno),
                }
            };
            if let Some(Sending { message, sent, .. }) = self.sending.take() {
                done.push(Completion::Sent { token, message, bytes: sent, end });
            }
        }
        Progress::Rests
    }
}

/// Sends what goes next, as far as the kernel takes it.
fn call_send<B: IoBuffer>(socket: &OwnedFd, sending: &Sending<B>) -> Result<usize, Errno> {
    const NOTHING: libc::iovec = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
    let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
    let mut few = [NOTHING; FEW_PARTS];
    let sent = if sending.describe(&mut few) == 1 {
        // SAFETY: the vector names bytes of the message, which is borrowed.
        unsafe { libc::send(socket.as_raw_fd(), few[0].iov_base, few[0].iov_len, flags) }
    } else {
        let mut vectors = [NOTHING; SEND_PARTS_MAX];
        let count = sending.describe(&mut vectors);
        // SAFETY: all zeroes is a valid `msghdr`, of no name, no parts and no control data.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        header.msg_iov = vectors.as_mut_ptr();
        header.msg_iovlen = count;
        // SAFETY: the vectors name bytes of the message, which is borrowed.
        unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const header, flags) }
    };
    usize::try_from(sent).map_err(|_| last_errno())
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}
