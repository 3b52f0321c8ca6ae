//! Snapshots: what a process knows, as it is stored while the process sleeps.
//!
//! A snapshot is a manifest, which is published as a whole, and blobs, which are written once. Snapshots of a folder that follow
//! each other share what did not change.
//!
//! ```text
//! manifest ─┬─ facts, sections (mailbox, ledger, …)
//!           ├─ pages: all objects whose hashes begin with the same bits, and where their values lie ─▶ blobs
//!           │  └─ amendments: those of a page that were replaced since it was written ─▶ blobs
//!           └─ blobs, and how much of each is needed
//! ```
//!
//! | room | what |
//! |---|---|
//! | `cut` | what a snapshot is made of: the state as it stands still |
//! | `write` | writing one; `draft` (pages before they are written), `pack` (values and pages into blobs), `pieces` (values of several blobs), `compress`, `accounts` (what is needed of each blob) |
//! | `stored` | one that is stored; `stored_page` (a page with its amendment), `fetch` (single values), `restore` (all of them) |
//! | `files` | the directory that a process keeps files in |
//! | `manifest`, `page`, `location`, `format` | bytes: what they mean, and that they mean something |
//! | `sum` | by which it is known what a page has without reading it |
//!
//! Opening one reads the manifest, some tens of bytes for each 500 objects. What else is read is what somebody asks for.
//!
//! Invariants:
//! 1. Whatever a manifest that was published needs lasts before it is published, and is removed only after another has replaced
//!    it that does not need it.
//! 2. Of a value, a page, a section and the manifest itself every byte is under a checksum. What does not agree is an error that
//!    names the part, never another value. All other parts can still be read.
//! 3. Bytes are never believed: reading ones that nobody wrote fails, and neither panics nor takes memory that they do not
//!    justify.
//! 4. What is written has a version. Another one is refused by name.

mod accounts;
mod compress;
mod cut;
mod draft;
mod error;
mod fetch;
mod files;
mod format;
pub mod limits;
mod location;
mod manifest;
mod pack;
mod page;
mod pieces;
mod restore;
mod share;
mod stored;
mod stored_page;
mod sum;
mod write;

pub use cut::{
    Cut, CutError, CutFacts, CutFiles, CutValue, Glance, ObjectEntry, SectionKind, ShowObject, survey_undivided,
};
pub use error::{Part, SnapshotError};
pub use files::{FILES_VERSION, FileTable, FilesError, FilesUsage, Known, Tree, remove_directory};
pub use format::FormatError;
pub use location::{Form, LOCATION_BYTES, Location};
pub use manifest::{Amendment, BlobUse, MANIFEST_VERSION, Manifest, PagePlace, SectionPlace, Stretch};
pub use page::{PAGE_VERSION, PageObject, parse as parse_page};
pub use restore::{Restored, StoredValue};
pub use stored::{Removed, Snapshot, Usage};
pub use stored_page::StoredPage;
pub use sum::{Glimpse, PageSum};
pub use write::{WritePlan, Written, write};
