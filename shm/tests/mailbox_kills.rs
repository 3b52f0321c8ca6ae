//! A worker that dies at any store of any operation on the mailbox, and a recovery that dies at any store of its own.
//!
//! After each store to the segment it is copied: the copy is what a `kill -9` at that instruction leaves behind. On the copy
//! the server recovers, everything must add up, an heir receives all there is, and that is what would have been there
//! before or after the operation; never half of it. What the dead worker held is received again, and marked. Lanes are as
//! the worker left them, with what it had not told them told by the heir.
#![cfg(not(loom))]
#![allow(clippy::cast_possible_truncation, reason = "small numbers of a test's own")]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use praas_protocol::Key;
use praas_protocol::control::MessageLaneGeometry;
use praas_protocol::message::{Accepted, Address, MessageId};
use praas_shm::WorkerTag;
use praas_shm::mail_bell::MailBell;
use praas_shm::mailbox::{InboundLane, MailError, Mailbox, NewMessage, Wanted};
use praas_shm::message_lane::{Inbound, Outbound, ServerMessageLane};
use praas_shm::objects::steps::observe;
use praas_shm::objects::{LockOwner, Objects, ObjectsLayout};

const LIMIT_BYTES: u64 = 256 << 10;
const DYING: WorkerTag = WorkerTag::new(0, 1);
const HEIR: WorkerTag = WorkerTag::new(1, 1);
const KEYS: [&str; 2] = ["k", "other"];
const SLOTS: u16 = 2;
/// Small lanes: they are copied at every death.
const GEOMETRY: MessageLaneGeometry = MessageLaneGeometry { entries: 8, blocks: 8, arena_bytes: 64 << 10 };

