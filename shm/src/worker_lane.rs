//! A lane as one worker holds it: its mapping, its private cursor, and the ledger it shares with the other workers.

use std::cell::Cell;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use praas_protocol::control::{LaneGeometry, LaneId};
use praas_protocol::limits::REPLY_INLINE_BYTES;
use praas_protocol::{FunctionId, Outcome};

use crate::arena::Block;
use crate::bell::Wakening;
use crate::cell::{self, Wake};
use crate::copy;
use crate::fault::{self, Step};
use crate::lane_memory::LaneMemory;
use crate::layout::LaneLayout;
use crate::ledger::{Ledger, ReplyArenaFull};
use crate::request::{INLINE, OF_REQUEST, RequestCopy, halves, split};
use crate::ring::{self, Polled, Taken};
use crate::segment::{AttachError, Segment};
use crate::sync::Ordering;
use crate::tag::WorkerTag;

/// How long a reply waits for room in the lane of an event loop, whose slow readers must not hold a worker up for long.
const REPLY_ROOM_WAIT_MAX: Duration = Duration::from_secs(1);
/// First pause between two looks for room: a reply of a few hundred kilobytes is sent in that time.
const REPLY_ROOM_PAUSE_MIN: Duration = Duration::from_micros(50);
/// Longest pause between two looks.
const REPLY_ROOM_PAUSE_MAX: Duration = Duration::from_millis(2);

/// What joins a worker to a lane, as it came with the server's message.
#[derive(Debug)]
pub struct WorkerLaneParts {
    /// Its number.
    pub lane: LaneId,
    /// Its sizes.
    pub geometry: LaneGeometry,
    /// Whether payloads are read and written in place: whoever may write the client's half shares a trust domain with the
    /// workers, or is the server.
    pub in_place: bool,
    /// The lane segment.
    pub segment: OwnedFd,
    /// The reply ledger.
    pub ledger: OwnedFd,
    /// Write end of the lane's doorbell, to wake another worker of this process.
    pub doorbell: OwnedFd,
    /// Write end of the reply doorbell, to wake a client that sleeps until it is readable; `None` for one that sleeps on
    /// words of the lane.
    pub reply_doorbell: Option<OwnedFd>,
}

#[derive(Debug)]
pub(crate) struct WorkerLane {
    pub(crate) id: LaneId,
    pub(crate) in_place: bool,
    pub(crate) memory: LaneMemory,
    ledger: Ledger,
    doorbell: OwnedFd,
    wakening: Wakening,
    /// Whether its client is an event loop: it gives reply blocks back as fast as it can send them, and rings for it may be
    /// held back.
    awaits_room: bool,
    /// Whether answers were published whose ring is held back.
    owes_ring: Cell<bool>,
    cursor: u64,
}

/// The payload of an answer.
#[derive(Debug, Clone, Copy)]
pub(crate) enum AnswerPayload<'a> {
    /// Private bytes, to be copied.
    Bytes(&'a [u8]),
    /// The first bytes of a block that holds them already.
    Block(Block, usize),
    /// The first bytes of the request's own block.
    OfRequest(usize),
}

impl WorkerLane {
    pub(crate) fn attach(parts: WorkerLaneParts) -> Result<Self, AttachError> {
        let layout = LaneLayout::new(&parts.geometry)?;
        let memory = LaneMemory::attach(parts.segment, layout)?;
        let ledger = Ledger::new(Segment::attach(parts.ledger, layout.ledger_bytes())?, layout);
        let cursor = ring::oldest_unclaimed(memory.entries());
        let awaits_room = parts.reply_doorbell.is_some();
        let wakening = Wakening::new(parts.reply_doorbell);
        Ok(Self {
            id: parts.lane,
            in_place: parts.in_place,
            memory,
            ledger,
            doorbell: parts.doorbell,
            wakening,
            awaits_room,
            owes_ring: Cell::new(false),
            cursor,
        })
    }

