//! The duplicate filter: what is remembered of sources that may send the same message again, clients and other hosts.
//!
//! ```text
//! word 0–1  header of the block; its link names the next source of the bucket
//!      2    hash of the source             6–7  sources used before and after it
//!      3    incarnation                    8…   source, 8 words
//!      4    floor: a multiple of 64       16…   window: a bit for each sequence from the floor on
//!      5    when it was used, seconds
//! ```
//!
//! Invariants, between transactions:
//! 1. A sequence in the window is accepted if and only if its bit is set; one below the floor cannot be told. The window
//!    covers the highest sequence and at least [`WINDOW_SEQUENCES`] below it.
//! 2. A higher incarnation begins an empty window; of a lower one nothing is accepted.
//! 3. Sources are in one list by their last use, and in the chain of their bucket.
//! 4. The bit is set by the transaction that puts the message into its queue, or hands it to a call.
//!
//! Messages of another host come by a lane, and once more as a put if their sender does not know what became of them; the
//! filter knows those that came by a lane that *repeats* as well.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::objects::block::{BLOCK_HEADER_WORDS, Block, KIND_AND_LINK, Kind, kind_and_link, link_of};
use crate::objects::error::StateError;
use crate::objects::granule::{Granule, WORDS_PER_GRANULE};
use crate::objects::heap;
use crate::objects::layout::header::{MAIL_SOURCE_NEWEST, MAIL_SOURCE_OLDEST, MAIL_SOURCES};
use crate::objects::lock::Locked;
use crate::objects::transaction::Transaction;
use crate::objects::words::Space;

use praas_protocol::message::{ADDRESS_BYTES, MessageId};

use crate::log_ring::KeptSource;

use super::error::MailError;
use super::limits::{SOURCE_KEPT, SOURCES_MAX, WINDOW_SEQUENCES};
use super::name::{ADDRESS_WORDS, Source};
use super::table::Table;

const HASH: usize = BLOCK_HEADER_WORDS;
const INCARNATION: usize = 3;
const FLOOR: usize = 4;
const USED: usize = 5;
const OLDER: usize = 6;
const NEWER: usize = 7;
const ADDRESS: usize = 8;
const WINDOW: usize = ADDRESS + ADDRESS_WORDS;
/// The floor moves by whole words, so one more than the window has.
const WINDOW_WORDS: u64 = WINDOW_SEQUENCES / 64 + 1;
#[allow(clippy::cast_possible_truncation, reason = "a few")]
const WORDS: usize = WINDOW + WINDOW_WORDS as usize;
#[allow(clippy::cast_possible_truncation, reason = "a few dozen")]
const GRANULES: u32 = WORDS.div_ceil(WORDS_PER_GRANULE) as u32;

/// The record of a source, its block checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Remembered {
    pub(crate) place: Granule,
}

/// What the filter says of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It was not accepted before.
    New,
    /// It was.
    Before,
}

/// The same, of one that may be older than what is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sight {
    Known(Verdict),
    /// It cannot be told: the sequence or incarnation, and the oldest that can.
    TooOld {
        sequence: u64,
        oldest: u64,
    },
}

impl Remembered {
    pub(crate) fn checked(space: Space<'_>, number: u64, at: usize) -> Result<Self, StateError> {
        let place = Granule::checked(number, space.layout, "source of messages", at)?;
        let block = Block::of_kind(space, place, Kind::MailSource)?;
        if block.granules < GRANULES {
            return Err(StateError::corrupt("size of a source's record", place.at()));
        }
        Ok(Self { place })
    }

    pub(crate) fn find(space: Space<'_>, table: Table, source: &Source) -> Result<Option<Self>, StateError> {
        let bucket = table.sources_at(source.hash);
        let mut number = space.words.load(bucket);
        for _ in 0..=SOURCES_MAX {
            if number == 0 {
                return Ok(None);
            }
            let record = Self::checked(space, number, bucket)?;
            if record.is_of(space, source) {
                return Ok(Some(record));
            }
            number = record.next_in_bucket(space);
        }
        Err(StateError::corrupt("chain of sources", bucket))
    }

