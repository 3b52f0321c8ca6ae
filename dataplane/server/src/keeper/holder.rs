//! The keeper process, run by the hidden command `praas keeper`.
//!
//! 1. It listens on the socket that its server bound and gave it as standard input, and on nothing else.
//! 2. It obeys a connection only after that has shown a descriptor of the data directory's lock file that holds the lock.
//! 3. When the server's connection closes, it kills all workers of that server, again and again until their pipes have ended.
//! 4. It hands descriptors over only when the pipes of all earlier servers' workers have ended.
//! 5. It exits after a goodbye, or when it has lingered without a server for the time that the server named; at once when
//!    it holds nothing and no worker is left.
//!
//! It must never block on a peer, and never keep the lock: descriptors of the lock file are closed when checked.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Bound;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use praas_protocol::codec;
use praas_protocol::limits::{CONTROL_MESSAGE_BYTES_MAX, CONTROL_MESSAGE_FDS_MAX};
use praas_sys::{CgroupRoot, MessageSocket};
use rustix::fs::FlockOperation;
use rustix::net::{SocketAddrUnix, SocketFlags};
use rustix::process::DumpableBehavior;

use super::KeeperError;
use super::protocol::{FromKeeper, KEEPER_VERSION, KeeperRequest, ToKeeper};
use super::wards::Ward;
use crate::limits::{
    KEEPER_CONNECTIONS_MAX, KEEPER_FDS_MAX, KEEPER_HANDOVER_MAX, KEEPER_NAME_BYTES_MAX, PEER_PACKETS_TURN_MAX,
    POLL_EVENTS_MAX,
};
use crate::peer::{Packet, Peer, PeerError};

/// Token of the listening socket; connections and workers count on from here.
const LISTENER: usize = 0;

/// Period in which workers that should be dead are killed again: one may fork while it is being killed.
const KILL_PERIOD: Duration = Duration::from_millis(20);

/// Runs the keeper until it is not needed any more. Standard input must be the listening socket that a server bound.
///
/// # Errors
/// [`KeeperError`] when it was not started by a server, or the system refuses the most basic calls.
pub fn run() -> Result<(), KeeperError> {
    let system = |what| move |source: io::Error| KeeperError::System { what, source };
    let listener = io::stdin().as_fd().try_clone_to_owned().map_err(system("duplicating standard input"))?;
    let path = socket_path(&listener)?;
    // Fails when it leads its process group already, which is as good.
    let _ = rustix::process::setsid();
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|error| system("making the keeper non-dumpable")(error.into()))?;
    rustix::io::ioctl_fionbio(&listener, true).map_err(|error| system("preparing the socket")(error.into()))?;
    crate::server::raise_open_files();
    let mut keeper = Keeper::new(listener).map_err(system("creating the keeper's poll"))?;
    let outcome = keeper.serve().map_err(system("waiting for the server"));
    // Before the socket closes: whoever finds it closed may bind a new one under this name at once.
    let _ = std::fs::remove_file(path);
    outcome
}

fn socket_path(listener: &OwnedFd) -> Result<PathBuf, KeeperError> {
    let wrong = |reason: String| KeeperError::NotStartedByServer { reason };
    let address = rustix::net::getsockname(listener).map_err(|error| wrong(error.to_string()))?;
    let address = SocketAddrUnix::try_from(address).map_err(|_| wrong("it is not a Unix socket".into()))?;
    let path = address.path().ok_or_else(|| wrong("the socket has no path".into()))?;
    Ok(PathBuf::from(path.to_string_lossy().into_owned()))
}

struct Connection {
    peer: Peer,
    /// A take that waits for the last workers to end, or for room in the socket.
    take: Option<Take>,
}

struct Take {
    request: u64,
    /// Handed over up to here.
    last_name: Option<String>,
}

pub(crate) struct Keeper {
    poll: Poll,
    listener: OwnedFd,
    next_token: usize,
    ready: BTreeSet<usize>,
    connections: BTreeMap<usize, Connection>,
    /// The connection that has shown the lock.
    server: Option<usize>,
    /// Device and inode of the lock file, from the first hello: that of the server which started this keeper.
    lock: Option<(u64, u64)>,
    wards: BTreeMap<usize, Ward>,
    cgroups: Option<Arc<CgroupRoot>>,
    held: BTreeMap<String, OwnedFd>,
    linger: Duration,
    alone_since: Instant,
    said_goodbye: bool,
}

