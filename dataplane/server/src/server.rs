//! Starting, steering and ending a server.
//!
//! [`Server::start`] does what may block and fail (lock, keeper, hand-over, sandbox check) before it returns, then a thread
//! of its own runs the loop. The handle steers it; dropping the handle shuts the server down and waits for it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use mio::{Interest, Poll, Waker};
use praas_protocol::control::WaitMode;
use praas_protocol::wire::host_id;
use praas_sys::driver::{DriverChoice, OpenError};
use praas_sys::{CgroupRoot, FileLock, Listener, SignalQueue, Spawner, StaleSocket};

use crate::application::{Application, FieldError};
use crate::budget::{Budget, host_memory_bytes};
use crate::data_directory::DataDirectory;
use crate::hosting::{Hosting, HostingPlan, worker_plan};
use crate::keeper::KeeperError;
use crate::keeper::link::{KeeperLink, KeeperPlan};
use crate::keeping::Keeping;
use crate::limits::{
    CLIENT_HELLO_DEFAULT, KEEPER_ANSWER_MAX, KEEPER_LINGER_DEFAULT, NETWORK_CONNECTIONS_MAX, NETWORK_DESCRIPTOR_PARTS,
    NETWORK_SHARDS_MAX, SNAPSHOT_MAX, WORKER_IDLE_DEFAULT, WORKER_UID_FIRST,
};
use crate::log::{Level, Log};
use crate::metrics::Metrics;
use crate::network::{self, NetworkFacts, NetworkThreads};
use crate::shard::Shard;
use crate::sources::Source;
use crate::stats::Snapshot;
use crate::timers::{Timer, Timers};

/// How a server is to run.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Directory of sockets, tokens and working directories; made if missing, owned by one server at a time.
    pub data_directory: PathBuf,
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
    /// Addresses that remote clients connect to; none, and there is no network. Nothing on it is encrypted.
    pub listen: Vec<SocketAddr>,
    /// Threads that serve the network.
    pub network_shards: usize,
    /// What drives their sockets.
    pub network_driver: DriverChoice,
    /// How they wait for answers of workers.
    pub network_wait: WaitMode,
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
            applications: Vec::new(),
            require_sandbox: false,
            memory_bytes_max: None,
            keeper_command,
            keeper_linger: KEEPER_LINGER_DEFAULT,
            client_hello: CLIENT_HELLO_DEFAULT,
            worker_idle: WORKER_IDLE_DEFAULT,
            listen: Vec::new(),
            network_shards: std::thread::available_parallelism().map_or(1, usize::from),
            // On loopback, where all measurements yet were made, io_uring was slower by a few percent in most of them.
            network_driver: DriverChoice::Epoll,
            network_wait: WaitMode::Adaptive,
            watch: false,
            log_level: Level::Info,
        }
    }
}

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another server owns the data directory.
    #[error("another server uses {path}: stop it, or give this one another data directory")]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// The data directory's path leaves no room for the names of sockets.
    #[error("{path} is too long: a socket in it would have {bytes} bytes, {limit} fit; use a shorter data directory")]
    PathTooLong {
        /// The directory.
        path: PathBuf,
        /// Bytes of the longest socket path.
        bytes: usize,
        /// Bytes that fit.
        limit: usize,
    },
    /// The secret was damaged or exposed.
    #[error("{path} must have 32 bytes and mode 0600; remove it to make a new one (earlier tokens become invalid)")]
    BadSecret {
        /// The file.
        path: PathBuf,
    },
    /// An application lies outside its limits.
    #[error("application {application}: {error}")]
    BadApplication {
        /// Its name.
        application: String,
        /// What is wrong.
        error: FieldError,
    },
    /// Two applications share a name.
    #[error("two applications are called {application}: rename one")]
    SameName {
        /// The name.
        application: String,
    },
    /// The host cannot confine workers, and the server was told not to run without.
    #[error("the sandbox is incomplete: {reason}; run without --require-sandbox to accept that")]
    Sandbox {
        /// What is lacking.
        reason: String,
    },
    /// The keeper cannot be used.
    #[error(transparent)]
    Keeper(#[from] KeeperError),
    /// An address cannot be listened on.
    #[error("listening on {address} failed: {reason}; choose another address or port, or end who uses it")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's error.
        reason: String,
    },
    /// The network's sockets cannot be driven.
    #[error(transparent)]
    Driver(#[from] OpenError),
    /// The host refused something.
    #[error("{what} failed: {reason}")]
    Host {
        /// What was tried.
        what: &'static str,
        /// The system's error.
        reason: String,
    },
}

