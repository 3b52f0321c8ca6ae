//! A writer that dies at any store of any operation of a process that is logged.
//!
//! After each store segment and ring are copied: that is what a `kill -9` at that instruction leaves behind. On the copies
//! the server recovers, and then what the ring has committed must make what the segment holds: a record is there if and only
//! if its change has happened.
#![cfg(not(loom))]
#![allow(clippy::cast_possible_truncation, reason = "small numbers of a test's own")]

#[path = "support/logged.rs"]
mod logged;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use logged::{Logged, RING_BYTES, image, put_message, records, restore, user};
use praas_protocol::Key;
use praas_shm::WorkerTag;
use praas_shm::log_ring::{Contents, LogReader, LogWriter, Replay};
use praas_shm::mailbox::{Mailbox, Wanted};
use praas_shm::objects::steps::observe;
use praas_shm::objects::{Condition, Meta, Objects, Store};

const LIMIT_BYTES: u64 = 512 << 10;
const DYING: WorkerTag = WorkerTag::new(0, 1);
/// What the tests write into a ring at most, with its words.
const RING_IMAGE_BYTES: usize = 256 << 10;

/// The copies on which recoveries are tried.
struct Trial {
    objects: Arc<Objects>,
}

impl Trial {
    fn new() -> Self {
        Self { objects: Logged::create(LIMIT_BYTES).objects }
    }

    /// What the server finds and makes of it. True if the change has happened.
    fn recover(&self, segment: &[u8], ring: &[u8], before: &Contents) -> bool {
        let log = self.objects.log().unwrap();
        restore(self.objects.fd(), segment);
        restore(log.fd(), ring);
        self.objects.recover(DYING).unwrap();
        self.objects.check().unwrap();
        let found = Contents::of(&self.objects).unwrap();
        let fd = log.fd().try_clone_to_owned().unwrap();
        let mut reader = LogReader::attach(fd, RING_BYTES, 0).unwrap();
        let mut replay = Replay::default();
        replay.apply_all(&records(&mut reader)).unwrap();
        assert_eq!(replay.contents(), &found, "the log is not what has happened");
        assert_eq!(reader.position(), found.position);
        found != *before
    }
}

/// Lets the worker die after each store of `operation`.
fn kill_at_each_step(
    name: &str,
    prepare: impl FnOnce(&Store, &mut Mailbox),
    operation: impl FnOnce(&Store, &mut Mailbox),
) {
    let process = Logged::create(LIMIT_BYTES);
    let (store, mut mailbox) = (process.store(DYING), process.mailbox(DYING));
    prepare(&store, &mut mailbox);
    let before = Contents::of(&process.objects).unwrap();
    let tallies = Rc::new(RefCell::new((0, 0)));
    let trial = Trial::new();
    let observed = {
        let (objects, tallies, before) = (Arc::clone(&process.objects), Rc::clone(&tallies), before.clone());
        observe(move || {
            let segment = image(objects.fd(), objects.layout().segment_bytes());
            let ring = image(objects.log().unwrap().fd(), RING_IMAGE_BYTES);
            let happened = trial.recover(&segment, &ring, &before);
            let (steps, changed) = &mut *tallies.borrow_mut();
            *steps += 1;
            *changed += usize::from(happened);
        })
    };
    operation(&store, &mut mailbox);
    drop(observed);
    let (steps, changed) = *tallies.borrow();
    assert!(steps > 5 && changed > 0 && changed < steps, "{name}: {changed} of {steps} steps after the change");
}

fn key(text: &str) -> Key<'_> {
    Key::new(text).unwrap()
}

#[test]
fn puts_are_in_the_log_if_and_only_if_they_happened() {
    let put = |store: &Store, bytes: usize| {
        store.put(&user("k"), &vec![7; bytes], Meta::RAW, Condition::Any).unwrap();
    };
    kill_at_each_step("a new object", |_, _| {}, |store, _| put(store, 40));
    kill_at_each_step("another version", |store, _| put(store, 3000), |store, _| put(store, 40));
    kill_at_each_step("a loan", |store, _| put(store, 40), |store, _| put(store, 10_000));
    kill_at_each_step("pieces", |store, _| put(store, 40), |store, _| put(store, 100_000));
    kill_at_each_step(
        "a loan that was cut",
        |_, _| {},
        |store, _| {
            let mut loan = store.loan(&user("k"), 5000).unwrap();
            loan.write(0, &[3; 5000]);
            loan.truncate(70);
            loan.publish(Meta::RAW, Condition::Absent).map_err(|unpublished| unpublished.error).unwrap();
        },
    );
}

