//! What the loop must not do itself because it may block: starting workers, removing directories, starting a keeper.
//!
//! Three threads of bounded queues: the spawner's, one that clears away, so that a tenant's millions of files cannot delay
//! another's start, and one that waits for keepers. Results come back over a channel, followed by a wake of the loop.
//!
//! A worker's directory and sandbox are made while the loop still makes its sockets and pages: both are on the way to its
//! first call, and most hosts have more than one core. So a directory may be made for a worker that is given up meanwhile,
//! and its removal goes through the spawner's queue, behind whatever may make it.

#[cfg(any(test, feature = "simulation"))]
pub(crate) mod by_hand;
mod ready_directories;

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use mio::Waker;
use praas_protocol::ProcessId;
use praas_protocol::limits::PROCESSES_MAX;
use praas_storage::snapshot::remove_directory;
use praas_sys::{
    Cgroup, CgroupLimits, CgroupRoot, Output, ResourceLimits, SandboxPlan, SpawnRequest, Spawned, Spawner, WorkerUser,
    Workshop,
};

use crate::application::{Application, Network};
use crate::data_directory::DataDirectory;
use crate::files::measuring::{FilesLook, FilesSeen};
use crate::files::open_for_worker;
use crate::keeper::KeeperError;
use crate::keeper::link::{KeeperLink, KeeperPlan};
use crate::limits::WORKER_PROCESSES_MAX;
use crate::log::Log;
use crate::processes::ProcessKey;
use crate::workers::WorkerKey;
use ready_directories::ReadyDirectories;

/// Number of the control socket in a worker.
const WORKER_SOCKET_FD: i32 = 3;

/// Number of the pipe to the keeper in a worker.
const WORKER_PIPE_FD: i32 = 4;

/// Number of the files directory in a worker that has one. Programs that it starts have it too.
const WORKER_FILES_FD: i32 = 5;

/// The same as a path: that of the directory itself leads through others that a worker may not enter.
pub(crate) const WORKER_FILES_PATH: &str = "/proc/self/fd/5";

/// Tells a program that it runs as a worker.
const WORKER_VARIABLE: &str = "PRAAS_WORKER";

/// Jobs of the keeper's thread: there is one keeper, and another is started when that is known to be dead.
const KEEPER_JOBS_MAX: usize = 4;

/// How long a worker that is being started waits for its descriptors. The loop makes them in the same turn in which it asks
/// for the worker, or lets go of the other end.
const DESCRIPTORS_MAX: Duration = Duration::from_secs(10);

/// What is to be done.
pub(crate) enum Job {
    /// Clear away what a worker left: dropping its cgroup waits for it to be empty.
    Clear(Arc<Cgroup>),
    /// Remove the working directory of a process that has no workers any more, and its files directory if that is given.
    Remove { key: ProcessKey, process: ProcessId, files: Option<PathBuf> },
    /// Look at the files of a process.
    LookAtFiles(FilesLook),
    /// Make working directories ahead.
    FillDirectories,
    /// Start a keeper in the place of a dead one.
    Keeper(Option<KeeperLink>),
}

/// A worker to be started.
pub(crate) struct SpawnJob {
    pub(crate) worker: WorkerKey,
    pub(crate) process: ProcessId,
    pub(crate) application: Arc<Application>,
    /// Uid and gid of its own, when the server can give one.
    pub(crate) user: Option<u32>,
    /// The files directory, if its application has one.
    pub(crate) files: Option<PathBuf>,
    pub(crate) descriptors: Receiver<WorkerDescriptors>,
}

/// What a worker inherits.
pub(crate) struct WorkerDescriptors {
    pub(crate) socket: OwnedFd,
    pub(crate) pipe: OwnedFd,
}

/// A started worker.
pub(crate) struct Started {
    pub(crate) spawned: Spawned,
    pub(crate) cgroup: Option<Arc<Cgroup>>,
}

