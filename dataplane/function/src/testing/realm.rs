//! What several harnesses have in common: the processes of one application by name, and the message lanes among them.
//!
//! A message lane belongs to its receiver. It stays when its sender is gone, until what is in it was taken.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use praas_protocol::control::{ControlError, MessageLaneSlot, ProcessState, WorkerCommand};
use praas_protocol::limits::MESSAGE_LANES_MAX;
use praas_protocol::{Address, Name, ProcessId};
use praas_shm::directory::{Directory, DirectorySlot, ListedProcess};
use praas_shm::mail_bell::MailBell;
use praas_shm::message_lane::{ServerMessageLane, geometry_for};

use super::call_lanes::Callable;
use super::host::HarnessError;
use super::listener::Line;

/// The application that harnesses pretend to be of.
const APPLICATION: &str = "testing";

/// One worker that sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SenderId {
    pub(super) source: Address,
    pub(super) incarnation: u64,
    pub(super) worker: u8,
}

/// The processes of one application.
pub(super) struct Realm {
    directory: Mutex<Directory>,
    mailboxes: Mutex<BTreeMap<Address, Arc<Mailboxes>>>,
    callables: Mutex<BTreeMap<Name, Arc<Callable>>>,
    incarnation_last: AtomicU64,
    serial_last: AtomicU64,
}

/// A process, as far as others send to it.
pub(super) struct Mailboxes {
    pub(super) bell: MailBell,
    payload_bytes_max: u32,
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
    line: Arc<Line>,
    lane: ServerMessageLane,
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
        }
    }
}

impl Realm {
    pub(super) fn new() -> Result<Self, HarnessError> {
        Ok(Self {
            directory: Mutex::new(Directory::create()?),
            mailboxes: Mutex::default(),
            callables: Mutex::default(),
            incarnation_last: AtomicU64::new(0),
            serial_last: AtomicU64::new(0),
        })
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
    pub(super) fn enter(&self, name: Name, payload_bytes_max: u32) -> Result<Arc<Mailboxes>, HarnessError> {
        let mut mailboxes = self.mailboxes();
        let address = Address::Process(name);
        if mailboxes.contains_key(&address) {
            return Err(HarnessError::ProcessExists { name });
        }
        let (bell, parts) = (MailBell::create()?, Mutex::default());
        let listed = ListedProcess { name, state: ProcessState::Active };
        // A test that has more processes than fit goes without the last ones in the list.
        let listed = Mutex::new(self.directory().enter(listed).ok());
        let mailbox = Arc::new(Mailboxes { bell, payload_bytes_max, listed, parts });
        mailboxes.insert(address, Arc::clone(&mailbox));
        Ok(mailbox)
    }

    /// Lets a process be called by others.
    pub(super) fn enter_callable(&self, name: Name, callable: &Arc<Callable>) {
        self.callables.lock().unwrap_or_else(PoisonError::into_inner).insert(name, Arc::clone(callable));
    }

    pub(super) fn callable(&self, name: Name) -> Option<Arc<Callable>> {
        self.callables.lock().unwrap_or_else(PoisonError::into_inner).get(&name).cloned()
    }

    pub(super) fn open_call_lane(&self, line: &Arc<Line>, sender: &SenderId, request: u32, process: Name) {
        let unknown = || unknown(&Address::Process(process));
        let Address::Process(caller) = sender.source else { return };
        let opened = self.callable(process).ok_or_else(unknown).and_then(|called| called.open(line, caller, request));
        if let Err(error) = opened {
            let _ = line.tell(&WorkerCommand::Refused { request, error }, &[]);
        }
    }

    /// A process has ended: what leads to it leads nowhere.
    pub(super) fn leave(&self, name: Name) {
        let callable = self.callables.lock().unwrap_or_else(PoisonError::into_inner).remove(&name);
        callable.inspect(|callable| callable.end(name));
        let Some(mailbox) = self.mailboxes().remove(&Address::Process(name)) else { return };
        let listed = mailbox.listed.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(slot) = listed {
            self.directory().leave(slot);
        }
        let mut parts = mailbox.parts();
        for inbound in parts.lanes.drain(..).filter(|inbound| inbound.stands == Stands::Open) {
            // A sender that is gone needs no telling.
            let _ = inbound.line.tell(&WorkerCommand::MessageLaneGone { serial: inbound.serial }, &[]);
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
        let mailbox = self.mailboxes().get(&to).cloned().ok_or_else(|| unknown(&to))?;
        let mut parts = mailbox.parts();
        parts.sweep(&mailbox.bell);
        let slot = parts.free_slot()?;
        let serial = self.serial_last.fetch_add(1, Ordering::Relaxed) + 1;
        let lane = ServerMessageLane::create(geometry_for(payload_bytes)).map_err(host("making a message lane"))?;
        let (sender, line) = (*sender, Arc::clone(line));
        let inbound = Inbound { slot, serial, sender, line, lane, stands: Stands::Open };
        for worker in &parts.workers {
            worker.tell(&inbound.announcement(), &[inbound.lane.fd()]).map_err(host("telling a worker"))?;
        }
        mailbox.bell.ring();
        let geometry = inbound.lane.geometry();
        let payload_bytes_max = geometry.arena_bytes.min(mailbox.payload_bytes_max);
        let opened = WorkerCommand::MessageLaneOpened { request, serial, geometry, payload_bytes_max };
        let fds = [inbound.lane.fd(), mailbox.bell.fd()];
        inbound.line.tell(&opened, &fds).map_err(host("telling the sender"))?;
        parts.lanes.push(inbound);
        Ok(())
    }

    pub(super) fn close_message_lane(&self, serial: u64) {
        self.orphan(|inbound| inbound.serial == serial);
    }

    /// A worker is gone: what it sent stays.
    pub(super) fn forget_sender(&self, sender: &SenderId) {
        self.orphan(|inbound| inbound.sender == *sender);
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
        (0..limit).map(MessageLaneSlot).find(is_free).ok_or(ControlError::LimitReached {
            what: "message lanes of a mailbox".to_owned(),
            used: limit.into(),
            limit: limit.into(),
            asked: 1,
            advice: "let fewer workers send to it".to_owned(),
        })
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

fn unknown(to: &Address) -> ControlError {
    match to {
        Address::Process(name) => ControlError::UnknownProcess { process: process_id(*name) },
        Address::Client(_) => ControlError::Protocol { reason: "a harness has no client sessions".to_owned() },
    }
}

pub(super) fn host<E: std::fmt::Display>(what: &'static str) -> impl FnOnce(E) -> ControlError {
    move |error| ControlError::Host { what: what.to_owned(), reason: error.to_string() }
}
