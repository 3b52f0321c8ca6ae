//! A worker that dies at any store of any operation, and a recovery that dies at any store of its own.
//!
//! After each store to shared memory the segment is copied: the copy is what a `kill -9` at that instruction leaves behind.
//! On the copy the server recovers, everything must add up, the operation must have happened whole or not at all, and the
//! state must go on working. Then the same for copies made at each store of that recovery.
#![cfg(not(loom))]
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small numbers of a test's own")]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use praas_shm::WorkerTag;
use praas_shm::objects::steps::observe;
use praas_shm::objects::{
    Condition, Key, LockOwner, Meta, Namespace, Objects, ObjectsLayout, Page, RecoverError, Settled, StateError, Store,
};
use praas_shm::swap::{HeldCut, HeldCutError};

const LIMIT_BYTES: u64 = 256 << 10;
/// Buckets at the start, and keys a bucket at which they begin to split.
const FIRST_BUCKETS: usize = 256;
const KEYS_BEFORE_SPLIT: usize = FIRST_BUCKETS * 5;
/// The worker that dies, and those that live.
const DYING: WorkerTag = WorkerTag::new(0, 1);
const READER: WorkerTag = WorkerTag::new(1, 1);
const HEIR: WorkerTag = WorkerTag::new(2, 1);

fn create() -> Arc<Objects> {
    Arc::new(Objects::create(ObjectsLayout::for_limit(LIMIT_BYTES).unwrap()).unwrap())
}

fn key(text: &str) -> Key<'_> {
    Key::new(Namespace::USER, text).unwrap()
}

fn put(store: &Store, text: &str, bytes: usize) {
    store.put(&key(text), &vec![text.len() as u8; bytes], Meta::RAW, Condition::Any).unwrap();
}

fn image(objects: &Objects) -> Vec<u8> {
    let mut bytes = vec![0; objects.layout().segment_bytes()];
    assert_eq!(rustix::io::pread(objects.fd(), &mut bytes, 0).unwrap(), bytes.len());
    bytes
}

fn restore(objects: &Objects, image: &[u8]) {
    assert_eq!(rustix::io::pwrite(objects.fd(), image, 0).unwrap(), image.len());
}

/// Everything that a user can see: version and value of each key.
type Contents = BTreeMap<String, (u64, Vec<u8>)>;

fn contents(objects: &Arc<Objects>) -> Contents {
    let store = objects.worker_store(HEIR).unwrap();
    let mut after = String::new();
    let mut all = Contents::new();
    loop {
        let found = store.list(&Page { namespace: Namespace::USER, prefix: "", after: &after, limit: 4096 }).unwrap();
        let Some(last) = found.last() else { return all };
        after.clone_from(&last.key);
        for listed in &found {
            let guard = store.get(&key(&listed.key)).unwrap().expect("a listed key is there");
            all.insert(listed.key.clone(), (guard.version(), guard.in_place().unwrap().to_vec()));
        }
    }
}

/// The server's part, and what must hold then.
fn recover(objects: &Objects) -> Settled {
    let recovered = objects.recover(DYING).unwrap();
    assert_eq!(objects.lock_owner(), LockOwner::Nobody);
    let checked = objects.check().unwrap();
    assert_eq!(checked.loans, 0, "a dead worker's loan stayed");
    recovered.settled
}

/// Whether the others can go on.
fn goes_on(objects: &Arc<Objects>) {
    let heir = objects.worker_store(HEIR).unwrap();
    put(&heir, "another's", 40);
    assert!(heir.get(&key("another's")).unwrap().is_some());
    heir.delete(&key("another's"), Condition::Any).unwrap().unwrap();
    objects.check().unwrap();
}

/// What was seen over all deaths of one operation.
#[derive(Default)]
struct Seen {
    deaths: usize,
    recovery_deaths: usize,
    rolled_back: usize,
    finished: usize,
    /// What stood there after each recovery.
    outcomes: Vec<Contents>,
}