impl Keeper {
    fn new(listener: OwnedFd) -> io::Result<Self> {
        let keeper = Self {
            poll: Poll::new()?,
            listener,
            next_token: LISTENER + 1,
            ready: BTreeSet::new(),
            connections: BTreeMap::new(),
            server: None,
            lock: None,
            wards: BTreeMap::new(),
            cgroups: None,
            held: BTreeMap::new(),
            linger: Duration::ZERO,
            alone_since: Instant::now(),
            said_goodbye: false,
        };
        keeper.watch(keeper.listener.as_fd(), LISTENER, Interest::READABLE)?;
        Ok(keeper)
    }

    fn watch(&self, fd: BorrowedFd<'_>, token: usize, interest: Interest) -> io::Result<()> {
        self.poll.registry().register(&mut SourceFd(&fd.as_raw_fd()), Token(token), interest)
    }

    fn serve(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(POLL_EVENTS_MAX);
        loop {
            let timeout = self.timeout();
            self.attend(&mut events, timeout)?;
            if self.is_done() {
                return Ok(());
            }
        }
    }

    /// Waits that long at most, and does what there is to do then.
    fn attend(&mut self, events: &mut Events, timeout: Option<Duration>) -> io::Result<()> {
        self.poll.poll(events, timeout).or_else(|error| match error.kind() {
            io::ErrorKind::Interrupted => Ok(()),
            _ => Err(error),
        })?;
        self.ready.extend(events.iter().map(|event| event.token().0));
        for token in std::mem::take(&mut self.ready) {
            self.turn(token);
        }
        self.end_orphans();
        self.answer_takes();
        Ok(())
    }

    fn timeout(&self) -> Option<Duration> {
        if !self.ready.is_empty() {
            return Some(Duration::ZERO);
        }
        if self.orphans().next().is_some() {
            return Some(KILL_PERIOD);
        }
        match self.server {
            Some(_) => None,
            None => Some(self.linger().saturating_sub(self.alone_since.elapsed()) + Duration::from_millis(1)),
        }
    }

    /// How long to stay without a server. Before the first hello: as long as a server may need to say it.
    fn linger(&self) -> Duration {
        if self.lock.is_none() { crate::limits::KEEPER_ANSWER_MAX } else { self.linger }
    }

    fn is_done(&self) -> bool {
        if self.said_goodbye {
            return true;
        }
        if self.server.is_some() {
            return false;
        }
        let alone = self.alone_since.elapsed();
        let needless = self.lock.is_some() && self.held.is_empty() || alone >= self.linger();
        // A descendant of a worker that cannot be killed must not keep the keeper for ever.
        needless && (self.wards.is_empty() || alone >= self.linger() + KEEPER_HANDOVER_MAX)
    }

    /// Workers whose server is gone.
    fn orphans(&self) -> impl Iterator<Item = &Ward> {
        self.wards.values().filter(|ward| Some(ward.connection) != self.server)
    }

    fn end_orphans(&mut self) {
        self.orphans().for_each(Ward::kill);
        let ended = |ward: &Ward| Some(ward.connection) != self.server && ward.has_ended();
        self.wards.retain(|_, ward| !ended(ward));
    }

    fn turn(&mut self, token: usize) {
        if token == LISTENER {
            self.accept();
        } else if self.connections.contains_key(&token) {
            self.converse(token);
        } else if self.wards.get(&token).is_some_and(Ward::has_ended) {
            self.wards.remove(&token);
        }
    }

    fn accept(&mut self) {
        for _ in 0..KEEPER_CONNECTIONS_MAX {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let Ok(socket) = rustix::net::accept_with(&self.listener, flags) else { return };
            let own_uid = rustix::process::geteuid();
            let same_user = rustix::net::sockopt::socket_peercred(&socket).is_ok_and(|peer| peer.uid == own_uid);
            if !same_user || self.connections.len() >= KEEPER_CONNECTIONS_MAX {
                continue;
            }
            let token = self.next_token;
            self.next_token += 1;
            if self.watch(socket.as_fd(), token, Interest::READABLE | Interest::WRITABLE).is_ok() {
                self.connections.insert(token, Connection { peer: Peer::new(MessageSocket::from(socket)), take: None });
                self.ready.insert(token);
            }
        }
        self.ready.insert(LISTENER);
    }

