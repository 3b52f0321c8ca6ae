//! REQUEST and CANCEL: a call, and the word that its caller no longer waits.
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 16 | 8 | function id |
//! | 24 | 8 | time remaining in ns; 0 = no deadline |
//! | 32 | 4 | handle; 0 on a dedicated connection |
//! | 36 | 16 | idempotency key, if flag 1 |
//! | … | 16 | root id, if flag 2 |
//! | … | 64 | principal, if flag 4: length, then the name, then zeros |
//! | … | 1 | durability, if flag 8 |
//! | … | | payload, to the end of the frame |
//!
//! Flag 16 says that the call may run again if it was lost; it stands only beside flag 1.
//!
//! The flags alone say where the payload starts, so a receiver knows it from the header.

use crate::limits::{NAME_BYTES_MAX, PAYLOAD_BYTES_MAX, WIRE_REQUEST_HEAD_BYTES, WIRE_REQUEST_HEAD_BYTES_MAX};
use crate::wire::fields::{Fields, frame};
use crate::wire::{HEADER_BYTES, Header, Kind, WireError};
use crate::{FunctionId, Idempotency, IdempotencyKey, Name};

/// Bytes of the longest REQUEST head, header included.
pub const REQUEST_HEAD_BYTES_MAX: usize = WIRE_REQUEST_HEAD_BYTES_MAX;

/// Flag: an idempotency key follows.
pub const FLAG_IDEMPOTENCY_KEY: u8 = 1;
/// Flag: a root id follows.
pub const FLAG_ROOT: u8 = 2;
/// Flag: a principal follows.
pub const FLAG_PRINCIPAL: u8 = 4;
/// Flag: a durability level follows.
pub const FLAG_DURABILITY: u8 = 8;

/// Flag: run the call again if the worker that ran it first has died. Only with an idempotency key; it has no field.
pub const FLAG_RERUN_LOST: u8 = 16;

const PRINCIPAL_BYTES: usize = 1 + NAME_BYTES_MAX;

/// How durable the effects of a call must be before its caller hears of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Durability {
    /// Kept in memory.
    Memory = 0,
    /// Kept in the last checkpoint.
    Checkpoint = 1,
    /// Kept in the log.
    Logged = 2,
}

impl Durability {
    /// The level with this number, if there is one.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Memory),
            1 => Some(Self::Checkpoint),
            2 => Some(Self::Logged),
            _ => None,
        }
    }
}

/// A call, without its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Chosen by the client: larger than every one before on this connection, not 0.
    pub request_id: u64,
    /// From OPENED; 0 on a dedicated connection.
    pub handle: u32,
    /// Which function.
    pub function: FunctionId,
    /// Time until the caller's deadline in nanoseconds; 0 is none.
    pub time_remaining_ns: u64,
    /// What makes a repetition of this call the same call.
    pub idempotency_key: Option<[u8; 16]>,
    /// Whether the call may run again if the worker that ran it first has died. Without a key it means nothing.
    pub rerun_lost: bool,
    /// The call at the root of the tree of calls that this one belongs to.
    pub root: Option<[u8; 16]>,
    /// In whose name, if not the token's; believed only from peers that may speak for others.
    pub principal: Option<Name>,
    /// How durable, if not as the process is configured.
    pub durability: Option<Durability>,
}

impl Request {
    /// A call without optional fields.
    #[must_use]
    pub fn new(request_id: u64, handle: u32, function: FunctionId, time_remaining_ns: u64) -> Self {
        Self {
            request_id,
            handle,
            function,
            time_remaining_ns,
            idempotency_key: None,
            rerun_lost: false,
            root: None,
            principal: None,
            durability: None,
        }
    }

    /// The call with an idempotency key, or with none.
    #[must_use]
    #[inline]
    pub fn with_idempotency(mut self, idempotency: Option<Idempotency>) -> Self {
        self.idempotency_key = idempotency.map(|idempotency| idempotency.key.to_bytes());
        self.rerun_lost = idempotency.is_some_and(|idempotency| idempotency.rerun_lost);
        self
    }

