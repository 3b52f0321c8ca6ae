//! The loop of one network shard: a thread with its own driver, connections, lanes and control sessions. It shares nothing
//! with the others but the listening sockets.
//!
//! A turn: collect completions; act on each; timers; answers of lanes; calls that waited for room; then one send for each
//! connection that something was gathered for, and one summons for each lane that calls were submitted to. It sleeps in the
//! driver, with the bells of its lanes armed.
//!
//! Invariants:
//! 1. Everything that a turn does is bounded: completions by the driver, answers and packets by their limits, timers by
//!    theirs.
//! 2. Nothing here blocks but the driver's sleep, which ends with the next timer.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use praas_protocol::SessionId;
use praas_protocol::control::{LaneId, WaitMode};
use praas_shm::io_buffer::LaneBuffer;
use praas_sys::driver::{Completion, Driver, Outgoing, SourceId, Turn, WaitError};

use super::answers::Workers;
use super::connection::{Connection, ConnectionKey};
use super::control_session::{ControlSession, SessionKey};
use super::counters::Counters;
use super::gateways::{Gateway, GatewayKey};
use super::giving_way::GivingWay;
use super::lanes::{LaneIndex, LaneKey, LaneRoom};
use super::links::Links;
use super::outbound::{OutboundKey, OutboundRoom, Way};
use super::plan::Plan;
use super::polling::PollHistory;
use super::relay::{Letter, Mail, Relay};
use super::sessions::{PutFor, Room, Sender};
use super::sources::Source;
use super::table::Table;
use super::timers::{Timer, Timers};
use crate::limits::{LOOKS_PER_TURN, TIMERS_TURN_MAX};
use crate::log::Log;

/// Whether new connections and calls are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Course {
    Serving,
    /// What was taken is answered.
    Draining,
    /// What was answered is sent.
    Ending {
        /// Until then at the latest.
        until: Instant,
    },
}

/// Everything that one loop serves.
pub(super) struct NetworkShard {
    pub(super) plan: Arc<Plan>,
    pub(super) index: usize,
    pub(super) driver: Box<dyn Driver<LaneBuffer>>,
    pub(super) mail: Arc<Mail>,
    pub(super) relay: Relay,
    pub(super) counters: Arc<Counters>,
    pub(super) course: Course,
    /// The time of this turn.
    pub(super) now: Instant,
    pub(super) timers: Timers,
    pub(super) listeners: Vec<SourceId>,
    pub(super) accepts: bool,
    pub(super) connections: Table<Connection>,
    /// Connections that the driver has, those included that it is closing.
    pub(super) sockets: usize,
    pub(super) connections_max: usize,
    pub(super) sessions: Table<ControlSession>,
    pub(super) by_token: HashMap<Rc<str>, SessionKey>,
    pub(super) lost_sessions: Vec<SessionKey>,
    /// Sessions that have more to read than a turn takes.
    pub(super) stirred_again: Vec<SessionKey>,
    pub(super) lanes: Table<LaneRoom>,
    pub(super) by_process: HashMap<LaneIndex, LaneKey>,
    pub(super) busy_lanes: Vec<LaneKey>,
    pub(super) lanes_watched: bool,
    /// Lanes with calls that were submitted in this turn.
    pub(super) unannounced_lanes: Vec<LaneKey>,
    /// Lanes that calls wait for.
    pub(super) pressed_lanes: Vec<LaneKey>,
    pub(super) rooms_watched: bool,
    /// Message lanes that this shard sends on.
    pub(super) outbounds: Table<OutboundRoom>,
    pub(super) outbound_by_way: HashMap<Way, OutboundKey>,
    /// Those in which somebody waits for room.
    pub(super) pressed_outbounds: VecDeque<OutboundKey>,
    pub(super) outbounds_watched: bool,
    /// Connections to be looked at when this turn's sends go.
    pub(super) unsent: Vec<ConnectionKey>,
    pub(super) spare_messages: Vec<Outgoing<LaneBuffer>>,
    pub(super) scratch: Vec<u8>,
    pub(super) packet_buffer: Vec<u8>,
    pub(super) history: PollHistory,
    pub(super) gateways: Table<Gateway>,
    pub(super) gateways_by_lane: HashMap<LaneId, GatewayKey>,
    pub(super) gateways_watched: bool,
    /// Those that this loop looks at by itself.
    pub(super) warm_gateways: Vec<GatewayKey>,
    /// Those that were warm when the loop slept last: who is likely to call next.
    pub(super) recent_gateways: Vec<GatewayKey>,
    pub(super) giving_way: GivingWay,
    /// Those whose clients are to be rung.
    pub(super) owed_gateways: Vec<GatewayKey>,
    pub(super) session_rooms: HashMap<SessionId, Room>,
    /// By which sessions send to other servers, to which this shard has the link.
    pub(super) room_gateways: BTreeMap<(Sender, usize), GatewayKey>,
    /// Messages of sessions that are put by calls, by their numbers.
    pub(super) puts: HashMap<u64, PutFor>,
    /// The number of the last letter about a message of a session.
    pub(super) last_letter: u64,
    /// By which sessions of this server send.
    pub(super) own_token: Option<Rc<str>>,
    /// Of all shards.
    pub(super) mails: Arc<[Arc<Mail>]>,
    /// Connections to other servers.
    pub(super) links: Links,
}

