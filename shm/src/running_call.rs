//! A call that a worker has claimed and not yet answered.
//!
//! While the value lives, the claim record names the call. [`RunningCall::reply`] answers and releases it; a value that is
//! dropped unanswered (a runtime that gives up) answers that the worker was lost.

use std::cell::Cell;
use std::time::Duration;

use praas_protocol::control::LaneId;
use praas_protocol::limits::REPLY_INLINE_BYTES;
use praas_protocol::{FunctionId, Outcome};

use crate::arena::Block;
use crate::claim::Condemned;
use crate::copy;
use crate::fault::{self, Step};
use crate::function_stats::{self, CountedCall};
use crate::held_replies::{HeldReplies, ReadyPayload, ReadyReply};
use crate::ledger::ReplyArenaFull;
use crate::request::Place;
use crate::scratch::Scratch;
use crate::sync::Ordering;
use crate::ticks;
use crate::worker_end::{Current, WorkerEnd};
use crate::worker_lane::{AnswerPayload, WorkerLane};
use crate::worker_page::{self, Words};

pub(crate) use crate::claim::RUNNING_RECORD;

/// Why a block for the output was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReserveError {
    /// The output is larger than the application allows.
    #[error("an output of {actual_bytes} bytes is over the limit of {limit_bytes}: raise payload_bytes_max")]
    TooLarge {
        /// The limit.
        limit_bytes: u64,
        /// The size asked for.
        actual_bytes: u64,
    },
    /// The lane has no room now: its caller keeps too many replies.
    #[error(transparent)]
    Full(#[from] ReplyArenaFull),
}

/// A claimed call. Its request stays in the worker's end, so that handing the call on is cheap.
#[derive(Debug)]
pub struct RunningCall<'w> {
    pub(crate) end: &'w WorkerEnd,
    pub(crate) lane: &'w WorkerLane,
    pub(crate) words: &'w Words,
    pub(crate) output: Cell<Option<Block>>,
    pub(crate) root: Cell<u128>,
    pub(crate) answered: bool,
}

impl<'w> RunningCall<'w> {
    /// Begins to count this call, of the function with this index in the worker's table.
    #[inline]
    pub fn count(&self, index: usize) -> CountedCall<'w> {
        function_stats::begin(worker_page::slots(&self.end.page), index, self.function())
    }
}

