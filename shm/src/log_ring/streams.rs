//! Which part of a log is needed by values that are longer than a record: their pieces come before the record that names them,
//! and anything may come in between.

use std::collections::BTreeMap;

use super::record::{Record, RecordBytes};

/// Spans that are remembered one by one; beyond, they are taken together, and a log is kept for longer than it had to be.
const SPANS_MAX: usize = 4096;

/// What was seen of pieces; see the module's text.
#[derive(Debug, Clone, Default)]
pub(super) struct Streams {
    /// Position after which the pieces of a stream began whose record has not come.
    open: BTreeMap<u8, u64>,
    /// The same of those whose record came, and its position.
    spans: Vec<(u64, u64)>,
}

impl Streams {
    /// Nothing is known of what was before a position: all of it is needed until that is kept elsewhere.
    pub(super) fn until(position: u64) -> Self {
        Self { open: BTreeMap::new(), spans: vec![(0, position)] }
    }

    /// The next record; `position` is the last one that was seen, its own included.
    pub(super) fn note(&mut self, record: &Record<'_>, position: u64) {
        match record {
            Record::Piece { stream, offset: 0, .. } => {
                self.open.insert(*stream, position);
            }
            Record::Piece { stream, .. } => {
                self.open.entry(*stream).or_insert(0);
            }
            Record::Put { value: RecordBytes::Ahead { stream, .. }, .. }
            | Record::Arrived { payload: RecordBytes::Ahead { stream, .. }, .. } => {
                if let Some(begun) = self.open.remove(stream) {
                    self.spans.push((begun, position));
                    if self.spans.len() > SPANS_MAX {
                        let fold = |all: (u64, u64), span: &(u64, u64)| (all.0.min(span.0), all.1.max(span.1));
                        self.spans = vec![self.spans.iter().fold((begun, position), fold)];
                    }
                }
            }
            _ => {}
        }
    }

    /// Up to where nothing is needed when all up to `position` is kept elsewhere; `None` for nowhere.
    pub(super) fn not_needed(&mut self, position: u64) -> Option<u64> {
        self.spans.retain(|(_, end)| *end > position);
        let begun = self.open.values().chain(self.spans.iter().map(|(begun, _)| begun));
        // What began after a position may lie right behind it, in the piece of the log that ends there.
        begun.map(|begun| begun.checked_sub(1)).chain([Some(position)]).min().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::{Encoding, Key, Meta, Namespace};

    #[test]
    fn pieces_are_needed_until_their_record_is_kept_elsewhere() {
        let mut streams = Streams::default();
        let piece = |stream, offset| Record::Piece { stream, offset, bytes: &[] };
        let put = |position, stream| Record::Put {
            position,
            key: Key::new(Namespace::USER, "k").unwrap(),
            meta: Meta { type_id: 0, schema_version: 0, encoding: Encoding::Raw },
            modified_unix_ms: 0,
            value: RecordBytes::Ahead { stream, bytes: 1 },
        };
        assert_eq!(streams.not_needed(7), Some(7));
        streams.note(&piece(3, 0), 7);
        streams.note(&piece(3, 64), 9);
        assert_eq!(streams.not_needed(9), Some(6));
        streams.note(&put(10, 3), 10);
        assert_eq!((streams.not_needed(9), streams.not_needed(10)), (Some(6), Some(10)));
        streams.note(&piece(4, 0), 0);
        assert_eq!(streams.not_needed(20), None);
        // A stream that begins anew has given up what it had.
        streams.note(&piece(4, 0), 20);
        assert_eq!(streams.not_needed(20), Some(19));
        for position in 0..SPANS_MAX as u64 + 2 {
            streams.note(&piece(4, 0), 30 + position);
            streams.note(&put(31 + position, 4), 31 + position);
        }
        assert!(streams.spans.len() < 4);
        assert_eq!(streams.not_needed(33), Some(29));
        assert_eq!(Streams::until(5).not_needed(4), None);
        assert_eq!(Streams::until(5).not_needed(5), Some(5));
    }
}