/// What came of a job.
pub(crate) enum JobResult {
    Spawned {
        worker: WorkerKey,
        result: Result<Started, String>,
    },
    Removed {
        key: ProcessKey,
    },
    Keeper(Result<KeeperLink, KeeperError>),
    FilesSeen(FilesSeen),
    /// Of the threads that move processes to storage and back.
    Transfer(crate::swap::TransferResult),
    /// Not a job's: news of the log of a process.
    Log(crate::durability::LogNews),
}

/// What the threads share.
struct Site {
    data: Arc<DataDirectory>,
    cgroups: Arc<CgroupRoot>,
    strict: bool,
    keeper: KeeperPlan,
    log: Log,
    results: Sender<JobResult>,
    waker: Arc<Waker>,
    directories: ReadyDirectories,
}

/// Who does it.
pub(crate) enum Hosting {
    /// Threads of this server.
    Threads(HostingThreads),
    /// A test, when it likes.
    #[cfg(any(test, feature = "simulation"))]
    ByHand(by_hand::Tasks),
}

/// The threads. Dropping it waits for them, and ends all workers with the spawner.
pub(crate) struct HostingThreads {
    keeper: Option<SyncSender<Job>>,
    clear: Option<SyncSender<Job>>,
    threads: Vec<JoinHandle<()>>,
    spawner: Spawner,
    site: Arc<Site>,
}

/// What the threads need to know.
pub(crate) struct HostingPlan {
    pub(crate) data: Arc<DataDirectory>,
    pub(crate) spawner: Spawner,
    pub(crate) cgroups: Arc<CgroupRoot>,
    pub(crate) strict: bool,
    pub(crate) keeper: KeeperPlan,
    pub(crate) log: Log,
}

impl Hosting {
    /// Starts the threads. They write to `results` and then wake `waker`.
    pub(crate) fn start(plan: HostingPlan, results: Sender<JobResult>, waker: Arc<Waker>) -> std::io::Result<Self> {
        Ok(Self::Threads(HostingThreads::start(plan, results, waker)?))
    }

    /// Queues the start of a worker; the error says why not.
    pub(crate) fn spawn(&self, job: SpawnJob) -> Result<(), String> {
        match self {
            Self::Threads(threads) => threads.spawn(job),
            #[cfg(any(test, feature = "simulation"))]
            Self::ByHand(tasks) => tasks.spawn(job),
        }
    }

    /// Has working directories made ahead if few are left. For when nobody waits for a worker.
    pub(crate) fn prepare_directories(&self) {
        match self {
            Self::Threads(threads) => threads.prepare_directories(),
            #[cfg(any(test, feature = "simulation"))]
            Self::ByHand(_) => {}
        }
    }

    /// Queues the removal of the working directory of a process without workers, and of its files directory if that is given; false
    /// if there is no room for it.
    pub(crate) fn remove(&self, key: ProcessKey, process: ProcessId, files: Option<PathBuf>) -> bool {
        match self {
            Self::Threads(threads) => threads.remove(key, process, files),
            #[cfg(any(test, feature = "simulation"))]
            Self::ByHand(tasks) => tasks.submit(Job::Remove { key, process, files }).is_ok(),
        }
    }

    /// Queues a job; gives it back when the queue is full.
    pub(crate) fn submit(&self, job: Job) -> Result<(), Job> {
        match self {
            Self::Threads(threads) => threads.submit(job),
            #[cfg(any(test, feature = "simulation"))]
            Self::ByHand(tasks) => tasks.submit(job),
        }
    }
}

impl HostingThreads {
    /// Starts the threads. They write to `results` and then wake `waker`.
    fn start(plan: HostingPlan, results: Sender<JobResult>, waker: Arc<Waker>) -> std::io::Result<Self> {
        let HostingPlan { data, spawner, cgroups, strict, keeper, log } = plan;
        let site = Arc::new(Site {
            data,
            cgroups,
            strict,
            keeper,
            log,
            results,
            waker,
            directories: ReadyDirectories::default(),
        });
        let mut threads = Vec::new();
        let mut thread = |name: &str, jobs_max: usize| {
            let (sender, jobs) = sync_channel(jobs_max);
            let site = Arc::clone(&site);
            threads.push(std::thread::Builder::new().name(name.to_owned()).spawn(move || site.work(&jobs))?);
            Ok::<_, std::io::Error>(Some(sender))
        };
        let (keeper, clear) = (thread("praas-keeping", KEEPER_JOBS_MAX)?, thread("praas-clear", 2 * PROCESSES_MAX)?);
        Ok(Self { keeper, clear, threads, spawner, site })
    }

