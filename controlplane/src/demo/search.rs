//! Answering a query from the archived index, where it lies: documents that contain every term, ranked by BM25.
//!
//! 1. The rarest term leads: its postings are walked once, the others' only forward, by galloping.
//! 2. Before the hits are written out a query allocates nothing but the list of the best, bounded by its limit.
//! 3. Equal queries on equal indexes give equal results: ties go to the document added first.

use super::index::{ArchivedIndex, ArchivedPosting};
use super::limits::{QUERY_BYTES_MAX, QUERY_TERMS_MAX, SEARCH_HITS_MAX};
use super::messages::{ArchivedSearchQuery, Hit, SearchResult};
use super::snippet::snippet;
use super::tokenize::tokens;

/// BM25: how fast repeating a term in one document stops counting. The value usual in the literature.
const SATURATION: f32 = 1.2;

/// BM25: how much a long document's terms count less, from 0 to 1. The value usual in the literature.
const LENGTH_WEIGHT: f32 = 0.75;

/// Why a query was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SearchError {
    /// The text is too long.
    #[error("the query has {bytes} bytes, the limit is {bytes_max}; ask for fewer words")]
    QueryTooLong {
        /// Its bytes.
        bytes: usize,
        /// Bytes it may have.
        bytes_max: usize,
    },
    /// There are too many different terms.
    #[error("the query has more than {terms_max} different terms; ask for fewer words")]
    TooManyTerms {
        /// Terms it may have.
        terms_max: usize,
    },
}

impl ArchivedIndex {
    /// Searches, straight from the query's archived form. A query without any term matches nothing.
    ///
    /// # Errors
    /// The query is longer than [`QUERY_BYTES_MAX`] or has more than [`QUERY_TERMS_MAX`] different terms.
    pub fn search(&self, query: &ArchivedSearchQuery) -> Result<SearchResult, SearchError> {
        let limit = usize::try_from(query.limit.to_native()).unwrap_or(usize::MAX);
        let mut best = Best::with_limit(limit.min(SEARCH_HITS_MAX));
        let Some(mut terms) = Terms::find(self, query.text.as_str())? else {
            return Ok(SearchResult::default());
        };
        let scoring = Scoring::of(self);
        let mut matches_total = 0;
        terms.for_each_match(self, &scoring, |candidate| {
            matches_total += 1;
            best.offer(candidate);
        });
        Ok(SearchResult { hits: best.ranked.iter().map(|&found| self.hit(found)).collect(), matches_total })
    }

    fn hit(&self, found: Candidate) -> Hit {
        let document = self.document(found.document);
        let (line_number, start) = document.line_at(found.offset_bytes);
        let rest = &document.text.as_str()[start..];
        let line = rest.split('\n').next().unwrap_or(rest);
        Hit {
            path: document.path.as_str().to_owned(),
            score: found.score,
            line_number,
            line: snippet(line, found.offset_bytes as usize - start),
        }
    }
}

/// One term of a query, with the postings not yet walked.
#[derive(Clone, Copy, Default)]
struct Term<'a> {
    rest: &'a [ArchivedPosting],
    weight: f32,
}

/// The different terms of a query, the rarest first. They lie on the stack.
struct Terms<'a> {
    terms: [Term<'a>; QUERY_TERMS_MAX],
    len: usize,
}

impl<'a> Terms<'a> {
    /// The terms of `text`; none if there is no term, or one that no document contains.
    fn find(index: &'a ArchivedIndex, text: &str) -> Result<Option<Self>, SearchError> {
        if text.len() > QUERY_BYTES_MAX {
            return Err(SearchError::QueryTooLong { bytes: text.len(), bytes_max: QUERY_BYTES_MAX });
        }
        let mut found = Self { terms: [Term::default(); QUERY_TERMS_MAX], len: 0 };
        let mut buffer = String::new();
        for token in tokens(text) {
            match index.terms.get(token.term(&mut buffer)) {
                Some(postings) => found.push(postings)?,
                None => return Ok(None),
            }
        }
        for term in found.terms_mut() {
            term.weight = rarity(index.documents.len(), term.rest.len());
        }
        found.terms_mut().sort_unstable_by_key(|term| term.rest.len());
        Ok((found.len > 0).then_some(found))
    }

