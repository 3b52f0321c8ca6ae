//! What a walk left out, and why: a count, the bytes where they are known, and one example for each reason.

use std::collections::BTreeMap;
use std::fmt;

/// Why an entry is not part of the corpus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SkipReason {
    /// Its name starts with a dot.
    Hidden,
    /// A directory of what tools made, such as Cargo's `target`.
    Generated,
    /// A symbolic link.
    SymbolicLink,
    /// A device, socket or named pipe.
    Special,
    /// A directory on another file system than the root.
    OtherFileSystem,
    /// A directory deeper than a walk goes.
    TooDeep,
    /// Its name is not UTF-8, has control characters, or its path is too long.
    UnusableName,
    /// A file of no bytes.
    Empty,
    /// A file over the limit of a file, or one that fits no batch.
    TooLarge,
    /// A file that is not UTF-8 text, or contains a zero byte.
    Binary,
    /// It could not be read.
    Unreadable,
    /// The walk had listed all the files it may.
    FilesLimit,
    /// The walk had looked at all the entries it may; what lies in this directory, or below it, may be missing.
    EntriesLimit,
    /// The corpus had all the text it may.
    TextLimit,
}

impl fmt::Display for SkipReason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Hidden => "hidden",
            Self::Generated => "generated directory",
            Self::SymbolicLink => "symbolic link",
            Self::Special => "device, socket or pipe",
            Self::OtherFileSystem => "on another file system",
            Self::TooDeep => "too deep",
            Self::UnusableName => "unusable name",
            Self::Empty => "empty",
            Self::TooLarge => "too large",
            Self::Binary => "not UTF-8 text",
            Self::Unreadable => "unreadable",
            Self::FilesLimit => "over the limit of files",
            Self::EntriesLimit => "over the limit of directory entries",
            Self::TextLimit => "over the limit of text",
        })
    }
}

/// What was left out for one reason.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SkipFigure {
    /// Entries; a directory counts once, whatever it holds.
    pub entries: u64,
    /// Bytes of the files among them whose size is known.
    pub bytes: u64,
    /// The first one met, relative to the root, fit to be shown.
    pub example: String,
}

/// Everything a walk left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Skipped {
    figures: BTreeMap<SkipReason, SkipFigure>,
}

impl Skipped {
    /// The reasons that occurred, always in the same order.
    pub fn iter(&self) -> impl Iterator<Item = (SkipReason, &SkipFigure)> {
        self.figures.iter().map(|(&reason, figure)| (reason, figure))
    }

    /// What was left out for this reason, if anything was.
    #[must_use]
    pub fn get(&self, reason: SkipReason) -> Option<&SkipFigure> {
        self.figures.get(&reason)
    }

    /// Entries left out for any reason.
    #[must_use]
    pub fn entries_total(&self) -> u64 {
        self.figures.values().map(|figure| figure.entries).sum()
    }

    pub(super) fn record(&mut self, reason: SkipReason, path: &str, bytes: u64) {
        let figure = self.figures.entry(reason).or_default();
        if figure.entries == 0 {
            figure.example = path.replace(char::is_control, "\u{fffd}");
        }
        figure.entries += 1;
        figure.bytes += bytes;
    }
}
