//! The directory of an application: which processes it has and what they are doing, for all their workers to see.
//!
//! Memory: one sparse segment an application, made and mapped by the server, which then adds F_SEAL_FUTURE_WRITE: workers can
//! map it for reading only. It serves one life of the server program; the next one makes another.
//!
//! ```text
//! head: magic, changes, slots │ recent changes: a ring of slots │ entries: word (life, state) and name
//! ```
//!
//! A worker keeps a copy of the list ([`Listing`]) and brings it up to date: nothing to do is one load, some changes are a
//! look at the entries that they touched, many are a look at all. [`table`] says why the copy is right, and why nobody waits.
//!
//! Invariants:
//! 1. Only the server writes, from one thread; it reads nothing back that a decision rests on.
//! 2. A reader trusts no word: states, names, slots and numbers of changes are checked, every loop has an end, and the copy is
//!    never larger than [`DIRECTORY_ENTRIES_MAX`] entries.
//! 3. A reader never waits for the server, wherever in a change that stopped.

#[cfg(not(loom))]
mod ends;
#[cfg_attr(loom, allow(unreachable_pub, reason = "its users outside are built of the ends"))]
mod listing;
pub(crate) mod table;

#[cfg(not(loom))]
pub use ends::{Directory, DirectoryFull, DirectorySlot, DirectoryView};
pub use listing::{ListedProcess, Listing};

/// Processes that one directory lists: as many as a server has at all, in memory and asleep.
pub const DIRECTORY_ENTRIES_MAX: usize = praas_protocol::limits::PROCESSES_MAX + praas_protocol::limits::SLEEPERS_MAX;

/// Changes that a copy may lag behind before all entries are looked at again. With the head they fill one page.
pub(crate) const RECENT_CHANGES: usize = 448;
