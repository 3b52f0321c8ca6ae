//! What the threads of one connection share under its lock: the rules, the table of calls, the credit, and who does what.
//!
//! Invariants
//! 1. Whoever reads the socket has taken `reader` out, whoever writes has set `sender.busy`; each is one thread at a time.
//!    Neither reads, writes nor wakes while it holds the lock.
//! 2. A frame is shown to the session in the order in which it goes to the socket.
//! 3. When `end` is set, everything is settled, nothing is added, and nobody waits any more.

use std::task::Waker;
use std::time::Instant;

use praas_protocol::wire::{Goaway, GoawayReason, Header, Response, RuleError, Session, Side, State as WireState};
use praas_protocol::wire::{Verdict, WireError};

use crate::limits::FUTURES_WAITING_MAX;
use crate::remote::calls::{Calls, SLOTS_MAX, Settlement, Ticket, Use, Waiter};
use crate::remote::outbox::Outbox;
use crate::remote::questions::QuestionAnswer;
use crate::remote::reader::Reader;
use crate::remote::reply_bytes::ReplyBytes;
use crate::remote::room::Room;

/// Calls in flight through one handle.
#[derive(Debug, Clone, Copy)]
pub(super) struct HandleSeat {
    /// As the server named it; 0 on a dedicated connection.
    pub(super) handle: u32,
    in_flight: u32,
    abandoned: u32,
    limit: u32,
    given_back: bool,
}

/// The right to write.
#[derive(Debug, Default)]
pub(super) struct Sender {
    pub(super) busy: bool,
    /// Threads that wait for it.
    pub(super) blocked: usize,
    /// Futures that wait for it.
    pub(super) wakers: Vec<Waker>,
    pub(super) outbox: Outbox,
    /// A frame was left unfinished for good: nothing can follow it.
    pub(super) cut: bool,
}

impl Sender {
    /// Has `waker` woken when the right to write is free. Past the bound its owner is woken by its place in the queue.
    pub(super) fn keep(&mut self, waker: &Waker) {
        if self.wakers.len() < FUTURES_WAITING_MAX && !self.wakers.last().is_some_and(|last| last.will_wake(waker)) {
            self.wakers.push(waker.clone());
        }
    }
}

/// The server's farewell.
#[derive(Debug, Clone, Copy)]
pub(super) struct Farewell {
    pub(super) reason: GoawayReason,
    pub(super) may_reconnect: bool,
}

/// Why a call cannot be added now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoRoom {
    /// The connection takes no calls any more.
    Over,
    /// A limit is reached.
    Full(Full),
}

/// A limit that is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full {
    /// What is full.
    pub(crate) what: &'static str,
    /// How much of it is in use.
    pub(crate) used: u64,
    /// How much there is.
    pub(crate) limit: u64,
    /// Whether some of it is used by calls that somebody waits for, so that waiting for room has a point.
    pub(crate) comes_back: bool,
    /// How often room was given back until then: a change says that trying again is worth while.
    pub(crate) seen: u64,
}

/// The thread that reads for futures.
#[derive(Debug, Default)]
pub(super) struct ReaderThread {
    pub(super) running: bool,
    /// It waits to be told to look.
    pub(super) sleeps: bool,
}

pub(super) struct State {
    pub(super) session: Session,
    pub(super) calls: Calls,
    pub(super) room: Room,
    pub(super) sender: Sender,
    pub(super) reader: Option<Box<Reader>>,
    pub(super) thread: ReaderThread,
    pub(super) farewell: Option<Farewell>,
    /// Why it ended.
    pub(super) end: Option<String>,
    /// When a call was last sent or a read was last tried: a quiet connection is looked at before it is trusted.
    pub(super) last_use: Instant,
    /// How often room was given back.
    pub(super) room_given: u64,
    handles: Vec<HandleSeat>,
    abandoned: u32,
}

impl State {
    pub(super) fn new(session: Session, reader: Box<Reader>) -> Self {
        Self {
            session,
            calls: Calls::default(),
            room: Room::default(),
            sender: Sender::default(),
            reader: Some(reader),
            thread: ReaderThread::default(),
            farewell: None,
            end: None,
            last_use: Instant::now(),
            room_given: 0,
            handles: Vec::new(),
            abandoned: 0,
        }
    }

