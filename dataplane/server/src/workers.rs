//! Workers: OS processes that run user code, from the wish for one to its end.
//!
//! A worker is started by the spawner, says hello, is given its pages once the keeper watches it, then every lane of its
//! process, and is ready when it says so. The pages usually lie in its socket before it has loaded; the lanes are handed out
//! only when its hello was found to be right. What it sends is decoded and checked against what it was sent; a
//! worker that breaks the protocol is killed, and nobody else notices.

mod hearing;

use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use mio::Interest;
use praas_protocol::control::{FilesPlace, LaneId, MessageLaneSlot, WorkerCommand};
use praas_protocol::limits::{WORKER_HELLO_MS_MAX, WORKERS_MAX};
use praas_shm::WorkerTag;
use praas_shm::log_ring::LogWriter;
use praas_shm::worker_page::ServerWorkerPage;
use praas_sys::{Cgroup, MessageSocket, Pidfd};

use crate::application::ApplicationLimits;
use crate::clock;
use crate::files::FilesName;
use crate::hosting::{SpawnJob, Started, WORKER_FILES_PATH, WorkerDescriptors};
use crate::limits::{PEER_STALL_MAX, WORKER_EXIT_MAX};
use crate::message_lanes::OutboundPlaces;
use crate::peer::{Peer, PeerError};
use crate::processes::{Process, ProcessKey};
use crate::shard::Shard;
use crate::sources::Source;
use crate::timers::Timer;

/// Names a worker; never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct WorkerKey(pub(crate) usize);

/// How far a worker has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum WorkerStage {
    /// It is being started, or has not said hello, or the keeper does not watch it yet.
    Starting,
    /// It was given its pages, has said hello and attaches lanes.
    Attaching,
    /// It claims calls.
    Ready,
    /// It was told to end.
    Leaving,
}

/// What a worker knows of a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attachment {
    /// It was told of it.
    Adding,
    /// It said that it attached it.
    Attached,
    /// It was told to forget it.
    Removing,
}

/// The OS process of a worker.
#[derive(Debug)]
pub(crate) struct Life {
    pub(crate) pidfd: Pidfd,
    pub(crate) pid: u32,
    pub(crate) outputs: [Option<OwnedFd>; 2],
    pub(crate) cgroup: Option<Arc<Cgroup>>,
}

/// First sight of a claim.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sighting {
    pub(crate) sequence: u64,
    pub(crate) since: Instant,
}

/// One worker.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) process: ProcessKey,
    pub(crate) tag: WorkerTag,
    pub(crate) index: u8,
    pub(crate) generation: u16,
    pub(crate) stage: WorkerStage,
    pub(crate) peer: Peer,
    pub(crate) page: ServerWorkerPage,
    /// Read end of the pipe that the worker holds for the keeper; kept to refill a new keeper.
    pub(crate) pipe: OwnedFd,
    pub(crate) life: Option<Life>,
    said_hello: bool,
    /// Whether the keeper watches it.
    pub(crate) is_watched: bool,
    has_pages: bool,
    pub(crate) ready_since: Option<Instant>,
    pub(crate) lanes: BTreeMap<LaneId, Attachment>,
    /// What it knows of the lanes that bring messages to its process.
    pub(crate) inbound: BTreeMap<MessageLaneSlot, Attachment>,
    /// Message lanes that it opened, by their serials: where they lead to.
    pub(crate) outbound: OutboundPlaces,
    /// Lanes that it opened for calls of its own, and where they lead.
    pub(crate) call_lanes: BTreeMap<LaneId, ProcessKey>,
    pub(crate) sightings: HashMap<usize, Sighting>,
    /// Calls at the last look, and since when they have not changed while it was parked.
    pub(crate) idle: Option<(u64, Instant)>,
    /// What it has asked for of its process's state and was not answered.
    pub(crate) fetches: u32,
    /// Whether it was told to look at the wake-ups of its process, and has not answered.
    pub(crate) looks_at_wake_ups: bool,
    /// Why the server ends it, for the record.
    pub(crate) end_reason: Option<String>,
    /// Whether it must die as soon as it has an OS process.
    doomed: bool,
}

