//! What processes take of the machine: processor time by the scheduler's own account, and memory by the kernel's.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use super::SubjectError;

/// Bytes of the blocks in which the kernel counts a file's allocated size.
const STAT_BLOCK_BYTES: u64 = 512;

/// What the kernel calls the memory of a process's state.
const STATE_SEGMENT: &str = "praas-objects";

/// Processor time that processes have used.
#[derive(Clone, Copy, Debug)]
pub struct CpuTime(pub Duration);

impl CpuTime {
    /// Of all threads of these processes, to the nanosecond, since each began.
    ///
    /// # Errors
    /// [`SubjectError::Hidden`] if the kernel does not tell.
    pub fn of(processes: &[u32]) -> Result<Self, SubjectError> {
        let mut total_ns = 0;
        for process in processes {
            for path in entries(&format!("/proc/{process}/task"))? {
                // A thread that ended in between has none.
                let Ok(text) = fs::read_to_string(format!("{path}/schedstat")) else { continue };
                total_ns += text.split_ascii_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0);
            }
        }
        Ok(Self(Duration::from_nanos(total_ns)))
    }
}

/// Memory that processes hold.
#[derive(Clone, Copy, Debug, Default)]
pub struct Footprint {
    /// Their proportional share of all memory they map, in bytes.
    pub pss_bytes: u64,
    /// What their segments take, each counted once, in bytes.
    pub segment_bytes: u64,
}

impl Footprint {
    /// Of these processes.
    ///
    /// # Errors
    /// [`SubjectError::Hidden`]: servers and keepers show themselves to root alone.
    pub fn of(processes: &[u32]) -> Result<Self, SubjectError> {
        let mut footprint = Self::default();
        let mut segments = BTreeMap::new();
        for process in processes {
            footprint.pss_bytes += pss_bytes(*process)?;
            for path in entries(&format!("/proc/{process}/fd"))? {
                let is_segment =
                    fs::read_link(&path).is_ok_and(|target| target.to_string_lossy().starts_with("/memfd:"));
                if let Some(status) = is_segment.then(|| fs::metadata(&path).ok()).flatten() {
                    segments.insert((status.dev(), status.ino()), status.blocks() * STAT_BLOCK_BYTES);
                }
            }
        }
        footprint.segment_bytes = segments.values().sum();
        Ok(footprint)
    }
}

/// Bytes of memory that the states of a server's processes take, each counted once.
///
/// # Errors
/// [`SubjectError::Hidden`]: servers show themselves to root alone.
pub(super) fn state_bytes(server: u32) -> Result<u64, SubjectError> {
    let mut states = BTreeMap::new();
    for path in entries(&format!("/proc/{server}/fd"))? {
        let is_state = fs::read_link(&path).is_ok_and(|target| target.to_string_lossy().contains(STATE_SEGMENT));
        if let Some(status) = is_state.then(|| fs::metadata(&path).ok()).flatten() {
            states.insert((status.dev(), status.ino()), status.blocks() * STAT_BLOCK_BYTES);
        }
    }
    Ok(states.values().sum())
}

fn pss_bytes(process: u32) -> Result<u64, SubjectError> {
    let path = format!("/proc/{process}/smaps_rollup");
    let text = fs::read_to_string(&path).map_err(|source| SubjectError::Hidden { path: path.clone(), source })?;
    parse_pss_bytes(&text)
        .ok_or_else(|| SubjectError::Hidden { path, source: io::Error::other("it has no line `Pss:`") })
}

fn parse_pss_bytes(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// The paths of a directory of `/proc`.
fn entries(path: &str) -> Result<Vec<String>, SubjectError> {
    let hidden = |source| SubjectError::Hidden { path: path.to_owned(), source };
    let found = fs::read_dir(path).map_err(hidden)?;
    Ok(found.flatten().filter_map(|entry| entry.path().into_os_string().into_string().ok()).collect())
}

/// A process, its children, theirs, and so on.
///
/// # Errors
/// [`SubjectError::Hidden`] if there is no `/proc`.
pub fn descendants_of(ancestor: u32) -> Result<Vec<u32>, SubjectError> {
    let parents: Vec<(u32, u32)> = entries("/proc")?.iter().filter_map(|path| parent_of(path)).collect();
    let mut found = BTreeSet::from([ancestor]);
    loop {
        let before = found.len();
        for (process, parent) in &parents {
            if found.contains(parent) {
                found.insert(*process);
            }
        }
        if found.len() == before {
            return Ok(found.into_iter().collect());
        }
    }
}

/// A process below `/proc` with its parent.
fn parent_of(path: &str) -> Option<(u32, u32)> {
    let process = path.rsplit('/').next()?.parse().ok()?;
    let stat = fs::read_to_string(format!("{path}/stat")).ok()?;
    // The name, in brackets, may hold anything; the fields follow its last bracket.
    let parent = stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some((process, parent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proportional_share_is_read_in_bytes() {
        let text = "55d0-7ffd ---p 00000000 00:00 0 [rollup]\nRss:  1000 kB\nPss:   123 kB\nPss_Dirty: 7 kB\n";
        assert_eq!(parse_pss_bytes(text), Some(123 * 1024));
        assert_eq!(parse_pss_bytes("Rss: 1 kB\n"), None);
    }

    #[test]
    fn this_process_is_its_own_descendant_and_takes_something() {
        let this = std::process::id();
        let found = descendants_of(this).expect("processes are listed");
        assert!(found.contains(&this) && !found.contains(&1), "{found:?}");
        let footprint = Footprint::of(&[this]).expect("a process sees itself");
        assert!(footprint.pss_bytes > 100_000, "{footprint:?}");
        CpuTime::of(&[this]).expect("a process sees itself");
    }
}
