//! A remainder as bytes, little endian. What reads them keeps a checksum; what is decoded here believes no field.
//!
//! ```text
//! magic 8 │ version 4 │ last sequence 8
//! messages 4, each:  arrival 8 │ incarnation 8 │ sequence 8 │ marks 1 │ source 64 │ slot of its lane 2, if it is marked so │ text
//! sources 4, each:   address 64 │ incarnation 8 │ floor 8 │ used 8 │ words of the window 2 │ words 8 each
//! calls 4, each:     hash 8
//! lanes 4, each:     slot 2 │ entries 4 │ blocks 4 │ arena bytes 4 │ source 64 │ incarnation 8 │ repeats 1 │ messages 4, each:
//!                    incarnation 8 │ sequence 8 │ text
//! a text:            key bytes 1 │ payload bytes 4 │ key │ payload
//! marks:             1 for redelivered, 2 for a payload in a lane
//! ```
//!
//! Version 1 ends before the lanes, and has no mark for them.

use praas_protocol::Key;
use praas_protocol::control::MessageLaneGeometry;
use praas_protocol::message::{ADDRESS_BYTES, Address, MessageId};

use crate::log_ring::{KeptMessage, KeptSource};
use crate::mailbox::{LANES, MESSAGE_BYTES_MAX, MESSAGES_BOUND, SOURCES_MAX, WINDOW_SEQUENCES};
use crate::message_lane::segment_bytes;

use super::{KeptLane, KeptMail, Remainder, WaitingMail};

const MAGIC: [u8; 8] = *b"praasrem";
/// Of the format; whoever changes it reads the one before as well.
const VERSION: u32 = 2;
/// The one before, without lanes.
const VERSION_WITHOUT_LANES: u32 = 1;
/// Marks of a message.
const REDELIVERED: u8 = 1;
const IN_LANE: u8 = 2;
/// Words of a window: the floor moves by whole words, so one more than the window has.
const WINDOW_WORDS: u64 = WINDOW_SEQUENCES / 64 + 1;

/// Bytes that are no remainder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadRemainder {
    /// It is of a format that this release does not read.
    #[error(
        "mailbox and calls are of format {actual}, this release reads {newest} and older ones: use a newer release"
    )]
    Version {
        /// Its format.
        actual: u32,
        /// The newest that is known here.
        newest: u32,
    },
    /// It ends before it should, or after.
    #[error("mailbox and calls end at byte {at}, where {what} was to come")]
    Cut {
        /// Where.
        at: usize,
        /// What is missing.
        what: &'static str,
    },
    /// A field says what none can.
    #[error("the {what} before byte {at} of mailbox and calls cannot be")]
    Field {
        /// Where it ends.
        at: usize,
        /// Which field.
        what: &'static str,
    },
}

