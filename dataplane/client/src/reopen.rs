//! The current lane of a process, and its replacement.
//!
//! One thread opens at a time and the others wait for it, each to its own deadline; a lane is replaced only when it can
//! take no further call: its connection is lost, or its process was closed.

use std::sync::{Arc, PoisonError};
use std::time::Instant;

use praas_protocol::{CallError, Phase};

use crate::error::{ConnectError, LaneVerdict, RequestError};
use crate::open_lane::OpenLane;
use crate::pending::Obstacle;
use crate::process::ProcessShared;
use crate::session::lock;

impl ProcessShared {
    /// Whether a request may be put into the current lane.
    pub(crate) fn has_usable_lane(&self) -> bool {
        self.lane.load().is_usable()
    }

    /// The current lane, or why it takes no request.
    #[inline]
    pub(crate) fn usable_lane(&self) -> Result<Arc<OpenLane>, Obstacle> {
        let open = self.lane.load_full();
        if open.is_lost() {
            Err(Obstacle::lost())
        } else if !open.is_usable() {
            Err(Obstacle::phase(open.phase()))
        } else {
            Ok(open)
        }
    }

    /// Makes sure that there is a usable lane, opening one if nobody else does.
    pub(crate) fn reopen(&self, end: Instant) -> Result<(), LaneVerdict> {
        let Some(_turn) = self.take_turn(end)? else {
            return Ok(());
        };
        match OpenLane::open(&self.client, &self.destination, end) {
            Ok(opened) => {
                self.lane.store(opened);
                Ok(())
            }
            // Cut short by the caller's deadline, which says nothing about the connection.
            Err(RequestError::TimedOut { .. }) if Instant::now() >= end => Err(self.out_of_time()),
            Err(error) => match (&error, self.client.remote()) {
                (RequestError::Connect(ConnectError::OverNetwork), Some(remote)) => {
                    let error = self.go_over_network(remote).err().unwrap_or(error);
                    Err(self.destination.verdict(&error))
                }
                _ => Err(self.destination.verdict(&error)),
            },
        }
    }

    /// The time is up before there is a lane: what was wrong with the last one. Nothing ran.
    fn out_of_time(&self) -> LaneVerdict {
        let open = self.lane.load();
        LaneVerdict::Later(match open.phase() {
            _ if open.is_lost() => CallError::ConnectionLost { may_have_run: false },
            // It takes calls again just now.
            Phase::Active => CallError::Unavailable { phase: Phase::Closed },
            phase => CallError::Unavailable { phase },
        })
    }

    /// The right to open; `None` when there is a usable lane.
    fn take_turn(&self, end: Instant) -> Result<Option<OpeningTurn<'_>>, LaneVerdict> {
        let mut opening = lock(&self.opening);
        loop {
            if self.has_usable_lane() {
                return Ok(None);
            }
            if !*opening {
                *opening = true;
                return Ok(Some(OpeningTurn { process: self }));
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(self.out_of_time());
            }
            opening = self.opened.wait_timeout(opening, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// The right to open a lane, given back whatever happens.
struct OpeningTurn<'a> {
    process: &'a ProcessShared,
}

impl Drop for OpeningTurn<'_> {
    fn drop(&mut self) {
        *lock(&self.process.opening) = false;
        self.process.opened.notify_all();
    }
}
