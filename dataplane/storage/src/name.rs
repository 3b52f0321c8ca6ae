//! Names of what is stored.
//!
//! Each process has a folder of its own, named by its id and its incarnation: what an earlier life of the same name left is
//! never mistaken for the present one's. Names consist of bytes that every backend takes as they are.
//!
//! A blob's number tells who wrote it, so of what nobody needs everybody knows whether it is his own to remove:
//!
//! ```text
//! bits 127 ── 88   87 ── 32                          31 ── 0
//!      owner       random, one for each writing      count within the writing
//! ```

use std::fmt;

use praas_protocol::ProcessId;

/// Everything that is stored of one life of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Folder {
    /// Whose it is.
    pub process: ProcessId,
    /// Which life of it.
    pub incarnation: u64,
}

/// One blob: written once, whole or not at all, never changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlobName {
    /// Where it lies.
    pub folder: Folder,
    /// A number that no other blob of the folder ever has, also not after a crash.
    pub number: u128,
}

/// Who writes: what a server of one data directory writes has another owner than what any other one writes. The default is
/// that of whoever has no name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Owner(u64);

/// Bits of an owner: of a thousand servers two have the same one with a probability of less than one in a million.
const OWNER_BITS: u32 = 5 * u8::BITS;
/// Bits of the count of blobs within one writing: far more than a manifest can name.
pub(crate) const COUNT_BITS: u32 = 32;

impl Owner {
    /// Of whoever has no name.
    pub const NOBODY: Self = Self(0);

    /// Of random bytes, which are drawn once and kept.
    #[must_use]
    pub fn of_random(bytes: [u8; 8]) -> Self {
        Self(u64::from_le_bytes(bytes) >> (u64::BITS - OWNER_BITS))
    }

    /// Who gave this number to a writing or a blob.
    #[must_use]
    pub fn of_number(number: u128) -> Self {
        let [a, b, c, d, e, ..] = number.to_be_bytes();
        Self(u64::from_be_bytes([0, 0, 0, a, b, c, d, e]))
    }

    /// The number of a writing of this owner, of random bytes that are drawn for each.
    pub(crate) fn writing(self, random: [u8; 16]) -> u128 {
        let others = u128::from_le_bytes(random) >> OWNER_BITS >> COUNT_BITS << COUNT_BITS;
        u128::from(self.0) << (u128::BITS - OWNER_BITS) | others
    }
}

impl fmt::Display for Folder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{:016x}", self.process, self.incarnation)
    }
}

impl fmt::Display for BlobName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{:032x}", self.folder, self.number)
    }
}

impl Folder {
    /// The folder that a text names, as it is displayed; `None` for any other text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (process, incarnation) = text.rsplit_once('/')?;
        let folder = Self { process: process.parse().ok()?, incarnation: u64::from_str_radix(incarnation, 16).ok()? };
        (folder.to_string() == text).then_some(folder)
    }
}

impl BlobName {
    /// The blob that a text names, as it is displayed; `None` for any other text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (folder, number) = text.rsplit_once('/')?;
        let name = Self { folder: Folder::parse(folder)?, number: u128::from_str_radix(number, 16).ok()? };
        (name.to_string() == text).then_some(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_tells_who_gave_it_and_no_two_writings_share_any() {
        let owners = [[0; 8], [0xff; 8], *b"an owner"].map(Owner::of_random);
        for owner in owners {
            let [low, high] = [[0; 16], [0xff; 16]].map(|random| owner.writing(random));
            assert_ne!(low, high);
            for writing in [low, high] {
                assert_eq!(u128::from(u32::MAX) & writing, 0, "the count has its own bits");
                assert_eq!(Owner::of_number(writing | u128::from(u32::MAX)), owner);
            }
        }
        assert!(owners[0] < owners[2] && owners[2] < owners[1]);
    }

    #[test]
    fn names_are_read_as_they_are_written_and_in_no_other_way() {
        let folder = Folder { process: "notes/alice".parse().unwrap(), incarnation: 0xab };
        let blob = BlobName { folder, number: 7 };
        assert_eq!(folder.to_string(), "notes/alice/00000000000000ab");
        assert_eq!(Folder::parse(&folder.to_string()), Some(folder));
        assert_eq!(BlobName::parse(&blob.to_string()), Some(blob));
        for other in [
            "",
            "notes/alice/ab",
            "notes/alice/+0000000000000ab",
            "../alice/00000000000000ab",
            "notes//00000000000000ab",
        ] {
            assert_eq!((Folder::parse(other), BlobName::parse(other)), (None, None), "{other}");
        }
    }
}
