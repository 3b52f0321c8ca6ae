//! Durability of logged processes: one thread that moves what they change from their log rings into their logs.
//!
//! ```text
//! workers ─records─▶ log ring ─copy─▶ append ─▶ sync ─▶ durable in the control page ─▶ held replies, barriers, sends
//! ```
//!
//! The thread owns the reading end of every ring and the log behind it. It takes one batch of each ring in turn, so that no
//! process waits for the floods of another, syncs each log once for all that was appended to it, and sleeps only when every
//! ring has said that nothing is left; a writer then rings the pipe of its process. Nothing of a call passes through it, and
//! the server's loop never waits for it. What takes long, which is to open a log and to remove one, is done by another thread,
//! in the order in which it was asked for.
//!
//! 1. A position is shown as durable only after its log has said so. It is never shown lower than before.
//! 2. Bytes stay in the ring until the log has made them durable. A log that fails is tried again; meanwhile its ring fills up,
//!    puts wait and are refused with figures, and replies are held: nobody is told of anything that is not durable.
//! 3. A ring with something else in it than records fails its process, and nothing else.
//! 4. A server that dies loses no change: objects and ring are with the keeper, and the next server goes on with the same log,
//!    from the first record of the ring that it lacks. Where server and keeper both die, what was shown as durable is in
//!    the log, and what the log began with is in storage, or was nothing.
//! 5. A log is removed only when everything that it has is in a snapshot that lasts, or its process was stopped. One whose
//!    process is being stopped is marked first, so that no part of it is ever taken for a process that lives.
//!
//! [`Log`] is what storage comes under: [`DiskLog`] keeps records on a disk; [`MemoryLog`] keeps them in memory, and lets tests
//! delay and fail syncs.

mod disk_log;
mod files;
mod memory_log;
mod thread;

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;

use mio::Waker;
use praas_protocol::Durability;
use praas_shm::control_page::ControlPage;
use praas_shm::log_ring::LogReader;
use praas_storage::Folder;

pub use self::disk_log::DiskLog;
use self::files::FilesThread;
pub use self::memory_log::MemoryLog;
use self::thread::LogThread;
use crate::hosting::JobResult;
use crate::log::Log as Logger;
use crate::processes::{Process, ProcessKey, Stage};
use crate::shard::Shard;
use crate::swap::SwapReason;

/// Where the records of one process go.
pub trait Log: Send + fmt::Debug {
    /// Takes whole records; the last of them that has a position has this one. After an error it is called again with the
    /// same.
    ///
    /// # Errors
    /// Whatever keeps it from that: it is tried again.
    fn append(&mut self, records: &[u8], position: u64) -> io::Result<()>;

    /// Makes durable what was appended. The position up to which all is: a lower one than that of the last append means that
    /// it is to be asked again.
    ///
    /// # Errors
    /// Whatever keeps it from that: it is tried again.
    fn sync(&mut self) -> io::Result<u64>;

    /// May forget everything up to a position, which is kept elsewhere.
    ///
    /// # Errors
    /// Why it has not: it is asked again some time.
    fn truncate(&mut self, position: u64) -> io::Result<()>;
}

/// What makes logs.
pub trait LogStore: Send + Sync + fmt::Debug {
    /// How far the log of a life of a process goes; `None` if it has none.
    ///
    /// # Errors
    /// Why that is not known: it is damaged, or cannot be read.
    fn end(&self, folder: &Folder) -> io::Result<Option<u64>>;

    /// A new log of a life of a process, whose first record follows `position`. One that it has is given up, because what there is
    /// at that position is kept elsewhere. `note` is what has to be known of the process.
    ///
    /// # Errors
    /// Why there is none: the process is not created, or fails.
    fn begin(&self, folder: &Folder, position: u64, note: &[u8]) -> io::Result<Box<dyn Log>>;

    /// The log of a life of a process, which ends at `position`.
    ///
    /// # Errors
    /// Why it cannot go on there. Nothing of it has changed.
    fn go_on(&self, folder: &Folder, position: u64) -> io::Result<Box<dyn Log>>;

    /// Marks the log of a life as over.
    ///
    /// # Errors
    /// Why it may not be marked.
    fn mark_ended(&self, folder: &Folder) -> io::Result<()>;

    /// Removes the log of a life; nothing to do if it has none.
    ///
    /// # Errors
    /// Why something of it may be left.
    fn remove(&self, folder: &Folder) -> io::Result<()>;

