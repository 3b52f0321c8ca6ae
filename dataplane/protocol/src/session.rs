//! Client sessions: the functions that a client calls on the lane to its session, to exchange messages with the processes of
//! one application and with other clients' sessions.
//!
//! A session is an address ([`Address::Client`]) with a bounded mailbox of its own. The server keeps it for a while after its
//! client left; whoever shows its ticket goes on with it.
//!
//! | function | payload | answer |
//! |---|---|---|
//! | [`SEND_FUNCTION`] | [`SendHead`], the key, zeros up to a multiple of 16, the bytes | one byte: [`Accepted`](crate::message::Accepted) |
//! | [`RECV_FUNCTION`] | [`RecvQuestion`] | [`ReceivedHead`], the bytes; nothing if no message came |
//! | [`ACCEPT_FUNCTION`] | [`HeldMessage`] | nothing |
//! | [`RELEASE_FUNCTION`] | [`HeldMessage`] | nothing |
//! | [`END_FUNCTION`] | nothing | nothing |
//!
//! 1. A send carries a sequence number, which counts up with each message of the session's incarnation and is never used for
//!    another one. A client that does not know what became of a send calls it again with the same number, destination, key and
//!    bytes: it is accepted once. What comes by one lane for one destination is sent in the order of the calls. Where the
//!    destination's mailbox is full the server waits, for as long as the send says, and then refuses it as full: nothing
//!    was taken.
//! 2. Gaps between numbers are allowed: a client that goes on with a session and does not know its last number takes a much
//!    higher one, as it does when it begins its numbers with the time.
//! 3. A `recv` waits until there is a message, or for as long as it says. A client gives the call itself a later deadline and
//!    waits for its answer: a message that is answered to nobody is held for nobody.
//! 4. A received message is held by the session until it is accepted, which removes it, or released. It returns to the head
//!    of its queue, marked as redelivered, also when the session's client leaves or is cut off, and when the server starts
//!    anew. While messages of a source and key are held, further ones of them are received, in order. An accepted message
//!    that has returned to its queue meanwhile is removed there. With a message that is released, those of its source and key
//!    return that were received after it.
//! 5. Refusals are `FunctionFailed` with the codes of [`crate::message::codes`].
//!
//! Numbers are little endian. Whatever is decoded here was checked.

use crate::key::{Key, KeyError};
use crate::limits::{ADDRESSES_PER_CALL_MAX, KEY_BYTES_MAX};
use crate::message::{ADDRESS_BYTES, Address, MessageId};

/// Sends a message of the session.
pub const SEND_FUNCTION: &str = "praas.session.send";

/// Receives a message that was sent to the session.
pub const RECV_FUNCTION: &str = "praas.session.recv";

/// Removes a message that was received.
pub const ACCEPT_FUNCTION: &str = "praas.session.accept";

/// Gives a message that was received back to the head of its queue.
pub const RELEASE_FUNCTION: &str = "praas.session.release";

/// Ends the session at once, with all messages that it has.
pub const END_FUNCTION: &str = "praas.session.end";

/// Bytes of a [`SendHead`]: destination, sequence, time, length of the key.
pub const SEND_HEAD_BYTES: usize = ADDRESS_BYTES + 8 + 8 + 8;

/// Bytes of a [`RecvQuestion`] without its sources and key: time, flags, number of sources, length of the key, zeros.
pub const RECV_HEAD_BYTES: usize = 24;

/// Bytes of a [`ReceivedHead`]: source, incarnation, sequence, flags, zeros.
pub const RECEIVED_HEAD_BYTES: usize = ADDRESS_BYTES + 32;

/// Bytes of a [`HeldMessage`] before its key: source, incarnation, sequence.
pub const HELD_HEAD_BYTES: usize = ADDRESS_BYTES + 16;

const ALIGNMENT: usize = 16;
const PEEK_FLAG: u32 = 1;
const REDELIVERED_FLAG: u64 = 1;

