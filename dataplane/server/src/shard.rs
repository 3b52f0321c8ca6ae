//! The loop: one thread that waits for all sources and serves each a bounded turn.
//!
//! 1. Events are collected first, then dispatched: a source served in this turn cannot starve one that became ready with it.
//! 2. Every turn has a work limit; what is left over is served in the next, after a look at the timers.
//! 3. Nothing here blocks: what may block is a job of [`crate::hosting`].
//!
//! The rooms are files of their own: clients, requests, lanes, processes, workers, supervision, drain, keeping, watch. Each
//! adds its methods to [`Shard`], which is nothing but what they share.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll};
use praas_protocol::Name;
use praas_protocol::control::{LaneId, MessageLaneSlot};
use praas_protocol::message::Address;
use praas_protocol::token::Secret;
use praas_sys::{Listener, SignalQueue};

use crate::application::Application;
use crate::budget::Budget;
use crate::clients::Clients;
use crate::clock;
use crate::data_directory::DataDirectory;
use crate::dedicated::Dedicated;
use crate::directory::Directories;
use crate::directory_watch::DirectoryWatch;
use crate::durability::Durabilities;
use crate::elsewhere::{Elsewhere, ListedElsewhere};
use crate::gateways::Gateways;
use crate::hosting::{Hosting, JobResult};
use crate::keeping::Keeping;
use crate::limits::{POLL_EVENTS_MAX, TIMERS_TURN_MAX, TURN_SOURCES_MAX};
use crate::log::Log;
use crate::message_lanes::MessageLanes;
use crate::metrics::Metrics;
use crate::network::NetworkThreads;
use crate::preemption::{Farewell, Preemption};
use crate::processes::{Processes, Stage};
use crate::server::Order;
use crate::sessions::Sessions;
use crate::sources::{ReadyQueue, Source};
use crate::swap::Swaps;
use crate::timers::{Timer, Timers};
use crate::transitions::Transitions;
use crate::wake_ups::Alarms;
use crate::watch::Watch;
use crate::workers::{Worker, WorkerKey};

/// Results and orders taken in one turn.
const MAIL_TURN_MAX: usize = 256;

/// Everything that one loop serves.
pub(crate) struct Shard {
    pub(crate) poll: Poll,
    pub(crate) ready: ReadyQueue,
    pub(crate) timers: Timers,
    pub(crate) log: Log,
    pub(crate) metrics: Metrics,
    pub(crate) data: Arc<DataDirectory>,
    pub(crate) secret: Secret,
    pub(crate) incarnation: u64,
    pub(crate) applications: BTreeMap<Name, Arc<Application>>,
    pub(crate) budget: Budget,
    pub(crate) listener: Listener,
    /// Given up to answer one client when no descriptors are left.
    pub(crate) spare: Option<OwnedFd>,
    pub(crate) open_files: u64,
    /// The threads that serve remote clients.
    pub(crate) network: Option<NetworkThreads>,
    pub(crate) clients: Clients,
    pub(crate) processes: Processes,
    pub(crate) workers: BTreeMap<WorkerKey, Worker>,
    pub(crate) dedicated: Dedicated,
    pub(crate) next_worker: usize,
    pub(crate) next_lane: u32,
    pub(crate) messages: MessageLanes,
    pub(crate) gives_users: bool,
    pub(crate) hosting: Hosting,
    pub(crate) keeping: Keeping,
    pub(crate) watched: Watch,
    /// Time in which a connection must say hello.
    pub(crate) client_hello: Duration,
    pub(crate) claims_watched: bool,
    /// How long a worker above the minimum may have nothing to do.
    pub(crate) worker_idle: Duration,
    pub(crate) idle_watched: bool,
    pub(crate) directories: Directories,
    pub(crate) directory_watch: DirectoryWatch,
    pub(crate) transitions: Transitions,
    /// When processes are due that have asked to be woken.
    pub(crate) alarms: Alarms,
    /// What takes the changes of logged processes to their logs, if there is a log.
    pub(crate) durabilities: Option<Durabilities>,
    /// Processes on their way to storage and back, and who waits for them.
    pub(crate) swaps: Swaps,
    /// Lanes to what is in no process's memory here.
    pub(crate) gateways: Gateways,
    pub(crate) sessions: Sessions,
    pub(crate) elsewhere: Arc<Elsewhere>,
    /// What of that is shown to workers.
    pub(crate) listed_elsewhere: BTreeMap<(Name, Address), ListedElsewhere>,
    pub(crate) shutting_down: bool,
    /// How the server ends, once it does.
    pub(crate) preemption: Preemption,
    pub(crate) orders: Receiver<Order>,
    pub(crate) results: Receiver<JobResult>,
    pub(crate) signals: Option<SignalQueue>,
    pub(crate) packet_buffer: Vec<u8>,
    pub(crate) output_buffer: Vec<u8>,
}

