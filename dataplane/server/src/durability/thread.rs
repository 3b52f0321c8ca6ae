//! The thread itself.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};

use super::{Beginning, Command};
use crate::hosting::JobResult;
use crate::limits::{LOG_BATCH_BYTES, LOG_LOOK_PERIOD, LOG_RETRY_PERIOD};
use crate::log::Log as Logger;
use crate::processes::ProcessKey;

const WAKER: Token = Token(usize::MAX);
/// Events of one wait: those of more rings are told at the next.
const EVENTS_MAX: usize = 64;
/// Bytes read of a doorbell at a time; what is left of a flood is read at the next wake.
const DOORBELL_BYTES: usize = 256;

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

/// One ring with its log.
#[derive(Debug)]
struct LoggedRing {
    parts: Beginning,
    /// Records that were copied and that the log has not taken yet.
    batch: Vec<u8>,
    batch_position: u64,
    appended: u64,
    durable: u64,
    seen: u32,
    /// Whether it was said that its log fails.
    is_failing: bool,
}

#[derive(Debug)]
pub(super) struct LogThread {
    poll: Poll,
    orders: Receiver<Command>,
    results: Sender<JobResult>,
    loop_waker: Arc<Waker>,
    logger: Logger,
    rings: BTreeMap<ProcessKey, LoggedRing>,
}

impl LogThread {
    pub(super) fn new(
        orders: Receiver<Command>,
        results: Sender<JobResult>,
        loop_waker: Arc<Waker>,
        logger: Logger,
    ) -> io::Result<(Self, Arc<Waker>)> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        Ok((Self { poll, orders, results, loop_waker, logger, rings: BTreeMap::new() }, waker))
    }

    pub(super) fn run(mut self) {
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
                Ok(Command::Begin(parts)) => self.begin(*parts),
                Ok(Command::End(key)) => self.end(key),
                Ok(Command::Stop) | Err(TryRecvError::Disconnected) => return false,
                Err(TryRecvError::Empty) => return true,
            }
        }
    }

    fn begin(&mut self, parts: Beginning) {
        let (key, position) = (parts.key, parts.reader.position());
        let fd = parts.doorbell.as_raw_fd();
        let watched = self.poll.registry().register(&mut SourceFd(&fd), Token(key.0), Interest::READABLE);
        if let Err(error) = watched {
            return self.give_up(key, format!("its log's doorbell cannot be watched: {error}"));
        }
        let ring = LoggedRing {
            parts,
            batch: Vec::new(),
            batch_position: position,
            appended: position,
            durable: position,
            seen: 0,
            is_failing: false,
        };
        self.rings.insert(key, ring);
    }

    fn end(&mut self, key: ProcessKey) {
        if let Some(ring) = self.rings.remove(&key) {
            let fd = ring.parts.doorbell.as_raw_fd();
            // Closing would do the same, if no worker had the pipe.
            let _ = self.poll.registry().deregister(&mut SourceFd(&fd));
        }
    }

    /// The process can no longer be logged, so it cannot go on.
    fn give_up(&mut self, key: ProcessKey, reason: String) {
        self.end(key);
        if self.results.send(JobResult::LogBroken { key, reason }).is_ok() {
            let _ = self.loop_waker.wake();
        }
    }

    /// A batch of each ring. How long to wait then; `None` if there may be more.
    fn turn(&mut self) -> Option<Duration> {
        let (mut moved, mut waits, mut broken) = (false, false, Vec::new());
        for (key, ring) in &mut self.rings {
            match ring.turn(self.logger) {
                Ok(Turn::Moved) => moved = true,
                Ok(Turn::Waits) => waits = true,
                Ok(Turn::Idle) => {}
                Err(reason) => broken.push((*key, reason)),
            }
        }
        for (key, reason) in broken {
            self.give_up(key, reason);
        }
        // The bells are armed one by one; one that cannot be has news.
        if moved || !self.rings.values().all(LoggedRing::may_sleep) {
            return None;
        }
        Some(if waits { LOG_RETRY_PERIOD } else { LOG_LOOK_PERIOD })
    }
}

impl LoggedRing {
    fn turn(&mut self, logger: Logger) -> Result<Turn, String> {
        if self.batch.is_empty() {
            self.seen = self.parts.reader.begin_look();
            let read = self.parts.reader.read(&mut self.batch, LOG_BATCH_BYTES);
            self.batch_position = read.map_err(|error| error.to_string())?;
        }
        let bytes = self.batch.len();
        if bytes > 0 {
            if let Err(error) = self.parts.log.append(&self.batch, self.batch_position) {
                self.note_failure(logger, &error);
                return Ok(Turn::Waits);
            }
            self.parts.reader.consume(bytes);
            self.batch.clear();
            self.appended = self.batch_position;
        }
        if self.durable < self.appended {
            match self.parts.log.sync() {
                Ok(durable) => self.show(durable, logger),
                Err(error) => self.note_failure(logger, &error),
            }
        }
        Ok(match (bytes, self.durable < self.appended) {
            (1.., _) => Turn::Moved,
            (0, true) => Turn::Waits,
            (0, false) => Turn::Idle,
        })
    }

    fn show(&mut self, durable: u64, logger: Logger) {
        if std::mem::take(&mut self.is_failing) {
            logger.info(format_args!("the log of {} works again", self.parts.process));
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
            let process = self.parts.process;
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
