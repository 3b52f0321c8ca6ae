//! Swap: a process that is not needed is written to storage and its memory given up; whoever needs it brings it back.
//!
//! ```text
//! Active ──begin_swap──▶ Draining ──workers ended──▶ Swapping ──written──▶ asleep (table) ──▶ Restoring ──▶ Active
//!    ▲                       │ not finished in time       │ storage failed       ▲ │
//!    └───────────────────────┴────────────────────────────┘                      └─┘ cannot be read: stays asleep
//! ```
//!
//! | room | what |
//! |---|---|
//! | `leaving` | from the wish to swap a process out to the end of its memory, or back where storage fails |
//! | `table` | processes that sleep: a few hundred bytes each |
//! | `returning` | from the wish for a process that sleeps to its first worker |
//! | `filling` | what woke without its objects: they come back as workers ask for them, and in the background |
//! | `fetching` | the loop's part in that |
//! | `finding` | one that another server has put to sleep in the same storage |
//! | `waiting` | who needs a process that is away |
//! | `dozing` | one that came back to take messages, and sleeps again |
//! | `deleting`, `removing` | the end of what is stored of a process that was stopped, and of what nobody needs |
//! | `starting`, `found_logs` | what the next server finds in storage, and in logs |
//! | `revocable` | storage that a server which ends takes away from threads that still wait for it |
//! | `transfer` | the threads that read and write, and their jobs |
//! | `usage` | what storage holds, for whoever asks |
//! | `writing`, `reading` | what they do: a segment as a snapshot, a snapshot as a segment |
//! | `replaying` | a log, and what it goes on from, as a segment |
//! | `life` | what else of a process is kept with its objects |
//!
//! Invariants:
//! 1. The memory of a process is given up only after its manifest was published; until then it can go on as if nothing had
//!    been. A process in the table has no memory, no worker and no lane that anybody serves.
//! 2. It is written only when all its workers have ended and what they were at is settled: nobody changes it meanwhile.
//! 3. While memory and a stored copy both exist, memory counts: it is what the copy was, or later. The next server goes by
//!    the same rule.
//! 4. Who owns a process in memory has claimed its stored copy first: what an earlier owner still writes is a conflict.
//! 5. Nothing that needs a process that is away is refused because of that, but to its deadline or the application's wish:
//!    it waits in order, and is carried out as if it had come when the process is there.
//! 6. A process is deleted when nothing of it is stored any more, and not before that is it said to be.
//! 7. A process that woke may run before all of it is in its memory. What is not there is asked for by who needs it, and never
//!    taken for what does not exist; it sleeps again with what is still away left where it is.
//! 8. The loop never waits for storage: that is the business of the threads of `transfer`.

#[cfg(any(test, feature = "simulation"))]
mod by_hand;
mod deleting;
mod dozing;
mod fetching;
mod filling;
mod finding;
mod found_logs;
mod leaving;
mod life;
#[cfg(test)]
mod power_cuts;
mod reading;
mod removing;
mod replaying;
mod returning;
mod revocable;
mod starting;
mod table;
mod transfer;
mod usage;
mod waiting;
mod writing;

use std::sync::Arc;
use std::time::Instant;

use praas_protocol::ProcessId;
use praas_protocol::control::ControlError;
use praas_storage::snapshot::{Known, Snapshot};
use praas_storage::{Backend, Folder};

#[cfg(any(test, feature = "simulation"))]
pub(crate) use self::by_hand::{HeldJob, HeldJobs};
pub(crate) use self::fetching::Filler;
use self::finding::Finding;
pub(crate) use self::leaving::Swapping;
pub(crate) use self::table::Swapped;
pub(crate) use self::transfer::{TRANSFER_THREADS, TransferResult, Transfers, Written};
pub(crate) use self::waiting::{Waiter, Waiting};
use crate::drain::Purpose;
use crate::processes::{Asker, Process, ProcessKey, Stage};
use crate::shard::Shard;

