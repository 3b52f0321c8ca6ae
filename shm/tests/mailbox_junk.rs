//! Junk over a mailbox, as a tenant's own worker may write: whatever stands in the segment, every operation and every
//! recovery ends, none panics, and none leaves the segment.
//!
//! `PRAAS_SEED` repeats a run, `PRAAS_JUNK_ROUNDS` sets its length.
#![cfg(not(loom))]
#![allow(clippy::cast_possible_truncation, reason = "small numbers of a test's own")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use praas_protocol::Key;
use praas_protocol::message::{Address, MessageId};
use praas_shm::WorkerTag;
use praas_shm::mail_bell::MailBell;
use praas_shm::mailbox::{InboundLane, Mailbox, NewMessage, Wanted};
use praas_shm::message_lane::{Inbound, Outbound, ServerMessageLane, geometry_for};
use praas_shm::objects::{Objects, ObjectsLayout, RecoverError};

const LIMIT_BYTES: u64 = 256 << 10;
const WORD_BYTES: u64 = 8;
const DEAD: WorkerTag = WorkerTag::new(0, 1);
const PAGE_WORDS: u64 = 512;
/// The mailbox's words of the header, and the first ones of its rows.
const MAIL_WORDS: std::ops::Range<u64> = 64..96;
const ROW_WORDS: u64 = 96;
const ROW_MAIL: u64 = 88;
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
        (self.next() >> 11) % limit
    }
}

fn create() -> Arc<Objects> {
    Arc::new(Objects::create(ObjectsLayout::for_limit(LIMIT_BYTES).unwrap()).unwrap())
}

fn address(number: u64) -> Address {
    format!("source-{number}").parse().unwrap()
}

fn mailbox(objects: &Arc<Objects>, lane: &ServerMessageLane, tag: WorkerTag) -> Option<Mailbox> {
    // An end over junk may be refused.
    let mailbox = Mailbox::new(Arc::clone(objects), tag, MailBell::create().unwrap()).ok()?;
    mailbox.set_patience(Duration::from_micros(50));
    let inbound = Inbound::attach(lane.fd().try_clone_to_owned().unwrap(), &lane.geometry()).unwrap();
    mailbox.add_lane(InboundLane { slot: 1, serial: 3, source: address(0), inbound, repeats: false }).unwrap();
    Some(mailbox)
}

fn put(mailbox: &Mailbox, random: &mut Random, bytes: u64) {
    let (source, text) = (address(random.below(6)), format!("key {}", random.below(4)));
    let id = MessageId { incarnation: 1, sequence: random.below(3000) };
    let bytes = vec![1; bytes as usize];
    let new = NewMessage {
        source: &source,
        id,
        key: Key::new(&text).unwrap(),
        bytes: &bytes,
        repeats: bytes.len().is_multiple_of(2),
    };
    let _ = mailbox.put(&new);
}

