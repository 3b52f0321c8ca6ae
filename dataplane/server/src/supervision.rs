//! What becomes of workers: their deaths, their replacement, calls that outlast their limit, workers nobody needs.
//!
//! 1. A death is believed from the pidfd alone. Only then is what the worker held recovered: its claims are answered with
//!    `WorkerLost`, its entries freed, its blocks given back, and what it was at in the state of its process is settled.
//! 2. A claim is condemned by compare-and-swap before its worker is killed for it: a call that was just answered costs nobody.
//! 3. Claims are looked at often only while some are in sight, and never more often than every 10 ms.

use std::time::Duration;

use praas_protocol::control::{ControlError, LaneId};
use praas_protocol::limits::CLAIM_SAMPLE_MS_MIN;
use praas_sys::Exit;

use crate::clock;
use crate::hosting::Job;
use crate::lanes::LaneOwner;
use crate::limits::{
    CLAIM_LOOK_PERIOD_MAX, IDLE_SCAN_PERIOD_MAX, IDLE_SCAN_PERIOD_MIN, OUTPUT_PAUSE, OUTPUT_READ_BYTES_TURN,
    REPLACE_DELAY_MAX, REPLACE_DELAY_MIN, WORKER_HEALTHY_AFTER,
};
use crate::processes::{Asker, Process, ProcessKey, Stage};
use crate::shard::Shard;
use crate::sources::Source;
use crate::timers::Timer;
use crate::workers::{Life, Sighting, Worker, WorkerKey, WorkerStage};

/// Looks within the limit of a call, so that a kill comes at most an eighth late.
const LOOKS_PER_LIMIT: u32 = 8;

/// Longest delay of a replacement when the last worker had been ready: its program is sound, some call killed it.
const REPLACE_DELAY_SOUND_MAX: Duration = Duration::from_secs(1);

impl Worker {
    /// Whether it claims nothing any more under the closing `word`. One without pages never claimed.
    pub(crate) fn has_noted(&self, word: u64) -> bool {
        self.stage == WorkerStage::Starting || self.page.phase_copied() == word
    }
}

impl Shard {
    /// A worker's pidfd fired, or may have.
    pub(crate) fn look_at_worker_exit(&mut self, key: WorkerKey) {
        let Some(life) = self.workers.get(&key).and_then(|worker| worker.life.as_ref()) else { return };
        if life.pidfd.is_alive() {
            return;
        }
        let exit = match life.pidfd.try_wait() {
            Ok(Some(exit)) => exit,
            Ok(None) => return,
            // Already reaped by the spawning thread: dead all the same.
            Err(_) => Exit::Code(0),
        };
        self.worker_exited(key, exit);
    }

    fn worker_exited(&mut self, key: WorkerKey, exit: Exit) {
        for stream in 0..2 {
            self.read_output(key, stream);
        }
        let Some(worker) = self.workers.get(&key) else { return };
        let process = worker.process;
        let words = exit_words(worker, exit);
        let expected = worker.stage == WorkerStage::Leaving;
        let ready_for = worker.ready_since.map(clock::since);
        let tag = worker.tag;
        self.recover_lanes(key);
        self.drop_worker(key);
        self.settle_worker(process, tag);
        if !expected {
            self.metrics.workers_lost += 1;
        }
        let draining = self.processes.get(process).is_none_or(|process| !process.wants_workers());
        if expected || draining {
            if let Some(process) = self.processes.get_mut(process).filter(|_| !expected) {
                process.last_exit = Some(words);
            }
            self.worker_gone(process);
        } else {
            self.worker_failed(process, words, Some(ready_for));
        }
    }

    /// Gives back what a dead worker held in the lanes of its process.
    fn recover_lanes(&mut self, key: WorkerKey) {
        let Some(worker) = self.workers.get(&key) else { return };
        let Some(process) = self.processes.get(worker.process) else { return };
        for claim in worker.page.claims() {
            if let Some(memory) = process.lanes.get(&LaneId(claim.lane)).and_then(|lane| lane.memory.as_ref()) {
                memory.answer_lost(&claim);
                self.metrics.calls_recovered += 1;
            }
        }
        for memory in process.lanes.values().filter_map(|lane| lane.memory.as_ref()) {
            self.metrics.calls_recovered += u64::from(memory.recover_worker(worker.tag));
        }
    }

