//! One dependent random load after another over shared memory: what a lookup that leaves the caches cannot be faster than.
//!
//! Every cache line of the memory names the next one, in a random order that comes round to all of them before it repeats.
//! The memory is a memfd of ordinary pages, present beforehand, as a process's state is.

use std::slice;
use std::sync::atomic::{AtomicU64, Ordering};

use super::mapping::Mapping;
use super::placement::Pinned;
use super::{Batch, Config, FloorError, Samples, timed};
use crate::interleave::{Series, SeriesError};

const NAME: &str = "one dependent random load";
const LINE_BYTES: usize = 64;
const LINE_WORDS: usize = LINE_BYTES / size_of::<AtomicU64>();
/// Any odd number: the order is the same in every run.
const SEED: u64 = 0x2545_f491_4f6c_dd1d;

/// Lines of shared memory, each of which names the next.
#[derive(Debug)]
pub struct PointerChase {
    config: Config,
    mapping: Mapping,
    lines: usize,
    at: u64,
}

impl PointerChase {
    /// Makes memory of `footprint_bytes` and links its lines.
    ///
    /// # Errors
    /// [`FloorError::System`] if there is too little memory.
    pub fn open(config: &Config, footprint_bytes: usize) -> Result<Self, FloorError> {
        let lines = (footprint_bytes / LINE_BYTES).max(2);
        let mapping = Mapping::create(lines * LINE_BYTES)?;
        let chase = Self { config: config.clone(), mapping, lines, at: 0 };
        for (line, next) in one_cycle(lines).into_iter().enumerate() {
            chase.words()[line * LINE_WORDS].store(next, Ordering::Relaxed);
        }
        Ok(chase)
    }

    fn words(&self) -> &[AtomicU64] {
        let memory = self.mapping.bytes(0, self.lines * LINE_BYTES);
        // SAFETY: `bytes` checked the range; it starts on a page, is mapped as long as `self` lives, and is used as atomics
        // only, which are valid for any bytes.
        unsafe { slice::from_raw_parts(memory.as_ptr().cast(), self.lines * LINE_WORDS) }
    }

    /// One round of loads.
    ///
    /// # Errors
    /// [`FloorError::System`] if the thread cannot be pinned.
    #[allow(clippy::cast_possible_truncation, reason = "the number of a line in memory")]
    pub fn round(&mut self, batch: Batch) -> Result<Samples, FloorError> {
        let _pin = Pinned::to(self.config.placement.caller_cpu())?;
        let mut at = self.at;
        let words = self.words();
        let samples = timed(batch, || {
            at = words[at as usize * LINE_WORDS].load(Ordering::Relaxed);
            Ok(())
        });
        self.at = at;
        samples
    }
}

impl Series for PointerChase {
    fn label(&self) -> String {
        self.config.label(NAME)
    }

    fn round(&mut self, batch: Batch) -> Result<Samples, SeriesError> {
        Ok(Self::round(self, batch)?)
    }
}

/// For each line its successor, so that all lines lie on one cycle (Sattolo's shuffle).
fn one_cycle(lines: usize) -> Vec<u64> {
    let mut successors: Vec<u64> = (0..lines as u64).collect();
    let mut random = SEED;
    for line in (1..lines).rev() {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        #[allow(clippy::cast_possible_truncation, reason = "a remainder below a usize")]
        successors.swap(line, (random % line as u64) as usize);
    }
    successors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::floors::Placement;

    #[test]
    fn a_chase_comes_by_every_line_once_before_it_repeats() {
        const LINES: usize = 1000;
        let mut chase = PointerChase::open(&Config::new(Placement::Free), LINES * LINE_BYTES).expect("little memory");
        let mut seen = vec![false; LINES];
        for _ in 0..LINES {
            chase.round(Batch { warm_up: 0, samples: 1 }).expect("it loads");
            let line = usize::try_from(chase.at).expect("a line");
            assert!(!std::mem::replace(&mut seen[line], true), "line {line} again");
        }
        assert_eq!(chase.at, 0);
    }
}
