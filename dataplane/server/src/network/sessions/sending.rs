//! What the client of a session sends: in the order of its calls for each destination, one message after another.
//!
//! A message is answered when its receiver's mailbox has it. It may be sent again with the same number, whatever became of it
//! the first time: all ways lead through a filter of repetitions, and one message at a time keeps it from overtaking others.
//!
//! Invariants:
//! 1. A payload lies where the client has put it until it is its turn, so that what waits here takes no memory of the server's.
//! 2. What may have arrived before is put by a call ([`super::putting`]): a lane knows a repetition only as long as not too many
//!    others have come after it.
//! 3. A message that finds no room is tried again, with pauses, until its time is over; then certainly nothing was taken.

use std::time::{Duration, Instant};

use praas_protocol::control::ControlError;
use praas_protocol::limits::KEY_BYTES_MAX;
use praas_protocol::message::{Accepted, Address, MessageId, PutHead, SessionId, codes};
use praas_protocol::session::{SEND_HEAD_BYTES, SendHead};
use praas_protocol::token::{Claims, Rights, Scope};
use praas_protocol::{Outcome, Phase, ProcessId};

use super::ways::{Outgoing, RoomAnswer, RoomSend, Route};
use super::{Call, Refusal};
use crate::gateways::{SessionClient, Speaker};
use crate::limits::{
    GATEWAY_END_MAX, LANE_LINGER, SESSION_LINK_BYTES_MAX, SESSION_RETRY_PAUSE_MAX, SESSION_RETRY_PAUSE_MIN,
    SESSION_WAIT_MAX, SESSION_WAYS_KEPT,
};
use crate::network::gateways::{GatewayKey, TakenCall, TakenPayload};
use crate::network::outbound::{Unpublished, Way};
use crate::network::shard::NetworkShard;

/// A message that was not sent yet.
#[derive(Debug)]
pub(super) struct Unsent {
    gateway: GatewayKey,
    target: u64,
    /// How long it waits for room.
    until: Instant,
    /// How long it waits for anything else: the end of the call.
    pub(super) end: Instant,
    sequence: u64,
    /// Whether it may have arrived before.
    again: bool,
    /// Of the message alone.
    bytes: usize,
    pause: Duration,
    payload: TakenPayload,
}

impl Unsent {
    /// The call that it came by.
    pub(super) fn call(&self) -> (GatewayKey, u64) {
        (self.gateway, self.target)
    }
}

/// What became of one attempt.
pub(super) enum Attempt {
    Accepted(Accepted),
    Refused(Refusal),
    /// Not now; if it is too late then, this was why.
    Later(Refusal),
    /// A letter or a call is on its way.
    InFlight(u64),
}

impl From<Refusal> for Attempt {
    fn from(refusal: Refusal) -> Self {
        let is_for_now =
            refusal.outcome == Outcome::FunctionFailed && matches!(refusal.detail, codes::MAILBOX_FULL | codes::BUSY);
        if is_for_now { Self::Later(refusal) } else { Self::Refused(refusal) }
    }
}

impl NetworkShard {
    pub(super) fn session_send(
        &mut self,
        call: &Call,
        client: &SessionClient,
        taken: TakenCall,
    ) -> Result<(), Refusal> {
        let now = self.now;
        let first = taken.payload.first_bytes((SEND_HEAD_BYTES + KEY_BYTES_MAX).next_multiple_of(16));
        let (SendHead { to, sequence, within_ns, again, key }, _) =
            SendHead::decode(&first).map_err(Refusal::bad_request)?;
        let bytes = taken.payload.len() - SendHead::bytes_before_payload(&key);
        let Some(room) = self.session_rooms.get_mut(&call.session) else {
            return Err(Refusal::gone());
        };
        let covers = match (&client.scope, to) {
            (Scope::Any, _) => true,
            (Scope::Application(application), _) => *application == room.application,
            (scope, Address::Process(process)) => scope.covers(&ProcessId { application: room.application, process }),
            (Scope::Process(_), Address::Client(_)) => false,
        };
        if !covers || !client.rights.contains(Rights::MESSAGES) {
            return Err(Refusal::bare(Outcome::Unauthorized, 0, 0));
        }
        let until = now + Duration::from_nanos(within_ns).min(SESSION_WAIT_MAX);
        let end = taken.deadline.map_or(now + SESSION_WAIT_MAX, |deadline| deadline.min(now + SESSION_WAIT_MAX));
        let outgoing = room.outgoing.entry(to).or_insert_with(|| Outgoing::new(now));
        outgoing.queue.push_back(Unsent {
            gateway: call.gateway,
            target: taken.target,
            until,
            end,
            sequence,
            again,
            bytes,
            pause: SESSION_RETRY_PAUSE_MIN,
            payload: taken.payload,
        });
        if outgoing.queue.len() == 1 {
            self.serve_destination(call.session, to);
        }
        self.forget_idle_ways(call.session);
        self.look_at_session_again(call.session, now + LANE_LINGER);
        Ok(())
    }

