//! Whose log it is, and whether it is over.
//!
//! ```text
//! DIR/life     magic (8)   version (4)   bytes of the note (4)   position (8)   checksum (8)   note
//! DIR/ended    empty
//! DIR/recovery.0000000000000003    empty: who made something of the log for the third time
//! ```
//!
//! 1. The life lasts before the first record does, so a directory without one has nothing that anybody was told of.
//! 2. It has the position at which the log began: whoever reads the log needs what there was then, or at any later position that
//!    the log has.
//! 3. Recoveries are counted before anything that comes of them is used, each has a number of its own, and a later one a higher one.
//! 4. What is marked as ended never comes back, whatever else of it is still found; the mark is the last of its files to go.

use std::path::Path;

use praas_sys::Errno;
use twox_hash::XxHash3_64;

use super::LogError;
use crate::buffer::AlignedBuffer;
use crate::disk::{Access, FileLayer};

/// Bytes of a note: what a server has to know of a process is a few hundred.
pub const LIFE_BYTES_MAX: usize = 64 << 10;

pub(super) const LIFE_FILE: &str = "life";
pub(super) const ENDED_FILE: &str = "ended";

/// What the name of the count of recoveries begins with.
const RECOVERY_PREFIX: &str = "recovery.";

/// One that is not whole yet; it ends in what the writer of a log clears away.
const UNNAMED_FILE: &str = "life.new";

const MAGIC: &[u8; 8] = b"praaslif";
const VERSION: u32 = 1;
const HEAD_BYTES: usize = 32;

/// What is found of the life that a log belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLife {
    /// The position at which the log began.
    pub position: u64,
    /// What was noted of it.
    pub note: Vec<u8>,
    /// Whether it is over.
    pub is_ended: bool,
}

fn failed(what: &'static str, path: &Path) -> impl Fn(Errno) -> LogError {
    move |errno| LogError::Files { what, path: path.to_owned(), errno }
}

/// Writes the life of a log into its directory, which is there. One that is there already is replaced by nothing.
///
/// # Errors
/// [`LogError::Files`]: there may be none; [`LogError::TooLong`].
pub fn write_life(files: &dyn FileLayer, directory: &Path, position: u64, note: &[u8]) -> Result<(), LogError> {
    if note.len() > LIFE_BYTES_MAX {
        return Err(LogError::TooLong { bytes: note.len(), limit: LIFE_BYTES_MAX });
    }
    let (path, new) = (directory.join(LIFE_FILE), directory.join(UNNAMED_FILE));
    let write = || {
        match files.remove(&new) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
        let mut bytes = vec![0; HEAD_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&u32::try_from(note.len()).unwrap_or(u32::MAX).to_le_bytes());
        bytes[16..24].copy_from_slice(&position.to_le_bytes());
        let checksum = checksum(&bytes[..24], note);
        bytes[24..].copy_from_slice(&checksum.to_le_bytes());
        bytes.extend_from_slice(note);
        let file = files.create(&new)?;
        file.write(0, &bytes)?;
        file.sync()?;
        match files.rename_new(&new, &path) {
            Ok(()) | Err(Errno::EXIST) => files.sync_directory(directory),
            Err(errno) => Err(errno),
        }
    };
    write().map_err(failed("writing", &path))
}

fn checksum(head: &[u8], note: &[u8]) -> u64 {
    XxHash3_64::oneshot_with_seed(XxHash3_64::oneshot(head), note)
}

