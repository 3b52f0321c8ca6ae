//! From a RESPONSE to the gateway that waits for it.
//!
//! What of a large answer lies among the received bytes is copied to its place in the gateway's lane, the rest is received by
//! the driver straight into it; where the lane has no room, it is kept for a while ([`super::kept_replies`]). An answer that
//! comes before the payload of its call was seen to be sent waits for that.

use praas_protocol::Outcome;
use praas_protocol::limits::REPLY_INLINE_BYTES;
use praas_protocol::message::codes;
use praas_protocol::wire::{Header, Response, Side};
use praas_shm::gateway_lane::RoomBuffer;
use praas_shm::io_buffer::{IoBuffer, LaneBuffer};
use praas_sys::driver::End;

use super::super::shard::NetworkShard;
use super::connection::LinkCall;
use super::kept_replies::KeptReply;
use super::routes::Handle;
use super::{LinkConnectionKey, is_delivery};
use crate::limits::{KEPT_REPLY_BYTES_MAX, LINK_PAUSE_MIN, SMALL_PAYLOAD_BYTES_MAX};

/// Where the payload of an answer is.
#[derive(Debug)]
enum Place {
    /// In memory of our own.
    Copy(Vec<u8>),
    /// In the lane; `None` while the driver fills it.
    Room(Option<RoomBuffer>),
    /// Nobody wants it.
    Nobody,
}

/// An answer, and how much of its payload has come.
#[derive(Debug)]
pub(super) struct Incoming {
    response: Response,
    bytes: usize,
    filled_bytes: usize,
    place: Place,
}

impl Incoming {
    /// If it answers a message: how those behind it are refused, which its sender may send before it has heard of this.
    pub(super) fn refusal(&self) -> Option<u32> {
        let Response { outcome_code, detail, .. } = self.response;
        let is_full = outcome_code == Outcome::FunctionFailed as u32 && detail == codes::MAILBOX_FULL;
        let code = if is_full { codes::MAILBOX_FULL } else { codes::BUSY };
        (outcome_code != Outcome::Ok as u32).then_some(code)
    }

    fn copied_bytes(&self) -> usize {
        if let Place::Copy(copy) = &self.place { copy.len() } else { 0 }
    }
}

impl NetworkShard {
    /// An answer came, with the beginning of its payload.
    pub(super) fn response_came(
        &mut self,
        key: LinkConnectionKey,
        header: &Header,
        response: Response,
        payload: &[u8],
        missing_bytes: usize,
    ) -> Result<(), String> {
        let Some(connection) = self.links.connections.get_mut(key) else { return Ok(()) };
        let _ = connection.rules.show(Side::Server, header).map_err(|error| error.to_string())?;
        let unasked = "it answers a call that is not in flight";
        let call = connection.place_of(response.request_id).and_then(|place| connection.calls.get(place));
        let call = call.filter(|call| call.early.is_none()).ok_or(unasked)?;
        connection.rules.answered(call.payload_bytes).map_err(|error| error.to_string())?;
        let (gateway, target, is_answered, function) = (call.gateway, call.target, call.is_answered, call.function);
        let bytes = payload.len() + missing_bytes;
        if bytes > SMALL_PAYLOAD_BYTES_MAX
            && let Some(route) = self.links.routes.get_mut(&gateway)
        {
            route.learn_large(function);
        }
        let place = if is_answered {
            Place::Nobody
        } else if bytes <= REPLY_INLINE_BYTES {
            Place::Copy(payload.to_vec())
        } else {
            match self.gateway_room(gateway, target, bytes) {
                Some(mut room) => {
                    room.store(0, payload);
                    Place::Room(Some(room))
                }
                // As much memory as has come, not as was announced.
                None if self.may_keep_answer(key, bytes) => Place::Copy(payload.to_vec()),
                None => Place::Nobody,
            }
        };
        let incoming = Incoming { response, bytes, filled_bytes: payload.len(), place };
        if missing_bytes > 0 {
            if let Some(connection) = self.links.connections.get_mut(key) {
                connection.incoming = Some(Box::new(incoming));
            }
            return Ok(());
        }
        self.answer_is_whole(key, incoming);
        Ok(())
    }

