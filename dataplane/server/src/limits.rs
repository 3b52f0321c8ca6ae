//! Maxima of the server alone: each with its unit and where it comes from. Those that other crates share are in
//! `praas_protocol::limits`.

use std::time::Duration;

/// Ready sources that one turn of the loop serves; the rest waits for the next turn, timers are looked at in between.
pub(crate) const TURN_SOURCES_MAX: usize = 256;

/// Time within which the lock of a killed server comes free: a child that it was just starting holds the lock, too, until it
/// runs its own program. A directory that is locked for longer is in use.
pub(crate) const LOCK_FREE_MAX: Duration = Duration::from_millis(500);

/// Shortest time between two looks at the files of a process that does something: a person is to hear of it soon, and a few
/// thousand files take milliseconds.
pub(crate) const FILES_LOOK_PERIOD_MIN: Duration = Duration::from_secs(2);

/// So many times as long as the last look took is the next one away: a fiftieth of one thread is what a directory costs at most.
pub(crate) const FILES_LOOK_PARTS: u32 = 50;

/// Pause between two attempts at the lock.
pub(crate) const LOCK_LOOK_PAUSE: Duration = Duration::from_millis(5);

/// Events taken from the kernel in one poll.
pub(crate) const POLL_EVENTS_MAX: usize = 512;

/// Packets read from one peer in one turn, so that a flooding peer delays the others by at most this many.
pub(crate) const PEER_PACKETS_TURN_MAX: usize = 16;

/// Connections accepted in one turn.
pub(crate) const ACCEPTS_TURN_MAX: usize = 32;

/// Timers that fire in one turn.
pub(crate) const TIMERS_TURN_MAX: usize = 256;

/// Servers that one server calls; each takes a shard two connections.
pub(crate) const PEERS_MAX: usize = 32;

/// Processes and sessions that are known of one other server: all that one can have.
pub(crate) const PEER_ENTRIES_MAX: usize =
    praas_protocol::limits::PROCESSES_MAX + praas_protocol::limits::SLEEPERS_MAX + SESSIONS_OF_SERVER_MAX;

/// Time after its start in which a server says of names that it does not know that they cannot be reached now: other servers may
/// have them. Links that can be made are made by then.
pub(crate) const LEARNING_MAX: Duration = Duration::from_secs(5);

/// Changes on other servers that one turn shows to workers.
pub(crate) const ELSEWHERE_TURN_MAX: usize = 256;

/// Processes and sessions that went and are still told of: more than go while a link is down for a moment.
pub(crate) const DIRECTORY_GONE_KEPT: usize = 4096;

/// Lists of all processes that are told in pages at a time; one too many begins the oldest anew.
pub(crate) const DIRECTORY_LISTS_MAX: usize = 64;

/// Changes looked at for one page: those outside the token's scope cost a look each.
pub(crate) const DIRECTORY_LOOKS_MAX: usize = 4096;

/// Questions for changes that wait for one: each change looks at all of them.
pub(crate) const DIRECTORY_WATCHERS_MAX: usize = 256;

/// Bytes of a payload that travels on the connection of a link that is kept for small ones: a millisecond of a slow line.
pub(crate) const SMALL_PAYLOAD_BYTES_MAX: usize = 64 << 10;

/// Bytes of a payload that is copied behind its head rather than sent from its block: one piece costs less than two.
pub(crate) const LINK_COPIED_BYTES_MAX: usize = 512;

/// Time in which another server's address is to accept a connection.
pub(crate) const DIAL_MAX: Duration = Duration::from_secs(3);

/// Addresses of one name that are tried in an attempt: both families, twice.
pub(crate) const DIALLED_ADDRESSES_MAX: usize = 4;

/// Pause before a link that broke is dialled again; doubled by each attempt that fails.
pub(crate) const LINK_PAUSE_MIN: Duration = Duration::from_millis(100);

/// Longest pause between two attempts.
pub(crate) const LINK_PAUSE_MAX: Duration = Duration::from_secs(5);

/// Time after which a link is taken to be a good one: when it breaks, the pauses begin anew.
pub(crate) const LINK_STEADY_MIN: Duration = Duration::from_secs(2);

/// Time in which another server is to answer the hello.
pub(crate) const LINK_GREETING_MAX: Duration = Duration::from_secs(10);

