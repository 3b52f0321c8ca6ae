//! Brokering of message lanes: admission, creation, keeping, telling the receivers, handing over to the sender, and the end.
//!
//! A message lane leads from one worker to the mailbox of one process of the same application, and is a part of that mailbox:
//! it is entered with the process that receives, held by the keeper, and outlives its sender and this server. For processes of
//! other hosts, and for sessions, the server's own network side sends, as a client of this loop; what it sends may come another
//! way as well, so such a lane *repeats* (`praas_shm::mailbox`).
//!
//! 1. A lane is charged to the host's budget with all that it may take, before it is created, until it is removed. It counts
//!    also as use of the host by the process whose worker asked, or the network session that did: none can take what all need.
//! 2. The sender gets a lane when the keeper holds it and every ready worker of the receiver has attached it. One that runs
//!    a call has [`MESSAGE_LANE_BUSY_MAX`] for it, because it attaches when it next looks at its messages; and nobody makes a
//!    sender wait for longer than [`MESSAGE_LANE_IDLE_MAX`]. The order of messages does not depend on it: a worker takes
//!    nothing from any lane while it has not heard of all that it was told of (`praas_shm::mailbox`).
//! 3. A worker that starts is told of all inbound lanes before it is given lanes that bring calls.
//! 4. A slot is used again only after every worker has forgotten the lane that had it, and after the keeper was told to let
//!    go of it. With its serial it tells a lane from all others of that process, in every server.
//! 5. Nothing that was published is lost while the process lives: a lane without a sender stays until it is drained
//!    (`orphans.rs`).
//!
//! The server maps a lane only to make it and to see whether it is drained. What stands in it decides about nothing else.

mod name;
mod opening;
mod orphans;
mod returned;
mod tally;

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use praas_protocol::Address;
use praas_protocol::control::{ControlError, MessageLaneGeometry, MessageLaneSlot, ServerMessage, WorkerCommand};
use praas_shm::mail_bell::MailBell;
use praas_shm::mailbox::InboundLane;

pub(crate) use self::name::LaneName;
pub(crate) use self::opening::MessageLaneWish;
use self::tally::{Counted, Tally};
use crate::budget::{Budget, Charge};
use crate::clock;
use crate::lanes::{LaneAsker, LaneOwner};
use crate::limits::{MESSAGE_LANE_BUSY_MAX, MESSAGE_LANE_IDLE_MAX, MESSAGE_LANE_LOOK_PERIOD};
use crate::peer::{Peer, PeerError};
use crate::processes::ProcessKey;
use crate::shard::Shard;
use crate::swap::Waiter;
use crate::workers::{Attachment, Worker, WorkerKey};

/// How far a message lane has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LaneStage {
    /// Keeper and receivers take it; the sender waits.
    Opening { asker: LaneAsker, since: Instant },
    /// The sender has it.
    Open(LaneOwner),
    /// Nobody sends any more.
    Orphaned,
    /// It is drained; the receivers forget it.
    Removing,
}

/// A message lane, in the table of the process that it leads to.
#[derive(Debug)]
pub(crate) struct MessageLane {
    serial: u64,
    source: Address,
    /// Which life of the source.
    incarnation: u64,
    geometry: MessageLaneGeometry,
    /// Whether what lies in it may have come another way, too.
    repeats: bool,
    /// Largest message in bytes.
    payload_bytes_max: u32,
    fd: OwnedFd,
    kept_name: String,
    /// Whether the keeper has said so.
    is_kept: bool,
    stage: LaneStage,
    _use: LaneUse,
}

/// Where the lanes that a worker or network session sends messages on are entered, by their numbers.
pub(crate) type OutboundPlaces = BTreeMap<u64, (ProcessKey, MessageLaneSlot)>;

/// What a lane takes of what is limited; given back with the lane.
#[derive(Debug)]
struct LaneUse {
    _of_host: Charge,
    _lane: Counted,
    /// Of the process or network session that sends; none for a lane of an earlier server.
    _by_sender: Option<(Charge, Counted)>,
}

/// What the workers of one process, or one network session, take of the host for lanes that they send on.
#[derive(Debug)]
pub(crate) struct Sending {
    bytes: Budget,
    lanes: Tally,
}

/// What all message lanes share.
#[derive(Debug)]
pub(crate) struct MessageLanes {
    next_serial: u64,
    lanes: Tally,
    /// Lanes without a sender, the one looked at longest ago first.
    orphans: VecDeque<(ProcessKey, MessageLaneSlot, u64)>,
    /// Until they are looked at again.
    look_period: Duration,
    /// When that is; none when nobody needs to look. Timers are never taken back, so one that comes before this is left over.
    next_look: Option<Instant>,
}

impl Default for MessageLanes {
    fn default() -> Self {
        Self {
            // Above those of all earlier servers, which counted on from their own start.
            // Higher than the numbers of an earlier server.
            next_serial: clock::unix_time_ns(),
            lanes: Tally::default(),
            orphans: VecDeque::new(),
            look_period: MESSAGE_LANE_LOOK_PERIOD,
            next_look: None,
        }
    }
}

