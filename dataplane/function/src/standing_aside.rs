//! A worker that waits inside its call stands aside: others may be started, and run calls, in its stead.
//!
//! What the call waits for may have to be done by another worker of the very same process, a call to itself or a message that
//! another function sends. So the worker says that it waits (`praas_shm::worker_end::InCall` has the argument why nothing is
//! missed), and the server does not count it toward the workers that the process may have.
//!
//! Messages that the call has started and not waited for go on their way meanwhile: a wait looks after them.
//!
//! Rings for the server are at least [`RING_PAUSE`] apart: a worker that owes one looks again after that time, as long as it
//! waits.

use std::cell::Cell;
use std::time::{Duration, Instant};

use praas_protocol::control::WorkerMessage;
use praas_protocol::limits::PARKED_CHECK_MS;
use praas_shm::simulation;
use praas_shm::worker_end::InCall;

use crate::context::Context;
use crate::limits::{RING_PAUSE, STARTED_LOOK_PERIOD};
use crate::mail::Mail;

/// When a worker rang the server last for the sake of its absence.
#[derive(Debug, Default)]
pub(crate) struct RingRecord(Cell<Option<Instant>>);

/// While it lives, the worker waits inside its call. For waits that are likely to last: polling for some microseconds needs none.
#[derive(Debug)]
#[must_use = "the worker stands aside as long as this lives"]
pub(crate) struct StandingAside<'call> {
    context: Context<'call>,
    call: InCall<'call>,
    mail: &'call Mail,
    record: &'call RingRecord,
    owes_ring: Cell<bool>,
}

impl<'call> StandingAside<'call> {
    /// The worker that runs the call of `context` waits from now on.
    pub(crate) fn begin(context: &Context<'call>) -> Self {
        let (call, mail, record) = (context.in_call(), context.mail(), context.ring_record());
        let aside = Self { context: *context, call, mail, record, owes_ring: Cell::new(false) };
        if call.begin_waiting() {
            aside.ring();
        }
        aside
    }

    /// How long the wait may sleep before it calls [`StandingAside::look_again`].
    pub(crate) fn slice(&self) -> Duration {
        if self.owes_ring.get() {
            RING_PAUSE
        } else if self.context.message_room().has_started() {
            STARTED_LOOK_PERIOD
        } else {
            Duration::from_millis(PARKED_CHECK_MS)
        }
    }

    /// After a sleep: rings the server if a request lies where nobody attends.
    pub(crate) fn look_again(&self) {
        if self.context.message_room().has_started() {
            self.context.message_room().look_after_started(&self.context);
        }
        if self.call.work_is_left() {
            self.ring();
        } else {
            self.owes_ring.set(false);
        }
    }

    fn ring(&self) {
        let now = Instant::now();
        let is_early =
            !simulation::is_turned() && self.record.0.get().is_some_and(|last| now.duration_since(last) < RING_PAUSE);
        self.owes_ring.set(is_early);
        if !is_early {
            self.record.0.set(Some(now));
            self.mail.hint(&WorkerMessage::Ring);
        }
    }
}

impl Drop for StandingAside<'_> {
    fn drop(&mut self) {
        self.call.end_waiting();
    }
}
