//! A message in its block, and the lists it is in.
//!
//! ```text
//! word 0–1  header of the block; its link names the next message of its queue, of the spares, or of the returns
//!      2–3  messages that the same call has received before and after it
//!      4    queue                            8    payload bytes (32) │ slot of the lane (16) │ in a lane (1) │ redelivered (1)
//!      5    incarnation of its source        9    serial of the lane
//!      6    sequence                        10–11 place in the lane
//!      7    position of its arrival         12…   payload, if it is not in a lane
//! ```
//!
//! Invariants, between transactions:
//! 1. Each block of a message is in exactly one place: a queue, the list of what a row's call holds or is ending, the word
//!    for what a row is filling, the spares, or the returns. That of a message which is [claimed](super::claim) is still the
//!    first of the small spares.
//! 2. Words that are meaningless where a message is (its link while it is held, its neighbours while it is queued, all
//!    of a spare one) are stored without the log: a rollback leaves them meaningless.
//! 3. `MAIL_MESSAGES` counts those in queues and held, but not the one that is claimed.

use praas_protocol::limits::MAILBOX_MESSAGES_MAX;
use praas_protocol::message::MessageId;

use crate::copy;
use crate::message_lane::PLACE_WORDS;
use crate::objects::block::{BLOCK_HEADER_WORDS, Block, KIND_AND_LINK, Kind, kind_and_link, link_of};
use crate::objects::error::StateError;
use crate::objects::granule::{GRANULE_BYTES, Granule, WORDS_PER_GRANULE};
use crate::objects::heap;
use crate::objects::layout::header::{MAIL_MESSAGES, MAIL_RETURNS, MAIL_SPARE_LARGE, MAIL_SPARE_SMALL, POSITION};
use crate::objects::lock::Locked;
use crate::objects::transaction::Transaction;
use crate::objects::words::Space;
use crate::sync::AtomicU64;

use super::limits::{
    LARGE_BYTES, LARGE_SPARES_MAX, MESSAGE_BYTES_MAX, MESSAGES_BEYOND_MAX, MESSAGES_BOUND, SMALL_BYTES,
    SMALL_SPARES_MAX,
};
use super::logging;
use super::queue::Queue;

const BEFORE: usize = BLOCK_HEADER_WORDS;
const AFTER: usize = 3;
const QUEUE: usize = 4;
const INCARNATION: usize = 5;
const SEQUENCE: usize = 6;
const ARRIVAL: usize = 7;
const SHAPE: usize = 8;
const LANE_SERIAL: usize = 9;
const LANE_PLACE: usize = 10;
const PAYLOAD: usize = LANE_PLACE + PLACE_WORDS;

const SLOT_AT: u32 = 32;
const IN_LANE: u64 = 1 << 48;
const REDELIVERED: u64 = 1 << 49;

/// Bits of a place beside a count, in the words of spares.
const PLACE_BITS: u32 = 40;
const PLACE: u64 = (1 << PLACE_BITS) - 1;

/// A block of a message, whose size was checked: every word before the payload lies inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) place: Granule,
}

/// Where a payload lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PayloadAt {
    /// In the block, from this byte of the segment on.
    Segment { offset: usize, bytes: usize },
    /// In a block of a lane.
    Lane(LanePlace),
}

/// A payload in a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LanePlace {
    pub(crate) slot: u16,
    pub(crate) serial: u64,
    /// As [`BlockPlace::words`](crate::message_lane::BlockPlace::words) says it.
    pub(crate) words: [u64; PLACE_WORDS],
}

/// What a new message says.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Payload<'p> {
    Bytes(&'p [u8]),
    /// So many bytes, filled by somebody later.
    Reserved(u32),
    Lane(LanePlace),
}

impl Payload<'_> {
    /// Bytes that lie in the message's own block.
    fn own_bytes(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Reserved(bytes) => *bytes as usize,
            Self::Lane(_) => 0,
        }
    }
}

