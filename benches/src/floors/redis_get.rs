//! One `GET` of Redis after the other over its Unix socket, by a client that does no more than it must: the quickest way to
//! ask Redis for a value.

use std::io::{self, ErrorKind, Read, Write};
use std::marker::PhantomData;
use std::os::unix::net::UnixStream;

use super::placement::Pinned;
use super::redis::{SERVER, other_program};
use super::redis_unix::{RedisOnUnixSocket, failed};
use super::{Batch, Config, FloorError, Samples, fill, timed};
use crate::interleave::{Series, SeriesError};

const NAME: &str = "Redis GET over its Unix socket";
const GET: &[u8] = b"*2\r\n$3\r\nGET\r\n$6\r\nobject\r\n";

/// A running Redis and a connection to it. Not `Send`: the kernel ties the server to the thread that started it.
#[derive(Debug)]
pub struct RedisGet {
    config: Config,
    stream: UnixStream,
    answer: Vec<u8>,
    room: Vec<u8>,
    _server: RedisOnUnixSocket,
    on_this_thread: PhantomData<*const ()>,
}

impl RedisGet {
    /// Starts a server on the peer's core and stores a value of `value_bytes`.
    ///
    /// # Errors
    /// [`FloorError::NotInstalled`] where Redis is not, or [`FloorError::OtherProgram`] if it does not work.
    pub fn open(config: &Config, value_bytes: usize) -> Result<Self, FloorError> {
        let server = RedisOnUnixSocket::start(config.placement.peer_cpu())?;
        let mut stream = server.connect()?;
        let answer = store(&mut stream, value_bytes).map_err(|error| failed(&error))?;
        let room = vec![0; answer.len()];
        Ok(Self { config: config.clone(), stream, answer, room, _server: server, on_this_thread: PhantomData })
    }

    /// One round of gets, each answer whole; the last one is compared with the value.
    ///
    /// # Errors
    /// [`FloorError::OtherProgram`] if the server ends or answers something else.
    pub fn round(&mut self, batch: Batch) -> Result<Samples, FloorError> {
        let _pin = Pinned::to(self.config.placement.caller_cpu())?;
        let samples = timed(batch, || {
            self.stream.write_all(GET)?;
            self.stream.read_exact(&mut self.room)
        });
        let samples = samples.map_err(|error| failed(&error))?;
        if self.room == self.answer { Ok(samples) } else { Err(other_program(SERVER, "it answered otherwise".into())) }
    }
}

impl Series for RedisGet {
    fn label(&self) -> String {
        self.config.label(NAME)
    }

    fn round(&mut self, batch: Batch) -> Result<Samples, SeriesError> {
        Ok(Self::round(self, batch)?)
    }
}

/// Stores the value; what a get is answered with.
fn store(stream: &mut UnixStream, value_bytes: usize) -> io::Result<Vec<u8>> {
    let mut value = vec![0; value_bytes];
    fill(&mut value, 1);
    let mut answer = format!("${value_bytes}\r\n").into_bytes();
    answer.extend_from_slice(&value);
    answer.extend_from_slice(b"\r\n");
    stream.write_all(b"*3\r\n$3\r\nSET\r\n$6\r\nobject\r\n")?;
    stream.write_all(&answer)?;
    let mut stored = [0; 5];
    stream.read_exact(&mut stored)?;
    if &stored == b"+OK\r\n" { Ok(answer) } else { Err(ErrorKind::InvalidData.into()) }
}
