//! The worker page: what one worker and the server tell each other without a message.
//!
//! Memory: one segment a worker, a page of words and behind it the counts of its functions ([`crate::function_stats`]), created by the server, mapped read-write by that worker and the server; nobody else has it.
//! A new worker gets a new page. The server believes nothing in it beyond what the worker could do to its own calls.
//!
//! Invariants: the worker writes all words but `mail`, which the server writes, and the state of a claim record, which
//! both change by CAS (see [`crate::claim`]).

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use praas_protocol::limits::{CLAIMS_PER_WORKER, FUNCTIONS_MAX};

use crate::claim::{ClaimSeen, Record};
use crate::function_stats::{FunctionSeen, Slot};
use crate::phase_word;
use crate::segment::{AttachError, Segment};
use crate::sync::{AtomicU32, AtomicU64, Ordering};

const PAGE_BYTES: usize = 4096;
/// Sparse: the slots of functions that are called take memory, the others do not.
const SEGMENT_BYTES: usize = (PAGE_BYTES + FUNCTIONS_MAX * size_of::<Slot>()).next_multiple_of(PAGE_BYTES);
const MAGIC: u64 = u64::from_le_bytes(*b"praaswrk");
const KIND: &str = "worker page";
/// In the count of a worker's mail while something that the server has for it waits in the server, because the worker's socket is
/// full. A worker that has read all that is in the socket then does not know all that it was told.
pub const MAIL_WAITS: u32 = 1;
/// What one message adds to the count.
const MAIL_STEP: u32 = 2;
/// The worker waits inside a call.
pub(crate) const WAITS: u32 = 1;
/// It did so before.
pub(crate) const HAS_WAITED: u32 = 2;

#[repr(C, align(128))]
#[derive(Debug)]
pub(crate) struct Words {
    magic: AtomicU64,
    /// Counted up by the server after it has put something on the worker's control socket, so that a worker that polls
    /// knows without a system call; with [`MAIL_WAITS`].
    pub(crate) mail: AtomicU32,
    /// 1 while the worker sleeps; for the server's sampling and for people.
    pub(crate) parked: AtomicU32,
    /// The phase word as the worker copied it before its last attempt to claim.
    pub(crate) phase_copy: AtomicU64,
    /// Calls answered, as the worker says.
    pub(crate) calls: AtomicU64,
    /// [`WAITS`] while the worker waits inside a call for something that other calls bring about; see
    /// [`crate::worker_end::InCall`]; [`HAS_WAITED`] once it has done so.
    pub(crate) waiting: AtomicU32,
    reserved_half: AtomicU32,
    reserved: [AtomicU64; 11],
    pub(crate) claims: [Record; CLAIMS_PER_WORKER],
}

const _: () = assert!(size_of::<Words>() <= PAGE_BYTES && PAGE_BYTES.is_multiple_of(align_of::<Slot>()));

pub(crate) fn words(segment: &Segment) -> &Words {
    // SAFETY: `Words` is atomics only and the only type in this page.
    unsafe { segment.place(0) }
}

pub(crate) fn slots(segment: &Segment) -> &[Slot; FUNCTIONS_MAX] {
    // SAFETY: `Slot` is atomics only and the only type behind the first page.
    unsafe { segment.place(PAGE_BYTES) }
}

/// The worker's side.
pub(crate) fn attach(fd: OwnedFd) -> Result<Segment, AttachError> {
    let segment = Segment::attach(fd, SEGMENT_BYTES)?;
    let magic = words(&segment).magic.load(Ordering::Acquire);
    if magic == MAGIC { Ok(segment) } else { Err(AttachError::Magic { kind: KIND, actual: magic }) }
}

/// The server's side.
#[derive(Debug)]
pub struct ServerWorkerPage {
    segment: Segment,
}

impl ServerWorkerPage {
    /// A page for a new worker.
    ///
    /// # Errors
    /// The system's, for want of descriptors or memory.
    pub fn create() -> io::Result<Self> {
        let segment = Segment::create("praas-worker", SEGMENT_BYTES)?;
        words(&segment).magic.store(MAGIC, Ordering::Release);
        Ok(Self { segment })
    }

    /// The descriptor for the worker.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.segment.fd()
    }

    /// Tells a polling worker to look at its control socket. Put the message there first.
    pub fn notify(&self) {
        words(&self.segment).mail.fetch_add(MAIL_STEP, Ordering::Release);
    }

    /// Says whether more waits for the worker than lies in its control socket ([`MAIL_WAITS`]); it is to be notified then.
    pub fn set_mail_waits(&self, waits: bool) {
        let mail = &words(&self.segment).mail;
        if waits {
            mail.fetch_or(MAIL_WAITS, Ordering::Release);
        } else {
            mail.fetch_and(!MAIL_WAITS, Ordering::Release);
        }
    }

    /// What the worker is working on, by its own records.
    pub fn claims(&self) -> impl Iterator<Item = ClaimSeen> + '_ {
        let claims = &words(&self.segment).claims;
        claims.iter().enumerate().filter_map(|(index, record)| record.seen(index))
    }

    /// Announces that the worker will be killed for this call. False when the call has ended meanwhile.
    #[must_use]
    pub fn condemn(&self, claim: &ClaimSeen) -> bool {
        words(&self.segment).claims.get(claim.record).is_some_and(|record| record.condemn(claim.sequence))
    }

    /// The phase word that the worker copied last.
    #[must_use]
    pub fn phase_copied(&self) -> u64 {
        phase_word::copied(&words(&self.segment).phase_copy)
    }

    /// Whether the worker sleeps.
    #[must_use]
    pub fn is_parked(&self) -> bool {
        words(&self.segment).parked.load(Ordering::Relaxed) != 0
    }

    /// Whether the worker waits inside a call, so that others may run in its stead.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        words(&self.segment).waiting.load(Ordering::Relaxed) == WAITS
    }

    /// Whether the worker ever waited inside a call.
    #[must_use]
    pub fn has_waited(&self) -> bool {
        words(&self.segment).waiting.load(Ordering::Relaxed) != 0
    }

    /// Calls answered, as the worker says.
    #[must_use]
    pub fn calls(&self) -> u64 {
        words(&self.segment).calls.load(Ordering::Relaxed)
    }

    /// What the worker says of its functions, of each that was ever called.
    #[must_use]
    pub fn functions(&self) -> Vec<FunctionSeen> {
        slots(&self.segment).iter().filter_map(Slot::seen).collect()
    }
}
