//! What the client of a session receives, accepts and gives back.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use praas_protocol::message::{Address, MessageId, SessionId, codes};
use praas_protocol::session::{HeldMessage, ReceivedHead, RecvQuestion};
use praas_protocol::{Key, Outcome, Phase};
use praas_shm::mailbox::Wanted;

use super::{Call, Refusal, Room};
use crate::limits::{SESSION_HELD_MAX, SESSION_WAIT_MAX};
use crate::network::gateways::{Gateway, GatewayKey, TakenCall};
use crate::network::shard::NetworkShard;

/// A receiver that waits.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) gateway: GatewayKey,
    pub(super) target: u64,
    pub(super) until: Instant,
    wish: Wish,
}

/// What a receiver wants.
#[derive(Debug)]
struct Wish {
    peeks: bool,
    sources: Vec<Address>,
    key: Box<str>,
}

impl Wish {
    fn wanted(&self) -> Wanted<'_> {
        match self.sources.as_slice() {
            [] => Wanted::Any,
            [one] => Wanted::One(one),
            several => Wanted::Of(several),
        }
    }
}

/// Whether a receiver was answered.
enum Served {
    Yes,
    /// There is no message for it.
    Nothing,
}

impl Room {
    /// Answers a receiver with the next message that it wants.
    fn serve(&self, gateway: &mut Gateway, target: u64, wish: &Wish) -> Result<Served, Refusal> {
        let key = Key::new(&wish.key).map_err(Refusal::bad_request)?;
        if wish.peeks {
            let Some(peeked) = self.mailbox.peek(wish.wanted(), key)? else { return Ok(Served::Nothing) };
            let head = ReceivedHead { source: peeked.source, id: peeked.id, redelivered: peeked.is_redelivered };
            return answer(gateway, target, &head, &peeked.bytes);
        }
        if self.mailbox.held() >= SESSION_HELD_MAX {
            let most = u32::try_from(SESSION_HELD_MAX).unwrap_or(u32::MAX);
            return Err(Refusal::bare(Outcome::Overloaded, most, most));
        }
        let Some(taken) = self.mailbox.take(wish.wanted(), key)? else { return Ok(Served::Nothing) };
        let head = ReceivedHead { source: taken.source()?, id: taken.id(), redelivered: taken.is_redelivered() };
        let answered = answer(gateway, target, &head, taken.bytes());
        if answered.is_err() {
            self.mailbox.release_held_from(&head.source, head.id)?;
        }
        answered
    }
}

fn answer(gateway: &mut Gateway, target: u64, head: &ReceivedHead, bytes: &[u8]) -> Result<Served, Refusal> {
    if gateway.reply_pieces(target, &head.encode(), bytes) {
        return Ok(Served::Yes);
    }
    // The client has not given back what it received before.
    let needed = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    Err(Refusal::bare(Outcome::Overloaded, 0, needed))
}

impl NetworkShard {
    pub(super) fn session_recv(&mut self, call: &Call, taken: TakenCall) -> Result<(), Refusal> {
        let payload = taken.payload.into_vec();
        let RecvQuestion { within_ns, peeks, sources, key } =
            RecvQuestion::decode(&payload).map_err(Refusal::bad_request)?;
        let wish = Wish { peeks, sources, key: key.as_str().into() };
        let (gateway, target) = (call.gateway, taken.target);
        match self.serve_receiver(call.session, gateway, target, &wish)? {
            Served::Yes => return Ok(()),
            Served::Nothing if within_ns == 0 => {
                self.gateway_reply(gateway, target, Outcome::Ok, 0, 0, &[]);
                return Ok(());
            }
            Served::Nothing if !self.takes_receivers() => return Err(Refusal::unavailable(Phase::Draining)),
            Served::Nothing => {}
        }
        let until = self.now + Duration::from_nanos(within_ns).min(SESSION_WAIT_MAX);
        if let Some(room) = self.session_rooms.get_mut(&call.session) {
            room.waiting.push_back(Waiting { gateway, target, until, wish });
            self.look_at_session_again(call.session, until);
        }
        Ok(())
    }

    fn serve_receiver(
        &mut self,
        session: SessionId,
        key: GatewayKey,
        target: u64,
        wish: &Wish,
    ) -> Result<Served, Refusal> {
        let (Some(room), Some(gateway)) = (self.session_rooms.get(&session), self.gateways.get_mut(key)) else {
            return Ok(Served::Nothing);
        };
        if gateway.is_abandoned(target) {
            return Ok(Served::Nothing);
        }
        let served = room.serve(gateway, target, wish)?;
        if matches!(served, Served::Yes) {
            self.owe_ring(key);
        }
        Ok(served)
    }

    /// Something may be there for receivers that wait.
    pub(super) fn serve_receivers(&mut self, session: SessionId) {
        let Some(room) = self.session_rooms.get_mut(&session) else { return };
        let waiting = std::mem::take(&mut room.waiting);
        let mut still = VecDeque::new();
        for waiting in waiting {
            let (gateway, target) = (waiting.gateway, waiting.target);
            match self.serve_receiver(session, gateway, target, &waiting.wish) {
                Ok(Served::Yes) => {}
                Ok(Served::Nothing) => still.push_back(waiting),
                Err(refusal) => self.refuse_session_call(gateway, target, &refusal),
            }
        }
        if let Some(room) = self.session_rooms.get_mut(&session) {
            room.waiting = still;
        }
    }

    /// Answers receivers whose time is over.
    pub(super) fn end_receivers(&mut self, session: SessionId) {
        let now = self.now;
        let Some(room) = self.session_rooms.get_mut(&session) else { return };
        let (over, still): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(&mut room.waiting).into_iter().partition(|waiting| waiting.until <= now);
        room.waiting = still;
        for waiting in over {
            self.gateway_reply(waiting.gateway, waiting.target, Outcome::Ok, 0, 0, &[]);
        }
    }

    pub(super) fn session_accept(&mut self, call: &Call, taken: TakenCall) -> Result<(), Refusal> {
        let payload = taken.payload.into_vec();
        let HeldMessage { source, id, key } = HeldMessage::decode(&payload).map_err(Refusal::bad_request)?;
        let Some(room) = self.session_rooms.get_mut(&call.session) else {
            return Err(Refusal::gone());
        };
        let is_removed = room.mailbox.accept_held(&source, id)? || room.mailbox.accept_returned(&source, key, id)?;
        if !is_removed {
            return Err(not_held(&source, id));
        }
        room.is_full = false;
        self.gateway_reply(call.gateway, taken.target, Outcome::Ok, 0, 0, &[]);
        self.room_was_made(call.session);
        Ok(())
    }

    pub(super) fn session_release(&mut self, call: &Call, taken: TakenCall) -> Result<(), Refusal> {
        let payload = taken.payload.into_vec();
        let HeldMessage { source, id, .. } = HeldMessage::decode(&payload).map_err(Refusal::bad_request)?;
        let Some(room) = self.session_rooms.get_mut(&call.session) else {
            return Err(Refusal::gone());
        };
        if !room.mailbox.release_held_from(&source, id)? {
            return Err(not_held(&source, id));
        }
        self.gateway_reply(call.gateway, taken.target, Outcome::Ok, 0, 0, &[]);
        self.serve_receivers(call.session);
        Ok(())
    }
}

fn not_held(source: &Address, id: MessageId) -> Refusal {
    let MessageId { incarnation, sequence } = id;
    let what = format!(
        "the session holds no message {incarnation}/{sequence} of {source}: it was accepted, or never received"
    );
    Refusal::failed(codes::NOT_HELD, what)
}
