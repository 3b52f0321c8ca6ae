//! The mailbox against a model of plain queues: random puts, sends by several lanes of several sources, receives by several
//! workers, accepts, returns and deaths.
#![cfg(not(loom))]
#![allow(clippy::cast_possible_truncation, reason = "small numbers of a test's own")]

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use praas_protocol::Key;
use praas_protocol::message::{Accepted, Address, MessageId};
use praas_shm::WorkerTag;
use praas_shm::mail_bell::MailBell;
use praas_shm::mailbox::{InboundLane, MailError, Mailbox, NewMessage, Wanted};
use praas_shm::message_lane::{Inbound, Outbound, ServerMessageLane, geometry_for};
use praas_shm::objects::{Condition, Meta, Namespace, Objects, ObjectsLayout};
use proptest::prelude::*;

const LIMIT_BYTES: u64 = 1 << 20;
const WORKERS: u8 = 3;
/// Sources with lanes come first, each with as many; the last of them is on another host.
const SOURCES: [&str; 5] = ["laned-a", "laned-b", "remote-c", "put-d", "put-e"];
const LANED: usize = 3;
const REMOTE: usize = LANED - 1;
const LANES_EACH: usize = 2;
const KEYS: [&str; 3] = ["k", "another key", "a key that is longer than the others, so long that it takes some words"];

#[derive(Debug, Clone)]
enum Operation {
    /// By a lane if the source has some, else by a put.
    Send {
        source: usize,
        lane: usize,
        key: usize,
        bytes: usize,
    },
    /// Puts the last message of a source again, however it was sent.
    Repeat {
        source: usize,
    },
    /// Puts a message of the remote source that then comes by a lane as well.
    PutAndSend {
        lane: usize,
        key: usize,
        bytes: usize,
    },
    Take {
        worker: u8,
        from: From,
        key: usize,
        accept: bool,
    },
    Peek {
        worker: u8,
        from: From,
        key: usize,
    },
    AcceptAll {
        worker: u8,
    },
    ReleaseAll {
        worker: u8,
    },
    Die {
        worker: u8,
    },
    /// Something else in the same heap.
    PutObject {
        key: usize,
        bytes: usize,
    },
    Check,
}

#[derive(Debug, Clone)]
enum From {
    Any,
    Of(Vec<usize>),
}

fn operations() -> impl Strategy<Value = Operation> {
    let sizes = prop_oneof![4 => 0..100_usize, 2 => 100..400_usize, 1 => 400..9000_usize, 1 => Just(30_000)];
    let from = || {
        let some = prop::collection::vec(0..SOURCES.len(), 1..4).prop_map(From::Of);
        prop_oneof![1 => Just(From::Any), 1 => some]
    };
    let (worker, key) = (|| 0..WORKERS, || 0..KEYS.len());
    prop_oneof![
        12 => (0..SOURCES.len(), 0..LANES_EACH, key(), sizes)
            .prop_map(|(source, lane, key, bytes)| Operation::Send { source, lane, key, bytes }),
        2 => (REMOTE..SOURCES.len()).prop_map(|source| Operation::Repeat { source }),
        1 => (0..LANES_EACH, key(), 0..2000_usize)
            .prop_map(|(lane, key, bytes)| Operation::PutAndSend { lane, key, bytes }),
        12 => (worker(), from(), key(), any::<bool>())
            .prop_map(|(worker, from, key, accept)| Operation::Take { worker, from, key, accept }),
        1 => (worker(), from(), key()).prop_map(|(worker, from, key)| Operation::Peek { worker, from, key }),
        2 => worker().prop_map(|worker| Operation::AcceptAll { worker }),
        1 => worker().prop_map(|worker| Operation::ReleaseAll { worker }),
        1 => worker().prop_map(|worker| Operation::Die { worker }),
        1 => (0..20_usize, 0..20_000_usize).prop_map(|(key, bytes)| Operation::PutObject { key, bytes }),
        1 => Just(Operation::Check),
    ]
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Message {
    id: MessageId,
    bytes: Vec<u8>,
    redelivered: bool,
}

/// Who holds messages of a queue.
#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Message>,
    held: Vec<Message>,
    holder: Option<u8>,
}