/// Time that another server is given for the answers that it owes after its farewell.
pub(crate) const LINK_FAREWELL_MAX: Duration = Duration::from_secs(2);

/// Period in which links are looked at.
pub(crate) const LINK_PULSE_PERIOD: Duration = Duration::from_secs(1);

/// Period of pings on a link.
pub(crate) const LINK_PING_PERIOD: Duration = Duration::from_secs(3);

/// Time without a sign of life, beyond what the bytes under way take, after which a link is cut: three pings.
pub(crate) const LINK_SILENCE_MAX: Duration = Duration::from_secs(10);

/// Longest wait of a call without a deadline for its link or its turn.
pub(crate) const LINK_WAIT_MAX: Duration = Duration::from_secs(60);

/// Period in which calls that wait for a link are looked at: they give up that much too late at most.
pub(crate) const LINK_CALLS_LOOK_PERIOD: Duration = Duration::from_millis(20);

/// Parts of a link connection's calls in flight of which one is kept for messages: they are answered at once, other calls when
/// their functions end.
pub(crate) const MESSAGE_CREDIT_PARTS: u32 = 4;

/// Time for which an answer of another server is kept that found no room in its caller's lane, as a worker keeps its own.
pub(crate) const KEPT_REPLY_MAX: Duration = Duration::from_secs(1);

/// Bytes of such answers that are kept for one link.
pub(crate) const KEPT_REPLY_BYTES_MAX: usize = 64 << 20;

/// Pause before another server is asked again what has changed there.
pub(crate) const WATCH_PAUSE: Duration = Duration::from_millis(2);

/// Bytes of messages queued for one peer that does not read: four full packets.
pub(crate) const OUT_QUEUE_BYTES_MAX: usize = 256 << 10;

/// Messages queued for one peer that does not read: a new worker is sent every lane of its process at once.
pub(crate) const OUT_QUEUE_MESSAGES_MAX: usize =
    2 * (praas_protocol::limits::LANES_PER_PROCESS_MAX + praas_protocol::limits::MESSAGE_LANES_MAX);

/// Parts of the host's budget of which the lanes that one process sends messages on may take one.
pub(crate) const MESSAGE_LANE_BUDGET_PARTS: u64 = 2;

/// How many times as large the arena of a lane for large messages of another host is as that of a local one, which has room for
/// four: as many as one sender has on their way.
pub(crate) const REMOTE_LANE_FACTOR: u32 = 4;

/// It is so only while the host's segments, with the lane, take up at most this part of their budget.
pub(crate) const REMOTE_LANE_BUDGET_PARTS: u64 = 4;

/// Parts of the server's descriptors of which message lanes may take one; each costs the keeper one, too.
pub(crate) const MESSAGE_LANE_DESCRIPTOR_PARTS: u64 = 4;

/// Parts of that share of which the lanes that one process sends on may take one.
pub(crate) const MESSAGE_LANE_SENDER_PARTS: u64 = 2;

/// Lanes of one worker into one mailbox: the one that was too small, until its successor is there.
pub(crate) const MESSAGE_LANES_PER_DESTINATION_MAX: usize = 2;

/// Lanes of one source into one mailbox, those of its workers that have ended included: half of what a mailbox takes, and a
/// lane for each worker, twice.
pub(crate) const MESSAGE_LANES_PER_SOURCE_MAX: usize = praas_protocol::limits::MESSAGE_LANES_MAX / 2;

/// Lanes of clients' sessions into one mailbox, those of sessions that have ended included: a quarter of what a mailbox takes,
/// so that clients that come, send and go keep nobody out of it. Further sessions put their messages by calls.
pub(crate) const MESSAGE_LANES_OF_SESSIONS_MAX: usize = praas_protocol::limits::MESSAGE_LANES_MAX / 4;

/// Time in which a worker that runs a call is to attach a message lane before its sender gets it all the same. One that
/// waits for a message attaches it in microseconds, one that computes when it is done.
pub(crate) const MESSAGE_LANE_BUSY_MAX: Duration = Duration::from_millis(10);

/// Time in which any other worker is to attach a message lane before its sender gets it all the same: it may be stopped, or
/// busy with a dedicated connection.
pub(crate) const MESSAGE_LANE_IDLE_MAX: Duration = Duration::from_secs(2);