    /// Whether what it has is there for the next server.
    fn lasts(&self) -> bool;
}

/// In which state a ring is when its log begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RingStart {
    /// Nobody has written to it.
    New,
    /// An earlier server read it into the same log.
    LeftBehind,
    /// Nobody has written to it, and its process was made of its log.
    Replayed,
}

/// A ring that is to have a log.
#[derive(Debug)]
struct Beginning {
    key: ProcessKey,
    folder: Folder,
    note: Vec<u8>,
    ring: OwnedFd,
    ring_bytes: u64,
    start: RingStart,
    /// Where the process is.
    position: u64,
    /// Read end of the pipe that writers ring.
    doorbell: OwnedFd,
    control: Arc<ControlPage>,
}

/// A ring and its log.
#[derive(Debug)]
struct Opened {
    key: ProcessKey,
    folder: Folder,
    reader: LogReader,
    doorbell: OwnedFd,
    control: Arc<ControlPage>,
    log: Box<dyn Log>,
}

/// What becomes of the log of a ring that is no longer read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogEnd {
    /// It stays.
    Leave,
    /// It is marked as over, which is told.
    Mark,
    /// It goes, which is told.
    Remove,
}

/// What the threads are told.
#[derive(Debug)]
enum Command {
    Begin(Box<Beginning>),
    Opened(ProcessKey, Result<Box<Opened>, String>),
    Truncate(ProcessKey, u64),
    End(ProcessKey, Folder, LogEnd),
    Stop,
}

/// What the loop is told.
#[derive(Debug)]
pub(crate) enum LogNews {
    /// The log of a process is there, and its records are read.
    Begun(ProcessKey),
    /// It cannot go on.
    Broken(ProcessKey, String),
    /// It was marked or removed, or not.
    Ended(ProcessKey, LogEnd, Result<(), String>),
}

/// The threads, and what makes logs for them.
#[derive(Debug)]
pub(crate) struct Durabilities {
    store: Arc<dyn LogStore>,
    disk: Option<DiskLog>,
    commands: Sender<Command>,
    waker: Arc<Waker>,
    threads: Vec<JoinHandle<()>>,
}

/// A log under way; dropped, it is no longer written to, and stays.
#[derive(Debug)]
pub(crate) struct LogTicket {
    key: ProcessKey,
    folder: Folder,
    then: LogEnd,
    commands: Sender<Command>,
    waker: Arc<Waker>,
}

/// The log of a process, as the process has it.
#[derive(Debug)]
pub(crate) struct ProcessLog {
    folder: Folder,
    /// While its ring may be read.
    ticket: Option<LogTicket>,
    /// Whether it is known to be there.
    is_ready: bool,
    /// Whether no worker may start before that.
    holds_workers: bool,
    is_marked: bool,
}

impl ProcessLog {
    /// Whether workers have to wait for it.
    pub(crate) fn holds_workers(&self) -> bool {
        self.holds_workers
    }
}

impl Durabilities {
    /// Starts the threads. What they find wrong with a process goes to `results`, followed by a wake of the loop.
    pub(crate) fn start(
        store: Arc<dyn LogStore>,
        disk: Option<DiskLog>,
        results: Sender<JobResult>,
        loop_waker: Arc<Waker>,
        logger: Logger,
    ) -> io::Result<Self> {
        let (commands, orders) = std::sync::mpsc::channel();
        let (file_orders_in, file_orders) = std::sync::mpsc::channel();
        let news = News { results, loop_waker };
        let (thread, waker) = LogThread::new(orders, file_orders_in, news.clone(), logger)?;
        let files = FilesThread::new(file_orders, Arc::clone(&store), commands.clone(), Arc::clone(&waker), news);
        let threads = vec![
            std::thread::Builder::new().name("praas-log".to_owned()).spawn(move || thread.run())?,
            std::thread::Builder::new().name("praas-log-files".to_owned()).spawn(move || files.run())?,
        ];
        Ok(Self { store, disk, commands, waker, threads })
    }

    /// Where logs are that the next server finds, if there are any.
    pub(crate) fn disk(&self) -> Option<&DiskLog> {
        self.disk.as_ref()
    }

    /// Whether a ring that an earlier server left has a log to go on with.
    pub(crate) fn lasts(&self) -> bool {
        self.store.lasts()
    }

    fn tell(&self, command: Command) {
        tell(&self.commands, &self.waker, command);
    }

