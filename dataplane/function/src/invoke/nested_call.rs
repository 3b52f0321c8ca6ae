//! A call that a function makes, from its first attempt to its end.
//!
//! Invariants
//! 1. A ticket is taken (after its answer), or retracted, exactly once; dropping retracts it: what nobody has claimed by then
//!    never runs, what runs can see that nobody waits.
//! 2. The request is sent again only after a refusal, which proves that it never ran, or after a retraction that says so.
//! 3. Every wait ends at the call's deadline, soon after its caller has given up, and when the own process drains while the
//!    other one takes no calls: each of the two could wait for the other's end.
//! 4. The worker stands aside whenever the wait is longer than a short poll.

use std::borrow::Cow;
use std::rc::Rc;
use std::time::{Duration, Instant};

use praas_protocol::control::WaitMode;
use praas_protocol::limits::CALL_DEADLINE_NS_DEFAULT;
use praas_protocol::{CallError, FunctionId, Idempotency, Name, Phase, ProcessId};
use praas_shm::client_lane::{Bounded, ClientLane, KeyedPayload, Payload, Retracted, SubmitError, Ticket, WaitEnd};
use praas_shm::simulation;

use super::call_lane::CallLane;
use super::input::Input;
use super::options::InvokeOptions;
use super::output::Output;
use crate::call_end::{end_of, of_submit_error};
use crate::context::Context;
use crate::limits::{CALL_PAUSE_MAX, CALL_PAUSE_MIN};
use crate::messages::Around;
use crate::standing_aside::StandingAside;

/// What an attempt came to, unless it succeeded.
#[derive(Debug)]
pub(super) enum Setback {
    /// Try again later; at its deadline the call ends so.
    Later(CallError),
    /// The call has ended.
    End(CallError),
}

/// How long a call may take, and until when once the clock was read.
#[derive(Debug, Clone, Copy)]
struct Deadline {
    limit: Duration,
    end: Option<Instant>,
}

impl Deadline {
    /// Counts from the first time that this is asked.
    fn begin(&mut self) -> Option<Instant> {
        if self.end.is_none() {
            // A limit beyond the range of the clock is none.
            self.end = Instant::now().checked_add(self.limit);
        }
        self.end
    }

    fn left(&mut self) -> Duration {
        self.begin().map_or(self.limit, |end| end.saturating_duration_since(Instant::now()))
    }

    /// The same as it travels with a request: never 0, which would mean none. Reads no clock for the first one.
    #[inline]
    fn left_ns(&mut self) -> u64 {
        let left = if self.end.is_some() { self.left() } else { self.limit };
        u64::try_from(left.as_nanos()).unwrap_or(u64::MAX).max(1)
    }

    fn exceeded(&self) -> CallError {
        CallError::DeadlineExceeded { deadline_ns: u64::try_from(self.limit.as_nanos()).unwrap_or(u64::MAX) }
    }
}

/// A call from function to function.
///
/// What every call goes through is inlined into each caller: out of line, call and answer are moved once more, which shows.
#[derive(Debug)]
pub(super) struct NestedCall<'call, 'input> {
    context: Context<'call>,
    process: Name,
    function: Cow<'input, str>,
    input: Input<'input>,
    idempotency: Option<Idempotency>,
    deadline: Deadline,
    stage: Stage,
    /// The phase for which an earlier attempt was refused.
    refused: Option<Phase>,
}

#[derive(Debug)]
enum Stage {
    /// In no lane.
    Unsent,
    /// In this lane.
    Sent { lane: Rc<CallLane>, ticket: Ticket },
    /// Its end was given to the caller.
    Finished,
}

impl<'call, 'input> NestedCall<'call, 'input> {
    #[inline(always)]
    pub(super) fn new(
        context: Context<'call>,
        process: Name,
        function: Cow<'input, str>,
        input: Input<'input>,
        options: &InvokeOptions,
    ) -> Self {
        let own = options.deadline.unwrap_or(Duration::from_nanos(CALL_DEADLINE_NS_DEFAULT));
        let limit = context.time_remaining().map_or(own, |left| left.min(own));
        let deadline = Deadline { limit, end: None };
        let idempotency = options.idempotency;
        Self { context, process, function, input, idempotency, deadline, stage: Stage::Unsent, refused: None }
    }