fn create() -> Arc<Objects> {
    Arc::new(Objects::create(ObjectsLayout::for_limit(LIMIT_BYTES).unwrap()).unwrap())
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

fn image(objects: &Objects) -> Vec<u8> {
    let mut bytes = vec![0; objects.layout().segment_bytes()];
    assert_eq!(rustix::io::pread(objects.fd(), &mut bytes, 0).unwrap(), bytes.len());
    bytes
}

fn restore(objects: &Objects, image: &[u8]) {
    assert_eq!(rustix::io::pwrite(objects.fd(), image, 0).unwrap(), image.len());
}

/// Lanes of source "lane", the same for the dying and the heir: nothing but `consumed` and `released` is written to them.
struct Lanes {
    lanes: Vec<(ServerMessageLane, Outbound)>,
    /// Whether their sender is on another host.
    repeats: bool,
}

impl Lanes {
    fn new() -> Self {
        let lane = |_| {
            let server = ServerMessageLane::create(GEOMETRY).unwrap();
            let fd = server.fd().try_clone_to_owned().unwrap();
            let sender = Outbound::attach(fd, &server.geometry(), MailBell::create().unwrap()).unwrap();
            (server, sender)
        };
        Self { lanes: (0..SLOTS).map(lane).collect(), repeats: false }
    }

    fn remote() -> Self {
        Self { repeats: true, ..Self::new() }
    }

    fn none() -> Self {
        Self { lanes: Vec::new(), repeats: false }
    }

    fn sole() -> Self {
        let mut lanes = Self::new();
        lanes.lanes.truncate(1);
        lanes
    }

    fn send(&mut self, slot: usize, sequence: u64, text: &str, bytes: usize) {
        self.lanes[slot].1.try_send(id(sequence), key(text), &vec![sequence as u8; bytes]).unwrap();
    }

    fn attach(&self, mailbox: &Mailbox) {
        self.attach_as(mailbox, 9);
    }

    fn attach_as(&self, mailbox: &Mailbox, serial: u64) {
        for (slot, (server, _)) in (0..).zip(&self.lanes) {
            let inbound = Inbound::attach(server.fd().try_clone_to_owned().unwrap(), &server.geometry()).unwrap();
            let lane = InboundLane { slot, serial, source: address("lane"), inbound, repeats: self.repeats };
            mailbox.add_lane(lane).unwrap();
        }
    }
}

fn mailbox(objects: &Arc<Objects>, lanes: &Lanes, tag: WorkerTag) -> Mailbox {
    let mailbox = Mailbox::new(Arc::clone(objects), tag, MailBell::create().unwrap()).unwrap();
    lanes.attach(&mailbox);
    mailbox
}

fn put(mailbox: &Mailbox, source: &str, text: &str, sequence: u64, bytes: usize, repeats: bool) {
    let (source, bytes) = (address(source), vec![sequence as u8; bytes]);
    let new = NewMessage { source: &source, id: id(sequence), key: key(text), bytes: &bytes, repeats };
    assert_eq!(mailbox.put(&new), Ok(Accepted::Now));
}

/// Sequences and sizes of a queue's messages.
type Plain = BTreeMap<(Address, &'static str), Vec<(u64, usize)>>;
/// A queue of a test's own: source, key, sequences and sizes.
type Said<'m> = (&'m str, &'static str, &'m [(u64, usize)]);

/// All that can be received, by queue in order: sequence, bytes, whether it was received before.
type Contents = BTreeMap<(Address, &'static str), Vec<(u64, usize, bool)>>;

/// Receives everything there is on a copy of the segment, and gives it back to nobody.
fn contents(objects: &Arc<Objects>, lanes: &Lanes) -> Contents {
    let mut heir = mailbox(objects, lanes, HEIR);
    let mut all = Contents::new();
    for text in KEYS {
        while let Some(message) = heir.take(Wanted::Any, key(text)).unwrap() {
            let bytes = message.bytes();
            let sequence = message.id().sequence;
            assert!(bytes.iter().all(|&byte| byte == sequence as u8), "a torn message");
            let queue = all.entry((message.source().unwrap(), text)).or_default();
            queue.push((sequence, bytes.len(), message.is_redelivered()));
        }
    }
    assert!(!heir.has_news(), "something was left");
    heir.accept_all().unwrap();
    let checked = objects.check().unwrap().mail;
    assert_eq!((checked.queued, checked.held, checked.unfinished), (0, 0, 0));
    all
}

/// The same without the marks of what was received before.
fn unmarked(contents: &Contents) -> Plain {
    let plain = |queue: &Vec<(u64, usize, bool)>| queue.iter().map(|&(sequence, bytes, _)| (sequence, bytes)).collect();
    contents.iter().map(|(name, queue)| (*name, plain(queue))).collect()
}

/// The lanes' own words as they are now, to be put back after a trial has used them.
fn lanes_image(lanes: &Lanes) -> Vec<Vec<u8>> {
    let read = |(server, _): &(ServerMessageLane, Outbound)| {
        let bytes = praas_shm::message_lane::segment_bytes(&server.geometry()).unwrap();
        let mut image = vec![0; bytes];
        assert_eq!(rustix::io::pread(server.fd(), &mut image, 0).unwrap(), bytes);
        image
    };
    lanes.lanes.iter().map(read).collect()
}

fn restore_lanes(lanes: &Lanes, images: &[Vec<u8>]) {
    for ((server, _), image) in lanes.lanes.iter().zip(images) {
        assert_eq!(rustix::io::pwrite(server.fd(), image, 0).unwrap(), image.len());
    }
}

/// Dies at each store of a recovery of `left`; each time a second one leaves what the first would have.
fn kill_recovery(left: &[u8], expected: &Contents, lanes: &Rc<Lanes>, lanes_left: &[Vec<u8>]) -> usize {
    let (again, second) = (create(), create());
    restore(&again, left);
    let deaths = Rc::new(RefCell::new(0));
    let hook = {
        let (again, second, lanes) = (Arc::clone(&again), Arc::clone(&second), Rc::clone(lanes));
        let (deaths, expected, lanes_left) = (Rc::clone(&deaths), expected.clone(), lanes_left.to_vec());
        move || {
            restore(&second, &image(&again));
            second.recover_all().unwrap();
            second.check().unwrap();
            assert_eq!(
                unmarked(&contents(&second, &lanes)),
                unmarked(&expected),
                "a second recovery made something else"
            );
            restore_lanes(&lanes, &lanes_left);
            *deaths.borrow_mut() += 1;
        }
    };
    let observing = observe(hook);
    again.recover(DYING).unwrap();
    drop(observing);
    deaths.take()
}

/// Dies at each store of `operation`, which works on what `prepare` has made. Every `nested`th of the recoveries dies at
/// each of its own. Returns what was there after each death.
fn kill_at_every_store(
    name: &str,
    nested: usize,
    prepare: impl FnOnce(&mut Lanes, &Mailbox),
    send: impl FnOnce(&mut Lanes),
    operation: impl FnOnce(&mut Mailbox),
) -> Vec<Contents> {
    kill_with(Lanes::new(), name, nested, prepare, send, operation)
}

/// The same with these lanes.
fn kill_with(
    mut lanes: Lanes,
    name: &str,
    nested: usize,
    prepare: impl FnOnce(&mut Lanes, &Mailbox),
    send: impl FnOnce(&mut Lanes),
    operation: impl FnOnce(&mut Mailbox),
) -> Vec<Contents> {
    let objects = create();
    let mut worker = mailbox(&objects, &lanes, DYING);
    prepare(&mut lanes, &worker);
    send(&mut lanes);
    let lanes = Rc::new(lanes);
    let seen = Rc::new(RefCell::new(Vec::new()));
    let recovery_deaths = Rc::new(RefCell::new(0));
    let hook = {
        let (objects, lanes, seen) = (Arc::clone(&objects), Rc::clone(&lanes), Rc::clone(&seen));
        let (copy, recovery_deaths) = (create(), Rc::clone(&recovery_deaths));
        move || {
            let left = image(&objects);
            let lanes_left = lanes_image(&lanes);
            restore(&copy, &left);
            copy.recover(DYING).unwrap();
            assert_eq!(copy.lock_owner(), LockOwner::Nobody);
            copy.check().unwrap();
            let found = contents(&copy, &lanes);
            for (server, _) in &lanes.lanes {
                assert!(server.is_drained(), "a lane was not told all");
            }
            restore_lanes(&lanes, &lanes_left);
            let mut seen = seen.borrow_mut();
            if seen.len().is_multiple_of(nested) {
                *recovery_deaths.borrow_mut() += kill_recovery(&left, &found, &lanes, &lanes_left);
            }
            seen.push(found);
        }
    };
    let observing = observe(hook);
    operation(&mut worker);
    drop(observing);
    let seen = seen.take();
    println!("{name}: {} deaths, {} of recoveries", seen.len(), recovery_deaths.take());
    assert!(!seen.is_empty());
    seen
}

/// Each of what was seen is one of `stages`, in their order.
fn goes_through(seen: &[Contents], stages: &[Plain]) {
    let mut stage = 0;
    for (at, found) in seen.iter().map(unmarked).enumerate() {
        while stages[stage] != found {
            stage += 1;
            assert!(stage < stages.len(), "death {at}: {found:?} is none of what may be, or was taken back");
        }
    }
    assert_eq!(stage, stages.len() - 1, "the last stage was never reached");
}

fn queues<const N: usize>(all: [Said<'_>; N]) -> Plain {
    all.into_iter().map(|(source, text, queue)| ((address(source), text), queue.to_vec())).collect()
}

fn nothing(_: &mut Lanes) {}

#[test]
fn a_put_happens_whole_or_not_at_all() {
    for (name, bytes, repeats) in [("put small", 10, false), ("put large", 6000, false), ("put repeating", 10, true)] {
        let operation = |mailbox: &mut Mailbox| put(mailbox, "a", "k", 1, bytes, repeats);
        let seen = kill_at_every_store(name, 3, |_, _| {}, nothing, operation);
        goes_through(&seen, &[queues([]), queues([("a", "k", &[(1, bytes)])])]);
    }
}

#[test]
fn a_put_behind_others_happens_whole_or_not_at_all() {
    let prepare = |_: &mut Lanes, mailbox: &Mailbox| {
        put(mailbox, "a", "k", 1, 10, true);
        put(mailbox, "b", "k", 1, 10, true);
    };
    let operation = |mailbox: &mut Mailbox| put(mailbox, "a", "k", 2000, 10_000, true);
    let seen = kill_at_every_store("put behind", 5, prepare, nothing, operation);
    let b = ("b", "k", &[(1, 10)][..]);
    goes_through(&seen, &[queues([("a", "k", &[(1, 10)]), b]), queues([("a", "k", &[(1, 10), (2000, 10_000)]), b])]);
}

#[test]
fn a_repetition_after_a_death_is_accepted_exactly_if_the_first_was_not() {
    let objects = create();
    let worker = mailbox(&objects, &Lanes::new(), DYING);
    let copy = create();
    let (accepted, refused) = (Rc::new(RefCell::new(0)), Rc::new(RefCell::new(0)));
    let hook = {
        let (objects, accepted, refused) = (Arc::clone(&objects), Rc::clone(&accepted), Rc::clone(&refused));
        move || {
            restore(&copy, &image(&objects));
            copy.recover(DYING).unwrap();
            let heir = mailbox(&copy, &Lanes::none(), HEIR);
            let new = NewMessage { source: &address("a"), id: id(1), key: key("k"), bytes: b"x", repeats: true };
            match heir.put(&new).unwrap() {
                Accepted::Now => *accepted.borrow_mut() += 1,
                Accepted::Before => *refused.borrow_mut() += 1,
            }
            assert_eq!(heir.usage().messages, 1, "there is one, however often it was sent");
        }
    };
    let observing = observe(hook);
    put(&worker, "a", "k", 1, 1, true);
    drop(observing);
    assert!(accepted.take() > 0 && refused.take() > 0);
}

fn small_from_lanes(lanes: &mut Lanes) {
    lanes.send(0, 1, "k", 10);
    lanes.send(1, 2, "k", 100);
    lanes.send(0, 3, "other", 10);
    lanes.send(1, 4, "k", 200);
}

fn large_from_lanes(lanes: &mut Lanes) {
    lanes.send(0, 1, "k", 1000);
    lanes.send(1, 2, "k", 2000);
    lanes.send(1, 3, "k", 10);
    lanes.send(0, 4, "other", 3000);
}

#[test]
fn what_a_dying_worker_takes_from_lanes_is_received_again_in_order() {
    for (name, send) in [("take small", small_from_lanes as fn(&mut Lanes)), ("take large", large_from_lanes)] {
        let operation = |mailbox: &mut Mailbox| {
            for text in ["k", "other"] {
                while mailbox.take(Wanted::One(&address("lane")), key(text)).unwrap().is_some() {}
            }
        };
        let seen = kill_at_every_store(name, 25, |_, _| {}, send, operation);
        let first = unmarked(&seen[0]);
        assert_eq!(first.values().map(Vec::len).sum::<usize>(), 4);
        goes_through(&seen, &[first]);
        let last = seen.last().unwrap();
        assert!(last.values().flatten().all(|&(.., redelivered)| redelivered), "{last:?} is not marked");
    }
}

#[test]
fn messages_between_queues_and_calls_are_never_lost_or_doubled() {
    let prepare = |lanes: &mut Lanes, mailbox: &Mailbox| {
        for sequence in 1..=3 {
            put(mailbox, "a", "k", sequence, 10 * sequence as usize, false);
            put(mailbox, "b", "k", sequence, 300, false);
        }
        small_from_lanes(lanes);
    };
    let operation = |mailbox: &mut Mailbox| {
        while mailbox.take(Wanted::Any, key("k")).unwrap().is_some() {}
        mailbox.release_all().unwrap();
        assert!(mailbox.take(Wanted::Of(&[address("a"), address("b")]), key("k")).unwrap().is_some());
        mailbox.peek(Wanted::Any, key("other")).unwrap().unwrap();
        mailbox.release_all().unwrap();
    };
    let seen = kill_at_every_store("take and release", 40, prepare, nothing, operation);
    let first = unmarked(&seen[0]);
    assert_eq!(first.values().map(Vec::len).sum::<usize>(), 10);
    goes_through(&seen, &[first]);
}

#[test]
fn messages_of_a_lane_that_is_gone_are_lost_one_by_one() {
    let (objects, copy) = (create(), create());
    let (mut gone, mut lanes) = (Lanes::new(), Lanes::new());
    let mut worker = mailbox(&objects, &gone, DYING);
    (1..=3).for_each(|sequence| gone.send(0, sequence, "k", 1000));
    assert_eq!(worker.peek(Wanted::Any, key("other")), Ok(None), "they are queued");
    assert!((0..SLOTS).all(|slot| worker.remove_lane(slot)));
    lanes.attach_as(&worker, 10);
    lanes.send(0, 4, "other", 10);
    worker.take(Wanted::Any, key("other")).unwrap().unwrap().accept().unwrap();
    let left = Rc::new(RefCell::new(Vec::new()));
    let hook = {
        let (objects, left) = (Arc::clone(&objects), Rc::clone(&left));
        move || {
            restore(&copy, &image(&objects));
            copy.recover(DYING).unwrap();
            left.borrow_mut().push(copy.check().unwrap().mail.queued);
            let heir = mailbox(&copy, &Lanes::none(), HEIR);
            assert!(heir.take(Wanted::Any, key("k")).unwrap().is_none());
            let checked = copy.check().unwrap().mail;
            assert_eq!((checked.queued, checked.unfinished), (0, 0));
        }
    };
    let observing = observe(hook);
    assert!(worker.take(Wanted::Any, key("k")).unwrap().is_none());
    drop(observing);
    let mut left = left.take();
    left.dedup();
    assert_eq!(left, [3, 2, 1, 0]);
}

#[test]
fn an_accepted_message_is_gone_at_one_instant() {
    for (name, bytes) in [("accept small", 10), ("accept large", 5000)] {
        let operation = |mailbox: &mut Mailbox| {
            let first = mailbox.take(Wanted::Any, key("k")).unwrap().unwrap();
            let second = mailbox.take(Wanted::Any, key("k")).unwrap().unwrap();
            let third = mailbox.take(Wanted::Any, key("k")).unwrap().unwrap();
            second.accept().unwrap();
            first.accept().unwrap();
            third.accept().unwrap();
        };
        let send = |lanes: &mut Lanes| (1..=3).for_each(|sequence| lanes.send(0, sequence, "k", bytes));
        let seen = kill_at_every_store(name, 25, |_, _| {}, send, operation);
        let left = |sequences: &[u64]| {
            let queue: Vec<_> = sequences.iter().map(|&sequence| (sequence, bytes)).collect();
            queues([("lane", "k", &queue)])
        };
        goes_through(&seen, &[left(&[1, 2, 3]), left(&[1, 3]), left(&[3]), queues([])]);
    }
}

#[test]
fn all_messages_of_a_call_that_ends_well_are_gone_at_the_same_instant() {
    for (name, count) in [("accept all of one", 1), ("accept all of three", 3)] {
        let prepare = move |lanes: &mut Lanes, mailbox: &Mailbox| {
            lanes.send(0, 1, "k", 3000);
            put(mailbox, "a", "k", 2, 10, false);
            lanes.send(1, 3, "k", 10);
            for _ in 0..count {
                let _ = mailbox.take(Wanted::Any, key("k")).unwrap().unwrap();
            }
        };
        let seen = kill_at_every_store(name, 8, prepare, nothing, |mailbox| mailbox.accept_all().unwrap());
        let sizes: Vec<usize> = seen.iter().map(|found| found.values().map(Vec::len).sum()).collect();
        let gone_at = sizes.iter().position(|&size| size == 3 - count).expect("they were removed");
        assert!(sizes[..gone_at].iter().all(|&size| size == 3), "{sizes:?}");
        assert!(sizes[gone_at..].iter().all(|&size| size == 3 - count), "{sizes:?}");
    }
}

#[test]
fn what_the_mailbox_keeps_without_need_is_given_back_whole() {
    let prepare = |_: &mut Lanes, mailbox: &Mailbox| {
        for number in 0..70 {
            put(mailbox, "a", "k", number, 10, false);
            put(mailbox, ["c", "d", "e"][number as usize % 3], "other", number, 100, false);
        }
        for text in KEYS {
            while let Some(message) = mailbox.take(Wanted::Any, key(text)).unwrap() {
                message.accept().unwrap();
            }
        }
    };
    let operation = |mailbox: &mut Mailbox| {
        let (source, bytes) = (address("a"), vec![1; 300_000]);
        let new = NewMessage { source: &source, id: id(1), key: key("k"), bytes: &bytes, repeats: false };
        assert!(matches!(mailbox.put(&new), Err(MailError::Full { .. })));
    };
    let seen = kill_at_every_store("give back", 150, prepare, nothing, operation);
    goes_through(&seen, &[queues([])]);
}

/// What is put again after a death is known if it came by a lane, whoever has collected it.
#[test]
fn a_message_claimed_in_its_only_lane_is_held_accepted_and_given_back_as_any_other() {
    let source = address("lane");
    let take =
        |mailbox: &Mailbox| mailbox.take(Wanted::One(&source), key("k")).map(|taken| taken.expect("it has come").id());
    let accept = |mailbox: &Mailbox| {
        let taken = mailbox.take(Wanted::One(&source), key("k")).unwrap().expect("it has come");
        assert_eq!(taken.bytes(), [2; 60]);
        taken.accept().unwrap();
    };
    let accept_among_others = |mailbox: &mut Mailbox| {
        let taken = mailbox.take(Wanted::One(&source), key("k")).unwrap().expect("it has come");
        // Whoever uses the mailbox in another way settles the claim.
        put(mailbox, "a", "other", 6, 10, false);
        taken.accept().unwrap();
    };
    let end_well = |mailbox: &mut Mailbox| {
        take(mailbox).unwrap();
        mailbox.accept_all().unwrap();
    };
    let fail = |mailbox: &mut Mailbox| {
        take(mailbox).unwrap();
        mailbox.release_all().unwrap();
    };
    let (both, lane, other) =
        (("lane", "k", &[(2, 60), (3, 5)][..]), ("lane", "k", &[(3, 5)][..]), ("a", "other", &[(6, 10)][..]));
    let (before, after) = (queues([both]), queues([lane]));
    let among_others = [before.clone(), queues([both, other]), queues([lane, other])];
    type Operation<'o> = &'o dyn Fn(&mut Mailbox);
    let operations: [(&str, Operation<'_>, &[Plain]); 4] = [
        ("claim, accept", &|mailbox| accept(mailbox), &[before.clone(), after.clone()]),
        ("claim, put, accept", &accept_among_others, &among_others),
        ("claim, end of the call", &end_well, &[before.clone(), after]),
        ("claim, failure", &fail, &[before]),
    ];
    for (name, operation, stages) in operations {
        let prepare = |lanes: &mut Lanes, mailbox: &Mailbox| {
            // The first one's block is spare from then on, and the way to it is known.
            lanes.send(0, 1, "k", 10);
            mailbox.take(Wanted::One(&source), key("k")).unwrap().expect("it has come").accept().unwrap();
        };
        let send = |lanes: &mut Lanes| {
            lanes.send(0, 2, "k", 60);
            lanes.send(0, 3, "k", 5);
        };
        let seen = kill_with(Lanes::sole(), name, 2, prepare, send, operation);
        goes_through(&seen, stages);
        let is_marked = |found: &Contents| found.values().flatten().any(|&(one, _, marked)| one == 2 && marked);
        assert!(seen.iter().any(is_marked), "nobody has died while it was held");
        let is_unmarked = |found: &Contents| found.values().flatten().any(|&(one, _, marked)| one == 2 && !marked);
        assert!(is_unmarked(&seen[0]), "who has just locked holds nothing");
    }
}

fn repetition(mailbox: &Mailbox, text: &str, sequence: u64, bytes: usize) -> Accepted {
    let (source, bytes) = (address("lane"), vec![sequence as u8; bytes]);
    mailbox
        .put(&NewMessage { source: &source, id: id(sequence), key: key(text), bytes: &bytes, repeats: true })
        .unwrap()
}

#[test]
fn what_comes_from_another_host_is_taken_once_whoever_dies_while_taking_it() {
    for (name, send) in [("remote small", small_from_lanes as fn(&mut Lanes)), ("remote large", large_from_lanes)] {
        let operation = |mailbox: &mut Mailbox| {
            for text in KEYS {
                while mailbox.take(Wanted::One(&address("lane")), key(text)).unwrap().is_some() {}
            }
        };
        let seen = kill_with(Lanes::remote(), name, 60, |_, _| {}, send, operation);
        let first = unmarked(&seen[0]);
        assert_eq!(first.values().map(Vec::len).sum::<usize>(), 4);
        goes_through(&seen, &[first]);
    }
}

#[test]
fn a_repetition_of_what_lies_in_a_lane_changes_nothing_whoever_dies_while_judging_it() {
    for (name, send) in [("judge small", small_from_lanes as fn(&mut Lanes)), ("judge large", large_from_lanes)] {
        let operation = |mailbox: &mut Mailbox| {
            for (text, sequence) in [("k", 2), ("k", 1)] {
                assert_eq!(repetition(mailbox, text, sequence, 2000), Accepted::Before);
            }
        };
        let seen = kill_with(Lanes::remote(), name, 60, |_, _| {}, send, operation);
        let first = unmarked(&seen[0]);
        assert_eq!(first.values().map(Vec::len).sum::<usize>(), 4);
        goes_through(&seen, &[first]);
    }
}

#[test]
fn a_message_that_was_put_and_comes_by_a_lane_as_well_is_there_once_whoever_dies() {
    for bytes in [10, 3000] {
        // Put before this worker's lanes had anything of it, as when the lane's sender was slow.
        let prepare = move |_: &mut Lanes, mailbox: &Mailbox| {
            assert_eq!(repetition(mailbox, "k", 1, bytes), Accepted::Now);
            assert_eq!(repetition(mailbox, "k", 2, bytes), Accepted::Now);
        };
        let send = move |lanes: &mut Lanes| (1..=3).for_each(|sequence| lanes.send(0, sequence, "k", bytes));
        let operation = |mailbox: &mut Mailbox| {
            while mailbox.take(Wanted::Any, key("k")).unwrap().is_some() {}
        };
        let seen = kill_with(Lanes::remote(), "put and sent", 60, prepare, send, operation);
        goes_through(&seen, &[queues([("lane", "k", &[(1, bytes), (2, bytes), (3, bytes)])])]);
    }
}

#[test]
fn after_any_death_a_put_knows_what_came_by_a_lane() {
    let (objects, copy) = (create(), create());
    let mut lanes = Lanes::remote();
    small_from_lanes(&mut lanes);
    let worker = mailbox(&objects, &lanes, DYING);
    let lanes = Rc::new(lanes);
    let deaths = Rc::new(RefCell::new(0));
    let hook = {
        let (objects, lanes, deaths) = (Arc::clone(&objects), Rc::clone(&lanes), Rc::clone(&deaths));
        move || {
            let lanes_left = lanes_image(&lanes);
            restore(&copy, &image(&objects));
            copy.recover(DYING).unwrap();
            let heir = mailbox(&copy, &lanes, HEIR);
            for (text, sequence, bytes) in [("k", 4, 200), ("other", 3, 10), ("k", 1, 10), ("k", 2, 100)] {
                assert_eq!(repetition(&heir, text, sequence, bytes), Accepted::Before, "{sequence}");
            }
            assert_eq!(repetition(&heir, "k", 5, 10), Accepted::Now);
            drop(heir);
            let found = unmarked(&contents(&copy, &lanes));
            assert_eq!(found[&(address("lane"), "k")], [(1, 10), (2, 100), (4, 200), (5, 10)]);
            assert_eq!(found[&(address("lane"), "other")], [(3, 10)]);
            restore_lanes(&lanes, &lanes_left);
            *deaths.borrow_mut() += 1;
        }
    };
    let observing = observe(hook);
    for text in KEYS {
        while worker.take(Wanted::Any, key(text)).unwrap().is_some() {}
    }
    drop(observing);
    assert!(deaths.take() > 100);
}
