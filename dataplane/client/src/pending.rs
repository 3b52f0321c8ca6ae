//! A call on its way: it can be waited for, polled as a future, cancelled, or dropped, which cancels it.
//!
//! Invariants
//! 1. A ticket is either taken (after its answer), abandoned, or retracted, exactly once; dropping abandons it.
//! 2. The request is sent again only after a refusal, which proves that it never ran, or after a retraction that says so; one
//!    with an idempotency key also when it may have run.
//! 3. Every wait ends at the call's deadline.

use std::sync::Arc;
use std::task::{Poll, Waker};

use praas_protocol::{CallError, FunctionId, Idempotency, Outcome, Phase, ProcessId};
use praas_shm::client_lane::{Answer, KeyedPayload, LoanBlock, Retracted, Ticket, WaitEnd};

use crate::backoff::Backoff;
use crate::deadline::Deadline;
use crate::driver::{Need, Seat};
use crate::error::LaneVerdict;
use crate::function::{Function, KeptName};
use crate::limits::BACKOFF_REFUSED_MAX;
use crate::loan::Loan;
use crate::open_lane::OpenLane;
use crate::payload::Kept;
use crate::process::ProcessShared;
use crate::refusal::ROOT_CALL;
use crate::reply::Reply;
use crate::settle::{Settled, settle};

/// Attempts within one poll, so that a poll stays short; the driving thread wakes the future for more.
const ATTEMPTS_PER_POLL: usize = 4;

/// A call in a lane, or on its way into one.
pub(crate) struct LanePending<'a> {
    /// First, so that it is given up before the process that it belongs to.
    seat: Option<Seat>,
    process: Arc<ProcessShared>,
    function: FunctionId,
    name: KeptName,
    deadline: Deadline,
    kept: Kept<'a>,
    stage: Stage,
    /// The phase for which an earlier attempt was refused.
    refused: Option<Phase>,
    /// With a key it is sent again even if it may have run.
    idempotency: Option<Idempotency>,
    /// An attempt was lost that may have run.
    may_have_run: bool,
}

enum Stage {
    /// Not in any lane.
    Unsent,
    /// In this lane.
    Sent { open: Arc<OpenLane>, ticket: Ticket },
    /// Its end was given to the caller.
    Finished,
}

/// Why a call cannot be sent now. At the deadline it ends as `error`.
#[derive(Debug)]
pub(crate) struct Obstacle {
    pub(crate) kind: ObstacleKind,
    pub(crate) error: CallError,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ObstacleKind {
    /// All cells or blocks are in use by calls that will end.
    Room,
    /// The process refuses, or there is no lane to it.
    Lane,
}

impl Obstacle {
    pub(crate) fn lost() -> Self {
        Self { kind: ObstacleKind::Lane, error: CallError::ConnectionLost { may_have_run: false } }
    }

    pub(crate) fn phase(phase: Phase) -> Self {
        Self { kind: ObstacleKind::Lane, error: CallError::Unavailable { phase } }
    }
}

/// What an attempt came to, unless it succeeded.
pub(crate) enum Setback {
    /// Try again later.
    Obstacle(Obstacle),
    /// The call has ended.
    End(CallError),
}

impl Setback {
    /// How the call ends if it is not tried again.
    pub(crate) fn into_error(self) -> CallError {
        match self {
            Self::Obstacle(obstacle) => obstacle.error,
            Self::End(error) => error,
        }
    }
}

impl<'a> LanePending<'a> {
    /// Built where it stays: it is large, and moving it would show in a pipelined call.
    #[inline(always)]
    fn new(
        process: &Arc<ProcessShared>,
        function: Function<'_>,
        kept: Kept<'a>,
        deadline: Deadline,
        stage: Stage,
    ) -> Self {
        Self {
            process: Arc::clone(process),
            function: function.id(),
            name: KeptName::new(function.name()),
            deadline,
            kept,
            stage,
            refused: None,
            idempotency: None,
            may_have_run: false,
            seat: None,
        }
    }

    #[inline]
    pub(crate) fn unsent(
        process: &Arc<ProcessShared>,
        function: Function<'_>,
        kept: Kept<'a>,
        deadline: Deadline,
    ) -> Self {
        Self::new(process, function, kept, deadline, Stage::Unsent)
    }

    /// Sent at once; obstacles other than a full lane are overcome here.
    #[inline]
    pub(crate) fn started(
        process: &Arc<ProcessShared>,
        function: Function<'_>,
        kept: Kept<'a>,
        deadline: Deadline,
        idempotency: Option<Idempotency>,
    ) -> Result<Self, CallError> {
        let mut pending = Self::unsent(process, function, kept, deadline).keyed(idempotency);
        pending.send_patiently(false)?;
        Ok(pending)
    }

