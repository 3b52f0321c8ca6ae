//! Sections: stored always anew, because only their own rooms know whether they changed.

use super::files::Files;
use super::{Worker, Writing};
use crate::snapshot::cut::{CutError, SectionKind};
use crate::snapshot::error::SnapshotError;
use crate::snapshot::limits::{PIECE_BYTES, SECTION_INLINE_BYTES_MAX, SECTIONS_MAX, VALUE_BYTES_MAX};
use crate::snapshot::location::Location;
use crate::snapshot::manifest::SectionPlace;
use crate::snapshot::pieces::{self, LongValue};

impl Writing<'_> {
    /// Stores the sections, with that of the files.
    pub(super) fn sections(&self, files: Files) -> Result<Vec<(SectionKind, SectionPlace)>, SnapshotError> {
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
        let files = match files {
            Files::Anew(table) => Some((SectionKind::FILES, table)),
            Files::Where(place) => {
                if let SectionPlace::Located { bytes, location } = &place {
                    worker.changes.charge(location, *bytes);
                }
                places.push((SectionKind::FILES, place));
                None
            }
            Files::Nothing => None,
        };
        for (kind, bytes) in sections.iter().chain(&files) {
            if places.iter().any(|(other, _)| other == kind) {
                let reason = CutError::new(format!("it has the {kind} twice"));
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
            worker.changes.charge(&location, length);
            places.push((*kind, SectionPlace::Located { bytes: length, location }));
        }
        for (_, place) in self.same.iter().flat_map(|same| &same.manifest().sections) {
            if let SectionPlace::Located { bytes, location } = place {
                worker.changes.release(location, *bytes);
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
