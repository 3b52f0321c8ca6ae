//! From a call that waits to a REQUEST: handles, credit, turns.
//!
//! Gateways that find no credit on a connection get it in turn. Calls that may run for long leave a part of a connection's
//! credit to messages, which are answered at once.

use std::time::Instant;

use praas_protocol::control::ControlError;
use praas_protocol::limits::{PAYLOAD_BYTES_MAX, WIRE_HEADER_BYTES};
use praas_protocol::message::codes;
use praas_protocol::wire::{Header, OpenAs, Opened, REQUEST_HEAD_BYTES_MAX, Refusal, Request, Side};
use praas_protocol::{Outcome, Phase};
use praas_shm::io_buffer::{IoBuffer, LaneBuffer};

use super::super::gateways::GatewayKey;
use super::super::shard::NetworkShard;
use super::connection::LinkCall;
use super::routes::{Handle, Payload, Waiting};
use super::{CLASSES, Class, DELIVER, DELIVER_NEXT, LinkConnectionKey, is_delivery};
use crate::limits::{LINK_COPIED_BYTES_MAX, MESSAGE_CREDIT_PARTS};

/// What became of an attempt to send the next call of a route on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// It went, or was answered.
    Done,
    /// There is none, or it waits for something that serves the route when it comes.
    Waits,
    /// The connection has no credit.
    NoCredit,
}

impl NetworkShard {
    /// Sends what can be sent of a route.
    pub(super) fn serve_route(&mut self, gateway: GatewayKey) {
        for class in CLASSES {
            self.serve_way(gateway, class);
        }
    }

    /// A link is up, or anew.
    pub(super) fn serve_all_routes(&mut self, peer: usize) {
        let routes = self.links.of.get(&peer).map(|link| link.routes.iter().copied().collect::<Vec<_>>());
        for gateway in routes.unwrap_or_default() {
            self.serve_route(gateway);
        }
    }

    fn serve_way(&mut self, gateway: GatewayKey, class: Class) {
        // Each step takes a call out of a queue, so this ends.
        while let Some(key) = self.way_with_calls(gateway, class) {
            match self.send_next(key, gateway, class) {
                Step::Done => {}
                Step::Waits => return,
                Step::NoCredit => return self.wait_for_credit(key, gateway, class),
            }
        }
    }

    /// Calls that waited for credit go on, in turn.
    pub(super) fn spend_credit(&mut self, key: LinkConnectionKey) {
        loop {
            let Some(connection) = self.links.connections.get_mut(key) else { return };
            let class = connection.class;
            let Some(gateway) = connection.waiting.pop_front() else { return };
            let Some(route) = self.links.routes.get_mut(&gateway) else { continue };
            route.ways[class.index()].is_waiting = false;
            self.serve_way(gateway, class);
            if self.links.routes.get(&gateway).is_some_and(|route| route.ways[class.index()].is_waiting) {
                return;
            }
        }
    }

    /// The connection for the next call of a route, if there is such a call and the link is up.
    fn way_with_calls(&self, gateway: GatewayKey, class: Class) -> Option<LinkConnectionKey> {
        let route = self.links.routes.get(&gateway).filter(|route| route.has_call_for(class))?;
        self.link_connection(route.peer, class)
    }

    fn wait_for_credit(&mut self, key: LinkConnectionKey, gateway: GatewayKey, class: Class) {
        let Some(route) = self.links.routes.get_mut(&gateway) else { return };
        if !std::mem::replace(&mut route.ways[class.index()].is_waiting, true)
            && let Some(connection) = self.links.connections.get_mut(key)
        {
            connection.waiting.push_back(gateway);
        }
    }

    fn send_next(&mut self, key: LinkConnectionKey, gateway: GatewayKey, class: Class) -> Step {
        let Some(route) = self.links.routes.get_mut(&gateway) else { return Step::Waits };
        let (number, payload_bytes_max, has_room) = match route.ways[class.index()].handle {
            Handle::None => return self.ask_for_handle(key, gateway, class),
            Handle::Asked(_) => return Step::Waits,
            Handle::Open { number, payload_bytes_max, in_flight_max, in_flight } => {
                (number, payload_bytes_max, in_flight < in_flight_max)
            }
        };
        let is_message = route.has_message_for(class);
        let queue = if is_message { &mut route.messages } else { &mut route.others[class.index()] };
        let Some(call) = queue.front() else { return Step::Waits };
        let payload_bytes = u32::try_from(call.payload.bytes()).unwrap_or(u32::MAX);
        let is_behind = call.function == DELIVER_NEXT && (route.lost || route.refusing.is_some());
        let too_large = payload_bytes > payload_bytes_max.min(PAYLOAD_BYTES_MAX);
        let is_late = call.gives_up <= self.now;
        if is_behind || too_large || is_late {
            let refusing = route.refusing.filter(|_| !route.lost);
            let Some(call) = queue.pop_front() else { return Step::Waits };
            match (is_behind, is_late) {
                (true, _) => self.answer_behind(gateway, call.target, refusing),
                (_, true) => self.answer_late(gateway, &call, true),
                _ => {
                    let outcome = Outcome::PayloadTooLarge;
                    self.gateway_reply(gateway, call.target, outcome, payload_bytes_max, payload_bytes, &[]);
                }
            }
            return Step::Done;
        }
        let Some(connection) = self.links.connections.get(key) else { return Step::Waits };
        let window = connection.rules.window();
        let kept_calls = if is_message { 0 } else { window.limits().calls / MESSAGE_CREDIT_PARTS };
        if !window.fits(payload_bytes) || window.calls() + kept_calls >= window.limits().calls {
            return Step::NoCredit;
        }
        if !has_room {
            // Served when one of its own is answered.
            return Step::Waits;
        }
        let Some(call) = queue.pop_front() else { return Step::Waits };
        self.send_call(key, gateway, class, number, call);
        Step::Done
    }

