//! Messages on the Unix control sockets of one host: client ↔ server, and server ↔ worker.
//!
//! Each is one packet, encoded by [`crate::codec`], with the file descriptors named in its documentation attached in
//! that order. A request carries a number chosen by the client; the answer repeats it. Nothing of a call travels here:
//! calls go over lanes.

use serde::{Deserialize, Serialize};

use crate::message::{Address, SessionId};
use crate::token::Rights;
use crate::{Name, ProcessId};

/// The version of these messages; client, server and worker must agree on it exactly.
pub const CONTROL_VERSION: u32 = 5;

/// Number of a lane, unique within its process and never given twice during the life of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LaneId(pub u32);

/// Number of a dedicated connection, never given twice during the life of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ConnectionId(pub u64);

/// What the client of a dedicated connection may do, as its worker tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionLimits {
    /// Largest payload in bytes, both ways.
    pub payload_bytes_max: u32,
    /// Most calls in flight.
    pub in_flight_max: u32,
    /// Most payload bytes of calls in flight.
    pub window_bytes: u64,
}

/// How both ends of a lane wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WaitMode {
    /// Poll for ever: for dedicated cores.
    Spin,
    /// Poll for a bounded time while it pays, then sleep.
    #[default]
    Adaptive,
    /// Sleep at once.
    Park,
}

/// Sizes of a lane. Workers and server take them from the server's message, never from the lane's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneGeometry {
    /// Entries of the request ring, a power of two.
    pub ring_entries: u32,
    /// Reply cells, that is, calls in flight.
    pub cells: u32,
    /// Bytes of the client's half of the arena, a power of two.
    pub request_arena_bytes: u32,
    /// Bytes of the workers' half of the arena, a power of two.
    pub reply_arena_bytes: u32,
}

/// Number of a message lane: its place among the inbound lanes of the process that it leads to. Used again only after every
/// worker of that process has forgotten the lane that had it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MessageLaneSlot(pub u16);

/// Sizes of a message lane. Both ends take them from the server's message, never from the lane's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MessageLaneGeometry {
    /// Entries of its ring, a power of two.
    pub entries: u32,
    /// Payloads that can lie in its arena at a time.
    pub blocks: u32,
    /// Bytes of its arena, a power of two.
    pub arena_bytes: u32,
}

/// Client → server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum ClientMessage {
    /// First message of a connection. Answered by [`ServerMessage::Welcome`] or [`ServerMessage::Failed`] with request 0.
    Hello {
        /// [`CONTROL_VERSION`] of the client.
        version: u32,
        /// The token in text form.
        token: String,
        /// Whether this is a session of the server's own network side, which speaks for the remote holder of the token.
        /// Refused unless the socket's credentials are those of the server's own process.
        network: bool,
    },
    /// A numbered request.
    Request {
        /// Chosen by the client, repeated in the answer; not 0.
        request: u64,
        /// What is asked.
        body: ClientRequest,
    },
    /// A request lies unclaimed in this lane and no worker is awake. Not answered.
    Ring {
        /// The lane.
        lane: LaneId,
        /// The process that the lane leads to.
        process: ProcessId,
    },
    /// The client is done with a lane. Not answered.
    LaneClose {
        /// The lane.
        lane: LaneId,
        /// The process that the lane leads to.
        process: ProcessId,
    },
    /// The client sends nothing more on a message lane. Not answered.
    MessageLaneClose {
        /// Number of the lane.
        serial: u64,
    },
    /// The client is done with the lane to its session. The session is kept for a while. Not answered.
    SessionLeave {
        /// The session.
        session: SessionId,
        /// The lane to it.
        lane: LaneId,
    },
}

