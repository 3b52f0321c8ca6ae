//! A lane whose sender is gone, made anew with all that lay in it.
//!
//! Invariants:
//! 1. What was taken out of the lane before is published first, each in a block of its own, and taken at once: its message names the
//!    block, as it did. What waits follows in its order.
//! 2. It fits: blocks are lent in any order and none is given back meanwhile, so an allocator of powers of two has room for all that it
//!    had at once before. What does not fit was not read like that.
//! 3. Nobody else has the lane before it is done.

use praas_protocol::{Address, Key};

use crate::log_ring::KeptMessage;
use crate::mail_bell::MailBell;
use crate::mailbox::{self, LanePlace};
use crate::message_lane::{ArrivedRoom, Contents, Inbound, Outbound, ServerMessageLane};
use crate::objects::StateError;
use crate::objects::lock::Locked;

use super::ImportError;
use super::remainder::{KeptLane, WaitingMail};

/// A lane that has come back, for the server to hand to receivers. Nobody sends on it.
#[derive(Debug)]
pub struct ReturnedLane {
    /// Its place among the lanes of the process.
    pub slot: u16,
    /// Its number.
    pub serial: u64,
    /// Who has sent.
    pub source: Address,
    /// Which life of the source.
    pub incarnation: u64,
    /// Whether what waits in it may have come another way, too.
    pub repeats: bool,
    /// The lane.
    pub lane: ServerMessageLane,
}

/// A lane that is being filled.
#[derive(Debug)]
pub(super) struct ReturningLane<'k> {
    kept: &'k KeptLane,
    serial: u64,
    lane: ServerMessageLane,
    inbound: Inbound,
    outbound: Outbound,
}

impl<'k> ReturningLane<'k> {
    pub(super) fn begin(kept: &'k KeptLane, serial: u64) -> Result<Self, ImportError> {
        let wrong = |error: &dyn std::fmt::Display| refused(kept, error);
        let lane = ServerMessageLane::create(kept.geometry).map_err(|error| wrong(&error))?;
        let fd = lane.fd().try_clone_to_owned().map_err(|error| wrong(&error))?;
        // Nobody sleeps on it.
        let bell = MailBell::create().map_err(|error| wrong(&error))?;
        let outbound = Outbound::attach(fd, &kept.geometry, bell).map_err(|error| wrong(&error))?;
        let inbound = lane.inbound();
        Ok(Self { kept, serial, lane, inbound, outbound })
    }

    pub(super) fn slot(&self) -> u16 {
        self.kept.slot
    }

    /// A message whose payload lay in it after it was taken: where it lies now.
    pub(super) fn taken(&mut self, message: &KeptMessage) -> Result<LanePlace, ImportError> {
        let kept = self.kept;
        let wrong = |error: &dyn std::fmt::Display| refused(kept, error);
        let key = Key::new(&message.key).map_err(|error| wrong(&error))?;
        let position = self.outbound.sent();
        let mut loan = self.outbound.loan(message.payload.len()).map_err(|error| wrong(&error))?;
        loan.copy_from_slice(&message.payload);
        self.outbound.send_loan(loan, message.id, key).map_err(|(_, error)| wrong(&error))?;
        let mut room = ArrivedRoom::new();
        let arrived = self.inbound.arrived_at(position, &mut room).map_err(|error| wrong(&error))?;
        let Some(Contents::Block(block)) = arrived.map(|arrived| arrived.contents) else {
            return Err(wrong(&"what was just sent did not arrive"));
        };
        self.inbound.publish_consumed(position + 1);
        Ok(LanePlace { slot: kept.slot, serial: self.serial, words: block.words() })
    }

    /// The rest of what lay in it.
    pub(super) fn finish(mut self, locked: &Locked<'_>) -> Result<Result<ReturnedLane, ImportError>, StateError> {
        let Self { kept, serial, .. } = self;
        let taken = self.outbound.sent();
        if taken > 0 {
            mailbox::incoming::taken_of_lane(locked, kept.slot, serial, taken)?;
        }
        let send = |WaitingMail { id, key, payload }: &WaitingMail| {
            let key = Key::new(key).map_err(|error| refused(kept, &error))?;
            self.outbound.try_send(*id, key, payload).map_err(|error| refused(kept, &error))
        };
        if let Err(error) = kept.waiting.iter().try_for_each(send) {
            return Ok(Err(error));
        }
        let KeptLane { slot, source, incarnation, repeats, .. } = *kept;
        Ok(Ok(ReturnedLane { slot, serial, source, incarnation, repeats, lane: self.lane }))
    }
}

fn refused(kept: &KeptLane, error: &dyn std::fmt::Display) -> ImportError {
    ImportError::Lane { slot: kept.slot, sender: kept.source, reason: error.to_string() }
}
