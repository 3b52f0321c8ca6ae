//! A process that sleeps comes back: its snapshot is read, memory made, the keeper told, workers started.
//!
//! 1. It is woken once, however many want it: who asks for it waits for its workers, who needs it is carried out as soon as
//!    its memory is there.
//! 2. What cannot be read leaves it asleep as it was, with the reason in lists and with whoever asked; the next who asks has
//!    it tried again.
//! 3. A large state comes back without its objects, which follow when workers ask for them and in the background.
//! 4. Until a worker is ready it is shown as restoring, though requests are taken by then.

use std::sync::Arc;
use std::time::{Duration, Instant};

use praas_protocol::ProcessId;
use praas_protocol::control::{ControlError, ProcessState};
use praas_shm::control_page::ControlPage;
use praas_storage::Folder;
use praas_storage::snapshot::Snapshot;

use super::dozing::Need;
use super::fetching::Filler;
use super::filling::Filling;
use super::reading::{NotRead, ReadJob, Returned};
use super::table::Rest;
use super::transfer::Job;
use super::{StoredCopy, Woken};
use crate::clock;
use crate::durability::RingStart;
use crate::files::RestoredFiles;
use crate::process_memory::ProcessMemory;
use crate::processes::{Asker, Process, ProcessKey, Stage};
use crate::shard::Shard;
use crate::wake_ups::WakeUps;

/// Time after a wake that failed in which whoever needs the process is only told so: clients ask again within milliseconds.
const RETRY_DELAY: Duration = Duration::from_millis(200);

impl Shard {
    /// Wakes a process; `asker` is answered when its first workers are ready, at once if they are.
    pub(crate) fn restore_process(&mut self, id: &ProcessId, asker: Option<Asker>) -> Result<(), ControlError> {
        if self.shutting_down {
            return Err(ControlError::ShuttingDown);
        }
        if self.is_away(id) {
            if self.processes.swapped.get(id).is_some_and(|swapped| swapped.is_ending()) {
                return Err(ControlError::WrongState { process: *id, state: ProcessState::Draining });
            }
            self.wake(id, asker, Need::Workers);
            return Ok(());
        }
        let key = self.processes.key_of(id)?;
        let process = self.processes.get_mut(key).ok_or(ControlError::UnknownProcess { process: *id })?;
        if let Some(reason) = &process.broken {
            return Err(ControlError::WorkersFailed { process: *id, reason: reason.clone() });
        }
        let state = process.state();
        match (&mut process.stage, state) {
            (Stage::Creating(askers), _) | (Stage::Active(askers), ProcessState::Restoring) => {
                askers.extend(asker);
            }
            (Stage::Active(_), _) => asker.into_iter().for_each(|asker| self.answer_done(asker)),
            _ => return Err(ControlError::WrongState { process: *id, state }),
        }
        Ok(())
    }

    /// Somebody needs a process that is away.
    pub(super) fn wake(&mut self, id: &ProcessId, asker: Option<Asker>, need: Need) {
        let Some(swapped) = self.processes.swapped.get_mut(id) else {
            if let Some(asker) = asker {
                // It is on its way to sleep, and is woken as soon as it does.
                let body = Box::new(praas_protocol::control::ClientRequest::ProcessRestore { process: *id });
                let waiter = super::Waiter::Request { asker, body, socket: None };
                if let Err(error) = self.wait_for(*id, waiter) {
                    self.answer_failed(asker, error);
                }
            } else if let Some(key) = self.processes.by_id.get(id).filter(|_| need == Need::Workers) {
                self.recall(*key);
            }
            return;
        };
        swapped.is_called |= need == Need::Workers;
        swapped.askers.extend(asker);
        if !swapped.sleeps() {
            return;
        }
        let folder = Folder { process: *id, incarnation: swapped.incarnation };
        let (has_log, has_slept) = (swapped.has_log, swapped.since_unix_ms.is_some());
        let log = self.disk_log().filter(|_| has_log);
        let is_logged = self.applications.get(&id.application).is_some_and(|found| self.logs(found.durability));
        let first_serial = self.serials_for_lanes();
        let Some(transfers) = &self.swaps.transfers else { return };
        let (data, owner, gives_users) = (Arc::clone(&self.data), self.data.owner(), self.gives_users);
        let job = Box::new(ReadJob { folder, log, is_logged, has_slept, first_serial, data, owner, gives_users });
        transfers.begin(Job::Read { process: *id, job });
        self.set_rest(*id, Rest::Waking { since: clock::now() }, "needed");
    }

