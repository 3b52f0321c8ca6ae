//! Where everything lies in an objects segment: one chained table, in words of 8 bytes.
//!
//! ```text
//! header 4 KiB │ rows │ undo log │ heads of the heap's free lists │ ring of calls │ bits of pages │ index buckets (an eighth) │ heap
//! ```
//!
//! The layout follows from the limit in the server's message alone; nobody takes it from the segment. Pages that were
//! never written take no memory.

use super::error::LimitError;
use super::granule::{GRANULE_BYTES, WORDS_PER_GRANULE};
use super::limits::{
    CALL_RECORD_SHARE_BYTES, CALL_RECORDS_MAX, LOANS_PER_WORKER, LOG_ENTRIES_MAX, PAGE_SHARE_BYTES, PINS_PER_WORKER,
    ROWS, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN,
};
use super::size_class::HEAD_WORDS;

const WORD_BYTES: usize = 8;
const PAGE_BYTES: usize = 4096;
const PAGE_WORDS: usize = PAGE_BYTES / WORD_BYTES;
/// Words of two cache lines: neighbours are fetched in pairs.
const PAIR_WORDS: usize = 16;
/// One part in so many of the segment is for the index.
const INDEX_SHARE: usize = 8;
/// Words of a bucket: one cache line.
pub(crate) const BUCKET_WORDS: usize = 8;
/// Buckets at the start: two to this power.
const FIRST_BUCKETS_POWER: u32 = 8;

/// Words of the header, from the segment's start.
pub(crate) mod header {
    pub(crate) const MAGIC: usize = 0;
    pub(crate) const VERSION: usize = 1;
    pub(crate) const LIMIT_BYTES: usize = 2;
    /// Seed of the keys' hash, random for each segment.
    pub(crate) const HASH_SEED: usize = 3;
    /// The writers' lock; a line pair of its own.
    pub(crate) const LOCK: usize = 16;
    /// Buckets in use, which readers load first: a line pair that changes with a split only.
    pub(crate) const BUCKETS: usize = 32;
    /// The version given out last: the position of the last mutation.
    pub(crate) const POSITION: usize = 48;
    pub(crate) const KEYS: usize = 49;
    /// Granules of all blocks that are not free.
    pub(crate) const USED_GRANULES: usize = 50;
    pub(crate) const RETIRED_HEAD: usize = 51;
    pub(crate) const RETIRED_TAIL: usize = 52;
    /// Number of retired blocks in the low half, their granules in the high half.
    pub(crate) const RETIRED_TOTALS: usize = 53;
    /// The ring of records of calls: numbers of the oldest slot and of the next one; see `keyed_calls`.
    pub(crate) const CALLS_OLDEST: usize = 54;
    pub(crate) const CALLS_NEXT: usize = 55;
    /// Granules of all records of calls.
    pub(crate) const CALLS_GRANULES: usize = 56;
    /// Bytes of all records that were written to the log ring, see `crate::log_ring`; 0 without one.
    #[cfg(not(loom))]
    pub(crate) const LOG_TAIL: usize = 57;
    /// Pages of objects that are not in yet, see `restoring`; 0 if all are.
    pub(crate) const RESTORING: usize = 58;
    /// Blocks of objects up to this version, less one, are kept when they leave the index, see `hold`; 0 for none.
    pub(crate) const HELD: usize = 59;
    pub(crate) const KEPT_HEAD: usize = 60;
    pub(crate) const KEPT_TAIL: usize = 61;
    /// As `RETIRED_TOTALS`, of blocks that are kept.
    pub(crate) const KEPT_TOTALS: usize = 62;
    /// Counts holds.
    pub(crate) const HOLDS: usize = 63;
    /// The mailbox's table, 0 before the first message; what follows is the mailbox's too, see `crate::mailbox`.
    pub(crate) const MAIL_TABLE: usize = 64;
    /// Messages that are queued or held.
    pub(crate) const MAIL_MESSAGES: usize = 65;
    /// Lists of spare blocks for messages: the first one (40) │ how many (24).
    pub(crate) const MAIL_SPARE_SMALL: usize = 66;
    pub(crate) const MAIL_SPARE_LARGE: usize = 67;
    /// Removed messages whose blocks in lanes are still to be given back.
    pub(crate) const MAIL_RETURNS: usize = 68;
    /// Counts recoveries: what they could not publish in lanes is published by whoever sees that it has changed.
    pub(crate) const MAIL_REPAIRS: usize = 69;
    /// Not 0: somebody has left messages in a lane for want of room.
    pub(crate) const MAIL_STALLED: usize = 70;
    /// Queues and records of keys.
    pub(crate) const MAIL_QUEUES: usize = 71;
    /// Where the last sweep of idle queues has ended.
    pub(crate) const MAIL_SWEPT: usize = 72;
    /// Sources that may repeat: how many, and the ends of their list.
    pub(crate) const MAIL_SOURCES: usize = 73;
    pub(crate) const MAIL_SOURCE_OLDEST: usize = 74;
    pub(crate) const MAIL_SOURCE_NEWEST: usize = 75;
    /// A message that a call has received and that still lies in its lane, 0 for none; see `crate::mailbox`.
    pub(crate) const MAIL_CLAIM: usize = 76;
    /// Counts queues and records of keys that were removed: where one was found it may be no more.
    pub(crate) const MAIL_REMOVALS: usize = 77;
    /// The number given out last for a message that this process sends; a line pair of its own, without the lock.
    pub(crate) const MAIL_SEQUENCE: usize = 80;
    #[cfg(not(loom))]
    pub(crate) const WORDS: usize = 96;
    /// A model's executions are fast only with few words.
    #[cfg(loom)]
    pub(crate) const WORDS: usize = 64;
}

