//! How a client connects and what its calls take by default.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use praas_protocol::control::WaitMode;
use praas_protocol::limits::{CALL_DEADLINE_NS_DEFAULT, TOKEN_BYTES_MAX};
use praas_sys::data_directory::{self, SOCKET_FILE, TOKEN_FILE};

use crate::error::ConnectError;
use crate::limits::LIFECYCLE_DEADLINE;

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

    pub(crate) fn resolve(self) -> Result<Settings, ConnectError> {
        let needs_directory = self.socket.is_none() || self.token.is_none();
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
}

/// Where the token comes from. A file is read for each connection: a fresh server may have written another.
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