/// Period in which a message lane that is being opened is looked at, and first period in which one without a sender is.
pub(crate) const MESSAGE_LANE_LOOK_PERIOD: Duration = Duration::from_millis(20);

/// Longest period of the look at message lanes without a sender: nobody waits for their end, and looks cost while all sleep.
pub(crate) const MESSAGE_LANE_LOOK_PERIOD_MAX: Duration = Duration::from_secs(1);

/// Message lanes looked at in one turn: each is mapped and unmapped for it, in some microseconds.
pub(crate) const ORPHANS_LOOKED_AT_MAX: usize = 64;

/// Bytes of the reason for which a worker is refused something; it reads messages of at most 4 KiB.
pub(crate) const REFUSAL_REASON_BYTES_MAX: usize = 1024;

/// Names that the keeper is told to forget in one message.
pub(crate) const FORGOTTEN_NAMES_MAX: usize = 64;

/// Requests of one client that are answered later (create, stop, restart, follow, lane).
pub(crate) const PENDING_PER_CLIENT_MAX: usize = 256;

/// Dedicated connections of one worker: it looks at all of them between calls, and each costs it one descriptor.
pub(crate) const CONNECTIONS_PER_WORKER_MAX: usize = 256;

/// Dedicated connections of the server, which keeps a duplicate of each.
pub(crate) const CONNECTIONS_MAX: usize = 4096;

/// Calls in flight on a dedicated connection unless its client wants another number: they wait in the sockets' buffers, so
/// more would only make answers late.
pub(crate) const CONNECTION_CALLS_DEFAULT: u32 = 256;

/// Payloads of the largest size whose bytes may be in flight on a dedicated connection: one that is received and one that
/// is on its way.
pub(crate) const CONNECTION_WINDOW_PAYLOADS: u64 = 2;

/// Least window of a dedicated connection: small payloads do not make it a narrow one.
pub(crate) const CONNECTION_WINDOW_BYTES_MIN: u64 = 1 << 20;

/// Lanes to what is in no process's memory here, of all workers and clients together. Each has three descriptors and a table
/// entry in two threads.
pub(crate) const GATEWAYS_MAX: usize = 4096;

/// How long a client's session is kept after its client has left, by default: a client that was cut off comes back in seconds,
/// one that was restarted within a minute.
pub(crate) const CLIENT_SESSION_LINGER_DEFAULT: Duration = Duration::from_secs(60);

/// Clients' sessions of one server: with mailboxes of the least size they are admitted with a gibibyte.
pub(crate) const SESSIONS_OF_SERVER_MAX: usize = 1024;

/// Clients' sessions of one application: half of all, so that no application takes them from the others.
pub(crate) const SESSIONS_OF_APPLICATION_MAX: usize = 512;

/// Clients' sessions that the holder of one token has at a time with one application.
pub(crate) const SESSIONS_OF_PRINCIPAL_MAX: usize = 256;

/// Clients' sessions that the holder of one token begins with one application in the time for which receivers know a source:
/// each is a source of its own to those that it sends to, and one holder takes at most a quarter of what they can know.
pub(crate) const SESSIONS_BEGUN_MAX: usize = 1024;

/// Lanes to one session that others have superseded and whose owners are still told so. The first of more is taken back.
pub(crate) const SESSION_LANES_SUPERSEDED_MAX: usize = 4;

/// Calls in flight on a lane to a session: sends under way, and receivers that wait.
pub(crate) const SESSION_CALLS: u32 = 64;

/// Largest payload of a call on a lane to a session unless its client asks for another: 1 MiB.
pub(crate) const SESSION_PAYLOAD_BYTES_DEFAULT: u32 = 1 << 20;

/// Smallest that can be asked for: the heads of messages and some bytes of them fit.
pub(crate) const SESSION_PAYLOAD_BYTES_MIN: u32 = 4096;

/// Payloads of the largest size that a session's mailbox has room for.
pub(crate) const SESSION_MAILBOX_PAYLOADS: u64 = 4;

/// Least bytes of a session's mailbox: the tables of the largest number of messages fit.
pub(crate) const SESSION_MAILBOX_BYTES_MIN: u64 = 4 << 20;

/// A session is admitted against the host's budget with one of so many equal parts of its mailbox: most are never full.
pub(crate) const SESSION_ADMITTED_PARTS: u64 = 4;

