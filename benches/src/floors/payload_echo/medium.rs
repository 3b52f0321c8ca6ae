//! What carries the payloads of a [`PayloadEcho`](super::PayloadEcho), and both ends of it.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use super::super::FloorError;
use super::super::mapping::Mapping;
use super::super::peer::Orders;
use super::super::ping_pong::Waiting;
use super::super::queue::Queue;
use super::super::tcp::{connected_pair, receive_all, send_all};
use super::shared::{self, SharedCaller, SharedPeer};

/// Messages that a queue holds: what the kernel allows at most by default.
pub const QUEUE_MESSAGES: u32 = 10;
/// Bytes of a message of a queue: what the kernel allows at most by default.
pub const QUEUE_MESSAGE_BYTES: usize = 8192;

/// What carries a payload there and back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Medium {
    /// Two POSIX message queues of [`QUEUE_MESSAGES`] messages of [`QUEUE_MESSAGE_BYTES`] bytes; both sides sleep.
    MessageQueue,
    /// A Unix stream socket pair; both sides sleep.
    UnixSocket,
    /// A TCP connection on loopback, Nagle's algorithm off.
    Tcp(Waiting),
    /// Memory that both sides map, which is all there is.
    SharedMemory(Waiting),
}

impl Medium {
    const ALL: [Self; 6] = [
        Self::MessageQueue,
        Self::UnixSocket,
        Self::Tcp(Waiting::Spin),
        Self::Tcp(Waiting::Park),
        Self::SharedMemory(Waiting::Spin),
        Self::SharedMemory(Waiting::Park),
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::MessageQueue => "payload echo through POSIX message queues",
            Self::UnixSocket => "payload echo through a Unix stream socket",
            Self::Tcp(Waiting::Park) => "payload echo over TCP, blocking",
            Self::Tcp(Waiting::Spin) => "payload echo over TCP, both spin",
            Self::SharedMemory(Waiting::Park) => "payload echo in shared memory, both park on a futex",
            Self::SharedMemory(Waiting::Spin) => "payload echo in shared memory, both spin",
        }
    }

    /// What the other side is told.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::MessageQueue => "queue",
            Self::UnixSocket => "unix",
            Self::Tcp(Waiting::Park) => "tcp-park",
            Self::Tcp(Waiting::Spin) => "tcp-spin",
            Self::SharedMemory(Waiting::Park) => "shared-park",
            Self::SharedMemory(Waiting::Spin) => "shared-spin",
        }
    }

    pub(super) fn named(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|medium| medium.word() == word)
    }

    /// How both sides wait.
    #[must_use]
    pub fn waiting(self) -> Waiting {
        match self {
            Self::MessageQueue | Self::UnixSocket => Waiting::Park,
            Self::Tcp(waiting) | Self::SharedMemory(waiting) => waiting,
        }
    }
}

/// Room for a payload, which a queue fills message by message.
pub(super) fn room_bytes(payload_bytes: usize) -> usize {
    payload_bytes.next_multiple_of(QUEUE_MESSAGE_BYTES)
}

/// The caller's end.
#[derive(Debug)]
pub(super) enum Link {
    Queues { requests: Queue, replies: Queue },
    Unix(UnixStream),
    Tcp(TcpStream, Waiting),
    Shared(SharedCaller),
}

impl Link {
    /// Both ends; that of the peer, unless it is made of the caller's.
    pub(super) fn open(medium: Medium, payload_bytes: usize) -> Result<(Self, Option<OwnedFd>), FloorError> {
        Ok(match medium {
            Medium::MessageQueue => {
                let queue = || Queue::create(QUEUE_MESSAGES, QUEUE_MESSAGE_BYTES);
                (Self::Queues { requests: queue()?, replies: queue()? }, None)
            }
            Medium::UnixSocket => {
                let (ours, theirs) = UnixStream::pair().map_err(FloorError::system("make a socket pair"))?;
                (Self::Unix(ours), Some(theirs.into()))
            }
            Medium::Tcp(waiting) => {
                let (ours, theirs) = connected_pair()?;
                for end in [&ours, &theirs] {
                    end.set_nonblocking(waiting == Waiting::Spin).map_err(FloorError::system("set a socket's mode"))?;
                }
                (Self::Tcp(ours, waiting), Some(theirs.into()))
            }
            Medium::SharedMemory(waiting) => {
                let mapping = Mapping::create(shared::mapping_bytes(payload_bytes))?;
                (Self::Shared(SharedCaller::new(mapping, payload_bytes, waiting)), None)
            }
        })
    }

    /// What the peer is given.
    pub(super) fn fds_for_peer<'a>(&'a self, theirs: &'a Option<OwnedFd>) -> Vec<BorrowedFd<'a>> {
        match self {
            Self::Queues { requests, replies } => vec![requests.as_fd(), replies.as_fd()],
            Self::Shared(ours) => vec![ours.memfd()],
            Self::Unix(_) | Self::Tcp(..) => theirs.iter().map(AsFd::as_fd).collect(),
        }
    }

