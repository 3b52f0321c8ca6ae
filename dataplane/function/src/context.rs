//! [`Context`]: what a running function knows about its call and its process.
//!
//! A context is a few references and numbers; copying it costs nothing. It ends with the call.

use std::time::Duration;

use praas_protocol::{Name, ProcessId};
use praas_shm::running_call::RunningCall;

use crate::error::{FunctionError, FunctionResult};

/// What does not change while a worker lives.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WorkerIdentity {
    pub(crate) process: ProcessId,
    pub(crate) index: u8,
}

/// What does not change while a lane lives.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LaneIdentity {
    pub(crate) principal: Name,
    pub(crate) trusted: bool,
}

/// What a running function knows about its call and its process.
///
/// ```
/// use praas_function::{Context, FunctionResult};
///
/// fn count_to(context: &Context, end: u64) -> FunctionResult<u64> {
///     let mut sum = 0;
///     for number in 1..=end {
///         if number % 4096 == 0 {
///             context.ensure_wanted()?; // nobody waits for the rest: stop here
///         }
///         sum += number;
///     }
///     Ok(sum)
/// }
/// # let _ = count_to;
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Context<'call> {
    worker: &'call WorkerIdentity,
    lane: &'call LaneIdentity,
    running: &'call RunningCall<'call>,
}

impl<'call> Context<'call> {
    pub(crate) fn new(
        worker: &'call WorkerIdentity,
        lane: &'call LaneIdentity,
        running: &'call RunningCall<'call>,
    ) -> Self {
        Self { worker, lane, running }
    }

    /// Whether the caller no longer waits, because it cancelled or its deadline passed. One load: ask often.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.running.is_abandoned()
    }

    /// `Ok` while the caller waits; an error to return at once when it does not. One load: ask often.
    ///
    /// Which error is a matter of a moment: the caller counts its time from the call, the worker from when it took it.
    /// The caller, gone, gets neither.
    ///
    /// # Errors
    /// [`FunctionError::cancelled`] or [`FunctionError::deadline_exceeded`].
    pub fn ensure_wanted(&self) -> FunctionResult {
        if !self.is_cancelled() {
            return Ok(());
        }
        Err(match self.time_remaining() {
            Some(Duration::ZERO) => FunctionError::deadline_exceeded(),
            _ => FunctionError::cancelled(),
        })
    }

    /// Time until the caller's deadline, zero when it has passed, `None` when the caller set none. Reads the clock.
    #[must_use]
    pub fn time_remaining(&self) -> Option<Duration> {
        self.running.time_remaining()
    }

    /// The process that this function runs in.
    #[must_use]
    pub fn process(&self) -> ProcessId {
        self.worker.process
    }

    /// The number of this worker within its process, from 0.
    #[must_use]
    pub fn worker_index(&self) -> u8 {
        self.worker.index
    }

    /// Who calls, from the token that the server checked.
    #[must_use]
    pub fn principal(&self) -> Name {
        self.lane.principal
    }

    /// Whether the caller shares the application's trust domain: its input is then read where the caller wrote it.
    #[must_use]
    pub fn is_caller_trusted(&self) -> bool {
        self.lane.trusted
    }

    /// The id that all calls made on behalf of one client's call have in common; `None` for that first call itself, as
    /// long as it has called nobody.
    #[must_use]
    pub fn root_id(&self) -> Option<u128> {
        match self.running.root() {
            0 => None,
            root => Some(root),
        }
    }
}
