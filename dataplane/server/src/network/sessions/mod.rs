//! Clients' sessions: the mailbox of each, served by one thread for as long as the session is kept.
//!
//! A session's client calls the functions of [`praas_protocol::session`] on a lane to its session; who sends to it calls those of
//! [`praas_protocol::message`] on a lane of theirs. Both are gateways' lanes ([`super::gateways`]), wherever their other end is.
//!
//! | room | what |
//! |---|---|
//! | `receiving` | what the client receives, accepts and gives back |
//! | `delivering` | what others send to it |
//! | `sending`, `ways` | what it sends, in order for each destination, and how it gets there |
//! | `putting` | what it sends to a process to which no message lane leads |
//! | `opening` | lanes to sessions for clients and servers on the network |
//!
//! Invariants:
//! 1. The mailbox of a session is mapped by this thread alone, so nobody waits for its lock.
//! 2. What the client holds is held by its present lane: when that goes, or another takes its place, all of it returns to its
//!    queues, before a call of the next lane is taken.
//! 3. Calls that wait here are calls of gateways, which bound their number; each has an end.

mod delivering;
mod opening;
mod putting;
mod receiving;
mod sending;
mod ways;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use praas_protocol::limits::KEY_BYTES_MAX;
use praas_protocol::message::{
    AWAIT_ROOM_FUNCTION, Address, DELIVER_FUNCTION, DELIVER_NEXT_FUNCTION, PUT_FUNCTION, PUT_HEAD_BYTES_MAX, SessionId,
    codes,
};
use praas_protocol::session::{
    ACCEPT_FUNCTION, END_FUNCTION, RECEIVED_HEAD_BYTES, RECV_FUNCTION, RELEASE_FUNCTION, SEND_FUNCTION, SEND_HEAD_BYTES,
};
use praas_protocol::{FunctionId, Name, Outcome, PING_FUNCTION, Phase};
use praas_shm::WorkerTag;
use praas_shm::mail_bell::MailBell;
use praas_shm::mailbox::{MailError, Mailbox};

use self::delivering::AwaitingRoom;
pub(super) use self::opening::SessionOpener;
pub(super) use self::putting::PutFor;
use self::receiving::Waiting;
use self::sending::Unsent;
use self::ways::Outgoing;
pub(super) use self::ways::Sender;
pub(crate) use self::ways::{RoomAnswer, RoomSend};
use super::gateways::{GatewayKey, TakenCall};
use super::shard::{Course, NetworkShard};
use super::timers::Timer;
use crate::gateways::SessionClient;
use crate::limits::LANE_LINGER;
use crate::sessions::SessionParts;

/// Who calls a session.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) gateway: GatewayKey,
    pub(super) session: SessionId,
    /// Whether another lane of its client has taken this one's place.
    pub(super) is_superseded: bool,
    /// Its own client; `None` for who sends to it.
    pub(super) client: Option<SessionClient>,
}

/// One session.
#[derive(Debug)]
pub(super) struct Room {
    application: Name,
    incarnation: u64,
    /// Largest payload of a call on a lane to it.
    payload_bytes_max: u32,
    mailbox: Mailbox,
    /// The lane of its client, once that has called.
    client: Option<GatewayKey>,
    /// Receivers, in the order of their calls.
    waiting: VecDeque<Waiting>,
    /// Senders that wait for room.
    awaiting_room: VecDeque<AwaitingRoom>,
    /// A message was refused for want of room, and none was removed since.
    is_full: bool,
    outgoing: BTreeMap<Address, Outgoing>,
    /// When it is looked at next.
    look_at: Option<Instant>,
}

impl Room {
    /// When the first of those who wait gives up, or a way may be closed.
    fn next_end(&self) -> Option<Instant> {
        let receivers = self.waiting.iter().map(|waiting| waiting.until);
        let senders = self.awaiting_room.iter().map(|waiting| waiting.until);
        let ways = self.outgoing.values().filter(|outgoing| outgoing.is_idle());
        receivers.chain(senders).chain(ways.map(|outgoing| outgoing.used_at + LANE_LINGER)).min()
    }