    fn send_call(&mut self, key: LinkConnectionKey, gateway: GatewayKey, class: Class, handle: u32, call: Waiting) {
        let Waiting { target, function, root, idempotency, deadline, payload, .. } = call;
        let Some(connection) = self.links.connections.get_mut(key) else { return };
        let request_id = connection.take_request_id();
        let request = Request {
            root: (root != 0).then(|| root.to_le_bytes()),
            ..Request::new(request_id, handle, function, time_left_ns(deadline, self.now))
        }
        .with_idempotency(idempotency);
        let payload_bytes = u32::try_from(payload.bytes()).unwrap_or(u32::MAX);
        let mut head = [0; REQUEST_HEAD_BYTES_MAX];
        let head = request.encode_head(payload_bytes, &mut head);
        let header = head.first_chunk::<WIRE_HEADER_BYTES>().and_then(|bytes| Header::parse(bytes).ok());
        let shown = header.map(|header| connection.rules.show(Side::Client, &header));
        debug_assert!(matches!(shown, Some(Ok(_))), "credit was looked at before: {shown:?}");
        let message = connection.gathering();
        connection.calls.push_back(LinkCall {
            request_id,
            gateway,
            target,
            function,
            payload_bytes,
            message,
            is_abandoned: false,
            is_answered: false,
            early: None,
        });
        if let Some(route) = self.links.routes.get_mut(&gateway) {
            let way = &mut route.ways[class.index()];
            if let Handle::Open { in_flight, .. } = &mut way.handle {
                *in_flight += 1;
            }
            way.messages += u32::from(is_delivery(function));
            if function == DELIVER {
                (route.refusing, route.lost) = (None, false);
            }
        }
        self.gather_for_peer(key, |outgoing| match payload {
            Payload::Bytes(bytes) => outgoing.push_pieces([head, &bytes]),
            Payload::Block(LaneBuffer::Request(buffer)) if buffer.bytes() <= LINK_COPIED_BYTES_MAX => {
                let mut copy = [0; LINK_COPIED_BYTES_MAX];
                let copy = &mut copy[..buffer.bytes()];
                buffer.copy_to(copy);
                outgoing.push_pieces([head, copy]);
            }
            Payload::Block(buffer) => {
                outgoing.push_bytes(head);
                let whole = 0..buffer.bytes();
                let pushed = outgoing.push_buffer(buffer, whole);
                debug_assert!(pushed.is_ok(), "all of a buffer lies inside it");
            }
        });
    }

    fn ask_for_handle(&mut self, key: LinkConnectionKey, gateway: GatewayKey, class: Class) -> Step {
        let Some(route) = self.links.routes.get(&gateway) else { return Step::Waits };
        let Some(link) = self.links.of.get(&route.peer) else { return Step::Waits };
        let Some(connection) = self.links.connections.get_mut(key) else { return Step::Waits };
        if connection.handles >= connection.handles_max {
            let (limit, used) = (connection.handles_max, connection.handles);
            self.answer_queued(gateway, Outcome::Overloaded, limit, used);
            return Step::Waits;
        }
        let request_id = connection.take_request_id();
        let question = OpenAs {
            request_id,
            payload_bytes_max: 0,
            in_flight_max: 0,
            instance: self.plan.incarnation,
            generation: link.generation,
            incarnation: route.incarnation,
            application: route.application,
            source: route.source,
            to: route.to,
        };
        // Refused by the rules when too many questions are unanswered.
        if !self.push_to_peer(key, |out| question.encode(out)) {
            return Step::NoCredit;
        }
        if let Some(connection) = self.links.connections.get_mut(key) {
            connection.handles += 1;
            connection.opening.insert(request_id, gateway);
        }
        if let Some(route) = self.links.routes.get_mut(&gateway) {
            route.ways[class.index()].handle = Handle::Asked(request_id);
        }
        Step::Waits
    }

