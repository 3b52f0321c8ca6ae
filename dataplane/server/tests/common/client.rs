//! A client of the tests: the control messages and a lane, by hand.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use praas_protocol::codec::{decode, encode};
use praas_protocol::control::{
    CONTROL_VERSION, ClientMessage, ClientRequest, ControlError, LaneId, ProcessStatus, ServerMessage, WaitMode,
};
use praas_protocol::limits::CONTROL_MESSAGE_BYTES_MAX;
use praas_protocol::{FunctionId, Outcome, ProcessId};
use praas_shm::client_lane::{ClientLane, Payload, SubmitError, Ticket, WaitEnd};
use praas_sys::MessageSocket;

use crate::common::PATIENCE;
use crate::common::lane_parts::lane_parts;

/// A connection.
pub(crate) struct Client {
    socket: Arc<MessageSocket>,
    next: u64,
    early: HashMap<u64, (ServerMessage, Vec<OwnedFd>)>,
}

/// A lane to a process.
pub(crate) struct Lane {
    pub(crate) lane: Arc<ClientLane>,
    pub(crate) id: LaneId,
    /// The client's own descriptors of the lane, for tests that misuse them.
    pub(crate) segment: OwnedFd,
    pub(crate) doorbell: OwnedFd,
    /// Read end of the reply doorbell, on a network session.
    pub(crate) replies: Option<OwnedFd>,
}

impl Client {
    /// Connects with the local token.
    pub(crate) fn connect(directory: &Path) -> Self {
        let token = std::fs::read_to_string(directory.join("token")).unwrap();
        Self::with_token(directory, token)
    }

    pub(crate) fn with_token(directory: &Path, token: String) -> Self {
        Self::greet(directory, token, false).unwrap()
    }

    /// A network session, as the server opens them to itself.
    pub(crate) fn network(directory: &Path, token: String) -> Result<Self, ControlError> {
        Self::greet(directory, token, true)
    }

    fn greet(directory: &Path, token: String, network: bool) -> Result<Self, ControlError> {
        let socket = Arc::new(MessageSocket::connect(&directory.join("praas.sock")).unwrap());
        let mut client = Self { socket, next: 0, early: HashMap::new() };
        client.send(&ClientMessage::Hello { version: CONTROL_VERSION, token, network });
        match client.await_answer(0).0 {
            ServerMessage::Welcome { .. } | ServerMessage::MessageLaneGone { .. } => Ok(client),
            ServerMessage::Failed { error, .. } => Err(error),
            other => panic!("{other:?}"),
        }
    }

    /// The same without being a network session: what the server says before it ends this one.
    pub(crate) fn give_or_be_cut_off(&mut self, process: ProcessId, socket: &impl AsFd) -> Result<(), ControlError> {
        self.ask_to_give(process, 7, socket, None);
        match self.await_answer(0).0 {
            ServerMessage::Failed { error, .. } => Err(error),
            other => panic!("{other:?}"),
        }
    }

    /// Gives a connection to a worker of a process.
    pub(crate) fn give(
        &mut self,
        process: ProcessId,
        request_id: u64,
        socket: &impl AsFd,
        payload_bytes_max: Option<u32>,
    ) -> Result<(), ControlError> {
        self.ask_to_give(process, request_id, socket, payload_bytes_max);
        match self.await_answer(self.next).0 {
            ServerMessage::Done { .. } => Ok(()),
            ServerMessage::Failed { error, .. } => Err(error),
            other => panic!("{other:?}"),
        }
    }

    fn ask_to_give(&mut self, process: ProcessId, request_id: u64, socket: &impl AsFd, payload_bytes_max: Option<u32>) {
        self.next += 1;
        let body = ClientRequest::ConnectionGive { process, request_id, payload_bytes_max, calls_in_flight: None };
        let message = ClientMessage::Request { request: self.next, body };
        self.socket.send(&encode(&message).unwrap(), &[socket.as_fd()]).unwrap();
    }

    fn send(&self, message: &ClientMessage) {
        self.socket.send(&encode(message).unwrap(), &[]).unwrap();
    }

    /// Sends a message that is not answered.
    pub(crate) fn tell(&self, message: &ClientMessage) {
        self.send(message);
    }

    /// The connection itself, to be misused.
    pub(crate) fn socket(&self) -> &MessageSocket {
        &self.socket
    }

    pub(crate) fn send_bytes(&self, bytes: &[u8]) {
        self.socket.send(bytes, &[]).unwrap();
    }

    /// Sends a request; its number.
    pub(crate) fn ask(&mut self, body: ClientRequest) -> u64 {
        self.next += 1;
        self.send(&ClientMessage::Request { request: self.next, body });
        self.next
    }

