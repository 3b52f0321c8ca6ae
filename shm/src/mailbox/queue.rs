//! A queue: the messages of one source under one key, first in, first out; and the record of a key, which joins the queues
//! of all sources that have messages under it.
//!
//! ```text
//! word 0–1  header of the block; its link names the next queue of the bucket
//!      2    hash of the name               6    last message (40) │ how many (24)
//!      3    bytes of the key               7–8  neighbours in the ring of queues that have messages
//!      4    holder's row + 1 (8) │ how     9    record of the key
//!           many messages it holds        10…   source, 8 words; zero in a key's record
//!      5    first message                 18…   key, zero to the end of its last word
//! ```
//!
//! In a key's record word 4 counts the queues of the key, and word 5 names the queue of the ring that is next.
//!
//! Invariants, between transactions:
//! 1. Each name has at most one record, in the chain of its bucket. A queue names its key's record, which counts it.
//! 2. A queue is in its key's ring if and only if it has messages.
//! 3. A queue whose holder is a worker gives messages to that worker alone; held messages came before all queued ones.
//!
//! A queue without messages that nobody holds is *idle*: kept for the next message, removed by a sweep when there are many.

use crate::objects::block::{BLOCK_HEADER_WORDS, Block, KIND_AND_LINK, Kind, kind_and_link, link_of};
use crate::objects::error::StateError;
use crate::objects::granule::{Granule, WORDS_PER_GRANULE};
use crate::objects::heap;
use crate::objects::layout::header::{MAIL_MESSAGES, MAIL_QUEUES, MAIL_REMOVALS, MAIL_SWEPT};
use crate::objects::lock::Locked;
use crate::objects::transaction::Transaction;
use crate::objects::words::Space;
use crate::sync::{AtomicU64, Ordering};

use super::limits::{BUCKETS_SWEPT, BUCKETS_SWEPT_IN_EARNEST, QUEUE_BUCKETS, QUEUES_IDLE_MAX, QUEUES_KEPT, QUEUES_MAX};
use super::message::Stored;
use super::name::{ADDRESS_WORDS, QueueName};
use super::table::Table;

const HASH: usize = BLOCK_HEADER_WORDS;
const KEY_BYTES: usize = 3;
const HOLD: usize = 4;
const FIRST: usize = 5;
const LAST: usize = 6;
const RING_NEXT: usize = 7;
const RING_BEFORE: usize = 8;
const KEY_RECORD: usize = 9;
const ADDRESS: usize = 10;
const KEY: usize = ADDRESS + ADDRESS_WORDS;

const KEY_BYTES_MAX: u64 = praas_protocol::limits::KEY_BYTES_MAX as u64;
/// Bits of a place beside a count.
const PLACE_BITS: u32 = 40;
const PLACE: u64 = (1 << PLACE_BITS) - 1;

/// A record whose block was checked: its words and its key's lie inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Queue {
    pub(crate) place: Granule,
}

/// Who holds messages of a queue, and how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hold {
    /// The holder's row + 1; 0 without one.
    holder: u64,
    pub(crate) count: u64,
}

impl Hold {
    #[inline(always)]
    fn of_word(word: u64) -> Self {
        Self { holder: word & 0xff, count: word >> 8 }
    }

    #[inline(always)]
    fn word(self) -> u64 {
        if self.count == 0 { 0 } else { self.holder | self.count << 8 }
    }

    /// Whether this row's worker may take messages.
    #[inline]
    pub(crate) fn admits(self, row: usize) -> bool {
        self.count == 0 || self.is_by(row)
    }

    #[inline]
    pub(crate) fn is_by(self, row: usize) -> bool {
        self.holder == row as u64 + 1
    }
}

impl Queue {
    /// The record that a word names; `at` says where the word stood.
    #[inline(always)]
    pub(crate) fn checked(space: Space<'_>, number: u64, at: usize) -> Result<Self, StateError> {
        let place = Granule::checked(number, space.layout, "queue of messages", at)?;
        let block = Block::of_kind(space, place, Kind::MailQueue)?;
        let key_bytes = space.words.load(place.at() + KEY_BYTES);
        if key_bytes > KEY_BYTES_MAX || block.granules < granules_for(key_bytes) {
            return Err(StateError::corrupt("key of a queue", place.at()));
        }
        Ok(Self { place })
    }

