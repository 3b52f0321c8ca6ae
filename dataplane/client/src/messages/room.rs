//! Calls to the server's room for a session, and what their ends mean whatever was asked.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use praas_protocol::CallError;
use praas_protocol::message::codes;

use super::error::SessionError;
use super::registration::Registration;
use crate::backoff::Backoff;
use crate::deadline::far_end;
use crate::function::Function;
use crate::limits::{SESSION_GRACE, SESSION_MARGIN, SESSION_PAUSE_MAX};
use crate::loan::Loan;
use crate::payload::Payload;
use crate::process::Process;
use crate::reply::Reply;

/// The room, and the way to it.
pub(super) struct Room {
    pub(super) registration: Arc<Registration>,
    /// The lane or handle that leads to the room, used as one to a process.
    pub(super) way: Process,
}

/// Why a call to the room gave no answer of its function.
#[derive(Debug)]
pub(super) enum Setback {
    /// Another attempt has a chance.
    Again {
        /// Whether this one may have been carried out.
        may_have_run: bool,
        /// What went wrong.
        error: CallError,
    },
    /// The server's own word that the time is over.
    TimeOver,
    /// Nobody answered, although there was time for it.
    Unanswered,
    /// The function refused.
    Failed { code: u32, message: String },
    /// There is no way to the session.
    NoWay(SessionError),
    /// Any other end.
    Ended(CallError),
}

impl Room {
    /// Calls a function that may take `limit`, and waits a little longer for its answer.
    pub(super) fn ask<'a>(
        &self,
        function: Function<'static>,
        payload: impl Into<Payload<'a>>,
        limit: Duration,
    ) -> Result<Reply, Setback> {
        if let Some(ending) = self.registration.ending() {
            return Err(Setback::NoWay(ending));
        }
        let limit = limit.saturating_add(SESSION_MARGIN);
        let patience = limit.saturating_add(SESSION_GRACE);
        let began = Instant::now();
        let ended = self.way.invoke_outlasting(function, payload.into(), limit, SESSION_GRACE);
        ended.map_err(|error| match error {
            CallError::DeadlineExceeded { .. } if began.elapsed() >= patience => Setback::Unanswered,
            CallError::DeadlineExceeded { .. } => Setback::TimeOver,
            error => self.setback(error),
        })
    }

    /// Memory of the way for a payload; at `end` at the latest there is none.
    pub(super) fn loan(&self, bytes: usize, end: Instant) -> Result<Loan, Setback> {
        if let Some(ending) = self.registration.ending() {
            return Err(Setback::NoWay(ending));
        }
        let found = if self.way.has_way() { Ok(()) } else { self.way.find_way(end) };
        found.and_then(|()| self.way.loan(bytes)).map_err(|error| self.setback(error))
    }

    fn setback(&self, error: CallError) -> Setback {
        let no_way = matches!(
            error,
            CallError::ConnectionLost { may_have_run: false }
                | CallError::Unauthorized { .. }
                | CallError::Overloaded { .. }
                | CallError::UnknownProcess { .. }
        );
        if no_way && let Some(trouble) = self.registration.trouble() {
            return Setback::NoWay(trouble);
        }
        match error {
            CallError::FunctionFailed { code: codes::TAKEN_OVER, .. } => Setback::NoWay(self.registration.take_over()),
            CallError::FunctionFailed { code, message } => Setback::Failed { code, message },
            CallError::ConnectionLost { may_have_run } => Setback::Again { may_have_run, error },
            CallError::Unavailable { .. } | CallError::Overloaded { .. } => {
                Setback::Again { may_have_run: false, error }
            }
            CallError::WorkerLost | CallError::Interrupted | CallError::ReplyLost { .. } => {
                Setback::Again { may_have_run: true, error }
            }
            error => Setback::Ended(error),
        }
    }
}

/// The time for which something is tried again.
pub(super) struct Attempts {
    began: Instant,
    end: Instant,
    backoff: Backoff,
}

impl Attempts {
    pub(super) fn within(limit: Duration) -> Self {
        let began = Instant::now();
        Self { began, end: far_end(began, limit), backoff: Backoff::new(SESSION_PAUSE_MAX) }
    }

    pub(super) fn end(&self) -> Instant {
        self.end
    }

    pub(super) fn left(&self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }

    /// How long it was tried.
    pub(super) fn waited(&self) -> Duration {
        self.began.elapsed()
    }

    /// Sleeps before the next attempt; false if the time is over.
    pub(super) fn pause(&mut self) -> bool {
        let left = self.left();
        if left.is_zero() {
            return false;
        }
        thread::sleep(self.backoff.pause().min(left));
        true
    }
}

/// A time as it travels: no longer than a number holds, and 0 only for none.
pub(super) fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
