//! Workers that are killed for good, in the middle of whatever they do, while others go on.
//!
//! Each worker is a process of its own. It tells through a pipe what it is about to do and what was acknowledged; the
//! checker knows from that what must be there: every acknowledged operation, and of the one in flight either all or nothing.
//! Half of the workers kill themselves after a random number of stores, the others are killed at a random time.
//!
//! `PRAAS_SEED` repeats the choices, `PRAAS_KILLS` sets the number of kills.
#![cfg(not(loom))]
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small numbers of a test's own")]

use std::collections::BTreeMap;
use std::io::Read;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use praas_shm::WorkerTag;
use praas_shm::objects::steps::observe;
use praas_shm::objects::{Condition, Key, Meta, Namespace, Objects, ObjectsLayout, RecoverError, StateError, Store};

const LIMIT_BYTES: u64 = 8 << 20;
const WORKERS: u8 = 3;
const KEYS: u64 = 40;
const SHARED_KEYS: u64 = 4;
const SIGKILL: i32 = 9;
const PATIENCE: Duration = Duration::from_secs(60);
const VARIABLE: &str = "PRAAS_OBJECTS_WORKER";

/// Bytes of a record in the pipe, which are written whole.
const RECORD_BYTES: usize = 24;

/// What a worker says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Record {
    /// About to give `key` a value of `bytes` made of `seed`; 0 and 0 to delete it.
    Intends { key: u64, seed: u32, bytes: u32 },
    /// It was acknowledged.
    Done,
    /// It was refused: the state is full.
    Refused,
}

impl Record {
    fn encode(self) -> [u8; RECORD_BYTES] {
        let (kind, key, seed, bytes) = match self {
            Self::Intends { key, seed, bytes } => (1_u64, key, seed, bytes),
            Self::Done => (2, 0, 0, 0),
            Self::Refused => (3, 0, 0, 0),
        };
        let mut record = [0; RECORD_BYTES];
        record[..8].copy_from_slice(&kind.to_le_bytes());
        record[8..16].copy_from_slice(&key.to_le_bytes());
        record[16..20].copy_from_slice(&seed.to_le_bytes());
        record[20..].copy_from_slice(&bytes.to_le_bytes());
        record
    }

    fn decode(record: &[u8]) -> Self {
        let word = |at: usize| u64::from_le_bytes(record[at..at + 8].try_into().unwrap());
        let half = |at: usize| u32::from_le_bytes(record[at..at + 4].try_into().unwrap());
        match word(0) {
            1 => Self::Intends { key: word(8), seed: half(16), bytes: half(20) },
            2 => Self::Done,
            3 => Self::Refused,
            other => panic!("no record: {other}"),
        }
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16) % limit
    }
}

fn layout() -> ObjectsLayout {
    ObjectsLayout::for_limit(LIMIT_BYTES).unwrap()
}

fn value_of(seed: u32, bytes: u32) -> Vec<u8> {
    seed.to_le_bytes().into_iter().cycle().take(bytes as usize).collect()
}

fn name_of(worker: u8, key: u64) -> String {
    format!("worker {worker} key {key}")
}

fn key(text: &str) -> Key<'_> {
    Key::new(Namespace::USER, text).unwrap()
}

// ---- the workers ----------------------------------------------------------------------------------------------------

/// Not a test of its own: what this program is when the test below has started it.
#[test]
fn worker() {
    let Ok(arguments) = std::env::var(VARIABLE) else { return };
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL)).unwrap();
    let numbers: Vec<u64> = arguments.split(' ').map(|number| number.parse().unwrap()).collect();
    let [segment, log, index, generation, seed, stores] = numbers.try_into().unwrap();
    // SAFETY: the parent made these descriptors for this process alone, and nothing has taken them yet.
    let [segment, log] = [segment, log].map(|number| unsafe { OwnedFd::from_raw_fd(number as i32) });
    let objects = Arc::new(Objects::attach(segment, layout()).unwrap());
    let store = objects.worker_store(WorkerTag::new(index as u8, generation as u16)).unwrap();
    let mut left = stores;
    let _observing = (stores > 0).then(|| {
        observe(move || {
            left -= 1;
            if left == 0 {
                let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
                loop {
                    std::thread::park();
                }
            }
        })
    });
    let mut random = Random(seed);
    loop {
        work(&store, index as u8, &log, &mut random);
    }
}

