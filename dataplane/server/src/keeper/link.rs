//! The server's side of the connection to its keeper.
//!
//! Starting and taking over may block for a bounded time and happen before the loop runs, or on a thread of their own.
//! Everything else queues a numbered request and returns; the answers are read when the socket is readable.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use praas_protocol::codec;
use praas_protocol::limits::{CONTROL_MESSAGE_BYTES_MAX, CONTROL_MESSAGE_FDS_MAX};
use praas_sys::message_socket::MessageSocket;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::KeeperError;
use super::protocol::{FromKeeper, KEEPER_VERSION, KeeperRequest, ToKeeper};
use crate::limits::{KEEPER_ANSWER_MAX, KEEPER_HANDOVER_MAX};
use crate::peer::{Peer, PeerError};

/// A descriptor that the keeper held for an earlier server.
#[derive(Debug)]
pub struct HeldDescriptor {
    /// Its name.
    pub name: String,
    /// The descriptor.
    pub fd: OwnedFd,
}

/// What the keeper answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeeperEvent {
    /// The numbered request was carried out: what it named is safe.
    Acknowledged {
        /// Its number.
        request: u64,
    },
    /// The numbered request was refused.
    Refused {
        /// Its number.
        request: u64,
        /// Why.
        reason: String,
    },
}

/// Where a keeper is found, and how one is started.
#[derive(Debug, Clone)]
pub struct KeeperPlan {
    /// Program and arguments that run [`super::run`].
    pub command: Vec<OsString>,
    /// Path of the keeper's socket.
    pub socket: PathBuf,
    /// File for the keeper's standard error.
    pub log: PathBuf,
    /// What names of the server's cgroups begin with.
    pub cgroup_prefix: String,
    /// How long the keeper outlives a server that crashed.
    pub linger: Duration,
}

/// A connection to the keeper.
#[derive(Debug)]
pub struct KeeperLink {
    peer: Peer,
    next_request: u64,
    /// The keeper, if this server started it: to be reaped.
    child: Option<Child>,
}

impl KeeperLink {
    /// Connects to the keeper that an earlier server left; `None` when there is none. `lock` must hold the lock of the data
    /// directory.
    ///
    /// # Errors
    /// [`KeeperError`] when there is one that does not accept this server.
    pub fn connect(plan: &KeeperPlan, lock: BorrowedFd<'_>) -> Result<Option<Self>, KeeperError> {
        // Nobody listens, or the listener is just exiting: both mean that a keeper is to be started.
        let Ok(socket) = MessageSocket::connect(&plan.socket) else { return Ok(None) };
        let mut link = Self { peer: Peer::new(socket), next_request: 1, child: None };
        match link.greet(plan, lock) {
            Ok(()) => Ok(Some(link)),
            Err(KeeperError::Closed) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A connection whose other end a keeper has accepted already.
    #[cfg(any(test, feature = "simulation"))]
    pub(crate) fn over(socket: MessageSocket) -> Self {
        Self { peer: Peer::new(socket), next_request: 1, child: None }
    }

    /// Starts a keeper and connects to it. Blocks until it answers.
    ///
    /// # Errors
    /// [`KeeperError`] when it cannot be started or does not answer.
    pub fn start(plan: &KeeperPlan, lock: BorrowedFd<'_>) -> Result<Self, KeeperError> {
        let system = |what| move |source: io::Error| KeeperError::System { what, source };
        let listener = bind(&plan.socket).map_err(system("binding the keeper's socket"))?;
        let log = fs::File::create(&plan.log).map_err(system("creating the keeper's log"))?;
        let (program, arguments) = plan.command.split_first().ok_or_else(|| {
            system("starting the keeper")(io::Error::new(io::ErrorKind::InvalidInput, "the keeper command is empty"))
        })?;
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::from(listener))
            .stdout(Stdio::null())
            .stderr(Stdio::from(log))
            // Not the server's: the keeper must not hold a directory that somebody wants to unmount or remove.
            .current_dir("/")
            .spawn()
            .map_err(system("starting the keeper"))?;
        let socket = MessageSocket::connect(&plan.socket)
            .map_err(|error| system("connecting to the keeper")(io::Error::other(error.to_string())))?;
        let mut link = Self { peer: Peer::new(socket), next_request: 1, child: Some(child) };
        link.greet(plan, lock)?;
        Ok(link)
    }

    fn greet(&mut self, plan: &KeeperPlan, lock: BorrowedFd<'_>) -> Result<(), KeeperError> {
        let linger_ms = u64::try_from(plan.linger.as_millis()).unwrap_or(u64::MAX);
        let cgroup_prefix = plan.cgroup_prefix.clone();
        let hello = ToKeeper::Hello { version: KEEPER_VERSION, linger_ms, cgroup_prefix };
        self.peer.send(&hello, &[lock]).map_err(closed)?;
        match self.await_message("the hello", Instant::now() + KEEPER_ANSWER_MAX)?.0 {
            FromKeeper::Welcome { .. } => Ok(()),
            FromKeeper::Refused { reason, .. } => Err(KeeperError::Refused { what: "the hello", reason }),
            other => Err(unexpected("the hello", &other)),
        }
    }

    /// The socket, to be watched for answers.
    #[must_use]
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.peer.socket().as_fd()
    }