/// Messages that the client of a session holds at a time: more are received when it has accepted some.
pub(crate) const SESSION_HELD_MAX: u64 = 1024;

/// Calls that one look takes out of one lane of a gateway, so that others have their turn.
pub(crate) const GATEWAY_TAKES_PER_LOOK: usize = 32;

/// Period in which gateways look for calls that nobody waits for any more.
pub(crate) const GATEWAY_LOOK_PERIOD: Duration = Duration::from_millis(50);

/// How long a gateway's lane is looked at by itself after its last call; then its client rings.
pub(crate) const GATEWAY_WARM_MAX: Duration = Duration::from_millis(5);

/// Gateways whose next call a shard expects while somebody runs whom it has woken; others ring.
pub(crate) const GATEWAYS_EXPECTED_MAX: usize = 8;

/// Longest time for which giving the core to whoever was woken counts as a gain: acknowledgements wait meanwhile. A small message is
/// received and answered in a few microseconds.
pub(crate) const GIVING_WAY_MAX: Duration = Duration::from_micros(100);

/// How long calls to other servers are left to their links when the lane that they came by is gone, and messages of sessions to
/// whoever is to answer them when their time is over.
pub(crate) const GATEWAY_END_MAX: Duration = Duration::from_secs(2);

/// Longest time that a call to a session waits for a message or for room, whatever it asks for: a caller asks again.
pub(crate) const SESSION_WAIT_MAX: Duration = Duration::from_secs(3600);

/// First pause before a message of a session that found no room is tried again.
pub(crate) const SESSION_RETRY_PAUSE_MIN: Duration = Duration::from_millis(1);

/// Longest pause between two attempts.
pub(crate) const SESSION_RETRY_PAUSE_MAX: Duration = Duration::from_millis(50);

/// Bytes of one session's messages that are on their way to other servers at a time; one message always is.
pub(crate) const SESSION_LINK_BYTES_MAX: usize = 4 << 20;

/// Destinations of one session whose ways are kept open though nothing goes there.
pub(crate) const SESSION_WAYS_KEPT: usize = 64;

/// Default time in which a client must send its hello.
pub(crate) const CLIENT_HELLO_DEFAULT: Duration = Duration::from_secs(10);

/// Time a peer may leave its answers unread once its socket is full.
pub(crate) const PEER_STALL_MAX: Duration = Duration::from_secs(10);

/// Bytes of a worker's output read in one turn.
pub(crate) const OUTPUT_READ_BYTES_TURN: usize = 64 << 10;

/// Pause after a full read of a worker's output: bounds a flood to about 12 MB/s and a few per cent of a core.
pub(crate) const OUTPUT_PAUSE: Duration = Duration::from_millis(5);

/// Bytes of the end of the output that are quoted when workers fail to start.
pub(crate) const OUTPUT_QUOTED_BYTES: usize = 2048;

/// First delay before a dead worker is replaced; it doubles with each failure in a row. The first replacement is immediate.
pub(crate) const REPLACE_DELAY_MIN: Duration = Duration::from_millis(100);

/// Longest delay before a dead worker is replaced.
pub(crate) const REPLACE_DELAY_MAX: Duration = Duration::from_secs(30);

/// A worker that lived so long was healthy: the count of failures in a row starts anew.
pub(crate) const WORKER_HEALTHY_AFTER: Duration = Duration::from_secs(10);

/// Failures in a row after which a process is shown as failed. Attempts go on at the longest delay.
pub(crate) const FAILURES_IN_A_ROW_MAX: u32 = 5;

/// Default time after which a worker above `min` that has been parked without a call is ended.
pub(crate) const WORKER_IDLE_DEFAULT: Duration = Duration::from_secs(30);

/// Longest period of the look for idle workers, kept only while some process has more than its `min`.
pub(crate) const IDLE_SCAN_PERIOD_MAX: Duration = Duration::from_secs(5);

/// Shortest period of that look, however soon idle workers are to end.
pub(crate) const IDLE_SCAN_PERIOD_MIN: Duration = Duration::from_millis(10);

/// Default time without a call after which a process is shown as idle: longer than the pauses of a client that is busy.
pub(crate) const PROCESS_IDLE_DEFAULT: Duration = Duration::from_secs(2);

