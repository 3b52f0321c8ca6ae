//! Appending, syncing, and dropping what a snapshot has.

use std::collections::VecDeque;
use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use praas_sys::Errno;

use super::format::{BATCH_HEAD_BYTES, BatchHead, SEGMENT_HEAD_BYTES, SegmentHead};
use super::reader::{segment_numbers, segment_path};
use super::{AHEAD_BYTES, APPEND_BYTES_MAX, LogError, PENDING_BYTES_MAX, SEGMENT_BYTES, SEGMENT_BYTES_MAX};
use crate::buffer::{AlignedBuffer, BLOCK_BYTES};
use crate::disk::{FileLayer, StoredFile};

/// Small batches are those of which so many fit into what is written ahead.
const SMALL_BATCHES_AHEAD: usize = 4;

/// What the names of segments end in that are not whole yet.
const UNNAMED: &str = ".new";

/// How large things are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogPlan {
    /// Bytes of a segment, whole blocks; one that a batch alone does not fit into is made longer.
    pub segment_bytes: usize,
    /// Bytes that are written ahead at once, whole blocks.
    pub ahead_bytes: usize,
}

impl Default for LogPlan {
    fn default() -> Self {
        Self { segment_bytes: SEGMENT_BYTES, ahead_bytes: AHEAD_BYTES }
    }
}

/// The one writer of a log.
pub struct LogWriter {
    files: Arc<dyn FileLayer>,
    directory: PathBuf,
    plan: LogPlan,
    /// Filled segments, and up to which position each goes.
    filled: VecDeque<(u64, u64)>,
    segment: Option<Segment>,
    next_number: u64,
    /// Room for a batch's header, then the records that wait.
    batch: AlignedBuffer,
    pending_bytes: usize,
    durable: u64,
    appended: u64,
}

/// The segment that is written to.
#[derive(Debug)]
struct Segment {
    number: u64,
    file: Box<dyn StoredFile>,
    id: u64,
    /// Where the next batch goes.
    end: usize,
    /// Up to where blocks were written once.
    ready: usize,
    bytes: usize,
}

impl fmt::Debug for LogWriter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { directory, durable, appended, pending_bytes, .. } = self;
        formatter
            .debug_struct("LogWriter")
            .field("directory", directory)
            .field("durable", durable)
            .field("appended", appended)
            .field("pending_bytes", pending_bytes)
            .finish_non_exhaustive()
    }
}

impl LogWriter {
    /// Goes on with the log in a directory, which is there, or begins one: its next record follows `after`, which is where
    /// [`read_log`](super::read_log) found its end. Who goes on from anywhere else has a snapshot, and removes the log first.
    ///
    /// # Errors
    /// [`LogError::Files`].
    pub fn begin(files: Arc<dyn FileLayer>, directory: &Path, after: u64, plan: LogPlan) -> Result<Self, LogError> {
        let numbers = segment_numbers(&*files, directory)?;
        remove_unnamed(&*files, directory)?;
        let next_number = numbers.last().map_or(0, |last| last + 1);
        // Up to where each goes is not known without reading it; up to here at most.
        let filled = numbers.into_iter().map(|number| (number, after)).collect();
        Ok(Self {
            files,
            directory: directory.to_owned(),
            plan: LogPlan { segment_bytes: plan.segment_bytes.min(SEGMENT_BYTES_MAX), ..plan },
            filled,
            segment: None,
            next_number,
            batch: AlignedBuffer::new(BLOCK_BYTES.max(plan.ahead_bytes)),
            pending_bytes: 0,
            durable: after,
            appended: after,
        })
    }

    /// The position up to which all is durable.
    #[must_use]
    pub fn durable(&self) -> u64 {
        self.durable
    }

    /// About how many bytes the log takes, as far as this writer filled it.
    #[must_use]
    pub fn kept_bytes(&self) -> u64 {
        let filled = self.filled.len() as u64 * self.plan.segment_bytes as u64;
        filled + self.segment.as_ref().map_or(0, |segment| segment.end as u64)
    }

    /// Takes whole records; `position` is that of the last of them that has one.
    ///
    /// # Errors
    /// [`LogError::Pending`], [`LogError::TooLong`]: nothing was taken.
    pub fn append(&mut self, records: &[u8], position: u64) -> Result<(), LogError> {
        if records.len() > APPEND_BYTES_MAX {
            return Err(LogError::TooLong { bytes: records.len(), limit: APPEND_BYTES_MAX });
        }
        let bytes = self.pending_bytes + records.len();
        // One that is longer than anything that may wait goes alone.
        if bytes > PENDING_BYTES_MAX && self.pending_bytes > 0 {
            return Err(LogError::Pending { bytes: self.pending_bytes, limit: PENDING_BYTES_MAX });
        }
        let start = BATCH_HEAD_BYTES + self.pending_bytes;
        let needed = (start + records.len()).next_multiple_of(BLOCK_BYTES);
        if needed > self.batch.len() {
            let mut longer = AlignedBuffer::new(needed.max(2 * self.batch.len()));
            longer[..start].copy_from_slice(&self.batch[..start]);
            self.batch = longer;
        }
        self.batch[start..start + records.len()].copy_from_slice(records);
        (self.pending_bytes, self.appended) = (bytes, position);
        Ok(())
    }

