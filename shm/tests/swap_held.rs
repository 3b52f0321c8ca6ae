//! A cut of a process that goes on: it shows one position, whatever is done meanwhile, and makes nothing fail.
#![cfg(not(loom))]
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small numbers of a test's own")]

#[path = "support/messages.rs"]
mod messages;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use praas_protocol::message::{Accepted, Address, MessageId};
use praas_shm::WorkerTag;
use praas_shm::mail_bell::MailBell;
use praas_shm::mailbox::{InboundLane, Mailbox, NewMessage, Wanted};
use praas_shm::message_lane::Inbound;
use praas_shm::objects::{Condition, Key, Meta, Namespace, Objects, ObjectsLayout, StateError, Store};
use praas_shm::swap::{CutValue, HeldCut, HeldCutError, Import, ImportFacts, ImportedObject, QuietCut, ReturnedLane};
use proptest::prelude::*;

use messages::{Host, SMALL, copy_of, id, pattern};

const FIRST: WorkerTag = WorkerTag::new(0, 1);
const SECOND: WorkerTag = WorkerTag::new(1, 1);
/// Rounds of the test with threads: each begins, reads and drops a cut.
const ROUNDS: usize = 12;
const WRITERS: usize = 3;
/// Keys of each writer.
const KEYS: u64 = 700;

fn segment(limit_bytes: u64) -> Arc<Objects> {
    Arc::new(Objects::create(ObjectsLayout::for_limit(limit_bytes).unwrap()).unwrap())
}

fn key(text: &str) -> Key<'_> {
    Key::new(Namespace::USER, text).unwrap()
}

fn put(store: &Store, text: &str, value: &[u8]) -> u64 {
    store.put(&key(text), value, Meta::RAW, Condition::Any).unwrap()
}

/// Version and value of each key.
type Contents = BTreeMap<String, (u64, Vec<u8>)>;

/// What a cut shows, each value in two pieces.
fn shown(cut: &HeldCut) -> Result<Contents, HeldCutError> {
    let mut all = Contents::new();
    cut.objects(|object| {
        let CutValue::Here { token } = object.value else { panic!("nothing was stored: {object:?}") };
        let mut value = vec![0; object.header.value_bytes as usize];
        let half = value.len() / 2;
        cut.read(token, 0, &mut value[..half])?;
        cut.read(token, half as u64, &mut value[half..])?;
        let before = all.insert(object.key.text().to_owned(), (object.header.version, value));
        assert!(before.is_none(), "{} twice", object.key.text());
        Ok::<_, HeldCutError>(())
    })?;
    assert_eq!(all.len() as u64, cut.object_count());
    Ok(all)
}

fn held(objects: &Arc<Objects>) -> HeldCut {
    HeldCut::begin(Arc::clone(objects), Vec::new()).unwrap()
}

/// Nothing is held and nothing was lost.
fn is_tidy(objects: &Objects) {
    let checked = objects.check().unwrap();
    assert_eq!((checked.kept, checked.loans), (0, 0));
}

/// What is done to one key.
#[derive(Debug, Clone)]
enum Change {
    Put { key: u8, bytes: usize },
    Delete { key: u8 },
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let bytes = prop_oneof![0..64_usize, 60..300_usize, Just(5000), Just(70_000)];
    let change = prop_oneof![
        4 => (any::<u8>(), bytes).prop_map(|(key, bytes)| Change::Put { key, bytes }),
        1 => any::<u8>().prop_map(|key| Change::Delete { key }),
    ];
    proptest::collection::vec(change, 0..150)
}

