//! The threads that move processes between memory and storage, so that the loop never waits for a disk or a network.
//!
//! A job has everything that it needs; what comes of it goes over the channel on which all helpers of the loop report, followed
//! by a wake of the loop. There is one job at a time for a process, beside those that bring objects back. Each operation of a
//! backend has a deadline of its own, so a job ends, and so does the drop of this, which waits for the jobs under way, unless they
//! were abandoned. One that panics is a job that failed: its thread goes on with the next.
//!
//! There are three queues, each with threads of its own: whole processes, what workers wait for inside a call, and what comes
//! back in the background. However slow storage is for one of them, the others go on.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use mio::Waker;
use praas_protocol::ProcessId;
use praas_protocol::control::{StateNotFetched, StateWanted};
use praas_shm::objects::Objects;
use praas_storage::snapshot::{Removed, Snapshot, remove_directory};
use praas_storage::{Backend, Folder, Owner};

use super::filling::{FillEnd, Filling};
use super::finding::find;
use super::reading::{NotRead, ReadJob, Returned};
use super::removing::{Mine, Removal, collect, remove};
use super::revocable::Revocable;
use super::starting::Found;
use super::usage::{UsageFound, UsageJob};
use super::writing::WriteJob;
use crate::durability::{DiskLog, LogStore};
use crate::hosting::JobResult;
use crate::processes::ProcessKey;
use crate::workers::WorkerKey;

/// Threads, and so processes that are moved at once: storage is kept busy by the threads that each job has of its own, so
/// these are only as many as keep one slow process from delaying all others.
pub(crate) const TRANSFER_THREADS: usize = 4;

/// Threads for what workers wait for: each reads one object or page. As many calls at once have theirs from a bucket at its
/// latency, and a disk is busy with fewer.
const FETCHING_THREADS: usize = 8;

/// Threads for the background, and so processes that are filled at once; each has helpers of its own. Others wait: nobody needs
/// them to be whole.
const FILLING_THREADS: usize = 2;

/// What is to be done.
#[derive(Debug)]
pub(super) enum Job {
    /// Write a process whose workers have ended.
    Write { key: ProcessKey, job: Box<WriteJob> },
    /// Write a process that goes on.
    Checkpoint { key: ProcessKey, job: Box<WriteJob> },
    /// Read a process that sleeps.
    Read { process: ProcessId, job: Box<ReadJob> },
    /// Remove what is stored of a process: of one in memory, if a key is given.
    Remove {
        /// Where.
        folder: Folder,
        /// Whose, if it is in memory.
        key: Option<ProcessKey>,
        /// What another server has claimed stays.
        mine: Mine,
        /// Of one that sleeps: where its log is.
        log: Option<DiskLog>,
    },
    /// Look for a process that this server does not know.
    Find { process: ProcessId },
    /// Remove what seemed to be of nobody when the server started.
    Collect { folder: Folder, owner: Owner },
    /// Remove a log that nobody needs.
    RemoveLog { folder: Folder, log: DiskLog },
    /// Look up what is stored.
    Usage(UsageJob),
    /// Bring back what a worker has asked for.
    Fetch { process: ProcessKey, worker: WorkerKey, request: u32, wanted: StateWanted, filling: Arc<Filling> },
    /// Bring back the rest of a process.
    Fill { key: ProcessKey, filling: Arc<Filling> },
    /// Let go of memory, and then of the files: a large state takes the kernel longer than the loop may wait.
    Release { objects: Arc<Objects>, files: Option<PathBuf> },
}

/// What came of a job.
#[derive(Debug)]
pub(crate) enum TransferResult {
    /// A process was written, or not.
    Written { key: ProcessKey, written: Box<Result<Written, String>> },
    /// A process that goes on was written, or not.
    Checkpointed { key: ProcessKey, written: Box<Result<Written, String>> },
    /// A process was read, or not.
    Read { process: ProcessId, read: Box<Result<Returned, NotRead>> },
    /// What was stored of a process is gone, or not.
    Removed { folder: Folder, key: Option<ProcessKey>, removed: Result<Removal, String> },
    /// A process was looked for: what is stored of it, if anything is.
    LookedFor { process: ProcessId, found: Result<Option<(Folder, Found)>, String> },
    /// What seemed to be of nobody is gone, or not.
    Collected { folder: Folder, collected: Result<Removal, String> },
    /// What a worker has asked for is there, or not.
    Fetched { process: ProcessKey, worker: WorkerKey, request: u32, error: Option<StateNotFetched> },
    /// The rest of a process is there, or not.
    Filled { key: ProcessKey, end: FillEnd },
    /// What is stored was looked up, or not.
    Usage(UsageFound),
    /// Memory, or a log that nobody needs, was let go of, but for what is told.
    Released { left: Option<String> },
}

