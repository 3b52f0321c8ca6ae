//! What workers see of the processes of their application, and which of those are idle.
//!
//! One directory an application ([`praas_shm::directory`]), made with it. A process is listed from its creation, or from
//! when it is back, to its end. Whoever changes what a process is doing calls [`Shard::show_state`], which costs a store and a
//! system call that wakes who waits; it may be called too often.
//!
//! A call neither begins nor ends with a message to the server, so whether a process is idle is looked at now and then:
//! one is idle that runs no call and has answered none for [`crate::ServerOptions::process_idle`]. What workers say of their
//! calls is believed: it decides about nothing but what is shown of their own process.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Bound;
use std::time::{Duration, Instant};

use praas_protocol::control::ProcessState;
use praas_protocol::{Name, ProcessId};
use praas_shm::directory::{Directory, DirectorySlot, ListedProcess};

use crate::clock;
use crate::limits::{ACTIVITY_LOOKS_TURN, ACTIVITY_PAUSE_MIN, ACTIVITY_PERIOD_MAX, ACTIVITY_PERIOD_MIN};
use crate::processes::{ProcessKey, Stage};
use crate::shard::Shard;
use crate::timers::Timer;

/// The directories of all applications, and how far the look at activity has come.
#[derive(Debug)]
pub(crate) struct Directories {
    of: BTreeMap<Name, Directory>,
    /// How long a process must have done nothing to be idle.
    process_idle: Duration,
    /// The shortest time without a call that anything is decided by.
    idle_shortest: Duration,
    /// The last process that was looked at in this round.
    looked: Option<ProcessKey>,
    is_looking: bool,
}

impl Directories {
    /// One for each application.
    pub(crate) fn create(applications: impl Iterator<Item = Name>, process_idle: Duration) -> io::Result<Self> {
        let of = applications.map(|name| Ok((name, Directory::create()?))).collect::<io::Result<_>>()?;
        Ok(Self { of, process_idle, idle_shortest: process_idle, looked: None, is_looking: false })
    }

    pub(crate) fn get(&self, application: &Name) -> Option<&Directory> {
        self.of.get(application)
    }

    pub(crate) fn get_mut(&mut self, application: &Name) -> Option<&mut Directory> {
        self.of.get_mut(application)
    }

    /// Something is to be decided when a process was idle for so long.
    pub(crate) fn note_idle_time(&mut self, idle: Duration) {
        self.idle_shortest = self.idle_shortest.min(idle);
    }

    /// Time between two looks at the same process, so that one is idle, or active again, at most a quarter of the time late.
    fn period(&self) -> Duration {
        (self.idle_shortest / 4).clamp(ACTIVITY_PERIOD_MIN, ACTIVITY_PERIOD_MAX)
    }
}

/// What a directory shows of a process.
#[derive(Debug)]
pub(crate) struct Listed {
    slot: DirectorySlot,
    shown: ProcessState,
}

/// What a process has been doing.
#[derive(Debug)]
pub(crate) struct Activity {
    /// Calls answered, at the last look.
    calls: u64,
    /// When a look found it doing something last.
    active_at: Instant,
    pub(crate) is_idle: bool,
}

impl Activity {
    /// Of a process that begins.
    pub(crate) fn new() -> Self {
        Self { calls: 0, active_at: clock::now(), is_idle: false }
    }

    /// When a look found it doing something last.
    pub(crate) fn active_at(&self) -> Instant {
        self.active_at
    }

    fn look(&mut self, calls: u64, works: bool, process_idle: Duration) {
        let now = clock::now();
        if works || calls != self.calls {
            (self.calls, self.active_at) = (calls, now);
        }
        self.is_idle = now.duration_since(self.active_at) >= process_idle;
    }
}

impl Shard {
    /// Shows what a process is doing to the workers of its application.
    pub(crate) fn show_state(&mut self, key: ProcessKey) {
        if let Some(directory) = self.write_state(key).and_then(|application| self.directories.get(&application)) {
            directory.wake();
        }
    }

    /// The same without waking anybody; the application whose directory has changed, if it has.
    fn write_state(&mut self, key: ProcessKey) -> Option<Name> {
        let process = self.processes.get_mut(key)?;
        let id = process.id;
        if process.listed.is_none() && !matches!(process.stage, Stage::Ended) {
            self.name_is_taken(&id);
        }
        let process = self.processes.get_mut(key)?;
        let directory = self.directories.of.get_mut(&id.application)?;
        let state = process.state();
        let has_ended = matches!(process.stage, Stage::Ended);
        match &mut process.listed {
            Some(_) if has_ended => {
                directory.leave(process.listed.take()?.slot);
                self.name_is_free(&id);
            }
            None if has_ended => return None,
            Some(listed) if listed.shown == state => return None,
            Some(listed) => {
                directory.set(&listed.slot, state);
                listed.shown = state;
            }
            None => match directory.enter(ListedProcess { name: id.process, state }) {
                Ok(slot) => process.listed = Some(Listed { slot, shown: state }),
                Err(error) => {
                    self.log.error(format_args!("{id} is not shown to other processes: {error}"));
                    return None;
                }
            },
        }
        // Other servers are told what workers are shown.
        self.announce(id.application, id.process.into(), (!has_ended).then_some(state));
        self.state_shown(id, (!has_ended).then_some(state));
        Some(id.application)
    }

