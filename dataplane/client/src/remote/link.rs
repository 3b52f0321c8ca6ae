//! One TCP connection to a server or, when it was handed over, to a worker: shared by all threads that call over it.
//!
//! No thread of ours stands between a caller and its socket. The caller writes its own request, and whoever waits while
//! nobody reads becomes the reader: it reads until its own answer came, hands the others theirs, and passes the reading on
//! to another waiting thread when it leaves. Only futures need a thread, which reads while no caller does.
//!
//! | part | file |
//! |---|---|
//! | what is shared under the lock | `state.rs`, `calls.rs`, `room.rs`, `outbox.rs` |
//! | writing | `writing.rs` |
//! | waiting and reading | `waiting.rs`, `reader.rs` |
//! | the thread for futures | `reader_thread.rs` |

use std::fmt;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use praas_protocol::wire::{Session, State as WireState};
use rustix::net::{RecvFlags, Shutdown};

use crate::limits::LOOK_AFTER;
use crate::remote::calls::{Ticket, Waiter};
use crate::remote::dialing::Greeting;
use crate::remote::reader::{Came, Reader};
use crate::remote::state::{Farewell, State};
use crate::session::lock;

/// A connection. It ends with its last user.
pub(crate) struct Link {
    pub(super) core: Arc<Core>,
}

/// The same without the promise to stay: what the reading thread holds.
pub(super) struct Core {
    pub(super) socket: TcpStream,
    pub(super) state: Mutex<State>,
    /// Rung when the right to write is free.
    pub(super) sender_free: Condvar,
    /// Rung when the reading thread should look again.
    pub(super) thread_wake: Condvar,
    /// Bytes wait in the outbox: whoever reads should look whether the socket takes them.
    pub(super) has_outbox: AtomicBool,
    /// Callers poll the socket instead of sleeping.
    pub(super) spins: bool,
    pub(super) greeting: Greeting,
    /// Whether it takes no new calls, for a look without the lock.
    pub(super) over: AtomicBool,
}

impl Link {
    /// A connection that was greeted, and handed over if that was asked for.
    pub(super) fn new(
        socket: TcpStream,
        session: Session,
        reader: Reader,
        greeting: Greeting,
        spins: bool,
    ) -> Arc<Self> {
        let core = Core {
            socket,
            state: Mutex::new(State::new(session, Box::new(reader))),
            sender_free: Condvar::new(),
            thread_wake: Condvar::new(),
            has_outbox: AtomicBool::new(false),
            spins,
            greeting,
            over: AtomicBool::new(false),
        };
        Arc::new(Self { core: Arc::new(core) })
    }

    /// What the server said of itself.
    pub(crate) fn greeting(&self) -> &Greeting {
        &self.core.greeting
    }

    /// Whether new calls may go over it.
    #[inline]
    pub(crate) fn is_usable(&self) -> bool {
        !self.core.over.load(Ordering::Acquire)
    }

    /// The same after reading what has come meanwhile, so that the end of a quiet connection is noticed.
    pub(crate) fn is_usable_now(&self) -> bool {
        self.core.look();
        self.is_usable()
    }

    /// What the server said when it ended the connection.
    pub(crate) fn farewell(&self) -> Option<(praas_protocol::wire::GoawayReason, bool)> {
        let farewell = lock(&self.core.state).farewell;
        farewell.map(|Farewell { reason, may_reconnect }| (reason, may_reconnect))
    }

    /// A place for calls through a handle.
    pub(crate) fn add_handle(&self, handle: u32, limit: u32) -> usize {
        lock(&self.core.state).add_handle(handle, limit)
    }

    /// Calls through it are over.
    pub(crate) fn close_handle(&self, seat: usize) {
        lock(&self.core.state).close_handle(seat);
        self.core.flush_soon();
    }

    /// Whether a call or question has ended; reads what has come if nobody else does.
    pub(crate) fn is_settled(&self, ticket: &Ticket) -> bool {
        if lock(&self.core.state).calls.is_settled(ticket) {
            return true;
        }
        self.core.look();
        lock(&self.core.state).calls.is_settled(ticket)
    }

