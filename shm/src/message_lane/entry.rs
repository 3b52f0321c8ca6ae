//! The ring of a message lane: entries that are themselves the queue, filled by one sender, read by one receiver at a time.
//!
//! An entry is four cache lines: a stamp, the message's id and shape, then its text: key and payload, or block and key. The
//! stamp of position p is p + 1: it says "published" and "of this turn" in one word, so the receiver polls the very word
//! that the sender publishes, and writes nothing into the ring at all. What is not needed is not touched: a message of up to
//! 32 bytes of key and payload is one cache line, one of 96 bytes two.
//!
//! A receiver reads an entry as often as it likes until it has told the sender that it is consumed (invariants 2 and 3 of
//! [`super`]).

use crate::sync::{AtomicU64, Ordering};

/// Words of text in an entry.
#[cfg(not(loom))]
pub(crate) const TEXT_WORDS: usize = 28;
/// Enough for a model.
#[cfg(loom)]
pub(crate) const TEXT_WORDS: usize = 1;

/// One message in the ring. All fields are claims of the sender until checked.
#[repr(C, align(256))]
#[derive(Debug)]
pub(crate) struct Entry {
    /// Position + 1. Released by the sender in [`publish`], acquired in [`has_arrived`].
    stamp: AtomicU64,
    /// Which life of the source sends.
    pub(crate) incarnation: AtomicU64,
    /// The source's own count of its messages.
    pub(crate) sequence: AtomicU64,
    /// See [`super::shape`].
    pub(crate) shape: AtomicU64,
    /// Key and payload, or the block's offset and the key.
    pub(crate) text: [AtomicU64; TEXT_WORDS],
}

#[cfg(not(loom))]
const _: () = {
    use std::mem::{offset_of, size_of};
    assert!(size_of::<Entry>() == 256);
    assert!(offset_of!(Entry, incarnation) == 8);
    assert!(offset_of!(Entry, sequence) == 16);
    assert!(offset_of!(Entry, shape) == 24);
    assert!(offset_of!(Entry, text) + 4 * size_of::<u64>() == 64);
};

/// What an entry's stamp is when the message of this position is published in it.
#[inline]
pub(crate) const fn stamp_of(position: u64) -> u64 {
    position.wrapping_add(1)
}

/// The entry of a position.
#[inline]
#[allow(clippy::cast_possible_truncation, reason = "the index is masked")]
pub(crate) fn entry_at(entries: &[Entry], position: u64) -> &Entry {
    &entries[(position & (entries.len() as u64 - 1)) as usize]
}

impl Entry {
    /// The stamp, and with it what was published.
    #[inline]
    pub(crate) fn stamp(&self) -> u64 {
        // Acquire pairs with the Release in `publish`.
        self.stamp.load(Ordering::Acquire)
    }

    /// Where the text goes on in the entry's second line, which a message of more than 32 bytes needs.
    #[cfg(not(loom))]
    #[inline]
    pub(crate) fn second_line(&self) -> &AtomicU64 {
        &self.text[4]
    }
}

/// Sender: fills the entry of its next position, which must be consumed, and publishes it.
#[inline]
pub(crate) fn publish(entries: &[Entry], position: u64, fill: impl FnOnce(&Entry)) {
    let entry = entry_at(entries, position);
    fill(entry);
    // Release pairs with the Acquire in `stamp`.
    entry.stamp.store(stamp_of(position), Ordering::Release);
}

/// Receiver: the entry of this position, if its message is published.
#[inline]
pub(crate) fn arrived(entries: &[Entry], position: u64) -> Option<&Entry> {
    let entry = entry_at(entries, position);
    (entry.stamp() == stamp_of(position)).then_some(entry)
}

#[cfg(any(test, loom))]
impl Entry {
    /// Outside shared memory, for tests and models.
    #[allow(dead_code, reason = "used by the models")]
    pub(crate) fn new() -> Self {
        Self {
            stamp: AtomicU64::new(0),
            incarnation: AtomicU64::new(0),
            sequence: AtomicU64::new(0),
            shape: AtomicU64::new(0),
            text: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }
}
