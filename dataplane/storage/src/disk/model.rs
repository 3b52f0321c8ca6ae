//! A file system in memory that forgets what was not synced when its power is cut, and fails or stops where it is told.
//!
//! It keeps of each file and directory what would last, and the changes since. A cut keeps any part of those changes: any
//! sectors of what was written, any of the entries that were made or removed, chosen by a seed, in no order. Whatever code
//! comes through all of that comes through what real disks do.
//!
//! Calls are counted from 0 on. The call at which power is cut may or may not have done its work, and every later one fails.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use praas_sys::Errno;

use super::layer::{Access, FileLayer, FolderLock, StoredFile};
use crate::buffer::BLOCK_BYTES;

/// Bytes that a disk writes or does not.
const SECTOR_BYTES: usize = 512;

/// What is to go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fault {
    /// Nothing.
    #[default]
    None,
    /// The power goes at this call.
    Cut {
        /// Its number.
        at: u64,
    },
    /// This call fails, having done a part of its work if it writes.
    Fail {
        /// Its number.
        at: u64,
        /// How.
        errno: Errno,
    },
    /// This call does not go on until [`ModelFiles::release`].
    Stall {
        /// Its number.
        at: u64,
    },
    /// From this call on there is no room for anything new.
    FullFrom {
        /// Its number.
        at: u64,
    },
}

/// The file system; clones are the same.
#[derive(Clone)]
pub struct ModelFiles {
    shared: Arc<Shared>,
}

struct Shared {
    disk: Mutex<Disk>,
    released: Condvar,
}

#[derive(Debug)]
struct Disk {
    nodes: Vec<Node>,
    calls: u64,
    fault: Fault,
    is_cut: bool,
    is_stalling: bool,
    locked: BTreeSet<usize>,
    random: Random,
}

#[derive(Debug, Clone)]
enum Node {
    File(File),
    Directory(Directory),
}

#[derive(Debug, Clone, Default)]
struct File {
    bytes: Vec<u8>,
    lasting: Vec<u8>,
    changes: Vec<FileChange>,
}

#[derive(Debug, Clone)]
enum FileChange {
    Wrote(usize, Vec<u8>),
    /// Lasts, whatever becomes of what was changed before.
    WroteThrough(usize, Vec<u8>),
    Length(usize),
}

#[derive(Debug, Clone, Default)]
struct Directory {
    entries: BTreeMap<String, usize>,
    lasting: BTreeMap<String, usize>,
    changes: Vec<EntryChange>,
}

#[derive(Debug, Clone)]
enum EntryChange {
    Entered(String, usize),
    Gone(String),
    Renamed(String, String, usize),
}

/// An open file.
struct ModelFile {
    shared: Arc<Shared>,
    node: usize,
    access: Access,
}

/// A locked directory.
struct Locked {
    shared: Arc<Shared>,
    node: usize,
}

/// xorshift64*, by G. Marsaglia and S. Vigna.
#[derive(Debug, Clone, Copy)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn coin(&mut self) -> bool {
        self.next() >> 63 == 0
    }
}

/// What the chances of a cut are: as different as what disks do.
#[derive(Debug, Clone, Copy)]
enum Keeping {
    Nothing,
    Everything,
    AnyPart,
}

impl fmt::Debug for ModelFiles {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("ModelFiles")
    }
}

impl fmt::Debug for ModelFile {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ModelFile").field("node", &self.node).field("access", &self.access).finish()
    }
}

