//! CREATE, STOP, RESTART, SWAP, RESTORE, DONE, OUTPUT, OUTPUT_CHUNK: orders about one process, and what it printed.

use crate::ProcessId;
use crate::limits::OUTPUT_CHUNK_BYTES;
use crate::wire::fields::{Fields, frame, put_process};
use crate::wire::{Header, Kind, WireError};

/// What is to happen to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Create it; done when its first workers are ready.
    Create,
    /// Drain and end it; done when nothing of it is left.
    Stop,
    /// Drain it and replace its workers; done when the new ones are ready.
    Restart,
    /// Store what it knows and give its memory up; done when it sleeps, also if it slept before.
    Swap,
    /// Wake it; done when its first workers are ready, also if it was awake.
    Restore,
}

impl Action {
    fn kind(self) -> Kind {
        match self {
            Self::Create => Kind::Create,
            Self::Stop => Kind::Stop,
            Self::Restart => Kind::Restart,
            Self::Swap => Kind::Swap,
            Self::Restore => Kind::Restore,
        }
    }
}

/// Of CREATE: the time of idleness follows the process.
const FLAG_IDLE_SWAP: u8 = 1;

/// CREATE, STOP, RESTART, SWAP or RESTORE. Answered by [`Done`] or a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    /// Of this question.
    pub request_id: u64,
    /// What.
    pub action: Action,
    /// To whom.
    pub process: ProcessId,
    /// Of CREATE: milliseconds without a call after which it is swapped out, 0 for never; `None` takes the
    /// application's setting.
    pub idle_swap_ms: Option<u64>,
}

impl Order {
    /// The order in `body`; the header's kind says which.
    ///
    /// # Errors
    /// The field that is wrong.
    pub fn parse(action: Action, header: &Header, body: &[u8]) -> Result<Self, WireError> {
        let mut fields = Fields::of(action.kind(), body);
        let process = fields.process()?;
        // No other order has this flag.
        let idle_swap_ms = if header.flags & FLAG_IDLE_SWAP != 0 { Some(fields.u64()?) } else { None };
        fields.end(Self { request_id: header.request_id, action, process, idle_swap_ms })
    }

    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let idle_swap_ms = self.idle_swap_ms.filter(|_| self.action == Action::Create);
        let flags = if idle_swap_ms.is_some() { FLAG_IDLE_SWAP } else { 0 };
        frame(out, self.action.kind(), flags, self.request_id, |out| {
            put_process(out, &self.process);
            if let Some(idle_swap_ms) = idle_swap_ms {
                out.extend_from_slice(&idle_swap_ms.to_le_bytes());
            }
        });
    }
}

/// An order was carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Done {
    /// Of the order.
    pub request_id: u64,
}

impl Done {
    /// The answer in `body`.
    ///
    /// # Errors
    /// [`WireError::Trailing`] if there is a body.
    pub fn parse(header: &Header, body: &[u8]) -> Result<Self, WireError> {
        Fields::of(Kind::Done, body).end(Self { request_id: header.request_id })
    }

    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        frame(out, Kind::Done, 0, self.request_id, |_| {});
    }
}

/// Asks for captured output from a position on. Answered by one [`OutputChunk`] or a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Output {
    /// Of this question.
    pub request_id: u64,
    /// The process.
    pub process: ProcessId,
    /// Position in the stream of all output ever captured.
    pub from: u64,
    /// Whether to answer only when there is something after `from`, or the process has ended.
    pub follow: bool,
}

impl Output {
    /// The question in `body`.
    ///
    /// # Errors
    /// The field that is wrong.
    pub fn parse(header: &Header, body: &[u8]) -> Result<Self, WireError> {
        let mut fields = Fields::of(Kind::Output, body);
        let from = fields.u64()?;
        let process = fields.process()?;
        fields.end(Self { request_id: header.request_id, process, from, follow: header.flags & 1 != 0 })
    }

    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        frame(out, Kind::Output, u8::from(self.follow), self.request_id, |out| {
            out.extend_from_slice(&self.from.to_le_bytes());
            put_process(out, &self.process);
        });
    }
}

/// A piece of captured output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutputChunk<'a> {
    /// Of the question.
    pub request_id: u64,
    /// Position of the first byte: larger than asked for if older output was dropped.
    pub position: u64,
    /// The output; at most [`OUTPUT_CHUNK_BYTES`].
    pub bytes: &'a [u8],
    /// Whether the process has ended and nothing follows.
    pub ended: bool,
}

impl<'a> OutputChunk<'a> {
    /// The output in `body`.
    ///
    /// # Errors
    /// The field that is wrong.
    pub fn parse(header: &Header, body: &'a [u8]) -> Result<Self, WireError> {
        let mut fields = Fields::of(Kind::OutputChunk, body);
        let position = fields.u64()?;
        let bytes = fields.rest();
        Ok(Self { request_id: header.request_id, position, bytes, ended: header.flags & 1 != 0 })
    }

    /// Appends the frame.
    ///
    /// # Panics
    /// If `bytes` are more than [`OUTPUT_CHUNK_BYTES`]: who sends output cuts it into chunks first.
    pub fn encode(&self, out: &mut Vec<u8>) {
        assert!(self.bytes.len() <= OUTPUT_CHUNK_BYTES, "a chunk of {} bytes", self.bytes.len());
        frame(out, Kind::OutputChunk, u8::from(self.ended), self.request_id, |out| {
            out.extend_from_slice(&self.position.to_le_bytes());
            out.extend_from_slice(self.bytes);
        });
    }
}
