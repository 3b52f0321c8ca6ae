//! A process of one worker that is reached over TCP on loopback, with a server of its own: each side on its core.
//!
//! Invariant: between rounds it leaves the machine alone. A server or worker that spins would keep its core for ever, so the
//! kernel stops both outside of rounds, unknown to them.

use std::io;
use std::net::SocketAddr;

use praas_client::{Client, ConnectOptions, Process, ProcessId, Transport, WaitMode};
use praas_sys::{Pidfd, Signal};

use super::functions::PIN;
use super::lane::only_worker;
use super::running_server::NetworkPlan;
use super::{RunningServer, SubjectError};
use crate::floors::{Batch, Pinned, Placement, Samples, timed};
use crate::interleave::SeriesError;

/// How calls come from a connection to a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Through a shard of the server and shared memory.
    Brokered,
    /// The worker has the connection itself.
    Dedicated,
}

impl Route {
    /// For the words of a row.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Brokered => "brokered",
            Self::Dedicated => "dedicated",
        }
    }
}

/// What a remote process is to be.
#[derive(Clone, Copy, Debug)]
pub struct RemotePlan {
    /// How calls get there.
    pub route: Route,
    /// Whether the side that answers the network spins, and the client with it; by default nobody is told how to wait.
    pub spins: bool,
    /// Where both sides run: the client here, server and worker there.
    pub placement: Placement,
}

impl RemotePlan {
    /// How the worker waits: next to a shard that spins on its core, it sleeps.
    fn worker_wait(self) -> WaitMode {
        match (self.spins, self.route) {
            (false, _) => WaitMode::Adaptive,
            (true, Route::Brokered) => WaitMode::Park,
            (true, Route::Dedicated) => WaitMode::Spin,
        }
    }

    /// How the server's shards wait: on a dedicated connection's core, they sleep.
    fn shard_wait(self) -> WaitMode {
        match (self.spins, self.route) {
            (false, _) => WaitMode::Adaptive,
            (true, Route::Brokered) => WaitMode::Spin,
            (true, Route::Dedicated) => WaitMode::Park,
        }
    }
}

/// A process, its worker, its server, and the way there; all end when dropped.
#[derive(Debug)]
pub struct Remote {
    plan: RemotePlan,
    process: Process,
    id: ProcessId,
    address: SocketAddr,
    worker: Pidfd,
    server_process: Pidfd,
    // Last: its connections are closed by then.
    server: RunningServer,
}

impl Remote {
    /// Starts a server on the peer's core, creates a process and connects to it.
    ///
    /// # Errors
    /// Any [`SubjectError`]; [`SubjectError::OtherRoute`] if the server grants no dedicated connection.
    pub fn open(plan: RemotePlan) -> Result<Self, SubjectError> {
        let cpu = plan.placement.peer_cpu();
        let server = RunningServer::start_listening(NetworkPlan { wait: plan.shard_wait(), cpu })?;
        let address = server.address()?;
        let options = ConnectOptions::new()
            .data_directory(server.data_directory())
            .address(address.to_string())
            .transport(Transport::Network)
            .dedicated(plan.route == Route::Dedicated);
        let client = Client::connect(if plan.spins { options.wait_mode(WaitMode::Spin) } else { options })?;
        let id = server.new_id(plan.worker_wait());
        client.create(id)?;
        let process = client.process(id)?;
        check_route(plan.route, &process.route())?;
        let worker = only_worker(&client, id)?;
        let server_process = Pidfd::open(server.process_id()).map_err(|error| SubjectError::System {
            action: "open a server's pidfd",
            source: io::Error::other(error),
        })?;
        if let Some(cpu) = cpu {
            process.invoke(PIN, cpu.to_string())?;
        }
        let remote = Self { plan, process, id, address, worker, server_process, server };
        remote.rest();
        Ok(remote)
    }

    /// The client's end. Of one that spins, only [`Remote::measure`] makes use: it rests otherwise.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// The process's id.
    #[must_use]
    pub fn id(&self) -> ProcessId {
        self.id
    }

    /// Where its server listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its server.
    #[must_use]
    pub fn server(&self) -> &RunningServer {
        &self.server
    }

    /// One round of `call`, one operation each.
    ///
    /// # Errors
    /// What `call` fails with.
    #[inline]
    pub fn measure(
        &self,
        batch: Batch,
        mut call: impl FnMut(&Process) -> Result<(), SubjectError>,
    ) -> Result<Samples, SeriesError> {
        let _awake = self.wake()?;
        Ok(timed(batch, || call(&self.process))?)
    }

    fn wake(&self) -> Result<Awake<'_>, SubjectError> {
        let pinned = Pinned::to(self.plan.placement.caller_cpu())?;
        self.signal(Signal::CONT);
        Ok(Awake { remote: self, _pinned: pinned })
    }

    fn rest(&self) {
        if self.plan.spins {
            self.signal(Signal::STOP);
        }
    }

    fn signal(&self, signal: Signal) {
        // Whoever died is noticed by the next call.
        let _ = self.worker.send_signal(signal);
        let _ = self.server_process.send_signal(signal);
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        // A stopped server could not end.
        self.signal(Signal::CONT);
    }
}

/// A remote process in use.
struct Awake<'a> {
    remote: &'a Remote,
    _pinned: Pinned,
}

impl Drop for Awake<'_> {
    fn drop(&mut self) {
        self.remote.rest();
    }
}

fn check_route(wanted: Route, found: &praas_client::Route) -> Result<(), SubjectError> {
    let is_right = match wanted {
        Route::Brokered => matches!(found, praas_client::Route::Network { .. }),
        Route::Dedicated => *found == praas_client::Route::Dedicated,
    };
    if is_right { Ok(()) } else { Err(SubjectError::OtherRoute { wanted: wanted.name(), found: format!("{found:?}") }) }
}
