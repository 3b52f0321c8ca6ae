//! Writes a snapshot: what changed since the one before, and a manifest that has all of it.
//!
//! 1. Objects are gathered by pages. A page whose hashes and versions are those of the stored one is kept unread.
//! 2. Of the other pages, values that are stored already in the same version keep their places; all others are packed into chunks,
//!    neighbours together, by several threads that read, compress, checksum and put.
//! 3. Pages are encoded and packed, then sections.
//! 4. What was put is made lasting, then the manifest is published, if nobody else has published one. Only then is anything
//!    removed, and only what the new manifest does not need.
//!
//! Until the manifest is published nothing of the stored snapshot has changed; whatever fails before leaves it as it was.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use super::accounts::{Changes, emptied};
use super::compress::Compression;
use super::cut::{Cut, CutFacts, SectionKind};
use super::draft::{Draft, Fate, Record, gather};
use super::error::SnapshotError;
use super::format::{checksum, length_u32};
use super::limits::{
    BLOB_ALIGN, CHUNK_BYTES, PAGE_BITS_MAX, PAGE_BYTES_MAX, PAGE_OBJECTS, PASS_OBJECTS_MAX, PIECE_BYTES,
    READ_BYTES_MAX, SECTION_INLINE_BYTES_MAX, SECTIONS_MAX, VALUE_BYTES_MAX,
};
use super::location::{Form, Location};
use super::manifest::{Manifest, PagePlace, SectionPlace};
use super::pack::{Chunk, Packer};
use super::page::{self, PageObject};
use super::pieces::{self, LongValue};
use super::share::{lock, share};
use super::stored::{Snapshot, publish};
use crate::backend::{Backend, LISTED_MAX};
use crate::buffer::AlignedBuffer;
use crate::error::StorageError;
use crate::name::{BlobName, Folder};

/// Threads that write unless something else is said: enough that some put while others read.
const THREADS: usize = 4;
/// Pages that a thread takes at a time.
const PAGES_A_JOB: usize = 16;
/// Bytes of state for which there is a page at least, so that threads share large objects too.
const PAGE_STATE_BYTES: u64 = 2 * CHUNK_BYTES as u64;

/// How a snapshot is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WritePlan {
    /// Threads that read, compress and put.
    pub threads: usize,
    /// Whether to compress where it pays.
    pub compress: bool,
    /// Whether what lives may be moved out of blobs that are mostly garbage. Not for the cut of a process that goes on: it
    /// may know where its values were.
    pub compact: bool,
    /// Which owner of the process writes: not less than that of the stored snapshot.
    pub epoch: u64,
}

impl WritePlan {
    /// What suits a process that is swapped out.
    #[must_use]
    pub fn new(epoch: u64) -> Self {
        Self { threads: THREADS, compress: true, compact: true, epoch }
    }
}

/// What writing a snapshot took.
#[derive(Debug, Default)]
pub struct Written {
    /// Bytes that were put, with the manifest.
    pub bytes: u64,
    /// Blobs that were put.
    pub blobs: u64,
    /// Values that were put.
    pub values_written: u64,
    /// Values of written pages that were stored already. Those of pages that were kept are not counted.
    pub values_reused: u64,
    /// Pages that were put.
    pub pages_written: u64,
    /// Pages that were stored already.
    pub pages_reused: u64,
    /// Bytes that were moved out of blobs that were mostly garbage.
    pub moved_bytes: u64,
    /// Blobs that were removed because nothing needs them any more.
    pub removed_blobs: u64,
    /// Why some of these are left; [`Snapshot::remove_unreferenced`] gets them.
    pub left_over: Option<StorageError>,
}

