//! What a mailbox promises, one sentence a test: order, holding, redelivery, lanes, repetitions, bounds.
#![cfg(not(loom))]
#![allow(clippy::cast_possible_truncation, reason = "small numbers of a test's own")]

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use praas_protocol::Key;
use praas_protocol::limits::{MAILBOX_MESSAGES_MAX, MESSAGE_LANE_ENTRIES};
use praas_protocol::message::{Accepted, Address, MessageId, SessionId};
use praas_shm::WorkerTag;
use praas_shm::mail_bell::MailBell;
use praas_shm::mailbox::{InboundLane, MailError, Mailbox, NewMessage, Received, Wanted};
use praas_shm::message_lane::{Inbound, Outbound, ServerMessageLane, geometry_for};
use praas_shm::objects::steps::observe;
use praas_shm::objects::{Condition, Meta, Namespace, Objects, ObjectsLayout};

const LIMIT_BYTES: u64 = 4 << 20;

fn objects_of(limit_bytes: u64) -> Arc<Objects> {
    Arc::new(Objects::create(ObjectsLayout::for_limit(limit_bytes).unwrap()).unwrap())
}

fn objects() -> Arc<Objects> {
    objects_of(LIMIT_BYTES)
}

fn worker(objects: &Arc<Objects>, index: u8) -> Mailbox {
    Mailbox::new(Arc::clone(objects), WorkerTag::new(index, 1), MailBell::create().unwrap()).unwrap()
}

fn address(name: &str) -> Address {
    name.parse().unwrap()
}

fn key(text: &str) -> Key<'_> {
    Key::new(text).unwrap()
}

fn id(sequence: u64) -> MessageId {
    MessageId { incarnation: 1, sequence }
}

fn put(mailbox: &Mailbox, source: &str, text: &str, bytes: &[u8]) {
    let (source, id) = (address(source), id(mailbox.next_sequence()));
    let new = NewMessage { source: &source, id, key: key(text), bytes, repeats: false };
    assert_eq!(mailbox.put(&new), Ok(Accepted::Now));
}

fn take<'m>(mailbox: &'m Mailbox, source: &str, text: &str) -> Option<Received<'m>> {
    mailbox.take(Wanted::One(&address(source)), key(text)).unwrap()
}

/// What `wanted` gives, accepted at once.
fn next(mailbox: &Mailbox, wanted: Wanted<'_>, text: &str) -> Option<Vec<u8>> {
    let message = mailbox.take(wanted, key(text)).unwrap()?;
    let bytes = message.bytes().to_vec();
    message.accept().unwrap();
    Some(bytes)
}

/// A lane with its sender's end; each mailbox attaches an end of its own.
struct Lane {
    server: ServerMessageLane,
    sender: Outbound,
    slot: u16,
    source: Address,
}

impl Lane {
    fn new(slot: u16, source: &str) -> Self {
        let server = ServerMessageLane::create(geometry_for(1 << 20)).unwrap();
        let fd = server.fd().try_clone_to_owned().unwrap();
        let sender = Outbound::attach(fd, &server.geometry(), MailBell::create().unwrap()).unwrap();
        Self { server, sender, slot, source: address(source) }
    }

    fn attach(&self, mailbox: &Mailbox) {
        let fd = self.server.fd().try_clone_to_owned().unwrap();
        let inbound = Inbound::attach(fd, &self.server.geometry()).unwrap();
        let lane = InboundLane { slot: self.slot, serial: self.serial(), source: self.source, inbound, repeats: false };
        mailbox.add_lane(lane).unwrap();
    }

    fn serial(&self) -> u64 {
        u64::from(self.slot) + 100
    }

    fn send(&mut self, sequence: u64, text: &str, bytes: &[u8]) {
        self.sender.try_send(id(sequence), key(text), bytes).unwrap();
    }
}

/// Somebody else, who takes the lock when told to and holds it until he is told to let go.
struct BusyLock {
    holder: std::thread::JoinHandle<()>,
    go_on: Sender<()>,
    holds: Receiver<()>,
}

