//! Ping-pong of 64 bytes through a Unix stream socket pair, blocking on both sides.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use super::cell::PAYLOAD_BYTES;
use super::peer::Orders;
use super::session::Session;
use super::{Batch, Config, FloorError, Samples, timed};
use crate::interleave::{Series, SeriesError};

pub(super) const ROLE: &str = "unix-stream";
const NAME: &str = "Unix stream socket ping-pong";

/// The floor, open for rounds.
#[derive(Debug)]
pub struct UnixSocket {
    session: Session,
    stream: UnixStream,
    calls: u64,
}

impl UnixSocket {
    /// Makes the sockets and starts the other side.
    ///
    /// # Errors
    /// Any [`FloorError`].
    pub fn open(config: &Config) -> Result<Self, FloorError> {
        let (stream, theirs) = UnixStream::pair().map_err(FloorError::system("make a socket pair"))?;
        let session = Session::open(NAME, ROLE, config, &[theirs.as_fd()], &[])?;
        Ok(Self { session, stream, calls: 0 })
    }

    /// One round of calls.
    ///
    /// # Errors
    /// Any [`FloorError`], after which the floor is spent.
    pub fn round(&mut self, batch: Batch) -> Result<Samples, FloorError> {
        let mut stream = &self.stream;
        let calls = &mut self.calls;
        // The dead peer's end is closed, which ends the wait without help.
        self.session.round(batch.operations(), &|| {}, || {
            timed(batch, || {
                let mut message = [0_u8; PAYLOAD_BYTES];
                message[..8].copy_from_slice(&calls.to_ne_bytes());
                stream.write_all(&message).map_err(FloorError::system("write to a socket"))?;
                let mut answer = [0_u8; PAYLOAD_BYTES];
                stream.read_exact(&mut answer).map_err(FloorError::system("read from a socket"))?;
                super::expect_echo(NAME, &message, Some(&answer))?;
                *calls += 1;
                Ok(())
            })
        })
    }
}

impl Series for UnixSocket {
    fn label(&self) -> String {
        self.session.config().label(NAME)
    }

    fn round(&mut self, batch: Batch) -> Result<Samples, SeriesError> {
        Ok(Self::round(self, batch)?)
    }
}

/// The peer's side.
pub(super) fn serve(mut orders: Orders) -> io::Result<()> {
    let mut stream = UnixStream::from(orders.take_fd()?);
    orders.serve(|operations| {
        let mut message = [0_u8; PAYLOAD_BYTES];
        for _ in 0..operations {
            stream.read_exact(&mut message)?;
            stream.write_all(&message)?;
        }
        Ok(())
    })
}
