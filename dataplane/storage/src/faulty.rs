//! A backend that does what storage does on its bad days: fails, stalls, loses an acknowledgement, gives back what is old, cut
//! short or damaged. For tests of whatever stands on storage; the storage beneath is a real one.
//!
//! Each call of the trait counts, and what is planned for it happens to it alone. Handles share plan and counts ([`Clone`]), so
//! that a test keeps one while a server works with another.
//!
//! 1. A call that nothing is planned for goes through as it is.
//! 2. What is refused or stalled to its end has not happened. What lost its acknowledgement has.
//! 3. Nothing stalls longer than the stall limit: then the call is [`StorageError::Late`], as with any backend.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::backend::{Backend, BlobEntry, Published, Revision};
use crate::error::StorageError;
use crate::name::{BlobName, Folder};

/// How long a call stalls that nobody releases, unless it is set: as long as patient backends wait.
const STALL_LIMIT_MS_DEFAULT: u64 = 30_000;

/// What a call asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// [`Backend::put`].
    Put,
    /// [`Backend::read`].
    Read,
    /// [`Backend::flush`].
    Flush,
    /// [`Backend::manifest`].
    Manifest,
    /// [`Backend::publish`].
    Publish,
    /// [`Backend::blobs`].
    Blobs,
    /// [`Backend::folders`].
    Folders,
    /// [`Backend::remove`].
    Remove,
    /// [`Backend::remove_folder`].
    RemoveFolder,
}

impl Operation {
    fn what(self) -> &'static str {
        match self {
            Self::Put => "writing a blob",
            Self::Read => "reading a blob",
            Self::Flush => "making blobs last",
            Self::Manifest => "reading a manifest",
            Self::Publish => "publishing a manifest",
            Self::Blobs => "listing blobs",
            Self::Folders => "listing folders",
            Self::Remove => "removing blobs",
            Self::RemoveFolder => "removing a folder",
        }
    }
}

/// Which calls something is planned for. The first call is number 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// The call of this number, once.
    Call(u64),
    /// All calls from this number on.
    From(u64),
    /// The call of this number among those of its operation, once.
    Nth(Operation, u64),
    /// All calls of an operation.
    Every(Operation),
}

/// With which error a call is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// [`StorageError::Failed`].
    Failed,
    /// [`StorageError::Full`].
    Full,
    /// [`StorageError::Denied`].
    Denied,
    /// [`StorageError::Unusable`].
    Unusable,
}

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is not done.
    Refuse(Refusal),
    /// It waits until it is released, and is done then; or its time passes, and it is not.
    Stall,
    /// It is done, and its caller is told that it was late.
    LoseAcknowledgement,
    /// What is read loses its second half, which becomes zeros in a blob; what is written does so too. Nobody is told.
    Truncate,
    /// A blob is not there yet; the manifest is the one before; a list is empty. Changes are done as they should.
    Old,
    /// One bit of what is read, or written, is another one. Nobody is told. Lists and removals are as they should.
    Damage,
}

/// A backend and what is planned to go wrong with it.
#[derive(Debug, Clone)]
pub struct Faulty {
    inner: Arc<dyn Backend>,
    shared: Arc<Shared>,
    stall_limit: Duration,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    calls: u64,
    calls_of: HashMap<Operation, u64>,
    planned: Vec<(When, Fault)>,
    /// The manifest before the present one, of each folder that one was published in through this.
    before: HashMap<Folder, Option<Published>>,
    stalled: usize,
    /// How often stalled calls were released.
    releases: u64,
}

impl Faulty {
    /// One with nothing planned.
    #[must_use]
    pub fn new(inner: Arc<dyn Backend>) -> Self {
        Self { inner, shared: Arc::default(), stall_limit: Duration::from_millis(STALL_LIMIT_MS_DEFAULT) }
    }

    /// The same, but that its calls stall no longer than that.
    #[must_use]
    pub fn with_stall_limit_ms(self, limit_ms: u64) -> Self {
        Self { stall_limit: Duration::from_millis(limit_ms), ..self }
    }

