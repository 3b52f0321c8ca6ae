//! What a server finds in its logs when it starts.
//!
//! 1. A process with a log was there when the last server died. If the keeper did not hand its memory over, it is entered as one
//!    that sleeps, and woken at once: what comes of its log is found out by a thread, and a log that is damaged fails its
//!    process alone.
//! 2. A log that is marked is of a process that was being stopped: the rest of what is stored of it goes, and then the log.
//! 3. A log without a life is one that nobody was told of, or that was being removed: it goes, as do directories without a log.
//! 4. A process whose application is no longer logged comes back like the others, and is stored before it is used: its log would
//!    not know what it does next.
//! 5. Logs of applications that are not served now stay where they are.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use praas_protocol::{Name, ProcessId};
use praas_storage::Folder;

use super::dozing::Need;
use super::removing::Right;
use super::transfer::Job;
use crate::drain::Purpose;
use crate::shard::Shard;

/// Logs that were found.
#[derive(Debug, Default)]
pub(crate) struct FoundLogs {
    /// The last life of each process whose log is not over.
    live: BTreeMap<ProcessId, u64>,
    ended: BTreeSet<Folder>,
    /// Nobody needs them.
    over: Vec<Folder>,
}

impl FoundLogs {
    /// The lives that have logs, in the order of their processes.
    pub(super) fn live(&self) -> impl Iterator<Item = Folder> {
        self.live.iter().map(|(&process, &incarnation)| Folder { process, incarnation })
    }

    /// Whether a life goes on from its log.
    pub(super) fn goes_on(&self, folder: &Folder) -> bool {
        self.live.get(&folder.process) == Some(&folder.incarnation)
    }

    /// Whether a life was being ended.
    pub(super) fn is_ended(&self, folder: &Folder) -> bool {
        self.ended.contains(folder)
    }
}

impl Shard {
    /// Looks at all logs, if this server has any. Nothing is read but whose they are.
    pub(crate) fn find_logs(&mut self) -> io::Result<FoundLogs> {
        let mut found = FoundLogs::default();
        let Some(disk) = self.disk_log() else {
            return Ok(found);
        };
        disk.remove_empty()?;
        for folder in disk.folders()? {
            self.processes.note_incarnation(folder.incarnation);
            match disk.life(&folder) {
                Ok(Some(life)) if life.is_ended => drop(found.ended.insert(folder)),
                Ok(None) => found.over.push(folder),
                // Of one that cannot be read, whoever wakes its process is told why.
                Ok(Some(_)) | Err(_) => {
                    if let Some(earlier) = found.live.insert(folder.process, folder.incarnation) {
                        found.over.push(Folder { incarnation: earlier, ..folder });
                    }
                }
            }
        }
        Ok(found)
    }

    /// Enters every process that is to come back from its log, and wakes it. After those that the keeper has handed over, and
    /// those that sleep.
    pub(crate) fn recover_logged(&mut self, found: &FoundLogs) {
        let Some(disk) = self.disk_log() else { return };
        let mut over = found.over.clone();
        let (mut woken, mut unserved): (Vec<ProcessId>, BTreeMap<Name, usize>) = Default::default();
        for folder in found.live() {
            let id = folder.process;
            let in_memory = self.processes.by_id.get(&id).copied();
            if let Some(key) = in_memory {
                let process = self.processes.get(key);
                let is_logged = process.is_some_and(|process| self.logs(process.application.durability));
                match process.and_then(|process| process.folder()) {
                    Some(own) if own == folder && is_logged => self.note_log_on_disk(key, folder),
                    Some(own) if own == folder => drop(self.let_log_end(key)),
                    Some(own) if own.incarnation > folder.incarnation => over.push(folder),
                    // Of a process that could not be brought back it is not known which life it has.
                    _ => {}
                }
            } else if !self.applications.contains_key(&id.application) {
                *unserved.entry(id.application).or_default() += 1;
            } else if self.processes.swapped.get(&id).is_some_and(|swapped| swapped.incarnation > folder.incarnation) {
                over.push(folder);
            } else if self.swaps.backend().is_none() {
                self.log.error(format_args!("{id} stays in its log: it is woken by a server that has storage"));
            } else {
                if !self.processes.swapped.contains_key(&id) {
                    self.enter_sleeper(folder, 0, None);
                }
                if let Some(swapped) = self.processes.swapped.get_mut(&id) {
                    swapped.has_log = true;
                    woken.push(id);
                }
            }
        }
        for folder in &found.ended {
            let key = self.processes.by_id.get(&folder.process).copied();
            let key = key.filter(|key| self.processes.get(*key).and_then(|process| process.folder()) == Some(*folder));
            if let Some(key) = key {
                self.note_log_on_disk(key, *folder);
                self.begin_drain(key, Purpose::Stop, Vec::new());
            } else if let Some(transfers) = &self.swaps.transfers {
                let (mine, log) = (self.mine(Right::None), Some(disk.clone()));
                transfers.begin(Job::Remove { folder: *folder, key: None, mine, log });
            }
        }
        for folder in over {
            self.metrics.orphans_removed += 1;
            if let Some(transfers) = &self.swaps.transfers {
                transfers.begin(Job::RemoveLog { folder, log: disk.clone() });
            }
        }
        for (application, processes) in unserved {
            self.log.warning(format_args!(
                "{processes} processes of {application} stay in their logs, because that application is not served now"
            ));
        }
        if !woken.is_empty() {
            self.log.info(format_args!("{} processes come back from their logs", woken.len()));
        }
        woken.iter().for_each(|id| self.wake(id, None, Need::Workers));
    }
}
