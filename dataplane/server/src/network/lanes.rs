//! The lanes of a shard: one for each token and process, of which the shard is the only client. Calls of all connections
//! with that token share it.
//!
//! Invariants:
//! 1. `busy_lanes` names each lane with calls in flight once (and possibly some without).
//! 2. A lane that is lost, or whose process has ended, leaves `by_process`: handles to it stay and say so, and the next OPEN
//!    makes another. It never opens again.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use praas_protocol::control::{ClientMessage, ClientRequest, ControlError, LaneGeometry, LaneId};
use praas_protocol::{FunctionId, Name, Outcome, Phase, ProcessId, SessionId};
use praas_shm::client_lane::{ClientLane, ClientLaneParts, Retracted, Ticket};
use praas_sys::driver::SourceId;

use super::calls::NotRun;
use super::connection::ConnectionKey;
use super::control_session::{Question, SessionKey};
use super::questions::Opener;
use super::reply_room::ReplyRoom;
use super::set_aside::SetAside;
use super::shard::NetworkShard;
use super::sources::Source;
use super::table::Key;
use super::timers::Timer;
use crate::limits::{LANE_CALLS, LANE_LINGER};

/// What leads to a lane: its token's session, its process, and in whose name its calls are.
pub(super) type LaneIndex = (SessionKey, ProcessId, Option<Name>);

/// Names a lane of one shard.
pub(super) type LaneKey = Key<LaneRoom>;

/// A call in flight.
#[derive(Debug)]
pub(super) struct Flight {
    /// Grows with each call of the lane.
    pub(super) number: u64,
    pub(super) ticket: Ticket,
    pub(super) connection: ConnectionKey,
    pub(super) request_id: u64,
    pub(super) function: FunctionId,
    /// Set aside for its reply.
    pub(super) reply_bytes: u64,
}

/// How far a lane has come.
#[derive(Debug)]
pub(super) enum LaneState {
    /// The server was asked for it; these wait.
    Opening(Vec<Opener>),
    /// It takes calls.
    Open(OpenLane),
    /// It is lost.
    Closed,
}

/// A lane that takes calls.
#[derive(Debug)]
pub(super) struct OpenLane {
    pub(super) lane: Arc<ClientLane>,
    pub(super) id: LaneId,
    pub(super) workers_max: u32,
    pub(super) cells: u32,
    pub(super) replies: ReplyRoom,
    pub(super) bell: Option<SourceId>,
    /// Set by the lane when the server is to be rung.
    pub(super) rings_server: Arc<AtomicBool>,
    /// The bell as it was before the last look that left nothing out.
    pub(super) seen: Option<u32>,
    pub(super) armed: bool,
}

impl OpenLane {
    /// Whether the reply of one more call will find room, with so many bytes owed to its connection already.
    #[cold]
    pub(super) fn takes_reply(&self, bytes: u64, owed_bytes: u64) -> bool {
        self.replies.shares(bytes, owed_bytes) && self.replies.takes(bytes, self.lane.kept_reply_bytes())
    }
}

/// A lane, what is in flight in it, and who wants in.
#[derive(Debug)]
pub(super) struct LaneRoom {
    pub(super) session: SessionKey,
    pub(super) process: ProcessId,
    /// In whose name its calls are, if in that of a process of another server.
    on_behalf: Option<Name>,
    /// The client's session that it leads to, if it does not lead to the process.
    leads_to: Option<SessionId>,
    pub(super) state: LaneState,
    /// In the order of their numbers.
    pub(super) flights: VecDeque<Flight>,
    pub(super) next_flight: u64,
    pub(super) is_busy: bool,
    /// Whether calls were submitted that no worker was summoned for yet.
    pub(super) is_unannounced: bool,
    /// Connections whose call, payload and all, waits to be published, in order. They go first: their payloads take the
    /// room that the others wait for.
    pub(super) loaded: VecDeque<ConnectionKey>,
    /// Connections whose call waits for room, in order.
    pub(super) queue: VecDeque<ConnectionKey>,
    /// Calls of other servers that wait, in order.
    pub(super) aside: VecDeque<SetAside>,
    pub(super) is_pressed: bool,
    /// Handles that lead here.
    pub(super) users: u32,
    unused_since: Instant,
    lingers: bool,
}

impl LaneRoom {
    /// Calls that hold a cell, and how many could.
    pub(super) fn calls_in_use(&self) -> (u64, u64) {
        match &self.state {
            LaneState::Open(open) => (open.lane.in_flight() as u64, open.cells.into()),
            _ => (0, 0),
        }
    }

    /// Abandoned calls that are not answered yet; what the others held is free from here on.
    pub(super) fn quarantined(&self) -> usize {
        match &self.state {
            LaneState::Open(open) => open.lane.quarantined(),
            _ => 0,
        }
    }

    fn new(session: SessionKey, process: ProcessId, on_behalf: Option<Name>, now: Instant) -> Self {
        Self {
            session,
            process,
            on_behalf,
            leads_to: None,
            state: LaneState::Opening(Vec::new()),
            flights: VecDeque::new(),
            next_flight: 0,
            is_busy: false,
            is_unannounced: false,
            loaded: VecDeque::new(),
            queue: VecDeque::new(),
            aside: VecDeque::new(),
            is_pressed: false,
            users: 0,
            unused_since: now,
            lingers: true,
        }
    }