/// A process that was written.
#[derive(Debug)]
pub(crate) struct Written {
    /// What was published.
    pub(crate) snapshot: Snapshot,
    /// Bytes that had to be moved for it.
    pub(crate) moved_bytes: u64,
    /// Bytes that storage holds of the process.
    pub(crate) stored_bytes: u64,
    /// When it is to be woken.
    pub(crate) next_wake_unix_ms: Option<u64>,
    /// What was removed that nobody needed.
    pub(crate) removed: Removed,
    /// Whether there may be more of that.
    pub(crate) has_leftovers: bool,
}

/// Where jobs go.
#[derive(Debug)]
struct Queues {
    moving: Sender<Job>,
    fetching: Sender<Job>,
    filling: Sender<Job>,
}

/// The threads; see the module's text.
#[derive(Debug)]
pub(crate) struct Transfers {
    backend: Arc<dyn Backend>,
    /// The same as the threads have it.
    theirs: Arc<Revocable>,
    queues: Option<Queues>,
    threads: Vec<JoinHandle<()>>,
    /// Jobs that were begun and have not been heard of since.
    under_way: Cell<usize>,
}

impl Transfers {
    /// Starts the threads. They write to `results` and then wake `waker`.
    pub(crate) fn start(
        backend: Arc<dyn Backend>,
        results: &Sender<JobResult>,
        waker: &Arc<Waker>,
    ) -> std::io::Result<Self> {
        let theirs = Arc::new(Revocable::new(Arc::clone(&backend)));
        let mut threads = Vec::with_capacity(TRANSFER_THREADS + FETCHING_THREADS + FILLING_THREADS);
        let mut start = |name: &str, count: usize| -> std::io::Result<Sender<Job>> {
            let (jobs, queue) = channel();
            let queue = Arc::new(Mutex::new(queue));
            for _ in 0..count {
                let (queue, backend) = (Arc::clone(&queue), Arc::clone(&theirs) as Arc<dyn Backend>);
                let (results, waker) = (results.clone(), Arc::clone(waker));
                let run = move || work(&queue, &backend, &results, &waker);
                threads.push(std::thread::Builder::new().name(name.to_owned()).spawn(run)?);
            }
            Ok(jobs)
        };
        let moving = start("praas-transfer", TRANSFER_THREADS)?;
        let fetching = start("praas-fetch", FETCHING_THREADS)?;
        let filling = start("praas-fill", FILLING_THREADS)?;
        let queues = Some(Queues { moving, fetching, filling });
        Ok(Self { backend, theirs, queues, threads, under_way: Cell::new(0) })
    }

    /// Without threads: all jobs lie in one channel until a test carries them out.
    #[cfg(any(test, feature = "simulation"))]
    pub(crate) fn by_hand(backend: Arc<dyn Backend>) -> (Self, super::HeldJobs) {
        let (jobs, queue) = channel();
        let queues = Some(Queues { moving: jobs.clone(), fetching: jobs.clone(), filling: jobs });
        let theirs = Arc::new(Revocable::new(Arc::clone(&backend)));
        let jobs = super::HeldJobs { queue, backend: Arc::clone(&theirs) as _ };
        (Self { backend, theirs, queues, threads: Vec::new(), under_way: Cell::new(0) }, jobs)
    }

    /// Where processes sleep.
    pub(crate) fn backend(&self) -> &Arc<dyn Backend> {
        &self.backend
    }

    /// Whether nothing is under way.
    pub(crate) fn is_quiet(&self) -> bool {
        self.under_way.get() == 0
    }

    /// Queues a job. A process has one at a time beside the background, and its memory one more to be let go of; what workers ask
    /// for and questions about usage are bounded where they are taken.
    pub(super) fn begin(&self, job: Job) {
        let queue = self.queues.as_ref().map(|queues| match &job {
            Job::Fetch { .. } => &queues.fetching,
            Job::Fill { .. } => &queues.filling,
            _ => &queues.moving,
        });
        // Its threads go on until this is dropped.
        if queue.is_some_and(|queue| queue.send(job).is_ok()) {
            self.under_way.set(self.under_way.get() + 1);
        }
    }

