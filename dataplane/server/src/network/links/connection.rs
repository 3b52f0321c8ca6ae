//! One connection of a link: what it is sent, what it receives, and what is in flight on it.
//!
//! A record stays in the table until the driver has closed its socket: until then payloads may be sent from lanes.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use praas_protocol::FunctionId;
use praas_protocol::wire::{Decoder, Session, Side};
use praas_shm::io_buffer::LaneBuffer;
use praas_sys::driver::{End, Outgoing, SourceId};

use super::super::gateways::GatewayKey;
use super::super::shard::NetworkShard;
use super::super::table::Key;
use super::answering::Incoming;
use super::{Class, header_of};
use crate::limits::{SPARE_MESSAGE_BYTES_MAX, SPARE_MESSAGES_MAX};

/// Names a connection of a link.
pub(in super::super) type LinkConnectionKey = Key<LinkConnection>;

/// A call in flight.
#[derive(Debug)]
pub(super) struct LinkCall {
    pub(super) request_id: u64,
    pub(super) gateway: GatewayKey,
    pub(super) target: u64,
    pub(super) function: FunctionId,
    pub(super) payload_bytes: u32,
    /// The message that it went with: once that is sent, nothing reads the payload any more.
    pub(super) message: u64,
    /// Nobody waits for it: it was cancelled, and answered as far as its caller is concerned if `is_answered`.
    pub(super) is_abandoned: bool,
    pub(super) is_answered: bool,
    /// An answer that came before the payload was seen to be sent.
    pub(super) early: Option<Box<Incoming>>,
}

/// One of the two connections of a link.
#[derive(Debug)]
pub(in super::super) struct LinkConnection {
    pub(super) peer: usize,
    pub(super) class: Class,
    pub(super) source: SourceId,
    pub(super) decoder: Decoder,
    pub(super) rules: Session,
    pub(super) is_welcome: bool,
    pub(super) is_closing: bool,
    /// Most handles that the other server gives, and how many it was asked for.
    pub(super) handles_max: u32,
    pub(super) handles: u32,
    pub(super) next_request_id: u64,
    /// What goes with the next send.
    pub(super) outgoing: Option<Outgoing<LaneBuffer>>,
    /// Bytes of the send that is under way.
    pub(super) sending_bytes: Option<usize>,
    /// Counts the sends that have ended: the number of the one under way, or of the next.
    pub(super) sends_ended: u64,
    pub(super) is_unsent: bool,
    /// In the order of their request ids.
    pub(super) calls: VecDeque<LinkCall>,
    /// Gateways whose handle was asked for, by the question's id.
    pub(super) opening: BTreeMap<u64, GatewayKey>,
    pub(super) watching: Option<u64>,
    /// Gateways with calls that found no credit, in the order of their turns.
    pub(super) waiting: VecDeque<GatewayKey>,
    pub(super) incoming: Option<Box<Incoming>>,
    /// Calls with an early answer, or abandoned before they were seen to be sent.
    pub(super) unsettled: usize,
    /// When anything came last.
    pub(super) heard: Instant,
    pub(super) pinged: Instant,
}

impl LinkConnection {
    pub(super) fn new(peer: usize, class: Class, source: SourceId, now: Instant) -> Self {
        Self {
            peer,
            class,
            source,
            decoder: Decoder::new(Side::Server, 0),
            rules: Session::new(Side::Client),
            is_welcome: false,
            is_closing: false,
            handles_max: 0,
            handles: 0,
            next_request_id: 1,
            outgoing: None,
            sending_bytes: None,
            sends_ended: 0,
            is_unsent: false,
            calls: VecDeque::new(),
            opening: BTreeMap::new(),
            watching: None,
            waiting: VecDeque::new(),
            incoming: None,
            unsettled: 0,
            heard: now,
            pinged: now,
        }
    }

    /// The id of the next call or question.
    pub(super) fn take_request_id(&mut self) -> u64 {
        let id = self.next_request_id;
        self.next_request_id += 1;
        id
    }

    /// The number of the send that what is gathered now goes with.
    pub(super) fn gathering(&self) -> u64 {
        self.sends_ended + u64::from(self.sending_bytes.is_some())
    }

