//! The bytes of a record, as writers lay them down and everybody else reads them back.
//!
//! ```text
//! word 0  bytes of the record (32) │ kind (8) │ namespace (8) │ encoding (8) │ stream + 1, or 0 (8)
//!      1  position; 0 for a piece
//! put      2 type id   3 value bytes (32) │ schema (32)   4 time   5 key bytes   key   value, unless it went ahead in pieces
//! deleted  2 key bytes   key
//! arrived  2 incarnation   3 sequence   4 second of its arrival + 1 if its source may repeat, or 0
//!          5 key bytes (32) │ payload bytes (32)   6–13 source   key   payload, unless it went ahead in pieces
//! removed  2… positions of arrival of the messages
//! piece    2 bytes   3 where in the whole it begins   bytes
//! ```
//!
//! Little endian; every part ends with zeroes to a whole word. The server reads a private copy and believes nothing in it.

use praas_protocol::limits::KEY_BYTES_MAX;
use praas_protocol::message::{ADDRESS_BYTES, Address, MessageId};

use crate::objects::{Encoding, Key, Meta, Namespace};

/// Bytes before what a kind has of its own.
pub(crate) const HEAD_BYTES: usize = 16;
pub(crate) const PUT_BYTES: usize = HEAD_BYTES + 4 * 8;
pub(crate) const DELETED_BYTES: usize = HEAD_BYTES + 8;
pub(crate) const ARRIVED_BYTES: usize = HEAD_BYTES + 4 * 8 + ADDRESS_BYTES;
pub(crate) const PIECE_HEAD_BYTES: usize = HEAD_BYTES + 2 * 8;

/// What a record tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Put = 1,
    Deleted = 2,
    Arrived = 3,
    Removed = 4,
    Piece = 5,
}

/// The first word of a record.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Head {
    pub(crate) kind: Kind,
    pub(crate) namespace: u8,
    pub(crate) encoding: u8,
    /// Of the pieces that went ahead, or that this is one of.
    pub(crate) stream: Option<u8>,
}

impl Head {
    pub(crate) const fn of(kind: Kind) -> Self {
        Self { kind, namespace: 0, encoding: 0, stream: None }
    }

    /// The word for a record of `bytes`.
    pub(crate) fn word(self, bytes: usize) -> u64 {
        let stream = self.stream.map_or(0, |stream| u64::from(stream) + 1);
        bytes as u64
            | (self.kind as u64) << 32
            | u64::from(self.namespace) << 40
            | u64::from(self.encoding) << 48
            | stream << 56
    }
}

/// Where a value or a payload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordBytes<'r> {
    /// In the record.
    Here(&'r [u8]),
    /// In the pieces of this stream that came last.
    Ahead {
        /// The stream.
        stream: u8,
        /// How long it is.
        bytes: u32,
    },
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record<'r> {
    /// An object was published; its version is the position.
    Put {
        /// Which change of the process it is.
        position: u64,
        /// Its key.
        key: Key<'r>,
        /// What its writer said.
        meta: Meta,
        /// When, by the writer's clock.
        modified_unix_ms: u64,
        /// Its value.
        value: RecordBytes<'r>,
    },
    /// An object was deleted.
    Deleted {
        /// Which change of the process it is.
        position: u64,
        /// Its key.
        key: Key<'r>,
    },
    /// A message has come.
    Arrived {
        /// Which change of the process it is, and what the message is known by.
        position: u64,
        /// Who sent it.
        source: Address,
        /// Its id.
        id: MessageId,
        /// Its key.
        key: praas_protocol::Key<'r>,
        /// When it came, in seconds since 1970, if its source may repeat it.
        filtered_at_s: Option<u64>,
        /// Its payload.
        payload: RecordBytes<'r>,
    },
    /// Messages were removed, all at once.
    Removed {
        /// Which change of the process it is.
        position: u64,
        /// The positions at which they arrived, in 8 bytes each.
        arrivals: &'r [[u8; 8]],
    },
    /// A piece of what a later record names.
    Piece {
        /// Whose: a stream has one thing on its way at a time.
        stream: u8,
        /// Where it begins in the whole; 0 begins a new one. One that comes again overwrites itself and what came behind.
        offset: u64,
        /// Its bytes.
        bytes: &'r [u8],
    },
}

impl Record<'_> {
    /// Which change of the process it is; `None` for a piece, which is none by itself.
    #[must_use]
    pub fn position(&self) -> Option<u64> {
        match self {
            Self::Put { position, .. }
            | Self::Deleted { position, .. }
            | Self::Arrived { position, .. }
            | Self::Removed { position, .. } => Some(*position),
            Self::Piece { .. } => None,
        }
    }
}

