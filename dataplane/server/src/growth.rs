//! How many workers a process has: more when calls wait, fewer when they have nothing to do.
//!
//! 1. A process has its application's `workers.max` workers, and beside them those that wait inside their calls: what they wait
//!    for may have to be done by this very process. [`WORKERS_MAX`] bounds both together. A worker that has waited goes on
//!    beside the one that was started in its stead; those that are too many end when they have nothing to do.
//! 2. Whoever leaves a request where nobody attends rings: clients after they published it, workers before they wait. So it is
//!    enough to look when somebody rings, and when what stood in the way is gone.
//! 3. Clients do not ring a process that has all its workers, as the control page tells. One whose workers wait now and then
//!    shows one less, so that they do; and such a ring is acknowledged only [`RING_PAUSE`] later if nothing could be done.
//! 4. At the bound, with every worker waiting, calls made on behalf of the process's own running calls are refused at once as
//!    `Overloaded`: they would wait for each other. So are all others once nothing has moved for [`STANDSTILL_MAX`].
//! 5. What a worker says about its waiting is believed as far as its own process goes: it may get up to [`WORKERS_MAX`] of them.

use std::time::{Duration, Instant};

use praas_protocol::Phase;
use praas_protocol::limits::WORKERS_MAX;

use crate::clock;
use crate::processes::ProcessKey;
use crate::shard::Shard;
use crate::timers::Timer;
use crate::workers::WorkerStage;

/// Time between two acknowledged rings while a process can have no more workers.
const RING_PAUSE: Duration = Duration::from_millis(5);

/// Time without any progress after which a process all of whose workers wait refuses what lies unclaimed.
const STANDSTILL_MAX: Duration = Duration::from_millis(50);

/// What stands in the way of one more worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Obstacle {
    /// One is on its way, or none is wanted.
    Patience,
    /// The application allows no more that run calls.
    Full,
    /// The process has as many as any can have.
    Crowded,
}

/// A process at the bound, as seen at the first look.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Standstill {
    calls: u64,
    since: Instant,
}

/// What is remembered for the growth of a process.
#[derive(Debug, Default)]
pub(crate) struct Growth {
    /// Whether its workers wait inside their calls now and then.
    has_waiters: bool,
    /// Whether a timer looks again.
    timer_set: bool,
    standstill: Option<Standstill>,
}

impl Shard {
    /// Tells clients how many workers there are.
    pub(crate) fn show_workers(&self, key: ProcessKey) {
        let Some(process) = self.processes.get(key) else { return };
        let ready = self.ready_workers(key);
        let most = process.application.workers_max.saturating_sub(u32::from(process.growth.has_waiters));
        process.control.set_workers(ready.min(most));
    }

    /// Workers that wait inside their calls and are there to stay.
    pub(crate) fn waiting_workers(&self, key: ProcessKey) -> u32 {
        let waiting = self.workers_of(key).filter(|(_, worker)| worker.stays() && worker.page.is_waiting());
        u32::try_from(waiting.count()).unwrap_or(u32::MAX)
    }

    /// Whether requests lie in lanes that nobody has taken.
    pub(crate) fn has_unclaimed(&self, key: ProcessKey) -> bool {
        let lanes = self.processes.get(key).map(|process| process.lanes.values()).into_iter().flatten();
        lanes.filter_map(|lane| lane.memory.as_ref()).any(|memory| memory.unclaimed() > 0)
    }

    /// A worker has work to leave to others, or waits inside its call.
    pub(crate) fn worker_rang(&mut self, key: ProcessKey) {
        self.note_waiters(key);
        let is_idle = self.workers_of(key).any(|(_, worker)| worker.is_ready() && worker.page.is_parked());
        if is_idle {
            self.wake_workers(key);
        } else if self.has_unclaimed(key) {
            self.help(key);
        }
    }

    /// Clients of a process whose workers wait now and then are to ring when nobody attends, however many workers there are.
    fn note_waiters(&mut self, key: ProcessKey) {
        let is_new = self.processes.get(key).is_some_and(|process| !process.growth.has_waiters);
        // The wait that the first ring tells of may be over by now.
        if is_new && self.workers_of(key).any(|(_, worker)| worker.page.has_waited()) {
            if let Some(process) = self.processes.get_mut(key) {
                process.growth.has_waiters = true;
            }
            self.show_workers(key);
            // A client publishes, fences and reads the count that was just changed; what it published before is seen next.
            std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        }
    }

