//! The table of a process's files: the section `files` of a snapshot.
//!
//! ```text
//! offset  bytes
//!      0      8  `praasfil`
//!      8      4  version of this layout
//!     12      4  entries, in the order of their paths, each:
//!                kind (1: 0 directory, 1 file, 2 symbolic link), permissions (2), time of its last change in ns since 1970 (8),
//!                bytes of its path (2), the path
//!                of a file: bytes (8), for each piece of them: hash of what it holds (16), where that is stored (40)
//!                of a symbolic link: bytes of where it leads (2), that
//! ```
//!
//! A file is cut into pieces of [`PIECE_BYTES`]. One of zeros has the hash 0 and lies nowhere: it comes back as a hole. That the bytes
//! of the table are what was written is the business of the snapshot, which has a checksum over them.

use std::collections::HashSet;

use praas_protocol::limits::{FILE_PATH_BYTES_MAX, FILES_BYTES_MAX_MOST, FILES_DEPTH_MAX, FILES_MAX};

use super::tree::split;
use crate::snapshot::format::{FormatError, Reading, checksum, length_u32};
use crate::snapshot::limits::PIECE_BYTES;
use crate::snapshot::location::{Form, LOCATION_BYTES, Location};

const MAGIC: [u8; 8] = *b"praasfil";
/// The layout that is written, and the newest that is read.
pub const FILES_VERSION: u32 = 1;
/// Bytes of a directory with a path of one byte: the smallest entry.
const ENTRY_BYTES_MIN: usize = 14;
/// Bytes of a piece.
const CHUNK_ENTRY_BYTES: usize = 16 + LOCATION_BYTES;

/// One piece of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Chunk {
    /// XXH3 with 128 bits of what it holds; 0 for zeros.
    pub(crate) hash: u128,
    /// Where it is; [`Location::EMPTY`] for zeros.
    pub(crate) location: Location,
}

/// What a name leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum EntryKind {
    Directory,
    File { bytes: u64, chunks: Vec<Chunk> },
    Link { target: Box<[u8]> },
}

/// One name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) path: Box<[u8]>,
    pub(crate) mode: u16,
    pub(crate) modified_ns: i64,
    pub(crate) kind: EntryKind,
}

/// The files of a process, as a snapshot has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileTable {
    entries: Vec<Entry>,
    /// Of its bytes: what tells it from any other.
    checksum: u64,
}

impl Chunk {
    /// One that holds zeros alone.
    pub(crate) const ZEROS: Self = Self { hash: 0, location: Location::EMPTY };
}

impl EntryKind {
    /// A file of so many bytes, all of them zeros.
    pub(crate) fn file_of(bytes: u64) -> Self {
        Self::File { bytes, chunks: vec![Chunk::ZEROS; chunk_count(bytes)] }
    }
}

/// How many bytes a piece of a file has.
pub(crate) fn chunk_bytes(file_bytes: u64, piece: usize) -> u32 {
    let left = file_bytes.saturating_sub(piece as u64 * PIECE_BYTES as u64);
    u32::try_from(left.min(PIECE_BYTES as u64)).unwrap_or(0)
}

/// How many pieces a file has.
pub(crate) fn chunk_count(file_bytes: u64) -> usize {
    usize::try_from(file_bytes.div_ceil(PIECE_BYTES as u64)).unwrap_or(usize::MAX)
}

impl FileTable {
    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    pub(crate) fn checksum(&self) -> u64 {
        self.checksum
    }

