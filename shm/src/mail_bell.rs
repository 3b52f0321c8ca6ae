//! The mail bell: by which the workers of one process hear that something changed while they waited.
//!
//! Memory: one page a process, created by the server, mapped by it, by the workers of the process, and by the workers of
//! those that send to it: all of one application. A receiver polls its inbound lanes and the bell's count for a while; then
//! it marks itself parked, looks at everything once more, and sleeps. Who publishes a message rings only if somebody
//! sleeps, for whoever polls sees the message itself; who changes anything else that a receiver may wait for (a message
//! given back, a phase) always rings. The argument why no wake-up is lost is that of `parking.rs`.
//!
//! What must never happen: that a receiver sleeps without a timeout. Junk in the page, and a ringer that dies between the
//! two steps of a ring, are bounded by it.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use praas_protocol::limits::PARKED_CHECK_MS;

use crate::fault::{self, Step};
use crate::parking::Parking;
use crate::segment::{AttachError, Segment};
use crate::sync::{AtomicU32, AtomicU64, Ordering};
use crate::tag::WorkerTag;

const PAGE_BYTES: usize = 4096;
const MAGIC: u64 = u64::from_le_bytes(*b"praasbel");
const VERSION: u32 = 1;
const KIND: &str = "mail bell";

#[repr(C, align(128))]
#[derive(Debug)]
struct Words {
    magic: AtomicU64,
    version: AtomicU32,
    reserved: [AtomicU32; 13],
    parking: Parking,
}

const _: () = {
    use std::mem::offset_of;
    assert!(size_of::<Words>() == 128 && offset_of!(Words, parking) == 64);
};

/// What a receiver saw of the bell before it looked at everything once more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "it is what to wait on"]
pub struct Seen(u32);

/// A mapped mail bell: the server's, a receiver's, or a sender's.
#[derive(Debug)]
pub struct MailBell {
    segment: Segment,
}

impl MailBell {
    /// Server: the bell of a process.
    ///
    /// # Errors
    /// The system's, for want of descriptors or memory.
    pub fn create() -> io::Result<Self> {
        let bell = Self { segment: Segment::create("praas-bell", PAGE_BYTES)? };
        bell.words().version.store(VERSION, Ordering::Relaxed);
        // Release pairs with the Acquire in `attach`.
        bell.words().magic.store(MAGIC, Ordering::Release);
        Ok(bell)
    }

    /// Worker: the bell behind a descriptor from the server.
    ///
    /// # Errors
    /// [`AttachError`] when it is not a mail bell of this version.
    pub fn attach(fd: OwnedFd) -> Result<Self, AttachError> {
        let bell = Self { segment: Segment::attach(fd, PAGE_BYTES)? };
        let magic = bell.words().magic.load(Ordering::Acquire);
        if magic != MAGIC {
            return Err(AttachError::Magic { kind: KIND, actual: magic });
        }
        let version = bell.words().version.load(Ordering::Relaxed);
        if version != VERSION {
            return Err(AttachError::Version { kind: KIND, actual: version, expected: VERSION });
        }
        Ok(bell)
    }

    fn words(&self) -> &Words {
        // SAFETY: `Words` is atomics only and the only type in this page.
        unsafe { self.segment.place(0) }
    }

    #[inline]
    fn parking(&self) -> &Parking {
        &self.words().parking
    }

