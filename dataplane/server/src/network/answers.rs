//! Looking for answers, and sleeping until there are some.
//!
//! Answers are looked for in the order of the calls, in lanes whose bell says that there are some. A lane whose bell was
//! armed is left alone until it rings, or until something is published in it by a shard that polls.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use praas_protocol::control::ClientMessage;
use praas_shm::client_lane::ClientLane;

use super::lanes::{Flight, LaneKey, LaneRoom, LaneState};
use super::shard::NetworkShard;
use super::timers::Timer;
use crate::limits::{ANSWERS_PER_LOOK, LANES_LOOK_PERIOD};

/// Whom a summons is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Workers {
    /// Those on another core, as far as is known: they begin while this thread goes on.
    Elsewhere,
    /// All: one on this core begins when this thread has nothing more to do, or when the kernel thinks so.
    All,
}

impl NetworkShard {
    /// Summons workers for what was submitted in this turn; whether anything was.
    pub(super) fn announce_calls(&mut self, whom: Workers) -> bool {
        if self.unannounced_lanes.is_empty() {
            return false;
        }
        let mut lanes = std::mem::take(&mut self.unannounced_lanes);
        lanes.retain(|key| self.announce_lane(*key, whom));
        self.unannounced_lanes = lanes;
        true
    }

    /// True if it is still to be done.
    fn announce_lane(&mut self, key: LaneKey, whom: Workers) -> bool {
        let Some(room) = self.lanes.get_mut(key) else { return false };
        let LaneState::Open(open) = &room.state else { return false };
        if whom == Workers::Elsewhere && open.lane.shares_core() {
            return true;
        }
        room.is_unannounced = false;
        open.lane.announce();
        if open.rings_server.swap(false, Ordering::Relaxed) {
            let (lane, session, process) = (open.id, room.session, room.process);
            self.tell_session(session, &ClientMessage::Ring { lane, process });
        }
        false
    }

    /// Looks for answers in every lane that may have some; how many there were.
    pub(super) fn look_at_lanes(&mut self) -> usize {
        let mut found = 0;
        let mut at = 0;
        while let Some(key) = self.busy_lanes.get(at).copied() {
            found += self.look_at_lane(key);
            match self.lanes.get_mut(key) {
                Some(room) if !room.flights.is_empty() => at += 1,
                Some(room) => {
                    room.is_busy = false;
                    self.busy_lanes.swap_remove(at);
                }
                None => drop(self.busy_lanes.swap_remove(at)),
            }
        }
        found
    }

    fn look_at_lane(&mut self, key: LaneKey) -> usize {
        let Some(LaneRoom { state: LaneState::Open(open), session, process, .. }) = self.lanes.get_mut(key) else {
            return 0;
        };
        if open.rings_server.swap(false, Ordering::Relaxed) {
            let (lane, session, process) = (open.id, *session, *process);
            self.tell_session(session, &ClientMessage::Ring { lane, process });
        }
        let Some(LaneRoom { state: LaneState::Open(open), flights, .. }) = self.lanes.get_mut(key) else { return 0 };
        if open.armed {
            return 0;
        }
        let bell = open.lane.begin_look();
        if open.seen == Some(bell) {
            return 0;
        }
        let lane = Arc::clone(&open.lane);
        open.seen = None;
        // Out of the table for as long as answers are delivered, which ends and abandons no call.
        let mut flights = std::mem::take(flights);
        let (mut at, mut count) = (0, 0);
        while at < flights.len() && count < ANSWERS_PER_LOOK {
            if !lane.is_answered(&flights[at].ticket) {
                at += 1;
                continue;
            }
            let answered = if at == 0 { flights.pop_front() } else { flights.remove(at) };
            let Some(flight) = answered else { break };
            self.take_answer(key, &lane, flight);
            count += 1;
        }
        self.counters.flights_ended(count);
        if let Some(room) = self.lanes.get_mut(key) {
            if let LaneState::Open(open) = &mut room.state
                && at == flights.len()
            {
                open.seen = Some(bell);
            }
            room.flights = flights;
        }
        count
    }

    fn take_answer(&mut self, key: LaneKey, lane: &Arc<ClientLane>, flight: Flight) {
        let Flight { ticket, connection, request_id, function, reply_bytes, .. } = flight;
        let taken = lane.take_small(ticket).map_err(|ticket| lane.take(ticket));
        if let Some(LaneState::Open(open)) = self.lanes.get_mut(key).map(|room| &mut room.state) {
            match &taken {
                Ok(_) => open.replies.learn_small(function),
                Err(answer) => open.replies.learn(function, answer),
            }
            open.replies.give_back(reply_bytes);
        }
        match taken {
            Ok(answer) => self.deliver_small(connection, request_id, &answer),
            Err(answer) => self.deliver(connection, request_id, answer),
        }
    }

    /// Whether some lane's bell has counted an answer since it was looked at.
    pub(super) fn has_answers(&self) -> bool {
        self.busy_lanes.iter().any(|key| match self.lanes.get(*key).map(|room| &room.state) {
            Some(LaneState::Open(open)) => !open.armed && open.seen != Some(open.lane.begin_look()),
            _ => false,
        })
    }

    /// Has every lane with calls in flight ring when an answer comes; false if one came already.
    pub(super) fn arm_lanes(&mut self) -> bool {
        let mut quiet = true;
        for key in &self.busy_lanes {
            let Some(LaneState::Open(open)) = self.lanes.get_mut(*key).map(|room| &mut room.state) else { continue };
            if !open.armed {
                open.armed = open.seen.is_some_and(|seen| open.lane.arm(seen));
                quiet &= open.armed;
            }
        }
        quiet
    }

    /// A lane rang, or cannot any more: it is looked at next.
    pub(super) fn lane_rang(&mut self, key: LaneKey) {
        if let Some(LaneState::Open(open)) = self.lanes.get_mut(key).map(|room| &mut room.state) {
            open.armed = false;
        }
    }

    /// Timer: a worker may have died with what would have rung, and abandoned calls end without a word.
    pub(super) fn lanes_due(&mut self) {
        let lanes = self.lanes.keys().into_iter().filter_map(|key| self.lanes.get(key));
        let quarantined = lanes.map(LaneRoom::quarantined).sum();
        self.counters.quarantined(quarantined);
        self.lanes_watched = quarantined > 0 || !self.busy_lanes.is_empty();
        if !self.lanes_watched {
            return;
        }
        for key in &self.busy_lanes {
            let Some(room) = self.lanes.get_mut(*key) else { continue };
            let LaneState::Open(open) = &mut room.state else { continue };
            (open.armed, open.seen) = (false, None);
            if let Some(oldest) = room.flights.front() {
                open.lane.summon_if_unclaimed(&oldest.ticket);
            }
        }
        self.timers.at(self.now + LANES_LOOK_PERIOD, Timer::Lanes);
    }
}
