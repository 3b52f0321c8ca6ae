//! Walking a directory: which files may be text, without opening any.

use std::fs::{self, DirEntry, FileType, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::batches::{Batches, document_bytes};
use super::{CorpusError, CorpusLimits, SkipReason, Skipped};
use crate::demo::limits::{
    BATCH_OVERHEAD_BYTES, BUILD_DIRECTORY, BUILD_FILES, CACHE_TAG_FILE, GENERATED_DIRECTORIES, PATH_BYTES_MAX,
};

/// A regular file that may be text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedFile {
    /// Its path relative to the root; for a root that is a file, the file's name.
    pub name: String,
    /// Its size when it was listed.
    pub bytes: u64,
    pub(super) location: PathBuf,
}

/// The files below a path.
#[derive(Debug, Clone)]
pub struct Listing {
    pub(super) files: Vec<ListedFile>,
    pub(super) skipped: Skipped,
    pub(super) limits: CorpusLimits,
}

impl Listing {
    /// Lists the files below `root`, or `root` itself if it is a file.
    ///
    /// # Errors
    /// The root cannot be looked at, or is neither directory nor file. Trouble further down is counted as skipped.
    pub fn walk(root: &Path, limits: CorpusLimits) -> Result<Self, CorpusError> {
        let metadata = fs::metadata(root).map_err(|source| CorpusError::Root { path: root.to_owned(), source })?;
        let mut walk = Walk {
            listing: Self { files: Vec::new(), skipped: Skipped::default(), limits },
            device: metadata.dev(),
            entries_left: limits.entries,
            pending: Vec::new(),
        };
        if metadata.is_dir() {
            walk.list_below(root);
        } else if metadata.is_file() {
            walk.list_root_file(root, &metadata);
        } else {
            return Err(CorpusError::NotWalkable { path: root.to_owned() });
        }
        Ok(walk.listing)
    }

    /// The files, in the order in which they will be read.
    #[must_use]
    pub fn files(&self) -> &[ListedFile] {
        &self.files
    }

    /// Bytes of all listed files.
    #[must_use]
    pub fn bytes_total(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// What the walk left out so far; reading the files may leave out more.
    #[must_use]
    pub fn skipped(&self) -> &Skipped {
        &self.skipped
    }

    /// Reads the files, one batch at a time.
    #[must_use]
    pub fn batches(self) -> Batches {
        Batches::new(self)
    }
}

struct Directory {
    location: PathBuf,
    /// Relative to the root; empty for the root itself.
    name: String,
    depth: usize,
}

struct Walk {
    listing: Listing,
    device: u64,
    entries_left: usize,
    pending: Vec<Directory>,
}

impl Walk {
    fn list_root_file(&mut self, root: &Path, metadata: &Metadata) {
        let name = root.file_name().unwrap_or(root.as_os_str());
        match name.to_str().filter(|name| is_usable(name)) {
            Some(name) => self.list_file(root.to_owned(), name.to_owned(), metadata),
            None => self.skip(SkipReason::UnusableName, &name.to_string_lossy(), metadata.len()),
        }
    }

    fn list_below(&mut self, root: &Path) {
        self.pending.push(Directory { location: root.to_owned(), name: String::new(), depth: 0 });
        // Every directory was an entry of another one, so the budget of entries bounds this loop.
        while let Some(directory) = self.pending.pop() {
            self.list_directory(&directory);
        }
    }

    fn list_directory(&mut self, directory: &Directory) {
        let Ok(entries) = fs::read_dir(&directory.location) else {
            self.skip(SkipReason::Unreadable, &directory.name, 0);
            return;
        };
        let mut found = Vec::new();
        for entry in entries {
            if self.entries_left == 0 {
                self.skip(SkipReason::EntriesLimit, &directory.name, 0);
                break;
            }
            self.entries_left -= 1;
            match entry {
                Ok(entry) => found.push(entry),
                Err(_) => self.skip(SkipReason::Unreadable, &directory.name, 0),
            }
        }
        found.sort_unstable_by_key(DirEntry::file_name);
        let first_new = self.pending.len();
        for entry in found {
            self.list_entry(directory, &entry);
        }
        // The last one pushed is walked first.
        self.pending[first_new..].reverse();
    }

