//! Messages between the processes of an application: sent to a mailbox, and kept there until a function takes them.
//!
//! A process has one mailbox, which all its workers share. It is apart from the process's state, and outlives workers and
//! the server program as that does. A message has a source, a key and bytes. Messages of one source under one key are
//! received in the order in which they were sent; none is overwritten, dropped or doubled. What a call has received is
//! removed when the call succeeds, and comes again when it fails.
//!
//! Where a receiver is makes no difference but for the time that it takes. Messages to a process of this host go through shared
//! memory; those to a process of another one, and to the session of a client, through the server, and are accepted when the
//! answer to them has come. A link between hosts that breaks and comes back neither loses nor doubles a message, nor changes
//! their order; one that does not come back in time leaves [`SendError::Unknown`]. Such messages may be a little shorter than
//! others: the payload limit of the application counts what travels with them,
//! [`PUT_HEAD_BYTES_MAX`](praas_protocol::message::PUT_HEAD_BYTES_MAX) bytes at most.
//!
//! | to | see |
//! |---|---|
//! | send | [`Context::send`](crate::Context::send), [`Context::send_within`](crate::Context::send_within), [`Context::broadcast`](crate::Context::broadcast) |
//! | send and go on before it has arrived | [`Context::start_send`](crate::Context::start_send), [`PendingSend`] |
//! | learn what became of a message that was cut off | [`SendError::Unknown`], [`Context::send_again`](crate::Context::send_again) |
//! | build a large message where it will be read | [`Context::loan_message`](crate::Context::loan_message) |
//! | receive from one, from several, from anybody | [`Context::recv`](crate::Context::recv), [`Context::try_recv`](crate::Context::try_recv), [`Sources`] |
//! | look without taking | [`Context::peek`](crate::Context::peek) |
//! | be done with a message before the call ends | [`Message::accept`] |
//! | name the process itself | [`SELF`] |

mod address;
mod around;
mod delivery;
mod error;
mod gateway;
mod message;
mod operations;
mod outbound;
mod pending_send;
mod receiving;
pub(crate) mod room;
mod route;
mod sending;

pub use address::{OwnProcess, Party, SELF, Sources};
pub(crate) use around::{Around, Aside};
pub(crate) use error::code_of;
pub use error::{RecvError, SendError};
pub use message::{Message, MessageLoan};
pub use pending_send::PendingSend;
pub use praas_protocol::message::Accepted;
pub use praas_shm::mailbox::Peeked as PeekedMessage;
pub(crate) use room::{MessageRoom, MessageStart};
