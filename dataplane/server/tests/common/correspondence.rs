//! Correspondents that know what must have arrived, whoever is killed meanwhile.
//!
//! A correspondence is a stream of numbers from one process to another under one key. The receiver notes each number in its
//! state before it lets the message go, so the state must show every number whose send was acknowledged, none whose send
//! was refused, and each in its order: a number comes again only if it says that it was delivered before.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use praas_client::{CallError, Client, Process, Reply};

use crate::common::mails::{NUMBERS_PER_OBJECT, WRONG};
use crate::common::stage::process;
use crate::common::{PATIENCE, eventually};

/// Numbers that may be on their way in one correspondence.
const UNDERWAY_MAX: u64 = 150;

/// A stream of numbers from one process to another.
pub(crate) struct Correspondence {
    from: Process,
    to: Process,
    names: [String; 2],
    key: String,
    next: AtomicU64,
    noted: AtomicU64,
    acknowledged: Mutex<BTreeSet<u64>>,
    refused: Mutex<BTreeSet<u64>>,
}

/// How a call of a correspondence ended.
enum End {
    Ok(Reply),
    /// The function said so.
    Failed(u32, String),
    Unknown,
    NeverRan,
}

fn end_of(result: Result<Reply, CallError>) -> End {
    match result {
        Ok(reply) => End::Ok(reply),
        Err(CallError::FunctionFailed { code, message }) => End::Failed(code, message),
        Err(CallError::WorkerLost | CallError::ConnectionLost { may_have_run: true }) => End::Unknown,
        Err(
            CallError::ConnectionLost { may_have_run: false }
            | CallError::Unavailable { .. }
            | CallError::Overloaded { .. }
            | CallError::Interrupted,
        ) => End::NeverRan,
        Err(error) => panic!("{error}"),
    }
}

impl Correspondence {
    pub(crate) fn new(client: &Client, from: &str, to: &str, key: &str) -> Self {
        let open = |name| client.process(process(name)).unwrap();
        Self::between(open(from), open(to), [from, to], key)
    }

    /// Between two processes that may be on different hosts.
    pub(crate) fn between(sender: Process, receiver: Process, [from, to]: [&str; 2], key: &str) -> Self {
        Self {
            from: sender,
            to: receiver,
            names: [from.to_owned(), to.to_owned()],
            key: key.to_owned(),
            next: AtomicU64::new(0),
            noted: AtomicU64::new(0),
            acknowledged: Mutex::default(),
            refused: Mutex::default(),
        }
    }

    /// Sends that were acknowledged so far.
    pub(crate) fn acknowledged(&self) -> usize {
        self.acknowledged.lock().unwrap().len()
    }

    /// Numbers that were noted so far, as far as the test was told.
    pub(crate) fn noted(&self) -> u64 {
        self.noted.load(Ordering::Relaxed)
    }

    /// Sends numbers until told to stop.
    pub(crate) fn send_until(&self, over: &AtomicBool) {
        while !over.load(Ordering::Relaxed) {
            if self.acknowledged() as u64 > self.noted() + UNDERWAY_MAX {
                std::thread::sleep(Duration::from_millis(1));
                continue;
            }
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let input = format!("{} {} {number}", self.names[1], self.key);
            match end_of(self.from.call("pass").payload(input.as_bytes()).deadline(PATIENCE).send()) {
                End::Ok(_) => drop(self.acknowledged.lock().unwrap().insert(number)),
                End::Failed(code, message) => {
                    println!("{number} under {} was refused: {code:#x} {message}", self.key);
                    self.refused.lock().unwrap().insert(number);
                    std::thread::sleep(Duration::from_millis(5));
                }
                End::NeverRan => drop(self.refused.lock().unwrap().insert(number)),
                End::Unknown => {}
            }
        }
    }

    /// Receives one number; false if none came.
    fn note(&self, ms: u64) -> bool {
        let input = format!("{} {} {ms}", self.names[0], self.key);
        match end_of(self.to.call("note").payload(input.as_bytes()).deadline(PATIENCE).send()) {
            End::Ok(reply) if reply.as_slice().is_empty() => false,
            End::Ok(_) => {
                self.noted.fetch_add(1, Ordering::Relaxed);
                true
            }
            End::Failed(WRONG, message) => panic!("{}: {message}", self.key),
            End::Failed(code, message) => {
                println!("receiving under {} failed: {code:#x} {message}", self.key);
                std::thread::sleep(Duration::from_millis(5));
                false
            }
            End::NeverRan => false,
            // What it received is noted and gone, or comes again.
            End::Unknown => {
                self.noted.fetch_add(1, Ordering::Relaxed);
                true
            }
        }
    }

    /// Receives numbers until told to stop.
    pub(crate) fn note_until(&self, over: &AtomicBool) {
        while !over.load(Ordering::Relaxed) {
            self.note(20);
        }
    }

    /// Receives what is left, and compares what arrived with what must have arrived.
    pub(crate) fn check(&self) {
        let acknowledged = self.acknowledged.lock().unwrap();
        let mut seen = BTreeSet::new();
        eventually("every acknowledged message arrives", || {
            while self.note(0) {}
            seen = self.seen();
            acknowledged.is_subset(&seen)
        });
        let refused = self.refused.lock().unwrap();
        let wrong: Vec<_> = refused.intersection(&seen).collect();
        assert!(wrong.is_empty(), "{wrong:?} under {} arrived, and were refused", self.key);
        println!(
            "{}: {} sent, {} acknowledged, {} refused, {} arrived",
            self.key,
            self.next.load(Ordering::Relaxed),
            acknowledged.len(),
            refused.len(),
            seen.len()
        );
    }

    fn seen(&self) -> BTreeSet<u64> {
        let mut seen = BTreeSet::new();
        for first in (0..self.next.load(Ordering::Relaxed)).step_by(NUMBERS_PER_OBJECT) {
            let input = format!("{} {} {first}", self.names[0], self.key);
            let bits = self.to.call("noted").payload(input.as_bytes()).deadline(PATIENCE).send().unwrap();
            let bits = bits.as_slice().iter().flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1 == 1));
            seen.extend((first..).zip(bits).filter(|(_, is_set)| *is_set).map(|(number, _)| number));
        }
        seen
    }
}

/// Lets correspondents work while `body` does harm, then compares.
pub(crate) fn correspond(correspondences: &[Correspondence], body: impl FnOnce()) {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let workers: Vec<_> = correspondences
            .iter()
            .flat_map(|one| {
                let over = &over;
                [scope.spawn(move || one.send_until(over)), scope.spawn(move || one.note_until(over))]
            })
            .collect();
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
        over.store(true, Ordering::Relaxed);
        let ends: Vec<_> = workers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        ends.into_iter().for_each(|end| end.unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
    });
    correspondences.iter().for_each(Correspondence::check);
}
