//! Why a connection or a request on the control socket failed. How a *call* ends is `praas_protocol::CallError`.

use std::io;
use std::path::PathBuf;

use praas_protocol::control::ControlError;
use praas_protocol::{CallError, Phase, ProcessId};
use praas_sys::data_directory::DataDirectoryError;

/// Why no connection to the server came about.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// No data directory could be chosen.
    #[error(transparent)]
    DataDirectory(#[from] DataDirectoryError),
    /// Nobody listens on the socket.
    #[error("no praas server listens on {path}; start one with `praas serve`")]
    NoServer {
        /// The socket that was tried.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The token file could not be read.
    #[error(
        "the token in {path} could not be read; a server writes it when it starts, readable for its own user alone: run as that user or pass a token"
    )]
    TokenUnreadable {
        /// The token file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The token is longer than a token can be.
    #[error("the token has {actual_bytes} bytes, a token has at most {limit_bytes}: is this the right file?")]
    TokenTooLong {
        /// Its size.
        actual_bytes: usize,
        /// The limit.
        limit_bytes: usize,
    },
    /// The server refused the hello.
    #[error(transparent)]
    Refused(ControlError),
    /// The peer on the socket did not complete the hello.
    #[error("the server on {path} did not complete the hello: {what}; is it a praas server of the same release?")]
    Hello {
        /// The socket.
        path: PathBuf,
        /// What happened instead.
        what: String,
    },
    /// A server on the network could not be reached.
    #[error("no praas server answers on {address}: {source}; is it started with `praas serve --listen`?")]
    Unreachable {
        /// The address.
        address: String,
        /// The system's error.
        source: io::Error,
    },
    /// The server does not share memory with this client any more, and answers on the network: whatever is asked next goes there.
    #[error("the server answers on the network only; ask again")]
    OverNetwork,
    /// None of several addresses led to a server.
    #[error("none of the addresses led to a praas server: {attempts}")]
    NoneReachable {
        /// What happened at each.
        attempts: String,
    },
    /// The peer at an address did not complete the hello.
    #[error("the server at {address} did not complete the hello: {what}; is it a praas server of a release that fits?")]
    Greeting {
        /// The address.
        address: String,
        /// What happened instead.
        what: String,
    },
    /// The options name no address, or too many.
    #[error("{given} addresses were given; name 1 to {limit} as \"host:port\"")]
    Addresses {
        /// How many were given.
        given: usize,
        /// The limit.
        limit: usize,
    },
    /// The system refused a resource.
    #[error("{what} failed")]
    Host {
        /// What was tried.
        what: &'static str,
        /// The system's error.
        source: io::Error,
    },
}

impl ConnectError {
    /// Whether trying again cannot help before somebody changes something.
    pub(crate) fn is_final(&self) -> bool {
        match self {
            Self::Refused(refusal) => {
                !matches!(refusal, ControlError::LimitReached { .. } | ControlError::ShuttingDown)
            }
            Self::DataDirectory(_) | Self::TokenTooLong { .. } | Self::Addresses { .. } => true,
            Self::NoServer { .. }
            | Self::TokenUnreadable { .. }
            | Self::Hello { .. }
            | Self::Unreachable { .. }
            | Self::NoneReachable { .. }
            | Self::Greeting { .. }
            | Self::Host { .. } => false,
            Self::OverNetwork => true,
        }
    }
}

/// Why a request on the control socket was not carried out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The server refused it.
    #[error(transparent)]
    Refused(#[from] ControlError),
    /// There is no connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The connection broke before the answer came: the server may have carried it out.
    #[error("the connection to the server was lost before it answered; it may have carried the request out")]
    ConnectionLost,
    /// No answer came in time: the server may still carry it out.
    #[error("the server did not answer within {waited_ms} ms; it may still carry the request out")]
    TimedOut {
        /// How long the client waited.
        waited_ms: u64,
    },
    /// Too many requests are open on this connection.
    #[error("{used} of {limit} requests are open on this connection; wait for their answers")]
    TooManyOpen {
        /// Open requests.
        used: usize,
        /// The limit.
        limit: usize,
    },
    /// The answer is not one to this request.
    #[error("the server answered {what}; use the same release of client and server")]
    Unexpected {
        /// What came.
        what: &'static str,
    },
    /// The process lives on another server, which could not be followed to.
    #[error("the process moved to {to}; connect to that server")]
    Moved {
        /// The other server's address.
        to: String,
    },
    /// The server refused it for a reason that this release does not know.
    #[error("{what}; a newer client may say more")]
    RefusedOtherwise {
        /// The server's words.
        what: String,
    },
    /// The lane that the server made could not be used.
    #[error("the lane could not be attached: {reason}")]
    Lane {
        /// Why.
        reason: String,
    },
}

