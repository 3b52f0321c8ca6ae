//! What survives what: the levels at which a process keeps its state and its messages.

use serde::{Deserialize, Serialize};

/// How safe what a process has changed is, once somebody is told of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Durability {
    /// It survives the end of workers and of the server program, not that of the host.
    #[default]
    Memory,
    /// The same, and what there was at its last checkpoint survives the end of the host: one is taken every so often.
    Checkpoint,
    /// It is in a log outside the memory of the process before anybody is told of it.
    Logged,
}

impl std::fmt::Display for Durability {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.pad(match self {
            Self::Memory => "memory",
            Self::Checkpoint => "checkpoint",
            Self::Logged => "logged",
        })
    }
}
