//! What of a process that woke is in storage only, and how it comes back: what its workers ask for first, the rest meanwhile.
//!
//! ```text
//! worker meets what is away ──▶ fetch: its page, its value ──▶ installed, the worker looks again
//! background                ──▶ fill: pages and values, neighbours together, one run after another ──▶ whole
//! ```
//!
//! One for each process whose state came back without its objects; the loop's part is `fetching`. Its segment says which pages are
//! absent and which values are stubs, so it outlives the server, and another one goes on ([`crate::recovery`]). Invariants:
//! 1. What is in the segment counts: what comes from storage goes only where nothing was put or deleted meanwhile.
//! 2. The segment is changed only by who [uses](Filling::enter) it. When [`Filling::stop`] has returned `true`, nobody does, until
//!    [`Filling::resume`]: so it can be cut, with what is still away left where it is.
//! 3. The background gives way to what workers ask for, but not for ever.
//! 4. What is damaged is an error of those who need it, which names it. All else comes back.
//! 5. The snapshot is the newest of the process: it is not stored anew before it is whole, but to sleep, when this has ended.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use praas_protocol::control::{StateNotFetched, StateWanted};
use praas_protocol::limits::NOT_FETCHED_REASON_BYTES_MAX;
use praas_shm::objects::{Encoding, Key, Meta, Namespace, ObjectHeader, Objects, RowTaken};
use praas_shm::swap::{ImportError, Missing, Restorer, StoredAt, StoredObject};
use praas_storage::buffer::AlignedBuffer;
use praas_storage::snapshot::{Location, PageObject, Part, Restored, Snapshot, SnapshotError, StoredValue};
use praas_storage::{Backend, Folder};

/// Threads that bring the pages back of a process that lists its objects.
const LISTING_THREADS: usize = 4;
/// Pieces of memory that are kept for values on their way.
const SPARES_MAX: usize = 8;
/// How long the background waits after a worker has asked for something: it asks for the next thing soon.
const QUIET_AFTER_ASKED: Duration = Duration::from_millis(2);
/// In which time whoever woke a process has asked for something, if it needs any of it: a call has to reach its worker.
const FIRST_ASKED_WITHIN: Duration = Duration::from_millis(3);
/// How long the background gives way at once, and how many bytes it brings back after the first time without giving way again; after
/// each further time twice as many. So it ends, nearly as soon, however much is asked for. Who asks once is not held up, and who
/// asks for everything has it by that.
const GIVE_WAY_MAX: Duration = Duration::from_millis(5);
const FIRST_STEP_BYTES: u64 = 32 << 20;
/// Looks at what is missing for one key: its page, its value, and both again when somebody was faster.
const LOOKS_MAX: usize = 8;

/// What brings a process back piece by piece; see the module's text.
#[derive(Debug)]
pub(crate) struct Filling {
    folder: Folder,
    /// By which this server owns what is stored.
    epoch: u64,
    restorer: Restorer,
    /// Opened when it is needed first, where another server has begun.
    snapshot: Mutex<Option<Snapshot>>,
    turn: Mutex<Turn>,
    changed: Condvar,
    /// Bytes that came back and that nobody was told of.
    read_bytes: AtomicU64,
    /// Memory for values on their way, one for each thread.
    spare: Mutex<Vec<AlignedBuffer>>,
}

/// Who is at it.
#[derive(Debug, Default)]
struct Turn {
    is_over: bool,
    /// Whether all of it is in the segment.
    is_whole: bool,
    /// Jobs that use the segment.
    users: usize,
    /// Of these, what workers ask for.
    asked: usize,
    asked_at: Option<Instant>,
    /// Whether the background rests: the process may be on its way to sleep.
    rests: bool,
    /// Bytes that the background may bring back before it gives way again.
    credit_bytes: u64,
    /// As many it got the last time.
    step_bytes: u64,
}

impl Turn {
    fn is_background_over(&self) -> bool {
        self.is_over || self.rests
    }
}