    /// Bytes of the largest message: with its head it fits the payload of a call.
    fn message_bytes_max(&self) -> u32 {
        self.payload_bytes_max.saturating_sub(HEAD_BYTES_MAX)
    }
}

/// Bytes of the longest head of a message, of all functions that bring one.
#[expect(clippy::cast_possible_truncation, reason = "some hundreds")]
const HEAD_BYTES_MAX: u32 = PUT_HEAD_BYTES_MAX as u32;

const _: () = assert!(RECEIVED_HEAD_BYTES <= PUT_HEAD_BYTES_MAX);
const _: () = assert!((SEND_HEAD_BYTES + KEY_BYTES_MAX).next_multiple_of(16) <= PUT_HEAD_BYTES_MAX + 16);

/// A refusal of a call.
#[derive(Debug)]
struct Refusal {
    outcome: Outcome,
    detail: u32,
    more: u32,
    message: String,
}

impl Refusal {
    /// Whether the mailbox of a receiver is full.
    fn waits_for_room(&self) -> bool {
        self.outcome == Outcome::FunctionFailed && self.detail == codes::MAILBOX_FULL
    }

    /// As a function of the SDK says it.
    fn failed(code: u32, message: impl std::fmt::Display) -> Self {
        Self { outcome: Outcome::FunctionFailed, detail: code, more: 0, message: message.to_string() }
    }

    fn bad_request(error: impl std::fmt::Display) -> Self {
        Self::failed(codes::BAD_REQUEST, error)
    }

    fn bare(outcome: Outcome, detail: u32, more: u32) -> Self {
        Self { outcome, detail, more, message: String::new() }
    }

    /// There is no such session any more.
    fn gone() -> Self {
        Self::bare(Outcome::UnknownProcess, 0, 0)
    }

    fn unavailable(phase: Phase) -> Self {
        Self::bare(Outcome::Unavailable, phase as u32, 0)
    }
}

impl From<MailError> for Refusal {
    fn from(error: MailError) -> Self {
        let code = match &error {
            MailError::Full { .. } => codes::MAILBOX_FULL,
            MailError::TooOld { .. } => codes::TOO_OLD,
            MailError::Busy { .. } | MailError::SourcesFull { .. } => codes::BUSY,
            MailError::Corrupt { .. } => codes::CORRUPT,
            _ => codes::BAD_REQUEST,
        };
        Self::failed(code, error)
    }
}

/// Bytes of words about a refusal that fit any lane.
const WORDS_BYTES_MAX: usize = 1000;

impl NetworkShard {
    /// The server's loop has a session for this thread.
    pub(super) fn session_came(&mut self, parts: SessionParts) {
        let SessionParts { session, application, incarnation, payload_bytes_max, objects } = parts;
        let bell = MailBell::create().map_err(|error| error.to_string());
        let mailbox =
            bell.and_then(|bell| Mailbox::new(objects, WorkerTag::new(0, 1), bell).map_err(|error| error.to_string()));
        let mailbox = match mailbox {
            Ok(mailbox) => mailbox,
            Err(error) => {
                self.log().error(format_args!("a client's session with {application} is lost: {error}"));
                return self.plan.session_news.ended(session);
            }
        };
        // Nobody else has the lock for long: this thread is alone with it.
        mailbox.set_patience(Duration::from_millis(100));
        self.session_rooms.insert(
            session,
            Room {
                application,
                incarnation,
                payload_bytes_max,
                mailbox,
                client: None,
                waiting: VecDeque::new(),
                awaiting_room: VecDeque::new(),
                is_full: false,
                outgoing: BTreeMap::new(),
                look_at: None,
            },
        );
        self.counters.sessions(self.session_rooms.len());
    }

