//! Lanes that are closed under their senders, as their receiver leaves memory: each message is kept once or refused, in the
//! order of its source, whoever sends meanwhile and however full the state is, and comes back in a lane.
#![cfg(not(loom))]
#![allow(clippy::cast_possible_truncation, reason = "small numbers of a test's own")]

#[path = "support/messages.rs"]
mod messages;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use praas_protocol::control::MessageLaneGeometry;
use praas_protocol::message::{Accepted, Address};
use praas_shm::WorkerTag;
use praas_shm::mail_bell::MailBell;
use praas_shm::mailbox::{InboundLane, MailError, Mailbox, NewMessage, Wanted};
use praas_shm::message_lane::{Inbound, SendError, Wanting};
use praas_shm::objects::{Condition, Key as ObjectKey, Meta, Namespace, Objects, ObjectsLayout, StateError};
use praas_shm::swap::{CutValue, Import, ImportFacts, ImportedObject, QuietCut, Remainder, ReturnedLane};

use messages::{Host, SMALL, copy_of, id, key, pattern};

const WORKER: WorkerTag = WorkerTag::new(0, 1);
const LIMIT_BYTES: u64 = 1 << 20;

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

/// What is found of a message: its source, its sequence, and whether it was received before.
type Found = (Address, u64, bool);

/// All messages of a cut, in their order for each source, whose payloads are checked.
fn kept(cut: &QuietCut) -> Vec<Found> {
    // What is stored is read back.
    let Remainder { mail, lanes, .. } = Remainder::from_bytes(&cut.remainder().unwrap().to_bytes()).unwrap();
    let taken =
        mail.into_iter().map(|kept| (kept.message.source, kept.message.id, kept.is_redelivered, kept.message.payload));
    let waiting = lanes.into_iter().flat_map(|lane| {
        let source = lane.source;
        lane.waiting.into_iter().map(move |mail| (source, mail.id, false, mail.payload))
    });
    let mut all: Vec<_> = taken
        .chain(waiting)
        .map(|(source, id, is_redelivered, bytes)| {
            assert!(bytes == payload(id.sequence), "payload of message {}", id.sequence);
            (source, id.sequence, is_redelivered)
        })
        .collect();
    // Lanes of one source have their messages in turns.
    all.sort_by_key(|found| found.1);
    all
}

/// All of a cut, in other memory.
fn wake(cut: &QuietCut) -> (Arc<Objects>, Vec<ReturnedLane>) {
    let facts = ImportFacts { hash_seed: Some(cut.hash_seed()), position: cut.position() };
    let import = Import::create(cut.segment().layout(), &facts).unwrap();
    cut.objects(|object| -> Result<(), StateError> {
        let CutValue::Here { token } = object.value else { panic!("nothing was stored") };
        let mut value = vec![0; object.header.value_bytes as usize];
        cut.read(token, 0, &mut value)?;
        import.put(&ImportedObject { key: object.key, header: object.header }, &value).unwrap();
        Ok(())
    })
    .unwrap();
    let returned = import.remainder(&cut.remainder().unwrap(), 1000).unwrap();
    let objects = import.finish().unwrap();
    objects.check().unwrap();
    (Arc::new(objects), returned)
}

/// A worker with these lanes.
fn worker(objects: &Arc<Objects>, returned: &[ReturnedLane]) -> Mailbox {
    let mailbox = Mailbox::new(Arc::clone(objects), WORKER, MailBell::create().unwrap()).unwrap();
    for ReturnedLane { slot, serial, source, repeats, lane, .. } in returned {
        let (slot, serial, source, repeats) = (*slot, *serial, *source, *repeats);
        mailbox.add_lane(InboundLane { slot, serial, source, inbound: lane.inbound(), repeats }).unwrap();
    }
    mailbox
}

/// Receives everything, in the order in which it comes.
fn receive_all(mailbox: &Mailbox, topic: &str) -> Vec<Found> {
    std::iter::from_fn(|| {
        let received = mailbox.take(Wanted::Any, key(topic)).unwrap()?;
        let found = (received.source().unwrap(), received.id().sequence, received.is_redelivered());
        assert!(received.bytes() == payload(found.1), "payload of message {}", found.1);
        received.accept().unwrap();
        Some(found)
    })
    .collect()
}

