//! Junk over a message lane and its bell, written by whoever maps them: neither end panics, hangs or leaves the segment, the
//! server's question is answered, and another lane goes on as if nothing had happened.
//!
//! `PRAAS_SEED` repeats a run, `PRAAS_JUNK_ROUNDS` sets its length.
#![cfg(not(loom))]

#[path = "support/messages.rs"]
mod messages;

use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use praas_shm::WorkerTag;
use praas_shm::message_lane::{Contents, Outbound, Wanting};

use messages::{Host, PATIENCE, Receiver, SMALL, id, key, pattern};

const RECEIVER: WorkerTag = WorkerTag::new(1, 1);
/// Where things lie in a lane of [`SMALL`] geometry and in a bell, restated from their documentation.
const CONSUMED: u64 = 256;
const WANTED: u64 = 264;
const SENDER_PARKED: u64 = 320;
const SENDER_RINGS: u64 = 328;
const RING: u64 = 4096;
const ENTRY_BYTES: u64 = 256;
const RELEASED: u64 = RING + 16 * ENTRY_BYTES;
const LENT: u64 = RELEASED + 128;
const KEY_ENDS: u64 = LENT + 128;
const BELL_WORDS: [u64; 4] = [0, 8, 64, 72];
/// Rounds without `PRAAS_JUNK_ROUNDS`.
const ROUNDS: u64 = 400;
/// No step takes this long unless it hangs, on any machine.
const STEP_HANGS: Duration = Duration::from_secs(30);
/// Longest wait within a step.
const WAIT: Duration = Duration::from_micros(50);

struct Random(u64);

impl Random {
    fn seeded() -> Self {
        let fresh = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let fresh = u64::from(fresh.subsec_nanos()) << 20 | u64::from(std::process::id()) | 1;
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
        (self.next() >> 16) % limit
    }

    fn one_of(&mut self, words: &[u64]) -> u64 {
        words[usize::try_from(self.below(words.len() as u64)).unwrap()]
    }

    /// Something that means something somewhere, or nothing anywhere.
    fn word(&mut self) -> u64 {
        match self.below(8) {
            0 => self.next(),
            1 => 0,
            2 => u64::MAX >> self.below(40),
            3 => 1 << self.below(64),
            // Kind, key bytes and payload bytes of a shape.
            4 => self.below(4) << 40 | self.below(256) << 32 | self.below(70_000) | self.below(10) << 48,
            5 => self.below(70) << 10,
            _ => self.below(64),
        }
    }
}

fn read(fd: BorrowedFd<'_>, at: u64) -> u64 {
    let mut bytes = [0; 8];
    assert_eq!(rustix::io::pread(fd, &mut bytes, at).unwrap(), 8);
    u64::from_ne_bytes(bytes)
}

fn write(fd: BorrowedFd<'_>, at: u64, word: u64) {
    assert_eq!(rustix::io::pwrite(fd, &word.to_ne_bytes(), at).unwrap(), 8);
}

/// Every word by which the ends control each other, and the first of key and payload in two entries.
fn control_words() -> Vec<u64> {
    let mut words = vec![0, 8, 16, CONSUMED, WANTED, SENDER_PARKED, SENDER_RINGS];
    words.extend((0..16).map(|entry| RING + entry * ENTRY_BYTES));
    words.extend((0..2).flat_map(|entry| (1..7).map(move |word| RING + entry * ENTRY_BYTES + word * 8)));
    words.extend((0..8).flat_map(|descriptor| [RELEASED + descriptor * 8, LENT + descriptor * 8]));
    words.extend((0..5).map(|word| KEY_ENDS + word * 8));
    words
}

/// A lane and both its ends, which go on whatever stands in it.
struct Bench {
    host: Host,
    sender: Outbound,
    receiver: Receiver,
    sequence: u64,
}

impl Bench {
    fn new() -> Self {
        let host = Host::new(SMALL);
        Self { sender: host.sender(), receiver: host.receiver(), host, sequence: 0 }
    }

    /// Every operation of the sender; whether it succeeds is all one.
    fn send(&mut self) {
        for (bytes, text) in [(10, "short"), (3000, "block"), (0, &"long".repeat(60)), (20_000, "large")] {
            self.sequence += 1;
            let _ = self.sender.try_send(id(self.sequence), key(text), &pattern(bytes, self.sequence));
            let _ = self.sender.wait_for_room(Wanting::Message { key_bytes: text.len(), payload_bytes: bytes }, WAIT);
        }
        drop(self.sender.loan(500));
        if let Ok(mut loan) = self.sender.loan(700) {
            loan.fill(1);
            let _ = self.sender.send_loan(loan, id(self.sequence), key("built"));
        }
    }