    /// The record of a source, made if there is none. Making it is a transaction of its own.
    pub(crate) fn ensure(locked: &Locked<'_>, table: Table, source: &Source, now_s: u64) -> Result<Self, MailError> {
        let sources = locked.space().words.load(MAIL_SOURCES);
        Self::ensure_if_room(locked, table, source, now_s)?.ok_or(MailError::SourcesFull { sources, kept: SOURCE_KEPT })
    }

    /// The same; `None` if there is none, and no source has been silent for long enough to be forgotten for it.
    pub(crate) fn ensure_if_room(
        locked: &Locked<'_>,
        table: Table,
        source: &Source,
        now_s: u64,
    ) -> Result<Option<Self>, StateError> {
        if let Some(record) = Self::find(locked.space(), table, source)? {
            return Ok(Some(record));
        }
        let is_full = locked.space().words.load(MAIL_SOURCES) >= SOURCES_MAX;
        if is_full && !Self::has_forgotten_oldest(locked, table, now_s)? {
            return Ok(None);
        }
        Self::make(locked, table, source, now_s).map(Some)
    }

    fn make(locked: &Locked<'_>, table: Table, source: &Source, now_s: u64) -> Result<Self, StateError> {
        let words = locked.space().words;
        let mut transaction = Transaction::begin(locked)?;
        let place = heap::allocate(&mut transaction, GRANULES, Kind::MailSource)?;
        let at = place.at();
        for word in HASH..WORDS {
            words.store_private(at + word, 0);
        }
        words.store_private(at + HASH, source.hash);
        words.store_private(at + USED, now_s);
        for (index, &word) in source.words.iter().enumerate() {
            words.store_private(at + ADDRESS + index, word);
        }
        let bucket = table.sources_at(source.hash);
        transaction.store(at + KIND_AND_LINK, kind_and_link(Kind::MailSource, transaction.load(bucket)))?;
        transaction.store(bucket, place.number())?;
        let record = Self { place };
        record.become_newest(&mut transaction)?;
        transaction.store(MAIL_SOURCES, transaction.load(MAIL_SOURCES).wrapping_add(1))?;
        transaction.commit();
        Ok(record)
    }

    /// A source that comes back from elsewhere, used later than all that are there.
    pub(crate) fn restore(
        locked: &Locked<'_>,
        table: Table,
        source: &Source,
        kept: &KeptSource,
    ) -> Result<(), StateError> {
        let words = locked.space().words;
        let is_wrong = kept.window.len() as u64 != WINDOW_WORDS || !kept.floor.is_multiple_of(64);
        let is_there = Self::find(locked.space(), table, source)?.is_some();
        if is_wrong || is_there || words.load(MAIL_SOURCES) >= SOURCES_MAX {
            return Err(StateError::corrupt("source of messages that comes back", MAIL_SOURCES));
        }
        let at = Self::make(locked, table, source, kept.used_s)?.place.at();
        words.store(at + INCARNATION, kept.incarnation);
        words.store(at + FLOOR, kept.floor);
        for (word, &bits) in (WINDOW..WORDS).zip(&kept.window) {
            words.store(at + word, bits);
        }
        Ok(())
    }

    /// Makes room for one more, if the source that was silent for the longest time was so for long enough.
    #[cold]
    fn has_forgotten_oldest(locked: &Locked<'_>, table: Table, now_s: u64) -> Result<bool, StateError> {
        let space = locked.space();
        let oldest = Self::checked(space, space.words.load(MAIL_SOURCE_OLDEST), MAIL_SOURCE_OLDEST)?;
        let silent_s = now_s.saturating_sub(space.words.load(oldest.place.at() + USED));
        if silent_s < SOURCE_KEPT.as_secs() {
            return Ok(false);
        }
        let mut transaction = Transaction::begin(locked)?;
        oldest.leave_list(&mut transaction)?;
        oldest.leave_bucket(&mut transaction, table)?;
        let left = transaction.load(MAIL_SOURCES).wrapping_sub(1);
        transaction.store(MAIL_SOURCES, left)?;
        let block = Block::of_kind(space, oldest.place, Kind::MailSource)?;
        heap::release(&mut transaction, block)?;
        transaction.commit();
        Ok(true)
    }

