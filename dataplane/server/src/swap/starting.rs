//! What a server finds in storage when it starts.
//!
//! 1. It is looked for before the loop serves the first client: nobody finds a process missing that is there. Storage that
//!    cannot be listed keeps the server from starting.
//! 2. What the keeper has handed over counts: of a process that is back already, what is stored is its earlier snapshot.
//! 3. A folder without a manifest is what a server left that died in the first swap-out of a process; one of an earlier life of
//!    a process that has a later one is over. Both are removed, by a thread, after the start.
//! 4. Processes of applications that are not served now stay where they are.
//! 5. What is there may have parts beside its manifest that a server left which died while it wrote. They are removed when this
//!    server stores the process next, because until then another one may own it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use praas_protocol::limits::SLEEPERS_MAX;
use praas_protocol::{Name, ProcessId};
use praas_storage::snapshot::Snapshot;
use praas_storage::{Backend, Folder, StorageError};

use super::found_logs::FoundLogs;
use super::reading::life_of;
use super::table::Swapped;
use super::transfer::Job;
use crate::shard::Shard;

/// Manifests that are asked for at once: storage on a network takes milliseconds for each.
const LOOKS_AT_ONCE: usize = 16;

/// What is known of a folder.
#[derive(Debug)]
enum Found {
    /// A process sleeps there, takes so many bytes, and is to be woken then.
    Sleeper { stored_bytes: u64, next_wake_unix_ms: Option<u64> },
    /// There is no manifest.
    Orphan,
    /// The manifest cannot be read; who wakes the process is told why.
    Unreadable(String),
}

impl Shard {
    /// Enters every process that sleeps in storage. After those that the keeper has handed over.
    pub(crate) fn recover_sleepers(&mut self, logs: &FoundLogs) -> Result<(), StorageError> {
        let Some(backend) = self.swaps.backend().cloned() else { return Ok(()) };
        let mut unserved: BTreeMap<Name, usize> = BTreeMap::new();
        let (mut sleepers, mut over) = (Vec::new(), Vec::new());
        let mut newest: BTreeMap<ProcessId, u64> = BTreeMap::new();
        newest.extend(logs.live().map(|folder| (folder.process, folder.incarnation)));
        for folder in all_folders(&*backend)? {
            self.processes.note_incarnation(folder.incarnation);
            if logs.is_ended(&folder) {
                continue;
            }
            let awake = self.processes.by_id.get(&folder.process).copied();
            let in_memory = awake.and_then(|key| self.processes.get_mut(key));
            if let Some(process) = in_memory {
                match process.folder() {
                    Some(own) if own == folder => (process.stored.exists, process.stored.has_leftovers) = (true, true),
                    Some(own) if own.incarnation > folder.incarnation => over.push(folder),
                    // Of a process that could not be brought back it is not known which life it has.
                    _ => {}
                }
            } else if !self.applications.contains_key(&folder.process.application) {
                *unserved.entry(folder.process.application).or_default() += 1;
            } else {
                newest
                    .insert(folder.process, folder.incarnation.max(newest.get(&folder.process).map_or(0, |one| *one)));
                sleepers.push(folder);
            }
        }
        for (folder, found) in look_at_all(&backend, &sleepers) {
            let is_newest = newest.get(&folder.process) == Some(&folder.incarnation);
            match found {
                // It goes on from its log, and may store something there just now.
                Found::Orphan if logs.goes_on(&folder) => {}
                Found::Orphan => over.push(folder),
                _ if !is_newest => over.push(folder),
                Found::Sleeper { stored_bytes, next_wake_unix_ms } => {
                    self.enter_sleeper(folder, stored_bytes, None);
                    self.set_alarm(folder.process, next_wake_unix_ms);
                }
                Found::Unreadable(reason) => self.enter_sleeper(folder, 0, Some(reason)),
            }
        }
        for folder in over {
            self.log.warning(format_args!("what is stored in {folder} belongs to no process any more: it is removed"));
            self.metrics.orphans_removed += 1;
            if let Some(transfers) = &self.swaps.transfers {
                transfers.begin(Job::Remove { folder, key: None, epoch: None, log: None });
            }
        }
        for (application, processes) in unserved {
            self.log.warning(format_args!(
                "{processes} processes of {application} stay in storage, because that application is not served now"
            ));
        }
        if !self.processes.swapped.is_empty() {
            self.log.info(format_args!("{} processes sleep", self.processes.swapped.len()));
        }
        Ok(())
    }

    pub(super) fn enter_sleeper(&mut self, folder: Folder, stored_bytes: u64, failure: Option<String>) {
        if self.processes.swapped.len() >= SLEEPERS_MAX {
            return self.log.error(format_args!(
                "{} stays in storage: {SLEEPERS_MAX} processes that sleep are the most; stop some and start again",
                folder.process
            ));
        }
        if let Some(reason) = &failure {
            self.log.error(format_args!("{} sleeps and may not wake: {reason}", folder.process));
        }
        let mut swapped = Swapped::new(folder.incarnation, stored_bytes, None);
        swapped.failure = failure.map(Into::into);
        swapped.has_leftovers = true;
        self.processes.swapped.insert(folder.process, swapped);
        self.show_sleeper(folder.process);
    }
}

fn all_folders(backend: &dyn Backend) -> Result<Vec<Folder>, StorageError> {
    let mut all: Vec<Folder> = Vec::new();
    loop {
        let page = backend.folders(all.last())?;
        if page.is_empty() {
            return Ok(all);
        }
        all.extend(page);
    }
}

/// Opens the snapshots of many folders, some at once.
fn look_at_all(backend: &Arc<dyn Backend>, folders: &[Folder]) -> Vec<(Folder, Found)> {
    let next = AtomicUsize::new(0);
    let look = || {
        let mut seen = Vec::new();
        while let Some(folder) = folders.get(next.fetch_add(1, Ordering::Relaxed)) {
            let found = match Snapshot::open(backend, folder) {
                Ok(Some(snapshot)) => {
                    let usage = snapshot.usage();
                    let stored_bytes = usage.stored_bytes + usage.manifest_bytes;
                    match life_of(folder, &snapshot) {
                        Ok(life) => Found::Sleeper { stored_bytes, next_wake_unix_ms: life.next_wake_unix_ms },
                        Err(reason) => Found::Unreadable(reason),
                    }
                }
                Ok(None) => Found::Orphan,
                Err(error) => Found::Unreadable(error.to_string()),
            };
            seen.push((*folder, found));
        }
        seen
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..LOOKS_AT_ONCE.min(folders.len())).map(|_| scope.spawn(look)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap_or_default()).collect()
    })
}
