//! Objects that come back while their process runs: as pages of stubs, then with their values. Whatever workers do meanwhile, and
//! at whatever store the server dies, each object is what it was or what was made of it since.
#![cfg(not(loom))]
#![allow(clippy::cast_possible_truncation, reason = "small numbers of a test's own")]

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use praas_protocol::{FunctionId, IdempotencyKey};
use praas_shm::WorkerTag;
use praas_shm::objects::steps::observe;
use praas_shm::objects::{
    Begun, CallClock, CallEnd, CallName, Condition, Encoding, Key, Meta, Namespace, ObjectHeader, Objects,
    ObjectsLayout, Page, StateError, Store,
};
use praas_shm::swap::{
    CutValue, Import, ImportError, ImportFacts, Missing, QuietCut, Remainder, Restorer, StoredAt, StoredObject,
};
use proptest::prelude::*;

const LIMIT_BYTES: u64 = 4 << 20;
const PAGE_BITS: u32 = 3;
const FIRST: WorkerTag = WorkerTag::new(0, 1);
const SECOND: WorkerTag = WorkerTag::new(1, 1);
const CLOCK: CallClock = CallClock { now_unix_ms: 1000, kept_for: Duration::from_secs(1) };
const LIST: Page<'_> = Page { namespace: Namespace::USER, prefix: "", after: "", limit: 4096 };

fn user(text: &str) -> Key<'_> {
    Key::new(Namespace::USER, text).unwrap()
}

fn pattern(bytes: usize, seed: u64) -> Vec<u8> {
    (0..bytes as u64).map(|at| (at.wrapping_mul(31) ^ at >> 8 ^ seed).to_le_bytes()[0]).collect()
}

fn call(number: u8) -> CallName {
    CallName::new(&"alice".parse().unwrap(), FunctionId(7), IdempotencyKey::from_bytes([number; 16]))
}

/// An object outside: where it is stored is told by its place in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Kept {
    namespace: Namespace,
    text: String,
    hash: u64,
    header: ObjectHeader,
    value: Vec<u8>,
    stored: StoredAt,
}

impl Kept {
    fn key(&self) -> Key<'_> {
        Key::new(self.namespace, &self.text).unwrap()
    }

    fn page(&self, page_bits: u32) -> u32 {
        (u128::from(self.hash) << page_bits >> 64) as u32
    }
}

/// What sleeps.
#[derive(Debug, Clone)]
struct Asleep {
    position: u64,
    seed: u64,
    remainder: Remainder,
    objects: Vec<Kept>,
}

impl Asleep {
    /// Some objects of all sizes and records of calls.
    fn new(count: usize) -> Self {
        Self::of(&Self::awake(count))
    }

    fn awake(count: usize) -> Arc<Objects> {
        let objects = Arc::new(Objects::create(ObjectsLayout::for_limit(LIMIT_BYTES).unwrap()).unwrap());
        let store = objects.worker_store(FIRST).unwrap();
        for number in 0..count {
            let meta = Meta { type_id: number as u64, schema_version: 3, encoding: Encoding::Archived };
            let bytes = [0, 9, 100, 1024, 5000, 20_000][number % 6];
            store.put(&user(&format!("key-{number}")), &pattern(bytes, number as u64), meta, Condition::Any).unwrap();
        }
        for number in 0..4 {
            let name = call(number);
            let Ok(Begun::Run(claim)) = store.begin_call(&name, [1; 16], false, CLOCK) else { panic!("it is new") };
            let end = CallEnd { outcome_code: 0, detail: 1, more: 2, reply: &pattern(600, u64::from(number)) };
            claim.finish(&end, (13, 1, 2), CLOCK).unwrap();
        }
        drop(store);
        objects
    }