/// Dies at each store of a recovery of `left`; each time a second recovery leaves what the first one would have.
fn kill_recovery(left: &[u8], expected: &Contents, again: &Arc<Objects>, second: &Arc<Objects>) -> usize {
    restore(again, left);
    let deaths = Rc::new(RefCell::new(0));
    let hook = {
        let (again, second) = (Arc::clone(again), Arc::clone(second));
        let (deaths, expected) = (Rc::clone(&deaths), expected.clone());
        move || {
            restore(&second, &image(&again));
            // The server died too: a new one recovers for all.
            second.recover_all().unwrap();
            assert_eq!(second.check().unwrap().loans, 0);
            assert_eq!(contents(&second), expected, "a second recovery made something else of it");
            *deaths.borrow_mut() += 1;
        }
    };
    let observing = observe(hook);
    recover(again);
    drop(observing);
    deaths.take()
}

/// Dies at each store of `operation`. Every `nested`th of the recoveries dies at each of its own.
fn kill_at_every_store(
    name: &str,
    nested: usize,
    prepare: impl FnOnce(&Store),
    operation: impl FnOnce(&Store),
) -> Contents {
    let objects = create();
    let worker = objects.worker_store(DYING).unwrap();
    prepare(&worker);
    kill_prepared(name, nested, &objects, &worker, operation)
}

fn kill_prepared(
    name: &str,
    nested: usize,
    objects: &Arc<Objects>,
    worker: &Store,
    operation: impl FnOnce(&Store),
) -> Contents {
    let before = contents(objects);
    let seen = Rc::new(RefCell::new(Seen::default()));
    let hook = {
        let (objects, seen) = (Arc::clone(objects), Rc::clone(&seen));
        let (first, again, second) = (create(), create(), create());
        move || {
            let left = image(&objects);
            restore(&first, &left);
            let settled = recover(&first);
            let found = contents(&first);
            goes_on(&first);
            let mut seen = seen.borrow_mut();
            seen.deaths += 1;
            seen.rolled_back += usize::from(settled == Settled::RolledBack);
            seen.finished += usize::from(settled == Settled::Finished);
            if seen.deaths % nested == 0 {
                seen.recovery_deaths += kill_recovery(&left, &found, &again, &second);
            }
            seen.outcomes.push(found);
        }
    };
    let observing = observe(hook);
    operation(worker);
    drop(observing);
    let after = contents(objects);
    let seen = seen.take();
    let (deaths, again, back, done) = (seen.deaths, seen.recovery_deaths, seen.rolled_back, seen.finished);
    println!("{name}: {deaths} deaths ({back} rolled back, {done} finished), {again} of recoveries");
    assert!(deaths > 0);
    let happened_at = seen.outcomes.iter().position(|found| *found == after).unwrap_or(deaths);
    let (undone, happened) = seen.outcomes.split_at(happened_at);
    assert!(undone.iter().all(|found| *found == before), "{name}: neither before nor after");
    assert!(happened.iter().all(|found| *found == after), "{name}: was taken back after it had happened");
    after
}

#[test]
fn a_put_of_a_new_key_happens_whole_or_not_at_all() {
    let after = kill_at_every_store("put new", 2, |store| put(store, "other", 10), |store| put(store, "a", 100));
    assert_eq!(after.len(), 2);
}

#[test]
fn a_replacement_happens_whole_or_not_at_all() {
    kill_at_every_store("replace", 4, |store| put(store, "a", 100), |store| put(store, "a", 2000));
}

#[test]
fn a_put_of_a_large_value_happens_whole_or_not_at_all() {
    kill_at_every_store("put large", 5, |store| put(store, "a", 10), |store| put(store, "a", 20_000));
}

#[test]
fn a_refused_put_changes_nothing() {
    let refused = |store: &Store| {
        let put = |bytes, condition| store.put(&key("a"), &vec![0; bytes], Meta::RAW, condition);
        assert!(matches!(put(10, Condition::Absent), Err(StateError::Conflict { .. })));
        assert!(matches!(put(5000, Condition::Version(9)), Err(StateError::Conflict { .. })));
        assert!(matches!(put(300_000, Condition::Any), Err(StateError::Full { .. })));
    };
    kill_at_every_store("refused", 5, |store| put(store, "a", 100), refused);
}

