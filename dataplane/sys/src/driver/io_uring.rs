//! The io_uring driver.
//!
//! A connection has at most one receive and one send with the kernel. An entry's user data is the source's index and
//! generation and which of its operations it is; the source stays in the table until the final completion of each, so
//! that nothing which the kernel may touch is freed before. Operations are written into the submission queue as they are
//! asked for and handed over in one call at the next wait.
//!
//! Receives are single shots with a buffer that the kernel takes from the buffer ring when there are bytes. A multishot
//! receive would save one entry a message, which costs next to nothing since entries travel with the sends, and would
//! hand over bytes after the caller has decided where they belong.
//!
//! Listeners are polled, and accepted from by calls: so not one connection more is taken than the caller wants.

mod buffer_ring;
mod connection;
mod ring;

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::time::{Duration, Instant};

use ::io_uring::{opcode, squeue, types};
use praas_shm::io_buffer::IoBuffer;
use rustix::io::Errno;

use super::accepting::{Accepting, accept_some, set_nonblocking};
use super::limits::{DRAIN_BYTES, DRAIN_MS};
use super::outgoing::Sending;
use super::pool::ReceivePool;
use super::table::Table;
use super::transfer::{Ending, Filling};
use super::{
    Completion, Driver, DriverKind, DriverLimits, End, IoUringRefusal, Outgoing, Refusal, Refused, SourceId, Turn,
    WaitError, Waker,
};
pub(super) use buffer_ring::BufferRing;
use connection::{Connection, MessageHead, SendState};
pub(super) use ring::Ring;
use ring::{Finished, Label, Operation};

pub(super) struct IoUringDriver<B: IoBuffer> {
    ring: Ring,
    buffers: BufferRing,
    table: Table<Source<B>>,
    limits: DriverLimits,
    /// Sources that may start an operation at the next wait.
    to_start: Vec<SourceId>,
    /// Connections that found no receive buffer.
    starved: Vec<SourceId>,
    /// Completions not handed over yet.
    done: VecDeque<Completion<B>>,
    /// Completions as the kernel reports them, being worked off.
    finished: Vec<Finished>,
    /// Headers of gathered sends that no connection uses now.
    spare_heads: Vec<MessageHead>,
    /// Operations with the kernel.
    in_flight: usize,
    waker: Waker,
    /// Where doorbells and the waker's event are drained into; written by the kernel alone, read by nobody.
    drain: NonNull<[u8; DRAIN_BYTES]>,
}

enum Source<B: IoBuffer> {
    Connection(Connection<B>),
    Listener(Listener),
    Watch(Watch),
}

struct Listener {
    socket: OwnedFd,
    token: u64,
    paused: bool,
    in_flight: bool,
    ending: Option<Ending>,
}

struct Watch {
    pipe: OwnedFd,
    token: u64,
    ended: bool,
    in_flight: bool,
    ending: Option<Ending>,
}

/// The source of the waker's event, which is in no table.
const WAKER: SourceId = SourceId { index: 0, generation: 0 };

impl<B: IoBuffer> IoUringDriver<B> {
    pub(super) fn open(limits: DriverLimits) -> Result<Self, IoUringRefusal> {
        let waker = Waker::new().map_err(|errno| IoUringRefusal::Call { call: "eventfd", errno })?;
        let mut ring = Ring::open(&limits)?;
        ring.try_nothing()?;
        let buffers = BufferRing::register(&ring, ReceivePool::new(&limits))?;
        let drain = NonNull::from(Box::leak(Box::new([0; DRAIN_BYTES])));
        let mut driver = Self {
            ring,
            buffers,
            table: Table::new(limits.sources_max),
            limits,
            to_start: Vec::new(),
            starved: Vec::new(),
            done: VecDeque::new(),
            finished: Vec::with_capacity(limits.completions_per_turn as usize),
            spare_heads: Vec::new(),
            in_flight: 0,
            waker,
            drain,
        };
        driver.listen_to_waker();
        Ok(driver)
    }

    fn listen_to_waker(&mut self) {
        let event = self.waker.event().as_raw_fd();
        self.start_draining(event, Operation::Waker, WAKER);
    }

