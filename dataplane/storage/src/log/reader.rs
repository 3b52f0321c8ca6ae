//! What is there after a crash.

use std::path::{Path, PathBuf};

use praas_sys::Errno;

use super::format::{BATCH_HEAD_BYTES, BadHead, BatchHead, SegmentHead, VERSION};
use super::life::{ENDED_FILE, LIFE_FILE};
use super::{LogError, SEGMENT_BYTES_MAX};
use crate::buffer::{AlignedBuffer, BLOCK_BYTES};
use crate::disk::{Access, FileLayer};

/// What the names of segments end in.
const EXTENSION: &str = ".log";

/// Digits of a segment's number.
const DIGITS: usize = 16;

/// Records that became durable together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batch<'l> {
    /// The position before the first of them.
    pub after: u64,
    /// That of the last one that has one.
    pub position: u64,
    /// Whole records.
    pub records: &'l [u8],
}

/// What a log goes from and to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// The position before its first record.
    pub after: u64,
    /// The position of its last one.
    pub position: u64,
}

pub(super) fn segment_path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{number:016x}{EXTENSION}"))
}

/// The numbers of the segments that are there, in order.
pub(super) fn segment_numbers(files: &dyn FileLayer, directory: &Path) -> Result<Vec<u64>, LogError> {
    let mut numbers = Vec::new();
    let listed = files.list(directory, &mut |name| {
        let digits = name.strip_suffix(EXTENSION).filter(|digits| digits.len() == DIGITS);
        numbers.extend(digits.and_then(|digits| u64::from_str_radix(digits, 16).ok()));
    });
    listed.map_err(|errno| LogError::Files { what: "listing", path: directory.to_owned(), errno })?;
    numbers.sort_unstable();
    Ok(numbers)
}

