//! Workers that are killed for good, in the middle of sending to themselves, receiving, accepting and giving back, while
//! others go on and a sender keeps two lanes busy.
//!
//! Each worker is a process of its own. It tells through a pipe what it is about to put and to accept, and what was
//! acknowledged. The checker knows from that: a message whose put was acknowledged is received and accepted once, or is
//! still there at the end; one whose accept was acknowledged is never seen again; each worker sees the messages of a source
//! and key in their order. Half of the workers kill themselves after a random number of stores, the others are killed at a
//! random time.
//!
//! `PRAAS_SEED` repeats the choices, `PRAAS_KILLS` sets the number of kills.
#![cfg(not(loom))]
#![allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "small numbers of a test's own")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use praas_protocol::Key;
use praas_protocol::message::{Address, MessageId};
use praas_shm::WorkerTag;
use praas_shm::mail_bell::MailBell;
use praas_shm::mailbox::{InboundLane, MailError, Mailbox, NewMessage, Wanted};
use praas_shm::message_lane::{Inbound, Outbound, ServerMessageLane, geometry_for};
use praas_shm::objects::steps::observe;
use praas_shm::objects::{Objects, ObjectsLayout, RecoverError};

const LIMIT_BYTES: u64 = 8 << 20;
const WORKERS: u8 = 3;
const LANES: usize = 2;
const KEYS: [&str; 2] = ["k", "other"];
/// The lanes' source; workers are 0, 1, 2.
const SENDER: u64 = 9;
const SIGKILL: i32 = 9;
const PATIENCE: Duration = Duration::from_secs(60);
const VARIABLE: &str = "PRAAS_MAILBOX_WORKER";

/// Bytes of a record in the pipe, which are written whole.
const RECORD_BYTES: usize = 32;

/// Names a message: source, key, sequence.
type Name = (u64, u64, u64);

/// What a worker says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Record {
    Puts(Name),
    Put(Name),
    Accepts(Name),
    Accepted(Name),
}

impl Record {
    fn encode(self) -> [u8; RECORD_BYTES] {
        let (kind, name) = match self {
            Self::Puts(name) => (1, name),
            Self::Put(name) => (2, name),
            Self::Accepts(name) => (3, name),
            Self::Accepted(name) => (4, name),
        };
        let mut record = [0; RECORD_BYTES];
        for (bytes, word) in record.as_chunks_mut::<8>().0.iter_mut().zip([kind, name.0, name.1, name.2]) {
            *bytes = word.to_le_bytes();
        }
        record
    }

    fn decode(record: &[u8]) -> Self {
        let word = |at: usize| u64::from_le_bytes(record[8 * at..8 * at + 8].try_into().unwrap());
        let name = (word(1), word(2), word(3));
        match word(0) {
            1 => Self::Puts(name),
            2 => Self::Put(name),
            3 => Self::Accepts(name),
            4 => Self::Accepted(name),
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

fn address(source: u64) -> Address {
    format!("source-{source}").parse().unwrap()
}

fn source_of(address: Address) -> u64 {
    let text = address.to_string();
    text.trim_start_matches("source-").parse().unwrap()
}

fn key(index: u64) -> Key<'static> {
    Key::new(KEYS[index as usize]).unwrap()
}

fn id(sequence: u64) -> MessageId {
    MessageId { incarnation: 1, sequence }
}

fn value_of(sequence: u64, bytes: usize) -> Vec<u8> {
    sequence.to_le_bytes().into_iter().cycle().take(bytes).collect()
}

fn attach_lane(mailbox: &Mailbox, slot: u16, fd: OwnedFd) {
    let inbound = Inbound::attach(fd, &geometry_for(64 << 10)).unwrap();
    mailbox.add_lane(InboundLane { slot, serial: 1, source: address(SENDER), inbound, repeats: false }).unwrap();
}

// ---- the workers ----------------------------------------------------------------------------------------------------

/// Not a test of its own: what this program is when the test below has started it.
#[test]
fn worker() {
    let Ok(arguments) = std::env::var(VARIABLE) else { return };
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL)).unwrap();
    let numbers: Vec<u64> = arguments.split(' ').map(|number| number.parse().unwrap()).collect();
    let [segment, log, bell, lane, second, index, generation, seed, stores] = numbers.try_into().unwrap();
    // SAFETY: the parent made these descriptors for this process alone, and nothing has taken them yet.
    let own = |number: u64| unsafe { OwnedFd::from_raw_fd(number as i32) };
    let objects = Arc::new(Objects::attach(own(segment), layout()).unwrap());
    let tag = WorkerTag::new(index as u8, generation as u16);
    let mut mailbox = Mailbox::new(objects, tag, MailBell::attach(own(bell)).unwrap()).unwrap();
    attach_lane(&mailbox, 0, own(lane));
    attach_lane(&mailbox, 1, own(second));
    let log = own(log);
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
        work(&mut mailbox, index, &log, &mut random);
    }
}