    fn of(objects: &Arc<Objects>) -> Self {
        let cut = QuietCut::begin(Arc::clone(objects), Vec::new()).unwrap();
        let mut kept = Vec::new();
        cut.objects(|object| -> Result<(), StateError> {
            let CutValue::Here { token } = object.value else { panic!("nothing is stored yet") };
            let mut value = vec![0; object.header.value_bytes as usize];
            cut.read(token, 0, &mut value)?;
            let (namespace, text) = (object.key.namespace(), object.key.text().to_owned());
            let mut stored = [7; 40];
            stored[..8].copy_from_slice(&(kept.len() as u64).to_le_bytes());
            let (hash, header) = (object.hash, object.header);
            kept.push(Kept { namespace, text, hash, header, value, stored: StoredAt(stored) });
            Ok(())
        })
        .unwrap();
        let remainder = cut.remainder().unwrap();
        Self { position: cut.position(), seed: cut.hash_seed(), remainder, objects: kept }
    }

    fn wake(&self) -> Arc<Objects> {
        let layout = ObjectsLayout::for_limit(LIMIT_BYTES).unwrap();
        let facts = ImportFacts { hash_seed: Some(self.seed), position: self.position };
        let import = Import::create_restoring(layout, &facts, PAGE_BITS).unwrap();
        import.remainder(&self.remainder, 1).unwrap();
        let objects = import.finish().unwrap();
        objects.check().unwrap();
        Arc::new(objects)
    }

    fn stubs_of(&self, page: u32) -> Vec<StoredObject<'_>> {
        let of_page = self.objects.iter().filter(|kept| kept.page(PAGE_BITS) == page);
        of_page.map(|kept| StoredObject { key: kept.key(), header: kept.header, stored: kept.stored }).collect()
    }

    fn find(&self, stored: &StoredAt) -> &Kept {
        let index = u64::from_le_bytes(stored.0[..8].try_into().unwrap());
        &self.objects[index as usize]
    }

    fn install_page(&self, restorer: &Restorer, page: u32) -> Result<bool, ImportError> {
        restorer.page(page, &self.stubs_of(page))
    }

    /// What a server does for a worker that asks for a key.
    fn fetch(&self, restorer: &Restorer, key: &Key<'_>) {
        loop {
            match restorer.missing(key).unwrap() {
                Missing::Nothing => return,
                Missing::Page(page) => drop(self.install_page(restorer, page).unwrap()),
                Missing::Value { header, stored } => {
                    let kept = self.find(&stored);
                    assert_eq!((kept.header, kept.key()), (header, *key));
                    restorer.value(key, header.version, &kept.value).unwrap();
                }
            }
        }
    }

    fn restore_all(&self, restorer: &Restorer) {
        for page in 0..1 << PAGE_BITS {
            self.install_page(restorer, page).unwrap();
        }
        for kept in &self.objects {
            restorer.value(&kept.key(), kept.header.version, &kept.value).unwrap();
        }
    }
}

/// What a worker's SDK does: asks for what is away, and tries again.
fn insist<T>(mut operation: impl FnMut() -> Result<T, StateError>, mut fetch: impl FnMut()) -> T {
    for _ in 0..8 {
        match operation() {
            Err(StateError::Away { .. }) => fetch(),
            done => return done.unwrap(),
        }
    }
    panic!("it stays away")
}

fn value_of(store: &Store, key: &Key<'_>, fetch: impl FnMut()) -> Option<(ObjectHeader, Vec<u8>)> {
    let get = || Ok(store.get(key)?.map(|guard| (guard.header(), guard.in_place().unwrap().to_vec())));
    insist(get, fetch)
}