    fn leave_bucket(self, transaction: &mut Transaction<'_>, table: Table) -> Result<(), StateError> {
        let space = transaction.space();
        let bucket = table.sources_at(self.hash(space));
        let next = self.next_in_bucket(space);
        let mut number = space.words.load(bucket);
        if number == self.place.number() {
            return transaction.store(bucket, next);
        }
        for _ in 0..=SOURCES_MAX {
            let record = Self::checked(space, number, bucket)?;
            number = record.next_in_bucket(space);
            if number == self.place.number() {
                let link = record.place.at() + KIND_AND_LINK;
                return transaction.store(link, kind_and_link(Kind::MailSource, next));
            }
        }
        Err(StateError::corrupt("chain of sources", bucket))
    }

    fn is_of(self, space: Space<'_>, source: &Source) -> bool {
        let at = self.place.at();
        self.hash(space) == source.hash
            && source.words.iter().enumerate().all(|(index, &word)| space.words.load(at + ADDRESS + index) == word)
    }

    pub(crate) fn hash(self, space: Space<'_>) -> u64 {
        space.words.load(self.place.at() + HASH)
    }

    /// The number of the next one in its bucket, 0 for none.
    pub(crate) fn next_in_bucket(self, space: Space<'_>) -> u64 {
        link_of(space.words.load(self.place.at() + KIND_AND_LINK))
    }

    /// The number of the source that was used next after it, 0 for none.
    pub(crate) fn newer(self, space: Space<'_>) -> u64 {
        space.words.load(self.place.at() + NEWER)
    }

    /// The number of the source that was used last before it, 0 for none.
    pub(crate) fn older(self, space: Space<'_>) -> u64 {
        space.words.load(self.place.at() + OLDER)
    }

    /// Whether a message of this source was accepted before.
    pub(crate) fn look(self, space: Space<'_>, id: MessageId) -> Result<Verdict, MailError> {
        match self.sight(space, id) {
            Sight::Known(verdict) => Ok(verdict),
            Sight::TooOld { sequence, oldest } => Err(MailError::TooOld { sequence, oldest }),
        }
    }

    /// The same, for who knows what to make of one that is too old.
    pub(crate) fn sight(self, space: Space<'_>, id: MessageId) -> Sight {
        let (words, at) = (space.words, self.place.at());
        let incarnation = words.load(at + INCARNATION);
        if id.incarnation < incarnation {
            return Sight::TooOld { sequence: id.incarnation, oldest: incarnation };
        }
        if id.incarnation > incarnation {
            return Sight::Known(Verdict::New);
        }
        let floor = words.load(at + FLOOR);
        if id.sequence < floor {
            return Sight::TooOld { sequence: id.sequence, oldest: floor };
        }
        if (id.sequence - floor) / 64 >= WINDOW_WORDS {
            return Sight::Known(Verdict::New);
        }
        let is_set = words.load(at + window_word(id.sequence)) >> (id.sequence % 64) & 1 == 1;
        Sight::Known(if is_set { Verdict::Before } else { Verdict::New })
    }

