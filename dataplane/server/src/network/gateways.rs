//! The serving ends of lanes to what is in no process's memory here: calls for another server go to its link, calls for a
//! client's session to the session's room.
//!
//! A gateway is *warm* while this loop looks into its lane by itself: its client rings nobody. It is warm from a ring until it
//! was quiet for a while, or until the loop sleeps; then its doorbell wakes the loop.
//!
//! Invariants:
//! 1. `warm_gateways` names each gateway once whose lane is not parked, and no other.
//! 2. A call that was taken stands in `open` until it is answered, and is answered once. There are at most as many as the lane
//!    has cells: a client that breaks the protocol is answered that its lane is full.
//! 3. Once a gateway is gone, whatever is still answered to it is dropped; buffers of its calls keep its memory.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use praas_protocol::control::LaneId;
use praas_protocol::limits::REPLY_INLINE_BYTES;
use praas_protocol::{FunctionId, Idempotency, Outcome};
use praas_shm::gateway_lane::{GatewayLane, RequestBuffer, RoomBuffer, TakenBytes, TakenRequest};
use praas_shm::io_buffer::IoBuffer;
use praas_sys::driver::SourceId;

use super::sessions::Call;
use super::shard::{Course, NetworkShard};
use super::sources::Source;
use super::table::Key;
use super::timers::Timer;
use crate::gateways::GatewayParts;
pub(super) use crate::gateways::{GatewayTarget, Speaker};
use crate::limits::{
    GATEWAY_END_MAX, GATEWAY_LOOK_PERIOD, GATEWAY_TAKES_PER_LOOK, GATEWAY_WARM_MAX, GATEWAYS_EXPECTED_MAX,
};

/// Names a gateway of one shard.
pub(super) type GatewayKey = Key<Gateway>;

/// A call that a gateway has taken.
#[derive(Debug)]
pub(super) struct TakenCall {
    /// What to name it by when it is answered.
    pub(super) target: u64,
    pub(super) function: FunctionId,
    /// 0 for a root call.
    pub(super) root: u128,
    /// Until when its caller waits, if not for as long as it takes.
    pub(super) deadline: Option<Instant>,
    pub(super) idempotency: Option<Idempotency>,
    pub(super) payload: TakenPayload,
}

/// The payload of such a call.
#[derive(Debug)]
pub(super) enum TakenPayload {
    /// In private memory.
    Bytes(Vec<u8>),
    /// Where its caller has put it.
    Block(RequestBuffer),
}

impl TakenPayload {
    /// All of it in private memory.
    pub(super) fn into_vec(self) -> Vec<u8> {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Block(buffer) => buffer.to_vec(),
        }
    }

    /// How many bytes it has.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Block(buffer) => IoBuffer::bytes(buffer),
        }
    }

    /// A copy of all of it.
    pub(super) fn to_vec(&self) -> Vec<u8> {
        self.first_bytes(self.len())
    }

    /// A copy of its first bytes, at most `count`.
    pub(super) fn first_bytes(&self, count: usize) -> Vec<u8> {
        match self {
            Self::Bytes(bytes) => bytes[..count.min(bytes.len())].to_vec(),
            Self::Block(buffer) => {
                let mut bytes = vec![0; count.min(IoBuffer::bytes(buffer))];
                buffer.copy_to(&mut bytes);
                bytes
            }
        }
    }
}

/// Whose answers come where.
#[derive(Debug)]
enum End {
    /// Into the lane.
    Lane { lane: Box<GatewayLane>, bell: Option<SourceId> },
    /// To a session's room, which may be another thread's: this gateway sends its messages to another server.
    Room(super::sessions::Sender),
}

/// What is known of a call under way.
#[derive(Debug, Clone, Copy)]
struct OpenCall {
    is_abandoned: bool,
    /// Until when its caller waits, if not for as long as it takes.
    deadline: Option<Instant>,
}

/// One gateway.
#[derive(Debug)]
pub(super) struct Gateway {
    end: End,
    speaker: Speaker,
    target: GatewayTarget,
    open: BTreeMap<u64, OpenCall>,
    open_max: usize,
    used_at: Instant,
    owes_ring: bool,
    /// Whether another lane to the same session has taken its place.
    is_superseded: bool,
    /// Its lane is gone: until then, calls under way are left to the link that has them.
    ends_at: Option<Instant>,
    /// A message was refused for want of room, and its sender has not begun anew since.
    pub(super) is_refusing: bool,
}