    /// The queue or key's record of this name.
    #[inline(always)]
    pub(crate) fn find(space: Space<'_>, table: Table, name: &QueueName<'_>) -> Result<Option<Self>, StateError> {
        let bucket = table.queues_at(name.hash);
        let mut number = space.words.load(bucket);
        for _ in 0..QUEUES_MAX {
            if number == 0 {
                return Ok(None);
            }
            let queue = Self::checked(space, number, bucket)?;
            if queue.has_name(space, name) {
                return Ok(Some(queue));
            }
            number = queue.next_in_bucket(space);
        }
        Err(StateError::corrupt("chain of queues", bucket))
    }

    /// The queue of this name, made if there is none, and its key's record with it. Each is a transaction of its own.
    #[inline(always)]
    pub(crate) fn ensure(locked: &Locked<'_>, table: Table, name: &QueueName<'_>) -> Result<Self, StateError> {
        match Self::find(locked.space(), table, name)? {
            Some(queue) => Ok(queue),
            None => Self::make(locked, table, name),
        }
    }

    #[cold]
    fn make(locked: &Locked<'_>, table: Table, name: &QueueName<'_>) -> Result<Self, StateError> {
        let of_key = QueueName::of_key(name.key);
        let record = match Self::find(locked.space(), table, &of_key)? {
            Some(record) => record,
            None => Self::make_one(locked, table, &of_key, None)?,
        };
        Self::make_one(locked, table, name, Some(record))
    }

    fn make_one(
        locked: &Locked<'_>,
        table: Table,
        name: &QueueName<'_>,
        record: Option<Self>,
    ) -> Result<Self, StateError> {
        let words = locked.space().words;
        let mut transaction = Transaction::begin(locked)?;
        let key_bytes = name.key.bytes.len() as u64;
        let place = heap::allocate(&mut transaction, granules_for(key_bytes), Kind::MailQueue)?;
        let at = place.at();
        words.store_private(at + HASH, name.hash);
        words.store_private(at + KEY_BYTES, key_bytes);
        for word in HOLD..KEY_RECORD {
            words.store_private(at + word, 0);
        }
        words.store_private(at + KEY_RECORD, record.map_or(0, |record| record.place.number()));
        for (index, &word) in name.source.words.iter().enumerate() {
            words.store_private(at + ADDRESS + index, word);
        }
        for (index, word) in name.key.words().enumerate() {
            words.store_private(at + KEY + index, word);
        }
        let bucket = table.queues_at(name.hash);
        transaction.store(at + KIND_AND_LINK, kind_and_link(Kind::MailQueue, transaction.load(bucket)))?;
        transaction.store(bucket, place.number())?;
        let queues = transaction.load(MAIL_QUEUES);
        if queues >= QUEUES_MAX {
            return Err(StateError::corrupt("count of queues", MAIL_QUEUES));
        }
        transaction.store(MAIL_QUEUES, queues + 1)?;
        if let Some(record) = record {
            let count = record.place.at() + HOLD;
            transaction.store(count, transaction.load(count).wrapping_add(1))?;
        }
        transaction.commit();
        Ok(Self { place })
    }

    #[inline(always)]
    fn has_name(self, space: Space<'_>, name: &QueueName<'_>) -> bool {
        let (words, at) = (space.words, self.place.at());
        words.load(at + HASH) == name.hash
            && words.load(at + KEY_BYTES) == name.key.bytes.len() as u64
            && words.region::<ADDRESS_WORDS>(at + ADDRESS).iter().zip(&name.source.words).fold(0, differing) == 0
            && name.key.words().enumerate().all(|(index, word)| words.load(at + KEY + index) == word)
    }

    /// The number of the next one in its bucket, 0 for none.
    #[inline(always)]
    pub(crate) fn next_in_bucket(self, space: Space<'_>) -> u64 {
        link_of(space.words.load(self.place.at() + KIND_AND_LINK))
    }

    /// Whether it is a key's record.
    pub(crate) fn is_of_key(self, space: Space<'_>) -> bool {
        space.words.load(self.place.at() + ADDRESS) == 0
    }

