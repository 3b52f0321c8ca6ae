//! Wake-ups: the server has the clock by which processes get the messages that they have asked for, and wakes those that sleep.
//!
//! What is to come, and when, is a part of each process's state (`praas_protocol::wake_up`). The server keeps of it when the next
//! one is due, nothing else: told by workers when that changes, read from the memory of a process that is put to sleep, and
//! from what is stored of it when a server starts.
//!
//! ```text
//! due ──▶ asleep: wake it; its first worker is told to look
//!     └─▶ awake: each ready worker is told to look: one puts the message into the mailbox, and says what is next
//! ```
//!
//! 1. What is due stays in the table, a little later, until a worker has said what is next. So it is tried again, by a timer,
//!    whatever becomes of workers and storage.
//! 2. A worker that dies may have changed something and not said so. Then the others, or its successor, are told to look.
//! 3. Times are those of the wall clock, which is looked at at least each [`CLOCK_LOOK_PERIOD`]: one that jumps forward
//!    makes due what it passes, one that jumps back postpones what it has not shown yet. What a worker was told to be due stays so.
//! 4. A worker can bring about looks of its own process alone, one at a time for each worker.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use praas_protocol::ProcessId;
use praas_protocol::control::{CalendarSeen, WorkerCommand};
use praas_protocol::wake_up::{CALENDAR_BYTES_MAX, CALENDAR_KEY, Calendar};
use praas_shm::objects::{Key, Namespace};
use praas_shm::swap::{CutValue, HeldCut, HeldCutError, QuietCut};

use crate::clock;
use crate::processes::{ProcessKey, Stage};
use crate::shard::Shard;
use crate::timers::Timer;
use crate::workers::WorkerKey;

/// Time between two looks at the wall clock while anything is to come: how late a wake-up may be when the clock is set.
const CLOCK_LOOK_PERIOD: Duration = Duration::from_secs(1);

/// Milliseconds after which a process that is awake is told again of what is due: its workers were busy, or its mailbox full.
const RETRY_MS: u64 = 1_000;

/// The same for one that sleeps: it is on its way back, or could not be read.
const RETRY_ASLEEP_MS: u64 = 5_000;

/// The same for one that could not be made of its log: whether it is due at all is not known before.
const RETRY_LOGGED_MS: u64 = 60_000;

/// Processes that one turn of the loop wakes or tells.
const DUE_TURN_MAX: usize = 64;

/// When the processes of this server are due.
#[derive(Debug, Default)]
pub(crate) struct Alarms {
    of: BTreeMap<ProcessId, u64>,
    by_time: BTreeSet<(u64, ProcessId)>,
    /// When the timer fires that looks next.
    looks_at: Option<Instant>,
}

impl Alarms {
    /// When a process is due, in place of what was known.
    fn set(&mut self, id: ProcessId, due_unix_ms: Option<u64>) {
        let before = match due_unix_ms {
            Some(due) => self.of.insert(id, due),
            None => self.of.remove(&id),
        };
        if let Some(before) = before {
            self.by_time.remove(&(before, id));
        }
        if let Some(due) = due_unix_ms {
            self.by_time.insert((due, id));
        }
    }

    /// When a process is due.
    pub(crate) fn of(&self, id: &ProcessId) -> Option<u64> {
        self.of.get(id).copied()
    }

    /// A process that is due.
    fn due(&self, now_unix_ms: u64) -> Option<ProcessId> {
        self.by_time.first().filter(|(due, _)| *due <= now_unix_ms).map(|(_, id)| *id)
    }

    /// How long until somebody is, at most [`CLOCK_LOOK_PERIOD`]; `None` if nobody ever is.
    fn wait(&self, now_unix_ms: u64) -> Option<Duration> {
        let (due, _) = self.by_time.first()?;
        Some(Duration::from_millis(due.saturating_sub(now_unix_ms)).min(CLOCK_LOOK_PERIOD))
    }
}

/// What a process in memory has of this.
#[derive(Debug, Default)]
pub(crate) struct WakeUps {
    /// The latest version of the calendar that a worker spoke of.
    version: u64,
    /// Whether it may have changed since without a word.
    is_unsure: bool,
}

impl WakeUps {
    /// Of a process that comes from an earlier server, or from storage.
    pub(crate) fn unsure() -> Self {
        Self { version: 0, is_unsure: true }
    }
}

