//! Message lanes whose sender is gone: they stay with the receiver until they are drained, in this server and the next.
//!
//! A lane is drained without a word to the server, so lanes without a sender are looked at: soon at first, then ever less
//! often while nothing becomes of them, a bounded number at a time.

use std::os::fd::OwnedFd;
use std::time::Duration;

use praas_protocol::control::{MessageLaneSlot, WorkerCommand};
use praas_shm::message_lane::{ServerMessageLane, segment_bytes};
use praas_shm::segment::AttachError;

use super::{LaneName, LaneStage, LaneUse, MessageLane};
use crate::clock;
use crate::limits::{MESSAGE_LANE_LOOK_PERIOD, MESSAGE_LANE_LOOK_PERIOD_MAX, ORPHANS_LOOKED_AT_MAX};
use crate::processes::ProcessKey;
use crate::shard::Shard;
use crate::timers::Timer;
use crate::workers::Attachment;

impl MessageLane {
    pub(super) fn attached(&self) -> Result<ServerMessageLane, AttachError> {
        ServerMessageLane::attach(self.fd.try_clone()?, &self.geometry)
    }

    /// Whether nothing is left in it. One that was spoiled so that nobody can attach it is as good as empty.
    fn is_drained(&self) -> bool {
        match self.attached() {
            Ok(lane) => lane.is_drained(),
            Err(AttachError::System(_)) => false,
            Err(_) => true,
        }
    }

    /// Whether a worker that has the means can attach it.
    pub(super) fn can_be_attached(&self) -> bool {
        matches!(self.attached(), Ok(_) | Err(AttachError::System(_)))
    }
}

impl Shard {
    /// A lane has lost its sender.
    pub(super) fn orphan_message_lane(&mut self, key: ProcessKey, slot: MessageLaneSlot) {
        let lane = self.processes.get_mut(key).and_then(|process| process.inbound.get_mut(&slot));
        if let Some(lane) = lane.filter(|lane| lane.stage != LaneStage::Removing) {
            lane.stage = LaneStage::Orphaned;
            self.messages.orphans.push_back((key, slot, lane.serial));
            self.look_at_orphans_soon();
        }
    }

    /// The lanes that a dead worker, or a client that is gone, sent on have no sender any more.
    pub(crate) fn orphan_message_lanes(&mut self, lanes: impl IntoIterator<Item = (ProcessKey, MessageLaneSlot)>) {
        for (key, slot) in lanes {
            self.orphan_message_lane(key, slot);
        }
    }

    pub(super) fn look_at_orphans_soon(&mut self) {
        self.messages.look_period = MESSAGE_LANE_LOOK_PERIOD;
        self.look_at_orphans_within(MESSAGE_LANE_LOOK_PERIOD);
    }

    /// Sets a timer unless one comes by then. However often it is asked for, at most one more timer is pending a period than
    /// are needed, and one that is left over does nothing.
    fn look_at_orphans_within(&mut self, period: Duration) {
        let look = clock::now() + period;
        if !self.messages.orphans.is_empty() && self.messages.next_look.is_none_or(|next| next > look) {
            self.messages.next_look = Some(look);
            self.timers.at(look, Timer::OrphanedLanes);
        }
    }

    /// Timer: removes the lanes without a sender in which nothing is left.
    pub(crate) fn look_at_orphaned_lanes(&mut self) {
        if self.messages.next_look.is_none_or(|next| next > clock::now()) {
            return;
        }
        self.messages.next_look = None;
        let mut found = false;
        for _ in 0..self.messages.orphans.len().min(ORPHANS_LOOKED_AT_MAX) {
            let Some((key, slot, serial)) = self.messages.orphans.pop_front() else { break };
            let lane = self.processes.get(key).and_then(|process| process.inbound.get(&slot));
            let Some(lane) = lane.filter(|lane| lane.serial == serial && lane.stage == LaneStage::Orphaned) else {
                continue;
            };
            if lane.is_drained() {
                found = true;
                self.remove_message_lane(key, slot);
            } else {
                self.messages.orphans.push_back((key, slot, serial));
            }
        }
        let messages = &mut self.messages;
        let longer = messages.look_period.saturating_mul(2).min(MESSAGE_LANE_LOOK_PERIOD_MAX);
        messages.look_period = if found { MESSAGE_LANE_LOOK_PERIOD } else { longer };
        let period = messages.look_period;
        self.look_at_orphans_within(period);
    }

