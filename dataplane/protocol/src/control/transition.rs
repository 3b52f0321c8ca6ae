//! What happens in the life of a process, and what storage holds of it, for people and programs that watch.

use serde::{Deserialize, Serialize};

use super::ProcessState;
use crate::ProcessId;

/// A process went from one state to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transition {
    /// Counts the transitions of all processes of this server since it started, from 1.
    pub number: u64,
    /// The process.
    pub process: ProcessId,
    /// The state that ended; `None` if the server had not known the process.
    pub from: Option<ProcessState>,
    /// The state that began; `None` if the process has ended.
    pub to: Option<ProcessState>,
    /// When, in milliseconds since 1970.
    pub at_unix_ms: u64,
    /// How long the process was in the state that ended, in microseconds, by a clock that does not jump.
    pub took_us: u64,
    /// Bytes that were moved to storage or from it meanwhile.
    pub bytes: u64,
    /// Why, at most [`crate::limits::TRANSITION_REASON_BYTES_MAX`]; empty where the states say it all.
    pub reason: String,
}

/// What storage holds of one life of a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredFolder {
    /// The process.
    pub process: ProcessId,
    /// Which life of it: of those that are over, nothing is needed any more.
    pub incarnation: u64,
    /// Its state on this server; `None` if that has no process of this life.
    pub state: Option<ProcessState>,
    /// Parts that are stored of it.
    pub blobs: u64,
    /// Their bytes, those included that its next snapshot leaves out.
    pub bytes: u64,
    /// How many of these belong to parts that its snapshot does not have: left by swaps that failed or crashed, or being written.
    pub leftover_bytes: u64,
}

/// Where a list of [`StoredFolder`]s goes on: after this process and life of it.
pub type StoredPlace = (ProcessId, u64);
