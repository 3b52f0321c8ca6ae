//! What a worker keeps for the calls that its functions make: a lane to each process that was called, and root ids.
//!
//! 1. There is one lane to a process at most. It stays when the process is restarted, and goes when the process has ended, or
//!    when the worker has too many: then the one that was used least recently and has no call in flight.
//! 2. A request for a lane outlives the call that made it: an answer that comes later is kept for the next call.

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use praas_protocol::control::{ControlError, LaneId, WaitMode, WorkerCommand, WorkerMessage};
use praas_protocol::{CallError, Name, Phase, ProcessId};
use praas_sys::message_socket::MessageSocket;

use super::call_lane::{CallLane, Opened, close, post_of};
use super::nested_call::Setback;
use super::roots::Roots;
use crate::limits::{CALL_LANES_MAX, SERVER_ANSWER_MAX};
use crate::mail::{Mail, Parcel, answered_request};
use crate::worker::WorkerError;

/// What the calls of one worker share.
#[derive(Debug)]
pub(crate) struct InvokeRoom {
    process: ProcessId,
    pub(super) wait_mode: WaitMode,
    mail: Rc<Mail>,
    /// Made with the first lane.
    post: OnceCell<Arc<MessageSocket>>,
    lanes: RefCell<Vec<Rc<CallLane>>>,
    /// Index of the lane used last: calls of one process tend to follow each other.
    last: Cell<usize>,
    uses: Cell<u64>,
    roots: OnceCell<Roots>,
    /// Requests for lanes that the server has not answered, one a process at most.
    openings: RefCell<Vec<(u32, Name)>>,
}

impl InvokeRoom {
    pub(crate) fn new(process: ProcessId, wait_mode: WaitMode, mail: Rc<Mail>) -> Self {
        Self {
            process,
            wait_mode,
            mail,
            post: OnceCell::new(),
            lanes: RefCell::default(),
            last: Cell::new(0),
            uses: Cell::new(0),
            roots: OnceCell::new(),
            openings: RefCell::default(),
        }
    }

    /// A root id for a call that has none.
    #[cold]
    pub(super) fn mint_root(&self) -> u128 {
        self.roots.get_or_init(Roots::new).mint()
    }

    /// The lane to a process, opened within this time if there is none.
    #[inline]
    pub(super) fn lane_to(&self, process: &Name, within: Duration) -> Result<Rc<CallLane>, Setback> {
        match self.known(process) {
            Some(lane) => Ok(lane),
            None => self.open(process, within),
        }
    }

    #[inline]
    fn known(&self, process: &Name) -> Option<Rc<CallLane>> {
        let lanes = self.lanes.borrow();
        let mut index = self.last.get();
        if lanes.get(index).is_none_or(|lane| lane.process() != process) {
            index = lanes.iter().position(|lane| lane.process() == process)?;
            self.last.set(index);
        }
        let lane = &lanes[index];
        self.uses.set(self.uses.get() + 1);
        lane.used.set(self.uses.get());
        Some(Rc::clone(lane))
    }

    #[cold]
    fn open(&self, process: &Name, within: Duration) -> Result<Rc<CallLane>, Setback> {
        self.make_room();
        let lost = |_| Setback::End(CallError::ConnectionLost { may_have_run: false });
        let request = self.ask(process).map_err(lost)?;
        let answer = self.mail.await_answer(request, within.min(SERVER_ANSWER_MAX)).map_err(lost)?;
        self.adopt(request, answer.ok_or_else(unavailable)?)?;
        self.known(process).ok_or_else(unavailable)
    }

    /// Asks for a lane, unless one was asked for.
    fn ask(&self, process: &Name) -> Result<u32, WorkerError> {
        let mut openings = self.openings.borrow_mut();
        if let Some((request, _)) = openings.iter().find(|(_, asked)| asked == process) {
            return Ok(*request);
        }
        let (request, process) = (self.mail.next_request(), *process);
        self.mail.send(&WorkerMessage::CallLaneOpen { request, process })?;
        openings.push((request, process));
        Ok(request)
    }

    /// Keeps the lane that the server has given, or says why it gave none.
    fn adopt(&self, request: u32, Parcel { command, fds }: Parcel) -> Result<(), Setback> {
        let index = self.openings.borrow().iter().position(|(asked, _)| *asked == request);
        let Some((_, process)) = index.map(|index| self.openings.borrow_mut().swap_remove(index)) else {
            return Ok(());
        };
        let opened = match command {
            WorkerCommand::CallLaneOpened { lane, geometry, payload_bytes_max, workers_max, .. } => {
                Opened { id: lane, process, geometry, payload_bytes_max, workers_max }
            }
            WorkerCommand::Refused { error, .. } => return Err(self.refusal(&error, process)),
            _ => return Err(unavailable()),
        };
        let post = self.post().ok_or_else(unavailable)?;
        match CallLane::attach(&opened, fds, post) {
            Ok(lane) => self.lanes.borrow_mut().push(Rc::new(lane)),
            Err(_) => {
                close(post, opened.id, process);
                return Err(unavailable());
            }
        }
        Ok(())
    }

    /// An answer that no call awaits any more; given back if it is not for this room.
    pub(crate) fn settle_late(&self, answer: Parcel) -> Option<Parcel> {
        let Some(request) = answered_request(&answer.command) else { return Some(answer) };
        if !self.openings.borrow().iter().any(|(asked, _)| *asked == request) {
            return Some(answer);
        }
        // What was refused is asked for again by the next call.
        let _ = self.adopt(request, answer);
        None
    }

    fn post(&self) -> Option<&Arc<MessageSocket>> {
        if self.post.get().is_none() {
            // For want of descriptors, for instance, of which others give some back.
            let _ = self.post.set(post_of(self.mail.socket()).ok()?);
        }
        self.post.get()
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
            | ControlError::ProcessExists { .. } => unavailable(),
        }
    }

    /// Closes the lane used least recently that is idle, if there are too many.
    fn make_room(&self) {
        let mut lanes = self.lanes.borrow_mut();
        if lanes.len() < CALL_LANES_MAX {
            return;
        }
        let is_idle = |lane: &&Rc<CallLane>| lane.lane().in_flight() == 0 && Rc::strong_count(lane) == 1;
        let oldest = lanes.iter().filter(is_idle).min_by_key(|lane| lane.used.get()).map(|lane| lane.id());
        lanes.retain(|lane| Some(lane.id()) != oldest);
    }

    /// Hears from the server which lanes have ended meanwhile.
    pub(super) fn hear(&self) {
        // What is wrong with the socket is found out between calls.
        let _ = self.mail.hear();
        while let Some(parcel) = self.mail.take_queued(|command| matches!(command, WorkerCommand::CallLaneGone { .. }))
        {
            if let WorkerCommand::CallLaneGone { lane, .. } = parcel.command {
                self.forget(lane);
            }
        }
    }

    /// A lane has ended: its process has.
    pub(crate) fn forget(&self, lane: LaneId) {
        self.lanes.borrow_mut().retain(|one| {
            let goes = one.id() == lane;
            if goes {
                one.mark_gone();
            }
            !goes
        });
    }
}

/// The process called cannot be reached now.
fn unavailable() -> Setback {
    Setback::Later(CallError::Unavailable { phase: Phase::Closed })
}
