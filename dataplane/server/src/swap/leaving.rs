//! A process leaves memory: it finishes its calls, its workers end, what it knows is written, and then its memory is given up.
//!
//! 1. Until its manifest is published it can go on where it was, and does when anything goes wrong: when its calls do not end
//!    within `drain_ms` (nobody is killed for a swap, unless the server ends), when messages cannot be collected, when storage
//!    fails.
//! 2. A process that only seemed to be idle goes on at once when somebody needs it while it still finishes its calls.
//! 3. What is wanted of it meanwhile is done afterwards: who wants it stopped is served when it is written or has failed to be.

use std::sync::Arc;
use std::time::{Duration, Instant};

use praas_protocol::control::{ControlError, ProcessState};
use praas_protocol::{Phase, ProcessId};
use praas_storage::snapshot::Removed;

use super::life::Life;
use super::table::Swapped;
use super::transfer::{Job, Written};
use super::writing::{FilesJob, WriteJob};
use super::{StoredCopy, SwapReason};
use crate::clock;
use crate::drain::Purpose;
use crate::processes::{Asker, Process, ProcessKey, Stage};
use crate::shard::Shard;

/// A process that is being written.
#[derive(Debug)]
pub(crate) struct Swapping {
    reason: SwapReason,
    /// Who waits until it sleeps.
    askers: Vec<Asker>,
    /// Who wants it stopped.
    stoppers: Vec<Asker>,
    since: Instant,
    /// Whether a thread writes it, or has.
    is_written: bool,
    /// What was published. Its memory is given up when the files of its workers are gone.
    written: Option<Written>,
}

impl Swapping {
    /// Somebody else wants it to sleep.
    pub(crate) fn add_asker(&mut self, asker: Option<Asker>) {
        self.askers.extend(asker);
    }

    /// Whether it is stored, and only has to be let go of.
    pub(crate) fn is_stored(&self) -> bool {
        self.written.is_some()
    }

    /// Somebody wants it stopped.
    pub(crate) fn add_stopper(&mut self, asker: Asker) {
        self.stoppers.push(asker);
    }
}

impl Shard {
    /// An active process begins to leave.
    pub(super) fn begin_leaving(&mut self, key: ProcessKey, reason: SwapReason, asker: Option<Asker>) {
        if let Some(process) = self.processes.get(key) {
            let id = process.id;
            if let Some(filler) = &process.filler {
                filler.shared().rest();
            }
            self.note_transition(id, ProcessState::Swapping, reason.words(), 0, Duration::ZERO);
        }
        self.begin_drain(key, Purpose::Swap(reason), asker.into_iter().collect());
    }

    /// A process that has not let its workers go yet goes on as if nothing had been.
    pub(crate) fn stay_instead(&mut self, key: ProcessKey, why: &str) {
        let Some(process) = self.processes.get_mut(key) else { return };
        let Stage::Draining(drain) = &mut process.stage else { return };
        let askers = std::mem::take(&mut drain.askers);
        process.stage = Stage::Active(Vec::new());
        process.control.set_phase(Phase::Active);
        self.has_stayed(key, askers, why);
        self.wake_workers(key);
    }

    /// All workers have ended: the rest is written.
    pub(crate) fn begin_writing(&mut self, key: ProcessKey, reason: SwapReason, askers: Vec<Asker>) {
        let Some(process) = self.processes.get_mut(key) else { return };
        process.stage = Stage::Swapping(Swapping {
            reason,
            askers,
            stoppers: Vec::new(),
            since: clock::now(),
            is_written: false,
            written: None,
        });
        self.show_state(key);
        self.write_when_settled(key);
    }

    /// The same as soon as what its workers were at is settled: what still comes back of it may hold that up for a moment.
    pub(crate) fn write_when_settled(&mut self, key: ProcessKey) {
        let Some(process) = self.processes.get_mut(key) else { return };
        let Stage::Swapping(swapping) = &mut process.stage else { return };
        if let Some(filler) = &process.filler {
            filler.shared().end();
        }
        // One writes at a time: a checkpoint that is under way is followed by this.
        let is_free = !process.checkpoints.is_under_way();
        let is_settled = process.broken.is_some() || process.unsettled.indices().next().is_none();
        if !is_free || !is_settled || std::mem::replace(&mut swapping.is_written, true) {
            return;
        }
        if self.shutting_down {
            self.write_in_turn(key);
        } else {
            self.begin_write_job(key);
        }
    }

    /// Hands a process to the threads; false if it cannot be written, which has been seen to then.
    pub(crate) fn begin_write_job(&mut self, key: ProcessKey) -> bool {
        match self.write_job(key, false) {
            Ok(job) => {
                self.begin_job(key, |job| Job::Write { key, job }, job);
                true
            }
            Err(why) => {
                self.go_on(key, &why);
                false
            }
        }
    }