/// The life that a log in a directory belongs to; `None` if there is none.
///
/// # Errors
/// [`LogError::Damaged`], [`LogError::Version`], [`LogError::Files`].
pub fn read_life(files: &dyn FileLayer, directory: &Path) -> Result<Option<LogLife>, LogError> {
    let path = directory.join(LIFE_FILE);
    let (mut is_there, mut is_ended) = (false, false);
    let listed = files.list(directory, &mut |name| {
        is_there |= name == LIFE_FILE;
        is_ended |= name == ENDED_FILE;
    });
    match listed {
        Err(Errno::NOENT) => return Ok(None),
        listed => listed.map_err(failed("listing", directory))?,
    }
    if is_ended {
        return Ok(Some(LogLife { position: 0, note: Vec::new(), is_ended }));
    }
    if !is_there {
        return Ok(None);
    }
    let read = || {
        let file = files.open(&path, Access::Read)?;
        let Some(long) = usize::try_from(file.bytes()?).ok().filter(|bytes| *bytes <= HEAD_BYTES + LIFE_BYTES_MAX)
        else {
            return Ok(None);
        };
        let mut bytes = AlignedBuffer::new(long);
        let read = file.read(0, &mut bytes)?;
        Ok(bytes.get(..read.min(long)).map(<[u8]>::to_vec))
    };
    let damaged =
        |reason: &str| LogError::Damaged { path: path.clone(), at: 0, reason: reason.to_owned(), position: 0 };
    let bytes = read().map_err(failed("reading", &path))?.ok_or_else(|| damaged("it is longer than any life"))?;
    let word = |at: usize| bytes.get(at..at + 8).and_then(|word| Some(u64::from_le_bytes(word.try_into().ok()?)));
    let half = |at: usize| bytes.get(at..at + 4).and_then(|half| Some(u32::from_le_bytes(half.try_into().ok()?)));
    let (Some(version), Some(note_bytes), Some(position), Some(sum)) = (half(8), half(12), word(16), word(24)) else {
        return Err(damaged("its header is not whole"));
    };
    let note = &bytes[HEAD_BYTES..];
    if !bytes.starts_with(MAGIC) || sum != checksum(&bytes[..24], note) || note_bytes as usize != note.len() {
        return Err(damaged("it is not whole"));
    }
    match version {
        VERSION => Ok(Some(LogLife { position, note: note.to_vec(), is_ended })),
        actual => Err(LogError::Version { path, actual, known: VERSION }),
    }
}

/// Counts that something is made of a log: how often that has been begun, this time included. The count lasts when this returns, and
/// one that failed may have counted all the same.
///
/// # Errors
/// [`LogError::Files`]; [`LogError::Damaged`] where the last number was given.
pub fn count_recovery(files: &dyn FileLayer, directory: &Path) -> Result<u64, LogError> {
    let mut counted = Vec::new();
    let number = |name: &str| u64::from_str_radix(name.strip_prefix(RECOVERY_PREFIX)?, 16).ok();
    let listed = files.list(directory, &mut |name| counted.extend(number(name)));
    listed.map_err(failed("listing", directory))?;
    let path_of = |number: u64| directory.join(format!("{RECOVERY_PREFIX}{number:016x}"));
    let last = counted.iter().copied().max().unwrap_or(0);
    let next = last.checked_add(1).ok_or_else(|| LogError::Damaged {
        path: path_of(last),
        at: 0,
        reason: "nobody can have counted so far".to_owned(),
        position: 0,
    })?;
    let path = path_of(next);
    let count = || {
        drop(files.create(&path)?);
        files.sync_directory(directory)
    };
    count().map_err(failed("counting a recovery in", &path))?;
    // Those that stay are passed over.
    for number in counted {
        let _ = files.remove(&path_of(number));
    }
    Ok(next)
}

