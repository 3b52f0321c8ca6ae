//! The gateway of a harness: serves the call lanes that lead to processes of other hosts, as the test has it, and to sessions.
//!
//! One thread a realm, which begins with the first such lane. The lanes and both their ends are the real ones, and so are the
//! mailboxes; only the network is missing between them, and in its stead there is a [`Link`] that breaks when it is told.
//! What a server's gateway answers in each case is answered here, too.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use praas_protocol::control::LaneId;
use praas_protocol::message::{
    AWAIT_ROOM_FUNCTION, Accepted, DELIVER_FUNCTION, DELIVER_NEXT_FUNCTION, PUT_FUNCTION, PutHead, codes, decode_room,
};
use praas_protocol::{FunctionId, Outcome, Phase};
use praas_shm::gateway_lane::{GatewayLane, TakenRequest};
use praas_shm::server_lane::ServerLane;
use praas_sys::doorbell::Doorbell;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;

use super::far::Far;
use super::link::{Fate, Link};
use super::room::SessionRoom;

/// Time between two looks at what tells nobody when it changes: room in a mailbox, answers of workers.
const LOOK_PERIOD: Duration = Duration::from_millis(1);

/// Longest sleep while nothing is waited for.
const SLEEP_MAX: Duration = Duration::from_millis(100);

/// Where the lanes of a gateway lead.
pub(super) enum Target {
    /// To a process of another host.
    Far(Box<Far>),
    /// To a session.
    Session(Box<SessionRoom>),
}

/// A lane that is to be served.
pub(super) struct NewLane {
    pub(super) gateway: GatewayLane,
    /// Kept as long as it is served.
    pub(super) server: ServerLane,
    pub(super) target: Target,
}

pub(super) enum Order {
    Serve(Box<NewLane>),
    Close(LaneId),
    End,
}

/// The thread, as others see it.
pub(super) struct Gateway {
    orders: Sender<Order>,
    pub(super) bell: Arc<Doorbell>,
    thread: Option<JoinHandle<()>>,
}

impl Gateway {
    pub(super) fn start(link: &Link, bell: &Arc<Doorbell>) -> std::io::Result<Self> {
        let (orders, heard) = channel();
        let (link, own_bell) = (link.clone(), Arc::clone(bell));
        let thread = std::thread::Builder::new()
            .name("gateway".to_owned())
            .spawn(move || Loop { link, bell: own_bell, orders: heard, lanes: Vec::new(), is_ended: false }.run())?;
        Ok(Self { orders, bell: Arc::clone(bell), thread: Some(thread) })
    }

    pub(super) fn order(&self, order: Order) {
        // A thread that has panicked has said so.
        let _ = self.orders.send(order);
        self.bell.ring();
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.order(Order::End);
        // The last one to let go of a realm may be this very thread.
        if let Some(thread) = self.thread.take().filter(|thread| thread.thread().id() != std::thread::current().id()) {
            let _ = thread.join();
        }
    }
}

/// What is answered: outcome, two words of detail, payload.
pub(super) struct Reply {
    pub(super) outcome: Outcome,
    pub(super) detail: u32,
    pub(super) more: u32,
    pub(super) bytes: Vec<u8>,
}

impl Reply {
    pub(super) fn plain(outcome: Outcome) -> Self {
        Self { outcome, detail: 0, more: 0, bytes: Vec::new() }
    }

    pub(super) fn accepted(accepted: Accepted) -> Self {
        Self { bytes: vec![accepted as u8], ..Self::plain(Outcome::Ok) }
    }

    pub(super) fn failed(code: u32, message: &str) -> Self {
        Self { detail: code, bytes: message.as_bytes().to_vec(), ..Self::plain(Outcome::FunctionFailed) }
    }

    fn lost(may_have_run: bool) -> Self {
        Self { detail: may_have_run.into(), ..Self::plain(Outcome::ConnectionLost) }
    }

    fn is_full(&self) -> bool {
        self.outcome == Outcome::FunctionFailed && matches!(self.detail, codes::MAILBOX_FULL | codes::BUSY)
    }
}

/// A request with the time until which its caller waits.
pub(super) struct Call {
    pub(super) request: TakenRequest,
    pub(super) end: Instant,
}