/// Why a payload is not what a function of sessions takes, or an answer not what it gives.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SessionPayloadError {
    /// It ends too early, or goes on too long.
    #[error("{what} has {actual_bytes} bytes, it needs {needed_bytes}")]
    Length {
        /// What was to be read.
        what: &'static str,
        /// Its bytes.
        actual_bytes: usize,
        /// Bytes that it must have, at least where something follows.
        needed_bytes: usize,
    },
    /// An address is none.
    #[error("{what} is no address")]
    Address {
        /// Whose.
        what: &'static str,
    },
    /// A number has a meaning that nobody knows.
    #[error("{what} is {value:#x}, which means nothing")]
    Value {
        /// What.
        what: &'static str,
        /// What it is.
        value: u64,
    },
    /// More sources than one call names.
    #[error("{actual} sources are named, at most {ADDRESSES_PER_CALL_MAX} may be")]
    TooManySources {
        /// So many.
        actual: usize,
    },
    /// The key is none.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// What a payload of [`SEND_FUNCTION`] begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SendHead<'key> {
    /// Who is to receive.
    pub to: Address,
    /// Counts up with each message of the session's incarnation; never 0.
    pub sequence: u64,
    /// How long to wait for room in a mailbox that is full, in nanoseconds.
    pub within_ns: u64,
    /// Whether an earlier attempt may have been successful: then it goes a way on which a repetition is recognised however
    /// many messages have overtaken it.
    pub again: bool,
    /// The message's key.
    pub key: Key<'key>,
}

/// Set in the length of the key of a message that is sent again.
const AGAIN: u64 = 1 << 63;

impl<'key> SendHead<'key> {
    /// Bytes before the message's own: head, key, and zeros up to a multiple of 16.
    #[must_use]
    pub fn bytes_before_payload(key: &Key<'_>) -> usize {
        (SEND_HEAD_BYTES + key.as_str().len()).next_multiple_of(ALIGNMENT)
    }

    /// What the payload begins with; the message's bytes follow.
    #[must_use]
    pub fn encode_head(&self) -> Vec<u8> {
        let key = self.key.as_str().as_bytes();
        let mut payload = Vec::with_capacity(Self::bytes_before_payload(&self.key));
        payload.extend_from_slice(&self.to.to_bytes());
        payload.extend_from_slice(&self.sequence.to_le_bytes());
        payload.extend_from_slice(&self.within_ns.to_le_bytes());
        let again = if self.again { AGAIN } else { 0 };
        payload.extend_from_slice(&(key.len() as u64 | again).to_le_bytes());
        payload.extend_from_slice(key);
        payload.resize(Self::bytes_before_payload(&self.key), 0);
        payload
    }

    /// The payload for a message of these bytes.
    #[must_use]
    pub fn encode(&self, bytes: &[u8]) -> Vec<u8> {
        let mut payload = self.encode_head();
        payload.extend_from_slice(bytes);
        payload
    }

    /// The head, and the message's own bytes.
    ///
    /// # Errors
    /// [`SessionPayloadError`] when the payload is none of [`SEND_FUNCTION`].
    pub fn decode(payload: &'key [u8]) -> Result<(Self, &'key [u8]), SessionPayloadError> {
        const WHAT: &str = "a message to be sent";
        let mut reader = Reader::new(payload, WHAT);
        let to = reader.address("its destination")?;
        let sequence = reader.u64()?;
        if sequence == 0 {
            return Err(SessionPayloadError::Value { what: "the sequence number of a message", value: 0 });
        }
        let within_ns = reader.u64()?;
        let length = reader.u64()?;
        let again = length & AGAIN != 0;
        let key_bytes = usize::try_from(length & !AGAIN).unwrap_or(usize::MAX);
        if key_bytes > KEY_BYTES_MAX {
            return Err(KeyError::TooLong { actual_bytes: key_bytes }.into());
        }
        let key = Key::from_bytes(reader.take(key_bytes)?)?;
        reader.take((SEND_HEAD_BYTES + key_bytes).next_multiple_of(ALIGNMENT) - SEND_HEAD_BYTES - key_bytes)?;
        Ok((Self { to, sequence, within_ns, again, key }, reader.rest))
    }
}