impl Stored {
    /// The message that a word names; `at` says where the word stood.
    #[inline(always)]
    pub(crate) fn checked(space: Space<'_>, number: u64, at: usize) -> Result<Self, StateError> {
        let place = Granule::checked(number, space.layout, "message", at)?;
        let block = Block::of_kind(space, place, Kind::Message)?;
        if (block.granules as usize) * WORDS_PER_GRANULE < PAYLOAD {
            return Err(StateError::corrupt("size of a message's block", place.at()));
        }
        Ok(Self { place })
    }

    #[inline(always)]
    pub(crate) fn link_at(self) -> usize {
        self.place.at() + KIND_AND_LINK
    }

    /// The number of the next message in its list, 0 for none.
    #[inline(always)]
    pub(crate) fn next(self, space: Space<'_>) -> u64 {
        link_of(space.words.load(self.link_at()))
    }

    /// The number of the message that the same call has received before it, 0 for none.
    #[inline(always)]
    pub(crate) fn before(self, space: Space<'_>) -> u64 {
        space.words.load(self.place.at() + BEFORE)
    }

    #[inline(always)]
    pub(crate) fn queue(self, space: Space<'_>) -> Result<Queue, StateError> {
        let at = self.place.at() + QUEUE;
        Queue::checked(space, space.words.load(at), at)
    }

    pub(crate) fn set_queue(self, transaction: &mut Transaction<'_>, queue: Queue) -> Result<(), StateError> {
        transaction.store(self.place.at() + QUEUE, queue.place.number())
    }

    #[inline]
    pub(crate) fn id(self, space: Space<'_>) -> MessageId {
        let at = self.place.at();
        MessageId { incarnation: space.words.load(at + INCARNATION), sequence: space.words.load(at + SEQUENCE) }
    }

    pub(crate) fn arrival(self, space: Space<'_>) -> u64 {
        space.words.load(self.place.at() + ARRIVAL)
    }

    #[inline]
    pub(crate) fn is_redelivered(self, space: Space<'_>) -> bool {
        space.words.load(self.place.at() + SHAPE) & REDELIVERED != 0
    }

    /// Says that somebody has received it before. Stays if the rest is taken back: it is true.
    pub(crate) fn mark_redelivered(self, space: Space<'_>) {
        let at = self.place.at() + SHAPE;
        space.words.store(at, space.words.load(at) | REDELIVERED);
    }

    /// Where its payload is, inside its block if it is there.
    #[inline(always)]
    pub(crate) fn payload(self, space: Space<'_>) -> Result<PayloadAt, StateError> {
        let at = self.place.at();
        if let Some(place) = self.lane_place(space) {
            return Ok(PayloadAt::Lane(place));
        }
        let bytes = payload_bytes(space.words.load(at + SHAPE));
        let block = Block::at(space, self.place)?;
        let room = block.bytes() - (PAYLOAD * size_of::<u64>()) as u64;
        if u64::from(bytes) > room {
            return Err(StateError::corrupt("payload of a message", at + SHAPE));
        }
        Ok(PayloadAt::Segment { offset: (at + PAYLOAD) * size_of::<u64>(), bytes: bytes as usize })
    }

    /// Where in a lane its payload lies, if it lies in one.
    #[inline(always)]
    #[allow(clippy::cast_possible_truncation, reason = "a field of the word")]
    pub(crate) fn lane_place(self, space: Space<'_>) -> Option<LanePlace> {
        let (words, at) = (space.words, self.place.at());
        let shape = words.load(at + SHAPE);
        (shape & IN_LANE != 0).then(|| LanePlace {
            slot: (shape >> SLOT_AT) as u16,
            serial: words.load(at + LANE_SERIAL),
            words: std::array::from_fn(|index| words.load(at + LANE_PLACE + index)),
        })
    }

    /// Room for a payload in a small spare block, that nobody else uses.
    #[inline(always)]
    pub(crate) fn small_room(self, space: Space<'_>) -> &[AtomicU64] {
        space.words.range(self.place.at() + PAYLOAD, SMALL_BYTES / size_of::<u64>())
    }

    /// Fills in a small spare block, whose payload is there already; it stays where it is.
    #[inline(always)]
    pub(crate) fn fill_spare(self, space: Space<'_>, queue: Queue, id: MessageId, payload_bytes: u32) {
        let (words, at) = (space.words, self.place.at());
        words.store_private(at + QUEUE, queue.place.number());
        words.store_private(at + INCARNATION, id.incarnation);
        words.store_private(at + SEQUENCE, id.sequence);
        words.store_private(at + SHAPE, u64::from(payload_bytes));
    }

