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
    /// Bytes that are stored of it: its last snapshot with all that belongs to it, and nothing before its first one.
    pub stored_bytes: u64,
    /// When it was last swapped out, in milliseconds since 1970; `None` if it never was.
    pub last_swap_unix_ms: Option<u64>,
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
    /// What it knows is being stored; then its workers and memory are given up.
    Swapping,
    /// It is stored and has neither workers nor memory; whatever needs it wakes it.
    Swapped,
    /// It is being woken: memory is made of what is stored, and workers start.
    Restoring,
    /// It is on another server to which there is no connection now.
    Unreachable,
}

impl ProcessState {
    /// The state as one byte: on the network and in an application's directory of its processes. Never 0; 6 to 15 are
    /// for states of a process that sleeps, or that is on its way there or back; from 16 on, they are about the way to it.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Creating => 1,
            Self::Active => 2,
            Self::Draining => 3,
            Self::Failed => 4,
            Self::Idle => 5,
            Self::Swapping => 6,
            Self::Swapped => 7,
            Self::Restoring => 8,
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
            6 => Some(Self::Swapping),
            7 => Some(Self::Swapped),
            8 => Some(Self::Restoring),
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
            Self::Swapping => "swapping",
            Self::Swapped => "swapped",
            Self::Restoring => "restoring",
            Self::Unreachable => "unreachable",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::ProcessState;

    #[test]
    fn a_code_means_one_state_and_other_bytes_mean_none() {
        let known: Vec<_> = (0..=u8::MAX).filter_map(|code| Some((code, ProcessState::from_code(code)?))).collect();
        assert_eq!(known.iter().map(|(code, _)| *code).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6, 7, 8, 16]);
        assert!(known.iter().all(|(code, state)| state.code() == *code), "{known:?}");
    }
}
