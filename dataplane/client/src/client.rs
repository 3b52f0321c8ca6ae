//! The client: one connection at a time, made again when it is lost, and the requests of people and programs on it.
//!
//! At most one thread connects at a time; the others wait for it. Attempts are spaced by a back-off that all share, so
//! that a hundred threads in trouble do not multiply the server's.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use praas_protocol::ProcessId;
use praas_protocol::control::WaitMode;

use crate::backoff::Backoff;
use crate::error::{ConnectError, RequestError};
use crate::limits::{BACKOFF_CONNECT_MAX, REQUEST_DEADLINE};
use crate::options::{ConnectOptions, Settings, Transport};
use crate::process::Process;
use crate::remote::{RemoteClient, dial_shared};
use crate::same_host;
use crate::session::{Session, lock};

/// A client of one praas server. Cheap to clone; clones share the connection.
///
/// When the server goes away, calls in flight end as `ConnectionLost`, and whatever is asked afterwards connects again
/// within its own deadline: nothing needs to be made anew.
///
/// ```no_run
/// use praas_client::Client;
///
/// let client = Client::connect_default()?;
/// let alice = client.process("hello/alice".parse()?)?;
/// let reply = alice.invoke("echo", b"hello")?;
/// assert_eq!(reply.as_slice(), b"hello");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Client {
    pub(crate) way: ClientWay,
}

/// How a client reaches its server.
#[derive(Clone)]
pub(crate) enum ClientWay {
    /// On the same host: a control socket, and lanes.
    Local(Arc<ClientShared>),
    /// Over the network.
    Remote(Arc<RemoteClient>),
}

/// What clones of a client, its processes and their calls share. The connection ends with the last of them.
pub(crate) struct ClientShared {
    settings: Settings,
    slot: Mutex<Slot>,
    connected: Condvar,
}

struct Slot {
    current: Option<Arc<Session>>,
    connecting: bool,
    next_attempt: Option<Instant>,
    backoff: Backoff,
}

impl Client {
    /// Connects to the local server of this user.
    ///
    /// # Errors
    /// [`ConnectError`] when there is no server, or it refuses the token or the version.
    pub fn connect_default() -> Result<Self, ConnectError> {
        Self::connect(ConnectOptions::new())
    }

    /// Connects to the server at a network address, `host:port`; over shared memory if that is on this host.
    ///
    /// ```no_run
    /// use praas_client::Client;
    ///
    /// let client = Client::connect_remote("db.example:7411", "praas1.00.ff")?;
    /// # Ok::<(), praas_client::ConnectError>(())
    /// ```
    ///
    /// # Errors
    /// [`ConnectError`] when there is no server, or it refuses the token or the version.
    pub fn connect_remote(address: impl Into<String>, token: impl Into<String>) -> Result<Self, ConnectError> {
        Self::connect(ConnectOptions::new().address(address).token(token))
    }

    /// Connects as `options` say. One attempt is made; later losses are repaired with patience.
    ///
    /// # Errors
    /// [`ConnectError`] when there is no server, or it refuses the token or the version.
    pub fn connect(options: ConnectOptions) -> Result<Self, ConnectError> {
        let settings = options.resolve()?;
        if settings.addresses.is_empty() {
            return Self::connect_local(settings);
        }
        let link = dial_shared(&settings.addresses, &settings, request_end(REQUEST_DEADLINE))?;
        if settings.transport == Transport::Automatic
            && let Some(client) = same_host::connect(link.greeting(), &settings)
        {
            return Ok(client);
        }
        Ok(Self { way: ClientWay::Remote(Arc::new(RemoteClient::new(settings, link))) })
    }

    pub(crate) fn connect_local(settings: Settings) -> Result<Self, ConnectError> {
        let session = Session::open(&settings.socket, settings.token.read()?)?;
        let slot = Slot {
            current: Some(session),
            connecting: false,
            next_attempt: None,
            backoff: Backoff::new(BACKOFF_CONNECT_MAX),
        };
        let shared = ClientShared { settings, slot: Mutex::new(slot), connected: Condvar::new() };
        Ok(Self { way: ClientWay::Local(Arc::new(shared)) })
    }

    /// Opens a way to a process: a lane, or a handle on the connection. Cheap to clone; one serves many threads.
    ///
    /// # Errors
    /// [`RequestError`] when there is no such process, or the server gives no lane to it.
    pub fn process(&self, process: ProcessId) -> Result<Process, RequestError> {
        match &self.way {
            ClientWay::Local(shared) => Process::open(Arc::clone(shared), process),
            ClientWay::Remote(remote) => {
                let dedicated = remote.settings().dedicated;
                Process::open_remote(Arc::clone(remote), process, dedicated)
            }
        }
    }

