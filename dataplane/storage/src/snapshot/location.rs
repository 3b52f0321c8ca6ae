//! Where a value lies: a fixed number of bytes, which memory keeps in the value's place until somebody asks for it.

use super::limits::{PIECE_BYTES, VALUE_BYTES_MAX};
use super::pieces::table_bytes;
use crate::backend::BLOB_BYTES_MAX;

/// Bytes of a [`Location`], wherever it is kept.
pub const LOCATION_BYTES: usize = 40;

/// The number of no blob: that of values without bytes.
pub(crate) const NO_BLOB: u128 = 0;

/// In which form a value's bytes are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    /// As they are.
    Plain,
    /// As one frame of zstd.
    Zstd,
    /// In blobs of their own, [`PIECE_BYTES`] each, whose numbers follow that of this one; what lies here is their table.
    Pieces,
}

/// Where a value lies and what its bytes must be.
///
/// The checksum is XXH3 with 64 bits over the bytes as they are stored. It finds accidents, all that a checksum without a key
/// can find: who may write to the place can write a consistent snapshot as well. Of 32 bits one would pass a damaged object
/// in four thousand million; 64 bits cost the same, as XXH3 is as fast as memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Location {
    /// The blob's number in the process's folder; [`NO_BLOB`] when there are no bytes.
    pub blob: u128,
    /// Where they begin in it.
    pub offset: u32,
    /// How many are stored.
    pub stored_bytes: u32,
    /// XXH3 of these.
    pub checksum: u64,
    /// What they are.
    pub form: Form,
}

impl Location {
    /// Of a value without bytes.
    pub const EMPTY: Self = Self { blob: NO_BLOB, offset: 0, stored_bytes: 0, checksum: 0, form: Form::Plain };

    /// As bytes.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; LOCATION_BYTES] {
        let mut bytes = [0; LOCATION_BYTES];
        bytes[..16].copy_from_slice(&self.blob.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.offset.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.stored_bytes.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.checksum.to_le_bytes());
        bytes[32..].copy_from_slice(&u64::from(self.form.code()).to_le_bytes());
        bytes
    }

    /// What such bytes say; `None` for any that no location has.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; LOCATION_BYTES]) -> Option<Self> {
        let (blob, rest) = bytes.split_first_chunk()?;
        let (offset, rest) = rest.split_first_chunk()?;
        let (stored_bytes, rest) = rest.split_first_chunk()?;
        let (checksum, form) = rest.split_first_chunk()?;
        let location = Self {
            blob: u128::from_le_bytes(*blob),
            offset: u32::from_le_bytes(*offset),
            stored_bytes: u32::from_le_bytes(*stored_bytes),
            checksum: u64::from_le_bytes(*checksum),
            form: Form::of_code(u64::from_le_bytes(*form.first_chunk()?))?,
        };
        location.is_sound().then_some(location)
    }

    /// As words of memory.
    #[must_use]
    pub fn to_words(&self) -> [u64; 5] {
        let bytes = self.to_bytes();
        let (words, _) = bytes.as_chunks::<8>();
        std::array::from_fn(|at| u64::from_le_bytes(words[at]))
    }

    /// What such words say; `None` for any that no location has.
    #[must_use]
    pub fn from_words(words: &[u64; 5]) -> Option<Self> {
        let mut bytes = [0; LOCATION_BYTES];
        for (room, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(words) {
            *room = word.to_le_bytes();
        }
        Self::from_bytes(&bytes)
    }

    /// Whether its parts agree with each other: it lies within a blob, and has no more bytes than its form can have.
    pub(super) fn is_sound(&self) -> bool {
        let ends = u64::from(self.offset) + u64::from(self.stored_bytes);
        let most = match self.form {
            Form::Plain | Form::Zstd => PIECE_BYTES as u64,
            Form::Pieces => table_bytes(VALUE_BYTES_MAX),
        };
        ends <= BLOB_BYTES_MAX as u64
            && u64::from(self.stored_bytes) <= most
            && (self.blob != NO_BLOB || *self == Self::EMPTY)
    }

    /// Whether a value of so many bytes can be stored like this. So what is read for a value is never more than the value and
    /// its table of pieces are long.
    pub(crate) fn suits(&self, value_bytes: u32) -> bool {
        let is_long = value_bytes as usize > PIECE_BYTES;
        match self.form {
            Form::Plain => value_bytes == self.stored_bytes && !is_long,
            Form::Zstd => (1..value_bytes).contains(&self.stored_bytes) && !is_long,
            Form::Pieces => self.offset == 0 && u64::from(self.stored_bytes) == table_bytes(value_bytes) && is_long,
        }
    }
}

impl Form {
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Plain => 0,
            Self::Zstd => 1,
            Self::Pieces => 2,
        }
    }

    pub(crate) const fn of_code(code: u64) -> Option<Self> {
        match code {
            0 => Some(Self::Plain),
            1 => Some(Self::Zstd),
            2 => Some(Self::Pieces),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_is_forty_bytes_and_comes_back_from_them() {
        let location = Location { blob: 7 << 96 | 3, offset: 5, stored_bytes: 9, checksum: 0xfeed, form: Form::Zstd };
        assert_eq!(Location::from_bytes(&location.to_bytes()), Some(location));
        assert_eq!(Location::from_words(&location.to_words()), Some(location));
        assert_eq!(Location::from_bytes(&Location::EMPTY.to_bytes()), Some(Location::EMPTY));
    }

    #[test]
    fn what_no_location_has_is_refused() {
        let sound = Location { blob: 1, offset: 5, stored_bytes: 9, checksum: 1, form: Form::Plain }.to_bytes();
        // The last two: more than a blob has, and more than a value that is not cut into pieces has.
        for (at, value) in [(32, 3), (39, 1), (0, 0), (19, 0xff), (23, 0xff), (19, 4), (22, 0x81)] {
            let mut bytes = sound;
            bytes[at] = value;
            assert_eq!(Location::from_bytes(&bytes), None, "byte {at}");
        }
    }

    #[test]
    fn a_value_has_no_more_bytes_in_storage_than_its_length_needs() {
        let piece = u32::try_from(PIECE_BYTES).unwrap();
        let suits = |form, stored_bytes, value_bytes| {
            Location { blob: 1, offset: 0, stored_bytes, checksum: 1, form }.suits(value_bytes)
        };
        assert!(suits(Form::Plain, piece, piece) && !suits(Form::Plain, piece + 1, piece + 1));
        assert!(suits(Form::Zstd, 99, 100) && !suits(Form::Zstd, 100, 100) && !suits(Form::Zstd, 0, 100));
        assert!(!suits(Form::Zstd, 100, piece + 1) && !suits(Form::Zstd, u32::MAX, 100));
        // A head of 8 bytes, and 13 for each piece.
        assert!(suits(Form::Pieces, 34, piece + 1) && !suits(Form::Pieces, 35, piece + 1));
        assert!(!suits(Form::Pieces, 21, piece) && !suits(Form::Pieces, u32::MAX, VALUE_BYTES_MAX));
    }
}
