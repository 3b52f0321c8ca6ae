//! A snapshot as it is stored: opened by its manifest alone, everything else is read when somebody asks for it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::cut::{CutFacts, SectionKind};
use super::error::{Part, SnapshotError};
use super::fetch::Source;
use super::files::FileTable;
use super::format::FormatError;
use super::location::Location;
use super::manifest::{ENDED_EPOCH, Manifest, PagePlace, SectionPlace};
use super::pack::new_writing;
use super::page::{self, PageObject};
use crate::backend::{Backend, LISTED_MAX, MANIFEST_BYTES_MAX, Revision, each_blob_page};
use crate::error::StorageError;
use crate::name::{BlobName, Folder, Owner};

/// A stored snapshot. Cloning it copies nothing.
#[derive(Debug, Clone)]
pub struct Snapshot {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    backend: Arc<dyn Backend>,
    revision: Revision,
    manifest: Manifest,
    manifest_bytes: u64,
}

/// What a snapshot takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Bytes of all its blobs.
    pub stored_bytes: u64,
    /// Bytes of these that it needs.
    pub live_bytes: u64,
    /// Its blobs.
    pub blobs: u64,
    /// Its objects.
    pub objects: u64,
    /// Bytes of their values.
    pub value_bytes: u64,
    /// Bytes of its manifest.
    pub manifest_bytes: u64,
}

