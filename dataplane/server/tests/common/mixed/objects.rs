//! Who puts, gets, changes, lists and deletes objects, from outside and through functions, and knows what must be there.
//!
//! An owner's keys are written by nobody else, one operation after the other: after one that was acknowledged there is one
//! thing that a key can hold; after one whose end is unknown there are two. Versions that an owner is told of one process
//! ascend. Counts are changed by all owners at once: each must be at least what was acknowledged, and at most that and what may
//! have happened.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use praas_client::{Condition, Process, Written};

use super::ends::End;
use super::functions::{Count, letter, number_of};
use super::tally::Tally;
use crate::common::PATIENCE;
use crate::common::random::Random;

/// Keys of one owner in one process.
const KEYS: u64 = 6;

/// What a key may hold.
#[derive(Debug)]
struct Holding {
    possible: BTreeSet<Option<u64>>,
    /// Version of what is there, if both are known.
    version: Option<u64>,
}

impl Default for Holding {
    fn default() -> Self {
        Self { possible: [None].into(), version: None }
    }
}

impl Holding {
    fn became(&mut self, number: Option<u64>, version: Option<u64>) {
        self.possible = [number].into();
        self.version = version;
    }

    fn may_be(&mut self, number: Option<u64>) {
        self.possible.insert(number);
        self.version = None;
    }
}

/// An owner of keys in some processes.
pub(crate) struct Owner {
    name: String,
    processes: Vec<Process>,
    random: Random,
    next_number: u64,
    holdings: BTreeMap<(usize, u64), Holding>,
    /// Highest version that was told, by process.
    versions: Vec<u64>,
    pub(crate) operations: Tally,
}

/// Counts that several owners change, one a process and way.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) acknowledged: AtomicU64,
    pub(crate) perhaps: AtomicU64,
}

impl Counts {
    pub(crate) fn note<T>(&self, end: &End<T>) {
        match end {
            End::Done(_) | End::LetGo(_) => self.acknowledged.fetch_add(1, Ordering::Relaxed),
            End::Unsure => self.perhaps.fetch_add(1, Ordering::Relaxed),
            End::Refused(_) => 0,
        };
    }

    /// Compares with the object itself.
    pub(crate) fn check(&self, process: &Process, key: &str) {
        let found = process.state().deadline(PATIENCE).get_as::<Count>(key).unwrap();
        let count = found.map_or(0, |count| count.get().unwrap().count.to_native());
        let (least, perhaps) = (self.acknowledged.load(Ordering::Relaxed), self.perhaps.load(Ordering::Relaxed));
        let id = process.id();
        assert!(
            (least..=least + perhaps).contains(&count),
            "{key} of {id}: {least} and perhaps {perhaps} were counted, it says {count}"
        );
    }
}

impl Owner {
    pub(crate) fn new(name: String, processes: Vec<Process>, seed: u64) -> Self {
        let versions = vec![0; processes.len()];
        let random = Random::new(seed);
        let (holdings, operations) = (BTreeMap::new(), Tally::default());
        Self { name, processes, random, next_number: 0, holdings, versions, operations }
    }

    /// Works until told to stop. `counts`: one for each process.
    pub(crate) fn work_until(&mut self, over: &AtomicBool, counts: &[[Counts; 2]]) {
        while !over.load(Ordering::Relaxed) {
            let process = usize::try_from(self.random.below(self.processes.len() as u64)).unwrap();
            let slot = self.random.below(KEYS);
            match self.random.below(12) {
                0..=2 => self.put(process, slot),
                3 | 4 => self.put_on_condition(process, slot),
                5 => self.delete(process, slot),
                6 | 7 => self.get(process, slot),
                8 => self.list(process),
                9 | 10 => self.bump(process, &counts[process][0]),
                _ => self.count_from_outside(process, &counts[process][1]),
            }
        }
    }

    fn key(&self, slot: u64) -> String {
        format!("{}/{slot}", self.name)
    }

    fn call(&self, process: usize, function: &str, input: &str) -> End<Vec<u8>> {
        let call = self.processes[process].call(function).payload(input.as_bytes()).deadline(PATIENCE);
        End::of(&format!("{function} {input}"), call.send()).map(|reply| reply.as_slice().to_vec())
    }

