//! Which file is what.
//!
//! Names of applications and processes begin with a letter or a digit, so what begins with a dot is this backend's own.

use std::path::{Path, PathBuf};

use crate::name::{BlobName, Folder};

/// The file that is locked by who uses the directory.
pub(super) const LOCK: &str = ".lock";

/// The directory of what is being written.
const NEW: &str = ".new";

/// What the names of manifests begin with; no blob's does, as it is no number.
const MANIFEST: &str = "manifest.";

/// Digits of a blob's name.
const BLOB_DIGITS: usize = 32;

/// Digits of a manifest's number.
const MANIFEST_DIGITS: usize = 16;

/// Where things lie below a root.
#[derive(Debug)]
pub(super) struct Paths {
    root: PathBuf,
}

impl Paths {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    pub(super) fn root(&self) -> &PathBuf {
        &self.root
    }

    pub(super) fn new_files(&self) -> PathBuf {
        self.root.join(NEW)
    }

    /// What is being written, as the number-th thing by this instance.
    pub(super) fn new_file(&self, instance: u64, number: u64) -> PathBuf {
        self.root.join(format!("{NEW}/{instance:016x}-{number:x}"))
    }

    /// The directories of a folder's application, its process and itself.
    pub(super) fn directories(&self, folder: &Folder) -> [PathBuf; 3] {
        let application = self.root.join(folder.process.application.as_str());
        let process = application.join(folder.process.process.as_str());
        let incarnation = self.root.join(folder.to_string());
        [application, process, incarnation]
    }

    pub(super) fn blob(&self, blob: &BlobName) -> PathBuf {
        self.root.join(blob.to_string())
    }

    pub(super) fn manifest(&self, folder: &Folder, number: u64) -> PathBuf {
        self.root.join(format!("{folder}/{MANIFEST}{number:016x}"))
    }
}

/// Whether something of this name makes a folder more than an empty directory.
pub(super) fn counts(name: &str) -> bool {
    blob_number(name).is_some() || manifest_number(name).is_some()
}

/// The number of the blob that has this name.
pub(super) fn blob_number(name: &str) -> Option<u128> {
    let number = u128::from_str_radix(name, 16).ok()?;
    (name.len() == BLOB_DIGITS && is_lower_hex(name)).then_some(number)
}

/// The number of the manifest that has this name.
pub(super) fn manifest_number(name: &str) -> Option<u64> {
    let digits = name.strip_prefix(MANIFEST)?;
    let number = u64::from_str_radix(digits, 16).ok()?;
    (digits.len() == MANIFEST_DIGITS && is_lower_hex(digits)).then_some(number)
}

fn is_lower_hex(digits: &str) -> bool {
    digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_file_is_known_by_its_name_and_no_other_is() {
        let paths = Paths::new(Path::new("/dir"));
        let folder = Folder { process: "notes/alice".parse().unwrap(), incarnation: 0xab };
        let last = |path: PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
        for number in [0, 1, u128::MAX] {
            let name = last(paths.blob(&BlobName { folder, number }));
            assert_eq!((blob_number(&name), manifest_number(&name)), (Some(number), None));
        }
        for number in [0, 7, u64::MAX] {
            let name = last(paths.manifest(&folder, number));
            assert_eq!((blob_number(&name), manifest_number(&name)), (None, Some(number)));
        }
        for other in
            ["", "manifest.", "manifest.1", "1", "+0000000000000000000000000000001", "manifest.+000000000000001"]
        {
            assert!(!counts(other), "{other}");
        }
        assert_eq!(paths.directories(&folder)[2], Path::new("/dir/notes/alice/00000000000000ab"));
    }
}
