//! Every maximum of the object store, with its unit and its reason. Relations are asserted at the end.

use praas_protocol::limits::{KEY_BYTES_MAX, PAYLOAD_BYTES_MAX, WORKERS_MAX};

/// Bytes of the smallest objects segment: rows, log, heads and first buckets take 81 KiB of it.
pub const SEGMENT_BYTES_MIN: u64 = 256 << 10;
/// Bytes of the largest objects segment: sizes of blocks are 32 bits of 16 bytes each.
pub const SEGMENT_BYTES_MAX: u64 = 64 << 30;
/// Bytes of a value: what fits a payload fits an object, and archives point with signed 32 bits.
pub const VALUE_BYTES_MAX: u32 = PAYLOAD_BYTES_MAX;
/// Objects that one worker holds in view at a time: one bit each in a word.
#[cfg(not(loom))]
pub const PINS_PER_WORKER: usize = 64;
/// A model's executions are fast only with few words.
#[cfg(loom)]
pub const PINS_PER_WORKER: usize = 2;
/// Blocks that one worker fills at a time.
#[cfg(not(loom))]
pub const LOANS_PER_WORKER: usize = 16;
/// See [`PINS_PER_WORKER`].
#[cfg(loom)]
pub const LOANS_PER_WORKER: usize = 2;
/// Entries of one page of a list: what a page allocates is bounded.
pub const LIST_ENTRIES_MAX: usize = 4096;

/// Rows of pins and loans: one a worker, and the server's.
pub(crate) const ROWS: usize = WORKERS_MAX + 1;
/// Values up to this many bytes are copied inside the critical section: 4 KiB take about 100 ns, less than the second
/// critical section that a loan costs.
pub(crate) const PUT_WITHIN_LOCK_BYTES_MAX: usize = 4 << 10;
/// Entries of the undo log. The largest transaction is a split: it stores each entry of a whole chain once
/// ([`CHAIN_ENTRIES_MAX`]) and makes [`CHAIN_MAX`] blocks, each with at most [`HEAP_STORES_MAX`] stores and a link. All
/// others make or free at most three blocks and store a dozen words beside.
#[cfg(not(loom))]
pub(crate) const LOG_ENTRIES_MAX: usize = 248;
/// See [`PINS_PER_WORKER`].
#[cfg(loom)]
pub(crate) const LOG_ENTRIES_MAX: usize = 80;
/// Stores of one allocation or one release: two neighbours leave their lists (4 each), one block enters its list (4),
/// headers of two blocks (3 each), the neighbour behind, the count of used granules.
pub(crate) const HEAP_STORES_MAX: usize = 20;
/// Overflow buckets behind one bucket. At the load of [`KEYS_PER_BUCKET`] a chain of two is rare; longer ones come only
/// once all buckets of the segment are in use.
#[cfg(not(loom))]
pub(crate) const CHAIN_MAX: usize = 8;
/// See [`PINS_PER_WORKER`].
#[cfg(loom)]
pub(crate) const CHAIN_MAX: usize = 1;
/// Entries of one bucket: a cache line of words without its link.
pub(crate) const ENTRIES_PER_BUCKET: usize = 7;
/// Entries of a bucket and all its overflow buckets.
pub(crate) const CHAIN_ENTRIES_MAX: usize = (CHAIN_MAX + 1) * ENTRIES_PER_BUCKET;
/// Mean load above which each new key splits a bucket: 13 bytes of index a key, one line a lookup in most cases.
pub(crate) const KEYS_PER_BUCKET: usize = 5;
/// Retired blocks from which on each retirement reclaims some: the price of reading all pins is shared by a batch.
pub(crate) const RETIRED_BLOCKS_KEPT: u64 = 64;
/// A retired share of the heap (one part in so many) from which on the same holds.
pub(crate) const RETIRED_SHARE_OF_HEAP: u64 = 8;
/// Granules of a block whose retirement has the oldest retired blocks freed at once, however few there are: 64 KiB. The next value of its size then lies in
/// memory that is there and warm, where 64 retired ones before it would each have been put into fresh pages, at 2 µs a page;
/// copying such a value takes several times as long as reading all pins.
pub(crate) const RETIRED_LARGE_GRANULES: u32 = 4096;
/// Retired blocks that one critical section looks at: 16 releases are about a microsecond.
pub(crate) const RECLAIM_BATCH: usize = 16;
/// Retired blocks that an allocation without room looks at before it tries again.
pub(crate) const RECLAIM_BATCH_WHEN_FULL: usize = 256;
/// Blocks of the wanted size's own class that an allocation looks at when no larger class has one.
pub(crate) const OWN_CLASS_LOOKS_MAX: usize = 64;
/// Such batches in a row that free nothing: more than this have no pins.
pub(crate) const RECLAIM_BATCHES_MAX: usize = ROWS * PINS_PER_WORKER / RECLAIM_BATCH_WHEN_FULL + 1;
/// Looks of a reader at a bucket that changes under it: a replacement takes longer than a look, so this many in a row do
/// not happen to a reader that runs.
pub(crate) const READ_TRIES_MAX: usize = 4096;
/// Slots of the worker's private memory of validated versions.
pub(crate) const VALIDATED_SLOTS: usize = 1024;
/// Slots of the worker's private memory of keys that it found: what a function asks for again and again is a handful.
#[cfg(not(loom))]
pub(crate) const RECALLED_SLOTS: usize = 8;
/// Longest key that is remembered there: four words, compared in a few nanoseconds.
#[cfg(not(loom))]
pub(crate) const RECALLED_KEY_BYTES_MAX: usize = 32;