/// Writes and publishes a snapshot that follows `base`, or is the first of its folder.
///
/// # Errors
/// [`SnapshotError`]. The stored snapshot is what it was then, unless publishing failed in a way that leaves that open, and the
/// manifest could not be read either: who tries again opens the snapshot anew first. One of which
/// [`SnapshotError::is_conflict`] holds says that somebody else owns the process, or that this happened.
pub fn write(
    backend: &Arc<dyn Backend>,
    folder: &Folder,
    base: Option<&Snapshot>,
    cut: &dyn Cut,
    plan: &WritePlan,
) -> Result<(Snapshot, Written), SnapshotError> {
    let writing = Writing::begin(&**backend, folder, base, cut, plan)?;
    let prepared = writing.prepare().and_then(|prepared| {
        backend.flush(folder)?;
        Ok(prepared)
    });
    let (manifest, dead, mut written) = prepared.inspect_err(|_| writing.packer.abandon(|_| true))?;
    let bytes = manifest.encode();
    let revision = publish(&**backend, folder, base.map(Snapshot::revision), &bytes).inspect_err(|error| {
        // After any other error it may have happened, or may still happen. After a conflict it may have happened before, and be
        // what the other owner goes on from: what that one needs stays.
        if error.is_conflict()
            && let Ok(newest) = Snapshot::open(backend, folder)
        {
            let needs = |number| newest.as_ref().is_some_and(|newest| newest.manifest().blob(number).is_some());
            writing.packer.abandon(|number| !needs(number));
        }
    })?;
    let (blobs, blob_bytes) = writing.packer.totals();
    (written.blobs, written.bytes) = (blobs, blob_bytes + bytes.len() as u64);
    let dead: Vec<BlobName> = dead.into_iter().map(|number| BlobName { folder: *folder, number }).collect();
    for some in dead.chunks(LISTED_MAX) {
        match backend.remove(some) {
            Ok(()) => written.removed_blobs += some.len() as u64,
            Err(error) => written.left_over = Some(error),
        }
    }
    Ok((Snapshot::new(backend, revision, manifest, bytes.len()), written))
}

/// How many bits of a hash name a page in a state without a snapshot.
fn wanted_bits(facts: &CutFacts) -> u32 {
    let pages = (facts.objects / PAGE_OBJECTS).max((facts.state_bytes / PAGE_STATE_BYTES).min(facts.objects));
    pages.max(1).next_power_of_two().ilog2().min(PAGE_BITS_MAX)
}

struct Writing<'w> {
    packer: Packer<'w>,
    folder: &'w Folder,
    cut: &'w dyn Cut,
    plan: &'w WritePlan,
    facts: CutFacts,
    bits: u32,
    base: Option<&'w Snapshot>,
    /// The snapshot before, if its pages are cut the same way.
    same: Option<&'w Snapshot>,
    /// Blobs that are mostly garbage.
    emptied: HashSet<u128>,
    joined: Mutex<(Changes, Written)>,
}

/// What one thread has.
struct Worker {
    chunk: Chunk,
    compression: Compression,
    changes: Changes,
    written: Written,
    buffer: Option<AlignedBuffer>,
}

impl<'w> Writing<'w> {
    fn begin(
        backend: &'w dyn Backend,
        folder: &'w Folder,
        base: Option<&'w Snapshot>,
        cut: &'w dyn Cut,
        plan: &'w WritePlan,
    ) -> Result<Self, SnapshotError> {
        let unfit = |reason| Err(SnapshotError::unfit(folder, reason));
        let facts = cut.facts();
        if let Some(base) = base {
            if base.folder() != folder {
                return unfit(format!("that is one of {}", base.folder()));
            }
            if plan.epoch < base.epoch() {
                return unfit(format!("its epoch is {}, this one's would be {}", base.epoch(), plan.epoch));
            }
        }
        let pages = base.map_or(0, Snapshot::pages);
        let absent = (0..pages).find(|&page| cut.is_absent(page));
        let hashed_alike = base.filter(|base| base.facts().hash_seed == facts.hash_seed);
        let wanted = wanted_bits(&facts);
        let bits = match (hashed_alike, absent) {
            (None, Some(page)) => return unfit(format!("page {page} was not restored yet, and keys are hashed anew")),
            (Some(base), Some(_)) => base.page_bits(),
            (Some(base), None) if base.page_bits().abs_diff(wanted) <= 1 => base.page_bits(),
            (_, None) => wanted,
        };
        Ok(Self {
            packer: Packer::new(backend, folder)?,
            folder,
            cut,
            plan,
            facts,
            bits,
            base: hashed_alike.or(base),
            same: hashed_alike.filter(|base| base.page_bits() == bits),
            emptied: base.filter(|_| plan.compact).map_or_else(HashSet::new, |base| emptied(base.manifest())),
            joined: Mutex::default(),
        })
    }