    /// What is remembered, and of whom.
    pub(crate) fn kept(self, space: Space<'_>) -> ([u8; ADDRESS_BYTES], KeptSource) {
        let (words, at) = (space.words, self.place.at());
        let mut address = [0; ADDRESS_BYTES];
        for (index, bytes) in address.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            *bytes = words.load(at + ADDRESS + index).to_le_bytes();
        }
        let kept = KeptSource {
            incarnation: words.load(at + INCARNATION),
            floor: words.load(at + FLOOR),
            window: (WINDOW..WORDS).map(|word| words.load(at + word)).collect(),
            used_s: words.load(at + USED),
        };
        (address, kept)
    }

    /// Remembers a message that [`Remembered::sight`] has found to be new.
    pub(crate) fn note(self, transaction: &mut Transaction<'_>, id: MessageId, now_s: u64) -> Result<(), StateError> {
        let at = self.place.at();
        if id.incarnation != transaction.load(at + INCARNATION) {
            transaction.store(at + INCARNATION, id.incarnation)?;
            transaction.store(at + FLOOR, 0)?;
            for word in WINDOW..WORDS {
                transaction.store(at + word, 0)?;
            }
        }
        self.move_floor(transaction, id.sequence)?;
        let word = at + window_word(id.sequence);
        transaction.store(word, transaction.load(word) | 1 << (id.sequence % 64))?;
        transaction.store(at + USED, now_s)?;
        if transaction.load(MAIL_SOURCE_NEWEST) != self.place.number() {
            self.leave_list(transaction)?;
            self.become_newest(transaction)?;
        }
        Ok(())
    }

    /// Has the window cover a sequence that is not below it.
    fn move_floor(self, transaction: &mut Transaction<'_>, sequence: u64) -> Result<(), StateError> {
        let at = self.place.at();
        let first = transaction.load(at + FLOOR) / 64;
        let last = sequence / 64;
        if last.wrapping_sub(first) < WINDOW_WORDS {
            return Ok(());
        }
        let new_first = last - (WINDOW_WORDS - 1);
        // Words of sequences that come into the window: those that leave it lay in the same.
        for word in new_first.max(first + WINDOW_WORDS)..=last {
            transaction.store(at + window_word(word * 64), 0)?;
        }
        transaction.store(at + FLOOR, new_first * 64)
    }

    fn leave_list(self, transaction: &mut Transaction<'_>) -> Result<(), StateError> {
        let space = transaction.space();
        let (older, newer) = (self.older(space), self.newer(space));
        let at = self.place.at();
        let newer_names =
            if newer == 0 { MAIL_SOURCE_NEWEST } else { Self::checked(space, newer, at + NEWER)?.place.at() + OLDER };
        transaction.store(newer_names, older)?;
        let older_names =
            if older == 0 { MAIL_SOURCE_OLDEST } else { Self::checked(space, older, at + OLDER)?.place.at() + NEWER };
        transaction.store(older_names, newer)
    }

    fn become_newest(self, transaction: &mut Transaction<'_>) -> Result<(), StateError> {
        let (space, at, number) = (transaction.space(), self.place.at(), self.place.number());
        let newest = transaction.load(MAIL_SOURCE_NEWEST);
        transaction.store(at + OLDER, newest)?;
        transaction.store(at + NEWER, 0)?;
        if newest == 0 {
            transaction.store(MAIL_SOURCE_OLDEST, number)?;
        } else {
            let newest = Self::checked(space, newest, MAIL_SOURCE_NEWEST)?;
            transaction.store(newest.place.at() + NEWER, number)?;
        }
        transaction.store(MAIL_SOURCE_NEWEST, number)
    }
}

/// The word of a record that has a sequence's bit while the window covers it.
#[allow(clippy::cast_possible_truncation, reason = "a remainder of a small number")]
fn window_word(sequence: u64) -> usize {
    WINDOW + (sequence / 64 % WINDOW_WORDS) as usize
}

/// Seconds since 1970; 0 under a clock that is set before.
pub(crate) fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