    /// The other server gives a handle.
    pub(super) fn peer_opened(&mut self, key: LinkConnectionKey, opened: &Opened) -> Result<(), String> {
        let Some(connection) = self.links.connections.get_mut(key) else { return Ok(()) };
        let class = connection.class;
        let gateway =
            connection.opening.remove(&opened.request_id).ok_or("it gives a handle that was not asked for")?;
        let Some(route) = self.links.routes.get_mut(&gateway) else {
            self.give_handle_back(key, opened.handle);
            self.spend_credit(key);
            return Ok(());
        };
        let Opened { handle: number, payload_bytes_max, in_flight_max, .. } = *opened;
        route.ways[class.index()].handle = Handle::Open { number, payload_bytes_max, in_flight_max, in_flight: 0 };
        self.serve_way(gateway, class);
        self.spend_credit(key);
        Ok(())
    }

    /// The other server refuses what it was asked.
    pub(super) fn question_refused(
        &mut self,
        key: LinkConnectionKey,
        request_id: u64,
        refusal: &Refusal,
    ) -> Result<(), String> {
        let Some(connection) = self.links.connections.get_mut(key) else { return Ok(()) };
        if connection.watching == Some(request_id) {
            return Err(format!("it does not tell what it has: {refusal}"));
        }
        let class = connection.class;
        let gateway = connection.opening.remove(&request_id).ok_or("it refuses what it was not asked")?;
        connection.handles -= 1;
        if let Some(route) = self.links.routes.get_mut(&gateway) {
            route.ways[class.index()].handle = Handle::None;
            let (outcome, detail, more) = outcome_of(refusal);
            self.answer_queued(gateway, outcome, detail, more);
        }
        self.spend_credit(key);
        Ok(())
    }

    /// Answers every call of a route that waits.
    pub(super) fn answer_queued(&mut self, gateway: GatewayKey, outcome: Outcome, detail: u32, more: u32) {
        let Some(route) = self.links.routes.get_mut(&gateway) else { return };
        let queued = route.take_queued_if(|_| true);
        queued.iter().for_each(|call| route.note_undelivered(call.function, codes::BUSY));
        for call in queued {
            self.gateway_reply(gateway, call.target, outcome, detail, more, &[]);
        }
    }

    /// Answers a call that has waited in vain. Of a message it is to be known that it certainly was not sent.
    pub(super) fn answer_late(&mut self, gateway: GatewayKey, call: &Waiting, is_up: bool) {
        let (outcome, detail) = match is_up && !is_delivery(call.function) {
            true => (Outcome::DeadlineExceeded, 0),
            false => (Outcome::Unavailable, Phase::Closed as u32),
        };
        if let Some(route) = self.links.routes.get_mut(&gateway) {
            route.note_undelivered(call.function, codes::BUSY);
        }
        self.gateway_reply(gateway, call.target, outcome, detail, 0, &[]);
    }

    /// Answers a message that may not overtake one that was refused as `code` says, or else was lost.
    pub(super) fn answer_behind(&mut self, gateway: GatewayKey, target: u64, code: Option<u32>) {
        match code {
            None => self.gateway_reply(gateway, target, Outcome::ConnectionLost, 0, 0, &[]),
            Some(code) => {
                let why = b"a message before it found no room";
                self.gateway_reply(gateway, target, Outcome::FunctionFailed, code, 0, why);
            }
        }
    }
}

/// Nanoseconds until a deadline, at least one; 0 for none.
fn time_left_ns(deadline: Option<Instant>, now: Instant) -> u64 {
    let left_ns = |deadline: Instant| u64::try_from(deadline.saturating_duration_since(now).as_nanos());
    deadline.map_or(0, |deadline| left_ns(deadline).unwrap_or(u64::MAX).max(1))
}

/// How calls are answered for which there is no handle.
fn outcome_of(refusal: &Refusal) -> (Outcome, u32, u32) {
    let closed = Phase::Closed as u32;
    let Refusal::Control(error) = refusal else { return (Outcome::Unavailable, closed, 0) };
    let short = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    match error {
        ControlError::UnknownProcess { .. }
        | ControlError::UnknownApplication { .. }
        | ControlError::UnknownSession { .. } => (Outcome::UnknownProcess, 0, 0),
        ControlError::Unauthorized { .. } | ControlError::TokenRefused { .. } => (Outcome::Unauthorized, 0, 0),
        ControlError::LimitReached { used, limit, .. } => (Outcome::Overloaded, short(*limit), short(*used)),
        _ => (Outcome::Unavailable, closed, 0),
    }
}
