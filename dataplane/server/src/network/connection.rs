//! One connection: where it stands, what it has open, and how it ends.
//!
//! An idle connection is this record, a frame reader without memory and the driver's own record: everything that a call
//! needs besides is taken when the call comes.
//!
//! Invariants:
//! 1. A record leaves the table in one place ([`NetworkShard::let_go`]), which gives back whatever the connection had:
//!    calls, handles, its place in queues. Completions that come later name nobody, and free their buffers.
//! 2. Bytes are received while the connection is at most one request behind: a request that waits for room, replies that
//!    are not read, or a hand-over stop it.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Instant;

use praas_protocol::control::ControlError;
use praas_protocol::token::Claims;
use praas_protocol::wire::{Decoder, Goaway, GoawayReason, Session, Side, State};
use praas_shm::io_buffer::{LaneBuffer, LoanBuffer};
use praas_sys::driver::{End, Outgoing, SourceId};

use super::calls::{Asked, Call};
use super::control_session::SessionKey;
use super::delivering::{Delivery, Link, Spoken};
use super::handover::GivingAway;
use super::lanes::LaneKey;
use super::shard::NetworkShard;
use super::sources::Source;
use super::table::Key;
use super::timers::Timer;
use super::waiting::Waiting;
use crate::limits::FAREWELL_MAX;

/// Names a connection of one shard.
pub(super) type ConnectionKey = Key<Connection>;

/// Who speaks.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) token: Rc<str>,
    pub(super) claims: Claims,
}

/// Where a connection stands.
#[derive(Debug)]
pub(super) enum Stage {
    /// It has not said hello.
    Fresh {
        /// When it is cut off.
        hello_due: Instant,
    },
    /// Calls and questions.
    Open,
    /// It wants to be given to a worker.
    HandingOver(Box<GivingAway>),
    /// It was told to go: what was taken is answered.
    Leaving,
    /// Everything was said; what it still sends is dropped.
    Farewell {
        /// Whether our last byte has gone.
        shut: bool,
    },
}

/// A process that the client can call.
#[derive(Debug)]
pub(super) struct Handle {
    pub(super) number: u32,
    /// The lane of its calls. One that was opened in somebody's name has none before the first.
    pub(super) lane: Option<LaneKey>,
    /// In whose name another server opened it.
    pub(super) spoken: Option<Box<Spoken>>,
    pub(super) payload_bytes_max: u32,
    pub(super) in_flight_max: u32,
    pub(super) in_flight: u32,
}

/// A call whose payload is on its way.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) asked: Asked,
    /// Where it goes; `None` while the driver fills it.
    pub(super) buffer: Option<LoanBuffer>,
    pub(super) filled_bytes: usize,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) source: SourceId,
    /// As in the log.
    pub(super) id: u64,
    pub(super) decoder: Decoder,
    pub(super) rules: Session,
    pub(super) stage: Stage,
    /// There from the hello on.
    pub(super) identity: Option<Rc<Identity>>,
    /// When its token ends, if it does.
    pub(super) token_end: Option<Instant>,
    /// In the order of their numbers.
    pub(super) handles: Vec<Handle>,
    pub(super) last_handle: u32,
    /// In the order of their request ids.
    pub(super) calls: VecDeque<Call>,
    /// Of the replies that are expected of them.
    pub(super) expected_bytes: u64,
    pub(super) incoming: Option<Box<Incoming>>,
    /// A message whose bytes are on their way.
    pub(super) delivery: Option<Box<Delivery>>,
    /// The link of another server that it belongs to.
    pub(super) link: Option<Link>,
    pub(super) waiting: Option<Box<Waiting>>,
    /// What goes with the next send.
    pub(super) outgoing: Option<Outgoing<LaneBuffer>>,
    /// Bytes of the send that is under way.
    pub(super) sending_bytes: Option<usize>,
    pub(super) send_started: Instant,
    pub(super) output_watched: bool,
    pub(super) is_unsent: bool,
    pub(super) reply_window_bytes: u64,
    /// Whether the driver receives for it.
    pub(super) receiving: bool,
    /// A control session for questions that are answered some day.
    pub(super) following: Option<SessionKey>,
}

