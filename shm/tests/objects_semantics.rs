//! What a process's state promises to those who use it rightly.
#![cfg(not(loom))]
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small numbers of a test's own")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use praas_shm::objects::{
    Condition, Encoding, Key, LOANS_PER_WORKER, Meta, Namespace, Objects, ObjectsLayout, PINS_PER_WORKER, Page,
    StateError, Store,
};
use praas_shm::{Scratch, WorkerTag};

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

fn page<'q>(prefix: &'q str, after: &'q str, limit: usize) -> Page<'q> {
    Page { namespace: Namespace::USER, prefix, after, limit }
}

#[test]
fn what_was_put_is_there_until_it_is_replaced_or_deleted() {
    let objects = objects(MIB);
    let store = worker(&objects, 0);
    assert_eq!(value(&store, "a"), None);
    let first = put(&store, "a", b"one");
    assert_eq!(value(&store, "a").unwrap(), b"one");
    let second = put(&store, "a", b"two, longer than one");
    assert!(second > first);
    assert_eq!(value(&store, "a").unwrap(), b"two, longer than one");
    let position = store.delete(&key("a"), Condition::Any).unwrap().unwrap();
    assert!(position > second);
    assert_eq!(value(&store, "a"), None);
    assert_eq!(store.delete(&key("a"), Condition::Any).unwrap(), None);
    assert!(put(&store, "a", b"three") > position, "versions never repeat");
    assert_eq!(objects.check().unwrap().keys, 1);
}

#[test]
fn a_large_value_that_is_put_again_and_again_takes_no_more_memory_each_time() {
    let objects = objects(64 * MIB);
    let store = worker(&objects, 0);
    let large = |byte| vec![byte; 800_000];
    for byte in 0..3 {
        put(&store, "a", &large(byte));
    }
    let allocated = objects.allocated_bytes().unwrap();
    for byte in 3..60 {
        put(&store, "a", &large(byte));
        assert_eq!(value(&store, "a").unwrap(), large(byte));
    }
    assert_eq!(objects.allocated_bytes().unwrap(), allocated);
}

#[test]
fn missing_differs_from_empty() {
    let objects = objects(MIB);
    let store = worker(&objects, 0);
    put(&store, "empty", b"");
    assert_eq!(value(&store, "empty").unwrap(), b"");
    assert_eq!(value(&store, "missing"), None);
}

#[test]
fn all_ends_see_the_same() {
    let objects = objects(MIB);
    let other = Objects::attach(objects.fd().try_clone_to_owned().unwrap(), objects.layout()).unwrap();
    let (here, there) = (worker(&objects, 0), worker(&Arc::new(other), 1));
    let version = put(&here, "a", b"one");
    assert_eq!(value(&there, "a").unwrap(), b"one");
    assert_eq!(there.header(&key("a")).unwrap().unwrap().version, version);
    assert!(put(&there, "a", b"two") > version);
    assert_eq!(value(&here, "a").unwrap(), b"two");
}

#[test]
fn a_header_says_what_the_writer_said() {
    let objects = objects(MIB);
    let store = worker(&objects, 0);
    let meta = Meta { type_id: 0xfeed, schema_version: 7, encoding: Encoding::Archived };
    let version = store.put(&key("typed"), &[1; 100], meta, Condition::Any).unwrap();
    let header = store.header(&key("typed")).unwrap().unwrap();
    assert_eq!((header.version, header.meta, header.value_bytes), (version, meta, 100));
    assert!(header.modified_unix_ms > 1_600_000_000_000, "the host's clock is set");
}

#[test]
fn conditions_compare_with_what_is_there() {
    let objects = objects(MIB);
    let store = worker(&objects, 0);
    let attempt = |condition| store.put(&key("a"), b"v", Meta::RAW, condition);
    assert_eq!(attempt(Condition::Version(1)), Err(StateError::Conflict { current: None }));
    let first = attempt(Condition::Absent).unwrap();
    assert_eq!(attempt(Condition::Absent), Err(StateError::Conflict { current: Some(first) }));
    let second = attempt(Condition::Version(first)).unwrap();
    assert_eq!(attempt(Condition::Version(first)), Err(StateError::Conflict { current: Some(second) }));
    let delete = |condition| store.delete(&key("a"), condition);
    assert_eq!(delete(Condition::Version(first)), Err(StateError::Conflict { current: Some(second) }));
    assert!(delete(Condition::Version(second)).unwrap().is_some());
    objects.check().unwrap();
}