impl BusyLock {
    fn new(objects: &Arc<Objects>) -> Self {
        let ((go_on, told), (holding, holds)) = (channel(), channel());
        let mailbox = worker(objects, 2);
        let holder = std::thread::spawn(move || {
            told.recv().unwrap();
            let mut is_first = true;
            let _observing = observe(move || {
                if std::mem::take(&mut is_first) {
                    holding.send(()).unwrap();
                    told.recv().unwrap();
                }
            });
            // Its first store is that to the lock.
            assert_eq!(mailbox.peek(Wanted::Any, key("none")), Ok(None));
        });
        Self { holder, go_on, holds }
    }

    fn hold(&self) {
        self.go_on.send(()).unwrap();
        self.holds.recv().unwrap();
    }

    fn let_go(self) {
        self.go_on.send(()).unwrap();
        self.holder.join().unwrap();
    }
}

#[test]
fn messages_of_a_source_and_key_come_in_order_and_leave_others_alone() {
    let objects = objects();
    let mailbox = worker(&objects, 0);
    for (source, text, bytes) in [("a", "k", b"1"), ("b", "k", b"2"), ("a", "other", b"3"), ("a", "k", b"4")] {
        put(&mailbox, source, text, bytes);
    }
    let a = address("a");
    assert_eq!(next(&mailbox, Wanted::One(&a), "k").unwrap(), b"1");
    assert_eq!(next(&mailbox, Wanted::One(&a), "k").unwrap(), b"4");
    assert_eq!(next(&mailbox, Wanted::One(&a), "k"), None);
    assert_eq!(next(&mailbox, Wanted::Any, "k").unwrap(), b"2");
    assert_eq!(next(&mailbox, Wanted::Of(&[address("b"), a]), "other").unwrap(), b"3");
    assert_eq!(mailbox.usage().messages, 0);
    objects.check().unwrap();
}

#[test]
fn a_received_message_says_who_sent_it_and_lies_aligned() {
    let mailbox = worker(&objects(), 0);
    for source in [address("a"), Address::Client(SessionId(1 << 90))] {
        for bytes in [0, 1, 64, 65, 224, 225, 4096, 4097, 100_000] {
            let payload: Vec<u8> = (0..bytes).map(|at: usize| at as u8).collect();
            let new = NewMessage { source: &source, id: id(7), key: key("k"), bytes: &payload, repeats: false };
            mailbox.put(&new).unwrap();
            let message = mailbox.take(Wanted::One(&source), key("k")).unwrap().unwrap();
            assert_eq!((message.source().unwrap(), message.id(), message.is_redelivered()), (source, id(7), false));
            assert_eq!(message.bytes(), payload);
            assert!(message.bytes().as_ptr().addr().is_multiple_of(16));
            message.accept().unwrap();
        }
    }
}

#[test]
fn any_takes_sources_in_turn_and_a_list_takes_what_came_first() {
    let mailbox = worker(&objects(), 0);
    for number in 0..3 {
        put(&mailbox, "a", "k", &[number]);
    }
    put(&mailbox, "b", "k", &[10]);
    put(&mailbox, "c", "k", &[20]);
    let any: Vec<_> = (0..5).map(|_| next(&mailbox, Wanted::Any, "k").unwrap()[0]).collect();
    assert_eq!(any, [0, 10, 20, 1, 2]);
    for (source, byte) in [("c", 1), ("a", 2), ("b", 3), ("c", 4)] {
        put(&mailbox, source, "k", &[byte]);
    }
    let listed: Vec<_> =
        (0..3).map(|_| next(&mailbox, Wanted::Of(&[address("b"), address("c")]), "k").unwrap()[0]).collect();
    assert_eq!(listed, [1, 3, 4]);
}

