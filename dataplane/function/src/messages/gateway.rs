//! Sending to whom no message lane leads: to processes of other hosts and to clients' sessions by the server's gateway, to
//! processes whose messages are logged by their workers. [`Route`] has the order of things; here is whoever waits.
//!
//! 1. An address that the server has said to be *elsewhere* is so as long as there is a call lane to it: when that ends, the
//!    server is asked anew.
//! 2. While messages to an address are on their way here, no message to it takes another way.
//! 3. A wait drives all messages to the same receiver, not only its own: those before it have to arrive first.
//! 4. What was given up may be on its way still. Its sender is told that it may have arrived, unless it certainly has not.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use praas_protocol::control::{ControlError, WaitMode};
use praas_protocol::message::{Accepted, PutHead};
use praas_protocol::{Address, Key, MessageId};
use praas_shm::client_lane::SubmitError;
use praas_shm::mailbox::NewMessage;

use super::around::{Around, Wait};
use super::delivery::{Body, Delivery, Request, Terms};
use super::error::{RecvError, SendError};
use super::room::MessageRoom;
use super::route::{Hindrance, Need, Route};
use crate::invoke::{CallLane, CallLanes, OpenError};
use crate::limits::{
    CALL_PAUSE_MAX, CALL_PAUSE_MIN, DELIVERY_GRACE, SERVER_ANSWER_MAX, STARTED_LOOK_PERIOD, WAIT_LOOK_PERIOD,
};

/// The messages of one worker that no message lane carries, by their receivers.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    routes: RefCell<Vec<Route>>,
    /// Messages that were started and have not ended, as far as is known.
    started: Cell<usize>,
    /// When they were last looked after by a wait for something else.
    looked_after: Cell<Option<Instant>>,
}

/// A message to be sent without a message lane.
pub(super) struct Outgoing<'a> {
    pub(super) id: MessageId,
    pub(super) key: Key<'a>,
    pub(super) bytes: OutgoingBytes<'a>,
    /// Whether it may have been accepted long ago.
    pub(super) is_doubtful: bool,
}

/// Where its bytes are.
pub(super) enum OutgoingBytes<'a> {
    Here(&'a [u8]),
    /// In a call lane already.
    Built(Body),
}

/// A wait for something on a route.
struct Turn<'a, A: Around> {
    wait: Wait<'a, A>,
    /// Whether it waits for room at the receiver.
    is_patient: bool,
    pause: Duration,
}

impl<'a, A: Around> Turn<'a, A> {
    /// Without a time, it waits for the answers that it needs, and for no room.
    fn begin(around: &'a A, within: Option<Duration>) -> Self {
        let limit = within.unwrap_or(SERVER_ANSWER_MAX);
        let limit = around.time_left().map_or(limit, |left| left.min(limit));
        Self { wait: Wait::begin(around, limit), is_patient: within.is_some(), pause: CALL_PAUSE_MIN }
    }

    /// Whether it goes on. A drain does not end it: what is being sent may still arrive.
    fn ensure_goes_on(&self, around: &A, to: &Address) -> Result<(), SendError> {
        if around.is_given_up() {
            return Err(SendError::Cancelled { to: *to });
        }
        if self.wait.left().is_zero() {
            return Err(SendError::DeadlineExceeded { to: *to, waited: self.wait.within() });
        }
        Ok(())
    }

    /// Sleeps a little longer each time.
    fn pause(&mut self) {
        self.wait.stand_aside();
        std::thread::sleep(self.pause.min(self.wait.left()));
        self.pause = (self.pause * 2).min(CALL_PAUSE_MAX);
        self.wait.look_again();
    }
}

impl Routes {
    /// Whether messages to an address take this way.
    pub(super) fn lead_to(&self, to: &Address, lanes: &CallLanes) -> bool {
        let routes = self.routes.borrow();
        let route = routes.iter().find(|route| route.to == *to);
        route.is_some_and(|route| !route.is_empty() || route.is_elsewhere && lanes.leads_to(to))
    }

    /// The server has said that no message lane leads to an address.
    pub(super) fn note_elsewhere(&self, to: &Address, lanes: &CallLanes) {
        self.with(to, lanes, |route| route.is_elsewhere = true);
    }

    /// What `act` does with the route to an address. `act` must not come back here.
    fn with<R>(&self, to: &Address, lanes: &CallLanes, act: impl FnOnce(&mut Route) -> R) -> R {
        let mut routes = self.routes.borrow_mut();
        let index = routes.iter().position(|route| route.to == *to).unwrap_or_else(|| {
            routes.retain(|route| !route.is_empty() || route.is_elsewhere && lanes.leads_to(&route.to));
            routes.push(Route::new(*to));
            routes.len() - 1
        });
        let result = act(&mut routes[index]);
        self.count(&routes);
        result
    }

