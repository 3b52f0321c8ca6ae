//! The files directory of a process: which one it is, from the first worker that gets it to its end.
//!
//! ```text
//! DATA/files/APPLICATION+PROCESS+INCARNATION+EPOCH
//! ```
//!
//! 1. Each stay of a process in memory has a directory of its own: the name has what its ledger has, the incarnation and the epoch
//!    by which storage was claimed. What is written while it sleeps, wakes or dies is never mistaken for another's.
//! 2. It is made when the first worker needs it, or restored before there is a worker, and belongs to the user of the workers,
//!    who alone may enter it. Workers are given a descriptor, because its path leads through directories that they may not enter.
//! 3. It is removed after the memory of the process is given up, never before: a server that is killed in between leaves a process
//!    with its files, or neither. What is left then is removed when the next server starts.
//!
//! Nothing here believes what is in such a directory: [`praas_storage::snapshot::Tree`] looks at it.

pub(crate) mod measuring;

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use praas_protocol::ProcessId;
use praas_storage::snapshot::{Known, Snapshot, Tree, remove_directory};
use rustix::fs::{CWD, Mode, OFlags, fstat, openat};

use crate::data_directory::DataDirectory;
use crate::process_ledger::LedgerRecord;
use crate::process_memory::parse_memory_name;
use crate::processes::ProcessKey;
use crate::shard::Shard;

/// Between the parts of a name; no part has it.
const SEPARATOR: char = '+';

/// Which directory it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FilesName {
    pub(crate) process: ProcessId,
    pub(crate) incarnation: u64,
    pub(crate) epoch: u64,
}

impl FilesName {
    pub(crate) fn of(record: &LedgerRecord) -> Self {
        Self { process: record.id, incarnation: record.incarnation, epoch: record.epoch }
    }

    /// What such a name says; `None` for that of something else.
    fn parse(name: &str) -> Option<Self> {
        let mut parts = name.split(SEPARATOR);
        let (application, process) = (parts.next()?, parts.next()?);
        let mut number = || u64::from_str_radix(parts.next()?, 16).ok();
        let (incarnation, epoch) = (number()?, number()?);
        let process = ProcessId { application: application.parse().ok()?, process: process.parse().ok()? };
        let parsed = Self { process, incarnation, epoch };
        (parsed.to_string() == name).then_some(parsed)
    }
}

impl fmt::Display for FilesName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { process: ProcessId { application, process }, incarnation, epoch } = self;
        write!(formatter, "{application}+{process}+{incarnation:016x}+{epoch:016x}")
    }
}

/// A directory that was restored, and goes unless it is kept.
#[derive(Debug)]
pub(crate) struct RestoredFiles {
    path: PathBuf,
    known: Option<Known>,
    bytes: u64,
}

impl RestoredFiles {
    /// Restores the files that a snapshot has; `None` if it has none. The error says why not.
    pub(crate) fn make(
        snapshot: &Snapshot,
        path: PathBuf,
        owner: Option<u32>,
        threads: usize,
    ) -> Result<Option<Self>, String> {
        let Some(table) = snapshot.files().map_err(|error| error.to_string())? else { return Ok(None) };
        let failed = |error: io::Error| format!("its files directory cannot be made: {error}");
        if let Some(parent) = path.parent() {
            make_private(parent).map_err(failed)?;
        }
        // Of a try that failed.
        remove_directory(&path).map_err(failed)?;
        let mut made = Self { path, known: None, bytes: table.bytes() };
        let known = snapshot.restore_files(&table, &made.path, owner, threads);
        made.known = Some(known.map_err(|error| error.to_string())?);
        Ok(Some(made))
    }

    /// Bytes of its files.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// It belongs to a process from now on: what is known of it.
    pub(crate) fn keep(mut self) -> Option<Known> {
        self.path = PathBuf::new();
        self.known.take()
    }
}

impl Drop for RestoredFiles {
    fn drop(&mut self) {
        if self.path != Path::new("") {
            // What stays is removed when the next server starts.
            let _ = remove_directory(&self.path);
        }
    }
}

