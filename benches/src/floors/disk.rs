//! One file written, or read, from its beginning to its end by direct operations of 1 MiB, one after the other: what a disk does
//! when nothing but bytes is asked of it. A write ends with an fsync, and its file is a new one each time, as what it is the
//! floor of makes new files too. Reads are direct, so nothing that the kernel keeps of the file helps them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Instant;

use praas_storage::buffer::AlignedBuffer;
use rustix::fs::{Advice, Mode, OFlags, fadvise};

use super::{Batch, FloorError, Samples};
use crate::interleave::{Series, SeriesError};

/// Bytes of one operation.
const OPERATION_BYTES: usize = 1 << 20;
/// Directories below one another that files are looked for in.
const DEPTH_MAX: usize = 16;

/// What is done to the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Write,
    Read,
}

/// The floor, open for rounds; the file is removed when it is dropped.
#[derive(Debug)]
pub struct SequentialFile {
    direction: Direction,
    path: PathBuf,
    operations: usize,
    buffer: AlignedBuffer,
}

impl SequentialFile {
    /// Writes of so many bytes, a multiple of 1 MiB, into a file of this directory.
    ///
    /// # Errors
    /// [`FloorError::System`] if there is no room, or the file system does no direct writes.
    pub fn writes(directory: &Path, bytes: u64) -> Result<Self, FloorError> {
        let mut buffer = AlignedBuffer::new(OPERATION_BYTES);
        incompressible(&mut buffer);
        let operations = usize::try_from(bytes).unwrap_or(usize::MAX) / OPERATION_BYTES;
        let path = directory.join("floor-writes");
        let mut floor = Self { direction: Direction::Write, path, operations, buffer };
        floor.run_once()?;
        Ok(floor)
    }

    /// Reads of such a file.
    ///
    /// # Errors
    /// As [`SequentialFile::writes`].
    pub fn reads(directory: &Path, bytes: u64) -> Result<Self, FloorError> {
        let mut floor = Self::writes(directory, bytes)?;
        let path = directory.join("floor-reads");
        fs::rename(&floor.path, &path).map_err(FloorError::system("rename a floor's file"))?;
        (floor.direction, floor.path) = (Direction::Read, path);
        Ok(floor)
    }

    /// One round: a sample is the whole file.
    ///
    /// # Errors
    /// [`FloorError::System`].
    pub fn round(&mut self, batch: Batch) -> Result<Samples, FloorError> {
        let mut samples = Samples::empty(1);
        for number in 0..batch.operations() {
            let span_ns = self.run_once()?;
            if number >= batch.warm_up {
                samples.record(span_ns);
            }
        }
        Ok(samples)
    }

    fn run_once(&mut self) -> Result<u64, FloorError> {
        let flags = match self.direction {
            Direction::Write => {
                // What is there of an earlier round.
                let _ = fs::remove_file(&self.path);
                OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::DIRECT | OFlags::CLOEXEC
            }
            Direction::Read => OFlags::RDONLY | OFlags::DIRECT | OFlags::CLOEXEC,
        };
        let system = FloorError::system::<rustix::io::Errno>;
        let begun = Instant::now();
        let open = rustix::fs::open(&self.path, flags, Mode::RUSR | Mode::WUSR);
        let file = open.map_err(system("open a file past the kernel's cache"))?;
        for number in 0..self.operations {
            let offset = (number * OPERATION_BYTES) as u64;
            let (done, action) = match self.direction {
                Direction::Write => (rustix::io::pwrite(&file, &self.buffer, offset), "write directly"),
                Direction::Read => (rustix::io::pread(&file, &mut self.buffer[..], offset), "read directly"),
            };
            if done.map_err(system(action))? != OPERATION_BYTES {
                return Err(system("move a whole mebibyte at once")(rustix::io::Errno::IO));
            }
        }
        if self.direction == Direction::Write {
            rustix::fs::fsync(&file).map_err(system("sync a file"))?;
        }
        Ok(u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }
}

impl Series for SequentialFile {
    fn label(&self) -> String {
        let what = if self.direction == Direction::Write { "writes" } else { "reads" };
        format!("sequential direct {what}, {} MiB", self.operations)
    }

    fn round(&mut self, batch: Batch) -> Result<Samples, SeriesError> {
        Ok(Self::round(self, batch)?)
    }
}

impl Drop for SequentialFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Has the kernel drop what it keeps of the files below a directory. What was not written to the disk yet stays; names and
/// places of files are still known.
///
/// # Errors
/// [`FloorError::System`] if a directory or file cannot be looked at.
pub fn drop_cached_files(directory: &Path) -> Result<(), FloorError> {
    drop_cached(directory, DEPTH_MAX).map_err(FloorError::system("drop what is cached of files"))
}

fn drop_cached(directory: &Path, depth: usize) -> std::io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() && depth > 0 {
            drop_cached(&entry.path(), depth - 1)?;
        } else if kind.is_file() {
            fadvise(File::open(entry.path())?, 0, None, Advice::DontNeed)?;
        }
    }
    Ok(())
}

/// Bytes that no disk makes less of.
fn incompressible(bytes: &mut [u8]) {
    let mut word = 0x9e37_79b9_7f4a_7c15_u64;
    for chunk in bytes.chunks_exact_mut(8) {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        chunk.copy_from_slice(&word.to_le_bytes());
    }
}
