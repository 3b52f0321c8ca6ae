//! Redis at its best: a server that keeps nothing on disk, and a client that copies nothing it need not.
//!
//! The server listens on a Unix socket and on TCP of loopback; `PRAAS_PERF_REDIS=HOST:PORT` names another one, which then has
//! TCP only. The client ([`RedisClient`]) is blocking and of one thread, writes a request by one system call, and reads an
//! answer into the caller's memory.
//!
//! Why a client of our own: the crate `redis` 1.8 is as quick with small values, and took 13 times as long for a SET and 2.5
//! times as long for a GET of 1 MiB, in turns with this one over one Unix socket on the two-core machine of the project. A
//! baseline is to be Redis itself, not a copy more.

mod client;
mod endpoint;
mod reply;
mod request;
mod server;

pub use client::RedisClient;
pub use endpoint::RedisEndpoint;
pub use request::Requests;
pub use server::{Redis, URL_VARIABLE};

/// What errors and rows call it.
pub const SYSTEM: &str = "Redis";
