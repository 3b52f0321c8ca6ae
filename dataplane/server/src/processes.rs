//! The table of processes: what each is doing, and who waits for it.
//!
//! A process leaves the table of ids when it has ended; its entry stays under its key until the last client has let go of
//! its lanes, so that a request published too late is still refused by somebody.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use praas_protocol::control::{ControlError, LaneId, ProcessState, ProcessStatus, ServerMessage};
use praas_protocol::limits::{OUTPUT_CHUNK_BYTES, PROCESSES_MAX, WORKERS_MAX};
use praas_protocol::{Name, ProcessId};
use praas_shm::control_page::ControlPage;

use crate::application::Application;
use crate::clients::ClientKey;
use crate::drain::{Drain, Purpose};
use crate::lanes::Lane;
use crate::limits::{OUTPUT_QUOTED_BYTES, WORKER_UID_FIRST, WORKER_UIDS};
use crate::output::OutputRing;
use crate::shard::Shard;
use crate::stats::FunctionCounts;
use crate::workers::WorkerKey;

/// Names one incarnation of a process; never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ProcessKey(pub(crate) usize);

/// A request that is answered later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Asker {
    pub(crate) client: ClientKey,
    pub(crate) request: u64,
}

/// A client that waits for output after a position.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Follower {
    pub(crate) asker: Asker,
    pub(crate) from: u64,
}

/// Where a process stands.
#[derive(Debug)]
pub(crate) enum Stage {
    /// Its first workers start; these wait for it.
    Creating(Vec<Asker>),
    /// It takes calls. The askers wait until the workers of a restart are ready.
    Active(Vec<Asker>),
    /// It finishes its calls.
    Draining(Drain),
    /// Its workers have ended, its files are being removed; these wait for the end.
    Removing(Vec<Asker>),
    /// Nothing is left but lanes that clients still hold.
    Ended,
}

/// One process.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) id: ProcessId,
    pub(crate) application: Arc<Application>,
    pub(crate) stage: Stage,
    pub(crate) control: ControlPage,
    pub(crate) lanes: BTreeMap<LaneId, Lane>,
    pub(crate) workers: BTreeSet<WorkerKey>,
    /// Generation of the last worker of each index.
    pub(crate) generations: [u16; WORKERS_MAX],
    pub(crate) output: OutputRing,
    pub(crate) followers: Vec<Follower>,
    pub(crate) user: Option<u32>,
    /// Workers that failed in a row.
    pub(crate) failures: u32,
    /// Whether a timer looks after missing workers.
    pub(crate) replacement_set: bool,
    /// Whether the last failures happened before a worker became ready.
    pub(crate) never_ready: bool,
    pub(crate) last_exit: Option<String>,
    pub(crate) restarts: u64,
    /// Calls reported by workers that have ended.
    pub(crate) calls_of_ended: u64,
    /// What is counted of its functions.
    pub(crate) counts: FunctionCounts,
}

impl Process {
    pub(crate) fn state(&self) -> ProcessState {
        match &self.stage {
            Stage::Creating(_) => ProcessState::Creating,
            Stage::Active(_) if self.has_failed() => ProcessState::Failed,
            Stage::Active(_) => ProcessState::Active,
            Stage::Draining(_) | Stage::Removing(_) | Stage::Ended => ProcessState::Draining,
        }
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.never_ready && self.failures >= crate::limits::FAILURES_IN_A_ROW_MAX
    }

    /// Whether workers are to be started when there are too few.
    pub(crate) fn wants_workers(&self) -> bool {
        matches!(self.stage, Stage::Creating(_) | Stage::Active(_))
    }

    /// Why workers do not start, with the last words of the program.
    pub(crate) fn failure_words(&self) -> String {
        let exit = self.last_exit.clone().unwrap_or_else(|| "no worker has ended yet".into());
        match self.output.tail(OUTPUT_QUOTED_BYTES) {
            tail if tail.is_empty() => exit,
            tail => format!("{exit}; its last output:\n{tail}"),
        }
    }
}

/// All processes.
#[derive(Debug, Default)]
pub(crate) struct Processes {
    pub(crate) entries: BTreeMap<ProcessKey, Process>,
    pub(crate) by_id: BTreeMap<ProcessId, ProcessKey>,
    next_key: usize,
    users: BTreeSet<u32>,
    next_user: u32,
}

