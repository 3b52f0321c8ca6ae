//! The thread itself.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};

use praas_storage::Folder;
use praas_sys::time_slice::{TIME_SLICE_MIN, ask_for_slices};

use super::files::FileOrder;
use super::{Command, LogEnd, LogNews, News, Opened};
use crate::limits::{LOG_BATCH_BYTES, LOG_GATHER_MAX, LOG_LOOK_PERIOD, LOG_POLL_BUDGET, LOG_RETRY_PERIOD};
use crate::log::Log as Logger;
use crate::processes::ProcessKey;

const WAKER: Token = Token(usize::MAX);
/// Events of one wait: those of more rings are told at the next.
const EVENTS_MAX: usize = 64;
/// Bytes read of a doorbell at a time; what is left of a flood is read at the next wake.
const DOORBELL_BYTES: usize = 256;
/// Turns of a ring whose log ends: more than a full ring takes.
const LAST_TURNS_MAX: usize = 16;

/// What a turn of one ring came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// Something was moved: there may be more.
    Moved,
    /// Nothing is left.
    Idle,
    /// Its log has something that it has not made durable, or did not take.
    Waits,
}

/// What came of moving records into a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taken {
    /// It has more.
    Some,
    /// There was nothing.
    Nothing,
    /// It has to be synced before it takes more.
    Full,
    /// It failed.
    Refused,
}

/// One ring with its log.
#[derive(Debug)]
struct LoggedRing {
    parts: Opened,
    /// Records that were copied and that the log has not taken yet.
    batch: Vec<u8>,
    batch_position: u64,
    appended: u64,
    durable: u64,
    /// Whether something was appended since the last sync that said that all is durable: it may have no position of its own.
    is_dirty: bool,
    seen: u32,
    /// Changes that the last sync made durable, and how long it took.
    group: u64,
    sync_time: Duration,
    /// Whether it was said that its log fails.
    is_failing: bool,
}

#[derive(Debug)]
pub(super) struct LogThread {
    poll: Poll,
    orders: Receiver<Command>,
    files: Sender<FileOrder>,
    news: News,
    logger: Logger,
    rings: BTreeMap<ProcessKey, LoggedRing>,
    /// Whose logs are being opened.
    opening: BTreeSet<ProcessKey>,
    /// Whose ring had something last, until it was polled in vain.
    busy: Option<ProcessKey>,
}

