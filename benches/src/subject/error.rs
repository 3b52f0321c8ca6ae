//! Why what is to be measured could not be set up or did not answer.

use std::io;

use praas_client::{CallError, ConnectError, RequestError};

use crate::bars::BarError;
use crate::floors::FloorError;

/// Why what is to be measured could not be set up or did not answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SubjectError {
    /// The system refused something.
    #[error("could not {action}: {source}")]
    System {
        /// What was attempted.
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The server ended or said nothing before it was up; its words are on standard error.
    #[error("the server did not start; its message, if any, is on standard error")]
    ServerNotUp,
    /// The client could not connect.
    #[error(transparent)]
    Connect(Box<ConnectError>),
    /// The server refused a request.
    #[error(transparent)]
    Request(Box<RequestError>),
    /// A call failed.
    #[error(transparent)]
    Call(Box<CallError>),
    /// A thread could not be placed.
    #[error(transparent)]
    Placement(#[from] FloorError),
    /// A process has another number of workers than it was made with.
    #[error("{process} has {actual} workers where one was due; its output may tell: run the bar again alone")]
    Workers {
        /// The process.
        process: String,
        /// How many.
        actual: usize,
    },
    /// A function answered something else than it must.
    #[error("`{function}` answered {actual} where {expected} was due")]
    WrongAnswer {
        /// The function.
        function: &'static str,
        /// What had to come.
        expected: String,
        /// What came.
        actual: String,
    },
    /// Calls travel in another way than is to be measured.
    #[error("calls were to travel {wanted}, and travel by {found}")]
    OtherRoute {
        /// What was asked for.
        wanted: &'static str,
        /// What the client says.
        found: String,
    },
    /// The server answered a bare connection something else than it must.
    #[error("the server answered {answer} on a bare connection; its output may tell more")]
    Wire {
        /// What came.
        answer: String,
    },
    /// The steady caller ended without a report.
    #[error("the steady caller gave no report: {reason}")]
    NoReport {
        /// What it did instead.
        reason: String,
    },
    /// The system does not show what is to be counted.
    #[error("{path} is not shown to this user: {source}; run as root")]
    Hidden {
        /// What was to be read.
        path: String,
        /// Why it was not.
        source: io::Error,
    },
}

impl SubjectError {
    /// For `map_err`: the failure of `action`.
    pub(crate) fn system<E: Into<io::Error>>(action: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::System { action, source: source.into() }
    }
}

// Boxed: these name their process inline, and a failure is off the hot path.
impl From<ConnectError> for SubjectError {
    fn from(error: ConnectError) -> Self {
        Self::Connect(Box::new(error))
    }
}

impl From<RequestError> for SubjectError {
    fn from(error: RequestError) -> Self {
        Self::Request(Box::new(error))
    }
}

impl From<CallError> for SubjectError {
    fn from(error: CallError) -> Self {
        Self::Call(Box::new(error))
    }
}

impl From<SubjectError> for BarError {
    fn from(error: SubjectError) -> Self {
        Self::Subject(Box::new(error))
    }
}
