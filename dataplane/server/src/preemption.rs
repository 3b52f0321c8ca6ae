//! The end of a server, wished or forced: what its processes know is stored within the grace period, most valuable first, and
//! what could not be is named and left with the keeper.
//!
//! It begins with a signal, a notice of the host ([`notice`]), or a word of whoever started the server.
//!
//! 1. All processes finish their calls at once, for their `drain_ms` and for half of the grace period at most: the other half is for
//!    storing. Each is written as soon as it is quiet and it is its turn: of those that are quiet the most valuable goes first
//!    ([`Worth`]), several at a time.
//! 2. The server ends when everything is stored, or when the grace period is over, whatever is still under way. A thread that
//!    waits for storage is not waited for then.
//! 3. What is not stored is not given up: its memory stays with the keeper, as after a crash, for the next server on this data
//!    directory. Nothing of it is noted as ended.
//! 4. [`Farewell`] names each process that was not stored, and why. What was never to be stored, because there is no storage or
//!    because it is being deleted, is not in it.

mod farewell;
pub(crate) mod notice;
mod worth;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::{Duration, Instant};

use praas_protocol::control::ControlError;

pub use self::farewell::{Farewell, Unsaved};
use self::worth::Worth;
use crate::clock;
use crate::drain::Purpose;
use crate::limits::CALLS_GRACE_PARTS;
use crate::processes::{Process, ProcessKey, Stage};
use crate::shard::Shard;
use crate::swap::{SwapReason, TRANSFER_THREADS};
use crate::timers::Timer;

/// The room.
#[derive(Debug)]
pub(crate) struct Preemption {
    grace: Duration,
    keeper_lingers: bool,
    began: Option<Instant>,
    /// Those that are quiet and wait for their turn.
    quiet: BinaryHeap<(Worth, Reverse<ProcessKey>)>,
    /// Those that are being written.
    written: BTreeSet<ProcessKey>,
    /// Why processes cannot be stored, known before they were quiet.
    refused: BTreeMap<ProcessKey, String>,
    farewell: Farewell,
    is_over: bool,
}

impl Preemption {
    /// Of a server that has `grace` to end, and whose keeper outlives it or does not.
    pub(crate) fn new(grace: Duration, keeper_lingers: bool) -> Self {
        Self {
            grace,
            keeper_lingers,
            began: None,
            quiet: BinaryHeap::new(),
            written: BTreeSet::new(),
            refused: BTreeMap::new(),
            farewell: Farewell::default(),
            is_over: false,
        }
    }

    /// From now on an end may take so long.
    #[cfg(feature = "simulation")]
    pub(crate) fn set_grace(&mut self, grace: Duration) {
        self.grace = grace;
    }

    /// Until when calls may finish that could until `wanted`.
    pub(crate) fn calls_until(&self, wanted: Instant) -> Instant {
        self.began.map_or(wanted, |began| wanted.min(began + self.grace / CALLS_GRACE_PARTS))
    }

    /// Whether the server ends whatever is under way.
    pub(crate) fn is_over(&self) -> bool {
        self.is_over
    }

    /// Whether the keeper has something that the next server is to be given.
    pub(crate) fn leaves_memory(&self) -> bool {
        self.farewell.unsaved.iter().any(|unsaved| unsaved.is_kept)
    }

    /// A process was stored for good.
    pub(crate) fn note_saved(&mut self, bytes: u64) {
        self.farewell.saved += 1;
        self.farewell.saved_bytes += bytes;
    }

    /// How it ended.
    pub(crate) fn into_farewell(self) -> Farewell {
        let took = self.began.map(clock::since).unwrap_or_default();
        Farewell { took, grace: self.grace, ..self.farewell }
    }
}

impl Shard {
    /// Begins to end the server: every process drains and is stored. The loop ends when the last has ended, or with the grace period.
    pub(crate) fn shut_down(&mut self, why: &str) {
        if std::mem::replace(&mut self.shutting_down, true) {
            return;
        }
        let grace = self.preemption.grace;
        self.log.info(format_args!("{why}: the server drains its processes and ends, within {grace:?}"));
        let now = clock::now();
        self.preemption.began = Some(now);
        self.preemption.farewell.reason = why.to_owned();
        self.preemption.farewell.began_unix_ms = clock::unix_time_ms();
        self.timers.at(now + grace, Timer::Grace);
        if let Some(network) = &self.network {
            network.drain();
        }
        self.refuse_all_waiters();
        let keys: Vec<_> = self.processes.entries.keys().copied().collect();
        keys.into_iter().for_each(|key| self.send_off(key));
    }