/// What [`RECV_FUNCTION`] is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecvQuestion<'key> {
    /// How long to wait for a message, in nanoseconds; 0 only tries. Without one the answer is empty then.
    pub within_ns: u64,
    /// Whether the message is only shown, and not held.
    pub peeks: bool,
    /// Whose messages are wanted; nobody named means anybody's.
    pub sources: Vec<Address>,
    /// Their key.
    pub key: Key<'key>,
}

impl<'key> RecvQuestion<'key> {
    /// The payload. Of more than [`ADDRESSES_PER_CALL_MAX`] sources, it is refused.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let key = self.key.as_str().as_bytes();
        let flags = if self.peeks { PEEK_FLAG } else { 0 };
        let sources = u32::try_from(self.sources.len()).unwrap_or(u32::MAX);
        let key_bytes = u32::try_from(key.len()).unwrap_or(u32::MAX);
        let mut payload = Vec::with_capacity(RECV_HEAD_BYTES + self.sources.len() * ADDRESS_BYTES + key.len());
        payload.extend_from_slice(&self.within_ns.to_le_bytes());
        for word in [flags, sources, key_bytes, 0] {
            payload.extend_from_slice(&word.to_le_bytes());
        }
        self.sources.iter().for_each(|source| payload.extend_from_slice(&source.to_bytes()));
        payload.extend_from_slice(key);
        payload
    }

    /// The question in a payload.
    ///
    /// # Errors
    /// [`SessionPayloadError`] when the payload is none of [`RECV_FUNCTION`].
    pub fn decode(payload: &'key [u8]) -> Result<Self, SessionPayloadError> {
        let mut reader = Reader::new(payload, "a question for a message");
        let within_ns = reader.u64()?;
        let (flags, count) = (reader.u32()?, reader.u32()? as usize);
        let (key_bytes, zeros) = (reader.u32()? as usize, reader.u32()?);
        if flags & !PEEK_FLAG != 0 {
            return Err(SessionPayloadError::Value { what: "what is asked of `recv`", value: flags.into() });
        }
        if zeros != 0 {
            return Err(SessionPayloadError::Value { what: "the unused word of a question", value: zeros.into() });
        }
        if count > ADDRESSES_PER_CALL_MAX {
            return Err(SessionPayloadError::TooManySources { actual: count });
        }
        let sources = (0..count).map(|_| reader.address("a source")).collect::<Result<_, _>>()?;
        if key_bytes > KEY_BYTES_MAX {
            return Err(KeyError::TooLong { actual_bytes: key_bytes }.into());
        }
        let key = Key::from_bytes(reader.take(key_bytes)?)?;
        reader.end()?;
        Ok(Self { within_ns, peeks: flags & PEEK_FLAG != 0, sources, key })
    }
}

/// What an answer of [`RECV_FUNCTION`] begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReceivedHead {
    /// Who sent the message.
    pub source: Address,
    /// The message's id.
    pub id: MessageId,
    /// Whether it was received before, and not accepted.
    pub redelivered: bool,
}

