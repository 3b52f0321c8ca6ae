//! The opening of a message lane: who may have one, what it takes of the host, and when its sender gets it.
//!
//! Workers ask for lanes from their own process; the network side asks for lanes from processes of other hosts and from
//! sessions, with the rights of the token that it speaks for.

use std::os::fd::AsFd;

use praas_protocol::control::{
    ControlError, MessageLaneGeometry, MessageLaneSlot, ProcessState, ServerMessage, WorkerCommand,
};
use praas_protocol::limits::{LANES_PER_CLIENT_MAX, LANES_PER_WORKER_MAX, MESSAGE_LANES_MAX};
use praas_protocol::{Address, ProcessId};
use praas_shm::message_lane::{ServerMessageLane, geometry_for, segment_bytes};

use super::tally::Tally;
use super::{LaneName, LaneStage, LaneUse, MessageLane, Sending, host};
use crate::clock;
use crate::lanes::{LaneAsker, LaneOwner, limit};
use crate::limits::{
    KEEPER_FDS_MAX, LINK_SMALL_BYTES_MAX, MESSAGE_LANE_BUDGET_PARTS, MESSAGE_LANE_BUSY_MAX,
    MESSAGE_LANE_DESCRIPTOR_PARTS, MESSAGE_LANE_LOOK_PERIOD, MESSAGE_LANE_SENDER_PARTS, MESSAGE_LANES_OF_SESSIONS_MAX,
    MESSAGE_LANES_PER_DESTINATION_MAX, MESSAGE_LANES_PER_SOURCE_MAX, REFUSAL_REASON_BYTES_MAX,
    REMOTE_LANE_BUDGET_PARTS, REMOTE_LANE_FACTOR,
};
use crate::peer::PeerError;
use crate::processes::{ProcessKey, Stage};
use crate::shard::Shard;
use crate::swap::Waiter;
use crate::timers::Timer;
use crate::workers::{Attachment, WorkerKey, WorkerStage};

/// What somebody asks for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MessageLaneWish {
    pub(crate) asker: LaneAsker,
    /// Who receives.
    pub(crate) to: ProcessId,
    /// Who sends, and which life of it.
    pub(crate) source: Address,
    pub(crate) incarnation: u64,
    pub(crate) payload_bytes: u32,
    /// Whether what lies in it may have come another way, too.
    pub(crate) repeats: bool,
}

impl Shard {
    /// Opens a message lane for a worker, which is answered when keeper and receivers have it.
    pub(crate) fn open_message_lane_of_worker(
        &mut self,
        key: WorkerKey,
        request: u32,
        to: Address,
        payload_bytes: u32,
    ) {
        let wish = self.wish_of_worker(key, request, to, payload_bytes);
        if let Err(error) = wish.and_then(|wish| self.open_message_lane(&wish)) {
            self.refuse_worker(key, request, error);
        }
    }

    fn wish_of_worker(
        &self,
        key: WorkerKey,
        request: u32,
        to: Address,
        payload_bytes: u32,
    ) -> Result<MessageLaneWish, ControlError> {
        let worker = self.workers.get(&key).ok_or(ControlError::ShuttingDown)?;
        let sender = self.processes.get(worker.process).ok_or(ControlError::ShuttingDown)?;
        let Address::Process(process) = to else { return Err(ControlError::Elsewhere { to }) };
        let id = ProcessId { application: sender.id.application, process };
        // Local names win.
        let may_be_elsewhere = || self.elsewhere.find(id.application, &to).is_some() || self.elsewhere.is_learning();
        if !self.processes.has(&id) && may_be_elsewhere() {
            return Err(ControlError::Elsewhere { to });
        }
        Ok(MessageLaneWish {
            asker: LaneAsker::Worker(key, request),
            to: id,
            source: Address::from(sender.id),
            incarnation: sender.memory.as_ref().map_or(0, crate::process_memory::ProcessMemory::incarnation),
            payload_bytes,
            repeats: false,
        })
    }

