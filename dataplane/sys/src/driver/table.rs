//! The table of a driver's sources, each with a generation by which stale identifiers are told.

use super::{Refusal, Refused};

/// Names a connection, listener or watch of one driver, and no other after that one is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SourceId {
    pub(super) index: u32,
    pub(super) generation: u32,
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    value: Option<T>,
}

#[derive(Debug)]
pub(super) struct Table<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
    sources_max: u32,
}

impl<T> Table<T> {
    pub(super) const fn new(sources_max: u32) -> Self {
        Self { slots: Vec::new(), free: Vec::new(), sources_max }
    }

    pub(super) fn room(&self) -> usize {
        self.sources_max as usize - self.slots.len() + self.free.len()
    }

    /// Puts in what `make` makes of `given`, which comes back when there is no room.
    pub(super) fn insert<G>(&mut self, given: G, make: impl FnOnce(G) -> T) -> Result<SourceId, Refused<G>> {
        if let Some(index) = self.free.pop() {
            let slot = &mut self.slots[index as usize];
            slot.value = Some(make(given));
            return Ok(SourceId { index, generation: slot.generation });
        }
        match u32::try_from(self.slots.len()) {
            Ok(index) if index < self.sources_max => {
                self.slots.push(Slot { generation: 0, value: Some(make(given)) });
                Ok(SourceId { index, generation: 0 })
            }
            _ => Err(Refused::new(Refusal::Full { sources_max: self.sources_max }, given)),
        }
    }

    #[inline]
    pub(super) fn get(&self, id: SourceId) -> Option<&T> {
        self.slots.get(id.index as usize).filter(|slot| slot.generation == id.generation)?.value.as_ref()
    }

    #[inline]
    pub(super) fn get_mut(&mut self, id: SourceId) -> Option<&mut T> {
        self.slots.get_mut(id.index as usize).filter(|slot| slot.generation == id.generation)?.value.as_mut()
    }

    pub(super) fn remove(&mut self, id: SourceId) -> Option<T> {
        let slot = self.slots.get_mut(id.index as usize).filter(|slot| slot.generation == id.generation)?;
        let value = slot.value.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(id.index);
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identifier_outlives_its_source_without_naming_the_next_one() {
        let mut table = Table::new(1);
        let first = table.insert('a', |value| value).expect("room");
        let refused = table.insert('b', |value| value).expect_err("full");
        assert_eq!((refused.refusal, refused.given), (Refusal::Full { sources_max: 1 }, 'b'));
        assert_eq!(table.remove(first), Some('a'));
        assert_eq!(table.remove(first), None);
        let second = table.insert('b', |value| value).expect("room");
        assert_eq!(second.index, first.index);
        assert_eq!(table.get(first), None);
        assert_eq!(table.get_mut(second), Some(&mut 'b'));
        assert_eq!(table.room(), 0);
    }
}