    /// Plans a fault. Of several for the same call the one that was planned first happens.
    pub fn plan(&self, when: When, fault: Fault) {
        self.state().planned.push((when, fault));
    }

    /// Forgets what is planned, and releases what is stalled.
    pub fn heal(&self) {
        self.state().planned.clear();
        self.release();
    }

    /// Lets all calls go on that are stalled now.
    pub fn release(&self) {
        self.state().releases += 1;
        self.shared.changed.notify_all();
    }

    /// Calls so far, which is also the number of the next one.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.state().calls
    }

    /// Calls of an operation so far.
    #[must_use]
    pub fn calls_of(&self, operation: Operation) -> u64 {
        self.state().calls_of.get(&operation).copied().unwrap_or(0)
    }

    /// Waits until at least so many calls are stalled; whether they are.
    #[must_use]
    pub fn wait_for_stalled(&self, count: usize, patience: Duration) -> bool {
        let waited = self.shared.changed.wait_timeout_while(self.state(), patience, |state| state.stalled < count);
        waited.unwrap_or_else(PoisonError::into_inner).0.stalled >= count
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic of a test's thread leaves counts and a plan that are whole.
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a call. Refuses or stalls it, if that is planned; else tells what is to be done to it.
    fn begin(&self, operation: Operation) -> Result<Option<Fault>, StorageError> {
        match self.count(operation) {
            Some(Fault::Refuse(refusal)) => Err(self.refused(operation, refusal)),
            Some(Fault::Stall) => self.stall(operation).map(|()| None),
            fault => Ok(fault),
        }
    }

    fn count(&self, operation: Operation) -> Option<Fault> {
        let mut state = self.state();
        let call = state.calls;
        state.calls += 1;
        let of = state.calls_of.entry(operation).or_default();
        let nth = *of;
        *of += 1;
        let applies = |when: When| match when {
            When::Call(number) => number == call,
            When::From(number) => number <= call,
            When::Nth(of, number) => of == operation && number == nth,
            When::Every(of) => of == operation,
        };
        state.planned.iter().find(|(when, _)| applies(*when)).map(|(_, fault)| *fault)
    }

    fn stall(&self, operation: Operation) -> Result<(), StorageError> {
        let until = Instant::now() + self.stall_limit;
        let mut state = self.state();
        let releases = state.releases;
        state.stalled += 1;
        self.shared.changed.notify_all();
        let mut released = false;
        while !released {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = self.shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
            released = state.releases != releases;
        }
        state.stalled -= 1;
        if released { Ok(()) } else { Err(self.late(operation)) }
    }

    fn refused(&self, operation: Operation, refusal: Refusal) -> StorageError {
        let (place, what, reason) = (self.place(), operation.what(), "as planned".to_owned());
        match refusal {
            Refusal::Failed => StorageError::Failed { place, what, reason },
            Refusal::Full => StorageError::Full { place, what, reason },
            Refusal::Denied => StorageError::Denied { place, what, reason },
            Refusal::Unusable => StorageError::Unusable { place, reason, advice: "heal it" },
        }
    }

    fn late(&self, operation: Operation) -> StorageError {
        StorageError::late(self.place(), operation.what(), self.stall_limit)
    }

    /// What becomes of a call that was done.
    fn end<T>(&self, operation: Operation, fault: Option<Fault>, done: T) -> Result<T, StorageError> {
        if fault == Some(Fault::LoseAcknowledgement) { Err(self.late(operation)) } else { Ok(done) }
    }

    /// Keeps the manifest that is about to be replaced, for whoever is to be given an old one.
    fn published(&self, folder: &Folder, before: Option<Published>) {
        self.state().before.insert(*folder, before);
    }
}

/// What is left of bytes that are to be written.
fn spoilt(fault: Option<Fault>, bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    match fault {
        Some(Fault::Truncate) => bytes.truncate(bytes.len() / 2),
        Some(Fault::Damage) => flip(&mut bytes),
        _ => {}
    }
    bytes
}

