//! An object as it was read: its attributes, and its value where the reply lies.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use praas_protocol::StateType;
use praas_protocol::state::Attributes;
use rkyv::api::high::HighDeserializer;
use rkyv::rancor::Error;
use rkyv::{Archived, Deserialize};

use crate::reply::Reply;
use crate::state::StateError;
use crate::typed::{Decode, access, to_value};

/// Bytes of an answer before the value: whatever begins at this offset is aligned as a reply is.
pub(super) const HEAD_BYTES: usize = 32;

/// An object that was read: its value and what else is known of it. Reads as the value's bytes.
///
/// It is what the object was when it was read; later versions do not change it. Where the lane is trusted, a large value
/// lies in the lane's memory until this is dropped.
pub struct StateValue {
    attributes: Attributes,
    reply: Reply,
}

impl StateValue {
    /// The object in an answer; `None` when the answer says that there is none.
    pub(super) fn from_reply(reply: Reply) -> Result<Option<Self>, StateError> {
        let attributes = match Attributes::decode_answer(&reply)? {
            Some((attributes, value)) => {
                debug_assert_eq!(value.len() + HEAD_BYTES, reply.len());
                attributes
            }
            None => return Ok(None),
        };
        Ok(Some(Self { attributes, reply }))
    }

    /// The value.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        self.reply.as_slice().get(HEAD_BYTES..).unwrap_or_default()
    }

    /// The value as a vector of its own.
    #[must_use]
    pub fn into_vec(self) -> Vec<u8> {
        let mut bytes = self.reply.into_vec();
        bytes.drain(..HEAD_BYTES.min(bytes.len()));
        bytes
    }

    /// Its version, for [`Condition::Version`](crate::Condition::Version).
    #[must_use]
    pub fn version(&self) -> u64 {
        self.attributes.version
    }

    /// When it was put, by the clock of the process's host.
    #[must_use]
    pub fn modified(&self) -> SystemTime {
        // A worker may have written anything; times beyond what the system counts are none.
        UNIX_EPOCH.checked_add(Duration::from_millis(self.attributes.modified_unix_ms)).unwrap_or(UNIX_EPOCH)
    }

    /// All that is known of it beside the value.
    #[must_use]
    pub fn attributes(&self) -> Attributes {
        self.attributes
    }
}

impl Deref for StateValue {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl AsRef<[u8]> for StateValue {
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl fmt::Debug for StateValue {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("StateValue").field("attributes", &self.attributes).finish_non_exhaustive()
    }
}

/// An object that was read as a `T`.
#[derive(Debug)]
pub struct TypedValue<T> {
    value: StateValue,
    typed: PhantomData<fn() -> T>,
}

impl<T: Decode + StateType> TypedValue<T> {
    pub(super) fn new(key: &str, value: StateValue) -> Result<Self, StateError> {
        let found = value.attributes;
        if (found.type_id, found.schema_version) != (T::TYPE_ID, T::SCHEMA_VERSION) {
            return Err(StateError::other_type::<T>(key, found));
        }
        Ok(Self { value, typed: PhantomData })
    }

    /// The value, checked with bounded depth and read where it lies.
    ///
    /// # Errors
    /// [`CallError::Undecodable`](crate::CallError::Undecodable) when the bytes are not a `T`.
    pub fn get(&self) -> Result<&Archived<T>, StateError> {
        Ok(access::<T>(&self.value)?)
    }

    /// The value as one of its own.
    ///
    /// # Errors
    /// [`CallError::Undecodable`](crate::CallError::Undecodable) when the bytes are not a `T`.
    pub fn to_value(&self) -> Result<T, StateError>
    where
        Archived<T>: Deserialize<T, HighDeserializer<Error>>,
    {
        Ok(to_value(&self.value)?)
    }

    /// Its version, for [`Condition::Version`](crate::Condition::Version).
    #[must_use]
    pub fn version(&self) -> u64 {
        self.value.version()
    }

    /// All that is known of it beside the value.
    #[must_use]
    pub fn attributes(&self) -> Attributes {
        self.value.attributes
    }

    /// The bytes.
    #[must_use]
    pub fn into_value(self) -> StateValue {
        self.value
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CallError;
    use crate::remote::ReplyBytes;

    #[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
    struct Note {
        text: String,
    }
    impl StateType for Note {
        const NAME: &'static str = "note";
        const SCHEMA_VERSION: u32 = 3;
    }

    fn answer(attributes: Attributes, value: &[u8]) -> Reply {
        let attributes = Attributes { value_bytes: u32::try_from(value.len()).unwrap(), ..attributes };
        Reply::received(ReplyBytes::Owned([&attributes.encode()[..], value].concat()))
    }

    #[test]
    fn an_object_reads_as_it_was_answered_and_missing_is_not_empty() {
        assert!(StateValue::from_reply(Reply::received(ReplyBytes::Owned(Vec::new()))).unwrap().is_none());
        let attributes = Attributes { version: 7, modified_unix_ms: 1500, ..Attributes::default() };
        let empty = StateValue::from_reply(answer(attributes, b"")).unwrap().unwrap();
        assert!(empty.is_empty() && empty.version() == 7);
        let value = StateValue::from_reply(answer(attributes, b"abc")).unwrap().unwrap();
        assert_eq!((value.as_slice(), value.attributes().value_bytes), (&b"abc"[..], 3));
        assert_eq!(value.modified(), UNIX_EPOCH + Duration::from_millis(1500));
        assert_eq!(value.into_vec(), b"abc");
    }

    #[test]
    fn an_answer_of_another_length_than_it_says_is_malformed() {
        for wrong in [vec![0; 31], vec![0; 33], vec![0xff; 40], vec![1]] {
            let error = StateValue::from_reply(Reply::received(ReplyBytes::Owned(wrong))).unwrap_err();
            assert!(matches!(error, StateError::Malformed { .. }), "{error}");
        }
    }

    #[test]
    fn a_typed_object_is_read_as_its_own_type_and_version_only() {
        let text = "a text that is longer than what lies inline";
        let archive = rkyv::to_bytes::<Error>(&Note { text: text.to_owned() }).unwrap();
        let of = |type_id, schema_version| {
            let attributes = Attributes { type_id, schema_version, ..Attributes::default() };
            let value = StateValue::from_reply(answer(attributes, &archive)).unwrap().unwrap();
            TypedValue::<Note>::new("k", value)
        };
        let read = of(Note::TYPE_ID, 3).unwrap();
        assert_eq!(read.get().unwrap().text.as_str(), text);
        assert_eq!(read.to_value().unwrap().text, text);
        for (type_id, schema_version) in [(0, 0), (Note::TYPE_ID, 2), (!Note::TYPE_ID, 3)] {
            assert!(matches!(of(type_id, schema_version), Err(StateError::OtherType { .. })));
        }
    }

    #[test]
    fn an_object_that_only_says_it_is_of_a_type_is_not_believed() {
        let attributes = Attributes { type_id: Note::TYPE_ID, schema_version: 3, ..Attributes::default() };
        for junk in [&[][..], &[1, 2, 3], &[0x9f; 64]] {
            let value = StateValue::from_reply(answer(attributes, junk)).unwrap().unwrap();
            let typed = TypedValue::<Note>::new("k", value).unwrap();
            assert!(matches!(typed.get(), Err(StateError::Call(CallError::Undecodable { .. }))), "{junk:?}");
            assert!(typed.to_value().is_err());
        }
    }
}
