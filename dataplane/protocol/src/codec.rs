//! Control messages as bytes: postcard, one message a packet, never more than [`CONTROL_MESSAGE_BYTES_MAX`].
//!
//! Only the Unix control sockets of one host speak this; the network protocol has a byte-level format of its own.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::limits::CONTROL_MESSAGE_BYTES_MAX;

/// Why a control message could not be encoded or decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The encoded message is larger than a packet may be.
    #[error("the control message has {actual_bytes} bytes, the limit is {CONTROL_MESSAGE_BYTES_MAX}")]
    TooLarge {
        /// Bytes of the refused message.
        actual_bytes: usize,
    },
    /// The bytes are not a message of the expected kind.
    #[error("not a control message of this protocol version: {reason}")]
    Undecodable {
        /// What the decoder found.
        reason: String,
    },
}

/// The bytes of `message`.
///
/// # Errors
/// [`CodecError::TooLarge`] when it does not fit one packet.
pub fn encode<M: Serialize>(message: &M) -> Result<Vec<u8>, CodecError> {
    let bytes = postcard::to_stdvec(message).map_err(|error| CodecError::Undecodable { reason: error.to_string() })?;
    if bytes.len() > CONTROL_MESSAGE_BYTES_MAX {
        return Err(CodecError::TooLarge { actual_bytes: bytes.len() });
    }
    Ok(bytes)
}

/// The message in `bytes`, which must contain it and nothing else.
///
/// # Errors
/// [`CodecError::Undecodable`] for anything else.
pub fn decode<M: DeserializeOwned>(bytes: &[u8]) -> Result<M, CodecError> {
    if bytes.len() > CONTROL_MESSAGE_BYTES_MAX {
        return Err(CodecError::TooLarge { actual_bytes: bytes.len() });
    }
    let (message, rest) =
        postcard::take_from_bytes(bytes).map_err(|error| CodecError::Undecodable { reason: error.to_string() })?;
    if rest.is_empty() {
        Ok(message)
    } else {
        Err(CodecError::Undecodable { reason: format!("{} bytes follow the message", rest.len()) })
    }
}
