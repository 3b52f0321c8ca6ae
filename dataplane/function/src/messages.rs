//! Messages between the processes of an application: sent to a mailbox, and kept there until a function takes them.
//!
//! A process has one mailbox, which all its workers share. It is apart from the process's state, and outlives workers and
//! the server program as that does. A message has a source, a key and bytes. Messages of one source under one key are
//! received in the order in which they were sent; none is overwritten, dropped or doubled. What a call has received is
//! removed when the call succeeds, and comes again when it fails.
//!
//! | to | see |
//! |---|---|
//! | send | [`Context::send`](crate::Context::send), [`Context::send_within`](crate::Context::send_within), [`Context::broadcast`](crate::Context::broadcast) |
//! | build a large message where it will be read | [`Context::loan_message`](crate::Context::loan_message) |
//! | receive from one, from several, from anybody | [`Context::recv`](crate::Context::recv), [`Context::try_recv`](crate::Context::try_recv), [`Sources`] |
//! | look without taking | [`Context::peek`](crate::Context::peek) |
//! | be done with a message before the call ends | [`Message::accept`] |
//! | name the process itself | [`SELF`] |

mod address;
mod around;
mod error;
mod message;
mod operations;
mod outbound;
mod receiving;
pub(crate) mod room;
mod sending;

pub use address::{OwnProcess, Party, SELF, Sources};
pub(crate) use around::{Around, Aside};
pub(crate) use error::code_of;
pub use error::{RecvError, SendError};
pub use message::{Message, MessageLoan};
pub use praas_shm::mailbox::Peeked as PeekedMessage;
pub(crate) use room::{MessageRoom, MessageStart};
