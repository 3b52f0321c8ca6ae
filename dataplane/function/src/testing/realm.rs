//! What several harnesses have in common: the processes of one application by name, on the hosts that a test pretends to have,
//! the sessions of its clients, and the message lanes among them.
//!
//! A message lane belongs to its receiver. It stays when its sender is gone, until what is in it was taken. None leads to a
//! session, or from one host to another: that is the gateway's part.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use praas_protocol::control::{ControlError, LaneId, MessageLaneSlot, ProcessState, WorkerCommand};
use praas_protocol::limits::{CELLS_DEFAULT, MESSAGE_LANES_MAX};
use praas_protocol::{Address, Name, ProcessId, SessionId};
use praas_shm::client_lane::ClientLaneParts;
use praas_shm::control_page::ControlPage;
use praas_shm::directory::{Directory, DirectorySlot, ListedProcess};
use praas_shm::gateway_lane::{GatewayLane, GatewayLaneParts};
use praas_shm::layout;
use praas_shm::mail_bell::MailBell;
use praas_shm::message_lane::{ServerMessageLane, geometry_for};
use praas_shm::objects::Objects;
use praas_shm::server_lane::ServerLane;
use praas_sys::doorbell::Doorbell;

use super::call_lanes::Callable;
use super::far::{Far, GivenLane};
use super::gateway::{Gateway, NewLane, Order, Target};
use super::host::HarnessError;
use super::link::Link;
use super::listener::Line;
use super::room::SessionRoom;

/// As whom sessions would call.
pub(super) const SESSION_PRINCIPAL: &str = "session";

/// The application that harnesses pretend to be of.
const APPLICATION: &str = "testing";

/// One worker that sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SenderId {
    pub(super) source: Address,
    pub(super) incarnation: u64,
    pub(super) worker: u8,
    pub(super) host: HostNumber,
}

/// One of the hosts that a test pretends to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HostNumber(pub(super) u32);

/// The processes of one application.
pub(super) struct Realm {
    directory: Mutex<Directory>,
    mailboxes: Mutex<BTreeMap<Address, Arc<Mailboxes>>>,
    callables: Mutex<BTreeMap<Name, Arc<Callable>>>,
    incarnation_last: AtomicU64,
    serial_last: AtomicU64,
    host_last: AtomicU32,
    pub(super) link: Link,
    /// Rung for whatever the gateway has to look at.
    gateway_bell: Arc<Doorbell>,
    gateway: Mutex<Option<Arc<Gateway>>>,
    /// Lanes that the gateway serves, with who has them.
    gateway_lanes: Mutex<Vec<GatewayLaneOwner>>,
}

/// A lane that the gateway serves.
struct GatewayLaneOwner {
    lane: LaneId,
    to: Address,
    caller: SenderId,
    line: Arc<Line>,
}

/// A process, as far as others send to it.
pub(super) struct Mailboxes {
    pub(super) bell: MailBell,
    payload_bytes_max: u32,
    host: HostNumber,
    /// Of a session, whose mailbox the gateway fills.
    session: Option<Arc<Objects>>,
    /// Where it is listed.
    listed: Mutex<Option<DirectorySlot>>,
    parts: Mutex<Parts>,
}

#[derive(Default)]
struct Parts {
    workers: Vec<Arc<Line>>,
    lanes: Vec<Inbound>,
}

struct Inbound {
    slot: MessageLaneSlot,
    serial: u64,
    sender: SenderId,
    /// Who is told when it leads nowhere; the gateway needs no telling.
    line: Option<Arc<Line>>,
    lane: ServerMessageLane,
    repeats: bool,
    stands: Stands,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stands {
    Open,
    /// Its sender is gone.
    Orphaned,
    /// So many workers have not forgotten it yet.
    Removing(usize),
}

impl Mailboxes {
    fn parts(&self) -> MutexGuard<'_, Parts> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more worker receives: it is told of all lanes that there are.
    pub(super) fn add_worker(&self, line: &Arc<Line>) -> Result<(), HarnessError> {
        let mut parts = self.parts();
        for inbound in &parts.lanes {
            line.tell(&inbound.announcement(), &[inbound.lane.fd()])?;
        }
        parts.workers.push(Arc::clone(line));
        Ok(())
    }
}

impl Inbound {
    fn announcement(&self) -> WorkerCommand {
        let Self { slot, serial, sender, lane, .. } = self;
        WorkerCommand::InboundLaneAdd {
            slot: *slot,
            serial: *serial,
            geometry: lane.geometry(),
            source: sender.source,
            incarnation: sender.incarnation,
            repeats: self.repeats,
        }
    }
}

impl Realm {
    pub(super) fn new() -> Result<Self, HarnessError> {
        let gateway_bell = Arc::new(Doorbell::new().map_err(std::io::Error::from)?);
        Ok(Self {
            directory: Mutex::new(Directory::create()?),
            mailboxes: Mutex::default(),
            callables: Mutex::default(),
            incarnation_last: AtomicU64::new(0),
            serial_last: AtomicU64::new(0),
            host_last: AtomicU32::new(0),
            link: Link::new(Arc::clone(&gateway_bell)),
            gateway_bell,
            gateway: Mutex::default(),
            gateway_lanes: Mutex::default(),
        })
    }

