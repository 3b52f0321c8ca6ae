//! Dedicated connections: TCP connections of the network protocol that a worker reads and writes itself.
//!
//! 1. The server keeps a duplicate of every socket that it gave away, and uses it for nothing but to end the connection: when
//!    the token behind it expires, when the worker dies, when a drain has taken too long. Whatever is in flight then ends
//!    without an answer, and its client knows only that it may have run.
//! 2. A worker says when it is done with a connection, and has shut it down then. The entry lives until then, or until the
//!    worker is dead: what a worker says of connections that it was not given breaks the protocol.
//! 3. The one with the fewest connections among the ready workers gets the next.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use praas_protocol::control::{ConnectionId, ConnectionLimits, ControlError, WorkerCommand};
use praas_protocol::limits::RING_ENTRIES_MAX;
use praas_protocol::token::Claims;
use rustix::net::Shutdown;

use crate::application::Application;
use crate::clock;
use crate::lanes::{LaneWish, limit};
use crate::limits::{
    CONNECTION_CALLS_DEFAULT, CONNECTION_WINDOW_BYTES_MIN, CONNECTION_WINDOW_PAYLOADS, CONNECTIONS_MAX,
    CONNECTIONS_PER_WORKER_MAX,
};
use crate::processes::{ProcessKey, Stage};
use crate::shard::Shard;
use crate::timers::Timer;
use crate::workers::WorkerKey;

/// Longest time until an expiry is looked at again: a clock that is set forward ends connections a minute late at most.
const EXPIRY_LOOK_MAX: Duration = Duration::from_secs(60);

/// One connection that was given away.
#[derive(Debug)]
struct Given {
    worker: WorkerKey,
    socket: OwnedFd,
    expires_unix_s: Option<u64>,
}

impl Given {
    fn cut(&self) {
        // Fails when its client has reset it.
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Both);
    }
}

/// All connections that workers own.
#[derive(Debug, Default)]
pub(crate) struct Dedicated {
    entries: BTreeMap<ConnectionId, Given>,
    last: u64,
}

impl Dedicated {
    /// Connections of one worker.
    pub(crate) fn count(&self, worker: WorkerKey) -> usize {
        self.entries.values().filter(|given| given.worker == worker).count()
    }
}

impl Shard {
    /// Gives a connection to a worker of the process.
    pub(crate) fn give_connection(
        &mut self,
        wish: &LaneWish,
        request_id: u64,
        socket: OwnedFd,
        claims: &Claims,
    ) -> Result<(), ControlError> {
        let key = self.processes.key_of(&wish.process)?;
        let process = self.processes.get(key).ok_or(ControlError::UnknownProcess { process: wish.process })?;
        let wrong_state = ControlError::WrongState { process: wish.process, state: process.state() };
        if !matches!(process.stage, Stage::Active(_)) {
            return Err(wrong_state);
        }
        let limits = limits_of(wish, &process.application);
        // Most of a worker's descriptors are its function's.
        let descriptors = usize::try_from(process.application.limits.open_files / 4).unwrap_or(usize::MAX);
        let per_worker_max = CONNECTIONS_PER_WORKER_MAX.min(descriptors);
        limit("dedicated connections of this server", self.dedicated.entries.len(), CONNECTIONS_MAX, ADVICE)?;
        let ready = self.workers_of(key).filter(|(_, worker)| worker.is_ready());
        let counted = ready.map(|(worker, _)| (self.dedicated.count(worker), worker));
        let (count, worker) = counted.min().ok_or(wrong_state)?;
        limit("dedicated connections of this process's workers", count, per_worker_max, ADVICE)?;

        self.dedicated.last += 1;
        let connection = ConnectionId(self.dedicated.last);
        let add = WorkerCommand::ConnectionAdd {
            connection,
            request_id,
            limits,
            rights: claims.rights,
            principal: claims.principal,
        };
        self.command_worker(worker, &add, &[socket.as_fd()]);
        let given = Given { worker, socket, expires_unix_s: claims.expires_unix_s };
        self.dedicated.entries.insert(connection, given);
        self.metrics.connections_given += 1;
        self.connection_due(connection);
        Ok(())
    }

    /// Timer: ends a connection whose token has expired.
    pub(crate) fn connection_due(&mut self, connection: ConnectionId) {
        let Some(given) = self.dedicated.entries.get(&connection) else { return };
        let Some(expires_unix_s) = given.expires_unix_s else { return };
        let now = clock::unix_time();
        let left = Duration::from_secs(expires_unix_s).saturating_sub(now);
        if left.is_zero() {
            self.log.info(format_args!("connection {} is ended: its token has expired", connection.0));
            given.cut();
        } else {
            self.timers.after(left.min(EXPIRY_LOOK_MAX), Timer::Connection(connection));
        }
    }

    /// A worker says that it is done with a connection.
    pub(crate) fn connection_ended(&mut self, worker: WorkerKey, connection: ConnectionId) -> Result<(), String> {
        match self.dedicated.entries.get(&connection) {
            Some(given) if given.worker == worker => {
                // Usually done by the worker: its client must not wait for one that forgot.
                given.cut();
                self.dedicated.entries.remove(&connection);
                Ok(())
            }
            _ => Err(format!("it ended connection {}, which it was not given", connection.0)),
        }
    }

    /// Whether workers of the process own connections.
    pub(crate) fn has_connections(&self, key: ProcessKey) -> bool {
        self.workers_of(key).any(|(worker, _)| self.dedicated.count(worker) > 0)
    }

    /// Ends every connection to a process, and no longer waits for what its workers say of them.
    pub(crate) fn cut_connections_to(&mut self, key: ProcessKey) {
        for worker in self.worker_keys(key) {
            self.dedicated.entries.values().filter(|given| given.worker == worker).for_each(Given::cut);
        }
    }

    /// Ends every connection of a worker that is dead.
    pub(crate) fn cut_connections_of(&mut self, worker: WorkerKey) {
        self.dedicated.entries.retain(|_, given| {
            let stays = given.worker != worker;
            if !stays {
                given.cut();
            }
            stays
        });
    }
}

const ADVICE: &str = "use a connection that is not dedicated, or allow the application more workers";

fn limits_of(wish: &LaneWish, application: &Application) -> ConnectionLimits {
    let payload_limit = application.limits.payload_bytes_max;
    let payload_bytes_max = wish.payload_bytes_max.unwrap_or(payload_limit).clamp(1, payload_limit);
    let in_flight_max = wish.calls_in_flight.unwrap_or(CONNECTION_CALLS_DEFAULT).clamp(1, RING_ENTRIES_MAX);
    let window_bytes = (CONNECTION_WINDOW_PAYLOADS * u64::from(payload_bytes_max)).max(CONNECTION_WINDOW_BYTES_MIN);
    ConnectionLimits { payload_bytes_max, in_flight_max, window_bytes }
}
