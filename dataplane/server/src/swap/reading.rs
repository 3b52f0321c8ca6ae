//! A snapshot as the state of a process: a small one whole, before anybody else has the memory; of a large one only what is not
//! an object, and its objects as they are asked for ([`super::filling`]).
//!
//! 1. Its manifest is claimed by a higher epoch, beside the reading: whoever else believes to own the process learns that it does
//!    not. Nothing that was read is used before that is done.
//! 2. Values are read by several threads, straight into the places that the segment has for them, those that lie beside each
//!    other in storage at once.
//! 3. What is damaged or missing is named, and nothing comes of the process: it stays asleep.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};

use praas_shm::objects::{Objects, ObjectsLayout};
use praas_shm::swap::{Import, ImportFacts, ImportedObject, Remainder, ReturnedLane, StoredObject};
use praas_storage::snapshot::{PageObject, Restored, SectionKind, Snapshot, SnapshotError, StoredValue};
use praas_storage::{Backend, Folder};

use super::filling::stub_of;
use super::life::Life;
use super::replaying;
use crate::durability::DiskLog;

/// Threads that read one process: enough to keep a disk busy, or the network to a bucket.
pub(super) const READING_THREADS: usize = 8;

/// Bytes of values up to which a process is read whole before it runs: that takes as long as to start its first worker.
const WHOLE_BYTES_MAX: u64 = 4 << 20;

/// What is to be read.
#[derive(Debug)]
pub(super) struct ReadJob {
    pub(super) folder: Folder,
    /// Where its log may be.
    pub(super) log: Option<DiskLog>,
    /// Whether it is to be logged: then it has no lanes.
    pub(super) is_logged: bool,
    /// From which number on lanes may be made for what lay in some.
    pub(super) first_serial: u64,
}

/// A process as it was read.
#[derive(Debug)]
pub(crate) struct Returned {
    pub(super) objects: Objects,
    pub(super) life: Life,
    /// Lanes with what lay in them.
    pub(super) lanes: Vec<ReturnedLane>,
    /// What it was read from; `None` for one that has never slept, and was made of its log.
    pub(super) snapshot: Option<Snapshot>,
    /// Whether its objects come back later.
    pub(super) is_restoring: bool,
    pub(super) read_bytes: u64,
    pub(super) stored_bytes: u64,
}

impl ReadJob {
    /// Reads it; the error says why not. What is stored has not changed then, but that it may be claimed.
    pub(super) fn carry_out(self, backend: &Arc<dyn Backend>) -> Result<Returned, String> {
        let Self { folder, log, is_logged, first_serial } = self;
        if let Some(log) = log
            && let Some(returned) = replaying::replay(backend, &folder, &log)?
        {
            return Ok(returned);
        }
        let words = |error: SnapshotError| error.to_string();
        let missing = || format!("nothing is stored of it in {}: somebody has removed it", backend.place());
        let found = Snapshot::open(backend, &folder).map_err(words)?.ok_or_else(missing)?;
        // What makes the claim last takes a disk about as long as all the rest, and a bucket longer.
        let (claimed, contents) = std::thread::scope(|scope| {
            let claim = scope.spawn(|| found.claim(found.epoch() + 1));
            let contents = Contents::read(&folder, &found, is_logged, first_serial);
            (claim.join(), contents)
        });
        let snapshot = claimed.map_err(|_| "claiming it has panicked".to_owned())?.map_err(words)?;
        let Contents { objects, life, lanes, is_restoring, read_bytes } = contents?;
        let usage = snapshot.usage();
        let stored_bytes = usage.stored_bytes + usage.manifest_bytes;
        let read_bytes = read_bytes + usage.manifest_bytes;
        Ok(Returned { objects, life, lanes, snapshot: Some(snapshot), is_restoring, read_bytes, stored_bytes })
    }
}

/// What was read beside the manifest.
struct Contents {
    objects: Objects,
    life: Life,
    lanes: Vec<ReturnedLane>,
    is_restoring: bool,
    read_bytes: u64,
}

impl Contents {
    fn read(folder: &Folder, snapshot: &Snapshot, is_logged: bool, first_serial: u64) -> Result<Self, String> {
        let words = |error: SnapshotError| error.to_string();
        let section = |kind: SectionKind| -> Result<Vec<u8>, String> {
            snapshot.section(kind).map_err(words)?.ok_or_else(|| format!("its {kind} is missing from the snapshot"))
        };
        let life = Life::from_bytes(&section(SectionKind::LEDGER)?)?;
        let record = life.record(0, false);
        if (record.id, record.incarnation) != (folder.process, folder.incarnation) {
            return Err(format!("its ledger is that of {} {:016x}", record.id, record.incarnation));
        }
        let mailbox = section(SectionKind::MAILBOX)?;
        let mut remainder = Remainder::from_bytes(&mailbox).map_err(|error| error.to_string())?;
        remainder.last_sequence = life.number_behind(remainder.last_sequence);
        let layout = ObjectsLayout::for_limit(record.state_bytes).map_err(|error| error.to_string())?;
        if is_logged && !remainder.lanes.is_empty() {
            // What waited in lanes goes into its state, as it would if there were a log by now.
            let objects = replaying::made_of(&replaying::contents_of(snapshot)?, record.state_bytes, Some(snapshot))?;
            let read_bytes = snapshot.usage().live_bytes;
            return Ok(Self { objects, life, lanes: Vec::new(), is_restoring: false, read_bytes });
        }
        let facts = snapshot.facts();
        let facts = ImportFacts { hash_seed: Some(facts.hash_seed), position: life.number_behind(facts.position) };
        let usage = snapshot.usage();
        let is_restoring = usage.value_bytes > WHOLE_BYTES_MAX && snapshot.page_bits() <= layout.page_bits_max();
        let import = if is_restoring {
            Import::create_restoring(layout, &facts, snapshot.page_bits())
        } else {
            Import::create(layout, &facts)
        };
        let import = import.map_err(|error| format!("no memory for its state: {error}"))?;
        if !is_restoring {
            let whole = Whole { import: &import, wrong: Mutex::new(None) };
            snapshot.restore(0..snapshot.pages(), READING_THREADS, &whole);
            if let Some(reason) = whole.wrong.into_inner().unwrap_or_else(PoisonError::into_inner) {
                return Err(reason);
            }
        }
        let lanes = import.remainder(&remainder, first_serial).map_err(|error| error.to_string())?;
        let objects = import.finish().map_err(|error| error.to_string())?;
        let read_bytes = if is_restoring { mailbox.len() as u64 } else { usage.live_bytes };
        Ok(Self { objects, life, lanes, is_restoring, read_bytes })
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

    fn bring_back(&self, object: &PageObject, value: &StoredValue<'_>) -> Result<(), String> {
        let StoredObject { key, header, .. } = stub_of(object)?;
        let mut room = self.import.room(&ImportedObject { key, header }).map_err(|error| error.to_string())?;
        value.fill(room.bytes_mut()).map_err(|error| error.to_string())
    }
}

impl Restored for Whole<'_> {
    fn page(&self, _number: u32, _objects: &[PageObject]) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    fn value(&self, object: &PageObject, value: &StoredValue<'_>) -> ControlFlow<()> {
        match self.bring_back(object, value) {
            Ok(()) => ControlFlow::Continue(()),
            Err(reason) => self.stop(reason),
        }
    }

    fn damaged_page(&self, _number: u32, error: SnapshotError) -> ControlFlow<()> {
        self.stop(error.to_string())
    }
}
