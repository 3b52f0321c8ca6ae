//! How a command fails: one type that keeps the cause's own, with a stable `kind` for programs and an exit code for shells.
//!
//! 1. A kind, once published, keeps its name and its meaning; messages may change.
//! 2. Every message says what to do next, either in the cause's own words or in those added here.

mod messages;

use std::error::Error;
use std::io::{self, ErrorKind, Write};
use std::net::SocketAddr;
use std::path::PathBuf;

use praas_benches::interleave::RoundError;
use praas_client::{
    CallError, ConnectError, ControlError, ProcessId, RecvError, RequestError, SendError, SessionError, StateError,
};
use praas_server::{ManifestError, SecretError};
use praas_storage::StorageError;
use serde_json::{Value, json};

use crate::demo::corpus::CorpusError;

/// The command was refused or failed.
pub const EXIT_CODE_FAILED: u8 = 1;
/// The command line is wrong.
pub const EXIT_CODE_USAGE: u8 = 2;
/// No server answers, or its connection was lost.
pub const EXIT_CODE_NO_SERVER: u8 = 3;
/// The function ran, and failed.
pub const EXIT_CODE_FUNCTION: u8 = 4;
/// A deadline passed first.
pub const EXIT_CODE_DEADLINE: u8 = 5;
/// The process has no such object.
pub const EXIT_CODE_NO_OBJECT: u8 = 6;
/// An object is not as a condition says; nothing was changed.
pub const EXIT_CODE_CONDITION: u8 = 7;
/// The server ended, and not everything could be stored.
pub const EXIT_CODE_UNSAVED: u8 = 8;
/// Ended by Ctrl-C or a signal: 128 and the number of SIGINT, as shells have it.
pub const EXIT_CODE_INTERRUPTED: u8 = 130;