fn carry_out(store: &Store, model: &mut Contents, changes: &[Change], salt: u64) {
    for (number, change) in (salt..).zip(changes) {
        match *change {
            Change::Put { key, bytes } => {
                let (text, value) = (format!("key-{key}"), pattern(bytes, number));
                let version = put(store, &text, &value);
                model.insert(text, (version, value));
            }
            Change::Delete { key: number } => {
                let text = format!("key-{number}");
                let was_there = store.delete(&key(&text), Condition::Any).unwrap().is_some();
                assert_eq!(model.remove(&text).is_some(), was_there);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn a_cut_shows_its_position_whatever_is_changed_while_it_is_held(
        before in changes(), meanwhile in changes(), later in changes(), after in changes(),
    ) {
        let objects = segment(16 << 20);
        let store = objects.worker_store(FIRST).unwrap();
        let mut model = Contents::new();
        carry_out(&store, &mut model, &before, 0);
        let first = held(&objects);
        prop_assert_eq!(first.position(), objects.position());
        let expected = model.clone();
        carry_out(&store, &mut model, &meanwhile, 1000);
        objects.check().unwrap();
        prop_assert!(shown(&first).unwrap() == expected, "changed under the cut");
        prop_assert!(shown(&first).unwrap() == expected, "shown once, shown again");
        // The next one ends the first.
        let second = held(&objects);
        let expected = model.clone();
        carry_out(&store, &mut model, &later, 2000);
        let ended = matches!(shown(&first), Err(HeldCutError::Over { .. }));
        prop_assert!(ended || first.object_count() == 0, "it was ended by the second");
        drop(first);
        prop_assert!(shown(&second).unwrap() == expected, "ended by the drop of another");
        drop(second);
        is_tidy(&objects);
        carry_out(&store, &mut model, &after, 3000);
        prop_assert!(shown(&held(&objects)).unwrap() == model);
        is_tidy(&objects);
    }
}

/// A random number after another one.
fn next(random: &mut u64) -> u64 {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    *random
}

/// Version, key, and the value's length and salt; no value after a delete.
type Done = (u64, String, Option<(usize, u64)>);

fn write_until(over: &AtomicBool, store: &Store, writer: usize, mut random: u64) -> Vec<Done> {
    let mut done = Vec::new();
    while !over.load(Ordering::Relaxed) {
        let number = next(&mut random);
        let text = format!("{writer}/{}", number % KEYS);
        let kind = number >> 32;
        if kind.is_multiple_of(8) {
            if let Some(version) = store.delete(&key(&text), Condition::Any).unwrap() {
                done.push((version, text, None));
            }
        } else {
            let bytes = [40, 300, 900, 6000][kind as usize % 4];
            let version = if kind.is_multiple_of(5) {
                let mut loan = store.loan(&key(&text), bytes as u32 + 100).unwrap();
                loan.write(0, &pattern(bytes, number));
                loan.truncate(bytes);
                store.publish(loan, Meta::RAW, Condition::Any).unwrap()
            } else {
                put(store, &text, &pattern(bytes, number))
            };
            done.push((version, text, Some((bytes, number))));
        }
    }
    done
}

#[test]
fn cuts_under_writers_show_everything_up_to_their_positions_and_nothing_else() {
    let seed = std::env::var("PRAAS_TEST_SEED").ok().and_then(|text| text.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| std::process::id().into());
    println!("seed {seed} (PRAAS_TEST_SEED)");
    let objects = segment(64 << 20);
    let over = AtomicBool::new(false);
    let (cuts, mut done) = thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (objects, over) = (&objects, &over);
                let random = (seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15 + 2 * writer as u64);
                scope.spawn(move || {
                    let store = objects.worker_store(WorkerTag::new(writer as u8, 1)).unwrap();
                    write_until(over, &store, writer, random)
                })
            })
            .collect();
        let mut cuts = Vec::new();
        while cuts.len() < ROUNDS {
            // Until something was done since the last one.
            if cuts.last().is_none_or(|(position, _)| *position + 200 < objects.position()) {
                let cut = held(&objects);
                cuts.push((cut.position(), shown(&cut).unwrap()));
                assert!(shown(&cut).unwrap() == cuts.last().unwrap().1, "shown once, shown again");
            }
            thread::yield_now();
        }
        over.store(true, Ordering::Relaxed);
        let done = writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect::<Vec<_>>();
        (cuts, done)
    });
    done.sort_unstable();
    let mut model = Contents::new();
    let mut done = done.into_iter().peekable();
    for (position, found) in cuts {
        while let Some((version, text, value)) = done.next_if(|(version, ..)| *version <= position) {
            match value {
                Some((bytes, salt)) => model.insert(text, (version, pattern(bytes, salt))),
                None => model.remove(&text),
            };
        }
        assert!(found == model, "position {position}: {} objects, expected {}", found.len(), model.len());
    }
    is_tidy(&objects);
}

#[test]
fn a_writer_without_room_ends_the_cut_and_nobody_is_given_what_came_later() {
    let objects = segment(1 << 20);
    let store = objects.worker_store(FIRST).unwrap();
    // More than half of it: it cannot be kept twice.
    (0..6).for_each(|number| _ = put(&store, &format!("{number}"), &pattern(100_000, number)));
    let cut = held(&objects);
    let expected = shown(&cut).unwrap();
    let mut rounds = 0;
    while let Ok(found) = shown(&cut) {
        assert!(found == expected);
        rounds += 1;
        // Never refused.
        put(&store, &format!("{}", rounds % 6), &pattern(100_000, 100 + rounds));
        assert!(rounds < 20, "it was to have no room");
    }
    assert!(rounds > 1, "there was room for one");
    let mut bytes = [0; 10];
    let refused = cut.read(cut.segment().usage().position, 0, &mut bytes);
    assert!(matches!(refused, Err(HeldCutError::Over { .. })), "{refused:?}");
    is_tidy(&objects);
    drop(cut);
    // The next one begins anew.
    assert_eq!(shown(&held(&objects)).unwrap().len(), 6);
}