/// Opens the directory for a worker, and makes it if there is none.
pub(crate) fn open_for_worker(path: &Path, user: Option<u32>) -> Result<OwnedFd, String> {
    let failed = |error: io::Error| format!("its files directory: {error}");
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = match openat(CWD, path, flags, Mode::empty()) {
        Ok(directory) => directory,
        Err(rustix::io::Errno::NOENT) => {
            if let Some(parent) = path.parent() {
                make_private(parent).map_err(failed)?;
            }
            make_private(path).map_err(failed)?;
            openat(CWD, path, flags, Mode::empty()).map_err(|errno| failed(errno.into()))?
        }
        Err(errno) => return Err(failed(errno.into())),
    };
    let stat = fstat(&directory).map_err(|errno| failed(errno.into()))?;
    if let Some(user) = user.filter(|user| *user != stat.st_uid) {
        // A new one, or one whose user has another process by now.
        let tree = Tree::open(path, None).map_err(|error| format!("its files: {error}"))?;
        let given = tree.map_or(Ok(()), |tree| tree.give_to(user));
        given.map_err(|error| format!("its files: {error}"))?;
    }
    Ok(directory)
}

fn make_private(path: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

impl DataDirectory {
    fn files_directory(&self) -> PathBuf {
        self.path().join("files")
    }

    /// Where the files of a process lie.
    pub(crate) fn files_path(&self, name: &FilesName) -> PathBuf {
        self.files_directory().join(name.to_string())
    }

    /// Removes all files directories but those that are wanted.
    fn sweep_files(&self, is_wanted: impl Fn(&FilesName) -> bool) -> io::Result<u64> {
        let entries = match fs::read_dir(self.files_directory()) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            Err(error) => return Err(error),
        };
        let mut removed = 0;
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name().to_str().and_then(FilesName::parse);
            if !name.is_some_and(|name| is_wanted(&name)) {
                remove_directory(&entry.path())?;
                removed += 1;
            }
        }
        Ok(removed)
    }
}

impl Shard {
    /// Where the files of a process in memory lie.
    pub(crate) fn files_path(&self, key: ProcessKey) -> Option<PathBuf> {
        let memory = self.processes.get(key)?.memory.as_ref()?;
        Some(self.data.files_path(&FilesName::of(memory.ledger.record())))
    }

    /// Removes the directories that are nobody's, once the processes of the last server are back. Those of memory that still waits
    /// with the keeper wait too.
    pub(crate) fn sweep_files(&mut self) {
        let held: BTreeSet<_> = self.keeping.held_names().filter_map(parse_memory_name).collect();
        let memories = self.processes.entries.values().filter_map(|process| process.memory.as_ref());
        let back: BTreeSet<_> = memories.map(|memory| FilesName::of(memory.ledger.record())).collect();
        let is_back = |name: &FilesName| {
            let key = self.processes.by_id.get(&name.process);
            let memory = key.and_then(|key| self.processes.get(*key)).and_then(|process| process.memory.as_ref());
            memory.is_some_and(|memory| memory.incarnation() == name.incarnation)
        };
        let is_wanted = |name: &FilesName| {
            back.contains(name) || !is_back(name) && held.contains(&(name.process, name.incarnation))
        };
        match self.data.sweep_files(is_wanted) {
            Ok(0) => {}
            Ok(removed) => self.log.info(format_args!("{removed} files directories of earlier servers are removed")),
            Err(error) => self.log.warning(format_args!(
                "files directories of earlier servers stay: {error}; the next server tries again"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(process: &str, incarnation: u64, epoch: u64) -> FilesName {
        FilesName { process: process.parse().unwrap(), incarnation, epoch }
    }

    #[test]
    fn a_name_says_whose_directory_it_is_and_others_are_not_mistaken() {
        let name = name("notes/alice-1.x", 0xab, 3);
        assert_eq!(name.to_string(), "notes+alice-1.x+00000000000000ab+0000000000000003");
        assert_eq!(FilesName::parse(&name.to_string()), Some(name));
        for other in ["", "notes", "notes+alice", "notes+alice+ab+3", &format!("{name}+"), &format!("{name}+0")] {
            assert_eq!(FilesName::parse(other), None, "{other}");
        }
    }

    #[test]
    fn directories_that_nobody_wants_are_swept() {
        let directory = tempfile::tempdir().unwrap();
        let data = DataDirectory::open(&directory.path().join("data")).unwrap();
        assert_eq!(data.sweep_files(|_| true).unwrap(), 0);
        let names = [name("a/one", 1, 0), name("a/one", 1, 2), name("a/two", 1, 2)];
        for name in &names {
            open_for_worker(&data.files_path(name), None).unwrap();
            fs::write(data.files_path(name).join("file"), "").unwrap();
        }
        fs::create_dir(data.files_directory().join("what is this")).unwrap();
        assert_eq!(data.sweep_files(|name| *name == names[1]).unwrap(), 3);
        let left: Vec<_> =
            fs::read_dir(data.files_directory()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, [names[1].to_string().as_str()]);
    }
}