    /// The call with an idempotency key, or with none. Its payload is no loan then.
    #[inline]
    pub(crate) fn keyed(mut self, idempotency: Option<Idempotency>) -> Self {
        self.idempotency = idempotency;
        self
    }

    /// Goes on with a call that was put into a lane by the direct path.
    #[inline(always)]
    pub(crate) fn sent(
        process: &Arc<ProcessShared>,
        function: Function<'_>,
        kept: Kept<'a>,
        deadline: Deadline,
        open: Arc<OpenLane>,
        ticket: Ticket,
    ) -> Self {
        Self::new(process, function, kept, deadline, Stage::Sent { open, ticket })
    }

    /// Waits for the reply, to the call's deadline.
    #[inline]
    pub(crate) fn wait(mut self) -> Result<Reply, CallError> {
        self.leave_seat();
        self.finish()
    }

    /// Whether waiting would return at once, because the call was answered or its connection was lost.
    pub(crate) fn is_done(&self) -> bool {
        match &self.stage {
            Stage::Unsent => false,
            Stage::Sent { open, ticket } => open.lane().is_answered(ticket) || open.is_lost(),
            Stage::Finished => true,
        }
    }

    pub(crate) fn process_id(&self) -> ProcessId {
        self.process.id()
    }

    pub(crate) fn function_name(&self) -> &KeptName {
        &self.name
    }

    pub(crate) fn stage_name(&self) -> &'static str {
        match &self.stage {
            Stage::Unsent => "unsent",
            Stage::Sent { .. } if self.is_done() => "answered",
            Stage::Sent { .. } => "sent",
            Stage::Finished => "finished",
        }
    }

    /// The future's poll. Nothing in it is pinned: every field may move.
    #[inline]
    pub(crate) fn poll(&mut self, waker: &Waker) -> Poll<Result<Reply, CallError>> {
        let end = self.poll_end(waker).map_err(|error| self.after_lost(error));
        if end.is_ready() {
            self.leave_seat();
            self.stage = Stage::Finished;
        }
        end
    }

    /// Waits for the end of a call whatever its stage, sending it again where that is allowed.
    #[inline]
    pub(crate) fn finish(&mut self) -> Result<Reply, CallError> {
        self.finish_attempts().map_err(|error| self.after_lost(error))
    }

    /// The error of a call of which an earlier attempt was lost: a later one that never ran does not settle it.
    #[inline]
    fn after_lost(&self, error: CallError) -> CallError {
        if self.may_have_run { error.of_repeated_call() } else { error }
    }

    #[inline]
    fn finish_attempts(&mut self) -> Result<Reply, CallError> {
        loop {
            self.send_patiently(true)?;
            match self.collect_blocking() {
                Ok(reply) => return Ok(reply),
                Err(Setback::End(error)) => return Err(error),
                Err(Setback::Obstacle(obstacle)) => self.overcome(obstacle, &mut Backoff::new(BACKOFF_REFUSED_MAX))?,
            }
        }
    }

    /// Goes on after an answer that is not a reply.
    #[cold]
    pub(crate) fn finish_answered(&mut self, open: &Arc<OpenLane>, answer: Answer) -> Result<Reply, CallError> {
        match self.settled(open, answer) {
            Ok(reply) => Ok(reply),
            Err(Setback::End(error)) => Err(error),
            Err(Setback::Obstacle(obstacle)) => {
                self.overcome(obstacle, &mut Backoff::new(BACKOFF_REFUSED_MAX))?;
                self.finish()
            }
        }
    }

    /// Puts the request into a lane, waiting for one as long as the deadline allows.
    #[inline]
    fn send_patiently(&mut self, waits_for_room: bool) -> Result<(), CallError> {
        let mut backoff = None;
        while matches!(self.stage, Stage::Unsent) {
            match self.send() {
                Ok(()) => break,
                Err(Setback::End(error)) => return Err(error),
                Err(Setback::Obstacle(obstacle)) if obstacle.kind == ObstacleKind::Room && !waits_for_room => {
                    return Err(obstacle.error);
                }
                Err(Setback::Obstacle(obstacle)) => {
                    self.overcome(obstacle, backoff.get_or_insert_with(|| Backoff::new(BACKOFF_REFUSED_MAX)))?;
                }
            }
        }
        Ok(())
    }

