//! What records make of what there was before them.
//!
//! Bounded by what its input says that there is: pieces that no record names are kept for each stream once, up to the
//! longest value.

use std::collections::BTreeMap;

use praas_protocol::message::{Address, MessageId};

use crate::mailbox::{SOURCES_MAX, WINDOW_SEQUENCES};
use crate::objects::VALUE_BYTES_MAX;

use super::contents::{Contents, KeptMessage, KeptObject, KeptSource};
use super::record::{BadRecord, Record, RecordBytes, Records};

/// Words of a window: the floor moves by whole words, so one more than the window has.
#[allow(clippy::cast_possible_truncation, reason = "a few")]
const WINDOW_WORDS: usize = (WINDOW_SEQUENCES / 64 + 1) as usize;

/// Records that do not go with what was before them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// Something is no record.
    #[error(transparent)]
    Record(#[from] BadRecord),
    /// A position is missing, or came twice.
    #[error("the log goes on with position {actual} after {after}")]
    Gap {
        /// The last position.
        after: u64,
        /// The next one.
        actual: u64,
    },
    /// A record speaks of what is not there.
    #[error("the record of position {position} speaks of {what} that is not there")]
    Missing {
        /// Its position.
        position: u64,
        /// What it speaks of.
        what: &'static str,
    },
    /// Pieces without end.
    #[error("pieces of {bytes} bytes are longer than anything that can be put")]
    TooLong {
        /// Their bytes.
        bytes: usize,
    },
}

/// Contents to which records are added one after the other.
#[derive(Debug, Clone, Default)]
pub struct Replay {
    contents: Contents,
    pieces: BTreeMap<u8, Vec<u8>>,
}

impl Replay {
    /// Begins with what there was at its position.
    #[must_use]
    pub fn new(contents: Contents) -> Self {
        Self { contents, pieces: BTreeMap::new() }
    }

    /// What they have made so far.
    #[must_use]
    pub fn contents(&self) -> &Contents {
        &self.contents
    }

    /// The same, taken out.
    #[must_use]
    pub fn into_contents(self) -> Contents {
        self.contents
    }

    /// Adds all records in `bytes`.
    ///
    /// # Errors
    /// [`ReplayError`]; those before the wrong one are added.
    pub fn apply_all(&mut self, bytes: &[u8]) -> Result<(), ReplayError> {
        let mut records = Records::new(bytes);
        while let Some(record) = records.next_record()? {
            self.apply(&record)?;
        }
        Ok(())
    }

    /// Adds a record.
    ///
    /// # Errors
    /// [`ReplayError`]: nothing was added.
    pub fn apply(&mut self, record: &Record<'_>) -> Result<(), ReplayError> {
        if let Some(actual) = record.position() {
            let after = self.contents.position;
            if Some(actual) != after.checked_add(1) {
                return Err(ReplayError::Gap { after, actual });
            }
        }
        match *record {
            Record::Put { position, key, meta, modified_unix_ms, value } => {
                let value = self.whole(value, position)?;
                let object = KeptObject { version: position, meta, modified_unix_ms, value };
                self.contents.objects.insert((key.namespace().0, key.text().to_owned()), object);
            }
            Record::Deleted { position, key } => {
                let name = (key.namespace().0, key.text().to_owned());
                let deleted = self.contents.objects.remove(&name);
                deleted.ok_or(ReplayError::Missing { position, what: "an object" })?;
            }
            Record::Arrived { position, source, id, key, filtered_at_s, payload } => {
                let payload = self.whole(payload, position)?;
                let message = KeptMessage { source, key: key.as_str().to_owned(), id, payload };
                self.contents.messages.insert(position, message);
                if let Some(now_s) = filtered_at_s {
                    self.note(&source, id, now_s);
                }
            }
            Record::Removed { position, arrivals } => {
                let arrivals = || arrivals.iter().map(|arrival| u64::from_le_bytes(*arrival));
                if !arrivals().all(|arrival| self.contents.messages.contains_key(&arrival)) {
                    return Err(ReplayError::Missing { position, what: "a message" });
                }
                arrivals().for_each(|arrival| drop(self.contents.messages.remove(&arrival)));
            }
            Record::Piece { stream, offset, bytes } => {
                let pieces = self.pieces.entry(stream).or_default();
                // Of one that is taken up in its middle nothing is known: whoever speaks of it finds it too short.
                let kept = usize::try_from(offset).unwrap_or(usize::MAX).min(pieces.len());
                pieces.truncate(kept);
                if kept as u64 == offset {
                    if pieces.len() + bytes.len() > VALUE_BYTES_MAX as usize {
                        return Err(ReplayError::TooLong { bytes: pieces.len() + bytes.len() });
                    }
                    pieces.extend_from_slice(bytes);
                }
            }
        }
        self.contents.position = record.position().unwrap_or(self.contents.position);
        Ok(())
    }

    fn whole(&mut self, bytes: RecordBytes<'_>, position: u64) -> Result<Vec<u8>, ReplayError> {
        match bytes {
            RecordBytes::Here(bytes) => Ok(bytes.to_vec()),
            RecordBytes::Ahead { stream, bytes } => {
                let pieces = self.pieces.remove(&stream).filter(|pieces| pieces.len() == bytes as usize);
                pieces.ok_or(ReplayError::Missing { position, what: "pieces" })
            }
        }
    }

    /// As the mailbox's own filter does it.
    #[allow(clippy::cast_possible_truncation, reason = "a remainder of a small number")]
    fn note(&mut self, source: &Address, id: MessageId, now_s: u64) {
        let (sources, name) = (&mut self.contents.sources, source.to_bytes());
        if !sources.contains_key(&name) && sources.len() as u64 >= SOURCES_MAX {
            let oldest = sources.iter().min_by_key(|(_, kept)| kept.used_s).map(|(name, _)| *name);
            oldest.and_then(|oldest| sources.remove(&oldest));
        }
        let begun = KeptSource { incarnation: 0, floor: 0, window: vec![0; WINDOW_WORDS], used_s: now_s };
        let kept = sources.entry(name).or_insert(begun);
        if kept.incarnation != id.incarnation {
            (kept.incarnation, kept.floor) = (id.incarnation, 0);
            kept.window.fill(0);
        }
        let words = WINDOW_WORDS as u64;
        let (first, last) = (kept.floor / 64, id.sequence / 64);
        if last.wrapping_sub(first) >= words {
            let new_first = last.saturating_sub(words - 1);
            for word in new_first.max(first + words)..=last {
                kept.window[(word % words) as usize] = 0;
            }
            kept.floor = new_first * 64;
        }
        kept.window[(last % words) as usize] |= 1 << (id.sequence % 64);
        kept.used_s = now_s;
    }
}