    /// A host that nobody is on yet.
    pub(super) fn next_host(&self) -> HostNumber {
        HostNumber(self.host_last.fetch_add(1, Ordering::Relaxed) + 1)
    }

    fn directory(&self) -> MutexGuard<'_, Directory> {
        self.directory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The list of processes, for a worker.
    pub(super) fn directory_fd(&self) -> Result<OwnedFd, HarnessError> {
        Ok(self.directory().fd().try_clone_to_owned()?)
    }

    fn mailboxes(&self) -> MutexGuard<'_, BTreeMap<Address, Arc<Mailboxes>>> {
        self.mailboxes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A higher number each time: which life of a process.
    pub(super) fn next_incarnation(&self) -> u64 {
        self.incarnation_last.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Enters a process.
    pub(super) fn enter(
        &self,
        name: Name,
        payload_bytes_max: u32,
        host: HostNumber,
    ) -> Result<Arc<Mailboxes>, HarnessError> {
        let mut mailboxes = self.mailboxes();
        let address = Address::Process(name);
        if mailboxes.contains_key(&address) {
            return Err(HarnessError::ProcessExists { name });
        }
        let (bell, parts) = (MailBell::create()?, Mutex::default());
        let listed = ListedProcess { name, state: ProcessState::Active };
        // A test that has more processes than fit goes without the last ones in the list.
        let listed = Mutex::new(self.directory().enter(listed).ok());
        let mailbox = Arc::new(Mailboxes { bell, payload_bytes_max, host, session: None, listed, parts });
        mailboxes.insert(address, Arc::clone(&mailbox));
        Ok(mailbox)
    }

    /// Enters a session of a client, whose mailbox lies in `objects`.
    pub(super) fn enter_session(
        &self,
        payload_bytes_max: u32,
        objects: &Arc<Objects>,
    ) -> Result<(SessionId, Arc<Mailboxes>), HarnessError> {
        let mut mailboxes = self.mailboxes();
        let number = mailboxes.keys().filter(|address| matches!(address, Address::Client(_))).count();
        let free = (number as u128 + 1..).map(SessionId).find(|session| !mailboxes.contains_key(&(*session).into()));
        let session = free.unwrap_or(SessionId(0));
        let mailbox = Arc::new(Mailboxes {
            bell: MailBell::create()?,
            payload_bytes_max,
            host: HostNumber(0),
            session: Some(Arc::clone(objects)),
            listed: Mutex::default(),
            parts: Mutex::default(),
        });
        mailboxes.insert(session.into(), Arc::clone(&mailbox));
        Ok((session, mailbox))
    }

    /// Lets a process be called by others.
    pub(super) fn enter_callable(&self, name: Name, callable: &Arc<Callable>) {
        self.callables.lock().unwrap_or_else(PoisonError::into_inner).insert(name, Arc::clone(callable));
    }

    pub(super) fn callable(&self, name: Name) -> Option<Arc<Callable>> {
        self.callables.lock().unwrap_or_else(PoisonError::into_inner).get(&name).cloned()
    }

    pub(super) fn open_call_lane(self: &Arc<Self>, line: &Arc<Line>, sender: &SenderId, request: u32, to: &Address) {
        let opened = match to {
            to if self.is_elsewhere(sender, to) => self.open_gateway_lane(line, sender, request, to),
            Address::Process(process) => self.try_open_call_lane(line, sender, request, *process),
            Address::Client(_) => Err(unknown(to)),
        };
        if let Err(error) = opened {
            let _ = line.tell(&WorkerCommand::Refused { request, error }, &[]);
        }
    }

    fn try_open_call_lane(
        &self,
        line: &Arc<Line>,
        sender: &SenderId,
        request: u32,
        process: Name,
    ) -> Result<(), ControlError> {
        let called = self.callable(process).ok_or_else(|| unknown(&process.into()))?;
        called.open(line, name_of(sender), request)
    }

    /// Whether the way from one to the other leads through the gateway.
    fn is_elsewhere(&self, sender: &SenderId, to: &Address) -> bool {
        self.mailboxes().get(to).is_some_and(|mailbox| mailbox.session.is_some() || mailbox.host != sender.host)
    }

    /// Has the gateway serve a lane for a worker.
    fn open_gateway_lane(
        self: &Arc<Self>,
        line: &Arc<Line>,
        sender: &SenderId,
        request: u32,
        to: &Address,
    ) -> Result<(), ControlError> {
        let mailbox = self.mailboxes().get(to).cloned().ok_or_else(|| unknown(to))?;
        let lane = LaneId(u32::try_from(self.serial_last.fetch_add(1, Ordering::Relaxed)).unwrap_or(u32::MAX));
        let target = match (&mailbox.session, to) {
            (Some(objects), _) => {
                let bell = mailbox.bell.fd().try_clone_to_owned().map_err(host("sharing a bell"))?;
                Target::Session(Box::new(SessionRoom::new(objects, bell)))
            }
            (None, Address::Process(process)) => Target::Far(Box::new(Far::new(self, *sender, *process))),
            (None, Address::Client(_)) => return Err(unknown(to)),
        };
        let payload_bytes_max = mailbox.payload_bytes_max;
        let geometry = layout::geometry_for(payload_bytes_max, CELLS_DEFAULT);
        let server = ServerLane::create(lane, geometry).map_err(host("making a lane"))?;
        let segment = server.segment_fd().try_clone_to_owned().map_err(host("sharing a lane"))?;
        let parts = GatewayLaneParts { lane, geometry, payload_bytes_max, segment, reply_doorbell: None };
        let gateway = GatewayLane::attach(parts).map_err(host("attaching a lane"))?;
        let page = ControlPage::create(1, 1).map_err(host("making a page"))?;
        let opened = WorkerCommand::CallLaneOpened {
            request,
            lane,
            geometry,
            payload_bytes_max,
            workers_max: 1,
            is_gateway: true,
        };
        line.tell(&opened, &[server.segment_fd(), page.fd(), self.gateway_bell.ring.as_fd()])
            .map_err(host("telling the caller"))?;
        let owner = GatewayLaneOwner { lane, to: *to, caller: *sender, line: Arc::clone(line) };
        self.gateway_lanes().push(owner);
        let serves = self.gateway()?;
        serves.order(Order::Serve(Box::new(NewLane { gateway, server, target })));
        Ok(())
    }

    fn gateway_lanes(&self) -> MutexGuard<'_, Vec<GatewayLaneOwner>> {
        self.gateway_lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The gateway, which begins with the first lane.
    fn gateway(&self) -> Result<Arc<Gateway>, ControlError> {
        let mut gateway = self.gateway.lock().unwrap_or_else(PoisonError::into_inner);
        match &*gateway {
            Some(serves) => Ok(Arc::clone(serves)),
            None => {
                let started = Gateway::start(&self.link, &self.gateway_bell).map_err(host("starting the gateway"))?;
                Ok(Arc::clone(gateway.insert(Arc::new(started))))
            }
        }
    }

    /// Ends the gateway's lanes that are meant, and tells those who have them.
    fn close_gateway_lanes(&self, is_meant: impl Fn(&GatewayLaneOwner) -> bool) {
        let closed: Vec<_> = self.gateway_lanes().extract_if(.., |owner| is_meant(owner)).collect();
        let Some(gateway) = self.gateway.lock().unwrap_or_else(PoisonError::into_inner).clone() else { return };
        for GatewayLaneOwner { lane, to, line, .. } in closed {
            gateway.order(Order::Close(lane));
            // A worker that is gone already needs no telling.
            let _ = line.tell(&WorkerCommand::CallLaneGone { lane, to }, &[]);
        }
    }

    /// A caller is done with a lane, or says that nobody takes its request.
    pub(super) fn close_call_lane(&self, sender: &SenderId, lane: LaneId, to: &Address) {
        self.close_gateway_lanes(|owner| owner.lane == lane && owner.caller == *sender && owner.to == *to);
        if let Address::Process(process) = to
            && !self.is_elsewhere(sender, to)
        {
            self.callable(*process).inspect(|called| called.close(lane));
        }
    }

    /// A caller says that nobody takes its request.
    pub(super) fn ring_call_lane(&self, sender: &SenderId, lane: LaneId, to: &Address) {
        match to {
            to if self.is_elsewhere(sender, to) => self.gateway_bell.ring(),
            Address::Process(process) => {
                self.callable(*process).inspect(|called| called.ring(lane));
            }
            Address::Client(_) => {}
        }
    }

    /// A lane for messages to a process of another host, for the gateway.
    pub(super) fn give_message_lane(
        &self,
        sender: &SenderId,
        to: Address,
        payload_bytes: u32,
    ) -> Result<GivenLane, ControlError> {
        let mailbox = self.mailboxes().get(&to).cloned().ok_or_else(|| unknown(&to))?;
        let mut parts = mailbox.parts();
        let lane = self.add_lane(&mailbox, &mut parts, sender, None, payload_bytes)?;
        let what = "sharing a message lane";
        Ok(GivenLane {
            serial: lane.serial,
            geometry: lane.lane.geometry(),
            payload_bytes_max: lane.lane.geometry().arena_bytes.min(mailbox.payload_bytes_max),
            lane: lane.lane.fd().try_clone_to_owned().map_err(host(what))?,
            bell: mailbox.bell.fd().try_clone_to_owned().map_err(host(what))?,
        })
    }

    /// A lane for calls of a process of another host, for the gateway.
    pub(super) fn give_call_lane(&self, sender: &SenderId, to: Name) -> Result<ClientLaneParts, ControlError> {
        let called = self.callable(to).ok_or_else(|| unknown(&to.into()))?;
        called.open_for_gateway(name_of(sender))
    }

    /// A process or session has ended: what leads to it leads nowhere.
    pub(super) fn leave(&self, address: Address) {
        if let Address::Process(name) = address {
            let callable = self.callables.lock().unwrap_or_else(PoisonError::into_inner).remove(&name);
            callable.inspect(|callable| callable.end(name));
        }
        let Some(mailbox) = self.mailboxes().remove(&address) else { return };
        self.close_gateway_lanes(|owner| owner.to == address);
        let listed = mailbox.listed.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(slot) = listed {
            self.directory().leave(slot);
        }
        let mut parts = mailbox.parts();
        for inbound in parts.lanes.drain(..).filter(|inbound| inbound.stands == Stands::Open) {
            let Some(line) = inbound.line else { continue };
            // A sender that is gone needs no telling.
            let _ = line.tell(&WorkerCommand::MessageLaneGone { serial: inbound.serial }, &[]);
        }
        parts.workers.clear();
    }

    pub(super) fn open_message_lane(
        &self,
        line: &Arc<Line>,
        sender: &SenderId,
        request: u32,
        to: Address,
        payload_bytes: u32,
    ) {
        if let Err(error) = self.try_open(line, sender, request, to, payload_bytes) {
            let _ = line.tell(&WorkerCommand::Refused { request, error }, &[]);
        }
    }

    fn try_open(
        &self,
        line: &Arc<Line>,
        sender: &SenderId,
        request: u32,
        to: Address,
        payload_bytes: u32,
    ) -> Result<(), ControlError> {
        if self.is_elsewhere(sender, &to) {
            return Err(ControlError::Elsewhere { to });
        }
        let mailbox = self.mailboxes().get(&to).cloned().ok_or_else(|| unknown(&to))?;
        let mut parts = mailbox.parts();
        let inbound = self.add_lane(&mailbox, &mut parts, sender, Some(line), payload_bytes)?;
        let (serial, geometry) = (inbound.serial, inbound.lane.geometry());
        let payload_bytes_max = geometry.arena_bytes.min(mailbox.payload_bytes_max);
        let opened = WorkerCommand::MessageLaneOpened { request, serial, geometry, payload_bytes_max };
        line.tell(&opened, &[inbound.lane.fd(), mailbox.bell.fd()]).map_err(host("telling the sender"))
    }

    /// A new lane to a mailbox, which its workers know of. Without a line, it is the gateway's.
    fn add_lane<'parts>(
        &self,
        mailbox: &Mailboxes,
        parts: &'parts mut Parts,
        sender: &SenderId,
        line: Option<&Arc<Line>>,
        payload_bytes: u32,
    ) -> Result<&'parts Inbound, ControlError> {
        parts.sweep(&mailbox.bell);
        let slot = parts.free_slot()?;
        let serial = self.serial_last.fetch_add(1, Ordering::Relaxed) + 1;
        let lane = ServerMessageLane::create(geometry_for(payload_bytes)).map_err(host("making a message lane"))?;
        let (repeats, stands) = (line.is_none(), Stands::Open);
        let inbound = Inbound { slot, serial, sender: *sender, line: line.cloned(), lane, repeats, stands };
        for worker in &parts.workers {
            worker.tell(&inbound.announcement(), &[inbound.lane.fd()]).map_err(host("telling a worker"))?;
        }
        mailbox.bell.ring();
        parts.lanes.push(inbound);
        parts.lanes.last().ok_or_else(no_slot)
    }

