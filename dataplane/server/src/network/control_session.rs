//! The shard as a client of the server's loop: one control session for each token, over the server's own Unix socket.
//!
//! So what a token allows, how lanes are brokered, counted and taken back is decided where it always is. A session carries
//! the token that the remote client showed.
//!
//! Invariants:
//! 1. A question is answered once: by the server's loop, or by the loss of the session.
//! 2. Nothing here waits: connecting fails when the loop's backlog is full, and what it does not take is queued in the
//!    bounded queue of a [`Peer`].

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::Instant;

use praas_protocol::codec;
use praas_protocol::control::{CONTROL_VERSION, ClientMessage, ClientRequest, ControlError, ServerMessage};
use praas_protocol::limits::CONTROL_MESSAGE_BYTES_MAX;
use praas_sys::MessageSocket;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use super::connection::ConnectionKey;
use super::lanes::{HandedOut, LaneKey};
use super::outbound::OutboundKey;
use super::questions::Asker;
use super::sessions::SessionOpener;
use super::shard::NetworkShard;
use super::table::Key;
use super::timers::Timer;
use crate::limits::{PEER_PACKETS_TURN_MAX, PENDING_PER_CLIENT_MAX, SESSION_LINGER, SESSIONS_MAX};
use crate::peer::{Peer, PeerError};

/// Names a control session of one shard.
pub(super) type SessionKey = Key<ControlSession>;

/// What an answer is for.
#[derive(Debug)]
pub(super) enum Question {
    /// A lane.
    Lane(LaneKey),
    /// A lane to send messages on.
    Outbound(OutboundKey),
    /// A client's session.
    Session(Box<SessionOpener>),
    /// A client's question.
    Client(Asker),
    /// The hand-over of a connection.
    GivingAway(ConnectionKey),
}

/// One control session.
#[derive(Debug)]
pub(super) struct ControlSession {
    peer: Peer,
    token: Rc<str>,
    next_request: u64,
    asked: HashMap<u64, Question>,
    unused_since: Option<Instant>,
}

impl NetworkShard {
    /// The session of a token, begun if there is none.
    pub(super) fn session_of(&mut self, token: &Rc<str>) -> Result<SessionKey, ControlError> {
        if let Some(key) = self.by_token.get(token) {
            return Ok(*key);
        }
        let key = self.begin_session(token)?;
        self.by_token.insert(Rc::clone(token), key);
        Ok(key)
    }

    /// Begins a session.
    pub(super) fn begin_session(&mut self, token: &Rc<str>) -> Result<SessionKey, ControlError> {
        if self.sessions.len() >= SESSIONS_MAX {
            return Err(ControlError::LimitReached {
                what: "tokens in use on the network".into(),
                used: self.sessions.len() as u64,
                limit: SESSIONS_MAX as u64,
                asked: 1,
                advice: "share tokens between clients of one owner, or try again later".into(),
            });
        }
        let host = |errno: Errno| ControlError::Host {
            what: "connecting the network to the server".into(),
            reason: errno.to_string(),
        };
        let socket = connect_at_once(&self.plan.socket_path).map_err(host)?;
        let key = self.sessions.next_key();
        self.relay.watch(socket.as_fd(), self.index, key).map_err(|error| ControlError::Host {
            what: "watching the network's connection to the server".into(),
            reason: error.to_string(),
        })?;
        let (token, peer) = (Rc::clone(token), Peer::new(socket));
        self.sessions.insert(ControlSession {
            peer,
            token: Rc::clone(&token),
            next_request: 1,
            asked: HashMap::new(),
            unused_since: None,
        });
        self.timers.at(self.now + SESSION_LINGER, Timer::Session(key));
        let hello = ClientMessage::Hello { version: CONTROL_VERSION, token: token.to_string(), network: true };
        self.tell_session(key, &hello);
        Ok(key)
    }

    /// Asks the server's loop.
    pub(super) fn ask_session(
        &mut self,
        key: SessionKey,
        question: Question,
        body: ClientRequest,
    ) -> Result<(), ControlError> {
        self.ask_session_with(key, question, body, None)
    }

    /// Asks the server's loop about a socket.
    pub(super) fn ask_session_with(
        &mut self,
        key: SessionKey,
        question: Question,
        body: ClientRequest,
        socket: Option<BorrowedFd<'_>>,
    ) -> Result<(), ControlError> {
        let Some(session) = self.sessions.get_mut(key) else { return Err(ControlError::ShuttingDown) };
        if session.asked.len() >= PENDING_PER_CLIENT_MAX {
            return Err(ControlError::LimitReached {
                what: "unanswered questions of this token".into(),
                used: session.asked.len() as u64,
                limit: PENDING_PER_CLIENT_MAX as u64,
                asked: 1,
                advice: "wait for answers first".into(),
            });
        }
        let request = session.next_request;
        session.next_request += 1;
        let sent = session.peer.send(&ClientMessage::Request { request, body }, socket.as_slice());
        if sent.is_err() {
            self.lost_sessions.push(key);
            return Err(ControlError::ShuttingDown);
        }
        session.asked.insert(request, question);
        Ok(())
    }

