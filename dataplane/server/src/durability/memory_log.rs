//! A log in memory: for trying out what a log does to a process, and for tests of what happens when it is slow or fails.
//!
//! It survives the server that writes to it as long as the program does that holds it, and nothing else: records are kept up
//! to a number of bytes for each process, the oldest are forgotten first.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use praas_protocol::ProcessId;
use praas_storage::Folder;

use super::{Log, LogStore};

/// The logs of all processes; clones are the same.
#[derive(Debug, Clone)]
pub struct MemoryLog {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug)]
struct Shared {
    bytes_max: usize,
    is_held: bool,
    is_refusing: bool,
    failures_left: usize,
    logs: BTreeMap<ProcessId, Kept>,
}

/// What is kept of one process: of its last life, from the last beginning of its log on.
#[derive(Debug)]
struct Kept {
    incarnation: u64,
    /// The position before the first batch that is kept.
    base: u64,
    batches: VecDeque<(u64, Vec<u8>)>,
    bytes: usize,
    appended: u64,
    durable: u64,
}

#[derive(Debug)]
struct ProcessLog {
    process: ProcessId,
    incarnation: u64,
    shared: Arc<Mutex<Shared>>,
}

impl MemoryLog {
    /// Keeps at most so many bytes of records for each process, but always the last batch.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        let shared = Shared { bytes_max, is_held: false, is_refusing: false, failures_left: 0, logs: BTreeMap::new() };
        Self { shared: Arc::new(Mutex::new(shared)) }
    }

    /// From now on nothing becomes durable, until [`MemoryLog::release`].
    pub fn hold(&self) {
        lock(&self.shared).is_held = true;
    }

    /// What was appended becomes durable again.
    pub fn release(&self) {
        lock(&self.shared).is_held = false;
    }

    /// Whether appends fail from now on: then log rings fill up.
    pub fn refuse(&self, refuses: bool) {
        lock(&self.shared).is_refusing = refuses;
    }

    /// The next `count` syncs fail.
    pub fn fail_syncs(&self, count: usize) {
        lock(&self.shared).failures_left = count;
    }

    /// The records of a process, and the position that the first of them follows.
    #[must_use]
    pub fn records(&self, process: ProcessId) -> Option<(u64, Vec<u8>)> {
        let shared = lock(&self.shared);
        let kept = shared.logs.get(&process)?;
        let bytes = kept.batches.iter().flat_map(|(_, bytes)| bytes.iter().copied()).collect();
        Some((kept.base, bytes))
    }

    /// Up to where what a process has changed was appended.
    #[must_use]
    pub fn appended(&self, process: ProcessId) -> Option<u64> {
        lock(&self.shared).logs.get(&process).map(|kept| kept.appended)
    }

    /// Up to where it is durable.
    #[must_use]
    pub fn durable(&self, process: ProcessId) -> Option<u64> {
        lock(&self.shared).logs.get(&process).map(|kept| kept.durable)
    }
}

impl LogStore for MemoryLog {
    fn end(&self, _folder: &Folder) -> io::Result<Option<u64>> {
        Ok(None)
    }

    fn begin(&self, folder: &Folder, position: u64, _note: &[u8]) -> io::Result<Box<dyn Log>> {
        let Folder { process, incarnation } = *folder;
        let kept = Kept {
            incarnation,
            base: position,
            batches: VecDeque::new(),
            bytes: 0,
            appended: position,
            durable: position,
        };
        lock(&self.shared).logs.insert(process, kept);
        Ok(Box::new(ProcessLog { process, incarnation, shared: Arc::clone(&self.shared) }))
    }

    fn go_on(&self, folder: &Folder, _position: u64) -> io::Result<Box<dyn Log>> {
        Err(io::Error::other(format!("nothing that {} has logged lasts", folder.process)))
    }

    fn mark_ended(&self, _folder: &Folder) -> io::Result<()> {
        Ok(())
    }

    /// It is kept all the same: what was logged of a process is looked at when the process is gone.
    fn remove(&self, _folder: &Folder) -> io::Result<()> {
        Ok(())
    }

    fn lasts(&self) -> bool {
        false
    }
}

impl ProcessLog {
    fn with<T>(&self, work: impl FnOnce(&mut Shared, ProcessId) -> io::Result<T>) -> io::Result<T> {
        let mut shared = lock(&self.shared);
        let is_ours = shared.logs.get(&self.process).is_some_and(|kept| kept.incarnation == self.incarnation);
        if is_ours { work(&mut shared, self.process) } else { Err(io::Error::other("another log took its place")) }
    }
}

impl Log for ProcessLog {
    fn append(&mut self, records: &[u8], position: u64) -> io::Result<()> {
        self.with(|shared, process| {
            if shared.is_refusing {
                return Err(io::Error::other("it was told to refuse"));
            }
            let bytes_max = shared.bytes_max;
            let Some(kept) = shared.logs.get_mut(&process) else { return Ok(()) };
            kept.bytes += records.len();
            kept.batches.push_back((position, records.to_vec()));
            kept.appended = position;
            while kept.bytes > bytes_max && kept.batches.len() > 1 {
                if let Some((position, forgotten)) = kept.batches.pop_front() {
                    kept.bytes -= forgotten.len();
                    kept.base = position;
                }
            }
            Ok(())
        })
    }

    fn sync(&mut self) -> io::Result<u64> {
        self.with(|shared, process| {
            if shared.failures_left > 0 {
                shared.failures_left -= 1;
                return Err(io::Error::other("it was told to fail"));
            }
            let is_held = shared.is_held;
            let Some(kept) = shared.logs.get_mut(&process) else { return Ok(0) };
            if !is_held {
                kept.durable = kept.appended;
            }
            Ok(kept.durable)
        })
    }

    fn truncate(&mut self, _position: u64) -> io::Result<()> {
        Ok(())
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    // Every statement leaves it whole.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_durable_while_it_is_held_or_fails_and_the_oldest_records_go_first() {
        let memory = MemoryLog::new(20);
        let process: ProcessId = "hello/alice".parse().unwrap();
        let folder = |incarnation| Folder { process, incarnation };
        let mut log = memory.begin(&folder(1), 7, &[]).unwrap();
        assert_eq!((memory.durable(process), log.sync().unwrap()), (Some(7), 7));
        memory.hold();
        log.append(&[1; 16], 9).unwrap();
        assert_eq!((log.sync().unwrap(), memory.appended(process)), (7, Some(9)));
        memory.release();
        memory.fail_syncs(1);
        assert!(log.sync().is_err());
        assert_eq!(memory.durable(process), Some(7));
        assert_eq!(log.sync().unwrap(), 9);
        log.append(&[2; 16], 10).unwrap();
        assert_eq!(memory.records(process), Some((9, vec![2; 16])));
        let mut next = memory.begin(&folder(2), 10, &[]).unwrap();
        assert!(log.append(&[3; 8], 11).is_err(), "an earlier life");
        next.append(&[3; 8], 11).unwrap();
        assert_eq!(memory.records(process), Some((10, vec![3; 8])));
    }
}
