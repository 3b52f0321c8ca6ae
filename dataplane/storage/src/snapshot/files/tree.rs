//! What a directory has, found without following any symbolic link.

use std::ffi::OsStr;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use praas_protocol::limits::{FILE_PATH_BYTES_MAX, FILES_DEPTH_MAX, FILES_MAX};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, chownat, fstat, openat, readlinkat, statat};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};

/// Permission bits that are kept: what runs as somebody else, or belongs to no one, is nothing that comes back.
const MODE_BITS: u32 = 0o777;

/// Why a directory of files cannot be taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FilesError {
    /// The system refused something.
    #[error("cannot {doing} `{path}`: {errno}")]
    Call {
        /// What was tried.
        doing: &'static str,
        /// The path within the directory.
        path: String,
        /// What the system says.
        errno: Errno,
    },
    /// It is of a kind that cannot be kept.
    #[error("`{path}` is {what}: only files, directories and symbolic links are kept; remove it")]
    Kind {
        /// The path within the directory.
        path: String,
        /// What it is.
        what: &'static str,
    },
    /// It is not the process's own.
    #[error("`{path}` belongs to {whose}, not to the process: remove it")]
    Foreign {
        /// The path within the directory.
        path: String,
        /// Whom it belongs to.
        whose: String,
    },
    /// There is more than can be kept.
    #[error("`{path}`: {what} {actual}, the limit is {limit}")]
    TooMuch {
        /// The path within the directory.
        path: String,
        /// What there is too much of.
        what: &'static str,
        /// How much.
        actual: usize,
        /// How much is allowed.
        limit: usize,
    },
    /// Somebody writes to it.
    #[error("`{path}` changes while it is read: something of the process still runs")]
    Changes {
        /// The path within the directory.
        path: String,
    },
}

/// What tells a file that was written to from one that was not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) inode: u64,
    pub(crate) bytes: u64,
    pub(crate) modified_ns: i64,
    pub(crate) changed_ns: i64,
}

/// What a name leads to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum TreeKind {
    Directory,
    File,
    Link { target: Box<[u8]> },
}

/// One name.
#[derive(Debug)]
pub(crate) struct TreeEntry {
    /// From the directory on, with `/` between names.
    pub(crate) path: Box<[u8]>,
    pub(crate) mode: u16,
    pub(crate) stamp: Stamp,
    pub(crate) kind: TreeKind,
}

impl TreeEntry {
    /// Fills `into` with bytes of the file from `start` on.
    pub(crate) fn read(&self, file: &OwnedFd, start: u64, into: &mut [u8]) -> Result<(), FilesError> {
        let mut filled = 0;
        while filled < into.len() {
            match rustix::io::pread(file, &mut into[filled..], start + filled as u64) {
                Ok(0) => return Err(FilesError::Changes { path: words(&self.path) }),
                Ok(bytes) => filled += bytes,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(call("read", &self.path)(errno)),
            }
        }
        Ok(())
    }
}

/// How much a directory has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FilesUsage {
    /// Bytes of all files, as their lengths say; holes count.
    pub bytes: u64,
    /// Files, directories and symbolic links.
    pub entries: usize,
}

/// A directory as it stands still. Nobody may change it as long as this is used; who does is noticed.
#[derive(Debug)]
pub struct Tree {
    root: OwnedFd,
    device: u64,
    owner: Option<u32>,
    entries: Vec<TreeEntry>,
}

impl Tree {
    /// What a directory has; `None` if there is none. With an owner, whatever belongs to another user is refused.
    ///
    /// # Errors
    /// [`FilesError`] names what cannot be kept.
    pub fn open(path: &Path, owner: Option<u32>) -> Result<Option<Self>, FilesError> {
        let root = match openat(CWD, path, DIRECTORY, Mode::empty()) {
            Ok(root) => root,
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(call("open", b".")(errno)),
        };
        let device = fstat(&root).map_err(call("look at", b"."))?.st_dev;
        let mut tree = Self { root, device, owner, entries: Vec::new() };
        tree.walk()?;
        tree.entries.sort_unstable_by(|left, right| left.path.cmp(&right.path));
        Ok(Some(tree))
    }

    /// How much it has.
    #[must_use]
    pub fn usage(&self) -> FilesUsage {
        let files = self.entries.iter().filter(|entry| entry.kind == TreeKind::File);
        let bytes = files.fold(0_u64, |sum, entry| sum.saturating_add(entry.stamp.bytes));
        FilesUsage { bytes, entries: self.entries.len() }
    }