    /// Sends a message. One that cannot be sent ends the session in the next turn.
    pub(super) fn tell_session(&mut self, key: SessionKey, message: &ClientMessage) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        if session.peer.send(message, &[]).is_err() {
            self.lost_sessions.push(key);
        }
    }

    /// The server's loop has said something, or there is room to say more to it.
    pub(super) fn session_stirred(&mut self, key: SessionKey) {
        let mut buffer = std::mem::take(&mut self.packet_buffer);
        buffer.resize(CONTROL_MESSAGE_BYTES_MAX, 0);
        for turn in 0..=PEER_PACKETS_TURN_MAX {
            if turn == PEER_PACKETS_TURN_MAX {
                self.stirred_again.push(key);
                break;
            }
            let Some(session) = self.sessions.get_mut(key) else { break };
            let received = session.peer.flush().and_then(|()| session.peer.receive(&mut buffer));
            match received {
                Ok(Some(packet)) => match codec::decode::<ServerMessage>(packet.bytes) {
                    Ok(message) => self.server_said(key, message, packet.fds),
                    Err(_) => self.lost_sessions.push(key),
                },
                Ok(None) => break,
                Err(PeerError::Closed) => {
                    self.lost_sessions.push(key);
                    break;
                }
                Err(error) => {
                    self.log().warning(format_args!("the network's connection to the server: {error}"));
                    self.lost_sessions.push(key);
                    break;
                }
            }
        }
        self.packet_buffer = buffer;
    }

    fn server_said(&mut self, key: SessionKey, message: ServerMessage, fds: Vec<OwnedFd>) {
        let number = match &message {
            ServerMessage::Welcome { .. } => return,
            ServerMessage::MessageLaneGone { serial } => return self.outbound_gone(key, *serial),
            ServerMessage::Failed { request: 0, error } => {
                self.log().warning(format_args!("the network's connection to the server is refused: {error}"));
                return self.refuse_session(key, error);
            }
            ServerMessage::Done { request }
            | ServerMessage::Failed { request, .. }
            | ServerMessage::Processes { request, .. }
            | ServerMessage::Applications { request, .. }
            | ServerMessage::Output { request, .. }
            | ServerMessage::Stats { request, .. }
            | ServerMessage::Transitions { request, .. }
            | ServerMessage::Stored { request, .. }
            | ServerMessage::LaneOpened { request, .. }
            | ServerMessage::SessionOpened { request, .. }
            | ServerMessage::MessageLaneOpened { request, .. }
            | ServerMessage::DirectoryChanges { request, .. } => *request,
        };
        let question = self.sessions.get_mut(key).and_then(|session| session.asked.remove(&number));
        match question {
            None => {}
            Some(Question::Lane(lane)) => self.lane_answered(lane, message, fds),
            Some(Question::Outbound(outbound)) => self.outbound_answered(key, outbound, message, fds),
            Some(Question::Session(wanted)) => self.session_answered(key, *wanted, message, fds),
            Some(Question::Client(asker)) => self.question_answered(&asker, message),
            Some(Question::GivingAway(connection)) => self.giving_away_answered(connection, &message),
        }
    }

    fn lane_answered(&mut self, key: LaneKey, message: ServerMessage, fds: Vec<OwnedFd>) {
        match message {
            ServerMessage::LaneOpened { lane, geometry, trusted, payload_bytes_max, workers_max, .. } => {
                if let Ok(descriptors) = fds.try_into() {
                    let id = lane;
                    let handed_out = HandedOut { id, geometry, trusted, payload_bytes_max, workers_max, descriptors };
                    return self.lane_opened(key, handed_out);
                }
                let reason = "the server sent no reply doorbell with the lane".into();
                self.lane_refused(key, &ControlError::Host { what: "opening a lane".into(), reason });
            }
            ServerMessage::Failed { error, .. } => self.lane_refused(key, &error),
            _ => self.lane_refused(key, &ControlError::Protocol { reason: "another answer than a lane".into() }),
        }
    }

    /// The session was not accepted: all its questions are refused for the same reason.
    fn refuse_session(&mut self, key: SessionKey, error: &ControlError) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        for question in std::mem::take(&mut session.asked).into_values() {
            self.question_lost(question, error);
        }
        self.lost_sessions.push(key);
    }

    fn question_lost(&mut self, question: Question, error: &ControlError) {
        match question {
            Question::Lane(lane) => self.lane_refused(lane, error),
            Question::Outbound(outbound) => self.outbound_refused(outbound, error),
            Question::Session(wanted) => self.refuse(wanted.connection(), wanted.request_id(), error),
            Question::Client(asker) => self.refuse(asker.connection, asker.request_id, error),
            Question::GivingAway(connection) => self.take_back(connection, error),
        }
    }

    /// Lets go of sessions that were found lost.
    pub(super) fn forget_lost_sessions(&mut self) {
        while let Some(key) = self.lost_sessions.pop() {
            self.end_session(key);
        }
    }

    /// Ends a session, and all that came by it.
    pub(super) fn end_session(&mut self, key: SessionKey) {
        let Some(session) = self.sessions.remove(key) else { return };
        self.relay.forget(session.peer.socket().as_fd());
        if self.by_token.get(&session.token) == Some(&key) {
            self.by_token.remove(&session.token);
        }
        for question in session.asked.into_values() {
            self.question_lost(question, &ControlError::ShuttingDown);
        }
        self.lose_lanes_of(key);
        self.lose_outbounds_of(key);
    }

    /// Timer: whether a session is still of use.
    pub(super) fn session_due(&mut self, key: SessionKey) {
        let has_lanes = self.by_process.keys().any(|(session, ..)| *session == key)
            || self.has_outbounds(key)
            || self.has_session_lanes(key);
        let Some(session) = self.sessions.get_mut(key) else { return };
        let is_used = has_lanes || !session.asked.is_empty();
        if is_used || session.unused_since.is_none() {
            session.unused_since = (!is_used).then_some(self.now);
            return self.timers.at(self.now + SESSION_LINGER, Timer::Session(key));
        }
        self.end_session(key);
    }
}

/// A connection to the server's socket; fails when its backlog is full.
fn connect_at_once(path: &std::path::Path) -> Result<MessageSocket, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(MessageSocket::from(socket))
}
