//! Processes that sleep.
//!
//! An entry has what lists and orders need, and nothing of the state: [`SLEEPER_BYTES_MAX`] with its name and what the directory
//! has of it. What it is to be woken with is read from storage then.

use std::ops::Bound;
use std::time::{Duration, Instant};

use praas_protocol::control::{ControlError, ProcessState, ProcessStatus};
use praas_protocol::limits::SLEEPERS_MAX;
use praas_protocol::token::Scope;
use praas_protocol::{Name, ProcessId};

use crate::directory::Listed;
use crate::lanes::limit;
use crate::processes::Asker;
use crate::shard::Shard;

/// Memory that a process may take while it sleeps.
const SLEEPER_BYTES_MAX: usize = 1024;

const _: () = assert!(2 * (size_of::<ProcessId>() + size_of::<Swapped>()) <= SLEEPER_BYTES_MAX);

/// What is done with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rest {
    /// Nothing.
    Asleep,
    /// It is being read.
    Waking { since: Instant },
    /// What is stored of it is being removed.
    Ending,
}

/// A process that sleeps.
#[derive(Debug)]
pub(crate) struct Swapped {
    pub(super) incarnation: u64,
    /// Bytes that storage holds of it.
    pub(super) stored_bytes: u64,
    /// When it fell asleep, if that was in the life of this server.
    pub(super) since_unix_ms: Option<u64>,
    pub(super) rest: Rest,
    /// Whether storage may have parts that nobody needs.
    pub(super) has_leftovers: bool,
    /// Whether there may be a log that has more than storage.
    pub(super) has_log: bool,
    /// Whether it is to have workers when it is back, and not only room for messages.
    pub(super) is_called: bool,
    /// Who waits until it is awake, or, when it is being removed, gone.
    pub(super) askers: Vec<Asker>,
    /// Why it did not wake when it was to, for lists.
    pub(super) failure: Option<Box<str>>,
    /// Until when those who need it are told that, instead of having it tried again.
    pub(super) tried_until: Option<Instant>,
    /// What other processes of its application see of it.
    pub(super) listed: Option<Listed>,
}

impl Swapped {
    pub(super) fn new(incarnation: u64, stored_bytes: u64, since_unix_ms: Option<u64>) -> Box<Self> {
        let rest = Rest::Asleep;
        Box::new(Self {
            incarnation,
            stored_bytes,
            since_unix_ms,
            rest,
            has_leftovers: false,
            has_log: false,
            is_called: false,
            askers: Vec::new(),
            failure: None,
            tried_until: None,
            listed: None,
        })
    }

    /// Whether nothing is done with it.
    pub(crate) fn sleeps(&self) -> bool {
        self.rest == Rest::Asleep
    }

    /// Whether it is being removed.
    pub(super) fn is_ending(&self) -> bool {
        self.rest == Rest::Ending
    }

    pub(crate) fn state(&self) -> ProcessState {
        match self.rest {
            Rest::Asleep => ProcessState::Swapped,
            Rest::Waking { .. } => ProcessState::Restoring,
            Rest::Ending => ProcessState::Draining,
        }
    }

    fn status(&self, process: ProcessId) -> ProcessStatus {
        ProcessStatus {
            process,
            state: self.state(),
            workers: 0,
            worker_pids: Vec::new(),
            lanes: 0,
            worker_restarts: 0,
            last_exit: self.failure.as_ref().map(|failure| failure.to_string()),
            calls_reported: 0,
            stored_bytes: self.stored_bytes,
            last_swap_unix_ms: self.since_unix_ms,
        }
    }
}

impl Shard {
    /// The state of a process, awake or not.
    pub(crate) fn state_of(&self, id: &ProcessId) -> Option<ProcessState> {
        let sleeps = self.processes.swapped.get(id).map(|swapped| swapped.state());
        sleeps.or_else(|| self.processes.by_id.get(id).and_then(|key| Some(self.processes.get(*key)?.state())))
    }

    /// The ids of all processes of a scope after one, awake or not, in their order. No others are looked at.
    pub(crate) fn ids_after(&self, scope: &Scope, after: Option<ProcessId>) -> impl Iterator<Item = ProcessId> {
        let first = match scope {
            Scope::Any => None,
            Scope::Application(application) => Some(ProcessId { application: *application, process: Name::FIRST }),
            Scope::Process(process) => Some(*process),
        };
        let from = match (first, after) {
            (Some(first), Some(after)) if first <= after => Bound::Excluded(after),
            (Some(first), _) => Bound::Included(first),
            (None, after) => after.map_or(Bound::Unbounded, Bound::Excluded),
        };
        let mut awake = self.processes.by_id.range((from, Bound::Unbounded)).map(|(id, _)| *id).peekable();
        let mut asleep = self.processes.swapped.range((from, Bound::Unbounded)).map(|(id, _)| *id).peekable();
        let ids = std::iter::from_fn(move || match (awake.peek(), asleep.peek()) {
            (Some(one), Some(other)) if other < one => asleep.next(),
            (None, Some(_)) => asleep.next(),
            _ => awake.next(),
        });
        // The ids of a scope lie side by side.
        ids.take_while(|id| scope.covers(id))
    }

    /// The state of a process, awake or not, for people and programs.
    pub(crate) fn status_of_id(&self, id: &ProcessId) -> Option<ProcessStatus> {
        match self.processes.swapped.get(id) {
            Some(swapped) => Some(swapped.status(*id)),
            None => self.status_of(*self.processes.by_id.get(id)?),
        }
    }

    /// Shows what a process that sleeps is doing to the workers of its application and to other servers.
    pub(super) fn show_sleeper(&mut self, id: ProcessId) {
        let Some(swapped) = self.processes.swapped.get_mut(&id) else { return };
        let (state, listed) = (swapped.state(), swapped.listed.take());
        let listed = self.list(id, listed, Some(state));
        if let Some(swapped) = self.processes.swapped.get_mut(&id) {
            swapped.listed = listed;
        }
    }

    /// Takes a process that sleeps out of the table and the lists, for good.
    pub(super) fn forget_sleeper(&mut self, id: ProcessId) -> Option<Box<Swapped>> {
        let mut swapped = self.processes.swapped.remove(&id)?;
        self.set_alarm(id, None);
        self.list(id, swapped.listed.take(), None);
        Some(swapped)
    }

    /// A process that sleeps goes from one thing that is done with it to another.
    pub(super) fn set_rest(&mut self, id: ProcessId, rest: Rest, reason: &str) {
        let Some(swapped) = self.processes.swapped.get_mut(&id) else { return };
        swapped.rest = rest;
        let state = swapped.state();
        self.note_transition(id, state, reason, 0, Duration::ZERO);
        self.show_sleeper(id);
    }

    /// Whether one more process may sleep.
    pub(super) fn has_room_for_sleeper(&self) -> Result<(), ControlError> {
        limit("processes that sleep on this server", self.processes.swapped.len(), SLEEPERS_MAX, "stop some")
    }
}
