//! The thread behind the futures of one process: it drives the lane's client bell, keeps their deadlines, and opens lanes
//! that they need. Started by the first future that must sleep; ended when none has slept for a while.
//!
//! Invariants
//! 1. A future that returned `Pending` has a seat, and a seat is served by a running thread: both are decided under `state`.
//! 2. A seat's waker is woken when its deadline passes, when what it needs may be there, and when nothing will ever come.
//!    Waking too often is allowed, never is not: seats that nobody else owes a wake-up are looked at every few milliseconds.
//! 3. The thread keeps the process alive only while there are seats.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Waker;
use std::thread;
use std::time::{Duration, Instant};

use praas_protocol::control::LaneId;
use praas_protocol::{CallError, Phase};

use crate::backoff::Backoff;
use crate::error::LaneVerdict;
use crate::limits::{
    BACKOFF_REFUSED_MAX, DRIVER_LINGER, DRIVER_SLEEP_BUSY, DRIVER_SLEEP_MAX, FUTURES_WAITING_MAX, REQUEST_DEADLINE,
};
use crate::process::ProcessShared;
use crate::session::lock;

/// What a sleeping future waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Need {
    /// An answer in this lane: the lane wakes it.
    Answer(LaneId),
    /// A free cell or block.
    Room,
    /// A process that takes calls.
    Lane,
}

/// The seats of one process' futures.
#[derive(Default)]
pub(crate) struct Driver {
    state: Mutex<DriverState>,
    /// Rung when the thread should look again and is not in the lane's bell.
    changed: Condvar,
    /// Seats that need room, so that finishing calls see with one load whether anybody waits.
    room_seats: AtomicUsize,
}

#[derive(Default)]
struct DriverState {
    running: bool,
    ended: bool,
    last_number: u64,
    seats: BTreeMap<u64, Sitting>,
    ends: BTreeSet<(Instant, u64)>,
    needs: BTreeSet<(Need, u64)>,
    sleeping_until: Option<Instant>,
}

struct Sitting {
    waker: Waker,
    end: Instant,
    /// `None` once it was woken: it will come back or leave.
    need: Option<Need>,
    verdict: Option<CallError>,
}

/// A future's place; given up when dropped.
pub(crate) struct Seat {
    driver: Arc<Driver>,
    number: u64,
}

impl Seat {
    /// Why the future's need will never be met, if that was found.
    pub(crate) fn take_verdict(&self) -> Option<CallError> {
        lock(&self.driver.state).seats.get_mut(&self.number)?.verdict.take()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut state = lock(&self.driver.state);
        let Some(sitting) = state.seats.remove(&self.number) else { return };
        state.ends.remove(&(sitting.end, self.number));
        match sitting.need {
            Some(need) => self.driver.forget_need(&mut state, need, self.number),
            // It may have been woken for room that it did not use: the next in line gets it.
            None => self.driver.wake_for_room(&mut state, 1),
        }
    }
}

impl ProcessShared {
    /// Takes or renews a seat: `waker` is woken at `end`, and when `need` may be met.
    pub(crate) fn sit(
        self: &Arc<Self>,
        seat: &mut Option<Seat>,
        waker: &Waker,
        end: Instant,
        need: Need,
    ) -> Result<(), CallError> {
        let driver = &self.driver;
        let mut state = lock(&driver.state);
        let number = match seat {
            Some(seat) => seat.number,
            None if state.seats.len() >= FUTURES_WAITING_MAX => {
                let limit = FUTURES_WAITING_MAX as u64;
                return Err(CallError::Overloaded { what: "the table of sleeping calls", used: limit, limit });
            }
            None => {
                state.last_number += 1;
                let number = state.last_number;
                *seat = Some(Seat { driver: Arc::clone(driver), number });
                number
            }
        };
        driver.put(&mut state, number, waker, end, need);
        let interrupt = state.sleeping_until.is_some_and(|until| driver_is_late(until, end, need));
        let start = !state.running && !state.ended;
        state.running |= start;
        drop(state);
        if start {
            self.start_driver()?;
        } else if interrupt {
            driver.changed.notify_one();
            self.lane.load().lane().interrupt_drive();
        }
        Ok(())
    }

