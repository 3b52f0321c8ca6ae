//! What an answer means: a reply, an error for the caller, or a refusal after which the call is sent again.
//!
//! Everything in an answer was written by tenant code, so each number is checked before it is believed.

use praas_protocol::limits::ERROR_MESSAGE_BYTES_MAX;
use praas_protocol::{CallError, Outcome, Phase};
use praas_shm::client_lane::{Answer, AnswerPayload, LoanBlock};

use crate::reply::{Reply, private_copy};

/// The end of one attempt.
pub(crate) enum Settled {
    /// The function's output.
    Replied(Reply),
    /// It never ran: send it again.
    Refused { phase: Phase, returned: Option<LoanBlock> },
    /// The call's end.
    Failed(CallError),
}

/// What `answer` says. `function` and `exceeded` make the texts of the errors that need them.
pub(crate) fn settle(
    answer: Answer,
    function: impl FnOnce() -> String,
    exceeded: impl FnOnce() -> CallError,
) -> Settled {
    let Answer { outcome_code, detail, more, payload, returned_loan } = answer;
    let error = match Outcome::from_code(outcome_code) {
        Some(Outcome::Ok) => match payload {
            Some(payload) => return Settled::Replied(Reply::new(payload)),
            None => CallError::MalformedReply { what: "its payload lies outside the lane" },
        },
        Some(Outcome::Unavailable) => {
            let phase = Phase::from_word(u64::from(detail)).unwrap_or(Phase::Draining);
            return Settled::Refused { phase, returned: returned_loan };
        }
        outcome => failure(outcome, detail, more, || message(payload.as_ref()), function, exceeded),
    };
    Settled::Failed(error)
}

/// The error that an outcome other than `Ok` and `Unavailable` means for the caller.
pub(crate) fn failure(
    outcome: Option<Outcome>,
    detail: u32,
    more: u32,
    message: impl FnOnce() -> String,
    function: impl FnOnce() -> String,
    exceeded: impl FnOnce() -> CallError,
) -> CallError {
    match outcome {
        Some(Outcome::FunctionFailed) => CallError::FunctionFailed { code: detail, message: message() },
        Some(Outcome::FunctionPanicked) => CallError::FunctionPanicked { message: message() },
        Some(Outcome::WorkerLost) => CallError::WorkerLost,
        Some(Outcome::UnknownFunction) => CallError::UnknownFunction { function: function() },
        Some(Outcome::PayloadTooLarge) => {
            CallError::PayloadTooLarge { limit_bytes: u64::from(detail), actual_bytes: u64::from(more) }
        }
        Some(Outcome::Overloaded) => {
            CallError::Overloaded { what: "the process", used: u64::from(more), limit: u64::from(detail) }
        }
        Some(Outcome::Unauthorized) => CallError::Unauthorized { right: "invoke" },
        Some(Outcome::DeadlineExceeded) => exceeded(),
        Some(Outcome::Cancelled) => CallError::Cancelled,
        Some(Outcome::Interrupted) => CallError::Interrupted,
        Some(Outcome::Malformed) => CallError::MalformedReply { what: "the worker could not read the request" },
        Some(Outcome::ReplyLost) => {
            CallError::ReplyLost { free_bytes: u64::from(detail), actual_bytes: u64::from(more) }
        }
        Some(Outcome::KeyReused) => CallError::KeyReused,
        Some(Outcome::ConnectionLost) => CallError::ConnectionLost { may_have_run: detail != 0 },
        // Only servers know where processes live, and a lane's answers are written by workers.
        Some(Outcome::Moved) => CallError::MalformedReply { what: "a worker said that its process moved" },
        Some(Outcome::UnknownProcess) => {
            CallError::MalformedReply { what: "the process that was called said that there is none" }
        }
        Some(Outcome::Ok | Outcome::Unavailable) | None => {
            CallError::MalformedReply { what: "its outcome is none that exists" }
        }
    }
}

/// A message for people, cut where a function wrote more than one may.
fn message(payload: Option<&AnswerPayload>) -> String {
    let mut bytes = payload.map(private_copy).unwrap_or_default();
    bytes.truncate(ERROR_MESSAGE_BYTES_MAX);
    String::from_utf8_lossy(&bytes).into_owned()
}