#[test]
fn namespaces_are_apart() {
    let objects = objects(MIB);
    let store = worker(&objects, 0);
    put(&store, "a", b"user");
    let system = Key::new(Namespace::SYSTEM, "a").unwrap();
    assert!(store.get(&system).unwrap().is_none());
    store.put(&system, b"system", Meta::RAW, Condition::Absent).unwrap();
    assert_eq!(value(&store, "a").unwrap(), b"user");
    assert_eq!(store.list(&page("", "", 10)).unwrap().len(), 1);
    store.delete(&system, Condition::Any).unwrap().unwrap();
    assert_eq!(value(&store, "a").unwrap(), b"user");
}

#[test]
fn values_of_every_size_come_back_aligned() {
    let objects = objects(64 * MIB);
    let store = worker(&objects, 0);
    for bytes in (0..70).chain([1023, 1024, 1025, 4095, 4096, 4097, 100_000, 3 << 20]) {
        for name in ["k", "a key of twenty-odd bytes", &"x".repeat(255)] {
            let sent: Vec<u8> = (0..bytes).map(|index| (index * 7 + name.len()) as u8).collect();
            put(&store, name, &sent);
            let guard = store.get(&key(name)).unwrap().unwrap();
            assert_eq!(guard.in_place().unwrap(), sent);
            let align = if bytes >= 1024 { 64 } else { 16 };
            assert!(guard.value_ptr().addr().is_multiple_of(align), "{bytes} bytes of {name}");
        }
    }
    objects.check().unwrap();
}

#[test]
fn a_guard_keeps_its_object_while_it_is_replaced_and_deleted() {
    let objects = objects(MIB);
    let (reader, writer) = (worker(&objects, 0), worker(&objects, 1));
    put(&writer, "a", &[7; 3000]);
    let guard = reader.get(&key("a")).unwrap().unwrap();
    for round in 0..5000_u32 {
        put(&writer, "a", &round.to_le_bytes().repeat(700));
    }
    writer.delete(&key("a"), Condition::Any).unwrap();
    assert_eq!(guard.in_place().unwrap(), [7; 3000]);
    let before = objects.usage();
    drop(guard);
    assert!(before.used_bytes < MIB / 2, "replaced blocks are used again: {before:?}");
    objects.check().unwrap();
}

#[test]
fn guards_and_loans_have_limits_that_are_named() {
    let objects = objects(MIB);
    let store = worker(&objects, 0);
    put(&store, "a", b"v");
    let guards: Vec<_> = (0..PINS_PER_WORKER).map(|_| store.get(&key("a")).unwrap().unwrap()).collect();
    assert!(matches!(store.get(&key("a")), Err(StateError::TooManyGuards { limit: PINS_PER_WORKER })));
    drop(guards);
    assert!(store.get(&key("a")).unwrap().is_some());
    let text = "loans";
    let loans: Vec<_> = (0..LOANS_PER_WORKER).map(|_| store.loan(&key(text), 10).unwrap()).collect();
    assert!(matches!(store.loan(&key(text), 10), Err(StateError::TooManyLoans { limit: LOANS_PER_WORKER })));
    drop(loans);
    assert!(store.loan(&key(text), 10).is_ok());
    assert_eq!(objects.check().unwrap().loans, 0);
}

#[test]
fn a_loan_is_built_in_place_and_seen_only_when_published() {
    let objects = objects(MIB);
    let store = worker(&objects, 0);
    let mut loan = store.loan(&key("built"), 10_000).unwrap();
    loan.in_place().unwrap().fill(5);
    assert_eq!(value(&store, "built"), None);
    assert_eq!(objects.check().unwrap().loans, 1);
    let version = store.publish(loan, Meta::RAW, Condition::Absent).unwrap();
    let guard = store.get(&key("built")).unwrap().unwrap();
    assert_eq!((guard.version(), guard.in_place().unwrap()), (version, &[5; 10_000][..]));
    assert_eq!(objects.check().unwrap().loans, 0);
}

#[test]
fn a_refused_loan_comes_back_and_can_be_published_again() {
    let objects = objects(MIB);
    let store = worker(&objects, 0);
    put(&store, "a", b"there");
    let mut loan = store.loan(&key("a"), 5).unwrap();
    loan.write(0, b"fresh");
    let refused = store.publish(loan, Meta::RAW, Condition::Absent).unwrap_err();
    assert!(matches!(refused.error, StateError::Conflict { current: Some(_) }));
    assert_eq!(value(&store, "a").unwrap(), b"there");
    store.publish(refused.loan, Meta::RAW, Condition::Any).unwrap();
    assert_eq!(value(&store, "a").unwrap(), b"fresh");
    objects.check().unwrap();
}

