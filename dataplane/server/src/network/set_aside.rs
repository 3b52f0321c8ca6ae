//! Calls of other servers that wait for their lane: until it is open, or has room.
//!
//! An ordinary client's connection is not read while one of its calls waits ([`super::waiting`]). That of another server carries
//! the calls and messages of many processes, so a small call is set aside here, with its payload, and what comes behind it goes
//! on. The window of its connection bounds how many there are and how much they hold. Large ones keep up their connection, but
//! not for long: it carries nothing but large ones.
//!
//! Invariant: a lane with calls set aside is pressed, so that they are tried again in each turn.

use std::time::{Duration, Instant};

use praas_protocol::Outcome;
use praas_shm::client_lane::{LoanBlock, Payload};

use super::calls::{Asked, Begun, NotRun};
use super::connection::ConnectionKey;
use super::delivering::Delivery;
use super::lanes::{LaneKey, LaneRoom, LaneState};
use super::receiving::Flow;
use super::shard::NetworkShard;
use super::timers::Timer;
use crate::limits::{LINK_ROOM_WAIT_MAX, LINK_SMALL_BYTES_MAX, ROOM_LOOK_PERIOD, ROOM_WAIT_MAX};

/// A call that was set aside.
#[derive(Debug)]
pub(super) struct SetAside {
    connection: ConnectionKey,
    asked: Asked,
    payload: Held,
    end: Instant,
}

/// Its payload.
#[derive(Debug)]
enum Held {
    Bytes(Vec<u8>),
    /// It lies in the lane already.
    Loan(LoanBlock),
}

impl NetworkShard {
    /// Whether a call belongs to another server, and may go behind others of its connection.
    pub(super) fn may_be_set_aside(&mut self, key: ConnectionKey, asked: &Asked) -> bool {
        asked.payload_bytes <= LINK_SMALL_BYTES_MAX && self.is_of_link(key, asked)
    }

    fn is_of_link(&mut self, key: ConnectionKey, asked: &Asked) -> bool {
        let handle = self.connections.get_mut(key).and_then(|connection| connection.handle_mut(asked.handle));
        handle.is_some_and(|handle| handle.spoken.is_some())
    }

    /// How long a call may keep up its connection.
    pub(super) fn longest_wait(&mut self, key: ConnectionKey, asked: &Asked) -> Duration {
        if self.is_of_link(key, asked) { LINK_ROOM_WAIT_MAX } else { ROOM_WAIT_MAX }
    }

    /// Sets a call aside, with what has come of its payload.
    pub(super) fn set_aside(
        &mut self,
        key: ConnectionKey,
        asked: Asked,
        loan: Option<LoanBlock>,
        payload: &[u8],
    ) -> Flow {
        let payload = match loan {
            Some(loan) => Held::Loan(loan),
            None if payload.len() < asked.payload_bytes as usize => {
                if let Some(connection) = self.connections.get_mut(key) {
                    connection.delivery = Some(Box::new(Delivery::of_call(asked, payload)));
                }
                return Flow::GoOn;
            }
            None => Held::Bytes(payload.to_vec()),
        };
        self.push_aside(key, asked, payload);
        Flow::GoOn
    }

    /// The rest of a payload that was gathered has come.
    pub(super) fn gathered_aside(&mut self, key: ConnectionKey, asked: Asked, payload: Vec<u8>) {
        self.push_aside(key, asked, Held::Bytes(payload));
    }

    fn push_aside(&mut self, key: ConnectionKey, asked: Asked, payload: Held) {
        let end = asked.end(ROOM_WAIT_MAX);
        let Some(room) = self.lanes.get_mut(asked.lane) else {
            return self.answer_unrun(key, &asked, NotRun::unavailable(praas_protocol::Phase::Closed));
        };
        self.counters.wait_began();
        room.aside.push_back(SetAside { connection: key, asked, payload, end });
        if !std::mem::replace(&mut room.is_pressed, true) {
            self.pressed_lanes.push(asked.lane);
        }
        if !std::mem::replace(&mut self.rooms_watched, true) {
            self.timers.at(self.now + ROOM_LOOK_PERIOD, Timer::Rooms);
        }
    }