impl ModelFiles {
    /// An empty one, in which the root is there and lasts.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self::of(vec![Node::Directory(Directory::default())], seed)
    }

    fn of(nodes: Vec<Node>, seed: u64) -> Self {
        let random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let disk = Disk {
            nodes,
            calls: 0,
            fault: Fault::None,
            is_cut: false,
            is_stalling: false,
            locked: BTreeSet::new(),
            random,
        };
        Self { shared: Arc::new(Shared { disk: Mutex::new(disk), released: Condvar::new() }) }
    }

    /// What is to go wrong from now on.
    pub fn set_fault(&self, fault: Fault) {
        self.shared.lock().fault = fault;
    }

    /// How many calls there were.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.shared.lock().calls
    }

    /// Whether a call is stalling.
    #[must_use]
    pub fn is_stalling(&self) -> bool {
        self.shared.lock().is_stalling
    }

    /// The call that stalls goes on.
    pub fn release(&self) {
        let mut disk = self.shared.lock();
        (disk.fault, disk.is_stalling) = (Fault::None, false);
        self.shared.released.notify_all();
    }

    /// Whether the power is gone.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.shared.lock().is_cut
    }

    /// What is there when power comes back after it was cut now.
    #[must_use]
    pub fn after_cut(&self, seed: u64) -> Self {
        let disk = self.shared.lock();
        let mut random = Random(seed.wrapping_mul(0xd134_2543_de82_ef95) | 1);
        random.next();
        let keeping = [Keeping::AnyPart, Keeping::Nothing, Keeping::Everything, Keeping::AnyPart];
        let keeping = keeping[usize::from(random.next().to_be_bytes()[0] >> 6)];
        let nodes = disk.nodes.iter().map(|node| node.after_cut(&mut random, keeping)).collect();
        Self::of(nodes, seed ^ 0x5555)
    }
}

impl Node {
    fn after_cut(&self, random: &mut Random, keeping: Keeping) -> Self {
        let mut keeps = || match keeping {
            Keeping::Nothing => false,
            Keeping::Everything => true,
            Keeping::AnyPart => random.coin(),
        };
        match self {
            Self::File(file) => {
                let mut bytes = file.lasting.clone();
                for change in &file.changes {
                    match change {
                        FileChange::Length(_) => {
                            if keeps() {
                                change.apply(&mut bytes);
                            }
                        }
                        FileChange::WroteThrough(..) => change.apply(&mut bytes),
                        FileChange::Wrote(offset, written) => {
                            for (index, sector) in written.chunks(SECTOR_BYTES).enumerate() {
                                if keeps() {
                                    store(&mut bytes, offset + index * SECTOR_BYTES, sector);
                                }
                            }
                        }
                    }
                }
                Self::File(File { lasting: bytes.clone(), bytes, changes: Vec::new() })
            }
            Self::Directory(directory) => {
                let mut entries = directory.lasting.clone();
                for change in &directory.changes {
                    if keeps() {
                        change.apply(&mut entries);
                    }
                }
                Self::Directory(Directory { lasting: entries.clone(), entries, changes: Vec::new() })
            }
        }
    }
}

impl FileChange {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Length(length) => bytes.resize(*length, 0),
            Self::Wrote(offset, written) | Self::WroteThrough(offset, written) => store(bytes, *offset, written),
        }
    }
}

impl EntryChange {
    fn apply(&self, entries: &mut BTreeMap<String, usize>) {
        match self {
            Self::Entered(name, node) => drop(entries.insert(name.clone(), *node)),
            Self::Gone(name) => drop(entries.remove(name)),
            Self::Renamed(from, to, node) => {
                entries.remove(from);
                entries.insert(to.clone(), *node);
            }
        }
    }
}

fn store(bytes: &mut Vec<u8>, offset: usize, written: &[u8]) {
    let end = offset + written.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[offset..end].copy_from_slice(written);
}