    pub(crate) fn await_answer(&mut self, number: u64) -> (ServerMessage, Vec<OwnedFd>) {
        let mut buffer = vec![0; CONTROL_MESSAGE_BYTES_MAX];
        loop {
            if let Some(answer) = self.early.remove(&number) {
                return answer;
            }
            let received = self.socket.recv_deadline(&mut buffer, 8, PATIENCE).unwrap().expect("an answer in time");
            let message: ServerMessage = decode(&buffer[..received.bytes]).unwrap();
            let request = match &message {
                ServerMessage::Welcome { .. } | ServerMessage::MessageLaneGone { .. } => 0,
                ServerMessage::Done { request }
                | ServerMessage::Failed { request, .. }
                | ServerMessage::Processes { request, .. }
                | ServerMessage::Applications { request, .. }
                | ServerMessage::Stats { request, .. }
                | ServerMessage::Transitions { request, .. }
                | ServerMessage::Stored { request, .. }
                | ServerMessage::Output { request, .. }
                | ServerMessage::LaneOpened { request, .. }
                | ServerMessage::SessionOpened { request, .. }
                | ServerMessage::MessageLaneOpened { request, .. }
                | ServerMessage::DirectoryChanges { request, .. } => *request,
            };
            self.early.insert(request, (message, received.fds));
        }
    }

    fn done(&mut self, body: ClientRequest) -> Result<(), ControlError> {
        let number = self.ask(body);
        match self.await_answer(number).0 {
            ServerMessage::Done { .. } => Ok(()),
            ServerMessage::Failed { error, .. } => Err(error),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn create(&mut self, process: ProcessId) -> Result<(), ControlError> {
        self.done(ClientRequest::ProcessCreate { process, idle_swap_ms: None })
    }

    pub(crate) fn stop(&mut self, process: ProcessId) -> Result<(), ControlError> {
        self.done(ClientRequest::ProcessStop { process })
    }

    pub(crate) fn restart(&mut self, process: ProcessId) -> Result<(), ControlError> {
        self.done(ClientRequest::ProcessRestart { process })
    }

    pub(crate) fn list(&mut self) -> Vec<ProcessStatus> {
        let number = self.ask(ClientRequest::ProcessList { after: None });
        match self.await_answer(number).0 {
            ServerMessage::Processes { processes, .. } => processes,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn status(&mut self, process: ProcessId) -> ProcessStatus {
        self.list().into_iter().find(|status| status.process == process).expect("the process is listed")
    }

    /// All output kept, and whether the process has ended.
    pub(crate) fn output(&mut self, process: ProcessId, from: u64, follow: bool) -> (u64, Vec<u8>, bool) {
        let number = self.ask(ClientRequest::ProcessOutput { process, from, follow });
        match self.await_answer(number).0 {
            ServerMessage::Output { position, bytes, ended, .. } => (position, bytes, ended),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn open(&mut self, process: ProcessId, payload_bytes_max: u32) -> Result<Lane, ControlError> {
        let number = self.ask(ClientRequest::LaneOpen {
            process,
            payload_bytes_max: Some(payload_bytes_max),
            calls_in_flight: Some(16),
            on_behalf: None,
        });
        let (message, mut fds) = self.await_answer(number);
        if let ServerMessage::Failed { error, .. } = message {
            return Err(error);
        }
        // A network session gets one more.
        let replies = if fds.len() == 4 { fds.pop() } else { None };
        let parts = lane_parts(&message, fds, &self.socket).unwrap_or_else(|| panic!("{message:?}"));
        let (id, segment, doorbell) =
            (parts.lane, parts.segment.try_clone().unwrap(), parts.doorbell.try_clone().unwrap());
        let attached =
            if replies.is_some() { ClientLane::attach_for_reactor(parts) } else { ClientLane::attach(parts) };
        Ok(Lane { lane: Arc::new(attached.unwrap()), id, segment, doorbell, replies })
    }

    pub(crate) fn close(&self, process: ProcessId, lane: LaneId) {
        self.send(&ClientMessage::LaneClose { lane, process });
    }
}

impl Lane {
    pub(crate) fn submit(&self, function: &str, payload: &[u8]) -> Ticket {
        self.lane.submit(FunctionId::of(function), Payload::Bytes(payload), 0, 0).unwrap()
    }

    /// Waits for the answer.
    pub(crate) fn answer(&self, ticket: Ticket) -> (Outcome, u32, Vec<u8>) {
        assert_eq!(self.lane.wait(&ticket, WaitMode::Park, PATIENCE), WaitEnd::Answered, "no answer in time");
        let answer = self.lane.take(ticket);
        let payload = answer.payload.map_or_else(Vec::new, |payload| {
            let mut bytes = vec![0; payload.len()];
            payload.copy_to(&mut bytes);
            bytes
        });
        (Outcome::from_code(answer.outcome_code).unwrap(), answer.detail, payload)
    }

    /// Calls; a process that is closed refuses already here.
    pub(crate) fn call(&self, function: &str, payload: &[u8]) -> (Outcome, Vec<u8>) {
        match self.lane.submit(FunctionId::of(function), Payload::Bytes(payload), 0, 0) {
            Ok(ticket) => {
                let (outcome, _, bytes) = self.answer(ticket);
                (outcome, bytes)
            }
            Err(SubmitError::Unavailable { .. }) => (Outcome::Unavailable, Vec::new()),
            Err(error) => panic!("{error}"),
        }
    }

    /// Calls until the call is not refused: what a client library does while a process restarts.
    pub(crate) fn insist(&self, function: &str, payload: &[u8]) -> (Outcome, Vec<u8>) {
        let end = std::time::Instant::now() + PATIENCE;
        loop {
            match self.call(function, payload) {
                (Outcome::Unavailable, _) if std::time::Instant::now() < end => {
                    std::thread::sleep(Duration::from_millis(2));
                }
                other => return other,
            }
        }
    }
}
