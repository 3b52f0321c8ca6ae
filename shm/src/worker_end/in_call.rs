//! What a worker owes the others while it runs a call that makes calls of its own, or waits for messages.
//!
//! A worker that waits inside a call looks at no lane, so it does not count toward the workers that its process may have:
//! whatever it waits for may have to be done by another worker of the same process.
//!
//! Invariants:
//! 1. Before a call publishes a request or waits, its worker polls no lane any more, not even where it alone attends them: a
//!    client that sees a `spinning` bit summons nobody.
//! 2. Before it waits it says so in its page, fences, and looks at all its lanes. A client publishes, fences, sees that nobody
//!    attends and rings the server, which reads the page. So either the worker finds the request and rings the server, or
//!    the server sees that the worker waits; in both cases another worker is started if none is there. (Clients do not ring
//!    where all workers are there that may be; a worker that waits for the first time has the server show one less.)
//! 3. The root id of a call stands in its claim record before a request that carries it is published.

use praas_protocol::Phase;

use super::*;
use crate::claim::Record;

/// A running call, as far as the calls matter that it makes itself.
#[derive(Debug, Clone, Copy)]
pub struct InCall<'w> {
    end: &'w WorkerEnd,
    root: &'w Cell<u128>,
}

impl RunningCall<'_> {
    /// The call as one that makes calls of its own, or waits.
    #[must_use]
    #[inline]
    pub fn in_call(&self) -> InCall<'_> {
        InCall { end: self.end, root: &self.root }
    }
}

impl AsideCall<'_> {
    /// As [`RunningCall::in_call`].
    #[must_use]
    #[inline]
    pub fn in_call(&self) -> InCall<'_> {
        InCall { end: self.end, root: &self.root }
    }

    /// As [`RunningCall::root`].
    #[must_use]
    pub fn root(&self) -> u128 {
        self.root.get()
    }
}

impl InCall<'_> {
    /// The root id of the call, made by `mint` if it is a root call that has made no call before. It stands in the claim
    /// record when this returns.
    #[inline]
    pub fn root_or(&self, mint: impl FnOnce() -> u128) -> u128 {
        match self.root.get() {
            0 => self.adopt(mint()),
            root => root,
        }
    }

    #[cold]
    fn adopt(&self, root: u128) -> u128 {
        self.root.set(root);
        self.record().set_root(root);
        root
    }

    fn record(&self) -> &Record {
        &self.end.words().claims[RUNNING_RECORD]
    }

    /// Before a request is published: polls no lane any more (invariant 1). True when requests are left in the lanes that
    /// nobody attends: the runtime then rings the server.
    #[must_use = "nobody else rings the server"]
    #[inline]
    pub fn stop_polling(&self) -> bool {
        self.end.spinning.get() && self.end.stop_polling()
    }

    /// The worker waits inside its call from now on. True when requests are left in the lanes that nobody attends, and the
    /// first time, so that the server knows that this worker waits now and then: the runtime then rings the server.
    #[must_use = "nobody else rings the server"]
    pub fn begin_waiting(&self) -> bool {
        self.end.ring_held();
        self.end.words().waiting.store(worker_page::WAITS, Ordering::Relaxed);
        self.end.stop_polling() | !self.end.has_waited.replace(true)
    }

    /// While it waits: whether requests are left in the lanes that nobody attends.
    #[must_use]
    pub fn work_is_left(&self) -> bool {
        self.end.look_for_others(false)
    }

    /// Counts the messages that the server has put on the worker's control socket, with
    /// [`MAIL_WAITS`](crate::worker_page::MAIL_WAITS) while more of them wait in the server. One load.
    #[must_use]
    #[inline]
    pub fn mail_count(&self) -> u32 {
        self.end.words().mail.load(Ordering::Acquire)
    }

    /// The phase of the process.
    #[must_use]
    #[inline]
    pub fn phase(&self) -> Phase {
        self.end.control.phase()
    }

    /// The wait is over.
    pub fn end_waiting(&self) {
        self.end.words().waiting.store(worker_page::HAS_WAITED, Ordering::Relaxed);
    }
}

impl WorkerEnd {
    fn stop_polling(&self) -> bool {
        let was_polling = self.spinning.take();
        let polled = if was_polling { &self.lanes[..] } else { &[] };
        attendance::before_call(polled.iter().map(|lane| lane.memory.attendance()), self.tag);
        self.look_for_others(was_polling)
    }

    /// Whether some lane has a request and no attendant. Those whose attendants sleep are rung if `was_polling`: their clients
    /// may have seen this worker's bit, and rung for nobody.
    fn look_for_others(&self, was_polling: bool) -> bool {
        let mut is_alone = false;
        for lane in self.lanes.iter().filter(|lane| lane.work_is_left()) {
            let attendance = lane.memory.attendance();
            if !attendance.others_attend(self.tag) {
                is_alone = true;
            } else if was_polling && attendance.others_parked(self.tag) {
                lane.ring_doorbell();
            }
        }
        is_alone
    }
}
