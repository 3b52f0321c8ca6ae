//! [`PendingSend`]: a message that a function has sent and not waited for yet.

use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use praas_protocol::{Address, MessageId};

use super::delivery::Delivery;
use super::error::SendError;
use crate::context::Context;

/// A message on its way. Messages that were started later, to the same receiver, arrive later, in whatever order they are waited
/// for. It goes on while its function waits, for whatever; a function that computes instead delays only what takes more than
/// one try.
///
/// Dropping it gives the message up: one that has not left by then is not sent, and what became of one that has is not told.
#[must_use = "a message that is dropped is given up"]
pub struct PendingSend<'call> {
    context: Context<'call>,
    to: Address,
    id: MessageId,
    /// `None` if it has arrived.
    delivery: Option<Rc<Delivery>>,
}

impl<'call> PendingSend<'call> {
    pub(super) fn new(context: Context<'call>, to: Address, id: MessageId, delivery: Option<Rc<Delivery>>) -> Self {
        Self { context, to, id, delivery }
    }

    /// What tells the message from all others of this process.
    #[must_use]
    pub fn id(&self) -> MessageId {
        self.id
    }

    /// Waits until the receiver's mailbox has the message.
    ///
    /// # Errors
    /// As [`Context::send`](crate::Context::send).
    pub fn wait(self) -> Result<MessageId, SendError> {
        self.finish(None)
    }

    /// [`PendingSend::wait`], waiting for room too, as [`Context::send_within`](crate::Context::send_within) does.
    ///
    /// # Errors
    /// As there.
    pub fn wait_within(self, within: Duration) -> Result<MessageId, SendError> {
        self.finish(Some(within))
    }

    fn finish(self, within: Option<Duration>) -> Result<MessageId, SendError> {
        if let Some(delivery) = &self.delivery {
            self.context.message_room().finish_started(&self.context, &self.to, delivery, within)?;
        }
        Ok(self.id)
    }

    /// What became of the message, if that is known already. One that found no room goes on waiting for it.
    ///
    /// # Errors
    /// As [`Context::send`](crate::Context::send).
    pub fn try_wait(&mut self) -> Option<Result<MessageId, SendError>> {
        let Some(delivery) = &self.delivery else { return Some(Ok(self.id)) };
        let end = self.context.message_room().look_at_started(&self.context, &self.to, delivery)?;
        Some(end.map(|_| self.id))
    }
}

impl Drop for PendingSend<'_> {
    fn drop(&mut self) {
        if let Some(delivery) = self.delivery.take() {
            self.context.message_room().give_up_started(&self.to, &delivery);
        }
    }
}

impl fmt::Debug for PendingSend<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("PendingSend")
            .field("to", &self.to)
            .field("id", &self.id)
            .field("is_pending", &self.delivery.as_ref().is_some_and(|delivery| delivery.end().is_none()))
            .finish()
    }
}
