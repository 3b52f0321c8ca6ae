//! Messages that are claimed in their lane are held as any other: whoever else looks, whatever else happens meanwhile.
#![cfg(not(loom))]
#![allow(clippy::cast_possible_truncation, reason = "small numbers of a test's own")]

use std::collections::VecDeque;
use std::sync::Arc;

use praas_protocol::Key;
use praas_protocol::message::{Accepted, Address, MessageId};
use praas_shm::WorkerTag;
use praas_shm::mail_bell::MailBell;
use praas_shm::mailbox::{InboundLane, Mailbox, NewMessage, Received, Wanted};
use praas_shm::message_lane::{Inbound, Outbound, ServerMessageLane, geometry_for};
use praas_shm::objects::{self, Condition, Meta, Namespace, Objects, ObjectsLayout, StateError};

const LIMIT_BYTES: u64 = 1 << 20;
const KEY: &str = "k";

fn address(name: &str) -> Address {
    name.parse().unwrap()
}

fn key(text: &str) -> Key<'_> {
    Key::new(text).unwrap()
}

/// A process with two workers, and its only lane.
struct Process {
    objects: Arc<Objects>,
    workers: [Mailbox; 2],
    server: ServerMessageLane,
    sender: Outbound,
    sent: u64,
}

impl Process {
    fn new() -> Self {
        let objects = Arc::new(Objects::create(ObjectsLayout::for_limit(LIMIT_BYTES).unwrap()).unwrap());
        let server = ServerMessageLane::create(geometry_for(64 << 10)).unwrap();
        let fd = || server.fd().try_clone_to_owned().unwrap();
        let sender = Outbound::attach(fd(), &server.geometry(), MailBell::create().unwrap()).unwrap();
        let worker = |index| {
            let tag = WorkerTag::new(index, 1);
            let mailbox = Mailbox::new(Arc::clone(&objects), tag, MailBell::create().unwrap()).unwrap();
            let inbound = Inbound::attach(fd(), &server.geometry()).unwrap();
            let lane = InboundLane { slot: 3, serial: 9, source: address("lane"), inbound, repeats: false };
            mailbox.add_lane(lane).unwrap();
            mailbox
        };
        let workers = [worker(0), worker(1)];
        Self { objects, workers, server, sender, sent: 0 }
    }

    /// The same when the first worker knows the way, and a block is spare.
    fn that_knows() -> Self {
        let mut process = Self::new();
        process.send(KEY, 8);
        take(&process.workers[0]).expect("it has come").accept().unwrap();
        process
    }

    fn send(&mut self, text: &str, bytes: usize) -> u64 {
        self.sent += 1;
        let id = MessageId { incarnation: 1, sequence: self.sent };
        self.sender.try_send(id, key(text), &vec![self.sent as u8; bytes]).unwrap();
        self.sent
    }

    /// Takes the next message as the first worker, which must not be a mutation.
    fn claim(&self) -> Received<'_> {
        let before = self.objects.position();
        let claimed = take(&self.workers[0]).expect("it has come");
        assert_eq!(self.objects.position(), before, "it was not claimed but taken");
        self.objects.check().unwrap();
        claimed
    }
}

fn take(mailbox: &Mailbox) -> Option<Received<'_>> {
    mailbox.take(Wanted::One(&address("lane")), key(KEY)).unwrap()
}

fn put(mailbox: &Mailbox, sequence: u64) {
    let id = MessageId { incarnation: 1, sequence };
    let new = NewMessage { source: &address("a"), id, key: key("other"), bytes: &[sequence as u8; 9], repeats: false };
    assert_eq!(mailbox.put(&new), Ok(Accepted::Now));
}

#[test]
fn what_is_alone_is_claimed_and_leaves_its_lane_when_it_is_accepted() {
    let mut process = Process::that_knows();
    for bytes in [0, 1, 8, 63, 64] {
        let sequence = process.send(KEY, bytes);
        let claimed = process.claim();
        assert_eq!((claimed.id().sequence, claimed.bytes()), (sequence, &vec![sequence as u8; bytes][..]));
        assert_eq!((claimed.source(), claimed.is_redelivered()), (Ok(address("lane")), false));
        assert_eq!((process.workers[0].held(), process.workers[0].usage().messages), (1, 1));
        assert!(!process.server.is_drained());
        claimed.accept().unwrap();
        assert_eq!((process.workers[0].held(), process.workers[0].usage().messages), (0, 0));
        assert!(process.server.is_drained(), "the lane was not told");
    }
}

#[test]
fn nobody_else_receives_what_comes_behind_a_claim_until_it_is_accepted() {
    let mut process = Process::that_knows();
    process.send(KEY, 10);
    process.send(KEY, 11);
    let claimed = process.claim();
    let place = claimed.bytes().as_ptr();
    assert!(take(&process.workers[1]).is_none());
    assert_eq!((claimed.bytes().as_ptr(), claimed.bytes()), (place, &[2; 10][..]), "its bytes have moved");
    claimed.accept().unwrap();
    assert_eq!(take(&process.workers[1]).expect("nobody holds it").bytes(), [3; 11]);
}

