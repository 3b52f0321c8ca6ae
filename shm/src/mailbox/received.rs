//! A message that a call has received and holds.
//!
//! Invariants:
//! 1. The message is in its row's list from the commit of the take to that of its removal or return, and both take the end
//!    of this value or an exclusive borrow of the mailbox: its bytes stay where they are while somebody can see them.
//! 2. Lanes are removed under an exclusive borrow of the mailbox too, so a payload in a lane stays mapped.
//! 3. Nobody of the process writes a message that is held, and its sender leaves a published block alone: they are of one
//!    trust domain.

use std::ptr::NonNull;

use praas_protocol::message::{ADDRESS_BYTES, Address, MessageId};

use crate::objects::error::StateError;
use crate::objects::words::Space;

use super::error::MailError;
use super::message::Stored;
use super::name::ADDRESS_WORDS;
use super::queue::Queue;
use super::worker::Mailbox;

/// A message that this worker's call holds; dropped without [`Received::accept`] it stays held until the call ends. Not
/// `Send`: it ends with the call on whose thread it was received.
///
/// ```compile_fail
/// fn sent<T: Send>() {}
/// sent::<praas_shm::mailbox::Received<'static>>();
/// ```
#[derive(Debug)]
pub struct Received<'m> {
    mailbox: &'m Mailbox,
    queue: Queue,
    message: Stored,
    bytes: NonNull<[u8]>,
}

impl<'m> Received<'m> {
    #[inline]
    pub(crate) fn new(mailbox: &'m Mailbox, queue: Queue, message: Stored, bytes: NonNull<[u8]>) -> Self {
        Self { mailbox, queue, message, bytes }
    }

    /// Its id among the messages of its source.
    #[must_use]
    pub fn id(&self) -> MessageId {
        self.message.id(self.mailbox.space())
    }

    /// Who sent it.
    ///
    /// # Errors
    /// [`MailError::Corrupt`].
    pub fn source(&self) -> Result<Address, MailError> {
        Ok(address_of(self.mailbox.space(), self.queue)?)
    }

    /// Its payload where it lies, aligned to 16.
    #[must_use]
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: inside the segment or a lane's arena, which stay mapped while the mailbox is borrowed (invariant 2), and
        // the message's own (invariant 1); not written meanwhile (invariant 3). Any bytes are valid.
        unsafe { self.bytes.as_ref() }
    }

    /// Whether somebody has received it before and gave it back, or died.
    #[must_use]
    pub fn is_redelivered(&self) -> bool {
        self.message.is_redelivered(self.mailbox.space())
    }

    /// Removes it from the mailbox. When this has returned it is never received again.
    ///
    /// # Errors
    /// [`MailError::Busy`]: it is held as before, until the call ends. [`MailError::Corrupt`].
    #[inline]
    pub fn accept(self) -> Result<(), MailError> {
        self.mailbox.accept(self.queue, self.message)
    }
}

/// A copy of a message that is next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peeked {
    /// Its id among the messages of its source.
    pub id: MessageId,
    /// Who sent it.
    pub source: Address,
    /// Whether somebody has received it before.
    pub is_redelivered: bool,
    /// Its payload.
    pub bytes: Vec<u8>,
}

/// The source of a queue.
pub(crate) fn address_of(space: Space<'_>, queue: Queue) -> Result<Address, StateError> {
    let words = queue.address_words(space);
    let mut bytes = [0; ADDRESS_BYTES];
    for (bytes, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(words) {
        *bytes = word.to_le_bytes();
    }
    Address::from_bytes(&bytes).ok_or_else(|| StateError::corrupt("source of a queue", queue.place.at()))
}

const _: () = assert!(ADDRESS_WORDS * size_of::<u64>() == ADDRESS_BYTES);
