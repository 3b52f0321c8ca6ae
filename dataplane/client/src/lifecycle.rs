//! Processes that sleep: storing one, waking it, watching what happens to it, and what storage holds.

use std::time::Duration;

use praas_protocol::ProcessId;
use praas_protocol::control::{ClientRequest, ServerMessage, StoredFolder, Transition};

use crate::client::Client;
use crate::error::RequestError;
use crate::limits::{LIST_PAGES_MAX, REQUEST_DEADLINE};
use crate::management::Outstanding;

/// What storage holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoragePage {
    /// Where: a path, or the address of a bucket.
    pub place: String,
    /// Of each life of each process, in the storage's order.
    pub folders: Vec<StoredFolder>,
}

/// What happened since the last look.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TransitionNews {
    /// The transitions, oldest first.
    pub transitions: Vec<Transition>,
    /// Transitions of all processes before them that the server has forgotten: it keeps the last ones only.
    pub lost: u64,
}

impl Client {
    /// Creates a process that is swapped out when it was not called for `idle_swap`, zero for never, whatever
    /// the application's setting is; returns when its first workers are ready.
    ///
    /// # Errors
    /// As [`Client::create`].
    pub fn create_with_idle_swap(&self, process: ProcessId, idle_swap: Duration) -> Result<(), RequestError> {
        // Less than a millisecond is not never.
        let idle_swap_ms = u64::try_from(idle_swap.as_micros().div_ceil(1000)).unwrap_or(u64::MAX);
        self.lifecycle(&ClientRequest::ProcessCreate { process, idle_swap_ms: Some(idle_swap_ms) })
    }

    /// Stores what a process knows and gives its memory up; returns when it sleeps, at once if it does. Calls and messages that
    /// come meanwhile wake it again.
    ///
    /// ```no_run
    /// # let client = praas_client::Client::connect_default()?;
    /// client.swap("notes/alice".parse()?)?;
    /// let alice = client.process("notes/alice".parse()?)?;    // wakes it
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`RequestError`]: the server has no storage, or it failed; then the process goes on as before.
    pub fn swap(&self, process: ProcessId) -> Result<(), RequestError> {
        self.lifecycle(&ClientRequest::ProcessSwap { process })
    }

    /// Wakes a process; returns when its first workers are ready, at once if it is awake. Nobody has to: whatever needs a
    /// process that sleeps wakes it.
    ///
    /// # Errors
    /// [`RequestError`]: there is no such process, or what is stored of it cannot be read.
    pub fn restore(&self, process: ProcessId) -> Result<(), RequestError> {
        self.lifecycle(&ClientRequest::ProcessRestore { process })
    }

    /// Watches what happens from now on in the life of a process, or of all that the token covers.
    ///
    /// ```no_run
    /// use std::time::Duration;
    /// # let client = praas_client::Client::connect_default()?;
    /// let mut transitions = client.watch(Some("notes/alice".parse()?))?;
    /// while let Some(news) = transitions.next(Duration::from_secs(60))? {
    ///     for transition in news.transitions {
    ///         println!("{:?} after {} µs: {}", transition.to, transition.took_us, transition.reason);
    ///     }
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`RequestError`] when the server does not answer or the token gives no right.
    pub fn watch(&self, process: Option<ProcessId>) -> Result<TransitionFollower, RequestError> {
        match self.ask(&ClientRequest::TransitionWatch { process, after: None }, REQUEST_DEADLINE)? {
            ServerMessage::Transitions { upto, .. } => Ok(self.watch_after(process, upto)),
            _ => Err(unexpected_transitions()),
        }
    }

    /// Watches from a transition's number on; 0 begins with the oldest that the server keeps.
    #[must_use]
    pub fn watch_after(&self, process: Option<ProcessId>, number: u64) -> TransitionFollower {
        TransitionFollower { client: self.clone(), process, after: number, outstanding: None }
    }

    /// What storage holds of the processes that the token covers, those of earlier lives included.
    ///
    /// # Errors
    /// [`RequestError`]: the server has no storage, it failed, or the token gives no right.
    pub fn storage_usage(&self) -> Result<StoragePage, RequestError> {
        let mut all = StoragePage::default();
        for _ in 0..LIST_PAGES_MAX {
            let after = all.folders.last().map(|last| (last.process, last.incarnation));
            match self.ask(&ClientRequest::StorageUsage { after }, REQUEST_DEADLINE)? {
                ServerMessage::Stored { place, folders, more, .. } => {
                    let more = more && !folders.is_empty();
                    all.place = place;
                    all.folders.extend(folders);
                    if !more {
                        return Ok(all);
                    }
                }
                _ => return Err(RequestError::Unexpected { what: "something else than what storage holds" }),
            }
        }
        Err(RequestError::Unexpected { what: "more pages of stored processes than a server can have" })
    }
}

/// Tells what happens to processes, as it happens. A question that found nothing yet stays open between two looks.
pub struct TransitionFollower {
    client: Client,
    process: Option<ProcessId>,
    after: u64,
    outstanding: Option<Outstanding>,
}

impl TransitionFollower {
    /// What happened since the last look; `None` when nothing did within `limit`.
    ///
    /// # Errors
    /// [`RequestError`]. After a lost connection the next look connects again and goes on at the same number; a server that
    /// was started anew counts from 1.
    pub fn next(&mut self, limit: Duration) -> Result<Option<TransitionNews>, RequestError> {
        let request = match self.outstanding.take() {
            Some(request) => request,
            None => {
                let body = ClientRequest::TransitionWatch { process: self.process, after: Some(self.after) };
                self.client.start(&body, limit)?
            }
        };
        match request.wait(limit)? {
            Some(ServerMessage::Transitions { upto, lost, transitions, .. }) => {
                self.after = upto;
                Ok(Some(TransitionNews { transitions, lost }))
            }
            Some(_) => Err(unexpected_transitions()),
            None => {
                self.outstanding = Some(request);
                Ok(None)
            }
        }
    }
}

impl std::fmt::Debug for TransitionFollower {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("TransitionFollower")
            .field("process", &self.process)
            .field("after", &self.after)
            .finish_non_exhaustive()
    }
}

fn unexpected_transitions() -> RequestError {
    RequestError::Unexpected { what: "something else than transitions" }
}
