//! The keeper as the loop sees it: what it was given, what it has acknowledged, and its replacement when it dies.
//!
//! The server keeps a copy of every descriptor that it gives away, so a new keeper can be filled with all of them. A worker
//! is given its pages only when the keeper watches it: otherwise a crash of the server could leave it running unseen.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::Sender;

use mio::Interest;

use crate::hosting::Job;
use crate::keeper::{KeeperError, KeeperEvent, KeeperLink};
use crate::limits::{KEEPER_REPLACE_DELAY, PEER_PACKETS_TURN_MAX};
use crate::shard::Shard;
use crate::sources::Source;
use crate::timers::Timer;
use crate::workers::WorkerKey;

/// What an acknowledgement is for.
#[derive(Debug)]
enum Awaited {
    Worker(WorkerKey),
    /// Someone who waits for a descriptor to be safe.
    Put(Option<Sender<Result<(), String>>>),
}

/// The server's side of keeping.
#[derive(Debug, Default)]
pub(crate) struct Keeping {
    link: Option<KeeperLink>,
    awaited: HashMap<u64, Awaited>,
    held: BTreeMap<String, OwnedFd>,
}

impl Keeping {
    pub(crate) fn new(link: KeeperLink, held: BTreeMap<String, OwnedFd>) -> Self {
        Self { link: Some(link), awaited: HashMap::new(), held }
    }

    pub(crate) fn held(&self, name: &str) -> Option<&OwnedFd> {
        self.held.get(name)
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
        let Some(worker) = self.workers.get(&key) else { return };
        let (Some(life), Some(link)) = (&worker.life, &mut self.keeping.link) else { return };
        let cgroup = life.cgroup.as_ref().map(|cgroup| cgroup.name().to_owned());
        match link.add_worker(worker.pipe.as_fd(), life.pidfd.as_fd(), cgroup) {
            Ok(request) => {
                self.keeping.awaited.insert(request, Awaited::Worker(key));
            }
            Err(error) => self.keeper_lost(&error),
        }
    }

    /// Has the keeper hold a descriptor; `done` is told when it is safe.
    pub(crate) fn keep_descriptor(&mut self, name: String, fd: OwnedFd, done: Option<Sender<Result<(), String>>>) {
        let sent = self.keeping.link.as_mut().map(|link| link.put(&name, fd.as_fd()));
        self.keeping.held.insert(name, fd);
        match sent {
            Some(Ok(request)) => {
                self.keeping.awaited.insert(request, Awaited::Put(done));
            }
            Some(Err(error)) => self.keeper_lost(&error),
            // The next keeper is given it.
            None => {}
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
            (Some(Awaited::Put(Some(done))), outcome) => {
                // Whoever asked may have given up.
                let _ = done.send(outcome);
            }
            (Some(Awaited::Put(None)) | None, _) => {}
        }
    }

    /// The keeper is dead or broken: another takes its place.
    fn keeper_lost(&mut self, error: &KeeperError) {
        let Some(link) = self.keeping.link.take() else { return };
        self.log.error(format_args!("the keeper is replaced: {error}"));
        self.metrics.keepers_replaced += 1;
        self.unwatch(&link.as_fd());
        self.keeping.awaited.clear();
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
        for (name, fd) in std::mem::take(&mut self.keeping.held) {
            self.keep_descriptor(name, fd, None);
        }
        let workers: Vec<_> = self.workers.keys().copied().collect();
        workers.into_iter().for_each(|worker| self.keep_worker(worker));
        self.ready.add(Source::Keeper);
    }

    /// Ends the keeper at the end of a clean shutdown. Blocks for a bounded time.
    pub(crate) fn dismiss_keeper(&mut self) {
        if let Some(link) = self.keeping.link.take() {
            link.goodbye();
        }
    }
}
