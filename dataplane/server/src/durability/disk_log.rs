//! Logs in a directory of this host: what is durable in them survives this server, its keeper, and a loss of power.
//!
//! ```text
//! DIR/APPLICATION/PROCESS/INCARNATION/   life │ 0000000000000000.log … │ ended
//! ```
//!
//! Each life of a process has a directory of its own. A log goes on where its process is, or is begun anew, by who knows that
//! everything up to that position is in a snapshot; neither the keeper's memory nor what was made of the log itself is ever a reason
//! for it.
//! [`DiskLog::replay`] refuses to make anything of a log without the contents at its beginning: a gap is never passed over.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use praas_protocol::Name;
use praas_shm::log_ring::{Contents, Records, Replay};
use praas_storage::Folder;
use praas_storage::disk::{FileLayer, HostFiles};
use praas_storage::log::{
    Batch, Found, LogLife, LogPlan, LogWriter, count_recovery, mark_ended, read_life, read_log, remove_log, write_life,
};
use praas_sys::Errno;
use praas_sys::private_directory::create_private_directory;

use super::{Log, LogStore};

/// Attempts at making a directory whose parent somebody removes because it is empty.
const MAKE_TRIES_MAX: usize = 8;

/// The logs of all processes of a server; clones are the same.
#[derive(Debug, Clone)]
pub struct DiskLog {
    directory: PathBuf,
    files: Arc<dyn FileLayer>,
    plan: LogPlan,
}

/// The log of one life of a process.
#[derive(Debug)]
struct ProcessLog {
    writer: LogWriter,
}

impl DiskLog {
    /// Keeps logs in a directory, which is made if it is not there.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn open(directory: &Path) -> io::Result<Self> {
        create_private_directory(directory).map_err(io::Error::other)?;
        Ok(Self::over(Arc::new(HostFiles::new()), directory, LogPlan::default()))
    }

    /// The same over another file system, in a directory that is there.
    pub(crate) fn over(files: Arc<dyn FileLayer>, directory: &Path, plan: LogPlan) -> Self {
        Self { directory: directory.to_owned(), files, plan }
    }

    fn path(&self, folder: &Folder) -> PathBuf {
        self.directory.join(folder.to_string())
    }

    fn names(&self, path: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        match self.files.list(path, &mut |name| names.push(name.to_owned())) {
            // It has just gone, or somebody put a file there.
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(Vec::new()),
            listed => {
                listed?;
                names.sort_unstable();
                Ok(names)
            }
        }
    }

    /// All lives that have a directory, in order, those that are over or were never begun too.
    ///
    /// # Errors
    /// What the file system says.
    pub fn folders(&self) -> io::Result<Vec<Folder>> {
        let mut folders = Vec::new();
        for application in self.names(&self.directory)? {
            for process in self.names(&self.directory.join(&application))? {
                let process = format!("{application}/{process}");
                let lives = self.names(&self.directory.join(&process))?;
                folders.extend(lives.iter().filter_map(|life| Folder::parse(&format!("{process}/{life}"))));
            }
        }
        folders.sort_unstable();
        Ok(folders)
    }

    /// Removes directories of applications and processes with nothing in them: what is left when the power goes while a log is
    /// begun or removed. What cannot be removed stays for the next time.
    ///
    /// # Errors
    /// What the file system says when it is asked what there is.
    pub fn remove_empty(&self) -> io::Result<()> {
        let is_ours = |name: &String| name.parse::<Name>().is_ok();
        for application in self.names(&self.directory)?.into_iter().filter(is_ours) {
            let application = self.directory.join(application);
            for process in self.names(&application)?.into_iter().filter(is_ours) {
                // Fails while there is anything in it.
                let _ = self.files.remove_directory(&application.join(process));
            }
            let _ = self.files.remove_directory(&application);
        }
        Ok(())
    }

    /// Whose log it is; `None` for one that nobody was ever told of.
    ///
    /// # Errors
    /// Damage, and what the file system says.
    pub fn life(&self, folder: &Folder) -> io::Result<Option<LogLife>> {
        Ok(read_life(&*self.files, &self.path(folder))?)
    }

    /// How often something is made of a log that has no snapshot to go on from, this time included; that lasts.
    ///
    /// # Errors
    /// What the file system says: it may have been counted.
    pub fn count_recovery(&self, folder: &Folder) -> io::Result<u64> {
        Ok(count_recovery(&*self.files, &self.path(folder))?)
    }

    /// What a process was when its log ends, made of what it was at some position that the log goes on from; `None` if there
    /// is no log. `follows` is the position of what was kept elsewhere when the log began: positions between it and the beginning of
    /// the log were skipped.
    ///
    /// # Errors
    /// Damage, or a log that does not follow that position.
    pub fn replay(&self, folder: &Folder, mut base: Contents, follows: u64) -> io::Result<Option<Contents>> {
        let path = self.path(folder);
        let Some(life) = self.life(folder)?.filter(|life| !life.is_ended) else { return Ok(None) };
        if (follows..life.position).contains(&base.position) {
            base.position = life.position;
        }
        let begin = base.position;
        let gap = |after: u64| {
            let process = folder.process;
            let reason = format!("the log of {process} goes on from position {after}, what is known ends at {begin}");
            Err(io::Error::new(io::ErrorKind::InvalidData, reason))
        };
        if life.position > begin {
            return gap(life.position);
        }
        let mut replay = Replay::new(base);
        let mut result = Ok(());
        let found = self.read(&path, begin, &mut |batch| {
            if result.is_ok() {
                result = apply(&mut replay, begin, batch);
            }
        })?;
        match found {
            Some(found) if found.after > begin => gap(found.after),
            _ => result.map(|()| Some(replay.into_contents())),
        }
    }

    fn read(&self, path: &Path, kept: u64, each: &mut dyn FnMut(Batch<'_>)) -> io::Result<Option<Found>> {
        if self.files.list(path, &mut |_| ()) == Err(Errno::NOENT) {
            return Ok(None);
        }
        Ok(read_log(&*self.files, path, kept, each)?)
    }

    fn writer(&self, path: &Path, position: u64) -> io::Result<Box<dyn Log>> {
        let writer = LogWriter::begin(Arc::clone(&self.files), path, position, self.plan)?;
        Ok(Box::new(ProcessLog { writer }))
    }

    /// Makes directories that last: a log in one that is lost is lost.
    fn make_directory(&self, path: &Path) -> io::Result<()> {
        let make = || {
            let mut made = self.directory.clone();
            for part in path.strip_prefix(&self.directory).into_iter().flatten() {
                let parent = made.clone();
                made.push(part);
                match self.files.make_directory(&made) {
                    Ok(()) | Err(Errno::EXIST) => self.files.sync_directory(&parent)?,
                    Err(errno) => return Err(errno),
                }
            }
            Ok(())
        };
        let mut made = make();
        for _ in 1..MAKE_TRIES_MAX {
            if made != Err(Errno::NOENT) {
                break;
            }
            made = make();
        }
        Ok(made?)
    }
}