#[test]
fn what_a_call_holds_keeps_others_from_its_queue_until_it_is_accepted() {
    let objects = objects();
    let (one, other) = (worker(&objects, 0), worker(&objects, 1));
    for byte in 0..3 {
        put(&one, "a", "k", &[byte]);
    }
    put(&one, "b", "k", &[9]);
    let held = take(&one, "a", "k").unwrap();
    assert!(take(&other, "a", "k").is_none(), "somebody else's queue");
    assert_eq!(next(&other, Wanted::Any, "k").unwrap(), [9], "any leaves a held queue out");
    assert!(next(&other, Wanted::Any, "k").is_none());
    let second = take(&one, "a", "k").unwrap();
    assert_eq!(second.bytes(), [1], "its holder receives more");
    held.accept().unwrap();
    assert!(take(&other, "a", "k").is_none(), "one is held still");
    let rings = one.bell().rings();
    second.accept().unwrap();
    assert_ne!(one.bell().rings(), rings, "who waits for the rest is told");
    assert_eq!(take(&other, "a", "k").unwrap().bytes(), [2]);
    assert_eq!((one.held(), other.held()), (0, 1));
}

#[test]
fn a_call_that_fails_gives_its_messages_back_in_their_order() {
    let objects = objects();
    let (mut one, other) = (worker(&objects, 0), worker(&objects, 1));
    for byte in 0..4 {
        put(&one, "a", "k", &[byte]);
        put(&one, "b", "k", &[10 + byte]);
    }
    for source in ["a", "b", "a", "b", "a"] {
        let _ = take(&one, source, "k").unwrap();
    }
    one.release_all().unwrap();
    assert_eq!(one.held(), 0);
    objects.check().unwrap();
    for (source, start, redelivered) in [("a", 0, 3), ("b", 10, 2)] {
        for number in 0..4 {
            let message = take(&other, source, "k").unwrap();
            assert_eq!(message.bytes(), [start + number]);
            assert_eq!(message.is_redelivered(), number < redelivered, "{source} {number}");
            message.accept().unwrap();
        }
    }
}

#[test]
fn a_call_that_ends_well_removes_all_it_holds() {
    let objects = objects();
    for count in [0, 1, 2, 200] {
        let mut mailbox = worker(&objects, 0);
        for number in 0..=count {
            put(&mailbox, ["a", "b"][number % 2], "k", &[0; 300]);
        }
        for _ in 0..count {
            let _ = mailbox.take(Wanted::Any, key("k")).unwrap().unwrap();
        }
        mailbox.accept_all().unwrap();
        assert_eq!((mailbox.held(), mailbox.usage().messages), (0, 1));
        assert_eq!(objects.check().unwrap().mail.unfinished, 0);
        next(&mailbox, Wanted::Any, "k").unwrap();
    }
}

#[test]
fn what_was_accepted_while_the_lock_was_busy_is_removed_by_the_next_turn() {
    let objects = objects();
    let (mut one, other) = (worker(&objects, 0), worker(&objects, 1));
    for byte in 0..5 {
        put(&one, "a", "k", &[byte]);
    }
    for _ in 0..3 {
        let _ = take(&one, "a", "k").unwrap();
    }
    let busy = BusyLock::new(&objects);
    one.set_patience(Duration::ZERO);
    other.set_patience(Duration::ZERO);
    // Somebody takes the lock as soon as the call has let go of it for the first time.
    let (mut waits, mut busy) = (true, Some(busy));
    let (sender, holding) = channel();
    let probe = other;
    let observing = observe(move || {
        if waits && probe.peek(Wanted::Any, key("none")).is_ok() {
            waits = false;
            let busy = busy.take().unwrap();
            busy.hold();
            sender.send(busy).unwrap();
        }
    });
    one.accept_all().unwrap();
    drop(observing);
    holding.recv().unwrap().let_go();
    one.set_patience(Duration::from_secs(60));
    assert_eq!(objects.check().unwrap().mail.held, 3, "they are to be removed");
    let rings = one.bell().rings();
    let message = take(&one, "a", "k").unwrap();
    assert_ne!(one.bell().rings(), rings, "who waits for the rest is told");
    assert_eq!((message.bytes(), objects.check().unwrap().mail.held), (&[3][..], 1));
}

#[test]
fn messages_accepted_out_of_order_leave_the_rest_in_order() {
    let mut mailbox = worker(&objects(), 0);
    for byte in 0..5 {
        put(&mailbox, "a", "k", &[byte]);
    }
    let mut held: Vec<_> = (0..5).map(|_| take(&mailbox, "a", "k").unwrap()).collect();
    for index in [1, 3, 0] {
        let at = held.iter().position(|message| message.bytes() == [index]).unwrap();
        held.remove(at).accept().unwrap();
    }
    drop(held);
    mailbox.release_all().unwrap();
    let left: Vec<_> = (0..2).map(|_| next(&mailbox, Wanted::Any, "k").unwrap()[0]).collect();
    assert_eq!(left, [2, 4]);
}

