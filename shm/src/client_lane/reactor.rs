//! A lane whose client is one event loop: it sleeps among other things, never on a cell.
//!
//! Every call of such a lane is answered by the bell from its submission on, and whoever answers while the loop sleeps
//! writes to the lane's *reply doorbell*, a pipe whose read end the loop watches with everything else that it serves. A turn:
//!
//! 1. [`ClientLane::begin_look`], before the first look at a ticket;
//! 2. [`ClientLane::is_answered`] for the tickets in flight, [`ClientLane::take`] for those that are;
//! 3. [`ClientLane::submit_quietly`] for new requests, as many as there are, then [`ClientLane::announce`] once: a worker that
//!    sleeps is rung once for all of them, not once for each while it is on its way;
//! 4. before the loop sleeps, [`ClientLane::arm`] with what step 1 returned: false means that an answer came since, and the
//!    loop begins again. When it is true for every lane, the loop sleeps until a doorbell is readable or something else
//!    happens.
//!
//! No wake-up is lost: see [`crate::bell`] and its model. A process that rings without end makes `arm` fail; the loop serves
//! everybody else before it looks again, so that costs the others a look a turn.
//!
//! What must never happen: [`ClientLane::wait`] on such a lane's tickets, whose answers wake no futex; and that the loop sleeps,
//! or turns to anything that may take long, with requests that were not announced.

use super::*;

impl ClientLane {
    /// Attaches a lane for an event loop. The server sent the read end of its reply doorbell with it, which the loop watches.
    ///
    /// # Errors
    /// [`AttachError`] when a descriptor is not what the message says.
    pub fn attach_for_reactor(parts: ClientLaneParts) -> Result<Self, AttachError> {
        Self::attach_as(parts, FirstWait::Bell)
    }

    /// Publishes a request that nobody is summoned for: [`ClientLane::announce`] must follow before the loop sleeps. A worker
    /// that is awake may take it at once.
    ///
    /// # Errors
    /// As [`ClientLane::submit`].
    #[inline]
    pub fn submit_quietly(
        &self,
        function: FunctionId,
        payload: Payload<'_>,
        deadline_ns: u64,
        root: u128,
    ) -> Result<Ticket, SubmitError> {
        let copied = matches!(payload, Payload::Bytes(_));
        let published = self.publish_payload(function, payload, deadline_ns, root);
        if copied { published.map_err(|error| self.without_loan(error)) } else { published }
    }

    /// Summons a worker for requests that were submitted quietly, where one is needed. In a drain the server is rung, which
    /// refuses them or lets them pass.
    pub fn announce(&self) {
        fault::point(Step::ClientPublished);
        // The fence comes before both looks, at attendance and at the phase.
        let summon = self.memory.attendance().after_publish();
        if Phase::from_word(phase_word::after_fence(self.control.phase_atomic())) != Some(Phase::Active) {
            return (self.ring_server)();
        }
        if summon != Summon::Nobody {
            fault::point(Step::ClientBeforeSummon);
            self.summon(summon);
        }
        fault::point(Step::ClientSummoned);
    }

    /// Whether the last answer came from the CPU that this client was last seen on: then whoever answers next waits for this
    /// very core, and polling for it is of no use. A hint.
    #[must_use]
    pub fn shares_core(&self) -> bool {
        self.worker_cpu.load(Ordering::Relaxed) == self.client_cpu.load(Ordering::Relaxed)
    }

    /// What to hand to [`ClientLane::arm`], read before looking at tickets.
    #[inline]
    pub fn begin_look(&self) -> u32 {
        self.memory.client_bell().begin_look()
    }

    /// Before the loop sleeps: whether no answer came since [`ClientLane::begin_look`] returned `seen`, so that it may sleep
    /// until the reply doorbell is readable. Nobody writes to that before this was true, and one byte a time.
    #[inline]
    pub fn arm(&self, seen: u32) -> bool {
        self.memory.client_bell().arm(seen)
    }

    /// Every now and then: gives back what abandoned calls held that have been answered since, above all their replies' blocks.
    /// Otherwise that happens when cells or blocks for requests run out.
    pub fn sweep_abandoned(&self) {
        self.sweep(&mut self.submission.lock());
    }

    /// For a call in flight that seems to take long, every now and then: whether its request still lies there, in which case
    /// a worker is summoned once more. One that died between being summoned and claiming took the first summons with it.
    pub fn summon_if_unclaimed(&self, ticket: &Ticket) -> bool {
        let unclaimed = ring::is_unclaimed(self.memory.entries(), ticket.position);
        if unclaimed {
            self.summon_again();
        }
        unclaimed
    }
}
