//! One block of 4 KiB written into a file, and the file synced, again and again: what it takes to make one small thing last. The blocks
//! were all written before, so that the file system has nothing of its own to note.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::{Batch, FloorError, Samples, fill, timed};
use crate::interleave::{Series, SeriesError};

/// Bytes of one write.
const BLOCK_BYTES: usize = 4 << 10;
/// Blocks of the file; they are written in turn.
const BLOCKS: u64 = 4096;

/// The floor, open for rounds; the file is removed when it is dropped.
#[derive(Debug)]
pub struct SyncedWrites {
    path: PathBuf,
    file: File,
    next: u64,
    block: Vec<u8>,
}

impl SyncedWrites {
    /// Into a file of this directory.
    ///
    /// # Errors
    /// [`FloorError::System`] if there is no room.
    pub fn open(directory: &Path) -> Result<Self, FloorError> {
        let path = directory.join("floor-synced-writes");
        let system = FloorError::system::<std::io::Error>;
        let file = File::create(&path).map_err(system("create a floor's file"))?;
        let mut block = vec![0; BLOCK_BYTES];
        fill(&mut block, 1);
        for number in 0..BLOCKS {
            file.write_all_at(&block, number * BLOCK_BYTES as u64).map_err(system("write a floor's file"))?;
        }
        file.sync_all().map_err(system("sync a floor's file"))?;
        Ok(Self { path, file, next: 0, block })
    }

    /// One round: a sample is a write and its sync.
    ///
    /// # Errors
    /// [`FloorError::System`].
    pub fn round(&mut self, batch: Batch) -> Result<Samples, FloorError> {
        let system = FloorError::system::<std::io::Error>;
        timed(batch, || {
            let offset = self.next % BLOCKS * BLOCK_BYTES as u64;
            self.next += 1;
            self.file.write_all_at(&self.block, offset).map_err(system("write a block"))?;
            self.file.sync_all().map_err(system("sync a block"))
        })
    }
}

impl Series for SyncedWrites {
    fn label(&self) -> String {
        "write of 4 KiB and fsync".to_owned()
    }

    fn round(&mut self, batch: Batch) -> Result<Samples, SeriesError> {
        Ok(Self::round(self, batch)?)
    }
}

impl Drop for SyncedWrites {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}
