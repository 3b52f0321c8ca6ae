//! The client: one connection at a time, made again when it is lost, and the requests of people and programs on it.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use praas_protocol::ProcessId;
use praas_protocol::control::WaitMode;

use crate::destination::Destination;
use crate::error::{ConnectError, RequestError};
use crate::fallback::Fallback;
use crate::limits::REQUEST_DEADLINE;
use crate::options::{ConnectOptions, Settings, Transport};
use crate::process::Process;
use crate::remote::{RemoteClient, dial_shared};
use crate::same_host;
use crate::session::Session;
use crate::shared_connection::{Connection, SharedConnection};

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
    session: SharedConnection<Session>,
    /// For a client that was given an address.
    fallback: Option<Fallback>,
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
        let settings = match settings.transport {
            Transport::Automatic => match same_host::connect(link.greeting(), settings) {
                Ok(client) => return Ok(client),
                Err(settings) => settings,
            },
            _ => settings,
        };
        Ok(Self { way: ClientWay::Remote(Arc::new(RemoteClient::new(settings, link))) })
    }

    fn connect_local(settings: Settings) -> Result<Self, ConnectError> {
        let session = Session::open(&settings.socket, settings.token.read()?)?;
        Ok(Self::local(settings, session, None))
    }

    /// A client with its first connection to a socket.
    pub(crate) fn local(settings: Settings, session: Arc<Session>, fallback: Option<Fallback>) -> Self {
        let shared = ClientShared { settings, session: SharedConnection::new(Some(session)), fallback };
        Self { way: ClientWay::Local(Arc::new(shared)) }
    }

    /// How the server is reached at this moment.
    pub(crate) fn way(&self) -> ClientWay {
        match &self.way {
            ClientWay::Local(shared) => match shared.remote() {
                Some(remote) => ClientWay::Remote(Arc::clone(remote)),
                None => self.way.clone(),
            },
            ClientWay::Remote(_) => self.way.clone(),
        }
    }

    /// Does something by the way of this moment, and again if another is found meanwhile: nothing was done then.
    pub(crate) fn by_the_way<T>(&self, act: impl Fn(&ClientWay) -> Result<T, RequestError>) -> Result<T, RequestError> {
        match act(&self.way()) {
            Err(RequestError::Connect(ConnectError::OverNetwork)) => act(&self.way()),
            outcome => outcome,
        }
    }

    /// Opens a way to a process: a lane, or a handle on the connection. Cheap to clone; one serves many threads.
    ///
    /// # Errors
    /// [`RequestError`] when there is no such process, or the server gives no lane to it.
    pub fn process(&self, process: ProcessId) -> Result<Process, RequestError> {
        self.by_the_way(|way| match way {
            ClientWay::Local(shared) => Process::open(Arc::clone(shared), Destination::Process(process)),
            ClientWay::Remote(remote) => {
                let dedicated = remote.settings().dedicated;
                Process::open_remote(Arc::clone(remote), Destination::Process(process), dedicated)
            }
        })
    }

    /// The same with a network connection of its own, which a worker of the process reads itself, whatever the options say.
    /// Where the server refuses that, calls go the ordinary way: see [`Process::route`].
    ///
    /// # Errors
    /// [`RequestError`] when there is no such process, or the server gives no way to it.
    pub fn dedicated_process(&self, process: ProcessId) -> Result<Process, RequestError> {
        match self.way() {
            ClientWay::Local(_) => self.process(process),
            ClientWay::Remote(remote) => Process::open_remote(remote, Destination::Process(process), true),
        }
    }

    /// Changes whenever the server program starts anew; `None` while there is no connection.
    #[must_use]
    pub fn server_incarnation(&self) -> Option<u64> {
        match self.way() {
            ClientWay::Local(shared) => {
                shared.session.current().filter(|session| session.is_usable()).map(|session| session.incarnation())
            }
            ClientWay::Remote(remote) => remote.server_incarnation(),
        }
    }

    /// Whether the server is reached over the network.
    #[must_use]
    pub fn is_remote(&self) -> bool {
        matches!(self.way(), ClientWay::Remote(_))
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
        if self.remote().is_some() {
            return Err(ConnectError::OverNetwork);
        }
        self.session.until(end, || match (self.open_session(), &self.fallback) {
            (Err(error), Some(fallback)) if !error.is_final() => match fallback.dial(end) {
                // It may have come up between the two.
                Some(link) => self.open_session().map_err(|_| {
                    fallback.take(link);
                    ConnectError::OverNetwork
                }),
                None => Err(error),
            },
            (opened, _) => opened,
        })
    }

    fn open_session(&self) -> Result<Arc<Session>, ConnectError> {
        // Read each time: a fresh server may have written another token.
        Session::open(&self.settings.socket, self.settings.token.read()?)
    }

    /// The client of the network, once that is the way.
    pub(crate) fn remote(&self) -> Option<&Arc<RemoteClient>> {
        self.fallback.as_ref()?.remote()
    }
}

impl Drop for ClientShared {
    fn drop(&mut self) {
        if let Some(session) = self.session.current() {
            session.close();
        }
    }
}

impl fmt::Debug for ClientShared {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ClientShared")
            .field("socket", &self.settings.socket)
            .field("session", &self.session.current())
            .finish_non_exhaustive()
    }
}

impl Connection for Session {
    fn is_usable(&self) -> bool {
        !self.is_lost()
    }

    fn asked_pause(&self) -> Option<Duration> {
        None
    }
}

/// The time that an ordinary request on the control socket may take.
pub(crate) fn request_end(limit: Duration) -> Instant {
    Instant::now() + limit
}