fn say(log: &OwnedFd, record: Record) {
    assert_eq!(rustix::io::write(log, &record.encode()).unwrap(), RECORD_BYTES);
}

fn work(mailbox: &mut Mailbox, index: u64, log: &OwnedFd, random: &mut Random) {
    if random.below(3) == 0 {
        return put(mailbox, index, log, random);
    }
    let mut held = Vec::new();
    for _ in 0..=random.below(4) {
        let on = random.below(KEYS.len() as u64);
        let some = [address(SENDER), address(random.below(u64::from(WORKERS)))];
        let wanted = [Wanted::Any, Wanted::Of(&some), Wanted::One(&some[0])][random.below(3) as usize];
        let Some(message) = mailbox.take(wanted, key(on)).unwrap() else { continue };
        let name = (source_of(message.source().unwrap()), on, message.id().sequence);
        assert_eq!(message.bytes(), value_of(name.2, message.bytes().len()), "a torn message");
        if random.below(2) == 0 {
            say(log, Record::Accepts(name));
            message.accept().unwrap();
            say(log, Record::Accepted(name));
        } else {
            held.push(name);
        }
    }
    if random.below(3) == 0 {
        return mailbox.release_all().unwrap();
    }
    held.iter().for_each(|&name| say(log, Record::Accepts(name)));
    mailbox.accept_all().unwrap();
    held.iter().for_each(|&name| say(log, Record::Accepted(name)));
}

fn put(mailbox: &Mailbox, index: u64, log: &OwnedFd, random: &mut Random) {
    let name = (index, random.below(KEYS.len() as u64), mailbox.next_sequence());
    let bytes = value_of(name.2, [8, 200, 9000][random.below(3) as usize]);
    say(log, Record::Puts(name));
    let new = NewMessage {
        source: &address(index),
        id: id(name.2),
        key: key(name.1),
        bytes: &bytes,
        repeats: name.2.is_multiple_of(2),
    };
    match mailbox.put(&new) {
        Ok(_) => say(log, Record::Put(name)),
        Err(MailError::Full { .. }) => {}
        Err(error) => panic!("{error}"),
    }
}

// ---- the checker ----------------------------------------------------------------------------------------------------

/// What is known of all messages.
#[derive(Default)]
struct Known {
    put: BTreeSet<Name>,
    perhaps_put: BTreeSet<Name>,
    accepted: BTreeSet<Name>,
    perhaps_accepted: BTreeSet<Name>,
}

impl Known {
    /// Learns what one life of a worker has said.
    fn learn(&mut self, said: &[u8]) {
        let mut last_accepted = BTreeMap::new();
        for record in said.chunks_exact(RECORD_BYTES).map(Record::decode) {
            match record {
                Record::Puts(name) => drop(self.perhaps_put.insert(name)),
                Record::Put(name) => drop(self.put.insert(name)),
                Record::Accepts(name) => drop(self.perhaps_accepted.insert(name)),
                Record::Accepted(name) => {
                    assert!(self.accepted.insert(name), "{name:?} was accepted twice");
                    let _ = last_accepted.insert((name.0, name.1), name.2);
                }
            }
        }
    }

    /// Compares with what is left at the end.
    fn check(&self, left: &BTreeSet<Name>) {
        for name in left {
            assert!(!self.accepted.contains(name), "{name:?} came back after it was accepted");
            assert!(self.put.contains(name) || self.perhaps_put.contains(name), "{name:?} was never sent");
        }
        for name in self.put.difference(left) {
            let gone = self.accepted.contains(name) || self.perhaps_accepted.contains(name);
            assert!(gone, "{name:?} is lost");
        }
    }
}

struct Worker {
    index: u8,
    generation: u16,
    child: Child,
    /// Reads what it says to the end.
    said: Option<JoinHandle<Vec<u8>>>,
}

/// What all workers share.
struct Shared {
    objects: Arc<Objects>,
    bell: MailBell,
    lanes: Vec<ServerMessageLane>,
}

