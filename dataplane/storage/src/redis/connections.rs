//! Connections to a Redis server, and what it says as our errors.
//!
//! An operation takes a connection for itself and gives it back when it is whole. One that broke is forgotten, and the
//! operation is done again on a new one: all of them may be repeated. No wait on a connection is longer than what is left of
//! the operation's limit.

use std::fmt;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ::redis::{Client, Connection, ConnectionLike, ErrorKind, RedisError, RedisResult};

use super::address::Address;
use crate::error::StorageError;

/// Connections that are kept for the next operation: as many as threads move blobs at once.
const IDLE_MAX: usize = 16;
/// Times that an operation is done in all when connections break.
const ATTEMPTS_MAX: u32 = 3;

/// Connections to one server.
pub(super) struct Connections {
    client: Client,
    address: Address,
    limit: Duration,
    idle: Mutex<Vec<Connection>>,
}

impl fmt::Debug for Connections {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the client, which knows the password.
        formatter.debug_struct("Connections").field("address", &self.address).finish_non_exhaustive()
    }
}

/// A connection, for as long as its operation may take.
pub(super) struct Limited<'a> {
    connection: &'a mut Connection,
    until: Instant,
}

impl Limited<'_> {
    /// The connection, whose waits are over when the operation's time is.
    pub(super) fn now(&mut self) -> RedisResult<&mut Connection> {
        let left = left(self.until)?;
        self.connection.set_read_timeout(Some(left))?;
        self.connection.set_write_timeout(Some(left))?;
        Ok(self.connection)
    }
}

fn left(until: Instant) -> RedisResult<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::Error::from(io::ErrorKind::TimedOut).into()) } else { Ok(left) }
}

impl Connections {
    pub(super) fn new(client: Client, address: Address, limit: Duration) -> Self {
        Self { client, address, limit, idle: Mutex::default() }
    }

    pub(super) fn place(&self) -> String {
        self.address.place()
    }

    /// Does an operation, which may be begun several times.
    pub(super) fn run<T>(
        &self,
        what: &'static str,
        mut operation: impl FnMut(&mut Limited<'_>) -> RedisResult<T>,
    ) -> Result<T, StorageError> {
        let until = Instant::now() + self.limit;
        let mut tried = 0;
        loop {
            tried += 1;
            let result = self.take(until).and_then(|mut connection| {
                let result = operation(&mut Limited { connection: &mut connection, until });
                // After anything but an answer nobody knows what comes next on it.
                if result.as_ref().err().is_none_or(|error| !error.is_io_error()) && connection.is_open() {
                    self.give_back(connection);
                }
                result
            });
            match result {
                Ok(done) => return Ok(done),
                Err(error) if error.is_connection_dropped() && tried < ATTEMPTS_MAX => self.idle().clear(),
                Err(error) => return Err(self.typed(what, &error)),
            }
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, until: Instant) -> RedisResult<Connection> {
        let idle = self.idle().pop();
        idle.map_or_else(|| self.client.get_connection_with_timeout(left(until)?), Ok)
    }

    fn give_back(&self, connection: Connection) {
        let mut idle = self.idle();
        if idle.len() < IDLE_MAX {
            idle.push(connection);
        }
    }

    fn typed(&self, what: &'static str, error: &RedisError) -> StorageError {
        let (place, reason) = (self.place(), error.to_string());
        let unusable = |advice| StorageError::Unusable { place: place.clone(), reason: reason.clone(), advice };
        if error.is_timeout() {
            let limit_ms = u64::try_from(self.limit.as_millis()).unwrap_or(u64::MAX);
            return StorageError::Late { place, what, limit_ms };
        }
        match error.code() {
            Some("OOM") => StorageError::Full { place, what, reason },
            Some("NOAUTH" | "WRONGPASS" | "NOPERM") => StorageError::Denied { place, what, reason },
            Some("READONLY") => unusable("it is a replica: name the primary"),
            Some("LOADING") => unusable("wait until it has loaded its data"),
            Some("MISCONF") => unusable("it cannot write to its disk: see its log"),
            _ if error.kind() == ErrorKind::AuthenticationFailed => StorageError::Denied { place, what, reason },
            _ if error.is_connection_refusal() => unusable("see that the server runs and that the address is right"),
            _ => StorageError::Failed { place, what, reason },
        }
    }
}
