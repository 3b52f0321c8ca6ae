//! Calls over TCP, against a server end that speaks the wire protocol, well or badly, over real sockets.

mod calls;
mod connection;
mod hostile;
mod interleaving;
mod wire_server;