impl ReceivedHead {
    /// What the answer begins with; the message's bytes follow.
    #[must_use]
    pub fn encode(&self) -> [u8; RECEIVED_HEAD_BYTES] {
        let mut head = [0; RECEIVED_HEAD_BYTES];
        let flags = if self.redelivered { REDELIVERED_FLAG } else { 0 };
        head[..ADDRESS_BYTES].copy_from_slice(&self.source.to_bytes());
        for (place, word) in (0..).zip([self.id.incarnation, self.id.sequence, flags]) {
            let at = ADDRESS_BYTES + 8 * place;
            head[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
        head
    }

    /// The head, and the message's own bytes; `None` for the empty answer, which says that there is no message.
    ///
    /// # Errors
    /// [`SessionPayloadError`] when the answer is none of [`RECV_FUNCTION`].
    pub fn decode(answer: &[u8]) -> Result<Option<(Self, &[u8])>, SessionPayloadError> {
        if answer.is_empty() {
            return Ok(None);
        }
        let mut reader = Reader::new(answer, "a received message");
        let source = reader.address("its source")?;
        let id = MessageId { incarnation: reader.u64()?, sequence: reader.u64()? };
        let (flags, zeros) = (reader.u64()?, reader.u64()?);
        if flags & !REDELIVERED_FLAG != 0 || zeros != 0 {
            return Err(SessionPayloadError::Value { what: "what is said of a message", value: flags | zeros });
        }
        Ok(Some((Self { source, id, redelivered: flags & REDELIVERED_FLAG != 0 }, reader.rest)))
    }
}

/// Names a message that was received, for [`ACCEPT_FUNCTION`] and [`RELEASE_FUNCTION`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldMessage<'key> {
    /// Who sent it.
    pub source: Address,
    /// Its id.
    pub id: MessageId,
    /// Its key.
    pub key: Key<'key>,
}

impl<'key> HeldMessage<'key> {
    /// The payload.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut payload = Vec::with_capacity(HELD_HEAD_BYTES + self.key.as_bytes().len());
        payload.extend_from_slice(&self.source.to_bytes());
        payload.extend_from_slice(&self.id.incarnation.to_le_bytes());
        payload.extend_from_slice(&self.id.sequence.to_le_bytes());
        payload.extend_from_slice(self.key.as_bytes());
        payload
    }

    /// The message that a payload names.
    ///
    /// # Errors
    /// [`SessionPayloadError`] when the payload names none.
    pub fn decode(payload: &'key [u8]) -> Result<Self, SessionPayloadError> {
        let mut reader = Reader::new(payload, "the name of a received message");
        let source = reader.address("its source")?;
        let id = MessageId { incarnation: reader.u64()?, sequence: reader.u64()? };
        Ok(Self { source, id, key: Key::from_bytes(reader.rest)? })
    }
}

/// Takes fields off the front of a payload.
struct Reader<'bytes> {
    rest: &'bytes [u8],
    whole_bytes: usize,
    what: &'static str,
}

impl<'bytes> Reader<'bytes> {
    fn new(bytes: &'bytes [u8], what: &'static str) -> Self {
        Self { rest: bytes, whole_bytes: bytes.len(), what }
    }

