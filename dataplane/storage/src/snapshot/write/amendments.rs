//! Pages of which little was replaced: what is newer is stored, beside the page as it was written whole, in one amendment that has all
//! of it since then. Of what is stored only the amendment before is read.

use std::sync::Mutex;

use super::survey::Amended;
use super::{Worker, Writing};
use crate::snapshot::error::SnapshotError;
use crate::snapshot::format::length_u32;
use crate::snapshot::manifest::{Amendment, PagePlace};
use crate::snapshot::page::PageObject;
use crate::snapshot::share::{lock, share};

/// Pages that a thread takes at a time: their amendments before lie together.
const PAGES_A_JOB: usize = 256;

/// What comes of amending.
#[derive(Debug, Default)]
struct Done {
    places: Vec<(u32, PagePlace)>,
    /// Pages whose amendment before is damaged.
    damaged: Vec<u32>,
}

impl Writing<'_> {
    /// Amends pages. Returns those that have to be looked at as a whole instead.
    pub(super) fn amend(
        &self,
        mut amended: Vec<Amended>,
        pages: &mut [Option<PagePlace>],
    ) -> Result<Vec<u32>, SnapshotError> {
        let done = Mutex::new(Done::default());
        let jobs = amended.chunks_mut(PAGES_A_JOB).collect();
        let each = |worker: &mut Worker, run: &mut [Amended]| self.amend_run(worker, run, &done);
        share(self.plan.threads, jobs, || self.worker(), each, |worker| self.end(worker))?;
        let Done { places, damaged } = std::mem::take(&mut *lock(&done));
        places.into_iter().for_each(|(number, place)| pages[number as usize] = Some(place));
        Ok(damaged)
    }

    fn amend_run(&self, worker: &mut Worker, run: &mut [Amended], done: &Mutex<Done>) -> Result<(), SnapshotError> {
        let cut = |error| SnapshotError::cut(self.folder, error);
        run.iter_mut().try_for_each(|page| page.draft.sort()).map_err(cut)?;
        let mut own = Done::default();
        if let Some(same) = self.same {
            for (number, before) in same.amendments_with(run.iter().map(|page| page.draft.number), worker.buffer()) {
                let Some(page) = run.iter_mut().find(|page| page.draft.number == number) else { continue };
                match before {
                    Ok(before) => {
                        page.release(worker, &before);
                        page.draft.fill_up(&before).map_err(cut)?;
                    }
                    Err(error) if error.is_damage() => own.damaged.push(number),
                    Err(error) => return Err(error),
                }
            }
        }
        // Values first, so that those of neighbouring pages lie together, and so do the amendments.
        for page in run.iter_mut().filter(|page| !own.damaged.contains(&page.draft.number)) {
            self.values(worker, &mut page.draft)?;
        }
        for page in run.iter().filter(|page| !own.damaged.contains(&page.draft.number)) {
            let stretch = self.put_page(worker, &page.draft)?;
            let (objects, dead_bytes) = (length_u32(page.draft.records.len()), page.dead_bytes);
            let amendment = Some(Amendment { stretch, objects, dead_bytes });
            own.places.push((page.draft.number, PagePlace { amendment, sum: page.sum, ..page.place }));
        }
        let mut done = lock(done);
        done.places.append(&mut own.places);
        done.damaged.append(&mut own.damaged);
        Ok(())
    }
}

impl Amended {
    /// Nothing of the amendment before is needed, or it is charged anew.
    fn release(&self, worker: &mut Worker, before: &[PageObject]) {
        if let Some(amendment) = self.place.amendment {
            worker.changes.release_stretch(&amendment.stretch);
        }
        for object in before {
            worker.changes.release(&object.location, object.value_bytes);
        }
    }
}
