//! The mailbox of a process: messages by source and key, in the segment of its state objects.
//!
//! ```text
//! message lanes ──collect──▶ queues, one a (source, key) ──take──▶ held by a worker's call ──accept──▶ gone
//!                               ▲                                       └──release, death──▶ head of its queue
//!                   put: from the process itself, from clients and other hosts
//! ```
//!
//! Everything in the segment is changed under the writers' lock of the objects, by their transactions, in their heap: a
//! worker that dies at any instruction has done each operation whole or not at all. What was published in a lane is in the
//! mailbox already; where each lane was taken up to is a word of the segment, moved by the transaction that takes a
//! message. A payload in a block of a lane stays there until its message is removed, and is read in place.
//!
//! | room | what |
//! |---|---|
//! | `table`, `name` | what leads to queues, sources and lanes |
//! | `queue`, `message` | queues, the rings of a key's queues, messages and their spare blocks |
//! | `held` | what calls hold: received, removed, given back |
//! | `filter` | recognises repetitions |
//! | `lanes` | the inbound lanes of a worker: collects from them, tells them |
//! | `seek`, `put`, `worker`, `received` | what a worker does |
//! | `claim`, `short_way` | a message that is alone in its lane: held by a word, accepted by a store |
//! | `holding` | what a client's session holds |
//! | `logging`, `lasting` | what the log ring is told; what is there to last |
//! | `in_lanes` | what lies in lanes, read where it is, and the lanes closed |
//! | `incoming` | what comes back from elsewhere; see `crate::swap` |
//! | `recovery`, `check`, `room` | for the dead; whether everything adds up; what can be given back |
//!
//! First in, first out for each source and key. A receiver names a source, several, or any: then sources take turns. A
//! received message is *held*: while a call holds messages of a queue, only that call receives more of them.
//!
//! ```
//! use std::sync::Arc;
//! use praas_protocol::Key;
//! use praas_protocol::message::{Address, MessageId};
//! use praas_shm::WorkerTag;
//! use praas_shm::mail_bell::MailBell;
//! use praas_shm::mailbox::{Mailbox, NewMessage, Wanted};
//! use praas_shm::objects::{Objects, ObjectsLayout};
//!
//! let objects = Arc::new(Objects::create(ObjectsLayout::for_limit(1 << 20)?)?);
//! let mailbox = Mailbox::new(objects, WorkerTag::new(0, 1), MailBell::create()?)?;
//! let (source, key): (Address, _) = ("alice".parse()?, Key::new("greeting")?);
//! let id = MessageId { incarnation: 1, sequence: mailbox.next_sequence() };
//! mailbox.put(&NewMessage { source: &source, id, key, bytes: b"hello", repeats: false })?;
//!
//! let message = mailbox.take(Wanted::Any, key)?.expect("it was just put");
//! assert_eq!((message.source()?, message.bytes()), (source, &b"hello"[..]));
//! message.accept()?;
//! assert!(mailbox.take(Wanted::One(&source), key)?.is_none());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub(crate) mod check;
pub(crate) mod claim;
mod error;
mod filter;
mod held;
mod holding;
pub(crate) mod in_lanes;
pub(crate) mod incoming;
mod lanes;
pub(crate) mod lasting;
mod limits;
pub(crate) mod logging;
mod message;
mod name;
mod put;
mod queue;
mod received;
pub(crate) mod recovery;
pub(crate) mod room;
mod seek;
mod short_way;
mod table;
mod worker;

pub use check::CheckedMail;
pub use error::MailError;
pub use lanes::InboundLane;
pub(crate) use limits::LANES;
pub(crate) use limits::MESSAGES_BOUND;
pub use limits::{MESSAGE_BYTES_MAX, SOURCE_KEPT, SOURCES_MAX, WINDOW_SEQUENCES};
pub(crate) use message::{LanePlace, PayloadAt};
pub use put::NewMessage;
pub use received::{Peeked, Received};
pub use worker::{MailUsage, Mailbox, Wanted};
