//! One message on its way to whom no message lane leads: its payload, which lies in a block of a call lane until its fate is
//! known, the request that carries it, and what an answer says of it.
//!
//! A block is in one pair of hands: the body's, or the request's. Whichever is dropped gives it back; a request that is dropped
//! is taken back first if nobody has claimed it.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use praas_protocol::control::WaitMode;
use praas_protocol::message::{
    AWAIT_ROOM_FUNCTION, Accepted, DELIVER_FUNCTION, DELIVER_NEXT_FUNCTION, PUT_FUNCTION, PUT_HEAD_BYTES_MAX, PutHead,
    codes, encode_room,
};
use praas_protocol::{Address, CallError, FunctionId, MessageId, ProcessId};
use praas_shm::client_lane::{Answer, LoanBlock, Payload, Retracted, SubmitError, Ticket, WaitEnd};

use super::error::SendError;
use crate::call_end::end_of;
use crate::invoke::CallLane;

/// A message that somebody waits for, and what became of it.
#[derive(Debug)]
pub(super) struct Delivery {
    pub(super) id: MessageId,
    end: RefCell<Option<Result<Accepted, SendError>>>,
}

impl Delivery {
    pub(super) fn new(id: MessageId) -> Rc<Self> {
        Rc::new(Self { id, end: RefCell::new(None) })
    }

    pub(super) fn finish(&self, end: Result<Accepted, SendError>) {
        *self.end.borrow_mut() = Some(end);
    }

    /// Its end, if it has come.
    pub(super) fn end(&self) -> Option<Result<Accepted, SendError>> {
        self.end.borrow().clone()
    }
}

/// A message's payload with its head, in a block of a call lane.
#[derive(Debug)]
pub(super) struct Body {
    lane: Rc<CallLane>,
    loan: Option<LoanBlock>,
    /// Bytes of the message alone.
    message_bytes: usize,
}

impl Body {
    /// A place for a message of `bytes` whose key is not known yet.
    pub(super) fn lend(lane: &Rc<CallLane>, bytes: usize) -> Result<Self, SubmitError> {
        let loan = lane.lane().loan(bytes.saturating_add(PUT_HEAD_BYTES_MAX))?;
        Ok(Self { lane: Rc::clone(lane), loan: Some(loan), message_bytes: bytes })
    }

    /// A copy of a message, ready to be sent.
    pub(super) fn copied(lane: &Rc<CallLane>, head: &PutHead<'_>, bytes: &[u8]) -> Result<Self, SubmitError> {
        let start = PutHead::bytes_before_payload(&head.key);
        let loan = lane.lane().loan(bytes.len().saturating_add(start))?;
        let mut body = Self { lane: Rc::clone(lane), loan: Some(loan), message_bytes: bytes.len() };
        let (before, place) = body.whole_mut().split_at_mut(start);
        head.encode_before_payload(before);
        place.copy_from_slice(bytes);
        Ok(body)
    }

    fn whole(&self) -> &[u8] {
        // The lanes of functions lie within a trust domain, so their blocks are read in place.
        self.loan.as_ref().and_then(|loan| self.lane.lane().loan_bytes(loan)).unwrap_or_default()
    }

    fn whole_mut(&mut self) -> &mut [u8] {
        let Self { lane, loan, .. } = self;
        loan.as_mut().and_then(|loan| lane.lane().loan_bytes_mut(loan)).unwrap_or_default()
    }

    /// The bytes of a message that was lent a place.
    pub(super) fn built(&self) -> &[u8] {
        self.whole().get(PUT_HEAD_BYTES_MAX..).unwrap_or_default()
    }

    /// The same, to be filled.
    pub(super) fn built_mut(&mut self) -> &mut [u8] {
        self.whole_mut().get_mut(PUT_HEAD_BYTES_MAX..).unwrap_or_default()
    }

    /// Puts the head before a message that was lent a place.
    pub(super) fn address(&mut self, head: &PutHead<'_>) {
        if let Some(before) = self.whole_mut().get_mut(..PUT_HEAD_BYTES_MAX) {
            head.encode_before_payload(before);
        }
    }