#[test]
fn a_peek_copies_what_is_next_and_holds_nothing() {
    let objects = objects();
    let (one, other) = (worker(&objects, 0), worker(&objects, 1));
    let mut lane = Lane::new(0, "a");
    lane.attach(&one);
    assert_eq!(one.peek(Wanted::Any, key("k")), Ok(None));
    lane.send(5, "k", b"by lane");
    let peeked = one.peek(Wanted::Any, key("k")).unwrap().unwrap();
    assert_eq!((&peeked.bytes[..], peeked.source, peeked.id), (&b"by lane"[..], address("a"), id(5)));
    assert_eq!(one.peek(Wanted::Any, key("k")).unwrap(), Some(peeked));
    assert_eq!(one.peek(Wanted::Any, key("other")), Ok(None));
    assert_eq!(next(&other, Wanted::Any, "k").unwrap(), b"by lane");
}

#[test]
fn a_lane_gives_its_messages_in_order_small_and_large() {
    let objects = objects();
    let mut lane = Lane::new(3, "a");
    let mailbox = worker(&objects, 0);
    lane.attach(&mailbox);
    assert!(!mailbox.has_news());
    let long_key = "k".repeat(255);
    let payloads: Vec<Vec<u8>> = [0, 10, 64, 100, 216, 300, 5000, 100_000].map(|bytes| vec![bytes as u8; bytes]).into();
    for (sequence, payload) in (1..).zip(&payloads) {
        lane.send(2 * sequence, "k", payload);
        lane.send(2 * sequence + 1, &long_key, payload);
    }
    assert!(mailbox.has_news());
    for text in [&long_key, "k"] {
        for (index, payload) in (1..).zip(&payloads) {
            let message = take(&mailbox, "a", text).unwrap();
            assert_eq!(message.bytes(), payload);
            assert_eq!(message.id(), id(2 * index + u64::from(text != "k")));
            assert!(message.bytes().as_ptr().addr().is_multiple_of(16));
            message.accept().unwrap();
        }
        assert!(take(&mailbox, "a", text).is_none());
    }
    assert!(!mailbox.has_news() && lane.server.is_drained());
    assert_eq!(objects.check().unwrap().mail.queued, 0);
}

#[test]
fn a_lane_is_drained_only_when_its_last_large_message_is_removed() {
    let objects = objects();
    let mut lane = Lane::new(0, "a");
    let mut mailbox = worker(&objects, 0);
    lane.attach(&mailbox);
    for sequence in 1..=3 {
        lane.send(sequence, "k", &[7; 5000]);
    }
    for _ in 0..3 {
        let _ = take(&mailbox, "a", "k").unwrap();
    }
    assert!(!lane.server.is_drained());
    mailbox.release_all().unwrap();
    assert!(!lane.server.is_drained());
    for _ in 0..3 {
        assert_eq!(take(&mailbox, "a", "k").unwrap().bytes(), [7; 5000]);
    }
    mailbox.accept_all().unwrap();
    assert!(lane.server.is_drained());
    assert!(mailbox.remove_lane(0) && !mailbox.remove_lane(0));
}

#[test]
fn several_lanes_of_one_source_give_the_lowest_sequence_first() {
    let objects = objects();
    let mailbox = worker(&objects, 0);
    let mut lanes: Vec<Lane> = (0..3).map(|slot| Lane::new(slot, "a")).collect();
    lanes.iter().for_each(|lane| lane.attach(&mailbox));
    for sequence in 1..=300 {
        let lane = [2, 0, 1, 1, 0, 2, 2][sequence as usize % 7];
        let payload = vec![1; if sequence % 50 == 0 { 3000 } else { 8 }];
        lanes[lane].send(sequence, ["k", "other"][sequence as usize % 5 / 4], &payload);
    }
    for (text, wanted) in [("k", 240), ("other", 60)] {
        let mut last = 0;
        for _ in 0..wanted {
            let message = mailbox.take(Wanted::Any, key(text)).unwrap().unwrap();
            assert!(message.id().sequence > last, "{} after {last}", message.id().sequence);
            last = message.id().sequence;
            message.accept().unwrap();
        }
        assert!(mailbox.take(Wanted::Any, key(text)).unwrap().is_none());
    }
    assert!(lanes.iter().all(|lane| lane.server.is_drained()));
}