    /// Shows a process that has no entry in the table, because it sleeps; gives back what the directory has of it then.
    pub(crate) fn list(
        &mut self,
        id: ProcessId,
        listed: Option<Listed>,
        state: Option<ProcessState>,
    ) -> Option<Listed> {
        if listed.is_none() && state.is_some() {
            self.name_is_taken(&id);
        }
        let directory = self.directories.of.get_mut(&id.application)?;
        let listed = match (listed, state) {
            (Some(listed), None) => {
                directory.leave(listed.slot);
                None
            }
            (Some(listed), Some(state)) => {
                directory.set(&listed.slot, state);
                Some(Listed { shown: state, ..listed })
            }
            (None, Some(state)) => match directory.enter(ListedProcess { name: id.process, state }) {
                Ok(slot) => Some(Listed { slot, shown: state }),
                Err(error) => {
                    self.log.error(format_args!("{id} is not shown to other processes: {error}"));
                    None
                }
            },
            (None, None) => None,
        };
        directory.wake();
        if state.is_none() {
            self.name_is_free(&id);
        }
        self.announce(id.application, id.process.into(), state);
        self.state_shown(id, state);
        listed
    }

    /// Sets the look at activity going, once there are processes.
    pub(crate) fn look_at_activity_later(&mut self) {
        if !self.directories.is_looking {
            self.directories.is_looking = true;
            self.timers.after(self.directories.period(), Timer::Activity);
        }
    }

    /// Timer: looks at some processes; a round of looks at all takes one period, however many there are.
    pub(crate) fn look_at_activity(&mut self) {
        let from = self.directories.looked.map_or(Bound::Unbounded, Bound::Excluded);
        let some = self.processes.entries.range((from, Bound::Unbounded)).take(ACTIVITY_LOOKS_TURN);
        let keys: Vec<_> = some.map(|(key, _)| *key).collect();
        let changed: BTreeSet<_> = keys.iter().filter_map(|key| self.look_at_activity_of(*key)).collect();
        keys.iter().for_each(|key| self.look_at_files(*key));
        keys.iter().for_each(|key| self.swap_if_idle(*key));
        keys.iter().for_each(|key| self.checkpoint_if_due(*key));
        for directory in changed.iter().filter_map(|application| self.directories.get(application)) {
            directory.wake();
        }
        // At the end it begins anew.
        self.directories.looked = keys.last().copied().filter(|_| keys.len() == ACTIVITY_LOOKS_TURN);
        self.directories.is_looking = !self.processes.entries.is_empty();
        if self.directories.is_looking {
            let turns = self.processes.entries.len().div_ceil(ACTIVITY_LOOKS_TURN);
            let pause = self.directories.period() / u32::try_from(turns).unwrap_or(u32::MAX);
            self.timers.after(pause.max(ACTIVITY_PAUSE_MIN), Timer::Activity);
        }
    }

    fn look_at_activity_of(&mut self, key: ProcessKey) -> Option<Name> {
        let process = self.processes.get(key)?;
        let mut calls = process.calls_of_ended;
        // One that has no workers to call yet is not idle when it has.
        let mut works = !matches!(process.stage, Stage::Active(_));
        for (_, worker) in self.workers_of(key) {
            calls = calls.wrapping_add(worker.page.calls());
            let sleeps = worker.page.is_parked() && !worker.page.is_waiting();
            works = works || !sleeps && worker.page.claims().next().is_some();
        }
        let process_idle = self.directories.process_idle;
        self.processes.get_mut(key)?.activity.look(calls, works, process_idle);
        self.write_state(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_idle_when_it_has_answered_nothing_for_long_enough_and_runs_nothing() {
        let second = Duration::from_secs(1);
        let mut activity = Activity::new();
        activity.look(0, false, second);
        assert!(!activity.is_idle, "it has just begun");
        let earlier = Instant::now().checked_sub(second).expect("the clock is older than a second");
        activity.active_at = earlier;
        activity.look(0, true, second);
        assert!(!activity.is_idle, "it runs a call");
        activity.active_at = earlier;
        activity.look(1, false, second);
        assert!(!activity.is_idle, "it has answered one since");
        activity.active_at = earlier;
        activity.look(1, false, second);
        assert!(activity.is_idle);
        activity.look(2, false, second);
        assert!(!activity.is_idle);
    }
}