    /// Tells who asked for a message lane that it does not get it.
    pub(crate) fn refuse_sender(&mut self, asker: LaneAsker, error: ControlError) {
        match asker {
            LaneAsker::Worker(worker, request) => self.refuse_worker(worker, request, error),
            LaneAsker::Client(asker) => self.answer_failed(asker, shortened(error)),
        }
    }

    /// Tells a worker that it does not get what it asked for.
    pub(crate) fn refuse_worker(&mut self, key: WorkerKey, request: u32, error: ControlError) {
        let error = match error {
            // Another server may have it, and has not said so yet.
            ControlError::UnknownProcess { process } if self.elsewhere.is_learning() => {
                ControlError::WrongState { process, state: ProcessState::Unreachable }
            }
            error => error,
        };
        self.command_worker(key, &WorkerCommand::Refused { request, error: shortened(error) }, &[]);
    }

    /// Opens a message lane; whoever asked is answered when keeper and receivers have it, or by an error of this.
    pub(crate) fn open_message_lane(&mut self, wish: &MessageLaneWish) -> Result<(), ControlError> {
        let MessageLaneWish { asker, to: id, source, incarnation, repeats, .. } = *wish;
        if self.is_away(&id) && !self.dozes(&id) {
            return self.wait_for(id, Waiter::MessageLane(Box::new(*wish)));
        }
        let key = self.receiver(&id)?;
        let receiver = self.processes.get(key).ok_or(ControlError::UnknownProcess { process: id })?;
        // What lies in a lane is in no log.
        if receiver.memory.as_ref().is_some_and(|memory| memory.objects.log().is_some()) {
            return Err(ControlError::Elsewhere { to: Address::from(id) });
        }
        let is_sessions = |source: &Address| matches!(source, Address::Client(_));
        let of_sessions = receiver.inbound.values().filter(|lane| is_sessions(&lane.source)).count();
        if is_sessions(&source) && of_sessions >= MESSAGE_LANES_OF_SESSIONS_MAX {
            // Some may have been drained since they were looked at last.
            self.look_at_orphans_soon();
            return Err(ControlError::Elsewhere { to: Address::from(id) });
        }
        let payload_limit = receiver.application.limits.payload_bytes_max;
        if wish.payload_bytes > payload_limit {
            return Err(ControlError::LimitReached {
                what: "bytes of a message".into(),
                used: 0,
                limit: payload_limit.into(),
                asked: wish.payload_bytes.into(),
                advice: "send less at a time, or raise limits.payload_bytes_max in praas.toml".into(),
            });
        }
        let slot = self.admit_message_lane(key, wish)?;
        let geometry = self.message_lane_geometry(wish);
        let bytes = segment_bytes(&geometry).map_err(|error| host("laying out a message lane", &error))?;
        let lane_use = self.charge_message_lane(asker.owner(), bytes as u64)?;
        self.ensure_bell(key)?;
        let lane = ServerMessageLane::create(geometry).map_err(|error| host("creating a message lane", &error))?;
        let fd = lane.fd().try_clone_to_owned().map_err(|error| host("creating a message lane", &error))?;
        let serial = self.messages.next_serial;
        self.messages.next_serial += 1;
        let process = self.processes.get_mut(key).ok_or(ControlError::UnknownProcess { process: id })?;
        let Some(memory) = &process.memory else { return Err(ControlError::UnknownProcess { process: id }) };
        let name = LaneName {
            process: id,
            incarnation: memory.incarnation(),
            slot,
            serial,
            geometry,
            source,
            source_incarnation: incarnation,
            repeats,
        };
        let lane = MessageLane {
            serial,
            source,
            incarnation,
            geometry,
            repeats,
            payload_bytes_max: wish.payload_bytes.max(geometry.arena_bytes / PAYLOADS_PER_ARENA).min(payload_limit),
            fd,
            kept_name: name.to_string(),
            is_kept: false,
            stage: LaneStage::Opening { asker, since: clock::now() },
            _use: lane_use,
        };
        process.inbound.insert(slot, lane);
        if let Some(outbound) = self.outbound_of(asker.owner()) {
            outbound.insert(serial, (key, slot));
        }
        self.keep_message_lane(key, slot, serial);
        self.announce_message_lane(key, slot);
        self.timers.after(MESSAGE_LANE_BUSY_MAX, Timer::MessageLane(key, slot.0));
        Ok(())
    }

