//! Where the two sides of a measurement run, and the guard that pins the calling thread for a round and puts it back.

use std::fmt;
use std::fs;
use std::marker::PhantomData;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::FloorError;

/// Where caller and peer run. Numbers are the kernel's processor numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Each side on a core of its own.
    TwoCores {
        /// The measuring side's core.
        caller: usize,
        /// The answering side's core.
        peer: usize,
    },
    /// Both on one core.
    OneCore(usize),
    /// As the scheduler likes, within what the process may use.
    Free,
}

impl Placement {
    /// The first core that this process may use, and the first after it that is not its hardware sibling.
    ///
    /// # Errors
    /// [`FloorError::TooFewCores`] with one core.
    pub fn two_cores() -> Result<Self, FloorError> {
        let allowed = allowed_cpus()?;
        let [caller, others @ ..] = allowed.as_slice() else {
            return Err(too_few(&allowed));
        };
        let siblings = siblings_of(*caller);
        let peer = others.iter().find(|cpu| !siblings.contains(cpu)).or(others.first());
        match peer {
            Some(peer) => Ok(Self::TwoCores { caller: *caller, peer: *peer }),
            None => Err(too_few(&allowed)),
        }
    }

    /// The last core that this process may use: the first takes most interrupts.
    ///
    /// # Errors
    /// [`FloorError::System`] if the kernel does not tell.
    pub fn one_core() -> Result<Self, FloorError> {
        let allowed = allowed_cpus()?;
        allowed.last().map(|cpu| Self::OneCore(*cpu)).ok_or_else(|| too_few(&allowed))
    }

    /// The measuring side's core, if it has one.
    #[must_use]
    pub fn caller_cpu(self) -> Option<usize> {
        match self {
            Self::TwoCores { caller, .. } => Some(caller),
            Self::OneCore(cpu) => Some(cpu),
            Self::Free => None,
        }
    }

    /// The answering side's core, if it has one.
    #[must_use]
    pub fn peer_cpu(self) -> Option<usize> {
        match self {
            Self::TwoCores { peer, .. } => Some(peer),
            Self::OneCore(cpu) => Some(cpu),
            Self::Free => None,
        }
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TwoCores { caller, peer } => write!(formatter, "cores {caller}+{peer}"),
            Self::OneCore(cpu) => write!(formatter, "core {cpu}"),
            Self::Free => formatter.write_str("free"),
        }
    }
}

fn too_few(allowed: &[usize]) -> FloorError {
    FloorError::TooFewCores { needed: 2, allowed: allowed.len() }
}

/// The cores that the calling thread may use, in ascending order.
///
/// # Errors
/// [`FloorError::System`] if the kernel does not tell.
pub fn allowed_cpus() -> Result<Vec<usize>, FloorError> {
    let allowed = sched_getaffinity(None).map_err(FloorError::system("read the thread's cores"))?;
    Ok((0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).collect())
}

/// The hardware threads that share a core with `cpu`, itself included; empty where the kernel does not say.
fn siblings_of(cpu: usize) -> Vec<usize> {
    let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
    fs::read_to_string(path).map(|list| parse_cpu_list(&list)).unwrap_or_default()
}

/// Reads the kernel's list format, such as `0-2,4`; what does not parse is left out.
fn parse_cpu_list(list: &str) -> Vec<usize> {
    list.trim()
        .split(',')
        .filter_map(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            Some(first.parse::<usize>().ok()?..=last.parse::<usize>().ok()?.min(CpuSet::MAX_CPU))
        })
        .flatten()
        .collect()
}

/// Pins the calling thread until dropped. Not `Send`: it restores the thread that made it.
#[derive(Debug)]
pub struct Pinned {
    previous: Option<CpuSet>,
    on_this_thread: PhantomData<*const ()>,
}

impl Pinned {
    /// Pins to `cpu`; `None` leaves the thread as it is.
    ///
    /// # Errors
    /// [`FloorError::System`] if the kernel refuses, as for a core that is not allowed.
    pub fn to(cpu: Option<usize>) -> Result<Self, FloorError> {
        let previous = match cpu {
            Some(cpu) => {
                let previous = sched_getaffinity(None).map_err(FloorError::system("read the thread's cores"))?;
                let mut only = CpuSet::new();
                only.set(cpu);
                sched_setaffinity(None, &only).map_err(FloorError::system("pin a thread to a core"))?;
                Some(previous)
            }
            None => None,
        };
        Ok(Self { previous, on_this_thread: PhantomData })
    }

    /// Keeps the thread pinned for the rest of its life.
    pub(crate) fn for_good(mut self) {
        self.previous = None;
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if let Some(previous) = &self.previous {
            // The mask was in force a moment ago; if the kernel took a core away since, the thread stays pinned.
            let _ = sched_setaffinity(None, previous);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_lists_parse() {
        assert_eq!(parse_cpu_list("0-2,4\n"), [0, 1, 2, 4]);
        assert_eq!(parse_cpu_list("7"), [7]);
        assert!(parse_cpu_list("").is_empty());
        assert!(parse_cpu_list("x-1").is_empty());
    }

    #[test]
    fn a_dropped_pin_gives_the_cores_back() {
        let before = allowed_cpus().expect("the kernel tells");
        let cpu = before.last().copied();
        {
            let _pin = Pinned::to(cpu).expect("an allowed core");
            assert_eq!(allowed_cpus().expect("the kernel tells"), cpu.into_iter().collect::<Vec<_>>());
        }
        assert_eq!(allowed_cpus().expect("the kernel tells"), before);
    }

    #[test]
    fn two_cores_differ() {
        match Placement::two_cores() {
            Ok(Placement::TwoCores { caller, peer }) => assert_ne!(caller, peer),
            Ok(other) => panic!("{other} is not two cores"),
            Err(error) => println!("skipped: {error}"),
        }
    }
}
