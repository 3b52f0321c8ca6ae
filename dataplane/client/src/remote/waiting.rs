//! Waiting for answers: whoever waits while nobody reads becomes the reader.
//!
//! Invariants
//! 1. When the reader is free and somebody waits, one of those who wait has been woken and has not slept since: whoever
//!    gives the reader back, or stops waiting, wakes a successor.
//! 2. Every wait ends at its deadline, within one tick of the socket's time limit for a limit that was not read yet.

use std::sync::atomic::Ordering;
use std::task::Waker;
use std::thread;
use std::time::{Duration, Instant};

use praas_protocol::CallError;
use rustix::event::PollFlags;
use rustix::net::RecvFlags;

use crate::deadline::Deadline;
use crate::limits::{FUTURES_WAITING_MAX, READ_TICK, SPINS_PER_LOOK};
use crate::remote::calls::{Settlement, Ticket, Waiter};
use crate::remote::link::{Core, Link};
use crate::remote::reader::{Came, Reader};
use crate::remote::reader_thread;
use crate::remote::state::{Full, State};
use crate::remote::writing::poll_socket;
use crate::session::lock;

impl Link {
    /// Waits for the end of a call or question; `None` when the deadline passed first.
    #[inline]
    pub(crate) fn wait(&self, ticket: &Ticket, deadline: &mut Deadline) -> Option<Settlement> {
        let ready = |state: &mut State| state.calls.take(ticket);
        let sleep = |state: &mut State| {
            state.calls.set_waiter(ticket, Waiter::Thread(thread::current()));
        };
        let rise = |state: &mut State| {
            state.calls.forget_waiter(ticket);
        };
        self.core.wait_for(deadline, ready, sleep, rise)
    }

    /// The same; a large answer is received into `memory` and returned as this, which has nothing any more then.
    pub(crate) fn wait_into(
        &self,
        ticket: &Ticket,
        deadline: &mut Deadline,
        memory: &mut Vec<u8>,
    ) -> Option<Settlement> {
        lock(&self.core.state).calls.give_memory(ticket, std::mem::take(memory));
        let ready = |state: &mut State| {
            // With its end the slot is another's.
            let unused = state.calls.is_settled(ticket).then(|| state.calls.take_memory(ticket.id));
            let settlement = state.calls.take(ticket)?;
            Some((settlement, unused.unwrap_or_default()))
        };
        let sleep = |state: &mut State| {
            state.calls.set_waiter(ticket, Waiter::Thread(thread::current()));
        };
        let rise = |state: &mut State| {
            state.calls.forget_waiter(ticket);
        };
        let ended = self.core.wait_for(deadline, ready, sleep, rise);
        let (settlement, unused) = match ended {
            Some((settlement, unused)) => (Some(settlement), unused),
            None => (None, lock(&self.core.state).calls.take_memory(ticket.id)),
        };
        *memory = unused;
        settlement
    }

    /// Waits until room was given back since `full` was found; false when the deadline passed first.
    pub(crate) fn wait_for_room(&self, full: &Full, deadline: &mut Deadline) -> bool {
        let number = std::cell::Cell::new(None);
        let ready = |state: &mut State| (state.room_given != full.seen || !state.takes_calls()).then_some(());
        let sleep = |state: &mut State| number.set(Some(state.room.add(Waiter::Thread(thread::current()))));
        let rise = |state: &mut State| {
            if let Some(number) = number.get() {
                state.room.remove(number);
            }
        };
        self.core.wait_for(deadline, ready, sleep, rise).is_some()
    }

    /// The end of a call if it is there; otherwise `waker` is woken when it comes, or at `end`.
    pub(crate) fn poll(&self, ticket: &Ticket, waker: &Waker, end: Instant) -> Result<Option<Settlement>, CallError> {
        let mut state = lock(&self.core.state);
        if let Some(settlement) = state.calls.take(ticket) {
            return Ok(Some(settlement));
        }
        let before = state.calls.set_waiter(ticket, Waiter::Task { waker: waker.clone(), end });
        let started = reader_thread::look_after(&self.core, &mut state);
        drop(state);
        drop(before);
        started.map(|()| None)
    }

    /// Has `waker` woken when there may be room, or at `end`; the number by which it leaves the queue. `None` when room was
    /// given back since `seen`, or the connection takes no calls.
    pub(crate) fn queue_for_room(
        &self,
        waker: &Waker,
        end: Instant,
        seen: Option<u64>,
    ) -> Result<Option<u64>, CallError> {
        let mut state = lock(&self.core.state);
        if !state.takes_calls() || seen.is_some_and(|seen| seen != state.room_given) {
            return Ok(None);
        }
        if state.room.tasks() >= FUTURES_WAITING_MAX {
            let limit = FUTURES_WAITING_MAX as u64;
            return Err(CallError::Overloaded { what: "the table of sleeping calls", used: limit, limit });
        }
        let number = state.room.add(Waiter::Task { waker: waker.clone(), end });
        reader_thread::look_after(&self.core, &mut state)?;
        Ok(Some(number))
    }

