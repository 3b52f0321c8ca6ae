//! The table of processes: what each is doing, and who waits for it.
//!
//! A process leaves the table of ids when it has ended; its entry stays under its key until the last client has let go of
//! its lanes, so that a request published too late is still refused by somebody.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use praas_protocol::control::{ControlError, LaneId, MessageLaneSlot, ProcessState, ProcessStatus, ServerMessage};
use praas_protocol::limits::{OUTPUT_CHUNK_BYTES, PROCESSES_MAX};
use praas_protocol::{Name, ProcessId};
use praas_shm::control_page::ControlPage;
use praas_shm::mail_bell::MailBell;

use crate::application::Application;
use crate::checkpoint::Checkpoints;
use crate::clients::ClientKey;
use crate::clock;
use crate::directory::{Activity, Listed};
use crate::drain::{Drain, Purpose};
use crate::durability::{ProcessLog, RingStart};
use crate::files::measuring::FilesWatch;
use crate::growth::Growth;
use crate::idle_swap::{IdleSwap, check_idle_swap_ms};
use crate::lanes::{Lane, limit};
use crate::limits::{
    INCARNATION_STEP_BITS, INCARNATION_STEP_FACTOR, OUTPUT_QUOTED_BYTES, WORKER_UID_FIRST, WORKER_UIDS,
};
use crate::message_lanes::{MessageLane, Sending};
use crate::output::OutputRing;
use crate::process_memory::ProcessMemory;
use crate::settling::Unsettled;
use crate::shard::Shard;
use crate::stats::FunctionCounts;
use crate::swap::{Filler, StoredCopy, Swapped, Swapping, Woken};
use crate::wake_ups::WakeUps;
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
    /// Its workers have ended, what it knows is being written.
    Swapping(Swapping),
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
    pub(crate) control: Arc<ControlPage>,
    pub(crate) lanes: BTreeMap<LaneId, Lane>,
    /// Lanes that bring messages.
    pub(crate) inbound: BTreeMap<MessageLaneSlot, MessageLane>,
    /// What its workers take of the host for lanes that they send messages on, since they opened one.
    pub(crate) sending: Option<Sending>,
    /// By which its workers hear that something changed; made with its first worker.
    pub(crate) bell: Option<MailBell>,
    pub(crate) workers: BTreeSet<WorkerKey>,
    /// What outlives the server; `None` once it has ended, and for one that could not be brought back.
    pub(crate) memory: Option<ProcessMemory>,
    /// Names under which the keeper holds it, without those of its message lanes.
    pub(crate) kept_names: Vec<String>,
    /// Whether the keeper has said so.
    pub(crate) is_kept: bool,
    /// Why it can do nothing any more but be stopped.
    pub(crate) broken: Option<String>,
    pub(crate) unsettled: Unsettled,
    pub(crate) output: OutputRing,
    pub(crate) followers: Vec<Follower>,
    pub(crate) user: Option<u32>,
    /// Workers that failed in a row.
    pub(crate) failures: u32,
    /// Of these, the last ones that never became ready: they wait longer, for what is wrong with them is in their beginning.
    pub(crate) failed_starts: u32,
    /// Whether a timer looks after missing workers.
    pub(crate) replacement_set: bool,
    /// Whether the last failures happened before a worker became ready.
    pub(crate) never_ready: bool,
    pub(crate) last_exit: Option<String>,
    pub(crate) restarts: u64,
    pub(crate) growth: Growth,
    /// Calls reported by workers that have ended.
    pub(crate) calls_of_ended: u64,
    /// What is counted of its functions.
    pub(crate) counts: FunctionCounts,
    /// What other processes of its application see of it, once it is listed.
    pub(crate) listed: Option<Listed>,
    pub(crate) activity: Activity,
    /// Milliseconds without a call after which it is swapped out, 0 for never; `None` takes the application's.
    pub(crate) idle_swap_ms: Option<u64>,
    pub(crate) idle_swap: IdleSwap,
    pub(crate) checkpoints: Checkpoints,
    /// Whether it has come back from storage and no worker was ready since.
    pub(crate) is_waking: bool,
    /// Whether it has come back for messages alone, and starts no worker.
    pub(crate) dozes: bool,
    /// What is known of the messages that it has asked to get at a time.
    pub(crate) wake_ups: WakeUps,
    /// What storage has of it.
    pub(crate) stored: StoredCopy,
    /// What is known of its files.
    pub(crate) files: FilesWatch,
    /// What brings back what is in storage only, while something is.
    pub(crate) filler: Option<Filler>,
    /// Its log, if its changes are logged or an earlier server logged them.
    pub(crate) log: Option<ProcessLog>,
    /// Who waits to hear why it could not be created, until nothing of it is left that a next server would take for a process.
    pub(crate) disappointed: Vec<Asker>,
}