impl RunningCall<'_> {
    /// The function that is called.
    #[must_use]
    pub fn function(&self) -> FunctionId {
        self.end.current.request.function
    }

    /// Whether its payload begins with the prefix of a call that has an idempotency key.
    #[must_use]
    #[inline]
    pub fn is_keyed(&self) -> bool {
        self.end.current.request.is_keyed
    }

    /// Bytes of the payload.
    #[must_use]
    pub fn payload_bytes(&self) -> usize {
        self.end.current.payload.bytes()
    }

    /// Largest output in bytes.
    #[must_use]
    pub fn payload_bytes_max(&self) -> usize {
        self.end.payload_bytes_max as usize
    }

    /// Whether payloads are read and written in place.
    #[must_use]
    pub fn in_place(&self) -> bool {
        self.lane.in_place
    }

    /// Whether requests are left behind that nobody else will take soon, while the process could have more workers: the
    /// runtime then rings the server before it runs this call. Said once until the server acknowledges.
    #[must_use]
    #[inline]
    pub fn needs_help(&self) -> bool {
        self.end.needs_help
    }

    /// The lane it came on.
    #[must_use]
    pub fn lane(&self) -> LaneId {
        self.lane.id
    }

    /// Its root id; zero for a root call that has made no nested call.
    #[must_use]
    pub fn root(&self) -> u128 {
        self.root.get()
    }

    /// Time left until the caller's deadline; `None` without a deadline. Zero when it has passed.
    #[must_use]
    pub fn time_remaining(&self) -> Option<Duration> {
        let deadline_ns = self.end.current.request.deadline_ns;
        (deadline_ns != 0).then(|| {
            Duration::from_nanos(deadline_ns.saturating_sub(ticks::elapsed_ns(self.end.current.claimed_at_ticks)))
        })
    }

    /// Whether the caller has cancelled or its deadline has passed: its answer will be dropped.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        self.lane.is_abandoned(self.end.current.request.target)
    }

    /// The payload: in place for a block of a lane that is read in place, otherwise a private copy (inline ones in the
    /// worker's end, blocks in `scratch`). Always 16-aligned.
    #[must_use]
    pub fn input<'a>(&'a self, scratch: &'a mut Scratch) -> &'a [u8] {
        match self.end.current.payload {
            Place::Inline { bytes } => &self.end.current.request.inline.0[..bytes],
            Place::Block { offset, bytes } => {
                let place = self.lane.memory.request_bytes(offset, bytes);
                if self.lane.in_place {
                    // SAFETY: inside the request half (checked), initialised (a memfd is zeroed), and the server says that
                    // whoever can write there is of this trust domain or the server: it leaves the block alone until
                    // the answer.
                    unsafe { std::slice::from_raw_parts(place.as_ptr(), bytes) }
                } else {
                    let private = scratch.prepare(bytes);
                    // SAFETY: the source lies inside the request half of the mapping (`request_bytes` checks).
                    unsafe { copy::from_shared(place, private) };
                    private
                }
            }
        }
    }

    /// Lane memory for an output of `bytes`, to be published by [`RunningCall::reply_in_place`]; `None` where
    /// payloads are not written in place: the output is built privately and copied by [`RunningCall::reply`].
    ///
    /// # Errors
    /// [`ReserveError`] when it is over the limit, or no block is free.
    #[allow(clippy::mut_from_ref, reason = "the slice is lane memory that is given out once, not a part of `self`")]
    pub fn output_in_place(&self, bytes: usize) -> Result<Option<&mut [u8]>, ReserveError> {
        if bytes > self.end.payload_bytes_max as usize {
            let limit_bytes = u64::from(self.end.payload_bytes_max);
            return Err(ReserveError::TooLarge { limit_bytes, actual_bytes: bytes as u64 });
        }
        if !self.lane.in_place {
            return Ok(None);
        }
        if self.output.get().is_some() {
            // The first block is given back by the second reservation while a slice of it may live: one a call.
            return Err(ReplyArenaFull { free_bytes: 0, needed_bytes: bytes as u64 }.into());
        }
        let block = self.lane.reserve(self.end.tag, self.end.current.request.target, bytes)?;
        self.output.set(Some(block));
        fault::point(Step::WorkerOutputReserved);
        let place = self.lane.memory.reply_bytes(block.offset as usize, bytes);
        // SAFETY: inside the reply half (checked), initialised, reserved for this call alone by the ledger and given out
        // once (`output` was empty); all who can write there are of this trust domain or the server, and leave others'
        // blocks alone; the mapping outlives the borrow of `self`.
        Ok(Some(unsafe { std::slice::from_raw_parts_mut(place.as_ptr(), bytes) }))
    }

    /// Answers with `payload`, wakes the caller if it sleeps, and releases the claim. A block that was reserved for the
    /// output is given back.
    ///
    /// # Errors
    /// [`Condemned`]: the server is killing this worker; it must exit at once.
    #[inline]
    pub fn reply(mut self, outcome: Outcome, detail: u32, more: u32, payload: &[u8]) -> Result<(), Condemned> {
        if payload.len() > self.end.payload_bytes_max as usize {
            let actual = u32::try_from(payload.len()).unwrap_or(u32::MAX);
            return self.finish(
                Outcome::PayloadTooLarge,
                self.end.payload_bytes_max,
                actual,
                AnswerPayload::Bytes(&[]),
            );
        }
        self.finish(outcome, detail, more, AnswerPayload::Bytes(payload))
    }

    /// Answers Ok with the first `bytes` of what [`RunningCall::output_in_place`] gave.
    ///
    /// # Errors
    /// [`Condemned`]: the server is killing this worker; it must exit at once.
    ///
    /// # Panics
    /// If nothing was reserved, or less than `bytes`: a mistake of the runtime.
    pub fn reply_in_place(mut self, bytes: usize) -> Result<(), Condemned> {
        let block = self.output.get().expect("an output was reserved");
        assert!(bytes <= block.bytes(), "the output was reserved with fewer bytes");
        self.finish(Outcome::Ok, 0, 0, AnswerPayload::Block(block, bytes))
    }

    /// Whether the payload lies in a block that its caller gets back with the answer: then its beginning can be the answer.
    /// Not in the lane of an event loop: one of its many clients that is slow to take answers would keep the others' room for
    /// requests.
    #[must_use]
    #[inline]
    pub fn may_answer_with_input(&self) -> bool {
        self.lane.in_place && !self.lane.rings_doorbell() && matches!(self.end.current.payload, Place::Block { .. })
    }

    /// Answers Ok with the first `bytes` of the payload where they lie: the caller reads them in its own request.
    ///
    /// # Errors
    /// [`Condemned`]: the server is killing this worker; it must exit at once.
    ///
    /// # Panics
    /// If the payload is shorter, or no block that is read in place: a mistake of the runtime.
    pub fn reply_with_input(mut self, bytes: usize) -> Result<(), Condemned> {
        assert!(self.may_answer_with_input() && bytes <= self.payload_bytes(), "the answer is no part of the input");
        self.finish(Outcome::Ok, 0, 0, AnswerPayload::OfRequest(bytes))
    }

    #[inline]
    fn finish(
        &mut self,
        outcome: Outcome,
        detail: u32,
        more: u32,
        payload: AnswerPayload<'_>,
    ) -> Result<(), Condemned> {
        self.answered = true;
        if self.output.get().is_some() && !matches!(payload, AnswerPayload::Block(..)) {
            // Its caller is not told of it, so nobody else would give it back before the cell's next call.
            self.lane.unreserve(self.end.tag, self.end.current.request.target);
        }
        let detail = crate::request::halves(detail, more);
        let target = self.end.current.request.target;
        if let Some(held) = self.end.held.as_ref().filter(|held| held.must_hold()) {
            return self.hold(held, outcome, detail, payload);
        }
        if self.lane.answer(self.end.tag, target, self.end.own_cpu, outcome, detail, payload) {
            self.ring_now_or_later();
        }
        self.words.calls.store(self.end.sequence, Ordering::Relaxed);
        fault::point(Step::WorkerBeforeRelease);
        self.words.claims[RUNNING_RECORD].release(self.end.sequence)?;
        fault::point(Step::WorkerReleased);
        Ok(())
    }
}