/// Words of a row, from its start.
pub(crate) mod row {
    use super::{LOANS_PER_WORKER, PAIR_WORDS, PINS_PER_WORKER};

    /// Pins beyond this number were never used.
    pub(crate) const PINS_USED: usize = 0;
    /// Tag of the worker that has this row; see `row_owner`.
    pub(crate) const OWNER: usize = 1;
    pub(crate) const PINS: usize = 8;
    pub(crate) const LOANS: usize = PINS + PINS_PER_WORKER;
    /// The message that this worker's call has received last, of those that it holds.
    pub(crate) const MAIL_HELD: usize = LOANS + LOANS_PER_WORKER;
    /// The same of messages that it has accepted all together, and that are being removed.
    pub(crate) const MAIL_ENDING: usize = MAIL_HELD + 1;
    /// A message that this worker is filling.
    pub(crate) const MAIL_FILLING: usize = MAIL_HELD + 2;
    /// Rows do not share line pairs: a pin is stored by every read.
    pub(crate) const WORDS: usize = (MAIL_FILLING + 1).next_multiple_of(PAIR_WORDS);
}

/// Words of the undo log, from its start.
pub(crate) mod log {
    use super::LOG_ENTRIES_MAX;

    pub(crate) const COUNT: usize = 0;
    pub(crate) const COMMIT_AT: usize = 1;
    pub(crate) const COMMIT_VALUE: usize = 2;
    pub(crate) const FOLLOW_UP: usize = 3;
    pub(crate) const ENTRIES: usize = 8;
    pub(crate) const WORDS: usize = ENTRIES + 2 * LOG_ENTRIES_MAX;
}

/// Offsets of the regions of an objects segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectsLayout {
    pub(crate) rows: usize,
    pub(crate) row_count: usize,
    pub(crate) log: usize,
    pub(crate) heads: usize,
    /// The ring of records of calls, a word each.
    pub(crate) calls: usize,
    pub(crate) call_slots: usize,
    /// A bit for each page that is in, see `restoring`.
    pub(crate) pages: usize,
    pub(crate) page_words: usize,
    pub(crate) buckets: usize,
    pub(crate) bucket_count_max: usize,
    /// The first bucket count is two to this power.
    pub(crate) first_power: u32,
    /// Granules from the segment's start; the heap's end marker lies at `heap_end`.
    pub(crate) heap_start: u64,
    pub(crate) heap_end: u64,
    words: usize,
}

