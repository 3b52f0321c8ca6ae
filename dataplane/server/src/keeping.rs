//! The keeper as the loop sees it: what it was given, what it has acknowledged, and its replacement when it dies.
//!
//! 1. The server has a copy of every descriptor that it gives away, with whom it belongs to, so a new keeper can be filled
//!    with all of them.
//! 2. A worker is given its pages only when the keeper watches it, and holds the memory of its process: otherwise a crash of
//!    the server could leave the one running unseen, and lose what the other has answered for.
//! 3. Errands go out as the keeper takes them, in order; there are as many as processes, workers, message lanes and
//!    clients' sessions at most.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::Sender;

use mio::Interest;
use praas_protocol::SessionId;
use praas_protocol::control::MessageLaneSlot;

use crate::hosting::Job;
use crate::keeper::{KeeperError, KeeperEvent, KeeperLink};
use crate::limits::{FORGOTTEN_NAMES_MAX, KEEPER_REPLACE_DELAY, PEER_PACKETS_TURN_MAX};
use crate::processes::{ProcessKey, Stage};
use crate::shard::Shard;
use crate::sources::Source;
use crate::timers::Timer;
use crate::workers::WorkerKey;

/// What an acknowledgement is for.
#[derive(Debug)]
enum Awaited {
    Worker(WorkerKey),
    /// A process whose memory must be safe before it answers a call.
    Process(ProcessKey),
    /// A message lane that nobody sends on before it is safe.
    MessageLane(ProcessKey, MessageLaneSlot, u64),
    /// A client's session that nobody learns of before it is safe.
    Session(SessionId),
    /// Someone who waits for a descriptor to be safe.
    Put(Option<Sender<Result<(), String>>>),
}

/// What the keeper is to be told.
#[derive(Debug)]
enum Errand {
    /// Hold what lies in [`Keeping::held`] under this name.
    Hold(String, Option<Sender<Result<(), String>>>),
    /// Hold the memory of a process.
    Process(ProcessKey),
    /// Hold a message lane.
    MessageLane(ProcessKey, MessageLaneSlot, u64),
    /// Hold a client's session.
    Session(SessionId),
    /// Watch a worker.
    Worker(WorkerKey),
    Forget(Vec<String>),
}

/// The server's side of keeping.
#[derive(Debug, Default)]
pub(crate) struct Keeping {
    link: Option<KeeperLink>,
    errands: VecDeque<Errand>,
    awaited: HashMap<u64, Awaited>,
    /// What belongs to no process: descriptors that were given in by name, and memory that the last server left and nobody
    /// could be found for.
    held: BTreeMap<String, OwnedFd>,
}

impl Keeping {
    pub(crate) fn new(link: KeeperLink, held: BTreeMap<String, OwnedFd>) -> Self {
        Self { link: Some(link), held, ..Self::default() }
    }

    /// Whether there is a keeper now.
    pub(crate) fn has_keeper(&self) -> bool {
        self.link.is_some()
    }

    pub(crate) fn held(&self, name: &str) -> Option<&OwnedFd> {
        self.held.get(name)
    }

    pub(crate) fn held_names(&self) -> impl Iterator<Item = &str> {
        self.held.keys().map(String::as_str)
    }

    /// Takes a descriptor out that belongs to a process from now on. The keeper holds it all the same.
    pub(crate) fn claim(&mut self, name: &str) -> Option<OwnedFd> {
        self.held.remove(name)
    }
}

impl Shard {
    /// Starts to listen to the keeper.
    pub(crate) fn watch_keeper(&mut self) -> std::io::Result<()> {
        match &self.keeping.link {
            Some(link) => self.watch(link.as_fd(), Source::Keeper, Interest::READABLE | Interest::WRITABLE),
            None => Ok(()),
        }
    }

    /// Has the keeper watch a started worker.
    pub(crate) fn keep_worker(&mut self, key: WorkerKey) {
        self.tell_keeper(Errand::Worker(key));
    }

    /// Has the keeper hold the memory of a process that begins. It is told with the next errand, which is to watch the first
    /// worker, so that it wakes only once while others need the cores for that worker's start.
    pub(crate) fn keep_process(&mut self, key: ProcessKey) {
        // Without a keeper, the next is told everything there is then.
        if self.keeping.link.is_some() {
            self.keeping.errands.push_back(Errand::Process(key));
        }
    }