    /// Tries what waits, for all destinations.
    pub(super) fn serve_outgoing(&mut self, session: SessionId) {
        let Some(room) = self.session_rooms.get(&session) else { return };
        let waiting: Vec<_> =
            room.outgoing.iter().filter(|(_, outgoing)| !outgoing.queue.is_empty()).map(|(to, _)| *to).collect();
        waiting.into_iter().for_each(|to| self.serve_destination(session, to));
    }

    /// Sends what waits for one destination, until one has to wait.
    fn serve_destination(&mut self, session: SessionId, to: Address) {
        // As many as a lane has cells, or more that come meanwhile: the rest in a later turn.
        for _ in 0..crate::limits::SESSION_CALLS {
            let Some(outgoing) = self.session_rooms.get_mut(&session).and_then(|room| room.outgoing.get_mut(&to))
            else {
                return;
            };
            let Some(first) = outgoing.queue.front() else { return };
            let (gateway, target) = (first.gateway, first.target);
            if outgoing.in_flight.is_some() {
                let overdue_at = first.end + GATEWAY_END_MAX;
                if overdue_at > self.now {
                    return self.look_at_session_again(session, overdue_at);
                }
                // Whoever was to answer never does: what became of it is not known, and what follows waits no longer.
                outgoing.in_flight = None;
                self.end_first(session, to, |shard| {
                    shard.gateway_reply(gateway, target, Outcome::ConnectionLost, 1, 0, &[]);
                });
                continue;
            }
            if self.gateway_call_is_abandoned(gateway, target) {
                self.end_first(session, to, |shard| {
                    shard.gateway_reply(gateway, target, Outcome::Cancelled, 0, 0, &[]);
                });
                continue;
            }
            match self.attempt(session, to) {
                Attempt::Accepted(accepted) => self.end_first(session, to, |shard| {
                    shard.gateway_reply(gateway, target, Outcome::Ok, 0, 0, &[accepted as u8]);
                }),
                Attempt::Refused(refusal) => self.end_first(session, to, |shard| {
                    shard.refuse_session_call(gateway, target, &refusal);
                }),
                Attempt::Later(refusal) => {
                    if !self.try_later(session, to, refusal.waits_for_room()) {
                        self.end_first(session, to, |shard| shard.refuse_session_call(gateway, target, &refusal));
                        continue;
                    }
                    return;
                }
                Attempt::InFlight(number) => {
                    let outgoing = self.session_rooms.get_mut(&session).and_then(|room| room.outgoing.get_mut(&to));
                    let Some(outgoing) = outgoing else { return };
                    outgoing.in_flight = Some(number);
                    if let Some(overdue_at) = outgoing.queue.front().map(|first| first.end + GATEWAY_END_MAX) {
                        self.look_at_session_again(session, overdue_at);
                    }
                    return;
                }
            }
        }
        self.look_at_session_again(session, self.now);
    }

    /// The first message is done with.
    fn end_first(&mut self, session: SessionId, to: Address, answer: impl FnOnce(&mut Self)) {
        let now = self.now;
        let outgoing = self.session_rooms.get_mut(&session).and_then(|room| room.outgoing.get_mut(&to));
        if let Some(outgoing) = outgoing {
            outgoing.queue.pop_front();
            outgoing.used_at = now;
        }
        answer(self);
    }

    /// Sets a time for the next attempt with the first message, which waits for room or for something else. False if its time
    /// is over.
    fn try_later(&mut self, session: SessionId, to: Address, for_room: bool) -> bool {
        let now = self.now;
        let outgoing = self.session_rooms.get_mut(&session).and_then(|room| room.outgoing.get_mut(&to));
        let Some(first) = outgoing.and_then(|outgoing| outgoing.queue.front_mut()) else { return true };
        let until = if for_room { first.until } else { first.end };
        if until <= now {
            return false;
        }
        let at = (now + first.pause).min(until);
        first.pause = (first.pause * 2).min(SESSION_RETRY_PAUSE_MAX);
        self.look_at_session_again(session, at);
        true
    }

