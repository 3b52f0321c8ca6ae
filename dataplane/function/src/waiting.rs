//! How an idle worker sleeps: one epoll over its control socket, the doorbells of its lanes and its dedicated connections.
//!
//! 1. A doorbell is armed edge-triggered and exclusive: one ring wakes one sleeping worker of the process, not all.
//! 2. Every ring is an edge, whether the pipe was empty or not (Linux 5.14 and later, pipe(7)). So a doorbell is drained at
//!    every [`WAKES_PER_DRAIN`]th wake only: a system call less a call. It must not fill up: a ring into a full pipe is lost.
//!    Draining is bounded by the pipe's size.
//! 3. The control socket is level-triggered: a message left unread wakes the worker again.
//! 4. Connections are edge-triggered: a level would be looked at twice a call, 0.15 µs. So whoever serves one goes on until a
//!    receive finds less than it asked for; and because the end of the stream brings no edge of its own when it comes
//!    together with bytes, an event that tells of it is served until the end is read. Changing what is listened for brings
//!    what is there already.
//! 5. Connections are named by their slots. Those that were reported wait in a queue, each once.
//! 6. No wait is endless: every [`PARK_MAX`] a timer in the same epoll makes the worker look at its lanes even if nothing
//!    rang. A timeout of each wait would cost 0.25 µs a call for setting and clearing it.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use praas_protocol::control::LaneId;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use crate::limits::{EVENTS_PER_WAIT, PARK_MAX};

/// What the control socket is called among the lane numbers, which are 32 bits.
const CONTROL: u64 = u64::MAX;
/// What the timer is called.
const TIMER: u64 = u64::MAX - 1;
/// Added to the slots of connections.
const CONNECTION: u64 = 1 << 62;
/// A timeout that has passed.
const AT_ONCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
/// Wakes by a doorbell between two drains. A wake comes with a ring or a few, and the smallest pipe that the system makes
/// holds 4096, so honest clients do not fill it; a client whose ring finds no room tells the server, which wakes workers.
const WAKES_PER_DRAIN: u32 = 16;

/// What a sleeping worker listens to.
#[derive(Debug)]
pub(crate) struct Waiting {
    epoll: OwnedFd,
    timer: OwnedFd,
    doorbells: Vec<Doorbell>,
    /// Connections that have something to read, or room to write.
    ready: RefCell<VecDeque<Ready>>,
}

/// A connection to be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ready {
    pub(crate) slot: usize,
    /// Whether its stream ends after what is there.
    pub(crate) ends: bool,
}

/// What a connection waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interest {
    ToRead,
    ToWrite,
}

impl Interest {
    fn flags(self) -> EventFlags {
        match self {
            Self::ToRead => EventFlags::IN | EventFlags::RDHUP | EventFlags::ET,
            Self::ToWrite => EventFlags::OUT | EventFlags::ET,
        }
    }
}

#[derive(Debug)]
struct Doorbell {
    lane: LaneId,
    listen: OwnedFd,
    wakes_until_drain: Cell<u32>,
}

