//! The state of a process as a snapshot: of one whose workers have ended, or of one that goes on.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use praas_shm::mailbox::InboundLane;
use praas_shm::objects::{Objects, StateError};
use praas_shm::swap::{self, CutObject, HeldCut, HeldCutError, QuietCut, StoredAt};
use praas_storage::snapshot::{
    self, Cut, CutError, CutFacts, CutFiles, CutValue, Glance, Glimpse, Known, Location, ObjectEntry, SectionKind,
    ShowObject, Snapshot, Tree, WritePlan,
};
use praas_storage::{Backend, Folder, Owner};

use super::filling::Filling;
use super::life::Life;
use super::removing;
use super::transfer::Written;
use crate::files::measuring::excess;
use crate::limits::{FIRST_EPOCH, LEFTOVERS_LOOK_MAX};
use crate::wake_ups;

/// How long a process waits before it is written until nothing more of it comes back: what is under way ends by the storage's
/// deadlines, and is short of any trouble there.
const STILL_FILLING_MAX: Duration = Duration::from_secs(90);

/// What is to be written.
#[derive(Debug)]
pub(super) struct WriteJob {
    pub(super) folder: Folder,
    pub(super) objects: Arc<Objects>,
    pub(super) life: Life,
    /// All lanes that bring messages to it.
    pub(super) lanes: Vec<InboundLane>,
    /// The snapshot that this one follows, if it was read or written by this server.
    pub(super) base: Option<Snapshot>,
    /// The epoch by which this server owns it, if it has claimed it.
    pub(super) epoch: Option<u64>,
    /// This server.
    pub(super) owner: Owner,
    /// What brings back what is still away, if something is.
    pub(super) filling: Option<Arc<Filling>>,
    /// Its files; `None` leaves in storage what is there.
    pub(super) files: Option<FilesJob>,
    /// Whether the process goes on: what it has at one position is written then, and its lanes are left alone.
    pub(super) goes_on: bool,
    /// Whether parts may be stored that nobody needs.
    pub(super) has_leftovers: bool,
    /// Whether there is time to look for these.
    pub(super) has_time: bool,
}

/// How the files of a process are taken.
#[derive(Debug)]
pub(super) struct FilesJob {
    /// Where they lie.
    pub(super) path: PathBuf,
    /// Whom they must belong to.
    pub(super) owner: Option<u32>,
    /// How many bytes they may have; 0 if the application has no files now: then they are what they were.
    pub(super) bytes_max: u64,
    /// What is known of them since the process woke.
    pub(super) known: Option<Arc<Known>>,
}

impl FilesJob {
    /// What there is; `None` without a directory. The error says what is wrong with it.
    fn open(&self) -> Result<Option<Tree>, String> {
        let tree = Tree::open(&self.path, self.owner).map_err(|error| format!("its files: {error}"))?;
        let usage = tree.as_ref().map(Tree::usage).unwrap_or_default();
        excess(usage, self.bytes_max).map_or(Ok(tree), Err)
    }
}

