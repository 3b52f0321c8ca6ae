//! Messages between processes and clients of one application: addresses, ids, and the built-in function by which messages
//! that come from outside are put into a mailbox.
//!
//! An [`Address`] says who sends or receives. It takes 64 bytes wherever it is kept: a tag byte, then what it names, then
//! zeros. A [`MessageId`] tells a message from all others of its source, so that a repetition is recognised.
//!
//! | function | payload | answer |
//! |---|---|---|
//! | [`PUT_FUNCTION`] | [`PutHead`], the key, zeros up to the place that the head names, the bytes | one byte: [`Accepted`] |
//! | [`DELIVER_FUNCTION`], [`DELIVER_NEXT_FUNCTION`] | the same | the same: [`Accepted::Now`] |
//! | [`AWAIT_ROOM_FUNCTION`] | bytes of the message that wants room, 64 bits ([`encode_room`]) | nothing |
//!
//! The first is executed by a worker of the receiver. The others are served by the *gateways* of a server, the serving ends of
//! call lanes to receivers that are elsewhere: on another server, or clients' sessions. The first transmission of a message is
//! delivered, a repetition is put. Several deliveries may be on their way from one sender to one receiver. What keeps their
//! order is a flag of each such way, *refusing*, at whoever could let one overtake another:
//!
//! 1. A delivery that is refused as full, or is lost on a link that broke, makes its way refusing.
//! 2. While it is refusing, each [`DELIVER_NEXT_FUNCTION`] is refused, too: as full, or as one that a broken link has certainly
//!    not carried.
//! 3. [`DELIVER_FUNCTION`] is always tried, and ends the refusing unless it is refused itself. A sender calls it when all its
//!    earlier deliveries on this way were answered, and those that may be lost were settled by [`PUT_FUNCTION`].
//!
//! Numbers are little endian. Whatever is decoded here was checked.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::key::{Key, KeyError};
use crate::limits::{KEY_BYTES_MAX, NAME_BYTES_MAX};
use crate::name::{Name, ProcessId};

/// Puts a message into the mailbox of the process that is called.
pub const PUT_FUNCTION: &str = "praas.message.put";

/// Delivers a message to whom the gateway's lane leads to: its first transmission, no other one of this sender being on its way.
/// The source is the process that the lane speaks for.
pub const DELIVER_FUNCTION: &str = "praas.message.deliver";

/// Delivers a message that follows others of this sender on their way.
pub const DELIVER_NEXT_FUNCTION: &str = "praas.message.deliver_next";

/// Waits until a message of so many bytes may find room with whom the gateway's lane leads to, or for the call's deadline.
/// Changes nothing.
pub const AWAIT_ROOM_FUNCTION: &str = "praas.message.await_room";

/// Bytes of an [`Address`] where it is kept.
pub const ADDRESS_BYTES: usize = 1 + NAME_BYTES_MAX;

/// Tag byte of a client; that of a process is the length of its name.
const CLIENT_TAG: u8 = 0x80;
const SESSION_BYTES: usize = 16;

/// Codes of the `FunctionFailed` answers of [`PUT_FUNCTION`] and of `recv` and `send` that a function passes on. They lie
/// among the codes that the SDK keeps for itself.
pub mod codes {
    /// The payload is not what the function takes; nothing was done.
    pub const BAD_REQUEST: u32 = 0xffff_0020;
    /// The mailbox has no room; nothing was changed.
    pub const MAILBOX_FULL: u32 = 0xffff_0021;
    /// The id is older than the mailbox remembers: whether it was accepted before cannot be told.
    pub const TOO_OLD: u32 = 0xffff_0022;
    /// The mailbox was held by others for too long; nothing was changed.
    pub const BUSY: u32 = 0xffff_0023;
    /// The memory of the mailbox was damaged.
    pub const CORRUPT: u32 = 0xffff_0024;
    /// A message was not sent.
    pub const NOT_SENT: u32 = 0xffff_0025;
    /// No message came.
    pub const NOT_RECEIVED: u32 = 0xffff_0026;
    /// A message is not held any more: it was accepted, or is back in its queue because its client was cut off meanwhile.
    pub const NOT_HELD: u32 = 0xffff_0027;
    /// There is no process or session of the destination's name.
    pub const NO_DESTINATION: u32 = 0xffff_0028;
    /// Another client has gone on with the session that this lane leads to: nothing is done on it any more.
    pub const TAKEN_OVER: u32 = 0xffff_0029;
    /// What the process has changed is not durable in time.
    pub const NOT_DURABLE: u32 = 0xffff_002a;
}

