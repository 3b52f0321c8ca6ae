//! A call on its way over the network: waited for, polled as a future, or dropped, which cancels it.
//!
//! Invariants
//! 1. A ticket is settled and taken, or abandoned, exactly once; dropping abandons it.
//! 2. The request is sent again only when it certainly never ran: it was refused, not taken, or never sent as a whole; one with
//!    an idempotency key also when it may have run.
//! 3. Every wait ends at the call's deadline.

use std::sync::Arc;
use std::task::{Poll, Waker};

use praas_protocol::{CallError, FunctionId, Idempotency, Phase, ProcessId};

use crate::backoff::Backoff;
use crate::deadline::Deadline;
use crate::error::LaneVerdict;
use crate::function::{Function, KeptName};
use crate::limits::{BACKOFF_REFUSED_MAX, MOVED_HOPS_MAX};
use crate::payload::{Given, Kept, Payload};
use crate::remote::binding::Binding;
use crate::remote::calls::{Settlement, Ticket};
use crate::remote::outcome::{End, end_of};
use crate::remote::process::{RemoteProcess, Seat};
use crate::remote::state::Full;
use crate::remote::writing::SendError;
use crate::reply::Reply;

/// Attempts within one poll, so that a poll stays short.
const ATTEMPTS_PER_POLL: usize = 4;

/// The call.
pub(crate) struct RemotePending<'a> {
    process: Arc<RemoteProcess>,
    function: FunctionId,
    name: KeptName,
    deadline: Deadline,
    kept: Kept<'a>,
    stage: Stage,
    /// Whether an earlier attempt was refused.
    refused: bool,
    /// What the last attempt failed for; all of these say that nothing ran.
    obstacle: Option<CallError>,
    hops: usize,
    /// With a key it is sent again even if it may have run.
    idempotency: Option<Idempotency>,
    /// An attempt was lost that may have run.
    may_have_run: bool,
    place: Place,
}

enum Stage {
    Unsent,
    Sent { binding: Arc<Binding>, ticket: Ticket },
    Finished,
}

/// Where a future waits while it is unsent.
enum Place {
    None,
    Room { binding: Arc<Binding>, number: u64 },
    Way(Seat),
}

/// Why a call is not sent.
enum Setback {
    /// Room comes back.
    Room { binding: Arc<Binding>, full: Full },
    /// Somebody else writes; only for those who do not wait.
    Busy { binding: Arc<Binding> },
    /// There is no way, or the process refuses: at the deadline it ends so.
    Way(CallError),
    /// The call has ended.
    End(CallError),
}

impl<'a> RemotePending<'a> {
    fn new(process: &Arc<RemoteProcess>, function: Function<'_>, kept: Kept<'a>, deadline: Deadline) -> Self {
        Self {
            process: Arc::clone(process),
            function: function.id(),
            name: KeptName::new(function.name()),
            deadline,
            kept,
            stage: Stage::Unsent,
            refused: false,
            obstacle: None,
            hops: 0,
            idempotency: None,
            may_have_run: false,
            place: Place::None,
        }
    }

    /// A call that keeps its caller's borrow.
    pub(crate) fn borrowing(
        process: &Arc<RemoteProcess>,
        function: Function<'_>,
        payload: Payload<'a>,
        deadline: Deadline,
    ) -> Self {
        Self::new(process, function, Kept::borrowing(private(payload)), deadline)
    }