    /// The same with a network connection of its own, which a worker of the process reads itself, whatever the options say.
    /// Where the server refuses that, calls go the ordinary way: see [`Process::route`].
    ///
    /// # Errors
    /// [`RequestError`] when there is no such process, or the server gives no way to it.
    pub fn dedicated_process(&self, process: ProcessId) -> Result<Process, RequestError> {
        match &self.way {
            ClientWay::Local(_) => self.process(process),
            ClientWay::Remote(remote) => Process::open_remote(Arc::clone(remote), process, true),
        }
    }

    /// Changes whenever the server program starts anew; `None` while there is no connection.
    #[must_use]
    pub fn server_incarnation(&self) -> Option<u64> {
        match &self.way {
            ClientWay::Local(shared) => {
                let slot = lock(&shared.slot);
                slot.current.as_ref().filter(|session| !session.is_lost()).map(|session| session.incarnation())
            }
            ClientWay::Remote(remote) => remote.server_incarnation(),
        }
    }

    /// Whether the server is reached over the network.
    #[must_use]
    pub fn is_remote(&self) -> bool {
        matches!(self.way, ClientWay::Remote(_))
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = formatter.debug_tuple("Client");
        match &self.way {
            ClientWay::Local(shared) => shown.field(shared).finish(),
            ClientWay::Remote(remote) => shown.field(remote).finish(),
        }
    }
}

impl ClientShared {
    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(crate) fn wait_mode_or(&self, application: WaitMode) -> WaitMode {
        self.settings.wait_mode.unwrap_or(application)
    }

    /// The connection, made again if it was lost. At least one attempt is made, however close `end` is.
    pub(crate) fn session_until(&self, end: Instant) -> Result<Arc<Session>, ConnectError> {
        loop {
            if let Some(session) = self.session_or_turn(end) {
                return Ok(session);
            }
            let turn = ConnectTurn { shared: self };
            let attempt = self.attempt();
            let outcome = turn.finish(attempt);
            match outcome {
                Ok(session) => return Ok(session),
                Err(error) if error.is_final() || Instant::now() >= end => return Err(error),
                Err(_) => {}
            }
        }
    }

    /// A live session; or `None` when it is the caller's turn to connect, which it must then end by a [`ConnectTurn`].
    fn session_or_turn(&self, end: Instant) -> Option<Arc<Session>> {
        let mut slot = lock(&self.slot);
        loop {
            if let Some(session) = slot.current.as_ref().filter(|session| !session.is_lost()) {
                return Some(Arc::clone(session));
            }
            let now = Instant::now();
            let pause = match slot.next_attempt {
                _ if slot.connecting => REQUEST_DEADLINE,
                Some(next) if next.min(end) > now => next.min(end) - now,
                _ => {
                    slot.connecting = true;
                    return None;
                }
            };
            // The one who connects is bounded by the deadline of the hello; past `end` the caller still gets its turn.
            slot = self.connected.wait_timeout(slot, pause).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn attempt(&self) -> Result<Arc<Session>, ConnectError> {
        // Read each time: a fresh server may have written another token.
        Session::open(&self.settings.socket, self.settings.token.read()?)
    }
}

impl Drop for ClientShared {
    fn drop(&mut self) {
        if let Some(session) = lock(&self.slot).current.take() {
            session.close();
        }
    }
}

impl fmt::Debug for ClientShared {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ClientShared")
            .field("socket", &self.settings.socket)
            .field("session", &lock(&self.slot).current)
            .finish_non_exhaustive()
    }
}

/// The right to connect, given back whatever happens.
struct ConnectTurn<'a> {
    shared: &'a ClientShared,
}

impl ConnectTurn<'_> {
    fn finish(self, attempt: Result<Arc<Session>, ConnectError>) -> Result<Arc<Session>, ConnectError> {
        let mut slot = lock(&self.shared.slot);
        match &attempt {
            Ok(session) => {
                slot.current = Some(Arc::clone(session));
                slot.backoff.restart();
                slot.next_attempt = None;
            }
            Err(_) => {
                let pause = slot.backoff.pause();
                slot.next_attempt = Some(Instant::now() + pause);
            }
        }
        drop(slot);
        attempt
    }
}

impl Drop for ConnectTurn<'_> {
    fn drop(&mut self) {
        lock(&self.shared.slot).connecting = false;
        self.shared.connected.notify_all();
    }
}

/// The time that an ordinary request on the control socket may take.
pub(crate) fn request_end(limit: Duration) -> Instant {
    Instant::now() + limit
}