    /// A process that is away is due, because it has asked to be woken.
    pub(crate) fn wake_due(&mut self, id: &ProcessId) {
        self.metrics.alarms_rung += u64::from(self.processes.swapped.get(id).is_some_and(|swapped| swapped.sleeps()));
        self.wake(id, None, Need::Workers);
    }

    /// A thread has read a process, or has not.
    pub(super) fn read_back(&mut self, id: ProcessId, read: Result<Returned, NotRead>) {
        let Some(swapped) = self.processes.swapped.get_mut(&id) else { return };
        let Rest::Waking { since } = swapped.rest else { return };
        if self.shutting_down {
            // Its stored copy is what it was.
            let askers = std::mem::take(&mut swapped.askers);
            self.set_rest(id, Rest::Asleep, "the server ends");
            return askers.into_iter().for_each(|asker| self.answer_failed(asker, ControlError::ShuttingDown));
        }
        let back = match read {
            Ok(returned) => self.enter_again(id, returned, since),
            Err(NotRead::Ended) => return self.has_ended_asleep(id),
            Err(NotRead::Failed(reason)) => {
                Err(ControlError::SwapFailed { process: id, what: "restoring".into(), reason })
            }
        };
        if let Err(error) = back {
            self.stay_asleep(id, &error);
        }
    }

    /// A process that was to wake was stopped meanwhile: what is left of it goes.
    fn has_ended_asleep(&mut self, id: ProcessId) {
        let Some(swapped) = self.forget_sleeper(id) else { return };
        self.log.info(format_args!("process {id} does not wake: it was stopped"));
        let error = ControlError::UnknownProcess { process: id };
        swapped.askers.into_iter().for_each(|asker| self.answer_failed(asker, error.clone()));
        self.refuse_waiters(&id, &error);
        self.begin_collecting(Folder { process: id, incarnation: swapped.incarnation });
    }

    /// Why a process that was to wake just before did not: who needs it hears of that, and storage is left alone meanwhile.
    pub(super) fn failed_just_now(&self, id: &ProcessId) -> Option<ControlError> {
        let swapped = self.processes.swapped.get(id).filter(|swapped| swapped.sleeps())?;
        let reason =
            swapped.failure.as_ref().filter(|_| swapped.tried_until.is_some_and(|until| clock::now() < until))?;
        Some(ControlError::SwapFailed { process: *id, what: "restoring".into(), reason: reason.to_string() })
    }

    /// It could not be woken.
    fn stay_asleep(&mut self, id: ProcessId, error: &ControlError) {
        let reason = error.to_string();
        self.metrics.restores_failed += 1;
        self.log.error(format_args!("process {id} does not wake: {reason}"));
        let Some(swapped) = self.processes.swapped.get_mut(&id) else { return };
        let askers = std::mem::take(&mut swapped.askers);
        swapped.is_called = false;
        swapped.failure = Some(reason.clone().into());
        swapped.tried_until = Some(clock::now() + RETRY_DELAY);
        let has_log = swapped.has_log;
        self.set_rest(id, Rest::Asleep, &reason);
        if has_log {
            self.try_again_later(id);
        }
        askers.into_iter().for_each(|asker| self.answer_failed(asker, error.clone()));
        self.refuse_all_but_stops(&id, error);
    }

