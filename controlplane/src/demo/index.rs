//! The index: built by one worker in memory of its own, published as an object of the process's state, and searched there, as
//! an archive, by every worker.
//!
//! 1. The postings of a term are sorted by document and hold each document at most once; no term has none.
//! 2. A document's number is its place in `documents` and never changes; a newer text under the same path takes it over.
//! 3. `offset_bytes` of a posting is where the term first stands in the text, and lies within it.
//! 4. A batch is checked before any of it is added: a refused batch changes nothing.

use std::collections::{HashMap, HashSet};
use std::{iter, mem};

use praas_function::StateType;
use rkyv::{Archive, Deserialize, Serialize};

use super::limits::{DOCUMENTS_MAX, FILE_BYTES_MAX, INDEX_TEXT_BYTES_MAX, PATH_BYTES_MAX};
use super::messages::{AddSummary, ArchivedAddBatch, ArchivedDocument, IndexSummary};
use super::tokenize::tokens;

/// Why a batch was refused; the index is unchanged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddError {
    /// The index would hold more documents than it may.
    #[error("the index would hold {documents} documents, its limit is {documents_max}; index a smaller directory")]
    TooManyDocuments {
        /// Documents there would be.
        documents: usize,
        /// Documents there may be.
        documents_max: usize,
    },
    /// The index would hold more text than it may.
    #[error("the index would hold {bytes} bytes of text, its limit is {bytes_max}; index a smaller directory")]
    TooMuchText {
        /// Bytes of text there would be.
        bytes: u64,
        /// Bytes of text there may be.
        bytes_max: u64,
    },
    /// One document is too long.
    #[error(
        "document number {position} of the batch has {bytes} bytes of text, the limit is {bytes_max}; leave it out"
    )]
    DocumentTooLong {
        /// Its place in the batch, from 0.
        position: usize,
        /// Its bytes.
        bytes: usize,
        /// Bytes it may have.
        bytes_max: usize,
    },
    /// The path of one document is too long.
    #[error(
        "document number {position} of the batch has a path of {bytes} bytes, the limit is {bytes_max}; leave it out"
    )]
    PathTooLong {
        /// Its place in the batch, from 0.
        position: usize,
        /// Bytes of its path.
        bytes: usize,
        /// Bytes it may have.
        bytes_max: usize,
    },
}

/// One document that contains a term.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
#[rkyv(derive(Debug))]
pub struct Posting {
    pub(super) document: u32,
    pub(super) frequency: u32,
    pub(super) offset_bytes: u32,
}

/// A document as the index keeps it.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[rkyv(derive(Debug))]
pub struct IndexedDocument {
    pub(super) path: String,
    pub(super) text: String,
    pub(super) line_starts: Vec<u32>,
    pub(super) tokens: u32,
}

/// A full-text index over documents, in memory.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq)]
#[rkyv(derive(Debug))]
pub struct Index {
    pub(super) documents: Vec<IndexedDocument>,
    pub(super) terms: HashMap<String, Vec<Posting>>,
    pub(super) tokens: u64,
    numbers_by_path: HashMap<String, u32>,
    text_bytes: u64,
}

impl Index {
    /// An index of nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a batch, straight from its archived form; a document whose path is known replaces the older one.
    ///
    /// # Errors
    /// A limit would be passed; then nothing of the batch is added.
    pub fn add(&mut self, batch: &ArchivedAddBatch) -> Result<AddSummary, AddError> {
        self.check(batch)?;
        let terms_before = self.terms.len();
        let mut bytes = 0;
        for document in batch.documents.iter() {
            bytes += document.text.len() as u64;
            self.put(document);
        }
        Ok(AddSummary {
            documents: count(batch.documents.len()),
            // A replaced document may have taken more terms away than the batch brought.
            terms: count(self.terms.len().saturating_sub(terms_before)),
            bytes,
        })
    }

    /// What the index holds.
    #[must_use]
    pub fn summary(&self) -> IndexSummary {
        IndexSummary {
            documents: count(self.documents.len()),
            terms: count(self.terms.len()),
            tokens: self.tokens,
            bytes: self.text_bytes,
        }
    }

    fn check(&self, batch: &ArchivedAddBatch) -> Result<(), AddError> {
        let mut documents = self.documents.len();
        let mut bytes = self.text_bytes;
        let mut paths = HashSet::with_capacity(batch.documents.len());
        for (position, document) in batch.documents.iter().enumerate() {
            check_document(position, document)?;
            bytes += document.text.len() as u64;
            // Only the first of two equal paths replaces what is there; the second is counted in full, for safety.
            if paths.insert(document.path.as_str()) {
                match self.numbers_by_path.get(document.path.as_str()) {
                    Some(&number) => bytes -= self.document(number).text.len() as u64,
                    None => documents += 1,
                }
            }
        }
        if documents > DOCUMENTS_MAX {
            return Err(AddError::TooManyDocuments { documents, documents_max: DOCUMENTS_MAX });
        }
        if bytes > INDEX_TEXT_BYTES_MAX {
            return Err(AddError::TooMuchText { bytes, bytes_max: INDEX_TEXT_BYTES_MAX });
        }
        Ok(())
    }