/// A descriptor to be given up when none are left.
pub(crate) fn spare_descriptor() -> Option<OwnedFd> {
    std::fs::File::open("/dev/null").ok().map(OwnedFd::from)
}

impl Shard {
    /// Serves until a shutdown is complete.
    pub(crate) fn run(mut self) -> io::Result<Farewell> {
        let mut events = Events::with_capacity(POLL_EVENTS_MAX);
        while !self.is_over() {
            let wait = if self.ready.len() > 0 { Some(Duration::ZERO) } else { self.timers.wait(clock::now()) };
            self.turn(&mut events, wait)?;
        }
        // Remote clients read their last answers.
        self.network = None;
        if self.preemption.leaves_memory() {
            self.leave_keeper();
        } else {
            self.dismiss_keeper();
        }
        Ok(self.preemption.into_farewell())
    }

    /// Waits that long at most, and serves what there is then.
    pub(crate) fn turn(&mut self, events: &mut Events, wait: Option<Duration>) -> io::Result<()> {
        match self.poll.poll(events, wait) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        let start = clock::now();
        for source in events.iter().filter_map(|event| Source::of(event.token())) {
            self.ready.add(source);
        }
        for _ in 0..self.ready.len().min(TURN_SOURCES_MAX) {
            let Some(source) = self.ready.take() else { break };
            self.serve(source);
        }
        self.fire_timers();
        let turn_us = u64::try_from(clock::since(start).as_micros()).unwrap_or(u64::MAX);
        self.metrics.turn_us_max = self.metrics.turn_us_max.max(turn_us);
        self.metrics.turn_backlog_max = self.metrics.turn_backlog_max.max(self.ready.len() as u64);
        Ok(())
    }

    /// Whether a shutdown is complete.
    pub(crate) fn is_over(&self) -> bool {
        let ended = |process: &crate::processes::Process| matches!(process.stage, Stage::Ended);
        let is_empty = self.workers.is_empty() && self.processes.entries.values().all(ended);
        self.shutting_down && (is_empty && self.swaps.is_quiet() || self.preemption.is_over())
    }

    fn serve(&mut self, source: Source) {
        match source {
            Source::Listener => self.accept_clients(),
            Source::Mail => self.read_mail(),
            Source::Keeper => self.hear_keeper(),
            Source::Signals => self.hear_signals(),
            Source::Client(key) => self.converse_with_client(key),
            Source::WorkerSocket(key) => self.converse_with_worker(key),
            Source::WorkerExit(key) => self.look_at_worker_exit(key),
            Source::WorkerOutput(key, stream) => self.read_output(key, stream),
        }
    }