impl Remainder {
    /// As bytes.
    ///
    /// # Panics
    /// If it has more of something than any mailbox has.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let count = |of: usize| u32::try_from(of).expect("limits are below 2^32").to_le_bytes();
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&self.last_sequence.to_le_bytes());
        bytes.extend_from_slice(&count(self.mail.len()));
        let add_text = |bytes: &mut Vec<u8>, key: &str, payload: &[u8]| {
            bytes.push(u8::try_from(key.len()).expect("a key has at most 255 bytes"));
            bytes.extend_from_slice(&count(payload.len()));
            bytes.extend_from_slice(key.as_bytes());
            bytes.extend_from_slice(payload);
        };
        for KeptMail { arrival, is_redelivered, lane, message } in &self.mail {
            for word in [*arrival, message.id.incarnation, message.id.sequence] {
                bytes.extend_from_slice(&word.to_le_bytes());
            }
            let mark = |is_marked, mark| if is_marked { mark } else { 0 };
            bytes.push(mark(*is_redelivered, REDELIVERED) | mark(lane.is_some(), IN_LANE));
            bytes.extend_from_slice(&message.source.to_bytes());
            lane.iter().for_each(|slot| bytes.extend_from_slice(&slot.to_le_bytes()));
            add_text(&mut bytes, &message.key, &message.payload);
        }
        bytes.extend_from_slice(&count(self.sources.len()));
        for (address, source) in &self.sources {
            bytes.extend_from_slice(address);
            for word in [source.incarnation, source.floor, source.used_s] {
                bytes.extend_from_slice(&word.to_le_bytes());
            }
            bytes.extend_from_slice(&u16::try_from(source.window.len()).expect("a few").to_le_bytes());
            source.window.iter().for_each(|word| bytes.extend_from_slice(&word.to_le_bytes()));
        }
        bytes.extend_from_slice(&count(self.calls.len()));
        self.calls.iter().for_each(|hash| bytes.extend_from_slice(&hash.to_le_bytes()));
        bytes.extend_from_slice(&count(self.lanes.len()));
        for KeptLane { slot, geometry, source, incarnation, repeats, waiting } in &self.lanes {
            bytes.extend_from_slice(&slot.to_le_bytes());
            for size in [geometry.entries, geometry.blocks, geometry.arena_bytes] {
                bytes.extend_from_slice(&size.to_le_bytes());
            }
            bytes.extend_from_slice(&source.to_bytes());
            bytes.extend_from_slice(&incarnation.to_le_bytes());
            bytes.push(u8::from(*repeats));
            bytes.extend_from_slice(&count(waiting.len()));
            for WaitingMail { id, key, payload } in waiting {
                bytes.extend_from_slice(&id.incarnation.to_le_bytes());
                bytes.extend_from_slice(&id.sequence.to_le_bytes());
                add_text(&mut bytes, key, payload);
            }
        }
        bytes
    }

    /// Reads what [`Remainder::to_bytes`] has written.
    ///
    /// # Errors
    /// [`BadRemainder`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BadRemainder> {
        let mut fields = Fields { bytes, at: 0 };
        if fields.array("magic")? != MAGIC {
            return Err(fields.wrong("magic"));
        }
        let version = u32::from_le_bytes(fields.array("version")?);
        let has_lanes = version == VERSION;
        if !has_lanes && version != VERSION_WITHOUT_LANES {
            return Err(BadRemainder::Version { actual: version, newest: VERSION });
        }
        let mut remainder = Self { last_sequence: fields.word("sequence")?, ..Self::default() };
        for _ in 0..fields.count("messages", MESSAGES_BOUND)? {
            let mail = fields.mail(has_lanes)?;
            if remainder.mail.last().is_some_and(|before| before.arrival >= mail.arrival) {
                return Err(fields.wrong("order of messages"));
            }
            remainder.mail.push(mail);
        }
        for _ in 0..fields.count("sources", SOURCES_MAX)? {
            remainder.sources.push(fields.source()?);
        }
        for _ in 0..fields.count("calls", u64::from(u32::MAX))? {
            remainder.calls.push(fields.word("hash of a call")?);
        }
        for _ in 0..if has_lanes { fields.count("lanes", LANES as u64)? } else { 0 } {
            let lane = fields.lane()?;
            if remainder.lanes.last().is_some_and(|before| before.slot >= lane.slot) {
                return Err(fields.wrong("order of lanes"));
            }
            remainder.lanes.push(lane);
        }
        let is_there = |slot: &u16| remainder.lanes.iter().any(|lane| lane.slot == *slot);
        if !remainder.mail.iter().filter_map(|mail| mail.lane.as_ref()).all(is_there) {
            return Err(fields.wrong("lane of a message"));
        }
        if fields.at == bytes.len() { Ok(remainder) } else { Err(fields.wrong("end")) }
    }
}

/// What is left to be read.
struct Fields<'b> {
    bytes: &'b [u8],
    at: usize,
}

impl<'b> Fields<'b> {
    fn wrong(&self, what: &'static str) -> BadRemainder {
        BadRemainder::Field { at: self.at, what }
    }

