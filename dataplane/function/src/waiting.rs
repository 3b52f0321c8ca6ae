//! How an idle worker sleeps: one epoll over its control socket and the doorbells of its lanes.
//!
//! 1. A doorbell is armed edge-triggered and exclusive: one ring wakes one sleeping worker of the process, not all.
//! 2. Whoever is woken drains the pipe, so that the next ring is an edge again. Draining is bounded by the pipe's size.
//! 3. The control socket is level-triggered: a message left unread wakes the worker again.
//! 4. No wait is endless: after [`PARK_MAX`] the worker looks at its lanes even if nothing rang.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use praas_protocol::control::LaneId;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;

use crate::limits::{EVENTS_PER_WAIT, PARK_MAX};

/// What the control socket is called among the lane numbers, which are 32 bits.
const CONTROL: u64 = u64::MAX;

/// What a sleeping worker listens to.
#[derive(Debug)]
pub(crate) struct Waiting {
    epoll: OwnedFd,
    doorbells: Vec<(LaneId, OwnedFd)>,
}

impl Waiting {
    pub(crate) fn new(control: impl AsFd) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, control, EventData::new_u64(CONTROL), EventFlags::IN)?;
        Ok(Self { epoll, doorbells: Vec::new() })
    }

    pub(crate) fn add_lane(&mut self, lane: LaneId, doorbell: OwnedFd) -> io::Result<()> {
        let flags = EventFlags::IN | EventFlags::ET | EventFlags::EXCLUSIVE;
        epoll::add(&self.epoll, &doorbell, EventData::new_u64(lane.0.into()), flags)?;
        self.doorbells.push((lane, doorbell));
        Ok(())
    }

    /// Forgets a lane. Other workers hold the same pipe open, so closing alone would leave it in the epoll set.
    pub(crate) fn remove_lane(&mut self, lane: LaneId) {
        if let Some(index) = self.doorbells.iter().position(|(one, _)| *one == lane) {
            let (_, doorbell) = self.doorbells.swap_remove(index);
            // It fails only if the descriptor is not in the set, which is what is wanted.
            let _ = epoll::delete(&self.epoll, &doorbell);
        }
    }

    /// Sleeps until a lane rings, the server writes, or time is up; whether the server has written or is gone.
    pub(crate) fn park(&self) -> bool {
        self.wait(PARK_MAX)
    }

    fn wait(&self, time: Duration) -> bool {
        let timeout =
            Timespec { tv_sec: time.as_secs().try_into().unwrap_or(i64::MAX), tv_nsec: time.subsec_nanos().into() };
        let mut events = [Event { flags: EventFlags::empty(), data: EventData::new_u64(0) }; EVENTS_PER_WAIT];
        let count = match epoll::wait(&self.epoll, &mut events, Some(&timeout)) {
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
                lane => self.drain(lane),
            }
        }
        control_is_readable
    }

    fn drain(&self, number: u64) {
        if let Some((_, doorbell)) = self.doorbells.iter().find(|(lane, _)| u64::from(lane.0) == number) {
            praas_sys::doorbell::drain(doorbell.as_fd());
        }
    }
}
