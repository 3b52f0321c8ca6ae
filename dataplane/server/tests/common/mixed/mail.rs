//! Who sends and receives, and knows what must arrive.
//!
//! A stream is what one process sends another: numbers that ascend. Its receiver notes each number in its state before it lets
//! it go. So at the end the state must show every number whose send was acknowledged, none that was refused, and none that
//! nobody sent; the function that receives sees to it that they come in order, and here it is seen that nothing comes again
//! after it was let go.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use praas_client::Process;

use super::ends::End;
use super::functions::NUMBERS_PER_OBJECT;
use super::mail_functions::{TAKEN, UNKNOWN};
use super::tally::{Reasons, Tally};
use crate::common::random::Random;
use crate::common::{PATIENCE, eventually};

/// Key of all messages.
const KEY: &str = "mail";

/// Numbers that may be on their way in one stream, so that it stays far below what a mailbox takes.
const UNDERWAY_MAX: u64 = 120;

/// What is known of the numbers of one stream.
#[derive(Debug, Default)]
struct Stream {
    acknowledged: Mutex<BTreeSet<u64>>,
    refused: Mutex<BTreeSet<u64>>,
    unsure: Mutex<BTreeSet<u64>>,
    released: Mutex<BTreeSet<u64>>,
    /// Receives whose end is unknown: each may have let two numbers go.
    released_unsure: AtomicU64,
}

impl Stream {
    fn underway(&self) -> u64 {
        let unsure = self.unsure.lock().unwrap().len() as u64;
        let gone = self.released.lock().unwrap().len() as u64 + 2 * self.released_unsure.load(Ordering::Relaxed);
        (self.acknowledged.lock().unwrap().len() as u64 + unsure).saturating_sub(gone)
    }

    fn note(&self, number: u64, end: &End<()>) {
        let numbers = match end {
            End::Done(()) | End::LetGo(_) => &self.acknowledged,
            End::Refused(_) => &self.refused,
            End::Unsure => &self.unsure,
        };
        assert!(numbers.lock().unwrap().insert(number), "{number} was sent twice");
    }
}

/// All that some processes send each other and themselves.
pub(crate) struct Mail {
    names: Vec<String>,
    /// By sender and receiver.
    streams: BTreeMap<(usize, usize), Stream>,
    pub(crate) sends: Mutex<Tally>,
    pub(crate) receives: Mutex<Tally>,
    /// Why sends and receives were refused.
    pub(crate) refusals: Reasons,
}

impl Mail {
    pub(crate) fn between(names: Vec<String>) -> Self {
        let pairs = (0..names.len()).flat_map(|from| (0..names.len()).map(move |to| (from, to)));
        Self {
            streams: pairs.map(|pair| (pair, Stream::default())).collect(),
            names,
            sends: Mutex::default(),
            receives: Mutex::default(),
            refusals: Reasons::default(),
        }
    }

    fn index(&self, name: &str) -> usize {
        self.names.iter().position(|one| one == name).expect("a process of the load")
    }

    /// Sends and receives that were acknowledged so far.
    pub(crate) fn progress(&self) -> (u64, u64) {
        (self.sends.lock().unwrap().done, self.receives.lock().unwrap().done)
    }

    fn call(&self, process: &Process, function: &str, input: &str) -> End<Vec<u8>> {
        let call = process.call(function).payload(input.as_bytes()).deadline(PATIENCE);
        End::of(&format!("{function} {input} of {}", process.id()), call.send()).map(|reply| reply.as_slice().to_vec())
    }

    /// Sends from one process to all until told to stop.
    pub(crate) fn send_until(&self, over: &AtomicBool, from: usize, process: &Process, mut random: Random) {
        let mut next = 0;
        while !over.load(Ordering::Relaxed) {
            let to = usize::try_from(random.below(self.names.len() as u64)).unwrap();
            if self.streams[&(from, to)].underway() > UNDERWAY_MAX {
                std::thread::sleep(Duration::from_millis(1));
                continue;
            }
            let count = match random.below(6) {
                0 => self.announce(from, process, next),
                1 => self.pass_many(from, to, process, next, 1 + random.below(20)),
                _ => self.pass(from, to, process, next),
            };
            next += count;
        }
    }