    fn ticket(&self, key: ProcessKey, folder: Folder) -> LogTicket {
        let (commands, waker) = (self.commands.clone(), Arc::clone(&self.waker));
        LogTicket { key, folder, then: LogEnd::Leave, commands, waker }
    }
}

/// The way to the loop.
#[derive(Debug, Clone)]
struct News {
    results: Sender<JobResult>,
    loop_waker: Arc<Waker>,
}

impl News {
    fn tell(&self, news: LogNews) {
        if self.results.send(JobResult::Log(news)).is_ok() {
            // Fails only when the loop is gone.
            let _ = self.loop_waker.wake();
        }
    }
}

/// Fails only when the thread has ended, which it does last.
fn tell(commands: &Sender<Command>, waker: &Waker, command: Command) {
    if commands.send(command).is_ok() {
        let _ = waker.wake();
    }
}

impl LogTicket {
    /// The log is no longer written to, and then this happens to it.
    fn end(mut self, then: LogEnd) {
        self.then = then;
    }
}

impl Drop for LogTicket {
    fn drop(&mut self) {
        tell(&self.commands, &self.waker, Command::End(self.key, self.folder, self.then));
    }
}

impl Drop for Durabilities {
    fn drop(&mut self) {
        self.tell(Command::Stop);
        for thread in self.threads.drain(..) {
            // A panic there was printed by the panic hook; here it is only the end.
            let _ = thread.join();
        }
    }
}

impl Process {
    /// Whether its log is there, if it has one.
    pub(crate) fn has_ready_log(&self) -> bool {
        self.log.as_ref().is_none_or(|log| log.is_ready)
    }
}

impl Shard {
    /// Whether what a process of this application changes is logged by this server.
    pub(crate) fn logs(&self, durability: Durability) -> bool {
        durability == Durability::Logged && self.durabilities.is_some()
    }

    /// Where logs are that the next server finds, if this one has any.
    pub(crate) fn disk_log(&self) -> Option<DiskLog> {
        self.durabilities.as_ref().and_then(|durabilities| durabilities.disk()).cloned()
    }

    /// Begins the log of a process whose memory has a ring. Before its first worker starts.
    pub(crate) fn begin_log(&mut self, key: ProcessKey, start: RingStart) -> io::Result<()> {
        let note = self.log_note(key).map_err(io::Error::other)?;
        let (Some(durabilities), Some(process)) = (&self.durabilities, self.processes.get_mut(key)) else {
            return Ok(());
        };
        let Some(folder) = process.folder() else { return Ok(()) };
        let Some(memory) = process.memory.as_mut() else { return Ok(()) };
        let Some((ring, ring_bytes, doorbell)) = memory.log_parts()? else { return Ok(()) };
        let position = memory.objects.position();
        if start == RingStart::New {
            // It is in storage, or there is nothing yet.
            process.control.set_durable(position);
        }
        let control = Arc::clone(&process.control);
        durabilities.tell(Command::Begin(Box::new(Beginning {
            key,
            folder,
            note,
            ring,
            ring_bytes,
            start,
            position,
            doorbell,
            control,
        })));
        process.log = Some(ProcessLog {
            folder,
            ticket: Some(durabilities.ticket(key, folder)),
            is_ready: false,
            holds_workers: start != RingStart::New,
            is_marked: false,
        });
        Ok(())
    }

    /// A process in memory has a log that is not written to: it goes with what else is stored of the process.
    pub(crate) fn note_log_on_disk(&mut self, key: ProcessKey, folder: Folder) {
        let (Some(durabilities), Some(process)) = (&self.durabilities, self.processes.get_mut(key)) else { return };
        if process.log.is_none() {
            let ticket = Some(durabilities.ticket(key, folder));
            process.log = Some(ProcessLog { folder, ticket, is_ready: true, holds_workers: false, is_marked: false });
        }
    }

    /// Everything that the log of a process has is in a snapshot that lasts: the log goes.
    pub(crate) fn remove_log(&mut self, key: ProcessKey) {
        let log = self.processes.get_mut(key).and_then(|process| process.log.take());
        if let Some(ticket) = log.and_then(|log| log.ticket) {
            ticket.end(LogEnd::Remove);
        }
    }

    /// Everything that a process that runs has changed up to a position is in a snapshot that lasts.
    pub(crate) fn checkpointed(&mut self, key: ProcessKey, position: u64) {
        if let (Some(durabilities), true) =
            (&self.durabilities, self.processes.get(key).is_some_and(|process| process.log.is_some()))
        {
            durabilities.tell(Command::Truncate(key, position));
        }
    }