    /// Gives all of it, and at last the directory itself, to a user and a group of the same number.
    ///
    /// # Errors
    /// [`FilesError`] names what cannot be given away.
    pub fn give_to(&self, user: u32) -> Result<(), FilesError> {
        let (user, group) = (Some(Uid::from_raw(user)), Some(Gid::from_raw(user)));
        for entry in &self.entries {
            let (parent, name) = split(&entry.path);
            let parent = open_beneath(self.root.as_fd(), parent, PATH).map_err(call("open", &entry.path))?;
            chownat(parent, OsStr::from_bytes(name), user, group, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(call("give away", &entry.path))?;
        }
        rustix::fs::fchown(&self.root, user, group).map_err(call("give away", b"."))
    }

    pub(crate) fn entries(&self) -> &[TreeEntry] {
        &self.entries
    }

    /// Opens a file of it, which is what it was when the directory was walked.
    pub(crate) fn open_file(&self, entry: &TreeEntry) -> Result<OwnedFd, FilesError> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = open_beneath(self.root.as_fd(), &entry.path, flags).map_err(call("open", &entry.path))?;
        Self::ensure_still(entry, &file)?;
        Ok(file)
    }

    /// Whether a file is still what it was.
    pub(crate) fn ensure_still(entry: &TreeEntry, file: &OwnedFd) -> Result<(), FilesError> {
        let stat = fstat(file).map_err(call("look at", &entry.path))?;
        if FileType::from_raw_mode(stat.st_mode).is_file() && stamp_of(&stat) == entry.stamp {
            return Ok(());
        }
        Err(FilesError::Changes { path: words(&entry.path) })
    }

    fn walk(&mut self) -> Result<(), FilesError> {
        // Directories that were found and not looked into.
        let mut found: Vec<Box<[u8]>> = vec![Box::default()];
        while let Some(path) = found.pop() {
            let directory = open_beneath(self.root.as_fd(), &path, DIRECTORY).map_err(call("open", &path))?;
            let names = Dir::read_from(&directory).map_err(call("list", &path))?;
            for name in names {
                let name = name.map_err(call("list", &path))?;
                let name = name.file_name().to_bytes();
                if name == b"." || name == b".." {
                    continue;
                }
                let own: Box<[u8]> =
                    if path.is_empty() { name.into() } else { [&path, &b"/"[..], name].concat().into() };
                let kind = self.take(&own, name, &directory)?;
                if kind.is_dir() {
                    found.push(own);
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, path: &[u8], name: &[u8], directory: &OwnedFd) -> Result<FileType, FilesError> {
        let limit = |what, actual, limit| {
            if actual <= limit { Ok(()) } else { Err(FilesError::TooMuch { path: words(path), what, actual, limit }) }
        };
        limit("files, directories and links", self.entries.len() + 1, FILES_MAX)?;
        limit("bytes of its path", path.len(), FILE_PATH_BYTES_MAX)?;
        limit("directories above each other", path.split(|byte| *byte == b'/').count(), FILES_DEPTH_MAX)?;
        let name = OsStr::from_bytes(name);
        let stat = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).map_err(call("look at", path))?;
        self.ensure_own(path, &stat)?;
        let found = FileType::from_raw_mode(stat.st_mode);
        let kind = match found {
            FileType::Directory => TreeKind::Directory,
            FileType::RegularFile => TreeKind::File,
            FileType::Symlink => {
                let target = readlinkat(directory, name, Vec::new()).map_err(call("read", path))?;
                limit("bytes of where it leads", target.as_bytes().len(), FILE_PATH_BYTES_MAX)?;
                TreeKind::Link { target: target.as_bytes().into() }
            }
            FileType::Fifo => return Err(FilesError::Kind { path: words(path), what: "a named pipe" }),
            FileType::Socket => return Err(FilesError::Kind { path: words(path), what: "a socket" }),
            _ => return Err(FilesError::Kind { path: words(path), what: "a device" }),
        };
        // No more than fit sixteen bits are left.
        let mode = u16::try_from(stat.st_mode & MODE_BITS).unwrap_or(0);
        self.entries.push(TreeEntry { path: path.into(), mode, stamp: stamp_of(&stat), kind });
        Ok(found)
    }

    fn ensure_own(&self, path: &[u8], stat: &Stat) -> Result<(), FilesError> {
        if stat.st_dev != self.device {
            return Err(FilesError::Foreign { path: words(path), whose: "another file system".into() });
        }
        match self.owner.filter(|owner| *owner != stat.st_uid) {
            Some(_) => Err(FilesError::Foreign { path: words(path), whose: format!("uid {}", stat.st_uid) }),
            None => Ok(()),
        }
    }
}

/// How directories are opened.
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// How directories are opened that are only on the way.
const PATH: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Opens what a path leads to, name by name from a directory on, none of them a symbolic link; the directory itself for an empty
/// one.
pub(crate) fn open_beneath(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let (parents, last) = split(path);
    let mut at: Option<OwnedFd> = None;
    for name in parents.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
        let parent = at.as_ref().map_or(root, AsFd::as_fd);
        at = Some(openat(parent, OsStr::from_bytes(name), PATH, Mode::empty())?);
    }
    let parent = at.as_ref().map_or(root, AsFd::as_fd);
    openat(parent, if last.is_empty() { OsStr::new(".") } else { OsStr::from_bytes(last) }, flags, Mode::empty())
}

/// The path of what a path lies in, and its last name.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (&[], path),
    }
}

