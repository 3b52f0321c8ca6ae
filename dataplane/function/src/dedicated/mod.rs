//! Dedicated connections: TCP connections of the network protocol that this worker reads and writes itself, beside its lanes.
//!
//! The server hands a socket over and keeps a duplicate, by which it can end the connection. The worker owns everything else:
//! it says `HANDED_OVER`, runs what comes, and says when it is done. Connections have their turns between the calls of lanes,
//! one connection a turn, a bounded number of calls each.
//!
//! | room | what |
//! |---|---|
//! | [`connection`] | one connection: its turns, and the stream cut into frames |
//! | [`talk`] | what the frames bring about: calls, answers, farewells |
//! | [`connection_call`] | a call as its function sees it |
//! | [`input`], [`output`] | memory for what comes, and what is still to be sent |

mod connection;
mod connection_call;
mod input;
mod output;
mod talk;

pub(crate) use connection_call::ConnectionCall;

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use praas_protocol::control::{ConnectionId, ConnectionLimits, WorkerMessage};
use praas_shm::worker_end::{Beside, WorkerEnd};
use rustix::net::{Shutdown, shutdown};

use crate::call_runner::CallRunner;
use crate::context::CallerIdentity;
use crate::dedicated::connection::{Connection, Turn};
use crate::dedicated::input::Room;
use crate::limits::LOOKS_PER_CONNECTION_LOOK;
use crate::mail::Mail;
use crate::waiting::{Ready, Waiting};
use crate::worker::{Ended, WorkerError};

/// What a connection's calls need of their worker.
pub(crate) struct Host<'w> {
    pub(crate) end: &'w mut WorkerEnd,
    pub(crate) runner: &'w mut CallRunner,
    pub(crate) waiting: &'w Waiting,
    pub(crate) mail: &'w Mail,
}

/// A connection that the server hands over.
#[derive(Debug)]
pub(crate) struct Given {
    pub(crate) socket: OwnedFd,
    pub(crate) id: ConnectionId,
    pub(crate) request_id: u64,
    pub(crate) limits: ConnectionLimits,
    pub(crate) caller: CallerIdentity,
}

/// The connections that a worker owns.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    /// By slot; the server bounds how many there are.
    slots: Vec<Option<Connection>>,
    count: usize,
    room: Room,
    /// Looks until the kernel is asked.
    looks_left: u32,
    /// The nearest time at which a connection, or the memory that they share, has to be looked at.
    deadline: Option<Instant>,
}

impl Connections {
    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Takes a connection over.
    pub(crate) fn add(
        &mut self,
        given: Given,
        end: &WorkerEnd,
        waiting: &Waiting,
        mail: &Mail,
    ) -> Result<(), WorkerError> {
        let free = self.slots.iter().position(Option::is_none);
        let slot = free.unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        let id = given.id;
        let connection = Connection::new(given, end.control().phase());
        if waiting.add_connection(connection.socket(), slot).is_err() {
            // Not a socket, or no memory in the kernel: its client sees it end.
            let _ = shutdown(connection.socket(), Shutdown::Both);
            return mail.send(&WorkerMessage::ConnectionEnded { connection: id });
        }
        self.slots[slot] = Some(connection);
        self.count += 1;
        self.settle(Ready { slot, ends: false }, Turn::Waits, waiting, mail)
    }