impl LaneStage {
    /// Who sends, or will.
    fn sender(self) -> Option<LaneOwner> {
        match self {
            Self::Opening { asker, .. } => Some(asker.owner()),
            Self::Open(owner) => Some(owner),
            Self::Orphaned | Self::Removing => None,
        }
    }
}

impl MessageLane {
    /// Whether receivers are to attach it.
    pub(crate) fn is_served(&self) -> bool {
        self.stage != LaneStage::Removing
    }

    /// Whether its sender is still to get it.
    pub(crate) fn is_opening(&self) -> bool {
        matches!(self.stage, LaneStage::Opening { .. })
    }

    /// What the keeper holds of it.
    pub(crate) fn kept_part(&self) -> (String, std::os::fd::BorrowedFd<'_>) {
        (self.kept_name.clone(), self.fd.as_fd())
    }

    pub(crate) fn serial(&self) -> u64 {
        self.serial
    }

    /// Tells a worker of the receiver of the lane.
    pub(crate) fn announce(&self, slot: MessageLaneSlot, peer: &mut Peer) -> Result<(), PeerError> {
        let Self { serial, geometry, source, incarnation, repeats, .. } = *self;
        let add = WorkerCommand::InboundLaneAdd { slot, serial, geometry, source, incarnation, repeats };
        peer.send(&add, &[self.fd.as_fd()])
    }

    /// Whether the answer of this worker has to be waited for.
    fn awaits(&self, slot: MessageLaneSlot, worker: &Worker) -> bool {
        let LaneStage::Opening { since, .. } = self.stage else { return false };
        let is_attached = worker.inbound.get(&slot) == Some(&Attachment::Attached);
        let is_busy = worker.page.claims().next().is_some();
        let patience = if is_busy { MESSAGE_LANE_BUSY_MAX } else { MESSAGE_LANE_IDLE_MAX };
        worker.is_ready() && !is_attached && clock::since(since) < patience
    }
}

impl Shard {
    /// The bell of a process, made at its first use.
    pub(crate) fn ensure_bell(&mut self, key: ProcessKey) -> Result<(), ControlError> {
        let Some(process) = self.processes.get_mut(key) else { return Ok(()) };
        if process.bell.is_none() {
            process.bell = Some(MailBell::create().map_err(|error| host("creating a mail bell", &error))?);
        }
        Ok(())
    }

    /// Makes the workers of a process that wait for messages look at everything again.
    pub(crate) fn ring_mail_bell(&self, key: ProcessKey) {
        if let Some(bell) = self.processes.get(key).and_then(|process| process.bell.as_ref()) {
            bell.ring();
        }
    }

    /// A worker says that it has an inbound lane, or why not.
    pub(crate) fn inbound_lane_attached(
        &mut self,
        worker_key: WorkerKey,
        slot: MessageLaneSlot,
        error: Option<String>,
    ) -> Result<(), String> {
        let Some(worker) = self.workers.get_mut(&worker_key) else { return Ok(()) };
        let key = worker.process;
        match worker.inbound.get_mut(&slot) {
            Some(attachment @ Attachment::Adding) => *attachment = Attachment::Attached,
            Some(Attachment::Removing) => return Ok(()),
            _ => return Err(format!("it attached message lane {}, which it was not given", slot.0)),
        }
        let Some(error) = error else {
            self.hand_over_message_lane(key, slot);
            return Ok(());
        };
        worker.inbound.remove(&slot);
        let lane = self.processes.get_mut(key).and_then(|process| process.inbound.get_mut(&slot));
        let Some(lane) = lane else { return Ok(()) };
        match lane.stage {
            LaneStage::Opening { .. } => {
                self.refuse_opening(key, slot, host("attaching the message lane in a worker", &error));
                Ok(())
            }
            // Whoever sends can spoil it so that nobody can attach it; then there is nothing to lose in it.
            _ if !lane.can_be_attached() => {
                self.log.warning(format_args!("a message lane of {} is given up: {error}", lane.source));
                self.remove_message_lane(key, slot);
                Ok(())
            }
            _ => Err(format!("it cannot attach message lane {}: {error}", slot.0)),
        }
    }

    /// A worker says that it has forgotten an inbound lane.
    pub(crate) fn inbound_lane_detached(&mut self, worker_key: WorkerKey, slot: MessageLaneSlot) -> Result<(), String> {
        let Some(worker) = self.workers.get_mut(&worker_key) else { return Ok(()) };
        if worker.inbound.get(&slot) != Some(&Attachment::Removing) {
            return Err(format!("it forgot message lane {}, which it was not told to", slot.0));
        }
        worker.inbound.remove(&slot);
        let key = worker.process;
        self.forget_message_lane_if_detached(key, slot);
        Ok(())
    }

    /// The keeper holds a lane.
    pub(crate) fn message_lane_is_kept(&mut self, key: ProcessKey, slot: MessageLaneSlot, serial: u64) {
        let lane = self.processes.get_mut(key).and_then(|process| process.inbound.get_mut(&slot));
        if let Some(lane) = lane.filter(|lane| lane.serial == serial) {
            lane.is_kept = true;
            self.hand_over_message_lane(key, slot);
        }
    }