#[test]
fn a_message_without_room_ends_the_cut_too() {
    let objects = segment(1 << 20);
    let store = objects.worker_store(FIRST).unwrap();
    put(&store, "replaced", &pattern(300_000, 1));
    put(&store, "filler", &pattern(objects.usage().free_bytes as usize - 200_000, 1));
    let cut = held(&objects);
    put(&store, "replaced", b"");
    let mail = Mailbox::new(Arc::clone(&objects), FIRST, MailBell::create().unwrap()).unwrap();
    let (from, id) = (source(), MessageId { incarnation: 1, sequence: 1 });
    let topic = praas_protocol::Key::new("topic").unwrap();
    let bytes = pattern(250_000, 3);
    let put = mail.put(&NewMessage { source: &from, id, key: topic, bytes: &bytes, repeats: false });
    assert_eq!(put, Ok(Accepted::Now));
    assert!(matches!(shown(&cut), Err(HeldCutError::Over { .. })));
    is_tidy(&objects);
}

#[test]
fn a_server_that_dies_with_a_cut_leaves_nothing_behind() {
    let objects = segment(4 << 20);
    let store = objects.worker_store(FIRST).unwrap();
    (0..100).for_each(|number| _ = put(&store, &format!("{number}"), &pattern(1000, number)));
    let cut = held(&objects);
    (0..100).for_each(|number| _ = put(&store, &format!("{number}"), &pattern(900, number)));
    assert_eq!(objects.check().unwrap().kept, 100);
    std::mem::forget((cut, store));
    objects.recover_all().unwrap();
    is_tidy(&objects);
    let quiet = QuietCut::begin(Arc::clone(&objects), Vec::new()).unwrap();
    assert_eq!(quiet.object_count(), 100);
}

#[test]
fn a_cut_waits_until_all_pages_are_back() {
    let layout = ObjectsLayout::for_limit(4 << 20).unwrap();
    let facts = ImportFacts { hash_seed: Some(7), position: 10 };
    let import = Import::create_restoring(layout, &facts, 2).unwrap();
    let objects = Arc::new(import.finish().unwrap());
    let refused = HeldCut::begin(objects, Vec::new());
    assert!(matches!(refused, Err(HeldCutError::Restoring { absent_pages: 4 })), "{refused:?}");
}

fn source() -> Address {
    "sender".parse().unwrap()
}

/// Sequences and marks of the messages of a cut, whose payloads are checked.
fn kept(cut: &HeldCut) -> Vec<(u64, bool)> {
    let mail = cut.remainder().mail.iter();
    mail.map(|kept| {
        let sequence = kept.message.id.sequence;
        assert!(kept.message.payload == payload(sequence), "payload of message {sequence}");
        (sequence, kept.is_redelivered)
    })
    .collect()
}

/// Small, or in a block of the lane.
fn payload(sequence: u64) -> Vec<u8> {
    pattern([10, 3000, 0, 9000][sequence as usize % 4], sequence)
}