/// Why a process is swapped out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SwapReason {
    /// Somebody has asked for it.
    Asked,
    /// Nobody has needed it for long enough.
    Idle,
    /// The server ends.
    Shutdown,
    /// It is to be logged, and its log has nothing to begin with.
    NoLog,
    /// It has a log, and its application is no longer logged.
    LogEnds,
}

impl SwapReason {
    /// The reason in words.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Asked => "asked for",
            Self::Idle => "idle",
            Self::Shutdown => "the server ends",
            Self::NoLog => "its log begins anew",
            Self::LogEnds => "it is no longer logged",
        }
    }
}

/// What is stored of a process that is in memory.
#[derive(Debug, Default)]
pub(crate) struct StoredCopy {
    /// Whether there may be anything: then it has to be removed when the process is stopped.
    pub(crate) exists: bool,
    /// The last snapshot, if this server has written or read it: what has not changed since is not written again.
    pub(crate) snapshot: Option<Snapshot>,
    /// The epoch by which this server owns it, once it has claimed it.
    pub(crate) epoch: Option<u64>,
    /// What was restored of its files when it woke: what has not changed since is not read again.
    pub(crate) files: Option<Arc<Known>>,
    /// Bytes that storage holds of it, as far as this server knows.
    pub(crate) bytes: u64,
    /// When it was swapped out last.
    pub(crate) swapped_unix_ms: Option<u64>,
    /// How it woke, until its first workers are ready.
    pub(crate) woken: Option<Woken>,
    /// Whether a swap that failed, or a server that died, may have left parts that nobody needs. They are removed when the process
    /// is stored next: only then is it certain that nobody else owns or writes what is stored.
    pub(crate) has_leftovers: bool,
}

/// How a process woke.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Woken {
    /// When somebody needed it.
    pub(crate) since: Instant,
    /// Bytes that were read before its first worker was started.
    pub(crate) read_bytes: u64,
}

/// The room.
#[derive(Debug, Default)]
pub(crate) struct Swaps {
    transfers: Option<Transfers>,
    waiting: Waiting,
    finding: Finding,
    /// Questions about usage that are being looked up.
    usage_questions: usize,
}

impl Swaps {
    /// With threads that transfer to and from storage; without them nothing is ever swapped.
    pub(crate) fn new(transfers: Option<Transfers>) -> Self {
        Self { transfers, ..Self::default() }
    }

    /// Where processes sleep.
    pub(crate) fn backend(&self) -> Option<&Arc<dyn Backend>> {
        self.transfers.as_ref().map(Transfers::backend)
    }

    /// The server ends now: no thread is waited for, and none gets anything from storage or into it any more.
    pub(crate) fn abandon(&mut self) {
        if let Some(transfers) = &mut self.transfers {
            transfers.abandon();
        }
    }

    /// Whether no thread has anything to do.
    pub(crate) fn is_quiet(&self) -> bool {
        self.transfers.as_ref().is_none_or(Transfers::is_quiet)
    }
}

impl Process {
    /// Where this life of the process is stored.
    pub(crate) fn folder(&self) -> Option<Folder> {
        self.memory.as_ref().map(|memory| Folder { process: self.id, incarnation: memory.incarnation() })
    }
}