    fn index(&self) -> LaneIndex {
        (self.session, self.process, self.on_behalf)
    }

    /// Whether an OPEN may be answered with this lane.
    fn is_usable(&self) -> bool {
        match &self.state {
            LaneState::Opening(_) => true,
            LaneState::Open(open) => !open.lane.is_lost() && open.lane.phase() != Phase::Closed,
            LaneState::Closed => false,
        }
    }
}

/// A lane as the server's loop hands it out.
#[derive(Debug)]
pub(super) struct HandedOut {
    pub(super) id: LaneId,
    pub(super) geometry: LaneGeometry,
    pub(super) trusted: bool,
    pub(super) payload_bytes_max: u32,
    pub(super) workers_max: u32,
    /// Segment, control page, doorbell, reply doorbell.
    pub(super) descriptors: [OwnedFd; 4],
}

impl NetworkShard {
    /// The lane to a process, asked for if there is none.
    pub(super) fn lane_to(
        &mut self,
        session: SessionKey,
        process: ProcessId,
        on_behalf: Option<Name>,
    ) -> Result<LaneKey, ControlError> {
        let index = (session, process, on_behalf);
        if let Some(key) = self.by_process.get(&index).copied() {
            if self.lanes.get(key).is_some_and(LaneRoom::is_usable) {
                return Ok(key);
            }
            self.by_process.remove(&index);
        }
        let key = self.lanes.insert(LaneRoom::new(session, process, on_behalf, self.now));
        let wish =
            ClientRequest::LaneOpen { process, payload_bytes_max: None, calls_in_flight: Some(LANE_CALLS), on_behalf };
        if let Err(error) = self.ask_session(session, Question::Lane(key), wish) {
            self.lanes.remove(key);
            return Err(error);
        }
        self.by_process.insert(index, key);
        self.timers.at(self.now + LANE_LINGER, Timer::Lane(key));
        Ok(key)
    }

    /// A lane to a client's session, of one handle: it goes with that, and nobody else is given it.
    pub(super) fn session_lane(
        &mut self,
        control: SessionKey,
        process: ProcessId,
        session: SessionId,
        handed_out: HandedOut,
    ) -> Result<LaneKey, ControlError> {
        let room = LaneRoom { leads_to: Some(session), ..LaneRoom::new(control, process, None, self.now) };
        let key = self.lanes.insert(room);
        match self.attach(key, handed_out) {
            Ok(open) => {
                self.counters.lane_opened();
                if let Some(room) = self.lanes.get_mut(key) {
                    room.state = LaneState::Open(open);
                }
                Ok(key)
            }
            Err(error) => {
                self.lanes.remove(key);
                Err(error)
            }
        }
    }

    /// Ends a lane to a session that no handle leads to.
    pub(super) fn close_unused_session_lane(&mut self, key: LaneKey) {
        if self.lanes.get(key).is_some_and(|room| room.users == 0 && room.leads_to.is_some()) {
            self.close_lane(key);
        }
    }

    /// Whether a control session has lanes to clients' sessions.
    pub(super) fn has_session_lanes(&self, session: SessionKey) -> bool {
        let lanes = self.lanes.keys().into_iter().filter_map(|key| self.lanes.get(key));
        lanes.filter(|room| room.leads_to.is_some()).any(|room| room.session == session)
    }

    /// The server's loop has made a lane.
    pub(super) fn lane_opened(&mut self, key: LaneKey, handed_out: HandedOut) {
        let Some(room) = self.lanes.get_mut(key) else { return };
        let session = room.session;
        let (id, process) = (handed_out.id, room.process);
        match self.attach(key, handed_out) {
            Ok(open) => {
                let Some(room) = self.lanes.get_mut(key) else { return };
                self.counters.lane_opened();
                if let LaneState::Opening(openers) = std::mem::replace(&mut room.state, LaneState::Open(open)) {
                    for opener in openers {
                        self.give_handle(&opener, key);
                    }
                }
            }
            Err(error) => {
                self.tell_session(session, &ClientMessage::LaneClose { lane: id, process });
                self.lane_refused(key, &error);
            }
        }
    }

    fn attach(&mut self, key: LaneKey, handed_out: HandedOut) -> Result<OpenLane, ControlError> {
        let host = |reason: String| ControlError::Host { what: "attaching a lane".into(), reason };
        let [segment, control, doorbell, reply_doorbell] = handed_out.descriptors;
        let rings_server = Arc::new(AtomicBool::new(false));
        let rings = Arc::clone(&rings_server);
        let lane = ClientLane::attach_for_reactor(ClientLaneParts {
            lane: handed_out.id,
            geometry: handed_out.geometry,
            trusted: handed_out.trusted,
            payload_bytes_max: handed_out.payload_bytes_max,
            workers_max: handed_out.workers_max,
            segment,
            control,
            doorbell,
            ring_server: Box::new(move || rings.store(true, Ordering::Relaxed)),
        });
        let lane = lane.map_err(|error| host(error.to_string()))?;
        let bell = self.driver.watch(reply_doorbell, Source::Bell(key).token());
        let bell = bell.map_err(|refused| host(refused.refusal.to_string()))?;
        Ok(OpenLane {
            lane: Arc::new(lane),
            id: handed_out.id,
            workers_max: handed_out.workers_max,
            cells: handed_out.geometry.cells,
            replies: ReplyRoom::new(handed_out.geometry.reply_arena_bytes),
            bell: Some(bell),
            rings_server,
            seen: None,
            armed: false,
        })
    }