#[test]
fn messages_that_have_a_position_are_in_the_cut_and_those_in_lanes_are_not_and_all_are_received() {
    let objects = segment(4 << 20);
    let host = Host::new(SMALL);
    let lane = |inbound| InboundLane { slot: 0, serial: 1, source: source(), inbound, repeats: false };
    let mut sender = host.sender();
    let mailbox = Mailbox::new(Arc::clone(&objects), FIRST, host.bell()).unwrap();
    mailbox.add_lane(lane(Inbound::attach(copy_of(host.lane.fd()), &SMALL).unwrap())).unwrap();
    let topic = messages::key("k");
    for sequence in 1..=8 {
        sender.try_send(id(sequence), topic, &payload(sequence)).unwrap();
    }
    // All are taken out of the lane, one is accepted, one held.
    let wanted = messages::key("another");
    assert!(mailbox.take(Wanted::Any, wanted).unwrap().is_none());
    mailbox.take(Wanted::Any, topic).unwrap().unwrap().accept().unwrap();
    let second = mailbox.take(Wanted::Any, topic).unwrap().unwrap();
    assert_eq!(second.id().sequence, 2);
    for sequence in 9..=12 {
        sender.try_send(id(sequence), topic, &payload(sequence)).unwrap();
    }
    let missing = HeldCut::begin(Arc::clone(&objects), Vec::new());
    assert!(matches!(missing, Err(HeldCutError::Mail(_))), "payloads lie in a lane that was not given: {missing:?}");
    let cut = HeldCut::begin(Arc::clone(&objects), vec![lane(host.lane.inbound())]).unwrap();
    let expected: Vec<_> = (2..=8).map(|sequence| (sequence, false)).collect();
    assert_eq!(kept(&cut), expected);
    // The process goes on, and gets each of them once.
    second.accept().unwrap();
    for sequence in 3..=12 {
        let received = mailbox.take(Wanted::Any, topic).unwrap().unwrap();
        assert_eq!((received.id().sequence, received.is_redelivered()), (sequence, false));
        assert!(received.bytes() == payload(sequence));
        received.accept().unwrap();
    }
    assert!(mailbox.take(Wanted::Any, topic).unwrap().is_none());
    assert_eq!(kept(&cut), expected);
    sender.try_send(id(13), topic, &payload(13)).unwrap();
    assert_eq!(mailbox.take(Wanted::Any, topic).unwrap().unwrap().id().sequence, 13);

    // Whoever begins from the cut gets those of its position.
    let facts = ImportFacts { hash_seed: Some(cut.hash_seed()), position: cut.position() };
    let import = Import::create(objects.layout(), &facts).unwrap();
    cut.objects(|object| {
        let CutValue::Here { token } = object.value else { panic!("nothing was stored") };
        let mut value = vec![0; object.header.value_bytes as usize];
        cut.read(token, 0, &mut value)?;
        import.put(&ImportedObject { key: object.key, header: object.header }, &value).unwrap();
        Ok::<_, HeldCutError>(())
    })
    .unwrap();
    // What lies in a lane needs no room in the state, and comes back in a lane.
    let [kept] = &cut.remainder().lanes[..] else { panic!("{:?}", cut.remainder().lanes) };
    assert!(kept.waiting.is_empty() && kept.geometry == SMALL, "{kept:?}");
    assert!(cut.remainder().mail.iter().all(|mail| mail.lane.is_some() == (mail.message.payload.len() > 200)));
    let returned = import.remainder(cut.remainder(), 7).unwrap();
    let again = Arc::new(import.finish().unwrap());
    again.check().unwrap();
    let mailbox = Mailbox::new(Arc::clone(&again), SECOND, MailBell::create().unwrap()).unwrap();
    for ReturnedLane { slot, serial, source, repeats, lane, .. } in &returned {
        let (slot, serial, source, repeats) = (*slot, *serial, *source, *repeats);
        mailbox.add_lane(InboundLane { slot, serial, source, inbound: lane.inbound(), repeats }).unwrap();
    }
    let received: Vec<_> = std::iter::from_fn(|| {
        let received = mailbox.take(Wanted::Any, topic).unwrap()?;
        let sequence = received.id().sequence;
        received.accept().unwrap();
        Some(sequence)
    })
    .collect();
    assert_eq!(received, (2..=8).collect::<Vec<_>>());
    assert!(returned.iter().all(|returned| returned.lane.is_drained()));
}

#[test]
fn a_mailbox_that_takes_too_long_to_copy_is_refused_and_left_alone() {
    let objects = segment(192 << 20);
    let mail = Mailbox::new(Arc::clone(&objects), FIRST, MailBell::create().unwrap()).unwrap();
    let (from, key) = (source(), praas_protocol::Key::new("topic").unwrap());
    let bytes = vec![7; 48 << 20];
    for sequence in 1..=3 {
        let id = MessageId { incarnation: 1, sequence };
        assert_eq!(mail.put(&NewMessage { source: &from, id, key, bytes: &bytes, repeats: false }), Ok(Accepted::Now));
    }
    let refused = HeldCut::begin(Arc::clone(&objects), Vec::new());
    assert!(matches!(refused, Err(HeldCutError::MailTooLarge { .. })), "{refused:?}");
    is_tidy(&objects);
    mail.take(Wanted::Any, key).unwrap().unwrap().accept().unwrap();
    assert_eq!(held(&objects).remainder().mail.len(), 2);
    let store = objects.worker_store(FIRST).unwrap();
    let refused = store.delete(&self::key("nothing"), Condition::Version(1));
    assert!(matches!(refused, Err(StateError::Conflict { .. })), "the lock is free: {refused:?}");
}
