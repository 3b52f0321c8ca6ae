//! Records of calls with idempotency keys: who runs a call, what the others are told, what a death leaves, what is forgotten.
#![cfg(not(loom))]
#![allow(clippy::cast_possible_truncation, reason = "small numbers of a test's own")]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use praas_protocol::{FunctionId, IdempotencyKey};
use praas_shm::WorkerTag;
use praas_shm::objects::steps::observe;
use praas_shm::objects::{
    Begun, CallClaim, CallClock, CallEnd, CallName, Condition, Key, Meta, Namespace, Objects, ObjectsLayout,
    StateError, Store,
};
use proptest::prelude::*;

const LIMIT_BYTES: u64 = 256 << 10;
const KEPT: Duration = Duration::from_millis(1000);
const OK: u32 = 0;
const NOT_KEPT: (u32, u32, u32) = (13, 1, 2);
const FIRST: WorkerTag = WorkerTag::new(0, 1);
const SECOND: WorkerTag = WorkerTag::new(1, 1);

fn create() -> Arc<Objects> {
    Arc::new(Objects::create(ObjectsLayout::for_limit(LIMIT_BYTES).unwrap()).unwrap())
}

fn name(number: u32) -> CallName {
    let mut key = [0; 16];
    key[..4].copy_from_slice(&number.to_le_bytes());
    CallName::new(&"alice".parse().unwrap(), FunctionId(7), IdempotencyKey::from_bytes(key))
}

fn at(now_unix_ms: u64) -> CallClock {
    CallClock { now_unix_ms, kept_for: KEPT }
}

fn end(reply: &[u8]) -> CallEnd<'_> {
    CallEnd { outcome_code: OK, detail: 3, more: 4, reply }
}

fn begin<'s, 'n>(store: &'s Store, name: &'n CallName, now: u64) -> Begun<'s, 'n> {
    store.begin_call(name, [1; 16], false, at(now)).unwrap()
}

fn begin_again<'s, 'n>(store: &'s Store, name: &'n CallName, now: u64) -> Begun<'s, 'n> {
    store.begin_call(name, [1; 16], true, at(now)).unwrap()
}

fn claim<'s, 'n>(store: &'s Store, name: &'n CallName, now: u64) -> CallClaim<'s, 'n> {
    match begin(store, name, now) {
        Begun::Run(claim) => claim,
        other => panic!("the call is not ours: {other:?}"),
    }
}

fn reply_of(begun: &Begun<'_, '_>) -> Vec<u8> {
    match begun {
        Begun::Finished(finished) => finished.end().reply.to_vec(),
        other => panic!("the call has not ended: {other:?}"),
    }
}

/// Another mapping of the same segment, as a server or a worker would have it.
fn mapped_again(objects: &Objects) -> Arc<Objects> {
    let fd = objects.fd().as_fd().try_clone_to_owned().unwrap();
    Arc::new(Objects::attach(fd, objects.layout()).unwrap())
}

#[test]
fn one_of_several_equal_calls_runs_and_the_others_get_its_end() {
    let objects = create();
    let (first, second) = (objects.worker_store(FIRST).unwrap(), objects.worker_store(SECOND).unwrap());
    let name = name(1);
    let mine = claim(&first, &name, 10);
    assert!(matches!(begin(&second, &name, 10), Begun::Running));
    assert!(matches!(begin(&first, &name, 10), Begun::Running));
    mine.finish(&end(b"reply"), NOT_KEPT, at(20)).unwrap();
    for now in [20, 1019] {
        let begun = begin(&second, &name, now);
        let Begun::Finished(finished) = &begun else { panic!("{begun:?}") };
        let CallEnd { outcome_code, detail, more, reply } = finished.end();
        assert_eq!((outcome_code, detail, more, reply), (OK, 3, 4, &b"reply"[..]));
    }
    assert_eq!(objects.check().unwrap().loans, 0);
    assert_eq!(first.call_usage().records, 1);
}