/// Longest time between two looks at what a process has been doing.
pub(crate) const ACTIVITY_PERIOD_MAX: Duration = Duration::from_secs(1);

/// Shortest time between two looks at the same process, however soon it is to be shown as idle.
pub(crate) const ACTIVITY_PERIOD_MIN: Duration = Duration::from_millis(10);

/// Transitions that are kept for who watches: with the longest reasons some 600 KiB, and minutes of a busy server.
pub(crate) const TRANSITIONS_KEPT: usize = 1024;

/// Questions for transitions that wait for one: each transition looks at all of them.
pub(crate) const TRANSITION_WATCHERS_MAX: usize = 1024;

/// Default time in which a server that was told to end has to store its processes: less than the 30 s after which containers are
/// killed (`stopTimeout` of ECS and Fargate, `terminationGracePeriodSeconds` of Kubernetes).
pub(crate) const GRACE_DEFAULT: Duration = Duration::from_secs(25);

/// Parts of the grace period of which running calls have one; the others are for storing.
pub(crate) const CALLS_GRACE_PARTS: u32 = 2;

/// Pause between two runs of the program that gives notice: what clouds recommend for looking at theirs.
pub(crate) const NOTICE_PERIOD: Duration = Duration::from_secs(5);

/// Time in which that program must end.
pub(crate) const NOTICE_MAX: Duration = Duration::from_secs(10);

/// Period in which it is looked at whether it has ended.
pub(crate) const NOTICE_LOOK_PERIOD: Duration = Duration::from_millis(20);

/// Time in which a page of what is stored is looked up: what was counted by then is the page. Less than a client waits.
pub(crate) const USAGE_PAGE_MAX: Duration = Duration::from_secs(5);

/// Time in which parts of a snapshot are looked for that a failed or crashed swap left and nobody needs: it is a part of the next
/// swap of that process.
pub(crate) const LEFTOVERS_LOOK_MAX: Duration = Duration::from_secs(5);

/// Questions about what is stored that are looked up at a time: half of the threads that also transfer processes.
pub(crate) const USAGE_QUESTIONS_MAX: usize = 2;

/// Longest time after which a process that could not be swapped out for idleness is tried again, unless its own is longer.
pub(crate) const IDLE_SWAP_RETRY_MAX: Duration = Duration::from_secs(600);

/// How long a process that came back for messages alone stays in memory: a burst of them costs one way there and back.
pub(crate) const DOZE: Duration = Duration::from_millis(500);

/// How long it stays where it could not be put to sleep again: storage that fails is not asked all the time.
pub(crate) const DOZE_AGAIN: Duration = Duration::from_secs(30);

/// Bytes of a log since the last checkpoint at which the next one is due, whatever its time: a few seconds of a disk, and of the
/// start that replays them.
pub(crate) const CHECKPOINT_LOG_BYTES: u64 = 256 << 20;

/// Longest time after which a checkpoint that failed is tried again, unless the time between two is shorter.
pub(crate) const CHECKPOINT_RETRY: Duration = Duration::from_secs(5);

/// How far the incarnation of a new process is at most from the last one where the clock is behind that, in bits of nanoseconds: 2^32
/// are 4 s, so that two servers whose clock was set back hardly ever choose the same, and the clock soon counts again.
pub(crate) const INCARNATION_STEP_BITS: u32 = 32;

/// Spreads the nanoseconds of the clock over that: 2^64 over the golden ratio.
pub(crate) const INCARNATION_STEP_FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// Processes that are looked for in storage at a time, because this server does not know them: each is a list of a few names.
pub(crate) const LOOKED_FOR_MAX: usize = 256;

/// Time for which a process that was not found in storage is not looked for again: clients ask again within milliseconds.
pub(crate) const NOT_FOUND_KEPT: Duration = Duration::from_millis(500);

/// Processes of which it is remembered that they were not found: some 100 KiB.
pub(crate) const NOT_FOUND_MAX: usize = 1024;

/// The epoch of the server that creates a process; each that wakes it has a higher one.
pub(crate) const FIRST_EPOCH: u64 = 1;

/// Positions, and numbers of messages, that a process may have given out in one stay in memory of which nothing is stored, and that
/// it skips for each such stay when it comes back: nobody takes what comes next for what was lost. More than a process counts
/// in half a day at a million a second; 2^28 of them fit into the numbers that there are.
pub(crate) const NUMBERS_SKIPPED: u64 = 1 << 36;

