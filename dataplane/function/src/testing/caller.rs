//! [`Caller`]: the client's side of a harness.

use std::any::type_name;
use std::sync::Arc;
use std::time::{Duration, Instant};

use praas_protocol::control::{LaneId, WaitMode};
use praas_protocol::limits::CALL_DEADLINE_NS_DEFAULT;
use praas_protocol::{CallError, FunctionId, Idempotency, Name};
use praas_shm::client_lane::{ClientLane, KeyedPayload, Payload, Ticket, WaitEnd};
use rkyv::api::high::{HighDeserializer, HighSerializer};
use rkyv::rancor::Error;
use rkyv::ser::allocator::ArenaHandle;
use rkyv::util::AlignedVec;
use rkyv::{Archive, Deserialize, Serialize};

use super::realm::process_id;
use crate::call_end::{bytes_of, end_of, of_submit_error};
use crate::typed::{TypedInput, checked};

/// How long a call is waited for by default, as by a client.
const DEADLINE_DEFAULT: Duration = Duration::from_nanos(CALL_DEADLINE_NS_DEFAULT);

/// A type that can be sent to a typed function: every `T` that derives `rkyv::Archive` and `rkyv::Serialize`.
pub trait Encodable: for<'a> Serialize<HighSerializer<AlignedVec, ArenaHandle<'a>, Error>> {}

impl<T> Encodable for T where T: for<'a> Serialize<HighSerializer<AlignedVec, ArenaHandle<'a>, Error>> {}

/// An archived type that can be read back as `T`: every `T` that derives `rkyv::Archive` and `rkyv::Deserialize`.
pub trait Decodable<T>: TypedInput + Deserialize<T, HighDeserializer<Error>> {}

impl<T, A> Decodable<T> for A where A: TypedInput + Deserialize<T, HighDeserializer<Error>> {}

/// A caller with a lane of its own.
#[derive(Debug)]
pub struct Caller {
    lane: Arc<ClientLane>,
    wait_mode: WaitMode,
    /// Who is called.
    process: Name,
}

impl Caller {
    pub(crate) fn new(lane: Arc<ClientLane>, wait_mode: WaitMode, process: Name) -> Self {
        Self { lane, wait_mode, process }
    }

    pub(crate) fn lane_id(&self) -> LaneId {
        self.lane.id()
    }

    /// What `function` answers to `payload`. It waits as long as a client does by default, 30 s.
    ///
    /// # Errors
    /// The [`CallError`] that a client would get.
    pub fn invoke(&self, function: &str, payload: &[u8]) -> Result<Vec<u8>, CallError> {
        self.begin(function, payload, Some(DEADLINE_DEFAULT))?.wait()
    }

    /// What the typed `function` answers to `input`.
    ///
    /// # Errors
    /// The [`CallError`] that a client would get; [`CallError::Undecodable`] when the answer is not an `Out`.
    pub fn invoke_typed<Out>(&self, function: &str, input: &impl Encodable) -> Result<Out, CallError>
    where
        Out: Archive,
        Out::Archived: Decodable<Out>,
    {
        let undecodable = |actual_bytes: usize, reason: String| CallError::Undecodable {
            type_name: type_name::<Out>(),
            actual_bytes: actual_bytes as u64,
            reason,
        };
        let payload = rkyv::to_bytes::<Error>(input).map_err(|error| undecodable(0, error.to_string()))?;
        let answer = self.invoke(function, &payload)?;
        let mut aligned = AlignedVec::<16>::with_capacity(answer.len());
        aligned.extend_from_slice(&answer);
        let archived =
            checked::<Out::Archived>(&aligned).map_err(|error| undecodable(answer.len(), error.to_string()))?;
        rkyv::deserialize::<Out, Error>(archived).map_err(|error| undecodable(answer.len(), error.to_string()))
    }

