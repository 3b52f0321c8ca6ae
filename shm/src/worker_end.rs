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

use std::cell::Cell;
use std::os::fd::OwnedFd;

use praas_protocol::Outcome;
use praas_protocol::control::{LaneId, WaitMode};

use crate::attendance;
use crate::control_page::ControlView;
use crate::fault::{self, Step};
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

#[allow(
    clippy::large_enum_variant,
    reason = "a call is handed over by value; boxing it would allocate on the hot path"
)]
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

/// A worker's end of its lanes.
#[derive(Debug)]
pub struct WorkerEnd {
    page: Segment,
    control: ControlView,
    tag: WorkerTag,
    wait_mode: WaitMode,
    workers_max: u32,
    payload_bytes_max: u32,
    lanes: Vec<WorkerLane>,
    /// Where the next round over the lanes begins.
    turn: usize,
    mail_seen: u32,
    phase_seen: u64,
    sequence: u64,
    /// Whether the `spinning` bits are set.
    spinning: bool,
    history: SpinHistory,
    /// The CPU that the last caller ran on.
    caller_cpu: u32,
    /// The CPU that this worker was last seen on.
    own_cpu: u32,
    /// Requests are left behind, no other worker sleeps, and the process could have more workers.
    needs_help: bool,
    /// How many workers there were when this one asked for another; a ring for each number is enough, and one that the
    /// server could not follow is made good by the clients, which ring again while they wait.
    rung_at: u32,
}

/// A request whose record is made and whose entry is freed.
struct Found {
    lane: usize,
    request: RequestCopy,
    payload: Place,
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
            spinning: false,
            history: SpinHistory::default(),
            caller_cpu: u32::MAX,
            own_cpu: u32::MAX,
            needs_help: false,
            rung_at: 0,
        })
    }

    /// Serves one more lane.
    ///
    /// # Errors
    /// [`AttachError`] when a descriptor is not what the message says.
    pub fn add_lane(&mut self, parts: WorkerLaneParts) -> Result<(), AttachError> {
        let lane = WorkerLane::attach(parts)?;
        if self.spinning {
            lane.memory.attendance().start_spinning(self.tag);
        }
        self.lanes.push(lane);
        Ok(())
    }

    /// Forgets a lane. False if it was not served.
    pub fn remove_lane(&mut self, id: LaneId) -> bool {
        let before = self.lanes.len();
        for lane in self.lanes.iter().filter(|lane| lane.id == id) {
            // Its client may go on for a while, and must not believe that somebody polls.
            lane.memory.attendance().forget(self.tag);
        }
        self.lanes.retain(|lane| lane.id != id);
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
        let mut polling: Option<SpinLoop> = None;
        loop {
            let mail = self.words().mail.load(Ordering::Acquire);
            if mail != self.mail_seen {
                self.mail_seen = mail;
                return Next::Mail;
            }
            if !self.may_claim() {
                return Next::Closed;
            }
            if let Some(found) = self.poll_lanes() {
                if polling.is_some() {
                    self.history.hit();
                } else {
                    // Work was there at once, so there may be more.
                    self.lanes[found.lane].prefetch_next();
                }
                return Next::Call(self.running(found));
            }
            let go_on = match &mut polling {
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
                    return Next::Mail;
                }
            }
        }
    }

    fn may_claim(&mut self) -> bool {
        let words = worker_page::words(&self.page);
        phase_word::before_claim(self.control.phase_atomic(), &words.phase_copy, &mut self.phase_seen)
    }

    /// One claim from the next lane that has a request, in turn.
    #[inline]
    fn poll_lanes(&mut self) -> Option<Found> {
        for _ in 0..self.lanes.len() {
            let index = self.turn;
            self.turn = if index + 1 == self.lanes.len() { 0 } else { index + 1 };
            if let Some(found) = self.poll_lane(index) {
                return Some(found);
            }
        }
        None
    }

    #[inline]
    fn poll_lane(&mut self, index: usize) -> Option<Found> {
        let lane = &mut self.lanes[index];
        let id = lane.id;
        let (request, taken) = lane.poll(self.tag)?;
        fault::point(Step::WorkerEntryClaimed);
        if self.sequence.is_multiple_of(u64::from(spin::REQUESTS_PER_CPU_LOOK)) {
            self.own_cpu = spin::current_cpu();
        }
        self.sequence += 1;
        let record = &worker_page::words(&self.page).claims[RUNNING_RECORD];
        record.claim(self.sequence, id.0, request.target, request.root);
        fault::point(Step::WorkerRecordMade);
        taken.free();
        self.lanes[index].prefetch_cell(request.target);
        fault::point(Step::WorkerEntryFreed);
        self.caller_cpu = request.cpu;
        if self.workers_max > 1 {
            self.pass_on_the_rest();
        }
        self.admit(index, request)
    }

    /// Invariant 4: before this worker turns to its call.
    fn pass_on_the_rest(&mut self) {
        let polled = if std::mem::take(&mut self.spinning) { &self.lanes[..] } else { &[] };
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

    /// Answers what must not run; hands out the rest.
    #[inline]
    fn admit(&self, index: usize, request: RequestCopy) -> Option<Found> {
        let lane = &self.lanes[index];
        let refusal = match request.payload {
            _ if self.control.is_revoked(lane.id) => (Outcome::Unauthorized, 0, 0),
            Err(OutOfBounds { bytes }) => (Outcome::Malformed, 0, bytes),
            Ok(payload) if payload.bytes() > self.payload_bytes_max as usize => {
                let bytes = u32::try_from(payload.bytes()).unwrap_or(u32::MAX);
                (Outcome::PayloadTooLarge, self.payload_bytes_max, bytes)
            }
            Ok(payload) => return Some(Found { lane: index, request, payload }),
        };
        let detail = crate::request::halves(refusal.1, refusal.2);
        lane.answer(self.tag, request.target, u32::MAX, refusal.0, detail, AnswerPayload::Bytes(&[]));
        // Condemned between two instructions: whatever this worker does until the kill arrives ends as any call does
        // whose worker dies.
        let _ = self.words().claims[RUNNING_RECORD].release(self.sequence);
        None
    }

    #[inline]
    fn running(&self, found: Found) -> RunningCall<'_> {
        RunningCall {
            lane: &self.lanes[found.lane],
            page: self.words(),
            worker: self.tag,
            payload: found.payload,
            sequence: self.sequence,
            claimed_at_ticks: if found.request.deadline_ns == 0 { 0 } else { ticks::now() },
            payload_bytes_max: self.payload_bytes_max,
            cpu: self.own_cpu,
            needs_help: self.needs_help,
            output: Cell::new(None),
            answered: false,
            request: found.request,
        }
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
        if !self.spinning {
            self.spinning = true;
            for lane in &self.lanes {
                lane.memory.attendance().start_spinning(self.tag);
            }
        }
        Some(SpinLoop::new((self.wait_mode != WaitMode::Spin).then_some(SPIN_BUDGET)))
    }

    fn sleep(&mut self, park: &mut dyn FnMut() -> bool) -> bool {
        self.spinning = false;
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
