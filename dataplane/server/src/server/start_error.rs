//! Why a server does not start.

use std::net::SocketAddr;
use std::path::PathBuf;

use praas_sys::driver::OpenError;

use crate::application::FieldError;
use crate::keeper::KeeperError;

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// More other servers than one can call.
    #[error(
        "{actual} other servers are to be called, at most {limit} can be: leave out those whose processes nobody here calls"
    )]
    TooManyPeers {
        /// How many were given.
        actual: usize,
        /// Most that can be.
        limit: usize,
    },
    /// Another server owns the data directory.
    #[error("another server uses {path}: stop it, or give this one another data directory")]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// The data directory's path leaves no room for the names of sockets.
    #[error("{path} is too long: a socket in it would have {bytes} bytes, {limit} fit; use a shorter data directory")]
    PathTooLong {
        /// The directory.
        path: PathBuf,
        /// Bytes of the longest socket path.
        bytes: usize,
        /// Bytes that fit.
        limit: usize,
    },
    /// The secret was damaged or exposed.
    #[error("{path} must have 32 bytes and mode 0600; remove it to make a new one (earlier tokens become invalid)")]
    BadSecret {
        /// The file.
        path: PathBuf,
    },
    /// An application lies outside its limits.
    #[error("application {application}: {error}")]
    BadApplication {
        /// Its name.
        application: String,
        /// What is wrong.
        error: FieldError,
    },
    /// An application wants a log, and the server has none.
    #[error(
        "application {application} asks for durability = \"logged\", and this server has no log to write to: start it with storage, \
         which logs go with, or write durability = \"memory\" in [state] of its praas.toml"
    )]
    NoLog {
        /// Its name.
        application: String,
    },
    /// An application wants checkpoints, and the server has nowhere to put them.
    #[error(
        "application {application} asks for durability = \"checkpoint\", and this server has no storage: start it with one, or \
         write durability = \"memory\" in [state] of its praas.toml"
    )]
    NoStorage {
        /// Its name.
        application: String,
    },
    /// Two applications share a name.
    #[error("two applications are called {application}: rename one")]
    SameName {
        /// The name.
        application: String,
    },
    /// The host cannot confine workers, and the server was told not to run without.
    #[error("the sandbox is incomplete: {reason}; run without --require-sandbox to accept that")]
    Sandbox {
        /// What is lacking.
        reason: String,
    },
    /// The keeper cannot be used.
    #[error(transparent)]
    Keeper(#[from] KeeperError),
    /// An address cannot be listened on.
    #[error("listening on {address} failed: {reason}; choose another address or port, or end who uses it")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's error.
        reason: String,
    },
    /// The network's sockets cannot be driven.
    #[error(transparent)]
    Driver(#[from] OpenError),
    /// The host refused something.
    #[error("{what} failed: {reason}")]
    Host {
        /// What was tried.
        what: &'static str,
        /// The system's error.
        reason: String,
    },
}

impl StartError {
    pub(crate) fn host(what: &'static str, error: &dyn std::fmt::Display) -> Self {
        Self::Host { what, reason: error.to_string() }
    }
}
