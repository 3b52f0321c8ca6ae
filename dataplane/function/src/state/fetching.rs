//! What is still in storage since the process has slept: a call that meets it asks the server to bring it back, waits, and goes on.
//!
//! ```text
//! read ──▶ its page or its value is away ──▶ server: fetch ──▶ installed ──▶ read again
//! put, delete ──▶ its page is away ──▶ the same, once a page
//! ```
//!
//! Objects that are there cost what they always cost: that one is away is found out where it was looked for in vain. What came back
//! stays, so each page and each value is asked for once in the life of a process, or by several calls at once. A call waits until its
//! deadline, at most [`STATE_FETCH_MAX`], and stands aside meanwhile; an answer that comes later is read and forgotten.

use std::time::Instant;

use praas_protocol::Key;
use praas_protocol::control::{StateWanted, WorkerCommand, WorkerMessage};
use praas_shm::objects::{self, Namespace};

use super::error::StateError;
use crate::context::Context;
use crate::limits::STATE_FETCH_MAX;
use crate::mail::answered_request;
use crate::standing_aside::StandingAside;

/// Tries of one operation: it needs a page and then a value, and each may be what another one is fetched for.
const TRIES_MAX: u32 = 4;

impl Context<'_> {
    /// An operation that met something that is away, again until it is there. `first` is what it met.
    #[cold]
    pub(crate) fn insist_on_state<R>(
        &self,
        first: StateError,
        wanted: &StateWanted,
        mut operation: impl FnMut() -> Result<R, StateError>,
    ) -> Result<R, StateError> {
        let mut met = first;
        for _ in 0..TRIES_MAX {
            if !met.is_away() {
                break;
            }
            self.fetch_state(wanted)?;
            match operation() {
                Err(error) => met = error,
                done => return done,
            }
        }
        Err(met)
    }

    /// Has the page of a key come back, if it is away, so that its object can be put or deleted.
    #[inline]
    pub(crate) fn ensure_state_known(&self, key: Key<'_>) -> Result<(), StateError> {
        let known = || {
            let memory_key = objects::Key::of(Namespace::USER, key);
            Ok(self.state_room().store().ensure_known(&memory_key)?)
        };
        known().or_else(|error| self.insist_on_state(error, &of_object(key, false), known))
    }

    /// Asks the server for what is away, and waits for it.
    pub(crate) fn fetch_state(&self, wanted: &StateWanted) -> Result<(), StateError> {
        let failed = |reason: String| StateError::Away { object: name_of(wanted), reason };
        let (mail, request) = (self.mail(), self.mail().next_request());
        let asked = mail.send(&WorkerMessage::StateFetch { request, wanted: wanted.clone() });
        asked.map_err(|error| failed(error.to_string()))?;
        let (aside, began) = (StandingAside::begin(self), Instant::now());
        loop {
            let left = STATE_FETCH_MAX.saturating_sub(began.elapsed());
            let left = self.time_remaining().map_or(left, |remaining| remaining.min(left));
            if left.is_zero() || self.is_cancelled() {
                let waited = began.elapsed();
                return Err(failed(format!(
                    "it was waited for for {waited:?}, and nobody waits for the call any longer"
                )));
            }
            let answer = mail.await_one(left.min(aside.slice()), |command| answered_request(command) == Some(request));
            match answer.map_err(|error| failed(error.to_string()))?.map(|parcel| parcel.command) {
                Some(WorkerCommand::StateFetched { error: None, .. }) => return Ok(()),
                Some(WorkerCommand::StateFetched { error: Some(error), .. }) if error.is_damaged => {
                    return Err(StateError::Damaged { object: name_of(wanted), reason: error.reason });
                }
                Some(WorkerCommand::StateFetched { error: Some(error), .. }) => return Err(failed(error.reason)),
                Some(WorkerCommand::Refused { error, .. }) => return Err(failed(error.to_string())),
                Some(command) => return Err(failed(format!("the server answered {command:?}"))),
                None => aside.look_again(),
            }
        }
    }
}

/// An object of users, with its value or without.
pub(crate) fn of_object(key: Key<'_>, with_value: bool) -> StateWanted {
    StateWanted::Object { namespace: Namespace::USER.0, key: key.to_string(), with_value }
}

fn name_of(wanted: &StateWanted) -> String {
    match wanted {
        StateWanted::Object { key, .. } => key.clone(),
        StateWanted::AllPages => "the list of all objects".to_owned(),
    }
}
