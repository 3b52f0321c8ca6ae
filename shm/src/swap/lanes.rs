//! What lies in the message lanes of a process that is about to sleep.

use std::time::Duration;

use crate::mailbox::{InboundLane, MailError, bringing_in};
use crate::objects::lock;
use crate::objects::{LockOwner, Objects, row_owner};

/// Server: takes all that lies in the inbound lanes of a process into its segment, and closes them for their senders, who are
/// told so by their next send. The workers of the process have all ended and were recovered, and `lanes` are all that it has.
/// Returns how many messages came.
///
/// What was refused may have closed some lanes: what is left in them is received by workers as ever, and their senders ask for
/// others. It may be tried again.
///
/// # Errors
/// [`MailError::Full`] when the segment has no room for all; [`MailError::LanesBusy`]; [`MailError::LaneMissing`] when a message
/// lies in a lane that was not given; [`MailError::Busy`] while somebody writes or a worker was not recovered;
/// [`MailError::Corrupt`].
pub fn close_lanes(objects: &Objects, lanes: Vec<InboundLane>) -> Result<usize, MailError> {
    let space = objects.space();
    let locked = lock::acquire(space, LockOwner::Server, Duration::ZERO)?;
    if let Some(owner) = row_owner::first(space) {
        return Err(MailError::Busy { owner, waited: Duration::ZERO });
    }
    bringing_in::bring_in(&locked, lanes)
}