    /// Queues the start of a worker; the error says why not.
    fn spawn(&self, job: SpawnJob) -> Result<(), String> {
        let site = Arc::clone(&self.site);
        let task = move |workshop: &mut Workshop| {
            let worker = job.worker;
            site.tell(JobResult::Spawned { worker, result: site.spawn(&job, workshop) });
        };
        self.spawner.run(task).map_err(|error| error.to_string())
    }

    /// Has working directories made ahead if few are left. For when nobody waits for a worker.
    fn prepare_directories(&self) {
        if self.site.directories.are_few() {
            // A full queue has removals in it, which fill as well.
            let _ = self.submit(Job::FillDirectories);
        }
    }

    /// Queues the removal of a process's directories; false if there is no room for it.
    fn remove(&self, key: ProcessKey, process: ProcessId, files: Option<PathBuf>) -> bool {
        let Some(clear) = self.clear.clone() else { return false };
        let site = Arc::clone(&self.site);
        let task = move |_: &mut Workshop| {
            if let Err(TrySendError::Full(job)) = clear.try_send(Job::Remove { key, process, files }) {
                // The queue holds as many as there can be processes. Late is better than never told.
                site.carry_out(job);
            }
        };
        self.spawner.run(task).is_ok()
    }

    /// Queues a job; gives it back when the queue is full.
    fn submit(&self, job: Job) -> Result<(), Job> {
        let queue = match job {
            Job::Keeper(_) => &self.keeper,
            Job::Clear(_) | Job::Remove { .. } | Job::LookAtFiles(_) | Job::FillDirectories => &self.clear,
        };
        match queue.as_ref().map(|queue| queue.try_send(job)) {
            None | Some(Ok(())) => Ok(()),
            Some(Err(TrySendError::Full(job) | TrySendError::Disconnected(job))) => Err(job),
        }
    }
}

impl Drop for HostingThreads {
    fn drop(&mut self) {
        (self.keeper, self.clear) = (None, None);
        for thread in self.threads.drain(..) {
            // A panic there was printed by the panic hook; here it is only the end.
            let _ = thread.join();
        }
        self.site.directories.clear();
    }
}

impl Site {
    fn work(&self, jobs: &Receiver<Job>) {
        while let Ok(job) = jobs.recv() {
            self.carry_out(job);
        }
    }

    fn carry_out(&self, job: Job) {
        match job {
            Job::Clear(cgroup) => drop(cgroup),
            Job::Remove { key, process, files } => {
                if let Err(error) = self.data.remove_run_path(&process) {
                    self.log.warning(format_args!("the working directory of {process} stays: {error}"));
                }
                if let Some(Err(error)) = files.map(|files| remove_directory(&files)) {
                    self.log.warning(format_args!("files of {process} stay until the next server starts: {error}"));
                }
                self.tell(JobResult::Removed { key });
                self.fill_directories();
            }
            Job::LookAtFiles(look) => self.tell(JobResult::FilesSeen(look.carry_out())),
            Job::FillDirectories => self.fill_directories(),
            Job::Keeper(old) => {
                if let Some(old) = old {
                    old.reap();
                }
                self.tell(JobResult::Keeper(KeeperLink::start(&self.keeper, self.data.lock_fd())));
            }
        }
    }

    fn fill_directories(&self) {
        // Without them, each worker's directory is made when it is wanted, and a failure told then.
        let _ = self.directories.fill(&self.data.run_directory());
    }

    fn tell(&self, result: JobResult) {
        if self.results.send(result).is_ok() {
            // Fails only when the loop is gone.
            let _ = self.waker.wake();
        }
    }