    fn put(&mut self, document: &ArchivedDocument) {
        let path = document.path.as_str();
        let text = document.text.as_str();
        let number = match self.numbers_by_path.get(path) {
            Some(&number) => {
                self.forget_text(number);
                number
            }
            None => self.push_document(path),
        };
        let tokens = self.post_tokens(number, text);
        self.tokens += u64::from(tokens);
        self.text_bytes += text.len() as u64;
        let slot = &mut self.documents[number as usize];
        slot.tokens = tokens;
        slot.line_starts = line_starts(text);
        text.clone_into(&mut slot.text);
    }

    /// A new document without text; its number.
    fn push_document(&mut self, path: &str) -> u32 {
        let number = count(self.documents.len());
        self.numbers_by_path.insert(path.to_owned(), number);
        self.documents.push(IndexedDocument {
            path: path.to_owned(),
            text: String::new(),
            line_starts: Vec::new(),
            tokens: 0,
        });
        number
    }

    /// Takes a document's text out of the index and leaves it empty.
    fn forget_text(&mut self, number: u32) {
        let slot = &mut self.documents[number as usize];
        let text = mem::take(&mut slot.text);
        self.tokens -= u64::from(mem::take(&mut slot.tokens));
        self.text_bytes -= text.len() as u64;
        let mut buffer = String::new();
        for token in tokens(&text) {
            let term = token.term(&mut buffer);
            let Some(postings) = self.terms.get_mut(term) else {
                continue;
            };
            if let Ok(place) = place_of(postings, number) {
                postings.remove(place);
            }
            if postings.is_empty() {
                self.terms.remove(term);
            }
        }
    }

    /// Enters every token of `text` under its term; how many there were.
    fn post_tokens(&mut self, number: u32, text: &str) -> u32 {
        let mut buffer = String::new();
        let mut posted = 0;
        for token in tokens(text) {
            let term = token.term(&mut buffer);
            let offset_bytes = count(token.offset_bytes);
            match self.terms.get_mut(term) {
                Some(postings) => post(postings, number, offset_bytes),
                None => {
                    let first = Posting::first(number, offset_bytes);
                    self.terms.insert(term.to_owned(), vec![first]);
                }
            }
            posted += 1;
        }
        posted
    }

    fn document(&self, number: u32) -> &IndexedDocument {
        &self.documents[number as usize]
    }
}

impl StateType for Index {
    const NAME: &'static str = "index";
}

impl ArchivedIndex {
    /// What the index holds.
    #[must_use]
    pub fn summary(&self) -> IndexSummary {
        IndexSummary {
            documents: count(self.documents.len()),
            terms: count(self.terms.len()),
            tokens: self.tokens.to_native(),
            bytes: self.text_bytes.to_native(),
        }
    }

    pub(super) fn document(&self, number: u32) -> &ArchivedIndexedDocument {
        &self.documents[number as usize]
    }
}

impl ArchivedIndexedDocument {
    /// The number, from 1, and the start of the line that holds this byte.
    pub(super) fn line_at(&self, offset_bytes: u32) -> (u32, usize) {
        let line_number = self.line_starts.partition_point(|start| start.to_native() <= offset_bytes);
        let start = self.line_starts[line_number - 1].to_native();
        (count(line_number), start as usize)
    }
}

impl Posting {
    fn first(document: u32, offset_bytes: u32) -> Self {
        Self { document, frequency: 1, offset_bytes }
    }
}

fn check_document(position: usize, document: &ArchivedDocument) -> Result<(), AddError> {
    if document.text.len() > FILE_BYTES_MAX {
        return Err(AddError::DocumentTooLong { position, bytes: document.text.len(), bytes_max: FILE_BYTES_MAX });
    }
    if document.path.len() > PATH_BYTES_MAX {
        return Err(AddError::PathTooLong { position, bytes: document.path.len(), bytes_max: PATH_BYTES_MAX });
    }
    Ok(())
}

/// Counts one occurrence. Documents nearly always come in rising order, so the last posting is tried first.
fn post(postings: &mut Vec<Posting>, number: u32, offset_bytes: u32) {
    if postings.last().is_none_or(|last| last.document < number) {
        postings.push(Posting::first(number, offset_bytes));
        return;
    }
    match place_of(postings, number) {
        Ok(place) => postings[place].frequency += 1,
        Err(place) => postings.insert(place, Posting::first(number, offset_bytes)),
    }
}

/// Where the document's posting is, or where it belongs.
fn place_of(postings: &[Posting], number: u32) -> Result<usize, usize> {
    match postings.last() {
        Some(last) if last.document == number => Ok(postings.len() - 1),
        _ => postings.binary_search_by_key(&number, |posting| posting.document),
    }
}

/// Where each line starts; a text has at least one line, if an empty one.
fn line_starts(text: &str) -> Vec<u32> {
    let after_breaks = text.bytes().enumerate().filter(|&(_, byte)| byte == b'\n');
    let mut starts: Vec<u32> = iter::once(0).chain(after_breaks.map(|(place, _)| count(place + 1))).collect();
    starts.shrink_to_fit();
    starts
}

/// A number that the limits of this module keep far below `u32::MAX`.
fn count(number: usize) -> u32 {
    u32::try_from(number).expect("the index's limits keep counts and offsets within 32 bits")
}

#[cfg(test)]
mod tests;
