//! A server that its test turns by hand, in the test's own thread and by the test's clock.
//!
//! The loop is the real one: the same `Shard`, its real tables, timers, sockets and segments, and the real keeper beside
//! it. What threads and other OS processes do for it otherwise is done by whoever holds a [`SimulatedServer`], one step at a
//! time and in any order: starting workers, moving processes to storage and back, the keeper's answers, the passing of time. So a run
//! follows from the order of these steps, and a seed repeats it.
//!
//! 1. Nothing happens between two steps. A step never waits.
//! 2. A worker is whatever its test makes of the control socket that it is given. The server sees it alive until
//!    [`SimulatedServer::worker_ended`], as with an OS process, and [`SimulatedServer::killed`] tells whom it has killed: the test ends these.
//! 3. Dropping a server is its `kill -9`: it says farewell to nobody, and what storage has under way has happened or has not, as
//!    the test decides by carrying jobs out before.
//! 4. There is no network here, and no log: those are threads of their own.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use mio::{Events, Poll, Waker};
use praas_protocol::ProcessId;
use praas_storage::Backend;
use praas_sys::{MessageSocket, Pidfd, SandboxReport, Spawned};

use crate::clock;
use crate::data_directory::DataDirectory;
use crate::hosting::by_hand::{Task, Tasks};
use crate::hosting::{Hosting, Job, JobResult, SpawnJob, Started, WorkerDescriptors};
use crate::keeper::{Keeper, KeeperLink};
use crate::limits::POLL_EVENTS_MAX;
use crate::log::Log;
use crate::preemption::Farewell;
use crate::server::starting::{Ground, assemble, check_applications};
use crate::server::{Order, ServerOptions, StartError};
use crate::shard::Shard;
use crate::sources::Source;
use crate::swap::{HeldJob, HeldJobs, Transfers};
use crate::workers::WorkerKey;

/// The keeper of simulated servers, which outlives them.
pub struct SimulatedKeeper(Keeper);

impl SimulatedKeeper {
    /// One that holds nothing.
    ///
    /// # Errors
    /// When the system refuses a descriptor.
    pub fn new() -> io::Result<Self> {
        Keeper::by_hand().map(Self)
    }

    /// Does what there is for the keeper to do.
    ///
    /// # Errors
    /// When the system refuses the most basic calls.
    pub fn turn(&mut self) -> io::Result<()> {
        self.0.attend_now()
    }

    fn greet(&mut self) -> io::Result<KeeperLink> {
        let (ours, theirs) = MessageSocket::pair().map_err(|error| io::Error::other(error.to_string()))?;
        self.0.adopt(theirs)?;
        Ok(KeeperLink::over(ours))
    }
}

impl std::fmt::Debug for SimulatedKeeper {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("SimulatedKeeper")
    }
}

/// What the loop has asked of threads, and none has done yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// To start a worker.
    Spawn {
        /// The worker's number, unique in the life of this server.
        worker: usize,
        /// Its process.
        process: ProcessId,
    },
    /// To write a process to storage.
    Write,
    /// To write a process that goes on.
    Checkpoint,
    /// To read a process from storage.
    Read {
        /// The process.
        process: ProcessId,
    },
    /// To bring back what a worker of a process asks for.
    Fetch {
        /// The process.
        process: ProcessId,
    },
    /// To bring back the rest of a process.
    Fill,
    /// To remove what is stored of a process.
    Remove {
        /// The process.
        process: ProcessId,
    },
    /// To remove the working directory of a process.
    RemoveDirectory {
        /// The process.
        process: ProcessId,
    },
    /// To start another keeper.
    Keeper,
    /// Something that nobody waits for.
    Other,
}

impl Asked {
    /// Whether it asks something of storage in the order of one thread, in which it may fail.
    #[must_use]
    pub fn is_of_storage(&self) -> bool {
        match self {
            Self::Write | Self::Checkpoint | Self::Read { .. } | Self::Fetch { .. } | Self::Remove { .. } => true,
            Self::Spawn { .. } | Self::Fill | Self::RemoveDirectory { .. } | Self::Keeper | Self::Other => false,
        }
    }
}

enum Pending {
    Task(Task),
    Transfer(HeldJob),
}

impl Pending {
    fn asked(&self) -> Asked {
        match self {
            Self::Task(Task::Spawn(job)) => Asked::Spawn { worker: job.worker.0, process: job.process },
            Self::Task(Task::Job(Job::Remove { process, .. })) => Asked::RemoveDirectory { process: *process },
            Self::Task(Task::Job(Job::Keeper(_))) => Asked::Keeper,
            Self::Task(Task::Job(Job::Clear(_) | Job::LookAtFiles(_) | Job::FillDirectories)) => Asked::Other,
            Self::Transfer(job) => job.asked(),
        }
    }
}

/// The write of a process that a server has begun and did not live to hear of: it may happen while others own the process.
pub struct LateWrite {
    /// The process.
    pub process: ProcessId,
    /// Whether the process went on.
    pub is_checkpoint: bool,
    job: HeldJob,
    backend: Arc<dyn Backend>,
}

