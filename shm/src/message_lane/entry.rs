//! The ring of a message lane: entries that are themselves the queue, filled by one sender, read by one receiver at a time.
//!
//! An entry is four cache lines: a stamp, the message's id and shape, then its text: key and payload, or block and key. The
//! stamp of position p is p + 1: it says "published" and "of this turn" in one word, so the receiver polls the very word
//! that the sender publishes, and writes nothing into the ring at all. What is not needed is not touched: a message of up to
//! 32 bytes of key and payload is one cache line, one of 96 bytes two.
//!
//! A lane is *closed* by its receivers' side in the entry that would be filled next: its stamp is exchanged for one that no
//! position has, or the sender's exchange was first and the message is in the lane. So of each message both sides know the
//! same, and nothing is lost or taken twice, whoever dies when.
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

/// In the stamp of the entry behind the last message of a closed lane. No message has it: positions do not get that far.
const CLOSED: u64 = 1 << 63;
/// Looks at one entry of who closes a lane, in which its sender changes the stamp each time: it does so once a turn of the ring.
const CLOSE_TRIES_MAX: usize = 8;

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

    /// Whether the message of this stamp, which belongs into this entry, was published: the entry bears it, or one of a later
    /// turn, or the end of a lane that was closed behind it.
    #[cfg(not(loom))]
    pub(crate) fn was_published(&self, stamp: u64) -> bool {
        let now = self.stamp();
        if now & CLOSED == 0 { now >= stamp } else { now & !CLOSED > stamp }
    }

    /// Where the text goes on in the entry's second line, which a message of more than 32 bytes needs.
    #[cfg(not(loom))]
    #[inline]
    pub(crate) fn second_line(&self) -> &AtomicU64 {
        &self.text[4]
    }
}

/// Sender: fills the entry of its next position, which must be consumed, and publishes it by an exchange. False if the lane
/// was closed before: then nothing was published.
#[inline]
pub(crate) fn publish(entries: &[Entry], position: u64, fill: impl FnOnce(&Entry)) -> bool {
    let entry = entry_at(entries, position);
    fill(entry);
    // What this very sender has published there a turn ago.
    let before = (position + 1).saturating_sub(entries.len() as u64);
    // Release pairs with the Acquire in `stamp`.
    entry.stamp.compare_exchange(before, stamp_of(position), Ordering::Release, Ordering::Relaxed).is_ok()
}

/// What became of the wish to close a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Closing {
    /// Everything before this position was published, and nothing will be from it on.
    Closed { end: u64 },
    /// Its ring is full of messages that are not consumed: nothing is published in it until one is. Or its sender does not
    /// leave an entry alone, which none does that only publishes.
    Full,
}

/// Receiver: closes a lane that is consumed up to `consumed`: nothing more is published in it. Repeating it changes nothing.
pub(crate) fn close(entries: &[Entry], consumed: u64) -> Closing {
    for position in (consumed..).take(entries.len()) {
        match close_at(entry_at(entries, position), position) {
            Some(true) => return Closing::Closed { end: position },
            // Something is published there.
            Some(false) => {}
            None => return Closing::Full,
        }
    }
    Closing::Full
}

/// Whether the lane is closed in the entry of this position; false if its message is published, none if its sender has changed
/// the entry at each try.
fn close_at(entry: &Entry, position: u64) -> Option<bool> {
    let end = CLOSED | stamp_of(position);
    for _ in 0..CLOSE_TRIES_MAX {
        let seen = entry.stamp();
        if seen == end || seen == stamp_of(position) {
            return Some(seen == end);
        }
        // Acquire: what was published before is seen by who takes it.
        if entry.stamp.compare_exchange(seen, end, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            return Some(true);
        }
    }
    None
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