/// Adds the records of a batch that come after a position; pieces belong to what comes.
fn apply(replay: &mut Replay, begin: u64, batch: Batch<'_>) -> io::Result<()> {
    let invalid = |reason: String| io::Error::new(io::ErrorKind::InvalidData, reason);
    let mut records = Records::new(batch.records);
    while let Some(record) = records.next_record().map_err(|error| invalid(error.to_string()))? {
        if record.position().is_none_or(|position| position > begin) {
            replay.apply(&record).map_err(|error| invalid(error.to_string()))?;
        }
    }
    Ok(())
}

impl LogStore for DiskLog {
    fn end(&self, folder: &Folder) -> io::Result<Option<u64>> {
        let Some(life) = self.life(folder)?.filter(|life| !life.is_ended) else { return Ok(None) };
        // Where it begins is the business of who reads what it has.
        let found = self.read(&self.path(folder), u64::MAX, &mut |_| ())?;
        Ok(Some(found.map_or(life.position, |found| found.position.max(life.position))))
    }

    fn begin(&self, folder: &Folder, position: u64, note: &[u8]) -> io::Result<Box<dyn Log>> {
        let path = self.path(folder);
        remove_log(&*self.files, &path)?;
        self.make_directory(&path)?;
        write_life(&*self.files, &path, position, note)?;
        self.writer(&path, position)
    }

    fn go_on(&self, folder: &Folder, position: u64) -> io::Result<Box<dyn Log>> {
        match self.end(folder)? {
            Some(end) if end == position => self.writer(&self.path(folder), position),
            end => {
                let end = end.map_or("is gone".to_owned(), |end| format!("ends at position {end}"));
                let reason = format!("it {end}, its process is at {position}");
                Err(io::Error::new(io::ErrorKind::InvalidData, reason))
            }
        }
    }

    fn mark_ended(&self, folder: &Folder) -> io::Result<()> {
        Ok(mark_ended(&*self.files, &self.path(folder))?)
    }

