//! State from outside: the functions that every application has for reading and writing its objects, and their payloads.
//!
//! A caller whose token carries the right [`STATE`](crate::token::Rights::STATE) invokes them like any function, so state
//! is reached over lanes and over TCP alike, and a worker of the process, which has the objects mapped, does the work.
//! Numbers are little endian. Whatever is decoded here was checked: a length that does not fit the payload is refused.
//!
//! | function | payload | answer |
//! |---|---|---|
//! | [`GET_FUNCTION`] | the key | nothing when there is no such object, else [`Attributes`] (32 bytes) and the value |
//! | [`PUT_FUNCTION`] | [`PutHead`], the key, zeroes up to a multiple of 16, the value | [`Written`] (16 bytes) |
//! | [`DELETE_FUNCTION`] | condition (16 bytes), the key | [`Written`], whose version is 0 when there was no such object, else a new one |
//! | [`LIST_FUNCTION`] | [`ListQuestion`] | [`ListPage`] |

use crate::key::{Key, KeyError};
use crate::limits::{KEY_BYTES_MAX, STATE_LIST_PAGE_KEYS};

/// Reads an object.
pub const GET_FUNCTION: &str = "praas.state.get";
/// Writes an object.
pub const PUT_FUNCTION: &str = "praas.state.put";
/// Removes an object.
pub const DELETE_FUNCTION: &str = "praas.state.delete";
/// Lists objects.
pub const LIST_FUNCTION: &str = "praas.state.list";

/// Codes of the `FunctionFailed` answers of these functions; the message says the rest. They lie among the codes that the
/// SDK keeps for itself.
pub mod codes {
    /// The payload is not what the function takes; nothing was done.
    pub const BAD_REQUEST: u32 = 0xffff_0010;
    /// There is no room for the object; nothing was changed.
    pub const FULL: u32 = 0xffff_0011;
    /// Other writers held the objects for too long; nothing was changed.
    pub const BUSY: u32 = 0xffff_0012;
    /// The memory of the objects was damaged.
    pub const CORRUPT: u32 = 0xffff_0013;
    /// The process has no state.
    pub const NO_STATE: u32 = 0xffff_0014;
}

/// When a write is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Condition {
    /// Whatever is there.
    #[default]
    Any,
    /// Only if there is no such object.
    Absent,
    /// Only if the object has this version.
    Version(u64),
}

/// What is known of an object beside its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attributes {
    /// Its version, from one counter a process that never repeats.
    pub version: u64,
    /// When it was put, in milliseconds since 1970.
    pub modified_unix_ms: u64,
    /// Id of its type's name ([`StateType::TYPE_ID`](crate::StateType::TYPE_ID)); 0 for raw bytes.
    pub type_id: u64,
    /// Version of its type's schema; 0 for raw bytes.
    pub schema_version: u32,
    /// Bytes of its value.
    pub value_bytes: u32,
}

/// How a write ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// It was carried out. After a put this is the object's version, after a delete the one that the counter gave the delete
    /// (0: there was no such object, and nothing was done).
    Done {
        /// The version.
        version: u64,
    },
    /// The condition did not hold, nothing was changed.
    Refused {
        /// The object's version; 0 when there is no such object.
        current: u64,
    },
}

/// What a put says before key and value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PutHead {
    /// When to carry it out.
    pub condition: Condition,
    /// Id of the value's type; 0 for raw bytes.
    pub type_id: u64,
    /// Version of the type's schema; 0 for raw bytes.
    pub schema_version: u32,
}

/// What a list asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListQuestion<'text> {
    /// Only keys that begin with this; may be empty.
    pub prefix: &'text str,
    /// Only keys after this one, in order of their bytes.
    pub after: Option<Key<'text>>,
}

/// One object in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedObject {
    /// Its key.
    pub key: String,
    /// The rest.
    pub attributes: Attributes,
}

/// A page of a list, in order of the keys' bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ListPage {
    /// At most [`STATE_LIST_PAGE_KEYS`].
    pub objects: Vec<ListedObject>,
    /// Whether further ones follow after the last of these.
    pub more: bool,
}

/// Why a payload of one of these functions, or an answer, is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StatePayloadError {
    /// It ends too early or goes on too long.
    #[error("the payload of {actual_bytes} bytes does not hold {what}")]
    Length {
        /// What was expected.
        what: &'static str,
        /// Its bytes.
        actual_bytes: usize,
    },
    /// A field has a value that means nothing.
    #[error("{what} cannot be {value}")]
    Value {
        /// The field.
        what: &'static str,
        /// What it says.
        value: u64,
    },
    /// A key is not a key.
    #[error(transparent)]
    Key(#[from] KeyError),
}

