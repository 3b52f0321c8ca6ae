//! Calls that wait for room in their lane: at most one a connection, which is not read meanwhile.
//!
//! What came with the call and behind it is kept, at most what the driver hands over in two turns. Calls wait in the order
//! in which they came, whatever their connection, and no later one passes them; but those whose payload lies in the lane already
//! go before those that want room for theirs, and one that waits for its own connection to read lets others pass. One for which there is no room until its
//! caller's deadline is refused.

use std::collections::VecDeque;

use praas_protocol::Outcome;
use praas_shm::client_lane::{LoanBlock, Payload};

use super::calls::{Asked, Begun, NotRun};
use super::connection::ConnectionKey;
use super::lanes::{LaneKey, LaneRoom, LaneState};
use super::receiving::Flow;
use super::shard::NetworkShard;
use super::timers::Timer;
use crate::limits::ROOM_LOOK_PERIOD;

/// A call that waits.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) asked: Asked,
    /// Its payload, when it has come already.
    loan: Option<LoanBlock>,
    /// The beginning of its payload otherwise, then what follows in the stream.
    bytes: Vec<u8>,
    payload_bytes: usize,
}

impl Waiting {
    /// Keeps what came behind it.
    pub(super) fn follow(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }
}

impl NetworkShard {
    /// Whether calls wait for room in a lane.
    pub(super) fn others_wait_for(&self, lane: LaneKey) -> bool {
        self.lanes
            .get(lane)
            .is_some_and(|room| !room.queue.is_empty() || !room.loaded.is_empty() || !room.aside.is_empty())
    }

    /// Has a call wait, and its connection with it, unless that carries the calls of many.
    #[cold]
    pub(super) fn wait_for_room(
        &mut self,
        key: ConnectionKey,
        asked: Asked,
        loan: Option<LoanBlock>,
        payload: &[u8],
        rest: &[u8],
    ) -> Flow {
        if self.may_be_set_aside(key, &asked) {
            return self.set_aside(key, asked, loan, payload);
        }
        self.counters.wait_began();
        let longest = self.longest_wait(key, &asked);
        let end = asked.end(longest);
        let (lane, request_id) = (asked.lane, asked.request_id);
        let (bytes, is_loaded) = ([payload, rest].concat(), loan.is_some());
        if let Some(connection) = self.connections.get_mut(key) {
            connection.waiting = Some(Box::new(Waiting { asked, loan, bytes, payload_bytes: payload.len() }));
        }
        if let Some(room) = self.lanes.get_mut(lane) {
            if is_loaded { &mut room.loaded } else { &mut room.queue }.push_back(key);
            if !std::mem::replace(&mut room.is_pressed, true) {
                self.pressed_lanes.push(lane);
            }
        }
        self.timers.at(end, Timer::Room(key, request_id));
        if !std::mem::replace(&mut self.rooms_watched, true) {
            self.timers.at(self.now + ROOM_LOOK_PERIOD, Timer::Rooms);
        }
        self.adjust_receiving(key);
        Flow::Stop
    }

    /// Refuses the calls that wait for a lane which does not open.
    pub(super) fn refuse_waiting(&mut self, lane: LaneKey, not_run: NotRun) {
        self.end_aside(lane, not_run, |_, _| true);
        let Some(room) = self.lanes.get_mut(lane) else { return };
        let mut keys = std::mem::take(&mut room.loaded);
        keys.append(&mut room.queue);
        for key in keys {
            let Some(connection) = self.connections.get_mut(key) else { continue };
            let Some(waiting) = connection.waiting.take_if(|waiting| waiting.asked.lane == lane) else { continue };
            let Waiting { asked, bytes, payload_bytes, .. } = *waiting;
            self.counters.wait_ended();
            self.answer_unrun(key, &asked, not_run);
            self.read(key, &bytes[payload_bytes..]);
            self.adjust_receiving(key);
        }
    }

    /// Lets calls go that now find room. Called when all that came in this turn is read: what waits must not be passed by
    /// bytes of its own connection.
    pub(super) fn serve_waiting(&mut self) {
        let mut pressed = std::mem::take(&mut self.pressed_lanes);
        pressed.retain(|lane| {
            let served = self.serve_queue(*lane, |room| &mut room.loaded)
                && self.serve_queue(*lane, |room| &mut room.queue)
                && self.serve_aside(*lane);
            if let Some(room) = self.lanes.get_mut(*lane) {
                // Whoever was served may wait again, with more of what it sent.
                room.is_pressed =
                    !served || !room.loaded.is_empty() || !room.queue.is_empty() || !room.aside.is_empty();
                return room.is_pressed;
            }
            false
        });
        // Those that came meanwhile.
        pressed.append(&mut self.pressed_lanes);
        self.pressed_lanes = pressed;
    }

