//! Calls of one thread that are on their way together, and whose replies are taken in the order in which they were sent.
//!
//! What a call needs until it is answered lies in a row of slots that is made once, so sending and receiving copy little,
//! count no references and allocate nothing. Whatever is out of the ordinary (a loan, a payload that does not travel inline,
//! a lane that was replaced, a process on the network) becomes a [`Pending`] in its slot.
//!
//! Invariants
//! 1. A slot's ticket belongs to the lane in `direct`, which is replaced only while no slot has a ticket.
//! 2. `count` slots from `first` on, around the end of the row, hold a call each; the others hold none.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use praas_protocol::limits::{REQUEST_INLINE_BYTES, RING_ENTRIES_MAX};
use praas_protocol::{CallError, Outcome};
use praas_shm::client_lane::{Answer, Ticket, WaitEnd};

use crate::deadline::Deadline;
use crate::function::Function;
use crate::open_lane::OpenLane;
use crate::payload::{Given, Kept, Payload};
use crate::pending::LanePending;
use crate::pending_call::Pending;
use crate::process::{Process, ProcessShared};
use crate::reply::Reply;

/// Calls on their way together, oldest first: [`Process::pipeline`]. The fastest way to make many small calls.
///
/// Dropping it cancels the calls whose replies were not received.
///
/// ```no_run
/// # let client = praas_client::Client::connect_default()?;
/// let alice = client.process("hello/alice".parse()?)?;
/// let mut pipeline = alice.pipeline(32);
/// for word in ["one", "two", "three"] {
///     if pipeline.is_full() {
///         println!("{:?}", pipeline.receive().transpose()?);
///     }
///     pipeline.send("echo", word)?;
/// }
/// while let Some(reply) = pipeline.receive() {
///     println!("{:?}", reply?.as_slice());
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Pipeline<'a> {
    /// First, so that what they hold is given up before the process that it belongs to.
    slots: Box<[Slot<'a>]>,
    first: usize,
    count: usize,
    /// `None` for a process on the network.
    direct: Option<Direct>,
    process: Process,
}

/// The lane that small calls go over without further ado.
struct Direct {
    shared: Arc<ProcessShared>,
    open: Arc<OpenLane>,
    /// Slots with tickets.
    tickets: usize,
}

/// The place of a call. What is in it beside `ticket` and `held` may be left from an earlier one.
struct Slot<'a> {
    ticket: Option<Ticket>,
    held: Option<Box<Pending<'static>>>,
    function: Function<'a>,
    deadline: Deadline,
    /// The payload of a call with a ticket, to be sent again.
    payload: [u8; REQUEST_INLINE_BYTES],
    payload_bytes: usize,
}

impl Slot<'_> {
    fn new() -> Self {
        Self {
            ticket: None,
            held: None,
            function: Function::new(""),
            deadline: Deadline::unread(Duration::ZERO),
            payload: [0; REQUEST_INLINE_BYTES],
            payload_bytes: 0,
        }
    }

    fn kept(&self) -> Kept<'static> {
        Kept::detached(Payload::from(&self.payload[..self.payload_bytes]))
    }
}

impl<'a> Pipeline<'a> {
    pub(crate) fn new(process: Process, depth: usize) -> Self {
        let depth = depth.clamp(1, RING_ENTRIES_MAX as usize);
        let slots = (0..depth).map(|_| Slot::new()).collect();
        let direct = process.shared().map(|shared| Direct {
            shared: Arc::clone(shared),
            open: shared.lane.load_full(),
            tickets: 0,
        });
        Self { slots, first: 0, count: 0, direct, process }
    }

    /// Calls whose replies were not received yet.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is nothing to receive.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether a reply must be received before the next call is sent.
    #[must_use]
    #[inline]
    pub fn is_full(&self) -> bool {
        self.count == self.slots.len()
    }