    /// Everything up to the manifest, and the blobs that it does not need.
    fn prepare(&self) -> Result<(Manifest, Vec<u128>, Written), SnapshotError> {
        let pages_all = 1_u32 << self.bits;
        let passes = self.facts.objects.div_ceil(PASS_OBJECTS_MAX).max(1).next_power_of_two();
        let pages_a_pass = (u64::from(pages_all) / passes).max(1);
        let mut pages = Vec::with_capacity(pages_all as usize);
        while pages.len() < pages_all as usize {
            let first = length_u32(pages.len());
            let end = u32::try_from(u64::from(first) + pages_a_pass).unwrap_or(pages_all);
            self.pass(first..end, &mut pages)?;
        }
        let sections = self.sections()?;
        self.packer.finish(self.plan.threads)?;
        let (changes, written) = std::mem::take(&mut *lock(&self.joined));
        let before = self.base.map(Snapshot::manifest);
        let (blobs, dead) = changes.settle(before, self.same.is_some(), &self.packer)?;
        let value_bytes_before = self.same.map_or(0, |base| base.manifest().value_bytes);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let objects = pages.iter().flatten().map(|page: &PagePlace| u64::from(page.objects)).sum();
        let manifest = Manifest {
            folder: *self.folder,
            epoch: self.plan.epoch,
            writing: self.packer.writing,
            written_unix_ms: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
            facts: CutFacts { objects, ..self.facts },
            value_bytes: (value_bytes_before + changes.value_bytes).saturating_sub(changes.value_bytes_before),
            sections,
            blobs,
            page_bits: self.bits,
            pages,
        };
        Ok((manifest, dead, written))
    }

    fn worker(&self) -> Worker {
        Worker {
            chunk: self.packer.chunk(),
            compression: Compression::new(self.plan.compress),
            changes: Changes::default(),
            written: Written::default(),
            buffer: None,
        }
    }

    fn end(&self, worker: Worker) {
        self.packer.keep(worker.chunk);
        let mut joined = lock(&self.joined);
        joined.0.join(worker.changes);
        let (sum, own) = (&mut joined.1, worker.written);
        sum.values_written += own.values_written;
        sum.values_reused += own.values_reused;
        sum.pages_written += own.pages_written;
        sum.pages_reused += own.pages_reused;
        sum.moved_bytes += own.moved_bytes;
    }

    /// Writes these pages.
    fn pass(&self, numbers: std::ops::Range<u32>, pages: &mut Vec<Option<PagePlace>>) -> Result<(), SnapshotError> {
        let mut drafts = gather(self.folder, self.cut, self.bits, numbers)?;
        let run = drafts.len().div_ceil(self.plan.threads.max(1) * 4).clamp(1, PAGES_A_JOB);
        let jobs = drafts.chunks_mut(run).collect();
        let settle = |worker: &mut Worker, run: &mut [Draft]| self.settle(worker, run);
        share(self.plan.threads, jobs, || self.worker(), settle, |worker| self.end(worker))?;
        self.long_values(&mut drafts)?;
        let jobs = drafts.chunks_mut(run).collect();
        let encode =
            |worker: &mut Worker, run: &mut [Draft]| run.iter_mut().try_for_each(|draft| self.encode(worker, draft));
        share(self.plan.threads, jobs, || self.worker(), encode, |worker| self.end(worker))?;
        pages.extend(drafts.iter().map(|draft| draft.place));
        Ok(())
    }

