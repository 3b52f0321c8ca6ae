//! Whose row it is: by which others know whether a worker still lives, as far as the state is concerned.
//!
//! Set when a worker attaches its end, cleared when it gives the end back or, after its death, by the server once all that it
//! was at is settled. Tags never repeat in the life of a process, so a row that names another worker says that the first is
//! gone for good.

use super::layout::row::OWNER;
use super::lock::LockOwner;
use super::words::Space;
use crate::tag::WorkerTag;

/// This worker has the row of its index.
pub(crate) fn set(space: Space<'_>, tag: WorkerTag) {
    space.words.store(owner_at(space, usize::from(tag.index())), u64::from(tag.word()));
}

/// Nobody has this row.
pub(crate) fn clear(space: Space<'_>, row: usize) {
    let at = owner_at(space, row);
    if space.words.load(at) != 0 {
        space.words.store(at, 0);
    }
}

/// Some worker that has a row still, if there is one. A word that is no tag is nobody's.
pub(crate) fn first(space: Space<'_>) -> Option<LockOwner> {
    let words = (0..space.layout.row_count).map(|row| space.words.load_acquire(owner_at(space, row)));
    let mut tags = words.filter_map(|word| u32::try_from(word).ok().and_then(WorkerTag::from_word));
    tags.next().map(LockOwner::Worker)
}

/// Whether the worker with this tag has its row still. A word that is no tag is nobody's.
pub(crate) fn lives(space: Space<'_>, word: u32) -> bool {
    WorkerTag::from_word(word).is_some_and(|tag| {
        let row = usize::from(tag.index());
        row < space.layout.row_count && space.words.load_acquire(owner_at(space, row)) == u64::from(word)
    })
}

fn owner_at(space: Space<'_>, row: usize) -> usize {
    space.layout.row_at(row) + OWNER
}
