//! Wake-ups: messages that a process has asked to get from itself at a time, and which wake it if it sleeps then.
//!
//! All wake-ups of a process are one object of its state, the [`Calendar`], under a name of praas's own. So they are recovered,
//! logged, swapped and restored as its state is, and each change of them happens whole or not at all. Functions change it; a
//! worker that its server tells the time *takes up* what is due, puts it into the mailbox, and removes it. A worker that dies in
//! between leaves its mark, and the next one takes it up again: a wake-up comes at least once.
//!
//! Times are milliseconds since 1970 by the wall clock of the host.

use serde::{Deserialize, Serialize};

use crate::Key;
use crate::limits::{WAKE_UP_BYTES_MAX, WAKE_UPS_BYTES_MAX, WAKE_UPS_MAX};

/// Name of the calendar among the objects that praas keeps in a process's state.
pub const CALENDAR_KEY: &str = "wake-ups";

/// Id of its type.
pub const CALENDAR_TYPE_ID: u64 = u64::from_le_bytes(*b"calendar");

/// What [`Calendar::to_bytes`] writes; stands in the object's header.
pub const CALENDAR_VERSION: u32 = 1;

/// One wake-up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Unique in the life of its process.
    pub id: u64,
    /// When it is due.
    pub due_unix_ms: u64,
    /// The mark of the worker that is putting it into the mailbox, if one is.
    pub taken_by: Option<u32>,
    /// Under which key it comes.
    pub key: String,
    /// What it says.
    pub bytes: Vec<u8>,
}

/// The wake-ups of a process, by their times and then by their ids.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Calendar {
    last_id: u64,
    entries: Vec<Entry>,
}

/// Why a wake-up was not entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CalendarRefusal {
    /// There are as many as there may be.
    #[error("{WAKE_UPS_MAX} wake-ups of one process are the most: cancel some, or wait until some have come")]
    TooMany,
    /// Its bytes are more than one may have.
    #[error(
        "a wake-up of {bytes} bytes is refused, {WAKE_UP_BYTES_MAX} are the most: keep the rest as an object of the state"
    )]
    TooLarge {
        /// Its bytes.
        bytes: usize,
    },
    /// All of them together are more than they may be.
    #[error(
        "the wake-ups of this process have {used_bytes} bytes with their keys, and {WAKE_UPS_BYTES_MAX} are the most: {bytes} \
         more find no room; cancel some, or keep what they say as objects of the state"
    )]
    Full {
        /// What they have.
        used_bytes: usize,
        /// What was to come.
        bytes: usize,
    },
}

/// Bytes that are no calendar.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the list of wake-ups cannot be read: {0}")]
pub struct BadCalendar(String);

impl Calendar {
    /// Enters a wake-up; its id.
    ///
    /// # Errors
    /// [`CalendarRefusal`]; nothing has changed then.
    pub fn add(&mut self, due_unix_ms: u64, key: Key<'_>, bytes: &[u8]) -> Result<u64, CalendarRefusal> {
        if bytes.len() > WAKE_UP_BYTES_MAX {
            return Err(CalendarRefusal::TooLarge { bytes: bytes.len() });
        }
        if self.entries.len() >= WAKE_UPS_MAX {
            return Err(CalendarRefusal::TooMany);
        }
        let (used_bytes, added) = (self.used_bytes(), key.as_str().len() + bytes.len());
        if used_bytes + added > WAKE_UPS_BYTES_MAX {
            return Err(CalendarRefusal::Full { used_bytes, bytes: added });
        }
        self.last_id += 1;
        let id = self.last_id;
        let (key, bytes) = (key.as_str().to_owned(), bytes.to_vec());
        let at = self.entries.partition_point(|entry| entry.due_unix_ms <= due_unix_ms);
        self.entries.insert(at, Entry { id, due_unix_ms, taken_by: None, key, bytes });
        Ok(id)
    }

