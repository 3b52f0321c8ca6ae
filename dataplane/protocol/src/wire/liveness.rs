//! PING, PONG and GOAWAY: whether the other side is there, and that it will not be much longer.

use crate::limits::WIRE_ADVICE_BYTES_MAX;
use crate::wire::fields::{Fields, frame, put_cut_text};
use crate::wire::{Header, Kind, WireError};

/// Asks for the server's clock. Answered at once, before calls that wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ping {
    /// Comes back in the [`Pong`].
    pub opaque: u64,
}

impl Ping {
    /// The ping in `body`.
    ///
    /// # Errors
    /// The field that is wrong.
    pub fn parse(_header: &Header, body: &[u8]) -> Result<Self, WireError> {
        let mut fields = Fields::of(Kind::Ping, body);
        let opaque = fields.u64()?;
        fields.end(Self { opaque })
    }

    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        frame(out, Kind::Ping, 0, 0, |out| out.extend_from_slice(&self.opaque.to_le_bytes()));
    }
}

/// Answer to a ping. The times are of the server's monotonic clock: only their difference means something elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pong {
    /// Of the [`Ping`].
    pub opaque: u64,
    /// When the ping was received, in nanoseconds.
    pub received_ns: u64,
    /// When this answer was written, in nanoseconds.
    pub sent_ns: u64,
}

impl Pong {
    /// The pong in `body`.
    ///
    /// # Errors
    /// The field that is wrong.
    pub fn parse(_header: &Header, body: &[u8]) -> Result<Self, WireError> {
        let mut fields = Fields::of(Kind::Pong, body);
        let pong = Self { opaque: fields.u64()?, received_ns: fields.u64()?, sent_ns: fields.u64()? };
        fields.end(pong)
    }

    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        frame(out, Kind::Pong, 0, 0, |out| {
            for word in [self.opaque, self.received_ns, self.sent_ns] {
                out.extend_from_slice(&word.to_le_bytes());
            }
        });
    }
}

/// Why a server ends a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GoawayReason {
    /// The server ends.
    ShuttingDown,
    /// The process of this dedicated connection drains.
    Draining,
    /// The client broke the protocol.
    Protocol,
    /// The client broke a limit: calls in flight, window, questions.
    Limit,
    /// The token expired or was withdrawn.
    TokenEnded,
    /// The client did not read its replies in time.
    SlowReader,
    /// The payload of a call did not come in time.
    Idle,
    /// A reason of a later version.
    Other(u16),
}

impl GoawayReason {
    /// Its number.
    #[must_use]
    pub fn code(self) -> u16 {
        match self {
            Self::ShuttingDown => 1,
            Self::Draining => 2,
            Self::Protocol => 3,
            Self::Limit => 4,
            Self::TokenEnded => 5,
            Self::SlowReader => 6,
            Self::Idle => 7,
            Self::Other(code) => code,
        }
    }

    /// The reason with this number.
    #[must_use]
    pub fn from_code(code: u16) -> Self {
        match code {
            1 => Self::ShuttingDown,
            2 => Self::Draining,
            3 => Self::Protocol,
            4 => Self::Limit,
            5 => Self::TokenEnded,
            6 => Self::SlowReader,
            7 => Self::Idle,
            other => Self::Other(other),
        }
    }
}

/// The server's last word but for the answers that it owes: everything up to `last_request_id` is still answered, nothing
/// after it was or will be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Goaway<'a> {
    /// Largest request id that the server took; 0 if none.
    pub last_request_id: u64,
    /// Why.
    pub reason: GoawayReason,
    /// Whether a new connection to the same address is welcome.
    pub may_reconnect: bool,
    /// For people.
    pub message: &'a str,
}

impl<'a> Goaway<'a> {
    /// The farewell in `body`.
    ///
    /// # Errors
    /// The field that is wrong.
    pub fn parse(header: &Header, body: &'a [u8]) -> Result<Self, WireError> {
        let mut fields = Fields::of(Kind::Goaway, body);
        let goaway = Self {
            last_request_id: fields.u64()?,
            reason: GoawayReason::from_code(fields.u16()?),
            may_reconnect: header.flags & 1 != 0,
            message: fields.text("the message", WIRE_ADVICE_BYTES_MAX)?,
        };
        fields.end(goaway)
    }

    /// Appends the frame; a message longer than a GOAWAY takes is cut.
    pub fn encode(&self, out: &mut Vec<u8>) {
        frame(out, Kind::Goaway, u8::from(self.may_reconnect), 0, |out| {
            out.extend_from_slice(&self.last_request_id.to_le_bytes());
            out.extend_from_slice(&self.reason.code().to_le_bytes());
            put_cut_text(out, self.message, WIRE_ADVICE_BYTES_MAX);
        });
    }
}