    /// Leaves the queue; whoever was woken and did not need the room passes it on.
    pub(crate) fn leave_queue(&self, number: u64) {
        let mut state = lock(&self.core.state);
        let own = state.room.remove(number);
        let next = if own.is_none() { state.room.next() } else { None };
        drop(state);
        drop(own);
        next.into_iter().for_each(Waiter::wake);
    }

    /// A call was started whose answer nobody waits for yet: somebody must read before the server takes offence.
    pub(crate) fn started(&self) {
        let mut state = lock(&self.core.state);
        // Without a thread the answers are read when they are collected.
        let _ = reader_thread::run(&self.core, &mut state);
    }
}

impl Core {
    #[inline]
    fn wait_for<T>(
        &self,
        deadline: &mut Deadline,
        mut ready: impl FnMut(&mut State) -> Option<T>,
        sleep: impl Fn(&mut State),
        rise: impl Fn(&mut State),
    ) -> Option<T> {
        let mut state = lock(&self.state);
        loop {
            if let Some(value) = ready(&mut state) {
                self.leave(state);
                return Some(value);
            }
            if let Some(reader) = state.reader.take() {
                drop(state);
                return self.lead(reader, deadline, ready);
            }
            let left = deadline.remaining();
            if left.is_zero() {
                self.leave(state);
                return None;
            }
            sleep(&mut state);
            drop(state);
            thread::park_timeout(left.min(READ_TICK));
            state = lock(&self.state);
            // What came meanwhile is looked for before the waiter's place is given up.
            let value = ready(&mut state);
            rise(&mut state);
            if value.is_some() {
                self.leave(state);
                return value;
            }
        }
    }

    /// Stops waiting without having read: another may have to.
    #[inline]
    fn leave(&self, state: std::sync::MutexGuard<'_, State>) {
        let next = self.next_reader(&state);
        drop(state);
        if let Some(next) = next {
            next.wake();
        }
    }

    /// Reads for everybody until the caller's own wait is over.
    #[inline]
    fn lead<T>(
        &self,
        mut reader: Box<Reader>,
        deadline: &mut Deadline,
        mut ready: impl FnMut(&mut State) -> Option<T>,
    ) -> Option<T> {
        loop {
            let came = self.receive(&mut reader, deadline.remaining_or_limit());
            let idle = matches!(came, Ok(Came::Nothing));
            let mut state = lock(&self.state);
            if !idle {
                self.take_in(&mut reader, came, &mut state);
            }
            let value = ready(&mut state);
            if value.is_some() {
                self.hand_over(state, reader);
                return value;
            }
            drop(state);
            reader.wakes.drain(..).for_each(Waiter::wake);
            if deadline.has_passed() {
                self.give_reader_back(reader);
                return None;
            }
        }
    }

    /// Gives the reader back and wakes those whose answers it brought, and its successor.
    #[inline]
    fn hand_over(&self, mut state: std::sync::MutexGuard<'_, State>, mut reader: Box<Reader>) {
        let wakes = if reader.wakes.is_empty() { Vec::new() } else { std::mem::take(&mut reader.wakes) };
        state.reader = Some(reader);
        let next = self.next_reader(&state);
        drop(state);
        wakes.into_iter().chain(next).for_each(Waiter::wake);
    }

    pub(super) fn give_reader_back(&self, reader: Box<Reader>) {
        self.hand_over(lock(&self.state), reader);
    }

    /// Who should read now that the reader is free.
    #[inline]
    pub(super) fn next_reader(&self, state: &State) -> Option<Waiter> {
        state.reader.as_ref()?;
        let thread = state.calls.blocked_thread().or_else(|| state.room.blocked_thread());
        if thread.is_none() && state.thread.sleeps && state.tasks() > 0 {
            self.thread_wake.notify_one();
        }
        thread.map(Waiter::Thread)
    }

    /// Receives once, as this connection waits, for at most `limit` or a tick.
    #[inline]
    pub(super) fn receive(&self, reader: &mut Reader, limit: Duration) -> std::io::Result<Came> {
        if self.has_outbox.load(Ordering::Acquire) {
            return self.receive_and_flush(reader, limit);
        }
        if self.spins {
            for _ in 0..SPINS_PER_LOOK {
                let came = reader.receive(&self.socket, RecvFlags::DONTWAIT);
                if !matches!(came, Ok(Came::Nothing)) {
                    return came;
                }
            }
            return Ok(Came::Nothing);
        }
        self.receive_parked(reader, limit)
    }

    /// The same asleep, whatever the callers do.
    #[inline]
    pub(super) fn receive_parked(&self, reader: &mut Reader, limit: Duration) -> std::io::Result<Came> {
        if limit >= READ_TICK {
            // The socket's own time limit is the tick: no further system call is needed to keep it.
            return reader.receive(&self.socket, RecvFlags::empty());
        }
        poll_socket(self, PollFlags::IN, limit);
        reader.receive(&self.socket, RecvFlags::DONTWAIT)
    }

    #[cold]
    fn receive_and_flush(&self, reader: &mut Reader, limit: Duration) -> std::io::Result<Came> {
        let found = poll_socket(self, PollFlags::IN | PollFlags::OUT, limit.min(READ_TICK));
        if found.contains(PollFlags::OUT) {
            self.flush_soon();
        }
        reader.receive(&self.socket, RecvFlags::DONTWAIT)
    }
}
