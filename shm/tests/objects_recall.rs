//! Keys that a worker has found before: it finds them by another way, and what it finds is the same.
#![cfg(not(loom))]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use praas_shm::WorkerTag;
use praas_shm::objects::{Condition, Key, Meta, Namespace, Objects, ObjectsLayout, PINS_PER_WORKER, Store};

const MIB: u64 = 1 << 20;

fn objects(limit_bytes: u64) -> Arc<Objects> {
    Arc::new(Objects::create(ObjectsLayout::for_limit(limit_bytes).unwrap()).unwrap())
}

fn worker(objects: &Arc<Objects>, index: u8) -> Store {
    objects.worker_store(WorkerTag::new(index, 1)).unwrap()
}

fn key(text: &str) -> Key<'_> {
    Key::new(Namespace::USER, text).unwrap()
}

fn put(store: &Store, text: &str, value: &[u8]) -> u64 {
    store.put(&key(text), value, Meta::RAW, Condition::Any).unwrap()
}

fn value(store: &Store, text: &str) -> Option<Vec<u8>> {
    store.get(&key(text)).unwrap().map(|guard| guard.in_place().unwrap().to_vec())
}

fn is_recalled(store: &Store, text: &str) -> bool {
    store.recall(Namespace::USER, text).is_some()
}

/// Has a store remember where a key is.
fn learn(store: &Store, text: &str) {
    for _ in 0..2 {
        assert!(value(store, text).is_some());
    }
    assert!(is_recalled(store, text), "what was found twice is remembered");
}

#[test]
fn a_key_is_remembered_when_it_was_found_twice() {
    let objects = objects(MIB);
    let store = worker(&objects, 0);
    put(&store, "a", b"one");
    assert!(!is_recalled(&store, "a"));
    assert_eq!(value(&store, "a").unwrap(), b"one");
    assert!(!is_recalled(&store, "a"), "once is not often");
    learn(&store, "a");
    assert_eq!(store.recall(Namespace::USER, "a").unwrap().in_place(), Some(&b"one"[..]));
    assert!(store.recall(Namespace::SYSTEM, "a").is_none(), "another namespace has other keys");
    for other in ["", "b", "aa", "i", "a\n", &"a".repeat(300)] {
        assert!(!is_recalled(&store, other), "{other:?}");
    }
}

#[test]
fn a_remembered_key_has_the_newest_object_of_whoever_put_it() {
    let objects = objects(MIB);
    let (one, other) = (worker(&objects, 0), worker(&objects, 1));
    for text in [
        "k",
        "12345678",
        "123456789",
        "a key of exactly thirty-two byte",
        "a key that is longer than what is remembered",
    ] {
        put(&one, text, b"first");
        for _ in 0..2 {
            assert_eq!(value(&one, text).unwrap(), b"first");
        }
        for round in 0..300_u32 {
            let version = put(&other, text, &round.to_le_bytes());
            let guard = one.get(&key(text)).unwrap().unwrap();
            assert_eq!((guard.version(), guard.in_place()), (version, Some(&round.to_le_bytes()[..])));
            assert_eq!(guard.header().version, version);
        }
        assert_eq!(is_recalled(&one, text), text.len() <= 32, "{text}");
    }
}

#[test]
fn a_remembered_key_that_was_deleted_is_gone_until_it_is_put_again() {
    let objects = objects(MIB);
    let (one, other) = (worker(&objects, 0), worker(&objects, 1));
    put(&one, "a", b"one");
    learn(&one, "a");
    other.delete(&key("a"), Condition::Any).unwrap();
    assert_eq!(value(&one, "a"), None);
    assert_eq!(value(&one, "a"), None);
    // Blocks of the same size, one of which may be the very one.
    for number in 0..200 {
        put(&other, &format!("b{number}"), b"two");
        assert_eq!(value(&one, "a"), None);
    }
    put(&other, "a", b"three");
    assert_eq!(value(&one, "a").unwrap(), b"three");
}

#[test]
fn remembered_keys_are_found_while_the_index_grows() {
    let objects = objects(8 * MIB);
    let (one, other) = (worker(&objects, 0), worker(&objects, 1));
    let texts: Vec<String> = (0..8).map(|number| format!("remembered/{number}")).collect();
    for text in &texts {
        put(&one, text, text.as_bytes());
        learn(&one, text);
    }
    for number in 0..20_000 {
        put(&other, &format!("{number}"), b"");
        if number % 64 == 0 {
            for text in &texts {
                assert_eq!(value(&one, text).unwrap(), text.as_bytes());
            }
        }
    }
    for text in &texts {
        put(&other, text, b"new");
        assert_eq!(value(&one, text).unwrap(), b"new");
    }
}

#[test]
fn an_object_that_was_recalled_stays_in_view_and_its_room_comes_back() {
    let objects = objects(MIB);
    let (one, other) = (worker(&objects, 0), worker(&objects, 1));
    let large = vec![7; 200 << 10];
    put(&one, "a", &large);
    learn(&one, "a");
    for round in 0..50_u8 {
        let guard = one.recall(Namespace::USER, "a").unwrap();
        put(&other, "a", &vec![round; 200 << 10]);
        put(&other, "a", &vec![round; 200 << 10]);
        let before = if round == 0 { 7 } else { round - 1 };
        assert!(guard.in_place().unwrap().iter().all(|&byte| byte == before), "round {round}");
    }
    assert_eq!(objects.check().unwrap().keys, 1);
}

#[test]
fn recalled_objects_count_among_those_in_view() {
    let objects = objects(MIB);
    let store = worker(&objects, 0);
    put(&store, "a", b"one");
    learn(&store, "a");
    let guards: Vec<_> = (0..PINS_PER_WORKER).map(|_| store.recall(Namespace::USER, "a").unwrap()).collect();
    assert!(!is_recalled(&store, "a"));
    assert!(store.get(&key("a")).is_err(), "there are too many in view");
    drop(guards);
    assert!(is_recalled(&store, "a"));
}

#[test]
fn a_recalled_object_is_whole_and_never_older_than_one_seen_before_while_it_is_replaced() {
    let objects = objects(MIB);
    let reader = worker(&objects, 0);
    put(&reader, "a", &[0; 256]);
    learn(&reader, "a");
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (objects, over) = (&objects, &over);
        scope.spawn(move || {
            let writer = worker(objects, 1);
            for round in 0..30_000_u32 {
                let byte = round.to_le_bytes()[0];
                put(&writer, "a", &vec![byte; 64 + usize::from(byte)]);
                if round % 1000 == 0 {
                    writer.delete(&key("a"), Condition::Any).unwrap();
                }
            }
            over.store(true, Ordering::Relaxed);
        });
        let mut newest = 0;
        while !over.load(Ordering::Relaxed) {
            let Some(guard) = reader.get(&key("a")).unwrap() else { continue };
            let bytes = guard.in_place().unwrap();
            assert!(bytes.iter().all(|byte| byte == &bytes[0]), "of two versions");
            assert!(guard.version() >= newest, "older than one before");
            newest = guard.version();
        }
    });
    objects.check().unwrap();
}
