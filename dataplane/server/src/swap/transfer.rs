//! The threads that move processes between memory and storage, so that the loop never waits for a disk or a network.
//!
//! A job has everything that it needs; what comes of it goes over the channel on which all helpers of the loop report, followed
//! by a wake of the loop. There is one job at a time for a process. Each operation of a backend has a deadline of its own, so
//! a job ends, and so does the drop of this, which waits for the jobs under way.

use std::cell::Cell;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use mio::Waker;
use praas_protocol::ProcessId;
use praas_shm::objects::Objects;
use praas_storage::snapshot::Snapshot;
use praas_storage::{Backend, Folder};

use super::reading::{ReadJob, Returned};
use super::usage::{UsageFound, UsageJob};
use super::writing::WriteJob;
use crate::hosting::JobResult;
use crate::processes::ProcessKey;

/// Threads, and so processes that are moved at once: storage is kept busy by the threads that each job has of its own, so
/// these are only as many as keep one slow process from delaying all others.
const TRANSFER_THREADS: usize = 4;

/// What is to be done.
#[derive(Debug)]
pub(super) enum Job {
    /// Write a process whose workers have ended.
    Write { key: ProcessKey, job: Box<WriteJob> },
    /// Read a process that sleeps.
    Read { process: ProcessId, job: Box<ReadJob> },
    /// Remove what is stored of a process: of one in memory, if a key is given.
    Remove { folder: Folder, key: Option<ProcessKey> },
    /// Look up what is stored.
    Usage(UsageJob),
    /// Let go of memory: that of a large state takes the kernel longer than the loop may wait.
    Release(Arc<Objects>),
}

/// What came of a job.
#[derive(Debug)]
pub(crate) enum TransferResult {
    /// A process was written, or not.
    Written { key: ProcessKey, written: Box<Result<Written, String>> },
    /// A process was read, or not.
    Read { process: ProcessId, read: Box<Result<Returned, String>> },
    /// What was stored of a process is gone, or not.
    Removed { folder: Folder, key: Option<ProcessKey>, removed: Result<(), String> },
    /// What is stored was looked up, or not.
    Usage(UsageFound),
    /// Memory was let go of.
    Released,
}

/// A process that was written.
#[derive(Debug)]
pub(crate) struct Written {
    /// What was published.
    pub(super) snapshot: Snapshot,
    /// Bytes that had to be moved for it.
    pub(super) moved_bytes: u64,
    /// Bytes that storage holds of the process.
    pub(super) stored_bytes: u64,
}

/// The threads; see the module's text.
#[derive(Debug)]
pub(crate) struct Transfers {
    backend: Arc<dyn Backend>,
    jobs: Option<Sender<Job>>,
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
        let (jobs, queue) = channel();
        let queue = Arc::new(Mutex::new(queue));
        let mut threads = Vec::with_capacity(TRANSFER_THREADS);
        for _ in 0..TRANSFER_THREADS {
            let (queue, backend) = (Arc::clone(&queue), Arc::clone(&backend));
            let (results, waker) = (results.clone(), Arc::clone(waker));
            let run = move || work(&queue, &backend, &results, &waker);
            threads.push(std::thread::Builder::new().name("praas-transfer".to_owned()).spawn(run)?);
        }
        Ok(Self { backend, jobs: Some(jobs), threads, under_way: Cell::new(0) })
    }

    /// Where processes sleep.
    pub(crate) fn backend(&self) -> &Arc<dyn Backend> {
        &self.backend
    }

    /// Whether nothing is under way.
    pub(crate) fn is_quiet(&self) -> bool {
        self.under_way.get() == 0
    }

    /// Queues a job. A process has one at a time, and its memory one more to be let go of; questions about usage are bounded where
    /// they are taken.
    pub(super) fn begin(&self, job: Job) {
        // Fails only when all threads have panicked, which their hook has printed.
        if self.jobs.as_ref().is_some_and(|jobs| jobs.send(job).is_ok()) {
            self.under_way.set(self.under_way.get() + 1);
        }
    }

    /// The loop has heard of one.
    pub(super) fn job_ended(&self) {
        self.under_way.set(self.under_way.get().saturating_sub(1));
    }
}

impl Drop for Transfers {
    fn drop(&mut self) {
        self.jobs = None;
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
        let result = match job {
            Job::Write { key, job } => TransferResult::Written { key, written: Box::new(job.carry_out(backend)) },
            Job::Read { process, job } => TransferResult::Read { process, read: Box::new(job.carry_out(backend)) },
            Job::Release(objects) => {
                drop(objects);
                TransferResult::Released
            }
            Job::Usage(job) => TransferResult::Usage(job.carry_out(&**backend)),
            Job::Remove { folder, key } => {
                let removed = backend.remove_folder(&folder).map_err(|error| error.to_string());
                TransferResult::Removed { folder, key, removed }
            }
        };
        if results.send(JobResult::Transfer(result)).is_err() {
            return;
        }
        // Fails only when the loop is gone.
        let _ = waker.wake();
    }
}