/// How a call is to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Course {
    /// As it should.
    Whole,
    /// It does this much of its work, then fails.
    Then(bool, Errno),
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a call and says how it goes. `grows`: whether it needs room.
    fn begin(&self, grows: bool) -> Result<(MutexGuard<'_, Disk>, Course), Errno> {
        let mut disk = self.lock();
        let call = disk.calls;
        disk.calls += 1;
        if disk.is_cut {
            return Err(Errno::IO);
        }
        match disk.fault {
            Fault::Cut { at } if at == call => {
                disk.is_cut = true;
                let does = disk.random.coin();
                return Ok((disk, Course::Then(does, Errno::IO)));
            }
            Fault::Fail { at, errno } if at == call => {
                let does = disk.random.coin();
                return Ok((disk, Course::Then(does, errno)));
            }
            Fault::FullFrom { at } if at <= call && grows => {
                let does = disk.random.coin();
                return Ok((disk, Course::Then(does, Errno::NOSPC)));
            }
            Fault::Stall { at } if at == call => {
                disk.is_stalling = true;
                while disk.is_stalling {
                    disk = self.released.wait(disk).unwrap_or_else(PoisonError::into_inner);
                }
            }
            _ => {}
        }
        Ok((disk, Course::Whole))
    }

    fn directory<T>(&self, path: &Path, work: impl FnOnce(&mut Directory) -> T) -> Result<T, Errno> {
        self.look(path, |node| match node {
            Node::Directory(directory) => Ok(work(directory)),
            Node::File(_) => Err(Errno::NOTDIR),
        })
    }

    /// Does something with what a path names, all of it or nothing.
    fn look<T>(&self, path: &Path, work: impl FnOnce(&mut Node) -> Result<T, Errno>) -> Result<T, Errno> {
        let (mut disk, course) = self.begin(false)?;
        let node = disk.find(path)?;
        match course {
            Course::Whole => work(&mut disk.nodes[node]),
            Course::Then(_, errno) => Err(errno),
        }
    }
}

impl Disk {
    fn find(&self, path: &Path) -> Result<usize, Errno> {
        let mut node = 0;
        for name in path.iter().filter_map(|name| name.to_str()).filter(|name| *name != "/") {
            let Node::Directory(directory) = &self.nodes[node] else { return Err(Errno::NOTDIR) };
            node = *directory.entries.get(name).ok_or(Errno::NOENT)?;
        }
        Ok(node)
    }

    fn parent(&self, path: &Path) -> Result<(usize, String), Errno> {
        let name = path.file_name().and_then(|name| name.to_str()).ok_or(Errno::INVAL)?;
        Ok((self.find(path.parent().unwrap_or(Path::new("")))?, name.to_owned()))
    }

    fn entry(&mut self, directory: usize, change: EntryChange) -> Result<(), Errno> {
        let Node::Directory(directory) = &mut self.nodes[directory] else { return Err(Errno::NOTDIR) };
        change.apply(&mut directory.entries);
        directory.changes.push(change);
        Ok(())
    }

    fn has(&self, directory: usize, name: &str) -> Result<Option<usize>, Errno> {
        match &self.nodes[directory] {
            Node::Directory(directory) => Ok(directory.entries.get(name).copied()),
            Node::File(_) => Err(Errno::NOTDIR),
        }
    }

    fn enter_new(&mut self, path: &Path, node: Node) -> Result<usize, Errno> {
        let (parent, name) = self.parent(path)?;
        if self.has(parent, &name)?.is_some() {
            return Err(Errno::EXIST);
        }
        self.nodes.push(node);
        let node = self.nodes.len() - 1;
        self.entry(parent, EntryChange::Entered(name, node))?;
        Ok(node)
    }

    fn rename_new(&mut self, from: &Path, to: &Path) -> Result<(), Errno> {
        let ((source, old), (target, new)) = (self.parent(from)?, self.parent(to)?);
        let node = self.has(source, &old)?.ok_or(Errno::NOENT)?;
        if self.has(target, &new)?.is_some() {
            return Err(Errno::EXIST);
        }
        if source == target {
            return self.entry(source, EntryChange::Renamed(old, new, node));
        }
        self.entry(target, EntryChange::Entered(new, node))?;
        self.entry(source, EntryChange::Gone(old))
    }