    /// Where the payload of a small block begins: the byte of the segment.
    #[inline(always)]
    pub(crate) fn payload_offset(self) -> usize {
        (self.place.at() + PAYLOAD) * size_of::<u64>()
    }

    /// A block for a message of this payload, filled in; it is nowhere yet.
    #[inline(always)]
    pub(crate) fn make(
        transaction: &mut Transaction<'_>,
        queue: Queue,
        id: MessageId,
        payload: &Payload<'_>,
    ) -> Result<Self, StateError> {
        let message = Self::block_for(transaction, payload.own_bytes())?;
        let (words, at) = (transaction.space().words, message.place.at());
        words.store_private(at + QUEUE, queue.place.number());
        words.store_private(at + INCARNATION, id.incarnation);
        words.store_private(at + SEQUENCE, id.sequence);
        let shape = match payload {
            Payload::Bytes(bytes) => {
                store_bytes(transaction.space(), at + PAYLOAD, bytes);
                bytes.len() as u64
            }
            Payload::Reserved(bytes) => u64::from(*bytes),
            Payload::Lane(lane) => {
                words.store_private(at + LANE_SERIAL, lane.serial);
                for (index, word) in lane.words.into_iter().enumerate() {
                    words.store_private(at + LANE_PLACE + index, word);
                }
                IN_LANE | u64::from(lane.slot) << SLOT_AT
            }
        };
        words.store_private(at + SHAPE, shape);
        Ok(message)
    }

    #[inline(always)]
    fn block_for(transaction: &mut Transaction<'_>, bytes: usize) -> Result<Self, StateError> {
        for spare in [&Spares::SMALL, &Spares::LARGE] {
            if bytes <= spare.bytes {
                return match spare.pop(transaction)? {
                    Some(message) => Ok(message),
                    None => Self::allocate(transaction, spare.granules()),
                };
            }
        }
        Self::allocate(transaction, granules_for(bytes))
    }

    #[cold]
    fn allocate(transaction: &mut Transaction<'_>, granules: u32) -> Result<Self, StateError> {
        heap::allocate(transaction, granules, Kind::Message).map(|place| Self { place })
    }

    /// It counts from now on as a message that has come.
    #[inline(always)]
    pub(crate) fn arrives(self, transaction: &mut Transaction<'_>) -> Result<(), StateError> {
        let position = next_position(transaction)?;
        transaction.space().words.store_private(self.place.at() + ARRIVAL, position);
        let messages = transaction.load(MAIL_MESSAGES).wrapping_add(1);
        if messages > MESSAGES_BOUND {
            return Err(StateError::corrupt("count of messages", MAIL_MESSAGES));
        }
        transaction.store(MAIL_MESSAGES, messages)
    }

    /// The same of a message that comes back from elsewhere, with the position at which it came first.
    pub(crate) fn comes_back(self, transaction: &mut Transaction<'_>, arrival: u64) -> Result<(), StateError> {
        transaction.space().words.store_private(self.place.at() + ARRIVAL, arrival);
        let messages = transaction.load(MAIL_MESSAGES).wrapping_add(1);
        if messages > MESSAGES_BOUND || arrival == 0 || arrival > transaction.load(POSITION) {
            return Err(StateError::corrupt("message that comes back", MAIL_MESSAGES));
        }
        transaction.store(MAIL_MESSAGES, messages)
    }

    /// It is a message no more. It must be in no list.
    #[inline(always)]
    pub(crate) fn ends(self, transaction: &mut Transaction<'_>) -> Result<(), StateError> {
        let position = next_position(transaction)?;
        logging::removed(transaction, self, position)?;
        self.is_tidied_away(transaction)
    }

