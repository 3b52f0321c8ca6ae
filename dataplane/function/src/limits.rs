//! Limits of the SDK alone. Limits that other crates share are in [`praas_protocol::limits`].

use std::num::NonZeroUsize;
use std::time::Duration;

/// Pointers that a typed input may nest.
pub const ARCHIVE_DEPTH_MAX: NonZeroUsize = NonZeroUsize::new(praas_protocol::limits::ARCHIVE_DEPTH_MAX).unwrap();

/// Bytes of the private output buffer of a new worker: one page, which nearly all replies fit.
pub(crate) const PRIVATE_OUTPUT_BYTES_START: usize = 4096;

/// Bytes of private output buffer kept from call to call: large replies are rare, and workers are many.
pub(crate) const PRIVATE_OUTPUT_BYTES_KEPT: usize = 4 << 20;

/// Bytes of a command from the server: numbers and two names. A larger one is refused. Room for the largest message that a
/// control socket takes would cost a new worker the first touch of 16 pages, about 30 µs of its start.
pub(crate) const COMMAND_BYTES_MAX: usize = 4096;

/// Messages from the server that wait while a call awaits the answer to a request. The server sends a handful in a worker's
/// life, and one for each lane that is opened or closed; a call that goes on for long gathers those.
pub(crate) const COMMANDS_QUEUED_MAX: usize = 512;

/// Wake-ups that are put into the mailbox between two changes of their list: a few hundred kilobytes at most.
pub(crate) const WAKE_UPS_AT_ONCE: usize = 64;

/// Message lanes that one worker holds open; beyond them the one used least recently is closed. Half of the lanes that a worker
/// may have.
pub(crate) const MESSAGE_LANES_OUT_MAX: usize = praas_protocol::limits::LANES_PER_WORKER_MAX / 2;

/// How long a call waits for something of the state that is in storage, if its deadline is not nearer: longer than any storage
/// needs that works.
pub(crate) const STATE_FETCH_MAX: Duration = Duration::from_secs(60);

/// Lanes that one send finds closed, one after the other, because their receiver leaves memory each time that it was woken for it.
/// More is no receiver that one can send to.
pub(crate) const LANES_FOUND_CLOSED_MAX: u32 = 16;

/// Messages to one receiver that may be on their way at a time where no message lane leads: as many as keep a link between hosts
/// busy, and a fraction of the calls in flight that a lane takes.
pub(crate) const SENDS_IN_FLIGHT_MAX: usize = 16;

/// Time between two looks at messages that were started and are not waited for, while their worker waits for something else: the
/// answer to a message wakes nobody who does not wait for it. Longer than a tick of most kernels (4 ms): a timer before the tick has
/// the clock programmed anew when a sleep begins and when it ends, a microsecond and more each in a virtual machine.
pub(crate) const STARTED_LOOK_PERIOD: Duration = Duration::from_millis(5);

/// Messages of one broadcast that may be on their way at a time: each needs a lane to its receiver.
pub(crate) const BROADCAST_AT_ONCE: usize = CALL_LANES_MAX / 4;

/// Time beyond its deadline in which a message that was not accepted in time is answered by the server, which counts the same
/// time and knows what it has not sent.
pub(crate) const DELIVERY_GRACE: Duration = Duration::from_millis(50);

/// Lanes that one worker holds open to call processes; beyond them the one used least recently is closed. The other half of the
/// lanes that a worker may have.
pub(crate) const CALL_LANES_MAX: usize = praas_protocol::limits::LANES_PER_WORKER_MAX - MESSAGE_LANES_OUT_MAX;

/// Time for which a look at messages waits at a time for what the server could not tell yet, because the control socket was full.
/// The server goes on as soon as there is room.
pub(crate) const MAIL_REST_PAUSE: Duration = Duration::from_millis(1);

/// First pause before a call that was refused is made again: a process is restarted in some milliseconds.
pub(crate) const CALL_PAUSE_MIN: Duration = Duration::from_millis(1);

/// Longest pause before it is made again.
pub(crate) const CALL_PAUSE_MAX: Duration = Duration::from_millis(20);

/// Longest time between two looks at the caller's mind while a call waits for the server.
pub(crate) const WAIT_LOOK_PERIOD: Duration = Duration::from_millis(praas_protocol::limits::PARKED_CHECK_MS);

/// Time from the worker's hello to its start message, and from a message's announcement to the message itself. The server
/// answers in microseconds; a server that needs longer is stopped or gone.
pub(crate) const SERVER_ANSWER_MAX: Duration = Duration::from_secs(10);

/// Time between two rings of a worker that waits inside a call and sees requests that nobody takes: a server that starts a
/// worker needs three times as long.
pub(crate) const RING_PAUSE: Duration = Duration::from_millis(1);

/// Lanes reported rung by one wait; further ones are reported by the next.
pub(crate) const EVENTS_PER_WAIT: usize = 64;

/// Longest sleep of an idle worker. Every ring wakes it earlier; this one wake a minute costs nothing and ends a sleep that
/// a peer caused by breaking the doorbell's protocol.
pub(crate) const PARK_MAX: Duration = Duration::from_secs(60);

