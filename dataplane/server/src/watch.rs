//! `--watch`: processes restart when the binary of their application was rebuilt.
//!
//! The file is looked at, not subscribed to: a build replaces it by a new one, whole directories come and go, and three
//! looks a second cost nothing. A change counts when two looks in a row see the same new file, so that a file which is
//! still being written is not started.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use praas_protocol::Name;

use crate::drain::Purpose;
use crate::limits::WATCH_PERIOD;
use crate::processes::{Process, Stage};
use crate::shard::Shard;
use crate::timers::Timer;

/// What tells one build of a binary from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Build {
    inode: u64,
    modified: (i64, i64),
    bytes: u64,
}

fn build_of(path: &Path) -> Option<Build> {
    let found = std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file)?;
    Some(Build { inode: found.ino(), modified: (found.mtime(), found.mtime_nsec()), bytes: found.len() })
}

/// The build that runs, and the one last seen.
#[derive(Debug, Default, Clone, Copy)]
struct Watched {
    was_looked_at: bool,
    running: Option<Build>,
    seen: Option<Build>,
}

impl Watched {
    /// Notes what a look has found; true when there is a new, complete build.
    ///
    /// What the first look finds counts as running, settled or not: workers are started from it at once, so a build that
    /// replaces it a moment later is a new one.
    fn look(&mut self, found: Option<Build>) -> bool {
        if !std::mem::replace(&mut self.was_looked_at, true) {
            (self.running, self.seen) = (found, found);
            return false;
        }
        let settled = found.is_some() && found == self.seen;
        self.seen = found;
        let changed = settled && found != self.running;
        if changed {
            let first = self.running.is_none();
            self.running = found;
            return !first;
        }
        false
    }
}

/// The binaries of all applications.
#[derive(Debug, Default)]
pub(crate) struct Watch(BTreeMap<Name, Watched>);

impl Shard {
    /// Timer: restarts the processes of every application that was rebuilt.
    pub(crate) fn look_at_binaries(&mut self) {
        let mut rebuilt = Vec::new();
        for (name, application) in &self.applications {
            if self.watched.0.entry(*name).or_default().look(build_of(&application.binary)) {
                rebuilt.push(*name);
            }
        }
        for name in rebuilt {
            self.log.info(format_args!("application {name} was rebuilt: its processes restart"));
            let keys: Vec<_> = self.processes.by_id.iter().filter(|(id, _)| id.application == name).collect();
            let keys: Vec<_> = keys.into_iter().map(|(_, key)| *key).collect();
            for key in keys {
                let can_restart =
                    |process: &Process| matches!(process.stage, Stage::Active(_)) && process.broken.is_none();
                if self.processes.get(key).is_some_and(can_restart) {
                    self.begin_drain(key, Purpose::Restart, Vec::new());
                }
            }
        }
        self.timers.after(WATCH_PERIOD, Timer::Watch);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_counts_when_it_was_seen_twice_and_is_new() {
        let build = |inode| Some(Build { inode, modified: (1, 0), bytes: 10 });
        let mut watched = Watched::default();
        let looks = [build(1), build(1), build(1), None, build(2), build(3), build(3), build(3), build(1), build(1)];
        let changes: Vec<bool> = looks.into_iter().map(|found| watched.look(found)).collect();
        assert_eq!(changes, [false, false, false, false, false, false, true, false, false, true]);
    }

    #[test]
    fn a_build_that_replaces_the_first_one_at_once_counts_and_the_first_of_all_does_not() {
        let build = |inode| Some(Build { inode, modified: (1, 0), bytes: 10 });
        let mut watched = Watched::default();
        assert_eq!([build(1), build(2), build(2)].map(|found| watched.look(found)), [false, false, true]);
        let mut watched = Watched::default();
        assert_eq!([None, build(1), build(1)].map(|found| watched.look(found)), [false; 3]);
    }
}