    /// Sends it. An obstacle that time may remove is overcome, but for want of room in the lane.
    pub(super) fn begin(&mut self) -> Result<(), CallError> {
        self.deadline.begin();
        let (mut aside, mut pause) = (None, CALL_PAUSE_MIN);
        loop {
            match self.send() {
                Ok(()) => return Ok(()),
                Err(Setback::End(error) | Setback::Later(error @ CallError::Overloaded { .. })) => return Err(error),
                Err(Setback::Later(error)) => self.overcome(error, &mut aside, &mut pause)?,
            }
        }
    }

    /// Waits for its end whatever its stage, sending it again where that is allowed.
    #[inline(always)]
    pub(super) fn finish(&mut self) -> Result<Output, CallError> {
        let mut aside = None;
        match self.attempt(&mut aside) {
            Ok(output) => Ok(output),
            Err(Setback::End(error)) => Err(error),
            Err(Setback::Later(error)) => self.finish_patiently(error, aside),
        }
    }

    #[cold]
    fn finish_patiently(
        &mut self,
        mut error: CallError,
        mut aside: Option<StandingAside<'call>>,
    ) -> Result<Output, CallError> {
        let mut pause = CALL_PAUSE_MIN;
        loop {
            self.overcome(error, &mut aside, &mut pause)?;
            match self.attempt(&mut aside) {
                Ok(output) => return Ok(output),
                Err(Setback::End(error)) => return Err(error),
                Err(Setback::Later(again)) => error = again,
            }
        }
    }

    /// Its end, if it is there. Sends it again where that is allowed and possible at once.
    pub(super) fn look(&mut self) -> Option<Result<Output, CallError>> {
        let setback = match &self.stage {
            Stage::Sent { lane, ticket } if lane.lane().is_answered(ticket) => match self.take() {
                Ok(output) => return Some(Ok(output)),
                Err(setback) => setback,
            },
            Stage::Unsent => match self.send() {
                Ok(()) => return None,
                Err(setback) => setback,
            },
            Stage::Sent { .. } if self.deadline.left().is_zero() => Setback::End(self.give_up()),
            Stage::Sent { .. } => return None,
            Stage::Finished => return Some(Err(CallError::Cancelled)),
        };
        match setback {
            Setback::Later(_) if !self.deadline.left().is_zero() => None,
            Setback::Later(error) | Setback::End(error) => {
                self.stage = Stage::Finished;
                Some(Err(error))
            }
        }
    }

    #[inline(always)]
    fn attempt(&mut self, aside: &mut Option<StandingAside<'call>>) -> Result<Output, Setback> {
        if matches!(self.stage, Stage::Unsent) {
            self.send()?;
        }
        if let Stage::Sent { lane, ticket } = &self.stage
            && !lane.lane().wait_briefly(ticket, self.context.invoke_room().wait_mode)
        {
            self.wait_aside(aside)?;
        }
        self.take()
    }

    /// Puts the request into a lane.
    #[inline(always)]
    fn send(&mut self) -> Result<(), Setback> {
        if self.deadline.limit.is_zero() {
            return Err(Setback::End(self.deadline.exceeded()));
        }
        let room = self.context.invoke_room();
        if self.context.before_call(self.process, self.deadline.limit).is_err() {
            return Err(Setback::End(self.deadline.exceeded()));
        }
        let deadline_ns = self.deadline.left_ns();
        let lane = room.lane_to(self.process, Duration::from_nanos(deadline_ns))?;
        let root = self.context.begin_request();
        let function = FunctionId::of(&self.function);
        let submitted = match self.idempotency {
            None => {
                let block = self.input.take_block(&lane);
                let payload = block.map_or_else(|| Payload::Bytes(self.input.bytes()), Payload::Loan);
                lane.lane().submit(function, payload, deadline_ns, root)
            }
            Some(key) => {
                let input = KeyedPayload::Bytes(self.input.bytes());
                lane.lane().submit_keyed(function, key, input, deadline_ns, root)
            }
        };
        match submitted {
            Ok(ticket) => {
                self.stage = Stage::Sent { lane, ticket };
                Ok(())
            }
            Err(mut error) => {
                self.input.put_back(lane.lane(), error.take_loan());
                Err(setback(&error, lane.lane()))
            }
        }
    }