impl ObjectsLayout {
    /// The layout of a segment with this limit, rounded up to whole pages.
    ///
    /// # Errors
    /// [`LimitError`] outside [`SEGMENT_BYTES_MIN`](super::limits::SEGMENT_BYTES_MIN) to
    /// [`SEGMENT_BYTES_MAX`](super::limits::SEGMENT_BYTES_MAX).
    pub fn for_limit(limit_bytes: u64) -> Result<Self, LimitError> {
        if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&limit_bytes) {
            return Err(LimitError {
                actual_bytes: limit_bytes,
                minimum_bytes: SEGMENT_BYTES_MIN,
                maximum_bytes: SEGMENT_BYTES_MAX,
            });
        }
        let bytes = usize::try_from(limit_bytes).expect("addresses are 64 bits").next_multiple_of(PAGE_BYTES);
        let buckets = (bytes / INDEX_SHARE).next_multiple_of(PAGE_BYTES) / (BUCKET_WORDS * WORD_BYTES);
        Ok(Self::chain(ROWS, PAGE_WORDS, buckets, FIRST_BUCKETS_POWER, bytes / WORD_BYTES))
    }

    /// Regions one after the other, each aligned to `align` words, and the heap in what is left of `words`.
    pub(crate) fn chain(
        row_count: usize,
        align: usize,
        bucket_count_max: usize,
        first_power: u32,
        words: usize,
    ) -> Self {
        let rows = header::WORDS.next_multiple_of(align);
        let log = (rows + row_count * row::WORDS).next_multiple_of(align);
        let heads = (log + log::WORDS).next_multiple_of(align);
        let calls = (heads + HEAD_WORDS).next_multiple_of(align);
        let call_slots = (words * WORD_BYTES / CALL_RECORD_SHARE_BYTES).min(CALL_RECORDS_MAX);
        let pages = (calls + call_slots).next_multiple_of(align);
        let page_words = (words * WORD_BYTES / PAGE_SHARE_BYTES / 64).max(1);
        let buckets = (pages + page_words).next_multiple_of(align);
        let heap = (buckets + bucket_count_max * BUCKET_WORDS).next_multiple_of(align);
        // The last granules hold the end marker and keep the words that any block header has inside the segment.
        let heap_words = words.checked_sub(heap + END_WORDS).expect("the least segment has room for a heap");
        assert!(bucket_count_max >= 1 << first_power, "the first buckets have room");
        let heap_start = (heap / WORDS_PER_GRANULE) as u64;
        let heap_end = heap_start + (heap_words / WORDS_PER_GRANULE) as u64;
        Self {
            rows,
            row_count,
            log,
            heads,
            calls,
            call_slots,
            pages,
            page_words,
            buckets,
            bucket_count_max,
            first_power,
            heap_start,
            heap_end,
            words,
        }
    }

    /// Bytes of the segment.
    #[must_use]
    pub fn segment_bytes(&self) -> usize {
        self.words * WORD_BYTES
    }

    /// Bits of hashes by which the objects of a segment can be divided into pages at most; see [`crate::swap`].
    #[must_use]
    pub fn page_bits_max(&self) -> u32 {
        let pages = (self.page_words * 64).min(self.words * WORD_BYTES / PAGE_SHARE_BYTES).max(1);
        pages.ilog2()
    }

    /// Words of the segment.
    pub(crate) fn words(&self) -> usize {
        self.words
    }

    pub(crate) fn heap_granules(&self) -> u64 {
        self.heap_end - self.heap_start
    }

    /// The first word of `bucket`, which must be below `bucket_count_max`.
    #[inline]
    pub(crate) fn bucket_at(&self, bucket: usize) -> usize {
        debug_assert!(bucket < self.bucket_count_max);
        self.buckets + bucket * BUCKET_WORDS
    }

    /// The first word of `row`.
    #[inline]
    pub(crate) fn row_at(&self, row: usize) -> usize {
        debug_assert!(row < self.row_count);
        self.rows + row * row::WORDS
    }
}

/// Words behind the heap: its end marker, and room for every word of a block's and a bucket's header behind it.
const END_WORDS: usize = 8 * WORDS_PER_GRANULE;

const _: () = {
    assert!((PAGE_BYTES as u64).is_multiple_of(GRANULE_BYTES));
    assert!(header::WORDS * WORD_BYTES <= PAGE_BYTES);
    assert!(HEAD_WORDS <= PAGE_WORDS && log::WORDS <= PAGE_WORDS);
    assert!(END_WORDS >= 2 + BUCKET_WORDS);
};

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn every_limit_gives_regions_in_order_and_a_heap() {
        for limit in [SEGMENT_BYTES_MIN, 1 << 20, 64 << 20, (1 << 30) + 1, SEGMENT_BYTES_MAX] {
            let layout = ObjectsLayout::for_limit(limit).unwrap();
            assert!(header::WORDS <= layout.rows && layout.rows < layout.log && layout.log < layout.heads);
            assert!(layout.heads < layout.buckets && layout.buckets.is_multiple_of(PAGE_WORDS));
            assert!(layout.heap_granules() * GRANULE_BYTES > limit / 2);
            assert!(layout.heap_end * GRANULE_BYTES < layout.segment_bytes() as u64);
            assert!(layout.segment_bytes() as u64 >= limit);
        }
    }

    #[test]
    fn limits_outside_the_range_are_named() {
        for limit in [0, SEGMENT_BYTES_MIN - 1, SEGMENT_BYTES_MAX + 1, u64::MAX] {
            assert_eq!(ObjectsLayout::for_limit(limit).unwrap_err().actual_bytes, limit);
        }
    }
}