    /// Bytes of the message alone.
    pub(super) fn message_bytes(&self) -> usize {
        self.message_bytes
    }

    /// The block in this lane: copied there if it lies in another one, which has ended.
    fn into_loan(mut self, lane: &Rc<CallLane>) -> Result<LoanBlock, (Self, SubmitError)> {
        let is_there = Rc::ptr_eq(&self.lane, lane);
        if let Some(loan) = self.loan.take_if(|_| is_there) {
            return Ok(loan);
        }
        match lane.lane().loan(self.whole().len()) {
            Ok(mut loan) => {
                lane.lane().loan_write(&mut loan, 0, self.whole());
                Ok(loan)
            }
            Err(error) => Err((self, error)),
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if let Some(loan) = self.loan.take() {
            self.lane.lane().return_loan(loan);
        }
    }
}

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// A message is delivered, nothing else being on its way.
    Deliver,
    /// It is delivered behind others.
    DeliverNext,
    /// It is put: it may have been accepted before, or a worker takes it.
    Put,
    /// The receiver is asked to say when it has room.
    AwaitRoom,
}

impl Way {
    fn function(self) -> &'static str {
        match self {
            Self::Deliver => DELIVER_FUNCTION,
            Self::DeliverNext => DELIVER_NEXT_FUNCTION,
            Self::Put => PUT_FUNCTION,
            Self::AwaitRoom => AWAIT_ROOM_FUNCTION,
        }
    }
}

/// What a request carries beside its payload.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    pub(super) deadline_ns: u64,
    pub(super) root: u128,
}

/// A request that lies in a call lane.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) lane: Rc<CallLane>,
    pub(super) way: Way,
    ticket: Option<Ticket>,
    /// Bytes of the message that it carries.
    message_bytes: usize,
}

impl Request {
    /// Sends a message.
    pub(super) fn send(
        body: Body,
        lane: &Rc<CallLane>,
        way: Way,
        Terms { deadline_ns, root }: Terms,
    ) -> Result<Self, (Body, SubmitError)> {
        let message_bytes = body.message_bytes;
        let loan = body.into_loan(lane)?;
        match lane.lane().submit(FunctionId::of(way.function()), Payload::Loan(loan), deadline_ns, root) {
            Ok(ticket) => Ok(Self { lane: Rc::clone(lane), way, ticket: Some(ticket), message_bytes }),
            Err(mut error) => {
                let loan = error.take_loan();
                Err((Body { lane: Rc::clone(lane), loan, message_bytes }, error))
            }
        }
    }

    /// Asks for room for a message of so many bytes.
    pub(super) fn for_room(
        lane: &Rc<CallLane>,
        bytes: usize,
        Terms { deadline_ns, root }: Terms,
    ) -> Result<Self, SubmitError> {
        let (way, asked) = (Way::AwaitRoom, encode_room(bytes));
        let ticket = lane.lane().submit(FunctionId::of(way.function()), Payload::Bytes(&asked), deadline_ns, root)?;
        Ok(Self { lane: Rc::clone(lane), way, ticket: Some(ticket), message_bytes: 0 })
    }

    pub(super) fn is_answered(&self) -> bool {
        self.ticket.as_ref().is_none_or(|ticket| self.lane.lane().is_answered(ticket))
    }

    /// Whether nothing more comes of waiting for it.
    pub(super) fn is_over(&self) -> bool {
        self.is_answered() || self.lane.is_gone()
    }

    /// Polls for the answer while that pays; whether it is there.
    pub(super) fn wait_briefly(&self, mode: WaitMode) -> bool {
        self.ticket.as_ref().is_none_or(|ticket| self.lane.lane().wait_briefly(ticket, mode))
    }

    /// Waits for the answer; whether there is nothing more to wait for.
    pub(super) fn wait(&self, mode: WaitMode, within: Duration) -> bool {
        let Some(ticket) = &self.ticket else { return true };
        self.lane.lane().wait(ticket, mode, within) != WaitEnd::DeadlinePassed
    }

    /// Summons again whoever is to take it.
    pub(super) fn ring_again(&self) {
        if let Some(ticket) = &self.ticket {
            self.lane.lane().ring_again(ticket);
        }
    }

