//! Calls: from a REQUEST into a lane, and from the lane's answer to a RESPONSE.
//!
//! Invariants:
//! 1. Every call that the rules accepted is in one place: on its way in ([`super::connection::Incoming`]), waiting for room
//!    ([`super::waiting`]), in flight (here and in its lane), or answered. Answering gives back its credit, once.
//! 2. A ticket is taken or abandoned exactly once.
//! 3. What was submitted in a turn is announced to its lane's workers before the turn ends, once for all of it.

use std::time::{Duration, Instant};

use praas_protocol::control::WaitMode;
use praas_protocol::limits::IDEMPOTENCY_PREFIX_BYTES;
use praas_protocol::wire::{Header, Request, Response, Side, Verdict};
use praas_protocol::{FunctionId, Idempotency, Name, Outcome, Phase};
use praas_shm::client_lane::{Answer, Bounded, KeyedPayload, LoanBlock, Payload, SmallAnswer, SubmitError};
use praas_shm::io_buffer::{IoBuffer, LoanBuffer};

use super::connection::{Connection, ConnectionKey, Handle, Incoming};
use super::delivering::{Credit, Errand};
use super::lanes::{Flight, LaneKey, LaneState};
use super::receiving::{Flow, unknown_handle};
use super::shard::NetworkShard;
use super::table::Table;
use super::timers::Timer;
use crate::limits::LANES_LOOK_PERIOD;

/// Code of an answer that cannot be read, or that only a server may give: clients take it for a malformed one.
const UNREADABLE: u32 = u32::MAX;

/// What is of interest in a REQUEST beside its header and payload.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub(super) handle: u32,
    pub(super) function: FunctionId,
    pub(super) time_remaining_ns: u64,
    /// 0 is none.
    pub(super) root: u128,
    pub(super) principal: Option<Name>,
    pub(super) idempotency: Option<Idempotency>,
}

impl Wanted {
    pub(super) fn of(request: &Request) -> Self {
        let Request { handle, function, time_remaining_ns, root, principal, .. } = *request;
        let (root, idempotency) = (root.map_or(0, u128::from_le_bytes), request.idempotency());
        Self { handle, function, time_remaining_ns, root, principal, idempotency }
    }
}

/// What a client asks for with a call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    pub(super) request_id: u64,
    pub(super) handle: u32,
    pub(super) lane: LaneKey,
    pub(super) function: FunctionId,
    pub(super) payload_bytes: u32,
    /// 0 is none.
    pub(super) time_remaining_ns: u64,
    pub(super) root: u128,
    pub(super) idempotency: Option<Idempotency>,
    /// When its head came.
    pub(super) came: Instant,
}

impl Asked {
    /// Bytes before the payload in a block of the lane.
    fn prefix_bytes(&self) -> usize {
        if self.idempotency.is_some() { IDEMPOTENCY_PREFIX_BYTES } else { 0 }
    }

    /// Nanoseconds until the caller's deadline, 0 for none; `None` when it has passed.
    fn time_left_ns(&self, now: Instant) -> Option<u64> {
        if self.time_remaining_ns == 0 || now <= self.came {
            return Some(self.time_remaining_ns);
        }
        let passed_ns = u64::try_from((now - self.came).as_nanos()).unwrap_or(u64::MAX);
        self.time_remaining_ns.checked_sub(passed_ns).filter(|left_ns| *left_ns > 0)
    }

    /// When its caller stops to wait, at the latest after `longest`.
    pub(super) fn end(&self, longest: Duration) -> Instant {
        match self.time_remaining_ns {
            0 => self.came + longest,
            remaining_ns => self.came + Duration::from_nanos(remaining_ns).min(longest),
        }
    }
}

/// A call in flight, as its connection knows it.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) request_id: u64,
    pub(super) lane: LaneKey,
    /// Of its [`Flight`].
    pub(super) flight: u64,
    pub(super) handle: u32,
    payload_bytes: u32,
    /// Set aside for its reply.
    reply_bytes: u64,
}

/// How a call that nobody ran is answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct NotRun {
    outcome: Outcome,
    detail: u64,
    more: u64,
}

impl NotRun {
    pub(super) fn new(outcome: Outcome, detail: u64, more: u64) -> Self {
        Self { outcome, detail, more }
    }

    pub(super) fn unavailable(phase: Phase) -> Self {
        Self::new(Outcome::Unavailable, phase as u64, 0)
    }