    /// Has the receivers forget a lane in which nothing is left.
    pub(super) fn remove_message_lane(&mut self, key: ProcessKey, slot: MessageLaneSlot) {
        let lane = self.processes.get_mut(key).and_then(|process| process.inbound.get_mut(&slot));
        let Some(lane) = lane.filter(|lane| lane.stage != LaneStage::Removing) else { return };
        if let LaneStage::Open(sender) = std::mem::replace(&mut lane.stage, LaneStage::Removing) {
            let serial = lane.serial;
            self.end_outbound(sender, serial);
        }
        for worker in self.worker_keys(key) {
            let attachment = self.workers.get_mut(&worker).and_then(|worker| worker.inbound.get_mut(&slot));
            if let Some(attachment) = attachment {
                *attachment = Attachment::Removing;
                self.command_worker(worker, &WorkerCommand::InboundLaneRemove { slot }, &[]);
            }
        }
        self.forget_message_lane_if_detached(key, slot);
    }

    /// Frees place and budget of a removed lane that no worker maps.
    pub(super) fn forget_message_lane_if_detached(&mut self, key: ProcessKey, slot: MessageLaneSlot) {
        if self.workers_of(key).any(|(_, worker)| worker.inbound.contains_key(&slot)) {
            return;
        }
        let Some(process) = self.processes.get_mut(key) else { return };
        if process.inbound.get(&slot).is_some_and(|lane| lane.stage == LaneStage::Removing)
            && let Some(lane) = process.inbound.remove(&slot)
        {
            self.metrics.message_lanes_removed += 1;
            self.forget_kept([lane.kept_name]);
        }
    }

    /// Frees every removed lane that only a dead worker still mapped.
    pub(crate) fn forget_detached_message_lanes(
        &mut self,
        key: ProcessKey,
        slots: impl IntoIterator<Item = MessageLaneSlot>,
    ) {
        for slot in slots {
            self.forget_message_lane_if_detached(key, slot);
        }
    }

    /// Takes over the lanes that an earlier server left into the mailbox of a process, which has no workers yet. Gives back
    /// the names of those that cannot be used; the keeper goes on holding them.
    pub(crate) fn adopt_message_lanes(&mut self, key: ProcessKey, left: Vec<LaneName>) -> Vec<String> {
        let mut unusable = Vec::new();
        for name in left {
            self.messages.next_serial = self.messages.next_serial.max(name.serial.saturating_add(1));
            let kept_name = name.to_string();
            match self.adopt_message_lane(key, &name) {
                Ok(()) => drop(self.keeping.claim(&kept_name)),
                Err(reason) => {
                    let (process, source) = (name.process, name.source);
                    self.log.error(format_args!("messages of {source} to {process} cannot be brought back: {reason}"));
                    unusable.push(kept_name);
                }
            }
        }
        unusable
    }

    fn adopt_message_lane(&mut self, key: ProcessKey, name: &LaneName) -> Result<(), String> {
        let kept_name = name.to_string();
        let held = self.keeping.held(&kept_name).ok_or("the keeper does not hold them")?;
        let copy = |fd: &OwnedFd| fd.try_clone().map_err(|error| error.to_string());
        let (fd, lane) = (copy(held)?, ServerMessageLane::attach(copy(held)?, &name.geometry));
        drop(lane.map_err(|error| error.to_string())?);
        let bytes = segment_bytes(&name.geometry).map_err(|error| error.to_string())?;
        let process = self.processes.get_mut(key).ok_or("the process is gone")?;
        if usize::from(name.slot.0) >= praas_protocol::limits::MESSAGE_LANES_MAX
            || process.inbound.contains_key(&name.slot)
        {
            return Err(format!("another lane has the place {}", name.slot.0));
        }
        let lane = MessageLane {
            serial: name.serial,
            source: name.source,
            incarnation: name.source_incarnation,
            geometry: name.geometry,
            repeats: name.repeats,
            payload_bytes_max: 0,
            fd,
            kept_name,
            is_kept: true,
            stage: LaneStage::Orphaned,
            _use: LaneUse {
                _of_host: self.budget.charge_in_use(bytes as u64),
                _lane: self.messages.lanes.add(),
                _by_sender: None,
            },
        };
        process.inbound.insert(name.slot, lane);
        self.messages.orphans.push_back((key, name.slot, name.serial));
        self.look_at_orphans_soon();
        Ok(())
    }

    /// The keeper that held them is gone.
    pub(crate) fn message_lanes_are_not_kept(&mut self) {
        let lanes = self.processes.entries.values_mut().flat_map(|process| process.inbound.values_mut());
        lanes.for_each(|lane| lane.is_kept = false);
    }

    /// Every lane, for a keeper that begins anew.
    pub(crate) fn message_lane_places(&self) -> Vec<(ProcessKey, MessageLaneSlot, u64)> {
        let of = |(key, process): (&ProcessKey, &crate::processes::Process)| {
            let key = *key;
            process.inbound.iter().map(move |(slot, lane)| (key, *slot, lane.serial)).collect::<Vec<_>>()
        };
        self.processes.entries.iter().flat_map(of).collect()
    }
}