    /// Removes a wake-up. False if it has come, is being put into the mailbox, or never was.
    pub fn cancel(&mut self, id: u64) -> bool {
        let before = self.entries.len();
        self.entries.retain(|entry| entry.id != id || entry.taken_by.is_some());
        self.entries.len() < before
    }

    /// Marks at most `count` of those that are due as taken up by `mark`, and shows them. Those that another taker has are left to
    /// it if it `lives`.
    pub fn take_up(
        &mut self,
        now_unix_ms: u64,
        mark: u32,
        count: usize,
        mut lives: impl FnMut(u32) -> bool,
    ) -> Vec<Entry> {
        let due = self.entries.iter_mut().take_while(|entry| entry.due_unix_ms <= now_unix_ms);
        let free = due.filter(|entry| entry.taken_by.is_none_or(|taker| !lives(taker)));
        let taken = free.take(count).map(|entry| {
            entry.taken_by = Some(mark);
            entry.clone()
        });
        taken.collect()
    }

    /// Removes those of `mark` that `came` names, and gives its others back.
    pub fn settle(&mut self, mark: u32, came: &[u64]) {
        self.entries.retain(|entry| entry.taken_by != Some(mark) || !came.contains(&entry.id));
        for entry in self.entries.iter_mut().filter(|entry| entry.taken_by == Some(mark)) {
            entry.taken_by = None;
        }
    }

    /// When the next one is due; in the past as long as one that is due has not come.
    #[must_use]
    pub fn next_due_unix_ms(&self) -> Option<u64> {
        self.entries.first().map(|entry| entry.due_unix_ms)
    }

    /// All of them in order.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Bytes of all, with their keys.
    #[must_use]
    pub fn used_bytes(&self) -> usize {
        self.entries.iter().map(|entry| entry.key.len() + entry.bytes.len()).sum()
    }

    /// As bytes.
    ///
    /// # Errors
    /// [`BadCalendar`], which does not happen.
    pub fn to_bytes(&self) -> Result<Vec<u8>, BadCalendar> {
        postcard::to_stdvec(self).map_err(|error| BadCalendar(error.to_string()))
    }

    /// Reads what [`Calendar::to_bytes`] has written, and believes none of it.
    ///
    /// # Errors
    /// [`BadCalendar`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BadCalendar> {
        let wrong = |what: &str| BadCalendar(what.to_owned());
        if bytes.len() > CALENDAR_BYTES_MAX {
            return Err(BadCalendar(format!("it has {} bytes, {CALENDAR_BYTES_MAX} are the most", bytes.len())));
        }
        let (calendar, rest): (Self, _) =
            postcard::take_from_bytes(bytes).map_err(|error| BadCalendar(error.to_string()))?;
        let entries = &calendar.entries;
        if !rest.is_empty() || entries.len() > WAKE_UPS_MAX || calendar.used_bytes() > WAKE_UPS_BYTES_MAX {
            return Err(wrong("it is longer than one can be"));
        }
        if !entries.is_sorted_by_key(|entry| entry.due_unix_ms) {
            return Err(wrong("its entries are not in the order of their times"));
        }
        for entry in entries {
            if entry.id == 0 || entry.id > calendar.last_id || entry.bytes.len() > WAKE_UP_BYTES_MAX {
                return Err(wrong("an entry has an id or a length that none can have"));
            }
            Key::new(&entry.key).map_err(|error| BadCalendar(error.to_string()))?;
        }
        Ok(calendar)
    }
}