impl Queue {
    fn next_for(&self, worker: u8) -> Option<&Message> {
        if self.holder.is_none_or(|holder| holder == worker) { self.waiting.front() } else { None }
    }

    /// What its holder has goes back.
    fn give_back(&mut self) {
        for message in self.held.drain(..).rev() {
            self.waiting.push_front(Message { redelivered: true, ..message });
        }
        self.holder = None;
    }
}

struct World {
    objects: Arc<Objects>,
    bell: MailBell,
    mailboxes: Vec<Option<Mailbox>>,
    lives: Vec<u16>,
    lanes: Vec<Vec<(ServerMessageLane, Outbound)>>,
    queues: BTreeMap<(usize, usize), Queue>,
    sequences: [u64; SOURCES.len()],
    last_sent: BTreeMap<usize, (usize, Message)>,
}

fn source(index: usize) -> Address {
    SOURCES[index].parse().unwrap()
}

fn key(index: usize) -> Key<'static> {
    Key::new(KEYS[index]).unwrap()
}

impl World {
    fn new() -> Self {
        let objects = Arc::new(Objects::create(ObjectsLayout::for_limit(LIMIT_BYTES).unwrap()).unwrap());
        let bell = MailBell::create().unwrap();
        let lane = |_| {
            let server = ServerMessageLane::create(geometry_for(64 << 10)).unwrap();
            let fd = server.fd().try_clone_to_owned().unwrap();
            let bell = MailBell::attach(bell.fd().try_clone_to_owned().unwrap()).unwrap();
            let sender = Outbound::attach(fd, &server.geometry(), bell).unwrap();
            (server, sender)
        };
        let lanes = (0..LANED).map(|_| (0..LANES_EACH).map(lane).collect()).collect();
        let mut world = Self {
            objects,
            bell,
            mailboxes: (0..WORKERS).map(|_| None).collect(),
            lives: vec![0; usize::from(WORKERS)],
            lanes,
            queues: BTreeMap::new(),
            sequences: [0; SOURCES.len()],
            last_sent: BTreeMap::new(),
        };
        (0..WORKERS).for_each(|worker| world.start(worker));
        world
    }

    fn start(&mut self, worker: u8) {
        self.lives[usize::from(worker)] += 1;
        let tag = self.tag(worker);
        let bell = MailBell::attach(self.bell.fd().try_clone_to_owned().unwrap()).unwrap();
        let mailbox = Mailbox::new(Arc::clone(&self.objects), tag, bell).unwrap();
        for (index, (server, _)) in self.lanes.iter().flatten().enumerate() {
            let inbound = Inbound::attach(server.fd().try_clone_to_owned().unwrap(), &server.geometry()).unwrap();
            let source = source(index / LANES_EACH);
            let repeats = index / LANES_EACH == REMOTE;
            mailbox.add_lane(InboundLane { slot: index as u16, serial: 5, source, inbound, repeats }).unwrap();
        }
        self.mailboxes[usize::from(worker)] = Some(mailbox);
    }

    fn tag(&self, worker: u8) -> WorkerTag {
        WorkerTag::new(worker, self.lives[usize::from(worker)])
    }

    fn mailbox(&self, worker: u8) -> &Mailbox {
        self.mailboxes[usize::from(worker)].as_ref().unwrap()
    }

    fn mailbox_mut(&mut self, worker: u8) -> &mut Mailbox {
        self.mailboxes[usize::from(worker)].as_mut().unwrap()
    }

