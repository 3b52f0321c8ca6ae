//! Checkpoints: a process that goes on is written to storage every so often, so that it comes back from there when its memory is lost
//! with the server and the keeper, or with the host; and of a logged process, so that its log need not have more than what changed
//! since.
//!
//! A checkpoint is a snapshot of everything at or below one position (`praas_shm::swap::HeldCut`), written by a thread of
//! [`swap`](crate::swap) as one for a process that leaves would be: incremental, published under the same epoch. The look at activity
//! ([`crate::directory`]) finds whose time has come. Whoever comes back from one finds what there was at its position: what was
//! changed, sent or answered later is lost with the memory, which is what an application says with `durability = "checkpoint"`.
//!
//! 1. A process is written by one job at a time. Who wants it to sleep or to end meanwhile waits for that job
//!    ([`Shard::write_when_settled`], `begin_deleting`).
//! 2. A checkpoint that fails changes nothing of what is stored, is told of with its reason, and is tried again. No call fails
//!    because of one.
//! 3. Of a logged process one is due before its time when its log has become long, so that the disk has a bounded part of it, and who
//!    comes back reads no more than that.
//! 4. One that would say what the last one says is not written, and none of a process of which something is still in storage.

use std::time::{Duration, Instant};

use praas_protocol::Durability;

use crate::clock;
use crate::limits::{CHECKPOINT_LOG_BYTES, CHECKPOINT_RETRY};
use crate::processes::{Process, ProcessKey, Stage};
use crate::shard::Shard;
use crate::swap::Written;

/// What there is of checkpoints of one process.
#[derive(Debug, Default)]
pub(crate) struct Checkpoints {
    /// When the last one began; before the first, when the process was looked at first.
    begun: Option<Instant>,
    /// The position of the last one that succeeded.
    position: Option<u64>,
    /// Why the last one failed, if it did.
    failure: Option<String>,
    is_under_way: bool,
    /// Bytes that had gone through the log ring when the last one began.
    logged_bytes: u64,
}

impl Checkpoints {
    /// Whether a thread writes the process.
    pub(crate) fn is_under_way(&self) -> bool {
        self.is_under_way
    }

    /// Why the last one failed, if it did: for whoever looks at the process.
    pub(crate) fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// Whether the next one is due, where `logged_bytes` have gone through the log ring; at the first look it begins to wait for it.
    fn is_due(&mut self, interval: Duration, logged_bytes: u64, now: Instant) -> bool {
        let is_long = logged_bytes.wrapping_sub(self.logged_bytes) >= CHECKPOINT_LOG_BYTES;
        let wait = match (&self.failure, is_long) {
            (Some(_), _) => interval.min(CHECKPOINT_RETRY),
            (None, true) => Duration::ZERO,
            (None, false) => interval,
        };
        let begun = *self.begun.get_or_insert(now);
        !self.is_under_way && now.saturating_duration_since(begun) >= wait
    }
}

impl Process {
    /// The time between two checkpoints; `None` without.
    pub(crate) fn checkpoint_interval(&self) -> Option<Duration> {
        let is_wanted = match self.application.durability {
            Durability::Checkpoint => true,
            _ => self.memory.as_ref().is_some_and(|memory| memory.objects.log().is_some()),
        };
        is_wanted.then(|| Duration::from_millis(self.application.checkpoint_interval_ms))
    }

    /// Bytes that its workers say they have written into its log ring, if it has one.
    fn logged_bytes(&self) -> u64 {
        let log = self.memory.as_ref().and_then(|memory| memory.objects.log());
        log.map_or(0, praas_shm::log_ring::LogWriter::written_bytes)
    }
}

impl Shard {
    /// Begins a checkpoint of a process whose time has come.
    pub(crate) fn checkpoint_if_due(&mut self, key: ProcessKey) {
        if self.shutting_down {
            return;
        }
        let Some(process) = self.processes.get_mut(key) else { return };
        let Some(interval) = process.checkpoint_interval() else { return };
        if process.application.durability == Durability::Logged && self.swaps.backend().is_none() {
            return;
        }
        // From now on looks come often enough for this one.
        self.directories.note_idle_time(interval);
        let now = clock::now();
        let logged_bytes = process.logged_bytes();
        if !matches!(process.stage, Stage::Active(_)) || !process.checkpoints.is_due(interval, logged_bytes, now) {
            return;
        }
        let position = process.memory.as_ref().map(|memory| memory.objects.position());
        if position.is_none() || process.broken.is_some() {
            return;
        }
        if process.checkpoints.position == position {
            process.checkpoints.begun = Some(now);
            return;
        }
        if let Err(why) = self.begin_checkpoint(key) {
            self.checkpoint_failed(key, &why);
        }
    }

