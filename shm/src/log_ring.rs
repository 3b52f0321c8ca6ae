//! The log ring: what a process changes in its state and its mailbox, on its way to a log outside of it.
//!
//! ```text
//! worker: transaction { change, record behind the tail } ─commit─▶ committed tail ─▶ server's thread: copy, append, sync
//!           ▲ waits while the ring is full ◀──────────── consumed ◀──┘                                      │
//!           └ replies, messages, nested calls wait for `durable` in the control page ◀──────────────────────┘
//! ```
//!
//! A process whose durability is `logged` has one such segment beside its objects segment, written by its workers and read
//! by one thread of the server. Writers exclude each other by the writers' lock of the objects, so a record is a part of the
//! transaction that makes the change: the tail is a word of the *objects* segment, stored through the undo log, and bytes
//! behind it mean nothing. Hence a record is there if and only if its change has happened, at whatever instruction its
//! writer died.
//!
//! Each change of objects and mailbox takes one *position*, the process's counter of versions, and writes one record; so
//! positions in the ring follow each other without gaps, and all records up to a position make the state and the mailbox as
//! they were there ([`Replay`]). Values longer than a piece go ahead of their record in pieces, so that nobody keeps the lock
//! for long and no record needs more than a part of the ring; pieces without their record mean nothing.
//!
//! Who gives the lock back publishes the tail in the ring: a writer who died between its commit and that is made up for by
//! whoever has the lock next, the server's recovery included. What a call has received and holds has no record of its own: who
//! begins anew from a log knows no calls, and everything that was not removed is in the mailbox.
//!
//! Invariants:
//! 1. `committed` never passes the tail of the objects segment, and never goes back. `consumed` is the server's.
//! 2. Bytes from `consumed` to `committed` stay as they are. A record begins only where it finds room up to `consumed` plus
//!    the ring's size; otherwise its transaction is taken back, its lock given up, and waited.
//! 3. Whoever sees a change reads a position that is not below it: the counter is stored before the change is seen. A position
//!    read may be one that was taken back again; then the counter is lower afterwards, and *that* is what has to be durable.
//!
//! The server believes nothing in the ring: it copies bytes out, decodes the copy ([`Record`]), and fails a process whose ring
//! has something else in it. A server that dies takes no change with it: objects and ring are with the keeper, and the next
//! server goes on with the records that the log does not have ([`LogReader::resume`]).
//!
//! What must never happen: that a record stands for a change that was taken back; that a reader of the ring waits for a writer.
//!
//! | room | what |
//! |---|---|
//! | `memory` | the segment |
//! | `writer` | a record behind the tail; publishing; waiting for room |
//! | `reader` | the server's end |
//! | `streams` | what of a log values need that are longer than a record |
//! | `record` | the bytes of a record |
//! | `replay`, `contents` | what records make, and the same as found in a segment |
//! | `watch` | who waits until a position is durable |

mod contents;
mod limits;
mod memory;
mod reader;
pub(crate) mod record;
mod replay;
mod streams;
mod watch;
pub(crate) mod writer;

pub use contents::{Contents, KeptMessage, KeptObject, KeptSource};
pub use limits::{LOG_BYTES_DEFAULT, LOG_BYTES_MAX, LOG_BYTES_MIN, PIECE_BYTES};
pub use reader::{LogReader, RingError};
pub use record::{BadRecord, Record, RecordBytes, Records};
pub use replay::{Replay, ReplayError};
pub use watch::DurableWatch;
pub use writer::LogWriter;