#[test]
fn another_payload_under_the_same_key_is_refused_at_every_stage() {
    let objects = create();
    let (first, second) = (objects.worker_store(FIRST).unwrap(), objects.worker_store(SECOND).unwrap());
    let name = name(1);
    let other = |now| second.begin_call(&name, [2; 16], true, at(now)).unwrap();
    let mine = claim(&first, &name, 10);
    assert!(matches!(other(10), Begun::OtherPayload));
    mine.finish(&end(b""), NOT_KEPT, at(20)).unwrap();
    assert!(matches!(other(1019), Begun::OtherPayload));
    // When its time is over, the key is free.
    assert!(matches!(other(1020), Begun::Run(_)));
}

#[test]
fn replies_of_every_size_are_kept_and_one_beyond_the_share_leaves_its_outcome() {
    let objects = create();
    let store = objects.worker_store(FIRST).unwrap();
    for (number, bytes) in [0, 1, 207, 208, 209, 4000, 4048, 4049, 9000].into_iter().enumerate() {
        let name = name(number as u32);
        let reply: Vec<u8> = (0..bytes).map(|at| u8::try_from(at % 251).unwrap()).collect();
        claim(&store, &name, 0).finish(&end(&reply), NOT_KEPT, at(0)).unwrap();
        assert_eq!(reply_of(&begin(&store, &name, 1)), reply, "{bytes} bytes");
        objects.check().unwrap();
    }
    let name = name(100);
    claim(&store, &name, 0).finish(&end(&[7; 60_000]), NOT_KEPT, at(0)).unwrap();
    let begun = begin(&store, &name, 1);
    let Begun::Finished(finished) = &begun else { panic!("{begun:?}") };
    let CallEnd { outcome_code, detail, more, reply } = finished.end();
    assert_eq!((outcome_code, detail, more, reply), (NOT_KEPT.0, NOT_KEPT.1, NOT_KEPT.2, &b""[..]));
    assert_eq!(objects.check().unwrap().loans, 0);
}

#[test]
fn the_end_of_a_call_is_recorded_even_in_a_state_that_became_full_meanwhile() {
    let objects = create();
    let store = objects.worker_store(FIRST).unwrap();
    let name = name(1);
    let mine = claim(&store, &name, 0);
    let mut kept = 0;
    for bytes in [4000, 100, 0] {
        loop {
            let key = format!("{kept}");
            let key = Key::new(Namespace::USER, &key).unwrap();
            match store.put(&key, &vec![0; bytes], Meta::RAW, Condition::Any) {
                Ok(_) => kept += 1,
                Err(StateError::Full { .. }) => break,
                Err(error) => panic!("{error}"),
            }
        }
    }
    assert!(matches!(store.begin_call(&self::name(2), [1; 16], false, at(0)), Err(StateError::Full { .. })));
    mine.finish(&end(&[9; 150]), NOT_KEPT, at(0)).unwrap();
    assert_eq!(reply_of(&begin(&store, &name, 1)), [9; 150]);
    objects.check().unwrap();
}

#[test]
fn a_call_whose_worker_died_is_lost_until_somebody_asks_for_another_run() {
    let objects = create();
    let second = objects.worker_store(SECOND).unwrap();
    let name = name(1);
    let dying = objects.worker_store(FIRST).unwrap();
    std::mem::forget(claim(&dying, &name, 10));
    std::mem::forget(dying);
    // Nobody knows yet.
    assert!(matches!(begin(&second, &name, 11), Begun::Running));
    objects.recover(FIRST).unwrap();
    assert!(matches!(begin(&second, &name, 500), Begun::Lost));
    // A new worker of the same index is another one.
    let heir = mapped_again(&objects).worker_store(WorkerTag::new(0, 2)).unwrap();
    assert!(matches!(begin(&heir, &name, 1400), Begun::Lost));
    let again = begin_again(&heir, &name, 1400);
    assert!(matches!(begin(&second, &name, 1400), Begun::Running));
    assert!(matches!(begin_again(&second, &name, 1400), Begun::Running));
    let Begun::Run(again) = again else { panic!("{again:?}") };
    again.finish(&end(b"at last"), NOT_KEPT, at(1400)).unwrap();
    assert_eq!(reply_of(&begin_again(&second, &name, 1401)), b"at last");
    assert_eq!((objects.check().unwrap().loans, second.call_usage().records), (0, 1));
}

