//! A process that came back to take messages, because its application wants none to wake it: it has its memory and no worker, and
//! sleeps again when they lie in its lanes.
//!
//! 1. It is in memory like any other: the keeper holds it before a sender has a lane, so what was sent outlives this server. What
//!    nobody received is stored with it when it sleeps.
//! 2. To everybody but senders of messages it is away. Who needs more than room for a message rouses it: its workers start then, and
//!    it is awake like any other.
//! 3. A lane takes what it has room for, then senders are told that it is full, as they are while a process is busy.

use praas_protocol::ProcessId;

use super::{SwapReason, Waiter};
use crate::application::Application;
use crate::limits::{DOZE, DOZE_AGAIN};
use crate::processes::{Process, ProcessKey, Stage};
use crate::shard::Shard;
use crate::timers::Timer;

/// What somebody needs a process for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// That its workers do something.
    Workers,
    /// That it takes messages, to be received some time.
    Messages,
}

impl Need {
    pub(super) fn of(waiter: &Waiter, application: &Application) -> Self {
        let is_message = matches!(waiter, Waiter::MessageLane(_));
        if is_message && !application.wake_on_message { Self::Messages } else { Self::Workers }
    }
}

impl Process {
    /// Whether it is there for messages, and not on its way to sleep.
    fn is_dozing(&self) -> bool {
        self.dozes && matches!(self.stage, Stage::Active(_))
    }
}

impl Shard {
    /// What those who wait for a process need; none if nobody does.
    pub(super) fn need_of_waiters(&self, id: &ProcessId) -> Option<Need> {
        let application = self.applications.get(&id.application)?;
        let needs = self.swaps.waiting.of(id).map(|waiter| Need::of(waiter, application));
        needs.reduce(|one, other| if one == Need::Workers { one } else { other })
    }

    /// Whether a process has its memory and no worker, to take messages.
    pub(crate) fn dozes(&self, id: &ProcessId) -> bool {
        let process = self.processes.by_id.get(id).and_then(|key| self.processes.get(*key));
        process.is_some_and(Process::is_dozing)
    }

    /// Sees to it that a process which dozes sleeps again.
    pub(super) fn doze_on(&mut self, key: ProcessKey) {
        if let Some(process) = self.processes.get(key).filter(|process| process.is_dozing()) {
            let has_failed = process.stored.snapshot.is_none();
            self.timers.after(if has_failed { DOZE_AGAIN } else { DOZE }, Timer::Doze(key));
        }
    }

    /// Timer: whether it can sleep by now.
    pub(crate) fn doze_due(&mut self, key: ProcessKey) {
        let Some(process) = self.processes.get(key).filter(|process| process.is_dozing()) else { return };
        let id = process.id;
        if process.inbound.values().any(|lane| lane.is_opening()) {
            return self.timers.after(DOZE, Timer::Doze(key));
        }
        if let Err(error) = self.begin_swap(key, SwapReason::Idle, None) {
            self.log.info(format_args!("{id} took messages and stays in memory: {error}"));
            self.timers.after(DOZE_AGAIN, Timer::Doze(key));
        }
    }

    /// More is needed of a process that dozes than to take messages.
    pub(super) fn rouse(&mut self, key: ProcessKey) {
        let Some(process) = self.processes.get_mut(key).filter(|process| process.is_dozing()) else { return };
        process.dozes = false;
        let id = process.id;
        self.show_state(key);
        self.fill_workers(key);
        self.serve_waiters(&id);
    }
}