    pub(super) fn cancelled() -> Self {
        Self::new(Outcome::Cancelled, 0, 0)
    }

    fn response(self, request_id: u64) -> Response {
        let [detail, more] = [self.detail, self.more].map(|word| u32::try_from(word).unwrap_or(u32::MAX));
        Response { request_id, outcome_code: self.outcome as u32, detail, more }
    }
}

/// What became of an attempt to begin a call.
#[derive(Debug)]
pub(super) enum Begun {
    /// It is on its way, or answered.
    Yes,
    /// Its lane has no room for it, or is not open yet. With its payload's block, if it has one.
    NoRoom(Option<LoanBlock>),
}

impl Begun {
    fn no_room(payload: Payload<'_>) -> Self {
        match payload {
            Payload::Bytes(_) => Self::NoRoom(None),
            Payload::Loan(loan) => Self::NoRoom(Some(loan)),
        }
    }
}

impl Connection {
    fn give_credit_back(&mut self, handle: u32, payload_bytes: u32) -> Option<&mut Handle> {
        let given = self.rules.answered(payload_bytes);
        debug_assert!(given.is_ok(), "a call is answered once: {given:?}");
        let handle = self.handle_mut(handle)?;
        handle.in_flight -= 1;
        Some(handle)
    }

    /// The same, of a call that was answered with success.
    fn call_succeeded(&mut self, call: &Call) {
        let handle = self.give_credit_back(call.handle, call.payload_bytes);
        if let Some(spoken) = handle.and_then(|handle| handle.spoken.as_mut()) {
            spoken.call_succeeded(call.request_id);
        }
    }

    /// Whether a call is in flight, or its payload on its way.
    pub(super) fn has_call(&self, request_id: u64) -> bool {
        self.calls.binary_search_by_key(&request_id, |call| call.request_id).is_ok()
            || self.delivery.as_ref().is_some_and(|delivery| delivery.credit.request_id == request_id)
            || self.incoming.as_ref().is_some_and(|incoming| incoming.asked.request_id == request_id)
            || self.waiting.as_ref().is_some_and(|waiting| waiting.asked.request_id == request_id)
    }

    /// Takes a call off the list; most often it is the first.
    fn take_call(&mut self, request_id: u64) -> Option<Call> {
        if self.calls.front().is_some_and(|call| call.request_id == request_id) {
            let call = self.calls.pop_front()?;
            self.expected_bytes -= call.reply_bytes;
            return Some(call);
        }
        let place = self.calls.binary_search_by_key(&request_id, |call| call.request_id).ok()?;
        let call = self.calls.remove(place)?;
        self.expected_bytes -= call.reply_bytes;
        Some(call)
    }
}

impl NetworkShard {
    /// A call came, with the beginning of its payload; `rest` follows it.
    pub(super) fn request_came(
        &mut self,
        key: ConnectionKey,
        header: &Header,
        wanted: &Wanted,
        payload: &[u8],
        rest: &[u8],
    ) -> Flow {
        let Some(connection) = self.connections.get_mut(key) else { return Flow::Stop };
        match connection.rules.show(Side::Client, header) {
            Ok(Verdict::Accept) => {}
            Ok(Verdict::Ignore) => return Flow::GoOn,
            Err(error) => return self.break_off(key, &error),
        }
        let speaks_for_other = wanted.principal.is_some()
            && wanted.principal != connection.identity.as_ref().map(|identity| identity.claims.principal);
        let Some(handle) = connection.handle_mut(wanted.handle) else {
            return self.break_off_for(key, &unknown_handle(wanted.handle));
        };
        let payload_bytes = header.payload_bytes();
        // The key travels before the payload from here on.
        let prefix_bytes = if wanted.idempotency.is_some() { IDEMPOTENCY_PREFIX_BYTES } else { 0 };
        let limit_bytes = handle.payload_bytes_max.saturating_sub(u32::try_from(prefix_bytes).unwrap_or(0));
        let refused = if speaks_for_other {
            Some(NotRun::new(Outcome::Unauthorized, 0, 0))
        } else if payload_bytes > limit_bytes {
            Some(NotRun::new(Outcome::PayloadTooLarge, limit_bytes.into(), payload_bytes.into()))
        } else if handle.in_flight >= handle.in_flight_max {
            Some(NotRun::new(Outcome::Overloaded, handle.in_flight_max.into(), handle.in_flight.into()))
        } else {
            None
        };
        handle.in_flight += 1;
        let credit = Credit { request_id: header.request_id, handle: wanted.handle, payload_bytes };
        let mut function = wanted.function;
        let lane = match (handle.lane, &handle.spoken) {
            _ if refused.is_some() => {
                self.answer_not_run(key, credit, refused.unwrap_or(NotRun::cancelled()));
                return Flow::GoOn;
            }
            (Some(lane), None) => lane,
            _ => {
                if let Some(errand) = Errand::of(function) {
                    match self.errand_or_call(key, credit, errand, wanted.time_remaining_ns, payload) {
                        Ok(put) => function = put,
                        Err(flow) => return flow,
                    }
                }
                match self.lane_of_spoken(key, wanted.handle) {
                    Ok(lane) => lane,
                    Err(not_run) => {
                        self.answer_not_run(key, credit, not_run);
                        return Flow::GoOn;
                    }
                }
            }
        };
        let asked = Asked {
            request_id: header.request_id,
            handle: wanted.handle,
            lane,
            function,
            payload_bytes,
            time_remaining_ns: wanted.time_remaining_ns,
            root: wanted.root,
            idempotency: wanted.idempotency,
            came: self.now,
        };
        if self.others_wait_for(asked.lane) {
            return self.wait_for_room(key, asked, None, payload, rest);
        }
        match self.begin(key, &asked, payload) {
            Begun::Yes => Flow::GoOn,
            Begun::NoRoom(loan) => self.wait_for_room(key, asked, loan, payload, rest),
        }
    }