    /// Of a key's record: how many queues name it.
    pub(crate) fn queues_of_key(self, space: Space<'_>) -> u64 {
        space.words.load(self.place.at() + HOLD)
    }

    /// Hash of its name as it stands there, for checks.
    pub(crate) fn hash(self, space: Space<'_>) -> u64 {
        space.words.load(self.place.at() + HASH)
    }

    /// The bytes of its source.
    pub(crate) fn address_words(self, space: Space<'_>) -> [u64; ADDRESS_WORDS] {
        std::array::from_fn(|index| space.words.load(self.place.at() + ADDRESS + index))
    }

    /// The bytes of its key, copied.
    #[allow(clippy::cast_possible_truncation, reason = "at most 255, or cut to it")]
    pub(crate) fn key_bytes(self, space: Space<'_>) -> Vec<u8> {
        let bytes = space.words.load(self.place.at() + KEY_BYTES).min(KEY_BYTES_MAX) as usize;
        let at = self.place.at() + KEY;
        let mut text: Vec<u8> =
            (at..at + bytes.div_ceil(8)).flat_map(|word| space.words.load(word).to_le_bytes()).collect();
        text.truncate(bytes);
        text
    }

    /// Messages in it, without those held.
    #[inline(always)]
    pub(crate) fn count(self, space: Space<'_>) -> u64 {
        space.words.load(self.place.at() + LAST) >> PLACE_BITS
    }

    #[inline(always)]
    pub(crate) fn hold(self, space: Space<'_>) -> Hold {
        Hold::of_word(space.words.load(self.place.at() + HOLD))
    }

    /// The first message; `None` without one.
    #[inline(always)]
    pub(crate) fn first(self, space: Space<'_>) -> Result<Option<Stored>, StateError> {
        let at = self.place.at() + FIRST;
        let number = space.words.load(at);
        if number == 0 { Ok(None) } else { Stored::checked(space, number, at).map(Some) }
    }

    /// The number of the last message, 0 for none.
    pub(crate) fn last(self, space: Space<'_>) -> u64 {
        space.words.load(self.place.at() + LAST) & PLACE
    }

    /// Its key's record.
    pub(crate) fn record(self, space: Space<'_>) -> Result<Self, StateError> {
        let at = self.place.at() + KEY_RECORD;
        Self::checked(space, space.words.load(at), at)
    }

    /// Of a key's record: the queue that is next in its ring.
    pub(crate) fn next_ready(self, space: Space<'_>) -> Result<Option<Self>, StateError> {
        let at = self.place.at() + FIRST;
        let number = space.words.load(at);
        if number == 0 { Ok(None) } else { Self::checked(space, number, at).map(Some) }
    }

    /// The queue behind it in its ring.
    pub(crate) fn ring_next(self, space: Space<'_>) -> Result<Self, StateError> {
        let at = self.place.at() + RING_NEXT;
        Self::checked(space, space.words.load(at), at)
    }

    /// The queue before it in its ring.
    pub(crate) fn ring_before(self, space: Space<'_>) -> Result<Self, StateError> {
        let at = self.place.at() + RING_BEFORE;
        Self::checked(space, space.words.load(at), at)
    }

    /// Puts a message at the end. The message's link is stored through the transaction.
    pub(crate) fn append(self, transaction: &mut Transaction<'_>, message: Stored) -> Result<(), StateError> {
        let (space, at, number) = (transaction.space(), self.place.at(), message.place.number());
        transaction.store(message.link_at(), kind_and_link(Kind::Message, 0))?;
        let count = self.count(space);
        if count == 0 {
            transaction.store(at + FIRST, number)?;
            self.enter_ring(transaction)?;
        } else {
            let last = Stored::checked(space, self.last(space), at + LAST)?;
            transaction.store(last.link_at(), kind_and_link(Kind::Message, number))?;
        }
        transaction.store(at + LAST, number | count.wrapping_add(1) << PLACE_BITS)
    }