    /// How many files, directories and symbolic links it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes of all files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.entries.iter().fold(0, |sum, entry| match entry.kind {
            EntryKind::File { bytes, .. } => sum.saturating_add(bytes),
            EntryKind::Directory | EntryKind::Link { .. } => sum,
        })
    }

    /// All pieces with their lengths.
    pub(crate) fn chunks(&self) -> impl Iterator<Item = (&Chunk, u32)> {
        self.entries.iter().flat_map(|entry| {
            let (bytes, chunks) = match &entry.kind {
                EntryKind::File { bytes, chunks } => (*bytes, &chunks[..]),
                EntryKind::Directory | EntryKind::Link { .. } => (0, &[][..]),
            };
            chunks.iter().enumerate().map(move |(piece, chunk)| (chunk, chunk_bytes(bytes, piece)))
        })
    }

    /// Where its bytes lie, and how many each place has for it.
    pub fn places(&self) -> impl Iterator<Item = (&Location, u32)> {
        self.chunks().map(|(chunk, bytes)| (&chunk.location, bytes))
    }

    /// The entry of a path.
    pub(crate) fn find(&self, path: &[u8]) -> Option<(usize, &Entry)> {
        let at = self.entries.binary_search_by(|entry| (*entry.path).cmp(path)).ok()?;
        Some((at, &self.entries[at]))
    }

    /// As bytes: those that it was read from.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        Self::encode(&self.entries)
    }

    /// Entries as bytes.
    pub(crate) fn encode(entries: &[Entry]) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&FILES_VERSION.to_le_bytes());
        bytes.extend_from_slice(&length_u32(entries.len()).to_le_bytes());
        for entry in entries {
            bytes.push(match entry.kind {
                EntryKind::Directory => 0,
                EntryKind::File { .. } => 1,
                EntryKind::Link { .. } => 2,
            });
            bytes.extend_from_slice(&entry.mode.to_le_bytes());
            bytes.extend_from_slice(&entry.modified_ns.to_le_bytes());
            put_text(&mut bytes, &entry.path);
            match &entry.kind {
                EntryKind::Directory => {}
                EntryKind::File { bytes: length, chunks } => {
                    bytes.extend_from_slice(&length.to_le_bytes());
                    for chunk in chunks {
                        bytes.extend_from_slice(&chunk.hash.to_le_bytes());
                        bytes.extend_from_slice(&chunk.location.to_bytes());
                    }
                }
                EntryKind::Link { target } => put_text(&mut bytes, target),
            }
        }
        bytes
    }

    /// What bytes say, which may be anything. Every path that comes out of it lies within the directory.
    ///
    /// # Errors
    /// [`FormatError`] says what is wrong with them, and where.
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reading = Reading::new(bytes);
        if reading.bytes::<8>()? != MAGIC {
            return Err(reading.malformed("no table of files"));
        }
        let version = reading.u32()?;
        if version != FILES_VERSION {
            return Err(FormatError::Version { actual: version, known: FILES_VERSION });
        }
        let count = reading.u32()? as usize;
        if count > FILES_MAX || count > reading.left() / ENTRY_BYTES_MIN {
            return Err(reading.malformed("more files than there can be"));
        }
        let mut entries: Vec<Entry> = Vec::with_capacity(count);
        let mut directories: HashSet<Box<[u8]>> = HashSet::from([Box::default()]);
        for _ in 0..count {
            let entry = entry(&mut reading)?;
            if entries.last().is_some_and(|last| last.path >= entry.path) {
                return Err(reading.malformed("a path out of order"));
            }
            if !directories.contains(split(&entry.path).0) {
                return Err(reading.malformed("a path in no directory"));
            }
            if entry.kind == EntryKind::Directory {
                directories.insert(entry.path.clone());
            }
            entries.push(entry);
        }
        reading.end()?;
        Ok(Self { entries, checksum: checksum(bytes) })
    }
}

fn put_text(into: &mut Vec<u8>, text: &[u8]) {
    debug_assert!(text.len() <= FILE_PATH_BYTES_MAX);
    into.extend_from_slice(&u16::try_from(text.len()).unwrap_or(u16::MAX).to_le_bytes());
    into.extend_from_slice(text);
}

fn text<'b>(reading: &mut Reading<'b>) -> Result<&'b [u8], FormatError> {
    let bytes = usize::from(reading.u16()?);
    let text = reading.take(bytes)?;
    let is_sound = (1..=FILE_PATH_BYTES_MAX).contains(&bytes) && !text.contains(&0);
    if is_sound { Ok(text) } else { Err(reading.malformed("a path that cannot be")) }
}