    /// What it came to, if it is over, and the message's body, unless that is lost with a lane that has ended.
    pub(super) fn end(mut self, process: ProcessId) -> (Option<Body>, Result<Accepted, CallError>) {
        if !self.is_answered() {
            let body = self.retract();
            let may_have_run = body.is_none();
            return (body, Err(CallError::ConnectionLost { may_have_run }));
        }
        let Some(ticket) = self.ticket.take() else { return (None, Err(CallError::Cancelled)) };
        let mut answer = self.lane.lane().take_keeping_loan(ticket);
        let body = answer.returned_loan.take().map(|loan| self.body(Some(loan)));
        (body, self.said(answer, process))
    }

    fn said(&self, answer: Answer, process: ProcessId) -> Result<Accepted, CallError> {
        let payload = end_of(answer, self.way.function(), || process)?;
        if self.way == Way::AwaitRoom {
            return Ok(Accepted::Now);
        }
        let accepted = payload.as_slice().and_then(Accepted::from_answer);
        accepted.ok_or(CallError::MalformedReply { what: "it does not say what became of the message" })
    }

    /// Takes it back: the body again if it certainly was not taken.
    pub(super) fn retract(mut self) -> Option<Body> {
        match self.lane.lane().retract(self.ticket.take()?) {
            Retracted::NeverRan { loan } => Some(self.body(loan)),
            Retracted::MayHaveRun => None,
        }
    }

    fn body(&self, loan: Option<LoanBlock>) -> Body {
        Body { lane: Rc::clone(&self.lane), loan, message_bytes: self.message_bytes }
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take()
            && let Retracted::NeverRan { loan: Some(loan) } = self.lane.lane().retract(ticket)
        {
            self.lane.lane().return_loan(loan);
        }
    }
}

/// What an answer says of a message.
#[derive(Debug)]
pub(super) enum Verdict {
    /// Its fate is known.
    Ended(Result<Accepted, SendError>),
    /// It was certainly not accepted by this request, for want of room.
    Full(String),
    /// It was certainly not accepted by this request: what leads to its receiver is not ready yet.
    Busy,
    /// It was certainly not accepted by this request; it may be by a later one.
    Later(CallError),
    /// It may have been accepted by this request.
    Doubtful(CallError),
}

/// What the end of a request says of the message that it carried to `to`; `was_doubtful` if an earlier one may have been
/// accepted.
pub(super) fn verdict(
    end: Result<Accepted, CallError>,
    way: Way,
    was_doubtful: bool,
    to: &Address,
    id: MessageId,
) -> Verdict {
    let refused =
        |error: SendError| Verdict::Ended(Err(if was_doubtful { SendError::Unknown { to: *to, id } } else { error }));
    let error = match end {
        Ok(accepted) => return Verdict::Ended(Ok(accepted)),
        Err(error) => error,
    };
    match error {
        CallError::FunctionFailed { code: codes::MAILBOX_FULL, message } => Verdict::Full(message),
        CallError::FunctionFailed { code: codes::BUSY, .. } => Verdict::Busy,
        CallError::Unavailable { .. }
        | CallError::Overloaded { .. }
        | CallError::Interrupted
        | CallError::ConnectionLost { may_have_run: false } => Verdict::Later(error),
        // A gateway answers so what it has not sent.
        CallError::DeadlineExceeded { .. } if way != Way::Put => Verdict::Later(error),
        CallError::FunctionFailed { code: codes::TOO_OLD, .. } => {
            Verdict::Ended(Err(SendError::TooOld { to: *to, id }))
        }
        CallError::UnknownProcess { .. } => refused(SendError::unknown(*to)),
        CallError::PayloadTooLarge { limit_bytes, actual_bytes } => {
            refused(SendError::TooLarge { limit_bytes, actual_bytes })
        }
        CallError::FunctionFailed { message, .. } => refused(SendError::Unavailable { to: *to, reason: message }),
        CallError::Unauthorized { .. } | CallError::UnknownFunction { .. } => {
            refused(SendError::Unavailable { to: *to, reason: error.to_string() })
        }
        _ => Verdict::Doubtful(error),
    }
}
