//! A worker's end of all its lanes: finds the next call, waiting in the way its application asks for.
//!
//! One thread owns a `WorkerEnd`. Between two calls it looks, in this order, at its mail word (has the server written to
//! the control socket?), the phase word (may I claim?), and its lanes in turn, one claim each, so that no client starves
//! another. When nothing is there it polls while that pays ([`crate::spin`]) and then sleeps in the caller's `park`, after
//! the handshake of [`crate::attendance`].
//!
//! Invariants:
//! 1. The phase word is loaded, and copied into the worker's page, before every attempt to claim ([`crate::phase_word`]).
//! 2. A claim record is made before the ring entry is freed ([`crate::claim`]).
//! 3. `park` is entered only after all `parked` bits are set, a fence, and a look at mail, phase and every lane.
//! 4. With several workers, one that stops polling to run a call has cleared its `spinning` bits, fenced, looked at all
//!    lanes again, and rung for another if work is left; if none sleeps and the process may have more workers, the call
//!    says so ([`RunningCall::needs_help`]). With one worker the bit stays: nobody else could be rung.
//! 5. Rings that were held back ([`crate::held_rings`]) are made up for whenever the lanes are empty, and before anything
//!    else than a call of a lane.

mod aside;
mod in_call;

use std::cell::Cell;
use std::os::fd::OwnedFd;

use praas_protocol::Outcome;
use praas_protocol::control::{LaneId, WaitMode};

use crate::attendance;
use crate::control_page::ControlView;
use crate::fault::{self, Step};
use crate::held_replies::{HeldReplies, HoldError};
use crate::held_rings::HeldRings;
use crate::log_ring::DurableWatch;
use crate::phase_word;
use crate::request::{OutOfBounds, Place, RequestCopy};
use crate::running_call::{RUNNING_RECORD, RunningCall};
use crate::segment::{AttachError, Segment};
use crate::spin::{self, SPIN_BUDGET, SpinHistory, SpinLoop};
use crate::sync::Ordering;
use crate::tag::WorkerTag;
use crate::ticks;
use crate::worker_lane::{AnswerPayload, WorkerLane, WorkerLaneParts};
use crate::worker_page::{self, Words};

pub use aside::{AsideCall, ClaimedAt, NO_LANE};
pub use in_call::InCall;

/// What a worker is told when it starts.
#[derive(Debug)]
pub struct WorkerStart {
    /// Its own page.
    pub page: OwnedFd,
    /// The control page of its process.
    pub control: OwnedFd,
    /// Its tag.
    pub tag: WorkerTag,
    /// How it waits.
    pub wait_mode: WaitMode,
    /// Most workers of its process.
    pub workers_max: u32,
    /// Largest payload in bytes.
    pub payload_bytes_max: u32,
}

/// What a worker does next.
#[derive(Debug)]
pub enum Next<'w> {
    /// Run this call.
    Call(RunningCall<'w>),
    /// Read the control socket.
    Mail,
    /// The process is closed: nothing will be claimed; wait for the server's word on the control socket.
    Closed,
}

/// What a look beside the lanes came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beside {
    /// Nothing is there, as far as can be seen without a system call.
    Nothing,
    /// The kernel was asked: nothing is there.
    Asked,
    /// Something is there.
    Found,
}

/// A worker's end of its lanes.
#[derive(Debug)]
pub struct WorkerEnd {
    pub(crate) page: Segment,
    control: ControlView,
    pub(crate) tag: WorkerTag,
    wait_mode: WaitMode,
    workers_max: u32,
    pub(crate) payload_bytes_max: u32,
    lanes: Vec<WorkerLane>,
    /// Where the next round over the lanes begins.
    turn: usize,
    mail_seen: u32,
    phase_seen: u64,
    pub(crate) sequence: u64,
    /// Whether the `spinning` bits are set.
    spinning: Cell<bool>,
    /// Whether this worker ever waited inside a call.
    has_waited: Cell<bool>,
    history: SpinHistory,
    /// The CPU that the last caller ran on.
    caller_cpu: u32,
    /// The CPU that this worker was last seen on.
    pub(crate) own_cpu: u32,
    /// Requests are left behind, no other worker sleeps, and the process could have more workers.
    pub(crate) needs_help: bool,
    /// How many workers there were when this one asked for another; a ring for each number is enough, and one that the
    /// server could not follow is made good by the clients, which ring again while they wait.
    rung_at: u32,
    pub(crate) held_rings: HeldRings,
    /// Of a process that is logged.
    pub(crate) held: Option<HeldReplies>,
    pub(crate) current: Current,
}