/// What a client asks for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum ClientRequest {
    /// Create a process. Answered by `Done` when its first workers are ready.
    ProcessCreate {
        /// Its id; the application must be known to the server.
        process: ProcessId,
    },
    /// A page of the processes in the token's scope, in order of their ids. Answered by `Processes`.
    ProcessList {
        /// List ids after this one; `None` starts at the beginning.
        after: Option<ProcessId>,
    },
    /// Drain and end a process. Answered by `Done` when nothing of it is left.
    ProcessStop {
        /// Its id.
        process: ProcessId,
    },
    /// Drain a process and replace its workers. Answered by `Done` when the new ones are ready.
    ProcessRestart {
        /// Its id.
        process: ProcessId,
    },
    /// Captured output of a process from byte `from` of its stream on. Answered by `Output`.
    ProcessOutput {
        /// Its id.
        process: ProcessId,
        /// Position in the stream of all output ever captured.
        from: u64,
        /// Whether to answer only when there is something after `from` (or the process has ended).
        follow: bool,
    },
    /// Open a lane to a process. Answered by `LaneOpened`.
    LaneOpen {
        /// Its id.
        process: ProcessId,
        /// Largest payload the client wants to send or receive, in bytes; `None` takes the application's limit.
        payload_bytes_max: Option<u32>,
        /// Calls in flight that the client wants; `None` takes the default. The server may give fewer.
        calls_in_flight: Option<u32>,
        /// The process of the same application, on another server, whose calls these are: the principal of the calls. For
        /// network sessions with the right `trusted`.
        on_behalf: Option<Name>,
    },
    /// Begin a session, as which the client sends and receives messages, or go on with one. Answered by `SessionOpened`.
    SessionOpen {
        /// The application whose processes it exchanges messages with.
        application: Name,
        /// The session to go on with; `None` begins one.
        resume: Option<SessionTicket>,
        /// Largest payload the client wants to send or receive, in bytes; `None` takes the application's limit.
        payload_bytes_max: Option<u32>,
    },
    /// Open a lane to a client's session, for messages of a process or session of another server. From network sessions only,
    /// in the name of a process only with the right `trusted`. Answered by `SessionOpened`, without the session's secret.
    SessionLaneOpen {
        /// The application of both.
        application: Name,
        /// The session.
        session: SessionId,
        /// Who sends.
        source: Address,
        /// Which life of the sender.
        incarnation: u64,
    },
    /// Open a lane for messages of a process on another server, or of a session, to a process of this server. From network
    /// sessions only; in the name of a process only with the right `trusted`. Answered by `MessageLaneOpened`.
    MessageLaneOpen {
        /// The process that receives.
        process: ProcessId,
        /// Who of the same application sends.
        source: Address,
        /// Which life of the sender.
        incarnation: u64,
        /// Largest message in bytes that is to be sent now.
        payload_bytes: u32,
    },
    /// What changed among the processes and sessions in the token's scope since change number `after`. Answered by
    /// `DirectoryChanges`, at once if there is anything, otherwise at the next change.
    DirectoryWatch {
        /// The change up to which the client knows; 0 for all.
        after: u64,
    },
    /// Give a TCP connection of the network protocol to a worker of a process. Descriptor: the socket, on which the client
    /// has asked for this and sends nothing more until the worker's `HANDED_OVER`. From network sessions only. Answered by
    /// `Done` when a worker owns it; after `Failed` it is still the asker's.
    ConnectionGive {
        /// The process.
        process: ProcessId,
        /// Id of the client's question on that connection, the last one that it used.
        request_id: u64,
        /// Largest payload the client wants to send or receive, in bytes; `None` takes the application's limit.
        payload_bytes_max: Option<u32>,
        /// Calls in flight that the client wants; `None` takes the default. The server may give fewer.
        calls_in_flight: Option<u32>,
    },
    /// The applications that this server serves. Answered by `Applications`.
    ApplicationList,
    /// What the workers of a process counted, and how full its lanes are. Answered by `Stats`. Stops nobody.
    ProcessStats {
        /// Its id.
        process: ProcessId,
    },
}