impl Process {
    /// An active process without workers, whose memory is not there yet.
    pub(crate) fn new(
        id: ProcessId,
        application: Arc<Application>,
        control: ControlPage,
        kept_names: impl Into<Vec<String>>,
    ) -> Self {
        let output = OutputRing::new(application.limits.output_bytes);
        Self {
            id,
            application,
            stage: Stage::Active(Vec::new()),
            control: Arc::new(control),
            lanes: BTreeMap::new(),
            inbound: BTreeMap::new(),
            sending: None,
            bell: None,
            workers: BTreeSet::new(),
            memory: None,
            kept_names: kept_names.into(),
            is_kept: false,
            broken: None,
            unsettled: Unsettled::default(),
            output,
            followers: Vec::new(),
            user: None,
            failures: 0,
            failed_starts: 0,
            replacement_set: false,
            never_ready: true,
            last_exit: None,
            restarts: 0,
            growth: Growth::default(),
            calls_of_ended: 0,
            counts: FunctionCounts::default(),
            listed: None,
            activity: Activity::new(),
            idle_swap_ms: None,
            idle_swap: IdleSwap::default(),
            checkpoints: Checkpoints::default(),
            is_waking: false,
            dozes: false,
            wake_ups: WakeUps::default(),
            stored: StoredCopy::default(),
            files: FilesWatch::default(),
            filler: None,
            log: None,
            disappointed: Vec::new(),
        }
    }

    pub(crate) fn state(&self) -> ProcessState {
        match &self.stage {
            Stage::Creating(_) => ProcessState::Creating,
            Stage::Active(_) if self.has_failed() => ProcessState::Failed,
            Stage::Active(_) if self.dozes && self.broken.is_none() => ProcessState::Swapped,
            Stage::Active(_) if self.is_waking && self.broken.is_none() => ProcessState::Restoring,
            Stage::Active(_) if self.activity.is_idle => ProcessState::Idle,
            Stage::Active(_) => ProcessState::Active,
            Stage::Draining(drain) if drain.is_swap() => ProcessState::Swapping,
            Stage::Swapping(_) => ProcessState::Swapping,
            Stage::Draining(_) | Stage::Removing(_) | Stage::Ended => ProcessState::Draining,
        }
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.broken.is_some() || self.failed_starts >= crate::limits::FAILURES_IN_A_ROW_MAX
    }

    /// The next workers are as good as the first.
    pub(crate) fn forget_failures(&mut self) {
        (self.failures, self.failed_starts) = (0, 0);
        (self.never_ready, self.replacement_set) = (true, false);
    }

    /// Whether workers are to be started when there are too few.
    pub(crate) fn wants_workers(&self) -> bool {
        let holds = self.log.as_ref().is_some_and(ProcessLog::holds_workers);
        matches!(self.stage, Stage::Creating(_) | Stage::Active(_)) && self.broken.is_none() && !holds && !self.dozes
    }