/// The request whose record is made and whose entry is freed. It stays here while its call runs.
#[derive(Debug)]
pub(crate) struct Current {
    /// Index of its lane.
    pub(crate) lane: usize,
    pub(crate) request: RequestCopy,
    /// The checked place of its payload.
    pub(crate) payload: Place,
    /// 0 where nobody asks: without a deadline, in a lane whose rings are never held back.
    pub(crate) claimed_at_ticks: u64,
}

impl WorkerEnd {
    /// Attaches a worker's pages.
    ///
    /// # Errors
    /// [`AttachError`] when a descriptor is not the page it should be.
    pub fn new(start: WorkerStart) -> Result<Self, AttachError> {
        ticks::anchor();
        Ok(Self {
            page: worker_page::attach(start.page)?,
            control: ControlView::attach(start.control)?,
            tag: start.tag,
            wait_mode: start.wait_mode,
            workers_max: start.workers_max,
            payload_bytes_max: start.payload_bytes_max,
            lanes: Vec::new(),
            turn: 0,
            mail_seen: 0,
            phase_seen: 0,
            sequence: 0,
            spinning: Cell::new(false),
            has_waited: Cell::new(false),
            history: SpinHistory::default(),
            caller_cpu: u32::MAX,
            own_cpu: u32::MAX,
            needs_help: false,
            rung_at: 0,
            held_rings: HeldRings::new(),
            held: None,
            current: Current {
                lane: 0,
                request: RequestCopy::none(),
                payload: Place::Inline { bytes: 0 },
                claimed_at_ticks: 0,
            },
        })
    }

    /// Holds replies until what their calls saw is durable, from now on. To be said before the first lane is added.
    ///
    /// # Errors
    /// [`HoldError`].
    pub fn hold_replies(&mut self, watch: DurableWatch) -> Result<(), HoldError> {
        let page = self.page.fd().try_clone_to_owned().map_err(AttachError::System)?;
        self.held = Some(HeldReplies::start(page, watch)?);
        Ok(())
    }

    /// The replies that are held; `None` where they are not.
    #[must_use]
    pub fn held_replies(&self) -> Option<&HeldReplies> {
        self.held.as_ref()
    }

    /// Serves one more lane.
    ///
    /// # Errors
    /// [`AttachError`] when a descriptor is not what the message says.
    pub fn add_lane(&mut self, parts: WorkerLaneParts) -> Result<(), AttachError> {
        if let Some(held) = &self.held {
            held.add_lane(&parts)?;
        }
        let lane = WorkerLane::attach(parts)?;
        if self.spinning.get() {
            lane.memory.attendance().start_spinning(self.tag);
        }
        self.lanes.push(lane);
        Ok(())
    }

    /// Forgets a lane. False if it was not served.
    pub fn remove_lane(&mut self, id: LaneId) -> bool {
        self.ring_held();
        let before = self.lanes.len();
        for lane in self.lanes.iter().filter(|lane| lane.id == id) {
            // Its client may go on for a while, and must not believe that somebody polls.
            lane.memory.attendance().forget(self.tag);
        }
        self.lanes.retain(|lane| lane.id != id);
        if let Some(held) = &self.held {
            held.remove_lane(id);
        }
        self.turn = 0;
        self.lanes.len() < before
    }

    /// Lanes served.
    #[must_use]
    pub fn lane_count(&self) -> usize {
        self.lanes.len()
    }

    /// The control page.
    #[must_use]
    pub fn control(&self) -> &ControlView {
        &self.control
    }

    fn words(&self) -> &Words {
        worker_page::words(&self.page)
    }