    /// Sleeps until the answer is there.
    #[cold]
    fn wait_aside(&mut self, aside: &mut Option<StandingAside<'call>>) -> Result<(), Setback> {
        let context = self.context;
        let aside = aside.get_or_insert_with(|| StandingAside::begin(&context));
        let mode = match context.invoke_room().wait_mode {
            WaitMode::Spin => WaitMode::Spin,
            // What polling there is to be has been done.
            WaitMode::Adaptive | WaitMode::Park => WaitMode::Park,
        };
        self.deadline.begin();
        loop {
            let Stage::Sent { lane, ticket } = &self.stage else { return Ok(()) };
            match lane.lane().wait(ticket, mode, aside.slice().min(self.deadline.left())) {
                WaitEnd::Answered => return Ok(()),
                WaitEnd::Lost => return Err(self.retract()),
                WaitEnd::DeadlinePassed => {}
            }
            if self.deadline.left().is_zero() {
                return Err(Setback::End(self.give_up()));
            }
            if context.is_cancelled() {
                self.withdraw();
                return Err(Setback::End(CallError::Cancelled));
            }
            lane.lane().ring_again(ticket);
            aside.look_again();
            // The lane may have ended.
            context.invoke_room().lanes().hear();
        }
    }

    /// The end of an answered call.
    #[inline(always)]
    fn take(&mut self) -> Result<Output, Setback> {
        let Stage::Sent { lane, ticket } = std::mem::replace(&mut self.stage, Stage::Finished) else {
            return Err(Setback::End(CallError::Cancelled));
        };
        let mut answer = lane.lane().take(ticket);
        self.input.put_back(lane.lane(), answer.returned_loan.take());
        let own = self.context.own_id();
        match end_of(answer, &self.function, || ProcessId { process: self.process, ..*own }) {
            Ok(payload) => Ok(Output::new(payload)),
            Err(CallError::Unavailable { phase }) => {
                self.refused = Some(phase);
                self.stage = Stage::Unsent;
                Err(Setback::Later(CallError::Unavailable { phase }))
            }
            Err(CallError::DeadlineExceeded { .. }) => Err(Setback::End(self.deadline.exceeded())),
            Err(error) => Err(Setback::End(error)),
        }
    }

    /// Sleeps before the next attempt; an error when the call has ended by that.
    fn overcome(
        &mut self,
        error: CallError,
        aside: &mut Option<StandingAside<'call>>,
        pause: &mut Duration,
    ) -> Result<(), CallError> {
        let context = self.context;
        let left = self.deadline.left();
        let is_room = matches!(error, CallError::Overloaded { .. });
        if left.is_zero() || !is_room && context.in_call().phase() != Phase::Active {
            return Err(error);
        }
        if context.is_cancelled() {
            return Err(CallError::Cancelled);
        }
        let aside = aside.get_or_insert_with(|| StandingAside::begin(&context));
        if !simulation::rest() {
            std::thread::sleep((*pause).min(left));
        }
        *pause = (*pause * 2).min(CALL_PAUSE_MAX);
        aside.look_again();
        // A process that has ended may be there again under the same name, or for ever gone.
        context.invoke_room().lanes().hear();
        Ok(())
    }

    /// The deadline passed. A request that nobody has claimed is taken back, and if an earlier attempt was refused, that is the
    /// reason.
    fn give_up(&mut self) -> CallError {
        match (self.withdraw(), self.refused) {
            (true, Some(phase)) => CallError::Unavailable { phase },
            _ => self.deadline.exceeded(),
        }
    }

    /// The lane has ended before an answer came.
    fn retract(&mut self) -> Setback {
        if self.withdraw() {
            self.stage = Stage::Unsent;
            return Setback::Later(CallError::ConnectionLost { may_have_run: false });
        }
        Setback::End(CallError::ConnectionLost { may_have_run: true })
    }

    /// Nobody waits for it any more. Whether it certainly never ran.
    fn withdraw(&mut self) -> bool {
        let Stage::Sent { lane, ticket } = std::mem::replace(&mut self.stage, Stage::Finished) else { return true };
        match lane.lane().retract(ticket) {
            Retracted::NeverRan { loan } => {
                self.input.put_back(lane.lane(), loan);
                true
            }
            Retracted::MayHaveRun => false,
        }
    }
}

impl Drop for NestedCall<'_, '_> {
    fn drop(&mut self) {
        self.withdraw();
    }
}

/// Whether to try again after `error`.
#[cold]
fn setback(error: &SubmitError, lane: &ClientLane) -> Setback {
    let end = of_submit_error(error);
    match error {
        // Room comes back when calls end. Abandoned ones may never: those nobody should wait for.
        SubmitError::Full { what, .. } if *what == Bounded::Quarantine || lane.in_flight() <= lane.quarantined() => {
            Setback::End(end)
        }
        SubmitError::TooLarge { .. } => Setback::End(end),
        _ => Setback::Later(end),
    }
}