    fn count(&self, routes: &[Route]) {
        self.started.set(routes.iter().map(Route::len).sum());
    }
}

impl MessageRoom {
    /// Sends a message again that may have arrived, and says whether it had.
    pub(super) fn send_again(
        &self,
        around: &impl Around,
        to: &Address,
        id: MessageId,
        key: &str,
        bytes: &[u8],
        within: Duration,
    ) -> Result<Accepted, SendError> {
        let key = Key::new(key)?;
        self.ensure_within_limit(bytes.len())?;
        if *to == self.own {
            let message = NewMessage { source: &self.own, id, key, bytes, repeats: true };
            return self.put(around, &message).map_err(|error| match error {
                RecvError::Mailbox(error) => SendError::OwnMailbox(error),
                error => SendError::Unavailable { to: *to, reason: error.to_string() },
            });
        }
        let outgoing = Outgoing { id, key, bytes: OutgoingBytes::Here(bytes), is_doubtful: true };
        self.send_elsewhere(around, to, outgoing, Some(within))
    }

    /// Sends a message and waits for its acceptance; for room, too, if a time is given.
    pub(super) fn send_elsewhere(
        &self,
        around: &impl Around,
        to: &Address,
        outgoing: Outgoing<'_>,
        within: Option<Duration>,
    ) -> Result<Accepted, SendError> {
        let mut turn = Turn::begin(around, within);
        self.routes.with(to, &self.call_lanes, |route| {
            let delivery = self.enqueue(around, route, outgoing, &mut turn)?;
            self.finish(around, route, &delivery, &mut turn)
        })
    }

    /// Sends a message and waits for nothing but a place among those on their way.
    pub(super) fn start_elsewhere(
        &self,
        around: &impl Around,
        to: &Address,
        outgoing: Outgoing<'_>,
    ) -> Result<Rc<Delivery>, SendError> {
        let mut turn = Turn::begin(around, None);
        self.routes.with(to, &self.call_lanes, |route| {
            let delivery = self.enqueue(around, route, outgoing, &mut turn)?;
            self.advance(around, route, &turn);
            Ok(delivery)
        })
    }

    /// Waits for a message that was started; for room, too, if a time is given.
    pub(super) fn finish_started(
        &self,
        around: &impl Around,
        to: &Address,
        delivery: &Rc<Delivery>,
        within: Option<Duration>,
    ) -> Result<Accepted, SendError> {
        if let Some(end) = delivery.end() {
            return end;
        }
        let mut turn = Turn::begin(around, within);
        self.routes.with(to, &self.call_lanes, |route| self.finish(around, route, delivery, &mut turn))
    }

    /// The end of a message that was started, if it has come.
    pub(super) fn look_at_started(
        &self,
        around: &impl Around,
        to: &Address,
        delivery: &Rc<Delivery>,
    ) -> Option<Result<Accepted, SendError>> {
        if delivery.end().is_none() {
            let turn = Turn::begin(around, None);
            self.routes.with(to, &self.call_lanes, |route| match self.advance(around, route, &turn) {
                Need::Nothing | Need::Answer => {}
                Need::Room { full: Some(said), .. } => {
                    let full = SendError::FullElsewhere { to: *to, said };
                    delivery.finish(Err(route.give_up(delivery).err().unwrap_or(full)));
                }
                Need::Lane => drop(self.open_call_lane(route, Duration::ZERO)),
                // The next look tries it again.
                Need::Room { .. } | Need::Pause => route.forget_hindrances(),
            });
        }
        delivery.end()
    }

    /// Whether messages are on their way that were started.
    #[inline]
    pub(crate) fn has_started(&self) -> bool {
        self.routes.started.get() > 0
    }

    /// The worker waits for something else: messages that were started go on as far as they can. Looked after once a period: what
    /// has woken the worker is dealt with first.
    pub(crate) fn look_after_started(&self, around: &impl Around) {
        let now = Instant::now();
        let last = self.routes.looked_after.get();
        if last.is_some_and(|last| now.duration_since(last) < STARTED_LOOK_PERIOD) {
            return;
        }
        self.routes.looked_after.set(Some(now));
        // Whoever waits for one of them looks after all to its receiver.
        let Ok(mut routes) = self.routes.routes.try_borrow_mut() else { return };
        let time = around.time_left().unwrap_or(SERVER_ANSWER_MAX);
        let terms = Terms { deadline_ns: nanoseconds(time), root: around.begin_request() };
        for route in routes.iter_mut().filter(|route| !route.is_empty()) {
            if matches!(route.look_after(&self.call_lanes, self.process, terms), Need::Lane) {
                // Whoever waits for a message learns why there is none.
                let _ = self.open_call_lane(route, Duration::ZERO);
            }
        }
        self.routes.count(&routes);
    }