/// Marks a log as that of a life that is over, for good; nothing to do where there is no log.
///
/// # Errors
/// [`LogError::Files`]: it may be marked or not.
pub fn mark_ended(files: &dyn FileLayer, directory: &Path) -> Result<(), LogError> {
    let path = directory.join(ENDED_FILE);
    let mark = || {
        match files.create(&path) {
            Err(Errno::NOENT) => return Ok(()),
            Ok(_) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
        files.sync_directory(directory)
    };
    mark().map_err(failed("marking", &path))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::disk::model::{Fault, ModelFiles, root};
    use crate::log::remove_log;

    fn new_files(seed: u64) -> (ModelFiles, PathBuf) {
        let (files, directory) = (ModelFiles::new(seed), root().join("log"));
        files.make_directory(&directory).unwrap();
        files.sync_directory(&root()).unwrap();
        (files, directory)
    }

    #[test]
    fn a_life_is_there_whole_or_not_at_all_wherever_the_power_goes() {
        let life = |position| LogLife { position, note: b"alice".to_vec(), is_ended: false };
        for at in 0..20 {
            for seed in 0..8 {
                let (files, directory) = new_files(at * 31 + seed);
                files.set_fault(Fault::Cut { at: files.calls() + at });
                let written = write_life(&files, &directory, 7, b"alice");
                files.set_fault(Fault::None);
                let files = if files.is_cut() { files.after_cut(seed) } else { files };
                let found = read_life(&files, &directory).unwrap();
                assert!(found == Some(life(7)) || found.is_none() && written.is_err(), "{at} {seed}: {found:?}");
                write_life(&files, &directory, 7, b"alice").unwrap();
                assert_eq!(read_life(&files, &directory).unwrap(), Some(life(7)));
            }
        }
    }

    #[test]
    fn what_is_being_removed_never_looks_like_a_log_that_lives() {
        for is_marked in [false, true] {
            for at in 0..20 {
                for seed in 0..8 {
                    let (files, directory) = new_files(at * 31 + seed);
                    write_life(&files, &directory, 7, b"alice").unwrap();
                    let segment = files.create(&directory.join("0000000000000000.log")).unwrap();
                    segment.sync().unwrap();
                    files.sync_directory(&directory).unwrap();
                    if is_marked {
                        mark_ended(&files, &directory).unwrap();
                    }
                    files.set_fault(Fault::Cut { at: files.calls() + at });
                    let removed = remove_log(&files, &directory);
                    files.set_fault(Fault::None);
                    let files = if files.is_cut() { files.after_cut(seed) } else { files };
                    let mut segments = 0;
                    let _ = files.list(&directory, &mut |name| segments += usize::from(name.ends_with("log")));
                    match read_life(&files, &directory).unwrap() {
                        Some(LogLife { is_ended: false, .. }) => {
                            assert!(!is_marked && removed.is_err() && segments == 1, "{at} {seed}");
                        }
                        Some(_) => assert!(is_marked && removed.is_err()),
                        None => assert!(!is_marked || segments == 0, "{at} {seed}: no mark, and {segments} segments"),
                    }
                    remove_log(&files, &directory).unwrap();
                    assert_eq!(read_life(&files, &directory).unwrap(), None);
                }
            }
        }
    }

    #[test]
    fn no_recovery_has_the_number_of_an_earlier_one_wherever_the_power_goes() {
        for at in 0..24 {
            for seed in 0..8 {
                let (mut files, directory) = new_files(at * 31 + seed);
                write_life(&files, &directory, 7, b"alice").unwrap();
                files.set_fault(Fault::Cut { at: files.calls() + at });
                let mut last = 0;
                let mut count = |files: &ModelFiles| -> bool {
                    let counted = count_recovery(files, &directory);
                    if let Ok(number) = &counted {
                        assert!(*number > last, "{at} {seed}: {number} after {last}");
                        last = *number;
                    }
                    counted.is_ok()
                };
                while count(&files) && files.calls() < 100 {}
                if files.is_cut() {
                    files = files.after_cut(seed);
                    assert!(count(&files) && count(&files), "{at} {seed}");
                }
                remove_log(&files, &directory).unwrap();
                assert_eq!(read_life(&files, &directory).unwrap(), None);
            }
        }
    }

    #[test]
    fn damage_to_a_life_is_told() {
        let (files, directory) = new_files(0);
        write_life(&files, &directory, 7, b"alice").unwrap();
        let path = directory.join(LIFE_FILE);
        let file = files.open(&path, Access::Write).unwrap();
        let mut bytes = vec![0; usize::try_from(file.bytes().unwrap()).unwrap()];
        file.read(0, &mut bytes).unwrap();
        for at in 0..bytes.len() {
            bytes[at] ^= 4;
            file.write(0, &bytes).unwrap();
            assert!(matches!(read_life(&files, &directory), Err(LogError::Damaged { .. })), "byte {at}");
            bytes[at] ^= 4;
        }
        file.write(0, &bytes).unwrap();
        assert!(read_life(&files, &directory).unwrap().is_some());
        mark_ended(&files, &directory).unwrap();
        mark_ended(&files, &directory).unwrap();
        assert!(read_life(&files, &directory).unwrap().unwrap().is_ended);
    }
}