    /// Why workers do not start, with the last words of the program.
    pub(crate) fn failure_words(&self) -> String {
        if let Some(reason) = &self.broken {
            return reason.clone();
        }
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
    /// Those that sleep, and are not among the others. There are many, and a tree has places that are empty: so these are small.
    pub(crate) swapped: BTreeMap<ProcessId, Box<Swapped>>,
    /// The last process whose memory was measured, and whether that goes on.
    pub(crate) measured: Option<ProcessKey>,
    pub(crate) is_measured: bool,
    next_key: usize,
    /// The highest that any process has.
    last_incarnation: u64,
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
    pub(crate) fn take_user(&mut self) -> Option<u32> {
        for _ in 0..WORKER_UIDS {
            let user = WORKER_UID_FIRST + self.next_user;
            self.next_user = (self.next_user + 1) % WORKER_UIDS;
            if self.users.insert(user) {
                return Some(user);
            }
        }
        None
    }

    pub(crate) fn give_user_back(&mut self, user: u32) {
        self.users.remove(&user);
    }

    /// The same uid again, unless another process has it by now.
    pub(crate) fn take_user_again(&mut self, user: u32) -> Option<u32> {
        let is_ours = (WORKER_UID_FIRST..WORKER_UID_FIRST + WORKER_UIDS).contains(&user);
        if is_ours && self.users.insert(user) { Some(user) } else { self.take_user() }
    }

    /// The incarnation of a new process: higher than that of all before it, as far as anybody can know of them, and another one than
    /// those that nobody knows any more. A clock that was set back has two servers begin at the same last one that is known: how far
    /// they go on from there follows from the nanosecond.
    fn next_incarnation(&mut self) -> u64 {
        let now_ns = clock::unix_time_ns();
        let step = (now_ns.wrapping_mul(INCARNATION_STEP_FACTOR) >> (u64::BITS - INCARNATION_STEP_BITS)) + 1;
        let behind = self.last_incarnation.saturating_add(step);
        self.last_incarnation = if now_ns > self.last_incarnation { now_ns } else { behind };
        self.last_incarnation
    }

    /// An earlier server had a process of this incarnation.
    pub(crate) fn note_incarnation(&mut self, incarnation: u64) {
        self.last_incarnation = self.last_incarnation.max(incarnation);
    }

    /// Enters a process.
    pub(crate) fn enter(&mut self, process: Process) -> ProcessKey {
        let key = ProcessKey(self.next_key);
        self.next_key += 1;
        self.by_id.insert(process.id, key);
        self.entries.insert(key, process);
        key
    }

    pub(crate) fn key_of(&self, id: &ProcessId) -> Result<ProcessKey, ControlError> {
        self.by_id.get(id).copied().ok_or_else(|| match self.swapped.get(id) {
            Some(swapped) => ControlError::WrongState { process: *id, state: swapped.state() },
            None => ControlError::UnknownProcess { process: *id },
        })
    }

    /// Whether one more process may be in memory.
    pub(crate) fn has_room_for_process(&self) -> Result<(), ControlError> {
        limit("processes in this server's memory", self.entries.len(), PROCESSES_MAX, "stop some, or let them sleep")
    }

    /// Whether there is a process of this id, awake or not.
    pub(crate) fn has(&self, id: &ProcessId) -> bool {
        self.by_id.contains_key(id) || self.swapped.contains_key(id)
    }
}

impl Shard {
    /// Creates a process and starts its first workers; `asker` is answered when they are ready.
    pub(crate) fn create_process(
        &mut self,
        id: ProcessId,
        idle_swap_ms: Option<u64>,
        asker: Asker,
    ) -> Result<(), ControlError> {
        if self.shutting_down {
            return Err(ControlError::ShuttingDown);
        }
        let application = self.applications.get(&id.application).cloned().ok_or_else(|| {
            ControlError::UnknownApplication { application: id.application, known: self.application_names() }
        })?;
        if self.processes.has(&id) {
            return Err(ControlError::ProcessExists { process: id });
        }
        check_idle_swap_ms(idle_swap_ms)
            .map_err(|reason| ControlError::Host { what: format!("creating {id}"), reason })?;
        self.processes.has_room_for_process()?;
        let control = ControlPage::create(self.incarnation, 1).map_err(|error| ControlError::Host {
            what: "creating a control page".into(),
            reason: error.to_string(),
        })?;
        let user = if self.gives_users { self.processes.take_user() } else { None };
        let incarnation = self.processes.next_incarnation();
        let logged = self.logs(application.durability);
        let memory = ProcessMemory::create(id, &application, user, incarnation, &self.budget);
        let memory = match memory.and_then(|memory| if logged { memory.logged(&self.budget) } else { Ok(memory) }) {
            Ok(memory) => memory,
            Err(error) => {
                user.inspect(|user| self.processes.give_user_back(*user));
                return Err(error);
            }
        };
        let mut process = Process::new(id, application, control, memory.names());
        process.stage = Stage::Creating(vec![asker]);
        process.idle_swap_ms = idle_swap_ms;
        (process.user, process.memory) = (user, Some(memory));
        let key = self.processes.enter(process);
        if let Err(error) = self.begin_log(key, RingStart::New) {
            self.break_process(key, &format!("its log cannot be opened: {error}"));
            return Ok(());
        }
        self.keep_process(key);
        self.measure_memory_later();
        self.show_state(key);
        self.look_at_activity_later();
        self.fill_workers(key);
        Ok(())
    }

