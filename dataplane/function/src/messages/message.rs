//! [`Message`]: what was received. [`MessageLoan`]: what is built where its receiver will read it.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use praas_protocol::{Address, MessageId};
use praas_shm::mailbox::Received;
use praas_shm::message_lane;
use rkyv::util::AlignedVec;

use super::delivery::Body;
use super::error::{RecvError, SendError};
use super::pending_send::PendingSend;
use crate::context::Context;

/// A message that the running call holds.
///
/// It is removed from the mailbox when the call succeeds, before its answer is published, or earlier by [`Message::accept`].
/// When the call fails or panics, or its worker dies, the message goes back to the head of its source's queue and comes
/// again, marked as redelivered. Dropping it changes nothing of that. While a call holds messages of a source and key, only that
/// call receives more of them, so that nobody overtakes it.
pub struct Message<'call> {
    received: Received<'call>,
    source: Address,
}

impl<'call> Message<'call> {
    #[inline]
    pub(super) fn new(received: Received<'call>, source: Address) -> Self {
        Self { received, source }
    }

    /// Who sent it: a destination for an answer.
    #[must_use]
    #[inline]
    pub fn source(&self) -> Address {
        self.source
    }

    /// What tells it from all other messages of its source.
    #[must_use]
    #[inline]
    pub fn id(&self) -> MessageId {
        self.received.id()
    }

    /// Its bytes, aligned to 16: where the sender wrote them if they are long, and in the mailbox otherwise. They stay as long
    /// as the message is held.
    #[must_use]
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        self.received.bytes()
    }

    /// Whether a call has received it before, and failed or died before it was done.
    #[must_use]
    pub fn is_redelivered(&self) -> bool {
        self.received.is_redelivered()
    }

    /// Removes it from the mailbox now, whatever becomes of the call.
    ///
    /// # Errors
    /// [`RecvError::Mailbox`]: it is held on.
    #[inline]
    pub fn accept(self) -> Result<(), RecvError> {
        Ok(self.received.accept()?)
    }
}

impl Deref for Message<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        self.bytes()
    }
}

impl fmt::Debug for Message<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Message")
            .field("source", &self.source)
            .field("id", &self.id())
            .field("bytes", &self.bytes().len())
            .field("is_redelivered", &self.is_redelivered())
            .finish()
    }
}

/// Where a message is built.
#[derive(Debug)]
pub(super) enum Place {
    /// In the lane of this number.
    Lane(u64, message_lane::MessageLoan),
    /// In a call lane to the server's gateway.
    Elsewhere(Body),
    /// For this process itself: in private memory, from which it is copied into the mailbox.
    Private(AlignedVec),
}

/// A place of a message's length that its receiver will read it from. Filled, it is sent; dropped, it is given back.
///
/// What it contains at first means nothing.
#[derive(Debug)]
#[must_use = "a loan that is not sent is given back"]
pub struct MessageLoan<'call> {
    context: Context<'call>,
    to: Address,
    place: Place,
}

impl<'call> MessageLoan<'call> {
    pub(super) fn new(context: Context<'call>, to: Address, place: Place) -> Self {
        Self { context, to, place }
    }

    /// Sends what was built. The id under which the receiver knows it.
    ///
    /// # Errors
    /// As [`Context::send`]; the loan is given back.
    pub fn send(self, key: &str) -> Result<MessageId, SendError> {
        let Self { context, to, place } = self;
        context.before_send((&to).into(), None)?;
        context.message_room().send_built(&context, to, place, key, None)
    }

    /// Sends what was built and goes on before it has arrived, as [`Context::start_send`] does.
    ///
    /// # Errors
    /// As there; the loan is given back.
    pub fn start(self, key: &str) -> Result<PendingSend<'call>, SendError> {
        let Self { context, to, place } = self;
        context.before_send((&to).into(), None)?;
        let (id, delivery) = context.message_room().start_built(&context, &to, place, key)?;
        Ok(PendingSend::new(context, to, id, delivery))
    }

    /// [`MessageLoan::send`], waiting for room as [`Context::send_within`] does.
    ///
    /// # Errors
    /// As [`Context::send_within`]; the loan is given back.
    pub fn send_within(self, key: &str, within: Duration) -> Result<MessageId, SendError> {
        let Self { context, to, place } = self;
        context.before_send((&to).into(), Some(within))?;
        context.message_room().send_built(&context, to, place, key, Some(within))
    }
}

impl Deref for MessageLoan<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.place {
            Place::Lane(_, loan) => loan,
            Place::Elsewhere(body) => body.built(),
            Place::Private(bytes) => bytes,
        }
    }
}

impl DerefMut for MessageLoan<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.place {
            Place::Lane(_, loan) => loan,
            Place::Elsewhere(body) => body.built_mut(),
            Place::Private(bytes) => bytes,
        }
    }
}
