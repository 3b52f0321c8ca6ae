//! An echo on many connections at once, several frames in flight on each: a server on its core, the load on the other.
//! What calls a second over the network are compared with, and what network drivers are compared by.
//!
//! A server echoes whatever bytes came in one call with one more. It knows a round's end by the count of bytes, and sleeps
//! between rounds.

use std::io::{self, ErrorKind, Read};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;

use rustix::buffer::spare_capacity;
use rustix::event::epoll;

use super::super::peer::Orders;
use super::super::session::Session;
use super::super::{Batch, Config, FloorError, Samples, timed_groups};
use super::{Exchange, Load, Taken, allow_connections, connect, listener, number_in, send_all_or_sleep};
use crate::interleave::{Series, SeriesError};

pub(in super::super) const EPOLL_ROLE: &str = "tcp-crowd-epoll";

/// Bytes of a frame: a call's head and 64 bytes of payload.
pub const FRAME_BYTES: usize = 100;
/// Bytes that a server takes from a connection at once.
pub(super) const RECEIVE_BYTES: usize = 16 << 10;
/// Ready connections that the epoll server takes from the kernel at once.
const EVENTS_MAX: usize = 256;
/// Frames of a sample for each that is in flight: few of them see the round's beginning or end.
const TURNS_PER_SAMPLE: u64 = 4;

/// What echoes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EchoServer {
    /// A loop over epoll, read and write.
    Epoll,
    /// The project's own driver over io_uring.
    #[cfg(feature = "bars")]
    IoUringDriver,
    /// The project's own driver over epoll.
    #[cfg(feature = "bars")]
    EpollDriver,
    /// A task for each connection on tokio-uring.
    #[cfg(feature = "tokio-uring")]
    TokioUring,
}

impl EchoServer {
    fn floor(self) -> &'static str {
        match self {
            Self::Epoll => "TCP echo of many connections, epoll",
            #[cfg(feature = "bars")]
            Self::IoUringDriver => "TCP echo of many connections, praas' io_uring driver",
            #[cfg(feature = "bars")]
            Self::EpollDriver => "TCP echo of many connections, praas' epoll driver",
            #[cfg(feature = "tokio-uring")]
            Self::TokioUring => "TCP echo of many connections, tokio-uring",
        }
    }

    fn role(self) -> &'static str {
        match self {
            Self::Epoll => EPOLL_ROLE,
            #[cfg(feature = "bars")]
            Self::IoUringDriver => super::driver::IO_URING_ROLE,
            #[cfg(feature = "bars")]
            Self::EpollDriver => super::driver::EPOLL_ROLE,
            #[cfg(feature = "tokio-uring")]
            Self::TokioUring => super::tokio_uring::ROLE,
        }
    }
}

/// How many connections, and how many frames in flight on each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crowd {
    /// Connections.
    pub connections: usize,
    /// Frames in flight on each.
    pub in_flight: u32,
}

impl Crowd {
    /// What throughput is measured with: as `redis-benchmark -c 64 -P 16`.
    pub const THROUGHPUT: Self = Self { connections: 64, in_flight: 16 };

    /// Calls that one sample spans.
    #[must_use]
    pub fn calls_per_sample(self) -> u64 {
        self.connections as u64 * u64::from(self.in_flight) * TURNS_PER_SAMPLE
    }
}

/// The floor, open for rounds. A sample spans [`Crowd::calls_per_sample`] frames.
#[derive(Debug)]
pub struct TcpCrowd {
    session: Session,
    crowd: Crowd,
    load: Load<Frames>,
}

impl TcpCrowd {
    /// Connects and starts the other side.
    ///
    /// # Errors
    /// Any [`FloorError`].
    pub fn open(server: EchoServer, crowd: Crowd, config: &Config) -> Result<Self, FloorError> {
        allow_connections(crowd.connections)?;
        let (listener, address) = listener(crowd.connections)?;
        let streams: Vec<TcpStream> = (0..crowd.connections).map(|_| connect(address)).collect::<Result<_, _>>()?;
        let arguments = [crowd.connections.to_string()];
        let session = Session::open(server.floor(), server.role(), config, &[listener.as_fd()], &arguments)?;
        let frames =
            Frames { floor: server.floor(), asked: vec![0; crowd.connections], seen: vec![0; crowd.connections] };
        Ok(Self { session, crowd, load: Load::new(frames, streams, crowd.in_flight)? })
    }