impl Processes {
    pub(crate) fn get(&self, key: ProcessKey) -> Option<&Process> {
        self.entries.get(&key)
    }

    pub(crate) fn get_mut(&mut self, key: ProcessKey) -> Option<&mut Process> {
        self.entries.get_mut(&key)
    }

    /// A uid that no other process has. Counted round, so that files left by one process do not soon belong to another.
    fn take_user(&mut self) -> Option<u32> {
        for _ in 0..WORKER_UIDS {
            let user = WORKER_UID_FIRST + self.next_user;
            self.next_user = (self.next_user + 1) % WORKER_UIDS;
            if self.users.insert(user) {
                return Some(user);
            }
        }
        None
    }

    pub(crate) fn key_of(&self, id: &ProcessId) -> Result<ProcessKey, ControlError> {
        self.by_id.get(id).copied().ok_or(ControlError::UnknownProcess { process: *id })
    }
}

impl Shard {
    /// Creates a process and starts its first workers; `asker` is answered when they are ready.
    pub(crate) fn create_process(&mut self, id: ProcessId, asker: Asker) -> Result<(), ControlError> {
        if self.shutting_down {
            return Err(ControlError::ShuttingDown);
        }
        let application = self.applications.get(&id.application).cloned().ok_or_else(|| {
            ControlError::UnknownApplication { application: id.application, known: self.application_names() }
        })?;
        if self.processes.by_id.contains_key(&id) {
            return Err(ControlError::ProcessExists { process: id });
        }
        let used = self.processes.entries.len();
        if used >= PROCESSES_MAX {
            return Err(ControlError::LimitReached {
                what: "processes on this server".into(),
                used: used as u64,
                limit: PROCESSES_MAX as u64,
                asked: 1,
                advice: "stop some".into(),
            });
        }
        let control = ControlPage::create(self.incarnation, 1).map_err(|error| ControlError::Host {
            what: "creating a control page".into(),
            reason: error.to_string(),
        })?;
        let user = if self.gives_users { self.processes.take_user() } else { None };
        let key = ProcessKey(self.processes.next_key);
        self.processes.next_key += 1;
        let output = OutputRing::new(application.limits.output_bytes);
        let process = Process {
            id,
            application,
            stage: Stage::Creating(vec![asker]),
            control,
            lanes: BTreeMap::new(),
            workers: BTreeSet::new(),
            generations: [0; WORKERS_MAX],
            output,
            followers: Vec::new(),
            user,
            failures: 0,
            replacement_set: false,
            never_ready: true,
            last_exit: None,
            restarts: 0,
            calls_of_ended: 0,
            counts: FunctionCounts::default(),
        };
        self.processes.entries.insert(key, process);
        self.processes.by_id.insert(id, key);
        self.fill_workers(key);
        Ok(())
    }

    fn application_names(&self) -> String {
        let names: Vec<_> = self.applications.keys().map(Name::as_str).collect();
        if names.is_empty() { "none".into() } else { names.join(", ") }
    }

    /// Answers who waits for a process's workers, now that enough are ready.
    pub(crate) fn settle_if_ready(&mut self, key: ProcessKey) {
        let ready = self.ready_workers(key);
        let Some(process) = self.processes.get_mut(key) else { return };
        process.control.set_workers(ready);
        if ready < process.application.workers_min || !process.wants_workers() {
            return;
        }
        if let Stage::Creating(_) = process.stage {
            self.log.info(format_args!("process {} is active", process.id));
        }
        if let Stage::Creating(askers) | Stage::Active(askers) =
            std::mem::replace(&mut process.stage, Stage::Active(Vec::new()))
        {
            for asker in askers {
                self.answer_done(asker);
            }
        }
    }

    /// Removes what is left of a process whose last worker has ended.
    pub(crate) fn remove_process(&mut self, key: ProcessKey, askers: Vec<Asker>) {
        let Some(process) = self.processes.get_mut(key) else { return };
        process.stage = Stage::Removing(askers);
        if !self.hosting.remove(key, process.id) {
            // The queue is far longer than there are processes; the directory is swept at the next start.
            self.process_removed(key);
        }
    }