    /// The keeper has no room for a lane. One that just begins is not opened; another goes on, and is lost with the server.
    pub(crate) fn message_lane_is_not_kept(
        &mut self,
        key: ProcessKey,
        slot: MessageLaneSlot,
        serial: u64,
        reason: &str,
    ) {
        let lane = self.processes.get(key).and_then(|process| process.inbound.get(&slot));
        let Some(lane) = lane.filter(|lane| lane.serial == serial) else { return };
        self.log.error(format_args!("the keeper does not hold a message lane of {}: {reason}", lane.source));
        self.refuse_opening(key, slot, host("having the keeper hold a message lane", &reason));
    }

    /// A sender sends nothing more on a lane that it opened. One that it has not got any more was closed from the other side.
    pub(crate) fn close_message_lane(&mut self, sender: LaneOwner, serial: u64) {
        if let Some((key, slot)) = self.outbound_of(sender).and_then(|outbound| outbound.remove(&serial)) {
            self.orphan_message_lane(key, slot);
        }
    }

    /// The lanes that somebody sends messages on, by their numbers.
    fn outbound_of(&mut self, sender: LaneOwner) -> Option<&mut OutboundPlaces> {
        match sender {
            LaneOwner::Worker(worker) => self.workers.get_mut(&worker).map(|worker| &mut worker.outbound),
            LaneOwner::Client(client) => self.clients.get_mut(client).map(|client| &mut client.outbound),
        }
    }

    /// Tells a sender that its lane leads nowhere any more.
    fn end_outbound(&mut self, sender: LaneOwner, serial: u64) {
        if let Some(outbound) = self.outbound_of(sender) {
            outbound.remove(&serial);
        }
        match sender {
            LaneOwner::Worker(worker) => {
                self.command_worker(worker, &WorkerCommand::MessageLaneGone { serial }, &[]);
            }
            LaneOwner::Client(client) => self.tell_client(client, &ServerMessage::MessageLaneGone { serial }),
        }
    }

    /// The lanes that lead to a process, for a thread that reads what lies in them; the error says why not.
    pub(crate) fn inbound_lanes(&self, key: ProcessKey) -> Result<Vec<InboundLane>, String> {
        let lanes = self.processes.get(key).map(|process| process.inbound.iter());
        let attach = |(slot, lane): (&MessageLaneSlot, &MessageLane)| {
            let memory = lane.attached().map_err(|error| format!("a message lane of {}: {error}", lane.source))?;
            let MessageLane { serial, source, repeats, .. } = *lane;
            Ok(InboundLane { slot: slot.0, serial, source, inbound: memory.inbound(), repeats })
        };
        lanes.into_iter().flatten().map(attach).collect()
    }

    /// The process that some lanes are being opened to sleeps: who asked for them waits until it is back.
    pub(crate) fn let_openers_wait(&mut self, key: ProcessKey) {
        let Some(process) = self.processes.get_mut(key) else { return };
        let (id, mut openers) = (process.id, Vec::new());
        for lane in process.inbound.values_mut() {
            if let LaneStage::Opening { asker, .. } = lane.stage {
                let MessageLane { source, incarnation, payload_bytes_max, repeats, .. } = *lane;
                let payload_bytes = payload_bytes_max;
                openers.push((
                    lane.serial,
                    MessageLaneWish { asker, to: id, source, incarnation, payload_bytes, repeats },
                ));
                lane.stage = LaneStage::Orphaned;
            }
        }
        for (serial, wish) in openers {
            if let Some(outbound) = self.outbound_of(wish.asker.owner()) {
                outbound.remove(&serial);
            }
            if let Err(error) = self.wait_for(id, Waiter::MessageLane(Box::new(wish))) {
                self.refuse_sender(wish.asker, error);
            }
        }
    }

    /// The lanes of a process end with it: whoever sends to it is told.
    pub(crate) fn end_message_lanes(&mut self, key: ProcessKey) {
        let Some(process) = self.processes.get_mut(key) else { return };
        let (id, lanes) = (process.id, std::mem::take(&mut process.inbound));
        let mut names = Vec::with_capacity(lanes.len());
        for lane in lanes.into_values() {
            names.push(lane.kept_name);
            match lane.stage {
                LaneStage::Opening { asker, .. } => {
                    if let Some(outbound) = self.outbound_of(asker.owner()) {
                        outbound.remove(&lane.serial);
                    }
                    self.refuse_sender(asker, ControlError::UnknownProcess { process: id });
                }
                LaneStage::Open(sender) => self.end_outbound(sender, lane.serial),
                LaneStage::Orphaned | LaneStage::Removing => {}
            }
        }
        if !names.is_empty() {
            self.forget_kept(names);
        }
    }
}

fn host(what: &str, error: &dyn std::fmt::Display) -> ControlError {
    ControlError::Host { what: what.into(), reason: error.to_string() }
}