    fn attempt(&mut self, session: SessionId, to: Address) -> Attempt {
        let route = match self.route_to(session, to) {
            Ok(route) => route,
            Err(refusal) => return refusal.into(),
        };
        match route {
            Route::Room(receiver) => self.attempt_into_room(session, to, receiver),
            Route::Lane(_) => self.attempt_into_lane(session, to, route),
            Route::Put(lane) => self.attempt_put(session, to, lane),
            Route::Link { peer, shard } => self.attempt_over_link(session, to, peer, shard),
            Route::Unknown => Attempt::Refused(no_destination(&to)),
        }
    }

    /// Where a destination is, looked for if that is not known.
    fn route_to(&mut self, session: SessionId, to: Address) -> Result<Route, Refusal> {
        let Some(room) = self.session_rooms.get(&session) else { return Err(Refusal::gone()) };
        let (application, incarnation) = (room.application, room.incarnation);
        let known = room.outgoing.get(&to).map_or(Route::Unknown, |outgoing| outgoing.route);
        let is_there = |receiver| self.session_rooms.get(&receiver).is_some_and(|room| room.application == application);
        let route = match (known, to) {
            (Route::Room(receiver), _) if is_there(receiver) => return Ok(known),
            (Route::Lane(_) | Route::Link { .. }, _) => return Ok(known),
            (Route::Put(lane), _) if self.is_usable_lane(lane) => return Ok(known),
            (_, Address::Client(receiver)) if is_there(receiver) => Route::Room(receiver),
            (_, Address::Client(_)) => self.link_to(session, to).ok_or_else(|| self.nowhere(&to))?,
            (_, Address::Process(process)) => {
                let token = self.own_token();
                let control = self.session_of(&token).map_err(|error| refusal_of(&error, &to))?;
                let process = ProcessId { application, process };
                let source = Address::Client(session);
                Route::Lane(self.outbound_to(Way { session: control, process, source, incarnation }))
            }
        };
        self.set_route(session, to, route);
        Ok(route)
    }

    pub(super) fn set_route(&mut self, session: SessionId, to: Address, route: Route) {
        let outgoing = self.session_rooms.get_mut(&session).and_then(|room| room.outgoing.get_mut(&to));
        let before = outgoing.map(|outgoing| std::mem::replace(&mut outgoing.route, route));
        if let Some(before) = before.filter(|before| *before != route) {
            self.leave_route(before);
        }
    }

    /// Nobody is known by this name, or not yet: other servers say what they have soon after this one has started.
    fn nowhere(&self, to: &Address) -> Refusal {
        if self.plan.elsewhere.is_learning() {
            return Refusal::failed(codes::BUSY, "the other servers have not yet said what they have");
        }
        no_destination(to)
    }

    fn link_to(&self, session: SessionId, to: Address) -> Option<Route> {
        let application = self.session_rooms.get(&session)?.application;
        let place = self.plan.elsewhere.find(application, &to)?;
        Some(Route::Link { peer: place.peer, shard: place.shard })
    }

    /// The message at the head of a queue in private memory: its payload and where its own bytes begin.
    pub(super) fn first_message(&self, session: SessionId, to: Address) -> Option<(Vec<u8>, MessageId)> {
        let room = self.session_rooms.get(&session)?;
        let first = room.outgoing.get(&to)?.queue.front()?;
        let id = MessageId { incarnation: room.incarnation, sequence: first.sequence };
        Some((first.payload.to_vec(), id))
    }

    fn attempt_into_room(&mut self, session: SessionId, to: Address, receiver: SessionId) -> Attempt {
        if self.session_rooms.get(&receiver).is_some_and(|room| room.is_full) {
            return Attempt::Later(Refusal::failed(codes::MAILBOX_FULL, "the mailbox of the session is full"));
        }
        let Some((payload, id)) = self.first_message(session, to) else { return unreadable() };
        // Its client may have written it anew since it was queued: it is checked again, and goes where it was to go.
        let Ok((SendHead { key, .. }, bytes)) = SendHead::decode(&payload) else { return unreadable() };
        let head = PutHead { source: Address::Client(session), id, key };
        match self.put_into_session(receiver, &head, bytes) {
            Ok(accepted) => Attempt::Accepted(accepted),
            Err(refusal) => refusal.into(),
        }
    }