    /// Whether an answer of this size may be kept beside those that are kept already. What it announces is the other server's
    /// word.
    fn may_keep_answer(&self, key: LinkConnectionKey, bytes: usize) -> bool {
        let Some(connection) = self.links.connections.get(key) else { return false };
        let kept_bytes = self.links.of.get(&connection.peer).map_or(0, |link| link.kept.bytes());
        let early = connection.calls.iter().filter_map(|call| call.early.as_ref());
        let early_bytes: usize = early.map(|answer| answer.copied_bytes()).sum();
        kept_bytes + early_bytes + bytes <= KEPT_REPLY_BYTES_MAX
    }

    /// More of an answer's payload, that was received before the driver was told where it goes.
    pub(super) fn more_of_answer_came(&mut self, key: LinkConnectionKey, bytes: &[u8]) {
        let Some(connection) = self.links.connections.get_mut(key) else { return };
        let Some(incoming) = &mut connection.incoming else { return };
        match &mut incoming.place {
            Place::Copy(copy) => copy.extend_from_slice(bytes),
            Place::Room(Some(room)) => {
                room.store(incoming.filled_bytes, bytes);
            }
            Place::Room(None) | Place::Nobody => {}
        }
        incoming.filled_bytes += bytes.len();
        if incoming.filled_bytes == incoming.bytes
            && let Some(incoming) = connection.incoming.take()
        {
            self.answer_is_whole(key, *incoming);
        }
    }

    /// Everything that was received is read: what is missing of an answer goes straight to its place.
    pub(super) fn receive_rest_of_answer(&mut self, key: LinkConnectionKey) -> Result<(), String> {
        let Some(connection) = self.links.connections.get_mut(key) else { return Ok(()) };
        let Some(incoming) = &mut connection.incoming else { return Ok(()) };
        let Place::Room(place) = &mut incoming.place else { return Ok(()) };
        let Some(room) = place.take() else { return Ok(()) };
        let range = incoming.filled_bytes..incoming.bytes;
        let received = self.driver.receive_into(connection.source, LaneBuffer::Room(room), range);
        received.map_err(|refused| format!("receiving from it: {}", refused.refusal))
    }

    /// The driver has filled a place, or as much of it as came.
    pub(in super::super) fn answer_filled(
        &mut self,
        key: LinkConnectionKey,
        buffer: LaneBuffer,
        bytes: usize,
        end: End,
    ) {
        let Some(connection) = self.links.connections.get_mut(key).filter(|connection| !connection.is_closing) else {
            return;
        };
        connection.heard = self.now;
        let received = u32::try_from(bytes).unwrap_or(u32::MAX);
        if received <= connection.decoder.missing_payload_bytes() {
            connection.decoder.payload_received(received);
        }
        if end != End::Done {
            return self.peer_has_ended(key, end);
        }
        if let (Some(mut incoming), LaneBuffer::Room(room)) = (connection.incoming.take(), buffer) {
            incoming.filled_bytes = incoming.bytes;
            incoming.place = match incoming.place {
                Place::Room(_) => Place::Room(Some(room)),
                other => other,
            };
            self.answer_is_whole(key, *incoming);
        }
    }

    /// An answer is all there.
    fn answer_is_whole(&mut self, key: LinkConnectionKey, incoming: Incoming) {
        let Some(connection) = self.links.connections.get_mut(key) else { return };
        let Some(place) = connection.place_of(incoming.response.request_id) else { return };
        let is_sent = connection.calls.get(place).is_some_and(|call| call.message < connection.sends_ended);
        if is_sent {
            let call = if place == 0 { connection.calls.pop_front() } else { connection.calls.remove(place) };
            if let Some(call) = call {
                connection.unsettled -= usize::from(call.is_abandoned && !call.is_answered);
                self.settle_call(key, &call, Some(incoming));
            }
        } else if let Some(call) = connection.calls.get_mut(place) {
            connection.unsettled += usize::from(!call.is_abandoned);
            call.early = Some(Box::new(incoming));
        }
    }

