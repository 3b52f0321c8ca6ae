//! The reply ledger: which block of the reply half each cell's answer lies in.
//!
//! Memory: a segment of its own that the workers of the process and the server map; the client does not, so it cannot
//! make workers write where they should not. Workers of one process share a trust domain, the server trusts none of it.
//!
//! A block lives exactly as long as its cell's generation: a worker makes it for (cell, generation), the client's
//! `release` of that cell gives it back, and a worker that needs memory sweeps what was given back. So a block needs no
//! owner tag: a dead worker's block belongs to a cell that the server answers and the client then releases.
//!
//! Invariants:
//! 1. The map and the records are changed under `lock` only, whose value is the holder's tag.
//! 2. A record (generation, block) is written after the map allocated its block and cleared before the map frees it, so
//!    a worker killed in between loses at most one block, and [`Ledger::recover`] rebuilds the map from the records.
//! 3. `recover` is bounded by the number of cells and tolerates any junk; it may itself be interrupted and repeated.

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::arena::{Block, Buddy, map_bytes, order_for};
use crate::cell::Cell;
use crate::fault::{self, Step};
use crate::layout::LaneLayout;
use crate::segment::Segment;
use crate::sync::{sleep_word, wake_word};
use crate::tag::WorkerTag;

/// How long a worker waits for another one that holds the lock. The holder works for microseconds; when it was killed,
/// the server takes milliseconds to notice and recover; past this something is wrong with the host.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(5);
/// Polls before the wait for the lock becomes a sleep.
const LOCK_POLLS: u32 = 64;

const RECORD_FREE: u64 = 0;

/// Why no block could be had for a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no block of {needed_bytes} bytes is free in the reply arena (largest free: {free_bytes})")]
pub struct ReplyArenaFull {
    /// Bytes of the largest free block.
    pub free_bytes: u64,
    /// Bytes that were needed.
    pub needed_bytes: u64,
}

impl ReplyArenaFull {
    /// Whether not even an empty arena has such a block.
    pub(crate) fn is_hopeless(self, layout: &LaneLayout) -> bool {
        self.needed_bytes > u64::from(layout.geometry.reply_arena_bytes)
    }
}

#[repr(C, align(128))]
#[derive(Debug)]
struct Header {
    /// Tag of the worker inside, or 0.
    lock: AtomicU32,
    reserved: [AtomicU32; 31],
}

/// A mapped reply ledger.
#[derive(Debug)]
pub(crate) struct Ledger {
    segment: Segment,
    layout: LaneLayout,
}

/// (generation, order, offset in smallest blocks, in-use bit) in one word.
fn pack(generation: u32, block: Block) -> u64 {
    let leaf = u64::from(block.offset) / crate::arena::BLOCK_BYTES_MIN as u64;
    u64::from(generation) << 32 | leaf << 8 | u64::from(block.order) << 1 | 1
}

#[allow(clippy::cast_possible_truncation, reason = "fields of the word")]
fn unpack(record: u64) -> Option<(u32, Block)> {
    if record & 1 == 0 {
        return None;
    }
    let leaf = (record >> 8) as u32 & 0x00ff_ffff;
    let offset = leaf.checked_mul(crate::arena::BLOCK_BYTES_MIN as u32)?;
    Some(((record >> 32) as u32, Block { offset, order: (record >> 1) as u8 & 0x1f }))
}

impl Ledger {
    pub(crate) fn new(segment: Segment, layout: LaneLayout) -> Self {
        assert_eq!(segment.bytes(), layout.ledger_bytes(), "the segment was attached with the layout's size");
        Self { segment, layout }
    }

    pub(crate) fn segment(&self) -> &Segment {
        &self.segment
    }

    fn header(&self) -> &Header {
        // SAFETY: `Header` is atomics only and is the only type at the start of a ledger.
        unsafe { self.segment.place(0) }
    }

    fn records(&self) -> &[AtomicU64] {
        // SAFETY: atomics; the layout gives this range to the records alone.
        unsafe { self.segment.table(self.layout.ledger_records, self.layout.geometry.cells as usize) }
    }

