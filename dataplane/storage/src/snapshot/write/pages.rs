//! Pages: which are kept as they are stored, which are written, and their bytes.

use std::ops::Range;

use super::{Worker, Writing};
use crate::buffer::AlignedBuffer;
use crate::snapshot::cut::CutError;
use crate::snapshot::draft::{Draft, Fate, gather};
use crate::snapshot::error::SnapshotError;
use crate::snapshot::format::{checksum, length_u32};
use crate::snapshot::limits::{BLOB_ALIGN, PAGE_BYTES_MAX, READ_BYTES_MAX};
use crate::snapshot::manifest::PagePlace;
use crate::snapshot::page::{self, PageObject};
use crate::snapshot::share::share;
use crate::snapshot::stored::Snapshot;

/// Pages that a thread takes at a time.
const PAGES_A_JOB: usize = 16;

impl Writing<'_> {
    /// Writes these pages.
    pub(super) fn pass(&self, numbers: Range<u32>, pages: &mut Vec<Option<PagePlace>>) -> Result<(), SnapshotError> {
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
                return Err(SnapshotError::cut(self.folder, CutError::new(reason)));
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
}
