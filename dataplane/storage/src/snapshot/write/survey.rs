//! What of a state changed since the snapshot before, from one look at hashes and versions: nothing that is stored is read for it,
//! and of an object that did not change nothing else is looked at.
//!
//! An object is newer than that snapshot if its version is beyond the snapshot's position. A page whose objects give the sum of the
//! stored page is that page. One whose keys alone do has had objects replaced, which are the newer ones: it is amended, unless that
//! does not pay. Of any other page an object was added or deleted: it is looked at as a whole, and written anew.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use super::Writing;
use crate::snapshot::cut::CutError;
use crate::snapshot::draft::{Draft, Record, by_pages};
use crate::snapshot::error::SnapshotError;
use crate::snapshot::limits::{AMENDED_PAGE_BYTES_MIN, AMENDED_SHARE, PASS_OBJECTS_MAX, PIECE_BYTES, THREADS_MAX};
use crate::snapshot::manifest::PagePlace;
use crate::snapshot::page::page_of;
use crate::snapshot::share::{lock, share};
use crate::snapshot::sum::{Glimpse, PageSum};

/// Parts of the state for each thread, so that none of them waits long for the last.
const PARTS_PER_THREAD: u32 = 4;

/// What becomes of all pages.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// Where all lie in the snapshot before.
    pub(super) pages: Vec<Option<PagePlace>>,
    /// Those that are amended, with all their newer objects.
    pub(super) amended: Vec<Amended>,
    /// Those that have to be looked at as a whole, in order.
    pub(super) looked_at: Vec<u32>,
}

/// A page that is amended.
#[derive(Debug)]
pub(super) struct Amended {
    /// Its newer objects.
    pub(super) draft: Draft,
    /// What is stored of it.
    pub(super) place: PagePlace,
    /// What it has now.
    pub(super) sum: PageSum,
    /// Bytes of the values that all of its amendment replaces, at most.
    pub(super) dead_bytes: u64,
}

/// What is seen of a part of the state.
struct Seen {
    sums: Vec<PageSum>,
    /// Newer objects of all pages.
    newer: Draft,
}

impl Writing<'_> {
    /// Looks at everything once. Without a snapshot before whose pages are cut the same way all pages are looked at as a whole, and
    /// also when something is to be moved out of blobs that are mostly garbage.
    pub(super) fn survey(&self) -> Result<Survey, SnapshotError> {
        let all = 1_u32 << self.bits;
        let Some(same) = self.same.filter(|_| self.emptied.is_empty()) else {
            let (pages, amended) = (vec![None; all as usize], Vec::new());
            return Ok(Survey { pages, amended, looked_at: (0..all).collect() });
        };
        let (sums, mut newer) = self.look(same.facts().position)?;
        let (mut pages, mut amended, mut looked_at) = (Vec::with_capacity(all as usize), Vec::new(), Vec::new());
        for (number, sum) in (0..all).zip(sums) {
            let (place, draft) = (same.place(number), newer.remove(&number));
            pages.push(place);
            if self.cut.is_absent(number) {
                self.ensure_hidden(number, sum.objects as usize)?;
            } else if place.map_or(PageSum::default(), |place| place.sum) != sum {
                match place.zip(draft).and_then(|(place, draft)| Amended::new(draft, place, sum)) {
                    Some(page) => amended.push(page),
                    None => looked_at.push(number),
                }
            }
        }
        let reused = pages.iter().flatten().count() - amended.len();
        let reused = reused - looked_at.iter().filter(|&&number| pages[number as usize].is_some()).count();
        lock(&self.joined).1.pages_reused += reused as u64;
        Ok(Survey { pages, amended, looked_at })
    }

    /// The sums of all pages, and the objects that are newer than a position by their pages; none if they are too many.
    fn look(&self, position: u64) -> Result<(Vec<PageSum>, BTreeMap<u32, Draft>), SnapshotError> {
        let parts = u32::try_from(self.plan.threads.clamp(1, THREADS_MAX)).unwrap_or(1) * PARTS_PER_THREAD;
        let newer_max = (self.facts.objects / AMENDED_SHARE).min(PASS_OBJECTS_MAX);
        let (count, pages) = (AtomicU64::new(0), 1_usize << self.bits);
        let all = Mutex::new((vec![PageSum::default(); pages], Vec::new()));
        let begin = || Seen { sums: vec![PageSum::default(); pages], newer: Draft::new(0) };
        let each = |Seen { sums, newer }: &mut Seen, part: u32| {
            let mut glance = |object: &Glimpse| {
                sums[page_of(object.hash, self.bits) as usize].add(object);
                object.version > position && count.fetch_add(1, Relaxed) < newer_max
            };
            let shown = self.cut.survey(part, parts, &mut glance, &mut |entry, value| newer.add(&entry, value));
            shown.map_err(|error| SnapshotError::cut(self.folder, error))
        };
        let end = |seen: Seen| {
            let mut all = lock(&all);
            all.0.iter_mut().zip(&seen.sums).for_each(|(sum, own)| sum.join(own));
            all.1.push(seen.newer);
        };
        share(self.plan.threads, (0..parts).collect(), begin, each, end)?;
        let (sums, newer) = all.into_inner().unwrap_or_else(PoisonError::into_inner);
        let newer = if count.into_inner() > newer_max { Vec::new() } else { newer };
        let newer = by_pages(&newer, self.bits).map_err(|error| SnapshotError::cut(self.folder, error))?;
        Ok((sums, newer))
    }

    /// That nothing was shown of a page that is absent.
    pub(super) fn ensure_hidden(&self, number: u32, objects: usize) -> Result<(), SnapshotError> {
        if objects == 0 {
            return Ok(());
        }
        let reason = format!("it shows {objects} objects of page {number}, which it says is absent");
        Err(SnapshotError::cut(self.folder, CutError::new(reason)))
    }
}

impl Amended {
    /// A page with newer objects, if it has no others that are not stored, and amending pays.
    fn new(draft: Draft, place: PagePlace, sum: PageSum) -> Option<Self> {
        let (before, records) = (place.amendment, &draft.records);
        let newer_bytes: u64 = records.iter().map(|record| u64::from(record.value_bytes)).sum();
        let replaced_bytes = place.sum.value_bytes.checked_add(newer_bytes)?.checked_sub(sum.value_bytes)?;
        let dead_bytes = replaced_bytes.checked_add(before.map_or(0, |before| before.dead_bytes))?;
        let objects = records.len() as u64 + before.map_or(0, |before| u64::from(before.objects));
        let is_long = |record: &Record| record.value_bytes as usize > PIECE_BYTES;
        let pays = sum.has_keys_of(&place.sum)
            && place.whole.bytes >= AMENDED_PAGE_BYTES_MIN
            && objects * AMENDED_SHARE <= u64::from(sum.objects)
            && dead_bytes.saturating_mul(AMENDED_SHARE) <= sum.value_bytes
            && !records.iter().any(is_long);
        pays.then_some(Self { draft, place, sum, dead_bytes })
    }
}
