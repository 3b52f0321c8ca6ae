//! What a connection is sent: gathered while its turn lasts, or its last send, then sent in one piece.
//!
//! Frames and inline payloads are copied into the message's head; replies that lie in a lane are sent from there, and
//! belong to the send until its completion. A client that does not read is not read either, and sent away when a send does
//! not end in the time that even a slow line takes: if it reads on soon, it learns why.

use std::time::Duration;

use praas_protocol::limits::REPLY_INLINE_BYTES;
use praas_protocol::wire::{GoawayReason, HEADER_BYTES, Header, Response, Side};
use praas_shm::client_lane::AnswerPayload;
use praas_shm::io_buffer::{LaneBuffer, ReplyBuffer};
use praas_sys::driver::{End, Outgoing};

use super::connection::{Connection, ConnectionKey};
use super::shard::NetworkShard;
use super::timers::Timer;
use crate::limits::{
    OUTPUT_STALL_MAX, SENT_IN_PLACE_BYTES_MIN, SLOWEST_BYTES_PER_S, SPARE_MESSAGE_BYTES_MAX, SPARE_MESSAGES_MAX,
};

impl NetworkShard {
    /// Queues a frame that answers or greets.
    pub(super) fn push(&mut self, key: ConnectionKey, encode: impl FnOnce(&mut Vec<u8>)) {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        encode(&mut scratch);
        if let Some(connection) = self.connections.get_mut(key)
            && let Some(header) = scratch.first_chunk::<HEADER_BYTES>().and_then(|bytes| Header::parse(bytes).ok())
        {
            let shown = connection.rules.show(Side::Server, &header);
            debug_assert!(shown.is_ok(), "what the server sends keeps to the rules: {shown:?}");
            self.gather(key, |message| message.push_bytes(&scratch));
        }
        self.scratch = scratch;
    }

    /// Queues a frame of which the rules were told otherwise.
    pub(super) fn push_unruled(&mut self, key: ConnectionKey, encode: impl FnOnce(&mut Vec<u8>)) {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        encode(&mut scratch);
        self.gather(key, |message| message.push_bytes(&scratch));
        self.scratch = scratch;
    }

    /// Queues the answer to a call.
    pub(super) fn push_response(&mut self, key: ConnectionKey, response: &Response, payload: Option<AnswerPayload>) {
        let bytes = payload.as_ref().map_or(0, AnswerPayload::len);
        let head = response.encode_head(u32::try_from(bytes).unwrap_or(u32::MAX));
        let Some(connection) = self.connections.get(key) else { return };
        let leaves_lane = connection.copies_reply(bytes);
        self.gather(key, |message| {
            message.push_bytes(&head);
            let Some(payload) = payload else { return };
            match payload.as_slice() {
                Some(slice) if bytes <= REPLY_INLINE_BYTES => return message.push_bytes(slice),
                _ => {}
            }
            let buffer = match leaves_lane {
                true => Ok(LaneBuffer::Private(copy_of(&payload))),
                false => ReplyBuffer::new(payload).map(LaneBuffer::Reply),
            };
            let pushed = match buffer {
                Ok(buffer) => message.push_buffer(buffer, 0..bytes).is_ok(),
                Err(_) => false,
            };
            debug_assert!(pushed, "what is not inline is a block, and the whole of it lies inside it");
        });
    }