    /// A process that goes on is written; the error says why not.
    pub(crate) fn write_checkpoint(&mut self, key: ProcessKey) -> Result<(), String> {
        let job = self.write_job(key, true)?;
        self.begin_job(key, |job| Job::Checkpoint { key, job }, job);
        Ok(())
    }

    fn begin_job(&mut self, key: ProcessKey, of: impl FnOnce(Box<WriteJob>) -> Job, job: WriteJob) {
        if let Some(process) = self.processes.get_mut(key) {
            process.stored.exists = true;
        }
        if let Some(transfers) = &self.swaps.transfers {
            transfers.begin(of(Box::new(job)));
        }
    }

    fn write_job(&self, key: ProcessKey, goes_on: bool) -> Result<WriteJob, String> {
        let process = self.processes.get(key).ok_or("the process is gone")?;
        if let Some(reason) = &process.broken {
            return Err(reason.clone());
        }
        let folder = process.folder().ok_or("the process has no memory any more")?;
        let calls = process.calls_of_ended;
        let memory = process.memory.as_ref().ok_or("the process has no memory any more")?;
        let mut life = Life::new(memory.ledger.record(), process.idle_swap_ms, calls);
        life.next_wake_unix_ms = self.alarms.of(&process.id);
        Ok(WriteJob {
            folder,
            objects: Arc::clone(&memory.objects),
            life: if goes_on { life.that_goes_on() } else { life },
            lanes: self.inbound_lanes(key)?,
            base: process.stored.snapshot.clone(),
            epoch: process.stored.epoch,
            owner: self.data.owner(),
            filling: process.filler.as_ref().map(|filler| Arc::clone(filler.shared())).filter(|_| !goes_on),
            files: self.files_job(key).filter(|_| !goes_on),
            goes_on,
            has_leftovers: process.stored.has_leftovers,
            has_time: !self.shutting_down,
        })
    }

    /// How the files of a process are taken.
    fn files_job(&self, key: ProcessKey) -> Option<FilesJob> {
        let path = self.files_path(key)?;
        let process = self.processes.get(key)?;
        let known = process.stored.files.clone();
        let bytes_max = process.application.limits.files_bytes_max;
        // Without a limit no worker had the directory.
        Some(FilesJob { path, owner: process.user.filter(|_| bytes_max > 0), bytes_max, known })
    }

    /// A thread has written a process, or has not.
    pub(super) fn written(&mut self, key: ProcessKey, written: Result<Written, String>) {
        self.turn_ended(key);
        if !self.processes.get(key).is_some_and(|process| matches!(process.stage, Stage::Swapping(_))) {
            return;
        }
        match written {
            Ok(written) => self.begin_falling_asleep(key, written),
            Err(why) => self.go_on(key, &why),
        }
    }

    /// It is stored: the directory of its workers goes first, so that it is not removed under those who come next.
    fn begin_falling_asleep(&mut self, key: ProcessKey, written: Written) {
        let Some(process) = self.processes.get_mut(key) else { return };
        let Stage::Swapping(swapping) = &mut process.stage else { return };
        swapping.written = Some(written);
        if !self.hosting.remove(key, process.id, None) {
            // The queue is far longer than there are processes.
            self.fall_asleep(key);
        }
    }

    /// Nothing is left of its workers: its memory is given up.
    pub(crate) fn fall_asleep(&mut self, key: ProcessKey) {
        let Some(process) = self.processes.get_mut(key) else { return };
        let Stage::Swapping(swapping) = std::mem::replace(&mut process.stage, Stage::Ended) else { return };
        let Some(written) = swapping.written else { return };
        let Written { snapshot, moved_bytes, stored_bytes, next_wake_unix_ms, removed, has_leftovers } = written;
        if !swapping.stoppers.is_empty() {
            process.stored = StoredCopy { exists: true, epoch: Some(snapshot.epoch()), ..StoredCopy::default() };
            self.remove_process(key, swapping.stoppers);
            let error = ControlError::UnknownProcess { process: snapshot.folder().process };
            return swapping.askers.into_iter().for_each(|asker| self.answer_failed(asker, error.clone()));
        }
        let (id, took) = (process.id, clock::since(swapping.since));
        let mut swapped = Swapped::new(snapshot.folder().incarnation, stored_bytes, Some(clock::unix_time_ms()));
        swapped.listed = process.listed.take();
        swapped.has_leftovers = has_leftovers;
        self.processes.by_id.remove(&id);
        self.processes.swapped.insert(id, swapped);
        self.set_alarm(id, next_wake_unix_ms);
        self.let_openers_wait(key);
        self.remove_log(key);
        self.give_memory_up(key);
        self.metrics.swaps_out += 1;
        self.metrics.swapped_out_bytes += moved_bytes;
        if self.shutting_down {
            self.preemption.note_saved(moved_bytes);
        }
        self.log.info(format_args!(
            "process {id} sleeps ({}): {moved_bytes} bytes written in {took:?}",
            swapping.reason.words()
        ));
        self.count_leftovers(&id, removed);
        self.note_transition(id, ProcessState::Swapped, swapping.reason.words(), moved_bytes, took);
        self.show_sleeper(id);
        swapping.askers.into_iter().for_each(|asker| self.answer_done(asker));
        self.end_call_lanes_to(key);
        self.forget_if_empty(key);
        if let Some(need) = self.need_of_waiters(&id) {
            self.wake(&id, None, need);
        }
    }