    /// Begins a checkpoint of a process that runs, whatever its application asks for; the error says why not. Where one is under way
    /// that one is it.
    pub(crate) fn begin_checkpoint(&mut self, key: ProcessKey) -> Result<(), String> {
        if self.swaps.backend().is_none() {
            return Err("this server has no storage".into());
        }
        let process = self.processes.get_mut(key).ok_or("the process is gone")?;
        if !matches!(process.stage, Stage::Active(_)) {
            return Err(format!("the process is {}", process.state()));
        }
        if process.checkpoints.is_under_way {
            return Ok(());
        }
        (process.checkpoints.begun, process.checkpoints.logged_bytes) = (Some(clock::now()), process.logged_bytes());
        if process.filler.is_some() {
            return Err("some of what it had when it slept is still in storage".into());
        }
        self.write_checkpoint(key)?;
        if let Some(process) = self.processes.get_mut(key) {
            process.checkpoints.is_under_way = true;
        }
        Ok(())
    }

    /// A thread has written a process that goes on, or has not.
    pub(crate) fn checkpoint_ended(&mut self, key: ProcessKey, written: Result<Written, String>) {
        let Some(process) = self.processes.get_mut(key) else { return };
        process.checkpoints.is_under_way = false;
        match written {
            Ok(written) => self.checkpoint_taken(key, written),
            Err(why) => self.checkpoint_failed(key, &why),
        }
        // Who came meanwhile has waited for this.
        let Some(process) = self.processes.get_mut(key) else { return };
        let has_memory = process.memory.is_some();
        match &mut process.stage {
            Stage::Swapping(_) => self.write_when_settled(key),
            Stage::Removing(askers) if has_memory => {
                let askers = std::mem::take(askers);
                self.remove_process(key, askers);
            }
            Stage::Creating(_) | Stage::Active(_) | Stage::Draining(_) | Stage::Removing(_) | Stage::Ended => {}
        }
    }

    fn checkpoint_taken(&mut self, key: ProcessKey, written: Written) {
        let Some(process) = self.processes.get_mut(key) else { return };
        let Written { snapshot, moved_bytes, stored_bytes, removed, has_leftovers, .. } = written;
        let (id, position) = (process.id, snapshot.facts().position);
        let took = process.checkpoints.begun.map(clock::since).unwrap_or_default();
        process.checkpoints.position = Some(position);
        process.checkpoints.failure = None;
        process.stored.epoch = Some(snapshot.epoch());
        process.stored.snapshot = Some(snapshot);
        process.stored.bytes = stored_bytes;
        process.stored.has_leftovers = has_leftovers;
        self.count_leftovers(&id, removed);
        self.checkpointed(key, position);
        self.metrics.checkpoints += 1;
        self.metrics.checkpoint_bytes += moved_bytes;
        self.log
            .info(format_args!("checkpoint of {id} at position {position}: {moved_bytes} bytes written in {took:?}"));
    }

    fn checkpoint_failed(&mut self, key: ProcessKey, why: &str) {
        let Some(process) = self.processes.get_mut(key) else { return };
        process.checkpoints.failure = Some(format!("no checkpoint was taken: {why}"));
        // What failed to be acknowledged may have been published: the next one looks.
        process.stored.snapshot = None;
        process.stored.has_leftovers = true;
        let id = process.id;
        self.metrics.checkpoints_failed += 1;
        self.log.warning(format_args!("no checkpoint of {id} was taken, to be tried again: {why}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_is_due_after_its_time_and_sooner_after_one_that_failed() {
        let (minute, start) = (Duration::from_secs(60), Instant::now());
        let mut checkpoints = Checkpoints::default();
        assert!(!checkpoints.is_due(minute, 0, start), "the first look begins the wait");
        assert!(!checkpoints.is_due(minute, 0, start + minute - Duration::from_millis(1)));
        assert!(checkpoints.is_due(minute, 0, start + minute));
        checkpoints.is_under_way = true;
        assert!(!checkpoints.is_due(minute, 0, start + 2 * minute), "one at a time");
        checkpoints.is_under_way = false;
        checkpoints.failure = Some("no room".into());
        checkpoints.begun = Some(start + 2 * minute);
        assert!(!checkpoints.is_due(minute, 0, start + 2 * minute + CHECKPOINT_RETRY / 2));
        assert!(checkpoints.is_due(minute, 0, start + 2 * minute + CHECKPOINT_RETRY));
        let short = CHECKPOINT_RETRY / 10;
        assert!(checkpoints.is_due(short, 0, start + 2 * minute + short));
    }

    #[test]
    fn a_checkpoint_is_due_as_soon_as_its_log_is_long() {
        let (minute, start) = (Duration::from_secs(60), Instant::now());
        let mut checkpoints = Checkpoints { logged_bytes: u64::MAX - 5, ..Checkpoints::default() };
        assert!(!checkpoints.is_due(minute, CHECKPOINT_LOG_BYTES - 7, start));
        assert!(checkpoints.is_due(minute, CHECKPOINT_LOG_BYTES - 6, start), "the count goes round");
        checkpoints.failure = Some("no room".into());
        assert!(!checkpoints.is_due(minute, CHECKPOINT_LOG_BYTES, start), "what fails is not tried all the time");
        assert!(checkpoints.is_due(minute, CHECKPOINT_LOG_BYTES, start + CHECKPOINT_RETRY));
    }
}
