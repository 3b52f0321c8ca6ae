//! Every limit of the command line, with its unit and its reason. Those of the demo application are in
//! [`demo::limits`](crate::demo::limits).

use std::time::Duration;

/// Calls that one `praas invoke --repeat` makes at most: an hour and more of the slowest useful function.
pub const REPEATS_MAX: u64 = 1_000_000_000;

/// Calls between two looks at the clock and the progress bar while repeating; their stamps take 800 KB.
pub const REPEATS_PER_ROUND: u64 = 100_000;

/// Time of repeated calls after which a progress bar is worth its flicker.
pub const PROGRESS_AFTER: Duration = Duration::from_secs(1);

/// Longest deadline that can be asked for: a day, the longest that an application can allow a call.
pub const DEADLINE_MAX: Duration = Duration::from_secs(24 * 3600);

/// Time that one read of followed output waits before it looks again; it bounds nothing that a person notices.
pub const FOLLOW_WAIT: Duration = Duration::from_secs(1);

/// Time to look for what has happened to a process that is known to sleep or to be awake: nothing has if it was so before.
pub const TRANSITION_LOOK_MAX: Duration = Duration::from_millis(200);

/// Output printed by one `praas process logs` that does not follow: the most that a server keeps of a process.
pub const OUTPUT_BYTES_SHOWN_MAX: u64 = 64 << 20;

/// Lines of a list of objects that are printed together: some 80 KiB.
pub const STATE_LINES_TOGETHER: usize = 1024;

/// Time for the demo's own server to say that it serves: seconds on a loaded machine, never on a broken one.
pub const DEMO_START_MAX: Duration = Duration::from_secs(30);

/// Time for the demo's own server to drain, after which it is killed: its only process has no long calls.
pub const DEMO_STOP_MAX: Duration = Duration::from_secs(15);

/// Time that one call of the demo may take: a full batch takes some 50 ms.
pub const DEMO_CALL_MAX: Duration = Duration::from_secs(30);

/// What the demo's own server says on standard error, kept for the case that it fails.
pub const DEMO_LOG_BYTES_MAX: usize = 16 * 1024;

/// Bytes of a file with a session's ticket that are read: one line of some 150 bytes.
pub const TICKET_FILE_BYTES_MAX: u64 = 1024;

/// Longest time that a token can be valid for, unless for ever: ten years, after which nobody remembers it.
pub const TOKEN_VALIDITY_MAX: Duration = Duration::from_secs(3653 * 86_400);

/// Calls that one `praas ping` makes at most.
pub const PINGS_MAX: u64 = 1_000_000;

/// Time between two calls of `praas ping`, as of its namesake.
pub const PING_INTERVAL_DEFAULT: Duration = Duration::from_secs(1);

/// Time for a server to answer a ping of its own.
pub const PING_SERVER_MAX: Duration = Duration::from_secs(10);

/// Collectors that wait to be accepted at the metrics' Unix socket: one is served at a time, and few hosts have more.
pub const METRICS_BACKLOG: i32 = 64;

/// Bytes of the head of one request for metrics; collectors send a few hundred.
pub const METRICS_REQUEST_BYTES_MAX: usize = 8 * 1024;

/// Time from a connection to the end of its request's head: a peer that says nothing holds the next one up no longer.
pub const METRICS_REQUEST_MAX: Duration = Duration::from_secs(1);

/// Time for an answer with metrics to be put together and read: longer than the server's loop may take for a snapshot.
pub const METRICS_ANSWER_MAX: Duration = Duration::from_secs(7);

/// Pause after a connection could not be taken for want of descriptors.
pub const METRICS_SHORTAGE_PAUSE: Duration = Duration::from_millis(100);

/// Batches of the demo that are on their way at a time: one being indexed, one waiting, one being made.
pub const DEMO_BATCHES_IN_FLIGHT: usize = 3;

/// Queries that the demo shows with their results.
pub const DEMO_QUERIES_SHOWN: usize = 3;

/// Queries that the demo measures in turn.
pub const DEMO_QUERIES_MEASURED: usize = 8;

/// Hits shown with each query.
pub const DEMO_HITS_SHOWN: u32 = 3;

/// Hits asked for by measured searches: a page of results.
pub const DEMO_HITS_MEASURED: u32 = 10;

/// Most rounds in which figures and floors alternate, so that what disturbs the machine meets all of them.
pub const DEMO_ROUNDS_MAX: u32 = 24;

/// Fewest rounds: one forwards, one backwards.
pub const DEMO_ROUNDS_MIN: u32 = 2;

/// Time after which no further round begins: a busy machine gets fewer samples, not a longer demo.
pub const DEMO_MEASURE_MAX: Duration = Duration::from_secs(3);

const _: () = assert!(DEMO_QUERIES_SHOWN <= DEMO_QUERIES_MEASURED);
const _: () = assert!(DEMO_ROUNDS_MIN <= DEMO_ROUNDS_MAX);