impl Waiting {
    pub(crate) fn new(control: impl AsFd) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, control, EventData::new_u64(CONTROL), EventFlags::IN)?;
        let timer = look_again_every(PARK_MAX)?;
        epoll::add(&epoll, &timer, EventData::new_u64(TIMER), EventFlags::IN)?;
        Ok(Self { epoll, timer, doorbells: Vec::new(), ready: RefCell::default() })
    }

    pub(crate) fn add_lane(&mut self, lane: LaneId, doorbell: OwnedFd) -> io::Result<()> {
        let flags = EventFlags::IN | EventFlags::ET | EventFlags::EXCLUSIVE;
        epoll::add(&self.epoll, &doorbell, EventData::new_u64(lane.0.into()), flags)?;
        self.doorbells.push(Doorbell { lane, listen: doorbell, wakes_until_drain: Cell::new(0) });
        Ok(())
    }

    /// Forgets a lane. Other workers hold the same pipe open, so closing alone would leave it in the epoll set.
    pub(crate) fn remove_lane(&mut self, lane: LaneId) {
        if let Some(index) = self.doorbells.iter().position(|one| one.lane == lane) {
            let doorbell = self.doorbells.swap_remove(index);
            // It fails only if the descriptor is not in the set, which is what is wanted.
            let _ = epoll::delete(&self.epoll, &doorbell.listen);
        }
    }

    /// Listens to a connection.
    pub(crate) fn add_connection(&self, socket: impl AsFd, slot: usize) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, socket, name_of(slot), Interest::ToRead.flags())?)
    }

    /// Changes what is listened for.
    pub(crate) fn change_connection(&self, socket: impl AsFd, slot: usize, interest: Interest) {
        // Fails only for a descriptor that is not in the set, whose connection has ended.
        let _ = epoll::modify(&self.epoll, socket, name_of(slot), interest.flags());
    }

    /// Forgets a connection, of which the server holds a duplicate.
    pub(crate) fn remove_connection(&self, socket: impl AsFd) {
        let _ = epoll::delete(&self.epoll, socket);
    }

    /// Whether a connection is waiting to be served.
    pub(crate) fn has_ready(&self) -> bool {
        !self.ready.borrow().is_empty()
    }

    /// The next connection to be served.
    pub(crate) fn take_ready(&self) -> Option<Ready> {
        self.ready.borrow_mut().pop_front()
    }

    /// Serves a connection once more.
    pub(crate) fn add_ready(&self, ready: Ready) {
        let mut queue = self.ready.borrow_mut();
        match queue.iter_mut().find(|one| one.slot == ready.slot) {
            Some(one) => one.ends |= ready.ends,
            None => queue.push_back(ready),
        }
    }

    /// Looks without sleeping whether a connection is to be served. A lane that has rung is noted; what the server has
    /// written is announced in another way too.
    pub(crate) fn look_at_connections(&self) -> bool {
        self.has_ready() || {
            self.hear(Some(&AT_ONCE));
            self.has_ready()
        }
    }

    /// Sleeps until a lane rings, a connection is ready, the server writes, or time is up, which `timeout` can bring forward;
    /// whether the server has written or is gone.
    pub(crate) fn park(&self, timeout: Option<Duration>) -> bool {
        match timeout {
            None => self.hear(None),
            Some(timeout) => self.hear(Some(&timespec(timeout))),
        }
    }

    #[inline]
    fn hear(&self, timeout: Option<&Timespec>) -> bool {
        let mut events = [const { MaybeUninit::<Event>::uninit() }; EVENTS_PER_WAIT];
        let events = match epoll::wait(&self.epoll, &mut events, timeout) {
            Ok((events, _)) => events,
            Err(Errno::INTR) => return false,
            // The set belongs to this worker alone and is open: no other error exists. Reading the control socket is
            // what brings an impossible one to light.
            Err(_) => return true,
        };
        let mut control_is_readable = false;
        for event in events {
            match event.data.u64() {
                CONTROL => control_is_readable = true,
                // The count of periods is of no interest; reading it silences the timer.
                TIMER => drop(rustix::io::read(&self.timer, &mut [0_u8; 8])),
                slot if slot & CONNECTION != 0 => {
                    let flags = event.flags;
                    let ends = flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
                    self.add_ready(Ready { slot: slot_of(slot), ends });
                }
                lane => self.heard(lane),
            }
        }
        control_is_readable
    }

    /// A lane has rung.
    fn heard(&self, number: u64) {
        let Some(doorbell) = self.doorbells.iter().find(|doorbell| u64::from(doorbell.lane.0) == number) else {
            return;
        };
        let wakes = &doorbell.wakes_until_drain;
        if wakes.get() == 0 {
            praas_sys::doorbell::drain(doorbell.listen.as_fd());
            wakes.set(WAKES_PER_DRAIN);
        }
        wakes.set(wakes.get() - 1);
    }
}

fn name_of(slot: usize) -> EventData {
    EventData::new_u64(CONNECTION | slot as u64)
}

fn slot_of(name: u64) -> usize {
    usize::try_from(name & !CONNECTION).unwrap_or(usize::MAX)
}

fn timespec(time: Duration) -> Timespec {
    Timespec { tv_sec: time.as_secs().try_into().unwrap_or(i64::MAX), tv_nsec: time.subsec_nanos().into() }
}

/// A timer that becomes readable every `period`.
fn look_again_every(period: Duration) -> io::Result<OwnedFd> {
    let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
    let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
    let period = timespec(period);
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &Itimerspec { it_interval: period, it_value: period })?;
    Ok(timer)
}
