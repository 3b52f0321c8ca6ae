//! The loop's part in bringing a process back piece by piece ([`super::filling`]): it passes on what workers ask for, and sees to it
//! that the rest comes.
//!
//! 1. What a worker asks for goes to threads of its own, so that nothing else that is moved keeps it waiting.
//! 2. The rest begins to come when the first workers are ready, which is when the first call may be answered. A run that fails is
//!    repeated, less and less often; what is damaged is left alone.
//! 3. When all is in the segment, the ledger says so, and the process is like any other.

use std::sync::Arc;
use std::time::Duration;

use praas_protocol::control::{StateNotFetched, StateWanted, WorkerCommand};
use praas_storage::Folder;

use super::filling::{FillEnd, Filling};
use super::transfer::Job;
use crate::processes::{Process, ProcessKey, Stage};
use crate::shard::Shard;
use crate::timers::Timer;
use crate::workers::WorkerKey;

/// Time until the rest is tried again that could not be read; it doubles with each attempt.
const RETRY_PERIOD: Duration = Duration::from_secs(1);

/// Longest such time.
const RETRY_PERIOD_MAX: Duration = Duration::from_secs(60);

/// Requests of one worker that are not answered yet: it waits for one, and may have given up some before.
const FETCHES_PER_WORKER_MAX: u32 = 16;

/// Lines of the log about what is damaged of one process: whoever needs it is told each time.
const DAMAGE_TOLD_MAX: u32 = 8;

/// What a process has that is not whole yet.
#[derive(Debug)]
pub(crate) struct Filler {
    shared: Arc<Filling>,
    /// Whether the rest comes now, or a timer is set for it, or it is of no use.
    is_at_it: bool,
    /// Runs that failed in a row.
    attempts: u32,
    /// Bytes that came back.
    read_bytes: u64,
    damage_told: u32,
}

impl Filler {
    /// Of a process whose segment has not all of its objects.
    pub(super) fn new(filling: Filling) -> Self {
        Self { shared: Arc::new(filling), is_at_it: false, attempts: 0, read_bytes: 0, damage_told: 0 }
    }

    /// What the threads use.
    pub(super) fn shared(&self) -> &Arc<Filling> {
        &self.shared
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        // What is under way for a process without memory is of no use.
        self.shared.end();
    }
}

impl Process {
    /// A process that an earlier server left with memory in which something is missing goes on to come back.
    pub(crate) fn go_on_filling(&mut self) {
        let Some(memory) = &self.memory else { return };
        let record = memory.ledger.record();
        self.stored.epoch = (record.epoch != 0).then_some(record.epoch);
        if !record.is_restoring {
            return;
        }
        let folder = Folder { process: self.id, incarnation: record.incarnation };
        match Filling::new(folder, record.epoch, Arc::clone(&memory.objects), None) {
            Ok(filling) => self.filler = Some(Filler::new(filling)),
            // Nobody else has memory that was just handed over.
            Err(error) => self.broken = Some(format!("its state cannot come back: {error}")),
        }
    }
}

impl Shard {
    /// A worker has met something that is away.
    pub(crate) fn fetch_state(&mut self, worker: WorkerKey, request: u32, wanted: StateWanted) {
        let Some(found) = self.workers.get_mut(&worker) else { return };
        let (process, under_way) = (found.process, &mut found.fetches);
        let filler = self.processes.get(process).and_then(|process| process.filler.as_ref());
        let refused = |reason: &str| Some(StateNotFetched { is_damaged: false, reason: reason.into() });
        let error = match (filler, &self.swaps.transfers) {
            // It has come back meanwhile.
            (None, _) => None,
            (Some(_), None) => {
                refused("it is in storage, and this server has none: start it with the one it had before")
            }
            (Some(_), Some(_)) if *under_way >= FETCHES_PER_WORKER_MAX => refused("too much is asked for at once"),
            (Some(filler), Some(transfers)) => {
                *under_way += 1;
                let filling = Arc::clone(&filler.shared);
                return transfers.begin(Job::Fetch { process, worker, request, wanted, filling });
            }
        };
        self.command_worker(worker, &WorkerCommand::StateFetched { request, error }, &[]);
    }

