//! Tells shards that their control sessions have something to read: a thread that sleeps in epoll on all of them.
//!
//! A driver serves streams, listeners and pipes; messages that carry descriptors are none of these. The thread reads
//! nothing: it notes the session and wakes the shard's driver. Sessions seldom speak, so this costs calls nothing.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Registry, Token};
use praas_protocol::SessionId;
use praas_protocol::control::LaneId;
use praas_sys::driver::Waker;

use super::control_session::SessionKey;
use super::links::Dialled;
use super::sessions::{RoomAnswer, RoomSend};
use super::table::Key;
use crate::gateways::GatewayParts;
use crate::limits::POLL_EVENTS_MAX;
use crate::sessions::SessionParts;

const SHARD_SHIFT: u32 = 56;

/// The thread is to end.
const END: Token = Token(usize::MAX);

/// What the server's loop, or another shard, leaves for a shard.
#[derive(Debug)]
pub(crate) enum Letter {
    /// Serve a lane to what is in no process's memory here.
    Gateway(Box<GatewayParts>),
    /// A request lies in such a lane, and its client saw nobody attend it.
    GatewayRang(LaneId),
    /// Another lane to the same session has taken this one's place.
    GatewaySuperseded(LaneId),
    /// Such a lane is gone.
    GatewayGone(LaneId),
    /// Keep a client's session.
    Session(Box<SessionParts>),
    /// A client's session is over.
    SessionEnded(SessionId),
    /// From another shard: a message of a session for a server that this one has the link to.
    RoomSend(Box<RoomSend>),
    /// From another shard: what became of such a message.
    RoomAnswer(Box<RoomAnswer>),
    /// An attempt to connect to another server has ended.
    Dialled(Dialled),
}

/// What others leave for a shard.
#[derive(Debug, Default)]
pub(super) struct Mail {
    order: AtomicU8,
    stirred: Mutex<BTreeSet<u64>>,
    /// As many as lanes and sessions begin and end while a turn lasts.
    letters: Mutex<Vec<Letter>>,
    waker: OnceLock<Waker>,
}

/// What a shard is told to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum Order {
    /// Serve.
    Serve = 0,
    /// Take nothing new and answer what was taken.
    Drain = 1,
    /// As soon as what is answered is sent, end.
    End = 2,
}

impl Mail {
    /// The shard's driver is there.
    pub(super) fn reach_by(&self, waker: Waker) {
        let _ = self.waker.set(waker);
    }

    pub(super) fn order(&self, order: Order) {
        self.order.fetch_max(order as u8, Ordering::Release);
        self.wake();
    }

    /// What the shard was told last.
    pub(super) fn last_order(&self) -> Order {
        match self.order.load(Ordering::Acquire) {
            0 => Order::Serve,
            1 => Order::Drain,
            _ => Order::End,
        }
    }

    /// Sessions that have stirred since this was asked last.
    pub(super) fn take_stirred(&self) -> Vec<SessionKey> {
        let stirred = std::mem::take(&mut *self.stirred.lock().unwrap_or_else(PoisonError::into_inner));
        stirred.into_iter().map(Key::of_word).collect()
    }

    /// Leaves a letter. They are read in their order.
    pub(super) fn post(&self, letter: Letter) {
        self.letters.lock().unwrap_or_else(PoisonError::into_inner).push(letter);
        self.wake();
    }

    /// The letters that came since this was asked last.
    pub(super) fn take_letters(&self) -> Vec<Letter> {
        std::mem::take(&mut *self.letters.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn stir(&self, session: u64) {
        self.stirred.lock().unwrap_or_else(PoisonError::into_inner).insert(session);
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.get() {
            waker.wake();
        }
    }
}

/// A shard's way to the thread.
#[derive(Debug)]
pub(super) struct Relay(Registry);

impl Relay {
    /// Has the shard woken when the session's socket can be read or written again.
    pub(super) fn watch(&self, socket: BorrowedFd<'_>, shard: usize, session: SessionKey) -> io::Result<()> {
        let token = Token(shard << SHARD_SHIFT | usize::try_from(session.word()).unwrap_or(0));
        self.0.register(&mut SourceFd(&socket.as_raw_fd()), token, Interest::READABLE | Interest::WRITABLE)
    }

    /// Ends that. To be called before the socket closes.
    pub(super) fn forget(&self, socket: BorrowedFd<'_>) {
        let _ = self.0.deregister(&mut SourceFd(&socket.as_raw_fd()));
    }
}

/// The thread. Dropping it ends it.
#[derive(Debug)]
pub(super) struct RelayThread {
    registry: Registry,
    end: mio::Waker,
    thread: Option<JoinHandle<()>>,
}

impl RelayThread {
    pub(super) fn start(shards: Vec<Arc<Mail>>) -> io::Result<Self> {
        let poll = Poll::new()?;
        let registry = poll.registry().try_clone()?;
        let end = mio::Waker::new(poll.registry(), END)?;
        let thread =
            std::thread::Builder::new().name("praas-net-relay".into()).spawn(move || pass_on(poll, &shards))?;
        Ok(Self { registry, end, thread: Some(thread) })
    }

    /// A way to the thread for one shard.
    pub(super) fn way(&self) -> io::Result<Relay> {
        self.registry.try_clone().map(Relay)
    }
}

impl Drop for RelayThread {
    fn drop(&mut self) {
        if self.end.wake().is_ok()
            && let Some(thread) = self.thread.take()
        {
            // A panic there was printed by the panic hook; here it is only the end.
            let _ = thread.join();
        }
    }
}

fn pass_on(mut poll: Poll, shards: &[Arc<Mail>]) {
    let mut events = Events::with_capacity(POLL_EVENTS_MAX);
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return,
            _ => {}
        }
        for event in &events {
            if event.token() == END {
                return;
            }
            if let Some(mail) = shards.get(event.token().0 >> SHARD_SHIFT) {
                mail.stir((event.token().0 & ((1 << SHARD_SHIFT) - 1)) as u64);
            }
        }
    }
}

const _: () = assert!(usize::BITS == 64, "a shard and a session fit a token");
