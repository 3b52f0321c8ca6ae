//! Bringing back the processes of a server that did not end cleanly.
//!
//! 1. It happens before the loop serves the first client, so nobody finds a process missing that is there.
//! 2. The keeper handed the memory over only when every worker of the last server had ended: nobody else writes to it.
//! 3. Nothing is destroyed but the memory of a process whose ledger says that it was ended. What cannot be brought back is
//!    named in one line with what to do. Where only its application is not served, its memory stays with the keeper until a
//!    server that serves it, or until one ends cleanly. Where the memory itself is damaged, the process is listed as failed
//!    until it is stopped.
//! 4. The lanes that brought messages are a part of a mailbox: they are taken over before the first worker of their process
//!    starts, without the senders, who are dead.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use praas_protocol::{Name, ProcessId};
use praas_shm::control_page::ControlPage;

use crate::application::Application;
use crate::durability::{Durabilities, RingStart};
use crate::message_lanes::LaneName;
use crate::process_ledger::ProcessLedger;
use crate::process_memory::{ProcessMemory, memory_names, parse_memory_name};
use crate::processes::{Process, ProcessKey};
use crate::shard::Shard;
use crate::swap::SwapReason;
use crate::wake_ups::WakeUps;

/// What an earlier server left of a process.
enum Left {
    /// It was ended just before.
    Ended,
    /// All that is needed.
    Memory(Box<ProcessMemory>),
    /// Something that no process can be made of.
    Damaged(String),
}

impl Shard {
    /// Brings back every process whose memory the keeper handed over, as far as that is possible.
    pub(crate) fn recover_processes(&mut self) {
        let left: BTreeSet<_> = self.keeping.held_names().filter_map(parse_memory_name).collect();
        let mut unserved: BTreeMap<Name, usize> = BTreeMap::new();
        let mut lanes: BTreeMap<_, Vec<LaneName>> = BTreeMap::new();
        for lane in self.keeping.held_names().filter_map(LaneName::parse) {
            lanes.entry((lane.process, lane.incarnation)).or_default().push(lane);
        }
        for (id, incarnation) in left {
            self.processes.note_incarnation(incarnation);
            let lanes = lanes.remove(&(id, incarnation)).unwrap_or_default();
            match self.applications.get(&id.application).cloned() {
                Some(application) => self.recover_process(id, incarnation, application, lanes),
                None => *unserved.entry(id.application).or_default() += 1,
            }
        }
        // The process that they led to was let go of just before.
        self.forget_kept(lanes.values().flatten().map(LaneName::to_string).collect::<Vec<_>>());
        for (application, processes) in unserved {
            self.log.warning(format_args!(
                "the state of {processes} processes of {application} stays with the keeper, because that application is not \
                 served now: serve it again to have them back; it is lost when this server ends cleanly"
            ));
        }
    }

