//! Lanes that are closed under their senders, as their receiver leaves memory: each message is taken once or refused, in the
//! order of its source, whoever sends meanwhile, and at whatever store the server dies.
#![cfg(not(loom))]
#![allow(clippy::cast_possible_truncation, reason = "small numbers of a test's own")]

#[path = "support/messages.rs"]
mod messages;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;

use praas_protocol::control::MessageLaneGeometry;
use praas_protocol::message::{Accepted, Address};
use praas_shm::WorkerTag;
use praas_shm::mail_bell::MailBell;
use praas_shm::mailbox::{InboundLane, MailError, Mailbox, NewMessage, Wanted};
use praas_shm::message_lane::{Inbound, Outbound, SendError, ServerMessageLane, Wanting, segment_bytes};
use praas_shm::objects::steps::observe;
use praas_shm::objects::{Condition, Key as ObjectKey, Meta, Namespace, Objects, ObjectsLayout};
use praas_shm::swap::{QuietCut, close_lanes};

use messages::{Host, PATIENCE, SMALL, copy_of, id, key, pattern};

const WORKER: WorkerTag = WorkerTag::new(0, 1);
const LIMIT_BYTES: u64 = 1 << 20;
const TINY: MessageLaneGeometry = MessageLaneGeometry { entries: 8, blocks: 8, arena_bytes: 64 << 10 };

fn segment(limit_bytes: u64) -> Arc<Objects> {
    Arc::new(Objects::create(ObjectsLayout::for_limit(limit_bytes).unwrap()).unwrap())
}

fn source(number: usize) -> Address {
    format!("sender-{number}").parse().unwrap()
}

fn lane(slot: u16, from: usize, inbound: Inbound) -> InboundLane {
    InboundLane { slot, serial: 100 + u64::from(slot), source: source(from), inbound, repeats: false }
}

/// The payload of a message: small, empty, or in a block.
fn payload(sequence: u64) -> Vec<u8> {
    pattern([10, 0, 3000, 150, 9000][sequence as usize % 5], sequence)
}

/// Source, sequence and mark of each message of a cut, whose payloads are checked.
fn kept(objects: &Arc<Objects>) -> Vec<(Address, u64, bool)> {
    objects.check().unwrap();
    let cut = QuietCut::begin(Arc::clone(objects)).unwrap();
    let mail = cut.remainder().unwrap().mail;
    mail.into_iter()
        .map(|kept| {
            let sequence = kept.message.id.sequence;
            assert!(kept.message.payload == payload(sequence), "payload of message {sequence}");
            (kept.message.source, sequence, kept.is_redelivered)
        })
        .collect()
}

#[test]
fn what_lies_in_lanes_comes_in_the_order_of_its_source_and_whoever_sends_later_is_told() {
    let objects = segment(LIMIT_BYTES);
    let hosts = [(); 3].map(|()| Host::new(SMALL));
    let mut senders = hosts.each_ref().map(Host::sender);
    let inbound = |index: usize| Inbound::attach(copy_of(hosts[index].lane.fd()), &SMALL).unwrap();
    // Two lanes of one source, and one of another.
    let lanes = |inbound: &dyn Fn(usize) -> Inbound| {
        vec![lane(0, 0, inbound(0)), lane(1, 0, inbound(1)), lane(2, 1, inbound(2))]
    };
    for sequence in 1..=9 {
        senders[if sequence % 3 == 0 { 1 } else { 0 }].try_send(id(sequence), key("k"), &payload(sequence)).unwrap();
        senders[2].try_send(id(sequence), key("k"), &payload(sequence)).unwrap();
    }
    {
        // A worker takes some of them: one is accepted, one held when it dies, the others queued with payloads in lanes.
        let mailbox = Mailbox::new(Arc::clone(&objects), WORKER, hosts[0].bell()).unwrap();
        lanes(&inbound).into_iter().for_each(|lane| mailbox.add_lane(lane).unwrap());
        let from = source(0);
        let first = mailbox.take(Wanted::One(&from), key("k")).unwrap().unwrap();
        assert_eq!(first.id().sequence, 1);
        first.accept().unwrap();
        assert!(mailbox.take(Wanted::One(&from), key("k")).unwrap().is_some(), "it is held from now on");
        std::mem::forget(mailbox);
    }
    objects.recover(WORKER).unwrap();
    let came = close_lanes(&objects, lanes(&|index| hosts[index].lane.inbound())).unwrap();
    assert!(came <= 18, "{came}");
    let all = kept(&objects);
    let of = |from: usize| {
        let of_it = all.iter().filter(|(address, ..)| *address == source(from));
        of_it.map(|&(_, sequence, is_redelivered)| (sequence, is_redelivered)).collect::<Vec<_>>()
    };
    assert_eq!(of(0), (2..=9).map(|sequence| (sequence, sequence == 2)).collect::<Vec<_>>());
    assert_eq!(of(1), (1..=9).map(|sequence| (sequence, false)).collect::<Vec<_>>());
    for (sender, host) in senders.iter_mut().zip(&hosts) {
        assert!(
            sender.wait_for_room(Wanting::Message { key_bytes: 1, payload_bytes: 60 << 10 }, PATIENCE),
            "all is given back"
        );
        for sequence in [10, 11, 12] {
            let refused = sender.try_send(id(sequence), key("k"), &payload(sequence));
            assert!(matches!(refused, Err(SendError::Closed { .. })), "{refused:?}");
        }
        let mut loan = sender.loan(5000).unwrap();
        loan[..5].copy_from_slice(b"hello");
        let (loan, refused) = sender.send_loan(loan, id(13), key("k")).unwrap_err();
        assert!(matches!(refused, SendError::Closed { .. }) && !refused.is_full(), "{refused}");
        assert_eq!(&loan[..5], b"hello");
        drop(loan);
        assert!(host.lane.is_drained());
    }
    // Closing what is closed changes nothing.
    assert_eq!(close_lanes(&objects, lanes(&|index| hosts[index].lane.inbound())), Ok(0));
    assert_eq!(kept(&objects), all);
}

