//! How a client connects and what its calls take by default.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use praas_protocol::control::WaitMode;
use praas_protocol::limits::{CALL_DEADLINE_NS_DEFAULT, TOKEN_BYTES_MAX};
use praas_sys::data_directory::{self, SOCKET_FILE, TOKEN_FILE};

use crate::deadline::Deadline;
use crate::error::ConnectError;
use crate::limits::{ADDRESSES_MAX, LIFECYCLE_DEADLINE};

/// How to reach a server, and the defaults of this client's calls.
///
/// Without any setting the local server of this user is found by itself.
///
/// ```no_run
/// use std::time::Duration;
/// use praas_client::{Client, ConnectOptions};
///
/// let options = ConnectOptions::new().data_directory("/srv/praas").call_deadline(Duration::from_secs(2));
/// let client = Client::connect(options)?;
/// # Ok::<(), praas_client::ConnectError>(())
/// ```
#[derive(Clone, Default)]
pub struct ConnectOptions {
    data_directory: Option<PathBuf>,
    socket: Option<PathBuf>,
    token: Option<String>,
    call_deadline: Option<Duration>,
    lifecycle_deadline: Option<Duration>,
    wait_mode: Option<WaitMode>,
    payload_bytes_max: Option<u32>,
    calls_in_flight: Option<u32>,
    addresses: Vec<String>,
    transport: Transport,
    dedicated: bool,
}

/// How calls travel to a server that was named by its network address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Transport {
    /// Shared memory when the server turns out to be on this host, else the network: when the client connects, and again when
    /// the server's socket answers no more.
    #[default]
    Automatic,
    /// The network, wherever the server is.
    Network,
}

impl ConnectOptions {
    /// Options that find the local server of this user.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The server's data directory, instead of this user's own one.
    #[must_use]
    pub fn data_directory(mut self, path: impl Into<PathBuf>) -> Self {
        self.data_directory = Some(path.into());
        self
    }

    /// The server's socket, instead of the one in the data directory.
    #[must_use]
    pub fn socket(mut self, path: impl Into<PathBuf>) -> Self {
        self.socket = Some(path.into());
        self
    }

    /// The token in text form, instead of the one in the data directory.
    #[must_use]
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// Time that a call may take unless it names its own deadline; 30 s by default.
    #[must_use]
    pub fn call_deadline(mut self, deadline: Duration) -> Self {
        self.call_deadline = Some(deadline);
        self
    }

    /// Time that creating, stopping or restarting a process may take; 60 s by default.
    #[must_use]
    pub fn lifecycle_deadline(mut self, deadline: Duration) -> Self {
        self.lifecycle_deadline = Some(deadline);
        self
    }

    /// How this client's threads wait for answers, instead of the way that each application names for its lanes.
    #[must_use]
    pub fn wait_mode(mut self, mode: WaitMode) -> Self {
        self.wait_mode = Some(mode);
        self
    }

    /// Largest payload in bytes that this client will send or receive; smaller lanes cost less memory. By default the
    /// application's limit.
    #[must_use]
    pub fn payload_bytes_max(mut self, bytes: u32) -> Self {
        self.payload_bytes_max = Some(bytes);
        self
    }

    /// Calls in flight that this client wants on each lane. The server may give fewer.
    #[must_use]
    pub fn calls_in_flight(mut self, calls: u32) -> Self {
        self.calls_in_flight = Some(calls);
        self
    }

    /// The network address of a server, as `host:port`: a name, an IPv4 address, or an IPv6 address in brackets. Each call
    /// adds one; they are tried in turn, and lead to the same service.
    ///
    /// ```no_run
    /// use praas_client::{Client, ConnectOptions};
    ///
    /// let options = ConnectOptions::new().address("[2001:db8::7]:7411").address("db.example:7411").token("praas1.00.ff");
    /// let client = Client::connect(options)?;
    /// # Ok::<(), praas_client::ConnectError>(())
    /// ```
    #[must_use]
    pub fn address(mut self, address: impl Into<String>) -> Self {
        self.addresses.push(address.into());
        self
    }

    /// Whether a server that was named by its address is reached over shared memory where that is possible.
    #[must_use]
    pub fn transport(mut self, transport: Transport) -> Self {
        self.transport = transport;
        self
    }

    /// Ask for a network connection of its own for each process, which a worker reads itself: one hop less a call, and one
    /// connection more a process. Where the server refuses, calls go the ordinary way: see
    /// [`Process::route`](crate::Process::route).
    #[must_use]
    pub fn dedicated(mut self, dedicated: bool) -> Self {
        self.dedicated = dedicated;
        self
    }