/// Server → client.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum ServerMessage {
    /// The connection is accepted.
    Welcome {
        /// [`CONTROL_VERSION`] of the server.
        version: u32,
        /// Changes whenever the server program starts anew.
        incarnation: u64,
    },
    /// The numbered request was carried out.
    Done {
        /// Its number.
        request: u64,
    },
    /// The numbered request was refused or failed.
    Failed {
        /// Its number; 0 for the hello.
        request: u64,
        /// Why.
        error: ControlError,
    },
    /// One page of processes.
    Processes {
        /// Number of the request.
        request: u64,
        /// At most [`crate::limits::LIST_PAGE_PROCESSES`].
        processes: Vec<ProcessStatus>,
        /// Whether further ones follow.
        more: bool,
    },
    /// The applications of this server.
    Applications {
        /// Number of the request.
        request: u64,
        /// Their names.
        applications: Vec<Name>,
    },
    /// Captured output.
    Output {
        /// Number of the request.
        request: u64,
        /// Position of the first byte of `bytes` in the stream: larger than asked for if older output was dropped.
        position: u64,
        /// The output; at most [`crate::limits::OUTPUT_CHUNK_BYTES`].
        bytes: Vec<u8>,
        /// Whether the process has ended and nothing follows.
        ended: bool,
    },
    /// Counts of a process.
    Stats {
        /// Number of the request.
        request: u64,
        /// What they are.
        stats: ProcessStats,
    },
    /// A lane. Descriptors: lane segment, control page, doorbell (write end of a pipe); for a network session also the
    /// reply doorbell (read end of a pipe).
    LaneOpened {
        /// Number of the request.
        request: u64,
        /// The process that it leads to.
        process: ProcessId,
        /// Its number.
        lane: LaneId,
        /// Its sizes.
        geometry: LaneGeometry,
        /// Whether both ends share a trust domain. Never so for a network session: the server does not read in place what
        /// workers may write meanwhile.
        trusted: bool,
        /// Largest payload in bytes.
        payload_bytes_max: u32,
        /// Most workers the process may have.
        workers_max: u32,
        /// How the application's workers wait.
        wait_mode: WaitMode,
    },
    /// A session, and a lane to where the server keeps it; on that lane the functions of [`crate::session`] are called.
    /// Descriptors: as for `LaneOpened`.
    SessionOpened {
        /// Number of the request.
        request: u64,
        /// What the session is known by, and what it is gone on with.
        ticket: SessionTicket,
        /// Which life of the session its messages carry.
        incarnation: u64,
        /// Whether it is the session that was to be resumed, with its mailbox.
        resumed: bool,
        /// Number of the lane.
        lane: LaneId,
        /// Its sizes.
        geometry: LaneGeometry,
        /// Largest payload of a call on the lane, in bytes: messages may have [`crate::message::PUT_HEAD_BYTES_MAX`] less.
        payload_bytes_max: u32,
    },
    /// A lane for messages. Descriptors: message lane, bell of the receiver.
    MessageLaneOpened {
        /// Number of the request.
        request: u64,
        /// Number of the lane, unique during the life of the server.
        serial: u64,
        /// Its sizes.
        geometry: MessageLaneGeometry,
        /// Largest message in bytes that it takes.
        payload_bytes_max: u32,
    },
    /// A message lane that this client opened leads nowhere any more: its receiver has ended.
    MessageLaneGone {
        /// Number of the lane.
        serial: u64,
    },
    /// What changed among processes and sessions.
    DirectoryChanges {
        /// Number of the request.
        request: u64,
        /// The number of the last change that is in here: what to ask for next.
        upto: u64,
        /// Whether this begins a list of all there is: whatever is not in it, or in what follows it, is gone.
        is_whole: bool,
        /// Whether more follows at once.
        more: bool,
        /// The changes, or all there is; at most [`crate::limits::LIST_PAGE_PROCESSES`].
        entries: Vec<DirectoryEntry>,
    },
}

/// What a session is known by, and the secret by which its client goes on with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionTicket {
    /// The session: others see it.
    pub session: SessionId,
    /// Known to its client and the server alone.
    pub secret: u128,
}

/// Something that can be called or sent to, as one server tells another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectoryEntry {
    /// Its application.
    pub application: Name,
    /// Which process or session of it.
    pub address: Address,
    /// A process's state; `None` once it is gone. Sessions are active.
    pub state: Option<ProcessState>,
}

/// What is counted of a process since it was created: by its workers, whose word is taken for it, and by the server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessStats {
    /// Its functions, in order of their names; those that were never called are left out.
    pub functions: Vec<FunctionStats>,
    /// Requests that lie unclaimed in its lanes now.
    pub queued: u64,
    /// Calls that its workers run now.
    pub running: u64,
    /// Open lanes.
    pub lanes: u64,
    /// Times a worker was replaced after it died.
    pub worker_restarts: u64,
}

/// What the workers of a process counted of one function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionStats {
    /// Its name.
    pub function: Name,
    /// Calls answered.
    pub calls: u64,
    /// Of those, calls that ended as an error or a panic.
    pub failed: u64,
    /// Calls that were timed, one in 64: from the start of the function to the publication of its answer.
    pub timed: u64,
    /// Their mean in nanoseconds.
    pub mean_ns: u64,
    /// The time that half of them did not exceed, to within 6 %.
    pub p50_ns: u64,
    /// The same for 99 %.
    pub p99_ns: u64,
    /// The same for 99.9 %.
    pub p999_ns: u64,
    /// The longest of them.
    pub max_ns: u64,
}

