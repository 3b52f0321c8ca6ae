//! The client library against a scripted server end in the same OS process: real sockets, real lanes, real worker ends.
//!
//! The script decides what the server of a whole installation would: which requests are answered, when a process drains,
//! and when the server dies. Nothing of the client or the lane is imitated.
#![forbid(unsafe_code)]

mod calls;
mod connection;
mod futures;
mod messages;
mod payloads;
mod pipeline;
mod refusal;
mod remote;
mod scripted;