    pub(super) fn close_message_lane(&self, serial: u64) {
        self.orphan(|inbound| inbound.serial == serial);
    }

    /// A worker is gone: what it sent stays.
    pub(super) fn forget_sender(&self, sender: &SenderId) {
        self.orphan(|inbound| inbound.sender == *sender);
        self.close_gateway_lanes(|owner| owner.caller == *sender);
    }

    fn orphan(&self, is_meant: impl Fn(&Inbound) -> bool) {
        let mailboxes: Vec<_> = self.mailboxes().values().cloned().collect();
        for mailbox in mailboxes {
            let mut parts = mailbox.parts();
            for inbound in parts.lanes.iter_mut().filter(|inbound| is_meant(inbound)) {
                inbound.stands = Stands::Orphaned;
            }
            parts.sweep(&mailbox.bell);
        }
    }

    pub(super) fn message_lane_detached(&self, receiver: &Address, slot: MessageLaneSlot) {
        let Some(mailbox) = self.mailboxes().get(receiver).cloned() else { return };
        mailbox.parts().lanes.retain_mut(|inbound| match &mut inbound.stands {
            Stands::Removing(workers) if inbound.slot == slot => {
                *workers -= 1;
                *workers > 0
            }
            _ => true,
        });
    }
}

impl Parts {
    fn free_slot(&self) -> Result<MessageLaneSlot, ControlError> {
        let limit = u16::try_from(MESSAGE_LANES_MAX).unwrap_or(u16::MAX);
        let is_free = |slot: &MessageLaneSlot| self.lanes.iter().all(|inbound| inbound.slot != *slot);
        (0..limit).map(MessageLaneSlot).find(is_free).ok_or_else(no_slot)
    }