#[test]
fn a_lost_call_is_remembered_for_its_time_from_when_it_was_found() {
    let objects = create();
    let second = objects.worker_store(SECOND).unwrap();
    let name = name(1);
    let dying = objects.worker_store(FIRST).unwrap();
    std::mem::forget(claim(&dying, &name, 10));
    std::mem::forget(dying);
    objects.recover_all().unwrap();
    let second_again = mapped_again(&objects).worker_store(WorkerTag::new(1, 2)).unwrap();
    drop(second);
    assert!(matches!(begin(&second_again, &name, 50_000), Begun::Lost));
    assert!(matches!(begin(&second_again, &name, 50_999), Begun::Lost));
    assert!(matches!(begin(&second_again, &name, 51_000), Begun::Run(_)));
}

#[test]
fn a_worker_that_gave_its_end_back_has_lost_what_it_ran() {
    let objects = create();
    let second = objects.worker_store(SECOND).unwrap();
    let first = objects.worker_store(FIRST).unwrap();
    let name = name(1);
    drop(claim(&first, &name, 10));
    drop(first);
    assert!(matches!(begin(&second, &name, 10), Begun::Lost));
}

#[test]
fn a_full_ring_refuses_and_forgets_nothing_before_its_time() {
    let objects = create();
    let store = objects.worker_store(FIRST).unwrap();
    // One that runs all the while.
    let long = name(u32::MAX);
    let running = claim(&store, &long, 0);
    let mut number = 0;
    let (used, limit) = loop {
        let name = name(number);
        match begin(&store, &name, u64::from(number)) {
            Begun::Run(claim) => claim.finish(&end(b"x"), NOT_KEPT, at(u64::from(number))).unwrap(),
            Begun::Full { used, limit } => break (used, limit),
            other => panic!("{other:?}"),
        }
        number += 1;
    };
    assert!(used >= limit && number > 50, "{number} records, {used} of {limit} in use");
    let usage = store.call_usage();
    assert_eq!(usage.records, u64::from(number) + 1);
    assert_eq!(objects.check().unwrap().keys, usage.records);
    for earlier in 0..number {
        assert_eq!(reply_of(&begin(&store, &name(earlier), 999)), b"x", "call {earlier}");
    }
    // Whose time is over makes room, a few at a time, and the one that runs is passed.
    for newer in number..2 * number {
        let now = u64::from(newer) + 2000;
        claim(&store, &name(newer), now).finish(&end(b"y"), NOT_KEPT, at(now)).unwrap();
    }
    assert!(store.call_usage().records <= usage.records);
    assert!(matches!(begin(&store, &long, 10_000), Begun::Running));
    running.finish(&end(b"long"), NOT_KEPT, at(10_000)).unwrap();
    assert_eq!(reply_of(&begin(&store, &long, 10_001)), b"long");
    // At last all is forgotten but what is new.
    for newest in 3 * number..4 * number {
        claim(&store, &name(newest), 50_000).finish(&end(b"z"), NOT_KEPT, at(50_000)).unwrap();
    }
    assert_eq!(store.call_usage().records, u64::from(number));
    objects.check().unwrap();
}

