//! Message lanes against what no message can be faster than: a line that goes to and fro between two cores that poll, and a
//! futex on which two threads wake each other.
//!
//! A round trip is two messages, so half of it is one way. The two threads are kept on two cores; where there is only one,
//! all round trips are left out. The last group has both ends on one thread: what a message costs its processes beside the
//! transfer of its lines.
#![allow(missing_docs, reason = "criterion's macros make undocumented items")]

use std::hint::black_box;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use praas_protocol::{Key, MessageId};
use praas_shm::WorkerTag;
use praas_shm::mail_bell::MailBell;
use praas_shm::message_lane::{ArrivedRoom, Contents, Inbound, Outbound, ServerMessageLane, geometry_for};
use rustix::thread::{CpuSet, futex, sched_getaffinity, sched_setaffinity};

const PAYLOAD_BYTES_MAX: u32 = 1 << 20;
const MIB: usize = 1 << 20;
const PAYLOAD: [u8; 64] = [7; 64];
const TAG: WorkerTag = WorkerTag::new(0, 1);
/// Far above what any step takes.
const PATIENCE: Duration = Duration::from_secs(10);

fn copy_of(fd: impl AsFd) -> OwnedFd {
    fd.as_fd().try_clone_to_owned().expect("a descriptor is left")
}

/// The first two cores that this program may use.
fn two_cores() -> Option<[usize; 2]> {
    let allowed = sched_getaffinity(None).expect("the own affinity can be read");
    let cores: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|&core| allowed.is_set(core)).take(2).collect();
    cores.try_into().ok()
}

fn stay_on(core: usize) {
    let mut only = CpuSet::new();
    only.set(core);
    sched_setaffinity(None, &only).expect("the core is one of those that were allowed");
}

fn key() -> Key<'static> {
    Key::new("move").expect("a key")
}

/// The sender's end of a lane.
struct Sender(Outbound);

/// A receiver's end of a lane, as the only one.
struct Receiver {
    inbound: Inbound,
    bell: MailBell,
    position: u64,
    room: ArrivedRoom,
}

fn lane() -> (Sender, Receiver) {
    let lane = ServerMessageLane::create(geometry_for(PAYLOAD_BYTES_MAX)).expect("memory is left");
    let bell = MailBell::create().expect("memory is left");
    let own_bell = MailBell::attach(copy_of(bell.fd())).expect("the bell is sound");
    let sender = Outbound::attach(copy_of(lane.fd()), &lane.geometry(), own_bell).expect("the lane is sound");
    let inbound = Inbound::attach(copy_of(lane.fd()), &lane.geometry()).expect("the lane is sound");
    (Sender(sender), Receiver { inbound, bell, position: 0, room: ArrivedRoom::new() })
}

impl Sender {
    fn next_id(&self) -> MessageId {
        MessageId { incarnation: 1, sequence: self.0.sent() }
    }

    fn send(&mut self, payload: &[u8]) {
        self.0.try_send(self.next_id(), key(), payload).expect("there is room");
    }

    /// A loan of which the first and the last byte are written, as if in between were more.
    fn send_built(&mut self, bytes: usize) {
        let mut loan = self.0.loan(bytes).expect("there is room");
        loan[0] = 1;
        loan[bytes - 1] = 1;
        assert!(self.0.send_loan(loan, self.next_id(), key()).is_ok(), "there is room");
    }
}

impl Receiver {
    /// Reads the first and the last byte of the message that has arrived, where they lie, and is done with it.
    fn take(&mut self) -> u64 {
        let arrived = self.inbound.arrived_at(self.position, &mut self.room).expect("in order").expect("it is there");
        let sum = match arrived.contents {
            Contents::Inline(bytes) => ends_of(bytes),
            Contents::Block(place) => {
                let sum = ends_of(self.inbound.block(&place));
                self.inbound.release(place.descriptor(), place.stamp());
                sum
            }
        };
        self.position += 1;
        self.inbound.publish_consumed(self.position);
        sum
    }

    fn polled(&mut self) -> u64 {
        while !self.inbound.has_arrived(self.position) {}
        self.take()
    }

    fn slept_for(&mut self) -> u64 {
        while !self.inbound.has_arrived(self.position) {
            let seen = self.bell.prepare(TAG);
            if !self.inbound.has_arrived(self.position) {
                self.bell.wait(seen, PATIENCE);
            }
            self.bell.finish(TAG);
        }
        self.take()
    }
}

fn ends_of(bytes: &[u8]) -> u64 {
    u64::from(bytes[0]) + u64::from(bytes[bytes.len() - 1])
}

/// Runs `here` on one core and `there` on the other, and returns how long `here` took.
fn beside(cores: [usize; 2], here: impl FnOnce(), there: impl FnOnce() + Send) -> Duration {
    std::thread::scope(|scope| {
        scope.spawn(move || {
            stay_on(cores[1]);
            there();
        });
        let start = Instant::now();
        here();
        start.elapsed()
    })
}

#[repr(align(128))]
struct Line([AtomicU64; 16]);

