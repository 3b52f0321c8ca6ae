//! The bytes of a request: as the caller gives them, and as a call keeps them until it is answered.
//!
//! A refused request is sent again, so a call must be able to repeat its payload. Whoever waits in place lends it for that
//! long; a call that outlives its caller's borrow keeps a copy, inline when it is small.

use praas_protocol::limits::REQUEST_INLINE_BYTES;

use crate::loan::Loan;

/// The payload of a call: borrowed bytes, owned bytes, or a [`Loan`].
#[derive(Debug)]
pub struct Payload<'a>(pub(crate) Given<'a>);

#[derive(Debug)]
pub(crate) enum Given<'a> {
    Borrowed(&'a [u8]),
    Owned(Vec<u8>),
    Loan(Loan),
}

impl Payload<'_> {
    /// The bytes, unless they are a loan's.
    #[inline]
    pub(crate) fn bytes(&self) -> Option<&[u8]> {
        match &self.0 {
            Given::Borrowed(bytes) => Some(bytes),
            Given::Owned(bytes) => Some(bytes),
            Given::Loan(_) => None,
        }
    }
}

impl<'a> Payload<'a> {
    /// The bytes, if they are the caller's.
    #[inline]
    pub(crate) fn borrowed(&self) -> Option<&'a [u8]> {
        match self.0 {
            Given::Borrowed(bytes) => Some(bytes),
            _ => None,
        }
    }
}

impl<'a> From<&'a [u8]> for Payload<'a> {
    #[inline]
    fn from(bytes: &'a [u8]) -> Self {
        Self(Given::Borrowed(bytes))
    }
}

impl<'a, const BYTES: usize> From<&'a [u8; BYTES]> for Payload<'a> {
    #[inline]
    fn from(bytes: &'a [u8; BYTES]) -> Self {
        Self(Given::Borrowed(bytes))
    }
}

impl<'a> From<&'a Vec<u8>> for Payload<'a> {
    #[inline]
    fn from(bytes: &'a Vec<u8>) -> Self {
        Self(Given::Borrowed(bytes))
    }
}

impl<'a> From<&'a str> for Payload<'a> {
    #[inline]
    fn from(text: &'a str) -> Self {
        Self(Given::Borrowed(text.as_bytes()))
    }
}

impl From<Vec<u8>> for Payload<'_> {
    #[inline]
    fn from(bytes: Vec<u8>) -> Self {
        Self(Given::Owned(bytes))
    }
}

impl From<String> for Payload<'_> {
    #[inline]
    fn from(text: String) -> Self {
        Self(Given::Owned(text.into_bytes()))
    }
}

impl From<Loan> for Payload<'_> {
    #[inline]
    fn from(loan: Loan) -> Self {
        Self(Given::Loan(loan))
    }
}

/// What a call keeps to send its request again.
#[derive(Debug)]
pub(crate) enum Kept<'a> {
    /// The caller lends it until the call has ended.
    Borrowed(&'a [u8]),
    /// A small copy.
    Small { bytes: [u8; REQUEST_INLINE_BYTES], length: u8 },
    /// The call's own.
    Owned(Vec<u8>),
    /// A loan that has not been sent, or came back.
    Loan(Loan),
    /// A loan that travels with the request; a refusal brings it back.
    Lent,
}

impl<'a> Kept<'a> {
    /// Keeps the caller's borrow.
    pub(crate) fn borrowing(payload: Payload<'a>) -> Self {
        match payload.0 {
            Given::Borrowed(bytes) => Self::Borrowed(bytes),
            Given::Owned(bytes) => Self::Owned(bytes),
            Given::Loan(loan) => Self::Loan(loan),
        }
    }

    /// The bytes, unless they are a loan's.
    #[inline]
    pub(crate) fn bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Borrowed(bytes) => Some(bytes),
            Self::Small { bytes, length } => Some(&bytes[..usize::from(*length)]),
            Self::Owned(bytes) => Some(bytes),
            Self::Loan(_) | Self::Lent => None,
        }
    }
}

impl Kept<'static> {
    /// Keeps nothing of the caller's: small payloads are copied inline, larger borrowed ones into a buffer.
    #[inline]
    pub(crate) fn detached(payload: Payload<'_>) -> Self {
        match payload.0 {
            Given::Borrowed(bytes) => match u8::try_from(bytes.len()) {
                Ok(length) if bytes.len() <= REQUEST_INLINE_BYTES => {
                    let mut small = [0; REQUEST_INLINE_BYTES];
                    small[..bytes.len()].copy_from_slice(bytes);
                    Self::Small { bytes: small, length }
                }
                _ => Self::Owned(bytes.to_vec()),
            },
            Given::Owned(bytes) => Self::Owned(bytes),
            Given::Loan(loan) => Self::Loan(loan),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_detached_payload_reads_as_given_whatever_its_size() {
        for bytes in [0, 1, REQUEST_INLINE_BYTES, REQUEST_INLINE_BYTES + 1, 255, 256, 5000] {
            let given: Vec<u8> = (0..bytes).map(|index| u8::try_from(index % 251).unwrap()).collect();
            assert_eq!(Kept::detached(Payload::from(&given)).bytes().unwrap(), given, "{bytes} bytes");
        }
    }
}
