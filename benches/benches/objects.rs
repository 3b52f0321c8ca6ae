//! State objects on one thread, and beside one that writes: lookups, puts, and the same memory without a store for
//! comparison.
#![allow(missing_docs, reason = "criterion's macros make undocumented items")]

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use criterion::{Criterion, criterion_group, criterion_main};
use praas_shm::WorkerTag;
use praas_shm::objects::{Condition, Key, Meta, Namespace, Objects, ObjectsLayout, Store};

const MIB: usize = 1 << 20;
const KEYS: u64 = 1_000_000;

fn objects(bytes: usize) -> Arc<Objects> {
    let layout = ObjectsLayout::for_limit(bytes as u64).expect("within the limits");
    Arc::new(Objects::create(layout).expect("memory for a segment"))
}

fn worker(objects: &Arc<Objects>, index: u8) -> Store {
    objects.worker_store(WorkerTag::new(index, 1)).expect("the row is free")
}

fn key(text: &str) -> Key<'_> {
    Key::new(Namespace::USER, text).expect("a key")
}

fn put(store: &Store, text: &str, value: &[u8]) {
    store.put(&key(text), value, Meta::RAW, Condition::Any).expect("room");
}

/// Finds the object and reads its first and its last line.
fn look(store: &Store, key: &Key<'_>) -> u64 {
    let guard = store.get(key).expect("in order").expect("it is there");
    let value = guard.in_place().expect("a worker's end");
    u64::from(value[0]) + u64::from(value[value.len() - 1])
}

fn get(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("state: get");
    for (name, bytes) in [("64 B", 64), ("64 MiB", 64 * MIB)] {
        let objects = objects(256 * MIB);
        let store = worker(&objects, 0);
        put(&store, "hot", &vec![1; bytes]);
        group.bench_function(format!("{name}, quiet"), |bencher| bencher.iter(|| look(&store, black_box(&key("hot")))));
    }
    let objects = objects(64 * MIB);
    let store = worker(&objects, 0);
    put(&store, "hot", &[1; 64]);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let writer = worker(&objects, 1);
            while !stop.load(Ordering::Relaxed) {
                put(&writer, "hot", &[2; 64]);
            }
        });
        group.bench_function("64 B, while it is replaced", |bencher| {
            bencher.iter(|| look(&store, black_box(&key("hot"))));
        });
        stop.store(true, Ordering::Relaxed);
    });
    group.bench_function("missing", |bencher| {
        bencher.iter(|| store.get(black_box(&key("missing"))).expect("in order").is_none());
    });
    group.finish();
}

fn puts(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("state: put");
    for bytes in [64, 1024] {
        let objects = objects(64 * MIB);
        let store = worker(&objects, 0);
        let value = vec![1; bytes];
        group.bench_function(format!("{bytes} B"), |bencher| bencher.iter(|| put(&store, "a", black_box(&value))));
    }
    let objects = objects(256 * MIB);
    let store = worker(&objects, 0);
    let value = vec![1; MIB];
    // As many destinations as the store goes round through before it frees.
    let mut rotation = vec![vec![0_u8; MIB]; 28];
    let mut next = 0;
    group.bench_function("1 MiB", |bencher| bencher.iter(|| put(&store, "a", black_box(&value))));
    group.bench_function("1 MiB, memcpy in rotation", |bencher| {
        bencher.iter(|| {
            next = (next + 1) % rotation.len();
            rotation[next].copy_from_slice(black_box(&value));
        });
    });
    group.bench_function("1 MiB, loan and publish, one line written", |bencher| {
        bencher.iter(|| {
            let mut loan = store.loan(&key("a"), 1 << 20).expect("room");
            loan.in_place().expect("a worker's end")[0] = 1;
            store.publish(loan, Meta::RAW, Condition::Any).expect("room");
        });
    });
    group.finish();
}

/// One of a million, and one dependent load over as much memory.
fn million(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("state: a million keys");
    let objects = objects(512 * MIB);
    let store = worker(&objects, 0);
    for number in 0..KEYS {
        put(&store, &format!("key-{number:08}"), &[1; 32]);
    }
    let usage = store.usage();
    let footprint = usage.used_bytes + usage.buckets * 64;
    let overhead = footprint / KEYS - 32 - 12;
    println!("{footprint} bytes, {overhead} B a key beyond key and value; {:?}", objects.check());
    let mut state = 1_u64;
    let mut text = *b"key-00000000";
    group.bench_function("get, uniform", |bencher| {
        bencher.iter(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let mut number = (state >> 33) % KEYS;
            for digit in text[4..].iter_mut().rev() {
                *digit = b'0' + u8::try_from(number % 10).expect("a digit");
                number /= 10;
            }
            look(&store, &key(std::str::from_utf8(&text).expect("ASCII")))
        });
    });
    // A cycle through as many lines as the state has, each naming the next.
    let lines = usize::try_from(footprint / 64).expect("it fits");
    let mut places: Vec<u32> = (0..u32::try_from(lines).expect("it fits")).collect();
    for at in (1..lines).rev() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        places.swap(at, usize::try_from(state >> 33).expect("it fits") % at);
    }
    let mut memory = vec![[0_u32; 16]; lines];
    for (line, next) in memory.iter_mut().zip(&places) {
        line[0] = *next;
    }
    let mut at = 0;
    group.bench_function("one dependent load, uniform", |bencher| {
        bencher.iter(|| {
            at = memory[at as usize][0];
            at
        });
    });
    group.finish();
}

criterion_group! {
    name = state;
    config = Criterion::default().without_plots();
    targets = get, puts, million
}
criterion_main!(state);
