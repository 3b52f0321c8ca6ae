//! Requests into a lane, and what it means when the lane does not take one.

use std::sync::Arc;

use praas_protocol::{CallError, FunctionId};
use praas_shm::client_lane::{Bounded, LoanBlock, Payload as LanePayload, SubmitError, Ticket};

use crate::loan::Loan;
use crate::open_lane::OpenLane;
use crate::payload::Kept;
use crate::pending::{Obstacle, ObstacleKind, Setback};

/// Root id of a call that no other call made.
pub(crate) const ROOT_CALL: u128 = 0;

/// Why a loan was not sent at once.
pub(crate) enum NotLent {
    /// It belongs to another lane, or this one does not take it now: there are other ways.
    Loan(Loan),
    /// The call has ended.
    End(CallError),
}

impl OpenLane {
    /// Puts a request into the lane.
    #[inline]
    pub(crate) fn submit_bytes(
        &self,
        function: FunctionId,
        bytes: &[u8],
        deadline_ns: u64,
    ) -> Result<Ticket, SubmitError> {
        self.lane().submit(function, LanePayload::Bytes(bytes), deadline_ns, ROOT_CALL)
    }

    /// Puts a request whose payload is a loan from this very lane into it.
    #[inline]
    pub(crate) fn submit_lent(
        self: &Arc<Self>,
        function: FunctionId,
        loan: Loan,
        deadline_ns: u64,
    ) -> Result<Ticket, NotLent> {
        let block = loan.into_block(self).map_err(NotLent::Loan)?;
        self.lane().submit(function, LanePayload::Loan(block), deadline_ns, ROOT_CALL).map_err(|error| {
            match self.setback(error) {
                (_, Some(block)) => NotLent::Loan(Loan::new(Arc::clone(self), block)),
                (setback, None) => NotLent::End(setback.into_error()),
            }
        })
    }

    /// Puts a request whose payload is a loan into the lane. What it keeps to be sent again comes back either way.
    pub(crate) fn submit_loan<'a>(
        self: &Arc<Self>,
        function: FunctionId,
        kept: Kept<'a>,
        deadline_ns: u64,
    ) -> (Kept<'a>, Result<Ticket, Setback>) {
        let kept = match kept {
            Kept::Loan(loan) => match loan.into_block(self) {
                Ok(block) => return self.submit_block(function, block, deadline_ns),
                // The lane was replaced: the content moves over, and the old block goes back.
                Err(elsewhere) => Kept::Owned(elsewhere.into_content()),
            },
            other => other,
        };
        let submitted = match kept.bytes() {
            Some(bytes) => self.submit_bytes(function, bytes, deadline_ns).map_err(|error| self.setback(error).0),
            None => Err(Setback::End(Obstacle::lost().error)),
        };
        (kept, submitted)
    }

    fn submit_block<'a>(
        self: &Arc<Self>,
        function: FunctionId,
        block: LoanBlock,
        deadline_ns: u64,
    ) -> (Kept<'a>, Result<Ticket, Setback>) {
        match self.lane().submit(function, LanePayload::Loan(block), deadline_ns, ROOT_CALL) {
            Ok(ticket) => (Kept::Lent, Ok(ticket)),
            Err(error) => match self.setback(error) {
                (setback, Some(block)) => (Kept::Loan(Loan::new(Arc::clone(self), block)), Err(setback)),
                (setback, None) => (Kept::Lent, Err(Setback::End(setback.into_error()))),
            },
        }
    }

    /// Whether to try again after `error`, and the loan that comes back with it.
    pub(crate) fn setback(&self, error: SubmitError) -> (Setback, Option<LoanBlock>) {
        match error {
            SubmitError::Full { what, used, limit, loan } => {
                let error = CallError::Overloaded { what: what.name(), used, limit };
                // Room comes back when calls end. Abandoned ones may never: those nobody should wait for.
                let comes_back = what != Bounded::Quarantine && self.lane().in_flight() > self.lane().quarantined();
                let setback = if comes_back {
                    Setback::Obstacle(Obstacle { kind: ObstacleKind::Room, error })
                } else {
                    Setback::End(error)
                };
                (setback, loan)
            }
            SubmitError::TooLarge { limit_bytes, actual_bytes, loan } => {
                (Setback::End(CallError::PayloadTooLarge { limit_bytes, actual_bytes }), loan)
            }
            SubmitError::Unavailable { phase, loan } => (Setback::Obstacle(Obstacle::phase(phase)), loan),
            SubmitError::Lost { loan } => (Setback::Obstacle(Obstacle::lost()), loan),
            // Whatever a later release of the lane adds: this lane is of no use to this call.
            _ => (Setback::Obstacle(Obstacle::lost()), None),
        }
    }
}
