//! Answers that found no room in their gateway's lane: its worker takes others out soon. They are kept for a second at the most,
//! and only so many bytes of them; beyond that an answer is lost, and its caller told so.

use std::collections::VecDeque;
use std::time::Instant;

use praas_protocol::Outcome;
use praas_shm::io_buffer::IoBuffer;

use super::super::gateways::GatewayKey;
use super::super::shard::NetworkShard;
use super::super::timers::Timer;
use crate::limits::{KEPT_REPLY_BYTES_MAX, KEPT_REPLY_MAX, ROOM_LOOK_PERIOD};

/// An answer with its payload in memory of our own.
#[derive(Debug)]
pub(super) struct KeptReply {
    pub(super) gateway: GatewayKey,
    pub(super) target: u64,
    pub(super) outcome: Outcome,
    pub(super) detail: u32,
    pub(super) more: u32,
    pub(super) payload: Vec<u8>,
}

/// The answers of one link that are kept, in the order of their ends.
#[derive(Debug, Default)]
pub(super) struct KeptReplies {
    replies: VecDeque<(Instant, KeptReply)>,
    bytes: usize,
}

impl KeptReplies {
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl NetworkShard {
    /// Hands an answer over as soon as there is room for it.
    pub(super) fn keep_reply(&mut self, peer: usize, reply: KeptReply) {
        let Some(reply) = self.store_reply(reply) else { return };
        let Some(link) = self.links.of.get_mut(&peer) else { return };
        if link.kept.bytes + reply.payload.len() > KEPT_REPLY_BYTES_MAX {
            return self.lose_reply(&reply);
        }
        link.kept.bytes += reply.payload.len();
        if link.kept.replies.is_empty() {
            self.timers.at(self.now + ROOM_LOOK_PERIOD, Timer::KeptReplies(peer));
        }
        link.kept.replies.push_back((self.now + KEPT_REPLY_MAX, reply));
    }

    /// Timer: looks for room again.
    pub(in super::super) fn kept_replies_due(&mut self, peer: usize) {
        let Some(link) = self.links.of.get_mut(&peer) else { return };
        for (end, reply) in std::mem::take(&mut link.kept).replies {
            let Some(reply) = self.store_reply(reply) else { continue };
            if end <= self.now {
                self.lose_reply(&reply);
            } else if let Some(link) = self.links.of.get_mut(&peer) {
                link.kept.bytes += reply.payload.len();
                link.kept.replies.push_back((end, reply));
            }
        }
        if self.links.of.get(&peer).is_some_and(|link| !link.kept.replies.is_empty()) {
            self.timers.at(self.now + ROOM_LOOK_PERIOD, Timer::KeptReplies(peer));
        }
    }

    /// Gives the reply back if there is no room for it.
    fn store_reply(&mut self, reply: KeptReply) -> Option<KeptReply> {
        let Some(mut room) = self.gateway_room(reply.gateway, reply.target, reply.payload.len()) else {
            return Some(reply);
        };
        room.store(0, &reply.payload);
        let KeptReply { gateway, target, outcome, detail, more, .. } = reply;
        self.gateway_reply_room(gateway, target, outcome, detail, more, room);
        None
    }

    fn lose_reply(&mut self, reply: &KeptReply) {
        let bytes = u32::try_from(reply.payload.len()).unwrap_or(u32::MAX);
        self.gateway_reply(reply.gateway, reply.target, Outcome::ReplyLost, 0, bytes, &[]);
    }
}
