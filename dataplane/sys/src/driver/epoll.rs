//! The epoll driver: the kernel says what is ready, and the driver makes the calls.
//!
//! Descriptors are watched for edges in both directions from the day they are added, so that there is one call to set a
//! connection up and none to change what is watched. The price is memory: a connection knows whether it was drained since
//! the last edge. Sources that have something to do are in `ready`, each once, and get a bounded piece of work in a turn;
//! a source is in `ready`, or the kernel will report an edge, or nothing is wanted of it.
//!
//! Sends are tried at once; what the kernel does not take goes when it reports room.

mod connection;

use std::collections::VecDeque;
use std::fmt;
use std::io::ErrorKind;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use praas_shm::io_buffer::IoBuffer;
use rustix::io::{Errno, read};

use super::accepting::{Accepting, accept_some, set_nonblocking};
use super::limits::{DRAIN_BYTES, TURNS_PER_LOOK};
use super::pool::ReceivePool;
use super::table::Table;
use super::transfer::{Ending, Filling};
use super::{
    Completion, Driver, DriverKind, DriverLimits, End, OpenError, Outgoing, Refusal, Refused, SourceId, Turn,
    WaitError, Waker,
};
use connection::{Connection, Progress};

pub(super) struct EpollDriver<B: IoBuffer> {
    poll: Poll,
    events: Events,
    table: Table<Source<B>>,
    pool: Rc<ReceivePool>,
    limits: DriverLimits,
    /// Sources with something to do, each once.
    ready: VecDeque<SourceId>,
    /// Connections that found no receive buffer.
    starved: Vec<SourceId>,
    /// Completions not handed over yet.
    done: Vec<Completion<B>>,
    turns_since_look: u32,
    waker: Waker,
}

struct Source<B: IoBuffer> {
    token: u64,
    /// Whether it is in `ready`.
    queued: bool,
    kind: Kind<B>,
}

enum Kind<B: IoBuffer> {
    Connection(Connection<B>),
    Listener {
        socket: OwnedFd,
        is_ready: bool,
        paused: bool,
    },
    Watch {
        pipe: OwnedFd,
        is_ready: bool,
        /// Whether the kernel has said that nobody writes any more, or that it is broken: reads go on until they say so.
        finished: bool,
    },
}

impl<B: IoBuffer> Kind<B> {
    fn descriptor(&self) -> BorrowedFd<'_> {
        match self {
            Self::Connection(connection) => connection.socket.as_fd(),
            Self::Listener { socket, .. } => socket.as_fd(),
            Self::Watch { pipe, .. } => pipe.as_fd(),
        }
    }

    fn into_descriptor(self) -> OwnedFd {
        match self {
            Self::Connection(connection) => connection.socket,
            Self::Listener { socket, .. } => socket,
            Self::Watch { pipe, .. } => pipe,
        }
    }
}

/// The waker's event; sources have 64-bit tokens of index and generation, of which this would be the very last.
const WAKER: Token = Token(usize::MAX);

fn mio_token(id: SourceId) -> Token {
    Token((id.generation as usize) << 32 | id.index as usize)
}

fn source_of(token: Token) -> Option<SourceId> {
    let index = u32::try_from(token.0 & u32::MAX as usize).ok()?;
    let generation = u32::try_from(token.0 >> 32).ok()?;
    Some(SourceId { index, generation })
}

const _: () = assert!(usize::BITS == 64, "a source's index and generation fit a token");

impl<B: IoBuffer> EpollDriver<B> {
    pub(super) fn open(limits: DriverLimits) -> Result<Self, OpenError> {
        let failed = |call| move |errno| OpenError::Call { call, errno };
        let poll = Poll::new().map_err(|error| errno_of(&error)).map_err(failed("epoll_create1"))?;
        let waker = Waker::new().map_err(failed("eventfd"))?;
        let event = waker.event().as_raw_fd();
        poll.registry()
            .register(&mut SourceFd(&event), WAKER, Interest::READABLE)
            .map_err(|error| errno_of(&error))
            .map_err(failed("epoll_ctl"))?;
        Ok(Self {
            poll,
            events: Events::with_capacity(limits.completions_per_turn as usize),
            table: Table::new(limits.sources_max),
            pool: ReceivePool::new(&limits),
            limits,
            ready: VecDeque::new(),
            starved: Vec::new(),
            done: Vec::new(),
            turns_since_look: 0,
            waker,
        })
    }

    fn add(
        &mut self,
        descriptor: OwnedFd,
        token: u64,
        interest: Interest,
        make: impl FnOnce(OwnedFd) -> Kind<B>,
    ) -> Result<SourceId, Refused<OwnedFd>> {
        let raw = descriptor.as_raw_fd();
        let id = self.table.insert(descriptor, |descriptor| Source { token, queued: false, kind: make(descriptor) })?;
        match self.poll.registry().register(&mut SourceFd(&raw), mio_token(id), interest) {
            Ok(()) => Ok(id),
            Err(error) => {
                let refusal = Refusal::Call { call: "epoll_ctl", errno: errno_of(&error) };
                let Some(source) = self.table.remove(id) else { unreachable!("inserted above") };
                Err(Refused::new(refusal, source.kind.into_descriptor()))
            }
        }
    }

