//! Draining: a process finishes its running calls, refuses the others untouched, and lets its workers go.
//!
//! 1. `draining` is written and every worker woken; unclaimed requests are refused, except descendants of running calls.
//!    Workers answer what they took over dedicated connections, and end those.
//! 2. When no claim and no dedicated connection is left, or `drain_ms` is over and the rest were killed, `closed` is written: nothing is claimed.
//! 3. When each worker has copied this very word, or is dead, all lanes are swept again: what was published in between is
//!    refused. A refused request never ran; its client sends it again.
//! 4. The workers are told to end. When all have ended, the process ends, or begins anew.
//!
//! A claim ends without a message to the server, so a draining process is looked at every few milliseconds.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use praas_protocol::control::{ControlError, ProcessState};
use praas_protocol::{Outcome, Phase};

use crate::clock;
use crate::limits::{DRAIN_LOOK_PERIOD, WORKER_EXIT_MAX};
use crate::processes::{Asker, Process, ProcessKey, Stage};
use crate::shard::Shard;
use crate::swap::SwapReason;
use crate::timers::Timer;

/// What a process drains for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Its end.
    Stop,
    /// New workers.
    Restart,
    /// To sleep ([`crate::swap`]).
    Swap(SwapReason),
}

/// How far a drain has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Running calls finish until this time.
    Finishing { until: Instant },
    /// Workers take note of this word until this time.
    Closing { word: u64, until: Instant },
    /// Workers end.
    Ending,
}

/// A drain under way.
#[derive(Debug)]
pub(crate) struct Drain {
    pub(crate) purpose: Purpose,
    pub(crate) askers: Vec<Asker>,
    step: Step,
}

impl Drain {
    pub(crate) fn is_restart(&self) -> bool {
        self.purpose == Purpose::Restart
    }

    pub(crate) fn is_swap(&self) -> bool {
        matches!(self.purpose, Purpose::Swap(_))
    }

    /// Running calls finish until a time at the latest.
    pub(crate) fn hurry(&mut self, latest: Instant) {
        if let Step::Finishing { until } = &mut self.step {
            *until = latest.min(*until);
        }
    }

    /// Whether it is swapped because nobody needed it, and no worker was let go yet.
    pub(crate) fn may_stay(&self) -> bool {
        self.purpose == Purpose::Swap(SwapReason::Idle) && self.step != Step::Ending
    }
}

impl Process {
    /// The phase that callers see.
    pub(crate) fn phase(&self) -> Phase {
        match &self.stage {
            Stage::Active(_) if self.broken.is_some() => Phase::Closed,
            Stage::Creating(_) | Stage::Active(_) => Phase::Active,
            Stage::Draining(Drain { step: Step::Finishing { .. }, .. }) => Phase::Draining,
            Stage::Draining(_) | Stage::Swapping(_) | Stage::Removing(_) | Stage::Ended => Phase::Closed,
        }
    }
}

impl Shard {
    /// Begins to drain an active or creating process.
    pub(crate) fn begin_drain(&mut self, key: ProcessKey, purpose: Purpose, mut askers: Vec<Asker>) {
        let Some(process) = self.processes.get_mut(key) else { return };
        self.log.info(format_args!("process {} drains", process.id));
        let drain_ms = process.application.limits.drain_ms;
        let until = self.preemption.calls_until(clock::now() + Duration::from_millis(drain_ms));
        let id = process.id;
        let disappointed = match std::mem::replace(&mut process.stage, Stage::Ended) {
            // Who waits for the workers of an earlier restart is served by those of this one.
            Stage::Active(waiting) if purpose == Purpose::Restart => {
                askers.extend(waiting);
                Vec::new()
            }
            Stage::Active(waiting) | Stage::Creating(waiting) => waiting,
            _ => Vec::new(),
        };
        process.stage = Stage::Draining(Drain { purpose, askers, step: Step::Finishing { until } });
        process.control.set_phase(Phase::Draining);
        self.show_state(key);
        self.ring_mail_bell(key);
        for asker in disappointed {
            self.answer_failed(asker, ControlError::WrongState { process: id, state: ProcessState::Draining });
        }
        self.wake_workers(key);
        self.refuse_others(key);
        self.look_at_drain(key);
    }

    /// Turns a restart or swap under way into a stop; who asked for it is told.
    pub(crate) fn stop_instead(&mut self, key: ProcessKey, stopper: Option<Asker>) {
        let Some(process) = self.processes.get_mut(key) else { return };
        let id = process.id;
        let Stage::Draining(drain) = &mut process.stage else { return };
        let is_stop = drain.purpose == Purpose::Stop;
        let disappointed = if is_stop { Vec::new() } else { std::mem::take(&mut drain.askers) };
        drain.purpose = Purpose::Stop;
        drain.askers.extend(stopper);
        self.show_state(key);
        for asker in disappointed {
            self.answer_failed(asker, ControlError::WrongState { process: id, state: ProcessState::Draining });
        }
    }

    /// Roots of the calls that the workers of a process run.
    pub(crate) fn running_roots(&self, key: ProcessKey) -> HashSet<u128> {
        self.workers_of(key).flat_map(|(_, worker)| worker.page.claims()).map(|claim| claim.root).collect()
    }

    /// Whether a worker of a process runs a call with this root now. To be asked about a request only after it was seen in a
    /// lane: its root then stands in the record of the call that made it, if that call runs here.
    pub(crate) fn runs_root(&self, key: ProcessKey, root: u128) -> bool {
        self.workers_of(key).flat_map(|(_, worker)| worker.page.claims()).any(|claim| claim.root == root)
    }