    fn remove(&self, folder: &Folder) -> io::Result<()> {
        let path = self.path(folder);
        remove_log(&*self.files, &path)?;
        // Fails while there are others in them, which is what they are for.
        for parent in path.ancestors().skip(1).take(2) {
            let _ = self.files.remove_directory(parent);
        }
        Ok(())
    }

    fn lasts(&self) -> bool {
        true
    }
}

impl Log for ProcessLog {
    fn append(&mut self, records: &[u8], position: u64) -> io::Result<()> {
        Ok(self.writer.append(records, position)?)
    }

    fn sync(&mut self) -> io::Result<u64> {
        Ok(self.writer.sync()?)
    }

    fn truncate(&mut self, position: u64) -> io::Result<()> {
        Ok(self.writer.truncate(position).map(drop)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_with_nothing_in_them_go_and_no_others() {
        let directory = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR").to_owned() + "/../../target").unwrap();
        let logs = DiskLog::open(&directory.path().join("logs")).unwrap();
        let folder = Folder { process: "notes/alice".parse().unwrap(), incarnation: 1 };
        drop(logs.begin(&folder, 0, b"alice").unwrap());
        let at = |path: &str| directory.path().join("logs").join(path);
        for path in ["notes/bob", "empty/carol", "none", ".ours/not"] {
            std::fs::create_dir_all(at(path)).unwrap();
        }
        logs.remove_empty().unwrap();
        assert_eq!(
            ["notes/bob", "empty", "none", ".ours/not"].map(|path| at(path).exists()),
            [false, false, false, true]
        );
        assert_eq!(logs.folders().unwrap(), [folder]);
        assert!(logs.life(&folder).unwrap().is_some());
    }

    #[test]
    fn a_log_goes_on_where_its_process_is_and_begins_anew_elsewhere() {
        let directory = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR").to_owned() + "/../../target").unwrap();
        let logs = DiskLog::open(&directory.path().join("logs")).unwrap();
        let folder = Folder { process: "notes/alice".parse().unwrap(), incarnation: 1 };
        let found = |logs: &DiskLog| logs.read(&logs.path(&folder), 0, &mut |_| ()).unwrap();
        assert_eq!((found(&logs), logs.end(&folder).unwrap()), (None, None));
        assert_eq!(logs.replay(&folder, Contents::default(), 0).unwrap(), None);
        assert!(logs.go_on(&folder, 0).is_err());
        let mut log = logs.begin(&folder, 0, b"alice").unwrap();
        assert_eq!(logs.end(&folder).unwrap(), Some(0));
        log.append(&[0; 16], 2).unwrap();
        assert_eq!(log.sync().unwrap(), 2);
        let elsewhere = logs.go_on(&folder, 1).unwrap_err().to_string();
        assert!(elsewhere.contains("ends at position 2, its process is at 1"), "{elsewhere}");
        let mut log = logs.go_on(&folder, 2).unwrap();
        log.append(&[0; 16], 3).unwrap();
        assert_eq!((log.sync().unwrap(), found(&logs)), (3, Some(Found { after: 0, position: 3 })));
        // Nothing in it is a record, which is found out by who replays it.
        assert_eq!(logs.replay(&folder, Contents::default(), 0).unwrap_err().kind(), io::ErrorKind::InvalidData);
        let mut log = logs.begin(&folder, 10, b"alice again").unwrap();
        assert_eq!((found(&logs), logs.end(&folder).unwrap()), (None, Some(10)), "what it had does not lead there");
        let skipped = logs.replay(&folder, Contents::default(), 0).unwrap().unwrap();
        assert_eq!(skipped.position, 10, "it follows what was kept at position 0");
        let error = logs.replay(&folder, Contents::default(), 4).unwrap_err();
        assert!(error.to_string().contains("from position 10"), "{error}");
        log.append(&[], 11).unwrap();
        log.append(&[0; 16], 12).unwrap();
        assert_eq!((log.sync().unwrap(), found(&logs)), (12, Some(Found { after: 10, position: 12 })));
        assert_eq!(logs.folders().unwrap(), [folder]);
        let life = LogLife { position: 10, note: b"alice again".to_vec(), is_ended: false };
        assert_eq!(logs.life(&folder).unwrap(), Some(life));
        logs.mark_ended(&folder).unwrap();
        assert!(logs.life(&folder).unwrap().unwrap().is_ended);
        assert_eq!(logs.end(&folder).unwrap(), None);
        logs.remove(&folder).unwrap();
        assert_eq!((logs.folders().unwrap(), found(&logs)), (Vec::new(), None));
    }
}