#[test]
fn what_is_asked_for_comes_back_and_the_rest_stays_away() {
    let asleep = Asleep::new(60);
    let objects = asleep.wake();
    let restorer = Restorer::new(Arc::clone(&objects)).unwrap();
    let store = objects.worker_store(SECOND).unwrap();
    assert_eq!(restorer.absent_pages(), 1 << PAGE_BITS);
    assert!(matches!(store.list(&LIST), Err(StateError::Away { .. })), "not all is known");

    let wanted = asleep.objects.iter().find(|kept| kept.text == "key-4").unwrap();
    let key = wanted.key();
    let page = wanted.page(PAGE_BITS);
    let away = store.get(&key).unwrap_err();
    assert_eq!(away, StateError::Away { page, version: None });
    for refused in [
        store.put(&key, b"new", Meta::RAW, Condition::Any).map(drop),
        store.delete(&key, Condition::Any).map(drop),
        store.put(&key, &[0; 5000], Meta::RAW, Condition::Any).map(drop),
        store.header(&key).map(drop),
    ] {
        assert_eq!(refused, Err(away.clone()));
    }

    assert_eq!(asleep.install_page(&restorer, page), Ok(true));
    assert_eq!(asleep.install_page(&restorer, page), Ok(false), "it is in");
    objects.check().unwrap();
    assert_eq!(store.header(&key).unwrap(), Some(wanted.header), "a header needs no value");
    let version = Some(wanted.header.version);
    assert!(matches!(store.get(&key), Err(StateError::Away { version: actual, .. }) if actual == version));
    // Within a page that is in, there is nothing but what came.
    let unknown = (0..).map(|number| format!("unknown-{number}")).find(|text| {
        let page_of = store.hash_of(&user(text)) >> (64 - PAGE_BITS);
        page_of == u64::from(page)
    });
    assert!(store.get(&user(&unknown.unwrap())).unwrap().is_none());

    assert_eq!(restorer.value(&key, wanted.header.version, &wanted.value), Ok(true));
    assert_eq!(restorer.value(&key, wanted.header.version, &wanted.value), Ok(false), "it is in");
    let found = value_of(&store, &key, || panic!("it is there")).unwrap();
    assert_eq!(found, (wanted.header, wanted.value.clone()));
    assert_eq!(objects.position(), asleep.position, "nothing of it is a mutation");
    let checked = objects.check().unwrap();
    assert_eq!(checked.keys, asleep.stubs_of(page).len() as u64);
    assert_eq!(checked.stubs, checked.keys - 1);

    asleep.restore_all(&restorer);
    assert_eq!((restorer.absent_pages(), objects.check().unwrap().stubs), (0, 0));
    assert_eq!(store.list(&LIST).unwrap().len(), 60);
    for kept in asleep.objects.iter().filter(|kept| kept.namespace == Namespace::USER) {
        let found = value_of(&store, &kept.key(), || panic!("all is there")).unwrap();
        assert_eq!(found, (kept.header, kept.value.clone()));
    }
    assert!(store.get(&user("never put")).unwrap().is_none());
    assert_eq!(store.call_usage().records, 4);
    for number in 0..4 {
        assert!(matches!(store.begin_call(&call(number), [1; 16], false, CLOCK), Ok(Begun::Finished(_))));
    }
}

#[test]
fn what_was_put_or_deleted_is_not_undone_by_what_comes_back_later() {
    let asleep = Asleep::new(60);
    let objects = asleep.wake();
    let restorer = Restorer::new(Arc::clone(&objects)).unwrap();
    let store = objects.worker_store(SECOND).unwrap();
    let header_of = |text: &str| asleep.objects.iter().find(|kept| kept.text == text).unwrap().header;
    let page_in = |text: &str| {
        let kept = asleep.objects.iter().find(|kept| kept.text == text).unwrap();
        asleep.install_page(&restorer, kept.page(PAGE_BITS)).unwrap();
    };
    for text in ["key-1", "key-2", "key-3", "key-4"] {
        page_in(text);
    }
    // Over stubs, by condition and without, in one piece and on loan.
    let old = header_of("key-1").version;
    let refused = store.put(&user("key-1"), b"new", Meta::RAW, Condition::Version(old + 1_000_000));
    assert_eq!(refused, Err(StateError::Conflict { current: Some(old) }));
    assert!(matches!(
        store.put(&user("key-1"), b"new", Meta::RAW, Condition::Absent),
        Err(StateError::Conflict { .. })
    ));
    store.put(&user("key-1"), b"new", Meta::RAW, Condition::Version(old)).unwrap();
    store.put(&user("key-2"), &[5; 9000], Meta::RAW, Condition::Any).unwrap();
    store.delete(&user("key-3"), Condition::Any).unwrap().unwrap();
    store.delete(&user("key-4"), Condition::Any).unwrap().unwrap();
    store.put(&user("key-4"), b"anew", Meta::RAW, Condition::Absent).unwrap();
    objects.check().unwrap();
    asleep.restore_all(&restorer);
    objects.check().unwrap();
    let value = |text: &str| value_of(&store, &user(text), || panic!("all is there")).map(|(_, value)| value);
    assert_eq!(value("key-1"), Some(b"new".to_vec()));
    assert_eq!(value("key-2"), Some(vec![5; 9000]));
    assert_eq!(value("key-3"), None);
    assert_eq!(value("key-4"), Some(b"anew".to_vec()));
}