    /// The files of an ended process are gone.
    pub(crate) fn process_removed(&mut self, key: ProcessKey) {
        let Some(process) = self.processes.get_mut(key) else { return };
        let Stage::Removing(askers) = std::mem::replace(&mut process.stage, Stage::Ended) else { return };
        let (id, user) = (process.id, process.user.take());
        self.metrics.output_bytes_dropped += process.output.dropped();
        self.processes.by_id.remove(&id);
        if let Some(user) = user {
            self.processes.users.remove(&user);
        }
        self.log.info(format_args!("process {id} has ended"));
        self.serve_followers(key);
        for asker in askers {
            self.answer_done(asker);
        }
        self.forget_if_empty(key);
    }

    /// Drops the entry of an ended process once no client holds a lane of it.
    pub(crate) fn forget_if_empty(&mut self, key: ProcessKey) {
        if self.processes.get(key).is_some_and(|process| {
            matches!(process.stage, Stage::Ended) && process.lanes.is_empty() && process.workers.is_empty()
        }) {
            self.processes.entries.remove(&key);
        }
    }

    pub(crate) fn status_of(&self, key: ProcessKey) -> Option<ProcessStatus> {
        let process = self.processes.get(key)?;
        let ready: Vec<_> = self.workers_of(key).filter(|(_, worker)| worker.is_ready()).collect();
        let calls: u64 = self.workers_of(key).map(|(_, worker)| worker.page.calls()).sum();
        Some(ProcessStatus {
            process: process.id,
            state: process.state(),
            workers: u32::try_from(ready.len()).unwrap_or(u32::MAX),
            worker_pids: ready.iter().filter_map(|(_, worker)| worker.pid()).collect(),
            lanes: u32::try_from(process.lanes.values().filter(|lane| lane.is_asked_for()).count()).unwrap_or(u32::MAX),
            worker_restarts: process.restarts,
            last_exit: process.last_exit.clone(),
            calls_reported: process.calls_of_ended.saturating_add(calls),
        })
    }

    /// Appends captured output and answers who follows it.
    pub(crate) fn append_output(&mut self, key: ProcessKey, bytes: &[u8]) {
        if let Some(process) = self.processes.get_mut(key) {
            process.output.append(bytes);
            self.serve_followers(key);
        }
    }

    /// Answers every follower for whom there is something.
    pub(crate) fn serve_followers(&mut self, key: ProcessKey) {
        let Some(process) = self.processes.get_mut(key) else { return };
        let (end, ended) = (process.output.end(), matches!(process.stage, Stage::Ended));
        let (served, waiting): (Vec<_>, Vec<_>) =
            std::mem::take(&mut process.followers).into_iter().partition(|follower| ended || follower.from < end);
        process.followers = waiting;
        let answers: Vec<_> =
            served.iter().map(|follower| (follower.asker, output_answer(process, *follower))).collect();
        for (asker, answer) in answers {
            self.answer(asker, &answer, &[]);
        }
    }

    /// Drains a process in order to stop or restart it.
    pub(crate) fn end_process(&mut self, key: ProcessKey, purpose: Purpose, asker: Asker) -> Result<(), ControlError> {
        let process = self.processes.get_mut(key);
        let Some(process) = process.filter(|process| !matches!(process.stage, Stage::Ended)) else {
            return Err(ControlError::Host { what: "ending the process".into(), reason: "it has just ended".into() });
        };
        let (id, state) = (process.id, process.state());
        match (&mut process.stage, purpose) {
            (Stage::Draining(drain), _) if drain.purpose == purpose => drain.askers.push(asker),
            (Stage::Draining(_), Purpose::Stop) => self.stop_instead(key, Some(asker)),
            (Stage::Removing(askers), Purpose::Stop) => askers.push(asker),
            (Stage::Active(_), _) | (Stage::Creating(_), Purpose::Stop) => self.begin_drain(key, purpose, vec![asker]),
            _ => return Err(ControlError::WrongState { process: id, state }),
        }
        Ok(())
    }
}

/// One message of output for a follower.
pub(crate) fn output_answer(process: &Process, follower: Follower) -> ServerMessage {
    let (position, bytes) = process.output.read(follower.from, OUTPUT_CHUNK_BYTES);
    let ended = matches!(process.stage, Stage::Ended) && position + bytes.len() as u64 == process.output.end();
    ServerMessage::Output { request: follower.asker.request, position, bytes, ended }
}