    /// It was removed before, with others: its block is spare now, or waits until its lane has its own back. It must be in no
    /// list.
    #[inline(always)]
    pub(crate) fn is_tidied_away(self, transaction: &mut Transaction<'_>) -> Result<(), StateError> {
        let left = transaction.load(MAIL_MESSAGES).checked_sub(1);
        let left = left.ok_or_else(|| StateError::corrupt("count of messages", MAIL_MESSAGES))?;
        transaction.store(MAIL_MESSAGES, left)?;
        if self.lane_place(transaction.space()).is_none() {
            return self.free(transaction);
        }
        let returns = transaction.load(MAIL_RETURNS);
        transaction.space().words.store(self.link_at(), kind_and_link(Kind::Message, returns));
        transaction.store(MAIL_RETURNS, self.place.number())
    }

    /// Gives its block to the spares, or back to the heap. It must be in no list, and its link meaningless.
    #[inline(always)]
    pub(crate) fn free(self, transaction: &mut Transaction<'_>) -> Result<(), StateError> {
        let block = Block::of_kind(transaction.space(), self.place, Kind::Message)?;
        for spare in [&Spares::SMALL, &Spares::LARGE] {
            if spare.has_size(block) && spare.push(transaction, self)? {
                return Ok(());
            }
        }
        heap::release(transaction, block)
    }

    /// Enters the list of what a row's call holds, whose last message's word is `last_at`.
    #[inline(always)]
    pub(crate) fn enter_row(self, transaction: &mut Transaction<'_>, last_at: usize) -> Result<(), StateError> {
        let (space, at) = (transaction.space(), self.place.at());
        let last = transaction.load(last_at);
        space.words.store(at + BEFORE, last);
        space.words.store(at + AFTER, 0);
        if last != 0 {
            let last = Self::checked(space, last, last_at)?;
            transaction.store(last.place.at() + AFTER, self.place.number())?;
        }
        transaction.store(last_at, self.place.number())
    }

    /// Leaves that list.
    #[inline(always)]
    pub(crate) fn leave_row(self, transaction: &mut Transaction<'_>, last_at: usize) -> Result<(), StateError> {
        let (space, at) = (transaction.space(), self.place.at());
        let (before, after) = (space.words.load(at + BEFORE), space.words.load(at + AFTER));
        if after == 0 {
            if transaction.load(last_at) != self.place.number() {
                return Err(StateError::corrupt("list of held messages", last_at));
            }
            transaction.store(last_at, before)?;
        } else {
            let after = Self::checked(space, after, at + AFTER)?;
            transaction.store(after.place.at() + BEFORE, before)?;
        }
        if before != 0 {
            let before = Self::checked(space, before, at + BEFORE)?;
            transaction.store(before.place.at() + AFTER, after)?;
        }
        Ok(())
    }
}

/// Blocks that are kept for the next message of their size: a list, last in, first out.
#[derive(Debug)]
pub(crate) struct Spares {
    /// First spare (40) │ how many (24).
    at: usize,
    /// Payload bytes that fit at least.
    bytes: usize,
    kept_max: u64,
}

impl Spares {
    pub(crate) const SMALL: Self = Self { at: MAIL_SPARE_SMALL, bytes: SMALL_BYTES, kept_max: SMALL_SPARES_MAX };
    pub(crate) const LARGE: Self = Self { at: MAIL_SPARE_LARGE, bytes: LARGE_BYTES, kept_max: LARGE_SPARES_MAX };

    #[inline]
    const fn granules(&self) -> u32 {
        granules_for(self.bytes)
    }

    /// Whether blocks like this are kept here. An allocation may have got a granule more than it asked for.
    #[inline(always)]
    fn has_size(&self, block: Block) -> bool {
        block.granules == self.granules() || block.granules == self.granules() + 1
    }

    /// How many there are, as the word says.
    pub(crate) fn count(&self, space: Space<'_>) -> u64 {
        space.words.load(self.at) >> PLACE_BITS
    }

    /// The number of the first, 0 for none.
    #[inline]
    pub(crate) fn first(&self, space: Space<'_>) -> u64 {
        space.words.load(self.at) & PLACE
    }

    /// The first spare block, once its place and its size are checked, and the word by which it was found.
    pub(crate) fn checked_first(&self, space: Space<'_>) -> Result<(u64, Option<Stored>), StateError> {
        let word = space.words.load(self.at);
        if word == 0 {
            return Ok((word, None));
        }
        let spare = Stored::checked(space, word & PLACE, self.at)?;
        let has_size = self.has_size(Block::at(space, spare.place)?);
        Ok((word, has_size.then_some(spare)))
    }

