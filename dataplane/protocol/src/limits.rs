//! Every maximum that more than one crate must agree on, with its unit and where it comes from.
//!
//! Relations between limits are asserted at compile time at the end of the file.

/// Bytes in the name of an application, a process or a function.
pub const NAME_BYTES_MAX: usize = 63;

/// Bytes in the key of a state object or a message.
pub const KEY_BYTES_MAX: usize = 255;

/// Objects in one page of a list of state: at most 290 KiB with the longest keys, some 60 KiB with usual ones.
pub const STATE_LIST_PAGE_KEYS: usize = 1024;

/// Pointers that an archive may nest. Validation recurses once a pointer; 128 levels fit any thread's stack, and data made
/// by people stays far below it.
pub const ARCHIVE_DEPTH_MAX: usize = 128;

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

/// Message lanes into one mailbox at a time, one for each worker that sends to it: a receiver that waits looks at all of them.
pub const MESSAGE_LANES_MAX: usize = 256;

/// Entries of a message lane's ring: messages of one sender that nobody has looked at yet.
pub const MESSAGE_LANE_ENTRIES: u32 = 1024;

/// Messages of one lane whose payloads lie in its arena at a time, taken ones that are not accepted yet included.
pub const MESSAGE_LANE_BLOCKS: u32 = 256;

/// Messages in one mailbox, those held by running calls included. More are refused, or wait in their lanes.
pub const MAILBOX_MESSAGES_MAX: u32 = 16_384;

/// Destinations of one broadcast, sources of one `recv`, targets of one gathering invocation.
pub const ADDRESSES_PER_CALL_MAX: usize = 1024;

/// Lanes that one worker may hold open at a time, for calls and messages together.
pub const LANES_PER_WORKER_MAX: usize = 512;

/// Bytes that a payload on a lane begins with when the call has an idempotency key: the key, flags, and zeros up to a multiple of
/// 16, so that what follows is aligned for any archive. They count toward the payload's limit.
pub const IDEMPOTENCY_PREFIX_BYTES: usize = 32;

/// Bytes of a text that an idempotency key is made of: as much as a line holds.
pub const IDEMPOTENCY_TEXT_BYTES_MAX: usize = 255;

/// Lanes that one client connection may hold open at a time.
pub const LANES_PER_CLIENT_MAX: usize = 1024;

/// Client connections that a server accepts at a time; further ones wait in the listen queue.
pub const CLIENTS_MAX: usize = 4096;

/// Processes in the memory of one server.
pub const PROCESSES_MAX: usize = 16_384;

/// Processes that sleep on one server: with their entries of at most 1 KiB each 64 MiB.
pub const SLEEPERS_MAX: usize = 65_536;

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

/// Claims that one worker can hold at a time: its running call, and the replies that it holds until they are durable. With twice
/// as many as a log's batch has when 32 calls are in flight, one worker alone fills its batches.
pub const CLAIMS_PER_WORKER: usize = 32;

/// Bytes of one control message on a Unix socket (function table of [`FUNCTIONS_MAX`] names, process list pages).
pub const CONTROL_MESSAGE_BYTES_MAX: usize = 64 << 10;

/// File descriptors that travel with one control message.
pub const CONTROL_MESSAGE_FDS_MAX: usize = 8;

/// Processes in one page of a process list, so that a page fits [`CONTROL_MESSAGE_BYTES_MAX`].
pub const LIST_PAGE_PROCESSES: usize = 128;

/// Bytes that the files directory of a process may be allowed to have: 1 TiB, whose table in a snapshot takes 7 MiB.
pub const FILES_BYTES_MAX_MOST: u64 = 1 << 40;

/// Files, directories and symbolic links of a process that are stored while it sleeps: each costs a few system calls then, and a
/// hundred bytes.
pub const FILES_MAX: usize = 65_536;

/// Names in the path of such a file: each is opened by itself whenever the file is.
pub const FILES_DEPTH_MAX: usize = 64;

/// Bytes of such a path within the directory, and of what a symbolic link says.
pub const FILE_PATH_BYTES_MAX: usize = 1024;

/// Bytes of the reason of a transition: a line. Longer ones are cut; the server's log has them whole.
pub const TRANSITION_REASON_BYTES_MAX: usize = 256;

/// Bytes of the text that says where a server stores processes: a path, or the address of a bucket.
pub const STORAGE_PLACE_BYTES_MAX: usize = 512;

/// Bytes of a token in text form.
pub const TOKEN_BYTES_MAX: usize = 1024;

/// Bytes of captured function output kept for each process; older output is dropped and counted.
pub const OUTPUT_BYTES_KEPT: usize = 256 << 10;

/// Bytes of captured output in one message, so that it fits [`CONTROL_MESSAGE_BYTES_MAX`] with its header.
pub const OUTPUT_CHUNK_BYTES: usize = 32 << 10;

/// Wake-ups that a process may have asked for and not got yet: their list is one object, rewritten with each change.
pub const WAKE_UPS_MAX: usize = 1024;

/// Bytes that one wake-up may say: a hint of what is to be done. What is long belongs into the state.
pub const WAKE_UP_BYTES_MAX: usize = 4 << 10;

/// Bytes of all wake-ups of a process with their keys: rewriting so many takes some tens of microseconds.
pub const WAKE_UPS_BYTES_MAX: usize = 256 << 10;

