//! Waiting for answers: polling, sleeping on the cell, or being woken as a task by the reactor.

use super::*;

/// How a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitEnd {
    /// The answer is there.
    Answered,
    /// The deadline passed first.
    DeadlinePassed,
    /// The connection was lost first.
    Lost,
}
/// Who waits for a cell asynchronously.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// Generation of the waiting call; 0 for none. Read by the reactor before it takes the lock.
    generation: AtomicU32,
    waker: Mutex<Option<(Waker, Option<Instant>)>>,
}

impl Waiting {
    /// The waker, if `ended` says so of its deadline; else the deadline, if there is one.
    pub(super) fn take_if_ended(&self, ended: impl FnOnce(Option<Instant>) -> bool) -> Result<Waker, Option<Instant>> {
        let mut slot = lock(&self.waker);
        match slot.take() {
            Some((waker, deadline)) if ended(deadline) => {
                self.generation.store(0, Ordering::Relaxed);
                Ok(waker)
            }
            Some((waker, deadline)) => {
                *slot = Some((waker, deadline));
                Err(deadline)
            }
            None => Err(None),
        }
    }

    pub(super) fn set(&self, waker: &Waker, deadline: Option<Instant>, generation: u32) {
        let mut slot = lock(&self.waker);
        let replaced = match &mut *slot {
            Some((known, until)) if known.will_wake(waker) => {
                *until = deadline;
                None
            }
            _ => slot.replace((waker.clone(), deadline)),
        };
        self.generation.store(generation, Ordering::Release);
        drop(slot);
        // A waker's drop may run code that takes this lock.
        drop(replaced);
    }

    pub(super) fn clear(&self) {
        self.generation.store(0, Ordering::Relaxed);
        let old = lock(&self.waker).take();
        drop(old);
    }
}
pub(super) fn later(timeout: Duration) -> Instant {
    let now = Instant::now();
    // A timeout beyond what the clock can express is as good as a year.
    now.checked_add(timeout).unwrap_or_else(|| now + Duration::from_secs(365 * 86_400))
}

impl ClientLane {
    pub(super) fn cell(&self, ticket: &Ticket) -> &crate::cell::Cell {
        &self.memory.cells()[ticket.cell as usize]
    }

    /// Whether the answer is there.
    #[must_use]
    #[inline]
    pub fn is_answered(&self, ticket: &Ticket) -> bool {
        self.cell(ticket).is_done(ticket.generation)
    }

    /// Blocks until the answer is there, at most for `timeout`. The clock is read only once the first polls found nothing,
    /// and the timeout counts from then.
    #[inline]
    pub fn wait(&self, ticket: &Ticket, mode: WaitMode, timeout: Duration) -> WaitEnd {
        match mode {
            WaitMode::Spin => self.spin(ticket, timeout),
            WaitMode::Park => self.park(ticket, timeout),
            WaitMode::Adaptive => {
                if self.polls_pay(ticket) && self.spin_for_a_while(ticket) {
                    WaitEnd::Answered
                } else {
                    self.park(ticket, timeout)
                }
            }
        }
    }

    /// The part of [`ClientLane::wait`] that sleeps not at all and takes tens of microseconds at most: whether the answer is
    /// there. For who has something to do before a longer wait.
    #[inline]
    pub fn wait_briefly(&self, ticket: &Ticket, mode: WaitMode) -> bool {
        let polls_pay = match mode {
            WaitMode::Spin => true,
            WaitMode::Park => false,
            WaitMode::Adaptive => self.polls_pay(ticket),
        };
        if polls_pay { self.spin_for_a_while(ticket) } else { self.is_answered(ticket) }
    }

    #[inline]
    fn polls_pay(&self, ticket: &Ticket) -> bool {
        ticket.attended
            && self.worker_cpu.load(Ordering::Relaxed) != self.client_cpu.load(Ordering::Relaxed)
            && self.history.should_spin()
    }

    #[inline]
    pub(super) fn spin(&self, ticket: &Ticket, timeout: Duration) -> WaitEnd {
        let mut polls = 0_u32;
        let mut deadline = None;
        loop {
            if self.is_answered(ticket) {
                return WaitEnd::Answered;
            }
            polls = polls.wrapping_add(1);
            if polls < spin::POLLS_WITHOUT_PAUSE {
                continue;
            }
            crate::sync::pause();
            if polls.is_multiple_of(POLLS_PER_CHECK) {
                let deadline = *deadline.get_or_insert_with(|| later(timeout));
                if let Some(end) = self.ended(ticket, Some(deadline)) {
                    return end;
                }
            }
        }
    }

    pub(super) fn spin_for_a_while(&self, ticket: &Ticket) -> bool {
        let mut turn = SpinLoop::new(Some(SPIN_BUDGET));
        while !self.is_answered(ticket) {
            if !turn.pause() {
                self.history.miss();
                return false;
            }
        }
        self.history.hit();
        true
    }