impl RunningCall<'_> {
    /// Lays the answer ready until it may be published.
    #[cold]
    fn hold(
        &self,
        held: &HeldReplies,
        outcome: Outcome,
        detail: u64,
        payload: AnswerPayload<'_>,
    ) -> Result<(), Condemned> {
        let target = self.end.current.request.target;
        let ready = |payload| (outcome, detail, payload);
        let (outcome, detail, payload) = match payload {
            AnswerPayload::Block(block, bytes) => ready(ReadyPayload::Block(block, bytes)),
            AnswerPayload::OfRequest(bytes) => ready(ReadyPayload::OfRequest(bytes)),
            AnswerPayload::Bytes(bytes) if bytes.len() <= REPLY_INLINE_BYTES => {
                let mut inline = [0; REPLY_INLINE_BYTES];
                inline[..bytes.len()].copy_from_slice(bytes);
                ready(ReadyPayload::Inline(inline, bytes.len()))
            }
            AnswerPayload::Bytes(bytes) => match self.lane.reserve(self.end.tag, target, bytes.len()) {
                Ok(block) => {
                    let place = self.lane.memory.reply_bytes(block.offset as usize, bytes.len());
                    // SAFETY: the range lies inside the reply half of the mapping (`reply_bytes` checks).
                    unsafe { copy::to_shared(bytes, place) };
                    ready(ReadyPayload::Block(block, bytes.len()))
                }
                Err(full) => {
                    let figure = |bytes: u64| u32::try_from(bytes).unwrap_or(u32::MAX);
                    let detail = crate::request::halves(figure(full.free_bytes), figure(full.needed_bytes));
                    (Outcome::ReplyLost, detail, ReadyPayload::Inline([0; REPLY_INLINE_BYTES], 0))
                }
            },
        };
        let (lane, sequence, cpu) = (self.lane.id, self.end.sequence, self.end.own_cpu);
        self.words.calls.store(sequence, Ordering::Relaxed);
        held.hold(ReadyReply { lane, target, sequence, root: self.root.get(), cpu, outcome, detail, payload })
    }

    /// Rings the client of a lane that is answered by the bell, unless it is soon to be answered again.
    #[inline]
    fn ring_now_or_later(&self) {
        let Current { request, claimed_at_ticks, .. } = &self.end.current;
        let is_held = self.lane.may_hold_rings()
            && self
                .lane
                .next_function()
                .is_some_and(|next| self.end.held_rings.may_hold(request.function, *claimed_at_ticks, next));
        if is_held { self.lane.hold_ring() } else { self.lane.ring_client() }
    }
}

impl Drop for RunningCall<'_> {
    fn drop(&mut self) {
        if !self.answered {
            // The claim stays if the server condemned it; the runtime learns that with its next call.
            let _ = self.finish(Outcome::WorkerLost, 0, 0, AnswerPayload::Bytes(&[]));
        }
    }
}