#[test]
fn what_contradicts_itself_is_named_and_leaves_all_as_it_was() {
    let asleep = Asleep::new(60);
    let objects = asleep.wake();
    let restorer = Restorer::new(Arc::clone(&objects)).unwrap();
    let (one, other) = (asleep.stubs_of(0), asleep.stubs_of(1));
    assert!(matches!(restorer.page(0, &other), Err(ImportError::Contradiction { .. })));
    let mut future = one.clone();
    future[0].header.version = asleep.position + 1;
    assert!(matches!(restorer.page(0, &future), Err(ImportError::Object { .. })));
    assert!(restorer.is_absent(0));
    assert_eq!(restorer.page(0, &one), Ok(true));
    assert!(matches!(restorer.page(1 << PAGE_BITS, &[]), Err(ImportError::Page { .. })), "there is no such page");
    let kept = asleep.objects.iter().find(|kept| kept.page(PAGE_BITS) == 0).unwrap();
    let longer = vec![0; kept.value.len() + 1];
    let refused = restorer.value(&kept.key(), kept.header.version, &longer);
    assert!(matches!(refused, Err(ImportError::Contradiction { .. })), "{refused:?}");
    assert_eq!(restorer.value(&kept.key(), kept.header.version + 1, &kept.value), Ok(false), "another version");
    assert_eq!(restorer.value(&kept.key(), kept.header.version, &kept.value), Ok(true));
    objects.check().unwrap();
    let layout = ObjectsLayout::for_limit(256 << 10).unwrap();
    let facts = ImportFacts { hash_seed: None, position: 0 };
    assert!(Import::create_restoring(layout, &facts, layout.page_bits_max()).is_ok());
    assert!(Import::create_restoring(layout, &facts, layout.page_bits_max() + 1).is_err());
}

/// What a cut of a process says that was not restored whole: where its values still are.
#[test]
fn a_process_that_sleeps_again_keeps_what_did_not_come_back_where_it_is() {
    let asleep = Asleep::new(60);
    let objects = asleep.wake();
    let restorer = Restorer::new(Arc::clone(&objects)).unwrap();
    asleep.install_page(&restorer, 2).unwrap();
    asleep.install_page(&restorer, 5).unwrap();
    let fetched = asleep.objects.iter().find(|kept| kept.page(PAGE_BITS) == 2).unwrap();
    restorer.value(&fetched.key(), fetched.header.version, &fetched.value).unwrap();
    drop(restorer);
    let cut = QuietCut::begin(Arc::clone(&objects), Vec::new()).unwrap();
    assert_eq!(cut.page_bits(), Some(PAGE_BITS));
    let absent: Vec<_> = (0..1 << PAGE_BITS).filter(|&page| cut.is_absent(page)).collect();
    assert_eq!(absent, [0, 1, 3, 4, 6, 7]);
    let mut seen = 0;
    cut.objects(|object| -> Result<(), StateError> {
        seen += 1;
        match object.value {
            CutValue::Here { .. } => assert_eq!(object.key, fetched.key()),
            CutValue::Stored(stored) => {
                let kept = asleep.find(&stored);
                assert_eq!((kept.key(), kept.header, kept.hash), (object.key, object.header, object.hash));
            }
        }
        Ok(())
    })
    .unwrap();
    assert_eq!(seen, asleep.stubs_of(2).len() + asleep.stubs_of(5).len());
    assert_eq!(cut.remainder().unwrap(), asleep.remainder, "the order of calls is known though they are not here");
}