    fn attempt_into_lane(&mut self, session: SessionId, to: Address, route: Route) -> Attempt {
        let Route::Lane(lane) = route else { return unreadable() };
        let room = self.session_rooms.get(&session);
        let first = room.and_then(|room| room.outgoing.get(&to)).and_then(|outgoing| outgoing.queue.front());
        let Some((bytes, again)) = first.map(|first| (first.bytes, first.again)) else { return unreadable() };
        if let Err(error) = self.outbound_room(lane, bytes) {
            return self.unpublished(session, to, error, bytes);
        }
        if again {
            return self.attempt_by_put(session, to);
        }
        let Some((payload, id)) = self.first_message(session, to) else { return unreadable() };
        let Ok((SendHead { key, .. }, bytes)) = SendHead::decode(&payload) else { return unreadable() };
        match self.publish(lane, id, key, bytes) {
            Ok(()) => Attempt::Accepted(Accepted::Now),
            Err(error) => {
                let bytes = bytes.len();
                self.unpublished(session, to, error, bytes)
            }
        }
    }

    fn unpublished(&mut self, session: SessionId, to: Address, error: Unpublished, bytes: usize) -> Attempt {
        match error {
            Unpublished::Opening => {
                Attempt::Later(Refusal::failed(codes::BUSY, "the way to the receiver is not open yet"))
            }
            Unpublished::Full => {
                Attempt::Later(Refusal::failed(codes::MAILBOX_FULL, "the mailbox of the process is full"))
            }
            Unpublished::TooLarge { limit_bytes } => {
                let words = |bytes: u64| u32::try_from(bytes).unwrap_or(u32::MAX);
                Attempt::Refused(Refusal::bare(Outcome::PayloadTooLarge, words(limit_bytes), words(bytes as u64)))
            }
            Unpublished::Refused(ControlError::Elsewhere { .. } | ControlError::LimitReached { .. }) => {
                self.attempt_by_put(session, to)
            }
            // Names of this server win, so this is looked for only now.
            Unpublished::Refused(ControlError::UnknownProcess { .. }) => match self.link_to(session, to) {
                Some(route) => {
                    self.set_route(session, to, route);
                    self.attempt(session, to)
                }
                None => {
                    self.set_route(session, to, Route::Unknown);
                    self.nowhere(&to).into()
                }
            },
            Unpublished::Refused(error) => {
                self.set_route(session, to, Route::Unknown);
                refusal_of(&error, &to).into()
            }
        }
    }

    /// This message and those after it are put by calls.
    fn attempt_by_put(&mut self, session: SessionId, to: Address) -> Attempt {
        match self.begin_to_put(session, to) {
            Ok(()) => self.attempt(session, to),
            Err(error) => {
                self.set_route(session, to, Route::Unknown);
                refusal_of(&error, &to).into()
            }
        }
    }

    fn attempt_over_link(&mut self, session: SessionId, to: Address, peer: usize, shard: usize) -> Attempt {
        let Some(room) = self.session_rooms.get(&session) else { return unreadable() };
        let Some(first) = room.outgoing.get(&to).and_then(|outgoing| outgoing.queue.front()) else {
            return unreadable();
        };
        let (bytes, until) = (first.bytes, first.end);
        let speaker =
            Speaker { application: room.application, source: Address::Client(session), incarnation: room.incarnation };
        let travelling: usize = room
            .outgoing
            .values()
            .filter(|outgoing| outgoing.in_flight.is_some())
            .filter_map(|outgoing| outgoing.queue.front().map(|first| first.bytes))
            .sum();
        if travelling > 0 && travelling + bytes > SESSION_LINK_BYTES_MAX {
            return Attempt::Later(Refusal::failed(
                codes::BUSY,
                "messages of this session to other servers are on their way",
            ));
        }
        let Some((payload, id)) = self.first_message(session, to) else { return unreadable() };
        let Ok((SendHead { key, .. }, bytes)) = SendHead::decode(&payload) else { return unreadable() };
        let payload = PutHead { source: Address::Client(session), id, key }.encode(bytes);
        self.last_letter += 1;
        let number = self.last_letter;
        self.send_letter(shard, to, |sender| RoomSend { sender, speaker, peer, number, until, payload });
        Attempt::InFlight(number)
    }