/// Bytes that the state of one process may grow to unless its application's `praas.toml` says otherwise: 64 MiB.
pub const STATE_BYTES_MAX_DEFAULT: u64 = 64 << 20;

/// Least that an application can set: its fixed tables and an object of half a mebibyte fit.
pub const STATE_BYTES_MAX_LEAST: u64 = 1 << 20;

/// Most that an application can set, 64 GiB: the server maps the state of each process, and its address space holds two
/// thousand of that size.
pub const STATE_BYTES_MAX_MOST: u64 = 64 << 30;

/// What the size of a state segment is rounded up to: the largest page of the processors that praas runs on.
pub const STATE_BYTES_UNIT: u64 = 64 << 10;

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

/// Bytes of the header of every frame on the network.
pub const WIRE_HEADER_BYTES: usize = 16;

/// Bytes of a REQUEST's head, header included, when it has no optional field.
pub const WIRE_REQUEST_HEAD_BYTES: usize = WIRE_HEADER_BYTES + 20;

/// Bytes of a REQUEST's head, header included, with every optional field: idempotency key, root id, principal, durability.
pub const WIRE_REQUEST_HEAD_BYTES_MAX: usize = WIRE_REQUEST_HEAD_BYTES + 16 + 16 + (1 + NAME_BYTES_MAX) + 1;

/// Bytes of a RESPONSE's head, header included.
pub const WIRE_RESPONSE_HEAD_BYTES: usize = WIRE_HEADER_BYTES + 12;

/// Bytes of the body of a network frame that is neither a REQUEST nor a RESPONSE: a page of processes, or output.
pub const WIRE_CONTROL_BODY_BYTES_MAX: u32 = 64 << 10;

/// Bytes that a frame reader keeps between two frames instead of giving them back: no optional field makes a head larger.
pub const WIRE_HELD_BYTES_KEPT: usize = 160;

/// Bytes of a process id in text: two names and the `/`.
pub const PROCESS_ID_BYTES_MAX: usize = 2 * NAME_BYTES_MAX + 1;

/// Bytes of the path of a Unix socket, as the kernel limits it.
pub const SOCKET_PATH_BYTES_MAX: usize = 108;

/// Bytes of the subject of a refusal: what it speaks of.
pub const WIRE_SUBJECT_BYTES_MAX: usize = 256;

/// Bytes of a refusal's reason; the last lines of a worker's output fit.
pub const WIRE_REASON_BYTES_MAX: usize = 4096;

/// Bytes of the reason why something of a process's state did not come back: it fits the buffer that a worker reads commands into.
pub const NOT_FETCHED_REASON_BYTES_MAX: usize = 2048;

/// Bytes of a refusal's advice and of a farewell's message.
pub const WIRE_ADVICE_BYTES_MAX: usize = 1024;

/// Bytes of the text that says how a worker ended, in one row of a page of processes.
pub const WIRE_LAST_EXIT_BYTES_MAX: usize = 256;

/// Questions (everything but calls) that one network connection may have open at a time; followed output is one each.
pub const WIRE_QUESTIONS_IN_FLIGHT_MAX: u32 = 64;

/// PING frames that a client may have unanswered at a time on one connection.
pub const WIRE_PINGS_IN_FLIGHT_MAX: u32 = 16;

const _: () = {
    assert!(WORKERS_MAX <= 64, "one bit a worker in a 64-bit word");
    assert!(CELLS_DEFAULT.is_power_of_two() && RING_ENTRIES_MAX.is_power_of_two());
    assert!(RING_ENTRIES_MIN.is_power_of_two() && RING_ENTRIES_MIN >= 4);
    assert!(PAYLOAD_BYTES_MAX_DEFAULT <= PAYLOAD_BYTES_MAX);
    assert!(FUNCTIONS_MAX * (NAME_BYTES_MAX + 2) < CONTROL_MESSAGE_BYTES_MAX);
    assert!(STATE_BYTES_MAX_LEAST <= STATE_BYTES_MAX_DEFAULT && STATE_BYTES_MAX_DEFAULT <= STATE_BYTES_MAX_MOST);
    assert!(STATE_BYTES_MAX_LEAST.is_multiple_of(STATE_BYTES_UNIT));
    assert!(STATE_BYTES_MAX_MOST.is_multiple_of(STATE_BYTES_UNIT));
    assert!(OUTPUT_CHUNK_BYTES * 2 <= CONTROL_MESSAGE_BYTES_MAX);
    assert!(WIRE_REQUEST_HEAD_BYTES <= 48 && WIRE_RESPONSE_HEAD_BYTES <= 32, "the common heads stay small");
    assert!(WIRE_REQUEST_HEAD_BYTES_MAX <= WIRE_HELD_BYTES_KEPT && WIRE_HELD_BYTES_KEPT <= 1024);
    assert!(
        (PAYLOAD_BYTES_MAX as usize) < u32::MAX as usize - WIRE_REQUEST_HEAD_BYTES_MAX,
        "a body's length is 32 bits"
    );
    assert!(OUTPUT_CHUNK_BYTES + 8 <= WIRE_CONTROL_BODY_BYTES_MAX as usize);
    assert!(REQUEST_INLINE_BYTES.is_multiple_of(16) && REPLY_INLINE_BYTES.is_multiple_of(16));
};