impl StartError {
    pub(crate) fn host(what: &'static str, error: &dyn std::fmt::Display) -> Self {
        Self::Host { what, reason: error.to_string() }
    }
}

/// What the handle tells the loop.
#[derive(Debug)]
pub(crate) enum Order {
    Shutdown,
    Metrics(Sender<Metrics>),
    Snapshot(Sender<Snapshot>),
    Signals(SignalQueue),
    Keep { name: String, fd: OwnedFd, done: Sender<Result<(), String>> },
    Kept { name: String, answer: Sender<Option<OwnedFd>> },
}

/// The server.
#[derive(Debug)]
pub struct Server;

/// A running server.
#[derive(Debug)]
pub struct ServerHandle {
    data_directory: PathBuf,
    sandbox_lacks: Vec<SandboxLack>,
    network: Option<NetworkFacts>,
    stopper: ServerStopper,
    thread: Option<JoinHandle<std::io::Result<()>>>,
}

/// Ends a running server from any thread.
#[derive(Debug, Clone)]
pub struct ServerStopper {
    orders: Sender<Order>,
    waker: Arc<Waker>,
}

impl ServerStopper {
    /// Has the server drain all its processes and end. Returns at once; [`ServerHandle::run`] returns when it has ended.
    pub fn stop(&self) {
        self.order(Order::Shutdown);
    }

    fn order(&self, order: Order) {
        if self.orders.send(order).is_ok() {
            // Fails only when the loop is gone.
            let _ = self.waker.wake();
        }
    }
}

/// Looks at what a running server counts, from any thread.
#[derive(Debug, Clone)]
pub struct ServerObserver(ServerStopper);

impl ServerObserver {
    /// Everything that is counted now; `None` when the server has ended. Calls are not stopped for it.
    #[must_use]
    pub fn snapshot(&self) -> Option<Snapshot> {
        let (answer, snapshot) = channel();
        self.0.order(Order::Snapshot(answer));
        snapshot.recv_timeout(SNAPSHOT_MAX).ok()
    }
}

/// A confinement of workers that this host does not grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxLack {
    /// What is lacking.
    pub feature: String,
    /// Why.
    pub why: String,
    /// What a person can do.
    pub advice: String,
}

impl Server {
    /// Starts a server on a thread of its own.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left running then.
    pub fn start(options: ServerOptions) -> Result<ServerHandle, StartError> {
        let (started, outcome) = channel();
        let (orders, received) = channel();
        let run = move || {
            let mut shard = match prepare(&options, received) {
                Ok(Prepared { shard, waker, sandbox_lacks }) => {
                    let network = shard.network.as_ref().map(NetworkThreads::facts);
                    let _ = started.send(Ok((shard.data.path().to_owned(), waker, sandbox_lacks, network)));
                    shard
                }
                Err(error) => {
                    let _ = started.send(Err(error));
                    return Ok(());
                }
            };
            shard.run()
        };
        let thread = std::thread::Builder::new()
            .name("praas-server".into())
            .spawn(run)
            .map_err(|error| StartError::host("starting the server's thread", &error))?;
        match outcome.recv() {
            Ok(Ok((data_directory, waker, sandbox_lacks, network))) => {
                let stopper = ServerStopper { orders, waker };
                Ok(ServerHandle { data_directory, sandbox_lacks, network, stopper, thread: Some(thread) })
            }
            Ok(Err(error)) => {
                let _ = thread.join();
                Err(error)
            }
            Err(error) => Err(StartError::host("starting the server", &error)),
        }
    }
}

