//! A process that is reached over the network: the current way to it, found anew when it must be, and calls over it.
//!
//! One thread looks for a way at a time and the others wait for it, each to its own deadline. Futures have a thread look
//! for them, which ends when none of them needs it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::Waker;
use std::thread;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use praas_protocol::wire::{Open, Refusal};
use praas_protocol::{CallError, ProcessId};

use crate::backoff::Backoff;
use crate::deadline::Deadline;
use crate::destination::Destination;
use crate::error::{LaneVerdict, RequestError};
use crate::function::Function;
use crate::limits::{BACKOFF_REFUSED_MAX, FUTURES_WAITING_MAX, MOVED_HOPS_MAX, REQUEST_DEADLINE};
use crate::payload::{Given, Payload};
use crate::remote::binding::Binding;
use crate::remote::calls::{Settlement, Ticket};
use crate::remote::dialing::{DialError, Wish};
use crate::remote::link::Link;
use crate::remote::pending::RemotePending;
use crate::remote::questions::{Question, QuestionAnswer};
use crate::remote::server::{RemoteClient, Server, ask, refused};
use crate::reply::Reply;
use crate::session::lock;

/// What clones of a process and its calls share.
pub(crate) struct RemoteProcess {
    destination: Destination,
    dedicated: bool,
    client: Arc<RemoteClient>,
    binding: ArcSwap<Binding>,
    /// The server that is asked for the process: the client's own, or the one that it moved to.
    server: Mutex<Arc<Server>>,
    opening: Mutex<bool>,
    opened: Condvar,
    seats: Mutex<Seats>,
}

/// Futures that wait for a way.
#[derive(Default)]
struct Seats {
    waiting: BTreeMap<u64, Sitting>,
    last_number: u64,
    running: bool,
}

struct Sitting {
    waker: Waker,
    end: Instant,
    verdict: Option<CallError>,
}

/// A future's place among those that wait for a way; given up when dropped.
pub(super) struct Seat {
    process: Arc<RemoteProcess>,
    number: u64,
}

impl Seat {
    /// Why there will be no way, if that was found.
    pub(super) fn take_verdict(&self) -> Option<CallError> {
        lock(&self.process.seats).waiting.get_mut(&self.number)?.verdict.take()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let sitting = lock(&self.process.seats).waiting.remove(&self.number);
        drop(sitting);
    }
}

impl RemoteProcess {
    pub(crate) fn open(
        client: Arc<RemoteClient>,
        destination: Destination,
        dedicated: bool,
    ) -> Result<Arc<Self>, RequestError> {
        let home = Arc::clone(client.home());
        let end = Instant::now() + REQUEST_DEADLINE;
        let (server, binding) = find(&client, &destination, dedicated, home, end)?;
        Ok(Arc::new(Self {
            destination,
            dedicated,
            client,
            binding: ArcSwap::from_pointee(binding),
            server: Mutex::new(server),
            opening: Mutex::new(false),
            opened: Condvar::new(),
            seats: Mutex::default(),
        }))
    }

    pub(crate) fn id(&self) -> ProcessId {
        self.destination.id()
    }

    pub(crate) fn binding(&self) -> Arc<Binding> {
        self.binding.load_full()
    }

    pub(crate) fn call_deadline(&self) -> Duration {
        self.client.settings().call_deadline
    }

    pub(crate) fn deadline(&self, own: Option<Duration>) -> Deadline {
        self.client.settings().deadline(own)
    }

    /// Calls and waits.
    #[inline]
    pub(crate) fn invoke(
        self: &Arc<Self>,
        function: Function<'_>,
        payload: Payload<'_>,
        own_deadline: Option<Duration>,
    ) -> Result<Reply, CallError> {
        self.invoke_headed(function, &[], payload, own_deadline)
    }

    /// The same with `head` before the payload, which is not copied behind it for that.
    #[inline]
    pub(crate) fn invoke_headed(
        self: &Arc<Self>,
        function: Function<'_>,
        head: &[u8],
        payload: Payload<'_>,
        own_deadline: Option<Duration>,
    ) -> Result<Reply, CallError> {
        let wait = |link: &Link, ticket: &Ticket, deadline: &mut Deadline| link.wait(ticket, deadline);
        self.invoke_waiting(function, head, payload, own_deadline, wait)
    }

    /// [`RemoteProcess::invoke`]; a large answer is received into `memory` where that is possible, and is the reply's then.
    pub(crate) fn invoke_into(
        self: &Arc<Self>,
        function: Function<'_>,
        payload: Payload<'_>,
        own_deadline: Option<Duration>,
        memory: &mut Vec<u8>,
    ) -> Result<Reply, CallError> {
        let wait = |link: &Link, ticket: &Ticket, deadline: &mut Deadline| link.wait_into(ticket, deadline, memory);
        self.invoke_waiting(function, &[], payload, own_deadline, wait)
    }

