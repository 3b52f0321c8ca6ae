//! SESSION, SESSION_OPENED: a client begins the session as which it sends and receives messages, or goes on with one.

use crate::Name;
use crate::control::SessionTicket;
use crate::limits::PAYLOAD_BYTES_MAX;
use crate::message::SessionId;
use crate::wire::fields::{Fields, frame, put_text};
use crate::wire::hello::check_limits;
use crate::wire::{Header, Kind, WireError};

const FLAG_RESUME: u8 = 1;
const FLAG_RESUMED: u8 = 1;

/// Begins a session, or goes on with one. Answered by [`SessionOpened`] or a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenSession {
    /// Of this question.
    pub request_id: u64,
    /// Largest message that is to be sent or received, in bytes; 0 takes the application's limit.
    pub payload_bytes_max: u32,
    /// The session to go on with; `None` begins one.
    pub resume: Option<SessionTicket>,
    /// The application with whose processes messages are exchanged.
    pub application: Name,
}

impl OpenSession {
    /// The question in `body`.
    ///
    /// # Errors
    /// The field that is wrong.
    pub fn parse(header: &Header, body: &[u8]) -> Result<Self, WireError> {
        let mut fields = Fields::of(Kind::Session, body);
        let payload_bytes_max = fields.u32()?;
        if payload_bytes_max > PAYLOAD_BYTES_MAX {
            return Err(WireError::Value { field: "payload_bytes_max", value: u64::from(payload_bytes_max) });
        }
        let resume = if header.flags & FLAG_RESUME == 0 { None } else { Some(ticket(&mut fields)?) };
        let application = fields.name("the application")?;
        fields.end(Self { request_id: header.request_id, payload_bytes_max, resume, application })
    }

    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let flags = if self.resume.is_some() { FLAG_RESUME } else { 0 };
        frame(out, Kind::Session, flags, self.request_id, |out| {
            out.extend_from_slice(&self.payload_bytes_max.to_le_bytes());
            if let Some(ticket) = &self.resume {
                put_ticket(out, ticket);
            }
            put_text(out, self.application.as_str());
        });
    }
}

/// A session, and a handle for calls to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionOpened {
    /// Of the question.
    pub request_id: u64,
    /// What requests name the session by; not 0, never given twice on one connection.
    pub handle: u32,
    /// Largest payload of a call to it, in bytes.
    pub payload_bytes_max: u32,
    /// Most calls in flight to it from this connection.
    pub in_flight_max: u32,
    /// Which life of the session its messages carry.
    pub incarnation: u64,
    /// What the session is known by, and what it is gone on with.
    pub ticket: SessionTicket,
    /// Whether it is the session that was to be resumed, with its mailbox.
    pub resumed: bool,
}

impl SessionOpened {
    /// The session in `body`.
    ///
    /// # Errors
    /// The field that is wrong.
    pub fn parse(header: &Header, body: &[u8]) -> Result<Self, WireError> {
        let mut fields = Fields::of(Kind::SessionOpened, body);
        let opened = Self {
            request_id: header.request_id,
            handle: fields.u32()?,
            payload_bytes_max: fields.u32()?,
            in_flight_max: fields.u32()?,
            incarnation: fields.u64()?,
            ticket: ticket(&mut fields)?,
            resumed: header.flags & FLAG_RESUMED != 0,
        };
        if opened.handle == 0 {
            return Err(WireError::Value { field: "the handle", value: 0 });
        }
        check_limits(opened.payload_bytes_max, opened.in_flight_max, u64::MAX)?;
        fields.end(opened)
    }

    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let flags = if self.resumed { FLAG_RESUMED } else { 0 };
        frame(out, Kind::SessionOpened, flags, self.request_id, |out| {
            out.extend_from_slice(&self.handle.to_le_bytes());
            out.extend_from_slice(&self.payload_bytes_max.to_le_bytes());
            out.extend_from_slice(&self.in_flight_max.to_le_bytes());
            out.extend_from_slice(&self.incarnation.to_le_bytes());
            put_ticket(out, &self.ticket);
        });
    }
}

fn ticket(fields: &mut Fields<'_>) -> Result<SessionTicket, WireError> {
    let session = SessionId(u128::from_le_bytes(fields.array()?));
    Ok(SessionTicket { session, secret: u128::from_le_bytes(fields.array()?) })
}

fn put_ticket(out: &mut Vec<u8>, ticket: &SessionTicket) {
    out.extend_from_slice(&ticket.session.0.to_le_bytes());
    out.extend_from_slice(&ticket.secret.to_le_bytes());
}
