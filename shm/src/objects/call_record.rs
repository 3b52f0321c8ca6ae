//! The record of a call with an idempotency key: an object of the system, and what its bytes say.
//!
//! ```text
//! 0  state (u32) │ tag of the worker that runs it (u32)
//! 8  when it may be forgotten, milliseconds since 1970; 0 while it runs
//! 16 digest of its payload, 16 bytes
//! 32 outcome (u32) │ detail (u32)
//! 40 more (u32) │ 0 (u32)
//! 48 the reply
//! ```
//!
//! A record is immutable as every object is: each state is a version of its own. Its name says whose call it is.

use std::fmt;
use std::time::Duration;

use praas_protocol::{FunctionId, IdempotencyKey, Name};

use super::key::{Key, Namespace};
use super::object::{Encoding, Meta};

/// Bytes before the reply.
pub(crate) const HEAD_BYTES: usize = 48;
const HEAD_WORDS: usize = HEAD_BYTES / 8;

/// What records are written as.
pub(crate) const META: Meta =
    Meta { type_id: u64::from_le_bytes(*b"callrec1"), schema_version: 1, encoding: Encoding::Raw };

const RUNNING: u32 = 1;
const FINISHED: u32 = 2;
const LOST: u32 = 3;

const PREFIX: &str = "call/";
/// The prefix, a name, a function's number and a key, with a stroke between them.
const NAME_TEXT_BYTES: usize = PREFIX.len() + praas_protocol::limits::NAME_BYTES_MAX + 1 + 16 + 1 + 32;

/// Whose call a record is of: principal, function, key.
#[derive(Clone, Copy)]
pub struct CallName {
    bytes: [u8; NAME_TEXT_BYTES],
    length: usize,
}

impl CallName {
    /// The name of a principal's calls of a function with this key.
    #[must_use]
    pub fn new(principal: &Name, function: FunctionId, key: IdempotencyKey) -> Self {
        let mut name = Self { bytes: [0; NAME_TEXT_BYTES], length: 0 };
        name.push(PREFIX.as_bytes());
        name.push(principal.as_str().as_bytes());
        name.push(b"/");
        name.push_hex(&function.0.to_be_bytes());
        name.push(b"/");
        name.push_hex(&key.to_bytes());
        name
    }

    fn push(&mut self, bytes: &[u8]) {
        self.bytes[self.length..self.length + bytes.len()].copy_from_slice(bytes);
        self.length += bytes.len();
    }

    fn push_hex(&mut self, bytes: &[u8]) {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        for byte in bytes {
            self.push(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
        }
    }

    /// The key of its record.
    ///
    /// # Panics
    /// Never: names and digits are a key.
    #[must_use]
    pub fn key(&self) -> Key<'_> {
        let text = std::str::from_utf8(&self.bytes[..self.length]).expect("names and digits are ASCII");
        Key::new(Namespace::CALLS, text).expect("names and digits are keys")
    }
}

impl fmt::Debug for CallName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "CallName({})", self.key())
    }
}

/// How far a call has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CallState {
    /// The worker with this tag runs it, if it lives.
    Running(u32),
    /// Its end is recorded.
    Finished,
    /// The worker that ran it has died.
    Lost,
}

/// A record without its reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CallRecord {
    pub(crate) state: CallState,
    pub(crate) until_unix_ms: u64,
    pub(crate) digest: [u8; 16],
    pub(crate) outcome_code: u32,
    pub(crate) detail: u32,
    pub(crate) more: u32,
}

impl CallRecord {
    /// A call that this worker is about to run.
    pub(crate) fn running(owner: u32, digest: [u8; 16]) -> Self {
        let state = CallState::Running(owner);
        Self { state, until_unix_ms: 0, digest, outcome_code: 0, detail: 0, more: 0 }
    }

    /// The same call, lost.
    pub(crate) fn lost(self, until_unix_ms: u64) -> Self {
        Self { state: CallState::Lost, until_unix_ms, ..self }
    }