    fn remove(&mut self, path: &Path, is_directory: bool) -> Result<(), Errno> {
        let (parent, name) = self.parent(path)?;
        let node = self.has(parent, &name)?.ok_or(Errno::NOENT)?;
        match (&self.nodes[node], is_directory) {
            (Node::Directory(directory), true) if !directory.entries.is_empty() => return Err(Errno::NOTEMPTY),
            (Node::Directory(_), false) => return Err(Errno::ISDIR),
            (Node::File(_), true) => return Err(Errno::NOTDIR),
            _ => {}
        }
        self.entry(parent, EntryChange::Gone(name))
    }

    /// Does a change, as far as the call's course lets it.
    fn follow<T>(&mut self, course: Course, work: impl FnOnce(&mut Self) -> Result<T, Errno>) -> Result<T, Errno> {
        match course {
            Course::Whole => work(self),
            Course::Then(does, errno) => {
                if does && errno != Errno::NOSPC {
                    // Whoever is told of a failure does not know that it was done.
                    drop(work(self));
                }
                Err(errno)
            }
        }
    }
}

impl FileLayer for ModelFiles {
    fn make_directory(&self, path: &Path) -> Result<(), Errno> {
        let (mut disk, course) = self.shared.begin(true)?;
        disk.follow(course, |disk| disk.enter_new(path, Node::Directory(Directory::default())).map(drop))
    }

    fn remove_directory(&self, path: &Path) -> Result<(), Errno> {
        let (mut disk, course) = self.shared.begin(false)?;
        disk.follow(course, |disk| disk.remove(path, true))
    }

    fn sync_directory(&self, path: &Path) -> Result<(), Errno> {
        self.shared.directory(path, |directory| {
            directory.lasting.clone_from(&directory.entries);
            directory.changes.clear();
        })
    }

    fn lock_directory(&self, path: &Path) -> Result<FolderLock, Errno> {
        let node = {
            let (disk, course) = self.shared.begin(false)?;
            let node = disk.find(path)?;
            match course {
                Course::Whole => node,
                Course::Then(_, errno) => return Err(errno),
            }
        };
        let mut disk = self.shared.lock();
        while !disk.locked.insert(node) {
            disk = self.shared.released.wait(disk).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(Box::new(Locked { shared: Arc::clone(&self.shared), node }))
    }

    fn list(&self, path: &Path, each: &mut dyn FnMut(&str)) -> Result<(), Errno> {
        let names: Vec<String> =
            self.shared.directory(path, |directory| directory.entries.keys().cloned().collect())?;
        names.iter().for_each(|name| each(name));
        Ok(())
    }

    fn create(&self, path: &Path) -> Result<Box<dyn StoredFile>, Errno> {
        let (mut disk, course) = self.shared.begin(true)?;
        let node = disk.follow(course, |disk| disk.enter_new(path, Node::File(File::default())))?;
        Ok(Box::new(ModelFile { shared: Arc::clone(&self.shared), node, access: Access::Write }))
    }

    fn open(&self, path: &Path, access: Access) -> Result<Box<dyn StoredFile>, Errno> {
        let (disk, course) = self.shared.begin(false)?;
        let node = disk.find(path)?;
        match (course, &disk.nodes[node]) {
            (Course::Then(_, errno), _) => Err(errno),
            (Course::Whole, Node::Directory(_)) => Err(Errno::ISDIR),
            (Course::Whole, Node::File(_)) => {
                Ok(Box::new(ModelFile { shared: Arc::clone(&self.shared), node, access }))
            }
        }
    }

    fn rename_new(&self, from: &Path, to: &Path) -> Result<(), Errno> {
        let (mut disk, course) = self.shared.begin(true)?;
        disk.follow(course, |disk| disk.rename_new(from, to))
    }

    fn remove(&self, path: &Path) -> Result<(), Errno> {
        let (mut disk, course) = self.shared.begin(false)?;
        disk.follow(course, |disk| disk.remove(path, false))
    }

    fn bytes(&self, path: &Path) -> Result<u64, Errno> {
        self.shared.look(path, |node| match node {
            Node::File(file) => Ok(file.bytes.len() as u64),
            Node::Directory(_) => Err(Errno::ISDIR),
        })
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        self.shared.lock().locked.remove(&self.node);
        self.shared.released.notify_all();
    }
}

impl ModelFile {
    fn with<T>(&self, grows: bool, work: impl FnOnce(&mut File, Course) -> Result<T, Errno>) -> Result<T, Errno> {
        let (mut disk, course) = self.shared.begin(grows)?;
        match &mut disk.nodes[self.node] {
            Node::File(file) => work(file, course),
            Node::Directory(_) => Err(Errno::ISDIR),
        }
    }
}

impl StoredFile for ModelFile {
    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), Errno> {
        if self.access == Access::Read || !offset.is_multiple_of(BLOCK_BYTES as u64) {
            return Err(Errno::INVAL);
        }
        let start = usize::try_from(offset).map_err(|_| Errno::FBIG)?;
        self.with(true, |file, course| {
            let (written, result) = match course {
                Course::Whole => (bytes, Ok(())),
                Course::Then(false, errno) => (&bytes[..0], Err(errno)),
                // A part, as a disk that fills up leaves it.
                Course::Then(true, errno) => (&bytes[..bytes.len() / 2], Err(errno)),
            };
            store(&mut file.bytes, start, written);
            file.changes.push(FileChange::Wrote(start, written.to_vec()));
            let end = start + bytes.len();
            if result.is_ok() && !bytes.len().is_multiple_of(BLOCK_BYTES) {
                file.bytes.truncate(end);
                file.changes.push(FileChange::Length(end));
            }
            result
        })
    }

