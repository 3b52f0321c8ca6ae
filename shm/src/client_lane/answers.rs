//! The ends of a call: its answer is taken, or nobody wants it any more, or its request is taken back.

use std::ptr::NonNull;

use super::*;
use crate::arena::BLOCK_BYTES_MIN;

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
    /// The request's block, when the request was refused and may be submitted again, or when it was to be kept.
    pub returned_loan: Option<LoanBlock>,
}

/// An answer that was Ok and lay in its cell, to a request that had no block: what most answers are.
#[derive(Debug)]
pub struct SmallAnswer {
    /// First word of detail.
    pub detail: u32,
    /// Second word of detail.
    pub more: u32,
    bytes: InlineReply,
    length: u8,
}

impl SmallAnswer {
    /// The output.
    #[must_use]
    #[inline]
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes.0[..usize::from(self.length)]
    }
}

/// The bytes of an answer.
#[derive(Debug)]
pub struct AnswerPayload(Bytes);

#[derive(Debug)]
pub(super) enum Bytes {
    Inline { bytes: InlineReply, length: u8 },
    Block(BlockReply),
    OfRequest(RequestReply),
}

/// A reply that lies in the lane; keeps its cell until dropped.
#[derive(Debug)]
pub(super) struct BlockReply {
    lane: Arc<ClientLane>,
    cell: u32,
    generation: u32,
    offset: usize,
    bytes: usize,
}

/// A reply that is the beginning of its request: keeps the request's block until dropped.
#[derive(Debug)]
pub(super) struct RequestReply {
    lane: Arc<ClientLane>,
    /// `None` only while it is being given back.
    loan: Option<LoanBlock>,
    offset: usize,
    bytes: usize,
}

impl ClientLane {
    /// Takes the answer out of its cell. Ask [`ClientLane::is_answered`] or wait first: when the answer is not there, or a
    /// worker has spoiled the cell since, the ticket goes into quarantine and the answer has an outcome that does not exist.
    #[inline]
    pub fn take(self: &Arc<Self>, ticket: Ticket) -> Answer {
        self.take_answer(ticket, false)
    }

    /// [`ClientLane::take`], but that the request's block comes back whatever the answer is: for requests that are sent again
    /// in another way.
    pub fn take_keeping_loan(self: &Arc<Self>, ticket: Ticket) -> Answer {
        self.take_answer(ticket, true)
    }

    #[inline]
    fn take_answer(self: &Arc<Self>, ticket: Ticket, keeps_loan: bool) -> Answer {
        let cell = self.cell(&ticket);
        if !cell.is_done(ticket.generation) {
            return self.take_spoiled(ticket);
        }
        let half_bytes = self.memory.layout().geometry.reply_arena_bytes as usize;
        let outcome_code = cell.outcome.load(Ordering::Relaxed);
        let (detail, more) = split(cell.detail.load(Ordering::Relaxed));
        let word = cell.payload.load(Ordering::Relaxed);
        let place = Place::check(word, REPLY_INLINE_BYTES, half_bytes);
        self.worker_cpu.store(cell.cpu.load(Ordering::Relaxed), Ordering::Relaxed);
        let (payload, kept) = match place {
            Ok(Place::Inline { bytes }) => {
                let mut copied = InlineBytes([0; REPLY_INLINE_BYTES]);
                copy::load_inline(&cell.inline, &mut copied.0[..bytes]);
                let length = u8::try_from(bytes).unwrap_or(0);
                (Some(AnswerPayload(Bytes::Inline { bytes: copied, length })), None)
            }
            Ok(Place::Block { offset, bytes }) => {
                let (cell, generation) = (ticket.cell, ticket.generation);
                let reply = BlockReply { lane: Arc::clone(self), cell, generation, offset, bytes };
                (Some(AnswerPayload(Bytes::Block(reply))), Some(block_bytes(bytes)))
            }
            Err(_) => {
                let (bytes, place) = split(word);
                let is_there = ticket.request_block.as_ref().is_some_and(|loan| bytes <= loan.bytes);
                let may_stay = self.first_wait != FirstWait::Bell && outcome_code == Outcome::Ok as u32 && !keeps_loan;
                if place == OF_REQUEST && is_there && may_stay {
                    return self.take_of_request(ticket, bytes as usize, detail, more);
                }
                (None, None)
            }
        };
        fault::point(Step::ClientAnswerRead);
        if outcome_code != Outcome::Ok as u32 && kept.is_none() {
            // The worker may have died with a block reserved for this call: the ledger learns here that it is free.
            cell.release(ticket.generation);
        }
        let refused = outcome_code == Outcome::Unavailable as u32;
        let returned_loan = self.finish(ticket, kept, refused || keeps_loan);
        fault::point(Step::ClientTaken);
        Answer { outcome_code, detail, more, payload, returned_loan }
    }