    /// A number that no object of this owner had.
    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number * 64 + self.random.below(64)
    }

    fn settle(&mut self, process: usize, slot: u64, number: Option<u64>, end: &End<Option<u64>>) {
        self.operations.note(end);
        let holding = self.holdings.entry((process, slot)).or_default();
        match end {
            End::Done(version) => {
                holding.became(number, *version);
                if let Some(version) = *version {
                    let before = std::mem::replace(&mut self.versions[process], version);
                    assert!(version > before, "{}: version {version} came after {before}", self.name);
                }
            }
            End::Unsure => holding.may_be(number),
            End::Refused(_) | End::LetGo(_) => {}
        }
    }

    fn put(&mut self, process: usize, slot: u64) {
        let (key, number) = (self.key(slot), self.number());
        let end = match self.random.below(3) {
            0 => End::of_state(&key, self.processes[process].state().deadline(PATIENCE).put(&key, letter(number))),
            way => {
                let function = ["", "store", "build"][usize::try_from(way).unwrap()];
                self.call(process, function, &format!("{key} {number}")).map(|version| first_number(&version))
            }
        };
        self.settle(process, slot, Some(number), &end.map(Some));
    }

    /// A put that must be refused, or one that must not.
    fn put_on_condition(&mut self, process: usize, slot: u64) {
        let (key, number) = (self.key(slot), self.number());
        let fits = self.random.below(2) == 0;
        let holding = self.holdings.entry((process, slot)).or_default();
        let only = holding.possible.first().filter(|_| holding.possible.len() == 1);
        let condition = match (only, holding.version) {
            (Some(None), _) if fits => Condition::Absent,
            (Some(None), _) => Condition::Version(1),
            (Some(Some(_)), Some(version)) if fits => Condition::Version(version),
            (Some(Some(_)), Some(version)) => Condition::Version(version + (1 << 40)),
            (Some(Some(_)), None) if !fits => Condition::Absent,
            _ => return self.get(process, slot),
        };
        let state = self.processes[process].state().deadline(PATIENCE);
        let end = match End::of_state(&key, state.put_if(&key, letter(number), condition)) {
            End::Done(Written::Done { version }) => {
                assert!(fits, "{key} was put on {condition:?}");
                End::Done(Some(version))
            }
            End::Done(Written::Refused { current }) => {
                assert!(!fits, "{key} was not put on {condition:?}, which it has: it has {current}");
                End::Refused(String::new())
            }
            // One that does not fit does nothing, however it ends.
            End::Unsure if !fits => End::Refused(String::new()),
            other => other.map(|_| None),
        };
        self.settle(process, slot, Some(number), &end);
    }

    fn delete(&mut self, process: usize, slot: u64) {
        let key = self.key(slot);
        let end = match self.random.below(2) {
            0 => End::of_state(&key, self.processes[process].state().deadline(PATIENCE).delete(&key)),
            _ => self.call(process, "remove", &key).map(|was| was == [1]),
        };
        if let End::Done(was_there) = end {
            let possible = &self.holdings.entry((process, slot)).or_default().possible;
            let may_be = possible.iter().any(|number| number.is_some() == was_there);
            assert!(may_be, "{key}: deleted {was_there}, it was one of {possible:?}");
        }
        self.settle(process, slot, None, &end.map(|_| None));
    }

    fn get(&mut self, process: usize, slot: u64) {
        let key = self.key(slot);
        let end = match self.random.below(2) {
            0 => End::of_state(&key, self.processes[process].state().deadline(PATIENCE).get(&key)).map(|found| {
                found.map(|value| {
                    (
                        number_of(&value).unwrap_or_else(|| panic!("{key} is torn: {} bytes", value.len())),
                        value.version(),
                    )
                })
            }),
            _ => self
                .call(process, "fetch", &key)
                .map(|found| (!found.is_empty()).then(|| (first_number(&found), first_number(&found[8..])))),
        };
        self.operations.note(&end);
        let End::Done(found) = end else { return };
        let holding = self.holdings.entry((process, slot)).or_default();
        let number = found.map(|(number, _)| number);
        assert!(holding.possible.contains(&number), "{key} is {number:?}, it must be one of {:?}", holding.possible);
        let version = found.map(|(_, version)| version);
        assert!(
            holding.version.is_none() || holding.version == version,
            "{key} has {version:?}, its put said {:?}",
            holding.version
        );
        holding.became(number, version);
        self.versions[process] = self.versions[process].max(version.unwrap_or_default());
    }

    fn list(&mut self, process: usize) {
        let prefix = format!("{}/", self.name);
        let state = self.processes[process].state().deadline(PATIENCE);
        let listed: Result<Vec<_>, _> = state.list(&prefix).unwrap().collect();
        let end = End::of_state(&prefix, listed);
        self.operations.note(&end);
        let End::Done(listed) = end else { return };
        let listed: BTreeSet<String> = listed.into_iter().map(|object| object.key).collect();
        for slot in 0..KEYS {
            let possible = &self.holdings.entry((process, slot)).or_default().possible;
            let is_there = listed.contains(&format!("{prefix}{slot}"));
            let may_be = possible.iter().any(|number| number.is_some() == is_there);
            assert!(may_be, "{prefix}{slot}: listed {is_there}, it must be one of {possible:?}");
        }
    }

    fn bump(&mut self, process: usize, counts: &Counts) {
        let end = self.call(process, "bump", "counts/inside");
        counts.note(&end);
        self.operations.note(&end);
    }

    /// One step of a count that several change with conditions: each step must be refused or counted.
    fn count_from_outside(&mut self, process: usize, counts: &Counts) {
        let state = self.processes[process].state().deadline(PATIENCE);
        let key = "counts/outside";
        let End::Done(found) = End::of_state(key, state.get_as::<Count>(key)) else { return };
        let (count, condition) = match &found {
            Some(value) => (value.get().unwrap().count.to_native(), Condition::Version(value.version())),
            None => (0, Condition::Absent),
        };
        let end = End::of_state(key, state.put_as_if(key, &Count { count: count + 1 }, condition));
        let end = match end {
            End::Done(Written::Refused { .. }) => End::Refused(String::new()),
            other => other,
        };
        counts.note(&end);
        self.operations.note(&end);
    }

    /// Looks at every key.
    pub(crate) fn check(&mut self) {
        for process in 0..self.processes.len() {
            for slot in 0..KEYS {
                for _ in 0..2 {
                    self.get(process, slot);
                }
            }
            self.list(process);
        }
    }

    /// Takes all objects away.
    pub(crate) fn clear(&self) {
        for process in &self.processes {
            for slot in 0..KEYS {
                process.state().deadline(PATIENCE).delete(&self.key(slot)).unwrap();
            }
        }
    }
}

fn first_number(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(*bytes.first_chunk().expect("eight bytes"))
}
