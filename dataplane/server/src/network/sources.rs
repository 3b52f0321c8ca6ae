//! What a driver's tokens mean: a kind and a key in one word.

use super::connection::ConnectionKey;
use super::gateways::GatewayKey;
use super::lanes::LaneKey;
use super::links::LinkConnectionKey;
use super::table::Key;

const KIND_SHIFT: u32 = 56;

/// A source of completions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// A listening socket, by its place in the list.
    Listener(u64),
    /// A connection.
    Connection(ConnectionKey),
    /// The reply doorbell of a lane.
    Bell(LaneKey),
    /// The doorbell of a gateway.
    Gateway(GatewayKey),
    /// A connection to another server.
    Link(LinkConnectionKey),
}

impl Source {
    pub(super) fn token(self) -> u64 {
        let (kind, word) = match self {
            Self::Listener(index) => (0, index),
            Self::Connection(key) => (1, key.word()),
            Self::Bell(key) => (2, key.word()),
            Self::Gateway(key) => (4, key.word()),
            Self::Link(key) => (5, key.word()),
        };
        kind << KIND_SHIFT | word
    }

    pub(super) fn of(token: u64) -> Option<Self> {
        let word = token & ((1 << KIND_SHIFT) - 1);
        match token >> KIND_SHIFT {
            0 => Some(Self::Listener(word)),
            1 => Some(Self::Connection(Key::of_word(word))),
            2 => Some(Self::Bell(Key::of_word(word))),
            4 => Some(Self::Gateway(Key::of_word(word))),
            5 => Some(Self::Link(Key::of_word(word))),
            _ => None,
        }
    }
}
