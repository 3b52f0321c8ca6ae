//! Links: this server as the client of others. What a worker calls on another server comes here from its gateway lane, and
//! goes on over TCP in the protocol of all clients; the answer comes back the same way.
//!
//! A link is two connections to one server, *small* and *bulk*, so that large payloads hold no small ones up. They are dialled
//! together, share a generation, and end together. A shard has the links to the servers that fall to it, for as long as it
//! runs: a link that breaks is dialled again for ever.
//!
//! | room | what |
//! |---|---|
//! | `dialling`, `greeting` | from an address to a link that is up |
//! | `connection` | one of the two connections: sending and receiving |
//! | `routes`, `calling` | from a gateway's call to a REQUEST |
//! | `hearing` | from received bytes to what they say |
//! | `answering`, `kept_replies` | from a RESPONSE to the gateway |
//! | `pulse` | who is silent for too long is cut; callers who wait no more |
//! | `watching` | what the other server has |
//! | `losing` | the end of a link, and what becomes of what was under way |
//!
//! Invariants:
//! 1. A call that was taken is in one place: in a queue of its route, or in flight on a connection; it is answered once, unless
//!    its gateway is forgotten first. So what waits here is bounded by the cells of the gateways' lanes.
//! 2. A call is not answered while the driver may still send its payload from the lane: the caller reuses the block at once.
//!    Nor when its link breaks, until the socket is closed.
//! 3. What is delivered as a message goes in the order in which it came, on one connection at a time; and nothing goes
//!    behind one that was refused or lost until the sender says that it knows.
//! 4. What the other server sends is checked by the rules of the protocol; whatever breaks them breaks the link, nothing else.

mod answering;
mod calling;
mod connection;
mod dialling;
mod greeting;
mod hearing;
mod kept_replies;
mod losing;
mod pulse;
mod routes;
mod watching;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use praas_protocol::wire::Header;
use praas_protocol::{FunctionId, message};

pub(super) use connection::{LinkConnection, LinkConnectionKey};
pub(super) use dialling::Dialled;
use kept_replies::KeptReplies;
use routes::Route;

use super::gateways::GatewayKey;
use super::shard::NetworkShard;
use super::table::Table;
use super::timers::Timer;
use crate::limits::{LINK_PAUSE_MAX, LINK_PAUSE_MIN};

/// Which of a link's two connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Class {
    /// Payloads of at most [`crate::limits::SMALL_PAYLOAD_BYTES_MAX`].
    Small,
    /// Larger ones.
    Bulk,
}

/// Both.
const CLASSES: [Class; 2] = [Class::Small, Class::Bulk];

impl Class {
    fn of(payload_bytes: usize) -> Self {
        if payload_bytes <= crate::limits::SMALL_PAYLOAD_BYTES_MAX { Self::Small } else { Self::Bulk }
    }

    fn index(self) -> usize {
        self as usize
    }
}

/// Where a link stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Until a timer says that it is to be dialled.
    Down,
    /// A thread connects.
    Dialling,
    /// The hellos were said.
    Greeting,
    /// Calls go.
    Up {
        /// Since when.
        since: Instant,
    },
    /// The other server ends: what it has taken is answered.
    Leaving,
    /// The sockets are closing.
    Closing,
}

/// The link to one other server.
#[derive(Debug)]
pub(super) struct Link {
    standing: Standing,
    /// Counts the pairs of connections.
    generation: u64,
    connections: [Option<LinkConnectionKey>; 2],
    /// Before the next attempt.
    pause: Duration,
    /// Why it is to end, once that is so.
    trouble: String,
    /// Gateways whose calls go this way.
    routes: BTreeSet<GatewayKey>,
    /// Whether a timer looks after calls that wait.
    is_looked_after: bool,
    kept: KeptReplies,
}

impl Link {
    fn new() -> Self {
        Self {
            standing: Standing::Down,
            generation: 0,
            connections: [None; 2],
            pause: LINK_PAUSE_MIN,
            trouble: String::new(),
            routes: BTreeSet::new(),
            is_looked_after: false,
            kept: KeptReplies::default(),
        }
    }

    fn is_up(&self) -> bool {
        matches!(self.standing, Standing::Up { .. })
    }

    /// The pause before the next attempt, which the one after that doubles.
    fn next_pause(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (2 * pause).min(LINK_PAUSE_MAX);
        pause
    }
}

/// All links of a shard.
#[derive(Debug, Default)]
pub(super) struct Links {
    of: BTreeMap<usize, Link>,
    connections: Table<LinkConnection>,
    routes: BTreeMap<GatewayKey, Route>,
    /// Connections to be looked at when this turn's sends go.
    unsent: Vec<LinkConnectionKey>,
}

impl Links {
    /// Whether every socket is closed.
    pub(super) fn are_closed(&self) -> bool {
        self.connections.len() == 0
    }

    pub(super) fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }
}

/// Whether calls of a function are messages that keep their order.
fn is_delivery(function: FunctionId) -> bool {
    function == DELIVER || function == DELIVER_NEXT
}

const DELIVER: FunctionId = FunctionId::of(message::DELIVER_FUNCTION);
const DELIVER_NEXT: FunctionId = FunctionId::of(message::DELIVER_NEXT_FUNCTION);
const AWAIT_ROOM: FunctionId = FunctionId::of(message::AWAIT_ROOM_FUNCTION);

impl NetworkShard {
    /// Begins to dial the servers that fall to this shard.
    pub(super) fn start_links(&mut self) {
        for peer in 0..self.plan.peers.len() {
            if self.plan.elsewhere.shard_of(peer) == self.index {
                self.links.of.insert(peer, Link::new());
                self.timers.at(self.now, Timer::Dial(peer));
            }
        }
    }

    /// Ends all links: no worker is left that would call.
    pub(super) fn end_links(&mut self) {
        for peer in self.links.of.keys().copied().collect::<Vec<_>>() {
            self.lose_link(peer, "the server ends");
        }
    }

    /// The connection of a class, while calls go.
    fn link_connection(&self, peer: usize, class: Class) -> Option<LinkConnectionKey> {
        self.links.of.get(&peer).filter(|link| link.is_up())?.connections[class.index()]
    }

    /// The peer whose connection this is.
    fn peer_of(&self, key: LinkConnectionKey) -> Option<usize> {
        Some(self.links.connections.get(key)?.peer)
    }
}

/// A header of a frame that was just encoded.
fn header_of(frame: &[u8]) -> Option<Header> {
    frame.first_chunk().and_then(|bytes| Header::parse(bytes).ok())
}
