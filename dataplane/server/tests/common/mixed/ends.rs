//! How an operation of the load ended, as far as its caller can know.

use praas_client::{CallError, Reply, StateError};

use super::functions::{GIVEN_BACK, LET_GO, REFUSED, UNSURE, WRONG};

/// What became of an operation.
#[derive(Debug)]
pub(crate) enum End<T> {
    /// All of it happened.
    Done(T),
    /// It failed after it had let a message go, which the words name.
    LetGo(String),
    /// Nothing of it happened.
    Refused(String),
    /// All of it happened, or nothing, or a part.
    Unsure,
}

impl End<Reply> {
    /// The end of a call. A call that says what must never be, or that has no end in time, fails the test.
    pub(crate) fn of(what: &str, result: Result<Reply, CallError>) -> Self {
        match result {
            Ok(reply) => Self::Done(reply),
            Err(error) => Self::of_error(what, error),
        }
    }
}

impl<T> End<T> {
    fn of_error(what: &str, error: CallError) -> Self {
        let words = error.to_string();
        match error {
            CallError::FunctionFailed { code: WRONG, message } => panic!("{what}: {message}"),
            CallError::FunctionFailed { code: UNSURE, .. } => Self::Unsure,
            CallError::FunctionFailed { code: LET_GO, message } => Self::LetGo(message),
            CallError::FunctionFailed { code: REFUSED | GIVEN_BACK, message } => Self::Refused(message),
            CallError::WorkerLost | CallError::ConnectionLost { may_have_run: true } => Self::Unsure,
            CallError::ConnectionLost { may_have_run: false }
            | CallError::Unavailable { .. }
            | CallError::Overloaded { .. } => Self::Refused(words),
            error => panic!("{what} ended as {error:?}"),
        }
    }

    /// The end of an operation on state from outside.
    pub(crate) fn of_state(what: &str, result: Result<T, StateError>) -> Self {
        match result {
            Ok(done) => Self::Done(done),
            Err(StateError::Full { message } | StateError::Busy { message }) => Self::Refused(message),
            Err(StateError::Call(error)) => Self::of_error(what, error),
            Err(error) => panic!("{what} ended as {error:?}"),
        }
    }

    pub(crate) fn map<U>(self, change: impl FnOnce(T) -> U) -> End<U> {
        match self {
            Self::Done(done) => End::Done(change(done)),
            Self::LetGo(words) => End::LetGo(words),
            Self::Refused(words) => End::Refused(words),
            Self::Unsure => End::Unsure,
        }
    }
}