fn of(all: &[Found], from: usize) -> Vec<(u64, bool)> {
    let of_it = all.iter().filter(|(address, ..)| *address == source(from));
    of_it.map(|&(_, sequence, is_redelivered)| (sequence, is_redelivered)).collect()
}

#[test]
fn what_lies_in_lanes_is_kept_in_the_order_of_its_source_and_whoever_sends_later_is_told() {
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
    let usage = objects.usage();
    let missing = QuietCut::begin(Arc::clone(&objects), Vec::new()).unwrap().remainder();
    assert!(matches!(missing, Err(MailError::LaneMissing { .. })), "{missing:?}");
    let twice = QuietCut::begin(Arc::clone(&objects), vec![lane(0, 0, inbound(0)), lane(0, 0, inbound(1))]);
    assert!(matches!(twice, Err(MailError::SlotTaken { slot: 0 })), "{twice:?}");
    let begin = || QuietCut::begin(Arc::clone(&objects), lanes(&|index| hosts[index].lane.inbound())).unwrap();
    let all = kept(&begin());
    assert_eq!(of(&all, 0), (2..=9).map(|sequence| (sequence, sequence == 2)).collect::<Vec<_>>());
    assert_eq!(of(&all, 1), (1..=9).map(|sequence| (sequence, false)).collect::<Vec<_>>());
    for sender in &mut senders {
        for sequence in [10, 11, 12] {
            let refused = sender.try_send(id(sequence), key("k"), &payload(sequence));
            assert!(matches!(refused, Err(SendError::Closed { .. })), "{refused:?}");
        }
        let mut loan = sender.loan(500).unwrap();
        loan[..5].copy_from_slice(b"hello");
        let (loan, refused) = sender.send_loan(loan, id(13), key("k")).unwrap_err();
        assert!(matches!(refused, SendError::Closed { .. }) && !refused.is_full(), "{refused}");
        assert_eq!(&loan[..5], b"hello");
    }
    // A cut that is dropped has changed nothing, and the next one finds what the first one did.
    assert_eq!(objects.usage(), usage);
    let cut = begin();
    assert_eq!(kept(&cut), all);

    // It comes back, what lay in two lanes of one source in one, is received as it would have been, and nothing is left in the lanes.
    let (woken, returned) = wake(&cut);
    assert_eq!(returned.iter().map(|lane| (lane.slot, lane.serial)).collect::<Vec<_>>(), [(0, 1000), (2, 1001)]);
    let again = {
        let lanes = returned.iter().map(|lane| InboundLane {
            slot: lane.slot,
            serial: lane.serial,
            source: lane.source,
            inbound: lane.lane.inbound(),
            repeats: false,
        });
        QuietCut::begin(Arc::clone(&woken), lanes.collect()).unwrap()
    };
    assert_eq!(again.remainder().unwrap(), cut.remainder().unwrap(), "it may sleep again at once");
    drop(again);
    let received = receive_all(&worker(&woken, &returned), "k");
    assert_eq!((of(&received, 0), of(&received, 1)), (of(&all, 0), of(&all, 1)));
    assert!(returned.iter().all(|returned| returned.lane.is_drained()));
    drop(cut);

    // And so does whoever goes on where it was.
    let mailbox = Mailbox::new(Arc::clone(&objects), WorkerTag::new(1, 1), hosts[0].bell()).unwrap();
    lanes(&inbound).into_iter().for_each(|lane| mailbox.add_lane(lane).unwrap());
    let received = receive_all(&mailbox, "k");
    assert_eq!((of(&received, 0), of(&received, 1)), (of(&all, 0), of(&all, 1)));
    assert!(hosts.iter().all(|host| host.lane.is_drained()));
}