/// What was removed because nothing needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Removed {
    /// Blobs.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Snapshot {
    /// The newest snapshot of a folder, if there is one.
    ///
    /// # Errors
    /// [`SnapshotError`]; of its parts only the manifest is read.
    pub fn open(backend: &Arc<dyn Backend>, folder: &Folder) -> Result<Option<Self>, SnapshotError> {
        let Some(published) = backend.manifest(folder)? else { return Ok(None) };
        let damaged = |reason: String| SnapshotError::Damaged {
            folder: Box::new(*folder),
            part: Box::new(Part::Manifest),
            wherein: format!("{}, {} bytes", backend.place(), published.bytes.len()),
            reason,
        };
        let manifest = Manifest::parse(&published.bytes).map_err(|error| match error {
            FormatError::Version { actual, known } => {
                SnapshotError::Version { folder: Box::new(*folder), part: Box::new(Part::Manifest), actual, known }
            }
            error => damaged(error.to_string()),
        })?;
        if manifest.folder != *folder {
            return Err(damaged(format!("it belongs to {}", manifest.folder)));
        }
        Ok(Some(Self::new(backend, published.revision, manifest, published.bytes.len())))
    }

    pub(crate) fn new(backend: &Arc<dyn Backend>, revision: Revision, manifest: Manifest, bytes: usize) -> Self {
        let backend = Arc::clone(backend);
        Self { inner: Arc::new(Inner { backend, revision, manifest, manifest_bytes: bytes as u64 }) }
    }

    pub(crate) fn manifest(&self) -> &Manifest {
        &self.inner.manifest
    }

    pub(crate) fn revision(&self) -> &Revision {
        &self.inner.revision
    }

    pub(crate) fn source(&self) -> Source<'_> {
        Source { backend: &*self.inner.backend, folder: self.folder() }
    }

    /// Whose it is.
    #[must_use]
    pub fn folder(&self) -> &Folder {
        &self.inner.manifest.folder
    }

    /// Which owner of the process published it.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.inner.manifest.epoch
    }

    /// What is known of the state as a whole.
    #[must_use]
    pub fn facts(&self) -> CutFacts {
        self.inner.manifest.facts
    }

    /// When it was written, in milliseconds since 1970. A claim does not change it.
    #[must_use]
    pub fn written_unix_ms(&self) -> u64 {
        self.inner.manifest.written_unix_ms
    }

    /// Bits of a hash that name a page.
    #[must_use]
    pub fn page_bits(&self) -> u32 {
        self.inner.manifest.page_bits
    }

    /// How many pages there are.
    #[must_use]
    pub fn pages(&self) -> u32 {
        1 << self.page_bits()
    }

    /// The page of a hash.
    #[must_use]
    pub fn page_of(&self, hash: u64) -> u32 {
        page::page_of(hash, self.page_bits())
    }

    pub(crate) fn place(&self, number: u32) -> Option<PagePlace> {
        self.inner.manifest.pages.get(number as usize).copied().flatten()
    }

    /// Fills `into`, which is as long as the object's value, with that value.
    ///
    /// # Errors
    /// [`SnapshotError::Damaged`] or [`SnapshotError::Unreached`], naming the object.
    pub fn value(&self, object: &PageObject, into: &mut [u8]) -> Result<(), SnapshotError> {
        self.value_at(&object.location, &object.part(), into)
    }

    /// The same of a value of which only the place is known; errors say that it is `part`.
    ///
    /// # Errors
    /// [`SnapshotError::Damaged`] or [`SnapshotError::Unreached`], naming the part.
    pub fn value_at(&self, location: &Location, part: &Part, into: &mut [u8]) -> Result<(), SnapshotError> {
        self.source().value(part, location, into)
    }

    /// The kinds of all sections.
    pub fn section_kinds(&self) -> impl Iterator<Item = SectionKind> {
        self.inner.manifest.sections.iter().map(|(kind, _)| *kind)
    }

    /// A section, if there is one of that kind.
    ///
    /// # Errors
    /// [`SnapshotError::Damaged`] or [`SnapshotError::Unreached`], naming the section.
    pub fn section(&self, kind: SectionKind) -> Result<Option<Vec<u8>>, SnapshotError> {
        let found = self.inner.manifest.sections.iter().find(|(other, _)| *other == kind);
        Ok(match found.map(|(_, place)| place) {
            None => None,
            Some(SectionPlace::Inline(bytes)) => Some(bytes.to_vec()),
            Some(SectionPlace::Located { bytes, location }) => {
                let mut section = vec![0; *bytes as usize];
                self.source().value(&Part::Section(kind), location, &mut section)?;
                Some(section)
            }
        })
    }

    /// The table of the process's files, if it had any.
    ///
    /// # Errors
    /// [`SnapshotError::Damaged`] or [`SnapshotError::Unreached`], naming the section.
    pub fn files(&self) -> Result<Option<FileTable>, SnapshotError> {
        let Some(bytes) = self.section(SectionKind::FILES)? else { return Ok(None) };
        let table = FileTable::parse(&bytes).map_err(|error| {
            let part = Part::Section(SectionKind::FILES);
            self.source().misformed(&part, &Location::EMPTY, error)
        })?;
        Ok(Some(table))
    }

    /// Who published it last: wrote or claimed it.
    #[must_use]
    pub fn owner(&self) -> Owner {
        Owner::of_number(self.inner.manifest.writing)
    }

    /// Whether the process was stopped: nothing comes of it any more, and whoever sees it may remove it.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.manifest().is_ended()
    }

    /// Makes it the snapshot of a later owner: whoever had it before can publish nothing any more. To be done before anything
    /// else is written.
    ///
    /// # Errors
    /// One of which [`SnapshotError::is_conflict`] holds when somebody else was faster; [`SnapshotError::Unfit`] for an
    /// epoch that is not later.
    pub fn claim(&self, epoch: u64, owner: Owner) -> Result<Self, SnapshotError> {
        if epoch <= self.epoch() {
            let reason = format!("its epoch is {}, the next owner's would be {epoch}", self.epoch());
            return Err(SnapshotError::unfit(self.folder(), reason));
        }
        // Two that claim the same epoch must not take each other's manifest for their own.
        let writing = new_writing(self.folder(), owner)?;
        let manifest = Manifest { epoch, writing, ..self.inner.manifest.clone() };
        let bytes = manifest.encode();
        let revision = publish(&*self.inner.backend, self.folder(), Some(&self.inner.revision), &bytes)?;
        Ok(Self::new(&self.inner.backend, revision, manifest, bytes.len()))
    }

    /// Marks the process as stopped, for good, unless somebody has claimed or written it since: that one owns it. What is stored
    /// can be removed then without harm to anybody, in any order and by anybody, also after a crash.
    ///
    /// # Errors
    /// As those of [`Self::claim`].
    pub fn end(&self, owner: Owner) -> Result<Self, SnapshotError> {
        if self.is_ended() { Ok(self.clone()) } else { self.claim(ENDED_EPOCH, owner) }
    }

    /// Removes all blobs of the folder that this snapshot does not need: what swaps left that failed or were cut off. Nothing of
    /// the folder may be being written by the owner meanwhile. Looks for them no longer than `limit`.
    ///
    /// # Errors
    /// [`StorageError::Conflict`] when it is no longer the newest snapshot, [`StorageError::Late`] when the list has no end
    /// within the limit: then nothing is removed.
    pub fn remove_unreferenced(&self, limit: Duration) -> Result<Removed, SnapshotError> {
        let backend = &*self.inner.backend;
        let manifest = self.manifest();
        let mut unneeded = Vec::new();
        let begun = Instant::now();
        each_blob_page(backend, self.folder(), &mut |page| {
            unneeded.extend(page.iter().copied().filter(|entry| manifest.blob(entry.blob.number).is_none()));
            let is_late = begun.elapsed() > limit;
            if is_late {
                Err(StorageError::late(backend.place(), "looking for what nobody needs", limit))
            } else {
                Ok(())
            }
        })?;
        // Another owner claims before it writes. So what it wrote is not on the list if nobody has claimed yet.
        let newest = backend.manifest(self.folder())?.map(|published| published.revision);
        if newest.as_ref() != Some(&self.inner.revision) {
            return Err(StorageError::conflict(self.folder(), backend.place()).into());
        }
        let mut removed = Removed::default();
        for some in unneeded.chunks(LISTED_MAX) {
            let names: Vec<BlobName> = some.iter().map(|entry| entry.blob).collect();
            backend.remove(&names)?;
            removed.blobs += some.len() as u64;
            removed.bytes += some.iter().map(|entry| entry.bytes).sum::<u64>();
        }
        Ok(removed)
    }

    /// Whether it has anything in the blob of this number.
    #[must_use]
    pub fn needs(&self, number: u128) -> bool {
        self.manifest().blob(number).is_some()
    }

    /// What it takes.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let manifest = self.manifest();
        Usage {
            stored_bytes: manifest.blobs.iter().map(|blob| blob.bytes).sum(),
            live_bytes: manifest.blobs.iter().map(|blob| blob.live_bytes).sum(),
            blobs: manifest.blobs.len() as u64,
            objects: manifest.facts.objects,
            value_bytes: manifest.value_bytes(),
            manifest_bytes: self.inner.manifest_bytes,
        }
    }
}

/// Publishes a manifest, and finds out whether it happened when the storage does not know.
pub(crate) fn publish(
    backend: &dyn Backend,
    folder: &Folder,
    replaces: Option<&Revision>,
    bytes: &[u8],
) -> Result<Revision, SnapshotError> {
    if bytes.len() > MANIFEST_BYTES_MAX {
        return Err(SnapshotError::TooLarge {
            folder: Box::new(*folder),
            what: "bytes of a manifest",
            actual: bytes.len() as u64,
            limit: MANIFEST_BYTES_MAX as u64,
        });
    }
    let error = match backend.publish(folder, replaces, bytes) {
        Ok(revision) => return Ok(revision),
        Err(error) => error,
    };
    // An answer may have been lost. That the manifest can be seen does not say that it lasts: so it is published once more over
    // itself.
    match backend.manifest(folder) {
        Ok(Some(seen)) if seen.bytes == bytes => Ok(backend.publish(folder, Some(&seen.revision), bytes)?),
        _ => Err(error.into()),
    }
}