/// Bytes of the segment for each page of objects that come back while it is used: a page is meant to have some hundred objects,
/// the smallest of which take about a hundred bytes.
pub(crate) const PAGE_SHARE_BYTES: usize = 16 << 10;
/// Bytes of the segment for each record of a call with an idempotency key that there can be at most.
pub(crate) const CALL_RECORD_SHARE_BYTES: usize = 1 << 10;
/// Records of calls in one process, however large its segment: the ring that forgets them takes 8 MiB then.
#[cfg(not(loom))]
pub(crate) const CALL_RECORDS_MAX: usize = 1 << 20;
/// The models have none.
#[cfg(loom)]
pub(crate) const CALL_RECORDS_MAX: usize = 0;
/// One part in so many of the heap is for records: above it no new ones come, and large replies are not kept.
pub(crate) const CALL_RECORDS_SHARE_OF_HEAP: u64 = 4;
/// Bytes that are set aside for the end of a call before it runs: what most replies and messages fit.
pub(crate) const CALL_SPARE_BYTES: u32 = 256;
/// Oldest records that each new one looks at: as it brings one, what is over is always caught up with.
pub(crate) const CALL_LOOKS: usize = 2;
/// The same when there is no room for it: some tens of microseconds.
pub(crate) const CALL_LOOKS_WHEN_FULL: usize = 64;
/// Looks at a record that others change meanwhile: each of them began or ended the call.
pub(crate) const CALL_BEGIN_TRIES_MAX: usize = 64;

const _: () = {
    assert!(PINS_PER_WORKER <= 64 && LOANS_PER_WORKER <= 16, "their use is kept in one word each");
    assert!(CHAIN_ENTRIES_MAX + CHAIN_MAX * (HEAP_STORES_MAX + 1) + 4 <= LOG_ENTRIES_MAX, "a split fits the log");
    assert!(3 * HEAP_STORES_MAX + 16 <= LOG_ENTRIES_MAX, "every other operation fits the log");
    assert!(SEGMENT_BYTES_MAX / 16 <= 1 << 32, "a block's size is 32 bits");
    assert!(KEY_BYTES_MAX <= 255, "a key is compared in at most 32 words");
};