    fn take(&mut self, count: usize, what: &'static str) -> Result<&'b [u8], BadRemainder> {
        let taken = self.bytes[self.at..].get(..count).ok_or(BadRemainder::Cut { at: self.bytes.len(), what })?;
        self.at += count;
        Ok(taken)
    }

    fn array<const BYTES: usize>(&mut self, what: &'static str) -> Result<[u8; BYTES], BadRemainder> {
        let taken = self.take(BYTES, what)?;
        Ok(taken.try_into().expect("so many were taken"))
    }

    fn word(&mut self, what: &'static str) -> Result<u64, BadRemainder> {
        self.array(what).map(u64::from_le_bytes)
    }

    fn count(&mut self, what: &'static str, limit: u64) -> Result<u32, BadRemainder> {
        let count = u32::from_le_bytes(self.array(what)?);
        if u64::from(count) > limit { Err(self.wrong(what)) } else { Ok(count) }
    }

    fn mail(&mut self, has_lanes: bool) -> Result<KeptMail, BadRemainder> {
        let arrival = self.word("arrival")?;
        let id = self.id()?;
        let [marks] = self.array("marks of a message")?;
        if marks & !REDELIVERED != 0 && !(has_lanes && marks & !(REDELIVERED | IN_LANE) == 0) {
            return Err(self.wrong("marks of a message"));
        }
        let source = self.address("source")?;
        let lane = if marks & IN_LANE == 0 { None } else { Some(u16::from_le_bytes(self.array("lane of a message")?)) };
        let (key, payload) = self.text()?;
        let is_redelivered = marks & REDELIVERED != 0;
        Ok(KeptMail { arrival, is_redelivered, lane, message: KeptMessage { source, key, id, payload } })
    }

    fn id(&mut self) -> Result<MessageId, BadRemainder> {
        Ok(MessageId { incarnation: self.word("incarnation")?, sequence: self.word("sequence")? })
    }

    fn address(&mut self, what: &'static str) -> Result<Address, BadRemainder> {
        let address = Address::from_bytes(&self.array::<ADDRESS_BYTES>(what)?);
        address.ok_or_else(|| self.wrong(what))
    }

    fn text(&mut self) -> Result<(String, Vec<u8>), BadRemainder> {
        let [key_bytes] = self.array("length of a key")?;
        let payload_bytes = u32::from_le_bytes(self.array("length of a payload")?);
        if payload_bytes > MESSAGE_BYTES_MAX {
            return Err(self.wrong("length of a payload"));
        }
        let key = self.take(usize::from(key_bytes), "key")?;
        let key = Key::from_bytes(key).map_err(|_| self.wrong("key"))?.as_str().to_owned();
        Ok((key, self.take(payload_bytes as usize, "payload")?.to_vec()))
    }

    fn lane(&mut self) -> Result<KeptLane, BadRemainder> {
        let slot = u16::from_le_bytes(self.array("slot of a lane")?);
        let mut size = || self.array("size of a lane").map(u32::from_le_bytes);
        let geometry = MessageLaneGeometry { entries: size()?, blocks: size()?, arena_bytes: size()? };
        if usize::from(slot) >= LANES || segment_bytes(&geometry).is_err() {
            return Err(self.wrong("sizes of a lane"));
        }
        let (source, incarnation) = (self.address("source of a lane")?, self.word("incarnation")?);
        let repeats = match self.array("kind of a lane")? {
            [0] => false,
            [1] => true,
            _ => return Err(self.wrong("kind of a lane")),
        };
        let mut waiting = Vec::new();
        for _ in 0..self.count("messages of a lane", geometry.entries.into())? {
            let id = self.id()?;
            let (key, payload) = self.text()?;
            waiting.push(WaitingMail { id, key, payload });
        }
        Ok(KeptLane { slot, geometry, source, incarnation, repeats, waiting })
    }

    fn source(&mut self) -> Result<([u8; ADDRESS_BYTES], KeptSource), BadRemainder> {
        let address = self.address("address")?.to_bytes();
        let (incarnation, floor) = (self.word("incarnation")?, self.word("floor")?);
        let used_s = self.word("time of use")?;
        let words = u16::from_le_bytes(self.array("size of a window")?);
        if u64::from(words) != WINDOW_WORDS || !floor.is_multiple_of(64) {
            return Err(self.wrong("window"));
        }
        let window = (0..words).map(|_| self.word("window")).collect::<Result<_, _>>()?;
        Ok((address, KeptSource { incarnation, floor, window, used_s }))
    }
}