    /// Takes an answer that is the first `bytes` of the request's own block, which has as many.
    fn take_of_request(self: &Arc<Self>, ticket: Ticket, bytes: usize, detail: u32, more: u32) -> Answer {
        fault::point(Step::ClientAnswerRead);
        let loan = self.finish(ticket, None, true);
        fault::point(Step::ClientTaken);
        let payload = loan.map(|loan| {
            let reply =
                RequestReply { lane: Arc::clone(self), offset: loan.block.offset as usize, bytes, loan: Some(loan) };
            AnswerPayload(Bytes::OfRequest(reply))
        });
        Answer { outcome_code: Outcome::Ok as u32, detail, more, payload, returned_loan: None }
    }

    /// Takes an answer that is small; another one stays, for [`ClientLane::take`].
    ///
    /// # Errors
    /// The ticket, when the answer is not there or of another kind.
    #[inline]
    pub fn take_small(&self, ticket: Ticket) -> Result<SmallAnswer, Ticket> {
        let cell = self.cell(&ticket);
        if ticket.request_block.is_some() || !cell.is_done(ticket.generation) {
            return Err(ticket);
        }
        let (length, place) = split(cell.payload.load(Ordering::Relaxed));
        let length = match u8::try_from(length) {
            Ok(length) if place == INLINE && usize::from(length) <= REPLY_INLINE_BYTES => length,
            _ => return Err(ticket),
        };
        if cell.outcome.load(Ordering::Relaxed) != Outcome::Ok as u32 {
            return Err(ticket);
        }
        let (detail, more) = split(cell.detail.load(Ordering::Relaxed));
        self.worker_cpu.store(cell.cpu.load(Ordering::Relaxed), Ordering::Relaxed);
        let mut bytes = InlineBytes([0; REPLY_INLINE_BYTES]);
        copy::load_inline(&cell.inline, &mut bytes.0[..usize::from(length)]);
        fault::point(Step::ClientAnswerRead);
        self.finish(ticket, None, false);
        fault::point(Step::ClientTaken);
        Ok(SmallAnswer { detail, more, bytes, length })
    }

    #[cold]
    pub(super) fn take_spoiled(&self, ticket: Ticket) -> Answer {
        self.submission.lock().quarantine.push((ticket.cell, ticket.generation, ticket.request_block));
        Answer { outcome_code: u32::MAX, detail: 0, more: 0, payload: None, returned_loan: None }
    }

    #[inline]
    pub(super) fn finish(&self, ticket: Ticket, kept: Option<u64>, keeps_loan: bool) -> Option<LoanBlock> {
        // A cell without a reply block needs no release: arming its next generation says as much, and saves a transfer of
        // its line on the way to the next call.
        let mut submission = self.submission.lock();
        submission.producer.prefetch_header(self.memory.entries());
        match kept {
            Some(block_bytes) => submission.kept_reply_bytes += block_bytes,
            None => {
                submission.free_cells.push_back(ticket.cell);
                self.memory.cells()[ticket.cell as usize].prefetch_word();
            }
        }
        match ticket.request_block {
            Some(loan) if !keeps_loan => {
                submission.arena.free(loan.block);
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
            Bytes::OfRequest(reply) => reply.bytes,
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
            Bytes::OfRequest(reply) if reply.lane.trusted => {
                let place = reply.lane.memory.request_bytes(reply.offset, reply.bytes);
                // SAFETY: inside the request half (checked), initialised; the block is this reply's alone until it is
                // dropped, and within a trust domain the workers leave blocks of ended requests alone.
                Some(unsafe { std::slice::from_raw_parts(place.as_ptr(), reply.bytes) })
            }
            Bytes::Block(_) | Bytes::OfRequest(_) => None,
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
            Bytes::OfRequest(reply) => {
                let place = reply.lane.memory.request_bytes(reply.offset, reply.bytes);
                // SAFETY: the source lies inside the request half of the mapping (`request_bytes` checks).
                unsafe { copy::from_shared(place, destination) };
            }
        }
    }
}

impl Drop for RequestReply {
    fn drop(&mut self) {
        fault::point(Step::ClientBeforeRelease);
        if let Some(loan) = self.loan.take() {
            self.lane.return_loan(loan);
        }
    }
}

impl Drop for BlockReply {
    fn drop(&mut self) {
        fault::point(Step::ClientBeforeRelease);
        self.lane.memory.cells()[self.cell as usize].release(self.generation);
        // Next in line: a call with this very cell gives its last block back, so blocks stay where the caches have them.
        let mut submission = self.lane.submission.lock();
        submission.kept_reply_bytes -= block_bytes(self.bytes);
        submission.free_cells.push_front(self.cell);
    }
}

/// Bytes of the block that so many bytes of an answer lie in.
fn block_bytes(bytes: usize) -> u64 {
    bytes.max(BLOCK_BYTES_MIN).next_power_of_two() as u64
}

impl AnswerPayload {
    /// Where the bytes start, if they lie in the lane: for the kernel.
    pub(crate) fn block_place(&self) -> Option<NonNull<u8>> {
        match &self.0 {
            Bytes::Inline { .. } => None,
            Bytes::Block(reply) => Some(reply.lane.memory.reply_bytes(reply.offset, reply.bytes)),
            Bytes::OfRequest(reply) => Some(reply.lane.memory.request_bytes(reply.offset, reply.bytes)),
        }
    }
}
