//! RESPONSE: how a call ended.
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 16 | 4 | outcome: a number of [`Outcome`] |
//! | 20 | 4 | detail, as the outcome says |
//! | 24 | 4 | more, as the outcome says |
//! | 28 | | payload, to the end of the frame |

use crate::Outcome;
use crate::limits::{PAYLOAD_BYTES_MAX, WIRE_RESPONSE_HEAD_BYTES};
use crate::wire::{HEADER_BYTES, Header, Kind, WireError};

/// Bytes of a RESPONSE head, header included.
pub const RESPONSE_HEAD_BYTES: usize = WIRE_RESPONSE_HEAD_BYTES;

pub(crate) const BODY_HEAD_BYTES: u32 = 12;

/// The answer to a call, without its payload. Its numbers are those of a lane's reply cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Response {
    /// Of the REQUEST.
    pub request_id: u64,
    /// A number of [`Outcome`]; kept as it came, since a later server may know more outcomes.
    pub outcome_code: u32,
    /// First word of detail.
    pub detail: u32,
    /// Second word of detail.
    pub more: u32,
}

impl Response {
    /// The outcome, if this version knows it.
    #[must_use]
    pub fn outcome(&self) -> Option<Outcome> {
        Outcome::from_code(self.outcome_code)
    }

    /// The answer and its payload. `body` is everything after the header.
    ///
    /// # Errors
    /// [`WireError::BodyTooShort`] if the body is shorter than its fields.
    pub fn parse<'a>(header: &Header, body: &'a [u8]) -> Result<(Self, &'a [u8]), WireError> {
        Ok((Self::parse_head(header, body)?, body.get(BODY_HEAD_BYTES as usize..).unwrap_or_default()))
    }

    /// The answer whose fields `head` starts with: what follows the header.
    ///
    /// # Errors
    /// As [`Response::parse`].
    #[inline]
    pub fn parse_head(header: &Header, head: &[u8]) -> Result<Self, WireError> {
        let Some([o0, o1, o2, o3, d0, d1, d2, d3, m0, m1, m2, m3]) = head.first_chunk().copied() else {
            let (kind, needed_bytes) = (Kind::Response.name(), u64::from(BODY_HEAD_BYTES));
            return Err(WireError::BodyTooShort { kind, actual_bytes: head.len() as u64, needed_bytes });
        };
        Ok(Self {
            request_id: header.request_id,
            outcome_code: u32::from_le_bytes([o0, o1, o2, o3]),
            detail: u32::from_le_bytes([d0, d1, d2, d3]),
            more: u32::from_le_bytes([m0, m1, m2, m3]),
        })
    }

    /// Everything before the payload; the caller sends the payload after it.
    ///
    /// # Panics
    /// If `payload_bytes` is more than [`PAYLOAD_BYTES_MAX`], which no lane can hold.
    #[inline]
    #[must_use]
    pub fn encode_head(&self, payload_bytes: u32) -> [u8; RESPONSE_HEAD_BYTES] {
        assert!(payload_bytes <= PAYLOAD_BYTES_MAX, "a payload of {payload_bytes} bytes");
        let mut head = [0; RESPONSE_HEAD_BYTES];
        let header = Header::encode(Kind::Response, 0, self.request_id, BODY_HEAD_BYTES + payload_bytes);
        head[..HEADER_BYTES].copy_from_slice(&header);
        head[16..20].copy_from_slice(&self.outcome_code.to_le_bytes());
        head[20..24].copy_from_slice(&self.detail.to_le_bytes());
        head[24..28].copy_from_slice(&self.more.to_le_bytes());
        head
    }

    /// Appends the whole frame, payload included.
    ///
    /// # Panics
    /// As [`Response::encode_head`].
    pub fn encode(&self, payload: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(&self.encode_head(u32::try_from(payload.len()).unwrap_or(u32::MAX)));
        out.extend_from_slice(payload);
    }
}
