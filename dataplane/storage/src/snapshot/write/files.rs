//! The process's files: pieces that changed are packed like values, and the table of all becomes a section.

use super::{Worker, Writing};
use crate::snapshot::cut::{CutError, CutFiles, SectionKind};
use crate::snapshot::error::{Part, SnapshotError};
use crate::snapshot::files::{Chunk, Entry, EntryKind, FileTable, Known, Tree, TreeEntry, TreeKind, chunk_bytes};
use crate::snapshot::limits::PIECE_BYTES;
use crate::snapshot::location::Location;
use crate::snapshot::manifest::SectionPlace;
use crate::snapshot::share::share;

/// What becomes of the section.
pub(super) enum Files {
    /// There is none.
    Nothing,
    /// It is what the snapshot before has.
    Where(SectionPlace),
    /// It is written.
    Anew(Vec<u8>),
}

/// One piece that is to be read.
struct Piece<'t> {
    file: &'t TreeEntry,
    number: usize,
    bytes: u32,
    /// What the snapshot before has in its place, if it is as long.
    earlier: Option<Chunk>,
    chunk: &'t mut Chunk,
}

impl Writing<'_> {
    /// Stores the files.
    pub(super) fn files(&self) -> Result<Files, SnapshotError> {
        match self.cut.files() {
            CutFiles::Kept => self.keep_files(),
            CutFiles::Taken { tree, known } => self.take_files(tree, known),
        }
    }

    /// Takes over what the snapshot before has.
    fn keep_files(&self) -> Result<Files, SnapshotError> {
        let Some(base) = self.base else { return Ok(Files::Nothing) };
        let sections = &base.manifest().sections;
        let Some((_, place)) = sections.iter().find(|(kind, _)| *kind == SectionKind::FILES) else {
            return Ok(Files::Nothing);
        };
        if self.same.is_some() && self.emptied.is_empty() {
            return Ok(Files::Where(place.clone()));
        }
        let Some(table) = base.files()? else { return Ok(Files::Nothing) };
        let mut worker = self.worker();
        let kept = self.keep_entries(&mut worker, &table);
        self.end(worker);
        Ok(Files::Anew(FileTable::encode(&kept?)))
    }

    fn keep_entries(&self, worker: &mut Worker, table: &FileTable) -> Result<Vec<Entry>, SnapshotError> {
        self.release_files(worker, table);
        let mut entries = table.entries().to_vec();
        for entry in &mut entries {
            let EntryKind::File { bytes, chunks } = &mut entry.kind else { continue };
            for (number, chunk) in chunks.iter_mut().enumerate() {
                if self.emptied.contains(&chunk.location.blob) {
                    let part = Part::File { path: entry.path.clone() };
                    chunk.location = self.moved(worker, &part, &chunk.location)?;
                }
                worker.changes.charge(&chunk.location, chunk_bytes(*bytes, number));
            }
        }
        Ok(entries)
    }

    /// What the snapshot before needs for its files is no longer needed, or is charged anew.
    fn release_files(&self, worker: &mut Worker, table: &FileTable) {
        if self.same.is_some() {
            for (chunk, bytes) in table.chunks() {
                worker.changes.release(&chunk.location, bytes);
            }
        }
    }

    fn take_files(&self, tree: &Tree, known: Option<&Known>) -> Result<Files, SnapshotError> {
        let earlier = match self.base.map_or(Ok(None), |base| base.files()) {
            Ok(earlier) => earlier,
            // What it needs of blobs goes on counting; nothing of it is taken over.
            Err(error) if error.is_damage() => None,
            Err(error) => return Err(error),
        };
        let mut worker = self.worker();
        if let Some(earlier) = &earlier {
            self.release_files(&mut worker, earlier);
        }
        self.end(worker);
        if tree.entries().is_empty() {
            return Ok(Files::Nothing);
        }
        let known = known.filter(|known| earlier.as_ref().is_some_and(|earlier| known.is_of(earlier)));
        let mut entries: Vec<Entry> = tree.entries().iter().map(new_entry).collect();
        let mut pieces = Vec::new();
        for (file, entry) in tree.entries().iter().zip(&mut entries) {
            let EntryKind::File { bytes, chunks } = &mut entry.kind else { continue };
            let found = earlier.as_ref().and_then(|earlier| earlier.find(&file.path));
            let is_same = found.is_some_and(|(at, _)| known.is_some_and(|known| known.has(at, &file.stamp)));
            for (number, chunk) in chunks.iter_mut().enumerate() {
                let length = chunk_bytes(*bytes, number);
                let earlier = found.and_then(|(_, entry)| earlier_chunk(entry, number, length));
                let earlier = earlier.filter(|earlier| !self.emptied.contains(&earlier.location.blob));
                match earlier.filter(|_| is_same) {
                    Some(earlier) => *chunk = earlier,
                    None => pieces.push(Piece { file, number, bytes: length, earlier, chunk }),
                }
            }
        }
        let read = pieces.len();
        let each = |worker: &mut Worker, piece: Piece<'_>| self.piece(worker, tree, piece);
        share(self.plan.threads, pieces, || self.worker(), each, |worker| self.end(worker))?;
        let mut worker = self.worker();
        let mut all = 0;
        for entry in &entries {
            let EntryKind::File { bytes, chunks } = &entry.kind else { continue };
            all += chunks.len();
            for (number, chunk) in chunks.iter().enumerate() {
                worker.changes.charge(&chunk.location, chunk_bytes(*bytes, number));
            }
        }
        worker.written.file_pieces_reused += (all - read) as u64;
        self.end(worker);
        Ok(Files::Anew(FileTable::encode(&entries)))
    }

    /// Reads one piece, and stores it unless it is stored already or has nothing but zeros.
    fn piece(&self, worker: &mut Worker, tree: &Tree, piece: Piece<'_>) -> Result<(), SnapshotError> {
        let Piece { file, number, bytes, earlier, chunk } = piece;
        let failed = |error| SnapshotError::cut(self.folder, CutError::new(format!("its files: {error}")));
        let opened = tree.open_file(file).map_err(failed)?;
        let mut hash = 0;
        let stored = self.value_unless(worker, bytes, |room| {
            let start = number as u64 * PIECE_BYTES as u64;
            file.read(&opened, start, room).map_err(failed)?;
            Tree::ensure_still(file, &opened).map_err(failed)?;
            if room.iter().all(|byte| *byte == 0) {
                return Ok(Some(Chunk::ZEROS));
            }
            hash = twox_hash::XxHash3_128::oneshot(room);
            Ok(earlier.filter(|earlier| earlier.hash == hash && earlier.location != Location::EMPTY))
        })?;
        *chunk = match stored {
            Ok(location) => {
                worker.written.file_pieces_written += 1;
                Chunk { hash, location }
            }
            Err(instead) => {
                worker.written.file_pieces_reused += 1;
                instead
            }
        };
        Ok(())
    }
}

/// The entry of a name, with pieces that are filled in later.
fn new_entry(found: &TreeEntry) -> Entry {
    let kind = match &found.kind {
        TreeKind::Directory => EntryKind::Directory,
        TreeKind::File => EntryKind::file_of(found.stamp.bytes),
        TreeKind::Link { target } => EntryKind::Link { target: target.clone() },
    };
    Entry { path: found.path.clone(), mode: found.mode, modified_ns: found.stamp.modified_ns, kind }
}

/// What an earlier table has for a piece of so many bytes.
fn earlier_chunk(entry: &Entry, number: usize, length: u32) -> Option<Chunk> {
    match &entry.kind {
        EntryKind::File { bytes, chunks } if chunk_bytes(*bytes, number) == length => chunks.get(number).copied(),
        _ => None,
    }
}
