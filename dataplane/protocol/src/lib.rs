//! What every part of praas agrees on: names, limits, outcomes, tokens, and the messages of the control sockets.
//!
//! This crate holds plain data only: no I/O, no threads, no `unsafe`. Whatever came from a peer is decoded into the types
//! of this crate by functions that check it, so a value of one of these types is always valid.
//!
//! | module | what |
//! |---|---|
//! | [`limits`] | every shared maximum, named once, with its unit and reason |
//! | [`durability`] | what survives what |
//! | [`fingerprint`] | what stands for something long in tables |
//! | [`idempotency`] | what makes a repetition of a call the same call |
//! | [`key`] | keys of state objects and messages, names of their types |
//! | [`message`] | who sends and receives messages, and how they come from outside |
//! | [`name`] | names of applications, processes and functions; process ids |
//! | [`outcome`] | how a call ended |
//! | [`phase`] | the lifecycle word of a process as callers see it |
//! | [`session`] | the functions by which clients send and receive messages |
//! | [`state`] | the functions by which state is read and written from outside |
//! | [`token`] | who may do what until when |
//! | [`wake_up`] | messages that a process gets from itself at a time |
//! | [`control`] | client ↔ server and server ↔ worker messages on Unix sockets |
//! | [`codec`] | how those messages become bytes |
//! | [`wire`] | the network protocol, byte by byte |
#![forbid(unsafe_code)]

pub mod codec;
pub mod control;
pub mod durability;
pub mod fingerprint;
pub mod idempotency;
pub mod key;
pub mod limits;
pub mod message;
pub mod name;
pub mod outcome;
pub mod phase;
pub mod session;
pub mod state;
pub mod token;
pub mod wake_up;
pub mod wire;

pub use durability::Durability;
pub use idempotency::{Idempotency, IdempotencyKey, IdempotencyKeyError};
pub use key::{Key, KeyError, StateType};
pub use message::{Address, MessageId, SessionId};
pub use name::{BUILT_IN_PREFIX, FunctionId, Name, NameError, PING_FUNCTION, ProcessId};
pub use outcome::{CallError, Outcome};
pub use phase::Phase;
