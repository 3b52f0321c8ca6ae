//! Wake-ups: messages of the process to itself, at a time that it chose, and which wake it if it sleeps then.
//!
//! They are kept in one object of the process's state (`praas_protocol::wake_up`), so whatever keeps the state keeps them. The
//! server has the clock: it tells workers when one is due, and the first that has time for it
//!
//! ```text
//! takes it up ──▶ puts the message into the mailbox ──▶ removes it
//! ```
//!
//! 1. Between the first step and the last its worker's mark stands beside it: others leave it alone as long as that worker lives.
//!    One that dies there may have put the message already: then it comes twice, and never not at all.
//! 2. What came and could not be removed, for want of room, is remembered by its worker, which removes it at the next look.
//! 3. The server is told whenever another one has become the next. Should a worker die before it could say so, the server has
//!    the others look.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use praas_protocol::control::{CalendarSeen, StateWanted, WorkerMessage};
use praas_protocol::state::Condition;
use praas_protocol::wake_up::{CALENDAR_KEY, CALENDAR_TYPE_ID, CALENDAR_VERSION, Calendar, CalendarRefusal};
use praas_protocol::{Key, KeyError, limits};
use praas_shm::objects::{self, Encoding, Meta, Namespace, Store};

use crate::context::{Context, WorkerIdentity};
use crate::limits::{UPDATE_TRIES_MAX, WAKE_UPS_AT_ONCE};
use crate::state::StateError;
use crate::worker::WorkerError;

const META: Meta = Meta { type_id: CALENDAR_TYPE_ID, schema_version: CALENDAR_VERSION, encoding: Encoding::Archived };

/// Rounds of one look, each of which takes up [`WAKE_UPS_AT_ONCE`]: all that there can be, and as many as come meanwhile.
const ROUNDS_MAX: usize = 2 * limits::WAKE_UPS_MAX / WAKE_UPS_AT_ONCE;

/// What tells a wake-up from all others of its process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WakeUpId(pub u64);

impl fmt::Display for WakeUpId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// A wake-up that has not come yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WakeUp {
    /// What [`Context::wake_at`] returned.
    pub id: WakeUpId,
    /// When it is due.
    pub due: SystemTime,
    /// Under which key it comes.
    pub key: String,
    /// What it says.
    pub bytes: Vec<u8>,
}