    /// Every operation of a receiver, at its position and at any other.
    fn receive(&mut self, random: &mut Random) {
        for _ in 0..6 {
            self.receive_at(self.receiver.position);
        }
        self.receive_at(random.word());
        self.receiver.inbound.publish_consumed(self.receiver.position);
        self.receiver.inbound.release(u16::try_from(random.below(1 << 16)).unwrap(), random.word());
        if let Some(place) = self.receiver.inbound.place_of([random.word(), random.word()]) {
            assert_eq!(self.receiver.inbound.block(&place).len(), place.bytes());
        }
        let seen = self.host.bell.prepare(RECEIVER);
        self.host.bell.wait(seen, WAIT);
        self.host.bell.finish(RECEIVER);
    }

    fn receive_at(&mut self, position: u64) {
        let Receiver { inbound, room, position: own } = &mut self.receiver;
        let has_arrived = inbound.has_arrived(position);
        match inbound.arrived_at(position, room) {
            Ok(None) if position == *own && !has_arrived => {}
            Ok(None) | Err(_) => *own = own.wrapping_add(1),
            Ok(Some(arrived)) => {
                assert!(!arrived.key.as_str().is_empty());
                if let Contents::Block(place) = arrived.contents {
                    let bytes = inbound.block(&place);
                    assert_eq!(bytes.len(), place.bytes());
                    assert!(bytes.first() <= Some(&u8::MAX));
                    inbound.release(place.descriptor(), place.stamp());
                }
                *own = position.wrapping_add(1);
            }
        }
    }

    fn use_everything(&mut self, random: &mut Random) {
        let start = Instant::now();
        self.send();
        self.receive(random);
        let _ = self.host.lane.is_drained();
        self.host.bell.ring();
        self.host.bell.forget(RECEIVER);
        assert!(start.elapsed() < STEP_HANGS, "one step took {:?}", start.elapsed());
    }
}

fn carries_messages(bench: &mut Bench) {
    bench.sequence += 1;
    let payload = pattern(2000, bench.sequence);
    bench.sender.try_send(id(bench.sequence), key("other"), &payload).unwrap();
    assert_eq!(bench.receiver.take().unwrap().bytes, payload);
}

#[test]
fn any_word_of_a_lane_may_hold_anything() {
    let mut random = Random::seeded();
    let mut other = Bench::new();
    for at in control_words() {
        for word in [0, 1, 2, 17, 1 << 10, 1 << 31, 1 << 32, 1 << 40, 1 << 63, u64::MAX - 1, u64::MAX] {
            let mut bench = Bench::new();
            bench.use_everything(&mut random);
            let before = read(bench.host.lane.fd(), at);
            for word in [word, before.wrapping_add(word), before ^ word] {
                write(bench.host.lane.fd(), at, word);
                bench.use_everything(&mut random);
            }
            write(bench.host.bell.fd(), random.one_of(&BELL_WORDS), word);
            bench.use_everything(&mut random);
        }
        carries_messages(&mut other);
    }
}

#[test]
fn many_words_may_hold_anything_at_once() {
    let mut random = Random::seeded();
    let rounds = std::env::var("PRAAS_JUNK_ROUNDS").map_or(ROUNDS, |rounds| rounds.parse().unwrap());
    let (words, mut other) = (control_words(), Bench::new());
    for _ in 0..rounds {
        let mut bench = Bench::new();
        bench.use_everything(&mut random);
        for _ in 0..10 {
            for _ in 0..=random.below(6) {
                write(bench.host.lane.fd(), random.one_of(&words), random.word());
            }
            bench.use_everything(&mut random);
        }
        carries_messages(&mut other);
    }
}

#[test]
fn words_may_change_while_they_are_used() {
    let mut random = Random::seeded();
    let (words, mut other) = (control_words(), Bench::new());
    let mut bench = Bench::new();
    let stop = AtomicBool::new(false);
    let (lane, bell) = (messages::copy_of(bench.host.lane.fd()), messages::copy_of(bench.host.bell.fd()));
    let mut spoiling = Random(random.next() | 1);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            use std::os::fd::AsFd;
            let start = Instant::now();
            while !stop.load(Ordering::Relaxed) && start.elapsed() < PATIENCE {
                write(lane.as_fd(), spoiling.one_of(&words), spoiling.word());
                write(bell.as_fd(), spoiling.one_of(&BELL_WORDS), spoiling.word());
            }
        });
        for _ in 0..300 {
            bench.use_everything(&mut random);
            carries_messages(&mut other);
        }
        stop.store(true, Ordering::Relaxed);
    });
}
