//! How a change is made and how a copy follows: the lock-free protocol between the server and its readers.
//!
//! An entry's word is (life, state); state 0 says that the slot is free. The name is written only while the word says so, and
//! the next word has another life: a reader that finds the same word before and after it read the name has read one whole
//! name, even where a list is taken that is not of one moment. A change is one store to one word, its slot put into the ring before `changes` counts it.
//!
//! A copy as of change `c` follows to change `n`, the count it loads now, by looking again at the slots of the changes
//! `c + 1` to `n` (or at all, if the ring no longer has them), and goes round until the count stands still. Then
//! 1. every slot was looked at after its last change up to `n`: later ones would have moved the count, and been looked at;
//! 2. what it saw beyond that is at most the one change that is stored and not counted yet: the server makes one at a time.
//!    The copy is the list after change `n` or `n + 1`, never a mixture.
//!
//! A round more means that the server made a change meanwhile. After [`ROUNDS_MAX`] the copy is taken as it is: each entry is
//! true, though not all of one moment, and whoever waits for a change after its number misses none.

use praas_protocol::Name;
use praas_protocol::control::ProcessState;
use praas_protocol::limits::NAME_BYTES_MAX;

use super::DIRECTORY_ENTRIES_MAX;
use super::listing::{ListedProcess, Listing};
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// Rounds of a reader that the server overtakes each time; one takes it less than a microsecond unless all entries are read.
const ROUNDS_MAX: usize = 64;

/// Looks at one entry that changes each time. It is looked at again in the next round.
const LOOKS_MAX: usize = 4;

/// Words of a name: 63 bytes and its length.
const NAME_WORDS: usize = 8;

/// The low byte of an entry's word is its state, of a recent change's word the low bits are its slot.
const STATE_BITS: u32 = 8;
const SLOT_BITS: u32 = 20;

/// State of a free slot.
const FREE: u64 = 0;

/// What all readers look at first.
#[repr(C, align(128))]
#[derive(Debug)]
pub(crate) struct Head {
    pub(super) magic: AtomicU64,
    pub(super) version: AtomicU32,
    /// Every taken slot is below this.
    slots: AtomicU32,
    reserved: [AtomicU64; 14],
    /// Changes ever made; its low half is what watchers sleep on.
    pub(crate) changes: AtomicU64,
}

/// One slot.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Entry {
    word: AtomicU64,
    name: [AtomicU64; NAME_WORDS],
}

const _: () = {
    assert!(NAME_BYTES_MAX < NAME_WORDS * 8, "the last byte is the length");
    assert!(DIRECTORY_ENTRIES_MAX <= 1 << SLOT_BITS);
};

/// The parts of a directory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Table<'a> {
    pub(crate) head: &'a Head,
    pub(crate) recent: &'a [AtomicU64],
    pub(crate) entries: &'a [Entry],
}

/// Server.
impl Table<'_> {
    /// A process takes a free slot, as the change of this number.
    pub(crate) fn enter(self, change: u64, slot: usize, process: ListedProcess) {
        let entry = &self.entries[slot];
        for (word, value) in entry.name.iter().zip(name_words(&process.name)) {
            // Release: who sees a part of this name sees that the slot was free.
            word.store(value, Ordering::Release);
        }
        let life = (entry.word.load(Ordering::Relaxed) >> STATE_BITS).wrapping_add(1);
        self.store(change, slot, life << STATE_BITS | u64::from(process.state.code()));
    }

    /// The process in a slot is in another state.
    pub(crate) fn set(self, change: u64, slot: usize, state: ProcessState) {
        let life = self.entries[slot].word.load(Ordering::Relaxed) >> STATE_BITS;
        self.store(change, slot, life << STATE_BITS | u64::from(state.code()));
    }

    /// The process in a slot is gone.
    pub(crate) fn leave(self, change: u64, slot: usize) {
        let life = self.entries[slot].word.load(Ordering::Relaxed) >> STATE_BITS;
        self.store(change, slot, life << STATE_BITS | FREE);
    }

    /// Says below which number all taken slots are. Raised before a slot is taken, lowered after it is free.
    pub(crate) fn bound_slots(self, slots: u32) {
        self.head.slots.store(slots, Ordering::Relaxed);
    }

    fn store(self, change: u64, slot: usize, word: u64) {
        let recent = &self.recent[change_index(change, self.recent.len())];
        recent.store(change << SLOT_BITS | slot as u64, Ordering::Relaxed);
        // Release: who sees the word sees the whole name, and that all earlier changes are counted.
        self.entries[slot].word.store(word, Ordering::Release);
        // Release: who sees the count sees the words of all changes so far, and their slots.
        self.head.changes.store(change, Ordering::Release);
    }
}