#[test]
fn two_workers_that_race_for_a_call_run_it_once() {
    let objects = create();
    for round in 0..200 {
        let name = name(round);
        let runs: u32 = std::thread::scope(|scope| {
            let racing = [FIRST, SECOND, WorkerTag::new(2, 1)].map(|tag| {
                let objects = Arc::clone(&objects);
                scope.spawn(move || {
                    let store = objects.worker_store(tag).unwrap();
                    let deadline = std::time::Instant::now() + Duration::from_secs(30);
                    let mut runs = 0;
                    loop {
                        assert!(std::time::Instant::now() < deadline);
                        // An end that was given back is that of a call that has ended.
                        match store.begin_call(&name, [1; 16], false, at(u64::from(round))).unwrap() {
                            Begun::Run(claim) => {
                                runs += 1;
                                claim.finish(&end(b"once"), NOT_KEPT, at(u64::from(round))).unwrap();
                            }
                            Begun::Running => std::thread::yield_now(),
                            Begun::Finished(finished) => {
                                assert_eq!(finished.end().reply, b"once");
                                return runs;
                            }
                            other => panic!("{other:?}"),
                        }
                    }
                })
            });
            racing.map(|one| one.join().unwrap()).iter().sum()
        });
        assert_eq!(runs, 1, "round {round}");
    }
    objects.check().unwrap();
}

fn image(objects: &Objects) -> Vec<u8> {
    let mut bytes = vec![0; objects.layout().segment_bytes()];
    assert_eq!(rustix::io::pread(objects.fd(), &mut bytes, 0).unwrap(), bytes.len());
    bytes
}

fn restore(objects: &Objects, image: &[u8]) {
    assert_eq!(rustix::io::pwrite(objects.fd(), image, 0).unwrap(), image.len());
}

/// What a call has come to, as somebody sees who repeats it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Found {
    Nothing,
    Lost,
    Ended(u32, Vec<u8>),
}

fn find(objects: &Arc<Objects>, name: &CallName, now: u64) -> Found {
    let store = objects.worker_store(SECOND).unwrap();
    match begin(&store, name, now) {
        Begun::Run(_) => Found::Nothing,
        Begun::Lost => Found::Lost,
        Begun::Finished(finished) => Found::Ended(finished.end().outcome_code, finished.end().reply.to_vec()),
        other => panic!("after a recovery: {other:?}"),
    }
}

/// Dies at each store of `operation`, which the first worker does; what is found of the call then, one for each death.
fn kill_at_every_store(
    prepare: impl FnOnce(&Store),
    name: &CallName,
    now: u64,
    operation: impl FnOnce(&Store),
) -> Vec<Found> {
    let objects = create();
    let worker = objects.worker_store(FIRST).unwrap();
    prepare(&worker);
    let found = Rc::new(RefCell::new(Vec::new()));
    let hook = {
        let (objects, copy, found, name) = (Arc::clone(&objects), create(), Rc::clone(&found), *name);
        move || {
            restore(&copy, &image(&objects));
            copy.recover(FIRST).unwrap();
            assert_eq!(copy.check().unwrap().loans, 0, "a dead worker's loan stayed");
            found.borrow_mut().push(find(&copy, &name, now));
            copy.check().unwrap();
        }
    };
    let observing = observe(hook);
    operation(&worker);
    drop(observing);
    let found = found.take();
    assert!(found.len() > 10, "only {} deaths", found.len());
    found
}

/// The findings without repetitions that follow one another.
fn stages(found: &[Found]) -> Vec<Found> {
    let mut stages = found.to_vec();
    stages.dedup();
    stages
}

#[test]
fn a_death_at_any_store_leaves_a_call_not_begun_or_lost_or_ended() {
    let name = name(1);
    let ended = |reply: &[u8]| Found::Ended(OK, reply.to_vec());
    for bytes in [10, 2000, 9000] {
        let reply = vec![7; bytes];
        let found = kill_at_every_store(
            |_| (),
            &name,
            5,
            |store| claim(store, &name, 5).finish(&end(&reply), NOT_KEPT, at(5)).unwrap(),
        );
        assert_eq!(stages(&found), [Found::Nothing, Found::Lost, ended(&reply)], "{bytes} bytes");
    }
    let too_large = vec![7; 60_000];
    let found = kill_at_every_store(
        |_| (),
        &name,
        5,
        |store| claim(store, &name, 5).finish(&end(&too_large), NOT_KEPT, at(5)).unwrap(),
    );
    assert_eq!(stages(&found), [Found::Nothing, Found::Lost, Found::Ended(NOT_KEPT.0, Vec::new())]);
}

