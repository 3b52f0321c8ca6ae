//! Brokering of lanes: admission, creation, telling the workers, handing over to the client, and taking back.
//!
//! 1. A lane is charged to the host's budget at the limits of its segments, before it is created, until no worker maps it.
//! 2. Its number is unique for the life of the server, and its residue among the lanes of its process: workers index by it.
//! 3. The client gets a lane when every worker that is ready and not in a call has attached it. One that is in a call
//!    attaches it afterwards, and then finds what lies there.
//! 4. The lane of a dead client is never given to another.
//! 5. The server neither reads nor writes the doorbell: a client could make its end block. Workers are woken by their
//!    control sockets, and ring each other through an open file description that no client shares.

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use praas_protocol::control::{ControlError, LaneGeometry, LaneId, ServerMessage, WorkerCommand};
use praas_protocol::limits::{CELLS_DEFAULT, LANES_PER_CLIENT_MAX, LANES_PER_PROCESS_MAX, RING_ENTRIES_MAX};
use praas_protocol::token::Rights;
use praas_protocol::{Name, Outcome, Phase, ProcessId};
use praas_shm::layout::{LaneLayout, geometry_for};
use praas_shm::server_lane::ServerLane;
use praas_sys::Doorbell;

use crate::budget::Charge;
use crate::clients::ClientKey;
use crate::peer::{Peer, PeerError};
use crate::processes::{Asker, ProcessKey, Stage};
use crate::shard::Shard;
use crate::timers::Timer;
use crate::workers::{Attachment, Worker, WorkerKey, WorkerStage};

/// Period in which a lane that is being opened is looked at.
const OPENING_LOOK_PERIOD: Duration = Duration::from_millis(20);

/// How far a lane has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LaneStage {
    /// Workers attach it; the asker waits.
    Opening(Asker),
    /// The client has it.
    Open,
    /// The client is gone; workers forget it.
    Closing,
}

/// One lane.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) client: ClientKey,
    /// The server's view; `None` once the client is gone.
    pub(crate) memory: Option<ServerLane>,
    /// Read end of the doorbell, for the workers.
    listen: OwnedFd,
    /// The workers' own write end: the client may change what its description does.
    workers_ring: OwnedFd,
    /// The client's write end, until the client has it.
    client_ring: Option<OwnedFd>,
    geometry: LaneGeometry,
    trusted: bool,
    principal: Name,
    payload_bytes_max: u32,
    stage: LaneStage,
    /// Given back when the last worker has forgotten the lane.
    _charge: Charge,
}

impl Lane {
    /// Whether workers are to serve it.
    pub(crate) fn is_served(&self) -> bool {
        self.memory.is_some() && self.stage != LaneStage::Closing
    }

    /// Tells a worker of the lane.
    pub(crate) fn announce(&self, id: LaneId, peer: &mut Peer) -> Result<(), PeerError> {
        let Some(memory) = &self.memory else { return Ok(()) };
        let add = WorkerCommand::LaneAdd {
            lane: id,
            geometry: self.geometry,
            trusted: self.trusted,
            principal: self.principal,
        };
        peer.send(&add, &[memory.segment_fd(), memory.ledger_fd(), self.listen.as_fd(), self.workers_ring.as_fd()])
    }
}

/// What a client asked of a lane.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LaneWish {
    pub(crate) process: ProcessId,
    pub(crate) payload_bytes_max: Option<u32>,
    pub(crate) calls_in_flight: Option<u32>,
}

impl Shard {
    /// Opens a lane; `asker` is answered when the workers have it.
    pub(crate) fn open_lane(&mut self, wish: LaneWish, asker: Asker) -> Result<(), ControlError> {
        let key = self.processes.key_of(&wish.process)?;
        let client = self.clients.get(asker.client).ok_or(ControlError::ShuttingDown)?;
        let (held, claims) = (client.lanes.len(), client.claims.clone());
        let Some(claims) = claims else { return Err(ControlError::ShuttingDown) };
        limit("lanes of this connection", held, LANES_PER_CLIENT_MAX, "close some, or share a lane between threads")?;
        let process = self.processes.get(key).ok_or(ControlError::UnknownProcess { process: wish.process })?;
        match &process.stage {
            Stage::Active(_) if process.has_failed() => {
                let reason = process.failure_words();
                return Err(ControlError::WorkersFailed { process: wish.process, reason });
            }
            Stage::Active(_) => {}
            Stage::Draining(drain) if drain.is_restart() => {}
            _ => return Err(ControlError::WrongState { process: wish.process, state: process.state() }),
        }
        let taken = process.lanes.len();
        limit("lanes of this process", taken, LANES_PER_PROCESS_MAX, "close lanes, or create another process")?;
        let payload_limit = process.application.limits.payload_bytes_max;
        let payload_bytes_max = wish.payload_bytes_max.unwrap_or(payload_limit).clamp(1, payload_limit);
        let calls = wish.calls_in_flight.unwrap_or(CELLS_DEFAULT).clamp(1, RING_ENTRIES_MAX);
        let geometry = geometry_for(payload_bytes_max, calls);
        let layout = LaneLayout::new(&geometry).map_err(|error| host("laying out a lane", &error))?;
        let charge = self.budget.charge((layout.segment_bytes() + layout.ledger_bytes()) as u64)?;
        let id = self.choose_lane_id(key)?;
        let memory = ServerLane::create(id, geometry).map_err(|error| host("creating a lane", &error))?;
        let bell = Doorbell::new().map_err(|error| host("creating a doorbell", &error))?;
        let workers_ring = bell.another_ring().map_err(|error| host("opening a doorbell", &error))?;
        let lane = Lane {
            client: asker.client,
            memory: Some(memory),
            listen: bell.listen,
            workers_ring,
            client_ring: Some(bell.ring),
            geometry,
            trusted: claims.rights.contains(Rights::TRUSTED),
            principal: claims.principal,
            payload_bytes_max,
            stage: LaneStage::Opening(asker),
            _charge: charge,
        };
        if let Some(process) = self.processes.get_mut(key) {
            process.lanes.insert(id, lane);
        }
        if let Some(client) = self.clients.get_mut(asker.client) {
            client.lanes.insert(id, key);
        }
        self.announce_lane(key, id);
        self.open_if_attached(key, id);
        Ok(())
    }

