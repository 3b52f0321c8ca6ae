//! The end of what is stored of a process that is stopped.
//!
//! 1. It is removed before the process is said to have ended, and before its ledger says so: a server that is killed in
//!    between leaves either the process or nothing.
//!    What a server has stored that took the process over meanwhile is its own: it stays. Who wants a process stopped that only
//!    slept here is told so.
//! 2. Where that fails, the process has not ended: whoever wants it stopped is told why, and may try again.

use praas_protocol::ProcessId;
use praas_protocol::control::ControlError;
use praas_storage::Folder;

use super::removing::{Mine, Removal, Right};
use super::table::{Rest, Swapped};
use super::transfer::Job;
use crate::processes::{Asker, ProcessKey, Stage};
use crate::shard::Shard;

/// Why a process that slept here is not stopped.
pub(super) const TAKEN_OVER: &str = "another server that shares the storage has woken it, and has it in memory or died with it: turn \
                                     to that server, or take over what is stored with `praas process restore`";

impl Shard {
    /// Stops a process that sleeps; true if there is one.
    pub(crate) fn stop_sleeper(&mut self, id: &ProcessId, asker: Asker) -> Result<bool, ControlError> {
        let Some(swapped) = self.processes.swapped.get_mut(id) else { return Ok(false) };
        match swapped.rest {
            Rest::Asleep => {}
            Rest::Ending => {
                swapped.askers.push(asker);
                return Ok(true);
            }
            Rest::Waking { .. } => {
                // It is stopped when it is awake.
                let body = Box::new(praas_protocol::control::ClientRequest::ProcessStop { process: *id });
                return self.wait_for(*id, super::Waiter::Request { asker, body, socket: None }).map(|()| true);
            }
        }
        swapped.askers.push(asker);
        let folder = Folder { process: *id, incarnation: swapped.incarnation };
        let has_log = swapped.has_log;
        let log = self.disk_log().filter(|_| has_log);
        let mine = self.mine(Right::Asleep);
        let Some(transfers) = &self.swaps.transfers else { return Err(ControlError::NoStorage) };
        transfers.begin(Job::Remove { folder, key: None, mine, log });
        self.set_rest(*id, Rest::Ending, "it is stopped");
        Ok(true)
    }

    /// Begins to remove what is stored of a process in memory that ends; false if nothing is. While it is written, that comes first:
    /// this is called again then.
    pub(crate) fn begin_deleting(&mut self, key: ProcessKey) -> bool {
        let Some(process) = self.processes.get(key) else { return false };
        if process.checkpoints.is_under_way() {
            return true;
        }
        let (Some(folder), Some(transfers)) =
            (process.folder().filter(|_| process.stored.exists), &self.swaps.transfers)
        else {
            return false;
        };
        let mine = self.mine(process.stored.epoch.map_or(Right::None, Right::Epoch));
        transfers.begin(Job::Remove { folder, key: Some(key), mine, log: None });
        true
    }

    /// What this server may remove.
    pub(super) fn mine(&self, by: Right) -> Mine {
        Mine { owner: self.data.owner(), by }
    }

    /// Has a thread remove what is stored of a life that seems to be of nobody.
    pub(super) fn begin_collecting(&mut self, folder: Folder) {
        let owner = self.data.owner();
        if let Some(transfers) = &self.swaps.transfers {
            transfers.begin(Job::Collect { folder, owner });
        }
    }

    /// A thread has looked at it.
    pub(super) fn collected(&mut self, folder: Folder, collected: Result<Removal, String>) {
        match collected {
            Ok(Removal::Done) => {
                self.metrics.orphans_removed += 1;
                self.log.warning(format_args!("what was stored in {folder} belongs to no process any more: it is removed"));
            }
            Ok(Removal::Anothers) => self.log.warning(format_args!(
                "what is stored in {folder} is no process of this server, and was not written by it: it stays; `praas storage \
                 usage` shows it"
            )),
            Err(reason) => self.log.error(format_args!("what is stored in {folder} stays there: {reason}")),
        }
    }

    /// A thread has removed what was stored of a process, or has not.
    pub(super) fn stored_copy_removed(
        &mut self,
        folder: Folder,
        key: Option<ProcessKey>,
        removed: Result<Removal, String>,
    ) {
        let id = folder.process;
        let reason = match removed {
            // In memory here it is an earlier one than that of the other server, and ends here.
            Ok(Removal::Anothers) if key.is_none() => Some(TAKEN_OVER.to_owned()),
            Ok(_) => None,
            Err(reason) => Some(reason),
        };
        let failed = reason.map(|reason| {
            self.log.error(format_args!("what is stored of {id} cannot be removed: {reason}"));
            ControlError::SwapFailed { process: id, what: "removing what is stored of it".into(), reason }
        });
        match key {
            Some(key) => self.deleted_of_awake(key, failed),
            None => self.deleted_of_sleeper(folder, failed),
        }
    }

    fn deleted_of_awake(&mut self, key: ProcessKey, failed: Option<ControlError>) {
        let Some(process) = self.processes.get_mut(key) else { return };
        let Stage::Removing(askers) = &mut process.stage else { return };
        let askers = std::mem::take(askers);
        match failed {
            Some(error) => self.not_all_was_removed(key, askers, &error),
            None => {
                process.stored = super::StoredCopy::default();
                self.remove_process(key, askers);
            }
        }
    }

    /// Something that is stored of a process in memory cannot be removed: it has not ended.
    pub(crate) fn could_not_delete(&mut self, key: ProcessKey, askers: Vec<Asker>, reason: String) {
        let Some(process) = self.processes.get(key) else { return };
        let id = process.id;
        self.log.error(format_args!("what is stored of {id} cannot be removed: {reason}"));
        let error = ControlError::SwapFailed { process: id, what: "removing what is stored of it".into(), reason };
        self.not_all_was_removed(key, askers, &error);
    }

    fn not_all_was_removed(&mut self, key: ProcessKey, askers: Vec<Asker>, error: &ControlError) {
        let Some(process) = self.processes.get_mut(key) else { return };
        process.stage = Stage::Active(Vec::new());
        process.broken = Some(format!("it was stopped, but not all of it could be removed: {error}; stop it again"));
        self.show_state(key);
        self.tell_disappointed(key);
        askers.into_iter().for_each(|asker| self.answer_failed(asker, error.clone()));
    }

    fn deleted_of_sleeper(&mut self, folder: Folder, failed: Option<ControlError>) {
        let id = folder.process;
        // What was left of an earlier life is nobody's.
        let is_it = |swapped: &&mut Box<Swapped>| swapped.is_ending() && swapped.incarnation == folder.incarnation;
        let Some(swapped) = self.processes.swapped.get_mut(&id).filter(is_it) else { return };
        let askers = std::mem::take(&mut swapped.askers);
        if let Some(error) = failed {
            swapped.failure = Some(error.to_string().into());
            self.set_rest(id, Rest::Asleep, &error.to_string());
            return askers.into_iter().for_each(|asker| self.answer_failed(asker, error.clone()));
        }
        self.forget_sleeper(id);
        self.log.info(format_args!("process {id} has ended"));
        askers.into_iter().for_each(|asker| self.answer_done(asker));
    }
}
