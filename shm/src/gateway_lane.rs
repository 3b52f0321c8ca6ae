//! The serving end of a call lane for an event loop of the server: its client calls what is not in a process on this host.
//!
//! The loop takes requests one after another, has as many of them under way as it likes, and answers each when it can. It
//! is the only one who serves the lane. Nothing of a request stays in the ring: an entry is copied and freed at once,
//! without a claim record, because nobody else would go on with the call if the server died; its lane ends with it.
//!
//! What is read here is believed as little as a worker believes it. A client that breaks the protocol spoils its own calls:
//! every loop is bounded, offsets are checked, and which blocks hold replies is noted in private memory (`rooms`).
//!
//! Waiting: while the loop is awake its bit among the `spinning` ones tells the client that nobody has to be rung. Before it
//! sleeps it calls [`GatewayLane::park`] for all its lanes, and then sleeps only if that said so; the client's ring comes by
//! the lane's doorbell, whose read end the loop's driver watches. It is the handshake of `attendance`.

mod buffers;
mod rooms;

use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

use praas_protocol::control::{LaneGeometry, LaneId};
use praas_protocol::limits::{IDEMPOTENCY_PREFIX_BYTES, REPLY_INLINE_BYTES};
use praas_protocol::{FunctionId, Idempotency, Outcome};

pub use self::buffers::{RequestBuffer, RoomBuffer};
use self::rooms::ReplyRooms;
use crate::attendance;
use crate::bell::Wakening;
use crate::cell::Wake;
use crate::copy;
use crate::lane_memory::LaneMemory;
use crate::layout::LaneLayout;
use crate::request::{INLINE, OutOfBounds, Place, RequestCopy, halves, split};
use crate::ring::{self, Polled};
use crate::segment::AttachError;
use crate::spin;
use crate::sync::Ordering;
use crate::tag::WorkerTag;

/// The one who serves: the loop.
const SERVER: WorkerTag = WorkerTag::new(0, 1);

/// What joins a loop to a lane.
#[derive(Debug)]
pub struct GatewayLaneParts {
    /// Its number.
    pub lane: LaneId,
    /// Its sizes.
    pub geometry: LaneGeometry,
    /// Largest payload of a request in bytes.
    pub payload_bytes_max: u32,
    /// The lane segment.
    pub segment: OwnedFd,
    /// Write end of the reply doorbell, to wake a client that sleeps until it is readable; `None` for one that sleeps on words
    /// of the lane.
    pub reply_doorbell: Option<OwnedFd>,
}

/// What buffers keep of a lane.
#[derive(Debug)]
struct Shared {
    memory: LaneMemory,
    rooms: Mutex<ReplyRooms>,
}

/// The serving end; see the module's text.
#[derive(Debug)]
pub struct GatewayLane {
    id: LaneId,
    shared: Arc<Shared>,
    payload_bytes_max: usize,
    wakening: Wakening,
    cursor: u64,
    request: Box<RequestCopy>,
    /// Whether answers were published whose client was not rung yet.
    owes_ring: bool,
    is_parked: bool,
}

/// A request, copied out of the lane and checked.
#[derive(Debug)]
pub struct TakenRequest {
    /// What to name the call by when it is answered. A client that breaks the protocol may give several calls the same name.
    pub target: u64,
    /// The function called.
    pub function: FunctionId,
    /// Its root; 0 for a root call.
    pub root: u128,
    /// Time that the caller waits from now on, in nanoseconds; 0 for as long as it takes.
    pub time_left_ns: u64,
    /// Its idempotency key, if it has one.
    pub idempotency: Option<Idempotency>,
    /// Its payload, without the key.
    pub payload: TakenBytes,
}

/// The payload of a request.
#[derive(Debug)]
pub enum TakenBytes {
    /// A small one, copied.
    Private(Vec<u8>),
    /// One that lies in the lane.
    Block(RequestBuffer),
}

impl TakenBytes {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Private(bytes) => bytes.len(),
            Self::Block(buffer) => crate::io_buffer::IoBuffer::bytes(buffer),
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes in private memory.
    #[must_use]
    pub fn into_vec(self) -> Vec<u8> {
        match self {
            Self::Private(bytes) => bytes,
            Self::Block(buffer) => buffer.to_vec(),
        }
    }
}

/// Why a request is answered at once.
enum Refusal {
    Malformed { bytes: u32 },
    TooLarge { limit: u32, bytes: u32 },
}