    /// Takes the next request and copies it into `request`. The entry is still held: the caller makes its claim record,
    /// then frees it. `stops_polling`: the worker's bit in the lane's attendance is to be cleared after that.
    #[inline]
    pub(crate) fn poll(
        &mut self,
        worker: WorkerTag,
        stops_polling: bool,
        request: &mut RequestCopy,
    ) -> Option<Taken<'_>> {
        let half_bytes = self.memory.layout().geometry.request_arena_bytes as usize;
        let meanwhile = || {
            if stops_polling {
                self.memory.attendance().prefetch();
            }
        };
        match ring::claim_and(self.memory.entries(), &mut self.cursor, worker, meanwhile) {
            Polled::Taken(taken) => {
                request.read(taken.entry, half_bytes);
                Some(taken)
            }
            Polled::Empty | Polled::Unsure => None,
        }
    }

    /// Asks for the next entry, when requests come faster than they are answered.
    #[inline]
    pub(crate) fn prefetch_next(&self) {
        ring::prefetch(self.memory.entries(), self.cursor);
    }

    pub(crate) fn has_work(&mut self) -> bool {
        ring::has_work(self.memory.entries(), &mut self.cursor)
    }

    /// The same for who must not move the cursor.
    pub(crate) fn work_is_left(&self) -> bool {
        ring::has_work(self.memory.entries(), &mut self.cursor.clone())
    }

    /// Wakes one worker that sleeps on this lane. A full pipe swallows the ring; the
    /// client of the request then asks the server.
    pub(crate) fn ring_doorbell(&self) {
        let _ = rustix::io::write(&self.doorbell, &[0]);
    }

    /// Asks for the lines of the cell that a request names.
    #[inline]
    pub(crate) fn prefetch_cell(&self, target: u64) {
        if let Some(cell) = self.memory.cells().get(split(target).0 as usize) {
            cell.prefetch();
        }
    }

    #[inline]
    pub(crate) fn is_abandoned(&self, target: u64) -> bool {
        let (cell, generation) = split(target);
        self.memory.cells().get(cell as usize).is_none_or(|cell| cell.is_abandoned(generation))
    }

    /// A block for the reply to `target`. In a lane whose client is an event loop, one that finds no room waits a while: that
    /// loop takes answers and sends them on by itself, so room comes back without this worker's doing.
    pub(crate) fn reserve(&self, worker: WorkerTag, target: u64, bytes: usize) -> Result<Block, ReplyArenaFull> {
        match self.try_reserve(worker, target, bytes) {
            Err(full) if self.awaits_room && !full.is_hopeless(self.memory.layout()) => {
                self.reserve_later(worker, target, bytes)
            }
            reserved => reserved,
        }
    }

    #[cold]
    fn reserve_later(&self, worker: WorkerTag, target: u64, bytes: usize) -> Result<Block, ReplyArenaFull> {
        // Room comes of answers that the client sends on, so it has to hear of them.
        self.ring_if_owed();
        let end = Instant::now() + REPLY_ROOM_WAIT_MAX;
        let mut pause = REPLY_ROOM_PAUSE_MIN;
        loop {
            std::thread::sleep(pause);
            let reserved = self.try_reserve(worker, target, bytes);
            if reserved.is_ok() || self.is_abandoned(target) || Instant::now() >= end {
                return reserved;
            }
            pause = (pause * 2).min(REPLY_ROOM_PAUSE_MAX);
        }
    }

    fn try_reserve(&self, worker: WorkerTag, target: u64, bytes: usize) -> Result<Block, ReplyArenaFull> {
        let (cell, generation) = split(target);
        self.ledger.reserve(worker, self.memory.cells(), cell as usize, generation, bytes).and_then(|block| {
            // The ledger is memory that the tenant's other workers write: its offsets are checked as any other.
            let end = (block.offset as usize).checked_add(block.bytes());
            let inside = end.is_some_and(|end| end <= self.memory.layout().geometry.reply_arena_bytes as usize);
            let full = ReplyArenaFull { free_bytes: 0, needed_bytes: bytes as u64 };
            if inside && block.bytes() >= bytes { Ok(block) } else { Err(full) }
        })
    }

    /// Gives a block back that was reserved for `target` and holds no answer.
    pub(crate) fn unreserve(&self, worker: WorkerTag, target: u64) {
        self.ledger.unreserve(worker, split(target).0 as usize);
    }

    /// Whether a ring for its client may be held back: it sleeps until its reply doorbell is readable. One that is awake is
    /// told of each answer, which costs no system call.
    #[inline]
    pub(crate) fn may_hold_rings(&self) -> bool {
        self.awaits_room && self.memory.client_bell().is_asleep()
    }

    /// Whether its client is an event loop, whose rings may be held back.
    #[inline]
    pub(crate) fn rings_doorbell(&self) -> bool {
        self.awaits_room
    }

    /// The function of the next request, if one lies ready.
    #[inline]
    pub(crate) fn next_function(&self) -> Option<FunctionId> {
        ring::function_at(self.memory.entries(), self.cursor).map(FunctionId)
    }

    /// The ring for an answer waits for that of a later one.
    #[inline]
    pub(crate) fn hold_ring(&self) {
        self.owes_ring.set(true);
    }

    /// Makes up for the rings that were held back.
    pub(crate) fn ring_if_owed(&self) {
        if self.owes_ring.get() {
            self.ring_client();
        }
    }

    /// Rings the client's bell for all answers that were published so far.
    #[inline]
    pub(crate) fn ring_client(&self) {
        fault::point(Step::WorkerBeforeBell);
        self.owes_ring.set(false);
        self.wakening.ring(self.memory.client_bell());
    }

    /// Publishes the answer to `target`, unless its client spoiled the cell. True: the client's bell is to be rung.
    #[must_use = "nobody else rings the client"]
    #[inline]
    pub(crate) fn answer(
        &self,
        worker: WorkerTag,
        target: u64,
        cpu: u32,
        outcome: Outcome,
        detail: u64,
        payload: AnswerPayload<'_>,
    ) -> bool {
        let (cell, generation) = split(target);
        let Some(cell) = self.memory.cells().get(cell as usize) else { return false };
        let (outcome, detail, place) = match payload {
            AnswerPayload::Bytes(bytes) if bytes.len() <= REPLY_INLINE_BYTES => {
                (outcome, detail, halves(length(bytes.len()), INLINE))
            }
            AnswerPayload::Bytes(bytes) => match self.reserve(worker, target, bytes.len()) {
                Ok(block) => {
                    let place = self.memory.reply_bytes(block.offset as usize, bytes.len());
                    // SAFETY: the range lies inside the reply half of the mapping (`reply_bytes` checks).
                    unsafe { copy::to_shared(bytes, place) };
                    (outcome, detail, halves(length(bytes.len()), block.offset))
                }
                Err(full) => {
                    let (free, needed) = (length_u64(full.free_bytes), length_u64(full.needed_bytes));
                    (Outcome::ReplyLost, halves(free, needed), halves(0, INLINE))
                }
            },
            AnswerPayload::Block(block, bytes) => (outcome, detail, halves(length(bytes), block.offset)),
            AnswerPayload::OfRequest(bytes) => (outcome, detail, halves(length(bytes), OF_REQUEST)),
        };
        let inline = match (payload, split(place)) {
            (AnswerPayload::Bytes(bytes), (length, INLINE)) => &bytes[..length as usize],
            _ => &[],
        };
        fill_and_publish(cell, generation, cpu, outcome, detail, place, inline)
    }
}

