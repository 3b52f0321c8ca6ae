//! Durability of logged processes: one thread that moves what they change from their log rings into their logs.
//!
//! ```text
//! workers ─records─▶ log ring ─copy─▶ append ─▶ sync ─▶ durable in the control page ─▶ held replies, barriers, sends
//! ```
//!
//! The thread owns the reading end of every ring and the log behind it. It takes one batch of each ring in turn, so that no
//! process waits for the floods of another, syncs each log once for all that was appended to it, and sleeps only when every
//! ring has said that nothing is left; a writer then rings the pipe of its process. Nothing of a call passes through it, and
//! the server's loop never waits for it.
//!
//! 1. A position is shown as durable only after its log has said so. It is never shown lower than before.
//! 2. Bytes stay in the ring until the log has taken them. A log that fails is tried again; meanwhile its ring fills up, puts
//!    wait and are refused with figures, and replies are held: nobody is told of anything that is not durable.
//! 3. A ring with something else in it than records fails its process, and nothing else.
//! 4. A server that dies loses no change: the objects are with the keeper, and the next server begins a new log at the
//!    position that it finds.
//!
//! [`Log`] is what storage comes under: [`DiskLog`] keeps records on a disk; [`MemoryLog`] keeps them in memory, and lets tests
//! delay and fail syncs.

mod disk_log;
mod memory_log;
mod thread;

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;

use mio::Waker;
use praas_protocol::{Durability, ProcessId};
use praas_shm::control_page::ControlPage;
use praas_shm::log_ring::LogReader;

pub use self::disk_log::DiskLog;
pub use self::memory_log::MemoryLog;
use self::thread::LogThread;
use crate::hosting::JobResult;
use crate::log::Log as Logger;
use crate::processes::ProcessKey;
use crate::shard::Shard;

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
}

/// What makes logs.
pub trait LogStore: Send + fmt::Debug {
    /// A log for this life of a process, whose first record follows `position`.
    ///
    /// # Errors
    /// Why there is none: the process is not created, or fails.
    fn open(&self, process: ProcessId, incarnation: u64, position: u64) -> io::Result<Box<dyn Log>>;
}

/// A ring and its log, as the thread gets them.
#[derive(Debug)]
struct Beginning {
    key: ProcessKey,
    process: ProcessId,
    reader: LogReader,
    /// Read end of the pipe that writers ring.
    doorbell: OwnedFd,
    control: Arc<ControlPage>,
    log: Box<dyn Log>,
}

/// What the thread is told.
#[derive(Debug)]
enum Command {
    Begin(Box<Beginning>),
    End(ProcessKey),
    Stop,
}

/// The thread, and what makes logs for it.
#[derive(Debug)]
pub(crate) struct Durabilities {
    store: Box<dyn LogStore>,
    commands: Sender<Command>,
    waker: Arc<Waker>,
    thread: Option<JoinHandle<()>>,
}

/// A log under way; dropped, it ends.
#[derive(Debug)]
pub(crate) struct LogTicket {
    key: ProcessKey,
    commands: Sender<Command>,
    waker: Arc<Waker>,
}

impl Durabilities {
    /// Starts the thread. What it finds wrong with a process goes to `results`, followed by a wake of the loop.
    pub(crate) fn start(
        store: Box<dyn LogStore>,
        results: Sender<JobResult>,
        loop_waker: Arc<Waker>,
        logger: Logger,
    ) -> io::Result<Self> {
        let (commands, orders) = std::sync::mpsc::channel();
        let (thread, waker) = LogThread::new(orders, results, loop_waker, logger)?;
        let thread = std::thread::Builder::new().name("praas-log".to_owned()).spawn(move || thread.run())?;
        Ok(Self { store, commands, waker, thread: Some(thread) })
    }

    fn begin(&self, beginning: Beginning) -> LogTicket {
        let key = beginning.key;
        tell(&self.commands, &self.waker, Command::Begin(Box::new(beginning)));
        LogTicket { key, commands: self.commands.clone(), waker: Arc::clone(&self.waker) }
    }
}

/// Fails only when the thread has ended, which it does last.
fn tell(commands: &Sender<Command>, waker: &Waker, command: Command) {
    if commands.send(command).is_ok() {
        let _ = waker.wake();
    }
}

impl Drop for LogTicket {
    fn drop(&mut self) {
        tell(&self.commands, &self.waker, Command::End(self.key));
    }
}

impl Drop for Durabilities {
    fn drop(&mut self) {
        tell(&self.commands, &self.waker, Command::Stop);
        if let Some(thread) = self.thread.take() {
            // A panic there was printed by the panic hook; here it is only the end.
            let _ = thread.join();
        }
    }
}

impl Shard {
    /// Whether what a process of this application changes is logged by this server.
    pub(crate) fn logs(&self, durability: Durability) -> bool {
        durability == Durability::Logged && self.durabilities.is_some()
    }

    /// Begins the log of a process whose memory has a ring. Before its first worker starts.
    pub(crate) fn begin_log(&mut self, key: ProcessKey) -> io::Result<()> {
        let (Some(durabilities), Some(process)) = (&self.durabilities, self.processes.get_mut(key)) else {
            return Ok(());
        };
        let Some(memory) = process.memory.as_mut() else { return Ok(()) };
        let Some((ring, bytes, doorbell)) = memory.log_parts()? else { return Ok(()) };
        let position = memory.objects.position();
        let log = durabilities.store.open(process.id, memory.incarnation(), position)?;
        let reader = LogReader::attach(ring, bytes, position).map_err(io::Error::other)?;
        process.control.set_durable(position);
        let control = Arc::clone(&process.control);
        let process = process.id;
        memory.keep_log(durabilities.begin(Beginning { key, process, reader, doorbell, control, log }));
        Ok(())
    }
}