impl ServerHandle {
    /// Where the server keeps its files: socket and token are found there.
    #[must_use]
    pub fn data_directory(&self) -> &Path {
        &self.data_directory
    }

    /// Path of the socket that clients connect to.
    #[must_use]
    pub fn socket_path(&self) -> PathBuf {
        self.data_directory.join(praas_sys::data_directory::SOCKET_FILE)
    }

    /// What this host lacks to confine workers fully.
    #[must_use]
    pub fn sandbox_lacks(&self) -> &[SandboxLack] {
        &self.sandbox_lacks
    }

    /// The network side; `None` if the server listens nowhere.
    #[must_use]
    pub fn network(&self) -> Option<&NetworkFacts> {
        self.network.as_ref()
    }

    /// Something that ends the server from another thread.
    #[must_use]
    pub fn stopper(&self) -> ServerStopper {
        self.stopper.clone()
    }

    /// Something that looks at what the server counts, from another thread.
    #[must_use]
    pub fn observer(&self) -> ServerObserver {
        ServerObserver(self.stopper.clone())
    }

    /// Drains all processes and ends the server. Returns when nothing of it is left.
    ///
    /// # Errors
    /// The system's error that ended the loop, if one did.
    pub fn shutdown(mut self) -> std::io::Result<()> {
        self.order(Order::Shutdown);
        self.join()
    }

    /// Waits until the server ends. On the first signal of `signals` it drains, on the second it kills.
    ///
    /// # Errors
    /// The system's error that ended the loop, if one did.
    pub fn run(mut self, signals: SignalQueue) -> std::io::Result<()> {
        self.order(Order::Signals(signals));
        self.join()
    }

    /// The counters of now; `None` when the server has ended.
    #[must_use]
    pub fn metrics(&self) -> Option<Metrics> {
        let (answer, metrics) = channel();
        self.order(Order::Metrics(answer));
        metrics.recv_timeout(KEEPER_ANSWER_MAX).ok()
    }

    /// Has the keeper hold `fd` under `name`; returns when it is safe against a crash of the server.
    ///
    /// # Errors
    /// Why the keeper does not hold it.
    pub fn keep(&self, name: &str, fd: OwnedFd) -> Result<(), String> {
        let (done, outcome) = channel();
        self.order(Order::Keep { name: name.to_owned(), fd, done });
        outcome.recv_timeout(KEEPER_ANSWER_MAX).unwrap_or_else(|_| Err("the keeper did not answer".into()))
    }

    /// The descriptor that is kept under `name`, whichever server had it kept.
    #[must_use]
    pub fn kept(&self, name: &str) -> Option<OwnedFd> {
        let (answer, fd) = channel();
        self.order(Order::Kept { name: name.to_owned(), answer });
        fd.recv_timeout(KEEPER_ANSWER_MAX).ok().flatten()
    }

    fn order(&self, order: Order) {
        self.stopper.order(order);
    }

    fn join(&mut self) -> std::io::Result<()> {
        match self.thread.take().map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(outcome)) => outcome,
            Some(Err(_)) => Err(std::io::Error::other("the server's thread panicked; see its message above")),
        }
    }
}

impl Drop for ServerHandle {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.order(Order::Shutdown);
            // Who wants to know how it ended calls `shutdown`.
            let _ = self.join();
        }
    }
}

/// Raises the limit of open files as far as the host allows; returns it.
pub(crate) fn raise_open_files() -> u64 {
    match praas_sys::process_self::raise_open_files_limit() {
        Ok(limit) => limit.now,
        Err(_) => rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX),
    }
}

