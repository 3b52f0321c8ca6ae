//! The praas process server: a broker between clients and workers, and the keeper that outlives it.
//!
//! A server owns a data directory, starts workers of applications in sandboxes, joins clients to them by lanes of shared
//! memory, and steps aside: no call passes through it. It watches its workers die, answers what they held, replaces them,
//! and drains processes before it ends them. See [`Server::start`] and [`Application::load`].
//!
//! | room | what |
//! |---|---|
//! | `shard` | the loop; everything below adds its methods to it |
//! | `clients`, `requests` | connections, tokens, what clients ask for |
//! | `message_lanes` | brokering of lanes for messages from process to process |
//! | `processes`, `lanes`, `drain` | the table of processes, brokering, graceful ends |
//! | `process_memory`, `process_ledger`, `recovery` | what outlives the server, and how the next one brings it back |
//! | `swap` | processes that sleep in storage, on their way there and back |
//! | `durability` | what takes the changes of logged processes to their logs |
//! | `directory` | what workers see of the processes of their application |
//! | `checkpoint` | processes that go on are written to storage every so often |
//! | `idle_swap` | processes that nobody has called for long enough sleep |
//! | `preemption` | the end of the server: everything is stored, most valuable first, as far as its time goes |
//! | `clock` | the time that all of this goes by |
//! | `transitions` | what happened in the lives of processes, for whoever watches |
//! | `directory_watch` | what other servers are told of all processes |
//! | `elsewhere` | what other servers have |
//! | `workers`, `supervision`, `hosting` | starting and watching OS processes |
//! | `network` | remote clients |
//! | `keeper`, `keeping` | the process that outlives the server, and the server's side of it |
//! | `application`, `manifest` | what is served |
//! | `simulation` | for tests: the loop turned by hand, by a clock that stands |
#![forbid(unsafe_code)]

mod application;
mod budget;
mod checkpoint;
mod clients;
mod clock;
mod data_directory;
mod dedicated;
mod directory;
mod directory_watch;
mod drain;
mod durability;
mod elsewhere;
mod files;
mod gateways;
mod growth;
mod hosting;
mod idle_swap;
pub mod keeper;
mod keeping;
mod lanes;
mod limits;
mod log;
mod manifest;
mod message_lanes;
mod metrics;
mod nested_lanes;
mod network;
mod output;
mod peer;
mod preemption;
mod process_ledger;
mod process_memory;
mod processes;
mod recovery;
mod requests;
mod secret;
mod server;
mod sessions;
mod settling;
mod shard;
#[cfg(any(test, feature = "simulation"))]
pub mod simulation;
mod sources;
mod stats;
mod supervision;
mod swap;
mod timers;
mod transitions;
mod wake_ups;
mod watch;
mod workers;

pub use application::{
    Application, ApplicationLimits, CALL_MS_MAX_DEFAULT, CHECKPOINT_INTERVAL_MS, CHECKPOINT_INTERVAL_MS_MAX,
    CHECKPOINT_INTERVAL_MS_MIN, FieldError, Network, SwapWait,
};
#[cfg(any(test, feature = "simulation"))]
pub use clock::TestClock;
pub use durability::{DiskLog, Log, LogStore, MemoryLog};
pub use elsewhere::{Peer, PeerFacts};
pub use log::Level;
pub use manifest::{ManifestError, Problem, parse_bytes};
pub use metrics::Metrics;
pub use network::{NetworkFacts, NetworkMetrics};
pub use praas_shm::function_stats::Latency;
pub use praas_sys::driver::{DriverChoice, DriverKind};
pub use preemption::{Farewell, Unsaved};
pub use secret::{SecretError, read_secret};
pub use server::{SandboxLack, Server, ServerHandle, ServerObserver, ServerOptions, ServerStopper, StartError};
pub use stats::{ProcessSnapshot, Snapshot};