/// The same of workers that were started with one index: a failing one is started some times a second at most. A generation goes
/// round at 65,536.
pub(crate) const GENERATIONS_SKIPPED: u16 = 1 << 10;

/// Processes looked at in one turn: about 0.1 ms.
pub(crate) const ACTIVITY_LOOKS_TURN: usize = 256;

/// Shortest time between two such turns.
pub(crate) const ACTIVITY_PAUSE_MIN: Duration = Duration::from_millis(1);

/// Time from `Exit` to the end of a worker that has nothing to run, before it is killed.
pub(crate) const WORKER_EXIT_MAX: Duration = Duration::from_secs(5);

/// Period in which a draining process is looked at: its last claim ends without a message to the server.
pub(crate) const DRAIN_LOOK_PERIOD: Duration = Duration::from_millis(2);

/// Longest period of the look for claims that outlast `call_ms_max`, while none is in sight.
pub(crate) const CLAIM_LOOK_PERIOD_MAX: Duration = Duration::from_secs(1);

/// Period in which a watched binary is looked at. It must look the same twice before processes restart.
pub(crate) const WATCH_PERIOD: Duration = Duration::from_millis(300);

/// Uids given to workers when the server runs as root: above Debian's and systemd's ranges of persons and services
/// (up to 65 535) and dynamic users, below the first range of user namespaces (524 288).
pub(crate) const WORKER_UID_FIRST: u32 = 200_000;

/// Number of those uids: one for each process the server can hold.
pub(crate) const WORKER_UIDS: u32 = 16_384;

/// OS processes and threads of a worker with a user of its own whose application sets no limit: stops a fork bomb before it
/// takes the host's process table.
pub(crate) const WORKER_PROCESSES_MAX: u64 = 1024;

/// Time for an answer of the keeper to one message; it does nothing that blocks.
pub(crate) const KEEPER_ANSWER_MAX: Duration = Duration::from_secs(5);

/// Time for a snapshot of all counts: microseconds a process, after whatever the loop is doing.
pub(crate) const SNAPSHOT_MAX: Duration = Duration::from_secs(5);

/// Time in which a keeper must see the last server's workers end and hand its descriptors over.
pub(crate) const KEEPER_HANDOVER_MAX: Duration = Duration::from_secs(20);

/// Delay before a dead keeper is replaced, so that one that cannot start costs little.
pub(crate) const KEEPER_REPLACE_DELAY: Duration = Duration::from_millis(200);

/// Descriptors that the keeper holds by name: a few for each process, one for each message lane.
pub(crate) const KEEPER_FDS_MAX: usize = 65_536;

/// Bytes in the name of a held descriptor: that of a message lane names two processes, an application, and seven numbers.
pub(crate) const KEEPER_NAME_BYTES_MAX: usize = 320;

/// Connections that the keeper serves at a time: the server, its successor, and room for one that is just dying.
pub(crate) const KEEPER_CONNECTIONS_MAX: usize = 8;

/// Default time that a keeper outlives a crashed server.
pub(crate) const KEEPER_LINGER_DEFAULT: Duration = Duration::from_secs(600);

/// Bytes of a `praas.toml`; a manifest is written by hand.
pub(crate) const MANIFEST_BYTES_MAX: u64 = 256 << 10;

/// Bytes of a Unix socket's path that `sockaddr_un` can hold, without the final zero.
pub(crate) const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Connections that wait to be accepted on one address: a burst of clients that start at once.
pub(crate) const LISTEN_BACKLOG: i32 = 1024;

/// Pause before network connections are accepted again when the host had no descriptor left.
pub(crate) const NETWORK_ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Parts of the server's descriptors of which network connections may take one.
pub(crate) const NETWORK_DESCRIPTOR_PARTS: u64 = 2;

/// Network connections of one shard: the driver's table of sources, less room for lanes' bells.
pub(crate) const NETWORK_CONNECTIONS_MAX: usize = 60_000;

/// Threads that serve the network; a shard's number has 8 bits in an event.
pub(crate) const NETWORK_SHARDS_MAX: usize = 64;

/// Silence after which the kernel asks whether a remote client is still there.
pub(crate) const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);

