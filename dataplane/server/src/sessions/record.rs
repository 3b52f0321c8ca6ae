//! What outlives a server of a session: its memory's name with the keeper, and what is said of it in there.

use std::fmt;
use std::sync::Arc;

use praas_protocol::limits::STATE_BYTES_UNIT;
use praas_protocol::message::SessionId;
use praas_protocol::{Name, codec};
use praas_shm::objects::{Condition, Key, Meta, Namespace, Objects};
use praas_shm::{Scratch, WorkerTag};
use serde::{Deserialize, Serialize};

use crate::limits::{SESSION_MAILBOX_BYTES_MIN, SESSION_MAILBOX_PAYLOADS};

/// The object that says what a session is; its key no client can name.
const RECORD_KEY: &str = "session";

/// What the next server must know of a session.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct SessionRecord {
    pub(super) session: SessionId,
    pub(super) secret: u128,
    pub(super) application: Name,
    pub(super) principal: Name,
    pub(super) incarnation: u64,
    pub(super) payload_bytes_max: u32,
}

/// What the keeper calls the memory of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SessionName {
    pub(super) application: Name,
    pub(super) session: SessionId,
    pub(super) bytes: u64,
}

impl fmt::Display for SessionName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "session/{}/{}/{:x}", self.application, self.session, self.bytes)
    }
}

impl SessionName {
    /// What this name says; `None` for the name of something else.
    pub(super) fn parse(name: &str) -> Option<Self> {
        let mut pieces = name.splitn(4, '/');
        let kind = pieces.next()?;
        let application = pieces.next()?.parse().ok()?;
        let session = SessionId(u128::from_str_radix(pieces.next()?, 16).ok()?);
        let bytes = u64::from_str_radix(pieces.next()?, 16).ok()?;
        let parsed = Self { application, session, bytes };
        // Nothing else writes such names, and there is one way to write each.
        (kind == "session" && parsed.to_string() == name).then_some(parsed)
    }
}

/// Bytes of the segment of a session whose calls have payloads up to this size.
pub(super) fn mailbox_bytes(payload_bytes_max: u32) -> u64 {
    (u64::from(payload_bytes_max) * SESSION_MAILBOX_PAYLOADS)
        .max(SESSION_MAILBOX_BYTES_MIN)
        .next_multiple_of(STATE_BYTES_UNIT)
}

pub(super) fn write_record(objects: &Arc<Objects>, record: &SessionRecord) -> Result<(), String> {
    let bytes = codec::encode(record).map_err(|error| error.to_string())?;
    let key = Key::new(Namespace::SYSTEM, RECORD_KEY).map_err(|error| error.to_string())?;
    let store = objects.worker_store(WorkerTag::new(0, 1)).map_err(|error| error.to_string())?;
    store.put(&key, &bytes, Meta::RAW, Condition::Any).map(drop).map_err(|error| error.to_string())
}

pub(super) fn read_record(objects: &Arc<Objects>) -> Result<SessionRecord, String> {
    let key = Key::new(Namespace::SYSTEM, RECORD_KEY).map_err(|error| error.to_string())?;
    let store = objects.worker_store(WorkerTag::new(0, 1)).map_err(|error| error.to_string())?;
    let guard = store.get(&key).map_err(|error| error.to_string())?.ok_or("it does not say what it is")?;
    let mut scratch = Scratch::new();
    codec::decode(guard.value(&mut scratch)).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use praas_shm::objects::ObjectsLayout;

    use super::*;
    use crate::limits::KEEPER_NAME_BYTES_MAX;

    fn name() -> SessionName {
        SessionName { application: "hello".parse().unwrap(), session: SessionId(7 << 100), bytes: 4 << 20 }
    }

    #[test]
    fn names_of_sessions_read_back_as_written_and_others_are_not_mistaken() {
        let text = name().to_string();
        assert_eq!(SessionName::parse(&text), Some(name()));
        for other in [text.to_uppercase(), format!("{text}/"), text.replace("session", "lane"), text[1..].into()] {
            assert_eq!(SessionName::parse(&other), None, "{other}");
        }
        for cut in 0..text.len() {
            assert_ne!(SessionName::parse(&text[..cut]), Some(name()), "{cut}");
        }
        let longest = SessionName { application: "a".repeat(63).parse().unwrap(), bytes: u64::MAX, ..name() };
        assert!(longest.to_string().len() <= KEEPER_NAME_BYTES_MAX);
        assert!(crate::process_memory::parse_memory_name(&text).is_none());
    }

    #[test]
    fn a_session_is_found_again_in_its_memory() {
        let objects = Arc::new(Objects::create(ObjectsLayout::for_limit(4 << 20).unwrap()).unwrap());
        assert!(read_record(&objects).is_err());
        let record = SessionRecord {
            session: SessionId(3),
            secret: 9,
            application: "hello".parse().unwrap(),
            principal: "local".parse().unwrap(),
            incarnation: 4,
            payload_bytes_max: 77,
        };
        write_record(&objects, &record).unwrap();
        let back = read_record(&objects).unwrap();
        assert_eq!(format!("{back:?}"), format!("{record:?}"));
    }

    #[test]
    fn a_mailbox_holds_several_of_the_largest_messages() {
        for payload_bytes_max in [1, 1 << 20, 64 << 20] {
            let bytes = mailbox_bytes(payload_bytes_max);
            assert!(bytes >= SESSION_MAILBOX_PAYLOADS * u64::from(payload_bytes_max));
            assert!(ObjectsLayout::for_limit(bytes).is_ok());
        }
    }
}
