//! Why a message was not sent, and why one that came was none.

/// Why a message is not in the lane. Nothing was changed; a loan comes back with the error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The receiver has not looked at as many messages as the lane takes.
    #[error("the receiver has not yet looked at {entries} messages: wait for room, or let it receive")]
    LaneFull {
        /// Messages that the lane takes.
        entries: u32,
    },
    /// The lane's arena has no room for the payload, or no descriptor for its block.
    #[error(
        "no room for {wanted_bytes} bytes: the receiver has not accepted {blocks_in_use} of {blocks} large messages, and the \
         largest free block has {largest_free_bytes} bytes; wait for room, or let it receive"
    )]
    ArenaFull {
        /// Bytes of the payload.
        wanted_bytes: usize,
        /// Bytes of the largest payload that would fit.
        largest_free_bytes: usize,
        /// Payloads in the arena, those being built included.
        blocks_in_use: usize,
        /// Payloads that the arena can hold at a time.
        blocks: usize,
    },
    /// The server has closed the lane, as the receiver leaves memory. What was sent before was accepted.
    #[error(
        "the lane was closed after {accepted} messages, because its receiver leaves memory: ask the server for another one, \
         which wakes it"
    )]
    Closed {
        /// Messages that were accepted.
        accepted: u64,
    },
    /// No such payload ever fits this lane.
    #[error("a message of {bytes} bytes does not fit a lane for {limit_bytes}: open one for larger messages")]
    TooLarge {
        /// Bytes of the payload.
        bytes: usize,
        /// Bytes of the largest payload of this lane.
        limit_bytes: usize,
    },
}

impl SendError {
    /// Whether the same send can succeed once the receiver has made room.
    #[must_use]
    pub fn is_full(&self) -> bool {
        !matches!(self, Self::TooLarge { .. } | Self::Closed { .. })
    }
}

/// An entry that no sender publishes who keeps the protocol. It can be skipped; what it stood for is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("message {position} of the lane is spoiled: {what}")]
pub struct Spoiled {
    /// Its position in the lane.
    pub position: u64,
    /// What is wrong with it.
    pub what: &'static str,
}