    fn recover_process(
        &mut self,
        id: ProcessId,
        incarnation: u64,
        application: Arc<Application>,
        lanes: Vec<LaneName>,
    ) {
        let names = memory_names(id, incarnation);
        let lane_names = lanes.iter().map(LaneName::to_string);
        let control = match ControlPage::create(self.incarnation, 1) {
            Ok(control) if !self.processes.by_id.contains_key(&id) => control,
            Ok(_) => {
                return self
                    .log
                    .error(format_args!("{id} was left twice: the memory {} stays with the keeper", names[0]));
            }
            Err(error) => {
                let advice =
                    "its memory stays with the keeper: make room on the host, kill the server and start it again";
                return self.log.error(format_args!("{id} cannot be brought back for now: {error}; {advice}"));
            }
        };
        let logged = self.logs(application.durability);
        let mut process = Process::new(id, application, control, names.clone());
        match self.open_memory(id, incarnation, &names, logged) {
            Left::Ended => return self.forget_kept(names.into_iter().chain(lane_names).collect::<Vec<_>>()),
            Left::Memory(memory) => {
                let memory = process.memory.insert(*memory);
                process.is_kept = true;
                process.wake_ups = WakeUps::unsure();
                if self.gives_users {
                    let user = memory.ledger.record().user;
                    process.user = match user {
                        Some(user) => self.processes.take_user_again(user),
                        None => self.processes.take_user(),
                    };
                }
                if let Err(error) = memory.ledger.set_user(process.user) {
                    self.log.error(format_args!("the uid of {id} cannot be noted: {error}"));
                }
                process.go_on_filling();
                names.iter().for_each(|name| drop(self.keeping.claim(name)));
                self.metrics.processes_recovered += 1;
                self.log.info(format_args!("process {id} is back"));
            }
            Left::Damaged(reason) => {
                let advice = format!("its memory is kept as it is; `praas process stop {id}` gives it up");
                self.log.error(format_args!("process {id} cannot be brought back: {reason}; {advice}"));
                process.broken = Some(format!("its state cannot be used: {reason}; {advice}"));
                process.kept_names.extend(lane_names);
            }
        }
        let is_back = process.memory.is_some();
        let has_ring = process.memory.as_ref().is_some_and(|memory| memory.objects.log().is_some());
        let key = self.processes.enter(process);
        let start = if has_ring && self.has_lasting_log() { RingStart::LeftBehind } else { RingStart::New };
        if is_back && let Err(error) = self.begin_log(key, start) {
            self.break_process(key, &format!("its log cannot be opened: {error}"));
        }
        if is_back {
            let unusable = self.adopt_message_lanes(key, lanes);
            if let Some(process) = self.processes.get_mut(key) {
                process.kept_names.extend(unusable);
            }
        }
        self.measure_memory_later();
        self.show_state(key);
        self.look_at_activity_later();
        if is_back && logged && !has_ring {
            return self.log_from_now_on(key);
        }
        self.fill_workers(key);
    }

    /// Whether logs are there for the next server.
    fn has_lasting_log(&self) -> bool {
        self.durabilities.as_ref().is_some_and(Durabilities::lasts)
    }

    /// A process that is to be logged was not until now: it is stored, and has a log when it wakes.
    fn log_from_now_on(&mut self, key: ProcessKey) {
        let Some(process) = self.processes.get(key) else { return };
        let id = process.id;
        if self.swaps.backend().is_none() {
            self.log.warning(format_args!(
                "{id} was not logged before and cannot be stored, which its log would begin with: it goes on in memory"
            ));
            return self.fill_workers(key);
        }
        self.log.info(format_args!("{id} was not logged before: it is stored, and logged from when it wakes"));
        self.store_anew(key, SwapReason::NoLog);
    }

    /// What the keeper holds under these names, checked in every part.
    fn open_memory(
        &self,
        id: ProcessId,
        incarnation: u64,
        [objects, ledger, ring]: &[String; 3],
        logged: bool,
    ) -> Left {
        let copy = |name: &String, what: &str| -> Result<OwnedFd, String> {
            let fd = self.keeping.held(name).ok_or_else(|| format!("its {what} is missing"))?;
            fd.try_clone().map_err(|error| format!("its {what} cannot be duplicated: {error}"))
        };
        let open = || {
            let ledger =
                ProcessLedger::open(copy(ledger, "ledger")?).map_err(|error| format!("its ledger: {error}"))?;
            let record = ledger.record();
            if (record.id, record.incarnation) != (id, incarnation) {
                return Err(format!("its ledger is that of {} {:016x}", record.id, record.incarnation));
            }
            if record.ended {
                return Ok(Left::Ended);
            }
            let has_ring = logged && self.has_lasting_log() && self.keeping.held(ring).is_some();
            let ring = if has_ring { Some(copy(ring, "log ring")?) } else { None };
            let memory = ProcessMemory::recover(ledger, copy(objects, "state segment")?, ring, &self.budget);
            let mut memory = memory.map_err(|error| format!("its state segment: {error}"))?;
            if logged && !self.has_lasting_log() {
                memory = memory.logged(&self.budget).map_err(|error| error.to_string())?;
            }
            Ok(Left::Memory(Box::new(memory)))
        };
        open().unwrap_or_else(Left::Damaged)
    }
}