/// Bytes of a calendar: what its entries hold, and of each at most 32 bytes beside that.
pub const CALENDAR_BYTES_MAX: usize = WAKE_UPS_BYTES_MAX + 32 * WAKE_UPS_MAX + 32;

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Key<'_> {
        Key::new(text).unwrap()
    }

    #[test]
    fn what_is_due_comes_in_order_once_and_again_only_if_its_taker_is_gone() {
        let mut calendar = Calendar::default();
        let late = calendar.add(20, key("k"), b"late").unwrap();
        let early = calendar.add(10, key("k"), b"early").unwrap();
        let second = calendar.add(10, key("k"), b"second").unwrap();
        assert_eq!(calendar.next_due_unix_ms(), Some(10));
        assert!(calendar.take_up(9, 1, 64, |_| true).is_empty());
        let taken: Vec<_> = calendar.take_up(10, 1, 64, |_| true).iter().map(|entry| entry.id).collect();
        assert_eq!(taken, [early, second]);
        assert!(calendar.take_up(10, 2, 64, |_| true).is_empty(), "another worker has them");
        assert!(!calendar.cancel(early), "it is on its way");
        calendar.settle(1, &[early]);
        assert_eq!(calendar.next_due_unix_ms(), Some(10), "the other one was given back");
        assert_eq!(calendar.take_up(10, 2, 64, |_| true)[0].id, second);
        assert_eq!(calendar.take_up(10, 3, 64, |_| false)[0].id, second, "its taker has died");
        calendar.settle(2, &[second]);
        assert_eq!(calendar.entries().len(), 2, "it is not the dead one's any more");
        calendar.settle(3, &[second]);
        assert!(calendar.cancel(late) && !calendar.cancel(late));
        assert_eq!(calendar.next_due_unix_ms(), None);
        assert!(calendar.add(1, key("k"), b"").unwrap() > second, "no id comes twice");
    }

    #[test]
    fn their_number_and_their_bytes_are_bounded_and_a_refusal_changes_nothing() {
        let mut calendar = Calendar::default();
        let large = vec![7; WAKE_UP_BYTES_MAX + 1];
        assert_eq!(calendar.add(1, key("k"), &large), Err(CalendarRefusal::TooLarge { bytes: large.len() }));
        while calendar.used_bytes() + 1 + WAKE_UP_BYTES_MAX <= WAKE_UPS_BYTES_MAX {
            calendar.add(5, key("k"), &large[1..]).unwrap();
        }
        let before = calendar.clone();
        assert!(matches!(calendar.add(5, key("k"), &large[1..]), Err(CalendarRefusal::Full { .. })));
        assert_eq!(calendar, before);
        let mut many = Calendar::default();
        for due in 0..WAKE_UPS_MAX as u64 {
            many.add(due, key("k"), b"x").unwrap();
        }
        assert_eq!(many.add(1, key("k"), b""), Err(CalendarRefusal::TooMany));
        for calendar in [calendar, many] {
            let bytes = calendar.to_bytes().unwrap();
            assert!(bytes.len() <= CALENDAR_BYTES_MAX);
            assert_eq!(Calendar::from_bytes(&bytes), Ok(calendar));
        }
    }

    #[test]
    fn bytes_that_are_no_calendar_are_refused() {
        let mut calendar = Calendar::default();
        for due in [3, 1, 2] {
            calendar.add(due, key("tick"), b"data").unwrap();
        }
        let bytes = calendar.to_bytes().unwrap();
        for length in 0..bytes.len() {
            assert!(Calendar::from_bytes(&bytes[..length]).is_err(), "{length} bytes");
        }
        assert!(Calendar::from_bytes(&[&bytes[..], &[0]].concat()).is_err());
        assert!(Calendar::from_bytes(&vec![0; CALENDAR_BYTES_MAX + 1]).is_err());
        let wrong = |change: &dyn Fn(&mut Calendar)| {
            let mut wrong = calendar.clone();
            change(&mut wrong);
            assert!(Calendar::from_bytes(&wrong.to_bytes().unwrap()).is_err(), "{wrong:?}");
        };
        wrong(&|calendar| calendar.entries.reverse());
        wrong(&|calendar| calendar.last_id = 2);
        wrong(&|calendar| calendar.entries[0].id = 0);
        wrong(&|calendar| calendar.entries[0].key = "a\nb".into());
        wrong(&|calendar| calendar.entries[0].bytes = vec![0; WAKE_UP_BYTES_MAX + 1]);
    }
}
