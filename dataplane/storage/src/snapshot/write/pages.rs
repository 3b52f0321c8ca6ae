//! Pages: which are kept as they are stored, which are written, and their bytes.

use super::{Worker, Writing};
use crate::snapshot::draft::{Draft, Fate, gather};
use crate::snapshot::error::SnapshotError;
use crate::snapshot::format::{checksum, length_u32};
use crate::snapshot::limits::{CHUNK_BYTES, PAGE_BYTES_MAX};
use crate::snapshot::manifest::{PagePlace, Stretch};
use crate::snapshot::page::{self, PageObject};
use crate::snapshot::share::share;
use crate::snapshot::stored::Snapshot;
use crate::snapshot::stored_page::StoredPage;

/// Pages that a thread takes at a time, at most.
const PAGES_A_JOB: usize = 16;
/// Bytes of values that it takes at a time, about: two chunks, so that no thread is long at work when the others have ended.
const JOB_BYTES: u64 = 2 * CHUNK_BYTES as u64;

impl Writing<'_> {
    /// Looks at these pages as a whole, and writes those that changed.
    pub(super) fn pass(&self, numbers: &[u32], pages: &mut [Option<PagePlace>]) -> Result<(), SnapshotError> {
        let mut drafts = gather(self.folder, self.cut, self.bits, numbers)?;
        let bytes: u64 =
            drafts.iter().flat_map(|draft| &draft.records).map(|record| u64::from(record.value_bytes)).sum();
        let jobs = usize::try_from(bytes / JOB_BYTES).unwrap_or(usize::MAX).max(self.plan.threads.max(1) * 4);
        let run = drafts.len().div_ceil(jobs).clamp(1, PAGES_A_JOB);
        let jobs = drafts.chunks_mut(run).collect();
        let settle = |worker: &mut Worker, run: &mut [Draft]| self.settle(worker, run);
        share(self.plan.threads, jobs, || self.worker(), settle, |worker| self.end(worker))?;
        self.long_values(&mut drafts)?;
        let jobs = drafts.chunks_mut(run).collect();
        let encode =
            |worker: &mut Worker, run: &mut [Draft]| run.iter_mut().try_for_each(|draft| self.encode(worker, draft));
        share(self.plan.threads, jobs, || self.worker(), encode, |worker| self.end(worker))?;
        drafts.iter().for_each(|draft| pages[draft.number as usize] = draft.place);
        Ok(())
    }

    /// Decides what becomes of neighbouring pages, and stores the values of those that are written.
    fn settle(&self, worker: &mut Worker, run: &mut [Draft]) -> Result<(), SnapshotError> {
        for draft in &mut *run {
            self.decide(draft)?;
        }
        let mut unsettled: Vec<&mut Draft> = run.iter_mut().filter(|draft| self.is_unsettled(draft)).collect();
        if let Some(same) = self.same.filter(|_| !unsettled.is_empty()) {
            let earlier = same.pages_with(unsettled.iter().map(|draft| draft.number), worker.buffer());
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
            self.ensure_hidden(draft.number, draft.records.len())?;
            (draft.fate, draft.place) = (Fate::Kept, place);
            return Ok(());
        }
        draft.sort().map_err(|error| SnapshotError::cut(self.folder, error))?;
        let unchanged = place.filter(|place| place.sum == draft.sum());
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
        earlier: Result<StoredPage, SnapshotError>,
    ) -> Result<(), SnapshotError> {
        let earlier = match earlier {
            Ok(earlier) => earlier,
            // What it needs of blobs goes on counting. If it is kept, it stays damaged; if not, it is whole again.
            Err(error) if error.is_damage() => return Ok(()),
            Err(error) => return Err(error),
        };
        if matches!(draft.fate, Fate::Kept) {
            let is_emptied = |blob| self.emptied.contains(&blob);
            let moves = place.iter().flat_map(PagePlace::stretches).any(|stretch| is_emptied(stretch.blob))
                || earlier.all().any(|object| is_emptied(object.location.blob));
            if !moves {
                return Ok(());
            }
            (draft.fate, draft.place) = (Fate::Written, None);
            if draft.records.is_empty() {
                draft.adopt(&earlier.objects).map_err(|error| SnapshotError::cut(self.folder, error))?;
            }
        }
        for stretch in place.iter().flat_map(PagePlace::stretches) {
            worker.changes.release_stretch(&stretch);
        }
        for object in earlier.all() {
            worker.changes.release(&object.location, object.value_bytes);
        }
        draft.reuse(&earlier.objects);
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

    /// Stores a page that is not kept.
    fn encode(&self, worker: &mut Worker, draft: &mut Draft) -> Result<(), SnapshotError> {
        if matches!(draft.fate, Fate::Kept) || draft.records.is_empty() {
            return Ok(());
        }
        let (whole, sum) = (self.put_page(worker, draft)?, draft.sum());
        draft.place = Some(PagePlace { whole, amendment: None, sum });
        Ok(())
    }

    /// Stores the objects of a page, or of its amendment, whose values are stored.
    pub(super) fn put_page(&self, worker: &mut Worker, draft: &Draft) -> Result<Stretch, SnapshotError> {
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
        let (blob, offset) = (place.blob, place.offset);
        let stretch = Stretch { blob, offset, bytes: length_u32(bytes.len()), checksum: checksum(&bytes) };
        worker.changes.charge_stretch(&stretch);
        worker.written.pages_written += 1;
        Ok(stretch)
    }
}