    /// Writes an operation of a source.
    ///
    /// # Safety
    /// Memory and descriptors that the entry names must stay as they are until the operation's completion.
    unsafe fn push(&mut self, entry: &squeue::Entry, operation: Operation, id: SourceId) {
        // SAFETY: the caller's promise.
        unsafe { self.ring.push(entry, Label { operation, is_cancellation: false, id }) };
        self.in_flight += 1;
    }

    fn start_draining(&mut self, descriptor: i32, operation: Operation, id: SourceId) {
        let bytes = if operation == Operation::Waker { 8 } else { DRAIN_BYTES };
        let length = u32::try_from(bytes).unwrap_or(8);
        let entry = opcode::Read::new(types::Fd(descriptor), self.drain.as_ptr().cast(), length).build();
        // SAFETY: the memory is the driver's until nothing is in flight (see `drop`), and nobody reads it. The descriptor
        // stays open until the operation's completion: a watch's by its source, the event by the waker.
        unsafe { self.push(&entry, operation, id) };
    }

    /// Cancels an operation that is with the kernel. Entries are worked off in order, so that this can reach none that is
    /// started later.
    fn cancel(&mut self, operation: Operation, id: SourceId) {
        let target = Label { operation, is_cancellation: false, id };
        let entry = opcode::AsyncCancel::new(target.user_data()).build();
        // SAFETY: a cancellation names no memory.
        unsafe { self.ring.push(&entry, Label { is_cancellation: true, ..target }) };
    }

    /// A cancellation has found its operation, or has not: while the kernel is between two attempts at one, it does not
    /// find it. Then it is tried again until the operation completes.
    fn finish_cancellation(&mut self, operation: Operation, id: SourceId, result: Result<usize, Errno>) {
        if result.is_ok() {
            return;
        }
        let is_wanted = match self.table.get(id) {
            Some(Source::Connection(connection)) => connection.is_being_cancelled(operation),
            Some(Source::Listener(listener)) => listener.in_flight && listener.ending.is_some(),
            Some(Source::Watch(watch)) => watch.in_flight && watch.ending.is_some(),
            None => false,
        };
        if is_wanted {
            self.cancel(operation, id);
        }
    }

    fn connection(&mut self, id: SourceId) -> Option<&mut Connection<B>> {
        match self.table.get_mut(id)? {
            Source::Connection(connection) if connection.ending.is_none() => Some(connection),
            _ => None,
        }
    }

    fn end(&mut self, id: SourceId, how: Ending) {
        let mut cancelled = [None; 2];
        match self.table.get_mut(id) {
            Some(Source::Connection(connection)) if connection.ending.is_none() => {
                connection.ending = Some(how);
                cancelled = connection.cancel_all(&mut self.done);
            }
            Some(Source::Listener(listener)) if listener.ending.is_none() => {
                listener.ending = Some(how);
                cancelled[0] = listener.in_flight.then_some(Operation::Listen);
            }
            Some(Source::Watch(watch)) if watch.ending.is_none() => {
                watch.ending = Some(how);
                cancelled[0] = watch.in_flight.then_some(Operation::Watch);
            }
            _ => return,
        }
        for operation in cancelled.into_iter().flatten() {
            self.cancel(operation, id);
        }
        self.to_start.push(id);
    }

    /// Starts what the sources want, and forgets those that have ended.
    fn start_wanted(&mut self) {
        if self.buffers.publish() > 0 {
            self.to_start.append(&mut self.starved);
        }
        let mut wanted = std::mem::take(&mut self.to_start);
        for id in wanted.drain(..) {
            self.start(id);
        }
        wanted.append(&mut self.to_start);
        self.to_start = wanted;
    }