    /// A call that keeps nothing of its caller's, sent at once; obstacles other than a full connection are overcome here.
    pub(crate) fn started(
        process: &Arc<RemoteProcess>,
        function: Function<'_>,
        payload: Payload<'_>,
        deadline: Deadline,
        idempotency: Option<Idempotency>,
    ) -> Result<RemotePending<'static>, CallError> {
        let kept = Kept::detached(private(payload));
        let mut pending = RemotePending::new(process, function, kept, deadline).keyed(idempotency);
        pending.send_patiently(false)?;
        if let Stage::Sent { binding, .. } = &pending.stage {
            binding.link().started();
        }
        Ok(pending)
    }

    /// The call with an idempotency key, or with none.
    pub(crate) fn keyed(mut self, idempotency: Option<Idempotency>) -> Self {
        self.idempotency = idempotency;
        self
    }

    pub(crate) fn process_id(&self) -> ProcessId {
        self.process.id()
    }

    pub(crate) fn stage_name(&self) -> &'static str {
        match self.stage {
            Stage::Unsent => "unsent",
            Stage::Sent { .. } => "sent",
            Stage::Finished => "finished",
        }
    }

    pub(crate) fn function_name(&self) -> &KeptName {
        &self.name
    }

    /// Whether waiting would return at once.
    pub(crate) fn is_done(&self) -> bool {
        match &self.stage {
            Stage::Unsent => false,
            Stage::Sent { binding, ticket } => binding.link().is_settled(ticket),
            Stage::Finished => true,
        }
    }

    /// Waits for the end of a call whatever its stage, sending it again where that is allowed.
    pub(crate) fn finish(&mut self) -> Result<Reply, CallError> {
        self.finish_attempts().map_err(|error| self.after_lost(error))
    }

    /// The error of a call of which an earlier attempt was lost: a later one that never ran does not settle it.
    fn after_lost(&self, error: CallError) -> CallError {
        if self.may_have_run { error.of_repeated_call() } else { error }
    }

    fn finish_attempts(&mut self) -> Result<Reply, CallError> {
        self.place = Place::None;
        loop {
            self.send_patiently(true)?;
            let Stage::Sent { binding, ticket } = &self.stage else { return Err(self.deadline.exceeded()) };
            let end = binding.link().wait(ticket, &mut self.deadline);
            match self.ended(end) {
                Ok(reply) => return Ok(reply),
                Err(setback) => self.overcome(setback, &mut Backoff::new(BACKOFF_REFUSED_MAX))?,
            }
        }
    }

    /// Goes on with a call that the direct path could not send.
    #[cold]
    pub(crate) fn finish_refused(&mut self, binding: &Arc<Binding>, error: SendError) -> Result<Reply, CallError> {
        let setback = self.setback(binding, error);
        self.overcome(setback, &mut Backoff::new(BACKOFF_REFUSED_MAX))?;
        self.finish()
    }

    /// Goes on with a call of the direct path that ended without a reply, or whose deadline passed.
    #[cold]
    pub(crate) fn finish_ended(
        &mut self,
        binding: Arc<Binding>,
        ticket: Ticket,
        end: Option<Settlement>,
    ) -> Result<Reply, CallError> {
        self.stage = Stage::Sent { binding, ticket };
        match self.ended(end) {
            Ok(reply) => Ok(reply),
            Err(setback) => {
                self.overcome(setback, &mut Backoff::new(BACKOFF_REFUSED_MAX))?;
                self.finish()
            }
        }
    }

    fn send_patiently(&mut self, waits_for_room: bool) -> Result<(), CallError> {
        let mut backoff = Backoff::new(BACKOFF_REFUSED_MAX);
        while matches!(self.stage, Stage::Unsent) {
            match self.send(None) {
                Ok(()) => break,
                Err(Setback::Room { full, .. }) if !waits_for_room => return Err(overloaded(&full)),
                Err(setback) => self.overcome(setback, &mut backoff)?,
            }
        }
        Ok(())
    }

    /// One attempt. With a waker nothing is waited for.
    fn send(&mut self, waker: Option<&Waker>) -> Result<(), Setback> {
        let binding = self.process.binding();
        if !binding.is_usable() {
            let never_ran = CallError::ConnectionLost { may_have_run: false };
            return Err(Setback::Way(self.obstacle.clone().unwrap_or(never_ran)));
        }
        let payload = self.kept.bytes().unwrap_or_default();
        let (limit_bytes, actual_bytes) = (u64::from(binding.payload_bytes_max()), payload.len() as u64);
        if actual_bytes > limit_bytes {
            return Err(Setback::End(CallError::PayloadTooLarge { limit_bytes, actual_bytes }));
        }
        let (link, seat) = (binding.link(), binding.seat());
        let sent = match waker {
            None => link.send_call(seat, self.function, self.idempotency, [&[], payload], &mut self.deadline),
            Some(waker) => link.post_call(seat, self.function, self.idempotency, payload, &mut self.deadline, waker),
        };
        match sent {
            Ok(ticket) => {
                self.stage = Stage::Sent { binding, ticket };
                Ok(())
            }
            Err(error) => Err(self.setback(&binding, error)),
        }
    }

    fn setback(&self, binding: &Arc<Binding>, error: SendError) -> Setback {
        match error {
            SendError::Full(full) if full.comes_back => Setback::Room { binding: Arc::clone(binding), full },
            SendError::Full(full) => Setback::End(overloaded(&full)),
            SendError::Busy => Setback::Busy { binding: Arc::clone(binding) },
            SendError::Over => Setback::Way(CallError::ConnectionLost { may_have_run: false }),
            SendError::TimedOut | SendError::Interrupted => Setback::End(self.late()),
        }
    }

    /// The error of a call whose deadline passed: what it was waiting for, if it certainly never ran.
    fn late(&self) -> CallError {
        match (&self.obstacle, &self.stage) {
            (Some(obstacle), Stage::Unsent) => obstacle.clone(),
            _ => self.deadline.exceeded(),
        }
    }

    /// What the end of an attempt means. `None`: the deadline passed first.
    fn ended(&mut self, end: Option<Settlement>) -> Result<Reply, Setback> {
        let Stage::Sent { binding, ticket } = std::mem::replace(&mut self.stage, Stage::Finished) else {
            return Err(Setback::End(self.deadline.exceeded()));
        };
        let never_ran = CallError::ConnectionLost { may_have_run: false };
        match end {
            None => {
                binding.link().abandon(ticket);
                Err(Setback::End(self.deadline.exceeded()))
            }
            Some(Settlement::Response(response, bytes)) => {
                let (name, deadline) = (&self.name, &self.deadline);
                let from_server = !binding.is_dedicated();
                match end_of(response, bytes, from_server, || name.text(), || deadline.exceeded()) {
                    End::Replied(reply) => Ok(reply),
                    End::Failed(error) => Err(Setback::End(error)),
                    End::Refused(phase) => Err(self.repeat_refused(&binding, phase)),
                    End::Moved(to) => Err(self.follow(&binding, to)),
                }
            }
            Some(Settlement::NotTaken | Settlement::NeverSent) => {
                self.stage = Stage::Unsent;
                Err(Setback::Way(never_ran))
            }
            Some(Settlement::Lost) if self.idempotency.is_some() => {
                (self.stage, self.may_have_run) = (Stage::Unsent, true);
                Err(Setback::Way(CallError::ConnectionLost { may_have_run: true }))
            }
            Some(Settlement::Lost) => Err(Setback::End(CallError::ConnectionLost { may_have_run: true })),
            Some(Settlement::Answer(_)) => {
                Err(Setback::End(CallError::MalformedReply { what: "a call was answered as a question" }))
            }
        }
    }

    fn repeat_refused(&mut self, binding: &Binding, phase: Phase) -> Setback {
        if phase == Phase::Closed {
            binding.close();
        }
        self.refused = true;
        self.stage = Stage::Unsent;
        Setback::Way(CallError::Unavailable { phase })
    }

    fn follow(&mut self, binding: &Binding, to: String) -> Setback {
        self.hops += 1;
        if self.hops > MOVED_HOPS_MAX || self.process.moved(binding, &to).is_err() {
            return Setback::End(CallError::Moved { to });
        }
        self.stage = Stage::Unsent;
        Setback::Way(CallError::Moved { to })
    }

    /// Waits until another attempt has a chance; an error when the call has ended.
    #[cold]
    fn overcome(&mut self, setback: Setback, backoff: &mut Backoff) -> Result<(), CallError> {
        let error = match setback {
            Setback::End(error) => {
                self.stage = Stage::Finished;
                return Err(error);
            }
            Setback::Room { binding, full } => {
                if binding.link().wait_for_room(&full, &mut self.deadline) {
                    return Ok(());
                }
                return Err(overloaded(&full));
            }
            Setback::Busy { .. } => return Ok(()),
            Setback::Way(error) => error,
        };
        self.obstacle = Some(error.clone());
        let end = self.deadline.end();
        if self.deadline.has_passed() {
            return Err(error);
        }
        if !self.process.has_way() {
            match self.process.find_way(end) {
                Ok(()) if !self.refused => return Ok(()),
                // A process that is just being restarted: without a pause one handle would follow another.
                Ok(()) => {}
                Err(LaneVerdict::Final(error)) => return Err(error),
                Err(LaneVerdict::Later(error)) if self.deadline.has_passed() => return Err(error),
                Err(LaneVerdict::Later(_)) => {}
            }
        }
        std::thread::sleep(backoff.pause().min(self.deadline.remaining()));
        Ok(())
    }

    /// The future's poll.
    pub(crate) fn poll(&mut self, waker: &Waker) -> Poll<Result<Reply, CallError>> {
        let end = self.poll_end(waker).map_err(|error| self.after_lost(error));
        if end.is_ready() {
            self.close();
        }
        end
    }

    fn poll_end(&mut self, waker: &Waker) -> Poll<Result<Reply, CallError>> {
        if let Place::Way(seat) = &self.place
            && let Some(error) = seat.take_verdict()
            && matches!(self.stage, Stage::Unsent)
        {
            return Poll::Ready(Err(error));
        }
        for _ in 0..ATTEMPTS_PER_POLL {
            let setback = match &self.stage {
                Stage::Unsent if self.deadline.has_passed() => return Poll::Ready(Err(self.late())),
                Stage::Unsent => match self.send(Some(waker)) {
                    Ok(()) => {
                        self.leave_place();
                        continue;
                    }
                    Err(setback) => setback,
                },
                Stage::Sent { binding, ticket } => {
                    let end = self.deadline.end();
                    match binding.link().poll(ticket, waker, end) {
                        Err(error) => return Poll::Ready(Err(error)),
                        Ok(None) if !self.deadline.has_passed() => return Poll::Pending,
                        Ok(end) => match self.ended(end) {
                            Ok(reply) => return Poll::Ready(Ok(reply)),
                            Err(setback) => setback,
                        },
                    }
                }
                Stage::Finished => panic!("a pending call was polled after it had ended"),
            };
            match self.take_place(setback, waker) {
                Ok(true) => return Poll::Pending,
                Ok(false) => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        // Others are served first; this one comes again.
        waker.wake_by_ref();
        Poll::Pending
    }

    /// Waits where `setback` says; false if another attempt is due at once.
    fn take_place(&mut self, setback: Setback, waker: &Waker) -> Result<bool, CallError> {
        let end = self.deadline.end();
        let (binding, seen, error) = match setback {
            Setback::End(error) => return Err(error),
            Setback::Room { binding, full } => (binding, Some(full.seen), overloaded(&full)),
            Setback::Busy { binding } => {
                let (used, limit) = (1, 1);
                let error = CallError::Overloaded { what: "the way into the connection's socket", used, limit };
                (binding, None, error)
            }
            Setback::Way(error) => {
                if self.deadline.has_passed() {
                    return Err(error);
                }
                self.obstacle = Some(error);
                if !matches!(self.place, Place::Way(_)) {
                    self.leave_place();
                }
                let mut seat = match std::mem::replace(&mut self.place, Place::None) {
                    Place::Way(seat) => Some(seat),
                    _ => None,
                };
                let sitting = self.process.sit(&mut seat, waker, end);
                self.place = seat.map_or(Place::None, Place::Way);
                return sitting.map(|()| true);
            }
        };
        if self.deadline.has_passed() {
            return Err(error);
        }
        self.obstacle = Some(error);
        self.leave_place();
        match binding.link().queue_for_room(waker, end, seen)? {
            Some(number) => {
                self.place = Place::Room { binding, number };
                Ok(true)
            }
            None => Ok(false),
        }
    }

    fn leave_place(&mut self) {
        if let Place::Room { binding, number } = std::mem::replace(&mut self.place, Place::None) {
            binding.link().leave_queue(number);
        }
    }

    /// The call's end was given to its caller.
    pub(crate) fn close(&mut self) {
        self.leave_place();
        if let Stage::Sent { binding, ticket } = std::mem::replace(&mut self.stage, Stage::Finished) {
            binding.link().abandon(ticket);
        }
    }
}

impl Drop for RemotePending<'_> {
    fn drop(&mut self) {
        self.close();
    }
}

fn overloaded(full: &Full) -> CallError {
    CallError::Overloaded { what: full.what, used: full.used, limit: full.limit }
}

/// A loan's content in memory of our own: a socket sends from there.
fn private(payload: Payload<'_>) -> Payload<'_> {
    match payload.0 {
        Given::Loan(loan) => Payload(Given::Owned(loan.into_content())),
        _ => payload,
    }
}