impl Shard {
    /// Swaps a process out; `asker` is answered when it sleeps, or when it goes on because that failed.
    pub(crate) fn begin_swap(
        &mut self,
        key: ProcessKey,
        reason: SwapReason,
        asker: Option<Asker>,
    ) -> Result<(), ControlError> {
        if self.swaps.backend().is_none() {
            return Err(ControlError::NoStorage);
        }
        let ended = self.has_just_ended("swapping the process out");
        let process = self.processes.get_mut(key).ok_or(ended)?;
        let id = process.id;
        if let Some(reason) = &process.broken {
            return Err(ControlError::WorkersFailed { process: id, reason: reason.clone() });
        }
        let state = process.state();
        match &mut process.stage {
            // Who waits for its workers is told that there will be none when the server ends.
            Stage::Active(waiting) if waiting.is_empty() || reason == SwapReason::Shutdown => {
                self.has_room_for_sleeper()?;
                self.begin_leaving(key, reason, asker);
                Ok(())
            }
            Stage::Draining(drain) if reason == SwapReason::Shutdown && (drain.is_swap() || drain.is_restart()) => {
                let was_restart = drain.is_restart();
                drain.purpose = Purpose::Swap(reason);
                let disappointed = if was_restart { std::mem::take(&mut drain.askers) } else { Vec::new() };
                self.show_state(key);
                disappointed.into_iter().for_each(|asker| self.answer_failed(asker, ControlError::ShuttingDown));
                Ok(())
            }
            Stage::Draining(drain) if drain.is_swap() => {
                if reason == SwapReason::Asked {
                    // Who is idle may be called back; who was told to sleep may not.
                    drain.purpose = Purpose::Swap(reason);
                }
                drain.askers.extend(asker);
                Ok(())
            }
            Stage::Swapping(swapping) => {
                swapping.add_asker(asker);
                Ok(())
            }
            _ => Err(ControlError::WrongState { process: id, state }),
        }
    }

    /// The same by id; a process that sleeps is answered for at once.
    pub(crate) fn begin_swap_of(
        &mut self,
        id: &ProcessId,
        reason: SwapReason,
        asker: Option<Asker>,
    ) -> Result<(), ControlError> {
        if self.processes.swapped.get(id).is_some_and(|swapped| swapped.sleeps()) {
            asker.into_iter().for_each(|asker| self.answer_done(asker));
            return Ok(());
        }
        let key = self.processes.key_of(id)?;
        self.begin_swap(key, reason, asker)
    }

    /// Whether a process sleeps, or is on its way there or back, or in memory without workers: who needs it waits.
    pub(crate) fn is_away(&self, id: &ProcessId) -> bool {
        let leaves = |key: &ProcessKey| {
            self.processes.get(*key).is_some_and(|process| match &process.stage {
                Stage::Draining(drain) => drain.is_swap(),
                Stage::Swapping(_) => true,
                Stage::Active(_) => process.dozes,
                _ => false,
            })
        };
        self.processes.swapped.contains_key(id) || self.processes.by_id.get(id).is_some_and(leaves)
    }

    /// What has to be known beside its state of a process whose log begins, as bytes; the error says why not.
    pub(crate) fn log_note(&self, key: ProcessKey) -> Result<Vec<u8>, String> {
        let process = self.processes.get(key).ok_or("the process is gone")?;
        let memory = process.memory.as_ref().ok_or("the process has no memory any more")?;
        let mut life = life::Life::new(memory.ledger.record(), process.idle_swap_ms, process.calls_of_ended);
        life.log_follows = process.stored.snapshot.as_ref().map_or(0, |snapshot| snapshot.facts().position);
        life.to_bytes()
    }

    /// A thread has done its job.
    pub(crate) fn transfer_ended(&mut self, result: TransferResult) {
        if let Some(transfers) = &self.swaps.transfers {
            transfers.job_ended();
        }
        match result {
            TransferResult::Written { key, written } => self.written(key, *written),
            TransferResult::Checkpointed { key, written } => self.checkpoint_ended(key, *written),
            TransferResult::Read { process, read } => self.read_back(process, *read),
            TransferResult::Usage(found) => self.usage_found(found),
            TransferResult::Fetched { process, worker, request, error } => {
                self.state_fetched(process, worker, request, error);
            }
            TransferResult::Filled { key, end } => self.filled(key, end),
            TransferResult::Released { left } => {
                left.into_iter().for_each(|left| self.log.warning(format_args!("{left}")));
            }
            TransferResult::Removed { folder, key, removed } => self.stored_copy_removed(folder, key, removed),
            TransferResult::LookedFor { process, found } => self.looked_for(process, found),
            TransferResult::Collected { folder, collected } => self.collected(folder, collected),
        }
    }
}
