//! What the tests of this module share: batches and queries go through their archived form, as they do in a call.

use rkyv::rancor::Error;

use super::index::{AddError, ArchivedIndex, Index};
use super::messages::{
    AddBatch, AddSummary, ArchivedAddBatch, ArchivedSearchQuery, Document, SearchQuery, SearchResult,
};
use super::search::SearchError;

pub(super) fn batch_of(documents: &[(&str, &str)]) -> AddBatch {
    let document = |&(path, text): &(&str, &str)| Document { path: path.to_owned(), text: text.to_owned() };
    AddBatch { documents: documents.iter().map(document).collect() }
}

pub(super) fn archive_and_add(index: &mut Index, batch: &AddBatch) -> Result<AddSummary, AddError> {
    let bytes = rkyv::to_bytes::<Error>(batch).expect("a batch of a test can be archived");
    index.add(rkyv::access::<ArchivedAddBatch, Error>(&bytes).expect("it was just archived"))
}

pub(super) fn archive_and_search(index: &Index, text: &str, limit: u32) -> Result<SearchResult, SearchError> {
    let query = SearchQuery { text: text.to_owned(), limit };
    let bytes = rkyv::to_bytes::<Error>(&query).expect("a query can be archived");
    let index = rkyv::to_bytes::<Error>(index).expect("an index can be archived");
    let index = rkyv::access::<ArchivedIndex, Error>(&index).expect("it was just archived");
    index.search(rkyv::access::<ArchivedSearchQuery, Error>(&bytes).expect("it was just archived"))
}