    /// Decides what becomes of neighbouring pages, and stores the values of those that are written.
    fn settle(&self, worker: &mut Worker, run: &mut [Draft]) -> Result<(), SnapshotError> {
        for draft in &mut *run {
            self.decide(draft)?;
        }
        let mut unsettled: Vec<&mut Draft> = run.iter_mut().filter(|draft| self.is_unsettled(draft)).collect();
        if let Some(same) = self.same.filter(|_| !unsettled.is_empty()) {
            let bytes = READ_BYTES_MAX + 2 * BLOB_ALIGN;
            let buffer = worker.buffer.get_or_insert_with(|| AlignedBuffer::new(bytes));
            let mut earlier = same.pages_with(unsettled.iter().map(|draft| draft.number), buffer);
            earlier.sort_by_key(|(number, _)| *number);
            for (draft, (_, earlier)) in unsettled.iter_mut().zip(earlier) {
                self.follow(worker, draft, same.place(draft.number), earlier)?;
            }
        } else if let Some(base) = self.base.filter(|base| base.facts().hash_seed == self.facts.hash_seed) {
            for draft in &mut unsettled {
                draft.reuse(&Self::overlapping(base, draft.number, self.bits)?);
            }
        }
        for draft in unsettled {
            if matches!(draft.fate, Fate::Written) {
                self.values(worker, draft)?;
            }
        }
        worker.written.pages_reused +=
            run.iter().filter(|draft| matches!(draft.fate, Fate::Kept) && draft.place.is_some()).count() as u64;
        Ok(())
    }

    /// Keeps a page that is stored already, as far as that can be told without reading it.
    fn decide(&self, draft: &mut Draft) -> Result<(), SnapshotError> {
        let place = self.same.and_then(|same| same.place(draft.number));
        if self.same.is_some() && self.cut.is_absent(draft.number) {
            if !draft.records.is_empty() {
                let reason = format!("it shows objects of page {}, which it says is absent", draft.number);
                return Err(SnapshotError::cut(self.folder, super::cut::CutError::new(reason)));
            }
            (draft.fate, draft.place) = (Fate::Kept, place);
            return Ok(());
        }
        draft.sort().map_err(|error| SnapshotError::cut(self.folder, error))?;
        let unchanged =
            place.filter(|place| place.objects as usize == draft.records.len() && place.digest == draft.digest());
        if unchanged.is_some() {
            (draft.fate, draft.place) = (Fate::Kept, unchanged);
        }
        Ok(())
    }

    /// Whether more has to be known of it: it changed, or may have something in a blob that is to be emptied.
    fn is_unsettled(&self, draft: &Draft) -> bool {
        let stored = self.same.and_then(|same| same.place(draft.number)).is_some();
        match draft.fate {
            Fate::Kept => stored && !self.emptied.is_empty(),
            Fate::Written => stored || !draft.records.is_empty(),
        }
    }

    /// Takes from the stored page what is still good.
    fn follow(
        &self,
        worker: &mut Worker,
        draft: &mut Draft,
        place: Option<PagePlace>,
        earlier: Result<Vec<PageObject>, SnapshotError>,
    ) -> Result<(), SnapshotError> {
        let earlier = match earlier {
            Ok(earlier) => earlier,
            // What it needs of blobs goes on counting. If it is kept, it stays damaged; if not, it is whole again.
            Err(error) if error.is_damage() => return Ok(()),
            Err(error) => return Err(error),
        };
        if matches!(draft.fate, Fate::Kept) {
            let is_emptied = |blob| self.emptied.contains(&blob);
            let moves = place.is_some_and(|place| is_emptied(place.blob))
                || earlier.iter().any(|object| is_emptied(object.location.blob));
            if !moves {
                return Ok(());
            }
            (draft.fate, draft.place) = (Fate::Written, None);
            if draft.records.is_empty() {
                draft.adopt(&earlier).map_err(|error| SnapshotError::cut(self.folder, error))?;
            }
        }
        if let Some(place) = place {
            worker.changes.release_page(&place);
        }
        for object in &earlier {
            worker.changes.release(&object.location, object.value_bytes);
        }
        draft.reuse(&earlier);
        Ok(())
    }

