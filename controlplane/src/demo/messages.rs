//! What travels between the demo's client, its functions and its processes: typed payloads, read in place in their archived
//! form.

use rkyv::{Archive, Deserialize, Serialize};

/// One text file.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[rkyv(derive(Debug))]
pub struct Document {
    /// Name of the document in the index: its path relative to the root of the walk.
    pub path: String,
    /// The whole text.
    pub text: String,
}

/// Documents to add in one call.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq, Default)]
#[rkyv(derive(Debug))]
pub struct AddBatch {
    /// The documents; one whose path the index already holds replaces the older text.
    pub documents: Vec<Document>,
}

/// What one batch added.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Default)]
#[rkyv(derive(Debug))]
pub struct AddSummary {
    /// Documents of the batch, new and replaced.
    pub documents: u32,
    /// Distinct terms by which the index grew.
    pub terms: u32,
    /// Bytes of text in the batch.
    pub bytes: u64,
}

/// What an index holds.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Default)]
#[rkyv(derive(Debug))]
pub struct IndexSummary {
    /// Documents.
    pub documents: u32,
    /// Distinct terms.
    pub terms: u32,
    /// Occurrences of terms in all documents.
    pub tokens: u64,
    /// Bytes of text.
    pub bytes: u64,
}

/// A question: documents that contain every term of `text`, the best first.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[rkyv(derive(Debug))]
pub struct SearchQuery {
    /// Terms in any case, separated by anything that is neither a letter, a digit nor an underscore.
    pub text: String,
    /// Hits wanted; at most [`SEARCH_HITS_MAX`](super::limits::SEARCH_HITS_MAX) are given.
    pub limit: u32,
}

/// The answer to a [`SearchQuery`].
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
#[rkyv(derive(Debug))]
pub struct SearchResult {
    /// The best documents, highest score first; equal scores in the order in which documents were added.
    pub hits: Vec<Hit>,
    /// Documents that contain every term, shown or not.
    pub matches_total: u32,
}

/// One document that matches.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[rkyv(derive(Debug))]
pub struct Hit {
    /// Path of the document.
    pub path: String,
    /// BM25 score; comparable within one result only.
    pub score: f32,
    /// Line of the first occurrence of the query's rarest term, counted from 1.
    pub line_number: u32,
    /// That line: trimmed, cut around the match where it is long, control characters shown as spaces.
    pub line: String,
}

/// What to search for, and which process of the application is to have the result.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[rkyv(derive(Debug))]
pub struct SendOrder {
    /// What to search for.
    pub query: SearchQuery,
    /// Name of the process.
    pub to: String,
}

/// A search and its result: the message from one process to another.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[rkyv(derive(Debug))]
pub struct SentResult {
    /// What was searched for.
    pub query: String,
    /// What was found.
    pub result: SearchResult,
}

/// The messages that a process had.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
#[rkyv(derive(Debug))]
pub struct ReceivedResults {
    /// Each with the process that sent it, in the order in which they were sent.
    pub results: Vec<(String, SentResult)>,
}
