//! [`Context`]: what a running function knows about its call and its process.
//!
//! A context is a few references and numbers; copying it costs nothing. It ends with the call.

use std::rc::Rc;
use std::time::Duration;

use praas_protocol::token::Rights;
use praas_protocol::{Name, ProcessId};
use praas_shm::running_call::RunningCall;
use praas_shm::worker_end::InCall;

use crate::dedicated::ConnectionCall;
use crate::durability::DurabilityRoom;
use crate::error::{FunctionError, FunctionResult};
use crate::files::FilesRoom;
use crate::invoke::InvokeRoom;
use crate::mail::Mail;
use crate::messages::MessageRoom;
use crate::process_list::ProcessRoom;
use crate::standing_aside::RingRecord;
use crate::state::StateRoom;
use crate::wake_ups::WakeRoom;

/// What does not change while a worker lives.
#[derive(Debug)]
pub(crate) struct WorkerIdentity {
    pub(crate) process: ProcessId,
    pub(crate) index: u8,
    pub(crate) state: StateRoom,
    pub(crate) messages: MessageRoom,
    /// Shared with the worker that runs the call.
    pub(crate) mail: Rc<Mail>,
    pub(crate) processes: ProcessRoom,
    pub(crate) ring_record: RingRecord,
    pub(crate) invoke: InvokeRoom,
    pub(crate) durability: DurabilityRoom,
    pub(crate) wake_ups: WakeRoom,
    /// The files directory, if the application has one.
    pub(crate) files: Option<FilesRoom>,
}

/// What does not change while a lane or a connection lives.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CallerIdentity {
    pub(crate) principal: Name,
    pub(crate) rights: Rights,
}

/// Where a call came from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Origin<'call> {
    /// A lane.
    Lane(&'call RunningCall<'call>),
    /// A dedicated connection.
    Connection(&'call ConnectionCall<'call>),
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
    caller: &'call CallerIdentity,
    origin: Origin<'call>,
}

impl<'call> Context<'call> {
    pub(crate) fn new(worker: &'call WorkerIdentity, caller: &'call CallerIdentity, origin: Origin<'call>) -> Self {
        Self { worker, caller, origin }
    }

    /// The state of the process.
    #[inline]
    pub(crate) fn state_room(&self) -> &'call StateRoom {
        &self.worker.state
    }

    /// The worker that runs the call.
    pub(crate) fn identity(&self) -> &'call WorkerIdentity {
        self.worker
    }

    /// The log of the process, if it has one.
    #[inline]
    pub(crate) fn durability_room(&self) -> &'call DurabilityRoom {
        &self.worker.durability
    }

    /// The messages of the process.
    #[inline]
    pub(crate) fn message_room(&self) -> &'call MessageRoom {
        &self.worker.messages
    }

    /// The control socket, for what a call asks of the server.
    pub(crate) fn mail(&self) -> &'call Mail {
        &self.worker.mail
    }

    /// What is known of the other processes.
    pub(crate) fn process_room(&self) -> &'call ProcessRoom {
        &self.worker.processes
    }

    /// What calls of other functions share.
    #[inline]
    pub(crate) fn invoke_room(&self) -> &'call InvokeRoom {
        &self.worker.invoke
    }

    /// [`Context::process`] where it lies.
    #[inline]
    pub(crate) fn own_id(&self) -> &'call ProcessId {
        &self.worker.process
    }

    pub(crate) fn ring_record(&self) -> &'call RingRecord {
        &self.worker.ring_record
    }

    /// The call as one that makes calls of its own, or waits.
    #[inline]
    pub(crate) fn in_call(&self) -> InCall<'call> {
        match self.origin {
            Origin::Lane(call) => call.in_call(),
            Origin::Connection(call) => call.call.in_call(),
        }
    }

    pub(crate) fn caller_rights(&self) -> Rights {
        self.caller.rights
    }

    /// The lane's call, if it came on a lane.
    pub(crate) fn running(&self) -> Option<&'call RunningCall<'call>> {
        match self.origin {
            Origin::Lane(call) => Some(call),
            Origin::Connection(_) => None,
        }
    }

    /// Whether the caller no longer waits, because it cancelled or its deadline passed. One load, or a read of the clock when
    /// the caller is on a connection of this worker's own: ask often.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        match self.origin {
            Origin::Lane(call) => call.is_abandoned(),
            Origin::Connection(call) => call.is_abandoned(),
        }
    }

    /// `Ok` while the caller waits; an error to return at once when it does not. As cheap as [`Context::is_cancelled`].
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
        match self.origin {
            Origin::Lane(call) => call.time_remaining(),
            Origin::Connection(call) => call.time_remaining(),
        }
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
        self.caller.principal
    }

    /// Whether the caller shares the application's trust domain. The input of one on this host is then read where it wrote it.
    #[must_use]
    pub fn is_caller_trusted(&self) -> bool {
        self.caller.rights.contains(Rights::TRUSTED)
    }

    /// The id that all calls made on behalf of one client's call have in common; `None` for that first call itself, as
    /// long as it has called nobody.
    #[must_use]
    pub fn root_id(&self) -> Option<u128> {
        let root = match self.origin {
            Origin::Lane(call) => call.root(),
            Origin::Connection(call) => call.call.root(),
        };
        (root != 0).then_some(root)
    }
}
