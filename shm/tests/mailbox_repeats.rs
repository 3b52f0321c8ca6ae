//! Messages of another host: by a lane, and once more as a put when their sender does not know what became of them.
#![cfg(not(loom))]
#![allow(clippy::cast_possible_truncation, reason = "small numbers of a test's own")]

use std::cell::Cell;
use std::sync::Arc;

use praas_protocol::Key;
use praas_protocol::limits::MAILBOX_MESSAGES_MAX;
use praas_protocol::message::{Accepted, Address, MessageId};
use praas_shm::WorkerTag;
use praas_shm::mail_bell::MailBell;
use praas_shm::mailbox::{InboundLane, MailError, Mailbox, NewMessage, WINDOW_SEQUENCES, Wanted};
use praas_shm::message_lane::{Inbound, Outbound, ServerMessageLane, geometry_for};
use praas_shm::objects::{Objects, ObjectsLayout};

const SENDER: &str = "sender";

fn address(name: &str) -> Address {
    name.parse().unwrap()
}

fn key(text: &str) -> Key<'_> {
    Key::new(text).unwrap()
}

fn of_life(incarnation: u64, sequence: u64) -> MessageId {
    MessageId { incarnation, sequence }
}

fn id(sequence: u64) -> MessageId {
    of_life(1, sequence)
}

fn objects(bytes: u64) -> Arc<Objects> {
    Arc::new(Objects::create(ObjectsLayout::for_limit(bytes).unwrap()).unwrap())
}

fn worker(objects: &Arc<Objects>, index: u8) -> Mailbox {
    Mailbox::new(Arc::clone(objects), WorkerTag::new(index, 1), MailBell::create().unwrap()).unwrap()
}

struct Lane {
    server: ServerMessageLane,
    sender: Outbound,
    slot: u16,
}

impl Lane {
    fn new(slot: u16) -> Self {
        let server = ServerMessageLane::create(geometry_for(1 << 20)).unwrap();
        let fd = server.fd().try_clone_to_owned().unwrap();
        let sender = Outbound::attach(fd, &server.geometry(), MailBell::create().unwrap()).unwrap();
        Self { server, sender, slot }
    }

    fn attach(&self, mailbox: &Mailbox) {
        let inbound = Inbound::attach(self.server.fd().try_clone_to_owned().unwrap(), &self.server.geometry()).unwrap();
        let (slot, serial) = (self.slot, u64::from(self.slot) + 7);
        mailbox.add_lane(InboundLane { slot, serial, source: address(SENDER), inbound, repeats: true }).unwrap();
    }

    fn send(&mut self, id: MessageId, bytes: &[u8]) {
        self.sender.try_send(id, key("k"), bytes).unwrap();
    }
}

fn put(mailbox: &Mailbox, id: MessageId, bytes: &[u8]) -> Result<Accepted, MailError> {
    mailbox.put(&NewMessage { source: &address(SENDER), id, key: key("k"), bytes, repeats: true })
}

/// Everything that can be received, in order.
fn receive_all(mailbox: &mut Mailbox) -> Vec<u64> {
    let mut sequences = Vec::new();
    while let Some(message) = mailbox.take(Wanted::Any, key("k")).unwrap() {
        sequences.push(message.id().sequence);
    }
    mailbox.accept_all().unwrap();
    sequences
}

#[test]
fn a_put_knows_what_lies_in_lanes_and_comes_after_it() {
    let objects = objects(4 << 20);
    let mut mailbox = worker(&objects, 0);
    let mut lanes = [Lane::new(0), Lane::new(1)];
    lanes.iter().for_each(|lane| lane.attach(&mailbox));
    lanes[1].send(id(1), b"one");
    lanes[0].send(id(2), &[2; 5000]);
    assert_eq!(put(&mailbox, id(2), &[2; 5000]), Ok(Accepted::Before));
    assert_eq!(put(&mailbox, id(3), &[3; 5000]), Ok(Accepted::Now));
    assert_eq!(put(&mailbox, id(1), b"one"), Ok(Accepted::Before));
    assert_eq!(receive_all(&mut mailbox), [1, 2, 3]);
    for sequence in 1..=3 {
        assert_eq!(put(&mailbox, id(sequence), b""), Ok(Accepted::Before), "{sequence} after it was accepted");
    }
    assert!(lanes.iter().all(|lane| lane.server.is_drained()));
}

#[test]
fn what_was_put_before_is_dropped_out_of_a_lane_with_its_block() {
    let objects = objects(4 << 20);
    let mut mailbox = worker(&objects, 0);
    let mut lane = Lane::new(0);
    lane.attach(&mailbox);
    // More than the lane's arena holds at a time: what is dropped gives its block back.
    let bytes = vec![9; 1 << 20];
    for sequence in 1..=20 {
        assert_eq!(put(&mailbox, id(sequence), b"put"), Ok(Accepted::Now));
        lane.send(id(sequence), &bytes);
        assert_eq!(receive_all(&mut mailbox), [sequence]);
        assert!(mailbox.take(Wanted::Any, key("other")).unwrap().is_none());
        assert!(lane.server.is_drained(), "{sequence}");
    }
}

