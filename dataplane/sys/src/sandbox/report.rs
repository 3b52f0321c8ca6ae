//! What was granted of a sandbox, feature by feature, in words that a person can act on.

use std::fmt;

/// One part of a worker's confinement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Feature {
    /// No program it executes gains privileges.
    NoNewPrivileges,
    /// A user of its own.
    PrivateUser,
    /// Killing the worker kills everything it started.
    PidNamespace,
    /// Only the files of its plan.
    Landlock,
    /// Dangerous system calls are refused.
    Seccomp,
    /// No network.
    NetworkNone,
    /// A memory limit over everything it started.
    MemoryLimit,
    /// A limit on processes and threads.
    ProcessLimit,
}

impl fmt::Display for Feature {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::NoNewPrivileges => "no new privileges",
            Self::PrivateUser => "own user",
            Self::PidNamespace => "own PID namespace",
            Self::Landlock => "files (Landlock)",
            Self::Seccomp => "system calls (seccomp)",
            Self::NetworkNone => "no network",
            Self::MemoryLimit => "memory limit (cgroup)",
            Self::ProcessLimit => "process limit (cgroup)",
        })
    }
}

/// Whether a feature is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Grant {
    /// It is.
    Granted,
    /// It was asked for and is not.
    Lacking {
        /// The reason.
        why: String,
        /// What to do about it.
        advice: String,
    },
    /// Nobody asked for it.
    NotAsked,
}

/// All features with their grants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SandboxReport {
    grants: Vec<(Feature, Grant)>,
}

impl SandboxReport {
    pub(super) fn record(&mut self, feature: Feature, grant: Grant) {
        self.grants.push((feature, grant));
    }

    /// Every feature with its grant.
    pub fn iter(&self) -> impl Iterator<Item = (Feature, &Grant)> {
        self.grants.iter().map(|(feature, grant)| (*feature, grant))
    }

    /// The grant of one feature.
    #[must_use]
    pub fn grant(&self, feature: Feature) -> &Grant {
        self.iter().find(|(one, _)| *one == feature).map_or(&Grant::NotAsked, |(_, grant)| grant)
    }

    /// Whether a feature is in force.
    #[must_use]
    pub fn has(&self, feature: Feature) -> bool {
        *self.grant(feature) == Grant::Granted
    }

    /// What was asked for and is lacking: feature, reason, advice.
    pub fn lacking(&self) -> impl Iterator<Item = (Feature, &str, &str)> {
        self.iter().filter_map(|(feature, grant)| match grant {
            Grant::Lacking { why, advice } => Some((feature, why.as_str(), advice.as_str())),
            _ => None,
        })
    }

    /// Whether everything asked for is in force.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.lacking().next().is_none()
    }
}

impl fmt::Display for SandboxReport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (feature, grant)) in self.iter().enumerate() {
            if index > 0 {
                formatter.write_str("\n")?;
            }
            match grant {
                Grant::Granted => write!(formatter, "  {feature:<24} granted")?,
                Grant::NotAsked => write!(formatter, "  {feature:<24} not asked for")?,
                Grant::Lacking { why, advice } => {
                    write!(formatter, "  {feature:<24} lacking: {why}; {advice}")?;
                }
            }
        }
        Ok(())
    }
}
