//! Transactions: several stores of the lock's owner that happen all or not at all, whenever their writer dies.
//!
//! The undo log keeps the old value of each word before it is stored. Invariants:
//! 1. An entry and the count that covers it are stored before the word is. A death in between is rolled back in reverse.
//! 2. What readers see of a transaction is one word, the *commit word*, stored last. Before it is stored the log names it
//!    and its new value, which differs from its old one. A death after that store is a transaction that happened.
//! 3. The log is empty (no entries, no commit word, no follow-up) whenever the lock is free. The count is cleared before
//!    the commit word's name is: entries without a name mean "roll back".
//! 4. A *follow-up* is named before the commit word is stored, is idempotent, and is done before the log is cleared.
//! 5. Settling is idempotent: killed at any of its steps, it leaves a log that says the same or says that all is done.
//! 6. An offset read back from the log is used only if it is inside the segment.

use std::mem::ManuallyDrop;

use super::error::StateError;
use super::index;
use super::layout::log;
use super::limits::LOG_ENTRIES_MAX;
use super::lock::Locked;
use super::words::{Space, store_word};
use crate::sync::{AtomicU64, Ordering};

/// Stores that are taken back unless they are committed.
#[derive(Debug)]
pub(crate) struct Transaction<'a> {
    space: Space<'a>,
    log: &'a [AtomicU64; log::WORDS],
    count: usize,
    open: bool,
}

impl<'a> Transaction<'a> {
    /// An empty transaction. The log was left empty by whoever had the lock before.
    #[inline(always)]
    pub(crate) fn begin(locked: &Locked<'a>) -> Result<Self, StateError> {
        let space = locked.space();
        let log = space.words.region(space.layout.log);
        let said = |word: usize| log[word].load(Ordering::Relaxed);
        if said(log::COUNT) | said(log::COMMIT_AT) | said(log::FOLLOW_UP) != 0 {
            return Err(StateError::corrupt("undo log of a free lock", space.layout.log));
        }
        Ok(Self { space, log, count: 0, open: true })
    }

    #[inline]
    pub(crate) fn space(&self) -> Space<'a> {
        self.space
    }

    #[inline]
    pub(crate) fn load(&self, at: usize) -> u64 {
        self.space.words.load(at)
    }

    /// Stores a word, so that it can be taken back.
    #[inline]
    pub(crate) fn store(&mut self, at: usize, value: u64) -> Result<(), StateError> {
        let word = self.space.words.at(at);
        let before = word.load(Ordering::Relaxed);
        if before == value {
            return Ok(());
        }
        self.keep_value(at, before)?;
        store_word(word, value);
        Ok(())
    }

    /// Has a word's value put back if this transaction is, whoever writes over it meanwhile.
    #[inline]
    pub(crate) fn keep(&mut self, at: usize) -> Result<(), StateError> {
        self.keep_value(at, self.load(at))
    }

    #[inline]
    fn keep_value(&mut self, at: usize, before: u64) -> Result<(), StateError> {
        let (entries, _) = self.log[log::ENTRIES..].as_chunks::<2>();
        let Some([place, value]) = entries.get(self.count) else {
            // By the argument at the constant this takes links that lead further than any of ours.
            return Err(StateError::corrupt("undo log, which has no room", self.space.layout.log));
        };
        store_word(place, at as u64);
        store_word(value, before);
        self.count += 1;
        store_word(&self.log[log::COUNT], self.count as u64);
        Ok(())
    }

    /// All stores stay. For transactions that readers do not see.
    #[inline(always)]
    pub(crate) fn commit(self) {
        // Nothing of it is moved or looked at again.
        let transaction = ManuallyDrop::new(self);
        store_word(&transaction.log[log::COUNT], 0);
    }

    /// Stores the commit word, with which all happens.
    #[inline]
    pub(crate) fn publish(mut self, at: usize, value: u64) -> Result<(), StateError> {
        self.name_commit_word(at, value)?;
        self.open = false;
        self.space.words.store(at, value);
        clear(self.space);
        Ok(())
    }

    /// The same for the split that makes bucket `new`, which is finished after the commit.
    pub(crate) fn publish_split(mut self, at: usize, value: u64, new: usize) -> Result<(), StateError> {
        self.space.words.store(self.space.layout.log + log::FOLLOW_UP, new as u64);
        self.name_commit_word(at, value)?;
        self.open = false;
        self.space.words.store(at, value);
        let finished = index::finish_split(self.space, new);
        clear(self.space);
        finished
    }

    fn name_commit_word(&self, at: usize, value: u64) -> Result<(), StateError> {
        let (words, log_at) = (self.space.words, self.space.layout.log);
        if words.load(at) == value {
            // A word that says already what it shall say (invariant 2): a block that is free and in the index.
            return Err(StateError::corrupt("commit word, which has its new value", at));
        }
        words.store(log_at + log::COMMIT_VALUE, value);
        words.store(log_at + log::COMMIT_AT, at as u64);
        Ok(())
    }
}

impl Drop for Transaction<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.open {
            roll_back(self.space, self.count);
            clear(self.space);
        }
    }
}

/// Ends the log in the order of invariant 3.
fn clear(space: Space<'_>) {
    let (words, at) = (space.words, space.layout.log);
    words.store(at + log::COUNT, 0);
    words.store(at + log::COMMIT_AT, 0);
    if words.load(at + log::FOLLOW_UP) != 0 {
        words.store(at + log::FOLLOW_UP, 0);
    }
}

/// Puts the old values of the first `count` entries back, the last first. Entries that cannot be ours are left out: what
/// they did is found by whoever meets it.
fn roll_back(space: Space<'_>, count: usize) {
    let entries = space.layout.log + log::ENTRIES;
    for entry in (0..count.min(LOG_ENTRIES_MAX)).rev().map(|index| entries + 2 * index) {
        if let Ok(at) = usize::try_from(space.words.load(entry))
            && at < space.words.count()
        {
            space.words.store(at, space.words.load(entry + 1));
        }
    }
}

/// Server: rolls back or finishes what a dead owner of the lock was at.
pub(crate) fn settle(locked: &Locked<'_>) -> Result<Settled, StateError> {
    let space = locked.space();
    let (words, at) = (space.words, space.layout.log);
    let count = words.load_acquire(at + log::COUNT);
    let (commit_at, follow_up) = (words.load(at + log::COMMIT_AT), words.load(at + log::FOLLOW_UP));
    let inside = |word: u64| usize::try_from(word).ok().filter(|&index| index < words.count());
    let count = usize::try_from(count).ok().filter(|&count| count <= LOG_ENTRIES_MAX);
    let count = count.ok_or_else(|| StateError::corrupt("count of the undo log", at + log::COUNT))?;
    let commit_at = inside(commit_at).ok_or_else(|| StateError::corrupt("commit word's place", at + log::COMMIT_AT))?;
    let happened = commit_at != 0 && words.load_acquire(commit_at) == words.load(at + log::COMMIT_VALUE);
    if happened && follow_up != 0 {
        let new = inside(follow_up).ok_or_else(|| StateError::corrupt("follow-up", at + log::FOLLOW_UP))?;
        index::finish_split(space, new)?;
    }
    if !happened {
        roll_back(space, count);
    }
    let settled = match (happened, count) {
        (_, 0) => Settled::Nothing,
        (true, _) => Settled::Finished,
        (false, _) => Settled::RolledBack,
    };
    clear(space);
    Ok(settled)
}

/// What settling the undo log came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Settled {
    /// Nothing was open.
    Nothing,
    /// A transaction had happened and was finished.
    Finished,
    /// A transaction had not happened and was taken back.
    RolledBack,
}