#[test]
fn what_is_sent_while_lanes_are_closed_is_taken_once_or_refused() {
    let seed = std::env::var("PRAAS_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        u64::from(now.subsec_nanos()) | 1
    });
    println!("PRAAS_SEED={seed}");
    for round in 0..60_u64 {
        let objects = segment(8 << 20);
        let hosts: Vec<_> = (0..3).map(|_| Host::new(SMALL)).collect();
        let accepted: Vec<u64> = thread::scope(|scope| {
            let senders: Vec<_> = hosts
                .iter()
                .map(|host| {
                    let mut sender = host.sender();
                    scope.spawn(move || {
                        for sequence in 1.. {
                            let bytes = payload(sequence);
                            let wanting = Wanting::Message { key_bytes: 1, payload_bytes: bytes.len() };
                            loop {
                                match sender.try_send(id(sequence), key("k"), &bytes) {
                                    Ok(()) => break,
                                    Err(SendError::Closed { accepted }) => {
                                        assert_eq!(accepted, sequence - 1);
                                        return accepted;
                                    }
                                    Err(error) => assert!(error.is_full(), "{error}"),
                                }
                                sender.wait_for_room(wanting, PATIENCE);
                            }
                        }
                        unreachable!("a lane is closed in the end")
                    })
                })
                .collect();
            let mut mixed = (seed ^ round.wrapping_mul(0x9e37_79b9_7f4a_7c15)) | 1;
            mixed ^= mixed << 13;
            mixed ^= mixed >> 7;
            (0..mixed % 2000).for_each(|_| std::hint::spin_loop());
            let lanes = || {
                let lanes = (0..).zip(&hosts);
                lanes.map(|(slot, host)| lane(slot, usize::from(slot), host.lane.inbound())).collect()
            };
            // A refusal for want of a moment without a full ring is tried again.
            while let Err(error) = close_lanes(&objects, lanes()) {
                assert!(matches!(error, MailError::LanesBusy { .. }), "{error}");
            }
            senders.into_iter().map(|sender| sender.join().unwrap()).collect()
        });
        let all = kept(&objects);
        for (from, accepted) in accepted.into_iter().enumerate() {
            let taken: Vec<_> =
                all.iter().filter(|(address, ..)| *address == source(from)).map(|found| found.1).collect();
            assert!(taken.iter().copied().eq(1..=accepted), "sender {from}: {accepted} were accepted, taken {taken:?}");
        }
    }
}

#[test]
fn without_room_for_all_it_is_refused_and_what_is_left_is_received_as_ever() {
    let objects = segment(256 << 10);
    let host = Host::new(MessageLaneGeometry { arena_bytes: 1 << 20, ..SMALL });
    let mut sender = host.sender();
    for sequence in 1..=6 {
        sender.try_send(id(sequence), key("k"), &pattern(60 << 10, sequence)).unwrap();
    }
    let error = close_lanes(&objects, vec![lane(0, 0, host.lane.inbound())]).unwrap_err();
    assert!(matches!(error, MailError::Full { .. }), "{error}");
    objects.check().unwrap();
    let mailbox = Mailbox::new(Arc::clone(&objects), WORKER, host.bell()).unwrap();
    mailbox.add_lane(lane(0, 0, host.lane.inbound())).unwrap();
    for sequence in 1..=6 {
        let message = mailbox.take(Wanted::Any, key("k")).unwrap().unwrap();
        assert_eq!(message.id().sequence, sequence);
        assert!(message.bytes() == pattern(60 << 10, sequence));
        message.accept().unwrap();
    }
    assert!(host.lane.is_drained());
}

