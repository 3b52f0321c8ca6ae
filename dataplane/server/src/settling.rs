//! What dead workers were at in the state of their process, and the end of a process whose state is corrupt.
//!
//! 1. It is settled only when the worker's pidfd has fired, and before another worker with the same index is started.
//! 2. The loop never waits for a worker: while a live one writes, settling is tried again by a timer. One that stays inside
//!    for [`SETTLING_MAX`] is stuck or stopped, and is killed.
//! 3. A corrupt state costs its own process alone, which is listed as failed until it is stopped. Its memory stays as it is.

use std::time::{Duration, Instant};

use praas_protocol::Phase;
use praas_protocol::control::ControlError;
use praas_shm::WorkerTag;
use praas_shm::objects::{LockOwner, RecoverError};

use crate::clock;
use crate::processes::{ProcessKey, Stage};
use crate::shard::Shard;
use crate::timers::Timer;

/// Period in which settling is tried again while somebody writes: critical sections take microseconds.
const SETTLING_PERIOD: Duration = Duration::from_millis(5);

/// Time after which whoever writes meanwhile is taken for stuck, on however loaded a machine.
const SETTLING_MAX: Duration = Duration::from_secs(5);

/// Workers of a process whose part in its state is to be settled.
#[derive(Debug, Default)]
pub(crate) struct Unsettled {
    tags: Vec<WorkerTag>,
    since: Option<Instant>,
    timer_set: bool,
}

impl Unsettled {
    /// Indices that no new worker may have yet.
    pub(crate) fn indices(&self) -> impl Iterator<Item = u8> {
        self.tags.iter().map(|tag| tag.index())
    }
}

impl Shard {
    /// Settles what a dead worker was at.
    pub(crate) fn settle_worker(&mut self, key: ProcessKey, dead: WorkerTag) {
        if let Some(process) = self.processes.get_mut(key) {
            process.unsettled.tags.push(dead);
            if let Some(bell) = &process.bell {
                bell.forget(dead);
            }
            self.settle_workers(key);
        }
    }

    /// Timer: tries again what could not be settled.
    pub(crate) fn settle_again(&mut self, key: ProcessKey) {
        let Some(process) = self.processes.get_mut(key) else { return };
        process.unsettled.timer_set = false;
        self.settle_workers(key);
        // Their indices may have been all there were.
        self.fill_workers(key);
        self.write_when_settled(key);
    }

    fn settle_workers(&mut self, key: ProcessKey) {
        let Some(process) = self.processes.get_mut(key) else { return };
        let Some(memory) = process.memory.as_ref().filter(|_| process.broken.is_none()) else {
            return process.unsettled.tags.clear();
        };
        let mut writer = None;
        let mut corrupt = None;
        process.unsettled.tags.retain(|dead| match memory.objects.recover(*dead) {
            Ok(_) => false,
            Err(RecoverError::Busy { owner }) => {
                writer = Some(owner);
                true
            }
            Err(error) => {
                corrupt = Some(error.to_string());
                false
            }
        });
        if let Some(reason) = corrupt {
            return self.break_process(key, &reason);
        }
        let Some(writer) = writer else {
            process.unsettled.since = None;
            // Messages that the dead held may be taken by others now.
            self.ring_mail_bell(key);
            return self.wake_ups_are_unsure(key);
        };
        let now = clock::now();
        if now.duration_since(*process.unsettled.since.get_or_insert(now)) >= SETTLING_MAX {
            process.unsettled.since = None;
            if !self.end_writer(key, writer) {
                return self.break_process(key, &format!("{writer} has locked it, and is not there"));
            }
        }
        let Some(process) = self.processes.get_mut(key) else { return };
        if !std::mem::replace(&mut process.unsettled.timer_set, true) {
            self.timers.after(SETTLING_PERIOD, Timer::Settle(key));
        }
    }

    /// Kills the worker that does not leave the state; false if there is no such worker.
    fn end_writer(&mut self, key: ProcessKey, writer: LockOwner) -> bool {
        let LockOwner::Worker(tag) = writer else { return false };
        let found = self.workers_of(key).find(|(_, worker)| worker.tag == tag).map(|(key, _)| key);
        // One that is dead and not yet settled is settled at the next try.
        let unsettled = self.processes.get(key).is_some_and(|process| process.unsettled.tags.contains(&tag));
        if let Some(worker) = found {
            self.end_worker(worker, "it kept the state of its process locked".into());
        }
        found.is_some() || unsettled
    }

    /// The state of a process cannot be used any more: its workers end, and so do its calls.
    pub(crate) fn break_process(&mut self, key: ProcessKey, reason: &str) {
        let Some(process) = self.processes.get_mut(key) else { return };
        let id = process.id;
        let words = format!("its state cannot be used: {reason}; `praas process stop {id}` gives it up");
        self.log.error(format_args!("process {id} has failed: {words}"));
        process.broken = Some(words);
        process.unsettled.tags.clear();
        match &mut process.stage {
            Stage::Creating(_) => return self.fail_creation(key),
            Stage::Active(askers) => {
                let askers = std::mem::take(askers);
                process.control.set_phase(Phase::Closed);
                self.fail_askers(key, askers);
            }
            // It ends, or finds out when it is to begin anew.
            Stage::Draining(_) | Stage::Swapping(_) | Stage::Removing(_) | Stage::Ended => {}
        }
        self.show_state(key);
        self.ring_mail_bell(key);
        self.kill_workers(key, "the state of its process cannot be used");
        self.end_message_lanes(key);
        self.refuse_others(key);
    }

    /// Tells who waits for the workers of a broken process that there will be none.
    pub(crate) fn fail_askers(&mut self, key: ProcessKey, askers: Vec<crate::processes::Asker>) {
        let Some(process) = self.processes.get(key) else { return };
        let error = ControlError::WorkersFailed { process: process.id, reason: process.failure_words() };
        for asker in askers {
            self.answer_failed(asker, error.clone());
        }
    }
}
