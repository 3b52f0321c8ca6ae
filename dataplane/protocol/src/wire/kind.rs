//! The kinds of frames: one table of who sends them, whose request id they carry, which flags they have, how long they are.
//!
//! Everything that can be known of a frame from its header is checked against this table before a byte of its body is kept.

use crate::limits::{
    LIST_PAGE_PROCESSES, NAME_BYTES_MAX, OUTPUT_CHUNK_BYTES, PAYLOAD_BYTES_MAX, PROCESS_ID_BYTES_MAX,
    SOCKET_PATH_BYTES_MAX, TOKEN_BYTES_MAX, WIRE_ADVICE_BYTES_MAX, WIRE_CONTROL_BODY_BYTES_MAX, WIRE_HEADER_BYTES,
    WIRE_REASON_BYTES_MAX, WIRE_REQUEST_HEAD_BYTES_MAX, WIRE_RESPONSE_HEAD_BYTES, WIRE_SUBJECT_BYTES_MAX,
};
use crate::message::ADDRESS_BYTES;

/// One end of a connection. After a hand-over the worker is the `Server`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The end that connected.
    Client,
    /// The end that accepted.
    Server,
}

impl Side {
    /// The end opposite to this one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

impl std::fmt::Display for Side {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.pad(match self {
            Self::Client => "client",
            Self::Server => "server",
        })
    }
}

/// What the request id in a frame's header is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdRule {
    /// Always 0.
    Zero,
    /// Chosen by the client for this frame: larger than every one before.
    New,
    /// The id of an earlier frame of the client; not 0.
    Earlier,
    /// The id of an earlier frame of the client, or 0 for the connection as a whole.
    EarlierOrZero,
}

/// What the table says of one kind.
#[derive(Debug, Clone, Copy)]
pub struct KindFacts {
    /// The kind.
    pub kind: Kind,
    /// Its name in the byte-level document.
    pub name: &'static str,
    /// Who sends it.
    pub sender: Side,
    /// Its request id.
    pub id: IdRule,
    /// Flag bits that have a meaning.
    pub flags: u8,
    /// Fewest bytes of its body.
    pub body_bytes_min: u32,
    /// Most bytes of its body.
    pub body_bytes_max: u32,
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $code:literal, $name:literal, $sender:ident, $id:ident, $flags:literal, $min:expr, $max:expr;)*) => {
        /// A kind of frame that this version knows.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Kind {
            $($(#[$doc])* $kind = $code,)*
        }

        /// Every kind, in the order of their numbers.
        pub const KINDS: &[KindFacts] = &[$(KindFacts {
            kind: Kind::$kind,
            name: $name,
            sender: Side::$sender,
            id: IdRule::$id,
            flags: $flags,
            body_bytes_min: $min,
            body_bytes_max: $max,
        },)*];
    };
}

const TEXT: u32 = 2;
const PROCESS: u32 = TEXT + bytes(PROCESS_ID_BYTES_MAX);
const PROCESS_MIN: u32 = TEXT + 3;
const OPEN_AS: u32 = 8 + 24 + 2 * bytes(ADDRESS_BYTES);
const TICKET: u32 = 32;
const CHANGES: u32 = 10 + bytes(LIST_PAGE_PROCESSES * (1 + ADDRESS_BYTES + 2 + NAME_BYTES_MAX));
const REFUSED: u32 =
    28 + 3 * TEXT + bytes(WIRE_SUBJECT_BYTES_MAX) + bytes(WIRE_REASON_BYTES_MAX) + bytes(WIRE_ADVICE_BYTES_MAX);
const REQUEST: u32 = bytes(WIRE_REQUEST_HEAD_BYTES_MAX - WIRE_HEADER_BYTES) + PAYLOAD_BYTES_MAX;
const RESPONSE: u32 = bytes(WIRE_RESPONSE_HEAD_BYTES - WIRE_HEADER_BYTES) + PAYLOAD_BYTES_MAX;