    pub(super) fn place_of(&self, request_id: u64) -> Option<usize> {
        if self.calls.front().is_some_and(|call| call.request_id == request_id) {
            return Some(0);
        }
        self.calls.binary_search_by_key(&request_id, |call| call.request_id).ok()
    }

    /// Bytes that were sent, or are to be, and not answered.
    pub(super) fn bytes_under_way(&self) -> u64 {
        let unsent = self.outgoing.as_ref().map_or(0, Outgoing::len) + self.sending_bytes.unwrap_or(0);
        self.rules.window().bytes() + unsent as u64
    }
}

impl NetworkShard {
    /// Queues a frame without a payload; false if the rules do not allow it now.
    pub(super) fn push_to_peer(&mut self, key: LinkConnectionKey, encode: impl FnOnce(&mut Vec<u8>)) -> bool {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        encode(&mut scratch);
        let mut allowed = false;
        if let Some(connection) = self.links.connections.get_mut(key).filter(|connection| !connection.is_closing)
            && let Some(header) = header_of(&scratch)
        {
            allowed = connection.rules.show(Side::Client, &header).is_ok();
            if allowed {
                self.gather_for_peer(key, |message| message.push_bytes(&scratch));
            }
        }
        self.scratch = scratch;
        allowed
    }

    /// Adds to the message that goes next.
    pub(super) fn gather_for_peer(&mut self, key: LinkConnectionKey, add: impl FnOnce(&mut Outgoing<LaneBuffer>)) {
        let Some(connection) = self.links.connections.get_mut(key) else { return };
        add(connection.outgoing.get_or_insert_with(|| self.spare_messages.pop().unwrap_or_default()));
        if !std::mem::replace(&mut connection.is_unsent, true) {
            self.links.unsent.push(key);
        }
    }

    /// Sends what this turn has gathered for other servers.
    pub(in super::super) fn send_to_peers(&mut self) {
        let mut unsent = std::mem::take(&mut self.links.unsent);
        for key in unsent.drain(..) {
            self.send_to_peer(key);
        }
        unsent.append(&mut self.links.unsent);
        self.links.unsent = unsent;
    }

    fn send_to_peer(&mut self, key: LinkConnectionKey) {
        let Some(connection) = self.links.connections.get_mut(key) else { return };
        connection.is_unsent = false;
        if connection.sending_bytes.is_some() || connection.is_closing {
            return;
        }
        let Some(message) = connection.outgoing.take_if(|message| !message.is_empty()) else { return };
        connection.sending_bytes = Some(message.len());
        let (source, peer) = (connection.source, connection.peer);
        if let Err(refused) = self.driver.send(source, message) {
            self.lose_link(peer, &format!("sending to it: {}", refused.refusal));
        }
    }

    /// A send has ended.
    pub(in super::super) fn sent_to_peer(
        &mut self,
        key: LinkConnectionKey,
        mut message: Outgoing<LaneBuffer>,
        end: End,
    ) {
        let bytes = message.len();
        message.clear();
        if self.spare_messages.len() < SPARE_MESSAGES_MAX && bytes <= SPARE_MESSAGE_BYTES_MAX {
            self.spare_messages.push(message);
        }
        let Some(connection) = self.links.connections.get_mut(key) else { return };
        connection.sending_bytes = None;
        connection.sends_ended += 1;
        let (peer, is_closing) = (connection.peer, connection.is_closing);
        if end != End::Done {
            if !is_closing {
                self.lose_link(peer, &format!("sending to it: {end:?}"));
            }
            return;
        }
        self.counters.sent(bytes);
        if connection.outgoing.is_some() && !std::mem::replace(&mut connection.is_unsent, true) {
            self.links.unsent.push(key);
        }
        if connection.unsettled > 0 {
            self.settle_sent_calls(key);
        }
    }

    /// No more bytes will come.
    pub(in super::super) fn peer_has_ended(&mut self, key: LinkConnectionKey, end: End) {
        let Some(connection) = self.links.connections.get(key).filter(|connection| !connection.is_closing) else {
            return;
        };
        let peer = connection.peer;
        match end {
            End::EndOfStream => self.lose_link(peer, "it has closed the connection"),
            end => self.lose_link(peer, &format!("the connection broke: {end:?}")),
        }
    }
}
