//! Maxima that only the client library knows; those shared with other crates are in `praas_protocol::limits`.

use std::time::Duration;

use praas_protocol::limits::{CONTROL_DEADLINE_MS, DRAIN_MS_DEFAULT, PARKED_CHECK_MS, WORKER_HELLO_MS_MAX};

/// First pause before a refused call is offered again, or a broken connection is tried again.
pub(crate) const BACKOFF_FIRST: Duration = Duration::from_micros(200);

/// Longest pause between two attempts of a refused call: a drain lasts milliseconds to seconds.
pub(crate) const BACKOFF_REFUSED_MAX: Duration = Duration::from_millis(20);

/// Longest pause between two attempts to reach a server: each costs it an accept, and a restart takes this long anyway.
pub(crate) const BACKOFF_CONNECT_MAX: Duration = Duration::from_millis(500);

/// Time for an ordinary request on the control socket, and for the hello.
pub(crate) const REQUEST_DEADLINE: Duration = Duration::from_millis(CONTROL_DEADLINE_MS);

/// Time for a request that starts or drains workers, unless the client's options say otherwise: a drain, a start and
/// the answer, with room for an application whose drain is longer than the default.
pub(crate) const LIFECYCLE_DEADLINE: Duration =
    Duration::from_millis(3 * DRAIN_MS_DEFAULT + 2 * WORKER_HELLO_MS_MAX + CONTROL_DEADLINE_MS);

/// Requests on the control socket that one client has open at a time.
pub(crate) const REQUESTS_OPEN_MAX: usize = 1024;

/// Futures that wait for anything in one process at a time; further ones end as `Overloaded`.
pub(crate) const FUTURES_WAITING_MAX: usize = 65_536;

/// Longest sleep of a process' driving thread: the backstop for wake-ups that nobody owes it.
pub(crate) const DRIVER_SLEEP_MAX: Duration = Duration::from_millis(PARKED_CHECK_MS);

/// The same while futures wait for room, for a phase, or for answers on a lane that is being replaced.
pub(crate) const DRIVER_SLEEP_BUSY: Duration = Duration::from_millis(5);

/// A driving thread without a future to serve ends after this time; the next future starts another.
pub(crate) const DRIVER_LINGER: Duration = Duration::from_secs(2);

/// Nesting of a typed reply that is accepted: validation recurses, and the sender chose the depth.
pub(crate) use praas_protocol::limits::ARCHIVE_DEPTH_MAX;

/// Bytes of a typed value that are first serialised on the stack, before its size is known.
pub(crate) const TYPED_STACK_BYTES: usize = 1024;

/// Bytes of a value or a message that are copied behind the head of a put or a send; larger ones are written to where they travel from.
pub(crate) const STATE_COPIED_BYTES: usize = 1024;

/// Objects that one list goes through at most: none takes less than 64 bytes of a state.
pub(crate) const STATE_OBJECTS_MAX: u64 = praas_protocol::limits::STATE_BYTES_MAX_MOST / 64;

/// Pages of a list that are read at most: above the processes that a server can have, in memory and asleep, with as many earlier
/// lives of which something is stored. A page that is full of bytes may have half of the entries.
pub(crate) const LIST_PAGES_MAX: usize = 4
    * (praas_protocol::limits::PROCESSES_MAX + praas_protocol::limits::SLEEPERS_MAX)
    / praas_protocol::limits::LIST_PAGE_PROCESSES
    + 2;

/// Longest sleep of whoever reads a network connection before it looks at deadlines: the socket's own time limit.
pub(crate) const READ_TICK: Duration = Duration::from_millis(25);

/// Longest sleep of a sender that finds a socket full while another thread reads: it may have to read itself then.
pub(crate) const SEND_LOOK: Duration = Duration::from_millis(5);

/// Bytes of the buffer that a network connection receives into. Of a larger payload only as much is copied.
pub(crate) const RECEIVE_BUFFER_BYTES: usize = 16 << 10;

/// Bytes of a payload that are copied behind their head for one plain send; larger ones are sent from where they are.
pub(crate) const COPIED_SEND_BYTES: usize = 1024;

/// Looks at a socket between two looks at the clock, when callers poll: some ten microseconds.
pub(crate) const SPINS_PER_LOOK: usize = 64;

/// A network connection that was quiet for longer is looked at before a call is sent: the server may have ended it.
pub(crate) const LOOK_AFTER: Duration = Duration::from_millis(1);

/// Pause between two looks at answers that nobody collects: the server waits longer before it takes offence.
pub(crate) const UNCOLLECTED_LOOK: Duration = Duration::from_millis(250);

/// Time for one attempt to reach one address, its greeting included.
pub(crate) const CONNECT_DEADLINE: Duration = Duration::from_secs(3);

/// Addresses of one name that are tried.
pub(crate) const ADDRESSES_PER_NAME_MAX: usize = 16;

/// Addresses that options name.
pub(crate) const ADDRESSES_MAX: usize = 64;

/// A silent network connection is probed after this time ...
pub(crate) const KEEP_ALIVE_IDLE: Duration = Duration::from_secs(10);

/// ... in this interval ...
pub(crate) const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(3);

/// ... and is lost after so many probes without an answer.
pub(crate) const KEEP_ALIVE_PROBES: u32 = 4;

/// Bytes that were sent and not acknowledged for this time mean that the server is gone.
pub(crate) const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(20);

/// Times that one call, or one search for a process, follows a server's word that the process moved.
pub(crate) const MOVED_HOPS_MAX: usize = 4;

/// Servers that one client knows: its own, and those that processes moved to.
pub(crate) const SERVERS_KNOWN_MAX: usize = 64;

/// How much longer than its room may take for an answer the client of a session waits for it: an answer of which nobody
/// learns may hold a message. Longer than a loaded machine takes for a round trip.
pub(crate) const SESSION_GRACE: Duration = Duration::from_secs(3);

/// Time that a call to a session's room gets beyond what the room may wait, so that the room's own word comes first.
pub(crate) const SESSION_MARGIN: Duration = Duration::from_millis(100);

/// Pause between two looks whether a session has lost its server: a small part of the time that one is kept without its client.
pub(crate) const SESSION_LOOK: Duration = Duration::from_secs(1);

/// Longest pause before a message is offered again, when its receiver or the way to it is in trouble.
pub(crate) const SESSION_PAUSE_MAX: Duration = Duration::from_millis(100);

/// Bytes of a session's ticket in text form: its prefix, an application's name, two numbers and the colons.
pub(crate) const TICKET_BYTES_MAX: usize = 15 + praas_protocol::limits::NAME_BYTES_MAX + 2 * 32 + 3;

const _: () = assert!(READ_TICK.as_nanos() <= DRIVER_SLEEP_MAX.as_nanos());
const _: () = assert!(SESSION_MARGIN.as_nanos() < SESSION_GRACE.as_nanos());
const _: () = assert!(DRIVER_SLEEP_BUSY.as_nanos() < DRIVER_SLEEP_MAX.as_nanos());
