//! Lanes in the hands of workers: who attaches one, when its owner gets it, and who forgets it.

use std::os::fd::AsFd;

use praas_protocol::control::{ControlError, LaneId, ServerMessage, WorkerCommand};
use praas_protocol::token::Rights;

use super::{LaneAsker, LaneStage, OPENING_LOOK_PERIOD};
use crate::clock;
use crate::peer::PeerError;
use crate::processes::ProcessKey;
use crate::shard::Shard;
use crate::timers::Timer;
use crate::workers::{Attachment, Worker, WorkerKey, WorkerStage};

impl Shard {
    pub(super) fn announce_lane(&mut self, key: ProcessKey, id: LaneId) {
        for worker_key in self.worker_keys(key) {
            let lane = self.processes.get(key).and_then(|process| process.lanes.get(&id));
            let (Some(worker), Some(lane)) = (self.workers.get_mut(&worker_key), lane) else { continue };
            // One that is still starting gets every lane when it is introduced.
            if !matches!(worker.stage, WorkerStage::Attaching | WorkerStage::Ready) {
                continue;
            }
            worker.lanes.insert(id, Attachment::Adding);
            let announced = lane.announce(id, &mut worker.peer);
            worker.notify();
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
        let asker = match lane.map(|lane| lane.stage) {
            Some(LaneStage::Opening(asker)) => asker,
            Some(LaneStage::Prepared(_)) => {
                self.close_lane(key, id);
                return Ok(());
            }
            _ => return Err(format!("it cannot attach lane {}: {error}", id.0)),
        };
        self.close_lane(key, id);
        let error = ControlError::Host { what: "attaching the lane in a worker".into(), reason: error };
        match asker {
            LaneAsker::Client(asker) => self.answer_failed(asker, error),
            LaneAsker::Worker(worker, request) => self.refuse_worker(worker, request, error),
        }
        Ok(())
    }

    /// Hands a lane to its owner if every ready worker has it.
    pub(super) fn open_if_attached(&mut self, key: ProcessKey, id: LaneId) {
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
        self.metrics.lanes_opened += 1;
        let asker = match asker {
            LaneAsker::Client(asker) => asker,
            LaneAsker::Worker(worker, request) => {
                lane.stage = LaneStage::Open;
                let opened = WorkerCommand::CallLaneOpened {
                    request,
                    lane: id,
                    geometry: lane.sizes.geometry,
                    payload_bytes_max: lane.sizes.payload_bytes_max,
                    workers_max: application.workers_max,
                    is_gateway: false,
                };
                let fds = [memory.segment_fd(), process.control.fd(), client_ring.as_fd()];
                let told = self.workers.get_mut(&worker).and_then(|worker| worker.tell(&opened, &fds));
                return told.map_or((), |end| self.timers.at(end, Timer::WorkerStall(worker)));
            }
        };
        let replies_listen = lane.replies.as_mut().and_then(|replies| replies.listen.take());
        lane.stage = LaneStage::Open;
        let opened = ServerMessage::LaneOpened {
            request: asker.request,
            process: process.id,
            lane: id,
            geometry: lane.sizes.geometry,
            trusted: lane.rights.contains(Rights::TRUSTED) && lane.replies.is_none(),
            payload_bytes_max: lane.sizes.payload_bytes_max,
            workers_max: application.workers_max,
            wait_mode: application.wait,
        };
        let mut fds = vec![memory.segment_fd(), process.control.fd(), client_ring.as_fd()];
        fds.extend(replies_listen.as_ref().map(AsFd::as_fd));
        let sent = self.clients.send(asker, &opened, &fds, &mut self.timers);
        if let Err(error) = sent {
            self.cut_client(asker.client, &error.to_string());
        }
    }

    /// Timer: whether a lane that is being opened still waits for somebody, or one that was prepared still for its asker.
    pub(crate) fn opening_due(&mut self, key: ProcessKey, id: LaneId) {
        let lane = self.processes.get(key).and_then(|process| process.lanes.get(&id));
        match lane.map(|lane| lane.stage) {
            Some(LaneStage::Opening(_)) => self.open_if_attached(key, id),
            Some(LaneStage::Prepared(end)) if end <= clock::now() => self.close_lane(key, id),
            _ => {}
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

    /// The owner of a lane is gone or done with it.
    pub(crate) fn close_lane(&mut self, key: ProcessKey, id: LaneId) {
        let Some(lane) = self.processes.get_mut(key).and_then(|process| process.lanes.get_mut(&id)) else { return };
        lane.stage = LaneStage::Closing;
        lane.memory = None;
        let owner = lane.owner;
        if let Some(lanes) = self.lanes_of(owner) {
            lanes.remove(&id);
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
}