impl LogThread {
    pub(super) fn new(
        orders: Receiver<Command>,
        files: Sender<FileOrder>,
        news: News,
        logger: Logger,
    ) -> io::Result<(Self, Arc<Waker>)> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let (rings, opening) = (BTreeMap::new(), BTreeSet::new());
        Ok((Self { poll, orders, files, news, logger, rings, opening, busy: None }, waker))
    }

    pub(super) fn run(mut self) {
        if let Err(errno) = ask_for_slices(TIME_SLICE_MIN) {
            self.logger.info(format_args!("the log's thread waits for the CPU like all others: {errno}"));
        }
        let mut events = Events::with_capacity(EVENTS_MAX);
        while self.obey() {
            let Some(wait) = self.turn() else { continue };
            match self.poll.poll(&mut events, Some(wait)) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                    return self.logger.error(format_args!("waiting for log rings failed: {error}; nothing is logged"));
                }
                _ => {}
            }
            for event in &events {
                if let Some(ring) = self.rings.get(&ProcessKey(event.token().0)) {
                    ring.silence();
                }
            }
        }
    }

    /// Does what it was told. False at the end.
    fn obey(&mut self) -> bool {
        loop {
            match self.orders.try_recv() {
                Ok(Command::Begin(beginning)) => {
                    self.opening.insert(beginning.key);
                    // Fails only when that thread has panicked, which its hook has printed.
                    let _ = self.files.send(FileOrder::Open(beginning));
                }
                Ok(Command::Opened(key, opened)) => {
                    if self.opening.remove(&key) {
                        match opened {
                            Ok(opened) => self.begin(*opened),
                            Err(reason) => self.news.tell(LogNews::Broken(key, reason)),
                        }
                    }
                }
                Ok(Command::Truncate(key, position)) => self.truncate(key, position),
                Ok(Command::End(key, folder, then)) => self.end(key, folder, then),
                Ok(Command::Stop) | Err(TryRecvError::Disconnected) => {
                    let keys: Vec<_> = self.rings.keys().copied().collect();
                    keys.into_iter().for_each(|key| self.end_ring(key));
                    return false;
                }
                Err(TryRecvError::Empty) => return true,
            }
        }
    }

    fn begin(&mut self, parts: Opened) {
        let (key, position) = (parts.key, parts.reader.position());
        let fd = parts.doorbell.as_raw_fd();
        let watched = self.poll.registry().register(&mut SourceFd(&fd), Token(key.0), Interest::READABLE);
        if let Err(error) = watched {
            return self.news.tell(LogNews::Broken(key, format!("its doorbell cannot be watched: {error}")));
        }
        parts.control.set_durable(position);
        let ring = LoggedRing {
            parts,
            batch: Vec::new(),
            batch_position: position,
            appended: position,
            durable: position,
            is_dirty: false,
            seen: 0,
            group: 0,
            sync_time: Duration::ZERO,
            is_failing: false,
        };
        self.rings.insert(key, ring);
        self.news.tell(LogNews::Begun(key));
    }

    /// A log is no longer written to, once it has what lies in the ring.
    fn end(&mut self, key: ProcessKey, folder: Folder, then: LogEnd) {
        self.opening.remove(&key);
        self.end_ring(key);
        if then != LogEnd::Leave {
            let _ = self.files.send(FileOrder::End(key, folder, then));
        }
    }

    fn end_ring(&mut self, key: ProcessKey) {
        let Some(mut ring) = self.rings.remove(&key) else { return };
        for _ in 0..LAST_TURNS_MAX {
            if ring.turn(self.logger) != Ok(Turn::Moved) {
                break;
            }
        }
        let fd = ring.parts.doorbell.as_raw_fd();
        // Closing would do the same, if no worker had the pipe.
        let _ = self.poll.registry().deregister(&mut SourceFd(&fd));
    }

    /// The process can no longer be logged, so it cannot go on.
    fn give_up(&mut self, key: ProcessKey, reason: String) {
        self.end_ring(key);
        self.news.tell(LogNews::Broken(key, reason));
    }

    fn truncate(&mut self, key: ProcessKey, position: u64) {
        let Some(ring) = self.rings.get_mut(&key) else { return };
        let Some(position) = ring.parts.reader.not_needed(position) else { return };
        if let Err(error) = ring.parts.log.truncate(position) {
            let process = ring.parts.folder.process;
            self.logger.warning(format_args!("the log of {process} stays longer than it has to be: {error}"));
        }
    }

    /// A batch of each ring. How long to wait then; `None` if there may be more.
    fn turn(&mut self) -> Option<Duration> {
        let (mut moved, mut waits, mut broken) = (false, false, Vec::new());
        for (key, ring) in &mut self.rings {
            match ring.turn(self.logger) {
                Ok(Turn::Moved) => (moved, self.busy) = (true, Some(*key)),
                Ok(Turn::Waits) => waits = true,
                Ok(Turn::Idle) => {}
                Err(reason) => broken.push((*key, reason)),
            }
        }
        for (key, reason) in broken {
            self.give_up(key, reason);
        }
        if moved || self.polls_something() {
            return None;
        }
        // The bells are armed one by one; one that cannot be has news.
        if !self.rings.values().all(LoggedRing::may_sleep) {
            return None;
        }
        Some(if waits { LOG_RETRY_PERIOD } else { LOG_LOOK_PERIOD })
    }

    /// Polls the ring that had something last: who was told that something is durable goes on about now, and being woken for
    /// what comes next takes longer than it.
    fn polls_something(&mut self) -> bool {
        let ring = self.busy.take().and_then(|key| self.rings.get(&key));
        ring.is_some_and(|ring| ring.batch.is_empty() && ring.parts.reader.poll(LOG_POLL_BUDGET))
    }
}