    /// Sends a call into its lane, or makes room for the rest of its payload there.
    pub(super) fn begin(&mut self, key: ConnectionKey, asked: &Asked, payload: &[u8]) -> Begun {
        if payload.len() == asked.payload_bytes as usize {
            return self.submit(key, asked, Payload::Bytes(payload));
        }
        let lane = match self.lanes.get(asked.lane).map(|room| &room.state) {
            Some(LaneState::Open(open)) => std::sync::Arc::clone(&open.lane),
            Some(LaneState::Opening(_)) => return Begun::NoRoom(None),
            _ => return self.answered_unrun(key, asked, NotRun::unavailable(Phase::Closed)),
        };
        let payload_bytes = asked.payload_bytes as usize;
        let loan = match asked.idempotency {
            None => lane.loan(payload_bytes),
            Some(idempotency) => lane.loan_keyed(idempotency, payload_bytes),
        };
        let mut loan = match loan {
            Ok(loan) => loan,
            Err(error) => return self.not_submitted(key, asked, error),
        };
        let filled_bytes = asked.prefix_bytes() + payload.len();
        lane.loan_write(&mut loan, asked.prefix_bytes(), payload);
        let buffer = Some(LoanBuffer::new(lane, loan));
        if let Some(connection) = self.connections.get_mut(key) {
            let incoming = Incoming { asked: *asked, buffer, filled_bytes };
            connection.incoming = Some(Box::new(incoming));
        }
        Begun::Yes
    }

    /// The payload of a call is all there; `rest` follows it.
    pub(super) fn payload_is_whole(&mut self, key: ConnectionKey, rest: &[u8]) -> Flow {
        let Some(connection) = self.connections.get_mut(key) else { return Flow::Stop };
        let Some(Incoming { asked, buffer: Some(buffer), filled_bytes: _ }) = connection.incoming.take().map(|b| *b)
        else {
            return Flow::GoOn;
        };
        debug_assert_eq!(IoBuffer::bytes(&buffer), asked.prefix_bytes() + asked.payload_bytes as usize);
        let (_lane, loan) = buffer.into_loan();
        match self.submit(key, &asked, Payload::Loan(loan)) {
            Begun::Yes => Flow::GoOn,
            Begun::NoRoom(loan) => self.wait_for_room(key, asked, loan, &[], rest),
        }
    }

