//! The server's own words for its operator: one line an event on standard error.
//!
//! A line that cannot be written is dropped: logging must never end or delay the server. Function output does not come
//! here; it is captured by [`crate::output`].

use std::fmt::Arguments;
use std::io::Write;

/// How much a line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Nothing is said.
    Silent,
    /// Something is wrong and needs a person.
    Error,
    /// Something went wrong and was dealt with.
    Warning,
    /// Something happened that an operator wants to know.
    Info,
}

impl Level {
    fn word(self) -> &'static str {
        match self {
            Self::Silent => "silent",
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Info => "info",
        }
    }
}

/// Which lines are written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Log {
    pub(crate) most: Level,
}

impl Log {
    pub(crate) fn write(self, level: Level, line: Arguments<'_>) {
        if level <= self.most {
            let _ = writeln!(std::io::stderr().lock(), "praas {}: {line}", level.word());
        }
    }

    pub(crate) fn error(self, line: Arguments<'_>) {
        self.write(Level::Error, line);
    }

    pub(crate) fn warning(self, line: Arguments<'_>) {
        self.write(Level::Warning, line);
    }

    pub(crate) fn info(self, line: Arguments<'_>) {
        self.write(Level::Info, line);
    }
}