#[test]
fn a_flood_from_one_source_does_not_keep_another_waiting() {
    let mailbox = worker(&objects(), 0);
    let mut lanes: Vec<Lane> = ["a", "b"].iter().zip(0..).map(|(source, slot)| Lane::new(slot, source)).collect();
    lanes.iter().for_each(|lane| lane.attach(&mailbox));
    for sequence in 1..=500 {
        lanes[0].send(sequence, "k", b"flood");
    }
    for _ in 0..10 {
        assert_eq!(next(&mailbox, Wanted::Any, "k").unwrap(), b"flood");
    }
    lanes[1].send(1, "k", b"other");
    let turns = (1..).find(|_| next(&mailbox, Wanted::Any, "k").unwrap() == b"other").unwrap();
    assert!(turns <= 3, "waited for {turns} messages");
}

#[test]
fn what_one_worker_has_collected_another_receives_if_it_has_the_lane() {
    let objects = objects();
    let mut lane = Lane::new(4, "a");
    let (one, other) = (worker(&objects, 0), worker(&objects, 1));
    lane.attach(&one);
    lane.send(1, "k", b"small");
    lane.send(2, "k", &[3; 4000]);
    let rings = one.bell().rings();
    assert!(take(&one, "a", "something else").is_none());
    assert_ne!(one.bell().rings(), rings, "who waits for them is told");
    assert_eq!(next(&other, Wanted::Any, "k").unwrap(), b"small");
    let missing = MailError::LaneMissing { slot: 4, serial: lane.serial() };
    for wanted in [Wanted::Any, Wanted::One(&address("a")), Wanted::Of(&[address("a"), address("b")])] {
        assert_eq!(other.take(wanted, key("k")).map(drop), Err(missing.clone()));
    }
    lane.attach(&other);
    assert_eq!(next(&other, Wanted::Any, "k").unwrap(), [3; 4000]);
    assert!(lane.server.is_drained());
}

#[test]
fn what_a_receive_queues_for_others_they_are_told_of_though_it_finds_its_own() {
    let objects = objects();
    let mut lane = Lane::new(0, "a");
    let (one, other) = (worker(&objects, 0), worker(&objects, 1));
    lane.attach(&one);
    lane.attach(&other);
    assert!(take(&other, "a", "for other").is_none() && !other.has_news());
    lane.send(1, "for other", b"first");
    lane.send(2, "for one", b"second");
    let rings = one.bell().rings();
    assert_eq!(take(&one, "a", "for one").unwrap().bytes(), b"second");
    assert_ne!(one.bell().rings(), rings, "who waits for the first is told");
    assert_eq!(next(&other, Wanted::Any, "for other").unwrap(), b"first");
}

#[test]
fn a_lane_in_the_place_of_another_begins_anew() {
    let objects = objects();
    let mut mailbox = worker(&objects, 0);
    for serial in [100, 7, 8] {
        let mut lane = Lane::new(0, "a");
        let fd = lane.server.fd().try_clone_to_owned().unwrap();
        let inbound = || Inbound::attach(fd.try_clone().unwrap(), &lane.server.geometry()).unwrap();
        let new = |slot| InboundLane { slot, serial, source: lane.source, inbound: inbound(), repeats: false };
        mailbox.add_lane(new(0)).unwrap();
        assert_eq!(mailbox.add_lane(new(0)), Err(MailError::SlotTaken { slot: 0 }));
        assert!(matches!(mailbox.add_lane(new(256)), Err(MailError::NoSuchSlot { slot: 256, .. })));
        for sequence in 1..=5 {
            lane.sender.try_send(id(sequence), key("k"), b"x").unwrap();
            assert_eq!(next(&mailbox, Wanted::Any, "k").unwrap(), b"x");
        }
        assert!(lane.server.is_drained() && mailbox.remove_lane(0));
    }
}

