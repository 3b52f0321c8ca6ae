//! One connection to the server: its control socket, the thread that reads it, and what waits for its answers.
//!
//! Invariants
//! 1. Only the session's thread reads the socket; anybody may send, one packet a message.
//! 2. `lost` is set once and never cleared. After that no request is added, every open request has been woken, and every
//!    registered lane has been marked lost; a lane registered later is marked by the one who registers it.
//! 3. The thread ends when the socket ends, and the client ends the socket when it is dropped.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use praas_protocol::control::{CONTROL_VERSION, ClientMessage, ClientRequest, ControlError, ServerMessage};

use crate::destination::LaneEnd;
use crate::error::{ConnectError, RequestError};
use crate::limits::{REQUEST_DEADLINE, REQUESTS_OPEN_MAX};
use crate::open_lane::OpenLane;
use crate::socket::{ControlSocket, PacketBuffer};

/// A connection that was accepted by the server.
pub(crate) struct Session {
    socket: Arc<ControlSocket>,
    incarnation: u64,
    lost: AtomicBool,
    requests: Mutex<OpenRequests>,
    lanes: Mutex<Vec<Weak<OpenLane>>>,
}

#[derive(Default)]
struct OpenRequests {
    last_number: u64,
    waiting: HashMap<u64, SyncSender<ControlAnswer>>,
}

/// What the server said to a request, with the descriptors that came along.
pub(crate) struct ControlAnswer {
    pub(crate) message: ServerMessage,
    pub(crate) descriptors: Vec<OwnedFd>,
}

impl Session {
    /// Connects, says hello and starts the thread that reads.
    pub(crate) fn open(path: &Path, token: String) -> Result<Arc<Self>, ConnectError> {
        let socket = ControlSocket::connect(path)?;
        let incarnation = say_hello(&socket, path, token)?;
        let session = Arc::new(Self {
            socket: Arc::new(socket),
            incarnation,
            lost: AtomicBool::new(false),
            requests: Mutex::default(),
            lanes: Mutex::default(),
        });
        let reader = Arc::clone(&session);
        thread::Builder::new()
            .name("praas-session".into())
            .spawn(move || reader.read_until_lost())
            .map_err(|source| ConnectError::Host { what: "starting the session's thread", source })?;
        Ok(session)
    }