    /// Publishes a call in its lane.
    pub(super) fn submit(&mut self, key: ConnectionKey, asked: &Asked, payload: Payload<'_>) -> Begun {
        let Some(left_ns) = asked.time_left_ns(self.now) else {
            if let Payload::Loan(loan) = payload {
                self.return_loan(asked.lane, loan);
            }
            return self.answered_unrun(key, asked, NotRun::new(Outcome::DeadlineExceeded, 0, 0));
        };
        let Some(room) = self.lanes.get_mut(asked.lane) else { return Begun::Yes };
        let polls = self.plan.wait != WaitMode::Park;
        let reply_bytes;
        let lane = match &mut room.state {
            LaneState::Open(open) => {
                reply_bytes = open.replies.expected_of(asked.function);
                let owed_bytes =
                    |connections: &Table<Connection>| connections.get(key).map_or(0, Connection::owed_bytes);
                if reply_bytes > 0 && !open.takes_reply(reply_bytes, owed_bytes(&self.connections)) {
                    return Begun::no_room(payload);
                }
                // Who polls for the answer spares the worker the ringing.
                open.armed &= !polls;
                &open.lane
            }
            LaneState::Opening(_) => return Begun::no_room(payload),
            LaneState::Closed => return self.answered_unrun(key, asked, NotRun::unavailable(Phase::Closed)),
        };
        let submitted = match asked.idempotency {
            None => lane.submit_quietly(asked.function, payload, left_ns, asked.root),
            Some(idempotency) => {
                let payload = match payload {
                    Payload::Bytes(bytes) => KeyedPayload::Bytes(bytes),
                    Payload::Loan(loan) => KeyedPayload::Loan(loan),
                };
                lane.submit_keyed_quietly(asked.function, idempotency, payload, left_ns, asked.root)
            }
        };
        let ticket = match submitted {
            Ok(ticket) => ticket,
            Err(error) => return self.not_submitted(key, asked, error),
        };
        if !std::mem::replace(&mut room.is_unannounced, true) {
            self.unannounced_lanes.push(asked.lane);
        }
        let flight = room.next_flight;
        room.next_flight += 1;
        let (request_id, function) = (asked.request_id, asked.function);
        self.counters.flight_began();
        room.flights.push_back(Flight { number: flight, ticket, connection: key, request_id, function, reply_bytes });
        if let LaneState::Open(open) = &mut room.state {
            open.replies.set_aside(reply_bytes);
        }
        if !std::mem::replace(&mut room.is_busy, true) {
            self.busy_lanes.push(asked.lane);
            if !std::mem::replace(&mut self.lanes_watched, true) {
                self.timers.at(self.now + LANES_LOOK_PERIOD, Timer::Lanes);
            }
        }
        if let Some(connection) = self.connections.get_mut(key) {
            let Asked { request_id, lane, handle, payload_bytes, .. } = *asked;
            connection.calls.push_back(Call { request_id, lane, flight, handle, payload_bytes, reply_bytes });
            connection.expected_bytes += reply_bytes;
        }
        Begun::Yes
    }

    #[cold]
    fn not_submitted(&mut self, key: ConnectionKey, asked: &Asked, error: SubmitError) -> Begun {
        let (not_run, loan) = match error {
            // Cells of abandoned calls come back when their functions end: who waited would wait for others' calls.
            SubmitError::Full { what: Bounded::Quarantine, used, limit, loan } => {
                (NotRun::new(Outcome::Overloaded, limit, used), loan)
            }
            SubmitError::Full { loan, .. } => return Begun::NoRoom(loan),
            SubmitError::TooLarge { limit_bytes, actual_bytes, loan } => {
                (NotRun::new(Outcome::PayloadTooLarge, limit_bytes, actual_bytes), loan)
            }
            SubmitError::Unavailable { phase, loan } => (NotRun::unavailable(phase), loan),
            SubmitError::Lost { loan } => (NotRun::unavailable(Phase::Closed), loan),
            _ => (NotRun::unavailable(Phase::Closed), None),
        };
        if let Some(loan) = loan {
            self.return_loan(asked.lane, loan);
        }
        self.answered_unrun(key, asked, not_run)
    }

    fn return_loan(&self, lane: LaneKey, loan: LoanBlock) {
        if let Some(LaneState::Open(open)) = self.lanes.get(lane).map(|room| &room.state) {
            open.lane.return_loan(loan);
        }
    }

    fn answered_unrun(&mut self, key: ConnectionKey, asked: &Asked, not_run: NotRun) -> Begun {
        self.answer_unrun(key, asked, not_run);
        Begun::Yes
    }

    /// Answers a call that nobody ran.
    pub(super) fn answer_unrun(&mut self, key: ConnectionKey, asked: &Asked, not_run: NotRun) {
        let Asked { request_id, handle, payload_bytes, .. } = *asked;
        self.answer_not_run(key, Credit { request_id, handle, payload_bytes }, not_run);
    }

    /// The same of a request that never was a call.
    pub(super) fn answer_not_run(&mut self, key: ConnectionKey, credit: Credit, not_run: NotRun) {
        self.counters.refused();
        self.give_credit_back(key, credit.handle, credit.payload_bytes);
        self.push_response(key, &not_run.response(credit.request_id), None);
    }