/// A lane that is served.
struct Served {
    gateway: GatewayLane,
    /// Only kept.
    _server: ServerLane,
    target: Target,
    /// Deliveries of this lane are refused, as full.
    is_refusing: bool,
    /// Deliveries of this lane are refused, because one before them may be lost.
    is_lost: bool,
    /// What waits for the link.
    waiting: Vec<Call>,
    /// Who waits for room, for how many bytes.
    rooms: Vec<(Call, usize)>,
    breaks_seen: u64,
}

struct Loop {
    link: Link,
    bell: Arc<Doorbell>,
    orders: Receiver<Order>,
    lanes: Vec<Served>,
    is_ended: bool,
}

impl Loop {
    fn run(mut self) {
        while !self.is_ended {
            self.bell.drain();
            self.obey();
            let mut is_busy = false;
            for served in &mut self.lanes {
                is_busy |= served.serve(&self.link);
            }
            if !is_busy {
                self.sleep();
            }
        }
    }

    fn obey(&mut self) {
        while let Ok(order) = self.orders.try_recv() {
            match order {
                Order::Serve(new) => self.lanes.push(Served::new(*new, &self.link)),
                Order::Close(lane) => self.lanes.retain(|served| served.gateway.id() != lane),
                Order::End => self.is_ended = true,
            }
        }
    }

    fn sleep(&mut self) {
        let waits = self.lanes.iter().any(Served::waits);
        if GatewayLane::park(self.lanes.iter_mut().map(|served| &mut served.gateway)) {
            let limit = if waits { LOOK_PERIOD } else { SLEEP_MAX };
            let limit = Timespec { tv_sec: 0, tv_nsec: limit.subsec_nanos().into() };
            let mut fds = [PollFd::from_borrowed_fd(self.bell.listen.as_fd(), PollFlags::IN)];
            // Interrupted or not, everything is looked at.
            let _ = poll(&mut fds, Some(&limit));
        }
        self.lanes.iter_mut().for_each(|served| served.gateway.attend());
    }
}

impl Served {
    fn new(NewLane { gateway, server, target }: NewLane, link: &Link) -> Self {
        let (waiting, rooms, breaks_seen) = (Vec::new(), Vec::new(), link.breaks());
        Self { gateway, _server: server, target, is_refusing: false, is_lost: false, waiting, rooms, breaks_seen }
    }

    fn waits(&self) -> bool {
        let forwards = matches!(&self.target, Target::Far(far) if far.has_calls());
        forwards || !self.waiting.is_empty() || !self.rooms.is_empty()
    }

    /// Takes what has come and answers what can be; whether there was anything.
    fn serve(&mut self, link: &Link) -> bool {
        self.look_at_link(link);
        let mut is_busy = false;
        while let Some(request) = self.gateway.take() {
            is_busy = true;
            let left = Duration::from_nanos(request.time_left_ns);
            let call = Call { request, end: Instant::now() + left };
            self.take_in(call, link);
        }
        self.go_on(link) | is_busy
    }

    fn is_far(&self) -> bool {
        matches!(self.target, Target::Far(_))
    }

    /// A link that has broken leaves what was on its way in doubt.
    fn look_at_link(&mut self, link: &Link) {
        if self.is_far() && std::mem::replace(&mut self.breaks_seen, link.breaks()) != self.breaks_seen {
            self.lose_calls();
        }
    }

    fn lose_calls(&mut self) {
        if let Target::Far(far) = &mut self.target {
            for target in far.forget_calls() {
                answer(&mut self.gateway, target, &Reply::lost(true));
            }
        }
    }

    fn take_in(&mut self, call: Call, link: &Link) {
        let waits = self.is_far() && (link.is_cut() || !self.waiting.is_empty());
        if waits { self.waiting.push(call) } else { self.pass(call, link) }
    }

    /// What waited for the link passes it, what waits for room looks again, and answers come back.
    fn go_on(&mut self, link: &Link) -> bool {
        let now = Instant::now();
        if !link.is_cut() {
            for call in std::mem::take(&mut self.waiting) {
                self.pass(call, link);
            }
        }
        for call in self.waiting.extract_if(.., |call| call.end <= now) {
            let closed = Phase::Closed as u32;
            answer(
                &mut self.gateway,
                call.request.target,
                &Reply { detail: closed, ..Reply::plain(Outcome::Unavailable) },
            );
        }
        self.look_for_room(now);
        let Target::Far(far) = &mut self.target else { return false };
        let answers = far.take_answers();
        for (target, reply) in &answers {
            answer(&mut self.gateway, *target, reply);
        }
        !answers.is_empty()
    }