    /// The direct path, which leaves for [`RemotePending`] at the first thing out of the ordinary.
    #[inline]
    fn invoke_waiting(
        self: &Arc<Self>,
        function: Function<'_>,
        head: &[u8],
        payload: Payload<'_>,
        own_deadline: Option<Duration>,
        wait: impl FnOnce(&Link, &Ticket, &mut Deadline) -> Option<Settlement>,
    ) -> Result<Reply, CallError> {
        let mut deadline = self.deadline(own_deadline);
        let Some(bytes) = payload.bytes() else {
            return RemotePending::borrowing(self, function, behind(head, payload), deadline).finish();
        };
        let binding = self.binding.load();
        if head.len() + bytes.len() > binding.payload_bytes_max() as usize || !binding.is_usable() {
            return RemotePending::borrowing(self, function, behind(head, payload), deadline).finish();
        }
        match binding.link().send_call(binding.seat(), function.id(), None, [head, bytes], &mut deadline) {
            Err(error) => {
                let binding = Arc::clone(&binding);
                let payload = behind(head, payload);
                RemotePending::borrowing(self, function, payload, deadline).finish_refused(&binding, error)
            }
            Ok(ticket) => match wait(binding.link(), &ticket, &mut deadline) {
                Some(Settlement::Response(response, bytes)) if response.outcome_code == 0 => Ok(Reply::received(bytes)),
                end => {
                    let binding = Arc::clone(&binding);
                    let payload = behind(head, payload);
                    RemotePending::borrowing(self, function, payload, deadline).finish_ended(binding, ticket, end)
                }
            },
        }
    }

    /// Whether calls may go the current way.
    pub(crate) fn has_way(&self) -> bool {
        self.binding.load().is_usable()
    }

    /// Makes sure that there is a way, looking for one if nobody else does.
    pub(crate) fn find_way(&self, end: Instant) -> Result<(), LaneVerdict> {
        let Some(_turn) = self.take_turn(end)? else { return Ok(()) };
        let server = Arc::clone(&lock(&self.server));
        match find(&self.client, &self.destination, self.dedicated, server, end) {
            Ok((server, binding)) => {
                *lock(&self.server) = server;
                self.binding.store(Arc::new(binding));
                Ok(())
            }
            Err(RequestError::TimedOut { .. }) if Instant::now() >= end => Err(out_of_time()),
            Err(error) => {
                // Where it had moved to it is no longer, or nobody answers there: the first server knows best.
                *lock(&self.server) = Arc::clone(self.client.home());
                Err(self.destination.verdict(&error))
            }
        }
    }

    /// The process moved: `binding` leads nowhere any more.
    pub(super) fn moved(&self, binding: &Binding, to: &str) -> Result<(), RequestError> {
        let server = self.client.server_at(to)?;
        *lock(&self.server) = server;
        binding.close();
        Ok(())
    }

    fn take_turn(&self, end: Instant) -> Result<Option<Turn<'_>>, LaneVerdict> {
        let mut opening = lock(&self.opening);
        loop {
            if self.has_way() {
                return Ok(None);
            }
            if !*opening {
                *opening = true;
                return Ok(Some(Turn { process: self }));
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(out_of_time());
            }
            opening = self.opened.wait_timeout(opening, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Has a thread look for a way, and `waker` woken when there is one, when there will be none, or at `end`.
    pub(super) fn sit(self: &Arc<Self>, seat: &mut Option<Seat>, waker: &Waker, end: Instant) -> Result<(), CallError> {
        let mut seats = lock(&self.seats);
        let number = match seat {
            Some(seat) => seat.number,
            None if seats.waiting.len() >= FUTURES_WAITING_MAX => {
                let limit = FUTURES_WAITING_MAX as u64;
                return Err(CallError::Overloaded { what: "the table of sleeping calls", used: limit, limit });
            }
            None => {
                seats.last_number += 1;
                *seat = Some(Seat { process: Arc::clone(self), number: seats.last_number });
                seats.last_number
            }
        };
        let before = seats.waiting.insert(number, Sitting { waker: waker.clone(), end, verdict: None });
        if !seats.running {
            let process = Arc::clone(self);
            let started = thread::Builder::new().name("praas-opener".into()).spawn(move || process.look_for_futures());
            seats.running = started.is_ok();
            if started.is_err() {
                return Err(CallError::Overloaded { what: "the host's room for threads", used: 0, limit: 0 });
            }
        }
        drop(seats);
        drop(before);
        Ok(())
    }

    /// Looks for a way until no future waits for one.
    fn look_for_futures(&self) {
        let mut backoff = Backoff::new(BACKOFF_REFUSED_MAX);
        loop {
            // First: whoever sits here was refused a moment ago.
            thread::sleep(backoff.pause());
            let first_end = {
                let mut seats = lock(&self.seats);
                let Some(first) = seats.waiting.values().map(|sitting| sitting.end).min() else {
                    seats.running = false;
                    return;
                };
                first
            };
            let verdict = match self.find_way(first_end.min(Instant::now() + REQUEST_DEADLINE)) {
                Ok(()) => Some(None),
                Err(LaneVerdict::Final(error)) => Some(Some(error)),
                Err(LaneVerdict::Later(_)) => None,
            };
            self.wake_seats(verdict.as_ref());
        }
    }

    /// Wakes all with a verdict, or else those whose time is up.
    fn wake_seats(&self, verdict: Option<&Option<CallError>>) {
        let mut wakers = Vec::new();
        let now = Instant::now();
        for sitting in lock(&self.seats).waiting.values_mut() {
            if let Some(verdict) = verdict {
                sitting.verdict.clone_from(verdict);
                wakers.push(sitting.waker.clone());
            } else if sitting.end <= now {
                wakers.push(sitting.waker.clone());
            }
        }
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// `payload` behind `head`, as one.
fn behind<'a>(head: &[u8], payload: Payload<'a>) -> Payload<'a> {
    if head.is_empty() {
        return payload;
    }
    match payload.0 {
        Given::Borrowed(bytes) => [head, bytes].concat().into(),
        Given::Owned(bytes) => [head, &bytes].concat().into(),
        Given::Loan(loan) => [head, &loan.into_content()].concat().into(),
    }
}

fn out_of_time() -> LaneVerdict {
    LaneVerdict::Later(CallError::ConnectionLost { may_have_run: false })
}

/// The right to look, given back whatever happens.
struct Turn<'a> {
    process: &'a RemoteProcess,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *lock(&self.process.opening) = false;
        self.process.opened.notify_all();
    }
}