impl LateWrite {
    /// Has it happen, or fail.
    pub fn carry_out(self) {
        drop(self.job.carry_out(&self.backend));
    }
}

impl std::fmt::Debug for LateWrite {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("LateWrite").field("process", &self.process).finish_non_exhaustive()
    }
}

/// What the host would hold of a worker's OS process.
struct Body {
    /// Its end closes when the worker ends: the other is watched in the place of a pidfd.
    _life: OwnedFd,
    /// What a worker holds for the keeper.
    _pipe: OwnedFd,
}

/// A server by hand; see the module's text.
pub struct SimulatedServer {
    shard: Shard,
    events: Events,
    tasks: Receiver<Task>,
    transfers: Option<HeldJobs>,
    pending: VecDeque<Pending>,
    results: Sender<JobResult>,
    waker: Arc<Waker>,
    orders: Sender<Order>,
    bodies: BTreeMap<WorkerKey, Body>,
}

impl std::fmt::Debug for SimulatedServer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("SimulatedServer").field("pending", &self.asked()).finish_non_exhaustive()
    }
}

impl SimulatedServer {
    /// A server on a data directory, with what `keeper` holds. No worker of an earlier one may be left.
    ///
    /// # Errors
    /// [`StartError`], as of [`crate::Server::start`].
    pub fn start(options: &ServerOptions, keeper: &mut SimulatedKeeper) -> Result<Self, StartError> {
        let host = |what: &'static str| move |error: io::Error| StartError::host(what, &error);
        let applications = check_applications(options)?;
        let data = Arc::new(DataDirectory::open(&options.data_directory)?);
        let secret = data.secret()?;
        // Those of an earlier server are seen to be gone.
        keeper.turn().map_err(host("turning the keeper"))?;
        let held = keeper.0.hand_over().map_err(host("taking over"))?;
        let held = held.ok_or_else(|| StartError::host("taking over", &"workers of an earlier server are left"))?;
        let link = keeper.greet().map_err(host("greeting the keeper"))?;
        let poll = Poll::new().map_err(host("creating the poll"))?;
        let waker = Waker::new(poll.registry(), Source::Mail.token()).map_err(host("creating the waker"))?;
        let waker = Arc::new(waker);
        let (results_in, results) = channel();
        let (orders_in, orders) = channel();
        let (tasks_in, tasks) = channel();
        let (transfers, jobs) = options.storage.as_ref().map(|backend| Transfers::by_hand(Arc::clone(backend))).unzip();
        let ground = Ground {
            log: Log { most: options.log_level },
            applications,
            open_files: crate::server::raise_open_files(),
            data,
            secret,
            gives_users: false,
            poll,
            waker: Arc::clone(&waker),
            hosting: Hosting::ByHand(Tasks(tasks_in)),
            durabilities: None,
            transfers,
            link,
            held,
            orders,
            results,
        };
        Ok(Self {
            shard: assemble(options, ground)?,
            events: Events::with_capacity(POLL_EVENTS_MAX),
            tasks,
            transfers: jobs,
            pending: VecDeque::new(),
            results: results_in,
            waker,
            orders: orders_in,
            bodies: BTreeMap::new(),
        })
    }

    /// One turn of the loop.
    ///
    /// # Errors
    /// When the system refuses to wait.
    pub fn turn(&mut self) -> io::Result<()> {
        self.shard.turn(&mut self.events, Some(Duration::ZERO))?;
        self.pending.extend(self.tasks.try_iter().map(Pending::Task));
        if let Some(jobs) = &self.transfers {
            self.pending.extend(jobs.begun().map(Pending::Transfer));
        }
        Ok(())
    }

    /// How long nothing happens by time alone; `None` if that is for ever.
    #[must_use]
    pub fn next_timer(&self) -> Option<Duration> {
        self.shard.timers.wait(clock::now())
    }

    /// What is to be done, in the order in which it was asked for.
    #[must_use]
    pub fn asked(&self) -> Vec<Asked> {
        self.pending.iter().map(Pending::asked).collect()
    }

    /// Does the `index`th of what is asked, and tells the loop. Of a worker that was to be started: its control socket.
    ///
    /// # Panics
    /// If there are fewer.
    ///
    /// # Errors
    /// When the system refuses a pipe or a socket.
    pub fn carry_out(&mut self, index: usize, keeper: &mut SimulatedKeeper) -> io::Result<Option<OwnedFd>> {
        let pending = self.pending.remove(index).expect("it is asked for");
        let mut socket = None;
        let result = match pending {
            Pending::Task(Task::Spawn(job)) => {
                let (result, given) = self.spawn(&job)?;
                socket = given;
                Some(result)
            }
            Pending::Task(Task::Job(Job::Remove { key, .. })) => Some(JobResult::Removed { key }),
            Pending::Task(Task::Job(Job::Keeper(old))) => {
                drop(old);
                Some(JobResult::Keeper(Ok(keeper.greet()?)))
            }
            Pending::Task(Task::Job(Job::Clear(_) | Job::LookAtFiles(_) | Job::FillDirectories)) => None,
            Pending::Transfer(job) => {
                let jobs = self.transfers.as_ref().expect("transfers come with storage");
                Some(JobResult::Transfer(job.carry_out(jobs.backend())))
            }
        };
        result.into_iter().for_each(|result| self.tell(result));
        Ok(socket)
    }