    /// Sleeps or opens a lane; an error when the call has ended by that.
    #[cold]
    fn overcome(&mut self, obstacle: Obstacle, backoff: &mut Backoff) -> Result<(), CallError> {
        let end = self.deadline.end();
        if self.deadline.has_passed() {
            return Err(obstacle.error);
        }
        let needs_lane = obstacle.kind == ObstacleKind::Lane && !self.process.has_usable_lane();
        if needs_lane {
            match self.process.reopen(end) {
                Ok(()) if self.process.has_usable_lane() => return Ok(()),
                // A lane to a process that is just being restarted: without a pause one lane would follow another.
                Ok(()) => {}
                Err(LaneVerdict::Final(error)) => return Err(error),
                Err(LaneVerdict::Later(error)) if self.deadline.has_passed() => return Err(error),
                Err(LaneVerdict::Later(_)) => {}
            }
        }
        std::thread::sleep(backoff.pause().min(self.deadline.remaining()));
        Ok(())
    }

    /// One attempt to put the request into the current lane.
    #[inline]
    fn send(&mut self) -> Result<(), Setback> {
        let open = self.process.usable_lane().map_err(Setback::Obstacle)?;
        let deadline_ns = self.deadline.remaining_ns();
        let ticket = match self.kept.bytes() {
            Some(bytes) if let Some(idempotency) = self.idempotency => {
                let payload = KeyedPayload::Bytes(bytes);
                let submitted = open.lane().submit_keyed(self.function, idempotency, payload, deadline_ns, ROOT_CALL);
                submitted.map_err(|error| open.setback(error).0)?
            }
            Some(bytes) => {
                open.submit_bytes(self.function, bytes, deadline_ns).map_err(|error| open.setback(error).0)?
            }
            None => {
                let kept = std::mem::replace(&mut self.kept, Kept::Lent);
                let (kept, submitted) = open.submit_loan(self.function, kept, deadline_ns);
                self.kept = kept;
                submitted?
            }
        };
        self.stage = Stage::Sent { open, ticket };
        Ok(())
    }

    #[inline]
    fn collect_blocking(&mut self) -> Result<Reply, Setback> {
        let Stage::Sent { open, ticket } = &self.stage else {
            return Err(Setback::Obstacle(Obstacle::lost()));
        };
        match open.wait(ticket, &mut self.deadline) {
            WaitEnd::Answered => self.take(),
            WaitEnd::DeadlinePassed => Err(Setback::End(self.give_up())),
            WaitEnd::Lost => Err(self.retract()),
        }
    }

    /// The end of an answered call.
    #[inline]
    fn take(&mut self) -> Result<Reply, Setback> {
        let Stage::Sent { open, ticket } = std::mem::replace(&mut self.stage, Stage::Finished) else {
            return Err(Setback::Obstacle(Obstacle::lost()));
        };
        let answer = open.lane().take(ticket);
        self.process.room_was_freed();
        self.settled(&open, answer)
    }

    /// What `answer`, taken from `open`, means for this call.
    #[inline]
    fn settled(&mut self, open: &Arc<OpenLane>, answer: Answer) -> Result<Reply, Setback> {
        match answer.payload {
            Some(output) if answer.outcome_code == Outcome::Ok as u32 => Ok(Reply::new(output)),
            _ => self.settled_otherwise(open, answer),
        }
    }

    #[cold]
    fn settled_otherwise(&mut self, open: &Arc<OpenLane>, answer: Answer) -> Result<Reply, Setback> {
        let (name, deadline) = (&self.name, &self.deadline);
        match settle(answer, || name.text(), || deadline.exceeded()) {
            Settled::Replied(reply) => Ok(reply),
            Settled::Failed(error) => Err(Setback::End(error)),
            Settled::Refused { phase, returned } => {
                self.refused = Some(phase);
                self.keep_returned(open, returned);
                Err(self.repeat_or(Obstacle::phase(phase)))
            }
        }
    }

    /// The deadline passed. A request that nobody has claimed is taken back, and if an earlier attempt was refused, that is
    /// the reason; otherwise the lane keeps the cell until it is answered. The caller goes on either way.
    fn give_up(&mut self) -> CallError {
        let Stage::Sent { open, ticket } = std::mem::replace(&mut self.stage, Stage::Finished) else {
            return self.deadline.exceeded();
        };
        let retracted = open.lane().retract(ticket);
        let error = match (&retracted, self.refused) {
            (Retracted::NeverRan { .. }, Some(phase)) => CallError::Unavailable { phase },
            _ => self.deadline.exceeded(),
        };
        if let Retracted::NeverRan { loan } = retracted {
            self.keep_returned(&open, loan);
        }
        self.process.room_was_freed();
        error
    }

    #[inline]
    fn abandon(&mut self) {
        if let Stage::Sent { open, ticket } = std::mem::replace(&mut self.stage, Stage::Finished) {
            open.lane().abandon(ticket);
            self.process.room_was_freed();
        }
    }