/// Readers.
impl Table<'_> {
    /// The number of the last change.
    #[inline]
    pub(crate) fn changes(self) -> u64 {
        self.head.changes.load(Ordering::Acquire)
    }

    /// Brings a copy up to date.
    pub(crate) fn follow(self, listing: &mut Listing) {
        for _ in 0..ROUNDS_MAX {
            let now = self.changes();
            if now == listing.change {
                return;
            }
            if !self.read_recent(listing, now) {
                self.read_all(listing);
            }
            listing.change = now;
        }
    }

    /// Looks again at what changed up to `now`. False if that is not known any more.
    fn read_recent(self, listing: &mut Listing, now: u64) -> bool {
        if now.wrapping_sub(listing.change) > self.recent.len() as u64 {
            return false;
        }
        let mut change = listing.change;
        while change != now {
            change = change.wrapping_add(1);
            let word = self.recent[change_index(change, self.recent.len())].load(Ordering::Relaxed);
            #[allow(clippy::cast_possible_truncation, reason = "a slot has far fewer bits")]
            let slot = (word & ((1 << SLOT_BITS) - 1)) as usize;
            if word >> SLOT_BITS != change << SLOT_BITS >> SLOT_BITS || slot >= self.entries.len() {
                return false;
            }
            listing.set(slot, self.entries[slot].read());
        }
        true
    }

    fn read_all(self, listing: &mut Listing) {
        let slots = (self.head.slots.load(Ordering::Relaxed) as usize).min(self.entries.len());
        listing.slots.clear();
        for (slot, entry) in self.entries[..slots].iter().enumerate() {
            if let Some(process) = entry.read() {
                listing.set(slot, Some(process));
            }
        }
    }
}

impl Entry {
    /// What the slot holds, `None` for nothing and for junk.
    pub(crate) fn read(&self) -> Option<ListedProcess> {
        let mut word = self.word.load(Ordering::Acquire);
        for _ in 0..LOOKS_MAX {
            #[allow(clippy::cast_possible_truncation, reason = "the state is the low part")]
            let state = ProcessState::from_code(word as u8)?;
            // Acquire: a part of a later name makes the word that freed the slot visible to the load below.
            let name = std::array::from_fn(|index| self.name[index].load(Ordering::Acquire));
            let again = self.word.load(Ordering::Acquire);
            if again == word {
                return Some(ListedProcess { name: name_of(name)?, state });
            }
            word = again;
        }
        None
    }
}

#[allow(clippy::cast_possible_truncation, reason = "a remainder of a length")]
fn change_index(change: u64, changes: usize) -> usize {
    (change % changes as u64) as usize
}

/// A name as it stands in an entry: its bytes, zeros, and its length in the last byte.
fn name_words(name: &Name) -> [u64; NAME_WORDS] {
    let text = name.as_str().as_bytes();
    let mut bytes = [0; NAME_WORDS * 8];
    bytes[..text.len()].copy_from_slice(text);
    bytes[NAME_WORDS * 8 - 1] = u8::try_from(text.len()).expect("a name has at most 63 bytes");
    std::array::from_fn(|index| {
        let word = bytes[8 * index..].first_chunk().expect("eight bytes a word");
        u64::from_le_bytes(*word)
    })
}

fn name_of(words: [u64; NAME_WORDS]) -> Option<Name> {
    let mut bytes = [0; NAME_WORDS * 8];
    for (bytes, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(words) {
        *bytes = word.to_le_bytes();
    }
    let length = usize::from(bytes[NAME_WORDS * 8 - 1]);
    std::str::from_utf8(bytes.get(..length)?).ok()?.parse().ok()
}

#[cfg(all(test, loom))]
impl Head {
    pub(crate) fn new() -> Self {
        Self {
            magic: AtomicU64::new(0),
            version: AtomicU32::new(0),
            slots: AtomicU32::new(0),
            reserved: std::array::from_fn(|_| AtomicU64::new(0)),
            changes: AtomicU64::new(0),
        }
    }
}

#[cfg(all(test, loom))]
impl Entry {
    pub(crate) fn new() -> Self {
        Self { word: AtomicU64::new(0), name: std::array::from_fn(|_| AtomicU64::new(0)) }
    }
}

/// Where the parts lie in a segment.
#[cfg(not(loom))]
pub(super) mod places {
    use super::super::RECENT_CHANGES;
    use super::{DIRECTORY_ENTRIES_MAX, Entry, Head};
    use crate::sync::AtomicU64;

    pub(in crate::directory) const RECENT: usize = size_of::<Head>();
    pub(in crate::directory) const ENTRIES: usize = RECENT + RECENT_CHANGES * size_of::<AtomicU64>();
    pub(in crate::directory) const SEGMENT_BYTES: usize =
        (ENTRIES + DIRECTORY_ENTRIES_MAX * size_of::<Entry>()).next_multiple_of(64 << 10);
    const _: () = assert!(ENTRIES <= 4096 && ENTRIES.is_multiple_of(align_of::<Entry>()));
}