    /// A worker that was to be started cannot be.
    ///
    /// # Panics
    /// If the `index`th of what is asked is something else.
    pub fn refuse_spawn(&mut self, index: usize) {
        let Some(Pending::Task(Task::Spawn(job))) = self.pending.remove(index) else {
            panic!("it is not the start of a worker");
        };
        self.tell(JobResult::Spawned { worker: job.worker, result: Err("the simulated host is full".into()) });
    }

    fn tell(&self, result: JobResult) {
        if self.results.send(result).is_ok() {
            let _ = self.waker.wake();
        }
    }

    fn spawn(&mut self, job: &SpawnJob) -> io::Result<(JobResult, Option<OwnedFd>)> {
        let worker = job.worker;
        let Ok(WorkerDescriptors { socket, pipe }) = job.descriptors.try_recv() else {
            return Ok((JobResult::Spawned { worker, result: Err("it is no longer wanted".into()) }, None));
        };
        // A handle that is readable when the worker has ended, as a pidfd is.
        let (seen, life) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        self.bodies.insert(worker, Body { _life: life, _pipe: pipe });
        let spawned = Spawned {
            pidfd: Pidfd::from(seen),
            pid: u32::try_from(worker.0).unwrap_or(u32::MAX),
            stdout: None,
            stderr: None,
            report: SandboxReport::default(),
        };
        let result = Ok(Started { spawned, cgroup: None });
        Ok((JobResult::Spawned { worker, result }, Some(socket)))
    }

    /// Of which life of its process a worker that was asked for is, and its tag: index and generation.
    #[must_use]
    pub fn life_of(&self, worker: usize) -> Option<(u64, (u8, u16))> {
        let worker = self.shard.workers.get(&WorkerKey(worker))?;
        let memory = self.shard.processes.get(worker.process)?.memory.as_ref()?;
        Some((memory.incarnation(), (worker.index, worker.generation)))
    }

    /// Workers that the server has killed, and that have not ended yet.
    #[must_use]
    pub fn killed(&self) -> Vec<usize> {
        let is_killed =
            |key: &&WorkerKey| self.shard.workers.get(*key).is_none_or(|worker| worker.end_reason.is_some());
        self.bodies.keys().filter(is_killed).map(|key| key.0).collect()
    }

    /// A worker has ended, by whatever death. Its control socket is closed.
    pub fn worker_ended(&mut self, worker: usize) {
        self.bodies.remove(&WorkerKey(worker));
    }

    /// Whether a process sleeps.
    #[must_use]
    pub fn sleeps(&self, process: &ProcessId) -> bool {
        self.shard.processes.swapped.get(process).is_some_and(|swapped| swapped.sleeps())
    }

    /// Whether a process is in memory.
    #[must_use]
    pub fn has_in_memory(&self, process: &ProcessId) -> bool {
        self.shard.processes.by_id.contains_key(process)
    }

    /// The `kill -9` of a server whose host is cut off rather than gone: what it was about to write is still under way.
    #[must_use]
    pub fn cut_off(self) -> Vec<LateWrite> {
        late_writes(self.pending, self.transfers)
    }

    /// Begins a clean end within so much time.
    pub fn shut_down_within(&mut self, grace: Duration) {
        self.shard.preemption.set_grace(grace);
        self.shut_down();
    }

    /// How a clean end went, and what its threads had still in hand then: they have no storage any more.
    #[must_use]
    pub fn farewell(self) -> (Farewell, Vec<LateWrite>) {
        let Self { shard, pending, transfers, .. } = self;
        (shard.preemption.into_farewell(), late_writes(pending, transfers))
    }

    /// Begins a clean end.
    pub fn shut_down(&mut self) {
        if self.orders.send(Order::Shutdown).is_ok() {
            let _ = self.waker.wake();
        }
    }

    /// Whether a clean end is complete.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.shard.is_over()
    }

    /// Where clients connect.
    #[must_use]
    pub fn socket_path(&self) -> PathBuf {
        self.shard.data.socket_path()
    }

    /// What is counted.
    #[must_use]
    pub fn metrics(&self) -> crate::Metrics {
        self.shard.metrics
    }
}

/// The writes among what is under way.
fn late_writes(pending: VecDeque<Pending>, jobs: Option<HeldJobs>) -> Vec<LateWrite> {
    let Some(jobs) = jobs else { return Vec::new() };
    let writes = pending.into_iter().filter_map(|pending| match pending {
        Pending::Transfer(job) => Some(LateWrite {
            process: job.writes()?,
            is_checkpoint: job.asked() == Asked::Checkpoint,
            job,
            backend: Arc::clone(jobs.backend()),
        }),
        Pending::Task(_) => None,
    });
    writes.collect()
}
