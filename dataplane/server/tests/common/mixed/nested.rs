//! Who has functions call functions, with and without idempotency keys, and knows how often each must have run.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use praas_client::{CallError, IdempotencyKey, Process, Reply};

use super::ends::End;
use super::functions::Count;
use super::objects::Counts;
use super::tally::Tally;
use crate::common::PATIENCE;
use crate::common::random::Random;

/// Tries of a call with a key until somebody says how it ended.
const TRIES_MAX: u32 = 40;

/// What is known of a call with a key: how often it may have run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Runs {
    least: u64,
    most: u64,
}

/// A caller of nested calls.
pub(crate) struct Caller {
    name: String,
    processes: Vec<Process>,
    random: Random,
    /// Counted without keys, by process where it is counted.
    counts: Vec<Counts>,
    /// By process and key.
    keyed: BTreeMap<(usize, String), Runs>,
    pub(crate) operations: Tally,
}

impl Caller {
    pub(crate) fn new(name: String, processes: Vec<Process>, seed: u64) -> Self {
        let counts = processes.iter().map(|_| Counts::default()).collect();
        let (keyed, operations) = (BTreeMap::new(), Tally::default());
        Self { name, processes, random: Random::new(seed), counts, keyed, operations }
    }

    pub(crate) fn work_until(&mut self, over: &AtomicBool) {
        let mut turn = 0;
        while !over.load(Ordering::Relaxed) {
            turn += 1;
            let from = usize::try_from(self.random.below(self.processes.len() as u64)).unwrap();
            let to = usize::try_from(self.random.below(self.processes.len() as u64)).unwrap();
            match self.random.below(8) {
                0..=4 => self.count(from, to),
                5 => self.once_from_here(to, turn),
                _ => self.once(from, to, turn),
            }
        }
    }

    fn call(&self, from: usize, function: &str, input: &str) -> Result<Reply, CallError> {
        self.processes[from].call(function).payload(input.as_bytes()).deadline(PATIENCE).send()
    }

    fn count(&mut self, from: usize, to: usize) {
        const WAYS: [&str; 4] = ["invoke", "later", "around", "self"];
        let way = WAYS[usize::try_from(self.random.below(4)).unwrap()];
        let input = format!("{way} {} {}/plain", self.processes[to].id().process, self.name);
        let end = End::of(&format!("bump-there {input}"), self.call(from, "bump-there", &input));
        self.counts[to].note(&end);
        self.operations.note(&end);
    }

    /// A call with a key of one process to another, repeated until its end is known.
    fn once(&mut self, from: usize, to: usize, turn: u64) {
        let key = format!("{}/once-{turn}", self.name);
        let wants_rerun = self.random.below(3) == 0;
        let target = self.processes[to].id().process;
        let call = |this: &Self, rerun: bool| {
            let word = if rerun { "rerun" } else { "-" };
            this.call(from, "once-there", &format!("{target} {word} {key}"))
        };
        self.settle_once(to, &key, wants_rerun, call);
    }

    /// The same from outside.
    fn once_from_here(&mut self, to: usize, turn: u64) {
        let key = format!("{}/direct-{turn}", self.name);
        let wants_rerun = self.random.below(3) == 0;
        let name: IdempotencyKey = key.parse().unwrap();
        let call = |this: &Self, rerun: bool| {
            let call = this.processes[to].call("bump").payload(key.as_bytes()).deadline(PATIENCE).idempotency_key(name);
            if rerun { call.rerun_lost().send() } else { call.send() }
        };
        self.settle_once(to, &key, wants_rerun, call);
    }

    /// Every try may have run it, but none runs it a second time: unless the first was lost, and its repetition asks for that.
    fn settle_once(
        &mut self,
        to: usize,
        key: &str,
        wants_rerun: bool,
        call: impl Fn(&Self, bool) -> Result<Reply, CallError>,
    ) {
        let mut runs = Runs { least: 0, most: 0 };
        let mut unsure = 0;
        for _ in 0..TRIES_MAX {
            let end = End::of(key, call(self, wants_rerun));
            self.operations.note(&end);
            match end {
                End::Done(answer) => {
                    runs = Runs { least: 1, most: if wants_rerun { 1 + unsure } else { 1 } };
                    // Whoever asks again is told the same.
                    let again = End::of(key, call(self, wants_rerun));
                    self.operations.note(&again);
                    if let End::Done(again) = again {
                        assert_eq!(again.as_slice(), answer.as_slice(), "{key} was told twice");
                    }
                    break;
                }
                // Without a word about the callee, it may be lost: whoever does not want it to run again cannot know more.
                End::Unsure => {
                    unsure += 1;
                    runs.most = if wants_rerun { unsure } else { 1 };
                    if !wants_rerun && unsure == 3 {
                        break;
                    }
                }
                End::Refused(_) | End::LetGo(_) => {}
            }
        }
        self.keyed.insert((to, key.to_owned()), runs);
    }

    /// Compares with what the processes counted.
    pub(crate) fn check(&self) {
        for (process, counts) in self.processes.iter().zip(&self.counts) {
            counts.check(process, &format!("{}/plain", self.name));
        }
        for ((to, key), runs) in &self.keyed {
            let found = self.processes[*to].state().deadline(PATIENCE).get_as::<Count>(key).unwrap();
            let count = found.map_or(0, |count| count.get().unwrap().count.to_native());
            assert!((runs.least..=runs.most).contains(&count), "{key} ran {count} times, it must be {runs:?}");
        }
    }

    /// Takes what was counted away.
    pub(crate) fn clear(&self) {
        for (to, key) in self.keyed.keys() {
            self.processes[*to].state().deadline(PATIENCE).delete(key).unwrap();
        }
    }

    /// Calls with keys that were made.
    pub(crate) fn keyed_calls(&self) -> usize {
        self.keyed.len()
    }
}
