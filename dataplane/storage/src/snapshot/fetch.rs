//! Gets values from where they lie, and believes nothing that their checksums do not say.

use super::compress::expand;
use super::error::{Part, SnapshotError};
use super::format::{FormatError, check};
use super::limits::PIECE_BYTES;
use super::location::{Form, Location};
use super::pieces;
use super::share::share;
use crate::backend::Backend;
use crate::name::{BlobName, Folder};

/// Threads that get the pieces of one value.
const PIECE_THREADS: usize = 4;

/// Where parts of a folder are read from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Source<'s> {
    pub(crate) backend: &'s dyn Backend,
    pub(crate) folder: &'s Folder,
}

impl Source<'_> {
    fn name(&self, number: u128) -> BlobName {
        BlobName { folder: *self.folder, number }
    }

    fn wherein(&self, blob: u128, offset: u64, bytes: usize) -> String {
        let (place, blob, end) = (self.backend.place(), self.name(blob), offset + bytes as u64);
        format!("{place}, blob {blob}, bytes {offset} to {end}")
    }

    /// That the bytes of a part are not what was written.
    pub(crate) fn damaged(&self, part: &Part, location: &Location, reason: String) -> SnapshotError {
        SnapshotError::Damaged {
            folder: Box::new(*self.folder),
            part: Box::new(part.clone()),
            wherein: self.wherein(location.blob, location.offset.into(), location.stored_bytes as usize),
            reason,
        }
    }

    /// What is wrong with the format of a part.
    pub(crate) fn misformed(&self, part: &Part, location: &Location, error: FormatError) -> SnapshotError {
        match error {
            FormatError::Version { actual, known } => {
                SnapshotError::Version { folder: Box::new(*self.folder), part: Box::new(part.clone()), actual, known }
            }
            error => self.damaged(part, location, error.to_string()),
        }
    }

    /// Fills `into` with bytes of a blob.
    pub(crate) fn read(&self, part: &Part, blob: u128, offset: u64, into: &mut [u8]) -> Result<(), SnapshotError> {
        let bytes = into.len();
        let read = self.backend.read(&self.name(blob), offset, into);
        read.map_err(|error| SnapshotError::reading(self.folder, part, self.wherein(blob, offset, bytes), error))
    }

    /// The bytes as they are stored, which are what was written.
    pub(crate) fn stored(&self, part: &Part, location: &Location) -> Result<Vec<u8>, SnapshotError> {
        let mut stored = vec![0; location.stored_bytes as usize];
        self.read(part, location.blob, location.offset.into(), &mut stored)?;
        self.checked(part, location, &stored)?;
        Ok(stored)
    }

    /// Fills `into`, which is as long as the value, with the value.
    pub(crate) fn value(&self, part: &Part, location: &Location, into: &mut [u8]) -> Result<(), SnapshotError> {
        let value_bytes = u32::try_from(into.len()).unwrap_or(u32::MAX);
        if into.is_empty() && *location == Location::EMPTY {
            return Ok(());
        }
        if !location.suits(value_bytes) {
            let reason = format!("a value of {value_bytes} bytes cannot lie there as {:?}", location.form);
            return Err(self.damaged(part, location, reason));
        }
        match location.form {
            Form::Plain => {
                self.read(part, location.blob, location.offset.into(), into)?;
                self.checked(part, location, into)
            }
            Form::Zstd => {
                let stored = self.stored(part, location)?;
                expand(&stored, into).map_err(|reason| self.damaged(part, location, reason))
            }
            Form::Pieces => self.long_value(part, location, value_bytes, into),
        }
    }

    /// That bytes that were read are what was written.
    pub(crate) fn checked(&self, part: &Part, location: &Location, stored: &[u8]) -> Result<(), SnapshotError> {
        check(stored, location.checksum).map_err(|error| self.damaged(part, location, error.to_string()))
    }

    /// The value from bytes that were read already, of a location that is not of pieces.
    pub(crate) fn unpack(
        &self,
        part: &Part,
        location: &Location,
        stored: &[u8],
        into: &mut [u8],
    ) -> Result<(), SnapshotError> {
        self.checked(part, location, stored)?;
        match location.form {
            Form::Zstd => expand(stored, into).map_err(|reason| self.damaged(part, location, reason)),
            Form::Plain if stored.len() == into.len() => {
                into.copy_from_slice(stored);
                Ok(())
            }
            Form::Plain | Form::Pieces => Err(self.damaged(
                part,
                location,
                format!("{} bytes are stored, {} belong there", stored.len(), into.len()),
            )),
        }
    }

    fn long_value(
        &self,
        part: &Part,
        location: &Location,
        value_bytes: u32,
        into: &mut [u8],
    ) -> Result<(), SnapshotError> {
        let table = self.stored(part, location)?;
        let pieces = pieces::parse(&table, value_bytes).map_err(|error| self.misformed(part, location, error))?;
        let blobs = (1_u128..).map(|piece| location.blob.wrapping_add(piece));
        let jobs = pieces.iter().zip(blobs).zip(into.chunks_mut(PIECE_BYTES)).collect();
        let each = |(): &mut (), ((piece, blob), room): ((&pieces::Piece, u128), &mut [u8])| {
            let (stored_bytes, checksum, form) = (piece.stored_bytes, piece.checksum, piece.form);
            self.value(part, &Location { blob, offset: 0, stored_bytes, checksum, form }, room)
        };
        share(PIECE_THREADS, jobs, || (), each, |()| ())
    }
}