/// Why a wake-up was not entered, cancelled or listed. Nothing has changed then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WakeUpError {
    /// The key is not a key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// There are too many of them, or they are too long.
    #[error(transparent)]
    Refused(#[from] CalendarRefusal),
    /// The state of the process, which they are a part of, refused.
    #[error(transparent)]
    State(#[from] StateError),
}

/// Wake-ups: messages of the process to itself at a time of its choice.
impl Context<'_> {
    /// Has a message from [`SELF`](crate::SELF) put into the mailbox at `time`, and the process woken if it sleeps then. Returns
    /// what [`Context::cancel_wake`] takes. A time that has passed is due at once.
    ///
    /// It is kept with the state of the process, and lasts as long: while it sleeps, when the server is killed, as far as the
    /// process's durability goes when the host fails. It comes at least once, and a second time only if a worker dies in the
    /// moment of putting it there. Times are those of the host's wall clock, whichever way that is set meanwhile, and a wake-up
    /// comes some milliseconds after its time; up to a second when the clock was set, or its workers are all busy, later.
    ///
    /// A process has at most [`WAKE_UPS_MAX`](praas_protocol::limits::WAKE_UPS_MAX) of them, of
    /// [`WAKE_UP_BYTES_MAX`](praas_protocol::limits::WAKE_UP_BYTES_MAX) bytes each and
    /// [`WAKE_UPS_BYTES_MAX`](praas_protocol::limits::WAKE_UPS_BYTES_MAX) together. Each change rewrites all of them.
    ///
    /// ```
    /// use std::time::{Duration, SystemTime};
    ///
    /// use praas_function::testing::Harness;
    /// use praas_function::{Application, Call, FunctionResult, SELF};
    ///
    /// fn remind(call: &mut Call) -> FunctionResult {
    ///     let context = call.context();
    ///     context.wake_at(SystemTime::now() + Duration::from_secs(3600), "reminders", call.input())?;
    ///     Ok(())
    /// }
    ///
    /// fn reminder(call: &mut Call) -> FunctionResult {
    ///     match call.context().try_recv(SELF, "reminders")? {
    ///         Some(message) => call.reply(&message),
    ///         None => call.reply(b"nothing"),
    ///     }
    /// }
    ///
    /// let harness = Harness::new(|| Application::new().function("remind", remind).function("reminder", reminder))?;
    /// harness.invoke("remind", b"water the beans")?;
    /// assert_eq!(harness.invoke("reminder", b"")?, b"nothing");
    /// // An hour and a bit later, after it has slept.
    /// let harness = harness.asleep_and_back(&[])?;
    /// harness.time_is(SystemTime::now() + Duration::from_secs(3700))?;
    /// assert_eq!(harness.invoke("reminder", b"")?, b"water the beans");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`WakeUpError`].
    pub fn wake_at(&self, time: SystemTime, key: &str, bytes: &[u8]) -> Result<WakeUpId, WakeUpError> {
        let (due_unix_ms, key) = (unix_ms(time), Key::new(key)?);
        let added = self.with_calendar(|store| {
            update(store, |calendar| {
                let added = calendar.add(due_unix_ms, key, bytes);
                (added, added.is_ok())
            })
        })?;
        Ok(WakeUpId(added?))
    }

    /// Takes a wake-up back. False if it has come already, or is about to.
    ///
    /// # Errors
    /// [`WakeUpError::State`].
    pub fn cancel_wake(&self, id: WakeUpId) -> Result<bool, WakeUpError> {
        Ok(self.with_calendar(|store| {
            update(store, |calendar| {
                let is_cancelled = calendar.cancel(id.0);
                (is_cancelled, is_cancelled)
            })
        })?)
    }

    /// The wake-ups that have not come yet, in the order of their times.
    ///
    /// # Errors
    /// [`WakeUpError::State`].
    pub fn wake_ups(&self) -> Result<Vec<WakeUp>, WakeUpError> {
        let calendar = self.with_calendar(|store| update(store, |calendar| (std::mem::take(calendar), false)))?;
        let wake_up = |entry: &praas_protocol::wake_up::Entry| WakeUp {
            id: WakeUpId(entry.id),
            due: UNIX_EPOCH + Duration::from_millis(entry.due_unix_ms.min(UNIX_MS_MAX)),
            key: entry.key.clone(),
            bytes: entry.bytes.clone(),
        };
        Ok(calendar.entries().iter().map(wake_up).collect())
    }

    /// Does something with the calendar, once it is there, and tells the server if another wake-up is the next one then.
    fn with_calendar<R>(
        &self,
        mut operation: impl FnMut(&Store) -> Result<Updated<R>, StateError>,
    ) -> Result<R, StateError> {
        let store = self.state_room().store();
        let done = operation(store).or_else(|error| self.insist_on_state(error, &wanted(), || operation(store)));
        let Updated { done, seen, is_news } = done?;
        if is_news {
            // Fails only when the server is gone or has not listened for long, and then the next one looks.
            let _ = self.mail().send(&WorkerMessage::WakeUps { seen: Some(seen), is_answer: false });
        }
        Ok(done)
    }
}

/// What one worker remembers of wake-ups.
#[derive(Debug, Default)]
pub(crate) struct WakeRoom {
    /// Invariant 2.
    came: RefCell<Vec<u64>>,
    /// The time of a look that waits until the calendar has come back from storage.
    waits: Cell<Option<u64>>,
}

/// The server says what time it is: puts what is due into the mailbox, and answers.
pub(crate) fn look(worker: &WorkerIdentity, now_unix_ms: u64) -> Result<(), WorkerError> {
    let carried = carry(worker, now_unix_ms);
    if matches!(&carried, Err(error) if error.is_away()) {
        worker.wake_ups.waits.set(Some(now_unix_ms));
        worker.mail.send(&WorkerMessage::StateFetch { request: worker.mail.next_request(), wanted: wanted() })?;
    }
    // What went wrong is tried again at the next look, which follows soon.
    worker.mail.send(&WorkerMessage::WakeUps { seen: carried.ok(), is_answer: true })
}

/// Something has come back from storage, or has not: perhaps what a look waits for.
pub(crate) fn look_again(worker: &WorkerIdentity) -> Result<(), WorkerError> {
    let Some(now_unix_ms) = worker.wake_ups.waits.take() else { return Ok(()) };
    let seen = carry(worker, now_unix_ms).ok();
    worker.mail.send(&WorkerMessage::WakeUps { seen, is_answer: true })
}