    pub(super) fn park(&self, ticket: &Ticket, timeout: Duration) -> WaitEnd {
        if self.is_answered(ticket) {
            return WaitEnd::Answered;
        }
        // The counter, not the clock: a sleep may end early, and only then is the time that it took of interest.
        let started_ticks = ticks::now();
        let mut deadline = None;
        loop {
            let period = Duration::from_millis(PARKED_CHECK_MS);
            self.cell(ticket).park(ticket.generation, timeout.min(period));
            self.client_cpu.store(spin::current_cpu(), Ordering::Relaxed);
            if self.is_answered(ticket) {
                return WaitEnd::Answered;
            }
            if crate::simulation::is_turned() {
                return self.ended(ticket, None).unwrap_or(WaitEnd::DeadlinePassed);
            }
            let deadline = *deadline.get_or_insert_with(|| {
                later(timeout.saturating_sub(Duration::from_nanos(ticks::elapsed_ns(started_ticks))))
            });
            if let Some(end) = self.ended(ticket, Some(deadline)) {
                return end;
            }
            self.ring_again(ticket);
        }
    }

    /// For who waits in short turns: summons again if the request still lies unclaimed. A worker that died between being rung
    /// and claiming took the ring with it.
    pub fn ring_again(&self, ticket: &Ticket) {
        if ring::is_unclaimed(self.memory.entries(), ticket.position) {
            self.summon_again();
        }
    }

    /// Summons as after a publish, for a request that still lies unclaimed.
    pub(super) fn summon_again(&self) {
        self.summon(self.memory.attendance().after_publish());
        if self.control.phase() != Phase::Active {
            (self.ring_server)();
        }
    }

    pub(super) fn ended(&self, ticket: &Ticket, deadline: Option<Instant>) -> Option<WaitEnd> {
        if self.is_answered(ticket) {
            Some(WaitEnd::Answered)
        } else if self.is_lost() {
            Some(WaitEnd::Lost)
        } else if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            Some(WaitEnd::DeadlinePassed)
        } else {
            None
        }
    }

    /// Registers `waker` for the answer, or for the deadline, or for the loss of the connection. `Some` when one of them is
    /// there already. Somebody must run [`ClientLane::drive`].
    pub fn poll(&self, ticket: &Ticket, waker: &Waker, deadline: Option<Instant>) -> Option<WaitEnd> {
        self.waiting[ticket.cell as usize].set(waker, deadline, ticket.generation);
        // Pairs with the fence in `mark_lost`: one side sees the other.
        full_fence();
        if self.cell(ticket).ask_for_bell(ticket.generation)
            && !self.is_lost()
            && deadline.is_none_or(|deadline| deadline > Instant::now())
        {
            fault::point(Step::ClientAskedForBell);
            return None;
        }
        let end = self.ended(ticket, deadline)?;
        self.stop_waiting(ticket.cell);
        Some(end)
    }

    pub(super) fn stop_waiting(&self, cell: u32) {
        self.waiting[cell as usize].clear();
    }

    /// Reactor: wakes the tasks whose calls ended, then sleeps until the next answer, the nearest deadline, a call of
    /// [`ClientLane::interrupt`], or `timeout`. Returns the number of tasks woken.
    pub fn drive(&self, timeout: Duration) -> usize {
        let bell = self.memory.client_bell();
        let seen = bell.begin_look();
        let (woken, nearest) = self.wake_tasks();
        if woken == 0 {
            let timeout =
                nearest.map_or(timeout, |nearest| nearest.saturating_duration_since(Instant::now()).min(timeout));
            bell.sleep(seen, timeout);
        }
        woken
    }

    /// Wakes tasks whose calls ended, outside the slots' locks: a waker may drop a future that takes them.
    pub(super) fn wake_tasks(&self) -> (usize, Option<Instant>) {
        let (mut woken, mut nearest, now) = (0, None::<Instant>, Instant::now());
        for (waiting, cell) in self.waiting.iter().zip(self.memory.cells()) {
            let generation = waiting.generation.load(Ordering::Acquire);
            if generation == 0 {
                continue;
            }
            match waiting.take_if_ended(|deadline| {
                cell.is_done(generation) || self.is_lost() || deadline.is_some_and(|deadline| deadline <= now)
            }) {
                Ok(waker) => {
                    waker.wake();
                    woken += 1;
                }
                Err(Some(deadline)) => nearest = Some(nearest.map_or(deadline, |nearest| nearest.min(deadline))),
                Err(None) => {}
            }
        }
        (woken, nearest)
    }

    /// Makes [`ClientLane::drive`] look again.
    pub fn interrupt(&self) {
        let bell = self.memory.client_bell();
        if bell.ring() {
            bell.wake();
        }
    }
}