#[test]
fn a_death_at_any_store_of_a_new_beginning_leaves_the_old_call_or_the_new_one() {
    let name = name(1);
    let once = |store: &Store, now| claim(store, &name, now).finish(&end(b"old"), NOT_KEPT, at(now)).unwrap();
    // Its time is over: it begins anew.
    let found = kill_at_every_store(
        |store| once(store, 0),
        &name,
        2000,
        |store| {
            std::mem::forget(claim(store, &name, 2000));
        },
    );
    assert_eq!(stages(&found), [Found::Nothing, Found::Lost]);
    // Lost, and run again.
    let lose = |store: &Store| {
        let (objects, lost) = (store.objects(), WorkerTag::new(3, 1));
        let dying = objects.worker_store(lost).unwrap();
        std::mem::forget(claim(&dying, &name, 0));
        drop(dying);
        objects.recover(lost).unwrap();
    };
    let found = kill_at_every_store(lose, &name, 10, |store| match begin_again(store, &name, 10) {
        Begun::Run(claim) => claim.finish(&end(b"new"), NOT_KEPT, at(10)).unwrap(),
        other => panic!("{other:?}"),
    });
    assert_eq!(stages(&found), [Found::Lost, Found::Ended(OK, b"new".to_vec())]);
    // Marked as lost by whoever comes along.
    let found = kill_at_every_store(lose, &name, 10, |store| {
        assert!(matches!(begin(store, &name, 10), Begun::Lost));
    });
    assert_eq!(stages(&found), [Found::Lost]);
}

#[test]
fn a_death_at_any_store_of_forgetting_leaves_others_as_they_were() {
    let (running, other) = (name(1), name(2));
    let prepare = |store: &Store| {
        std::mem::forget(claim(store, &running, 0));
        for number in 10..14 {
            claim(store, &name(number), 0).finish(&end(b"old"), NOT_KEPT, at(0)).unwrap();
        }
        claim(store, &other, 0).finish(&end(b"kept"), NOT_KEPT, at(5000)).unwrap();
    };
    // The one that runs goes to the end of the ring, others are forgotten.
    let found = kill_at_every_store(prepare, &other, 5500, |store| {
        for number in 20..23 {
            std::mem::forget(claim(store, &name(number), 5500));
        }
        assert!(store.call_usage().records < 9);
    });
    assert_eq!(stages(&found), [Found::Ended(OK, b"kept".to_vec())]);
}

#[derive(Debug, Clone)]
enum Step {
    Begin { worker: u8, call: u32, payload: u8, rerun_lost: bool },
    Finish { worker: u8, bytes: usize },
    Die { worker: u8 },
    Pass { ms: u64 },
}

fn steps() -> impl Strategy<Value = Step> {
    let worker = || 0..3_u8;
    prop_oneof![
        8 => (worker(), 0..12_u32, prop_oneof![9 => Just(1_u8), 1 => Just(2)], any::<bool>()).prop_map(
            |(worker, call, payload, rerun_lost)| Step::Begin { worker, call, payload, rerun_lost }
        ),
        6 => (worker(), prop_oneof![3 => 0..300_usize, 1 => 300..8000_usize]).prop_map(
            |(worker, bytes)| Step::Finish { worker, bytes }
        ),
        1 => worker().prop_map(|worker| Step::Die { worker }),
        3 => (0..900_u64).prop_map(|ms| Step::Pass { ms }),
    ]
}

/// What should be known of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Known {
    Running {
        payload: u8,
    },
    Ended {
        payload: u8,
        reply: Vec<u8>,
        until: u64,
    },
    /// Its time passes from when the loss is found: by who asks for it, or by whoever comes along meanwhile.
    Lost {
        payload: u8,
        over_from: u64,
        over_at_last: u64,
    },
}

impl Known {
    fn payload(&self) -> u8 {
        match self {
            Self::Running { payload } | Self::Ended { payload, .. } | Self::Lost { payload, .. } => *payload,
        }
    }

