//! State and mailbox of a process as plain data: made of records, or found in a segment.

use std::collections::BTreeMap;
use std::time::Duration;

use praas_protocol::message::{ADDRESS_BYTES, Address, MessageId};

use crate::copy;
use crate::mailbox::lasting;
use crate::objects::layout::header::POSITION;
use crate::objects::lock::{self, Locked};
use crate::objects::{LockOwner, Meta, Objects, RecoverError, StateError, everything};

/// An object as it is kept outside of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptObject {
    /// Its version.
    pub version: u64,
    /// What its writer said.
    pub meta: Meta,
    /// When it was published.
    pub modified_unix_ms: u64,
    /// Its value.
    pub value: Vec<u8>,
}

/// A message as it is kept outside of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptMessage {
    /// Who sent it.
    pub source: Address,
    /// Its key.
    pub key: String,
    /// Its id.
    pub id: MessageId,
    /// Its payload.
    pub payload: Vec<u8>,
}

/// What is remembered of a source that may repeat its messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptSource {
    /// Its life.
    pub incarnation: u64,
    /// The lowest sequence that is remembered, a multiple of 64.
    pub floor: u64,
    /// A bit for each sequence from the floor on; sequence `s` has bit `s % 64` of word `s / 64` modulo their number.
    pub window: Vec<u64>,
    /// When it was heard of last, in seconds since 1970.
    pub used_s: u64,
}

impl KeptSource {
    /// Whether a message of this id is known to have come.
    #[must_use]
    pub fn knows(&self, id: MessageId) -> bool {
        let words = self.window.len() as u64;
        let is_within = id.sequence >= self.floor && (id.sequence - self.floor) / 64 < words;
        let word = (id.sequence / 64).checked_rem(words).and_then(|word| self.window.get(usize::try_from(word).ok()?));
        id.incarnation == self.incarnation && is_within && word.is_some_and(|word| word & 1 << (id.sequence % 64) != 0)
    }
}

/// Everything of a process that is to last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contents {
    /// The position at which it was so.
    pub position: u64,
    /// Objects by namespace and key.
    pub objects: BTreeMap<(u8, String), KeptObject>,
    /// Messages by the positions at which they arrived: each queue's are in their order.
    pub messages: BTreeMap<u64, KeptMessage>,
    /// Sources by their addresses.
    pub sources: BTreeMap<[u8; ADDRESS_BYTES], KeptSource>,
}

impl Contents {
    /// Server: what there is now. Keeps writers out meanwhile.
    ///
    /// # Errors
    /// [`RecoverError::Busy`] while somebody writes, [`RecoverError::Corrupt`].
    pub fn of(objects: &Objects) -> Result<Self, RecoverError> {
        let locked = lock::acquire(objects.space(), LockOwner::Server, Duration::ZERO)?;
        Ok(Self::read(objects, &locked)?)
    }

    fn read(objects: &Objects, locked: &Locked<'_>) -> Result<Self, StateError> {
        let space = locked.space();
        let bytes_at = |offset: usize, bytes: usize| {
            let mut copy = vec![0; bytes];
            // SAFETY: `bytes` of the objects checks that the range is inside the segment.
            unsafe { copy::from_shared(objects.bytes(offset, bytes), &mut copy) };
            copy
        };
        let mut contents = Self { position: space.words.load(POSITION), ..Self::default() };
        everything::objects(space, (0, 1), |object| {
            let text = object.key_text(space);
            let text = text.ok_or_else(|| StateError::corrupt("key of an object", object.place.at()))?;
            if object.is_stub() {
                return Err(StateError::corrupt("object whose value is still in storage", object.place.at()));
            }
            let header = object.header(space);
            let kept = KeptObject {
                version: header.version,
                meta: header.meta,
                modified_unix_ms: header.modified_unix_ms,
                value: bytes_at(object.value().offset, object.value().bytes),
            };
            contents.objects.insert((object.namespace().0, text), kept);
            Ok(())
        })?;
        lasting::messages(space, |source, key, message| {
            let key = String::from_utf8(key);
            let key = key.map_err(|_| StateError::corrupt("key of a queue", message.arrival_at))?;
            let (offset, bytes) = message.payload_in_segment()?;
            let payload = bytes_at(offset, bytes);
            contents.messages.insert(message.arrival, KeptMessage { source, key, id: message.id, payload });
            Ok(())
        })?;
        lasting::sources(space, |address, source| {
            contents.sources.insert(address, source);
        })?;
        Ok(contents)
    }
}