/// Why a command did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// The command line is wrong.
    #[error("{message}")]
    Usage {
        /// What is wrong and how it is used.
        message: String,
    },
    /// No connection to a server.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The server refused or did not answer.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// A call ended without a result.
    #[error(transparent)]
    Call(#[from] CallError),
    /// An object was not read or written.
    #[error(transparent)]
    State(StateError),
    /// There is no session to exchange messages as.
    #[error(transparent)]
    Session(Box<SessionError>),
    /// The session that is kept in a file cannot be gone on with.
    #[error("the session in {path}: {error}. Remove the file, and the next command begins another one")]
    KeptSession {
        /// The file.
        path: PathBuf,
        /// Why not.
        error: Box<SessionError>,
    },
    /// A message was not sent, or nobody knows whether it was.
    #[error(transparent)]
    Send(Box<SendError>),
    /// No message was received.
    #[error(transparent)]
    Receive(Box<RecvError>),
    /// There is no such object.
    #[error("{process} has no object {key:?}; `praas state list {process}` shows those that it has")]
    NoObject {
        /// The process.
        process: ProcessId,
        /// The key.
        key: String,
    },
    /// An object is not as a condition says.
    #[error(
        "{key:?} of {process} {}, which is not what the condition says; nothing was changed. Read it again, and try again with the version that it has then", current_version(*current)
    )]
    ConditionRefused {
        /// The process.
        process: ProcessId,
        /// The key.
        key: String,
        /// The object's version; 0 when there is none.
        current: u64,
    },
    /// A `praas.toml` gives no application.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// `praas check` found something.
    #[error("{wrong} of {files} files {} wrong; each problem names its line and what is allowed", if *wrong == 1 { "is" } else { "are" })]
    CheckFailed {
        /// Files that are wrong.
        wrong: usize,
        /// Files looked at.
        files: usize,
    },
    /// Two manifests describe one application.
    #[error("application {name} is described by {first} and by {second}; give one of them another name")]
    SameApplication {
        /// Its name.
        name: String,
        /// The first file.
        first: PathBuf,
        /// The second file.
        second: PathBuf,
    },
    /// A server did not start or ended badly.
    #[error(transparent)]
    Server(#[from] ServerFailure),
    /// No secret to sign a token with.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// `praas new` was given a name that Cargo does not take.
    #[error("{name:?} cannot name a crate: {reason}; choose another name")]
    CrateName {
        /// The name.
        name: String,
        /// Why not.
        reason: &'static str,
    },
    /// `praas new` would write over something.
    #[error("{path} exists already; choose another name, or remove it first")]
    Exists {
        /// What exists.
        path: PathBuf,
    },
    /// A file or a stream could not be used.
    #[error("{what} {path} failed: {source}")]
    File {
        /// What was tried, such as "reading".
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The payload is larger than the process takes.
    #[error(
        "the payload has more than the {limit_bytes} bytes that the process takes; send less, or raise payload_bytes_max in praas.toml"
    )]
    PayloadTooLarge {
        /// The limit.
        limit_bytes: u64,
    },
    /// The demo has nothing to index below its path.
    #[error("there is no text file below {path}; name a directory with some: `praas demo DIR`")]
    NothingToIndex {
        /// The path.
        path: PathBuf,
    },
    /// The path that the demo should index.
    #[error(transparent)]
    Corpus(#[from] CorpusError),
    /// The demo's own server did not work.
    #[error("the demo's own server {what}{}", if log.is_empty() { String::new() } else { format!("; it said:\n{log}") })]
    DemoServer {
        /// What happened.
        what: String,
        /// The end of what it wrote on standard error.
        log: String,
    },
    /// A value of the demo could not be archived; a defect.
    #[error("a batch could not be archived: {reason}")]
    Archive {
        /// Why.
        reason: String,
    },
    /// A round of measurement failed.
    #[error(transparent)]
    Round(#[from] RoundError),
    /// The system refused something.
    #[error("{what} failed: {source}")]
    Host {
        /// What was tried.
        what: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// Standard output could not be written.
    #[error("writing the result failed: {0}")]
    Output(io::Error),
    /// Ctrl-C, or another signal that ends programs.
    #[error("interrupted; everything that was started has been ended")]
    Interrupted,
}

/// Why `praas serve` or the keeper did not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerFailure {
    /// It did not start.
    #[error(transparent)]
    Start(#[from] praas_server::StartError),
    /// It would be reachable from other hosts, unencrypted.
    #[error(
        "{address} can be reached from other hosts, and nothing on the network is encrypted yet: listen on loopback (and reach it through a tunnel), or add --insecure-network inside a network that you trust"
    )]
    Exposed {
        /// The address.
        address: SocketAddr,
    },
    /// It would speak to another host, unencrypted.
    #[error(
        "the server at {address} may be on another host, and nothing on the network is encrypted yet, its token least of all: name it by a loopback address (and reach it through a tunnel), or add --insecure-network inside a network that you trust"
    )]
    PeerExposed {
        /// Its address.
        address: String,
    },
    /// The place where processes are to sleep cannot be used.
    #[error("{0}; name another one with --storage, or let nothing sleep with --no-storage")]
    Storage(#[from] StorageError),
    /// It ended, and not everything could be stored.
    #[error(
        "{processes} of the processes could not be stored; {kept} of them are held by the keeper for {}: start the server again on the same data directory before that. The others end with what storage has of them. {report} says which and why",
        crate::latency::readable_ns(linger.as_secs_f64() * 1e9)
    )]
    Unsaved {
        /// How many.
        processes: usize,
        /// How many of them the keeper holds.
        kept: usize,
        /// How long it holds them.
        linger: std::time::Duration,
        /// The file that names them.
        report: PathBuf,
    },
    /// Its loop ended badly.
    #[error("the server ended: {0}; its workers are gone, start it again")]
    Ended(io::Error),
    /// The keeper.
    #[error(transparent)]
    Keeper(#[from] praas_server::keeper::KeeperError),
}

