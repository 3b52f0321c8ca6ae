//! Calls over TCP, for clients that do not share a host with their server: the protocol of `praas_protocol::wire`.
//!
//! | file | what |
//! |---|---|
//! | `dialing` | from addresses to a greeted connection |
//! | `link`, `writing`, `waiting`, `reader_thread` | one connection, shared by threads and futures |
//! | `state`, `calls`, `room`, `outbox`, `reader`, `reply_bytes` | its parts |
//! | `questions` | everything that is asked beside calls |
//! | `server` | the servers that a client knows, dialled again when they are lost |
//! | `binding`, `process` | the way to a process, brokered or dedicated |
//! | `pending`, `outcome` | a call on its way, and its end |
//!
//! What a server or a worker sends is believed only as far as the protocol's rules allow; whoever breaks them loses the
//! connection, and its calls end as if it had broken by itself.

mod binding;
mod calls;
mod dialing;
mod link;
mod outbox;
mod outcome;
mod pending;
mod process;
mod questions;
mod reader;
mod reader_thread;
mod reply_bytes;
mod room;
mod server;
mod state;
mod waiting;
mod writing;

pub(crate) use dialing::Greeting;
pub(crate) use link::Link;
pub(crate) use pending::RemotePending;
pub(crate) use process::RemoteProcess;
pub(crate) use reply_bytes::{Inline, ReplyBytes};
pub(crate) use server::{OpenQuestion, RemoteClient, dial_shared};