    /// Where the list begins.
    #[inline]
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    #[inline(always)]
    pub(crate) fn pop(&self, transaction: &mut Transaction<'_>) -> Result<Option<Stored>, StateError> {
        let space = transaction.space();
        let word = transaction.load(self.at);
        if word == 0 {
            return Ok(None);
        }
        let spare = Stored::checked(space, word & PLACE, self.at)?;
        if !self.has_size(Block::at(space, spare.place)?) {
            return Err(StateError::corrupt("size of a spare block", spare.place.at()));
        }
        let left = (word >> PLACE_BITS).wrapping_sub(1);
        let next = spare.next(space);
        if next > PLACE || (left == 0) != (next == 0) {
            return Err(StateError::corrupt("list of spare blocks", self.at));
        }
        transaction.store(self.at, if left == 0 { 0 } else { next | left << PLACE_BITS })?;
        Ok(Some(spare))
    }

    /// False if there are enough.
    #[inline(always)]
    fn push(&self, transaction: &mut Transaction<'_>, message: Stored) -> Result<bool, StateError> {
        let word = transaction.load(self.at);
        let count = word >> PLACE_BITS;
        if count >= self.kept_max {
            return Ok(false);
        }
        transaction.space().words.store(message.link_at(), kind_and_link(Kind::Message, word & PLACE));
        transaction.store(self.at, message.place.number() | (count + 1) << PLACE_BITS)?;
        Ok(true)
    }

    /// Gives all of them back to the heap. Returns how many.
    pub(crate) fn give_back(&self, locked: &Locked<'_>) -> Result<u64, StateError> {
        let mut given = 0;
        loop {
            let mut transaction = Transaction::begin(locked)?;
            let Some(spare) = self.pop(&mut transaction)? else { return Ok(given) };
            let block = Block::of_kind(locked.space(), spare.place, Kind::Message)?;
            heap::release(&mut transaction, block)?;
            transaction.commit();
            given += 1;
        }
    }
}

/// Whether one more message may be queued.
#[inline]
pub(crate) fn has_room(space: Space<'_>) -> bool {
    space.words.load(MAIL_MESSAGES) < u64::from(MAILBOX_MESSAGES_MAX)
}

/// Whether one more may come that a call waits for.
#[inline]
pub(crate) fn has_room_for_wanted(space: Space<'_>) -> bool {
    space.words.load(MAIL_MESSAGES) < u64::from(MAILBOX_MESSAGES_MAX) + MESSAGES_BEYOND_MAX
}

/// The position of one more mutation.
#[inline(always)]
pub(crate) fn next_position(transaction: &mut Transaction<'_>) -> Result<u64, StateError> {
    let next = transaction.load(POSITION).checked_add(1);
    let next = next.ok_or_else(|| StateError::corrupt("position", POSITION))?;
    transaction.store(POSITION, next)?;
    Ok(next)
}

#[inline]
#[allow(clippy::cast_possible_truncation, reason = "the low half")]
fn payload_bytes(shape: u64) -> u32 {
    (shape as u32).min(MESSAGE_BYTES_MAX)
}

/// Granules of a block for a payload of so many bytes.
#[inline]
#[allow(clippy::cast_possible_truncation, reason = "a payload has less than 2^31 bytes")]
const fn granules_for(bytes: usize) -> u32 {
    ((PAYLOAD * size_of::<u64>() + bytes) as u64).div_ceil(GRANULE_BYTES) as u32
}

/// Stores bytes from word `at` on, in a block that has room for them and that nobody reads yet.
#[inline]
fn store_bytes(space: Space<'_>, at: usize, bytes: &[u8]) {
    copy::store_inline(bytes, space.words.range(at, bytes.len().div_ceil(8)));
}

const _: () = {
    assert!(PAYLOAD.is_multiple_of(WORDS_PER_GRANULE), "payloads are aligned to 16");
    assert!(granules_for(SMALL_BYTES) + 1 < granules_for(LARGE_BYTES), "a block is of one size");
};