    fn note_sent(&self, from: usize, to: usize, number: u64, end: &End<()>) {
        self.streams[&(from, to)].note(number, end);
        self.sends.lock().unwrap().note(end);
        if let End::Refused(words) = end {
            self.refusals.note(words);
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn pass(&self, from: usize, to: usize, process: &Process, number: u64) -> u64 {
        let end = self.call(process, "pass", &format!("{} {KEY} {number}", self.names[to]));
        self.note_sent(from, to, number, &end.map(drop));
        1
    }

    fn pass_many(&self, from: usize, to: usize, process: &Process, first: u64, count: u64) -> u64 {
        match self.call(process, "pass-many", &format!("{} {KEY} {first} {count}", self.names[to])) {
            End::Done(answer) => {
                let answer = String::from_utf8(answer).unwrap();
                let [sent, unsure, why] = answer.splitn(3, ' ').collect::<Vec<_>>()[..] else { panic!("{answer}") };
                let [sent, unsure]: [u64; 2] = [sent, unsure].map(|count| count.parse().unwrap());
                for index in 0..count {
                    let end = match index {
                        index if index < sent => End::Done(()),
                        index if index < sent + unsure => End::Unsure,
                        _ => End::Refused(why.to_owned()),
                    };
                    self.note_sent(from, to, first + index, &end);
                }
            }
            End::Refused(why) => {
                (first..first + count).for_each(|number| self.note_sent(from, to, number, &End::Refused(why.clone())));
            }
            End::Unsure | End::LetGo(_) => {
                (first..first + count).for_each(|number| self.note_sent(from, to, number, &End::Unsure));
            }
        }
        count
    }

    fn announce(&self, from: usize, process: &Process, number: u64) -> u64 {
        let end = self.call(process, "announce", &format!("{KEY} {number} {}", self.names.join(" ")));
        for to in 0..self.names.len() {
            let end = match &end {
                End::Done(answer) if answer[to] == TAKEN => End::Done(()),
                End::Done(answer) if answer[to] == UNKNOWN => End::Unsure,
                End::Done(_) => End::Refused("one of several".into()),
                End::Refused(why) => End::Refused(why.clone()),
                End::Unsure | End::LetGo(_) => End::Unsure,
            };
            self.note_sent(from, to, number, &end);
        }
        1
    }

    /// Receives at one process until told to stop.
    pub(crate) fn receive_until(&self, over: &AtomicBool, to: usize, process: &Process, mut random: Random) {
        const WAYS: [&str; 8] =
            ["end", "end", "end", "accept", "accept-and-fail", "two", "accept-one-and-fail", "fail"];
        while !over.load(Ordering::Relaxed) {
            let way = WAYS[usize::try_from(random.below(WAYS.len() as u64)).unwrap()];
            let sources = match random.below(4) {
                0 => self.names[usize::try_from(random.below(self.names.len() as u64)).unwrap()].clone(),
                1 => self.names[1..].join(" "),
                _ => "*".to_owned(),
            };
            self.receive(to, process, way, 20, &sources);
        }
    }

    /// Receives once; false if nothing came.
    fn receive(&self, to: usize, process: &Process, way: &str, ms: u64, sources: &str) -> bool {
        let end = self.call(process, "note", &format!("{way} {KEY} {ms} {sources}"));
        let words = match &end {
            End::Done(words) => String::from_utf8(words.clone()).unwrap(),
            End::LetGo(words) => words.clone(),
            End::Refused(words) => {
                if !words.ends_with("as asked") {
                    self.refusals.note(words);
                    self.receives.lock().unwrap().note(&end);
                }
                return true;
            }
            End::Unsure => {
                self.receives.lock().unwrap().note(&end);
                for from in 0..self.names.len() {
                    self.streams[&(from, to)].released_unsure.fetch_add(1, Ordering::Relaxed);
                }
                return true;
            }
        };
        let mut words = words.split(' ').filter(|word| !word.is_empty());
        let Some(source) = words.next() else { return false };
        self.receives.lock().unwrap().note(&end);
        let stream = &self.streams[&(self.index(source), to)];
        for number in words.map_while(|word| word.parse::<u64>().ok()) {
            let is_new = stream.released.lock().unwrap().insert(number);
            assert!(is_new, "{number} of {source} came to {} after it had been let go", self.names[to]);
        }
        true
    }

    /// Receives what is left, and compares what arrived with what must have arrived.
    pub(crate) fn check(&self, processes: &[Process]) {
        for (to, receiver) in processes.iter().enumerate() {
            eventually("the mailbox is empty", || {
                while self.receive(to, receiver, "end", 0, "*") {}
                !self.receive(to, receiver, "end", 50, "*")
            });
            for from in 0..self.names.len() {
                self.check_stream(from, to, receiver);
            }
        }
    }

    fn check_stream(&self, from: usize, to: usize, receiver: &Process) {
        let stream = &self.streams[&(from, to)];
        let words = format!("from {} to {}", self.names[from], self.names[to]);
        let acknowledged = stream.acknowledged.lock().unwrap();
        let refused = stream.refused.lock().unwrap();
        let unsure = stream.unsure.lock().unwrap();
        let last = [&*acknowledged, &*refused, &*unsure].into_iter().filter_map(|numbers| numbers.last()).max();
        let mut seen = BTreeSet::new();
        for first in (0..=last.copied().unwrap_or_default()).step_by(NUMBERS_PER_OBJECT) {
            let call = receiver.call("noted").payload(format!("{} {first}", self.names[from])).deadline(PATIENCE);
            let bits = call.send().unwrap();
            let bits = bits.as_slice().iter().flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1 == 1));
            seen.extend((first..).zip(bits).filter(|(_, is_set)| *is_set).map(|(number, _)| number));
        }
        let lost: Vec<_> = acknowledged.difference(&seen).collect();
        assert!(lost.is_empty(), "{words}: {lost:?} were acknowledged and are lost");
        let wrong: Vec<_> =
            seen.iter().filter(|number| !acknowledged.contains(number) && !unsure.contains(number)).collect();
        assert!(wrong.is_empty(), "{words}: {wrong:?} arrived and were refused or never sent");
        let released = stream.released.lock().unwrap();
        assert!(released.is_subset(&seen), "{words}: something was let go that was not noted");
    }
}
