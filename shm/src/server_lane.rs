//! The server's view of a lane: it creates, refuses and recovers, and takes no part in calls.
//!
//! The server maps the segment and the ledger for as long as the lane lives. It believes nothing it reads there: cell
//! numbers are checked, every loop is bounded by the lane's own sizes, and what it writes concerns that lane alone.
//!
//! Recovery of a dead worker (only after its pidfd fired, so nothing of it runs any more):
//! 1. entries that carry its tag were claimed and not freed: their cells are answered `WorkerLost`, the entries freed;
//! 2. each claim record of its page names a cell: answered `WorkerLost` unless the worker had answered it;
//! 3. its bits in the attendance words are cleared, so clients ring others; the caller rings lanes with unclaimed requests;
//! 4. the ledger's lock is freed if it held it;
//! 5. the client's bell is rung and its reactor woken, in case it died between an answer and either (a caller that sleeps on its cell looks
//!    again by itself, see `PARKED_CHECK_MS`).

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use praas_protocol::Outcome;
use praas_protocol::control::{LaneGeometry, LaneId};

use crate::bell::Wakening;
use crate::cell::Wake;
use crate::claim::{ClaimSeen, load_root};
use crate::lane_memory::LaneMemory;
use crate::layout::{GeometryError, LaneLayout};
use crate::ledger::Ledger;
use crate::request::{INLINE, halves, split};
use crate::ring;
use crate::segment::Segment;
use crate::sync::Ordering;
use crate::tag::WorkerTag;

/// A lane in the server's hands.
#[derive(Debug)]
pub struct ServerLane {
    id: LaneId,
    memory: LaneMemory,
    ledger: Ledger,
    wakening: Wakening,
}

/// Why a lane could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CreateLaneError {
    /// The wanted sizes are outside the limits.
    #[error(transparent)]
    Geometry(#[from] GeometryError),
    /// The system refused.
    #[error("cannot make the lane's segments: {0}")]
    System(#[from] io::Error),
}

impl ServerLane {
    /// A fresh lane.
    ///
    /// # Errors
    /// [`CreateLaneError`] for sizes outside the limits, or when descriptors or memory are lacking.
    pub fn create(id: LaneId, geometry: LaneGeometry) -> Result<Self, CreateLaneError> {
        let layout = LaneLayout::new(&geometry)?;
        let memory = LaneMemory::create(layout)?;
        let ledger = Ledger::new(Segment::create("praas-ledger", layout.ledger_bytes())?, layout);
        Ok(Self { id, memory, ledger, wakening: Wakening::Word })
    }

    /// From now on its client is woken through this write end of its reply doorbell. To be called before anybody else has
    /// the lane; the description is this server's alone.
    pub fn wake_client_by(&mut self, reply_doorbell: OwnedFd) {
        self.wakening = Wakening::Doorbell(reply_doorbell);
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> LaneId {
        self.id
    }

    /// Its sizes.
    #[must_use]
    pub fn geometry(&self) -> LaneGeometry {
        self.memory.layout().geometry
    }

    /// The lane segment, for the client and every worker.
    #[must_use]
    pub fn segment_fd(&self) -> BorrowedFd<'_> {
        self.memory.segment().fd()
    }

    /// The reply ledger, for workers only.
    #[must_use]
    pub fn ledger_fd(&self) -> BorrowedFd<'_> {
        self.ledger.segment().fd()
    }

    /// Bytes that the lane can come to use: the figure to admit it by.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        (self.memory.layout().segment_bytes() + self.memory.layout().ledger_bytes()) as u64
    }

    /// Bytes that it uses now.
    ///
    /// # Errors
    /// The system's.
    pub fn allocated_bytes(&self) -> io::Result<u64> {
        Ok(self.memory.segment().allocated_bytes()? + self.ledger.segment().allocated_bytes()?)
    }

    /// Requests that are published and not taken.
    #[must_use]
    pub fn unclaimed(&self) -> u32 {
        ring::unclaimed(self.memory.entries())
    }

    /// Takes every unclaimed request whose root id `keep` does not keep, answers it with `outcome` and wakes its caller.
    /// Returns how many. Call it after [`crate::control_page::ControlPage::set_phase`].
    pub fn refuse_unclaimed(&self, keep: impl Fn(u128) -> bool, outcome: Outcome, detail: u32) -> u32 {
        self.refuse(|root| root != 0 && keep(root), outcome, u64::from(detail))
    }

    /// Answers every unclaimed request whose root id, 0 for a root call, `keep` does not keep as `Overloaded`.
    pub fn refuse_overloaded(&self, keep: impl Fn(u128) -> bool, used: u32, limit: u32) -> u32 {
        self.refuse(keep, Outcome::Overloaded, halves(limit, used))
    }

    fn refuse(&self, keep: impl Fn(u128) -> bool, outcome: Outcome, detail: u64) -> u32 {
        let mut refused = 0;
        for entry in self.memory.entries() {
            let Some(turn) = ring::published_turn(entry) else { continue };
            // Read before it is taken: if it changes hands in between, the turn has changed and the CAS fails.
            let root = load_root(&entry.root);
            if keep(root) {
                continue;
            }
            let Some(taken) = ring::take_published(entry, turn, ring::SERVER) else { continue };
            let (cell, generation) = split(taken.entry.target.load(Ordering::Relaxed));
            taken.free();
            self.answer(cell, generation, outcome, detail);
            refused += 1;
        }
        refused
    }

    /// Answers a call that a dead worker had claimed; nothing happens if the worker had answered it.
    pub fn answer_lost(&self, claim: &ClaimSeen) {
        self.answer(claim.cell, claim.generation, Outcome::WorkerLost, 0);
    }

    /// Recovers whatever a dead worker held here; see the top of the file. Returns how many requests it had taken.
    pub fn recover_worker(&self, dead: WorkerTag) -> u32 {
        let mut recovered = 0;
        for entry in self.memory.entries() {
            let Some(left) = ring::left_by(entry, dead) else { continue };
            let (cell, generation) = split(left.entry.target.load(Ordering::Relaxed));
            self.answer(cell, generation, Outcome::WorkerLost, 0);
            left.free();
            recovered += 1;
        }
        self.memory.attendance().forget(dead);
        self.ledger.recover(dead);
        // It may have died between an answer and the ring for it, or between that and the wake-up: one too many costs the
        // client a look.
        self.wakening.ring_again(self.memory.client_bell());
        recovered
    }

    fn answer(&self, cell: u32, generation: u32, outcome: Outcome, detail: u64) {
        let Some(cell) = self.memory.cells().get(cell as usize) else { return };
        let answered = cell.answer_instead(generation, |cell| {
            cell.outcome.store(outcome as u32, Ordering::Relaxed);
            cell.detail.store(detail, Ordering::Relaxed);
            cell.payload.store(halves(0, INLINE), Ordering::Relaxed);
        });
        if answered == Ok(Wake::Bell) {
            self.wakening.ring(self.memory.client_bell());
        }
    }
}