    fn connection(&mut self, id: SourceId) -> Option<(u64, &mut Connection<B>)> {
        match self.table.get_mut(id)? {
            Source { token, kind: Kind::Connection(connection), .. } => Some((*token, connection)),
            _ => None,
        }
    }

    fn enqueue(&mut self, id: SourceId) {
        if let Some(source) = self.table.get_mut(id)
            && !std::mem::replace(&mut source.queued, true)
        {
            self.ready.push_back(id);
        }
    }

    fn end(&mut self, id: SourceId, how: Ending) {
        let Some(source) = self.table.remove(id) else { return };
        let Source { token, mut kind, .. } = source;
        if let Kind::Connection(connection) = &mut kind {
            connection.give_up(token, &mut self.done);
        }
        // A descriptor that lives on elsewhere would go on being reported.
        let raw = kind.descriptor().as_raw_fd();
        let _ = self.poll.registry().deregister(&mut SourceFd(&raw));
        self.done.push(how.complete(token, kind.into_descriptor()));
    }

    /// Asks the kernel what is ready.
    fn look(&mut self, timeout: Option<Duration>) -> Result<(), WaitError> {
        self.turns_since_look = 0;
        match self.poll.poll(&mut self.events, timeout) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            Err(error) => return Err(WaitError { call: "epoll_wait", errno: errno_of(&error) }),
        }
        for event in &self.events {
            if event.token() == WAKER {
                self.waker.silence();
                continue;
            }
            let Some(id) = source_of(event.token()) else { continue };
            let Some(source) = self.table.get_mut(id) else { continue };
            let has_work = match &mut source.kind {
                Kind::Connection(connection) => connection.note(event),
                Kind::Listener { is_ready, paused, .. } => {
                    *is_ready = true;
                    !*paused
                }
                Kind::Watch { is_ready, finished, .. } => {
                    *is_ready = true;
                    *finished |= event.is_read_closed() || event.is_error();
                    true
                }
            };
            if has_work && !std::mem::replace(&mut source.queued, true) {
                self.ready.push_back(id);
            }
        }
        Ok(())
    }

    /// Gives each source that is ready, up to a turn's limit, a piece of work.
    fn work(&mut self) {
        for _ in 0..self.ready.len().min(self.limits.completions_per_turn as usize) {
            let Some(id) = self.ready.pop_front() else { break };
            let Some(source) = self.table.get_mut(id) else { continue };
            source.queued = false;
            let token = source.token;
            let done = &mut self.done;
            match &mut source.kind {
                Kind::Connection(connection) => match connection.progress(token, &self.pool, done) {
                    Progress::Rests => {}
                    Progress::HasMore => self.enqueue(id),
                    Progress::Starved => self.starved.push(id),
                },
                Kind::Listener { socket, is_ready, paused } if *is_ready && !*paused => {
                    match accept_some(socket.as_fd(), |socket| done.push(Completion::Accepted { token, socket })) {
                        Accepting::Empty => *is_ready = false,
                        Accepting::Enough => self.enqueue(id),
                        Accepting::Failed(errno) => {
                            *paused = true;
                            done.push(Completion::AcceptFailed { token, errno });
                        }
                    }
                }
                Kind::Watch { pipe, is_ready, finished } if *is_ready => match drain(pipe.as_fd(), *finished) {
                    Drained::Empty => *is_ready = false,
                    Drained::Rang { more } => {
                        *is_ready = more;
                        done.push(Completion::Rang { token });
                        if more {
                            self.enqueue(id);
                        }
                    }
                    Drained::Ended(end) => {
                        *is_ready = false;
                        done.push(Completion::WatchEnded { token, end });
                        let raw = pipe.as_raw_fd();
                        let _ = self.poll.registry().deregister(&mut SourceFd(&raw));
                    }
                },
                Kind::Listener { .. } | Kind::Watch { .. } => {}
            }
        }
    }
}

enum Drained {
    Empty,
    Rang { more: bool },
    Ended(End),
}

/// Reads once from a watched pipe; the rest, if there is more, in the next turn. A read that comes back short has emptied the pipe,
/// so the call that would only learn that is spared; unless nobody writes any more, for which there is no further edge. Who leaves
/// after the kernel was asked is a further edge.
fn drain(pipe: BorrowedFd<'_>, finished: bool) -> Drained {
    let mut bytes = [0_u8; DRAIN_BYTES];
    match read(pipe, &mut bytes) {
        Ok(0) => Drained::Ended(End::EndOfStream),
        Ok(count) => Drained::Rang { more: finished || count == DRAIN_BYTES },
        Err(Errno::AGAIN) => Drained::Empty,
        Err(Errno::INTR) => Drained::Rang { more: true },
        Err(errno) => Drained::Ended(End::Failed(errno)),
    }
}