impl NetworkShard {
    /// The server's loop has made a lane to something that this thread serves.
    pub(super) fn gateway_came(&mut self, parts: GatewayParts) {
        let GatewayParts { lane: lane_parts, doorbell, speaker, target } = parts;
        let (id, open_max) = (lane_parts.lane, lane_parts.geometry.cells as usize);
        let lane = match GatewayLane::attach(lane_parts) {
            Ok(lane) => Box::new(lane),
            Err(error) => return self.log().error(format_args!("a lane to {target:?} is not served: {error}")),
        };
        let key = self.gateways.next_key();
        let bell = match self.driver.watch(doorbell, Source::Gateway(key).token()) {
            Ok(bell) => Some(bell),
            // It is looked at when its client asks the server to.
            Err(refused) => {
                self.log().warning(format_args!("the doorbell of a gateway is not watched: {}", refused.refusal));
                None
            }
        };
        let end = End::Lane { lane, bell };
        self.add_gateway(Gateway::new(end, speaker, target, open_max, self.now));
        self.gateways_by_lane.insert(id, key);
        self.warm_gateways.push(key);
    }

    fn add_gateway(&mut self, gateway: Gateway) -> GatewayKey {
        if !std::mem::replace(&mut self.gateways_watched, true) {
            self.timers.at(self.now + GATEWAY_LOOK_PERIOD, Timer::Gateways);
        }
        self.counters.gateway_opened();
        self.gateways.insert(gateway)
    }

    /// A gateway by which a session's room sends to another server.
    pub(super) fn gateway_for_room(
        &mut self,
        sender: super::sessions::Sender,
        speaker: Speaker,
        target: GatewayTarget,
    ) -> GatewayKey {
        self.add_gateway(Gateway::new(End::Room(sender), speaker, target, usize::MAX, self.now))
    }

    /// For whom a gateway speaks.
    pub(super) fn gateway_speaker(&self, key: GatewayKey) -> Option<&Speaker> {
        self.gateways.get(key).map(|gateway| &gateway.speaker)
    }

    /// Where it leads to.
    pub(super) fn gateway_target(&self, key: GatewayKey) -> Option<&GatewayTarget> {
        self.gateways.get(key).map(|gateway| &gateway.target)
    }

    /// A gateway's doorbell rang, or its client asks that somebody looks.
    pub(super) fn gateway_rang(&mut self, key: GatewayKey) {
        let now = self.now;
        let Some(gateway) = self.gateways.get_mut(key) else { return };
        if let End::Lane { lane, .. } = &mut gateway.end
            && lane.is_parked()
        {
            lane.attend();
            gateway.used_at = now;
            self.warm_gateways.push(key);
        }
    }

    /// The same by the number of its lane.
    pub(super) fn gateway_lane_rang(&mut self, lane: LaneId) {
        if let Some(key) = self.gateways_by_lane.get(&lane).copied() {
            self.gateway_rang(key);
        }
    }

    /// The server's loop has taken a lane back.
    pub(super) fn gateway_went(&mut self, lane: LaneId) {
        let Some(key) = self.gateways_by_lane.remove(&lane) else { return };
        let ends_at = self.now + GATEWAY_END_MAX;
        let Some(gateway) = self.gateways.get_mut(key) else { return };
        if gateway.is_unused() || matches!(gateway.target, GatewayTarget::Session { .. }) {
            return self.end_gateway(key);
        }
        // A link answers once it does not send from the lane any more: its owner, who may live, would use the blocks again.
        gateway.ends_at = Some(ends_at);
        for target in self.open_targets(key) {
            self.link_abandon(key, target);
        }
    }

    fn end_gateway(&mut self, key: GatewayKey) {
        for target in self.open_targets(key) {
            self.refuse_open_call(key, target);
        }
        self.ring_gateways();
        self.forget_gateway(key);
    }

    /// A call that was taken and whose gateway ends: it may have been carried out.
    fn refuse_open_call(&mut self, key: GatewayKey, target: u64) {
        self.gateway_reply(key, target, Outcome::ConnectionLost, 1, 0, &[]);
    }

    fn open_targets(&self, key: GatewayKey) -> Vec<u64> {
        self.gateways.get(key).map(|gateway| gateway.open.keys().copied().collect()).unwrap_or_default()
    }

    /// Lets go of a gateway.
    pub(super) fn forget_gateway(&mut self, key: GatewayKey) {
        let Some(gateway) = self.gateways.get(key) else { return };
        match gateway.target {
            GatewayTarget::Peer { .. } => self.link_forget(key),
            GatewayTarget::Session { session, ref client } => {
                let is_client = client.is_some() && !gateway.is_superseded;
                self.session_gateway_went(session, key, is_client);
            }
        }
        self.warm_gateways.retain(|warm| *warm != key);
        self.owed_gateways.retain(|owed| *owed != key);
        let Some(gateway) = self.gateways.remove(key) else { return };
        self.counters.gateway_closed();
        if let End::Lane { bell: Some(bell), .. } = gateway.end {
            self.driver.close(bell);
        }
    }

