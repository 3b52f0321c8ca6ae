//! Starting workers.
//!
//! A [`Spawner`] is a thread that lives as long as the value does: the kernel kills a worker when the *thread* that
//! spawned it exits, so workers must not be spawned by threads that come and go. Dropping the spawner kills its workers.
//!
//! A worker gets exactly the descriptors, the environment and the working directory named for it, and nothing
//! else of this process. A child that cannot become its worker reports the step and the error, and is reaped here.

mod error;
mod prepared;

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::fs::{Mode, OFlags, open};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::cgroup::Cgroup;
use crate::clone::{ChildStack, Cloned};
use crate::landlock::SystemFiles;
use crate::pidfd::Pidfd;
use crate::sandbox::{Sandbox, SandboxReport};
pub use error::{SpawnError, Step};

/// Tasks that may wait for the spawner: every process of a full server at once, twice. Each takes under a millisecond.
pub const SPAWN_QUEUE_MAX: usize = 32 * 1024;
/// Highest descriptor number that a request may name.
pub const FD_TARGET_MAX: i32 = 63;
/// How long a failed child, which has exited already, may take to be reaped.
const REAP: Duration = Duration::from_secs(5);

/// What becomes of a worker's standard output and error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Pipes, whose read ends come with [`Spawned`].
    Capture,
    /// This process's own.
    Inherit,
    /// Nowhere.
    Discard,
}

/// A worker to start. Its program and working directory are those of its sandbox; its standard input is empty.
#[derive(Debug)]
pub struct SpawnRequest {
    /// Arguments after the program's name.
    pub arguments: Vec<OsString>,
    /// The whole environment.
    pub environment: Vec<(OsString, OsString)>,
    /// Descriptors to hand over with the numbers they get, 3 to [`FD_TARGET_MAX`], each once. They are closed here after
    /// the spawn.
    pub fds: Vec<(OwnedFd, i32)>,
    /// How it is confined.
    pub sandbox: Arc<Sandbox>,
    /// Which cgroup it is started in.
    pub cgroup: Option<Arc<Cgroup>>,
    /// Its standard output and error.
    pub output: Output,
}

/// A worker that runs.
#[derive(Debug)]
pub struct Spawned {
    /// Its handle. Its end must be waited for through this by this process.
    pub pidfd: Pidfd,
    /// Its number, for people.
    pub pid: u32,
    /// Read end of its standard output, non-blocking, if captured.
    pub stdout: Option<OwnedFd>,
    /// Read end of its standard error, non-blocking, if captured.
    pub stderr: Option<OwnedFd>,
    /// What it is confined by.
    pub report: SandboxReport,
}

type Task = Box<dyn FnOnce(&mut Workshop) + Send>;

/// The thread that starts workers.
#[derive(Debug)]
pub struct Spawner {
    tasks: Option<SyncSender<Task>>,
    thread: Option<JoinHandle<()>>,
}

impl Spawner {
    /// Starts the thread.
    pub fn start() -> Result<Self, SpawnError> {
        let workshop = Workshop::new()?;
        let (tasks, queue) = sync_channel(SPAWN_QUEUE_MAX);
        let thread = std::thread::Builder::new()
            .name("praas-spawner".to_owned())
            .spawn(move || workshop.serve(&queue))
            .map_err(|error| SpawnError::NoThread { reason: error.to_string() })?;
        Ok(Self { tasks: Some(tasks), thread: Some(thread) })
    }

    /// Starts a worker and waits until it runs.
    pub fn spawn(&self, request: SpawnRequest) -> Result<Spawned, SpawnError> {
        let (answer, result) = sync_channel(1);
        self.run(move |workshop| drop(answer.send(workshop.spawn(request))))?;
        // Bounded by the queue ahead: the thread runs every task it takes, and dropping a task drops the sender.
        result.recv().map_err(|_| SpawnError::SpawnerGone)?
    }

    /// Has the thread run `task`, which starts workers with what it is given, without waiting for it. Others wait behind
    /// it, so that it must not take long.
    pub fn run(&self, task: impl FnOnce(&mut Workshop) + Send + 'static) -> Result<(), SpawnError> {
        let tasks = self.tasks.as_ref().ok_or(SpawnError::SpawnerGone)?;
        tasks.try_send(Box::new(task)).map_err(|refused| match refused {
            TrySendError::Full(_) => SpawnError::QueueFull { limit: SPAWN_QUEUE_MAX },
            TrySendError::Disconnected(_) => SpawnError::SpawnerGone,
        })
    }
}

impl Drop for Spawner {
    fn drop(&mut self) {
        drop(self.tasks.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What the thread owns: all that starting a worker needs besides its request.
#[derive(Debug)]
pub struct Workshop {
    stack: ChildStack,
    null: OwnedFd,
    system: SystemFiles,
    /// A pipe that nobody writes to: a child whose read end is hung up has lost this process.
    liveness_read: OwnedFd,
    liveness_write: OwnedFd,
}

impl Workshop {
    fn new() -> Result<Self, SpawnError> {
        let failed = |what| move |errno| SpawnError::Prepare { what, errno };
        let null =
            open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(failed("open /dev/null"))?;
        let (read, write) = pipe_with(PipeFlags::CLOEXEC).map_err(failed("make a pipe"))?;
        Ok(Self {
            stack: ChildStack::new().map_err(failed("map a stack"))?,
            null: above_targets(null.as_fd()).map_err(failed("duplicate a descriptor"))?,
            system: SystemFiles::open(),
            liveness_read: above_targets(read.as_fd()).map_err(failed("duplicate a descriptor"))?,
            liveness_write: above_targets(write.as_fd()).map_err(failed("duplicate a descriptor"))?,
        })
    }

    fn serve(mut self, queue: &Receiver<Task>) {
        while let Ok(task) = queue.recv() {
            // A caller's panic must not end this thread: that would kill every worker.
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| task(&mut self)));
        }
    }

    /// Starts a worker. The descriptors that it is handed are closed here when this returns.
    #[expect(clippy::needless_pass_by_value, reason = "its descriptors close here")]
    pub fn spawn(&mut self, request: SpawnRequest) -> Result<Spawned, SpawnError> {
        let request = &request;
        let prepared = prepared::Prepared::new(request, self.null.as_fd(), &self.system)?;
        let liveness = (self.liveness_read.as_fd(), self.liveness_write.as_fd());
        let (cloned, failure) = prepared.clone_child(request, liveness, &mut self.stack)?;
        let Cloned { pid, pidfd } = cloned;
        let pidfd = Pidfd::from(pidfd);
        if let Some((step, errno)) = failure {
            let _ = pidfd.wait_deadline(REAP);
            return Err(SpawnError::Child { program: request.sandbox.program().to_owned(), step, errno });
        }
        let report = request.sandbox.report().clone();
        let (stdout, stderr) = prepared.into_outputs();
        Ok(Spawned { pidfd, pid, stdout, stderr, report })
    }
}

/// A duplicate whose number no target can have, so that numbering descriptors in the child never overwrites a source.
pub(crate) fn above_targets(fd: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    fcntl_dupfd_cloexec(fd, FD_TARGET_MAX + 1)
}
