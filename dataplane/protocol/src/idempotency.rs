//! Idempotency keys: what makes a repetition of a call the same call.
//!
//! Two calls of one principal to one function of one process with the same key are the same call: it runs once, and both get
//! its answer. On a lane a flag of the request says that its payload begins with the 32 bytes of [`Idempotency::to_prefix`]; on
//! the network the REQUEST has fields for them.
//!
//! ```text
//! prefix   0  key, 16 bytes │ 16  flags, 1 byte: 1 = run a lost call again │ 17  zeros
//! ```

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::str::FromStr;

use crate::limits::{IDEMPOTENCY_PREFIX_BYTES, IDEMPOTENCY_TEXT_BYTES_MAX};

const KEY_BYTES: usize = 16;
const FLAGS_AT: usize = KEY_BYTES;
const RERUN_LOST: u8 = 1;

/// A key of 16 bytes: random, or made of a text that names the call.
///
/// ```
/// use praas_protocol::IdempotencyKey;
///
/// let order: IdempotencyKey = "order/4711".parse()?;
/// assert_eq!(order, "order/4711".parse()?);
/// // 32 hexadecimal digits are the key itself.
/// assert_eq!(order, order.to_string().parse()?);
/// assert_ne!(IdempotencyKey::random(), IdempotencyKey::random());
/// # Ok::<(), praas_protocol::IdempotencyKeyError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdempotencyKey([u8; KEY_BYTES]);

/// Why a text is no idempotency key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdempotencyKeyError {
    /// There is nothing.
    #[error("an idempotency key cannot be empty: give 32 hexadecimal digits, or a text that names the call")]
    Empty,
    /// It is longer than a text can be.
    #[error("the idempotency key has {actual_bytes} bytes, the limit is {IDEMPOTENCY_TEXT_BYTES_MAX}")]
    TooLong {
        /// Its length.
        actual_bytes: usize,
    },
}

impl IdempotencyKey {
    /// The key of these bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; KEY_BYTES]) -> Self {
        Self(bytes)
    }

    /// A key that nobody has used.
    #[must_use]
    pub fn random() -> Self {
        // The standard library's hasher is seeded by the system, anew for each of these.
        let half = || RandomState::new().build_hasher().finish().to_le_bytes();
        let mut bytes = [0; KEY_BYTES];
        bytes[..8].copy_from_slice(&half());
        bytes[8..].copy_from_slice(&half());
        Self(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; KEY_BYTES] {
        self.0
    }
}

impl FromStr for IdempotencyKey {
    type Err = IdempotencyKeyError;

    /// 32 hexadecimal digits are the key itself; any other text names a call, and the key is made of its hash.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Err(IdempotencyKeyError::Empty);
        }
        if text.len() > IDEMPOTENCY_TEXT_BYTES_MAX {
            return Err(IdempotencyKeyError::TooLong { actual_bytes: text.len() });
        }
        let is_hex = text.len() == 2 * KEY_BYTES && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        match u128::from_str_radix(text, 16) {
            Ok(number) if is_hex => Ok(Self(number.to_be_bytes())),
            _ => Ok(Self(digest(text.as_bytes()))),
        }
    }
}

impl fmt::Display for IdempotencyKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for IdempotencyKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "IdempotencyKey({self})")
    }
}

/// What a call with an idempotency key says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Idempotency {
    /// The key.
    pub key: IdempotencyKey,
    /// Whether it may run again if the worker that ran it first has died. Its effects may then happen twice.
    pub rerun_lost: bool,
}

impl From<IdempotencyKey> for Idempotency {
    fn from(key: IdempotencyKey) -> Self {
        Self { key, rerun_lost: false }
    }
}

impl Idempotency {
    /// What the payload begins with on a lane.
    #[must_use]
    pub fn to_prefix(self) -> [u8; IDEMPOTENCY_PREFIX_BYTES] {
        let mut prefix = [0; IDEMPOTENCY_PREFIX_BYTES];
        prefix[..KEY_BYTES].copy_from_slice(&self.key.0);
        prefix[FLAGS_AT] = if self.rerun_lost { RERUN_LOST } else { 0 };
        prefix
    }

    /// The same read back, and the payload behind it; `None` if this is no such prefix.
    #[must_use]
    pub fn split_prefix(payload: &[u8]) -> Option<(Self, &[u8])> {
        let (prefix, rest) = payload.split_first_chunk::<IDEMPOTENCY_PREFIX_BYTES>()?;
        let (key, rerun_lost) = (prefix.first_chunk::<KEY_BYTES>()?, prefix[FLAGS_AT] == RERUN_LOST);
        let idempotency = Self { key: IdempotencyKey(*key), rerun_lost };
        (idempotency.to_prefix() == *prefix).then_some((idempotency, rest))
    }
}

/// What a payload is known by, so that another one under the same key is noticed.
#[must_use]
pub fn payload_digest(payload: &[u8]) -> [u8; 16] {
    digest(payload)
}

fn digest(bytes: &[u8]) -> [u8; 16] {
    let mut cut = [0; 16];
    cut.copy_from_slice(&blake3::hash(bytes).as_bytes()[..16]);
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_reads_back_as_written_and_any_other_bytes_are_refused() {
        for rerun_lost in [false, true] {
            let idempotency = Idempotency { key: IdempotencyKey::from_bytes([7; 16]), rerun_lost };
            let mut payload = idempotency.to_prefix().to_vec();
            payload.extend_from_slice(b"input");
            assert_eq!(Idempotency::split_prefix(&payload), Some((idempotency, &b"input"[..])));
            for at in 16..IDEMPOTENCY_PREFIX_BYTES {
                let mut wrong = payload.clone();
                wrong[at] ^= 0x82;
                assert_eq!(Idempotency::split_prefix(&wrong), None, "byte {at}");
            }
            assert_eq!(Idempotency::split_prefix(&payload[..IDEMPOTENCY_PREFIX_BYTES - 1]), None);
        }
    }

    #[test]
    fn hexadecimal_digits_are_the_key_and_other_texts_are_hashed() {
        let key: IdempotencyKey = "000102030405060708090a0b0c0d0eff".parse().unwrap();
        assert_eq!(key.to_bytes(), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 255]);
        assert_eq!(key.to_string(), "000102030405060708090a0b0c0d0eff");
        assert_eq!(key.to_string().to_uppercase().parse(), Ok(key));
        for text in ["a", "+00102030405060708090a0b0c0d0eff", "000102030405060708090a0b0c0d0ef", "order/4711"] {
            let named: IdempotencyKey = text.parse().unwrap();
            assert_eq!(named.to_bytes(), payload_digest(text.as_bytes()));
        }
        assert_eq!("".parse::<IdempotencyKey>(), Err(IdempotencyKeyError::Empty));
        let long = "k".repeat(IDEMPOTENCY_TEXT_BYTES_MAX + 1);
        assert!(matches!(long.parse::<IdempotencyKey>(), Err(IdempotencyKeyError::TooLong { .. })));
    }
}
