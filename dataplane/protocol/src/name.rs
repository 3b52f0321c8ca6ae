//! Names of applications, processes and functions, and the ids made of them.
//!
//! A [`Name`] is 1–63 bytes of `[a-z0-9._-]` and starts with a letter or digit. It is stored inline, so a name costs no
//! allocation, and there is no other way to make one than through the check.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::limits::NAME_BYTES_MAX;

/// A checked name: 1–63 bytes of `[a-z0-9._-]`, starting alphanumeric.
///
/// ```
/// use praas_protocol::Name;
/// let name: Name = "alice".parse()?;
/// assert_eq!(name.as_str(), "alice");
/// assert!("../etc".parse::<Name>().is_err());
/// # Ok::<(), praas_protocol::NameError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
// Moved word by word: copies of odd pieces make the processor wait for its own stores.
#[repr(align(8))]
pub struct Name {
    bytes: [u8; NAME_BYTES_MAX],
    length: u8,
}

/// Why a text is not a [`Name`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The text is empty.
    #[error("a name must have at least one character")]
    Empty,
    /// The text is longer than [`NAME_BYTES_MAX`].
    #[error("a name has at most {NAME_BYTES_MAX} bytes, this one has {actual_bytes}: shorten it")]
    TooLong {
        /// Bytes in the refused text.
        actual_bytes: usize,
    },
    /// A character outside the allowed set.
    #[error(
        "character {character:?} at byte {position} is not allowed in a name: use a–z, 0–9, '.', '_' and '-', starting with a letter or digit"
    )]
    Character {
        /// The refused character.
        character: char,
        /// Its byte offset in the text.
        position: usize,
    },
    /// A process id without the `/` between its two names.
    #[error("a process is named APPLICATION/PROCESS, for example hello/alice; got {text:?}")]
    NotAProcessId {
        /// The refused text, cut to 80 characters.
        text: String,
    },
}

impl Name {
    /// The name that comes before all others.
    pub const FIRST: Self = {
        let mut bytes = [0; NAME_BYTES_MAX];
        bytes[0] = b'0';
        Self { bytes, length: 1 }
    };

    /// The bytes of its text.
    #[must_use]
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.length)]).expect("a name is ASCII by construction")
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        for (position, character) in text.char_indices() {
            let first = character.is_ascii_lowercase() || character.is_ascii_digit();
            let later = first || matches!(character, '.' | '_' | '-');
            if !(first || position > 0 && later) {
                return Err(NameError::Character { character, position });
            }
        }
        let length = u8::try_from(text.len()).ok().filter(|&length| usize::from(length) <= NAME_BYTES_MAX);
        let length = length.ok_or(NameError::TooLong { actual_bytes: text.len() })?;
        let mut bytes = [0; NAME_BYTES_MAX];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        Ok(Self { bytes, length })
    }
}

impl TryFrom<String> for Name {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.as_str().to_owned()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.as_str())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), formatter)
    }
}

/// A process, as people write it: `application/process`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ProcessId {
    /// The application whose functions the process runs.
    pub application: Name,
    /// The process within its application.
    pub process: Name,
}

impl FromStr for ProcessId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let (application, process) =
            text.split_once('/').ok_or_else(|| NameError::NotAProcessId { text: text.chars().take(80).collect() })?;
        Ok(Self { application: application.parse()?, process: process.parse()? })
    }
}

impl fmt::Display for ProcessId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.application, self.process)
    }
}

/// What the names of functions that praas itself adds to every application begin with; an application cannot register such.
pub const BUILT_IN_PREFIX: &str = "praas.";

/// A function of every application: answers 16 bytes, the worker's monotonic clock in nanoseconds when it took the call and
/// when it answered, both 64 bits little endian. Its input is ignored.
pub const PING_FUNCTION: &str = "praas.ping";

/// What a request names its function by: a 64-bit FNV-1a hash of the function's name.
///
/// A hash needs no table to be exchanged before the first call, and stays right when an application is reloaded. A worker
/// refuses to start when two of its own functions share a hash. FNV-1a: offset basis `0xcbf29ce484222325`, prime
/// `0x100000001b3`, from the reference by Fowler, Noll and Vo.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FunctionId(pub u64);

impl FunctionId {
    /// The id of the function called `name`.
    ///
    /// ```
    /// use praas_protocol::FunctionId;
    /// assert_eq!(FunctionId::of("a").0, 0xaf63_dc4c_8601_ec8c);
    /// ```
    #[must_use]
    pub const fn of(name: &str) -> Self {
        let bytes = name.as_bytes();
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        let mut index = 0;
        while index < bytes.len() {
            hash = (hash ^ bytes[index] as u64).wrapping_mul(0x100_0000_01b3);
            index += 1;
        }
        Self(hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_to_the_letter() {
        for good in ["a", "0", "a-b", "a.b_c", &"x".repeat(63)] {
            assert_eq!(good.parse::<Name>().unwrap().as_str(), good);
        }
        for bad in ["", "-a", ".a", "_a", "A", "a/b", "a b", "é", "a\0", &"x".repeat(64)] {
            assert!(bad.parse::<Name>().is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn a_process_id_reads_back_as_written() {
        let id: ProcessId = "hello/alice".parse().unwrap();
        assert_eq!(id.to_string(), "hello/alice");
        assert!("hello".parse::<ProcessId>().is_err());
        assert!("hello/../x".parse::<ProcessId>().is_err());
    }
}