    /// Another lane to the same session has taken the place of this one.
    pub(super) fn gateway_is_superseded(&mut self, lane: LaneId) {
        let Some(key) = self.gateways_by_lane.get(&lane).copied() else { return };
        for target in self.open_targets(key) {
            self.refuse_open_call(key, target);
        }
        let Some(gateway) = self.gateways.get_mut(key) else { return };
        gateway.is_superseded = true;
        if let GatewayTarget::Session { session, .. } = gateway.target {
            self.session_gateway_went(session, key, true);
        }
    }

    /// Takes what lies in the lanes of warm gateways; whether there was anything.
    pub(super) fn look_at_gateways(&mut self) -> bool {
        let mut found = false;
        let mut at = 0;
        while let Some(key) = self.warm_gateways.get(at).copied() {
            if self.look_at_gateway(key) {
                found = true;
                at += 1;
            } else if self.goes_cold(key) {
                self.warm_gateways.swap_remove(at);
            } else {
                at += 1;
            }
        }
        found
    }

    fn look_at_gateway(&mut self, key: GatewayKey) -> bool {
        for taken in 0..GATEWAY_TAKES_PER_LOOK {
            let now = self.now;
            let Some(gateway) = self.gateways.get_mut(key) else { return false };
            let End::Lane { lane, .. } = &mut gateway.end else { return false };
            let Some(request) = lane.take() else {
                // What was refused for its form is to be heard of.
                self.owe_ring(key);
                return taken > 0;
            };
            gateway.used_at = now;
            self.take_in(key, request);
        }
        true
    }

    fn take_in(&mut self, key: GatewayKey, request: TakenRequest) {
        let Some(gateway) = self.gateways.get_mut(key) else { return };
        let TakenRequest { target, function, root, time_left_ns, idempotency, payload } = request;
        if gateway.open.contains_key(&target) {
            // Two calls by one name: the answer to the first is the answer to both.
            return;
        }
        if gateway.open.len() >= gateway.open_max {
            let most = u32::try_from(gateway.open_max).unwrap_or(u32::MAX);
            if let End::Lane { lane, .. } = &mut gateway.end {
                lane.reply(target, Outcome::Overloaded, most, most, &[]);
            }
            self.link_refused(key, function);
            return self.owe_ring(key);
        }
        let deadline = (time_left_ns != 0).then(|| self.now + Duration::from_nanos(time_left_ns));
        gateway.open.insert(target, OpenCall { is_abandoned: false, deadline });
        let payload = match payload {
            TakenBytes::Private(bytes) => TakenPayload::Bytes(bytes),
            TakenBytes::Block(buffer) => TakenPayload::Block(buffer),
        };
        let call = TakenCall { target, function, root, deadline, idempotency, payload };
        self.dispatch(key, call);
    }

    fn dispatch(&mut self, key: GatewayKey, call: TakenCall) {
        self.counters.gateway_called();
        let Some(gateway) = self.gateways.get(key) else { return };
        if matches!(self.course, Course::Ending { .. }) {
            return self.gateway_reply(key, call.target, Outcome::Unavailable, CLOSED, 0, &[]);
        }
        match &gateway.target {
            GatewayTarget::Peer { .. } => self.link_forward(key, call),
            GatewayTarget::Session { session, client } => {
                let (session, client) = (*session, client.clone());
                let is_superseded = gateway.is_superseded;
                self.session_called(&Call { gateway: key, session, is_superseded, client }, call);
            }
        }
    }

    /// Whether a gateway is left to its doorbell: it was quiet for a while, and is so now.
    fn goes_cold(&mut self, key: GatewayKey) -> bool {
        let now = self.now;
        let Some(gateway) = self.gateways.get_mut(key) else { return true };
        let End::Lane { lane, .. } = &mut gateway.end else { return true };
        if now < gateway.used_at + GATEWAY_WARM_MAX {
            return false;
        }
        if GatewayLane::park(std::iter::once(lane.as_mut())) {
            return true;
        }
        lane.attend();
        false
    }