impl Failure {
    /// For `map_err`: `what` failed on `path`.
    pub(crate) fn file(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { what, path, source }
    }

    /// For `map_err`: the system refused `what`.
    pub(crate) fn host<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::Host { what, source: source.into() }
    }

    /// The name by which programs tell failures apart.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Usage { .. } => "usage",
            Self::Connect(error) => connect_kind(error),
            Self::Request(error) => request_kind(error),
            Self::Call(error) => call_kind(error),
            Self::State(error) => state_kind(error),
            Self::Session(error) | Self::KeptSession { error, .. } => messages::session_kind(error),
            Self::Send(error) => messages::send_kind(error),
            Self::Receive(error) => messages::receive_kind(error),
            Self::NoObject { .. } => "no_object",
            Self::ConditionRefused { .. } => "condition_refused",
            Self::Manifest(ManifestError::Unreadable { .. }) => "manifest_unreadable",
            Self::Manifest(ManifestError::Wrong { .. }) | Self::CheckFailed { .. } => "manifest_wrong",
            Self::SameApplication { .. } => "same_application",
            Self::Server(failure) => server_kind(failure),
            Self::Secret(SecretError::Absent { .. }) => "no_secret",
            Self::Secret(_) => "bad_secret",
            Self::CrateName { .. } => "crate_name",
            Self::Exists { .. } => "exists",
            Self::File { .. } => "file",
            Self::PayloadTooLarge { .. } => "payload_too_large",
            Self::NothingToIndex { .. } => "nothing_to_index",
            Self::Corpus(_) => "path",
            Self::DemoServer { .. } => "demo_server",
            Self::Archive { .. } => "archive",
            Self::Round(_) => "measurement",
            Self::Host { .. } => "host",
            Self::Output(_) => "output",
            Self::Interrupted => "interrupted",
        }
    }

    /// What a shell gets.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self.kind() {
            "usage" => EXIT_CODE_USAGE,
            "no_server" | "connection_lost" | "hello_failed" | "shutting_down" | "session_unreachable" => {
                EXIT_CODE_NO_SERVER
            }
            "function_failed" | "function_panicked" | "worker_lost" => EXIT_CODE_FUNCTION,
            "deadline_exceeded" | "timed_out" | "no_message" | "send_unknown" => EXIT_CODE_DEADLINE,
            "no_object" => EXIT_CODE_NO_OBJECT,
            "condition_refused" => EXIT_CODE_CONDITION,
            "unsaved" => EXIT_CODE_UNSAVED,
            "interrupted" => EXIT_CODE_INTERRUPTED,
            _ => EXIT_CODE_FAILED,
        }
    }

    /// Whether this is only that nobody reads standard output any more, as `| head` does.
    #[must_use]
    pub fn is_closed_output(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == ErrorKind::BrokenPipe)
    }

    /// The message with all its causes that it does not already tell.
    #[must_use]
    pub fn message(&self) -> String {
        let mut message = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            let words = error.to_string();
            if !message.contains(&words) {
                message = format!("{message}: {words}");
            }
            cause = error.source();
        }
        message
    }

    /// Tells it on standard error: in words, or as one line of JSON.
    pub fn report(&self, json: bool) {
        let mut stderr = io::stderr().lock();
        // Where standard error is closed there is nobody to tell.
        let _ = match json {
            true => writeln!(stderr, "{}", self.as_json()),
            false => writeln!(stderr, "error: {}", self.message()),
        };
    }

    fn as_json(&self) -> Value {
        let mut error = json!({ "kind": self.kind(), "message": self.message(), "exit_code": self.exit_code() });
        match self {
            Self::Call(CallError::FunctionFailed { code, .. }) => error["code"] = json!(code),
            Self::ConditionRefused { current, .. } => error["version"] = json!(current),
            Self::Send(failed) => messages::add_send(failed, &mut error),
            Self::Call(CallError::ConnectionLost { may_have_run }) => error["may_have_run"] = json!(may_have_run),
            Self::Manifest(ManifestError::Wrong { problems, .. }) => {
                error["problems"] = problems.iter().map(crate::command::check::problem_as_json).collect();
            }
            _ => {}
        }
        json!({ "error": error })
    }
}