impl<B: IoBuffer> Driver<B> for EpollDriver<B> {
    fn kind(&self) -> DriverKind {
        DriverKind::Epoll
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn room(&self) -> usize {
        self.table.room()
    }

    fn add_listener(&mut self, socket: OwnedFd, token: u64) -> Result<SourceId, Refused<OwnedFd>> {
        let socket = set_nonblocking(socket)?;
        self.add(socket, token, Interest::READABLE, |socket| Kind::Listener { socket, is_ready: false, paused: false })
    }

    fn pause_accepting(&mut self, id: SourceId) {
        if let Some(Kind::Listener { paused, .. }) = self.table.get_mut(id).map(|source| &mut source.kind) {
            *paused = true;
        }
    }

    fn resume_accepting(&mut self, id: SourceId) {
        if let Some(Kind::Listener { paused, .. }) = self.table.get_mut(id).map(|source| &mut source.kind) {
            *paused = false;
            self.enqueue(id);
        }
    }

    fn add_connection(&mut self, socket: OwnedFd, token: u64) -> Result<SourceId, Refused<OwnedFd>> {
        let both = Interest::READABLE | Interest::WRITABLE;
        self.add(socket, token, both, |socket| Kind::Connection(Connection::new(socket)))
    }

    fn socket(&self, source: SourceId) -> Option<BorrowedFd<'_>> {
        match &self.table.get(source)?.kind {
            Kind::Watch { .. } => None,
            kind => Some(kind.descriptor()),
        }
    }

    fn receive(&mut self, id: SourceId) -> Result<(), Refused<()>> {
        let Some((_, connection)) = self.connection(id) else { return Err(Refused::new(Refusal::NotOpen, ())) };
        if connection.start_streaming() {
            self.enqueue(id);
        }
        Ok(())
    }

    fn pause(&mut self, id: SourceId) {
        if let Some((_, connection)) = self.connection(id) {
            connection.streaming = false;
        }
    }

    fn receive_into(&mut self, id: SourceId, buffer: B, range: Range<usize>) -> Result<(), Refused<B>> {
        let Some((token, connection)) = self.connection(id) else {
            return Err(Refused::new(Refusal::NotOpen, buffer));
        };
        if connection.filling.is_some() {
            return Err(Refused::new(Refusal::Busy, buffer));
        }
        let filling = Filling::new(buffer, range)?;
        if filling.is_full() {
            self.done.push(filling.complete(token, End::Done));
            return Ok(());
        }
        if connection.fill(filling) {
            self.enqueue(id);
        }
        Ok(())
    }

    fn cancel_receive_into(&mut self, id: SourceId) {
        if let Some((token, connection)) = self.connection(id)
            && let Some(filling) = connection.filling.take()
        {
            self.done.push(filling.complete(token, End::Cancelled));
            // Receiving goes on as before.
            self.enqueue(id);
        }
    }

    fn send(&mut self, id: SourceId, message: Outgoing<B>) -> Result<(), Refused<Outgoing<B>>> {
        let Some(Source { token, kind: Kind::Connection(connection), .. }) = self.table.get_mut(id) else {
            return Err(Refused::new(Refusal::NotOpen, message));
        };
        if connection.sending.is_some() {
            return Err(Refused::new(Refusal::Busy, message));
        }
        if connection.start_sending(*token, message, &mut self.done) == Progress::HasMore {
            self.enqueue(id);
        }
        Ok(())
    }

    fn cancel_send(&mut self, id: SourceId) {
        let Some(Source { token, kind: Kind::Connection(connection), .. }) = self.table.get_mut(id) else { return };
        connection.cancel_send(*token, &mut self.done);
    }

    fn watch(&mut self, pipe: OwnedFd, token: u64) -> Result<SourceId, Refused<OwnedFd>> {
        let pipe = set_nonblocking(pipe)?;
        self.add(pipe, token, Interest::READABLE, |pipe| Kind::Watch { pipe, is_ready: false, finished: false })
    }

    fn close(&mut self, source: SourceId) {
        self.end(source, Ending::Close);
    }

    fn detach(&mut self, source: SourceId) {
        self.end(source, Ending::Detach);
    }

    fn wait(&mut self, timeout: Option<Duration>, completions: &mut Vec<Completion<B>>) -> Result<Turn, WaitError> {
        if self.pool.has_free() {
            while let Some(id) = self.starved.pop() {
                self.enqueue(id);
            }
        }
        if self.done.is_empty() && self.ready.is_empty() {
            let sleeps = timeout != Some(Duration::ZERO) && self.waker.fall_asleep();
            self.look(if sleeps { timeout } else { Some(Duration::ZERO) })?;
        } else if self.turns_since_look >= TURNS_PER_LOOK {
            self.look(Some(Duration::ZERO))?;
        }
        self.turns_since_look += 1;
        let woken = self.waker.rise();
        self.work();
        completions.append(&mut self.done);
        Ok(Turn { woken, more: !self.ready.is_empty() })
    }
}

fn errno_of(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

impl<B: IoBuffer> fmt::Debug for EpollDriver<B> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ready, done, starved, .. } = self;
        formatter
            .debug_struct("EpollDriver")
            .field("ready", &ready.len())
            .field("done", &done.len())
            .field("starved", &starved.len())
            .finish_non_exhaustive()
    }
}