/// What a failed attempt to open a lane means for the calls that wait for it.
#[derive(Debug, Clone)]
pub(crate) enum LaneVerdict {
    /// Nothing will change without help: the calls end so.
    Final(CallError),
    /// Worth another attempt; at its deadline a call ends so.
    Later(CallError),
}

impl LaneVerdict {
    /// The error either way.
    pub(crate) fn into_error(self) -> CallError {
        match self {
            Self::Final(error) | Self::Later(error) => error,
        }
    }
}

/// Nothing of a call ran when its lane could not be opened: so says every verdict.
pub(crate) fn lane_verdict(error: &RequestError, process: ProcessId) -> LaneVerdict {
    use LaneVerdict::{Final, Later};
    let never_ran = CallError::ConnectionLost { may_have_run: false };
    match error {
        RequestError::Refused(refusal) => refusal_verdict(refusal, process),
        RequestError::Connect(ConnectError::Refused(refusal)) => refusal_verdict(refusal, process),
        RequestError::Connect(error) if error.is_final() => Final(never_ran),
        RequestError::Moved { to } => Final(CallError::Moved { to: to.clone() }),
        RequestError::Unexpected { .. } | RequestError::RefusedOtherwise { .. } | RequestError::Lane { .. } => {
            Final(never_ran)
        }
        RequestError::Connect(_) | RequestError::ConnectionLost | RequestError::TimedOut { .. } => Later(never_ran),
        RequestError::TooManyOpen { used, limit } => {
            Later(CallError::Overloaded { what: "the control connection", used: *used as u64, limit: *limit as u64 })
        }
    }
}

fn refusal_verdict(refusal: &ControlError, process: ProcessId) -> LaneVerdict {
    use LaneVerdict::{Final, Later};
    match refusal {
        ControlError::UnknownProcess { .. } | ControlError::UnknownApplication { .. } => {
            Final(CallError::UnknownProcess { process })
        }
        ControlError::Unauthorized { .. } => Final(CallError::Unauthorized { right: "invoke" }),
        ControlError::TokenRefused { .. } => Final(CallError::Unauthorized { right: "connect" }),
        ControlError::LimitReached { used, limit, .. } => {
            Final(CallError::Overloaded { what: "the server's room for lanes", used: *used, limit: *limit })
        }
        ControlError::WrongVersion { .. } | ControlError::Protocol { .. } => {
            Final(CallError::ConnectionLost { may_have_run: false })
        }
        ControlError::ShuttingDown => Later(CallError::ConnectionLost { may_have_run: false }),
        ControlError::WrongState { .. }
        | ControlError::WorkersFailed { .. }
        | ControlError::Host { .. }
        | ControlError::SwapFailed { .. }
        | ControlError::NoStorage
        | ControlError::Elsewhere { .. }
        | ControlError::UnknownSession { .. }
        | ControlError::ProcessExists { .. } => Later(CallError::Unavailable { phase: Phase::Closed }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_process_ends_calls_and_a_restarting_one_lets_them_wait() {
        let process: ProcessId = "hello/alice".parse().unwrap();
        let gone = RequestError::Refused(ControlError::UnknownProcess { process });
        assert!(matches!(lane_verdict(&gone, process), LaneVerdict::Final(CallError::UnknownProcess { .. })));
        let draining = ControlError::WrongState { process, state: praas_protocol::control::ProcessState::Draining };
        assert!(matches!(lane_verdict(&draining.into(), process), LaneVerdict::Later(CallError::Unavailable { .. })));
        let lost = lane_verdict(&RequestError::ConnectionLost, process);
        assert_eq!(lost.into_error(), CallError::ConnectionLost { may_have_run: false });
    }
}