/// A client session: what a client is known by as long as its session is kept, across reconnections. Random.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SessionId(pub u128);

impl fmt::Display for SessionId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:032x}", self.0)
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "SessionId({self})")
    }
}

/// Who sends or receives a message, within one application.
///
/// ```
/// use praas_protocol::message::Address;
/// let alice: Address = "alice".parse()?;
/// assert_eq!(Address::from_bytes(&alice.to_bytes()), Some(alice));
/// # Ok::<(), praas_protocol::NameError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Address {
    /// The process of this name.
    Process(Name),
    /// A client session.
    Client(SessionId),
}

impl Address {
    /// The form in which it is kept and sent. Equal addresses have equal bytes.
    #[must_use]
    #[inline]
    pub fn to_bytes(&self) -> [u8; ADDRESS_BYTES] {
        let mut bytes = [0; ADDRESS_BYTES];
        match self {
            Self::Process(name) => {
                let name = name.as_str().as_bytes();
                bytes[0] = u8::try_from(name.len()).expect("a name has at most 63 bytes");
                bytes[1..=name.len()].copy_from_slice(name);
            }
            Self::Client(SessionId(id)) => {
                bytes[0] = CLIENT_TAG;
                bytes[1..=SESSION_BYTES].copy_from_slice(&id.to_le_bytes());
            }
        }
        bytes
    }

    /// The address that these bytes say; `None` if they are no address's.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; ADDRESS_BYTES]) -> Option<Self> {
        let (tag, rest) = bytes.split_first()?;
        let length = if *tag == CLIENT_TAG { SESSION_BYTES } else { usize::from(*tag) };
        let (said, zeros) = rest.split_at_checked(length)?;
        if zeros.iter().any(|byte| *byte != 0) {
            return None;
        }
        if *tag == CLIENT_TAG {
            return Some(Self::Client(SessionId(u128::from_le_bytes(said.try_into().ok()?))));
        }
        Some(Self::Process(std::str::from_utf8(said).ok()?.parse().ok()?))
    }
}

impl From<Name> for Address {
    fn from(name: Name) -> Self {
        Self::Process(name)
    }
}

impl From<ProcessId> for Address {
    /// The process without its application.
    fn from(id: ProcessId) -> Self {
        Self::Process(id.process)
    }
}

impl From<SessionId> for Address {
    fn from(session: SessionId) -> Self {
        Self::Client(session)
    }
}

impl std::str::FromStr for Address {
    type Err = crate::NameError;

    /// A process by its name.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self::Process)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process(name) => name.fmt(formatter),
            Self::Client(session) => write!(formatter, "client {session}"),
        }
    }
}

/// What tells a message from all others of its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId {
    /// Which life of the source: a later one is higher.
    pub incarnation: u64,
    /// Counts up within an incarnation; gaps are allowed.
    pub sequence: u64,
}

/// What became of a message that a mailbox did not refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Accepted {
    /// It is in the mailbox.
    Now = 1,
    /// It was accepted before: this was a repetition.
    Before = 2,
}

impl Accepted {
    /// What an answer of [`PUT_FUNCTION`] says.
    #[must_use]
    pub fn from_answer(answer: &[u8]) -> Option<Self> {
        match answer {
            [1] => Some(Self::Now),
            [2] => Some(Self::Before),
            _ => None,
        }
    }
}

/// The payload of [`AWAIT_ROOM_FUNCTION`] for a message of so many bytes.
#[must_use]
pub fn encode_room(bytes: usize) -> [u8; 8] {
    (bytes as u64).to_le_bytes()
}

/// How many bytes a payload of [`AWAIT_ROOM_FUNCTION`] asks for; `None` if it is none.
#[must_use]
pub fn decode_room(payload: &[u8]) -> Option<u64> {
    payload.try_into().ok().map(u64::from_le_bytes)
}

/// Bytes of a [`PutHead`]: source, incarnation, sequence, and in two halves of a number the length of the key and the place of
/// the message's own bytes, counted from the head's beginning.
pub const PUT_HEAD_BYTES: usize = ADDRESS_BYTES + 8 + 8 + 8;

