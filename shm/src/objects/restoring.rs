//! A segment whose objects come back while it is used already.
//!
//! The hashes of all keys are divided into *pages* by their highest bits. A page is *absent* until all of its objects are in,
//! as [stubs](super::stub) or with their values. Of an absent page nothing is known: neither that a key has an object nor that
//! it has none.
//!
//! ```text
//! header word   page bits + 1 (8) │ absent pages (56);  0 = nothing is absent
//! bits          one a page: it is in
//! ```
//!
//! Invariants:
//! 1. The word is not 0 from the making of the segment until the last page is in, and 0 from then on: whoever has found it to
//!    be 0 looks no more.
//! 2. A page's bit is set by the transaction that counts it, after all of its objects are in the index. A reader that sees the bit
//!    and then looks for a key sees what there is.
//! 3. No key of an absent page is put or deleted: what comes in later could take that back.

use super::error::StateError;
use super::layout::header::RESTORING;
use super::lock::Locked;
use super::transaction::Transaction;
use super::words::Space;

const ABSENT_AT: u32 = 8;
const BITS_PER_WORD: u64 = 64;

/// What the word says: some page is absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Restoring {
    pub(crate) page_bits: u32,
    pub(crate) absent_pages: u64,
}

impl Restoring {
    /// `None` if nothing is absent.
    #[inline]
    pub(crate) fn load(space: Space<'_>) -> Result<Option<Self>, StateError> {
        match space.words.load_acquire(RESTORING) {
            0 => Ok(None),
            word => Self::of_word(space, word).map(Some),
        }
    }

    #[cold]
    fn of_word(space: Space<'_>, word: u64) -> Result<Self, StateError> {
        #[allow(clippy::cast_possible_truncation, reason = "eight bits")]
        let page_bits = (word as u8).checked_sub(1).map(u32::from);
        let page_bits = page_bits.filter(|&bits| bits <= space.layout.page_bits_max());
        let absent_pages = word >> ABSENT_AT;
        match page_bits {
            Some(page_bits) if absent_pages >= 1 && absent_pages <= 1 << page_bits => {
                Ok(Self { page_bits, absent_pages })
            }
            _ => Err(StateError::corrupt("word of absent pages", RESTORING)),
        }
    }

    fn word(self) -> u64 {
        if self.absent_pages == 0 { 0 } else { u64::from(self.page_bits + 1) | self.absent_pages << ABSENT_AT }
    }

    /// The page of a hash.
    #[allow(clippy::cast_possible_truncation, reason = "fewer bits than 32")]
    pub(crate) fn page_of(self, hash: u64) -> u32 {
        hash.checked_shr(u64::BITS - self.page_bits).unwrap_or(0) as u32
    }

    /// A page that is absent.
    #[cfg(not(loom))]
    pub(crate) fn first_absent(self, space: Space<'_>) -> u32 {
        (0..1_u32 << self.page_bits).find(|&page| !self.is_in(space, page)).unwrap_or(0)
    }

    /// Whether all objects of a page are in. Pages that there are not are not in.
    pub(crate) fn is_in(self, space: Space<'_>, page: u32) -> bool {
        let (at, bit) = bit_of(space, page);
        u64::from(page) < 1 << self.page_bits && space.words.load_acquire(at) & bit != 0
    }
}

fn bit_of(space: Space<'_>, page: u32) -> (usize, u64) {
    let word = usize::try_from(u64::from(page) / BITS_PER_WORD).unwrap_or(usize::MAX);
    (space.layout.pages + word.min(space.layout.page_words - 1), 1 << (u64::from(page) % BITS_PER_WORD))
}

/// Creator: all pages are absent.
#[cfg(not(loom))]
pub(crate) fn begin(space: Space<'_>, page_bits: u32) {
    let all = Restoring { page_bits, absent_pages: 1 << page_bits };
    space.words.store(RESTORING, all.word());
}

/// Writer, under the lock: whether the objects of a hash's page are in.
#[inline]
pub(crate) fn ensure_in(space: Space<'_>, hash: u64) -> Result<(), StateError> {
    if space.words.load(RESTORING) == 0 { Ok(()) } else { ensure_page_in(space, hash) }
}

#[cold]
fn ensure_page_in(space: Space<'_>, hash: u64) -> Result<(), StateError> {
    match Restoring::load(space)? {
        Some(restoring) if !restoring.is_in(space, restoring.page_of(hash)) => {
            Err(StateError::Away { page: restoring.page_of(hash), version: None })
        }
        _ => Ok(()),
    }
}

/// All objects of a page are in the index now. False if it was in before.
pub(crate) fn page_is_in(locked: &Locked<'_>, page: u32) -> Result<bool, StateError> {
    let space = locked.space();
    let Some(restoring) = Restoring::load(space)? else { return Ok(false) };
    if u64::from(page) >= 1 << restoring.page_bits {
        return Err(StateError::corrupt("number of a page", RESTORING));
    }
    if restoring.is_in(space, page) {
        return Ok(false);
    }
    let (at, bit) = bit_of(space, page);
    let mut transaction = Transaction::begin(locked)?;
    transaction.store(at, transaction.load(at) | bit)?;
    let left = Restoring { absent_pages: restoring.absent_pages - 1, ..restoring };
    transaction.store(RESTORING, left.word())?;
    transaction.commit();
    Ok(true)
}