    /// Makes durable what was appended. The position up to which all is.
    ///
    /// # Errors
    /// [`LogError::Files`]: nothing more is durable than before, and the next call tries again.
    pub fn sync(&mut self) -> Result<u64, LogError> {
        if self.pending_bytes == 0 {
            return Ok(self.durable);
        }
        let filled_bytes = BATCH_HEAD_BYTES + self.pending_bytes;
        let batch_bytes = filled_bytes.next_multiple_of(BLOCK_BYTES);
        if self.segment.as_ref().is_none_or(|segment| segment.end + batch_bytes > segment.bytes) {
            self.begin_segment(batch_bytes)?;
        }
        let Some(segment) = &mut self.segment else { return Ok(self.durable) };
        let bytes = u32::try_from(self.pending_bytes).unwrap_or(u32::MAX);
        BatchHead { bytes, after: self.durable, position: self.appended }.write(segment.id, &mut self.batch);
        // Small ones take zeroes along to blocks that were never written.
        let (end, ahead_bytes) = (segment.end + batch_bytes, self.plan.ahead_bytes);
        let takes_along = end > segment.ready && batch_bytes <= ahead_bytes / SMALL_BATCHES_AHEAD;
        let written_bytes = if takes_along { ahead_bytes.min(segment.bytes - segment.end) } else { batch_bytes };
        self.batch[filled_bytes..written_bytes].fill(0);
        let written = segment.file.write_through(segment.end as u64, &self.batch[..written_bytes]);
        if let Err(errno) = written {
            let path = segment_path(&self.directory, segment.number);
            return Err(LogError::Files { what: "writing", path, errno });
        }
        segment.ready = segment.ready.max(segment.end + written_bytes);
        segment.end = end;
        (self.pending_bytes, self.durable) = (0, self.appended);
        Ok(self.durable)
    }

    /// Makes the next segment, with room for a batch of so many bytes.
    fn begin_segment(&mut self, batch_bytes: usize) -> Result<(), LogError> {
        let number = self.next_number;
        // Whatever comes of it, the number is not used again.
        self.next_number += 1;
        let id = RandomState::new().build_hasher().finish();
        let bytes = self.plan.segment_bytes.max(BLOCK_BYTES + batch_bytes);
        let path = segment_path(&self.directory, number);
        let new = path.with_extension(&UNNAMED[1..]);
        let made = self.make_segment(&new, &path, bytes, SegmentHead { after: self.durable, id });
        let file = match made {
            Ok(file) => file,
            Err(errno) => {
                // One that is left has nothing in it, and ends at the position at which it begins.
                let _ = self.files.remove(&new);
                let _ = self.files.remove(&path);
                return Err(LogError::Files { what: "making", path, errno });
            }
        };
        if let Some(full) =
            self.segment.replace(Segment { number, file, id, end: BLOCK_BYTES, ready: BLOCK_BYTES, bytes })
        {
            self.filled.push_back((full.number, self.durable));
        }
        Ok(())
    }

    fn make_segment(
        &self,
        new: &Path,
        path: &Path,
        bytes: usize,
        head: SegmentHead,
    ) -> Result<Box<dyn StoredFile>, Errno> {
        let mut block = AlignedBuffer::new(BLOCK_BYTES);
        head.write(&mut block[..SEGMENT_HEAD_BYTES]);
        let file = self.files.create(new)?;
        file.reserve(bytes as u64)?;
        file.write_through(0, &block)?;
        self.files.rename_new(new, path)?;
        self.files.sync_directory(&self.directory)?;
        Ok(file)
    }

    /// Removes segments that have nothing beyond a position up to which a lasting snapshot has everything. How many.
    ///
    /// # Errors
    /// [`LogError::Files`]: the rest stays, and is removed by a later call.
    pub fn truncate(&mut self, position: u64) -> Result<usize, LogError> {
        let mut removed = 0;
        // Oldest first. A loss of power may bring back any of them: whoever reads leaves those out.
        while let Some((number, _)) = self.filled.front().copied().filter(|(_, last)| *last <= position) {
            let path = segment_path(&self.directory, number);
            match self.files.remove(&path) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(LogError::Files { what: "removing", path, errno }),
            }
            self.filled.pop_front();
            removed += 1;
        }
        Ok(removed)
    }
}

/// Removes segments that never got their names.
fn remove_unnamed(files: &dyn FileLayer, directory: &Path) -> Result<(), LogError> {
    let failed = |errno| LogError::Files { what: "clearing", path: directory.to_owned(), errno };
    let mut unnamed = Vec::new();
    let listed = files.list(directory, &mut |name| {
        if name.ends_with(UNNAMED) {
            unnamed.push(directory.join(name));
        }
    });
    listed.map_err(failed)?;
    unnamed.iter().try_for_each(|path| files.remove(path)).map_err(failed)
}