    /// What it says of its key, if it has one.
    #[must_use]
    pub fn idempotency(&self) -> Option<Idempotency> {
        let rerun_lost = self.rerun_lost;
        self.idempotency_key.map(|key| Idempotency { key: IdempotencyKey::from_bytes(key), rerun_lost })
    }

    /// The call and its payload. `body` is everything after the header.
    ///
    /// # Errors
    /// [`WireError`] if a field has no meaning or the body is shorter than its fields.
    pub fn parse<'a>(header: &Header, body: &'a [u8]) -> Result<(Self, &'a [u8]), WireError> {
        let head_bytes = head_body_bytes(header.flags) as usize;
        let Some((head, payload)) = body.split_at_checked(head_bytes) else {
            return Err(too_short(body.len(), head_bytes));
        };
        Ok((Self::parse_head(header, head)?, payload))
    }

    /// The call whose fields `head` starts with: what lies between the header and the payload.
    ///
    /// # Errors
    /// As [`Request::parse`].
    #[inline]
    pub fn parse_head(header: &Header, head: &[u8]) -> Result<Self, WireError> {
        let Some((function, rest)) = head.split_first_chunk::<8>() else { return Err(too_short(head.len(), 20)) };
        let Some((time, rest)) = rest.split_first_chunk::<8>() else { return Err(too_short(head.len(), 20)) };
        let Some((handle, rest)) = rest.split_first_chunk::<4>() else { return Err(too_short(head.len(), 20)) };
        let mut request = Self::new(
            header.request_id,
            u32::from_le_bytes(*handle),
            FunctionId(u64::from_le_bytes(*function)),
            u64::from_le_bytes(*time),
        );
        if header.flags != 0 {
            request.parse_optional(header.flags, rest)?;
        }
        Ok(request)
    }

    fn parse_optional(&mut self, flags: u8, rest: &[u8]) -> Result<(), WireError> {
        let mut fields = Fields::of(Kind::Request, rest);
        if flags & FLAG_IDEMPOTENCY_KEY != 0 {
            self.idempotency_key = Some(fields.array()?);
            self.rerun_lost = flags & FLAG_RERUN_LOST != 0;
        } else if flags & FLAG_RERUN_LOST != 0 {
            return Err(WireError::Value { field: "the flags of a call without a key", value: u64::from(flags) });
        }
        if flags & FLAG_ROOT != 0 {
            self.root = Some(fields.array()?);
        }
        if flags & FLAG_PRINCIPAL != 0 {
            self.principal = Some(principal(fields.array()?)?);
        }
        if flags & FLAG_DURABILITY != 0 {
            let code = fields.u8()?;
            let level = Durability::from_code(code);
            self.durability = Some(level.ok_or(WireError::Value { field: "the durability", value: u64::from(code) })?);
        }
        Ok(())
    }

    /// Writes everything before the payload into `into` and returns it; the caller sends the payload after it.
    ///
    /// # Panics
    /// If `payload_bytes` is more than [`PAYLOAD_BYTES_MAX`], which a caller has checked long before.
    #[inline]
    pub fn encode_head<'b>(&self, payload_bytes: u32, into: &'b mut [u8; REQUEST_HEAD_BYTES_MAX]) -> &'b [u8] {
        assert!(payload_bytes <= PAYLOAD_BYTES_MAX, "a payload of {payload_bytes} bytes");
        let flags = self.flags();
        let body_bytes = head_body_bytes(flags) + payload_bytes;
        into[..HEADER_BYTES].copy_from_slice(&Header::encode(Kind::Request, flags, self.request_id, body_bytes));
        into[16..24].copy_from_slice(&self.function.0.to_le_bytes());
        into[24..32].copy_from_slice(&self.time_remaining_ns.to_le_bytes());
        into[32..36].copy_from_slice(&self.handle.to_le_bytes());
        if flags != 0 {
            self.encode_optional(&mut into[WIRE_REQUEST_HEAD_BYTES..]);
        }
        &into[..head_bytes(flags)]
    }

    fn encode_optional(&self, into: &mut [u8]) {
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            into[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        if let Some(key) = &self.idempotency_key {
            put(key);
        }
        if let Some(root) = &self.root {
            put(root);
        }
        if let Some(principal) = &self.principal {
            let text = principal.as_str();
            let mut field = [0; PRINCIPAL_BYTES];
            field[0] = u8::try_from(text.len()).expect("a name is short");
            field[1..=text.len()].copy_from_slice(text.as_bytes());
            put(&field);
        }
        if let Some(level) = self.durability {
            put(&[level as u8]);
        }
    }

    /// Appends the whole frame, payload included.
    ///
    /// # Panics
    /// As [`Request::encode_head`].
    pub fn encode(&self, payload: &[u8], out: &mut Vec<u8>) {
        let payload_bytes = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        out.extend_from_slice(self.encode_head(payload_bytes, &mut [0; REQUEST_HEAD_BYTES_MAX]));
        out.extend_from_slice(payload);
    }

    fn flags(&self) -> u8 {
        let bit = |present: bool, flag: u8| if present { flag } else { 0 };
        bit(self.idempotency_key.is_some(), FLAG_IDEMPOTENCY_KEY)
            | bit(self.rerun_lost && self.idempotency_key.is_some(), FLAG_RERUN_LOST)
            | bit(self.root.is_some(), FLAG_ROOT)
            | bit(self.principal.is_some(), FLAG_PRINCIPAL)
            | bit(self.durability.is_some(), FLAG_DURABILITY)
    }
}

