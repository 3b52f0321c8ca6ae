//! The phase of a process, as the control page shows it: one word of (counter, phase).

use serde::{Deserialize, Serialize};

/// Whether a process takes calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum Phase {
    /// Requests are claimed as they come.
    Active = 1,
    /// Unclaimed requests are refused, except descendants of calls that run; the latter finish.
    Draining = 2,
    /// Nothing is claimed any more.
    Closed = 3,
}

impl Phase {
    /// The phase in the low byte of a control page's phase word, if it is one.
    #[must_use]
    pub fn from_word(word: u64) -> Option<Self> {
        match word & 0xff {
            1 => Some(Self::Active),
            2 => Some(Self::Draining),
            3 => Some(Self::Closed),
            _ => None,
        }
    }

    /// The word that shows this phase with the given counter.
    #[must_use]
    pub fn word(self, counter: u64) -> u64 {
        counter << 8 | self as u64
    }
}

impl std::fmt::Display for Phase {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.pad(match self {
            Self::Active => "active",
            Self::Draining => "draining",
            Self::Closed => "closed",
        })
    }
}
