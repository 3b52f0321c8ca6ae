//! What a snapshot is made of: a process's state as it stands still while it is cut.

use std::error::Error;
use std::fmt;

use super::files::{Known, Tree};
use super::location::Location;
use super::sum::Glimpse;

/// What is known of the state as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CutFacts {
    /// Up to where the state's changes are in the cut.
    pub position: u64,
    /// What keys are hashed with: pages are found by these hashes, so a restored state has to use it too.
    pub hash_seed: u64,
    /// How large the memory of the state is, in bytes.
    pub state_bytes: u64,
    /// How many objects there are. In a cut an estimate will do: it only decides into how many pages they go.
    pub objects: u64,
}

/// One object of a cut, without its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectEntry<'k> {
    /// The hash of namespace and key, by the seed of the facts.
    pub hash: u64,
    /// Which kind of key it is.
    pub namespace: u8,
    /// The key: 1 to 255 bytes.
    pub key: &'k [u8],
    /// Its version. No two values of a process ever have the same: it tells whether a stored one is still good.
    pub version: u64,
    /// Names the type of the value.
    pub type_id: u64,
    /// The version of that type's schema.
    pub schema_version: u32,
    /// How the value is encoded.
    pub encoding: u8,
    /// When it was published, in milliseconds since 1970.
    pub modified_unix_ms: u64,
    /// Bytes of its value.
    pub value_bytes: u32,
}

/// Where the value of an object is while it is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CutValue {
    /// In memory: [`Cut::read`] gets it by this.
    Here {
        /// Whatever names it.
        token: u64,
    },
    /// Still where a snapshot has it, because nobody asked for it since.
    Stored(Location),
}

/// What a section is about. Its bytes are opaque here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SectionKind(pub u16);

/// Why the state could not be read.
#[derive(Debug)]
pub struct CutError(pub Box<dyn Error + Send + Sync>);

/// Shows one object of a cut.
pub type ShowObject<'s> = dyn FnMut(ObjectEntry<'_>, CutValue) -> Result<(), CutError> + 's;

/// Says of one object whether it is to be shown.
pub type Glance<'g> = dyn FnMut(&Glimpse) -> bool + 'g;

/// What a snapshot has of the process's files.
#[derive(Debug, Clone, Copy)]
pub enum CutFiles<'c> {
    /// What the snapshot before has, if there is one.
    Kept,
    /// What a directory has. Of what was restored into it before, only what was changed since is read.
    Taken {
        /// The directory.
        tree: &'c Tree,
        /// What was restored into it.
        known: Option<&'c Known>,
    },
}

/// A state that does not change as long as this lives.
pub trait Cut: Sync {
    /// What is known of it as a whole.
    fn facts(&self) -> CutFacts;

    /// What else there is of the process, each kind once.
    fn sections(&self) -> &[(SectionKind, Vec<u8>)];

    /// Shows each object once, in any order. It may be called several times and shows the same then.
    ///
    /// # Errors
    /// What `show` returned, or whatever is wrong with the state.
    fn objects(&self, show: &mut ShowObject<'_>) -> Result<(), CutError>;

    /// Gives a glimpse of each object of one of `parts` parts, which together have each object once, and shows those of which
    /// `glance` says so. Called by many threads at once, each with a part of its own. Who cannot divide them has all in part 0.
    ///
    /// # Errors
    /// As [`Cut::objects`].
    fn survey(
        &self,
        part: u32,
        _parts: u32,
        glance: &mut Glance<'_>,
        show: &mut ShowObject<'_>,
    ) -> Result<(), CutError> {
        survey_undivided(self, part, glance, show)
    }

    /// Whether objects of this page may be missing here because they were not restored yet: the page is then taken over as it
    /// is stored, and none of it is shown.
    fn is_absent(&self, page: u32) -> bool;

    /// What becomes of the process's files.
    fn files(&self) -> CutFiles<'_> {
        CutFiles::Kept
    }

    /// Copies the bytes of a value from `offset` on. Called by many threads at once.
    ///
    /// # Errors
    /// Whatever is wrong with the state.
    fn read(&self, token: u64, offset: u64, into: &mut [u8]) -> Result<(), CutError>;
}

/// [`Cut::survey`] of a cut that is known in one list: all of it is in part 0.
///
/// # Errors
/// As [`Cut::objects`].
pub fn survey_undivided<C: Cut + ?Sized>(
    cut: &C,
    part: u32,
    glance: &mut Glance<'_>,
    show: &mut ShowObject<'_>,
) -> Result<(), CutError> {
    if part > 0 {
        return Ok(());
    }
    cut.objects(&mut |entry, value| if glance(&(&entry).into()) { show(entry, value) } else { Ok(()) })
}

impl From<&ObjectEntry<'_>> for Glimpse {
    fn from(entry: &ObjectEntry<'_>) -> Self {
        let &ObjectEntry { hash, namespace, version, value_bytes, .. } = entry;
        Self { hash, namespace, version, value_bytes }
    }
}

impl SectionKind {
    /// Messages, the filter of what came already, and whatever else the state has beside its objects.
    pub const MAILBOX: Self = Self(1);
    /// What the server must know to bring the process back.
    pub const LEDGER: Self = Self(2);
    /// The table of the process's files.
    pub const FILES: Self = Self(3);
    /// Messages that the process has asked to be woken with.
    pub const WAKE_UPS: Self = Self(4);
}

impl fmt::Display for SectionKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::MAILBOX => formatter.write_str("mailbox"),
            Self::LEDGER => formatter.write_str("ledger"),
            Self::FILES => formatter.write_str("files"),
            Self::WAKE_UPS => formatter.write_str("wake-ups"),
            Self(other) => write!(formatter, "section {other}"),
        }
    }
}

impl CutError {
    /// An error of the state.
    pub fn new(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(error.into())
    }
}

impl fmt::Display for CutError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl Error for CutError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.0)
    }
}