    /// Somebody rang for requests that nobody takes. The ring is acknowledged now, or when it is worth to ring again.
    pub(crate) fn help(&mut self, key: ProcessKey) {
        match self.try_grow(key) {
            Ok(()) | Err(Obstacle::Patience) => self.acknowledge_rings(key),
            Err(Obstacle::Full | Obstacle::Crowded) => self.look_at_growth_later(key),
        }
    }

    /// Starts one more worker if the process may have one, and none is on its way already.
    pub(crate) fn grow(&mut self, key: ProcessKey) {
        // Whatever stands in the way, somebody rings or looks again.
        let _ = self.try_grow(key);
    }

    fn try_grow(&mut self, key: ProcessKey) -> Result<(), Obstacle> {
        self.note_waiters(key);
        let process = self.processes.get(key).ok_or(Obstacle::Patience)?;
        let is_wanted = process.wants_workers() || process.phase() == Phase::Draining && self.has_unclaimed(key);
        let starting = self.workers_of(key).any(|(_, worker)| worker.stage < WorkerStage::Ready);
        if starting || process.replacement_set || !is_wanted {
            return Err(Obstacle::Patience);
        }
        let waiting = self.waiting_workers(key);
        if self.staying_workers(key).saturating_sub(waiting) >= process.application.workers_max {
            return Err(Obstacle::Full);
        }
        if process.workers.len() + process.unsettled.indices().count() >= WORKERS_MAX {
            self.refuse_crowd(key);
            return Err(Obstacle::Crowded);
        }
        match self.start_worker(key) {
            Ok(()) => {
                self.look_for_idle_workers_later();
                Ok(())
            }
            Err(reason) => {
                self.worker_failed(key, reason, None);
                Err(Obstacle::Patience)
            }
        }
    }

    fn acknowledge_rings(&self, key: ProcessKey) {
        if let Some(process) = self.processes.get(key) {
            process.control.acknowledge_rings();
        }
    }

    fn look_at_growth_later(&mut self, key: ProcessKey) {
        if let Some(process) = self.processes.get_mut(key)
            && !std::mem::replace(&mut process.growth.timer_set, true)
        {
            self.timers.after(RING_PAUSE, Timer::Growth(key));
        }
    }

    /// Timer: clients may ring again, and what lies unclaimed is looked at.
    pub(crate) fn growth_due(&mut self, key: ProcessKey) {
        let Some(process) = self.processes.get_mut(key) else { return };
        process.growth.timer_set = false;
        self.acknowledge_rings(key);
        if self.has_unclaimed(key) && self.try_grow(key) == Err(Obstacle::Crowded) {
            self.look_at_growth_later(key);
        } else if let Some(process) = self.processes.get_mut(key) {
            process.growth.standstill = None;
        }
    }

    /// Every worker that a process can have is there. If all of them wait, what they wait for is refused.
    fn refuse_crowd(&mut self, key: ProcessKey) {
        if self.waiting_workers(key) < self.staying_workers(key) {
            return;
        }
        let calls = self.workers_of(key).map(|(_, worker)| worker.page.calls()).fold(0, u64::wrapping_add);
        let now = clock::now();
        let Some(process) = self.processes.get_mut(key) else { return };
        let seen = process.growth.standstill.filter(|seen| seen.calls == calls);
        let seen = *process.growth.standstill.insert(seen.unwrap_or(Standstill { calls, since: now }));
        let all = now.duration_since(seen.since) >= STANDSTILL_MAX;
        let Some(process) = self.processes.get(key) else { return };
        let memories = process.lanes.values().filter_map(|lane| lane.memory.as_ref());
        let keep = |root| !all && (root == 0 || !self.runs_root(key, root));
        let limit = u32::try_from(WORKERS_MAX).unwrap_or(u32::MAX);
        let refused: u32 = memories.map(|memory| memory.refuse_overloaded(keep, limit, limit)).sum();
        self.metrics.calls_refused += u64::from(refused);
        self.look_at_growth_later(key);
    }
}