    /// A message that travelled with a letter, or was put, was answered.
    pub(in crate::network) fn room_answered(&mut self, answer: RoomAnswer) {
        let RoomAnswer { session, to, number, outcome, detail, more, bytes } = answer;
        let outgoing = self.session_rooms.get_mut(&session).and_then(|room| room.outgoing.get_mut(&to));
        let Some(outgoing) = outgoing.filter(|outgoing| outgoing.in_flight == Some(number)) else { return };
        outgoing.in_flight = None;
        let Some(first) = outgoing.queue.front() else { return };
        let (gateway, target) = (first.gateway, first.target);
        // Of these it is certain that nothing was taken.
        let is_for_now = match outcome {
            Outcome::FunctionFailed => matches!(detail, codes::MAILBOX_FULL | codes::BUSY),
            Outcome::ConnectionLost => detail == 0,
            // A put is repeated with the same result.
            Outcome::WorkerLost => matches!(outgoing.route, Route::Put(_)),
            outcome => outcome == Outcome::Unavailable,
        };
        let for_room = outcome == Outcome::FunctionFailed && detail == codes::MAILBOX_FULL;
        if is_for_now && self.try_later(session, to, for_room) {
            return;
        }
        if outcome == Outcome::UnknownProcess {
            self.set_route(session, to, Route::Unknown);
        }
        self.end_first(session, to, |shard| match outcome {
            Outcome::UnknownProcess => shard.refuse_session_call(gateway, target, &no_destination(&to)),
            outcome => shard.gateway_reply(gateway, target, outcome, detail, more, &bytes),
        });
        self.serve_destination(session, to);
    }

    /// Takes a message back that waits. False if it is not there, or on its way.
    pub(super) fn drop_unsent(&mut self, session: SessionId, gateway: GatewayKey, target: u64) -> bool {
        let Some(room) = self.session_rooms.get_mut(&session) else { return false };
        for outgoing in room.outgoing.values_mut() {
            let place = outgoing.queue.iter().position(|unsent| unsent.gateway == gateway && unsent.target == target);
            if let Some(place) = place.filter(|place| *place > 0 || outgoing.in_flight.is_none()) {
                outgoing.queue.remove(place);
                return true;
            }
        }
        false
    }

    /// The lane that these came by is gone. One that is on its way keeps its place: what follows must not overtake it.
    pub(super) fn drop_unsent_of(&mut self, session: SessionId, gateway: GatewayKey) {
        let Some(room) = self.session_rooms.get_mut(&session) else { return };
        for outgoing in room.outgoing.values_mut() {
            let first = outgoing.in_flight.and_then(|_| outgoing.queue.pop_front());
            outgoing.queue.retain(|unsent| unsent.gateway != gateway);
            if let Some(first) = first {
                outgoing.queue.push_front(first);
            }
        }
        self.serve_outgoing(session);
    }

    /// Closes ways that were not used for longest, if there are many.
    fn forget_idle_ways(&mut self, session: SessionId) {
        let Some(room) = self.session_rooms.get_mut(&session) else { return };
        let mut closed = Vec::new();
        while room.outgoing.len() > SESSION_WAYS_KEPT {
            let idle = room.outgoing.iter().filter(|(_, outgoing)| outgoing.is_idle());
            let Some(to) = idle.min_by_key(|(_, outgoing)| outgoing.used_at).map(|(to, _)| *to) else { break };
            closed.extend(room.outgoing.remove(&to));
        }
        closed.iter().for_each(|outgoing| self.close_way(outgoing));
    }

    /// The token by which this server's own sessions send: it is trusted, because what it says was checked here.
    pub(super) fn own_token(&mut self) -> std::rc::Rc<str> {
        if let Some(token) = &self.own_token {
            return std::rc::Rc::clone(token);
        }
        let claims = Claims {
            principal: "praas".parse().expect("a name"),
            scope: Scope::Any,
            rights: Rights::MESSAGES.with(Rights::TRUSTED).with(Rights::INVOKE),
            expires_unix_s: None,
        };
        let token: std::rc::Rc<str> = self.plan.secret.sign(&claims).into();
        self.own_token.insert(token).clone()
    }
}

fn no_destination(to: &Address) -> Refusal {
    let what = format!("there is no {to} in this application, on this server or one that it is linked to");
    Refusal::failed(codes::NO_DESTINATION, what)
}

pub(super) fn unreadable() -> Attempt {
    Attempt::Refused(Refusal::bad_request("the message was changed while it was sent"))
}

/// What the server's loop refused.
fn refusal_of(error: &ControlError, to: &Address) -> Refusal {
    match error {
        ControlError::UnknownProcess { .. } | ControlError::UnknownSession { .. } => no_destination(to),
        ControlError::ShuttingDown => Refusal::unavailable(Phase::Closed),
        ControlError::WrongState { .. } => Refusal::unavailable(Phase::Draining),
        ControlError::Unauthorized { .. } => Refusal::bare(Outcome::Unauthorized, 0, 0),
        error => Refusal::failed(codes::NOT_SENT, error),
    }
}
