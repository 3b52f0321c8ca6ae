//! Every maximum that more than one crate must agree on, with its unit and where it comes from.
//!
//! Relations between limits are asserted at compile time at the end of the file.

/// Bytes in the name of an application, a process or a function.
pub const NAME_BYTES_MAX: usize = 63;

/// Bytes of a call's payload that an application allows unless its `praas.toml` says otherwise: 64 MiB.
pub const PAYLOAD_BYTES_MAX_DEFAULT: u32 = 64 << 20;

/// Bytes of a call's payload that no configuration can exceed: offsets and lengths of a lane are 32 bits, and rkyv's
/// relative pointers are signed 32 bits.
pub const PAYLOAD_BYTES_MAX: u32 = i32::MAX as u32;

/// Bytes of a function's error message or of a panic's message that reach the caller; longer ones are cut.
pub const ERROR_MESSAGE_BYTES_MAX: usize = 4096;

/// Workers of one process: the `spinning` and `parked` words of a lane have one bit a worker.
pub const WORKERS_MAX: usize = 64;

/// Functions that one application registers. The worker's table of them is searched by hash, and sent in one message.
pub const FUNCTIONS_MAX: usize = 512;

/// Lanes that one process serves at a time: a worker polls all of them between calls.
pub const LANES_PER_PROCESS_MAX: usize = 256;

/// Lanes that one client connection may hold open at a time.
pub const LANES_PER_CLIENT_MAX: usize = 1024;

/// Client connections that a server accepts at a time; further ones wait in the listen queue.
pub const CLIENTS_MAX: usize = 4096;

/// Processes on one server.
pub const PROCESSES_MAX: usize = 16_384;

/// Reply cells of one lane, that is, calls in flight on it (abandoned ones included); its ring has as many entries.
pub const CELLS_DEFAULT: u32 = 64;

/// Entries and cells that a lane can have at most: both are scanned by recovery.
pub const RING_ENTRIES_MAX: u32 = 4096;

/// Smallest number of entries or cells: below it a claim and its neighbour would share state in the resynchronisation rule.
pub const RING_ENTRIES_MIN: u32 = 4;

/// Bytes of payload that travel inside a request entry, without a block.
pub const REQUEST_INLINE_BYTES: usize = 64;

/// Bytes of payload that travel inside a reply cell, without a block.
pub const REPLY_INLINE_BYTES: usize = 96;

/// Claims that one worker can hold at a time: its running call, and later the replies it holds for durability.
pub const CLAIMS_PER_WORKER: usize = 16;

/// Bytes of one control message on a Unix socket (function table of [`FUNCTIONS_MAX`] names, process list pages).
pub const CONTROL_MESSAGE_BYTES_MAX: usize = 64 << 10;

/// File descriptors that travel with one control message.
pub const CONTROL_MESSAGE_FDS_MAX: usize = 8;

/// Processes in one page of a process list, so that a page fits [`CONTROL_MESSAGE_BYTES_MAX`].
pub const LIST_PAGE_PROCESSES: usize = 128;

/// Bytes of a token in text form.
pub const TOKEN_BYTES_MAX: usize = 1024;

/// Bytes of captured function output kept for each process; older output is dropped and counted.
pub const OUTPUT_BYTES_KEPT: usize = 256 << 10;

/// Bytes of captured output in one message, so that it fits [`CONTROL_MESSAGE_BYTES_MAX`] with its header.
pub const OUTPUT_CHUNK_BYTES: usize = 32 << 10;

/// Time a call may take, in nanoseconds, unless its caller sets a deadline: 30 s. Every wait has an end.
pub const CALL_DEADLINE_NS_DEFAULT: u64 = 30_000_000_000;

/// Time a client waits for the server's answer to a control message, in milliseconds.
pub const CONTROL_DEADLINE_MS: u64 = 10_000;

/// Period in milliseconds in which a parked client looks whether its server lives and its request was claimed.
pub const PARKED_CHECK_MS: u64 = 100;

/// Shortest period in milliseconds in which the server samples claim records for `call_ms_max`.
pub const CLAIM_SAMPLE_MS_MIN: u64 = 10;

/// Time in milliseconds that a process may take to finish its calls when it drains, unless configured.
pub const DRAIN_MS_DEFAULT: u64 = 10_000;

/// Time in milliseconds from a worker's start to its hello. A loaded machine needs seconds, a broken binary never.
pub const WORKER_HELLO_MS_MAX: u64 = 10_000;

const _: () = {
    assert!(WORKERS_MAX <= 64, "one bit a worker in a 64-bit word");
    assert!(CELLS_DEFAULT.is_power_of_two() && RING_ENTRIES_MAX.is_power_of_two());
    assert!(RING_ENTRIES_MIN.is_power_of_two() && RING_ENTRIES_MIN >= 4);
    assert!(PAYLOAD_BYTES_MAX_DEFAULT <= PAYLOAD_BYTES_MAX);
    assert!(FUNCTIONS_MAX * (NAME_BYTES_MAX + 2) < CONTROL_MESSAGE_BYTES_MAX);
    assert!(OUTPUT_CHUNK_BYTES * 2 <= CONTROL_MESSAGE_BYTES_MAX);
    assert!(REQUEST_INLINE_BYTES.is_multiple_of(16) && REPLY_INLINE_BYTES.is_multiple_of(16));
};