    /// Whether calls and questions may still be sent.
    pub(super) fn takes_calls(&self) -> bool {
        self.end.is_none() && !self.sender.cut && matches!(self.session.state(), WireState::Open | WireState::Dedicated)
    }

    /// A place for the calls through `handle`.
    pub(super) fn add_handle(&mut self, handle: u32, limit: u32) -> usize {
        let seat = HandleSeat { handle, in_flight: 0, abandoned: 0, limit, given_back: false };
        let free = self.handles.iter().position(|seat| seat.given_back && seat.in_flight == 0);
        match free {
            Some(index) => {
                self.handles[index] = seat;
                index
            }
            None => {
                self.handles.push(seat);
                self.handles.len() - 1
            }
        }
    }

    /// Gives a handle back to the server.
    pub(super) fn close_handle(&mut self, seat: usize) {
        let brokered = self.takes_calls() && self.session.state() == WireState::Open;
        let Some(seat) = self.handles.get_mut(seat).filter(|seat| !seat.given_back) else { return };
        seat.given_back = true;
        if brokered {
            self.sender.outbox.close(seat.handle);
        }
    }

    /// Adds a call and takes its credit; the header's id is the ticket's.
    pub(super) fn add_call(&mut self, seat: usize, payload_bytes: u32) -> Result<(Ticket, u32), NoRoom> {
        if !self.takes_calls() {
            return Err(NoRoom::Over);
        }
        let Some(&HandleSeat { handle, in_flight, abandoned, limit, .. }) = self.handles.get(seat) else {
            return Err(NoRoom::Over);
        };
        if in_flight >= limit {
            return Err(NoRoom::Full(Full {
                what: "the table of calls to the process",
                used: u64::from(in_flight),
                limit: u64::from(limit),
                comes_back: in_flight > abandoned,
                seen: self.room_given,
            }));
        }
        let window = self.session.window();
        if !window.fits(payload_bytes) || self.calls.in_use() >= SLOTS_MAX {
            return Err(self.window_is_full());
        }
        let usage = Use::Call { seat, payload_bytes };
        let Some(ticket) = self.calls.add(usage) else { return Err(self.window_is_full()) };
        let body_bytes = REQUEST_BODY_HEAD_BYTES.saturating_add(payload_bytes);
        let kind = Some(praas_protocol::wire::Kind::Request);
        let header = Header { body_bytes, kind, flags: 0, request_id: ticket.id };
        if self.session.show(Side::Client, &header).is_err() {
            // Excluded by what was looked at above; the call is refused all the same.
            self.calls.free(ticket.id);
            return Err(NoRoom::Over);
        }
        self.handles[seat].in_flight += 1;
        Ok((ticket, handle))
    }

    #[cold]
    fn window_is_full(&self) -> NoRoom {
        let window = self.session.window();
        let (comes_back, seen) = (window.calls() > self.abandoned, self.room_given);
        let limits = window.limits();
        NoRoom::Full(if window.calls() >= limits.calls {
            let (used, limit) = (u64::from(window.calls()), u64::from(limits.calls));
            Full { what: "the connection's table of calls", used, limit, comes_back, seen }
        } else {
            let (used, limit) = (window.bytes(), limits.bytes);
            Full { what: "the connection's window of payload bytes", used, limit, comes_back, seen }
        })
    }

    /// Takes back a call of which no byte was sent.
    pub(super) fn withdraw(&mut self, ticket: &Ticket) {
        if let Some((Use::Call { seat, payload_bytes }, wanted)) = self.calls.unanswered(ticket.id) {
            // The credit was taken with the ticket.
            let _ = self.give_credit(seat, payload_bytes, wanted);
        }
        self.calls.free(ticket.id);
    }

    fn give_credit(&mut self, seat: usize, payload_bytes: u32, wanted: bool) -> Result<(), RuleError> {
        self.session.answered(payload_bytes)?;
        self.room_given += 1;
        let unwanted = u32::from(!wanted);
        self.abandoned -= unwanted;
        if let Some(seat) = self.handles.get_mut(seat) {
            seat.in_flight -= 1;
            seat.abandoned -= unwanted;
        }
        Ok(())
    }

