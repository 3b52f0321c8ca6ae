//! What a worker keeps for the calls that its functions make: lanes, and root ids.

use std::cell::OnceCell;
use std::rc::Rc;
use std::time::Duration;

use praas_protocol::control::{ControlError, WaitMode};
use praas_protocol::{Address, CallError, Name, Phase, ProcessId};

use super::call_lane::CallLane;
use super::call_lanes::{CallLanes, OpenError};
use super::nested_call::Setback;
use super::roots::Roots;
use crate::limits::SERVER_ANSWER_MAX;

/// What the calls of one worker share.
#[derive(Debug)]
pub(crate) struct InvokeRoom {
    process: ProcessId,
    pub(super) wait_mode: WaitMode,
    lanes: Rc<CallLanes>,
    roots: OnceCell<Roots>,
}

impl InvokeRoom {
    pub(crate) fn new(process: ProcessId, wait_mode: WaitMode, lanes: Rc<CallLanes>) -> Self {
        Self { process, wait_mode, lanes, roots: OnceCell::new() }
    }

    /// A root id for a call that has none.
    #[cold]
    pub(crate) fn mint_root(&self) -> u128 {
        self.roots.get_or_init(Roots::new).mint()
    }

    pub(crate) fn lanes(&self) -> &CallLanes {
        &self.lanes
    }

    /// The lane to a process, opened within this time if there is none.
    #[inline(always)]
    pub(super) fn lane_to(&self, process: Name, within: Duration) -> Result<Rc<CallLane>, Setback> {
        let to = Address::Process(process);
        match self.lanes.known(&to) {
            Some(lane) => Ok(lane),
            None => self.open(process, &to, within),
        }
    }

    #[cold]
    fn open(&self, process: Name, to: &Address, within: Duration) -> Result<Rc<CallLane>, Setback> {
        match self.lanes.open(to, within.min(SERVER_ANSWER_MAX)) {
            Ok(lane) => lane.ok_or_else(unavailable),
            Err(OpenError::Refused(error)) => Err(self.refusal(&error, process)),
            Err(OpenError::Server(_)) => Err(Setback::End(CallError::ConnectionLost { may_have_run: false })),
            Err(OpenError::Unusable(_)) => Err(unavailable()),
        }
    }

    fn refusal(&self, error: &ControlError, process: Name) -> Setback {
        match error {
            ControlError::UnknownProcess { .. } | ControlError::UnknownApplication { .. } => {
                Setback::End(CallError::UnknownProcess { process: ProcessId { process, ..self.process } })
            }
            ControlError::Unauthorized { .. } => Setback::End(CallError::Unauthorized { right: "invoke" }),
            ControlError::LimitReached { used, limit, .. } => {
                let what = "the server's room for lanes";
                Setback::End(CallError::Overloaded { what, used: *used, limit: *limit })
            }
            ControlError::WrongVersion { .. } | ControlError::TokenRefused { .. } | ControlError::Protocol { .. } => {
                Setback::End(CallError::ConnectionLost { may_have_run: false })
            }
            ControlError::ShuttingDown
            | ControlError::WrongState { .. }
            | ControlError::WorkersFailed { .. }
            | ControlError::Host { .. }
            | ControlError::SwapFailed { .. }
            | ControlError::NoStorage
            | ControlError::Elsewhere { .. }
            | ControlError::UnknownSession { .. }
            | ControlError::ProcessExists { .. } => unavailable(),
        }
    }
}

/// The process called cannot be reached now.
fn unavailable() -> Setback {
    Setback::Later(CallError::Unavailable { phase: Phase::Closed })
}