    /// Whether a request lies in the lane of a warm gateway.
    pub(super) fn have_gateways_work(&mut self) -> bool {
        let Self { warm_gateways, gateways, .. } = self;
        warm_gateways.iter().any(|key| match gateways.get_mut(*key).map(|gateway| &mut gateway.end) {
            Some(End::Lane { lane, .. }) => lane.has_work(),
            _ => false,
        })
    }

    /// Has all gateways ring from now on; false if one has work already: then they are looked at by this loop as before.
    pub(super) fn park_gateways(&mut self) -> bool {
        if self.warm_gateways.is_empty() {
            return true;
        }
        let Self { warm_gateways, recent_gateways, gateways, .. } = self;
        let mut quiet = true;
        for key in warm_gateways.iter() {
            if let Some(End::Lane { lane, .. }) = gateways.get_mut(*key).map(|gateway| &mut gateway.end) {
                quiet &= GatewayLane::park(std::iter::once(lane.as_mut()));
            }
        }
        if quiet {
            recent_gateways.clear();
            recent_gateways.extend(warm_gateways.drain(..).take(GATEWAYS_EXPECTED_MAX));
            return true;
        }
        for key in warm_gateways.iter() {
            if let Some(End::Lane { lane, .. }) = gateways.get_mut(*key).map(|gateway| &mut gateway.end) {
                lane.attend();
            }
        }
        false
    }

    /// Looks by itself at the lanes of those who called last: they are expected to call soon, and spared the doorbell.
    pub(super) fn expect_gateways(&mut self) {
        let Self { warm_gateways, recent_gateways, gateways, .. } = self;
        for key in recent_gateways.iter() {
            if let Some(End::Lane { lane, .. }) = gateways.get_mut(*key).map(|gateway| &mut gateway.end)
                && lane.is_parked()
            {
                lane.attend();
                warm_gateways.push(*key);
            }
        }
    }

    /// Answers a call with bytes that are copied. One that was answered already, or whose gateway is gone, stays as it is.
    pub(super) fn gateway_reply(
        &mut self,
        key: GatewayKey,
        target: u64,
        outcome: Outcome,
        detail: u32,
        more: u32,
        bytes: &[u8],
    ) {
        let now = self.now;
        let Some(gateway) = self.gateways.get_mut(key) else { return };
        if gateway.open.remove(&target).is_none() {
            return;
        }
        gateway.used_at = now;
        match &mut gateway.end {
            End::Lane { lane, .. } => {
                lane.reply(target, outcome, detail, more, bytes);
                self.owe_ring(key);
            }
            End::Room(sender) => {
                let sender = *sender;
                self.room_sender_answered(sender, target, (outcome, detail, more), bytes);
            }
        }
    }

    /// Room for the answer to a call, for the driver to receive into. `None` if there is none, or nobody wants the answer.
    pub(super) fn gateway_room(&mut self, key: GatewayKey, target: u64, bytes: usize) -> Option<RoomBuffer> {
        let gateway = self.gateways.get(key).filter(|gateway| gateway.open.contains_key(&target))?;
        match &gateway.end {
            End::Lane { lane, .. } => lane.room(target, bytes),
            End::Room(_) => None,
        }
    }

    /// Answers a call with what its room was filled with.
    pub(super) fn gateway_reply_room(
        &mut self,
        key: GatewayKey,
        target: u64,
        outcome: Outcome,
        detail: u32,
        more: u32,
        room: RoomBuffer,
    ) {
        let now = self.now;
        let Some(gateway) = self.gateways.get_mut(key) else { return };
        if room.target() != target || gateway.open.remove(&target).is_none() {
            return;
        }
        gateway.used_at = now;
        if let End::Lane { lane, .. } = &mut gateway.end {
            lane.reply_room(outcome, detail, more, room);
            self.owe_ring(key);
        }
    }

    /// Whether nobody waits for the answer to a call any more.
    pub(super) fn gateway_call_is_abandoned(&self, key: GatewayKey, target: u64) -> bool {
        self.gateways.get(key).is_none_or(|gateway| gateway.is_abandoned(target))
    }

    /// Takes a call into a gateway that has no lane.
    pub(super) fn take_from_room(&mut self, key: GatewayKey, call: TakenCall) {
        let Some(gateway) = self.gateways.get_mut(key) else { return };
        gateway.open.insert(call.target, OpenCall { is_abandoned: false, deadline: call.deadline });
        self.dispatch(key, call);
    }

    pub(super) fn owe_ring(&mut self, key: GatewayKey) {
        if let Some(gateway) = self.gateways.get_mut(key)
            && !std::mem::replace(&mut gateway.owes_ring, true)
        {
            self.owed_gateways.push(key);
        }
    }

