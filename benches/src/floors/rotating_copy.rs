//! A plain copy of a private block into shared memory whose pages exist, to one place after the other: what storing a large
//! value costs at best when each one gets a place of its own.

use std::hint::black_box;
use std::ptr;

use super::mapping::Mapping;
use super::placement::Pinned;
use super::{Batch, Config, FloorError, Samples, fill, timed};
use crate::interleave::{Series, SeriesError};

const NAME: &str = "memcpy into shared memory";

/// Shared places that one private block is copied to, in turn.
#[derive(Debug)]
pub struct RotatingCopy {
    config: Config,
    mapping: Mapping,
    source: Vec<u8>,
    places: usize,
    copies: usize,
}

impl RotatingCopy {
    /// Makes the memory and touches it.
    ///
    /// # Errors
    /// [`FloorError::System`] if there is too little of it.
    pub fn open(config: &Config, block_bytes: usize, places: usize) -> Result<Self, FloorError> {
        assert!(block_bytes > 0 && places > 0, "something is copied somewhere");
        let mut source = vec![0; block_bytes];
        fill(&mut source, 1);
        let mapping = Mapping::create(block_bytes * places)?;
        Ok(Self { config: config.clone(), mapping, source, places, copies: 0 })
    }

    /// One round of copies.
    ///
    /// # Errors
    /// [`FloorError::System`] if the thread cannot be pinned.
    pub fn round(&mut self, batch: Batch) -> Result<Samples, FloorError> {
        let _pin = Pinned::to(self.config.placement.caller_cpu())?;
        timed(batch, || {
            let place = self.mapping.bytes(self.copies % self.places * self.source.len(), self.source.len());
            // SAFETY: `bytes` checked the range; nobody else knows this mapping, which does not overlap private memory.
            unsafe { ptr::copy_nonoverlapping(self.source.as_ptr(), place.as_ptr(), self.source.len()) };
            black_box(place);
            self.copies += 1;
            Ok(())
        })
    }
}

impl Series for RotatingCopy {
    fn label(&self) -> String {
        self.config.label(NAME)
    }

    fn round(&mut self, batch: Batch) -> Result<Samples, SeriesError> {
        Ok(Self::round(self, batch)?)
    }
}
