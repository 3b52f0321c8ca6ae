//! Who needs a process that is away: requests for lanes of any kind, and orders to stop, restart or restore it. They wait in the
//! order in which they came.
//!
//! 1. What waits is a request that was checked (rights, scope) and not begun. It is carried out from its beginning when the
//!    process is there: limits and states are those of then.
//! 2. It waits for [`AWAY_MAX`] at most, then it is refused with the state that the process is in: whoever asks again goes on
//!    waiting, to the deadline of the call or message that it asks for. An order waits for [`ORDER_AWAY_MAX`], because whoever gave
//!    it does not ask again; and `swap_wait = "refuse"` is about those who need the process, not about those who order it.
//! 3. There are at most [`WAITERS_PER_PROCESS_MAX`] for one process, and a client or worker has only so many requests open.
//! 4. Who is gone by then costs a look.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use praas_protocol::control::{ClientRequest, ControlError, ProcessState};
use praas_protocol::{Name, ProcessId};

use super::dozing::Need;
use crate::application::SwapWait;
use crate::clock;
use crate::lanes::LaneWish;
use crate::message_lanes::MessageLaneWish;
use crate::processes::Asker;
use crate::shard::Shard;
use crate::timers::Timer;
use crate::workers::WorkerKey;

/// How long a request waits for a process that is away. Less than clients and workers wait for an answer of the server.
const AWAY_MAX: Duration = Duration::from_secs(8);

/// How long an order to stop, restart or restore a process waits: as long as `praas process` waits for it.
const ORDER_AWAY_MAX: Duration = Duration::from_secs(600);

/// Requests that wait for one process: each is a few hundred bytes.
const WAITERS_PER_PROCESS_MAX: usize = 4096;

/// A request that waits.
#[derive(Debug)]
pub(crate) enum Waiter {
    /// A client's request of another kind, with the descriptor that came with it.
    Request { asker: Asker, body: Box<ClientRequest>, socket: Option<OwnedFd> },
    /// A client's lane.
    Lane { wish: LaneWish, on_behalf: Option<Name>, asker: Asker },
    /// The lane of a worker for calls of its own.
    CallLane { caller: WorkerKey, request: u32, process: Name },
    /// A message lane.
    MessageLane(Box<MessageLaneWish>),
}

impl Waiter {
    /// Whether it is an order about the process itself.
    fn is_order(&self) -> bool {
        use ClientRequest::{ProcessRestart, ProcessRestore};
        let is_one = |body| matches!(body, &ProcessRestart { .. } | &ProcessRestore { .. });
        self.is_stop() || matches!(self, Self::Request { body, .. } if is_one(&**body))
    }

    /// Whether it is an order to stop the process.
    fn is_stop(&self) -> bool {
        matches!(self, Self::Request { body, .. } if matches!(**body, ClientRequest::ProcessStop { .. }))
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    by_process: BTreeMap<ProcessId, VecDeque<(Instant, Waiter)>>,
    /// When a timer looks after them first.
    watched_at: Option<Instant>,
    /// Until when what is carried out now may wait if it has to again.
    until: Option<Instant>,
}

impl Waiting {
    /// Who waits for that process.
    pub(super) fn of(&self, id: &ProcessId) -> impl Iterator<Item = &Waiter> {
        self.by_process.get(id).into_iter().flatten().map(|(_, waiter)| waiter)
    }
}

impl Shard {
    /// Has a request wait for a process that [is away](Shard::is_away), and sees to it that the process comes back.
    pub(crate) fn wait_for(&mut self, id: ProcessId, waiter: Waiter) -> Result<(), ControlError> {
        if self.shutting_down {
            return Err(ControlError::ShuttingDown);
        }
        let application = self.applications.get(&id.application).ok_or(ControlError::UnknownProcess { process: id })?;
        let refuses = application.swap_wait == SwapWait::Refuse;
        let need = Need::of(&waiter, application);
        if self.processes.swapped.get(&id).is_some_and(|swapped| swapped.is_ending()) {
            return Err(ControlError::UnknownProcess { process: id });
        }
        let is_order = waiter.is_order();
        if refuses && !is_order {
            let state = self.state_of(&id).unwrap_or(ProcessState::Swapped);
            self.wake(&id, None, need);
            return Err(ControlError::WrongState { process: id, state });
        }
        if let Some(error) = self.failed_just_now(&id).filter(|_| !is_order) {
            return Err(error);
        }
        self.queue_waiter(id, waiter)?;
        self.wake(&id, None, need);
        Ok(())
    }