    /// False if one of the queue found no room.
    fn serve_queue(&mut self, lane: LaneKey, queue: fn(&mut LaneRoom) -> &mut VecDeque<ConnectionKey>) -> bool {
        let waits = self.lanes.get_mut(lane).map_or(0, |room| queue(room).len());
        for _ in 0..waits {
            let Some(key) = self.lanes.get_mut(lane).and_then(|room| queue(room).pop_front()) else { return true };
            if self.try_again(key, lane) {
                continue;
            }
            let waits_for_itself = self.waits_for_itself(key, lane);
            if let Some(room) = self.lanes.get_mut(lane) {
                if waits_for_itself { queue(room).push_back(key) } else { queue(room).push_front(key) }
            }
            if !waits_for_itself {
                return false;
            }
        }
        true
    }

    /// Whether what keeps a connection's call from its lane is replies of its own, which others need not wait for.
    fn waits_for_itself(&self, key: ConnectionKey, lane: LaneKey) -> bool {
        let Some(connection) = self.connections.get(key) else { return false };
        let Some(LaneState::Open(open)) = self.lanes.get(lane).map(|room| &room.state) else { return false };
        connection.waiting.as_ref().is_some_and(|waiting| {
            let bytes = open.replies.expected_of(waiting.asked.function);
            bytes > 0 && !open.replies.shares(bytes, connection.owed_bytes())
        })
    }

    /// False if there is still no room.
    fn try_again(&mut self, key: ConnectionKey, lane: LaneKey) -> bool {
        let Some(connection) = self.connections.get_mut(key) else { return true };
        // It may have been refused, and wait for another lane since.
        let Some(waiting) = connection.waiting.take_if(|waiting| waiting.asked.lane == lane) else { return true };
        let Waiting { asked, loan, bytes, payload_bytes } = *waiting;
        let (payload, rest) = bytes.split_at(payload_bytes);
        let begun = match loan {
            Some(loan) => self.submit(key, &asked, Payload::Loan(loan)),
            None => self.begin(key, &asked, payload),
        };
        match begun {
            Begun::Yes => {
                self.counters.wait_ended();
                self.read(key, rest);
                self.adjust_receiving(key);
                true
            }
            Begun::NoRoom(loan) => {
                if let Some(connection) = self.connections.get_mut(key) {
                    connection.waiting = Some(Box::new(Waiting { asked, loan, bytes, payload_bytes }));
                }
                false
            }
        }
    }

    /// Timer: a call that has waited as long as it may.
    pub(super) fn room_due(&mut self, key: ConnectionKey, request_id: u64) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let is_it = |waiting: &mut Box<Waiting>| waiting.asked.request_id == request_id;
        let Some(waiting) = connection.waiting.take_if(is_it) else { return };
        let Waiting { asked, bytes, payload_bytes, .. } = &*waiting;
        let (asked, rest) = (*asked, bytes[*payload_bytes..].to_vec());
        let (used, limit) = self.lanes.get(asked.lane).map_or((0, 0), |room| room.calls_in_use());
        self.stop_waiting(key, *waiting);
        self.answer_unrun(key, &asked, NotRun::new(Outcome::Overloaded, limit, used));
        // Nothing of its own connection is unread in this turn: timers come after what was received.
        self.read(key, &rest);
        self.adjust_receiving(key);
    }

    /// Takes a call out of the queue that it waits in.
    pub(super) fn stop_waiting(&mut self, key: ConnectionKey, waiting: Waiting) {
        self.counters.wait_ended();
        let Some(room) = self.lanes.get_mut(waiting.asked.lane) else { return };
        room.loaded.retain(|waits| *waits != key);
        room.queue.retain(|waits| *waits != key);
        if let (LaneState::Open(open), Some(loan)) = (&room.state, waiting.loan) {
            open.lane.return_loan(loan);
        }
    }

    /// Timer: cells of abandoned calls come back without a word.
    pub(super) fn rooms_due(&mut self) {
        self.rooms_watched = !self.pressed_lanes.is_empty();
        for lane in &self.pressed_lanes {
            if let Some(LaneState::Open(open)) = self.lanes.get(*lane).map(|room| &room.state) {
                open.lane.sweep_abandoned();
            }
        }
        if self.rooms_watched {
            self.timers.at(self.now + ROOM_LOOK_PERIOD, Timer::Rooms);
        }
    }
}
