//! Shared memory of praas: segments, lanes, and the words by which processes that distrust each other stay in step.
//!
//! A *lane* joins one client to one process. The server creates it and steps aside: requests and answers pass between the
//! client and the process's workers through shared memory alone.
//!
//! | room | what |
//! |---|---|
//! | [`segment`] | sealed memfds |
//! | [`layout`] | where everything lies |
//! | `ring`, `cell`, `bell`, `attendance`, `claim`, `phase_word` | the lock-free protocols, each with its invariants and loom model |
//! | `held_rings` | when the ring for an answer waits for the next one |
//! | [`held_replies`] | answers that wait until what their calls saw is durable |
//! | `arena`, `ledger` | blocks for payloads that do not travel inline |
//! | [`client_lane`] | the client's end |
//! | [`io_buffer`] | blocks and answers that the kernel receives into and sends from |
//! | [`worker_end`], [`running_call`] | a worker's end |
//! | [`gateway_lane`] | the serving end for an event loop of the server |
//! | [`server_lane`], [`worker_page`], [`control_page`] | the server's view |
//! | [`message_lane`], [`mail_bell`] | how messages come to a process, and how it hears of them |
//! | `parking` | who sleeps on a word, and the one ring that wakes them |
//! | [`objects`] | a process's state: named, immutable, versioned values |
//! | [`mailbox`] | its messages, in the same segment |
//! | [`log_ring`] | what changes in both, on its way to a log |
//! | [`swap`] | both as bytes while the process sleeps, and back |
//! | [`simulation`] | how a test turns the threads that wait here |
//! | [`directory`] | which processes an application has, for all its workers to see |
//!
//! Who maps what read-write: the lane, by its client, all workers of the process and the server; the reply ledger, by
//! workers and server; a worker page, by that worker and the server. The control page is written by the server alone.
//! No reference to memory that a peer can write is formed except to atomics; bulk bytes cross through `copy`, and into
//! private memory first wherever the peer is not of the same trust domain.

#![cfg_attr(loom, allow(dead_code, reason = "the models use the protocols, not the ends that are built of them"))]

#[cfg(not(loom))]
mod arena;
mod attendance;
mod bell;
#[cfg(not(loom))]
mod brief_lock;
mod cell;
pub mod claim;
#[cfg(not(loom))]
pub mod client_lane;
#[cfg(not(loom))]
pub mod control_page;
#[cfg(not(loom))]
mod copy;
pub mod directory;
#[cfg(feature = "fault-points")]
pub mod fault;
#[cfg(not(feature = "fault-points"))]
#[allow(unreachable_pub, dead_code, reason = "its users are tests, and the feature is off")]
mod fault;
#[cfg(not(loom))]
pub mod function_stats;
#[cfg(not(loom))]
pub mod gateway_lane;
#[cfg(not(loom))]
pub mod held_replies;
#[cfg(not(loom))]
mod held_rings;
#[cfg(not(loom))]
pub mod io_buffer;
#[cfg(not(loom))]
mod lane_memory;
#[cfg(not(loom))]
pub mod layout;
#[cfg(not(loom))]
mod ledger;
#[cfg(not(loom))]
pub mod log_ring;
#[cfg(not(loom))]
pub mod mail_bell;
#[cfg(not(loom))]
pub mod mailbox;
pub mod message_lane;
#[cfg(all(test, loom))]
mod models;
pub mod objects;
mod parking;
mod phase_word;
#[cfg(not(loom))]
mod request;
mod ring;
#[cfg(not(loom))]
pub mod running_call;
#[cfg(not(loom))]
mod scratch;
#[cfg(not(loom))]
pub mod segment;
#[cfg(not(loom))]
pub mod server_lane;
#[cfg(not(loom))]
pub mod simulation;
#[cfg(not(loom))]
mod spin;
#[cfg(not(loom))]
pub mod swap;
mod sync;
mod tag;
#[cfg(not(loom))]
mod ticks;
#[cfg(not(loom))]
pub mod worker_end;
#[cfg(not(loom))]
mod worker_lane;
#[cfg(not(loom))]
pub mod worker_page;

pub use tag::WorkerTag;

#[cfg(not(loom))]
pub use {ledger::ReplyArenaFull, scratch::Scratch, spin::CallPolling, worker_lane::WorkerLaneParts};