/// Most bytes before the message's own: with the longest key. A message that is built where it is sent from, before its key is
/// known, has its bytes there.
pub const PUT_HEAD_BYTES_MAX: usize = (PUT_HEAD_BYTES + KEY_BYTES_MAX).next_multiple_of(16);

/// What a payload of [`PUT_FUNCTION`] begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PutHead<'key> {
    /// Who sends. A client is believed only about itself.
    pub source: Address,
    /// The message's id.
    pub id: MessageId,
    /// Its key.
    pub key: Key<'key>,
}

/// Why a payload is not one of [`PUT_FUNCTION`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PutError {
    /// The payload ends too early.
    #[error("the message has {actual_bytes} bytes, its head and key alone need {needed_bytes}")]
    TooShort {
        /// Its bytes.
        actual_bytes: usize,
        /// Least that it must have.
        needed_bytes: usize,
    },
    /// The source is no address.
    #[error("the source of the message is no address")]
    Source,
    /// The message's own bytes begin where they cannot.
    #[error(
        "the message's bytes begin at {start}: that is no multiple of 16 between {start_min} and {PUT_HEAD_BYTES_MAX}"
    )]
    Start {
        /// Where they begin.
        start: usize,
        /// Where they may begin at the earliest.
        start_min: usize,
    },
    /// The key is none.
    #[error(transparent)]
    Key(#[from] KeyError),
}

impl<'key> PutHead<'key> {
    /// Least bytes before the message's own: head, key, and zeros up to a multiple of 16.
    #[must_use]
    pub fn bytes_before_payload(key: &Key<'_>) -> usize {
        (PUT_HEAD_BYTES + key.as_str().len()).next_multiple_of(16)
    }

    /// The payload for a message of these bytes.
    #[must_use]
    pub fn encode(&self, bytes: &[u8]) -> Vec<u8> {
        let mut payload = Vec::with_capacity(Self::bytes_before_payload(&self.key) + bytes.len());
        payload.resize(Self::bytes_before_payload(&self.key), 0);
        self.encode_before_payload(&mut payload);
        payload.extend_from_slice(bytes);
        payload
    }

    /// Writes what comes before the message's own bytes, which begin where `place` ends.
    ///
    /// # Panics
    /// If the length of `place` is no multiple of 16 between [`PutHead::bytes_before_payload`] and [`PUT_HEAD_BYTES_MAX`].
    pub fn encode_before_payload(&self, place: &mut [u8]) {
        let (start, least) = (place.len(), Self::bytes_before_payload(&self.key));
        assert!(is_start(start, least), "a message's bytes cannot begin at {start}");
        let key = self.key.as_str().as_bytes();
        let (head, text) = place.split_at_mut(PUT_HEAD_BYTES);
        let (source, numbers) = head.split_at_mut(ADDRESS_BYTES);
        source.copy_from_slice(&self.source.to_bytes());
        numbers[..8].copy_from_slice(&self.id.incarnation.to_le_bytes());
        numbers[8..16].copy_from_slice(&self.id.sequence.to_le_bytes());
        numbers[16..].copy_from_slice(&((key.len() | start << 32) as u64).to_le_bytes());
        let (text, zeros) = text.split_at_mut(key.len());
        text.copy_from_slice(key);
        zeros.fill(0);
    }

    /// How many bytes of a payload come before the message's own, by its first [`PUT_HEAD_BYTES`]: what must be there before
    /// [`PutHead::decode`] can read the head.
    ///
    /// # Errors
    /// [`PutError`] when they begin no payload of [`PUT_FUNCTION`].
    pub fn bytes_before(head: &[u8; PUT_HEAD_BYTES]) -> Result<usize, PutError> {
        Self::sizes(head).map(|(_, start)| start)
    }

    /// Bytes of the key, and where the message's own bytes begin.
    fn sizes(head: &[u8; PUT_HEAD_BYTES]) -> Result<(usize, usize), PutError> {
        let [.., a, b, c, d, e, f, g, h] = *head;
        let (key_bytes, start) = (u32::from_le_bytes([a, b, c, d]) as usize, u32::from_le_bytes([e, f, g, h]) as usize);
        if key_bytes > KEY_BYTES_MAX {
            return Err(KeyError::TooLong { actual_bytes: key_bytes }.into());
        }
        let start_min = (PUT_HEAD_BYTES + key_bytes).next_multiple_of(16);
        if is_start(start, start_min) { Ok((key_bytes, start)) } else { Err(PutError::Start { start, start_min }) }
    }