#[test]
fn a_process_without_lanes_and_messages_gets_no_table() {
    let objects = segment(LIMIT_BYTES);
    let before = objects.usage();
    assert_eq!(close_lanes(&objects, Vec::new()), Ok(0));
    assert_eq!(objects.usage(), before);
    let store = objects.worker_store(WORKER).unwrap();
    let named = ObjectKey::new(Namespace::USER, "key").unwrap();
    store.put(&named, b"value", Meta::RAW, Condition::Any).unwrap();
    assert!(matches!(close_lanes(&objects, Vec::new()), Err(MailError::Busy { .. })), "a worker has its row");
}

/// All that a segment and its lanes have.
struct Images(Vec<u8>, Vec<Vec<u8>>);

fn read(fd: std::os::fd::BorrowedFd<'_>, bytes: usize) -> Vec<u8> {
    let mut image = vec![0; bytes];
    assert_eq!(rustix::io::pread(fd, &mut image, 0).unwrap(), bytes);
    image
}

fn images(objects: &Objects, lanes: &[ServerMessageLane]) -> Images {
    let of_lane = |lane: &ServerMessageLane| read(lane.fd(), segment_bytes(&lane.geometry()).unwrap());
    Images(read(objects.fd(), objects.layout().segment_bytes()), lanes.iter().map(of_lane).collect())
}

fn restore(objects: &Objects, lanes: &[ServerMessageLane], Images(segment, of_lanes): &Images) {
    assert_eq!(rustix::io::pwrite(objects.fd(), segment, 0).unwrap(), segment.len());
    for (lane, image) in lanes.iter().zip(of_lanes) {
        assert_eq!(rustix::io::pwrite(lane.fd(), image, 0).unwrap(), image.len());
    }
}

/// After each store of the server the segment and the lanes are copied: what a `kill -9` would leave. The next server goes on,
/// and everything is there once.
#[test]
fn a_server_that_dies_at_any_store_leaves_what_the_next_one_takes() {
    let make = || (0..2).map(|_| ServerMessageLane::create(TINY).unwrap()).collect::<Vec<_>>();
    let lanes_of = |lanes: &[ServerMessageLane]| {
        let lanes = (0..).zip(lanes);
        lanes.map(|(slot, server)| lane(slot, usize::from(slot), server.inbound())).collect::<Vec<_>>()
    };
    let (objects, lanes) = (segment(256 << 10), make());
    let mut senders: Vec<_> = lanes
        .iter()
        .map(|lane| Outbound::attach(copy_of(lane.fd()), &TINY, MailBell::create().unwrap()).unwrap())
        .collect();
    {
        let mailbox = Mailbox::new(Arc::clone(&objects), WORKER, MailBell::create().unwrap()).unwrap();
        let (from, bytes) = (source(7), payload(1));
        let new = NewMessage { source: &from, id: id(1), key: key("k"), bytes: &bytes, repeats: true };
        assert_eq!(mailbox.put(&new), Ok(Accepted::Now));
    }
    for sequence in 1..=4 {
        senders[0].try_send(id(sequence), key("k"), &payload(sequence)).unwrap();
    }
    senders[1].try_send(id(2), key("other"), &payload(2)).unwrap();
    let expected = {
        let mut all = vec![(source(7), 1, false), (source(1), 2, false)];
        all.extend((1..=4).map(|sequence| (source(0), sequence, false)));
        all.sort_unstable();
        all
    };

    let (copy, copies) = (segment(256 << 10), make());
    let deaths = Rc::new(Cell::new(0));
    let (objects, lanes) = (Rc::new(objects), Rc::new(lanes));
    let hook = {
        let (deaths, expected) = (Rc::clone(&deaths), expected.clone());
        let (objects, lanes) = (Rc::clone(&objects), Rc::clone(&lanes));
        move || {
            restore(&copy, &copies, &images(&objects, &lanes));
            copy.recover_all().unwrap();
            copy.check().unwrap();
            close_lanes(&copy, lanes_of(&copies)).unwrap();
            let mut all = kept(&copy);
            let in_order: Vec<_> = all.iter().filter(|found| found.0 == source(0)).map(|found| found.1).collect();
            assert_eq!(in_order, [1, 2, 3, 4], "death {}", deaths.get());
            all.sort_unstable();
            assert_eq!(all, expected, "death {}", deaths.get());
            assert!(copies.iter().all(ServerMessageLane::is_drained), "death {}", deaths.get());
            deaths.set(deaths.get() + 1);
        }
    };
    let observing = observe(hook);
    close_lanes(&objects, lanes_of(&lanes)).unwrap();
    drop(observing);
    println!("{} deaths", deaths.get());
    assert!(deaths.get() > 50);
    let refused = senders[0].try_send(id(5), key("k"), &payload(5));
    assert!(matches!(refused, Err(SendError::Closed { accepted: 4 })), "{refused:?}");
}