/// Changes the lowest bit in the middle.
fn flip(bytes: &mut [u8]) {
    let middle = bytes.len() / 2;
    if let Some(byte) = bytes.get_mut(middle) {
        *byte ^= 1;
    }
}

impl Backend for Faulty {
    fn place(&self) -> String {
        format!("faulty {}", self.inner.place())
    }

    fn put(&self, blob: &BlobName, bytes: &[u8]) -> Result<(), StorageError> {
        let fault = self.begin(Operation::Put)?;
        match fault {
            Some(Fault::Truncate | Fault::Damage) => self.inner.put(blob, &spoilt(fault, bytes))?,
            _ => self.inner.put(blob, bytes)?,
        }
        self.end(Operation::Put, fault, ())
    }

    fn read(&self, blob: &BlobName, offset: u64, into: &mut [u8]) -> Result<(), StorageError> {
        let fault = self.begin(Operation::Read)?;
        if fault == Some(Fault::Old) {
            return Err(StorageError::missing(blob, self.place()));
        }
        self.inner.read(blob, offset, into)?;
        match fault {
            Some(Fault::Truncate) => {
                let half = into.len() / 2;
                into[half..].fill(0);
            }
            Some(Fault::Damage) => flip(into),
            _ => {}
        }
        self.end(Operation::Read, fault, ())
    }

    fn flush(&self, folder: &Folder) -> Result<(), StorageError> {
        let fault = self.begin(Operation::Flush)?;
        self.inner.flush(folder)?;
        self.end(Operation::Flush, fault, ())
    }

    fn manifest(&self, folder: &Folder) -> Result<Option<Published>, StorageError> {
        let fault = self.begin(Operation::Manifest)?;
        let mut present = match fault {
            Some(Fault::Old) => self.state().before.get(folder).cloned().flatten(),
            _ => self.inner.manifest(folder)?,
        };
        if let Some(published) = &mut present {
            published.bytes = spoilt(fault, &published.bytes);
        }
        self.end(Operation::Manifest, fault, present)
    }

    fn publish(&self, folder: &Folder, replaces: Option<&Revision>, bytes: &[u8]) -> Result<Revision, StorageError> {
        let fault = self.begin(Operation::Publish)?;
        let before = self.inner.manifest(folder)?;
        let revision = match fault {
            Some(Fault::Truncate | Fault::Damage) => self.inner.publish(folder, replaces, &spoilt(fault, bytes))?,
            _ => self.inner.publish(folder, replaces, bytes)?,
        };
        self.published(folder, before);
        self.end(Operation::Publish, fault, revision)
    }

    fn blobs(&self, folder: &Folder, after: Option<&BlobName>) -> Result<Vec<BlobEntry>, StorageError> {
        let fault = self.begin(Operation::Blobs)?;
        let mut blobs = self.inner.blobs(folder, after)?;
        shorten(fault, &mut blobs);
        self.end(Operation::Blobs, fault, blobs)
    }

    fn folders(&self, after: Option<&Folder>) -> Result<Vec<Folder>, StorageError> {
        let fault = self.begin(Operation::Folders)?;
        let mut folders = self.inner.folders(after)?;
        shorten(fault, &mut folders);
        self.end(Operation::Folders, fault, folders)
    }

    fn remove(&self, blobs: &[BlobName]) -> Result<(), StorageError> {
        let fault = self.begin(Operation::Remove)?;
        self.inner.remove(blobs)?;
        self.end(Operation::Remove, fault, ())
    }

    fn remove_folder(&self, folder: &Folder) -> Result<(), StorageError> {
        let fault = self.begin(Operation::RemoveFolder)?;
        self.inner.remove_folder(folder)?;
        self.end(Operation::RemoveFolder, fault, ())
    }
}

/// What is left of a list.
fn shorten<T>(fault: Option<Fault>, list: &mut Vec<T>) {
    match fault {
        Some(Fault::Truncate) => list.truncate(list.len() / 2),
        Some(Fault::Old) => list.clear(),
        _ => {}
    }
}
