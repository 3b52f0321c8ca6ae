//! The messages of this worker that are on their way to one receiver to whom no message lane leads, in their order.
//!
//! Each is *delivered* once, by the server's gateway, several at a time. What an answer leaves in doubt is *put*, one at a time
//! and nothing else meanwhile, until it is known. Invariants:
//! 1. A message is sent only if all before it are accepted, or are being delivered on the same lane: then the gateways keep
//!    the order ([`praas_protocol::message`] says how).
//! 2. After a refusal or a loss nothing more is sent until all that is on its way was answered. Then the first message that
//!    was not accepted goes first.
//! 3. A message that may have been accepted is never delivered again.

use std::collections::VecDeque;
use std::rc::Rc;

use praas_protocol::message::Accepted;
use praas_protocol::{Address, CallError, ProcessId};
use praas_shm::client_lane::SubmitError;

use super::delivery::{Body, Delivery, Request, Terms, Verdict, Way, verdict};
use super::error::SendError;
use crate::call_end::of_submit_error;
use crate::invoke::{CallLane, CallLanes};
use crate::limits::SENDS_IN_FLIGHT_MAX;

/// Why a message was not accepted yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Hindrance {
    /// The receiver has no room; what it said.
    Full(String),
    /// The way to the receiver is not ready.
    Busy,
    /// Something that passes.
    Passing(CallError),
}

/// A message that is not accepted yet. Either its body is here, or a request carries it.
#[derive(Debug)]
struct Entry {
    delivery: Rc<Delivery>,
    body: Option<Body>,
    request: Option<Request>,
    /// Whether it may have been accepted, by a request whose answer does not say.
    is_doubtful: bool,
    hindrance: Option<Hindrance>,
}

/// What has to come before more can be sent.
#[derive(Debug)]
pub(super) enum Need {
    /// Nothing: no message is left.
    Nothing,
    /// An answer to what is on its way.
    Answer,
    /// A lane to the receiver.
    Lane,
    /// Room for a message of so many bytes at the receiver, who has said that it is full, or is not ready.
    Room { lane: Rc<CallLane>, bytes: usize, full: Option<String> },
    /// Some time.
    Pause,
}

/// The messages to one receiver.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) to: Address,
    /// Whether the server has said that no message lane leads there.
    pub(super) is_elsewhere: bool,
    queue: VecDeque<Entry>,
    window: Window,
    /// The receiver was asked to say when it has room, and nobody waits for its answer.
    asked: Option<Request>,
}

/// How many messages are delivered at a time. A receiver that has no room for so many refuses what is over, which then has
/// travelled in vain: after that it is half as many, and slowly more again.
#[derive(Debug)]
struct Window {
    messages: usize,
    /// Accepted since the last change.
    accepted: usize,
}

impl Window {
    /// Rounds without a refusal before one more is tried.
    const ROUNDS_PER_STEP: usize = 16;

    fn note_accepted(&mut self) {
        self.accepted += 1;
        if self.accepted >= self.messages * Self::ROUNDS_PER_STEP {
            *self = Self { messages: (self.messages + 1).min(SENDS_IN_FLIGHT_MAX), accepted: 0 };
        }
    }

    /// What was on its way together with a message that was refused is refused, too, and no news.
    fn note_full(&mut self, in_flight: usize) {
        if in_flight > 1 {
            *self = Self { messages: (in_flight / 2).min(self.messages), accepted: 0 };
        }
    }
}

impl Route {
    pub(super) fn new(to: Address) -> Self {
        let window = Window { messages: SENDS_IN_FLIGHT_MAX, accepted: 0 };
        Self { to, is_elsewhere: false, queue: VecDeque::new(), window, asked: None }
    }

