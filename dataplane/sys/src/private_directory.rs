//! Directories that belong to this user alone: the data directory with its sockets and tokens.
//!
//! What is found at the path is checked, never repaired silently: a directory of another owner, or one that others may
//! enter, could hold files planted by them.

use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, fsync, mkdirat, openat};
use rustix::io::Errno;
use rustix::process::geteuid;

/// Why a directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PrivateDirectoryError {
    /// It belongs to somebody else.
    #[error("{path:?} belongs to uid {owner}, not to uid {us}; choose another directory or change its owner")]
    ForeignOwner {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// This process's user.
        us: u32,
    },
    /// Others may enter or change it.
    #[error("{path:?} has mode {mode:03o} and is open to others; run `chmod 700 {}`", path.display())]
    OpenToOthers {
        /// The directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Something other than a directory is there.
    #[error("{path:?} is not a directory")]
    NotADirectory {
        /// The path.
        path: PathBuf,
    },
    /// A system call failed.
    #[error("cannot {what} {path:?}: {errno}")]
    Call {
        /// What was attempted.
        what: &'static str,
        /// The path.
        path: PathBuf,
        /// What the kernel answered.
        errno: Errno,
    },
}

/// Makes the entry of a new directory lasting.
fn sync_parent(path: &Path) -> Result<(), Errno> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match openat(CWD, parent, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
        Ok(parent) => fsync(&parent),
        // Whoever may not read it may write to it all the same.
        Err(Errno::ACCESS) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Makes `path` (0700; parents too, where missing), or accepts it if it is this user's and closed to others.
pub fn create_private_directory(path: &Path) -> Result<(), PrivateDirectoryError> {
    let failed = |what| move |errno| PrivateDirectoryError::Call { what, path: path.to_owned(), errno };
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty() && !parent.exists()) {
        create_private_directory(parent)?;
    }
    match mkdirat(CWD, path, Mode::RWXU) {
        // What is stored in it lasts only if it does.
        Ok(()) => sync_parent(path).map_err(failed("make lasting"))?,
        Err(Errno::EXIST) => {}
        Err(errno) => return Err(failed("create")(errno)),
    }
    // Opened once and then only asked about through the descriptor, so that nobody can swap it in between.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = match openat(CWD, path, flags, Mode::empty()) {
        Ok(directory) => directory,
        Err(Errno::LOOP | Errno::NOTDIR) => return Err(PrivateDirectoryError::NotADirectory { path: path.to_owned() }),
        Err(errno) => return Err(failed("open")(errno)),
    };
    let stat = fstat(&directory).map_err(failed("stat"))?;
    if !FileType::from_raw_mode(stat.st_mode).is_dir() {
        return Err(PrivateDirectoryError::NotADirectory { path: path.to_owned() });
    }
    let us = geteuid().as_raw();
    if stat.st_uid != us {
        return Err(PrivateDirectoryError::ForeignOwner { path: path.to_owned(), owner: stat.st_uid, us });
    }
    let mode = stat.st_mode & 0o777;
    if mode & 0o077 != 0 {
        return Err(PrivateDirectoryError::OpenToOthers { path: path.to_owned(), mode });
    }
    Ok(())
}