    /// Takes a worker out of the tables and lets go of what it was.
    pub(crate) fn drop_worker(&mut self, key: WorkerKey) {
        let Some(worker) = self.workers.remove(&key) else { return };
        self.cut_connections_of(key);
        self.unwatch(&worker.peer.socket());
        if let Some(Life { pidfd, outputs, cgroup, .. }) = worker.life {
            self.unwatch(&pidfd);
            outputs.iter().flatten().for_each(|output| self.unwatch(output));
            if let Some(cgroup) = cgroup {
                // A full queue drops it here: slower, and still right.
                let _ = self.hosting.submit(Job::Clear(cgroup));
            }
        }
        if let Some(process) = self.processes.get_mut(worker.process) {
            process.workers.remove(&key);
            process.calls_of_ended = process.calls_of_ended.saturating_add(worker.page.calls());
            process.counts.keep(&worker.page.functions());
        }
        self.forget_detached_lanes(worker.process, worker.lanes.into_keys());
        self.forget_detached_message_lanes(worker.process, worker.inbound.into_keys());
        self.orphan_message_lanes(worker.outbound.into_values());
        for (lane, process) in worker.call_lanes {
            self.close_lane(process, lane);
        }
        self.end_gateways_of(LaneOwner::Worker(key));
    }

    /// After a worker has left the tables: whoever waited for it is looked at, and calls that it left are picked up.
    pub(crate) fn worker_gone(&mut self, key: ProcessKey) {
        self.show_workers(key);
        self.open_attached_lanes(key);
        self.look_at_drain(key);
        self.serve_unclaimed(key);
        self.fill_workers(key);
        self.forget_if_empty(key);
    }

    /// A worker died or could not be started. `ready_for`: how long it had been ready, if it lived at all.
    pub(crate) fn worker_failed(&mut self, key: ProcessKey, reason: String, ready_for: Option<Option<Duration>>) {
        let Some(process) = self.processes.get_mut(key) else { return };
        self.log.warning(format_args!("a worker of {} ended: {reason}", process.id));
        process.last_exit = Some(reason);
        if let Stage::Creating(_) = process.stage {
            return self.fail_creation(key);
        }
        let ready_for = ready_for.flatten();
        if ready_for.is_some_and(|time| time >= WORKER_HEALTHY_AFTER) {
            process.failures = 0;
        }
        process.never_ready = ready_for.is_none();
        process.failures = process.failures.saturating_add(1);
        process.failed_starts = if process.never_ready { process.failed_starts.saturating_add(1) } else { 0 };
        process.restarts += 1;
        let delay = replacement_delay(process.failures, process.failed_starts);
        if process.has_failed() {
            self.log.error(format_args!("the workers of {} keep failing; next attempt in {delay:?}", process.id));
        }
        let words = process.failure_words();
        let id = process.id;
        let askers = match &mut process.stage {
            Stage::Active(askers) if process.never_ready => std::mem::take(askers),
            _ => Vec::new(),
        };
        if !process.replacement_set {
            process.replacement_set = true;
            self.timers.after(delay, Timer::Replace(key));
        }
        self.show_state(key);
        for asker in askers {
            self.answer_failed(asker, ControlError::WorkersFailed { process: id, reason: words.clone() });
        }
        self.worker_gone_without_filling(key);
    }

    /// Sees to calls that lie unclaimed in an active process.
    fn serve_unclaimed(&mut self, key: ProcessKey) {
        if self.processes.get(key).is_some_and(Process::wants_workers) && self.has_unclaimed(key) {
            self.wake_workers(key);
            self.grow(key);
        }
    }

    fn worker_gone_without_filling(&mut self, key: ProcessKey) {
        self.show_workers(key);
        self.open_attached_lanes(key);
        self.look_at_drain(key);
        if self.ready_workers(key) > 0 {
            self.wake_workers(key);
        }
    }