    /// Changes whenever the server program starts anew.
    pub(crate) fn incarnation(&self) -> u64 {
        self.incarnation
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    pub(crate) fn socket(&self) -> &Arc<ControlSocket> {
        &self.socket
    }

    /// Ends the connection; the thread notices and marks everything lost.
    pub(crate) fn close(&self) {
        self.socket.shut_down();
    }

    /// Has `lane` marked when this connection is lost.
    pub(crate) fn register(&self, lane: &Arc<OpenLane>) {
        let mut lanes = lock(&self.lanes);
        lanes.retain(|lane| lane.strong_count() > 0);
        lanes.push(Arc::downgrade(lane));
        drop(lanes);
        if self.is_lost() {
            lane.mark_lost();
        }
    }

    /// Sends a request; its answer is awaited on what is returned.
    pub(crate) fn start(self: &Arc<Self>, body: ClientRequest) -> Result<OpenRequest, RequestError> {
        let (sender, receiver) = sync_channel(1);
        let number = {
            let mut requests = lock(&self.requests);
            if self.is_lost() {
                return Err(RequestError::ConnectionLost);
            }
            let used = requests.waiting.len();
            if used >= REQUESTS_OPEN_MAX {
                return Err(RequestError::TooManyOpen { used, limit: REQUESTS_OPEN_MAX });
            }
            requests.last_number += 1;
            let number = requests.last_number;
            requests.waiting.insert(number, sender);
            number
        };
        let request = OpenRequest { session: Arc::clone(self), number, receiver };
        match self.socket.send(&ClientMessage::Request { request: number, body }, REQUEST_DEADLINE) {
            Ok(()) => Ok(request),
            Err(_) => {
                // A socket that takes nothing any more is of no use to anybody.
                self.close();
                Err(RequestError::ConnectionLost)
            }
        }
    }

    /// Sends a request and waits for its answer.
    pub(crate) fn ask(self: &Arc<Self>, body: ClientRequest, limit: Duration) -> Result<ControlAnswer, RequestError> {
        match self.start(body)?.wait(limit)? {
            Some(answer) => Ok(answer),
            None => Err(RequestError::TimedOut { waited_ms: u64::try_from(limit.as_millis()).unwrap_or(u64::MAX) }),
        }
    }

    fn read_until_lost(&self) {
        // Whatever ends the reading, a decoding error included, ends the connection: the stream cannot be trusted further.
        let mut buffer = PacketBuffer::new();
        while let Ok(Some((message, descriptors))) = self.socket.receive(&mut buffer) {
            let Some(number) = request_number(&message) else { break };
            let waiting = lock(&self.requests).waiting.remove(&number);
            // The channel has room for the one answer; a receiver that is gone no longer wants it.
            let answer = ControlAnswer { message, descriptors };
            let unwanted = match waiting {
                Some(sender) => sender.try_send(answer).err().map(|error| match error {
                    TrySendError::Full(answer) | TrySendError::Disconnected(answer) => answer,
                }),
                None => Some(answer),
            };
            if let Some(answer) = unwanted {
                self.give_back(&answer.message);
            }
        }
        self.mark_lost();
    }

    /// A lane that nobody wants, because it came after its request had timed out, is closed: the server would keep it as long as
    /// the connection.
    pub(crate) fn give_back(&self, message: &ServerMessage) {
        let (end, lane) = match message {
            ServerMessage::LaneOpened { lane, process, .. } => (LaneEnd::Process(*process), *lane),
            ServerMessage::SessionOpened { lane, ticket, .. } => (LaneEnd::Session(ticket.session), *lane),
            _ => return,
        };
        self.socket.send_hint(&end.farewell(lane));
    }

    fn mark_lost(&self) {
        {
            let mut requests = lock(&self.requests);
            // Under the lock: `start` looks at it there, so that no request is added after the map was cleared.
            self.lost.store(true, Ordering::Release);
            requests.waiting.clear();
        }
        self.socket.shut_down();
        let lanes: Vec<_> = lock(&self.lanes).drain(..).filter_map(|lane| lane.upgrade()).collect();
        for lane in lanes {
            lane.mark_lost();
        }
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Session")
            .field("incarnation", &self.incarnation)
            .field("lost", &self.is_lost())
            .finish_non_exhaustive()
    }
}

/// A request that was sent and whose answer has not been taken.
pub(crate) struct OpenRequest {
    session: Arc<Session>,
    number: u64,
    receiver: Receiver<ControlAnswer>,
}

impl OpenRequest {
    /// Waits for the answer; `None` when `limit` passed first, and then it can be awaited again.
    pub(crate) fn wait(&self, limit: Duration) -> Result<Option<ControlAnswer>, RequestError> {
        match self.receiver.recv_timeout(limit) {
            Ok(ControlAnswer { message: ServerMessage::Failed { error, .. }, .. }) => Err(error.into()),
            Ok(answer) => Ok(Some(answer)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(RequestError::ConnectionLost),
        }
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        lock(&self.session.requests).waiting.remove(&self.number);
        // It may have come just before nobody was waiting for it any more.
        if let Ok(answer) = self.receiver.try_recv() {
            self.session.give_back(&answer.message);
        }
    }
}

/// A poisoned lock is taken all the same: no code of ours panics between the steps of a change to what these guard.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn say_hello(socket: &ControlSocket, path: &Path, token: String) -> Result<u64, ConnectError> {
    let broken = |what: String| ConnectError::Hello { path: path.to_owned(), what };
    let hello = ClientMessage::Hello { version: CONTROL_VERSION, token, network: false };
    // A server that refuses a connection answers and closes without reading, so a failed send is not the last word.
    let sent = socket.send(&hello, REQUEST_DEADLINE);
    let answered = socket.receive_within(&mut PacketBuffer::new(), REQUEST_DEADLINE);
    match answered {
        Ok(Some((ServerMessage::Welcome { version: CONTROL_VERSION, incarnation }, _))) => Ok(incarnation),
        Ok(Some((ServerMessage::Welcome { version, .. }, _))) => {
            Err(ConnectError::Refused(ControlError::WrongVersion { server: version, client: CONTROL_VERSION }))
        }
        Ok(Some((ServerMessage::Failed { error, .. }, _))) => Err(ConnectError::Refused(error)),
        Ok(Some(_)) => Err(broken("it answered something else".into())),
        Ok(None) => Err(broken("it closed the connection".into())),
        Err(error) => Err(broken(sent.err().unwrap_or(error).to_string())),
    }
}

/// The request that a message answers; `None` for a message that no server sends after the hello.
fn request_number(message: &ServerMessage) -> Option<u64> {
    match message {
        ServerMessage::Welcome { .. } | ServerMessage::MessageLaneGone { .. } => None,
        ServerMessage::Done { request }
        | ServerMessage::Failed { request, .. }
        | ServerMessage::Processes { request, .. }
        | ServerMessage::Applications { request, .. }
        | ServerMessage::Stats { request, .. }
        | ServerMessage::Output { request, .. }
        | ServerMessage::Transitions { request, .. }
        | ServerMessage::Stored { request, .. }
        | ServerMessage::LaneOpened { request, .. }
        | ServerMessage::SessionOpened { request, .. }
        | ServerMessage::MessageLaneOpened { request, .. }
        | ServerMessage::DirectoryChanges { request, .. } => Some(*request),
    }
}
