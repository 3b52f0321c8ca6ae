//! Why a session could not be used, a message was not sent, or none was received.

use std::time::Duration;

use praas_protocol::control::ControlError;
use praas_protocol::limits::ADDRESSES_PER_CALL_MAX;
use praas_protocol::message::SessionId;
use praas_protocol::{Address, CallError, KeyError, MessageId, Name, NameError};

use crate::error::{ConnectError, RequestError};

/// Why there is no session, or no way to it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// The server keeps it no longer.
    #[error(
        "the server has no session {session}: its client was away for longer than the server keeps one, or the server was stopped. \
         What was in its mailbox is gone; begin a new one, and tell its address to those who send to it"
    )]
    Lapsed {
        /// The session.
        session: SessionId,
    },
    /// A ticket is for one client at a time, and the last one has it.
    #[error(
        "another client goes on with session {session}, by the same ticket; begin a session of your own, or end the other client"
    )]
    TakenOver {
        /// The session.
        session: SessionId,
    },
    /// This client has ended it.
    #[error("session {session} was ended by this client; begin another one")]
    Ended {
        /// The session.
        session: SessionId,
    },
    /// The token does not allow it.
    #[error(
        "the token does not allow to exchange messages with processes of {application}: it needs the right \"messages\", such as from `praas token create --application {application} --rights messages --expires 12h`"
    )]
    Unauthorized {
        /// The application.
        application: Name,
    },
    /// The server could not be reached, or refused.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// There is no way to the session now, and another attempt at once would not find one.
    #[error("the session cannot be reached: {reason}")]
    Unreachable {
        /// What was found.
        reason: String,
    },
    /// The server could not do what it was asked for.
    #[error(transparent)]
    Call(CallError),
}

impl SessionError {
    /// What a request that failed means for a session of `application`.
    pub(super) fn of_request(error: RequestError, application: Name) -> Self {
        match error {
            RequestError::Refused(ControlError::UnknownSession { session }) => Self::Lapsed { session },
            RequestError::Refused(ControlError::Unauthorized { .. })
            | RequestError::Connect(ConnectError::Refused(ControlError::Unauthorized { .. })) => {
                Self::Unauthorized { application }
            }
            other => Self::Request(other),
        }
    }
}

/// Why a message was not sent, or why nobody knows whether it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The key is none.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The destination is no process's name.
    #[error("a message cannot be sent: {0}")]
    Name(#[from] NameError),
    /// There is no such process or session. Nothing was sent.
    #[error(
        "there is no {to} in this application: create the process, or ask the client for its new address, then send again"
    )]
    UnknownDestination {
        /// Who should have received it.
        to: Address,
    },
    /// The token does not allow to send to it. Nothing was sent.
    #[error("the token does not allow messages to {to}: it is for other processes")]
    Unauthorized {
        /// Who should have received it.
        to: Address,
    },
    /// The mailbox of the receiver has no room. Nothing was sent.
    #[error("the mailbox of {to} is full, and was for {waited:?}: {message}")]
    MailboxFull {
        /// Who should have received it.
        to: Address,
        /// How long was waited for room.
        waited: Duration,
        /// The mailbox's own words, with the figures.
        message: String,
    },
    /// The message is longer than one may be. Nothing was sent.
    #[error(
        "a message of {actual_bytes} bytes is over the limit of {limit_bytes} of this session: send less, or connect with a larger payload_bytes_max (that of the application is the most)"
    )]
    TooLarge {
        /// The session's limit.
        limit_bytes: u64,
        /// Bytes of the message.
        actual_bytes: u64,
    },
    /// The receiver, or the way to it, took no message until the time was over. Nothing was sent.
    #[error("the message to {to} was not sent within {waited:?}: {reason}")]
    Unavailable {
        /// Who should have received it.
        to: Address,
        /// How long it was tried.
        waited: Duration,
        /// What was in the way at last.
        reason: String,
    },
    /// The time was over, or the way was lost, before it was known whether the receiver has it.
    #[error(
        "nobody knows yet whether {to} has the message {}/{}: repeat it with `send_again`, which settles it and never sends it twice", .id.incarnation, .id.sequence
    )]
    Unknown {
        /// Who should receive it.
        to: Address,
        /// The message's id.
        id: MessageId,
    },
    /// It was sent so long ago that the receiver does not remember whether it has accepted it.
    #[error(
        "whether {to} has the message {}/{} cannot be told any more: it is of an earlier life of the session, or many later ones were sent", .id.incarnation, .id.sequence
    )]
    TooOld {
        /// Who should have received it.
        to: Address,
        /// The message's id.
        id: MessageId,
    },
    /// The receiver refused it, or the memory of its mailbox is damaged. Nothing was sent.
    #[error("{to} did not take the message: {message}")]
    Refused {
        /// Who should have received it.
        to: Address,
        /// One of `praas_protocol::message::codes`.
        code: u32,
        /// The receiver's own words.
        message: String,
    },
    /// There is no way to the session. Nothing was sent.
    #[error(transparent)]
    Session(#[from] SessionError),
}

impl SendError {
    /// Whether the receiver has no room now: the same message may be taken later.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self, Self::MailboxFull { .. })
    }
}

/// Why no message was received, or one was not accepted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecvError {
    /// The key is none.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A source is no process's name.
    #[error("no message can be received: {0}")]
    Name(#[from] NameError),
    /// A list of sources that names nobody, or too many.
    #[error(
        "{given} sources are named, and a list of them has 1 to {ADDRESSES_PER_CALL_MAX}: `Sources::Any` is everybody"
    )]
    Sources {
        /// How many were named.
        given: usize,
    },
    /// No message came in time.
    #[error("no message came within {waited:?}")]
    DeadlineExceeded {
        /// How long was waited.
        waited: Duration,
    },
    /// The message went back to the mailbox meanwhile, because the client was cut off. It comes again, or has come already.
    #[error(
        "the message is not held any more: this client was cut off from its session meanwhile, so the message comes again, marked as redelivered"
    )]
    NotHeld,
    /// The mailbox refused.
    #[error("the mailbox of the session did not do it: {message}")]
    Refused {
        /// One of `praas_protocol::message::codes`.
        code: u32,
        /// Its own words.
        message: String,
    },
    /// The session could not be reached until the time was over. What is in its mailbox stays there, as long as it is kept.
    #[error("the session could not be reached within {waited:?}: {reason}")]
    Unavailable {
        /// How long it was tried.
        waited: Duration,
        /// What was in the way at last.
        reason: String,
    },
    /// The answer is none that a server gives.
    #[error("the server's answer is malformed: {reason}; use the same release of client and server")]
    Malformed {
        /// What is wrong with it.
        reason: String,
    },
    /// There is no way to the session.
    #[error(transparent)]
    Session(#[from] SessionError),
}