    fn buddy(&self) -> Buddy<'_> {
        let bytes = map_bytes(self.layout.geometry.reply_arena_bytes as usize);
        // SAFETY: atomics; the layout gives this range to the map alone.
        Buddy::new(unsafe { self.segment.table::<AtomicU8>(self.layout.ledger_map, bytes) })
    }

    /// A block of at least `bytes` for the answer of `generation` in cell `index`.
    pub(crate) fn reserve(
        &self,
        worker: WorkerTag,
        cells: &[Cell],
        index: usize,
        generation: u32,
        bytes: usize,
    ) -> Result<Block, ReplyArenaFull> {
        let full = |free_bytes: usize| ReplyArenaFull { free_bytes: free_bytes as u64, needed_bytes: bytes as u64 };
        if index >= self.records().len() {
            // A client names cells; its worker need not have looked whether this one exists.
            return Err(full(0));
        }
        let _lock = self.lock(worker).ok_or_else(|| full(0))?;
        fault::point(Step::LedgerLocked);
        // A record of an earlier generation of this very cell is given back: its caller has made a new call with it. If its
        // block is of the size that is needed, it changes hands without a look at the map.
        match unpack(self.records()[index].load(Ordering::Relaxed)) {
            Some((_, block)) if order_for(bytes) == Some(block.order) => {
                self.records()[index].store(pack(generation, block), Ordering::Relaxed);
                fault::point(Step::LedgerRecorded);
                return Ok(block);
            }
            _ => self.give_back(index),
        }
        if let Some(block) = self.allocate(index, generation, bytes) {
            return Ok(block);
        }
        self.sweep(cells);
        self.allocate(index, generation, bytes).ok_or_else(|| full(self.buddy().largest_free_bytes()))
    }

    /// Gives the block back that was reserved for `index` and is not needed.
    pub(crate) fn unreserve(&self, worker: WorkerTag, index: usize) {
        if index < self.records().len()
            && let Some(_lock) = self.lock(worker)
        {
            self.give_back(index);
        }
    }

    fn allocate(&self, index: usize, generation: u32, bytes: usize) -> Option<Block> {
        let block = self.buddy().allocate(bytes)?;
        fault::point(Step::LedgerAllocated);
        self.records()[index].store(pack(generation, block), Ordering::Relaxed);
        fault::point(Step::LedgerRecorded);
        Some(block)
    }

    fn give_back(&self, index: usize) {
        if let Some((_, block)) = unpack(self.records()[index].load(Ordering::Relaxed)) {
            self.records()[index].store(RECORD_FREE, Ordering::Relaxed);
            fault::point(Step::LedgerRecordCleared);
            self.buddy().free(block);
            fault::point(Step::LedgerGivenBack);
        }
    }

    /// Gives back the blocks of all cells whose callers are done with them.
    fn sweep(&self, cells: &[Cell]) {
        for (index, cell) in cells.iter().enumerate() {
            if let Some((generation, _)) = unpack(self.records()[index].load(Ordering::Relaxed))
                && !cell.uses_block(generation)
            {
                self.give_back(index);
            }
        }
    }

    /// Server: worker `dead` is dead. Frees its lock, after making the map agree with the records again. A lock that an
    /// earlier life of it left, or that nobody can hold, was spoiled and is freed too.
    pub(crate) fn recover(&self, dead: WorkerTag) {
        let lock = self.header().lock.load(Ordering::Acquire);
        if lock == 0 || WorkerTag::from_word(lock).is_some_and(|holder| !holder.is_life_up_to(dead)) {
            return;
        }
        self.buddy().clear();
        for record in self.records() {
            if let Some((_, block)) = unpack(record.load(Ordering::Relaxed))
                && !self.buddy().reserve(block)
            {
                record.store(RECORD_FREE, Ordering::Relaxed);
            }
        }
        self.header().lock.store(0, Ordering::Release);
        wake_word(&self.header().lock);
    }

    fn lock(&self, worker: WorkerTag) -> Option<Lock<'_>> {
        let word = &self.header().lock;
        let take = || word.compare_exchange(0, worker.word(), Ordering::Acquire, Ordering::Relaxed).is_ok();
        if take() {
            return Some(Lock(word));
        }
        let start = Instant::now();
        let mut polls = 0;
        loop {
            if take() {
                return Some(Lock(word));
            }
            polls += 1;
            if polls <= LOCK_POLLS {
                crate::sync::pause();
            } else if start.elapsed() > LOCK_WAIT_MAX {
                return None;
            } else {
                // Unlocking wakes nobody: contention is rare and short, so waiters look again after this instead.
                sleep_word(word, word.load(Ordering::Relaxed), Duration::from_micros(50));
            }
        }
    }
}

