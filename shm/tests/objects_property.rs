//! The store against a map: random operations of every size, with the checker and the lists in between.
#![cfg(not(loom))]
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small numbers of a test's own")]

use std::collections::BTreeMap;
use std::sync::Arc;

use praas_shm::WorkerTag;
use praas_shm::objects::{Condition, Guard, Key, Meta, Namespace, Objects, ObjectsLayout, Page, StateError, Store};
use proptest::prelude::*;

const LIMIT_BYTES: u64 = 512 << 10;

#[derive(Debug, Clone)]
enum Operation {
    Put { key: u16, bytes: usize, fill: u8 },
    PutIfVersion { key: u16, fresh: bool },
    Loan { key: u16, bytes: usize, used: usize, publish: bool },
    Delete { key: u16 },
    Hold { key: u16 },
    LetGo,
    List { prefix: u8, limit: usize },
    Check,
}

fn sizes() -> impl Strategy<Value = usize> {
    prop_oneof![4 => 0..200_usize, 2 => 200..5000_usize, 1 => 5000..120_000_usize, 1 => Just(0)]
}

fn operations() -> impl Strategy<Value = Operation> {
    let key = || prop_oneof![3 => 0..20_u16, 2 => 0..3000_u16];
    prop_oneof![
        8 => (key(), sizes(), any::<u8>()).prop_map(|(key, bytes, fill)| Operation::Put { key, bytes, fill }),
        2 => (key(), any::<bool>()).prop_map(|(key, fresh)| Operation::PutIfVersion { key, fresh }),
        3 => (key(), sizes(), any::<prop::sample::Index>(), any::<bool>()).prop_map(|(key, bytes, used, publish)| {
            Operation::Loan { key, bytes, used: used.index(bytes + 1), publish }
        }),
        4 => key().prop_map(|key| Operation::Delete { key }),
        2 => key().prop_map(|key| Operation::Hold { key }),
        1 => Just(Operation::LetGo),
        1 => (0..10_u8, 0..40_usize).prop_map(|(prefix, limit)| Operation::List { prefix, limit }),
        1 => Just(Operation::Check),
    ]
}

fn name(number: u16) -> String {
    // Keys of many lengths, among them ones that share their beginning.
    format!("{number}{}", "-".repeat(usize::from(number % 97)))
}

/// What should be there: version and value.
type Model = BTreeMap<String, (u64, Vec<u8>)>;

struct Run<'s> {
    objects: &'s Objects,
    store: &'s Store,
    model: Model,
    held: Vec<(Guard<'s>, Vec<u8>)>,
    last_version: u64,
}

impl Run<'_> {
    fn published(&mut self, key: &str, version: u64, value: Vec<u8>) {
        assert!(version > self.last_version, "versions grow");
        self.last_version = version;
        self.model.insert(key.to_owned(), (version, value));
    }

    fn expect_full(&self, error: &StateError) {
        let StateError::Full { needed_bytes, free_bytes, .. } = error else { panic!("{error}") };
        // A block is refused only when not much more than a class is missing, or the rest is in pieces.
        assert!(*free_bytes < LIMIT_BYTES && *needed_bytes > 0);
    }
}

fn apply<'s>(run: &mut Run<'s>, operation: &Operation) {
    match *operation {
        Operation::Put { key, bytes, fill } => {
            let (key, value) = (name(key), vec![fill; bytes]);
            match run.store.put(&user(&key), &value, Meta::RAW, Condition::Any) {
                Ok(version) => run.published(&key, version, value),
                Err(error) => run.expect_full(&error),
            }
        }
        Operation::PutIfVersion { key, fresh } => {
            let key = name(key);
            let current = run.model.get(&key).map(|(version, _)| *version);
            let asked = if fresh { current.unwrap_or(u64::MAX) } else { 0 };
            match run.store.put(&user(&key), b"by version", Meta::RAW, Condition::Version(asked)) {
                Ok(version) => {
                    assert_eq!(current, Some(asked));
                    run.published(&key, version, b"by version".to_vec());
                }
                Err(StateError::Conflict { current: seen }) => assert!(seen == current && seen != Some(asked)),
                Err(error) => run.expect_full(&error),
            }
        }
        Operation::Loan { key, bytes, used, publish } => {
            let key = name(key);
            let mut loan = match run.store.loan(&user(&key), bytes as u32) {
                Ok(loan) => loan,
                Err(error) => return run.expect_full(&error),
            };
            loan.in_place().unwrap()[..used].fill(0x5a);
            loan.truncate(used);
            if publish {
                match run.store.publish(loan, Meta::RAW, Condition::Any) {
                    Ok(version) => run.published(&key, version, vec![0x5a; used]),
                    Err(refused) => run.expect_full(&refused.error),
                }
            }
        }
        Operation::Delete { key } => {
            let key = name(key);
            let position = run.store.delete(&user(&key), Condition::Any).unwrap();
            assert_eq!(position.is_some(), run.model.remove(&key).is_some());
            run.last_version = position.unwrap_or(run.last_version);
        }
        Operation::Hold { key } => hold(run, &name(key)),
        Operation::LetGo => drop(run.held.pop()),
        Operation::List { prefix, limit } => list(run, prefix, limit),
        Operation::Check => check(run),
    }
}