#[test]
fn deletes_are_in_the_log_if_and_only_if_they_happened() {
    kill_at_each_step(
        "a delete",
        |store, _| {
            store.put(&user("k"), b"value", Meta::RAW, Condition::Any).unwrap();
        },
        |store, _| {
            store.delete(&user("k"), Condition::Any).unwrap();
        },
    );
}

#[test]
fn messages_are_in_the_log_if_and_only_if_they_came() {
    for (name, bytes, repeats) in
        [("small", 10, false), ("filtered", 10, true), ("filled outside", 9000, true), ("pieces", 70_000, false)]
    {
        kill_at_each_step(
            name,
            |_, mailbox| assert!(put_message(mailbox, "alice", "k", 1, b"before", repeats).is_ok()),
            |_, mailbox| assert!(put_message(mailbox, "alice", "k", 2, &vec![5; bytes], repeats).is_ok()),
        );
    }
}

#[test]
fn removals_are_in_the_log_if_and_only_if_they_happened() {
    let take = |mailbox: &Mailbox, count: usize, accept: bool| {
        for _ in 0..count {
            let message = mailbox.take(Wanted::Any, key("k")).unwrap().unwrap();
            if accept {
                message.accept().unwrap();
            }
        }
    };
    let three = |mailbox: &Mailbox| {
        for sequence in 1..=3 {
            put_message(mailbox, "alice", "k", sequence, b"text", true).unwrap();
        }
    };
    kill_at_each_step("accepted", |_, mailbox| three(mailbox), |_, mailbox| take(mailbox, 1, true));
    kill_at_each_step(
        "one at the end of a call",
        |_, mailbox| {
            three(mailbox);
            take(mailbox, 1, false);
        },
        |_, mailbox| mailbox.accept_all().unwrap(),
    );
    kill_at_each_step(
        "many at the end of a call, at one instant",
        |_, mailbox| {
            three(mailbox);
            take(mailbox, 3, false);
        },
        |_, mailbox| mailbox.accept_all().unwrap(),
    );
    let process = Logged::create(LIMIT_BYTES);
    let mut mailbox = process.mailbox(DYING);
    three(&mailbox);
    take(&mailbox, 3, false);
    let before = process.objects.position();
    mailbox.accept_all().unwrap();
    let after = (process.objects.position(), mailbox.usage().messages);
    assert_eq!(after, (before + 1, 0), "one position for all of them");
}

#[test]
fn a_tail_that_its_writer_could_not_publish_is_published_by_the_next_one() {
    let process = Logged::create(LIMIT_BYTES);
    let store = process.store(DYING);
    store.put(&user("first"), b"1", Meta::RAW, Condition::Any).unwrap();
    let published = image(process.log().fd(), RING_IMAGE_BYTES);
    store.put(&user("second"), b"2", Meta::RAW, Condition::Any).unwrap();
    // Only the word for what is committed is as it was before, as after a death between the commit and its store.
    let mut now = image(process.log().fd(), RING_IMAGE_BYTES);
    now[128..136].copy_from_slice(&published[128..136]);
    restore(process.log().fd(), &now);
    let mut reader = process.reader();
    records(&mut reader);
    assert_eq!(reader.position(), 1);
    let other = process.store(WorkerTag::new(1, 1));
    other.put(&user("third"), b"3", Meta::RAW, Condition::Any).unwrap();
    let fd = process.log().fd().try_clone_to_owned().unwrap();
    let mut reader = LogReader::attach(fd, RING_BYTES, 0).unwrap();
    records(&mut reader);
    assert_eq!(reader.position(), 3);
}

#[test]
fn a_new_ring_begins_at_the_position_that_was_found() {
    let process = Logged::create(LIMIT_BYTES);
    process.store(DYING).put(&user("first"), b"1", Meta::RAW, Condition::Any).unwrap();
    let fd = process.objects.fd().try_clone_to_owned().unwrap();
    let layout = process.objects.layout();
    drop(process);
    let (_listen, ring) = rustix::pipe::pipe().unwrap();
    let mut objects = Objects::attach(fd, layout).unwrap();
    objects.recover_all().unwrap();
    objects.begin_log(LogWriter::create(RING_BYTES, ring).unwrap());
    let objects = Arc::new(objects);
    let mut replay = Replay::new(Contents::of(&objects).unwrap());
    let log = objects.log().unwrap().fd().try_clone_to_owned().unwrap();
    let mut reader = LogReader::attach(log, RING_BYTES, objects.position()).unwrap();
    let store = objects.worker_store(WorkerTag::new(0, 2)).unwrap();
    store.put(&user("second"), b"2", Meta::RAW, Condition::Any).unwrap();
    replay.apply_all(&records(&mut reader)).unwrap();
    assert_eq!(replay.contents(), &Contents::of(&objects).unwrap());
}
