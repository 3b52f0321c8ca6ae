//! How a server ended, for whoever ran it.

use std::time::Duration;

use praas_protocol::ProcessId;

/// How a server ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Farewell {
    /// What it ended for: a signal, a notice of the host, the wish of whoever started it.
    pub reason: String,
    /// When it was told to, in milliseconds since 1970.
    pub began_unix_ms: u64,
    /// How long it took.
    pub took: Duration,
    /// How long it might have taken.
    pub grace: Duration,
    /// Processes that were stored.
    pub saved: u64,
    /// Bytes that were written for them.
    pub saved_bytes: u64,
    /// Processes that were to be stored and were not.
    pub unsaved: Vec<Unsaved>,
}

/// A process that was not stored when its server ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsaved {
    /// Which.
    pub process: ProcessId,
    /// Why not.
    pub reason: String,
    /// Changes of its state and mailbox that storage does not have.
    pub unsaved_changes: u64,
    /// Bytes of its state.
    pub state_bytes: u64,
    /// When what storage has of it was written, in milliseconds since 1970; `None` if it has nothing that this server knows of.
    pub stored_unix_ms: Option<u64>,
    /// Whether the keeper holds its memory for the next server on the same data directory, as long as it lingers.
    pub is_kept: bool,
    /// Whether the next server on the same data directory makes it again of its log, if the keeper does not hold it then.
    pub is_logged: bool,
}