    /// What a snapshot whose pages are cut in another way has of a page; without those pages of it that are damaged.
    fn overlapping(base: &Snapshot, number: u32, bits: u32) -> Result<Vec<PageObject>, SnapshotError> {
        let (first, base_bits) = (page::first_hash(number, bits), base.page_bits());
        let last = first | u64::MAX.checked_shr(bits).unwrap_or(0);
        let mut objects = Vec::new();
        for page in page::page_of(first, base_bits)..=page::page_of(last, base_bits) {
            match base.page(page) {
                Ok(found) => objects.extend(found.into_iter().filter(|object| (first..=last).contains(&object.hash))),
                Err(error) if error.is_damage() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(objects)
    }

    /// Stores the values of a page that are not stored, but long ones.
    fn values(&self, worker: &mut Worker, draft: &mut Draft) -> Result<(), SnapshotError> {
        for at in 0..draft.records.len() {
            let record = draft.records[at];
            let emptied = record.location.filter(|location| self.emptied.contains(&location.blob));
            let location = match (record.location, emptied, record.token) {
                (Some(_), None, _) => {
                    worker.written.values_reused += 1;
                    continue;
                }
                (_, Some(location), None) => self.moved(worker, draft, &record, &location)?,
                _ if record.value_bytes as usize > PIECE_BYTES => {
                    draft.records[at].location = None;
                    continue;
                }
                (_, emptied, Some(token)) => {
                    worker.written.moved_bytes += emptied.map_or(0, |location| u64::from(location.stored_bytes));
                    let read = |into: &mut [u8]| self.read(token, 0, into);
                    self.value(worker, record.value_bytes, read)?
                }
                (None, None, None) => unreachable!("a value is in memory or stored"),
            };
            worker.written.values_written += 1;
            draft.records[at].location = Some(location);
        }
        Ok(())
    }

    fn read(&self, token: u64, offset: u64, into: &mut [u8]) -> Result<(), SnapshotError> {
        self.cut.read(token, offset, into).map_err(|error| SnapshotError::cut(self.folder, error))
    }

    /// Stores one value that fits a blob.
    fn value(
        &self,
        worker: &mut Worker,
        bytes: u32,
        read: impl FnOnce(&mut [u8]) -> Result<(), SnapshotError>,
    ) -> Result<Location, SnapshotError> {
        let compression = &mut worker.compression;
        let (place, (form, checksum, stored)) = self.packer.append(&mut worker.chunk, bytes as usize, |room| {
            read(room)?;
            let form = match compression.shrink(room) {
                Some(small) => {
                    room[..small.len()].copy_from_slice(small);
                    (Form::Zstd, small.len())
                }
                None => (Form::Plain, room.len()),
            };
            Ok((form.1, (form.0, checksum(&room[..form.1]), form.1)))
        })?;
        let stored_bytes = length_u32(stored);
        Ok(Location { blob: place.blob, offset: place.offset, stored_bytes, checksum, form })
    }

    /// Copies a stored value out of a blob that is to be emptied. One that is damaged stays where it is.
    fn moved(
        &self,
        worker: &mut Worker,
        draft: &Draft,
        record: &Record,
        location: &Location,
    ) -> Result<Location, SnapshotError> {
        let Some(base) = self.base else { return Ok(*location) };
        let stored = match base.source().stored(&draft.part(record), location) {
            Ok(stored) => stored,
            Err(error) if error.is_damage() => return Ok(*location),
            Err(error) => return Err(error),
        };
        let (place, ()) = self.packer.append(&mut worker.chunk, stored.len(), |room| {
            room.copy_from_slice(&stored);
            Ok((stored.len(), ()))
        })?;
        worker.written.moved_bytes += stored.len() as u64;
        Ok(Location { blob: place.blob, offset: place.offset, ..*location })
    }

    /// Stores the values that do not fit a blob.
    fn long_values(&self, drafts: &mut [Draft]) -> Result<(), SnapshotError> {
        let mut missing = Vec::new();
        let mut values = Vec::new();
        for (at, draft) in drafts.iter().enumerate().filter(|(_, draft)| matches!(draft.fate, Fate::Written)) {
            for (which, record) in draft.records.iter().enumerate() {
                if let (None, Some(token)) = (record.location, record.token) {
                    missing.push((at, which));
                    let read = Box::new(move |offset, into: &mut [u8]| self.read(token, offset, into));
                    values.push(LongValue { bytes: record.value_bytes, read });
                }
            }
        }
        let locations = pieces::write(&self.packer, self.plan.threads, self.plan.compress, &values)?;
        lock(&self.joined).1.values_written += locations.len() as u64;
        for ((at, which), location) in missing.into_iter().zip(locations) {
            drafts[at].records[which].location = Some(location);
        }
        Ok(())
    }

    /// Stores a page that is not kept.
    fn encode(&self, worker: &mut Worker, draft: &mut Draft) -> Result<(), SnapshotError> {
        if matches!(draft.fate, Fate::Kept) || draft.records.is_empty() {
            return Ok(());
        }
        let mut bytes = Vec::new();
        page::encode(&mut bytes, draft.number, self.bits, draft.entries());
        if bytes.len() > PAGE_BYTES_MAX {
            return Err(SnapshotError::TooLarge {
                folder: Box::new(*self.folder),
                what: "bytes of one page of the index",
                actual: bytes.len() as u64,
                limit: PAGE_BYTES_MAX as u64,
            });
        }
        let (place, ()) = self.packer.append(&mut worker.chunk, bytes.len(), |room| {
            room.copy_from_slice(&bytes);
            Ok((bytes.len(), ()))
        })?;
        for record in &draft.records {
            if let Some(location) = &record.location {
                worker.changes.charge(location, record.value_bytes);
            }
        }
        let place = PagePlace {
            blob: place.blob,
            offset: place.offset,
            bytes: length_u32(bytes.len()),
            objects: length_u32(draft.records.len()),
            checksum: checksum(&bytes),
            digest: draft.digest(),
        };
        worker.changes.charge_page(&place);
        worker.written.pages_written += 1;
        draft.place = Some(place);
        Ok(())
    }

    /// Stores the sections, always anew: only their own rooms know whether they changed.
    fn sections(&self) -> Result<Vec<(SectionKind, SectionPlace)>, SnapshotError> {
        let sections = self.cut.sections();
        let too_large = |what, actual: usize, limit: usize| {
            let (actual, limit) = (actual as u64, limit as u64);
            SnapshotError::TooLarge { folder: Box::new(*self.folder), what, actual, limit }
        };
        if sections.len() > SECTIONS_MAX {
            return Err(too_large("sections", sections.len(), SECTIONS_MAX));
        }
        let mut worker = self.worker();
        let mut places: Vec<(SectionKind, SectionPlace)> = Vec::new();
        for (kind, bytes) in sections {
            if places.iter().any(|(other, _)| other == kind) {
                let reason = super::cut::CutError::new(format!("it has the {kind} twice"));
                return Err(SnapshotError::cut(self.folder, reason));
            }
            if bytes.len() <= SECTION_INLINE_BYTES_MAX {
                places.push((*kind, SectionPlace::Inline(bytes.as_slice().into())));
                continue;
            }
            let length = u32::try_from(bytes.len()).ok().filter(|length| *length <= VALUE_BYTES_MAX);
            let length =
                length.ok_or_else(|| too_large("bytes of a section", bytes.len(), VALUE_BYTES_MAX as usize))?;
            let location = self.section(&mut worker, bytes, length)?;
            // Not through `charge`, which counts bytes of values.
            let counted = worker.changes.value_bytes;
            worker.changes.charge(&location, length);
            worker.changes.value_bytes = counted;
            places.push((*kind, SectionPlace::Located { bytes: length, location }));
        }
        for (_, place) in self.same.iter().flat_map(|same| &same.manifest().sections) {
            if let SectionPlace::Located { bytes, location } = place {
                let counted = worker.changes.value_bytes_before;
                worker.changes.release(location, *bytes);
                worker.changes.value_bytes_before = counted;
            }
        }
        self.end(worker);
        Ok(places)
    }

    fn section(&self, worker: &mut Worker, bytes: &[u8], length: u32) -> Result<Location, SnapshotError> {
        if bytes.len() <= PIECE_BYTES {
            return self.value(worker, length, |room| {
                room.copy_from_slice(bytes);
                Ok(())
            });
        }
        let read = Box::new(|offset: u64, into: &mut [u8]| {
            let start = usize::try_from(offset).unwrap_or(usize::MAX);
            into.copy_from_slice(&bytes[start..start + into.len()]);
            Ok(())
        });
        let values = [LongValue { bytes: length, read }];
        let locations = pieces::write(&self.packer, self.plan.threads, self.plan.compress, &values)?;
        Ok(locations[0])
    }
}