    /// Whether a connection is to be served. A worker that polls asks the kernel now and then, one that goes to sleep does not.
    #[inline]
    pub(crate) fn look(&mut self, waiting: &Waiting, polls: bool) -> Beside {
        if waiting.has_ready() || self.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return Beside::Found;
        }
        if !polls {
            self.looks_left = 0;
            return Beside::Nothing;
        }
        if self.looks_left > 0 {
            self.looks_left -= 1;
            return Beside::Nothing;
        }
        self.looks_left = LOOKS_PER_CONNECTION_LOOK;
        if self.ask_kernel(waiting) { Beside::Found } else { Beside::Asked }
    }

    /// A single connection is received from at once, which answers the question and saves a call.
    fn ask_kernel(&mut self, waiting: &Waiting) -> bool {
        let Self { slots, room, count, .. } = self;
        let mut open = slots.iter_mut().enumerate().filter_map(|(slot, one)| one.as_mut().map(|one| (slot, one)));
        match (*count, open.next()) {
            (1, Some((slot, connection))) if connection.is_polled() => {
                let found = connection.probe(room);
                if found {
                    waiting.add_ready(Ready { slot, ends: false });
                }
                found
            }
            _ => waiting.look_at_connections(),
        }
    }

    /// Time until a connection has to be looked at.
    pub(crate) fn time_left(&self) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// One turn of the connection that has waited longest.
    #[inline]
    pub(crate) fn serve_one(&mut self, mut host: Host<'_>) -> Result<Option<Ended>, WorkerError> {
        let Some(ready) = host.waiting.take_ready() else {
            self.end_overdue(host.waiting, host.mail)?;
            return Ok(None);
        };
        let Some(connection) = self.slots.get_mut(ready.slot).and_then(Option::as_mut) else { return Ok(None) };
        let Ok(turn) = connection.serve(ready.ends, &mut self.room, &mut host) else {
            return Ok(Some(Ended::Condemned));
        };
        self.settle(ready, turn, host.waiting, host.mail)?;
        Ok(None)
    }

    /// Sees to what a turn left: interest, deadlines, or the end.
    #[inline]
    fn settle(&mut self, ready: Ready, turn: Turn, waiting: &Waiting, mail: &Mail) -> Result<(), WorkerError> {
        let slot = ready.slot;
        let Some(connection) = self.slots.get_mut(slot).and_then(Option::as_mut) else { return Ok(()) };
        match turn {
            Turn::Over => return self.end(slot, waiting, mail),
            Turn::More => waiting.add_ready(ready),
            Turn::Waits => {}
        }
        let wish = connection.wish();
        if wish != connection.interest {
            connection.interest = wish;
            waiting.change_connection(connection.socket(), slot, wish);
        }
        if self.deadline.is_some() || connection.deadline().is_some() || self.room.deadline().is_some() {
            self.find_deadline();
        }
        Ok(())
    }

    fn find_deadline(&mut self) {
        let connections = self.slots.iter().flatten().filter_map(Connection::deadline);
        self.deadline = connections.chain(self.room.deadline()).min();
    }

    /// Ends the connections whose clients took too long, and gives memory back that nobody used for a while.
    fn end_overdue(&mut self, waiting: &Waiting, mail: &Mail) -> Result<(), WorkerError> {
        let now = Instant::now();
        self.room.trim(now);
        for slot in 0..self.slots.len() {
            let Some(connection) = &mut self.slots[slot] else { continue };
            let is_overdue = connection.deadline().is_some_and(|deadline| deadline <= now);
            if is_overdue && !connection.is_granted_a_last_word() {
                self.end(slot, waiting, mail)?;
            }
        }
        self.find_deadline();
        Ok(())
    }

    /// Says farewell on every connection: the process drains.
    #[cold]
    pub(crate) fn drain(&mut self, waiting: &Waiting, mail: &Mail) -> Result<(), WorkerError> {
        for slot in 0..self.slots.len() {
            if let Some(connection) = &mut self.slots[slot]
                && !connection.is_leaving()
            {
                let turn = connection.drain();
                self.settle(Ready { slot, ends: false }, turn, waiting, mail)?;
            }
        }
        Ok(())
    }

    /// Ends every connection: nothing is claimed any more.
    #[cold]
    pub(crate) fn end_all(&mut self, waiting: &Waiting, mail: &Mail) -> Result<(), WorkerError> {
        (0..self.slots.len()).try_for_each(|slot| self.end(slot, waiting, mail))
    }

    fn end(&mut self, slot: usize, waiting: &Waiting, mail: &Mail) -> Result<(), WorkerError> {
        let Some(connection) = self.slots.get_mut(slot).and_then(Option::take) else { return Ok(()) };
        self.count -= 1;
        if self.count == 0 {
            self.room.give_large_back();
        }
        self.find_deadline();
        waiting.remove_connection(connection.socket());
        // Fails when the client has ended it. Closing alone would not end it: the server holds a duplicate.
        let _ = shutdown(connection.socket(), Shutdown::Both);
        mail.send(&WorkerMessage::ConnectionEnded { connection: connection.id })
    }
}