    fn send(&mut self, from: usize, lane: usize, to: usize, bytes: usize) {
        self.sequences[from] += 1;
        let id = MessageId { incarnation: 1, sequence: self.sequences[from] };
        let message = Message { id, bytes: vec![id.sequence as u8; bytes], redelivered: false };
        if from < LANED {
            match self.lanes[from][lane].1.try_send(id, key(to), &message.bytes) {
                Ok(_) => {}
                Err(error) if error.is_full() => return,
                Err(error) => panic!("{error}"),
            }
        } else {
            match self.put(from, to, &message) {
                Ok(accepted) => assert_eq!(accepted, Accepted::Now),
                Err(MailError::Full { .. }) => return,
                Err(error) => panic!("{error}"),
            }
        }
        self.last_sent.insert(from, (to, message.clone()));
        self.queues.entry((from, to)).or_default().waiting.push_back(message);
    }

    fn put(&self, from: usize, to: usize, message: &Message) -> Result<Accepted, MailError> {
        let new =
            NewMessage { source: &source(from), id: message.id, key: key(to), bytes: &message.bytes, repeats: true };
        self.mailbox(0).put(&new)
    }

    fn put_and_send(&mut self, lane: usize, to: usize, bytes: usize) {
        self.sequences[REMOTE] += 1;
        let id = MessageId { incarnation: 1, sequence: self.sequences[REMOTE] };
        let message = Message { id, bytes: vec![id.sequence as u8; bytes], redelivered: false };
        match self.put(REMOTE, to, &message) {
            Ok(accepted) => assert_eq!(accepted, Accepted::Now),
            Err(MailError::Full { .. }) => return,
            Err(error) => panic!("{error}"),
        }
        match self.lanes[REMOTE][lane].1.try_send(id, key(to), &message.bytes) {
            Ok(()) => {}
            Err(error) => assert!(error.is_full(), "{error}"),
        }
        self.last_sent.insert(REMOTE, (to, message.clone()));
        self.queues.entry((REMOTE, to)).or_default().waiting.push_back(message);
    }

    /// Receives as an operation says and compares with the model; the sources that could have been served.
    fn take(&mut self, worker: u8, from: &From, on: usize, accept: bool) {
        let listed = match from {
            From::Any => (0..SOURCES.len()).collect(),
            From::Of(list) => list.clone(),
        };
        let addresses: Vec<Address> = listed.iter().map(|&index| source(index)).collect();
        let wanted = match from {
            From::Any => Wanted::Any,
            From::Of(list) if list.len() == 1 => Wanted::One(&addresses[0]),
            From::Of(_) => Wanted::Of(&addresses),
        };
        let mut queues = std::mem::take(&mut self.queues);
        let next = |index: usize| queues.get(&(index, on)).and_then(|queue| queue.next_for(worker));
        let may_be: Vec<usize> = listed.iter().copied().filter(|&index| next(index).is_some()).collect();
        let received = match self.mailbox(worker).take(wanted, key(on)) {
            Ok(received) => received,
            // What waits in lanes may find no memory.
            Err(MailError::Full { .. }) => None,
            Err(error) => panic!("{error}"),
        };
        match received {
            None => {
                // Only what still lies in a lane for want of memory may be missing.
                let is_tight = self.objects.usage().free_bytes < 40_000;
                assert!(may_be.is_empty() || is_tight, "nothing from {may_be:?}");
            }
            Some(received) => {
                let source_received = received.source().unwrap();
                let index = SOURCES.iter().position(|&name| source_received == name.parse().unwrap()).unwrap();
                assert!(may_be.contains(&index), "{index} is none of {may_be:?}");
                let queue = queues.get_mut(&(index, on)).unwrap();
                let message = queue.waiting.pop_front().unwrap();
                assert_eq!((received.id(), received.bytes()), (message.id, &message.bytes[..]));
                assert_eq!(received.is_redelivered(), message.redelivered);
                if accept {
                    received.accept().unwrap();
                } else {
                    queue.held.push(message);
                    queue.holder = Some(worker);
                }
            }
        }
        self.queues = queues;
    }

