//! Between client and server: requests, their answers, and what else the two tell each other.

use serde::{Deserialize, Serialize};

use super::{
    ControlError, LaneGeometry, LaneId, MessageLaneGeometry, ProcessState, ProcessStats, ProcessStatus, StoredFolder,
    StoredPlace, Transition, WaitMode,
};
use crate::message::{Address, SessionId};
use crate::{Name, ProcessId};

/// Client → server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum ClientMessage {
    /// First message of a connection. Answered by [`ServerMessage::Welcome`] or [`ServerMessage::Failed`] with request 0.
    Hello {
        /// [`super::CONTROL_VERSION`] of the client.
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
        /// Milliseconds without a call after which it is swapped out, 0 for never; `None` takes the
        /// application's setting.
        idle_swap_ms: Option<u64>,
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
    /// Store what a process knows and give its memory up. Answered by `Done` when it sleeps; at once if it does.
    ProcessSwap {
        /// Its id.
        process: ProcessId,
    },
    /// Wake a process that sleeps. Answered by `Done` when its first workers are ready; at once if it is awake.
    ProcessRestore {
        /// Its id.
        process: ProcessId,
    },
    /// What happened in the lives of processes. Answered by `Transitions`, at once if there is anything, otherwise at the next
    /// transition.
    TransitionWatch {
        /// Of one process; `None` for all in the token's scope.
        process: Option<ProcessId>,
        /// Transitions after this number. `None` is answered at once, with none and the number of the last one: what is asked
        /// for next.
        after: Option<u64>,
    },
    /// A page of what storage holds, in order of processes. Answered by `Stored`.
    StorageUsage {
        /// What follows this; `None` starts at the beginning.
        after: Option<StoredPlace>,
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
        /// [`super::CONTROL_VERSION`] of the server.
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
    /// What happened in the lives of processes.
    Transitions {
        /// Number of the request.
        request: u64,
        /// The number of the last transition that was looked at: what to ask for next.
        upto: u64,
        /// Transitions of all processes before it that the server has forgotten: more happened than it keeps.
        lost: u64,
        /// At most [`crate::limits::LIST_PAGE_PROCESSES`], oldest first.
        transitions: Vec<Transition>,
    },
    /// One page of what storage holds.
    Stored {
        /// Number of the request.
        request: u64,
        /// Where that is, at most [`crate::limits::STORAGE_PLACE_BYTES_MAX`].
        place: String,
        /// At most [`crate::limits::LIST_PAGE_PROCESSES`].
        folders: Vec<StoredFolder>,
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