    /// What was read becomes a process again.
    fn enter_again(&mut self, id: ProcessId, returned: Returned, since: Instant) -> Result<(), ControlError> {
        let Returned {
            objects,
            life,
            lanes,
            snapshot,
            stays,
            is_replayed,
            files,
            is_restoring,
            read_bytes,
            stored_bytes,
        } = returned;
        let application = self.applications.get(&id.application).cloned().ok_or_else(|| {
            ControlError::UnknownApplication { application: id.application, known: self.application_names() }
        })?;
        self.processes.has_room_for_process()?;
        let epoch = snapshot.as_ref().map_or(1, Snapshot::epoch);
        let control = ControlPage::create(self.incarnation, epoch).map_err(|error| ControlError::Host {
            what: "creating a control page".into(),
            reason: error.to_string(),
        })?;
        let record = life.record(snapshot.as_ref().map_or(0, Snapshot::epoch), stays, is_restoring);
        let user = record.user;
        let mut memory = ProcessMemory::of_returned(record, objects, &self.budget)?;
        let logged = self.logs(application.durability);
        if logged {
            memory = memory.logged(&self.budget)?;
        }
        let lanes = self.lanes_of_returned(id, memory.incarnation(), lanes)?;
        let filler = if let Some(snapshot) = snapshot.as_ref().filter(|_| is_restoring) {
            let objects = Arc::clone(&memory.objects);
            let filling = Filling::new(*snapshot.folder(), snapshot.epoch(), objects, Some(snapshot.clone()));
            Some(Filler::new(filling.map_err(|error| ControlError::Host {
                what: "bringing its objects back".into(),
                reason: error.to_string(),
            })?))
        } else {
            None
        };
        let Some(swapped) = self.processes.swapped.remove(&id) else { return Ok(()) };
        let mut process = Process::new(id, application, control, memory.names());
        if self.gives_users {
            process.user = match user {
                Some(user) => self.processes.take_user_again(user),
                None => self.processes.take_user(),
            };
        }
        if let Err(error) = memory.ledger.set_user(process.user) {
            self.log.error(format_args!("the uid of {id} cannot be noted: {error}"));
        }
        process.stage = Stage::Active(swapped.askers);
        process.is_waking = true;
        process.dozes = !swapped.is_called;
        process.filler = filler;
        process.idle_swap_ms = life.idle_swap_ms;
        process.calls_of_ended = life.calls;
        // A log does not say when the next one is due: its state does.
        if life.next_wake_unix_ms.is_some() || is_replayed {
            process.wake_ups = WakeUps::unsure();
        }
        process.listed = swapped.listed;
        process.stored = StoredCopy {
            exists: true,
            epoch: snapshot.as_ref().map(Snapshot::epoch),
            snapshot,
            files: files.and_then(RestoredFiles::keep).map(Arc::new),
            bytes: stored_bytes,
            swapped_unix_ms: swapped.since_unix_ms,
            woken: Some(Woken { since, read_bytes }),
            has_leftovers: swapped.has_leftovers,
        };
        process.memory = Some(memory);
        let key = self.processes.enter(process);
        // Before the memory that names what lies in them: the next server has both, or neither.
        self.enter_lanes_of_returned(key, lanes);
        let took = clock::since(since);
        self.metrics.swaps_in += 1;
        self.metrics.restores_whole += u64::from(!is_restoring);
        self.metrics.swapped_in_bytes += read_bytes;
        let rest = if is_restoring { ", its objects follow" } else { "" };
        self.log.info(format_args!("process {id} is back: {read_bytes} bytes read in {took:?}{rest}"));
        let start = if is_replayed { RingStart::Replayed } else { RingStart::New };
        if let Err(error) = self.begin_log(key, start) {
            self.break_process(key, &format!("its log cannot be opened: {error}"));
        }
        self.keep_process(key);
        self.measure_memory_later();
        self.show_state(key);
        self.look_at_activity_later();
        if is_replayed && !logged && self.let_log_end(key) {
            return Ok(());
        }
        self.fill_workers(key);
        self.doze_on(key);
        self.serve_waiters(&id);
        Ok(())
    }

    /// Whether a process has come back and no worker of it is ready yet: whatever is given to a worker has to wait.
    pub(crate) fn is_waking(&self, id: &ProcessId) -> bool {
        let process = self.processes.by_id.get(id).and_then(|key| self.processes.get(*key));
        process.is_some_and(|process| process.state() == ProcessState::Restoring)
    }

    /// The first workers of a process that has come back are ready.
    pub(crate) fn first_worker_is_ready(&mut self, key: ProcessKey) {
        let Some(process) = self.processes.get(key) else { return };
        let id = process.id;
        self.serve_waiters(&id);
    }
}
