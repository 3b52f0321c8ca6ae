//! Tables whose keys name an entry and nothing that takes its place later: completions and timers come late.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;

/// Bits of a key's index, so that a key and a kind fit one word.
const INDEX_BITS: u32 = 24;

/// Names an entry of a table of `T`.
pub(super) struct Key<T> {
    index: u32,
    generation: u32,
    of: PhantomData<fn() -> T>,
}

impl<T> Key<T> {
    /// The key in 56 bits.
    pub(super) fn word(self) -> u64 {
        u64::from(self.generation) << INDEX_BITS | u64::from(self.index)
    }

    /// Names no entry, ever.
    pub(super) fn nobody() -> Self {
        Self { index: u32::MAX, generation: u32::MAX, of: PhantomData }
    }

    /// The key that `word` was made of.
    #[expect(clippy::cast_possible_truncation, reason = "the two parts of a word")]
    pub(super) fn of_word(word: u64) -> Self {
        let index = (word & ((1 << INDEX_BITS) - 1)) as u32;
        Self { index, generation: (word >> INDEX_BITS) as u32, of: PhantomData }
    }

    fn parts(self) -> (u32, u32) {
        (self.index, self.generation)
    }
}

impl<T> Clone for Key<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Key<T> {}

impl<T> PartialEq for Key<T> {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts()
    }
}

impl<T> Eq for Key<T> {}

impl<T> PartialOrd for Key<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Key<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.parts().cmp(&other.parts())
    }
}

impl<T> Hash for Key<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.parts().hash(state);
    }
}

impl<T> fmt::Debug for Key<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Key({}.{})", self.index, self.generation)
    }
}

struct Slot<T> {
    generation: u32,
    value: Option<Box<T>>,
}

/// Entries by key. Memory is that of the most entries there ever were at a time, a few bytes for each.
pub(super) struct Table<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
    }
}

impl<T> Table<T> {
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// The key that the next entry will have.
    pub(super) fn next_key(&self) -> Key<T> {
        let end = u32::try_from(self.slots.len()).unwrap_or(u32::MAX);
        let index = self.free.last().copied().unwrap_or(end);
        let generation = self.slots.get(index as usize).map_or(0, |slot| slot.generation);
        Key { index, generation, of: PhantomData }
    }

    /// Adds an entry.
    ///
    /// # Panics
    /// With more than 2^24 entries; whoever fills a table has a limit far below.
    pub(super) fn insert(&mut self, value: T) -> Key<T> {
        let key = self.next_key();
        if self.free.pop().is_none() {
            assert!(key.index < 1 << INDEX_BITS, "a table has a limit below {}", 1 << INDEX_BITS);
            self.slots.push(Slot { generation: 0, value: None });
        }
        self.slots[key.index as usize].value = Some(Box::new(value));
        key
    }

    #[inline]
    pub(super) fn get(&self, key: Key<T>) -> Option<&T> {
        let slot = self.slots.get(key.index as usize).filter(|slot| slot.generation == key.generation)?;
        slot.value.as_deref()
    }

    #[inline]
    pub(super) fn get_mut(&mut self, key: Key<T>) -> Option<&mut T> {
        let slot = self.slots.get_mut(key.index as usize).filter(|slot| slot.generation == key.generation)?;
        slot.value.as_deref_mut()
    }

    pub(super) fn remove(&mut self, key: Key<T>) -> Option<T> {
        let slot = self.slots.get_mut(key.index as usize).filter(|slot| slot.generation == key.generation)?;
        let value = slot.value.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(key.index);
        Some(*value)
    }

    /// The keys of all entries.
    pub(super) fn keys(&self) -> Vec<Key<T>> {
        let key = |(index, slot): (usize, &Slot<T>)| {
            let index = u32::try_from(index).ok()?;
            slot.value.as_ref().map(|_| Key { index, generation: slot.generation, of: PhantomData })
        };
        self.slots.iter().enumerate().filter_map(key).collect()
    }
}

impl<T> fmt::Debug for Table<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Table").field("len", &self.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_outlives_its_entry_without_naming_the_next_one() {
        let mut table = Table::default();
        let first = table.insert('a');
        assert_eq!((table.remove(first), table.remove(first)), (Some('a'), None));
        let second = table.insert('b');
        assert_eq!((table.get(first), table.get(second), table.len()), (None, Some(&'b'), 1));
        assert_eq!(Key::of_word(second.word()), second);
        assert_eq!((table.get(Key::nobody()), Key::<char>::nobody() == second), (None, false));
        assert_ne!(first.word(), second.word());
        assert_eq!(table.keys(), [second]);
    }
}
