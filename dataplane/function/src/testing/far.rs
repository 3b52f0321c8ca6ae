//! A process of another host, as the gateway of a harness reaches it: its mailbox by a message lane, its functions by a call
//! lane, as the server of that host does it.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use praas_protocol::control::{LaneId, MessageLaneGeometry};
use praas_protocol::message::{Accepted, PutHead, codes};
use praas_protocol::{Name, Outcome};
use praas_shm::client_lane::{ClientLane, KeyedPayload, Payload, Ticket};
use praas_shm::mail_bell::MailBell;
use praas_shm::message_lane::{Outbound, Wanting};

use super::gateway::{Call, Reply};
use super::realm::{Realm, SenderId};
use crate::call_end::bytes_of;

/// A message lane as the realm gives it.
pub(super) struct GivenLane {
    pub(super) serial: u64,
    pub(super) geometry: MessageLaneGeometry,
    pub(super) payload_bytes_max: u32,
    pub(super) lane: OwnedFd,
    pub(super) bell: OwnedFd,
}

/// A process of another host, for one who sends to it and calls it.
pub(super) struct Far {
    realm: std::sync::Weak<Realm>,
    sender: SenderId,
    to: Name,
    /// The serial of the lane and the size that it takes.
    messages: Option<(u64, usize, Outbound)>,
    calls: Option<(LaneId, Arc<ClientLane>)>,
    forwarded: Vec<(u64, Ticket)>,
}

impl Far {
    pub(super) fn new(realm: &Arc<Realm>, sender: SenderId, to: Name) -> Self {
        Self { realm: Arc::downgrade(realm), sender, to, messages: None, calls: None, forwarded: Vec::new() }
    }

    /// Publishes a message in the lane to the process.
    pub(super) fn deliver(&mut self, head: &PutHead<'_>, bytes: &[u8]) -> Reply {
        if head.source != self.sender.source || head.id.incarnation != self.sender.incarnation {
            return Reply::failed(codes::BAD_REQUEST, "the message is of somebody else");
        }
        let sent = match self.message_lane(bytes.len()) {
            Ok(lane) => lane.try_send(head.id, head.key, bytes),
            Err(reply) => return reply,
        };
        match sent {
            Ok(()) => Reply::accepted(Accepted::Now),
            Err(error) => Reply::failed(codes::MAILBOX_FULL, &error.to_string()),
        }
    }

    /// The lane, replaced by a larger one where that is needed.
    fn message_lane(&mut self, bytes: usize) -> Result<&mut Outbound, Reply> {
        if self.messages.as_ref().is_none_or(|(_, bytes_max, _)| *bytes_max < bytes) {
            let realm = self.realm.upgrade().ok_or(Reply::plain(Outcome::UnknownProcess))?;
            if let Some((serial, ..)) = self.messages.take() {
                realm.close_message_lane(serial);
            }
            let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
            let given = realm.give_message_lane(&self.sender, self.to.into(), bytes);
            let GivenLane { serial, geometry, payload_bytes_max, lane, bell } =
                given.map_err(|_| Reply::plain(Outcome::UnknownProcess))?;
            let attached = MailBell::attach(bell).and_then(|bell| Outbound::attach(lane, &geometry, bell));
            let lane = attached.map_err(|error| Reply::failed(codes::NOT_SENT, &error.to_string()))?;
            self.messages = Some((serial, payload_bytes_max as usize, lane));
        }
        self.messages.as_mut().map(|(_, _, lane)| lane).ok_or(Reply::plain(Outcome::UnknownProcess))
    }

    /// Whether a message of so many bytes may find room.
    pub(super) fn has_room(&mut self, bytes: usize) -> bool {
        let wanting = Wanting::Message { key_bytes: 0, payload_bytes: bytes };
        self.messages.as_mut().is_none_or(|(_, bytes_max, lane)| *bytes_max < bytes || lane.has_room(wanting))
    }

    /// Hands a call on; the answer if it cannot.
    pub(super) fn forward(&mut self, call: Call) -> Option<Reply> {
        let lane = match self.call_lane() {
            Ok(lane) => lane,
            Err(reply) => return Some(reply),
        };
        let request = call.request;
        let (target, function, root, left_ns) = (request.target, request.function, request.root, request.time_left_ns);
        let payload = request.payload.into_vec();
        let submitted = match request.idempotency {
            None => lane.submit(function, Payload::Bytes(&payload), left_ns, root),
            Some(key) => lane.submit_keyed(function, key, KeyedPayload::Bytes(&payload), left_ns, root),
        };
        match submitted {
            Ok(ticket) => {
                self.forwarded.push((target, ticket));
                None
            }
            Err(_) => Some(Reply::plain(Outcome::Overloaded)),
        }
    }

    fn call_lane(&mut self) -> Result<Arc<ClientLane>, Reply> {
        if let Some((_, lane)) = &self.calls {
            return Ok(Arc::clone(lane));
        }
        let unknown = || Reply::plain(Outcome::UnknownProcess);
        let Some(realm) = self.realm.upgrade() else { return Err(unknown()) };
        let given = realm.give_call_lane(&self.sender, self.to).map_err(|_| unknown())?;
        let lane = Arc::new(ClientLane::attach(given).map_err(|_| unknown())?);
        self.calls = Some((lane.id(), Arc::clone(&lane)));
        Ok(lane)
    }

    pub(super) fn has_calls(&self) -> bool {
        !self.forwarded.is_empty()
    }

    /// Answers that have come, by whom they are for.
    pub(super) fn take_answers(&mut self) -> Vec<(u64, Reply)> {
        let Some((_, lane)) = &self.calls else { return Vec::new() };
        let answered = self.forwarded.extract_if(.., |(_, ticket)| lane.is_answered(ticket));
        answered
            .map(|(target, ticket)| {
                let answer = lane.take(ticket);
                let outcome = Outcome::from_code(answer.outcome_code).unwrap_or(Outcome::Malformed);
                let bytes = answer.payload.as_ref().map(bytes_of).unwrap_or_default();
                (target, Reply { outcome, detail: answer.detail, more: answer.more, bytes })
            })
            .collect()
    }

    /// Nobody hears the answers to what was forwarded; who waited for them.
    pub(super) fn forget_calls(&mut self) -> Vec<u64> {
        let Some((_, lane)) = &self.calls else { return Vec::new() };
        self.forwarded
            .drain(..)
            .map(|(target, ticket)| {
                lane.abandon(ticket);
                target
            })
            .collect()
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        drop(self.forget_calls());
        let Some(realm) = self.realm.upgrade() else { return };
        if let Some((serial, ..)) = &self.messages {
            realm.close_message_lane(*serial);
        }
        if let Some((lane, _)) = &self.calls
            && let Some(called) = realm.callable(self.to)
        {
            called.close(*lane);
        }
    }
}
