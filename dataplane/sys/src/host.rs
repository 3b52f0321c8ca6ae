//! What this host grants, for `praas doctor` and for the one report at a server's start.
//!
//! Each finding is found out by trying or by asking the kernel, never by guessing from its version; each that is not fully
//! granted says what it costs and what to do.

mod kernel;
mod resources;

use std::fmt;
use std::time::Duration;

/// How much of a feature there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Granted {
    /// All that praas can use.
    Granted,
    /// Some; the detail says how much.
    Limited,
    /// Nothing.
    Lacking,
}

impl fmt::Display for Granted {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Granted => "granted",
            Self::Limited => "limited",
            Self::Lacking => "lacking",
        })
    }
}

/// One thing that this host grants or lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What it is.
    pub name: &'static str,
    /// How much of it there is.
    pub granted: Granted,
    /// The figures.
    pub detail: String,
    /// What to do about it, unless it is granted.
    pub advice: Option<String>,
}

impl Finding {
    fn granted(name: &'static str, detail: impl Into<String>) -> Self {
        Self { name, granted: Granted::Granted, detail: detail.into(), advice: None }
    }

    fn limited(name: &'static str, detail: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { name, granted: Granted::Limited, detail: detail.into(), advice: Some(advice.into()) }
    }

    fn lacking(name: &'static str, detail: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { name, granted: Granted::Lacking, detail: detail.into(), advice: Some(advice.into()) }
    }
}

/// Everything, in the order in which a person wants to read it. Takes some milliseconds: it starts and ends a few
/// children to see whether namespaces can be made.
#[must_use]
pub fn examine() -> Vec<Finding> {
    vec![
        kernel::version(),
        resources::cores(),
        resources::memory(),
        resources::open_files(),
        resources::locked_memory(),
        resources::message_queues(),
        resources::time_stamp_counter(),
        kernel::io_uring(),
        kernel::pidfd(),
        kernel::user(),
        kernel::pid_namespaces(),
        kernel::user_namespaces(),
        kernel::landlock(),
        kernel::seccomp(),
        kernel::cgroups(),
    ]
}

/// CPUs that this process may use; at least 1.
#[must_use]
pub fn cores() -> usize {
    crate::affinity::cpus().map_or(1, |cpus| cpus.len().max(1))
}

/// Memory that could be given out now without swapping, in bytes.
#[must_use]
pub fn available_memory_bytes() -> Option<u64> {
    resources::memory_figure("MemAvailable:")
}

/// Memory of this host, in bytes.
#[must_use]
pub fn total_memory_bytes() -> Option<u64> {
    resources::memory_figure("MemTotal:")
}

/// Longest wait for a child that was started only to see whether it can be.
const PROBE: Duration = Duration::from_secs(5);

/// Bytes for people.
fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let mut scale = 1;
    while unit + 1 < UNITS.len() && count / scale >= 1024 {
        unit += 1;
        scale *= 1024;
    }
    let tenths = u128::from(count) * 10 / u128::from(scale);
    if scale == 1 { format!("{count} B") } else { format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit]) }
}
