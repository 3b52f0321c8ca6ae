//! What the bars measure: the real thing. A server with its keeper in processes of their own, sandboxed workers that it
//! started, lanes that it brokered, and the client library in this process.
//!
//! | room | what |
//! |---|---|
//! | `role` | what this program becomes when it is started as worker, server, keeper or steady caller |
//! | `functions` | the functions of the measured applications |
//! | `running_server` | a server on a data directory of its own, and clients of it |
//! | `lane` | a process of one worker with a lane to it, placed, and asleep between rounds |
//! | `self_invoke` | a process that calls itself |
//! | `remote` | the same over TCP on loopback, with a server of its own |
//! | `state_functions`, `state_process` | a process of two workers whose functions time their own puts and gets |
//! | `sleeper_functions`, `sleeper`, `storage_place` | a process that is put to sleep and woken, and where it sleeps |
//! | `message_functions`, `message_pair` | two processes whose functions send each other messages |
//! | `steady`, `confined`, `allocations`, `trap` | a caller that may neither call the system nor allocate |
//! | `window` | one thread that keeps calls in flight over a lane |
//! | `wire_load` | many connections that speak the network protocol, and a load over them |
//! | `footprint` | what idle processes take of the machine |
//!
//! All run this very program again: its `main` calls [`serve_role_if_asked`] before anything else. Nothing outlives the
//! [`RunningServer`], however this process ends: the server ends with its standard input.

#[allow(unsafe_code)] // `GlobalAlloc` is an unsafe trait.
mod allocations;
mod confined;
mod error;
mod footprint;
mod functions;
mod lane;
mod message_functions;
mod message_pair;
mod remote;
mod role;
mod running_server;
mod self_invoke;
mod sleeper;
mod sleeper_functions;
mod state_functions;
mod state_process;
mod steady;
mod storage_place;
#[allow(unsafe_code)] // The handler of the trap's signal is set by the C library.
mod trap;
mod window;
mod wire_load;

pub use allocations::CountingAllocator;
pub use confined::ConfinedThread;
pub use error::SubjectError;
pub use footprint::{CpuTime, Footprint, descendants_of};
pub use functions::{ACCEPT, ANSWER_IN_KIND, NOOP, SUM};
pub use lane::{Lane, LanePlan, Trust, call_noop, check, check_noop, noop_payload};
pub use message_functions::MessageOrder;
pub use message_pair::{LinkedPlan, MessagePair};
pub use remote::{Remote, RemotePlan, Route};
pub use role::{serve_role_if_asked, serve_role_if_asked_with};
pub use running_server::{LOGGED_WORKERS, NetworkPlan, RunningServer};
pub use self_invoke::SelfInvoke;
pub use sleeper::{Sleeper, SleeperState};
pub use sleeper_functions::with_sleeper_functions;
pub use state_functions::GETS_PER_SAMPLE;
pub use state_process::{KEY_BYTES, Objects, Replacements, StateProcess};
pub use steady::{Restlessness, Steadiness, steady_calls};
pub use storage_place::StoragePlace;
pub use window::Window;
pub use wire_load::{WireCalls, WireConnection, wire_crowd, wire_load};

/// Bytes of a no-op's payload and of its answer: what travels inline both ways.
pub const NOOP_BYTES: usize = 64;