impl Line {
    fn new() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }

    /// A word, and with it as many more of its line and the next.
    fn put(&self, word: u64, payload_words: usize) {
        for place in &self.0[1..=payload_words] {
            place.store(word, Ordering::Relaxed);
        }
        self.0[0].store(word, Ordering::Release);
    }

    fn poll(&self, word: u64, payload_words: usize) {
        while self.0[0].load(Ordering::Acquire) != word {}
        for place in &self.0[1..=payload_words] {
            black_box(place.load(Ordering::Relaxed));
        }
    }
}

fn bare_lines(cores: [usize; 2], rounds: u64, payload_words: usize) -> Duration {
    let (to, fro) = (Line::new(), Line::new());
    beside(
        cores,
        || {
            (1..=rounds).for_each(|round| {
                to.put(round, payload_words);
                fro.poll(round, payload_words);
            });
        },
        || {
            (1..=rounds).for_each(|round| {
                to.poll(round, payload_words);
                fro.put(round, payload_words);
            });
        },
    )
}

fn messages(
    cores: [usize; 2],
    rounds: u64,
    send: impl Fn(&mut Sender) + Sync,
    receive: impl Fn(&mut Receiver) -> u64 + Sync,
) -> Duration {
    let ((mut sends_to, mut takes_to), (mut sends_fro, mut takes_fro)) = (lane(), lane());
    let (send, receive) = (&send, &receive);
    beside(
        cores,
        || {
            for _ in 0..rounds {
                send(&mut sends_to);
                black_box(receive(&mut takes_fro));
            }
        },
        move || {
            for _ in 0..rounds {
                black_box(receive(&mut takes_to));
                send(&mut sends_fro);
            }
        },
    )
}

/// Waits until the word is not `seen`; both are futex calls of the kernel's own pace.
fn sleep_while(word: &AtomicU32, seen: u32) {
    while word.load(Ordering::Acquire) == seen {
        let _ = futex::wait(word, futex::Flags::empty(), seen, None);
    }
}

fn put_and_wake(word: &AtomicU32, value: u32) {
    word.store(value, Ordering::Release);
    let _ = futex::wake(word, futex::Flags::empty(), 1);
}

fn bare_futexes(cores: [usize; 2], rounds: u64) -> Duration {
    let (to, fro) = (AtomicU32::new(0), AtomicU32::new(0));
    let counts = || (0..rounds).map(|round| u32::try_from(round & 0xffff_ffff).unwrap_or_default());
    beside(
        cores,
        || {
            for count in counts() {
                put_and_wake(&to, count.wrapping_add(1));
                sleep_while(&fro, count);
            }
        },
        || {
            for count in counts() {
                sleep_while(&to, count);
                put_and_wake(&fro, count.wrapping_add(1));
            }
        },
    )
}

fn crossing(criterion: &mut Criterion) {
    let Some(cores) = two_cores() else { return println!("message lane: round trips left out, there is one core") };
    let mut group = criterion.benchmark_group("message lane: round trip, both poll");
    group.bench_function("bare line", |bencher| bencher.iter_custom(|rounds| bare_lines(cores, rounds, 0)));
    group.bench_function("bare line and 64 B", |bencher| bencher.iter_custom(|rounds| bare_lines(cores, rounds, 8)));
    for (name, bytes) in [("8 B", 8), ("64 B", 64), ("200 B", 200), ("1 KiB", 1024)] {
        let payload = vec![7; bytes];
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|rounds| messages(cores, rounds, |sender| sender.send(&payload), Receiver::polled));
        });
    }
    group.bench_function("1 MiB in place", |bencher| {
        bencher.iter_custom(|rounds| messages(cores, rounds, |sender| sender.send_built(MIB), Receiver::polled));
    });
    group.finish();
}

fn sleeping(criterion: &mut Criterion) {
    let Some(cores) = two_cores() else { return };
    let mut group = criterion.benchmark_group("message lane: round trip, both sleep");
    for (name, cores) in [("two cores", cores), ("one core", [cores[0]; 2])] {
        group.bench_function(format!("futex, {name}"), |bencher| {
            bencher.iter_custom(|rounds| bare_futexes(cores, rounds));
        });
        group.bench_function(format!("64 B, {name}"), |bencher| {
            bencher.iter_custom(|rounds| messages(cores, rounds, |sender| sender.send(&PAYLOAD), Receiver::slept_for));
        });
    }
    group.finish();
}

fn alone(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("message lane: both ends on one thread");
    for (name, bytes) in [("8 B", 8), ("64 B", 64), ("200 B", 200), ("1 KiB", 1024), ("64 KiB", 64 << 10)] {
        let ((mut sender, mut receiver), payload) = (lane(), vec![7; bytes]);
        group.throughput(Throughput::Elements(1));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                sender.send(black_box(&payload));
                receiver.take()
            });
        });
    }
    let (mut sender, mut receiver) = lane();
    group.bench_function("1 MiB in place", |bencher| {
        bencher.iter(|| {
            sender.send_built(MIB);
            receiver.take()
        });
    });
    group.finish();
}

criterion_group!(benches, crossing, sleeping, alone);
criterion_main!(benches);