    pub(crate) fn application_names(&self) -> String {
        let names: Vec<_> = self.applications.keys().map(Name::as_str).collect();
        if names.is_empty() { "none".into() } else { names.join(", ") }
    }

    /// Answers who waits for a process's workers, now that enough are ready.
    pub(crate) fn settle_if_ready(&mut self, key: ProcessKey) {
        self.show_workers(key);
        let ready = self.ready_workers(key);
        let Some(process) = self.processes.get_mut(key) else { return };
        if ready < process.application.workers_min || !process.wants_workers() || !process.has_ready_log() {
            return self.show_state(key);
        }
        if let Stage::Creating(_) = process.stage {
            self.log.info(format_args!("process {} is active", process.id));
        }
        let has_woken = std::mem::take(&mut process.is_waking);
        let (id, woken) = (process.id, process.stored.woken.take().filter(|_| has_woken));
        if let Some(Woken { since, read_bytes }) = woken {
            let took = crate::clock::now().saturating_duration_since(since);
            self.note_transition(id, ProcessState::Active, "", read_bytes, took);
        }
        let Some(process) = self.processes.get_mut(key) else { return };
        if let Stage::Creating(askers) | Stage::Active(askers) =
            std::mem::replace(&mut process.stage, Stage::Active(Vec::new()))
        {
            // First: who is told that a process is there finds it listed so.
            self.show_state(key);
            for asker in askers {
                self.answer_done(asker);
            }
        }
        if has_woken {
            self.first_worker_is_ready(key);
        }
        self.fill_later(key);
    }

    /// Removes what is left of a process whose last worker has ended.
    pub(crate) fn remove_process(&mut self, key: ProcessKey, askers: Vec<Asker>) {
        // One that ends because the server does is not deleted: what was stored of it earlier stays.
        if !(self.shutting_down && askers.is_empty()) && (self.begin_ending_log(key) || self.begin_deleting(key)) {
            if let Some(process) = self.processes.get_mut(key) {
                process.filler = None;
                process.stage = Stage::Removing(askers);
                self.show_state(key);
            }
            return;
        }
        let files = self.files_path(key);
        self.end_memory(key);
        let Some(process) = self.processes.get_mut(key) else { return };
        process.stage = Stage::Removing(askers);
        if !self.hosting.remove(key, process.id, files) {
            // The queue is far longer than there are processes; the directory is swept at the next start.
            self.process_removed(key);
        }
    }

