//! How the messages of a session get to one destination: into the room of another session, by a message lane or calls to a
//! process of this server, or by the link to another server, which another thread may have.
//!
//! What goes by a link travels as a letter to the thread that has the link, which calls the other server on behalf of the
//! session, by a gateway without a lane, and its answer as a letter back.

use std::collections::VecDeque;
use std::time::Instant;

use praas_protocol::message::{Address, DELIVER_FUNCTION, SessionId};
use praas_protocol::{FunctionId, Outcome};

use super::sending::Unsent;
use crate::gateways::{GatewayTarget, Speaker};
use crate::limits::LANE_LINGER;
use crate::network::gateways::{GatewayKey, TakenCall, TakenPayload};
use crate::network::lanes::LaneKey;
use crate::network::outbound::OutboundKey;
use crate::network::relay::Letter;
use crate::network::shard::NetworkShard;

/// The way to one destination, and what waits to go there.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) queue: VecDeque<Unsent>,
    pub(super) route: Route,
    /// The number of the letter or the call that the first one travels with.
    pub(super) in_flight: Option<u64>,
    pub(super) used_at: Instant,
}

/// Where a destination is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route {
    /// It is looked for with the next message.
    Unknown,
    /// A session with the same thread.
    Room(SessionId),
    /// A process of this server.
    Lane(OutboundKey),
    /// A process of this server, by calls.
    Put(LaneKey),
    /// On another server.
    Link {
        /// The server.
        peer: usize,
        /// The thread that has the link to it.
        shard: usize,
    },
}

impl Outgoing {
    pub(super) fn new(now: Instant) -> Self {
        Self { queue: VecDeque::new(), route: Route::Unknown, in_flight: None, used_at: now }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.in_flight.is_none()
    }
}

/// A session as the sender of a letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Sender {
    session: SessionId,
    to: Address,
    /// The thread that has the session.
    shard: usize,
}

/// A message of a session for another server.
#[derive(Debug)]
pub(crate) struct RoomSend {
    pub(super) sender: Sender,
    pub(super) speaker: Speaker,
    pub(super) peer: usize,
    pub(super) number: u64,
    pub(super) until: Instant,
    pub(super) payload: Vec<u8>,
}

/// What became of it.
#[derive(Debug)]
pub(crate) struct RoomAnswer {
    pub(super) session: SessionId,
    pub(super) to: Address,
    pub(super) number: u64,
    pub(super) outcome: Outcome,
    pub(super) detail: u32,
    pub(super) more: u32,
    pub(super) bytes: Vec<u8>,
}

impl NetworkShard {
    /// A way is not needed any more.
    pub(super) fn close_way(&mut self, outgoing: &Outgoing) {
        self.leave_route(outgoing.route);
    }

    pub(super) fn leave_route(&mut self, route: Route) {
        match route {
            Route::Lane(lane) => self.leave_outbound(lane),
            Route::Put(lane) => self.leave_lane(lane),
            Route::Unknown | Route::Room(_) | Route::Link { .. } => {}
        }
    }

    /// Has the thread with the link to a server send a message there.
    pub(super) fn send_letter(&mut self, shard: usize, to: Address, send: impl FnOnce(Sender) -> RoomSend) {
        let sender = |session| Sender { session, to, shard: self.index };
        let mut letter = send(sender(SessionId(0)));
        letter.sender.session = match letter.speaker.source {
            Address::Client(session) => session,
            Address::Process(_) => return,
        };
        if let Some(mail) = self.mails.get(shard) {
            mail.post(Letter::RoomSend(Box::new(letter)));
        }
    }

    /// A session of this or another thread sends to a server that this thread has the link to.
    pub(in crate::network) fn room_send_came(&mut self, send: RoomSend) {
        let RoomSend { sender, speaker, peer, number, until, payload } = send;
        let key = match self.room_gateways.get(&(sender, peer)) {
            Some(key) => *key,
            None => {
                let key = self.gateway_for_room(sender, speaker, GatewayTarget::Peer { peer, to: sender.to });
                self.room_gateways.insert((sender, peer), key);
                key
            }
        };
        let call = TakenCall {
            target: number,
            function: FunctionId::of(DELIVER_FUNCTION),
            root: 0,
            deadline: Some(until),
            idempotency: None,
            payload: TakenPayload::Bytes(payload),
        };
        self.take_from_room(key, call);
    }

    /// The other server has answered, or cannot.
    pub(in crate::network) fn room_sender_answered(
        &mut self,
        sender: Sender,
        number: u64,
        (outcome, detail, more): (Outcome, u32, u32),
        bytes: &[u8],
    ) {
        let Sender { session, to, shard } = sender;
        let answer = RoomAnswer { session, to, number, outcome, detail, more, bytes: bytes.to_vec() };
        if let Some(mail) = self.mails.get(shard) {
            mail.post(Letter::RoomAnswer(Box::new(answer)));
        }
    }

    /// Lets go of gateways by which no session has sent anything for a while.
    pub(in crate::network) fn forget_unused_room_gateways(&mut self) {
        let now = self.now;
        let is_unused = |key: &GatewayKey, shard: &Self| {
            shard.gateways.get(*key).is_none_or(|gateway| gateway.is_unused() && gateway.used_at() + LANE_LINGER <= now)
        };
        let unused: Vec<_> =
            self.room_gateways.iter().filter(|(_, key)| is_unused(key, self)).map(|(way, key)| (*way, *key)).collect();
        for (way, key) in unused {
            self.room_gateways.remove(&way);
            self.forget_gateway(key);
        }
    }
}