/// What a shard is made of.
pub(super) struct ShardParts {
    pub(super) plan: Arc<Plan>,
    pub(super) index: usize,
    pub(super) driver: Box<dyn Driver<LaneBuffer>>,
    pub(super) mail: Arc<Mail>,
    /// Of all shards.
    pub(super) mails: Arc<[Arc<Mail>]>,
    pub(super) relay: Relay,
    pub(super) counters: Arc<Counters>,
    pub(super) listeners: Vec<SourceId>,
}

impl NetworkShard {
    pub(super) fn new(parts: ShardParts) -> Self {
        let ShardParts { plan, index, driver, mail, mails, relay, counters, listeners } = parts;
        let connections_max = plan.connections_max;
        Self {
            plan,
            index,
            driver,
            mail,
            relay,
            counters,
            course: Course::Serving,
            now: Instant::now(),
            timers: Timers::default(),
            listeners,
            accepts: true,
            connections: Table::default(),
            sockets: 0,
            connections_max,
            sessions: Table::default(),
            by_token: HashMap::new(),
            lost_sessions: Vec::new(),
            stirred_again: Vec::new(),
            lanes: Table::default(),
            by_process: HashMap::new(),
            busy_lanes: Vec::new(),
            lanes_watched: false,
            unannounced_lanes: Vec::new(),
            pressed_lanes: Vec::new(),
            rooms_watched: false,
            outbounds: Table::default(),
            outbound_by_way: HashMap::new(),
            pressed_outbounds: VecDeque::new(),
            outbounds_watched: false,
            unsent: Vec::new(),
            spare_messages: Vec::new(),
            scratch: Vec::new(),
            packet_buffer: Vec::new(),
            history: PollHistory::default(),
            gateways: Table::default(),
            gateways_by_lane: HashMap::new(),
            gateways_watched: false,
            warm_gateways: Vec::new(),
            recent_gateways: Vec::new(),
            giving_way: GivingWay::default(),
            owed_gateways: Vec::new(),
            session_rooms: HashMap::new(),
            room_gateways: BTreeMap::new(),
            puts: HashMap::new(),
            last_letter: 0,
            own_token: None,
            mails,
            links: Links::default(),
        }
    }

    pub(super) fn log(&self) -> Log {
        self.plan.log
    }

