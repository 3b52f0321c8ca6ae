//! A program that keeps one core busy beside a measurement. It is not part of it: it shares nothing but the core.
//! Between rounds it sleeps, like every peer.

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use std::{hint, io};

use super::FloorError;
use super::mapping::{Mapping, Shareable};
use super::peer::{Orders, Peer, PeerSpec};

pub(super) const ROLE: &str = "spinner";
const NAME: &str = "background spinner";
/// The longest that the spinner spins at once: far beyond any round, so that a forgotten one ends.
const SPIN_MAX: Duration = Duration::from_secs(600);
/// How long the spinner may take to get onto its core.
const START_PATIENCE: Duration = Duration::from_secs(10);
/// How often its start is looked for.
const START_POLL: Duration = Duration::from_micros(200);

/// Written by both sides: `is_spinning` by the spinner, `stop` by its owner.
#[repr(C)]
struct Page {
    is_spinning: AtomicU32,
    stop: AtomicU32,
}

// SAFETY: atomics only.
unsafe impl Shareable for Page {}

/// A process that can spin on one core; it is asleep until asked and ends when dropped.
#[derive(Debug)]
pub struct Background {
    cpu: usize,
    mapping: Mapping,
    peer: Peer,
}

impl Background {
    /// Starts the process, pinned to `cpu` and asleep. `program` calls `serve_peer_if_asked`.
    ///
    /// # Errors
    /// [`FloorError::PeerNotReady`] and the like if it does not start.
    pub fn start(program: &Path, cpu: usize) -> Result<Self, FloorError> {
        let mapping = Mapping::create(size_of::<Page>())?;
        let peer = Peer::start(&PeerSpec {
            floor: NAME,
            program,
            role: ROLE,
            cpu: Some(cpu),
            fds: &[mapping.memfd()],
            arguments: &[],
        })?;
        Ok(Self { cpu, mapping, peer })
    }

    /// Keeps the core busy until the guard is dropped; returns once it is busy.
    ///
    /// # Errors
    /// [`FloorError::PeerGone`] if the process has ended or does not get to run.
    pub fn spin(&mut self) -> Result<Spinning<'_>, FloorError> {
        let page = self.mapping.view::<Page>();
        page.stop.store(0, Ordering::Relaxed);
        page.is_spinning.store(0, Ordering::Relaxed);
        self.peer.begin(1, SPIN_MAX)?;
        // From here on the guard stops it, also if it is late.
        let spinning = Spinning(self);
        let until = Instant::now() + START_PATIENCE;
        while spinning.0.mapping.view::<Page>().is_spinning.load(Ordering::Relaxed) == 0 {
            if Instant::now() > until {
                return Err(FloorError::PeerGone { floor: NAME });
            }
            thread::sleep(START_POLL);
        }
        Ok(spinning)
    }

    /// The process, for tests that look at it.
    #[must_use]
    pub fn process_id(&self) -> u32 {
        self.peer.id()
    }

    /// The core that it keeps busy.
    #[must_use]
    pub fn cpu(&self) -> usize {
        self.cpu
    }
}

/// A core is being kept busy; dropping this ends it.
#[derive(Debug)]
pub struct Spinning<'a>(&'a mut Background);

impl Drop for Spinning<'_> {
    fn drop(&mut self) {
        self.0.mapping.view::<Page>().stop.store(1, Ordering::Relaxed);
        // A spinner that died is noticed by the next `spin`.
        let _ = self.0.peer.finish(1);
    }
}

/// The spinner's own loop.
pub(super) fn serve(mut orders: Orders) -> io::Result<()> {
    let mapping = Mapping::attach(orders.take_fd()?).map_err(io::Error::other)?;
    let page = mapping.view::<Page>();
    orders.serve(|_| {
        page.is_spinning.store(1, Ordering::Relaxed);
        // Plain work, not `spin_loop`: its pause instruction makes some hypervisors take the core away.
        let mut work = 0_u64;
        while page.stop.load(Ordering::Relaxed) == 0 {
            work = hint::black_box(work.wrapping_add(1));
        }
        Ok(())
    })
}