    fn has_claims(&self, key: ProcessKey) -> bool {
        self.workers_of(key).any(|(_, worker)| worker.page.claims().next().is_some())
    }

    /// Refuses what lies unclaimed in the lanes, except descendants of running calls.
    pub(crate) fn refuse_others(&mut self, key: ProcessKey) {
        let running = self.running_roots(key);
        let Some(process) = self.processes.get(key) else { return };
        let phase = process.phase();
        let keep = |root: u128| phase == Phase::Draining && (running.contains(&root) || self.runs_root(key, root));
        let memories = process.lanes.values().filter_map(|lane| lane.memory.as_ref());
        let refused: u32 =
            memories.map(|memory| memory.refuse_unclaimed(keep, Outcome::Unavailable, phase as u32)).sum();
        self.metrics.calls_refused += u64::from(refused);
    }

    /// Moves a drain on as far as it goes, and looks again later if that is not to its end.
    pub(crate) fn look_at_drain(&mut self, key: ProcessKey) {
        let now = clock::now();
        if let Some(Step::Finishing { until }) = self.drain_step(key) {
            let overdue = now >= until;
            if overdue && self.spares_calls(key) {
                return self.stay_instead(key, "its calls did not end within drain_ms");
            }
            if overdue {
                self.kill_callers(key);
                self.cut_connections_to(key);
            }
            if overdue || !(self.has_claims(key) || self.has_connections(key)) {
                self.close(key, until.max(now + WORKER_EXIT_MAX));
            } else {
                self.refuse_others(key);
                // What is left comes from running calls, which may all wait for it.
                if self.has_unclaimed(key) {
                    self.grow(key);
                }
            }
        }
        if let Some(Step::Closing { word, until }) = self.drain_step(key) {
            if now >= until && self.spares_calls(key) && self.has_claims(key) {
                return self.stay_instead(key, "its calls did not end within drain_ms");
            }
            if now >= until {
                self.kill_callers(key);
                self.kill_workers(key, "it did not take note of the end of its process");
            }
            if now >= until || self.workers_of(key).all(|(_, worker)| worker.has_noted(word)) {
                self.refuse_others(key);
                self.set_step(key, Step::Ending);
                self.worker_keys(key).into_iter().for_each(|worker| self.dismiss_worker(worker));
            }
        }
        match self.drain_step(key) {
            Some(Step::Ending) if self.worker_keys(key).is_empty() => self.finish_drain(key),
            // The end of each worker looks here again.
            Some(Step::Ending) | None => {}
            Some(_) => self.timers.after(DRAIN_LOOK_PERIOD, Timer::Drain(key)),
        }
    }

    /// Whether calls are worth more than the drain: nobody loses one so that a process can sleep, unless the server ends.
    fn spares_calls(&self, key: ProcessKey) -> bool {
        let of = self.processes.get(key).map(|process| &process.stage);
        matches!(of, Some(Stage::Draining(drain)) if drain.is_swap() && drain.purpose != Purpose::Swap(SwapReason::Shutdown))
    }

    fn drain_step(&self, key: ProcessKey) -> Option<Step> {
        match &self.processes.get(key)?.stage {
            Stage::Draining(drain) => Some(drain.step),
            _ => None,
        }
    }

    fn set_step(&mut self, key: ProcessKey, step: Step) {
        if let Some(Process { stage: Stage::Draining(drain), .. }) = self.processes.get_mut(key) {
            drain.step = step;
        }
    }

    /// Ends claiming. What a worker claimed just before may run until the time given.
    fn close(&mut self, key: ProcessKey, until: Instant) {
        let Some(process) = self.processes.get_mut(key) else { return };
        let word = process.control.set_phase(Phase::Closed);
        self.ring_mail_bell(key);
        self.set_step(key, Step::Closing { word, until });
        self.wake_workers(key);
    }

    /// Kills the workers whose calls did not finish in time: a drain that spares its calls has gone back by then.
    /// Each claim is condemned first, so that its worker cannot answer after the kill was decided. A call that was answered before
    /// that is no claim any more, and a worker that has none left lives.
    fn kill_callers(&mut self, key: ProcessKey) {
        for worker_key in self.worker_keys(key) {
            let Some(worker) = self.workers.get_mut(&worker_key) else { continue };
            let claims: Vec<_> = worker.page.claims().collect();
            let condemned = claims.iter().filter(|claim| worker.page.condemn(claim)).count();
            if condemned > 0 {
                worker.kill("its call did not finish within drain_ms".into());
            }
        }
    }

    pub(crate) fn kill_workers(&mut self, key: ProcessKey, reason: &str) {
        for worker in self.worker_keys(key) {
            self.end_worker(worker, reason.to_owned());
        }
    }

    /// All workers have ended.
    fn finish_drain(&mut self, key: ProcessKey) {
        self.refuse_others(key);
        let Some(process) = self.processes.get_mut(key) else { return };
        let Stage::Draining(drain) = std::mem::replace(&mut process.stage, Stage::Ended) else { return };
        match drain.purpose {
            Purpose::Stop => return self.remove_process(key, drain.askers),
            Purpose::Swap(reason) => return self.begin_writing(key, reason, drain.askers),
            Purpose::Restart => {}
        }
        if process.broken.is_some() {
            process.stage = Stage::Active(Vec::new());
            self.show_state(key);
            return self.fail_askers(key, drain.askers);
        }
        process.stage = Stage::Active(drain.askers);
        process.forget_failures();
        process.control.set_phase(Phase::Active);
        self.show_state(key);
        self.fill_workers(key);
    }
}
