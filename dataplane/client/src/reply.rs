//! What a function returned.

use std::fmt;
use std::ops::Deref;

use praas_shm::client_lane::AnswerPayload;

use crate::remote::{Inline, ReplyBytes};

/// A function's output.
///
/// Within a trust domain a large one lies in the lane's memory and is read there; its room is free again when this is
/// dropped. Across a trust boundary, and for small outputs, it is a private copy. It starts at a multiple of 16 bytes.
pub struct Reply {
    bytes: Bytes,
}

enum Bytes {
    /// Inline, or in place.
    Readable(AnswerPayload),
    /// A copy that begins at `start`: 0 with every common allocator.
    Copied { bytes: Vec<u8>, start: usize },
    /// From the network, and small.
    Received(Inline),
}

impl Reply {
    #[inline]
    pub(crate) fn new(payload: AnswerPayload) -> Self {
        if payload.as_slice().is_some() {
            return Self { bytes: Bytes::Readable(payload) };
        }
        Self { bytes: aligned_copy(&payload) }
    }

    /// An output that came over the network.
    #[inline]
    pub(crate) fn received(bytes: ReplyBytes) -> Self {
        Self {
            bytes: match bytes {
                ReplyBytes::Inline(inline) => Bytes::Received(inline),
                ReplyBytes::Owned(bytes) => aligned(bytes),
            },
        }
    }

    /// The output.
    #[must_use]
    #[inline]
    pub fn as_slice(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Readable(payload) => payload.as_slice().unwrap_or_default(),
            Bytes::Copied { bytes, start } => &bytes[*start..],
            Bytes::Received(inline) => inline.as_slice(),
        }
    }

    /// The output as a vector of its own; no copy when it is one already.
    #[must_use]
    pub fn into_vec(self) -> Vec<u8> {
        match self.bytes {
            Bytes::Readable(payload) => private_copy(&payload),
            Bytes::Copied { mut bytes, start } => {
                bytes.drain(..start);
                bytes
            }
            Bytes::Received(inline) => inline.as_slice().to_vec(),
        }
    }

    /// Moves the output to `memory`, whose own memory is used for a copy; without one if the output is a vector already.
    pub(crate) fn move_into(self, memory: &mut Vec<u8>) {
        match self.bytes {
            Bytes::Copied { bytes, start: 0 } => *memory = bytes,
            _ => {
                memory.clear();
                memory.extend_from_slice(self.as_slice());
            }
        }
    }

    /// Its size in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.as_slice().len()
    }

    /// Whether it has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Typed replies are read where they lie, so a copy is aligned as the lane's blocks are.
const REPLY_ALIGNMENT: usize = 16;

fn aligned_copy(payload: &AnswerPayload) -> Bytes {
    aligned(private_copy(payload))
}

/// `bytes` where they begin as replies do; every common allocator has them there.
fn aligned(bytes: Vec<u8>) -> Bytes {
    if bytes.as_ptr().align_offset(REPLY_ALIGNMENT) == 0 {
        return Bytes::Copied { bytes, start: 0 };
    }
    let mut roomy = vec![0; bytes.len() + REPLY_ALIGNMENT];
    let start = roomy.as_ptr().align_offset(REPLY_ALIGNMENT).min(REPLY_ALIGNMENT);
    roomy.truncate(start + bytes.len());
    roomy[start..].copy_from_slice(&bytes);
    Bytes::Copied { bytes: roomy, start }
}

/// The bytes of an answer in memory of our own.
pub(crate) fn private_copy(payload: &AnswerPayload) -> Vec<u8> {
    let mut bytes = vec![0; payload.len()];
    payload.copy_to(&mut bytes);
    bytes
}

impl Deref for Reply {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl AsRef<[u8]> for Reply {
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Reply").field("bytes", &self.len()).finish()
    }
}
