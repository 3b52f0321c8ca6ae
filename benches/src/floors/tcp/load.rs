//! A load: one thread that keeps calls in flight on many connections, as `redis-benchmark` does. A connection's calls
//! leave in one write; when the last of them is answered, as many more do.
//!
//! What the bytes of a call are is the [`Exchange`]'s; the loop is the same for floors and figures.

use std::fmt;
use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};

use super::super::{Clock, FloorError};
use super::send_all_or_sleep;

/// Bytes taken from a socket at once: all answers of a connection and more.
const RECEIVE_BYTES: usize = 64 << 10;
/// Ready connections taken from the kernel at once.
const EVENTS_MAX: usize = 256;
/// The longest that no connection may have anything: longer than any scheduling of a busy machine.
const SILENCE_MAX: Duration = Duration::from_secs(20);
const NAME: &str = "load";

/// What an [`Exchange`] found in received bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Whole answers.
    pub answers: u32,
    /// Bytes that these took; what follows is the beginning of the next one.
    pub bytes: usize,
}

/// The bytes of calls and answers.
pub trait Exchange {
    /// Why an answer is wrong, or none came.
    type Error: From<FloorError>;

    /// Appends `calls` calls of a connection.
    fn ask(&mut self, connection: usize, calls: u32, out: &mut Vec<u8>);

    /// Takes whole answers off the front of what a connection received, and checks them.
    ///
    /// # Errors
    /// The first wrong answer.
    fn take(&mut self, connection: usize, bytes: &[u8]) -> Result<Taken, Self::Error>;
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    in_flight: u32,
    /// When its calls left, in ticks.
    sent_at: u64,
    /// The beginning of an incomplete answer.
    held: Vec<u8>,
}

/// Connections with calls in flight.
pub struct Load<E> {
    exchange: E,
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
    connections: Vec<Connection>,
    in_flight_max: u32,
    clock: Clock,
    /// Calls of this round that are still to be sent.
    unsent: u64,
    /// Answers that came before they were asked for by `run`.
    ahead: u64,
    received: Vec<u8>,
    outgoing: Vec<u8>,
}

impl<E: Exchange> Load<E> {
    /// A load of `in_flight_max` calls on each of these connections, none of them sent yet.
    ///
    /// # Errors
    /// [`FloorError::System`] if the kernel refuses.
    pub fn new(exchange: E, streams: Vec<TcpStream>, in_flight_max: u32) -> Result<Self, FloorError> {
        let watch = FloorError::system::<rustix::io::Errno>;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(watch("watch connections"))?;
        let mut connections = Vec::with_capacity(streams.len());
        for (index, stream) in streams.into_iter().enumerate() {
            stream.set_nonblocking(true).map_err(FloorError::system("set a socket's mode"))?;
            let data = epoll::EventData::new_u64(index as u64);
            epoll::add(&epoll, &stream, data, epoll::EventFlags::IN).map_err(watch("watch a connection"))?;
            connections.push(Connection { stream, in_flight: 0, sent_at: 0, held: Vec::new() });
        }
        Ok(Self {
            exchange,
            epoll,
            events: Vec::with_capacity(EVENTS_MAX),
            connections,
            in_flight_max,
            clock: Clock::calibrated(),
            unsent: 0,
            ahead: 0,
            received: vec![0; RECEIVE_BYTES],
            outgoing: Vec::new(),
        })
    }

    /// The bytes' side of it.
    #[must_use]
    pub fn exchange(&self) -> &E {
        &self.exchange
    }

    /// Begins a round of `calls` calls: the first ones leave.
    ///
    /// # Errors
    /// [`FloorError::System`] if a connection is broken.
    pub fn begin(&mut self, calls: u64) -> Result<(), E::Error> {
        self.unsent = calls;
        self.ahead = 0;
        (0..self.connections.len()).try_for_each(|index| self.send(index))
    }

    /// Goes on until `answers` further answers have come. `on_answered` gets the ticks from the moment that a connection's
    /// calls left to that when the last of them was answered.
    ///
    /// # Errors
    /// What a wrong answer is, or a [`FloorError`] if a connection is broken or silent.
    #[inline]
    pub fn run(&mut self, answers: u64, mut on_answered: impl FnMut(u64)) -> Result<(), E::Error> {
        while self.ahead < answers {
            self.turn(&mut on_answered)?;
        }
        self.ahead -= answers;
        Ok(())
    }

    fn turn(&mut self, on_answered: &mut impl FnMut(u64)) -> Result<(), E::Error> {
        let silence = Timespec::try_from(SILENCE_MAX).expect("a few seconds");
        self.events.clear();
        let waited =
            rustix::io::retry_on_intr(|| epoll::wait(&self.epoll, spare_capacity(&mut self.events), Some(&silence)));
        waited.map_err(FloorError::system("wait for connections"))?;
        if self.events.is_empty() {
            return Err(FloorError::DeadlineExceeded { floor: NAME, deadline: SILENCE_MAX }.into());
        }
        for at in 0..self.events.len() {
            let index = usize::try_from(self.events[at].data.u64()).expect("an index of ours");
            self.receive(index, on_answered)?;
        }
        Ok(())
    }

    fn receive(&mut self, index: usize, on_answered: &mut impl FnMut(u64)) -> Result<(), E::Error> {
        let connection = &mut self.connections[index];
        let received = match (&connection.stream).read(&mut self.received) {
            Ok(0) => return Err(broken(ErrorKind::UnexpectedEof.into()).into()),
            Ok(received) => &self.received[..received],
            Err(error) if super::is_passing(&error) => return Ok(()),
            Err(error) => return Err(broken(error).into()),
        };
        let taken = if connection.held.is_empty() {
            let taken = self.exchange.take(index, received)?;
            connection.held.extend_from_slice(&received[taken.bytes..]);
            taken
        } else {
            connection.held.extend_from_slice(received);
            let taken = self.exchange.take(index, &connection.held)?;
            connection.held.drain(..taken.bytes);
            taken
        };
        self.ahead += u64::from(taken.answers);
        connection.in_flight = connection.in_flight.checked_sub(taken.answers).ok_or_else(|| {
            FloorError::WrongAnswer { floor: NAME, expected: connection.in_flight.into(), answer: taken.answers.into() }
        })?;
        if connection.in_flight == 0 {
            on_answered(self.clock.ticks().saturating_sub(connection.sent_at));
            self.send(index)?;
        }
        Ok(())
    }

    /// Sends a connection's next calls, if any are left.
    fn send(&mut self, index: usize) -> Result<(), E::Error> {
        let calls = u32::try_from(self.unsent).unwrap_or(u32::MAX).min(self.in_flight_max);
        if calls == 0 {
            return Ok(());
        }
        self.unsent -= u64::from(calls);
        self.outgoing.clear();
        self.exchange.ask(index, calls, &mut self.outgoing);
        let connection = &mut self.connections[index];
        connection.in_flight = calls;
        connection.sent_at = self.clock.ticks();
        Ok(send_all_or_sleep(&connection.stream, &self.outgoing).map_err(FloorError::system("write to a socket"))?)
    }
}

impl<E> fmt::Debug for Load<E> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { connections, in_flight_max, unsent, .. } = self;
        formatter
            .debug_struct("Load")
            .field("connections", &connections.len())
            .field("in_flight_max", in_flight_max)
            .field("unsent", unsent)
            .finish_non_exhaustive()
    }
}

#[cold]
fn broken(error: std::io::Error) -> FloorError {
    FloorError::system("read from a socket")(error)
}
