//! Ping-pong of 64 bytes through two lists of Redis, over its Unix socket: each side pushes and then sleeps in a blocking pop,
//! and so does the server until it is written to. What people have who pass messages between processes without polling.
//!
//! A push and the pop that follows it are one write, and the push's answer is waited for together with the message that the pop
//! brings: no client that wants to know of its message's arrival does with less. A popped message is gone, so Redis pays nothing here for bringing it again.

use std::io::{self, ErrorKind, Write};
use std::marker::PhantomData;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use rustix::net::{RecvFlags, recv};

use super::cell::PAYLOAD_BYTES;
use super::peer::Orders;
use super::redis_unix::{RedisOnUnixSocket, failed};
use super::session::Session;
use super::{Batch, Config, FloorError, Placement, Samples, expect_echo, timed};
use crate::interleave::{Series, SeriesError};

pub(super) const ROLE: &str = "redis-queue";
const NAME: &str = "Redis push and blocking pop, ping-pong over its Unix socket";

/// The lists, named by a letter each.
const THERE: u8 = b't';
const BACK: u8 = b'b';
/// What a push into an empty list is answered with, also when the message is taken at once.
const PUSHED: &[u8] = b":1\r\n";

/// Where Redis runs beside its two clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RedisPlacement {
    /// The clients.
    pub clients: Placement,
    /// The server's core, if it has one.
    pub server_cpu: Option<usize>,
}

impl RedisPlacement {
    /// The sensible ones on two cores: all on one; the clients on one and the server on the other; the server with one of
    /// them; as the scheduler likes.
    ///
    /// # Errors
    /// [`FloorError::TooFewCores`] with one core.
    pub fn on_two_cores() -> Result<[Self; 4], FloorError> {
        let two = Placement::two_cores()?;
        let one = Placement::one_core()?;
        let apart = two.caller_cpu().map_or(one, Placement::OneCore);
        Ok([
            Self { clients: one, server_cpu: one.peer_cpu() },
            Self { clients: apart, server_cpu: two.peer_cpu() },
            Self { clients: two, server_cpu: two.peer_cpu() },
            Self { clients: Placement::Free, server_cpu: None },
        ])
    }

    /// In words.
    #[must_use]
    pub fn label(self) -> String {
        let server = self.server_cpu.map_or_else(String::new, |cpu| format!(", server on core {cpu}"));
        format!("{}{server}", self.clients)
    }
}

/// A running Redis, and a client of it on each side. Not `Send`: the kernel ties the server to the thread that started it.
#[derive(Debug)]
pub struct RedisQueue {
    session: Session,
    end: End,
    placement: RedisPlacement,
    calls: u64,
    _server: RedisOnUnixSocket,
    on_this_thread: PhantomData<*const ()>,
}

impl RedisQueue {
    /// Starts a server and the other side. The configuration's own placement does not matter.
    ///
    /// # Errors
    /// [`FloorError::NotInstalled`] where Redis is not, or any [`FloorError`].
    pub fn open(config: &Config, placement: RedisPlacement) -> Result<Self, FloorError> {
        let server = RedisOnUnixSocket::start(placement.server_cpu)?;
        let theirs = server.connect()?;
        let config = Config { placement: placement.clients, ..config.clone() };
        let session = Session::open(NAME, ROLE, &config, &[theirs.as_fd()], &[])?;
        let end = End::new(server.connect()?, THERE, BACK);
        Ok(Self { session, end, placement, calls: 0, _server: server, on_this_thread: PhantomData })
    }

    /// One round of exchanges.
    ///
    /// # Errors
    /// Any [`FloorError`], after which the floor is spent.
    pub fn round(&mut self, batch: Batch) -> Result<Samples, FloorError> {
        let unblock = self.end.stream.try_clone().map_err(FloorError::system("share a socket"))?;
        let unblock = || drop(unblock.shutdown(Shutdown::Both));
        let (end, calls) = (&mut self.end, &mut self.calls);
        self.session.round(batch.operations(), &unblock, || {
            timed(batch, || {
                let mut message = [0_u8; PAYLOAD_BYTES];
                message[..8].copy_from_slice(&calls.to_ne_bytes());
                let answer = end.push_and_pop(&message).map_err(|error| failed(&error))?;
                expect_echo(NAME, &message, Some(answer))?;
                *calls += 1;
                Ok(())
            })
        })
    }
}

