//! A client's session in the tests: the control messages and the calls on its lane, by hand.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use praas_protocol::control::{
    ClientMessage, ClientRequest, ControlError, LaneId, ServerMessage, SessionTicket, WaitMode,
};
use praas_protocol::message::{Accepted, Address, MessageId, SessionId};
use praas_protocol::session::{
    ACCEPT_FUNCTION, END_FUNCTION, HeldMessage, RECV_FUNCTION, RELEASE_FUNCTION, ReceivedHead, RecvQuestion,
    SEND_FUNCTION, SendHead,
};
use praas_protocol::{FunctionId, Key, Outcome};
use praas_shm::client_lane::{ClientLane, ClientLaneParts, Payload, Ticket, WaitEnd};

use crate::common::PATIENCE;
use crate::common::client::Client;

/// A session and the lane to it. Dropped, its connection closes.
pub(crate) struct Session {
    pub(crate) control: Client,
    pub(crate) lane: Arc<ClientLane>,
    pub(crate) id: LaneId,
    /// The client's own descriptor of the lane, for tests that misuse it.
    pub(crate) segment: OwnedFd,
    pub(crate) ticket: SessionTicket,
    pub(crate) incarnation: u64,
    pub(crate) resumed: bool,
    sequence: u64,
}

/// A message as the tests look at it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Letter {
    pub(crate) source: Address,
    pub(crate) id: MessageId,
    pub(crate) redelivered: bool,
    pub(crate) text: String,
}

/// The outcome of a call, its detail and its bytes.
pub(crate) type Answer = (Outcome, u32, Vec<u8>);

impl Session {
    /// Begins a session with the local token.
    pub(crate) fn begin(directory: &Path) -> Self {
        Self::open(Client::connect(directory), None, None).unwrap()
    }

    /// Goes on with one.
    pub(crate) fn resume(directory: &Path, ticket: SessionTicket) -> Result<Self, ControlError> {
        Self::open(Client::connect(directory), Some(ticket), None)
    }

    pub(crate) fn open(
        mut control: Client,
        resume: Option<SessionTicket>,
        payload_bytes_max: Option<u32>,
    ) -> Result<Self, ControlError> {
        let application = "hello".parse().unwrap();
        let number = control.ask(ClientRequest::SessionOpen { application, resume, payload_bytes_max });
        let (message, fds) = control.await_answer(number);
        let (ticket, incarnation, resumed, id, geometry, payload_bytes_max) = match message {
            ServerMessage::SessionOpened {
                ticket, incarnation, resumed, lane, geometry, payload_bytes_max, ..
            } => (ticket, incarnation, resumed, lane, geometry, payload_bytes_max),
            ServerMessage::Failed { error, .. } => return Err(error),
            other => panic!("{other:?}"),
        };
        let [segment, page, doorbell] = <[OwnedFd; 3]>::try_from(fds).expect("three descriptors");
        let own = segment.try_clone().unwrap();
        let lane = ClientLane::attach(ClientLaneParts {
            lane: id,
            geometry,
            trusted: false,
            payload_bytes_max,
            workers_max: 1,
            segment,
            control: page,
            doorbell,
            ring_server: Box::new(|| {}),
        });
        Ok(Self { control, lane: Arc::new(lane.unwrap()), id, segment: own, ticket, incarnation, resumed, sequence: 0 })
    }

    pub(crate) fn address(&self) -> Address {
        self.ticket.session.into()
    }

    /// The session as the functions of the tests are told of it.
    pub(crate) fn name(&self) -> String {
        let SessionId(id) = self.ticket.session;
        format!("{id:x}")
    }

    pub(crate) fn submit(&self, function: &str, payload: &[u8]) -> Ticket {
        let deadline_ns = u64::try_from(PATIENCE.as_nanos()).unwrap();
        self.lane.submit(FunctionId::of(function), Payload::Bytes(payload), deadline_ns, 0).unwrap()
    }

    pub(crate) fn answer(&self, ticket: Ticket) -> Answer {
        assert_eq!(self.lane.wait(&ticket, WaitMode::Park, PATIENCE), WaitEnd::Answered, "no answer in time");
        let answer = self.lane.take(ticket);
        let bytes = answer.payload.map_or_else(Vec::new, |payload| {
            let mut bytes = vec![0; payload.len()];
            payload.copy_to(&mut bytes);
            bytes
        });
        (Outcome::from_code(answer.outcome_code).unwrap(), answer.detail, bytes)
    }