#[test]
fn what_is_sent_again_by_a_source_that_repeats_is_accepted_once() {
    let objects = objects();
    let mailbox = worker(&objects, 0);
    let client = Address::Client(SessionId(5));
    let put = |incarnation, sequence, bytes: usize| {
        let id = MessageId { incarnation, sequence };
        mailbox.put(&NewMessage { source: &client, id, key: key("k"), bytes: &vec![1; bytes], repeats: true })
    };
    assert_eq!(put(1, 5, 10), Ok(Accepted::Now));
    assert_eq!(put(1, 5, 10), Ok(Accepted::Before));
    assert_eq!(put(1, 3, 10_000), Ok(Accepted::Now), "a gap is filled");
    assert_eq!(put(1, 3, 10_000), Ok(Accepted::Before));
    assert_eq!(mailbox.usage().messages, 2);
    next(&mailbox, Wanted::Any, "k").unwrap();
    assert_eq!(put(1, 5, 10), Ok(Accepted::Before), "though it was received");
    assert_eq!(put(1, 5000, 10), Ok(Accepted::Now));
    assert!(matches!(put(1, 6, 10), Err(MailError::TooOld { sequence: 6, .. })));
    assert_eq!(put(2, 6, 10), Ok(Accepted::Now), "another life of the source");
    assert_eq!((mailbox.usage().messages, mailbox.usage().sources), (3, 1));
    objects.check().unwrap();
}

#[test]
fn a_full_mailbox_refuses_and_leaves_lanes_alone_until_there_is_room() {
    let objects = objects_of(16 << 20);
    let (one, other) = (worker(&objects, 0), worker(&objects, 1));
    for _ in 0..MAILBOX_MESSAGES_MAX {
        put(&one, "a", "k", b"x");
    }
    let new = NewMessage { source: &address("a"), id: id(1), key: key("k"), bytes: b"x", repeats: false };
    let full = u64::from(MAILBOX_MESSAGES_MAX);
    assert!(matches!(one.put(&new), Err(MailError::Full { messages, needed_bytes: 0, .. }) if messages == full));
    let mut lane = Lane::new(0, "b");
    lane.attach(&one);
    lane.attach(&other);
    for sequence in 1..=u64::from(MESSAGE_LANE_ENTRIES) {
        lane.send(sequence, "unwanted", b"y");
    }
    assert!(lane.sender.try_send(id(2000), key("k"), b"z").is_err());
    assert!(take(&one, "b", "wanted").is_none());
    assert!(!one.has_news(), "a receiver would poll for what there is no room for");
    let rings = other.bell().rings();
    next(&other, Wanted::Any, "k").unwrap();
    assert_ne!(other.bell().rings(), rings, "who waits for room is told");
    assert!(one.has_news());
    assert!(take(&one, "b", "wanted").is_none());
    assert_eq!(next(&one, Wanted::One(&address("b")), "unwanted").unwrap(), b"y");
    assert!(lane.sender.try_send(id(2000), key("k"), b"z").is_ok());
    objects.check().unwrap();
}

#[test]
fn a_full_mailbox_takes_what_a_call_waits_for() {
    let objects = objects_of(16 << 20);
    let mailbox = worker(&objects, 0);
    for _ in 0..MAILBOX_MESSAGES_MAX {
        put(&mailbox, "a", "k", b"x");
    }
    let mut lane = Lane::new(0, "b");
    lane.attach(&mailbox);
    lane.send(1, "answer", b"yes");
    let wanted = Wanted::One(&address("b"));
    assert_eq!(mailbox.peek(wanted, key("answer")).unwrap().unwrap().bytes, b"yes", "and shows it");
    assert_eq!(next(&mailbox, wanted, "answer").unwrap(), b"yes");
    lane.send(2, "answer", b"at once");
    assert_eq!(next(&mailbox, wanted, "answer").unwrap(), b"at once");
}