    fn start(&mut self, id: SourceId) {
        match self.table.get_mut(id) {
            None => {}
            Some(Source::Connection(connection)) => {
                if let Some(ending) = connection.ending {
                    if connection.is_quiet() {
                        self.forget(id, ending);
                    }
                    return;
                }
                if connection.hand_over_left(&mut self.done) {
                    self.to_start.push(id);
                } else if let Some(entry) = connection.next_receive() {
                    // SAFETY: the buffer is the connection's, which stays in the table until the completion, or one of
                    // the buffer ring's; the socket is the connection's.
                    unsafe { self.push(&entry, Operation::Receive, id) };
                }
            }
            Some(Source::Listener(listener)) => match listener.ending {
                Some(ending) if !listener.in_flight => self.forget(id, ending),
                None if !listener.in_flight && !listener.paused => {
                    listener.in_flight = true;
                    let readable = u32::from(libc::POLLIN.cast_unsigned());
                    let entry = opcode::PollAdd::new(types::Fd(listener.socket.as_raw_fd()), readable).build();
                    // SAFETY: a poll names no memory; the socket is the listener's, which stays until the completion.
                    unsafe { self.push(&entry, Operation::Listen, id) };
                }
                _ => {}
            },
            Some(Source::Watch(watch)) => match watch.ending {
                Some(ending) if !watch.in_flight => self.forget(id, ending),
                None if !watch.in_flight && !watch.ended => {
                    watch.in_flight = true;
                    let pipe = watch.pipe.as_raw_fd();
                    self.start_draining(pipe, Operation::Watch, id);
                }
                _ => {}
            },
        }
    }

    fn forget(&mut self, id: SourceId, ending: Ending) {
        let (token, descriptor) = match self.table.remove(id) {
            Some(Source::Connection(connection)) => (connection.token, connection.into_socket()),
            Some(Source::Listener(listener)) => (listener.token, listener.socket),
            Some(Source::Watch(watch)) => (watch.token, watch.pipe),
            None => return,
        };
        self.done.push_back(ending.complete(token, descriptor));
    }

    /// Works off one completion.
    fn finish(&mut self, finished: Finished) {
        let Some(Label { operation, is_cancellation, id }) = Label::of(finished.user_data) else { return };
        if is_cancellation {
            return self.finish_cancellation(operation, id, finished.result);
        }
        self.in_flight -= 1;
        match operation {
            Operation::Receive => self.finish_receive(id, finished),
            Operation::Send => self.finish_send(id, finished.result),
            Operation::Listen => self.finish_listen(id, finished.result),
            Operation::Watch => self.finish_watch(id, finished.result),
            Operation::Waker => self.listen_to_waker(),
        }
    }

    fn finish_receive(&mut self, id: SourceId, finished: Finished) {
        let bytes = finished.result.unwrap_or(0);
        // SAFETY: the kernel has just said that it took this buffer, and is done with it.
        let lent = finished.buffer.map(|index| unsafe { self.buffers.lend(index, bytes) });
        let Some(Source::Connection(connection)) = self.table.get_mut(id) else { return };
        if connection.finish_receive(finished, lent, &mut self.done) {
            self.starved.push(id);
        } else {
            self.to_start.push(id);
        }
    }

    fn finish_send(&mut self, id: SourceId, result: Result<usize, Errno>) {
        let Some(Source::Connection(connection)) = self.table.get_mut(id) else { return };
        match connection.finish_send(result, &mut self.done) {
            SendState::Ended(head) => {
                self.spare_heads.extend(head);
                if connection.ending.is_some() {
                    self.to_start.push(id);
                }
            }
            SendState::Continues => self.push_send(id),
        }
    }

    fn push_send(&mut self, id: SourceId) {
        let Some(Source::Connection(connection)) = self.table.get_mut(id) else { return };
        let Some(entry) = connection.next_send(&mut self.spare_heads) else { return };
        // SAFETY: the message and its head are the connection's, which stays in the table until the completion; so is the
        // socket.
        unsafe { self.push(&entry, Operation::Send, id) };
    }

    fn finish_listen(&mut self, id: SourceId, result: Result<usize, Errno>) {
        let Some(Source::Listener(listener)) = self.table.get_mut(id) else { return };
        listener.in_flight = false;
        self.to_start.push(id);
        if listener.paused || listener.ending.is_some() {
            return;
        }
        let token = listener.token;
        let done = &mut self.done;
        let accepted = |socket| done.push_back(Completion::Accepted { token, socket });
        // Started again, it completes at once if there are more.
        if let Err(errno) | Ok(Accepting::Failed(errno)) =
            result.map(|_| accept_some(listener.socket.as_fd(), accepted))
        {
            listener.paused = true;
            self.done.push_back(Completion::AcceptFailed { token, errno });
        }
    }