    /// The server's loop has ended a session. Lanes to it stay, and are answered so.
    pub(super) fn session_ended(&mut self, session: SessionId) {
        let Some(room) = self.session_rooms.remove(&session) else { return };
        self.counters.sessions(self.session_rooms.len());
        let receivers = room.waiting.iter().map(|waiting| (waiting.gateway, waiting.target));
        let senders = room.awaiting_room.iter().map(|waiting| (waiting.gateway, waiting.target));
        for (gateway, target) in receivers.chain(senders) {
            self.refuse_session_call(gateway, target, &Refusal::gone());
        }
        for mut outgoing in room.outgoing.into_values() {
            let first = outgoing.in_flight.and_then(|_| outgoing.queue.pop_front());
            for (gateway, target) in first.iter().map(Unsent::call) {
                self.gateway_reply(gateway, target, Outcome::ConnectionLost, 1, 0, &[]);
            }
            for (gateway, target) in outgoing.queue.iter().map(Unsent::call).collect::<Vec<_>>() {
                self.refuse_session_call(gateway, target, &Refusal::gone());
            }
            self.close_way(&outgoing);
        }
    }

    /// A call for a session was taken out of a lane.
    pub(super) fn session_called(&mut self, call: &Call, taken: TakenCall) {
        let (gateway, target) = (call.gateway, taken.target);
        if let Err(refusal) = self.serve_session_call(call, taken) {
            self.refuse_session_call(gateway, target, &refusal);
        }
    }

    fn serve_session_call(&mut self, call: &Call, taken: TakenCall) -> Result<(), Refusal> {
        let Some(room) = self.session_rooms.get_mut(&call.session) else { return Err(Refusal::gone()) };
        let function = taken.function;
        let is = |name: &str| function == FunctionId::of(name);
        if is(PING_FUNCTION) {
            self.gateway_reply(call.gateway, taken.target, Outcome::Ok, 0, 0, &[]);
            return Ok(());
        }
        if taken.idempotency.is_some() {
            return Err(Refusal::bad_request("what is called on a session has no idempotency key"));
        }
        let Some(client) = &call.client else {
            return match () {
                () if is(DELIVER_FUNCTION) => self.session_deliver(call, taken, true),
                () if is(DELIVER_NEXT_FUNCTION) => self.session_deliver(call, taken, false),
                () if is(PUT_FUNCTION) => self.session_put(call, taken),
                () if is(AWAIT_ROOM_FUNCTION) => self.session_await_room(call, taken),
                () => Err(Refusal::bare(Outcome::UnknownFunction, 0, 0)),
            };
        };
        if call.is_superseded {
            let why = "another client goes on with this session: it has shown the same ticket after this one";
            return Err(Refusal::failed(codes::TAKEN_OVER, why));
        }
        room.client = Some(call.gateway);
        match () {
            () if is(SEND_FUNCTION) => self.session_send(call, client, taken),
            () if is(RECV_FUNCTION) => self.session_recv(call, taken),
            () if is(ACCEPT_FUNCTION) => self.session_accept(call, taken),
            () if is(RELEASE_FUNCTION) => self.session_release(call, taken),
            () if is(END_FUNCTION) => {
                self.gateway_reply(call.gateway, taken.target, Outcome::Ok, 0, 0, &[]);
                self.plan.session_news.ended(call.session);
                Ok(())
            }
            () => Err(Refusal::bare(Outcome::UnknownFunction, 0, 0)),
        }
    }

    fn refuse_session_call(&mut self, gateway: GatewayKey, target: u64, refusal: &Refusal) {
        let Refusal { outcome, detail, more, message } = refusal;
        let mut end = message.len().min(WORDS_BYTES_MAX);
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        self.gateway_reply(gateway, target, *outcome, *detail, *more, &message.as_bytes()[..end]);
    }