    fn send_off(&mut self, key: ProcessKey) {
        let outcome = self.begin_swap(key, SwapReason::Shutdown, None);
        let calls_until = self.preemption.calls_until(clock::now() + self.preemption.grace);
        match (self.processes.get_mut(key).map(|process| &mut process.stage), outcome) {
            (Some(Stage::Draining(drain)), Ok(())) => drain.hurry(calls_until),
            (Some(Stage::Draining(_)), Err(_)) => {
                self.stop_instead(key, None);
                if let Some(Process { stage: Stage::Draining(drain), .. }) = self.processes.get_mut(key) {
                    drain.hurry(calls_until);
                }
            }
            // It has answered nobody yet, or nothing is ever stored here.
            (Some(Stage::Creating(_)), Err(_)) | (Some(Stage::Active(_)), Err(ControlError::NoStorage)) => {
                self.begin_drain(key, Purpose::Stop, Vec::new());
            }
            (Some(Stage::Active(_)), Err(error)) => {
                self.preemption.refused.insert(key, error.to_string());
                self.begin_drain(key, Purpose::Swap(SwapReason::Shutdown), Vec::new());
            }
            _ => {}
        }
    }

    /// The server ends and a process is quiet: it is written when it is its turn.
    pub(crate) fn write_in_turn(&mut self, key: ProcessKey) {
        if let Some(why) = self.preemption.refused.remove(&key) {
            return self.go_on(key, &why);
        }
        let Some(process) = self.processes.get(key) else { return };
        self.preemption.quiet.push((Worth::of(process, clock::now()), Reverse(key)));
        self.write_most_valuable();
    }

    /// One that was written in its turn is, or is not to be.
    pub(crate) fn turn_ended(&mut self, key: ProcessKey) {
        if self.preemption.written.remove(&key) {
            self.write_most_valuable();
        }
    }

    fn write_most_valuable(&mut self) {
        while self.preemption.written.len() < TRANSFER_THREADS
            && let Some((_, Reverse(key))) = self.preemption.quiet.pop()
        {
            if self.begin_write_job(key) {
                self.preemption.written.insert(key);
            }
        }
    }

    /// A process cannot be stored: its memory stays with the keeper. Its workers have ended, or end with the server.
    pub(crate) fn leave_behind(&mut self, key: ProcessKey, why: &str) {
        let has_keeper = self.preemption.keeper_lingers && self.keeping.has_keeper();
        let is_logged = self.is_in_log(key);
        let Some(process) = self.processes.get_mut(key) else { return };
        let (unsaved_changes, state_bytes) = worth::unsaved(process);
        let is_kept = has_keeper && (process.is_kept || process.memory.is_none() && !process.kept_names.is_empty());
        let snapshot = process.stored.snapshot.as_ref();
        let unsaved = Unsaved {
            process: process.id,
            reason: why.to_owned(),
            unsaved_changes,
            state_bytes,
            stored_unix_ms: snapshot.map(praas_storage::snapshot::Snapshot::written_unix_ms),
            is_kept,
            is_logged,
        };
        process.stage = Stage::Ended;
        // Its ledger does not say that it has ended.
        process.memory = None;
        let fate = if is_kept {
            "the keeper holds what it knows for the next server"
        } else if is_logged {
            "the next server makes it again of its log"
        } else {
            "what it knows ends with this server"
        };
        self.log.error(format_args!("process {} was not stored: {why}; {fate}", unsaved.process));
        self.preemption.farewell.unsaved.push(unsaved);
    }

    /// Timer: the grace period is over.
    pub(crate) fn grace_due(&mut self) {
        if !self.shutting_down {
            return;
        }
        let keys: Vec<_> = self.processes.entries.keys().copied().collect();
        for key in keys {
            let Some(process) = self.processes.get(key) else { continue };
            let why = match &process.stage {
                Stage::Draining(drain) if drain.is_swap() => {
                    "its calls and workers did not end within the grace period"
                }
                Stage::Swapping(swapping) if swapping.is_stored() => continue,
                Stage::Swapping(_) if self.preemption.written.contains(&key) => {
                    "storage did not take it within the grace period"
                }
                Stage::Swapping(_) => "it was not its turn within the grace period",
                // What is not to be stored ends with the server.
                _ => continue,
            };
            self.leave_behind(key, why);
        }
        self.swaps.abandon();
        self.preemption.is_over = true;
    }
}