/// Period in which it asks again.
pub(crate) const KEEPALIVE_PERIOD: Duration = Duration::from_secs(10);

/// Unanswered questions of the kernel after which a remote client is gone.
pub(crate) const KEEPALIVE_PROBES: u32 = 3;

/// Milliseconds that sent bytes may stay unacknowledged before a remote client is gone.
pub(crate) const UNACKNOWLEDGED_MS_MAX: u32 = 30_000;

/// Handles open on one network connection.
pub(crate) const HANDLES_MAX: u32 = 1024;

/// Calls in flight on one network connection: a quarter of a lane, so that one client that does not read its answers leaves
/// room for others.
pub(crate) const IN_FLIGHT_MAX: u32 = LANE_CALLS / 4;

/// Least payload bytes of calls in flight that one network connection is allowed.
pub(crate) const WINDOW_BYTES_MIN: u64 = 64 << 20;

/// Bytes of unread replies at which a network connection is not read any more, unless its client asks for another number.
pub(crate) const REPLY_WINDOW_BYTES_DEFAULT: u64 = 4 << 20;

/// Least bytes of unread replies that a client may ask for: a page of processes fits.
pub(crate) const REPLY_WINDOW_BYTES_MIN: u64 = 128 << 10;

/// Most bytes of unread replies that a client may ask for.
pub(crate) const REPLY_WINDOW_BYTES_MAX: u64 = 64 << 20;

/// Least bytes of a reply that is sent straight from its lane; copying a shorter one takes no longer than one more piece of
/// a send, and gives its block back at once.
pub(crate) const SENT_IN_PLACE_BYTES_MIN: usize = 16 << 10;

/// Calls in flight in one lane of a shard, which many connections share.
pub(crate) const LANE_CALLS: u32 = 1024;

/// Least bytes of the half for replies in a lane of a shard: the first burst of replies of a megabyte each from several
/// clients. It is memory only as far as replies ever filled it.
pub(crate) const NETWORK_REPLY_BYTES_MIN: u32 = 16 << 20;

/// Largest replies that find room in a shard's lane at a time.
pub(crate) const NETWORK_REPLY_PAYLOADS: u32 = 4;

/// The half for replies is as large as that only while the host's segments, with the lane, take up at most this part of
/// their budget; otherwise it is halved, at most to what any lane has.
pub(crate) const NETWORK_REPLY_BUDGET_PARTS: u64 = 4;

/// Parts of a lane's room for replies of which one connection may take one, so that its not reading leaves room to others.
pub(crate) const REPLY_SHARE_PARTS: u64 = 4;

/// Functions of one process whose replies are known to be large; the search for one takes nanoseconds.
pub(crate) const LARGE_REPLY_FUNCTIONS_MAX: usize = 32;

/// Time after which a shard's lane that nobody uses is closed. Opening one takes about a millisecond.
pub(crate) const LANE_LINGER: Duration = Duration::from_secs(2);

/// Period after which a shard's control session without lanes and questions is closed.
pub(crate) const SESSION_LINGER: Duration = Duration::from_secs(5);

/// Control sessions of one shard, one a token: far fewer than the clients that the server's loop accepts.
pub(crate) const SESSIONS_MAX: usize = 512;

/// Looks for answers in one turn of a shard: after the workers were summoned, there may be some already.
pub(crate) const LOOKS_PER_TURN: u32 = 2;

/// Answers taken from one lane in one look of a shard.
pub(crate) const ANSWERS_PER_LOOK: usize = 256;

/// Period in which a shard looks at lanes with calls in flight whether or not they rang.
pub(crate) const LANES_LOOK_PERIOD: Duration = Duration::from_millis(praas_protocol::limits::PARKED_CHECK_MS);

/// Time that a call without a deadline waits for room in its lane.
pub(crate) const ROOM_WAIT_MAX: Duration = Duration::from_secs(10);

/// Bytes of the largest payload that is small to a link of another server: larger ones have a connection of their own.
pub(crate) const LINK_SMALL_BYTES_MAX: u32 = 64 << 10;

/// Time that a large call of another server waits for room in its lane: large calls of others are behind it.
pub(crate) const LINK_ROOM_WAIT_MAX: Duration = Duration::from_secs(1);

/// Lives of other servers whose newest link is remembered: each has a server's connections, unless it is gone.
pub(crate) const INSTANCES_MAX: usize = 1024;

