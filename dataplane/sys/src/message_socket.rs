//! Unix sockets that keep message boundaries (`SOCK_SEQPACKET`) and carry file descriptors.
//!
//! One message is at most [`MESSAGE_FDS_MAX`] descriptors and as many bytes as the receiver's buffer: what does not fit
//! is an error, and the descriptors that did arrive are closed. An empty message is refused at the sender, so that an
//! empty read always means that the peer is gone. Received descriptors are close-on-exec from the start.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recvmsg, sendmsg, socket_with,
    socketpair, sockopt,
};

use crate::wait::{events_now, wait_for};

/// Descriptors in one message. The largest message of the protocol hands out a lane, a doorbell, a control page and a
/// worker page for each of a few peers; the kernel's own limit is 253.
pub const MESSAGE_FDS_MAX: usize = 16;

/// One end of a connection.
#[derive(Debug)]
pub struct MessageSocket {
    socket: OwnedFd,
}

/// Who is at the other end, as the kernel noted when the connection was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerCredentials {
    /// Process id in this process's PID namespace. It may have been reused: never decide about liveness by it.
    pub pid: u32,
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
}

/// A message that arrived whole.
#[derive(Debug)]
pub struct Received {
    /// Bytes written to the start of the buffer; at least 1.
    pub bytes: usize,
    /// Descriptors that came with it, in the sender's order.
    pub fds: Vec<OwnedFd>,
}

/// What became of a message that was offered without waiting for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a message that found the queue full was not sent"]
pub enum Sending {
    /// The kernel has it; the peer will see it unless it dies.
    Sent,
    /// The peer's queue is full: nothing was sent, try again later.
    Full,
}

/// Why a socket operation failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SocketError {
    /// The peer closed its end or died.
    #[error("the peer closed the connection")]
    Closed,
    /// Empty messages cannot be told from the end of the connection.
    #[error("a message needs at least one byte")]
    EmptyMessage,
    /// More descriptors than one message may carry.
    #[error("{given} descriptors in one message, at most {limit} are allowed")]
    TooManyFds {
        /// Descriptors given, or received.
        given: usize,
        /// The limit that applied.
        limit: usize,
    },
    /// The message does not fit the socket's send buffer.
    #[error("a message of {bytes} bytes is too long for this socket; split it or pass it in a segment")]
    MessageTooLong {
        /// Length of the message.
        bytes: usize,
    },
    /// The message was longer than the buffer; the rest is lost and its descriptors are closed.
    #[error("the peer sent a message longer than the {buffer_bytes} bytes allowed here")]
    TruncatedData {
        /// Length of the receiver's buffer.
        buffer_bytes: usize,
    },
    /// Descriptors of the message were lost; those that arrived are closed.
    #[error(
        "descriptors of a message were lost after {received} arrived: this process is at its open-files limit \
         (see `ulimit -n`), or the peer sent more than {limit}"
    )]
    TruncatedControl {
        /// Descriptors that did arrive.
        received: usize,
        /// The most that would have been taken.
        limit: usize,
    },
    /// Unix socket addresses hold 107 bytes of path.
    #[error("the socket path {path:?} is {bytes} bytes long, at most 107 fit; use a shorter data directory")]
    PathTooLong {
        /// The path.
        path: PathBuf,
        /// Its length.
        bytes: usize,
    },
    /// The path is taken, by a live server or by a leftover that nobody proved dead.
    #[error("{path:?} exists already: another server may be using it, or a dead one left it behind")]
    AddressInUse {
        /// The path.
        path: PathBuf,
    },
    /// A system call failed.
    #[error("{call} failed: {errno}")]
    Call {
        /// The call.
        call: &'static str,
        /// What the kernel answered.
        errno: Errno,
    },
}

impl SocketError {
    /// Whether this end ran out of descriptors (its own limit or the host's), so that backing off may help.
    #[must_use]
    pub fn is_fd_exhaustion(&self) -> bool {
        match self {
            Self::TruncatedControl { .. } => true,
            Self::Call { errno, .. } => matches!(*errno, Errno::MFILE | Errno::NFILE),
            _ => false,
        }
    }
}

pub(crate) fn failed(call: &'static str) -> impl Fn(Errno) -> SocketError {
    move |errno| SocketError::Call { call, errno }
}

pub(crate) fn address(path: &Path) -> Result<SocketAddrUnix, SocketError> {
    SocketAddrUnix::new(path).map_err(|errno| match errno {
        Errno::NAMETOOLONG => SocketError::PathTooLong { path: path.to_owned(), bytes: path.as_os_str().len() },
        errno => SocketError::Call { call: "sockaddr_un", errno },
    })
}