    /// Whether it may be forgotten, and whether it must be.
    fn is_over(&self, now: u64) -> (bool, bool) {
        match self {
            Self::Running { .. } => (false, false),
            Self::Ended { until, .. } => (*until <= now, *until <= now),
            Self::Lost { over_from, over_at_last, .. } => (*over_from <= now, *over_at_last <= now),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 400, ..ProptestConfig::default() })]

    #[test]
    fn the_life_of_records_is_that_of_a_simple_table(steps in prop::collection::vec(steps(), 1..160)) {
        let objects = create();
        let names: Vec<CallName> = (0..12).map(name).collect();
        let mut generations = [1_u16; 3];
        let stores: RefCell<Vec<&'static Store>> = RefCell::default();
        let enter = |worker: u8, generation: u16| -> &'static Store {
            let mapped = mapped_again(&objects);
            Box::leak(Box::new(mapped.worker_store(WorkerTag::new(worker, generation)).unwrap()))
        };
        stores.borrow_mut().extend((0..3).map(|worker| enter(worker, 1)));
        let mut claims: [Option<(u32, CallClaim<'_, '_>)>; 3] = [None, None, None];
        let mut model = BTreeMap::<u32, Known>::new();
        let mut now = 1_u64;
        for step in steps {
            match step {
                Step::Begin { worker, call, payload, rerun_lost } => {
                    // A worker runs one call at a time.
                    if claims[usize::from(worker)].is_some() { continue }
                    let store = stores.borrow()[usize::from(worker)];
                    let begun = store.begin_call(&names[call as usize], [payload; 16], rerun_lost, at(now)).unwrap();
                    let known = model.get(&call).filter(|known| !known.is_over(now).1).cloned();
                    let may_be_over = known.as_ref().is_none_or(|known| known.is_over(now).0);
                    match (begun, known) {
                        (Begun::Run(claim), known) => {
                            let reruns = matches!(&known, Some(Known::Lost { payload: before, .. })
                                if rerun_lost && *before == payload);
                            prop_assert!(may_be_over || reruns, "a second run, but {:?} at {}", known, now);
                            claims[usize::from(worker)] = Some((call, claim));
                            model.insert(call, Known::Running { payload });
                        }
                        (Begun::OtherPayload, Some(known)) => prop_assert_ne!(known.payload(), payload),
                        (Begun::Running, Some(Known::Running { payload: before })) => prop_assert_eq!(before, payload),
                        (Begun::Finished(finished), Some(Known::Ended { payload: before, reply, .. })) => {
                            prop_assert_eq!((before, finished.end().reply), (payload, &reply[..]));
                        }
                        (Begun::Lost, Some(Known::Lost { payload: before, over_from, over_at_last })) => {
                            prop_assert!(before == payload && !rerun_lost);
                            let over_at_last = over_at_last.min(now + 1000);
                            model.insert(call, Known::Lost { payload, over_from, over_at_last });
                        }
                        (begun, known) => prop_assert!(false, "{begun:?}, but {known:?}"),
                    }
                }
                Step::Finish { worker, bytes } => {
                    let Some((call, claim)) = claims[usize::from(worker)].take() else { continue };
                    let reply = vec![worker; bytes];
                    claim.finish(&end(&reply), NOT_KEPT, at(now)).unwrap();
                    let payload = model[&call].payload();
                    model.insert(call, Known::Ended { payload, reply, until: now + 1000 });
                }
                Step::Die { worker } => {
                    let index = usize::from(worker);
                    if let Some((call, claim)) = claims[index].take() {
                        std::mem::forget(claim);
                        let payload = model[&call].payload();
                        model.insert(call, Known::Lost { payload, over_from: now + 1000, over_at_last: u64::MAX });
                    }
                    objects.recover(WorkerTag::new(worker, generations[index])).unwrap();
                    generations[index] += 1;
                    stores.borrow_mut()[index] = enter(worker, generations[index]);
                }
                Step::Pass { ms } => now += ms,
            }
            objects.check().unwrap();
        }
    }
}
