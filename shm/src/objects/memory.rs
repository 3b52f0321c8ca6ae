//! An objects segment as server and workers map it.
//!
//! The server creates it with its limit as size, sealed and sparse, and hands its descriptor to the workers of the process
//! and to the keeper. Magic and version are stored last; whoever attaches checks them, and takes the layout from the
//! server's message.

use std::hash::{BuildHasher, Hasher};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::check::{self, Checked};
use super::error::{RecoverError, RowTaken};
use super::heap;
use super::layout::{ObjectsLayout, header};
use super::limits::ROWS;
use super::lock::{self, LockOwner};
use super::object::ValuePlace;
use super::recovery::{self, Recovered};
use super::row_owner;
use super::store::Store;
use super::usage::Usage;
use super::words::{Space, Words};
use crate::log_ring::LogWriter;
use crate::segment::{AttachError, Segment};
use crate::sync::Ordering;
use crate::tag::WorkerTag;

const MAGIC: u64 = u64::from_le_bytes(*b"praasobj");
const VERSION: u32 = 5;
const KIND: &str = "objects segment";

/// The mapped state of one process.
#[derive(Debug)]
pub struct Objects {
    segment: Segment,
    layout: ObjectsLayout,
    words: NonNull<crate::sync::AtomicU64>,
    /// Where changes are recorded, if they are.
    log: Option<LogWriter>,
    /// Rows that an end in this very process uses.
    rows_taken: [AtomicBool; ROWS],
    /// The same of ends of the mailbox.
    mail_rows_taken: [AtomicBool; ROWS],
}

// SAFETY: the pointer lies in the segment that the value owns, which may be shared and sent; it points to atomics.
unsafe impl Send for Objects {}
// SAFETY: as above.
unsafe impl Sync for Objects {}

impl Objects {
    /// Server: the empty state of a new process.
    ///
    /// # Errors
    /// The system's, for want of descriptors or memory.
    pub fn create(layout: ObjectsLayout) -> io::Result<Self> {
        let objects = Self::over(Segment::create("praas-objects", layout.segment_bytes())?, layout);
        let space = objects.space();
        heap::format(space);
        // The standard library's hasher is seeded by the system.
        let seed = std::hash::RandomState::new().build_hasher().finish();
        space.words.store(header::HASH_SEED, seed);
        space.words.store(header::LIMIT_BYTES, layout.segment_bytes() as u64);
        space.words.store(header::BUCKETS, 1 << layout.first_power);
        space.words.store(header::MAGIC, MAGIC);
        // Pairs with the load in `attach`.
        space.words.store(header::VERSION, u64::from(VERSION));
        Ok(objects)
    }

    /// Worker, or the server after a restart: the state behind a descriptor.
    ///
    /// # Errors
    /// [`AttachError`] when the segment's size, seals, magic or version are not right.
    pub fn attach(fd: OwnedFd, layout: ObjectsLayout) -> Result<Self, AttachError> {
        let objects = Self::over(Segment::attach(fd, layout.segment_bytes())?, layout);
        let words = objects.space().words;
        let version = words.load_acquire(header::VERSION);
        let magic = words.load(header::MAGIC);
        if magic != MAGIC {
            return Err(AttachError::Magic { kind: KIND, actual: magic });
        }
        if version != u64::from(VERSION) {
            let actual = u32::try_from(version).unwrap_or(u32::MAX);
            return Err(AttachError::Version { kind: KIND, actual, expected: VERSION });
        }
        Ok(objects)
    }

    fn over(segment: Segment, layout: ObjectsLayout) -> Self {
        let words = segment.at(0, layout.segment_bytes()).cast();
        assert!(words.is_aligned(), "a mapping starts on a page");
        Self { segment, layout, words, log: None, rows_taken: no_rows(), mail_rows_taken: no_rows() }
    }

    /// The same state, whose changes are recorded in this ring from now on. All that map it must do the same.
    #[must_use]
    pub fn with_log(self, log: LogWriter) -> Self {
        Self { log: Some(log), ..self }
    }

    /// Server: changes are recorded in a new ring from now on. Nobody else may have the segment yet, and what the dead were at
    /// must be settled: that is in no log.
    pub fn begin_log(&mut self, log: LogWriter) {
        self.space().words.store(header::LOG_TAIL, 0);
        self.log = Some(log);
    }

    /// Where changes are recorded, if they are.
    #[must_use]
    pub fn log(&self) -> Option<&LogWriter> {
        self.log.as_ref()
    }