#[test]
fn a_loan_that_was_too_long_gives_the_rest_back() {
    let objects = objects(MIB);
    let store = worker(&objects, 0);
    let mut loan = store.loan(&key("a"), 300_000).unwrap();
    loan.in_place().unwrap()[..100].fill(3);
    loan.truncate(100);
    store.publish(loan, Meta::RAW, Condition::Any).unwrap();
    assert_eq!(value(&store, "a").unwrap(), [3; 100]);
    assert!(objects.usage().used_bytes < 1000, "{:?}", objects.usage());
    objects.check().unwrap();
}

#[test]
fn a_full_state_refuses_with_figures_and_goes_on_after_deletes() {
    let objects = objects(MIB);
    let store = worker(&objects, 0);
    let mut count = 0;
    let refusal = loop {
        match store.put(&key(&format!("key {count}")), &[1; 5000], Meta::RAW, Condition::Any) {
            Ok(_) => count += 1,
            Err(error) => break error,
        }
    };
    let StateError::Full { needed_bytes, free_bytes, largest_free_bytes, limit_bytes } = refusal else {
        panic!("{refusal}");
    };
    assert!(needed_bytes > 5000 && largest_free_bytes < needed_bytes && free_bytes < MIB / 8 && limit_bytes == MIB);
    assert!(count > 140, "{count} objects of 5 KB in a mebibyte");
    // What is there still can be read, and replaced by something smaller.
    assert_eq!(value(&store, "key 3").unwrap(), [1; 5000]);
    for number in 0..count {
        store.delete(&key(&format!("key {number}")), Condition::Any).unwrap().unwrap();
    }
    put(&store, "large", &vec![2; 600_000]);
    assert_eq!(objects.check().unwrap().keys, 1);
}

#[test]
fn values_above_the_limit_are_refused() {
    let objects = objects(MIB);
    let store = worker(&objects, 0);
    assert!(matches!(store.loan(&key("a"), u32::MAX), Err(StateError::TooLarge { .. })));
    assert!(matches!(store.loan(&key("a"), i32::MAX as u32), Err(StateError::Full { .. })));
    objects.check().unwrap();
}

#[test]
fn lists_are_sorted_by_key_filtered_by_prefix_and_come_in_pages() {
    let objects = objects(4 * MIB);
    let store = worker(&objects, 0);
    for number in 0..3000 {
        put(&store, &format!("item/{number:04}"), &[0; 10]);
        put(&store, &format!("other/{number}"), b"");
    }
    let (mut after, mut seen) = (String::new(), Vec::new());
    loop {
        let found = store.list(&page("item/", &after, 700)).unwrap();
        seen.extend(found.iter().map(|listed| listed.key.clone()));
        assert!(found.iter().all(|listed| listed.header.value_bytes == 10));
        if found.len() < 700 {
            break;
        }
        after = seen.last().unwrap().clone();
    }
    assert_eq!(seen, (0..3000).map(|number| format!("item/{number:04}")).collect::<Vec<_>>());
    assert_eq!(store.list(&page("none", "", 10)).unwrap(), []);
    assert_eq!(store.list(&page("", "", 0)).unwrap(), []);
}

#[test]
fn the_server_reads_copies_and_does_not_wait() {
    let objects = objects(MIB);
    let (store, server) = (worker(&objects, 0), objects.server_store().unwrap());
    put(&store, "a", &[9; 2000]);
    let guard = server.get(&key("a")).unwrap().unwrap();
    assert_eq!(guard.in_place(), None);
    assert_eq!(guard.value(&mut Scratch::new()), [9; 2000]);
    drop(guard);
    server.put(&key("b"), &[8; 9000], Meta::RAW, Condition::Any).unwrap();
    assert_eq!(value(&store, "b").unwrap(), [8; 9000]);
    assert!(objects.server_store().is_err(), "one row serves one end");
    drop(server);
    assert!(objects.server_store().is_ok());
}

#[test]
fn overhead_a_key_is_bounded() {
    let objects = objects(64 * MIB);
    let store = worker(&objects, 0);
    let (count, value) = (100_000_u64, [1; 32]);
    let mut bytes = 0;
    for number in 0..count {
        let name = format!("{number:08x}");
        bytes += (name.len() + value.len()) as u64;
        put(&store, &name, &value);
    }
    let usage = store.usage();
    let overhead = (usage.used_bytes + usage.buckets * 64 - bytes) / count;
    assert!(overhead <= 128, "{overhead} bytes a key beyond key and value");
    let checked = objects.check().unwrap();
    assert_eq!(checked.keys, count);
    assert!(checked.overflow_buckets < usage.buckets, "{checked:?}");
}

