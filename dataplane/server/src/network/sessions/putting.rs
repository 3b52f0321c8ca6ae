//! Messages of a session that are put into the mailbox of a process of this server by calls, where no message lane leads:
//! to a process whose changes are logged, or with as many sessions' lanes into its mailbox as it has room for.
//!
//! The calls go by a lane of this server's own, which the sessions of a thread share. The answer comes when its worker gives
//! it: of a process whose changes are logged, when the log has the message.
//!
//! Invariants:
//! 1. One message at a time is on its way from a session to a destination, so that none overtakes another.
//! 2. What the session has sent there by a message lane comes first: whoever puts a message collects that lane before.
//! 3. A put may be repeated, whatever became of it: the mailbox knows the message again.

use std::time::Duration;

use praas_protocol::control::{ControlError, WaitMode};
use praas_protocol::message::{Address, PUT_FUNCTION, PutHead, SessionId, codes};
use praas_protocol::session::SendHead;
use praas_protocol::{FunctionId, Outcome, Phase, ProcessId};
use praas_shm::client_lane::{Answer, Payload, SubmitError, Ticket};

use super::Refusal;
use super::sending::{Attempt, unreadable};
use super::ways::{RoomAnswer, Route};
use crate::limits::LANES_LOOK_PERIOD;
use crate::network::connection::ConnectionKey;
use crate::network::lanes::{Flight, LaneKey, LaneState};
use crate::network::relay::Letter;
use crate::network::shard::NetworkShard;
use crate::network::timers::Timer;

/// Code of an answer that cannot be read.
const UNREADABLE: u32 = u32::MAX;

/// Whose message a put brings.
#[derive(Debug, Clone, Copy)]
pub(in crate::network) struct PutFor {
    session: SessionId,
    to: Address,
}

impl NetworkShard {
    /// Has what a session sends to a process put there by calls from now on.
    pub(super) fn begin_to_put(&mut self, session: SessionId, to: Address) -> Result<(), ControlError> {
        let Some(room) = self.session_rooms.get(&session).filter(|room| room.outgoing.contains_key(&to)) else {
            return Err(ControlError::UnknownSession { session });
        };
        let Address::Process(process) = to else { return Err(ControlError::Elsewhere { to }) };
        let process = ProcessId { application: room.application, process };
        let token = self.own_token();
        let control = self.session_of(&token)?;
        let lane = self.lane_to(control, process, None)?;
        if let Some(room) = self.lanes.get_mut(lane) {
            room.users += 1;
        }
        // From here on the way is one of the lane's users.
        self.set_route(session, to, Route::Put(lane));
        Ok(())
    }

    pub(super) fn attempt_put(&mut self, session: SessionId, to: Address, key: LaneKey) -> Attempt {
        let opening = || Attempt::Later(Refusal::failed(codes::BUSY, "the way to the receiver is not open yet"));
        let lane = match self.lanes.get(key).map(|room| &room.state) {
            Some(LaneState::Open(open)) => std::sync::Arc::clone(&open.lane),
            Some(LaneState::Opening(_)) => return opening(),
            Some(LaneState::Closed) | None => return self.put_failed(session, to),
        };
        let room = self.session_rooms.get(&session);
        let first = room.and_then(|room| room.outgoing.get(&to)).and_then(|outgoing| outgoing.queue.front());
        let Some(left) = first.map(|first| first.end.saturating_duration_since(self.now)) else { return unreadable() };
        // None would be no deadline at all.
        let left = left.max(Duration::from_nanos(1));
        let Some((payload, id)) = self.first_message(session, to) else { return unreadable() };
        let Ok((SendHead { key: message_key, .. }, bytes)) = SendHead::decode(&payload) else { return unreadable() };
        let payload = PutHead { source: Address::Client(session), id, key: message_key }.encode(bytes);
        let left_ns = u64::try_from(left.as_nanos()).unwrap_or(u64::MAX);
        match lane.submit_quietly(FunctionId::of(PUT_FUNCTION), Payload::Bytes(&payload), left_ns, 0) {
            Ok(ticket) => {
                self.last_letter += 1;
                let number = self.last_letter;
                self.puts.insert(number, PutFor { session, to });
                self.put_begins(key, ticket, number);
                Attempt::InFlight(number)
            }
            Err(SubmitError::Full { .. }) => {
                Attempt::Later(Refusal::failed(codes::BUSY, "the way to the receiver is full"))
            }
            Err(SubmitError::TooLarge { limit_bytes, actual_bytes, .. }) => {
                let word = |bytes: u64| u32::try_from(bytes).unwrap_or(u32::MAX);
                let (limit, actual) = (word(limit_bytes), word(actual_bytes));
                Attempt::Refused(Refusal::bare(Outcome::PayloadTooLarge, limit, actual))
            }
            Err(_) => self.put_failed(session, to),
        }
    }

    /// The process has ended, or is about to: with the next attempt it is looked for.
    fn put_failed(&mut self, session: SessionId, to: Address) -> Attempt {
        self.set_route(session, to, Route::Unknown);
        Attempt::Later(Refusal::unavailable(Phase::Closed))
    }

    fn put_begins(&mut self, key: LaneKey, ticket: Ticket, number: u64) {
        let polls = self.plan.wait != WaitMode::Park;
        let Some(room) = self.lanes.get_mut(key) else { return };
        if let LaneState::Open(open) = &mut room.state {
            // Who polls for the answer spares the worker the ringing.
            open.armed &= !polls;
        }
        let flight = room.next_flight;
        room.next_flight += 1;
        self.counters.flight_began();
        room.flights.push_back(Flight {
            number: flight,
            ticket,
            connection: ConnectionKey::nobody(),
            request_id: number,
            function: FunctionId::of(PUT_FUNCTION),
            reply_bytes: 0,
        });
        if !std::mem::replace(&mut room.is_unannounced, true) {
            self.unannounced_lanes.push(key);
        }
        if !std::mem::replace(&mut room.is_busy, true) {
            self.busy_lanes.push(key);
            if !std::mem::replace(&mut self.lanes_watched, true) {
                self.timers.at(self.now + LANES_LOOK_PERIOD, Timer::Lanes);
            }
        }
    }

    /// A call that is no connection's was answered: a put, unless its connection is gone.
    #[cold]
    pub(in crate::network) fn put_answered(&mut self, key: ConnectionKey, number: u64, answer: &Answer) {
        let outcome = Outcome::from_code(answer.outcome_code).filter(|outcome| *outcome != Outcome::Moved);
        match (outcome, &answer.payload) {
            (Some(outcome), Some(payload)) => {
                let mut bytes = vec![0; payload.len()];
                payload.copy_to(&mut bytes);
                self.put_ended(key, number, (outcome, answer.detail, answer.more), bytes);
            }
            _ => {
                let failed = (Outcome::FunctionFailed, UNREADABLE, 0);
                self.put_ended(key, number, failed, Vec::new());
            }
        }
    }

    /// The same of an answer that was taken apart. It is told in the next turn: lanes are being looked at.
    #[cold]
    pub(in crate::network) fn put_ended(
        &mut self,
        key: ConnectionKey,
        number: u64,
        (outcome, detail, more): (Outcome, u32, u32),
        bytes: Vec<u8>,
    ) {
        if key != ConnectionKey::nobody() {
            return;
        }
        let Some(PutFor { session, to }) = self.puts.remove(&number) else { return };
        let answer = RoomAnswer { session, to, number, outcome, detail, more, bytes };
        self.mail.post(Letter::RoomAnswer(Box::new(answer)));
    }
}
