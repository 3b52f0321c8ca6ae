//! What can go wrong with an operation on a mailbox. Each variant carries the figures that its reader needs.

use std::time::Duration;

use crate::objects::{LockOwner, RecoverError, StateError};

/// Why an operation on a mailbox was not done. Nothing of it happened; over a corrupt segment nothing is known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MailError {
    /// There are as many messages as a mailbox takes, or no memory for one more.
    #[error(
        "the mailbox is full: {messages} of at most {messages_max} messages, and {needed_bytes} bytes are needed of \
         {free_bytes} free ones; receive messages, or raise state_bytes_max"
    )]
    Full {
        /// Messages in it, those included that calls hold.
        messages: u64,
        /// Messages that it takes.
        messages_max: u64,
        /// Bytes of memory that were missing in one piece; 0 if it was the number of messages.
        needed_bytes: u64,
        /// Free bytes in all.
        free_bytes: u64,
    },
    /// The log of the process has not taken what was changed before.
    #[error(
        "the log ring is full: {needed_bytes} bytes are needed, {free_bytes} of {capacity_bytes} are free after waiting for \
         {waited:?}; the log is slower than messages come and go: try again later, or look at its disk"
    )]
    LogFull {
        /// Bytes of the record.
        needed_bytes: u64,
        /// Bytes that were free.
        free_bytes: u64,
        /// Bytes of the ring.
        capacity_bytes: u64,
        /// How long it was waited for.
        waited: Duration,
    },
    /// A message lane for a process whose changes are logged.
    #[error("a process that is logged receives from no lanes; send to it by calls of its workers")]
    Logged,
    /// The payload is longer than any message's may be.
    #[error("a message of {bytes} bytes is longer than the {limit_bytes} that one may have")]
    TooLarge {
        /// Bytes of the payload.
        bytes: u64,
        /// Bytes that a message may have.
        limit_bytes: u64,
    },
    /// The message's id is older than what is remembered of its source.
    #[error(
        "message {sequence} is older than what is remembered of its source, which begins with {oldest}: whether it was \
         accepted before cannot be told; send it as a new message if it may arrive twice"
    )]
    TooOld {
        /// The message's sequence, or its incarnation if that is the older one.
        sequence: u64,
        /// The oldest of these that can be told.
        oldest: u64,
    },
    /// As many sources are remembered as there may be, and none was silent for long.
    #[error(
        "{sources} senders were heard of in the last {kept:?}, the most that one mailbox remembers; try again later"
    )]
    SourcesFull {
        /// How many.
        sources: u64,
        /// How long each is remembered.
        kept: Duration,
    },
    /// This worker was told of a lane that it has not added yet, which may hold what was sent before.
    #[error("this worker was told of a lane and has not added it: add it, and try again")]
    Outdated,
    /// The message lies in a lane that this worker does not have yet.
    #[error(
        "the message lies in lane {slot} (number {serial}), which this worker was not given yet; add it, and try again"
    )]
    LaneMissing {
        /// Its place.
        slot: u16,
        /// Its number.
        serial: u64,
    },
    /// A lane in a place that has one.
    #[error("inbound lane {slot} is there already; remove it first")]
    SlotTaken {
        /// The place.
        slot: u16,
    },
    /// A lane in a place that no mailbox has.
    #[error("a mailbox has {slots} places for lanes, there is none of number {slot}")]
    NoSuchSlot {
        /// The place.
        slot: u16,
        /// How many there are.
        slots: usize,
    },
    /// A list of sources that is too long.
    #[error("{actual} sources were named, at most {limit} can be; receive from any, or name fewer")]
    TooManySources {
        /// How many were named.
        actual: usize,
        /// How many can be.
        limit: usize,
    },
    /// A second end for a worker that this process serves already.
    #[error("this process already has an end of the mailbox for row {row}; one row serves one end at a time")]
    RowTaken {
        /// The row: the worker's index.
        row: usize,
    },
    /// Somebody else had the lock for the whole wait.
    #[error("the mailbox is busy: waited {waited:?} for {owner}; try again")]
    Busy {
        /// Who held the lock when the wait ended.
        owner: LockOwner,
        /// How long it was waited for.
        waited: Duration,
    },
    /// Something in the segment cannot be what this program wrote there.
    #[error("the mailbox is corrupt: {what} at byte {offset}; the process cannot go on with it")]
    Corrupt {
        /// What was looked at.
        what: &'static str,
        /// Where, in bytes from the segment's start.
        offset: u64,
    },
}

impl From<StateError> for MailError {
    fn from(error: StateError) -> Self {
        match error {
            StateError::Busy { owner, waited } => Self::Busy { owner, waited },
            StateError::Corrupt { what, offset } => Self::Corrupt { what, offset },
            StateError::LogFull { needed_bytes, free_bytes, capacity_bytes, waited } => {
                Self::LogFull { needed_bytes, free_bytes, capacity_bytes, waited }
            }
            StateError::Full { needed_bytes, free_bytes, .. } => {
                // Whoever knows the number of messages puts it in.
                Self::Full { messages: 0, messages_max: 0, needed_bytes, free_bytes }
            }
            // The mailbox uses no keys of objects, no pins and no loans.
            _ => Self::Corrupt { what: "an operation that the mailbox does not use", offset: 0 },
        }
    }
}

impl From<RecoverError> for MailError {
    fn from(error: RecoverError) -> Self {
        match error {
            RecoverError::Busy { owner } => Self::Busy { owner, waited: Duration::ZERO },
            RecoverError::Corrupt { what, offset } => Self::Corrupt { what, offset },
        }
    }
}
