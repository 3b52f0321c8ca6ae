//! Names of queues: who sends, and under which key, as words and hashes.
//!
//! A source is the 64 bytes of its address. A queue is found by the hash of both; the record of a key, which joins the
//! queues of all its sources, is the queue without a source.

use praas_protocol::message::Address;

use crate::objects::hash;

/// Words of an address.
pub(crate) const ADDRESS_WORDS: usize = 8;

/// A source: its address in words, and their hash in this segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Source {
    /// Compared first.
    pub(crate) hash: u64,
    pub(crate) words: [u64; ADDRESS_WORDS],
}

impl Source {
    /// No source: what a key's own record has.
    pub(crate) const NONE: Self = Self { words: [0; ADDRESS_WORDS], hash: 0 };

    pub(crate) fn new(seed: u64, address: &Address) -> Self {
        let bytes = address.to_bytes();
        let (chunks, _) = bytes.as_chunks::<8>();
        let words = std::array::from_fn(|index| u64::from_le_bytes(chunks[index]));
        Self { words, hash: hash::of_address(seed, &words) }
    }

    /// Whether both are the same, without a jump for each word.
    #[inline(always)]
    pub(crate) fn is(&self, other: &Self) -> bool {
        let differing = self.words.iter().zip(&other.words).fold(0, |bits, (one, other)| bits | one ^ other);
        self.hash == other.hash && differing == 0
    }
}

/// A key's bytes and their hash in this segment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KeyText<'k> {
    pub(crate) bytes: &'k [u8],
    pub(crate) hash: u64,
}

impl<'k> KeyText<'k> {
    #[inline]
    pub(crate) fn new(seed: u64, bytes: &'k [u8]) -> Self {
        Self { bytes, hash: hash::of_message_key(seed, bytes.len(), words_of(bytes)) }
    }

    /// As they lie in memory; bytes behind the end are zero.
    #[inline]
    pub(crate) fn words(&self) -> impl Iterator<Item = u64> + use<'k> {
        words_of(self.bytes)
    }
}

#[inline]
fn words_of(bytes: &[u8]) -> impl Iterator<Item = u64> + use<'_> {
    let (whole, rest) = bytes.as_chunks::<8>();
    let last = (!rest.is_empty()).then(|| match bytes.last_chunk() {
        // The end as one load, moved to its place, as in keys of objects.
        Some(end) => u64::from_le_bytes(*end) >> (8 * (8 - rest.len())),
        None => rest.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)),
    });
    whole.iter().map(|bytes| u64::from_le_bytes(*bytes)).chain(last)
}

/// A queue's name: a source and a key, or a key alone.
#[derive(Debug, Clone, Copy)]
pub(crate) struct QueueName<'n> {
    pub(crate) source: &'n Source,
    pub(crate) key: KeyText<'n>,
    pub(crate) hash: u64,
}

impl<'n> QueueName<'n> {
    #[inline]
    pub(crate) fn new(source: &'n Source, key: KeyText<'n>) -> Self {
        Self { source, key, hash: hash::joined(source.hash, key.hash) }
    }

    /// The record of its key.
    pub(crate) fn of_key(key: KeyText<'n>) -> Self {
        Self::new(&Source::NONE, key)
    }
}
