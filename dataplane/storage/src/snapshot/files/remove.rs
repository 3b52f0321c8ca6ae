//! The end of a directory that somebody else has filled.
//!
//! However deep it is, at most two directories are open, and the work is flat: what lies in a directory of the root is moved into
//! the root before that directory goes. So a chain of a million directories neither takes a stack nor descriptors.

use std::ffi::{CString, OsStr};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, RenameFlags, chmodat, openat, renameat_with, statat, unlinkat,
};
use rustix::io::Errno;

/// What moved directories are called; a name of them that is taken already is passed over.
const MOVED: &str = "+";

/// Removes a directory and all that is in it, without following any symbolic link. One that is not there is no error.
///
/// # Errors
/// What the system says. What is left can be removed by trying again.
pub fn remove_directory(path: &Path) -> std::io::Result<()> {
    let root = match openat(CWD, path, DIRECTORY, Mode::empty()) {
        Ok(root) => root,
        Err(Errno::NOENT) => return Ok(()),
        // It has no rights of its own left.
        Err(Errno::ACCESS) => {
            chmodat(CWD, path, Mode::RWXU, AtFlags::empty())?;
            openat(CWD, path, DIRECTORY, Mode::empty())?
        }
        Err(errno) => return Err(errno.into()),
    };
    rustix::fs::fchmod(&root, Mode::RWXU)?;
    let mut moved = 0_u64;
    loop {
        let directories = empty_of_files(&root)?;
        if directories.is_empty() {
            break;
        }
        for name in directories {
            chmodat(&root, &name, Mode::RWXU, AtFlags::empty())?;
            let directory = openat(&root, &name, DIRECTORY, Mode::empty())?;
            for inner in empty_of_files(&directory)? {
                // What is moved into another directory is written to.
                chmodat(&directory, &inner, Mode::RWXU, AtFlags::empty())?;
                lift(&directory, &inner, &root, &mut moved)?;
            }
            drop(directory);
            unlinkat(&root, &name, AtFlags::REMOVEDIR)?;
        }
    }
    drop(root);
    unlinkat(CWD, path, AtFlags::REMOVEDIR)?;
    Ok(())
}

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Moves a directory into the root under a name that is free.
fn lift(from: &OwnedFd, name: &CString, root: &OwnedFd, moved: &mut u64) -> Result<(), Errno> {
    loop {
        *moved += 1;
        let target = format!("{MOVED}{moved}");
        match renameat_with(from, name, root, OsStr::new(&target), RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => {}
            outcome => return outcome,
        }
    }
}

/// Removes all but directories, whose names it returns.
fn empty_of_files(directory: &OwnedFd) -> Result<Vec<CString>, Errno> {
    let mut directories = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_bytes() == b"." || name.to_bytes() == b".." {
            continue;
        }
        let kind = match entry.file_type() {
            FileType::Unknown => {
                let stat = statat(directory, OsStr::from_bytes(name.to_bytes()), AtFlags::SYMLINK_NOFOLLOW)?;
                FileType::from_raw_mode(stat.st_mode)
            }
            kind => kind,
        };
        if kind.is_dir() {
            directories.push(name.to_owned());
        } else {
            unlinkat(directory, name, AtFlags::empty())?;
        }
    }
    Ok(directories)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_directory_goes_with_all_that_is_in_it_and_nothing_else() {
        let (directory, foreign) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(foreign.path().join("kept"), "").unwrap();
        let root = directory.path().join("files");
        remove_directory(&root).unwrap();
        for path in ["+1/+2/+3", "a/b/c", "a/+1", "x"] {
            fs::create_dir_all(root.join(path)).unwrap();
            fs::write(root.join(path).join("file"), "bytes").unwrap();
            symlink(foreign.path(), root.join(path).join("out")).unwrap();
        }
        fs::set_permissions(root.join("a/b"), fs::Permissions::from_mode(0o000)).unwrap();
        fs::set_permissions(&root, fs::Permissions::from_mode(0o500)).unwrap();
        remove_directory(&root).unwrap();
        assert!(!root.exists() && foreign.path().join("kept").exists());
        symlink(foreign.path(), &root).unwrap();
        assert!(remove_directory(&root).is_err(), "a link is no directory");
        assert!(foreign.path().join("kept").exists());
    }

    #[test]
    fn depth_costs_neither_stack_nor_descriptors() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("files");
        fs::create_dir(&root).unwrap();
        let mut at = openat(CWD, &root, DIRECTORY, Mode::empty()).unwrap();
        for _ in 0..5000 {
            rustix::fs::mkdirat(&at, "d", Mode::RWXU).unwrap();
            at = openat(&at, "d", DIRECTORY, Mode::empty()).unwrap();
        }
        drop(at);
        remove_directory(&root).unwrap();
        assert!(!root.exists());
    }
}