    #[inline(always)]
    pub(super) fn send(&self, payload: &[u8]) -> io::Result<()> {
        match self {
            Self::Queues { requests, .. } => requests.send_whole(payload, QUEUE_MESSAGE_BYTES),
            Self::Unix(stream) => send_all(stream, payload, Waiting::Park),
            Self::Tcp(stream, waiting) => send_all(stream, payload, *waiting),
            Self::Shared(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    #[inline(always)]
    pub(super) fn receive(&self, room: &mut [u8], payload_bytes: usize) -> io::Result<()> {
        match self {
            Self::Queues { replies, .. } => replies.receive_whole(room, payload_bytes, QUEUE_MESSAGE_BYTES),
            Self::Unix(stream) => receive_all(stream, &mut room[..payload_bytes], Waiting::Park),
            Self::Tcp(stream, waiting) => receive_all(stream, &mut room[..payload_bytes], *waiting),
            Self::Shared(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// What ends this end's wait for a dead peer, from another thread.
    pub(super) fn ender(&self) -> Result<Ender, FloorError> {
        let shared = FloorError::system::<io::Error>("share a descriptor");
        Ok(match self {
            Self::Queues { requests, replies } => {
                let share = |queue: &Queue| queue.as_fd().try_clone_to_owned().map(Queue::from);
                let both = share(requests).and_then(|requests| Ok((requests, share(replies)?)));
                let (requests, replies) = both.map_err(shared)?;
                Ender::Queues { requests, replies }
            }
            Self::Unix(stream) => Ender::Unix(stream.try_clone().map_err(shared)?),
            Self::Tcp(stream, _) => Ender::Tcp(stream.try_clone().map_err(shared)?),
            Self::Shared(ours) => Ender::Shared(ours.mapping()),
        })
    }
}

/// Ends the wait of a caller.
#[derive(Debug)]
pub(super) enum Ender {
    Queues { requests: Queue, replies: Queue },
    Unix(UnixStream),
    Tcp(TcpStream),
    Shared(std::sync::Arc<Mapping>),
}

impl Ender {
    pub(super) fn end_wait(&self) {
        match self {
            Self::Queues { requests, replies } => replies.end_wait(requests),
            // Fails only if it was closed, which ends the wait too.
            Self::Unix(stream) => drop(stream.shutdown(Shutdown::Both)),
            Self::Tcp(stream) => drop(stream.shutdown(Shutdown::Both)),
            Self::Shared(mapping) => shared::poison(mapping),
        }
    }
}

/// The peer's end.
#[derive(Debug)]
pub(super) enum PeerLink {
    Queues { requests: Queue, replies: Queue, room: Vec<u8>, payload_bytes: usize },
    Unix(UnixStream, Vec<u8>),
    Tcp(TcpStream, Vec<u8>, Waiting),
    Shared(SharedPeer),
}

impl PeerLink {
    pub(super) fn take(medium: Medium, orders: &mut Orders, payload_bytes: usize) -> io::Result<Self> {
        // Written once, so that the pages exist.
        let room = |bytes| vec![1; bytes];
        Ok(match medium {
            Medium::MessageQueue => Self::Queues {
                requests: orders.take_fd()?.into(),
                replies: orders.take_fd()?.into(),
                room: room(room_bytes(payload_bytes)),
                payload_bytes,
            },
            Medium::UnixSocket => Self::Unix(orders.take_fd()?.into(), room(payload_bytes)),
            Medium::Tcp(waiting) => Self::Tcp(orders.take_fd()?.into(), room(payload_bytes), waiting),
            Medium::SharedMemory(waiting) => {
                let mapping = Mapping::attach(orders.take_fd()?).map_err(io::Error::other)?;
                Self::Shared(SharedPeer::new(mapping, payload_bytes, waiting))
            }
        })
    }

    /// Receives a whole payload, and then sends it back.
    #[inline(always)]
    pub(super) fn echo(&mut self) -> io::Result<()> {
        match self {
            Self::Queues { requests, replies, room, payload_bytes } => {
                requests.receive_whole(room, *payload_bytes, QUEUE_MESSAGE_BYTES)?;
                replies.send_whole(&room[..*payload_bytes], QUEUE_MESSAGE_BYTES)
            }
            Self::Unix(stream, room) => {
                receive_all(&*stream, room, Waiting::Park)?;
                send_all(&*stream, room, Waiting::Park)
            }
            Self::Tcp(stream, room, waiting) => {
                receive_all(&*stream, room, *waiting)?;
                send_all(&*stream, room, *waiting)
            }
            Self::Shared(peer) => peer.echo().map_err(|_| io::Error::other("poisoned")),
        }
    }
}