    fn finish_watch(&mut self, id: SourceId, result: Result<usize, Errno>) {
        let Some(Source::Watch(watch)) = self.table.get_mut(id) else { return };
        watch.in_flight = false;
        self.to_start.push(id);
        let token = watch.token;
        let end = match result {
            Ok(1..) => return self.done.push_back(Completion::Rang { token }),
            Err(Errno::INTR | Errno::AGAIN | Errno::CANCELED) => return,
            Ok(_) => End::EndOfStream,
            Err(errno) => End::Failed(errno),
        };
        watch.ended = true;
        self.done.push_back(Completion::WatchEnded { token, end });
    }

    /// Works off as many completions as a turn may, and hands over what came of them. True if there are more.
    fn collect(&mut self, completions: &mut Vec<Completion<B>>) -> bool {
        let mut finished = std::mem::take(&mut self.finished);
        self.ring.take_finished(&mut finished, self.limits.completions_per_turn as usize);
        for entry in finished.drain(..) {
            self.finish(entry);
        }
        self.finished = finished;
        completions.extend(self.done.drain(..));
        self.ring.has_finished()
    }
}

impl<B: IoBuffer> Driver<B> for IoUringDriver<B> {
    fn kind(&self) -> DriverKind {
        DriverKind::IoUring
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn room(&self) -> usize {
        self.table.room()
    }

    fn add_listener(&mut self, socket: OwnedFd, token: u64) -> Result<SourceId, Refused<OwnedFd>> {
        let socket = set_nonblocking(socket)?;
        let id = self.table.insert(socket, |socket| {
            Source::Listener(Listener { socket, token, paused: false, in_flight: false, ending: None })
        })?;
        self.to_start.push(id);
        Ok(id)
    }

    fn pause_accepting(&mut self, listener: SourceId) {
        if let Some(Source::Listener(listener)) = self.table.get_mut(listener) {
            listener.paused = true;
        }
    }

    fn resume_accepting(&mut self, id: SourceId) {
        if let Some(Source::Listener(listener)) = self.table.get_mut(id)
            && listener.paused
        {
            listener.paused = false;
            self.to_start.push(id);
        }
    }

    fn add_connection(&mut self, socket: OwnedFd, token: u64) -> Result<SourceId, Refused<OwnedFd>> {
        self.table.insert(socket, |socket| Source::Connection(Connection::new(socket, token)))
    }

    fn socket(&self, source: SourceId) -> Option<BorrowedFd<'_>> {
        match self.table.get(source)? {
            Source::Connection(connection) => Some(connection.socket()),
            Source::Listener(listener) => Some(listener.socket.as_fd()),
            Source::Watch(_) => None,
        }
    }

    fn receive(&mut self, id: SourceId) -> Result<(), Refused<()>> {
        let Some(connection) = self.connection(id) else { return Err(Refused::new(Refusal::NotOpen, ())) };
        if !std::mem::replace(&mut connection.streaming, true) {
            self.to_start.push(id);
        }
        Ok(())
    }

    fn pause(&mut self, id: SourceId) {
        if let Some(connection) = self.connection(id)
            && connection.pause()
        {
            self.cancel(Operation::Receive, id);
        }
    }

    fn receive_into(&mut self, id: SourceId, buffer: B, range: Range<usize>) -> Result<(), Refused<B>> {
        let Some(connection) = self.connection(id) else { return Err(Refused::new(Refusal::NotOpen, buffer)) };
        if connection.filling.is_some() {
            return Err(Refused::new(Refusal::Busy, buffer));
        }
        let filling = Filling::new(buffer, range)?;
        if filling.is_full() {
            let token = connection.token;
            self.done.push_back(filling.complete(token, End::Done));
            return Ok(());
        }
        if connection.fill(filling) {
            self.cancel(Operation::Receive, id);
        }
        self.to_start.push(id);
        Ok(())
    }

