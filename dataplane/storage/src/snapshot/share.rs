//! Work that several threads share.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::error::SnapshotError;
use super::limits::THREADS_MAX;

/// What a lock guards; nothing here leaves it half changed.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Does all jobs, in their order as far as threads are free. Each thread begins with a state of its own and gives it back at the
/// end, also after a failure. The first failure ends the work and is returned once every thread is done with its job.
pub(crate) fn share<Job: Send, State>(
    threads: usize,
    jobs: Vec<Job>,
    begin: impl Fn() -> State + Sync,
    each: impl Fn(&mut State, Job) -> Result<(), SnapshotError> + Sync,
    end: impl Fn(State) + Sync,
) -> Result<(), SnapshotError> {
    let threads = threads.clamp(1, THREADS_MAX).min(jobs.len());
    let jobs = Mutex::new(jobs.into_iter());
    let failure = Mutex::new(None);
    let next = || lock(&failure).is_none().then(|| lock(&jobs).next()).flatten();
    let work = || {
        let mut state = begin();
        while let Some(job) = next() {
            if let Err(error) = each(&mut state, job) {
                lock(&failure).get_or_insert(error);
            }
        }
        end(state);
    };
    if threads > 0 {
        std::thread::scope(|scope| {
            for _ in 1..threads {
                scope.spawn(work);
            }
            work();
        });
    }
    failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    use super::*;
    use crate::name::Folder;

    #[test]
    fn every_job_is_done_once_and_every_state_given_back() {
        for threads in [0, 1, 3, 1000] {
            let (done, begun, ended) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
            let begin = || {
                begun.fetch_add(1, Relaxed);
            };
            let each = |(): &mut (), job: u64| {
                done.fetch_add(job, Relaxed);
                Ok(())
            };
            let end = |()| {
                ended.fetch_add(1, Relaxed);
            };
            share(threads, (1..=100).collect(), begin, each, end).unwrap();
            assert_eq!(done.into_inner(), 5050);
            assert_eq!(begun.into_inner(), ended.into_inner());
        }
    }

    #[test]
    fn a_failure_ends_the_work() {
        let folder = Folder { process: "a/b".parse().unwrap(), incarnation: 1 };
        let each = |done: &mut u32, job: u32| {
            *done += 1;
            if job == 3 { Err(SnapshotError::unfit(&folder, "third".to_owned())) } else { Ok(()) }
        };
        let total = Mutex::new(0);
        let failed = share(1, (1..=10).collect(), || 0, each, |done| *lock(&total) += done);
        assert!(matches!(failed, Err(SnapshotError::Unfit { .. })));
        assert_eq!(*lock(&total), 3);
    }
}