    /// One round of frames.
    ///
    /// # Errors
    /// Any [`FloorError`], after which the floor is spent.
    pub fn round(&mut self, batch: Batch) -> Result<Samples, FloorError> {
        let frames = self.crowd.calls_per_sample();
        let load = &mut self.load;
        let operations = batch.operations() * frames;
        // The dead peer's ends are closed, which ends the wait without help.
        self.session.round(operations, &|| {}, || {
            load.begin(operations)?;
            timed_groups(batch, frames, || load.run(frames, |_| {}))
        })
    }
}

impl Series for TcpCrowd {
    fn label(&self) -> String {
        let Crowd { connections, in_flight } = self.crowd;
        format!("{}, {connections} × {in_flight}", self.session.config().label(self.session.floor()))
    }

    fn round(&mut self, batch: Batch) -> Result<Samples, SeriesError> {
        Ok(Self::round(self, batch)?)
    }
}

/// Numbered frames, whose echo is checked by number.
#[derive(Debug)]
struct Frames {
    floor: &'static str,
    asked: Vec<u64>,
    seen: Vec<u64>,
}

impl Exchange for Frames {
    type Error = FloorError;

    fn ask(&mut self, connection: usize, calls: u32, out: &mut Vec<u8>) {
        for _ in 0..calls {
            let mut frame = [0; FRAME_BYTES];
            frame[..8].copy_from_slice(&self.asked[connection].to_le_bytes());
            self.asked[connection] += 1;
            out.extend_from_slice(&frame);
        }
    }

    fn take(&mut self, connection: usize, bytes: &[u8]) -> Result<Taken, FloorError> {
        let mut taken = Taken::default();
        for frame in bytes.chunks_exact(FRAME_BYTES) {
            let expected = self.seen[connection];
            let answer = frame.first_chunk().map_or(u64::MAX, |word| u64::from_le_bytes(*word));
            if answer != expected {
                return Err(FloorError::WrongAnswer { floor: self.floor, expected, answer });
            }
            self.seen[connection] += 1;
            taken.answers += 1;
            taken.bytes += FRAME_BYTES;
        }
        Ok(taken)
    }
}

/// Accepts as many connections as the parent made, non-blocking.
pub(super) fn accept_all(orders: &mut Orders) -> io::Result<Vec<TcpStream>> {
    let connections = number_in(orders, 0, "number of connections")?;
    allow_connections(connections).map_err(io::Error::other)?;
    let listener = TcpListener::from(orders.take_fd()?);
    let accept = |_| -> io::Result<TcpStream> {
        let (stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(stream)
    };
    (0..connections).map(accept).collect()
}

/// Bytes of a round.
pub(super) fn bytes_of(operations: u64) -> u64 {
    operations * FRAME_BYTES as u64
}

/// The peer's side over epoll.
pub(in super::super) fn serve_by_epoll(mut orders: Orders) -> io::Result<()> {
    let streams = accept_all(&mut orders)?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    for (index, stream) in streams.iter().enumerate() {
        epoll::add(&epoll, stream, epoll::EventData::new_u64(index as u64), epoll::EventFlags::IN)?;
    }
    let mut events = Vec::with_capacity(EVENTS_MAX);
    let mut bytes = vec![0; RECEIVE_BYTES];
    orders.serve(|operations| {
        let mut missing = bytes_of(operations);
        while missing > 0 {
            events.clear();
            rustix::io::retry_on_intr(|| epoll::wait(&epoll, spare_capacity(&mut events), None))?;
            for event in &events {
                let index = usize::try_from(event.data.u64()).map_err(io::Error::other)?;
                missing = missing.saturating_sub(echo(&streams[index], &mut bytes)? as u64);
            }
        }
        Ok(())
    })
}

/// Sends back what a connection has; how many bytes that was.
fn echo(mut stream: &TcpStream, bytes: &mut [u8]) -> io::Result<usize> {
    match stream.read(bytes) {
        Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
        Ok(received) => send_all_or_sleep(stream, &bytes[..received]).map(|()| received),
        Err(error) if super::is_passing(&error) => Ok(0),
        Err(error) => Err(error),
    }
}