impl Connection {
    pub(super) fn new(source: SourceId, id: u64, now: Instant, hello_due: Instant, reply_window_bytes: u64) -> Self {
        Self {
            source,
            id,
            decoder: Decoder::new(Side::Client, 0),
            rules: Session::new(Side::Server),
            stage: Stage::Fresh { hello_due },
            identity: None,
            token_end: None,
            handles: Vec::new(),
            last_handle: 0,
            calls: VecDeque::new(),
            expected_bytes: 0,
            incoming: None,
            delivery: None,
            link: None,
            waiting: None,
            outgoing: None,
            sending_bytes: None,
            send_started: now,
            output_watched: false,
            is_unsent: false,
            reply_window_bytes,
            receiving: false,
            following: None,
        }
    }

    /// Bytes that the client has not read as far as we know.
    pub(super) fn unread_bytes(&self) -> usize {
        self.outgoing.as_ref().map_or(0, Outgoing::len) + self.sending_bytes.unwrap_or(0)
    }

    /// Bytes of replies that are expected, or on their way to the client.
    pub(super) fn owed_bytes(&self) -> u64 {
        self.expected_bytes + self.unread_bytes() as u64
    }

    /// Whether nothing more is to be sent now.
    pub(super) fn has_sent_all(&self) -> bool {
        self.sending_bytes.is_none() && self.outgoing.as_ref().is_none_or(Outgoing::is_empty)
    }

    fn wants_bytes(&self) -> bool {
        match self.stage {
            Stage::HandingOver(_) => false,
            Stage::Farewell { .. } => true,
            _ => self.waiting.is_none() && self.unread_bytes() as u64 <= self.reply_window_bytes,
        }
    }

    /// Whether calls and questions may come, and nothing else is under way.
    pub(super) fn is_plainly_open(&self) -> bool {
        matches!(self.stage, Stage::Open)
    }

    /// Whether frames that come are to be acted on.
    pub(super) fn listens(&self) -> bool {
        !matches!(self.stage, Stage::Farewell { .. })
    }

    pub(super) fn handle_mut(&mut self, number: u32) -> Option<&mut Handle> {
        let place = self.handles.binary_search_by_key(&number, |handle| handle.number).ok()?;
        self.handles.get_mut(place)
    }

    fn owes_nothing(&self) -> bool {
        self.rules.is_quiet() && self.waiting.is_none() && self.incoming.is_none() && self.delivery.is_none()
    }
}

