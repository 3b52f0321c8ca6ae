//! State objects: lookups without the lock against writers, and the lock itself.
//!
//! The whole store runs over a small segment of loom's atomics. Beside each granule lies a cell of bytes that nothing
//! orders, as the values of objects are: a reader that uses a block which a writer fills again is a race that loom reports.

use loom::sync::Arc;
use loom::thread;

use std::ptr::NonNull;
use std::time::Duration;

use super::Bytes;
use crate::objects::model::{
    Condition, Granule, Hashed, Key, LockOwner, Locked, Meta, Namespace, ObjectsLayout, Publication, Row, Settled,
    Space, Words, acquire, delete, find, format, hash_of, header, put, reclaim, recover, split,
};
use crate::sync::{AtomicU64, Ordering};
use crate::tag::WorkerTag;

const WRITER: WorkerTag = WorkerTag::new(0, 1);
const OTHER: WorkerTag = WorkerTag::new(1, 1);
const SEED: u64 = 7;

/// Runs `body` in every schedule with at most `preemptions` of them.
fn check(preemptions: usize, body: impl Fn() + Sync + Send + 'static) {
    let extra = std::env::var("PRAAS_LOOM_EXTRA_PREEMPTIONS").map_or(0, |extra| extra.parse().expect("a number"));
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions + extra);
    // A put is some hundred stores.
    builder.max_branches = 20_000;
    builder.check(body);
}

/// A segment of the least size, and a value's bytes for each granule.
struct State {
    layout: ObjectsLayout,
    words: Vec<AtomicU64>,
    values: Vec<Bytes>,
}

impl State {
    fn new() -> Arc<Self> {
        let layout = ObjectsLayout::chain(2, 2, 2, 0, 640);
        let state = Self {
            layout,
            words: (0..layout.words()).map(|_| AtomicU64::new(0)).collect(),
            values: (0..layout.words() / 2).map(|_| Bytes::new()).collect(),
        };
        format(state.space());
        state.space().words.store(header::HASH_SEED, SEED);
        state.space().words.store(header::BUCKETS, 1);
        Arc::new(state)
    }

    fn space(&self) -> Space<'_> {
        let first = NonNull::new(self.words.as_ptr().cast_mut()).expect("a vector is somewhere");
        // SAFETY: the vector has as many, which live as long as `self`.
        let words = unsafe { Words::new(first, self.words.len()) };
        Space { words, layout: &self.layout }
    }

    fn value(&self, place: Granule) -> &Bytes {
        &self.values[place.number() as usize]
    }

    fn lock(&self, tag: WorkerTag) -> Locked<'_> {
        acquire(self.space(), LockOwner::Worker(tag), Duration::MAX).expect("in a model all waits last")
    }

    /// Publishes a value that follows from the version it gets.
    fn put(&self, locked: &Locked<'_>, key: Key<'_>) -> u64 {
        let hashed = Hashed { key, hash: hash_of(SEED, &key) };
        let publication =
            Publication { meta: Meta::RAW, value_bytes: 8, modified_unix_ms: 0, condition: Condition::Any };
        let next = self.space().words.load(header::POSITION) + 1;
        put(locked, &mut Vec::new(), &hashed, &publication, |place, _| self.value(place).set(next * 1000)).unwrap()
    }

    /// The version that a reader finds, after a use of the value.
    fn get(&self, row: usize, key: Key<'_>) -> Option<u64> {
        let space = self.space();
        let pin = Row::new(space, row).pin_slot(space, 0);
        let object = find::<false>(space, pin, &key, hash_of(SEED, &key)).unwrap()?.object;
        let version = object.version;
        assert_eq!(self.value(object.place).get(), version * 1000, "the value is another object's");
        thread::yield_now();
        assert_eq!(self.value(object.place).get(), version * 1000, "the value changed in view");
        pin.clear(space);
        Some(version)
    }
}

fn key(text: &str) -> Key<'_> {
    Key::new(Namespace::USER, text).unwrap()
}

