//! Who attends a lane: one bit a worker in `spinning` and `parked`, by which a client knows whether to ring and whom.
//!
//! The two-sided argument (Dekker's): a client publishes its request, fences, then reads both words. A worker that wants
//! to sleep sets its `parked` bit, clears its `spinning` bit, fences, then looks at every lane once more. Both fences are
//! SeqCst, so at least one of them sees the other: either the worker finds the request, or the client finds the bit and
//! rings. A worker that clears its `spinning` bit to run a call does the same with `parked` left alone: after its fence it
//! looks at all lanes, and if work is left and others are parked it rings for one of them.
//!
//! The words lie in the lane segment: a client that spoils them loses its own wake-ups. Clearing a dead worker's bits is
//! the server's part.

use crate::sync::{AtomicU32, AtomicU64, Ordering, full_fence, prefetch_for_write};
use crate::tag::WorkerTag;

/// The words of a lane that say who attends it, and the client's bell.
#[repr(C, align(128))]
#[derive(Debug)]
pub(crate) struct Attendance {
    /// Bits of workers that poll this lane.
    spinning: AtomicU64,
    /// Bits of workers that sleep and listen to this lane's doorbell.
    parked: AtomicU64,
    reserved: [AtomicU64; 14],
    /// See [`crate::bell`]; in a line of its own, written by workers.
    pub(crate) client_bell: AtomicU32,
    reserved_after_bell: [AtomicU32; 31],
}

#[cfg(not(loom))]
const _: () = {
    use std::mem::{offset_of, size_of};
    assert!(size_of::<Attendance>() == 256);
    assert!(offset_of!(Attendance, parked) == 8);
    assert!(offset_of!(Attendance, client_bell) == 128);
};

/// What a client must do after it has published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Summon {
    /// Somebody polls and will see it.
    Nobody,
    /// Everybody who could sleeps: write to the lane's doorbell.
    Doorbell,
    /// Nobody polls and nobody sleeps: all run calls, or there are too few workers.
    AllBusy,
}

impl Attendance {
    /// Client: whom to summon for a request that it has just published.
    #[inline]
    pub(crate) fn after_publish(&self) -> Summon {
        full_fence();
        if self.spinning.load(Ordering::Relaxed) != 0 {
            Summon::Nobody
        } else if self.parked.load(Ordering::Relaxed) != 0 {
            Summon::Doorbell
        } else {
            Summon::AllBusy
        }
    }

    /// Worker: polls from now on.
    pub(crate) fn start_spinning(&self, worker: WorkerTag) {
        self.spinning.fetch_or(worker.bit(), Ordering::Relaxed);
    }

    /// Worker: asks for the line of its bits, to be changed soon.
    #[inline]
    pub(crate) fn prefetch(&self) {
        prefetch_for_write(&self.spinning);
    }

    fn stop_spinning(&self, worker: WorkerTag) {
        self.spinning.fetch_and(!worker.bit(), Ordering::Relaxed);
    }

    fn start_parking(&self, worker: WorkerTag) {
        self.parked.fetch_or(worker.bit(), Ordering::Relaxed);
        self.spinning.fetch_and(!worker.bit(), Ordering::Relaxed);
    }

    /// Worker: is awake again.
    pub(crate) fn stop_parking(&self, worker: WorkerTag) {
        self.parked.fetch_and(!worker.bit(), Ordering::Relaxed);
    }

    /// Whether any worker but this one sleeps.
    pub(crate) fn others_parked(&self, worker: WorkerTag) -> bool {
        self.parked.load(Ordering::Relaxed) & !worker.bit() != 0
    }

    /// Whether any worker but this one polls or sleeps here.
    pub(crate) fn others_attend(&self, worker: WorkerTag) -> bool {
        self.others_parked(worker) || self.spinning.load(Ordering::Relaxed) & !worker.bit() != 0
    }

    /// Server: a worker is dead and attends nothing.
    pub(crate) fn forget(&self, worker: WorkerTag) {
        self.spinning.fetch_and(!worker.bit(), Ordering::SeqCst);
        self.parked.fetch_and(!worker.bit(), Ordering::SeqCst);
    }
}

/// Worker: is about to sleep, and listens to these lanes' doorbells. It looks at everything once more before it does.
pub(crate) fn before_sleep<'a>(lanes: impl Iterator<Item = &'a Attendance>, worker: WorkerTag) {
    for lane in lanes {
        lane.start_parking(worker);
    }
    // Pairs with the fence in `after_publish`.
    full_fence();
}

/// Worker: turns to a call, and no longer polls these lanes. It looks at all its lanes once more before it does.
#[inline]
pub(crate) fn before_call<'a>(polled: impl Iterator<Item = &'a Attendance>, worker: WorkerTag) {
    for lane in polled {
        lane.stop_spinning(worker);
    }
    // Pairs with the fences in `after_publish` and, for another worker, in `before_sleep`.
    full_fence();
}

#[cfg(any(test, loom))]
impl Attendance {
    /// Outside shared memory, for tests and models.
    #[allow(dead_code, reason = "used by the models")]
    pub(crate) fn new() -> Self {
        Self {
            spinning: AtomicU64::new(0),
            parked: AtomicU64::new(0),
            reserved: std::array::from_fn(|_| AtomicU64::new(0)),
            client_bell: AtomicU32::new(0),
            reserved_after_bell: std::array::from_fn(|_| AtomicU32::new(0)),
        }
    }
}