    /// The server's loop makes no lane.
    pub(super) fn lane_refused(&mut self, key: LaneKey, error: &ControlError) {
        let Some(room) = self.lanes.get_mut(key) else { return };
        let (index, state) = (room.index(), std::mem::replace(&mut room.state, LaneState::Closed));
        if self.by_process.get(&index) == Some(&key) {
            self.by_process.remove(&index);
        }
        if let LaneState::Opening(openers) = state {
            for opener in openers {
                self.refuse(opener.connection, opener.request_id, error);
            }
        }
        self.refuse_waiting(key, NotRun::for_refusal(error));
        self.lanes.remove(key);
    }

    /// Whether calls can go by a lane, now or when it is open.
    pub(super) fn is_usable_lane(&self, key: LaneKey) -> bool {
        self.lanes.get(key).is_some_and(LaneRoom::is_usable)
    }

    /// A handle to a lane is gone.
    pub(super) fn leave_lane(&mut self, key: LaneKey) {
        let Some(room) = self.lanes.get_mut(key) else { return };
        room.users -= 1;
        if room.users == 0 {
            if room.leads_to.is_some() {
                return self.close_lane(key);
            }
            room.unused_since = self.now;
            if !std::mem::replace(&mut room.lingers, true) {
                self.timers.at(self.now + LANE_LINGER, Timer::Lane(key));
            }
        }
    }

    /// Timer: whether a lane is of use again. It goes when nobody has been using it for long.
    pub(super) fn lane_due(&mut self, key: LaneKey) {
        let Some(room) = self.lanes.get_mut(key) else { return };
        if room.users > 0 {
            room.lingers = false;
            return;
        }
        let is_opening = matches!(room.state, LaneState::Opening(_));
        if is_opening || !room.flights.is_empty() {
            room.unused_since = self.now;
        }
        let end = room.unused_since + LANE_LINGER;
        if end > self.now {
            return self.timers.at(end, Timer::Lane(key));
        }
        self.close_lane(key);
    }

    fn close_lane(&mut self, key: LaneKey) {
        let Some(room) = self.lanes.remove(key) else { return };
        let index = room.index();
        if self.by_process.get(&index) == Some(&key) {
            self.by_process.remove(&index);
        }
        if let LaneState::Open(open) = room.state {
            if let Some(bell) = open.bell {
                self.driver.close(bell);
            }
            self.counters.lane_closed();
            let (lane, process) = (open.id, room.process);
            let close = match room.leads_to {
                Some(session) => ClientMessage::SessionLeave { session, lane },
                None => ClientMessage::LaneClose { lane, process },
            };
            self.tell_session(room.session, &close);
        }
    }

    /// The control session of these lanes is gone, and the lanes with it.
    pub(super) fn lose_lanes_of(&mut self, session: SessionKey) {
        for key in self.lanes.keys() {
            if self.lanes.get(key).is_some_and(|room| room.session == session) {
                self.lose_lane(key);
            }
        }
    }

    fn lose_lane(&mut self, key: LaneKey) {
        let Some(room) = self.lanes.get_mut(key) else { return };
        let flights = std::mem::take(&mut room.flights);
        self.counters.flights_ended(flights.len());
        let index = room.index();
        if self.by_process.get(&index) == Some(&key) {
            self.by_process.remove(&index);
        }
        match std::mem::replace(&mut room.state, LaneState::Closed) {
            LaneState::Opening(openers) => {
                for opener in openers {
                    self.refuse(opener.connection, opener.request_id, &ControlError::ShuttingDown);
                }
            }
            LaneState::Open(open) => {
                self.counters.lane_closed();
                if let Some(bell) = open.bell {
                    self.driver.close(bell);
                }
                for flight in flights {
                    self.lose_flight(&open.lane, flight);
                }
                open.lane.mark_lost();
            }
            LaneState::Closed => {}
        }
    }

    fn lose_flight(&mut self, lane: &Arc<ClientLane>, flight: Flight) {
        let Flight { ticket, connection, request_id, .. } = flight;
        if lane.is_answered(&ticket) {
            let answer = lane.take(ticket);
            return self.deliver(connection, request_id, answer);
        }
        let not_run = match lane.retract(ticket) {
            Retracted::NeverRan { loan } => {
                if let Some(loan) = loan {
                    lane.return_loan(loan);
                }
                NotRun::unavailable(Phase::Closed)
            }
            Retracted::MayHaveRun => NotRun::new(Outcome::WorkerLost, 0, 0),
        };
        self.deliver_lost(connection, request_id, not_run);
    }
}
