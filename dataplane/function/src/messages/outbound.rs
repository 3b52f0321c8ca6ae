//! The lanes by which a worker sends: one to each mailbox that it has sent to, opened at the first message.
//!
//! 1. A lane takes messages up to the size that it was opened for. A larger message opens a larger lane, and the one before is
//!    closed then: the receiver takes what is left in it first, in order of the messages' numbers.
//! 2. A request for a lane outlives the call that made it: an answer that comes later is kept for the next message.
//! 3. A lane that the server has closed, because its receiver leaves memory, took all that was accepted. The next message asks for
//!    another one, for which the server wakes the receiver.
//! 4. When a worker has as many lanes as it may, the one that was used least recently is closed.

use std::cell::{Cell, RefCell};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use praas_protocol::Address;
use praas_protocol::control::{ControlError, WorkerCommand, WorkerMessage};
use praas_shm::mail_bell::MailBell;
use praas_shm::message_lane::Outbound;

use super::address::Party;
use super::around::Around;
use super::error::SendError;
use super::room::{MessageRoom, is_of_message_lanes};
use crate::limits::{MESSAGE_LANES_OUT_MAX, SERVER_ANSWER_MAX, WAIT_LOOK_PERIOD};
use crate::mail::{Mail, Parcel, answered_request};
use crate::worker::WorkerError;

/// A lane to a mailbox.
#[derive(Debug)]
pub(super) struct OutboundLane {
    to: Address,
    /// Its number, unique during the life of a server.
    pub(super) serial: u64,
    /// Bytes of the largest message that it takes.
    payload_bytes_max: usize,
    pub(super) lane: Outbound,
    /// Higher than that of all lanes that were used earlier.
    used: u64,
}

/// A lane that the server was asked for and has not given yet.
#[derive(Debug, Clone, Copy)]
struct Opening {
    request: u32,
    to: Address,
}

/// What leads to a receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leads {
    /// A message lane.
    Lane,
    /// None: it is not in this server's memory.
    Elsewhere,
}

/// The lanes of one worker.
#[derive(Debug)]
pub(crate) struct OutboundLanes {
    /// The application's limit.
    payload_bytes_max: usize,
    lanes: RefCell<Vec<OutboundLane>>,
    /// Index of the lane used last: messages to one receiver tend to follow each other.
    last: Cell<usize>,
    uses: Cell<u64>,
    openings: RefCell<Vec<Opening>>,
}

impl OutboundLanes {
    pub(super) fn new(payload_bytes_max: u32) -> Self {
        Self {
            payload_bytes_max: payload_bytes_max as usize,
            lanes: RefCell::default(),
            last: Cell::new(0),
            uses: Cell::new(0),
            openings: RefCell::default(),
        }
    }

    /// What `act` does with the lane that was used last, if `to` names its receiver and it takes `bytes`.
    #[inline]
    pub(super) fn with_last<R>(
        &self,
        to: &Party<'_>,
        bytes: usize,
        act: impl FnOnce(&mut OutboundLane) -> R,
    ) -> Option<R> {
        let lanes = &mut *self.lanes.borrow_mut();
        let lane =
            lanes.get_mut(self.last.get()).filter(|lane| lane.payload_bytes_max >= bytes && to.names(&lane.to))?;
        Some(act(lane))
    }

    /// What `act` does with the lane to `to` for messages of `bytes`; `None` if there is no such lane.
    #[inline]
    pub(super) fn with<R>(&self, to: &Address, bytes: usize, act: impl FnOnce(&mut OutboundLane) -> R) -> Option<R> {
        let lanes = &mut *self.lanes.borrow_mut();
        let leads = |lane: &OutboundLane| lane.to == *to && lane.payload_bytes_max >= bytes;
        if !lanes.get(self.last.get()).is_some_and(leads) {
            self.last.set(lanes.iter().position(leads)?);
        }
        let lane = lanes.get_mut(self.last.get())?;
        self.uses.set(self.uses.get() + 1);
        lane.used = self.uses.get();
        Some(act(lane))
    }

    /// The receiver of a lane has ended.
    pub(super) fn forget(&self, serial: u64) {
        self.lanes.borrow_mut().retain(|lane| lane.serial != serial);
    }

    /// The server has closed a lane, as its receiver leaves memory: another one leads to it.
    #[cold]
    pub(super) fn give_up(&self, serial: u64, mail: &Mail) -> Result<(), WorkerError> {
        self.forget(serial);
        mail.send(&WorkerMessage::MessageLaneClose { serial })
    }

    /// An answer that no call awaits any more.
    pub(super) fn settle_late(&self, answer: Parcel, mail: &Mail) -> Result<(), WorkerError> {
        let request = answered_request(&answer.command);
        match self.opening(|opening| Some(opening.request) == request) {
            // What was refused is asked for again by the next message.
            Some(opening) => self.adopt(opening, answer, mail).map(drop),
            None => match answer.command {
                WorkerCommand::MessageLaneOpened { serial, .. } => {
                    mail.send(&WorkerMessage::MessageLaneClose { serial })
                }
                _ => Ok(()),
            },
        }
    }

    fn opening(&self, is_wanted: impl Fn(&Opening) -> bool) -> Option<Opening> {
        self.openings.borrow().iter().copied().find(is_wanted)
    }

    /// Asks for a lane, unless one was asked for.
    fn ask(&self, to: &Address, bytes: usize, mail: &Mail) -> Result<Opening, WorkerError> {
        if let Some(opening) = self.opening(|opening| opening.to == *to) {
            return Ok(opening);
        }
        let (request, payload_bytes) = (mail.next_request(), u32::try_from(bytes).unwrap_or(u32::MAX));
        mail.send(&WorkerMessage::MessageLaneOpen { request, to: *to, payload_bytes })?;
        let opening = Opening { request, to: *to };
        self.openings.borrow_mut().push(opening);
        Ok(opening)
    }