kinds! {
    /// First frame of a connection.
    Hello = 0x01, "HELLO", Client, Zero, 0, 26, 26 + bytes(TOKEN_BYTES_MAX);
    /// Answer to the hello: the connection is accepted.
    Welcome = 0x02, "WELCOME", Server, Zero, 0, 70, 70 + bytes(SOCKET_PATH_BYTES_MAX);
    /// A question (or the hello) was refused or failed.
    Refused = 0x03, "REFUSED", Server, EarlierOrZero, 0, 34, REFUSED;
    /// The server will answer what it took and then close.
    Goaway = 0x04, "GOAWAY", Server, Zero, 1, 12, 12 + bytes(WIRE_ADVICE_BYTES_MAX);
    /// Asks for the server's clock.
    Ping = 0x05, "PING", Client, Zero, 0, 8, 8;
    /// Answer to a ping.
    Pong = 0x06, "PONG", Server, Zero, 0, 24, 24;
    /// Asks for a handle of a process.
    Open = 0x10, "OPEN", Client, New, 0, 8 + PROCESS_MIN, 8 + PROCESS;
    /// The handle.
    Opened = 0x11, "OPENED", Server, Earlier, 0, 20, 20;
    /// Gives a handle back. Not answered.
    Close = 0x12, "CLOSE", Client, Zero, 0, 4, 4;
    /// Asks that a worker of a process takes this connection over.
    Dedicate = 0x13, "DEDICATE", Client, New, 0, 8 + PROCESS_MIN, 8 + PROCESS;
    /// First frame of the worker that took the connection.
    HandedOver = 0x14, "HANDED_OVER", Server, Earlier, 0, 20, 20;
    /// Asks for a handle in the name of a process or session of the asking server.
    OpenAs = 0x15, "OPEN_AS", Client, New, 0, OPEN_AS + TEXT + 1, OPEN_AS + TEXT + bytes(NAME_BYTES_MAX);
    /// Begins a session as which messages are exchanged, or goes on with one.
    Session = 0x16, "SESSION", Client, New, 1, 4 + TEXT + 1, 4 + TICKET + TEXT + bytes(NAME_BYTES_MAX);
    /// The session.
    SessionOpened = 0x17, "SESSION_OPENED", Server, Earlier, 1, 20 + TICKET, 20 + TICKET;
    /// A call.
    Request = 0x20, "REQUEST", Client, New, 0x1f, 20, REQUEST;
    /// A call's answer.
    Response = 0x21, "RESPONSE", Server, Earlier, 0, 12, RESPONSE;
    /// The caller no longer waits for this call. Not answered; the call still is.
    Cancel = 0x22, "CANCEL", Client, Earlier, 0, 0, 0;
    /// Create a process.
    Create = 0x30, "CREATE", Client, New, 1, PROCESS_MIN, PROCESS + 8;
    /// Drain and end a process.
    Stop = 0x31, "STOP", Client, New, 0, PROCESS_MIN, PROCESS;
    /// Drain a process and replace its workers.
    Restart = 0x32, "RESTART", Client, New, 0, PROCESS_MIN, PROCESS;
    /// What was asked for is done.
    Done = 0x33, "DONE", Server, Earlier, 0, 0, 0;
    /// Asks for a page of processes.
    List = 0x34, "LIST", Client, New, 0, TEXT, PROCESS;
    /// A page of processes.
    Processes = 0x35, "PROCESSES", Server, Earlier, 1, 2, WIRE_CONTROL_BODY_BYTES_MAX;
    /// Asks for a page of the applications' names.
    ListApplications = 0x36, "LIST_APPLICATIONS", Client, New, 0, TEXT, TEXT + bytes(NAME_BYTES_MAX);
    /// A page of names.
    Applications = 0x37, "APPLICATIONS", Server, Earlier, 1, 2, WIRE_CONTROL_BODY_BYTES_MAX;
    /// Asks for captured output.
    Output = 0x38, "OUTPUT", Client, New, 1, 8 + PROCESS_MIN, 8 + PROCESS;
    /// Captured output.
    OutputChunk = 0x39, "OUTPUT_CHUNK", Server, Earlier, 1, 8, 8 + bytes(OUTPUT_CHUNK_BYTES);
    /// Asks for what is counted of a process.
    Stats = 0x3a, "STATS", Client, New, 0, PROCESS_MIN + TEXT, PROCESS + TEXT + bytes(NAME_BYTES_MAX);
    /// What is counted of it.
    Counts = 0x3b, "COUNTS", Server, Earlier, 1, 34, WIRE_CONTROL_BODY_BYTES_MAX;
    /// Asks what changes among processes and sessions.
    Watch = 0x3c, "WATCH", Client, New, 0, 8, 8;
    /// What changed.
    Changes = 0x3d, "CHANGES", Server, Earlier, 3, 10, CHANGES;
    /// Store what a process knows and give its memory up.
    Swap = 0x3e, "SWAP", Client, New, 0, PROCESS_MIN, PROCESS;
    /// Wake a process that sleeps.
    Restore = 0x3f, "RESTORE", Client, New, 0, PROCESS_MIN, PROCESS;
    /// Asks what happens in the lives of processes.
    WatchTransitions = 0x40, "WATCH_TRANSITIONS", Client, New, 1, 8 + TEXT, 8 + PROCESS;
    /// What happened.
    Transitions = 0x41, "TRANSITIONS", Server, Earlier, 0, 18, WIRE_CONTROL_BODY_BYTES_MAX;
    /// Asks for a page of what storage holds.
    StorageUsage = 0x42, "STORAGE_USAGE", Client, New, 0, 8 + TEXT, 8 + PROCESS;
    /// A page of what storage holds.
    Stored = 0x43, "STORED", Server, Earlier, 1, 2 + TEXT, WIRE_CONTROL_BODY_BYTES_MAX;
}

/// First kind that a receiver skips when it does not know it.
pub const SKIPPABLE_KIND_MIN: u8 = 0x80;

impl Kind {
    /// The kind with this number, if this version has one.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        INDEX.get(usize::from(code)).and_then(|index| KINDS.get(usize::from(*index))).map(|facts| facts.kind)
    }

    /// Its number on the wire.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// What the table says of it.
    #[must_use]
    pub fn facts(self) -> &'static KindFacts {
        &KINDS[usize::from(INDEX[self as usize])]
    }

    /// Its name in the byte-level document.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.facts().name
    }
}

/// Position in [`KINDS`] for each number; `u8::MAX` where there is none.
const INDEX: [u8; 0x44] = {
    let mut index = [u8::MAX; 0x44];
    let mut at: u8 = 0;
    while (at as usize) < KINDS.len() {
        index[KINDS[at as usize].kind as usize] = at;
        at += 1;
    }
    index
};

/// A constant that is known to fit.
#[expect(clippy::cast_possible_truncation, reason = "checked on the line before, at compile time")]
const fn bytes(count: usize) -> u32 {
    assert!(count <= u32::MAX as usize);
    count as u32
}
