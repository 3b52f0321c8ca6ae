//! A process of which there is a log: what it was when the log began, and all that it changed since, before anybody else has the
//! memory.
//!
//! 1. What the log begins with is nothing, or the process's snapshot; one of a later position than the beginning is as good.
//! 2. A log that has nothing beyond the snapshot is what a server left that died between publishing it and removing the log. It
//!    goes, and the process is woken as if there had been none.
//! 3. Before anything is made of a log it is counted that it is: by the epoch of the snapshot, or in the directory of the log where
//!    there is none ([`super::life`]).
//! 4. Damage, and a log that does not join the snapshot, are told, and nothing comes of the process: it stays asleep, with all
//!    that is stored of it.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};

use praas_shm::log_ring::{Contents, KeptObject};
use praas_shm::objects::{Encoding, Meta, Objects, ObjectsLayout};
use praas_shm::swap::{Import, ImportFacts, Remainder};
use praas_storage::snapshot::{PageObject, Restored, SectionKind, Snapshot, SnapshotError, StoredValue};
use praas_storage::{Backend, Folder, Owner};

use super::life::{Life, Stays};
use super::reading::{READING_THREADS, Returned, life_of, section_of};
use crate::durability::{DiskLog, LogStore};

/// What is made of a log; `None` if it has nothing that storage has not. The error says why nothing can be made of it.
pub(super) fn replay(
    backend: &Arc<dyn Backend>,
    folder: &Folder,
    log: &DiskLog,
    owner: Owner,
) -> Result<Option<Returned>, String> {
    let in_log = |error: std::io::Error| format!("its log: {error}");
    let Some(found) = log.life(folder).map_err(in_log)?.filter(|life| !life.is_ended) else { return Ok(None) };
    let stored = Snapshot::open(backend, folder).map_err(|error| error.to_string())?;
    if let Some(stored) = &stored {
        let end = log.end(folder).map_err(in_log)?;
        if end.is_none_or(|end| end <= stored.facts().position) {
            log.remove(folder).map_err(in_log)?;
            return Ok(None);
        }
    }
    if stored.as_ref().is_some_and(Snapshot::is_ended) {
        return Err("another server that shares the storage has stopped it".into());
    }
    let noted = Life::from_bytes(&found.note)?;
    noted.check_folder(folder, "log")?;
    let follows = noted.log_follows;
    let stored = stored.map(|stored| stored.claim(stored.epoch() + 1, owner)).transpose();
    let stored = stored.map_err(|error| error.to_string())?;
    let (life, stays, base, sent) = match &stored {
        Some(stored) => {
            let life = life_of(folder, stored)?;
            // Its log has more than what was stored: it went on.
            let stays = life.stays_until(stored.epoch(), false);
            let (base, sent) = contents_of(stored)?;
            (life, stays, base, sent)
        }
        None => (noted, Stays::of_log(log.count_recovery(folder).map_err(in_log)?), Contents::default(), 0),
    };
    let last_sequence = stays.sequence(sent)?;
    let contents = log.replay(folder, base, follows).map_err(in_log)?.ok_or("its log has just gone")?;
    let objects = made_of(&contents, life.state_bytes(), stored.as_ref(), last_sequence)?;
    let usage = stored.as_ref().map(Snapshot::usage);
    let read_bytes = usage.map_or(0, |usage| usage.live_bytes + usage.manifest_bytes);
    let stored_bytes = usage.map_or(0, |usage| usage.stored_bytes + usage.manifest_bytes);
    Ok(Some(Returned {
        objects,
        life,
        lanes: Vec::new(),
        snapshot: stored,
        stays,
        is_replayed: true,
        files: None,
        is_restoring: false,
        read_bytes,
        stored_bytes,
    }))
}

/// A segment with all that contents have, of a state with this limit, for a process whose messages have had numbers up to
/// `last_sequence`.
pub(super) fn made_of(
    contents: &Contents,
    state_bytes: u64,
    stored: Option<&Snapshot>,
    last_sequence: u64,
) -> Result<Objects, String> {
    let layout = ObjectsLayout::for_limit(state_bytes).map_err(|error| error.to_string())?;
    let hash_seed = stored.map(|stored| stored.facts().hash_seed);
    let import = Import::create(layout, &ImportFacts { hash_seed, position: contents.position });
    let import = import.map_err(|error| format!("no memory for its state: {error}"))?;
    import.contents(contents, last_sequence).map_err(|error| error.to_string())?;
    import.finish().map_err(|error| error.to_string())
}

/// All of a snapshot, as what a log goes on from, and the number of the last message that was sent by then.
pub(super) fn contents_of(snapshot: &Snapshot) -> Result<(Contents, u64), String> {
    let mailbox = section_of(snapshot, SectionKind::MAILBOX)?;
    let remainder = Remainder::from_bytes(&mailbox).map_err(|error| error.to_string())?;
    let sent = remainder.last_sequence;
    let contents = remainder.into_contents(snapshot.facts().position).map_err(|error| error.to_string())?;
    let collected = Collected { contents: Mutex::new(contents), wrong: Mutex::new(None) };
    snapshot.restore(0..snapshot.pages(), READING_THREADS, &collected);
    match collected.wrong.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(reason) => Err(reason),
        None => Ok((collected.contents.into_inner().unwrap_or_else(PoisonError::into_inner), sent)),
    }
}

/// Contents that everything goes into. The first thing that is wrong ends it.
struct Collected {
    contents: Mutex<Contents>,
    wrong: Mutex<Option<String>>,
}

impl Collected {
    fn stop(&self, reason: String) -> ControlFlow<()> {
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(reason);
        ControlFlow::Break(())
    }

    fn take(&self, object: &PageObject, stored: &StoredValue<'_>) -> Result<(), String> {
        let key = String::from_utf8(object.key.to_vec()).map_err(|_| format!("{} has no key", object.part()))?;
        let mut value = vec![0; object.value_bytes as usize];
        stored.fill(&mut value).map_err(|error| error.to_string())?;
        let meta = Meta {
            type_id: object.type_id,
            schema_version: object.schema_version,
            encoding: Encoding::of_code(object.encoding),
        };
        let kept = KeptObject { version: object.version, meta, modified_unix_ms: object.modified_unix_ms, value };
        let mut contents = self.contents.lock().unwrap_or_else(PoisonError::into_inner);
        contents.objects.insert((object.namespace, key), kept);
        Ok(())
    }
}

impl Restored for Collected {
    fn page(&self, _number: u32, _objects: &[PageObject]) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    fn value(&self, object: &PageObject, value: &StoredValue<'_>) -> ControlFlow<()> {
        match self.take(object, value) {
            Ok(()) => ControlFlow::Continue(()),
            Err(reason) => self.stop(reason),
        }
    }

    fn damaged_page(&self, _number: u32, error: SnapshotError) -> ControlFlow<()> {
        self.stop(error.to_string())
    }
}
