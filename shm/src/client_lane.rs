//! The client's end of a lane: shared by the threads of one client, each waiting for its own calls.
//!
//! Memory: what the client alone decides lies in its private memory: the ring's tail, free cells and their generations, the
//! map of the request half, the quarantine. They change under one mutex, held for tens of nanoseconds: never while a
//! payload is copied, never while anyone waits.
//!
//! Invariants:
//! 1. A cell is in one of four hands: free, a [`Ticket`], an [`Answer`] that keeps its block, or the quarantine.
//! 2. The blocks of a call live as long as its cell's generation: the request's until it is answered (the worker may read
//!    it until then), the reply's until the answer is dropped.
//! 3. An abandoned call keeps its cell and block in quarantine, generation unchanged, until it is answered: by its worker, or
//!    by the server once that worker is dead. The quarantine is bounded by the number of cells.
//! 4. What a worker wrote is read once and checked before it is believed; its bytes are read in place only where the
//!    server said that both ends share a trust domain.
//! 5. After each publish: fence, then look at attendance and at the phase ([`crate::attendance`], [`crate::phase_word`]).

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU8};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

use praas_protocol::control::{LaneGeometry, LaneId, WaitMode};
use praas_protocol::limits::{PARKED_CHECK_MS, REPLY_INLINE_BYTES, REQUEST_INLINE_BYTES};
use praas_protocol::{FunctionId, Outcome, Phase};

use crate::arena::{Block, Buddy, map_bytes};
use crate::attendance::Summon;
use crate::brief_lock::BriefLock;
use crate::claim::store_root;
use crate::control_page::ControlView;
use crate::copy;
use crate::fault::{self, Step};
use crate::lane_memory::LaneMemory;
use crate::layout::LaneLayout;
use crate::phase_word;
use crate::request::{INLINE, InlineBytes, InlineReply, Place, halves, split};
use crate::ring::{self, Entry, Producer};
use crate::segment::AttachError;
use crate::spin::{self, SPIN_BUDGET, SpinHistory, SpinLoop};
use crate::sync::{AtomicU32, Ordering, full_fence};
use crate::ticks;

/// Polls between two looks at deadline and connection while spinning.
const POLLS_PER_CHECK: u32 = 256;

/// What joins a client to a lane, as it came with the server's message.
pub struct ClientLaneParts {
    /// Its number.
    pub lane: LaneId,
    /// Its sizes.
    pub geometry: LaneGeometry,
    /// Whether the server says that both ends share a trust domain.
    pub trusted: bool,
    /// Largest payload in bytes.
    pub payload_bytes_max: u32,
    /// Most workers of the process.
    pub workers_max: u32,
    /// The lane segment.
    pub segment: OwnedFd,
    /// The control page.
    pub control: OwnedFd,
    /// Write end of the doorbell.
    pub doorbell: OwnedFd,
    /// Tells the server that a request lies unclaimed and no worker is awake.
    pub ring_server: Box<dyn Fn() + Send + Sync>,
}

impl fmt::Debug for ClientLaneParts {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ClientLaneParts").field("lane", &self.lane).finish_non_exhaustive()
    }
}

/// The payload of a request.
#[derive(Debug)]
pub enum Payload<'a> {
    /// Private bytes, to be copied into the lane.
    Bytes(&'a [u8]),
    /// A block of the lane, filled already.
    Loan(LoanBlock),
}

/// A block of the lane's request half, lent to the client's code to build a payload in. Give it back by
/// [`ClientLane::submit`] or [`ClientLane::return_loan`].
#[derive(Debug)]
#[must_use = "a block that is neither submitted nor returned stays allocated"]
pub struct LoanBlock {
    block: Block,
    bytes: usize,
}

