//! Finds a process that this server does not know in storage: another server that shares it may have put it to sleep there.
//!
//! 1. It is looked for when a client needs it or gives an order about it, by its name alone, on a thread. Meanwhile it is waited for
//!    like one that is away. What is not there is not looked for again for a while ([`NOT_FOUND_KEPT`]).
//! 2. Only one that sleeps is found by who needs it. One that another server has woken, or stored while it went on, is that
//!    server's, or was in its memory when it died: nobody can tell which. It is left alone, but for an order to restore it.
//! 3. What has been found is entered as if this server had found it when it started.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use praas_protocol::ProcessId;
use praas_protocol::control::{ClientRequest, ControlError};
use praas_storage::{Backend, Folder};

use super::Waiter;
use super::deleting::TAKEN_OVER;
use super::starting::{Found, look_at};
use super::transfer::Job;
use crate::clock;
use crate::limits::{LOOKED_FOR_MAX, NOT_FOUND_KEPT, NOT_FOUND_MAX};
use crate::shard::Shard;

/// The processes that are looked for.
#[derive(Debug, Default)]
pub(super) struct Finding {
    under_way: BTreeSet<ProcessId>,
    /// Until when it is known that they are not stored.
    not_found: BTreeMap<ProcessId, Instant>,
}

impl Finding {
    fn note_absence(&mut self, process: ProcessId) {
        let now = clock::now();
        if self.not_found.len() >= NOT_FOUND_MAX {
            self.not_found.retain(|_, until| *until > now);
        }
        if self.not_found.len() >= NOT_FOUND_MAX {
            // It is looked for once more than it had to be.
            self.not_found.pop_first();
        }
        self.not_found.insert(process, now + NOT_FOUND_KEPT);
    }
}

/// Looks for the last life of a process; for a thread that may wait. The error says why nobody knows.
pub(super) fn find(backend: &Arc<dyn Backend>, process: &ProcessId) -> Result<Option<(Folder, Found)>, String> {
    let lives = backend.lives(process).map_err(|error| error.to_string())?;
    // One without a manifest is being stored for the first time, or never was.
    let mut found = lives.into_iter().rev().map(|folder| (folder, look_at(backend, &folder)));
    Ok(found.find(|(_, found)| !matches!(found, Found::Orphan)))
}

impl Shard {
    /// Whether a process that this server does not know may be in storage.
    pub(crate) fn may_be_stored(&self, id: &ProcessId) -> bool {
        let is_known = self.processes.swapped.contains_key(id) || self.processes.by_id.contains_key(id);
        let finding = &self.swaps.finding;
        let was_absent = finding.not_found.get(id).is_some_and(|until| *until > clock::now());
        let may_be = self.swaps.backend().is_some() && self.applications.contains_key(&id.application);
        may_be && !is_known && !was_absent && !self.shutting_down
    }

    /// Has a process looked for that [may be stored](Self::may_be_stored); who needs it is carried out when that is known.
    pub(crate) fn look_in_storage(&mut self, id: ProcessId, waiter: Waiter) -> Result<(), ControlError> {
        let finding = &self.swaps.finding;
        if !finding.under_way.contains(&id) && finding.under_way.len() >= LOOKED_FOR_MAX {
            return Err(ControlError::LimitReached {
                what: "processes that are looked for in storage".into(),
                used: finding.under_way.len() as u64,
                limit: LOOKED_FOR_MAX as u64,
                asked: 1,
                advice: "ask again when storage has answered".into(),
            });
        }
        self.queue_waiter(id, waiter)?;
        if let Some(transfers) = &self.swaps.transfers
            && self.swaps.finding.under_way.insert(id)
        {
            transfers.begin(Job::Find { process: id });
        }
        Ok(())
    }

    /// The same for a client's request as it came; false if the process need not be looked for.
    pub(crate) fn looks_in_storage(
        &mut self,
        id: ProcessId,
        asker: crate::processes::Asker,
        body: &ClientRequest,
    ) -> Result<bool, ControlError> {
        if !self.may_be_stored(&id) {
            return Ok(false);
        }
        let waiter = Waiter::Request { asker, body: Box::new(body.clone()), socket: None };
        self.look_in_storage(id, waiter).map(|()| true)
    }

    /// A thread has looked for a process.
    pub(super) fn looked_for(&mut self, id: ProcessId, found: Result<Option<(Folder, Found)>, String>) {
        self.swaps.finding.under_way.remove(&id);
        let is_known = self.processes.swapped.contains_key(&id) || self.processes.by_id.contains_key(&id);
        let failed = |reason| {
            let what = "looking for it in storage".into();
            Some(ControlError::SwapFailed { process: id, what, reason })
        };
        let error = match found {
            _ if is_known => None,
            Ok(None) => {
                self.swaps.finding.note_absence(id);
                None
            }
            Ok(Some((_, Found::Sleeper { sleeps: false, owner, .. })))
                if owner != self.data.owner() && !self.is_to_be_taken_over(&id) =>
            {
                failed(TAKEN_OVER.to_owned())
            }
            Ok(Some((folder, found))) => self.enter_found(folder, found).err(),
            Err(reason) => failed(reason),
        };
        match error {
            Some(error) => self.refuse_waiters(&id, &error),
            None => self.serve_waiters(&id),
        }
    }

    fn enter_found(&mut self, folder: Folder, found: Found) -> Result<(), ControlError> {
        self.has_room_for_sleeper()?;
        self.processes.note_incarnation(folder.incarnation);
        self.log.info(format_args!("process {} was stored by another server, and is found", folder.process));
        match found {
            Found::Sleeper { stored_bytes, next_wake_unix_ms, .. } => {
                self.enter_sleeper(folder, stored_bytes, None);
                self.set_alarm(folder.process, next_wake_unix_ms);
            }
            Found::Unreadable(reason) => self.enter_sleeper(folder, 0, Some(reason)),
            Found::Orphan => {}
        }
        Ok(())
    }

    /// Whether somebody has ordered to bring a process back, wherever it is.
    fn is_to_be_taken_over(&self, id: &ProcessId) -> bool {
        let is_one = |body: &ClientRequest| matches!(body, ClientRequest::ProcessRestore { .. });
        self.swaps.waiting.of(id).any(|waiter| matches!(waiter, Waiter::Request { body, .. } if is_one(body)))
    }
}
