//! How an idle worker sleeps: one epoll over its control socket and the doorbells of its lanes.
//!
//! 1. A doorbell is armed edge-triggered and exclusive: one ring wakes one sleeping worker of the process, not all.
//! 2. Every ring is an edge, whether the pipe was empty or not (Linux 5.14 and later, pipe(7)). So a doorbell is drained at
//!    every [`WAKES_PER_DRAIN`]th wake only: a system call less a call. It must not fill up: a ring into a full pipe is lost.
//!    Draining is bounded by the pipe's size.
//! 3. The control socket is level-triggered: a message left unread wakes the worker again.
//! 4. No wait is endless: every [`PARK_MAX`] a timer in the same epoll makes the worker look at its lanes even if nothing
//!    rang. A timeout of each wait would cost 0.25 µs a call for setting and clearing it.

use std::cell::Cell;
use std::io;
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
/// Wakes by a doorbell between two drains. A wake comes with a ring or a few, and the smallest pipe that the system makes
/// holds 4096, so honest clients do not fill it; a client whose ring finds no room tells the server, which wakes workers.
const WAKES_PER_DRAIN: u32 = 16;

/// What a sleeping worker listens to.
#[derive(Debug)]
pub(crate) struct Waiting {
    epoll: OwnedFd,
    timer: OwnedFd,
    doorbells: Vec<Doorbell>,
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
        Ok(Self { epoll, timer, doorbells: Vec::new() })
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

    /// Sleeps until a lane rings, the server writes, or time is up; whether the server has written or is gone.
    pub(crate) fn park(&self) -> bool {
        let mut events = [Event { flags: EventFlags::empty(), data: EventData::new_u64(0) }; EVENTS_PER_WAIT];
        let count = match epoll::wait(&self.epoll, &mut events, None) {
            Ok(count) => count,
            Err(Errno::INTR) => 0,
            // The set belongs to this worker alone and is open: no other error exists. Reading the control socket is
            // what brings an impossible one to light.
            Err(_) => return true,
        };
        let mut control_is_readable = false;
        for event in &events[..count] {
            match event.data.u64() {
                CONTROL => control_is_readable = true,
                // The count of periods is of no interest; reading it silences the timer.
                TIMER => drop(rustix::io::read(&self.timer, &mut [0_u8; 8])),
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

/// A timer that becomes readable every `period`.
fn look_again_every(period: Duration) -> io::Result<OwnedFd> {
    let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
    let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
    let period =
        Timespec { tv_sec: period.as_secs().try_into().unwrap_or(i64::MAX), tv_nsec: period.subsec_nanos().into() };
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &Itimerspec { it_interval: period, it_value: period })?;
    Ok(timer)
}