    /// The sizes of a lane. One of another host has room for all large messages that may be on their way, while there is
    /// memory: one that finds no room has come for nothing.
    fn message_lane_geometry(&self, wish: &MessageLaneWish) -> MessageLaneGeometry {
        let roomy = geometry_for(wish.payload_bytes.saturating_mul(REMOTE_LANE_FACTOR));
        let is_free = |bytes: usize| self.budget.leaves_free(bytes as u64, REMOTE_LANE_BUDGET_PARTS);
        let is_large = wish.repeats && wish.payload_bytes > LINK_SMALL_BYTES_MAX;
        if is_large && segment_bytes(&roomy).is_ok_and(is_free) { roomy } else { geometry_for(wish.payload_bytes) }
    }

    /// The process of this id, if it can receive.
    fn receiver(&self, id: &ProcessId) -> Result<ProcessKey, ControlError> {
        let key = self.processes.key_of(id)?;
        let process = self.processes.get(key).ok_or(ControlError::UnknownProcess { process: *id })?;
        if process.broken.is_some() {
            return Err(ControlError::WorkersFailed { process: *id, reason: process.failure_words() });
        }
        match process.stage {
            Stage::Removing(_) | Stage::Ended => Err(ControlError::UnknownProcess { process: *id }),
            Stage::Creating(_) | Stage::Active(_) | Stage::Draining(_) | Stage::Swapping(_) => Ok(key),
        }
    }

    /// The place of one more lane into a mailbox, if sender, source and receiver may have one.
    fn admit_message_lane(&mut self, key: ProcessKey, wish: &MessageLaneWish) -> Result<MessageLaneSlot, ControlError> {
        let sender = wish.asker.owner();
        let (source, incarnation) = (wish.source, wish.incarnation);
        let opened = match sender {
            LaneOwner::Worker(worker) => {
                self.workers.get(&worker).map(|worker| worker.outbound.len() + worker.call_lanes.len())
            }
            LaneOwner::Client(client) => {
                self.clients.get(client).map(|client| client.outbound.len() + client.lanes.len())
            }
        };
        let (Some(opened), Some(process)) = (opened, self.processes.get(key)) else {
            return Err(ControlError::ShuttingDown);
        };
        let most = match sender {
            LaneOwner::Worker(_) => LANES_PER_WORKER_MAX,
            LaneOwner::Client(_) => LANES_PER_CLIENT_MAX,
        };
        limit("lanes of this sender", opened, most, "call and send to fewer processes from one worker or server")?;
        let is_parallel = |lane: &&MessageLane| {
            lane.stage.sender() == Some(sender) && lane.source == source && lane.incarnation == incarnation
        };
        let parallel = process.inbound.values().filter(is_parallel).count();
        let advice = "close the lane that was too small, or let the receiver receive";
        limit("lanes of this sender into one mailbox", parallel, MESSAGE_LANES_PER_DESTINATION_MAX, advice)?;
        let of_source = process.inbound.values().filter(|lane| lane.source == source).count();
        let advice = "let the receiver receive what earlier workers sent, or send through fewer workers";
        let of_source = limit("lanes of one source into one mailbox", of_source, MESSAGE_LANES_PER_SOURCE_MAX, advice);
        let advice = "let the receiver receive, or send through fewer workers";
        let all = limit("lanes into one mailbox", process.inbound.len(), MESSAGE_LANES_MAX, advice);
        let slots = (0..=u16::MAX).map(MessageLaneSlot).take(MESSAGE_LANES_MAX);
        let slot = slots.into_iter().find(|slot| !process.inbound.contains_key(slot));
        if let Err(error) = of_source.and(all) {
            // Some may have been drained since they were looked at last.
            self.look_at_orphans_soon();
            return Err(error);
        }
        let share = usize::try_from(self.open_files / MESSAGE_LANE_DESCRIPTOR_PARTS).unwrap_or(usize::MAX);
        let most = share.min(KEEPER_FDS_MAX / 2);
        limit("message lanes of this server", self.messages.lanes.count(), most, "raise the limit of open files")?;
        slot.ok_or(ControlError::ShuttingDown)
    }