    pub(crate) fn resolve(self) -> Result<Settings, ConnectError> {
        if self.addresses.len() > ADDRESSES_MAX {
            return Err(ConnectError::Addresses { given: self.addresses.len(), limit: ADDRESSES_MAX });
        }
        let needs_socket = self.socket.is_none() && self.addresses.is_empty();
        let needs_directory = needs_socket || self.token.is_none();
        let directory = match self.data_directory {
            Some(directory) => directory,
            None if needs_directory => data_directory::default_path()?,
            None => PathBuf::new(),
        };
        Ok(Settings {
            socket: self.socket.unwrap_or_else(|| directory.join(SOCKET_FILE)),
            token: match self.token {
                Some(text) => TokenSource::Text(text),
                None => TokenSource::File(directory.join(TOKEN_FILE)),
            },
            call_deadline: self.call_deadline.unwrap_or(Duration::from_nanos(CALL_DEADLINE_NS_DEFAULT)),
            lifecycle_deadline: self.lifecycle_deadline.unwrap_or(LIFECYCLE_DEADLINE),
            wait_mode: self.wait_mode,
            payload_bytes_max: self.payload_bytes_max,
            calls_in_flight: self.calls_in_flight,
            addresses: self.addresses,
            transport: self.transport,
            dedicated: self.dedicated,
        })
    }
}

impl fmt::Debug for ConnectOptions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A token is a bearer's: it must not reach a log.
        formatter
            .debug_struct("ConnectOptions")
            .field("data_directory", &self.data_directory)
            .field("socket", &self.socket)
            .field("token", &self.token.as_ref().map(|_| "hidden"))
            .field("call_deadline", &self.call_deadline)
            .field("wait_mode", &self.wait_mode)
            .field("addresses", &self.addresses)
            .field("transport", &self.transport)
            .finish_non_exhaustive()
    }
}

/// The options with every default filled in.
pub(crate) struct Settings {
    pub(crate) socket: PathBuf,
    pub(crate) token: TokenSource,
    pub(crate) call_deadline: Duration,
    pub(crate) lifecycle_deadline: Duration,
    pub(crate) wait_mode: Option<WaitMode>,
    pub(crate) payload_bytes_max: Option<u32>,
    pub(crate) calls_in_flight: Option<u32>,
    pub(crate) addresses: Vec<String>,
    pub(crate) transport: Transport,
    pub(crate) dedicated: bool,
}

impl Settings {
    /// Whether callers poll a socket instead of sleeping. A network has no answers within a microsecond, so only by order.
    pub(crate) fn spins(&self) -> bool {
        self.wait_mode == Some(WaitMode::Spin)
    }

    /// The limit of a call: its own one counts from now, the client's from the first look at the clock.
    #[inline]
    pub(crate) fn deadline(&self, own: Option<Duration>) -> Deadline {
        match own {
            Some(limit) => Deadline::from_now(limit),
            None => Deadline::unread(self.call_deadline),
        }
    }
}

/// Where the token comes from. A file is read for each connection: a fresh server may have written another.
#[derive(Clone)]
pub(crate) enum TokenSource {
    Text(String),
    File(PathBuf),
}

impl TokenSource {
    pub(crate) fn read(&self) -> Result<String, ConnectError> {
        let text = match self {
            Self::Text(text) => text.clone(),
            Self::File(path) => read_token_file(path)?,
        };
        let text = text.trim();
        if text.len() > TOKEN_BYTES_MAX {
            return Err(ConnectError::TokenTooLong { actual_bytes: text.len(), limit_bytes: TOKEN_BYTES_MAX });
        }
        Ok(text.to_owned())
    }
}

fn read_token_file(path: &Path) -> Result<String, ConnectError> {
    fs::read_to_string(path).map_err(|source| ConnectError::TokenUnreadable { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_never_shows_in_debug_output() {
        let options = ConnectOptions::new().token("praas1.secret.mac");
        assert!(!format!("{options:?}").contains("secret"));
    }

    #[test]
    fn a_token_that_cannot_be_one_is_refused_before_it_is_sent() {
        let long = TokenSource::Text("x".repeat(TOKEN_BYTES_MAX + 1));
        assert!(matches!(long.read(), Err(ConnectError::TokenTooLong { .. })));
        assert_eq!(TokenSource::Text(" token\n".into()).read().unwrap(), "token");
        let absent = TokenSource::File("/nonexistent/token".into());
        assert!(matches!(absent.read(), Err(ConnectError::TokenUnreadable { .. })));
    }
}
