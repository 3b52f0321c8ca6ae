//! Keys of state objects and messages, and the names of their types.
//!
//! A [`Key`] is 1–255 bytes of UTF-8 without control characters. It borrows its text, so making one costs the check and no
//! allocation. Keys are never used as file names.

use std::fmt;

use crate::limits::KEY_BYTES_MAX;

/// A checked key: 1–255 bytes of UTF-8 without control characters.
///
/// ```
/// use praas_protocol::Key;
/// let key = Key::new("notes/2026")?;
/// assert_eq!(key.as_str(), "notes/2026");
/// assert!(Key::new("a\nb").is_err());
/// # Ok::<(), praas_protocol::KeyError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key<'text>(&'text str);

/// Why a text is not a [`Key`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The text is empty.
    #[error("a key must have at least one character")]
    Empty,
    /// The text is longer than [`KEY_BYTES_MAX`].
    #[error("a key has at most {KEY_BYTES_MAX} bytes, this one has {actual_bytes}: shorten it")]
    TooLong {
        /// Bytes in the refused text.
        actual_bytes: usize,
    },
    /// A control character.
    #[error("character {character:?} at byte {position} is a control character, which no key may contain")]
    Control {
        /// The refused character.
        character: char,
        /// Its byte offset in the text.
        position: usize,
    },
    /// The bytes are not UTF-8.
    #[error("a key is UTF-8 text; byte {position} of this one is not")]
    NotText {
        /// Offset of the first wrong byte.
        position: usize,
    },
}

/// Whether all bytes are printable ASCII.
#[inline]
fn is_plain(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<8>();
    let wrong = words.iter().fold(0, |wrong, word| wrong | not_plain(u64::from_ne_bytes(*word)));
    let wrong_rest = match bytes.last_chunk() {
        // Some bytes of it were looked at before.
        Some(end) => not_plain(u64::from_ne_bytes(*end)),
        None => u64::from(!rest.iter().all(|byte| (b' '..=b'~').contains(byte))),
    };
    wrong | wrong_rest == 0
}

/// Not 0 if any of eight bytes is not printable ASCII: a carry may blame a neighbour too, and never excuses one.
#[inline]
fn not_plain(word: u64) -> u64 {
    const EACH: u64 = 0x0101_0101_0101_0101;
    let delete = word ^ (0x7f * EACH);
    (word | word.wrapping_sub(0x20 * EACH) | delete.wrapping_sub(EACH)) & (0x80 * EACH)
}

impl<'text> Key<'text> {
    /// The key with this text.
    ///
    /// # Errors
    /// [`KeyError`] when the text is empty, too long, or has control characters.
    #[inline]
    pub fn new(text: &'text str) -> Result<Self, KeyError> {
        // Printable ASCII is what nearly all keys are, and tells itself eight bytes at a time.
        if is_plain(text.as_bytes()) && (1..=KEY_BYTES_MAX).contains(&text.len()) {
            return Ok(Self(text));
        }
        Self::checked(text)
    }

    #[cold]
    fn checked(text: &'text str) -> Result<Self, KeyError> {
        if text.is_empty() {
            return Err(KeyError::Empty);
        }
        if text.len() > KEY_BYTES_MAX {
            return Err(KeyError::TooLong { actual_bytes: text.len() });
        }
        match text.char_indices().find(|(_, character)| character.is_control()) {
            Some((position, character)) => Err(KeyError::Control { character, position }),
            None => Ok(Self(text)),
        }
    }

    /// The key whose text these bytes are.
    ///
    /// # Errors
    /// [`KeyError`] as for [`Key::new`], and when the bytes are not UTF-8.
    pub fn from_bytes(bytes: &'text [u8]) -> Result<Self, KeyError> {
        if bytes.len() > KEY_BYTES_MAX {
            return Err(KeyError::TooLong { actual_bytes: bytes.len() });
        }
        let text = std::str::from_utf8(bytes).map_err(|error| KeyError::NotText { position: error.valid_up_to() })?;
        Self::new(text)
    }

    /// Its text.
    #[inline]
    #[must_use]
    pub const fn as_str(self) -> &'text str {
        self.0
    }

    /// The bytes of its text: 1 to [`KEY_BYTES_MAX`].
    #[inline]
    #[must_use]
    pub const fn as_bytes(self) -> &'text [u8] {
        self.0.as_bytes()
    }
}

impl fmt::Display for Key<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.0)
    }
}

impl fmt::Debug for Key<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.0, formatter)
    }
}

/// A type whose values are kept as state objects: what names it in memory that several builds read.
///
/// An object carries the id of its type's name and its schema version; one of another type or version is never read as
/// this one.
///
/// ```
/// use praas_protocol::StateType;
///
/// struct Counter {
///     count: u64,
/// }
///
/// impl StateType for Counter {
///     const NAME: &'static str = "counter";
///     const SCHEMA_VERSION: u32 = 1;
/// }
/// # let _ = Counter { count: 0 }.count;
/// ```
pub trait StateType {
    /// A name that no other type of the application has, and that stays when the type is moved or renamed in the source.
    const NAME: &'static str;
    /// Counted up whenever the archived form changes: fields added, removed, reordered, of other types.
    const SCHEMA_VERSION: u32 = 1;
    /// What objects carry of the name: its 64-bit FNV-1a hash, as [`FunctionId`](crate::FunctionId) has it.
    const TYPE_ID: u64 = crate::FunctionId::of(Self::NAME).0;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_checked_to_the_letter() {
        for good in ["a", " ", "a/b", "é", "日本", "~", &"x".repeat(255)] {
            assert_eq!(Key::new(good).unwrap().as_str(), good);
            assert_eq!(Key::from_bytes(good.as_bytes()).unwrap().as_str(), good);
        }
        assert_eq!(Key::new(""), Err(KeyError::Empty));
        assert_eq!(Key::new(&"x".repeat(256)), Err(KeyError::TooLong { actual_bytes: 256 }));
        for bad in ["\0", "a\n", "\x7f", "a\u{85}"] {
            assert!(matches!(Key::new(bad), Err(KeyError::Control { .. })), "{bad:?} was accepted");
        }
        assert_eq!(Key::from_bytes(b"ab\xff"), Err(KeyError::NotText { position: 2 }));
    }
}
