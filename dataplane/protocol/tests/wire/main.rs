//! Proofs of the network protocol: golden frames, streams cut anywhere, hostile bytes, and the rules of both sides.
#![forbid(unsafe_code)]

mod golden;
mod hostile;
mod refusals;
mod rules;
mod samples;
mod streams;