impl WriteJob {
    /// Writes and publishes it; the error says why not. Nothing of the process has changed then.
    pub(super) fn carry_out(self, backend: &Arc<dyn Backend>) -> Result<Written, String> {
        let Self {
            folder,
            objects,
            mut life,
            lanes,
            base,
            epoch,
            owner,
            filling,
            files,
            goes_on,
            has_leftovers,
            has_time,
        } = self;
        let is_whole = filling.is_none();
        if filling.is_some_and(|filling| !filling.stop(STILL_FILLING_MAX)) {
            return Err(format!("some of it was still coming back after {STILL_FILLING_MAX:?}; storage is slow"));
        }
        let base = match base {
            Some(base) => Some(base),
            None => Snapshot::open(backend, &folder).map_err(|error| error.to_string())?,
        };
        let base = match base {
            // It was to be stopped, which failed, and its memory has outlived that.
            Some(ended) if ended.is_ended() && ended.owner() == owner => {
                removing::remove_folder(backend, &folder)?;
                None
            }
            Some(ended) if ended.is_ended() => {
                return Err("another server that shares the storage has stopped it".into());
            }
            base => base,
        };
        // What was never claimed has been stored by who made it alone, if at all, also by one before this server.
        let epoch = epoch.unwrap_or(FIRST_EPOCH);
        if let Some(found) = base.as_ref().map(Snapshot::epoch).filter(|found| *found != epoch) {
            return Err(format!(
                "it is stored with epoch {found}, this server owned it with {epoch}: another owns it now"
            ));
        }
        life.epoch = epoch;
        let tree = files.as_ref().map(FilesJob::open).transpose()?.flatten();
        let known = files.and_then(|files| files.known);
        let (cut, mailbox) = if goes_on {
            let cut = HeldCut::begin(objects, lanes).map_err(|error| error.to_string())?;
            life.next_wake_unix_ms = wake_ups::next_due_of_held(&cut, life.next_wake_unix_ms)?;
            let mailbox = cut.remainder().to_bytes();
            (AnyCut::Held(cut), mailbox)
        } else {
            let cut = QuietCut::begin(objects, lanes).map_err(|error| error.to_string())?;
            follows(&cut, base.as_ref())?;
            life.next_wake_unix_ms = wake_ups::next_due(&cut, life.next_wake_unix_ms)?;
            let mailbox = cut.remainder().map_err(|error| error.to_string())?.to_bytes();
            (AnyCut::Quiet(cut), mailbox)
        };
        let sections = vec![(SectionKind::MAILBOX, mailbox), (SectionKind::LEDGER, life.to_bytes()?)];
        let mut plan = WritePlan { threads: backend.transfers_at_once(), owner, ..WritePlan::new(epoch) };
        // One that goes on may ask for values where they were left.
        plan.compact = !matches!(&cut, AnyCut::Held(cut) if cut.has_stubs());
        let looks_for_leftovers = has_leftovers && has_time && is_whole && plan.compact;
        let cut = StateCut { cut, sections, tree, known };
        let written = snapshot::write(backend, &folder, base.as_ref(), &cut, &plan);
        let (snapshot, written) = written.map_err(|error| error.to_string())?;
        let usage = snapshot.usage();
        let stored_bytes = usage.stored_bytes + usage.manifest_bytes;
        // It is this server's: it has just published it. What cannot be removed now is tried again the next time.
        let removed = looks_for_leftovers.then(|| snapshot.remove_unreferenced(LEFTOVERS_LOOK_MAX));
        Ok(Written {
            moved_bytes: written.bytes,
            stored_bytes,
            next_wake_unix_ms: life.next_wake_unix_ms,
            has_leftovers: written.left_over.is_some() || has_leftovers && !matches!(removed, Some(Ok(_))),
            removed: removed.and_then(Result::ok).unwrap_or_default(),
            snapshot,
        })
    }
}

/// Whether what is still away of a process lies in the snapshot that the next one follows; the error says why not.
fn follows(cut: &QuietCut, base: Option<&Snapshot>) -> Result<(), String> {
    let Some(bits) = cut.page_bits() else { return Ok(()) };
    match base {
        Some(base) if base.page_bits() == bits && base.facts().hash_seed == cut.hash_seed() => Ok(()),
        Some(base) => Err(format!(
            "some of it is still in storage, in pages of {bits} bits, and what is stored has pages of {} bits and may be of \
             another",
            base.page_bits()
        )),
        None => Err("some of it was still in storage, and nothing is stored of it any more".into()),
    }
}

/// What of the segment is written.
#[derive(Debug)]
enum AnyCut {
    Quiet(QuietCut),
    Held(HeldCut),
}

/// The same as the snapshot wants to see it, with what else there is of the process.
#[derive(Debug)]
struct StateCut {
    cut: AnyCut,
    sections: Vec<(SectionKind, Vec<u8>)>,
    /// The files, if they are taken now.
    tree: Option<Tree>,
    known: Option<Arc<Known>>,
}

/// An error of either side, while objects are shown.
struct Refused(CutError);

impl From<StateError> for Refused {
    fn from(error: StateError) -> Self {
        Self(CutError::new(error))
    }
}

impl From<HeldCutError> for Refused {
    fn from(error: HeldCutError) -> Self {
        Self(CutError::new(error))
    }
}

/// Shows one object as the snapshot wants to see it.
fn show_object(object: &CutObject<'_>, show: &mut ShowObject<'_>) -> Result<(), Refused> {
    let header = object.header;
    let entry = ObjectEntry {
        hash: object.hash,
        namespace: object.key.namespace().0,
        key: object.key.text().as_bytes(),
        version: header.version,
        type_id: header.meta.type_id,
        schema_version: header.meta.schema_version,
        encoding: header.meta.encoding.code(),
        modified_unix_ms: header.modified_unix_ms,
        value_bytes: header.value_bytes,
    };
    let value = match object.value {
        swap::CutValue::Here { token } => CutValue::Here { token },
        swap::CutValue::Stored(StoredAt(bytes)) => CutValue::Stored(
            Location::from_bytes(&bytes)
                .ok_or_else(|| Refused(CutError::new("where a value is stored cannot be a place")))?,
        ),
    };
    show(entry, value).map_err(Refused)
}

