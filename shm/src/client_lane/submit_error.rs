//! Why a lane does not take a request, with figures.

use std::fmt;

use praas_protocol::Phase;

use super::LoanBlock;

/// Why a request was not submitted. Nothing ran.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// Something is full; try again when calls have been answered.
    #[error("{what} is full: {used} of {limit} in use")]
    Full {
        /// What is full.
        what: Bounded,
        /// How much is in use.
        used: u64,
        /// How much there is.
        limit: u64,
        /// The loan, given back.
        loan: Option<LoanBlock>,
    },
    /// The payload is over the limit.
    #[error("the payload has {actual_bytes} bytes, the limit is {limit_bytes}")]
    TooLarge {
        /// The limit.
        limit_bytes: u64,
        /// The actual size.
        actual_bytes: u64,
        /// The loan, given back.
        loan: Option<LoanBlock>,
    },
    /// The process takes no calls.
    #[error("the process is {phase}")]
    Unavailable {
        /// Its phase.
        phase: Phase,
        /// The loan, given back.
        loan: Option<LoanBlock>,
    },
    /// The connection that the lane came from is lost.
    #[error("the connection to the server is lost")]
    Lost {
        /// The loan: its bytes can still be read, by [`ClientLane::loan_read`].
        loan: Option<LoanBlock>,
    },
}

impl SubmitError {
    /// The loan that was to be submitted, to be given back or submitted again.
    pub fn take_loan(&mut self) -> Option<LoanBlock> {
        let (Self::Full { loan, .. }
        | Self::TooLarge { loan, .. }
        | Self::Unavailable { loan, .. }
        | Self::Lost { loan }) = self;
        loan.take()
    }
}

/// What of a lane can be full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Bounded {
    /// Cells: calls in flight and answers that are kept.
    Cells,
    /// Cells, most of them held by abandoned calls that are not answered yet.
    Quarantine,
    /// Requests that no worker has claimed.
    Ring,
    /// Bytes of the request half of the arena.
    Arena,
}

impl Bounded {
    /// The words for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cells => "the lane's table of calls in flight",
            Self::Quarantine => "the lane's quarantine of abandoned calls",
            Self::Ring => "the lane's request ring",
            Self::Arena => "the lane's request arena",
        }
    }
}

impl fmt::Display for Bounded {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}