    /// Answers calls whose payloads were sent meanwhile.
    pub(super) fn settle_sent_calls(&mut self, key: LinkConnectionKey) {
        let mut at = 0;
        loop {
            let Some(connection) = self.links.connections.get_mut(key) else { return };
            let Some(call) = connection.calls.get_mut(at) else { return };
            if call.message >= connection.sends_ended {
                return;
            }
            if call.early.is_some() {
                let Some(mut call) = connection.calls.remove(at) else { return };
                connection.unsettled -= 1;
                let answer = call.early.take().map(|answer| *answer);
                self.settle_call(key, &call, answer);
            } else {
                if call.is_abandoned && !call.is_answered {
                    call.is_answered = true;
                    connection.unsettled -= 1;
                    let (gateway, target) = (call.gateway, call.target);
                    self.gateway_reply(gateway, target, Outcome::Cancelled, 0, 0, &[]);
                }
                at += 1;
            }
        }
    }

    /// A call is over: its credit goes to others, its answer to its gateway.
    fn settle_call(&mut self, key: LinkConnectionKey, call: &LinkCall, answer: Option<Incoming>) {
        let Some(connection) = self.links.connections.get(key) else { return };
        let (class, peer) = (connection.class, connection.peer);
        if let Some(link) = self.links.of.get_mut(&peer) {
            // A link that carries calls is a good one.
            link.pause = LINK_PAUSE_MIN;
        }
        if let Some(route) = self.links.routes.get_mut(&call.gateway) {
            let way = &mut route.ways[class.index()];
            if let Handle::Open { in_flight, .. } = &mut way.handle {
                *in_flight -= 1;
            }
            if is_delivery(call.function) {
                way.messages -= 1;
            }
            if let Some(code) = answer.as_ref().and_then(Incoming::refusal) {
                if is_delivery(call.function) && route.refusing.is_none() {
                    route.refused_on = class;
                }
                route.note_undelivered(call.function, code);
            }
        }
        if let (false, Some(answer)) = (call.is_answered, answer) {
            self.deliver_answer(peer, call, answer);
        }
        self.serve_route(call.gateway);
        self.spend_credit(key);
        self.part_if_quiet(peer);
    }

    /// Hands an answer to the gateway that waits for it.
    pub(super) fn deliver_answer(&mut self, peer: usize, call: &LinkCall, answer: Incoming) {
        let Incoming { response: Response { outcome_code, detail, more, .. }, bytes, place, .. } = answer;
        // Of an outcome that is not known here it is unknown whether the call ran.
        let known = Outcome::from_code(outcome_code);
        let (outcome, detail, more) = known.map_or((Outcome::ConnectionLost, 1, 0), |outcome| (outcome, detail, more));
        let (gateway, target) = (call.gateway, call.target);
        match place {
            Place::Room(Some(room)) if known.is_some() => {
                self.gateway_reply_room(gateway, target, outcome, detail, more, room);
            }
            Place::Copy(copy) if copy.len() <= REPLY_INLINE_BYTES || known.is_none() => {
                let copy = if known.is_some() { &copy[..] } else { &[] };
                self.gateway_reply(gateway, target, outcome, detail, more, copy);
            }
            Place::Copy(payload) => {
                self.keep_reply(peer, KeptReply { gateway, target, outcome, detail, more, payload });
            }
            // Their gateway knows by itself that nobody waits.
            Place::Room(_) | Place::Nobody => {
                let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
                self.gateway_reply(gateway, target, Outcome::ReplyLost, 0, bytes, &[]);
            }
        }
    }

    /// Nobody waits any more for some of the calls in flight on a connection.
    pub(super) fn abandon_on(&mut self, key: LinkConnectionKey, is_it: impl Fn(&LinkCall) -> bool) {
        let Some(connection) = self.links.connections.get_mut(key) else { return };
        let sends_ended = connection.sends_ended;
        let (mut cancelled, mut answered) = (Vec::new(), Vec::new());
        for call in connection.calls.iter_mut().filter(|call| !call.is_abandoned && is_it(call)) {
            call.is_abandoned = true;
            if call.early.is_none() {
                cancelled.push(call.request_id);
                if call.message < sends_ended {
                    call.is_answered = true;
                    answered.push((call.gateway, call.target));
                } else {
                    connection.unsettled += 1;
                }
            }
        }
        for request_id in cancelled {
            self.push_to_peer(key, |out| praas_protocol::wire::Cancel { request_id }.encode(out));
        }
        for (gateway, target) in answered {
            self.gateway_reply(gateway, target, Outcome::Cancelled, 0, 0, &[]);
        }
    }
}