impl Cut for StateCut {
    fn facts(&self) -> CutFacts {
        match &self.cut {
            AnyCut::Quiet(cut) => CutFacts {
                position: cut.position(),
                hash_seed: cut.hash_seed(),
                state_bytes: cut.state_bytes(),
                objects: cut.object_count(),
            },
            AnyCut::Held(cut) => CutFacts {
                position: cut.position(),
                hash_seed: cut.hash_seed(),
                state_bytes: cut.state_bytes(),
                objects: cut.object_count(),
            },
        }
    }

    fn sections(&self) -> &[(SectionKind, Vec<u8>)] {
        &self.sections
    }

    fn objects(&self, show: &mut ShowObject<'_>) -> Result<(), CutError> {
        let shown = match &self.cut {
            AnyCut::Quiet(cut) => cut.objects(|object| show_object(object, show)),
            AnyCut::Held(cut) => cut.objects(|object| show_object(object, show)),
        };
        shown.map_err(|Refused(error)| error)
    }

    fn survey(
        &self,
        part: u32,
        parts: u32,
        glance: &mut Glance<'_>,
        show: &mut ShowObject<'_>,
    ) -> Result<(), CutError> {
        let AnyCut::Quiet(cut) = &self.cut else { return snapshot::survey_undivided(self, part, glance, show) };
        let glance = |object: &swap::CutGlimpse| {
            let &swap::CutGlimpse { hash, namespace, version, value_bytes } = object;
            glance(&Glimpse { hash, namespace: namespace.0, version, value_bytes })
        };
        let shown = cut.survey((part, parts), glance, |object| show_object(object, show));
        shown.map_err(|Refused(error)| error)
    }

    fn is_absent(&self, page: u32) -> bool {
        // One that goes on is written only when all its pages are back.
        matches!(&self.cut, AnyCut::Quiet(cut) if cut.is_absent(page))
    }

    fn files(&self) -> CutFiles<'_> {
        match &self.tree {
            Some(tree) => CutFiles::Taken { tree, known: self.known.as_deref() },
            None => CutFiles::Kept,
        }
    }

    fn read(&self, token: u64, offset: u64, into: &mut [u8]) -> Result<(), CutError> {
        match &self.cut {
            AnyCut::Quiet(cut) => cut.read(token, offset, into).map_err(CutError::new),
            AnyCut::Held(cut) => cut.read(token, offset, into).map_err(CutError::new),
        }
    }
}

#[cfg(test)]
mod tests {
    use praas_shm::objects::ObjectsLayout;
    use praas_storage::MemoryBackend;

    use super::*;
    use crate::process_ledger::LedgerRecord;

    const STATE_BYTES: u64 = 1 << 20;

    /// A process in memory, of which a server knows this epoch.
    fn job(objects: &Arc<Objects>, epoch: Option<u64>) -> WriteJob {
        let folder = Folder { process: "notes/alice".parse().unwrap(), incarnation: 9 };
        let record = LedgerRecord::new(folder.process, folder.incarnation, STATE_BYTES, None);
        WriteJob {
            folder,
            objects: Arc::clone(objects),
            life: Life::new(&record, None, 0),
            lanes: Vec::new(),
            base: None,
            epoch,
            owner: Owner::default(),
            filling: None,
            files: None,
            goes_on: false,
            has_leftovers: false,
            has_time: false,
        }
    }

    #[test]
    fn what_was_never_claimed_follows_its_own_snapshots_and_no_other_owners() {
        let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
        let objects = Arc::new(Objects::create(ObjectsLayout::for_limit(STATE_BYTES).unwrap()).unwrap());
        let write = |epoch| job(&objects, epoch).carry_out(&backend).map(|written| written.snapshot);
        assert_eq!(write(None).unwrap().epoch(), FIRST_EPOCH);
        // By a server before this one, which nobody has told it.
        let stored = write(None).unwrap();
        assert_eq!(stored.epoch(), FIRST_EPOCH);
        let claimed = stored.claim(FIRST_EPOCH + 1, Owner::default()).unwrap();
        for epoch in [None, Some(FIRST_EPOCH), Some(FIRST_EPOCH + 2)] {
            let refused = write(epoch).unwrap_err();
            assert!(refused.contains("another owns it now"), "{epoch:?}: {refused}");
        }
        assert_eq!(write(Some(claimed.epoch())).unwrap().epoch(), claimed.epoch());
    }
}
