//! A process that has slept, and whose state comes back as its functions ask for it.
//!
//! What a server keeps in storage lies in the test's own memory here; the cut, the segment that objects come back into, and what
//! is said between worker and server are the real ones.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use praas_protocol::control::{StateNotFetched, StateWanted};
use praas_shm::mailbox::MailError;
use praas_shm::objects::{Key, Namespace, ObjectHeader, Objects, ObjectsLayout, StateError};
use praas_shm::swap::{
    CutValue, Import, ImportError, ImportFacts, Missing, QuietCut, Restorer, STORED_AT_BYTES, StoredAt, StoredObject,
};

use super::files::FilesDirectory;
use super::host::{HarnessError, STATE_BYTES};

/// Pages that a state comes back in: several, so that functions meet what is not there yet.
const PAGE_BITS: u32 = 4;

/// How long the cut waits for workers to be gone.
const CUT_WAIT_MAX: Duration = Duration::from_secs(10);
const CUT_LOOK_PAUSE: Duration = Duration::from_millis(1);

/// What the process has beside its memory.
#[derive(Debug)]
pub(super) struct Asleep {
    restorer: Restorer,
    objects: Vec<Kept>,
    /// Keys of users whose values are damaged.
    damaged: BTreeSet<String>,
}

#[derive(Debug)]
struct Kept {
    namespace: Namespace,
    text: String,
    hash: u64,
    header: ObjectHeader,
    value: Vec<u8>,
}

/// A process's memory as it is right after it woke, and what is to come back into it.
pub(super) struct Woken {
    pub(super) objects: Objects,
    pub(super) asleep: Arc<Asleep>,
    pub(super) files: Option<Arc<FilesDirectory>>,
}

impl Woken {
    /// Takes all out of the memory of a process whose workers end now.
    pub(super) fn of(
        objects: Objects,
        damaged: &[&str],
        files: Option<Arc<FilesDirectory>>,
    ) -> Result<Self, HarnessError> {
        let (cut, mut kept) = (begin_cut(&Arc::new(objects))?, Vec::new());
        let taken = cut.objects(|object| -> Result<(), StateError> {
            let CutValue::Here { token } = object.value else {
                return Err(StateError::Away { page: 0, version: Some(object.header.version) });
            };
            let mut value = vec![0; object.header.value_bytes as usize];
            cut.read(token, 0, &mut value)?;
            let (namespace, text) = (object.key.namespace(), object.key.text().to_owned());
            kept.push(Kept { namespace, text, hash: object.hash, header: object.header, value });
            Ok(())
        });
        taken.map_err(asleep_error)?;
        let facts = ImportFacts { hash_seed: Some(cut.hash_seed()), position: cut.position() };
        let import = Import::create_restoring(layout(), &facts, PAGE_BITS)?;
        let remainder = cut.remainder().map_err(asleep_error)?;
        import.remainder(&remainder, 1).map_err(asleep_error)?;
        let objects = import.finish().map_err(asleep_error)?;
        let again = Objects::attach(objects.fd().try_clone_to_owned()?, layout())?;
        let restorer = Restorer::new(Arc::new(again)).map_err(asleep_error)?;
        let damaged = damaged.iter().map(|&text| text.to_owned()).collect();
        Ok(Self { objects, asleep: Arc::new(Asleep { restorer, objects: kept, damaged }), files })
    }
}

impl Asleep {
    /// What a server does for a worker that asks.
    pub(super) fn fetch(&self, wanted: &StateWanted) -> Option<StateNotFetched> {
        let failed = |error: &dyn std::error::Error| StateNotFetched { is_damaged: false, reason: error.to_string() };
        match wanted {
            StateWanted::AllPages => {
                (0..1 << PAGE_BITS).find_map(|page| self.page(page).err()).map(|error| failed(&error))
            }
            StateWanted::Object { namespace, key, with_value } => {
                let key = match Key::new(Namespace(*namespace), key) {
                    Ok(key) => key,
                    Err(error) => return Some(failed(&error)),
                };
                self.object(&key, *with_value).unwrap_or_else(|error| Some(failed(&error)))
            }
        }
    }

    /// All of it but what is damaged and was not replaced.
    pub(super) fn bring_all_back(&self) -> Result<(), HarnessError> {
        for kept in &self.objects {
            let key = Key::new(kept.namespace, &kept.text).map_err(asleep_error)?;
            if let Some(StateNotFetched { reason, .. }) = self.object(&key, true).map_err(asleep_error)? {
                return Err(HarnessError::Asleep(format!("{:?} is still away: {reason}", kept.text)));
            }
        }
        Ok(())
    }

    fn object(&self, key: &Key<'_>, with_value: bool) -> Result<Option<StateNotFetched>, ImportError> {
        loop {
            match self.restorer.missing(key)? {
                Missing::Page(page) => self.page(page)?,
                Missing::Value { header, stored } if with_value => {
                    if key.namespace() == Namespace::USER && self.damaged.contains(key.text()) {
                        let reason = format!("the value of version {} is not what was stored", header.version);
                        return Ok(Some(StateNotFetched { is_damaged: true, reason }));
                    }
                    let kept = self.kept(&stored);
                    self.restorer.value(key, header.version, kept.map_or(&[], |kept| &kept.value))?;
                }
                Missing::Nothing | Missing::Value { .. } => return Ok(None),
            }
        }
    }

    fn page(&self, page: u32) -> Result<(), ImportError> {
        let objects = (0..).zip(&self.objects).filter(|(_, kept)| u64::from(page) == kept.hash >> (64 - PAGE_BITS));
        let stubs: Vec<_> = objects
            .filter_map(|(index, kept)| {
                let key = Key::new(kept.namespace, &kept.text).ok()?;
                Some(StoredObject { key, header: kept.header, stored: stored_at(index) })
            })
            .collect();
        self.restorer.page(page, &stubs).map(drop)
    }

    fn kept(&self, stored: &StoredAt) -> Option<&Kept> {
        let index = u64::from_le_bytes(*stored.0.first_chunk()?);
        self.objects.get(usize::try_from(index).ok()?)
    }
}

fn stored_at(index: u64) -> StoredAt {
    let mut stored = [0; STORED_AT_BYTES];
    stored[..8].copy_from_slice(&index.to_le_bytes());
    StoredAt(stored)
}

fn layout() -> ObjectsLayout {
    ObjectsLayout::for_limit(STATE_BYTES).expect("the default lies within the limits")
}

fn begin_cut(objects: &Arc<Objects>) -> Result<QuietCut, HarnessError> {
    let until = Instant::now() + CUT_WAIT_MAX;
    loop {
        match QuietCut::begin(Arc::clone(objects), Vec::new()) {
            Err(MailError::Busy { .. }) if Instant::now() < until => std::thread::sleep(CUT_LOOK_PAUSE),
            begun => return begun.map_err(asleep_error),
        }
    }
}

fn asleep_error(error: impl std::fmt::Display) -> HarnessError {
    HarnessError::Asleep(error.to_string())
}
