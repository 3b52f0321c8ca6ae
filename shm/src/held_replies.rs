//! Replies that are held until what their calls have seen is durable, while their worker runs the next call.
//!
//! A worker of a logged process does not answer at the end of a call but lays the answer ready: its bytes where the caller will
//! read them, its words here. The claim moves from the record of the running call to a free one of the worker's page, so that
//! the server goes on seeing the call: when the worker dies, its caller is told that the worker was lost. A thread of its own
//! sleeps until `durable` grows, publishes what is due and frees the records; so a reply waits neither for the next call's
//! end nor for a worker that sleeps or polls. What is due when the next reply is held is published by the worker itself.
//!
//! Memory: the queue is private to the worker. The thread has mappings of its own of the lanes and of the worker's page, in
//! which it stores nothing but cells, bells and the states of the records 1 and up.
//!
//! Invariants:
//! 1. A reply is published only when all is durable that could be seen when its call ended: the position is read after the
//!    function has ended.
//! 2. A call is named by a record from its claim to the publication of its answer: the new record is made before the old one
//!    is released, and released after the answer is published.
//! 3. There are as many held replies as records for them at most. A worker that finds none free waits until one is: its call
//!    still has the running record, so `call_ms_max` and drains bound that.
//! 4. A held call does not count as running: the server condemns it only at the end of a drain.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use praas_protocol::Outcome;
use praas_protocol::control::LaneId;
use praas_protocol::limits::{CLAIMS_PER_WORKER, REPLY_INLINE_BYTES};

use crate::arena::Block;
use crate::bell::Wakening;
use crate::claim::Condemned;
use crate::lane_memory::LaneMemory;
use crate::layout::LaneLayout;
use crate::log_ring::DurableWatch;
use crate::request::{INLINE, OF_REQUEST, halves};
use crate::running_call::RUNNING_RECORD;
use crate::segment::{AttachError, Segment};
use crate::worker_lane::{WorkerLaneParts, publish_answer};
use crate::worker_page;

/// Bytes of the thread's stack: it calls nothing deep.
const STACK_BYTES: usize = 128 << 10;
/// Longest sleep between two looks.
const SLICE: Duration = Duration::from_millis(50);
/// The same while nothing is held.
const IDLE_SLICE: Duration = Duration::from_secs(1);

/// An answer that lies ready.
#[derive(Debug)]
pub(crate) enum ReadyPayload {
    /// Its bytes fit the cell.
    Inline([u8; REPLY_INLINE_BYTES], usize),
    /// They lie in a block of the lane.
    Block(Block, usize),
    /// They are the first of the request's own block.
    OfRequest(usize),
}

/// What is to be published once `position` is durable.
#[derive(Debug)]
pub(crate) struct ReadyReply {
    pub(crate) lane: LaneId,
    pub(crate) target: u64,
    pub(crate) sequence: u64,
    pub(crate) root: u128,
    pub(crate) cpu: u32,
    pub(crate) outcome: Outcome,
    pub(crate) detail: u64,
    pub(crate) payload: ReadyPayload,
}

/// The same with the record that names it.
#[derive(Debug)]
struct Held {
    reply: ReadyReply,
    position: u64,
    record: usize,
    lane: Arc<AnswerLane>,
}

/// A lane as far as answers are published in it.
#[derive(Debug)]
struct AnswerLane {
    id: LaneId,
    memory: LaneMemory,
    wakening: Wakening,
}

#[derive(Debug, Default)]
struct Queue {
    /// In the order in which their calls ended, and so of their positions.
    held: VecDeque<Held>,
    lanes: Vec<Arc<AnswerLane>>,
    /// Bits of the records that are in use.
    records: u32,
    /// Counts replies that were held.
    holds: u64,
    /// Whether the thread sleeps until it is told that something is held; else it sleeps until more is durable, or for a slice.
    is_idle: bool,
    /// How many wait for a release.
    waiters: usize,
    is_over: bool,
}

#[derive(Debug)]
struct Shared {
    watch: DurableWatch,
    page: Segment,
    queue: Mutex<Queue>,
    /// Something was held, released, or the worker ends.
    changed: Condvar,
}