impl From<StateError> for Failure {
    /// A call that ended as any call may is told as one.
    fn from(error: StateError) -> Self {
        match error {
            StateError::Call(error) => Self::Call(error),
            other => Self::State(other),
        }
    }
}

fn current_version(version: u64) -> String {
    match version {
        0 => "is not there".to_owned(),
        version => format!("has version {version}"),
    }
}

fn connect_kind(error: &ConnectError) -> &'static str {
    match error {
        ConnectError::NoServer { .. } | ConnectError::Unreachable { .. } | ConnectError::NoneReachable { .. } => {
            "no_server"
        }
        ConnectError::DataDirectory(_) => "data_directory",
        ConnectError::TokenUnreadable { .. } => "token_unreadable",
        ConnectError::TokenTooLong { .. } => "token_refused",
        ConnectError::Refused(refusal) => control_kind(refusal),
        ConnectError::Hello { .. } | ConnectError::Greeting { .. } => "hello_failed",
        ConnectError::Addresses { .. } => "usage",
        _ => "host",
    }
}

fn request_kind(error: &RequestError) -> &'static str {
    match error {
        RequestError::Refused(refusal) => control_kind(refusal),
        RequestError::Connect(error) => connect_kind(error),
        RequestError::ConnectionLost => "connection_lost",
        RequestError::TimedOut { .. } => "timed_out",
        RequestError::TooManyOpen { .. } => "limit_reached",
        RequestError::Unexpected { .. } => "protocol",
        RequestError::Lane { .. } => "lane",
        _ => "host",
    }
}

fn control_kind(refusal: &ControlError) -> &'static str {
    match refusal {
        ControlError::WrongVersion { .. } => "wrong_version",
        ControlError::TokenRefused { .. } => "token_refused",
        ControlError::Unauthorized { .. } => "unauthorized",
        ControlError::UnknownApplication { .. } => "unknown_application",
        ControlError::UnknownProcess { .. } => "unknown_process",
        ControlError::UnknownSession { .. } => "unknown_session",
        ControlError::Elsewhere { .. } => "elsewhere",
        ControlError::ProcessExists { .. } => "process_exists",
        ControlError::LimitReached { .. } => "limit_reached",
        ControlError::WorkersFailed { .. } => "workers_failed",
        ControlError::WrongState { .. } => "wrong_state",
        ControlError::SwapFailed { .. } => "swap_failed",
        ControlError::NoStorage => "no_storage",
        ControlError::ShuttingDown => "shutting_down",
        ControlError::Protocol { .. } => "protocol",
        ControlError::Host { .. } => "host",
    }
}

fn call_kind(error: &CallError) -> &'static str {
    match error {
        CallError::FunctionFailed { .. } => "function_failed",
        CallError::FunctionPanicked { .. } => "function_panicked",
        CallError::WorkerLost => "worker_lost",
        CallError::ConnectionLost { .. } => "connection_lost",
        CallError::UnknownFunction { .. } => "unknown_function",
        CallError::UnknownProcess { .. } => "unknown_process",
        CallError::DeadlineExceeded { .. } => "deadline_exceeded",
        CallError::Cancelled => "cancelled",
        CallError::Interrupted => "call_interrupted",
        CallError::Overloaded { .. } => "overloaded",
        CallError::Unavailable { .. } => "unavailable",
        CallError::Unauthorized { .. } => "unauthorized",
        CallError::PayloadTooLarge { .. } => "payload_too_large",
        CallError::Moved { .. } => "moved",
        CallError::ReplyLost { .. } => "reply_lost",
        CallError::Undecodable { .. } => "undecodable",
        CallError::MalformedReply { .. } => "malformed_reply",
        CallError::KeyReused => "key_reused",
        _ => "call",
    }
}

