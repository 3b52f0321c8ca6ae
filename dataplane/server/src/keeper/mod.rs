//! The keeper: a tiny process that holds memory while the server restarts, and sees the old workers dead.
//!
//! Three parts: [`protocol`] is what the two say, [`holder`] is the process itself (`praas keeper`), [`link`] is the
//! server's side of the connection.

mod holder;
pub(crate) mod link;
mod protocol;
mod wards;

#[cfg(any(test, feature = "simulation"))]
pub(crate) use holder::Keeper;
pub use holder::run;
pub use link::{HeldDescriptor, KeeperEvent, KeeperLink, KeeperPlan};

/// Why the keeper cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// `praas keeper` was not started by a server.
    #[error("`praas keeper` is started by `praas serve` itself, with its listening socket as standard input: {reason}")]
    NotStartedByServer {
        /// What is wrong with standard input.
        reason: String,
    },
    /// A system call of the keeper or of its link failed.
    #[error("{what} failed: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// The system's error.
        source: std::io::Error,
    },
    /// The keeper did not answer in time.
    #[error(
        "the keeper did not answer {what} within {waited_ms} ms; its log is keeper.log in the data directory; end it and start the server again"
    )]
    Silent {
        /// What was asked.
        what: &'static str,
        /// How long the server waited.
        waited_ms: u128,
    },
    /// The keeper refused.
    #[error("the keeper refused {what}: {reason}")]
    Refused {
        /// What was asked.
        what: &'static str,
        /// Its words.
        reason: String,
    },
    /// The keeper closed the connection.
    #[error("the keeper closed the connection")]
    Closed,
}
