//! Exclusive ownership of a directory, by `flock(2)` on a file in it. The kernel releases the lock when the last duplicate
//! of the descriptor closes, so a dead owner never blocks the next.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
use rustix::io::{Errno, retry_on_intr};

/// A held lock. Dropping it releases it; the file stays, because removing it would let two owners hold two inodes.
#[derive(Debug)]
pub struct FileLock {
    file: OwnedFd,
    path: PathBuf,
}

impl FileLock {
    /// Takes the lock on the file at `path` (made 0600 if missing), or returns `None` if another holds it.
    pub fn try_exclusive(path: &Path) -> Result<Option<Self>, Errno> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = retry_on_intr(|| open(path, flags, Mode::RUSR | Mode::WUSR))?;
        match retry_on_intr(|| flock(&file, FlockOperation::NonBlockingLockExclusive)) {
            Ok(()) => Ok(Some(Self { file, path: path.to_owned() })),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// The locked file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl AsFd for FileLock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
