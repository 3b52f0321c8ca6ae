//! Keys of what is stored.
//!
//! ```text
//! PREFIX application!process!incarnation/manifest
//! PREFIX application!process!incarnation/NUMBER     32 hexadecimal digits
//! ```
//!
//! A folder is one step of a key, so that one request lists a thousand folders. Names have no `!`, which sorts before every
//! byte that they have: so keys sort as folders do.

use crate::name::{BlobName, Folder};

/// Between the parts of a folder's name.
const BETWEEN: char = '!';
/// The manifest's name in its folder; it sorts after all blobs.
const MANIFEST: &str = "manifest";

/// Keys below one prefix.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    prefix: String,
}

impl Keys {
    pub(super) fn below(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    /// What all keys begin with.
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// What all keys of a folder begin with.
    pub(super) fn folder(&self, folder: &Folder) -> String {
        let (application, process) = (folder.process.application, folder.process.process);
        format!("{}{application}{BETWEEN}{process}{BETWEEN}{:016x}/", self.prefix, folder.incarnation)
    }

    pub(super) fn manifest(&self, folder: &Folder) -> String {
        self.folder(folder) + MANIFEST
    }

    pub(super) fn blob(&self, blob: &BlobName) -> String {
        format!("{}{:032x}", self.folder(&blob.folder), blob.number)
    }

    /// The folder whose keys begin with this; `None` for whatever else lies in the bucket.
    pub(super) fn folder_of(&self, key: &str) -> Option<Folder> {
        let name = key.strip_prefix(&self.prefix)?.strip_suffix('/')?;
        let mut parts = name.split(BETWEEN);
        let (application, process, incarnation) = (parts.next()?, parts.next()?, parts.next()?);
        // The text of a folder is checked to the letter.
        parts.next().map_or_else(|| Folder::parse(&format!("{application}/{process}/{incarnation}")), |_| None)
    }

    /// The blob of a folder that a key names; `None` for its manifest, and whatever else there is.
    pub(super) fn blob_of(&self, folder: &Folder, key: &str) -> Option<BlobName> {
        let number = key.strip_prefix(&self.folder(folder))?;
        BlobName::parse(&format!("{folder}/{number}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(process: &str, incarnation: u64) -> Folder {
        Folder { process: process.parse().unwrap(), incarnation }
    }

    #[test]
    fn keys_are_read_as_they_are_written_and_in_no_other_way() {
        let keys = Keys::below("all/");
        let of = folder("notes/alice", 0xab);
        let blob = BlobName { folder: of, number: 7 };
        assert_eq!(keys.manifest(&of), "all/notes!alice!00000000000000ab/manifest");
        assert_eq!(keys.folder_of(&keys.folder(&of)), Some(of));
        assert_eq!(keys.blob_of(&of, &keys.blob(&blob)), Some(blob));
        assert_eq!(keys.blob_of(&of, &keys.manifest(&of)), None);
        assert_eq!(keys.blob_of(&folder("notes/alice", 1), &keys.blob(&blob)), None);
        for foreign in ["all/", "all/notes/", "notes!alice!00000000000000ab/", "all/notes!alice!ab/", "all/a!b!c!d/"] {
            assert_eq!(keys.folder_of(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn keys_sort_as_folders_do() {
        let mut folders: Vec<_> = ["a/b", "a-b/b", "a.b/b", "ab/b", "a/b-1", "a/b.1", "a/b_1", "0/z"]
            .into_iter()
            .flat_map(|process| [0, 1, u64::MAX].map(|incarnation| folder(process, incarnation)))
            .collect();
        folders.sort_unstable();
        let keys: Vec<_> = folders.iter().map(|it| Keys::below("").folder(it)).collect();
        assert!(keys.is_sorted(), "{keys:?}");
    }
}
