//! Client connections: who they are, what they may do, and what they are still owed.
//!
//! The first message of a connection is the hello with a token; whatever else comes first, too late, too large, malformed
//! or with descriptors attached ends the connection, and only it. A client that does not read its answers is not read
//! either, and cut off after a while. When a client goes, its lanes go with it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd};

use mio::Interest;
use praas_protocol::codec;
use praas_protocol::control::{CONTROL_VERSION, ClientMessage, ClientRequest, ControlError, LaneId, ServerMessage};
use praas_protocol::limits::{CLIENTS_MAX, CONTROL_MESSAGE_BYTES_MAX};
use praas_protocol::token::Claims;
use praas_sys::MessageSocket;

use crate::clock;
use crate::lanes::LaneOwner;
use crate::limits::{ACCEPTS_TURN_MAX, PEER_PACKETS_TURN_MAX, PENDING_PER_CLIENT_MAX};
use crate::message_lanes::{OutboundPlaces, Sending};
use crate::peer::{Packet, Peer, PeerError};
use crate::processes::{Asker, ProcessKey};
use crate::shard::Shard;
use crate::sources::Source;
use crate::timers::{Timer, Timers};

/// Delay before connections are accepted again when the host has no descriptors left.
const ACCEPT_PAUSE: std::time::Duration = std::time::Duration::from_millis(50);

/// Names a connection; never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ClientKey(pub(crate) usize);

/// One connection.
#[derive(Debug)]
pub(crate) struct Client {
    peer: Peer,
    /// What its token says; `None` before the hello.
    pub(crate) claims: Option<Claims>,
    /// Whether it is the server's own network side, which speaks for a remote holder of its token.
    pub(crate) is_network: bool,
    /// Requests that are answered later.
    pending: HashSet<u64>,
    pub(crate) lanes: BTreeMap<LaneId, ProcessKey>,
    /// Message lanes that it sends on.
    pub(crate) outbound: OutboundPlaces,
    /// What those take of the host, since it opened one.
    pub(crate) sending: Option<Sending>,
}

/// All connections.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    entries: HashMap<ClientKey, Client>,
    next_key: usize,
}

impl Clients {
    pub(crate) fn get(&self, key: ClientKey) -> Option<&Client> {
        self.entries.get(&key)
    }

    pub(crate) fn get_mut(&mut self, key: ClientKey) -> Option<&mut Client> {
        self.entries.get_mut(&key)
    }