/// Finds a way to `destination`, first at `server`, then where servers say that it moved.
fn find(
    client: &RemoteClient,
    destination: &Destination,
    dedicated: bool,
    server: Arc<Server>,
    end: Instant,
) -> Result<(Arc<Server>, Binding), RequestError> {
    match destination {
        Destination::Process(id) => find_process(client, *id, dedicated, server, end),
        // A session never moves.
        Destination::Session(registration) => {
            let link = client.link_until(&server, end)?;
            let limit = end.saturating_duration_since(Instant::now()).min(REQUEST_DEADLINE);
            let question = Question::Session(registration.question(client.settings()));
            match ask(&link, &question, limit)? {
                QuestionAnswer::SessionOpened(opened) => {
                    // Made first: its handle is given back whatever becomes of the answer.
                    let binding = Binding::of_session(link, &opened);
                    registration.note(opened.ticket, opened.incarnation, opened.resumed)?;
                    Ok((server, binding))
                }
                _ => Err(RequestError::Unexpected { what: "something else than a session" }),
            }
        }
    }
}

fn find_process(
    client: &RemoteClient,
    id: ProcessId,
    dedicated: bool,
    mut server: Arc<Server>,
    end: Instant,
) -> Result<(Arc<Server>, Binding), RequestError> {
    let settings = client.settings();
    let payload_bytes_max = settings.payload_bytes_max.unwrap_or(0);
    let in_flight_max = settings.calls_in_flight.unwrap_or(0);
    let mut moved_to = String::new();
    for _ in 0..=MOVED_HOPS_MAX {
        let mut refusal = None;
        if dedicated {
            let wish = Wish { process: id, payload_bytes_max, in_flight_max };
            match client.dial_worker(&server, wish, end) {
                Ok(link) => {
                    if let Some(answer) = link.greeting().handed_over {
                        return Ok((server, Binding::dedicated(link, &answer)));
                    }
                }
                Err(DialError::Connect(error)) => return Err(error.into()),
                Err(DialError::NotHandedOver(Refusal::Moved { to })) => {
                    server = client.server_at(&to)?;
                    moved_to = to;
                    continue;
                }
                Err(DialError::NotHandedOver(why)) if settles_all(&why) => return Err(refused(why)),
                Err(DialError::NotHandedOver(why)) => refusal = Some(why.to_string()),
            }
        }
        let link = client.link_until(&server, end)?;
        let open = Open { request_id: 0, process: id, payload_bytes_max, in_flight_max };
        let limit = end.saturating_duration_since(Instant::now()).min(REQUEST_DEADLINE);
        match ask(&link, &Question::Open(open), limit) {
            Ok(QuestionAnswer::Opened(opened)) => return Ok((server, Binding::brokered(link, &opened, refusal))),
            Ok(_) => return Err(RequestError::Unexpected { what: "something else than a handle" }),
            Err(RequestError::Moved { to }) => {
                server = client.server_at(&to)?;
                moved_to = to;
            }
            Err(error) => return Err(error),
        }
    }
    Err(RequestError::Moved { to: moved_to })
}

/// Whether a refusal to hand a connection over says that a brokered way would be refused as well, now at least.
fn settles_all(refusal: &Refusal) -> bool {
    use praas_protocol::control::ControlError;
    matches!(
        refusal,
        Refusal::Control(
            ControlError::UnknownProcess { .. }
                | ControlError::UnknownApplication { .. }
                | ControlError::WrongState { .. }
                | ControlError::WorkersFailed { .. }
                | ControlError::ShuttingDown
        )
    )
}

impl fmt::Debug for RemoteProcess {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("RemoteProcess")
            .field("destination", &self.destination)
            .field("binding", &**self.binding.load())
            .finish_non_exhaustive()
    }
}