impl LoanBlock {
    /// Bytes of the payload.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

/// Why a request was not submitted. Nothing ran.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// Something is full; try again when calls have been answered.
    #[error("{what} is full: {used} of {limit} in use")]
    Full {
        /// What is full.
        what: Bounded,
        /// How much is in use.
        used: u64,
        /// How much there is.
        limit: u64,
        /// The loan, given back.
        loan: Option<LoanBlock>,
    },
    /// The payload is over the limit.
    #[error("the payload has {actual_bytes} bytes, the limit is {limit_bytes}")]
    TooLarge {
        /// The limit.
        limit_bytes: u64,
        /// The actual size.
        actual_bytes: u64,
        /// The loan, given back.
        loan: Option<LoanBlock>,
    },
    /// The process takes no calls.
    #[error("the process is {phase}")]
    Unavailable {
        /// Its phase.
        phase: Phase,
        /// The loan, given back.
        loan: Option<LoanBlock>,
    },
    /// The connection that the lane came from is lost.
    #[error("the connection to the server is lost")]
    Lost {
        /// The loan: its bytes can still be read, by [`ClientLane::loan_read`].
        loan: Option<LoanBlock>,
    },
}

/// What of a lane can be full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Bounded {
    /// Cells: calls in flight and answers that are kept.
    Cells,
    /// Cells, most of them held by abandoned calls that are not answered yet.
    Quarantine,
    /// Requests that no worker has claimed.
    Ring,
    /// Bytes of the request half of the arena.
    Arena,
}

impl Bounded {
    /// The words for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cells => "the lane's table of calls in flight",
            Self::Quarantine => "the lane's quarantine of abandoned calls",
            Self::Ring => "the lane's request ring",
            Self::Arena => "the lane's request arena",
        }
    }
}