#[test]
fn what_is_sent_while_lanes_are_closed_is_kept_once_or_refused() {
    let seed = std::env::var("PRAAS_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        u64::from(now.subsec_nanos()) | 1
    });
    println!("PRAAS_SEED={seed}");
    for round in 0..60_u64 {
        let objects = segment(8 << 20);
        let hosts: Vec<_> = (0..3).map(|_| Host::new(SMALL)).collect();
        let is_over = AtomicBool::new(false);
        let (cut, accepted) = thread::scope(|scope| {
            let senders: Vec<_> = hosts
                .iter()
                .map(|host| {
                    let (mut sender, is_over) = (host.sender(), &is_over);
                    scope.spawn(move || {
                        for sequence in 1.. {
                            let bytes = payload(sequence);
                            let wanting = Wanting::Message { key_bytes: 1, payload_bytes: bytes.len() };
                            loop {
                                let last = is_over.load(Ordering::Acquire);
                                match sender.try_send(id(sequence), key("k"), &bytes) {
                                    Ok(()) => break,
                                    Err(SendError::Closed { accepted }) => {
                                        assert_eq!(accepted, sequence - 1);
                                        return accepted;
                                    }
                                    Err(error) => assert!(error.is_full(), "{error}"),
                                }
                                // Whoever makes an end of a lane tells its sender.
                                if last {
                                    return sequence - 1;
                                }
                                sender.wait_for_room(wanting, std::time::Duration::from_millis(1));
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
            let lanes = (0..).zip(&hosts).map(|(slot, host)| lane(slot, usize::from(slot), host.lane.inbound()));
            let cut = QuietCut::begin(Arc::clone(&objects), lanes.collect()).unwrap();
            let before = kept(&cut);
            is_over.store(true, Ordering::Release);
            let accepted: Vec<u64> = senders.into_iter().map(|sender| sender.join().unwrap()).collect();
            assert_eq!(kept(&cut), before, "nothing came after the cut");
            (cut, accepted)
        });
        let all = kept(&cut);
        for (from, accepted) in accepted.into_iter().enumerate() {
            let taken: Vec<_> = of(&all, from).into_iter().map(|found| found.0).collect();
            assert!(taken.iter().copied().eq(1..=accepted), "sender {from}: {accepted} were accepted, kept {taken:?}");
        }
    }
}

/// A state with no free byte, a lane with a full ring, one with a full arena: all of it sleeps and wakes, again and again.
#[test]
fn a_state_filled_to_the_last_byte_sleeps_and_wakes_with_all_that_lies_in_its_lanes() {
    let objects = segment(256 << 10);
    let hosts = [Host::new(SMALL), Host::new(MessageLaneGeometry { arena_bytes: 1 << 20, blocks: 16, ..SMALL })];
    let mut senders = hosts.each_ref().map(Host::sender);
    {
        let store = objects.worker_store(WORKER).unwrap();
        let mailbox = Mailbox::new(Arc::clone(&objects), WORKER, hosts[0].bell()).unwrap();
        for (slot, host) in (0..).zip(&hosts) {
            mailbox.add_lane(lane(slot, usize::from(slot), host.lane.inbound())).unwrap();
        }
        // Payloads that lie in the second lane, of messages that were taken out of it.
        for sequence in [4, 9, 14] {
            senders[1].try_send(id(sequence), key("k"), &payload(sequence)).unwrap();
        }
        assert!(mailbox.take(Wanted::Any, key("nobody")).unwrap().is_none());
        // Not one more fits, however small.
        let mut number = 0;
        for bytes in [16 << 10, 1024, 64, 1] {
            loop {
                let name = format!("key-{number}");
                let named = ObjectKey::new(Namespace::USER, &name).unwrap();
                match store.put(&named, &pattern(bytes, number), Meta::RAW, Condition::Any) {
                    Ok(_) => number += 1,
                    Err(StateError::Full { .. }) => break,
                    Err(error) => panic!("{error}"),
                }
            }
        }
        println!("{number} objects");
        let mut sequence = 20;
        for sender in &mut senders {
            while sender.try_send(id(sequence), key("k"), &payload(sequence)).is_ok() {
                sequence += 1;
            }
        }
        // Some of what is in the ring is taken by the room that is left for it, if there is any.
        assert!(mailbox.take(Wanted::Any, key("nobody")).is_ok_and(|found| found.is_none()));
    }
    objects.recover_all().unwrap();
    let lanes = (0..).zip(&hosts).map(|(slot, host)| lane(slot, usize::from(slot), host.lane.inbound()));
    let mut cut = QuietCut::begin(Arc::clone(&objects), lanes.collect()).unwrap();
    let (all, keys) = (kept(&cut), objects.usage().keys);
    assert!(cut.remainder().unwrap().lanes.iter().any(|lane| lane.waiting.len() > 8), "much waits");
    let mut left = Vec::new();
    for _ in 0..3 {
        let (woken, returned) = wake(&cut);
        assert_eq!(woken.usage().keys, keys);
        let lanes = returned.iter().map(|lane| InboundLane {
            slot: lane.slot,
            serial: lane.serial,
            source: lane.source,
            inbound: lane.lane.inbound(),
            repeats: false,
        });
        cut = QuietCut::begin(Arc::clone(&woken), lanes.collect()).unwrap();
        assert_eq!(kept(&cut), all);
        left = returned;
    }
    let woken = Arc::clone(cut.segment());
    drop(cut);
    let mailbox = worker(&woken, &left);
    let received = receive_all(&mailbox, "k");
    assert_eq!((of(&received, 0), of(&received, 1)), (of(&all, 0), of(&all, 1)));
    assert!(left.iter().all(|returned| returned.lane.is_drained()));
    woken.check().unwrap();
}

#[test]
fn a_lane_whose_messages_may_have_come_another_way_says_so_when_it_is_back() {
    let objects = segment(LIMIT_BYTES);
    let host = Host::new(SMALL);
    let mut sender = host.sender();
    (1..=4).for_each(|sequence| sender.try_send(id(sequence), key("k"), &payload(sequence)).unwrap());
    {
        let mailbox = Mailbox::new(Arc::clone(&objects), WORKER, MailBell::create().unwrap()).unwrap();
        let (from, bytes) = (source(0), payload(2));
        let new = NewMessage { source: &from, id: id(2), key: key("k"), bytes: &bytes, repeats: true };
        assert_eq!(mailbox.put(&new), Ok(Accepted::Now));
    }
    objects.recover_all().unwrap();
    let repeating = InboundLane { repeats: true, ..lane(0, 0, host.lane.inbound()) };
    let cut = QuietCut::begin(Arc::clone(&objects), vec![repeating]).unwrap();
    let (woken, returned) = wake(&cut);
    let mut received = receive_all(&worker(&woken, &returned), "k");
    received.sort_unstable();
    assert_eq!(of(&received, 0), [(1, false), (2, false), (3, false), (4, false)]);

    // A process that is to be logged has no lanes: it gets the same as if it had taken them.
    let contents = cut.remainder().unwrap().into_contents(cut.position()).unwrap();
    let sequences: Vec<_> = contents.messages.values().map(|message| message.id.sequence).collect();
    assert_eq!((sequences, contents.position), (vec![2, 1, 3, 4], cut.position() + 3));
    let known = &contents.sources[&source(0).to_bytes()];
    assert!((1..=4).all(|sequence| known.knows(id(sequence))) && !known.knows(id(5)));
}

#[test]
fn a_process_without_lanes_and_messages_gets_no_table() {
    let objects = segment(LIMIT_BYTES);
    let before = objects.usage();
    let cut = QuietCut::begin(Arc::clone(&objects), Vec::new()).unwrap();
    assert_eq!(cut.remainder().unwrap(), Remainder::default());
    assert_eq!(objects.usage(), before);
    drop(cut);
    let store = objects.worker_store(WORKER).unwrap();
    let named = ObjectKey::new(Namespace::USER, "key").unwrap();
    store.put(&named, b"value", Meta::RAW, Condition::Any).unwrap();
    let refused = QuietCut::begin(Arc::clone(&objects), Vec::new());
    assert!(matches!(refused, Err(MailError::Busy { .. })), "a worker has its row");
}
