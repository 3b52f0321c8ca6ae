//! The 16 bytes that every frame starts with.
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 4 | length of what follows the header |
//! | 4 | 1 | kind |
//! | 5 | 1 | flags of that kind |
//! | 6 | 2 | 0 |
//! | 8 | 8 | request id |

use crate::limits::WIRE_HEADER_BYTES;
use crate::wire::kind::{IdRule, SKIPPABLE_KIND_MIN};
use crate::wire::{Kind, Side, WireError, request};

/// Bytes of a header.
pub const HEADER_BYTES: usize = WIRE_HEADER_BYTES;

/// A checked header: its kind, flags, id and length belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Bytes that follow the header.
    pub body_bytes: u32,
    /// The kind; `None` is one that this version does not know and that may be skipped.
    pub kind: Option<Kind>,
    /// Flag bits; those without a meaning are 0.
    pub flags: u8,
    /// Whose frame it is, or 0.
    pub request_id: u64,
}

impl Header {
    /// The header in `bytes`, if everything in it goes together. The payload's limit is the decoder's to check.
    ///
    /// # Errors
    /// [`WireError`] that says which field is wrong.
    #[inline]
    pub fn parse(bytes: &[u8; HEADER_BYTES]) -> Result<Self, WireError> {
        let [l0, l1, l2, l3, code, flags, z0, z1, i0, i1, i2, i3, i4, i5, i6, i7] = *bytes;
        let header = Self {
            body_bytes: u32::from_le_bytes([l0, l1, l2, l3]),
            kind: Kind::from_code(code),
            flags,
            request_id: u64::from_le_bytes([i0, i1, i2, i3, i4, i5, i6, i7]),
        };
        if z0 | z1 != 0 {
            return Err(WireError::HeaderReserved { value: u16::from_le_bytes([z0, z1]) });
        }
        match header.kind {
            Some(kind) => header.check(kind)?,
            None => header.check_unknown(code)?,
        }
        Ok(header)
    }

    /// The bytes of a frame's header.
    #[inline]
    pub(crate) fn encode(kind: Kind, flags: u8, request_id: u64, body_bytes: u32) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..4].copy_from_slice(&body_bytes.to_le_bytes());
        bytes[4] = kind.code();
        bytes[5] = flags;
        bytes[8..].copy_from_slice(&request_id.to_le_bytes());
        bytes
    }

    /// Bytes of the frame up to its payload, header included; all of it if its kind has no payload.
    #[inline]
    #[must_use]
    pub fn head_bytes(&self) -> usize {
        match self.kind {
            Some(Kind::Request) => request::head_bytes(self.flags),
            Some(Kind::Response) => crate::limits::WIRE_RESPONSE_HEAD_BYTES,
            Some(_) => HEADER_BYTES + self.body_bytes as usize,
            None => HEADER_BYTES,
        }
    }

    /// Bytes of the payload of a REQUEST or RESPONSE; 0 for other kinds.
    #[inline]
    #[must_use]
    pub fn payload_bytes(&self) -> u32 {
        let fixed = match self.kind {
            Some(Kind::Request) => request::head_body_bytes(self.flags),
            Some(Kind::Response) => crate::wire::response::BODY_HEAD_BYTES,
            _ => return 0,
        };
        self.body_bytes.saturating_sub(fixed)
    }

    /// Whether `sender` may send this kind of frame at all.
    ///
    /// # Errors
    /// [`WireError::WrongSide`] if not.
    #[inline]
    pub fn check_sender(&self, sender: Side) -> Result<(), WireError> {
        match self.kind {
            Some(kind) if kind.facts().sender != sender => Err(WireError::WrongSide { kind: kind.name(), sender }),
            _ => Ok(()),
        }
    }

    #[inline]
    fn check(&self, kind: Kind) -> Result<(), WireError> {
        let facts = kind.facts();
        if self.flags & !facts.flags != 0 {
            return Err(WireError::UnknownFlags { kind: facts.name, flags: self.flags & !facts.flags });
        }
        let needed = match kind {
            Kind::Request => request::head_body_bytes(self.flags),
            _ => facts.body_bytes_min,
        };
        if self.body_bytes < needed {
            return Err(WireError::BodyTooShort {
                kind: facts.name,
                actual_bytes: u64::from(self.body_bytes),
                needed_bytes: u64::from(needed),
            });
        }
        if self.body_bytes > facts.body_bytes_max {
            return Err(WireError::BodyTooLong {
                kind: facts.name,
                actual_bytes: self.body_bytes,
                limit_bytes: facts.body_bytes_max,
            });
        }
        let rule = match (facts.id, self.request_id) {
            (IdRule::Zero, 1..) => "be 0",
            (IdRule::New | IdRule::Earlier, 0) => "not be 0",
            _ => return Ok(()),
        };
        Err(WireError::RequestId { kind: facts.name, request_id: self.request_id, rule })
    }

    fn check_unknown(&self, code: u8) -> Result<(), WireError> {
        let limit_bytes = crate::limits::WIRE_CONTROL_BODY_BYTES_MAX;
        if code < SKIPPABLE_KIND_MIN {
            Err(WireError::UnknownKind { code })
        } else if self.body_bytes > limit_bytes {
            Err(WireError::BodyTooLong { kind: "a skipped frame", actual_bytes: self.body_bytes, limit_bytes })
        } else {
            Ok(())
        }
    }
}