    /// Charges a lane to the host, and to the process that sends.
    fn charge_message_lane(&mut self, sender: LaneOwner, bytes: u64) -> Result<LaneUse, ControlError> {
        let advice = "send smaller messages, let receivers receive";
        let of_host = self.budget.charge(bytes, advice)?;
        let found = match sender {
            LaneOwner::Worker(worker) => {
                let process = self.workers.get(&worker).map(|worker| worker.process);
                let process = process.and_then(|key| self.processes.get_mut(key));
                process.map(|process| (process.id.to_string(), &mut process.sending))
            }
            LaneOwner::Client(client) => {
                self.clients.get_mut(client).map(|client| ("one token".to_owned(), &mut client.sending))
            }
        };
        let budget = &self.budget;
        let (sender, sending) = found.ok_or(ControlError::ShuttingDown)?;
        let sending = sending
            .get_or_insert_with(|| Sending { bytes: budget.part(MESSAGE_LANE_BUDGET_PARTS), lanes: Tally::default() });
        let of_sender = sending.bytes.charge(bytes, advice).map_err(|error| match error {
            ControlError::LimitReached { used, limit, asked, .. } => ControlError::LimitReached {
                what: format!("bytes of message lanes that {sender} sends on"),
                used,
                limit,
                asked,
                advice: advice.into(),
            },
            other => other,
        })?;
        let share = self.open_files / MESSAGE_LANE_DESCRIPTOR_PARTS / MESSAGE_LANE_SENDER_PARTS;
        let share = usize::try_from(share).unwrap_or(usize::MAX).min(KEEPER_FDS_MAX / 4);
        limit("message lanes that this sender sends on", sending.lanes.count(), share, advice)?;
        let by_sender = Some((of_sender, sending.lanes.add()));
        Ok(LaneUse { _of_host: of_host, _lane: self.messages.lanes.add(), _by_sender: by_sender })
    }

    fn announce_message_lane(&mut self, key: ProcessKey, slot: MessageLaneSlot) {
        for worker_key in self.worker_keys(key) {
            let lane = self.processes.get(key).and_then(|process| process.inbound.get(&slot));
            let (Some(worker), Some(lane)) = (self.workers.get_mut(&worker_key), lane) else { continue };
            // One that is still starting gets every lane when it is introduced. One that is to end may have taken a call just
            // before.
            if !matches!(worker.stage, WorkerStage::Attaching | WorkerStage::Ready | WorkerStage::Leaving) {
                continue;
            }
            worker.inbound.insert(slot, Attachment::Adding);
            let was_queued = worker.peer.has_queued();
            let announced = lane.announce(slot, &mut worker.peer);
            worker.notify();
            match announced {
                Ok(()) | Err(PeerError::Closed) => {}
                Err(error) => worker.kill(error.to_string()),
            }
            if let Some(end) = worker.peer.stall_end().filter(|_| !was_queued) {
                self.timers.at(end, Timer::WorkerStall(worker_key));
            }
        }
        // One that waits for a message attaches the lane while it waits.
        self.ring_mail_bell(key);
    }

