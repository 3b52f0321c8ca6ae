//! The other side of a floor, a process of its own: this program again, with a hidden first argument.
//!
//! Parent and peer speak over a SOCK_SEQPACKET pair that is the peer's standard input:
//! parent: one message with the floor's file descriptors; peer: `READY`;
//! then for each round, parent: how many operations and how long they may take; peer: how many it did.
//! Between rounds the peer sleeps in that receive, so that it disturbs nobody else's round.
//!
//! A peer never outlives its parent: the kernel kills it when the thread that started it ends, the receive ends when
//! the parent's socket closes, and an alarm ends a round that overran.

use std::ffi::OsString;
use std::io::{self, IoSlice, IoSliceMut};
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recv, recvmsg, send, sendmsg, socketpair,
};
use rustix::process::{
    Pid, PidfdFlags, Signal, getpid, getppid, pidfd_open, pidfd_send_signal, set_parent_process_death_signal,
};

use super::FloorError;
use super::placement::Pinned;

/// The hidden first argument.
pub(super) const PEER_ARGUMENT: &str = "__floor-peer";
/// Most file descriptors that a floor passes: two queues each way.
const FDS_MAX: usize = 4;
/// What a peer says when it can begin.
const READY: u64 = u64::from_be_bytes(*b"floor up");
/// The longest that a peer may take to start or to report a finished round: a loaded machine, not a lost peer.
const PATIENCE: Duration = Duration::from_secs(20);
/// What a peer grants a round beyond the parent's own deadline, which acts first.
const ALARM_SLACK_SECONDS: u64 = 5;

/// A running peer, killed and reaped when dropped. Not `Send`: the kernel ties the peer to the thread that started it.
#[derive(Debug)]
pub(super) struct Peer {
    floor: &'static str,
    child: Child,
    socket: OwnedFd,
    pidfd: OwnedFd,
    on_this_thread: PhantomData<*const ()>,
}

/// What a peer is to be.
#[derive(Debug)]
pub(super) struct PeerSpec<'a> {
    /// The floor's name, for messages.
    pub(super) floor: &'static str,
    /// The executable, which calls `serve_peer_if_asked`.
    pub(super) program: &'a Path,
    /// Which loop it serves; see `serve.rs`.
    pub(super) role: &'static str,
    /// Its core, if it is pinned.
    pub(super) cpu: Option<usize>,
    /// What it maps, reads and writes.
    pub(super) fds: &'a [BorrowedFd<'a>],
    /// Further words for its role.
    pub(super) arguments: &'a [String],
}

impl Peer {
    /// Starts a peer and waits until it is ready.
    pub(super) fn start(spec: &PeerSpec<'_>) -> Result<Self, FloorError> {
        let (socket, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(FloorError::system("make a socket pair"))?;
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE)).map_err(FloorError::system("limit a wait"))?;
        let mut child = Command::new(spec.program)
            .arg(PEER_ARGUMENT)
            .arg(spec.role)
            .arg(spec.cpu.map_or_else(|| "free".to_owned(), |cpu| cpu.to_string()))
            .arg(getpid().as_raw_nonzero().to_string())
            .args(spec.arguments)
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .spawn()
            .map_err(|source| FloorError::PeerStart { program: spec.program.to_owned(), source })?;
        let pidfd = match pidfd_open(pid_of(&child), PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(error) => {
                // Without a pidfd there is no `Peer` whose drop would do this.
                let _ = child.kill();
                let _ = child.wait();
                return Err(FloorError::system("open a pidfd")(error));
            }
        };
        let peer = Self { floor: spec.floor, child, socket, pidfd, on_this_thread: PhantomData };
        let not_ready = || FloorError::PeerNotReady { floor: spec.floor, program: PathBuf::from(spec.program) };
        send_fds(&peer.socket, spec.fds).map_err(|_| not_ready())?;
        match receive_words::<1>(&peer.socket) {
            Ok(Some([READY])) => Ok(peer),
            _ => Err(not_ready()),
        }
    }

    /// Lets the peer begin a round.
    pub(super) fn begin(&self, operations: u64, deadline: Duration) -> Result<(), FloorError> {
        send_words(&self.socket, &[operations, deadline.as_secs()])
            .map_err(|_| FloorError::PeerGone { floor: self.floor })
    }

    /// Waits for the peer's word that its round is over.
    pub(super) fn finish(&self, operations: u64) -> Result<(), FloorError> {
        match receive_words::<1>(&self.socket) {
            Ok(Some([done])) if done == operations => Ok(()),
            Ok(Some([done])) => Err(FloorError::WrongAnswer { floor: self.floor, expected: operations, answer: done }),
            Ok(None) | Err(_) => Err(FloorError::PeerGone { floor: self.floor }),
        }
    }

    /// Becomes readable when the peer has ended.
    pub(super) fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// The peer's process id.
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        kill(self.pidfd.as_fd());
        // Killed above and our own child: the wait is short and finds it.
        let _ = self.child.wait();
    }
}