const _: () = assert!(WINDOW_SEQUENCES.is_multiple_of(64));

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use praas_protocol::message::{Address, SessionId};

    use super::*;
    use crate::objects::lock::{LockOwner, acquire};
    use crate::objects::{Objects, ObjectsLayout};

    fn objects() -> Objects {
        Objects::create(ObjectsLayout::for_limit(4 << 20).unwrap()).unwrap()
    }

    fn source(number: u128) -> Source {
        Source::new(7, &Address::Client(SessionId(number)))
    }

    fn accept(locked: &Locked<'_>, source: &Source, id: MessageId, now_s: u64) -> Result<Verdict, MailError> {
        let table = Table::ensure(locked)?;
        let record = Remembered::ensure(locked, table, source, now_s)?;
        let verdict = record.look(locked.space(), id)?;
        if verdict == Verdict::New {
            let mut transaction = Transaction::begin(locked)?;
            record.note(&mut transaction, id, now_s)?;
            transaction.commit();
        }
        Ok(verdict)
    }

    fn id(incarnation: u64, sequence: u64) -> MessageId {
        MessageId { incarnation, sequence }
    }

    #[test]
    fn each_sequence_is_new_once_however_they_come() {
        let objects = objects();
        let locked = acquire(objects.space(), LockOwner::Server, Duration::ZERO).unwrap();
        let (mut state, mut highest, mut accepted) = (0x9e37_79b9_u64, 0, std::collections::HashSet::new());
        for _ in 0..40_000 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let jump = if state % 997 == 0 { state >> 40 & 4095 } else { state >> 40 & 3 };
            let sequence = (highest + jump).saturating_sub(state >> 20 & 1535);
            match accept(&locked, &source(1), id(1, sequence), 0) {
                Ok(Verdict::New) => assert!(accepted.insert(sequence), "{sequence} twice"),
                Ok(Verdict::Before) => assert!(accepted.contains(&sequence), "{sequence} never came"),
                Err(MailError::TooOld { oldest, .. }) => {
                    assert!(sequence < oldest && highest - sequence >= WINDOW_SEQUENCES, "{sequence} of {highest}");
                }
                Err(error) => panic!("{error}"),
            }
            highest = highest.max(sequence);
        }
        for edge in [u64::MAX - 1500, u64::MAX, u64::MAX - 1000] {
            assert_eq!(accept(&locked, &source(1), id(1, edge), 0), Ok(Verdict::New), "{edge}");
            assert_eq!(accept(&locked, &source(1), id(1, edge), 0), Ok(Verdict::Before), "{edge}");
        }
    }

    #[test]
    fn a_later_incarnation_begins_anew_and_an_earlier_one_is_too_old() {
        let objects = objects();
        let locked = acquire(objects.space(), LockOwner::Server, Duration::ZERO).unwrap();
        assert_eq!(accept(&locked, &source(1), id(3, 5000), 0), Ok(Verdict::New));
        assert_eq!(accept(&locked, &source(1), id(4, 5), 0), Ok(Verdict::New));
        assert_eq!(accept(&locked, &source(1), id(4, 5), 0), Ok(Verdict::Before));
        assert_eq!(accept(&locked, &source(1), id(3, 5001), 0), Err(MailError::TooOld { sequence: 3, oldest: 4 }));
        assert_eq!(accept(&locked, &source(2), id(1, 5), 0), Ok(Verdict::New), "another source");
    }

    #[test]
    fn sources_are_forgotten_the_least_recently_used_first_and_none_early() {
        let objects = objects();
        let locked = acquire(objects.space(), LockOwner::Server, Duration::ZERO).unwrap();
        let all = u128::from(SOURCES_MAX);
        for number in 0..all {
            assert_eq!(accept(&locked, &source(number), id(1, 1), 100), Ok(Verdict::New));
        }
        let late = 100 + SOURCE_KEPT.as_secs();
        assert_eq!(accept(&locked, &source(0), id(1, 1), 100), Ok(Verdict::Before));
        assert_eq!(accept(&locked, &source(0), id(1, 2), late - 1), Ok(Verdict::New));
        let full = MailError::SourcesFull { sources: SOURCES_MAX, kept: SOURCE_KEPT };
        assert_eq!(accept(&locked, &source(all), id(1, 1), late - 1), Err(full));
        assert_eq!(accept(&locked, &source(all), id(1, 1), late), Ok(Verdict::New));
        assert_eq!(accept(&locked, &source(0), id(1, 2), late), Ok(Verdict::Before), "used lately");
        assert_eq!(accept(&locked, &source(2), id(1, 1), late), Ok(Verdict::Before), "not its turn");
        let table = Table::find(objects.space()).unwrap().unwrap();
        assert_eq!(Remembered::find(objects.space(), table, &source(1)), Ok(None), "the oldest");
    }
}
