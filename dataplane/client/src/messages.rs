//! Messages of a client: its session, by which processes of an application and other clients reach it, and it reaches them.
//!
//! A [`Session`] is an address with a mailbox of its own, which the server keeps. It is a lane, or a handle on a connection,
//! that leads to the server instead of a process; what is done with messages is calls of the functions of
//! `praas_protocol::session`. So it shares with calls how lanes are opened anew, how a connection is repaired and how the network
//! takes over.
//!
//! | file | what |
//! |---|---|
//! | `session` | the session, begun or resumed |
//! | `ticket` | by what it is resumed |
//! | `registration` | what the server and this client know each other by |
//! | `watch` | the thread that resumes it while nobody asks anything of it |
//! | `room` | calls to the server's room for it |
//! | `sending`, `receiving`, `message` | what is done with messages |
//! | `party` | who sends and receives |
//! | `error` | what can go wrong |
//!
//! Invariants
//! 1. A message has one number from the first attempt to send it to the last; a number is given to another message only if
//!    the first attempt with it was certainly refused.
//! 2. A message that the server may have handed out to nobody is returned: the lane is given up, and the session resumed.
//! 3. A session that lapsed, was ended, or was taken over by another client is never begun anew by itself: its address is
//!    known to others.

mod error;
mod message;
mod party;
mod receiving;
mod registration;
mod room;
mod sending;
mod session;
mod ticket;
mod watch;

pub use error::{RecvError, SendError, SessionError};
pub use message::{Message, PeekedMessage};
pub use party::{Party, Sources};
pub(crate) use registration::Registration;
pub use session::Session;
pub use ticket::{SessionTicket, TicketError};
