//! The lanes that a worker has opened to call others: processes of this host, and by the server's gateway processes of other
//! hosts and clients' sessions. Calls of functions use them, and messages to whom no message lane leads.
//!
//! 1. There is one lane to an address at most. It stays when the process called is restarted, and goes when that has ended, or
//!    when the worker has too many: then the one that was used least recently and has no call in flight, nor anybody who
//!    holds it.
//! 2. A request for a lane outlives the call that made it: an answer that comes later is kept for the next call.

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use praas_protocol::Address;
use praas_protocol::control::{ControlError, LaneId, WorkerCommand, WorkerMessage};
use praas_sys::message_socket::MessageSocket;

use super::call_lane::{CallLane, Opened, close, post_of};
use crate::limits::CALL_LANES_MAX;
use crate::mail::{Mail, Parcel, answered_request};
use crate::worker::WorkerError;

/// The lanes of one worker.
#[derive(Debug)]
pub(crate) struct CallLanes {
    mail: Rc<Mail>,
    /// Made with the first lane.
    post: OnceCell<Arc<MessageSocket>>,
    lanes: RefCell<Vec<Rc<CallLane>>>,
    /// Index of the lane used last: calls of one process tend to follow each other.
    last: Cell<usize>,
    uses: Cell<u64>,
    /// Requests for lanes that the server has not answered, one an address at most.
    openings: RefCell<Vec<(u32, Address)>>,
}

/// Why there is no lane.
#[derive(Debug)]
pub(crate) enum OpenError {
    /// The server refused it.
    Refused(ControlError),
    /// The control socket failed, or the server broke its protocol.
    Server(WorkerError),
    /// What the server gave could not be used.
    Unusable(String),
}

impl From<WorkerError> for OpenError {
    fn from(error: WorkerError) -> Self {
        Self::Server(error)
    }
}

impl CallLanes {
    pub(crate) fn new(mail: Rc<Mail>) -> Self {
        Self {
            mail,
            post: OnceCell::new(),
            lanes: RefCell::default(),
            last: Cell::new(0),
            uses: Cell::new(0),
            openings: RefCell::default(),
        }
    }

    /// The lane to an address, if there is one.
    #[inline]
    pub(crate) fn known(&self, to: &Address) -> Option<Rc<CallLane>> {
        let lanes = self.lanes.borrow();
        let mut index = self.last.get();
        if lanes.get(index).is_none_or(|lane| lane.to() != to) {
            index = lanes.iter().position(|lane| lane.to() == to)?;
            self.last.set(index);
        }
        let lane = &lanes[index];
        self.uses.set(self.uses.get() + 1);
        lane.used.set(self.uses.get());
        Some(Rc::clone(lane))
    }

    /// Whether there is a lane to an address.
    pub(crate) fn leads_to(&self, to: &Address) -> bool {
        self.lanes.borrow().iter().any(|lane| lane.to() == to)
    }

    /// Opens a lane to an address to which there is none; `None` if the server has not given it within this time. It goes on
    /// trying then, and whoever asks again gets what it has given meanwhile.
    #[cold]
    pub(crate) fn open(&self, to: &Address, within: Duration) -> Result<Option<Rc<CallLane>>, OpenError> {
        self.make_room();
        let request = self.ask(to)?;
        let Some(answer) = self.mail.await_answer(request, within)? else { return Ok(None) };
        self.adopt(request, answer)?;
        Ok(self.known(to))
    }

    /// Asks for a lane, unless one was asked for.
    fn ask(&self, to: &Address) -> Result<u32, WorkerError> {
        let mut openings = self.openings.borrow_mut();
        if let Some((request, _)) = openings.iter().find(|(_, asked)| asked == to) {
            return Ok(*request);
        }
        let (request, to) = (self.mail.next_request(), *to);
        self.mail.send(&WorkerMessage::CallLaneOpen { request, to })?;
        openings.push((request, to));
        Ok(request)
    }

    /// Keeps the lane that the server has given, or says why it gave none.
    fn adopt(&self, request: u32, Parcel { command, fds }: Parcel) -> Result<(), OpenError> {
        let index = self.openings.borrow().iter().position(|(asked, _)| *asked == request);
        let Some((_, to)) = index.map(|index| self.openings.borrow_mut().swap_remove(index)) else {
            return Ok(());
        };
        let opened = match command {
            WorkerCommand::CallLaneOpened { lane, geometry, payload_bytes_max, workers_max, is_gateway, .. } => {
                Opened { id: lane, to, geometry, payload_bytes_max, workers_max, is_gateway }
            }
            WorkerCommand::Refused { error, .. } => return Err(OpenError::Refused(error)),
            command => return Err(WorkerError::Protocol(format!("{command:?} was not expected now")).into()),
        };
        let post = self.post().map_err(|error| OpenError::Unusable(error.to_string()))?;
        match CallLane::attach(&opened, fds, post) {
            Ok(lane) => self.lanes.borrow_mut().push(Rc::new(lane)),
            Err(reason) => {
                close(post, opened.id, to);
                return Err(OpenError::Unusable(reason));
            }
        }
        Ok(())
    }

    /// An answer that no call awaits any more; given back if it is for others.
    pub(crate) fn settle_late(&self, answer: Parcel) -> Option<Parcel> {
        let Some(request) = answered_request(&answer.command) else { return Some(answer) };
        if !self.openings.borrow().iter().any(|(asked, _)| *asked == request) {
            return Some(answer);
        }
        // What was refused is asked for again by the next call.
        let _ = self.adopt(request, answer);
        None
    }

    fn post(&self) -> std::io::Result<&Arc<MessageSocket>> {
        if let Some(post) = self.post.get() {
            return Ok(post);
        }
        // Fails for want of descriptors, for instance, of which others give some back.
        let post = post_of(self.mail.socket())?;
        Ok(self.post.get_or_init(|| post))
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
    pub(crate) fn hear(&self) {
        // What is wrong with the socket is found out between calls.
        let _ = self.mail.hear();
        while let Some(parcel) = self.mail.take_queued(|command| matches!(command, WorkerCommand::CallLaneGone { .. }))
        {
            if let WorkerCommand::CallLaneGone { lane, .. } = parcel.command {
                self.forget(lane);
            }
        }
    }

    /// A lane has ended: it leads nowhere any more.
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