impl NetworkShard {
    /// Receives from a connection, or stops to, as its state demands.
    pub(super) fn adjust_receiving(&mut self, key: ConnectionKey) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let wants = connection.wants_bytes();
        if wants == connection.receiving {
            return;
        }
        connection.receiving = wants;
        let source = connection.source;
        if wants {
            // Refused only to a connection that is gone.
            let _ = self.driver.receive(source);
        } else {
            self.driver.pause(source);
        }
    }

    /// The peer has sent its last byte, or the connection is broken.
    pub(super) fn peer_ended(&mut self, key: ConnectionKey, end: End) {
        let Some(connection) = self.connections.get(key) else { return };
        if connection.listens() && (end != End::EndOfStream || !connection.decoder.is_between_frames()) {
            self.log().info(format_args!("network connection {}: it broke off ({end:?})", connection.id));
        }
        self.close(key);
    }

    /// Ends a connection for what its client did. It is told why, as far as it listens.
    pub(super) fn send_away(&mut self, key: ConnectionKey, reason: GoawayReason, message: &str) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        self.plan.log.info(format_args!("network connection {} is ended: {message}", connection.id));
        self.counters.cut();
        let last_request_id = connection.rules.last_request_id();
        match connection.rules.state() {
            State::Fresh | State::Greeted => {
                let error = ControlError::Protocol { reason: message.to_owned() };
                self.refuse_hello(key, &error);
            }
            _ if connection.rules.show_goaway(last_request_id).is_ok() => {
                let goaway = Goaway { last_request_id, reason, may_reconnect: false, message };
                self.push_unruled(key, |out| goaway.encode(out));
            }
            // It has heard a farewell already.
            _ => {}
        }
        self.abandon_all(key);
        self.say_no_more(key);
    }

    /// Nothing more is said after what is queued.
    pub(super) fn say_no_more(&mut self, key: ConnectionKey) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        if let Stage::Fresh { hello_due } = connection.stage {
            self.timers.forget(hello_due, Timer::Hello(key));
        }
        connection.stage = Stage::Farewell { shut: false };
        self.timers.at(self.now + FAREWELL_MAX, Timer::Farewell(key));
        self.mark_unsent(key);
        self.adjust_receiving(key);
    }

    /// Goes on with a connection that is to end, once it has been sent everything.
    pub(super) fn go_on_leaving(&mut self, key: ConnectionKey) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        if matches!(connection.stage, Stage::Leaving) && connection.owes_nothing() {
            return self.say_no_more(key);
        }
        let has_sent_all = connection.has_sent_all();
        if let Stage::Farewell { shut: shut @ false } = &mut connection.stage
            && has_sent_all
        {
            *shut = true;
            // The client reads our last words and then the end. Closing with bytes of its own unread would destroy them
            // on their way.
            match self.driver.socket(connection.source) {
                Some(socket) if rustix::net::shutdown(socket, rustix::net::Shutdown::Write).is_ok() => {}
                _ => self.close(key),
            }
        }
    }

    /// Timer: a connection that was sent away.
    pub(super) fn farewell_due(&mut self, key: ConnectionKey) {
        if self.connections.get(key).is_some_and(|connection| !connection.listens()) {
            self.close(key);
        }
    }

    /// Ends a connection at once.
    pub(super) fn close(&mut self, key: ConnectionKey) {
        if let Some(source) = self.let_go(key) {
            self.driver.close(source);
        }
    }

    /// Forgets a connection and gives back what it had; its place in the driver is the caller's to end.
    pub(super) fn let_go(&mut self, key: ConnectionKey) -> Option<SourceId> {
        self.abandon_all(key);
        let connection = self.connections.remove(key)?;
        if let Stage::Fresh { hello_due } = connection.stage {
            self.timers.forget(hello_due, Timer::Hello(key));
        }
        if let Some(end) = connection.token_end {
            self.timers.forget(end, Timer::Token(key));
        }
        for handle in &connection.handles {
            self.leave_handle(key, handle);
        }
        if let Some(session) = connection.following {
            self.end_session(session);
        }
        self.counters.connection_ended();
        Some(connection.source)
    }

    /// Nobody waits any more for what the client asked.
    pub(super) fn abandon_all(&mut self, key: ConnectionKey) {
        for lane in self.lanes_of_link(key) {
            self.drop_aside(lane, key);
        }
        let Some(connection) = self.connections.get_mut(key) else { return };
        let calls = std::mem::take(&mut connection.calls);
        connection.expected_bytes = 0;
        let waiting = connection.waiting.take();
        // A loan that the driver fills comes back with its completion.
        connection.incoming = None;
        connection.delivery = None;
        drop(self.take_room_waits(|wait| wait.connection == key));
        for call in calls {
            self.abandon(&call);
        }
        if let Some(waiting) = waiting {
            self.stop_waiting(key, *waiting);
        }
    }

    /// A connection's socket is closed.
    pub(super) fn socket_closed(&mut self, token: u64) {
        match Source::of(token) {
            Some(Source::Connection(_)) => {
                self.sockets -= 1;
                self.look_for_room_to_accept();
            }
            Some(Source::Link(key)) => self.peer_socket_closed(key),
            _ => {}
        }
    }
}
