//! One connection for all who share it, made again when it is lost.
//!
//! At most one thread connects at a time; the others wait for it. Their attempts share one back-off with jitter, so that a
//! hundred threads in trouble do not multiply the server's.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::backoff::Backoff;
use crate::error::ConnectError;
use crate::limits::{BACKOFF_CONNECT_MAX, REQUEST_DEADLINE};
use crate::session::lock;

/// What is shared: one connection, until it is of no use.
pub(crate) trait Connection {
    /// Whether requests can be sent on it.
    fn is_usable(&self) -> bool;

    /// How long its server asked not to be called again, if it did.
    fn asked_pause(&self) -> Option<Duration>;
}

/// The place of the connection.
pub(crate) struct SharedConnection<T> {
    slot: Mutex<Slot<T>>,
    connected: Condvar,
}

struct Slot<T> {
    current: Option<Arc<T>>,
    connecting: bool,
    next_attempt: Option<Instant>,
    backoff: Backoff,
}

impl<T: Connection> SharedConnection<T> {
    pub(crate) fn new(current: Option<Arc<T>>) -> Self {
        let backoff = Backoff::new(BACKOFF_CONNECT_MAX);
        let slot = Slot { current, connecting: false, next_attempt: None, backoff };
        Self { slot: Mutex::new(slot), connected: Condvar::new() }
    }

    /// The last connection, of use or not; `None` before the first, and while there is none to replace a lost one.
    pub(crate) fn current(&self) -> Option<Arc<T>> {
        lock(&self.slot).current.clone()
    }

    /// A usable connection, made by `connect` if the last was lost. At least one attempt is made, however close `end` is;
    /// each must be bounded by a deadline of its own.
    pub(crate) fn until(
        &self,
        end: Instant,
        connect: impl Fn() -> Result<Arc<T>, ConnectError>,
    ) -> Result<Arc<T>, ConnectError> {
        loop {
            if let Some(connection) = self.usable_or_turn(end) {
                return Ok(connection);
            }
            let turn = Turn { shared: self };
            match turn.finish(connect()) {
                Ok(connection) => return Ok(connection),
                Err(error) if error.is_final() || Instant::now() >= end => return Err(error),
                Err(_) => {}
            }
        }
    }

    /// A usable connection; or `None` when it is the caller's turn to connect, which it must then end by a [`Turn`].
    fn usable_or_turn(&self, end: Instant) -> Option<Arc<T>> {
        let mut slot = lock(&self.slot);
        loop {
            if let Some(connection) = slot.current.take() {
                if connection.is_usable() {
                    slot.current = Some(Arc::clone(&connection));
                    return Some(connection);
                }
                if let Some(pause) = connection.asked_pause() {
                    slot.next_attempt = Some(Instant::now() + pause);
                }
            }
            let now = Instant::now();
            let pause = match slot.next_attempt {
                _ if slot.connecting => REQUEST_DEADLINE,
                Some(next) if next.min(end) > now => next.min(end) - now,
                _ => {
                    slot.connecting = true;
                    return None;
                }
            };
            // Who connects is bounded by the deadlines of its attempt; past `end` the caller still gets its turn.
            slot = self.connected.wait_timeout(slot, pause).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// The right to connect, given back whatever happens.
struct Turn<'a, T> {
    shared: &'a SharedConnection<T>,
}

impl<T> Turn<'_, T> {
    fn finish(self, attempt: Result<Arc<T>, ConnectError>) -> Result<Arc<T>, ConnectError> {
        let mut slot = lock(&self.shared.slot);
        match &attempt {
            Ok(connection) => {
                slot.current = Some(Arc::clone(connection));
                slot.backoff.restart();
                slot.next_attempt = None;
            }
            Err(_) => {
                let pause = slot.backoff.pause();
                slot.next_attempt = Some(Instant::now() + pause);
            }
        }
        drop(slot);
        attempt
    }
}

impl<T> Drop for Turn<'_, T> {
    fn drop(&mut self) {
        lock(&self.shared.slot).connecting = false;
        self.shared.connected.notify_all();
    }
}