const CONDITION_BYTES: usize = 16;
const ATTRIBUTES_BYTES: usize = 32;
const WRITTEN_BYTES: usize = 16;
/// Condition, type id, schema version, bytes of the key.
const PUT_HEAD_BYTES: usize = CONDITION_BYTES + 16;
/// A value begins at a multiple of this, so that an archive can be read where it lies.
const VALUE_ALIGNMENT: usize = 16;

impl Condition {
    fn encode(self) -> [u8; CONDITION_BYTES] {
        let (kind, version) = match self {
            Self::Any => (0_u64, 0),
            Self::Absent => (1, 0),
            Self::Version(version) => (2, version),
        };
        let mut bytes = [0; CONDITION_BYTES];
        bytes[..8].copy_from_slice(&kind.to_le_bytes());
        bytes[8..].copy_from_slice(&version.to_le_bytes());
        bytes
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, StatePayloadError> {
        match (reader.u64("a condition")?, reader.u64("a condition")?) {
            (0, 0) => Ok(Self::Any),
            (1, 0) => Ok(Self::Absent),
            (2, version) => Ok(Self::Version(version)),
            (value, _) => Err(StatePayloadError::Value { what: "a condition", value }),
        }
    }
}

impl Attributes {
    /// Its 32 bytes: version, time, type id, schema version, bytes of the value.
    #[must_use]
    pub fn encode(&self) -> [u8; ATTRIBUTES_BYTES] {
        let mut bytes = [0; ATTRIBUTES_BYTES];
        bytes[..8].copy_from_slice(&self.version.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.modified_unix_ms.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.type_id.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.schema_version.to_le_bytes());
        bytes[28..].copy_from_slice(&self.value_bytes.to_le_bytes());
        bytes
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, StatePayloadError> {
        const WHAT: &str = "the attributes of an object";
        Ok(Self {
            version: reader.u64(WHAT)?,
            modified_unix_ms: reader.u64(WHAT)?,
            type_id: reader.u64(WHAT)?,
            schema_version: reader.u32(WHAT)?,
            value_bytes: reader.u32(WHAT)?,
        })
    }

    /// The answer of [`GET_FUNCTION`]: `None` for an object that is not there.
    ///
    /// # Errors
    /// When the answer is neither empty nor attributes and a value of as many bytes as they say.
    pub fn decode_answer(answer: &[u8]) -> Result<Option<(Self, &[u8])>, StatePayloadError> {
        if answer.is_empty() {
            return Ok(None);
        }
        let mut reader = Reader::new(answer);
        let attributes = Self::read(&mut reader)?;
        if reader.rest.len() != attributes.value_bytes as usize {
            return Err(reader.wrong_length("a value of the length that its attributes say"));
        }
        Ok(Some((attributes, reader.rest)))
    }
}

impl Written {
    /// Its 16 bytes: 0 and the version, or 1 and the current version.
    #[must_use]
    pub fn encode(self) -> [u8; WRITTEN_BYTES] {
        let (kind, version) = match self {
            Self::Done { version } => (0_u64, version),
            Self::Refused { current } => (1, current),
        };
        let mut bytes = [0; WRITTEN_BYTES];
        bytes[..8].copy_from_slice(&kind.to_le_bytes());
        bytes[8..].copy_from_slice(&version.to_le_bytes());
        bytes
    }

    /// The answer of [`PUT_FUNCTION`] and [`DELETE_FUNCTION`].
    ///
    /// # Errors
    /// When it is something else.
    pub fn decode(answer: &[u8]) -> Result<Self, StatePayloadError> {
        const WHAT: &str = "how a write ended";
        let mut reader = Reader::new(answer);
        let (kind, version) = (reader.u64(WHAT)?, reader.u64(WHAT)?);
        reader.end(WHAT)?;
        match kind {
            0 => Ok(Self::Done { version }),
            1 => Ok(Self::Refused { current: version }),
            value => Err(StatePayloadError::Value { what: WHAT, value }),
        }
    }
}

impl PutHead {
    /// What a put of `key` begins with; the value follows.
    #[must_use]
    pub fn encode(&self, key: Key<'_>) -> Vec<u8> {
        let key = key.as_bytes();
        let mut bytes = Vec::with_capacity((PUT_HEAD_BYTES + key.len()).next_multiple_of(VALUE_ALIGNMENT));
        bytes.extend(self.condition.encode());
        bytes.extend(self.type_id.to_le_bytes());
        bytes.extend(self.schema_version.to_le_bytes());
        bytes.extend(u32::try_from(key.len()).expect("a key is short").to_le_bytes());
        bytes.extend(key);
        bytes.resize(bytes.len().next_multiple_of(VALUE_ALIGNMENT), 0);
        bytes
    }