    /// The first workers of a new process did not start: it never was.
    pub(crate) fn fail_creation(&mut self, key: ProcessKey) {
        let Some(process) = self.processes.get_mut(key) else { return };
        let error = ControlError::WorkersFailed { process: process.id, reason: process.failure_words() };
        let Stage::Creating(askers) = &mut process.stage else { return };
        let askers: Vec<Asker> = std::mem::take(askers);
        // Before anybody hears of it: no server that comes after this one makes an empty process of what is left.
        let noted = process.memory.as_mut().map_or(Ok(()), |memory| memory.ledger.end());
        if let Err(error) = noted {
            let id = process.id;
            self.log.error(format_args!("that {id} was never created cannot be noted: {error}"));
        }
        // The same goes for its log, which takes a moment.
        if process.log.is_some() {
            process.disappointed = askers;
        } else {
            askers.into_iter().for_each(|asker| self.answer_failed(asker, error.clone()));
        }
        self.begin_drain(key, crate::drain::Purpose::Stop, Vec::new());
        self.kill_workers(key, "its process could not be created");
    }

    /// Tells those who wanted a process that could not be created: nothing of it comes back, or that could not be helped.
    pub(crate) fn tell_disappointed(&mut self, key: ProcessKey) {
        let Some(process) = self.processes.get_mut(key) else { return };
        let askers = std::mem::take(&mut process.disappointed);
        let error = ControlError::WorkersFailed { process: process.id, reason: process.failure_words() };
        askers.into_iter().for_each(|asker| self.answer_failed(asker, error.clone()));
    }

    /// Timer: workers that died are replaced.
    pub(crate) fn replace_workers(&mut self, key: ProcessKey) {
        if let Some(process) = self.processes.get_mut(key) {
            process.replacement_set = false;
            self.fill_workers(key);
            // Those that are there may all wait.
            self.serve_unclaimed(key);
        }
    }

    /// Sets the look at claims going, once there are workers.
    pub(crate) fn look_at_claims_later(&mut self) {
        if !self.claims_watched {
            self.claims_watched = true;
            self.timers.after(Duration::from_millis(CLAIM_SAMPLE_MS_MIN), Timer::Claims);
        }
    }

    /// Timer: condemns and kills what runs for longer than its application allows.
    pub(crate) fn look_at_claims(&mut self) {
        let now = clock::now();
        let mut next = CLAIM_LOOK_PERIOD_MAX;
        let mut overdue = Vec::new();
        for (key, worker) in &mut self.workers {
            let limit = self.processes.get(worker.process).and_then(|process| process.application.call_time_max());
            let Some(limit) = limit.filter(|_| worker.stage >= WorkerStage::Ready) else { continue };
            next = next.min(limit / LOOKS_PER_LIMIT);
            if worker.page.is_parked() && worker.sightings.is_empty() {
                continue;
            }
            // A call whose reply is held has ended: it waits for the log, which is not its worker's fault.
            let claims: Vec<_> = worker.page.claims().filter(|claim| !claim.is_held()).collect();
            worker.sightings.retain(|record, _| claims.iter().any(|claim| claim.record == *record));
            for claim in claims {
                let sighting =
                    worker.sightings.entry(claim.record).or_insert(Sighting { sequence: claim.sequence, since: now });
                if sighting.sequence != claim.sequence {
                    *sighting = Sighting { sequence: claim.sequence, since: now };
                }
                if now.duration_since(sighting.since) >= limit && worker.page.condemn(&claim) {
                    overdue.push((*key, limit));
                }
            }
        }
        for (key, limit) in overdue {
            self.metrics.workers_overdue += 1;
            self.end_worker(key, format!("a call ran for longer than call_ms_max = {}", limit.as_millis()));
        }
        self.claims_watched = !self.workers.is_empty();
        if self.claims_watched {
            self.timers.after(next.max(Duration::from_millis(CLAIM_SAMPLE_MS_MIN)), Timer::Claims);
        }
    }

    /// Sets the look for idle workers going, once a process has more than its minimum.
    pub(crate) fn look_for_idle_workers_later(&mut self) {
        if !self.idle_watched {
            self.idle_watched = true;
            // A worker is ended a quarter of its time late at most.
            let period = (self.worker_idle / 4).clamp(IDLE_SCAN_PERIOD_MIN, IDLE_SCAN_PERIOD_MAX);
            self.timers.after(period, Timer::Idle);
        }
    }