    fn take(&mut self, bytes: usize) -> Result<&'bytes [u8], SessionPayloadError> {
        let needed_bytes = (self.whole_bytes - self.rest.len()).saturating_add(bytes);
        let (taken, rest) = self.rest.split_at_checked(bytes).ok_or_else(|| self.wrong_length(needed_bytes))?;
        self.rest = rest;
        Ok(taken)
    }

    fn wrong_length(&self, needed_bytes: usize) -> SessionPayloadError {
        SessionPayloadError::Length { what: self.what, actual_bytes: self.whole_bytes, needed_bytes }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], SessionPayloadError> {
        let bytes = self.take(N)?;
        Ok(*bytes.first_chunk().expect("as many bytes were taken"))
    }

    fn u64(&mut self) -> Result<u64, SessionPayloadError> {
        self.array().map(u64::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, SessionPayloadError> {
        self.array().map(u32::from_le_bytes)
    }

    fn address(&mut self, what: &'static str) -> Result<Address, SessionPayloadError> {
        let bytes = self.array::<ADDRESS_BYTES>()?;
        Address::from_bytes(&bytes).ok_or(SessionPayloadError::Address { what })
    }

    fn end(&self) -> Result<(), SessionPayloadError> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.wrong_length(self.whole_bytes - self.rest.len())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SessionId;

    const ID: MessageId = MessageId { incarnation: 3, sequence: 17 };

    fn addresses() -> [Address; 2] {
        ["alice".parse().unwrap(), Address::Client(SessionId(5 << 90))]
    }

    #[test]
    fn what_is_asked_reads_back_as_written() {
        for to in addresses() {
            for key in ["k", "results/é", &"x".repeat(KEY_BYTES_MAX)] {
                let head = SendHead {
                    to,
                    sequence: u64::MAX,
                    within_ns: 7,
                    again: key.len() > 3,
                    key: Key::new(key).unwrap(),
                };
                let payload = head.encode(b"hello");
                assert!((payload.len() - 5).is_multiple_of(ALIGNMENT), "the bytes must be aligned");
                assert_eq!(SendHead::decode(&payload), Ok((head, &b"hello"[..])));
            }
            let held = HeldMessage { source: to, id: ID, key: Key::new("k").unwrap() };
            assert_eq!(HeldMessage::decode(&held.encode()), Ok(held));
        }
        for (within_ns, peeks, sources) in [(u64::MAX, true, addresses().to_vec()), (0, false, Vec::new())] {
            let question = RecvQuestion { within_ns, peeks, sources, key: Key::new("k").unwrap() };
            assert_eq!(RecvQuestion::decode(&question.encode()), Ok(question));
        }
    }

    #[test]
    fn a_received_message_reads_back_as_written_and_nothing_is_no_empty_message() {
        assert_eq!(ReceivedHead::decode(b""), Ok(None));
        for (source, redelivered) in addresses().into_iter().zip([false, true]) {
            let head = ReceivedHead { source, id: ID, redelivered };
            assert_eq!(ReceivedHead::decode(&head.encode()), Ok(Some((head, &b""[..]))));
            let answer = [&head.encode()[..], b"bytes"].concat();
            assert_eq!(ReceivedHead::decode(&answer), Ok(Some((head, &b"bytes"[..]))));
        }
    }

    #[test]
    fn every_cut_is_refused_and_so_is_what_is_too_long() {
        let key = Key::new("k").unwrap();
        let send = SendHead { to: addresses()[0], sequence: 1, within_ns: 0, again: true, key }.encode_head();
        assert!((0..send.len()).all(|cut| SendHead::decode(&send[..cut]).is_err()));
        let question = RecvQuestion { within_ns: 5, peeks: false, sources: addresses().to_vec(), key }.encode();
        assert!((0..question.len()).all(|cut| RecvQuestion::decode(&question[..cut]).is_err()));
        assert!(RecvQuestion::decode(&[&question[..], &[0]].concat()).is_err());
        let received = ReceivedHead { source: addresses()[1], id: ID, redelivered: true }.encode();
        assert!((1..received.len()).all(|cut| ReceivedHead::decode(&received[..cut]).is_err()));
        let held = HeldMessage { source: addresses()[1], id: ID, key }.encode();
        assert!((0..held.len()).all(|cut| HeldMessage::decode(&held[..cut]).is_err()));
        assert!(HeldMessage::decode(&[&held[..], &[0]].concat()).is_err());
    }

    #[test]
    fn numbers_that_mean_nothing_are_refused() {
        let key = Key::new("k").unwrap();
        let mut send = SendHead { to: addresses()[0], sequence: 1, within_ns: 0, again: false, key }.encode_head();
        send[ADDRESS_BYTES] = 0;
        assert!(matches!(SendHead::decode(&send), Err(SessionPayloadError::Value { value: 0, .. })));
        send[ADDRESS_BYTES] = 1;
        send[ADDRESS_BYTES + 23] = 0xff;
        assert!(matches!(SendHead::decode(&send), Err(SessionPayloadError::Key(_))));
        send[0] = 0;
        assert!(matches!(SendHead::decode(&send), Err(SessionPayloadError::Address { .. })));
        let mut question = RecvQuestion { within_ns: 0, peeks: false, sources: Vec::new(), key }.encode();
        question[8] = 4;
        assert!(matches!(RecvQuestion::decode(&question), Err(SessionPayloadError::Value { value: 4, .. })));
        question[8] = 1;
        question[15] = 0x10;
        assert!(matches!(RecvQuestion::decode(&question), Err(SessionPayloadError::TooManySources { .. })));
        let mut received = ReceivedHead { source: addresses()[0], id: ID, redelivered: false }.encode();
        received[ADDRESS_BYTES + 16] = 2;
        assert!(ReceivedHead::decode(&received).is_err());
    }
}
