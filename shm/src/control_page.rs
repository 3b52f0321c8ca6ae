//! The control page: what a server tells all clients and workers of one process without a message.
//!
//! Memory: one page, created and mapped by the server, which then adds F_SEAL_FUTURE_WRITE: clients and workers can map it
//! for reading only, also through `/proc`. One page serves one process during one life of the server program.
//!
//! Invariants:
//! 1. Only the server writes. Readers read each word once and act on that value.
//! 2. The magic number is stored last, with Release; a page without it is not attached.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use praas_protocol::Phase;
use praas_protocol::control::LaneId;
use praas_protocol::limits::LANES_PER_PROCESS_MAX;

use crate::phase_word;
use crate::segment::{AttachError, Segment};
use crate::sync::{AtomicU32, AtomicU64, Ordering, sleep_low_half, wake_low_half};

const PAGE_BYTES: usize = 4096;
const MAGIC: u64 = u64::from_le_bytes(*b"praasctl");
const VERSION: u32 = 1;
const KIND: &str = "control page";

/// The value of `lease_until` on a single host: the lease never ends.
pub const LEASE_NEVER: u64 = u64::MAX;

#[repr(C)]
#[derive(Debug)]
struct Words {
    magic: AtomicU64,
    version: AtomicU32,
    reserved: AtomicU32,
    /// Changes with each life of the server program.
    incarnation: AtomicU64,
    /// Fencing epoch of the process's owner.
    epoch: AtomicU64,
    /// Until when the server owns the process, in time-stamp counts; [`LEASE_NEVER`] on one host.
    lease_until: AtomicU64,
    /// Position up to which the log is durable.
    durable_position: AtomicU64,
    /// (counter, phase); see [`crate::phase_word`].
    phase: AtomicU64,
    /// Workers that are ready.
    workers: AtomicU32,
    /// Counts the rings that the server has acted on, so that a client rings once and not with each call.
    rings_acknowledged: AtomicU32,
    /// Lanes that lost their rights: slot `id % LANES_PER_PROCESS_MAX` holds the id.
    revoked: [AtomicU32; LANES_PER_PROCESS_MAX],
}

const _: () = assert!(size_of::<Words>() <= PAGE_BYTES);

fn words(segment: &Segment) -> &Words {
    // SAFETY: `Words` is atomics only and the only type in this page.
    unsafe { segment.place(0) }
}

fn revocation_slot(words: &Words, lane: LaneId) -> &AtomicU32 {
    &words.revoked[lane.0 as usize % LANES_PER_PROCESS_MAX]
}

/// The server's side: the only writer.
#[derive(Debug)]
pub struct ControlPage {
    segment: Segment,
}

impl ControlPage {
    /// A page of a process in phase `active`, owned for ever.
    ///
    /// # Errors
    /// The system's, for want of descriptors or memory.
    pub fn create(incarnation: u64, epoch: u64) -> io::Result<Self> {
        let segment = Segment::create_sole_writer("praas-control", PAGE_BYTES)?;
        let words = words(&segment);
        words.version.store(VERSION, Ordering::Relaxed);
        words.incarnation.store(incarnation, Ordering::Relaxed);
        words.epoch.store(epoch, Ordering::Relaxed);
        words.lease_until.store(LEASE_NEVER, Ordering::Relaxed);
        words.phase.store(Phase::Active.word(1), Ordering::Relaxed);
        // Release pairs with the Acquire in `ControlView::attach`.
        words.magic.store(MAGIC, Ordering::Release);
        Ok(Self { segment })
    }

    /// The descriptor for clients and workers.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.segment.fd()
    }

    /// Shows a phase with the next counter and returns the new word; a sweep of the rings may follow.
    pub fn set_phase(&self, phase: Phase) -> u64 {
        phase_word::publish(&words(&self.segment).phase, phase)
    }

    /// The phase word as last written.
    #[must_use]
    pub fn phase_word(&self) -> u64 {
        words(&self.segment).phase.load(Ordering::Relaxed)
    }

    /// How many workers are ready.
    pub fn set_workers(&self, ready: u32) {
        words(&self.segment).workers.store(ready, Ordering::Relaxed);
    }

    /// All up to this position is durable: wakes who waits for it. Never lower than before.
    pub fn set_durable(&self, position: u64) {
        let word = &words(&self.segment).durable_position;
        // Release: who sees the position sees what was done for it before.
        word.store(position, Ordering::Release);
        wake_low_half(word);
    }

    /// The position that was shown last.
    #[must_use]
    pub fn durable(&self) -> u64 {
        words(&self.segment).durable_position.load(Ordering::Relaxed)
    }

    /// Clients may ring again.
    pub fn acknowledge_rings(&self) {
        words(&self.segment).rings_acknowledged.fetch_add(1, Ordering::Release);
    }

    /// Withdraws the rights of a live lane.
    pub fn revoke(&self, lane: LaneId) {
        revocation_slot(words(&self.segment), lane).store(lane.0, Ordering::Release);
    }
}

