//! What a running function does with messages.

use std::time::Duration;

use praas_protocol::MessageId;
use praas_protocol::limits::ADDRESSES_PER_CALL_MAX;

use super::PeekedMessage;
use super::address::{Party, Sources};
use super::error::{RecvError, SendError};
use super::message::{Message, MessageLoan};
use crate::context::Context;

/// Messages: see [`crate::messages`]. Keys are 1–255 bytes of UTF-8 without control characters; those of messages and those of
/// state have nothing to do with each other.
impl<'call> Context<'call> {
    /// Sends `bytes` under `key` to a process of the same application, to [`SELF`](crate::SELF), or to where a message came from.
    /// When it returns, the receiver's mailbox has the message, which stays there until a function of the receiver takes it.
    /// Returns the message's id.
    ///
    /// The first message to a receiver asks the server for a lane; every other one makes no system call (unless a receiver
    /// sleeps and is woken), reads no clock and allocates nothing.
    ///
    /// ```
    /// use praas_function::{Application, Call, FunctionResult, SELF};
    ///
    /// fn note(call: &mut Call) -> FunctionResult {
    ///     let context = call.context();
    ///     context.send(SELF, "notes", call.input())?; // kept until `latest` asks for it
    ///     Ok(())
    /// }
    ///
    /// fn latest(call: &mut Call) -> FunctionResult {
    ///     let context = call.context();
    ///     match context.try_recv(SELF, "notes")? {
    ///         Some(message) => call.reply(&message),
    ///         None => call.reply(b"nothing was noted"),
    ///     }
    /// }
    ///
    /// # use praas_function::testing::Harness;
    /// let harness = Harness::new(|| Application::new().function("note", note).function("latest", latest))?;
    /// harness.invoke("note", b"milk")?;
    /// assert_eq!(harness.invoke("latest", b"")?, b"milk");
    /// assert_eq!(harness.invoke("latest", b"")?, b"nothing was noted");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`SendError::MailboxFull`] with its figures when there is no room, [`SendError::UnknownProcess`],
    /// [`SendError::TooLarge`], [`SendError::Refused`]. Nothing was sent, whatever the error.
    #[inline]
    pub fn send<'a>(&self, to: impl Into<Party<'a>>, key: &str, bytes: &[u8]) -> Result<MessageId, SendError> {
        self.message_room().send(self, to.into(), key, bytes, None)
    }

    /// [`Context::send`], waiting at most for `within` until there is room. The wait ends early when the caller gives up; a
    /// drain does not end it.
    ///
    /// # Errors
    /// As there, and [`SendError::DeadlineExceeded`] or [`SendError::Cancelled`] instead of [`SendError::MailboxFull`].
    #[inline]
    pub fn send_within<'a>(
        &self,
        to: impl Into<Party<'a>>,
        key: &str,
        bytes: &[u8],
        within: Duration,
    ) -> Result<MessageId, SendError> {
        self.message_room().send(self, to.into(), key, bytes, Some(within))
    }

    /// Sends the same message to each of `to`, without waiting for room. What became of each, in their order: one that
    /// could not be reached keeps no other from its message.
    ///
    /// ```
    /// use praas_function::{Call, FunctionResult};
    ///
    /// fn announce(call: &mut Call) -> FunctionResult<String> {
    ///     let results = call.context().broadcast(&["alice", "bob", "carol"], "news", call.input());
    ///     Ok(format!("{} of {} have it", results.iter().flatten().count(), results.len()))
    /// }
    /// # let _ = announce;
    /// ```
    ///
    /// # Errors
    /// For each destination as [`Context::send`]; [`SendError::TooManyDestinations`] for those beyond
    /// [`ADDRESSES_PER_CALL_MAX`].
    pub fn broadcast<'a, P>(&self, to: &[P], key: &str, bytes: &[u8]) -> Vec<Result<MessageId, SendError>>
    where
        P: Copy + Into<Party<'a>>,
    {
        let send = |(index, one): (usize, &P)| {
            if index >= ADDRESSES_PER_CALL_MAX {
                return Err(SendError::TooManyDestinations { limit: ADDRESSES_PER_CALL_MAX });
            }
            self.send(*one, key, bytes)
        };
        to.iter().enumerate().map(send).collect()
    }

    /// A place for a message of `bytes` bytes to `to`, to be filled where the receiver will read it and then
    /// [sent](MessageLoan::send): no copy is made on the way.
    ///
    /// ```
    /// use praas_function::{Call, FunctionResult};
    ///
    /// fn render(call: &mut Call) -> FunctionResult {
    ///     let mut picture = call.context().loan_message("screen", 1 << 20)?;
    ///     picture.fill(0x7f);
    ///     picture.send("frames")?;
    ///     Ok(())
    /// }
    /// # let _ = render;
    /// ```
    ///
    /// # Errors
    /// As [`Context::send`].
    pub fn loan_message<'a>(&self, to: impl Into<Party<'a>>, bytes: usize) -> Result<MessageLoan<'call>, SendError> {
        let room = self.message_room();
        let to = to.into().resolve(&room.own)?;
        let place = room.loan(self, &to, bytes)?;
        Ok(MessageLoan::new(*self, to, place))
    }

    /// The next message under `key` from `sources`, waiting at most for `within` until one comes. Messages of one source under
    /// one key come in the order in which they were sent; of several sources, each has its turn.
    ///
    /// The call holds the message until it ends; see [`Message`]. The wait ends early when the caller gives up or the
    /// process drains. A message that is there is received without a system call, a look at the clock or an allocation.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use praas_function::{Call, FunctionResult, Sources};
    ///
    /// fn collect(call: &mut Call) -> FunctionResult {
    ///     let context = call.context();
    ///     let first = context.recv(Sources::Any, "results", Duration::from_secs(5))?;
    ///     let second = context.recv(first.source(), "results", Duration::from_secs(5))?;
    ///     call.reply(&[first.bytes(), second.bytes()].concat())
    /// }
    /// # let _ = collect;
    /// ```
    ///
    /// # Errors
    /// [`RecvError::DeadlineExceeded`], [`RecvError::Interrupted`] by a drain, [`RecvError::Cancelled`] when the caller gave
    /// up, [`RecvError::Mailbox`].
    #[inline]
    pub fn recv<'a>(
        &self,
        sources: impl Into<Sources<'a>>,
        key: &str,
        within: Duration,
    ) -> Result<Message<'call>, RecvError> {
        let received = self.message_room().receive(self, sources.into(), key, Some(within))?;
        received.ok_or(RecvError::DeadlineExceeded { waited: within })
    }

    /// The next message under `key` from `sources` if there is one now.
    ///
    /// # Errors
    /// [`RecvError::Mailbox`], [`RecvError::Key`], [`RecvError::Name`].
    #[inline]
    pub fn try_recv<'a>(
        &self,
        sources: impl Into<Sources<'a>>,
        key: &str,
    ) -> Result<Option<Message<'call>>, RecvError> {
        self.message_room().receive(self, sources.into(), key, None)
    }

    /// A copy of the message that [`Context::try_recv`] would receive. It stays in the mailbox, and another call may receive
    /// it meanwhile.
    ///
    /// # Errors
    /// As [`Context::try_recv`].
    pub fn peek<'a>(&self, sources: impl Into<Sources<'a>>, key: &str) -> Result<Option<PeekedMessage>, RecvError> {
        self.message_room().peek(self, sources.into(), key)
    }
}