    /// The memory of a process ends with it. Its ledger says so at once, should the server die before the keeper has heard.
    fn end_memory(&mut self, key: ProcessKey) {
        let Some(process) = self.processes.get(key) else { return };
        let usage = process.memory.as_ref().map(|memory| memory.objects.usage()).unwrap_or_default();
        if self.shutting_down && process.log.is_some() {
            self.log.info(format_args!("{} ends with this server and is made again of its log", process.id));
        } else if self.shutting_down && usage.keys > 0 {
            self.log.warning(format_args!(
                "{} objects of {}, {} bytes, end with this server: state is kept in memory only",
                usage.keys, process.id, usage.used_bytes
            ));
        }
        self.drop_memory(key);
    }

    /// The same for one of which everything is stored.
    pub(crate) fn drop_memory(&mut self, key: ProcessKey) {
        let Some(process) = self.processes.get_mut(key) else { return };
        process.filler = None;
        drop(process.log.take());
        if let Some(Err(error)) = process.memory.take().map(|mut memory| memory.ledger.end()) {
            self.log.error(format_args!("the end of {} cannot be noted: {error}", process.id));
        }
        let names = std::mem::take(&mut process.kept_names);
        process.bell = None;
        self.forget_kept(names);
        self.end_message_lanes(key);
    }

    /// The files of an ended process are gone.
    pub(crate) fn process_removed(&mut self, key: ProcessKey) {
        self.tell_disappointed(key);
        let Some(process) = self.processes.get_mut(key) else { return };
        if let Stage::Swapping(_) = process.stage {
            return self.fall_asleep(key);
        }
        let Stage::Removing(askers) = std::mem::replace(&mut process.stage, Stage::Ended) else { return };
        let (id, user) = (process.id, process.user.take());
        self.metrics.output_bytes_dropped += process.output.dropped();
        self.processes.by_id.remove(&id);
        self.set_alarm(id, None);
        if let Some(user) = user {
            self.processes.give_user_back(user);
        }
        self.log.info(format_args!("process {id} has ended"));
        self.show_state(key);
        // Whoever waited for it to come back must not reach another life of its name.
        self.refuse_waiters(&id, &ControlError::UnknownProcess { process: id });
        self.serve_followers(key);
        for asker in askers {
            self.answer_done(asker);
        }
        self.end_call_lanes_to(key);
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
            last_exit: process
                .checkpoints
                .failure()
                .or(process.files.excess())
                .map(str::to_owned)
                .or_else(|| process.last_exit.clone()),
            calls_reported: process.calls_of_ended.saturating_add(calls),
            stored_bytes: process.stored.bytes,
            last_swap_unix_ms: process.stored.swapped_unix_ms,
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

    /// Why something cannot be done with a process that was there a moment ago: a server that ends lets go of processes.
    pub(crate) fn has_just_ended(&self, what: &'static str) -> ControlError {
        if self.shutting_down {
            return ControlError::ShuttingDown;
        }
        ControlError::Host { what: what.into(), reason: "it has just ended".into() }
    }

    /// Drains a process in order to stop or restart it.
    pub(crate) fn end_process(&mut self, key: ProcessKey, purpose: Purpose, asker: Asker) -> Result<(), ControlError> {
        let ended = self.has_just_ended("ending the process");
        let process = self.processes.get_mut(key);
        let process = process.filter(|process| !matches!(process.stage, Stage::Ended)).ok_or(ended)?;
        let (id, state) = (process.id, process.state());
        if let (Some(reason), Purpose::Restart) = (&process.broken, purpose) {
            return Err(ControlError::WorkersFailed { process: id, reason: reason.clone() });
        }
        match (&mut process.stage, purpose) {
            (Stage::Draining(drain), _) if drain.purpose == purpose => drain.askers.push(asker),
            (Stage::Draining(_), Purpose::Stop) => self.stop_instead(key, Some(asker)),
            (Stage::Removing(askers), Purpose::Stop) => askers.push(asker),
            (Stage::Swapping(swapping), Purpose::Stop) => swapping.add_stopper(asker),
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
