//! The thread behind the futures of one process: it drives the lane's client bell, keeps their deadlines, and opens lanes
//! that they need. Started by the first future that must sleep; ended when none has slept for a while.
//!
//! Invariants
//! 1. A future that returned `Pending` has a seat, and a seat is served by a running thread: both are decided under `state`.
//! 2. A seat's waker is woken when its deadline passes, when what it needs may be there, and when nothing will ever come.
//!    Waking too often is allowed, never is not: seats that nobody else owes a wake-up are looked at every few milliseconds.
//! 3. Wakers are woken and dropped while no lock of ours is held: either may run a future's code, or drop a future.
//! 4. The thread keeps the process alive only while there are seats.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::task::Waker;
use std::thread;
use std::time::Instant;

use praas_protocol::control::LaneId;
use praas_protocol::{CallError, Phase};

use crate::backoff::Backoff;
use crate::error::LaneVerdict;
use crate::limits::{
    BACKOFF_REFUSED_MAX, DRIVER_LINGER, DRIVER_SLEEP_BUSY, DRIVER_SLEEP_MAX, FUTURES_WAITING_MAX, REQUEST_DEADLINE,
};
use crate::open_lane::OpenLane;
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
    /// The thread waits for a first seat, and no deadline or bell will end that.
    idle: bool,
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
        let next = match sitting.need {
            Some(need) => {
                self.driver.forget_need(&mut state, need, self.number);
                Vec::new()
            }
            // It may have been woken for room that it did not use: the next in line gets it.
            None => self.driver.take_wakers(&mut state, Need::Room, 1, None),
        };
        drop(state);
        wake_all(next);
        drop(sitting);
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
        let replaced = driver.put(&mut state, number, waker, end, need);
        let interrupt = state.idle || state.sleeping_until.is_some_and(|until| driver_is_late(until, end, need));
        let start = !state.running && !state.ended;
        state.running |= start;
        drop(state);
        drop(replaced);
        if start {
            self.start_driver()?;
        } else if interrupt {
            driver.changed.notify_one();
            self.lane.load().lane().interrupt();
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

    /// Enters or renews a seat; the waker that it had.
    fn put(&self, state: &mut DriverState, number: u64, waker: &Waker, end: Instant, need: Need) -> Option<Waker> {
        let sitting = Sitting { waker: waker.clone(), end, need: Some(need), verdict: None };
        let before = state.seats.insert(number, sitting);
        if let Some(need_before) = before.as_ref().and_then(|before| before.need) {
            self.forget_need(state, need_before, number);
        }
        state.ends.insert((end, number));
        state.needs.insert((need, number));
        if need == Need::Room {
            self.room_seats.fetch_add(1, Ordering::Relaxed);
        }
        before.map(|before| before.waker)
    }

    fn forget_need(&self, state: &mut DriverState, need: Need, number: u64) {
        if state.needs.remove(&(need, number)) && need == Need::Room {
            self.room_seats.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// The waker of a seat, which keeps its place and its deadline but no longer its need.
    fn take_waker(&self, state: &mut DriverState, number: u64, verdict: Option<CallError>) -> Option<Waker> {
        let sitting = state.seats.get_mut(&number)?;
        sitting.verdict = verdict;
        let waker = sitting.waker.clone();
        if let Some(need) = sitting.need.take() {
            self.forget_need(state, need, number);
        }
        Some(waker)
    }

    /// The wakers of the first `seats` seats with this need.
    fn take_wakers(
        &self,
        state: &mut DriverState,
        need: Need,
        seats: usize,
        verdict: Option<&CallError>,
    ) -> Vec<Waker> {
        let numbers = seats_with(state, need, seats);
        numbers.into_iter().filter_map(|number| self.take_waker(state, number, verdict.cloned())).collect()
    }

    #[cold]
    fn wake_next_for_room(&self) {
        let next = self.take_wakers(&mut lock(&self.state), Need::Room, 1, None);
        wake_all(next);
    }
}

fn wake_all(wakers: Vec<Waker>) {
    for waker in wakers {
        waker.wake();
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
            state.idle = true;
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
            state.idle = false;
        }
        true
    }

    fn take_expired(&self, state: &mut DriverState, now: Instant) -> Vec<Waker> {
        let mut wakers = Vec::new();
        while let Some(&(end, number)) = state.ends.first().filter(|(end, _)| *end <= now) {
            state.ends.remove(&(end, number));
            wakers.extend(self.take_waker(state, number, None));
        }
        wakers
    }

    fn wake_all_for_lane(&self, verdict: Option<&CallError>) {
        let wakers = self.take_wakers(&mut lock(&self.state), Need::Lane, usize::MAX, verdict);
        wake_all(wakers);
    }

    /// The wakers of seats whose answers come in a lane that is not driven any more.
    fn take_off_lane(&self, state: &mut DriverState, current: LaneId) -> Vec<Waker> {
        let off_lane = |&&(need, _): &&(Need, u64)| matches!(need, Need::Answer(lane) if lane != current);
        let numbers: Vec<_> = state.needs.iter().filter(off_lane).map(|&(_, number)| number).collect();
        numbers.into_iter().filter_map(|number| self.take_waker(state, number, None)).collect()
    }
}

impl ProcessShared {
    fn drive_turn(&self, pace: &mut LanePace) {
        self.look_after_lane(pace);
        let open = self.lane.load_full();
        let now = Instant::now();
        let wakers = self.take_due(&open, now);
        let woke = !wakers.is_empty();
        wake_all(wakers);
        let until = self.driver.plan_sleep(now, woke);
        let limit = until.saturating_duration_since(Instant::now());
        if open.is_lost() {
            // The lane wakes nobody any more. Its futures were woken when it was lost.
            let state = lock(&self.driver.state);
            drop(self.driver.changed.wait_timeout(state, limit).unwrap_or_else(PoisonError::into_inner));
        } else {
            open.lane().drive(limit);
        }
        lock(&self.driver.state).sleeping_until = None;
    }

    /// The wakers of all seats that should look again now.
    fn take_due(&self, open: &OpenLane, now: Instant) -> Vec<Waker> {
        let driver = &*self.driver;
        let mut state = lock(&driver.state);
        let mut wakers = driver.take_expired(&mut state, now);
        if driver.room_seats.load(Ordering::Relaxed) > 0 {
            wakers.extend(driver.take_wakers(&mut state, Need::Room, open.free_cells(), None));
        }
        if lane_was_replaced(&state, open.id()) {
            wakers.extend(driver.take_off_lane(&mut state, open.id()));
        }
        wakers
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
}

impl Driver {
    /// Decides and announces how long the thread sleeps. Short when seats need what no bell announces, or were just woken
    /// and may come back with such a need.
    fn plan_sleep(&self, now: Instant, woke: bool) -> Instant {
        let mut state = lock(&self.state);
        let pressed = woke || has_need(&state, Need::Room) || has_need(&state, Need::Lane);
        let longest = now + if pressed { DRIVER_SLEEP_BUSY } else { DRIVER_SLEEP_MAX };
        let until = state.ends.first().map_or(longest, |&(end, _)| end.min(longest));
        state.sleeping_until = Some(until);
        until
    }
}

/// Whether some seat waits for an answer in another lane than `current`: needs are ordered by lane, so the outermost tell.
fn lane_was_replaced(state: &DriverState, current: LaneId) -> bool {
    let other = |need: Option<&(Need, u64)>| matches!(need, Some((Need::Answer(lane), _)) if *lane != current);
    other(state.needs.first()) || other(state.needs.range(..(Need::Room, 0)).next_back())
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