    fn converse(&mut self, token: usize) {
        let mut buffer = [0; CONTROL_MESSAGE_BYTES_MAX];
        for _ in 0..PEER_PACKETS_TURN_MAX {
            let Some(connection) = self.connections.get_mut(&token) else { return };
            let received = connection.peer.flush().and_then(|()| connection.peer.receive(&mut buffer));
            match received.and_then(|packet| packet.map(|packet| self.obey(token, packet)).transpose()) {
                Ok(Some(())) => {}
                Ok(None) => return,
                Err(_) => return self.disconnect(token),
            }
        }
        self.ready.insert(token);
    }

    fn disconnect(&mut self, token: usize) {
        self.connections.remove(&token);
        if self.server == Some(token) {
            self.server = None;
            self.alone_since = Instant::now();
        }
    }

    fn obey(&mut self, token: usize, packet: Packet) -> Result<(), PeerError> {
        let message = codec::decode(packet.bytes).map_err(|_| PeerError::Protocol)?;
        match message {
            ToKeeper::Hello { version, linger_ms, cgroup_prefix } => {
                self.greet(token, version, &packet.fds)?;
                self.linger = Duration::from_millis(linger_ms);
                self.cgroups = Some(CgroupRoot::probe(&cgroup_prefix));
                Ok(())
            }
            ToKeeper::Request { request, body } if self.server == Some(token) => {
                self.carry_out(token, request, body, packet.fds)
            }
            ToKeeper::Request { .. } => Err(PeerError::Protocol),
        }
    }

    fn say(&mut self, token: usize, message: &FromKeeper, fds: &[BorrowedFd<'_>]) -> Result<(), PeerError> {
        self.connections.get_mut(&token).ok_or(PeerError::Closed)?.peer.send(message, fds)
    }

    fn greet(&mut self, token: usize, version: u32, fds: &[OwnedFd]) -> Result<(), PeerError> {
        let reason = match fds.first() {
            _ if version != KEEPER_VERSION => {
                format!("the keeper speaks version {KEEPER_VERSION}, the server {version}")
            }
            Some(fd) => match self.check_lock(fd) {
                Ok(()) => String::new(),
                Err(reason) => reason.into(),
            },
            None => "the hello carries no lock".into(),
        };
        if !reason.is_empty() {
            let _ = self.say(token, &FromKeeper::Refused { request: 0, reason }, &[]);
            return Err(PeerError::Protocol);
        }
        if let Some(former) = self.server.replace(token).filter(|&former| former != token) {
            self.connections.remove(&former);
        }
        let count = |count| u32::try_from(count).unwrap_or(u32::MAX);
        let welcome = FromKeeper::Welcome { held: count(self.held.len()), workers: count(self.orphans().count()) };
        self.say(token, &welcome, &[])
    }

    /// Accepts a descriptor of the lock file whose open file description holds the lock.
    fn check_lock(&mut self, fd: &OwnedFd) -> Result<(), &'static str> {
        let found = rustix::fs::fstat(fd).map_err(|_| "the lock cannot be examined")?;
        let identity = (found.st_dev, found.st_ino);
        if *self.lock.get_or_insert(identity) != identity {
            return Err("the lock is that of another data directory");
        }
        // Succeeds for the description that holds the lock already; the lock ends with the server's copy of it, not with
        // this one.
        rustix::fs::flock(fd, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| "another server holds the lock of the data directory")
    }

    fn carry_out(
        &mut self,
        token: usize,
        request: u64,
        body: KeeperRequest,
        fds: Vec<OwnedFd>,
    ) -> Result<(), PeerError> {
        let done = match body {
            KeeperRequest::Put { names } => self.put(names, fds),
            KeeperRequest::Drop { names } => {
                names.iter().for_each(|name| drop(self.held.remove(name)));
                Ok(())
            }
            KeeperRequest::WorkerAdd { cgroup } => self.add_ward(token, cgroup, fds),
            KeeperRequest::Take => {
                if let Some(connection) = self.connections.get_mut(&token) {
                    connection.take = Some(Take { request, last_name: None });
                }
                return Ok(());
            }
            KeeperRequest::Goodbye => {
                self.said_goodbye = true;
                Ok(())
            }
        };
        match done {
            Ok(()) => self.say(token, &FromKeeper::Done { request }, &[]),
            Err(reason) => self.say(token, &FromKeeper::Refused { request, reason }, &[]),
        }
    }