/// Records whose time is over are forgotten behind those that are still in storage, and those when they are back.
#[test]
fn records_in_storage_do_not_keep_those_behind_them_from_being_forgotten() {
    let asleep = Asleep::new(0);
    let objects = asleep.wake();
    let restorer = Restorer::new(Arc::clone(&objects)).unwrap();
    // Of the four, the older two stay where they are: one as a stub, one in a page that is absent, if pages allow.
    let pages: Vec<u32> = (0..4)
        .map(|number| asleep.objects.iter().find(|kept| kept.key() == call(number).key()).unwrap().page(PAGE_BITS))
        .collect();
    for number in 2..4 {
        asleep.fetch(&restorer, &call(number).key());
    }
    asleep.install_page(&restorer, pages[0]).unwrap();
    let store = objects.worker_store(SECOND).unwrap();
    let run = |number: u8, now_unix_ms: u64| {
        let (name, clock) = (call(number), CallClock { now_unix_ms, ..CLOCK });
        let begun = insist(
            || store.begin_call(&name, [1; 16], false, clock),
            || {
                (0..1 << PAGE_BITS).filter(|page| !pages[..2].contains(page)).for_each(|page| {
                    asleep.install_page(&restorer, page).unwrap();
                });
            },
        );
        let Begun::Run(claim) = begun else { panic!("{number} is new: {begun:?}") };
        claim.finish(&CallEnd { outcome_code: 0, detail: 0, more: 0, reply: b"" }, (13, 1, 2), clock).unwrap();
    };
    // Keys in pages that are in or may come in.
    let new: Vec<u8> = (10..=255)
        .filter(|&number| {
            let hash = store.hash_of(&call(number).key());
            !pages[..2].contains(&((u128::from(hash) << PAGE_BITS >> 64) as u32))
        })
        .take(24)
        .collect();
    let (first, second) = new.split_at(12);
    first.iter().for_each(|&number| run(number, 1_000_000));
    assert_eq!(store.call_usage().records, 2 + 12, "two of four are still in storage");
    objects.check().unwrap();
    (0..2).for_each(|number| asleep.fetch(&restorer, &call(number).key()));
    second.iter().for_each(|&number| run(number, 2_000_000));
    assert_eq!(store.call_usage().records, 12);
    drop(store);
    objects.check().unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// A worker does as it likes, pages and values come in any order: what it sees is what a process would show it that was
    /// never away.
    #[test]
    fn a_worker_cannot_tell_what_was_away(steps in proptest::collection::vec((0..7_u8, 0..70_usize, any::<u16>()), 1..150)) {
        let whole = Asleep::awake(60);
        let asleep = Asleep::of(&whole);
        let objects = asleep.wake();
        let restorer = Restorer::new(Arc::clone(&objects)).unwrap();
        let (store, model) = (objects.worker_store(SECOND).unwrap(), whole.worker_store(SECOND).unwrap());
        for (what, number, other) in steps {
            let text = format!("key-{number}");
            let key = user(&text);
            let fetch = || asleep.fetch(&restorer, &key);
            match what {
                0 | 1 => {
                    let seen = value_of(&store, &key, fetch);
                    let expected = value_of(&model, &key, || panic!("it was never away"));
                    // Puts of both are some time apart.
                    let plain = |(header, value): (ObjectHeader, Vec<u8>)| (header.version, header.meta, value);
                    prop_assert!(seen.map(plain) == expected.map(plain), "{}", text);
                }
                2 => {
                    let value = pattern(usize::from(other) % 6000, number as u64);
                    let put = |store: &Store| store.put(&key, &value, Meta::RAW, Condition::Any);
                    prop_assert_eq!(insist(|| put(&store), fetch), put(&model).unwrap());
                }
                3 => {
                    let delete = |store: &Store| store.delete(&key, Condition::Any);
                    prop_assert_eq!(insist(|| delete(&store), fetch), delete(&model).unwrap());
                }
                4 => {
                    let version = |header: Option<ObjectHeader>| header.map(|header| (header.version, header.value_bytes));
                    let seen = insist(|| store.header(&key), fetch);
                    prop_assert_eq!(version(seen), version(model.header(&key).unwrap()));
                }
                5 => drop(asleep.install_page(&restorer, u32::from(other) % (1 << PAGE_BITS)).unwrap()),
                _ => {
                    let kept = &asleep.objects[usize::from(other) % asleep.objects.len()];
                    restorer.value(&kept.key(), kept.header.version, &kept.value).unwrap();
                }
            }
        }
        objects.check().unwrap();
        asleep.restore_all(&restorer);
        let checked = objects.check().unwrap();
        prop_assert_eq!((checked.stubs, restorer.absent_pages()), (0, 0));
        let plain = |store: &Store| {
            let all = store.list(&LIST).unwrap();
            all.into_iter().map(|listed| (listed.key, listed.header.version, listed.header.value_bytes)).collect::<Vec<_>>()
        };
        prop_assert_eq!(plain(&store), plain(&model));
        for (text, ..) in plain(&store) {
            let (seen, expected) = (value_of(&store, &user(&text), || ()), value_of(&model, &user(&text), || ()));
            prop_assert!(seen.map(|seen| seen.1) == expected.map(|seen| seen.1), "{}", text);
        }
    }
}

