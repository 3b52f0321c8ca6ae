//! The state of a process, and what is counted of it.

use serde::{Deserialize, Serialize};

use crate::{Name, ProcessId};

/// What is counted of a process since it was created: by its workers, whose word is taken for it, and by the server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessStats {
    /// Its functions, in order of their names; those that were never called are left out.
    pub functions: Vec<FunctionStats>,
    /// Requests that lie unclaimed in its lanes now.
    pub queued: u64,
    /// Calls that its workers run now.
    pub running: u64,
    /// Open lanes.
    pub lanes: u64,
    /// Times a worker was replaced after it died.
    pub worker_restarts: u64,
}

/// What the workers of a process counted of one function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionStats {
    /// Its name.
    pub function: Name,
    /// Calls answered.
    pub calls: u64,
    /// Of those, calls that ended as an error or a panic.
    pub failed: u64,
    /// Calls that were timed, one in 64: from the start of the function to the publication of its answer.
    pub timed: u64,
    /// Their mean in nanoseconds.
    pub mean_ns: u64,
    /// The time that half of them did not exceed, to within 6 %.
    pub p50_ns: u64,
    /// The same for 99 %.
    pub p99_ns: u64,
    /// The same for 99.9 %.
    pub p999_ns: u64,
    /// The longest of them.
    pub max_ns: u64,
}

/// The state of a process for people and programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessStatus {
    /// Its id.
    pub process: ProcessId,
    /// Where it stands in its life.
    pub state: ProcessState,
    /// Workers that are ready.
    pub workers: u32,
    /// OS process ids of those workers, in the server's view.
    pub worker_pids: Vec<u32>,
    /// Open lanes.
    pub lanes: u32,
    /// Times a worker was replaced after it died.
    pub worker_restarts: u64,
    /// Why the last worker ended, if one did.
    pub last_exit: Option<String>,
    /// Calls its workers say they answered (reported by tenant code, for information).
    pub calls_reported: u64,
}

/// The lifecycle of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ProcessState {
    /// Its first workers start.
    Creating,
    /// It takes calls.
    Active,
    /// It finishes its calls and takes no new ones.
    Draining,
    /// Its workers keep failing; the next attempt waits.
    Failed,
    /// It takes calls, and nobody has called it for a while.
    Idle,
    /// It is on another server to which there is no connection now.
    Unreachable,
}

impl ProcessState {
    /// The state as one byte: on the network and in an application's directory of its processes. Never 0; 6 to 15 are
    /// kept for states in which a process has no workers in memory; from 16 on, they are about the way to it.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Creating => 1,
            Self::Active => 2,
            Self::Draining => 3,
            Self::Failed => 4,
            Self::Idle => 5,
            Self::Unreachable => 16,
        }
    }

    /// The state with this code; `None` for a byte that is none.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Creating),
            2 => Some(Self::Active),
            3 => Some(Self::Draining),
            4 => Some(Self::Failed),
            5 => Some(Self::Idle),
            16 => Some(Self::Unreachable),
            _ => None,
        }
    }
}

impl std::fmt::Display for ProcessState {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.pad(match self {
            Self::Creating => "creating",
            Self::Active => "active",
            Self::Draining => "draining",
            Self::Failed => "failed",
            Self::Idle => "idle",
            Self::Unreachable => "unreachable",
        })
    }
}
