//! Calls over TCP, against a server end that speaks the wire protocol, well or badly, over real sockets.

mod calls;
mod connection;
mod fallback;
mod hostile;
mod idempotency;
mod interleaving;
mod messages;
mod state;
mod wire_server;
