//! Network drivers: accepting, receiving and sending on many sockets from one thread, by io_uring or by epoll.
//!
//! Both drivers are one trait, [`Driver`], of operations that complete: start one, and a later [`Driver::wait`] says how it
//! ended and gives back what it was lent. Where the kernel only reports readiness, the driver makes completions of it.
//!
//! Who owns what: a driver owns the sockets given to it, and the buffers of operations in flight; each buffer comes back
//! exactly once, in the completion of its operation or, when the operation is refused, in the refusal. A driver belongs to
//! the thread that opened it; only its [`Waker`] goes elsewhere.
//!
//! Invariants:
//! 1. A buffer is given back, and a socket closed, only after the final completion of each operation that uses it:
//!    cancelling and closing ask for that completion, they do not replace it. Dropping a driver waits for them too; what
//!    the kernel does not let go of in time is leaked, with a line on the standard error, never freed.
//! 2. A source (connection, listener, watch) has at most one operation in each direction, so that the table of sources
//!    bounds everything: entries in flight, completions not yet read, memory.
//! 3. Completions are collected, then handed over; a turn hands over a bounded number, and at most one of received bytes
//!    for each connection. So whatever the caller decides on seeing some bytes applies to the very next ones.
//! 4. Connections that wait for bytes hold no buffer.
//! 5. A stale identifier names nothing: generations tell it from the source that took its place.

mod accepting;
mod completion;
mod epoll;
mod error;
mod io_uring;
mod limits;
mod outgoing;
mod pool;
mod probe;
mod table;
mod transfer;
mod waker;

use std::fmt;
use std::ops::Range;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use praas_shm::io_buffer::IoBuffer;

pub use completion::{Completion, End, Turn};
pub use error::{IoUringRefusal, OpenError, Refusal, Refused, WaitError};
pub use limits::DriverLimits;
pub use outgoing::Outgoing;
pub use pool::ReceivedBytes;
pub use probe::{IoUringGrant, probe};
pub use table::SourceId;
pub use waker::Waker;

/// What drives the sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DriverKind {
    /// The kernel runs the operations and reports their completions.
    IoUring,
    /// The kernel reports readiness and the driver makes the calls.
    Epoll,
}

impl fmt::Display for DriverKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::IoUring => "io_uring",
            Self::Epoll => "epoll",
        })
    }
}

/// Which driver to open. The default is the one that serves unless somebody chooses: on loopback, where all measurements yet
/// were made, io_uring was slower by a few per cent in most of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DriverChoice {
    /// io_uring where the host grants it, epoll elsewhere.
    Auto,
    /// io_uring, or fail.
    IoUring,
    /// epoll.
    #[default]
    Epoll,
}

/// Sockets and doorbells of one thread. See the [module](self) for who owns what.
///
/// Every completion carries the token with which its source was added; tokens mean nothing to the driver.
pub trait Driver<B: IoBuffer>: fmt::Debug {
    /// Which driver this is.
    fn kind(&self) -> DriverKind;

    /// A handle by which other threads end a sleep in [`wait`](Self::wait).
    fn waker(&self) -> Waker;

    /// Sources that could still be added.
    fn room(&self) -> usize;

    /// Accepts connections from a listening socket, which becomes non-blocking: each as [`Completion::Accepted`].
    /// After [`Completion::AcceptFailed`] the listener is paused. Several drivers may accept from duplicates of one socket.
    ///
    /// # Errors
    /// The socket, with the reason.
    fn add_listener(&mut self, socket: OwnedFd, token: u64) -> Result<SourceId, Refused<OwnedFd>>;

    /// No more connections until [`resume_accepting`](Self::resume_accepting): later ones wait in the backlog, and not one
    /// is accepted in the meantime.
    fn pause_accepting(&mut self, listener: SourceId);

    /// Accepts again.
    fn resume_accepting(&mut self, listener: SourceId);

    /// Takes a connected stream socket over. Nothing is received before [`receive`](Self::receive).
    ///
    /// # Errors
    /// The socket, with the reason.
    fn add_connection(&mut self, socket: OwnedFd, token: u64) -> Result<SourceId, Refused<OwnedFd>>;