    /// The payload of a put: its head, the key, the value.
    ///
    /// # Errors
    /// When the payload is cut short or its key is not one.
    pub fn decode(payload: &[u8]) -> Result<(Self, Key<'_>, &[u8]), StatePayloadError> {
        const WHAT: &str = "a put";
        let mut reader = Reader::new(payload);
        let condition = Condition::decode(&mut reader)?;
        let (type_id, schema_version) = (reader.u64(WHAT)?, reader.u32(WHAT)?);
        let key_bytes = reader.u32(WHAT)? as usize;
        let key = Key::from_bytes(reader.take(key_bytes, WHAT)?)?;
        let padding = (PUT_HEAD_BYTES + key_bytes).next_multiple_of(VALUE_ALIGNMENT) - PUT_HEAD_BYTES - key_bytes;
        reader.take(padding, WHAT)?;
        Ok((Self { condition, type_id, schema_version }, key, reader.rest))
    }
}

/// The payload of [`DELETE_FUNCTION`].
#[must_use]
pub fn encode_delete(condition: Condition, key: Key<'_>) -> Vec<u8> {
    let mut bytes = condition.encode().to_vec();
    bytes.extend(key.as_bytes());
    bytes
}

/// The condition and the key of a [`DELETE_FUNCTION`].
///
/// # Errors
/// When the payload is cut short or its key is not one.
pub fn decode_delete(payload: &[u8]) -> Result<(Condition, Key<'_>), StatePayloadError> {
    let mut reader = Reader::new(payload);
    let condition = Condition::decode(&mut reader)?;
    Ok((condition, Key::from_bytes(reader.rest)?))
}

impl<'text> ListQuestion<'text> {
    /// The payload: bytes of the prefix as 16 bits, the prefix, the key after which the list goes on.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let prefix = &self.prefix.as_bytes()[..self.prefix.len().min(KEY_BYTES_MAX)];
        let mut bytes = u16::try_from(prefix.len()).expect("a prefix is cut to a key's length").to_le_bytes().to_vec();
        bytes.extend(prefix);
        bytes.extend(self.after.map_or(&[][..], Key::as_bytes));
        bytes
    }

    /// The question in a payload.
    ///
    /// # Errors
    /// When the payload is cut short, the prefix is longer than a key or no text, or the key is not one.
    pub fn decode(payload: &'text [u8]) -> Result<Self, StatePayloadError> {
        const WHAT: &str = "a question for a list";
        let mut reader = Reader::new(payload);
        let prefix_bytes = usize::from(reader.u16(WHAT)?);
        let prefix = match reader.take(prefix_bytes, WHAT)? {
            [] => "",
            bytes => Key::from_bytes(bytes)?.as_str(),
        };
        let after = if reader.rest.is_empty() { None } else { Some(Key::from_bytes(reader.rest)?) };
        Ok(Self { prefix, after })
    }
}

impl ListPage {
    /// The answer: 1 if more follow, else 0, as 8 bytes; then each object as attributes, bytes of its key as 16 bits, key.
    ///
    /// At most `bytes_max` bytes: what does not fit is left to the next page.
    #[must_use]
    pub fn encode(&self, bytes_max: usize) -> Vec<u8> {
        let mut bytes = u64::from(self.more).to_le_bytes().to_vec();
        for object in &self.objects {
            let needed_bytes = ATTRIBUTES_BYTES + 2 + object.key.len();
            if bytes.len() + needed_bytes > bytes_max {
                bytes[..8].copy_from_slice(&1_u64.to_le_bytes());
                break;
            }
            bytes.extend(object.attributes.encode());
            bytes.extend(u16::try_from(object.key.len()).unwrap_or(u16::MAX).to_le_bytes());
            bytes.extend(object.key.as_bytes());
        }
        bytes
    }

    /// The page in an answer.
    ///
    /// # Errors
    /// When it is cut short, has more than [`STATE_LIST_PAGE_KEYS`] objects, or a key is not one.
    pub fn decode(answer: &[u8]) -> Result<Self, StatePayloadError> {
        const WHAT: &str = "a page of a list";
        let mut reader = Reader::new(answer);
        let more = match reader.u64(WHAT)? {
            0 => false,
            1 => true,
            value => return Err(StatePayloadError::Value { what: "whether more follow", value }),
        };
        let mut objects = Vec::new();
        while !reader.rest.is_empty() {
            if objects.len() == STATE_LIST_PAGE_KEYS {
                return Err(reader.wrong_length("a page within its limit"));
            }
            let attributes = Attributes::read(&mut reader)?;
            let key_bytes = usize::from(reader.u16(WHAT)?);
            let key = Key::from_bytes(reader.take(key_bytes, WHAT)?)?.as_str().to_owned();
            objects.push(ListedObject { key, attributes });
        }
        Ok(Self { objects, more })
    }
}

/// Takes fields off the front of a payload.
struct Reader<'bytes> {
    rest: &'bytes [u8],
    whole_bytes: usize,
}

