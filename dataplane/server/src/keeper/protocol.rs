//! Messages between a server and its keeper: one packet each, encoded like the control messages.
//!
//! Both ends run the same program, but not always the same release of it: a server can find the keeper of its predecessor.
//! Hence the version in the first message.

use serde::{Deserialize, Serialize};

/// Version of these messages, and of the names that servers give to what they have kept.
pub(crate) const KEEPER_VERSION: u32 = 4;

/// Server → keeper. Every request is answered, in order.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum ToKeeper {
    /// First message. Descriptor: the data directory's lock file, locked by the sender. Answered by `Welcome`.
    Hello {
        /// [`KEEPER_VERSION`] of the server.
        version: u32,
        /// How long the keeper outlives a server that crashed.
        linger_ms: u64,
        /// What names of the server's cgroups begin with.
        cgroup_prefix: String,
    },
    /// A numbered request.
    Request {
        /// Repeated in the answer.
        request: u64,
        /// What is asked.
        body: KeeperRequest,
    },
}

/// What a server asks of its keeper.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum KeeperRequest {
    /// Hold the attached descriptors, one under each name, instead of earlier ones: all of them, or none. Answered by `Done`.
    Put {
        /// Each 1 to [`crate::limits::KEEPER_NAME_BYTES_MAX`] bytes.
        names: Vec<String>,
    },
    /// Forget names. Answered by `Done`, also for those that there were not.
    Drop {
        /// The names.
        names: Vec<String>,
    },
    /// Every held descriptor. Answered by `Held` messages once all workers of earlier servers have ended.
    Take,
    /// Watch a worker. Descriptors: read end of its pipe, its pidfd. Answered by `Done`.
    WorkerAdd {
        /// Name of the worker's cgroup, to be killed as a whole.
        cgroup: Option<String>,
    },
    /// The server shuts down cleanly: forget everything and exit. Answered by `Done`.
    Goodbye,
}

/// Keeper → server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum FromKeeper {
    /// The sender of the hello holds the lock and is the server from now on.
    Welcome {
        /// Descriptors held.
        held: u32,
        /// Workers of earlier servers that have not ended yet.
        workers: u32,
    },
    /// The request was carried out.
    Done {
        /// Its number.
        request: u64,
    },
    /// The request (or the hello, as number 0) was refused.
    Refused {
        /// Its number.
        request: u64,
        /// Why.
        reason: String,
    },
    /// Some held descriptors, attached in the order of their names.
    Held {
        /// Number of the `Take`.
        request: u64,
        /// Their names.
        names: Vec<String>,
        /// Whether further ones follow.
        more: bool,
    },
}