/// When the next wake-up of a process is due by what its memory says; `known` where that part of it is still in storage, so that
/// nothing can have changed it. The error says what is wrong.
pub(crate) fn next_due(cut: &QuietCut, known: Option<u64>) -> Result<Option<u64>, String> {
    let key = Key::new(Namespace::SYSTEM, CALENDAR_KEY).map_err(|error| wrong(&error))?;
    match cut.find(&key).map_err(|error| wrong(&error))? {
        None if cut.page_bits().is_some() => Ok(known),
        None => Ok(None),
        Some((_, CutValue::Stored(_))) => Ok(known),
        Some((header, CutValue::Here { token })) => {
            due_in(header.value_bytes, |value| cut.read(token, 0, value).map_err(|error| wrong(&error)))
        }
    }
}

/// The same of a process that goes on.
pub(crate) fn next_due_of_held(cut: &HeldCut, known: Option<u64>) -> Result<Option<u64>, String> {
    let mut found = None;
    let looked = cut.objects(|object| {
        if object.key.namespace() == Namespace::SYSTEM && object.key.text() == CALENDAR_KEY {
            found = Some((object.header, object.value));
        }
        Ok::<_, HeldCutError>(())
    });
    looked.map_err(|error| wrong(&error))?;
    match found {
        None => Ok(None),
        Some((_, CutValue::Stored(_))) => Ok(known),
        Some((header, CutValue::Here { token })) => {
            due_in(header.value_bytes, |value| cut.read(token, 0, value).map_err(|error| wrong(&error)))
        }
    }
}

fn wrong(error: &dyn std::fmt::Display) -> String {
    format!("its wake-ups cannot be read: {error}")
}

/// When the next of a list of so many bytes is due.
fn due_in(bytes: u32, read: impl FnOnce(&mut [u8]) -> Result<(), String>) -> Result<Option<u64>, String> {
    let bytes = bytes as usize;
    if bytes > CALENDAR_BYTES_MAX {
        return Err(wrong(&format!("their list has {bytes} bytes, {CALENDAR_BYTES_MAX} are the most")));
    }
    let mut value = vec![0; bytes];
    read(&mut value)?;
    let calendar = Calendar::from_bytes(&value).map_err(|error| wrong(&error))?;
    Ok(calendar.next_due_unix_ms())
}

impl Shard {
    /// A process is due at this time, or never.
    pub(crate) fn set_alarm(&mut self, id: ProcessId, due_unix_ms: Option<u64>) {
        self.alarms.set(id, due_unix_ms);
        self.look_at_alarms_later();
    }

    /// A process could not be made of its log, which has its wake-ups.
    pub(crate) fn try_again_later(&mut self, id: ProcessId) {
        self.set_alarm(id, Some(clock::unix_time_ms().saturating_add(RETRY_LOGGED_MS)));
    }

    fn look_at_alarms_later(&mut self) {
        let Some(wait) = self.alarms.wait(clock::unix_time_ms()) else { return };
        let at = clock::now() + wait;
        if self.alarms.looks_at.is_none_or(|looks_at| at < looks_at) {
            self.alarms.looks_at = Some(at);
            self.timers.at(at, Timer::WakeUps);
        }
    }

    /// Timer: wakes or tells who is due.
    pub(crate) fn look_at_alarms(&mut self) {
        // An earlier timer may have been set after this one; it has looked already then.
        self.alarms.looks_at = self.alarms.looks_at.filter(|looks_at| *looks_at > clock::now());
        if self.shutting_down {
            return;
        }
        let now_unix_ms = clock::unix_time_ms();
        for _ in 0..DUE_TURN_MAX {
            let Some(id) = self.alarms.due(now_unix_ms) else { break };
            self.is_due(id, now_unix_ms);
        }
        self.look_at_alarms_later();
    }

    fn is_due(&mut self, id: ProcessId, now_unix_ms: u64) {
        if self.is_away(&id) {
            self.alarms.set(id, Some(now_unix_ms.saturating_add(RETRY_ASLEEP_MS)));
            self.wake_due(&id);
        } else if let Some(key) = self.processes.by_id.get(&id).copied() {
            self.alarms.set(id, Some(now_unix_ms.saturating_add(RETRY_MS)));
            self.have_wake_ups_looked_at(key);
        } else {
            self.alarms.set(id, None);
        }
    }