    /// Has the keeper hold a message lane.
    pub(crate) fn keep_message_lane(&mut self, key: ProcessKey, slot: MessageLaneSlot, serial: u64) {
        self.tell_keeper(Errand::MessageLane(key, slot, serial));
    }

    /// Has the keeper hold the memory of a client's session.
    pub(crate) fn keep_session(&mut self, session: SessionId) {
        self.tell_keeper(Errand::Session(session));
    }

    /// Has the keeper hold a descriptor; `done` is told when it is safe.
    pub(crate) fn keep_descriptor(&mut self, name: String, fd: OwnedFd, done: Option<Sender<Result<(), String>>>) {
        self.keeping.held.insert(name.clone(), fd);
        self.tell_keeper(Errand::Hold(name, done));
    }

    /// Lets go of what the keeper holds under these names.
    pub(crate) fn forget_kept(&mut self, names: impl Into<Vec<String>>) {
        let names = names.into();
        names.iter().for_each(|name| drop(self.keeping.held.remove(name)));
        names.chunks(FORGOTTEN_NAMES_MAX).for_each(|names| self.tell_keeper(Errand::Forget(names.to_vec())));
    }

    fn tell_keeper(&mut self, errand: Errand) {
        // Without one, the next is told everything there is then.
        if self.keeping.link.is_some() {
            self.keeping.errands.push_back(errand);
            self.run_errands();
        }
    }

    /// Tells the keeper as much as it takes now.
    fn run_errands(&mut self) {
        let Keeping { link: Some(link), errands, awaited, held } = &mut self.keeping else { return };
        while !link.has_queued()
            && let Some(errand) = errands.pop_front()
        {
            let sent = match errand {
                Errand::Hold(name, done) => {
                    held.get(&name).map(|fd| (link.put(&[(name.clone(), fd.as_fd())]), Awaited::Put(done)))
                }
                Errand::Process(key) => self
                    .processes
                    .get(key)
                    .and_then(|process| process.memory.as_ref())
                    .map(|memory| (link.put(&memory.kept_parts()), Awaited::Process(key))),
                Errand::MessageLane(key, slot, serial) => self
                    .processes
                    .get(key)
                    .and_then(|process| process.inbound.get(&slot))
                    .filter(|lane| lane.serial() == serial)
                    .map(|lane| (link.put(&[lane.kept_part()]), Awaited::MessageLane(key, slot, serial))),
                Errand::Session(session) => {
                    self.sessions.kept_part(session).map(|part| (link.put(&[part]), Awaited::Session(session)))
                }
                Errand::Worker(key) => self.workers.get(&key).and_then(|worker| {
                    let life = worker.life.as_ref()?;
                    let cgroup = life.cgroup.as_ref().map(|cgroup| cgroup.name().to_owned());
                    let sent = link.add_worker(worker.pipe.as_fd(), life.pidfd.as_fd(), cgroup);
                    Some((sent, Awaited::Worker(key)))
                }),
                Errand::Forget(names) => Some((link.forget(names), Awaited::Put(None))),
            };
            match sent {
                Some((Ok(request), wish)) => drop(awaited.insert(request, wish)),
                Some((Err(error), _)) => return self.keeper_lost(&error),
                // What it was about is gone.
                None => {}
            }
        }
    }

    /// The keeper has answered, or is gone.
    pub(crate) fn hear_keeper(&mut self) {
        let Some(link) = &mut self.keeping.link else { return };
        match link.events(PEER_PACKETS_TURN_MAX) {
            Ok(events) => {
                if events.len() == PEER_PACKETS_TURN_MAX {
                    self.ready.add(Source::Keeper);
                }
                events.into_iter().for_each(|event| self.keeper_answered(event));
                self.run_errands();
            }
            Err(error) => self.keeper_lost(&error),
        }
    }