    pub(crate) fn encode(&self) -> [u8; HEAD_BYTES] {
        let (state, owner) = match self.state {
            CallState::Running(owner) => (RUNNING, owner),
            CallState::Finished => (FINISHED, 0),
            CallState::Lost => (LOST, 0),
        };
        let half = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        let [digest_low, digest_high] = digest_words(self.digest);
        let words = [
            half(state, owner),
            self.until_unix_ms,
            digest_low,
            digest_high,
            half(self.outcome_code, self.detail),
            half(self.more, 0),
        ];
        let mut bytes = [0; HEAD_BYTES];
        for (place, word) in bytes.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// What the words of an object's value say; `None` if they are no record's.
    #[allow(clippy::cast_possible_truncation, reason = "halves of words")]
    pub(crate) fn decode(meta: Meta, value_bytes: usize, word: impl Fn(usize) -> u64) -> Option<Self> {
        if meta != META || value_bytes < HEAD_BYTES {
            return None;
        }
        let words: [u64; HEAD_WORDS] = std::array::from_fn(word);
        let (low, high) = (|at: usize| words[at] as u32, |at: usize| (words[at] >> 32) as u32);
        let state = match low(0) {
            RUNNING => CallState::Running(high(0)),
            FINISHED => CallState::Finished,
            LOST => CallState::Lost,
            _ => return None,
        };
        let mut digest = [0; 16];
        digest[..8].copy_from_slice(&words[2].to_le_bytes());
        digest[8..].copy_from_slice(&words[3].to_le_bytes());
        let (outcome_code, detail, more) = (low(4), high(4), low(5));
        Some(Self { state, until_unix_ms: words[1], digest, outcome_code, detail, more })
    }

    /// Whether it may be forgotten.
    pub(crate) fn is_over(&self, now_unix_ms: u64) -> bool {
        !matches!(self.state, CallState::Running(_)) && self.until_unix_ms <= now_unix_ms
    }
}

/// The bytes of a record of which nobody is said to run it any more.
pub(crate) fn without_owner(record: &[u8]) -> Vec<u8> {
    let mut record = record.to_vec();
    if record.starts_with(&RUNNING.to_le_bytes())
        && let Some(owner) = record.get_mut(4..8)
    {
        owner.fill(0);
    }
    record
}

fn digest_words(digest: [u8; 16]) -> [u64; 2] {
    let whole = u128::from_le_bytes(digest);
    #[allow(clippy::cast_possible_truncation, reason = "the two halves")]
    [whole as u64, (whole >> 64) as u64]
}

/// The clock by which records are kept.
#[derive(Debug, Clone, Copy)]
pub struct CallClock {
    /// Milliseconds since 1970, now.
    pub now_unix_ms: u64,
    /// How long a finished or lost call is remembered.
    pub kept_for: Duration,
}

impl CallClock {
    pub(crate) fn until(&self) -> u64 {
        self.now_unix_ms.saturating_add(u64::try_from(self.kept_for.as_millis()).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_reads_back_as_written_and_others_are_none() {
        for state in [CallState::Running(0x8000_0203), CallState::Finished, CallState::Lost] {
            let record = CallRecord {
                state,
                until_unix_ms: 1 << 41,
                digest: std::array::from_fn(|at| u8::try_from(at).unwrap()),
                outcome_code: 1,
                detail: u32::MAX,
                more: 7,
            };
            let bytes = record.encode();
            let word = |at: usize| u64::from_le_bytes(*bytes[8 * at..].first_chunk().unwrap());
            assert_eq!(CallRecord::decode(META, HEAD_BYTES, word), Some(record));
            assert_eq!(CallRecord::decode(Meta::RAW, HEAD_BYTES, word), None);
            assert_eq!(CallRecord::decode(META, HEAD_BYTES - 1, word), None);
            assert_eq!(CallRecord::decode(META, HEAD_BYTES, |at| word(at) + 4 * u64::from(at == 0)), None);
        }
    }

    #[test]
    fn names_are_keys_and_tell_principal_function_and_key_apart() {
        let (alice, longest): (Name, Name) = ("alice".parse().unwrap(), "a".repeat(63).parse().unwrap());
        let key = IdempotencyKey::from_bytes([0xab; 16]);
        let name = CallName::new(&alice, FunctionId(7), key);
        assert_eq!(name.key().text(), format!("call/alice/0000000000000007/{}", "ab".repeat(16)));
        assert_eq!(CallName::new(&longest, FunctionId(7), key).key().text().len(), NAME_TEXT_BYTES);
    }
}