    /// Called when a call gave back its cell: the next future in line may have it.
    #[inline]
    pub(crate) fn room_was_freed(&self) {
        // A seat taken at this very moment may be missed; the thread looks after seats that need room on its own.
        if self.driver.room_seats.load(Ordering::Relaxed) > 0 {
            self.driver.wake_next_for_room();
        }
    }

    fn start_driver(self: &Arc<Self>) -> Result<(), CallError> {
        let driver = Arc::clone(&self.driver);
        let process = Arc::downgrade(self);
        let started = thread::Builder::new().name("praas-driver".into()).spawn(move || drive(&driver, &process));
        if started.is_err() {
            lock(&self.driver.state).running = false;
            return Err(CallError::Overloaded { what: "the host's room for threads", used: 0, limit: 0 });
        }
        Ok(())
    }
}

/// Whether a thread asleep until `until` would look too late after a seat.
fn driver_is_late(until: Instant, end: Instant, need: Need) -> bool {
    end < until || !matches!(need, Need::Answer(_)) && until > Instant::now() + DRIVER_SLEEP_BUSY
}

impl Driver {
    /// No future will come any more.
    pub(crate) fn end(&self) {
        lock(&self.state).ended = true;
        self.changed.notify_all();
    }

    fn put(&self, state: &mut DriverState, number: u64, waker: &Waker, end: Instant, need: Need) {
        if let Some(sitting) = state.seats.get_mut(&number) {
            let before = sitting.need.replace(need);
            sitting.waker.clone_from(waker);
            // The end of a call never changes.
            if before == Some(need) {
                return;
            }
            if let Some(before) = before {
                self.forget_need(state, before, number);
            }
            // A seat whose deadline woke it may sit down once more while its last attempt is made.
            state.ends.insert((end, number));
        } else {
            state.seats.insert(number, Sitting { waker: waker.clone(), end, need: Some(need), verdict: None });
            state.ends.insert((end, number));
        }
        state.needs.insert((need, number));
        if need == Need::Room {
            self.room_seats.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn forget_need(&self, state: &mut DriverState, need: Need, number: u64) {
        if state.needs.remove(&(need, number)) && need == Need::Room {
            self.room_seats.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Wakes one seat, which keeps its place and its deadline.
    fn wake(&self, state: &mut DriverState, number: u64, verdict: Option<CallError>) {
        let Some(sitting) = state.seats.get_mut(&number) else { return };
        sitting.verdict = verdict;
        sitting.waker.wake_by_ref();
        if let Some(need) = sitting.need.take() {
            self.forget_need(state, need, number);
        }
    }

    fn wake_next_for_room(&self) {
        self.wake_for_room(&mut lock(&self.state), 1);
    }

    fn wake_for_room(&self, state: &mut DriverState, seats: usize) {
        for number in seats_with(state, Need::Room, seats) {
            self.wake(state, number, None);
        }
    }
}

/// Seats with this need, in the order in which they came.
fn seats_with(state: &DriverState, need: Need, seats: usize) -> Vec<u64> {
    state.needs.range((need, 0)..=(need, u64::MAX)).take(seats).map(|&(_, number)| number).collect()
}

/// The thread.
fn drive(driver: &Arc<Driver>, process: &Weak<ProcessShared>) {
    let mut pace = LanePace { backoff: Backoff::new(BACKOFF_REFUSED_MAX), not_before: None };
    loop {
        if !driver.wait_for_seats() {
            return;
        }
        // A seat belongs to a call, which keeps its process: without a process there is no seat.
        let Some(process) = process.upgrade() else { continue };
        process.drive_turn(&mut pace);
    }
}

/// When the lane is next looked after for seats that need one.
struct LanePace {
    backoff: Backoff,
    not_before: Option<Instant>,
}

impl Driver {
    /// False when the thread should end: then the next seat starts another.
    fn wait_for_seats(&self) -> bool {
        let mut state = lock(&self.state);
        let linger_end = Instant::now() + DRIVER_LINGER;
        while state.seats.is_empty() {
            let left = linger_end.saturating_duration_since(Instant::now());
            if state.ended || left.is_zero() {
                state.running = false;
                return false;
            }
            state.sleeping_until = Some(linger_end);
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
            state.sleeping_until = None;
        }
        true
    }

    fn wake_expired(&self, state: &mut DriverState, now: Instant) {
        while let Some(&(end, number)) = state.ends.first().filter(|(end, _)| *end <= now) {
            state.ends.remove(&(end, number));
            self.wake(state, number, None);
        }
    }

    fn wake_all_for_lane(&self, verdict: Option<&CallError>) {
        let mut state = lock(&self.state);
        for number in seats_with(&state, Need::Lane, usize::MAX) {
            self.wake(&mut state, number, verdict.cloned());
        }
    }

    /// Wakes seats whose answers come in a lane that is not driven any more; whether there are any.
    fn wake_off_lane(&self, state: &mut DriverState, current: LaneId) -> bool {
        let off_lane = |&&(need, _): &&(Need, u64)| matches!(need, Need::Answer(lane) if lane != current);
        let numbers: Vec<_> = state.needs.iter().filter(off_lane).map(|&(_, number)| number).collect();
        for &number in &numbers {
            self.wake(state, number, None);
        }
        !numbers.is_empty()
    }
}

impl ProcessShared {
    fn drive_turn(&self, pace: &mut LanePace) {
        let driver = &*self.driver;
        self.look_after_lane(pace);
        let open = self.lane.load_full();
        let mut state = lock(&driver.state);
        let now = Instant::now();
        driver.wake_expired(&mut state, now);
        let room_seats = driver.room_seats.load(Ordering::Relaxed);
        if room_seats > 0 {
            driver.wake_for_room(&mut state, open.free_cells());
        }
        let replaced = self.lane_was_replaced(&state, open.id()) && driver.wake_off_lane(&mut state, open.id());
        let pressed = replaced || room_seats > 0 || has_need(&state, Need::Lane);
        let longest = now + if pressed { DRIVER_SLEEP_BUSY } else { DRIVER_SLEEP_MAX };
        let until = state.ends.first().map_or(longest, |&(end, _)| end.min(longest));
        state.sleeping_until = Some(until);
        if open.is_lost() {
            // The lane wakes nobody any more. Its futures were woken when it was lost.
            state = driver.sleep(state, until - now);
        } else {
            drop(state);
            open.lane().drive(until - now);
            state = lock(&driver.state);
        }
        state.sleeping_until = None;
    }

    /// Opens a lane, or waits for the phase, for the seats that need one.
    fn look_after_lane(&self, pace: &mut LanePace) {
        let now = Instant::now();
        let first_end = {
            let state = lock(&self.driver.state);
            if !has_need(&state, Need::Lane) {
                pace.backoff.restart();
                pace.not_before = None;
                return;
            }
            state.ends.first().map_or(now, |&(end, _)| end)
        };
        if pace.not_before.is_some_and(|not_before| now < not_before) {
            return;
        }
        match self.reopen(first_end.min(now + REQUEST_DEADLINE)) {
            Ok(()) if self.lane.load().phase() == Phase::Active => self.driver.wake_all_for_lane(None),
            Ok(()) | Err(LaneVerdict::Later(_)) => {}
            Err(LaneVerdict::Final(error)) => self.driver.wake_all_for_lane(Some(&error)),
        }
        pace.not_before = Some(Instant::now() + pace.backoff.pause());
    }

    /// Whether some seat waits for an answer elsewhere than in the lane `current`. Only the outermost needs are looked at.
    fn lane_was_replaced(&self, state: &DriverState, current: LaneId) -> bool {
        let other = |need: Option<&(Need, u64)>| matches!(need, Some((Need::Answer(lane), _)) if *lane != current);
        other(state.needs.first()) || other(state.needs.range(..(Need::Room, 0)).next_back())
    }
}

impl Driver {
    fn sleep<'a>(&self, state: MutexGuard<'a, DriverState>, limit: Duration) -> MutexGuard<'a, DriverState> {
        self.changed.wait_timeout(state, limit).unwrap_or_else(PoisonError::into_inner).0
    }
}

fn has_need(state: &DriverState, need: Need) -> bool {
    state.needs.range((need, 0)..).next().is_some_and(|&(found, _)| found == need)
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = lock(&self.state);
        formatter
            .debug_struct("Driver")
            .field("running", &state.running)
            .field("seats", &state.seats.len())
            .finish_non_exhaustive()
    }
}
