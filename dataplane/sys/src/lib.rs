//! What praas asks of the operating system: message sockets that carry file descriptors, process handles,
//! spawning into a sandbox, cgroups, doorbells, network drivers, and a survey of what this host grants.
//!
//! Invariants that hold in every module:
//! 1. Every descriptor made here is close-on-exec; a child gets exactly the descriptors named for it.
//! 2. Every wait has a limit given by the caller; every loop has a bound.
//! 3. What a peer sent is counted and checked before it is used; a truncated message is an error, and its
//!    descriptors are closed.
//! 4. A confinement that the host cannot give is reported, never silently skipped.
//!
//! Nothing here knows about processes of an application or the wire protocol; of lanes, the network drivers know that they
//! lend buffers.

pub mod affinity;
pub mod allocator;
pub mod cgroup;
mod child;
mod clone;
pub mod data_directory;
pub mod disk_ring;
pub mod doorbell;
pub mod driver;
pub mod file_lock;
pub mod host;
pub mod inherited;
mod landlock;
pub mod listener;
pub mod message_socket;
mod namespace;
pub mod pidfd;
pub mod private_directory;
pub mod process_self;
pub mod sandbox;
mod seccomp;
pub mod signal_queue;
pub mod spawn;
pub mod time_slice;
mod wait;

pub use cgroup::{Cgroup, CgroupError, CgroupLimits, CgroupRoot};
pub use disk_ring::DiskRing;
pub use doorbell::Doorbell;
pub use file_lock::FileLock;
pub use listener::{Listener, StaleSocket};
pub use message_socket::{MESSAGE_FDS_MAX, MessageSocket, PeerCredentials, Received, Sending, SocketError};
pub use pidfd::{Exit, Pidfd};
pub use rustix::io::Errno;
pub use rustix::process::Signal;
pub use sandbox::{
    Confinement, Feature, Grant, Network, ResourceLimits, Sandbox, SandboxError, SandboxPlan, SandboxReport, WorkerUser,
};
pub use signal_queue::SignalQueue;
pub use spawn::{Output, SpawnError, SpawnRequest, Spawned, Spawner, Step, Workshop};
