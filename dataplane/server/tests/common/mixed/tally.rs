//! How many operations of an actor ended in which way.

use std::collections::BTreeMap;
use std::sync::Mutex;

use super::ends::End;

/// Ends, counted.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Tally {
    pub(crate) done: u64,
    pub(crate) refused: u64,
    pub(crate) unsure: u64,
}

impl Tally {
    pub(crate) fn note<T>(&mut self, end: &End<T>) {
        match end {
            End::Done(_) | End::LetGo(_) => self.done += 1,
            End::Refused(_) => self.refused += 1,
            End::Unsure => self.unsure += 1,
        }
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.done += other.done;
        self.refused += other.refused;
        self.unsure += other.unsure;
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { done, refused, unsure } = self;
        write!(formatter, "{done} acknowledged, {refused} refused, {unsure} unknown")
    }
}

/// Why operations were refused: reasons that differ in numbers alone are one, of which the last is kept, and counted.
#[derive(Debug, Default)]
pub(crate) struct Reasons(Mutex<BTreeMap<String, (u64, String)>>);

impl Reasons {
    pub(crate) fn note(&self, words: &str) {
        let without_numbers = words.replace(|one: char| one.is_ascii_digit(), "");
        let mut reasons = self.0.lock().unwrap();
        let (count, last) = reasons.entry(without_numbers).or_default();
        *count += 1;
        words.clone_into(last);
    }
}

impl std::fmt::Display for Reasons {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let reasons = self.0.lock().unwrap();
        reasons.values().try_for_each(|(count, last)| write!(formatter, "\n  {count} × {last}"))
    }
}
