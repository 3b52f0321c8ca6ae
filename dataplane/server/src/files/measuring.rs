//! Looks at how much a process keeps in files, while it runs.
//!
//! File systems keep no count of a directory, so a thread adds up what is there: some time after the process did something, and at
//! most for a fiftieth of the time. What is found stops nobody from writing. It is told, in the log and in lists, and spares an idle
//! process the end of its workers for a sleep that it could not have; whether it can sleep is decided when it is to
//! ([`crate::swap`]).

use std::path::PathBuf;
use std::time::{Duration, Instant};

use praas_storage::snapshot::{FilesError, FilesUsage, Tree};

use crate::clock;
use crate::hosting::Job;
use crate::limits::{FILES_LOOK_PARTS, FILES_LOOK_PERIOD_MIN};
use crate::processes::{ProcessKey, Stage};
use crate::shard::Shard;

/// What is known of the files of a process.
#[derive(Debug, Default)]
pub(crate) struct FilesWatch {
    is_under_way: bool,
    /// When they were looked at last, and how long that took.
    looked: Option<(Instant, Duration)>,
    excess: Option<String>,
}

impl FilesWatch {
    /// Why the process cannot sleep, as far as is known.
    pub(crate) fn excess(&self) -> Option<&str> {
        self.excess.as_deref()
    }

    /// Whether a process that has been active until then is to be looked at.
    fn is_due(&self, active_at: Instant, now: Instant) -> bool {
        let Some((looked, took)) = self.looked else { return !self.is_under_way };
        let pause = FILES_LOOK_PERIOD_MIN.max(took.saturating_mul(FILES_LOOK_PARTS));
        !self.is_under_way && active_at > looked && now.saturating_duration_since(looked) >= pause
    }
}

/// What a look has found.
#[derive(Debug)]
pub(crate) struct FilesSeen {
    key: ProcessKey,
    began: Instant,
    excess: Option<String>,
}

/// A directory that is to be looked at.
#[derive(Debug)]
pub(crate) struct FilesLook {
    key: ProcessKey,
    path: PathBuf,
    owner: Option<u32>,
    bytes_max: u64,
}

impl FilesLook {
    /// Looks at it, while workers may change it.
    pub(crate) fn carry_out(self) -> FilesSeen {
        let Self { key, path, owner, bytes_max } = self;
        let began = clock::now();
        let excess = match Tree::open(&path, owner) {
            Ok(tree) => excess(tree.as_ref().map(Tree::usage).unwrap_or_default(), bytes_max),
            // What has just gone, or is not to be read by its own user, is seen to when the process is to sleep.
            Err(FilesError::Call { .. }) => None,
            Err(error) => Some(format!("its files: {error}")),
        };
        FilesSeen { key, began, excess }
    }
}

/// Why a process with so many files cannot sleep. A limit of 0 says that the application has no files now: then they are what they
/// were.
pub(crate) fn excess(usage: FilesUsage, bytes_max: u64) -> Option<String> {
    (bytes_max > 0 && usage.bytes > bytes_max).then(|| {
        format!("its files are {usage}, files_bytes_max is {bytes_max}: remove some, or raise the limit in praas.toml")
    })
}

impl Shard {
    /// Has the files of a process looked at, if that is due.
    pub(crate) fn look_at_files(&mut self, key: ProcessKey) {
        let Some(process) = self.processes.get(key) else { return };
        let (owner, bytes_max) = (process.user, process.application.limits.files_bytes_max);
        let is_due = bytes_max > 0 && process.files.is_due(process.activity.active_at(), clock::now());
        if !is_due || !matches!(process.stage, Stage::Active(_)) {
            return;
        }
        let Some(path) = self.files_path(key) else { return };
        let look = FilesLook { key, path, owner, bytes_max };
        // A full queue has removals in it; the next look at activity tries again.
        let is_under_way = self.hosting.submit(Job::LookAtFiles(look)).is_ok();
        if let Some(process) = self.processes.get_mut(key) {
            process.files.is_under_way = is_under_way;
        }
    }

    /// A thread has looked at the files of a process.
    pub(crate) fn files_seen(&mut self, seen: FilesSeen) {
        let FilesSeen { key, began, excess } = seen;
        let Some(process) = self.processes.get_mut(key) else { return };
        process.files.is_under_way = false;
        process.files.looked = Some((began, clock::since(began)));
        if let Some(why) = excess.as_ref().filter(|_| process.files.excess.is_none()) {
            self.log.warning(format_args!("process {} cannot sleep: {why}", process.id));
        }
        process.files.excess = excess;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_looked_at_after_something_was_done_and_not_all_the_time() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut watch = FilesWatch::default();
        assert!(watch.is_due(start, start));
        watch.is_under_way = true;
        assert!(!watch.is_due(start, start));
        watch = FilesWatch { looked: Some((start, Duration::ZERO)), ..FilesWatch::default() };
        assert!(!watch.is_due(start, start + FILES_LOOK_PERIOD_MIN), "nothing was done since");
        assert!(watch.is_due(start + second, start + FILES_LOOK_PERIOD_MIN));
        watch.looked = Some((start, FILES_LOOK_PERIOD_MIN));
        assert!(!watch.is_due(start + second, start + FILES_LOOK_PERIOD_MIN * (FILES_LOOK_PARTS - 1)), "it takes long");
        assert!(watch.is_due(start + second, start + FILES_LOOK_PERIOD_MIN * FILES_LOOK_PARTS));
    }

    #[test]
    fn more_than_the_limit_is_told_with_figures() {
        let usage = FilesUsage { bytes: 11, entries: 2 };
        assert_eq!(excess(usage, 11), None);
        assert_eq!(excess(usage, 0), None);
        let why = excess(usage, 10).unwrap();
        assert!(why.contains("11 bytes in 2 files") && why.contains("files_bytes_max is 10"), "{why}");
    }
}