    /// The descriptor, for handing out.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.segment.fd()
    }

    /// Counts rings. A receiver that polls reads it first, looks at everything, and looks again when it has changed.
    #[must_use]
    #[inline]
    pub fn rings(&self) -> u32 {
        self.parking().rings()
    }

    /// Receiver: is about to sleep. It looks at everything once more, and then either waits or not; [`MailBell::finish`]
    /// ends both.
    pub fn prepare(&self, receiver: WorkerTag) -> Seen {
        let seen = self.parking().prepare(receiver.bit());
        fault::point(Step::MessageReceiverPrepared);
        Seen(seen)
    }

    /// Receiver: sleeps until somebody rings, at most for `timeout` and [`PARKED_CHECK_MS`], and not at all if somebody rang
    /// since [`MailBell::prepare`]. May return early at will: the caller looks at everything again.
    pub fn wait(&self, seen: Seen, timeout: Duration) {
        self.parking().sleep(seen.0, timeout.min(Duration::from_millis(PARKED_CHECK_MS)));
    }

    /// Receiver: no longer sleeps.
    pub fn finish(&self, receiver: WorkerTag) {
        self.parking().finish(receiver.bit());
    }

    /// Who has published a message: wakes whoever sleeps; whether anybody did. Whoever polls sees the message itself.
    #[inline]
    pub fn ring_if_parked(&self) -> bool {
        let is_parked = self.parking().is_parked();
        self.wake_if(is_parked)
    }

    /// The same by who has published it by an exchange.
    #[inline]
    pub(crate) fn ring_if_parked_after_exchange(&self) -> bool {
        let is_parked = self.parking().is_parked_after_exchange();
        self.wake_if(is_parked)
    }

    #[inline]
    fn wake_if(&self, is_parked: bool) -> bool {
        if is_parked {
            fault::point(Step::MessageBeforeRing);
            self.parking().wake_parked();
        }
        is_parked
    }

    /// Who has changed anything else that receivers may wait for.
    pub fn ring(&self) {
        self.parking().ring();
    }

    /// Server: a worker is dead and sleeps no more.
    pub fn forget(&self, dead: WorkerTag) {
        self.parking().finish(dead.bit());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;
    use std::time::Instant;

    use super::*;

    const RECEIVER: WorkerTag = WorkerTag::new(3, 1);
    const PATIENCE: Duration = Duration::from_secs(20);

    fn attached(bell: &MailBell) -> MailBell {
        MailBell::attach(bell.fd().try_clone_to_owned().unwrap()).unwrap()
    }

    #[test]
    fn a_ring_after_prepare_ends_the_wait_at_once() {
        let bell = MailBell::create().unwrap();
        let rings: [fn(&MailBell); 2] = [MailBell::ring, |bell| assert!(bell.ring_if_parked(), "somebody sleeps")];
        for ring in rings {
            let seen = bell.prepare(RECEIVER);
            ring(&attached(&bell));
            assert_ne!(bell.prepare(RECEIVER), seen);
            bell.wait(seen, PATIENCE);
            bell.finish(RECEIVER);
        }
    }

    #[test]
    fn who_polls_hears_of_all_but_messages() {
        let bell = MailBell::create().unwrap();
        let before = bell.rings();
        assert!(!bell.ring_if_parked());
        assert_eq!(bell.rings(), before);
        bell.ring();
        assert_ne!(bell.rings(), before);
    }

    #[test]
    fn a_forgotten_worker_is_rung_for_no_more() {
        let bell = MailBell::create().unwrap();
        let _ = bell.prepare(RECEIVER);
        bell.forget(RECEIVER);
        let before = bell.rings();
        assert!(!bell.ring_if_parked());
        assert_eq!(bell.rings(), before);
    }

    #[test]
    fn every_sleeper_is_woken() {
        let bell = Arc::new(MailBell::create().unwrap());
        let sleepers: Vec<_> = (0..4)
            .map(|index| {
                let bell = attached(&bell);
                thread::spawn(move || {
                    let tag = WorkerTag::new(index, 1);
                    let (start, before) = (Instant::now(), bell.rings());
                    while bell.rings() == before {
                        let seen = bell.prepare(tag);
                        if bell.rings() == before {
                            bell.wait(seen, PATIENCE);
                        }
                        bell.finish(tag);
                        assert!(start.elapsed() < PATIENCE, "was not woken");
                    }
                })
            })
            .collect();
        let start = Instant::now();
        while sleepers.iter().any(|sleeper| !sleeper.is_finished()) {
            bell.ring();
            assert!(start.elapsed() < PATIENCE, "somebody sleeps on");
            thread::yield_now();
        }
        sleepers.into_iter().for_each(|sleeper| sleeper.join().unwrap());
    }

    #[test]
    fn other_segments_are_refused() {
        let other = Segment::create("other", PAGE_BYTES).unwrap();
        let fd = other.fd().try_clone_to_owned().unwrap();
        assert!(matches!(MailBell::attach(fd), Err(AttachError::Magic { .. })));
        let small = Segment::create("small", 64).unwrap();
        assert!(MailBell::attach(small.fd().try_clone_to_owned().unwrap()).is_err());
    }
}