    /// Nobody waits for it any more; the server hears of it if it still runs.
    #[expect(clippy::needless_pass_by_value, reason = "the ticket is given up with it")]
    pub(crate) fn abandon(&self, ticket: Ticket) {
        let mut state = lock(&self.core.state);
        if state.abandon(&ticket) {
            state.sender.outbox.cancel(ticket.id);
        }
        drop(state);
        self.core.flush_soon();
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.core.finish("its last user let it go");
    }
}

impl Core {
    /// Ends the connection, if nothing ended it before.
    pub(super) fn finish(&self, reason: impl fmt::Display) {
        let mut wakes = Vec::new();
        let mut state = lock(&self.state);
        self.finish_locked(&mut state, &reason.to_string(), &mut wakes);
        let tasks = std::mem::take(&mut state.sender.wakers);
        drop(state);
        wakes.into_iter().for_each(Waiter::wake);
        tasks.into_iter().for_each(std::task::Waker::wake);
    }

    fn finish_locked(&self, state: &mut State, reason: &str, wakes: &mut Vec<Waiter>) {
        self.over.store(true, Ordering::Release);
        state.finish(reason.to_owned(), wakes);
        // Fails only when it is closed already. Whoever is blocked in it returns.
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Both);
        self.sender_free.notify_all();
        self.thread_wake.notify_all();
    }

    /// Takes in what `reader` received; the lock is held on.
    pub(super) fn take_in(&self, reader: &mut Reader, came: std::io::Result<Came>, state: &mut State) {
        let reason = match came {
            Ok(Came::End) if reader.is_between_frames() => "the server closed it".to_owned(),
            Ok(Came::End) => "the server closed it within a frame".to_owned(),
            Err(error) => error.to_string(),
            Ok(came) => match reader.dispatch(came, state) {
                Ok(()) => {
                    if matches!(state.session.state(), WireState::Leaving { .. }) {
                        self.over.store(true, Ordering::Release);
                    }
                    return;
                }
                Err(violation) => format!("the server broke the protocol: {violation}"),
            },
        };
        self.finish_locked(state, &reason, &mut reader.wakes);
        // Those who wait for the right to write see the end when they look.
        reader.wakes.extend(state.sender.wakers.drain(..).map(|waker| Waiter::Task { waker, end: Instant::now() }));
    }

    /// Reads what has come, without waiting, unless somebody reads anyway.
    pub(super) fn look(&self) {
        let Some(mut reader) = lock(&self.state).reader.take() else { return };
        loop {
            let came = reader.receive(&self.socket, RecvFlags::DONTWAIT);
            let more = matches!(came, Ok(Came::Buffered(_) | Came::Direct(_)));
            let mut state = lock(&self.state);
            self.take_in(&mut reader, came, &mut state);
            let wakes = std::mem::take(&mut reader.wakes);
            if !more || state.end.is_some() {
                state.last_use = Instant::now();
                state.reader = Some(reader);
                let next = self.next_reader(&state);
                drop(state);
                wakes.into_iter().chain(next).for_each(Waiter::wake);
                return;
            }
            drop(state);
            wakes.into_iter().for_each(Waiter::wake);
        }
    }

    /// Looks at a connection that was quiet for a while: the server may have ended it, and a request sent there now would
    /// be lost without anybody knowing whether it ran.
    #[inline]
    pub(super) fn look_if_quiet(&self) {
        let now = Instant::now();
        let mut state = lock(&self.state);
        let quiet = now.duration_since(state.last_use) > LOOK_AFTER;
        state.last_use = now;
        drop(state);
        if quiet {
            self.look();
        }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = lock(&self.core.state);
        formatter
            .debug_struct("Link")
            .field("greeting", &self.core.greeting)
            .field("state", &state.session.state())
            .field("unanswered", &state.calls.in_use())
            .field("end", &state.end)
            .finish_non_exhaustive()
    }
}
