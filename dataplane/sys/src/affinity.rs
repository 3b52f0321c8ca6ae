//! Which CPUs a thread may run on, and which it runs on now.

use rustix::io::Errno;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// CPUs this thread may run on, lowest first.
pub fn cpus() -> Result<Vec<usize>, Errno> {
    let set = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect())
}

/// The CPU this thread runs on at this instant.
#[must_use]
pub fn current_cpu() -> usize {
    rustix::thread::sched_getcpu()
}

/// Puts the calling thread's affinity back when dropped. It must be dropped on the thread that made it, so it is not
/// `Send`.
#[derive(Debug)]
pub struct AffinityGuard {
    before: CpuSet,
    not_send: std::marker::PhantomData<*const ()>,
}

/// Pins the calling thread to one CPU until the guard is dropped.
pub fn pin_thread(cpu: usize) -> Result<AffinityGuard, Errno> {
    let before = sched_getaffinity(None)?;
    if cpu >= CpuSet::MAX_CPU {
        return Err(Errno::INVAL);
    }
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set)?;
    Ok(AffinityGuard { before, not_send: std::marker::PhantomData })
}

impl Drop for AffinityGuard {
    fn drop(&mut self) {
        let _ = sched_setaffinity(None, &self.before);
    }
}