    /// Asks the keeper to hold descriptors, each under its name; at most as many as fit one message. The answer repeats the
    /// returned number.
    ///
    /// # Errors
    /// [`KeeperError::Closed`] when the keeper is gone.
    pub fn put(&mut self, parts: &[(String, BorrowedFd<'_>)]) -> Result<u64, KeeperError> {
        let (names, fds): (Vec<_>, Vec<_>) = parts.iter().cloned().unzip();
        self.request(KeeperRequest::Put { names }, &fds)
    }

    /// Asks the keeper to forget what it holds under these names.
    ///
    /// # Errors
    /// [`KeeperError::Closed`] when the keeper is gone.
    pub fn forget(&mut self, names: Vec<String>) -> Result<u64, KeeperError> {
        self.request(KeeperRequest::Drop { names }, &[])
    }

    /// Whether messages wait for room in the socket. They are sent when it is next looked at.
    #[must_use]
    pub fn has_queued(&self) -> bool {
        self.peer.has_queued()
    }

    /// Asks the keeper to watch a worker: `pipe` is the read end of the pipe that the worker holds.
    ///
    /// # Errors
    /// [`KeeperError::Closed`] when the keeper is gone.
    pub fn add_worker(
        &mut self,
        pipe: BorrowedFd<'_>,
        pidfd: BorrowedFd<'_>,
        cgroup: Option<String>,
    ) -> Result<u64, KeeperError> {
        self.request(KeeperRequest::WorkerAdd { cgroup }, &[pipe, pidfd])
    }

    fn request(&mut self, body: KeeperRequest, fds: &[BorrowedFd<'_>]) -> Result<u64, KeeperError> {
        let request = self.next_request;
        self.next_request += 1;
        self.peer.send(&ToKeeper::Request { request, body }, fds).map_err(closed)?;
        Ok(request)
    }

    /// The answers that have arrived, at most a turn's worth; sends what was queued.
    ///
    /// # Errors
    /// [`KeeperError::Closed`] when the keeper is gone or talks nonsense.
    pub fn events(&mut self, events_max: usize) -> Result<Vec<KeeperEvent>, KeeperError> {
        self.peer.flush().map_err(closed)?;
        let mut events = Vec::new();
        while events.len() < events_max {
            match self.receive()? {
                Some((FromKeeper::Done { request }, _)) => events.push(KeeperEvent::Acknowledged { request }),
                Some((FromKeeper::Refused { request, reason }, _)) => {
                    events.push(KeeperEvent::Refused { request, reason });
                }
                Some((other, _)) => return Err(unexpected("nothing", &other)),
                None => break,
            }
        }
        Ok(events)
    }

    /// Everything that the keeper holds, once it has seen all workers of earlier servers end. Blocks.
    ///
    /// # Errors
    /// [`KeeperError::Silent`] when the workers do not end in time.
    pub fn take(&mut self) -> Result<Vec<HeldDescriptor>, KeeperError> {
        let number = self.request(KeeperRequest::Take, &[])?;
        let deadline = Instant::now() + KEEPER_HANDOVER_MAX;
        let mut held = Vec::new();
        loop {
            match self.await_message("for the held descriptors", deadline)? {
                (FromKeeper::Held { request, names, more }, fds) if request == number && names.len() == fds.len() => {
                    held.extend(names.into_iter().zip(fds).map(|(name, fd)| HeldDescriptor { name, fd }));
                    if !more {
                        return Ok(held);
                    }
                }
                (other, _) => return Err(unexpected("for the held descriptors", &other)),
            }
        }
    }

    /// Waits until the numbered request is acknowledged. Blocks; for use before the loop runs, and for tests.
    ///
    /// # Errors
    /// [`KeeperError`] when it is refused or not answered in time.
    pub fn await_acknowledged(&mut self, number: u64) -> Result<(), KeeperError> {
        let deadline = Instant::now() + KEEPER_ANSWER_MAX;
        loop {
            match self.await_message("a request", deadline)?.0 {
                FromKeeper::Done { request } if request == number => return Ok(()),
                FromKeeper::Refused { request, reason } if request == number => {
                    return Err(KeeperError::Refused { what: "a request", reason });
                }
                _ => {}
            }
        }
    }

    /// Ends the keeper: the server shuts down cleanly, with all workers ended. Blocks until the keeper is gone.
    pub fn goodbye(mut self) {
        if let Ok(number) = self.request(KeeperRequest::Goodbye, &[]) {
            // Without an answer the keeper ends all the same, after its linger.
            let _ = self.await_acknowledged(number);
        }
        let Some(mut child) = self.child.take() else { return };
        let deadline = Instant::now() + KEEPER_ANSWER_MAX;
        while matches!(child.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Process number of the keeper, if this server started it.
    #[must_use]
    pub fn keeper_pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Reaps a keeper that has died.
    pub fn reap(mut self) {
        if let Some(child) = &mut self.child {
            // It closed its socket, so it is dead or broken; a broken one must not hold the socket's name.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn await_message(
        &mut self,
        what: &'static str,
        deadline: Instant,
    ) -> Result<(FromKeeper, Vec<OwnedFd>), KeeperError> {
        let start = Instant::now();
        loop {
            self.peer.flush().map_err(closed)?;
            if let Some(message) = self.receive()? {
                return Ok(message);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(KeeperError::Silent { what, waited_ms: start.elapsed().as_millis() });
            }
            wait_readable(self.as_fd(), left.min(Duration::from_millis(100)));
        }
    }

    fn receive(&mut self) -> Result<Option<(FromKeeper, Vec<OwnedFd>)>, KeeperError> {
        let mut buffer = vec![0; CONTROL_MESSAGE_BYTES_MAX];
        let Some(packet) = self.peer.receive(&mut buffer).map_err(closed)? else { return Ok(None) };
        if packet.fds.len() > CONTROL_MESSAGE_FDS_MAX {
            return Err(KeeperError::Closed);
        }
        let message = codec::decode(packet.bytes).map_err(|_| KeeperError::Closed)?;
        Ok(Some((message, packet.fds)))
    }
}

fn closed(error: PeerError) -> KeeperError {
    match error {
        PeerError::Socket(error) => {
            KeeperError::System { what: "the keeper's socket", source: io::Error::other(error.to_string()) }
        }
        _ => KeeperError::Closed,
    }
}

fn unexpected(what: &'static str, message: &FromKeeper) -> KeeperError {
    KeeperError::Refused { what, reason: format!("it answered {message:?}") }
}

/// Waits until `fd` is readable or the time is over; who calls looks for itself.
fn wait_readable(fd: BorrowedFd<'_>, time: Duration) {
    let time = rustix::event::Timespec {
        tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: time.subsec_nanos().into(),
    };
    let mut fds = [rustix::event::PollFd::new(&fd, rustix::event::PollFlags::IN)];
    let _ = rustix::event::poll(&mut fds, Some(&time));
}

/// A listening socket under `path`, in the place of one that nobody listens on any more.
fn bind(path: &Path) -> io::Result<OwnedFd> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&socket, 8)?;
    Ok(socket)
}
