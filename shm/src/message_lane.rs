//! Message lanes: how the messages of one sending worker come to one process, without the server.
//!
//! ```text
//! header and room │ ring of entries │ released │ lent │ ends of long keys │ arena
//! ```
//!
//! A lane has one sender, a worker of some process, and its receivers are the workers of another. The lane is a part of the
//! receiver's mailbox: what is published in it is accepted, whatever becomes of the sender. Small messages lie in the
//! entry itself; larger payloads lie in a block of the arena, where the sender builds and the receiver reads them in place.
//!
//! | room | what |
//! |---|---|
//! | `entry` | the ring: one store publishes, one load finds |
//! | `shape` | what an entry says of its message, packed and checked |
//! | `room` | what a sender without room sleeps on |
//! | `layout`, `memory` | where everything lies |
//! | `blocks`, `loan`, `outbound` | the sender's end |
//! | `arrived`, `inbound` | the receiver's end |
//! | `server` | the server's view |
//!
//! Memory: the segment is created by the server, mapped by it, by the sender and by the receivers; all but the server are
//! of one application, which is one trust domain. Geometry comes from the server's messages alone.
//!
//! Invariants, for peers that keep the protocol:
//! 1. Only the sender writes entries, in order of positions; position p is entry p mod N, published by the stamp p + 1,
//!    which never repeats.
//! 2. The sender writes an entry again only when `consumed` says that the position it had is done with.
//! 3. At any time one receiver reads and moves on: receivers exclude each other by the lock of their mailbox, which also
//!    keeps the position. `consumed` merely tells the sender, and may lag.
//! 4. A block belongs to the sender until it is published, and again once `released` bears the stamp that `lent` bears.
//!
//! A sender that dies at any instruction has published a message whole or not at all; what it had lent and not published is
//! nobody's, and goes with the lane. A peer that breaks the protocol spoils messages of its own lane, and nothing else.
//!
//! ```
//! use praas_protocol::{Key, MessageId};
//! use praas_shm::mail_bell::MailBell;
//! use praas_shm::message_lane::{ArrivedRoom, Contents, Inbound, Outbound, ServerMessageLane, geometry_for};
//!
//! let lane = ServerMessageLane::create(geometry_for(1 << 20))?;
//! let fd = || lane.fd().try_clone_to_owned();
//! let mut sender = Outbound::attach(fd()?, &lane.geometry(), MailBell::create()?)?;
//! let receiver = Inbound::attach(fd()?, &lane.geometry())?;
//!
//! let id = MessageId { incarnation: 1, sequence: 1 };
//! sender.try_send(id, Key::new("greeting")?, b"hello")?;
//!
//! let mut room = ArrivedRoom::new();
//! let message = receiver.arrived_at(0, &mut room)?.expect("it was just sent");
//! assert_eq!((message.id, message.key.as_str()), (id, "greeting"));
//! assert!(matches!(message.contents, Contents::Inline(b"hello")));
//! receiver.publish_consumed(1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#[cfg(not(loom))]
mod arrived;
#[cfg(not(loom))]
mod blocks;
pub(crate) mod entry;
#[cfg(not(loom))]
mod error;
#[cfg(not(loom))]
mod inbound;
#[cfg(not(loom))]
mod layout;
#[cfg(not(loom))]
mod loan;
#[cfg(not(loom))]
mod memory;
#[cfg(not(loom))]
mod outbound;
pub(crate) mod room;
#[cfg(not(loom))]
mod server;
#[cfg(not(loom))]
mod shape;

#[cfg(not(loom))]
pub use {
    arrived::{Arrived, ArrivedRoom, BlockPlace, Contents, InPlace, PLACE_WORDS},
    error::{SendError, Spoiled},
    inbound::Inbound,
    layout::{geometry_for, segment_bytes},
    loan::MessageLoan,
    outbound::{Outbound, Wanting},
    server::ServerMessageLane,
    shape::INLINE_BYTES,
};