    /// Puts a message that was held back at the head.
    pub(crate) fn put_back(self, transaction: &mut Transaction<'_>, message: Stored) -> Result<(), StateError> {
        let (space, at, number) = (transaction.space(), self.place.at(), message.place.number());
        let count = self.count(space);
        let first = transaction.load(at + FIRST);
        let last = if count == 0 { number } else { self.last(space) };
        if count == 0 {
            self.enter_ring(transaction)?;
        }
        transaction.store(message.link_at(), kind_and_link(Kind::Message, if count == 0 { 0 } else { first }))?;
        transaction.store(at + FIRST, number)?;
        transaction.store(at + LAST, last | count.wrapping_add(1) << PLACE_BITS)
    }

    /// Takes the first message, which [`Queue::first`] has given, out. The ring's next queue is then the one behind this one.
    pub(crate) fn take_first(self, transaction: &mut Transaction<'_>, first: Stored) -> Result<(), StateError> {
        let (space, at) = (transaction.space(), self.place.at());
        let next = link_of(transaction.load(first.link_at()));
        let left = self.count(space).checked_sub(1);
        let left = left.filter(|&left| (left == 0) == (next == 0));
        let left = left.ok_or_else(|| StateError::corrupt("count of a queue", at + LAST))?;
        transaction.store(at + FIRST, next)?;
        if left == 0 {
            transaction.store(at + LAST, 0)?;
            return self.leave_ring(transaction);
        }
        transaction.store(at + LAST, self.last(space) | left << PLACE_BITS)?;
        let record = self.record(space)?;
        transaction.store(record.place.at() + FIRST, transaction.load(at + RING_NEXT))
    }

    /// Its worker holds one more of its messages.
    #[inline(always)]
    pub(crate) fn hold_one(self, transaction: &mut Transaction<'_>, row: usize) -> Result<(), StateError> {
        let hold = self.hold(transaction.space());
        let more = Hold { holder: row as u64 + 1, count: hold.count.wrapping_add(1) };
        transaction.store(self.place.at() + HOLD, more.word())
    }

    /// Its worker holds one less. True if that was the last one.
    #[inline(always)]
    pub(crate) fn unhold_one(self, transaction: &mut Transaction<'_>, row: usize) -> Result<bool, StateError> {
        let hold = self.hold(transaction.space());
        if hold.count == 0 || !hold.is_by(row) {
            return Err(StateError::corrupt("holder of a queue", self.place.at() + HOLD));
        }
        let less = Hold { count: hold.count - 1, ..hold };
        transaction.store(self.place.at() + HOLD, less.word())?;
        Ok(less.count == 0)
    }

    /// Enters its key's ring as the last one.
    fn enter_ring(self, transaction: &mut Transaction<'_>) -> Result<(), StateError> {
        let (space, at, number) = (transaction.space(), self.place.at(), self.place.number());
        let record = self.record(space)?;
        let Some(next) = record.next_ready(space)? else {
            transaction.store(at + RING_NEXT, number)?;
            transaction.store(at + RING_BEFORE, number)?;
            return transaction.store(record.place.at() + FIRST, number);
        };
        let before = next.ring_before(space)?;
        transaction.store(at + RING_NEXT, next.place.number())?;
        transaction.store(at + RING_BEFORE, before.place.number())?;
        transaction.store(before.place.at() + RING_NEXT, number)?;
        transaction.store(next.place.at() + RING_BEFORE, number)
    }

    /// Leaves its key's ring, whose next queue is then the one behind it.
    fn leave_ring(self, transaction: &mut Transaction<'_>) -> Result<(), StateError> {
        let space = transaction.space();
        let record = self.record(space)?.place.at();
        let next = self.ring_next(space)?;
        if next == self {
            return transaction.store(record + FIRST, 0);
        }
        let before = self.ring_before(space)?;
        transaction.store(before.place.at() + RING_NEXT, next.place.number())?;
        transaction.store(next.place.at() + RING_BEFORE, before.place.number())?;
        transaction.store(record + FIRST, next.place.number())
    }

    /// Whether nothing would be lost with it.
    fn is_idle(self, space: Space<'_>) -> bool {
        space.words.load(self.place.at() + HOLD) == 0 && self.count(space) == 0
    }