    pub(super) fn give_credit_back(&mut self, key: ConnectionKey, handle: u32, payload_bytes: u32) {
        if let Some(connection) = self.connections.get_mut(key) {
            let _ = connection.give_credit_back(handle, payload_bytes);
        }
    }

    /// Takes a call off its connection's list.
    fn take_call(&mut self, key: ConnectionKey, request_id: u64) -> Option<Call> {
        self.connections.get_mut(key)?.take_call(request_id)
    }

    /// As [`NetworkShard::deliver`], for an answer that is small.
    pub(super) fn deliver_small(&mut self, key: ConnectionKey, request_id: u64, answer: &SmallAnswer) {
        let Some(connection) = self.connections.get_mut(key) else {
            let SmallAnswer { detail, more, .. } = *answer;
            return self.put_ended(key, request_id, (Outcome::Ok, detail, more), answer.as_slice().to_vec());
        };
        let Some(call) = connection.take_call(request_id) else { return };
        connection.call_succeeded(&call);
        let SmallAnswer { detail, more, .. } = *answer;
        let payload = answer.as_slice();
        let response = Response { request_id, outcome_code: Outcome::Ok as u32, detail, more };
        let head = response.encode_head(u32::try_from(payload.len()).unwrap_or(u32::MAX));
        self.gather(key, |message| message.push_pieces([&head, payload]));
        self.counters.answered();
    }

    /// Hands an answer to its client.
    pub(super) fn deliver(&mut self, key: ConnectionKey, request_id: u64, answer: Answer) {
        let Some(call) = self.take_call(key, request_id) else { return self.put_answered(key, request_id, &answer) };
        let outcome_code = match Outcome::from_code(answer.outcome_code) {
            // A worker cannot move a process.
            None | Some(Outcome::Moved) => UNREADABLE,
            Some(_) if answer.payload.is_none() => UNREADABLE,
            Some(outcome) => outcome as u32,
        };
        match self.connections.get_mut(key) {
            Some(connection) if outcome_code == Outcome::Ok as u32 => connection.call_succeeded(&call),
            _ => self.give_credit_back(key, call.handle, call.payload_bytes),
        }
        if let Some(loan) = answer.returned_loan {
            self.return_loan(call.lane, loan);
        }
        let response = Response { request_id, outcome_code, detail: answer.detail, more: answer.more };
        let payload = answer.payload.filter(|_| outcome_code != UNREADABLE);
        self.push_response(key, &response, payload);
        self.counters.answered();
    }

    /// Answers a call that was in flight when its lane was lost.
    pub(super) fn deliver_lost(&mut self, key: ConnectionKey, request_id: u64, not_run: NotRun) {
        let Some(call) = self.take_call(key, request_id) else {
            let NotRun { outcome, .. } = not_run;
            let Response { detail, more, .. } = not_run.response(request_id);
            return self.put_ended(key, request_id, (outcome, detail, more), Vec::new());
        };
        self.give_credit_back(key, call.handle, call.payload_bytes);
        self.push_response(key, &not_run.response(request_id), None);
    }

    /// The client no longer waits for a call. One that was answered meanwhile is none of ours.
    pub(super) fn cancel(&mut self, key: ConnectionKey, request_id: u64) {
        let Some(call) = self.take_call(key, request_id) else {
            for lane in self.lanes_of_link(key) {
                self.end_aside(lane, NotRun::cancelled(), |of, asked| of == key && asked.request_id == request_id);
            }
            return self.end_room_waits(key, NotRun::cancelled(), |credit| credit.request_id == request_id);
        };
        self.abandon(&call);
        self.give_credit_back(key, call.handle, call.payload_bytes);
        self.push_response(key, &NotRun::cancelled().response(request_id), None);
    }

    /// Takes a call out of its lane: nobody waits for its answer.
    pub(super) fn abandon(&mut self, call: &Call) {
        let Some(room) = self.lanes.get_mut(call.lane) else { return };
        let Ok(place) = room.flights.binary_search_by_key(&call.flight, |flight| flight.number) else { return };
        let Some(flight) = room.flights.remove(place) else { return };
        self.counters.flights_ended(1);
        if let LaneState::Open(open) = &mut room.state {
            open.replies.give_back(flight.reply_bytes);
            open.lane.abandon(flight.ticket);
        }
    }
}
