//! Publishing a manifest, and finding the newest.
//!
//! Behind the manifest its file has eight bytes that nobody chose: they make its revision differ from that of the same number
//! in an earlier life of the folder, while the number alone is what publishers race for.

use std::hash::{BuildHasher, Hasher, RandomState};

use praas_sys::Errno;

use super::layer::{Access, FolderLock};
use super::{DiskBackend, ENTER_ATTEMPTS_MAX, missing_is_fine, paths};
use crate::backend::{Backend, MANIFEST_BYTES_MAX, Published, Revision, check_bytes};
use crate::error::StorageError;
use crate::name::Folder;

/// Times that the newest manifest is looked for anew because it was replaced between the look and the opening: publishes
/// take far longer than a look.
const READ_ATTEMPTS_MAX: usize = 64;

/// Bytes behind a manifest.
const TOKEN_BYTES: usize = 8;

/// The number of the first manifest of a folder.
const FIRST: u64 = 1;

impl DiskBackend {
    /// The numbers of the manifests that are there, in order.
    fn manifest_numbers(&self, folder: &Folder) -> Result<Vec<u64>, Errno> {
        let [.., incarnation] = self.paths.directories(folder);
        let mut numbers = Vec::new();
        let listed = self.files.list(&incarnation, &mut |name| numbers.extend(paths::manifest_number(name)));
        missing_is_fine(listed)?;
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// The revision of the manifest of this number; `None` if it was removed meanwhile.
    fn revision(&self, folder: &Folder, number: u64) -> Result<Option<Revision>, Errno> {
        let file = match self.files.open(&self.paths.manifest(folder, number), Access::Read) {
            Err(Errno::NOENT) => return Ok(None),
            opened => opened?,
        };
        let mut token = [0; TOKEN_BYTES];
        let at = file.bytes()?.saturating_sub(TOKEN_BYTES as u64);
        let read = file.read(at, &mut token)?;
        Ok((read == TOKEN_BYTES).then(|| revision_of(number, &token)))
    }

    pub(super) fn newest_manifest(&self, folder: &Folder) -> Result<Option<Published>, StorageError> {
        const WHAT: &str = "reading a manifest";
        let failed = |errno| self.failure(WHAT, errno);
        for _ in 0..READ_ATTEMPTS_MAX {
            let Some(newest) = self.manifest_numbers(folder).map_err(failed)?.pop() else { return Ok(None) };
            let file = match self.files.open(&self.paths.manifest(folder, newest), Access::Read) {
                Err(Errno::NOENT) => continue,
                opened => opened.map_err(failed)?,
            };
            let length = file.bytes().map_err(failed)?;
            let most = MANIFEST_BYTES_MAX + TOKEN_BYTES;
            let fits = usize::try_from(length).ok().filter(|length| (TOKEN_BYTES..=most).contains(length));
            let mut bytes = vec![0; fits.unwrap_or_default()];
            if fits.is_none() || file.read(0, &mut bytes).map_err(failed)? < bytes.len() {
                let reason = format!("that of {folder} has {length} bytes, which none has that was published");
                return Err(StorageError::Failed { place: self.place(), what: WHAT, reason });
            }
            let token = bytes.split_off(bytes.len() - TOKEN_BYTES);
            return Ok(Some(Published { revision: revision_of(newest, &token), bytes }));
        }
        let reason = format!("that of {folder} was replaced {READ_ATTEMPTS_MAX} times meanwhile");
        Err(StorageError::Failed { place: self.place(), what: WHAT, reason })
    }

    /// Keeps all others from publishing in a folder; `None` if it is not there and not to be made.
    fn lock_folder(&self, folder: &Folder, makes: bool) -> Result<Option<FolderLock>, Errno> {
        let [.., incarnation] = self.paths.directories(folder);
        for _ in 0..ENTER_ATTEMPTS_MAX {
            match self.files.lock_directory(&incarnation) {
                Err(Errno::NOENT) if makes => self.make_directories(folder)?,
                Err(Errno::NOENT) => return Ok(None),
                locked => return locked.map(Some),
            }
        }
        Err(Errno::BUSY)
    }

    pub(super) fn publish_manifest(
        &self,
        folder: &Folder,
        replaces: Option<&Revision>,
        bytes: &[u8],
    ) -> Result<Revision, StorageError> {
        const WHAT: &str = "publishing a manifest";
        let failed = |errno| self.failure(WHAT, errno);
        let conflict = || StorageError::conflict(folder, self.place());
        check_bytes(&self.place(), WHAT, bytes, MANIFEST_BYTES_MAX)?;
        let Some(_lock) = self.lock_folder(folder, replaces.is_none()).map_err(failed)? else { return Err(conflict()) };
        let older = self.manifest_numbers(folder).map_err(failed)?;
        let newest = older.last().copied();
        let revision = newest.map(|newest| self.revision(folder, newest)).transpose().map_err(failed)?.flatten();
        if revision.as_ref() != replaces {
            return Err(conflict());
        }
        let number = newest.map_or(FIRST, |newest| newest + 1);
        let path = self.paths.manifest(folder, number);
        let token = RandomState::new().build_hasher().finish().to_le_bytes();
        match self.write_whole(folder, &path, &[bytes, &token].concat()) {
            Err(Errno::EXIST) => return Err(conflict()),
            written => written.map_err(failed)?,
        }
        self.sync_folder(folder).map_err(failed)?;
        // Another program may have gone past this number and removed it before the rename gave it to us.
        if self.manifest_numbers(folder).map_err(failed)?.last() != Some(&number) {
            let _ = self.files.remove(&path);
            return Err(conflict());
        }
        for number in older {
            // Whatever stays is passed over, and removed behind the next one.
            let _ = self.files.remove(&self.paths.manifest(folder, number));
        }
        Ok(revision_of(number, &token))
    }
}

fn revision_of(number: u64, token: &[u8]) -> Revision {
    let token: String = token.iter().map(|byte| format!("{byte:02x}")).collect();
    Revision(format!("{number:x}-{token}"))
}