    /// Begins the next step of the end of the log of a process that is stopped: it is marked before anything else that is
    /// stored goes, and removed afterwards. False if there is nothing to be done now.
    pub(crate) fn begin_ending_log(&mut self, key: ProcessKey) -> bool {
        let (Some(durabilities), Some(process)) = (&self.durabilities, self.processes.get_mut(key)) else {
            return false;
        };
        let has_more = process.stored.exists;
        let Some(log) = &mut process.log else { return false };
        if log.is_marked && has_more {
            return false;
        }
        let ticket = log.ticket.take().unwrap_or_else(|| durabilities.ticket(key, log.folder));
        ticket.end(if has_more { LogEnd::Mark } else { LogEnd::Remove });
        true
    }

    /// News of a log.
    pub(crate) fn hear_of_log(&mut self, news: LogNews) {
        match news {
            LogNews::Begun(key) => self.log_begun(key),
            LogNews::Broken(key, reason) => self.log_broken(key, &reason),
            LogNews::Ended(key, end, ended) => self.log_ended(key, end, ended),
        }
    }

    fn log_begun(&mut self, key: ProcessKey) {
        let Some(process) = self.processes.get_mut(key) else { return };
        let Some(log) = &mut process.log else { return };
        (log.is_ready, log.holds_workers) = (true, false);
        self.fill_workers(key);
        self.settle_if_ready(key);
    }

    /// A log that does not join the ring of its process is replaced by a snapshot, before a worker starts; else the process
    /// has failed.
    fn log_broken(&mut self, key: ProcessKey, reason: &str) {
        let has_storage = self.swaps.backend().is_some();
        let Some(process) = self.processes.get_mut(key) else { return };
        let id = process.id;
        let waits = process.log.as_mut().is_some_and(|log| std::mem::take(&mut log.holds_workers));
        if waits && has_storage && process.broken.is_none() && matches!(process.stage, Stage::Active(_)) {
            self.log.error(format_args!("the log of {id} cannot go on: {reason}; all of {id} is stored instead"));
            return self.store_anew(key, SwapReason::NoLog);
        }
        self.break_process(key, &format!("its log: {reason}"));
    }

    /// Stores a process as it is in memory, because it has no log to go on with or is to have none any more: it sleeps then, and
    /// wakes with a log that begins there, or without one.
    pub(crate) fn store_anew(&mut self, key: ProcessKey, why: SwapReason) {
        self.begin_drain(key, crate::drain::Purpose::Swap(why), Vec::new());
    }

    /// A process that is not logged, and whose log was found, is stored before anybody uses it: else the log would be taken for
    /// what it is, should this server die. False if there is no storage.
    pub(crate) fn let_log_end(&mut self, key: ProcessKey) -> bool {
        let Some(folder) = self.processes.get(key).and_then(Process::folder) else { return false };
        self.note_log_on_disk(key, folder);
        let has_storage = self.swaps.backend().is_some();
        if has_storage {
            self.log.info(format_args!("{} is no longer logged: it is stored, and its log removed", folder.process));
            self.store_anew(key, SwapReason::LogEnds);
        }
        has_storage
    }

    /// Whether the next server finds what a process knows in its log.
    pub(crate) fn is_in_log(&self, key: ProcessKey) -> bool {
        let process = self.processes.get(key).filter(|process| process.has_ready_log() && process.broken.is_none());
        let has_ring =
            process.and_then(|process| process.memory.as_ref()).is_some_and(|memory| memory.objects.log().is_some());
        has_ring && self.durabilities.as_ref().is_some_and(Durabilities::lasts)
    }

    fn log_ended(&mut self, key: ProcessKey, end: LogEnd, ended: Result<(), String>) {
        let Some(process) = self.processes.get_mut(key) else {
            if let Err(reason) = ended {
                self.log.warning(format_args!("a log that is no longer needed stays for now: {reason}"));
            }
            return;
        };
        let Stage::Removing(askers) = &mut process.stage else {
            if let Err(reason) = ended {
                self.log.warning(format_args!("the old log of {} stays for now: {reason}", process.id));
            }
            return;
        };
        let askers = std::mem::take(askers);
        match ended {
            Ok(()) if end == LogEnd::Remove => process.log = None,
            Ok(()) => {
                if let Some(log) = &mut process.log {
                    log.is_marked = true;
                }
            }
            Err(reason) => return self.could_not_delete(key, askers, reason),
        }
        self.remove_process(key, askers);
    }
}
