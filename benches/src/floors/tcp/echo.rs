//! Ping-pong of 64 bytes over one TCP connection on loopback: either both sides sleep in blocking calls, or both spin on
//! non-blocking ones. What a no-op over the network is compared with.

use std::io;
use std::net::TcpStream;
use std::os::fd::AsFd;

use super::super::cell::PAYLOAD_BYTES;
use super::super::peer::Orders;
use super::super::ping_pong::Waiting;
use super::super::session::Session;
use super::super::{Batch, Config, FloorError, Samples, expect_echo, timed};
use super::{connected_pair, receive_all, send_all};
use crate::interleave::{Series, SeriesError};

pub(in super::super) const SPIN_ROLE: &str = "tcp-echo-spin";
pub(in super::super) const PARK_ROLE: &str = "tcp-echo-park";

fn name(waiting: Waiting) -> &'static str {
    match waiting {
        Waiting::Spin => "TCP echo, both spin",
        Waiting::Park => "TCP echo, blocking",
    }
}

fn role(waiting: Waiting) -> &'static str {
    match waiting {
        Waiting::Spin => SPIN_ROLE,
        Waiting::Park => PARK_ROLE,
    }
}

/// The floor, open for rounds.
#[derive(Debug)]
pub struct TcpEcho {
    session: Session,
    stream: TcpStream,
    waiting: Waiting,
    calls: u64,
}

impl TcpEcho {
    /// Connects and starts the other side. [`Waiting::Park`] sleeps in the socket's calls.
    ///
    /// # Errors
    /// Any [`FloorError`]; spinning on one core is refused.
    pub fn open(waiting: Waiting, config: &Config) -> Result<Self, FloorError> {
        waiting.check(name(waiting), config.placement)?;
        let (stream, theirs) = connected_pair()?;
        for end in [&stream, &theirs] {
            end.set_nonblocking(waiting == Waiting::Spin).map_err(FloorError::system("set a socket's mode"))?;
        }
        let session = Session::open(name(waiting), role(waiting), config, &[theirs.as_fd()], &[])?;
        Ok(Self { session, stream, waiting, calls: 0 })
    }

    /// One round of calls.
    ///
    /// # Errors
    /// Any [`FloorError`], after which the floor is spent.
    pub fn round(&mut self, batch: Batch) -> Result<Samples, FloorError> {
        let (stream, waiting, calls) = (&self.stream, self.waiting, &mut self.calls);
        // The dead peer's end is closed, which ends the wait without help.
        self.session.round(batch.operations(), &|| {}, || match waiting {
            // Spelled out so that each loop is compiled for its own way of waiting.
            Waiting::Spin => timed(batch, || call(stream, Waiting::Spin, calls)),
            Waiting::Park => timed(batch, || call(stream, Waiting::Park, calls)),
        })
    }
}

#[inline(always)]
fn call(stream: &TcpStream, waiting: Waiting, calls: &mut u64) -> Result<(), FloorError> {
    let mut message = [0_u8; PAYLOAD_BYTES];
    message[..8].copy_from_slice(&calls.to_ne_bytes());
    send_all(stream, &message, waiting).map_err(FloorError::system("write to a socket"))?;
    let mut answer = [0_u8; PAYLOAD_BYTES];
    receive_all(stream, &mut answer, waiting).map_err(FloorError::system("read from a socket"))?;
    expect_echo(name(waiting), &message, Some(&answer))?;
    *calls += 1;
    Ok(())
}

impl Series for TcpEcho {
    fn label(&self) -> String {
        self.session.config().label(name(self.waiting))
    }

    fn round(&mut self, batch: Batch) -> Result<Samples, SeriesError> {
        Ok(Self::round(self, batch)?)
    }
}

/// The peer's side.
pub(in super::super) fn serve(mut orders: Orders, waiting: Waiting) -> io::Result<()> {
    let stream = TcpStream::from(orders.take_fd()?);
    orders.serve(|operations| match waiting {
        Waiting::Spin => answer(&stream, Waiting::Spin, operations),
        Waiting::Park => answer(&stream, Waiting::Park, operations),
    })
}

#[inline(always)]
fn answer(stream: &TcpStream, waiting: Waiting, operations: u64) -> io::Result<()> {
    let mut message = [0_u8; PAYLOAD_BYTES];
    for _ in 0..operations {
        receive_all(stream, &mut message, waiting)?;
        send_all(stream, &message, waiting)?;
    }
    Ok(())
}