    /// Tells clients that wait for any of several calls that there are answers.
    pub(super) fn ring_gateways(&mut self) {
        while let Some(key) = self.owed_gateways.pop() {
            if let Some(gateway) = self.gateways.get_mut(key) {
                gateway.owes_ring = false;
                if let End::Lane { lane, .. } = &mut gateway.end {
                    lane.ring_if_owed();
                }
            }
        }
    }

    /// Timer: looks for calls that nobody waits for any more.
    pub(super) fn gateways_due(&mut self) {
        let now = self.now;
        self.gateways_watched = self.gateways.len() > 0;
        if !self.gateways_watched {
            return;
        }
        self.forget_unused_room_gateways();
        for key in self.gateways.keys() {
            let Some(gateway) = self.gateways.get_mut(key) else { continue };
            if gateway.ends_at.is_some_and(|end| gateway.open.is_empty() || end <= now) {
                self.end_gateway(key);
                continue;
            }
            let Gateway { end: End::Lane { lane, .. }, open, .. } = gateway else {
                self.end_overdue_calls(key);
                continue;
            };
            let is_newly = |(target, call): (&u64, &mut OpenCall)| {
                let is_newly = !call.is_abandoned && lane.is_abandoned(*target);
                call.is_abandoned |= is_newly;
                is_newly.then_some(*target)
            };
            let abandoned: Vec<u64> = open.iter_mut().filter_map(is_newly).collect();
            let is_peer = matches!(gateway.target, GatewayTarget::Peer { .. });
            for target in abandoned {
                if is_peer {
                    self.link_abandon(key, target);
                } else {
                    self.session_call_abandoned(key, target);
                }
            }
        }
        self.timers.at(self.now + GATEWAY_LOOK_PERIOD, Timer::Gateways);
    }

    /// Answers calls of a gateway without a lane whose time is long over: nobody else looks whether another server answers.
    fn end_overdue_calls(&mut self, key: GatewayKey) {
        let now = self.now;
        let Some(gateway) = self.gateways.get(key) else { return };
        let is_overdue = |call: &OpenCall| call.deadline.is_some_and(|deadline| deadline + GATEWAY_END_MAX <= now);
        let overdue: Vec<u64> =
            gateway.open.iter().filter(|(_, call)| is_overdue(call)).map(|(target, _)| *target).collect();
        for target in overdue {
            self.refuse_open_call(key, target);
            self.link_abandon(key, target);
        }
    }

    /// The shard ends: whatever is unanswered never will be.
    pub(super) fn end_gateways(&mut self) {
        for key in self.gateways.keys() {
            for target in self.open_targets(key) {
                self.refuse_open_call(key, target);
            }
        }
        self.ring_gateways();
    }
}

/// The phase of whoever ends, as an answer says it.
const CLOSED: u32 = praas_protocol::Phase::Closed as u32;

impl Gateway {
    fn new(end: End, speaker: Speaker, target: GatewayTarget, open_max: usize, now: Instant) -> Self {
        Self {
            end,
            speaker,
            target,
            open: BTreeMap::new(),
            open_max,
            used_at: now,
            owes_ring: false,
            is_superseded: false,
            ends_at: None,
            is_refusing: false,
        }
    }

    /// Answers a call with two pieces that are copied; the caller rings. False, and nothing is answered, without room for them.
    pub(super) fn reply_pieces(&mut self, target: u64, head: &[u8], rest: &[u8]) -> bool {
        let End::Lane { lane, .. } = &mut self.end else { return false };
        if !self.open.contains_key(&target) {
            return true;
        }
        if head.len() + rest.len() <= REPLY_INLINE_BYTES {
            lane.reply(target, Outcome::Ok, 0, 0, &[head, rest].concat());
        } else {
            let Some(mut room) = lane.room(target, head.len() + rest.len()) else { return false };
            let is_stored = room.store(0, head) && room.store(head.len(), rest);
            debug_assert!(is_stored, "the room was made for both");
            lane.reply_room(Outcome::Ok, 0, 0, room);
        }
        self.open.remove(&target);
        true
    }

    /// Whether nobody waits for the answer to a call any more.
    pub(super) fn is_abandoned(&self, target: u64) -> bool {
        match &self.end {
            End::Lane { lane, .. } => lane.is_abandoned(target),
            End::Room(_) => false,
        }
    }

    /// When it was used last.
    pub(super) fn used_at(&self) -> Instant {
        self.used_at
    }

    /// Whether none of its calls is under way.
    pub(super) fn is_unused(&self) -> bool {
        self.open.is_empty()
    }
}