/// The view of a client or worker: reads only.
#[derive(Debug)]
pub struct ControlView {
    segment: Segment,
}

impl ControlView {
    /// The page behind a descriptor from the server.
    ///
    /// # Errors
    /// [`AttachError`] when it is not a control page of this version.
    pub fn attach(fd: OwnedFd) -> Result<Self, AttachError> {
        let segment = Segment::attach_read_only(fd, PAGE_BYTES)?;
        let words = words(&segment);
        let magic = words.magic.load(Ordering::Acquire);
        if magic != MAGIC {
            return Err(AttachError::Magic { kind: KIND, actual: magic });
        }
        let version = words.version.load(Ordering::Relaxed);
        if version != VERSION {
            return Err(AttachError::Version { kind: KIND, actual: version, expected: VERSION });
        }
        Ok(Self { segment })
    }

    #[inline]
    pub(crate) fn phase_atomic(&self) -> &AtomicU64 {
        &words(&self.segment).phase
    }

    /// The phase now; junk counts as closed.
    #[must_use]
    pub fn phase(&self) -> Phase {
        Phase::from_word(self.phase_atomic().load(Ordering::Acquire)).unwrap_or(Phase::Closed)
    }

    /// Up to where what the process has changed is durable; 0 for one that is not logged.
    #[must_use]
    #[inline]
    pub fn durable(&self) -> u64 {
        words(&self.segment).durable_position.load(Ordering::Acquire)
    }

    /// Sleeps until that is no longer `seen`, at most for `timeout`. Returns early at will.
    pub(crate) fn wait_for_durable(&self, seen: u64, timeout: Duration) {
        sleep_low_half(&words(&self.segment).durable_position, seen, timeout);
    }

    /// Workers that are ready.
    #[must_use]
    pub fn workers(&self) -> u32 {
        words(&self.segment).workers.load(Ordering::Relaxed)
    }

    /// Counts the rings that the server has acted on.
    #[must_use]
    pub fn rings_acknowledged(&self) -> u32 {
        words(&self.segment).rings_acknowledged.load(Ordering::Acquire)
    }

    /// Whether the lane's rights were withdrawn.
    #[must_use]
    #[inline]
    pub fn is_revoked(&self, lane: LaneId) -> bool {
        revocation_slot(words(&self.segment), lane).load(Ordering::Relaxed) == lane.0
    }

    /// Which life of the server program made the page.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        words(&self.segment).incarnation.load(Ordering::Relaxed)
    }

    /// Whether this server still owns the process. On one host the lease never ends and this is one load.
    #[must_use]
    #[inline]
    pub fn lease_is_unlimited(&self) -> bool {
        words(&self.segment).lease_until.load(Ordering::Relaxed) == LEASE_NEVER
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_server_writes_is_what_others_read() {
        let page = ControlPage::create(7, 1).unwrap();
        let view = ControlView::attach(page.fd().try_clone_to_owned().unwrap()).unwrap();
        assert_eq!((view.phase(), view.incarnation(), view.lease_is_unlimited()), (Phase::Active, 7, true));
        let word = page.set_phase(Phase::Draining);
        assert_eq!((view.phase(), page.phase_word()), (Phase::Draining, word));
        page.set_workers(3);
        page.revoke(LaneId(300));
        assert_eq!(view.workers(), 3);
        assert!(view.is_revoked(LaneId(300)));
        assert!(!view.is_revoked(LaneId(300 % 256)) && !view.is_revoked(LaneId(301)));
    }

    #[test]
    fn other_segments_are_refused() {
        let other = Segment::create("other", PAGE_BYTES).unwrap();
        let fd = other.fd().try_clone_to_owned().unwrap();
        assert!(matches!(ControlView::attach(fd), Err(AttachError::Magic { .. })));
        let small = Segment::create("small", 64).unwrap();
        assert!(ControlView::attach(small.fd().try_clone_to_owned().unwrap()).is_err());
    }
}
