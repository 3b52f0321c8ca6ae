//! What can go wrong while a floor is measured. Each message says what to do next.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why a floor has no figure.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FloorError {
    /// The process may run on fewer cores than the placement needs.
    #[error(
        "this placement needs {needed} cores but the process may run on {allowed}; give it more, or choose one core"
    )]
    TooFewCores {
        /// Cores that the placement needs.
        needed: usize,
        /// Cores that the process may run on.
        allowed: usize,
    },
    /// Two parties that spin on one core measure the scheduler's time slice.
    #[error("`{floor}` spins on both sides and cannot share one core; choose two cores or free placement")]
    SpinsOnOneCore {
        /// The floor.
        floor: &'static str,
    },
    /// A system call failed.
    #[error("could not {action}: {source}")]
    System {
        /// What was attempted.
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The other side could not be started.
    #[error("could not start {program} as the floor's other side: {source}")]
    PeerStart {
        /// The program that was to run.
        program: PathBuf,
        /// Why it did not.
        source: io::Error,
    },
    /// The other side ended or stayed silent before it reported ready.
    #[error(
        "{program} did not become the other side of `{floor}`; its main must call floors::serve_peer_if_asked() first"
    )]
    PeerNotReady {
        /// The floor.
        floor: &'static str,
        /// The program that was started.
        program: PathBuf,
    },
    /// The other side ended in the middle of a round.
    #[error("the other side of `{floor}` ended during a round; its message, if any, is on standard error")]
    PeerGone {
        /// The floor.
        floor: &'static str,
    },
    /// A round took longer than its deadline; the other side was killed.
    #[error("a round of `{floor}` exceeded its deadline of {deadline:?}; measure fewer samples or raise the deadline")]
    DeadlineExceeded {
        /// The floor.
        floor: &'static str,
        /// The deadline.
        deadline: Duration,
    },
    /// The other side answered something else than the floor's protocol says.
    #[error("`{floor}` expected the answer {expected} and got {answer}; this is a defect of the floor")]
    WrongAnswer {
        /// The floor.
        floor: &'static str,
        /// What had to come.
        expected: u64,
        /// What came.
        answer: u64,
    },
    /// An earlier round failed and took the other side with it.
    #[error("`{floor}` failed in an earlier round; open it anew")]
    Spent {
        /// The floor.
        floor: &'static str,
    },
    /// The `shared_memory` crate refused.
    #[error("the shared_memory crate refused: {reason}")]
    SharedMemoryCrate {
        /// What it said.
        reason: String,
    },
    /// A program to compare with is not there.
    #[error("{program} is not installed; install it with {advice}")]
    NotInstalled {
        /// The program.
        program: &'static str,
        /// How to install it.
        advice: &'static str,
    },
    /// A program to compare with does not do what it is for.
    #[error("{program} gave no figure: {reason}; try it by hand")]
    OtherProgram {
        /// The program.
        program: &'static str,
        /// What it did instead.
        reason: String,
    },
    /// The trivial program ended badly.
    #[error("{program} ended with wait status {status}; name a program that exits with success")]
    ProgramFailed {
        /// The program.
        program: PathBuf,
        /// Its status as `waitpid` gives it.
        status: i32,
    },
}

impl FloorError {
    /// For `map_err`: the failure of `action`.
    pub(super) fn system<E: Into<io::Error>>(action: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::System { action, source: source.into() }
    }
}
