//! What a running function does with messages.

use std::time::Duration;

use praas_protocol::MessageId;
use praas_protocol::limits::ADDRESSES_PER_CALL_MAX;
use praas_protocol::message::Accepted;

use super::PeekedMessage;
use super::address::{Party, Sources};
use super::error::{RecvError, SendError};
use super::message::{Message, MessageLoan};
use super::pending_send::PendingSend;
use crate::context::Context;
use crate::limits::BROADCAST_AT_ONCE;

/// Messages: see [`crate::messages`]. Keys are 1–255 bytes of UTF-8 without control characters; those of messages and those of
/// state have nothing to do with each other.
impl<'call> Context<'call> {
    /// Sends `bytes` under `key` to a process of the same application, on this host or another, to [`SELF`](crate::SELF), or to
    /// where a message came from, which may be the session of a client. When it returns, the receiver's mailbox has the
    /// message, which stays there until a function of the receiver takes it. Returns the message's id.
    ///
    /// The first message to a receiver asks the server for a lane. Within a host every other one makes no system call (unless a
    /// receiver sleeps and is woken), reads no clock and allocates nothing; to other hosts and to clients it takes the time of
    /// an answer.
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
    /// [`SendError::TooLarge`], [`SendError::Refused`]. Nothing was sent, whatever the error, but for [`SendError::Unknown`] of a
    /// message that has left this host: see [`Context::send_again`].
    #[inline]
    pub fn send<'a>(&self, to: impl Into<Party<'a>>, key: &str, bytes: &[u8]) -> Result<MessageId, SendError> {
        let to = to.into();
        self.before_send(to, None)?;
        self.message_room().send(self, to, key, bytes, None)
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
        let to = to.into();
        self.before_send(to, Some(within))?;
        self.message_room().send(self, to, key, bytes, Some(within))
    }

    /// Sends `bytes` under `key` and goes on before they have arrived. A message within this host has arrived when this
    /// returns; of those to other hosts and to clients several are on their way at a time, in their order. When as many are as
    /// may be, this waits for the first of them.
    ///
    /// ```
    /// use praas_function::{Call, FunctionResult};
    ///
    /// fn stream(call: &mut Call) -> FunctionResult {
    ///     let context = call.context();
    ///     let mut pending = Vec::new();
    ///     for line in call.input().split(|byte| *byte == b'\n') {
    ///         pending.push(context.start_send("archive", "lines", line)?);
    ///     }
    ///     pending.into_iter().try_for_each(|line| line.wait().map(drop))?;
    ///     Ok(())
    /// }
    /// # use praas_function::{Application, testing::Harness};
    /// # use std::time::Duration;
    /// # let harness = Harness::new(|| Application::new().function("stream", stream))?;
    /// # let archive = harness.correspondent("archive")?;
    /// # harness.invoke("stream", b"one\ntwo")?;
    /// # assert_eq!(archive.recv("harness", "lines", Duration::from_secs(10))?.bytes, b"one");
    /// # assert_eq!(archive.recv("harness", "lines", Duration::from_secs(10))?.bytes, b"two");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Context::send`], as far as it is known at once.
    pub fn start_send<'a>(
        &self,
        to: impl Into<Party<'a>>,
        key: &str,
        bytes: &[u8],
    ) -> Result<PendingSend<'call>, SendError> {
        let room = self.message_room();
        let to = to.into().resolve(&room.own)?;
        self.before_send((&to).into(), None)?;
        let (id, delivery) = room.start(self, &to, key, bytes)?;
        Ok(PendingSend::new(*self, to, id, delivery))
    }

    /// Settles what became of a message whose send has ended with [`SendError::Unknown`]: sends it again under the same id,
    /// waiting at most for `within`. The receiver takes it once, however often it is repeated; when this has succeeded, it has
    /// the message. Whether it is new to it is the result.
    ///
    /// Of an id that no send has given, or with another key or other bytes, nothing of that is true.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use praas_function::{Context, FunctionResult, SendError};
    ///
    /// fn report(context: &Context, line: &[u8]) -> FunctionResult {
    ///     let patience = Duration::from_secs(2);
    ///     match context.send_within("far-away", "lines", line, patience) {
    ///         // The link broke, and did not come back in time.
    ///         Err(SendError::Unknown { id, to }) => drop(context.send_again(id, to, "lines", line, 10 * patience)?),
    ///         sent => drop(sent?),
    ///     }
    ///     Ok(())
    /// }
    /// # let _ = report;
    /// ```
    ///
    /// # Errors
    /// [`SendError::Unknown`] again; [`SendError::TooOld`] when the receiver does not remember so far back. Otherwise as
    /// [`Context::send_within`].
    pub fn send_again<'a>(
        &self,
        id: MessageId,
        to: impl Into<Party<'a>>,
        key: &str,
        bytes: &[u8],
        within: Duration,
    ) -> Result<Accepted, SendError> {
        let room = self.message_room();
        let to = to.into().resolve(&room.own)?;
        self.before_send((&to).into(), Some(within))?;
        room.send_again(self, &to, id, key, bytes, within)
    }

    /// Sends the same message to each of `to`, without waiting for room. What became of each, in their order: one that
    /// could not be reached keeps no other from its message, and those on other hosts get theirs at the same time.
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
        let start = |(index, one): (usize, &P)| {
            if index >= ADDRESSES_PER_CALL_MAX {
                return Err(SendError::TooManyDestinations { limit: ADDRESSES_PER_CALL_MAX });
            }
            self.start_send(*one, key, bytes)
        };
        let indexed: Vec<_> = to.iter().enumerate().collect();
        let send = |some: &[(usize, &P)]| {
            let started: Vec<_> = some.iter().copied().map(start).collect();
            started.into_iter().map(|started| started?.wait()).collect::<Vec<_>>()
        };
        indexed.chunks(BROADCAST_AT_ONCE).flat_map(send).collect()
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