/// The state of a process for people and programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessStatus {
    /// Its id.
    pub process: ProcessId,
    /// Where it stands in its life.
    pub state: ProcessState,
    /// Workers that are ready.
    pub workers: u32,
    /// OS process ids of those workers, in the server's view.
    pub worker_pids: Vec<u32>,
    /// Open lanes.
    pub lanes: u32,
    /// Times a worker was replaced after it died.
    pub worker_restarts: u64,
    /// Why the last worker ended, if one did.
    pub last_exit: Option<String>,
    /// Calls its workers say they answered (reported by tenant code, for information).
    pub calls_reported: u64,
}

/// The lifecycle of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ProcessState {
    /// Its first workers start.
    Creating,
    /// It takes calls.
    Active,
    /// It finishes its calls and takes no new ones.
    Draining,
    /// Its workers keep failing; the next attempt waits.
    Failed,
    /// It takes calls, and nobody has called it for a while.
    Idle,
    /// It is on another server to which there is no connection now.
    Unreachable,
}

impl ProcessState {
    /// The state as one byte: on the network and in an application's directory of its processes. Never 0; 6 to 15 are
    /// kept for states in which a process has no workers in memory; from 16 on, they are about the way to it.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Creating => 1,
            Self::Active => 2,
            Self::Draining => 3,
            Self::Failed => 4,
            Self::Idle => 5,
            Self::Unreachable => 16,
        }
    }

    /// The state with this code; `None` for a byte that is none.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Creating),
            2 => Some(Self::Active),
            3 => Some(Self::Draining),
            4 => Some(Self::Failed),
            5 => Some(Self::Idle),
            16 => Some(Self::Unreachable),
            _ => None,
        }
    }
}

impl std::fmt::Display for ProcessState {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.pad(match self {
            Self::Creating => "creating",
            Self::Active => "active",
            Self::Draining => "draining",
            Self::Failed => "failed",
            Self::Idle => "idle",
            Self::Unreachable => "unreachable",
        })
    }
}

/// Why the server did not do what a client asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum ControlError {
    /// Client and server speak different versions.
    #[error(
        "the server speaks version {server} of the control protocol, the client {client}: use the same release of both"
    )]
    WrongVersion {
        /// Of the server.
        server: u32,
        /// Of the client.
        client: u32,
    },
    /// The token is refused.
    #[error("{reason}")]
    TokenRefused {
        /// Why, from [`crate::token::TokenError`].
        reason: String,
    },
    /// The token lacks a right for this.
    #[error("the token does not allow this: it needs the right {right:?} for {what}")]
    Unauthorized {
        /// The missing right.
        right: String,
        /// For what.
        what: String,
    },
    /// No such application.
    #[error("this server has no application {application}; it serves: {known}")]
    UnknownApplication {
        /// The name that was asked for.
        application: Name,
        /// Names that exist, for people.
        known: String,
    },
    /// No such process.
    #[error("there is no process {process}; create it with `praas process create {process}`")]
    UnknownProcess {
        /// The id that was asked for.
        process: ProcessId,
    },
    /// The process exists already.
    #[error("process {process} exists already")]
    ProcessExists {
        /// Its id.
        process: ProcessId,
    },
    /// A limit was reached.
    #[error("{what}: {used} of {limit} in use, {asked} more asked for; {advice}")]
    LimitReached {
        /// Which limit.
        what: String,
        /// In use now.
        used: u64,
        /// The limit.
        limit: u64,
        /// How much more was asked for.
        asked: u64,
        /// What to do.
        advice: String,
    },
    /// The workers of the process could not be started.
    #[error("the workers of {process} did not start: {reason}")]
    WorkersFailed {
        /// Its id.
        process: ProcessId,
        /// What happened, with the last lines of output.
        reason: String,
    },
    /// The process does not take this request now.
    #[error("process {process} is {state}; try again later")]
    WrongState {
        /// Its id.
        process: ProcessId,
        /// Its state.
        state: ProcessState,
    },
    /// It is not in this server's memory: messages to it go over a call lane to the server's gateway.
    #[error("{to} is reached through the server's gateway only")]
    Elsewhere {
        /// Process or session.
        to: Address,
    },
    /// No such session of a client.
    #[error("there is no session {session}: it ended, or was never begun on this server or one that it knows")]
    UnknownSession {
        /// The session that was asked for.
        session: SessionId,
    },
    /// The server is shutting down.
    #[error("the server is shutting down")]
    ShuttingDown,
    /// The message broke the protocol.
    #[error("the message breaks the protocol: {reason}")]
    Protocol {
        /// How.
        reason: String,
    },
    /// Something failed on the host.
    #[error("{what} failed: {reason}")]
    Host {
        /// What the server tried.
        what: String,
        /// The system's error.
        reason: String,
    },
}