    /// Parts that nobody needed were removed with the writing of a process.
    pub(crate) fn count_leftovers(&mut self, id: &ProcessId, removed: Removed) {
        self.metrics.leftover_bytes_removed += removed.bytes;
        if removed.blobs > 0 {
            let Removed { blobs, bytes } = removed;
            self.log.info(format_args!(
                "{blobs} parts of {bytes} bytes, left by swaps of {id} that failed or crashed, are removed from storage"
            ));
        }
    }

    /// Everything that a process has in memory goes, as at its end, but for what is stored of it.
    fn give_memory_up(&mut self, key: ProcessKey) {
        let objects = self.processes.get(key).and_then(|process| process.memory.as_ref());
        let objects = objects.map(|memory| std::sync::Arc::clone(&memory.objects));
        let files = self.files_path(key);
        self.drop_memory(key);
        if let (Some(objects), Some(transfers)) = (objects, &self.swaps.transfers) {
            transfers.begin(Job::Release { objects, files });
        }
        let Some(process) = self.processes.get_mut(key) else { return };
        self.metrics.output_bytes_dropped += process.output.dropped();
        if let Some(user) = process.user.take() {
            self.processes.give_user_back(user);
        }
        self.serve_followers(key);
    }

    /// It could not be written: it goes on with new workers, or, when the server ends, waits for the next one.
    pub(crate) fn go_on(&mut self, key: ProcessKey, why: &str) {
        let Some(process) = self.processes.get_mut(key) else { return };
        let Stage::Swapping(swapping) = std::mem::replace(&mut process.stage, Stage::Active(Vec::new())) else {
            return;
        };
        let id = process.id;
        self.metrics.swaps_failed += 1;
        if !swapping.stoppers.is_empty() {
            self.fail_swappers(id, swapping.askers, why);
            return self.remove_process(key, swapping.stoppers);
        }
        if self.shutting_down {
            self.leave_behind(key, why);
            return self.fail_swappers(id, swapping.askers, why);
        }
        // What failed to be acknowledged may have been published: the next attempt looks. What is away is where it was: nothing
        // of the snapshot before is removed until one that was acknowledged does without it.
        process.stored.snapshot = None;
        process.stored.has_leftovers = true;
        if swapping.reason == SwapReason::NoLog && process.log.is_some() {
            self.fail_swappers(id, swapping.askers, why);
            return self.break_process(key, &format!("its log cannot go on, and it could not be stored: {why}"));
        }
        if process.broken.is_none() {
            process.forget_failures();
            process.control.set_phase(Phase::Active);
        }
        self.has_stayed(key, swapping.askers, why);
        self.fill_workers(key);
    }

    /// Says why a process goes on, to whoever wanted it to sleep, and lets in who waited.
    fn has_stayed(&mut self, key: ProcessKey, askers: Vec<Asker>, why: &str) {
        let Some(process) = self.processes.get(key) else { return };
        let (id, state) = (process.id, process.state());
        if let Some(filler) = &process.filler {
            filler.shared().resume();
        }
        self.log.warning(format_args!("process {id} was not swapped out and goes on: {why}"));
        self.note_transition(id, state, why, 0, Duration::ZERO);
        self.show_state(key);
        self.fail_swappers(id, askers, why);
        self.fill_later(key);
        self.doze_on(key);
        self.serve_waiters(&id);
    }

    fn fail_swappers(&mut self, process: ProcessId, askers: Vec<Asker>, why: &str) {
        let error = ControlError::SwapFailed { process, what: "swapping out".into(), reason: why.to_owned() };
        askers.into_iter().for_each(|asker| self.answer_failed(asker, error.clone()));
    }

    /// Somebody needs a process that is on its way to sleep, or dozes. One that was only idle stays; of others, that is seen to
    /// when they sleep.
    pub(super) fn recall(&mut self, key: ProcessKey) {
        let is_idle = |process: &Process| matches!(&process.stage, Stage::Draining(drain) if drain.may_stay());
        if self.processes.get(key).is_some_and(is_idle) {
            self.stay_instead(key, "it is needed");
        }
        self.rouse(key);
    }
}