/// Workers read, put and delete while threads of the server install everything: nobody ever misses an object that was there, reads
/// a value of another version, or loses what was put.
#[test]
fn workers_go_on_while_everything_comes_back() {
    const COUNT: usize = 300;
    for round in 0..6_u64 {
        let asleep = Asleep::new(COUNT);
        let objects = asleep.wake();
        let restorer = Restorer::new(Arc::clone(&objects)).unwrap();
        let is_over = AtomicBool::new(false);
        // Keys divisible by 3 are read, others put or deleted by one worker each.
        let versions: BTreeMap<_, _> = asleep.objects.iter().map(|kept| (kept.text.as_str(), kept)).collect();
        thread::scope(|scope| {
            let mut workers = Vec::new();
            for worker in 0..3_u8 {
                let (objects, asleep, restorer, versions, is_over) =
                    (&objects, &asleep, &restorer, &versions, &is_over);
                workers.push(scope.spawn(move || {
                    let store = objects.worker_store(WorkerTag::new(worker, 1)).unwrap();
                    let mut put = BTreeMap::new();
                    let mut mixed = round * 1000 + u64::from(worker) + 1;
                    while !is_over.load(Ordering::Acquire) || put.len() < 20 {
                        mixed ^= mixed << 13;
                        mixed ^= mixed >> 7;
                        mixed ^= mixed << 17;
                        let number = mixed as usize % COUNT;
                        let text = format!("key-{number}");
                        let key = user(&text);
                        let fetch = || asleep.fetch(restorer, &key);
                        if number % 4 == 3 {
                            let (header, value) = value_of(&store, &key, fetch).expect("nobody deletes it");
                            let kept = versions[text.as_str()];
                            assert_eq!((header, &value), (kept.header, &kept.value));
                        } else if number % 4 == usize::from(worker) {
                            let seen = value_of(&store, &key, || asleep.fetch(restorer, &key)).map(|(_, value)| value);
                            let expected = put
                                .get(&number)
                                .cloned()
                                .unwrap_or_else(|| Some(versions[text.as_str()].value.clone()));
                            assert!(seen == expected, "{text} of worker {worker}");
                            if mixed >> 40 & 3 == 0 {
                                insist(|| store.delete(&key, Condition::Any), fetch);
                                put.insert(number, None);
                            } else {
                                let value = pattern((mixed >> 32) as usize % 8000, mixed);
                                insist(|| store.put(&key, &value, Meta::RAW, Condition::Any), fetch);
                                put.insert(number, Some(value));
                            }
                        }
                    }
                    put
                }));
            }
            let restoring: Vec<_> = (0..2_u32)
                .map(|which| {
                    let (asleep, restorer) = (&asleep, &restorer);
                    scope.spawn(move || {
                        for page in (0..1 << PAGE_BITS).filter(|page| page % 2 == which) {
                            asleep.install_page(restorer, page).unwrap();
                            for kept in asleep.objects.iter().filter(|kept| kept.page(PAGE_BITS) == page) {
                                restorer.value(&kept.key(), kept.header.version, &kept.value).unwrap();
                            }
                        }
                    })
                })
                .collect();
            let restored: Vec<_> = restoring.into_iter().map(thread::ScopedJoinHandle::join).collect();
            // Also when one of them has failed: the workers are to end.
            is_over.store(true, Ordering::Release);
            restored.into_iter().for_each(|restored| restored.unwrap());
            let put: BTreeMap<usize, Option<Vec<u8>>> =
                workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect();
            let checked = objects.check().unwrap();
            assert_eq!((checked.stubs, restorer.absent_pages()), (0, 0));
            let store = objects.worker_store(FIRST).unwrap();
            for number in 0..COUNT {
                let text = format!("key-{number}");
                let expected = put.get(&number).cloned().unwrap_or_else(|| Some(versions[text.as_str()].value.clone()));
                assert!(
                    value_of(&store, &user(&text), || panic!("all is there")).map(|seen| seen.1) == expected,
                    "{text}"
                );
            }
        });
    }
}