    /// The next call, or the next thing to attend to. `park` must sleep until the control socket or a lane's doorbell is
    /// ready, drain what was rung, and say whether the control socket is readable or closed: then the answer is
    /// [`Next::Mail`].
    #[inline]
    pub fn next(&mut self, park: &mut dyn FnMut() -> bool) -> Next<'_> {
        // The second look says nothing, so there is always a first answer.
        self.next_or(|_| Beside::Nothing, park).unwrap_or(Next::Mail)
    }

    /// As [`WorkerEnd::next`], for a runtime that serves sockets of its own beside the lanes: `beside` is asked whenever the
    /// lanes are empty, told whether the worker polls, and `None` is the answer when it found something.
    #[inline]
    pub fn next_or(
        &mut self,
        mut beside: impl FnMut(bool) -> Beside,
        park: &mut dyn FnMut() -> bool,
    ) -> Option<Next<'_>> {
        let mut polling: Option<SpinLoop> = None;
        loop {
            let mail = self.words().mail.load(Ordering::Acquire);
            if mail != self.mail_seen {
                self.mail_seen = mail;
                self.ring_held();
                return Some(Next::Mail);
            }
            if !self.may_claim() {
                self.ring_held();
                return Some(Next::Closed);
            }
            if self.poll_lanes() {
                if polling.is_some() {
                    self.history.hit();
                } else {
                    // Work was there at once, so there may be more.
                    self.lanes[self.current.lane].prefetch_next();
                }
                return Some(Next::Call(self.running()));
            }
            self.ring_held();
            let looked = beside(polling.is_some());
            if looked == Beside::Found {
                if polling.is_some() {
                    self.history.hit();
                }
                return None;
            }
            let go_on = match &mut polling {
                Some(turn) if looked == Beside::Asked => turn.pause_after_call(),
                Some(turn) => turn.pause(),
                None => {
                    polling = self.start_polling();
                    polling.is_some()
                }
            };
            if !go_on {
                if polling.take().is_some() {
                    self.history.miss();
                }
                if self.sleep(park) {
                    return Some(Next::Mail);
                }
            }
        }
    }

    /// Makes up for the rings that were held back for more answers.
    #[inline]
    pub(crate) fn ring_held(&self) {
        if self.held_rings.take() {
            self.lanes.iter().for_each(WorkerLane::ring_if_owed);
        }
    }

    fn may_claim(&mut self) -> bool {
        let words = worker_page::words(&self.page);
        phase_word::before_claim(self.control.phase_atomic(), &words.phase_copy, &mut self.phase_seen)
    }

    /// One claim from the next lane that has a request, in turn. True: it is the current one now.
    #[inline]
    fn poll_lanes(&mut self) -> bool {
        for _ in 0..self.lanes.len() {
            let index = self.turn;
            self.turn = if index + 1 == self.lanes.len() { 0 } else { index + 1 };
            if self.poll_lane(index) {
                return true;
            }
        }
        false
    }

    #[inline]
    fn poll_lane(&mut self, index: usize) -> bool {
        let stops_polling = self.workers_max > 1 && self.spinning.get();
        let lane = &mut self.lanes[index];
        let id = lane.id;
        let request = &mut self.current.request;
        let Some(taken) = lane.poll(self.tag, stops_polling, request) else { return false };
        fault::point(Step::WorkerEntryClaimed);
        if self.sequence.is_multiple_of(u64::from(spin::REQUESTS_PER_CPU_LOOK)) {
            self.own_cpu = spin::current_cpu();
        }
        self.sequence += 1;
        let record = &worker_page::words(&self.page).claims[RUNNING_RECORD];
        record.claim(self.sequence, id.0, request.target, request.root);
        fault::point(Step::WorkerRecordMade);
        taken.free();
        lane.prefetch_cell(request.target);
        fault::point(Step::WorkerEntryFreed);
        self.caller_cpu = request.cpu;
        self.current.lane = index;
        if self.workers_max > 1 {
            self.pass_on_the_rest();
        }
        self.admit()
    }

    /// Invariant 4: before this worker turns to its call.
    fn pass_on_the_rest(&mut self) {
        let polled = if self.spinning.take() { &self.lanes[..] } else { &[] };
        attendance::before_call(polled.iter().map(|lane| lane.memory.attendance()), self.tag);
        fault::point(Step::WorkerStoppedSpinning);
        self.needs_help = false;
        let mut work_is_left = false;
        for lane in &mut self.lanes {
            if lane.has_work() {
                work_is_left = true;
                if lane.memory.attendance().others_parked(self.tag) {
                    lane.ring_doorbell();
                    return;
                }
            }
        }
        self.needs_help = work_is_left && self.may_ask_for_help();
    }

    /// Whether the server could start another worker, and was not asked for this one yet.
    fn may_ask_for_help(&mut self) -> bool {
        let workers = self.control.workers();
        let ask = workers < self.workers_max && self.rung_at != workers;
        if ask {
            self.rung_at = workers;
        }
        ask
    }

    /// Whether the current request may run; answers it otherwise.
    #[inline]
    fn admit(&mut self) -> bool {
        let request = &self.current.request;
        let lane = &self.lanes[self.current.lane];
        let refusal = match request.payload {
            _ if self.control.is_revoked(lane.id) => (Outcome::Unauthorized, 0, 0),
            Err(OutOfBounds { bytes }) => (Outcome::Malformed, 0, bytes),
            Ok(payload) if payload.bytes() > self.payload_bytes_max as usize => {
                let bytes = u32::try_from(payload.bytes()).unwrap_or(u32::MAX);
                (Outcome::PayloadTooLarge, self.payload_bytes_max, bytes)
            }
            Ok(payload) => {
                let is_timed = request.deadline_ns != 0 || lane.rings_doorbell();
                self.current.claimed_at_ticks = if is_timed { ticks::now() } else { 0 };
                self.current.payload = payload;
                return true;
            }
        };
        let detail = crate::request::halves(refusal.1, refusal.2);
        if lane.answer(self.tag, request.target, u32::MAX, refusal.0, detail, AnswerPayload::Bytes(&[])) {
            lane.ring_client();
        }
        // Condemned between two instructions: whatever this worker does until the kill arrives ends as any call does
        // whose worker dies.
        let _ = self.words().claims[RUNNING_RECORD].release(self.sequence);
        false
    }

    #[inline]
    fn running(&self) -> RunningCall<'_> {
        let lane = &self.lanes[self.current.lane];
        let root = Cell::new(self.current.request.root);
        RunningCall { end: self, lane, words: self.words(), output: Cell::new(None), root, answered: false }
    }

    /// Begins to poll if that may pay; the caller looks at everything once more after the bits are set.
    fn start_polling(&mut self) -> Option<SpinLoop> {
        let pays = match self.wait_mode {
            WaitMode::Spin => true,
            WaitMode::Park => false,
            WaitMode::Adaptive => self.caller_cpu != self.own_cpu && self.history.should_spin(),
        };
        if !pays {
            return None;
        }
        if !self.spinning.replace(true) {
            for lane in &self.lanes {
                lane.memory.attendance().start_spinning(self.tag);
            }
        }
        Some(SpinLoop::new((self.wait_mode != WaitMode::Spin).then_some(SPIN_BUDGET)))
    }

    fn sleep(&mut self, park: &mut dyn FnMut() -> bool) -> bool {
        self.spinning.set(false);
        self.words().parked.store(1, Ordering::Relaxed);
        attendance::before_sleep(self.lanes.iter().map(|lane| lane.memory.attendance()), self.tag);
        fault::point(Step::WorkerMarkedParked);
        let mail = !self.something_came() && park();
        self.own_cpu = spin::current_cpu();
        fault::point(Step::WorkerWoken);
        self.words().parked.store(0, Ordering::Relaxed);
        for lane in &self.lanes {
            lane.memory.attendance().stop_parking(self.tag);
        }
        mail
    }

    fn something_came(&mut self) -> bool {
        self.words().mail.load(Ordering::Relaxed) != self.mail_seen
            || self.control.phase_atomic().load(Ordering::Relaxed) != self.phase_seen
            || self.lanes.iter_mut().any(WorkerLane::has_work)
    }
}