/// Bytes that are no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadRecord {
    /// It ends before it should.
    #[error("a record of {needed_bytes} bytes at byte {at} has {actual_bytes}")]
    Cut {
        /// Where it begins.
        at: usize,
        /// How long it says that it is.
        needed_bytes: usize,
        /// How many bytes are there.
        actual_bytes: usize,
    },
    /// A field says what none can.
    #[error("the {what} of the record at byte {at} cannot be")]
    Field {
        /// Where it begins.
        at: usize,
        /// Which field.
        what: &'static str,
    },
}

/// Records, one after the other.
#[derive(Debug, Clone)]
pub struct Records<'r> {
    bytes: &'r [u8],
    at: usize,
}

impl<'r> Records<'r> {
    /// Those in `bytes`.
    #[must_use]
    pub fn new(bytes: &'r [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Bytes of the records that were read.
    #[must_use]
    pub fn read_bytes(&self) -> usize {
        self.at
    }

    /// The next one; `None` at the end.
    ///
    /// # Errors
    /// [`BadRecord`]; it is the same at the next try.
    pub fn next_record(&mut self) -> Result<Option<Record<'r>>, BadRecord> {
        let left = &self.bytes[self.at..];
        if left.is_empty() {
            return Ok(None);
        }
        let at = self.at;
        let cut = |needed_bytes| BadRecord::Cut { at, needed_bytes, actual_bytes: left.len() };
        let head = left.first_chunk::<HEAD_BYTES>().ok_or_else(|| cut(HEAD_BYTES))?;
        let bytes = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
        if bytes < HEAD_BYTES || !bytes.is_multiple_of(8) {
            return Err(BadRecord::Field { at, what: "size" });
        }
        let whole = left.get(..bytes).ok_or_else(|| cut(bytes))?;
        let mut fields = Fields { left: &whole[HEAD_BYTES..], at };
        let record = fields.record(head)?;
        if !fields.left.is_empty() {
            return Err(BadRecord::Field { at, what: "end" });
        }
        self.at += bytes;
        Ok(Some(record))
    }
}

/// What is left of one record.
struct Fields<'r> {
    left: &'r [u8],
    at: usize,
}

impl<'r> Fields<'r> {
    fn wrong(&self, what: &'static str) -> BadRecord {
        BadRecord::Field { at: self.at, what }
    }

    fn word(&mut self) -> Result<u64, BadRecord> {
        let (word, left) = self.left.split_first_chunk::<8>().ok_or_else(|| self.wrong("length"))?;
        self.left = left;
        Ok(u64::from_le_bytes(*word))
    }

