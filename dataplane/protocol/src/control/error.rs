//! Why the server did not do what it was asked.

use serde::{Deserialize, Serialize};

use super::ProcessState;
use crate::message::{Address, SessionId};
use crate::{Name, ProcessId};

/// Why the server did not do what a client asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum ControlError {
    /// Client and server speak different versions.
    #[error(
        "the server speaks version {server} of the control protocol, the client {client}: use the same release of both"
    )]
    WrongVersion {
        /// Of the server.
        server: u32,
        /// Of the client.
        client: u32,
    },
    /// The token is refused.
    #[error("{reason}")]
    TokenRefused {
        /// Why, from [`crate::token::TokenError`].
        reason: String,
    },
    /// The token lacks a right for this.
    #[error("the token does not allow this: it needs the right {right:?} for {what}")]
    Unauthorized {
        /// The missing right.
        right: String,
        /// For what.
        what: String,
    },
    /// No such application.
    #[error("this server has no application {application}; it serves: {known}")]
    UnknownApplication {
        /// The name that was asked for.
        application: Name,
        /// Names that exist, for people.
        known: String,
    },
    /// No such process.
    #[error("there is no process {process}; create it with `praas process create {process}`")]
    UnknownProcess {
        /// The id that was asked for.
        process: ProcessId,
    },
    /// The process exists already.
    #[error("process {process} exists already")]
    ProcessExists {
        /// Its id.
        process: ProcessId,
    },
    /// A limit was reached.
    #[error("{what}: {used} of {limit} in use, {asked} more asked for; {advice}")]
    LimitReached {
        /// Which limit.
        what: String,
        /// In use now.
        used: u64,
        /// The limit.
        limit: u64,
        /// How much more was asked for.
        asked: u64,
        /// What to do.
        advice: String,
    },
    /// The workers of the process could not be started.
    #[error("the workers of {process} did not start: {reason}")]
    WorkersFailed {
        /// Its id.
        process: ProcessId,
        /// What happened, with the last lines of output.
        reason: String,
    },
    /// The process does not take this request now.
    #[error("process {process} is {state}; try again later")]
    WrongState {
        /// Its id.
        process: ProcessId,
        /// Its state.
        state: ProcessState,
    },
    /// The process could not be stored, or not be brought back.
    #[error("{what} {process} failed: {reason}")]
    SwapFailed {
        /// Its id.
        process: ProcessId,
        /// What was being done: "swapping out", "restoring", "removing what is stored of it".
        what: String,
        /// What happened, and what to do.
        reason: String,
    },
    /// The server stores nothing.
    #[error("this server has no storage, so nothing can sleep: start it without --no-storage")]
    NoStorage,
    /// It is not in this server's memory: messages to it go over a call lane to the server's gateway.
    #[error("{to} is reached through the server's gateway only")]
    Elsewhere {
        /// Process or session.
        to: Address,
    },
    /// No such session of a client.
    #[error("there is no session {session}: it ended, or was never begun on this server or one that it knows")]
    UnknownSession {
        /// The session that was asked for.
        session: SessionId,
    },
    /// The server is shutting down.
    #[error("the server is shutting down")]
    ShuttingDown,
    /// The message broke the protocol.
    #[error("the message breaks the protocol: {reason}")]
    Protocol {
        /// How.
        reason: String,
    },
    /// Something failed on the host.
    #[error("{what} failed: {reason}")]
    Host {
        /// What the server tried.
        what: String,
        /// The system's error.
        reason: String,
    },
}