fn user(key: &str) -> Key<'_> {
    Key::new(Namespace::USER, key).unwrap()
}

fn hold<'s>(run: &mut Run<'s>, key: &str) {
    if run.held.len() == 20 {
        run.held.remove(0);
    }
    let found = run.store.get(&user(key)).unwrap();
    assert_eq!(found.is_some(), run.model.contains_key(key));
    if let Some(guard) = found {
        let (version, value) = &run.model[key];
        assert_eq!((guard.version(), guard.in_place().unwrap()), (*version, &value[..]));
        run.held.push((guard, value.clone()));
    }
}

fn list(run: &Run<'_>, prefix: u8, limit: usize) {
    let prefix = prefix.to_string();
    let found = run.store.list(&Page { namespace: Namespace::USER, prefix: &prefix, after: "", limit }).unwrap();
    let found: Vec<_> = found.into_iter().map(|listed| (listed.key, listed.header.version)).collect();
    let expected = run.model.iter().filter(|(key, _)| key.starts_with(&prefix)).take(limit);
    assert_eq!(found, expected.map(|(key, (version, _))| (key.clone(), *version)).collect::<Vec<_>>());
}

fn check(run: &Run<'_>) {
    let checked = run.objects.check().unwrap();
    assert_eq!(checked.keys, run.model.len() as u64);
    assert_eq!(checked.loans, 0);
    for (guard, value) in &run.held {
        assert_eq!(guard.in_place().unwrap(), value, "a held object changed");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_store_does_what_a_map_does(operations in prop::collection::vec(operations(), 1..400)) {
        let objects = Arc::new(Objects::create(ObjectsLayout::for_limit(LIMIT_BYTES).unwrap()).unwrap());
        let store = objects.worker_store(WorkerTag::new(3, 1)).unwrap();
        let mut run = Run { objects: &objects, store: &store, model: Model::new(), held: Vec::new(), last_version: 0 };
        for operation in &operations {
            apply(&mut run, operation);
        }
        check(&run);
        for (key, (version, value)) in &run.model {
            let guard = store.get(&user(key)).unwrap().expect("it is there");
            assert_eq!((guard.version(), guard.in_place().unwrap()), (*version, &value[..]));
        }
        run.held.clear();
        for key in run.model.keys() {
            store.delete(&user(key), Condition::Any).unwrap().unwrap();
        }
        let checked = objects.check().unwrap();
        prop_assert_eq!(checked.keys, 0);
    }
}

/// What lies between objects that live stays small however long they come and go.
#[test]
fn fragmentation_stays_bounded_under_a_long_random_workload() {
    let objects = Arc::new(Objects::create(ObjectsLayout::for_limit(16 << 20).unwrap()).unwrap());
    let store = objects.worker_store(WorkerTag::new(0, 1)).unwrap();
    let seed = std::env::var("PRAAS_SEED").map_or(0x1234_5678_9abc_def1, |seed| seed.parse().unwrap());
    println!("PRAAS_SEED={seed}");
    let mut state: u64 = seed;
    let mut random = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) % below
    };
    let (mut live, mut total) = (BTreeMap::<String, u64>::new(), 0);
    // Live bytes swing around 60 percent of the heap; sizes change their scale over time, the worst for any allocator.
    for round in 0..60_000_u64 {
        let scale = [64, 700, 9000, 40_000][(round / 5000 % 4) as usize];
        let key = format!("{}", random(4000));
        let bytes = random(scale);
        if total + bytes > 8 << 20 || random(3) == 0 {
            let Some((key, bytes)) = live.range(key..).next().map(|(key, bytes)| (key.clone(), *bytes)) else {
                continue;
            };
            store.delete(&user(&key), Condition::Any).unwrap().unwrap();
            live.remove(&key);
            total -= bytes;
            continue;
        }
        store.put(&user(&key), &vec![1; bytes as usize], Meta::RAW, Condition::Any).unwrap();
        total += bytes;
        total -= live.insert(key, bytes).unwrap_or(0);
    }
    let checked = objects.check().unwrap();
    println!("{total} bytes in {} objects: {checked:?}", live.len());
    assert!(checked.largest_free_bytes * 4 > checked.free_bytes, "free memory is in splinters: {checked:?}");
}