    /// So many bytes, and the zeroes to the end of their last word.
    fn bytes(&mut self, bytes: u64) -> Result<&'r [u8], BadRecord> {
        let count = usize::try_from(bytes).ok().filter(|&count| count <= self.left.len());
        let count = count.ok_or_else(|| self.wrong("length of a part"))?;
        let (padded, left) = self.left.split_at_checked(count.next_multiple_of(8)).ok_or_else(|| self.wrong("end"))?;
        if padded[count..].iter().any(|&byte| byte != 0) {
            return Err(self.wrong("end of a part"));
        }
        self.left = left;
        Ok(&padded[..count])
    }

    fn key(&mut self, bytes: u64) -> Result<praas_protocol::Key<'r>, BadRecord> {
        if bytes > KEY_BYTES_MAX as u64 {
            return Err(self.wrong("length of the key"));
        }
        let bytes = self.bytes(bytes)?;
        praas_protocol::Key::from_bytes(bytes).map_err(|_| self.wrong("key"))
    }

    fn value(&mut self, stream: Option<u8>, bytes: u32) -> Result<RecordBytes<'r>, BadRecord> {
        Ok(match stream {
            Some(stream) => RecordBytes::Ahead { stream, bytes },
            None => RecordBytes::Here(self.bytes(u64::from(bytes))?),
        })
    }

    #[allow(clippy::cast_possible_truncation, reason = "halves of words")]
    fn record(&mut self, head: &[u8; HEAD_BYTES]) -> Result<Record<'r>, BadRecord> {
        let [_, _, _, _, kind, namespace, encoding, stream, position @ ..] = *head;
        let (namespace, stream) = (Namespace(namespace), stream.checked_sub(1));
        let position = u64::from_le_bytes(position);
        match kind {
            kind if kind == Kind::Put as u8 => {
                let (type_id, sizes, modified_unix_ms, key_bytes) =
                    (self.word()?, self.word()?, self.word()?, self.word()?);
                let key = Key::of(namespace, self.key(key_bytes)?);
                let (value_bytes, schema_version) = (sizes as u32, (sizes >> 32) as u32);
                let meta = Meta { type_id, schema_version, encoding: Encoding::of_code(encoding) };
                let value = self.value(stream, value_bytes)?;
                Ok(Record::Put { position, key, meta, modified_unix_ms, value })
            }
            kind if kind == Kind::Deleted as u8 => {
                let key_bytes = self.word()?;
                Ok(Record::Deleted { position, key: Key::of(namespace, self.key(key_bytes)?) })
            }
            kind if kind == Kind::Arrived as u8 => {
                let id = MessageId { incarnation: self.word()?, sequence: self.word()? };
                let (filtered, sizes) = (self.word()?, self.word()?);
                let source = self.bytes(ADDRESS_BYTES as u64)?;
                let source = source.try_into().ok().and_then(Address::from_bytes);
                let source = source.ok_or_else(|| self.wrong("source"))?;
                let key = self.key(sizes & 0xffff_ffff)?;
                let payload = self.value(stream, (sizes >> 32) as u32)?;
                Ok(Record::Arrived { position, source, id, key, filtered_at_s: filtered.checked_sub(1), payload })
            }
            kind if kind == Kind::Removed as u8 => {
                let (arrivals, _) = self.left.as_chunks::<8>();
                self.left = &[];
                Ok(Record::Removed { position, arrivals })
            }
            kind if kind == Kind::Piece as u8 => {
                let (bytes, offset) = (self.word()?, self.word()?);
                let bytes = self.bytes(bytes)?;
                let stream = stream.ok_or_else(|| self.wrong("stream"))?;
                Ok(Record::Piece { stream, offset, bytes })
            }
            _ => Err(self.wrong("kind")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(bytes: &mut Vec<u8>, word: u64) {
        bytes.extend_from_slice(&word.to_le_bytes());
    }

    fn deleted(position: u64, key: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        let total = DELETED_BYTES + key.len().next_multiple_of(8);
        word(&mut bytes, Head { namespace: 1, ..Head::of(Kind::Deleted) }.word(total));
        word(&mut bytes, position);
        word(&mut bytes, key.len() as u64);
        bytes.extend_from_slice(key.as_bytes());
        bytes.resize(total, 0);
        bytes
    }

    #[test]
    fn records_read_back_as_written_and_cut_ones_are_named() {
        let bytes = [deleted(7, "a"), deleted(8, "exactly8"), deleted(9, "longer than a word")].concat();
        let mut records = Records::new(&bytes);
        for (position, key) in [(7, "a"), (8, "exactly8"), (9, "longer than a word")] {
            let key = Key::new(Namespace::SYSTEM, key).unwrap();
            assert_eq!(records.next_record(), Ok(Some(Record::Deleted { position, key })));
        }
        assert_eq!((records.next_record(), records.read_bytes()), (Ok(None), bytes.len()));
        let first = deleted(7, "a").len();
        for length in first + 1..bytes.len() {
            let mut records = Records::new(&bytes[..length]);
            let error = loop {
                match records.next_record() {
                    Ok(Some(_)) => {}
                    Ok(None) => break None,
                    Err(error) => break Some(error),
                }
            };
            let is_at_an_end = [deleted(8, "exactly8").len() + first].contains(&length);
            assert_eq!(matches!(error, Some(BadRecord::Cut { .. })), !is_at_an_end, "{length}: {error:?}");
        }
    }

    #[test]
    fn junk_is_refused_and_never_panics() {
        let good = deleted(7, "key");
        for at in 0..good.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut bytes = good.clone();
                bytes[at] = value;
                let mut records = Records::new(&bytes);
                while let Ok(Some(_)) = records.next_record() {}
                assert!(records.read_bytes() <= bytes.len());
            }
        }
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..20_000 {
            let mut bytes = vec![0; 160];
            for byte in &mut bytes {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                *byte = state.to_le_bytes()[3];
            }
            // The sizes are mostly plausible, so that the rest is reached.
            bytes[..4].copy_from_slice(&(u32::try_from(state % 20).unwrap() * 8).to_le_bytes());
            bytes[4] %= 7;
            let mut records = Records::new(&bytes);
            while let Ok(Some(_)) = records.next_record() {}
        }
    }
}