#[test]
fn a_delete_happens_whole_or_not_at_all() {
    let prepare = |store: &Store| ["a", "b", "c"].into_iter().for_each(|text| put(store, text, 100));
    let after = kill_at_every_store("delete", 1, prepare, |store| {
        store.delete(&key("b"), Condition::Any).unwrap().unwrap();
    });
    assert_eq!(after.len(), 2);
}

#[test]
fn a_loan_is_never_lost_whether_published_dropped_or_cut() {
    kill_at_every_store(
        "loans",
        9,
        |store| put(store, "a", 100),
        |store| {
            let dropped = store.loan(&key("dropped"), 3000).unwrap();
            let mut cut = store.loan(&key("a"), 30_000).unwrap();
            cut.in_place().unwrap().fill(1);
            cut.truncate(700);
            drop(dropped);
            store.publish(cut, Meta::RAW, Condition::Any).unwrap();
        },
    );
}

#[test]
fn blocks_that_come_and_go_between_free_neighbours_are_never_lost() {
    let objects = create();
    let worker = objects.worker_store(DYING).unwrap();
    // Holes of several sizes, made by loans so that nothing waits for readers.
    let loans: Vec<_> = (1..9).map(|size| worker.loan(&key("hole"), size * 300).unwrap()).collect();
    let mut kept = Vec::new();
    for (index, loan) in loans.into_iter().enumerate() {
        if index % 2 == 0 { drop(loan) } else { kept.push(loan) }
    }
    kept.into_iter().enumerate().for_each(|(index, loan)| {
        let text = format!("key {index}");
        drop(loan);
        put(&worker, &text, 500 + index * 100);
    });
    let operation = |store: &Store| {
        let loans: Vec<_> = [200, 1500, 64, 900].map(|bytes| store.loan(&key("l"), bytes).unwrap()).into();
        loans.into_iter().rev().for_each(drop);
        put(store, "key 1", 1200);
    };
    kill_prepared("neighbours", 31, &objects, &worker, operation);
}

#[test]
fn what_a_server_holds_is_kept_whole_by_whoever_dies_and_freed_by_the_next_server() {
    let objects = create();
    let worker = objects.worker_store(DYING).unwrap();
    ["a", "b", "c"].into_iter().for_each(|text| put(&worker, text, 3000));
    let cut = HeldCut::begin(Arc::clone(&objects), Vec::new()).unwrap();
    put(&worker, "b", 200);
    kill_prepared("replace what is held", 4, &objects, &worker, |store| put(store, "a", 2000));
    kill_prepared("delete what is held", 4, &objects, &worker, |store| {
        store.delete(&key("c"), Condition::Any).unwrap().unwrap();
    });
    assert_eq!(objects.check().unwrap().kept, 3);
    assert_eq!(cut.object_count(), 3);
    // The next server dies at each store of its own.
    let (again, second) = (create(), create());
    let (left, expected) = (image(&objects), contents(&objects));
    restore(&again, &left);
    let deaths = Rc::new(RefCell::new(0));
    let observing = {
        let (again, deaths) = (Arc::clone(&again), Rc::clone(&deaths));
        observe(move || {
            restore(&second, &image(&again));
            second.recover_all().unwrap();
            assert_eq!(second.check().unwrap().kept, 0);
            assert_eq!(contents(&second), expected);
            goes_on(&second);
            *deaths.borrow_mut() += 1;
        })
    };
    again.recover_all().unwrap();
    drop(observing);
    assert_eq!(again.check().unwrap().kept, 0);
    assert!(deaths.take() > 7, "the words of the list");
}

#[test]
fn whoever_ends_a_hold_for_room_and_dies_leaves_all_of_it_kept_or_none() {
    let objects = create();
    let worker = objects.worker_store(DYING).unwrap();
    put(&worker, "a", 60_000);
    put(&worker, "b", (objects.usage().free_bytes - 20_000) as usize);
    let cut = HeldCut::begin(Arc::clone(&objects), Vec::new()).unwrap();
    put(&worker, "a", 10);
    kill_prepared("put that ends a hold", 7, &objects, &worker, |store| put(store, "a", 50_000));
    assert_eq!(objects.check().unwrap().kept, 0);
    let shown = cut.objects(|_| Ok(()));
    assert!(matches!(shown, Err(HeldCutError::Over { .. })), "{shown:?}");
}

