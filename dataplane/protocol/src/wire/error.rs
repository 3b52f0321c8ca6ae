//! What can be wrong with the bytes of a frame. Each of these ends the connection: after it nothing can be read with sense.

use crate::NameError;
use crate::wire::Side;

/// Why bytes are not a frame of this protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// Bytes 6 and 7 of the header are not zero.
    #[error(
        "bytes 6 and 7 of a frame's header must be 0, they are {value:#06x}: is the peer a praas of another version?"
    )]
    HeaderReserved {
        /// What stands there.
        value: u16,
    },
    /// A kind that does not exist and that may not be skipped.
    #[error("{code:#04x} is no kind of frame in this version; kinds from 0x80 on may be skipped, this one may not")]
    UnknownKind {
        /// The kind's number.
        code: u8,
    },
    /// A frame that this side never sends.
    #[error("{kind} is never sent by the {sender}")]
    WrongSide {
        /// The frame's name.
        kind: &'static str,
        /// Who sent it.
        sender: Side,
    },
    /// Flag bits that this kind of frame does not have.
    #[error("{kind} has no meaning for the flag bits {flags:#04x}")]
    UnknownFlags {
        /// The frame's name.
        kind: &'static str,
        /// The bits without a meaning.
        flags: u8,
    },
    /// The header's request id is 0 where it must not be, or the reverse.
    #[error("{kind} has the request id {request_id}: it must {rule}")]
    RequestId {
        /// The frame's name.
        kind: &'static str,
        /// The id in its header.
        request_id: u64,
        /// What is wanted.
        rule: &'static str,
    },
    /// The body is longer than this kind of frame ever is.
    #[error("{kind} announces {actual_bytes} bytes, it never has more than {limit_bytes}")]
    BodyTooLong {
        /// The frame's name.
        kind: &'static str,
        /// Announced bytes of the body.
        actual_bytes: u32,
        /// Most that it can have.
        limit_bytes: u32,
    },
    /// The body ends before its fields do.
    #[error("{kind} has {actual_bytes} bytes, but needs at least {needed_bytes}")]
    BodyTooShort {
        /// The frame's name.
        kind: &'static str,
        /// Bytes of the body.
        actual_bytes: u64,
        /// Bytes that its fields take, as far as they were read.
        needed_bytes: u64,
    },
    /// Bytes follow the last field.
    #[error("{kind} has {extra_bytes} bytes after its last field")]
    Trailing {
        /// The frame's name.
        kind: &'static str,
        /// How many.
        extra_bytes: u64,
    },
    /// The payload is larger than this connection allows.
    #[error("a payload of {actual_bytes} bytes was announced; this connection allows {limit_bytes}")]
    PayloadTooLarge {
        /// Announced bytes.
        actual_bytes: u32,
        /// The connection's limit.
        limit_bytes: u32,
    },
    /// A text is longer than its field allows.
    #[error("{field} has {actual_bytes} bytes, at most {limit_bytes} are allowed")]
    TextTooLong {
        /// The field.
        field: &'static str,
        /// Its bytes.
        actual_bytes: usize,
        /// Most that it can have.
        limit_bytes: usize,
    },
    /// A text is not UTF-8.
    #[error("{field} is not UTF-8")]
    NotText {
        /// The field.
        field: &'static str,
    },
    /// A name breaks the rules of names.
    #[error("{field}: {reason}")]
    NotAName {
        /// The field.
        field: &'static str,
        /// How.
        reason: NameError,
    },
    /// A number that has no meaning in its field.
    #[error("{field} cannot be {value}")]
    Value {
        /// The field.
        field: &'static str,
        /// What stands there.
        value: u64,
    },
    /// The first frame does not start as a praas connection does.
    #[error("the peer does not speak the praas protocol: its HELLO lacks the magic bytes")]
    NotPraas,
}