    fn peek(&self, worker: u8, from: &From, on: usize) {
        let listed: Vec<usize> = match from {
            From::Any => (0..SOURCES.len()).collect(),
            From::Of(list) => list.clone(),
        };
        let addresses: Vec<Address> = listed.iter().map(|&index| source(index)).collect();
        let wanted = if matches!(from, From::Any) { Wanted::Any } else { Wanted::Of(&addresses) };
        if let Some(peeked) = self.mailbox(worker).peek(wanted, key(on)).unwrap() {
            let is_next = |&index: &usize| {
                source(index) == peeked.source
                    && self.queues.get(&(index, on)).and_then(|queue| queue.next_for(worker)).is_some_and(|next| {
                        next.id == peeked.id && next.bytes == peeked.bytes && next.redelivered == peeked.is_redelivered
                    })
            };
            assert!(listed.iter().any(is_next), "{peeked:?} is not next");
        }
    }

    fn queues_of(&mut self, worker: u8) -> impl Iterator<Item = &mut Queue> {
        self.queues.values_mut().filter(move |queue| queue.holder == Some(worker))
    }

    fn apply(&mut self, operation: &Operation) {
        match *operation {
            Operation::Send { source, lane, key, bytes } => self.send(source, lane, key, bytes),
            Operation::Repeat { source } => {
                if let Some((to, message)) = self.last_sent.get(&source).cloned() {
                    match self.put(source, to, &message) {
                        // What came by a lane before it finds no memory.
                        Err(MailError::Full { .. }) if source == REMOTE => {}
                        put => assert_eq!(put, Ok(Accepted::Before)),
                    }
                }
            }
            Operation::PutAndSend { lane, key, bytes } => self.put_and_send(lane, key, bytes),
            Operation::Take { worker, ref from, key, accept } => self.take(worker, from, key, accept),
            Operation::Peek { worker, ref from, key } => self.peek(worker, from, key),
            Operation::AcceptAll { worker } => {
                self.mailbox_mut(worker).accept_all().unwrap();
                for queue in self.queues_of(worker) {
                    queue.held.clear();
                    queue.holder = None;
                }
            }
            Operation::ReleaseAll { worker } => {
                self.mailbox_mut(worker).release_all().unwrap();
                self.queues_of(worker).for_each(Queue::give_back);
            }
            Operation::Die { worker } => {
                self.objects.recover(self.tag(worker)).unwrap();
                self.mailboxes[usize::from(worker)] = None;
                self.queues_of(worker).for_each(Queue::give_back);
                self.start(worker);
            }
            Operation::PutObject { key, bytes } => {
                let store = self.objects.worker_store(self.tag(0)).unwrap();
                let name = format!("{key}");
                let name = praas_shm::objects::Key::new(Namespace::USER, &name).unwrap();
                let _ = store.put(&name, &vec![1; bytes], Meta::RAW, Condition::Any);
            }
            Operation::Check => self.check(),
        }
    }

    fn check(&self) {
        let checked = self.objects.check().unwrap().mail;
        let held: usize = self.queues.values().map(|queue| queue.held.len()).sum();
        assert_eq!((checked.held, checked.unfinished), (held as u64, 0));
    }

    /// Everything is received at last, and nothing is left anywhere.
    fn finish(mut self) {
        for worker in 0..WORKERS {
            self.mailbox_mut(worker).release_all().unwrap();
            self.queues_of(worker).for_each(Queue::give_back);
        }
        let left = |world: &Self| world.queues.values().map(|queue| queue.waiting.len()).sum::<usize>();
        while left(&self) > 0 {
            let before = left(&self);
            (0..KEYS.len()).for_each(|key| self.take(1, &From::Any, key, true));
            assert!(left(&self) < before, "{before} messages are never received");
        }
        // What came twice is still to be dropped.
        assert!(self.mailbox(1).take(Wanted::Any, key(0)).unwrap().is_none());
        assert!(self.lanes.iter().flatten().all(|(server, _)| server.is_drained()));
        let checked = self.objects.check().unwrap().mail;
        assert_eq!((checked.queued, checked.held, checked.unfinished), (0, 0, 0));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_mailbox_does_what_queues_do(operations in prop::collection::vec(operations(), 1..300)) {
        let mut world = World::new();
        for operation in &operations {
            world.apply(operation);
        }
        world.check();
        world.finish();
    }
}
