//! OPEN, OPENED, CLOSE, DEDICATE, HANDED_OVER: how a connection comes to a process.

use crate::limits::PAYLOAD_BYTES_MAX;
use crate::wire::fields::{Fields, frame, put_process};
use crate::wire::hello::check_limits;
use crate::wire::{Header, Kind, WireError};
use crate::{Phase, ProcessId};

/// Asks for a handle of a process. Answered by [`Opened`] or a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Open {
    /// Of this question.
    pub request_id: u64,
    /// The process.
    pub process: ProcessId,
    /// Largest payload that the client wants, in bytes; 0 takes the application's limit.
    pub payload_bytes_max: u32,
    /// Calls in flight that the client wants to this process; 0 takes the server's choice.
    pub in_flight_max: u32,
}

impl Open {
    /// The question in `body`.
    ///
    /// # Errors
    /// The field that is wrong.
    pub fn parse(header: &Header, body: &[u8]) -> Result<Self, WireError> {
        let (payload_bytes_max, in_flight_max, process) = parse_wish(Kind::Open, body)?;
        Ok(Self { request_id: header.request_id, process, payload_bytes_max, in_flight_max })
    }

    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        frame(out, Kind::Open, 0, self.request_id, |out| {
            put_wish(out, self.payload_bytes_max, self.in_flight_max, &self.process);
        });
    }
}

/// A handle to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    /// Of the question.
    pub request_id: u64,
    /// What requests name the process by; not 0, never given twice on one connection.
    pub handle: u32,
    /// Largest payload of a call to it, in bytes.
    pub payload_bytes_max: u32,
    /// Most calls in flight to it from this connection.
    pub in_flight_max: u32,
    /// Most workers that it can have.
    pub workers_max: u32,
    /// Its phase when the handle was given.
    pub phase: Phase,
}

impl Opened {
    /// The handle in `body`.
    ///
    /// # Errors
    /// The field that is wrong.
    pub fn parse(header: &Header, body: &[u8]) -> Result<Self, WireError> {
        let mut fields = Fields::of(Kind::Opened, body);
        let opened = Self {
            request_id: header.request_id,
            handle: fields.u32()?,
            payload_bytes_max: fields.u32()?,
            in_flight_max: fields.u32()?,
            workers_max: fields.u32()?,
            phase: phase(&mut fields)?,
        };
        if opened.handle == 0 {
            return Err(WireError::Value { field: "the handle", value: 0 });
        }
        check_limits(opened.payload_bytes_max, opened.in_flight_max, u64::MAX)?;
        fields.end(opened)
    }

    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        frame(out, Kind::Opened, 0, self.request_id, |out| {
            out.extend_from_slice(&self.handle.to_le_bytes());
            out.extend_from_slice(&self.payload_bytes_max.to_le_bytes());
            out.extend_from_slice(&self.in_flight_max.to_le_bytes());
            out.extend_from_slice(&self.workers_max.to_le_bytes());
            out.extend_from_slice(&[self.phase as u8, 0, 0, 0]);
        });
    }
}

/// Gives a handle back. Calls in flight on it are still answered; this frame is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Close {
    /// The handle.
    pub handle: u32,
}

impl Close {
    /// The handle in `body`.
    ///
    /// # Errors
    /// The field that is wrong.
    pub fn parse(_header: &Header, body: &[u8]) -> Result<Self, WireError> {
        let mut fields = Fields::of(Kind::Close, body);
        let handle = fields.u32()?;
        fields.end(Self { handle })
    }

    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        frame(out, Kind::Close, 0, 0, |out| out.extend_from_slice(&self.handle.to_le_bytes()));
    }
}

/// Asks that a worker takes this connection. The client sends nothing more until the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dedicate {
    /// Of this question.
    pub request_id: u64,
    /// The process.
    pub process: ProcessId,
    /// As in [`Open`].
    pub payload_bytes_max: u32,
    /// As in [`Open`].
    pub in_flight_max: u32,
}

impl Dedicate {
    /// The question in `body`.
    ///
    /// # Errors
    /// The field that is wrong.
    pub fn parse(header: &Header, body: &[u8]) -> Result<Self, WireError> {
        let (payload_bytes_max, in_flight_max, process) = parse_wish(Kind::Dedicate, body)?;
        Ok(Self { request_id: header.request_id, process, payload_bytes_max, in_flight_max })
    }

    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        frame(out, Kind::Dedicate, 0, self.request_id, |out| {
            put_wish(out, self.payload_bytes_max, self.in_flight_max, &self.process);
        });
    }
}

/// The first frame of the worker that took the connection; its limits replace those of the welcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HandedOver {
    /// Of the question.
    pub request_id: u64,
    /// Most bytes of one payload, in both directions.
    pub payload_bytes_max: u32,
    /// Most calls in flight.
    pub in_flight_max: u32,
    /// Most payload bytes of calls in flight; at least `payload_bytes_max`.
    pub window_bytes: u64,
    /// The phase of the process.
    pub phase: Phase,
}

impl HandedOver {
    /// The worker's answer in `body`.
    ///
    /// # Errors
    /// The field that is wrong.
    pub fn parse(header: &Header, body: &[u8]) -> Result<Self, WireError> {
        let mut fields = Fields::of(Kind::HandedOver, body);
        let answer = Self {
            request_id: header.request_id,
            payload_bytes_max: fields.u32()?,
            in_flight_max: fields.u32()?,
            window_bytes: fields.u64()?,
            phase: phase(&mut fields)?,
        };
        check_limits(answer.payload_bytes_max, answer.in_flight_max, answer.window_bytes)?;
        fields.end(answer)
    }

    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        frame(out, Kind::HandedOver, 0, self.request_id, |out| {
            out.extend_from_slice(&self.payload_bytes_max.to_le_bytes());
            out.extend_from_slice(&self.in_flight_max.to_le_bytes());
            out.extend_from_slice(&self.window_bytes.to_le_bytes());
            out.extend_from_slice(&[self.phase as u8, 0, 0, 0]);
        });
    }
}

fn parse_wish(kind: Kind, body: &[u8]) -> Result<(u32, u32, ProcessId), WireError> {
    let mut fields = Fields::of(kind, body);
    let payload_bytes_max = fields.u32()?;
    let in_flight_max = fields.u32()?;
    if payload_bytes_max > PAYLOAD_BYTES_MAX {
        return Err(WireError::Value { field: "payload_bytes_max", value: u64::from(payload_bytes_max) });
    }
    let process = fields.process()?;
    fields.end((payload_bytes_max, in_flight_max, process))
}

fn put_wish(out: &mut Vec<u8>, payload_bytes_max: u32, in_flight_max: u32, process: &ProcessId) {
    out.extend_from_slice(&payload_bytes_max.to_le_bytes());
    out.extend_from_slice(&in_flight_max.to_le_bytes());
    put_process(out, process);
}

/// One byte of phase and three of zero.
fn phase(fields: &mut Fields<'_>) -> Result<Phase, WireError> {
    let code = fields.u8()?;
    fields.zeros::<3>("the bytes after the phase")?;
    Phase::from_word(u64::from(code)).ok_or(WireError::Value { field: "the phase", value: u64::from(code) })
}
