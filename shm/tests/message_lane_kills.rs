//! Senders that are killed at every named step of a message ([`praas_shm::fault`]): what was published is received whole,
//! what was not is never seen, the lane they leave behind is drained and known to be, and a new sender has a lane of its
//! own. And receivers that are killed while they sleep or are about to.
//!
//! The test starts this very program again as a sender or receiver, with the lane's descriptors inherited and one step armed.
#![cfg(not(loom))]

#[path = "support/messages.rs"]
mod messages;

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use praas_shm::WorkerTag;
use praas_shm::fault::{Step, VARIABLE};
use praas_shm::mail_bell::MailBell;
use praas_shm::message_lane::{Inbound, Outbound, Wanting};

use messages::{Host, PATIENCE, SMALL, Taken, id, key, pattern};

/// What the child is, and the numbers of its descriptors.
const ROLE: &str = "PRAAS_MESSAGE_KILLS_ROLE";
const DESCRIPTORS: &str = "PRAAS_MESSAGE_KILLS_DESCRIPTORS";
/// Passages of a step at which it kills; later ones leave a lane that was in use.
const PASSAGES: [u32; 4] = [1, 2, 7, 40];
const SIGKILL: i32 = 9;
const TEST: WorkerTag = WorkerTag::new(0, 1);
const CHILD: WorkerTag = WorkerTag::new(1, 1);

fn message(sequence: u64) -> Taken {
    let (text, bytes) = match sequence % 4 {
        0 => ("inline".to_owned(), pattern(100, sequence)),
        1 => ("block".to_owned(), pattern(3000, sequence)),
        2 => ("k".repeat(255), Vec::new()),
        _ => ("built".to_owned(), pattern(16 << 10, sequence)),
    };
    Taken { id: id(sequence), key: text, bytes }
}

// ---- the children ---------------------------------------------------------------------------------------------------

/// Not a test of its own: what this program is when a test below has started it.
#[test]
fn child() {
    let Ok(role) = std::env::var(ROLE) else { return };
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL)).unwrap();
    let numbers = std::env::var(DESCRIPTORS).unwrap();
    // SAFETY: the parent made these descriptors for this process alone, and nothing has taken them yet.
    let own = |number: &str| unsafe { OwnedFd::from_raw_fd(number.parse().unwrap()) };
    let [lane, bell] = numbers.split(',').map(own).collect::<Vec<_>>().try_into().unwrap();
    let bell = MailBell::attach(bell).unwrap();
    match role.as_str() {
        "sender" => be_sender(Outbound::attach(lane, &SMALL, bell).unwrap()),
        "receiver" => be_receiver(&Inbound::attach(lane, &SMALL).unwrap(), &bell),
        other => panic!("no such role: {other}"),
    }
}

fn be_sender(mut sender: Outbound) {
    let start = Instant::now();
    for sequence in 0.. {
        let Taken { id, key: text, bytes } = message(sequence);
        let wanting = Wanting::Message { key_bytes: text.len(), payload_bytes: bytes.len() };
        if sequence % 4 == 3 {
            while !sender.wait_for_room(wanting, PATIENCE) {}
            drop(sender.loan(1000).unwrap());
            let mut loan = sender.loan(bytes.len()).unwrap();
            loan.copy_from_slice(&bytes);
            sender.send_loan(loan, id, key(&text)).unwrap();
        } else {
            while let Err(error) = sender.try_send(id, key(&text), &bytes) {
                assert!(error.is_full(), "{error}");
                sender.wait_for_room(wanting, PATIENCE);
                assert!(start.elapsed() < PATIENCE, "no room came");
            }
        }
        assert!(start.elapsed() < PATIENCE, "the step was never reached");
    }
}

/// Sleeps for the message that comes after those that are there, and takes none.
fn be_receiver(inbound: &Inbound, bell: &MailBell) {
    let start = Instant::now();
    loop {
        let seen = bell.prepare(CHILD);
        if !inbound.has_arrived(0) {
            bell.wait(seen, PATIENCE);
        }
        bell.finish(CHILD);
        assert!(start.elapsed() < PATIENCE, "the step was never reached");
    }
}

// ---- the parent -----------------------------------------------------------------------------------------------------

/// A child that is killed and reaped with this value.
struct Armed(Child);

/// Descriptors without close-on-exec exist only under this lock, so that no other test's child inherits them.
static SPAWNING: Mutex<()> = Mutex::new(());