#[test]
fn readers_see_whole_values_while_writers_replace_them() {
    let objects = objects(8 * MIB);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for index in 0..2 {
            let (objects, stop) = (&objects, &stop);
            scope.spawn(move || {
                let store = worker(objects, index);
                let mut round = 20 + u64::from(index);
                while !stop.load(Ordering::Relaxed) {
                    round += 2;
                    let bytes = (round * 37 % 3000) as usize / 8 * 8 + 8;
                    put(&store, &format!("shared {}", round % 5), &round.to_le_bytes().repeat(bytes / 8));
                    if round % 11 == 0 {
                        store.delete(&key("shared 3"), Condition::Any).unwrap();
                    }
                    put(&store, &format!("{index} new {round}"), b"");
                    store.delete(&key(&format!("{index} new {}", round - 20)), Condition::Any).unwrap();
                }
            });
        }
        let store = worker(&objects, 9);
        let start = Instant::now();
        let mut found = 0;
        while start.elapsed() < Duration::from_millis(600) {
            for number in 0..5 {
                let Some(guard) = store.get(&key(&format!("shared {number}"))).unwrap() else { continue };
                let value = guard.in_place().unwrap();
                let first = &value[..8];
                assert!(value.chunks(8).all(|chunk| chunk == first), "a torn value");
                assert_eq!(u64::from_le_bytes(first.try_into().unwrap()) % 5, number);
                found += 1;
            }
        }
        stop.store(true, Ordering::Relaxed);
        assert!(found > 0);
    });
    objects.check().unwrap();
}

#[test]
fn keys_that_stay_are_never_missed_while_others_make_buckets_split() {
    let objects = objects(16 * MIB);
    let stop = AtomicBool::new(false);
    let stay: Vec<String> = (0..500).map(|number| format!("stays {number:03}")).collect();
    let writer = worker(&objects, 0);
    for name in &stay {
        put(&writer, name, name.as_bytes());
    }
    std::thread::scope(|scope| {
        let (objects, stop, stay) = (&objects, &stop, &stay);
        let readers = [1, 2].map(|index| {
            scope.spawn(move || {
                let store = worker(objects, index);
                let mut rounds = 0;
                while rounds < 3 || !stop.load(Ordering::Relaxed) {
                    for name in stay {
                        assert_eq!(value(&store, name).as_deref(), Some(name.as_bytes()), "{name} was missed");
                    }
                    let listed = store.list(&page("stays", "", 1000)).unwrap();
                    assert_eq!(
                        listed.iter().map(|listed| &listed.key).collect::<Vec<_>>(),
                        stay.iter().collect::<Vec<_>>()
                    );
                    rounds += 1;
                }
            })
        });
        for number in 0..30_000 {
            put(&writer, &format!("comes {number}"), b"");
        }
        stop.store(true, Ordering::Relaxed);
        readers.into_iter().for_each(|reader| reader.join().unwrap());
    });
    assert!(objects.usage().buckets > 5000);
    objects.check().unwrap();
}

#[test]
fn trimmed_pages_go_back_to_the_system_and_the_state_stays() {
    let objects = objects(64 * MIB);
    let (store, server) = (worker(&objects, 0), objects.server_store().unwrap());
    put(&store, "stays", &[1; 10_000]);
    for number in 0..20 {
        put(&store, &format!("goes {number}"), &vec![2; 1 << 20]);
    }
    put(&store, "stays too", &[3; 10_000]);
    for number in 0..20 {
        store.delete(&key(&format!("goes {number}")), Condition::Any).unwrap().unwrap();
    }
    // Deleted objects wait for readers; a put without room looks for them.
    assert!(matches!(store.loan(&key("all"), 64 << 20), Err(StateError::Full { .. })));
    let before = objects.allocated_bytes().unwrap();
    assert!(before > 20 * MIB);
    let given_back = server.trim().unwrap();
    assert!(given_back >= 19 * MIB && objects.allocated_bytes().unwrap() < 2 * MIB, "{given_back} of {before}");
    let checked = objects.check().unwrap();
    assert_eq!((checked.keys, checked.loans), (2, 0));
    assert_eq!(value(&store, "stays").unwrap(), [1; 10_000]);
    assert_eq!(value(&store, "stays too").unwrap(), [3; 10_000]);
    put(&store, "again", &vec![4; 15 << 20]);
    assert_eq!(value(&store, "again").unwrap(), vec![4; 15 << 20]);
}

#[test]
fn what_an_end_forgets_is_given_back_by_the_next_one_of_its_row() {
    let objects = objects(MIB);
    let store = worker(&objects, 0);
    std::mem::forget(store.loan(&key("forgotten"), 3000).unwrap());
    drop(store);
    let store = worker(&objects, 0);
    put(&store, "a", b"v");
    assert_eq!(objects.check().unwrap().loans, 0);
}
