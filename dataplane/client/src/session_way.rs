//! What a session does with the way to its room, beside calls: it is a process's to everything else.

use std::sync::Arc;
use std::time::{Duration, Instant};

use praas_protocol::CallError;

use crate::deadline::Deadline;
use crate::error::LaneVerdict;
use crate::function::Function;
use crate::payload::{Kept, Payload};
use crate::pending::LanePending;
use crate::process::{Process, Way};
use crate::remote::RemotePending;
use crate::reply::Reply;

impl Process {
    /// Calls a function that may take `limit`, and waits for its answer for `grace` longer.
    pub(crate) fn invoke_outlasting(
        &self,
        function: Function<'_>,
        payload: Payload<'_>,
        limit: Duration,
        grace: Duration,
    ) -> Result<Reply, CallError> {
        let deadline = Deadline::outlasting(limit, grace);
        match self.way() {
            Way::Lane(shared) => LanePending::unsent(shared, function, Kept::borrowing(payload), deadline).finish(),
            Way::Network(remote) => RemotePending::borrowing(remote, function, payload, deadline).finish(),
        }
    }

    /// Whether calls may go the way that was found last.
    pub(crate) fn has_way(&self) -> bool {
        match self.way() {
            Way::Lane(shared) => shared.has_usable_lane(),
            Way::Network(remote) => remote.has_way(),
        }
    }

    /// The same after a look whether the server has ended it.
    pub(crate) fn has_way_now(&self) -> bool {
        match self.way() {
            Way::Lane(shared) => shared.has_usable_lane(),
            Way::Network(remote) => {
                let binding = remote.binding();
                binding.link().is_usable_now() && binding.is_usable()
            }
        }
    }

    /// Makes sure that there is a way.
    pub(crate) fn find_way(&self, end: Instant) -> Result<(), CallError> {
        let found = match self.way() {
            Way::Lane(shared) => shared.reopen(end),
            Way::Network(remote) => remote.find_way(end),
        };
        match (found, &self.way()) {
            (Ok(()), _) => Ok(()),
            // A lane that is over, while the way goes over the network now.
            (Err(_), Way::Network(remote)) if remote.has_way() => Ok(()),
            (Err(verdict), _) => Err(LaneVerdict::into_error(verdict)),
        }
    }

    /// Gives the way up: calls on it end, and the next one finds another.
    pub(crate) fn leave_way(&self) {
        match self.way() {
            Way::Lane(shared) => Arc::clone(&shared.lane.load()).mark_lost(),
            Way::Network(remote) => remote.binding().close(),
        }
    }
}