/// The caller no longer waits for a call. The call is still answered, once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cancel {
    /// The call.
    pub request_id: u64,
}

impl Cancel {
    /// The cancel in `body`.
    ///
    /// # Errors
    /// [`WireError::Trailing`] if there is a body.
    pub fn parse(header: &Header, body: &[u8]) -> Result<Self, WireError> {
        Fields::of(Kind::Cancel, body).end(Self { request_id: header.request_id })
    }

    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        frame(out, Kind::Cancel, 0, self.request_id, |_| {});
    }
}

/// Bytes of a REQUEST's head with these flags, header included.
#[inline]
pub(crate) fn head_bytes(flags: u8) -> usize {
    HEADER_BYTES + head_body_bytes(flags) as usize
}

/// Bytes between header and payload of a REQUEST with these flags.
#[inline]
pub(crate) fn head_body_bytes(flags: u8) -> u32 {
    u32::from(BODY_HEAD_BYTES[usize::from(flags & 0x0f)])
}

const BODY_HEAD_BYTES: [u8; 16] = {
    let mut table = [0; 16];
    let mut flags: u8 = 0;
    while flags < 16 {
        let key = 16 * (flags & FLAG_IDEMPOTENCY_KEY != 0) as u8;
        let root = 16 * (flags & FLAG_ROOT != 0) as u8;
        let principal = 64 * (flags & FLAG_PRINCIPAL != 0) as u8;
        let durability = (flags & FLAG_DURABILITY != 0) as u8;
        table[flags as usize] = 20 + key + root + principal + durability;
        flags += 1;
    }
    table
};

const _: () = {
    assert!(PRINCIPAL_BYTES == 64);
    assert!(HEADER_BYTES + BODY_HEAD_BYTES[0] as usize == WIRE_REQUEST_HEAD_BYTES);
    assert!(HEADER_BYTES + BODY_HEAD_BYTES[15] as usize == REQUEST_HEAD_BYTES_MAX);
};

fn principal(field: [u8; PRINCIPAL_BYTES]) -> Result<Name, WireError> {
    let name = "the principal";
    let (text, padding) = field[1..]
        .split_at_checked(usize::from(field[0]))
        .ok_or(WireError::Value { field: "the principal's length", value: u64::from(field[0]) })?;
    if let Some(byte) = padding.iter().find(|byte| **byte != 0) {
        return Err(WireError::Value { field: "the principal's padding", value: u64::from(*byte) });
    }
    let text = std::str::from_utf8(text).map_err(|_| WireError::NotText { field: name })?;
    text.parse().map_err(|reason| WireError::NotAName { field: name, reason })
}

#[cold]
fn too_short(actual_bytes: usize, needed_bytes: usize) -> WireError {
    let kind = Kind::Request.name();
    WireError::BodyTooShort { kind, actual_bytes: actual_bytes as u64, needed_bytes: needed_bytes as u64 }
}
