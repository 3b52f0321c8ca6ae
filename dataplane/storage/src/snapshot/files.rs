//! The files of a process: a directory that its functions may use, taken into a snapshot as it stands still, and made anew.
//!
//! ```text
//! directory ──Tree::open──▶ tree ──write──▶ chunks in blobs, and a table of all in the section `files`
//! table ──Snapshot::restore_files──▶ a fresh directory, and the stamps of its files
//! ```
//!
//! | room | what |
//! |---|---|
//! | `tree` | what a directory has: regular files, directories, symbolic links as text |
//! | `table` | the same as bytes, with the places of its chunks |
//! | `restore` | a table as a directory |
//! | `remove` | the end of a directory, whatever is in it |
//!
//! Invariants:
//! 1. A directory was written by a program that nobody trusts. It is walked by descriptors, one name at a time, and no symbolic
//!    link is ever followed, neither in reading nor in writing nor in removing. What belongs to another user or another file
//!    system is refused by name: a hard link is no way to read what its maker may not.
//! 2. Depth, names and number are bounded, and files are streamed in pieces: no directory makes its reader run out of anything.
//! 3. A file that changes while it is read is an error: what is stored is what stood still.
//! 4. A piece is taken over unread only if the file's stamp says that it is what was restored, and otherwise only if its 128 bit
//!    hash is the same.

mod remove;
mod restore;
mod table;
mod tree;

pub use remove::remove_directory;
pub use restore::Known;
pub(crate) use table::{Chunk, Entry, EntryKind, chunk_bytes};
pub use table::{FILES_VERSION, FileTable};
pub use tree::{FilesError, FilesUsage, Tree};
pub(crate) use tree::{TreeEntry, TreeKind, words};