    /// Sends a call and returns at once. It has the client's own deadline.
    ///
    /// # Errors
    /// [`CallError::Overloaded`] when the pipeline or its lane is full: receive first. Otherwise as
    /// [`Process::start`]. Nothing was sent then.
    #[inline]
    pub fn send<'p>(
        &mut self,
        function: impl Into<Function<'a>>,
        payload: impl Into<Payload<'p>>,
    ) -> Result<(), CallError> {
        let (function, payload) = (function.into(), payload.into());
        if self.is_full() {
            return Err(self.overloaded());
        }
        let index = self.place(self.count);
        if let (Some(direct), Given::Borrowed(bytes)) = (&mut self.direct, &payload.0)
            && bytes.len() <= REQUEST_INLINE_BYTES
        {
            let slot = &mut self.slots[index];
            slot.deadline = direct.shared.deadline(None);
            if let Ok(ticket) = direct.open.submit_bytes(function.id(), bytes, slot.deadline.limit_ns()) {
                slot.payload[..bytes.len()].copy_from_slice(bytes);
                slot.payload_bytes = bytes.len();
                slot.function = function;
                slot.ticket = Some(ticket);
                direct.tickets += 1;
                self.count += 1;
                return Ok(());
            }
        }
        self.hold(index, function, payload)
    }

    /// Waits for the oldest reply, to its call's deadline; `None` when there is nothing to receive.
    #[inline]
    pub fn receive(&mut self) -> Option<Result<Reply, CallError>> {
        if self.count == 0 {
            return None;
        }
        let index = self.first;
        self.first = self.place(1);
        self.count -= 1;
        let slot = &mut self.slots[index];
        let (Some(direct), Some(ticket)) = (&mut self.direct, slot.ticket.take()) else {
            return Some(self.receive_held(index));
        };
        direct.tickets -= 1;
        if !matches!(direct.open.wait(&ticket, &mut slot.deadline), WaitEnd::Answered) {
            return Some(direct.finish(slot, ticket));
        }
        let answer = direct.open.lane().take(ticket);
        direct.shared.room_was_freed();
        Some(match answer.payload {
            Some(output) if answer.outcome_code == Outcome::Ok as u32 => Ok(Reply::new(output)),
            _ => direct.settle(slot, answer),
        })
    }

    /// The slot that is `ahead` places behind the oldest.
    #[inline]
    fn place(&self, ahead: usize) -> usize {
        let place = self.first + ahead;
        if place < self.slots.len() { place } else { place - self.slots.len() }
    }

    #[cold]
    fn overloaded(&self) -> CallError {
        let limit = self.slots.len() as u64;
        CallError::Overloaded { what: "the pipeline", used: limit, limit }
    }

    /// Sends a call that is out of the ordinary.
    #[cold]
    fn hold(&mut self, index: usize, function: Function<'a>, payload: Payload<'_>) -> Result<(), CallError> {
        let pending = self.process.start(function, payload)?;
        self.slots[index].held = Some(Box::new(pending));
        self.count += 1;
        if let Some(direct) = &mut self.direct
            && direct.tickets == 0
        {
            direct.open = direct.shared.lane.load_full();
        }
        Ok(())
    }

    #[cold]
    fn receive_held(&mut self, index: usize) -> Result<Reply, CallError> {
        match self.slots[index].held.take() {
            Some(pending) => pending.wait(),
            None => unreachable!("a slot that is counted holds a call"),
        }
    }
}

impl Direct {
    /// Goes on with a call whose wait ended without an answer.
    #[cold]
    fn finish(&self, slot: &Slot<'_>, ticket: Ticket) -> Result<Reply, CallError> {
        let open = Arc::clone(&self.open);
        LanePending::sent(&self.shared, slot.function, slot.kept(), slot.deadline, open, ticket).finish()
    }

    /// Goes on after an answer that is not a reply.
    #[cold]
    fn settle(&self, slot: &Slot<'_>, answer: Answer) -> Result<Reply, CallError> {
        let mut pending = LanePending::unsent(&self.shared, slot.function, slot.kept(), slot.deadline);
        pending.finish_answered(&self.open, answer)
    }
}

impl Drop for Pipeline<'_> {
    fn drop(&mut self) {
        let Some(direct) = &self.direct else { return };
        for ticket in self.slots.iter_mut().filter_map(|slot| slot.ticket.take()) {
            direct.open.lane().abandon(ticket);
            direct.shared.room_was_freed();
        }
    }
}

impl fmt::Debug for Pipeline<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Pipeline")
            .field("process", &self.process.id())
            .field("depth", &self.slots.len())
            .field("calls", &self.count)
            .finish_non_exhaustive()
    }
}