/// Period in which a shard looks for room in message lanes that somebody waits for.
pub(crate) const OUTBOUND_LOOK_PERIOD: Duration = Duration::from_millis(1);

/// Message lanes looked at for room in one turn.
pub(crate) const OUTBOUND_LOOKS_MAX: usize = 64;

/// Time for which a refused message lane is not asked for again, so that those who ask next are told why.
pub(crate) const OUTBOUND_REFUSED_KEPT: Duration = Duration::from_millis(250);

/// Time that somebody without a deadline waits for room for a message; then it may ask again.
pub(crate) const AWAIT_ROOM_MAX: Duration = Duration::from_secs(60);

/// Bytes up to which a message that comes in pieces is gathered before it is published: copying them takes a microsecond.
pub(crate) const DELIVERY_GATHERED_BYTES_MAX: usize = 16 << 10;

/// Pause before a message is put again to a process whose mailbox was full, and which does not say when it has room.
pub(crate) const PUT_AGAIN_PAUSE: Duration = Duration::from_millis(10);

/// Period in which a shard tries again for calls that wait for room: cells of abandoned calls come back without a word.
pub(crate) const ROOM_LOOK_PERIOD: Duration = Duration::from_millis(5);

/// Time that a network connection's output may stand still, or a payload stay away, beyond what its bytes take.
pub(crate) const OUTPUT_STALL_MAX: Duration = Duration::from_secs(10);

/// Bytes a second of the slowest line that is put up with.
pub(crate) const SLOWEST_BYTES_PER_S: u64 = 256 << 10;

/// Bytes that the log's thread takes of one ring before it turns to the next: a few milliseconds of a disk. A whole record
/// fits, however long.
pub(crate) const LOG_BATCH_BYTES: usize = 1 << 20;

/// Time after which a log that failed, or has not made everything durable, is asked again.
pub(crate) const LOG_RETRY_PERIOD: Duration = Duration::from_millis(5);

/// Longest time that the log's thread polls a ring before it sleeps: a woken worker and its next put take less.
pub(crate) const LOG_POLL_BUDGET: Duration = Duration::from_micros(100);

/// Longest time that a sync waits for others to join; half of what the last sync took, if that is less.
pub(crate) const LOG_GATHER_MAX: Duration = Duration::from_millis(1);

/// Longest sleep of the log's thread between two looks at the rings, for a writer that died on its way to ring.
pub(crate) const LOG_LOOK_PERIOD: Duration = Duration::from_millis(100);

/// Empty messages that a shard keeps for their memory.
pub(crate) const SPARE_MESSAGES_MAX: usize = 64;

/// Bytes of the largest message whose memory is kept.
pub(crate) const SPARE_MESSAGE_BYTES_MAX: usize = 64 << 10;

/// Time in which a client that was told to go reads the last words and closes.
pub(crate) const FAREWELL_MAX: Duration = Duration::from_secs(2);

/// Time that a shard in adaptive mode polls for answers before it sleeps: about two round trips of sleeping parties.
pub(crate) const POLL_BUDGET: Duration = Duration::from_micros(20);

/// Most sleeps between two tries to poll.
pub(crate) const POLL_SKIPS_MAX: u32 = 1024;

const _: () = {
    assert!(OUT_QUEUE_BYTES_MAX >= 2 * praas_protocol::limits::CONTROL_MESSAGE_BYTES_MAX);
    assert!(FORGOTTEN_NAMES_MAX * (KEEPER_NAME_BYTES_MAX + 4) < praas_protocol::limits::CONTROL_MESSAGE_BYTES_MAX);
    assert!(SESSIONS_BEGUN_MAX as u64 <= praas_shm::mailbox::SOURCES_MAX / 4);
    assert!(MESSAGE_LANES_PER_SOURCE_MAX >= 2 * praas_protocol::limits::WORKERS_MAX);
    assert!(WORKER_UIDS as usize >= praas_protocol::limits::PROCESSES_MAX);
    assert!(LANE_CALLS <= praas_protocol::limits::RING_ENTRIES_MAX && NETWORK_SHARDS_MAX <= 256);
    assert!(WORKER_UID_FIRST > 65_535 && WORKER_UID_FIRST + WORKER_UIDS < 524_288);
};
