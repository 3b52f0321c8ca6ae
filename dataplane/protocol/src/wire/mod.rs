//! The network protocol: bytes on a TCP connection. `WIRE.md` beside this crate says the same for other languages.
//!
//! Everything is little endian at explicit offsets; texts have a 16-bit length before them. A frame is a 16-byte
//! [`Header`] and a body. The payload of a call is the last field of its frame, so it is sent from and received into other
//! memory without a copy.
//!
//! | module | what |
//! |---|---|
//! | [`kind`] | the table of kinds: who sends them, ids, flags, lengths |
//! | [`header`] | the 16 bytes before every frame |
//! | [`hello`], [`open`], [`request`], [`response`], [`liveness`], [`manage`], [`lists`], [`counts`], [`refusal`] | the frames |
//! | [`client_session`], [`peers`] | the frames of clients that exchange messages, and of other servers |
//! | [`transitions`], [`stored`] | the frames about processes that sleep and wake |
//! | [`frame`] | any frame, whole |
//! | [`decoder`] | from a stream of bytes to frames |
//! | [`rules`], [`window`] | which frame may come when, and how much may be in flight |
//!
//! Invariants: what is parsed is checked whole; every length is checked before memory is used for it; nothing that a peer
//! sends makes this module panic or hold more than [`Decoder::held_bytes_max`].

pub mod client_session;
pub mod counts;
pub mod decoder;
pub mod error;
mod fields;
pub mod frame;
pub mod header;
pub mod hello;
pub mod host_id;
pub mod kind;
pub mod lists;
pub mod liveness;
pub mod manage;
pub mod open;
pub mod peers;
pub mod refusal;
pub mod request;
pub mod response;
pub mod rules;
pub mod stored;
pub mod transitions;
pub mod window;

pub use client_session::{OpenSession, SessionOpened};
pub use counts::{Counts, CountsPage, Stats};
pub use decoder::{Decoder, Item, PlainCall, Step};
pub use error::WireError;
pub use frame::Frame;
pub use header::{HEADER_BYTES, Header};
pub use hello::{Hello, WIRE_VERSION, Welcome};
pub use host_id::host_id;
pub use kind::{Kind, Side};
pub use lists::{ApplicationPage, Applications, List, ListApplications, ProcessPage, ProcessRow, Processes};
pub use liveness::{Goaway, GoawayReason, Ping, Pong};
pub use manage::{Action, Done, Order, Output, OutputChunk};
pub use open::{Close, Dedicate, HandedOver, Open, Opened};
pub use peers::{Changes, ChangesPage, OpenAs, Watch};
pub use refusal::{Refusal, Refused, encode_control_error};
pub use request::{Cancel, Durability, REQUEST_HEAD_BYTES_MAX, Request};
pub use response::{RESPONSE_HEAD_BYTES, Response};
pub use rules::{RuleError, Session, State, Verdict};
pub use stored::{StorageUsage, Stored, StoredPage};
pub use transitions::{TransitionPage, Transitions, WatchTransitions};
pub use window::{Window, WindowLimits};