/// Times that an update reads and changes an object anew because another worker came between. With 64 workers that do
/// nothing else, each round lets at least one through.
pub(crate) const UPDATE_TRIES_MAX: usize = 256;

/// Migrations that one look at an object may take, one after the other: more versions of a schema than people keep, and a
/// bound for migrations that lead back to where they began.
pub(crate) const MIGRATIONS_IN_A_ROW_MAX: usize = 32;

/// Bytes of an archive that is serialised in private memory and put in one step; a larger one is serialised where it will
/// lie. As many as the store copies under its lock.
pub(crate) const STATE_SCRATCH_BYTES: usize = 4096;

/// Calls from lanes after which a worker looks at its dedicated connections even though more wait in the lanes.
pub(crate) const LANE_CALLS_IN_A_ROW_MAX: u32 = 16;

/// Calls of one connection after which the lanes and the other connections have their turn.
pub(crate) const CONNECTION_CALLS_TURN_MAX: u32 = 32;

/// Looks at the lanes between two looks at the connections while a worker polls: the kernel takes 0.25 µs to say that there
/// is nothing, a lane some nanoseconds.
pub(crate) const LOOKS_PER_CONNECTION_LOOK: u32 = 16;

/// Bytes received from a connection at a time, unless they belong to one large payload: hundreds of small calls.
pub(crate) const RECEIVE_BYTES: usize = 64 << 10;

/// Bytes for which room is made when the head of a large payload is there. More comes as bytes do, so that an announcement
/// alone costs no memory.
pub(crate) const PAYLOAD_BYTES_START: usize = 256 << 10;

/// Bytes of a large payload's memory that are kept for the next one, however long that takes to come.
pub(crate) const PAYLOAD_BYTES_KEPT: usize = 4 << 20;

/// Time for which more than that is kept: a caller of many such payloads sends the next one within milliseconds. One piece a worker,
/// of at most the largest payload.
pub(crate) const LARGE_PAYLOAD_KEPT_FOR: Duration = Duration::from_secs(1);

/// Bytes of answers that are gathered before they are sent.
pub(crate) const REPLIES_BYTES_GATHERED: usize = 64 << 10;

/// Bytes of an answer that is copied to be sent together with others; a larger one is sent from where it lies.
pub(crate) const REPLY_BYTES_COPIED: usize = 8 << 10;

/// Bytes of memory for answers that are kept for the next ones.
pub(crate) const REPLIES_BYTES_KEPT: usize = 256 << 10;

/// Run time of a connection's calls after which their answers are sent, although more requests came with them.
pub(crate) const REPLIES_HELD_NS_MAX: u64 = 50_000;

/// Time in which a client must take some of its answers once its socket is full: as long as the server gives any peer.
pub(crate) const CONNECTION_STALL_MAX: Duration = Duration::from_secs(10);

/// Time in which a client must end a connection after the worker said that it goes: what the client sends meanwhile is read
/// and dropped, because closing on unread bytes would destroy answers on their way.
pub(crate) const CONNECTION_LINGER_MAX: Duration = Duration::from_secs(2);

/// Shortest time between two looks at a connection while a function asks whether its caller still waits.
pub(crate) const CANCEL_LOOK_PERIOD: Duration = Duration::from_millis(1);

/// Cancels noted in one piece of the stream; a client that sends more of them is heard late.
pub(crate) const CANCELS_NOTED_MAX: usize = 64;

/// How long the end of a call with an idempotency key is remembered, unless the application says otherwise: long enough for
/// clients that come back after their server, or their host, was restarted.
pub(crate) const ANSWERS_KEPT_FOR: Duration = Duration::from_secs(600);

/// Longest wait until what a process has changed is durable, before something leaves it, if the call has no deadline: a disk
/// that takes longer for a sync is broken.
pub(crate) const EFFECT_WAIT_MAX: Duration = Duration::from_secs(30);

/// Longest sleep of such a wait between two looks at the caller's mind.
pub(crate) const DURABLE_LOOK_PERIOD: Duration = Duration::from_millis(10);

/// Longest wait of a worker that was told to end until its held replies are released; the server ends it sooner if it wants
/// to.
pub(crate) const HELD_REPLIES_WAIT_MAX: Duration = Duration::from_secs(60);

/// Longest sleep of a repeated call between two looks at the one that runs. Its end rings the bell; the death of its worker does
/// not, and its caller's mind is seen by a look as well.
pub(crate) const DUPLICATE_LOOK_PAUSE_MAX: Duration = Duration::from_millis(10);

/// Longest wait of a repeated call for the one that runs, if its caller names no deadline.
pub(crate) const DUPLICATE_WAIT_MAX: Duration = Duration::from_secs(600);

const _: () = assert!(REPLY_BYTES_COPIED <= REPLIES_BYTES_GATHERED && REPLIES_BYTES_GATHERED <= REPLIES_BYTES_KEPT);
const _: () = assert!(SENDS_IN_FLIGHT_MAX * 2 <= praas_protocol::limits::CELLS_DEFAULT as usize);
