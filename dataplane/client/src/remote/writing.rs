//! Writing: one frame after another, each by the thread that has something to say.
//!
//! Writes never block. A thread that finds the socket full waits until it takes more, and reads meanwhile if nobody else
//! does: a server that is not read stops reading, and both sides would wait for each other. A frame that its sender cannot
//! finish goes on in the outbox.

use std::io::IoSlice;
use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use praas_protocol::wire::{HEADER_BYTES, Header, REQUEST_HEAD_BYTES_MAX, Request, Side};
use praas_protocol::{FunctionId, Idempotency};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, send, sendmsg};

use crate::deadline::Deadline;
use crate::limits::{COPIED_SEND_BYTES, READ_TICK, SEND_LOOK};
use crate::remote::calls::{Ticket, Use, Waiter};
use crate::remote::link::{Core, Link};
use crate::remote::questions::Question;
use crate::remote::state::{Full, NoRoom, State};
use crate::session::lock;

/// What keeps a call from being sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SendError {
    /// A limit is reached.
    Full(Full),
    /// Somebody else writes, and this caller does not wait: its waker was kept.
    Busy,
    /// The connection takes nothing any more.
    Over,
    /// The time was up before a byte was sent.
    TimedOut,
    /// The time was up within the request, which now counts as abandoned.
    Interrupted,
}