/// Publishes an answer that lies ready: its bytes in the block at `place`, or `inline`. True: the client's bell is to be rung.
#[must_use = "nobody else rings the client"]
pub(crate) fn publish_answer(
    memory: &LaneMemory,
    target: u64,
    cpu: u32,
    outcome: Outcome,
    detail: u64,
    place: u64,
    inline: &[u8],
) -> bool {
    let (cell, generation) = split(target);
    let cell = memory.cells().get(cell as usize);
    cell.is_some_and(|cell| fill_and_publish(cell, generation, cpu, outcome, detail, place, inline))
}

#[inline(always)]
fn fill_and_publish(
    cell: &cell::Cell,
    generation: u32,
    cpu: u32,
    outcome: Outcome,
    detail: u64,
    place: u64,
    inline: &[u8],
) -> bool {
    let answered = cell.answer(generation, |cell| {
        cell.outcome.store(outcome as u32, Ordering::Relaxed);
        cell.cpu.store(cpu, Ordering::Relaxed);
        cell.detail.store(detail, Ordering::Relaxed);
        cell.payload.store(place, Ordering::Relaxed);
        if split(place).1 == INLINE {
            copy::store_inline(inline, &cell.inline);
        }
        fault::point(Step::WorkerCellFilled);
    });
    answered == Ok(Wake::Bell)
}

/// A length that the caller has kept within 32 bits.
fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("replies are checked against the payload limit first")
}

fn length_u64(bytes: u64) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}
