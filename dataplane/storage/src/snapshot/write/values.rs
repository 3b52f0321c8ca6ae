//! Values: packed into chunks, copied out of blobs that are mostly garbage, or cut into pieces.

use super::{Worker, Writing};
use crate::snapshot::draft::{Draft, Fate};
use crate::snapshot::error::{Part, SnapshotError};
use crate::snapshot::format::{checksum, length_u32};
use crate::snapshot::limits::PIECE_BYTES;
use crate::snapshot::location::{Form, Location};
use crate::snapshot::pieces::{self, LongValue};
use crate::snapshot::share::lock;

impl Writing<'_> {
    /// Stores the values of a page that are not stored, but long ones.
    pub(super) fn values(&self, worker: &mut Worker, draft: &mut Draft) -> Result<(), SnapshotError> {
        for at in 0..draft.records.len() {
            let record = draft.records[at];
            let emptied = record.location.filter(|location| self.emptied.contains(&location.blob));
            let location = match (record.location, emptied, record.token) {
                (Some(_), None, _) => {
                    worker.written.values_reused += 1;
                    continue;
                }
                (_, Some(location), None) => self.moved(worker, &draft.part(&record), &location)?,
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
    pub(super) fn value(
        &self,
        worker: &mut Worker,
        bytes: u32,
        read: impl FnOnce(&mut [u8]) -> Result<(), SnapshotError>,
    ) -> Result<Location, SnapshotError> {
        let stored = self.value_unless(worker, bytes, |room| {
            read(room)?;
            Ok(None::<Location>)
        })?;
        let (Ok(location) | Err(location)) = stored;
        Ok(location)
    }

    /// The same of one of which it is known only when it was read whether it is to be stored: if `read` returns something, nothing
    /// is, and that comes as an error.
    pub(super) fn value_unless<Instead>(
        &self,
        worker: &mut Worker,
        bytes: u32,
        read: impl FnOnce(&mut [u8]) -> Result<Option<Instead>, SnapshotError>,
    ) -> Result<Result<Location, Instead>, SnapshotError> {
        let compression = &mut worker.compression;
        let (place, packed) = self.packer.append(&mut worker.chunk, bytes as usize, |room| {
            if let Some(instead) = read(room)? {
                return Ok((0, Err(instead)));
            }
            let (form, stored) = match compression.shrink(room) {
                Some(small) => {
                    room[..small.len()].copy_from_slice(small);
                    (Form::Zstd, small.len())
                }
                None => (Form::Plain, room.len()),
            };
            Ok((stored, Ok((form, checksum(&room[..stored]), length_u32(stored)))))
        })?;
        let located = |(form, checksum, stored_bytes)| Location {
            blob: place.blob,
            offset: place.offset,
            stored_bytes,
            checksum,
            form,
        };
        Ok(packed.map(located))
    }

    /// Copies a stored value out of a blob that is to be emptied. One that is damaged stays where it is.
    pub(super) fn moved(
        &self,
        worker: &mut Worker,
        part: &Part,
        location: &Location,
    ) -> Result<Location, SnapshotError> {
        let Some(base) = self.base else { return Ok(*location) };
        let stored = match base.source().stored(part, location) {
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
    pub(super) fn long_values(&self, drafts: &mut [Draft]) -> Result<(), SnapshotError> {
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
}