fn say(log: &OwnedFd, record: Record) {
    assert_eq!(rustix::io::write(log, &record.encode()).unwrap(), RECORD_BYTES);
}

fn work(store: &Store, index: u8, log: &OwnedFd, random: &mut Random) {
    let number = random.below(KEYS);
    let text = name_of(index, number);
    let seed = random.below(u64::from(u32::MAX)) as u32;
    let bytes = [40, 1000, 30_000][random.below(3) as usize];
    let bytes = random.below(bytes) as u32 + 4;
    let done = match random.below(8) {
        0 => {
            say(log, Record::Intends { key: number, seed: 0, bytes: 0 });
            store.delete(&key(&text), Condition::Any).map(drop)
        }
        1 => {
            say(log, Record::Intends { key: number, seed, bytes });
            build(store, &text, seed, bytes)
        }
        2 => return look_at_shared(store, random),
        3 => {
            let shared = format!("shared {}", random.below(SHARED_KEYS));
            match store.put(&key(&shared), &value_of(seed, bytes), Meta::RAW, Condition::Any) {
                Ok(_) | Err(StateError::Full { .. }) => return,
                Err(error) => panic!("{error}"),
            }
        }
        _ => {
            say(log, Record::Intends { key: number, seed, bytes });
            store.put(&key(&text), &value_of(seed, bytes), Meta::RAW, Condition::Any).map(drop)
        }
    };
    match done {
        Ok(()) => say(log, Record::Done),
        Err(StateError::Full { .. }) => say(log, Record::Refused),
        Err(error) => panic!("{error}"),
    }
}

/// A value built in place, beside another loan that is dropped.
fn build(store: &Store, text: &str, seed: u32, bytes: u32) -> Result<(), StateError> {
    let dropped = store.loan(&key(text), bytes / 2)?;
    let mut loan = store.loan(&key(text), bytes + 500)?;
    loan.write(0, &value_of(seed, bytes));
    loan.truncate(bytes as usize);
    drop(dropped);
    store.publish(loan, Meta::RAW, Condition::Any).map(drop).map_err(|refused| refused.error)
}

fn look_at_shared(store: &Store, random: &mut Random) {
    let shared = format!("shared {}", random.below(SHARED_KEYS));
    if let Some(guard) = store.get(&key(&shared)).unwrap() {
        let value = guard.in_place().unwrap();
        assert!(value.iter().zip(value.iter().skip(4)).all(|(one, other)| one == other), "a torn value");
    }
}

// ---- the checker ----------------------------------------------------------------------------------------------------

/// A value by what it was made of, or none.
type Value = Option<(u32, u32)>;

struct Worker {
    index: u8,
    generation: u16,
    child: Child,
    /// Reads what it says to the end.
    said: Option<JoinHandle<Vec<u8>>>,
    expected: BTreeMap<u64, Value>,
}