    /// The next number whose residue no lane of the process has.
    fn choose_lane_id(&mut self, key: ProcessKey) -> Result<LaneId, ControlError> {
        let modulus = u32::try_from(LANES_PER_PROCESS_MAX).unwrap_or(u32::MAX);
        let lanes = self.processes.get(key).map(|process| process.lanes.keys());
        let taken: HashSet<u32> = lanes.into_iter().flatten().map(|lane| lane.0 % modulus).collect();
        let exhausted = || ControlError::LimitReached {
            what: "lane numbers of this server".into(),
            used: self.next_lane.into(),
            limit: u32::MAX.into(),
            asked: 1,
            advice: "restart the server".into(),
        };
        let last = self.next_lane.checked_add(modulus).ok_or_else(exhausted)?;
        let free = (self.next_lane..last).find(|id| !taken.contains(&(id % modulus))).ok_or_else(exhausted)?;
        self.next_lane = free + 1;
        Ok(LaneId(free))
    }

    fn announce_lane(&mut self, key: ProcessKey, id: LaneId) {
        for worker_key in self.worker_keys(key) {
            let lane = self.processes.get(key).and_then(|process| process.lanes.get(&id));
            let (Some(worker), Some(lane)) = (self.workers.get_mut(&worker_key), lane) else { continue };
            // One that is still starting gets every lane when it is introduced.
            if !matches!(worker.stage, WorkerStage::Attaching | WorkerStage::Ready) {
                continue;
            }
            worker.lanes.insert(id, Attachment::Adding);
            let announced = lane.announce(id, &mut worker.peer);
            worker.page.notify();
            match announced {
                Ok(()) | Err(PeerError::Closed) => {}
                Err(error) => worker.kill(error.to_string()),
            }
        }
    }

    /// A worker says that it has a lane, or why not.
    pub(crate) fn lane_attached(
        &mut self,
        worker_key: WorkerKey,
        id: LaneId,
        error: Option<String>,
    ) -> Result<(), String> {
        let Some(worker) = self.workers.get_mut(&worker_key) else { return Ok(()) };
        let key = worker.process;
        match worker.lanes.get_mut(&id) {
            Some(attachment @ Attachment::Adding) => *attachment = Attachment::Attached,
            Some(Attachment::Removing) => return Ok(()),
            _ => return Err(format!("it attached lane {}, which it was not given", id.0)),
        }
        let Some(error) = error else {
            self.opening_due(key, id);
            return Ok(());
        };
        let lane = self.processes.get(key).and_then(|process| process.lanes.get(&id));
        let Some(LaneStage::Opening(asker)) = lane.map(|lane| lane.stage) else {
            return Err(format!("it cannot attach lane {}: {error}", id.0));
        };
        self.close_lane(key, id);
        let error = ControlError::Host { what: "attaching the lane in a worker".into(), reason: error };
        self.answer_failed(asker, error);
        Ok(())
    }

    /// Hands a lane to its client if every ready worker has it.
    fn open_if_attached(&mut self, key: ProcessKey, id: LaneId) {
        let has = |attachment: Option<&Attachment>| matches!(attachment, Some(Attachment::Attached));
        let is_awaited =
            |worker: &Worker| worker.is_ready() && !has(worker.lanes.get(&id)) && worker.page.claims().next().is_none();
        if self.workers_of(key).any(|(_, worker)| is_awaited(worker)) {
            // Its answer leads back here; so does time, in case it takes a call first.
            return self.timers.after(OPENING_LOOK_PERIOD, Timer::Lane(key, id.0));
        }
        let Some(process) = self.processes.get_mut(key) else { return };
        let application = &process.application;
        let Some(lane) = process.lanes.get_mut(&id) else { return };
        let (LaneStage::Opening(asker), Some(memory)) = (lane.stage, &lane.memory) else { return };
        let Some(client_ring) = lane.client_ring.take() else { return };
        lane.stage = LaneStage::Open;
        let opened = ServerMessage::LaneOpened {
            request: asker.request,
            process: process.id,
            lane: id,
            geometry: lane.geometry,
            trusted: lane.trusted,
            payload_bytes_max: lane.payload_bytes_max,
            workers_max: application.workers_max,
            wait_mode: application.wait,
        };
        let fds = [memory.segment_fd(), process.control.fd(), client_ring.as_fd()];
        self.metrics.lanes_opened += 1;
        let sent = self.clients.send(asker, &opened, &fds, &mut self.timers);
        if let Err(error) = sent {
            self.cut_client(asker.client, &error.to_string());
        }
    }