impl LoggedRing {
    fn turn(&mut self, logger: Logger) -> Result<Turn, String> {
        let taken = self.take(logger)?;
        if taken == Taken::Refused {
            return Ok(Turn::Waits);
        }
        let has_moved = taken == Taken::Some;
        if self.is_dirty {
            self.gather(logger)?;
            let (began, before) = (Instant::now(), self.durable);
            match self.parts.log.sync() {
                Ok(durable) => {
                    self.show(durable, logger);
                    (self.group, self.sync_time) = (self.durable - before, began.elapsed());
                    self.is_dirty = self.durable < self.appended;
                }
                Err(error) => self.note_failure(logger, &error),
            }
        }
        if !self.is_dirty && self.batch.is_empty() {
            self.parts.reader.release();
        }
        Ok(match (has_moved, self.is_dirty, self.batch.is_empty()) {
            (true, ..) | (_, false, false) => Turn::Moved,
            (false, true, _) => Turn::Waits,
            (false, false, true) => Turn::Idle,
        })
    }

    /// Moves what lies in the ring into its log.
    fn take(&mut self, logger: Logger) -> Result<Taken, String> {
        if self.batch.is_empty() {
            self.seen = self.parts.reader.begin_look();
            let read = self.parts.reader.read(&mut self.batch, LOG_BATCH_BYTES);
            self.batch_position = read.map_err(|error| error.to_string())?;
        }
        if self.batch.is_empty() {
            return Ok(Taken::Nothing);
        }
        match self.parts.log.append(&self.batch, self.batch_position) {
            Ok(()) => {
                self.batch.clear();
                (self.appended, self.is_dirty) = (self.batch_position, true);
                Ok(Taken::Some)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && self.is_dirty => Ok(Taken::Full),
            Err(error) => {
                self.note_failure(logger, &error);
                Ok(Taken::Refused)
            }
        }
    }

    /// Waits a little for others to join: whoever was told by the last sync comes back about now, and the first of them would
    /// go alone, with all others behind it. Half as many as the last time are a group; the other half gathers while it is
    /// synced. One writer alone never waits.
    fn gather(&mut self, logger: Logger) -> Result<(), String> {
        let until = Instant::now() + LOG_GATHER_MAX.min(self.sync_time / 2);
        while (self.appended - self.durable) * 2 < self.group && Instant::now() < until {
            if !self.parts.reader.has_more() {
                std::thread::yield_now();
            } else if self.take(logger)? != Taken::Some {
                break;
            }
        }
        Ok(())
    }

    fn show(&mut self, durable: u64, logger: Logger) {
        if std::mem::take(&mut self.is_failing) {
            logger.info(format_args!("the log of {} works again", self.parts.folder.process));
        }
        // A log cannot know more than it was given.
        let durable = durable.min(self.appended);
        if durable > self.durable {
            self.durable = durable;
            self.parts.control.set_durable(durable);
        }
    }

    fn note_failure(&mut self, logger: Logger, error: &io::Error) {
        if !std::mem::replace(&mut self.is_failing, true) {
            let process = self.parts.folder.process;
            logger.error(format_args!(
                "the log of {process} failed and is tried again: {error}; meanwhile its replies are held, and it changes \
                 nothing once its log ring is full"
            ));
        }
    }

    /// Whether nothing has come since the last look. One whose log took nothing is not rung for.
    fn may_sleep(&self) -> bool {
        !self.batch.is_empty() || self.parts.reader.arm(self.seen)
    }

    /// Reads what was rung.
    fn silence(&self) {
        // An empty pipe is as silent as a drained one.
        let _ = rustix::io::read(&self.parts.doorbell, &mut [0_u8; DOORBELL_BYTES]);
    }
}
