//! Starting, steering and ending a server.
//!
//! [`Server::start`] does what may block and fail (lock, keeper, hand-over, sandbox check) before it returns, then a thread
//! of its own runs the loop. The handle steers it; dropping the handle shuts the server down and waits for it.

mod options;
mod start_error;
pub(crate) mod starting;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use mio::Waker;
use praas_sys::SignalQueue;

pub use self::options::ServerOptions;
pub use self::start_error::StartError;
pub(crate) use self::starting::raise_open_files;
use self::starting::{Prepared, prepare};
use crate::limits::{KEEPER_ANSWER_MAX, SNAPSHOT_MAX};
use crate::metrics::Metrics;
use crate::network::{NetworkFacts, NetworkThreads};
use crate::preemption::Farewell;
use crate::preemption::notice::NoticeWatch;
use crate::stats::Snapshot;

/// What the handle tells the loop.
#[derive(Debug)]
pub(crate) enum Order {
    Shutdown,
    /// The host is about to go.
    Notice,
    /// Whether it is cannot be known, and why.
    NoticeTrouble(String),
    Metrics(Sender<Metrics>),
    Snapshot(Sender<Snapshot>),
    Signals(SignalQueue),
    Keep {
        name: String,
        fd: OwnedFd,
        done: Sender<Result<(), String>>,
    },
    Kept {
        name: String,
        answer: Sender<Option<OwnedFd>>,
    },
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
    /// What runs the program that gives notice, if there is one.
    notice: Option<NoticeWatch>,
    thread: Option<JoinHandle<std::io::Result<Farewell>>>,
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

    pub(crate) fn order(&self, order: Order) {
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
        let notice_program = options.notice_program.clone();
        let (started, outcome) = channel();
        let (orders, received) = channel();
        #[cfg(any(test, feature = "simulation"))]
        let clock = crate::clock::current();
        let run = move || {
            #[cfg(any(test, feature = "simulation"))]
            crate::clock::adopt(clock);
            let shard = match prepare(&options, received) {
                Ok(Prepared { shard, waker, sandbox_lacks }) => {
                    let network = shard.network.as_ref().map(NetworkThreads::facts);
                    let _ = started.send(Ok((shard.data.path().to_owned(), waker, sandbox_lacks, network)));
                    shard
                }
                Err(error) => {
                    let _ = started.send(Err(error));
                    return Ok(Farewell::default());
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
                let notice = None;
                let mut server =
                    ServerHandle { data_directory, sandbox_lacks, network, stopper, notice, thread: Some(thread) };
                if let Some(program) = notice_program {
                    let watch = NoticeWatch::start(program, server.stopper());
                    server.notice = Some(
                        watch.map_err(|error| StartError::host("starting the thread that waits for notice", &error))?,
                    );
                }
                Ok(server)
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

    /// The network side, which is there even if the server listens nowhere.
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

    /// Drains all processes, stores them and ends the server, within its grace period. Returns when nothing of it is left but what
    /// the [`Farewell`] names.
    ///
    /// # Errors
    /// The system's error that ended the loop, if one did.
    pub fn shutdown(mut self) -> std::io::Result<Farewell> {
        self.order(Order::Shutdown);
        self.join()
    }

    /// Waits until the server ends, and says how. On the first signal of `signals` it drains, on the second it kills.
    ///
    /// # Errors
    /// The system's error that ended the loop, if one did.
    pub fn run(mut self, signals: SignalQueue) -> std::io::Result<Farewell> {
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

    fn join(&mut self) -> std::io::Result<Farewell> {
        let outcome = self.thread.take().map(JoinHandle::join);
        self.notice = None;
        match outcome {
            None => Ok(Farewell::default()),
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