    /// Goes on as far as that needs no waiting.
    pub(super) fn look_after(&mut self, lanes: &CallLanes, process: ProcessId, terms: Terms) -> Need {
        self.take_answers(process);
        if self.asked.take_if(|asked| asked.is_over()).is_some() {
            self.forget_hindrances();
        }
        if self.asked.is_some() {
            return Need::Answer;
        }
        let need = self.advance(lanes, terms);
        match &need {
            Need::Room { lane, bytes, .. } if lane.is_gateway() => {
                self.asked = Request::for_room(lane, *bytes, terms).ok();
            }
            // The next look tries it again.
            Need::Room { .. } | Need::Pause => self.forget_hindrances(),
            Need::Nothing | Need::Answer | Need::Lane => {}
        }
        need
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether as many messages as may be are on their way.
    pub(super) fn is_full(&self) -> bool {
        self.queue.len() >= SENDS_IN_FLIGHT_MAX
    }

    /// One more message; doubtful, if it may have been accepted long ago.
    pub(super) fn push(&mut self, delivery: &Rc<Delivery>, body: Body, is_doubtful: bool) {
        let (delivery, body) = (Rc::clone(delivery), Some(body));
        self.queue.push_back(Entry { delivery, body, request: None, is_doubtful, hindrance: None });
    }

    /// Something has happened since: what was in the way may be gone.
    pub(super) fn forget_hindrances(&mut self) {
        self.asked = None;
        for entry in &mut self.queue {
            entry.hindrance = None;
        }
    }

    /// What was sent first of what is on its way.
    pub(super) fn first_request(&self) -> Option<&Request> {
        self.queue.iter().find_map(|entry| entry.request.as_ref())
    }

    /// What carries a message.
    pub(super) fn request_of(&self, delivery: &Rc<Delivery>) -> Option<&Request> {
        self.queue.iter().find(|entry| Rc::ptr_eq(&entry.delivery, delivery))?.request.as_ref()
    }

    /// Sends what may be sent. What was answered has been [taken](Route::take_answers) before.
    pub(super) fn advance(&mut self, lanes: &CallLanes, terms: Terms) -> Need {
        loop {
            let Some(next) = self.queue.iter().position(|entry| entry.request.is_none()) else {
                return if self.is_empty() { Need::Nothing } else { Need::Answer };
            };
            let (lane, way) = match next {
                0 if self.first_request().is_some() => return Need::Answer,
                0 => match self.ready(lanes) {
                    Ok(ready) => ready,
                    Err(need) => return need,
                },
                _ => match self.following(next) {
                    Some(lane) => (lane, Way::DeliverNext),
                    None => return Need::Answer,
                },
            };
            if let Err(hindrance) = self.send(next, &lane, way, terms) {
                if next > 0 {
                    return Need::Answer;
                }
                self.queue[next].hindrance = Some(hindrance);
                return Need::Pause;
            }
        }
    }

    /// Nothing is on its way: how the first message is sent, if nothing hinders it.
    fn ready(&self, lanes: &CallLanes) -> Result<(Rc<CallLane>, Way), Need> {
        let entry = self.queue.front().ok_or(Need::Nothing)?;
        let lane = lanes.known(&self.to).ok_or(Need::Lane)?;
        let full = match &entry.hindrance {
            None => {
                let way = if entry.is_doubtful || !lane.is_gateway() { Way::Put } else { Way::Deliver };
                return Ok((lane, way));
            }
            Some(Hindrance::Passing(_)) => return Err(Need::Pause),
            Some(Hindrance::Full(said)) => Some(said.clone()),
            Some(Hindrance::Busy) => None,
        };
        Err(Need::Room { lane, bytes: entry.body.as_ref().map_or(0, Body::message_bytes), full })
    }

    /// The lane on which a message may follow those before it (invariant 1).
    fn following(&self, index: usize) -> Option<Rc<CallLane>> {
        let (entry, before) = (self.queue.get(index)?, self.queue.get(index.checked_sub(1)?)?.request.as_ref()?);
        // Something behind it is on its way only if it was refused itself, or lost.
        let is_next = self.queue.range(index..).all(|entry| entry.request.is_none());
        let is_fit = is_next && index < self.window.messages && !entry.is_doubtful && entry.hindrance.is_none();
        (is_fit && before.way != Way::Put && !before.lane.is_gone()).then(|| Rc::clone(&before.lane))
    }

    fn send(&mut self, index: usize, lane: &Rc<CallLane>, way: Way, terms: Terms) -> Result<(), Hindrance> {
        let Some(entry) = self.queue.get_mut(index) else { return Ok(()) };
        let Some(body) = entry.body.take() else { return Ok(()) };
        match Request::send(body, lane, way, terms) {
            Ok(request) => entry.request = Some(request),
            Err((body, SubmitError::TooLarge { limit_bytes, actual_bytes, .. })) => {
                drop(body);
                self.finish(index, Err(SendError::TooLarge { limit_bytes, actual_bytes }));
            }
            Err((body, error)) => {
                entry.body = Some(body);
                return Err(Hindrance::Passing(of_submit_error(&error)));
            }
        }
        Ok(())
    }

    /// Settles what was answered, and what was on a lane that has ended.
    pub(super) fn take_answers(&mut self, process: ProcessId) {
        let in_flight = self.queue.iter().filter(|entry| entry.request.is_some()).count();
        let mut index = 0;
        while let Some(entry) = self.queue.get_mut(index) {
            let Some(request) = entry.request.take_if(|request| request.is_over()) else {
                index += 1;
                continue;
            };
            match entry.settle(request, &self.to, process) {
                Some(end) => {
                    if end.is_ok() {
                        self.window.note_accepted();
                    }
                    self.finish(index, end);
                }
                None => {
                    if index == 0 && matches!(entry.hindrance, Some(Hindrance::Full(_))) {
                        self.window.note_full(in_flight);
                    }
                    index += 1;
                }
            }
        }
    }

    /// The message at `index` has ended.
    fn finish(&mut self, index: usize, end: Result<Accepted, SendError>) {
        if let Some(entry) = self.queue.remove(index) {
            entry.delivery.finish(end);
        }
    }

    /// No lane leads to the receiver: all messages end.
    pub(super) fn end_all(&mut self, error: &SendError) {
        while let Some(delivery) = self.queue.front().map(|entry| Rc::clone(&entry.delivery)) {
            delivery.finish(Err(self.give_up(&delivery).err().unwrap_or_else(|| error.clone())));
        }
    }

    /// Nobody waits for a message any more. It was certainly not accepted, and this hindered it last; or it may have been.
    pub(super) fn give_up(&mut self, delivery: &Rc<Delivery>) -> Result<Option<Hindrance>, SendError> {
        let index = self.queue.iter().position(|entry| Rc::ptr_eq(&entry.delivery, delivery));
        let Some(entry) = index.and_then(|index| self.queue.remove(index)) else { return Ok(None) };
        let is_here = entry.request.is_none_or(|request| request.retract().is_some());
        if is_here && !entry.is_doubtful {
            Ok(entry.hindrance)
        } else {
            Err(SendError::Unknown { to: self.to, id: delivery.id })
        }
    }
}

impl Entry {
    /// What the end of its request means: its own end, or it is here again.
    fn settle(&mut self, request: Request, to: &Address, process: ProcessId) -> Option<Result<Accepted, SendError>> {
        let (way, id) = (request.way, self.delivery.id);
        let (body, end) = request.end(process);
        self.hindrance = Some(match verdict(end, way, self.is_doubtful, to, id) {
            Verdict::Ended(end) => return Some(end),
            Verdict::Full(said) => Hindrance::Full(said),
            Verdict::Busy => Hindrance::Busy,
            Verdict::Later(error) => Hindrance::Passing(error),
            Verdict::Doubtful(error) => {
                self.is_doubtful = true;
                Hindrance::Passing(error)
            }
        });
        self.body = body;
        // Without its bytes it cannot be repeated.
        self.body.is_none().then_some(Err(SendError::Unknown { to: *to, id }))
    }
}