/// Worker → server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum WorkerMessage {
    /// First message: the worker runs and has these functions.
    Hello {
        /// [`CONTROL_VERSION`] of the SDK.
        version: u32,
        /// Names of its functions.
        functions: Vec<Name>,
    },
    /// The worker has attached everything in its start message and claims from now on.
    Ready,
    /// The worker mapped a lane (or could not) after `LaneAdd`.
    LaneAttached {
        /// The lane.
        lane: LaneId,
        /// Why not, if not.
        error: Option<String>,
    },
    /// The worker has unmapped a lane after `LaneRemove`.
    LaneDetached {
        /// The lane.
        lane: LaneId,
    },
    /// The worker is done with a dedicated connection and has shut it down.
    ConnectionEnded {
        /// The connection.
        connection: ConnectionId,
    },
    /// This worker waits inside a nested call, or leaves work behind, and no other worker is idle.
    Ring,
    /// Open a lane for calls to a process of the same application, wherever it is, or to a client's session. Answered by
    /// `CallLaneOpened` or `Refused`.
    CallLaneOpen {
        /// Chosen by the worker, repeated in the answer; not 0.
        request: u32,
        /// Who is to be called; its own process, too.
        to: Address,
    },
    /// A request lies unclaimed in a lane that this worker opened, and no worker of the process called is awake. Not answered.
    CallLaneRing {
        /// The lane.
        lane: LaneId,
        /// Whom it leads to.
        to: Address,
    },
    /// The worker is done with a lane that it opened. Not answered.
    CallLaneClose {
        /// The lane.
        lane: LaneId,
        /// Whom it leads to.
        to: Address,
    },
    /// Open a lane for messages to a process or client of the same application. Answered by `MessageLaneOpened` or `Refused`.
    MessageLaneOpen {
        /// Chosen by the worker, repeated in the answer; not 0.
        request: u32,
        /// Who is to receive.
        to: Address,
        /// Largest message in bytes that the worker has to send now. A lane takes any up to the size that it was opened for.
        payload_bytes: u32,
    },
    /// The worker sends nothing more on a message lane. It stays until the receiver has taken what is in it. Not answered.
    MessageLaneClose {
        /// Number of the lane, unique during the life of the server.
        serial: u64,
    },
    /// The worker maps an inbound message lane (or could not) after `InboundLaneAdd`.
    InboundLaneAttached {
        /// The lane.
        slot: MessageLaneSlot,
        /// Why not, if not.
        error: Option<String>,
    },
    /// The worker has unmapped an inbound message lane after `InboundLaneRemove`.
    InboundLaneDetached {
        /// The lane.
        slot: MessageLaneSlot,
    },
}