    fn push(&mut self, postings: &'a [ArchivedPosting]) -> Result<(), SearchError> {
        // Equal terms have the same list of postings: comparing addresses compares words.
        if self.terms_mut().iter().any(|term| std::ptr::eq(term.rest, postings)) {
            return Ok(());
        }
        let free = self.terms.get_mut(self.len).ok_or(SearchError::TooManyTerms { terms_max: QUERY_TERMS_MAX })?;
        free.rest = postings;
        self.len += 1;
        Ok(())
    }

    fn terms_mut(&mut self) -> &mut [Term<'a>] {
        &mut self.terms[..self.len]
    }

    /// Visits every document that contains all terms, in the order in which they were added.
    fn for_each_match(&mut self, index: &ArchivedIndex, scoring: &Scoring, mut visit: impl FnMut(Candidate)) {
        let Some((lead, others)) = self.terms_mut().split_first_mut() else {
            return;
        };
        for posting in lead.rest {
            let norm = scoring.norm(index.document(posting.document.to_native()).tokens.to_native());
            let lead_score = lead.weight * scoring.frequency(posting.frequency.to_native(), norm);
            match others_score(others, posting.document.to_native(), scoring, norm) {
                Others::Score(score) => visit(Candidate {
                    score: lead_score + score,
                    document: posting.document.to_native(),
                    offset_bytes: posting.offset_bytes.to_native(),
                }),
                Others::NotHere => {}
                Others::NoMore => return,
            }
        }
    }
}

enum Others {
    Score(f32),
    NotHere,
    NoMore,
}

fn others_score(others: &mut [Term<'_>], document: u32, scoring: &Scoring, norm: f32) -> Others {
    let mut score = 0.0;
    for term in others {
        term.rest = from_document(term.rest, document);
        match term.rest.first() {
            None => return Others::NoMore,
            Some(posting) if posting.document != document => return Others::NotHere,
            Some(posting) => score += term.weight * scoring.frequency(posting.frequency.to_native(), norm),
        }
    }
    Others::Score(score)
}

/// The postings from this document on: doubling steps, then a binary search within the last one.
fn from_document(postings: &[ArchivedPosting], document: u32) -> &[ArchivedPosting] {
    let before = |posting: &ArchivedPosting| posting.document < document;
    let mut end = 1;
    while postings.get(end - 1).is_some_and(before) {
        end *= 2;
    }
    let start = end / 2;
    let window = &postings[start..end.min(postings.len())];
    &postings[start + window.partition_point(before)..]
}

/// BM25's weight of a term that `found` of `documents` documents contain; always positive.
fn rarity(documents: usize, found: usize) -> f32 {
    let (documents, found) = (documents as f32, found as f32);
    ((documents - found + 0.5) / (found + 0.5)).ln_1p()
}

/// BM25's figures of one index, prepared for many documents.
struct Scoring {
    norm_base: f32,
    norm_per_token: f32,
}

impl Scoring {
    fn of(index: &ArchivedIndex) -> Self {
        let documents = index.documents.len().max(1) as f32;
        let tokens_mean = index.tokens.to_native().max(1) as f32 / documents;
        Self { norm_base: SATURATION * (1.0 - LENGTH_WEIGHT), norm_per_token: SATURATION * LENGTH_WEIGHT / tokens_mean }
    }

    fn norm(&self, document_tokens: u32) -> f32 {
        self.norm_base + self.norm_per_token * document_tokens as f32
    }

    fn frequency(&self, frequency: u32, norm: f32) -> f32 {
        let frequency = frequency as f32;
        frequency * (SATURATION + 1.0) / (frequency + norm)
    }
}

/// A document that matches, before its line is written out.
#[derive(Clone, Copy)]
struct Candidate {
    score: f32,
    document: u32,
    offset_bytes: u32,
}

/// The best candidates so far, best first; small enough that inserting by moving is the fastest way.
struct Best {
    ranked: Vec<Candidate>,
    limit: usize,
}

impl Best {
    fn with_limit(limit: usize) -> Self {
        Self { ranked: Vec::with_capacity(limit), limit }
    }

    /// Candidates come in the order of their documents, so an equal score ranks behind those already here.
    fn offer(&mut self, candidate: Candidate) {
        if self.ranked.len() == self.limit {
            match self.ranked.last() {
                Some(worst) if worst.score < candidate.score => drop(self.ranked.pop()),
                _ => return,
            }
        }
        let place = self.ranked.partition_point(|other| other.score >= candidate.score);
        self.ranked.insert(place, candidate);
    }
}

#[cfg(test)]
mod tests;