    /// Takes storage away from the threads, and does not wait for them any more: each ends with the operation that it is in.
    pub(super) fn abandon(&mut self) {
        self.theirs.revoke();
        self.queues = None;
        self.threads.clear();
    }

    /// The loop has heard of one.
    pub(super) fn job_ended(&self) {
        self.under_way.set(self.under_way.get().saturating_sub(1));
    }
}

impl Drop for Transfers {
    fn drop(&mut self) {
        self.queues = None;
        for thread in self.threads.drain(..) {
            // A panic there was printed by the panic hook; here it is only the end.
            let _ = thread.join();
        }
    }
}

fn work(queue: &Mutex<Receiver<Job>>, backend: &Arc<dyn Backend>, results: &Sender<JobResult>, waker: &Waker) {
    loop {
        // The one that waits for a job holds the lock, the others wait for it.
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        if results.send(JobResult::Transfer(job.carry_out(backend))).is_err() {
            return;
        }
        // Fails only when the loop is gone.
        let _ = waker.wake();
    }
}

impl Job {
    /// Does it, however long that takes.
    pub(super) fn carry_out(self, backend: &Arc<dyn Backend>) -> TransferResult {
        match self {
            Self::Write { key, job } => {
                TransferResult::Written { key, written: Box::new(guarded(|| job.carry_out(backend), Err)) }
            }
            Self::Checkpoint { key, job } => {
                TransferResult::Checkpointed { key, written: Box::new(guarded(|| job.carry_out(backend), Err)) }
            }
            Self::Read { process, job } => TransferResult::Read {
                process,
                read: Box::new(guarded(|| job.carry_out(backend), |why| Err(NotRead::Failed(why)))),
            },
            Self::Release { objects, files } => {
                drop(objects);
                let removed = files.map_or(Ok(()), |files| remove_directory(&files));
                let left = removed
                    .err()
                    .map(|error| format!("files of a process that sleeps stay until the next server starts: {error}"));
                TransferResult::Released { left }
            }
            Self::Usage(job) => TransferResult::Usage(job.carry_out(backend)),
            Self::Remove { folder, key, mine, log } => {
                let remove = || remove(backend, &folder, mine, log.as_ref());
                TransferResult::Removed { folder, key, removed: guarded(remove, Err) }
            }
            Self::Find { process } => {
                TransferResult::LookedFor { process, found: guarded(|| find(backend, &process), Err) }
            }
            Self::Collect { folder, owner } => {
                let collected = guarded(|| collect(backend, &folder, owner), Err);
                TransferResult::Collected { folder, collected }
            }
            Self::RemoveLog { folder, log } => {
                // What is left of it is found by the next server.
                let _ = log.remove(&folder);
                TransferResult::Released { left: None }
            }
            Self::Fetch { process, worker, request, wanted, filling } => {
                let failed = |reason| Err(StateNotFetched { is_damaged: false, reason });
                let error = guarded(|| filling.fetch(backend, &wanted), failed).err();
                TransferResult::Fetched { process, worker, request, error }
            }
            Self::Fill { key, filling } => {
                TransferResult::Filled { key, end: guarded(|| filling.fill(backend), FillEnd::Failed) }
            }
        }
    }
}

/// Does something that must not end its thread. What it changed meanwhile is what any failure there leaves.
fn guarded<R>(work: impl FnOnce() -> R, failed: impl FnOnce(String) -> R) -> R {
    let words = |panic: Box<dyn Any + Send>| {
        let said = panic.downcast_ref::<&str>().map(|said| (*said).to_owned());
        let said = said.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
        format!("a thread of this server panicked: {said}; its log has the place: please report it")
    };
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| failed(words(panic)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_that_panics_has_failed_and_says_with_which_words() {
        assert_eq!(guarded(|| Ok::<_, String>(7), Err), Ok(7));
        let failed = guarded(|| -> Result<(), String> { panic!("it has {} parts", 3) }, Err).unwrap_err();
        assert!(failed.contains("it has 3 parts"), "{failed}");
    }
}