impl Worker {
    fn start(shared: &Shared, index: u8, generation: u16, random: &mut Random) -> Self {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let stores = if random.below(2) == 0 { 1 + random.below(6000) } else { 0 };
        let seed = random.below(u64::MAX) | 1;
        // Without close-on-exec, and only here: this test starts its processes from one thread.
        let mut fds: Vec<BorrowedFd<'_>> = vec![shared.objects.fd(), write.as_fd(), shared.bell.fd()];
        fds.extend(shared.lanes.iter().map(ServerMessageLane::fd));
        let fds: Vec<OwnedFd> = fds.into_iter().map(|fd| rustix::io::dup(fd).unwrap()).collect();
        let numbers: Vec<String> = fds.iter().map(|fd| fd.as_raw_fd().to_string()).collect();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "worker", "--test-threads=1", "--nocapture"])
            .env(VARIABLE, format!("{} {index} {generation} {seed} {stores}", numbers.join(" ")))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let said = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            std::fs::File::from(read).read_to_end(&mut bytes).unwrap();
            bytes
        });
        Self { index, generation, child, said: Some(said) }
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

    fn said(&mut self) -> Vec<u8> {
        self.said.take().unwrap().join().unwrap()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
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

/// Sends some messages by the lanes, in turn, as far as there is room.
fn send(senders: &mut [Outbound], sequence: &mut u64, known: &mut Known, random: &mut Random) {
    for _ in 0..random.below(40) {
        let name = (SENDER, random.below(KEYS.len() as u64), *sequence);
        let bytes = value_of(name.2, [8, 100, 3000][random.below(3) as usize]);
        let lane = random.below(LANES as u64) as usize;
        match senders[lane].try_send(id(name.2), key(name.1), &bytes) {
            Ok(_) => drop(known.put.insert(name)),
            Err(error) => assert!(error.is_full(), "{error}"),
        }
        *sequence += 1;
    }
}

/// Everything that is left, in order.
fn drain(shared: &Shared) -> BTreeSet<Name> {
    let bell = MailBell::attach(shared.bell.fd().try_clone_to_owned().unwrap()).unwrap();
    let mut heir = Mailbox::new(Arc::clone(&shared.objects), WorkerTag::new(40, 1), bell).unwrap();
    for (slot, lane) in (0..).zip(&shared.lanes) {
        attach_lane(&heir, slot, lane.fd().try_clone_to_owned().unwrap());
    }
    let mut left = BTreeSet::new();
    for on in 0..KEYS.len() as u64 {
        let mut last = BTreeMap::new();
        while let Some(message) = heir.take(Wanted::Any, key(on)).unwrap() {
            let (source, sequence) = (source_of(message.source().unwrap()), message.id().sequence);
            assert_eq!(message.bytes(), value_of(sequence, message.bytes().len()), "a torn message");
            let before = last.insert(source, sequence);
            assert!(before.is_none_or(|before| before < sequence), "{source}: {sequence} after {before:?}");
            assert!(left.insert((source, on, sequence)), "{sequence} twice");
            message.accept().unwrap();
        }
    }
    heir.accept_all().unwrap();
    assert!(shared.lanes.iter().all(ServerMessageLane::is_drained), "a lane was not told all");
    left
}

#[test]
fn no_kill_loses_or_doubles_a_message() {
    let fresh = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64 | 1;
    let seed = std::env::var("PRAAS_SEED").map_or(fresh, |seed| seed.parse().unwrap());
    let kills = std::env::var("PRAAS_KILLS").map_or(120, |kills| kills.parse().unwrap());
    println!("PRAAS_SEED={seed}");
    let mut random = Random(seed);
    let shared = Shared {
        objects: Arc::new(Objects::create(layout()).unwrap()),
        bell: MailBell::create().unwrap(),
        lanes: (0..LANES).map(|_| ServerMessageLane::create(geometry_for(64 << 10)).unwrap()).collect(),
    };
    let mut senders: Vec<Outbound> = shared
        .lanes
        .iter()
        .map(|lane| {
            let bell = MailBell::attach(shared.bell.fd().try_clone_to_owned().unwrap()).unwrap();
            Outbound::attach(lane.fd().try_clone_to_owned().unwrap(), &lane.geometry(), bell).unwrap()
        })
        .collect();
    let (mut sequence, mut known) = (1, Known::default());
    let mut workers: Vec<Worker> = (0..WORKERS).map(|index| Worker::start(&shared, index, 1, &mut random)).collect();
    let mut seen = 0;
    while seen < kills {
        send(&mut senders, &mut sequence, &mut known, &mut random);
        std::thread::sleep(Duration::from_micros(random.below(20_000)));
        let chosen = random.below(u64::from(WORKERS)) as usize;
        workers[chosen].child.kill().unwrap();
        let _ = workers[chosen].child.wait().unwrap();
        for at in recover_the_dead(&shared.objects, &mut workers) {
            seen += 1;
            let worker = &mut workers[at];
            known.learn(&worker.said());
            let (index, generation) = (worker.index, worker.generation + 1);
            *worker = Worker::start(&shared, index, generation, &mut random);
            // Refused while somebody writes or has died writing; at the end it is not.
            match shared.objects.check() {
                Ok(_) | Err(RecoverError::Busy { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }
    // At last all at once, and the server with them.
    for worker in &mut workers {
        worker.child.kill().unwrap();
        worker.child.wait().unwrap();
        known.learn(&worker.said());
    }
    shared.objects.recover_all().unwrap();
    let checked = shared.objects.check().unwrap().mail;
    assert_eq!(checked.held, 0);
    let left = drain(&shared);
    known.check(&left);
    let (put, accepted) = (known.put.len(), known.accepted.len());
    println!("{seen} kills: {put} messages sent, {accepted} accepted, {} left", left.len());
    assert!(accepted as u64 > kills, "the workers did nothing");
}