/// How a run of the background ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FillEnd {
    /// All of it is in the segment.
    Whole,
    /// It was told to stop.
    Stopped,
    /// Some of it is damaged, so often, the first of it like that. All else is in the segment.
    Damaged { count: u64, first: String },
    /// It could not go on: it may be tried again.
    Failed(String),
}

/// Uses the segment as long as it lives.
struct Use<'f> {
    filling: &'f Filling,
    is_asked: bool,
}

impl Drop for Use<'_> {
    fn drop(&mut self) {
        let mut turn = lock(&self.filling.turn);
        turn.users -= 1;
        if self.is_asked {
            turn.asked -= 1;
            turn.asked_at = Some(Instant::now());
        }
        self.filling.changed.notify_all();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nobody panics between two changes that belong together.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Filling {
    /// Of a segment whose process owns what is stored by `epoch`. Without a snapshot, it is opened when it is needed first.
    pub(super) fn new(
        folder: Folder,
        epoch: u64,
        objects: Arc<Objects>,
        snapshot: Option<Snapshot>,
    ) -> Result<Self, RowTaken> {
        Ok(Self {
            folder,
            epoch,
            restorer: Restorer::new(objects)?,
            snapshot: Mutex::new(snapshot),
            turn: Mutex::default(),
            changed: Condvar::new(),
            read_bytes: AtomicU64::new(0),
            spare: Mutex::default(),
        })
    }

    /// Bytes that came back since this was asked last.
    pub(super) fn take_read_bytes(&self) -> u64 {
        self.read_bytes.swap(0, Ordering::Relaxed)
    }

    /// Nothing more comes back from now on. What is under way ends with its present step, which the storage's deadlines bound.
    pub(super) fn end(&self) {
        lock(&self.turn).is_over = true;
        self.changed.notify_all();
    }

    /// The same, and waits until nobody uses the segment any more; false if somebody does after `patience`.
    pub(super) fn stop(&self, patience: Duration) -> bool {
        self.end();
        let waited = self.changed.wait_timeout_while(lock(&self.turn), patience, |turn| turn.users > 0);
        waited.unwrap_or_else(PoisonError::into_inner).0.users == 0
    }

    /// The background ends; what workers ask for comes back all the same.
    pub(super) fn rest(&self) {
        lock(&self.turn).rests = true;
        self.changed.notify_all();
    }

    /// The process goes on instead.
    pub(super) fn resume(&self) {
        let mut turn = lock(&self.turn);
        (turn.is_over, turn.rests) = (false, false);
    }

    fn enter(&self, is_asked: bool) -> Option<Use<'_>> {
        let mut turn = lock(&self.turn);
        if turn.is_over {
            return None;
        }
        turn.users += 1;
        turn.asked += usize::from(is_asked);
        Some(Use { filling: self, is_asked })
    }

    /// What comes back from where.
    #[cfg(any(test, feature = "simulation"))]
    pub(super) fn folder(&self) -> Folder {
        self.folder
    }

    /// The background waits while workers ask, before it reads so many bytes.
    fn give_way(&self, bytes: u64) -> ControlFlow<()> {
        let mut turn = lock(&self.turn);
        if turn.asked > 0 || turn.asked_at.is_some() {
            turn = self.wait_until_quiet(turn, bytes);
        }
        turn.credit_bytes = turn.credit_bytes.saturating_sub(bytes);
        if turn.is_background_over() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn wait_until_quiet<'t>(&'t self, mut turn: MutexGuard<'t, Turn>, bytes: u64) -> MutexGuard<'t, Turn> {
        let began = Instant::now();
        while turn.credit_bytes < bytes && !turn.is_background_over() {
            let now = Instant::now();
            let quiet_in = match turn.asked_at {
                _ if turn.asked > 0 => QUIET_AFTER_ASKED,
                Some(at) => QUIET_AFTER_ASKED.saturating_sub(now.saturating_duration_since(at)),
                None => Duration::ZERO,
            };
            if quiet_in.is_zero() {
                turn.asked_at = None;
                break;
            }
            let wait = quiet_in.min(GIVE_WAY_MAX.saturating_sub(now.saturating_duration_since(began)));
            if wait.is_zero() {
                turn.step_bytes = turn.step_bytes.saturating_mul(2).max(FIRST_STEP_BYTES);
                turn.credit_bytes = turn.step_bytes.max(bytes);
                break;
            }
            turn = self.changed.wait_timeout(turn, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
        turn
    }

    /// The snapshot that has what is away.
    fn snapshot(&self, backend: &Arc<dyn Backend>) -> Result<Snapshot, StateNotFetched> {
        let mut known = lock(&self.snapshot);
        if let Some(snapshot) = &*known {
            return Ok(snapshot.clone());
        }
        let found = Snapshot::open(backend, &self.folder).map_err(|error| of_storage(&error))?;
        let missing = || damaged(format!("nothing is stored of it in {}: somebody has removed it", backend.place()));
        let found = found.ok_or_else(missing)?;
        if found.epoch() != self.epoch {
            let (found, own) = (found.epoch(), self.epoch);
            let reason =
                format!("it is stored with epoch {found}, this server owned it with {own}: another owns it now");
            return Err(failed(reason));
        }
        let bits = self.restorer.page_bits();
        if found.facts().hash_seed != self.restorer.hash_seed() || bits.is_some_and(|bits| bits != found.page_bits()) {
            let reason = "what is stored of it does not go with what is in its memory";
            return Err(damaged(format!("{reason}: it has pages of {} bits, memory of {bits:?}", found.page_bits())));
        }
        Ok(known.insert(found).clone())
    }

    /// Brings back what a worker asks for.
    pub(super) fn fetch(&self, backend: &Arc<dyn Backend>, wanted: &StateWanted) -> Result<(), StateNotFetched> {
        let Some(_use) = self.enter(true) else {
            let is_whole = lock(&self.turn).is_whole;
            return if is_whole { Ok(()) } else { Err(failed("its process is on its way to sleep".into())) };
        };
        match wanted {
            StateWanted::AllPages => self.all_pages(&self.snapshot(backend)?),
            StateWanted::Object { namespace, key, with_value } => {
                let key = Key::new(Namespace(*namespace), key).map_err(|error| failed(error.to_string()))?;
                self.object(backend, &key, *with_value)
            }
        }
    }

    fn object(&self, backend: &Arc<dyn Backend>, key: &Key<'_>, with_value: bool) -> Result<(), StateNotFetched> {
        let mut met = None;
        for _ in 0..LOOKS_MAX {
            let missing = self.restorer.missing(key).map_err(|error| of_memory(&error))?;
            if let Some((_, error)) = met.take_if(|(before, _)| *before == missing) {
                return Err(error);
            }
            let snapshot = self.snapshot(backend)?;
            let brought = match &missing {
                Missing::Nothing => return Ok(()),
                Missing::Value { .. } if !with_value => return Ok(()),
                Missing::Page(number) => self.page(&snapshot, *number),
                Missing::Value { header, stored } => self.value(&snapshot, key, header, stored),
            };
            // What was read may not be what is missing any more: somebody has put or deleted, or it lies elsewhere by now.
            met = brought.err().map(|error| (missing, error));
        }
        let never = || failed(format!("it was replaced {LOOKS_MAX} times while it came back"));
        Err(met.map_or_else(never, |(_, error)| error))
    }

    fn page(&self, snapshot: &Snapshot, number: u32) -> Result<(), StateNotFetched> {
        let objects = snapshot.page(number).map_err(|error| of_storage(&error))?;
        self.install_page(number, &objects)
    }

    fn install_page(&self, number: u32, objects: &[PageObject]) -> Result<(), StateNotFetched> {
        let stubs: Vec<_> = objects.iter().map(stub_of).collect::<Result<_, _>>().map_err(damaged)?;
        self.restorer.page(number, &stubs).map(drop).map_err(|error| of_memory(&error))
    }

    fn value(
        &self,
        snapshot: &Snapshot,
        key: &Key<'_>,
        header: &ObjectHeader,
        StoredAt(stored): &StoredAt,
    ) -> Result<(), StateNotFetched> {
        let (namespace, text, version) = (key.namespace().0, key.text().as_bytes().into(), header.version);
        let part = Part::Object { namespace, key: text, version };
        let location = Location::from_bytes(stored).ok_or_else(|| damaged(format!("{part} lies nowhere")))?;
        self.with_spare(header.value_bytes, |value| {
            snapshot.value_at(&location, &part, value).map_err(|error| of_storage(&error))?;
            self.install_value(key, version, value)
        })
    }

    fn install_value(&self, key: &Key<'_>, version: u64, value: &[u8]) -> Result<(), StateNotFetched> {
        let is_in = self.restorer.value(key, version, value).map_err(|error| of_memory(&error))?;
        if is_in {
            self.read_bytes.fetch_add(value.len() as u64, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Lends memory for a value.
    fn with_spare<R>(&self, bytes: u32, work: impl FnOnce(&mut [u8]) -> R) -> R {
        let mut memory = lock(&self.spare).pop().unwrap_or_else(|| AlignedBuffer::new(0));
        if memory.len() < bytes as usize {
            memory = AlignedBuffer::new(bytes as usize);
        }
        let done = work(&mut memory[..bytes as usize]);
        let mut spare = lock(&self.spare);
        if spare.len() < SPARES_MAX {
            spare.push(memory);
        }
        done
    }

    /// What is known of all keys.
    fn all_pages(&self, snapshot: &Snapshot) -> Result<(), StateNotFetched> {
        let pages = Pages { filling: self, wrong: Mutex::new(None) };
        snapshot.restore(0..snapshot.pages(), LISTING_THREADS, &pages);
        pages.wrong.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    /// The background: brings back all there is, until it is told to stop.
    pub(super) fn fill(&self, backend: &Arc<dyn Backend>) -> FillEnd {
        let Some(_use) = self.enter(false) else { return FillEnd::Stopped };
        lock(&self.turn).asked_at = Some(Instant::now() + FIRST_ASKED_WITHIN);
        let snapshot = match self.snapshot(backend) {
            Ok(snapshot) => snapshot,
            Err(StateNotFetched { is_damaged: true, reason }) => return FillEnd::Damaged { count: 1, first: reason },
            Err(error) => return FillEnd::Failed(error.reason),
        };
        let rest = Rest { filling: self, wrong: Mutex::default() };
        snapshot.restore(0..snapshot.pages(), backend.transfers_at_once(), &rest);
        let wrong = rest.wrong.into_inner().unwrap_or_else(PoisonError::into_inner);
        lock(&self.spare).clear();
        if lock(&self.turn).is_background_over() {
            return FillEnd::Stopped;
        }
        match wrong {
            Wrong { failed: Some(reason), .. } => FillEnd::Failed(reason),
            Wrong { damaged, first: Some(first), .. } => FillEnd::Damaged { count: damaged, first },
            Wrong { .. } => {
                lock(&self.turn).is_whole = true;
                FillEnd::Whole
            }
        }
    }
}

/// Pages that come back without values.
struct Pages<'f> {
    filling: &'f Filling,
    wrong: Mutex<Option<StateNotFetched>>,
}

impl Pages<'_> {
    fn keep(&self, error: StateNotFetched) {
        lock(&self.wrong).get_or_insert(error);
    }
}

impl Restored for Pages<'_> {
    fn wants_page(&self, number: u32) -> bool {
        self.filling.restorer.is_absent(number)
    }

    fn wants(&self, _object: &PageObject) -> bool {
        false
    }

    fn page(&self, number: u32, objects: &[PageObject]) -> ControlFlow<()> {
        if let Err(error) = self.filling.install_page(number, objects) {
            self.keep(error);
        }
        ControlFlow::Continue(())
    }

    fn value(&self, _object: &PageObject, _value: &StoredValue<'_>) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    fn damaged_page(&self, number: u32, error: SnapshotError) -> ControlFlow<()> {
        // Somebody else may have brought it back meanwhile.
        if self.filling.restorer.is_absent(number) {
            self.keep(of_storage(&error));
        }
        ControlFlow::Continue(())
    }
}

/// What did not come back.
#[derive(Debug, Default)]
struct Wrong {
    damaged: u64,
    first: Option<String>,
    /// Why it ended.
    failed: Option<String>,
}

/// Everything that is still away.
struct Rest<'f> {
    filling: &'f Filling,
    wrong: Mutex<Wrong>,
}

impl Rest<'_> {
    /// What is damaged does not keep the rest away; what cannot be reached or has no room does.
    fn went(&self, brought: Result<(), StateNotFetched>) -> ControlFlow<()> {
        let Err(StateNotFetched { is_damaged, reason }) = brought else { return ControlFlow::Continue(()) };
        let mut wrong = lock(&self.wrong);
        if is_damaged {
            wrong.damaged += 1;
            wrong.first.get_or_insert(reason);
            ControlFlow::Continue(())
        } else {
            wrong.failed.get_or_insert(reason);
            ControlFlow::Break(())
        }
    }

    /// Whether the value of an object as it is stored is away.
    fn is_away(&self, object: &PageObject) -> bool {
        let looked = stub_of(object).ok().map(|stub| self.filling.restorer.missing(&stub.key));
        matches!(looked, Some(Ok(Missing::Value { header, .. })) if header.version == object.version)
    }
}

impl Restored for Rest<'_> {
    fn wants(&self, object: &PageObject) -> bool {
        self.is_away(object)
    }

    fn reads(&self, bytes: u64) -> ControlFlow<()> {
        self.filling.give_way(bytes)
    }

    fn page(&self, number: u32, objects: &[PageObject]) -> ControlFlow<()> {
        if !self.filling.restorer.is_absent(number) {
            return ControlFlow::Continue(());
        }
        self.went(self.filling.install_page(number, objects))
    }

    fn value(&self, object: &PageObject, value: &StoredValue<'_>) -> ControlFlow<()> {
        let Ok(stub) = stub_of(object) else { return ControlFlow::Continue(()) };
        let install = |value: &[u8]| self.filling.install_value(&stub.key, object.version, value);
        let brought = match value.in_place() {
            Some(value) => value.map_err(|error| of_storage(&error)).and_then(install),
            None => self.filling.with_spare(object.value_bytes, |spare| {
                value.fill(spare).map_err(|error| of_storage(&error))?;
                install(spare)
            }),
        };
        // It may have been replaced meanwhile, and be stored no more.
        if brought.is_err() && !self.is_away(object) { ControlFlow::Continue(()) } else { self.went(brought) }
    }

    fn damaged_page(&self, _number: u32, error: SnapshotError) -> ControlFlow<()> {
        self.went(Err(of_storage(&error)))
    }
}

/// A stored object without its value; the error says why it is none.
pub(super) fn stub_of(object: &PageObject) -> Result<StoredObject<'_>, String> {
    let text = std::str::from_utf8(&object.key).map_err(|_| format!("{} has no key", object.part()))?;
    let key = Key::new(Namespace(object.namespace), text).map_err(|error| format!("{}: {error}", object.part()))?;
    let meta = Meta {
        type_id: object.type_id,
        schema_version: object.schema_version,
        encoding: Encoding::of_code(object.encoding),
    };
    let &PageObject { version, value_bytes, modified_unix_ms, .. } = object;
    let header = ObjectHeader { version, meta, value_bytes, modified_unix_ms };
    Ok(StoredObject { key, header, stored: StoredAt(object.location.to_bytes()) })
}

fn failed(reason: String) -> StateNotFetched {
    not_fetched(false, reason)
}

fn damaged(reason: String) -> StateNotFetched {
    not_fetched(true, reason)
}

fn not_fetched(is_damaged: bool, mut reason: String) -> StateNotFetched {
    reason.truncate(reason.floor_char_boundary(NOT_FETCHED_REASON_BYTES_MAX));
    StateNotFetched { is_damaged, reason }
}

fn of_storage(error: &SnapshotError) -> StateNotFetched {
    not_fetched(error.is_damage(), error.to_string())
}

/// What contradicts what the segment knows was not stored like that.
fn of_memory(error: &ImportError) -> StateNotFetched {
    not_fetched(matches!(error, ImportError::Contradiction { .. }), error.to_string())
}
