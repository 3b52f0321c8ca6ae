//! Why a worker could not be started, and what to do about it.

use std::fmt;
use std::path::PathBuf;

use rustix::io::Errno;

/// What a child does on its way from the clone to its program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
#[non_exhaustive]
pub enum Step {
    /// Becoming the leader of a session.
    Session = 1,
    /// Entering its cgroup.
    Cgroup = 2,
    /// Naming its user in a user namespace.
    UserNamespace = 3,
    /// Giving descriptors their numbers and closing all others.
    Descriptors = 4,
    /// Entering its working directory.
    WorkingDirectory = 5,
    /// Setting resource limits.
    Limits = 6,
    /// Changing to its own user.
    User = 7,
    /// Asking to die with its parent.
    ParentDeath = 8,
    /// Finding its parent still alive.
    ParentGone = 9,
    /// Giving up new privileges.
    NoNewPrivileges = 10,
    /// Restricting files.
    Landlock = 11,
    /// Restricting system calls.
    Seccomp = 12,
    /// Resetting signals.
    Signals = 13,
    /// Executing its program.
    Execute = 14,
}

impl Step {
    pub(super) fn from_number(number: i32) -> Option<Self> {
        const ALL: [Step; 14] = [
            Step::Session,
            Step::Cgroup,
            Step::UserNamespace,
            Step::Descriptors,
            Step::WorkingDirectory,
            Step::Limits,
            Step::User,
            Step::ParentDeath,
            Step::ParentGone,
            Step::NoNewPrivileges,
            Step::Landlock,
            Step::Seccomp,
            Step::Signals,
            Step::Execute,
        ];
        ALL.into_iter().find(|step| *step as i32 == number)
    }

    /// What to do when this step fails with this error.
    fn hint(self, errno: Errno) -> &'static str {
        match (self, errno) {
            (Self::Execute, Errno::NOENT) => {
                "the program, or the interpreter or loader that it names, does not exist or is outside the sandbox"
            }
            (Self::Execute, Errno::ACCESS) => {
                "make the program executable for the worker's user, or allow its path in the sandbox"
            }
            (Self::Execute, Errno::NOEXEC) => "it is not a program for this machine",
            (Self::Execute, Errno::TOOBIG) => "arguments and environment are too long; pass data in a message instead",
            (Self::Execute | Self::User, Errno::AGAIN) => "the worker's user is at its process limit",
            (Self::Execute, Errno::NOMEM) => "this host, or the worker's cgroup, is out of memory",
            (Self::Execute, Errno::TXTBSY) => "the program is being written; try again when the build has finished",
            (Self::Cgroup, _) => "the cgroup may be gone, or at its limit of processes",
            (Self::WorkingDirectory, _) => "the working directory must exist and be open to the worker's user",
            (Self::User, _) => {
                "only a server that is root, with CAP_SETUID and CAP_SETGID, gives workers their own user"
            }
            (Self::Descriptors, Errno::NOSYS | Errno::INVAL) => "a kernel of 5.11 or later is needed",
            (Self::Descriptors, _) => "raise the open-files limit of the server",
            (Self::ParentGone, _) => "the server ended meanwhile",
            _ => "run `praas doctor` to see what this host grants",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Session => "start a session",
            Self::Cgroup => "enter its cgroup",
            Self::UserNamespace => "name its user",
            Self::Descriptors => "arrange its descriptors",
            Self::WorkingDirectory => "enter its working directory",
            Self::Limits => "set its limits",
            Self::User => "change to its own user",
            Self::ParentDeath => "bind its life to the server's",
            Self::ParentGone => "find the server alive",
            Self::NoNewPrivileges => "give up new privileges",
            Self::Landlock => "restrict its files",
            Self::Seccomp => "restrict its system calls",
            Self::Signals => "reset its signals",
            Self::Execute => "execute the program",
        })
    }
}

/// Why a worker could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpawnError {
    /// The child could not become the worker; it is gone.
    #[error("a worker of {program:?} could not {step}: {errno}; {}", step.hint(*errno))]
    Child {
        /// Its program.
        program: PathBuf,
        /// Where it failed.
        step: Step,
        /// Why.
        errno: Errno,
    },
    /// No child could be made.
    #[error("cannot make a process: {errno}; check the limits on processes and memory (`praas doctor`)")]
    Clone {
        /// Why.
        errno: Errno,
    },
    /// Something could not be prepared.
    #[error("cannot {what} for a worker: {errno}")]
    Prepare {
        /// What was attempted.
        what: &'static str,
        /// Why.
        errno: Errno,
    },
    /// The request cannot be carried out.
    #[error("bad request to spawn: {what}")]
    BadRequest {
        /// What is wrong with it.
        what: String,
    },
    /// File rules could not be made.
    #[error("cannot make the rules for files: {reason}")]
    Landlock {
        /// Why.
        reason: String,
    },
    /// Too many requests wait.
    #[error("{limit} workers are waiting to be started already; try again later")]
    QueueFull {
        /// The limit.
        limit: usize,
    },
    /// The spawner is shutting down.
    #[error("the spawner has ended")]
    SpawnerGone,
    /// The spawner's thread could not start.
    #[error("cannot start the spawner's thread: {reason}")]
    NoThread {
        /// Why.
        reason: String,
    },
}

impl SpawnError {
    /// Whether descriptors, processes or memory ran out here, so that backing off may help.
    #[must_use]
    pub fn is_exhaustion(&self) -> bool {
        match self {
            Self::QueueFull { .. } => true,
            Self::Child { errno, .. } | Self::Clone { errno } | Self::Prepare { errno, .. } => {
                matches!(*errno, Errno::MFILE | Errno::NFILE | Errno::AGAIN | Errno::NOMEM | Errno::NOSPC)
            }
            _ => false,
        }
    }
}