impl fmt::Display for Bounded {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// A call in flight. Hand it to [`ClientLane::take`] or [`ClientLane::abandon`] in the end.
#[derive(Debug)]
#[must_use = "a ticket that is neither taken nor abandoned keeps its cell for ever"]
pub struct Ticket {
    cell: u32,
    generation: u32,
    position: u64,
    request_block: Option<LoanBlock>,
    /// Somebody polled when the request was published.
    attended: bool,
}

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

/// What became of a request that its client took back.
#[derive(Debug)]
pub enum Retracted {
    /// It certainly never ran.
    NeverRan {
        /// Its payload's block, if it had one.
        loan: Option<LoanBlock>,
    },
    /// A worker, or the server, had taken it.
    MayHaveRun,
}

/// An answer, taken out of its cell.
#[derive(Debug)]
pub struct Answer {
    /// A number to be read by [`Outcome::from_code`].
    pub outcome_code: u32,
    /// First word of detail.
    pub detail: u32,
    /// Second word of detail.
    pub more: u32,
    /// The bytes; `None` when their descriptor pointed outside the lane.
    pub payload: Option<AnswerPayload>,
    /// The request's block, when the request was refused and may be submitted again.
    pub returned_loan: Option<LoanBlock>,
}

/// The bytes of an answer.
#[derive(Debug)]
pub struct AnswerPayload(Bytes);

#[derive(Debug)]
enum Bytes {
    Inline { bytes: InlineReply, length: u8 },
    Block(BlockReply),
}

/// A reply that lies in the lane; keeps its cell until dropped.
#[derive(Debug)]
struct BlockReply {
    lane: Arc<ClientLane>,
    cell: u32,
    generation: u32,
    offset: usize,
    bytes: usize,
}

/// What the mutex guards.
#[derive(Debug)]
struct Submission {
    producer: Producer,
    /// Submissions until the CPU is looked at again.
    looks_at_cpu_in: u32,
    free_cells: Vec<u32>,
    generations: Vec<u32>,
    /// Calls that nobody waits for any more.
    quarantine: Vec<(u32, u32, Option<LoanBlock>)>,
    arena_map: Box<[AtomicU8]>,
}

/// Who waits for a cell asynchronously.
#[derive(Debug, Default)]
struct Waiting {
    /// Generation of the waiting call; 0 for none. Read by the reactor before it takes the lock.
    generation: AtomicU32,
    waker: Mutex<Option<(Waker, Option<Instant>)>>,
}

impl Waiting {
    /// The waker, if `ended` says so of its deadline; else the deadline, if there is one.
    fn take_if_ended(&self, ended: impl FnOnce(Option<Instant>) -> bool) -> Result<Waker, Option<Instant>> {
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

    fn set(&self, waker: &Waker, deadline: Option<Instant>, generation: u32) {
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

    fn clear(&self) {
        self.generation.store(0, Ordering::Relaxed);
        let old = lock(&self.waker).take();
        drop(old);
    }
}

/// A client's end of a lane. Share it by [`Arc`].
pub struct ClientLane {
    id: LaneId,
    trusted: bool,
    payload_bytes_max: u32,
    workers_max: u32,
    memory: LaneMemory,
    control: ControlView,
    doorbell: OwnedFd,
    ring_server: Box<dyn Fn() + Send + Sync>,
    submission: BriefLock<Submission>,
    waiting: Box<[Waiting]>,
    lost: AtomicBool,
    history: SpinHistory,
    /// The CPU that the last answer came from.
    worker_cpu: AtomicU32,
    /// The CPU that this client was last seen on.
    client_cpu: AtomicU32,
    /// The server's acknowledgement count for which it was rung last, plus one.
    rung_for: AtomicU32,
}

impl fmt::Debug for ClientLane {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ClientLane")
            .field("id", &self.id)
            .field("trusted", &self.trusted)
            .finish_non_exhaustive()
    }
}

fn later(timeout: Duration) -> Instant {
    let now = Instant::now();
    // A timeout beyond what the clock can express is as good as a year.
    now.checked_add(timeout).unwrap_or_else(|| now + Duration::from_secs(365 * 86_400))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code under these locks panics; if it did, the state would still be valid for every other call.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ClientLane {
    /// Attaches a lane.
    ///
    /// # Errors
    /// [`AttachError`] when a descriptor is not what the message says.
    pub fn attach(parts: ClientLaneParts) -> Result<Self, AttachError> {
        ticks::anchor();
        let layout = LaneLayout::new(&parts.geometry)?;
        let memory = LaneMemory::attach(parts.segment, layout)?;
        let control = ControlView::attach(parts.control)?;
        let cells = parts.geometry.cells;
        let zeroed = Box::<[AtomicU8]>::new_zeroed_slice(map_bytes(parts.geometry.request_arena_bytes as usize));
        // SAFETY: zero is a valid `AtomicU8`.
        let arena_map = unsafe { zeroed.assume_init() };
        let submission = Submission {
            producer: Producer::default(),
            looks_at_cpu_in: 0,
            free_cells: (0..cells).rev().collect(),
            generations: vec![0; cells as usize],
            quarantine: Vec::with_capacity(cells as usize),
            arena_map,
        };
        Ok(Self {
            id: parts.lane,
            trusted: parts.trusted,
            payload_bytes_max: parts.payload_bytes_max,
            workers_max: parts.workers_max,
            memory,
            control,
            doorbell: parts.doorbell,
            ring_server: parts.ring_server,
            submission: BriefLock::new(submission),
            waiting: (0..cells).map(|_| Waiting::default()).collect(),
            lost: AtomicBool::new(false),
            history: SpinHistory::default(),
            worker_cpu: AtomicU32::new(u32::MAX),
            client_cpu: AtomicU32::new(u32::MAX),
            rung_for: AtomicU32::new(0),
        })
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> LaneId {
        self.id
    }

    /// Whether both ends share a trust domain.
    #[must_use]
    pub fn trusted(&self) -> bool {
        self.trusted
    }

    /// Largest payload in bytes.
    #[must_use]
    pub fn payload_bytes_max(&self) -> usize {
        self.payload_bytes_max as usize
    }

    /// The phase of the process.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.control.phase()
    }

    /// Whether the connection was lost.
    #[must_use]
    #[inline]
    pub fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    /// Calls that hold a cell: in flight, kept answers, and quarantined ones.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.waiting.len() - self.submission.lock().free_cells.len()
    }

    /// Abandoned calls that are not answered yet.
    #[must_use]
    pub fn quarantined(&self) -> usize {
        let mut submission = self.submission.lock();
        self.sweep(&mut submission);
        submission.quarantine.len()
    }

    // ---- loans ------------------------------------------------------------------------------------------------------

    /// A block for a payload of `bytes`.
    ///
    /// # Errors
    /// [`SubmitError::TooLarge`] over the limit, [`SubmitError::Full`] when the request half has no room now.
    pub fn loan(&self, bytes: usize) -> Result<LoanBlock, SubmitError> {
        self.check_size(bytes).map_err(|()| self.too_large(bytes, None))?;
        let mut submission = self.submission.lock();
        self.allocate(&mut submission, bytes)
            .map(|block| LoanBlock { block, bytes })
            .ok_or_else(|| self.arena_full(&submission))
    }

    /// The block's bytes, to be filled in place; `None` outside a trust domain.
    pub fn loan_bytes_mut<'a>(&'a self, loan: &'a mut LoanBlock) -> Option<&'a mut [u8]> {
        self.trusted.then(|| {
            let place = self.memory.request_bytes(loan.block.offset as usize, loan.bytes);
            // SAFETY: inside the request half (checked), initialised, allocated to this loan alone, which is borrowed
            // exclusively; the lane is inside one trust domain, whose workers leave blocks of unpublished requests alone.
            unsafe { std::slice::from_raw_parts_mut(place.as_ptr(), loan.bytes) }
        })
    }

    /// Copies `source` into the block from byte `at` on.
    ///
    /// # Panics
    /// If it does not fit the loan.
    pub fn loan_write(&self, loan: &mut LoanBlock, at: usize, source: &[u8]) {
        assert!(at.checked_add(source.len()).is_some_and(|end| end <= loan.bytes), "beyond the end of the loan");
        let place = self.memory.request_bytes(loan.block.offset as usize + at, source.len());
        // SAFETY: the range lies inside the request half of the mapping (`request_bytes` checks).
        unsafe { copy::to_shared(source, place) };
    }

    /// Copies the block's bytes out, also outside a trust domain: to carry a payload over to another lane.
    ///
    /// # Panics
    /// If `destination` is not as long as the loan.
    pub fn loan_read(&self, loan: &LoanBlock, destination: &mut [u8]) {
        assert_eq!(destination.len(), loan.bytes, "the destination is as long as the loan");
        let place = self.memory.request_bytes(loan.block.offset as usize, loan.bytes);
        // SAFETY: the source lies inside the request half of the mapping (`request_bytes` checks).
        unsafe { copy::from_shared(place, destination) };
    }

    /// Gives an unused block back.
    #[allow(clippy::needless_pass_by_value, reason = "the block is given back")]
    pub fn return_loan(&self, loan: LoanBlock) {
        let submission = self.submission.lock();
        Buddy::new(&submission.arena_map).free(loan.block);
    }

    // ---- submitting -------------------------------------------------------------------------------------------------

    /// Publishes a request and summons a worker where needed. `deadline_ns` is the time remaining, 0 for none; `root` the
    /// root id, 0 for a root call.
    ///
    /// # Errors
    /// [`SubmitError`]; nothing ran, and a loan is given back.
    #[inline]
    pub fn submit(
        &self,
        function: FunctionId,
        payload: Payload<'_>,
        deadline_ns: u64,
        root: u128,
    ) -> Result<Ticket, SubmitError> {
        let copied = matches!(payload, Payload::Bytes(_));
        let (inline, block) = match payload {
            Payload::Bytes(bytes) if bytes.len() <= REQUEST_INLINE_BYTES => (bytes, None),
            Payload::Bytes(bytes) => {
                let mut loan = self.loan(bytes.len())?;
                self.loan_write(&mut loan, 0, bytes);
                (&[][..], Some(loan))
            }
            Payload::Loan(loan) => (&[][..], Some(loan)),
        };
        let published = self.publish(inline, block, |entry| {
            entry.function.store(function.0, Ordering::Relaxed);
            entry.deadline_ns.store(deadline_ns, Ordering::Relaxed);
            store_root(&entry.root, root);
        });
        let submitted = published.and_then(|ticket| self.after_publish(ticket));
        if copied { submitted.map_err(|error| self.without_loan(error)) } else { submitted }
    }

    /// Takes the block out of an error whose caller gave none.
    #[cold]
    fn without_loan(&self, mut error: SubmitError) -> SubmitError {
        let (SubmitError::Full { loan, .. }
        | SubmitError::TooLarge { loan, .. }
        | SubmitError::Unavailable { loan, .. }
        | SubmitError::Lost { loan }) = &mut error;
        if let Some(loan) = loan.take() {
            self.return_loan(loan);
        }
        error
    }

    #[inline]
    fn publish(
        &self,
        inline: &[u8],
        block: Option<LoanBlock>,
        fill: impl FnOnce(&Entry),
    ) -> Result<Ticket, SubmitError> {
        let mut submission = self.submission.lock();
        if self.is_lost() {
            return Err(SubmitError::Lost { loan: block });
        }
        let Some(cell) = self.free_cell(&mut submission) else {
            let used = self.waiting.len() as u64;
            let what =
                if submission.quarantine.len() * 2 > self.waiting.len() { Bounded::Quarantine } else { Bounded::Cells };
            return Err(SubmitError::Full { what, used, limit: used, loan: block });
        };
        let generation = submission.generations[cell as usize].wrapping_add(1).max(1);
        let descriptor = match &block {
            Some(loan) => halves(u32::try_from(loan.bytes).unwrap_or(u32::MAX), loan.block.offset),
            None => halves(u32::try_from(inline.len()).unwrap_or(u32::MAX), INLINE),
        };
        let cpu = u64::from(self.cpu_hint(&mut submission));
        self.memory.cells()[cell as usize].arm(generation);
        fault::point(Step::ClientCellArmed);
        let published = submission.producer.publish(self.memory.entries(), |entry| {
            entry.target.store(halves(cell, generation), Ordering::Relaxed);
            entry.payload.store(descriptor, Ordering::Relaxed);
            entry.cpu.store(cpu, Ordering::Relaxed);
            copy::store_inline(inline, &entry.inline);
            fault::point(Step::ClientEntryHalfWritten);
            fill(entry);
        });
        match published {
            Ok(position) => {
                submission.generations[cell as usize] = generation;
                self.prefetch_for_next(&submission);
                Ok(Ticket { cell, generation, position, request_block: block, attended: false })
            }
            Err(ring::RingFull) => {
                submission.free_cells.push(cell);
                let limit = self.memory.entries().len() as u64;
                Err(SubmitError::Full { what: Bounded::Ring, used: limit, limit, loan: block })
            }
        }
    }

    /// With several calls in flight, asks for the lines that the next request writes, so that its fence need not wait for
    /// them: 100 ns a call otherwise.
    #[inline]
    fn prefetch_for_next(&self, submission: &Submission) {
        if submission.free_cells.len() + 1 < self.waiting.len() {
            submission.producer.prefetch_next(self.memory.entries());
            if let Some(cell) = submission.free_cells.last() {
                self.memory.cells()[*cell as usize].prefetch();
            }
        }
    }

    /// The CPU that this client runs on, as of a few requests ago: looking costs 12 ns or more, and it seldom changes
    /// between calls that do not sleep.
    #[inline]
    fn cpu_hint(&self, submission: &mut Submission) -> u32 {
        if submission.looks_at_cpu_in == 0 {
            submission.looks_at_cpu_in = spin::REQUESTS_PER_CPU_LOOK;
            self.client_cpu.store(spin::current_cpu(), Ordering::Relaxed);
        }
        submission.looks_at_cpu_in -= 1;
        self.client_cpu.load(Ordering::Relaxed)
    }

    #[inline]
    fn after_publish(&self, mut ticket: Ticket) -> Result<Ticket, SubmitError> {
        fault::point(Step::ClientPublished);
        let summon = self.memory.attendance().after_publish();
        let phase = phase_word::after_fence(self.control.phase_atomic());
        if Phase::from_word(phase) != Some(Phase::Active) {
            return self.published_into_a_drain(ticket);
        }
        ticket.attended = summon == Summon::Nobody;
        if !ticket.attended {
            fault::point(Step::ClientBeforeSummon);
            self.summon(summon);
        }
        fault::point(Step::ClientSummoned);
        Ok(ticket)
    }

    /// A drain began before or while the request was published: take it back if nobody has it, else ring the server,
    /// which refuses or lets it pass.
    #[cold]
    fn published_into_a_drain(&self, ticket: Ticket) -> Result<Ticket, SubmitError> {
        let phase = self.control.phase();
        if phase == Phase::Closed && ring::retract(self.memory.entries(), ticket.position) {
            let loan = self.put_back(ticket);
            return Err(SubmitError::Unavailable { phase, loan });
        }
        (self.ring_server)();
        Ok(ticket)
    }

    fn summon(&self, summon: Summon) {
        match summon {
            Summon::Nobody => {}
            Summon::Doorbell => {
                // A full pipe already wakes; one without readers means that the process is gone, which the wait finds out.
                let _ = rustix::io::write(&self.doorbell, &[0]);
            }
            Summon::AllBusy => self.ask_for_workers(),
        }
    }

    /// Rings the server once until it acknowledges, when it could start another worker.
    fn ask_for_workers(&self) {
        if self.control.workers() >= self.workers_max {
            return;
        }
        let next = self.control.rings_acknowledged().wrapping_add(1);
        if self.rung_for.swap(next, Ordering::Relaxed) != next {
            (self.ring_server)();
        }
    }

    fn free_cell(&self, submission: &mut Submission) -> Option<u32> {
        if let Some(cell) = submission.free_cells.pop() {
            return Some(cell);
        }
        self.sweep(submission);
        submission.free_cells.pop()
    }

    /// Frees what abandoned calls held, where they have been answered.
    fn sweep(&self, submission: &mut Submission) {
        let Submission { quarantine, free_cells, arena_map, .. } = submission;
        quarantine.retain(|(cell, generation, block)| {
            let shared = &self.memory.cells()[*cell as usize];
            let answered = shared.is_done(*generation);
            if answered {
                shared.release(*generation);
                free_cells.push(*cell);
                if let Some(loan) = block {
                    Buddy::new(arena_map).free(loan.block);
                }
            }
            !answered
        });
    }

    fn allocate(&self, submission: &mut Submission, bytes: usize) -> Option<Block> {
        if let Some(block) = Buddy::new(&submission.arena_map).allocate(bytes) {
            return Some(block);
        }
        self.sweep(submission);
        Buddy::new(&submission.arena_map).allocate(bytes)
    }

    fn check_size(&self, bytes: usize) -> Result<(), ()> {
        if bytes <= self.payload_bytes_max as usize { Ok(()) } else { Err(()) }
    }

    fn too_large(&self, bytes: usize, loan: Option<LoanBlock>) -> SubmitError {
        SubmitError::TooLarge { limit_bytes: u64::from(self.payload_bytes_max), actual_bytes: bytes as u64, loan }
    }

    fn arena_full(&self, submission: &Submission) -> SubmitError {
        let limit = u64::from(self.memory.layout().geometry.request_arena_bytes);
        let free = Buddy::new(&submission.arena_map).largest_free_bytes() as u64;
        SubmitError::Full { what: Bounded::Arena, used: limit - free, limit, loan: None }
    }

    /// Returns a ticket's cell, and its block to the caller.
    fn put_back(&self, ticket: Ticket) -> Option<LoanBlock> {
        self.memory.cells()[ticket.cell as usize].release(ticket.generation);
        self.submission.lock().free_cells.push(ticket.cell);
        ticket.request_block
    }

    // ---- waiting ----------------------------------------------------------------------------------------------------

    fn cell(&self, ticket: &Ticket) -> &crate::cell::Cell {
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
                let polls_pay = ticket.attended
                    && self.worker_cpu.load(Ordering::Relaxed) != self.client_cpu.load(Ordering::Relaxed)
                    && self.history.should_spin();
                if polls_pay && self.spin_for_a_while(ticket) { WaitEnd::Answered } else { self.park(ticket, timeout) }
            }
        }
    }