    fn put(&mut self, names: Vec<String>, fds: Vec<OwnedFd>) -> Result<(), String> {
        if names.is_empty() || names.len() != fds.len() {
            return Err(format!("{} descriptors came with {} names", fds.len(), names.len()));
        }
        if let Some(name) = names.iter().find(|name| name.is_empty() || name.len() > KEEPER_NAME_BYTES_MAX) {
            return Err(format!("a name has {} bytes, allowed is 1 to {KEEPER_NAME_BYTES_MAX}", name.len()));
        }
        let new = names.iter().filter(|name| !self.held.contains_key(*name)).count();
        if self.held.len() + new > KEEPER_FDS_MAX {
            return Err(format!("{} of {KEEPER_FDS_MAX} descriptors are held already", self.held.len()));
        }
        self.held.extend(names.into_iter().zip(fds));
        Ok(())
    }

    fn add_ward(&mut self, connection: usize, cgroup: Option<String>, fds: Vec<OwnedFd>) -> Result<(), String> {
        let Ok([pipe, pidfd]) = <[OwnedFd; 2]>::try_from(fds) else {
            return Err("a pipe and a pidfd belong to a worker".into());
        };
        let token = self.next_token;
        self.next_token += 1;
        self.watch(pipe.as_fd(), token, Interest::READABLE)
            .map_err(|error| format!("cannot watch the pipe: {error}"))?;
        // A cgroup that cannot be opened is gone, with everything in it.
        let cgroup = cgroup.zip(self.cgroups.as_ref()).and_then(|(name, cgroups)| cgroups.open(&name).ok());
        self.wards.insert(token, Ward::new(pipe, pidfd, cgroup, connection));
        // Its end may have come before the watch.
        self.ready.insert(token);
        Ok(())
    }

    /// Hands held descriptors over, as many as the server's socket takes now: no more of them are under way at a time than
    /// the kernel lets a process send.
    fn answer_takes(&mut self) {
        let Some(token) = self.server else { return };
        if self.orphans().next().is_some() {
            return;
        }
        let Some(connection) = self.connections.get_mut(&token) else { return };
        while let Some(take) = connection.take.take_if(|_| !connection.peer.has_queued()) {
            let from = take.last_name.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
            let mut left = self.held.range::<String, _>((from, Bound::Unbounded));
            let piece: Vec<_> = left.by_ref().take(CONTROL_MESSAGE_FDS_MAX).collect();
            let more = left.next().is_some();
            let names: Vec<String> = piece.iter().map(|(name, _)| (*name).clone()).collect();
            let fds: Vec<_> = piece.iter().map(|(_, fd)| fd.as_fd()).collect();
            let last_name = names.last().cloned();
            let held = FromKeeper::Held { request: take.request, names, more };
            if connection.peer.send(&held, &fds).is_err() {
                return self.disconnect(token);
            }
            connection.take = more.then_some(Take { request: take.request, last_name });
        }
    }
}

/// For a test that has the keeper in its own thread, and greets it by the hand.
#[cfg(any(test, feature = "simulation"))]
impl Keeper {
    /// A keeper that nobody can connect to.
    pub(crate) fn by_hand() -> io::Result<Self> {
        let socket = MessageSocket::pair().map_err(|error| io::Error::other(error.to_string()))?.0;
        let mut keeper = Self::new(socket.into())?;
        keeper.linger = Duration::MAX;
        Ok(keeper)
    }

    /// A server at the other end of this socket, after its hello. An earlier one is gone.
    pub(crate) fn adopt(&mut self, socket: MessageSocket) -> io::Result<()> {
        let token = self.next_token;
        self.next_token += 1;
        self.watch(socket.as_fd(), token, Interest::READABLE | Interest::WRITABLE)?;
        self.connections.insert(token, Connection { peer: Peer::new(socket), take: None });
        self.ready.insert(token);
        if let Some(former) = self.server.replace(token) {
            self.connections.remove(&former);
        }
        Ok(())
    }

    /// Does what there is to do.
    pub(crate) fn attend_now(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(POLL_EVENTS_MAX);
        self.attend(&mut events, Some(Duration::ZERO))
    }

    /// Copies of all that it holds, for the next server; `None` as long as a worker of an earlier one is left.
    pub(crate) fn hand_over(&self) -> io::Result<Option<BTreeMap<String, OwnedFd>>> {
        if !self.wards.is_empty() {
            return Ok(None);
        }
        self.held.iter().map(|(name, fd)| Ok((name.clone(), fd.try_clone()?))).collect::<io::Result<_>>().map(Some)
    }
}