    /// Timer: whether a lane that is being opened still waits for somebody.
    pub(crate) fn opening_due(&mut self, key: ProcessKey, id: LaneId) {
        let lane = self.processes.get(key).and_then(|process| process.lanes.get(&id));
        if lane.is_some_and(|lane| matches!(lane.stage, LaneStage::Opening(_))) {
            self.open_if_attached(key, id);
        }
    }

    /// Hands out every lane that waited for a worker which is no more.
    pub(crate) fn open_attached_lanes(&mut self, key: ProcessKey) {
        let ids: Vec<_> =
            self.processes.get(key).map(|process| process.lanes.keys().copied().collect()).unwrap_or_default();
        for id in ids {
            self.opening_due(key, id);
        }
    }

    /// The client of a lane is gone or done with it.
    pub(crate) fn close_lane(&mut self, key: ProcessKey, id: LaneId) {
        let Some(lane) = self.processes.get_mut(key).and_then(|process| process.lanes.get_mut(&id)) else { return };
        lane.stage = LaneStage::Closing;
        lane.memory = None;
        let client = lane.client;
        if let Some(client) = self.clients.get_mut(client) {
            client.lanes.remove(&id);
        }
        for worker in self.worker_keys(key) {
            let attachment = self.workers.get_mut(&worker).and_then(|worker| worker.lanes.get_mut(&id));
            if let Some(attachment) = attachment {
                *attachment = Attachment::Removing;
                self.command_worker(worker, &WorkerCommand::LaneRemove { lane: id }, &[]);
            }
        }
        self.forget_lane_if_detached(key, id);
    }

    /// A worker says that it has forgotten a lane.
    pub(crate) fn lane_detached(&mut self, worker_key: WorkerKey, id: LaneId) -> Result<(), String> {
        let Some(worker) = self.workers.get_mut(&worker_key) else { return Ok(()) };
        if worker.lanes.get(&id) != Some(&Attachment::Removing) {
            return Err(format!("it forgot lane {}, which it was not told to", id.0));
        }
        worker.lanes.remove(&id);
        let key = worker.process;
        self.forget_lane_if_detached(key, id);
        Ok(())
    }

    /// Frees number and budget of a closed lane that no worker maps.
    pub(crate) fn forget_lane_if_detached(&mut self, key: ProcessKey, id: LaneId) {
        if self.workers_of(key).any(|(_, worker)| worker.lanes.contains_key(&id)) {
            return;
        }
        let Some(process) = self.processes.get_mut(key) else { return };
        if process.lanes.get(&id).is_some_and(|lane| lane.stage == LaneStage::Closing) {
            process.lanes.remove(&id);
            self.forget_if_empty(key);
        }
    }

    /// Frees every closed lane that only a dead worker still mapped.
    pub(crate) fn forget_detached_lanes(&mut self, key: ProcessKey, ids: impl IntoIterator<Item = LaneId>) {
        for id in ids {
            self.forget_lane_if_detached(key, id);
        }
    }

    /// A client says that a request lies in its lane and nobody is awake, or that the phase is not active.
    pub(crate) fn lane_rang(&mut self, key: ProcessKey, id: LaneId) {
        let running = self.running_roots(key);
        let Some(process) = self.processes.get_mut(key) else { return };
        process.control.acknowledge_rings();
        let memory = process.lanes.get(&id).and_then(|lane| lane.memory.as_ref());
        let Some(memory) = memory else { return };
        let phase = process.phase();
        match phase {
            Phase::Active => {
                self.wake_workers(key);
                self.grow(key);
            }
            Phase::Draining => {
                let refused =
                    memory.refuse_unclaimed(|root| running.contains(&root), Outcome::Unavailable, phase as u32);
                self.metrics.calls_refused += u64::from(refused);
                self.wake_workers(key);
            }
            Phase::Closed => {
                let refused = memory.refuse_unclaimed(|_| false, Outcome::Unavailable, phase as u32);
                self.metrics.calls_refused += u64::from(refused);
            }
        }
    }
}

fn limit(what: &str, used: usize, limit: usize, advice: &str) -> Result<(), ControlError> {
    if used < limit {
        return Ok(());
    }
    Err(ControlError::LimitReached {
        what: what.into(),
        used: used as u64,
        limit: limit as u64,
        asked: 1,
        advice: advice.into(),
    })
}

fn host(what: &str, error: &dyn std::fmt::Display) -> ControlError {
    ControlError::Host { what: what.into(), reason: error.to_string() }
}
