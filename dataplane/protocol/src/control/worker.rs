//! Between worker and server: what a worker asks for and tells, and what it is told.

use serde::{Deserialize, Serialize};

use super::{
    ConnectionId, ConnectionLimits, ControlError, LaneGeometry, LaneId, MessageLaneGeometry, MessageLaneSlot, WaitMode,
};
use crate::message::Address;
use crate::token::Rights;
use crate::{Name, ProcessId};

/// What of the state of a process that has slept is to come back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum StateWanted {
    /// All that is known of the keys of one page, so that this object can be put or deleted, or is known not to be.
    Object {
        /// Namespace of its key.
        namespace: u8,
        /// Its key.
        key: String,
        /// Its value, too.
        with_value: bool,
    },
    /// What is known of all keys, for a list.
    AllPages,
}

/// Why something of the state did not come back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateNotFetched {
    /// What is stored is not what was stored: trying again changes nothing.
    pub is_damaged: bool,
    /// What happened, which object, page or blob, and what to do; at most
    /// [`NOT_FETCHED_REASON_BYTES_MAX`](crate::limits::NOT_FETCHED_REASON_BYTES_MAX) bytes.
    pub reason: String,
}

/// What a worker knows of the wake-ups of its process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CalendarSeen {
    /// Version of their list, 0 if there is none: what was seen of a later one counts.
    pub version: u64,
    /// When the next one is due, milliseconds since 1970.
    pub next_due_unix_ms: Option<u64>,
}

/// Where a worker finds the files directory of its process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilesPlace {
    /// A path by which the worker, and programs that it starts, reach it.
    pub path: String,
    /// Bytes that it may have when the process is put to sleep.
    pub bytes_max: u64,
}

/// Worker → server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum WorkerMessage {
    /// First message: the worker runs and has these functions.
    Hello {
        /// [`super::CONTROL_VERSION`] of the SDK.
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
    /// Something of the state is away since the process has slept. Answered by `StateFetched`, once it is there or why not.
    StateFetch {
        /// Chosen by the worker, repeated in the answer; not 0.
        request: u32,
        /// What is away.
        wanted: StateWanted,
    },
    /// The wake-ups of the process have changed, or were looked at.
    WakeUps {
        /// What they are now; `None` where they are in storage still, and were asked for.
        seen: Option<CalendarSeen>,
        /// Whether this answers `WakeUpsLook`.
        is_answer: bool,
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
        /// The process's files directory, if its application has one.
        files: Option<FilesPlace>,
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
    /// What a worker asked for has come back, or has not.
    StateFetched {
        /// Number of the request.
        request: u32,
        /// Why not, if not.
        error: Option<StateNotFetched>,
    },
    /// Put the wake-ups that are due into the mailbox. Answered by `WakeUps`; obeyed inside calls that receive, too.
    WakeUpsLook {
        /// What time it is, milliseconds since 1970.
        now_unix_ms: u64,
    },
}
