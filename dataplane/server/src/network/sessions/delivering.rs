//! What others send to a session: processes of this server, and of others by their servers.
//!
//! Each message may have been sent before, so that all pass the filter of repetitions.

use std::collections::VecDeque;
use std::time::Instant;

use praas_protocol::Outcome;
use praas_protocol::message::{Accepted, PutHead, SessionId, codes, decode_room};
use praas_shm::mailbox::{MailError, NewMessage};

use super::{Call, Refusal};
use crate::limits::SESSION_WAIT_MAX;
use crate::network::gateways::{GatewayKey, Speaker, TakenCall};
use crate::network::shard::NetworkShard;

/// A sender that waits for room.
#[derive(Debug)]
pub(super) struct AwaitingRoom {
    pub(super) gateway: GatewayKey,
    pub(super) target: u64,
    pub(super) until: Instant,
}

impl NetworkShard {
    /// A message's first transmission. `is_first`: no other one of its sender is on its way by this lane.
    pub(super) fn session_deliver(&mut self, call: &Call, taken: TakenCall, is_first: bool) -> Result<(), Refusal> {
        if let Some(gateway) = self.gateways.get_mut(call.gateway) {
            if gateway.is_refusing && !is_first {
                let why = "a message before it found no room in the mailbox of the session";
                return Err(Refusal::failed(codes::MAILBOX_FULL, why));
            }
            gateway.is_refusing = false;
        }
        let refused = self.session_put(call, taken);
        let is_refused = |refusal: &Refusal| matches!(refusal.detail, codes::MAILBOX_FULL | codes::BUSY);
        if refused.as_ref().is_err_and(is_refused)
            && let Some(gateway) = self.gateways.get_mut(call.gateway)
        {
            gateway.is_refusing = true;
        }
        refused
    }

    /// Puts a message into the mailbox, unless it was put before.
    pub(super) fn session_put(&mut self, call: &Call, taken: TakenCall) -> Result<(), Refusal> {
        let payload = taken.payload.into_vec();
        let (head, bytes) = PutHead::decode(&payload).map_err(Refusal::bad_request)?;
        let Some(Speaker { source, incarnation, .. }) = self.gateway_speaker(call.gateway) else { return Ok(()) };
        if head.source != *source || head.id.incarnation > *incarnation {
            return Err(Refusal::bad_request("the message names another source than the lane that it came by"));
        }
        let accepted = self.put_into_session(call.session, &head, bytes)?;
        self.gateway_reply(call.gateway, taken.target, Outcome::Ok, 0, 0, &[accepted as u8]);
        Ok(())
    }

    /// The same, whoever it comes from.
    pub(super) fn put_into_session(
        &mut self,
        session: SessionId,
        head: &PutHead<'_>,
        bytes: &[u8],
    ) -> Result<Accepted, Refusal> {
        let Some(room) = self.session_rooms.get_mut(&session) else {
            return Err(Refusal::gone());
        };
        let limit_bytes = room.message_bytes_max();
        if bytes.len() > limit_bytes as usize {
            let actual = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            return Err(Refusal::bare(Outcome::PayloadTooLarge, limit_bytes, actual));
        }
        let new = NewMessage { source: &head.source, id: head.id, key: head.key, bytes, repeats: true };
        let accepted = room.mailbox.put(&new);
        room.is_full |= matches!(accepted, Err(MailError::Full { .. }));
        let accepted = accepted?;
        if accepted == Accepted::Now {
            self.serve_receivers(session);
        }
        Ok(accepted)
    }

    /// A sender was refused for want of room and waits.
    pub(super) fn session_await_room(&mut self, call: &Call, taken: TakenCall) -> Result<(), Refusal> {
        let payload = taken.payload.into_vec();
        let wanted = decode_room(&payload).ok_or_else(|| Refusal::bad_request("it does not say for how many bytes"))?;
        let Some(room) = self.session_rooms.get_mut(&call.session) else {
            return Err(Refusal::gone());
        };
        let limit_bytes = room.message_bytes_max();
        if wanted > u64::from(limit_bytes) {
            let actual = u32::try_from(wanted).unwrap_or(u32::MAX);
            return Err(Refusal::bare(Outcome::PayloadTooLarge, limit_bytes, actual));
        }
        if !room.is_full {
            self.gateway_reply(call.gateway, taken.target, Outcome::Ok, 0, 0, &[]);
            return Ok(());
        }
        let longest = self.now + SESSION_WAIT_MAX;
        let until = taken.deadline.map_or(longest, |deadline| deadline.min(longest));
        room.awaiting_room.push_back(AwaitingRoom { gateway: call.gateway, target: taken.target, until });
        self.look_at_session_again(call.session, until);
        Ok(())
    }

    /// A message was removed: whoever waits for room tries again.
    pub(super) fn room_was_made(&mut self, session: SessionId) {
        let Some(room) = self.session_rooms.get_mut(&session) else { return };
        for waiting in std::mem::take(&mut room.awaiting_room) {
            self.gateway_reply(waiting.gateway, waiting.target, Outcome::Ok, 0, 0, &[]);
        }
    }

    /// Answers senders whose time is over.
    pub(super) fn end_awaiting(&mut self, session: SessionId) {
        let now = self.now;
        let Some(room) = self.session_rooms.get_mut(&session) else { return };
        let (over, still): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(&mut room.awaiting_room).into_iter().partition(|waiting| waiting.until <= now);
        room.awaiting_room = still;
        for waiting in over {
            self.gateway_reply(waiting.gateway, waiting.target, Outcome::DeadlineExceeded, 0, 0, &[]);
        }
    }
}