#[test]
fn who_was_refused_for_want_of_room_is_told_when_there_is_some() {
    for limit_bytes in [16 << 20, 256 << 10] {
        let objects = objects_of(limit_bytes);
        let mailbox = worker(&objects, 0);
        let source = address("a");
        let new = NewMessage { source: &source, id: id(1), key: key("k"), bytes: &[1; 64], repeats: false };
        for source in ["one", "other"] {
            put(&mailbox, source, "k", b"x");
        }
        while mailbox.put(&new).is_ok() {}
        let message = take(&mailbox, "one", "k").unwrap();
        let rings = mailbox.bell().rings();
        message.accept().unwrap();
        assert_ne!(mailbox.bell().rings(), rings, "with {limit_bytes} bytes");
        let message = take(&mailbox, "other", "k").unwrap();
        let rings = mailbox.bell().rings();
        message.accept().unwrap();
        assert_eq!(mailbox.bell().rings(), rings, "nobody waits any more");
    }
}

#[test]
fn a_receiver_without_memory_goes_on_when_objects_make_room() {
    let objects = objects_of(256 << 10);
    let (one, other) = (worker(&objects, 0), worker(&objects, 1));
    put(&one, "a", "k", b"x");
    next(&one, Wanted::Any, "k").unwrap();
    let store = objects.worker_store(WorkerTag::new(0, 1)).unwrap();
    let name = |number: usize| format!("large {number}");
    let mut stored = 0;
    for bytes in [10_000, 100, 1] {
        let put = |number: usize| {
            let name = name(number);
            let name = praas_shm::objects::Key::new(Namespace::USER, &name).unwrap();
            store.put(&name, &vec![1; bytes], Meta::RAW, Condition::Any).is_ok()
        };
        while put(stored) {
            stored += 1;
        }
    }
    let mut lane = Lane::new(0, "b");
    lane.attach(&one);
    lane.attach(&other);
    let new_key = "k".repeat(255);
    lane.send(1, &new_key, &[1; 200]);
    for mailbox in [&one, &other] {
        assert!(take(mailbox, "b", &new_key).is_none() && !mailbox.has_news());
    }
    for number in 0..stored {
        let name = name(number);
        store.delete(&praas_shm::objects::Key::new(Namespace::USER, &name).unwrap(), Condition::Any).unwrap();
    }
    assert_eq!(next(&other, Wanted::Any, &new_key).unwrap(), [1; 200]);
}

#[test]
fn a_mailbox_without_memory_refuses_with_figures_and_gives_all_of_it_back() {
    let objects = objects_of(256 << 10);
    let mut mailbox = worker(&objects, 0);
    let free = objects.usage().free_bytes;
    let mut put = 0;
    loop {
        let (source, text) = (address(&format!("s{}", put % 90)), format!("key {}", put % 70));
        let bytes = vec![1; 50 * (put % 10)];
        let new = NewMessage { source: &source, id: id(1), key: key(&text), bytes: &bytes, repeats: false };
        match mailbox.put(&new) {
            Ok(_) => put += 1,
            Err(MailError::Full { messages, needed_bytes, free_bytes, .. }) => {
                assert!(messages == put as u64 && needed_bytes > 0 && free_bytes < 20_000);
                break;
            }
            Err(error) => panic!("{error}"),
        }
    }
    let (source, bytes) = (address("c"), [1; 200]);
    let more = NewMessage { source: &source, id: id(1), key: key("key 0"), bytes: &bytes, repeats: false };
    while mailbox.put(&more).is_ok() {}
    while mailbox.put(&NewMessage { bytes: b"", ..more }).is_ok() {}
    objects.check().unwrap();
    let mut lane = Lane::new(0, "b");
    lane.attach(&mailbox);
    lane.send(1, "k", &bytes);
    assert!(take(&mailbox, "b", "other").is_none() && !mailbox.has_news());
    for number in 0..70 {
        while mailbox.take(Wanted::Any, key(&format!("key {number}"))).unwrap().is_some() {}
    }
    mailbox.accept_all().unwrap();
    assert!(mailbox.has_news());
    assert_eq!(next(&mailbox, Wanted::Any, "k").unwrap(), [1; 200]);
    // What is kept for later messages goes when objects need it.
    let store = objects.worker_store(WorkerTag::new(0, 1)).unwrap();
    let large = vec![1; free as usize - 20_000];
    let name = praas_shm::objects::Key::new(Namespace::USER, "large").unwrap();
    store.put(&name, &large, Meta::RAW, Condition::Any).unwrap();
    let checked = objects.check().unwrap();
    assert_eq!((checked.mail.queues, checked.mail.spares), (0, 0));
}