pub(crate) fn stamp_of(stat: &Stat) -> Stamp {
    let ns = |seconds: i64, ns: i64| seconds.saturating_mul(1_000_000_000).saturating_add(ns);
    Stamp {
        inode: stat.st_ino,
        bytes: u64::try_from(stat.st_size).unwrap_or(0),
        modified_ns: ns(stat.st_mtime, i64::try_from(stat.st_mtime_nsec).unwrap_or(0)),
        changed_ns: ns(stat.st_ctime, i64::try_from(stat.st_ctime_nsec).unwrap_or(0)),
    }
}

/// A path as people read it.
pub(crate) fn words(path: &[u8]) -> String {
    match std::str::from_utf8(path) {
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => path.escape_ascii().to_string(),
    }
}

fn call(doing: &'static str, path: &[u8]) -> impl FnOnce(Errno) -> FilesError {
    move |errno| FilesError::Call { doing, path: words(path), errno }
}

impl fmt::Display for FilesUsage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} bytes in {} files, directories and links", self.bytes, self.entries)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use super::*;

    fn opened(path: &Path) -> Result<Tree, FilesError> {
        Tree::open(path, None).map(|tree| tree.expect("it is there"))
    }

    #[test]
    fn a_directory_is_taken_without_following_any_link() {
        let (directory, foreign) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(foreign.path().join("secret"), "not mine").unwrap();
        let root = directory.path().join("files");
        assert!(Tree::open(&root, None).unwrap().is_none());
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::write(root.join("a/b/text"), "hello").unwrap();
        fs::write(root.join("a-b"), "").unwrap();
        symlink(foreign.path(), root.join("out")).unwrap();
        let tree = opened(&root).unwrap();
        let paths: Vec<_> = tree.entries().iter().map(|entry| words(&entry.path)).collect();
        assert_eq!(paths, ["a", "a-b", "a/b", "a/b/text", "out"]);
        assert_eq!(tree.usage(), FilesUsage { bytes: 5, entries: 5 });
        assert!(
            matches!(&tree.entries()[4].kind, TreeKind::Link { target } if **target == *foreign.path().as_os_str().as_bytes())
        );
        // A directory that became a link after it was found leads nowhere.
        fs::rename(root.join("a"), root.join("moved")).unwrap();
        symlink(foreign.path(), root.join("a")).unwrap();
        assert!(open_beneath(tree.root.as_fd(), b"a/secret", OFlags::RDONLY).is_err());
        assert!(open_beneath(tree.root.as_fd(), b"out/secret", OFlags::RDONLY).is_err());
        symlink("files", directory.path().join("linked")).unwrap();
        assert!(Tree::open(&directory.path().join("linked"), None).is_err());
    }

    #[test]
    fn what_cannot_be_kept_is_refused_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        fs::write(root.join("mine"), "").unwrap();
        let own = rustix::process::geteuid().as_raw();
        assert!(Tree::open(root, Some(own)).is_ok());
        let error = Tree::open(root, Some(own + 1)).unwrap_err();
        assert!(matches!(&error, FilesError::Foreign { path, .. } if path == "mine"), "{error}");
        let socket = UnixListener::bind(root.join("door")).unwrap();
        let error = opened(root).unwrap_err();
        assert!(error.to_string().contains("`door` is a socket"), "{error}");
        drop(socket);
        fs::remove_file(root.join("door")).unwrap();
        let mut deep = root.to_owned();
        (0..FILES_DEPTH_MAX).for_each(|_| deep.push("d"));
        fs::create_dir_all(&deep).unwrap();
        assert!(opened(root).is_ok());
        fs::write(deep.join("f"), "").unwrap();
        assert!(matches!(opened(root), Err(FilesError::TooMuch { actual, .. }) if actual == FILES_DEPTH_MAX + 1));
    }

    #[test]
    fn a_file_that_changes_is_told() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("file"), "before").unwrap();
        let tree = opened(directory.path()).unwrap();
        let entry = &tree.entries()[0];
        let file = tree.open_file(entry).unwrap();
        fs::write(directory.path().join("file"), "afterwards").unwrap();
        assert!(matches!(Tree::ensure_still(entry, &file), Err(FilesError::Changes { .. })));
        assert!(tree.open_file(entry).is_err());
    }
}
