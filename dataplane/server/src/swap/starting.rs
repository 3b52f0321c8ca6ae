//! What a server finds in storage when it starts.
//!
//! 1. It is looked for before the loop serves the first client: nobody finds a process missing that is there. Storage that
//!    cannot be listed keeps the server from starting.
//! 2. What the keeper has handed over counts: of a process that is back already, what is stored is its earlier snapshot.
//! 3. A folder without a manifest is what a server left that died in the first swap-out of a process, or of one that another server
//!    stores just now; one of an earlier life of a process that has a later one may be over. A thread removes, after the start,
//!    what this server wrote itself, and what was ended ([`super::removing`]). The rest stays.
//! 4. Processes of applications that are not served now stay where they are.
//! 5. What is there may have parts beside its manifest that a server left which died while it wrote. They are removed when this
//!    server stores the process next, because until then another one may own it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use praas_protocol::limits::SLEEPERS_MAX;
use praas_protocol::{Name, ProcessId};
use praas_storage::snapshot::Snapshot;
use praas_storage::{Backend, Folder, Owner, StorageError};

use super::found_logs::FoundLogs;
use super::reading::life_of;
use super::table::Swapped;
use crate::shard::Shard;

/// Manifests that are asked for at once: storage on a network takes milliseconds for each.
const LOOKS_AT_ONCE: usize = 16;

/// What is known of a folder.
#[derive(Debug)]
pub(crate) enum Found {
    /// A process is stored there: whether it sleeps, who published it, what it takes, and when it is to be woken.
    Sleeper { sleeps: bool, owner: Owner, stored_bytes: u64, next_wake_unix_ms: Option<u64> },
    /// There is no manifest, or one of a process that was stopped.
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
        let own = self.data.owner();
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
                sleepers.push(folder);
            }
        }
        let looked_at = look_at_all(&backend, &sleepers);
        // The last life of each process, and who published it: one that cannot be read may be anybody's.
        let mut newest: BTreeMap<ProcessId, (u64, Option<Owner>)> = BTreeMap::new();
        newest.extend(logs.live().map(|folder| (folder.process, (folder.incarnation, Some(own)))));
        for (folder, found) in &looked_at {
            let owner = match found {
                Found::Orphan => continue,
                Found::Sleeper { owner, .. } => Some(*owner),
                Found::Unreadable(_) => None,
            };
            let last = newest.entry(folder.process).or_insert((folder.incarnation, owner));
            *last = (*last).max((folder.incarnation, owner));
        }
        for (folder, found) in looked_at {
            let (last, owner) = newest.get(&folder.process).copied().unwrap_or_default();
            match found {
                // It goes on from its log, and may store something there just now.
                Found::Orphan if logs.goes_on(&folder) => {}
                Found::Orphan => over.push(folder),
                // Of two servers that each have a process of that name neither's goes.
                _ if last != folder.incarnation && owner != Some(own) => self.log.warning(format_args!(
                    "what is stored in {folder} is an earlier life of a process of which another server has a later one: it \
                     stays; `praas storage usage` shows it"
                )),
                _ if last != folder.incarnation => over.push(folder),
                Found::Sleeper { stored_bytes, next_wake_unix_ms, .. } => {
                    self.enter_sleeper(folder, stored_bytes, None);
                    self.set_alarm(folder.process, next_wake_unix_ms);
                }
                Found::Unreadable(reason) => self.enter_sleeper(folder, 0, Some(reason)),
            }
        }
        over.into_iter().for_each(|folder| self.begin_collecting(folder));
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
            seen.push((*folder, look_at(backend, folder)));
        }
        seen
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..LOOKS_AT_ONCE.min(folders.len())).map(|_| scope.spawn(look)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap_or_default()).collect()
    })
}

/// Opens the snapshot of a folder.
pub(super) fn look_at(backend: &Arc<dyn Backend>, folder: &Folder) -> Found {
    let snapshot = match Snapshot::open(backend, folder) {
        Ok(Some(snapshot)) if !snapshot.is_ended() => snapshot,
        Ok(_) => return Found::Orphan,
        Err(error) => return Found::Unreadable(error.to_string()),
    };
    let (epoch, owner, usage) = (snapshot.epoch(), snapshot.owner(), snapshot.usage());
    match life_of(folder, &snapshot) {
        Ok(life) => Found::Sleeper {
            sleeps: life.sleeps(epoch),
            owner,
            stored_bytes: usage.stored_bytes + usage.manifest_bytes,
            next_wake_unix_ms: life.next_wake_unix_ms,
        },
        Err(reason) => Found::Unreadable(reason),
    }
}