    fn write_through(&self, offset: u64, bytes: &[u8]) -> Result<(), Errno> {
        self.write(offset, bytes)?;
        // Nothing else was written meanwhile: who writes through is the only one that writes.
        self.with(false, |file, course| match (course, file.changes.pop()) {
            (Course::Whole, Some(FileChange::Wrote(offset, written))) => {
                file.changes.push(FileChange::WroteThrough(offset, written));
                Ok(())
            }
            (Course::Then(does, errno), Some(written)) => {
                if !does {
                    file.changes.push(written);
                }
                Err(errno)
            }
            (_, _) => Err(Errno::IO),
        })
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> Result<usize, Errno> {
        self.with(false, |file, course| {
            if let Course::Then(_, errno) = course {
                return Err(errno);
            }
            let start = usize::try_from(offset).unwrap_or(usize::MAX).min(file.bytes.len());
            let read = into.len().min(file.bytes.len() - start);
            into[..read].copy_from_slice(&file.bytes[start..start + read]);
            Ok(read)
        })
    }

    fn bytes(&self) -> Result<u64, Errno> {
        self.with(false, |file, course| match course {
            Course::Whole => Ok(file.bytes.len() as u64),
            Course::Then(_, errno) => Err(errno),
        })
    }

    fn reserve(&self, bytes: u64) -> Result<(), Errno> {
        let length = usize::try_from(bytes).map_err(|_| Errno::FBIG)?;
        self.with(true, |file, course| match course {
            Course::Whole => {
                if file.bytes.len() < length {
                    file.bytes.resize(length, 0);
                    file.changes.push(FileChange::Length(length));
                }
                Ok(())
            }
            Course::Then(_, errno) => Err(errno),
        })
    }

    fn sync(&self) -> Result<(), Errno> {
        self.with(false, |file, course| match course {
            Course::Whole => {
                let changes = std::mem::take(&mut file.changes);
                changes.iter().for_each(|change| change.apply(&mut file.lasting));
                Ok(())
            }
            Course::Then(does, errno) => {
                // Of some kernels a later sync says nothing of what this one lost.
                if does {
                    file.changes.clear();
                }
                Err(errno)
            }
        })
    }
}

/// Where tests keep things: the root of a model.
#[must_use]
pub fn root() -> PathBuf {
    PathBuf::from("/")
}
