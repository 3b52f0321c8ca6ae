//! Lanes from worker to worker among harnesses, for calls from function to function; and the numbers of all lanes of a process.
//!
//! A number is not used again after a nested call's lane: a worker that is busy may forget the old one late, and a harness does
//! not live long enough to need them all.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use praas_protocol::Name;
use praas_protocol::control::{ControlError, LaneGeometry, LaneId, WorkerCommand};
use praas_protocol::limits::{CELLS_DEFAULT, LANES_PER_PROCESS_MAX};
use praas_protocol::token::Rights;
use praas_shm::client_lane::ClientLaneParts;
use praas_shm::control_page::ControlPage;
use praas_shm::layout;
use praas_shm::server_lane::ServerLane;
use praas_sys::doorbell::Doorbell;

use super::HarnessOptions;
use super::listener::Line;
use super::realm::host;

/// A process, as far as others call it.
pub(super) struct Callable {
    page: Arc<ControlPage>,
    options: HarnessOptions,
    parts: Mutex<Parts>,
}

#[derive(Default)]
struct Parts {
    workers: Vec<Arc<Line>>,
    /// Lanes of workers.
    lanes: BTreeMap<LaneId, Nested>,
    /// Residues of the numbers of all lanes.
    taken: BTreeSet<u32>,
    last: u32,
}

/// A lane of a worker.
struct Nested {
    /// Kept as long as it is served.
    _server: ServerLane,
    bell: Doorbell,
    /// Who is told when it has ended; the gateway sees it by the loss of the process.
    caller: Option<Arc<Line>>,
}

/// How many lanes a process can have, each with a residue of its own.
const RESIDUES: u32 = {
    assert!(LANES_PER_PROCESS_MAX <= 1 << 16);
    #[allow(clippy::cast_possible_truncation, reason = "checked")]
    let residues = LANES_PER_PROCESS_MAX as u32;
    residues
};

impl Callable {
    pub(super) fn new(page: Arc<ControlPage>, options: HarnessOptions) -> Self {
        Self { page, options, parts: Mutex::default() }
    }

    fn parts(&self) -> MutexGuard<'_, Parts> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add_worker(&self, line: &Arc<Line>) {
        self.parts().workers.push(Arc::clone(line));
    }

    /// A number that was never given before, and whose residue no other lane has.
    pub(super) fn take_number(&self) -> Option<LaneId> {
        self.parts().take_number()
    }

    /// No worker has the lane of this number any more.
    pub(super) fn give_number_back(&self, lane: LaneId) {
        self.parts().taken.remove(&(lane.0 % RESIDUES));
    }

    /// Opens a lane for a worker of the process `caller`, and tells it at the end of `line`.
    pub(super) fn open(&self, line: &Arc<Line>, caller: Name, request: u32) -> Result<(), ControlError> {
        let mut parts = self.parts();
        let (lane, geometry, server, bell) = self.add_lane(&mut parts, caller)?;
        let opened = WorkerCommand::CallLaneOpened {
            request,
            lane,
            geometry,
            payload_bytes_max: self.options.payload_bytes_max,
            workers_max: self.options.workers.into(),
            is_gateway: false,
        };
        let fds = [server.segment_fd(), self.page.fd(), bell.ring.as_fd()];
        line.tell(&opened, &fds).map_err(host("telling the caller"))?;
        parts.lanes.insert(lane, Nested { _server: server, bell, caller: Some(Arc::clone(line)) });
        Ok(())
    }

    /// Opens a lane for the gateway, which speaks for the process `caller`.
    pub(super) fn open_for_gateway(self: &Arc<Self>, caller: Name) -> Result<ClientLaneParts, ControlError> {
        let mut parts = self.parts();
        let (lane, geometry, server, bell) = self.add_lane(&mut parts, caller)?;
        let what = "sharing a lane";
        let (segment, control) = (server.segment_fd().try_clone_to_owned(), self.page.fd().try_clone_to_owned());
        let called = Arc::downgrade(self);
        let given = ClientLaneParts {
            lane,
            geometry,
            trusted: true,
            payload_bytes_max: self.options.payload_bytes_max,
            workers_max: self.options.workers.into(),
            segment: segment.map_err(host(what))?,
            control: control.map_err(host(what))?,
            doorbell: bell.another_ring().map_err(host(what))?,
            ring_server: Box::new(move || {
                if let Some(called) = called.upgrade() {
                    called.ring(lane);
                }
            }),
        };
        parts.lanes.insert(lane, Nested { _server: server, bell, caller: None });
        Ok(given)
    }

    fn add_lane(
        &self,
        parts: &mut Parts,
        principal: Name,
    ) -> Result<(LaneId, LaneGeometry, ServerLane, Doorbell), ControlError> {
        let lane = parts.take_number().ok_or_else(no_number)?;
        let geometry = layout::geometry_for(self.options.payload_bytes_max, CELLS_DEFAULT);
        let server = ServerLane::create(lane, geometry).map_err(host("making a lane"))?;
        let bell = Doorbell::new().map_err(host("making a doorbell"))?;
        let add = WorkerCommand::LaneAdd { lane, geometry, rights: Rights::ALL, in_place: true, principal };
        let fds = [server.segment_fd(), server.ledger_fd(), bell.listen.as_fd(), bell.ring.as_fd()];
        for worker in &parts.workers {
            worker.tell(&add, &fds).map_err(host("telling a worker"))?;
        }
        Ok((lane, geometry, server, bell))
    }

    /// A caller says that nobody takes its request.
    pub(super) fn ring(&self, lane: LaneId) {
        if let Some(nested) = self.parts().lanes.get(&lane) {
            nested.bell.ring();
        }
        self.page.acknowledge_rings();
    }

    /// The process, which is called so, has ended.
    pub(super) fn end(&self, process: Name) {
        let mut parts = self.parts();
        for (lane, nested) in std::mem::take(&mut parts.lanes) {
            let Some(caller) = nested.caller else { continue };
            // A worker that is gone already needs no telling.
            let _ = caller.tell(&WorkerCommand::CallLaneGone { lane, to: process.into() }, &[]);
        }
        parts.workers.clear();
    }

    /// A caller is done with a lane.
    pub(super) fn close(&self, lane: LaneId) {
        let mut parts = self.parts();
        if parts.lanes.remove(&lane).is_some() {
            for worker in &parts.workers {
                // A worker that is gone already needs no telling.
                let _ = worker.tell(&WorkerCommand::LaneRemove { lane }, &[]);
            }
        }
    }
}

impl Parts {
    fn take_number(&mut self) -> Option<LaneId> {
        let numbers = self.last.checked_add(1)?..=self.last.checked_add(RESIDUES)?;
        let number = numbers.into_iter().find(|number| !self.taken.contains(&(number % RESIDUES)))?;
        self.taken.insert(number % RESIDUES);
        self.last = number;
        Some(LaneId(number))
    }
}

fn no_number() -> ControlError {
    ControlError::LimitReached {
        what: "lanes of a process".to_owned(),
        used: RESIDUES.into(),
        limit: RESIDUES.into(),
        asked: 1,
        advice: "call it from fewer workers".to_owned(),
    }
}
