//! Ping-pong of 64 bytes through shared memory: a request cell, a reply cell, the payload echoed. Either both sides
//! spin, or both sleep on a futex. The barest call that two processes can make; a lane is compared with it.

use std::io;

use super::cell::{Cell, FIRST_SEQUENCE, Payload, Poisoned, successor};
use super::mapping::{Mapping, Shareable};
use super::peer::Orders;
use super::session::Session;
use super::{Batch, Config, FloorError, Placement, Samples, timed};
use crate::interleave::{Series, SeriesError};

pub(super) const SPIN_ROLE: &str = "ping-pong-spin";
pub(super) const PARK_ROLE: &str = "ping-pong-park";

/// How both sides wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// Neither gives up its core.
    Spin,
    /// Both sleep on a futex word; each hand-over wakes the other side.
    Park,
}

impl Waiting {
    fn floor(self) -> &'static str {
        match self {
            Self::Spin => "shared-memory ping-pong, both spin",
            Self::Park => "shared-memory ping-pong, both park on a futex",
        }
    }

    fn role(self) -> &'static str {
        match self {
            Self::Spin => SPIN_ROLE,
            Self::Park => PARK_ROLE,
        }
    }

    /// Refuses what would measure the scheduler's time slice.
    pub(super) fn check(self, floor: &'static str, placement: Placement) -> Result<(), FloorError> {
        if self == Self::Spin && matches!(placement, Placement::OneCore(_)) {
            return Err(FloorError::SpinsOnOneCore { floor });
        }
        Ok(())
    }
}

/// One cell each way.
#[derive(Debug)]
#[repr(C)]
pub(super) struct PingPongPage {
    request: Cell,
    reply: Cell,
}

// SAFETY: two cells, which are atomics and padding.
unsafe impl Shareable for PingPongPage {}

impl PingPongPage {
    /// The caller's side: sends `payload` and waits for its echo.
    #[inline(always)]
    fn call(&self, waiting: Waiting, sequence: u32, payload: &Payload) -> Result<Payload, Poisoned> {
        self.request.publish(sequence, 0, payload);
        match waiting {
            Waiting::Spin => self.reply.wait_spinning(sequence)?,
            Waiting::Park => {
                self.request.wake();
                self.reply.wait_parked(sequence)?;
            }
        }
        Ok(self.reply.payload())
    }

    /// The peer's side: waits for a request and echoes it.
    #[inline(always)]
    fn answer(&self, waiting: Waiting, sequence: u32) -> Result<(), Poisoned> {
        match waiting {
            Waiting::Spin => self.request.wait_spinning(sequence)?,
            Waiting::Park => self.request.wait_parked(sequence)?,
        }
        self.reply.publish(sequence, 0, &self.request.payload());
        if waiting == Waiting::Park {
            self.reply.wake();
        }
        Ok(())
    }

    /// Ends the caller's wait for a dead peer.
    pub(super) fn poison(&self) {
        self.reply.poison();
    }
}

/// The caller's place in an endless row of calls.
#[derive(Debug)]
pub(super) struct Caller {
    sequence: u32,
    calls: u64,
}

impl Caller {
    pub(super) fn new() -> Self {
        Self { sequence: FIRST_SEQUENCE, calls: 0 }
    }

    /// Measures a batch of calls over `page`.
    pub(super) fn measure(
        &mut self,
        floor: &'static str,
        page: &PingPongPage,
        waiting: Waiting,
        batch: Batch,
    ) -> Result<Samples, FloorError> {
        timed(batch, || {
            let mut payload: Payload = [self.calls; 8];
            payload[7] = !self.calls;
            let echo =
                page.call(waiting, self.sequence, &payload).map_err(|Poisoned| FloorError::PeerGone { floor })?;
            if echo != payload {
                return Err(FloorError::WrongAnswer { floor, expected: payload[0], answer: echo[0] });
            }
            self.sequence = successor(self.sequence);
            self.calls += 1;
            Ok(())
        })
    }
}

/// Serves rounds over `page`; the peer's half of `Caller::measure`.
pub(super) fn answer_rounds(orders: &Orders, page: &PingPongPage, waiting: Waiting) -> io::Result<()> {
    let mut sequence = FIRST_SEQUENCE;
    orders.serve(|operations| {
        for _ in 0..operations {
            page.answer(waiting, sequence).map_err(|Poisoned| io::Error::other("poisoned"))?;
            sequence = successor(sequence);
        }
        Ok(())
    })
}

/// The floor, open for rounds.
#[derive(Debug)]
pub struct PingPong {
    session: Session,
    mapping: Mapping,
    waiting: Waiting,
    caller: Caller,
}

impl PingPong {
    /// Starts the other side.
    ///
    /// # Errors
    /// Any [`FloorError`]; spinning on one core is refused.
    pub fn open(waiting: Waiting, config: &Config) -> Result<Self, FloorError> {
        waiting.check(waiting.floor(), config.placement)?;
        let mapping = Mapping::create(size_of::<PingPongPage>())?;
        let session = Session::open(waiting.floor(), waiting.role(), config, &[mapping.memfd()], &[])?;
        Ok(Self { session, mapping, waiting, caller: Caller::new() })
    }

    /// One round of calls.
    ///
    /// # Errors
    /// Any [`FloorError`], after which the floor is spent.
    pub fn round(&mut self, batch: Batch) -> Result<Samples, FloorError> {
        let page = self.mapping.view::<PingPongPage>();
        let (floor, waiting) = (self.session.floor(), self.waiting);
        let caller = &mut self.caller;
        self.session.round(batch.operations(), &|| page.poison(), || match waiting {
            // Spelled out so that each loop is compiled for its own way of waiting.
            Waiting::Spin => caller.measure(floor, page, Waiting::Spin, batch),
            Waiting::Park => caller.measure(floor, page, Waiting::Park, batch),
        })
    }

    /// The other side's process, for tests that kill it.
    #[must_use]
    pub fn peer_process_id(&self) -> u32 {
        self.session.peer_id()
    }
}

impl Series for PingPong {
    fn label(&self) -> String {
        self.session.config().label(self.session.floor())
    }

    fn round(&mut self, batch: Batch) -> Result<Samples, SeriesError> {
        Ok(Self::round(self, batch)?)
    }
}

/// The peer's side.
pub(super) fn serve(mut orders: Orders, waiting: Waiting) -> io::Result<()> {
    let mapping = Mapping::attach(orders.take_fd()?).map_err(io::Error::other)?;
    answer_rounds(&orders, mapping.view::<PingPongPage>(), waiting)
}