/// How a sender waits.
pub(super) enum Patience<'a> {
    /// The thread, to this deadline.
    Blocking(&'a mut Deadline),
    /// Not at all: what the socket does not take goes to the outbox.
    Polling(&'a Waker),
}

#[derive(Clone, Copy)]
enum Written {
    All,
    /// So many bytes, then the sender's patience ended.
    Part(usize),
    /// It is settled already: nobody needs the rest.
    Unneeded(usize),
}

const SEND_FLAGS: SendFlags = SendFlags::DONTWAIT.union(SendFlags::NOSIGNAL);

impl Link {
    /// Sends a call, waiting to `deadline` where it must, but not for room. The payload has two parts, of which the first is short.
    #[inline]
    pub(crate) fn send_call(
        &self,
        seat: usize,
        function: FunctionId,
        idempotency: Option<Idempotency>,
        payload: [&[u8]; 2],
        deadline: &mut Deadline,
    ) -> Result<Ticket, SendError> {
        let request = Request::new(0, 0, function, deadline.remaining_ns()).with_idempotency(idempotency);
        self.core.send_call(seat, request, payload, Patience::Blocking(deadline))
    }

    /// Sends a call without waiting for anything; `waker` is woken if it is [`SendError::Busy`].
    pub(crate) fn post_call(
        &self,
        seat: usize,
        function: FunctionId,
        idempotency: Option<Idempotency>,
        payload: &[u8],
        deadline: &mut Deadline,
        waker: &Waker,
    ) -> Result<Ticket, SendError> {
        let request = Request::new(0, 0, function, deadline.remaining_ns()).with_idempotency(idempotency);
        self.core.send_call(seat, request, [&[], payload], Patience::Polling(waker))
    }

    /// Sends a question.
    pub(crate) fn send_question(&self, question: &Question, deadline: &mut Deadline) -> Result<Ticket, SendError> {
        self.core.look_if_quiet();
        self.core.send_question(question, deadline)
    }
}

impl Core {
    #[inline]
    fn send_call(
        &self,
        seat: usize,
        mut request: Request,
        [payload_head, payload]: [&[u8]; 2],
        mut patience: Patience<'_>,
    ) -> Result<Ticket, SendError> {
        self.look_if_quiet();
        let payload_bytes = u32::try_from(payload_head.len() + payload.len()).unwrap_or(u32::MAX);
        let mut state = self.become_sender(&mut patience)?;
        let (ticket, handle) = match state.add_call(seat, payload_bytes) {
            Ok(added) => added,
            Err(refused) => {
                self.release(state);
                return Err(match refused {
                    NoRoom::Over => SendError::Over,
                    NoRoom::Full(full) => SendError::Full(full),
                });
            }
        };
        drop(state);
        (request.request_id, request.handle) = (ticket.id, handle);
        let mut head = [0; REQUEST_HEAD_BYTES_MAX];
        let mut head = request.encode_head(payload_bytes, &mut head);
        let longer;
        if !payload_head.is_empty() {
            longer = [head, payload_head].concat();
            head = &longer;
        }
        let written = self.write_frame(ticket.id, head, payload, &mut patience);
        self.finish_call(ticket, written, head, payload, &patience)
    }

    /// Settles who does the rest of a frame, and gives the right to write back.
    #[inline]
    fn finish_call(
        &self,
        ticket: Ticket,
        written: Written,
        head: &[u8],
        payload: &[u8],
        patience: &Patience<'_>,
    ) -> Result<Ticket, SendError> {
        let mut state = lock(&self.state);
        let mut outcome = Ok(());
        match written {
            Written::All => state.calls.mark_sent(ticket.id),
            Written::Unneeded(0) => {}
            // The rest would be read as the next frame: nothing more can be sent here, and nothing more may be.
            Written::Unneeded(_) => state.sender.cut = true,
            Written::Part(0) if matches!(patience, Patience::Blocking(_)) => {
                state.withdraw(&ticket);
                outcome = Err(SendError::TimedOut);
            }
            Written::Part(sent) => {
                let (head_sent, payload_sent) = (sent.min(head.len()), sent.saturating_sub(head.len()));
                state.sender.outbox.keep_request(ticket.id, &[&head[head_sent..], &payload[payload_sent..]]);
                self.has_outbox.store(true, Ordering::Release);
                if matches!(patience, Patience::Blocking(_)) {
                    if state.abandon(&ticket) {
                        state.sender.outbox.cancel(ticket.id);
                    }
                    outcome = Err(SendError::Interrupted);
                }
            }
        }
        self.release(state);
        outcome.map(|()| ticket)
    }

    fn send_question(&self, question: &Question, deadline: &mut Deadline) -> Result<Ticket, SendError> {
        let mut patience = Patience::Blocking(deadline);
        let mut state = self.become_sender(&mut patience)?;
        if !state.takes_calls() {
            self.release(state);
            return Err(SendError::Over);
        }
        let Some(ticket) = state.calls.add(Use::Question) else {
            self.release(state);
            return Err(questions_full());
        };
        let mut frame = Vec::new();
        let encoded = question.encode(ticket.id, &mut frame);
        let header = frame.first_chunk::<HEADER_BYTES>().and_then(|bytes| Header::parse(bytes).ok());
        let shown = match header {
            Some(header) if encoded => state.session.show(Side::Client, &header).is_ok(),
            _ => false,
        };
        if !shown {
            state.calls.free(ticket.id);
            self.release(state);
            return Err(questions_full());
        }
        drop(state);
        let written = self.write_frame(ticket.id, &frame, &[], &mut patience);
        let mut state = lock(&self.state);
        match written {
            Written::All => state.calls.mark_sent(ticket.id),
            Written::Unneeded(_) => {}
            // A question is small: its rest goes on by itself, and its asker waits as for any other.
            Written::Part(sent) => {
                state.sender.outbox.keep_request(ticket.id, &[&frame[sent..]]);
                self.has_outbox.store(true, Ordering::Release);
            }
        }
        self.release(state);
        Ok(ticket)
    }

    /// Gets the right to write, with nothing left over from others.
    #[inline]
    fn become_sender(&self, patience: &mut Patience<'_>) -> Result<MutexGuard<'_, State>, SendError> {
        let mut state = lock(&self.state);
        loop {
            if state.end.is_some() {
                return Err(SendError::Over);
            }
            if !state.sender.busy {
                state.sender.busy = true;
                if state.sender.outbox.is_empty() {
                    return Ok(state);
                }
                state = self.empty_outbox(state, patience)?;
                return Ok(state);
            }
            match patience {
                Patience::Polling(waker) => {
                    state.sender.keep(waker);
                    return Err(SendError::Busy);
                }
                Patience::Blocking(deadline) => {
                    let left = deadline.remaining();
                    if left.is_zero() {
                        return Err(SendError::TimedOut);
                    }
                    state.sender.blocked += 1;
                    state = self.sender_free.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
                    state.sender.blocked -= 1;
                }
            }
        }
    }

    /// Sends what others left, as the holder of the right to write; gives the right back when that does not end.
    #[cold]
    fn empty_outbox<'s>(
        &'s self,
        mut state: MutexGuard<'s, State>,
        patience: &mut Patience<'_>,
    ) -> Result<MutexGuard<'s, State>, SendError> {
        loop {
            if self.push_outbox(&mut state) {
                return Ok(state);
            }
            match patience {
                Patience::Polling(waker) => {
                    // Whoever empties the outbox gives the right back then, and wakes it.
                    state.sender.keep(waker);
                    state.sender.busy = false;
                    return Err(SendError::Busy);
                }
                Patience::Blocking(deadline) => {
                    drop(state);
                    let writable = self.wait_writable(deadline, None);
                    state = lock(&self.state);
                    if state.end.is_some() || !writable {
                        let over = state.end.is_some();
                        self.release(state);
                        return Err(if over { SendError::Over } else { SendError::TimedOut });
                    }
                }
            }
        }
    }

    /// Sends from the outbox what the socket takes; true when nothing is left. The lock is held: a send that does not block
    /// is short, and the outbox is seldom used.
    fn push_outbox(&self, state: &mut State) -> bool {
        while !state.sender.outbox.is_empty() {
            match send(&self.socket, state.sender.outbox.rest(), SEND_FLAGS) {
                Ok(count) => {
                    if let Some(id) = state.sender.outbox.advance(count) {
                        state.calls.mark_sent(id);
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    self.has_outbox.store(true, Ordering::Release);
                    return false;
                }
                Err(_) => {
                    // The end that this announces is found by whoever reads.
                    let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Write);
                    self.over.store(true, Ordering::Release);
                    state.sender.cut = true;
                    state.sender.outbox.clear();
                }
            }
        }
        self.has_outbox.store(false, Ordering::Release);
        true
    }

    /// Gives the right to write back, after sending what was left meanwhile as far as the socket takes it.
    #[inline]
    fn release(&self, mut state: MutexGuard<'_, State>) {
        if state.sender.cut {
            state.sender.outbox.clear();
        }
        if !state.sender.outbox.is_empty() {
            self.push_outbox(&mut state);
        }
        state.sender.busy = false;
        if state.sender.blocked > 0 {
            self.sender_free.notify_one();
        }
        if !state.sender.wakers.is_empty() && state.sender.outbox.is_empty() {
            let wakers = std::mem::take(&mut state.sender.wakers);
            drop(state);
            wakers.into_iter().for_each(Waker::wake);
        }
    }

    /// Sends what is in the outbox now if the socket takes it; otherwise the next who writes or reads does.
    pub(super) fn flush_soon(&self) {
        let mut state = lock(&self.state);
        if state.sender.busy || state.sender.outbox.is_empty() {
            return;
        }
        state.sender.busy = true;
        self.release(state);
    }

    #[inline]
    fn write_frame(&self, id: u64, head: &[u8], payload: &[u8], patience: &mut Patience<'_>) -> Written {
        let total = head.len() + payload.len();
        let first = if total <= REQUEST_HEAD_BYTES_MAX + COPIED_SEND_BYTES {
            // One buffer costs the kernel less than two, and a short copy costs nothing.
            let mut whole = [0; REQUEST_HEAD_BYTES_MAX + COPIED_SEND_BYTES];
            match whole.get_mut(..total) {
                Some(whole) => {
                    whole[..head.len()].copy_from_slice(head);
                    whole[head.len()..].copy_from_slice(payload);
                    send(&self.socket, whole, SEND_FLAGS)
                }
                None => self.push(head, payload, 0),
            }
        } else {
            self.push(head, payload, 0)
        };
        match first {
            Ok(count) if count == total => Written::All,
            first => self.write_on(id, head, payload, first, patience),
        }
    }

    #[cold]
    fn write_on(
        &self,
        id: u64,
        head: &[u8],
        payload: &[u8],
        mut last: Result<usize, Errno>,
        patience: &mut Patience<'_>,
    ) -> Written {
        let total = head.len() + payload.len();
        let mut sent = 0;
        loop {
            match last {
                Ok(count) => {
                    sent += count;
                    if sent == total {
                        return Written::All;
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => match patience {
                    Patience::Polling(_) => return Written::Part(sent),
                    Patience::Blocking(deadline) => {
                        if !self.wait_writable(deadline, Some(id)) {
                            return Written::Part(sent);
                        }
                        // An early answer changes nothing: the rest of the frame must follow it all the same. A farewell does.
                        let mut state = lock(&self.state);
                        if !state.takes_calls() && !state.calls.is_open(id) {
                            return Written::Unneeded(sent);
                        }
                    }
                },
                Err(errno) => {
                    // What the server said before it closed may still lie in the socket, a farewell for example.
                    self.look();
                    self.finish(std::io::Error::from(errno));
                    return Written::Unneeded(sent);
                }
            }
            last = self.push(head, payload, sent);
        }
    }

    /// One write from byte `from` of the frame on.
    fn push(&self, head: &[u8], payload: &[u8], from: usize) -> Result<usize, Errno> {
        match head.get(from..) {
            Some(rest) if !rest.is_empty() => {
                let parts = [IoSlice::new(rest), IoSlice::new(payload)];
                sendmsg(&self.socket, &parts, &mut SendAncillaryBuffer::default(), SEND_FLAGS)
            }
            _ => send(&self.socket, payload.get(from - head.len()..).unwrap_or_default(), SEND_FLAGS),
        }
    }

    /// Waits until the socket takes more, reading meanwhile if nobody else does. False when the time is up. `id`: ends the
    /// wait when it is settled.
    fn wait_writable(&self, deadline: &mut Deadline, id: Option<u64>) -> bool {
        let mut reader = None;
        let writable = loop {
            let left = deadline.remaining();
            if left.is_zero() {
                break false;
            }
            if reader.is_none() {
                reader = lock(&self.state).reader.take();
            }
            let (flags, longest) = match reader {
                Some(_) => (PollFlags::IN | PollFlags::OUT, READ_TICK),
                None => (PollFlags::OUT, SEND_LOOK),
            };
            let found = poll_socket(self, flags, left.min(longest));
            if let Some(reader) = &mut reader
                && found.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR)
            {
                let came = reader.receive(&self.socket, RecvFlags::DONTWAIT);
                let mut state = lock(&self.state);
                self.take_in(reader, came, &mut state);
                let over = !state.takes_calls() && id.is_none_or(|id| !state.calls.is_open(id));
                drop(state);
                reader.wakes.drain(..).for_each(Waiter::wake);
                if over {
                    break true;
                }
            }
            if found.intersects(PollFlags::OUT | PollFlags::HUP | PollFlags::ERR) {
                break true;
            }
            if reader.is_none() && lock(&self.state).end.is_some() {
                break true;
            }
        };
        if let Some(reader) = reader {
            self.give_reader_back(reader);
        }
        writable
    }
}

fn questions_full() -> SendError {
    let limit = u64::from(praas_protocol::limits::WIRE_QUESTIONS_IN_FLIGHT_MAX);
    SendError::Full(Full { what: "the connection's table of questions", used: limit, limit, comes_back: true, seen: 0 })
}

/// What the socket is ready for within `limit`; nothing when the time is up.
pub(super) fn poll_socket(core: &Core, flags: PollFlags, limit: Duration) -> PollFlags {
    let mut polled = [PollFd::new(&core.socket, flags)];
    let limit =
        Timespec { tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX), tv_nsec: limit.subsec_nanos().into() };
    match poll(&mut polled, Some(&limit)) {
        Ok(_) => polled[0].revents(),
        // Interrupted, or the host is out of memory: the caller looks again.
        Err(_) => PollFlags::empty(),
    }
}
