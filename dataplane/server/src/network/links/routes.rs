//! Routes: one for each gateway whose calls go to another server. Its calls wait here until they can go.
//!
//! Messages are one queue, in their order: the next goes on another connection than the last only when none of them is in
//! flight there. All other calls are a queue for each connection and overtake messages freely.

use std::collections::VecDeque;
use std::time::Instant;

use praas_protocol::message::{Address, codes};
use praas_protocol::wire::Close;
use praas_protocol::{FunctionId, Idempotency, Name, Outcome};
use praas_shm::io_buffer::{IoBuffer, LaneBuffer};

use super::super::gateways::{GatewayKey, GatewayTarget, Speaker, TakenCall, TakenPayload};
use super::super::shard::NetworkShard;
use super::{AWAIT_ROOM, Class, LinkConnectionKey, is_delivery};
use crate::limits::{LARGE_REPLY_FUNCTIONS_MAX, LINK_WAIT_MAX};

/// The payload of a call that waits.
#[derive(Debug)]
pub(super) enum Payload {
    /// A copy.
    Bytes(Vec<u8>),
    /// It is sent from where it lies.
    Block(LaneBuffer),
}

impl Payload {
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Block(buffer) => buffer.bytes(),
        }
    }
}

/// A call that waits.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) target: u64,
    pub(super) function: FunctionId,
    pub(super) root: u128,
    pub(super) idempotency: Option<Idempotency>,
    /// Its caller's.
    pub(super) deadline: Option<Instant>,
    /// When it has waited for long enough, at the latest at its deadline.
    pub(super) gives_up: Instant,
    pub(super) payload: Payload,
}

/// What a route has on one of the link's connections.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Way {
    pub(super) handle: Handle,
    /// Messages in flight.
    pub(super) messages: u32,
    /// Whether it has its turn coming.
    pub(super) is_waiting: bool,
}

/// What a connection's requests name the destination by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Handle {
    #[default]
    None,
    /// The question's id.
    Asked(u64),
    Open {
        number: u32,
        payload_bytes_max: u32,
        in_flight_max: u32,
        in_flight: u32,
    },
}

/// Where the calls of one gateway go, and those that wait.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) peer: usize,
    pub(super) application: Name,
    pub(super) source: Address,
    pub(super) incarnation: u64,
    pub(super) to: Address,
    pub(super) messages: VecDeque<Waiting>,
    pub(super) others: [VecDeque<Waiting>; 2],
    pub(super) ways: [Way; 2],
    /// How a message was refused that its sender may send again, if it has not said since that it knows.
    pub(super) refusing: Option<u32>,
    /// The connection on which it was refused: room for it is asked for there, because the other server may have another
    /// lane for what comes by the other connection.
    pub(super) refused_on: Class,
    /// One was lost on the way.
    pub(super) lost: bool,
    /// Functions whose answers were large: their calls go on the bulk connection, whatever they bring.
    pub(super) large_answers: Vec<FunctionId>,
}

impl Route {
    /// Whether the next message goes on a connection of this class, and none of its predecessors is in flight on the other.
    pub(super) fn has_message_for(&self, class: Class) -> bool {
        let other = 1 - class.index();
        self.ways[other].messages == 0
            && self.messages.front().is_some_and(|next| Class::of(next.payload.bytes()) == class)
    }

    /// Whether anything could go on a connection of this class.
    pub(super) fn has_call_for(&self, class: Class) -> bool {
        self.has_message_for(class) || !self.others[class.index()].is_empty()
    }

    /// The connection for a call that is no message.
    fn class_of(&self, function: FunctionId, payload_bytes: usize) -> Class {
        if function == AWAIT_ROOM {
            return self.refused_on;
        }
        if self.large_answers.contains(&function) { Class::Bulk } else { Class::of(payload_bytes) }
    }

    /// Learns that a function gives large answers.
    pub(super) fn learn_large(&mut self, function: FunctionId) {
        if self.large_answers.len() < LARGE_REPLY_FUNCTIONS_MAX && !self.large_answers.contains(&function) {
            self.large_answers.push(function);
        }
    }

    /// A call was answered with anything but success. If it was a message, none that follows it goes on until its sender knows:
    /// it may send this one again.
    pub(super) fn note_undelivered(&mut self, function: FunctionId, code: u32) {
        if is_delivery(function) && self.refusing.is_none() {
            self.refusing = Some(code);
        }
    }

    pub(super) fn has_queued(&self) -> bool {
        !self.messages.is_empty() || self.others.iter().any(|queue| !queue.is_empty())
    }