fn state_kind(error: &StateError) -> &'static str {
    match error {
        StateError::Key(_) => "usage",
        StateError::Unauthorized { .. } => "unauthorized",
        StateError::Unsupported { .. } => "unknown_function",
        StateError::TooLarge { .. } => "payload_too_large",
        StateError::Full { .. } => "state_full",
        StateError::Busy { .. } => "state_busy",
        StateError::Damaged { .. } => "state_damaged",
        StateError::OtherType { .. } => "other_type",
        StateError::Malformed { .. } => "malformed_reply",
        StateError::Call(error) => call_kind(error),
        _ => "state",
    }
}

fn server_kind(failure: &ServerFailure) -> &'static str {
    use praas_server::StartError;
    match failure {
        ServerFailure::Exposed { .. } | ServerFailure::PeerExposed { .. } => "insecure_network",
        ServerFailure::Storage(_) => "storage",
        ServerFailure::Unsaved { .. } => "unsaved",
        ServerFailure::Start(StartError::InUse { .. }) => "in_use",
        ServerFailure::Start(StartError::PathTooLong { .. }) => "path_too_long",
        ServerFailure::Start(StartError::BadSecret { .. }) => "bad_secret",
        ServerFailure::Start(StartError::BadApplication { .. }) => "manifest_wrong",
        ServerFailure::Start(StartError::SameName { .. }) => "same_application",
        ServerFailure::Start(StartError::Sandbox { .. }) => "sandbox_incomplete",
        ServerFailure::Start(StartError::Keeper(_)) | ServerFailure::Keeper(_) => "keeper",
        ServerFailure::Start(_) | ServerFailure::Ended(_) => "host",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_to_fail_has_its_exit_code() {
        let process: ProcessId = "hello/alice".parse().unwrap();
        let path = PathBuf::from("/run/x");
        let cases = [
            (Failure::Usage { message: String::new() }, EXIT_CODE_USAGE),
            (ConnectError::NoServer { path, source: io::Error::from(ErrorKind::NotFound) }.into(), EXIT_CODE_NO_SERVER),
            (CallError::FunctionFailed { code: 7, message: "no".into() }.into(), EXIT_CODE_FUNCTION),
            (CallError::DeadlineExceeded { deadline_ns: 1 }.into(), EXIT_CODE_DEADLINE),
            (Failure::NoObject { process, key: "k".into() }, EXIT_CODE_NO_OBJECT),
            (Failure::ConditionRefused { process, key: "k".into(), current: 3 }, EXIT_CODE_CONDITION),
            (StateError::Call(CallError::WorkerLost).into(), EXIT_CODE_FUNCTION),
            (StateError::Full { message: "no room".into() }.into(), EXIT_CODE_FAILED),
            (Failure::Interrupted, EXIT_CODE_INTERRUPTED),
            (CallError::UnknownFunction { function: "x".into() }.into(), EXIT_CODE_FAILED),
        ];
        for (failure, code) in cases {
            assert_eq!(failure.exit_code(), code, "{failure:?}");
        }
    }

    #[test]
    fn a_cause_is_told_once() {
        let source = io::Error::from(ErrorKind::NotFound);
        let failure = Failure::File { what: "reading", path: "/x".into(), source };
        assert_eq!(failure.message().matches("entity not found").count(), 1, "{}", failure.message());
    }

    #[test]
    fn a_functions_own_code_reaches_programs() {
        let failure = Failure::from(CallError::FunctionFailed { code: 7, message: "no".into() });
        assert_eq!(failure.as_json()["error"]["code"], 7);
        assert_eq!(failure.as_json()["error"]["kind"], "function_failed");
    }
}
