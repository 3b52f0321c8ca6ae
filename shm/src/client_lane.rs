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
//! 5. After each publish: fence, then look at attendance and at the phase ([`crate::attendance`], [`crate::phase_word`]). An
//!    event loop may publish several requests first ([`ClientLane::submit_quietly`], [`ClientLane::announce`]).

mod answers;
mod keyed;
mod loans;
mod reactor;
pub(crate) mod request_arena;
mod submit_error;
mod submitting;
#[cfg(test)]
mod wait_tests;
mod waiting;
#[cfg(test)]
mod wrap_tests;

pub use answers::{Answer, AnswerPayload, Retracted, SmallAnswer};
pub use keyed::KeyedPayload;
pub use loans::LoanBlock;
use request_arena::RequestArena;
pub use submit_error::{Bounded, SubmitError};
pub use waiting::WaitEnd;
use waiting::Waiting;

use std::collections::VecDeque;
use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

use praas_protocol::control::{LaneGeometry, LaneId, WaitMode};
use praas_protocol::limits::{PARKED_CHECK_MS, REPLY_INLINE_BYTES, REQUEST_INLINE_BYTES};
use praas_protocol::{FunctionId, Outcome, Phase};

use crate::arena::Block;
use crate::attendance::Summon;
use crate::brief_lock::BriefLock;
use crate::cell::FirstWait;
use crate::claim::store_root;
use crate::control_page::ControlView;
use crate::copy;
use crate::fault::{self, Step};
use crate::lane_memory::LaneMemory;
use crate::layout::LaneLayout;
use crate::phase_word;
use crate::request::{INLINE, InlineBytes, InlineReply, OF_REQUEST, Place, halves, split};
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
/// What the mutex guards.
#[derive(Debug)]
struct Submission {
    producer: Producer,
    /// Submissions until the CPU is looked at again.
    looks_at_cpu_in: u32,
    /// First in, first out: the line of a cell is asked for when its answer is taken, and has come when it is armed again.
    /// Only a cell whose answer lay in a block is used again at once.
    free_cells: VecDeque<u32>,
    generations: Vec<u32>,
    /// Calls that nobody waits for any more.
    quarantine: Vec<(u32, u32, Option<LoanBlock>)>,
    arena: RequestArena,
    /// Bytes of answers that are kept in their blocks, rounded up as blocks are.
    kept_reply_bytes: u64,
}

/// The next lane's number within this program. After 2^32 lanes it begins anew; a loan kept as long as that is taken for a
/// newer lane's, and meets a bound check and no more.
fn next_serial() -> u32 {
    static LAST: AtomicU32 = AtomicU32::new(0);
    LAST.fetch_add(1, Ordering::Relaxed)
}

/// A client's end of a lane. Share it by [`Arc`].
pub struct ClientLane {
    id: LaneId,
    /// Tells this lane from all others that this program ever held.
    serial: u32,
    trusted: bool,
    /// How its calls begin to wait.
    first_wait: FirstWait,
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
        Self::attach_as(parts, FirstWait::Polls)
    }

    fn attach_as(parts: ClientLaneParts, first_wait: FirstWait) -> Result<Self, AttachError> {
        ticks::anchor();
        let layout = LaneLayout::new(&parts.geometry)?;
        let memory = LaneMemory::attach(parts.segment, layout)?;
        let control = ControlView::attach(parts.control)?;
        let cells = parts.geometry.cells;
        let submission = Submission {
            producer: Producer::default(),
            looks_at_cpu_in: 0,
            free_cells: (0..cells).collect(),
            generations: vec![0; cells as usize],
            quarantine: Vec::with_capacity(cells as usize),
            arena: RequestArena::new(parts.geometry.request_arena_bytes as usize),
            kept_reply_bytes: 0,
        };
        Ok(Self {
            id: parts.lane,
            serial: next_serial(),
            trusted: parts.trusted,
            first_wait,
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

    /// Bytes of the reply half that taken answers still keep: each as many as its block has.
    #[must_use]
    pub fn kept_reply_bytes(&self) -> u64 {
        self.submission.lock().kept_reply_bytes
    }

    /// Abandoned calls that are not answered yet.
    #[must_use]
    pub fn quarantined(&self) -> usize {
        let mut submission = self.submission.lock();
        self.sweep(&mut submission);
        submission.quarantine.len()
    }
}
