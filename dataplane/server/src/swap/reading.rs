//! A snapshot as the state of a process: a small one whole, before anybody else has the memory; of a large one only what is not
//! an object, and its objects as they are asked for ([`super::filling`]).
//!
//! 1. Its manifest is claimed by a higher epoch, beside the reading: whoever else believes to own the process learns that it does
//!    not. Nothing that was read is used before that is done.
//! 2. Values are read by several threads, straight into the places that the segment has for them, those that lie beside each
//!    other in storage at once.
//! 3. Its files are restored as a whole, before it is said to be back: no function sees a part of them.
//! 4. What is damaged or missing is named, and nothing comes of the process: it stays asleep.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};

use praas_shm::objects::{Objects, ObjectsLayout};
use praas_shm::swap::{Import, ImportFacts, ImportedObject, Remainder, ReturnedLane, StoredObject};
use praas_storage::snapshot::{PageObject, Restored, SectionKind, Snapshot, SnapshotError, StoredValue};
use praas_storage::{Backend, Folder, Owner};

use super::filling::stub_of;
use super::life::{Life, Stays};
use super::replaying;
use crate::data_directory::DataDirectory;
use crate::durability::DiskLog;
use crate::files::{FilesName, RestoredFiles};

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
    /// Whether this very server has put it to sleep: then it gave out nothing after what is stored.
    pub(super) has_slept: bool,
    /// From which number on lanes may be made for what lay in some.
    pub(super) first_serial: u64,
    /// Where its files are restored.
    pub(super) data: Arc<DataDirectory>,
    /// This server.
    pub(super) owner: Owner,
    /// Whether processes have users of their own.
    pub(super) gives_users: bool,
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
    /// What it may have given out before, unknown to what it was read from.
    pub(super) stays: Stays,
    /// Whether it was made of a log that goes on.
    pub(super) is_replayed: bool,
    /// Its files directory, if it has files.
    pub(super) files: Option<RestoredFiles>,
    /// Whether its objects come back later.
    pub(super) is_restoring: bool,
    pub(super) read_bytes: u64,
    pub(super) stored_bytes: u64,
}

/// Why a process was not read.
#[derive(Debug)]
pub(crate) enum NotRead {
    /// It was stopped: by another server, or by this one, which could not remove all of it.
    Ended,
    /// Something else is wrong; in words.
    Failed(String),
}

impl From<String> for NotRead {
    fn from(reason: String) -> Self {
        Self::Failed(reason)
    }
}

impl ReadJob {
    /// Reads it; the error says why not. What is stored has not changed then, but that it may be claimed.
    pub(super) fn carry_out(self, backend: &Arc<dyn Backend>) -> Result<Returned, NotRead> {
        let folder = self.folder;
        if let Some(log) = &self.log
            && let Some(mut returned) = replaying::replay(backend, &folder, log, self.owner)?
        {
            if let Some(snapshot) = &returned.snapshot {
                returned.files = self.files(snapshot, &returned.life, returned.stays, snapshot.epoch())?;
            }
            return Ok(returned);
        }
        let words = |error: SnapshotError| error.to_string();
        let missing = || format!("nothing is stored of it in {}: somebody has removed it", backend.place());
        let found = Snapshot::open(backend, &folder).map_err(words)?.ok_or_else(missing)?;
        if found.is_ended() {
            return Err(NotRead::Ended);
        }
        // What makes the claim last takes a disk about as long as all the rest, and a bucket longer.
        let epoch = found.epoch() + 1;
        let (claimed, contents) = std::thread::scope(|scope| {
            let claim = scope.spawn(|| found.claim(epoch, self.owner));
            let contents = self
                .contents(&found, epoch)
                .and_then(|contents| Ok((self.files(&found, &contents.life, contents.stays, epoch)?, contents)));
            (claim.join(), contents)
        });
        let snapshot = claimed.map_err(|_| "claiming it has panicked".to_owned())?.map_err(words)?;
        let (files, Contents { objects, life, lanes, stays, is_restoring, read_bytes }) = contents?;
        let usage = snapshot.usage();
        let stored_bytes = usage.stored_bytes + usage.manifest_bytes;
        let files_bytes = files.as_ref().filter(|_| is_restoring).map_or(0, RestoredFiles::bytes);
        let read_bytes = read_bytes + usage.manifest_bytes + files_bytes;
        let (snapshot, is_replayed) = (Some(snapshot), false);
        Ok(Returned {
            objects,
            life,
            lanes,
            snapshot,
            stays,
            is_replayed,
            files,
            is_restoring,
            read_bytes,
            stored_bytes,
        })
    }

    /// What is stored beside the manifest, for who claims it with this epoch.
    fn contents(&self, snapshot: &Snapshot, epoch: u64) -> Result<Contents, String> {
        let life = life_of(&self.folder, snapshot)?;
        let stays = life.stays_until(epoch, self.has_slept);
        Contents::read(snapshot, life, stays, self.is_logged, self.first_serial)
    }

    /// Restores its files for the stay in memory that has this epoch.
    fn files(
        &self,
        snapshot: &Snapshot,
        life: &Life,
        stays: Stays,
        epoch: u64,
    ) -> Result<Option<RestoredFiles>, String> {
        let record = life.record(epoch, stays, false);
        let owner = record.user.filter(|_| self.gives_users);
        RestoredFiles::make(snapshot, self.data.files_path(&FilesName::of(&record)), owner, READING_THREADS)
    }
}

/// A section that every snapshot of a process has.
pub(super) fn section_of(snapshot: &Snapshot, kind: SectionKind) -> Result<Vec<u8>, String> {
    let section = snapshot.section(kind).map_err(|error| error.to_string())?;
    section.ok_or_else(|| format!("its {kind} is missing from the snapshot"))
}

/// What a snapshot says of its process beside the state.
pub(super) fn life_of(folder: &Folder, snapshot: &Snapshot) -> Result<Life, String> {
    let life = Life::from_bytes(&section_of(snapshot, SectionKind::LEDGER)?)?;
    life.check_folder(folder, "ledger")?;
    Ok(life)
}

/// What was read beside the manifest.
struct Contents {
    objects: Objects,
    life: Life,
    lanes: Vec<ReturnedLane>,
    stays: Stays,
    is_restoring: bool,
    read_bytes: u64,
}

impl Contents {
    fn read(snapshot: &Snapshot, life: Life, stays: Stays, is_logged: bool, first_serial: u64) -> Result<Self, String> {
        let mailbox = section_of(snapshot, SectionKind::MAILBOX)?;
        let mut remainder = Remainder::from_bytes(&mailbox).map_err(|error| error.to_string())?;
        remainder.last_sequence = stays.sequence(remainder.last_sequence)?;
        let layout = ObjectsLayout::for_limit(life.state_bytes()).map_err(|error| error.to_string())?;
        if is_logged && !remainder.lanes.is_empty() {
            // What waited in lanes goes into its state, as it would if there were a log by now. Its positions are those that a
            // replay of the log will give it, so none is skipped.
            let (contents, _) = replaying::contents_of(snapshot)?;
            let objects = replaying::made_of(&contents, life.state_bytes(), Some(snapshot), remainder.last_sequence)?;
            let read_bytes = snapshot.usage().live_bytes;
            return Ok(Self { objects, life, lanes: Vec::new(), stays, is_restoring: false, read_bytes });
        }
        let facts = snapshot.facts();
        let facts = ImportFacts { hash_seed: Some(facts.hash_seed), position: stays.position(facts.position)? };
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
        Ok(Self { objects, life, lanes, stays, is_restoring, read_bytes })
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