    /// A thread has brought back what a worker asked for, or has not.
    pub(super) fn state_fetched(
        &mut self,
        process: ProcessKey,
        worker: WorkerKey,
        request: u32,
        error: Option<StateNotFetched>,
    ) {
        self.metrics.state_fetches += 1;
        self.metrics.state_fetches_failed += u64::from(error.is_some());
        self.count_read(process);
        let Some(found) = self.workers.get_mut(&worker) else { return };
        found.fetches = found.fetches.saturating_sub(1);
        if let Some(error) = error.as_ref().filter(|error| error.is_damaged)
            && let Some(process) = self.processes.get_mut(process)
            && let Some(filler) = process.filler.as_mut().filter(|filler| filler.damage_told < DAMAGE_TOLD_MAX)
        {
            filler.damage_told += 1;
            self.log.error(format_args!("something of {} is damaged in storage: {}", process.id, error.reason));
        }
        self.command_worker(worker, &WorkerCommand::StateFetched { request, error }, &[]);
    }

    /// Has the rest come, if there is a rest and nobody is at it.
    pub(crate) fn fill_later(&mut self, key: ProcessKey) {
        let Some(process) = self.processes.get_mut(key) else { return };
        let is_awake = matches!(process.stage, Stage::Active(_)) && process.broken.is_none();
        let Some(filler) = process.filler.as_mut().filter(|filler| is_awake && !filler.is_at_it) else { return };
        let Some(transfers) = &self.swaps.transfers else { return };
        filler.is_at_it = true;
        transfers.begin(Job::Fill { key, filling: Arc::clone(&filler.shared) });
    }

    /// A thread has brought back the rest, or has not.
    pub(super) fn filled(&mut self, key: ProcessKey, end: FillEnd) {
        let read_bytes = self.count_read(key);
        let Some(process) = self.processes.get_mut(key) else { return };
        let (id, Some(filler)) = (process.id, &mut process.filler) else { return };
        match end {
            FillEnd::Whole => {
                let memory = process.memory.as_mut();
                match memory.map_or(Ok(()), |memory| memory.ledger.set_restored()) {
                    Ok(()) => {
                        process.filler = None;
                        self.metrics.restores_whole += 1;
                        self.log.info(format_args!("all of process {id} is in memory: {read_bytes} bytes read"));
                    }
                    // The next server looks through it once more.
                    Err(error) => self.log.error(format_args!("that {id} is whole cannot be noted: {error}")),
                }
            }
            FillEnd::Stopped => {
                filler.is_at_it = false;
                self.fill_later(key);
            }
            FillEnd::Damaged { count, first } => self.log.error(format_args!(
                "{count} parts of what is stored of {id} are damaged, all else has come back: {first}; delete or replace what is \
                 named, or bring back what the storage had"
            )),
            FillEnd::Failed(reason) => {
                let pause = RETRY_PERIOD.saturating_mul(1 << filler.attempts.min(16)).min(RETRY_PERIOD_MAX);
                filler.attempts += 1;
                self.log.warning(format_args!("the rest of {id} is tried again in {pause:?}: {reason}"));
                self.timers.after(pause, Timer::Fill(key));
            }
        }
    }

    /// Timer: the rest is tried again.
    pub(crate) fn fill_due(&mut self, key: ProcessKey) {
        if let Some(filler) = self.processes.get_mut(key).and_then(|process| process.filler.as_mut()) {
            filler.is_at_it = false;
        }
        self.fill_later(key);
    }

    /// Counts what has come back of a process; all of it so far.
    fn count_read(&mut self, key: ProcessKey) -> u64 {
        let Some(filler) = self.processes.get_mut(key).and_then(|process| process.filler.as_mut()) else { return 0 };
        let read_bytes = filler.shared.take_read_bytes();
        filler.read_bytes += read_bytes;
        self.metrics.swapped_in_bytes += read_bytes;
        filler.read_bytes
    }
}