#[test]
fn what_is_older_than_the_filter_remembers_is_received_from_a_lane_and_refused_as_a_put() {
    let objects = objects(4 << 20);
    let mut mailbox = worker(&objects, 0);
    let mut lanes = [Lane::new(0), Lane::new(1)];
    lanes.iter().for_each(|lane| lane.attach(&mailbox));
    let newest = 10 * WINDOW_SEQUENCES;
    lanes[0].send(id(newest), b"");
    assert_eq!(receive_all(&mut mailbox), [newest]);
    lanes[1].send(id(5), b"");
    assert!(matches!(put(&mailbox, id(5), b""), Err(MailError::TooOld { sequence: 5, .. })));
    assert_eq!(receive_all(&mut mailbox), [5]);
    // The same with a life that is over, of which messages still lie in its lane.
    lanes[0].send(of_life(2, 1), b"");
    assert_eq!(receive_all(&mut mailbox), [1]);
    lanes[1].send(of_life(1, 6), b"");
    assert_eq!(receive_all(&mut mailbox), [6]);
    assert!(matches!(put(&mailbox, of_life(1, 7), b""), Err(MailError::TooOld { sequence: 1, oldest: 2 })));
}

#[test]
fn the_highest_sequences_of_a_new_life_fit_one_transaction() {
    let objects = objects(4 << 20);
    let mut mailbox = worker(&objects, 0);
    let mut lane = Lane::new(0);
    lane.attach(&mailbox);
    for life in 1..=3 {
        for sequence in [1, WINDOW_SEQUENCES * 3, u64::MAX - 1, u64::MAX] {
            lane.send(of_life(life, sequence), &[1; 3000]);
            assert_eq!(put(&mailbox, of_life(life, sequence), b""), Ok(Accepted::Before));
            assert_eq!(receive_all(&mut mailbox), [sequence]);
        }
    }
}

#[test]
fn a_put_is_not_judged_while_the_mailbox_has_no_room_for_what_came_before_it() {
    let objects = objects(64 << 20);
    let mut mailbox = worker(&objects, 0);
    let mut lane = Lane::new(0);
    lane.attach(&mailbox);
    let most = u64::from(MAILBOX_MESSAGES_MAX);
    let own = address("own");
    for sequence in 1..=most {
        let new = NewMessage { source: &own, id: id(sequence), key: key("k"), bytes: b"", repeats: false };
        assert_eq!(mailbox.put(&new), Ok(Accepted::Now));
    }
    lane.send(id(1), b"");
    let refused = put(&mailbox, id(1), b"").unwrap_err();
    assert!(
        matches!(refused, MailError::Full { messages, messages_max, .. } if messages == most && messages_max == most)
    );
    assert!(matches!(put(&mailbox, id(2), b""), Err(MailError::Full { .. })), "it comes after the first");
    for _ in 0..2 {
        mailbox.take(Wanted::One(&own), key("k")).unwrap().unwrap().accept().unwrap();
    }
    assert_eq!(put(&mailbox, id(1), b""), Ok(Accepted::Before));
    assert_eq!(put(&mailbox, id(2), b""), Ok(Accepted::Now));
    let received = receive_all(&mut mailbox);
    assert_eq!(received.len() as u64, most);
    assert!(lane.server.is_drained());
}

#[test]
fn a_worker_that_lacks_a_lane_does_not_judge_a_put() {
    let objects = objects(4 << 20);
    let mailbox = worker(&objects, 0);
    let new = NewMessage { source: &address(SENDER), id: id(1), key: key("k"), bytes: b"", repeats: true };
    // Without any lane of that source, and with one.
    assert_eq!(mailbox.put_if(&new, &|| false), Err(MailError::Outdated));
    let mut lane = Lane::new(3);
    lane.attach(&mailbox);
    assert_eq!(mailbox.put_if(&new, &|| false), Err(MailError::Outdated));
    lane.send(id(1), b"");
    lane.send(id(2), b"");
    let asked = Cell::new(0);
    let current_once = || asked.replace(asked.get() + 1) < 2;
    assert_eq!(mailbox.put_if(&new, &current_once), Err(MailError::Outdated), "it became so while it collected");
    assert_eq!(mailbox.put_if(&new, &|| true), Ok(Accepted::Before));
    let own = NewMessage { repeats: false, ..new };
    assert_eq!(mailbox.put_if(&own, &|| false), Ok(Accepted::Now), "its own messages are never repeated");
}

#[test]
fn what_came_is_known_whichever_worker_took_it() {
    let objects = objects(4 << 20);
    let mut mailboxes = [worker(&objects, 0), worker(&objects, 1)];
    let mut lane = Lane::new(0);
    mailboxes.iter().for_each(|mailbox| lane.attach(mailbox));
    for sequence in 1..=400 {
        lane.send(id(sequence), &vec![1; if sequence % 3 == 0 { 1000 } else { 10 }]);
        let (taker, judge) = (sequence as usize % 2, (sequence as usize + 1) % 2);
        assert_eq!(receive_all(&mut mailboxes[taker]), [sequence]);
        assert_eq!(put(&mailboxes[judge], id(sequence), b""), Ok(Accepted::Before));
        assert!(receive_all(&mut mailboxes[judge]).is_empty());
    }
}
