//! A reader's own copy of a directory.

use praas_protocol::Name;
use praas_protocol::control::ProcessState;

/// A process as its application's directory lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListedProcess {
    /// Its name within the application.
    pub name: Name,
    /// What it is doing.
    pub state: ProcessState,
}

/// The processes of an application after one of the directory's changes. A new one is that of an application without any.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    pub(super) change: u64,
    /// By the directory's slots; the last one is taken.
    pub(super) slots: Vec<Option<ListedProcess>>,
}

impl Listing {
    /// The number of the change.
    #[must_use]
    pub fn change(&self) -> u64 {
        self.change
    }

    /// The processes, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = &ListedProcess> {
        self.slots.iter().flatten()
    }

    /// Notes what is in a slot, which is one that a directory has.
    pub(super) fn set(&mut self, slot: usize, process: Option<ListedProcess>) {
        match process {
            Some(_) if slot < self.slots.len() => self.slots[slot] = process,
            Some(_) => {
                self.slots.resize(slot, None);
                self.slots.push(process);
            }
            None if slot < self.slots.len() => {
                self.slots[slot] = None;
                while self.slots.last().is_some_and(Option::is_none) {
                    self.slots.pop();
                }
            }
            None => {}
        }
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    #[test]
    fn slots_may_be_filled_and_freed_in_any_order() {
        let process = Some(ListedProcess { name: "alice".parse().unwrap(), state: ProcessState::Active });
        let mut listing = Listing::default();
        listing.set(3, process);
        listing.set(1, process);
        listing.set(7, None);
        assert_eq!((listing.iter().count(), listing.slots.len()), (2, 4));
        listing.set(3, None);
        assert_eq!((listing.iter().count(), listing.slots.len()), (1, 2));
        listing.set(1, None);
        assert_eq!(listing, Listing::default());
    }
}