struct Lock<'a>(&'a AtomicU32);

impl Drop for Lock<'_> {
    fn drop(&mut self) {
        self.0.store(0, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::geometry_for;

    const WORKER: WorkerTag = WorkerTag::new(3, 9);
    const HALF: usize = 1 << 20;

    fn ledger() -> Ledger {
        let layout = LaneLayout::new(&geometry_for(1 << 20, 4)).unwrap();
        Ledger::new(Segment::create("ledger", layout.ledger_bytes()).unwrap(), layout)
    }

    #[test]
    fn a_block_is_free_again_once_its_cell_is_released() {
        let ledger = ledger();
        let cells: Vec<Cell> = (0..4).map(|_| Cell::new()).collect();
        cells[0].arm(1);
        ledger.reserve(WORKER, &cells, 0, 1, HALF).unwrap();
        cells[1].arm(1);
        let full = ledger.reserve(WORKER, &cells, 1, 1, 1).unwrap_err();
        assert_eq!(full, ReplyArenaFull { free_bytes: 0, needed_bytes: 1 });
        cells[0].answer(1, |_| ()).unwrap();
        assert!(ledger.reserve(WORKER, &cells, 1, 1, 1).is_err(), "the caller still reads the answer");
        cells[0].release(1);
        ledger.reserve(WORKER, &cells, 1, 1, HALF).unwrap();
    }

    #[test]
    fn a_dead_holder_of_the_lock_is_recovered_with_all_live_blocks_kept() {
        let ledger = ledger();
        let cells: Vec<Cell> = (0..4).map(|_| Cell::new()).collect();
        cells[0].arm(1);
        let block = ledger.reserve(WORKER, &cells, 0, 1, HALF / 2).unwrap();
        std::mem::forget(ledger.lock(WORKER).unwrap());
        // Dead between the map and the record: the half it took is known to nobody.
        ledger.buddy().allocate(HALF / 2).unwrap();
        ledger.recover(WorkerTag::new(3, 8));
        assert_ne!(ledger.header().lock.load(Ordering::Relaxed), 0, "another life's tag must not unlock");
        ledger.recover(WORKER);
        cells[1].arm(1);
        let other = ledger.reserve(WorkerTag::new(0, 1), &cells, 1, 1, HALF / 2).unwrap();
        assert_ne!(block.offset, other.offset);
    }

    #[test]
    fn junk_in_a_ledger_is_recovered_within_bounds() {
        for junk in [u64::MAX, 1, 0x0000_0001_00ff_ff3f, 0xffff_ffff_0000_0001] {
            let ledger = ledger();
            for record in ledger.records() {
                record.store(junk, Ordering::Relaxed);
            }
            for node in 0..64 {
                ledger.buddy_map_for_tests()[node].store(0xa5, Ordering::Relaxed);
            }
            ledger.header().lock.store(WORKER.word(), Ordering::Relaxed);
            ledger.recover(WORKER);
            let cells: Vec<Cell> = (0..4).map(|_| Cell::new()).collect();
            cells[0].arm(1);
            let _ = ledger.reserve(WORKER, &cells, 0, 1, 4096);
        }
    }

    impl Ledger {
        fn buddy_map_for_tests(&self) -> &[AtomicU8] {
            let bytes = map_bytes(self.layout.geometry.reply_arena_bytes as usize);
            // SAFETY: as in `buddy`.
            unsafe { self.segment.table(self.layout.ledger_map, bytes) }
        }
    }
}
