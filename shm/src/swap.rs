//! A process as bytes: what leaves its memory when it sleeps, and comes back into other memory when it wakes.
//!
//! ```text
//! quiet segment ──cut──▶ objects, one by one  + remainder: mailbox, lanes, filter, order of calls ──▶ storage
//!                                                                                                │
//! new segment ◀──import── objects, one by one  + remainder ◀───────────────────────────────────────┘
//! ```
//!
//! Nothing here knows of storage, files or workers. Where a value lies outside is an opaque [`StoredAt`]. A process that comes
//! back has the seed, the position, the versions and the message numbers that it had: whoever has seen it before cannot tell
//! the difference.
//!
//! | room | what |
//! |---|---|
//! | `cut` | what a process that stands still has, while nobody can change it |
//! | `held_cut` | what a process has at one position while it goes on |
//! | `remainder`, `encoding` | what it has beside its objects, as plain data and as bytes |
//! | `restorer` | objects one by one into a segment that is used already |
//! | `returning_lane` | lanes anew, with what lay in them |
//! | `import` | all of it into a segment that nobody else has yet |
//!
//! Invariants:
//! 1. A quiet cut is taken of a process whose workers have ended and were recovered, and the writers' lock is held for as long as it
//!    is used; a held cut, of one that goes on, has what is at or below one position. What each shows is one instant.
//! 2. An import owns its segment until it is finished: nobody ever sees half of it.
//! 3. What comes from outside is checked before it is believed. What cannot be is an error that names it, never a panic.

mod cut;
mod encoding;
mod held_cut;
mod import;
mod remainder;
mod restorer;
mod returning_lane;

pub use cut::{CutGlimpse, CutObject, CutValue, QuietCut};
pub use encoding::BadRemainder;
pub use held_cut::{HELD_MAIL_BYTES_MAX, HeldCut, HeldCutError};
pub use import::{Import, ImportError, ImportFacts, ImportedObject, ValueRoom};
pub use remainder::{KeptLane, KeptMail, Remainder, WaitingMail};
pub use restorer::{Missing, Restorer, StoredObject};
pub use returning_lane::ReturnedLane;

/// Bytes of a [`StoredAt`].
pub const STORED_AT_BYTES: usize = 40;

/// Where a value lies outside of the process's memory: opaque to all but who has put it there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StoredAt(pub [u8; STORED_AT_BYTES]);
