//! Floors over TCP on loopback, Nagle's algorithm off: one connection ([`TcpEcho`], [`TcpBlock`], [`TcpBlocks`]), and many connections
//! with calls in flight ([`TcpCrowd`]), whose load ([`Load`]) also drives what is compared with them.
//!
//! Connections are made by the measuring side. A single one is passed to the peer; of many, the listener is, and the peer
//! accepts them.

mod block;
mod crowd;
#[cfg(feature = "bars")]
mod driver;
mod echo;
mod load;
mod stream;
#[cfg(feature = "tokio-uring")]
mod tokio_uring;

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::FloorError;
use super::peer::Orders;
use super::ping_pong::Waiting;

pub use block::TcpBlock;
pub(super) use block::{ROLE as BLOCK_ROLE, serve as serve_block};
pub use crowd::{Crowd, EchoServer, FRAME_BYTES, TcpCrowd};
pub(super) use crowd::{EPOLL_ROLE, serve_by_epoll};
#[cfg(feature = "bars")]
pub(super) use driver::{
    EPOLL_ROLE as EPOLL_DRIVER_ROLE, IO_URING_ROLE as IO_URING_DRIVER_ROLE, serve as serve_by_driver,
};
pub use echo::TcpEcho;
pub(super) use echo::{PARK_ROLE, SPIN_ROLE, serve as serve_echo};
pub use load::{Exchange, Load, Taken};
pub use stream::TcpBlocks;
pub(super) use stream::{ROLE as STREAM_ROLE, serve as serve_stream};
#[cfg(feature = "tokio-uring")]
pub(super) use tokio_uring::{ROLE as TOKIO_URING_ROLE, serve as serve_by_tokio_uring};

/// The longest that a socket may take to become writable: the other side is stuck, not slow.
const WRITE_PATIENCE: Duration = Duration::from_secs(20);
/// Descriptors that a program with a crowd of connections needs besides those.
const SPARE_DESCRIPTORS: u64 = 256;

/// Both ends of a connection.
pub(super) fn connected_pair() -> Result<(TcpStream, TcpStream), FloorError> {
    let make = || -> io::Result<(TcpStream, TcpStream)> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let ours = TcpStream::connect(listener.local_addr()?)?;
        let (theirs, peer) = listener.accept()?;
        if peer != ours.local_addr()? {
            return Err(io::Error::other("another program connected to the floor's port; measure again"));
        }
        ours.set_nodelay(true)?;
        theirs.set_nodelay(true)?;
        Ok((ours, theirs))
    };
    make().map_err(FloorError::system("make a TCP connection on loopback"))
}

/// A listener with room for `connections` that nobody accepts yet, on a port that the kernel chose.
fn listener(connections: usize) -> Result<(TcpListener, SocketAddr), FloorError> {
    let make = || -> io::Result<(TcpListener, SocketAddr)> {
        let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0))?;
        listen(&socket, i32::try_from(connections).unwrap_or(i32::MAX))?;
        let listener = TcpListener::from(socket);
        let address = listener.local_addr()?;
        Ok((listener, address))
    };
    make().map_err(FloorError::system("listen on loopback"))
}

/// A connection to `address`.
///
/// # Errors
/// [`FloorError::System`] if nobody listens there.
pub fn connect(address: SocketAddr) -> Result<TcpStream, FloorError> {
    let stream = TcpStream::connect(address).map_err(FloorError::system("connect on loopback"))?;
    stream.set_nodelay(true).map_err(FloorError::system("set a socket's mode"))?;
    Ok(stream)
}

/// Lets this process, and those that it starts, open as many descriptors as `connections` take; how many connections its
/// limit has room for.
///
/// # Errors
/// [`FloorError::System`] if the kernel refuses.
pub fn allow_connections(connections: usize) -> Result<usize, FloorError> {
    let wanted = connections as u64 + SPARE_DESCRIPTORS;
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: Some(wanted), maximum: limit.maximum.map(|maximum| maximum.max(wanted)) };
    // Raising the hard limit is for the privileged; others get as far as it goes.
    if limit.current.is_some_and(|current| current < wanted) && setrlimit(Resource::Nofile, raised).is_err() {
        let raised = Rlimit { current: limit.maximum, ..limit };
        setrlimit(Resource::Nofile, raised).map_err(FloorError::system("raise the limit on open files"))?;
    }
    let granted = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    Ok(usize::try_from(granted.saturating_sub(SPARE_DESCRIPTORS)).unwrap_or(connections).min(connections))
}

/// Receives as many bytes as `bytes` has.
#[inline(always)]
pub(super) fn receive_all(mut stream: impl Read, bytes: &mut [u8], waiting: Waiting) -> io::Result<()> {
    if waiting == Waiting::Park {
        return stream.read_exact(bytes);
    }
    let mut at = 0;
    while at < bytes.len() {
        match stream.read(&mut bytes[at..]) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(received) => at += received,
            Err(error) if is_passing(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Sends all of `bytes`.
#[inline(always)]
pub(super) fn send_all(mut stream: impl Write, bytes: &[u8], waiting: Waiting) -> io::Result<()> {
    if waiting == Waiting::Park {
        return stream.write_all(bytes);
    }
    let mut at = 0;
    while at < bytes.len() {
        match stream.write(&bytes[at..]) {
            Ok(sent) => at += sent,
            Err(error) if is_passing(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Sends all of `bytes` on a non-blocking socket, asleep while its buffer is full.
fn send_all_or_sleep(mut stream: &TcpStream, bytes: &[u8]) -> io::Result<()> {
    let mut at = 0;
    while at < bytes.len() {
        match stream.write(&bytes[at..]) {
            Ok(sent) => at += sent,
            Err(error) if error.kind() == ErrorKind::WouldBlock => sleep_until_writable(stream)?,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cold]
fn sleep_until_writable(stream: &TcpStream) -> io::Result<()> {
    let until = Instant::now() + WRITE_PATIENCE;
    loop {
        let remaining = until.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(remaining).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
        match poll(&mut [PollFd::new(stream, PollFlags::OUT)], Some(&timeout)) {
            Ok(0) if remaining.is_zero() => return Err(ErrorKind::TimedOut.into()),
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

/// A number among the words that the parent passed.
pub(super) fn number_in(orders: &Orders, index: usize, what: &str) -> io::Result<usize> {
    let word = orders.arguments.get(index).and_then(|word| word.to_str()?.parse().ok());
    word.ok_or_else(|| io::Error::other(format!("the parent named no {what}")))
}