    /// The descriptor, for handing out.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.segment.fd()
    }

    /// The layout.
    #[must_use]
    pub fn layout(&self) -> ObjectsLayout {
        self.layout
    }

    /// Bytes that are backed by memory now; the rest of the limit is sparse.
    ///
    /// # Errors
    /// The system's.
    pub fn allocated_bytes(&self) -> io::Result<u64> {
        self.segment.allocated_bytes()
    }

    /// The end of worker `tag` in this process. A successor with the same index starts only after
    /// [`Objects::recover`] of its predecessor.
    ///
    /// # Errors
    /// [`RowTaken`] if this process already has an end of that index.
    pub fn worker_store(self: &Arc<Self>, tag: WorkerTag) -> Result<Store, RowTaken> {
        let row = usize::from(tag.index());
        self.take_row(row)?;
        row_owner::set(self.space(), tag);
        Ok(Store::new(Arc::clone(self), row, LockOwner::Worker(tag)))
    }

    /// The server's own end. It copies what it reads, and does not wait for the lock: operations that find it taken are
    /// refused as busy, to be repeated by a timer.
    ///
    /// # Errors
    /// [`RowTaken`] if there is one already.
    pub fn server_store(self: &Arc<Self>) -> Result<Store, RowTaken> {
        self.take_row(ROWS - 1)?;
        Ok(Store::new(Arc::clone(self), ROWS - 1, LockOwner::Server))
    }

    fn take_row(&self, row: usize) -> Result<(), RowTaken> {
        if self.rows_taken[row].swap(true, Ordering::Relaxed) { Err(RowTaken { row }) } else { Ok(()) }
    }

    pub(crate) fn give_row_back(&self, row: usize) {
        self.rows_taken[row].store(false, Ordering::Relaxed);
    }

    /// False if this process already has a mailbox of that row.
    pub(crate) fn take_mail_row(&self, row: usize) -> bool {
        !self.mail_rows_taken[row].swap(true, Ordering::Relaxed)
    }

    pub(crate) fn give_mail_row_back(&self, row: usize) {
        self.mail_rows_taken[row].store(false, Ordering::Relaxed);
    }

    /// Server: settles what a dead worker was at, gives back the messages that it held, clears its pins and frees its loans. The worker must be known to be dead.
    ///
    /// # Errors
    /// [`RecoverError::Busy`] while a live worker writes: come back by a timer. [`RecoverError::Corrupt`]: the process has
    /// failed.
    pub fn recover(&self, dead: WorkerTag) -> Result<Recovered, RecoverError> {
        recovery::recover(self.space(), dead)
    }

    /// Server after a restart: the same for all workers and the server before. All of them must be dead.
    ///
    /// # Errors
    /// [`RecoverError::Corrupt`]: the process has failed.
    pub fn recover_all(&self) -> Result<Recovered, RecoverError> {
        recovery::recover_all(self.space())
    }

    /// Server: whether everything adds up. Visits every block and every key, and keeps writers out meanwhile.
    ///
    /// # Errors
    /// As for [`Objects::recover`].
    pub fn check(&self) -> Result<Checked, RecoverError> {
        let locked = lock::acquire(self.space(), LockOwner::Server, Duration::ZERO)?;
        check::check(&locked).map_err(RecoverError::from)
    }

    /// Figures of what is used and free, read without the lock: each is right, their sum may be off by an operation.
    #[must_use]
    pub fn usage(&self) -> Usage {
        Usage::read(self.space())
    }

    /// The position of the last mutation: the version given out last.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.space().words.load_acquire(header::POSITION)
    }

    /// Who is writing now.
    #[must_use]
    pub fn lock_owner(&self) -> LockOwner {
        lock::owner(self.space())
    }

    #[inline]
    pub(crate) fn space(&self) -> Space<'_> {
        // SAFETY: `over` took the address of the whole segment, which lives as long as `self` and consists of atomics for
        // everybody but for the values of objects, which `bytes` reaches.
        let words = unsafe { Words::new(self.words, self.layout.words()) };
        Space { words, layout: &self.layout, log: self.log.as_ref() }
    }

    /// Copies the bytes of a long value to its place, which nobody else uses. Panics outside the segment.
    pub(crate) fn fill(&self, place: ValuePlace, value: &[u8]) {
        assert_eq!(place.bytes, value.len(), "a value is as long as its place");
        self.segment.write(place.offset, value);
    }

    /// The address of bytes of a value. Panics outside the segment, which a checked place excludes.
    #[inline]
    pub(crate) fn bytes(&self, offset: usize, bytes: usize) -> NonNull<u8> {
        self.segment.at(offset, bytes)
    }
}

fn no_rows() -> [AtomicBool; ROWS] {
    [const { AtomicBool::new(false) }; ROWS]
}