    /// Nobody waits for a message any more that was started.
    pub(super) fn give_up_started(&self, to: &Address, delivery: &Rc<Delivery>) {
        if delivery.end().is_none() {
            self.routes.with(to, &self.call_lanes, |route| drop(route.give_up(delivery)));
        }
    }

    /// A place for a message of `bytes` whose key is not known yet.
    pub(super) fn lend_elsewhere(&self, around: &impl Around, to: &Address, bytes: usize) -> Result<Body, SendError> {
        let mut turn = Turn::begin(around, None);
        self.routes
            .with(to, &self.call_lanes, |route| self.place(around, route, &mut turn, |lane| Body::lend(lane, bytes)))
    }

    /// Puts a message behind those that are on their way already.
    fn enqueue<A: Around>(
        &self,
        around: &A,
        route: &mut Route,
        outgoing: Outgoing<'_>,
        turn: &mut Turn<'_, A>,
    ) -> Result<Rc<Delivery>, SendError> {
        // What was in the way of earlier ones is tried again.
        route.take_answers(self.process);
        route.forget_hindrances();
        while route.is_full() {
            self.step(around, route, turn)?;
            route.take_answers(self.process);
            turn.ensure_goes_on(around, &route.to)?;
        }
        let Outgoing { id, key, bytes, is_doubtful } = outgoing;
        let head = PutHead { source: self.own, id, key };
        let body = match bytes {
            OutgoingBytes::Here(bytes) => self.place(around, route, turn, |lane| Body::copied(lane, &head, bytes))?,
            OutgoingBytes::Built(mut body) => {
                body.address(&head);
                body
            }
        };
        let delivery = Delivery::new(id);
        route.push(&delivery, body, is_doubtful);
        Ok(delivery)
    }

    /// What `make` makes in a lane to the receiver, once there are a lane and room in it.
    fn place<A: Around>(
        &self,
        around: &A,
        route: &mut Route,
        turn: &mut Turn<'_, A>,
        make: impl Fn(&Rc<CallLane>) -> Result<Body, SubmitError>,
    ) -> Result<Body, SendError> {
        loop {
            let Some(lane) = self.call_lanes.known(&route.to) else {
                turn.wait.stand_aside();
                if !self.open_call_lane(route, turn.wait.left().min(WAIT_LOOK_PERIOD))? {
                    turn.pause();
                }
                turn.ensure_goes_on(around, &route.to)?;
                continue;
            };
            match make(&lane) {
                Ok(body) => return Ok(body),
                Err(SubmitError::TooLarge { limit_bytes, actual_bytes, .. }) => {
                    return Err(SendError::TooLarge { limit_bytes, actual_bytes });
                }
                Err(_) if route.is_empty() => turn.pause(),
                // Messages that arrive make room.
                Err(_) => self.step(around, route, turn)?,
            }
            route.take_answers(self.process);
            turn.ensure_goes_on(around, &route.to)?;
        }
    }

    /// Waits until a message has ended.
    fn finish<A: Around>(
        &self,
        around: &A,
        route: &mut Route,
        delivery: &Rc<Delivery>,
        turn: &mut Turn<'_, A>,
    ) -> Result<Accepted, SendError> {
        route.take_answers(self.process);
        route.forget_hindrances();
        loop {
            if let Some(end) = delivery.end() {
                return end;
            }
            let stepped = self.step(around, route, turn);
            route.take_answers(self.process);
            if let Err(error) = stepped.and_then(|()| turn.ensure_goes_on(around, &route.to)) {
                return self.give_up(around, route, delivery, error);
            }
        }
    }