fn entry(reading: &mut Reading<'_>) -> Result<Entry, FormatError> {
    let (kind, mode, modified_ns) = (reading.u8()?, reading.u16()?, reading.u64()?.cast_signed());
    let path = text(reading)?;
    let names = || path.split(|byte| *byte == b'/');
    let is_name = |name: &[u8]| !name.is_empty() && name != b"." && name != b"..";
    if mode > 0o777 || names().count() > FILES_DEPTH_MAX || !names().all(is_name) {
        return Err(reading.malformed("a path that leads out of the directory, or rights that no file has"));
    }
    let kind = match kind {
        0 => EntryKind::Directory,
        1 => {
            let bytes = reading.u64()?;
            if bytes > FILES_BYTES_MAX_MOST || chunk_count(bytes) > reading.left() / CHUNK_ENTRY_BYTES {
                return Err(reading.malformed("a file of more bytes than it has pieces"));
            }
            let chunks = (0..chunk_count(bytes)).map(|piece| chunk(reading, chunk_bytes(bytes, piece)));
            EntryKind::File { bytes, chunks: chunks.collect::<Result<_, _>>()? }
        }
        2 => EntryKind::Link { target: text(reading)?.into() },
        _ => return Err(reading.malformed("neither file nor directory nor link")),
    };
    Ok(Entry { path: path.into(), mode, modified_ns, kind })
}

fn chunk(reading: &mut Reading<'_>, bytes: u32) -> Result<Chunk, FormatError> {
    let hash = reading.u128()?;
    let location = Location::from_bytes(&reading.bytes::<LOCATION_BYTES>()?);
    let suits = |location: &Location| match location.form {
        Form::Plain if *location == Location::EMPTY => hash == 0,
        Form::Plain | Form::Zstd => location.suits(bytes),
        Form::Pieces => false,
    };
    let location =
        location.filter(suits).ok_or_else(|| reading.malformed("a piece in a place that does not suit it"))?;
    Ok(Chunk { hash, location })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<Entry> {
        let place = |bytes| Location { blob: 9, offset: 4096, stored_bytes: bytes, checksum: 7, form: Form::Plain };
        let piece = u32::try_from(PIECE_BYTES).unwrap();
        let chunks = vec![
            Chunk { hash: 1 << 100, location: place(piece) },
            Chunk::ZEROS,
            Chunk { hash: 5, location: Location { form: Form::Zstd, ..place(3) } },
        ];
        let entry = |path: &[u8], kind| Entry { path: path.into(), mode: 0o640, modified_ns: -5, kind };
        vec![
            entry(b"a", EntryKind::Directory),
            entry(b"a-b", EntryKind::File { bytes: 0, chunks: Vec::new() }),
            entry(b"a/c", EntryKind::File { bytes: 2 * PIECE_BYTES as u64 + 17, chunks }),
            entry(b"out", EntryKind::Link { target: (*b"/etc/../..").into() }),
        ]
    }

    #[test]
    fn a_table_comes_back_from_its_bytes() {
        let bytes = FileTable::encode(&sample());
        let table = FileTable::parse(&bytes).unwrap();
        assert_eq!(table.entries(), sample());
        assert_eq!((table.len(), table.bytes()), (4, 2 * PIECE_BYTES as u64 + 17));
        assert_eq!(table.chunks().map(|(_, bytes)| u64::from(bytes)).sum::<u64>(), table.bytes());
        assert_eq!(table.find(b"a/c").map(|(at, _)| at), Some(2));
        let later = FormatError::Version { actual: 2, known: FILES_VERSION };
        assert_eq!(FileTable::parse(&[&MAGIC[..], &[2, 0, 0, 0]].concat()), Err(later));
    }

    #[test]
    fn any_bytes_are_a_table_that_somebody_writes_or_refused() {
        let sound = FileTable::encode(&sample());
        let mut refused = 0;
        for at in 0..sound.len() {
            assert!(FileTable::parse(&sound[..at]).is_err(), "{at} bytes of a longer one");
            for bit in 0..8 {
                let mut bytes = sound.clone();
                bytes[at] ^= 1 << bit;
                match FileTable::parse(&bytes) {
                    Ok(table) => assert_eq!(FileTable::encode(table.entries()), bytes, "a form that nobody writes"),
                    Err(_) => refused += 1,
                }
            }
        }
        assert!(refused > 0);
        assert!(FileTable::parse(&[&sound[..], &[0]].concat()).is_err());
    }

    #[test]
    fn paths_that_lead_elsewhere_are_refused() {
        for path in ["/etc", "..", "../x", "a/../x", ".", "a//b", "a/", "out/x", "nowhere/x", "a-b/x"] {
            let mut entries = sample();
            entries.push(Entry { path: path.as_bytes().into(), mode: 0, modified_ns: 0, kind: EntryKind::Directory });
            entries.sort_by(|left, right| left.path.cmp(&right.path));
            assert!(FileTable::parse(&FileTable::encode(&entries)).is_err(), "{path}");
        }
    }
}