    #[inline]
    fn spin(&self, ticket: &Ticket, timeout: Duration) -> WaitEnd {
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

    fn spin_for_a_while(&self, ticket: &Ticket) -> bool {
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

    fn park(&self, ticket: &Ticket, timeout: Duration) -> WaitEnd {
        if self.is_answered(ticket) {
            return WaitEnd::Answered;
        }
        let mut deadline = None;
        loop {
            let period = Duration::from_millis(PARKED_CHECK_MS);
            self.cell(ticket).park(ticket.generation, timeout.min(period));
            self.client_cpu.store(spin::current_cpu(), Ordering::Relaxed);
            if self.is_answered(ticket) {
                return WaitEnd::Answered;
            }
            let deadline = *deadline.get_or_insert_with(|| later(timeout.saturating_sub(period)));
            if let Some(end) = self.ended(ticket, Some(deadline)) {
                return end;
            }
            // A worker that died between being rung and claiming took the ring with it: ring again.
            if ring::is_unclaimed(self.memory.entries(), ticket.position) {
                self.summon_again();
            }
        }
    }

    /// Summons as after a publish, for a request that still lies unclaimed.
    fn summon_again(&self) {
        self.summon(self.memory.attendance().after_publish());
        if self.control.phase() != Phase::Active {
            (self.ring_server)();
        }
    }

    fn ended(&self, ticket: &Ticket, deadline: Option<Instant>) -> Option<WaitEnd> {
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

    fn stop_waiting(&self, cell: u32) {
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
    fn wake_tasks(&self) -> (usize, Option<Instant>) {
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
        self.memory.client_bell().ring();
    }

    // ---- ending -----------------------------------------------------------------------------------------------------

    /// Takes the answer out of its cell. Ask [`ClientLane::is_answered`] or wait first: when the answer is not there, or a
    /// worker has spoiled the cell since, the ticket goes into quarantine and the answer has an outcome that does not exist.
    #[inline]
    pub fn take(self: &Arc<Self>, ticket: Ticket) -> Answer {
        let cell = self.cell(&ticket);
        if !cell.is_done(ticket.generation) {
            return self.take_spoiled(ticket);
        }
        let half_bytes = self.memory.layout().geometry.reply_arena_bytes as usize;
        let outcome_code = cell.outcome.load(Ordering::Relaxed);
        let (detail, more) = split(cell.detail.load(Ordering::Relaxed));
        let place = Place::check(cell.payload.load(Ordering::Relaxed), REPLY_INLINE_BYTES, half_bytes);
        self.worker_cpu.store(cell.cpu.load(Ordering::Relaxed), Ordering::Relaxed);
        let (payload, keeps_cell) = match place {
            Ok(Place::Inline { bytes }) => {
                let mut copied = InlineBytes([0; REPLY_INLINE_BYTES]);
                copy::load_inline(&cell.inline, &mut copied.0[..bytes]);
                let length = u8::try_from(bytes).unwrap_or(0);
                (Some(AnswerPayload(Bytes::Inline { bytes: copied, length })), false)
            }
            Ok(Place::Block { offset, bytes }) => {
                let (cell, generation) = (ticket.cell, ticket.generation);
                let reply = BlockReply { lane: Arc::clone(self), cell, generation, offset, bytes };
                (Some(AnswerPayload(Bytes::Block(reply))), true)
            }
            Err(_) => (None, false),
        };
        fault::point(Step::ClientAnswerRead);
        if outcome_code != Outcome::Ok as u32 && !keeps_cell {
            // The worker may have died with a block reserved for this call: the ledger learns here that it is free.
            cell.release(ticket.generation);
        }
        let refused = outcome_code == Outcome::Unavailable as u32;
        let returned_loan = self.finish(ticket, keeps_cell, refused);
        fault::point(Step::ClientTaken);
        Answer { outcome_code, detail, more, payload, returned_loan }
    }

    #[cold]
    fn take_spoiled(&self, ticket: Ticket) -> Answer {
        self.submission.lock().quarantine.push((ticket.cell, ticket.generation, ticket.request_block));
        Answer { outcome_code: u32::MAX, detail: 0, more: 0, payload: None, returned_loan: None }
    }

    #[inline]
    fn finish(&self, ticket: Ticket, keeps_cell: bool, refused: bool) -> Option<LoanBlock> {
        // A cell without a reply block needs no release: arming its next generation says as much, and saves a transfer of
        // its line on the way to the next call.
        let mut submission = self.submission.lock();
        if !keeps_cell {
            submission.free_cells.push(ticket.cell);
        }
        match ticket.request_block {
            Some(loan) if !refused => {
                Buddy::new(&submission.arena_map).free(loan.block);
                None
            }
            kept => kept,
        }
    }

    /// Nobody waits for this call any more: its function can see that, and its answer is dropped.
    pub fn abandon(self: &Arc<Self>, ticket: Ticket) {
        self.stop_waiting(ticket.cell);
        if self.is_lost() {
            return;
        }
        if self.cell(&ticket).abandon(ticket.generation) {
            fault::point(Step::ClientAbandoned);
            let mut submission = self.submission.lock();
            submission.quarantine.push((ticket.cell, ticket.generation, ticket.request_block));
        } else if self.is_answered(&ticket) {
            drop(self.take(ticket));
        } else {
            // The cell was spoiled by the worker: it stays out of use.
            self.submission.lock().quarantine.push((ticket.cell, ticket.generation, ticket.request_block));
        }
    }

    /// Takes an unclaimed request back, for instance when the connection is lost. The ticket is used up either way.
    #[must_use]
    pub fn retract(&self, ticket: Ticket) -> Retracted {
        self.stop_waiting(ticket.cell);
        if ring::retract(self.memory.entries(), ticket.position) {
            return Retracted::NeverRan { loan: self.put_back(ticket) };
        }
        if !self.is_lost() {
            self.cell(&ticket).abandon(ticket.generation);
            self.submission.lock().quarantine.push((ticket.cell, ticket.generation, ticket.request_block));
        }
        Retracted::MayHaveRun
    }

    /// The connection is lost: ends every wait and refuses new requests.
    pub fn mark_lost(&self) {
        self.lost.store(true, Ordering::Relaxed);
        // Pairs with the fence in `poll`.
        full_fence();
        for cell in self.memory.cells() {
            cell.wake_waiters();
        }
        self.interrupt();
        self.wake_tasks();
    }
}

impl AnswerPayload {
    /// Bytes of the payload.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.0 {
            Bytes::Inline { length, .. } => usize::from(*length),
            Bytes::Block(reply) => reply.bytes,
        }
    }

    /// Whether it is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes in place: a private inline copy, or lane memory inside a trust domain. `None` outside one.
    #[must_use]
    #[inline]
    pub fn as_slice(&self) -> Option<&[u8]> {
        match &self.0 {
            Bytes::Inline { bytes, length } => Some(&bytes.0[..usize::from(*length)]),
            Bytes::Block(reply) if reply.lane.trusted => {
                let place = reply.lane.memory.reply_bytes(reply.offset, reply.bytes);
                // SAFETY: inside the reply half (checked), initialised; both ends share a trust domain, whose workers
                // leave a published reply alone until its cell is released, which dropping `reply` does.
                Some(unsafe { std::slice::from_raw_parts(place.as_ptr(), reply.bytes) })
            }
            Bytes::Block(_) => None,
        }
    }

    /// Copies the bytes into private memory.
    ///
    /// # Panics
    /// If `destination` is not as long as the payload.
    pub fn copy_to(&self, destination: &mut [u8]) {
        assert_eq!(destination.len(), self.len(), "the destination is as long as the payload");
        match &self.0 {
            Bytes::Inline { bytes, length } => destination.copy_from_slice(&bytes.0[..usize::from(*length)]),
            Bytes::Block(reply) => {
                let place = reply.lane.memory.reply_bytes(reply.offset, reply.bytes);
                // SAFETY: the source lies inside the reply half of the mapping (`reply_bytes` checks).
                unsafe { copy::from_shared(place, destination) };
            }
        }
    }
}

impl Drop for BlockReply {
    fn drop(&mut self) {
        fault::point(Step::ClientBeforeRelease);
        self.lane.memory.cells()[self.cell as usize].release(self.generation);
        self.lane.submission.lock().free_cells.push(self.cell);
    }
}

#[cfg(test)]
mod wrap_tests;
