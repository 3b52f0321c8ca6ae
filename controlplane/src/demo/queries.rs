//! Choosing queries for any corpus: words that occur in some documents and not in most.
//!
//! The client counts words as batches pass by and asks for a few at the end. The same batches give the same queries,
//! each query matches at least one document, and memory is bounded by [`CENSUS_WORDS_MAX`].

use std::cmp::Ordering;
use std::collections::HashMap;

use super::limits::{CENSUS_WORDS_MAX, QUERY_WORD_BYTES_MAX, QUERY_WORD_BYTES_MIN};
use super::messages::AddBatch;
use super::tokenize::tokens;

/// Shares of the documents that the chosen words should occur in: rare, middling and frequent ones in turn.
const DOCUMENT_SHARES: [f64; 4] = [0.05, 0.02, 0.1, 0.2];

/// Counts in how many documents each word occurs.
#[derive(Debug, Clone, Default)]
pub struct WordCensus {
    words: HashMap<String, WordFigures>,
    documents: u32,
}

#[derive(Debug, Clone, Copy)]
struct WordFigures {
    documents: u32,
    last_document: u32,
    occurrences: u64,
}

impl WordCensus {
    /// A census of nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts the words of a batch. Each document should be shown once.
    pub fn observe(&mut self, batch: &AddBatch) {
        for document in &batch.documents {
            self.documents = self.documents.saturating_add(1);
            self.observe_text(&document.text);
        }
    }

    /// At most `count` different queries, of one word and of two in turn; two words occur together in some document.
    /// Fewer where the corpus has fewer words that fit, none where it has none.
    #[must_use]
    pub fn queries(&self, count: usize) -> Vec<String> {
        let mut candidates = self.candidates();
        let mut queries = Vec::new();
        for turn in 0..count {
            let share = DOCUMENT_SHARES[turn / 2 % DOCUMENT_SHARES.len()];
            let wanted = (f64::from(self.documents) * share).max(1.0);
            let Some(first) = take_nearest(&mut candidates, wanted, None) else {
                break;
            };
            let together = Some(first.figures.last_document);
            let second = (turn % 2 == 1).then(|| take_nearest(&mut candidates, wanted, together)).flatten();
            queries.push(match second {
                Some(second) => format!("{} {}", first.word, second.word),
                None => first.word.to_owned(),
            });
        }
        queries
    }

    fn observe_text(&mut self, text: &str) {
        let mut buffer = String::new();
        for token in tokens(text).filter(|token| is_readable(token.text)) {
            let word = token.term(&mut buffer);
            if let Some(figures) = self.words.get_mut(word) {
                figures.meet(self.documents);
            } else if self.words.len() < CENSUS_WORDS_MAX {
                let figures = WordFigures::first_met(self.documents);
                self.words.insert(word.to_owned(), figures);
            }
        }
    }

    fn candidates(&self) -> Vec<Candidate<'_>> {
        self.words.iter().map(|(word, &figures)| Candidate { word, figures }).collect()
    }
}

impl WordFigures {
    fn first_met(document: u32) -> Self {
        Self { documents: 1, last_document: document, occurrences: 1 }
    }

    fn meet(&mut self, document: u32) {
        self.occurrences += 1;
        if self.last_document != document {
            self.last_document = document;
            self.documents += 1;
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Candidate<'a> {
    word: &'a str,
    figures: WordFigures,
}

impl Candidate<'_> {
    /// Nearer to the wanted number of documents first, then more occurrences, then by the alphabet: a total order.
    fn compare(&self, other: &Self, documents_wanted: f64) -> Ordering {
        let distance = |candidate: &Self| (f64::from(candidate.figures.documents) / documents_wanted).ln().abs();
        distance(self)
            .total_cmp(&distance(other))
            .then_with(|| other.figures.occurrences.cmp(&self.figures.occurrences))
            .then_with(|| self.word.cmp(other.word))
    }
}

/// Takes the best candidate out; with `together`, the best one that occurs in that document too.
fn take_nearest<'a>(
    candidates: &mut Vec<Candidate<'a>>,
    documents_wanted: f64,
    together: Option<u32>,
) -> Option<Candidate<'a>> {
    let place = candidates
        .iter()
        .enumerate()
        .filter(|(_, candidate)| together.is_none_or(|last| candidate.figures.last_document == last))
        .min_by(|(_, one), (_, other)| one.compare(other, documents_wanted))
        .map(|(place, _)| place)?;
    Some(candidates.swap_remove(place))
}

/// Whether a person would recognise this as a word: letters only, neither short nor long.
fn is_readable(token: &str) -> bool {
    (QUERY_WORD_BYTES_MIN..=QUERY_WORD_BYTES_MAX).contains(&token.len()) && token.chars().all(char::is_alphabetic)
}

#[cfg(test)]
mod tests;
