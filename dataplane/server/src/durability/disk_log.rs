//! Logs in a directory of this host: what is durable in them survives this server, its keeper, and a loss of power.
//!
//! Each life of a process has a directory of its own. A log that ends where its process is goes on; one that ends elsewhere is
//! of a server that died with records in its ring, whose changes the keeper has and the log has not. It is removed and begun
//! anew at the position of the process, and [`DiskLog::replay`] refuses to make anything of it without the contents at that
//! position: a gap is never passed over.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use praas_protocol::ProcessId;
use praas_shm::log_ring::{Contents, Records, Replay};
use praas_storage::Folder;
use praas_storage::disk::{FileLayer, HostFiles};
use praas_storage::log::{Batch, Found, LogPlan, LogWriter, read_log, remove_log};
use praas_sys::Errno;
use praas_sys::private_directory::create_private_directory;

use super::{Log, LogStore};

/// The logs of all processes of a server; clones are the same.
#[derive(Debug, Clone)]
pub struct DiskLog {
    directory: PathBuf,
    files: Arc<dyn FileLayer>,
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
        Ok(Self { directory: directory.to_owned(), files: Arc::new(HostFiles::new()) })
    }

    fn path(&self, process: ProcessId, incarnation: u64) -> PathBuf {
        self.directory.join(Folder { process, incarnation }.to_string())
    }

    /// The lives of a process that have logs, in order.
    ///
    /// # Errors
    /// What the file system says.
    pub fn lives(&self, process: ProcessId) -> io::Result<Vec<u64>> {
        let directory = self.directory.join(process.to_string());
        let mut lives = Vec::new();
        let listed = self.files.list(&directory, &mut |name| {
            lives.extend(Folder::parse(&format!("{process}/{name}")).map(|folder| folder.incarnation));
        });
        match listed {
            Err(Errno::NOENT) => {}
            listed => listed?,
        }
        lives.sort_unstable();
        Ok(lives)
    }

    /// What a process was when its log ends, made of what it was at some position that the log goes on from; `None` if there
    /// is no log.
    ///
    /// # Errors
    /// Damage, or a log that does not follow that position.
    pub fn replay(&self, process: ProcessId, incarnation: u64, base: Contents) -> io::Result<Option<Contents>> {
        let path = self.path(process, incarnation);
        let begin = base.position;
        let mut replay = Replay::new(base);
        let mut result = Ok(());
        let found = self.read(&path, &mut |batch| {
            if result.is_ok() {
                result = apply(&mut replay, begin, batch);
            }
        })?;
        let Some(found) = found else { return Ok(None) };
        result?;
        if found.after > begin {
            let after = found.after;
            let reason = format!("the log of {process} goes on from position {after}, what is known ends at {begin}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
        Ok(Some(replay.contents().clone()))
    }

    /// Removes the log of a life of a process; nothing to do if it has none.
    ///
    /// # Errors
    /// What the file system says.
    pub fn remove(&self, process: ProcessId, incarnation: u64) -> io::Result<()> {
        Ok(remove_log(&*self.files, &self.path(process, incarnation))?)
    }

    fn read(&self, path: &Path, each: &mut dyn FnMut(Batch<'_>)) -> io::Result<Option<Found>> {
        if self.files.list(path, &mut |_| ()) == Err(Errno::NOENT) {
            return Ok(None);
        }
        Ok(read_log(&*self.files, path, each)?)
    }

    /// Makes directories that last: a log in one that is lost is lost.
    fn make_directory(&self, path: &Path) -> io::Result<()> {
        let mut made = self.directory.clone();
        for part in path.strip_prefix(&self.directory).into_iter().flatten() {
            let parent = made.clone();
            made.push(part);
            match self.files.make_directory(&made) {
                Ok(()) | Err(Errno::EXIST) => self.files.sync_directory(&parent)?,
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
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
    fn open(&self, process: ProcessId, incarnation: u64, position: u64) -> io::Result<Box<dyn Log>> {
        let path = self.path(process, incarnation);
        if self.read(&path, &mut |_| ())?.is_some_and(|found| found.position != position) {
            remove_log(&*self.files, &path)?;
        }
        self.make_directory(&path)?;
        let writer = LogWriter::begin(Arc::clone(&self.files), &path, position, LogPlan::default())?;
        Ok(Box::new(ProcessLog { writer }))
    }
}

impl Log for ProcessLog {
    fn append(&mut self, records: &[u8], position: u64) -> io::Result<()> {
        Ok(self.writer.append(records, position)?)
    }

    fn sync(&mut self) -> io::Result<u64> {
        Ok(self.writer.sync()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_goes_on_where_its_process_is_and_begins_anew_elsewhere() {
        let directory = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR").to_owned() + "/../../target").unwrap();
        let logs = DiskLog::open(&directory.path().join("logs")).unwrap();
        let process: ProcessId = "notes/alice".parse().unwrap();
        let end = |logs: &DiskLog| logs.read(&logs.path(process, 1), &mut |_| ()).unwrap();
        assert_eq!(end(&logs), None);
        assert_eq!(logs.replay(process, 1, Contents::default()).unwrap(), None);
        let mut log = LogStore::open(&logs, process, 1, 0).unwrap();
        log.append(&[0; 16], 2).unwrap();
        assert_eq!(log.sync().unwrap(), 2);
        let mut log = LogStore::open(&logs, process, 1, 2).unwrap();
        log.append(&[0; 16], 3).unwrap();
        assert_eq!((log.sync().unwrap(), end(&logs)), (3, Some(Found { after: 0, position: 3 })));
        // Nothing in it is a record, which is found out by who replays it.
        assert_eq!(logs.replay(process, 1, Contents::default()).unwrap_err().kind(), io::ErrorKind::InvalidData);
        let mut log = LogStore::open(&logs, process, 1, 10).unwrap();
        assert_eq!(end(&logs), None, "what it had does not lead there");
        log.append(&[], 11).unwrap();
        log.append(&[0; 16], 12).unwrap();
        assert_eq!((log.sync().unwrap(), end(&logs)), (12, Some(Found { after: 10, position: 12 })));
        assert_eq!(logs.lives(process).unwrap(), [1]);
        logs.remove(process, 1).unwrap();
        assert_eq!(logs.lives(process).unwrap(), [0_u64; 0]);
        assert_eq!(end(&logs), None);
    }
}