    /// Nobody waits for this call or question any more. True if the server should hear of it.
    pub(super) fn abandon(&mut self, ticket: &Ticket) -> bool {
        let Some(Use::Call { seat, .. }) = self.calls.abandon(ticket) else { return false };
        self.abandoned += 1;
        if let Some(seat) = self.handles.get_mut(seat) {
            seat.abandoned += 1;
        }
        !self.sender.cut && self.end.is_none()
    }

    /// The head of a RESPONSE came. Whether anybody wants its payload.
    pub(super) fn response_head(&mut self, header: &Header) -> Result<bool, Violation> {
        let Verdict::Accept = self.session.show(Side::Server, header)? else { return Ok(false) };
        match self.calls.unanswered(header.request_id) {
            Some((Use::Call { .. }, wanted)) => Ok(wanted),
            _ => Err(Violation::AnswersNothing { kind: "RESPONSE", request_id: header.request_id }),
        }
    }

    /// A whole RESPONSE came.
    pub(super) fn response(
        &mut self,
        response: Response,
        bytes: ReplyBytes,
        wakes: &mut Vec<Waiter>,
    ) -> Result<(), Violation> {
        let id = response.request_id;
        let Some((Use::Call { seat, payload_bytes }, wanted)) = self.calls.unanswered(id) else {
            return Err(Violation::AnswersNothing { kind: "RESPONSE", request_id: id });
        };
        self.give_credit(seat, payload_bytes, wanted)?;
        wakes.extend(self.calls.settle(id, Settlement::Response(response, bytes)));
        if !self.room.is_empty() {
            wakes.extend(self.room.next());
        }
        Ok(())
    }

    /// The answer to a question came.
    pub(super) fn answer(&mut self, id: u64, answer: QuestionAnswer, wakes: &mut Vec<Waiter>) -> Result<(), Violation> {
        let Some((Use::Question, wanted)) = self.calls.unanswered(id) else {
            return Err(Violation::AnswersNothing { kind: "an answer", request_id: id });
        };
        let handle = match &answer {
            QuestionAnswer::Opened(opened) => Some(opened.handle),
            QuestionAnswer::SessionOpened(opened) => Some(opened.handle),
            _ => None,
        };
        if let (Some(handle), false) = (handle, wanted) {
            // It came after its caller's time was up: the server would keep it as long as the connection.
            self.sender.outbox.close(handle);
        }
        wakes.extend(self.calls.settle(id, Settlement::Answer(Box::new(answer))));
        Ok(())
    }

    /// A GOAWAY came: what it does not cover was not taken, and can be sent elsewhere.
    pub(super) fn goaway(&mut self, goaway: &Goaway<'_>, wakes: &mut Vec<Waiter>) -> Result<(), Violation> {
        self.session.show_goaway(goaway.last_request_id)?;
        self.farewell = Some(Farewell { reason: goaway.reason, may_reconnect: goaway.may_reconnect });
        self.calls.settle_after(goaway.last_request_id, |_| Settlement::NotTaken, wakes);
        wakes.extend(self.room.take_all());
        Ok(())
    }

    /// The connection is over: everything is settled, everybody is to be woken.
    pub(super) fn finish(&mut self, reason: String, wakes: &mut Vec<Waiter>) {
        if self.end.is_some() {
            return;
        }
        self.end = Some(reason);
        let end_of = |fully_sent| if fully_sent { Settlement::Lost } else { Settlement::NeverSent };
        self.calls.settle_after(0, end_of, wakes);
        wakes.extend(self.room.take_all());
        self.sender.outbox.clear();
    }

    /// Futures that wait for this connection.
    pub(super) fn tasks(&self) -> usize {
        self.calls.tasks() + self.room.tasks()
    }
}

/// Bytes between the header and the payload of a REQUEST without optional fields.
const REQUEST_BODY_HEAD_BYTES: u32 = 20;

/// How a server broke the protocol.
#[derive(Debug, thiserror::Error)]
pub(super) enum Violation {
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error(transparent)]
    Rule(#[from] RuleError),
    #[error("{kind} answers the request {request_id}, which is not open")]
    AnswersNothing { kind: &'static str, request_id: u64 },
    #[error("{bytes} bytes came unasked")]
    Unasked { bytes: usize },
    #[error("a payload of {bytes} bytes finds no memory")]
    NoMemory { bytes: u32 },
}