    /// Starts a call and does not wait for it. Without a deadline the function sees no time limit.
    ///
    /// # Errors
    /// The [`CallError`] that a client would get, when nothing was sent.
    pub fn begin(&self, function: &str, payload: &[u8], deadline: Option<Duration>) -> Result<Pending<'_>, CallError> {
        let deadline_ns = deadline.map_or(0, nanoseconds);
        let ticket = self
            .lane
            .submit(FunctionId::of(function), Payload::Bytes(payload), deadline_ns, 0)
            .map_err(|error| of_submit_error(&error))?;
        Ok(self.pending(function, ticket, deadline))
    }

    /// [`Caller::invoke`] with an idempotency key: repetitions of the call get the answer of the first one.
    ///
    /// # Errors
    /// The [`CallError`] that a client would get.
    pub fn invoke_once(
        &self,
        function: &str,
        idempotency: impl Into<Idempotency>,
        payload: &[u8],
    ) -> Result<Vec<u8>, CallError> {
        self.begin_once(function, idempotency, payload, Some(DEADLINE_DEFAULT))?.wait()
    }

    /// [`Caller::begin`] with an idempotency key.
    ///
    /// # Errors
    /// The [`CallError`] that a client would get, when nothing was sent.
    pub fn begin_once(
        &self,
        function: &str,
        idempotency: impl Into<Idempotency>,
        payload: &[u8],
        deadline: Option<Duration>,
    ) -> Result<Pending<'_>, CallError> {
        let (deadline_ns, payload) = (deadline.map_or(0, nanoseconds), KeyedPayload::Bytes(payload));
        let ticket = self
            .lane
            .submit_keyed(FunctionId::of(function), idempotency.into(), payload, deadline_ns, 0)
            .map_err(|error| of_submit_error(&error))?;
        Ok(self.pending(function, ticket, deadline))
    }

    fn pending(&self, function: &str, ticket: Ticket, deadline: Option<Duration>) -> Pending<'_> {
        let (function, started) = (function.to_owned(), Instant::now());
        Pending { caller: self, function, ticket: Some(ticket), started, deadline }
    }
}

/// Zero means "no deadline" in a lane, so a deadline of zero is one nanosecond.
fn nanoseconds(deadline: Duration) -> u64 {
    u64::try_from(deadline.as_nanos()).unwrap_or(u64::MAX).max(1)
}

/// A call that was started. Dropping it cancels the call.
#[derive(Debug)]
pub struct Pending<'caller> {
    caller: &'caller Caller,
    function: String,
    ticket: Option<Ticket>,
    started: Instant,
    deadline: Option<Duration>,
}

impl Pending<'_> {
    /// Whether the answer is there.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        self.ticket.as_ref().is_some_and(|ticket| self.caller.lane.is_answered(ticket))
    }

    /// The answer, or [`CallError::DeadlineExceeded`] when the deadline passes first; without a deadline, after 30 s.
    ///
    /// # Errors
    /// The [`CallError`] that a client would get.
    pub fn wait(mut self) -> Result<Vec<u8>, CallError> {
        let Some(ticket) = self.ticket.take() else { return Err(CallError::Cancelled) };
        let lane = &self.caller.lane;
        let deadline = self.deadline.unwrap_or(DEADLINE_DEFAULT);
        match lane.wait(&ticket, self.caller.wait_mode, deadline.saturating_sub(self.started.elapsed())) {
            WaitEnd::Answered => end_of(lane.take(ticket), &self.function, || process_id(self.caller.process))
                .map(|output| bytes_of(&output)),
            WaitEnd::DeadlinePassed => {
                lane.abandon(ticket);
                Err(CallError::DeadlineExceeded { deadline_ns: nanoseconds(deadline) })
            }
            WaitEnd::Lost => {
                lane.abandon(ticket);
                Err(CallError::ConnectionLost { may_have_run: true })
            }
        }
    }

    /// Stops waiting and tells the function so.
    pub fn cancel(self) {
        drop(self);
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.caller.lane.abandon(ticket);
        }
    }
}