/// A segment with everything in it: queues, held messages of two rows, sources, spares, messages in lanes.
fn populated(random: &mut Random) -> (Arc<Objects>, ServerMessageLane, Vec<u64>) {
    let objects = create();
    let lane = ServerMessageLane::create(geometry_for(64 << 10)).unwrap();
    let fd = lane.fd().try_clone_to_owned().unwrap();
    let mut sender = Outbound::attach(fd, &lane.geometry(), MailBell::create().unwrap()).unwrap();
    let (one, other) =
        (mailbox(&objects, &lane, DEAD).unwrap(), mailbox(&objects, &lane, WorkerTag::new(7, 1)).unwrap());
    for _ in 0..150 {
        let bytes = random.below(300);
        put(&one, random, bytes);
    }
    put(&one, random, 9000);
    for sequence in 1..40 {
        let text = format!("key {}", sequence % 3);
        let id = MessageId { incarnation: 1, sequence };
        sender.try_send(id, Key::new(&text).unwrap(), &vec![2; 100 * (sequence % 4) as usize]).unwrap();
        if sequence == 20 {
            while one.take(Wanted::One(&address(0)), Key::new("key 0").unwrap()).unwrap().is_some() {}
        }
    }
    for number in 0..30 {
        let worker = if number % 3 == 0 { &other } else { &one };
        let text = format!("key {}", number % 4);
        if let Ok(Some(message)) = worker.take(Wanted::Any, Key::new(&text).unwrap())
            && number % 2 == 0
        {
            message.accept().unwrap();
        }
    }
    objects.check().unwrap();
    let words = read(&objects);
    std::mem::forget((one, other));
    (objects, lane, words)
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

/// A word to spoil: the mailbox's in the header or in a row, or any that is in use.
fn place(random: &mut Random, words: &[u64]) -> u64 {
    let count = words.len() as u64;
    match random.below(8) {
        0 | 1 => MAIL_WORDS.start + random.below(MAIL_WORDS.end - MAIL_WORDS.start),
        2 => PAGE_WORDS + [0, 7, 1][random.below(3) as usize] * ROW_WORDS + ROW_MAIL + random.below(3),
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
        7 => random.below(words.len() as u64 / 2) << 8 | old & 0xff,
        _ => other & 0xffff_ff00_0000_0000 | random.below(words.len() as u64 / 2),
    }
}

/// Every operation of a worker; whether they succeed is all one.
fn use_everything(mailbox: &mut Mailbox, random: &mut Random) {
    for _ in 0..12 {
        let text = format!("key {}", random.below(4));
        let key = Key::new(&text).unwrap();
        let (one, list) = (address(random.below(6)), [address(0), address(random.below(6))]);
        let wanted = [Wanted::Any, Wanted::One(&one), Wanted::Of(&list)][random.below(3) as usize];
        match random.below(8) {
            0 | 1 => {
                let bytes = random.below(300);
                put(mailbox, random, bytes);
            }
            2 => put(mailbox, random, 6000),
            3 => drop(mailbox.peek(wanted, key)),
            4 | 5 => {
                if let Ok(Some(message)) = mailbox.take(wanted, key) {
                    assert!(message.bytes().iter().map(|&byte| u64::from(byte)).sum::<u64>() < u64::MAX);
                    let _ = (message.source(), message.accept());
                }
            }
            6 => drop(mailbox.take(wanted, key)),
            _ => drop(if random.below(2) == 0 { mailbox.accept_all() } else { mailbox.release_all() }),
        }
    }
    let _ = (mailbox.usage(), mailbox.has_news(), mailbox.next_sequence());
}

/// The server's part: it gets an answer, and what it finds in order stays in order.
fn recover_everything(objects: &Arc<Objects>, lane: &ServerMessageLane, random: &mut Random) {
    let one = objects.recover(DEAD);
    let all = objects.recover_all();
    if matches!(one, Err(RecoverError::Corrupt { .. })) && all.is_err() {
        return;
    }
    if objects.check().is_ok() {
        let Some(mut heir) = mailbox(objects, lane, WorkerTag::new(1, 1)) else {
            panic!("a mailbox in order is refused")
        };
        use_everything(&mut heir, random);
        drop(heir);
        objects.check().expect("operations on a mailbox in order leave it in order");
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
    let (_source, lane, words) = populated(&mut random);
    let objects = create();
    let (mut refused, mut in_order) = (0, 0);
    for round in 0..rounds {
        ROUND.store(round, Ordering::Relaxed);
        write(&objects, 0, &words);
        for _ in 0..1 + random.below(3) {
            let at = place(&mut random, &words);
            let word = junk(&mut random, &words, words[at as usize]);
            write(&objects, at, &[word]);
        }
        if round % 2 == 0
            && let Some(mut worker) = mailbox(&objects, &lane, DEAD)
        {
            use_everything(&mut worker, &mut random);
        }
        recover_everything(&objects, &lane, &mut random);
        match objects.check() {
            Ok(_) => in_order += 1,
            Err(_) => refused += 1,
        }
    }
    ROUND.store(u64::MAX - 1, Ordering::Relaxed);
    println!("{rounds} rounds: {in_order} in order after recovery, {refused} refused");
    assert!(refused > 0 && in_order > 0, "junk was neither found nor harmless: {refused}, {in_order}");
}