impl Worker {
    pub(crate) fn is_ready(&self) -> bool {
        self.stage == WorkerStage::Ready
    }

    /// Whether it was given all that it needs to run calls.
    pub(crate) fn is_introduced(&self) -> bool {
        self.stage >= WorkerStage::Attaching
    }

    /// Whether it is there to stay.
    pub(crate) fn stays(&self) -> bool {
        self.stage != WorkerStage::Leaving && !self.doomed
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        self.life.as_ref().map(|life| life.pid)
    }

    /// Kills the worker. Its end comes by its pidfd, like any other.
    pub(crate) fn kill(&mut self, reason: String) {
        self.end_reason.get_or_insert(reason);
        self.doomed = true;
        if let Some(life) = &self.life {
            // Fails only when it is dead already.
            let _ = life.pidfd.kill();
        }
    }

    /// Sends a command and makes a worker that polls look at its socket. The message first: a worker that sees the word
    /// before the message would find nothing and not look again.
    pub(crate) fn command(&mut self, command: &WorkerCommand, fds: &[BorrowedFd<'_>]) -> Result<(), PeerError> {
        let sent = self.peer.send(command, fds);
        self.notify();
        sent
    }

    /// Tells the worker to look at its control socket, and whether that is all that there is for it: one that does not know all
    /// of its message lanes takes nothing out of any, and must not believe that it does.
    pub(crate) fn notify(&self) {
        self.page.set_mail_waits(self.peer.has_queued());
        self.page.notify();
    }

    /// The same; a worker that cannot take it is killed. The time by which it must have read it, if it was not taken at once.
    pub(crate) fn tell(&mut self, command: &WorkerCommand, fds: &[BorrowedFd<'_>]) -> Option<Instant> {
        let was_queued = self.peer.has_queued();
        match self.command(command, fds) {
            Ok(()) => self.peer.stall_end().filter(|_| !was_queued),
            // Its pidfd tells the rest.
            Err(PeerError::Closed) => None,
            Err(error) => {
                self.kill(error.to_string());
                None
            }
        }
    }
}

impl Shard {
    pub(crate) fn workers_of(&self, key: ProcessKey) -> impl Iterator<Item = (WorkerKey, &Worker)> {
        let keys = self.processes.get(key).map(|process| process.workers.iter()).into_iter().flatten();
        keys.filter_map(|key| self.workers.get(key).map(|worker| (*key, worker)))
    }

    pub(crate) fn worker_keys(&self, key: ProcessKey) -> Vec<WorkerKey> {
        self.processes.get(key).map(|process| process.workers.iter().copied().collect()).unwrap_or_default()
    }

    pub(crate) fn ready_workers(&self, key: ProcessKey) -> u32 {
        let ready = self.workers_of(key).filter(|(_, worker)| worker.is_ready()).count();
        u32::try_from(ready).unwrap_or(u32::MAX)
    }

    /// Workers that are there to stay.
    pub(crate) fn staying_workers(&self, key: ProcessKey) -> u32 {
        let staying = self.workers_of(key).filter(|(_, worker)| worker.stays());
        u32::try_from(staying.count()).unwrap_or(u32::MAX)
    }

    /// Starts as many workers as the process lacks.
    pub(crate) fn fill_workers(&mut self, key: ProcessKey) {
        let Some(process) = self.processes.get(key) else { return };
        if !process.wants_workers() {
            return;
        }
        let lacking = process.application.workers_min.saturating_sub(self.staying_workers(key));
        for _ in 0..lacking {
            if let Err(reason) = self.start_worker(key) {
                return self.worker_failed(key, reason, None);
            }
        }
    }

    pub(crate) fn start_worker(&mut self, key: ProcessKey) -> Result<(), String> {
        let mut taken: Vec<u8> = self.workers_of(key).map(|(_, worker)| worker.index).collect();
        let process = self.processes.get_mut(key).ok_or("the process is gone")?;
        taken.extend(process.unsettled.indices());
        let index = (0..WORKERS_MAX).find_map(|index| u8::try_from(index).ok().filter(|index| !taken.contains(index)));
        let index = index.ok_or("every worker index is taken by a worker that is still ending")?;
        let memory = process.memory.as_mut().ok_or("the process has no memory any more")?;
        let generation = memory.ledger.next_generation(index).map_err(|error| format!("its ledger: {error}"))?;
        let worker = WorkerKey(self.next_worker);
        self.next_worker += 1;
        let (id, application, user) = (process.id, Arc::clone(&process.application), process.user);
        let files = FilesName::of(memory.ledger.record());
        let files = (application.limits.files_bytes_max > 0).then(|| self.data.files_path(&files));
        // First, so that its directory and sandbox are made meanwhile. If anything fails below, `hand_over` is dropped, the
        // job fails for want of descriptors, and its result meets no worker of this key.
        let (hand_over, descriptors) = std::sync::mpsc::sync_channel(1);
        self.hosting.spawn(SpawnJob { worker, process: id, application, user, files, descriptors })?;
        self.ensure_bell(key).map_err(|error| error.to_string())?;
        let (ours, theirs) = MessageSocket::pair().map_err(|error| format!("a socket for the worker: {error}"))?;
        let pipe = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC | rustix::pipe::PipeFlags::NONBLOCK);
        let (read_end, write_end) = pipe.map_err(|error| format!("a pipe for the worker: {error}"))?;
        let page = ServerWorkerPage::create().map_err(|error| format!("a page for the worker: {error}"))?;
        self.watch(ours.as_fd(), Source::WorkerSocket(worker), Interest::READABLE | Interest::WRITABLE)
            .map_err(|error| format!("watching the worker's socket: {error}"))?;
        self.workers.insert(
            worker,
            Worker {
                process: key,
                tag: WorkerTag::new(index, generation),
                index,
                generation,
                stage: WorkerStage::Starting,
                peer: Peer::new(ours),
                page,
                pipe: read_end,
                life: None,
                said_hello: false,
                is_watched: false,
                has_pages: false,
                ready_since: None,
                lanes: BTreeMap::new(),
                inbound: BTreeMap::new(),
                outbound: BTreeMap::new(),
                call_lanes: BTreeMap::new(),
                sightings: HashMap::new(),
                idle: None,
                fetches: 0,
                looks_at_wake_ups: false,
                end_reason: None,
                doomed: false,
            },
        );
        if let Some(process) = self.processes.get_mut(key) {
            process.workers.insert(worker);
        }
        self.timers.after(std::time::Duration::from_millis(WORKER_HELLO_MS_MAX), Timer::WorkerReady(worker));
        // The channel has room for the one message; a job that is given up has told why.
        let _ = hand_over.try_send(WorkerDescriptors { socket: theirs.into(), pipe: write_end });
        self.prepare_lane(key);
        Ok(())
    }

    /// The spawner has started a worker, or not.
    pub(crate) fn worker_spawned(&mut self, key: WorkerKey, result: Result<Started, String>) {
        let Some(worker) = self.workers.get_mut(&key) else { return };
        let process = worker.process;
        let started = match result {
            Ok(started) => started,
            Err(reason) => {
                let expected = worker.stage == WorkerStage::Leaving;
                self.drop_worker(key);
                return if expected { self.worker_gone(process) } else { self.worker_failed(process, reason, None) };
            }
        };
        self.metrics.workers_started += 1;
        let spawned = started.spawned;
        let outputs = [spawned.stdout, spawned.stderr];
        let doomed = worker.doomed;
        worker.life = Some(Life { pidfd: spawned.pidfd, pid: spawned.pid, outputs, cgroup: started.cgroup });
        let watched = self.watch_life(key);
        if let Err(error) = watched {
            self.end_worker(key, format!("watching it failed: {error}"));
        } else if doomed {
            self.end_worker(key, "it was no longer wanted".into());
        }
        self.keep_worker(key);
    }

    fn watch_life(&mut self, key: WorkerKey) -> std::io::Result<()> {
        let Some(life) = self.workers.get(&key).and_then(|worker| worker.life.as_ref()) else { return Ok(()) };
        self.watch(life.pidfd.as_fd(), Source::WorkerExit(key), Interest::READABLE)?;
        for (stream, output) in (0_u8..).zip(&life.outputs) {
            if let Some(output) = output {
                self.watch(output.as_fd(), Source::WorkerOutput(key, stream), Interest::READABLE)?;
            }
        }
        // Its end may have come before the watch.
        self.ready.add(Source::WorkerExit(key));
        Ok(())
    }

    /// Kills a worker for a reason that is remembered as its exit.
    pub(crate) fn end_worker(&mut self, key: WorkerKey, reason: String) {
        if let Some(worker) = self.workers.get_mut(&key) {
            worker.kill(reason);
        }
    }

    /// Tells a worker to end between calls, and sees to it.
    pub(crate) fn dismiss_worker(&mut self, key: WorkerKey) {
        let Some(worker) = self.workers.get_mut(&key) else { return };
        if worker.stage == WorkerStage::Leaving {
            return;
        }
        let started = worker.stage >= WorkerStage::Attaching;
        worker.stage = WorkerStage::Leaving;
        // One that has not said hello is not listening for commands yet, and holds nothing.
        if !started || worker.command(&WorkerCommand::Exit, &[]).is_err() {
            worker.kill("it was told to end".into());
        }
        self.timers.after(WORKER_EXIT_MAX, Timer::WorkerExit(key));
    }

    /// Timer: a worker that was told to end, or has closed its socket, and lives on.
    pub(crate) fn worker_exit_due(&mut self, key: WorkerKey) {
        let Some(worker) = self.workers.get(&key) else { return };
        let may_finish = worker.stage == WorkerStage::Leaving
            && self.processes.get(worker.process).is_some_and(Process::wants_workers);
        if may_finish && worker.page.claims().next().is_some() {
            // An idle worker that took a call just before it was told; `call_ms_max` still bounds that.
            self.timers.after(WORKER_EXIT_MAX, Timer::WorkerExit(key));
        } else if worker.stage == WorkerStage::Leaving {
            self.end_worker(key, "it did not end when told to".into());
        } else {
            self.end_worker(key, "it closed its control socket and lived on".into());
        }
    }

    /// Timer: a worker that should be ready by now.
    pub(crate) fn worker_ready_due(&mut self, key: WorkerKey) {
        let Some(worker) = self.workers.get(&key) else { return };
        if worker.ready_since.is_none() {
            let is_kept = self.processes.get(worker.process).is_some_and(|process| process.is_kept);
            let waits_for = match (worker.said_hello, worker.is_watched && is_kept) {
                (false, _) => "did not say hello (is it a praas function program?)",
                (true, false) => "was not acknowledged by the keeper",
                (true, true) => "did not become ready",
            };
            self.end_worker(key, format!("it {waits_for} within {WORKER_HELLO_MS_MAX} ms"));
        }
    }

    /// Timer: a worker with unread messages.
    pub(crate) fn worker_stall_due(&mut self, key: WorkerKey) {
        let Some(worker) = self.workers.get(&key) else { return };
        let Some(end) = worker.peer.stall_end() else { return };
        if worker.page.claims().next().is_some() {
            // It reads between calls; how long a call may take is another limit.
            self.timers.after(PEER_STALL_MAX, Timer::WorkerStall(key));
        } else if end <= clock::now() {
            self.end_worker(key, "it did not read its messages".into());
        } else {
            self.timers.at(end, Timer::WorkerStall(key));
        }
    }

    /// Sends a command; a worker that cannot take it is killed.
    pub(crate) fn command_worker(&mut self, key: WorkerKey, command: &WorkerCommand, fds: &[BorrowedFd<'_>]) {
        if let Some(end) = self.workers.get_mut(&key).and_then(|worker| worker.tell(command, fds)) {
            self.timers.at(end, Timer::WorkerStall(key));
        }
    }

    /// Makes every worker of a process look at its control page and lanes.
    pub(crate) fn wake_workers(&mut self, key: ProcessKey) {
        for worker_key in self.worker_keys(key) {
            let Some(worker) = self.workers.get_mut(&worker_key) else { continue };
            if worker.stage >= WorkerStage::Attaching {
                // A client that rings without end must not fill the queue of a worker that is busy.
                let hinted = worker.peer.hint(&WorkerCommand::Wake);
                worker.notify();
                if let Err(error @ PeerError::Socket(_)) = hinted {
                    worker.kill(error.to_string());
                }
            }
        }
    }

    /// Gives a worker its pages once the keeper watches it and holds its process's memory, and its lanes once it has also said
    /// hello.
    pub(crate) fn introduce(&mut self, key: WorkerKey) {
        let Some(worker) = self.workers.get_mut(&key) else { return };
        if !worker.is_watched || worker.stage != WorkerStage::Starting {
            return;
        }
        let Some(process) = self.processes.get(worker.process).filter(|process| process.is_kept) else { return };
        let (Some(memory), Some(bell)) = (&process.memory, &process.bell) else { return };
        let Some(directory) = self.directories.get(&process.id.application) else { return };
        let mut sent = Ok(());
        if !worker.has_pages {
            worker.has_pages = true;
            let start = WorkerCommand::Start {
                process: process.id,
                index: worker.index,
                generation: worker.generation,
                wait_mode: process.application.wait,
                payload_bytes_max: process.application.limits.payload_bytes_max,
                workers_max: process.application.workers_max,
                state_bytes: memory.state_bytes(),
                incarnation: memory.incarnation(),
                log_bytes: memory.objects.log().map(LogWriter::bytes),
                files: files_place(&process.application.limits),
            };
            let mut fds = vec![process.control.fd(), worker.page.fd(), memory.objects.fd(), bell.fd(), directory.fd()];
            if let Some(log) = memory.objects.log() {
                fds.extend([log.fd(), log.doorbell()]);
            }
            sent = worker.peer.send(&start, &fds);
        }
        if worker.said_hello {
            worker.stage = WorkerStage::Attaching;
            // First, so that whoever gets a call has been told of every lane that its messages may lie in.
            for (slot, lane) in &process.inbound {
                if sent.is_ok() && lane.is_served() {
                    worker.inbound.insert(*slot, Attachment::Adding);
                    sent = lane.announce(*slot, &mut worker.peer);
                }
            }
            for (id, lane) in &process.lanes {
                if sent.is_ok() && lane.is_served() {
                    worker.lanes.insert(*id, Attachment::Adding);
                    sent = lane.announce(*id, &mut worker.peer);
                }
            }
            worker.notify();
        }
        match sent {
            // Its pidfd tells the rest.
            Ok(()) | Err(PeerError::Closed) => {}
            Err(error) => worker.kill(error.to_string()),
        }
        if let Some(end) = worker.peer.stall_end() {
            self.timers.at(end, Timer::WorkerStall(key));
        }
    }

    fn worker_ready(&mut self, key: WorkerKey) {
        let Some(worker) = self.workers.get_mut(&key) else { return };
        worker.stage = WorkerStage::Ready;
        worker.ready_since = Some(clock::now());
        let process = worker.process;
        if let Some(process) = self.processes.get_mut(process) {
            (process.never_ready, process.failed_starts) = (false, 0);
        }
        self.look_at_claims_later();
        self.settle_if_ready(process);
        self.look_at_wake_ups_if_due(process);
        self.hosting.prepare_directories();
    }
}

/// What a worker is told of its files directory.
fn files_place(limits: &ApplicationLimits) -> Option<FilesPlace> {
    let bytes_max = limits.files_bytes_max;
    (bytes_max > 0).then(|| FilesPlace { path: WORKER_FILES_PATH.into(), bytes_max })
}