    /// Serves until told to end.
    pub(super) fn run(&mut self) -> Result<(), WaitError> {
        let mut completions = Vec::new();
        let mut turn = Turn::default();
        self.start_links();
        while !self.is_over() {
            turn = self.wait(turn, &mut completions)?;
            self.now = Instant::now();
            for completion in completions.drain(..) {
                self.act_on(completion);
            }
            if turn.woken {
                self.read_mail();
            }
            for session in std::mem::take(&mut self.stirred_again) {
                self.session_stirred(session);
            }
            self.fire_timers();
            self.give_way();
            for _ in 0..LOOKS_PER_TURN {
                if !self.answer_and_announce() || !self.has_answers() {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Takes the answers that are there, sends what there is, and summons workers for what was submitted; whether anything
    /// was. A worker on this core may take it over at once and give it back with answers.
    fn answer_and_announce(&mut self) -> bool {
        self.look_at_gateways();
        self.look_at_lanes();
        self.serve_waiting();
        self.look_for_room();
        self.forget_lost_sessions();
        self.announce_calls(Workers::Elsewhere);
        // What is on its way to somebody before what tells that something has arrived.
        self.send_to_peers();
        self.send_gathered();
        self.ring_gateways();
        self.announce_calls(Workers::All)
    }

    /// Sleeps until there is something to do, unless there is.
    fn wait(&mut self, last: Turn, completions: &mut Vec<Completion<LaneBuffer>>) -> Result<Turn, WaitError> {
        let has_more =
            last.more || !self.unsent.is_empty() || self.links.has_unsent() || !self.stirred_again.is_empty();
        let sleeps = !has_more && !self.polls() && self.arm_lanes() && self.park_gateways();
        let timeout = if sleeps { self.timers.wait(self.now) } else { Some(Duration::ZERO) };
        self.driver.wait(timeout, completions)
    }

    /// Polls as its wait mode says. False if the shard is to sleep.
    fn polls(&mut self) -> bool {
        match self.plan.wait {
            WaitMode::Park => false,
            WaitMode::Spin => {
                if !self.busy_lanes.is_empty() || !self.warm_gateways.is_empty() {
                    // The worker that was summoned or answered may be waiting for this very core.
                    std::thread::yield_now();
                }
                true
            }
            WaitMode::Adaptive => !self.busy_lanes.is_empty() && self.poll_for_a_while(),
        }
    }

    fn act_on(&mut self, completion: Completion<LaneBuffer>) {
        match completion {
            Completion::Accepted { socket, .. } => self.connection_came(socket),
            Completion::AcceptFailed { errno, .. } => self.accepting_failed(errno),
            Completion::Received { token, bytes } => {
                self.counters.received(bytes.len());
                match Source::of(token) {
                    Some(Source::Connection(key)) => self.bytes_came(key, &bytes),
                    Some(Source::Link(key)) => self.peer_bytes_came(key, &bytes),
                    _ => {}
                }
            }
            Completion::ReceiveEnded { token, end } => match Source::of(token) {
                Some(Source::Connection(key)) => self.peer_ended(key, end),
                Some(Source::Link(key)) => self.peer_has_ended(key, end),
                _ => {}
            },
            Completion::Filled { token, buffer, bytes, end } => {
                self.counters.received(bytes);
                match Source::of(token) {
                    Some(Source::Connection(key)) => self.block_filled(key, buffer, bytes, end),
                    Some(Source::Link(key)) => self.answer_filled(key, buffer, bytes, end),
                    _ => {}
                }
            }
            Completion::Sent { token, message, end, .. } => match Source::of(token) {
                Some(Source::Connection(key)) => self.sent(key, message, end),
                Some(Source::Link(key)) => self.sent_to_peer(key, message, end),
                _ => {}
            },
            Completion::Rang { token } | Completion::WatchEnded { token, .. } => match Source::of(token) {
                Some(Source::Bell(key)) => self.lane_rang(key),
                Some(Source::Gateway(key)) => self.gateway_rang(key),
                _ => {}
            },
            Completion::Closed { token } => self.socket_closed(token),
            Completion::Detached { token, socket } => {
                if let Some(Source::Connection(key)) = Source::of(token) {
                    self.detached(key, socket);
                }
            }
        }
    }

    fn read_mail(&mut self) {
        for letter in self.mail.take_letters() {
            self.read_letter(letter);
        }
        for session in self.mail.take_stirred() {
            self.session_stirred(session);
        }
        self.obey();
    }

    fn read_letter(&mut self, letter: Letter) {
        match letter {
            Letter::Gateway(parts) => self.gateway_came(*parts),
            Letter::GatewayRang(lane) => self.gateway_lane_rang(lane),
            Letter::GatewaySuperseded(lane) => self.gateway_is_superseded(lane),
            Letter::GatewayGone(lane) => self.gateway_went(lane),
            Letter::Session(parts) => self.session_came(*parts),
            Letter::SessionEnded(session) => self.session_ended(session),
            Letter::RoomSend(send) => self.room_send_came(*send),
            Letter::RoomAnswer(answer) => self.room_answered(*answer),
            Letter::Dialled(dialled) => self.dialled(dialled),
        }
    }

    fn fire_timers(&mut self) {
        for _ in 0..TIMERS_TURN_MAX {
            let Some(timer) = self.timers.take_due(self.now) else { return };
            match timer {
                Timer::Hello(key) => self.hello_due(key),
                Timer::Output(key) => self.output_due(key),
                Timer::Payload(key, request_id) => self.payload_due(key, request_id),
                Timer::Room(key, request_id) => self.room_due(key, request_id),
                Timer::Token(key) => self.token_ended(key),
                Timer::Farewell(key) => self.farewell_due(key),
                Timer::Accept => self.look_for_room_to_accept(),
                Timer::Lane(key) => self.lane_due(key),
                Timer::Session(key) => self.session_due(key),
                Timer::Lanes => self.lanes_due(),
                Timer::Rooms => self.rooms_due(),
                Timer::Outbound(key) => self.outbound_due(key),
                Timer::Outbounds => self.outbounds_due(),
                Timer::Gateways => self.gateways_due(),
                Timer::SessionRoom(session) => self.session_room_due(session),
                Timer::Dial(peer) => self.dial(peer),
                Timer::Greeting(peer, generation) => self.greeting_due(peer, generation),
                Timer::Pulse(peer, generation) => self.pulse_due(peer, generation),
                Timer::Parting(peer, generation) => self.parting_due(peer, generation),
                Timer::LinkCalls(peer) => self.link_calls_due(peer),
                Timer::KeptReplies(peer) => self.kept_replies_due(peer),
                Timer::WatchPeer(peer, after) => self.watch_peer_after(peer, after),
            }
        }
    }
}