/// Server → worker.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum WorkerCommand {
    /// Answer to the hello. Descriptors: control page, this worker's page, objects segment of the process, its mail bell,
    /// directory of the application's processes; if what the process changes is logged, its log ring and the write end of the
    /// doorbell of that.
    Start {
        /// The process it serves.
        process: ProcessId,
        /// Its bit in a lane's words.
        index: u8,
        /// Distinguishes it from earlier workers with the same index.
        generation: u16,
        /// How it waits.
        wait_mode: WaitMode,
        /// Largest payload in bytes.
        payload_bytes_max: u32,
        /// Most workers of this process.
        workers_max: u32,
        /// Bytes of the objects segment.
        state_bytes: u64,
        /// Which life of the process, for the ids of its messages.
        incarnation: u64,
        /// Bytes of the process's log ring, a power of two, if what it changes is logged.
        log_bytes: Option<u64>,
    },
    /// Serve a lane. Descriptors: lane segment, reply ledger of the lane, doorbell read end, doorbell write end; if its client
    /// sleeps on a reply doorbell, also that one's write end.
    LaneAdd {
        /// Its number.
        lane: LaneId,
        /// Its sizes.
        geometry: LaneGeometry,
        /// What the client's token allows: whether it shares the application's trust domain, among others.
        rights: Rights,
        /// Whether payloads are read and written in place: for a trusted client, and where only the server writes requests.
        in_place: bool,
        /// Who the client is, from its token.
        principal: Name,
    },
    /// Forget a lane: its client is gone.
    LaneRemove {
        /// Its number.
        lane: LaneId,
    },
    /// Serve a TCP connection of the network protocol, beginning with `HANDED_OVER`. Descriptor: the socket. When the process
    /// drains, the worker answers what it took, says `GOAWAY` and ends the connection.
    ConnectionAdd {
        /// Its number.
        connection: ConnectionId,
        /// Id of the client's question, to be repeated in the answer.
        request_id: u64,
        /// What the client may do.
        limits: ConnectionLimits,
        /// What the client's token allows: whether it shares the application's trust domain, among others.
        rights: Rights,
        /// Who the client is, from its token.
        principal: Name,
    },
    /// Look at the control page: its phase changed.
    Wake,
    /// What a worker asked for in this request was refused.
    Refused {
        /// Number of the request.
        request: u32,
        /// Why.
        error: ControlError,
    },
    /// A lane for calls to another process. Descriptors: lane segment, control page of that process, doorbell (write end).
    CallLaneOpened {
        /// Number of the request.
        request: u32,
        /// Number of the lane.
        lane: LaneId,
        /// Its sizes.
        geometry: LaneGeometry,
        /// Largest payload in bytes.
        payload_bytes_max: u32,
        /// Most workers the process may have.
        workers_max: u32,
        /// Whether it leads to the server's gateway, and by it to another server or a client's session.
        is_gateway: bool,
    },
    /// A lane that this worker opened leads nowhere any more: the process that it led to has ended or moves.
    CallLaneGone {
        /// Number of the lane.
        lane: LaneId,
        /// Whom it led to.
        to: Address,
    },
    /// A lane for messages to a process or client. Descriptors: message lane, bell of the receiver.
    MessageLaneOpened {
        /// Number of the request.
        request: u32,
        /// Number of the lane, unique during the life of the server.
        serial: u64,
        /// Its sizes.
        geometry: MessageLaneGeometry,
        /// Largest message in bytes that it takes.
        payload_bytes_max: u32,
    },
    /// A message lane that this worker opened leads nowhere any more: its receiver has ended.
    MessageLaneGone {
        /// Number of the lane.
        serial: u64,
    },
    /// Receive from a message lane. Descriptor: the message lane.
    InboundLaneAdd {
        /// Its place among the inbound lanes of this process.
        slot: MessageLaneSlot,
        /// Its number: with the slot it tells this lane from earlier ones in that place, in this server and earlier ones.
        serial: u64,
        /// Its sizes.
        geometry: MessageLaneGeometry,
        /// Who sends.
        source: Address,
        /// Which life of the sender.
        incarnation: u64,
        /// Whether what lies in it may have come another way, too: from another server.
        repeats: bool,
    },
    /// Forget an inbound message lane: its sender is gone and nothing is left in it.
    InboundLaneRemove {
        /// The lane.
        slot: MessageLaneSlot,
    },
    /// End: nothing is claimed any more.
    Exit,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{decode, encode};

    #[test]
    fn messages_read_back_as_written_and_nothing_else_does() {
        let message = ClientMessage::Request {
            request: 7,
            body: ClientRequest::LaneOpen {
                process: "hello/alice".parse().unwrap(),
                payload_bytes_max: None,
                calls_in_flight: Some(32),
                on_behalf: None,
            },
        };
        let bytes = encode(&message).unwrap();
        let back: ClientMessage = decode(&bytes).unwrap();
        assert_eq!(format!("{back:?}"), format!("{message:?}"));
        for cut in 0..bytes.len() {
            assert!(decode::<ClientMessage>(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        let longer = [bytes.as_slice(), &[0]].concat();
        assert!(decode::<ClientMessage>(&longer).is_err());
    }

    #[test]
    fn a_name_from_the_wire_is_checked() {
        let bytes = encode(&("hello".to_owned(), "../up".to_owned())).unwrap();
        assert!(decode::<ProcessId>(&bytes).is_err());
    }
}