    /// Nobody waits for a message any more because of `error`, unless its end comes in this very moment.
    fn give_up(
        &self,
        around: &impl Around,
        route: &mut Route,
        delivery: &Rc<Delivery>,
        error: SendError,
    ) -> Result<Accepted, SendError> {
        if let Some(request) = route.request_of(delivery)
            && !around.is_given_up()
        {
            // The gateway, which counts the same time, says what it has not sent.
            request.wait(WaitMode::Park, DELIVERY_GRACE);
            route.take_answers(self.process);
        }
        if let Some(end) = delivery.end() {
            return end;
        }
        let hindrance = route.give_up(delivery)?;
        Err(match (error, hindrance) {
            (SendError::DeadlineExceeded { to, .. }, Some(Hindrance::Passing(error))) => {
                SendError::Unavailable { to, reason: error.to_string() }
            }
            (error, _) => error,
        })
    }

    fn advance<A: Around>(&self, around: &A, route: &mut Route, turn: &Turn<'_, A>) -> Need {
        route.take_answers(self.process);
        let terms = Terms { deadline_ns: nanoseconds(turn.wait.left()), root: around.begin_request() };
        route.advance(&self.call_lanes, terms)
    }

    /// Sends what may be sent, and waits for what it needs: for a while, or until it is there.
    fn step<A: Around>(&self, around: &A, route: &mut Route, turn: &mut Turn<'_, A>) -> Result<(), SendError> {
        match self.advance(around, route, turn) {
            Need::Nothing => {}
            Need::Answer => {
                if let Some(request) = route.first_request() {
                    self.await_answer(around, request, turn);
                }
            }
            Need::Lane => {
                turn.wait.stand_aside();
                if !self.open_call_lane(route, turn.wait.left().min(WAIT_LOOK_PERIOD))? {
                    turn.pause();
                }
            }
            Need::Room { full: Some(said), .. } if !turn.is_patient => {
                return Err(SendError::FullElsewhere { to: route.to, said });
            }
            Need::Room { lane, bytes, .. } => {
                self.await_room(around, &lane, bytes, turn);
                route.forget_hindrances();
            }
            Need::Pause => {
                turn.pause();
                route.forget_hindrances();
            }
        }
        self.heed(around).map_err(|error| SendError::Unavailable { to: route.to, reason: error.to_string() })?;
        self.call_lanes.hear();
        Ok(())
    }

    /// Waits until a request is over, or a time at which others have to be looked at.
    fn await_answer<A: Around>(&self, around: &A, request: &Request, turn: &mut Turn<'_, A>) {
        if request.wait_briefly(self.wait_mode) {
            return;
        }
        turn.wait.stand_aside();
        let mode = match self.wait_mode {
            WaitMode::Spin => WaitMode::Spin,
            // What polling there is to be has been done.
            WaitMode::Adaptive | WaitMode::Park => WaitMode::Park,
        };
        while !request.wait(mode, turn.wait.slice()) && !around.is_given_up() && !turn.wait.left().is_zero() {
            turn.wait.look_again();
            request.ring_again();
            self.call_lanes.hear();
            if request.is_over() {
                break;
            }
        }
        turn.wait.look_again();
    }

    /// Waits until the receiver says that a message may find room.
    fn await_room<A: Around>(&self, around: &A, lane: &Rc<CallLane>, bytes: usize, turn: &mut Turn<'_, A>) {
        if !lane.is_gateway() {
            // Workers tell nobody when there is room.
            return turn.pause();
        }
        let terms = Terms { deadline_ns: nanoseconds(turn.wait.left()), root: around.begin_request() };
        let said = Request::for_room(lane, bytes, terms).ok().and_then(|request| {
            self.await_answer(around, &request, turn);
            request.is_answered().then(|| request.end(self.process).1)
        });
        if !matches!(said, Some(Ok(_))) {
            turn.pause();
        }
    }

    /// Asks for a lane to the receiver and waits for it for this time. False if the receiver cannot be reached now, which may
    /// change at once. If it never can, all messages to it end.
    fn open_call_lane(&self, route: &mut Route, within: Duration) -> Result<bool, SendError> {
        let Err(error) = self.call_lanes.open(&route.to, within) else { return Ok(true) };
        let error = match error {
            OpenError::Refused(ControlError::WrongState { .. } | ControlError::WorkersFailed { .. }) => {
                return Ok(false);
            }
            OpenError::Refused(ControlError::UnknownProcess { .. } | ControlError::UnknownSession { .. }) => {
                SendError::unknown(route.to)
            }
            OpenError::Refused(error) => SendError::Refused { to: route.to, error: Box::new(error) },
            OpenError::Server(error) => SendError::Unavailable { to: route.to, reason: error.to_string() },
            OpenError::Unusable(reason) => SendError::Unavailable { to: route.to, reason },
        };
        route.end_all(&error);
        Err(error)
    }
}

/// A time as it travels with a request: never 0, which would mean none.
fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).max(1)
}