    /// The socket of a connection or listener, for instance to set options or to shut one direction down.
    fn socket(&self, source: SourceId) -> Option<BorrowedFd<'_>>;

    /// Receives from now on whatever comes, as [`Completion::Received`], until the end of the stream
    /// ([`Completion::ReceiveEnded`]) or [`pause`](Self::pause).
    ///
    /// # Errors
    /// [`Refusal::NotOpen`].
    fn receive(&mut self, connection: SourceId) -> Result<(), Refused<()>>;

    /// Receives no more until [`receive`](Self::receive): back-pressure. Bytes that were received already still come (at
    /// most one completion), then the peer's sends fill the socket's buffers and stop.
    fn pause(&mut self, connection: SourceId);

    /// Receives the bytes that follow those handed over so far into `range` of `buffer`, until it is full, the stream ends
    /// or the operation is cancelled: [`Completion::Filled`] gives the buffer back. Then receiving goes on as before.
    ///
    /// # Errors
    /// The buffer, with the reason: not open, busy with another `receive_into`, outside the buffer, not writable.
    fn receive_into(&mut self, connection: SourceId, buffer: B, range: Range<usize>) -> Result<(), Refused<B>>;

    /// Ends a [`receive_into`](Self::receive_into) early; its completion still comes.
    fn cancel_receive_into(&mut self, connection: SourceId);

    /// Sends all of a message, however many calls that takes: [`Completion::Sent`] gives it back. One message at a time:
    /// what comes up meanwhile is best gathered into the next one.
    ///
    /// # Errors
    /// The message, with the reason: not open, or busy with another.
    fn send(&mut self, connection: SourceId, message: Outgoing<B>) -> Result<(), Refused<Outgoing<B>>>;

    /// Ends a [`send`](Self::send) early; its completion still comes, and says how many bytes have left: after a part of
    /// a message, the connection is fit for closing only.
    fn cancel_send(&mut self, connection: SourceId);

    /// Watches the read end of a doorbell or another pipe: [`Completion::Rang`] each time that something was written to
    /// it. The driver reads and drops what was written.
    ///
    /// # Errors
    /// The descriptor, with the reason.
    fn watch(&mut self, pipe: OwnedFd, token: u64) -> Result<SourceId, Refused<OwnedFd>>;

    /// Ends the source: its operations are cancelled and complete, then the descriptor is closed, then comes
    /// [`Completion::Closed`], the last with its token. Bytes that a send has handed to the kernel are still delivered.
    fn close(&mut self, source: SourceId);

    /// As [`close`](Self::close), but the descriptor is given away, open: [`Completion::Detached`].
    fn detach(&mut self, source: SourceId);

    /// Starts what was asked for and collects what has completed; sleeps until something does if nothing has. `timeout`
    /// is the longest sleep: none at all is a poll, `None` is without end. May return with nothing before its time.
    ///
    /// # Errors
    /// When the kernel refuses to wait: the driver is of no use any more.
    fn wait(&mut self, timeout: Option<Duration>, completions: &mut Vec<Completion<B>>) -> Result<Turn, WaitError>;
}

/// A driver that was opened.
#[derive(Debug)]
pub struct Opened<B: IoBuffer> {
    /// The driver.
    pub driver: Box<dyn Driver<B>>,
    /// Why it is epoll, if io_uring was tried first.
    pub refused: Option<IoUringRefusal>,
}

/// Opens a driver for the calling thread.
///
/// # Errors
/// [`OpenError::IoUring`] when io_uring was demanded and the host refuses it; otherwise what the kernel lacks for either.
pub fn open<B: IoBuffer>(choice: DriverChoice, limits: DriverLimits) -> Result<Opened<B>, OpenError> {
    limits.check()?;
    let refused = match choice {
        DriverChoice::Epoll => None,
        DriverChoice::Auto | DriverChoice::IoUring => match io_uring::IoUringDriver::open(limits) {
            Ok(driver) => return Ok(Opened { driver: Box::new(driver), refused: None }),
            Err(refusal) if choice == DriverChoice::IoUring => return Err(OpenError::IoUring(refusal)),
            Err(refusal) => Some(refusal),
        },
    };
    Ok(Opened { driver: Box::new(epoll::EpollDriver::open(limits)?), refused })
}