    /// Nobody waits for this call any more.
    pub(super) fn session_call_abandoned(&mut self, gateway: GatewayKey, target: u64) {
        let Some(super::gateways::GatewayTarget::Session { session, .. }) = self.gateway_target(gateway) else {
            return;
        };
        let session = *session;
        let Some(room) = self.session_rooms.get_mut(&session) else { return };
        let is_it = |other: GatewayKey, number: u64| other == gateway && number == target;
        let before = room.waiting.len() + room.awaiting_room.len();
        room.waiting.retain(|waiting| !is_it(waiting.gateway, waiting.target));
        room.awaiting_room.retain(|waiting| !is_it(waiting.gateway, waiting.target));
        let is_dropped = before > room.waiting.len() + room.awaiting_room.len();
        if is_dropped || self.drop_unsent(session, gateway, target) {
            self.gateway_reply(gateway, target, Outcome::Cancelled, 0, 0, &[]);
        }
    }

    /// A lane to a session is gone, or superseded; its calls were answered.
    pub(super) fn session_gateway_went(&mut self, session: SessionId, gateway: GatewayKey, is_client: bool) {
        let Some(room) = self.session_rooms.get_mut(&session) else { return };
        room.waiting.retain(|waiting| waiting.gateway != gateway);
        room.awaiting_room.retain(|waiting| waiting.gateway != gateway);
        let is_present = is_client && room.client == Some(gateway);
        if is_present {
            room.client = None;
            if let Err(error) = room.mailbox.release_all() {
                let application = room.application;
                self.log().error(format_args!("a client's session with {application} is damaged: {error}"));
            }
        }
        self.drop_unsent_of(session, gateway);
        if is_present {
            self.serve_receivers(session);
        }
    }

    /// Timer: what waits in a session's room.
    pub(super) fn session_room_due(&mut self, session: SessionId) {
        if let Some(room) = self.session_rooms.get_mut(&session) {
            room.look_at = None;
        }
        self.end_receivers(session);
        self.end_awaiting(session);
        self.serve_outgoing(session);
        self.close_idle_ways(session);
        let next = self.session_rooms.get(&session).and_then(Room::next_end);
        if let Some(next) = next {
            self.look_at_session_again(session, next);
        }
    }

    /// Has a session's room looked at by then: there is one timer for each, however many calls wait in it.
    fn look_at_session_again(&mut self, session: SessionId, at: Instant) {
        let Some(room) = self.session_rooms.get_mut(&session) else { return };
        match room.look_at {
            Some(before) if before <= at => return,
            Some(before) => self.timers.forget(before, Timer::SessionRoom(session)),
            None => {}
        }
        room.look_at = Some(at);
        self.timers.at(at, Timer::SessionRoom(session));
    }

    /// Closes ways by which nothing was sent for long.
    fn close_idle_ways(&mut self, session: SessionId) {
        let now = self.now;
        let Some(room) = self.session_rooms.get_mut(&session) else { return };
        let is_idle = |outgoing: &Outgoing| outgoing.is_idle() && outgoing.used_at + LANE_LINGER <= now;
        let idle: Vec<_> = room.outgoing.iter().filter(|(_, outgoing)| is_idle(outgoing)).map(|(to, _)| *to).collect();
        let closed: Vec<_> = idle.iter().filter_map(|to| room.outgoing.remove(to)).collect();
        closed.iter().for_each(|outgoing| self.close_way(outgoing));
    }

    /// The server drains: receivers do not wait any longer.
    pub(super) fn drain_sessions(&mut self) {
        let mut answered = Vec::new();
        for room in self.session_rooms.values_mut() {
            answered.extend(room.waiting.drain(..).map(|waiting| (waiting.gateway, waiting.target)));
        }
        for (gateway, target) in answered {
            self.refuse_session_call(gateway, target, &Refusal::unavailable(Phase::Draining));
        }
    }

    fn takes_receivers(&self) -> bool {
        self.course == Course::Serving
    }
}