    /// The head and the message's own bytes.
    ///
    /// # Errors
    /// [`PutError`] when the payload is none of [`PUT_FUNCTION`].
    pub fn decode(payload: &'key [u8]) -> Result<(Self, &'key [u8]), PutError> {
        let too_short = |needed_bytes| PutError::TooShort { actual_bytes: payload.len(), needed_bytes };
        let (head, rest) = payload.split_first_chunk::<PUT_HEAD_BYTES>().ok_or(too_short(PUT_HEAD_BYTES))?;
        let (key_bytes, start) = Self::sizes(head)?;
        let bytes = payload.get(start..).ok_or(too_short(start))?;
        let (source, numbers) = head.split_first_chunk::<ADDRESS_BYTES>().ok_or(too_short(PUT_HEAD_BYTES))?;
        let number = |index: usize| {
            numbers[8 * index..].first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes)).unwrap_or_default()
        };
        let source = Address::from_bytes(source).ok_or(PutError::Source)?;
        let key = Key::from_bytes(rest.get(..key_bytes).ok_or(too_short(start))?)?;
        Ok((Self { source, id: MessageId { incarnation: number(0), sequence: number(1) }, key }, bytes))
    }
}

/// Whether a message's bytes may begin there.
fn is_start(start: usize, least: usize) -> bool {
    start.is_multiple_of(16) && (least..=PUT_HEAD_BYTES_MAX).contains(&start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_back_as_written_and_other_bytes_are_refused() {
        let longest: Name = "a".repeat(NAME_BYTES_MAX).parse().unwrap();
        for address in ["a".parse().unwrap(), Address::Process(longest), Address::Client(SessionId(7 << 100 | 3))] {
            let bytes = address.to_bytes();
            assert_eq!(Address::from_bytes(&bytes), Some(address));
            for at in 0..ADDRESS_BYTES {
                let mut wrong = bytes;
                wrong[at] ^= 0x80;
                assert_ne!(Address::from_bytes(&wrong), Some(address), "byte {at}");
            }
        }
        assert_eq!(Address::from_bytes(&[0; ADDRESS_BYTES]), None);
        assert_eq!(Address::from_bytes(&[0xff; ADDRESS_BYTES]), None);
    }

    #[test]
    fn a_put_reads_back_as_written_and_every_cut_before_its_payload_is_refused() {
        let head = PutHead {
            source: Address::Client(SessionId(9)),
            id: MessageId { incarnation: 3, sequence: 17 },
            key: Key::new("results/1").unwrap(),
        };
        let payload = head.encode(b"hello");
        assert_eq!(PutHead::decode(&payload).unwrap(), (head, &b"hello"[..]));
        for cut in 0..PutHead::bytes_before_payload(&head.key) {
            assert!(PutHead::decode(&payload[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn the_bytes_of_a_message_may_begin_further_back_but_at_places_that_others_can_rely_on() {
        let key = Key::new("k").unwrap();
        let head = PutHead { source: "alice".parse().unwrap(), id: MessageId { incarnation: 1, sequence: 2 }, key };
        let least = PutHead::bytes_before_payload(&key);
        for start in (least..=PUT_HEAD_BYTES_MAX).step_by(16) {
            let mut payload = vec![0xff; start];
            head.encode_before_payload(&mut payload);
            payload.extend_from_slice(b"bytes");
            assert_eq!(PutHead::decode(&payload).unwrap(), (head, &b"bytes"[..]));
            assert_eq!(PutHead::bytes_before(payload.first_chunk().unwrap()), Ok(start));
        }
        let mut payload = head.encode(&[0; 2 * PUT_HEAD_BYTES_MAX]);
        for start in [0, least - 16, least + 1, PUT_HEAD_BYTES_MAX + 16, u32::MAX as usize] {
            payload[PUT_HEAD_BYTES - 4..PUT_HEAD_BYTES].copy_from_slice(&u32::try_from(start).unwrap().to_le_bytes());
            assert_eq!(PutHead::decode(&payload), Err(PutError::Start { start, start_min: least }));
        }
    }

    #[test]
    fn the_room_that_is_asked_for_reads_back_as_written() {
        assert_eq!(decode_room(&encode_room(1 << 20)), Some(1 << 20));
        assert_eq!(decode_room(&[0; 7]), None);
        assert_eq!(decode_room(&[0; 9]), None);
    }
}