    /// Has the workers forget lanes without senders that are empty.
    fn sweep(&mut self, bell: &MailBell) {
        let Self { workers, lanes } = self;
        for inbound in lanes.iter_mut() {
            if inbound.stands == Stands::Orphaned && inbound.lane.is_drained() {
                inbound.stands = Stands::Removing(workers.len());
                for worker in workers.iter() {
                    let _ = worker.tell(&WorkerCommand::InboundLaneRemove { slot: inbound.slot }, &[]);
                }
                bell.ring();
            }
        }
    }
}

/// The id of a process of the harness's application.
pub(super) fn process_id(process: Name) -> ProcessId {
    ProcessId { application: APPLICATION.parse().expect("a constant name"), process }
}

fn no_slot() -> ControlError {
    let limit = MESSAGE_LANES_MAX as u64;
    ControlError::LimitReached {
        what: "message lanes of a mailbox".to_owned(),
        used: limit,
        limit,
        asked: 1,
        advice: "let fewer workers send to it".to_owned(),
    }
}

/// The name of a process that calls; sessions call nobody.
fn name_of(sender: &SenderId) -> Name {
    match sender.source {
        Address::Process(name) => name,
        Address::Client(_) => SESSION_PRINCIPAL.parse().expect("a constant name"),
    }
}

fn unknown(to: &Address) -> ControlError {
    match to {
        Address::Process(name) => ControlError::UnknownProcess { process: process_id(*name) },
        Address::Client(session) => ControlError::UnknownSession { session: *session },
    }
}

pub(super) fn host<E: std::fmt::Display>(what: &'static str) -> impl FnOnce(E) -> ControlError {
    move |error| ControlError::Host { what: what.to_owned(), reason: error.to_string() }
}