    /// Tells the ready workers of a process what time it is.
    pub(crate) fn have_wake_ups_looked_at(&mut self, key: ProcessKey) {
        let is_active = |process: &crate::processes::Process| matches!(process.stage, Stage::Active(_));
        if !self.processes.get(key).is_some_and(is_active) {
            return;
        }
        let now_unix_ms = clock::unix_time_ms();
        let mut told = false;
        for worker_key in self.worker_keys(key) {
            let Some(worker) = self.workers.get_mut(&worker_key) else { continue };
            if worker.is_ready() && !worker.looks_at_wake_ups {
                worker.looks_at_wake_ups = true;
                told = true;
                self.command_worker(worker_key, &WorkerCommand::WakeUpsLook { now_unix_ms }, &[]);
            }
        }
        if told {
            // Those that wait for messages hear of it.
            self.ring_mail_bell(key);
        }
    }

    /// A worker is ready: it looks if something is due, or not sure.
    pub(crate) fn look_at_wake_ups_if_due(&mut self, key: ProcessKey) {
        let Some(process) = self.processes.get(key) else { return };
        let due = self.alarms.of(&process.id);
        // A process that was woken for it is to be told at once, not at the next try.
        let is_due = due.is_some_and(|due| due <= clock::unix_time_ms().saturating_add(RETRY_ASLEEP_MS));
        if process.wake_ups.is_unsure || is_due {
            self.have_wake_ups_looked_at(key);
        }
    }

    /// A worker has died: what it changed last it may not have said.
    pub(crate) fn wake_ups_are_unsure(&mut self, key: ProcessKey) {
        if let Some(process) = self.processes.get_mut(key) {
            process.wake_ups.is_unsure = true;
            self.have_wake_ups_looked_at(key);
        }
    }

    /// A worker says when the next wake-up of its process is due.
    pub(crate) fn hear_of_wake_ups(&mut self, key: WorkerKey, seen: Option<CalendarSeen>, is_answer: bool) {
        let Some(worker) = self.workers.get_mut(&key) else { return };
        worker.looks_at_wake_ups &= !is_answer;
        let Some(process) = self.processes.get_mut(worker.process) else { return };
        let Some(CalendarSeen { version, next_due_unix_ms }) = seen else { return };
        process.wake_ups.is_unsure &= !is_answer;
        if version < process.wake_ups.version {
            return;
        }
        process.wake_ups.version = version;
        let id = process.id;
        // What a look has left found no room: later.
        let earliest = if is_answer { clock::unix_time_ms().saturating_add(RETRY_MS) } else { 0 };
        let is_left = |due: &u64| is_answer && *due <= clock::unix_time_ms();
        let due = next_due_unix_ms.map(|due| if is_left(&due) { earliest } else { due });
        self.set_alarm(id, due);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids() -> [ProcessId; 3] {
        ["a", "b", "c"].map(|name| format!("notes/{name}").parse().unwrap())
    }

    #[test]
    fn who_is_due_first_comes_first_and_each_process_once() {
        let [a, b, c] = ids();
        let mut alarms = Alarms::default();
        assert_eq!((alarms.due(u64::MAX), alarms.wait(0)), (None, None));
        alarms.set(b, Some(2_000));
        alarms.set(a, Some(3_000));
        alarms.set(c, Some(1_500));
        alarms.set(c, Some(1_000));
        assert_eq!(alarms.due(999), None);
        assert_eq!(alarms.wait(990), Some(Duration::from_millis(10)));
        assert_eq!(alarms.due(5_000), Some(c));
        alarms.set(c, None);
        assert_eq!((alarms.of(&c), alarms.due(5_000)), (None, Some(b)));
        alarms.set(b, Some(9_000));
        assert_eq!(alarms.due(5_000), Some(a));
        alarms.set(a, None);
        assert_eq!((alarms.due(8_999), alarms.by_time.len()), (None, 1));
    }

    #[test]
    fn a_clock_that_jumps_is_seen_within_a_period_and_decides() {
        let [a, b, _] = ids();
        let mut alarms = Alarms::default();
        alarms.set(a, Some(1_000_000));
        alarms.set(b, Some(u64::MAX));
        // However far away: the clock is looked at.
        assert_eq!(alarms.wait(0), Some(CLOCK_LOOK_PERIOD));
        assert_eq!(alarms.due(2_000_000), Some(a), "it jumped forward");
        assert_eq!(alarms.wait(2_000_000), Some(Duration::ZERO));
        assert_eq!(alarms.due(0), None, "it jumped back before anybody looked");
        assert_eq!(alarms.wait(0), Some(CLOCK_LOOK_PERIOD));
    }
}
