//! Every maximum of the mailbox, with its unit and its reason. Relations are asserted at the end.

use std::time::Duration;

use praas_protocol::limits::{MAILBOX_MESSAGES_MAX, MESSAGE_LANES_MAX, PAYLOAD_BYTES_MAX, WORKERS_MAX};

use crate::objects::limits::{HEAP_STORES_MAX, LOG_ENTRIES_MAX};

/// Bytes of a message's payload: as long as that of a call.
pub const MESSAGE_BYTES_MAX: u32 = PAYLOAD_BYTES_MAX;
/// Sources whose repetitions are recognised at a time. A record takes 272 bytes.
pub const SOURCES_MAX: u64 = 4096;
/// How long a source that has sent nothing is remembered at least: longer than any sender repeats a send.
pub const SOURCE_KEPT: Duration = Duration::from_secs(600);
/// Sequences below the newest of a source of which each is known to be accepted or not.
pub const WINDOW_SEQUENCES: u64 = 1024;

/// Words that have a bit for each of these.
#[allow(clippy::cast_possible_truncation, reason = "a few")]
const WINDOW_WORDS: usize = WINDOW_SEQUENCES as usize / 64;

/// Messages that a mailbox takes while it is full of others, because a running call waits for just them.
pub(crate) const MESSAGES_BEYOND_MAX: u64 = MAILBOX_MESSAGES_MAX as u64 / 4;
/// No list of messages is longer.
pub(crate) const MESSAGES_BOUND: u64 = MAILBOX_MESSAGES_MAX as u64 + MESSAGES_BEYOND_MAX + WORKERS_MAX as u64 + 1;
/// Queues and records of keys: each message may have one of each, and idle ones are kept for the next message.
pub(crate) const QUEUES_MAX: u64 = 2 * MESSAGES_BOUND + QUEUES_KEPT + QUEUES_IDLE_MAX;
/// Idle queues are looked for from so many queues on: making one anew costs as much as a few messages.
pub(crate) const QUEUES_KEPT: u64 = 128;
/// Queues beyond those that messages may need from which on idle ones are looked for in earnest: after a call that has
/// accepted thousands.
pub(crate) const QUEUES_IDLE_MAX: u64 = 1024;
/// Buckets that one turn looks at for idle queues: every turn pays for them, and with thousands of queues in use a bucket has
/// dozens.
pub(crate) const BUCKETS_SWEPT: usize = 2;
/// The same while there are too many idle ones: more than a turn can make anew.
pub(crate) const BUCKETS_SWEPT_IN_EARNEST: usize = 64;
/// Buckets of queues: with as many keys in use as messages fit, a bucket has some forty.
pub(crate) const QUEUE_BUCKETS: usize = 512;
/// Buckets of sources.
pub(crate) const SOURCE_BUCKETS: usize = 256;
/// Inbound lanes whose positions are kept.
pub(crate) const LANES: usize = MESSAGE_LANES_MAX;
/// Messages that one turn takes out of lanes: the lock is held for about ten microseconds.
pub(crate) const COLLECT_BATCH: usize = 64;
/// Turns that one receive takes at most, and one put until it knows all that came before it: more find a full mailbox.
#[allow(clippy::cast_possible_truncation, reason = "some hundreds")]
pub(crate) const COLLECT_TURNS_MAX: usize = MESSAGES_BOUND as usize / COLLECT_BATCH + 2;
/// Messages that one turn removes or puts back: as for collecting.
pub(crate) const ENDING_BATCH: usize = 64;
/// Payloads up to this many bytes are copied inside the critical section, see the same limit of objects.
pub(crate) const PUT_WITHIN_LOCK_BYTES_MAX: usize = 4 << 10;
/// Payload bytes of the blocks that are kept as spare, and how many: most messages are small, and taking a block from the
/// heap and giving it back costs as much as all else of a message.
pub(crate) const SMALL_BYTES: usize = 64;
pub(crate) const SMALL_SPARES_MAX: u64 = 64;
pub(crate) const LARGE_BYTES: usize = 224;
pub(crate) const LARGE_SPARES_MAX: u64 = 32;

const _: () = {
    assert!(QUEUE_BUCKETS.is_multiple_of(BUCKETS_SWEPT) && QUEUE_BUCKETS.is_multiple_of(BUCKETS_SWEPT_IN_EARNEST));
    assert!(QUEUE_BUCKETS.is_power_of_two() && SOURCE_BUCKETS.is_power_of_two());
    assert!(MESSAGES_BOUND < 1 << 24 && QUEUES_MAX < 1 << 24, "counts in words beside places have 24 bits");
    assert!(LARGE_SPARES_MAX < 1 << 24 && SMALL_SPARES_MAX < 1 << 24);
    // The largest transaction makes a message, and stores two dozen words of its queue, its lane and its row, and of the filter
    // the whole window twice: for a new incarnation, whose first sequence is high.
    assert!(HEAP_STORES_MAX + 40 + 2 * (WINDOW_WORDS + 2) <= LOG_ENTRIES_MAX, "it fits the log");
};