    fn cancel_receive_into(&mut self, id: SourceId) {
        let Some(Source::Connection(connection)) = self.table.get_mut(id) else { return };
        if connection.cancel_filling(&mut self.done) {
            self.cancel(Operation::Receive, id);
        }
    }

    fn send(&mut self, id: SourceId, message: Outgoing<B>) -> Result<(), Refused<Outgoing<B>>> {
        let Some(connection) = self.connection(id) else { return Err(Refused::new(Refusal::NotOpen, message)) };
        if connection.sending.is_some() {
            return Err(Refused::new(Refusal::Busy, message));
        }
        let token = connection.token;
        if message.is_empty() {
            self.done.push_back(Completion::Sent { token, message, bytes: 0, end: End::Done });
            return Ok(());
        }
        connection.sending = Some(Sending::new(message));
        self.push_send(id);
        Ok(())
    }

    fn cancel_send(&mut self, id: SourceId) {
        let Some(connection) = self.connection(id) else { return };
        if connection.cancel_send() {
            self.cancel(Operation::Send, id);
        }
    }

    fn watch(&mut self, pipe: OwnedFd, token: u64) -> Result<SourceId, Refused<OwnedFd>> {
        let id = self
            .table
            .insert(pipe, |pipe| Source::Watch(Watch { pipe, token, ended: false, in_flight: false, ending: None }))?;
        self.to_start.push(id);
        Ok(id)
    }

    fn close(&mut self, source: SourceId) {
        self.end(source, Ending::Close);
    }

    fn detach(&mut self, source: SourceId) {
        self.end(source, Ending::Detach);
    }

    fn wait(&mut self, timeout: Option<Duration>, completions: &mut Vec<Completion<B>>) -> Result<Turn, WaitError> {
        self.start_wanted();
        let at_once = timeout == Some(Duration::ZERO) || !self.done.is_empty() || self.ring.has_finished();
        let entered =
            if at_once || !self.waker.fall_asleep() { self.ring.hand_over() } else { self.ring.sleep(timeout) };
        let woken = self.waker.rise();
        entered.map_err(|errno| WaitError { call: "io_uring_enter", errno })?;
        let more = self.collect(completions);
        Ok(Turn { woken, more })
    }
}

impl<B: IoBuffer> Drop for IoUringDriver<B> {
    fn drop(&mut self) {
        let end = Instant::now() + Duration::from_millis(DRAIN_MS);
        while self.in_flight > 0 && Instant::now() < end {
            let entry = opcode::AsyncCancel2::new(types::CancelBuilder::any()).build();
            let label = Label { operation: Operation::Waker, is_cancellation: true, id: WAKER };
            // SAFETY: a cancellation names no memory.
            unsafe { self.ring.push(&entry, label) };
            // The cancellation itself completes, so this does not sleep long; errors are met by trying again.
            let _ = self.ring.sleep(Some(Duration::from_millis(10)));
            let mut finished = std::mem::take(&mut self.finished);
            self.ring.take_finished(&mut finished, usize::MAX);
            for entry in finished.drain(..) {
                if Label::of(entry.user_data).is_some_and(|label| !label.is_cancellation) {
                    self.in_flight -= 1;
                }
            }
            self.finished = finished;
        }
        if self.in_flight == 0 {
            self.buffers.unregister(&self.ring);
            // SAFETY: made by leaking a box in `new`, and no operation is left that could write it, as just counted.
            drop(unsafe { Box::from_raw(self.drain.as_ptr()) });
            return;
        }
        eprintln!(
            "praas: the kernel kept {} network operations for {DRAIN_MS} ms after they were cancelled; \
             their buffers and sockets are leaked, because it may still write to them",
            self.in_flight
        );
        std::mem::forget(std::mem::replace(&mut self.table, Table::new(0)));
        self.buffers.leak();
    }
}

impl<B: IoBuffer> fmt::Debug for IoUringDriver<B> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { in_flight, done, starved, .. } = self;
        formatter
            .debug_struct("IoUringDriver")
            .field("in_flight", in_flight)
            .field("done", &done.len())
            .field("starved", &starved.len())
            .finish_non_exhaustive()
    }
}