    fn look_for_room(&mut self, now: Instant) {
        let Self { gateway, target, rooms, .. } = self;
        for (call, bytes) in std::mem::take(rooms) {
            let has_room = match target {
                Target::Far(far) => far.has_room(bytes),
                Target::Session(room) => room.has_room(),
            };
            if has_room {
                answer(gateway, call.request.target, &Reply::plain(Outcome::Ok));
            } else if call.end <= now {
                answer(gateway, call.request.target, &Reply::plain(Outcome::DeadlineExceeded));
            } else {
                rooms.push((call, bytes));
            }
        }
    }

    fn pass(&mut self, call: Call, link: &Link) {
        let is = |function| call.request.function == FunctionId::of(function);
        if is(DELIVER_FUNCTION) {
            (self.is_refusing, self.is_lost) = (false, false);
            self.deliver(&call, link);
        } else if is(DELIVER_NEXT_FUNCTION) {
            self.deliver(&call, link);
        } else if is(AWAIT_ROOM_FUNCTION) {
            let bytes = decode_room(&call.request.payload.into_vec()).unwrap_or(u64::MAX);
            let request =
                TakenRequest { payload: praas_shm::gateway_lane::TakenBytes::Private(Vec::new()), ..call.request };
            self.rooms.push((Call { request, end: call.end }, usize::try_from(bytes).unwrap_or(usize::MAX)));
        } else if is(PUT_FUNCTION) {
            self.put(call, link);
        } else {
            let target = call.request.target;
            match &mut self.target {
                Target::Far(far) => {
                    if let Some(refused) = far.forward(call) {
                        answer(&mut self.gateway, target, &refused);
                    }
                }
                Target::Session(_) => answer(&mut self.gateway, target, &Reply::plain(Outcome::UnknownFunction)),
            }
        }
    }

    /// The first transmission of a message.
    fn deliver(&mut self, call: &Call, link: &Link) {
        let target = call.request.target;
        if self.is_lost {
            return answer(&mut self.gateway, target, &Reply::lost(false));
        }
        if self.is_refusing {
            let refused = Reply::failed(codes::MAILBOX_FULL, "an earlier message found no room");
            return answer(&mut self.gateway, target, &refused);
        }
        let fate = if self.is_far() { link.next_fate() } else { Fate::Arrives };
        let payload = match &call.request.payload {
            praas_shm::gateway_lane::TakenBytes::Private(bytes) => bytes.clone(),
            praas_shm::gateway_lane::TakenBytes::Block(block) => block.to_vec(),
        };
        let reply = if fate == Fate::Lost {
            Reply::lost(true)
        } else {
            match PutHead::decode(&payload) {
                Ok((head, bytes)) => match &mut self.target {
                    Target::Far(far) => far.deliver(&head, bytes),
                    Target::Session(room) => room.put(&head, bytes),
                },
                Err(error) => Reply::failed(codes::BAD_REQUEST, &error.to_string()),
            }
        };
        self.is_refusing = reply.is_full();
        self.end_message(target, fate, &reply);
    }

    /// A repetition.
    fn put(&mut self, call: Call, link: &Link) {
        let target = call.request.target;
        match &mut self.target {
            Target::Session(room) => {
                let payload = call.request.payload.into_vec();
                let reply = match PutHead::decode(&payload) {
                    Ok((head, bytes)) => room.put(&head, bytes),
                    Err(error) => Reply::failed(codes::BAD_REQUEST, &error.to_string()),
                };
                answer(&mut self.gateway, target, &reply);
            }
            Target::Far(far) => {
                let fate = link.next_fate();
                if fate != Fate::Lost
                    && let Some(refused) = far.forward(call)
                {
                    answer(&mut self.gateway, target, &refused);
                }
                if fate != Fate::Arrives {
                    self.end_message(target, fate, &Reply::lost(true));
                }
            }
        }
    }

    /// Answers as the fate of the message wants it.
    fn end_message(&mut self, target: u64, fate: Fate, reply: &Reply) {
        if fate == Fate::Arrives {
            return answer(&mut self.gateway, target, reply);
        }
        self.is_lost = true;
        answer(&mut self.gateway, target, &Reply::lost(true));
    }
}

fn answer(gateway: &mut GatewayLane, target: u64, reply: &Reply) {
    gateway.reply(target, reply.outcome, reply.detail, reply.more, &reply.bytes);
    gateway.ring_if_owed();
}