    fn list_entry(&mut self, directory: &Directory, entry: &DirEntry) {
        let name = match name_below(&directory.name, entry) {
            Ok(name) => name,
            Err(shown) => return self.skip(SkipReason::UnusableName, &shown, 0),
        };
        // Neither call follows a symbolic link.
        let (Ok(file_type), Ok(metadata)) = (entry.file_type(), entry.metadata()) else {
            return self.skip(SkipReason::Unreadable, &name, 0);
        };
        if let Some(reason) = unwanted(entry, file_type) {
            return self.skip(reason, &name, file_bytes(&metadata));
        }
        if file_type.is_dir() {
            self.list_subdirectory(directory.depth, entry, name, &metadata);
        } else {
            self.list_file(entry.path(), name, &metadata);
        }
    }

    fn list_subdirectory(&mut self, depth: usize, entry: &DirEntry, name: String, metadata: &Metadata) {
        if metadata.dev() != self.device {
            self.skip(SkipReason::OtherFileSystem, &name, 0);
        } else if depth + 1 >= self.listing.limits.depth {
            self.skip(SkipReason::TooDeep, &name, 0);
        } else {
            self.pending.push(Directory { location: entry.path(), name, depth: depth + 1 });
        }
    }

    fn list_file(&mut self, location: PathBuf, name: String, metadata: &Metadata) {
        let bytes = metadata.len();
        let limits = self.listing.limits;
        let batch_room_bytes = limits.batch_bytes.saturating_sub(BATCH_OVERHEAD_BYTES);
        let fits = usize::try_from(bytes)
            .is_ok_and(|bytes| bytes <= limits.file_bytes && document_bytes(&name, bytes) <= batch_room_bytes);
        if bytes == 0 {
            self.skip(SkipReason::Empty, &name, 0);
        } else if !fits {
            self.skip(SkipReason::TooLarge, &name, bytes);
        } else if self.listing.files.len() >= limits.files {
            self.skip(SkipReason::FilesLimit, &name, bytes);
        } else {
            self.listing.files.push(ListedFile { name, bytes, location });
        }
    }

    fn skip(&mut self, reason: SkipReason, name: &str, bytes: u64) {
        let shown = if name.is_empty() { "." } else { name };
        self.listing.skipped.record(reason, shown, bytes);
    }
}

/// The entry's path relative to the root, or what to show in its place where it cannot serve as a document's name.
fn name_below(directory: &str, entry: &DirEntry) -> Result<String, String> {
    let file_name = entry.file_name();
    let separator = if directory.is_empty() { "" } else { "/" };
    let name = format!("{directory}{separator}{}", file_name.to_string_lossy());
    if file_name.to_str().is_some() && is_usable(&name) { Ok(name) } else { Err(name) }
}

fn is_usable(name: &str) -> bool {
    name.len() <= PATH_BYTES_MAX && !name.contains(char::is_control)
}

fn unwanted(entry: &DirEntry, file_type: FileType) -> Option<SkipReason> {
    let name = entry.file_name();
    if name.as_encoded_bytes().starts_with(b".") {
        Some(SkipReason::Hidden)
    } else if file_type.is_symlink() {
        Some(SkipReason::SymbolicLink)
    } else if file_type.is_dir() {
        is_generated(&entry.path()).then_some(SkipReason::Generated)
    } else {
        (!file_type.is_file()).then_some(SkipReason::Special)
    }
}

fn is_generated(directory: &Path) -> bool {
    let named = |name: &&str| directory.file_name().is_some_and(|own| own == *name);
    let beside = |file: &&str| directory.with_file_name(file).is_file();
    GENERATED_DIRECTORIES.iter().any(named)
        || (named(&BUILD_DIRECTORY) && BUILD_FILES.iter().any(beside))
        || directory.join(CACHE_TAG_FILE).is_file()
}

fn file_bytes(metadata: &Metadata) -> u64 {
    if metadata.is_file() { metadata.len() } else { 0 }
}