/// Kills a process that may have ended by itself.
pub(super) fn kill(pidfd: BorrowedFd<'_>) {
    let _ = pidfd_send_signal(pidfd, Signal::KILL);
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_child(child)
}

/// What a peer was started with, and its end of the socket by which it is told of rounds.
#[derive(Debug)]
pub struct Orders {
    socket: OwnedFd,
    /// What the parent passed, in its order.
    pub(super) fds: Vec<OwnedFd>,
    /// The role's further words.
    pub(super) arguments: Vec<OsString>,
}

impl Orders {
    /// Ties this process to its parent, pins it, and takes over what the parent passed. `arguments` follow the role:
    /// core, parent, further words.
    pub(super) fn take_over(mut arguments: impl Iterator<Item = OsString>) -> io::Result<Self> {
        let malformed = || io::Error::new(io::ErrorKind::InvalidInput, "a floor's peer is not started by hand");
        let mut word = || arguments.next().and_then(|word| word.into_string().ok()).ok_or_else(malformed);
        let cpu = word()?;
        let parent = word()?;
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // A parent that died before the line above sends no signal any more.
        if getppid().map(|pid| pid.as_raw_nonzero().to_string()) != Some(parent) {
            return Err(io::Error::other("the parent has ended"));
        }
        if cpu != "free" {
            let cpu = cpu.parse().map_err(|_| malformed())?;
            Pinned::to(Some(cpu)).map_err(io::Error::other)?.for_good();
        }
        let socket = io::stdin().as_fd().try_clone_to_owned()?;
        let fds = receive_fds(&socket)?;
        Ok(Self { socket, fds, arguments: arguments.collect() })
    }

    /// The next descriptor that the parent passed.
    ///
    /// # Errors
    /// If it passed too few.
    pub fn take_fd(&mut self) -> io::Result<OwnedFd> {
        if self.fds.is_empty() {
            return Err(io::Error::other("the parent passed too few descriptors"));
        }
        Ok(self.fds.remove(0))
    }

    /// Reports ready and serves each round with `round(operations)` until the parent closes its end.
    ///
    /// # Errors
    /// What `round` fails with, or the socket's.
    pub fn serve(&self, mut round: impl FnMut(u64) -> io::Result<()>) -> io::Result<()> {
        send_words(&self.socket, &[READY])?;
        while let Some([operations, deadline_s]) = receive_words::<2>(&self.socket)? {
            set_alarm(deadline_s + ALARM_SLACK_SECONDS);
            round(operations)?;
            set_alarm(0);
            send_words(&self.socket, &[operations])?;
        }
        Ok(())
    }
}

/// Has the kernel end this process after `seconds`; zero calls it off.
fn set_alarm(seconds: u64) {
    let seconds = libc::c_uint::try_from(seconds).unwrap_or(libc::c_uint::MAX);
    // SAFETY: alarm has no memory effects; SIGALRM keeps its default action, which ends the process.
    unsafe { libc::alarm(seconds) };
}

fn send_words<const N: usize>(socket: &OwnedFd, words: &[u64; N]) -> io::Result<()> {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    send(socket, &bytes, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives one message of exactly `N` words; `None` when the other end is closed.
fn receive_words<const N: usize>(socket: &OwnedFd) -> io::Result<Option<[u64; N]>> {
    let mut bytes = [0_u8; 64];
    let (_, received) = rustix::io::retry_on_intr(|| recv(socket, &mut bytes[..], RecvFlags::empty()))?;
    if received == 0 {
        return Ok(None);
    }
    let (words, rest) = bytes.get(..received).unwrap_or(&[]).as_chunks::<8>();
    if words.len() != N || !rest.is_empty() {
        return Err(io::Error::other(format!("a message of {received} bytes where {N} words were due")));
    }
    Ok(Some(std::array::from_fn(|index| u64::from_le_bytes(words[index]))))
}

fn send_fds(socket: &OwnedFd, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    assert!(fds.len() <= FDS_MAX, "a floor passes at most {FDS_MAX} descriptors");
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::other("the control buffer is too small"));
    }
    sendmsg(socket, &[IoSlice::new(&[0])], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

fn receive_fds(socket: &OwnedFd) -> io::Result<Vec<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let message = rustix::io::retry_on_intr(|| {
        recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)
    })?;
    if message.bytes == 0 {
        return Err(io::Error::other("the parent has ended"));
    }
    let mut fds = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            fds.extend(received);
        }
    }
    Ok(fds)
}
