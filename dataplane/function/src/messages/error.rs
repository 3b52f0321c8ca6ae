//! [`SendError`] and [`RecvError`]: why a message was not sent, and why none was received.

use std::time::Duration;

use praas_protocol::control::ControlError;
use praas_protocol::message::codes;
use praas_protocol::{Address, KeyError, MessageId, NameError, Phase, SessionId};
use praas_shm::mailbox::MailError;
use praas_shm::message_lane;

use crate::error::FunctionError;

/// Why a message was not sent. The receiver has nothing of it, whatever the variant but [`SendError::Unknown`] and
/// [`SendError::TooOld`].
///
/// A function may pass it on with `?`: a caller that gave up gets the outcome that belongs to it, any other error becomes
/// `FunctionFailed` with the code [`codes::NOT_SENT`](praas_protocol::message::codes::NOT_SENT).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The key is not a key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The destination is not a process's name.
    #[error("a message cannot be sent: {0}")]
    Name(#[from] NameError),
    /// There is no such process, or it has ended.
    #[error("there is no process {to} in this application: create it, then send again")]
    UnknownProcess {
        /// Who should have received it.
        to: Address,
    },
    /// The mailbox of the receiver takes no more from this worker for now.
    #[error("the mailbox of {to} is full: {reason}")]
    MailboxFull {
        /// Who should have received it.
        to: Address,
        /// What is full, with its figures.
        reason: message_lane::SendError,
    },
    /// There is no such session of a client.
    #[error("there is no session {session}: its client has ended it, or was away for longer than sessions are kept")]
    UnknownSession {
        /// The session that should have received it.
        session: SessionId,
    },
    /// The mailbox of a receiver that is not in this server's memory takes no more for now.
    #[error("the mailbox of {to} is full: {said}")]
    FullElsewhere {
        /// Who should have received it.
        to: Address,
        /// What is full, as the receiver says.
        said: String,
    },
    /// The message left this host, and no answer says whether it arrived. [`Context::send_again`](crate::Context::send_again)
    /// with this id settles that: the receiver gets it once, however often it is repeated.
    #[error("whether the message to {to} arrived is not known: send it again with its id, {}.{}", id.incarnation, id.sequence)]
    Unknown {
        /// Who should have received it.
        to: Address,
        /// The message's id.
        id: MessageId,
    },
    /// The receiver does not remember whether it has accepted the message: too many have come from here since.
    #[error("whether the message {}.{} arrived cannot be told any more: {to} has accepted too many since", id.incarnation, id.sequence)]
    TooOld {
        /// Who should have received it.
        to: Address,
        /// The message's id.
        id: MessageId,
    },
    /// The mailbox of this process is full, to which the message was sent.
    #[error(transparent)]
    OwnMailbox(MailError),
    /// The message is longer than the application allows.
    #[error(
        "a message of {actual_bytes} bytes is over the limit of {limit_bytes}: send less, or raise payload_bytes_max"
    )]
    TooLarge {
        /// The application's limit.
        limit_bytes: u64,
        /// Bytes of the message.
        actual_bytes: u64,
    },
    /// More destinations than one broadcast takes.
    #[error("a broadcast has at most {limit} destinations: send to the others in another one")]
    TooManyDestinations {
        /// How many it takes.
        limit: usize,
    },
    /// There was no room in time.
    #[error("the message to {to} was not sent within {waited:?}: there was no room for it, or no answer")]
    DeadlineExceeded {
        /// Who should have received it.
        to: Address,
        /// How long was waited.
        waited: Duration,
    },
    /// The caller of the running function cancelled, or its deadline passed, while there was no room.
    #[error("the caller gave up while the message to {to} waited for room")]
    Cancelled {
        /// Who should have received it.
        to: Address,
    },
    /// The server opened no way to the receiver.
    #[error("the server refused a lane to {to}: {error}")]
    Refused {
        /// Who should have received it.
        to: Address,
        /// Why.
        error: Box<ControlError>,
    },
    /// The way to the receiver could not be used.
    #[error("messages to {to} cannot be sent: {reason}")]
    Unavailable {
        /// Who should have received it.
        to: Address,
        /// What is wrong.
        reason: String,
    },
}

impl SendError {
    /// Whether the receiver has no room now: the same message may be taken later.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(
            self,
            Self::MailboxFull { .. }
                | Self::FullElsewhere { .. }
                | Self::DeadlineExceeded { .. }
                | Self::OwnMailbox(MailError::Full { .. })
        )
    }

    /// Nobody is there.
    pub(super) fn unknown(to: Address) -> Self {
        match to {
            Address::Process(_) => Self::UnknownProcess { to },
            Address::Client(session) => Self::UnknownSession { session },
        }
    }

    /// As the answer of a function that passes it on.
    pub(crate) fn to_answer(&self) -> FunctionError {
        match self {
            Self::Cancelled { .. } => FunctionError::cancelled(),
            _ => FunctionError::of_sdk(codes::NOT_SENT, self.to_string()),
        }
    }
}

/// Why no message was received. Messages that are there stay where they are.
///
/// A function may pass it on with `?`: a drain and a caller that gave up become the outcomes that belong to them, any other
/// error `FunctionFailed` with the code [`codes::NOT_RECEIVED`](praas_protocol::message::codes::NOT_RECEIVED).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecvError {
    /// The key is not a key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A source is not a process's name.
    #[error("no message can be received: {0}")]
    Name(#[from] NameError),
    /// No message came in time.
    #[error("no message came within {waited:?}")]
    DeadlineExceeded {
        /// How long was waited.
        waited: Duration,
    },
    /// The process drains: nothing waits any more. What comes later stays in the mailbox.
    #[error("the process is {phase:?}: waiting for messages has ended; answer what is done")]
    Interrupted {
        /// Where the process stands.
        phase: Phase,
    },
    /// The caller of the running function cancelled, or its deadline passed.
    #[error("the caller gave up while the function waited for a message")]
    Cancelled,
    /// The mailbox refused: it is busy or damaged, or too many sources were named.
    #[error(transparent)]
    Mailbox(#[from] MailError),
    /// The mailbox cannot be reached.
    #[error("messages cannot be received: {reason}")]
    Unavailable {
        /// What is wrong.
        reason: String,
    },
}

impl RecvError {
    /// As the answer of a function that passes it on.
    pub(crate) fn to_answer(&self) -> FunctionError {
        match self {
            Self::Interrupted { .. } => FunctionError::interrupted(),
            Self::Cancelled => FunctionError::cancelled(),
            Self::Mailbox(error) => FunctionError::of_sdk(code_of(error, codes::NOT_RECEIVED), error.to_string()),
            _ => FunctionError::of_sdk(codes::NOT_RECEIVED, self.to_string()),
        }
    }
}

/// The code by which a caller knows what a mailbox refused; `otherwise` where there is no more to know.
pub(crate) fn code_of(error: &MailError, otherwise: u32) -> u32 {
    match error {
        MailError::Full { .. } | MailError::SourcesFull { .. } => codes::MAILBOX_FULL,
        MailError::TooOld { .. } => codes::TOO_OLD,
        MailError::Busy { .. } | MailError::LogFull { .. } => codes::BUSY,
        MailError::Corrupt { .. } => codes::CORRUPT,
        _ => otherwise,
    }
}
