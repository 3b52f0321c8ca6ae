//! Writes a snapshot: what changed since the one before, and a manifest that has all of it.
//!
//! 1. All hashes and versions are looked at once. A page whose sum over these is that of the stored one is kept unread; one of which
//!    few objects were replaced is amended, also unread. Of all others the objects are gathered.
//! 2. Of gathered pages, values that are stored already in the same version keep their places; all others are packed into chunks,
//!    neighbours together, by several threads that read, compress, checksum and put.
//! 3. Pages are encoded and packed, then sections.
//! 4. What was put is made lasting, then the manifest is published, if nobody else has published one. Only then is anything
//!    removed, and only what the new manifest does not need.
//!
//! Until the manifest is published nothing of the stored snapshot has changed; whatever fails before leaves it as it was.
//!
//! | room | what |
//! |---|---|
//! | `survey` | step 1 |
//! | `amendments` | pages that are amended |
//! | `pages` | pages that are gathered, and step 3 |
//! | `values` | step 2 |
//! | `sections` | those of step 3 |
//! | `files` | the process's files, as chunks and a section |

mod amendments;
mod files;
mod pages;
mod sections;
mod survey;
mod values;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use self::survey::Survey;
use super::accounts::{Changes, emptied};
use super::compress::Compression;
use super::cut::{Cut, CutFacts};
use super::error::SnapshotError;
use super::limits::{BLOB_ALIGN, CHUNK_BYTES, PAGE_BITS_MAX, PAGE_OBJECTS, PASS_OBJECTS_MAX, READ_BYTES_MAX};
use super::manifest::{Manifest, PagePlace};
use super::pack::{Chunk, Packer};
use super::share::lock;
use super::stored::{Snapshot, publish};
use crate::backend::{Backend, LISTED_MAX, TRANSFERS_AT_ONCE_DEFAULT};
use crate::buffer::AlignedBuffer;
use crate::error::StorageError;
use crate::name::{BlobName, Folder, Owner};

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
    /// Who that is; nobody's own unless it is set.
    pub owner: Owner,
}

impl WritePlan {
    /// What suits a process that is swapped out.
    #[must_use]
    pub fn new(epoch: u64) -> Self {
        Self { threads: TRANSFERS_AT_ONCE_DEFAULT, compress: true, compact: true, epoch, owner: Owner::default() }
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
    /// Pieces of files that were put.
    pub file_pieces_written: u64,
    /// Pieces of files that were stored already.
    pub file_pieces_reused: u64,
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

impl Worker {
    /// Memory to read neighbours into.
    fn buffer(&mut self) -> &mut AlignedBuffer {
        self.buffer.get_or_insert_with(|| AlignedBuffer::new(READ_BYTES_MAX + 2 * BLOB_ALIGN))
    }
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
            if base.is_ended() {
                return unfit("it was stopped: nothing follows it".to_owned());
            }
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
            packer: Packer::new(backend, folder, plan.owner)?,
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
        let Survey { mut pages, amended, mut looked_at } = self.survey()?;
        looked_at.append(&mut self.amend(amended, &mut pages)?);
        looked_at.sort_unstable();
        let passes = self.facts.objects.div_ceil(PASS_OBJECTS_MAX).max(1).next_power_of_two();
        let pages_a_pass = usize::try_from((1 << self.bits) / passes).unwrap_or(1).max(1);
        for numbers in looked_at.chunks(pages_a_pass) {
            self.pass(numbers, &mut pages)?;
        }
        let files = self.files()?;
        let sections = self.sections(files)?;
        self.packer.finish(self.plan.threads)?;
        let (changes, written) = std::mem::take(&mut *lock(&self.joined));
        let before = self.base.map(Snapshot::manifest);
        let (blobs, dead) = changes.settle(before, self.same.is_some(), &self.packer)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let objects = pages.iter().flatten().map(|page: &PagePlace| u64::from(page.sum.objects)).sum();
        let manifest = Manifest {
            folder: *self.folder,
            epoch: self.plan.epoch,
            writing: self.packer.writing,
            written_unix_ms: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
            facts: CutFacts { objects, ..self.facts },
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
        sum.file_pieces_written += own.file_pieces_written;
        sum.file_pieces_reused += own.file_pieces_reused;
        sum.moved_bytes += own.moved_bytes;
    }
}