#[test]
fn a_claimed_message_whose_call_fails_goes_to_another_worker_as_redelivered() {
    let mut process = Process::that_knows();
    process.send(KEY, 10);
    assert_eq!(process.claim().bytes(), [2; 10]);
    process.workers[0].release_all().unwrap();
    let taken = take(&process.workers[1]).expect("it was given back");
    assert!(taken.is_redelivered());
    taken.accept().unwrap();
    assert!(process.server.is_drained());
}

#[test]
fn a_claim_of_the_dead_is_given_back_and_that_of_the_living_stays() {
    let mut process = Process::that_knows();
    process.send(KEY, 10);
    let claimed = process.claim();
    process.objects.recover(WorkerTag::new(1, 1)).unwrap();
    process.objects.check().unwrap();
    assert!(take(&process.workers[1]).is_none(), "the first worker holds it");
    assert_eq!(claimed.bytes(), [2; 10]);
    process.objects.recover(WorkerTag::new(0, 1)).unwrap();
    assert!(take(&process.workers[1]).expect("its holder is dead").is_redelivered());
}

#[test]
fn objects_that_need_room_leave_a_claimed_message_alone() {
    let mut process = Process::that_knows();
    process.send(KEY, 50);
    let store = process.objects.worker_store(WorkerTag::new(1, 1)).unwrap();
    let claimed = process.claim();
    let full = (0..1000).find_map(|number| {
        let name = format!("object {number}");
        let name = objects::Key::new(Namespace::USER, &name).unwrap();
        store.put(&name, &[1; 8000], Meta::RAW, Condition::Any).err()
    });
    assert!(matches!(full, Some(StateError::Full { .. })), "{full:?}");
    assert_eq!(claimed.bytes(), [2; 50]);
    claimed.accept().unwrap();
    process.objects.check().unwrap();
    assert!(take(&process.workers[1]).is_none());
    assert!(process.server.is_drained());
}

/// A message of the lane that was sent and is not accepted, and who has received it.
#[derive(Debug)]
struct Sent {
    sequence: u64,
    bytes: usize,
    holder: Option<usize>,
    is_redelivered: bool,
}

#[test]
fn whatever_two_workers_do_each_message_is_received_in_order_and_accepted_once() {
    let seed = std::env::var("PRAAS_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0x5eed_1234);
    println!("PRAAS_TEST_SEED={seed}");
    let mut random = seed | 1;
    let mut below = |limit: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % limit
    };
    let mut process = Process::that_knows();
    let mut model: VecDeque<Sent> = VecDeque::new();
    let (mut claims, mut puts) = (0, 0);
    for step in 0..20_000 {
        let at = below(2) as usize;
        match below(10) {
            0..=2 if model.len() < 12 => {
                let bytes = below(80) as usize;
                let sequence = process.send(KEY, bytes);
                model.push_back(Sent { sequence, bytes, holder: None, is_redelivered: false });
            }
            3..=6 => {
                let holder = model.iter().find_map(|sent| sent.holder);
                let next = model.iter_mut().find(|sent| sent.holder.is_none());
                let before = process.objects.position();
                let taken = take(&process.workers[at]);
                let Some(next) = next.filter(|_| holder.is_none_or(|holder| holder == at)) else {
                    assert!(taken.is_none(), "step {step}: a message that another worker comes before was received");
                    continue;
                };
                let taken = taken.unwrap_or_else(|| panic!("step {step}: {next:?} was not received"));
                claims += u64::from(process.objects.position() == before);
                assert_eq!((taken.id().sequence, taken.is_redelivered()), (next.sequence, next.is_redelivered));
                assert_eq!(taken.bytes(), vec![next.sequence as u8; next.bytes]);
                next.holder = Some(at);
                if below(2) == 0 {
                    taken.accept().unwrap();
                    let sequence = next.sequence;
                    model.retain(|sent| sent.sequence != sequence);
                }
            }
            7 => {
                process.workers[at].accept_all().unwrap();
                model.retain(|sent| sent.holder != Some(at));
            }
            8 => {
                process.workers[at].release_all().unwrap();
                for sent in model.iter_mut().filter(|sent| sent.holder == Some(at)) {
                    (sent.holder, sent.is_redelivered) = (None, true);
                }
            }
            9 if below(4) == 0 => {
                puts += 1;
                put(&process.workers[at], puts);
                let other = process.workers[1 - at].take(Wanted::Any, key("other")).unwrap().expect("it was put");
                assert_eq!(other.bytes(), [puts as u8; 9]);
                other.accept().unwrap();
            }
            _ => process.objects.check().map(drop).unwrap(),
        }
        let held = |at| model.iter().filter(|sent| sent.holder == Some(at)).count() as u64;
        assert_eq!([0, 1].map(|at| process.workers[at].held()), [0, 1].map(held), "step {step}");
    }
    assert!(claims > 100, "{claims} claims are too few to prove anything");
}