#[test]
fn idle_queues_do_not_pile_up() {
    let objects = objects_of(16 << 20);
    let mailbox = worker(&objects, 0);
    for number in 0..20_000 {
        let text = format!("key {number}");
        put(&mailbox, "a", &text, b"x");
        next(&mailbox, Wanted::Any, &text).unwrap();
    }
    let queues = mailbox.usage().queues;
    assert!(queues < 1200, "{queues} queues are kept");
    objects.check().unwrap();
}

#[test]
fn idle_queues_of_a_call_that_accepts_thousands_make_way_for_others() {
    let objects = objects_of(64 << 20);
    let mut mailbox = worker(&objects, 0);
    for round in 0..2 {
        for number in 0..MAILBOX_MESSAGES_MAX {
            put(&mailbox, "a", &format!("key {round} {number}"), b"x");
        }
        for number in 0..MAILBOX_MESSAGES_MAX {
            let _ = take(&mailbox, "a", &format!("key {round} {number}")).unwrap();
        }
        mailbox.accept_all().unwrap();
    }
    objects.check().unwrap();
}

#[test]
fn sequences_of_a_process_never_repeat() {
    let objects = objects();
    let before = worker(&objects, 0).next_sequence();
    let all: std::collections::BTreeSet<u64> = std::thread::scope(|scope| {
        let numbers = |index| {
            let objects = Arc::clone(&objects);
            move || {
                let mailbox = worker(&objects, index);
                (0..1000).map(|_| mailbox.next_sequence()).collect::<Vec<_>>()
            }
        };
        let threads: Vec<_> = (0..3).map(|index| scope.spawn(numbers(index))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!((all.len(), *all.first().unwrap(), *all.last().unwrap()), (3000, before + 1, before + 3000));
}

#[test]
fn a_process_without_messages_has_no_mailbox_in_memory() {
    let objects = objects();
    let before = (objects.allocated_bytes().unwrap(), objects.usage());
    let mut mailbox = worker(&objects, 0);
    let lane = Lane::new(0, "a");
    lane.attach(&mailbox);
    assert!(mailbox.take(Wanted::Any, key("k")).unwrap().is_none() && !mailbox.has_news());
    mailbox.accept_all().unwrap();
    mailbox.release_all().unwrap();
    drop(mailbox);
    assert_eq!((objects.allocated_bytes().unwrap(), objects.usage()), before);
}

#[test]
fn one_row_serves_one_mailbox_at_a_time_and_the_next_finds_nothing_held() {
    let objects = objects();
    let mailbox = worker(&objects, 0);
    let second = Mailbox::new(Arc::clone(&objects), WorkerTag::new(0, 2), MailBell::create().unwrap());
    assert!(matches!(second, Err(MailError::RowTaken { row: 0 })));
    put(&mailbox, "a", "k", b"x");
    let _ = take(&mailbox, "a", "k").unwrap();
    drop(mailbox);
    let next = worker(&objects, 0);
    assert_eq!(next.held(), 0);
    assert!(take(&next, "a", "k").unwrap().is_redelivered());
}

#[test]
fn too_many_sources_are_refused() {
    let mailbox = worker(&objects(), 0);
    put(&mailbox, "a", "k", b"x");
    let many: Vec<Address> = (0..1025).map(|number| address(&format!("s{number}"))).collect();
    let refused = mailbox.take(Wanted::Of(&many), key("k")).map(drop);
    assert_eq!(refused, Err(MailError::TooManySources { actual: 1025, limit: 1024 }));
    assert!(mailbox.take(Wanted::Of(&many[..1024]), key("k")).unwrap().is_none());
    assert!(mailbox.take(Wanted::Of(&[]), key("k")).unwrap().is_none());
}