#[test]
fn a_read_that_dies_leaves_no_pin() {
    let operation = |store: &Store| {
        let guard = store.get(&key("a")).unwrap().unwrap();
        assert!(store.get(&key("missing")).unwrap().is_none());
        assert_eq!(store.list(&Page { namespace: Namespace::USER, prefix: "", after: "", limit: 9 }).unwrap().len(), 1);
        drop(guard);
    };
    kill_at_every_store("read", 1, |store| put(store, "a", 100), operation);
}

#[test]
fn a_split_loses_and_doubles_nothing() {
    let prepare = |store: &Store| (0..KEYS_BEFORE_SPLIT).for_each(|number| put(store, &format!("{number}"), 0));
    let after = kill_at_every_store("split", 7, prepare, |store| put(store, "one more", 0));
    assert_eq!(after.len(), KEYS_BEFORE_SPLIT + 1);
}

/// Keys whose place is the first bucket, some of which move with its split.
fn keys_of_the_first_bucket(store: &Store, moving: usize, staying: usize) -> Vec<String> {
    let of_bucket = |number: &String| (store.hash_of(&key(number)) as usize).is_multiple_of(FIRST_BUCKETS);
    let moves = |number: &String| store.hash_of(&key(number)) as usize / FIRST_BUCKETS % 2 == 1;
    let numbers = || (0..).map(|number: u32| format!("f{number}")).filter(of_bucket);
    let mut keys: Vec<_> = numbers().filter(|number| moves(number)).take(moving).collect();
    keys.extend(numbers().filter(|number| !moves(number)).take(staying));
    keys
}

fn fill_up_to_a_split(store: &Store) {
    let have = store.usage().keys as usize;
    (have..KEYS_BEFORE_SPLIT).for_each(|number| put(store, &format!("{number}"), 0));
}

#[test]
fn a_bucket_that_overflows_keeps_all_its_keys() {
    let objects = create();
    let worker = objects.worker_store(DYING).unwrap();
    let keys = keys_of_the_first_bucket(&worker, 15, 0);
    let (last, first) = keys.split_last().unwrap();
    first.iter().for_each(|key| put(&worker, key, 0));
    assert_eq!(objects.check().unwrap().overflow_buckets, 1);
    kill_prepared("overflow", 5, &objects, &worker, |store| put(store, last, 0));
    assert_eq!(objects.check().unwrap().overflow_buckets, 2);
}

#[test]
fn a_split_into_chains_loses_nothing() {
    let objects = create();
    let worker = objects.worker_store(DYING).unwrap();
    keys_of_the_first_bucket(&worker, 24, 16).iter().for_each(|key| put(&worker, key, 0));
    fill_up_to_a_split(&worker);
    let before = objects.check().unwrap();
    kill_prepared("split of a chain", 29, &objects, &worker, |store| put(store, "one more", 0));
    let after = objects.check().unwrap();
    assert!(after.buckets == before.buckets + 1 && after.overflow_buckets >= before.overflow_buckets + 3);
}

#[test]
fn reclaiming_frees_what_nobody_has_pinned_and_nothing_else() {
    let objects = create();
    let worker = objects.worker_store(DYING).unwrap();
    let reader = objects.worker_store(READER).unwrap();
    let mut guards = Vec::new();
    for round in 0..63 {
        put(&worker, "a", 100 + round);
        if round % 5 == 0 {
            guards.push(reader.get(&key("a")).unwrap().unwrap());
        }
    }
    put(&worker, "a", 10);
    assert_eq!(objects.usage().retired_blocks, 63);
    kill_prepared("reclaim", 29, &objects, &worker, |store| put(store, "a", 20));
    let usage = objects.usage();
    assert!(usage.retired_blocks < 56 && usage.retired_blocks > 48, "{usage:?}");
    for (index, guard) in guards.iter().enumerate() {
        assert_eq!(guard.value_bytes(), 100 + 5 * index, "a pinned object was freed");
    }
}