impl Series for RedisQueue {
    fn label(&self) -> String {
        format!("{NAME}, {}", self.placement.label())
    }

    fn round(&mut self, batch: Batch) -> Result<Samples, SeriesError> {
        Ok(Self::round(self, batch)?)
    }
}

/// One side's connection, with the bytes that it sends and those that it is answered with.
#[derive(Debug)]
struct End {
    stream: UnixStream,
    /// A push, then a pop.
    request: Vec<u8>,
    push_bytes: usize,
    /// What goes before a popped message.
    popped: Vec<u8>,
    room: Vec<u8>,
}

impl End {
    fn new(stream: UnixStream, pushes_to: u8, pops_from: u8) -> Self {
        let (to, from) = (char::from(pushes_to), char::from(pops_from));
        let mut request = format!("*3\r\n$5\r\nRPUSH\r\n$1\r\n{to}\r\n${PAYLOAD_BYTES}\r\n").into_bytes();
        request.resize(request.len() + PAYLOAD_BYTES, 0);
        request.extend_from_slice(b"\r\n");
        let push_bytes = request.len();
        // For as long as it takes: whoever runs the floor ends a round that takes too long.
        request.extend_from_slice(format!("*3\r\n$5\r\nBLPOP\r\n$1\r\n{from}\r\n$1\r\n0\r\n").as_bytes());
        let popped = format!("*2\r\n$1\r\n{from}\r\n${PAYLOAD_BYTES}\r\n").into_bytes();
        let room = vec![0; PUSHED.len() + popped.len() + PAYLOAD_BYTES + 2];
        Self { stream, request, push_bytes, popped, room }
    }

    /// Sends a message and waits for one.
    fn push_and_pop(&mut self, message: &[u8; PAYLOAD_BYTES]) -> io::Result<&[u8]> {
        self.say(message);
        self.stream.write_all(&self.request)?;
        receive(&self.stream, &mut self.room)?;
        let answer = self.room.strip_prefix(PUSHED).ok_or(ErrorKind::InvalidData)?;
        answer.strip_prefix(&self.popped[..]).and_then(|rest| rest.get(..PAYLOAD_BYTES)).ok_or(malformed())
    }

    /// Waits for a message.
    fn pop(&mut self) -> io::Result<[u8; PAYLOAD_BYTES]> {
        self.stream.write_all(&self.request[self.push_bytes..])?;
        let room = &mut self.room[PUSHED.len()..];
        receive(&self.stream, room)?;
        let message = room.strip_prefix(&self.popped[..]).and_then(|rest| rest.first_chunk());
        message.copied().ok_or(malformed())
    }

    /// Sends a message.
    fn push(&mut self, message: &[u8; PAYLOAD_BYTES]) -> io::Result<()> {
        self.say(message);
        self.stream.write_all(&self.request[..self.push_bytes])?;
        let room = &mut self.room[..PUSHED.len()];
        receive(&self.stream, room)?;
        if room == PUSHED { Ok(()) } else { Err(malformed()) }
    }

    fn say(&mut self, message: &[u8; PAYLOAD_BYTES]) {
        let end = self.push_bytes - 2;
        self.request[end - PAYLOAD_BYTES..end].copy_from_slice(message);
    }
}

fn malformed() -> io::Error {
    ErrorKind::InvalidData.into()
}

/// Fills `room`, asleep until all of it has come.
fn receive(stream: &UnixStream, room: &mut [u8]) -> io::Result<()> {
    let mut filled = 0;
    while filled < room.len() {
        let (_, received) = recv(stream, &mut room[filled..], RecvFlags::WAITALL)?;
        if received == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        filled += received;
    }
    Ok(())
}

/// The peer's side.
pub(super) fn serve(mut orders: Orders) -> io::Result<()> {
    let mut end = End::new(UnixStream::from(orders.take_fd()?), BACK, THERE);
    orders.serve(|operations| {
        let mut message = end.pop()?;
        for _ in 1..operations {
            let next = end.push_and_pop(&message)?;
            message = *next.first_chunk().ok_or_else(malformed)?;
        }
        end.push(&message)
    })
}