    /// Keeps the lane that the server has given, or says why it gave none.
    fn adopt(&self, opening: Opening, answer: Parcel, mail: &Mail) -> Result<Result<Leads, SendError>, WorkerError> {
        self.openings.borrow_mut().retain(|one| one.request != opening.request);
        let to = opening.to;
        let (serial, geometry, payload_bytes_max) = match answer.command {
            WorkerCommand::MessageLaneOpened { serial, geometry, payload_bytes_max, .. } => {
                (serial, geometry, payload_bytes_max)
            }
            WorkerCommand::Refused {
                error: ControlError::UnknownProcess { .. } | ControlError::UnknownSession { .. },
                ..
            } => return Ok(Err(SendError::unknown(to))),
            WorkerCommand::Refused { error: ControlError::Elsewhere { .. }, .. } => return Ok(Ok(Leads::Elsewhere)),
            WorkerCommand::Refused { error, .. } => return Ok(Err(SendError::Refused { to, error: Box::new(error) })),
            command => return Err(WorkerError::Protocol(format!("{command:?} was not expected now"))),
        };
        let attached = attach(answer.fds, |lane, bell| Outbound::attach(lane, &geometry, bell));
        match attached {
            Ok(lane) => {
                let payload_bytes_max =
                    lane.payload_bytes_max().min(payload_bytes_max as usize).min(self.payload_bytes_max);
                self.make_room(&to, mail)?;
                self.lanes.borrow_mut().push(OutboundLane {
                    to,
                    serial,
                    payload_bytes_max,
                    lane,
                    used: self.uses.get(),
                });
                Ok(Ok(Leads::Lane))
            }
            Err(reason) => {
                mail.send(&WorkerMessage::MessageLaneClose { serial })?;
                Ok(Err(SendError::Unavailable { to, reason }))
            }
        }
    }

    /// Closes the lane that a new one to `to` replaces, and one more if there are too many.
    fn make_room(&self, to: &Address, mail: &Mail) -> Result<(), WorkerError> {
        let lanes = &mut *self.lanes.borrow_mut();
        let mut closed = Vec::new();
        lanes.retain(|lane| {
            let goes = lane.to == *to;
            closed.extend(goes.then_some(lane.serial));
            !goes
        });
        if lanes.len() >= MESSAGE_LANES_OUT_MAX
            && let Some(index) = (0..lanes.len()).min_by_key(|index| lanes[*index].used)
        {
            closed.push(lanes.swap_remove(index).serial);
        }
        closed.into_iter().try_for_each(|serial| mail.send(&WorkerMessage::MessageLaneClose { serial }))
    }
}

impl MessageRoom {
    /// Opens a lane to `to` for messages of `bytes`, unless there is one; waits for it at most for `within`. To whom no message
    /// lane leads, messages are sent [otherwise](MessageRoom::send_elsewhere).
    #[cold]
    pub(super) fn open_lane(
        &self,
        around: &impl Around,
        to: &Address,
        bytes: usize,
        within: Duration,
    ) -> Result<Leads, SendError> {
        if self.routes.lead_to(to, &self.call_lanes) {
            return Ok(Leads::Elsewhere);
        }
        let broken = |error: WorkerError| SendError::Unavailable { to: *to, reason: error.to_string() };
        let start = Instant::now();
        while self.outbound.with(to, bytes, |_| ()).is_none() {
            let opening = self.outbound.ask(to, bytes, &self.mail).map_err(broken)?;
            let left = within.min(SERVER_ANSWER_MAX).saturating_sub(start.elapsed());
            match self.mail.await_one(left.min(WAIT_LOOK_PERIOD), |command| {
                answered_request(command) == Some(opening.request) || is_of_message_lanes(command)
            }) {
                Ok(Some(parcel)) if is_of_message_lanes(&parcel.command) => self.obey(parcel).map_err(broken)?,
                Ok(Some(parcel)) => match self.outbound.adopt(opening, parcel, &self.mail).map_err(broken)?? {
                    Leads::Lane => {}
                    Leads::Elsewhere => {
                        self.routes.note_elsewhere(to, &self.call_lanes);
                        return Ok(Leads::Elsewhere);
                    }
                },
                Ok(None) if around.is_given_up() => return Err(SendError::Cancelled { to: *to }),
                Ok(None) if start.elapsed() >= SERVER_ANSWER_MAX => {
                    return Err(broken(WorkerError::Silence { expected: "lane for messages" }));
                }
                Ok(None) if start.elapsed() >= within => {
                    return Err(SendError::DeadlineExceeded { to: *to, waited: within });
                }
                Ok(None) => {}
                Err(error) => return Err(broken(error)),
            }
        }
        Ok(Leads::Lane)
    }
}

/// The sender's end that lies behind the descriptors of a message.
fn attach<E: std::fmt::Display>(
    fds: Vec<OwnedFd>,
    lane: impl FnOnce(OwnedFd, MailBell) -> Result<Outbound, E>,
) -> Result<Outbound, String> {
    let [segment, bell] = <[OwnedFd; 2]>::try_from(fds)
        .map_err(|fds| format!("{} descriptors came with a message lane instead of 2", fds.len()))?;
    let bell = MailBell::attach(bell).map_err(|error| error.to_string())?;
    lane(segment, bell).map_err(|error| error.to_string())
}