#[test]
fn a_replacement_of_a_large_value_frees_it_at_once_unless_it_is_pinned() {
    let objects = create();
    let worker = objects.worker_store(DYING).unwrap();
    let reader = objects.worker_store(READER).unwrap();
    put(&worker, "a", 66_001);
    let guard = reader.get(&key("a")).unwrap().unwrap();
    put(&worker, "a", 66_002);
    assert_eq!(objects.usage().retired_blocks, 1, "a pinned object is there until its reader is done");
    assert!(guard.in_place().unwrap().iter().all(|&byte| byte == 1) && guard.value_bytes() == 66_001);
    drop(guard);
    kill_prepared("replace large", 29, &objects, &worker, |store| put(store, "a", 66_003));
    assert_eq!(objects.usage().retired_blocks, 0);
}

#[test]
fn a_put_without_room_reclaims_first() {
    let objects = create();
    let worker = objects.worker_store(DYING).unwrap();
    // Nearly all of the heap lives, a tenth is retired, and what is wanted is larger than what is free.
    put(&worker, "a", 9_000);
    put(&worker, "large", (objects.usage().largest_free_bytes * 7 / 8) as usize);
    put(&worker, "a", 9_000);
    let free = objects.usage().largest_free_bytes;
    let wanted = free as usize / 16 * 16 - 200;
    put(&worker, "b", wanted - 2_000);
    assert!(objects.usage().retired_blocks > 0);
    kill_prepared("reclaim for room", 5, &objects, &worker, |store| put(store, "c", 8_000));
    assert_eq!(objects.usage().retired_blocks, 0);
}

#[test]
fn a_trim_loses_nothing() {
    let objects = create();
    let worker = objects.worker_store(DYING).unwrap();
    put(&worker, "a", 100);
    kill_prepared("trim", 4, &objects, &worker, |store| assert!(store.trim().is_ok()));
}

#[test]
fn the_lock_of_a_live_worker_is_not_broken_and_that_of_a_dead_one_is() {
    let objects = create();
    let worker = objects.worker_store(DYING).unwrap();
    let left = {
        let (objects, left) = (Arc::clone(&objects), Rc::new(RefCell::new(None)));
        let kept = Rc::clone(&left);
        let observing = observe(move || {
            kept.borrow_mut().get_or_insert_with(|| image(&objects));
        });
        put(&worker, "a", 10);
        drop(observing);
        left.take().unwrap()
    };
    let copy = create();
    restore(&copy, &left);
    assert_eq!(copy.lock_owner(), LockOwner::Worker(DYING));
    assert!(matches!(copy.recover(READER), Err(RecoverError::Busy { owner: LockOwner::Worker(DYING) })));
    assert!(matches!(copy.check(), Err(RecoverError::Busy { .. })));
    let server = copy.server_store().unwrap();
    assert!(matches!(server.put(&key("b"), b"", Meta::RAW, Condition::Any), Err(StateError::Busy { .. })));
    // An earlier life of the worker that is dead now is dead too; a later one lives.
    let (older, newer) = (WorkerTag::new(0, 0), WorkerTag::new(0, 2));
    assert!(matches!(copy.recover(older), Err(RecoverError::Busy { .. })));
    copy.recover(newer).unwrap();
    goes_on(&copy);
}

#[test]
fn a_waiter_gets_the_lock_that_recovery_gives_back() {
    let objects = create();
    let worker = objects.worker_store(DYING).unwrap();
    let first = Rc::new(RefCell::new(None));
    let kept = Rc::clone(&first);
    let source = Arc::clone(&objects);
    let observing = observe(move || {
        kept.borrow_mut().get_or_insert_with(|| image(&source));
    });
    put(&worker, "a", 10);
    drop(observing);
    let copy = create();
    restore(&copy, &first.take().unwrap());
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| put(&copy.worker_store(READER).unwrap(), "b", 10));
        copy.recover(DYING).unwrap();
        waiter.join().unwrap();
    });
    assert_eq!(contents(&copy).len(), 1);
}