    /// Sends an answer; nothing happens if the client is gone.
    pub(crate) fn send(
        &mut self,
        asker: Asker,
        message: &ServerMessage,
        fds: &[BorrowedFd<'_>],
        timers: &mut Timers,
    ) -> Result<(), PeerError> {
        if let Some(client) = self.entries.get_mut(&asker.client) {
            client.pending.remove(&asker.request);
        }
        self.tell(asker.client, message, fds, timers)
    }

    /// Sends a message that answers nothing; nothing happens if the client is gone.
    pub(crate) fn tell(
        &mut self,
        key: ClientKey,
        message: &ServerMessage,
        fds: &[BorrowedFd<'_>],
        timers: &mut Timers,
    ) -> Result<(), PeerError> {
        let Some(client) = self.entries.get_mut(&key) else { return Ok(()) };
        let was_queued = client.peer.has_queued();
        client.peer.send(message, fds)?;
        if let Some(end) = client.peer.stall_end().filter(|_| !was_queued) {
            timers.at(end, Timer::ClientStall(key));
        }
        Ok(())
    }
}

impl Shard {
    /// Accepts connections, at most a turn's worth.
    pub(crate) fn accept_clients(&mut self) {
        for _ in 0..ACCEPTS_TURN_MAX {
            if self.clients.entries.len() >= CLIENTS_MAX {
                // They wait in the listen queue; whoever leaves lets them in.
                return self.timers.after(ACCEPT_PAUSE, Timer::Accept);
            }
            match self.listener.accept() {
                Ok(Some(socket)) => self.admit(socket),
                Ok(None) => return,
                Err(error) if error.is_fd_exhaustion() => return self.refuse_for_lack_of_descriptors(),
                Err(error) => {
                    self.log.warning(format_args!("accepting a client failed: {error}"));
                    return self.timers.after(ACCEPT_PAUSE, Timer::Accept);
                }
            }
        }
        self.ready.add(Source::Listener);
    }

    fn admit(&mut self, socket: MessageSocket) {
        let key = ClientKey(self.clients.next_key);
        self.clients.next_key += 1;
        let watched = self.watch(socket.as_fd(), Source::Client(key), Interest::READABLE | Interest::WRITABLE);
        if let Err(error) = watched {
            return self.log.warning(format_args!("watching a client failed: {error}"));
        }
        self.metrics.clients_accepted += 1;
        let client = Client {
            peer: Peer::new(socket),
            claims: None,
            is_network: false,
            pending: HashSet::new(),
            lanes: BTreeMap::new(),
            outbound: OutboundPlaces::new(),
            sending: None,
        };
        self.clients.entries.insert(key, client);
        self.timers.after(self.client_hello, Timer::ClientHello(key));
        self.ready.add(Source::Client(key));
    }

    /// The host gives no more descriptors: one client is told so with the descriptor kept for this, and the rest waits.
    fn refuse_for_lack_of_descriptors(&mut self) {
        self.spare = None;
        if let Ok(Some(socket)) = self.listener.accept() {
            let error = ControlError::LimitReached {
                what: "file descriptors of the server".into(),
                used: self.open_files,
                limit: self.open_files,
                asked: 1,
                advice: "close lanes or connections, or raise `ulimit -n` for the server".into(),
            };
            let mut buffer = vec![0; CONTROL_MESSAGE_BYTES_MAX];
            // Nothing more can be done for it.
            let _ = Peer::new(socket).refuse(&ServerMessage::Failed { request: 0, error }, &mut buffer);
            self.metrics.clients_cut += 1;
        }
        self.spare = crate::shard::spare_descriptor();
        self.log.warning(format_args!("no file descriptors are left: connections wait (see `ulimit -n`)"));
        self.timers.after(ACCEPT_PAUSE, Timer::Accept);
    }

    /// A client's socket has something to read, or room to write.
    pub(crate) fn converse_with_client(&mut self, key: ClientKey) {
        let mut buffer = std::mem::take(&mut self.packet_buffer);
        buffer.resize(CONTROL_MESSAGE_BYTES_MAX, 0);
        for turn in 0..=PEER_PACKETS_TURN_MAX {
            if turn == PEER_PACKETS_TURN_MAX {
                self.ready.add(Source::Client(key));
                break;
            }
            let Some(client) = self.clients.get_mut(key) else { break };
            let flushed = client.peer.flush();
            // Who does not read its answers asks nothing more; room to write brings us back here.
            if flushed.is_ok() && client.peer.has_queued() {
                break;
            }
            let packet = flushed.and_then(|()| client.peer.receive(&mut buffer));
            let outcome = match packet {
                Ok(Some(packet)) => self.hear_client(key, packet),
                Ok(None) => break,
                Err(error) => Err(error),
            };
            match outcome {
                Ok(()) => {}
                Err(PeerError::Closed) => {
                    self.forget_client(key);
                    break;
                }
                Err(error) => {
                    self.cut_client(key, &error.to_string());
                    break;
                }
            }
        }
        self.packet_buffer = buffer;
    }

    fn hear_client(&mut self, key: ClientKey, mut packet: Packet<'_>) -> Result<(), PeerError> {
        let message: Result<ClientMessage, _> = codec::decode(packet.bytes);
        let Some(client) = self.clients.get_mut(key) else { return Ok(()) };
        let given = matches!(
            &message,
            Ok(ClientMessage::Request { body: ClientRequest::ConnectionGive { .. }, .. }) if client.is_network
        );
        let socket = if given { packet.fds.pop() } else { None };
        match message {
            _ if !packet.fds.is_empty() => self.refuse_client(key, protocol("clients send no file descriptors")),
            Err(error) => self.refuse_client(key, protocol(&error.to_string())),
            Ok(ClientMessage::Hello { version, token, network }) if client.claims.is_none() => {
                self.greet(key, version, &token, network)
            }
            Ok(_) if client.claims.is_none() => {
                self.refuse_client(key, protocol("the first message must be the hello"))
            }
            Ok(ClientMessage::Hello { .. }) => self.refuse_client(key, protocol("a second hello")),
            Ok(ClientMessage::Request { request, body }) => {
                if request == 0 || client.pending.len() >= PENDING_PER_CLIENT_MAX || !client.pending.insert(request) {
                    let reason =
                        format!("request number {request} is 0, in use, or more than {PENDING_PER_CLIENT_MAX} wait");
                    return self.refuse_client(key, protocol(&reason));
                }
                let asker = Asker { client: key, request };
                if let Err(error) = self.carry_out(asker, &body, socket) {
                    self.answer_failed(asker, error);
                }
                Ok(())
            }
            Ok(ClientMessage::Ring { lane, process }) => self.with_lane(key, lane, process, Self::lane_rang),
            Ok(ClientMessage::LaneClose { lane, process }) => self.with_lane(key, lane, process, Self::close_lane),
            Ok(ClientMessage::MessageLaneClose { serial }) => {
                self.close_message_lane(LaneOwner::Client(key), serial);
                Ok(())
            }
            Ok(ClientMessage::SessionLeave { lane, .. }) => {
                self.close_gateway(LaneOwner::Client(key), lane);
                Ok(())
            }
        }
    }

    /// Does something with a lane of this client. A lane that was closed just before is no breach.
    fn with_lane(
        &mut self,
        key: ClientKey,
        lane: LaneId,
        process: praas_protocol::ProcessId,
        what: fn(&mut Self, ProcessKey, LaneId),
    ) -> Result<(), PeerError> {
        let held = self.clients.get(key).and_then(|client| client.lanes.get(&lane)).copied();
        let Some(process_key) = held else { return Ok(()) };
        if self.processes.get(process_key).is_none_or(|found| found.id != process) {
            return self.refuse_client(key, protocol("the lane leads to another process"));
        }
        what(self, process_key, lane);
        Ok(())
    }

    fn greet(&mut self, key: ClientKey, version: u32, token: &str, network: bool) -> Result<(), PeerError> {
        if version != CONTROL_VERSION {
            let error = ControlError::WrongVersion { server: CONTROL_VERSION, client: version };
            return self.refuse_client(key, error);
        }
        if network && !self.is_own_process(key) {
            return self.refuse_client(key, protocol("only the server itself opens network sessions"));
        }
        let now_unix_s = clock::unix_time().as_secs();
        match self.secret.verify(token, now_unix_s) {
            Ok(claims) => {
                if let Some(client) = self.clients.get_mut(key) {
                    client.claims = Some(claims);
                    client.is_network = network;
                }
                let welcome = ServerMessage::Welcome { version: CONTROL_VERSION, incarnation: self.incarnation };
                self.clients.send(Asker { client: key, request: 0 }, &welcome, &[], &mut self.timers)
            }
            Err(error) => self.refuse_client(key, ControlError::TokenRefused { reason: error.to_string() }),
        }
    }

    /// Whether this very process opened the connection.
    fn is_own_process(&self, key: ClientKey) -> bool {
        let credentials = self.clients.get(key).map(|client| client.peer.socket().peer_credentials());
        matches!(credentials, Some(Ok(credentials)) if credentials.pid == std::process::id())
    }

    /// Tells a client why it is cut off.
    fn refuse_client(&mut self, key: ClientKey, error: ControlError) -> Result<(), PeerError> {
        self.log.info(format_args!("a client is cut off: {error}"));
        let refusal = ServerMessage::Failed { request: 0, error };
        if let Some(client) = self.clients.get_mut(key) {
            let mut buffer = vec![0; CONTROL_MESSAGE_BYTES_MAX];
            // It is cut off next, whether it hears this or not.
            let _ = client.peer.refuse(&refusal, &mut buffer);
        }
        Err(PeerError::Protocol)
    }

    /// Cuts a client off.
    pub(crate) fn cut_client(&mut self, key: ClientKey, reason: &str) {
        self.log.info(format_args!("a connection is closed: {reason}"));
        self.metrics.clients_cut += 1;
        self.forget_client(key);
    }

    /// Lets go of a connection and of all its lanes.
    pub(crate) fn forget_client(&mut self, key: ClientKey) {
        let Some(client) = self.clients.entries.remove(&key) else { return };
        self.unwatch(client.peer.socket());
        for (lane, process) in client.lanes {
            self.close_lane(process, lane);
        }
        self.end_gateways_of(LaneOwner::Client(key));
        self.orphan_message_lanes(client.outbound.into_values());
        self.directory_watch.forget(key);
        self.transitions.forget_client(key);
        for process in self.processes.entries.values_mut() {
            process.followers.retain(|follower| follower.asker.client != key);
        }
    }

    /// Timer: a client that should have said hello.
    pub(crate) fn client_hello_due(&mut self, key: ClientKey) {
        if self.clients.get(key).is_some_and(|client| client.claims.is_none()) {
            self.cut_client(key, "it said no hello");
        }
    }

    /// Timer: a client with unread answers.
    pub(crate) fn client_stall_due(&mut self, key: ClientKey) {
        let Some(end) = self.clients.get(key).and_then(|client| client.peer.stall_end()) else { return };
        if end <= clock::now() {
            self.cut_client(key, "it does not read its answers");
        } else {
            self.timers.at(end, Timer::ClientStall(key));
        }
    }

    /// Answers a request; a client that cannot be answered is cut off.
    pub(crate) fn answer(&mut self, asker: Asker, message: &ServerMessage, fds: &[BorrowedFd<'_>]) {
        if let Err(error) = self.clients.send(asker, message, fds, &mut self.timers) {
            self.cut_client(asker.client, &error.to_string());
        }
    }

    /// Tells a client something unasked; one that cannot be told is cut off.
    pub(crate) fn tell_client(&mut self, key: ClientKey, message: &ServerMessage) {
        if let Err(error) = self.clients.tell(key, message, &[], &mut self.timers) {
            self.cut_client(key, &error.to_string());
        }
    }

    pub(crate) fn answer_done(&mut self, asker: Asker) {
        self.answer(asker, &ServerMessage::Done { request: asker.request }, &[]);
    }

    pub(crate) fn answer_failed(&mut self, asker: Asker, error: ControlError) {
        self.metrics.requests_failed += 1;
        // A server that ends lets go of processes that it could not store: it knows them no more, and they are not gone.
        let is_let_go = self.shutting_down && matches!(error, ControlError::UnknownProcess { .. });
        let error = if is_let_go { ControlError::ShuttingDown } else { error };
        self.answer(asker, &ServerMessage::Failed { request: asker.request, error }, &[]);
    }
}

fn protocol(reason: &str) -> ControlError {
    ControlError::Protocol { reason: reason.to_owned() }
}