/// Puts what is due into the mailbox, some at a time, until nothing is or the mailbox has no room.
fn carry(worker: &WorkerIdentity, now_unix_ms: u64) -> Result<CalendarSeen, StateError> {
    let store = worker.state.store();
    let (mark, mut came) = (store.mark(), worker.wake_ups.came.borrow_mut());
    let mut is_full = false;
    for _ in 0..ROUNDS_MAX {
        let count = if is_full { 0 } else { WAKE_UPS_AT_ONCE };
        let Updated { done: taken, seen, .. } = update(store, |calendar| {
            let is_settled = is_full || !came.is_empty();
            if is_settled {
                calendar.settle(mark, &came);
            }
            let taken = calendar.take_up(now_unix_ms, mark, count, |other| store.lives(other));
            let has_changed = is_settled || !taken.is_empty();
            (taken, has_changed)
        })?;
        came.clear();
        if taken.is_empty() {
            return Ok(seen);
        }
        for entry in taken {
            let put = Key::new(&entry.key).ok().and_then(|key| worker.messages.put_own(key, &entry.bytes).ok());
            if put.is_none() {
                is_full = true;
                break;
            }
            came.push(entry.id);
        }
    }
    read(store).map(|(version, calendar)| CalendarSeen { version, next_due_unix_ms: calendar.next_due_unix_ms() })
}

/// What came of an update.
struct Updated<R> {
    done: R,
    seen: CalendarSeen,
    /// Whether another wake-up is the next one.
    is_news: bool,
}

/// The calendar and its version; 0 if there was never one.
fn read(store: &Store) -> Result<(u64, Calendar), StateError> {
    let Some(guard) = store.get(&memory_key())? else { return Ok((0, Calendar::default())) };
    let undecodable = |reason| StateError::Undecodable { object: CALENDAR_KEY.to_owned(), reason };
    let meta = guard.header().meta;
    if (meta.type_id, meta.schema_version) != (CALENDAR_TYPE_ID, CALENDAR_VERSION) {
        return Err(undecodable(format!("it has version {}, not {CALENDAR_VERSION}", meta.schema_version)));
    }
    let calendar = Calendar::from_bytes(guard.in_place().unwrap_or_default());
    Ok((guard.version(), calendar.map_err(|error| undecodable(error.to_string()))?))
}

/// Reads the calendar, changes it, and puts it if it has changed, until nobody came between.
fn update<R>(store: &Store, mut change: impl FnMut(&mut Calendar) -> (R, bool)) -> Result<Updated<R>, StateError> {
    for _ in 0..UPDATE_TRIES_MAX {
        let (version, mut calendar) = read(store)?;
        let before = calendar.next_due_unix_ms();
        let (done, has_changed) = change(&mut calendar);
        if !has_changed {
            let seen = CalendarSeen { version, next_due_unix_ms: before };
            return Ok(Updated { done, seen, is_news: false });
        }
        let next_due_unix_ms = calendar.next_due_unix_ms();
        let bytes = calendar
            .to_bytes()
            .map_err(|error| StateError::Unencodable { key: CALENDAR_KEY.to_owned(), reason: error.to_string() })?;
        let condition = if version == 0 { Condition::Absent } else { Condition::Version(version) };
        match store.put(&memory_key(), &bytes, META, condition) {
            Err(objects::StateError::Conflict { .. }) => {}
            put => {
                let seen = CalendarSeen { version: put?, next_due_unix_ms };
                return Ok(Updated { done, seen, is_news: before != next_due_unix_ms });
            }
        }
    }
    Err(StateError::Contended { key: CALENDAR_KEY.to_owned() })
}

fn memory_key() -> objects::Key<'static> {
    objects::Key::new(Namespace::SYSTEM, CALENDAR_KEY).expect("a name of praas's own is a key")
}

fn wanted() -> StateWanted {
    StateWanted::Object { namespace: Namespace::SYSTEM.0, key: CALENDAR_KEY.to_owned(), with_value: true }
}

/// The last millisecond that every system can tell: some 290 million years.
const UNIX_MS_MAX: u64 = i64::MAX as u64;

/// Milliseconds since 1970; what is before that is due.
pub(crate) fn unix_ms(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
