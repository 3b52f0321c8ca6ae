//! The payload of an answer that came over a socket: small ones inline, larger ones in memory of their own.

use praas_protocol::limits::REPLY_INLINE_BYTES;

/// Few bytes, aligned as replies are.
#[derive(Debug, Clone, Copy)]
#[repr(align(16))]
pub(crate) struct Inline {
    bytes: [u8; REPLY_INLINE_BYTES],
    length: u8,
}

impl Inline {
    #[inline]
    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

/// Bytes of a reply.
#[derive(Debug)]
pub(crate) enum ReplyBytes {
    /// Up to [`REPLY_INLINE_BYTES`].
    Inline(Inline),
    /// More.
    Owned(Vec<u8>),
}

impl ReplyBytes {
    /// A copy of `bytes`.
    #[inline]
    pub(crate) fn copied(bytes: &[u8]) -> Self {
        match u8::try_from(bytes.len()) {
            Ok(length) if bytes.len() <= REPLY_INLINE_BYTES => {
                let mut inline = Inline { bytes: [0; REPLY_INLINE_BYTES], length };
                inline.bytes[..bytes.len()].copy_from_slice(bytes);
                Self::Inline(inline)
            }
            _ => Self::Owned(bytes.to_vec()),
        }
    }

    /// A copy of `bytes` in memory that its caller gave.
    pub(crate) fn copied_into(mut memory: Vec<u8>, bytes: &[u8]) -> Self {
        memory.clear();
        memory.extend_from_slice(bytes);
        Self::Owned(memory)
    }

    /// The bytes.
    #[inline]
    pub(crate) fn as_slice(&self) -> &[u8] {
        match self {
            Self::Inline(inline) => inline.as_slice(),
            Self::Owned(bytes) => bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_any_size_read_as_they_came() {
        for size in [0, 1, REPLY_INLINE_BYTES, REPLY_INLINE_BYTES + 1, 255, 256, 5000] {
            let bytes: Vec<u8> = (0..size).map(|index| u8::try_from(index % 251).unwrap()).collect();
            let kept = ReplyBytes::copied(&bytes);
            assert_eq!(kept.as_slice(), bytes);
            assert_eq!(matches!(kept, ReplyBytes::Inline(_)), size <= REPLY_INLINE_BYTES);
        }
    }
}