/// A server that is ready to run.
struct Prepared {
    shard: Shard,
    waker: Arc<Waker>,
    sandbox_lacks: Vec<SandboxLack>,
}

fn prepare(options: &ServerOptions, orders: Receiver<Order>) -> Result<Prepared, StartError> {
    let log = Log { most: options.log_level };
    let applications = check_applications(&options.applications)?;
    let open_files = raise_open_files();
    praas_sys::process_self::set_non_dumpable()
        .map_err(|error| StartError::host("making the server non-dumpable", &error))?;
    let data = Arc::new(DataDirectory::open(&options.data_directory)?);
    let secret = data.secret()?;
    let gives_users = rustix::process::geteuid().is_root();
    let cgroups = CgroupRoot::probe(&data.cgroup_prefix());
    let sandbox_lacks = check_sandbox(options, &data, gives_users, &cgroups, log)?;
    let keeper = KeeperPlan {
        command: options.keeper_command.clone(),
        socket: data.keeper_socket_path(),
        log: data.keeper_log_path(),
        cgroup_prefix: data.cgroup_prefix(),
        linger: options.keeper_linger,
    };
    let (link, held) = take_over(&keeper, data.lock(), log)?;
    if let Err(error) = cgroups.sweep(KEEPER_ANSWER_MAX) {
        log.warning(format_args!("cgroups of the last server are left: {error}"));
    }
    data.sweep().map_err(|error| StartError::host("removing the last server's working directories", &error))?;

    let host = |what: &'static str| move |error: std::io::Error| StartError::host(what, &error);
    let poll = Poll::new().map_err(host("creating the poll"))?;
    let waker = Waker::new(poll.registry(), Source::Mail.token()).map_err(host("creating the waker"))?;
    let waker = Arc::new(waker);
    let spawner = Spawner::start().map_err(|error| StartError::host("starting the spawner", &error))?;
    let (results_in, results) = channel();
    let plan = HostingPlan { data: Arc::clone(&data), spawner, cgroups, strict: options.require_sandbox, keeper, log };
    let hosting = Hosting::start(plan, results_in, Arc::clone(&waker)).map_err(host("starting helper threads"))?;
    let listener = Listener::bind(&data.socket_path(), StaleSocket::ReplaceHolding(data.lock()))
        .map_err(|error| StartError::host("binding the server's socket", &error))?;
    data.write_local_token(&secret)?;
    let memory = options.memory_bytes_max.or_else(host_memory_bytes).unwrap_or(u64::MAX);
    let mut incarnation = [0; 8];
    praas_sys::process_self::random_bytes(&mut incarnation)
        .map_err(|error| StartError::host("choosing an incarnation", &error))?;
    let mut shard = Shard {
        poll,
        ready: Default::default(),
        timers: Timers::default(),
        log,
        metrics: Metrics::default(),
        data,
        secret,
        incarnation: u64::from_le_bytes(incarnation),
        applications,
        budget: Budget::new(memory),
        listener,
        spare: crate::shard::spare_descriptor(),
        open_files,
        network: None,
        clients: Default::default(),
        processes: Default::default(),
        workers: BTreeMap::new(),
        dedicated: crate::dedicated::Dedicated::default(),
        next_worker: 0,
        next_lane: 1,
        gives_users,
        hosting,
        keeping: Keeping::new(link, held),
        watched: Default::default(),
        client_hello: options.client_hello,
        claims_watched: false,
        worker_idle: options.worker_idle,
        idle_watched: false,
        shutting_down: false,
        orders,
        results,
        signals: None,
        packet_buffer: Vec::new(),
        output_buffer: Vec::new(),
    };
    shard.watch(shard.listener.as_fd(), Source::Listener, Interest::READABLE).map_err(host("watching the socket"))?;
    shard.watch_keeper().map_err(host("watching the keeper"))?;
    if options.watch {
        shard.timers.after(Duration::ZERO, Timer::Watch);
    }
    shard.network = start_network(options, &shard)?;
    Ok(Prepared { shard, waker, sandbox_lacks })
}