    fn spawn(&self, job: &SpawnJob, workshop: &mut Workshop) -> Result<Started, String> {
        let directory = self.working_directory(&job.process).map_err(|error| format!("working directory: {error}"))?;
        if let Some(user) = job.user {
            std::os::unix::fs::lchown(&directory, Some(user), Some(user))
                .map_err(|error| format!("giving away the working directory: {error}"))?;
        }
        let mut plan = worker_plan(&job.application, directory, job.user, self.strict);
        let files = job.files.as_ref().map(|path| open_for_worker(path, job.user)).transpose()?;
        plan.read_write.extend(job.files.clone());
        // Prepared for each worker anew: the program may have been rebuilt since the last.
        let sandbox = plan.prepare(Some(&self.cgroups)).map_err(|error| error.to_string())?;
        let cgroup = self.cgroup(&job.application);
        let descriptors = job.descriptors.recv_timeout(DESCRIPTORS_MAX);
        let WorkerDescriptors { socket, pipe } = descriptors.map_err(|_| "it is no longer wanted".to_owned())?;
        let request = SpawnRequest {
            arguments: job.application.arguments.iter().map(OsString::from).collect(),
            environment: environment(&job.application),
            fds: [(socket, WORKER_SOCKET_FD), (pipe, WORKER_PIPE_FD)]
                .into_iter()
                .chain(files.map(|files| (files, WORKER_FILES_FD)))
                .collect(),
            sandbox,
            cgroup: cgroup.clone(),
            output: Output::Capture,
        };
        let spawned = workshop.spawn(request).map_err(|error| error.to_string())?;
        Ok(Started { spawned, cgroup })
    }

    /// The working directory of a process, unless its other workers have it already.
    fn working_directory(&self, process: &ProcessId) -> std::io::Result<PathBuf> {
        let path = self.data.run_path(process);
        if self.directories.place(&path) { Ok(path) } else { self.data.create_run_path(process) }
    }

    /// A cgroup for a worker, where its application sets limits that the host can keep. What is lacking was reported at start.
    fn cgroup(&self, application: &Application) -> Option<Arc<Cgroup>> {
        let controllers = self.cgroups.controllers();
        let limits = CgroupLimits {
            memory_bytes: application.limits.memory_bytes.filter(|_| controllers.memory),
            pids: application.limits.processes.filter(|_| controllers.pids),
            cpu_millicores: None,
        };
        if limits == CgroupLimits::default() {
            return None;
        }
        match self.cgroups.create(&limits) {
            Ok(cgroup) => Some(Arc::new(cgroup)),
            Err(error) => {
                self.log.warning(format_args!("a worker of {} runs without its limits: {error}", application.name));
                None
            }
        }
    }
}

/// The sandbox of an application's workers.
pub(crate) fn worker_plan(
    application: &Application,
    directory: PathBuf,
    user: Option<u32>,
    strict: bool,
) -> SandboxPlan {
    let mut plan = SandboxPlan::new(application.binary.clone(), directory);
    plan.network = match application.network {
        Network::None => praas_sys::Network::None,
        Network::Host => praas_sys::Network::Host,
    };
    plan.user = match user {
        Some(id) => WorkerUser::Private { uid: id, gid: id },
        None => WorkerUser::Same,
    };
    let limits = &application.limits;
    // The kernel counts by user, and all workers of a process are one.
    let processes = limits.processes.unwrap_or(WORKER_PROCESSES_MAX).saturating_mul(application.workers_max.into());
    plan.limits =
        ResourceLimits { open_files: limits.open_files, address_space_bytes: None, processes: Some(processes) };
    plan.read_only.clone_from(&application.readable);
    plan.strict = strict;
    plan
}

/// The whole environment of a worker: nothing is inherited.
fn environment(application: &Application) -> Vec<(OsString, OsString)> {
    let own = application.environment.iter().map(|(key, value)| (key.into(), value.into()));
    own.chain([(WORKER_VARIABLE.into(), "1".into())]).collect()
}