impl<'bytes> Reader<'bytes> {
    fn new(bytes: &'bytes [u8]) -> Self {
        Self { rest: bytes, whole_bytes: bytes.len() }
    }

    fn wrong_length(&self, what: &'static str) -> StatePayloadError {
        StatePayloadError::Length { what, actual_bytes: self.whole_bytes }
    }

    fn take(&mut self, bytes: usize, what: &'static str) -> Result<&'bytes [u8], StatePayloadError> {
        let (taken, rest) = self.rest.split_at_checked(bytes).ok_or_else(|| self.wrong_length(what))?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], StatePayloadError> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or_else(|| self.wrong_length(what))?;
        self.rest = rest;
        Ok(*taken)
    }

    fn u64(&mut self, what: &'static str) -> Result<u64, StatePayloadError> {
        self.array(what).map(u64::from_le_bytes)
    }

    fn u32(&mut self, what: &'static str) -> Result<u32, StatePayloadError> {
        self.array(what).map(u32::from_le_bytes)
    }

    fn u16(&mut self, what: &'static str) -> Result<u16, StatePayloadError> {
        self.array(what).map(u16::from_le_bytes)
    }

    fn end(&self, what: &'static str) -> Result<(), StatePayloadError> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.wrong_length(what)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OBJECT: Attributes =
        Attributes { version: 7, modified_unix_ms: 1_800_000_000_000, type_id: 9, schema_version: 2, value_bytes: 3 };

    #[test]
    fn what_is_asked_reads_back_as_written() {
        let key = Key::new("notes/1").unwrap();
        for condition in [Condition::Any, Condition::Absent, Condition::Version(u64::MAX)] {
            let head = PutHead { condition, type_id: 5, schema_version: 6 };
            let mut payload = head.encode(key);
            assert!(payload.len().is_multiple_of(VALUE_ALIGNMENT), "a value must be aligned");
            payload.extend(b"value");
            assert_eq!(PutHead::decode(&payload), Ok((head, key, &b"value"[..])));
            assert_eq!(decode_delete(&encode_delete(condition, key)), Ok((condition, key)));
        }
        for (prefix, after) in [("", None), ("notes/", Some(key)), ("é", None)] {
            let question = ListQuestion { prefix, after };
            assert_eq!(ListQuestion::decode(&question.encode()), Ok(question));
        }
    }

    #[test]
    fn answers_read_back_as_written_and_missing_is_not_empty() {
        assert_eq!(Attributes::decode_answer(b""), Ok(None));
        let empty = Attributes { value_bytes: 0, ..OBJECT };
        assert_eq!(Attributes::decode_answer(&empty.encode()), Ok(Some((empty, &b""[..]))));
        let mut answer = OBJECT.encode().to_vec();
        answer.extend(b"abc");
        assert_eq!(Attributes::decode_answer(&answer), Ok(Some((OBJECT, &b"abc"[..]))));
        for written in [Written::Done { version: 3 }, Written::Refused { current: 0 }] {
            assert_eq!(Written::decode(&written.encode()), Ok(written));
        }
    }

    #[test]
    fn a_page_that_would_not_fit_is_cut_and_says_so() {
        let listed = |key: &str| ListedObject { key: key.into(), attributes: OBJECT };
        let page = ListPage { objects: vec![listed("a"), listed("b")], more: false };
        let whole = page.encode(usize::MAX);
        assert_eq!(ListPage::decode(&whole), Ok(page));
        let cut = ListPage::decode(&page_of_two().encode(whole.len() - 1)).unwrap();
        assert_eq!((cut.objects.len(), cut.more), (1, true));
    }

    fn page_of_two() -> ListPage {
        let listed = |key: &str| ListedObject { key: key.into(), attributes: OBJECT };
        ListPage { objects: vec![listed("a"), listed("b")], more: false }
    }

    #[test]
    fn every_cut_of_a_payload_is_refused() {
        let key = Key::new("k").unwrap();
        let put = PutHead::default().encode(key);
        assert!((0..put.len()).all(|cut| PutHead::decode(&put[..cut]).is_err()));
        let page = page_of_two().encode(usize::MAX);
        let entry_bytes = ATTRIBUTES_BYTES + 3;
        for cut in (0..page.len()).filter(|cut| *cut < 8 || !(cut - 8).is_multiple_of(entry_bytes)) {
            assert!(ListPage::decode(&page[..cut]).is_err(), "{cut} bytes of a page were accepted");
        }
        assert!(Written::decode(&[0; 15]).is_err() && Written::decode(&[0; 17]).is_err());
        assert!(Written::decode(&[9; 16]).is_err());
        assert!(decode_delete(&[0; 16]).is_err(), "a key has at least one byte");
        let mut unaligned = OBJECT.encode().to_vec();
        unaligned.extend(b"ab");
        assert!(Attributes::decode_answer(&unaligned).is_err());
    }
}