    /// Timer: ends workers above the minimum that have had nothing to do.
    pub(crate) fn look_for_idle_workers(&mut self) {
        self.idle_watched = false;
        let now = clock::now();
        let keys: Vec<_> = self.processes.entries.keys().copied().collect();
        for key in keys {
            let Some(process) = self.processes.get(key) else { continue };
            // Those that wait inside their calls are no help to others meanwhile.
            let serving = self.ready_workers(key).saturating_sub(self.waiting_workers(key));
            let surplus = serving.saturating_sub(process.application.workers_min);
            if !process.wants_workers() {
                continue;
            }
            if self.ready_workers(key) > process.application.workers_min {
                self.look_for_idle_workers_later();
            }
            if surplus == 0 {
                continue;
            }
            let mut idle = Vec::new();
            for worker_key in self.worker_keys(key) {
                let Some(worker) = self.workers.get_mut(&worker_key) else { continue };
                let calls = worker.page.calls();
                let has_connections = self.dedicated.count(worker_key) > 0;
                match worker.idle {
                    Some((before, since))
                        if before == calls && !has_connections && worker.is_ready() && worker.page.is_parked() =>
                    {
                        if now.duration_since(since) >= self.worker_idle {
                            idle.push(worker_key);
                        }
                    }
                    _ => worker.idle = Some((calls, now)),
                }
            }
            for worker in idle.into_iter().rev().take(surplus as usize) {
                self.dismiss_worker(worker);
            }
        }
    }

    /// Captures what a worker has written, at most a turn's worth.
    pub(crate) fn read_output(&mut self, key: WorkerKey, stream: u8) {
        let Some(worker) = self.workers.get_mut(&key) else { return };
        let process = worker.process;
        let Some(output) = worker.life.as_ref().and_then(|life| life.outputs.get(usize::from(stream))) else { return };
        let Some(output) = output else { return };
        let mut captured = std::mem::take(&mut self.output_buffer);
        captured.resize(OUTPUT_READ_BYTES_TURN, 0);
        let mut length = 0;
        let ended = loop {
            match rustix::io::read(output, &mut captured[length..]) {
                Ok(0) => break length < captured.len(),
                Ok(bytes) => length += bytes,
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => break false,
                Err(_) => break true,
            }
            if length == captured.len() {
                // A flood: the pipe stays full for a moment, and its writer waits.
                self.timers.after(OUTPUT_PAUSE, Timer::WorkerOutput(key, stream));
                break false;
            }
        };
        if ended && let Some(life) = self.workers.get_mut(&key).and_then(|worker| worker.life.as_mut()) {
            let closed = life.outputs.get_mut(usize::from(stream)).and_then(Option::take);
            if let Some(closed) = closed {
                self.unwatch(&closed);
            }
        }
        if length > 0 {
            self.append_output(process, &captured[..length]);
        }
        self.output_buffer = captured;
    }

    /// A worker's output can be read again.
    pub(crate) fn resume_output(&mut self, key: WorkerKey, stream: u8) {
        self.ready.add(Source::WorkerOutput(key, stream));
    }
}

fn exit_words(worker: &Worker, exit: Exit) -> String {
    let pid = worker.pid().unwrap_or(0);
    let memory = worker.life.as_ref().and_then(|life| life.cgroup.as_ref()).and_then(|cgroup| cgroup.oom_kills());
    match (&worker.end_reason, memory) {
        (Some(reason), _) => format!("worker {pid} {exit}: {reason}"),
        (None, Some(kills)) if kills > 0 => format!("worker {pid} {exit}: it reached memory_bytes"),
        (None, _) => format!("worker {pid} {exit}"),
    }
}

/// Nothing for the first failure, then doubling: up to a second where workers had been ready, far longer where none gets so far.
fn replacement_delay(failures: u32, failed_starts: u32) -> Duration {
    let of = |count: u32, most| match count {
        0 | 1 => Duration::ZERO,
        more => REPLACE_DELAY_MIN.saturating_mul(1 << (more - 2).min(20)).min(most),
    };
    of(failures, REPLACE_DELAY_SOUND_MAX).max(of(failed_starts, REPLACE_DELAY_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replacements_wait_longer_with_each_failure_up_to_a_bound() {
        assert_eq!(replacement_delay(1, 1), Duration::ZERO);
        assert_eq!(replacement_delay(2, 2), REPLACE_DELAY_MIN);
        for failures in 2..100 {
            let (delay, next) = (replacement_delay(failures, failures), replacement_delay(failures + 1, failures + 1));
            assert!(next == (delay * 2).min(REPLACE_DELAY_MAX), "{failures}");
            // However many died after they had been ready, one that dies before says little.
            assert!((0..2).all(|starts| replacement_delay(failures, starts) <= REPLACE_DELAY_SOUND_MAX));
        }
    }
}