    /// Has a request wait, as long as its kind may.
    pub(super) fn queue_waiter(&mut self, id: ProcessId, waiter: Waiter) -> Result<(), ControlError> {
        let longest = if waiter.is_order() { ORDER_AWAY_MAX } else { AWAY_MAX };
        let until = self.swaps.waiting.until.unwrap_or_else(|| clock::now() + longest);
        let queue = self.swaps.waiting.by_process.entry(id).or_default();
        if queue.len() >= WAITERS_PER_PROCESS_MAX {
            return Err(ControlError::LimitReached {
                what: format!("requests that wait for {id} to come back"),
                used: queue.len() as u64,
                limit: WAITERS_PER_PROCESS_MAX as u64,
                asked: 1,
                advice: "ask again later".into(),
            });
        }
        queue.push_back((until, waiter));
        self.metrics.requests_waited += 1;
        self.watch_waiters(until);
        Ok(())
    }

    /// Has somebody look at who waits at a time, if nobody does so before.
    fn watch_waiters(&mut self, at: Instant) {
        if self.swaps.waiting.watched_at.is_none_or(|watched_at| at < watched_at) {
            self.swaps.waiting.watched_at = Some(at);
            self.timers.at(at, Timer::Away);
        }
    }

    /// The process is there, or will not be: what waited for it is carried out, which says so to whoever asked.
    pub(super) fn serve_waiters(&mut self, id: &ProcessId) {
        for (until, waiter) in self.swaps.waiting.by_process.remove(id).unwrap_or_default() {
            self.swaps.waiting.until = Some(until);
            self.carry_on(waiter);
        }
        self.swaps.waiting.until = None;
    }

    fn carry_on(&mut self, waiter: Waiter) {
        match waiter {
            Waiter::Request { asker, body, socket } => {
                if let Err(error) = self.carry_out(asker, &body, socket) {
                    self.answer_failed(asker, error);
                }
            }
            Waiter::Lane { wish, on_behalf, asker } => {
                if let Err(error) = self.open_lane(wish, on_behalf, asker) {
                    self.answer_failed(asker, error);
                }
            }
            Waiter::CallLane { caller, request, process } => self.open_call_lane(caller, request, process.into()),
            Waiter::MessageLane(wish) => {
                if let Err(error) = self.open_message_lane(&wish) {
                    self.refuse_sender(wish.asker, error);
                }
            }
        }
    }

    /// Tells everybody who waits for a process why it does not come.
    pub(crate) fn refuse_waiters(&mut self, id: &ProcessId, error: &ControlError) {
        for (_, waiter) in self.swaps.waiting.by_process.remove(id).unwrap_or_default() {
            self.refuse_waiter(waiter, error.clone());
        }
    }

    /// The same for a process that sleeps on because it cannot be woken: it can be stopped all the same.
    pub(super) fn refuse_all_but_stops(&mut self, id: &ProcessId, error: &ControlError) {
        for (_, waiter) in self.swaps.waiting.by_process.remove(id).unwrap_or_default() {
            if waiter.is_stop() {
                self.carry_on(waiter);
            } else {
                self.refuse_waiter(waiter, error.clone());
            }
        }
    }

    fn refuse_waiter(&mut self, waiter: Waiter, error: ControlError) {
        match waiter {
            Waiter::Request { asker, .. } | Waiter::Lane { asker, .. } => self.answer_failed(asker, error),
            Waiter::CallLane { caller, request, .. } => self.refuse_worker(caller, request, error),
            Waiter::MessageLane(wish) => self.refuse_sender(wish.asker, error),
        }
    }

    /// The server ends: nothing comes back any more.
    pub(crate) fn refuse_all_waiters(&mut self) {
        let all: Vec<_> = self.swaps.waiting.by_process.keys().copied().collect();
        all.iter().for_each(|id| self.refuse_waiters(id, &ControlError::ShuttingDown));
    }

    /// Timer: whose time is over.
    pub(crate) fn away_due(&mut self) {
        let now = clock::now();
        let mut late = Vec::new();
        for (id, queue) in &mut self.swaps.waiting.by_process {
            // In the order in which they came, which is that of their ends but for those that wait anew.
            let (over, left) = std::mem::take(queue).into_iter().partition(|(until, _)| *until <= now);
            *queue = left;
            let over: VecDeque<(Instant, Waiter)> = over;
            late.extend(over.into_iter().map(|(_, waiter)| (*id, waiter)));
        }
        self.swaps.waiting.by_process.retain(|_, queue| !queue.is_empty());
        let next = self.swaps.waiting.by_process.values().flatten().map(|(until, _)| *until).min();
        // One that was set for later comes to nothing, or to this.
        self.swaps.waiting.watched_at = None;
        if let Some(next) = next {
            self.watch_waiters(next);
        }
        for (process, waiter) in late {
            let state = self.state_of(&process).unwrap_or(ProcessState::Swapped);
            self.refuse_waiter(waiter, ControlError::WrongState { process, state });
        }
    }
}