    /// Removes an idle one, which the word at `named_at` names: a bucket's, or the link of the one before it.
    fn remove(self, locked: &Locked<'_>, named_at: usize) -> Result<(), StateError> {
        let space = locked.space();
        let mut transaction = Transaction::begin(locked)?;
        let next = self.next_in_bucket(space);
        let named_by_queue = Self::is_link(space, named_at, self.place.number());
        transaction.store(named_at, if named_by_queue { kind_and_link(Kind::MailQueue, next) } else { next })?;
        if !self.is_of_key(space) {
            let count = self.record(space)?.place.at() + HOLD;
            let left = transaction.load(count).checked_sub(1);
            transaction.store(count, left.ok_or_else(|| StateError::corrupt("count of a key's queues", count))?)?;
        }
        let queues = transaction.load(MAIL_QUEUES).checked_sub(1);
        transaction.store(MAIL_QUEUES, queues.ok_or_else(|| StateError::corrupt("count of queues", MAIL_QUEUES))?)?;
        transaction.store(MAIL_REMOVALS, transaction.load(MAIL_REMOVALS).wrapping_add(1))?;
        let block = Block::of_kind(space, self.place, Kind::MailQueue)?;
        heap::release(&mut transaction, block)?;
        transaction.commit();
        Ok(())
    }

    /// Whether the word is a header's, and not a bucket's.
    fn is_link(space: Space<'_>, at: usize, number: u64) -> bool {
        space.words.load(at) == kind_and_link(Kind::MailQueue, number)
    }
}

/// Removes some idle queues if there are many. To be called before any queue was looked up.
#[inline]
pub(crate) fn tidy(locked: &Locked<'_>) -> Result<(), StateError> {
    let words = locked.space().words;
    let queues = words.load(MAIL_QUEUES);
    if queues > QUEUES_KEPT {
        // Each message needs a queue and a record of its key at most: the others are idle.
        let idle = queues.saturating_sub(words.load(MAIL_MESSAGES).saturating_mul(2));
        sweep(locked, if idle > QUEUES_IDLE_MAX { BUCKETS_SWEPT_IN_EARNEST } else { BUCKETS_SWEPT })?;
    }
    Ok(())
}

/// Removes all idle queues. Returns how many.
pub(crate) fn sweep_all(locked: &Locked<'_>) -> Result<u64, StateError> {
    // Queues may come before the records that they name.
    Ok(sweep(locked, QUEUE_BUCKETS)? + sweep(locked, QUEUE_BUCKETS)?)
}

/// Removes the idle queues of some buckets, going on where the last sweep has ended.
#[cold]
fn sweep(locked: &Locked<'_>, buckets: usize) -> Result<u64, StateError> {
    let space = locked.space();
    let Some(table) = Table::find(space)? else { return Ok(0) };
    #[allow(clippy::cast_possible_truncation, reason = "only its low bits count")]
    let start = space.words.load(MAIL_SWEPT) as usize % QUEUE_BUCKETS;
    let mut removed = 0;
    for bucket in start..start + buckets {
        let mut named_at = table.bucket_at(bucket);
        let mut number = space.words.load(named_at);
        let mut looks = 0;
        while number != 0 {
            let queue = Queue::checked(space, number, named_at)?;
            number = queue.next_in_bucket(space);
            if queue.is_idle(space) {
                queue.remove(locked, named_at)?;
                removed += 1;
            } else {
                named_at = queue.place.at() + KIND_AND_LINK;
            }
            looks += 1;
            if looks > QUEUES_MAX {
                return Err(StateError::corrupt("chain of queues", table.bucket_at(bucket)));
            }
        }
    }
    space.words.store(MAIL_SWEPT, ((start + buckets) % QUEUE_BUCKETS) as u64);
    Ok(removed)
}

/// Bits by which words differ, of several pairs: without a jump for each.
#[inline]
fn differing(bits: u64, (there, word): (&AtomicU64, &u64)) -> u64 {
    bits | there.load(Ordering::Relaxed) ^ word
}

#[inline]
#[allow(clippy::cast_possible_truncation, reason = "at most 255 bytes of key")]
fn granules_for(key_bytes: u64) -> u32 {
    (KEY as u64 + key_bytes.div_ceil(8)).div_ceil(WORDS_PER_GRANULE as u64) as u32
}