    /// Takes the calls out that are of no use any more.
    pub(super) fn take_queued_if(&mut self, is_out: impl Fn(&Waiting) -> bool) -> Vec<Waiting> {
        let mut out = Vec::new();
        for queue in std::iter::once(&mut self.messages).chain(&mut self.others) {
            if queue.iter().any(&is_out) {
                let (taken, left): (Vec<_>, Vec<_>) = std::mem::take(queue).into_iter().partition(&is_out);
                out.extend(taken);
                *queue = left.into();
            }
        }
        out
    }
}

impl NetworkShard {
    /// Takes a call of a gateway that leads to another server.
    pub(in super::super) fn link_forward(&mut self, gateway: GatewayKey, call: TakenCall) {
        let TakenCall { target, function, root, deadline, idempotency, payload } = call;
        let payload = match payload {
            TakenPayload::Bytes(bytes) => Payload::Bytes(bytes),
            TakenPayload::Block(buffer) => Payload::Block(LaneBuffer::Request(buffer)),
        };
        let longest = self.now + LINK_WAIT_MAX;
        let gives_up = deadline.map_or(longest, |deadline| deadline.min(longest));
        let call = Waiting { target, function, root, idempotency, deadline, gives_up, payload };
        let Some(route) = self.route_of(gateway) else {
            return self.gateway_reply(gateway, target, Outcome::UnknownProcess, 0, 0, &[]);
        };
        let peer = route.peer;
        if is_delivery(function) {
            route.messages.push_back(call);
        } else {
            let class = route.class_of(function, call.payload.bytes());
            route.others[class.index()].push_back(call);
        }
        self.serve_route(gateway);
        self.look_after_calls(peer);
    }

    /// A call of a gateway was refused before it came here.
    pub(in super::super) fn link_refused(&mut self, gateway: GatewayKey, function: FunctionId) {
        if let Some(route) = self.links.routes.get_mut(&gateway) {
            route.note_undelivered(function, codes::BUSY);
        }
    }

    /// The route of a gateway, from its first call on.
    fn route_of(&mut self, gateway: GatewayKey) -> Option<&mut Route> {
        if !self.links.routes.contains_key(&gateway) {
            let Some(&GatewayTarget::Peer { peer, to, .. }) = self.gateway_target(gateway) else { return None };
            let Speaker { application, source, incarnation } = *self.gateway_speaker(gateway)?;
            self.links.of.get_mut(&peer)?.routes.insert(gateway);
            let route = Route {
                peer,
                application,
                source,
                incarnation,
                to,
                messages: VecDeque::new(),
                others: Default::default(),
                ways: [Way::default(); 2],
                refusing: None,
                refused_on: Class::Small,
                lost: false,
                large_answers: Vec::new(),
            };
            self.links.routes.insert(gateway, route);
        }
        self.links.routes.get_mut(&gateway)
    }

    /// Nobody waits for a call any more.
    pub(in super::super) fn link_abandon(&mut self, gateway: GatewayKey, target: u64) {
        let Some(route) = self.links.routes.get_mut(&gateway) else { return };
        let peer = route.peer;
        if !route.take_queued_if(|call| call.target == target).is_empty() {
            return self.gateway_reply(gateway, target, Outcome::Cancelled, 0, 0, &[]);
        }
        let connections = self.links.of.get(&peer).map_or([None; 2], |link| link.connections);
        for key in connections.into_iter().flatten() {
            self.abandon_on(key, |call| call.gateway == gateway && call.target == target);
        }
    }

    /// A gateway is gone: its calls are of no use, and not to be answered.
    pub(in super::super) fn link_forget(&mut self, gateway: GatewayKey) {
        let Some(route) = self.links.routes.remove(&gateway) else { return };
        let connections = self.links.of.get_mut(&route.peer).map_or([None; 2], |link| {
            link.routes.remove(&gateway);
            link.connections
        });
        for (key, way) in connections.into_iter().zip(route.ways) {
            let Some(key) = key else { continue };
            self.abandon_on(key, |call| call.gateway == gateway);
            if let Some(connection) = self.links.connections.get_mut(key) {
                connection.waiting.retain(|waiting| *waiting != gateway);
            }
            // One that was asked for is given back when it comes.
            if let Handle::Open { number, .. } = way.handle {
                self.give_handle_back(key, number);
            }
        }
    }

    /// Gives a handle back to the other server.
    pub(super) fn give_handle_back(&mut self, key: LinkConnectionKey, handle: u32) {
        if self.push_to_peer(key, |out| Close { handle }.encode(out))
            && let Some(connection) = self.links.connections.get_mut(key)
        {
            connection.handles -= 1;
        }
    }
}
