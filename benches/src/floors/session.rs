//! What all floors with two sides share: the peer, an optional spinner beside them, and how a round begins and ends.

use std::os::fd::BorrowedFd;

use super::background::Background;
use super::peer::{Peer, PeerSpec};
use super::placement::Pinned;
use super::{Batch, Config, FloorError, Samples, watch};

/// A floor's open measurement.
#[derive(Debug)]
pub struct Session {
    floor: &'static str,
    config: Config,
    peer: Peer,
    background: Option<Background>,
    is_spent: bool,
}

impl Session {
    /// Starts the peer in `role`, and the spinner if the configuration wants one. It gets at most 4 descriptors.
    ///
    /// # Errors
    /// Any [`FloorError`].
    pub fn open(
        floor: &'static str,
        role: &'static str,
        config: &Config,
        fds: &[BorrowedFd<'_>],
        arguments: &[String],
    ) -> Result<Self, FloorError> {
        let peer = Peer::start(&PeerSpec {
            floor,
            program: &config.peer_program,
            role,
            cpu: config.placement.peer_cpu(),
            fds,
            arguments,
        })?;
        let background = config.background_cpu.map(|cpu| Background::start(&config.peer_program, cpu)).transpose()?;
        Ok(Self { floor, config: config.clone(), peer, background, is_spent: false })
    }

    /// One round: `body` measures `operations` exchanges on the caller's core while the peer answers as many.
    /// `unblock` ends a wait of `body` for a peer that is dead.
    ///
    /// # Errors
    /// Any [`FloorError`], after which the session is spent.
    pub fn round(
        &mut self,
        operations: u64,
        unblock: &(dyn Fn() + Sync),
        body: impl FnOnce() -> Result<Samples, FloorError>,
    ) -> Result<Samples, FloorError> {
        if self.is_spent {
            return Err(FloorError::Spent { floor: self.floor });
        }
        // A failed round leaves the two sides at different counts, so it stays spent unless it comes to its end.
        self.is_spent = true;
        let _spinning = self.background.as_mut().map(Background::spin).transpose()?;
        self.peer.begin(operations, self.config.round_deadline)?;
        let caller_cpu = self.config.placement.caller_cpu();
        let samples = watch::bounded(self.floor, &self.peer, self.config.round_deadline, unblock, || {
            let _pin = Pinned::to(caller_cpu)?;
            body()
        })?;
        self.peer.finish(operations)?;
        self.is_spent = false;
        Ok(samples)
    }

    /// The floor's name.
    pub(super) fn floor(&self) -> &'static str {
        self.floor
    }

    /// What this session was opened with.
    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    /// The peer's process id.
    pub(super) fn peer_id(&self) -> u32 {
        self.peer.id()
    }
}

/// The default batch of a configuration.
pub(super) fn batch_of(config: &Config) -> Batch {
    Batch { warm_up: config.warm_up, samples: config.samples }
}