fn image(objects: &Objects) -> Vec<u8> {
    let mut bytes = vec![0; objects.layout().segment_bytes()];
    assert_eq!(rustix::io::pread(objects.fd(), &mut bytes, 0).unwrap(), bytes.len());
    bytes
}

/// After each store of an installation the segment is copied: what a `kill -9` of the server would leave. The next server installs
/// the same again, and everything is there once.
#[test]
fn a_server_that_dies_at_any_store_of_an_installation_leaves_what_the_next_one_finishes() {
    let asleep = Rc::new(Asleep::new(14));
    let objects = asleep.wake();
    let restorer = Restorer::new(Arc::clone(&objects)).unwrap();
    let store = objects.worker_store(SECOND).unwrap();
    let deaths = Rc::new(Cell::new(0));
    let hook = {
        let (objects, asleep, deaths) = (Arc::clone(&objects), Rc::clone(&asleep), Rc::clone(&deaths));
        let copy = asleep.wake();
        move || {
            let left = image(&objects);
            assert_eq!(rustix::io::pwrite(copy.fd(), &left, 0).unwrap(), left.len());
            copy.recover_all().unwrap();
            copy.check().unwrap();
            {
                let restorer = Restorer::new(Arc::clone(&copy)).unwrap();
                asleep.restore_all(&restorer);
            }
            let checked = copy.check().unwrap();
            assert_eq!((checked.stubs, checked.loans), (0, 0), "death {}", deaths.get());
            let store = copy.worker_store(FIRST).unwrap();
            for kept in &asleep.objects {
                let (header, value) = value_of(&store, &kept.key(), || panic!("all is there")).unwrap();
                assert!((header, &value) == (kept.header, &kept.value), "death {}: {}", deaths.get(), kept.text);
            }
            deaths.set(deaths.get() + 1);
        }
    };
    let observing = observe(hook);
    let page = asleep.objects.iter().find(|kept| kept.value.len() > 10_000).unwrap().page(PAGE_BITS);
    asleep.install_page(&restorer, page).unwrap();
    for kept in asleep.objects.iter().filter(|kept| kept.page(PAGE_BITS) == page) {
        restorer.value(&kept.key(), kept.header.version, &kept.value).unwrap();
    }
    drop(observing);
    drop(store);
    println!("{} deaths", deaths.get());
    assert!(deaths.get() > 50);
}
