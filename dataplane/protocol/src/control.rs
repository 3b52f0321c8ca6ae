//! Messages on the Unix control sockets of one host: client ↔ server, and server ↔ worker.
//!
//! Each is one packet, encoded by [`crate::codec`], with the file descriptors named in its documentation attached in
//! that order. A request carries a number chosen by the client; the answer repeats it. Nothing of a call travels here:
//! calls go over lanes.

mod client;
mod error;
mod status;
mod transition;
mod worker;

use serde::{Deserialize, Serialize};

pub use client::{ClientMessage, ClientRequest, DirectoryEntry, ServerMessage, SessionTicket};
pub use error::ControlError;
pub use status::{FunctionStats, ProcessState, ProcessStats, ProcessStatus};
pub use transition::{StoredFolder, StoredPlace, Transition};
pub use worker::{CalendarSeen, FilesPlace, StateNotFetched, StateWanted, WorkerCommand, WorkerMessage};

/// The version of these messages; client, server and worker must agree on it exactly.
pub const CONTROL_VERSION: u32 = 10;

/// Number of a lane, unique within its process and never given twice during the life of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LaneId(pub u32);

/// Number of a dedicated connection, never given twice during the life of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ConnectionId(pub u64);

/// What the client of a dedicated connection may do, as its worker tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionLimits {
    /// Largest payload in bytes, both ways.
    pub payload_bytes_max: u32,
    /// Most calls in flight.
    pub in_flight_max: u32,
    /// Most payload bytes of calls in flight.
    pub window_bytes: u64,
}

/// How both ends of a lane wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WaitMode {
    /// Poll for ever: for dedicated cores.
    Spin,
    /// Poll for a bounded time while it pays, then sleep.
    #[default]
    Adaptive,
    /// Sleep at once.
    Park,
}

/// Sizes of a lane. Workers and server take them from the server's message, never from the lane's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneGeometry {
    /// Entries of the request ring, a power of two.
    pub ring_entries: u32,
    /// Reply cells, that is, calls in flight.
    pub cells: u32,
    /// Bytes of the client's half of the arena, a power of two.
    pub request_arena_bytes: u32,
    /// Bytes of the workers' half of the arena, a power of two.
    pub reply_arena_bytes: u32,
}

/// Number of a message lane: its place among the inbound lanes of the process that it leads to. Used again only after every
/// worker of that process has forgotten the lane that had it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MessageLaneSlot(pub u16);

/// Sizes of a message lane. Both ends take them from the server's message, never from the lane's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MessageLaneGeometry {
    /// Entries of its ring, a power of two.
    pub entries: u32,
    /// Payloads that can lie in its arena at a time.
    pub blocks: u32,
    /// Bytes of its arena, a power of two.
    pub arena_bytes: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ProcessId;
    use crate::codec::{decode, encode};

    #[test]
    fn messages_read_back_as_written_and_nothing_else_does() {
        let message = ClientMessage::Request {
            request: 7,
            body: ClientRequest::LaneOpen {
                process: "hello/alice".parse().unwrap(),
                payload_bytes_max: None,
                calls_in_flight: Some(32),
                on_behalf: None,
            },
        };
        let bytes = encode(&message).unwrap();
        let back: ClientMessage = decode(&bytes).unwrap();
        assert_eq!(format!("{back:?}"), format!("{message:?}"));
        for cut in 0..bytes.len() {
            assert!(decode::<ClientMessage>(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        let longer = [bytes.as_slice(), &[0]].concat();
        assert!(decode::<ClientMessage>(&longer).is_err());
    }

    #[test]
    fn a_name_from_the_wire_is_checked() {
        let bytes = encode(&("hello".to_owned(), "../up".to_owned())).unwrap();
        assert!(decode::<ProcessId>(&bytes).is_err());
    }
}