/// Tells every batch of a log in order, up to its end or its torn end; what it goes from and to, or `None` if there is none.
/// Everything up to `kept` is kept elsewhere: where segments that have nothing else were being removed when power went, any of them
/// may still be there, and are left out.
///
/// # Errors
/// [`LogError::Damaged`] when something is missing that was durable, after what is whole was told; [`LogError::Version`],
/// [`LogError::Files`].
pub fn read_log(
    files: &dyn FileLayer,
    directory: &Path,
    kept: u64,
    each: &mut dyn FnMut(Batch<'_>),
) -> Result<Option<Found>, LogError> {
    let numbers = segment_numbers(files, directory)?;
    let numbers = &numbers[first_needed(files, directory, &numbers, kept)?..];
    let mut found: Option<Found> = None;
    let mut next = numbers.first().map(|first| Segment::read(files, directory, *first, 0)).transpose()?;
    for index in 0..numbers.len() {
        let Some(segment) = next.take() else { break };
        let found = found.get_or_insert(Found { after: segment.head.after, position: segment.head.after });
        let next_number = numbers.get(index + 1);
        next = next_number.map(|number| Segment::read(files, directory, *number, found.position)).transpose()?;
        if segment.head.after != found.position {
            let reason = format!("it begins after position {}", segment.head.after);
            return Err(segment.damaged(0, reason, found.position));
        }
        let until = next.as_ref().map(|next| next.head.after);
        segment.tell(until, &mut found.position, each)?;
    }
    Ok(found)
}

/// The index of the segment behind the last one that is missing and not needed.
fn first_needed(files: &dyn FileLayer, directory: &Path, numbers: &[u64], kept: u64) -> Result<usize, LogError> {
    for (index, pair) in numbers.windows(2).enumerate().rev() {
        let (number, next) = (pair[0], pair[1]);
        if next == number + 1 {
            continue;
        }
        // Those between were removed, or could not be made: then the two join.
        let next = Segment::read(files, directory, next, 0)?;
        let segment = Segment::read(files, directory, number, 0);
        let joins = segment.and_then(|segment| {
            let mut position = segment.head.after;
            segment.tell(Some(next.head.after), &mut position, &mut |_| ())
        });
        match joins {
            Err(LogError::Damaged { .. }) if next.head.after <= kept => return Ok(index + 1),
            Ok(()) | Err(LogError::Damaged { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(0)
}

/// Removes a log with its directory; nothing to do for one that is not there. What is left of one that was not removed whole has
/// no life any more, or is marked as ended.
///
/// # Errors
/// [`LogError::Files`]: any of it may be left.
pub fn remove_log(files: &dyn FileLayer, directory: &Path) -> Result<(), LogError> {
    let failed = |errno| LogError::Files { what: "removing", path: directory.to_owned(), errno };
    let mut names = Vec::new();
    match files.list(directory, &mut |name| names.push(name.to_owned())) {
        Err(Errno::NOENT) => return Ok(()),
        listed => listed.map_err(failed)?,
    }
    let remove = |name: &String| match files.remove(&directory.join(name)) {
        Err(Errno::NOENT) => Ok(()),
        removed => removed.map_err(failed),
    };
    if names.iter().any(|name| name == LIFE_FILE) {
        remove(&LIFE_FILE.to_owned())?;
        files.sync_directory(directory).map_err(failed)?;
    }
    names.retain(|name| name != LIFE_FILE);
    // The oldest first, and last of all what says that it has ended.
    names.sort_unstable_by_key(|name| (name == ENDED_FILE, name.clone()));
    names.iter().try_for_each(remove)?;
    match files.remove_directory(directory) {
        Err(Errno::NOENT) => Ok(()),
        removed => removed.map_err(failed),
    }
}

/// A segment in memory.
struct Segment {
    path: PathBuf,
    head: SegmentHead,
    bytes: AlignedBuffer,
}

impl Segment {
    /// Reads one; up to `position` all was told before.
    fn read(files: &dyn FileLayer, directory: &Path, number: u64, position: u64) -> Result<Self, LogError> {
        let path = segment_path(directory, number);
        let read = || {
            let file = files.open(&path, Access::Read)?;
            // What is longer was never written here.
            let Some(long) = usize::try_from(file.bytes()?).ok().filter(|bytes| *bytes <= SEGMENT_BYTES_MAX) else {
                return Ok(None);
            };
            let mut bytes = AlignedBuffer::new(long);
            let read = file.read(0, &mut bytes)?;
            bytes[read..].fill(0);
            Ok(Some(bytes))
        };
        let read = read().map_err(|errno| LogError::Files { what: "reading", path: path.clone(), errno })?;
        let Some(bytes) = read else {
            let reason = format!("it is longer than {SEGMENT_BYTES_MAX} bytes");
            return Err(LogError::Damaged { path, at: SEGMENT_BYTES_MAX as u64, reason, position });
        };
        match SegmentHead::read(&bytes) {
            Ok(head) => Ok(Self { path, head, bytes }),
            Err(BadHead::Version(actual)) => Err(LogError::Version { path, actual, known: VERSION }),
            Err(BadHead::Damaged) => {
                let reason = "its header is not whole".to_owned();
                Err(LogError::Damaged { path, at: 0, reason, position })
            }
        }
    }

    fn damaged(&self, at: usize, reason: String, position: u64) -> LogError {
        LogError::Damaged { path: self.path.clone(), at: at as u64, reason, position }
    }

    /// The whole batch that begins at a byte.
    fn batch_at(&self, at: usize) -> Option<BatchHead> {
        BatchHead::read(self.head.id, self.bytes.get(at..)?)
    }

    /// Tells its batches, up to where the next segment begins. There may be batches without a position of their own behind
    /// that position: they are told too, and whoever wrote them may have written them into the next segment once more.
    fn tell(&self, until: Option<u64>, position: &mut u64, each: &mut dyn FnMut(Batch<'_>)) -> Result<(), LogError> {
        let mut at = BLOCK_BYTES;
        while let Some(head) = self.batch_at(at) {
            if head.after != *position {
                if until == Some(*position) {
                    break;
                }
                let reason = format!("a batch follows position {}", head.after);
                return Err(self.damaged(at, reason, *position));
            }
            if until.is_some_and(|until| head.position > until) {
                // It was never acknowledged: the next segment has its records.
                break;
            }
            let start = at + BATCH_HEAD_BYTES;
            let records = &self.bytes[start..start + head.bytes as usize];
            each(Batch { after: head.after, position: head.position, records });
            *position = head.position;
            at = (start + head.bytes as usize).next_multiple_of(BLOCK_BYTES);
        }
        match until {
            Some(until) if until != *position => {
                let reason = format!("the next segment goes on after position {until}");
                Err(self.damaged(at, reason, *position))
            }
            Some(_) => Ok(()),
            None => self.check_end(at, *position),
        }
    }

    /// Makes sure that nothing whole comes behind the end: then that end would be no torn one.
    fn check_end(&self, end: usize, position: u64) -> Result<(), LogError> {
        let beyond = (end..self.bytes.len()).step_by(BLOCK_BYTES).skip(1).find_map(|at| self.batch_at(at));
        match beyond {
            None => Ok(()),
            Some(head) => {
                Err(self.damaged(end, format!("a whole batch up to position {} comes behind", head.position), position))
            }
        }
    }
}
