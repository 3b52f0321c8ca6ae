//! Keys of objects: a namespace and a key as [`praas_protocol::Key`] checks it.

use std::fmt;

use praas_protocol::KeyError;

/// Keeps the keys of users and of praas itself apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Namespace(pub u8);

impl Namespace {
    /// What functions and clients name.
    pub const USER: Self = Self(0);
    /// What praas itself keeps in a process's state.
    pub const SYSTEM: Self = Self(1);
    /// Records of calls with idempotency keys, which have an order of their own beside the index: see `keyed_calls`.
    pub(crate) const CALLS: Self = Self(2);
}

/// A checked key, borrowed from its text.
///
/// ```
/// use praas_shm::objects::{Key, Namespace};
/// let key = Key::new(Namespace::USER, "cart/42")?;
/// assert_eq!(key.text(), "cart/42");
/// assert!(Key::new(Namespace::USER, "").is_err());
/// # Ok::<(), praas_shm::objects::KeyError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key<'k> {
    namespace: Namespace,
    text: &'k str,
}

impl<'k> Key<'k> {
    /// Checks a text.
    ///
    /// # Errors
    /// [`KeyError`] says what is wrong with it.
    #[inline]
    pub fn new(namespace: Namespace, text: &'k str) -> Result<Self, KeyError> {
        praas_protocol::Key::new(text).map(|key| Self::of(namespace, key))
    }

    /// A key that was checked already, in a namespace.
    #[inline]
    #[must_use]
    pub fn of(namespace: Namespace, key: praas_protocol::Key<'k>) -> Self {
        Self { namespace, text: key.as_str() }
    }

    /// Its namespace.
    #[must_use]
    pub fn namespace(&self) -> Namespace {
        self.namespace
    }

    /// Its text.
    #[must_use]
    pub fn text(&self) -> &'k str {
        self.text
    }

    /// Its length, which fits a byte.
    #[inline]
    pub(crate) fn bytes(&self) -> usize {
        self.text.len()
    }

    /// Its text in words as it lies in memory; bytes behind its end are zero.
    #[inline]
    pub(crate) fn words(&self) -> impl Iterator<Item = u64> + 'k {
        Self::words_of(self.text)
    }

    /// The same of a text that may be no key.
    #[inline]
    pub(crate) fn words_of(text: &'k str) -> impl Iterator<Item = u64> + 'k {
        let bytes = text.as_bytes();
        let (whole, rest) = bytes.as_chunks::<8>();
        let last = (!rest.is_empty()).then(|| match bytes.last_chunk() {
            // The end as one load, moved to its place: bytes that are written one by one and then read as a word make the
            // processor wait for its own stores.
            Some(end) => u64::from_le_bytes(*end) >> (8 * (8 - rest.len())),
            None => rest.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)),
        });
        whole.iter().map(|bytes| u64::from_le_bytes(*bytes)).chain(last)
    }
}

impl fmt::Display for Key<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.text)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_key_is_refused_with_its_reason() {
        let check = |text| Key::new(Namespace::USER, text);
        assert_eq!(check(""), Err(KeyError::Empty));
        let long = "k".repeat(256);
        assert_eq!(check(&long), Err(KeyError::TooLong { actual_bytes: 256 }));
        for (text, position) in [("a\n", 1), ("\0", 0), ("ab\u{7f}", 2), ("é\u{85}", 2), ("\u{9f}", 0)] {
            let Err(KeyError::Control { position: at, .. }) = check(text) else { panic!("{text:?} passed") };
            assert_eq!(at, position);
        }
    }

    #[test]
    fn every_other_text_is_a_key() {
        for text in ["a", " ", "£\u{a0}¿", "日本/語", &"ü".repeat(127), &"k".repeat(255)] {
            assert_eq!(Key::new(Namespace::SYSTEM, text).unwrap().text(), text);
        }
    }

    #[test]
    fn words_of_a_key_end_with_zeroes() {
        let words = |text| Key::new(Namespace::USER, text).unwrap().words().collect::<Vec<_>>();
        assert_eq!(words("a"), [word(b"a")]);
        assert_eq!(words("12345678"), [word(b"12345678")]);
        assert_eq!(words("123456789"), [word(b"12345678"), word(b"9")]);
    }

    fn word(bytes: &[u8]) -> u64 {
        let mut whole = [0; 8];
        whole[..bytes.len()].copy_from_slice(bytes);
        u64::from_ne_bytes(whole)
    }
}
