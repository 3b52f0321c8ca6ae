//! Names of what is stored.
//!
//! Each process has a folder of its own, named by its id and its incarnation: what an earlier life of the same name left is
//! never mistaken for the present one's. Names consist of bytes that every backend takes as they are.

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