    fn keeper_answered(&mut self, event: KeeperEvent) {
        let (request, outcome) = match event {
            KeeperEvent::Acknowledged { request } => (request, Ok(())),
            KeeperEvent::Refused { request, reason } => (request, Err(reason)),
        };
        match (self.keeping.awaited.remove(&request), outcome) {
            (Some(Awaited::Worker(key)), Ok(())) => {
                if let Some(worker) = self.workers.get_mut(&key) {
                    worker.is_watched = true;
                    self.introduce(key);
                }
            }
            (Some(Awaited::Worker(key)), Err(reason)) => {
                self.end_worker(key, format!("the keeper does not watch it: {reason}"));
            }
            (Some(Awaited::Process(key)), Ok(())) => self.memory_is_safe(key),
            (Some(Awaited::Process(key)), Err(reason)) => self.memory_is_not_kept(key, &reason),
            (Some(Awaited::MessageLane(key, slot, serial)), Ok(())) => self.message_lane_is_kept(key, slot, serial),
            (Some(Awaited::MessageLane(key, slot, serial)), Err(reason)) => {
                self.message_lane_is_not_kept(key, slot, serial, &reason);
            }
            (Some(Awaited::Session(session)), Ok(())) => self.session_is_kept(session),
            (Some(Awaited::Session(session)), Err(reason)) => self.session_is_not_kept(session, &reason),
            (Some(Awaited::Put(Some(done))), outcome) => {
                // Whoever asked may have given up.
                let _ = done.send(outcome);
            }
            (Some(Awaited::Put(None)) | None, _) => {}
        }
    }

    /// The keeper holds the memory of a process: its workers may begin.
    fn memory_is_safe(&mut self, key: ProcessKey) {
        let Some(process) = self.processes.get_mut(key) else { return };
        process.is_kept = true;
        self.worker_keys(key).into_iter().for_each(|worker| self.introduce(worker));
    }

    /// The keeper has no room for the memory of a process. One that just begins is not created; another goes on, and is lost
    /// with the server.
    fn memory_is_not_kept(&mut self, key: ProcessKey, reason: &str) {
        let Some(process) = self.processes.get_mut(key) else { return };
        self.log.error(format_args!("the keeper does not hold the memory of {}: {reason}", process.id));
        if let Stage::Creating(_) = process.stage {
            process.last_exit = Some(format!("the keeper does not hold its memory: {reason}"));
            self.fail_creation(key);
        }
    }

    /// The keeper is dead or broken: another takes its place.
    fn keeper_lost(&mut self, error: &KeeperError) {
        let Some(link) = self.keeping.link.take() else { return };
        self.log.error(format_args!("the keeper is replaced: {error}"));
        self.metrics.keepers_replaced += 1;
        self.unwatch(&link.as_fd());
        self.keeping.awaited.clear();
        self.keeping.errands.clear();
        self.processes.entries.values_mut().for_each(|process| process.is_kept = false);
        self.message_lanes_are_not_kept();
        self.replace_keeper(Some(link));
    }

    /// Timer: the next attempt at a keeper.
    pub(crate) fn replace_keeper(&mut self, old: Option<KeeperLink>) {
        if self.keeping.link.is_none() && self.hosting.submit(Job::Keeper(old)).is_err() {
            self.timers.after(KEEPER_REPLACE_DELAY, Timer::Keeper);
        }
    }

    /// A keeper was started in the place of a dead one, or not.
    pub(crate) fn keeper_started(&mut self, result: Result<KeeperLink, KeeperError>) {
        let link = match result {
            Ok(link) => link,
            Err(error) => {
                self.log.error(format_args!("no keeper could be started: {error}"));
                return self.timers.after(KEEPER_REPLACE_DELAY, Timer::Keeper);
            }
        };
        self.keeping.link = Some(link);
        if let Err(error) = self.watch_keeper() {
            return self.keeper_lost(&KeeperError::System { what: "watching the keeper", source: error });
        }
        let held: Vec<_> = self.keeping.held.keys().map(|name| Errand::Hold(name.clone(), None)).collect();
        self.keeping.errands.extend(held);
        self.keeping.errands.extend(self.processes.entries.keys().map(|key| Errand::Process(*key)));
        let lanes = self.message_lane_places().into_iter();
        self.keeping.errands.extend(lanes.map(|(key, slot, serial)| Errand::MessageLane(key, slot, serial)));
        self.keeping.errands.extend(self.sessions.ids().into_iter().map(Errand::Session));
        self.keeping.errands.extend(self.workers.keys().map(|key| Errand::Worker(*key)));
        self.run_errands();
        self.ready.add(Source::Keeper);
    }

    /// Leaves the keeper what it holds, as a crash would: the next server on the same data directory is given it.
    pub(crate) fn leave_keeper(&mut self) {
        // What it was not told yet is only that things are over, which their ledgers say too.
        self.run_errands();
        self.keeping.link = None;
    }

    /// Ends the keeper at the end of a clean shutdown. Blocks for a bounded time.
    pub(crate) fn dismiss_keeper(&mut self) {
        if let Some(link) = self.keeping.link.take() {
            link.goodbye();
        }
    }
}