/// Starts the threads that serve remote clients, if the server is to listen.
fn start_network(options: &ServerOptions, shard: &Shard) -> Result<Option<NetworkThreads>, StartError> {
    if options.listen.is_empty() {
        return Ok(None);
    }
    let shards = options.network_shards.clamp(1, NETWORK_SHARDS_MAX);
    let share = shard.open_files / NETWORK_DESCRIPTOR_PARTS / shards as u64;
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let plan = network::Plan {
        secret: shard.secret.clone(),
        incarnation: shard.incarnation,
        host_id: host_id(boot_id.trim(), shard.data.path()),
        socket_path: shard.data.socket_path(),
        payload_bytes_max: shard.applications.values().map(|found| found.limits.payload_bytes_max).max().unwrap_or(0),
        client_hello: options.client_hello,
        wait: options.network_wait,
        connections_max: usize::try_from(share).unwrap_or(usize::MAX).clamp(1, NETWORK_CONNECTIONS_MAX),
        log: shard.log,
        connections: AtomicU64::new(0),
    };
    NetworkThreads::start(plan, &options.listen, shards, options.network_driver).map(Some)
}

fn check_applications(
    applications: &[Application],
) -> Result<BTreeMap<praas_protocol::Name, Arc<Application>>, StartError> {
    let mut checked = BTreeMap::new();
    for application in applications {
        let name = application.name;
        let application = application.clone().checked();
        let application =
            application.map_err(|error| StartError::BadApplication { application: name.to_string(), error })?;
        if checked.insert(name, Arc::new(application)).is_some() {
            return Err(StartError::SameName { application: name.to_string() });
        }
    }
    Ok(checked)
}

/// Finds out what the host grants to confine workers, and reports what it lacks, once.
fn check_sandbox(
    options: &ServerOptions,
    data: &DataDirectory,
    gives_users: bool,
    cgroups: &CgroupRoot,
    log: Log,
) -> Result<Vec<SandboxLack>, StartError> {
    let user = gives_users.then_some(WORKER_UID_FIRST);
    let program = options.applications.iter().find(|application| application.binary.exists());
    let Some(application) = program else { return Ok(Vec::new()) };
    let plan = worker_plan(application, data.path().to_owned(), user, options.require_sandbox);
    match plan.prepare(Some(cgroups)) {
        Ok(sandbox) => {
            let lacks = sandbox.report().lacking().map(|(feature, why, advice)| SandboxLack {
                feature: feature.to_string(),
                why: why.to_owned(),
                advice: advice.to_owned(),
            });
            let lacks: Vec<_> = lacks.collect();
            for SandboxLack { feature, why, advice } in &lacks {
                log.warning(format_args!("workers run without {feature}: {why}; {advice}"));
            }
            Ok(lacks)
        }
        Err(error) if options.require_sandbox => Err(StartError::Sandbox { reason: error.to_string() }),
        Err(error) => {
            log.warning(format_args!("the sandbox cannot be prepared: {error}"));
            Ok(Vec::new())
        }
    }
}

/// Connects to the keeper of an earlier server and takes what it holds, or starts one.
fn take_over(
    plan: &KeeperPlan,
    lock: &FileLock,
    log: Log,
) -> Result<(KeeperLink, BTreeMap<String, OwnedFd>), StartError> {
    let Some(mut link) = KeeperLink::connect(plan, lock.as_fd())? else {
        return Ok((KeeperLink::start(plan, lock.as_fd())?, BTreeMap::new()));
    };
    let held = link.take()?;
    log.info(format_args!("the last server did not end cleanly; its keeper handed {} descriptors over", held.len()));
    Ok((link, held.into_iter().map(|held| (held.name, held.fd)).collect()))
}