    /// The connection was lost before an answer came.
    fn retract(&mut self) -> Setback {
        let Stage::Sent { open, ticket } = std::mem::replace(&mut self.stage, Stage::Finished) else {
            return Setback::Obstacle(Obstacle::lost());
        };
        match open.lane().retract(ticket) {
            Retracted::NeverRan { loan } => {
                self.keep_returned(&open, loan);
                self.repeat_or(Obstacle::lost())
            }
            Retracted::MayHaveRun if self.idempotency.is_some() => {
                self.may_have_run = true;
                self.repeat_or(Obstacle::lost())
            }
            Retracted::MayHaveRun => Setback::End(CallError::ConnectionLost { may_have_run: true }),
        }
    }

    /// Takes care of a block that came back. A payload of our own is sent again from where it is, and its block goes back.
    fn keep_returned(&mut self, open: &Arc<OpenLane>, returned: Option<LoanBlock>) {
        if let Some(block) = returned {
            let loan = Loan::new(Arc::clone(open), block);
            if matches!(self.kept, Kept::Lent) {
                self.kept = Kept::Loan(loan);
            }
        }
    }

    /// The call is unsent again if its payload is still there; otherwise it ends as the obstacle says.
    fn repeat_or(&mut self, obstacle: Obstacle) -> Setback {
        if matches!(self.kept, Kept::Lent) {
            self.stage = Stage::Finished;
            return Setback::End(obstacle.error);
        }
        self.stage = Stage::Unsent;
        Setback::Obstacle(obstacle)
    }

    fn leave_seat(&mut self) {
        // A seat gives itself up when dropped.
        self.seat = None;
    }

    fn poll_end(&mut self, waker: &Waker) -> Poll<Result<Reply, CallError>> {
        if let Some(error) = self.seat.as_ref().and_then(Seat::take_verdict) {
            // The driving thread found that no lane can be had. It concerns only a call that is not in one.
            if matches!(self.stage, Stage::Unsent) {
                return Poll::Ready(Err(error));
            }
        }
        let mut obstacle = None;
        for _ in 0..ATTEMPTS_PER_POLL {
            let setback = match self.stage {
                Stage::Unsent => match self.send() {
                    Ok(()) => continue,
                    Err(setback) => setback,
                },
                Stage::Sent { .. } => match self.collect(waker) {
                    Ok(Some(reply)) => return Poll::Ready(Ok(reply)),
                    Ok(None) => return self.sleep_for_answer(waker),
                    Err(setback) => setback,
                },
                Stage::Finished => panic!("a pending call was polled after it had ended"),
            };
            match setback {
                Setback::End(error) => return Poll::Ready(Err(error)),
                Setback::Obstacle(found) => match self.sleep_before(found, waker, obstacle.is_none()) {
                    // Once more now that the seat is taken: what was missing may have come in between.
                    Ok(Some(found)) => obstacle = Some(found),
                    Ok(None) => return Poll::Pending,
                    Err(error) => return Poll::Ready(Err(error)),
                },
            }
        }
        Poll::Pending
    }

    /// The reply if there is one; `None` when the waker was registered for it.
    fn collect(&mut self, waker: &Waker) -> Result<Option<Reply>, Setback> {
        let Stage::Sent { open, ticket } = &self.stage else {
            return Ok(None);
        };
        match open.lane().poll(ticket, waker, Some(self.deadline.end())) {
            None => Ok(None),
            Some(WaitEnd::Answered) => self.take().map(Some),
            Some(WaitEnd::DeadlinePassed) => Err(Setback::End(self.give_up())),
            Some(WaitEnd::Lost) => Err(self.retract()),
        }
    }

    fn sleep_for_answer(&mut self, waker: &Waker) -> Poll<Result<Reply, CallError>> {
        let Stage::Sent { open, .. } = &self.stage else { return Poll::Pending };
        let need = Need::Answer(open.id());
        match self.process.sit(&mut self.seat, waker, self.deadline.end(), need) {
            Ok(()) => Poll::Pending,
            Err(error) => {
                self.abandon();
                Poll::Ready(Err(error))
            }
        }
    }

    /// Takes a seat for what is missing. The obstacle again when another attempt is due before sleeping.
    fn sleep_before(&mut self, obstacle: Obstacle, waker: &Waker, first: bool) -> Result<Option<Obstacle>, CallError> {
        if self.deadline.has_passed() {
            return Err(obstacle.error);
        }
        let need = match obstacle.kind {
            ObstacleKind::Room => Need::Room,
            ObstacleKind::Lane => Need::Lane,
        };
        self.process.sit(&mut self.seat, waker, self.deadline.end(), need)?;
        let again = first && obstacle.kind == ObstacleKind::Room;
        Ok(again.then_some(obstacle))
    }
}

impl Drop for LanePending<'_> {
    fn drop(&mut self) {
        self.abandon();
    }
}