impl Armed {
    fn start(role: &str, step: Step, passage: u32, host: &Host) -> Self {
        let _alone = SPAWNING.lock().unwrap_or_else(PoisonError::into_inner);
        let inherited = [host.lane.fd(), host.bell.fd()].map(|fd: BorrowedFd<'_>| rustix::io::dup(fd).unwrap());
        let numbers: Vec<String> = inherited.iter().map(|fd| fd.as_raw_fd().to_string()).collect();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--test-threads=1", "--nocapture"])
            .env(ROLE, role)
            .env(DESCRIPTORS, numbers.join(","))
            .env(VARIABLE, format!("{}:{passage}", step.name()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }

    /// Whether it is dead; fails if it died of anything but its step.
    fn has_died(&mut self, step: Step) -> bool {
        let Some(status) = self.0.try_wait().unwrap() else { return false };
        assert_eq!(status.signal(), Some(SIGKILL), "at {} it ended with {status}", step.name());
        true
    }
}

impl Drop for Armed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn sender_steps() -> impl Iterator<Item = Step> {
    let all = Step::ALL.iter().copied().filter(|step| step.name().starts_with("message-"));
    all.filter(|step| *step != Step::MessageReceiverPrepared)
}

/// Receives until the sender is dead and its lane empty; returns how many messages came.
fn receive_until_dead(host: &Host, sender: &mut Armed, step: Step) -> u64 {
    let (mut receiver, start) = (host.receiver(), Instant::now());
    loop {
        // Asked before the lane is looked at: after a death nothing more comes.
        let is_dead = sender.has_died(step);
        while let Some(taken) = receiver.take() {
            assert_eq!(taken, message(receiver.position - 1), "killed at {}", step.name());
        }
        if is_dead {
            return receiver.position;
        }
        // Asleep, so that the sender meets somebody to ring; also when that one dies before it has rung.
        let seen = host.bell.prepare(TEST);
        if !receiver.inbound.has_arrived(receiver.position) {
            host.bell.wait(seen, Duration::from_millis(20));
        }
        host.bell.finish(TEST);
        assert!(start.elapsed() < PATIENCE, "{} was never reached", step.name());
    }
}

#[test]
fn a_killed_sender_has_sent_each_message_whole_or_not_at_all() {
    for step in sender_steps() {
        for passage in PASSAGES {
            let host = Host::new(SMALL);
            let mut sender = Armed::start("sender", step, passage, &host);
            let received = receive_until_dead(&host, &mut sender, step);
            assert!(host.lane.is_drained(), "killed at {}:{passage} after {received} messages", step.name());
            // Published once a passage, so the count tells on which side of it the sender died.
            match step {
                Step::MessageHalfWritten => assert_eq!(received, u64::from(passage) - 1),
                Step::MessagePublished => assert_eq!(received, u64::from(passage)),
                _ => {}
            }
        }
    }
}

#[test]
fn what_a_killed_sender_left_is_not_drained_until_it_is_taken() {
    let host = Host::new(SMALL);
    let mut sender = Armed::start("sender", Step::MessagePublished, 4, &host);
    messages_eventually(|| sender.has_died(Step::MessagePublished));
    let mut receiver = host.receiver();
    for sequence in 0..4 {
        assert!(!host.lane.is_drained(), "message {sequence} is there");
        assert_eq!(receiver.take(), Some(message(sequence)));
    }
    assert!(host.lane.is_drained());
}

fn messages_eventually(mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "did not happen within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_killed_receiver_keeps_no_sender_and_no_other_receiver() {
    for passage in [1, 2] {
        let host = Host::new(SMALL);
        let step = Step::MessageReceiverPrepared;
        let mut dead = Armed::start("receiver", step, passage, &host);
        messages_eventually(|| dead.has_died(step));
        // Its bit stands there until the server clears it; that costs a sender a ring, and nobody a message.
        let mut sender = host.sender();
        sender.try_send(id(0), key("k"), b"to whoever lives").unwrap();
        assert_eq!(host.receiver().await_one(&host.bell, TEST).bytes, b"to whoever lives");
        host.bell.forget(CHILD);
        let before = host.bell.rings();
        sender.try_send(id(1), key("k"), b"rings nobody").unwrap();
        assert_eq!(host.bell.rings(), before);
    }
}