    /// Adds to the message that goes next on a connection.
    #[inline]
    pub(super) fn gather(&mut self, key: ConnectionKey, add: impl FnOnce(&mut Outgoing<LaneBuffer>)) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        add(connection.outgoing.get_or_insert_with(|| self.spare_messages.pop().unwrap_or_default()));
        if !std::mem::replace(&mut connection.is_unsent, true) {
            self.unsent.push(key);
        }
    }

    /// Has a connection looked at when this turn's sends go.
    pub(super) fn mark_unsent(&mut self, key: ConnectionKey) {
        if let Some(connection) = self.connections.get_mut(key)
            && !std::mem::replace(&mut connection.is_unsent, true)
        {
            self.unsent.push(key);
        }
    }

    /// Sends what this turn has gathered.
    pub(super) fn send_gathered(&mut self) {
        let mut unsent = std::mem::take(&mut self.unsent);
        for key in unsent.drain(..) {
            self.send(key);
        }
        // What closing a connection has marked meanwhile is gone with it.
        unsent.append(&mut self.unsent);
        self.unsent = unsent;
    }

    fn send(&mut self, key: ConnectionKey) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        connection.is_unsent = false;
        if connection.sending_bytes.is_none()
            && let Some(message) = connection.outgoing.take_if(|message| !message.is_empty())
        {
            connection.sending_bytes = Some(message.len());
            connection.send_started = self.now;
            let watch = !std::mem::replace(&mut connection.output_watched, true);
            if self.driver.send(connection.source, message).is_err() {
                return self.close(key);
            }
            if watch {
                self.timers.at(self.now + OUTPUT_STALL_MAX, Timer::Output(key));
            }
        }
        self.adjust_receiving(key);
        self.go_on_leaving(key);
        self.go_on_giving_away(key);
    }

    /// A send has ended.
    pub(super) fn sent(&mut self, key: ConnectionKey, mut message: Outgoing<LaneBuffer>, end: End) {
        let kept_bytes = message.len();
        if end == End::Done {
            self.counters.sent(kept_bytes);
        }
        // Replies go back to their lanes here.
        message.clear();
        if self.spare_messages.len() < SPARE_MESSAGES_MAX && kept_bytes <= SPARE_MESSAGE_BYTES_MAX {
            self.spare_messages.push(message);
        }
        let Some(connection) = self.connections.get_mut(key) else { return };
        connection.sending_bytes = None;
        if end != End::Done {
            return self.close(key);
        }
        // Most of the time that was all.
        if !connection.receiving || !connection.is_plainly_open() || connection.outgoing.is_some() {
            self.mark_unsent(key);
        }
    }

    /// Timer: whether the output of a connection moves.
    pub(super) fn output_due(&mut self, key: ConnectionKey) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let Some(bytes) = connection.sending_bytes else {
            connection.output_watched = false;
            return;
        };
        let end = connection.send_started + longest_send(bytes);
        if end > self.now {
            return self.timers.at(end, Timer::Output(key));
        }
        if !connection.listens() {
            return self.close(key);
        }
        // Nobody will read what was gathered behind the send that stands still. Our last word goes there: in the middle of that
        // send it would be taken for a part of it.
        connection.outgoing = None;
        self.counters.slow_reader_closed();
        self.send_away(key, GoawayReason::SlowReader, "its answers are not read");
    }
}

/// Time that a send may take on the slowest line that is put up with.
fn longest_send(bytes: usize) -> Duration {
    OUTPUT_STALL_MAX + Duration::from_secs(bytes as u64 / SLOWEST_BYTES_PER_S)
}

fn copy_of(payload: &AnswerPayload) -> Vec<u8> {
    let mut bytes = vec![0; payload.len()];
    payload.copy_to(&mut bytes);
    bytes
}

impl Connection {
    /// Whether a reply is copied out of its lane rather than sent from there: where that is cheap, or it would have to wait
    /// there for the client to read what came before. Within the client's reply window; what is beyond stays in the lane.
    fn copies_reply(&self, bytes: usize) -> bool {
        let is_behind = self.sending_bytes.is_some();
        (is_behind || bytes < SENT_IN_PLACE_BYTES_MIN)
            && (self.unread_bytes() + bytes) as u64 <= self.reply_window_bytes
    }

    /// Time that the payload of a request may take.
    pub(super) fn longest_payload(bytes: u32) -> Duration {
        longest_send(bytes as usize)
    }
}