    /// Lets calls go that now find room; false if one does not.
    pub(super) fn serve_aside(&mut self, lane: LaneKey) -> bool {
        let waits = self.lanes.get(lane).map_or(0, |room| room.aside.len());
        for _ in 0..waits {
            let Some(call) = self.lanes.get_mut(lane).and_then(|room| room.aside.pop_front()) else { return true };
            let SetAside { connection, asked, payload, end } = call;
            if end <= self.now {
                self.refuse_aside(SetAside { connection, asked, payload, end }, None);
                continue;
            }
            let begun = match &payload {
                Held::Bytes(bytes) => self.submit(connection, &asked, Payload::Bytes(bytes)),
                Held::Loan(_) => {
                    let Held::Loan(loan) = payload else { continue };
                    match self.submit(connection, &asked, Payload::Loan(loan)) {
                        Begun::NoRoom(Some(loan)) => {
                            return self.put_aside_back(SetAside { connection, asked, payload: Held::Loan(loan), end });
                        }
                        _ => {
                            self.counters.wait_ended();
                            continue;
                        }
                    }
                }
            };
            match begun {
                Begun::Yes => self.counters.wait_ended(),
                Begun::NoRoom(_) => return self.put_aside_back(SetAside { connection, asked, payload, end }),
            }
        }
        true
    }

    /// Nothing behind it finds room either.
    fn put_aside_back(&mut self, call: SetAside) -> bool {
        if let Some(room) = self.lanes.get_mut(call.asked.lane) {
            room.aside.push_front(call);
        }
        false
    }

    /// Refuses a call that was set aside: for this reason, or for want of room.
    fn refuse_aside(&mut self, call: SetAside, not_run: Option<NotRun>) {
        let SetAside { connection, asked, payload, .. } = call;
        let (used, limit) = self.lanes.get(asked.lane).map_or((0, 0), LaneRoom::calls_in_use);
        self.forget_aside(asked.lane, payload);
        let not_run = not_run.unwrap_or(NotRun::new(Outcome::Overloaded, limit, used));
        self.answer_unrun(connection, &asked, not_run);
    }

    fn forget_aside(&mut self, lane: LaneKey, payload: Held) {
        self.counters.wait_ended();
        if let (Some(LaneState::Open(open)), Held::Loan(loan)) = (self.lanes.get(lane).map(|room| &room.state), payload)
        {
            open.lane.return_loan(loan);
        }
    }

    /// Forgets calls that are set aside for a lane, of a connection that ends.
    pub(super) fn drop_aside(&mut self, lane: LaneKey, key: ConnectionKey) {
        let Some(room) = self.lanes.get_mut(lane) else { return };
        let (ended, left): (Vec<_>, Vec<_>) =
            std::mem::take(&mut room.aside).into_iter().partition(|call| call.connection == key);
        room.aside = left.into();
        for call in ended {
            self.forget_aside(lane, call.payload);
        }
    }

    /// Refuses calls that are set aside for a lane, and are of this kind.
    pub(super) fn end_aside(&mut self, lane: LaneKey, not_run: NotRun, of: impl Fn(ConnectionKey, &Asked) -> bool) {
        let Some(room) = self.lanes.get_mut(lane) else { return };
        let (ended, left): (Vec<_>, Vec<_>) =
            std::mem::take(&mut room.aside).into_iter().partition(|call| of(call.connection, &call.asked));
        room.aside = left.into();
        for call in ended {
            self.refuse_aside(call, Some(not_run));
        }
    }

    /// The lanes for which calls of a connection may be set aside.
    pub(super) fn lanes_of_link(&self, key: ConnectionKey) -> Vec<LaneKey> {
        let Some(connection) = self.connections.get(key).filter(|connection| connection.link.is_some()) else {
            return Vec::new();
        };
        let spoken = connection.handles.iter().filter(|handle| handle.spoken.is_some());
        let mut lanes: Vec<_> = spoken.filter_map(|handle| handle.lane).collect();
        lanes.sort_unstable();
        lanes.dedup();
        lanes
    }

    /// Whether a call is set aside.
    pub(super) fn has_aside(&self, key: ConnectionKey, request_id: u64, lane: Option<LaneKey>) -> bool {
        let is_it = |call: &SetAside| call.connection == key && call.asked.request_id == request_id;
        lane.and_then(|lane| self.lanes.get(lane)).is_some_and(|room| room.aside.iter().any(is_it))
    }
}
