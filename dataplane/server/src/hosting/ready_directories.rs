//! Working directories made ahead, so that a new process need not wait for the file system.
//!
//! Making a directory takes the ext4 file system 30 µs, and ten times as long where others were removed within the last
//! minute, whose inodes it passes over. Renaming one takes 8 µs. So a few empty ones are kept: each is used once, for one
//! process, and nobody but the server has had it before.
//!
//! They lie beside the applications' directories under a name that no application can have, so the sweep at a server's start
//! finds what a crash left. None is made before the first process is.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

/// Directories kept: two processes that are the first of their applications.
const READY_MAX: usize = 4;

/// Attempts to put a directory in its place, while the removal of other processes takes the application's away.
const ATTEMPTS_MAX: usize = 3;

/// Names of applications have neither this character nor any other that needs care in a path.
const NAME_PREFIX: char = '+';

/// Empty directories of one file system.
#[derive(Debug, Default)]
pub(super) struct ReadyDirectories {
    paths: Mutex<Vec<PathBuf>>,
    made: AtomicU64,
}

impl ReadyDirectories {
    /// Puts one at `path`, two levels below where they lie; false if there is none, or where there is something already.
    pub(super) fn place(&self, path: &Path) -> bool {
        let Some(parent) = path.parent() else { return false };
        for _ in 0..ATTEMPTS_MAX {
            match self.put(path) {
                Some(Err(Errno::NOENT)) if matches!(self.put(parent), Some(Ok(()) | Err(Errno::EXIST))) => {}
                outcome => return matches!(outcome, Some(Ok(()))),
            }
        }
        false
    }

    /// Renames one to `path`, which must not exist; `None` if there is none.
    fn put(&self, path: &Path) -> Option<Result<(), Errno>> {
        let ready = self.lock().pop()?;
        let renamed = renameat_with(CWD, &ready, CWD, path, RenameFlags::NOREPLACE);
        if renamed.is_err() {
            self.lock().push(ready);
        }
        Some(renamed)
    }

    /// Makes as many in `directory` as are missing.
    pub(super) fn fill(&self, directory: &Path) -> io::Result<()> {
        fs::create_dir_all(directory)?;
        while self.lock().len() < READY_MAX {
            // Relaxed: a name only has to differ from all others.
            let number = self.made.fetch_add(1, Ordering::Relaxed);
            let path = directory.join(format!("{NAME_PREFIX}{number}"));
            fs::create_dir(&path)?;
            self.lock().push(path);
        }
        Ok(())
    }

    /// Whether the next process might find none.
    pub(super) fn are_few(&self) -> bool {
        self.lock().len() < READY_MAX / 2
    }

    /// Removes all.
    pub(super) fn clear(&self) {
        for path in self.lock().drain(..) {
            // The sweep at the next start finds one that stays.
            let _ = fs::remove_dir(path);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<PathBuf>> {
        // Each change is one push or pop, so that the list is whole even if a holder panicked.
        self.paths.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ready_directory_is_placed_once_and_never_over_another() {
        let directory = tempfile::tempdir().unwrap();
        let run = directory.path().join("run");
        let ready = ReadyDirectories::default();
        let alice = run.join("hello").join("alice");
        assert!(!ready.place(&alice), "none was made yet");
        ready.fill(&run).unwrap();
        ready.fill(&run).unwrap();
        assert_eq!(fs::read_dir(&run).unwrap().count(), READY_MAX);
        if !ready.place(&alice) {
            println!("skipped: the file system of {} renames nothing without replacing", run.display());
            return;
        }
        fs::write(alice.join("kept"), "").unwrap();
        assert!(!ready.place(&alice));
        assert!(alice.join("kept").exists());
        assert!(ready.place(&run.join("hello").join("bob")));
        ready.clear();
        let left: Vec<_> = fs::read_dir(&run).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["hello"]);
    }
}
