//! A snapshot as the state of a process: all of it, before anybody else has the memory.
//!
//! 1. Its manifest is claimed first, by a higher epoch: whoever else believes to own the process learns that it does not.
//! 2. Values are read by several threads, straight into the places that the segment has for them, those that lie beside each
//!    other in storage at once.
//! 3. What is damaged or missing is named, and nothing comes of the process: it stays asleep.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};

use praas_shm::objects::{Encoding, Key, Meta, Namespace, ObjectHeader, Objects, ObjectsLayout};
use praas_shm::swap::{Import, ImportFacts, ImportedObject, Remainder};
use praas_storage::snapshot::{Fill, PageObject, Restored, SectionKind, Snapshot, SnapshotError};
use praas_storage::{Backend, Folder};

use super::life::Life;

/// Threads that read one process: enough to keep a disk busy, or the network to a bucket.
const READING_THREADS: usize = 8;

/// What is to be read.
#[derive(Debug)]
pub(super) struct ReadJob {
    pub(super) folder: Folder,
}

/// A process as it was read.
#[derive(Debug)]
pub(crate) struct Returned {
    pub(super) objects: Objects,
    pub(super) life: Life,
    pub(super) snapshot: Snapshot,
    pub(super) read_bytes: u64,
    pub(super) stored_bytes: u64,
}

impl ReadJob {
    /// Reads it; the error says why not. What is stored has not changed then, but that it may be claimed.
    pub(super) fn carry_out(self, backend: &Arc<dyn Backend>) -> Result<Returned, String> {
        let Self { folder } = self;
        let words = |error: SnapshotError| error.to_string();
        let missing = || format!("nothing is stored of it in {}: somebody has removed it", backend.place());
        let found = Snapshot::open(backend, &folder).map_err(words)?.ok_or_else(missing)?;
        let snapshot = found.claim(found.epoch() + 1).map_err(words)?;
        let section = |kind: SectionKind| -> Result<Vec<u8>, String> {
            snapshot.section(kind).map_err(words)?.ok_or_else(|| format!("its {kind} is missing from the snapshot"))
        };
        let life = Life::from_bytes(&section(SectionKind::LEDGER)?)?;
        let record = life.record();
        if (record.id, record.incarnation) != (folder.process, folder.incarnation) {
            return Err(format!("its ledger is that of {} {:016x}", record.id, record.incarnation));
        }
        let remainder = Remainder::from_bytes(&section(SectionKind::MAILBOX)?).map_err(|error| error.to_string())?;
        let layout = ObjectsLayout::for_limit(record.state_bytes).map_err(|error| error.to_string())?;
        let (hash_seed, position) = (Some(snapshot.facts().hash_seed), snapshot.facts().position);
        let import = Import::create(layout, &ImportFacts { hash_seed, position });
        let import = import.map_err(|error| format!("no memory for its state: {error}"))?;
        let whole = Whole { import: &import, wrong: Mutex::new(None) };
        snapshot.restore(0..snapshot.pages(), READING_THREADS, &whole);
        if let Some(reason) = whole.wrong.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(reason);
        }
        import.remainder(&remainder).map_err(|error| error.to_string())?;
        let objects = import.finish().map_err(|error| error.to_string())?;
        let usage = snapshot.usage();
        let stored_bytes = usage.stored_bytes + usage.manifest_bytes;
        let read_bytes = usage.live_bytes + usage.manifest_bytes;
        Ok(Returned { objects, life, snapshot, read_bytes, stored_bytes })
    }
}

/// A segment that everything goes into. The first thing that is wrong ends it.
struct Whole<'i> {
    import: &'i Import,
    wrong: Mutex<Option<String>>,
}

impl Whole<'_> {
    fn stop(&self, reason: String) -> ControlFlow<()> {
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(reason);
        ControlFlow::Break(())
    }

    fn bring_back(&self, object: &PageObject, fill: &mut Fill<'_>) -> Result<(), String> {
        let text = std::str::from_utf8(&object.key).map_err(|_| format!("{} has no key", object.part()))?;
        let key = Key::new(Namespace(object.namespace), text).map_err(|error| error.to_string())?;
        let meta = Meta {
            type_id: object.type_id,
            schema_version: object.schema_version,
            encoding: Encoding::of_code(object.encoding),
        };
        let &PageObject { version, value_bytes, modified_unix_ms, .. } = object;
        let header = ObjectHeader { version, meta, value_bytes, modified_unix_ms };
        let mut room = self.import.room(&ImportedObject { key, header }).map_err(|error| error.to_string())?;
        fill(room.bytes_mut()).map_err(|error| error.to_string())
    }
}

impl Restored for Whole<'_> {
    fn page(&self, _number: u32, _objects: &[PageObject]) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    fn value(&self, object: &PageObject, fill: &mut Fill<'_>) -> ControlFlow<()> {
        match self.bring_back(object, fill) {
            Ok(()) => ControlFlow::Continue(()),
            Err(reason) => self.stop(reason),
        }
    }

    fn damaged_page(&self, _number: u32, error: SnapshotError) -> ControlFlow<()> {
        self.stop(error.to_string())
    }
}
