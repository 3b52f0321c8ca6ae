//! Readers and writers of the same key at the same time: what a reader holds stays as it is however often the object is
//! replaced, what nobody holds any more is used again, and of several writers that start from one version exactly one wins.
//!
//! `PRAAS_REPLACEMENTS` sets how often the object is replaced.
#![cfg(not(loom))]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use praas_shm::WorkerTag;
use praas_shm::objects::{
    Condition, Guard, Key, Meta, Namespace, Objects, ObjectsLayout, PINS_PER_WORKER, StateError, Store,
};

const MIB: u64 = 1 << 20;

/// Replacements while a reader holds old versions, unless the environment says otherwise.
const REPLACEMENTS: u64 = 1_000_000;

fn objects(limit_bytes: u64) -> Arc<Objects> {
    Arc::new(Objects::create(ObjectsLayout::for_limit(limit_bytes).unwrap()).unwrap())
}

fn worker(objects: &Arc<Objects>, index: u8) -> Store {
    objects.worker_store(WorkerTag::new(index, 1)).unwrap()
}

fn key(text: &str) -> Key<'_> {
    Key::new(Namespace::USER, text).unwrap()
}

/// Words of a round's value.
fn words_of(round: u64) -> usize {
    const WORDS: [usize; 4] = [1, 5, 13, 30];
    WORDS[usize::try_from(round % 4).unwrap()]
}

/// The value of a round: its number all over.
fn value(round: u64) -> Vec<u8> {
    round.to_le_bytes().repeat(words_of(round))
}

/// The round whose value a guard shows, if it shows all of it and nothing else.
fn round_of(guard: &Guard<'_>) -> u64 {
    let bytes = guard.in_place().unwrap();
    let round = u64::from_le_bytes(*bytes.first_chunk().unwrap());
    let is_whole = bytes.len() == 8 * words_of(round) && bytes.chunks_exact(8).all(|word| word == round.to_le_bytes());
    assert!(is_whole, "version {} is torn", guard.version());
    round
}

#[test]
fn a_reader_that_holds_guards_sees_what_it_took_while_the_object_is_replaced_a_million_times() {
    let replacements =
        std::env::var("PRAAS_REPLACEMENTS").map_or(REPLACEMENTS, |replacements| replacements.parse().unwrap());
    // Room for what can be held at a time and a little more: replaced versions must be used again.
    let objects = objects(MIB);
    let writer_done = AtomicBool::new(false);
    let newest = AtomicU64::new(0);
    let store = worker(&objects, 0);
    store.put(&key("object"), &value(0), Meta::RAW, Condition::Any).unwrap();
    let before = objects.usage();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let store = worker(&objects, 1);
            for round in 1..=replacements {
                store.put(&key("object"), &value(round), Meta::RAW, Condition::Any).unwrap();
                newest.store(round, Ordering::Release);
            }
            writer_done.store(true, Ordering::Release);
        });
        let mut held: Vec<(u64, Guard<'_>)> = Vec::new();
        let (mut taken, mut last) = (0_u64, 0);
        while !writer_done.load(Ordering::Acquire) {
            // What was put before is there, and never anything older than what was seen.
            let least = newest.load(Ordering::Acquire);
            let guard = store.get(&key("object")).unwrap().unwrap();
            let round = round_of(&guard);
            assert!(round >= least && round >= last, "round {round} after {least} was put and {last} was seen");
            last = round;
            taken += 1;
            held.push((round, guard));
            // Some are held for the length of many replacements, one from the first to the last.
            if held.len() == PINS_PER_WORKER - 1 {
                for (round, guard) in &held {
                    assert_eq!(round_of(guard), *round, "a held version has changed");
                }
                held.truncate(1 + usize::try_from(taken % 40).unwrap());
            }
        }
        assert!(taken > 100, "the reader took {taken} versions only");
        held.iter().for_each(|(round, guard)| assert_eq!(round_of(guard), *round));
        println!("{replacements} replacements, {taken} versions read, {} held at the end", held.len());
    });
    let checked = objects.check().unwrap();
    assert_eq!(checked.keys, 1);
    // Nothing is left of all those versions but what a batch may leave.
    store.trim().unwrap();
    assert!(objects.usage().used_bytes <= before.used_bytes + 64 * 1024, "{:?} after {before:?}", objects.usage());
    drop(store);
}

#[test]
fn of_writers_that_race_from_one_version_one_wins_and_the_others_are_told_which() {
    const ROUNDS: u64 = 20_000;
    const WRITERS: u8 = 3;
    let objects = objects(MIB);
    let barrier = std::sync::Barrier::new(usize::from(WRITERS));
    let wins = AtomicU64::new(0);
    let first = worker(&objects, 9).put(&key("raced"), &value(0), Meta::RAW, Condition::Any).unwrap();
    std::thread::scope(|scope| {
        for index in 0..WRITERS {
            let (objects, barrier, wins) = (&objects, &barrier, &wins);
            scope.spawn(move || {
                let store = worker(objects, index);
                let mut version = first;
                barrier.wait();
                for round in 0..ROUNDS {
                    let own = value(round * u64::from(WRITERS) + u64::from(index));
                    match store.put(&key("raced"), &own, Meta::RAW, Condition::Version(version)) {
                        Ok(now) => {
                            assert!(now > version, "version {now} follows {version}");
                            version = now;
                            wins.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(StateError::Conflict { current: Some(current) }) => {
                            assert!(current > version, "refused for {current} by who named {version}");
                            version = current;
                        }
                        Err(error) => panic!("{error}"),
                    }
                }
            });
        }
    });
    // Each version was one win, and nobody won unseen: the versions between are those of wins alone.
    let last = worker(&objects, 9).get(&key("raced")).unwrap().unwrap().version();
    assert_eq!(last - first, wins.load(Ordering::Relaxed));
    objects.check().unwrap();
}

#[test]
fn of_writers_that_race_to_create_and_to_delete_one_wins() {
    const ROUNDS: u64 = 20_000;
    let objects = objects(MIB);
    let counts = [AtomicU64::new(0), AtomicU64::new(0)];
    std::thread::scope(|scope| {
        for index in 0..3 {
            let (objects, [created, deleted]) = (&objects, &counts);
            scope.spawn(move || {
                let store = worker(objects, index);
                for round in 0..ROUNDS {
                    let created_now = match store.put(&key("raced"), &value(round), Meta::RAW, Condition::Absent) {
                        Ok(version) => Some(version),
                        Err(StateError::Conflict { current: Some(_) }) => None,
                        Err(error) => panic!("{error}"),
                    };
                    if let Some(version) = created_now {
                        created.fetch_add(1, Ordering::Relaxed);
                        // Whoever has made it may find it deleted by another, never replaced by one who wanted it absent.
                        if let Some(guard) = store.get(&key("raced")).unwrap() {
                            assert!(guard.version() >= version && round_of(&guard) < ROUNDS);
                        }
                    }
                    if store.delete(&key("raced"), Condition::Any).unwrap().is_some() {
                        deleted.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let [created, deleted] = counts.map(AtomicU64::into_inner);
    assert_eq!(created, deleted, "each was created once and deleted once");
    assert_eq!(objects.check().unwrap().keys, 0);
}