    fn fire_timers(&mut self) {
        let now = clock::now();
        for _ in 0..TIMERS_TURN_MAX {
            let Some(timer) = self.timers.take_due(now) else { return };
            match timer {
                Timer::ClientHello(key) => self.client_hello_due(key),
                Timer::ClientStall(key) => self.client_stall_due(key),
                Timer::WorkerReady(key) => self.worker_ready_due(key),
                Timer::WorkerExit(key) => self.worker_exit_due(key),
                Timer::WorkerStall(key) => self.worker_stall_due(key),
                Timer::WorkerOutput(key, stream) => self.resume_output(key, stream),
                Timer::Replace(key) => self.replace_workers(key),
                Timer::Settle(key) => self.settle_again(key),
                Timer::Drain(key) => self.look_at_drain(key),
                Timer::Lane(key, lane) => self.opening_due(key, LaneId(lane)),
                Timer::MessageLane(key, slot) => self.message_lane_due(key, MessageLaneSlot(slot)),
                Timer::Fill(key) => self.fill_due(key),
                Timer::Doze(key) => self.doze_due(key),
                Timer::Away => self.away_due(),
                Timer::WakeUps => self.look_at_alarms(),
                Timer::OrphanedLanes => self.look_at_orphaned_lanes(),
                Timer::Connection(connection) => self.connection_due(connection),
                Timer::Claims => self.look_at_claims(),
                Timer::Growth(key) => self.growth_due(key),
                Timer::Idle => self.look_for_idle_workers(),
                Timer::Activity => self.look_at_activity(),
                Timer::Memory => self.measure_memory(),
                Timer::Watch => self.look_at_binaries(),
                Timer::Accept => self.ready.add(Source::Listener),
                Timer::Keeper => self.replace_keeper(None),
                Timer::Grace => self.grace_due(),
                Timer::ClientSession(session) => self.client_session_due(session),
            }
        }
    }

    /// What the network says, results of jobs, and orders of the handle.
    fn read_mail(&mut self) {
        self.hear_of_elsewhere();
        self.hear_of_sessions();
        for _ in 0..MAIL_TURN_MAX {
            if let Ok(result) = self.results.try_recv() {
                match result {
                    JobResult::Spawned { worker, result } => self.worker_spawned(worker, result),
                    JobResult::FilesSeen(seen) => self.files_seen(seen),
                    JobResult::Removed { key } => self.process_removed(key),
                    JobResult::Keeper(result) => self.keeper_started(result),
                    JobResult::Transfer(result) => self.transfer_ended(result),
                    JobResult::Log(news) => self.hear_of_log(news),
                }
            } else if let Ok(order) = self.orders.try_recv() {
                self.obey(order);
            } else {
                return;
            }
        }
        self.ready.add(Source::Mail);
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Shutdown => self.shut_down("it was told to end"),
            Order::Notice => self.shut_down("the host has given notice"),
            Order::NoticeTrouble(trouble) => {
                self.log.error(format_args!("the program that gives notice of the end does not work: {trouble}"));
            }
            Order::Metrics(answer) => {
                let _ = answer.send(self.metrics);
            }
            Order::Snapshot(answer) => {
                let _ = answer.send(self.snapshot());
            }
            Order::Signals(signals) => {
                if let Err(error) = self.watch(signals.as_fd(), Source::Signals, Interest::READABLE) {
                    self.log.error(format_args!("signals cannot be watched: {error}"));
                }
                self.signals = Some(signals);
                self.ready.add(Source::Signals);
            }
            Order::Keep { name, fd, done } => self.keep_descriptor(name, fd, Some(done)),
            Order::Kept { name, answer } => {
                let fd = self.keeping.held(&name).and_then(|fd| fd.try_clone().ok());
                let _ = answer.send(fd);
            }
        }
    }

    fn hear_signals(&mut self) {
        while let Some(Ok(Some(signal))) = self.signals.as_ref().map(SignalQueue::next) {
            if self.shutting_down {
                self.log.warning(format_args!("a second signal ({}): running calls are ended", signal.as_raw()));
                let keys: Vec<_> = self.processes.entries.keys().copied().collect();
                keys.into_iter().for_each(|key| self.kill_workers(key, "the server was told twice to end"));
            } else {
                self.shut_down(&format!("signal {}", signal.as_raw()));
            }
        }
    }

    /// Has the loop woken by `fd`.
    pub(crate) fn watch(&self, fd: BorrowedFd<'_>, source: Source, interest: Interest) -> io::Result<()> {
        self.poll.registry().register(&mut SourceFd(&fd.as_raw_fd()), source.token(), interest)
    }

    /// Ends that. To be called before a descriptor closes, because others may hold duplicates of it.
    pub(crate) fn unwatch(&self, fd: &impl AsFd) {
        // Fails when it was never watched.
        let _ = self.poll.registry().deregister(&mut SourceFd(&fd.as_fd().as_raw_fd()));
    }
}