/// A writer replaces, frees what is not pinned, and uses the freed block again for another key.
#[test]
fn a_reader_never_sees_a_block_that_is_used_again() {
    check(2, || {
        let state = State::new();
        let first = state.put(&state.lock(WRITER), key("a"));
        let reader = {
            let state = Arc::clone(&state);
            thread::spawn(move || state.get(1, key("a")))
        };
        let locked = state.lock(WRITER);
        let second = state.put(&locked, key("a"));
        reclaim(&locked, 2, &mut Vec::new()).unwrap();
        state.put(&locked, key("b"));
        drop(locked);
        let seen = reader.join().unwrap();
        assert!(seen == Some(first) || seen == Some(second), "{seen:?}");
    });
}

/// A key is deleted, and its block used for the same key again: what a reader sees is one of both, whole, or nothing.
#[test]
fn a_reader_of_a_key_that_goes_and_comes_sees_it_whole_or_not() {
    check(2, || {
        let state = State::new();
        state.put(&state.lock(WRITER), key("a"));
        let reader = {
            let state = Arc::clone(&state);
            thread::spawn(move || state.get(1, key("a")))
        };
        let locked = state.lock(WRITER);
        let hashed = Hashed { key: key("a"), hash: hash_of(SEED, &key("a")) };
        delete(&locked, &mut Vec::new(), &hashed, Condition::Any).unwrap();
        reclaim(&locked, 2, &mut Vec::new()).unwrap();
        let again = state.put(&locked, key("a"));
        drop(locked);
        let seen = reader.join().unwrap();
        assert!(seen.is_none_or(|version| version == 1 || version == again), "{seen:?}");
        assert_eq!(state.get(1, key("a")), Some(again));
    });
}

/// Keys that are there before, during and after a split are found.
#[test]
fn a_split_hides_no_key_from_a_reader() {
    // The first split goes by the lowest bit.
    let of_bit = |bit| ["a", "b", "c", "d", "e", "f"].into_iter().find(|text| hash_of(SEED, &key(text)) & 1 == bit);
    let (moves, stays) = (of_bit(1).unwrap(), of_bit(0).unwrap());
    check(2, move || {
        let state = State::new();
        let locked = state.lock(WRITER);
        state.put(&locked, key(stays));
        state.put(&locked, key(moves));
        let reader = {
            let state = Arc::clone(&state);
            thread::spawn(move || (state.get(1, key(moves)), state.get(1, key(stays))))
        };
        assert!(split(&locked).unwrap());
        drop(locked);
        assert_eq!(reader.join().unwrap(), (Some(2), Some(1)), "a key was missed");
        assert_eq!(state.space().words.load(header::BUCKETS), 2);
    });
}

/// What the lock guards is seen whole by whoever has it next; nobody sleeps for ever.
#[test]
fn writers_exclude_each_other_and_hand_the_lock_on() {
    check(3, || {
        let state = State::new();
        let guarded = Arc::new(Bytes::new());
        let add = |tag| {
            let (state, guarded) = (Arc::clone(&state), Arc::clone(&guarded));
            move || {
                let locked = state.lock(tag);
                guarded.set(guarded.get() + 1);
                drop(locked);
            }
        };
        let threads = [WorkerTag::new(2, 1), WorkerTag::new(3, 1)].map(|tag| thread::spawn(add(tag)));
        add(WRITER)();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(guarded.get(), 3);
        assert_eq!(state.space().words.at(header::LOCK).load(Ordering::Relaxed), 0);
    });
}

/// A worker has died with the lock in a transaction; the server breaks it while another one waits.
#[test]
fn a_waiter_gets_a_lock_that_the_server_breaks() {
    check(3, || {
        let state = State::new();
        let dead = WorkerTag::new(5, 3);
        std::mem::forget(state.lock(dead));
        let log = state.layout.log;
        // It had stored one word of a transaction.
        for (at, word) in [(log + 8, header::KEYS as u64), (log + 9, 0), (log, 1), (header::KEYS, 1)] {
            state.space().words.store(at, word);
        }
        let waiter = {
            let state = Arc::clone(&state);
            thread::spawn(move || {
                let locked = state.lock(OTHER);
                assert_eq!(state.space().words.load(header::KEYS), 0, "half a transaction");
                drop(locked);
            })
        };
        assert_eq!(recover(state.space(), dead, 0).unwrap().settled, Settled::RolledBack);
        waiter.join().unwrap();
    });
}
