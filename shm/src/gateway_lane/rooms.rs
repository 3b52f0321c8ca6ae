//! Room for replies in a gateway's lane: which block of the reply half belongs to which cell.
//!
//! The map and the records are private memory of the server: no peer writes them. A block is its cell's from its reservation
//! until the cell's caller is done with the answer, or until the reservation is given up.
//!
//! Invariants:
//! 1. No two blocks overlap that are reserved or answered with.
//! 2. A block that is being filled (a driver may receive into it) is given to nobody else, whatever the cells say: they lie
//!    in memory that the client writes.

use std::sync::atomic::AtomicU8;

use crate::arena::{Block, Buddy, map_bytes};
use crate::cell::Cell;

/// What is noted of a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Record {
    /// It has no block.
    None,
    /// Its block is being filled.
    Filling(Block),
    /// It was answered with this block in this generation.
    Answered(u32, Block),
}

/// The blocks of one lane's reply half.
#[derive(Debug)]
pub(super) struct ReplyRooms {
    map: Box<[AtomicU8]>,
    records: Box<[Record]>,
}

impl ReplyRooms {
    pub(super) fn new(arena_bytes: usize, cells: usize) -> Self {
        let map = (0..map_bytes(arena_bytes)).map(|_| AtomicU8::new(0)).collect();
        Self { map, records: vec![Record::None; cells].into() }
    }

    fn buddy(&self) -> Buddy<'_> {
        Buddy::new(&self.map)
    }

    /// A block of at least `bytes` for the answer in cell `index`; `None` if there is no room, or one is being filled for it.
    pub(super) fn reserve(&mut self, cells: &[Cell], index: usize, bytes: usize) -> Option<Block> {
        match *self.records.get(index)? {
            Record::Filling(_) => return None,
            // Its caller has begun another call with this cell, so it is done with the last one's answer.
            Record::Answered(..) => self.give_back(index),
            Record::None => {}
        }
        let block = self.buddy().allocate(bytes).or_else(|| {
            self.sweep(cells);
            self.buddy().allocate(bytes)
        })?;
        self.records[index] = Record::Filling(block);
        Some(block)
    }

    /// The block of a cell was filled, and the cell is answered with it.
    pub(super) fn answered(&mut self, index: usize, generation: u32) {
        if let Some(record) = self.records.get_mut(index)
            && let Record::Filling(block) = *record
        {
            *record = Record::Answered(generation, block);
        }
    }

    /// The block of a cell is not needed.
    pub(super) fn give_back(&mut self, index: usize) {
        let Some(record) = self.records.get_mut(index) else { return };
        if let Record::Filling(block) | Record::Answered(_, block) = std::mem::replace(record, Record::None) {
            self.buddy().free(block);
        }
    }

    /// Gives back the blocks of all cells whose callers are done with them.
    fn sweep(&mut self, cells: &[Cell]) {
        for (index, cell) in cells.iter().enumerate() {
            if let Some(Record::Answered(generation, _)) = self.records.get(index)
                && !cell.uses_block(*generation)
            {
                self.give_back(index);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_that_is_being_filled_is_given_to_nobody_else_whatever_the_cells_say() {
        let cells: Vec<Cell> = (0..4).map(|_| Cell::new()).collect();
        let mut rooms = ReplyRooms::new(4096, 4);
        // All cells look as if nobody used their blocks.
        assert!(rooms.reserve(&cells, 0, 2048).is_some());
        assert!(rooms.reserve(&cells, 0, 1).is_none(), "one at a time for a cell");
        assert!(rooms.reserve(&cells, 1, 2048).is_some());
        assert!(rooms.reserve(&cells, 2, 1).is_none());
        rooms.give_back(1);
        assert!(rooms.reserve(&cells, 2, 2048).is_some());
        assert!(rooms.reserve(&cells, 4, 1).is_none(), "there are four cells");
    }

    #[test]
    fn an_answers_block_is_free_when_its_caller_is_done_with_it() {
        let cells: Vec<Cell> = (0..2).map(|_| Cell::new()).collect();
        let mut rooms = ReplyRooms::new(2048, 2);
        cells[0].arm(1);
        assert!(rooms.reserve(&cells, 0, 2048).is_some());
        cells[0].answer(1, |_| ()).unwrap();
        rooms.answered(0, 1);
        assert!(rooms.reserve(&cells, 1, 1).is_none(), "the caller still reads it");
        cells[0].release(1);
        assert!(rooms.reserve(&cells, 1, 2048).is_some());
    }
}