impl Worker {
    fn start(
        objects: &Objects,
        index: u8,
        generation: u16,
        random: &mut Random,
        expected: BTreeMap<u64, Value>,
    ) -> Self {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let stores = if random.below(2) == 0 { 1 + random.below(6000) } else { 0 };
        let seed = random.below(u64::MAX) | 1;
        // Without close-on-exec, and only here: this test starts its processes from one thread.
        let (segment, log) = (rustix::io::dup(objects.fd()).unwrap(), rustix::io::dup(&write).unwrap());
        let numbers = format!("{} {}", segment.as_raw_fd(), log.as_raw_fd());
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "worker", "--test-threads=1", "--nocapture"])
            .env(VARIABLE, format!("{numbers} {index} {generation} {seed} {stores}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let said = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            std::fs::File::from(read).read_to_end(&mut bytes).unwrap();
            bytes
        });
        Self { index, generation, child, said: Some(said), expected }
    }

    /// Whether it has died; fails if it died of anything but a kill.
    fn has_died(&mut self) -> bool {
        let Some(status) = self.child.try_wait().unwrap() else { return false };
        assert_eq!(status.signal(), Some(SIGKILL), "worker {} ended with {status}", self.index);
        true
    }

    fn tag(&self) -> WorkerTag {
        WorkerTag::new(self.index, self.generation)
    }

    /// Compares what is there with what it said.
    fn check(&mut self, server: &Store) {
        let said = self.said.take().unwrap().join().unwrap();
        let mut in_flight = None;
        for record in said.chunks_exact(RECORD_BYTES).map(Record::decode) {
            match record {
                Record::Intends { key, seed, bytes } => in_flight = Some((key, (bytes > 0).then_some((seed, bytes)))),
                Record::Done => {
                    let (key, value) = in_flight.take().unwrap();
                    self.expected.insert(key, value);
                }
                Record::Refused => in_flight = None,
            }
        }
        for number in 0..KEYS {
            let found = server.get(&key(&name_of(self.index, number))).unwrap().map(|guard| {
                let mut bytes = vec![0; guard.value_bytes()];
                guard.copy_from(0, &mut bytes);
                bytes
            });
            let is = |value: Value| found == value.map(|(seed, bytes)| value_of(seed, bytes));
            let expected = self.expected.get(&number).copied().flatten();
            if let Some((_, value)) = in_flight.filter(|&(key, value)| key == number && is(value)) {
                self.expected.insert(number, value);
            } else {
                let name = name_of(self.index, number);
                assert!(is(expected), "{name}: expected {expected:?}, in flight {in_flight:?}, found {found:?}");
            }
        }
    }
}

/// The server's part: recovers for each worker that has died, however they hold each other up, and returns who they are.
fn recover_the_dead(objects: &Objects, workers: &mut [Worker]) -> Vec<usize> {
    let start = Instant::now();
    let mut recovered = Vec::new();
    loop {
        let dead = workers.iter_mut().enumerate().filter_map(|(at, worker)| worker.has_died().then_some(at));
        let left: Vec<usize> = dead.filter(|at| !recovered.contains(at)).collect();
        if left.is_empty() {
            return recovered;
        }
        for at in left {
            match objects.recover(workers[at].tag()) {
                Ok(_) => recovered.push(at),
                Err(RecoverError::Busy { owner }) => assert!(start.elapsed() < PATIENCE, "{owner} never let go"),
                Err(error) => panic!("{error}"),
            }
        }
        std::thread::yield_now();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn no_kill_loses_an_acknowledged_operation_or_leaves_half_of_one() {
    let fresh = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64 | 1;
    let seed = std::env::var("PRAAS_SEED").map_or(fresh, |seed| seed.parse().unwrap());
    let kills = std::env::var("PRAAS_KILLS").map_or(200, |kills| kills.parse().unwrap());
    println!("PRAAS_SEED={seed}");
    let mut random = Random(seed);
    let objects = Arc::new(Objects::create(layout()).unwrap());
    let server = objects.server_store().unwrap();
    let mut workers: Vec<Worker> =
        (0..WORKERS).map(|index| Worker::start(&objects, index, 1, &mut random, BTreeMap::new())).collect();
    let mut seen = 0;
    while seen < kills {
        std::thread::sleep(Duration::from_micros(random.below(20_000)));
        let chosen = random.below(u64::from(WORKERS)) as usize;
        workers[chosen].child.kill().unwrap();
        let _ = workers[chosen].child.wait().unwrap();
        for at in recover_the_dead(&objects, &mut workers) {
            seen += 1;
            let worker = &mut workers[at];
            worker.check(&server);
            let (index, generation) = (worker.index, worker.generation + 1);
            let expected = std::mem::take(&mut worker.expected);
            *worker = Worker::start(&objects, index, generation, &mut random, expected);
            // Refused while somebody writes or has died writing; at the end it is not.
            match objects.check() {
                Ok(_) | Err(RecoverError::Busy { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }
    // At last all at once, and the server with them.
    for worker in &mut workers {
        worker.child.kill().unwrap();
        worker.child.wait().unwrap();
    }
    objects.recover_all().unwrap();
    let checked = objects.check().unwrap();
    assert_eq!(checked.loans, 0);
    for worker in &mut workers {
        worker.check(&server);
    }
    let usage = objects.usage();
    println!("{kills} kills, {} mutations: {usage:?}", usage.position);
    assert!(usage.position > kills, "the workers did nothing");
}