impl GatewayLane {
    /// Joins the loop to a lane, which it attends from then on.
    ///
    /// # Errors
    /// [`AttachError`] when the descriptor is not what the parts say.
    pub fn attach(parts: GatewayLaneParts) -> Result<Self, AttachError> {
        let layout = LaneLayout::new(&parts.geometry)?;
        let memory = LaneMemory::attach(parts.segment, layout)?;
        let cursor = ring::oldest_unclaimed(memory.entries());
        memory.attendance().start_spinning(SERVER);
        let rooms = ReplyRooms::new(parts.geometry.reply_arena_bytes as usize, parts.geometry.cells as usize);
        Ok(Self {
            id: parts.lane,
            shared: Arc::new(Shared { memory, rooms: Mutex::new(rooms) }),
            payload_bytes_max: parts.payload_bytes_max as usize,
            wakening: Wakening::new(parts.reply_doorbell),
            cursor,
            request: Box::new(RequestCopy::none()),
            owes_ring: false,
            is_parked: false,
        })
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> LaneId {
        self.id
    }

    /// Largest payload of a request in bytes.
    #[must_use]
    pub fn payload_bytes_max(&self) -> usize {
        self.payload_bytes_max
    }

    fn memory(&self) -> &LaneMemory {
        &self.shared.memory
    }

    /// The next request. What cannot be read is answered here, at most as much as the ring holds in one call.
    pub fn take(&mut self) -> Option<TakenRequest> {
        for _ in 0..self.memory().entries().len() {
            if !self.copy_next() {
                return None;
            }
            match self.checked() {
                Ok(taken) => return Some(taken),
                Err(refusal) => self.refuse(&refusal),
            }
        }
        None
    }

    /// Copies the next request out and frees its entry. False if there is none.
    fn copy_next(&mut self) -> bool {
        let Self { shared, cursor, request, .. } = self;
        let half_bytes = shared.memory.layout().geometry.request_arena_bytes as usize;
        let Polled::Taken(taken) = ring::claim(shared.memory.entries(), cursor, SERVER) else { return false };
        request.read(taken.entry, half_bytes);
        taken.free();
        true
    }

    fn checked(&self) -> Result<TakenRequest, Refusal> {
        let request = &self.request;
        let place = request.payload.map_err(|OutOfBounds { bytes }| Refusal::Malformed { bytes })?;
        let bytes = u32::try_from(place.bytes()).unwrap_or(u32::MAX);
        if place.bytes() > self.payload_bytes_max {
            let limit = u32::try_from(self.payload_bytes_max).unwrap_or(u32::MAX);
            return Err(Refusal::TooLarge { limit, bytes });
        }
        let (idempotency, payload) = match place {
            Place::Inline { bytes: count } => self.inline(&request.inline.0[..count]),
            Place::Block { offset, bytes: count } => self.block(offset, count),
        }
        .ok_or(Refusal::Malformed { bytes })?;
        Ok(TakenRequest {
            target: request.target,
            function: request.function,
            root: request.root,
            time_left_ns: request.deadline_ns,
            idempotency,
            payload,
        })
    }

    fn inline(&self, bytes: &[u8]) -> Option<(Option<Idempotency>, TakenBytes)> {
        if !self.request.is_keyed {
            return Some((None, TakenBytes::Private(bytes.to_vec())));
        }
        let (idempotency, bytes) = Idempotency::split_prefix(bytes)?;
        Some((Some(idempotency), TakenBytes::Private(bytes.to_vec())))
    }

    fn block(&self, offset: usize, bytes: usize) -> Option<(Option<Idempotency>, TakenBytes)> {
        let start = self.memory().request_bytes(offset, bytes);
        let whole = RequestBuffer::new(&self.shared, start, bytes);
        if !self.request.is_keyed {
            return Some((None, TakenBytes::Block(whole)));
        }
        if bytes < IDEMPOTENCY_PREFIX_BYTES {
            return None;
        }
        let mut prefix = [0; IDEMPOTENCY_PREFIX_BYTES];
        whole.copy_to(&mut prefix);
        let (idempotency, _) = Idempotency::split_prefix(&prefix)?;
        let rest = bytes - IDEMPOTENCY_PREFIX_BYTES;
        let start = self.memory().request_bytes(offset + IDEMPOTENCY_PREFIX_BYTES, rest);
        Some((Some(idempotency), TakenBytes::Block(RequestBuffer::new(&self.shared, start, rest))))
    }

    fn refuse(&mut self, refusal: &Refusal) {
        let (outcome, detail, more) = match *refusal {
            Refusal::Malformed { bytes } => (Outcome::Malformed, 0, bytes),
            Refusal::TooLarge { limit, bytes } => (Outcome::PayloadTooLarge, limit, bytes),
        };
        self.reply(self.request.target, outcome, detail, more, &[]);
    }

    /// Whether a request lies there. With [`GatewayLane::park`], what decides about sleep.
    pub fn has_work(&mut self) -> bool {
        ring::has_work(self.shared.memory.entries(), &mut self.cursor)
    }

    /// Whether nobody waits for the answer to a call any more.
    #[must_use]
    pub fn is_abandoned(&self, target: u64) -> bool {
        let (cell, generation) = split(target);
        self.memory().cells().get(cell as usize).is_none_or(|cell| cell.is_abandoned(generation))
    }

    /// Room for a reply that is received straight into the lane; `None` if there is none, or the call has one already.
    #[must_use]
    pub fn room(&self, target: u64, bytes: usize) -> Option<RoomBuffer> {
        let (cell, _) = split(target);
        let mut rooms = self.shared.rooms.lock().unwrap_or_else(PoisonError::into_inner);
        let block = rooms.reserve(self.memory().cells(), cell as usize, bytes)?;
        drop(rooms);
        let start: NonNull<u8> = self.memory().reply_bytes(block.offset as usize, bytes);
        Some(RoomBuffer::new(&self.shared, target, block, start, bytes))
    }

    /// Answers a call with bytes that are copied. One that was answered already, or that its client spoiled, stays as it is.
    /// Without room for the bytes the answer is [`Outcome::ReplyLost`].
    pub fn reply(&mut self, target: u64, outcome: Outcome, detail: u32, more: u32, bytes: &[u8]) {
        if bytes.len() <= REPLY_INLINE_BYTES {
            return self.answer(target, outcome, detail, more, bytes, None);
        }
        let Some(mut room) = self.room(target, bytes.len()) else {
            let needed = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            return self.answer(target, Outcome::ReplyLost, 0, needed, &[], None);
        };
        // SAFETY: the room is reserved for this answer alone, and as long as the bytes.
        unsafe { copy::to_shared(bytes, crate::io_buffer::IoBuffer::start(&room)) };
        self.reply_with_room(outcome, detail, more, &mut room);
    }

    /// Answers the call that `room` was made for with what it was filled with.
    ///
    /// # Panics
    /// If it is another lane's.
    pub fn reply_room(&mut self, outcome: Outcome, detail: u32, more: u32, mut room: RoomBuffer) {
        assert!(Arc::ptr_eq(&room.lane, &self.shared), "room of another lane");
        self.reply_with_room(outcome, detail, more, &mut room);
    }

    fn reply_with_room(&mut self, outcome: Outcome, detail: u32, more: u32, room: &mut RoomBuffer) {
        let bytes = u32::try_from(crate::io_buffer::IoBuffer::bytes(room)).unwrap_or(u32::MAX);
        room.is_answered = true;
        self.answer(room.target, outcome, detail, more, &[], Some((bytes, room.block.offset)));
    }

    fn answer(
        &mut self,
        target: u64,
        outcome: Outcome,
        detail: u32,
        more: u32,
        inline: &[u8],
        block: Option<(u32, u32)>,
    ) {
        let (index, generation) = split(target);
        let Some(cell) = self.shared.memory.cells().get(index as usize) else { return };
        let (bytes, offset) = block.unwrap_or((u32::try_from(inline.len()).unwrap_or(0), INLINE));
        let answered = cell.answer_instead(generation, |cell| {
            cell.outcome.store(outcome as u32, Ordering::Relaxed);
            cell.cpu.store(spin::current_cpu(), Ordering::Relaxed);
            cell.detail.store(halves(detail, more), Ordering::Relaxed);
            cell.payload.store(halves(bytes, offset), Ordering::Relaxed);
            copy::store_inline(inline, &cell.inline);
        });
        self.owes_ring |= answered == Ok(Wake::Bell);
    }

    /// Wakes a client that waits for any of several calls, if one was answered since this was done last. Callers that wait for
    /// one call were woken by its answer.
    pub fn ring_if_owed(&mut self) {
        if std::mem::take(&mut self.owes_ring) {
            self.wakening.ring(self.shared.memory.client_bell());
        }
    }

    /// The loop is about to sleep until doorbells ring, those of these lanes among others. True if it may: no lane has work.
    pub fn park<'a>(lanes: impl Iterator<Item = &'a mut Self> + 'a) -> bool {
        let mut lanes: Vec<_> = lanes.collect();
        lanes.iter_mut().for_each(|lane| lane.is_parked = true);
        attendance::before_sleep(lanes.iter().map(|lane| lane.memory().attendance()), SERVER);
        !lanes.iter_mut().any(|lane| lane.has_work())
    }

    /// The loop looks at this lane by itself again: nobody has to ring.
    pub fn attend(&mut self) {
        if std::mem::take(&mut self.is_parked) {
            self.memory().attendance().start_spinning(SERVER);
            self.memory().attendance().stop_parking(SERVER);
        }
    }

    /// Whether it waits for its doorbell.
    #[must_use]
    pub fn is_parked(&self) -> bool {
        self.is_parked
    }
}

impl Drop for GatewayLane {
    fn drop(&mut self) {
        // The client may go on for a while, and must not believe that somebody attends.
        self.memory().attendance().forget(SERVER);
    }
}
