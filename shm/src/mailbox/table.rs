//! The table: what leads to queues and sources, and where each inbound lane stands. One block, made with the first message.
//!
//! ```text
//! word 0–1  header of the block
//!      2…   first queue of each bucket │ first source of each bucket │ of each lane: serial, position
//! ```
//!
//! A lane's words count only for the lane of that serial: another lane in its place begins at position 0.

use crate::objects::block::{BLOCK_HEADER_WORDS, Block, Kind};
use crate::objects::error::StateError;
use crate::objects::granule::{Granule, WORDS_PER_GRANULE};
use crate::objects::heap;
use crate::objects::layout::header::MAIL_TABLE;
use crate::objects::lock::Locked;
use crate::objects::transaction::Transaction;
use crate::objects::words::Space;

use super::limits::{LANES, QUEUE_BUCKETS, SOURCE_BUCKETS};

const QUEUES: usize = BLOCK_HEADER_WORDS;
const SOURCES: usize = QUEUES + QUEUE_BUCKETS;
const LANE_WORDS: usize = SOURCES + SOURCE_BUCKETS;
const WORDS: usize = LANE_WORDS + 2 * LANES;
#[allow(clippy::cast_possible_truncation, reason = "some hundreds")]
const GRANULES: u32 = WORDS.div_ceil(WORDS_PER_GRANULE) as u32;

/// The table's block, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Table {
    at: usize,
}

impl Table {
    /// The table; `None` before the first message.
    #[inline(always)]
    pub(crate) fn find(space: Space<'_>) -> Result<Option<Self>, StateError> {
        let number = space.words.load(MAIL_TABLE);
        if number == 0 {
            return Ok(None);
        }
        let place = Granule::checked(number, space.layout, "table of the mailbox", MAIL_TABLE)?;
        let block = Block::of_kind(space, place, Kind::MailTable)?;
        if block.granules < GRANULES {
            return Err(StateError::corrupt("size of the mailbox's table", place.at()));
        }
        Ok(Some(Self { at: place.at() }))
    }

    /// The table, made if there is none.
    #[inline(always)]
    pub(crate) fn ensure(locked: &Locked<'_>) -> Result<Self, StateError> {
        match Self::find(locked.space())? {
            Some(table) => Ok(table),
            None => Self::make(locked),
        }
    }

    #[cold]
    fn make(locked: &Locked<'_>) -> Result<Self, StateError> {
        let mut transaction = Transaction::begin(locked)?;
        let place = heap::allocate(&mut transaction, GRANULES, Kind::MailTable)?;
        for at in place.at() + BLOCK_HEADER_WORDS..place.at() + WORDS {
            locked.space().words.store_private(at, 0);
        }
        transaction.store(MAIL_TABLE, place.number())?;
        transaction.commit();
        Ok(Self { at: place.at() })
    }

    /// The word that names the first queue of a hash's bucket.
    #[inline(always)]
    pub(crate) fn queues_at(self, hash: u64) -> usize {
        self.bucket_at(low_bits(hash, QUEUE_BUCKETS))
    }

    /// The word that names the first queue of bucket `number`, of [`QUEUE_BUCKETS`].
    #[inline(always)]
    pub(crate) fn bucket_at(self, number: usize) -> usize {
        self.at + QUEUES + number % QUEUE_BUCKETS
    }

    /// The word that names the first source of a hash's bucket.
    pub(crate) fn sources_at(self, hash: u64) -> usize {
        self.source_bucket_at(low_bits(hash, SOURCE_BUCKETS))
    }

    /// The word that names the first source of bucket `number`, of [`SOURCE_BUCKETS`].
    pub(crate) fn source_bucket_at(self, number: usize) -> usize {
        self.at + SOURCES + number % SOURCE_BUCKETS
    }

    /// The words of lane `slot`.
    #[inline(always)]
    pub(crate) fn lane(self, slot: u16) -> LaneWords {
        let at = self.at + LANE_WORDS + 2 * (usize::from(slot) % LANES);
        LaneWords { serial_at: at, position_at: at + 1 }
    }
}

#[inline]
#[allow(clippy::cast_possible_truncation, reason = "low bits")]
fn low_bits(hash: u64, count: usize) -> usize {
    hash as usize & (count - 1)
}

/// How far a lane was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LaneWords {
    serial_at: usize,
    position_at: usize,
}

impl LaneWords {
    /// The position of the lane with this serial. Without the lock it is a hint.
    #[inline(always)]
    pub(crate) fn position(self, space: Space<'_>, serial: u64) -> u64 {
        let words = space.words;
        if words.load_acquire(self.serial_at) == serial { words.load_acquire(self.position_at) } else { 0 }
    }

    /// The same if a lane with this serial was taken from before.
    #[inline(always)]
    pub(crate) fn position_if_known(self, space: Space<'_>, serial: u64) -> Option<u64> {
        let words = space.words;
        (words.load_acquire(self.serial_at) == serial).then(|| words.load_acquire(self.position_at))
    }

    /// The position of the lane that was taken from last.
    #[inline(always)]
    pub(crate) fn position_now(self, space: Space<'_>) -> u64 {
        space.words.load(self.position_at)
    }

    /// Moves the lane that was taken from last, by a single store.
    #[inline(always)]
    pub(crate) fn advance(self, space: Space<'_>, position: u64) {
        space.words.store(self.position_at, position);
    }

    /// The serial of the lane that was taken from last.
    #[inline]
    pub(crate) fn serial(self, space: Space<'_>) -> u64 {
        space.words.load(self.serial_at)
    }

    #[inline(always)]
    pub(crate) fn move_to(
        self,
        transaction: &mut Transaction<'_>,
        serial: u64,
        position: u64,
    ) -> Result<(), StateError> {
        transaction.store(self.serial_at, serial)?;
        transaction.store(self.position_at, position)
    }
}