    /// Timer: whether a lane that is being opened can be handed over by now.
    pub(crate) fn message_lane_due(&mut self, key: ProcessKey, slot: MessageLaneSlot) {
        let lane = self.processes.get(key).and_then(|process| process.inbound.get(&slot));
        let Some(LaneStage::Opening { .. }) = lane.map(|lane| lane.stage) else { return };
        self.hand_over_message_lane(key, slot);
        // Its opener gives up some time; its end comes back here if it is not open then.
        self.timers.after(MESSAGE_LANE_LOOK_PERIOD, Timer::MessageLane(key, slot.0));
    }

    /// Hands a lane to its sender, if keeper and receivers have it.
    pub(crate) fn hand_over_message_lane(&mut self, key: ProcessKey, slot: MessageLaneSlot) {
        let Some(process) = self.processes.get(key) else { return };
        let Some(lane) = process.inbound.get(&slot) else { return };
        let LaneStage::Opening { asker, .. } = lane.stage else { return };
        let is_awaited = self.workers_of(key).any(|(_, worker)| lane.awaits(slot, worker));
        if !lane.is_kept || is_awaited || matches!(process.stage, Stage::Creating(_)) {
            return;
        }
        let Some(process) = self.processes.get_mut(key) else { return };
        let (Some(lane), Some(bell)) = (process.inbound.get_mut(&slot), &process.bell) else { return };
        lane.stage = LaneStage::Open(asker.owner());
        let MessageLane { serial, geometry, payload_bytes_max, .. } = *lane;
        let (sender, request) = match asker {
            LaneAsker::Worker(worker, request) => (worker, request),
            LaneAsker::Client(asker) => {
                self.metrics.message_lanes_opened += 1;
                let request = asker.request;
                let opened = ServerMessage::MessageLaneOpened { request, serial, geometry, payload_bytes_max };
                let sent = self.clients.send(asker, &opened, &[lane.fd.as_fd(), bell.fd()], &mut self.timers);
                if let Err(error) = sent {
                    self.cut_client(asker.client, &error.to_string());
                }
                return;
            }
        };
        let opened = WorkerCommand::MessageLaneOpened { request, serial, geometry, payload_bytes_max };
        let Some(worker) = self.workers.get_mut(&sender) else { return self.orphan_message_lane(key, slot) };
        self.metrics.message_lanes_opened += 1;
        let was_queued = worker.peer.has_queued();
        match worker.command(&opened, &[lane.fd.as_fd(), bell.fd()]) {
            // Its pidfd tells the rest.
            Ok(()) | Err(PeerError::Closed) => {}
            Err(error) => worker.kill(error.to_string()),
        }
        if let Some(end) = worker.peer.stall_end().filter(|_| !was_queued) {
            self.timers.at(end, Timer::WorkerStall(sender));
        }
    }

    /// Refuses a lane that is being opened, and takes it back.
    pub(super) fn refuse_opening(&mut self, key: ProcessKey, slot: MessageLaneSlot, error: ControlError) {
        let lane = self.processes.get(key).and_then(|process| process.inbound.get(&slot));
        let Some((serial, LaneStage::Opening { asker, .. })) = lane.map(|lane| (lane.serial, lane.stage)) else {
            return;
        };
        if let Some(outbound) = self.outbound_of(asker.owner()) {
            outbound.remove(&serial);
        }
        self.refuse_sender(asker, error);
        self.remove_message_lane(key, slot);
    }
}

/// Payloads of the largest size that the arena of a lane is made for.
const PAYLOADS_PER_ARENA: u32 = 4;

/// An error that fits the message by which a worker is told.
fn shortened(error: ControlError) -> ControlError {
    let cut = |mut text: String| {
        text.truncate(text.floor_char_boundary(REFUSAL_REASON_BYTES_MAX));
        text
    };
    match error {
        ControlError::WorkersFailed { process, reason } => ControlError::WorkersFailed { process, reason: cut(reason) },
        ControlError::Host { what, reason } => ControlError::Host { what: cut(what), reason: cut(reason) },
        other => other,
    }
}
