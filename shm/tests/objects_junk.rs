//! Junk over the state, as a tenant's own worker may write: whatever stands in the segment, every operation and every
//! recovery ends, none panics, and none leaves the segment.
//!
//! `PRAAS_SEED` repeats a run, `PRAAS_JUNK_ROUNDS` sets its length.
#![cfg(not(loom))]
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small numbers of a test's own")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use praas_shm::WorkerTag;
use praas_shm::objects::{Condition, Key, Meta, Namespace, Objects, ObjectsLayout, Page, RecoverError, Store};

const LIMIT_BYTES: u64 = 256 << 10;
const WORD_BYTES: u64 = 8;
/// Words of the header, and of one page.
const HEADER_WORDS: u64 = 64;
const PAGE_WORDS: u64 = 512;
const DEAD: WorkerTag = WorkerTag::new(0, 1);
/// No round takes this long unless it hangs, on any machine.
const ROUND_HANGS: Duration = Duration::from_secs(120);

struct Random(u64);

impl Random {
    fn seeded() -> Self {
        let fresh = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64 | 1;
        let seed = std::env::var("PRAAS_SEED").map_or(fresh, |seed| seed.parse().unwrap());
        println!("PRAAS_SEED={seed}");
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

fn key(text: &str) -> Key<'_> {
    Key::new(Namespace::USER, text).unwrap()
}

/// A segment with everything in it: objects, overflow buckets, loans, retired blocks, pins, holes.
fn populated() -> (Arc<Objects>, Vec<u64>) {
    let objects = Arc::new(Objects::create(ObjectsLayout::for_limit(LIMIT_BYTES).unwrap()).unwrap());
    let (store, other) = (objects.worker_store(DEAD).unwrap(), objects.worker_store(WorkerTag::new(7, 1)).unwrap());
    for number in 0..700 {
        store.put(&key(&format!("key {number}")), &vec![1; number % 90], Meta::RAW, Condition::Any).unwrap();
    }
    let same_bucket = |number: &u32| store.hash_of(&key(&format!("deep {number}"))) % 256 == 3;
    for number in (0..).filter(same_bucket).take(20) {
        store.put(&key(&format!("deep {number}")), b"", Meta::RAW, Condition::Any).unwrap();
    }
    for number in 0..40 {
        store.delete(&key(&format!("key {}", number * 7)), Condition::Any).unwrap();
    }
    std::mem::forget(other.get(&key("key 5")).unwrap());
    for bytes in [100, 3000] {
        std::mem::forget(store.loan(&key("lent"), bytes).unwrap());
    }
    let words = read(&objects);
    (objects, words)
}

fn read(objects: &Objects) -> Vec<u64> {
    let mut bytes = vec![0; objects.layout().segment_bytes()];
    assert_eq!(rustix::io::pread(objects.fd(), &mut bytes, 0).unwrap(), bytes.len());
    bytes.chunks(8).map(|word| u64::from_ne_bytes(word.try_into().unwrap())).collect()
}

fn write(objects: &Objects, at: u64, words: &[u64]) {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    assert_eq!(rustix::io::pwrite(objects.fd(), &bytes, at * WORD_BYTES).unwrap(), bytes.len());
}

/// A word to spoil: any that is in use, or one of the header, of a row, of the log, of the heads or of the first buckets.
fn place(random: &mut Random, words: &[u64]) -> u64 {
    let count = words.len() as u64;
    // The regions lie one after the other, on whole pages: header, rows, log, heads, index, heap.
    let rows = PAGE_WORDS;
    let log = rows + (65 * 96_u64).next_multiple_of(PAGE_WORDS);
    match random.below(8) {
        0 => 16 + random.below(HEADER_WORDS - 16),
        1 => rows + random.below(3 * 96),
        2 => log + random.below(40),
        3 => log + PAGE_WORDS + random.below(PAGE_WORDS),
        4 => log + 2 * PAGE_WORDS + random.below(270 * 8),
        _ => {
            let start = random.below(count);
            let used = (0..count).map(|step| (start + step) % count).find(|&at| words[at as usize] != 0 && at >= 16);
            used.unwrap_or(16)
        }
    }
}

/// What to write there: junk, something small, another word of the segment, or the old word somewhat changed.
fn junk(random: &mut Random, words: &[u64], old: u64) -> u64 {
    let other = words[random.below(words.len() as u64) as usize];
    match random.below(9) {
        0 => random.next(),
        1 => 0,
        2 => random.below(64),
        3 => random.below(words.len() as u64 / 2),
        4 => other,
        5 => old ^ 1 << random.below(64),
        6 => old.wrapping_add(random.below(5)).wrapping_sub(2),
        7 => u64::MAX >> random.below(33),
        _ => other & 0xffff_ff00_0000_0000 | random.below(words.len() as u64 / 2),
    }
}

/// Every operation of a worker; whether they succeed is all one.
fn use_everything(store: &Store, random: &mut Random) {
    for _ in 0..12 {
        let text = format!("key {}", random.below(720));
        let (key, bytes) = (key(&text), random.below(6000) as usize);
        match random.below(6) {
            0 | 1 => drop(store.put(&key, &vec![2; bytes % 400], Meta::RAW, Condition::Any)),
            2 => drop(store.delete(&key, Condition::Any)),
            3 => {
                if let Ok(mut loan) = store.loan(&key, bytes as u32) {
                    loan.in_place().unwrap().fill(3);
                    loan.truncate(bytes / 2);
                    let _ = store.publish(loan, Meta::RAW, Condition::Any);
                }
            }
            4 => drop(store.put(&key, &vec![2; bytes], Meta::RAW, Condition::Any)),
            _ => {
                if let Ok(Some(guard)) = store.get(&key) {
                    assert!(guard.in_place().unwrap().iter().map(|&byte| u64::from(byte)).sum::<u64>() < u64::MAX);
                }
            }
        }
    }
    let page = Page { namespace: Namespace::USER, prefix: "key", after: "", limit: 100 };
    if let Ok(listed) = store.list(&page) {
        assert!(listed.len() <= 100);
    }
    let _ = (store.usage(), store.trim());
}

/// The server's part: it gets an answer, and what it finds in order stays in order.
fn recover_everything(objects: &Arc<Objects>, random: &mut Random) {
    let one = objects.recover(DEAD);
    let all = objects.recover_all();
    if matches!(one, Err(RecoverError::Corrupt { .. })) && all.is_err() {
        return;
    }
    let _ = objects.check();
    if let Ok(server) = objects.server_store() {
        let _ = server.put(&key("server's"), &[4; 5000], Meta::RAW, Condition::Any);
        if let Ok(Some(guard)) = server.get(&key("key 11")) {
            guard.copy_from(0, &mut vec![0; guard.value_bytes()]);
        }
    }
    if objects.check().is_ok() {
        let heir = objects.worker_store(WorkerTag::new(1, 1)).unwrap();
        use_everything(&heir, random);
        drop(heir);
        objects.check().expect("operations on a state in order leave it in order");
    }
}

/// Ends the program when a round hangs: a test of its own could not be stopped.
fn watch(round: &'static AtomicU64) {
    std::thread::spawn(move || {
        let (mut seen, mut since) = (u64::MAX, Instant::now());
        loop {
            std::thread::sleep(Duration::from_millis(200));
            let now = round.load(Ordering::Relaxed);
            if now != seen {
                (seen, since) = (now, Instant::now());
            } else if since.elapsed() > ROUND_HANGS {
                eprintln!("round {now} hangs");
                std::process::abort();
            }
        }
    });
}

#[test]
fn whatever_stands_in_the_segment_every_operation_ends_and_none_panics() {
    static ROUND: AtomicU64 = AtomicU64::new(0);
    watch(&ROUND);
    let rounds = std::env::var("PRAAS_JUNK_ROUNDS").map_or(300, |rounds| rounds.parse().unwrap());
    let mut random = Random::seeded();
    let (_source, words) = populated();
    let objects = Arc::new(Objects::create(ObjectsLayout::for_limit(LIMIT_BYTES).unwrap()).unwrap());
    let (mut refused, mut in_order) = (0, 0);
    for round in 0..rounds {
        ROUND.store(round, Ordering::Relaxed);
        write(&objects, 0, &words);
        for _ in 0..1 + random.below(4) {
            let at = place(&mut random, &words);
            let word = junk(&mut random, &words, words[at as usize]);
            write(&objects, at, &[word]);
        }
        let store = objects.worker_store(DEAD).unwrap();
        store.set_patience(Duration::from_micros(50));
        if round % 2 == 0 {
            use_everything(&store, &mut random);
        }
        drop(store);
        recover_everything(&objects, &mut random);
        match objects.check() {
            Ok(_) => in_order += 1,
            Err(_) => refused += 1,
        }
    }
    ROUND.store(u64::MAX - 1, Ordering::Relaxed);
    println!("{rounds} rounds: {in_order} in order after recovery, {refused} refused");
    assert!(refused > 0 && in_order > 0, "junk was neither found nor harmless: {refused}, {in_order}");
}

#[test]
fn a_segment_of_nothing_but_junk_is_refused_or_used_without_harm() {
    let mut random = Random::seeded();
    let objects = Arc::new(Objects::create(ObjectsLayout::for_limit(LIMIT_BYTES).unwrap()).unwrap());
    let count = objects.layout().segment_bytes() as u64 / WORD_BYTES;
    for round in 0..60 {
        let narrow = round % 3 == 0;
        let words: Vec<u64> = (0..count)
            .map(|_| if narrow { random.below(count / 2) } else { random.next() >> random.below(64) })
            .collect();
        write(&objects, 0, &words);
        let store = objects.worker_store(DEAD).unwrap();
        store.set_patience(Duration::from_micros(50));
        use_everything(&store, &mut random);
        drop(store);
        let _ = (objects.recover(DEAD), objects.recover_all(), objects.check(), objects.usage());
    }
}