/// The held replies of one worker, with their thread. Dropped, what is still held stays unanswered.
#[derive(Debug)]
pub struct HeldReplies {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// Why replies cannot be held.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HoldError {
    /// The worker's page could not be attached again.
    #[error(transparent)]
    Page(#[from] AttachError),
    /// No thread could be started.
    #[error("a worker of a logged process needs a thread for its replies: {0}; raise the limit of processes")]
    Thread(#[source] io::Error),
}

impl HeldReplies {
    /// Of the worker with this page.
    ///
    /// # Errors
    /// [`HoldError`].
    pub fn start(page: OwnedFd, watch: DurableWatch) -> Result<Self, HoldError> {
        let page = worker_page::attach(page)?;
        let shared = Arc::new(Shared { watch, page, queue: Mutex::default(), changed: Condvar::new() });
        let thread = std::thread::Builder::new().name("praas-replies".to_owned()).stack_size(STACK_BYTES).spawn({
            let shared = Arc::clone(&shared);
            move || shared.release_what_is_due()
        });
        Ok(Self { shared, thread: Some(thread.map_err(HoldError::Thread)?) })
    }

    /// Publishes answers in this lane too.
    pub(crate) fn add_lane(&self, parts: &WorkerLaneParts) -> Result<(), AttachError> {
        let copy = |fd: &OwnedFd| fd.try_clone().map_err(AttachError::System);
        let memory = LaneMemory::attach(copy(&parts.segment)?, LaneLayout::new(&parts.geometry)?)?;
        let wakening = Wakening::new(parts.reply_doorbell.as_ref().map(copy).transpose()?);
        self.shared.queue().lanes.push(Arc::new(AnswerLane { id: parts.lane, memory, wakening }));
        Ok(())
    }

    /// Forgets a lane: whoever waits there is gone.
    pub(crate) fn remove_lane(&self, id: LaneId) {
        let mut queue = self.shared.queue();
        queue.lanes.retain(|lane| lane.id != id);
        let (gone, left): (VecDeque<_>, _) =
            std::mem::take(&mut queue.held).into_iter().partition(|held| held.lane.id == id);
        queue.held = left;
        gone.iter().for_each(|held| self.shared.free(&mut queue, held));
        drop(queue);
        self.shared.changed.notify_all();
    }

    /// Whether an answer that is ready now has to wait.
    #[must_use]
    #[inline]
    pub(crate) fn must_hold(&self) -> bool {
        let watch = &self.shared.watch;
        !watch.is_durable(watch.position())
    }

    /// Holds the reply of the running call, and releases its record.
    pub(crate) fn hold(&self, reply: ReadyReply) -> Result<(), Condemned> {
        let shared = &*self.shared;
        let position = shared.watch.position();
        let claims = &worker_page::words(&shared.page).claims;
        let mut queue = shared.queue();
        let record = loop {
            match queue.free_record() {
                Some(record) => break record,
                None => queue = shared.wait_for_release(queue, SLICE),
            }
        };
        let sequence = reply.sequence;
        let Some(lane) = queue.lanes.iter().find(|lane| lane.id == reply.lane).cloned() else {
            // A call's lane is not removed while it runs.
            return claims[RUNNING_RECORD].release(sequence);
        };
        claims[record].claim(sequence, reply.lane.0, reply.target, reply.root);
        claims[RUNNING_RECORD].release(sequence)?;
        queue.records |= 1 << record;
        queue.holds = queue.holds.wrapping_add(1);
        queue.held.push_back(Held { reply, position, record, lane });
        // What has become durable before it was held is told to nobody; and this worker may be sooner than its thread.
        shared.release_due(&mut queue);
        if queue.is_idle && !queue.held.is_empty() {
            drop(queue);
            shared.changed.notify_all();
        }
        Ok(())
    }

    /// How many are held.
    #[must_use]
    pub fn count(&self) -> usize {
        self.shared.queue().held.len()
    }

    /// Waits until all are released, at most until `until`; false if some are left.
    #[must_use]
    pub fn wait_until_released(&self, until: Instant) -> bool {
        let mut queue = self.shared.queue();
        loop {
            if queue.held.is_empty() {
                return true;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            queue = self.shared.wait_for_release(queue, left.min(SLICE));
        }
    }
}

impl Drop for HeldReplies {
    fn drop(&mut self) {
        self.shared.queue().is_over = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // It sleeps for a slice at most.
            let _ = thread.join();
        }
    }
}

impl Queue {
    fn free_record(&self) -> Option<usize> {
        (RUNNING_RECORD + 1..CLAIMS_PER_WORKER).find(|record| self.records >> record & 1 == 0)
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Nothing panics with the lock held, and a queue is whole between any two of its statements.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'q>(&'q self, queue: MutexGuard<'q, Queue>, time: Duration) -> MutexGuard<'q, Queue> {
        self.changed.wait_timeout(queue, time).unwrap_or_else(PoisonError::into_inner).0
    }

    /// A wait of who wants something released.
    fn wait_for_release<'q>(&'q self, mut queue: MutexGuard<'q, Queue>, time: Duration) -> MutexGuard<'q, Queue> {
        queue.waiters += 1;
        queue = self.wait(queue, time);
        queue.waiters -= 1;
        queue
    }

    /// The thread. As long as each sync has replies of this worker behind it, it sleeps until more is durable, so that holding a
    /// reply wakes nobody.
    fn release_what_is_due(&self) {
        let mut queue = self.queue();
        let mut holds = queue.holds;
        while !queue.is_over {
            let seen = self.watch.durable();
            self.release_due(&mut queue);
            if queue.held.is_empty() && queue.holds == holds {
                queue.is_idle = true;
                queue = self.wait(queue, IDLE_SLICE);
                queue.is_idle = false;
                continue;
            }
            holds = queue.holds;
            drop(queue);
            self.watch.wait_once(seen);
            queue = self.queue();
        }
    }

    fn release_due(&self, queue: &mut Queue) {
        let before = queue.held.len();
        while let Some(held) = queue.held.pop_front_if(|held| self.watch.is_durable(held.position)) {
            self.publish(&held);
            self.free(queue, &held);
        }
        if queue.waiters > 0 && queue.held.len() < before {
            self.changed.notify_all();
        }
    }

    fn publish(&self, Held { reply, lane, .. }: &Held) {
        let (place, inline) = match &reply.payload {
            ReadyPayload::Inline(bytes, length) => (halves(short(*length), INLINE), &bytes[..*length]),
            ReadyPayload::Block(block, length) => (halves(short(*length), block.offset), &[][..]),
            ReadyPayload::OfRequest(length) => (halves(short(*length), OF_REQUEST), &[][..]),
        };
        if publish_answer(&lane.memory, reply.target, reply.cpu, reply.outcome, reply.detail, place, inline) {
            lane.wakening.ring(lane.memory.client_bell());
        }
    }

    /// The record names nothing any more. One that the server has condemned ends its worker, which the server does by itself.
    fn free(&self, queue: &mut Queue, held: &Held) {
        let _ = worker_page::words(&self.page).claims[held.record].release(held.reply.sequence);
        queue.records &= !(1 << held.record);
    }
}

/// A length that was checked against the payload limit.
fn short(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

const _: () = assert!(CLAIMS_PER_WORKER <= 32, "records are bits of a word");