    pub(crate) fn call(&self, function: &str, payload: &[u8]) -> Answer {
        let ticket = self.submit(function, payload);
        self.answer(ticket)
    }

    /// Begins to send the session's next message.
    pub(crate) fn start_send(&mut self, to: Address, key: &str, bytes: &[u8], within: Duration) -> Ticket {
        self.sequence += 1;
        self.submit(SEND_FUNCTION, &letter_to(to, self.sequence, key, bytes, within))
    }

    /// Sends the session's next message.
    pub(crate) fn send(&mut self, to: Address, key: &str, text: &str) {
        let ticket = self.start_send(to, key, text.as_bytes(), PATIENCE);
        let answer = self.answer(ticket);
        assert_eq!((answer.0, Accepted::from_answer(&answer.2)), (Outcome::Ok, Some(Accepted::Now)), "{answer:?}");
    }

    /// Sends a message with a number of the caller's choice.
    pub(crate) fn send_as(&self, sequence: u64, to: Address, key: &str, text: &str) -> Answer {
        self.call(SEND_FUNCTION, &letter_to(to, sequence, key, text.as_bytes(), PATIENCE))
    }

    /// Sends a message again that may have arrived before.
    pub(crate) fn send_again_as(&self, sequence: u64, to: Address, key: &str, text: &str) -> Answer {
        let head = SendHead { to, sequence, within_ns: 0, again: true, key: Key::new(key).unwrap() };
        self.call(SEND_FUNCTION, &head.encode(text.as_bytes()))
    }

    pub(crate) fn start_recv(&self, sources: &[Address], key: &str, within: Duration) -> Ticket {
        self.submit(RECV_FUNCTION, &question(sources, key, within, false))
    }

    pub(crate) fn received(&self, ticket: Ticket) -> Option<Letter> {
        letter(&self.answer(ticket))
    }

    /// Receives from anybody.
    pub(crate) fn recv(&self, key: &str, within: Duration) -> Option<Letter> {
        self.received(self.start_recv(&[], key, within))
    }

    pub(crate) fn peek(&self, key: &str) -> Option<Letter> {
        letter(&self.call(RECV_FUNCTION, &question(&[], key, Duration::ZERO, true)))
    }

    pub(crate) fn accept(&self, letter: &Letter, key: &str) -> Answer {
        self.call(ACCEPT_FUNCTION, &held(letter, key))
    }

    pub(crate) fn release(&self, letter: &Letter, key: &str) -> Answer {
        self.call(RELEASE_FUNCTION, &held(letter, key))
    }

    /// Ends the session.
    pub(crate) fn end(&self) {
        assert_eq!(self.call(END_FUNCTION, &[]).0, Outcome::Ok);
    }

    /// Leaves the session, which is kept, and keeps the connection.
    pub(crate) fn leave(&mut self) {
        self.control.tell(&ClientMessage::SessionLeave { session: self.ticket.session, lane: self.id });
    }
}

fn letter_to(to: Address, sequence: u64, key: &str, bytes: &[u8], within: Duration) -> Vec<u8> {
    let within_ns = u64::try_from(within.as_nanos()).unwrap();
    SendHead { to, sequence, within_ns, again: false, key: Key::new(key).unwrap() }.encode(bytes)
}

fn question(sources: &[Address], key: &str, within: Duration, peeks: bool) -> Vec<u8> {
    let within_ns = u64::try_from(within.as_nanos()).unwrap();
    RecvQuestion { within_ns, peeks, sources: sources.to_vec(), key: Key::new(key).unwrap() }.encode()
}

fn held(letter: &Letter, key: &str) -> Vec<u8> {
    HeldMessage { source: letter.source, id: letter.id, key: Key::new(key).unwrap() }.encode()
}

fn letter(answer: &Answer) -> Option<Letter> {
    assert_eq!(answer.0, Outcome::Ok, "{answer:?}");
    let (ReceivedHead { source, id, redelivered }, bytes) = ReceivedHead::decode(&answer.2).unwrap()?;
    Some(Letter { source, id, redelivered, text: String::from_utf8_lossy(bytes).into_owned() })
}
