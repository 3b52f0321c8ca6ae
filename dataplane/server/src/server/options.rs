//! How a server is to run, as whoever starts it decides.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use praas_protocol::control::WaitMode;
use praas_storage::Backend;
use praas_sys::driver::DriverChoice;

use crate::application::Application;
use crate::durability::{DiskLog, MemoryLog};
use crate::elsewhere::Peer;
use crate::limits::{
    CLIENT_HELLO_DEFAULT, CLIENT_SESSION_LINGER_DEFAULT, GRACE_DEFAULT, KEEPER_LINGER_DEFAULT, PROCESS_IDLE_DEFAULT,
    WORKER_IDLE_DEFAULT,
};
use crate::log::Level;

/// How a server is to run.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Directory of sockets, tokens and working directories; made if missing, owned by one server at a time.
    pub data_directory: PathBuf,
    /// How long the server may take to end: by then everything that could be stored is, and what could not be is left with the keeper.
    pub grace: Duration,
    /// A program that is run again and again while the server serves: when it ends with 0, the host is about to go, and the
    /// server ends as if it had been told to.
    pub notice_program: Option<OsString>,
    /// What it serves.
    pub applications: Vec<Application>,
    /// Whether to refuse to run when the host cannot confine workers fully.
    pub require_sandbox: bool,
    /// Bytes that all segments together may grow to; `None` takes the host's memory.
    pub memory_bytes_max: Option<u64>,
    /// Program and arguments that run [`crate::keeper::run`].
    pub keeper_command: Vec<OsString>,
    /// How long the keeper outlives a server that crashed.
    pub keeper_linger: Duration,
    /// Time in which a connection must say hello.
    pub client_hello: Duration,
    /// How long a worker above `min` may have nothing to do before it is ended.
    pub worker_idle: Duration,
    /// How long a process must have run no call to be shown as idle. It goes on as before: idle is a word, not a measure.
    pub process_idle: Duration,
    /// Addresses that remote clients connect to; none, and there is no network. Nothing on it is encrypted.
    pub listen: Vec<SocketAddr>,
    /// Other servers: their processes are called, and sent messages, as if they were here. Nothing on the way is encrypted.
    pub peers: Vec<Peer>,
    /// How long a client's session is kept, with the messages sent to it, after its client has left.
    pub session_linger: Duration,
    /// Threads that serve the network.
    pub network_shards: usize,
    /// What drives their sockets.
    pub network_driver: DriverChoice,
    /// How they wait for answers of workers.
    pub network_wait: WaitMode,
    /// Where the changes of processes go whose application is logged; without it there are none. What is in it ends with this
    /// program.
    pub memory_log: Option<MemoryLog>,
    /// The same on a disk, in place of one in memory: what is in it survives this program and its host.
    pub disk_log: Option<DiskLog>,
    /// Where processes sleep; without it none does, and what processes know ends with a server that ends cleanly.
    pub storage: Option<Arc<dyn Backend>>,
    /// Whether processes restart when the binary of their application was rebuilt.
    pub watch: bool,
    /// Least important lines that are logged.
    pub log_level: Level,
}

impl ServerOptions {
    /// The defaults, with nothing served yet.
    #[must_use]
    pub fn new(data_directory: impl Into<PathBuf>, keeper_command: Vec<OsString>) -> Self {
        Self {
            data_directory: data_directory.into(),
            grace: GRACE_DEFAULT,
            notice_program: None,
            applications: Vec::new(),
            require_sandbox: false,
            memory_bytes_max: None,
            keeper_command,
            keeper_linger: KEEPER_LINGER_DEFAULT,
            client_hello: CLIENT_HELLO_DEFAULT,
            worker_idle: WORKER_IDLE_DEFAULT,
            process_idle: PROCESS_IDLE_DEFAULT,
            listen: Vec::new(),
            peers: Vec::new(),
            session_linger: CLIENT_SESSION_LINGER_DEFAULT,
            network_shards: std::thread::available_parallelism().map_or(1, usize::from),
            network_driver: DriverChoice::default(),
            network_wait: WaitMode::Adaptive,
            memory_log: None,
            disk_log: None,
            storage: None,
            watch: false,
            log_level: Level::Info,
        }
    }

    /// Has the server call another one, that listens on `address` (`host:port`) and issued `token` with the rights `invoke`,
    /// `trusted`, `state` and `messages`.
    #[must_use]
    pub fn peer(mut self, address: impl Into<String>, token: impl Into<String>) -> Self {
        self.peers.push(Peer { address: address.into(), token: token.into() });
        self
    }
}
