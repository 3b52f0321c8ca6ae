//! Pipelined calls over a bare ring of a lane's geometry: 128-byte entries and reply cells, one producer, one consumer,
//! 64 bytes each way, the sequence word in the entry, the reply to a cell that the caller named. Nothing of what makes
//! a lane safe: no claims, generations, fences or phases.
//!
//! Invariant: at most `IN_FLIGHT` calls are unanswered and there are more entries than that, so an entry is free again
//! by the time its turn comes, and the ring needs no tail.

use std::io;

use super::cell::{Cell, FIRST_SEQUENCE, Payload, Poisoned, successor};
use super::mapping::{Mapping, Shareable};
use super::peer::Orders;
use super::ping_pong::Waiting;
use super::session::Session;
use super::{Batch, Config, FloorError, Samples, timed_groups};
use crate::interleave::{Series, SeriesError};

pub(super) const ROLE: &str = "bare-ring";
const NAME: &str = "bare ring, 32 in flight";
/// Entries of the ring.
const ENTRIES: usize = 64;
/// Calls that the caller keeps unanswered; also the number of reply cells.
pub const IN_FLIGHT: usize = 32;
/// Calls that one sample spans: long enough that two clock readings are a thousandth of it.
pub const CALLS_PER_SAMPLE: u64 = 1024;

const _: () = assert!(ENTRIES > IN_FLIGHT, "an entry must be free when its turn comes");

#[repr(C)]
struct RingPage {
    entries: [Cell; ENTRIES],
    replies: [Cell; IN_FLIGHT],
}

// SAFETY: arrays of cells, which are atomics and padding.
unsafe impl Shareable for RingPage {}

impl RingPage {
    /// Ends every wait of the caller for a dead peer.
    fn poison(&self) {
        self.replies.iter().for_each(Cell::poison);
    }
}

/// A position in the endless row of calls, on either side.
#[derive(Clone, Copy, Debug)]
struct Position {
    calls: u64,
    sequence: u32,
}

impl Position {
    const START: Self = Self { calls: 0, sequence: FIRST_SEQUENCE };

    #[allow(clippy::cast_possible_truncation)] // a remainder below 64
    #[inline(always)]
    fn entry(self) -> usize {
        (self.calls % ENTRIES as u64) as usize
    }

    #[allow(clippy::cast_possible_truncation)] // a remainder below 32
    #[inline(always)]
    fn reply(self) -> usize {
        (self.calls % IN_FLIGHT as u64) as usize
    }

    #[inline(always)]
    fn advance(&mut self) {
        self.calls += 1;
        self.sequence = successor(self.sequence);
    }
}

/// The floor, open for rounds. Its samples span [`CALLS_PER_SAMPLE`] calls.
#[derive(Debug)]
pub struct BareRing {
    session: Session,
    mapping: Mapping,
    issued: Position,
    answered: Position,
}

impl BareRing {
    /// Starts the other side.
    ///
    /// # Errors
    /// Any [`FloorError`]; one core is refused.
    pub fn open(config: &Config) -> Result<Self, FloorError> {
        Waiting::Spin.check(NAME, config.placement)?;
        let mapping = Mapping::create(size_of::<RingPage>())?;
        let session = Session::open(NAME, ROLE, config, &[mapping.memfd()], &[])?;
        Ok(Self { session, mapping, issued: Position::START, answered: Position::START })
    }

    /// One round of calls. The window is empty before and after it.
    ///
    /// # Errors
    /// Any [`FloorError`], after which the floor is spent.
    pub fn round(&mut self, batch: Batch) -> Result<Samples, FloorError> {
        let page = self.mapping.view::<RingPage>();
        let (issued, answered) = (&mut self.issued, &mut self.answered);
        self.session.round(batch.operations() * CALLS_PER_SAMPLE, &|| page.poison(), || {
            let samples = timed_groups(batch, CALLS_PER_SAMPLE, || {
                for _ in 0..CALLS_PER_SAMPLE {
                    if issued.calls - answered.calls == IN_FLIGHT as u64 {
                        collect(page, answered)?;
                    }
                    issue(page, issued);
                }
                Ok(())
            })?;
            while answered.calls < issued.calls {
                collect(page, answered)?;
            }
            Ok(samples)
        })
    }
}

#[allow(clippy::cast_possible_truncation)] // a cell's number is below 32
#[inline(always)]
fn issue(page: &RingPage, issued: &mut Position) {
    let payload: Payload = [issued.calls; 8];
    page.entries[issued.entry()].publish(issued.sequence, issued.reply() as u32, &payload);
    issued.advance();
}

#[inline(always)]
fn collect(page: &RingPage, answered: &mut Position) -> Result<(), FloorError> {
    let cell = &page.replies[answered.reply()];
    cell.wait_spinning(answered.sequence).map_err(|Poisoned| FloorError::PeerGone { floor: NAME })?;
    let payload = cell.payload();
    if payload != [answered.calls; 8] {
        return Err(FloorError::WrongAnswer { floor: NAME, expected: answered.calls, answer: payload[0] });
    }
    answered.advance();
    Ok(())
}

impl Series for BareRing {
    fn label(&self) -> String {
        self.session.config().label(NAME)
    }

    fn round(&mut self, batch: Batch) -> Result<Samples, SeriesError> {
        Ok(Self::round(self, batch)?)
    }
}

/// The peer's side.
pub(super) fn serve(mut orders: Orders) -> io::Result<()> {
    let mapping = Mapping::attach(orders.take_fd()?).map_err(io::Error::other)?;
    let page = mapping.view::<RingPage>();
    let mut next = Position::START;
    orders.serve(|operations| {
        for _ in 0..operations {
            let entry = &page.entries[next.entry()];
            entry.wait_spinning(next.sequence).map_err(|Poisoned| io::Error::other("poisoned"))?;
            let payload = entry.payload();
            let reply = entry.target() as usize % IN_FLIGHT;
            page.replies[reply].publish(next.sequence, 0, &payload);
            next.advance();
        }
        Ok(())
    })
}
