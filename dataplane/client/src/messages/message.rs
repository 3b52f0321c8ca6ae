//! [`Message`]: what a session has received and holds. [`PeekedMessage`]: what it was shown.

use std::fmt;
use std::ops::Deref;

use praas_protocol::{Address, Key, MessageId};

use super::error::RecvError;
use super::receiving::{Given, Verdict};
use super::session::Session;

/// A message that a session holds.
///
/// It stays in the session's mailbox until [`Message::accept`] removes it. It goes back to the head of its queue, and comes
/// again marked as redelivered, by [`Message::release`], and also when this client leaves or loses its server: so who accepts
/// a message when it is done with it does not lose one. Dropping it changes nothing. Messages of its source and key that came
/// later are received meanwhile, in order.
pub struct Message {
    session: Session,
    key: String,
    given: Given,
}

impl Message {
    pub(super) fn new(session: Session, key: &str, given: Given) -> Self {
        Self { session, key: key.to_owned(), given }
    }

    /// Who sent it: a destination for an answer.
    #[must_use]
    pub fn source(&self) -> Address {
        self.given.head.source
    }

    /// What tells it from all other messages of its source.
    #[must_use]
    pub fn id(&self) -> MessageId {
        self.given.head.id
    }

    /// Its key.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Its bytes, aligned to 16.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.given.bytes()
    }

    /// Whether it was received before, and not accepted.
    #[must_use]
    pub fn is_redelivered(&self) -> bool {
        self.given.head.redelivered
    }

    /// Removes it from the mailbox: it will not come again. Takes one exchange with the server.
    ///
    /// # Errors
    /// [`RecvError::NotHeld`] when it is to come again nevertheless, or was accepted already after it had come again;
    /// [`RecvError::Unavailable`] and [`RecvError::Session`] when the server cannot be asked: then it may come again.
    pub fn accept(self) -> Result<(), RecvError> {
        self.settle(Verdict::Accept)
    }

    /// Puts it back to the head of its queue, and with it those of its source and key that were received after it.
    ///
    /// # Errors
    /// As [`Message::accept`].
    pub fn release(self) -> Result<(), RecvError> {
        self.settle(Verdict::Release)
    }

    fn settle(&self, verdict: Verdict) -> Result<(), RecvError> {
        self.session.settle(&self.given.head, Key::new(&self.key)?, verdict)
    }

    /// Its bytes in a vector of their own. The message stays held.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.given.into_bytes()
    }
}

impl Deref for Message {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes()
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Message")
            .field("source", &self.source())
            .field("id", &self.id())
            .field("key", &self.key)
            .field("bytes", &self.bytes().len())
            .field("is_redelivered", &self.is_redelivered())
            .finish_non_exhaustive()
    }
}

/// A copy of a message that stays in the mailbox.
#[derive(Debug)]
pub struct PeekedMessage {
    given: Given,
}

impl PeekedMessage {
    pub(super) fn new(given: Given) -> Self {
        Self { given }
    }

    /// Who sent it.
    #[must_use]
    pub fn source(&self) -> Address {
        self.given.head.source
    }

    /// What tells it from all other messages of its source.
    #[must_use]
    pub fn id(&self) -> MessageId {
        self.given.head.id
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.given.bytes()
    }

    /// Whether it was received before, and not accepted.
    #[must_use]
    pub fn is_redelivered(&self) -> bool {
        self.given.head.redelivered
    }
}
