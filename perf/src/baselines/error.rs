//! What can go wrong with another system. A row of a system that fails says this in place of figures.

use std::io;

/// Why another system has no figure.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BaselineError {
    /// It is not installed.
    #[error("{program} is not installed; run `perf/setup {part}`, which puts it into a private folder")]
    NotInstalled {
        /// The program.
        program: &'static str,
        /// What `perf/setup` calls it.
        part: &'static str,
    },
    /// Its server did not come up.
    #[error("{program} did not come up: {reason}{log}")]
    NotUp {
        /// The program.
        program: &'static str,
        /// What it did instead.
        reason: String,
        /// The last of what it said, on lines of its own; empty if it said nothing.
        log: String,
    },
    /// The system refused something.
    #[error("could not {action}: {source}")]
    System {
        /// What was attempted.
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// It answered something else than it must.
    #[error("{system} answered {actual} where {expected} was due")]
    WrongAnswer {
        /// The system.
        system: &'static str,
        /// What had to come.
        expected: String,
        /// What came.
        actual: String,
    },
    /// A request to an S3 server failed.
    #[error("S3 {operation} of `{key}` failed: {reason}")]
    S3 {
        /// The request.
        operation: &'static str,
        /// The object or bucket.
        key: String,
        /// What the client says, with all its causes.
        reason: String,
    },
    /// A variable of the environment says something that cannot be used.
    #[error("{variable} {problem}")]
    Environment {
        /// Its name.
        variable: &'static str,
        /// What is wrong with it, and what it has to be.
        problem: String,
    },
}

impl BaselineError {
    /// For `map_err`: the failure of `action`.
    pub fn system<E: Into<io::Error>>(action: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::System { action, source: source.into() }
    }
}