pub(crate) fn new_socket(flags: SocketFlags) -> Result<OwnedFd, SocketError> {
    socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags | SocketFlags::CLOEXEC, None)
        .map_err(failed("socket"))
}

impl MessageSocket {
    /// Two connected ends.
    pub fn pair() -> Result<(Self, Self), SocketError> {
        let (one, other) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(failed("socketpair"))?;
        Ok((Self { socket: one }, Self { socket: other }))
    }

    /// Connects to a [`Listener`](crate::Listener). Waits only if the listener's backlog is full.
    pub fn connect(path: &Path) -> Result<Self, SocketError> {
        let socket = new_socket(SocketFlags::empty())?;
        retry_on_intr(|| connect(&socket, &address_or_fault(path)?)).map_err(|errno| match address(path) {
            Err(error) => error,
            Ok(_) => SocketError::Call { call: "connect", errno },
        })?;
        Ok(Self { socket })
    }

    /// Sends one message, waiting while the peer's queue is full. Use only towards a trusted peer.
    pub fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), SocketError> {
        match self.send_with(bytes, fds, SendFlags::NOSIGNAL)? {
            Sending::Sent => Ok(()),
            Sending::Full => Err(SocketError::Call { call: "sendmsg", errno: Errno::AGAIN }),
        }
    }

    /// Sends one message if the peer's queue has room. Never waits, never raises SIGPIPE.
    pub fn try_send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<Sending, SocketError> {
        self.send_with(bytes, fds, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)
    }

    /// Sends one message, waiting at most `wait` for room.
    pub fn send_deadline(&self, bytes: &[u8], fds: &[BorrowedFd<'_>], wait: Duration) -> Result<Sending, SocketError> {
        let end = Instant::now().checked_add(wait);
        loop {
            if self.try_send(bytes, fds)? == Sending::Sent {
                return Ok(Sending::Sent);
            }
            let remaining = remaining(end, wait);
            if remaining.is_zero() {
                return Ok(Sending::Full);
            }
            wait_for(self.as_fd(), PollFlags::OUT, remaining).map_err(failed("poll"))?;
        }
    }

    fn send_with(&self, bytes: &[u8], fds: &[BorrowedFd<'_>], flags: SendFlags) -> Result<Sending, SocketError> {
        if bytes.is_empty() {
            return Err(SocketError::EmptyMessage);
        }
        if fds.len() > MESSAGE_FDS_MAX {
            return Err(SocketError::TooManyFds { given: fds.len(), limit: MESSAGE_FDS_MAX });
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MESSAGE_FDS_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(SocketError::TooManyFds { given: fds.len(), limit: MESSAGE_FDS_MAX });
        }
        match retry_on_intr(|| sendmsg(&self.socket, &[IoSlice::new(bytes)], &mut control, flags)) {
            Ok(_) => Ok(Sending::Sent),
            Err(Errno::AGAIN | Errno::NOBUFS) => Ok(Sending::Full),
            Err(Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN) => Err(SocketError::Closed),
            Err(Errno::MSGSIZE) => Err(SocketError::MessageTooLong { bytes: bytes.len() }),
            Err(errno) => Err(SocketError::Call { call: "sendmsg", errno }),
        }
    }

    /// Receives one message, waiting for it. Use only where the peer's death ends the wait.
    pub fn recv(&self, buffer: &mut [u8], fds_max: usize) -> Result<Received, SocketError> {
        loop {
            if let Some(received) = self.recv_with(buffer, fds_max, RecvFlags::empty())? {
                return Ok(received);
            }
            // Only a socket that somebody set non-blocking comes here.
            wait_for(self.as_fd(), PollFlags::IN, Duration::MAX).map_err(failed("poll"))?;
        }
    }

    /// Receives one message if there is one.
    pub fn try_recv(&self, buffer: &mut [u8], fds_max: usize) -> Result<Option<Received>, SocketError> {
        self.recv_with(buffer, fds_max, RecvFlags::DONTWAIT)
    }

    /// Receives one message, waiting at most `wait`; `None` when the time is up.
    pub fn recv_deadline(
        &self,
        buffer: &mut [u8],
        fds_max: usize,
        wait: Duration,
    ) -> Result<Option<Received>, SocketError> {
        let end = Instant::now().checked_add(wait);
        loop {
            if let Some(received) = self.try_recv(buffer, fds_max)? {
                return Ok(Some(received));
            }
            let remaining = remaining(end, wait);
            if remaining.is_zero() {
                return Ok(None);
            }
            wait_for(self.as_fd(), PollFlags::IN, remaining).map_err(failed("poll"))?;
        }
    }

    fn recv_with(&self, buffer: &mut [u8], fds_max: usize, flags: RecvFlags) -> Result<Option<Received>, SocketError> {
        let limit = fds_max.min(MESSAGE_FDS_MAX);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MESSAGE_FDS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let buffer_bytes = buffer.len();
        let flags = flags | RecvFlags::CMSG_CLOEXEC;
        let message = match retry_on_intr(|| recvmsg(&self.socket, &mut [IoSliceMut::new(buffer)], &mut control, flags))
        {
            Ok(message) => message,
            Err(Errno::AGAIN) => return Ok(None),
            Err(Errno::CONNRESET | Errno::NOTCONN) => return Err(SocketError::Closed),
            Err(errno) => return Err(SocketError::Call { call: "recvmsg", errno }),
        };
        // Every descriptor is owned from here on, so that each early return closes them all.
        let fds = take_fds(&mut control);
        if message.flags.contains(ReturnFlags::CTRUNC) {
            return Err(SocketError::TruncatedControl { received: fds.len(), limit });
        }
        if fds.len() > limit {
            return Err(SocketError::TooManyFds { given: fds.len(), limit });
        }
        if message.flags.contains(ReturnFlags::TRUNC) {
            return Err(SocketError::TruncatedData { buffer_bytes });
        }
        if message.bytes == 0 {
            return Err(SocketError::Closed);
        }
        Ok(Some(Received { bytes: message.bytes, fds }))
    }

    /// Who connected, or who made the pair.
    pub fn peer_credentials(&self) -> Result<PeerCredentials, SocketError> {
        let mut credentials = libc::ucred { pid: 0, uid: 0, gid: 0 };
        let mut length = LENGTH_OF_UCRED;
        // SAFETY: the kernel writes at most `length` bytes, which is the size of `credentials`, a plain C struct for
        // which every bit pattern is valid; the descriptor is open because `self` owns it.
        let status = unsafe {
            libc::getsockopt(
                std::os::fd::AsRawFd::as_raw_fd(&self.socket),
                libc::SOL_SOCKET,
                libc::SO_PEERCRED,
                (&raw mut credentials).cast(),
                &raw mut length,
            )
        };
        if status != 0 {
            let errno = Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO);
            return Err(SocketError::Call { call: "getsockopt SO_PEERCRED", errno });
        }
        Ok(PeerCredentials {
            // A peer outside this PID namespace shows as 0.
            pid: u32::try_from(credentials.pid).unwrap_or(0),
            uid: credentials.uid,
            gid: credentials.gid,
        })
    }

    /// Asks for a send buffer of `bytes`, which bounds the longest message; the kernel may give less.
    pub fn set_send_buffer_bytes(&self, bytes: usize) -> Result<(), SocketError> {
        sockopt::set_socket_send_buffer_size(&self.socket, bytes).map_err(failed("setsockopt SO_SNDBUF"))
    }

    /// Sets or clears `O_NONBLOCK` on the open file description, which every duplicate of this socket shares.
    pub fn set_nonblocking(&self, nonblocking: bool) -> Result<(), SocketError> {
        rustix::io::ioctl_fionbio(&self.socket, nonblocking).map_err(failed("ioctl FIONBIO"))
    }

    /// Whether the peer's end is closed. Messages it sent before may still wait to be received.
    #[must_use]
    pub fn is_hung_up(&self) -> bool {
        events_now(self.as_fd(), PollFlags::empty())
            .is_ok_and(|events| events.intersects(PollFlags::HUP | PollFlags::ERR))
    }

    /// A second descriptor for the same end.
    pub fn try_clone(&self) -> Result<Self, SocketError> {
        let socket = rustix::io::fcntl_dupfd_cloexec(&self.socket, 0).map_err(failed("fcntl F_DUPFD_CLOEXEC"))?;
        Ok(Self { socket })
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the size of a 12-byte struct")]
const LENGTH_OF_UCRED: libc::socklen_t = size_of::<libc::ucred>() as libc::socklen_t;

fn address_or_fault(path: &Path) -> Result<SocketAddrUnix, Errno> {
    SocketAddrUnix::new(path)
}

fn remaining(end: Option<Instant>, wait: Duration) -> Duration {
    end.map_or(wait, |end| end.saturating_duration_since(Instant::now()))
}

fn take_fds(control: &mut RecvAncillaryBuffer<'_>) -> Vec<OwnedFd> {
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    fds
}

impl AsFd for MessageSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl From<OwnedFd> for MessageSocket {
    /// Takes a descriptor that the caller knows to be a connected `SOCK_SEQPACKET` socket; on anything else every
    /// operation fails with [`SocketError::Call`].
    fn from(socket: OwnedFd) -> Self {
        Self { socket }
    }
}

impl From<MessageSocket> for OwnedFd {
    fn from(socket: MessageSocket) -> Self {
        socket.socket
    }
}
