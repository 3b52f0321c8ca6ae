//! From an answer in a reply cell to what its caller gets.
//!
//! Everything in an answer was written by other workers, so each number is checked before it is believed.

use praas_protocol::limits::ERROR_MESSAGE_BYTES_MAX;
use praas_protocol::{CallError, Outcome, Phase, ProcessId};
use praas_shm::client_lane::{Answer, AnswerPayload, SubmitError};

/// The output in `answer`, or the error that it tells of, of a call of this function of a process.
pub(crate) fn end_of(
    answer: Answer,
    function: &str,
    process: impl FnOnce() -> ProcessId,
) -> Result<AnswerPayload, CallError> {
    let Answer { outcome_code, detail, more, payload, .. } = answer;
    let Some(payload) = payload else {
        return Err(CallError::MalformedReply { what: "its payload lies outside the lane" });
    };
    let Some(outcome) = Outcome::from_code(outcome_code) else {
        return Err(CallError::MalformedReply { what: "its outcome is unknown" });
    };
    let text = || {
        let mut bytes = bytes_of(&payload);
        bytes.truncate(ERROR_MESSAGE_BYTES_MAX);
        String::from_utf8_lossy(&bytes).into_owned()
    };
    Err(match outcome {
        Outcome::Ok => return Ok(payload),
        Outcome::FunctionFailed => CallError::FunctionFailed { code: detail, message: text() },
        Outcome::FunctionPanicked => CallError::FunctionPanicked { message: text() },
        Outcome::WorkerLost => CallError::WorkerLost,
        Outcome::UnknownFunction => CallError::UnknownFunction { function: function.to_owned() },
        Outcome::PayloadTooLarge => {
            CallError::PayloadTooLarge { limit_bytes: detail.into(), actual_bytes: more.into() }
        }
        Outcome::Overloaded => CallError::Overloaded { what: "the process", used: more.into(), limit: detail.into() },
        Outcome::Unavailable => {
            CallError::Unavailable { phase: Phase::from_word(detail.into()).unwrap_or(Phase::Closed) }
        }
        Outcome::Unauthorized => CallError::Unauthorized { right: "invoke" },
        Outcome::DeadlineExceeded => CallError::DeadlineExceeded { deadline_ns: 0 },
        Outcome::Cancelled => CallError::Cancelled,
        Outcome::Interrupted => CallError::Interrupted,
        Outcome::Malformed => CallError::MalformedReply { what: "the worker could not read the request" },
        Outcome::ReplyLost => CallError::ReplyLost { free_bytes: detail.into(), actual_bytes: more.into() },
        Outcome::KeyReused => CallError::KeyReused,
        Outcome::ConnectionLost => CallError::ConnectionLost { may_have_run: detail != 0 },
        Outcome::UnknownProcess => CallError::UnknownProcess { process: process() },
        Outcome::Moved => CallError::MalformedReply { what: "a worker said that its process moved" },
    })
}

/// Why nothing was submitted, as its caller would be told.
pub(crate) fn of_submit_error(error: &SubmitError) -> CallError {
    match error {
        SubmitError::Full { what, used, limit, .. } => {
            CallError::Overloaded { what: what.name(), used: *used, limit: *limit }
        }
        SubmitError::TooLarge { limit_bytes, actual_bytes, .. } => {
            CallError::PayloadTooLarge { limit_bytes: *limit_bytes, actual_bytes: *actual_bytes }
        }
        SubmitError::Unavailable { phase, .. } => CallError::Unavailable { phase: *phase },
        _ => CallError::ConnectionLost { may_have_run: false },
    }
}

/// The bytes of an answer in memory of our own.
pub(crate) fn bytes_of(payload: &AnswerPayload) -> Vec<u8> {
    let mut bytes = vec![0; payload.len()];
    payload.copy_to(&mut bytes);
    bytes
}
